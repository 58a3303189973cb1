/* domains.c: data sets of one domain or several. */
#include "domains.h"

#include <math.h>
#include <string.h>

const char *const domain_names[DOMAINS] = {"own", "plain", "inverted", "rotated", "cluttered", "noisy"};

/* ---- real images made to look different ---- */

typedef struct picture {
  const lk_dataset *all;
  int64_t at, h, w;
  const uint8_t *from; /* [h, w], one channel as it was */
  uint8_t *to;
  lk_key key; /* of this image */
} picture;

static uint8_t pixel(double x) { return (uint8_t)fmin(fmax(x + .5, 0), 255); }

static double pixel_at(const picture *p, int64_t y, int64_t x) {
  return y < 0 || x < 0 || y >= p->h || x >= p->w ? 0 : p->from[y * p->w + x];
}

static void invert(const picture *p) {
  for (int64_t i = 0; i < p->h * p->w; i++) p->to[i] = (uint8_t)(255 - p->from[i]);
}

/* By 25 to 55 degrees, as the drawn ones; bilinear. */
static void rotate(const picture *p) {
  double angle = (40 + 30 * (lk_random_uniform(p->key, 0) - .5)) * acos(-1) / 180, c = cos(angle), s = sin(angle);
  double cy = .5 * (double)(p->h - 1), cx = .5 * (double)(p->w - 1);
  for (int64_t i = 0; i < p->h * p->w; i++) {
    double dy = (double)(i / p->w) - cy, dx = (double)(i % p->w) - cx;
    double y = cy + c * dy - s * dx, x = cx + s * dy + c * dx, fy = y - floor(y), fx = x - floor(x);
    int64_t y0 = (int64_t)floor(y), x0 = (int64_t)floor(x);
    double above = (1 - fx) * pixel_at(p, y0, x0) + fx * pixel_at(p, y0, x0 + 1);
    double below = (1 - fx) * pixel_at(p, y0 + 1, x0) + fx * pixel_at(p, y0 + 1, x0 + 1);
    p->to[i] = pixel((1 - fy) * above + fy * below);
  }
}

/* Four pieces, of a third of the size, from the middle of other images, at the corners. */
static void clutter(const picture *p) {
  int64_t h = p->h / 3, w = p->w / 3;
  memcpy(p->to, p->from, (size_t)(p->h * p->w));
  for (int corner = 0; corner < 4; corner++) {
    int64_t other = (int64_t)lk_random_below(p->key, (uint64_t)corner, (uint64_t)p->all->count);
    const uint8_t *piece = p->all->pixels + other * p->all->channels * p->h * p->w + h * p->w + w;
    uint8_t *to = p->to + (corner / 2) * (p->h - h) * p->w + (corner % 2) * (p->w - w);
    for (int64_t y = 0; y < h; y++)
      for (int64_t x = 0; x < w; x++) {
        uint8_t ink = piece[y * p->w + x], *there = &to[y * p->w + x];
        if (ink > *there) *there = ink;
      }
  }
}

/* The mean of nine pixels, half the contrast, grain. */
static void spoil(const picture *p) {
  for (int64_t i = 0; i < p->h * p->w; i++) {
    double sum = 0;
    for (int k = 0; k < 9; k++) sum += pixel_at(p, i / p->w + k / 3 - 1, i % p->w + k % 3 - 1);
    p->to[i] = pixel(60 + .5 * sum / 9 + 30 * lk_random_normal(p->key, (uint64_t)i));
  }
}

static void (*const shifts[DOMAINS])(const picture *) = {
    [DOMAIN_INVERTED] = invert, [DOMAIN_ROTATED] = rotate, [DOMAIN_CLUTTERED] = clutter, [DOMAIN_NOISY] = spoil};

static lk_status shift(lk_dataset **d, int domain) {
  if (!*d || !shifts[domain]) return LK_OK;
  const lk_dataset *old = *d;
  lk_ctx *ctx = old->ctx;
  lk_dataset *changed =
      lk_dataset_new(ctx, old->name, old->count, old->channels, old->height, old->width, old->classes);
  lk_key key = lk_key_fold(lk_key_make(1, "domains"), (uint64_t)domain);
  picture p = {.all = old, .h = old->height, .w = old->width};
  if (!changed) return lk_error(ctx, NULL);
  memcpy(changed->labels, old->labels, (size_t)old->count * sizeof *old->labels);
  for (int64_t i = 0; i < old->count * old->channels; i++) {
    p.from = old->pixels + i * p.h * p.w;
    p.to = changed->pixels + i * p.h * p.w;
    p.key = lk_key_fold(key, (uint64_t)(i / old->channels));
    shifts[domain](&p);
  }
  lk_dataset_free(*d);
  *d = changed;
  return LK_OK;
}

