/* attention.c: softmax(scale q k^T + mask) v per head, in blocks of queries (scores of one block at a time, and only the
 * logarithm of each row's sum is kept for backward: Dao et al., "FlashAttention", arXiv 2205.14135). */
#include "attention_kernel.h"

#include <lorikeet/attention.h>
#include <lorikeet/op.h>
#include <lorikeet/ops.h>
#include <math.h>
#include <string.h>

#define BLOCK 65536 /* scores of a block: they stay in the second-level cache */

typedef struct job {
  lk_call *c;
  lk_attention_options o;
  int64_t heads, t, s, d, dv; /* heads of a sample, queries, keys, sizes of a key and of a value */
  int64_t group;              /* heads of q that share one of k and v */
  int64_t rows, ld;           /* of a block of scores */
  lk_view mask, gmask;        /* broadcast to [B, H, T, S]; p NULL: none */
  char *lse;
  char *scratch;                                              /* per_thread bytes for each thread, with these parts: */
  int64_t per_thread, at_k, at_kt, at_v, at_vt, at_gk, at_gv; /* of a head */
  int64_t at_q, at_y, at_scores, at_grads, at_inverse;        /* of a block of queries */
} job;

/* ---- sizes ---- */

static int shape(lk_call *c) {
  const lk_view *q = &c->x[0], *k = &c->x[1], *v = &c->x[2];
  const lk_attention_options *o = c->attr;
  for (int i = 0; i < 3; i++)
    if (c->x[i].ndim != 4) return lk_op_fail(c, LK_ESHAPE, "wants q [B, H, T, d], k and v [B, G, S, d]");
  if (k->shape[0] != q->shape[0] || v->shape[0] != q->shape[0])
    return lk_op_fail(c, LK_ESHAPE, "q, k and v differ in axis 0");
  if (k->shape[1] != v->shape[1] || k->shape[1] < 1 || q->shape[1] % k->shape[1])
    return lk_op_fail(c, LK_ESHAPE, "%lld heads of k and %lld of v do not serve %lld heads of q",
                      (long long)k->shape[1], (long long)v->shape[1], (long long)q->shape[1]);
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
  int64_t n[4] = {full[0], full[2], full[1], v->shape[3]};
  return lk_view_init(c->y, q->dtype, 4, n) ? lk_op_fail(c, LK_ESHAPE, "the result is too large") : 0;
}

