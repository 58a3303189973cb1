/* glora_structure.c: GLoRA's structure: the form of each support tensor, the lists that a search chooses from, what a
 * choice costs, and taking over a chosen one.
 *
 *   A, B: LoRA_r [, smaller ranks], vector, constant, none     C: LoRA_r [, ...], vector, none
 *   D, E: constant, none, vector                               (this order is the official code's, and the genome's)
 *
 * Chavan et al., arXiv 2306.07967; Arnav0400/ViT-Slim, GLoRA/layer.py and evolution.py. */
#include "glora.h"

#include <stdio.h>
#include <string.h>

/* The forms that the options' words name, and those behind the ranks in the lists. */
static const lk_glora_form words[GLORA_TENSORS][4] = {{GLORA_LORA, GLORA_VECTOR, GLORA_CONSTANT, GLORA_NONE},
                                                      {GLORA_LORA, GLORA_VECTOR, GLORA_CONSTANT, GLORA_NONE},
                                                      {GLORA_LORA, GLORA_VECTOR, GLORA_NONE},
                                                      {GLORA_VECTOR, GLORA_CONSTANT, GLORA_NONE},
                                                      {GLORA_VECTOR, GLORA_CONSTANT, GLORA_NONE}};
static const lk_glora_form lists[GLORA_TENSORS][3] = {{GLORA_VECTOR, GLORA_CONSTANT, GLORA_NONE},
                                                      {GLORA_VECTOR, GLORA_CONSTANT, GLORA_NONE},
                                                      {GLORA_VECTOR, GLORA_NONE},
                                                      {GLORA_CONSTANT, GLORA_NONE, GLORA_VECTOR},
                                                      {GLORA_CONSTANT, GLORA_NONE, GLORA_VECTOR}};
static const int list_length[GLORA_TENSORS] = {3, 3, 2, 3, 3};

/* ---- which tensors there are ---- */

int lk_glora_exists(const lk_at *at, int tensor) {
  const lk_glora_config *g = at->cfg;
  if (tensor <= GLORA_B) return 1;
  if (g->a_mode == GLORA_PRODUCT) return 0;
  if (tensor == GLORA_D) return at->site->bias || (g->allow_new_bias && g->keep_D);
  return at->site->bias || g->allow_new_bias;
}

/* Without a bias there is nothing that D could scale: keep_D only counts it. */
int lk_glora_stored(const lk_at *at, int tensor) {
  return lk_glora_exists(at, tensor) && (tensor != GLORA_D || at->site->bias);
}

lk_glora_shape lk_glora_written(const lk_at *at, int tensor) {
  const lk_glora_config *g = at->cfg;
  lk_glora_shape none = {GLORA_NONE, 0};
  return lk_glora_exists(at, tensor) ? (lk_glora_shape){words[tensor][g->form[tensor]], g->r} : none;
}

/* ---- the lists ---- */

/* How many LoRA_k a list begins with: r; r, r/2, ..., 1; or r, r - 1, ..., 1. */
static int ranks_of(const lk_glora_config *g, int tensor) {
  int n = 1;
  if (tensor > GLORA_C) return 0;
  if (g->ranks == GLORA_ALL) return g->r;
  for (int k = g->r; g->ranks == GLORA_HALVES && k > 1; k /= 2) n++;
  return n;
}

static int choices_of(const lk_at *at, int tensor) {
  return lk_glora_exists(at, tensor) ? ranks_of(at->cfg, tensor) + list_length[tensor] : 1;
}

static lk_glora_shape shape_of(const lk_at *at, int tensor, int choice) {
  const lk_glora_config *g = at->cfg;
  int n = ranks_of(g, tensor);
  if (!lk_glora_exists(at, tensor)) return (lk_glora_shape){GLORA_NONE, 0};
  if (choice >= n) return (lk_glora_shape){lists[tensor][choice - n], 0};
  return (lk_glora_shape){GLORA_LORA, g->ranks == GLORA_HALVES ? g->r >> choice : g->r - choice};
}

int lk_glora_genes(const lk_at *at, int *choices) {
  const lk_glora_config *g = at->cfg;
  const lk_glora_state *s = at->st;
  if (!g->supernet || s->settled) return 0;
  for (int k = 0; choices && k < GLORA_TENSORS; k++) choices[k] = choices_of(at, k);
  return GLORA_TENSORS;
}

