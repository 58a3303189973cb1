/* tiles.c: products with a weight that is stored in fewer bits. */
#include "tiles.h"

#include "gemm.h"
#include "rows.h"

typedef struct {
  const lk_tiles *W;
  int64_t first;
  lk_dtype dtype;
  char *to;
} tile;

static void decode_rows(void *arg, int64_t from, int64_t to, int thread) {
  const tile *k = arg;
  (void)thread;
  k->W->decode(k->W->source, k->first + from, to - from, k->dtype,
               k->to + from * k->W->in * (int64_t)lk_dtype_size(k->dtype));
}

/* Rows first .. first + n - 1 in `room`. */
static lk_view decoded(lk_call *c, const lk_tiles *W, int64_t first, int64_t n, lk_dtype dtype, void *room) {
  tile k = {.W = W, .first = first, .dtype = dtype, .to = room};
  lk_view v;
  lk_view_init(&v, dtype, 2, (int64_t[]){n, W->in});
  v.p = room;
  lk_parallel(c->threads, n, lk_row_grain(W->in), decode_rows, &k);
  return v;
}

void lk_tiles_decode(lk_call *c, const lk_tiles *W, lk_dtype dtype, void *to) { decoded(c, W, 0, W->out, dtype, to); }

/* Rows of a tile: about 4 MB, which stay in the cache; many, since BLIS packs x anew for each tile. */
static int64_t tile_rows(const lk_tiles *W) {
  int64_t n = (1 << 20) / (W->in + 1);
  n = n < 256 ? 256 : n;
  return n < W->out ? n : W->out;
}

static lk_view columns(lk_view v, int64_t first, int64_t n) {
  int d = v.ndim - 1;
  v.p = (char *)v.p + first * v.stride[d] * (int64_t)lk_dtype_size(v.dtype);
  v.shape[d] = n;
  return v;
}

lk_view lk_rows_of(const lk_view *v) {
  lk_view r = *v;
  if (v->ndim > 1) return r;
  r.ndim = 2;
  r.shape[0] = 1, r.stride[0] = 0;
  r.shape[1] = v->shape[0], r.stride[1] = v->stride[0];
  return r;
}

void lk_tiles_linear(lk_call *c, lk_view x, const lk_tiles *W, double s, double beta, lk_view y) {
  int64_t most = tile_rows(W);
  void *room = lk_scratch(c, (size_t)(most * W->in) * lk_dtype_size(x.dtype));
  for (int64_t i = 0; room && i < W->out; i += most) {
    int64_t n = i + most < W->out ? most : W->out - i;
    lk_view rows = decoded(c, W, i, n, x.dtype, room), yi = columns(y, i, n);
    lk_gemm_batched(c, x, lk_gemm_spread(lk_gemm_transpose(rows), &yi), s, beta, yi);
  }
}

void lk_tiles_linear_back(lk_call *c, lk_view gy, const lk_tiles *W, double s, double beta, lk_view gx) {
  int64_t most = tile_rows(W);
  void *room = lk_scratch(c, (size_t)(most * W->in) * lk_dtype_size(gx.dtype));
  int64_t i = 0;
  if (!room) return;
  do { /* also without rows: gx must be written */
    int64_t n = i + most < W->out ? most : W->out - i;
    lk_view rows = decoded(c, W, i, n, gx.dtype, room), gi = columns(gy, i, n);
    lk_gemm_batched(c, gi, lk_gemm_spread(rows, &gi), s, beta, gx);
    i += most;
    beta = 1;
  } while (i < W->out);
}
