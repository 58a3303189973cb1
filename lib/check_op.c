/* check_op.c: the contract that every operator is held to, built in or not; see lk_check_op in op.h. */
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define START 0.25 /* what gradients hold before backward adds to them */

/* How an input reaches the op: as a leaf, as a window on transposed and stepped memory, or as the result of
 * another op (so that its gradient buffer is fresh). */
enum { PLAIN, STRIDED, COMPUTED, LAYOUTS };

typedef struct check {
  lk_ctx *ctx;
  lk_tape *t;
  const lk_op *op;
  const lk_case *k;
  int nin;
  lk_view shape[LK_MAXIN];  /* row-major; dtype says real (f64) or index or mask */
  double *x[LK_MAXIN];      /* values, row-major */
  double *number[LK_MAXIN]; /* central differences */
  double *g[LK_MAXIN];      /* gradients of the last run, row-major */
  void *memory[LK_MAXIN], *grad[LK_MAXIN];
  double *y, *gy; /* result of the last run, its cotangent */
  void *cotangent;
  int64_t ny, ycap;
  uint32_t reads; /* what the op declared in the last run */
} check;

/* ---- two helper ops ---- */

static int window_shape(lk_call *c) { /* undoes `strided` below */
  const lk_view *x = &c->x[0];
  *c->y = *x;
  for (int d = 0; d < x->ndim; d++) {
    c->y->shape[d] = d ? x->shape[x->ndim - 1 - d] : x->shape[x->ndim - 1] / 2;
    c->y->stride[d] = x->stride[x->ndim - 1 - d] * (d ? 1 : 2);
  }
  return 0;
}
static const lk_op window_op = {.name = "window", .nin = 1, .types = "a", .flags = LK_OP_VIEW, .shape = window_shape};

static int copy_shape(lk_call *c) { return lk_view_init(c->y, c->x[0].dtype, c->x[0].ndim, c->x[0].shape); }
static int copy_fwd(lk_call *c) { return lk_view_copy(c->y, &c->x[0]), 0; }
static int copy_bwd(lk_call *c) { return lk_view_add(&c->gx[0], c->gy, 1), 0; }
static uint32_t no_reads(const lk_call *c) { return (void)c, 0; }
static const lk_op copy_op = {
    .name = "copy", .nin = 1, .types = "a", .shape = copy_shape, .fwd = copy_fwd, .bwd = copy_bwd, .reads = no_reads};

/* ---- cases ---- */

static char type_of(const lk_op *op, int i) {
  const char *types = op->types ? op->types : "r";
  size_t last = strlen(types) - 1;
  return types[(size_t)i < last ? (size_t)i : last];
}

/* "3x4" or "-"; the number of axes, or -1 at the end. */
static int parse(const char **s, int64_t *shape) {
  int ndim = 0;
  while (**s == ' ') ++*s;
  if (!**s) return -1;
  if (**s == '-') return ++*s, 0;
  do shape[ndim++] = strtoll(*s, (char **)s, 10);
  while (**s == 'x' && ++*s && ndim < LK_MAXDIM);
  return ndim;
}

static int make_inputs(check *k) {
  const char *s = k->k->shapes;
  int64_t shape[LK_MAXDIM];
  lk_key key = lk_key_make(7, k->op->name);
  for (int ndim; (ndim = parse(&s, shape)) >= 0; k->nin++) {
    int i = k->nin;
    char type = type_of(k->op, i);
    if (i == LK_MAXIN) return -1;
    if (lk_view_init(&k->shape[i], type == 'i' ? LK_I64 : type == 'm' ? LK_U8 : LK_F64, ndim, shape)) return -1;
    size_t n = (size_t)lk_view_count(&k->shape[i]) + 1;
    k->x[i] = lk_alloc_array(k->ctx, n, sizeof(double));
    k->g[i] = lk_alloc_array(k->ctx, n, sizeof(double));
    k->number[i] = lk_alloc_array(k->ctx, n, sizeof(double));
    k->memory[i] = lk_alloc_array(k->ctx, 2 * n, sizeof(double));
    k->grad[i] = lk_alloc_array(k->ctx, 2 * n, sizeof(double));
    if (k->ctx->status) return k->nin++, -1;
    for (size_t j = 0; j < n; j++) {
      double u = lk_random_uniform(lk_key_fold(key, (uint64_t)i), j);
      k->x[i][j] = type == 'i'   ? floor(u * (double)k->k->index_max)
                   : type == 'm' ? floor(2 * u)
                                 : k->k->low + (k->k->high - k->k->low) * u;
    }
  }
  return 0;
}

