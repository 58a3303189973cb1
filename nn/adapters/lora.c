/* lora.c: LoRA: a frozen weight plus a trained product of two thin matrices.
 *
 *   y = W0 x + b0 + s (B A D(x) + c),   s = alpha / r,   with rslora alpha / sqrt(r)
 *
 * A [r, in], B [out, r], c [out] only with `bias`; D is dropout.  At an embedding A is [r, count], B [width, r] and
 * nothing is dropped; at a convolution A is [r, in, k0, k1] with the base's stride, padding and dilation, and B a
 * 1 x 1 convolution [out, r / groups, 1, 1] in the base's groups.  A has none: what B A adds to one group's outputs
 * depends on all inputs, so that in more than one group it is no change of the base weight.
 *
 * With `supernet` the rank of a site is chosen later: r, r/2, ..., 1 or 0, the leading k rows of A and columns of B, drawn
 * at random in each training pass until one is chosen; s stays that of r.
 *
 * Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; rsLoRA: arXiv 2312.03732;
 * PiSSA: arXiv 2404.02948; OLoRA: arXiv 2406.01775.  Names and initialisations are HuggingFace PEFT's. */
#include "structure.h"

#include <lorikeet/linalg.h>
#include <lorikeet/ops.h>
#include <math.h>
#include <string.h>

enum { INIT_DEFAULT, INIT_GAUSSIAN, INIT_RANDOM, INIT_PISSA, INIT_OLORA };

typedef struct {
  int r;
  double alpha, dropout;
  int rslora, bias, init, supernet;
} config;

typedef struct {
  lk_param *A, *B, *c;
  double s;
  lk_structure structure; /* of a supernet: the rank */
} state;

static const lk_opt opts[] = {
    {"r", LK_OPT_INT, offsetof(config, r), 8, 1, 1 << 20, NULL, "rank"},
    {"alpha", LK_OPT_REAL, offsetof(config, alpha), 8, -1e9, 1e9, NULL, "the scaling is alpha / r"},
    {"dropout", LK_OPT_REAL, offsetof(config, dropout), 0, 0, 1, NULL, "of the adapter's input"},
    {"rslora", LK_OPT_FLAG, offsetof(config, rslora), 0, 0, 1, NULL, "scaling alpha / sqrt(r)"},
    {"bias", LK_OPT_FLAG, offsetof(config, bias), 0, 0, 1, NULL, "a trained bias on B (PEFT's lora_bias)"},
    {"init", LK_OPT_WORD, offsetof(config, init), 0, 0, 0, "default|gaussian|random|pissa|olora",
     "of A and B; random is no no-op"},
    {"supernet", LK_OPT_FLAG, offsetof(config, supernet), 0, 0, 1, NULL,
     "draw ranks r, r/2, ..., 1, 0 in training, for a search"},
    {0}};

static int64_t groups(const lk_site *s) { return s->kind == LK_SITE_CONV2D && s->conv.groups ? s->conv.groups : 1; }

static lk_status no_weight(const lk_at *at) {
  return lk_fail(lk_at_ctx(at), LK_EARG,
                 "lora: at %s, a convolution in %lld groups, B A is no change of the weight: A sees all %lld input "
                 "channels, a group of the base only %lld",
                 lk_at_path(at), (long long)groups(at->site), (long long)at->site->in,
                 (long long)(at->site->in / groups(at->site)));
}

/* Does an adapter behind this one work on the weight? */
static int weight_is_wanted(const lk_at *at) {
  for (; at; at = at->outer)
    for (const lk_at *a = at->next; a; a = a->next)
      if (a->method->cls->caps & LK_READS_WEIGHT || (!a->method->cls->delta && !a->method->cls->output)) return 1;
  return 0;
}

