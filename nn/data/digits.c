/* digits.c: the built-in images: digits as a person's pen would draw them, and shifted domains of them. */
#include "pen.h"

#include <lorikeet/data.h>
#include <math.h>
#include <string.h>

/* One image being drawn, in pixels of a 28 x 28 grid times `unit`. */
typedef struct canvas {
  const lk_digits_options *o;
  int64_t size;
  double unit;
  float *ink, *spare; /* [size, size] each */
} canvas;

/* Pressure, a slanted nib, and a lighter beginning and end. */
static void press(lk_path *p, double radius, lk_draws *d) {
  double nib = fabs(lk_draw_normal(d, 0, .1)), tilt = lk_draw_uniform(d, 0, 3.14159);
  double taper = lk_draw_uniform(d, 0, .35);
  double swell = lk_draw_normal(d, 0, .1), phase = lk_draw_uniform(d, 0, 6.28318);
  for (int i = 0; i < p->n; i++) {
    struct lk_dot *a = &p->dot[i];
    int last = i + 1 == p->n, end = a->up || last || p->dot[i + 1].up;
    int other = !a->up ? i - 1 : last ? i : i + 1;
    double angle = atan2(a->y - p->dot[other].y, a->x - p->dot[other].x);
    a->r = radius * (1 + nib * cos(2 * (angle - tilt)) + swell * sin(phase + i * .12) + lk_draw_normal(d, 0, .05));
    if (end) a->r *= 1 - taper;
  }
}

/* As MNIST does: the digit's box is 20 of 28 pixels, its centre of mass the image's centre; both a little off. */
static void place(const canvas *c, lk_path *p, double radius, lk_draws *d) {
  double x0 = HUGE_VAL, x1 = -HUGE_VAL, y0 = HUGE_VAL, y1 = -HUGE_VAL, mass = 0, mx = 0, my = 0;
  for (int i = 0; i < p->n; i++) {
    const struct lk_dot *b = &p->dot[i], *a = b->up ? b : b - 1;
    double length = hypot(b->x - a->x, b->y - a->y);
    x0 = fmin(x0, b->x), x1 = fmax(x1, b->x), y0 = fmin(y0, b->y), y1 = fmax(y1, b->y);
    mass += length;
    mx += length * (a->x + b->x) / 2;
    my += length * (a->y + b->y) / 2;
  }
  double box = (20 * lk_draw_uniform(d, .94, 1.03)) * c->unit - 2 * radius;
  double scale = box / fmax(fmax(x1 - x0, y1 - y0), 1);
  double x = (double)c->size / 2 + lk_draw_normal(d, 0, .4) * c->unit - scale * mx / fmax(mass, 1);
  double y = (double)c->size / 2 + lk_draw_normal(d, 0, .4) * c->unit - scale * my / fmax(mass, 1);
  lk_path_affine(p, (double[]){scale, 0, x, 0, scale, y});
}

/* A glyph in somebody's hand: shape, slant and proportions, still in the 100 x 100 box. */
static void write_by_hand(lk_path *p, int digit, lk_draws *d) {
  lk_path_flatten(p, lk_glyph_pick(digit, d), lk_draw_uniform(d, 1.2, 5), d);
  lk_path_affine(p, (double[]){1, 0, -50, 0, 1, -50});
  lk_path_bend(p, 2.6, d);
  double width = exp(lk_draw_normal(d, -.12, .22)), slant = lk_draw_normal(d, .18, digit == 1 ? .32 : .22);
  lk_path_affine(p, (double[]){width, -slant, 0, 0, 1, 0});
  lk_path_rotate(p, lk_draw_normal(d, 0, 6), 0, 0);
}

static void draw_digit(const canvas *c, int digit, lk_draws *d, lk_draws *shift) {
  lk_path path;
  double radius = fmin(2.3, fmax(.85, exp(lk_draw_normal(d, .28, .26)))) * c->unit, middle = (double)c->size / 2;
  write_by_hand(&path, digit, d);
  place(c, &path, radius, d);
  double angle = c->o->angle, spread = c->o->spread;
  if (angle == 0 && spread == 0) {
    angle = 40;
    spread = 15;
  }
  if (c->o->domain & LK_DIGITS_ROTATED)
    lk_path_rotate(&path, lk_draw_uniform(shift, angle - spread, angle + spread), middle, middle);
  press(&path, radius, d);
  lk_path_ink(&path, 1, lk_draw_uniform(d, .9, 1.5), c->size, c->ink);
}

/* Pieces of other digits' strokes around the middle. */
static void clutter(const canvas *c, lk_draws *d) {
  int pieces = 3 + (int)lk_draw_uniform(d, 0, 4);
  for (int i = 0; i < pieces; i++) {
    lk_path whole, piece = {0};
    write_by_hand(&whole, (int)lk_draw_uniform(d, 0, 10), d);
    int n = (int)fmin(whole.n, lk_draw_uniform(d, 8, 18)), from = (int)lk_draw_uniform(d, 0, whole.n - n);
    piece.n = n;
    memcpy(piece.dot, whole.dot + from, (size_t)n * sizeof *piece.dot);
    piece.dot[0].up = 1;
    double scale = lk_draw_uniform(d, .12, .2) * c->unit, turn = lk_draw_uniform(d, 0, 6.28318);
    double far = lk_draw_uniform(d, 11.5, 15) * c->unit, middle = (double)c->size / 2;
    double x = middle + far * cos(turn) - scale * piece.dot[n / 2].x,
           y = middle + far * sin(turn) - scale * piece.dot[n / 2].y;
    lk_path_affine(&piece, (double[]){scale, 0, x, 0, scale, y});
    press(&piece, lk_draw_uniform(d, .7, 1.4) * c->unit, d);
    lk_path_ink(&piece, lk_draw_uniform(d, .6, 1), 1.1, c->size, c->ink);
  }
}