static void free_inputs(check *k) {
  for (int i = 0; i < k->nin; i++) {
    lk_free(k->ctx, k->x[i]);
    lk_free(k->ctx, k->g[i]);
    lk_free(k->ctx, k->number[i]);
    lk_free(k->ctx, k->memory[i]);
    lk_free(k->ctx, k->grad[i]);
  }
  lk_free(k->ctx, k->y);
  lk_free(k->ctx, k->gy);
  lk_free(k->ctx, k->cotangent);
}

/* ---- one run ---- */

/* The leaf's shape for a layout: for STRIDED, axes reversed and the innermost twice as long. */
static lk_view leaf_view(const check *k, int i, lk_dtype real, int layout) {
  lk_view v;
  int64_t shape[LK_MAXDIM];
  int ndim = k->shape[i].ndim;
  lk_dtype dtype = k->shape[i].dtype == LK_F64 ? real : k->shape[i].dtype;
  for (int d = 0; d < ndim; d++)
    shape[d] = layout == STRIDED ? k->shape[i].shape[ndim - 1 - d] * (d == ndim - 1 ? 2 : 1) : k->shape[i].shape[d];
  lk_view_init(&v, dtype, ndim, shape);
  v.p = k->memory[i];
  return v;
}

/* Through this view of the leaf, its elements come in the input's own order. */
static lk_view input_view(lk_view leaf, int layout) {
  lk_view v = leaf;
  lk_call c = {.x = &leaf, .y = &v};
  if (layout == STRIDED) window_shape(&c);
  return v;
}

static lk_tensor make_leaf(check *k, int i, lk_dtype real, int layout, int wants) {
  lk_view leaf = leaf_view(k, i, real, layout), v = input_view(leaf, layout);
  for (int64_t j = 0; j < lk_view_count(&v); j++) lk_view_set(&v, j, k->x[i][j]);
  lk_view g = leaf;
  g.p = k->grad[i];
  for (int64_t j = 0; wants && j < lk_view_count(&g); j++) lk_view_set(&g, j, START);
  lk_tensor x = lk_leaf(k->t, &leaf, wants ? k->grad[i] : NULL);
  if (layout == STRIDED && leaf.ndim) x = lk_apply(k->t, &window_op, 1, &x, NULL);
  if (layout == COMPUTED || (i == 0 && k->op->flags & LK_OP_INPLACE)) x = lk_apply(k->t, &copy_op, 1, &x, NULL);
  return x;
}

static void fetch_gradients(check *k, lk_dtype real, int layout, uint32_t mask) {
  for (int i = 0; i < k->nin; i++) {
    lk_view g = leaf_view(k, i, real, layout);
    g.p = k->grad[i];
    g = input_view(g, layout);
    for (int64_t j = 0; mask & LK_X(i) && j < lk_view_count(&g); j++) k->g[i][j] = lk_view_get(&g, j) - START;
  }
}

/* Room for n results, with a cotangent for each. */
static int reserve(check *k, int64_t n) {
  if (k->y && n <= k->ycap) return 0;
  lk_free(k->ctx, k->y);
  lk_free(k->ctx, k->gy);
  lk_free(k->ctx, k->cotangent);
  k->y = lk_alloc_array(k->ctx, (size_t)n, sizeof(double));
  k->gy = lk_alloc_array(k->ctx, (size_t)n, sizeof(double));
  k->cotangent = lk_alloc_array(k->ctx, (size_t)n, sizeof(double));
  k->ycap = n;
  lk_key key = lk_key_make(11, "cotangent");
  for (int64_t j = 0; k->gy && j < n; j++) k->gy[j] = 2 * lk_random_uniform(key, (uint64_t)j) - 1;
  return k->ctx->status ? -1 : 0;
}

/* Forward, and backward for the inputs in mask; y and g hold the results.  Returns sum gy * y. */
static double run(check *k, lk_dtype real, int layout, uint32_t mask, uint32_t hide) {
  lk_tensor in[LK_MAXIN];
  lk_view y;
  double sum = 0;
  lk_tape_reset(k->t);
  lk_train(k->t, 0, 0);
  for (int i = 0; i < k->nin; i++) in[i] = make_leaf(k, i, real, layout, (mask & LK_X(i)) != 0);
  lk_tensor h = lk_apply(k->t, k->op, k->nin, in, k->k->attr);
  if (lk_get(k->t, h, &y) || reserve(k, lk_view_count(&y))) return 0;
  k->ny = lk_view_count(&y);
  for (int64_t j = 0; j < k->ny; j++) {
    k->y[j] = lk_view_get(&y, j);
    sum += k->gy[j] * k->y[j];
    if (y.dtype == LK_F64) ((double *)k->cotangent)[j] = k->gy[j];
    else ((float *)k->cotangent)[j] = (float)k->gy[j];
  }
  if (!mask) return sum;
  k->reads = k->t->nodes[h.id].reads;
  k->t->hide = hide;
  lk_backward_from(k->t, h, k->cotangent);
  k->t->hide = 0;
  fetch_gradients(k, real, layout, mask);
  return sum;
}

