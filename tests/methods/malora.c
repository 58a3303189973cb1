/* malora.c: golden cases of MALoRA: layers, and the initialisation from recorded random matrices. */
#include "mixture.h"

#include <stdio.h>

static const golden_name names[] = {{"Wg", "router.weight"}, {"SA", "S_A"}, {"P", "P"}, {"Bup", "B"}, {0}};

static void options(golden *g, char *text, size_t size) {
  lk_view P = {.shape = {0, 1, 1}};
  golden_get(g, "P", &P);
  snprintf(text, size, " d=%.17g R=%.17g beta=%.17g", golden_real(g, "shared_rank_d", (double)P.shape[2]),
           golden_real(g, "expert_rank", (double)P.shape[1]), golden_real(g, "beta", 1));
}

/* s B_i P_i S_A */
static void add_expert(golden_layer *l, int i, double s, lk_view *W) {
  const lk_view *S_A = &golden_param(l, "default", "S_A")->value, *P = &golden_param(l, "default", "P")->value;
  const lk_view *B = &golden_param(l, "default", "B")->value;
  int64_t R = P->shape[1], d = P->shape[2], in = S_A->shape[1], out = B->shape[1];
  for (int64_t o = 0; o < out; o++)
    for (int64_t j = 0; j < d; j++) {
      double b = 0;
      for (int64_t k = 0; k < R; k++)
        b += s * lk_view_get(B, (i * out + o) * R + k) * lk_view_get(P, (i * R + k) * d + j);
      for (int64_t c = 0; c < in; c++)
        lk_view_set(W, o * in + c, lk_view_get(W, o * in + c) + b * lk_view_get(S_A, j * in + c));
    }
}

/* z = x_d S_A^T */
static void compare_z(golden_layer *l, lk_tensor xd) {
  lk_view z;
  lk_tensor value = lk_linear(l->t, xd, lk_use(l->t, golden_param(l, "default", "S_A")), lk_nil());
  if (!lk_get(l->t, value, &z)) golden_compare(l->g, "z", &z);
}

static const golden_mixture mixture = {.name = "malora",
                                       .rank = "expert_rank",
                                       .first = "P",
                                       .params = names,
                                       .options = options,
                                       .add_expert = add_expert,
                                       .more = compare_z};

static void layer(golden *g) { golden_mixture_layer(g, &mixture); }

/* ---- initialisation: signs are free, so products are compared ---- */

/* a^T a / scale (columns) or a a^T / scale of a matrix a [rows, cols], [of, of], as recorded under name. */
static void compare_gram(golden *g, lk_tape *t, const char *name, lk_tensor a, double scale) {
  lk_view v;
  lk_tensor gram = lk_scale(t, lk_matmul(t, a, lk_transpose(t, a, -1, -2)), scale);
  if (!lk_get(t, gram, &v)) golden_compare(g, name, &v);
}

/* Both from what lk_malora_init makes of the recorded K, and from the recorded S_A and P. */
static void compare_init(golden *g, lk_tape *t, const lk_view *K, lk_view SA, lk_view P) {
  double beta = golden_real(g, "beta", 1);
  for (int recorded = 0; recorded < 2; recorded++) {
    if (!recorded && !K->p) continue;
    if (!recorded && lk_malora_init(g->ctx, K, beta, &SA, &P)) return;
    if (recorded && (!golden_need(g, "SA", &SA) || !golden_need(g, "P", &P))) return;
    lk_tensor a = lk_input(t, LK_F64, 2, SA.shape, SA.p), p = lk_input(t, LK_F64, 3, P.shape, P.p);
    compare_gram(g, t, "init.SA_gram", a, 1);
    compare_gram(g, t, "init.SA_projector", lk_transpose(t, a, 0, 1), 1 / (beta * beta));
    compare_gram(g, t, "init.P_gram", p, 1);
  }
}

static void init(golden *g) {
  lk_view K = {0}, SA, P;
  layer(g);
  if (lk_error(g->ctx, NULL) || !golden_need(g, "SA", &SA) || !golden_need(g, "P", &P)) return;
  golden_get(g, "init.K", &K);
  lk_tape *t = lk_tape_new(g->ctx);
  SA.p = t ? lk_alloc(g->ctx, lk_view_bytes(&SA) + lk_view_bytes(&P)) : NULL;
  P.p = SA.p ? (char *)SA.p + lk_view_bytes(&SA) : NULL;
  if (SA.p) compare_init(g, t, &K, SA, P);
  lk_free(g->ctx, SA.p);
  lk_tape_free(t);
}

static const golden_kind kinds[] = {{"layer", layer}, {"init", init}, {0}};
const golden_method golden_malora = {.method = "malora", .kinds = kinds};
