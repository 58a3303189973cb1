/* gemm_kernel.h: f32 products that are too small or too thin for BLIS.
 *
 * BLIS packs both factors and takes a lock for the memory to pack into; below about 200^3, or with a factor of a few
 * columns, that costs more than the product.  Where BLIS has no kernels of its own for small sizes (its AVX-512 ones),
 * this kernel reads the factors where they lie. */
#ifndef LK_GEMM_KERNEL_H
#define LK_GEMM_KERNEL_H
#include <stdint.h>

/* 1 where the kernel runs: AVX-512. */
int lk_kernel_usable(void);
/* y = alpha a b + beta y with one thread; a [m, k] of any strides, b [k, n] and y [m, n] with adjacent columns and
 * rows rsb and rsy apart.  beta 0 does not read y.  k > 0.  An element's sum does not depend on m and n, so any
 * division of y among threads gives the same bits. */
void lk_kernel_sgemm(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t rsa, int64_t csa,
                     const float *b, int64_t rsb, float beta, float *y, int64_t rsy);
/* to [columns, rows] = from [rows, columns] transposed; rows of `from` are `row` elements apart, of `to` ld. */
void lk_kernel_transpose(int64_t rows, int64_t columns, const float *from, int64_t row, float *to, int64_t ld);

#endif