/* The official counting rule. */
static int64_t cost_of(const lk_site *s, int tensor, lk_glora_shape f) {
  int64_t rows = tensor == GLORA_C ? s->in : s->out, columns = tensor == GLORA_C ? 1 : s->in;
  if (f.form == GLORA_LORA) return f.k * (rows + columns);
  return f.form == GLORA_VECTOR ? rows : f.form == GLORA_CONSTANT;
}

int64_t lk_glora_cost(const lk_at *at, const int *choice) {
  int64_t sum = 0;
  for (int k = 0; k < GLORA_TENSORS; k++) sum += cost_of(at->site, k, shape_of(at, k, choice[k]));
  return sum;
}

/* ---- the structure of a pass ---- */

void lk_glora_shapes(const lk_at *at, const lk_tape *t, lk_glora_shape shape[GLORA_TENSORS]) {
  const lk_glora_config *g = at->cfg;
  const lk_glora_state *s = at->st;
  int chosen = s->structure && s->choice[0] >= 0, drawn = g->supernet && !chosen && lk_is_training(t);
  lk_key key = drawn ? lk_at_key(at, t, "structure") : (lk_key){0, 0};
  for (int k = 0; k < GLORA_TENSORS; k++) {
    if (chosen) shape[k] = shape_of(at, k, s->choice[k]);
    else if (drawn) shape[k] = shape_of(at, k, (int)lk_random_below(key, (uint64_t)k, (uint64_t)choices_of(at, k)));
    else shape[k] = lk_glora_written(at, k);
    if (!s->tensor[k].d) shape[k].form = GLORA_NONE;
  }
}

/* ---- choosing ---- */

static void note_structure(lk_glora_state *s) {
  if (!s->structure->value.p) return;
  for (int k = 0; k < GLORA_TENSORS; k++) lk_view_set(&s->structure->value, k, s->choice[k]);
  lk_view_set(&s->structure->value, GLORA_TENSORS, s->settled);
  lk_param_touch(s->structure);
}

lk_status lk_glora_choose(lk_at *at, const int *choice) {
  lk_glora_state *s = at->st;
  for (int k = 0; k < GLORA_TENSORS; k++) s->choice[k] = choice ? choice[k] : -1;
  note_structure(s);
  return lk_error(lk_at_ctx(at), NULL);
}

/* ---- taking it over: only what it uses stays ---- */

/* Makes p [rows, columns], its leading part; what it was is kept aside. */
static lk_status cut(lk_param *p, lk_view *whole, int *owned, int64_t rows, int64_t columns) {
  lk_view small;
  lk_view_init(&small, p->value.dtype, p->value.ndim, (int64_t[]){rows, columns});
  if (lk_view_same_shape(&small, &p->value)) return LK_OK;
  if (p->value.p && !(small.p = lk_alloc(p->ctx, lk_view_bytes(&small) + 1))) return lk_error(p->ctx, NULL);
  lk_view from = p->value;
  for (int i = 0; i < small.ndim; i++) from.shape[i] = small.shape[i];
  if (small.p) lk_view_copy(&small, &from);
  *whole = p->value;
  *owned = p->owned;
  p->value = small;
  p->owned = small.p != NULL;
  lk_free(p->ctx, p->grad);
  p->grad = NULL;
  p->has_grad = 0;
  lk_param_touch(p);
  return LK_OK;
}

static void retire(lk_param *p) {
  if (!p) return;
  p->kind = LK_RETIRED;
  p->requires_grad = 0;
}

static lk_status settle_tensor(lk_at *at, int k, lk_glora_shape f) {
  lk_glora_state *s = at->st;
  lk_glora_tensor *x = &s->tensor[k];
  if (!x->d) return LK_OK;
  int64_t rows = f.form == GLORA_CONSTANT ? 1 : x->d->value.shape[0], columns = f.form == GLORA_LORA ? f.k : 1;
  if (f.form == GLORA_NONE) retire(x->d);
  else if (cut(x->d, &x->whole[0], &x->whole_owned[0], rows, columns)) return lk_error(lk_at_ctx(at), NULL);
  if (f.form != GLORA_LORA) retire(x->u);
  else cut(x->u, &x->whole[1], &x->whole_owned[1], f.k, x->u->value.shape[1]);
  return lk_error(lk_at_ctx(at), NULL);
}

