/* compare.c: adapts one pretrained vision transformer to a shifted domain in several ways, and compares them.
 *
 * A small ViT is trained on drawn digits (kept in OUT/pretrained and used again), then adapted to digits that look
 * different, or to real images with --data: a linear probe, full fine-tuning, LoRA and DoRA, each from several
 * seeds.  The result is a table and a picture, OUT/compare.svg; OUT/lora is LoRA's adapter as a PEFT directory.
 * What is kept of a run is what was best on validation images; test images decide nothing.
 * That is the demo.  --exhibit shows much more: exhibit.h. */
#include "exhibit.h"

static const option options[] = {
    {"out", OPTION_TEXT, offsetof(settings, out), 0, 0, "DIR", "where results go"},
    {"exhibit", OPTION_WORD, offsetof(settings, exhibit), 0, 0, EXHIBIT_WORDS, "what to show instead; see below"},
    {"model", OPTION_TEXT, offsetof(settings, preset), 0, 0, "PRESET", "what is pretrained"},
    {"pretrain-epochs", OPTION_INT, offsetof(settings, pretrain_epochs), 1, 1000, "N", "passes of pretraining"},
    {"pretrain-images", OPTION_INT, offsetof(settings, pretrain_images), 100, 1e6, "N", "drawn for pretraining"},
    {"seeds", OPTION_INT, offsetof(settings, seeds), 1, MAX_SEEDS, "N", "runs of each method"},
    {"adapter", OPTION_TEXT, offsetof(settings, adapter), 0, 0, "SPEC", "one more method to compare"},
    {"targets", OPTION_TEXT, offsetof(settings, train.targets), 0, 0, "PATTERNS", "layers that adapters adapt"},
    {"threads", OPTION_INT, offsetof(settings, threads), 0, 64, "N", "0: one per core"},
    {"quiet", OPTION_FLAG, offsetof(settings, quiet), 0, 0, NULL, "no progress"},
    {0}};

static settings defaults(void) {
  settings o = {.out = "demo", .preset = "vit-tiny-28", .seeds = 2, .pretrain_epochs = 8, .pretrain_images = 8000};
  o.source = run_source_defaults();
  o.source.domain = "inverted+rotated";
  o.source.train = 1000;
  o.train = run_defaults();
  o.train.epochs = 8;
  o.train.targets = "all-linear";
  o.train.population = 12;
  o.train.generations = 4;
  return o;
}

/* ---- the demo ---- */

static lk_status plan_demo(plan *p) {
  const method methods[] = {{.name = "linear probe", .probe = 1},
                            {.name = "full fine-tuning", .full = 1},
                            {.name = "LoRA", .adapter = RUN_ADAPTER},
                            {.name = "DoRA", .adapter = RUN_ADAPTER " | magnitude"},
                            {.name = p->o->adapter, .adapter = p->o->adapter}};
  for (int i = 0; i < 4 + (p->o->adapter != NULL); i++) {
    trial *t = plan_add(p, &methods[i]);
    if (t && i == 2) t->saved_as = "lora";
  }
  return lk_error(p->ctx, NULL);
}

static void show_demo(const plan *p) {
  const settings *o = p->o;
  char path[1100], title[200];
  snprintf(path, sizeof path, "%s/compare.svg", o->out);
  snprintf(title, sizeof title, "%s from drawn digits to %s, %lld training images, %lld seeds", o->preset,
           o->source.directory ? "real images" : o->source.domain, (long long)o->source.train, (long long)o->seeds);
  lk_table *t = methods_table(p->ctx, p->trials, p->n);
  if (t) lk_table_print(t, stdout);
  lk_table_free(t);
  if (!methods_draw(p->ctx, path, title, p->trials, p->n))
    printf("picture: %s\nLoRA's adapter for PEFT: %s/lora\n", path, o->out);
}

static int demo(const settings *o) {
  session s = {.ctx = lk_ctx_new(NULL)};
  plan p = {.ctx = s.ctx, .o = o};
  lk_bar none = {.to = NULL}; /* every run has a line of its own */
  lk_bar_start(&none);
  int failed = !s.ctx || pretrain(o) || plan_demo(&p) || plan_run(&p, &none);
  if (!failed) show_demo(&p);
  if (s.ctx) plan_free(&p);
  return session_close(&s) | failed;
}

int main(int argc, char **argv) {
  settings o = defaults();
  const option_group groups[] = {{"Comparison", options, &o},
                                 {"Data to adapt to", run_source_options, &o.source},
                                 {"Training", run_training_options, &o.train},
                                 {0}};
  switch (options_parse("compare", groups, argc, argv)) {
  case OPTIONS_WRONG:
    return 1;
  case OPTIONS_HELP:
    printf("usage: compare [options]\nAdapts a pretrained vision transformer in several ways and compares them.\n\n");
    options_help(groups, stdout);
    exhibit_help(stdout);
    return 0;
  default:
    return o.exhibit ? exhibit_run(&o) : demo(&o);
  }
}
