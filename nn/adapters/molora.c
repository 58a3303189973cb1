/* molora.c: MoLoRA: n LoRA pairs beside one frozen layer, mixed for each token by a router.
 *
 *   p = softmax(x W_g^T),   G_i = p_i for the k largest, else 0   (with renormalize divided by their sum; soft: all)
 *   y = W0 x + b0 + s sum_i G_i B_i A_i D(x),   s = alpha / r
 *   loss + balance L_bal,   L_bal = n sum_i f_i P_i               (see mixture.h)
 *
 * A [n, r, in] and B [n, out, r] stack the pairs; D is dropout, one mask for all experts; the router sees x itself
 * (with jitter e, x times numbers in [1 - e, 1 + e]).  An expert computes only for the tokens that chose it.
 *
 * Zadouri et al., "Pushing Mixture of Experts to the Limit", arXiv 2309.05444 (soft); Wang et al., "MALoRA",
 * arXiv 2410.22782, equations 3-5 (top-k). */
#include <lorikeet/mixture.h>
#include <lorikeet/ops.h>
#include <math.h>

enum { INIT_KAIMING, INIT_GAUSSIAN };

typedef struct {
  lk_router_options router;
  int r, soft, init;
  double alpha, dropout;
} config;

typedef struct {
  lk_router router;
  lk_param *A, *B;
  double s;
} state;

static const lk_opt opts[] = {
    LK_ROUTER_OPTIONS(config, router),
    {"r", LK_OPT_INT, offsetof(config, r), 8, 1, 1 << 20, NULL, "rank of an expert"},
    {"alpha", LK_OPT_REAL, offsetof(config, alpha), 16, -1e9, 1e9, NULL, "the scaling is alpha / r"},
    {"dropout", LK_OPT_REAL, offsetof(config, dropout), 0.05, 0, 0.999, NULL, "of the experts' input"},
    {"jitter", LK_OPT_REAL, offsetof(config, router.jitter), 0, 0, 0.999, NULL, "noise on the router's input"},
    {"soft", LK_OPT_FLAG, offsetof(config, soft), 0, 0, 1, NULL, "all experts work for every token, whatever k"},
    {"init", LK_OPT_WORD, offsetof(config, init), 0, 0, 0, "kaiming|gaussian", "of A: as LoRA's, or normal(0, 0.02)"},
    {0}};

/* The router's options; soft: k = n, where the sum of the gates is 1 already. */
static lk_router_options routing_of(const config *g) {
  lk_router_options o = g->router;
  if (g->soft) o.k = o.n, o.renormalize = 0;
  return o;
}

static lk_status check(lk_at *at) {
  const lk_router_options o = routing_of(at->cfg);
  return lk_router_check(at, &o);
}

static lk_status attach(lk_at *at) {
  const config *g = at->cfg;
  const lk_router_options o = routing_of(g);
  const lk_site *site = at->site;
  state *st = at->st;
  double bound = 1 / sqrt((double)site->in);
  st->s = g->alpha / g->r;
  if (lk_router_attach(at, &o)) return lk_error(lk_at_ctx(at), NULL);
  st->A = lk_at_param(at, "A", LK_TRAINED, 3, (int64_t[]){o.n, g->r, site->in});
  st->B = lk_at_param(at, "B", LK_TRAINED, 3, (int64_t[]){o.n, site->out, g->r});
  if (lk_error(lk_at_ctx(at), NULL) || !st->A->value.p) return lk_error(lk_at_ctx(at), NULL);
  return g->init == INIT_GAUSSIAN ? lk_param_normal(st->A, 0, 0.02) : lk_param_uniform(st->A, -bound, bound);
}

/* Every expert gets every token: sum_i G_i B_i A_i x = [B_1 ... B_n] (G * [A_1; ...; A_n] x), as one LoRA of rank n r. */
static lk_tensor all_experts(lk_at *at, lk_tape *t, const lk_routing *to, lk_tensor x, lk_tensor y) {
  const state *st = at->st;
  const int64_t n = to->n, r = st->A->value.shape[1], in = at->site->in, out = at->site->out, T = to->tokens;
  lk_tensor A = lk_reshape(t, lk_use(t, st->A), 2, (int64_t[]){n * r, in});
  lk_tensor B = lk_reshape(t, lk_transpose(t, lk_use(t, st->B), 0, 1), 2, (int64_t[]){out, n * r});
  lk_tensor h = lk_reshape(t, lk_linear(t, x, A, lk_nil()), 3, (int64_t[]){T, n, r});
  h = lk_mul(t, h, lk_reshape(t, to->gate, 3, (int64_t[]){T, n, 1}));
  return lk_accumulate(t, y, lk_reshape(t, h, 2, (int64_t[]){T, n * r}), B, st->s);
}

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const config *g = at->cfg;
  state *st = at->st;
  lk_routing to;
  lk_expert e;
  if (lk_route(at, t, x, &to)) return lk_nil();
  lk_tensor xd = lk_routing_rows(t, &to, lk_at_dropout(at, t, "drop", g->dropout, x));
  y = lk_routing_sum(t, &to, y);
  if (lk_is_nil(to.index)) return lk_routing_shaped(t, &to, all_experts(at, t, &to, xd, y));
  for (int i = 0; i < to.n; i++) {
    if (!lk_routing_expert(t, &to, i, &e)) continue;
    lk_tensor h = lk_linear(t, lk_expert_take(t, &e, xd), lk_expert_part(t, st->A, i), lk_nil());
    y = lk_expert_add_product(t, &e, y, h, lk_expert_part(t, st->B, i), st->s);
  }
  return lk_routing_shaped(t, &to, y);
}

const lk_adapter_class lk_adapter_molora = {.name = "molora",
                                            .summary = "mixture of LoRA pairs, chosen per token by a router",
                                            .cite = "arXiv 2309.05444, 2410.22782",
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
