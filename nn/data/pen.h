/* pen.h: what glyphs.c, pen.c and digits.c share: glyphs as knots, paths as dots of a pen. */
#ifndef LK_PEN_H
#define LK_PEN_H
#include <lorikeet/random.h>

/* Draws one after another from a stream of its own. */
typedef struct lk_draws {
  lk_key key;
  uint64_t n;
} lk_draws;
double lk_draw_uniform(lk_draws *d, double low, double high);
double lk_draw_normal(lk_draws *d, double mean, double std);

/* A knot in a 100 x 100 box, y downwards. */
enum { LK_KNOT_END, LK_KNOT_MOVE, LK_KNOT_SMOOTH, LK_KNOT_CORNER };
#define LK_MAXKNOTS 24
typedef struct lk_knot {
  double x, y;
  int kind;
} lk_knot;

/* One way to write a digit; weight is how often, relative to the other ways. */
typedef struct lk_glyph {
  int digit;
  double weight;
  lk_knot knot[LK_MAXKNOTS];
} lk_glyph;
extern const lk_glyph lk_glyphs[]; /* sorted by digit, ended by weight 0 */
const lk_glyph *lk_glyph_pick(int digit, lk_draws *d);

/* The pen's way: dots joined by lines, but not to a dot with `up`. */
#define LK_MAXDOTS (LK_MAXKNOTS * 10)
typedef struct lk_path {
  int n;
  struct lk_dot {
    double x, y, r; /* r: radius of the pen */
    int up;
  } dot[LK_MAXDOTS];
} lk_path;

/* The glyph's curve, after its knots were moved by N(0, wobble). */
void lk_path_flatten(lk_path *p, const lk_glyph *g, double wobble, lk_draws *d);
/* (x, y) = (m0 x + m1 y + m2, m3 x + m4 y + m5) */
void lk_path_affine(lk_path *p, const double m[6]);
void lk_path_rotate(lk_path *p, double degrees, double about_x, double about_y);
/* Waves of low frequency along both axes, amplitude in units of the box. */
void lk_path_bend(lk_path *p, double amplitude, lk_draws *d);
/* Inks [size, size], 0 .. 1, row-major: the larger of what is there and the pen's coverage. */
void lk_path_ink(const lk_path *p, double strength, double softness, int64_t size, float *ink);

#endif
