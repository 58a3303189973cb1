/* glora.c: GLoRA: the frozen weight and bias, scaled and shifted by five support tensors.
 *
 *   W' = W + W ⊙ A + B          A, B of the weight's shape [out, in]
 *   b' = b + b ⊙ D + E + W C    C [in], D, E [out]
 *
 * W, b: of what precedes in the chain; a layer without bias gets one, unless allow_new_bias=0.  Each tensor has a form:
 *
 *   lora: Xd Xu, Xd [n, r]   vector: X [n, 1], one number per row   constant: X [1], one number   none: 0
 *
 * With `supernet` A, B, C are stored as lora, D and E as vectors, and every form is cut out of these: LoRA_k the leading
 * k columns and rows, vector the first column, constant the first element; each training pass draws forms at random
 * until some are chosen (glora_structure.c).  a_mode=product is LyCORIS's: W' = W + s (W a1 a2 + b1 b2), s = alpha / r.
 *
 * Chavan et al., "One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning", arXiv 2306.07967, with ⊙ as the
 * official code (Arnav0400/ViT-Slim) has it.  Names are HuggingFace PEFT's. */
#include "glora.h"

#include <lorikeet/ops.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FORM(key, i, words, help)                                                                                      \
  { key, LK_OPT_WORD, offsetof(lk_glora_config, form[i]), 0, 0, 0, words, help }

static const lk_opt opts[] = {
    {"r", LK_OPT_INT, offsetof(lk_glora_config, r), 4, 1, 1 << 20, NULL, "rank of what has the form lora"},
    FORM("A", GLORA_A, "lora|vector|constant|none", "form of what scales the weight"),
    FORM("B", GLORA_B, "lora|vector|constant|none", "form of what is added to the weight"),
    FORM("C", GLORA_C, "lora|vector|none", "form of what is added to the input, as W C to the bias"),
    FORM("D", GLORA_D, "vector|constant|none", "form of what scales the bias"),
    FORM("E", GLORA_E, "vector|constant|none", "form of what is added to the bias"),
    {"init", LK_OPT_WORD, offsetof(lk_glora_config, init), 0, 0, 0, "xavier|kaiming|random",
     "of the Xu; random is no no-op"},
    {"allow_new_bias", LK_OPT_FLAG, offsetof(lk_glora_config, allow_new_bias), 1, 0, 1, NULL,
     "0: no C, D, E at layers without bias, as in PEFT"},
    {"supernet", LK_OPT_FLAG, offsetof(lk_glora_config, supernet), 0, 0, 1, NULL,
     "draw forms at random in training, for a search"},
    {"ranks", LK_OPT_WORD, offsetof(lk_glora_config, ranks), 0, 0, 0, "top|halves|all",
     "of the supernet: r; r, r/2, ..., 1; or all up to r"},
    {"keep_D", LK_OPT_FLAG, offsetof(lk_glora_config, keep_D), 0, 0, 1, NULL,
     "search: D is chosen and counted at layers without bias too"},
    {"a_mode", LK_OPT_WORD, offsetof(lk_glora_config, a_mode), 0, 0, 0, "element|product",
     "W ⊙ A, or W A as in LyCORIS"},
    {"alpha", LK_OPT_REAL, offsetof(lk_glora_config, alpha), 0, 0, 1e9, NULL,
     "a_mode=product is scaled by alpha / r; 0: by 1"},
    {0}};

static int is_product(const lk_at *at) { return ((const lk_glora_config *)at->cfg)->a_mode == GLORA_PRODUCT; }

static lk_status check(lk_at *at) {
  const lk_glora_config *g = at->cfg;
  lk_ctx *c = lk_at_ctx(at);
  if (!is_product(at)) return LK_OK;
  if (g->supernet)
    return lk_fail(c, LK_EARG, "glora: a_mode=product has no supernet: W A has no forms but lora and none");
  for (int k = GLORA_A; k <= GLORA_B; k++) {
    lk_glora_form form = lk_glora_written(at, k).form;
    if (form != GLORA_LORA && form != GLORA_NONE)
      return lk_fail(c, LK_EARG, "glora: a_mode=product takes %c=lora or %c=none", "AB"[k], "AB"[k]);
  }
  for (int k = GLORA_C; k <= GLORA_E; k++)
    if (strstr(at->method->written, (const char *[]){" C ", " D ", " E "}[k - GLORA_C]))
      return lk_fail(c, LK_EARG, "glora: a_mode=product has no %c", "ABCDE"[k]);
  return LK_OK;
}

