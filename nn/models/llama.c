/* llama.c: LLaMA (Touvron et al., arXiv 2302.13971) and its kin Mistral, Qwen2 and Qwen3: the next token, or
 * classification by the last one; tensor names and config.json of HuggingFace's ...ForCausalLM.
 *
 *   h = embed_tokens[ids]
 *   each block:  h += o_proj(attention(rotary(q), rotary(k), v)) of RMS(h),
 *                h += down_proj(silu(gate_proj(x)) * up_proj(x)), x = RMS(h)
 *   logits = lm_head(RMS(h)); a tied head is embed_tokens */
#include "models/rope.h"

#include <stdio.h>
#include <string.h>

typedef struct {
  lk_module module;
  lk_rms_norm_layer *norm1, *norm2, *q_norm, *k_norm; /* the last two of Qwen3 */
  lk_linear_layer *q, *k, *v, *o, *gate, *up, *down;
  int64_t window;
} block;

typedef struct {
  lk_module module;
  int64_t heads;
  double attention_dropout;
  lk_rope rope;
  const lk_activation *activation;
  lk_embedding_layer *words;
  block **blocks;
  lk_rms_norm_layer *norm;
  lk_linear_layer *head; /* lm_head or score */
} llama;

/* Where the kin differ. */
typedef struct {
  const char *type;
  int qkv_bias, o_bias; /* -1: as attention_bias says */
  int head_norms;       /* RMS of each head's q and k */
  int64_t most_tokens;  /* max_position_embeddings, if the config has none */
} kin;

static const kin kins[] = {
    {"llama", -1, -1, 0, 2048}, {"mistral", 0, 0, 0, 131072}, {"qwen2", 1, 0, 0, 32768}, {"qwen3", -1, -1, 1, 32768}};

/* ---- modules ---- */

static void destroy(lk_module *m) { lk_free(m->ctx, ((llama *)m)->blocks); }

/* Tokens that a token of this layer sees; 0: all before it. */
static int64_t window_of(lk_pretrained *p, int64_t layer) {
  const char *type = NULL;
  int64_t window;
  int qwen = !strncmp(lk_json_string(p->ctx, p->config, "model_type", ""), "qwen", 4);
  window = lk_config_int(p, "sliding_window", 0, INT64_MIN, INT64_MAX);
  if (window < 1) return 0;
  if (lk_json_is_string(lk_json_at(lk_json_get(p->config, "layer_types"), (size_t)layer), &type))
    return strcmp(type, "sliding_attention") ? 0 : window;
  if (!qwen) return window;
  int used = lk_json_bool(p->ctx, p->config, "use_sliding_window", 0);
  return used && layer >= lk_config_int(p, "max_window_layers", 28, 0, 1 << 20) ? window : 0;
}

static block *block_new(llama *l, lk_pretrained *p, const kin *k, int64_t number, int64_t inner, double eps) {
  char name[40];
  int bias = lk_json_bool(p->ctx, p->config, "attention_bias", 0);
  int mlp = lk_json_bool(p->ctx, p->config, "mlp_bias", 0) ? 0 : LK_NO_BIAS;
  int qkv = (k->qkv_bias < 0 ? bias : k->qkv_bias) ? 0 : LK_NO_BIAS;
  int o = (k->o_bias < 0 ? bias : k->o_bias) ? 0 : LK_NO_BIAS;
  int64_t width = p->width, queries = l->heads * p->head_width, keys = p->kv_heads * p->head_width;
  snprintf(name, sizeof name, "layers.%d", (int)number);
  block *b = lk_module_new(&l->module, name, "llama_block", sizeof *b);
  if (!b) return NULL;
  lk_module *m = &b->module;
  b->window = window_of(p, number);
  b->norm1 = lk_rms_norm_new(m, "input_layernorm", width, eps);
  b->q = lk_linear_new(m, "self_attn.q_proj", width, queries, qkv);
  b->k = lk_linear_new(m, "self_attn.k_proj", width, keys, qkv);
  b->v = lk_linear_new(m, "self_attn.v_proj", width, keys, qkv);
  b->o = lk_linear_new(m, "self_attn.o_proj", queries, width, o);
  if (k->head_norms) {
    b->q_norm = lk_rms_norm_new(m, "self_attn.q_norm", p->head_width, eps);
    b->k_norm = lk_rms_norm_new(m, "self_attn.k_norm", p->head_width, eps);
  }
  b->norm2 = lk_rms_norm_new(m, "post_attention_layernorm", width, eps);
  b->gate = lk_linear_new(m, "mlp.gate_proj", width, inner, mlp);
  b->up = lk_linear_new(m, "mlp.up_proj", width, inner, mlp);
  b->down = lk_linear_new(m, "mlp.down_proj", inner, width, mlp);
  return b;
}

