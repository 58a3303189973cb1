/* exhibit_shots.c: few images of each class; one domain learned, the others tested. */
#include "exhibit.h"

static const method methods[] = {{.name = "linear probe", .probe = 1},
                                 {.name = "LoRA", .adapter = RUN_ADAPTER},
                                 {.name = "GLoRA, searched", .adapter = "glora r=4 supernet=1", .passes = 4}};
enum { METHODS = sizeof methods / sizeof *methods, CLASSES = 10 };

/* Series and their lines of one panel. */
typedef struct curves {
  line lines[METHODS];
  lk_series series[METHODS];
} curves;

static void name_curves(curves *c, lk_series series(const line *l, const char *name)) {
  for (int m = 0; m < METHODS; m++) c->series[m] = series(&c->lines[m], methods[m].name);
}

/* ---- shots ---- */

enum { SHOTS = 5 }; /* 1, 2, 4, 8, 16 */

static void plan_shots(plan *p) {
  for (int i = 0; i < SHOTS * METHODS; i++) {
    trial *t = plan_add(p, &methods[i % METHODS]);
    if (!t) return;
    t->domains.images = CLASSES * (1 << (i / METHODS));
    t->domains.least = p->o->source.train;
  }
}

static void show_shots(report *r) {
  static const char *const titles[] = {"images a class", "linear probe %", "LoRA %", "GLoRA, searched %",
                                       "GLoRA's parameters"};
  const plan *p = r->plan;
  lk_table *table = lk_table_new(p->ctx, 5, titles);
  curves c = {.lines = {{.n = 0}}};
  for (size_t i = 0; table && i < p->n; i++) {
    const outcome *o = &p->trials[i].out;
    if (i % METHODS == 0) lk_table_cell(table, "%d", 1 << (i / METHODS));
    table_figure(table, &o->test[DOMAIN_OWN]);
    if (i % METHODS == METHODS - 1) lk_table_cell(table, "%lld", (long long)o->trainable);
    line_add(&c.lines[i % METHODS], 1 << (i / METHODS), &o->test[DOMAIN_OWN]);
  }
  report_table(r, table);
  report_say(r, "A method takes the same number of steps in all rows: few images are gone through again and again. The "
                "supernet takes four\ntimes as many: a step trains one of its structures.\n");
  name_curves(&c, line_series);
  const lk_panel panel = {.title = "Few images of each class",
                          .x_label = "training images of a class",
                          .y_label = "test accuracy (%)",
                          .log_x = 1,
                          .nseries = METHODS,
                          .series = c.series};
  report_draw(r, NULL, 1, &panel);
}

const exhibit exhibit_shots = {
    .name = "shots", .help = "From 1 to 16 images of each class", .plan = plan_shots, .show = show_shots};

/* ---- shift ---- */

enum { FIRST = DOMAIN_INVERTED, TRAINED = DOMAINS - FIRST };
#define ALL_TESTS (DOMAINS_SHIFTED | DOMAIN_BIT(DOMAIN_PLAIN))

static void plan_shift(plan *p) {
  for (int i = 0; i < TRAINED * METHODS; i++) {
    trial *t = plan_add(p, &methods[i % METHODS]);
    if (t) t->domains = (domain_choice){.train = DOMAIN_BIT(FIRST + i / METHODS), .test = ALL_TESTS};
  }
}

static void show_shift(report *r) {
  static const char *const titles[] = {"trained on", "method",    "plain", "inverted",
                                       "rotated",    "cluttered", "noisy", "mean of the others %"};
  const plan *p = r->plan;
  lk_table *table = lk_table_new(p->ctx, 8, titles);
  curves home = {.lines = {{.n = 0}}}, abroad = {.lines = {{.n = 0}}};
  for (int i = 0; table && i < (int)p->n; i++) {
    const trial *t = &p->trials[i];
    int own = FIRST + i / METHODS, m = i % METHODS;
    figure others = trial_average(t, ALL_TESTS & ~DOMAIN_BIT(own), p->o->seeds);
    if (m == 0 && i) lk_table_rule(table);
    lk_table_cell(table, "%s", m ? "" : domain_names[own]);
    lk_table_cell(table, "%s", t->name);
    for (int d = DOMAIN_PLAIN; d < DOMAINS; d++) lk_table_cell(table, "%.2f", t->out.test[d].mean);
    table_figure(table, &others);
    line_add(&home.lines[m], own - FIRST + 1 + .06 * m, &t->out.test[own]);
    line_add(&abroad.lines[m], own - FIRST + 1 + .06 * m, &others);
  }
  report_table(r, table);
  report_say(
      r, "The search sees validation images of the domain trained on, of no other. Its supernet trains four times as "
         "long.\n");
  name_curves(&home, points_series);
  name_curves(&abroad, points_series);
  lk_panel panels[] = {{.title = "On the domain trained on", .series = home.series},
                       {.title = "Mean of the other domains", .series = abroad.series}};
  for (int i = 0; i < 2; i++) {
    panels[i].x_label = "trained on 1 inverted, 2 rotated, 3 cluttered, 4 noisy";
    panels[i].y_label = "test accuracy (%)";
    panels[i].nseries = METHODS;
  }
  report_draw(r, NULL, 2, panels);
}

const exhibit exhibit_shift = {
    .name = "shift", .help = "Trained on one domain, tested on the others", .plan = plan_shift, .show = show_shift};
