/* malora.c: MALoRA: a mixture of LoRA experts that share one down-projection and have a small matrix each in its
 * subspace; what that saves goes into a higher rank of the up-projections.
 *
 *   p = softmax(x W_g^T),   G_i = p_i for the k largest, else 0       (with renormalize divided by their sum)
 *   z = S_A D(x),   y = W0 x + b0 + s sum_i G_i B_i P_i z,   s = alpha / R
 *   loss + balance L_bal,   L_bal = n sum_i f_i P_i                   (see mixture.h)
 *
 * S_A [d, in], P [n, R, d], B [n, out, R]; D is dropout; the router sees x itself.  z is made once for all tokens, so
 * that experts gather rows of d numbers, not of `in`.  At the start, with K_i [d, in] as LoRA's A and K_i = U_i S_i V_i,
 *
 *   B = 0,   S_A = beta V_0,   P_i = (first R rows of U_i S_i) / beta                                  (equations 8-10)
 *
 * Wang et al., "MALoRA: Mixture of Asymmetric Low-Rank Adaptation for Enhanced Multi-Task Learning",
 * arXiv 2410.22782. */
#include <lorikeet/linalg.h>
#include <lorikeet/mixture.h>
#include <lorikeet/ops.h>
#include <math.h>

typedef struct {
  lk_router_options router;
  int d, R;
  double alpha, beta, dropout;
} config;

typedef struct {
  lk_router router;
  lk_param *S_A, *P, *B;
  double s;
} state;

static const lk_opt opts[] = {
    LK_ROUTER_OPTIONS(config, router),
    {"d", LK_OPT_INT, offsetof(config, d), 32, 1, 1 << 20, NULL, "rank of the shared down-projection"},
    {"R", LK_OPT_INT, offsetof(config, R), 12, 1, 1 << 20, NULL, "rank of an expert, at most d"},
    {"alpha", LK_OPT_REAL, offsetof(config, alpha), 24, -1e9, 1e9, NULL, "the scaling is alpha / R"},
    {"beta", LK_OPT_REAL, offsetof(config, beta), 1, 1e-6, 1e6, NULL, "what S_A is multiplied by at the start"},
    {"dropout", LK_OPT_REAL, offsetof(config, dropout), 0.05, 0, 0.999, NULL, "of the experts' input"},
    {0}};

static lk_status check(lk_at *at) {
  const config *g = at->cfg;
  lk_ctx *c = lk_at_ctx(at);
  if (g->R > g->d)
    return lk_fail(c, LK_EARG,
                   "malora: R = %d is more than d = %d: an expert cannot have a higher rank than what it "
                   "gets",
                   g->R, g->d);
  if (g->d > at->site->in)
    return lk_fail(c, LK_EARG, "malora: d = %d is more than the %lld inputs of %s", g->d, (long long)at->site->in,
                   lk_at_path(at));
  return lk_router_check(at, &g->router);
}

/* ---- initialisation ---- */

/* The i-th matrix of a stack. */
static lk_view part(const lk_view *stack, int64_t i) {
  lk_view v;
  lk_view_init(&v, stack->dtype, 2, stack->shape + 1);
  v.p = (char *)stack->p + i * (int64_t)lk_view_bytes(&v);
  return v;
}

static lk_view matrix(double *p, int64_t rows, int64_t cols) {
  lk_view v;
  lk_view_init(&v, LK_F64, 2, (int64_t[]){rows, cols});
  v.p = p;
  return v;
}

lk_status lk_malora_init(lk_ctx *ctx, const lk_view *K, double beta, lk_view *S_A, lk_view *P) {
  int64_t experts = P->shape[0], R = P->shape[1], d = P->shape[2], in = S_A->shape[1];
  double *work = lk_alloc_array(ctx, (size_t)(d * d + d + d * in), sizeof *work);
  if (!work) return lk_error(ctx, NULL);
  lk_view U = matrix(work, d, d), S = matrix(work + d * d, 1, d), V = matrix(work + d * d + d, d, in);
  S.ndim = 1, S.shape[0] = d, S.stride[0] = 1;
  for (int64_t t = 0; t <= experts; t++) {
    lk_view Kt = part(K, t), Pt = t ? part(P, t - 1) : *P;
    if (lk_svd(ctx, &Kt, t ? &U : NULL, t ? &S : NULL, t ? NULL : &V)) break;
    if (t == 0)
      for (int64_t i = 0; i < d * in; i++) lk_view_set(S_A, i, beta * lk_view_get(&V, i));
    else
      for (int64_t i = 0; i < R * d; i++) lk_view_set(&Pt, i, lk_view_get(&U, i) * lk_view_get(&S, i % d) / beta);
  }
  lk_free(ctx, work);
  return lk_error(ctx, NULL);
}

