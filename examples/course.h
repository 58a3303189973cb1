/* course.h: the three things that every part of the course would otherwise repeat. */
#ifndef COURSE_H
#define COURSE_H
#include <lorikeet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The last line of each main: tells the first error, if there was one, and gives the exit status.  Errors are sticky, so
 * asking once is enough; what a program claims and finds untrue it reports with lk_fail, and so lands here too. */
static inline int finish(lk_ctx *ctx) {
  const char *message;
  int failed = lk_error(ctx, &message) != LK_OK;
  if (failed) fprintf(stderr, "error: %s\n", message);
  lk_ctx_free(ctx);
  return failed;
}

/* AdamW over whatever trains in the model now: all of it, or after lk_attach the adapter alone. */
static inline lk_optim *adamw(lk_model *model, double lr) {
  lk_optim_options options = lk_optim_defaults(&lk_optim_adamw);
  int n = 0;
  lk_param **params = model ? lk_trainable(model, &n) : NULL;
  if (!params) return NULL;
  options.lr = lr;
  lk_optim *opt = lk_optim_new(lk_model_ctx(model), &lk_optim_adamw, &options, params, n);
  lk_free(lk_model_ctx(model), params);
  return opt;
}

/* max |a[i] - b[i]| of two arrays. */
static inline double largest_difference(int64_t n, const float *a, const float *b) {
  double largest = 0;
  for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)a[i] - b[i]));
  return largest;
}
#endif
