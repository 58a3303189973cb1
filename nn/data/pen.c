/* pen.c: from the knots of a glyph to ink: smooth curves, bends, and the coverage of a round pen. */
#include "pen.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define PI 3.14159265358979323846

double lk_draw_uniform(lk_draws *d, double low, double high) {
  return low + (high - low) * lk_random_uniform(d->key, d->n++);
}
double lk_draw_normal(lk_draws *d, double mean, double std) { return mean + std * lk_random_normal(d->key, d->n++); }

static void put(lk_path *p, double x, double y, int up) {
  assert(p->n < LK_MAXDOTS); /* at most 9 dots a knot */
  p->dot[p->n++] = (struct lk_dot){x, y, 1, up};
}

/* Catmull-Rom through k[0] .. k[n - 1], whose first dot is there already; the ends are continued by reflection. */
static void curve(lk_path *p, const lk_knot *k, int n) {
  enum { STEPS = 9 };
  for (int i = 0; i + 1 < n; i++) {
    lk_knot b = k[i], c = k[i + 1];
    lk_knot a = i > 0 ? k[i - 1] : (lk_knot){2 * b.x - c.x, 2 * b.y - c.y, 0};
    lk_knot d = i + 2 < n ? k[i + 2] : (lk_knot){2 * c.x - b.x, 2 * c.y - b.y, 0};
    for (int s = 1; s <= STEPS; s++) {
      double t = (double)s / STEPS;
      double wa = t * (-.5 + t * (1 - .5 * t)), wb = 1 + t * t * (1.5 * t - 2.5);
      double wc = t * (.5 + t * (2 - 1.5 * t)), wd = t * t * (.5 * t - .5);
      put(p, wa * a.x + wb * b.x + wc * c.x + wd * d.x, wa * a.y + wb * b.y + wc * c.y + wd * d.y, 0);
    }
  }
}

void lk_path_flatten(lk_path *p, const lk_glyph *g, double wobble, lk_draws *d) {
  lk_knot k[LK_MAXKNOTS];
  int n = 0, from = 0;
  memset(p, 0, sizeof *p);
  for (; n < LK_MAXKNOTS && g->knot[n].kind != LK_KNOT_END; n++) {
    k[n] = g->knot[n];
    k[n].x += lk_draw_normal(d, 0, wobble);
    k[n].y += lk_draw_normal(d, 0, wobble);
  }
  for (int i = 0; i < n; i++) {
    int last = i + 1 == n || k[i + 1].kind == LK_KNOT_MOVE;
    if (k[i].kind == LK_KNOT_MOVE) {
      put(p, k[i].x, k[i].y, 1);
      from = i;
    }
    if (i > from && (last || k[i].kind == LK_KNOT_CORNER)) {
      curve(p, k + from, i - from + 1);
      from = i;
    }
  }
}

void lk_path_affine(lk_path *p, const double m[6]) {
  for (int i = 0; i < p->n; i++) {
    double x = p->dot[i].x, y = p->dot[i].y;
    p->dot[i].x = m[0] * x + m[1] * y + m[2];
    p->dot[i].y = m[3] * x + m[4] * y + m[5];
  }
}

void lk_path_rotate(lk_path *p, double degrees, double x, double y) {
  double c = cos(degrees * PI / 180), s = sin(degrees * PI / 180);
  lk_path_affine(p, (double[]){c, -s, x - c * x + s * y, s, c, y - s * x - c * y});
}

void lk_path_bend(lk_path *p, double amplitude, lk_draws *d) {
  for (int wave = 0; wave < 4; wave++) {
    double a = lk_draw_normal(d, 0, amplitude), length = lk_draw_uniform(d, 90, 220), phase = lk_draw_uniform(d, 0, 1);
    for (int i = 0; i < p->n; i++) {
      double *x = &p->dot[i].x, *y = &p->dot[i].y;
      double along = wave & 1 ? *x : *y;
      *(wave < 2 ? x : y) += a * sin(2 * PI * (along / length + phase));
    }
  }
}

/* Inks one piece of the way: distance to the segment from a to b, whose radius runs from a.r to b.r. */
static void segment(struct lk_dot a, struct lk_dot b, double strength, double softness, int64_t size, float *ink) {
  double reach = fmax(a.r, b.r) + softness, dx = b.x - a.x, dy = b.y - a.y, length2 = dx * dx + dy * dy;
  int64_t x0 = (int64_t)fmax(0, floor(fmin(a.x, b.x) - reach)), y0 = (int64_t)fmax(0, floor(fmin(a.y, b.y) - reach));
  int64_t x1 = (int64_t)fmin((double)size, ceil(fmax(a.x, b.x) + reach));
  int64_t y1 = (int64_t)fmin((double)size, ceil(fmax(a.y, b.y) + reach));
  for (int64_t y = y0; y < y1; y++)
    for (int64_t x = x0; x < x1; x++) {
      double px = (double)x + .5 - a.x, py = (double)y + .5 - a.y;
      double t = length2 > 0 ? fmin(1, fmax(0, (px * dx + py * dy) / length2)) : 0;
      double qx = px - t * dx, qy = py - t * dy, distance = sqrt(qx * qx + qy * qy);
      double cover = strength * fmin(1, (a.r + t * (b.r - a.r) - distance) / softness + .5);
      float *at = &ink[y * size + x];
      if (cover > *at) *at = (float)cover;
    }
}

void lk_path_ink(const lk_path *p, double strength, double softness, int64_t size, float *ink) {
  for (int i = 1; i < p->n; i++)
    if (!p->dot[i].up) segment(p->dot[i - 1], p->dot[i], strength, softness, size, ink);
}
