/* run_judge.c: accuracy and loss of a classifier. */
#include "run.h"

#include <math.h>

enum { BATCH = 200 };

void run_normalise(const run_model *m, lk_loader_options *o) {
  for (int c = 0; c < LK_MAXCHANNELS; c++) {
    o->mean[c] = m->images.mean[c];
    o->std[c] = m->images.std[c];
  }
}

double run_guess_of(const float *logits, int64_t classes, int64_t label, run_guess *guess) {
  int64_t best = 0;
  double sum = 0;
  for (int64_t c = 1; c < classes; c++)
    if (logits[c] > logits[best]) best = c;
  for (int64_t c = 0; c < classes; c++) sum += exp((double)logits[c] - (double)logits[best]);
  *guess = (run_guess){best, 1 / sum};
  return log(sum) - ((double)logits[label] - (double)logits[best]);
}

static lk_status judge_batch(run_model *m, lk_tape *t, const lk_batch *b, run_guess *guesses, run_score *sums) {
  const int64_t shape[] = {b->n, b->channels, b->height, b->width}, classes = m->vit->config.classes;
  lk_view y;
  lk_tape_reset(t);
  lk_tensor logits = lk_vit_forward(m->vit, t, lk_input(t, LK_F32, 4, shape, b->images));
  if (lk_error(m->ctx, NULL) || lk_get(t, logits, &y)) return lk_error(m->ctx, NULL);
  for (int64_t i = 0; i < b->n; i++) {
    run_guess guess;
    double loss = run_guess_of((const float *)y.p + i * y.stride[0], classes, b->labels[i], &guess);
    if (!isfinite(loss))
      return lk_fail(m->ctx, LK_ENONFINITE, "the outputs for image %lld are not finite", (long long)b->index[i]);
    sums->loss += loss;
    sums->accuracy += guess.prediction == b->labels[i];
    if (guesses) guesses[b->index[i]] = guess;
  }
  return LK_OK;
}

lk_status run_evaluate(run_model *m, const lk_dataset *d, run_guess *guesses, run_score *score) {
  lk_loader_options o = {.batch = BATCH};
  lk_batch batch;
  *score = (run_score){0, 0};
  if (d->classes > m->vit->config.classes)
    return lk_fail(m->ctx, LK_EARG, "the images are of %lld classes, the model knows %lld", (long long)d->classes,
                   (long long)m->vit->config.classes);
  run_normalise(m, &o);
  lk_tape *t = lk_tape_new(m->ctx);
  lk_loader *l = t ? lk_loader_new(d, &o) : NULL;
  if (t) lk_no_grad(t, 1);
  while (l && !lk_error(m->ctx, NULL) && lk_loader_next(l, &batch)) judge_batch(m, t, &batch, guesses, score);
  lk_loader_free(l);
  if (t) lk_tape_free(t);
  score->accuracy /= (double)d->count;
  score->loss /= (double)d->count;
  return lk_error(m->ctx, NULL);
}
