/* exhibit.h: everything that `make exhibit` shows: plans of runs, and a table and a picture for each. */
#ifndef EXHIBIT_H
#define EXHIBIT_H
#include "trial.h"

/* ---- plans ---- */

typedef struct plan {
  lk_ctx *ctx; /* of all that outlives a run */
  const settings *o;
  trial *trials;
  size_t n, capacity;
} plan;

typedef struct method {
  const char *name, *adapter; /* adapter NULL: see full, probe */
  int full, probe;
  int passes; /* 0: as --epochs says; n: n times as many */
} method;

/* A run of a method, as it would be on its own domain; NULL without memory.  Valid until the next one is added. */
trial *plan_add(plan *p, const method *m);
/* The same for an adapter, with a text made like printf's. */
trial *plan_add_adapter(plan *p, const char *name, const char *format, ...) LK_PRINTF(3, 4);
/* Runs all of it, bar showing the images done; 0, or 1 after saying what went wrong. */
int plan_run(plan *p, lk_bar *bar);
int64_t plan_images(const plan *p); /* that all runs will train on */
void plan_free(plan *p);

/* ---- what is shown ---- */

/* Text on stdout and in OUT/<name>.md, the picture in OUT/<name>.svg. */
typedef struct report {
  const plan *plan;
  const char *name;
  lk_writer *md;
} report;

void report_say(report *r, const char *format, ...) LK_PRINTF(2, 3);
void report_table(report *r, lk_table *t); /* frees t, which may be NULL */
/* "name: text" for every trial that has something to tell. */
void report_notes(report *r);
void report_draw(report *r, const char *title, int n, const lk_panel *panels);

void table_figure(lk_table *t, const figure *f); /* a cell "97.12 ± 0.30" */

/* A line of a picture. */
typedef struct line {
  double x[16], y[16], error[16];
  int64_t n;
} line;

void line_add(line *l, double x, const figure *f);
lk_series line_series(const line *l, const char *name);
lk_series points_series(const line *l, const char *name); /* without the line */

/* Table and picture of methods side by side: accuracy against size, and losses. */
lk_table *methods_table(lk_ctx *ctx, const trial *t, size_t n);
lk_status methods_draw(lk_ctx *ctx, const char *path, const char *title, const trial *t, size_t n);

/* ---- the exhibits ---- */

typedef struct exhibit {
  const char *name, *help;
  void (*plan)(plan *p);
  void (*show)(report *r);
} exhibit;

extern const exhibit exhibit_all, exhibit_tasks, exhibit_ranks, exhibit_shots, exhibit_shift, exhibit_neat;
#define EXHIBIT_WORDS "none|all|tasks|ranks|shots|shift|neat|everything"

/* The exhibit that o->exhibit names, or everything; 0, or 1 after saying what went wrong. */
int exhibit_run(const settings *o);
void exhibit_help(FILE *to);

#endif
