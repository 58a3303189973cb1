/* activation.c: activations by HuggingFace's names (transformers/activations.py).
 *
 * Its other tanh forms of gelu differ from gelu_new by less than 1e-12; sin is ours. */
#include "layer.h"

#include <stdio.h>
#include <string.h>

static lk_tensor linear(lk_tape *t, lk_tensor x) {
  (void)t;
  return x;
}

static lk_tensor leaky_relu(lk_tape *t, lk_tensor x) { return lk_leaky_relu(t, x, 0.01); }

/* x min(max(x + 3, 0), 6) / 6 */
static lk_tensor hardswish(lk_tape *t, lk_tensor x) {
  lk_tensor three = lk_scalar(t, lk_dtype_of(t, x), 3);
  return lk_mul(t, x, lk_scale(t, lk_relu6(t, lk_add(t, x, three)), 1 / 6.0));
}

/* sqrt(ln(1 + exp(x))) */
static lk_tensor sqrtsoftplus(lk_tape *t, lk_tensor x) { return lk_sqrt(t, lk_softplus(t, x)); }

/* Phi((x - mu) / sigma), arXiv 2209.10655 */
static lk_tensor laplace(lk_tape *t, lk_tensor x) {
  lk_tensor mu = lk_scalar(t, lk_dtype_of(t, x), 0.707107);
  return lk_normal_cdf(t, lk_scale(t, lk_sub(t, x, mu), 1 / 0.282095));
}

static const lk_activation activations[] = {
    {"gelu", lk_gelu},
    {"gelu_new", lk_gelu_tanh},
    {"gelu_10", lk_gelu_10},
    {"gelu_accurate", lk_gelu_tanh},
    {"gelu_fast", lk_gelu_fast},
    {"gelu_python", lk_gelu},
    {"gelu_python_tanh", lk_gelu_tanh},
    {"gelu_pytorch_tanh", lk_gelu_tanh},
    {"hardswish", hardswish},
    {"laplace", laplace},
    {"leaky_relu", leaky_relu},
    {"linear", linear},
    {"mish", lk_mish},
    {"quick_gelu", lk_gelu_quick},
    {"relu", lk_relu},
    {"relu2", lk_relu2},
    {"relu6", lk_relu6},
    {"sigmoid", lk_sigmoid},
    {"silu", lk_silu},
    {"sin", lk_sin},
    {"sqrtsoftplus", sqrtsoftplus},
    {"swish", lk_silu},
    {"tanh", lk_tanh},
};
enum { ACTIVATIONS = sizeof activations / sizeof *activations };

const lk_activation *lk_activation_find(lk_ctx *ctx, const char *name) {
  char known[400] = "";
  size_t n = 0;
  for (int i = 0; i < ACTIVATIONS && n < sizeof known; i++) {
    if (!strcmp(activations[i].name, name)) return &activations[i];
    n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", activations[i].name);
  }
  lk_fail(ctx, LK_EARG, "there is no activation '%s'; known are %s", name, known);
  return NULL;
}
