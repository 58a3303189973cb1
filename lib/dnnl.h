/* dnnl.h: products of f32 values with frozen weights stored in bf16, in the processor's bf16 instructions: both operands
 * in bf16, sums in f32. */
#ifndef LK_DNNL_H
#define LK_DNNL_H
#include <lorikeet/op.h>

/* What a context keeps for them. */
typedef struct lk_dnnl lk_dnnl;

/* NULL with a recorded error: out of memory, the library was built without oneDNN, or the processor lacks the
 * instructions. */
lk_dnnl *lk_dnnl_new(lk_ctx *ctx);
void lk_dnnl_free(lk_ctx *ctx, lk_dnnl *d);
/* 1 if lk_dnnl_product is for these: the context wants it, x is f32, W bf16, and there is something to multiply. */
int lk_dnnl_takes(const lk_call *c, const lk_view *x, const lk_view *W);
/* y = beta y + (s x) W + bias, with s x rounded to bf16: x [..., k], W [k, n], bias [n] or NULL, y [..., n], any strides;
 * a y of stride 0 sums.  beta is 0 or 1; 0 does not read y.  The bits do not depend on the number of threads. */
void lk_dnnl_product(lk_call *c, const lk_view *x, const lk_view *W, double s, double beta, const lk_view *bias,
                     const lk_view *y);

#endif
