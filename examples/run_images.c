/* run_images.c: images as a task of the training loop. */
#include "run_task.h"

#include <math.h>

typedef struct image_task {
  run_task task;
  run_model *m;
  const run_data *data;
  lk_dataset *part; /* in place of the training images, for a sample */
  double smoothing;
  lk_loader *loader;
  lk_batch batch;
} image_task;

static const lk_dataset *images(const run_task *t, run_part part) {
  const image_task *s = (const image_task *)t;
  const lk_dataset *const sets[] = {s->part ? s->part : s->data->train, s->part ? NULL : s->data->validation,
                                    s->data->test};
  return sets[part];
}

static int64_t examples(const run_task *t, run_part part) {
  const lk_dataset *d = images(t, part);
  return d ? d->count : 0;
}

static lk_status check(run_task *t) {
  const lk_vit_config *c = &((image_task *)t)->m->vit->config;
  const lk_dataset *d = images(t, RUN_TRAIN);
  if (d->channels == c->channels && d->height == c->image_size && d->width == c->image_size) return LK_OK;
  return lk_fail(t->ctx, LK_ESHAPE,
                 "the images are %lld x %lld with %lld channels, the model wants %lld x %lld with %lld",
                 (long long)d->height, (long long)d->width, (long long)d->channels, (long long)c->image_size,
                 (long long)c->image_size, (long long)c->channels);
}

/* FNV-1a of pixels and labels. */
static uint64_t fingerprint(const run_task *t) {
  const lk_dataset *d = images(t, RUN_TRAIN);
  uint64_t hash = 0xcbf29ce484222325;
  for (int64_t i = 0; i < d->count; i++) hash = (hash ^ (uint64_t)d->labels[i]) * 0x100000001b3;
  for (int64_t i = 0, n = d->count * d->channels * d->height * d->width; i < n; i++)
    hash = (hash ^ d->pixels[i]) * 0x100000001b3;
  return hash;
}

/* ---- batches ---- */

static lk_status start(run_task *t, const run_options *r) {
  image_task *s = (image_task *)t;
  const double a = r->augment;
  lk_loader_options o = {.batch = r->batch, .seed = lk_seed(t->ctx), .shuffle = 1};
  o.augment = (lk_augment){.shift = 1.5 * a, .rotate = 10 * a, .scale = .1 * fmin(a, 5), .shear = .1 * a};
  run_normalise(s->m, &o);
  s->smoothing = r->smoothing;
  s->loader = lk_loader_new(images(t, RUN_TRAIN), &o);
  return lk_error(t->ctx, NULL);
}

static int64_t next(run_task *t) {
  image_task *s = (image_task *)t;
  return lk_loader_next(s->loader, &s->batch) ? s->batch.n : 0;
}

static lk_cursor cursor(const run_task *t) { return lk_loader_cursor(((const image_task *)t)->loader); }

static lk_status seek(run_task *t, lk_cursor at) { return lk_loader_seek(((image_task *)t)->loader, at); }

static void finish(run_task *t) {
  image_task *s = (image_task *)t;
  lk_loader_free(s->loader);
  s->loader = NULL;
}

static lk_tensor loss(run_task *t, lk_tape *tape, int64_t from, int64_t n) {
  image_task *s = (image_task *)t;
  const lk_batch *b = &s->batch;
  const int64_t shape[] = {n, b->channels, b->height, b->width};
  lk_tensor x = lk_input(tape, LK_F32, 4, shape, b->images + from * b->channels * b->height * b->width);
  lk_tensor labels = lk_input(tape, LK_I64, 1, &n, b->labels + from);
  return lk_cross_entropy(tape, lk_vit_forward(s->m->vit, tape, x), labels, -100, s->smoothing);
}

static double weight(const run_task *t, int64_t from, int64_t n) {
  (void)from;
  return (double)n / (double)((const image_task *)t)->batch.n;
}

/* ---- judging, sampling ---- */

static lk_status evaluate(run_task *t, run_part part, run_guess *guesses, run_score *score) {
  return run_evaluate(((image_task *)t)->m, images(t, part), guesses, score);
}

static lk_status sample(run_task *t, int64_t n) {
  image_task *s = (image_task *)t;
  lk_dataset_free(s->part);
  s->part = n ? lk_dataset_limit(s->data->train, n, lk_seed(t->ctx)) : NULL;
  return lk_error(t->ctx, NULL);
}

static const run_task_class class = {.unit = "images",
                                     .check = check,
                                     .examples = examples,
                                     .fingerprint = fingerprint,
                                     .start = start,
                                     .next = next,
                                     .cursor = cursor,
                                     .seek = seek,
                                     .finish = finish,
                                     .loss = loss,
                                     .weight = weight,
                                     .evaluate = evaluate,
                                     .sample = sample};

run_task *run_images_new(run_model *m, const run_data *data) {
  image_task *s = lk_alloc(m->ctx, sizeof *s);
  if (!s) return NULL;
  *s = (image_task){.task = {&class, m->ctx, m->model}, .m = m, .data = data};
  return &s->task;
}

void run_images_free(run_task *t) {
  if (t) lk_free(t->ctx, t);
}

lk_status run_train(run_model *m, const run_data *data, const run_options *o, run_result *result) {
  run_task *t = run_images_new(m, data);
  *result = (run_result){0};
  if (t) run_task_train(t, o, result);
  run_images_free(t);
  return lk_error(m->ctx, NULL);
}
