/* resample.c: images in another size, as Pillow's Image.resize makes them: a filter as wide as a new pixel, applied to
 * columns and rows one after the other, each time rounded to 8 bits. */
#include <lorikeet/images.h>
#include <math.h>
#include <string.h>

enum { BITS = 22 /* behind the point of a weight */, HALF = 1 << (BITS - 1) };
static const double pi = 3.14159265358979323846;

/* ---- filters, for x >= 0 ---- */

static double sinc(double x) { return x == 0 ? 1 : sin(pi * x) / (pi * x); }
static double lanczos(double x) { return x < 3 ? sinc(x) * sinc(x / 3) : 0; }
static double bilinear(double x) { return x < 1 ? 1 - x : 0; }
static double bicubic(double x) {
  const double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}
static double hamming(double x) { return x < 1 ? sinc(x) * (0.54 + 0.46 * cos(pi * x)) : 0; }

/* 1 on (-1/2, 1/2]: the only one that is not even. */
static double box(double x) { return x > -0.5 && x <= 0.5; }

static double weigh(lk_resample filter, double x) {
  switch (filter) {
  case LK_LANCZOS:
    return lanczos(fabs(x));
  case LK_BILINEAR:
    return bilinear(fabs(x));
  case LK_BICUBIC:
    return bicubic(fabs(x));
  case LK_HAMMING:
    return hamming(fabs(x));
  default:
    return box(x);
  }
}

static double radius(lk_resample filter) {
  static const double of[] = {[LK_LANCZOS] = 3, [LK_BILINEAR] = 1, [LK_BICUBIC] = 2, [LK_BOX] = 0.5, [LK_HAMMING] = 1};
  return of[filter];
}

/* ---- weights ---- */

/* New pixel i is the sum of old pixels first[i] .. first[i] + n[i] - 1 with weights weight[i * most ...]. */
typedef struct taps {
  int64_t most, *first, *n;
  int32_t *weight;
} taps;

static void taps_free(lk_ctx *ctx, taps *t) {
  lk_free(ctx, t->first);
  lk_free(ctx, t->weight);
}

