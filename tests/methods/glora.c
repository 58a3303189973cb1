/* glora.c: golden cases of GLoRA: the official layer, PEFT's, steps of a supernet, a structure search. */
#include "golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS = 5, MOST = 4 }; /* MOST: adapters at once */

/* The recorded names and ours, of the layer with everything. */
static const golden_name names[] = {{"Ad", "glora_A.Xd"}, {"Au", "glora_A.Xu"}, {"Bd", "glora_B.Xd"},
                                    {"Bu", "glora_B.Xu"}, {"Cd", "glora_C.Xd"}, {"Cu", "glora_C.Xu"},
                                    {"D", "glora_D.X"},   {"E", "glora_E.X"},   {0}};

/* ---- configurations ---- */

/* The number of a form in the lists of ranks=all, -1 if there is none. */
static int index_of(const char *form, size_t n, int tensor, int r) {
  static const char *const lists[TENSORS] = {"vector,constant,none", "vector,constant,none", "vector,none",
                                             "constant,none,vector", "constant,none,vector"};
  char *end;
  int i = tensor < 3 ? r : 0;
  if (tensor < 3 && !strncasecmp(form, "lora_", 5)) {
    long k = strtol(form + 5, &end, 10);
    return end == form + n && k >= 1 && k <= r ? r - (int)k : -1;
  }
  for (const char *s = lists[tensor]; *s; s += strcspn(s, ","), s += *s == ',', i++)
    if (strcspn(s, ",") == n && !strncasecmp(s, form, n)) return i;
  return -1;
}

/* The next of "LoRA_4,none,none,vector,none;..." as a genome; 0 at the end or with an error. */
static int next_config(golden *g, const char **text, int r, int genome[TENSORS]) {
  const char *s = *text;
  s += strspn(s, "; \"");
  if (!*s || lk_error(g->ctx, NULL)) return 0;
  for (int k = 0; k < TENSORS; k++) {
    s += strspn(s, ", ");
    size_t n = strcspn(s, ",; \"");
    genome[k] = index_of(s, n, k, r);
    if (genome[k] < 0)
      return lk_fail(g->ctx, LK_EARG, "unsupported: '%.*s' as the form of %c at rank %d", (int)n, s, "ABCDE"[k], r), 0;
    s += n;
  }
  *text = s + strspn(s, "; \"");
  return 1;
}

/* ---- the official layer ---- */

static int rank_of(golden *g, const char *tensor) {
  lk_view d;
  int64_t stored = golden_get(g, tensor, &d) && d.ndim == 2 ? d.shape[1] : 4;
  return (int)golden_real(g, "rank", golden_real(g, "r", (double)stored));
}

static int attach_official(golden *g, golden_layer *l, int r) {
  char spec[80];
  const char *order = golden_text(g, "config_order", "A,B,C,D,E");
  snprintf(spec, sizeof spec, "glora r=%d supernet ranks=all keep_D", r);
  if (!strstr(order, "A,B,C,D,E")) return lk_fail(g->ctx, LK_EARG, "unsupported: config_order '%s'", order);
  return golden_layer_new(g, l, LK_SITE_LINEAR, names) || lk_attach(l->model, "default", spec, "site");
}

/* The recorded gradient of what got none in this configuration, or of a D that a layer without bias has not: zeros. */
static void compare_unused(golden *g, golden_layer *l, const char *grads) {
  char name[80];
  lk_view want;
  for (const golden_name *n = names; n->stored; n++) {
    const lk_param *p = golden_param(l, "default", n->param);
    snprintf(name, sizeof name, "%s%s", grads, n->stored);
    if ((p && p->has_grad) || !golden_get(g, name, &want)) continue;
    lk_view zeros = want;
    zeros.p = lk_alloc(g->ctx, lk_view_bytes(&want) + 1);
    if (zeros.p) golden_expect(g, name, &zeros, &want, 0);
    lk_free(g->ctx, zeros.p);
  }
}

