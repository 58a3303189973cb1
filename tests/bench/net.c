/* net.c: see net.h. */
#include "net.h"

#include "measure.h"

#include <stdio.h>
#include <string.h>

static const net_shapes models[] = {
    {"vit-b16", 768, 12, 3072, 12, 197, 0}, {"vit-s16", 384, 6, 1536, 12, 197, 0}, {"minilm", 384, 12, 1536, 6, 64, 0},
    {"gpt2", 768, 12, 3072, 12, 256, 1},    {"mlp", 64, 0, 64, 2, 0, 0},
};

int net_find(net *n, const char *name) {
  for (size_t i = 0; i < sizeof models / sizeof *models; i++)
    if (!strcmp(models[i].name, name)) n->s = models[i];
  return n->s.name != NULL;
}

/* ---- making ---- */

static void build(net *n) {
  char name[32];
  const net_shapes *s = &n->s;
  lk_module *root = lk_model_root(n->model);
  for (int64_t i = 0; i < s->layers; i++) {
    snprintf(name, sizeof name, s->heads ? "blocks.%lld" : "layers.%lld", (long long)i);
    if (!s->heads) {
      n->linear[i] = lk_linear_new(root, name, s->width, s->width, 0);
      continue;
    }
    net_block *k = n->blocks[i] = lk_module_new(root, name, "block", sizeof *k);
    lk_module *m = k ? &k->module : NULL;
    if (!m) return;
    k->norm1 = lk_layer_norm_new(m, "norm1", s->width, 1e-6);
    k->attention = lk_attention_new(
        m, "attention", &(lk_multi_head_options){.width = s->width, .heads = s->heads, .causal = s->causal});
    k->norm2 = lk_layer_norm_new(m, "norm2", s->width, 1e-6);
    k->mlp = lk_mlp_new(m, "mlp", &(lk_mlp_options){.width = s->width, .hidden = s->hidden});
  }
  n->head = lk_linear_new(root, "head", s->width, NET_CLASSES, 0);
}

lk_status net_open(net *n) {
  int64_t count = n->batch * (n->s.heads ? n->s.seq : 1) * n->s.width;
  n->model = lk_model_new(n->ctx, LK_F32, 0);
  if (!n->model) return lk_error(n->ctx, NULL);
  build(n);
  n->x = lk_alloc_array(n->ctx, (size_t)count, sizeof *n->x);
  n->labels = lk_alloc_array(n->ctx, (size_t)n->batch, sizeof *n->labels);
  if (lk_error(n->ctx, NULL)) return lk_error(n->ctx, NULL);
  lk_key key = lk_key_make(1, "input");
  for (int64_t i = 0; i < count; i++) n->x[i] = (float)lk_random_normal(key, (uint64_t)i);
  for (int64_t i = 0; i < n->batch; i++) n->labels[i] = i % NET_CLASSES;
  return LK_OK;
}

void net_close(net *n) {
  lk_free(n->ctx, n->x);
  lk_free(n->ctx, n->labels);
  lk_model_free(n->model);
}

lk_status net_attach(net *n, const char *spec, const char *targets) {
  lk_attach_options o = {.spec = spec, .targets = targets, .modules_to_save = n->s.heads ? "head" : NULL};
  return lk_attach_with(n->model, &o);
}

/* ---- running ---- */

/* The token that the head reads. */
static lk_tensor one_token(const net *n, lk_tape *t, lk_tensor x) {
  return lk_slice(t, x, 1, n->s.causal ? n->s.seq - 1 : 0, 1, 1);
}

static lk_tensor block_forward(net *n, int64_t i, lk_tape *t, lk_tensor x) {
  net_block *k = n->blocks[i];
  int one = n->one_token && i + 1 == n->s.layers, queries = !one ? 0 : n->s.causal ? -1 : 1;
  uint32_t scope = lk_scope_begin(t, k->module.name, n->recompute ? LK_SCOPE_RECOMPUTE : 0);
  lk_tensor y = lk_attention_forward(k->attention, t, lk_layer_norm_forward(k->norm1, t, x), lk_nil(), queries);
  x = lk_add(t, one ? one_token(n, t, x) : x, y);
  x = lk_add(t, x, lk_mlp_forward(k->mlp, t, lk_layer_norm_forward(k->norm2, t, x)));
  return lk_scope_end(t, scope, x);
}

static lk_tensor forward(net *n, lk_tape *t) {
  const net_shapes *s = &n->s;
  const int64_t shape[] = {n->batch, s->seq, s->width}, flat[] = {n->batch, s->width};
  lk_view v;
  lk_view_init(&v, LK_F32, s->heads ? 3 : 2, s->heads ? shape : flat);
  v.p = n->x;
  uint32_t scope = lk_scope_begin(t, "net", 0);
  lk_tensor x = lk_borrow(t, &v);
  for (int64_t i = 0; i < s->layers; i++) {
    lk_tensor y = s->heads ? block_forward(n, i, t, x) : lk_relu(t, lk_linear_forward(n->linear[i], t, x));
    lk_drop(t, x); /* else every block's result would live to the end of the scope */
    x = y;
  }
  if (s->heads) x = lk_reshape(t, n->one_token ? x : one_token(n, t, x), 2, flat);
  return lk_scope_end(t, scope, lk_linear_forward(n->head, t, x));
}

double net_step(net *n, lk_tape *t, lk_optim *opt, int64_t number) {
  double start = measure_now();
  lk_tape_reset(t);
  if (opt) {
    lk_train(t, (uint64_t)number, 0);
    lk_tensor labels = lk_input(t, LK_I64, 1, &n->batch, n->labels);
    lk_tensor loss = lk_cross_entropy(t, forward(n, t), labels, -100, 0);
    lk_backward(t, lk_plus(t, loss, lk_adapter_loss(n->model, t)));
    lk_step(opt);
  } else {
    lk_no_grad(t, 1);
    forward(n, t);
  }
  return measure_now() - start;
}

/* Of the last block only keys and values are of all tokens, when one_token. */
static double spared_share(const net *n) {
  double d = (double)n->s.width, f = (double)n->s.hidden, all = 4 * d * d + 2 * d * f;
  return n->one_token ? (all - 2 * d * d) / all / (double)n->s.layers * (1 - 1 / (double)n->s.seq) : 0;
}

double net_flops(const net *n, int full, int infer, int64_t trained) {
  const net_shapes *s = &n->s;
  double rows = (double)(n->batch * (s->heads ? s->seq : 1)), d = (double)s->width, f = (double)s->hidden;
  if (!s->heads) {
    double linear = 2 * rows * ((double)s->layers * d * d + d * NET_CLASSES);
    return infer  ? linear
           : full ? 3 * linear - 2 * rows * d * d
                  : 2 * linear - 2 * rows * d * d + 6 * rows * (double)trained;
  }
  double linear = 2 * rows * (4 * d * d + 2 * d * f) * (double)s->layers * (1 - spared_share(n));
  double block = (s->causal ? 0.5 : 1) * 4 * rows * (double)s->seq * d; /* of attention, forward */
  double scores = block * ((double)s->layers - n->one_token);
  if (infer) return linear + scores;
  double back = linear - (full ? 0 : 2 * rows * 3 * d * d); /* gradients of inputs; norm1 may need the first block's */
  double attention = 3 * scores - (full ? 0 : block / 2);
  double adapters = full ? linear : 6 * rows * (double)trained; /* of weights; forward and both gradients of A, B */
  return linear + back + attention + adapters;
}
