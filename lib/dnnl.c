/* dnnl.c: products with frozen bf16 weights.  All of oneDNN is here; without it, products in bf16 are refused.
 *
 * y is cut into pieces whose sizes depend on those of y only, each computed by oneDNN with one thread.  Four primitives
 * serve all sizes (their dimensions are known at run time only), so that nothing is made while a model trains. */
#include "dnnl.h"

#include "gemm.h"
#include "half.h"
#include "internal.h"

#ifdef LK_HAVE_DNNL
#include "ops/index.h"
#include "ops/rows.h"
#include "real.h"

#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>
#include <stdatomic.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define ROWS 512    /* of a piece, at most */
#define COLUMNS 384 /* the same */
#define NARROW 96   /* pieces are not made narrower than half of this for the sake of their number */
#define LEAST 4     /* pieces */

struct lk_dnnl {
  dnnl_engine_t engine;
  dnnl_primitive_t multiply[2][2]; /* W by columns?  added to y? */
  size_t scratch[2][2];            /* bytes that each wants per thread */
};

/* ---- primitives ---- */

/* Of a matrix: a dimension or stride of DNNL_RUNTIME_DIM_VAL is not known yet. */
static dnnl_status_t describe(dnnl_memory_desc_t *to, dnnl_data_type_t type, int64_t rows, int64_t columns,
                              int64_t row_stride, int64_t column_stride) {
  const dnnl_dims_t shape = {rows, columns}, stride = {row_stride, column_stride};
  return dnnl_memory_desc_init_by_strides(to, 2, shape, type, stride);
}

/* User mode: oneDNN works in memory of ours. */
static dnnl_status_t set_attributes(dnnl_primitive_attr_t attributes, int adds) {
  dnnl_post_ops_t after = NULL;
  dnnl_status_t bad = dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user);
  if (bad || !adds) return bad;
  bad = dnnl_post_ops_create(&after);
  if (!bad) bad = dnnl_post_ops_append_sum(after, 1);
  if (!bad) bad = dnnl_primitive_attr_set_post_ops(attributes, after);
  if (after) dnnl_post_ops_destroy(after);
  return bad;
}

static dnnl_status_t make_from(lk_dnnl *d, int by_columns, int adds, const dnnl_matmul_desc_t *what,
                               dnnl_primitive_attr_t attributes) {
  dnnl_primitive_desc_t how = NULL;
  dnnl_status_t bad = dnnl_primitive_desc_create(&how, what, attributes, d->engine, NULL);
  if (!bad) bad = dnnl_primitive_create(&d->multiply[by_columns][adds], how);
  if (!bad)
    d->scratch[by_columns][adds] =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(how, dnnl_query_scratchpad_md, 0));
  if (how) dnnl_primitive_desc_destroy(how);
  return bad;
}

static dnnl_status_t make(lk_dnnl *d, int by_columns, int adds) {
  const int64_t any = DNNL_RUNTIME_DIM_VAL;
  dnnl_memory_desc_t x, W, y;
  dnnl_matmul_desc_t what;
  dnnl_primitive_attr_t attributes = NULL;
  dnnl_status_t bad = describe(&x, dnnl_bf16, any, any, any, 1);
  if (!bad) bad = describe(&W, dnnl_bf16, any, any, by_columns ? 1 : any, by_columns ? any : 1);
  if (!bad) bad = describe(&y, dnnl_f32, any, any, any, 1);
  if (!bad) bad = dnnl_matmul_desc_init(&what, &x, &W, NULL, &y);
  if (!bad) bad = dnnl_primitive_attr_create(&attributes);
  if (!bad) bad = set_attributes(attributes, adds);
  if (!bad) bad = make_from(d, by_columns, adds, &what, attributes);
  if (attributes) dnnl_primitive_attr_destroy(attributes);
  return bad;
}

