/* loader.c: batches of a dataset in an order that two numbers, epoch and position, tell entirely. */
#include <lorikeet/data.h>
#include <lorikeet/random.h>
#include <math.h>
#include <string.h>

struct lk_loader {
  const lk_dataset *data;
  lk_loader_options o;
  lk_cursor at;
  int64_t usable;        /* images an epoch: fewer than there are with drop_last */
  int64_t ordered_epoch; /* whose permutation `order` holds; -1: none */
  int64_t *order;        /* [count] */
  float *images;         /* [batch, channels, height, width] */
  int64_t *labels;       /* [batch] */
  float value[LK_MAXCHANNELS][256];
};

static lk_status refuse(const lk_dataset *d, const lk_loader_options *o) {
  const lk_augment *a = &o->augment;
  if (o->batch < 1) return lk_fail(d->ctx, LK_EARG, "loader: a batch of %lld images", (long long)o->batch);
  if (d->count < 1) return lk_fail(d->ctx, LK_EARG, "loader: dataset %s has no images", d->name);
  if (o->drop_last && d->count < o->batch)
    return lk_fail(d->ctx, LK_EARG, "loader: dropping incomplete batches of %lld leaves none of %lld images",
                   (long long)o->batch, (long long)d->count);
  for (int64_t c = 0; c < d->channels; c++)
    if (!isfinite(o->mean[c]) || !isfinite(o->std[c]) || o->std[c] < 0)
      return lk_fail(d->ctx, LK_EARG, "loader: mean %g and std %g of channel %lld", o->mean[c], o->std[c],
                     (long long)c);
  if (!(a->shift >= 0 && a->rotate >= 0 && a->shear >= 0 && a->scale >= 0 && a->scale < 1) || !isfinite(a->shift) ||
      !isfinite(a->rotate) || !isfinite(a->shear))
    return lk_fail(d->ctx, LK_EARG, "loader: augmentation needs finite ranges of at least 0, and scale below 1");
  return LK_OK;
}

lk_loader *lk_loader_new(const lk_dataset *d, const lk_loader_options *o) {
  if (!d || refuse(d, o)) return NULL;
  lk_loader *l = lk_alloc(d->ctx, sizeof *l);
  if (!l) return NULL;
  /* a batch never holds more than the dataset */
  size_t batch = (size_t)(o->batch < d->count ? o->batch : d->count);
  l->data = d;
  l->o = *o;
  l->usable = o->drop_last ? d->count - d->count % o->batch : d->count;
  l->ordered_epoch = -1;
  l->order = lk_alloc_array(d->ctx, (size_t)d->count, sizeof *l->order);
  l->labels = lk_alloc_array(d->ctx, batch, sizeof *l->labels);
  l->images = lk_alloc_array(d->ctx, batch, (size_t)(d->channels * d->height * d->width) * sizeof *l->images);
  if (!l->order || !l->labels || !l->images) {
    lk_loader_free(l);
    return NULL;
  }
  for (int64_t c = 0; c < d->channels; c++)
    for (int v = 0; v < 256; v++) l->value[c][v] = (float)((v / 255. - o->mean[c]) / (o->std[c] > 0 ? o->std[c] : 1));
  return l;
}

void lk_loader_free(lk_loader *l) {
  if (!l) return;
  lk_ctx *ctx = l->data->ctx;
  lk_free(ctx, l->order);
  lk_free(ctx, l->labels);
  lk_free(ctx, l->images);
  lk_free(ctx, l);
}

static void arrange(lk_loader *l) {
  if (l->ordered_epoch == l->at.epoch) return;
  l->ordered_epoch = l->at.epoch;
  if (l->o.shuffle) {
    lk_key key = lk_key_fold(lk_key_make(l->o.seed, "loader"), (uint64_t)l->at.epoch);
    lk_random_permutation(key, l->data->count, l->order);
  } else
    for (int64_t i = 0; i < l->data->count; i++) l->order[i] = i;
}

static double range(lk_key key, uint64_t i, double half) { return half * (2 * lk_random_uniform(key, i) - 1); }