static lk_status check(lk_at *at) {
  const config *g = at->cfg;
  const lk_site *s = at->site;
  lk_ctx *c = lk_at_ctx(at);
  int64_t least = s->in < s->out ? s->in : s->out;
  const char *init = g->init == INIT_PISSA ? "pissa" : "olora";
  if (g->r % groups(s))
    return lk_fail(c, LK_EARG, "lora: r = %d cannot be divided among the %lld groups of the convolution %s", g->r,
                   (long long)groups(s), lk_at_path(at));
  if (groups(s) > 1 && weight_is_wanted(at)) return no_weight(at);
  if (g->bias && s->kind == LK_SITE_EMBEDDING)
    return lk_fail(c, LK_EARG, "lora: bias is for linear layers and convolutions; %s is an embedding", lk_at_path(at));
  if (g->bias && g->init != INIT_DEFAULT && g->init != INIT_RANDOM)
    return lk_fail(c, LK_EARG, "lora: bias goes with init=default or init=random only");
  if (g->supernet && groups(s) > 1)
    return lk_fail(c, LK_EARG, "lora: supernet is not for the %lld groups of %s, which every rank would have to divide",
                   (long long)groups(s), lk_at_path(at));
  if (g->init < INIT_PISSA) return LK_OK;
  if (g->supernet)
    return lk_fail(c, LK_EARG, "lora: supernet cannot begin with init=%s, whose base weight is right for one rank",
                   init);
  if (s->kind != LK_SITE_LINEAR)
    return lk_fail(c, LK_EARG, "lora: init=%s is for linear layers; %s is none", init, lk_at_path(at));
  if (g->init == INIT_OLORA && s->fan_in_fan_out)
    return lk_fail(c, LK_EARG, "lora: init=olora is not defined for %s, whose weight is stored [in, out]",
                   lk_at_path(at));
  if (g->r > least)
    return lk_fail(c, LK_EARG, "lora: init=%s needs r <= %lld at %s, not %d", init, (long long)least, lk_at_path(at),
                   g->r);
  return LK_OK;
}

/* ---- initialisation ---- */

static void init_random(lk_at *at, state *m) {
  const config *g = at->cfg;
  const int64_t *a = m->A->value.shape;
  double fan_in = (double)(at->site->kind == LK_SITE_CONV2D ? a[1] * a[2] * a[3] : a[1]), k = 1 / sqrt(fan_in);
  double q = 1 / sqrt((double)m->B->value.shape[1]);
  if (at->site->kind == LK_SITE_EMBEDDING) {
    if (g->init == INIT_RANDOM) lk_param_normal(m->A, 0, 1);
    lk_param_normal(m->B, 0, 1);
    return;
  }
  if (g->init == INIT_GAUSSIAN) lk_param_normal(m->A, 0, 1 / (double)g->r);
  else lk_param_uniform(m->A, -k, k);
  if (g->init != INIT_RANDOM) return;
  lk_param_uniform(m->B, -q, q);
  if (m->c) lk_param_uniform(m->c, -q, q);
}

static lk_view matrix(double *p, int64_t rows, int64_t cols) {
  lk_view v;
  lk_view_init(&v, LK_F64, 2, (int64_t[]){rows, cols});
  v.p = p;
  return v;
}

/* Factors of the weight W: PiSSA the r leading singular triples, OLoRA the first r columns of its QR.
 * b [out, k], a [k, in] from the decomposition; the factors are b sqrt(d) and sqrt(d) a. */
static lk_status factors(lk_at *at, double *W, double *b, double *d, double *a, int64_t k) {
  const config *g = at->cfg;
  const lk_site *s = at->site;
  const state *m = at->st;
  lk_view w = matrix(W, s->out, s->in), B = matrix(b, s->out, k), A = matrix(a, k, s->in), D = matrix(d, 1, k);
  D.ndim = 1, D.shape[0] = k, D.stride[0] = 1;
  if (g->init == INIT_PISSA && lk_svd(lk_at_ctx(at), &w, &B, &D, &A)) return lk_error(lk_at_ctx(at), NULL);
  if (g->init == INIT_OLORA && lk_qr(lk_at_ctx(at), &w, &B, &A)) return lk_error(lk_at_ctx(at), NULL);
  for (int64_t i = 0; i < k; i++) d[i] = g->init == INIT_PISSA ? sqrt(d[i] / m->s) : 1;
  return LK_OK;
}

/* The base becomes W0 - s B A, from the factors as they were rounded into the parameters. */
static lk_status subtract_from_base(lk_at *at, double *W) {
  const lk_site *s = at->site;
  const state *m = at->st;
  const int64_t r = m->A->value.shape[0];
  lk_view residual = matrix(W, s->out, s->in);
  for (int64_t o = 0; o < s->out; o++)
    for (int64_t k = 0; k < r; k++) {
      double b = m->s * lk_view_get(&m->B->value, o * r + k);
      for (int64_t i = 0; i < s->in; i++) W[o * s->in + i] -= b * lk_view_get(&m->A->value, k * s->in + i);
    }
  return lk_at_rebase(at, &residual);
}

