/* chart.h: what the parts of an SVG chart share: axes, boxes and the places of labels. */
#ifndef LK_CHART_H
#define LK_CHART_H
#include <lorikeet/svg.h>

#define LK_MAXTICKS 12

typedef struct lk_axis {
  double low, high; /* of the data, widened; logarithms (base 10) on a logarithmic axis */
  int log, ticks, decimals;
  double tick[LK_MAXTICKS]; /* data values */
  double from, to;          /* coordinates of low and high */
} lk_axis;

/* An axis for data in [low, high] (low > high: there is none). */
void lk_axis_init(lk_axis *a, double low, double high, int log, double from, double to);
int lk_axis_shows(const lk_axis *a, double value); /* finite, and positive if logarithmic */
double lk_axis_at(const lk_axis *a, double value); /* coordinate */
void lk_axis_format(const lk_axis *a, double value, char *out, size_t size);

typedef struct lk_box {
  double x0, y0, x1, y1;
} lk_box;

/* Where a text of this size near the point (x, y) overlaps least with the n taken boxes and stays inside the frame;
 * *far says whether it needs a leader line. */
lk_box lk_label_place(const lk_box *taken, int64_t n, lk_box frame, double x, double y, double width, double height,
                      int *far);

#endif
