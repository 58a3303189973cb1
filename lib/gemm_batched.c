/* gemm_batched.c: products over leading axes, as few large ones or as many small ones in parallel. */
#include "gemm.h"

#include <string.h>

#define PIECE 1e6     /* multiplications worth a thread's while */
#define LEAST_ROWS 48 /* below which a piece would be packing rather than multiplying */

typedef struct batched {
  lk_view a, b, y;
  int axes; /* leading ones, in the front of shape and stride */
  double alpha, beta;
  int64_t free, sums; /* indices that choose an element of y, and that add to one */
  int64_t pieces, rows;
} batched;

lk_view lk_gemm_transpose(lk_view v) {
  lk_view r = v;
  int i = v.ndim - 2, j = v.ndim - 1;
  r.shape[i] = v.shape[j], r.stride[i] = v.stride[j];
  r.shape[j] = v.shape[i], r.stride[j] = v.stride[i];
  return r;
}

lk_view lk_gemm_spread(lk_view v, const lk_view *like) {
  lk_view r = *like;
  int missing = like->ndim - v.ndim;
  r.p = v.p;
  for (int d = 0; d < r.ndim; d++) {
    int own = d - missing, leading = d < r.ndim - 2;
    if (!leading) r.shape[d] = v.shape[own];
    r.stride[d] = own < 0 || (leading && v.shape[own] == 1) ? 0 : v.stride[own];
  }
  return r;
}

static void drop_axis(lk_view *v, int axis) {
  v->ndim--;
  for (int d = axis; d < v->ndim; d++) {
    v->shape[d] = v->shape[d + 1];
    v->stride[d] = v->stride[d + 1];
  }
}

/* Can leading axis d of v continue its axis `matrix` (ndim - 2 or ndim - 1)? */
static int continues(const lk_view *v, int d, int matrix) {
  return v->shape[matrix] == 1 || v->stride[d] == v->shape[matrix] * v->stride[matrix];
}

static void join(lk_view *v, int d, int matrix) {
  if (v->shape[matrix] == 1) v->stride[matrix] = v->stride[d];
  v->shape[matrix] *= v->shape[d];
}

/* Makes leading axis d part of rows, columns or depth: a matrix axis that u and v share, while w repeats along d. */
static int merge_into(lk_view *u, int u_axis, lk_view *v, int v_axis, const lk_view *w, int d) {
  if (w->stride[d] || !continues(u, d, u_axis) || !continues(v, d, v_axis)) return 0;
  join(u, d, u_axis);
  join(v, d, v_axis);
  return 1;
}

static int merge_axis(batched *q, int d) {
  lk_view *a = &q->a, *b = &q->b, *y = &q->y;
  int i = q->axes, j = q->axes + 1; /* the matrix axes */
  if (y->shape[d] == 1) return 1;
  if (!y->stride[d]) return y->shape[d] && a->shape[j] && merge_into(a, j, b, i, y, d);
  return merge_into(a, i, y, i, b, d) || merge_into(b, j, y, j, a, d);
}

static void simplify(batched *q) {
  for (int d = q->axes - 1; d >= 0; d--) {
    if (!merge_axis(q, d)) continue;
    drop_axis(&q->a, d);
    drop_axis(&q->b, d);
    drop_axis(&q->y, d);
    q->axes--;
    d = q->axes; /* what did not fit before may fit now */
  }
}

static void *at(const lk_view *v, int64_t offset) { return (char *)v->p + offset * (int64_t)lk_dtype_size(v->dtype); }

/* Moves the three pointers of r to index i of the axes of q along which y stands still (sums) or moves. */
static void locate(const batched *q, int sums, int64_t i, lk_view *a, lk_view *b, lk_view *y) {
  int64_t oa = 0, ob = 0, oy = 0;
  for (int d = q->axes - 1; d >= 0; d--) {
    if (sums != (q->y.stride[d] == 0)) continue;
    int64_t k = i % q->y.shape[d];
    i /= q->y.shape[d];
    oa += k * q->a.stride[d];
    ob += k * q->b.stride[d];
    oy += k * q->y.stride[d];
  }
  a->p = at(a, oa);
  b->p = at(b, ob);
  y->p = at(y, oy);
}

static lk_view matrix_of(const lk_view *v, int axes) {
  lk_view r = {.p = v->p, .dtype = v->dtype, .ndim = 2};
  for (int d = 0; d < 2; d++) {
    r.shape[d] = v->shape[axes + d];
    r.stride[d] = v->stride[axes + d];
  }
  return r;
}

