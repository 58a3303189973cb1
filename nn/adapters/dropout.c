/* dropout.c: a chain behind a dropped input: "dropout p=0.1 (lora r=8 | magnitude)".
 *
 *   y = W0 x + b0 + (chain(D(x)) - base(D(x)))
 *
 * The base sees x itself.  Around DoRA this is exactly HuggingFace PEFT's training forward with lora_dropout. */
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>

typedef struct {
  double p;
} config;

static const lk_opt opts[] = {
    {"p", LK_OPT_REAL, offsetof(config, p), 0.1, 0, 1, NULL, "chance to drop an element of the input"}, {0}};

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const config *g = at->cfg;
  return lk_chain_delta(at->inner, t, lk_at_dropout(at, t, "drop", g->p, x), y);
}

static int same(lk_tensor a, lk_tensor b) { return a.id == b.id && a.gen == b.gen; }

/* from + (to - base); nil: nothing there */
static lk_tensor moved(lk_tape *t, lk_tensor from, lk_tensor base, lk_tensor to) {
  if (same(from, base) || lk_is_nil(to)) return lk_is_nil(to) ? from : to;
  return lk_plus(t, from, lk_is_nil(base) ? to : lk_sub(t, to, base));
}

/* Nothing is dropped when the weight is asked for.  The chain starts from the base, as in delta. */
static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  lk_tensor W0 = lk_site_weight(at->site, t), b0 = lk_site_bias(at->site, t), inner_W = W0, inner_b = b0;
  if (lk_chain_weight(at->inner, t, &inner_W, &inner_b)) return lk_error(lk_at_ctx(at), NULL);
  *W = moved(t, *W, W0, inner_W);
  *b = moved(t, *b, b0, inner_b);
  return lk_error(lk_at_ctx(at), NULL);
}

const lk_adapter_class lk_adapter_dropout = {.name = "dropout",
                                             .summary = "drops the input of the adapters in parentheses",
                                             .cite = "Srivastava et al., JMLR 15 (2014)",
                                             .sites = LK_SITE_LINEAR | LK_SITE_EMBEDDING | LK_SITE_CONV2D,
                                             .caps = LK_AFFINE | LK_WRAPPER | LK_NOOP_AT_START,
                                             .cfg_size = sizeof(config),
                                             .opts = opts,
                                             .weight = weight,
                                             .delta = delta};