static lk_status read_sizes(llama *l, lk_pretrained *p, const kin *k) {
  p->vocabulary = lk_config_int(p, "vocab_size", 32000, 1, 1 << 28);
  p->width = lk_config_int(p, "hidden_size", 4096, 1, 1 << 20);
  p->layers = lk_config_int(p, "num_hidden_layers", 32, 1, 1 << 12);
  p->most_tokens = lk_config_int(p, "max_position_embeddings", k->most_tokens, 1, 1 << 28);
  l->heads = lk_config_int(p, "num_attention_heads", 32, 1, 1 << 16);
  p->kv_heads = lk_config_int(p, "num_key_value_heads", l->heads, 1, 1 << 16);
  if (lk_error(p->ctx, NULL)) return lk_error(p->ctx, NULL);
  p->head_width = lk_config_int(p, "head_dim", p->width / l->heads, 1, 1 << 16);
  if (l->heads % p->kv_heads)
    return lk_fail(p->ctx, LK_EFORMAT, "num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                   (long long)l->heads, (long long)p->kv_heads);
  double dropout = lk_config_real(p, "attention_dropout", 0, 0, 0.999);
  l->attention_dropout = p->dropout ? dropout : 0;
  l->activation = lk_activation_find(p->ctx, lk_json_string(p->ctx, p->config, "hidden_act", "silu"));
  if (lk_error(p->ctx, NULL) || lk_rope_read(p, p->head_width, &l->rope)) return lk_error(p->ctx, NULL);
  if (l->rope.kind == LK_ROPE_DYNAMIC) p->most_tokens = 0; /* any length */
  return LK_OK;
}

static lk_status build(lk_pretrained *p) {
  lk_ctx *c = p->ctx;
  const kin *k = kins;
  while (strcmp(k->type, lk_json_string(c, p->config, "model_type", "llama"))) k++;
  llama *l = lk_module_new(lk_model_root(p->model), "model", "llama", sizeof *l);
  if (!l) return lk_error(c, NULL);
  l->module.destroy = destroy;
  p->impl = l;
  p->prefix = "model.";
  int64_t inner = lk_config_int(p, "intermediate_size", 11008, 1, 1 << 24);
  double eps = lk_config_real(p, "rms_norm_eps", 1e-6, 0, 1);
  if (read_sizes(l, p, k)) return lk_error(c, NULL);
  l->words = p->words = lk_embedding_new(&l->module, "embed_tokens", p->vocabulary, p->width);
  l->blocks = lk_alloc_array(c, (size_t)p->layers, sizeof *l->blocks);
  for (int64_t i = 0; i < p->layers && !lk_error(c, NULL); i++) l->blocks[i] = block_new(l, p, k, i, inner, eps);
  l->norm = lk_rms_norm_new(&l->module, "norm", p->width, eps);
  lk_module *root = lk_model_root(p->model);
  if (p->task == LK_TASK_CLASSIFY) l->head = lk_linear_new(root, "score", p->width, p->classes, LK_NO_BIAS);
  else l->head = lk_head_new(p, root, "lm_head", lk_is_tied(p, 0) ? l->words : NULL);
  return lk_error(c, NULL);
}

/* ---- forward ---- */

static lk_tensor heads_of(lk_tape *t, lk_tensor x, int64_t heads, lk_rms_norm_layer *norm) {
  x = lk_heads_split(t, x, heads);
  return norm ? lk_rms_norm_forward(norm, t, x) : x;
}

static lk_tensor attention(lk_pretrained *p, block *b, lk_tape *t, lk_tensor x, lk_tensor table, const lk_inputs *in,
                           int64_t layer) {
  llama *l = p->impl;
  const lk_attend options = {
      .mask = in->mask, .cache = in->cache, .layer = layer, .window = b->window, .dropout = l->attention_dropout};
  lk_tensor q = lk_rotary(t, heads_of(t, lk_linear_forward(b->q, t, x), l->heads, b->q_norm), table);
  lk_tensor k = lk_rotary(t, heads_of(t, lk_linear_forward(b->k, t, x), p->kv_heads, b->k_norm), table);
  lk_tensor v = heads_of(t, lk_linear_forward(b->v, t, x), p->kv_heads, NULL);
  return lk_linear_forward(b->o, t, lk_heads_join(t, lk_attend_causal(t, &options, q, k, v)));
}

static lk_tensor mlp(const llama *l, block *b, lk_tape *t, lk_tensor x) {
  lk_tensor gate = l->activation->forward(t, lk_linear_forward(b->gate, t, x));
  return lk_linear_forward(b->down, t, lk_mul(t, gate, lk_linear_forward(b->up, t, x)));
}

static lk_tensor block_forward(lk_pretrained *p, block *b, lk_tape *t, lk_tensor h, lk_tensor table,
                               const lk_inputs *in, int64_t layer) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)b, p->recompute);
  h = lk_add(t, h, attention(p, b, t, lk_rms_norm_forward(b->norm1, t, h), table, in, layer));
  h = lk_add(t, h, mlp(p->impl, b, t, lk_rms_norm_forward(b->norm2, t, h)));
  return lk_scope_end(t, scope, h);
}

