/* lora.c: golden cases of LoRA and what HuggingFace PEFT's LoRA holds: rsLoRA, DoRA, initialisations, several adapters. */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const golden_name names[] = {{"lora_A", "lora_A.weight"},
                                    {"lora_B", "lora_B.weight"},
                                    {"lora_B_bias", "lora_B.bias"},
                                    {"lora_embedding_A", "lora_embedding_A"},
                                    {"lora_embedding_B", "lora_embedding_B"},
                                    {"magnitude", "lora_magnitude_vector"},
                                    {0}};

/* ---- the spec ---- */

/* "lora ..." of rank and alpha with the file's other options. */
static void write_lora(golden *g, double r, double alpha, const char *more, char *spec, size_t size) {
  snprintf(spec, size, "lora r=%.17g alpha=%.17g%s%s%s", r, alpha, golden_flag(g, "use_rslora", 0) ? " rslora" : "",
           golden_flag(g, "lora_bias", 0) ? " bias" : "", more);
}

/* r, unless the metadata say it, is the length of A's first axis. */
static double rank(golden *g) {
  lk_view A = {.shape = {8}};
  if (!golden_get(g, "lora_A", &A)) golden_get(g, "lora_embedding_A", &A);
  return golden_real(g, "r", (double)A.shape[0]);
}

/* The adapter that the file describes, as a spec. */
static void write_spec(golden *g, char *spec, size_t size) {
  char lora[200], drop[40] = "";
  double p = golden_real(g, "lora_dropout", 0), r = rank(g), alpha = golden_real(g, "lora_alpha", 8);
  double s = alpha / (golden_flag(g, "use_rslora", 0) ? sqrt(r) : r), stated = golden_real(g, "scaling", s);
  int dora = golden_flag(g, "use_dora", 0);
  if (fabs(s - stated) > 1e-12 * fabs(s))
    lk_fail(g->ctx, LK_EARG, "unsupported: scaling %g with r = %g and lora_alpha = %g", stated, r, alpha);
  if (p != 0 && !dora) snprintf(drop, sizeof drop, " dropout=%.17g", p);
  write_lora(g, r, alpha, drop, lora, sizeof lora);
  if (p != 0 && dora) snprintf(spec, size, "dropout p=%.17g (%s | magnitude)", p, lora);
  else snprintf(spec, size, "%s%s", lora, dora ? " | magnitude" : "");
}

/* ---- one layer ---- */

/* DoRA's first magnitudes: those of a layer whose weight is W0 + s B A. */
static void check_magnitude_init(golden *g, lk_site_kind kind) {
  char lora[200];
  golden_layer plain = {0}, merged = {0};
  if (!golden_has(g, "magnitude_init") || lk_error(g->ctx, NULL)) return;
  write_lora(g, rank(g), golden_real(g, "lora_alpha", 8), "", lora, sizeof lora);
  if (!golden_layer_new(g, &plain, kind, names) && !lk_attach(plain.model, "default", lora, "site")) {
    golden_assign(&plain, "default", "");
    lk_merge(plain.model, NULL);
  }
  if (!lk_error(g->ctx, NULL) && !golden_layer_new(g, &merged, kind, names)) {
    lk_param_assign(merged.site->weight, &plain.site->weight->value);
    if (!lk_attach(merged.model, "default", "magnitude", "site"))
      golden_compare(g, "magnitude_init", &golden_param(&merged, "default", "lora_magnitude_vector")->value);
  }
  golden_layer_free(&merged);
  golden_layer_free(&plain);
}

static void run_layer(golden *g, lk_site_kind kind) {
  char spec[300];
  golden_layer l = {0};
  write_spec(g, spec, sizeof spec);
  if (!golden_layer_new(g, &l, kind, names) && !lk_attach(l.model, "default", spec, "site")) {
    golden_assign(&l, "default", "");
    golden_pass(&l, 1, "y_train", "grad_train.");
    golden_pass(&l, 0, "y_eval", "grad_eval.");
    golden_pass(&l, 0, "y", "grad.");
    if (kind == LK_SITE_EMBEDDING) golden_pass(&l, 1, "y", "grad."); /* nothing is ever dropped */
    golden_merge(&l, "W_merged", "b_merged", golden_has(g, "y_eval") ? "y_eval" : "y");
    check_magnitude_init(g, kind);
  }
  golden_layer_free(&l);
}

static void linear(golden *g) { run_layer(g, LK_SITE_LINEAR); }
static void embedding(golden *g) { run_layer(g, LK_SITE_EMBEDDING); }
static void conv2d(golden *g) { run_layer(g, LK_SITE_CONV2D); }

