/* inspect.c: what is in a model directory: config, modules with their tensors, tokenizer, adapters, and which layers a
 * pattern matches.  Nothing but headers is read, so that a model of any size is shown at once.
 *
 *   inspect DIR
 *   inspect DIR --targets q_proj,v_proj --adapter my/adapter
 *
 * Exit status 0, or 1 on an error. */
#include "inspect.h"

#include "options.h"

#include <stdio.h>
#include <string.h>

#define NAME "inspect"

typedef struct settings {
  const char *targets, *spec;
  option_list adapters;
  int task, help;
} settings;

#define PLACE(name) offsetof(settings, name)

static const option options[] = {
    {"task", OPTION_WORD, PLACE(task), 0, 0, "auto|classify|lm|masked_lm|embed",
     "which head; auto: as the config says"},
    {"targets", OPTION_TEXT, PLACE(targets), 0, 0, "PATTERNS", "show which layers these match: q_proj,v_proj"},
    {"spec", OPTION_TEXT, PLACE(spec), 0, 0, "SPEC", "the adapter that --targets counts"},
    {"adapter", OPTION_LIST, PLACE(adapters), 0, 0, "DIR",
     "show an adapter directory, too; may be given several times"},
    {"help", OPTION_FLAG, PLACE(help), 0, 0, NULL, "show this"},
    {0}};

/* The task that architectures' first name tells: "BertForSequenceClassification". */
static lk_task guess_task(const lk_json *config) {
  static const struct {
    const char *part;
    lk_task task;
  } table[] = {{"Classification", LK_TASK_CLASSIFY}, {"MaskedLM", LK_TASK_MASKED_LM}, {"LM", LK_TASK_LM}};
  const char *name = "", *type = "";
  lk_json_is_string(lk_json_at(lk_json_get(config, "architectures"), 0), &name);
  lk_json_is_string(lk_json_get(config, "model_type"), &type);
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (strstr(name, table[i].part)) return table[i].task;
  return strstr(type, "bert") ? LK_TASK_EMBED : LK_TASK_LM;
}

/* Modules without memory; the prefix of tensor names that files may leave out. */
static const char *build(lk_model *model, const char *directory, const lk_json *config, const settings *s) {
  lk_ctx *c = lk_model_ctx(model);
  const char *type = "";
  lk_json_is_string(lk_json_get(config, "model_type"), &type);
  if (!strcmp(type, "vit")) {
    lk_vit_config vit;
    if (!lk_vit_config_from_json(c, config, &vit)) lk_vit_new(model, &vit);
    return "vit.";
  }
  const lk_pretrained_options o = {.task = s->task ? (lk_task)(s->task - 1) : guess_task(config)};
  const lk_pretrained *p = lk_pretrained_open(model, directory, &o);
  return p ? p->prefix : NULL;
}

static void print_totals(lk_model *model, const inspect_files *f) {
  int64_t n = lk_parameter_count(model);
  printf("\n  %-34s %s\n", "parameters", inspect_number(n));
  printf("  %-34s %s\n", "bytes in single precision", inspect_number(4 * n));
  printf("  %-34s %s, with %s tensors in %s bytes\n", "files", inspect_number((int64_t)f->n),
         inspect_number((int64_t)inspect_files_count(f)), inspect_number((int64_t)inspect_files_bytes(f)));
}

static lk_status print_matches(lk_model *model, const settings *s) {
  lk_ctx *c = lk_model_ctx(model);
  char *text = lk_attach_dry_run(model, &(lk_attach_options){.spec = s->spec, .targets = s->targets});
  if (text) printf("\n%s\n%s", s->spec, text);
  lk_free(c, text);
  return lk_error(c, NULL);
}

static lk_status show(lk_model *model, const char *directory, const lk_json *config, const settings *s) {
  lk_ctx *c = lk_model_ctx(model);
  inspect_files f = {0};
  const char *prefix = build(model, directory, config, s);
  if (!lk_error(c, NULL) && !inspect_files_open(c, directory, &f)) {
    printf("config\n");
    inspect_config(c, config);
    printf("\nmodules\n");
    inspect_modules(model, &f, prefix);
    print_totals(model, &f);
    inspect_tokenizer(c, directory);
    for (int i = 0; i < s->adapters.n && !lk_error(c, NULL); i++) inspect_adapter(c, s->adapters.item[i]);
    if (s->targets && !lk_error(c, NULL)) print_matches(model, s);
  }
  inspect_files_close(c, &f);
  return lk_error(c, NULL);
}

static lk_status work(lk_ctx *c, const char *directory, const settings *s) {
  char *path = lk_sprintf(c, "%s/config.json", directory);
  lk_json *config = path ? lk_json_read(c, path) : NULL;
  lk_model *model = config ? lk_model_new(c, LK_F32, LK_SHAPES_ONLY) : NULL;
  if (model && !show(model, directory, config, s) && fflush(stdout))
    lk_fail(c, LK_EIO, "cannot write to standard output");
  lk_model_free(model);
  lk_json_free(config);
  lk_free(c, path);
  return lk_error(c, NULL);
}

static int help(const option_group *groups) {
  printf("Usage: " NAME " DIR [options]\nShows what is in a model directory.\n");
  options_help(groups, stdout);
  return fflush(stdout) || ferror(stdout);
}

int main(int argc, char **argv) {
  settings s = {.spec = "lora r=8"};
  const option_group groups[] = {{"Options", options, &s}, {0}};
  const char *directory = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL;
  options_outcome outcome = options_parse(NAME, groups, directory ? argc - 1 : argc, directory ? argv + 1 : argv);
  if (outcome == OPTIONS_HELP) return help(groups);
  if (outcome == OPTIONS_WRONG) return 1;
  if (!directory) return fprintf(stderr, NAME ": a directory is needed, before any option (see --help)\n") < 0 || 1;
  lk_ctx *ctx = lk_ctx_new(NULL);
  const char *message = "out of memory";
  lk_status bad = ctx ? work(ctx, directory, &s) : LK_ENOMEM;
  if (ctx) lk_error(ctx, &message);
  if (bad) fprintf(stderr, NAME ": %s\n", message);
  if (ctx) lk_warnings_clear(ctx);
  lk_ctx_free(ctx);
  return bad ? 1 : 0;
}
