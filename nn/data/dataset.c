/* dataset.c: labelled images in memory: making, copying, splitting. */
#include "data/balance.h"

#include <lorikeet/data.h>
#include <lorikeet/random.h>
#include <lorikeet/tensor.h>
#include <math.h>
#include <string.h>

static lk_status check_sizes(lk_ctx *ctx, const char *name, int64_t count, const int64_t *chw, int64_t classes) {
  lk_view v;
  int64_t shape[4] = {count, chw[0], chw[1], chw[2]};
  if (chw[0] < 1 || chw[0] > LK_MAXCHANNELS)
    return lk_fail(ctx, LK_ESHAPE, "dataset %s: %lld channels; 1 to %d are supported", name, (long long)chw[0],
                   LK_MAXCHANNELS);
  if (count < 0 || chw[1] < 1 || chw[2] < 1 || lk_view_init(&v, LK_F32, 4, shape) != 0)
    return lk_fail(ctx, LK_ESHAPE, "dataset %s: no room for %lld images of %lld x %lld", name, (long long)count,
                   (long long)chw[1], (long long)chw[2]);
  if (classes < 1) return lk_fail(ctx, LK_EARG, "dataset %s: %lld classes", name, (long long)classes);
  return LK_OK;
}

lk_dataset *lk_dataset_new(lk_ctx *ctx, const char *name, int64_t count, int64_t channels, int64_t height,
                           int64_t width, int64_t classes) {
  int64_t chw[3] = {channels, height, width};
  if (!name) name = "";
  if (check_sizes(ctx, name, count, chw, classes)) return NULL;
  lk_dataset *d = lk_alloc(ctx, sizeof *d);
  if (!d) return NULL;
  *d = (lk_dataset){.ctx = ctx, .count = count, .channels = channels, .height = height, .width = width};
  d->classes = classes;
  d->name = lk_strdup(ctx, name);
  /* one element more, so that an empty dataset has memory too */
  d->pixels = lk_alloc(ctx, (size_t)(count * channels * height * width) + 1);
  d->labels = lk_alloc_array(ctx, (size_t)count + 1, sizeof *d->labels);
  if (d->name && d->pixels && d->labels) return d;
  lk_dataset_free(d);
  return NULL;
}

static void free_names(lk_dataset *d) {
  for (int64_t c = 0; d->names && c < d->classes; c++) lk_free(d->ctx, d->names[c]);
  lk_free(d->ctx, d->names);
  d->names = NULL;
}

lk_status lk_dataset_name(lk_dataset *d, char *const *names) {
  if (!names) return LK_OK;
  free_names(d);
  d->names = lk_alloc_array(d->ctx, (size_t)d->classes, sizeof *d->names);
  for (int64_t c = 0; d->names && c < d->classes; c++) d->names[c] = lk_strdup(d->ctx, names[c]);
  if (lk_error(d->ctx, NULL)) free_names(d);
  return lk_error(d->ctx, NULL);
}

void lk_dataset_free(lk_dataset *d) {
  if (!d) return;
  free_names(d);
  lk_free(d->ctx, d->name);
  lk_free(d->ctx, d->pixels);
  lk_free(d->ctx, d->labels);
  lk_free(d->ctx, d);
}

lk_dataset *lk_dataset_subset(const lk_dataset *d, int64_t n, const int64_t *index) {
  if (!d) return NULL;
  size_t image = (size_t)(d->channels * d->height * d->width);
  for (int64_t i = 0; i < n; i++)
    if (index[i] < 0 || index[i] >= d->count) {
      lk_fail(d->ctx, LK_EARG, "dataset %s: no image %lld among %lld", d->name, (long long)index[i],
              (long long)d->count);
      return NULL;
    }
  lk_dataset *s = lk_dataset_new(d->ctx, d->name, n, d->channels, d->height, d->width, d->classes);
  for (int64_t i = 0; s && i < n; i++) {
    memcpy(s->pixels + (size_t)i * image, d->pixels + (size_t)index[i] * image, image);
    s->labels[i] = d->labels[index[i]];
  }
  if (!s || !lk_dataset_name(s, d->names)) return s;
  lk_dataset_free(s);
  return NULL;
}

static int64_t *permutation(const lk_dataset *d, const char *label, uint64_t seed) {
  int64_t *order = lk_alloc_array(d->ctx, (size_t)d->count + 1, sizeof *order);
  if (order) lk_random_permutation(lk_key_make(seed, label), d->count, order);
  return order;
}

lk_dataset *lk_dataset_limit(const lk_dataset *d, int64_t n, uint64_t seed) {
  if (!d) return NULL;
  if (n < 0) {
    lk_fail(d->ctx, LK_EARG, "dataset %s: a limit of %lld images", d->name, (long long)n);
    return NULL;
  }
  int64_t *order = permutation(d, "limit", seed);
  lk_dataset *s = NULL;
  if (order && !lk_balance(d->ctx, d->labels, d->count, d->classes, order))
    s = lk_dataset_subset(d, n < d->count ? n : d->count, order);
  lk_free(d->ctx, order);
  return s;
}

lk_status lk_dataset_split(const lk_dataset *d, int64_t held, uint64_t seed, lk_dataset **train,
                           lk_dataset **validation) {
  if (!d) return LK_ENIL;
  if (held < 0 || held > d->count)
    return lk_fail(d->ctx, LK_EARG, "dataset %s: cannot hold out %lld of %lld images", d->name, (long long)held,
                   (long long)d->count);
  int64_t *order = permutation(d, "split", seed);
  lk_dataset *a = order ? lk_dataset_subset(d, d->count - held, order + held) : NULL;
  lk_dataset *b = a ? lk_dataset_subset(d, held, order) : NULL;
  lk_free(d->ctx, order);
  if (!b) {
    lk_dataset_free(a);
    return lk_error(d->ctx, NULL);
  }
  *train = a;
  *validation = b;
  return LK_OK;
}

void lk_dataset_moments(const lk_dataset *d, double *mean, double *std) {
  int64_t area = d->height * d->width, image = d->channels * area;
  for (int64_t c = 0; c < LK_MAXCHANNELS; c++) {
    uint64_t sum = 0, squares = 0;
    double n = (double)(d->count * area);
    for (int64_t i = 0; c < d->channels && i < d->count; i++)
      for (int64_t j = 0; j < area; j++) {
        uint64_t v = d->pixels[i * image + c * area + j];
        sum += v;
        squares += v * v;
      }
    double m = n > 0 ? (double)sum / n : 0, q = n > 0 ? (double)squares / n : 0;
    mean[c] = m / 255;
    std[c] = c < d->channels && n > 0 ? sqrt(fmax(0, q - m * m)) / 255 : 1;
  }
}