/* One pass of the kernel 1 2 1 along an axis; the border repeats. */
static void blur(int64_t size, int64_t step, int64_t other, const float *from, float *to) {
  for (int64_t line = 0; line < size; line++)
    for (int64_t i = 0; i < size; i++) {
      const float *x = from + line * other + i * step;
      to[line * other + i * step] = (x[i > 0 ? -step : 0] + 2 * x[0] + x[i + 1 < size ? step : 0]) / 4;
    }
}

static void noise(const canvas *c, lk_draws *d) {
  double low = lk_draw_uniform(d, .05, .25), high = lk_draw_uniform(d, .65, .95), grain = lk_draw_uniform(d, .04, .1);
  blur(c->size, 1, c->size, c->ink, c->spare);
  blur(c->size, c->size, 1, c->spare, c->ink);
  for (int64_t i = 0; i < c->size * c->size; i++)
    c->ink[i] = (float)(low + (high - low) * c->ink[i] + lk_draw_normal(d, 0, grain));
}

static void draw(const canvas *c, lk_key key, int digit, uint8_t *pixels) {
  int64_t n = c->size * c->size;
  lk_draws hand = {lk_key_fold(key, 0), 0}, turn = {lk_key_fold(key, 1), 0}, around = {lk_key_fold(key, 2), 0};
  lk_draws grain = {lk_key_fold(key, 3), 0};
  memset(c->ink, 0, (size_t)n * sizeof *c->ink);
  draw_digit(c, digit, &hand, &turn);
  if (c->o->domain & LK_DIGITS_CLUTTERED) clutter(c, &around);
  if (c->o->domain & LK_DIGITS_NOISY) noise(c, &grain);
  for (int64_t i = 0; i < n; i++) {
    double v = fmin(1, fmax(0, c->ink[i]));
    pixels[i] = (uint8_t)lrint(255 * (c->o->domain & LK_DIGITS_INVERTED ? 1 - v : v));
  }
}

static const char *const domains[] = {"inverted", "rotated", "cluttered", "noisy"};
enum { DOMAINS = sizeof domains / sizeof *domains };

lk_status lk_digits_domain(lk_ctx *ctx, const char *text, unsigned *domain) {
  unsigned sum = 0;
  for (const char *word = text, *end; word; word = *end ? end + 1 : NULL) {
    size_t n = strcspn(word, "+");
    int i = 0;
    end = word + n;
    while (i < DOMAINS && (strlen(domains[i]) != n || strncmp(domains[i], word, n) != 0)) i++;
    if (i < DOMAINS) sum |= 1u << i;
    else if (n != 5 || strncmp(word, "plain", 5) != 0)
      return lk_fail(ctx, LK_EARG, "digits: no domain \"%.*s\"; there are plain, inverted, rotated, cluttered, noisy",
                     (int)n, word);
  }
  *domain = sum;
  return lk_error(ctx, NULL);
}

static lk_status refuse(lk_ctx *ctx, int64_t size, const lk_digits_options *o) {
  if (size < 8 || size > 512) return lk_fail(ctx, LK_EARG, "digits: size %lld is outside [8, 512]", (long long)size);
  if (o->domain >= 1u << DOMAINS) return lk_fail(ctx, LK_EARG, "digits: domain %u is unknown", o->domain);
  if (!isfinite(o->angle) || !isfinite(o->spread))
    return lk_fail(ctx, LK_EARG, "digits: angle %g +- %g is not finite", o->angle, o->spread);
  return LK_OK;
}

lk_dataset *lk_digits(lk_ctx *ctx, int64_t count, const lk_digits_options *options) {
  static const lk_digits_options plain = {0};
  const lk_digits_options *o = options ? options : &plain;
  int64_t size = o->size ? o->size : 28, order[10] = {0};
  canvas c = {o, size, (double)size / 28, NULL, NULL};
  if (refuse(ctx, size, o)) return NULL;
  c.ink = lk_alloc_array(ctx, (size_t)(2 * size * size), sizeof *c.ink);
  lk_dataset *d = c.ink ? lk_dataset_new(ctx, "digits", count, 1, size, size, 10) : NULL;
  if (d) {
    lk_key key = lk_key_make(o->seed, "digits"), shuffle = lk_key_make(o->seed, "digits order");
    c.spare = c.ink + size * size;
    for (int64_t i = 0; i < count; i++) {
      if (i % 10 == 0) lk_random_permutation(lk_key_fold(shuffle, (uint64_t)(i / 10)), 10, order);
      d->labels[i] = order[i % 10];
      draw(&c, lk_key_fold(key, (uint64_t)i), (int)order[i % 10], d->pixels + i * size * size);
    }
  }
  lk_free(ctx, c.ink);
  return d;
}
