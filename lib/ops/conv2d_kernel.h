/* conv2d_kernel.h: a convolution as matrix products: its sizes, and the matrix of the pixels that kernels meet. */
#ifndef LK_CONV2D_KERNEL_H
#define LK_CONV2D_KERNEL_H
#include <lorikeet/conv.h>
#include <lorikeet/tensor.h>

typedef struct lk_conv {
  lk_conv2d_options o;
  int64_t n, h, w;        /* samples, height and width of the input */
  int64_t kh, kw, yh, yw; /* kernel, result */
  int64_t cin, cout;      /* channels of one group */
  int64_t depth, pixels;  /* cin kh kw; yh yw */
} lk_conv;

/* The part of that matrix [depth, pixels] of one sample and group that rows k0 .. k1 - 1 (channel, then place in the
 * kernel) and columns p0 .. p1 - 1 (pixels of the result) make.  Element (k, p) lies at (k - k0) ks + (p - p0) ps. */
typedef struct lk_patch {
  int64_t sample, group, k0, k1, p0, p1, ks, ps;
} lk_patch;

/* cols = pixels of x [N, C, H, W], 0 in the padding */
void lk_im2col(const lk_conv *s, const lk_view *x, const lk_patch *part, void *cols);
/* pixels of gx += cols */
void lk_col2im(const lk_conv *s, const lk_view *gx, const lk_patch *part, const void *cols);

#endif
