/* tiny.h: the model of golden/lora/interchange_*: an embedding, three blocks of one-headed attention and an MLP, a head.
 *
 *   x = embed[ids];  x += out(softmax(q k^T / sqrt 8) v), x += fc2(tanh(fc1(x))) in each block;  y = head(mean of x) */
#ifndef TEST_TINY_H
#define TEST_TINY_H
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>
#include <math.h>

enum { TINY_WORDS = 11, TINY_WIDTH = 8, TINY_HIDDEN = 12, TINY_CLASSES = 4, TINY_BLOCKS = 3 };

typedef struct tiny_block {
  lk_linear_layer *q, *k, *v, *out, *fc1, *fc2;
} tiny_block;

typedef struct tiny {
  lk_model *model;
  lk_embedding_layer *embed;
  tiny_block block[TINY_BLOCKS];
  lk_linear_layer *classifier;
} tiny;

static inline tiny_block tiny_block_new(lk_module *layers, int i) {
  char name[2] = {(char)('0' + i), 0};
  lk_module *m = lk_module_new(layers, name, "block", sizeof *m);
  lk_module *attn = lk_module_new(m, "attn", "attention", sizeof *attn);
  tiny_block b;
  b.q = lk_linear_new(attn, "q_proj", TINY_WIDTH, TINY_WIDTH, 0);
  b.k = lk_linear_new(attn, "k_proj", TINY_WIDTH, TINY_WIDTH, 0);
  b.v = lk_linear_new(attn, "v_proj", TINY_WIDTH, TINY_WIDTH, 0);
  b.out = lk_linear_new(attn, "out_proj", TINY_WIDTH, TINY_WIDTH, 0);
  b.fc1 = lk_linear_new(m, "fc1", TINY_WIDTH, TINY_HIDDEN, 0);
  b.fc2 = lk_linear_new(m, "fc2", TINY_HIDDEN, TINY_WIDTH, 0);
  return b;
}

/* m.model is NULL when there was no memory. */
static inline tiny tiny_new(lk_ctx *ctx, lk_dtype dtype) {
  tiny m = {.model = lk_model_new(ctx, dtype, 0)};
  lk_module *root = lk_model_root(m.model);
  lk_module *encoder = lk_module_new(root, "encoder", "encoder", sizeof *encoder);
  m.embed = lk_embedding_new(encoder, "embed", TINY_WORDS, TINY_WIDTH);
  lk_module *layers = lk_module_new(encoder, "layers", "list", sizeof *layers);
  for (int i = 0; i < TINY_BLOCKS; i++) m.block[i] = tiny_block_new(layers, i);
  m.classifier = lk_linear_new(root, "classifier", TINY_WIDTH, TINY_CLASSES, 0);
  return m;
}

static inline lk_tensor tiny_attention(const tiny_block *b, lk_tape *t, lk_tensor x) {
  lk_tensor q = lk_linear_forward(b->q, t, x), k = lk_linear_forward(b->k, t, x), v = lk_linear_forward(b->v, t, x);
  lk_tensor scores = lk_scale(t, lk_matmul(t, q, lk_transpose(t, k, 1, 2)), 1 / sqrt(TINY_WIDTH));
  return lk_linear_forward(b->out, t, lk_matmul(t, lk_softmax(t, scores, -1), v));
}

/* ids [N, T] -> [N, TINY_CLASSES] */
static inline lk_tensor tiny_forward(const tiny *m, lk_tape *t, lk_tensor ids) {
  lk_tensor x = lk_embedding_forward(m->embed, t, ids);
  for (int i = 0; i < TINY_BLOCKS; i++) {
    const tiny_block *b = &m->block[i];
    x = lk_add(t, x, tiny_attention(b, t, x));
    x = lk_add(t, x, lk_linear_forward(b->fc2, t, lk_tanh(t, lk_linear_forward(b->fc1, t, x))));
  }
  return lk_linear_forward(m->classifier, t, lk_mean(t, x, 1, (int[]){1}, 0));
}

/* Fills every parameter of an adapter's chains and copies with different numbers, so that nothing is a no-op. */
static inline void tiny_stir_params(lk_param *p, double *phase) {
  for (; p; p = p->next) {
    for (int64_t i = 0, n = lk_view_count(&p->value); i < n; i++)
      lk_view_set(&p->value, i, lk_view_get(&p->value, i) + 0.2 * sin(*phase += 0.7));
    lk_param_touch(p);
  }
}

static inline void tiny_stir_chain(lk_at *at, double *phase) {
  for (; at; at = at->next) {
    tiny_stir_params(at->params, phase);
    tiny_stir_chain(at->inner, phase);
  }
}

static inline void tiny_stir(lk_model *model, const char *name) {
  lk_adapter *a = lk_adapter_find(model, name);
  lk_module *root = lk_model_root(model);
  double phase = 0;
  if (!a) return;
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    for (lk_site_stack *s = m->site ? m->site->stacks : NULL; s; s = s->next)
      if (s->adapter == a) tiny_stir_chain(s->chain, &phase);
  tiny_stir_params(a->stand_ins, &phase);
}

#endif
