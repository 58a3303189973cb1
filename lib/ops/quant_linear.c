/* quant_linear.c: y = x W^T + b with W as int8 or nf4 codes, and W itself. */
#include "linear.h"
#include "tiles.h"

#include <lorikeet/quant.h>

/* What decoding needs: views of codes and scales. */
typedef struct {
  lk_quant q;
  const lk_view *codes, *scales;
} coded;

static void decode(const void *source, int64_t first, int64_t n, lk_dtype dtype, void *to) {
  const coded *k = source;
  (void)dtype; /* the scales' */
  lk_quant_decode(&k->q, k->codes, k->scales, first, n, to);
}

/* Are inputs i and i + 1 codes and scales of rows of q->in elements? */
static int check_codes(lk_call *c, int i, const lk_quant *q) {
  lk_view codes, scales;
  char a[160], b[160];
  if (q->kind != LK_QUANT_INT8 && q->kind != LK_QUANT_NF4)
    return lk_op_fail(c, LK_EARG, "codes of the kind %s", lk_quant_name(q->kind));
  if (c->x[i].ndim != 2) return lk_op_fail(c, LK_ESHAPE, "wants codes [out, bytes]");
  if (lk_quant_shapes(q, c->x[i + 1].dtype, c->x[i].shape[0], &codes, &scales))
    return lk_op_fail(c, LK_ESHAPE, "rows of %lld elements", (long long)q->in);
  if (!lk_view_same_shape(&codes, &c->x[i]) || !lk_view_same_shape(&scales, &c->x[i + 1]))
    return lk_op_fail(c, LK_ESHAPE, "%s rows of %lld elements have codes %s and scales %s", lk_quant_name(q->kind),
                      (long long)q->in, lk_view_format(&codes, a), lk_view_format(&scales, b));
  return 0;
}

/* ---- quant_linear ---- */

static int shape(lk_call *c) {
  const lk_view *x = &c->x[0];
  lk_quant q = *(const lk_quant *)c->attr;
  int64_t n[LK_MAXDIM], out = c->x[1].shape[0];
  if (x->ndim < 1) return lk_op_fail(c, LK_ESHAPE, "wants x [..., in]");
  if (q.in != x->shape[x->ndim - 1])
    return lk_op_fail(c, LK_ESHAPE, "the last axis of x has %lld elements, the weight's rows %lld",
                      (long long)x->shape[x->ndim - 1], (long long)q.in);
  if (check_codes(c, 1, &q)) return -1;
  if (c->nin > 3 && (c->x[3].ndim != 1 || c->x[3].shape[0] != out))
    return lk_op_fail(c, LK_ESHAPE, "the bias should have shape [%lld]", (long long)out);
  for (int d = 0; d < x->ndim; d++) n[d] = x->shape[d];
  n[x->ndim - 1] = out;
  return lk_view_init(c->y, x->dtype, x->ndim, n) ? lk_op_fail(c, LK_ESHAPE, "the result is too large") : 0;
}

static int fwd(lk_call *c) {
  const coded k = {*(const lk_quant *)c->attr, &c->x[1], &c->x[2]};
  const lk_tiles W = {k.codes->shape[0], k.q.in, &k, decode};
  lk_tiles_linear(c, lk_rows_of(&c->x[0]), &W, 1, 0, lk_rows_of(c->y));
  if (c->nin > 3) lk_linear_bias(c);
  return 0;
}

static int bwd(lk_call *c) {
  const coded k = {*(const lk_quant *)c->attr, &c->x[1], &c->x[2]};
  const lk_tiles W = {k.codes->shape[0], k.q.in, &k, decode};
  if (c->gx[0].p) lk_tiles_linear_back(c, lk_rows_of(c->gy), &W, 1, c->fresh & LK_X(0) ? 0 : 1, lk_rows_of(&c->gx[0]));
  if (c->nin > 3) lk_linear_bias_back(c);
  return 0;
}

static uint32_t reads(const lk_call *c) { return c->want & LK_X(0) ? LK_X(1) | LK_X(2) : 0; }

static const lk_quant bytes = {LK_QUANT_INT8, 0, 5}, halves = {LK_QUANT_NF4, 0, 5}, both = {LK_QUANT_NF4, 1, 66},
                      twice = {LK_QUANT_INT8, 1, 65}, one = {LK_QUANT_NF4, 0, 1};
static const lk_case cases[] = {{"2x3x5 4x5 4x1 4", &bytes, -1, 1, 0}, {"3x5 4x3 4x1", &halves, -1, 1, 0},
                                {"2x66 3x35 2 3", &both, -1, 1, 0},    {"65 2x67 2 2", &twice, -1, 1, 0},
                                {"67x1 2x1 2x1 2", &one, -1, 1, 0},    {0}};
const lk_op lk_op_quant_linear = {.name = "quant_linear",
                                  .nin = 4,
                                  .optional = 1,
                                  .flags = LK_OP_FRESH | LK_OP_PACKED,
                                  .types = "rmfr",
                                  .attr_size = sizeof(lk_quant),
                                  .shape = shape,
                                  .fwd = fwd,
                                  .bwd = bwd,
                                  .reads = reads,
                                  .cases = cases};

/* y = x W^T + b: x [..., q->in], codes and scales of W as lk_quant_encode makes them, b [out] or nil, y [..., out].  W
 * is decoded in tiles and never whole; it carries no gradient, x and b do. */
LK_OP lk_tensor lk_quant_linear(lk_tape *t, lk_tensor x, lk_tensor codes, lk_tensor scales, lk_tensor b,
                                const lk_quant *q) {
  return lk_apply(t, &lk_op_quant_linear, 4, (lk_tensor[]){x, codes, scales, b}, q);
}

/* ---- dequantise ---- */

static int dequantise_shape(lk_call *c) {
  const lk_quant *q = c->attr;
  if (check_codes(c, 0, q)) return -1;
  return lk_view_init(c->y, c->x[1].dtype, 2, (int64_t[]){c->x[0].shape[0], q->in});
}

static int dequantise_fwd(lk_call *c) {
  const coded k = {*(const lk_quant *)c->attr, &c->x[0], &c->x[1]};
  const lk_tiles W = {k.codes->shape[0], k.q.in, &k, decode};
  lk_tiles_decode(c, &W, c->y->dtype, c->y->p);
  return 0;
}

static const lk_case dequantise_cases[] = {
    {"4x5 4x1", &bytes, -1, 1, 0}, {"4x3 4x1", &halves, -1, 1, 0}, {"3x35 2", &both, -1, 1, 0}, {0}};
const lk_op lk_op_dequantise = {.name = "dequantise",
                                .nin = 2,
                                .flags = LK_OP_PACKED,
                                .types = "mf",
                                .attr_size = sizeof(lk_quant),
                                .shape = dequantise_shape,
                                .fwd = dequantise_fwd,
                                .cases = dequantise_cases};

/* W [out, q->in] from its codes and scales, of the scales' dtype; without a gradient. */
LK_OP lk_tensor lk_dequantise(lk_tape *t, lk_tensor codes, lk_tensor scales, const lk_quant *q) {
  return lk_apply(t, &lk_op_dequantise, 2, (lk_tensor[]){codes, scales}, q);
}