/* A pass whose parameters without a recorded use have no gradient: golden_pass compares those that have. */
static void pass(golden *g, golden_layer *l, int training, const char *prefix, const char *y, const golden_name *all) {
  golden_name used[2 * TENSORS * MOST + 1];
  char output[60], grads[60];
  int n = 0;
  snprintf(output, sizeof output, "%s%s", prefix, y);
  snprintf(grads, sizeof grads, "%sgrad_", prefix);
  l->names = (const golden_name[]){{0}};
  golden_pass(l, training, output, grads); /* x alone; tells who is used */
  for (const golden_name *k = all; k->stored; k++) {
    const lk_param *p = golden_param(l, "default", k->param);
    if (p && p->has_grad) used[n++] = *k;
  }
  used[n] = (golden_name){0};
  l->names = used;
  golden_pass(l, training, output, grads);
  l->names = all;
  compare_unused(g, l, grads);
}

/* A layer without bias has none when nothing adds to it: then zeros are recorded, or nothing. */
static void merge(golden *g, golden_layer *l, const char *prefix) {
  char W[60], b[60], y[60];
  lk_view want;
  snprintf(W, sizeof W, "%sW_merged", prefix);
  snprintf(b, sizeof b, "%sb_merged", prefix);
  snprintf(y, sizeof y, "%sy_eval", prefix);
  golden_merge(l, W, b, y);
  if (!golden_get(g, b, &want) || l->site->bias || lk_merge(l->model, NULL)) return;
  if (!l->site->bias) {
    lk_view zeros = want;
    zeros.p = lk_alloc(g->ctx, lk_view_bytes(&want) + 1);
    if (zeros.p) golden_expect(g, b, &zeros, &want, 0);
    lk_free(g->ctx, zeros.p);
  }
  lk_unmerge(l->model);
}

static void compare_cost(golden *g, golden_layer *l, const char **counts, const int *genome) {
  char *end;
  double want = strtod(*counts + strspn(*counts, "; \""), &end);
  double got = (double)lk_adapter_choice_cost(l->model, "default", genome);
  lk_view ours, theirs;
  if (end == *counts) return;
  lk_view_init(&ours, LK_F64, 0, NULL);
  theirs = ours;
  ours.p = &got;
  theirs.p = &want;
  golden_expect(g, "param_counts", &ours, &theirs, 0);
  *counts = end;
}

static void layer(golden *g) {
  golden_layer l = {0};
  const char *configs = golden_text(g, "configs", ""), *counts = golden_text(g, "param_counts", "");
  int r = rank_of(g, "Ad"), genome[TENSORS];
  if (!attach_official(g, &l, r)) {
    golden_assign(&l, "default", "");
    lk_view unused;
    golden_get(g, "D", &unused); /* of a layer without bias */
    for (int i = 0; next_config(g, &configs, r, genome); i++) {
      char prefix[20];
      snprintf(prefix, sizeof prefix, "cfg%d.", i);
      if (lk_adapter_choose(l.model, "default", genome)) break;
      pass(g, &l, 1, prefix, "y_train", names);
      pass(g, &l, 0, prefix, "y_eval", names);
      merge(g, &l, prefix);
      compare_cost(g, &l, &counts, genome);
    }
  }
  golden_layer_free(&l);
}

/* ---- PEFT's layer ---- */

/* The value behind "key=" up to a comma, bar or the end; NULL if there is none. */
static const char *find_word(const char *text, const char *key, size_t *n) {
  const char *end = text + strcspn(text, "|;\"");
  size_t k = strlen(key);
  for (const char *s = text; s < end; s++)
    if (!strncmp(s, key, k) && s[k] == '=') {
      *n = strcspn(s + k + 1, ",|;\"");
      return s + k + 1;
    }
  return NULL;
}

/* "a:config_A_B=lora,config_C=vector,config_D_E=constant,r=2": the adapter a. */
static int attach_peft(golden_layer *l, const char *text, char name[40]) {
  static const char *const keys[] = {"config_A_B", "config_C", "config_D_E", "r"};
  static const char *const missing[] = {"lora", "lora", "constant", "8"};
  const char *word[4];
  size_t n[4];
  char spec[200];
  for (int i = 0; i < 4; i++)
    if (!(word[i] = find_word(text, keys[i], &n[i]))) word[i] = missing[i], n[i] = strlen(missing[i]);
  snprintf(name, 40, "%.*s", (int)strcspn(text, ":"), text);
  snprintf(spec, sizeof spec, "glora r=%.*s A=%.*s B=%.*s C=%.*s D=%.*s E=%.*s allow_new_bias=0", (int)n[3], word[3],
           (int)n[0], word[0], (int)n[0], word[0], (int)n[1], word[1], (int)n[2], word[2], (int)n[2], word[2]);
  return lk_attach(l->model, name, spec, "site") != LK_OK;
}