lk_status lk_glora_settle(lk_at *at) {
  const lk_glora_config *g = at->cfg;
  lk_glora_state *s = at->st;
  if (!g->supernet || s->settled) return LK_OK;
  if (s->choice[0] < 0)
    return lk_fail(lk_at_ctx(at), LK_EARG, "glora: no structure is chosen at %s: nothing can be settled",
                   lk_at_path(at));
  s->settled = 1; /* even a settling that failed can be taken back */
  for (int k = 0; k < GLORA_TENSORS; k++)
    if (settle_tensor(at, k, shape_of(at, k, s->choice[k]))) return lk_error(lk_at_ctx(at), NULL);
  note_structure(s);
  return lk_error(lk_at_ctx(at), NULL);
}

static void restore(const lk_at *at, lk_param *p, lk_view *whole, int owned) {
  if (!p) return;
  p->kind = LK_TRAINED;
  p->requires_grad = at->method->adapter->trainable;
  if (!whole->ndim) return;
  if (p->owned) lk_free(p->ctx, p->value.p);
  lk_free(p->ctx, p->grad);
  p->grad = NULL;
  p->has_grad = 0;
  p->value = *whole;
  p->owned = owned;
  *whole = (lk_view){0};
  lk_param_touch(p);
}

static void unsettle(lk_at *at) {
  lk_glora_state *s = at->st;
  for (int k = 0; k < GLORA_TENSORS; k++) {
    lk_glora_tensor *x = &s->tensor[k];
    restore(at, x->d, &x->whole[0], x->whole_owned[0]);
    restore(at, x->u, &x->whole[1], x->whole_owned[1]);
  }
  s->settled = 0;
}

void lk_glora_destroy_at(lk_at *at) {
  lk_glora_state *s = at->st;
  for (int i = 0; i < 2 * GLORA_TENSORS; i++)
    if (s->tensor[i / 2].whole_owned[i % 2]) lk_free(lk_at_ctx(at), s->tensor[i / 2].whole[i % 2].p);
}

/* ---- files ---- */

static lk_status load_at(lk_at *at) {
  lk_glora_state *s = at->st;
  lk_ctx *c = lk_at_ctx(at);
  int choice[GLORA_TENSORS], settled = lk_view_get(&s->structure->value, GLORA_TENSORS) == 1, known = 1;
  for (int k = 0; k < GLORA_TENSORS; k++) {
    double v = lk_view_get(&s->structure->value, k);
    int whole = v >= -1 && v < choices_of(at, k) && v == (int)v;
    choice[k] = whole ? (int)v : -1;
    known &= whole && (choice[k] < 0) == (choice[0] < 0);
  }
  if (!known || (settled && choice[0] < 0))
    return lk_fail(c, LK_EFORMAT, "glora: the stored structure at %s is none of those there are", lk_at_path(at));
  if (s->settled) unsettle(at);
  memcpy(s->choice, choice, sizeof choice);
  return settled ? lk_glora_settle(at) : lk_error(c, NULL);
}

lk_status lk_glora_loaded(lk_method *m) {
  for (int i = 0; i < m->nat; i++) {
    const lk_glora_state *s = m->at[i]->st;
    if (s->structure && s->structure->value.p) load_at(m->at[i]);
  }
  return lk_error(lk_method_ctx(m), NULL);
}

/* ---- notes ---- */

/* "L4 v n k v": LoRA_4, vector, none, constant, vector. */
static void write_code(const lk_at *at, char *text, size_t size) {
  const lk_glora_state *s = at->st;
  size_t used = 0;
  for (int k = 0; k < GLORA_TENSORS && used < size; k++) {
    lk_glora_shape f = shape_of(at, k, s->choice[k]);
    const char *gap = k ? " " : "";
    if (f.form == GLORA_LORA) used += (size_t)snprintf(text + used, size - used, "%sL%d", gap, f.k);
    else used += (size_t)snprintf(text + used, size - used, "%s%c", gap, "Lvkn"[f.form]);
  }
}

/* "glora A B C D E: attn.qkv L4 v n k v, attn.proj n L4 n n v" */
char *lk_glora_notes(lk_method *m) {
  lk_ctx *c = lk_method_ctx(m);
  char *all = NULL;
  for (int i = 0; i < m->nat && !lk_error(c, NULL); i++) {
    const lk_glora_state *s = m->at[i]->st;
    char code[100];
    if (!s->structure || s->choice[0] < 0) continue;
    write_code(m->at[i], code, sizeof code);
    char *longer = lk_sprintf(c, "%s%s %s %s", all ? all : "glora A B C D E:", all ? "," : "", lk_at_path(m->at[i]), code);
    lk_free(c, all);
    all = longer;
  }
  return all;
}