/* ---- parameters ---- */

static lk_param *make(lk_at *at, int k, const char *name, int ndim, int64_t rows, int64_t columns) {
  char full[20];
  snprintf(full, sizeof full, "glora_%c.%s", "ABCDE"[k], name);
  return lk_at_param(at, full, LK_TRAINED, ndim, (int64_t[]){rows, columns});
}

static void init_random(const lk_at *at, lk_param *d, lk_param *u, lk_glora_form form) {
  const lk_glora_config *g = at->cfg;
  double n = (double)d->value.shape[d->value.ndim - 1], fan_in = u ? (double)u->value.shape[1] : 1, q = 1 / sqrt(n);
  double k = g->init == GLORA_XAVIER ? sqrt(6 / (fan_in + g->r)) : 1 / sqrt(fan_in);
  if (!d->value.p) return;
  if (is_product(at)) {
    lk_param_uniform(d, -q, q);
    return;
  }
  if (u) lk_param_uniform(u, -k, k);
  if (g->init != GLORA_RANDOM) return;
  if (form == GLORA_CONSTANT) lk_param_normal(d, 0, 0.02);
  else lk_param_uniform(d, -q, q);
}

static lk_status make_tensor(lk_at *at, int k, lk_glora_form form) {
  const lk_glora_config *g = at->cfg;
  lk_glora_state *s = at->st;
  int64_t in = at->site->in, out = at->site->out;
  int64_t rows = k == GLORA_C || (k == GLORA_A && is_product(at)) ? in : out;
  if (form == GLORA_NONE) return LK_OK;
  if (form == GLORA_LORA) {
    s->d[k] = make(at, k, "Xd", 2, rows, g->r);
    s->u[k] = make(at, k, "Xu", 2, g->r, k == GLORA_C ? 1 : in);
  } else if (form == GLORA_VECTOR) {
    s->d[k] = make(at, k, "X", k <= GLORA_C ? 2 : 1, rows, 1);
  } else {
    s->d[k] = make(at, k, "X", 1, 1, 1);
  }
  if (!lk_error(lk_at_ctx(at), NULL)) init_random(at, s->d[k], s->u[k], form);
  return lk_error(lk_at_ctx(at), NULL);
}

static lk_status attach(lk_at *at) {
  const lk_glora_config *g = at->cfg;
  lk_glora_state *s = at->st;
  for (int k = 0; k < GLORA_TENSORS; k++) {
    lk_glora_form form = g->supernet ? (k <= GLORA_C ? GLORA_LORA : GLORA_VECTOR) : lk_glora_written(at, k).form;
    if (lk_glora_stored(at, k) && make_tensor(at, k, form)) return lk_error(lk_at_ctx(at), NULL);
  }
  if (!g->supernet) return LK_OK;
  return lk_structure_new(at, &s->structure, "glora_structure", GLORA_TENSORS);
}

static void destroy_at(lk_at *at) {
  lk_glora_state *s = at->st;
  lk_structure_free(at, &s->structure);
}

/* ---- the support tensors on a tape ---- */

/* One as a matrix [n, m] or a vector, or smaller where it repeats: [n, 1], [1, 1], [1]; nil: none.  A vector is the
 * first column of what is stored, a constant the first element, LoRA_k the first k columns and rows. */
static lk_tensor support(const lk_at *at, lk_tape *t, int k, lk_glora_shape f) {
  const lk_glora_state *s = at->st;
  if (f.form == GLORA_NONE) return lk_nil();
  lk_tensor d = lk_use(t, s->d[k]);
  int is_matrix = lk_ndim(t, d) == 2;
  if (f.form == GLORA_LORA)
    return lk_matmul(t, lk_slice(t, d, 1, 0, f.k, 1), lk_slice(t, lk_use(t, s->u[k]), 0, 0, f.k, 1));
  if (is_matrix) d = lk_slice(t, d, 1, 0, 1, 1);
  return f.form == GLORA_CONSTANT ? lk_slice(t, d, 0, 0, 1, 1) : d;
}