/* Assigns, or compares the gradients with, everything recorded as "<prefix>A.<adapter>.Xd". */
static void for_tensors(golden *g, golden_layer *l, const char *prefix, const char *adapter, int compare) {
  static const char *const parts[] = {"Xd", "Xu", "X"};
  for (int i = 0; i < TENSORS * 3 && !lk_error(g->ctx, NULL); i++) {
    char recorded[300], ours[40];
    lk_view v;
    snprintf(recorded, sizeof recorded, "%s%s%c.%s.%s", prefix, compare ? "grad." : "", "ABCDE"[i / 3], adapter,
             parts[i % 3]);
    snprintf(ours, sizeof ours, "glora_%c.%s", "ABCDE"[i / 3], parts[i % 3]);
    lk_param *p = golden_param(l, adapter, ours);
    if (!golden_has(g, recorded)) {
      if (p && !compare) lk_fail(g->ctx, LK_EARG, "the file has no tensor '%s'", recorded);
      continue;
    }
    if (!p) continue; /* golden_all_seen complains */
    if (!compare) {
      golden_get(g, recorded, &v);
      golden_reshape(&v, &p->value);
      lk_param_assign(p, &v);
      continue;
    }
    v = p->value;
    v.p = p->grad;
    if (p->has_grad) golden_compare(g, recorded, &v);
    else lk_fail(g->ctx, LK_ENOGRAD, "%s got no gradient", p->name);
  }
}

static void peft_pass(golden *g, golden_layer *l, int training, const char *prefix, char (*adapters)[40], int n) {
  char y[60], grads[60];
  snprintf(y, sizeof y, "%s%s", prefix, training ? "y_train" : "y_eval");
  snprintf(grads, sizeof grads, "%sgrad_", prefix);
  golden_pass(l, training, y, grads);
  if (golden_has_prefix(g, grads))
    for (int i = 0; i < n; i++) for_tensors(g, l, prefix, adapters[i], 1);
}

static void peft_group(golden *g, const char *prefix, const char *text) {
  static const golden_name none[] = {{0}};
  golden_layer l = {0};
  char adapters[MOST][40];
  const char *active[MOST];
  int n = 0, bias = !strstr(text, "bias=0");
  if (!golden_layer_new(g, &l, LK_SITE_LINEAR, none)) {
    if (!bias) l.site->bias = NULL; /* b0 is of the other groups */
    const char *s = strrchr(text, ';');
    for (s = s ? s + 1 : text; *s && *s != '"' && n < MOST; s += strcspn(s, "|\""), s += *s == '|') {
      if (attach_peft(&l, s, adapters[n])) break;
      for_tensors(g, &l, prefix, adapters[n], 0);
      active[n] = adapters[n];
      n++;
    }
    if (!lk_error(g->ctx, NULL)) lk_set_active(l.model, n, active, NULL);
    peft_pass(g, &l, 1, prefix, adapters, n);
    peft_pass(g, &l, 0, prefix, adapters, n);
    merge(g, &l, prefix);
  }
  golden_layer_free(&l);
}

static void peft(golden *g) {
  for (int i = 0; !lk_error(g->ctx, NULL); i++) {
    char key[20], prefix[20];
    snprintf(key, sizeof key, "cfg%d", i);
    snprintf(prefix, sizeof prefix, "cfg%d.", i);
    const char *text = golden_text(g, key, NULL);
    if (!text) break;
    peft_group(g, prefix, text);
  }
}

/* ---- steps of a supernet ---- */

