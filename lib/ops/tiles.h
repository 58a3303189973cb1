/* tiles.h: products with a weight that is stored in fewer bits: some rows at a time become real numbers. */
#ifndef LK_TILES_H
#define LK_TILES_H
#include <lorikeet/op.h>

/* A weight W [out, in] and how its rows are read. */
typedef struct lk_tiles {
  int64_t out, in;
  const void *source;
  /* Rows first .. first + n - 1 into to [n, in], row-major, of the dtype. */
  void (*decode)(const void *source, int64_t first, int64_t n, lk_dtype dtype, void *to);
} lk_tiles;

/* A vector as a matrix of one row. */
lk_view lk_rows_of(const lk_view *v);
/* y = beta y + s x W^T: x [..., in], y [..., out], at least two axes */
void lk_tiles_linear(lk_call *c, lk_view x, const lk_tiles *W, double s, double beta, lk_view y);
/* gx = beta gx + s gy W */
void lk_tiles_linear_back(lk_call *c, lk_view gy, const lk_tiles *W, double s, double beta, lk_view gx);
/* All of W into to [out, in], row-major. */
void lk_tiles_decode(lk_call *c, const lk_tiles *W, lk_dtype dtype, void *to);

#endif
