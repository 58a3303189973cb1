/* label.c: places labels beside points so that they overlap with as little as possible. */
#include "chart.h"

#include <math.h>

static double common(lk_box a, lk_box b) {
  double w = fmin(a.x1, b.x1) - fmax(a.x0, b.x0), h = fmin(a.y1, b.y1) - fmax(a.y0, b.y0);
  return w > 0 && h > 0 ? w * h : 0;
}

static double outside(lk_box b, lk_box frame) {
  return fmax(0, frame.x0 - b.x0) + fmax(0, b.x1 - frame.x1) + fmax(0, frame.y0 - b.y0) + fmax(0, b.y1 - frame.y1);
}

lk_box lk_label_place(const lk_box *taken, int64_t n, lk_box frame, double x, double y, double width, double height,
                      int *far) {
  /* directions by preference: right, left, the four diagonals, above, below */
  static const double way[][2] = {{1, 0}, {-1, 0}, {1, -1}, {1, 1}, {-1, -1}, {-1, 1}, {0, -1}, {0, 1}};
  static const double gap[] = {9, 18, 30, 44, 60};
  lk_box best = {0};
  double least = HUGE_VAL;
  for (int ring = 0; ring < 5; ring++)
    for (int i = 0; i < 8; i++) {
      double diagonal = way[i][0] != 0 && way[i][1] != 0 ? .7 : 1;
      double cx = x + way[i][0] * (gap[ring] * diagonal + width / 2);
      double cy = y + way[i][1] * (gap[ring] * diagonal + height / 2);
      lk_box b = {cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2};
      double cost = 12 * ring + .5 * i + 50 * outside(b, frame);
      for (int64_t k = 0; k < n && cost < least; k++) cost += common(b, taken[k]) * 10;
      if (cost >= least) continue;
      least = cost;
      best = b;
      *far = ring > 0;
    }
  return best;
}