/* The same of A or B, which are one number per output or one for all, over the outputs of y: [out]. */
static lk_tensor by_output(const lk_at *at, lk_tape *t, int k, lk_glora_shape f) {
  lk_tensor d = support(at, t, k, f);
  int64_t n = lk_size(t, d, 0);
  return lk_expand(t, lk_reshape(t, d, 1, &n), 1, &at->site->out);
}

/* b ⊙ D + E + W C, [out]; nil: nothing is added to the bias. */
static lk_tensor bias_change(const lk_at *at, lk_tape *t, const lk_glora_shape *f, lk_tensor W, lk_tensor b) {
  const int64_t out = at->site->out;
  lk_tensor C = support(at, t, GLORA_C, f[GLORA_C]), D = support(at, t, GLORA_D, f[GLORA_D]);
  lk_tensor change = support(at, t, GLORA_E, f[GLORA_E]);
  if (!lk_is_nil(C)) change = lk_plus(t, lk_reshape(t, lk_matmul(t, W, C), 1, &out), change);
  if (!lk_is_nil(D) && !lk_is_nil(b)) change = lk_plus(t, lk_mul(t, b, D), change);
  return lk_is_nil(change) || lk_size(t, change, 0) == out ? change : lk_expand(t, change, 1, &out);
}

static double product_scale(const lk_at *at) {
  const lk_glora_config *g = at->cfg;
  return g->alpha > 0 ? g->alpha / g->r : 1;
}

/* W + B, in the memory of W if it is ours. */
static lk_tensor plus_B(const lk_at *at, lk_tape *t, lk_glora_shape f, lk_tensor W, int ours) {
  const lk_glora_state *s = at->st;
  if (!ours || f.form != GLORA_LORA) return lk_plus(t, W, support(at, t, GLORA_B, f));
  lk_tensor d = lk_slice(t, lk_use(t, s->d[GLORA_B]), 1, 0, f.k, 1);
  lk_tensor u = lk_slice(t, lk_use(t, s->u[GLORA_B]), 0, 0, f.k, 1);
  return lk_accumulate(t, W, d, lk_transpose(t, u, 0, 1), 1);
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  lk_glora_shape f[GLORA_TENSORS];
  lk_glora_shapes(at, t, f);
  lk_tensor A = support(at, t, GLORA_A, f[GLORA_A]), W0 = *W;
  if (is_product(at)) {
    if (!lk_is_nil(A)) *W = lk_add(t, *W, lk_scale(t, lk_matmul(t, W0, A), product_scale(at)));
    if (f[GLORA_B].form != GLORA_NONE)
      *W = lk_add(t, *W, lk_scale(t, support(at, t, GLORA_B, f[GLORA_B]), product_scale(at)));
    return lk_error(lk_at_ctx(at), NULL);
  }
  if (!lk_is_nil(A)) *W = lk_mul_one_plus(t, W0, A);
  *W = plus_B(at, t, f[GLORA_B], *W, !lk_is_nil(A));
  *b = lk_plus(t, *b, bias_change(at, t, f, W0, *b));
  return lk_error(lk_at_ctx(at), NULL);
}

/* ---- without forming W' ---- */

/* A thin product can do it unless A is W's element-wise factor of rank k. */
static int twin(const lk_at *at, const lk_tape *t) {
  lk_glora_shape f[GLORA_TENSORS];
  lk_glora_shapes(at, t, f);
  return is_product(at) || f[GLORA_A].form != GLORA_LORA;
}

