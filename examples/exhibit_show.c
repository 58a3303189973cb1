/* exhibit_show.c: tables, lines and notes that several exhibits share. */
#include "exhibit.h"

#include <math.h>
#include <string.h>

enum { PER_PANEL = 8, POINTS = 60, MOST = 32, WRAP = 110 };

void table_figure(lk_table *t, const figure *f) {
  if (isnan(f->deviation)) lk_table_cell(t, "%.2f", f->mean);
  else lk_table_cell(t, "%.2f ± %.2f", f->mean, f->deviation);
}

/* ---- lines ---- */

void line_add(line *l, double x, const figure *f) {
  if (l->n == (int64_t)(sizeof l->x / sizeof *l->x)) return;
  l->x[l->n] = x;
  l->y[l->n] = f->mean;
  l->error[l->n++] = f->deviation;
}

lk_series line_series(const line *l, const char *name) {
  return (lk_series){.name = name, .style = LK_SERIES_BOTH, .n = l->n, .x = l->x, .y = l->y, .error = l->error};
}

lk_series points_series(const line *l, const char *name) {
  lk_series s = line_series(l, name);
  s.style = LK_SERIES_POINTS;
  return s;
}

/* ---- methods side by side ---- */

lk_table *methods_table(lk_ctx *ctx, const trial *t, size_t n) {
  static const char *const titles[] = {"method",    "trainable", "test accuracy %",
                                       "ms a step", "memory MB", "|merged - unmerged|"};
  lk_table *table = lk_table_new(ctx, 6, titles);
  for (size_t i = 0; table && i < n; i++) {
    const outcome *o = &t[i].out;
    lk_table_cell(table, "%s", t[i].name);
    lk_table_cell(table, "%lld", (long long)o->trainable);
    table_figure(table, &o->test[DOMAIN_OWN]);
    lk_table_cell(table, "%.2f", o->step_ms);
    lk_table_cell(table, "%.1f", o->peak_mb);
    if (o->routed) lk_table_cell(table, "routed");
    else if (isnan(o->merged_change)) lk_table_cell(table, "-");
    else lk_table_cell(table, "%.1e", o->merged_change);
  }
  return table;
}

/* Means over runs of `window` steps: single losses are noise. */
static int64_t smooth(const outcome *o, double *x, double *y) {
  int64_t window = (o->nlosses + POINTS - 1) / POINTS, n = 0;
  for (int64_t i = 0; i + window <= o->nlosses && window; i += window, n++) {
    y[n] = 0;
    for (int64_t k = 0; k < window; k++) y[n] += o->losses[i + k] / (double)window;
    x[n] = (double)i + 0.5 * (double)window;
  }
  return n;
}

/* One panel for the accuracies, and one for the losses of every eight methods. */
lk_status methods_draw(lk_ctx *ctx, const char *path, const char *title, const trial *t, size_t n) {
  static double x[MOST][POINTS], y[MOST][POINTS], size[MOST];
  static const char *names[MOST];
  lk_series accuracy[MOST], loss[MOST];
  lk_panel panels[1 + MOST / PER_PANEL] = {{.title = "Accuracy against size",
                                            .x_label = "trained parameters",
                                            .y_label = "test accuracy (%)",
                                            .log_x = 1,
                                            .series = accuracy}};
  int used = 1;
  n = n < MOST ? n : MOST;
  panels[0].nseries = (int)n;
  for (size_t i = 0; i < n; i++) {
    const figure *f = &t[i].out.test[DOMAIN_OWN];
    int color = (int)i % PER_PANEL + 1;
    size[i] = (double)t[i].out.trainable;
    names[i] = t[i].name;
    accuracy[i] = (lk_series){.style = LK_SERIES_POINTS, .color = color, .n = 1, .x = &size[i], .y = &f->mean};
    accuracy[i].error = &f->deviation;
    accuracy[i].labels = &names[i];
    loss[i] = (lk_series){.name = t[i].name, .style = LK_SERIES_LINE, .color = color, .x = x[i], .y = y[i]};
    loss[i].n = smooth(&t[i].out, x[i], y[i]);
    if (i % PER_PANEL == 0)
      panels[used++] = (lk_panel){.title = "Training loss",
                                  .x_label = "step",
                                  .y_label = "loss, with the method's own term",
                                  .log_y = 1,
                                  .series = &loss[i]};
    panels[used - 1].nseries++;
  }
  return lk_svg_write(ctx, path, title, used, panels);
}

/* ---- notes ---- */

/* A long line broken after commas. */
static void say_wrapped(report *r, const char *text, size_t length) {
  while (length > WRAP) {
    size_t cut = WRAP;
    while (cut > 1 && !(text[cut - 1] == ',' && text[cut] == ' ')) cut--;
    if (cut == 1) break;
    report_say(r, "%.*s\n  ", (int)cut, text);
    text += cut + 1;
    length -= cut + 1;
  }
  report_say(r, "%.*s\n", (int)length, text);
}

void report_notes(report *r) {
  for (size_t i = 0; i < r->plan->n; i++) {
    const char *text = r->plan->trials[i].out.notes;
    for (; text && *text; text += strcspn(text, "\n"), text += *text == '\n') {
      report_say(r, "- %s: ", r->plan->trials[i].name);
      say_wrapped(r, text, strcspn(text, "\n"));
    }
  }
}