static lk_status init_from_weight(lk_at *at, state *m) {
  const lk_site *s = at->site;
  lk_ctx *c = lk_at_ctx(at);
  int64_t k = s->in < s->out ? s->in : s->out, r = m->A->value.shape[0];
  double *work = lk_alloc_array(c, (size_t)(s->out * k + k + k * s->in + s->out * s->in), sizeof *work);
  if (!work) return lk_error(c, NULL);
  double *b = work, *d = b + s->out * k, *a = d + k, *W = a + k * s->in;
  lk_view w = matrix(W, s->out, s->in);
  if (m->s == 0) lk_fail(c, LK_EARG, "lora: init from the weight needs alpha other than 0");
  if (m->s < 0 && ((const config *)at->cfg)->init == INIT_PISSA)
    lk_fail(c, LK_EARG, "lora: init=pissa needs alpha above 0, for sqrt(S / s)");
  if (!lk_error(c, NULL) && !lk_site_read(s, &w) && !factors(at, W, b, d, a, k)) {
    for (int64_t i = 0; i < r * s->in; i++) lk_view_set(&m->A->value, i, d[i / s->in] * a[i]);
    for (int64_t i = 0; i < s->out * r; i++) lk_view_set(&m->B->value, i, b[i / r * k + i % r] * d[i % r]);
    lk_param_touch(m->A);
    lk_param_touch(m->B);
    subtract_from_base(at, W);
  }
  lk_free(c, work);
  return lk_error(c, NULL);
}

static lk_status attach(lk_at *at) {
  const config *g = at->cfg;
  const lk_site *s = at->site;
  const int64_t *w = s->weight->value.shape;
  state *m = at->st;
  m->s = g->alpha / (g->rslora ? sqrt((double)g->r) : (double)g->r);
  if (s->kind == LK_SITE_CONV2D) {
    m->A = lk_at_param(at, "lora_A.weight", LK_TRAINED, 4, (int64_t[]){g->r, s->in, w[2], w[3]});
    m->B = lk_at_param(at, "lora_B.weight", LK_TRAINED, 4, (int64_t[]){s->out, g->r / groups(s), 1, 1});
  } else {
    int embedding = s->kind == LK_SITE_EMBEDDING;
    m->A = lk_at_param(at, embedding ? "lora_embedding_A" : "lora_A.weight", LK_TRAINED, 2, (int64_t[]){g->r, s->in});
    m->B = lk_at_param(at, embedding ? "lora_embedding_B" : "lora_B.weight", LK_TRAINED, 2, (int64_t[]){s->out, g->r});
  }
  if (g->bias) m->c = lk_at_param(at, "lora_B.bias", LK_TRAINED, 1, &s->out);
  if (g->supernet) lk_structure_new(at, &m->structure, "lora_structure", 1);
  if (lk_error(lk_at_ctx(at), NULL) || !m->A->value.p) return lk_error(lk_at_ctx(at), NULL);
  if (g->init >= INIT_PISSA) return init_from_weight(at, m);
  init_random(at, m);
  return lk_error(lk_at_ctx(at), NULL);
}

/* ---- ranks of a supernet: see lk_adapter_choose ---- */

static int genes(const lk_at *at, int *choices) {
  const config *g = at->cfg;
  const state *m = at->st;
  int n = 2; /* 1 and 0 */
  for (int k = g->r; k > 1; k /= 2) n++;
  if (choices) *choices = n;
  return m->structure.stored && !m->structure.settled;
}

static lk_status choose(lk_at *at, const int *choice) {
  return lk_structure_choose(&((state *)at->st)->structure, choice);
}

static int64_t cost(const lk_at *at, const int *choice) {
  const config *g = at->cfg;
  const state *m = at->st;
  const int64_t *a = m->A->value.shape, *b = m->B->value.shape;
  int64_t one = lk_param_count(m->A) / a[0] + lk_param_count(m->B) / b[1], k = g->r >> *choice;
  return k ? k * one + (m->c ? lk_param_count(m->c) : 0) : 0;
}

static lk_status settle(lk_at *at) {
  const config *g = at->cfg;
  state *m = at->st;
  lk_structure *s = &m->structure;
  if (!s->stored || s->settled) return LK_OK;
  if (lk_structure_begin(at, s)) return lk_error(lk_at_ctx(at), NULL);
  int64_t k = g->r >> s->choice[0];
  if (!lk_structure_cut(s, m->A, k, -1) && !lk_structure_cut(s, m->B, -1, k)) lk_structure_cut(s, m->c, k ? -1 : 0, -1);
  return lk_structure_end(s);
}

static lk_status loaded(lk_method *method) {
  for (int i = 0; i < method->nat; i++) {
    lk_at *at = method->at[i];
    lk_structure *s = &((state *)at->st)->structure;
    int choices, now;
    genes(at, &choices);
    if (s->stored && s->stored->value.p && !lk_structure_load(at, s, &choices, &now) && now) settle(at);
  }
  return lk_error(lk_method_ctx(method), NULL);
}

static void destroy_at(lk_at *at) { lk_structure_free(at, &((state *)at->st)->structure); }

