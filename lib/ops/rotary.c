/* rotary.c: rotary position embedding (Su et al., "RoFormer", arXiv 2104.09864), in the layout of LLaMA: element i of the
 * first half of a head turns with element i of the second half. */
#include "real.h"

#include <lorikeet/op.h>
#include <string.h>

typedef struct job {
  const lk_call *c;
  const lk_view *from, *to;
  int sign, add; /* sign -1: turn back; add to what is there */
} job;

/* x [..., T, d]; table [T, d]: d / 2 cosines, then d / 2 sines, of each position. */
static int shape(lk_call *c) {
  const lk_view *x = &c->x[0], *table = &c->x[1];
  if (x->ndim < 2 || table->ndim != 2 || x->shape[x->ndim - 1] % 2)
    return lk_op_fail(c, LK_ESHAPE, "wants x [..., T, d], d even, and a table [T, d]");
  for (int k = 0; k < 2; k++)
    if (x->shape[x->ndim - 2 + k] != table->shape[k])
      return lk_op_fail(c, LK_ESHAPE, "the table should be [%lld, %lld]", (long long)x->shape[x->ndim - 2],
                        (long long)x->shape[x->ndim - 1]);
  return lk_view_init(c->y, x->dtype, x->ndim, x->shape);
}

static LK_CLONES void turn_rows(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_view *table = &j->c->x[1];
  int64_t d = table->shape[1], half = d / 2, positions = table->shape[0];
  (void)thread;
  LK_REAL(j->to->dtype, {
    R sign = (R)j->sign;
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)j->from->p + r * d, *cosine = (const R *)table->p + r % positions * d;
      const R *sine = cosine + half;
      R *y = (R *)j->to->p + r * d;
      for (int64_t i = 0; i < half; i++) {
        R a = x[i], b = x[i + half], s = sign * sine[i];
        y[i] = (j->add ? y[i] : 0) + a * cosine[i] - b * s;
        y[i + half] = (j->add ? y[i + half] : 0) + b * cosine[i] + a * s;
      }
    }
  });
}

static void turn(lk_call *c, const lk_view *from, const lk_view *to, int sign, int add) {
  job j = {c, from, to, sign, add};
  int64_t d = c->x[1].shape[1];
  if (d) lk_parallel(c->threads, lk_view_count(to) / d, 1 + 32768 / (d + 1), turn_rows, &j);
}

static int fwd(lk_call *c) {
  turn(c, &c->x[0], c->y, 1, 0);
  return 0;
}

/* What each angle's cosine and sine would have to change; summed over the rows in order. */
static void table_gradient(lk_call *c) {
  int64_t d = c->x[1].shape[1], half = d / 2, positions = c->x[1].shape[0];
  LK_REAL(c->gy->dtype, {
    for (int64_t r = 0, rows = lk_view_count(c->gy) / (d + !d); r < rows; r++) {
      const R *x = (const R *)c->x[0].p + r * d, *gy = (const R *)c->gy->p + r * d;
      R *cosine = (R *)c->gx[1].p + r % positions * d, *sine = cosine + half;
      for (int64_t i = 0; i < half; i++) {
        cosine[i] += gy[i] * x[i] + gy[i + half] * x[i + half];
        sine[i] += gy[i + half] * x[i] - gy[i] * x[i + half];
      }
    }
  });
}

/* The transpose of a rotation turns back. */
static int bwd(lk_call *c) {
  if (c->gx[0].p) turn(c, c->gy, &c->gx[0], -1, !(c->fresh & LK_X(0)));
  if (c->gx[1].p && c->fresh & LK_X(1)) memset(c->gx[1].p, 0, lk_view_bytes(&c->gx[1]));
  if (c->gx[1].p) table_gradient(c);
  return 0;
}

static uint32_t reads(const lk_call *c) {
  return (c->want & LK_X(0) ? LK_X(1) : 0) | (c->want & LK_X(1) ? LK_X(0) : 0);
}

static const lk_case cases[] = {
    {"3x4 3x4", NULL, -1, 1, 0}, {"2x3x5x6 5x6", NULL, -1, 1, 0}, {"2x1x2 1x2", NULL, -1, 1, 0}, {0}};
const lk_op lk_op_rotary = {.name = "rotary",
                            .nin = 2,
                            .flags = LK_OP_PACKED | LK_OP_FRESH,
                            .shape = shape,
                            .fwd = fwd,
                            .bwd = bwd,
                            .reads = reads,
                            .cases = cases};

/* y = x with its vectors turned: y_i = x_i cos_i - x_(i+d/2) sin_i, y_(i+d/2) = x_(i+d/2) cos_i + x_i sin_i for
 * i < d/2; x [..., T, d], d even, table [T, d] with d / 2 cosines and then d / 2 sines for each of the T positions.
 * Differentiable in both. */
LK_OP lk_tensor lk_rotary(lk_tape *t, lk_tensor x, lk_tensor table) {
  return lk_apply(t, &lk_op_rotary, 2, (lk_tensor[]){x, table}, NULL);
}