/* ---- the checks ---- */

/* What such a gradient usually comes from. */
static const char *likely_cause(const check *k, const char *what, double is, double should) {
  const double near = 1e-6 * (1 + fabs(should));
  if (!strstr(what, "gradient") || strstr(what, "threads")) return "";
  if (isnan(is) && !isnan(should) && k->op->flags & LK_OP_FRESH)
    return " (a read that is not declared, or `fresh` ignored?)";
  if (isnan(is) && !isnan(should)) return " (a read that is not declared?)";
  if (fabs(is + START - should) < near) return " (overwritten instead of added to?)";
  if (fabs(is + should) < near) return " (wrong sign?)";
  return "";
}

static lk_status complain(check *k, const char *what, int i, int64_t j, double is, double should) {
  return lk_fail(k->ctx, LK_EARG, "check %s (%s): %s %d [%lld] is %.10g, should be %.10g%s", k->op->name, k->k->shapes,
                 what, i, (long long)j, is, should, likely_cause(k, what, is, should));
}

static lk_status compare(check *k, const char *what, int i, const double *is, const double *should, int64_t n,
                         double tolerance) {
  for (int64_t j = 0; j < n; j++)
    if (is[j] != should[j] && !(fabs(is[j] - should[j]) <= tolerance * (1 + fabs(should[j]))))
      return complain(k, what, i, j, is[j], should[j]);
  return LK_OK;
}

static uint32_t real_inputs(const check *k) {
  uint32_t mask = 0;
  for (int i = 0; i < k->nin; i++)
    if (k->shape[i].dtype == LK_F64 && type_of(k->op, i) != 'f') mask |= LK_X(i);
  return mask;
}

static lk_status differentiate(check *k, uint32_t all) {
  const double h = 1e-6;
  for (int i = 0; i < k->nin; i++)
    for (int64_t j = 0; all & LK_X(i) && j < lk_view_count(&k->shape[i]); j++) {
      double x = k->x[i][j];
      k->x[i][j] = x + h;
      double up = run(k, LK_F64, PLAIN, 0, 0);
      k->x[i][j] = x - h;
      double down = run(k, LK_F64, PLAIN, 0, 0);
      k->x[i][j] = x;
      k->number[i][j] = (up - down) / (2 * h);
    }
  return lk_error(k->ctx, NULL);
}

static lk_status check_gradients(check *k, const char *what, lk_dtype real, int layout, uint32_t mask, double tol) {
  run(k, real, layout, mask, 0);
  for (int i = 0; i < k->nin && !k->ctx->status; i++)
    if (mask & LK_X(i)) compare(k, what, i, k->g[i], k->number[i], lk_view_count(&k->shape[i]), tol);
  return lk_error(k->ctx, NULL);
}

/* Do the gradients of the last run differ from the differences? */
static int gradients_changed(const check *k, uint32_t mask) {
  for (int i = 0; i < k->nin; i++)
    for (int64_t j = 0; mask & LK_X(i) && j < lk_view_count(&k->shape[i]); j++)
      if (!(fabs(k->g[i][j] - k->number[i][j]) <= 1e-6 * (1 + fabs(k->number[i][j])))) return 1;
  return 0;
}

/* Which of the declared reads changed a gradient when they were hidden. */
static void find_used_reads(check *k, uint32_t all, uint32_t *declared, uint32_t *used) {
  for (uint32_t mask = 1; mask <= all && !k->ctx->status; mask++) {
    if (mask & ~all) continue;
    run(k, LK_F64, PLAIN, mask, 0);
    uint32_t reads = k->reads;
    for (int b = 0; b < 32 && !k->ctx->status; b++) {
      uint32_t bit = UINT32_C(1) << b;
      if (!(reads & bit) || (b < k->nin && k->shape[b].dtype != LK_F64) || *used & bit) continue;
      *declared |= bit;
      run(k, LK_F64, PLAIN, mask, bit);
      if (gradients_changed(k, mask)) *used |= bit;
    }
  }
}

