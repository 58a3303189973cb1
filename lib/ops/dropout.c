/* dropout.c: x times random factors, which backward draws again: dropout (0 or 1 / (1 - p)) and jitter (near 1). */
#include "real.h"

#include <lorikeet/op.h>
#include <string.h>

/* Element i (row-major) takes 16 bits, number i % 4, of draw i / 4. */
enum { PER_DRAW = 4, RUN = 512, SERIAL = 1 << 15 };

typedef struct job job;
typedef void factors(const job *j, int64_t first, int64_t n, const uint16_t *restrict bits);
struct job {
  factors *apply;
  const void *from;
  void *to;
  lk_dtype dtype;
  int64_t n;
  lk_key key;
  uint32_t threshold; /* dropout */
  double scale, step; /* jitter: the factor is scale + step bits */
  int add;
};

LK_CLONES static void drop(const job *j, int64_t first, int64_t n, const uint16_t *restrict bits) {
  LK_REAL(j->dtype, {
    const R *x = (const R *)j->from + first;
    R *y = (R *)j->to + first, scale = (R)j->scale;
    if (j->add)
      for (int64_t i = 0; i < n; i++) y[i] += bits[i] >= j->threshold ? x[i] * scale : 0;
    else
      for (int64_t i = 0; i < n; i++) y[i] = bits[i] >= j->threshold ? x[i] * scale : 0;
  });
}

LK_CLONES static void shake(const job *j, int64_t first, int64_t n, const uint16_t *restrict bits) {
  LK_REAL(j->dtype, {
    const R *x = (const R *)j->from + first;
    R *y = (R *)j->to + first, scale = (R)j->scale, step = (R)j->step;
    if (j->add)
      for (int64_t i = 0; i < n; i++) y[i] += x[i] * (scale + step * (R)bits[i]);
    else
      for (int64_t i = 0; i < n; i++) y[i] = x[i] * (scale + step * (R)bits[i]);
  });
}

/* The low 16 bits of a draw come first: where bytes lie in that order too, they lie as wanted. */
static void take_apart(const uint64_t *draws, int64_t n, uint16_t *bits) {
  static const union {
    uint64_t draw;
    uint16_t part[PER_DRAW];
  } one = {.draw = 1};
  if (one.part[0] == 1) memcpy(bits, draws, (size_t)n * sizeof *bits);
  else
    for (int64_t k = 0; k < n; k++) bits[k] = (uint16_t)(draws[k / PER_DRAW] >> 16 * (k % PER_DRAW));
}

static void runs(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  uint64_t draws[RUN / PER_DRAW];
  uint16_t bits[RUN];
  (void)thread;
  for (int64_t r = from; r < to; r++) {
    int64_t first = r * RUN, n = j->n - first < RUN ? j->n - first : RUN;
    lk_random_fill(j->key, (uint64_t)(first / PER_DRAW), (n + PER_DRAW - 1) / PER_DRAW, draws);
    take_apart(draws, n, bits);
    j->apply(j, first, n, bits);
  }
}

static int run(lk_call *c, job j, const lk_view *from, const lk_view *to, int add) {
  j.from = from->p;
  j.to = to->p;
  j.dtype = from->dtype;
  j.n = lk_view_count(from);
  j.key = c->key;
  j.add = add;
  lk_parallel(j.n < SERIAL ? 1 : c->threads, (j.n + RUN - 1) / RUN, 32, runs, &j);
  return 0;
}

static uint32_t reads(const lk_call *c) {
  (void)c;
  return 0;
}

/* ---- dropout: kept when the bits are at least p 2^16, so that p holds to 2^-17 ---- */

static job dropout_job(lk_call *c) {
  double p = *(const double *)c->attr;
  return (job){.apply = drop, .threshold = (uint32_t)lrint(p * 65536), .scale = 1 / (1 - p)};
}

