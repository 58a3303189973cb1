/* linalg.c: see linalg.h.  The only file that includes LAPACKE: its _work functions, with our memory. */
#include <lapacke.h>
#include <limits.h>
#include <lorikeet/linalg.h>
#include <math.h>
#include <string.h>

#define MAX_BLOCKS 8

/* A running call: its name, and its memory, which ends with it. */
typedef struct call {
  lk_ctx *ctx;
  const char *name;
  void *block[MAX_BLOCKS];
  int blocks;
} call;

static void *block(call *c, size_t count, size_t size) {
  void *p = lk_alloc_array(c->ctx, count ? count : 1, size);
  if (p) c->block[c->blocks++] = p;
  return p;
}
static double *doubles(call *c, int64_t rows, int64_t cols) {
  int64_t limit = INT64_MAX / (int64_t)sizeof(double);
  if (rows > limit / cols) {
    lk_fail(c->ctx, LK_ENOMEM, "%s: %lld times %lld numbers", c->name, (long long)rows, (long long)cols);
    return NULL;
  }
  return block(c, (size_t)(rows * cols), sizeof(double));
}

static lk_status finish(call *c) {
  while (c->blocks) lk_free(c->ctx, c->block[--c->blocks]);
  return lk_error(c->ctx, NULL);
}

/* ---- views ---- */

/* Whether a view that must be given is one of these sizes (cols < 0: a vector). */
static int expect(call *c, const char *what, const lk_view *v, int64_t rows, int64_t cols) {
  char shape[160];
  if (!v || !v->p) return (int)lk_fail(c->ctx, LK_ENIL, "%s: %s is NULL", c->name, what);
  if (!lk_dtype_is_real(v->dtype))
    return (int)lk_fail(c->ctx, LK_EDTYPE, "%s: %s is %s, not f32 or f64", c->name, what, lk_dtype_name(v->dtype));
  if (v->ndim == (cols < 0 ? 1 : 2) && v->shape[0] == rows && (cols < 0 || v->shape[1] == cols)) return 0;
  if (cols < 0)
    return (int)lk_fail(c->ctx, LK_ESHAPE, "%s: %s is %s, should be [%lld]", c->name, what, lk_view_format(v, shape),
                        (long long)rows);
  return (int)lk_fail(c->ctx, LK_ESHAPE, "%s: %s is %s, should be [%lld, %lld]", c->name, what,
                      lk_view_format(v, shape), (long long)rows, (long long)cols);
}
/* The same for a result that nobody may want. */
static int expect_or_null(call *c, const char *what, const lk_view *v, int64_t rows, int64_t cols) {
  return v ? expect(c, what, v, rows, cols) : 0;
}

/* The input: two axes, neither empty nor beyond LAPACK's int. */
static int expect_matrix(call *c, const lk_view *a) {
  char shape[160];
  if (lk_error(c->ctx, NULL)) return -1;
  if (a && a->p && a->ndim == 2 && a->shape[0] > 0 && a->shape[1] > 0 && a->shape[0] <= INT_MAX &&
      a->shape[1] <= INT_MAX)
    return expect(c, "a", a, a->shape[0], a->shape[1]);
  return (int)lk_fail(c->ctx, a && a->p ? LK_ESHAPE : LK_ENIL, "%s: a is %s, not a matrix", c->name,
                      a && a->p ? lk_view_format(a, shape) : "NULL");
}

/* A column-major matrix in double. */
static lk_view columns(double *p, int64_t rows, int64_t cols, int64_t ld) {
  return (lk_view){.p = p, .dtype = LK_F64, .ndim = 2, .shape = {rows, cols}, .stride = {1, ld}};
}

/* A column-major copy of v ([n] counts as [n, 1]) in double; NULL with an error. */
static double *load(call *c, const char *what, const lk_view *v) {
  lk_view from = *v;
  if (from.ndim == 1) {
    from.ndim = 2;
    from.shape[1] = 1;
    from.stride[1] = 0;
  }
  int64_t rows = from.shape[0], cols = from.shape[1];
  double *p = doubles(c, rows, cols);
  if (!p) return NULL;
  lk_view to = columns(p, rows, cols, rows);
  lk_view_copy(&to, &from);
  for (int64_t i = 0; i < rows * cols; i++)
    if (!isfinite(p[i])) {
      lk_fail(c->ctx, LK_ENONFINITE, "%s: %s[%lld, %lld] is %g", c->name, what, (long long)(i % rows),
              (long long)(i / rows), p[i]);
      return NULL;
    }
  return p;
}