/* ---- together ---- */

/* Appends d's images to *all; d is freed. */
static lk_status append(lk_dataset **all, lk_dataset *d) {
  lk_dataset *old = *all;
  if (!old || !d) {
    if (d) *all = d;
    return LK_OK;
  }
  lk_ctx *ctx = d->ctx;
  size_t image = (size_t)(d->channels * d->height * d->width), n = (size_t)old->count, m = (size_t)d->count;
  *all = lk_dataset_new(ctx, old->name, old->count + d->count, d->channels, d->height, d->width, d->classes);
  if (*all) {
    memcpy((*all)->pixels, old->pixels, n * image);
    memcpy((*all)->pixels + n * image, d->pixels, m * image);
    memcpy((*all)->labels, old->labels, n * sizeof *d->labels);
    memcpy((*all)->labels + n, d->labels, m * sizeof *d->labels);
  }
  lk_dataset_free(old);
  lk_dataset_free(d);
  return lk_error(ctx, NULL);
}

static lk_status repeat(lk_dataset **d, int64_t least) {
  lk_dataset *few = *d;
  lk_ctx *ctx = few->ctx;
  int64_t times = few->count ? (least + few->count - 1) / few->count : 1, n = times * few->count;
  if (times <= 1) return LK_OK;
  int64_t *index = lk_alloc_array(ctx, (size_t)n, sizeof *index);
  for (int64_t i = 0; index && i < n; i++) index[i] = i % few->count;
  lk_dataset *many = index ? lk_dataset_subset(few, n, index) : NULL;
  lk_free(ctx, index);
  if (!many) return lk_error(ctx, NULL);
  lk_dataset_free(few);
  *d = many;
  return LK_OK;
}

static int bits(unsigned set) {
  int n = 0;
  for (; set; set >>= 1) n += set & 1;
  return n;
}

static int64_t or_default(int64_t n, int64_t otherwise) { return n > 0 ? n : otherwise; }

/* Domains of an exhibit are judged by fewer images each, together by as many as one alone. */
static run_source source_of(const run_source *source, const domain_choice *choice, int domain) {
  enum { VALIDATION = 1000, TEST = 1000 };
  run_source s = *source;
  s.test_only = !(choice->train & DOMAIN_BIT(domain));
  s.train = or_default(choice->images, s.train);
  if (domain == DOMAIN_OWN) return s;
  int together = bits(choice->train);
  s.domain = domain_names[domain];
  s.seed = source->seed * DOMAINS + (uint64_t)domain; /* other digits in each domain */
  s.validation = (or_default(s.validation, VALIDATION) + together - 1) / together;
  s.test = or_default(s.test, TEST);
  return s;
}

static lk_status add_domain(lk_ctx *ctx, const run_source *s, int domain, int64_t image_size, domain_data *data) {
  run_data part;
  if (run_data_open(ctx, s, image_size, &part)) return lk_error(ctx, NULL);
  if (s->directory) {
    shift(&part.train, domain);
    shift(&part.validation, domain);
    shift(&part.test, domain);
  }
  data->tests[domain] = part.test;
  append(&data->run.train, part.train);
  return append(&data->run.validation, part.validation);
}

lk_status domains_open(lk_ctx *ctx, const run_source *source, const domain_choice *choice, int64_t image_size,
                       domain_data *data) {
  *data = (domain_data){.run = {0}};
  for (int i = 0; i < DOMAINS && !lk_error(ctx, NULL); i++) {
    run_source s = source_of(source, choice, i);
    if ((choice->train | choice->test) & DOMAIN_BIT(i)) add_domain(ctx, &s, i, image_size, data);
  }
  if (!lk_error(ctx, NULL)) repeat(&data->run.train, choice->least);
  if (lk_error(ctx, NULL)) domains_close(data);
  return lk_error(ctx, NULL);
}

void domains_close(domain_data *data) {
  run_data_close(&data->run);
  for (int i = 0; i < DOMAINS; i++) lk_dataset_free(data->tests[i]);
  *data = (domain_data){.run = {0}};
}