/* Where the pixels of the changed image come from: (x, y) = (m0 x' + m1 y' + m2, m3 x' + m4 y' + m5). */
static void augmentation(const lk_loader *l, int64_t image, double m[6]) {
  const lk_augment *a = &l->o.augment;
  lk_key key = lk_key_fold(lk_key_fold(lk_key_make(l->o.seed, "augment"), (uint64_t)l->at.epoch), (uint64_t)image);
  double angle = range(key, 0, a->rotate) * 3.14159265358979323846 / 180, size = 1 / (1 + range(key, 1, a->scale));
  double shear = range(key, 2, a->shear), dx = range(key, 3, a->shift), dy = range(key, 4, a->shift);
  double cx = (double)(l->data->width - 1) / 2, cy = (double)(l->data->height - 1) / 2;
  m[0] = size * (cos(angle) - shear * sin(angle));
  m[1] = size * (-sin(angle) - shear * cos(angle));
  m[3] = size * sin(angle);
  m[4] = size * cos(angle);
  m[2] = cx - m[0] * (cx + dx) - m[1] * (cy + dy);
  m[5] = cy - m[3] * (cx + dx) - m[4] * (cy + dy);
}

/* Bilinear, with the border repeated. */
static float sample(const uint8_t *plane, const float *value, int64_t width, int64_t height, double x, double y) {
  x = fmin(fmax(x, 0), (double)(width - 1));
  y = fmin(fmax(y, 0), (double)(height - 1));
  int64_t x0 = (int64_t)x, y0 = (int64_t)y;
  int64_t x1 = x0 + 1 < width ? x0 + 1 : x0, y1 = y0 + 1 < height ? y0 + 1 : y0;
  float u = (float)(x - (double)x0), v = (float)(y - (double)y0);
  float top = value[plane[y0 * width + x0]] * (1 - u) + value[plane[y0 * width + x1]] * u;
  float low = value[plane[y1 * width + x0]] * (1 - u) + value[plane[y1 * width + x1]] * u;
  return top * (1 - v) + low * v;
}

static void fill(const lk_loader *l, int64_t image, float *to) {
  const lk_dataset *d = l->data;
  const lk_augment *a = &l->o.augment;
  int64_t area = d->height * d->width;
  int change = a->shift > 0 || a->rotate > 0 || a->scale > 0 || a->shear > 0;
  double m[6];
  if (change) augmentation(l, image, m);
  for (int64_t c = 0; c < d->channels; c++, to += area) {
    const uint8_t *plane = d->pixels + (image * d->channels + c) * area;
    const float *value = l->value[c];
    if (!change)
      for (int64_t i = 0; i < area; i++) to[i] = value[plane[i]];
    else
      for (int64_t i = 0; i < area; i++) {
        double x = (double)(i % d->width), y = (double)(i / d->width);
        to[i] = sample(plane, value, d->width, d->height, m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]);
      }
  }
}

int lk_loader_next(lk_loader *l, lk_batch *batch) {
  if (!l) return 0;
  if (l->at.position >= l->usable) {
    l->at = (lk_cursor){l->at.epoch + 1, 0};
    return 0;
  }
  const lk_dataset *d = l->data;
  int64_t left = l->usable - l->at.position, n = left < l->o.batch ? left : l->o.batch;
  arrange(l);
  const int64_t *index = l->order + l->at.position;
  for (int64_t i = 0; i < n; i++) {
    fill(l, index[i], l->images + i * d->channels * d->height * d->width);
    l->labels[i] = d->labels[index[i]];
  }
  *batch = (lk_batch){n, d->channels, d->height, d->width, l->images, l->labels, index};
  l->at.position += n;
  return 1;
}

int64_t lk_loader_steps(const lk_loader *l) { return l ? l->usable / l->o.batch + (l->usable % l->o.batch != 0) : 0; }

lk_cursor lk_loader_cursor(const lk_loader *l) { return l ? l->at : (lk_cursor){0, 0}; }

lk_status lk_loader_seek(lk_loader *l, lk_cursor at) {
  if (!l) return LK_ENIL;
  int whole = at.position % l->o.batch == 0 || at.position == l->usable;
  if (at.epoch < 0 || at.position < 0 || at.position > l->usable || !whole)
    return lk_fail(l->data->ctx, LK_EARG, "loader: no batch of %lld begins at image %lld of %lld in epoch %lld",
                   (long long)l->o.batch, (long long)at.position, (long long)l->usable, (long long)at.epoch);
  l->at = at;
  return LK_OK;
}
