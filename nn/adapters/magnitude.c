/* magnitude.c: every output's weight vector as length times direction, the length trained; "lora | magnitude" is
 * DoRA.
 *
 *   W' = diag(q) W,   q_j = m_j / n_j,   n_j = |W_j|,   m from n     (W: the weight of what precedes)
 *   y' = q y + (1 - q) b                       (b, the bias of what precedes, is not scaled)
 *
 * No gradient flows through n (section 4.3 of the paper, and PEFT) unless detach=0.
 *
 * Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353. */
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>

typedef struct {
  int detach;
} config;

typedef struct {
  lk_param *m; /* [out]; at a convolution [1, out, 1, 1], as PEFT stores it */
} state;

static const lk_opt opts[] = {
    {"detach", LK_OPT_FLAG, offsetof(config, detach), 1, 0, 1, NULL, "no gradient through the length"}, {0}};

static lk_status check(lk_at *at) {
  for (const lk_at *a = at->head; a != at; a = a->next) {
    const char *name = a->method->cls->name;
    if (lk_at_option(a, "dropout", 0) > 0)
      return lk_fail(
          lk_at_ctx(at), LK_EARG,
          "magnitude: dropout inside %s would not reach the base term as DoRA wants; write \"dropout p=%g (%s "
          "... | magnitude)\"",
          name, lk_at_option(a, "dropout", 0), name);
    if (lk_at_option(a, "bias", 0) > 0)
      return lk_fail(lk_at_ctx(at), LK_EARG, "magnitude: %s bias=1 before it is not defined", name);
  }
  return LK_OK;
}

/* n: lengths of the weight's output vectors, [out]. */
static lk_tensor lengths(lk_at *at, lk_tape *t, lk_tensor W) {
  static const int axes[] = {1, 2, 3}, axis0 = 0;
  int embedding = at->site->kind == LK_SITE_EMBEDDING;
  return lk_norm(t, W, 2, embedding ? 1 : lk_ndim(t, W) - 1, embedding ? &axis0 : axes, 0);
}

static lk_status attach(lk_at *at) {
  const lk_site *s = at->site;
  state *st = at->st;
  lk_ctx *c = lk_at_ctx(at);
  lk_tensor W, b;
  lk_view n;
  int conv = s->kind == LK_SITE_CONV2D;
  st->m =
      lk_at_param(at, "lora_magnitude_vector", LK_TRAINED, conv ? 4 : 1, conv ? (int64_t[]){1, s->out, 1, 1} : &s->out);
  if (!st->m || !st->m->value.p) return lk_error(c, NULL);
  lk_tape *t = lk_tape_new(c);
  if (!t) return lk_error(c, NULL);
  lk_no_grad(t, 1);
  lk_tape_in_double(t, 1);
  if (!lk_at_folded(at, t, &W, &b) && !lk_get(t, lengths(at, t, W), &n))
    for (int64_t j = 0; j < s->out; j++) {
      lk_view_set(&st->m->value, j, lk_view_get(&n, j));
      if (lk_view_get(&n, j) == 0)
        lk_fail(c, LK_EARG, "magnitude: output %lld of %s has only zero weights: its length cannot be scaled",
                (long long)j, lk_at_path(at));
    }
  lk_param_touch(st->m);
  lk_tape_free(t);
  return lk_error(c, NULL);
}

/* The lengths of W, without gradient unless detach=0. */
static lk_tensor divisor(lk_at *at, lk_tape *t, lk_tensor W) {
  const config *g = at->cfg;
  int was = lk_no_grad(t, g->detach || !lk_grad_enabled(t));
  lk_tensor n = lengths(at, t, W);
  lk_no_grad(t, was);
  return n;
}

/* Are these different values?  Either may be nil. */
static int differ(lk_tape *t, lk_tensor a, lk_tensor b) {
  lk_view u = {0}, v = {0};
  if (!lk_is_nil(a)) lk_get(t, a, &u);
  if (!lk_is_nil(b)) lk_get(t, b, &v);
  return u.p != v.p;
}

/* The divisor at what the adapters before have made of the weight, and whether they change the bias; big intermediate
 * values end here. */
static lk_tensor folded_divisor(lk_at *at, lk_tape *t, int *bias_moves) {
  const config *g = at->cfg;
  lk_tensor W, b, n = lk_nil();
  int was = lk_no_grad(t, g->detach || !lk_grad_enabled(t));
  uint32_t scope = lk_scope_begin(t, "length", 0);
  if (!lk_at_folded(at, t, &W, &b)) {
    n = lengths(at, t, W);
    *bias_moves = differ(t, b, lk_site_bias(at->site, t));
  }
  n = lk_scope_end(t, scope, n);
  lk_no_grad(t, was);
  return n;
}

static lk_tensor output(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  state *st = at->st;
  const int64_t out = at->site->out, channels[] = {1, out, 1, 1};
  lk_tensor m = lk_reshape(t, lk_use(t, st->m), 1, &out), W, b = lk_site_bias(at->site, t);
  int bias_moves = 0;
  (void)x;
  lk_tensor q = lk_div(t, m, folded_divisor(at, t, &bias_moves));
  if (bias_moves) lk_at_folded(at, t, &W, &b);          /* once more, with gradients */
  if (!lk_is_nil(b)) b = lk_sub(t, b, lk_mul(t, q, b)); /* (1 - q) b */
  if (at->site->kind != LK_SITE_CONV2D) return lk_scale_shift(t, y, q, b);
  if (!lk_is_nil(b)) b = lk_reshape(t, b, 4, channels);
  return lk_plus(t, lk_mul(t, y, lk_reshape(t, q, 4, channels)), b);
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  state *st = at->st;
  const int64_t along[] = {at->site->out, 1, 1, 1};
  lk_tensor m = lk_reshape(t, lk_use(t, st->m), 1, along), q = lk_div(t, m, divisor(at, t, *W));
  (void)b;
  if (at->site->kind != LK_SITE_EMBEDDING) q = lk_reshape(t, q, lk_ndim(t, *W), along);
  *W = lk_mul(t, *W, q);
  return lk_error(lk_at_ctx(at), NULL);
}

const lk_adapter_class lk_adapter_magnitude = {.name = "magnitude",
                                               .summary = "trained lengths of the weight's rows; after lora: DoRA",
                                               .cite = "arXiv 2402.09353",
                                               .sites = LK_SITE_LINEAR | LK_SITE_EMBEDDING | LK_SITE_CONV2D,
                                               .caps = LK_AFFINE | LK_READS_WEIGHT | LK_NOOP_AT_START | LK_FROM_WEIGHT,
                                               .cfg_size = sizeof(config),
                                               .site_size = sizeof(state),
                                               .opts = opts,
                                               .check = check,
                                               .attach = attach,
                                               .weight = weight,
                                               .output = output};
