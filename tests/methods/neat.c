/* neat.c: golden cases of NEAT: a layer, activations, the construction that makes NEAT a given LoRA. */
#include "golden.h"

#include <stdio.h>
#include <string.h>

enum { MOST = 32 }; /* encoders */

/* "enc.0" is peanut_encoders.0.weight, ... */
typedef struct {
  char text[4 * MOST][40];
  golden_name list[2 * MOST + 3];
} names;

static const golden_name *make_names(names *n, int depth) {
  static const char *const stored[] = {"enc", "dec"}, *const param[] = {"encoders", "decoders"};
  int k = 2;
  n->list[0] = (golden_name){"A", "peanut_A.weight"};
  n->list[1] = (golden_name){"B", "peanut_B.weight"};
  for (int side = 0; side < 2; side++)
    for (int i = 0; i < depth; i++, k++) {
      char *a = n->text[2 * k - 4], *b = n->text[2 * k - 3];
      snprintf(a, 40, "%s.%d", stored[side], i);
      snprintf(b, 40, "peanut_%s.%d.weight", param[side], i);
      n->list[k] = (golden_name){a, b};
    }
  n->list[k] = (golden_name){0};
  return n->list;
}

/* A word of the metadata without JSON's quotes; ours if it is missing. */
static const char *meta_word(golden *g, const char *key, const char *missing, char buffer[40]) {
  const char *s = golden_text(g, key, missing);
  s += *s == '"';
  snprintf(buffer, 40, "%.*s", (int)strcspn(s, "\""), s);
  return buffer;
}

/* scaling, or else lora_alpha / r */
static double scaling(golden *g, double r) {
  double alpha = golden_real(g, "lora_alpha", golden_real(g, "alpha", r));
  return golden_real(g, "scaling", alpha / r);
}

/* The adapter that the file describes, as a spec. */
static void write_spec(golden *g, int depth, char *spec, size_t size) {
  char act[40], orientation[40], residual[40];
  lk_view A = {.shape = {32}};
  golden_get(g, "A", &A);
  double r = golden_real(g, "r", (double)A.shape[0]);
  snprintf(spec, size, "neat r=%.17g depth=%d act=%s scaling=%.17g orientation=%s residual=%s", r, depth,
           meta_word(g, "act_fn", "relu", act), scaling(g, r), meta_word(g, "orientation", "out", orientation),
           meta_word(g, "residual", "pairs", residual));
}

static int depth_of(golden *g) {
  double depth = golden_real(g, "depth", 0);
  if (depth >= 0 && depth <= MOST) return (int)depth;
  lk_fail(g->ctx, LK_EARG, "unsupported: depth = %g", depth);
  return 0;
}

/* ---- what is read off the weights ---- */

/* H, and s B H, from the factors of an exact LoRA, which are H and s B, or, with orientation=in, B^T and s H. */
static void compare_factors(golden_layer *l) {
  lk_at *at = l->site->stacks->chain;
  lk_tensor A, B;
  lk_view v;
  double s = lk_at_option(at, "scaling", 1);
  lk_tape_reset(l->t);
  if (at->method->cls->factors(at, l->t, &A, &B)) return;
  if (!lk_get(l->t, lk_matmul(l->t, B, A), &v)) golden_compare(l->g, "delta_W", &v);
  if (lk_at_option(at, "orientation", 0) != 0 && s != 0) A = lk_scale(l->t, B, 1 / s);
  if (!lk_get(l->t, A, &v)) golden_compare(l->g, "H", &v);
}

static void compare_base(golden_layer *l) {
  const char *const name[] = {"default"};
  lk_set_active(l->model, 0, NULL, NULL);
  golden_pass(l, 0, "y_base", NULL);
  lk_set_active(l->model, 1, name, NULL);
}

/* The bias trains as a copy; its gradient is that of the last pass. */
static void compare_bias(golden_layer *l) {
  const lk_param *p = lk_adapter_find(l->model, "default")->stand_ins;
  if (lk_error(l->g->ctx, NULL) || !p || !p->has_grad) return;
  lk_view v = p->value;
  v.p = p->grad;
  golden_compare(l->g, "grad_b0", &v);
}

/* ---- kinds ---- */

