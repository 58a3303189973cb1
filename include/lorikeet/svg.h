/* svg.h: charts as SVG files: scatter and line panels, side by side. */
#ifndef LORIKEET_SVG_H
#define LORIKEET_SVG_H
#include <lorikeet/ctx.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  LK_SERIES_POINTS = 0, /* markers */
  LK_SERIES_LINE = 1,   /* a line through the points in their order, no markers */
  LK_SERIES_BOTH = 2
};

/* Points that are not finite (1e300 and more counts too), or not positive on a logarithmic axis, are left out; a line
 * is interrupted there. */
typedef struct lk_series {
  const char *name; /* in the legend above the panel; NULL: not in it */
  int style;        /* LK_SERIES_... */
  int color;        /* 1 .. 8 of the palette (Okabe and Ito's, told apart by the colour-blind); 0: its place */
  int64_t n;
  const double *x, *y;       /* [n] */
  const double *error;       /* [n] half lengths of vertical bars, such as standard deviations, or NULL */
  const char *const *labels; /* [n] texts beside the points, moved so that they do not overlap, or NULL */
} lk_series;

typedef struct lk_panel {
  const char *title, *x_label, *y_label; /* labels with their units; NULL: none */
  int log_x, log_y;
  int nseries;
  const lk_series *series;
} lk_panel;

/* Writes one picture with n >= 1 panels from left to right, 560 x 420 units each, under a title (or NULL).  Replaces
 * the file atomically.  Texts are UTF-8; what is not is shown as a question mark. */
LK_API lk_status lk_svg_write(lk_ctx *ctx, const char *path, const char *title, int n, const lk_panel *panels);

#ifdef __cplusplus
}
#endif
#endif