/* A and B of this pass, and s: the leading part, with s = 0 when the rank is 0. */
static double leading(const lk_at *at, lk_tape *t, lk_tensor *A, lk_tensor *B) {
  const config *g = at->cfg;
  const state *m = at->st;
  int n, drawn = g->supernet && !lk_structure_is_chosen(&m->structure) && lk_is_training(t);
  *A = lk_use(t, m->A);
  *B = lk_use(t, m->B);
  if (!drawn && !lk_structure_is_chosen(&m->structure)) return m->s;
  genes(at, &n);
  int choice = drawn ? (int)lk_random_below(lk_at_key(at, t, "structure"), 0, (uint64_t)n) : m->structure.choice[0];
  int64_t k = g->r >> choice;
  *A = lk_slice(t, *A, 0, 0, k ? k : 1, 1);
  *B = lk_slice(t, *B, 1, 0, k ? k : 1, 1);
  return k ? m->s : 0;
}

/* ---- forward ---- */

static lk_tensor conv_delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y, lk_tensor A, lk_tensor B, double s) {
  const lk_conv2d_options in_groups = {.groups = groups(at->site)};
  lk_conv2d_options all_inputs = at->site->conv;
  const state *m = at->st;
  all_inputs.groups = 1;
  lk_tensor h = lk_conv2d(t, x, A, lk_nil(), &all_inputs);
  lk_tensor c = m->c ? lk_scale(t, lk_use(t, m->c), s) : lk_nil();
  return lk_plus(t, y, lk_conv2d(t, h, lk_scale(t, B, s), c, &in_groups));
}

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const config *g = at->cfg;
  state *m = at->st;
  lk_tensor A, B;
  double s = leading(at, t, &A, &B);
  if (s == 0 && g->supernet && !lk_is_nil(y)) return y;
  x = lk_at_dropout(at, t, "drop", g->dropout, x);
  if (at->site->kind == LK_SITE_CONV2D) return conv_delta(at, t, x, y, A, B, s);
  lk_tensor h =
      at->site->kind == LK_SITE_EMBEDDING ? lk_embedding(t, lk_transpose(t, A, 0, 1), x) : lk_linear(t, x, A, lk_nil());
  y = lk_accumulate(t, y, h, B, s);
  return m->c ? lk_add(t, y, lk_scale(t, lk_use(t, m->c), s)) : y;
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  const config *g = at->cfg;
  state *m = at->st;
  lk_tensor A, B, BA;
  if (groups(at->site) > 1) return no_weight(at);
  double s = leading(at, t, &A, &B);
  if (s == 0 && g->supernet) return lk_error(lk_at_ctx(at), NULL);
  B = lk_scale(t, B, s); /* thinner than the product */
  if (at->site->kind == LK_SITE_CONV2D) {
    const int64_t *a = m->A->value.shape;
    BA = lk_matmul(t, lk_flatten(t, B, 1, -1), lk_flatten(t, A, 1, -1));
    BA = lk_reshape(t, BA, 4, (int64_t[]){at->site->out, a[1], a[2], a[3]});
  } else {
    BA = lk_matmul(t, B, A);
  }
  if (at->site->kind == LK_SITE_EMBEDDING) BA = lk_transpose(t, BA, 0, 1);
  *W = lk_add(t, *W, BA);
  if (m->c) *b = lk_plus(t, *b, lk_scale(t, lk_use(t, m->c), s));
  return lk_error(lk_at_ctx(at), NULL);
}

/* At a convolution A is [r, in k0 k1]. */
static lk_status exact_factors(lk_at *at, lk_tape *t, lk_tensor *A, lk_tensor *B) {
  state *m = at->st;
  if (groups(at->site) > 1) return no_weight(at);
  if (m->c)
    return lk_fail(lk_at_ctx(at), LK_EARG, "lora: with bias=1, as at %s, the change is more than a product B A",
                   lk_at_path(at));
  double s = leading(at, t, A, B); /* with rank 0 a product that is 0 */
  *A = lk_flatten(t, *A, 1, -1);
  *B = lk_scale(t, lk_flatten(t, *B, 1, -1), s);
  return lk_error(lk_at_ctx(at), NULL);
}

const lk_adapter_class lk_adapter_lora = {.name = "lora",
                                          .summary = "low-rank update B A of the weight",
                                          .cite = "arXiv 2106.09685",
                                          .sites = LK_SITE_LINEAR | LK_SITE_EMBEDDING | LK_SITE_CONV2D,
                                          .caps = LK_AFFINE | LK_NOOP_AT_START,
                                          .cfg_size = sizeof(config),
                                          .site_size = sizeof(state),
                                          .opts = opts,
                                          .check = check,
                                          .attach = attach,
                                          .destroy_at = destroy_at,
                                          .weight = weight,
                                          .delta = delta,
                                          .factors = exact_factors,
                                          .loaded = loaded,
                                          .genes = genes,
                                          .choose = choose,
                                          .cost = cost,
                                          .settle = settle};