static lk_tensor forward(lk_pretrained *p, lk_tape *t, const lk_inputs *in) {
  llama *l = p->impl;
  if (lk_check_tokens(p, t, in)) return lk_nil();
  int64_t past = in->cache ? lk_cache_length(in->cache) : 0, T = lk_size(t, in->ids, 1);
  uint32_t scope = lk_scope_begin(t, l->module.name, 0);
  lk_tensor table = lk_rope_table(&l->rope, t, lk_model_dtype(p->model), past, T);
  lk_tensor h = lk_embedding_forward(l->words, t, in->ids);
  for (int64_t i = 0; i < p->layers; i++) h = lk_after(t, h, block_forward(p, l->blocks[i], t, h, table, in, i));
  h = lk_scope_end(t, scope, lk_rms_norm_forward(l->norm, t, h));
  if (p->task == LK_TASK_CLASSIFY) h = lk_last_token(t, h, in->mask);
  else if (in->last) h = lk_last_place(t, h);
  return lk_linear_forward(l->head, t, h);
}

static const char *const types[] = {"llama", "mistral", "qwen2", "qwen3", NULL};
static const char *const heads[] = {"score.", NULL};
static const char *const unused[] = {"score.", "lm_head.", "*.rotary_emb.inv_freq", NULL};
const lk_family lk_family_llama = {.name = "llama",
                                   .model_types = types,
                                   .tasks = 1 << LK_TASK_LM | 1 << LK_TASK_CLASSIFY,
                                   .heads = heads,
                                   .unused = unused,
                                   .untied = 1,
                                   .targets = "q_proj,v_proj",
                                   .build = build,
                                   .initialise = lk_initialise_usual,
                                   .forward = forward};