/* y + s (x a2^T) (W a1)^T + s (x b2^T) b1^T */
static lk_tensor product_output(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const lk_glora_state *s = at->st;
  lk_tensor W, b;
  for (int k = GLORA_A; k <= GLORA_B; k++) {
    if (!s->d[k]) continue;
    lk_tensor d = lk_use(t, s->d[k]), h = lk_linear(t, x, lk_use(t, s->u[k]), lk_nil());
    if (k == GLORA_A && lk_at_folded(at, t, &W, &b)) return lk_nil();
    if (k == GLORA_A) d = lk_matmul(t, W, d);
    y = lk_add(t, y, lk_scale(t, lk_linear(t, h, d, lk_nil()), product_scale(at)));
  }
  return y;
}

/* y + B x, thin; in the memory of y if it is ours. */
static lk_tensor add_B(lk_at *at, lk_tape *t, lk_glora_shape f, lk_tensor x, lk_tensor y, int ours) {
  static const int last = -1;
  const lk_glora_state *s = at->st;
  if (f.form == GLORA_NONE) return y;
  lk_tensor h, column;
  if (f.form == GLORA_LORA) {
    h = lk_linear(t, x, lk_slice(t, lk_use(t, s->u[GLORA_B]), 0, 0, f.k, 1), lk_nil());
    column = lk_slice(t, lk_use(t, s->d[GLORA_B]), 1, 0, f.k, 1);
  } else {
    h = lk_sum(t, x, 1, &last, 1);
    column = lk_reshape(t, by_output(at, t, GLORA_B, f), 2, (int64_t[]){at->site->out, 1});
  }
  return ours ? lk_accumulate(t, y, h, column, 1) : lk_add(t, y, lk_linear(t, h, column, lk_nil()));
}

static lk_tensor one_plus(lk_tape *t, lk_tensor a) {
  const int64_t n = 1;
  const double wide = 1;
  const float narrow = 1;
  lk_dtype d = lk_dtype_of(t, a);
  return lk_add(t, a, lk_input(t, d, 1, &n, d == LK_F64 ? (const void *)&wide : &narrow));
}

/* y' = (1 + a) ⊙ y + B x + (b' - b - a ⊙ b), where y = W x + b and A is a repeated along the rows */
static lk_tensor output(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  lk_glora_shape f[GLORA_TENSORS];
  lk_tensor W = lk_nil(), b = lk_nil(), a = lk_nil();
  if (is_product(at)) return product_output(at, t, x, y);
  lk_glora_shapes(at, t, f);
  int reads_base = f[GLORA_A].form != GLORA_NONE || f[GLORA_C].form != GLORA_NONE || f[GLORA_D].form != GLORA_NONE;
  if (reads_base && lk_at_folded(at, t, &W, &b)) return lk_nil();
  lk_tensor shift = bias_change(at, t, f, W, b);
  if (f[GLORA_A].form != GLORA_NONE) {
    a = by_output(at, t, GLORA_A, f[GLORA_A]);
    if (!lk_is_nil(b)) shift = lk_plus(t, shift, lk_scale(t, lk_mul(t, b, a), -1));
    y = lk_scale_shift(t, y, one_plus(t, a), shift);
  } else {
    y = lk_plus(t, y, shift);
  }
  return add_B(at, t, f[GLORA_B], x, y, f[GLORA_A].form != GLORA_NONE || !lk_is_nil(shift));
}

const lk_adapter_class lk_adapter_glora = {.name = "glora",
                                           .summary = "scales and shifts weight and bias by five small tensors",
                                           .cite = "arXiv 2306.07967",
                                           .sites = LK_SITE_LINEAR,
                                           .caps = LK_AFFINE | LK_READS_WEIGHT | LK_NOOP_AT_START,
                                           .cfg_size = sizeof(lk_glora_config),
                                           .site_size = sizeof(lk_glora_state),
                                           .opts = opts,
                                           .check = check,
                                           .attach = attach,
                                           .destroy_at = destroy_at,
                                           .weight = weight,
                                           .output = output,
                                           .twin = twin,
                                           .loaded = lk_glora_loaded,
                                           .notes = lk_glora_notes,
                                           .genes = lk_glora_genes,
                                           .choose = lk_glora_choose,
                                           .cost = lk_glora_cost,
                                           .settle = lk_glora_settle};
