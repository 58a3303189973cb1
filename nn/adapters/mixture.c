/* mixture.c: copies of any chain of adapters as experts: "mixture n=4 k=2 (lora r=8 | magnitude)".
 *
 *   p = softmax(x W_g^T),   G_i = p_i for the k largest, else 0       (with renormalize divided by their sum)
 *   y = W0 x + b0 + sum_i G_i (chain_i(D(x)) - base(D(x)))
 *   loss + balance L_bal,   L_bal = n sum_i f_i P_i                   (see mixture.h)
 *
 * D is dropout, one mask for all experts; the router sees x itself (with jitter e, x times numbers in [1 - e, 1 + e]).
 * "mixture (lora)" is MoLoRA, with the experts' parameters apart instead of stacked.
 *
 * Zadouri et al., arXiv 2309.05444; Wang et al., arXiv 2410.22782, equations 3-5. */
#include <lorikeet/mixture.h>
#include <lorikeet/ops.h>

typedef struct {
  lk_router_options router;
  double dropout;
} config;

typedef struct {
  lk_router router;
} state;

static const lk_opt opts[] = {
    LK_ROUTER_OPTIONS(config, router),
    {"jitter", LK_OPT_REAL, offsetof(config, router.jitter), 0, 0, 0.999, NULL, "noise on the router's input"},
    {"dropout", LK_OPT_REAL, offsetof(config, dropout), 0, 0, 0.999, NULL, "of the experts' input"},
    {0}};

static lk_status check(lk_at *at) {
  const config *g = at->cfg;
  return lk_router_check(at, &g->router);
}

static int copies(const lk_at *at) {
  const config *g = at->cfg;
  return g->router.n;
}

static lk_status attach(lk_at *at) {
  const config *g = at->cfg;
  return lk_router_attach(at, &g->router);
}

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const config *g = at->cfg;
  lk_routing to;
  lk_expert e;
  if (lk_route(at, t, x, &to)) return lk_nil();
  lk_tensor dropped = lk_at_dropout(at, t, "drop", g->dropout, x), xd = lk_routing_rows(t, &to, dropped);
  lk_tensor base = lk_at_base(at, t, x, dropped);
  if (!lk_is_nil(base)) base = lk_routing_rows(t, &to, base);
  y = lk_routing_sum(t, &to, y);
  for (lk_at *chain = at->inner; chain; chain = chain->other) {
    if (!lk_routing_expert(t, &to, chain->index, &e)) continue;
    lk_tensor rows = lk_expert_take(t, &e, xd), made = lk_is_nil(base) ? base : lk_expert_take(t, &e, base);
    y = lk_expert_add(t, &e, y, lk_chain_delta_from(chain, t, rows, made, lk_nil()));
  }
  return lk_routing_shaped(t, &to, y);
}

const lk_adapter_class lk_adapter_mixture = {.name = "mixture",
                                             .summary =
                                                 "experts, each a copy of the chain in parentheses, and a router",
                                             .cite = "arXiv 2309.05444, 2410.22782",
                                             .sites = LK_SITE_LINEAR,
                                             .caps = LK_ROUTED | LK_WRAPPER | LK_NOOP_AT_START,
                                             .cfg_size = sizeof(config),
                                             .site_size = sizeof(state),
                                             .opts = opts,
                                             .check = check,
                                             .copies = copies,
                                             .attach = attach,
                                             .destroy_at = lk_router_free,
                                             .delta = delta,
                                             .loss = lk_router_loss,
                                             .notes = lk_router_notes};
