/* lora.c: golden cases of LoRA and what HuggingFace PEFT's LoRA holds: rsLoRA, DoRA, initialisations, several adapters. */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

/* Splits "one, two" at commas into names that live in buffer; how many. */
static int split(const char *text, char *buffer, size_t size, const char *list[MOST]) {
  int n = 0;
  snprintf(buffer, size, "%s", text);
  for (char *p = strtok(buffer, " ,[]\"'"); p && n < MOST; p = strtok(NULL, " ,[]\"'")) list[n++] = p;
  return n;
}

/* Every sample through its own adapter, or through none: "__base__". */
static void mixed_batch(golden *g, several *s) {
  static const char tensor[] = "y_mixed_batch";
  const char *names[MOST], *active[MOST];
  char buffer[400];
  int64_t ids[MOST], n = split(golden_text(g, "mixed_batch", ""), buffer, sizeof buffer, names);
  lk_view x, y;
  if (!golden_has(g, tensor) || !golden_need(g, "x", &x)) return;
  for (int i = 0; i < s->n; i++) active[i] = s->name[i];
  for (int k = 0; k < n; k++) {
    ids[k] = -1;
    for (int i = 0; i < s->n; i++)
      if (!strcmp(names[k], active[i])) ids[k] = i;
    if (ids[k] < 0 && strcmp(names[k], "__base__") != 0)
      lk_fail(g->ctx, LK_EARG, "unsupported: mixed_batch names '%s', which is no adapter of the file", names[k]);
  }
  if (lk_set_active(s->l.model, s->n, active, NULL)) return;
  lk_tape_reset(s->l.t);
  lk_side(s->l.t, "adapter_of_sample", lk_input(s->l.t, LK_I64, 1, &n, ids));
  if (!lk_get(s->l.t, lk_site_forward(s->l.site, s->l.t, lk_borrow(s->l.t, &x)), &y)) golden_compare(g, tensor, &y);
}

/* The sources of a combination, as the file names them for this mode, or for all modes like it. */
static int sources(golden *g, const several *s, const char *comb, char *buffer, size_t size, const char *list[MOST]) {
  const int any_rank = strstr(comb, "cat") || strstr(comb, "svd");
  char key[80];
  snprintf(key, sizeof key, "pairs_%s", comb);
  const char *text = golden_text(g, key, NULL);
  if (!text) text = golden_text(g, any_rank ? "pairs_cat_svd" : "pairs_linear_ties_magnitude_prune", NULL);
  if (text) return split(text, buffer, size, list);
  for (int i = 0; i < s->n; i++) list[i] = s->name[i];
  return s->n;
}

static lk_at *chain_of(several *s, const char *adapter) {
  for (lk_site_stack *k = s->l.site->stacks; k; k = k->next)
    if (!strcmp(k->adapter->name, adapter)) return k->chain;
  return NULL;
}

/* Compares the new adapter with "comb_<mode>.lora_A", ".lora_B", ".r_alpha" and ".scaled_delta". */
static void compare_combined(golden *g, several *s, const char *adapter) {
  const lk_at *at = chain_of(s, adapter);
  lk_param *A = golden_param(&s->l, adapter, "lora_A.weight"), *B = golden_param(&s->l, adapter, "lora_B.weight");
  double r = lk_at_option(at, "r", 0), alpha = lk_at_option(at, "alpha", 0);
  double scale = alpha / (lk_at_option(at, "rslora", 0) > 0 ? sqrt(r) : r), three[] = {r, alpha, scale};
  lk_view v = {.p = three, .dtype = LK_F64, .ndim = 1, .shape = {3}, .stride = {1}};
  char name[80];
  snprintf(name, sizeof name, "%s.r_alpha", adapter);
  golden_compare(g, name, &v);
  snprintf(name, sizeof name, "%s.lora_A", adapter);
  golden_compare(g, name, &A->value);
  snprintf(name, sizeof name, "%s.lora_B", adapter);
  golden_compare(g, name, &B->value);
  lk_tape_reset(s->l.t);
  lk_tensor BA = lk_matmul(s->l.t, lk_use(s->l.t, B), lk_use(s->l.t, A));
  snprintf(name, sizeof name, "%s.scaled_delta", adapter);
  if (!lk_get(s->l.t, lk_scale(s->l.t, BA, scale), &v)) golden_compare(g, name, &v);
}

/* "comb_<mode>.<tensor>"; "_freq" behind the mode is the other way to elect signs.  Once for each mode. */
static void combination(golden *g, several *s, const char *name, const char *dot) {
  const char *list[MOST], *word[MOST];
  char adapter[60], mode[60], buffer[400], more[400];
  double weights[MOST];
  snprintf(adapter, sizeof adapter, "%.*s", (int)(dot - name), name);
  if (lk_error(g->ctx, NULL) || lk_adapter_find(s->l.model, adapter)) return;
  snprintf(mode, sizeof mode, "%s", adapter + 5);
  char *frequency = strstr(mode, "_freq");
  lk_combine_options o = {.name = adapter, .names = list, .weights = weights, .mode = mode};
  o.n = sources(g, s, mode, buffer, sizeof buffer, list);
  if (frequency) *frequency = 0;
  o.majority_sign_method = frequency ? "frequency" : golden_text(g, "majority_sign_method", NULL);
  o.density = golden_real(g, "density", 0);
  o.svd_rank = (int)golden_real(g, "svd_rank", 0);
  o.svd_clamp = golden_real(g, "svd_clamp", 0);
  int n = split(golden_text(g, "weights", ""), more, sizeof more, word);
  if (n < o.n) lk_fail(g->ctx, LK_EARG, "unsupported: %d weights for %d adapters", n, o.n);
  for (int i = 0; i < n; i++) weights[i] = strtod(word[i], NULL);
  if (!lk_adapter_combine(s->l.model, &o)) compare_combined(g, s, adapter);
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
  if (s.l.t && !lk_error(g->ctx, NULL)) mixed_batch(g, &s);
  for (size_t i = 0; s.l.t && i < lk_safetensors_count(g->file); i++) {
    const char *name = lk_safetensors_at(g->file, i)->name, *dot = strchr(name, '.');
    if (dot && !strncmp(name, "comb_", 5)) combination(g, &s, name, dot);
  }
  golden_layer_free(&s.l);
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
