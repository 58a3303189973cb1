/* accumulate_rows.c: y[index[k], :] + s h[k, :] B^T in the memory of y: what one expert adds to its tokens. */
#include "index.h"
#include "real.h"

#define COLUMNS 128  /* of y in a piece: repeated rows must meet in one thread */
#define ROWS 48      /* of h in a block of ROWS x COLUMNS products, which stays in the cache until it is added */
#define GATHERED 192 /* rows of gy collected at a time in backward */

enum { Y, INDEX, H, B };

static int shape(lk_call *c) {
  const lk_view *x = c->x;
  int fits = x[Y].ndim == 2 && x[INDEX].ndim == 1 && x[H].ndim == 2 && x[B].ndim == 2;
  if (!fits || x[H].shape[0] != x[INDEX].shape[0] || x[H].shape[1] != x[B].shape[1] || x[B].shape[0] != x[Y].shape[1])
    return lk_op_fail(c, LK_ESHAPE, "should be y [T, out], index [n], h [n, r] and B [out, r]");
  *c->y = x[Y];
  return 0;
}

typedef struct job {
  lk_call *c;
  char *blocks; /* one for each thread */
} job;

static void columns(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  lk_call *c = j->c;
  int64_t size = (int64_t)lk_dtype_size(c->y->dtype), n = c->x[H].shape[0], width = to - from;
  lk_view y = lk_narrow(c->y, 1, from, width), weight = lk_narrow(&c->x[B], 0, from, width), block = y;
  block.p = j->blocks + thread * ROWS * COLUMNS * size;
  block.stride[0] = width, block.stride[1] = 1;
  for (int64_t k = 0; k < n; k += ROWS) {
    int64_t rows = n - k < ROWS ? n - k : ROWS;
    lk_view h = lk_narrow(&c->x[H], 0, k, rows), index = lk_narrow(&c->x[INDEX], 0, k, rows);
    lk_gemm_raw(y.dtype, rows, width, h.shape[1], *(const double *)c->attr, h.p, h.stride[0], h.stride[1], weight.p,
                weight.stride[1], weight.stride[0], 0, block.p, width, 1);
    lk_put_rows(&y, &index, &block);
  }
}

static int fwd(lk_call *c) {
  double work = (double)lk_view_count(&c->x[H]) * (double)c->y->shape[1];
  int threads = work < 65536 ? 1 : c->threads;
  if (lk_check_index(c, &c->x[INDEX], c->y->shape[0])) return -1;
  job j = {c, lk_scratch(c, (size_t)threads * ROWS * COLUMNS * lk_dtype_size(c->y->dtype))};
  if (!j.blocks) return -1;
  lk_count_flops(c, 2 * work);
  lk_parallel(threads, c->y->shape[1], COLUMNS, columns, &j);
  return 0;
}

/* g holds rows k .. of gy[index]:  gh += s g B,  gB += s g^T h */
static void products(lk_call *c, const lk_view *g, int64_t k) {
  double s = *(const double *)c->attr;
  if (c->gx[H].p) {
    lk_view gh = lk_narrow(&c->gx[H], 0, k, g->shape[0]);
    lk_gemm(c, g, &c->x[B], s, c->fresh & LK_X(H) ? 0 : 1, &gh);
  }
  if (c->gx[B].p) {
    lk_view h = lk_narrow(&c->x[H], 0, k, g->shape[0]), gt = *g;
    gt.shape[0] = g->shape[1], gt.stride[0] = g->stride[1];
    gt.shape[1] = g->shape[0], gt.stride[1] = g->stride[0];
    lk_gemm(c, &gt, &h, s, c->fresh & LK_X(B) && k == 0 ? 0 : 1, &c->gx[B]);
  }
}

static int bwd(lk_call *c) {
  int64_t n = c->x[INDEX].shape[0], k = 0, size[2] = {n < GATHERED ? n : GATHERED, c->gy->shape[1]};
  lk_view g;
  lk_view_init(&g, c->gy->dtype, 2, size);
  g.p = lk_scratch(c, lk_view_bytes(&g));
  if (!g.p) return -1;
  do { /* once even for no row: a fresh gB is still to be written */
    g.shape[0] = n - k < GATHERED ? n - k : GATHERED;
    lk_view index = lk_narrow(&c->x[INDEX], 0, k, g.shape[0]);
    lk_index_walk(c, &index, c->gy, &g, 0, LK_TAKE);
    products(c, &g, k);
    k += g.shape[0];
  } while (k < n);
  return 0;
}

static uint32_t reads(const lk_call *c) {
  return (c->want & (LK_X(H) | LK_X(B)) ? LK_X(INDEX) : 0) | (c->want & LK_X(H) ? LK_X(B) : 0) |
         (c->want & LK_X(B) ? LK_X(H) : 0);
}

static const double half = 0.5;
static const lk_case cases[] = {{"4x5 6 6x2 5x2", &half, -1, 1, 4},
                                {"7x3 2 2x4 3x4", &half, -1, 1, 7},
                                {"2x131 5 5x1 131x1", &half, -1, 1, 2},
                                {"3x2 200 200x1 2x1", &half, -1, 1, 3},
                                {"4x3 0 0x2 3x2", &half, -1, 1, 4},
                                {"4x3 5 5x0 3x0", &half, -1, 1, 4},
                                {0}};
const lk_op lk_op_accumulate_rows = {.name = "accumulate_rows",
                                     .nin = 4,
                                     .types = "rirr",
                                     .flags = LK_OP_INPLACE | LK_OP_FRESH,
                                     .attr_size = sizeof(double),
                                     .shape = shape,
                                     .fwd = fwd,
                                     .bwd = bwd,
                                     .reads = reads,
                                     .cases = cases};

/* y[index[k], :] += s h[k, :] B^T, written over y: y [T, out], index [n], h [n, r], B [out, r]; repeated rows are
 * summed in order.  y itself becomes stale: use the result.  An index outside [0, T) is refused, and what
 * lk_accumulate refuses.  Differentiable in y, h and B. */
LK_OP lk_tensor lk_accumulate_rows(lk_tape *t, lk_tensor y, lk_tensor index, lk_tensor h, lk_tensor B, double s) {
  return lk_apply(t, &lk_op_accumulate_rows, 4, (lk_tensor[]){y, index, h, B}, &s);
}
