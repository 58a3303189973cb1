/* bert.c: BERT (Devlin et al., arXiv 1810.04805) and RoBERTa (Liu et al., arXiv 1907.11692): classification, masked
 * tokens, sentence embeddings; tensor names and config.json of HuggingFace's BertFor... and RobertaFor...
 *
 *   h = LN(words[ids] + types[t] + positions[0 ...])
 *   each block:  h = LN(h + attention(h)),  h = LN(h + down(act(up(h)))) */
#include "models/family.h"

#include <stdio.h>
#include <string.h>

typedef struct {
  lk_module module;
  lk_attention_layer *attention;
  lk_layer_norm_layer *norm1, *norm2;
  lk_mlp_layer *mlp;
} block;

typedef struct {
  lk_module module;
  int roberta;
  double dropout, head_dropout;
  int64_t positions_most, pad;
  lk_embedding_layer *words, *positions, *types;
  lk_layer_norm_layer *norm;
  block **blocks;
  lk_linear_layer *pooler;        /* BERT's classifier */
  lk_linear_layer *dense, *out;   /* of the head */
  lk_layer_norm_layer *head_norm; /* of the masked tokens' head */
} bert;

/* ---- modules ---- */

static void destroy(lk_module *m) { lk_free(m->ctx, ((bert *)m)->blocks); }

static block *block_new(bert *b, lk_pretrained *p, int64_t number, const lk_multi_head_options *attention,
                        const lk_mlp_options *mlp, double eps) {
  char name[40];
  snprintf(name, sizeof name, "encoder.layer.%d", (int)number);
  block *k = lk_module_new(&b->module, name, "bert_block", sizeof *k);
  if (!k) return NULL;
  k->attention = lk_attention_new(&k->module, "attention", attention);
  k->norm1 = lk_layer_norm_new(&k->module, "attention.output.LayerNorm", p->width, eps);
  k->mlp = lk_mlp_new(&k->module, "mlp", mlp);
  k->norm2 = lk_layer_norm_new(&k->module, "output.LayerNorm", p->width, eps);
  return k;
}

static void blocks_new(bert *b, lk_pretrained *p, double eps) {
  lk_ctx *c = b->module.ctx;
  double attention_dropout = lk_config_real(p, "attention_probs_dropout_prob", 0.1, 0, 0.999);
  const lk_multi_head_options attention = {.width = p->width,
                                           .heads = lk_config_int(p, "num_attention_heads", 12, 1, 1 << 16),
                                           .query = "self.query",
                                           .key = "self.key",
                                           .value = "self.value",
                                           .output = "output.dense",
                                           .dropout = p->dropout ? attention_dropout : 0,
                                           .output_dropout = b->dropout};
  const lk_mlp_options mlp = {.width = p->width,
                              .hidden = lk_config_int(p, "intermediate_size", 3072, 1, 1 << 24),
                              .up = "intermediate.dense",
                              .down = "output.dense",
                              .activation = lk_json_string(c, p->config, "hidden_act", "gelu"),
                              .flags = LK_NAMELESS,
                              .dropout = b->dropout};
  b->blocks = lk_alloc_array(c, (size_t)p->layers, sizeof *b->blocks);
  for (int64_t i = 0; i < p->layers && b->blocks && !lk_error(c, NULL); i++)
    b->blocks[i] = block_new(b, p, i, &attention, &mlp, eps);
}

/* The decoder of a tied head has the bias of the module above it. */
static void decoder_new(bert *b, lk_pretrained *p, lk_module *m) {
  int tied = lk_is_tied(p, 1);
  lk_param *bias = tied && m ? lk_module_param(m, "bias", 1, &p->vocabulary) : NULL;
  lk_linear_layer *l = b->out = lk_head_new(p, m, "decoder", tied ? b->words : NULL);
  if (!l) return;
  if (!tied) bias = lk_module_param(&l->module, "bias", 1, &p->vocabulary);
  l->bias = l->module.site->bias = bias;
}

static void head_new(bert *b, lk_pretrained *p, double eps) {
  lk_module *root = lk_model_root(p->model);
  if (p->task == LK_TASK_CLASSIFY && b->roberta) {
    lk_module *m = lk_module_new(root, "classifier", "roberta_head", sizeof *m);
    b->dense = lk_linear_new(m, "dense", p->width, p->width, 0);
    b->out = lk_linear_new(m, "out_proj", p->width, p->classes, 0);
  } else if (p->task == LK_TASK_CLASSIFY) {
    b->pooler = lk_linear_new(&b->module, "pooler.dense", p->width, p->width, 0);
    b->out = lk_linear_new(root, "classifier", p->width, p->classes, 0);
  } else if (p->task == LK_TASK_MASKED_LM) {
    lk_module *m = lk_module_new(root, b->roberta ? "lm_head" : "cls.predictions", "bert_head", sizeof *m);
    b->dense = lk_linear_new(m, b->roberta ? "dense" : "transform.dense", p->width, p->width, 0);
    b->head_norm = lk_layer_norm_new(m, b->roberta ? "layer_norm" : "transform.LayerNorm", p->width, eps);
    decoder_new(b, p, m);
  }
}

