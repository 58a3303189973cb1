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
  lk_tensor dropped = lk_at_dropout(at, t, "drop", g->p, x);
  return lk_chain_delta_from(at->inner, t, dropped, lk_at_base(at, t, x, dropped), y);
}

/* Nothing is dropped when the weight is asked for. */
static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  return lk_chain_change(at->inner, t, W, b);
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