/* Result and gradients, bit for bit, on one thread and on two. */
static lk_status check_threads(check *k, uint32_t all, lk_dtype real) {
  int threads = k->ctx->threads;
  int64_t n = 0;
  for (int i = 0; i < k->nin; i++) n += lk_view_count(&k->shape[i]);
  k->ctx->threads = 1;
  run(k, real, PLAIN, all, 0);
  double *y = lk_alloc_array(k->ctx, (size_t)(k->ny + n), sizeof *y), *g = y ? y + k->ny : NULL;
  for (int64_t j = 0; y && j < k->ny; j++) y[j] = k->y[j];
  for (int i = 0; y && i < k->nin; g += lk_view_count(&k->shape[i]), i++)
    memcpy(g, k->g[i], (size_t)lk_view_count(&k->shape[i]) * sizeof *g);
  k->ctx->threads = 2;
  run(k, real, PLAIN, all, 0);
  k->ctx->threads = threads;
  if (y) compare(k, "on two threads, result", 0, k->y, y, k->ny, 0);
  g = y ? y + k->ny : NULL;
  for (int i = 0; y && i < k->nin; g += lk_view_count(&k->shape[i]), i++)
    if (all & LK_X(i)) compare(k, "on two threads, gradient", i, k->g[i], g, lk_view_count(&k->shape[i]), 0);
  lk_free(k->ctx, y);
  return lk_error(k->ctx, NULL);
}

/* The forward pass from other layouts and in f32. */
static lk_status check_forward(check *k) {
  run(k, LK_F64, PLAIN, 0, 0);
  double *y = lk_alloc_array(k->ctx, (size_t)k->ny, sizeof *y);
  if (!y) return lk_error(k->ctx, NULL);
  memcpy(y, k->y, (size_t)k->ny * sizeof *y);
  for (int layout = STRIDED; layout < LAYOUTS && !k->ctx->status; layout++) {
    run(k, LK_F64, layout, 0, 0);
    if (!k->ctx->status)
      compare(k, layout == STRIDED ? "strided, result" : "computed, result", 0, k->y, y, k->ny, 1e-12);
  }
  run(k, LK_F32, PLAIN, 0, 0);
  if (!k->ctx->status) compare(k, "f32 result", 0, k->y, y, k->ny, 1e-4);
  lk_free(k->ctx, y);
  return lk_error(k->ctx, NULL);
}

static lk_status check_case(check *k, uint32_t *declared, uint32_t *used) {
  if (make_inputs(k)) return lk_fail(k->ctx, LK_EARG, "check %s: cannot make inputs '%s'", k->op->name, k->k->shapes);
  if (check_forward(k)) return lk_error(k->ctx, NULL);
  uint32_t all = k->op->bwd || k->op->flags & LK_OP_VIEW ? real_inputs(k) : 0;
  if (!all) return lk_error(k->ctx, NULL);
  if (differentiate(k, all)) return lk_error(k->ctx, NULL);
  for (uint32_t mask = 1; mask <= all && !k->ctx->status; mask++) {
    if (mask & ~all) continue;
    check_gradients(k, "gradient", LK_F64, PLAIN, mask, 1e-7);
    check_gradients(k, "strided, gradient", LK_F64, STRIDED, mask, 1e-7);
    check_gradients(k, "computed, gradient", LK_F64, COMPUTED, mask, 1e-7);
  }
  if (!k->ctx->status) check_gradients(k, "f32 gradient", LK_F32, PLAIN, all, 2e-3);
  if (!k->ctx->status) check_threads(k, all, LK_F32);
  if (!k->ctx->status) check_threads(k, all, LK_F64);
  if (!k->ctx->status && k->op->bwd) find_used_reads(k, all, declared, used);
  return lk_error(k->ctx, NULL);
}

lk_status lk_check_op(lk_ctx *c, const lk_op *op) {
  uint32_t declared = 0, used = 0;
  lk_tape *t = lk_tape_new(c);
  if (!t) return lk_error(c, NULL);
  lk_tape_set_mode(t, LK_TAPE_POISON);
  if (!op->cases || !op->cases->shapes) lk_fail(c, LK_EARG, "check %s: it has no test cases", op->name);
  for (const lk_case *k = op->cases; k && k->shapes && !c->status; k++) {
    check one = {.ctx = c, .t = t, .op = op, .k = k};
    check_case(&one, &declared, &used);
    free_inputs(&one);
  }
  uint32_t idle = declared & ~used;
  int which = 0;
  while (which < LK_MAXIN && !(idle >> which & 1)) which++;
  if (!c->status && which < LK_MAXIN)
    lk_fail(c, LK_EARG, "check %s: it declares that backward reads input %d, and no gradient depends on it", op->name,
            which);
  else if (!c->status && idle)
    lk_fail(c, LK_EARG, "check %s: it declares that backward reads the result, and no gradient depends on it",
            op->name);
  lk_tape_free(t);
  return lk_error(c, NULL);
}
