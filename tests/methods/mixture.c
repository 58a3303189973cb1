/* mixture.c: golden cases of mixtures of experts: outputs, routing, balance loss, gradients, single experts. */
#include "mixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A case on its way. */
typedef struct {
  golden *g;
  const golden_mixture *m;
  golden_layer l;
  double balance, s;
  int n, k;
  lk_view x;
  void *gx;
} run;

/* ---- the spec ---- */

/* The first size of a recorded tensor, for what the metadata do not say. */
static double size_of(golden *g, const char *name, int axis) {
  lk_view v;
  return golden_need(g, name, &v) && axis < v.ndim ? (double)v.shape[axis] : 1;
}

static int is_soft(golden *g) { return strstr(golden_text(g, "mode", "topk"), "soft") != NULL; }

/* "name n=.. k=.. ..." with a factor of the balance loss. */
static void write_spec(run *r, double balance, char *spec, size_t size) {
  golden *g = r->g;
  char more[200] = "";
  double rank = golden_real(g, r->m->rank, size_of(g, r->m->first, 1)), p = golden_real(g, "dropout_p", 0);
  r->n = (int)golden_real(g, "n_experts", size_of(g, "Wg", 0));
  r->k = is_soft(g) ? r->n : (int)golden_real(g, "top_k", r->n);
  r->s = golden_real(g, "scale", golden_real(g, "alpha", rank) / rank);
  double alpha = golden_real(g, "alpha", r->s * rank);
  if (fabs(alpha / rank - r->s) > 1e-12 * fabs(r->s))
    lk_fail(g->ctx, LK_EARG, "unsupported: scale %g with alpha = %g and rank %g", r->s, alpha, rank);
  if (p > 0 && !golden_has(g, "mask"))
    lk_fail(g->ctx, LK_EARG, "unsupported: dropout_p = %g without the recorded mask", p);
  r->m->options(g, more, sizeof more);
  snprintf(spec, size, "%s n=%d k=%d alpha=%.17g dropout=%.17g balance=%.17g renormalize=%d%s", r->m->name, r->n, r->k,
           alpha, p, balance, golden_flag(g, "renormalize", 0), more);
}

/* ---- passes ---- */

static lk_tensor constant(run *r, const lk_view *v) { return lk_input(r->l.t, v->dtype, v->ndim, v->shape, v->p); }

/* A new pass with the recorded draws; the input. */
static lk_tensor begin(run *r) {
  golden *g = r->g;
  lk_tape *t = r->l.t;
  lk_view v;
  double p = golden_real(g, "dropout_p", 0);
  lk_tape_reset(t);
  lk_train(t, 0, 0);
  if (golden_get(g, "mask", &v)) lk_side(t, "site.drop", lk_scale(t, constant(r, &v), 1 - p));
  if (golden_get(g, "jitter", &v)) lk_side(t, "site.jitter", constant(r, &v));
  if (golden_get(g, "token_mask", &v)) lk_side(t, "token_mask", constant(r, &v));
  memset(r->gx, 0, lk_view_bytes(&r->x));
  return lk_leaf(t, &r->x, r->gx);
}

static void compare_value(run *r, const char *name, lk_tensor value) {
  lk_view got, want;
  if (!golden_get(r->g, name, &want) || lk_get(r->l.t, value, &got)) return;
  if (lk_view_count(&got) == lk_view_count(&want))
    value = lk_reshape(r->l.t, value, want.ndim, want.shape); /* [T, ..] or lead + [..] */
  if (!lk_get(r->l.t, value, &got)) golden_compare(r->g, name, &got);
}

static void compare_grads(run *r, const char *prefix) {
  char name[100];
  lk_view v = r->x;
  v.p = r->gx;
  snprintf(name, sizeof name, "%sx", prefix);
  golden_compare(r->g, name, &v);
  for (const golden_name *n = r->m->params; n->stored; n++) {
    lk_param *p = golden_param(&r->l, "default", n->param);
    snprintf(name, sizeof name, "%s%s", prefix, n->stored);
    if (!p || !golden_has(r->g, name)) continue;
    v = p->value;
    v.p = p->grad;
    if (!p->has_grad) lk_fail(r->g->ctx, LK_ENOGRAD, "%s got no gradient", p->name);
    else golden_compare(r->g, name, &v);
  }
}

typedef enum { TASK, BALANCE, TOTAL } which;
static const char *const prefixes[] = {"grad.", "gradbal.", "gradtot."};

/* Forward in training and backward of one of the losses. */
static void pass(run *r, which loss) {
  golden *g = r->g;
  lk_tape *t = r->l.t;
  lk_view cotangent;
  int n;
  if (lk_error(g->ctx, NULL) || !golden_need(g, "g", &cotangent)) return;
  lk_param **p = lk_trainable(r->l.model, &n);
  for (int i = 0; i < n; i++) lk_param_zero_grad(p[i]);
  lk_free(g->ctx, p);
  lk_tensor y = lk_site_forward(r->l.site, t, begin(r));
  lk_tensor task = lk_sum(t, lk_mul(t, y, constant(r, &cotangent)), 0, NULL, 0);
  lk_tensor balance = lk_adapter_loss(r->l.model, t), total = lk_plus(t, task, balance);
  if (loss == TASK) compare_value(r, "y_train", y);
  if (loss == TASK) compare_value(r, "L_task", task);
  if (loss == BALANCE) compare_value(r, "L_bal", balance);
  if (loss == TOTAL) compare_value(r, "L_total", total);
  if (!golden_has_prefix(g, prefixes[loss])) return;
  if (!lk_backward(t, loss == TASK ? task : loss == BALANCE ? balance : total)) compare_grads(r, prefixes[loss]);
}

