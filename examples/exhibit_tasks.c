/* exhibit_tasks.c: several domains learned at once: who gains, who loses; and what more rank does to a mixture. */
#include "exhibit.h"

#include <math.h>

enum { FIRST = DOMAIN_INVERTED, TASKS = DOMAINS - FIRST };

static void set_mixed(trial *t, int64_t images) {
  if (t) t->domains = (domain_choice){.train = DOMAINS_SHIFTED, .test = DOMAINS_SHIFTED, .images = images};
}

/* ---- tasks ---- */

/* Four experts of rank 4 and their routers are as many parameters as LoRA of rank 18; MALoRA, by its design rule (see
 * plan_ranks), some more. */
#define LORA "lora r=18 alpha=36"
static const method mixed[] = {{.name = "LoRA", .adapter = LORA},
                               {.name = "MoLoRA", .adapter = "molora n=4 k=2 r=4 alpha=8"},
                               {.name = "MALoRA", .adapter = "malora n=4 k=2 d=8 R=6 alpha=12"}};
enum { MIXED = sizeof mixed / sizeof *mixed };

static void plan_tasks(plan *p) {
  int64_t images = (p->o->source.train + 1) / 2;
  for (int i = 0; i < MIXED; i++) set_mixed(plan_add(p, &mixed[i]), images);
  for (int d = FIRST; d < DOMAINS; d++) {
    trial *alone = plan_add_adapter(p, "LoRA for each", LORA);
    if (alone) alone->domains = (domain_choice){.train = DOMAIN_BIT(d), .test = DOMAIN_BIT(d), .images = images};
  }
}

/* Accuracy of a domain's own adapter. */
static const figure *alone(const plan *p, int domain) { return &p->trials[MIXED + domain - FIRST].out.test[domain]; }

/* Seed by seed, what learning together changes in a domain. */
static figure seesaw(const plan *p, int method, int domain) {
  const figure *together = &p->trials[method].out.test[domain], *own = alone(p, domain);
  figure f = {.mean = 0};
  for (int64_t k = 0; k < p->o->seeds; k++) f.of[k] = together->of[k] - own->of[k];
  figure_summarise(&f, p->o->seeds);
  return f;
}

static void add_mixed_row(lk_table *t, const plan *p, int i) {
  const trial *m = &p->trials[i];
  figure all = trial_average(m, DOMAINS_SHIFTED, p->o->seeds);
  double worst = HUGE_VAL;
  lk_table_cell(t, "%s", m->name);
  lk_table_cell(t, "%lld", (long long)m->out.trainable);
  for (int d = FIRST; d < DOMAINS; d++) {
    figure change = seesaw(p, i, d);
    worst = fmin(worst, change.mean);
    lk_table_cell(t, "%.2f (%+.2f)", m->out.test[d].mean, change.mean);
  }
  table_figure(t, &all);
  lk_table_cell(t, "%+.2f", worst);
}

static void add_alone_row(lk_table *t, const plan *p) {
  figure all = {.mean = 0};
  lk_table_cell(t, "LoRA for each");
  lk_table_cell(t, "%d x %lld", TASKS, (long long)p->trials[MIXED].out.trainable);
  for (int d = FIRST; d < DOMAINS; d++) {
    lk_table_cell(t, "%.2f", alone(p, d)->mean);
    for (int64_t k = 0; k < p->o->seeds; k++) all.of[k] += alone(p, d)->of[k] / TASKS;
  }
  figure_summarise(&all, p->o->seeds);
  table_figure(t, &all);
  lk_table_cell(t, "-");
}

static void draw_tasks(report *r) {
  const plan *p = r->plan;
  line accuracy[MIXED + 1] = {{.n = 0}}, change[MIXED] = {{.n = 0}};
  lk_series left[MIXED + 1], right[MIXED];
  for (int d = FIRST; d < DOMAINS; d++) line_add(&accuracy[MIXED], d - FIRST + 1, alone(p, d));
  left[MIXED] = points_series(&accuracy[MIXED], "LoRA for each");
  for (int i = 0; i < MIXED; i++) {
    for (int d = FIRST; d < DOMAINS; d++) {
      figure f = seesaw(p, i, d);
      line_add(&accuracy[i], d - FIRST + 1 + .06 * (i + 1), &p->trials[i].out.test[d]);
      line_add(&change[i], d - FIRST + 1 + .06 * i, &f);
    }
    left[i] = points_series(&accuracy[i], mixed[i].name);
    right[i] = points_series(&change[i], mixed[i].name);
  }
  const char *domains = "1 inverted, 2 rotated, 3 cluttered, 4 noisy";
  const lk_panel panels[] = {{.title = "Four domains at once",
                              .x_label = domains,
                              .y_label = "test accuracy (%)",
                              .nseries = MIXED + 1,
                              .series = left},
                             {.title = "The seesaw",
                              .x_label = domains,
                              .y_label = "together minus alone (points)",
                              .nseries = MIXED,
                              .series = right}};
  report_draw(r, NULL, 2, panels);
}