static lk_status build(lk_pretrained *p) {
  lk_module *root = lk_model_root(p->model);
  lk_ctx *c = root->ctx;
  int roberta = !strcmp(lk_json_string(c, p->config, "model_type", ""), "roberta");
  const char *name = roberta ? "roberta" : "bert", *positions = "absolute";
  /* sentence embeddings are of the bare model, whose paths begin with nothing */
  bert *b = lk_block_new(root, name, "bert", sizeof *b, p->task == LK_TASK_EMBED ? LK_NAMELESS : 0);
  if (!b) return lk_error(c, NULL);
  b->module.destroy = destroy;
  p->impl = b;
  p->prefix = roberta ? "roberta." : "bert.";
  p->vocabulary = lk_config_int(p, "vocab_size", 30522, 1, 1 << 28);
  p->width = lk_config_int(p, "hidden_size", 768, 1, 1 << 20);
  p->layers = lk_config_int(p, "num_hidden_layers", 12, 1, 1 << 12);
  int64_t most = lk_config_int(p, "max_position_embeddings", 512, 1, 1 << 24);
  int64_t types = lk_config_int(p, "type_vocab_size", 2, 1, 1 << 16);
  double eps = lk_config_real(p, "layer_norm_eps", 1e-12, 0, 1);
  double dropout = lk_config_real(p, "hidden_dropout_prob", 0.1, 0, 0.999);
  double head_dropout = lk_config_real(p, "classifier_dropout", dropout, 0, 0.999);
  positions = lk_json_string(c, p->config, "position_embedding_type", positions);
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  if (strcmp(positions, "absolute") != 0)
    return lk_fail(c, LK_EFORMAT, "position_embedding_type '%.40s' is not supported; 'absolute' is", positions);
  if (p->pad < 0) p->pad = roberta ? 1 : 0;
  if (p->pad >= p->vocabulary)
    return lk_fail(c, LK_EFORMAT, "pad_token_id is %lld, and vocab_size %lld", (long long)p->pad,
                   (long long)p->vocabulary);
  b->roberta = roberta;
  b->pad = p->pad;
  b->dropout = p->dropout ? dropout : 0;
  b->head_dropout = p->dropout ? head_dropout : 0;
  p->most_tokens = roberta ? most - p->pad - 1 : most;
  if (p->most_tokens < 1)
    return lk_fail(c, LK_EFORMAT, "max_position_embeddings is %lld, and positions begin at %lld", (long long)most,
                   (long long)p->pad + 1);
  lk_module *m = &b->module;
  b->words = p->words = lk_embedding_new(m, "embeddings.word_embeddings", p->vocabulary, p->width);
  b->positions = lk_embedding_new(m, "embeddings.position_embeddings", most, p->width);
  b->types = lk_embedding_new(m, "embeddings.token_type_embeddings", types, p->width);
  b->norm = lk_layer_norm_new(m, "embeddings.LayerNorm", p->width, eps);
  blocks_new(b, p, eps);
  if (!lk_error(c, NULL)) head_new(b, p, eps);
  return lk_error(c, NULL);
}

/* ---- forward ---- */

/* 0, 1, ... ; RoBERTa counts from the padding's id + 1, and only tokens that are no padding. */
static lk_tensor positions_of(const bert *b, lk_tape *t, lk_tensor ids) {
  lk_view v, to;
  if (lk_get(t, ids, &v)) return lk_nil();
  lk_tensor result = lk_input(t, LK_I64, 2, v.shape, NULL);
  if (lk_get(t, result, &to)) return lk_nil();
  for (int64_t r = 0; r < v.shape[0]; r++)
    for (int64_t i = 0, seen = 0; i < v.shape[1]; i++) {
      int64_t k = r * v.shape[1] + i;
      int real = (int64_t)lk_view_get(&v, k) != b->pad;
      seen += real;
      ((int64_t *)to.p)[k] = !b->roberta ? i : real ? b->pad + seen : b->pad;
    }
  return result;
}

static lk_tensor embed(lk_pretrained *p, bert *b, lk_tape *t, const lk_inputs *in) {
  const int64_t shape[] = {lk_size(t, in->ids, 0), lk_size(t, in->ids, 1)};
  if (shape[1] > p->most_tokens) {
    lk_fail(lk_tape_ctx(t), LK_ESHAPE, "rows of %lld tokens; the model takes %lld", (long long)shape[1],
            (long long)p->most_tokens);
    return lk_nil();
  }
  lk_tensor types = lk_is_nil(in->types) ? lk_input(t, LK_I64, 2, shape, NULL) : in->types;
  lk_tensor h = lk_embedding_forward(b->words, t, in->ids);
  h = lk_add(t, h, lk_embedding_forward(b->types, t, types));
  h = lk_add(t, h, lk_embedding_forward(b->positions, t, positions_of(b, t, in->ids)));
  return lk_dropout(t, lk_layer_norm_forward(b->norm, t, h), b->dropout);
}