/* ---- routing ---- */

/* G [T, n]: the gates at their experts. */
static lk_tensor gates(run *r, const lk_routing *to) {
  lk_view G, gate, index;
  lk_tensor value = lk_input(r->l.t, LK_F64, 2, (int64_t[]){to->tokens, to->n}, NULL);
  if (lk_is_nil(to->index)) return to->gate;
  if (lk_get(r->l.t, value, &G) || lk_get(r->l.t, to->gate, &gate) || lk_get(r->l.t, to->index, &index)) return value;
  for (int e = 0; e < to->n; e++)
    for (int64_t i = to->first[e]; i < to->first[e + 1]; i++)
      lk_view_set(&G, (int64_t)lk_view_get(&index, i) * to->n + e, lk_view_get(&gate, i));
  return value;
}

/* f_i from the load that the router counted, and P_i from its probabilities, over the tokens that are not padding. */
static void compare_balance(run *r, const lk_at *at, const lk_routing *to) {
  lk_view mask, p, f, P;
  lk_tape *t = r->l.t;
  const int64_t *load = lk_router_load(at, NULL);
  lk_tensor part[2] = {lk_input(t, LK_F64, 1, &(int64_t){r->n}, NULL), lk_input(t, LK_F64, 1, &(int64_t){r->n}, NULL)};
  int masked = golden_get(r->g, "token_mask", &mask);
  double all = masked ? 0 : (double)to->tokens;
  if (lk_get(t, to->p, &p) || lk_get(t, part[0], &f) || lk_get(t, part[1], &P)) return;
  for (int64_t i = 0; masked && i < to->tokens; i++) all += lk_view_get(&mask, i);
  for (int e = 0; e < r->n; e++) {
    double mean = 0;
    for (int64_t i = 0; i < to->tokens; i++)
      mean += (masked ? lk_view_get(&mask, i) : 1) * lk_view_get(&p, i * r->n + e) / all;
    lk_view_set(&f, e, (double)load[e] / all);
    lk_view_set(&P, e, mean);
  }
  compare_value(r, "balance.f", part[0]);
  compare_value(r, "balance.Pbar", part[1]);
}

static void compare_routing(run *r) {
  lk_tape *t = r->l.t;
  lk_at *at = lk_error(r->g->ctx, NULL) ? NULL : r->l.site->stacks->chain;
  lk_view v;
  lk_routing to;
  if (!at) return;
  lk_tensor x = begin(r), noisy = golden_get(r->g, "jitter", &v) ? lk_mul(t, x, constant(r, &v)) : x;
  lk_router_forget(at);
  if (lk_route(at, t, x, &to)) return;
  lk_tensor logits = lk_linear(t, noisy, lk_use(t, golden_param(&r->l, "default", "router.weight")), lk_nil());
  compare_value(r, "logits", logits);
  compare_value(r, "probs", to.p);
  compare_value(r, "topk_idx", lk_is_nil(to.chosen) ? lk_topk(t, to.p, r->k, 1, 1) : to.chosen);
  compare_value(r, "gate", gates(r, &to));
  compare_balance(r, at, &to);
  if (r->m->more) r->m->more(&r->l, golden_get(r->g, "mask", &v) ? lk_mul(t, x, constant(r, &v)) : x);
}

/* W0 + s (...) for each expert. */
static void compare_experts(run *r) {
  lk_view want, W0, all;
  if (lk_error(r->g->ctx, NULL) || !golden_get(r->g, "merged_expert", &want) || !golden_need(r->g, "W0", &W0)) return;
  lk_tensor made = lk_input(r->l.t, LK_F64, 3, (int64_t[]){r->n, W0.shape[0], W0.shape[1]}, NULL);
  if (lk_get(r->l.t, made, &all)) return;
  for (int i = 0; i < r->n; i++) {
    lk_view W = W0;
    W.p = (char *)all.p + (size_t)i * lk_view_bytes(&W);
    memcpy(W.p, W0.p, lk_view_bytes(&W));
    r->m->add_expert(&r->l, i, r->s, &W);
  }
  golden_compare(r->g, "merged_expert", &all);
}

/* ---- a case ---- */

/* The layer with the adapter and the recorded parameters, the balance loss times `balance`; 0, or -1 with an error. */
static int open_layer(run *r, double balance) {
  char spec[600];
  write_spec(r, balance, spec, sizeof spec);
  if (lk_error(r->g->ctx, NULL) || golden_layer_new(r->g, &r->l, LK_SITE_LINEAR, r->m->params)) return -1;
  if (lk_attach(r->l.model, "default", spec, "site")) return -1;
  golden_assign(&r->l, "default", "");
  return lk_error(r->g->ctx, NULL) ? -1 : 0;
}

void golden_mixture_layer(golden *g, const golden_mixture *m) {
  run r = {.g = g, .m = m};
  if (!golden_need(g, "x", &r.x) || !(r.gx = lk_alloc(g->ctx, lk_view_bytes(&r.x) + 1))) return;
  if (!open_layer(&r, golden_real(g, "balance_coef", 0))) {
    pass(&r, TASK);
    pass(&r, TOTAL);
    golden_pass(&r.l, 0, "y_eval", NULL);
    compare_routing(&r);
    compare_experts(&r);
  }
  golden_layer_free(&r.l);
  r.l = (golden_layer){0};
  if (!lk_error(g->ctx, NULL) && !open_layer(&r, 1)) pass(&r, BALANCE);
  golden_layer_free(&r.l);
  lk_free(g->ctx, r.gx);
}
