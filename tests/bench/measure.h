/* measure.h: clocks, quantiles and the machine's speed: what the benchmarks share. */
#ifndef MEASURE_H
#define MEASURE_H
#include <lorikeet.h>

double measure_now(void);                                /* seconds */
double measure_cpu(void);                                /* the same, of all threads of this process together */
double measure_quantile(double *x, int64_t n, double q); /* sorts x; q in [0, 1] */
/* The better of two products of 2048 x 2048 matrices, GFLOP per second of a clock. */
double measure_sgemm(lk_ctx *ctx, double (*clock)(void));

#endif
