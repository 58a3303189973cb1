/* attention.c: softmax(scale q k^T + mask) v per head, in blocks of queries (scores of one block at a time, and only the
 * logarithm of each row's sum is kept for backward: Dao et al., "FlashAttention", arXiv 2205.14135). */
#include "attention_kernel.h"

#include <lorikeet/attention.h>
#include <lorikeet/op.h>
#include <math.h>

#define BLOCK 65536 /* scores of a block: they stay in the second-level cache */

typedef struct job {
  lk_call *c;
  lk_attention_options o;
  int64_t heads, t, s, d, dv; /* heads of a sample, queries, keys, sizes of a key and of a value */
  int64_t rows, ld;           /* of a block of scores */
  lk_view mask, gmask;        /* broadcast to [B, H, T, S]; p NULL: none */
  char *lse;
  char *scratch; /* per thread: k^T, v^T, scores, their gradients, inverse sums */
  int64_t per_thread;
} job;

/* ---- sizes ---- */

static int shape(lk_call *c) {
  const lk_view *q = &c->x[0], *k = &c->x[1], *v = &c->x[2];
  const lk_attention_options *o = c->attr;
  for (int i = 0; i < 3; i++)
    if (c->x[i].ndim != 4) return lk_op_fail(c, LK_ESHAPE, "wants q [B, H, T, d], k and v [B, H, S, d]");
  for (int i = 0; i < 2; i++)
    if (k->shape[i] != q->shape[i] || v->shape[i] != q->shape[i])
      return lk_op_fail(c, LK_ESHAPE, "q, k and v differ in axis %d", i);
  if (k->shape[3] != q->shape[3]) return lk_op_fail(c, LK_ESHAPE, "q and k differ in their last axis");
  if (v->shape[2] != k->shape[2]) return lk_op_fail(c, LK_ESHAPE, "k and v differ in axis 2");
  if (!(o->dropout >= 0 && o->dropout < 1)) return lk_op_fail(c, LK_EARG, "dropout %g is not in [0, 1)", o->dropout);
  if (!isfinite(o->scale)) return lk_op_fail(c, LK_EARG, "scale is %g", o->scale);
  int64_t full[4] = {q->shape[0], q->shape[1], q->shape[2], k->shape[2]};
  for (int d = 0; c->nin > 3 && d < c->x[3].ndim; d++) {
    int64_t n = c->x[3].shape[d], to = c->x[3].ndim > 4 ? 0 : full[4 - c->x[3].ndim + d];
    if (c->x[3].ndim > 4 || (n != 1 && n != to))
      return lk_op_fail(c, LK_ESHAPE, "the mask does not broadcast to [%lld, %lld, %lld, %lld]", (long long)full[0],
                        (long long)full[1], (long long)full[2], (long long)full[3]);
  }
  full[3] = v->shape[3];
  if (lk_view_init(c->y, q->dtype, 4, full)) return lk_op_fail(c, LK_ESHAPE, "the result is too large");
  c->y->stride[2] = full[1] * full[3]; /* in memory [B, T, H, d]: joining the heads is a view */
  c->y->stride[1] = full[3];
  return 0;
}

static lk_view spread_mask(const lk_view *m, int64_t b, int64_t h, int64_t t, int64_t s) {
  lk_view r = {.p = m->p, .dtype = m->dtype, .ndim = 4, .shape = {b, h, t, s}};
  for (int d = 4 - m->ndim; d < 4; d++) {
    int own = d - (4 - m->ndim);
    r.stride[d] = m->shape[own] == 1 ? 0 : m->stride[own];
  }
  return r;
}

