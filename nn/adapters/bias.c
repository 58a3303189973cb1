/* bias.c: BitFit: only a shift of the layer's output is trained.
 *
 *   y = W0 x + b0 + c,   c [out] from 0
 *
 * Ben Zaken, Ravfogel, Goldberg: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
 * Language-models", arXiv 2106.10199. */
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>

typedef struct {
  lk_param *c;
} state;

static lk_status attach(lk_at *at) {
  state *s = at->st;
  s->c = lk_at_param(at, "shift", LK_TRAINED, 1, &at->site->out);
  return lk_error(lk_at_ctx(at), NULL);
}

static lk_tensor output(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  state *s = at->st;
  int64_t channels[] = {1, at->site->out, 1, 1};
  lk_tensor c = lk_use(t, s->c);
  (void)x;
  return lk_add(t, y, at->site->kind == LK_SITE_CONV2D ? lk_reshape(t, c, 4, channels) : c);
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  state *s = at->st;
  (void)W;
  *b = lk_plus(t, *b, lk_use(t, s->c));
  return lk_error(lk_at_ctx(at), NULL);
}

const lk_adapter_class lk_adapter_bias = {.name = "bias",
                                          .summary = "a trained shift of the output (BitFit)",
                                          .cite = "arXiv 2106.10199",
                                          .sites = LK_SITE_LINEAR | LK_SITE_CONV2D,
                                          .caps = LK_AFFINE | LK_NOOP_AT_START,
                                          .site_size = sizeof(state),
                                          .attach = attach,
                                          .weight = weight,
                                          .output = output};
