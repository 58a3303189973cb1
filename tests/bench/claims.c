/* claims.c: the papers' claims, measured side by side in one run: --speed (steps of one layer) and --quality (what
 * training gives, on digits).  Each claim is printed with its numbers and with "holds" or "does not hold". */
#include "claims.h"

#include <stdarg.h>

static const option options[] = {
    {"speed", OPTION_FLAG, offsetof(claims, speed), 0, 0, NULL, "times of steps; the default"},
    {"quality", OPTION_FLAG, offsetof(claims, quality), 0, 0, NULL,
     "accuracies, similarity of experts, structures found"},
    {"threads", OPTION_INT, offsetof(claims, threads), 0, 64, "N", "0: one per core"},
    {0}};

static const option speed_options[] = {
    {"dim", OPTION_INT, offsetof(claims, dim), 16, 1 << 14, "N", "inputs and outputs of the layer"},
    {"tokens", OPTION_TEXT, offsetof(claims, tokens), 0, 0, "LIST", "rows of a step, one measurement after another"},
    {"pairs", OPTION_INT, offsetof(claims, pairs), 1, 1e4, "N", "steps of each of two methods"},
    {"cpu", OPTION_FLAG, offsetof(claims, cpu), 0, 0, NULL, "CPU time of all threads instead of wall time"},
    {"first", OPTION_FLAG, offsetof(claims, first), 0, 0, NULL, "a network's first layer: its input wants no gradient"},
    {"table", OPTION_FLAG, offsetof(claims, table), 0, 0, NULL, "more methods beside LoRA"},
    {0}};

static const option quality_options[] = {
    {"model", OPTION_TEXT, offsetof(claims, model), 0, 0, "DIR", "pretrained model; made there if there is none"},
    {"keep", OPTION_INT, offsetof(claims, keep), 1, 1000, "N", "layers of each type that LoRA-drop keeps"},
    {"seeds", OPTION_INT, offsetof(claims, seeds), 1, 10, "N", "runs of each method"},
    {0}};

void claim_say(int holds, const char *why, const char *format, ...) {
  va_list list;
  va_start(list, format);
  printf("* ");
  vprintf(format, list);
  printf(": %s\n    %s\n", holds ? "holds" : "DOES NOT HOLD", why);
  fflush(stdout);
  va_end(list);
}

static claims defaults(void) {
  claims o = {.seeds = 3, .dim = 1024, .pairs = 60, .tokens = "512,1024,2048", .model = "exhibit/claims", .keep = 1};
  o.source = run_source_defaults();
  o.source.domain = "inverted+rotated";
  o.source.train = 1000;
  o.train = run_defaults();
  o.train.epochs = 8;
  o.train.population = 12;
  o.train.generations = 4;
  return o;
}

int main(int argc, char **argv) {
  claims o = defaults();
  const option_group groups[] = {{"What", options, &o},
                                 {"Speed", speed_options, &o},
                                 {"Quality", quality_options, &o},
                                 {"Data of quality", run_source_options, &o.source},
                                 {"Training", run_training_options, &o.train},
                                 {0}};
  switch (options_parse("claims", groups, argc, argv)) {
  case OPTIONS_WRONG:
    return 1;
  case OPTIONS_HELP:
    printf("usage: claims [--speed] [--quality] [options]\nMeasures what papers claim of their methods.\n\n");
    options_help(groups, stdout);
    return 0;
  default:
    return ((o.speed || !o.quality) && claims_speed(&o)) || (o.quality && claims_quality(&o));
  }
}
