/* glora_structure.c: GLoRA's structure: the form of each support tensor, the lists that a search chooses from, what a
 * choice costs, and taking over a chosen one.
 *
 *   A, B: LoRA_r [, smaller ranks], vector, constant, none     C: LoRA_r [, ...], vector, none
 *   D, E: constant, none, vector                               (this order is the official code's, and the genome's)
 *
 * Chavan et al., arXiv 2306.07967; Arnav0400/ViT-Slim, GLoRA/layer.py and evolution.py. */
#include "glora.h"

#include <stdio.h>

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
  const lk_glora_state *s = at->st;
  if (!s->structure.stored || s->structure.settled) return 0;
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
  int chosen = lk_structure_is_chosen(&s->structure), drawn = g->supernet && !chosen && lk_is_training(t);
  lk_key key = drawn ? lk_at_key(at, t, "structure") : (lk_key){0, 0};
  for (int k = 0; k < GLORA_TENSORS; k++) {
    if (chosen) shape[k] = shape_of(at, k, s->structure.choice[k]);
    else if (drawn) shape[k] = shape_of(at, k, (int)lk_random_below(key, (uint64_t)k, (uint64_t)choices_of(at, k)));
    else shape[k] = lk_glora_written(at, k);
    if (!s->d[k]) shape[k].form = GLORA_NONE;
  }
}

/* ---- choosing, and taking it over: only what it uses stays ---- */

lk_status lk_glora_choose(lk_at *at, const int *choice) {
  lk_glora_state *s = at->st;
  return lk_structure_choose(&s->structure, choice);
}

lk_status lk_glora_settle(lk_at *at) {
  lk_glora_state *s = at->st;
  lk_structure *x = &s->structure;
  if (!x->stored || x->settled) return LK_OK;
  if (lk_structure_begin(at, x)) return lk_error(lk_at_ctx(at), NULL);
  for (int k = 0; k < GLORA_TENSORS; k++) {
    lk_glora_shape f = shape_of(at, k, x->choice[k]);
    int64_t rows = f.form == GLORA_NONE ? 0 : f.form == GLORA_CONSTANT ? 1 : -1;
    if (lk_structure_cut(x, s->d[k], rows, f.form == GLORA_LORA ? f.k : 1)) break;
    if (lk_structure_cut(x, s->u[k], f.form == GLORA_LORA ? f.k : 0, -1)) break;
  }
  return lk_structure_end(x);
}

lk_status lk_glora_loaded(lk_method *m) {
  for (int i = 0; i < m->nat; i++) {
    lk_glora_state *s = m->at[i]->st;
    int choices[GLORA_TENSORS], settle;
    if (!s->structure.stored || !s->structure.stored->value.p) continue;
    for (int k = 0; k < GLORA_TENSORS; k++) choices[k] = choices_of(m->at[i], k);
    if (!lk_structure_load(m->at[i], &s->structure, choices, &settle) && settle) lk_glora_settle(m->at[i]);
  }
  return lk_error(lk_method_ctx(m), NULL);
}

/* ---- notes ---- */

/* "L4 v n k v": LoRA_4, vector, none, constant, vector. */
static void write_code(const lk_at *at, char *text, size_t size) {
  const lk_glora_state *s = at->st;
  size_t used = 0;
  for (int k = 0; k < GLORA_TENSORS && used < size; k++) {
    lk_glora_shape f = shape_of(at, k, s->structure.choice[k]);
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
    if (!lk_structure_is_chosen(&s->structure)) continue;
    write_code(m->at[i], code, sizeof code);
    char *longer =
        lk_sprintf(c, "%s%s %s %s", all ? all : "glora A B C D E:", all ? "," : "", lk_at_path(m->at[i]), code);
    lk_free(c, all);
    all = longer;
  }
  return all;
}