static int has_instructions(void) {
  return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

lk_dnnl *lk_dnnl_new(lk_ctx *c) {
  if (!has_instructions()) {
    lk_fail(c, LK_EARG, "products in bf16: this processor has neither AVX512_BF16 nor AMX");
    return NULL;
  }
  lk_dnnl *d = lk_alloc(c, sizeof *d);
  if (!d) return NULL;
  dnnl_status_t bad = dnnl_engine_create(&d->engine, dnnl_cpu, 0);
  for (int i = 0; i < 4 && !bad; i++) bad = make(d, i / 2, i % 2);
  if (!bad) return d;
  lk_fail(c, bad == dnnl_out_of_memory ? LK_ENOMEM : LK_EARG, "products in bf16: oneDNN says %s", dnnl_status2str(bad));
  lk_dnnl_free(c, d);
  return NULL;
}

void lk_dnnl_free(lk_ctx *c, lk_dnnl *d) {
  if (!d) return;
  for (int i = 0; i < 4; i++)
    if (d->multiply[i / 2][i % 2]) dnnl_primitive_destroy(d->multiply[i / 2][i % 2]);
  if (d->engine) dnnl_engine_destroy(d->engine);
  lk_free(c, d);
}

/* ---- a piece ---- */

typedef struct product {
  const lk_dnnl *d;
  lk_view x, W, y; /* matrices; x in bf16 */
  const lk_view *bias;
  int by_columns, adds;
  int64_t rows, columns, across; /* of a piece; pieces side by side */
  char *scratch;
  atomic_int bad; /* dnnl_status_t of a piece that failed */
} product;

static int64_t rest(int64_t n, int64_t first, int64_t most) { return n - first < most ? n - first : most; }

static dnnl_status_t wrap(const lk_dnnl *d, const lk_view *v, dnnl_exec_arg_t *to) {
  dnnl_memory_desc_t m;
  dnnl_status_t bad =
      describe(&m, v->dtype == LK_BF16 ? dnnl_bf16 : dnnl_f32, v->shape[0], v->shape[1], v->stride[0], v->stride[1]);
  return bad ? bad : dnnl_memory_create(&to->memory, &m, d->engine, v->p);
}

static dnnl_status_t wrap_scratch(const product *q, int thread, dnnl_exec_arg_t *to) {
  size_t size = q->d->scratch[q->by_columns][q->adds];
  const dnnl_dims_t shape = {(int64_t)size};
  dnnl_memory_desc_t m;
  dnnl_status_t bad = dnnl_memory_desc_init_by_tag(&m, 1, shape, dnnl_u8, dnnl_a);
  return bad ? bad : dnnl_memory_create(&to->memory, &m, q->d->engine, q->scratch + (size_t)thread * size);
}

static dnnl_status_t multiply(const product *q, const lk_view *x, const lk_view *W, const lk_view *y, int thread) {
  dnnl_exec_arg_t a[] = {
      {DNNL_ARG_SRC, NULL}, {DNNL_ARG_WEIGHTS, NULL}, {DNNL_ARG_DST, NULL}, {DNNL_ARG_SCRATCHPAD, NULL}};
  dnnl_stream_t stream = NULL;
  dnnl_status_t bad = dnnl_stream_create(&stream, q->d->engine, dnnl_stream_default_flags);
  if (!bad) bad = wrap(q->d, x, &a[0]);
  if (!bad) bad = wrap(q->d, W, &a[1]);
  if (!bad) bad = wrap(q->d, y, &a[2]);
  if (!bad && q->scratch) bad = wrap_scratch(q, thread, &a[3]);
  if (!bad) bad = dnnl_primitive_execute(q->d->multiply[q->by_columns][q->adds], stream, q->scratch ? 4 : 3, a);
  if (!bad) bad = dnnl_stream_wait(stream);
  for (int i = 0; i < 4; i++)
    if (a[i].memory) dnnl_memory_destroy(a[i].memory);
  if (stream) dnnl_stream_destroy(stream);
  return bad;
}

/* To columns j and following, while they are in the cache. */
static LK_CLONES void add_bias(const lk_view *bias, int64_t j, const lk_view *y) {
  int64_t step = bias->stride[0];
  const float *b = (const float *)bias->p + j * step;
  for (int64_t r = 0; r < y->shape[0]; r++) {
    float *row = (float *)y->p + r * y->stride[0];
    if (step == 1)
      for (int64_t i = 0; i < y->shape[1]; i++) row[i] += b[i];
    else
      for (int64_t i = 0; i < y->shape[1]; i++) row[i] += b[i * step];
  }
}

/* With one thread: outside of a parallel region oneDNN would take its own, and divide the work differently. */
static void pieces(void *arg, int64_t from, int64_t to, int thread) {
  product *q = arg;
#ifdef _OPENMP
  int threads = omp_get_max_threads();
  omp_set_num_threads(1);
#endif
  for (int64_t piece = from; piece < to && !q->bad; piece++) {
    int64_t i = piece / q->across * q->rows, j = piece % q->across * q->columns;
    int64_t rows = rest(q->y.shape[0], i, q->rows), columns = rest(q->y.shape[1], j, q->columns);
    lk_view x = lk_narrow(&q->x, 0, i, rows), W = lk_narrow(&q->W, 1, j, columns), y = lk_narrow(&q->y, 0, i, rows);
    y = lk_narrow(&y, 1, j, columns);
    dnnl_status_t bad = multiply(q, &x, &W, &y, thread);
    if (bad) q->bad = (int)bad;
    else if (q->bias) add_bias(q->bias, j, &y);
  }
#ifdef _OPENMP
  omp_set_num_threads(threads);
#endif
}

/* ---- operands as oneDNN takes them ---- */

typedef struct narrowing {
  const lk_view *from;
  double s;
  uint16_t *to;
} narrowing;

static void narrow_rows(void *arg, int64_t from, int64_t to, int thread) {
  const narrowing *k = arg;
  int64_t n = lk_view_cols(k->from);
  (void)thread;
  for (int64_t r = from; r < to; r++)
    lk_to_bf16((const float *)k->from->p + lk_view_row(k->from, r), lk_view_step(k->from), n, (float)k->s,
               k->to + r * n);
}

/* s x in bf16, a matrix without gaps; p NULL with an error. */
static lk_view narrowed(lk_call *c, const lk_view *x, double s) {
  lk_view v;
  int64_t rows = lk_view_rows(x), n = lk_view_cols(x);
  lk_view_init(&v, LK_BF16, 2, (int64_t[]){rows, n});
  v.p = lk_scratch(c, lk_view_bytes(&v));
  narrowing k = {x, s, v.p};
  if (v.p) lk_parallel(c->threads, rows, lk_row_grain(n), narrow_rows, &k);
  return v;
}

static int lies_by(const lk_view *v, int axis) { return v->stride[axis] == 1 && v->stride[!axis] >= v->shape[axis]; }

/* W, copied if it lies neither by rows nor by columns. */
static lk_view laid(lk_call *c, const lk_view *W) {
  lk_view v;
  if (lies_by(W, 0) || lies_by(W, 1)) return *W;
  lk_view_init(&v, W->dtype, 2, W->shape);
  v.p = lk_scratch(c, lk_view_bytes(&v));
  if (v.p) lk_view_copy(&v, W);
  return v;
}

/* A few large pieces, in an even number where that is possible. */
static int64_t divide(product *q) {
  int64_t m = q->y.shape[0], n = q->y.shape[1];
  int64_t down = (m - 1) / ROWS + 1, across = (n - 1) / COLUMNS + 1;
  while ((down * across < LEAST || down * across % 2) && n / across > NARROW) across *= 2;
  q->rows = ((m - 1) / down / 16 + 1) * 16;
  q->columns = ((n - 1) / across / 16 + 1) * 16;
  q->across = (n - 1) / q->columns + 1;
  return ((m - 1) / q->rows + 1) * q->across;
}

static void run(lk_call *c, product *q) {
  size_t scratch = q->d->scratch[q->by_columns][q->adds];
  if (scratch && !(q->scratch = lk_scratch(c, scratch * (size_t)c->threads))) return;
  lk_count_flops(c, 2.0 * (double)q->x.shape[0] * (double)q->x.shape[1] * (double)q->y.shape[1]);
  lk_parallel(c->threads, divide(q), 1, pieces, q);
  if (q->bad)
    lk_op_fail(c, q->bad == dnnl_out_of_memory ? LK_ENOMEM : LK_EARG, "oneDNN says %s",
               dnnl_status2str((dnnl_status_t)q->bad));
}

void lk_dnnl_product(lk_call *c, const lk_view *x, const lk_view *W, double s, double beta, const lk_view *bias,
                     const lk_view *y) {
  int apart = !lk_view_contiguous(y);
  product q = {.d = c->tape->ctx->dnnl, .adds = !apart && beta != 0, .bias = bias};
  q.x = narrowed(c, x, s);
  q.W = laid(c, W);
  q.by_columns = !lies_by(&q.W, 1);
  lk_view_init(&q.y, LK_F32, 2, (int64_t[]){lk_view_rows(y), lk_view_cols(y)});
  q.y.p = apart ? lk_scratch(c, lk_view_bytes(&q.y)) : y->p;
  if (!q.x.p || !q.W.p || !q.y.p) return;
  run(c, &q);
  if (!apart) return;
  lk_view part;
  lk_view_init(&part, LK_F32, y->ndim, y->shape);
  part.p = q.y.p;
  if (beta == 0) lk_gemm_zero(y);
  lk_view_add(y, &part, 1);
}

#else

lk_dnnl *lk_dnnl_new(lk_ctx *c) {
  lk_fail(c, LK_EARG,
          "products in bf16: lorikeet was built without oneDNN (configure --with-dnnl, Debian's libdnnl-dev)");
  return NULL;
}

void lk_dnnl_free(lk_ctx *c, lk_dnnl *d) { (void)c, (void)d; }

void lk_dnnl_product(lk_call *c, const lk_view *x, const lk_view *W, double s, double beta, const lk_view *bias,
                     const lk_view *y) {
  (void)x, (void)W, (void)s, (void)beta, (void)bias, (void)y;
  lk_op_fail(c, LK_EARG, "lorikeet was built without oneDNN"); /* no context wants it */
}

#endif

int lk_dnnl_takes(const lk_call *c, const lk_view *x, const lk_view *W) {
  return c->tape->ctx->dnnl && x->dtype == LK_F32 && W->dtype == LK_BF16 && lk_view_count(x) && lk_view_count(W);
}