/* Writes a result that somebody wants. */
static void store(const lk_view *v, double *p, int64_t ld) {
  if (!v) return;
  lk_view from = columns(p, v->shape[0], v->ndim == 2 ? v->shape[1] : 1, ld);
  from.ndim = v->ndim;
  lk_view_copy(v, &from);
}

/* ---- LAPACK's ways ---- */

/* The work array whose best length LAPACK wrote to size. */
static double *work_array(call *c, double size) {
  if (size >= 1 && size <= INT_MAX) return doubles(c, (int64_t)size, 1);
  lk_fail(c->ctx, LK_ESHAPE, "%s: the matrix is too large for LAPACK", c->name);
  return NULL;
}

static lk_status not_converged(call *c, lapack_int info) {
  return lk_fail(c->ctx, LK_EARG, "%s: LAPACK did not converge (info %d)", c->name, (int)info);
}

static void negate(double *p, int64_t n, int64_t step) {
  for (int64_t i = 0; i < n; i++) p[i * step] = -p[i * step];
}

/* Whether the first entry of largest magnitude is negative. */
static int points_down(const double *p, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; i++)
    if (fabs(p[i]) > fabs(p[best])) best = i;
  return p[best] < 0;
}

/* ---- svd ---- */

static lk_status svd(call *c, const lk_view *av, const lk_view *uv, const lk_view *sv, const lk_view *vv) {
  if (expect_matrix(c, av)) return lk_error(c->ctx, NULL);
  lapack_int m = (lapack_int)av->shape[0], n = (lapack_int)av->shape[1], k = m < n ? m : n;
  if (expect_or_null(c, "u", uv, m, k) || expect_or_null(c, "s", sv, k, -1) || expect_or_null(c, "vt", vv, k, n))
    return lk_error(c->ctx, NULL);
  char job = uv || vv ? 'S' : 'N';
  double *a = load(c, "a", av), *s = doubles(c, k, 1), *u = NULL, *vt = NULL, size = 0;
  if (job == 'S') {
    u = doubles(c, m, k);
    vt = doubles(c, k, n);
  }
  lapack_int *iwork = block(c, 8 * (size_t)k, sizeof *iwork);
  if (lk_error(c->ctx, NULL)) return lk_error(c->ctx, NULL);
  LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, job, m, n, a, m, s, u, m, vt, k, &size, -1, iwork);
  double *work = work_array(c, size);
  if (!work) return lk_error(c->ctx, NULL);
  lapack_int info =
      LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, job, m, n, a, m, s, u, m, vt, k, work, (lapack_int)size, iwork);
  if (info) return not_converged(c, info);
  for (lapack_int i = 0; u && i < k; i++) {
    if (!points_down(u + (int64_t)i * m, m)) continue;
    negate(u + (int64_t)i * m, m, 1);
    negate(vt + i, n, k);
  }
  store(uv, u, m);
  store(sv, s, k);
  store(vv, vt, k);
  return LK_OK;
}

lk_status lk_svd(lk_ctx *ctx, const lk_view *a, const lk_view *u, const lk_view *s, const lk_view *vt) {
  call c = {.ctx = ctx, .name = "svd"};
  svd(&c, a, u, s, vt);
  return finish(&c);
}

/* ---- qr ---- */

/* r out of the upper triangle of a; the diagonal becomes non-negative, in return for columns of q. */
static void take_r(const double *a, double *r, double *q, int64_t m, int64_t n, int64_t k) {
  for (int64_t j = 0; j < n; j++)
    for (int64_t i = 0; i < k; i++) r[i + j * k] = i <= j ? a[i + j * m] : 0;
  for (int64_t i = 0; i < k; i++) {
    if (r[i + i * k] >= 0) continue;
    negate(r + i + i * k, n - i, k);
    negate(q + i * m, m, 1);
  }
}