static lk_optim *official_optimiser(golden *g, golden_layer *l) {
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  int n;
  o.lr = golden_real(g, "lr", o.lr);
  o.weight_decay = golden_real(g, "weight_decay", o.weight_decay);
  o.beta1 = golden_real(g, "beta1", o.beta1);
  o.beta2 = golden_real(g, "beta2", o.beta2);
  o.eps = golden_real(g, "eps", o.eps);
  o.skip_until_reached = 1;
  lk_param **p = lk_trainable(l->model, &n);
  lk_optim *opt = lk_optim_new(g->ctx, &lk_optim_adamw, &o, p, n);
  lk_free(g->ctx, p);
  return opt;
}

/* Slice i of a recorded [steps, ...]. */
static lk_view slice(lk_view v, int i) {
  v.p = (double *)v.p + (lk_view_count(&v) / v.shape[0]) * i;
  v.ndim--;
  memmove(v.shape, v.shape + 1, (size_t)v.ndim * sizeof *v.shape);
  memmove(v.stride, v.stride + 1, (size_t)v.ndim * sizeof *v.stride);
  return v;
}

static void compare_step(golden *g, golden_layer *l, int step) {
  for (const golden_name *k = names; k->stored; k++) {
    char name[40], first[40];
    lk_view start;
    const lk_param *p = golden_param(l, "default", k->param);
    snprintf(name, sizeof name, "step%d.%s", step, k->stored);
    snprintf(first, sizeof first, "init.%s", k->stored);
    if (p) golden_compare(g, name, &p->value);
    else if (golden_get(g, first, &start)) golden_compare(g, name, &start); /* a D that nothing uses */
  }
}

/* One step: the loss goes to *loss. */
static lk_status take_step(golden_layer *l, lk_optim *opt, lk_view x, lk_view cotangent, void *gx, int step,
                           double *loss) {
  lk_tape_reset(l->t);
  lk_train(l->t, (uint64_t)step, 0);
  lk_tensor y = lk_site_forward(l->site, l->t, lk_leaf(l->t, &x, gx)); /* a leaf: there is always something to reach */
  lk_tensor sum = lk_sum(l->t, lk_mul(l->t, y, lk_borrow(l->t, &cotangent)), 0, NULL, 0);
  *loss = lk_item(l->t, sum);
  lk_backward(l->t, sum);
  return lk_step(opt);
}

static void run_steps(golden *g, golden_layer *l, lk_optim *opt, int r) {
  const char *configs = golden_text(g, "configs", "");
  int steps = (int)golden_real(g, "n_steps", 0), genome[TENSORS];
  lk_view x, cotangent, losses;
  if (!golden_need(g, "x", &x) || !golden_need(g, "g", &cotangent)) return;
  if (steps < 1 || x.shape[0] != steps || cotangent.shape[0] != steps) {
    lk_fail(g->ctx, LK_ESHAPE, "x or g does not have n_steps = %d slices", steps);
    return;
  }
  double *loss = lk_alloc_array(g->ctx, (size_t)steps, sizeof *loss);
  void *gx = lk_alloc(g->ctx, lk_view_bytes(&x) + 1);
  for (int i = 0; loss && gx && i < steps && next_config(g, &configs, r, genome); i++) {
    if (lk_adapter_choose(l->model, "default", genome)) break;
    if (take_step(l, opt, slice(x, i), slice(cotangent, i), gx, i, &loss[i])) break;
    compare_step(g, l, i);
  }
  lk_view_init(&losses, LK_F64, 1, (int64_t[]){steps});
  losses.p = loss;
  if (!lk_error(g->ctx, NULL)) golden_compare(g, "loss", &losses);
  lk_free(g->ctx, loss);
  lk_free(g->ctx, gx);
}

static void supernet_steps(golden *g) {
  golden_layer l = {0};
  int r = rank_of(g, "init.Ad");
  if (!attach_official(g, &l, r)) {
    golden_assign(&l, "default", "init.");
    lk_view unused;
    golden_get(g, "init.D", &unused);
    lk_optim *opt = lk_error(g->ctx, NULL) ? NULL : official_optimiser(g, &l);
    if (opt) run_steps(g, &l, opt, r);
    lk_optim_free(opt);
  }
  golden_layer_free(&l);
}

static const golden_kind kinds[] = {
    {"layer", layer}, {"peft", peft}, {"supernet_steps", supernet_steps}, {"search_trace", golden_search_trace}, {0}};
const golden_method golden_glora = {.method = "glora", .kinds = kinds};