static int dropout_shape(lk_call *c) {
  double p = *(const double *)c->attr;
  if (!(p >= 0 && p <= 1)) return lk_op_fail(c, LK_EARG, "p = %g is not in 0 .. 1", p);
  return lk_view_init(c->y, c->x[0].dtype, c->x[0].ndim, c->x[0].shape);
}

static int dropout_fwd(lk_call *c) { return run(c, dropout_job(c), &c->x[0], c->y, 0); }
static int dropout_bwd(lk_call *c) { return run(c, dropout_job(c), c->gy, &c->gx[0], !(c->fresh & LK_X(0))); }

static const lk_case dropout_cases[] = {{"3x5", &(double){0.3}, -2, 2, 0},
                                        {"2x1x13", &(double){0.5}, -2, 2, 0},
                                        {"-", &(double){0.25}, -2, 2, 0},
                                        {"7", &(double){1}, -2, 2, 0},
                                        {0}};
const lk_op lk_op_dropout = {.name = "dropout",
                             .nin = 1,
                             .flags = LK_OP_PACKED | LK_OP_FRESH | LK_OP_RANDOM,
                             .attr_size = sizeof(double),
                             .shape = dropout_shape,
                             .fwd = dropout_fwd,
                             .bwd = dropout_bwd,
                             .reads = reads,
                             .cases = dropout_cases};

/* In training, each element of x is 0 with probability p (a multiple of 2^-16), else x / (1 - p); the draw depends on
 * the pass, the scope and the element only.  Outside training, or with p = 0, x itself.  Refuses p outside 0 .. 1. */
LK_OP lk_tensor lk_dropout(lk_tape *t, lk_tensor x, double p) {
  if (p == 0 || (p > 0 && p <= 1 && !lk_is_training(t))) return x;
  return lk_apply(t, &lk_op_dropout, 1, &x, &p);
}

/* ---- jitter: 1 - e + 2 e u, u the middle of the 2^-16 wide interval that the bits choose ---- */

static job jitter_job(lk_call *c) {
  double e = *(const double *)c->attr, step = 2 * e / 65536;
  return (job){.apply = shake, .scale = 1 - e + step / 2, .step = step};
}

static int jitter_shape(lk_call *c) {
  double e = *(const double *)c->attr;
  if (!(e >= 0 && e < 1)) return lk_op_fail(c, LK_EARG, "e = %g is not in [0, 1)", e);
  return lk_view_init(c->y, c->x[0].dtype, c->x[0].ndim, c->x[0].shape);
}

static int jitter_fwd(lk_call *c) { return run(c, jitter_job(c), &c->x[0], c->y, 0); }
static int jitter_bwd(lk_call *c) { return run(c, jitter_job(c), c->gy, &c->gx[0], !(c->fresh & LK_X(0))); }

static const lk_case jitter_cases[] = {{"3x5", &(double){0.3}, -2, 2, 0},
                                       {"2x1x13", &(double){0.01}, -2, 2, 0},
                                       {"-", &(double){0.99}, -2, 2, 0},
                                       {"0x3", &(double){0.1}, -2, 2, 0},
                                       {0}};
const lk_op lk_op_jitter = {.name = "jitter",
                            .nin = 1,
                            .flags = LK_OP_PACKED | LK_OP_FRESH | LK_OP_RANDOM,
                            .attr_size = sizeof(double),
                            .shape = jitter_shape,
                            .fwd = jitter_fwd,
                            .bwd = jitter_bwd,
                            .reads = reads,
                            .cases = jitter_cases};

/* In training, each element of x times a number of its own, uniform in [1 - e, 1 + e] (one of 2^16 evenly spaced); the
 * draw depends on the pass, the scope and the element only.  Outside training, or with e = 0, x itself.  Refuses e
 * outside [0, 1). */
LK_OP lk_tensor lk_jitter(lk_tape *t, lk_tensor x, double e) {
  if (e == 0 || (e > 0 && e < 1 && !lk_is_training(t))) return x;
  return lk_apply(t, &lk_op_jitter, 1, &x, &e);
}