/* K [n + 1, d, in], uniform in +- 1 / sqrt(in), and from it S_A and P. */
static lk_status init(lk_at *at, state *st) {
  const config *g = at->cfg;
  lk_ctx *c = lk_at_ctx(at);
  char name[512];
  lk_key key = lk_key_make(lk_seed(c), lk_at_name(at, "K", name, sizeof name));
  double bound = 1 / sqrt((double)at->site->in);
  lk_view K;
  lk_view_init(&K, LK_F64, 3, (int64_t[]){g->router.n + 1, g->d, at->site->in});
  double *k = K.p = lk_alloc(c, lk_view_bytes(&K));
  if (!k) return lk_error(c, NULL);
  for (int64_t i = 0; i < lk_view_count(&K); i++) k[i] = bound * (2 * lk_random_uniform(key, (uint64_t)i) - 1);
  lk_malora_init(c, &K, g->beta, &st->S_A->value, &st->P->value);
  lk_param_touch(st->S_A);
  lk_param_touch(st->P);
  lk_free(c, k);
  return lk_error(c, NULL);
}

static lk_status attach(lk_at *at) {
  const config *g = at->cfg;
  const lk_site *site = at->site;
  state *st = at->st;
  st->s = g->alpha / g->R;
  if (lk_router_attach(at, &g->router)) return lk_error(lk_at_ctx(at), NULL);
  st->S_A = lk_at_param(at, "S_A", LK_TRAINED, 2, (int64_t[]){g->d, site->in});
  st->P = lk_at_param(at, "P", LK_TRAINED, 3, (int64_t[]){g->router.n, g->R, g->d});
  st->B = lk_at_param(at, "B", LK_TRAINED, 3, (int64_t[]){g->router.n, site->out, g->R});
  if (lk_error(lk_at_ctx(at), NULL) || !st->P->value.p) return lk_error(lk_at_ctx(at), NULL);
  return init(at, st);
}

/* ---- forward ---- */

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const config *g = at->cfg;
  state *st = at->st;
  lk_routing to;
  lk_expert e;
  if (lk_route(at, t, x, &to)) return lk_nil();
  lk_tensor xd = lk_routing_rows(t, &to, lk_at_dropout(at, t, "drop", g->dropout, x));
  lk_tensor z = lk_linear(t, xd, lk_use(t, st->S_A), lk_nil());
  y = lk_routing_sum(t, &to, y);
  for (int i = 0; i < to.n; i++) {
    if (!lk_routing_expert(t, &to, i, &e)) continue;
    lk_tensor h = lk_linear(t, lk_expert_take(t, &e, z), lk_expert_part(t, st->P, i), lk_nil());
    y = lk_expert_add_product(t, &e, y, h, lk_expert_part(t, st->B, i), st->s);
  }
  return lk_routing_shaped(t, &to, y);
}

const lk_adapter_class lk_adapter_malora = {.name = "malora",
                                            .summary = "mixture of LoRA experts with one shared down-projection",
                                            .cite = "arXiv 2410.22782",
                                            .sites = LK_SITE_LINEAR,
                                            .caps = LK_ROUTED | LK_NOOP_AT_START,
                                            .cfg_size = sizeof(config),
                                            .site_size = sizeof(state),
                                            .opts = opts,
                                            .check = check,
                                            .attach = attach,
                                            .destroy_at = lk_router_free,
                                            .delta = delta,
                                            .loss = lk_router_loss,
                                            .notes = lk_router_notes};
