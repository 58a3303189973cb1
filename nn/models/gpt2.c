/* gpt2.c: GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019): the next token, or
 * classification by the last one; tensor names and config.json of HuggingFace's GPT2LMHeadModel.
 *
 *   h = wte[ids] + wpe[0 ...]
 *   each block:  h += c_proj(attention(c_attn(LN(h)))),  h += c_proj(act(c_fc(LN(h))))
 *   logits = lm_head(LN(h)); a tied head is wte
 * Its linear layers store their weights as [in, out] (Conv1D). */
#include "models/family.h"

#include <math.h>
#include <stdio.h>

typedef struct {
  lk_module module;
  lk_layer_norm_layer *norm1, *norm2;
  lk_linear_layer *qkv, *output, *up, *down;
} block;

typedef struct {
  lk_module module;
  int64_t heads;
  double embedding_dropout, attention_dropout, dropout;
  int scale, scale_by_layer; /* scores by 1 / sqrt(d); and by 1 / (number of the layer) */
  const lk_activation *activation;
  lk_embedding_layer *words, *positions;
  block **blocks;
  lk_layer_norm_layer *norm;
  lk_linear_layer *head; /* lm_head, or score of a classifier */
} gpt2;

/* ---- modules ---- */

static void destroy(lk_module *m) { lk_free(m->ctx, ((gpt2 *)m)->blocks); }

static block *block_new(gpt2 *g, lk_pretrained *p, int64_t number, int64_t inner, double eps) {
  char name[40];
  snprintf(name, sizeof name, "h.%d", (int)number);
  block *b = lk_module_new(&g->module, name, "gpt2_block", sizeof *b);
  if (!b) return NULL;
  lk_module *m = &b->module;
  b->norm1 = lk_layer_norm_new(m, "ln_1", p->width, eps);
  b->qkv = lk_linear_new(m, "attn.c_attn", p->width, 3 * p->width, LK_FAN_IN_FAN_OUT);
  b->output = lk_linear_new(m, "attn.c_proj", p->width, p->width, LK_FAN_IN_FAN_OUT);
  b->norm2 = lk_layer_norm_new(m, "ln_2", p->width, eps);
  b->up = lk_linear_new(m, "mlp.c_fc", p->width, inner, LK_FAN_IN_FAN_OUT);
  b->down = lk_linear_new(m, "mlp.c_proj", inner, p->width, LK_FAN_IN_FAN_OUT);
  return b;
}

static double dropout_of(lk_pretrained *p, const char *key) {
  double rate = lk_config_real(p, key, 0.1, 0, 0.999);
  return p->dropout ? rate : 0;
}

static lk_status build(lk_pretrained *p) {
  lk_ctx *c = p->ctx;
  gpt2 *g = lk_module_new(lk_model_root(p->model), "transformer", "gpt2", sizeof *g);
  if (!g) return lk_error(c, NULL);
  g->module.destroy = destroy;
  p->impl = g;
  p->prefix = "transformer.";
  p->vocabulary = lk_config_int(p, "vocab_size", 50257, 1, 1 << 28);
  p->width = lk_config_int(p, "n_embd", 768, 1, 1 << 20);
  p->layers = lk_config_int(p, "n_layer", 12, 1, 1 << 12);
  p->most_tokens = lk_config_int(p, "n_positions", 1024, 1, 1 << 24);
  int64_t inner = lk_config_int(p, "n_inner", 4 * p->width, 1, 1 << 24);
  double eps = lk_config_real(p, "layer_norm_epsilon", 1e-5, 0, 1);
  g->heads = p->kv_heads = lk_config_int(p, "n_head", 12, 1, 1 << 16);
  g->embedding_dropout = dropout_of(p, "embd_pdrop");
  g->attention_dropout = dropout_of(p, "attn_pdrop");
  g->dropout = dropout_of(p, "resid_pdrop");
  g->scale = lk_json_bool(c, p->config, "scale_attn_weights", 1);
  g->scale_by_layer = lk_json_bool(c, p->config, "scale_attn_by_inverse_layer_idx", 0);
  g->activation = lk_activation_find(c, lk_json_string(c, p->config, "activation_function", "gelu_new"));
  if (!lk_error(c, NULL) && p->width % g->heads)
    lk_fail(c, LK_EFORMAT, "n_embd %lld cannot be split into n_head %lld", (long long)p->width, (long long)g->heads);
  if (!lk_error(c, NULL) && lk_json_bool(c, p->config, "add_cross_attention", 0))
    lk_fail(c, LK_EFORMAT, "add_cross_attention is not supported");
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  p->head_width = p->width / g->heads;
  g->words = p->words = lk_embedding_new(&g->module, "wte", p->vocabulary, p->width);
  g->positions = lk_embedding_new(&g->module, "wpe", p->most_tokens, p->width);
  g->blocks = lk_alloc_array(c, (size_t)p->layers, sizeof *g->blocks);
  for (int64_t i = 0; i < p->layers && !lk_error(c, NULL); i++) g->blocks[i] = block_new(g, p, i, inner, eps);
  g->norm = lk_layer_norm_new(&g->module, "ln_f", p->width, eps);
  if (p->task == LK_TASK_CLASSIFY)
    g->head = lk_linear_new(lk_model_root(p->model), "score", p->width, p->classes, LK_NO_BIAS);
  else g->head = lk_head_new(p, lk_model_root(p->model), "lm_head", lk_is_tied(p, 1) ? g->words : NULL);
  return lk_error(c, NULL);
}

