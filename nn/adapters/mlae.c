/* mlae.c: MLAE, masked LoRA experts: a low-rank update as a sum of r rank-one experts with trained coefficients, whole
 * experts left out at random while training.
 *
 *   y = W0 x + b0 + sum_k lambda~_k b_k (a_k . D(x)),   that is   W = W0 + B^T diag(lambda~) A
 *
 *   lambda~_k = lambda_k f_k z_k / (1 - p) in training,   lambda_k f_k otherwise
 *
 * A [r, in] and B [r, out] hold an expert in each row, lambda [r] their coefficients; D is dropout.  z_k is 0 with
 * probability p, else 1: one draw for each layer and pass.  f is constant: 1, or with mask=fixed and mask=mixed a
 * row of 0 and 1 that stays (mlae_mask, drawn when attaching; a program may assign its own).
 *
 * "MLAE: Masked LoRA Experts for Parameter-Efficient Fine-Tuning", arXiv 2405.18897, and its official code. */
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MASK_STOCHASTIC, MASK_FIXED, MASK_MIXED };
enum { DEPTH_UNIFORM, DEPTH_INCREMENTAL, DEPTH_DECREMENTAL, DEPTH_HOURGLASS, DEPTH_PROTRUDING };

typedef struct {
  int r;
  double alpha, p, dropout, ratio;
  int mask, depth;
} config;

typedef struct {
  lk_param *A, *B, *lambda;
  lk_param *f;       /* the constant mask, or NULL */
  uint32_t f_looked; /* its version when it was last looked at */
  double p;          /* of this layer */
} state;

static const lk_opt opts[] = {
    {"r", LK_OPT_INT, offsetof(config, r), 8, 1, 1 << 20, NULL, "number of experts"},
    {"alpha", LK_OPT_REAL, offsetof(config, alpha), 1, -1e9, 1e9, NULL, "first value of every coefficient"},
    {"p", LK_OPT_REAL, offsetof(config, p), 0, 0, 1, NULL, "chance to leave an expert out of a training pass"},
    {"dropout", LK_OPT_REAL, offsetof(config, dropout), 0, 0, 1, NULL, "of the adapter's input"},
    {"mask", LK_OPT_WORD, offsetof(config, mask), 0, 0, 0, "stochastic|fixed|mixed",
     "experts are left out by chance, for good, or both"},
    {"ratio", LK_OPT_REAL, offsetof(config, ratio), 0.5, 0, 1, NULL, "part of the experts that a fixed mask removes"},
    {"depth", LK_OPT_WORD, offsetof(config, depth), 0, 0, 0, "uniform|incremental|decremental|hourglass|protruding",
     "where in the model p and ratio are large: fewer experts there"},
    {0}};

static lk_status check(lk_at *at) {
  const config *g = at->cfg;
  lk_ctx *c = lk_at_ctx(at);
  if (g->p == 1) return lk_fail(c, LK_EARG, "mlae: p = 1 leaves every expert out of every pass; it must be below 1");
  if (g->dropout == 1) return lk_fail(c, LK_EARG, "mlae: dropout = 1 leaves nothing of the input; it must be below 1");
  if (g->mask == MASK_FIXED && g->p > 0)
    return lk_fail(c, LK_EARG, "mlae: mask=fixed draws nothing, so p = %g means nothing; mask=mixed does both", g->p);
  return LK_OK;
}

static lk_status attach(lk_at *at) {
  const config *g = at->cfg;
  const int64_t r = g->r;
  state *m = at->st;
  m->A = lk_at_param(at, "mlae_A.weight", LK_TRAINED, 2, (int64_t[]){r, at->site->in});
  m->B = lk_at_param(at, "mlae_B.weight", LK_TRAINED, 2, (int64_t[]){r, at->site->out});
  m->lambda = lk_at_param(at, "mlae_lambda", LK_TRAINED, 1, &r);
  if (g->mask != MASK_STOCHASTIC) m->f = lk_at_param(at, "mlae_mask", LK_BUFFER, 1, &r);
  if (lk_error(lk_at_ctx(at), NULL) || !m->A->value.p) return lk_error(lk_at_ctx(at), NULL);
  double k = 1 / sqrt((double)at->site->in);
  lk_param_uniform(m->A, -k, k);
  return lk_param_fill(m->lambda, g->alpha);
}

/* ---- masks by depth ---- */

/* The layer that a site belongs to is its path up to the first number in it, "encoder.layer.3"; without a number the
 * whole path.  The length of that. */
static size_t layer_length(const char *path) {
  for (const char *part = path; *part; part += strcspn(part, "."), part += *part == '.') {
    size_t digits = strspn(part, "0123456789");
    if (digits && strchr(".", part[digits])) return (size_t)(part - path) + digits;
  }
  return strlen(path);
}

static int same_layer(const lk_at *a, const lk_at *b) {
  const char *p = lk_at_path(a), *q = lk_at_path(b);
  size_t n = layer_length(p);
  return n == layer_length(q) && !strncmp(p, q, n);
}

/* Part of p and ratio at depth t, 0 (first adapted layer) to 1 (last). */
static double part_at(int depth, double t) {
  switch (depth) {
  case DEPTH_INCREMENTAL: /* active experts grow with depth */
    return 1 - t;
  case DEPTH_DECREMENTAL:
    return t;
  case DEPTH_HOURGLASS: /* few in the middle */
    return 1 - fabs(2 * t - 1);
  case DEPTH_PROTRUDING: /* many in the middle */
    return fabs(2 * t - 1);
  default:
    return 1;
  }
}