/* The result [B, T, H, e], or its gradient, as [B, H, T, e]. */
static lk_view by_head(const lk_view *y) {
  lk_view r = *y;
  r.shape[1] = y->shape[2], r.stride[1] = y->stride[2];
  r.shape[2] = y->shape[1], r.stride[2] = y->stride[1];
  return r;
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

/* Queries in equal blocks, multiples of 12 (the rows of a tile of the product); causal ones in smaller blocks, since
 * each computes its scores up to its last query. */
static int64_t block_rows(int64_t t, int64_t ld, int causal) {
  int64_t most = BLOCK / ld, limit = causal ? 48 : 192;
  if (most > limit) most = limit;
  if (most < 24) most = 24;
  int64_t blocks = t ? (t - 1) / most + 1 : 1;
  return up_to((t + blocks - 1) / blocks, 12);
}

/* Room for so many elements in each thread's scratch memory. */
static int64_t part(job *j, int64_t elements) {
  int64_t start = j->per_thread;
  j->per_thread += up_to(elements * size_of(j), 64);
  return start;
}

static int make_room(job *j, int back) {
  j->at_kt = part(j, j->d * j->ld);
  j->at_v = part(j, j->s * j->dv);
  j->at_q = part(j, j->rows * j->d);
  j->at_y = part(j, j->rows * j->dv); /* of the result or its gradient */
  j->at_scores = part(j, j->rows * j->ld);
  j->at_inverse = part(j, j->rows);
  if (back) {
    j->at_vt = part(j, j->dv * j->ld);
    j->at_k = part(j, j->s * j->d);
    j->at_gk = part(j, j->s * j->d);
    j->at_gv = part(j, j->s * j->dv);
    j->at_grads = part(j, j->rows * j->ld);
  }
  j->scratch = lk_scratch(j->c, (size_t)(j->c->threads * j->per_thread));
  return j->scratch ? 0 : -1;
}

static int prepare(lk_call *c, job *j, int back) {
  const lk_view *q = &c->x[0], *k = &c->x[1];
  *j = (job){.c = c, .o = *(const lk_attention_options *)c->attr, .heads = q->shape[1], .t = q->shape[2]};
  j->group = k->shape[1] ? q->shape[1] / k->shape[1] : 1;
  j->s = k->shape[2], j->d = q->shape[3], j->dv = c->x[2].shape[3];
  if (j->o.scale == 0) j->o.scale = j->d ? 1 / sqrt((double)j->d) : 1;
  j->ld = up_to(j->s ? j->s : 1, 16);
  j->rows = block_rows(j->t, j->ld, j->o.causal);
  if (c->nin > 3) j->mask = spread_mask(&c->x[3], q->shape[0], j->heads, j->t, j->s);
  if (c->nin > 3 && back) j->gmask = spread_mask(&c->gx[3], q->shape[0], j->heads, j->t, j->s);
  return make_room(j, back);
}

/* ---- one head ---- */

typedef struct head {
  lk_view q, k, v, y;                         /* matrices of the inputs and of the result or its gradient */
  lk_view gq, gk, gv, gmask;                  /* where gradients go; p NULL: not wanted */
  lk_view pq, pk, pkt, pv, pvt, py, pgk, pgv; /* packed */
  lk_view s, g;                               /* block of scores, its gradient */
  char *lse, *inverse;
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

static lk_view packed(const job *j, int thread, int64_t start, int64_t rows, int64_t columns, int64_t ld) {
  char *p = j->scratch + thread * j->per_thread + start;
  return (lk_view){p, j->c->y->dtype, 2, {rows, columns}, {ld, 1}};
}

static lk_view transposed(lk_view v) {
  return (lk_view){v.p, v.dtype, 2, {v.shape[1], v.shape[0]}, {v.stride[1], v.stride[0]}};
}

static head head_of(const job *j, int64_t i, int thread, int back) {
  const lk_call *c = j->c;
  int64_t b = i / j->heads, n = i % j->heads, shared = n / j->group;
  head h = {.q = matrix(&c->x[0], b, n), .k = matrix(&c->x[1], b, shared), .v = matrix(&c->x[2], b, shared)};
  lk_view y = by_head(back ? c->gy : c->y);
  h.y = matrix(&y, b, n);
  h.pkt = packed(j, thread, j->at_kt, j->d, j->s, j->ld);
  h.pv = packed(j, thread, j->at_v, j->s, j->dv, j->dv);
  h.pq = packed(j, thread, j->at_q, j->rows, j->d, j->d);
  h.py = packed(j, thread, j->at_y, j->rows, j->dv, j->dv);
  h.s = packed(j, thread, j->at_scores, j->rows, j->s, j->ld);
  h.inverse = j->scratch + thread * j->per_thread + j->at_inverse;
  h.lse = j->lse + i * j->t * size_of(j);
  h.block =
      (lk_scores){.dtype = c->y->dtype, .ld = j->ld, .causal = j->o.causal, .dropout = j->o.dropout, .key = c->key};
  h.block.draws = (uint64_t)(j->s + 3) / 4;
  h.block.draw = (uint64_t)(i * j->t) * h.block.draws;
  if (j->mask.p) h.block.mask = matrix(&j->mask, b, n);
  if (!back) return h;
  h.gq = matrix(&c->gx[0], b, n);
  h.gk = matrix(&c->gx[1], b, shared);
  h.gv = matrix(&c->gx[2], b, shared);
  if (j->gmask.p) h.gmask = matrix(&j->gmask, b, n);
  h.pvt = packed(j, thread, j->at_vt, j->dv, j->s, j->ld);
  h.pk = packed(j, thread, j->at_k, j->s, j->d, j->d);
  h.pgk = packed(j, thread, j->at_gk, j->s, j->d, j->d);
  h.pgv = packed(j, thread, j->at_gv, j->s, j->dv, j->dv);
  h.g = packed(j, thread, j->at_grads, j->rows, j->s, j->ld);
  return h;
}

/* The rows of v that belong to the block. */
static lk_view rows_of(const lk_scores *b, const lk_view *v) {
  lk_view r = *v;
  r.shape[0] = b->rows;
  r.p = at(v, b->first * v->stride[0]);
  return r;
}

/* The block that begins at query `first`: its sizes, and its q packed. */
static void begin_block(const job *j, head *h, int64_t first) {
  lk_scores *b = &h->block;
  b->draw += (uint64_t)(first - b->first) * b->draws;
  b->first = first;
  b->rows = j->t - first < j->rows ? j->t - first : j->rows;
  b->keys = j->o.causal && first + b->rows < j->s ? first + b->rows : j->s;
  h->s.shape[0] = h->g.shape[0] = h->pq.shape[0] = h->py.shape[0] = b->rows;
  h->s.shape[1] = h->g.shape[1] = h->pkt.shape[1] = h->pvt.shape[1] = b->keys;
  h->pk.shape[0] = h->pv.shape[0] = h->pgk.shape[0] = h->pgv.shape[0] = b->keys;
  lk_view q = rows_of(b, &h->q);
  lk_scores_pack(&q, h->pq.p);
}

/* y = beta y + alpha a b */
static void multiply(const lk_view *a, const lk_view *b, double alpha, double beta, const lk_view *y) {
  lk_gemm_raw(y->dtype, y->shape[0], y->shape[1], a->shape[1], alpha, a->p, a->stride[0], a->stride[1], b->p,
              b->stride[0], b->stride[1], beta, y->p, y->stride[0], y->stride[1]);
}

static void forward_heads(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  for (int64_t i = from; i < to; i++) {
    head h = head_of(j, i, thread, 0);
    lk_scores_pack_transposed(&h.k, h.pkt.p, j->ld);
    lk_scores_pack(&h.v, h.pv.p);
    for (int64_t first = 0; first < j->t; first += j->rows) {
      begin_block(j, &h, first);
      lk_view y = rows_of(&h.block, &h.y);
      multiply(&h.pq, &h.pkt, j->o.scale, 0, &h.s);
      lk_scores_softmax(&h.block, h.s.p, h.inverse, h.lse + first * size_of(j));
      multiply(&h.s, &h.pv, 1, 0, &h.py);
      lk_scores_unpack_scaled(&y, h.py.p, h.inverse);
    }
  }
}

/* With P = probabilities, D = their gradient = gy v^T and G = P (D - sum(P D)):
 * gv += P^T gy, gq += scale G k, gk += scale G^T q, gmask += G.  gk and gv are summed in scratch memory. */
static void backward_block(const job *j, head *h) {
  const lk_scores *b = &h->block;
  lk_view gy = rows_of(b, &h->y), st = transposed(h->s), gt = transposed(h->g);
  const char *lse = h->lse + b->first * size_of(j);
  lk_scores_pack(&gy, h->py.p);
  multiply(&h->pq, &h->pkt, j->o.scale, 0, &h->s);
  if (h->gq.p || h->gk.p || h->gmask.p) {
    multiply(&h->py, &h->pvt, 1, 0, &h->g);
    lk_scores_softmax_back(b, h->s.p, h->g.p, lse);
  } else {
    lk_scores_again(b, h->s.p, lse);
  }
  if (h->gv.p) multiply(&st, &h->py, 1, 1, &h->pgv);
  if (h->gk.p) multiply(&gt, &h->pq, j->o.scale, 1, &h->pgk);
  if (h->gq.p) {
    lk_view gq = rows_of(b, &h->gq), sum = h->pq; /* q is not needed any more */
    multiply(&h->g, &h->pk, j->o.scale, 0, &sum);
    lk_scores_unpack_add(&gq, sum.p);
  }
  if (h->gmask.p) {
    lk_view gmask = rows_of(b, &h->gmask);
    gmask.shape[1] = b->keys;
    lk_view_add(&gmask, &h->g, 1);
  }
}

static void backward_heads(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  for (int64_t i = from; i < to; i++) {
    head h = head_of(j, i, thread, 1);
    lk_view gk = h.pgk, gv = h.pgv;
    lk_scores_pack_transposed(&h.k, h.pkt.p, j->ld);
    lk_scores_pack(&h.k, h.pk.p);
    if (h.v.p) lk_scores_pack_transposed(&h.v, h.pvt.p, j->ld);
    memset(gk.p, 0, lk_view_bytes(&gk));
    memset(gv.p, 0, lk_view_bytes(&gv));
    for (int64_t first = 0; first < j->t; first += j->rows) {
      begin_block(j, &h, first);
      backward_block(j, &h);
    }
    if (h.gk.p) lk_scores_unpack_add(&h.gk, gk.p);
    if (h.gv.p) lk_scores_unpack_add(&h.gv, gv.p);
  }
}

/* ---- the op ---- */

/* Pairs of query and key, of all heads; each costs 2 operations per element of a product. */
static double pairs(const job *j) {
  double t = (double)j->t, s = (double)j->s, n = t * s, near = t < s ? t : s;
  if (j->o.causal) n = near * (near + 1) / 2 + (t - near) * s;
  return n * (double)(j->c->y->shape[0] * j->heads);
}

/* Heads of a piece of work: some neighbours, if there are enough for many threads; those that share a key together,
 * since they add to one gradient. */
static int64_t grain_of(const job *j, int64_t heads) { return up_to(heads < 32 ? 1 : 4, j->group); }

enum { SERIAL = 1 << 15 }; /* multiplications that are not worth a second thread: one token's, when generating */

static int fwd(lk_call *c) {
  job j;
  if (prepare(c, &j, 0)) return -1;
  int64_t heads = c->y->shape[0] * j.heads;
  j.lse = lk_save(c, (size_t)(heads * j.t * size_of(&j)));
  if (!j.lse) return -1;
  double work = pairs(&j) * (double)(j.d + j.dv);
  lk_count_flops(c, 2 * work);
  lk_parallel(work < SERIAL ? 1 : c->threads, heads, grain_of(&j, heads), forward_heads, &j);
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
  int64_t heads = c->y->shape[0] * j.heads;
  lk_parallel(threads_for(c, &j), heads, grain_of(&j, heads), backward_heads, &j);
  return 0;
}

static uint32_t reads(const lk_call *c) {
  uint32_t mask = c->nin > 3 ? LK_X(3) : 0, value = c->want & ~LK_X(2) ? LK_X(2) : 0;
  return LK_X(0) | LK_X(1) | value | mask;
}

static const lk_attention_options plain = {0}, causal = {.causal = 1}, scaled = {.scale = 0.7},
                                  dropping = {.dropout = 0.25}, all = {1, 0.5, 0.5};
static const lk_case cases[] = {
    {"2x3x5x4 2x3x5x4 2x3x5x4", &plain, -1, 1, 0},         {"1x2x3x2 1x2x7x2 1x2x7x3", &scaled, -1, 1, 0},
    {"2x1x5x3 2x1x5x3 2x1x5x3", &causal, -1, 1, 0},        {"1x2x6x2 1x2x3x2 1x2x3x2", &causal, -1, 1, 0},
    {"1x2x3x2 1x2x6x2 1x2x6x2", &causal, -1, 1, 0},        {"1x2x5x2 1x2x4x2 1x2x4x2", &dropping, -1, 1, 0},
    {"2x2x3x2 2x2x4x2 2x2x4x2 2x1x1x4", &plain, -1, 1, 0}, {"1x2x3x2 1x2x4x2 1x2x4x2 3x4", &causal, -1, 1, 0},
    {"1x2x3x2 1x2x3x2 1x2x3x2 1x2x3x3", &all, -1, 1, 0},   {"1x1x2x2 1x1x0x2 1x1x0x2", &plain, -1, 1, 0},
    {"2x4x3x2 2x2x5x2 2x2x5x3", &plain, -1, 1, 0},         {"1x6x4x2 1x2x4x2 1x2x4x2 4x4", &all, -1, 1, 0},
    {"2x3x4x2 2x1x4x2 2x1x4x2", &causal, -1, 1, 0},        {0}};
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

/* y = softmax(scale q k^T + mask) v: q [B, H, T, d], k [B, G, S, d], v [B, G, S, e], y [B, H, T, e], where G = H or
 * divides H: then H / G neighbouring heads of q share a key and a value (grouped-query attention): a window on memory
 * [B, T, H, e], so that joining the heads, lk_transpose(t, y, 1, 2) and a reshape, copies nothing.  mask nil, u8 (1: may attend) or of q's dtype (added;
 * differentiable), broadcasting to [B, H, T, S].  A query that may attend to nothing gives zeros.  options NULL: not
 * causal, scale 1 / sqrt(d), no dropout.  Any strides.  Scores exist for a few queries of a head at a time, also in
 * backward, which makes them again. */
LK_OP lk_tensor lk_attention(lk_tape *t, lk_tensor q, lk_tensor k, lk_tensor v, lk_tensor mask,
                             const lk_attention_options *options) {
  lk_attention_options o = options ? *options : plain;
  int is_u8 = !lk_is_nil(mask) && lk_dtype_of(t, mask) == LK_U8;
  if (o.dropout > 0 && o.dropout < 1 && !lk_is_training(t)) o.dropout = 0;
  const lk_op *op = is_u8 ? &lk_op_masked_attention : &lk_op_attention;
  return lk_transpose(t, lk_apply(t, op, 4, (lk_tensor[]){q, k, v, mask}, &o), 1, 2);
}