/* ---- initialisations ---- */

static const char *const inits[] = {"pissa", "olora"};

/* B A as a value on the tape. */
static lk_tensor product(golden_layer *l) {
  lk_tensor A = lk_use(l->t, golden_param(l, "default", "lora_A.weight"));
  return lk_matmul(l->t, lk_use(l->t, golden_param(l, "default", "lora_B.weight")), A);
}

/* PiSSA: rows of A and columns of B have the squared length S_i / s.  OLoRA: B is orthonormal.  Signs are free, so the
 * recorded factors themselves are not compared, only their shapes. */
static void check_factors(golden *g, golden_layer *l, const char *init, double s) {
  lk_param *A = golden_param(l, "default", "lora_A.weight"), *B = golden_param(l, "default", "lora_B.weight");
  int64_t r = A->value.shape[0], in = A->value.shape[1], out = B->value.shape[0];
  const int pissa = !strcmp(init, "pissa");
  char name[40];
  lk_view S, want, stored;
  for (int i = 0; i < 2; i++) {
    lk_param *p = i ? B : A;
    snprintf(name, sizeof name, "%s.lora_%c", init, "AB"[i]);
    if (golden_get(g, name, &stored) && !lk_view_same_shape(&stored, &p->value))
      lk_fail(g->ctx, LK_ESHAPE, "%s has another shape than %s", name, p->name);
  }
  if (lk_error(g->ctx, NULL) || (pissa && !golden_get(g, "svd_S", &S))) return;
  lk_view_init(&want, LK_F64, 2, (int64_t[]){r, r});
  lk_view gram[2] = {want, want};
  double *m = lk_alloc_array(g->ctx, (size_t)(3 * r * r), sizeof *m);
  if (!m) return;
  want.p = m, gram[0].p = m + r * r, gram[1].p = m + 2 * r * r;
  for (int64_t i = 0; i < r * r; i++) {
    double a = 0, b = 0;
    for (int64_t k = 0; k < in; k++)
      a += lk_view_get(&A->value, i / r * in + k) * lk_view_get(&A->value, i % r * in + k);
    for (int64_t k = 0; k < out; k++)
      b += lk_view_get(&B->value, k * r + i / r) * lk_view_get(&B->value, k * r + i % r);
    lk_view_set(&gram[0], i, a);
    lk_view_set(&gram[1], i, b);
    lk_view_set(&want, i, i / r != i % r ? 0 : pissa ? lk_view_get(&S, i % r) / s : 1);
  }
  if (pissa) golden_expect(g, "pissa: A A^T", &gram[0], &want, g->tolerance);
  golden_expect(g, pissa ? "pissa: B^T B" : "olora: B^T B", &gram[1], &want, g->tolerance);
  lk_free(g->ctx, m);
}

/* The decomposition of W0 and what it leaves of it: what PEFT made in single precision and the same in double. */
static void check_init(golden *g, const char *init) {
  char spec[200], name[40], more[40];
  double r = golden_real(g, "r", 8), alpha = golden_real(g, "lora_alpha", 8), rough = 5e-6;
  double s = alpha / (golden_flag(g, "use_rslora", 0) ? sqrt(r) : r);
  golden_layer l = {0};
  lk_view BA;
  snprintf(more, sizeof more, " init=%s", init);
  write_lora(g, r, alpha, more, spec, sizeof spec);
  rough = golden_real(g, "tolerance_f32", rough);
  if (!golden_layer_new(g, &l, LK_SITE_LINEAR, names) && !lk_attach(l.model, "default", spec, "site")) {
    if (!lk_get(l.t, product(&l), &BA)) {
      snprintf(name, sizeof name, "%s.BA", init);
      golden_compare_as(g, name, name, &BA, rough);
      strcat(name, "_f64");
      golden_compare(g, name, &BA);
    }
    snprintf(name, sizeof name, "%s.W_res", init);
    golden_compare_as(g, name, name, &l.site->weight->value, rough);
    strcat(name, "_f64");
    golden_compare(g, name, &l.site->weight->value);
    check_factors(g, &l, init, s);
  }
  golden_layer_free(&l);
}