static void layer(golden *g) {
  names n;
  char spec[300];
  golden_layer l = {0};
  int depth = depth_of(g), trains_bias = golden_has(g, "grad_b0");
  write_spec(g, depth, spec, sizeof spec);
  const lk_attach_options o = {.spec = spec, .targets = "site", .bias = trains_bias ? LK_BIAS_ADAPTED : LK_BIAS_NONE};
  if (!golden_layer_new(g, &l, LK_SITE_LINEAR, make_names(&n, depth)) && !lk_attach_with(l.model, &o)) {
    golden_assign(&l, "default", "");
    compare_base(&l);
    golden_pass(&l, 0, "y_eval", NULL);
    golden_pass(&l, 1, "y_train", "grad_");
    compare_bias(&l);
    compare_factors(&l);
    golden_merge(&l, "W_merged", "b_merged", golden_has(g, "y_eval") ? "y_eval" : "y_train");
  }
  golden_layer_free(&l);
}

/* The recorded LoRA computes the same as NEAT with the recorded A and B. */
static void lora_equivalence(golden *g) {
  static const golden_name lora[] = {{"lora_A", "lora_A.weight"}, {"lora_B", "lora_B.weight"}, {0}};
  char spec[100];
  lk_view A;
  golden_layer l = {0};
  layer(g);
  if (lk_error(g->ctx, NULL) || !golden_need(g, "lora_A", &A)) return;
  snprintf(spec, sizeof spec, "lora r=%d alpha=%d", (int)A.shape[0], (int)A.shape[0]);
  if (!golden_layer_new(g, &l, LK_SITE_LINEAR, lora) && !lk_attach(l.model, "default", spec, "site")) {
    golden_assign(&l, "default", "");
    golden_pass(&l, 0, "y_eval", NULL);
    golden_merge(&l, "W_merged", NULL, NULL);
  }
  golden_layer_free(&l);
}

static lk_param *site_param(lk_site *s, const char *name) {
  lk_param *p = s->stacks->chain->params;
  while (strcmp(p->name, name)) p = p->next;
  return p;
}

/* act on z, in a layer of one weight 1 with a hidden unit for each z: y = sum of B_k act(A_k) x, A = z, B = x = 1; so
 * that act(z) is the gradient of B, and its derivative that of A. */
static void one_activation(golden *g, const char *name, const lk_view *z) {
  char spec[100], label[60];
  const int64_t n = lk_view_count(z), one[] = {1, 1};
  const double number = 1;
  lk_model *model = lk_model_new(g->ctx, LK_F64, 0);
  lk_tape *t = lk_tape_new(g->ctx);
  lk_linear_layer *l = lk_linear_new(lk_model_root(model), "site", 1, 1, LK_NO_BIAS);
  snprintf(spec, sizeof spec, "neat r=%d act=%s", (int)n, name);
  if (l && t && !lk_param_fill(l->weight, 1) && !lk_attach(model, "default", spec, "site")) {
    lk_param *A = site_param(l->module.site, "site.peanut_A.weight"),
             *B = site_param(l->module.site, "site.peanut_B.weight");
    for (int64_t i = 0; i < n; i++) lk_view_set(&A->value, i, lk_view_get(z, i));
    lk_param_touch(A);
    lk_param_fill(B, 1);
    lk_tensor y = lk_linear_forward(l, t, lk_input(t, LK_F64, 2, one, &number));
    if (!lk_backward(t, lk_sum(t, y, 0, NULL, 0))) {
      lk_view f = *z, df = *z;
      f.p = B->grad, df.p = A->grad;
      snprintf(label, sizeof label, "f.%s", name);
      golden_compare(g, label, &f);
      snprintf(label, sizeof label, "df.%s", name);
      golden_compare(g, label, &df);
    }
  }
  lk_tape_free(t);
  lk_model_free(model);
}

static void activations(golden *g) {
  lk_view z;
  if (!golden_need(g, "z", &z)) return;
  for (size_t i = 0; i < lk_safetensors_count(g->file) && !lk_error(g->ctx, NULL); i++) {
    const char *tensor = lk_safetensors_at(g->file, i)->name;
    const char *name = !strncmp(tensor, "f.", 2) ? tensor + 2 : NULL;
    if (!strncmp(tensor, "df.", 3) && !golden_has(g, tensor + 1)) name = tensor + 3;
    if (name && strlen(name) < 40) one_activation(g, name, &z);
  }
}

static const char *guess(golden *g) {
  return golden_has(g, "z") ? "activations" : golden_has(g, "lora_A") ? "lora_equivalence" : "layer";
}

static const golden_kind kinds[] = {
    {"layer", layer}, {"lora_equivalence", lora_equivalence}, {"activations", activations}, {0}};
const golden_method golden_neat = {.method = "neat", .kinds = kinds, .guess = guess};
