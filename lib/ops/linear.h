/* linear.h: what linear, quant_linear and accumulate share. */
#ifndef LK_LINEAR_H
#define LK_LINEAR_H
#include <lorikeet/op.h>

/* Sets *y to x [..., in] W [out, in]^T, [..., out]; refuses through lk_op_fail. */
int lk_linear_shape(lk_call *c, const lk_view *x, const lk_view *W, lk_view *y);
/* y = beta y + s x W^T */
void lk_linear_rows(lk_call *c, const lk_view *x, const lk_view *W, double s, double beta);
/* The gradients of inputs ix (x) and ix + 1 (W), those that are wanted:  gx += s gy W,  gW += s gy^T x */
void lk_linear_rows_back(lk_call *c, int ix, double s);
/* y += b in every row, and its gradient if it is wanted: gb += the columns' sums of gy.  b is the last input. */
void lk_linear_bias(lk_call *c);
void lk_linear_bias_back(lk_call *c);

#endif