static void init(golden *g) {
  lk_view W, S;
  for (size_t i = 0; i < sizeof inits / sizeof *inits; i++) {
    char name[40];
    snprintf(name, sizeof name, "%s.lora_A", inits[i]);
    int wanted = golden_has(g, name);
    snprintf(name, sizeof name, "%s.BA", inits[i]);
    if (wanted || golden_has(g, name)) check_init(g, inits[i]);
  }
  if (lk_error(g->ctx, NULL) || !golden_has(g, "svd_S") || !golden_need(g, "W0", &W)) return;
  int64_t k = W.shape[0] < W.shape[1] ? W.shape[0] : W.shape[1];
  lk_view_init(&S, LK_F64, 1, &k);
  S.p = lk_alloc(g->ctx, lk_view_bytes(&S) + 1);
  if (S.p && !lk_svd(g->ctx, &W, NULL, &S, NULL)) golden_compare(g, "svd_S", &S);
  lk_free(g->ctx, S.p);
}

/* ---- several adapters on one layer ---- */

enum { MOST = 16 };

typedef struct {
  golden_layer l;
  char name[MOST][40];
  int n;
} several;

/* Attaches every "<name>.lora_A" of the file as an adapter of that name, with r_<name> and alpha_<name>. */
static void attach_all(golden *g, several *s) {
  for (size_t i = 0; i < lk_safetensors_count(g->file) && s->n < MOST; i++) {
    const char *tensor = lk_safetensors_at(g->file, i)->name, *dot = strchr(tensor, '.');
    char key[60], prefix[60], spec[200];
    if (!dot || strcmp(dot, ".lora_A") || !strncmp(tensor, "comb_", 5) || dot - tensor >= 40) continue;
    char *name = s->name[s->n++];
    snprintf(name, 40, "%.*s", (int)(dot - tensor), tensor);
    snprintf(key, sizeof key, "r_%s", name);
    double r = golden_real(g, key, golden_real(g, "r", 8));
    snprintf(key, sizeof key, "alpha_%s", name);
    write_lora(g, r, golden_real(g, key, golden_real(g, "lora_alpha", r)), "", spec, sizeof spec);
    if (golden_flag(g, "use_dora", 0)) strcat(spec, " | magnitude");
    snprintf(prefix, sizeof prefix, "%s.", name);
    if (!lk_attach(s->l.model, name, spec, "site")) golden_assign(&s->l, name, prefix);
  }
}

/* Activates "one_three": the number of adapters, 0 if a part is no name. */
static int activate(several *s, const char *list) {
  const char *chosen[MOST];
  int n = 0;
  while (*list && n < MOST) {
    const char *found = NULL;
    for (int i = 0; i < s->n; i++) {
      size_t k = strlen(s->name[i]);
      if (!strncmp(list, s->name[i], k) && strchr("_", list[k])) found = s->name[i];
    }
    if (!found) return 0;
    chosen[n++] = found;
    list += strlen(found);
    list += *list == '_';
  }
  return lk_set_active(s->l.model, n, chosen, NULL) ? 0 : n;
}

static void multi_adapter(golden *g) {
  static const char active[] = "y_active_", merged[] = "W_merged_";
  several s = {.n = 0};
  if (!golden_layer_new(g, &s.l, LK_SITE_LINEAR, names)) attach_all(g, &s);
  for (size_t i = 0; s.l.t && i < lk_safetensors_count(g->file); i++) {
    const char *name = lk_safetensors_at(g->file, i)->name;
    if (!strncmp(name, active, sizeof active - 1) && activate(&s, name + sizeof active - 1))
      golden_pass(&s.l, 0, name, NULL);
    if (!strncmp(name, merged, sizeof merged - 1) && activate(&s, name + sizeof merged - 1))
      golden_merge(&s.l, name, NULL, NULL);
  }
  golden_layer_free(&s.l);
  int comb = golden_has_prefix(g, "comb_"), mixed = golden_has(g, "y_mixed_batch");
  if (comb || mixed)
    lk_fail(g->ctx, LK_EARG, "unsupported: %s%s%s",
            mixed ? "an adapter of its own for every sample (y_mixed_batch)" : "", comb && mixed ? ", " : "",
            comb ? "combination modes (comb_...)" : "");
}

/* ---- which of them ---- */

static const char *guess(golden *g) {
  lk_view W;
  if (golden_has(g, "ids")) return "embedding";
  if (golden_has(g, "pissa.BA") || golden_has(g, "olora.BA")) return "init";
  return golden_get(g, "W0", &W) && W.ndim == 4 ? "conv2d" : "linear";
}

static const golden_kind kinds[] = {{"linear", linear}, {"embedding", embedding},         {"conv2d", conv2d},
                                    {"init", init},     {"multi_adapter", multi_adapter}, {0}};
const golden_method golden_lora = {.method = "lora", .kinds = kinds, .guess = guess};