static void show_tasks(report *r) {
  static const char *const titles[] = {"method",    "trainable", "inverted", "rotated",
                                       "cluttered", "noisy",     "mean %",   "largest loss"};
  const plan *p = r->plan;
  lk_table *t = lk_table_new(p->ctx, 8, titles);
  for (int i = 0; t && i < MIXED; i++) add_mixed_row(t, p, i);
  if (t) add_alone_row(t, p);
  report_table(r, t);
  report_say(r,
             "One adapter for four domains, %lld training images of each, and in brackets the difference to an adapter "
             "of the\ndomain's own: the seesaw between tasks. Largest loss: the lowest of these.\n\n",
             (long long)p->trials[0].domains.images);
  report_notes(r);
  draw_tasks(r);
}

const exhibit exhibit_tasks = {
    .name = "tasks", .help = "Four domains learned at once", .plan = plan_tasks, .show = show_tasks};

/* ---- ranks ---- */

enum { RANKS = 4, EXPERTS = 4, PART = 25, LEAST = 10 };

/* MALoRA's design rule with lambda = 1/2: d = r N / 2, R = 3 r / 2. */
static void plan_ranks(plan *p) {
  int64_t few = p->o->source.train / PART > LEAST ? p->o->source.train / PART : LEAST;
  for (int i = 0; i < 2 * RANKS; i++) {
    int r = 2 << (i / 2), R = 3 * r / 2, d = r * EXPERTS / 2;
    trial *t = i % 2 ? plan_add_adapter(p, "MALoRA", "malora n=%d k=2 d=%d R=%d alpha=%d", EXPERTS, d, R, 2 * R)
                     : plan_add_adapter(p, "MoLoRA", "molora n=%d k=2 r=%d alpha=%d", EXPERTS, r, 2 * r);
    set_mixed(t, few);
    if (!t) return;
    t->augment = 0;
    t->domains.least = p->o->source.train;
  }
}

static void show_ranks(report *r) {
  static const char *const titles[] = {"method", "rank", "trainable", "test %", "training %"};
  const plan *p = r->plan;
  lk_table *t = lk_table_new(p->ctx, 5, titles);
  line test[2] = {{.n = 0}}, train[2] = {{.n = 0}};
  for (size_t k = 0; t && k < p->n; k++) {
    size_t i = k / RANKS + 2 * (k % RANKS); /* one method after the other */
    const trial *m = &p->trials[i];
    int rank = (2 << (i / 2)) + (i % 2 ? 1 << (i / 2) : 0);
    figure f = trial_average(m, DOMAINS_SHIFTED, p->o->seeds);
    lk_table_cell(t, "%s", m->name);
    lk_table_cell(t, "%d", rank);
    lk_table_cell(t, "%lld", (long long)m->out.trainable);
    table_figure(t, &f);
    table_figure(t, &m->out.train);
    line_add(&test[i % 2], rank, &f);
    line_add(&train[i % 2], rank, &m->out.train);
  }
  report_table(r, t);
  report_say(r,
             "%lld training images of each of four domains, not augmented, gone through again and again; accuracies "
             "are means over the domains.\n",
             (long long)p->trials[0].domains.images);
  const lk_series left[] = {line_series(&test[0], "MoLoRA"), line_series(&test[1], "MALoRA")};
  const lk_series right[] = {line_series(&train[0], "MoLoRA"), line_series(&train[1], "MALoRA")};
  lk_panel panels[] = {{.title = "Test images", .series = left}, {.title = "Training images", .series = right}};
  for (int i = 0; i < 2; i++) {
    panels[i].x_label = "rank of an expert";
    panels[i].y_label = "accuracy (%)";
    panels[i].log_x = 1;
    panels[i].nseries = 2;
  }
  report_draw(r, NULL, 2, panels);
}

const exhibit exhibit_ranks = {
    .name = "ranks", .help = "Mixtures of rising rank on few images", .plan = plan_ranks, .show = show_ranks};
