/* map.c: see map.h. */
#include "map.h"

#include <assert.h>
#include <string.h>

enum {
  RUN = LK_MAP_RUN,
  LANES = 32,       /* partial results when a fold runs along the innermost axis */
  NARROW = 8,       /* a last axis shorter than this is not worth being innermost */
  PIECE = 1 << 14,  /* elements that a thread takes at a time */
  SERIAL = 1 << 15, /* below this many elements one thread does it all */
  FEW = 8,          /* fewer results than this: a fold is cut into segments */
  SEGMENTS = 16,
  VIEWS = LK_MAP_MAXIN + 1 /* the inputs, and the output last */
};

/* Axes of all views together, outermost first. */
typedef struct axes {
  int n;
  int64_t shape[LK_MAXDIM + 1], stride[LK_MAXDIM + 1][VIEWS];
} axes;

typedef struct plan {
  const lk_map_job *job;
  lk_dtype dtype;
  size_t size[VIEWS]; /* of an element; 0: no such view */
  char *p[VIEWS];
  int64_t n, step[VIEWS]; /* the innermost axis */
  axes kept, folded;      /* the others, by what the output does; the runs of the innermost axis come last */
  int64_t units, rows;    /* products of kept and folded */
  int runs_folded;        /* the innermost axis is folded */
  int folds;
  int64_t width;    /* accumulators of a unit */
  int64_t segments; /* of a unit's rows */
  double *partial;  /* [units][segments][width], when there are several segments */
} plan;

/* ---- planning ---- */

static void push_axis(axes *a, int64_t n, const int64_t stride[VIEWS]) {
  a->shape[a->n] = n;
  memcpy(a->stride[a->n], stride, sizeof a->stride[0]);
  a->n++;
}

/* The axes of out and in[], with neighbours joined where all views allow it; none of size 1. */
static axes join(const lk_map_job *job) {
  axes a = {0};
  for (int d = 0; d < job->out.ndim; d++) {
    int64_t n = job->out.shape[d], stride[VIEWS] = {0};
    if (n == 1) continue;
    for (int k = 0; k < LK_MAP_MAXIN; k++)
      if (job->in[k]) stride[k] = job->in[k]->stride[d];
    stride[VIEWS - 1] = job->out.stride[d];
    int joins = a.n > 0;
    for (int k = 0; k < VIEWS && joins; k++) joins = a.stride[a.n - 1][k] == n * stride[k];
    if (joins) n *= a.shape[--a.n];
    push_axis(&a, n, stride);
  }
  return a;
}

/* The last axis, unless that is short and another is longer. */
static int innermost(const axes *a) {
  int best = a->n - 1;
  if (best < 0 || a->shape[best] >= NARROW) return best;
  for (int d = 0; d < a->n; d++)
    if (a->shape[d] > a->shape[best]) best = d;
  return best;
}

static int64_t product(const axes *a) {
  int64_t n = 1;
  for (int d = 0; d < a->n; d++) n *= a->shape[d];
  return n;
}

static void bind_views(plan *p, const lk_map_job *job) {
  p->job = job;
  p->dtype = job->out.dtype;
  for (int k = 0; k < LK_MAP_MAXIN; k++) {
    if (!job->in[k]) continue;
    assert(lk_view_same_shape(job->in[k], &job->out));
    p->p[k] = job->in[k]->p;
    p->size[k] = lk_dtype_size(job->in[k]->dtype);
  }
  p->p[VIEWS - 1] = job->out.p;
  p->size[VIEWS - 1] = lk_dtype_size(job->out.dtype);
}

static void make_plan(plan *p, const lk_map_job *job) {
  axes all = join(job);
  int inner = innermost(&all);
  memset(p, 0, sizeof *p);
  bind_views(p, job);
  p->n = 1;
  for (int d = 0; d < all.n; d++) {
    if (d == inner) continue;
    push_axis(all.stride[d][VIEWS - 1] ? &p->kept : &p->folded, all.shape[d], all.stride[d]);
  }
  if (inner >= 0) {
    int64_t runs[VIEWS];
    p->n = all.shape[inner];
    memcpy(p->step, all.stride[inner], sizeof p->step);
    p->runs_folded = !p->step[VIEWS - 1];
    for (int k = 0; k < VIEWS; k++) runs[k] = RUN * p->step[k];
    push_axis(p->runs_folded ? &p->folded : &p->kept, (p->n + RUN - 1) / RUN, runs);
  }
  p->folds = p->folded.n > 0 || job->finish; /* of one element, when the folded axes have size 1 */
  p->units = product(&p->kept);
  p->rows = product(&p->folded);
  p->width = p->runs_folded ? LANES : p->n < RUN ? p->n : RUN;
  p->segments = 1;
  int64_t most = p->units < FEW ? lk_view_count(&job->out) / PIECE : 1;
  if (most > SEGMENTS) most = SEGMENTS;
  if (most > p->rows) most = p->rows;
  if (p->folds && most > 1) p->segments = most;
}