/* Item i: a piece of the rows of one element of y, all its terms in order. */
static void items(void *arg, int64_t from, int64_t to, int thread) {
  const batched *q = arg;
  (void)thread;
  for (int64_t i = from; i < to; i++) {
    lk_view a = matrix_of(&q->a, q->axes), b = matrix_of(&q->b, q->axes), y = matrix_of(&q->y, q->axes);
    int64_t row = i % q->pieces * q->rows, m = y.shape[0] - row < q->rows ? y.shape[0] - row : q->rows;
    locate(q, 0, i / q->pieces, &a, &b, &y);
    for (int64_t s = 0; s < q->sums; s++) {
      lk_view as = a, bs = b, ys = y;
      locate(q, 1, s, &as, &bs, &ys);
      lk_gemm_raw(y.dtype, m, y.shape[1], a.shape[1], q->alpha, at(&as, row * a.stride[0]), a.stride[0], a.stride[1],
                  bs.p, b.stride[0], b.stride[1], s ? 1 : q->beta, at(&ys, row * y.stride[0]), y.stride[0],
                  y.stride[1]);
    }
  }
}

/* One after the other, BLIS's threads on each. */
static void large_ones(lk_call *c, const batched *q) {
  for (int64_t i = 0; i < q->free; i++)
    for (int64_t s = 0; s < q->sums; s++) {
      lk_view a = matrix_of(&q->a, q->axes), b = matrix_of(&q->b, q->axes), y = matrix_of(&q->y, q->axes);
      locate(q, 0, i, &a, &b, &y);
      locate(q, 1, s, &a, &b, &y);
      lk_gemm(c, &a, &b, q->alpha, s ? 1 : q->beta, &y);
    }
}

/* Cut into items: an element of y, or some of its rows if that is much work; bits depend on sizes only. */
static void many(lk_call *c, batched *q, int64_t m, int64_t n, int64_t k) {
  double work = (double)m * (double)n * (double)k * (double)q->sums;
  lk_count_flops(c, 2 * work * (double)q->free);
  double cuts = work / PIECE, most = (double)((m - 1) / LEAST_ROWS + 1);
  q->pieces = cuts < 1 ? 1 : (int64_t)(cuts < most ? cuts : most);
  q->rows = ((m - 1) / q->pieces / 12 + 1) * 12;
  q->pieces = (m - 1) / q->rows + 1;
  double grain = work > 0 ? PIECE / (work / (double)q->pieces) : 1e9;
  lk_parallel(c->threads, q->free * q->pieces, grain < 1 ? 1 : grain > 1e9 ? 1000000000 : (int64_t)grain, items, q);
}

void lk_gemm_zero(const lk_view *y) {
  static const double zero = 0; /* the bits of 0.0f too */
  lk_view z = *y;
  memcpy(&z.p, &(const void *){&zero}, sizeof z.p); /* only read */
  for (int d = 0; d < z.ndim; d++) z.stride[d] = 0;
  lk_view_copy(y, &z);
}

/* y repeats inside its rows or columns: all elements apart, then summed. */
static void apart(lk_call *c, const lk_view *a, const lk_view *b, double alpha, double beta, const lk_view *y) {
  lk_view each;
  lk_view_init(&each, y->dtype, y->ndim, y->shape);
  each.p = lk_scratch(c, lk_view_bytes(&each));
  if (!each.p) return;
  lk_gemm_batched(c, *a, *b, alpha, 0, each);
  if (beta == 0) lk_gemm_zero(y);
  lk_view_add(y, &each, 1);
}

static int repeats(const lk_view *y, int axis) { return y->shape[axis] > 1 && y->stride[axis] == 0; }

void lk_gemm_batched(lk_call *c, lk_view a, lk_view b, double alpha, double beta, lk_view y) {
  batched q = {.a = a, .b = b, .y = y, .axes = y.ndim - 2, .alpha = alpha, .beta = beta, .free = 1, .sums = 1};
  if (repeats(&y, y.ndim - 2) || repeats(&y, y.ndim - 1)) {
    apart(c, &a, &b, alpha, beta, &y);
    return;
  }
  simplify(&q);
  for (int d = 0; d < q.axes; d++) *(q.y.stride[d] ? &q.free : &q.sums) *= q.y.shape[d];
  if (!q.sums) { /* nothing to add */
    q.a.shape[q.axes + 1] = 0;
    for (int d = 0; d < q.axes; d++) q.y.shape[d] = q.y.stride[d] ? q.y.shape[d] : 1;
    q.sums = 1;
  }
  int64_t m = q.y.shape[q.axes], n = q.y.shape[q.axes + 1], k = q.a.shape[q.axes + 1];
  if (!q.free || !m || !n) return;
  if (q.axes == 0) lk_gemm(c, &q.a, &q.b, alpha, beta, &q.y);
  else if (lk_gemm_is_large(m, n, k)) large_ones(c, &q);
  else many(c, &q, m, n, k);
}
