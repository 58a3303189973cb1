/* mlae.c: golden cases of MLAE: the official layer with recorded masks. */
#include "golden.h"

#include <math.h>
#include <stdio.h>

static const golden_name names[] = {
    {"lora_A", "mlae_A.weight"}, {"lora_B", "mlae_B.weight"}, {"lora_lamda", "mlae_lambda"}, {0}};

static void write_spec(golden *g, char *spec, size_t size) {
  lk_view A = {.shape = {8}};
  golden_get(g, "lora_A", &A);
  snprintf(spec, size, "mlae r=%.17g alpha=%.17g p=%.17g dropout=%.17g", golden_real(g, "r", (double)A.shape[0]),
           golden_real(g, "lora_alpha", 1), golden_real(g, "drop_rate", 0), golden_real(g, "lora_dropout", 0));
  if (golden_real(g, "drop_rate", 0) > 0 && golden_has(g, "y_train") && !golden_has(g, "expert_keep"))
    lk_fail(g->ctx, LK_EARG, "unsupported: drop_rate = %g without the recorded mask expert_keep",
            golden_real(g, "drop_rate", 0));
}

static void compare_cosines(golden *g, lk_at *at) {
  lk_view v;
  int64_t r;
  double *cosines = lk_at_cosines(at, &r);
  lk_view_init(&v, LK_F64, 2, (int64_t[]){r, r});
  v.p = cosines;
  if (cosines) golden_compare(g, "expert_cosine", &v);
  lk_free(g->ctx, cosines);
}

static void layer(golden *g) {
  char spec[300];
  golden_layer l = {0};
  double alpha = fabs(golden_real(g, "lora_alpha", 1));
  write_spec(g, spec, sizeof spec);
  if (!lk_error(g->ctx, NULL) && !golden_layer_new(g, &l, LK_SITE_LINEAR, names) &&
      !lk_attach(l.model, "default", spec, "site")) {
    lk_param *lambda = golden_param(&l, "default", "mlae_lambda");
    /* the official layer holds coefficients in single precision when it is made */
    golden_compare_as(g, "lamda_init", "lamda_init", &lambda->value, fmax(g->tolerance, 1e-7 * fmin(alpha, 1)));
    golden_assign(&l, "default", "");
    golden_pass(&l, 1, "y_train", "grad_train.");
    golden_pass(&l, 0, "y_eval", "grad_eval.");
    golden_merge(&l, "W_merged", "b_merged", "y_eval");
    compare_cosines(g, l.site->stacks->chain);
  }
  golden_layer_free(&l);
}

static const char *guess(golden *g) {
  (void)g;
  return "layer";
}

static const golden_kind kinds[] = {{"layer", layer}, {0}};
const golden_method golden_mlae = {.method = "mlae", .kinds = kinds, .guess = guess};