/* only_first: of the first token, which is all that the classifier reads of the last block. */
static lk_tensor block_forward(block *k, lk_tape *t, lk_tensor h, lk_tensor mask, int only_first, int recompute) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)k, recompute);
  lk_tensor y = lk_attention_forward(k->attention, t, h, mask, only_first);
  h = lk_layer_norm_forward(k->norm1, t, lk_add(t, only_first ? lk_slice(t, h, 1, 0, 1, 1) : h, y));
  h = lk_layer_norm_forward(k->norm2, t, lk_add(t, h, lk_mlp_forward(k->mlp, t, h)));
  return lk_scope_end(t, scope, h);
}

/* The first token's vector of each row, [N, width]. */
static lk_tensor first_token(lk_tape *t, lk_tensor h) { return lk_squeeze(t, lk_slice(t, h, 1, 0, 1, 1), 1); }

static lk_tensor classify(const bert *b, lk_tape *t, lk_tensor h) {
  h = first_token(t, h);
  if (b->roberta) h = lk_dropout(t, h, b->head_dropout);
  h = lk_tanh(t, lk_linear_forward(b->roberta ? b->dense : b->pooler, t, h));
  return lk_linear_forward(b->out, t, lk_dropout(t, h, b->head_dropout));
}

/* [N, T, width] -> [N, T, vocabulary]. */
static lk_tensor masked_lm(const bert *b, lk_pretrained *p, lk_tape *t, lk_tensor h) {
  const lk_activation *act = lk_activation_find(
      lk_tape_ctx(t), b->roberta ? "gelu" : lk_json_string(lk_tape_ctx(t), p->config, "hidden_act", "gelu"));
  if (!act) return lk_nil();
  h = lk_layer_norm_forward(b->head_norm, t, act->forward(t, lk_linear_forward(b->dense, t, h)));
  return lk_linear_forward(b->out, t, h);
}

/* Mean over the real tokens, to length 1. */
static lk_tensor sentence(lk_tape *t, lk_tensor h, lk_tensor mask) {
  static const int tokens = 1, width = -1;
  lk_tensor sum = lk_mean(t, h, 1, &tokens, 0);
  if (!lk_is_nil(mask)) { /* the factor of the mean is lost in the length */
    lk_view m;
    if (lk_get(t, mask, &m)) return lk_nil();
    lk_tensor weights = lk_input(t, lk_dtype_of(t, h), 2, m.shape, NULL);
    lk_view w;
    if (lk_get(t, weights, &w)) return lk_nil();
    for (int64_t i = 0; i < lk_view_count(&m); i++) lk_view_set(&w, i, lk_view_get(&m, i));
    sum = lk_sum(t, lk_mul(t, h, lk_unsqueeze(t, weights, 2)), 1, &tokens, 0);
  }
  lk_tensor length = lk_sqrt(t, lk_sum(t, lk_mul(t, sum, sum), 1, &width, 1));
  return lk_div(t, sum, length);
}

static lk_tensor forward(lk_pretrained *p, lk_tape *t, const lk_inputs *in) {
  bert *b = p->impl;
  uint32_t scope = lk_scope_begin(t, b->module.name, 0);
  lk_tensor mask = in->mask, h = embed(p, b, t, in);
  if (!lk_is_nil(mask)) mask = lk_unsqueeze(t, lk_unsqueeze(t, mask, 1), 1); /* [N, 1, 1, T] */
  for (int64_t i = 0; i < p->layers; i++) {
    int only_first = p->task == LK_TASK_CLASSIFY && i + 1 == p->layers;
    h = lk_after(t, h, block_forward(b->blocks[i], t, h, mask, only_first, p->recompute));
  }
  h = lk_scope_end(t, scope, h);
  if (p->task == LK_TASK_CLASSIFY) return classify(b, t, h);
  return p->task == LK_TASK_EMBED ? sentence(t, h, in->mask) : masked_lm(b, p, t, h);
}

static const char *const types[] = {"bert", "roberta", NULL};
static const char *const heads[] = {"classifier.", "cls.", "lm_head.", NULL};
static const char *const optional[] = {"bert.pooler.", NULL};
/* the pooler; and a name that the head's bias has besides its own */
static const char *const aside[] = {
    "pooler.", "bert.pooler.", "roberta.pooler.", "cls.predictions.decoder.bias", "lm_head.decoder.bias", NULL};
static const char *const unused[] = {"classifier.",
                                     "cls.",
                                     "lm_head.",
                                     "pooler.",
                                     "bert.pooler.",
                                     "roberta.pooler.",
                                     "embeddings.position_ids",
                                     "bert.embeddings.position_ids",
                                     "roberta.embeddings.position_ids",
                                     NULL};
const lk_family lk_family_bert = {.name = "bert",
                                  .model_types = types,
                                  .tasks = 1 << LK_TASK_CLASSIFY | 1 << LK_TASK_MASKED_LM | 1 << LK_TASK_EMBED,
                                  .optional = optional,
                                  .heads = heads,
                                  .unused = unused,
                                  .aside = aside,
                                  .targets = "query,value",
                                  .build = build,
                                  .initialise = lk_initialise_usual,
                                  .forward = forward};
