/* ia3.c: (IA)^3: one trained factor per output of a layer, or per input.
 *
 *   y = l * (W0 x + b0)                 keys and values of attention
 *   y = W0 (l * x) + b0                 with ff: the second layer of an MLP, whose inputs are the activations
 *
 * l starts as ones.
 *
 * Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", arXiv 2205.05638,
 * section 3.3.  The parameter's name and shape are HuggingFace PEFT's. */
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>

typedef struct {
  int ff;
} config;

typedef struct {
  lk_param *l; /* [out, 1], ff [1, in]; at a convolution [1, out, 1, 1], ff [1, in, 1, 1] */
} state;

static const lk_opt opts[] = {
    {"ff", LK_OPT_FLAG, offsetof(config, ff), 0, 0, 1, NULL, "scale the inputs (PEFT's feedforward_modules)"}, {0}};

static int is_ff(const lk_at *at) { return ((const config *)at->cfg)->ff; }

static int is_conv(const lk_at *at) { return at->site->kind == LK_SITE_CONV2D; }

static lk_status check(lk_at *at) {
  if (!is_ff(at)) return LK_OK;
  if (at != at->head)
    return lk_fail(lk_at_ctx(at), LK_EARG, "ia3: ff scales what the layer %s reads, so ia3 comes first in its chain",
                   lk_at_path(at));
  if (is_conv(at) && at->site->conv.groups > 1)
    return lk_fail(lk_at_ctx(at), LK_EARG, "ia3: ff is not defined for %s, a convolution in %lld groups",
                   lk_at_path(at), (long long)at->site->conv.groups);
  return LK_OK;
}

static lk_status attach(lk_at *at) {
  state *st = at->st;
  const int64_t n = is_ff(at) ? at->site->in : at->site->out;
  const int64_t per_output[] = {n, 1}, per_input[] = {1, n}, per_channel[] = {1, n, 1, 1};
  st->l = lk_at_param(at, "ia3_l", LK_TRAINED, is_conv(at) ? 4 : 2,
                      is_conv(at) ? per_channel
                      : is_ff(at) ? per_input
                                  : per_output);
  return st->l && st->l->value.p ? lk_param_fill(st->l, 1) : lk_error(lk_at_ctx(at), NULL);
}

/* l in the shape that `axes` dimensions want, the factors along `axis`. */
static lk_tensor factors_along(lk_at *at, lk_tape *t, int axes, int axis) {
  const state *st = at->st;
  int64_t shape[] = {1, 1, 1, 1};
  shape[axis] = lk_param_count(st->l);
  return lk_reshape(t, lk_use(t, st->l), axes, shape);
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  *W = lk_mul(t, *W, factors_along(at, t, is_conv(at) ? 4 : 2, is_ff(at)));
  if (!is_ff(at) && !lk_is_nil(*b)) *b = lk_mul(t, *b, factors_along(at, t, 1, 0));
  return lk_error(lk_at_ctx(at), NULL);
}

/* l * x, features along the last axis, at a convolution channels along the second */
static lk_tensor scaled(lk_at *at, lk_tape *t, lk_tensor x) {
  if (is_conv(at)) return lk_mul(t, x, factors_along(at, t, 4, 1));
  return lk_scale_shift(t, x, factors_along(at, t, 1, 0), lk_nil());
}

static lk_tensor input(lk_at *at, lk_tape *t, lk_tensor x) { return is_ff(at) ? scaled(at, t, x) : x; }

static lk_tensor output(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  (void)x;
  return is_ff(at) ? y : scaled(at, t, y);
}

const lk_adapter_class lk_adapter_ia3 = {.name = "ia3",
                                         .summary = "trained factors of a layer's outputs, or of its inputs",
                                         .cite = "arXiv 2205.05638",
                                         .sites = LK_SITE_LINEAR | LK_SITE_CONV2D,
                                         .caps = LK_AFFINE | LK_NOOP_AT_START,
                                         .cfg_size = sizeof(config),
                                         .site_size = sizeof(state),
                                         .opts = opts,
                                         .check = check,
                                         .attach = attach,
                                         .weight = weight,
                                         .input = input,
                                         .output = output};