static lk_status taps_make(lk_ctx *ctx, lk_resample filter, int64_t from, int64_t to, taps *t) {
  double scale = (double)from / (double)to, stretch = fmax(scale, 1), reach = radius(filter) * stretch;
  *t = (taps){.most = 2 * (int64_t)ceil(reach) + 1};
  t->first = lk_alloc_array(ctx, (size_t)(2 * to), sizeof *t->first);
  t->weight = lk_alloc_array(ctx, (size_t)(t->most * to), sizeof *t->weight);
  double *w = lk_alloc_array(ctx, (size_t)t->most, sizeof *w);
  t->n = t->first ? t->first + to : NULL;
  for (int64_t i = 0; w && i < to; i++) {
    double centre = ((double)i + 0.5) * scale, sum = 0;
    int64_t first = (int64_t)fmax(0, centre - reach + 0.5), end = (int64_t)fmin((double)from, centre + reach + 0.5);
    for (int64_t k = 0; k < end - first; k++) {
      w[k] = weigh(filter, ((double)(k + first) - centre + 0.5) * (1 / stretch));
      sum += w[k];
    }
    for (int64_t k = 0; k < end - first; k++) {
      double fixed = (sum != 0 ? w[k] / sum : w[k]) * (1 << BITS);
      t->weight[i * t->most + k] = (int32_t)(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }
    t->first[i] = first;
    t->n[i] = end - first;
  }
  lk_free(ctx, w);
  return lk_error(ctx, NULL);
}

static uint8_t clip(int32_t sum) {
  if (sum < 0) return 0;
  return (uint8_t)(sum >> BITS > 255 ? 255 : sum >> BITS);
}

/* ---- both passes ---- */

static void resize_columns(const lk_image *x, const taps *t, lk_image *y) {
  const int64_t c = x->channels;
  for (int64_t row = 0; row < y->height; row++) {
    const uint8_t *from = x->pixels + row * x->width * c;
    uint8_t *to = y->pixels + row * y->width * c;
    for (int64_t i = 0; i < y->width; i++) {
      const uint8_t *p = from + t->first[i] * c;
      const int32_t *w = t->weight + i * t->most;
      for (int64_t channel = 0; channel < c; channel++) {
        int32_t sum = HALF;
        for (int64_t k = 0; k < t->n[i]; k++) sum += p[k * c + channel] * w[k];
        to[i * c + channel] = clip(sum);
      }
    }
  }
}

static lk_status resize_rows(const lk_image *x, const taps *t, lk_image *y) {
  const int64_t length = x->width * x->channels;
  int32_t *sum = lk_alloc_array(x->ctx, (size_t)length, sizeof *sum);
  for (int64_t row = 0; sum && row < y->height; row++) {
    for (int64_t j = 0; j < length; j++) sum[j] = HALF;
    for (int64_t k = 0; k < t->n[row]; k++) {
      const uint8_t *p = x->pixels + (t->first[row] + k) * length;
      const int32_t w = t->weight[row * t->most + k];
      for (int64_t j = 0; j < length; j++) sum[j] += p[j] * w;
    }
    for (int64_t j = 0; j < length; j++) y->pixels[row * length + j] = clip(sum[j]);
  }
  lk_free(x->ctx, sum);
  return lk_error(x->ctx, NULL);
}

static lk_image *copy(const lk_image *x) {
  lk_image *y = lk_image_new(x->ctx, x->channels, x->height, x->width);
  if (y) memcpy(y->pixels, x->pixels, (size_t)(x->channels * x->height * x->width));
  return y;
}

/* One pass along an axis, or a copy where nothing changes. */
static lk_image *pass(const lk_image *x, int rows, int64_t size, lk_resample filter) {
  taps t = {0};
  if (size == (rows ? x->height : x->width)) return copy(x);
  lk_image *y = lk_image_new(x->ctx, x->channels, rows ? size : x->height, rows ? x->width : size);
  if (y && !taps_make(x->ctx, filter, rows ? x->height : x->width, size, &t)) {
    if (rows) resize_rows(x, &t, y);
    else resize_columns(x, &t, y);
  }
  taps_free(x->ctx, &t);
  if (!lk_error(x->ctx, NULL)) return y;
  lk_image_free(y);
  return NULL;
}

/* The old pixel at each new one's centre; Pillow adds up steps, with their rounding. */
static lk_image *nearest(const lk_image *x, int64_t height, int64_t width) {
  const size_t c = (size_t)x->channels;
  const double down = (double)x->height / (double)height, right = (double)x->width / (double)width;
  lk_image *y = lk_image_new(x->ctx, x->channels, height, width);
  double from_row = down * 0.5;
  for (int64_t row = 0; y && row < height; row++, from_row += down) {
    double from_column = right * 0.5;
    int64_t r = (int64_t)fmin(from_row, (double)(x->height - 1));
    for (int64_t column = 0; column < width; column++, from_column += right) {
      int64_t k = (int64_t)fmin(from_column, (double)(x->width - 1));
      memcpy(y->pixels + (size_t)(row * width + column) * c, x->pixels + (size_t)(r * x->width + k) * c, c);
    }
  }
  return y;
}

lk_image *lk_image_resize(const lk_image *image, int64_t height, int64_t width, lk_resample filter) {
  if (!image || lk_error(image->ctx, NULL)) return NULL;
  if ((int)filter < LK_NEAREST || filter > LK_HAMMING || height < 1 || width < 1) {
    lk_fail(image->ctx, LK_EARG, "an image cannot be resized to %lld x %lld by filter %d", (long long)height,
            (long long)width, (int)filter);
    return NULL;
  }
  if (height == image->height && width == image->width) return copy(image);
  if (filter == LK_NEAREST) return nearest(image, height, width);
  /* Pillow 13's rule to save work; the order shows, since the half-way image is rounded and clipped */
  int rows_first = height < image->height && image->height - height > 2 * (image->width - width);
  lk_image *half = pass(image, rows_first, rows_first ? height : width, filter);
  lk_image *y = half ? pass(half, !rows_first, rows_first ? width : height, filter) : NULL;
  lk_image_free(half);
  return y;
}