/* Element offsets of row r of the axes are added to o; returns which run it is, if these axes end in the runs. */
static int64_t seek(const axes *a, int64_t r, int64_t o[VIEWS]) {
  int64_t last = 0;
  for (int d = a->n - 1; d >= 0; d--) {
    int64_t j = d ? r % a->shape[d] : r;
    r = d ? r / a->shape[d] : 0;
    for (int k = 0; k < VIEWS; k++) o[k] += j * a->stride[d][k];
    if (d == a->n - 1) last = j;
  }
  return last;
}

/* ---- runs ---- */

#define GATHER(T)                                                                                                      \
  {                                                                                                                    \
    const T *x = from;                                                                                                 \
    T *y = to;                                                                                                         \
    if (step == 0)                                                                                                     \
      for (int64_t i = 0; i < n; i++) y[i] = x[0];                                                                     \
    else                                                                                                               \
      for (int64_t i = 0; i < n; i++) y[i] = x[i * step];                                                              \
  }

static void gather(int64_t n, void *to, const void *from, int64_t step, lk_dtype dtype) {
  if (dtype == LK_U8) GATHER(uint8_t)
  else LK_REAL(dtype, GATHER(R));
}

#define SCATTER(T, op)                                                                                                 \
  {                                                                                                                    \
    const T *x = from;                                                                                                 \
    T *y = to;                                                                                                         \
    if (step == 1)                                                                                                     \
      for (int64_t i = 0; i < n; i++) y[i] op x[i];                                                                    \
    else                                                                                                               \
      for (int64_t i = 0; i < n; i++) y[i * step] op x[i];                                                             \
  }

LK_CLONES static void scatter_add(int64_t n, void *restrict to, int64_t step, const void *from, lk_dtype dtype) {
  LK_REAL(dtype, SCATTER(R, +=));
}

static void scatter(int64_t n, void *restrict to, int64_t step, const void *from, lk_dtype dtype) {
  LK_REAL(dtype, SCATTER(R, =));
}

/* One run of a map: its inputs made contiguous, and what the kernel made of them. */
typedef struct bench {
  _Alignas(64) double in[LK_MAP_MAXIN][RUN];
  _Alignas(64) double out[RUN];
} bench;

/* Runs the kernel on n elements at offsets o, into `out` or b->out; returns where the result is. */
static const void *run(const plan *p, bench *b, const int64_t o[VIEWS], int64_t n, void *out) {
  const void *in[LK_MAP_MAXIN] = {0};
  const lk_map_job *job = p->job;
  for (int k = 0; k < LK_MAP_MAXIN; k++) {
    if (!p->size[k]) continue;
    in[k] = p->p[k] + o[k] * (int64_t)p->size[k];
    if (p->step[k] == 1 || n == 1) continue;
    gather(n, b->in[k], in[k], p->step[k], job->in[k]->dtype);
    in[k] = b->in[k];
  }
  lk_run *kernel = p->dtype == LK_F64 ? job->kernel.f64 : job->kernel.f32;
  if (!kernel) return in[0];
  if (!out) out = b->out;
  kernel(n, out, in, job->attr);
  return out;
}

static int64_t run_length(const plan *p, int64_t which) { return p->n - which * RUN < RUN ? p->n - which * RUN : RUN; }

/* ---- maps without a fold ---- */

static void map_units(void *arg, int64_t from, int64_t to, int thread) {
  const plan *p = arg;
  int64_t step = p->step[VIEWS - 1];
  bench b;
  (void)thread;
  for (int64_t u = from; u < to; u++) {
    int64_t o[VIEWS] = {0};
    int64_t n = run_length(p, seek(&p->kept, u, o));
    void *out = p->p[VIEWS - 1] + o[VIEWS - 1] * (int64_t)p->size[VIEWS - 1];
    int direct = step == 1 && !p->job->add && p->p[0] != p->p[VIEWS - 1]; /* kernels take no overlap */
    const void *made = run(p, &b, o, n, direct ? out : NULL);
    if (p->job->add) scatter_add(n, out, step, made, p->dtype);
    else if (made != out) scatter(n, out, step, made, p->dtype);
  }
}

/* ---- folds ---- */