/* Whoever has set the mask: is there an expert left? */
static void look_at_mask(lk_at *at) {
  state *m = at->st;
  if (!m->f || !m->f->value.p || m->f_looked == m->f->version) return;
  m->f_looked = m->f->version;
  for (int64_t k = 0; k < lk_param_count(m->f); k++)
    if (lk_view_get(&m->f->value, k) != 0) return;
  lk_warn(lk_at_ctx(at), "mlae: the fixed mask at %s removes every expert; the layer stays as it was", lk_at_path(at));
}

/* Keeps r (1 - ratio) experts, rounded down, chosen at random. */
static lk_status draw_mask(lk_at *at, double ratio) {
  state *m = at->st;
  lk_ctx *c = lk_at_ctx(at);
  int64_t r = lk_param_count(m->f);
  double kept = floor((double)r * (1 - ratio) + 1e-9); /* 10 (1 - 0.9) is 1 */
  int64_t *order = lk_alloc_array(c, (size_t)r, sizeof *order);
  if (!order) return lk_error(c, NULL);
  lk_random_permutation(lk_key_make(lk_seed(c), m->f->name), r, order);
  for (int64_t k = 0; k < r; k++) lk_view_set(&m->f->value, order[k], (double)k < kept);
  lk_param_touch(m->f);
  lk_free(c, order);
  look_at_mask(at);
  return lk_error(c, NULL);
}

/* Layers are counted as they follow each other in the model, adapted ones only. */
static lk_status init(lk_method *method) {
  int last = 0, layer = 0;
  for (int i = 1; i < method->nat; i++) last += !same_layer(method->at[i - 1], method->at[i]);
  for (int i = 0; i < method->nat; i++) {
    lk_at *at = method->at[i];
    const config *g = at->cfg;
    state *m = at->st;
    if (i && !same_layer(method->at[i - 1], at)) layer++;
    double part = part_at(g->depth, last ? (double)layer / last : 0);
    m->p = g->p * part;
    if (m->f && m->f->value.p && draw_mask(at, g->ratio * part)) break;
  }
  return lk_error(lk_method_ctx(method), NULL);
}

/* ---- forward ---- */

/* z: the recorded draw, or a new one, the same however often this pass asks for it. */
static lk_tensor experts_kept(lk_at *at, lk_tape *t, lk_dtype dtype) {
  const state *m = at->st;
  lk_tensor z = lk_at_side(at, t, "expert_keep");
  lk_view v;
  if (!lk_is_nil(z)) return z;
  lk_key key = lk_at_key(at, t, m->lambda->name);
  z = lk_input(t, dtype, 1, m->lambda->value.shape, NULL);
  if (lk_get(t, z, &v)) return z;
  for (int64_t k = 0; k < v.shape[0]; k++) lk_view_set(&v, k, lk_random_uniform(key, (uint64_t)k) >= m->p);
  return z;
}

/* lambda~ */
static lk_tensor coefficients(lk_at *at, lk_tape *t) {
  const state *m = at->st;
  lk_tensor lambda = lk_use(t, m->lambda);
  look_at_mask(at);
  if (m->f) lambda = lk_mul(t, lambda, lk_use(t, m->f));
  if (m->p == 0 || !lk_is_training(t)) return lambda;
  lk_tensor z = experts_kept(at, t, lk_dtype_of(t, lambda));
  return lk_scale(t, lk_mul(t, lambda, z), 1 / (1 - m->p));
}

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const config *g = at->cfg;
  const state *m = at->st;
  x = lk_at_dropout(at, t, "drop", g->dropout, x);
  lk_tensor h = lk_linear(t, x, lk_use(t, m->A), lk_nil());
  h = lk_mul(t, h, coefficients(at, t));
  return lk_accumulate(t, y, h, lk_transpose(t, lk_use(t, m->B), 0, 1), 1);
}

static lk_status factors(lk_at *at, lk_tape *t, lk_tensor *A, lk_tensor *B) {
  const state *m = at->st;
  *A = lk_use(t, m->A);
  *B = lk_mul(t, lk_transpose(t, lk_use(t, m->B), 0, 1), coefficients(at, t));
  return lk_error(lk_at_ctx(at), NULL);
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  lk_tensor A, B;
  (void)b;
  if (factors(at, t, &A, &B)) return lk_error(lk_at_ctx(at), NULL);
  *W = lk_add(t, *W, lk_matmul(t, B, A));
  return lk_error(lk_at_ctx(at), NULL);
}

static char *notes(lk_method *m) {
  int sites = 0;
  double mean = lk_model_shapes_only(m->adapter->model) ? 0 : lk_method_similarity(m, &sites);
  if (!sites) return NULL;
  return lk_sprintf(lk_method_ctx(m), "similarity of two experts %.3f (mean |cosine|)", mean);
}

const lk_adapter_class lk_adapter_mlae = {.name = "mlae",
                                          .summary = "rank-one experts with coefficients, left out at random",
                                          .cite = "arXiv 2405.18897",
                                          .sites = LK_SITE_LINEAR,
                                          .caps = LK_AFFINE | LK_NOOP_AT_START,
                                          .cfg_size = sizeof(config),
                                          .site_size = sizeof(state),
                                          .opts = opts,
                                          .check = check,
                                          .attach = attach,
                                          .init = init,
                                          .weight = weight,
                                          .delta = delta,
                                          .factors = factors,
                                          .notes = notes};
