/* run.c: the training loop of an image classifier: the best parameters at its end, checkpoints on its way. */
#include "run.h"

#include "run_resume.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct run {
  run_model *m;
  lk_ctx *ctx;
  const run_data *data;
  const run_options *o;
  run_result *result;
  lk_tape *tape;
  lk_loader *loader;
  lk_optim *optim;
  lk_schedule schedule;
  lk_progress at;
  lk_snapshot *best; /* of the parameters at step at.best_step */
  lk_metrics *metrics;
  lk_bar bar;
  char *note, *checkpoint, *best_file, *metrics_file; /* NULL without a directory */
  double *times;                                      /* ms, of the steps done now */
  size_t nlosses, losses_capacity, times_capacity;
} run;

static double now_ms(void) {
  struct timespec t = {0, 0};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

/* ---- a step ---- */

static lk_tensor images_of(lk_tape *t, const lk_batch *b, int64_t from, int64_t n) {
  const int64_t shape[] = {n, b->channels, b->height, b->width};
  return lk_input(t, LK_F32, 4, shape, b->images + from * b->channels * b->height * b->width);
}

static lk_tensor labels_of(lk_tape *t, const lk_batch *b, int64_t from, int64_t n) {
  return lk_input(t, LK_I64, 1, &n, b->labels + from);
}

/* Images from .. from + n - 1 of a batch: adds the gradients of their share of its loss, which is returned. */
static double train_part(run *r, const lk_batch *b, int64_t from, int64_t n) {
  lk_tape *t = r->tape;
  lk_tape_reset(t);
  lk_train(t, (uint64_t)r->at.step, (uint64_t)from);
  lk_tensor logits = lk_vit_forward(r->m->vit, t, images_of(t, b, from, n));
  lk_tensor loss = lk_cross_entropy(t, logits, labels_of(t, b, from, n), -100, r->o->smoothing);
  loss = lk_scale(t, loss, (double)n / (double)b->n);
  lk_backward(t, loss);
  return lk_item(t, loss);
}

static lk_status train_step(run *r, const lk_batch *b, double *loss) {
  int64_t part = (b->n + r->o->accumulate - 1) / r->o->accumulate;
  *loss = 0;
  for (int64_t from = 0; from < b->n; from += part)
    *loss += train_part(r, b, from, from + part < b->n ? part : b->n - from);
  if (!isfinite(*loss)) return not_finite(r, *loss);
  lk_optim_set_lr(r->optim, lk_schedule_lr(&r->schedule, r->at.step));
  return lk_step(r->optim);
}