#define FOLD(expression)                                                                                               \
  for (int64_t i = 0; i < n; i += width) {                                                                             \
    int64_t m = n - i < width ? n - i : width;                                                                         \
    for (int64_t l = 0; l < m; l++) {                                                                                  \
      double v = x[i + l], a = acc[l];                                                                                 \
      acc[l] = expression;                                                                                             \
    }                                                                                                                  \
  }

/* acc[i % width] = fold of itself and x[i]; NaN wins. */
LK_CLONES static void fold_run(lk_fold fold, lk_dtype dtype, int64_t width, double *restrict acc, int64_t n,
                               const void *restrict from) {
  LK_REAL(dtype, {
    const R *x = from;
    if (fold == LK_FOLD_SUM) FOLD(a + v)
    else if (fold == LK_FOLD_MAX) FOLD(((v > a) | (v != v)) ? v : a)
    else FOLD(((v < a) | (v != v)) ? v : a)
  });
}

static void fold_clear(lk_fold fold, int64_t width, double *acc) {
  double empty = fold == LK_FOLD_SUM ? 0 : fold == LK_FOLD_MAX ? -(double)INFINITY : (double)INFINITY;
  for (int64_t i = 0; i < width; i++) acc[i] = empty;
}

static double result(const plan *p, double folded) {
  return p->job->finish ? p->job->finish(folded, p->job->attr) : folded;
}

/* Writes the accumulators of a unit whose output begins at offset o. */
static void fold_store(const plan *p, int64_t n, int64_t o, double *acc) {
  int64_t step = p->step[VIEWS - 1];
  lk_fold fold = p->job->fold;
  if (p->runs_folded) {
    for (int64_t w = LANES / 2; w; w /= 2) fold_run(fold, LK_F64, w, acc, w, acc + w);
    n = 1;
  }
  LK_REAL(p->dtype, {
    R *y = (R *)p->p[VIEWS - 1] + o;
    for (int64_t i = 0; i < n; i++) {
      R v = (R)result(p, acc[i]);
      y[i * step] = p->job->add ? y[i * step] + v : v;
    }
  });
}

/* Piece w: segment w % segments of unit w / segments. */
static void fold_pieces(void *arg, int64_t from, int64_t to, int thread) {
  const plan *p = arg;
  double acc[RUN];
  bench b;
  (void)thread;
  for (int64_t w = from; w < to; w++) {
    int64_t base[VIEWS] = {0}, u = w / p->segments, s = w % p->segments;
    int64_t n = run_length(p, seek(&p->kept, u, base));
    int64_t first = p->rows * s / p->segments, end = p->rows * (s + 1) / p->segments;
    double *sums = p->partial ? p->partial + w * p->width : acc;
    fold_clear(p->job->fold, p->width, sums);
    for (int64_t r = first; r < end; r++) {
      int64_t o[VIEWS];
      memcpy(o, base, sizeof o);
      int64_t which = seek(&p->folded, r, o), m = p->runs_folded ? run_length(p, which) : n;
      fold_run(p->job->fold, p->dtype, p->width, sums, m, run(p, &b, o, m, NULL));
    }
    if (!p->partial) fold_store(p, n, base[VIEWS - 1], sums);
  }
}

static void fold_segments(const plan *p) {
  for (int64_t u = 0; u < p->units; u++) {
    int64_t o[VIEWS] = {0};
    int64_t n = run_length(p, seek(&p->kept, u, o));
    double *sums = p->partial + u * p->segments * p->width;
    for (int64_t s = 1; s < p->segments; s++)
      fold_run(p->job->fold, LK_F64, p->width, sums, p->width, sums + s * p->width);
    fold_store(p, n, o[VIEWS - 1], sums);
  }
}

/* ---- entry ---- */

int lk_map(lk_call *c, const lk_map_job *job) {
  plan p;
  make_plan(&p, job);
  int64_t count = lk_view_count(&job->out), pieces = p.units * p.segments;
  if (pieces <= 0) return 0;
  if (p.segments > 1) {
    p.partial = lk_scratch(c, (size_t)(pieces * p.width) * sizeof(double));
    if (!p.partial) return -1;
  }
  int64_t grain = PIECE * pieces / (count ? count : 1);
  lk_parallel(count < SERIAL ? 1 : c->threads, pieces, grain > 1 ? grain : 1, p.folds ? fold_pieces : map_units, &p);
  if (p.partial) fold_segments(&p);
  return 0;
}

lk_map_job lk_map_grad(const lk_call *c, int i, lk_kernel kernel) {
  return (lk_map_job){.out = c->gx[i], .kernel = kernel, .attr = c->attr, .add = !(c->fresh & LK_X(i))};
}
