/* measure.c: see measure.h. */
#include "measure.h"

#include <stdlib.h>
#include <time.h>

static double read_clock(clockid_t id) {
  struct timespec t = {0, 0};
  clock_gettime(id, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double measure_now(void) { return read_clock(CLOCK_MONOTONIC); }
double measure_cpu(void) { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double measure_quantile(double *x, int64_t n, double q) {
  qsort(x, (size_t)n, sizeof *x, compare);
  return x[(int64_t)(q * (double)(n - 1) + .5)];
}

double measure_sgemm(lk_ctx *ctx, double (*clock)(void)) {
  const int64_t n = 2048, shape[] = {n, n};
  double best = 0;
  lk_tape *t = lk_tape_new(ctx);
  for (int i = 0; i < 2; i++) {
    lk_tape_reset(t);
    lk_no_grad(t, 1);
    lk_tensor a = lk_input(t, LK_F32, 2, shape, NULL), b = lk_input(t, LK_F32, 2, shape, NULL);
    double start = clock();
    lk_matmul(t, a, b);
    double rate = 2 * (double)(n * n * n) / (clock() - start) / 1e9;
    if (rate > best) best = rate;
  }
  lk_tape_free(t);
  return best;
}