static int64_t size_of(const job *j) { return (int64_t)lk_dtype_size(j->c->y->dtype); }
static int64_t up_to(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* Queries in equal blocks, multiples of 12 (the rows of a tile of the product). */
static int64_t block_rows(int64_t t, int64_t ld) {
  int64_t most = BLOCK / ld;
  if (most > 192) most = 192;
  if (most < 24) most = 24;
  int64_t blocks = t ? (t - 1) / most + 1 : 1;
  return up_to((t + blocks - 1) / blocks, 12);
}

static int prepare(lk_call *c, job *j, int back) {
  const lk_view *q = &c->x[0], *k = &c->x[1];
  *j = (job){.c = c, .o = *(const lk_attention_options *)c->attr, .heads = q->shape[1], .t = q->shape[2]};
  j->s = k->shape[2], j->d = q->shape[3], j->dv = c->x[2].shape[3];
  if (j->o.scale == 0) j->o.scale = j->d ? 1 / sqrt((double)j->d) : 1;
  j->ld = up_to(j->s ? j->s : 1, 16);
  j->rows = block_rows(j->t, j->ld);
  if (c->nin > 3) j->mask = spread_mask(&c->x[3], q->shape[0], j->heads, j->t, j->s);
  if (c->nin > 3 && back) j->gmask = spread_mask(&c->gx[3], q->shape[0], j->heads, j->t, j->s);
  j->per_thread = up_to(((j->d + j->dv) * j->ld + (back ? 2 : 1) * j->rows * j->ld + j->rows) * size_of(j), 64);
  j->scratch = lk_scratch(c, (size_t)(c->threads * j->per_thread));
  return j->scratch ? 0 : -1;
}

/* ---- one head ---- */

typedef struct head {
  lk_view q, k, v, y, gq, gk, gv, gmask; /* matrices */
  char *kt, *vt, *scores, *grads, *inverse, *lse;
  lk_scores block;
} head;

static void *at(const lk_view *v, int64_t offset) { return (char *)v->p + offset * (int64_t)lk_dtype_size(v->dtype); }

/* The last two axes of head h of sample b; without memory if v has none. */
static lk_view matrix(const lk_view *v, int64_t b, int64_t h) {
  lk_view r = {.dtype = v->dtype, .ndim = 2};
  for (int d = 0; d < 2; d++) {
    r.shape[d] = v->shape[2 + d];
    r.stride[d] = v->stride[2 + d];
  }
  if (v->p) r.p = at(v, b * v->stride[0] + h * v->stride[1]);
  return r;
}

static head head_of(const job *j, int64_t i, int thread) {
  const lk_call *c = j->c;
  int64_t b = i / j->heads, h = i % j->heads, size = size_of(j);
  head r = {.q = matrix(&c->x[0], b, h), .k = matrix(&c->x[1], b, h), .v = matrix(&c->x[2], b, h)};
  r.kt = j->scratch + thread * j->per_thread;
  r.vt = r.kt + j->d * j->ld * size;
  r.scores = r.vt + j->dv * j->ld * size;
  r.inverse = r.scores + j->rows * j->ld * size;
  r.grads = r.inverse + j->rows * size;
  r.lse = j->lse + i * j->t * size;
  r.block =
      (lk_scores){.dtype = c->y->dtype, .ld = j->ld, .causal = j->o.causal, .dropout = j->o.dropout, .key = c->key};
  r.block.draws = (uint64_t)(j->s + 3) / 4;
  r.block.draw = (uint64_t)(i * j->t) * r.block.draws;
  if (j->mask.p) r.block.mask = matrix(&j->mask, b, h);
  return r;
}

/* The block that begins at query `first`. */
static void move_block(const job *j, head *h, int64_t first) {
  lk_scores *b = &h->block;
  b->draw += (uint64_t)(first - b->first) * b->draws;
  b->first = first;
  b->rows = j->t - first < j->rows ? j->t - first : j->rows;
  b->keys = j->o.causal && first + b->rows < j->s ? first + b->rows : j->s;
}

/* y = beta y + alpha a b for a [m, k], b [k, n] of the given views' first rows. */
static void multiply(const lk_view *a, int64_t m, int64_t k, const lk_view *b, int64_t n, double alpha, double beta,
                     const lk_view *y) {
  lk_gemm_raw(y->dtype, m, n, k, alpha, a->p, a->stride[0], a->stride[1], b->p, b->stride[0], b->stride[1], beta, y->p,
              y->stride[0], y->stride[1]);
}

static lk_view from_row(const lk_view *v, int64_t row) {
  lk_view r = *v;
  r.p = v->p ? at(v, row * v->stride[0]) : NULL;
  return r;
}

static lk_view scores_view(const head *h, void *p) {
  return (lk_view){p, h->block.dtype, 2, {h->block.rows, h->block.keys}, {h->block.ld, 1}};
}

static lk_view transposed(lk_view v) {
  return (lk_view){v.p, v.dtype, 2, {v.shape[1], v.shape[0]}, {v.stride[1], v.stride[0]}};
}

static void forward_heads(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  for (int64_t i = from; i < to; i++) {
    head h = head_of(j, i, thread);
    lk_scores *b = &h.block;
    lk_view kt = {h.kt, b->dtype, 2, {j->d, j->s}, {j->ld, 1}};
    lk_view y = matrix(j->c->y, i / j->heads, i % j->heads);
    lk_scores_transpose(&h.k, h.kt, j->ld);
    for (int64_t first = 0; first < j->t; first += j->rows) {
      move_block(j, &h, first);
      lk_view q = from_row(&h.q, first), yr = from_row(&y, first), s = scores_view(&h, h.scores);
      multiply(&q, b->rows, j->d, &kt, b->keys, j->o.scale, 0, &s);
      lk_scores_softmax(b, h.scores, h.inverse, h.lse + first * size_of(j));
      multiply(&s, b->rows, b->keys, &h.v, j->dv, 1, 0, &yr);
      lk_scores_divide(b, yr.p, j->dv, yr.stride[0], h.inverse);
    }
  }
}

/* With P = probabilities, D = their gradient = gy v^T and G = P (D - sum(P D)):
 * gv += P^T gy, gq += scale G k, gk += scale G^T q, gmask += G */
static void backward_block(const job *j, const head *h, const lk_view *gy) {
  const lk_scores *b = &h->block;
  lk_view s = scores_view(h, h->scores), g = scores_view(h, h->grads), st = transposed(s), gt = transposed(g);
  lk_view kt = {h->kt, b->dtype, 2, {j->d, j->s}, {j->ld, 1}}, vt = {h->vt, b->dtype, 2, {j->dv, j->s}, {j->ld, 1}};
  lk_view q = from_row(&h->q, b->first), gq = from_row(&h->gq, b->first), gmask = from_row(&h->gmask, b->first);
  const char *lse = h->lse + b->first * size_of(j);
  multiply(&q, b->rows, j->d, &kt, b->keys, j->o.scale, 0, &s);
  if (h->gq.p || h->gk.p || h->gmask.p) {
    multiply(gy, b->rows, j->dv, &vt, b->keys, 1, 0, &g);
    lk_scores_softmax_back(b, h->scores, h->grads, lse);
  } else {
    lk_scores_again(b, h->scores, lse);
  }
  if (h->gv.p) multiply(&st, b->keys, b->rows, gy, j->dv, 1, 1, &h->gv);
  if (h->gq.p) multiply(&g, b->rows, b->keys, &h->k, j->d, j->o.scale, 1, &gq);
  if (h->gk.p) multiply(&gt, b->keys, b->rows, &q, j->d, j->o.scale, 1, &h->gk);
  if (!h->gmask.p) return;
  gmask.shape[0] = b->rows;
  gmask.shape[1] = b->keys;
  lk_view_add(&gmask, &g, 1);
}

static void backward_heads(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_call *c = j->c;
  for (int64_t i = from; i < to; i++) {
    head h = head_of(j, i, thread);
    int64_t b = i / j->heads, n = i % j->heads;
    lk_view gy = matrix(c->gy, b, n);
    h.gq = matrix(&c->gx[0], b, n);
    h.gk = matrix(&c->gx[1], b, n);
    h.gv = matrix(&c->gx[2], b, n);
    if (j->gmask.p) h.gmask = matrix(&j->gmask, b, n);
    lk_scores_transpose(&h.k, h.kt, j->ld);
    if (h.v.p) lk_scores_transpose(&h.v, h.vt, j->ld);
    for (int64_t first = 0; first < j->t; first += j->rows) {
      move_block(j, &h, first);
      lk_view rows = from_row(&gy, first);
      backward_block(j, &h, &rows);
    }
  }
}

/* ---- the op ---- */

/* Pairs of query and key, of all heads; each costs 2 operations per element of a product. */
static double pairs(const job *j) {
  double t = (double)j->t, s = (double)j->s, n = t * s, near = t < s ? t : s;
  if (j->o.causal) n = near * (near + 1) / 2 + (t - near) * s;
  return n * (double)(j->c->y->shape[0] * j->heads);
}

static int fwd(lk_call *c) {
  job j;
  if (prepare(c, &j, 0)) return -1;
  int64_t heads = c->y->shape[0] * j.heads;
  j.lse = lk_save(c, (size_t)(heads * j.t * size_of(&j)));
  if (!j.lse) return -1;
  lk_count_flops(c, 2 * pairs(&j) * (double)(j.d + j.dv));
  lk_parallel(c->threads, heads, 1, forward_heads, &j);
  return 0;
}

/* A gradient that repeats over heads or samples is written by one thread. */
static int threads_for(const lk_call *c, const job *j) {
  const lk_view *written[4] = {&c->gx[0], &c->gx[1], &c->gx[2], &j->gmask};
  for (int i = 0; i < 4; i++)
    for (int d = 0; d < 2; d++)
      if (written[i]->p && written[i]->shape[d] > 1 && !written[i]->stride[d]) return 1;
  return c->threads;
}

static int bwd(lk_call *c) {
  job j;
  if (prepare(c, &j, 1)) return -1;
  int scores = c->want & ~LK_X(2) ? 1 : 0, q = c->want & LK_X(0) ? 1 : 0, k = c->want & LK_X(1) ? 1 : 0;
  int v = c->want & LK_X(2) ? 1 : 0;
  j.lse = c->saved;
  lk_count_flops(c, 2 * pairs(&j) * ((double)((q + k) * j.d) + (double)((v + scores) * j.dv)));
  lk_parallel(threads_for(c, &j), c->y->shape[0] * j.heads, 1, backward_heads, &j);
  return 0;
}

static uint32_t reads(const lk_call *c) {
  uint32_t mask = c->nin > 3 ? LK_X(3) : 0, value = c->want & ~LK_X(2) ? LK_X(2) : 0;
  return LK_X(0) | LK_X(1) | value | mask;
}

static const lk_attention_options plain = {0}, causal = {.causal = 1}, scaled = {.scale = 0.7},
                                  dropping = {.dropout = 0.25}, all = {1, 0.5, 0.5};
static const lk_case cases[] = {{"2x3x5x4 2x3x5x4 2x3x5x4", &plain, -1, 1, 0},
                                {"1x2x3x2 1x2x7x2 1x2x7x3", &scaled, -1, 1, 0},
                                {"2x1x5x3 2x1x5x3 2x1x5x3", &causal, -1, 1, 0},
                                {"1x2x6x2 1x2x3x2 1x2x3x2", &causal, -1, 1, 0},
                                {"1x2x3x2 1x2x6x2 1x2x6x2", &causal, -1, 1, 0},
                                {"1x2x5x2 1x2x4x2 1x2x4x2", &dropping, -1, 1, 0},
                                {"2x2x3x2 2x2x4x2 2x2x4x2 2x1x1x4", &plain, -1, 1, 0},
                                {"1x2x3x2 1x2x4x2 1x2x4x2 3x4", &causal, -1, 1, 0},
                                {"1x2x3x2 1x2x3x2 1x2x3x2 1x2x3x3", &all, -1, 1, 0},
                                {"1x1x2x2 1x1x0x2 1x1x0x2", &plain, -1, 1, 0},
                                {0}};
static const lk_case masked_cases[] = {{"2x2x3x2 2x2x4x2 2x2x4x2 2x1x1x4", &plain, -1, 1, 0},
                                       {"1x2x4x3 1x2x4x3 1x2x4x3 4x4", &causal, -1, 1, 0},
                                       {"1x3x3x2 1x3x5x2 1x3x5x2 1x3x3x5", &dropping, -1, 1, 0},
                                       {0}};

#define ATTENTION(NAME, TYPES, CASES)                                                                                  \
  {                                                                                                                    \
    .name = NAME, .nin = 4, .optional = 1, .flags = LK_OP_RANDOM, .types = TYPES,                                      \
    .attr_size = sizeof(lk_attention_options), .shape = shape, .fwd = fwd, .bwd = bwd, .reads = reads, .cases = CASES  \
  }
const lk_op lk_op_attention = ATTENTION("attention", "r", cases);
const lk_op lk_op_masked_attention = ATTENTION("masked_attention", "rrrm", masked_cases);

/* y = softmax(scale q k^T + mask) v: q [B, H, T, d], k [B, H, S, d], v [B, H, S, e], y [B, H, T, e], whose memory is
 * [B, T, H, e], so that lk_transpose(t, y, 1, 2) is row-major.  mask nil, u8 (1: may attend) or of q's dtype (added;
 * differentiable), broadcasting to [B, H, T, S].  A query that may attend to nothing gives zeros.  options NULL: not
 * causal, scale 1 / sqrt(d), no dropout.  Any strides.  Scores exist for a few queries of a head at a time, also in
 * backward, which makes them again. */
LK_OP lk_tensor lk_attention(lk_tape *t, lk_tensor q, lk_tensor k, lk_tensor v, lk_tensor mask,
                             const lk_attention_options *options) {
  lk_attention_options o = options ? *options : plain;
  int is_u8 = !lk_is_nil(mask) && lk_dtype_of(t, mask) == LK_U8;
  if (o.dropout > 0 && o.dropout < 1 && !lk_is_training(t)) o.dropout = 0;
  return lk_apply(t, is_u8 ? &lk_op_masked_attention : &lk_op_attention, 4, (lk_tensor[]){q, k, v, mask}, &o);
}
