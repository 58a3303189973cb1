/* reduce.h: what reductions share: the axes that they take, and views of the result repeated along these. */
#ifndef LK_REDUCE_H
#define LK_REDUCE_H
#include "map.h"

typedef struct lk_reduction {
  int naxes; /* 0: all */
  int axes[LK_MAXDIM];
  int keepdim;
  double number; /* norm: p; var: correction */
} lk_reduction;

/* Cases over all kinds of axes, with this number, and elements in [lo, hi). */
#define LK_REDUCE_CASES(number, lo, hi)                                                                                \
  {"3x5x4", &(lk_reduction){1, {-1}, 0, number}, lo, hi, 0}, {"3x5x4", &(lk_reduction){1, {0}, 1, number}, lo, hi, 0}, \
      {"3x5x4", &(lk_reduction){2, {2, 0}, 0, number}, lo, hi, 0},                                                     \
      {"3x5x4", &(lk_reduction){2, {1, -1}, 1, number}, lo, hi, 0},                                                    \
      {"2x3x2x3", &(lk_reduction){2, {0, 2}, 0, number}, lo, hi, 0},                                                   \
      {"7", &(lk_reduction){0, {0}, 0, number}, lo, hi, 0}, {"3x5", &(lk_reduction){0, {0}, 1, number}, lo, hi, 0},    \
      {"1x4x1", &(lk_reduction){1, {1}, 0, number}, lo, hi, 0},                                                        \
      {"3x1x2", &(lk_reduction){1, {1}, 0, number}, lo, hi, 0}, {                                                      \
    "-", &(lk_reduction){0, {0}, 0, number}, lo, hi, 0                                                                 \
  }

/* Runs op over these axes (negative ones count from the end; naxes = 0: all of them). */
lk_tensor lk_reduce(lk_tape *t, const lk_op *op, lk_tensor x, int naxes, const int *axes, int keepdim, double number);
/* The shape function of reductions that have a value for no elements, and of those that have not. */
int lk_reduce_shape(lk_call *c);
int lk_reduce_shape_nonempty(lk_call *c);
/* Elements per result. */
int64_t lk_reduce_size(const lk_call *c);
/* A view in the shape of x of `small`, which has the shape of y: repeated along the reduced axes. */
lk_view lk_reduce_spread(const lk_call *c, const lk_view *small);
/* A row-major view in the shape of y on memory p. */
lk_view lk_reduce_like_y(const lk_call *c, void *p);
/* small = fold over the reduced axes of kernel(x, spread other). */
int lk_reduce_map(lk_call *c, const lk_view *small, lk_kernel kernel, const lk_view *other, lk_fold fold,
                  double (*finish)(double, const void *));
/* gx += kernel(gy, x, y), and other as run 3; all spread, those that the op does not read absent. */
int lk_reduce_grad(lk_call *c, lk_kernel kernel, const lk_view *other);
/* The gradient of a largest or smallest element: the sum of is_one(x, y) is how many attain it; gx += slope(gy, x, y,
 * that count). */
int lk_reduce_share(lk_call *c, lk_kernel is_one, lk_kernel slope);

#endif
