/* gemm.h: what the library shares about matrix products besides lk_gemm and lk_gemm_raw of lorikeet/op.h. */
#ifndef LK_GEMM_H
#define LK_GEMM_H
#include <lorikeet/op.h>

/* Starts BLIS with the kernels that fit this processor; once per process, from any thread. */
void lk_blis_init(void);
/* The name of BLIS's kernels, e.g. "zen3". */
const char *lk_gemm_arch(void);
/* 1 for a product of sizes m, n, k that BLIS's own threads should share. */
int lk_gemm_is_large(int64_t m, int64_t n, int64_t k);

/* y = beta y + alpha a b for every index of the leading axes: a [..., m, k], b [..., k, n], y [..., m, n].  All three
 * have the same number of axes and the same leading sizes; stride 0 repeats in a and b, and sums in y.  beta is 0 or 1;
 * 0 does not read y.  Axes that lie so are made rows, columns or depth of one larger product first. */
void lk_gemm_batched(lk_call *c, lk_view a, lk_view b, double alpha, double beta, lk_view y);
/* Zeros in all of y, any strides. */
void lk_gemm_zero(const lk_view *y);
/* The view with its last two axes swapped. */
lk_view lk_gemm_transpose(lk_view v);
/* The view with leading axes as those of `like`: repeated (stride 0) where it has none or size 1. */
lk_view lk_gemm_spread(lk_view v, const lk_view *like);

#endif