static lk_status qr(call *c, const lk_view *av, const lk_view *qv, const lk_view *rv) {
  if (expect_matrix(c, av)) return lk_error(c->ctx, NULL);
  lapack_int m = (lapack_int)av->shape[0], n = (lapack_int)av->shape[1], k = m < n ? m : n;
  if (expect_or_null(c, "q", qv, m, k) || expect_or_null(c, "r", rv, k, n)) return lk_error(c->ctx, NULL);
  double *a = load(c, "a", av), *tau = doubles(c, k, 1), *q = doubles(c, m, k), *r = doubles(c, k, n);
  double size = 0, size_q = 0;
  if (lk_error(c->ctx, NULL)) return lk_error(c->ctx, NULL);
  LAPACKE_dgeqrf_work(LAPACK_COL_MAJOR, m, n, a, m, tau, &size, -1);
  LAPACKE_dorgqr_work(LAPACK_COL_MAJOR, m, k, k, q, m, tau, &size_q, -1);
  if (size_q > size) size = size_q;
  double *work = work_array(c, size);
  if (!work) return lk_error(c->ctx, NULL);
  LAPACKE_dgeqrf_work(LAPACK_COL_MAJOR, m, n, a, m, tau, work, (lapack_int)size);
  memcpy(q, a, (size_t)m * (size_t)k * sizeof *q);
  LAPACKE_dorgqr_work(LAPACK_COL_MAJOR, m, k, k, q, m, tau, work, (lapack_int)size);
  take_r(a, r, q, m, n, k);
  store(qv, q, m);
  store(rv, r, k);
  return LK_OK;
}

lk_status lk_qr(lk_ctx *ctx, const lk_view *a, const lk_view *q, const lk_view *r) {
  call c = {.ctx = ctx, .name = "qr"};
  qr(&c, a, q, r);
  return finish(&c);
}

/* ---- eigh ---- */

static int expect_square(call *c, const lk_view *a) {
  return expect_matrix(c, a) || expect(c, "a", a, a->shape[0], a->shape[0]);
}

static lk_status eigh(call *c, const lk_view *av, const lk_view *wv, const lk_view *vv) {
  if (expect_square(c, av)) return lk_error(c->ctx, NULL);
  lapack_int n = (lapack_int)av->shape[0], isize = 0;
  if (expect(c, "w", wv, n, -1) || expect_or_null(c, "v", vv, n, n)) return lk_error(c->ctx, NULL);
  char job = vv ? 'V' : 'N';
  double *a = load(c, "a", av), *w = doubles(c, n, 1), size = 0;
  if (lk_error(c->ctx, NULL)) return lk_error(c->ctx, NULL);
  LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, job, 'L', n, a, n, w, &size, -1, &isize, -1);
  double *work = work_array(c, size);
  lapack_int *iwork = block(c, (size_t)isize, sizeof *iwork);
  if (!work || !iwork) return lk_error(c->ctx, NULL);
  lapack_int info = LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, job, 'L', n, a, n, w, work, (lapack_int)size, iwork, isize);
  if (info) return not_converged(c, info);
  for (lapack_int i = 0; vv && i < n; i++)
    if (points_down(a + (int64_t)i * n, n)) negate(a + (int64_t)i * n, n, 1);
  store(wv, w, n);
  store(vv, a, n);
  return LK_OK;
}

lk_status lk_eigh(lk_ctx *ctx, const lk_view *a, const lk_view *w, const lk_view *v) {
  call c = {.ctx = ctx, .name = "eigh"};
  eigh(&c, a, w, v);
  return finish(&c);
}

/* ---- solve ---- */

static lk_status solve(call *c, const lk_view *av, const lk_view *bv, const lk_view *xv) {
  if (expect_square(c, av)) return lk_error(c->ctx, NULL);
  lapack_int n = (lapack_int)av->shape[0];
  int64_t cols = bv && bv->ndim == 2 ? bv->shape[1] : 1;
  int64_t wanted = bv && bv->ndim == 2 ? cols : -1;
  if (expect(c, "b", bv, n, wanted) || expect(c, "x", xv, n, wanted)) return lk_error(c->ctx, NULL);
  if (cols < 1 || cols > INT_MAX) return lk_fail(c->ctx, LK_ESHAPE, "solve: b has %lld columns", (long long)cols);
  double *a = load(c, "a", av), *b = load(c, "b", bv);
  lapack_int *pivots = block(c, (size_t)n, sizeof *pivots);
  if (lk_error(c->ctx, NULL)) return lk_error(c->ctx, NULL);
  lapack_int info = LAPACKE_dgesv_work(LAPACK_COL_MAJOR, n, (lapack_int)cols, a, n, pivots, b, n);
  if (info) return lk_fail(c->ctx, LK_EARG, "solve: a is singular (pivot %d is 0)", (int)info);
  store(xv, b, n);
  return LK_OK;
}

lk_status lk_solve(lk_ctx *ctx, const lk_view *a, const lk_view *b, const lk_view *x) {
  call c = {.ctx = ctx, .name = "solve"};
  solve(&c, a, b, x);
  return finish(&c);
}
