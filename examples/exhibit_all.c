/* exhibit_all.c: every method on one domain; NEAT beside LoRA at equal sizes. */
#include "exhibit.h"

/* ---- all ---- */

static void plan_all(plan *p) {
  static const method methods[] = {{.name = "linear probe", .probe = 1},
                                   {.name = "full fine-tuning", .full = 1},
                                   {.name = "bias (BitFit)", .adapter = "bias"},
                                   {.name = "LoRA", .adapter = RUN_ADAPTER},
                                   {.name = "DoRA", .adapter = RUN_ADAPTER " | magnitude"},
                                   {.name = "IA3", .adapter = "ia3"},
                                   {.name = "AdaLoRA", .adapter = "adalora target_r=8 init_r=12"},
                                   {.name = "MLAE", .adapter = "mlae r=8 p=0.3"},
                                   {.name = "MLAE, no masks", .adapter = "mlae r=8"},
                                   {.name = "NEAT", .adapter = "neat r=8"},
                                   {.name = "MoLoRA", .adapter = "molora n=4 k=2 r=4 alpha=8"},
                                   {.name = "MALoRA", .adapter = "malora n=4 k=2 d=8 R=6 alpha=12"},
                                   {.name = "LoRA-drop", .adapter = "lora_drop T=0.6 (" RUN_ADAPTER ")"},
                                   {.name = "GLoRA", .adapter = "glora r=4"},
                                   {.name = "GLoRA, searched", .adapter = "glora r=4 supernet=1", .passes = 4}};
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) plan_add(p, &methods[i]);
  if (p->o->adapter) plan_add(p, &(method){.name = p->o->adapter, .adapter = p->o->adapter});
}

static void show_all(report *r) {
  const plan *p = r->plan;
  char path[1100];
  report_table(r, methods_table(p->ctx, p->trials, p->n));
  report_say(
      r,
      "LoRA-drop and the searched GLoRA: parameters after the selection. Memory: while training. The supernet of the "
      "search trains\nfour times as long: a step trains one of its structures.\n\n");
  report_notes(r);
  snprintf(path, sizeof path, "%s/exhibit-%s.svg", p->o->out, r->name);
  methods_draw(p->ctx, path, "All methods on one domain", p->trials, p->n);
}

const exhibit exhibit_all = {
    .name = "all", .help = "Every method on one shifted domain", .plan = plan_all, .show = show_all};

/* ---- neat ---- */

enum { SIZES = 5 };

static void plan_neat(plan *p) {
  for (int r = 1; r <= 1 << (SIZES - 1); r *= 2) {
    plan_add_adapter(p, "LoRA", "lora r=%d alpha=%d", r, 2 * r);
    plan_add_adapter(p, "NEAT", "neat r=%d", r);
  }
}

static void show_neat(report *r) {
  static const char *const titles[] = {"r", "trainable", "LoRA %", "NEAT %", "difference", "LoRA's ms", "NEAT's ms"};
  const plan *p = r->plan;
  lk_table *table = lk_table_new(p->ctx, 7, titles);
  line lora = {.n = 0}, neat = {.n = 0};
  for (size_t i = 0; table && i + 1 < p->n; i += 2) {
    const outcome *a = &p->trials[i].out, *b = &p->trials[i + 1].out;
    const figure *f = &a->test[DOMAIN_OWN], *g = &b->test[DOMAIN_OWN];
    line_add(&lora, (double)a->trainable, f);
    line_add(&neat, (double)b->trainable, g);
    lk_table_cell(table, "%d", 1 << (i / 2));
    if (a->trainable == b->trainable) lk_table_cell(table, "%lld", (long long)a->trainable);
    else lk_table_cell(table, "%lld, %lld", (long long)a->trainable, (long long)b->trainable);
    table_figure(table, f);
    table_figure(table, g);
    lk_table_cell(table, "%+.2f", g->mean - f->mean);
    lk_table_cell(table, "%.2f", a->step_ms);
    lk_table_cell(table, "%.2f", b->step_ms);
  }
  report_table(r, table);
  const lk_series series[] = {line_series(&lora, "LoRA"), line_series(&neat, "NEAT")};
  const lk_panel panel = {.title = "NEAT and LoRA at equal parameters",
                          .x_label = "trained parameters",
                          .y_label = "test accuracy (%)",
                          .log_x = 1,
                          .nseries = 2,
                          .series = series};
  report_draw(r, NULL, 1, &panel);
}

const exhibit exhibit_neat = {
    .name = "neat", .help = "NEAT against LoRA at equal parameters", .plan = plan_neat, .show = show_neat};
