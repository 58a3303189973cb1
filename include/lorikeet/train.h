/* train.h: what a training program shows and records: progress, metrics, tables. */
#ifndef LORIKEET_TRAIN_H
#define LORIKEET_TRAIN_H
#include <lorikeet/ctx.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- progress ----
 * The one part of the library that prints, and only to the stream that the program gave: on a terminal one line that
 * is redrawn, elsewhere a plain line now and then.  It allocates nothing and ignores write errors.
 *
 *   lk_bar bar = {.to = stderr, .label = "train", .total = steps};
 *   lk_bar_start(&bar);
 *   for (...) lk_bar_update(&bar, step + 1, "loss %.4f", loss);
 *   lk_bar_finish(&bar);                                                                                        */
typedef enum lk_bar_style {
  LK_BAR_AUTO, /* LINE if `to` is a terminal, else PLAIN */
  LK_BAR_LINE,
  LK_BAR_PLAIN
} lk_bar_style;

typedef struct lk_bar {
  /* set these before lk_bar_start; zero means the default */
  FILE *to;                    /* NULL: nothing is written */
  const char *label;           /* first on the line; none */
  const char *unit;            /* of the rate; "steps" */
  double per_step;             /* units a step, as the batch size with unit "images"; 1 */
  int64_t total;               /* steps; 0: unknown, no bar, no ETA */
  int64_t first;               /* steps done before, when resuming: not part of the rate */
  lk_bar_style style;          /* */
  int ascii;                   /* no characters beyond ASCII */
  int width;                   /* columns; those of the terminal, or 80 */
  double interval;             /* seconds between two lines; 0.1 for LINE, 5 for PLAIN */
  double (*clock)(void *user); /* seconds, never going back; the system's monotonic clock */
  void *user;                  /* for clock */
  /* the bar's own */
  double started, drawn;
  int64_t step, drawn_step;
  int length;
  char text[160];
} lk_bar;

LK_API void lk_bar_start(lk_bar *bar);
/* `step` steps are done.  The formatted text (loss, accuracy ...) stands beside the bar.  Cheap: draws only when the
 * interval is over, and at the last step. */
LK_API void lk_bar_update(lk_bar *bar, int64_t step, const char *format, ...) LK_PRINTF(3, 4);
/* Removes the line, so that the program can print something of its own; the next update draws it again. */
LK_API void lk_bar_clear(lk_bar *bar);
/* Draws the last state if it was not drawn yet, and ends the line. */
LK_API void lk_bar_finish(lk_bar *bar);

/* ---- metrics: JSON lines ---- */
/* A file with one JSON object a line; every finished line is flushed, so a crash loses at most the one being made.
 * NaN and infinities are written as null.  Keys must differ within a line. */
typedef struct lk_metrics lk_metrics;

/* Opens a file: append 0 empties it; 1 continues it (a last line without its end, as a crash leaves it, is removed
 * with a warning).  NULL on error. */
LK_API lk_metrics *lk_metrics_open(lk_ctx *ctx, const char *path, int append);
LK_API lk_status lk_metrics_int(lk_metrics *m, const char *key, int64_t value);
LK_API lk_status lk_metrics_real(lk_metrics *m, const char *key, double value);
LK_API lk_status lk_metrics_string(lk_metrics *m, const char *key, const char *value); /* UTF-8 */
/* Writes the line and begins a new one.  LK_EIO when the system refuses, as on a full disk. */
LK_API lk_status lk_metrics_end(lk_metrics *m);
/* Closes; an unfinished line is dropped.  m may be NULL. */
LK_API lk_status lk_metrics_close(lk_metrics *m);

/* ---- tables of text ---- */
typedef struct lk_table lk_table;

/* Columns of text; titles is copied.  A column whose cells are numbers ("12", "-3.5", "97.1 ± 0.2", "1e-5 s") is
 * set flush right, others left; empty cells and "-" are both.  One code point counts as one column.  NULL on error. */
LK_API lk_table *lk_table_new(lk_ctx *ctx, int columns, const char *const *titles);
LK_API void lk_table_free(lk_table *t); /* t may be NULL */
/* The next cell; rows fill from the left.  The text must not contain line breaks. */
LK_API lk_status lk_table_cell(lk_table *t, const char *format, ...) LK_PRINTF(2, 3);
LK_API lk_status lk_table_rule(lk_table *t);   /* a line between rows; LK_EARG inside a row */
LK_API char *lk_table_text(const lk_table *t); /* the caller's (lk_free); a last row may be incomplete */
LK_API lk_status lk_table_print(const lk_table *t, FILE *to);

#ifdef __cplusplus
}
#endif
#endif
