/* molora.c: golden cases of MoLoRA. */
#include "mixture.h"

#include <stdio.h>

static const golden_name names[] = {{"Wg", "router.weight"}, {"A", "A"}, {"B", "B"}, {0}};

static void options(golden *g, char *text, size_t size) {
  lk_view A = {.shape = {0, 1}};
  double e = golden_real(g, "jitter_noise", 0);
  golden_get(g, "A", &A);
  if (e > 0 && !golden_has(g, "jitter"))
    lk_fail(g->ctx, LK_EARG, "unsupported: jitter_noise = %g without the recorded jitter", e);
  snprintf(text, size, " r=%.17g jitter=%.17g", golden_real(g, "rank", (double)A.shape[1]), e);
}

/* s B_i A_i */
static void add_expert(golden_layer *l, int i, double s, lk_view *W) {
  const lk_view *A = &golden_param(l, "default", "A")->value, *B = &golden_param(l, "default", "B")->value;
  int64_t r = A->shape[1], in = A->shape[2], out = B->shape[1];
  for (int64_t o = 0; o < out; o++)
    for (int64_t c = 0; c < in; c++) {
      double sum = 0;
      for (int64_t k = 0; k < r; k++)
        sum += lk_view_get(B, (i * out + o) * r + k) * lk_view_get(A, (i * r + k) * in + c);
      lk_view_set(W, o * in + c, lk_view_get(W, o * in + c) + s * sum);
    }
}

static const golden_mixture mixture = {
    .name = "molora", .rank = "rank", .first = "A", .params = names, .options = options, .add_expert = add_expert};

static void layer(golden *g) { golden_mixture_layer(g, &mixture); }

static const golden_kind kinds[] = {{"layer", layer}, {0}};
const golden_method golden_molora = {.method = "molora", .kinds = kinds};