/* ---- forward ---- */

static lk_tensor embed(gpt2 *g, lk_tape *t, const lk_inputs *in) {
  int64_t past = in->cache ? lk_cache_length(in->cache) : 0, T = lk_size(t, in->ids, 1);
  lk_view v;
  lk_tensor positions = lk_input(t, LK_I64, 1, &T, NULL);
  if (lk_get(t, positions, &v)) return lk_nil();
  for (int64_t i = 0; i < T; i++) ((int64_t *)v.p)[i] = past + i;
  lk_tensor h = lk_add(t, lk_embedding_forward(g->words, t, in->ids), lk_embedding_forward(g->positions, t, positions));
  return lk_dropout(t, h, g->embedding_dropout);
}

static lk_tensor attention(gpt2 *g, block *b, lk_tape *t, lk_tensor x, const lk_inputs *in, int64_t layer) {
  lk_tensor qkv[3];
  double d = (double)b->output->in / (double)g->heads;
  const lk_attend options = {.mask = in->mask,
                             .cache = in->cache,
                             .layer = layer,
                             .dropout = g->attention_dropout,
                             .scale = (g->scale ? 1 / sqrt(d) : 1) / (g->scale_by_layer ? (double)layer + 1 : 1)};
  lk_split(t, lk_linear_forward(b->qkv, t, x), -1, 3, qkv);
  for (int i = 0; i < 3; i++) qkv[i] = lk_heads_split(t, qkv[i], g->heads);
  lk_tensor y = lk_attend_causal(t, &options, qkv[0], qkv[1], qkv[2]);
  return lk_dropout(t, lk_linear_forward(b->output, t, lk_heads_join(t, y)), g->dropout);
}

static lk_tensor mlp(gpt2 *g, block *b, lk_tape *t, lk_tensor x) {
  lk_tensor inner = g->activation->forward(t, lk_linear_forward(b->up, t, x));
  return lk_dropout(t, lk_linear_forward(b->down, t, inner), g->dropout);
}

static lk_tensor block_forward(lk_pretrained *p, block *b, lk_tape *t, lk_tensor h, const lk_inputs *in,
                               int64_t layer) {
  gpt2 *g = p->impl;
  uint32_t scope = lk_layer_begin(t, (lk_module *)b, p->recompute);
  h = lk_add(t, h, attention(g, b, t, lk_layer_norm_forward(b->norm1, t, h), in, layer));
  h = lk_add(t, h, mlp(g, b, t, lk_layer_norm_forward(b->norm2, t, h)));
  return lk_scope_end(t, scope, h);
}

static lk_tensor forward(lk_pretrained *p, lk_tape *t, const lk_inputs *in) {
  gpt2 *g = p->impl;
  if (lk_check_tokens(p, t, in)) return lk_nil();
  uint32_t scope = lk_scope_begin(t, g->module.name, 0);
  lk_tensor h = embed(g, t, in);
  for (int64_t i = 0; i < p->layers; i++) h = lk_after(t, h, block_forward(p, g->blocks[i], t, h, in, i));
  h = lk_scope_end(t, scope, lk_layer_norm_forward(g->norm, t, h));
  if (p->task == LK_TASK_CLASSIFY) h = lk_last_token(t, h, in->mask);
  else if (in->last) h = lk_last_place(t, h);
  return lk_linear_forward(g->head, t, h);
}

static const char *const types[] = {"gpt2", NULL};
static const char *const heads[] = {"score.", "lm_head.", NULL};
static const char *const unused[] = {"score.", "lm_head.", "*.attn.bias", "*.attn.masked_bias", NULL};
const lk_family lk_family_gpt2 = {.name = "gpt2",
                                  .model_types = types,
                                  .tasks = 1 << LK_TASK_LM | 1 << LK_TASK_CLASSIFY,
                                  .heads = heads,
                                  .unused = unused,
                                  .untied = 1,
                                  .targets = "c_attn",
                                  .build = build,
                                  .initialise = lk_initialise_usual,
                                  .forward = forward};
