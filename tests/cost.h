/* cost.h: for suites that count work and memory: a small transformer of layers, and its training step.
 *
 *   x = the input, or words[ids];  each block:  x += attention(norm1(x)),  x += mlp(norm2(x));  logits = head(x of token 0) */
#ifndef TEST_COST_H
#define TEST_COST_H
#include "alloc.h"

#include <check.h>
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>
#include <lorikeet/optim.h>
#include <lorikeet/random.h>
#include <math.h>

enum { COST_LAYERS = 8, COST_MOST = 1 << 20 };

/* What there is to choose. */
typedef struct cost_shape {
  int64_t batch, tokens, width, heads, hidden, layers, classes;
  int causal;
  int only_first; /* the last block computes only what token 0 needs */
  int recompute;
  int64_t words; /* of an embedding in front; 0: none, x is given */
} cost_shape;

typedef struct cost_block {
  lk_module module;
  lk_layer_norm_layer *norm1, *norm2;
  lk_attention_layer *attention;
  lk_mlp_layer *mlp;
} cost_block;

typedef struct cost_net {
  cost_shape s;
  lk_model *model;
  lk_embedding_layer *embed;
  cost_block *blocks[COST_LAYERS];
  lk_linear_layer *head;
} cost_net;

static test_allocator heap;
static lk_ctx *ctx;
static lk_tape *t;

static inline void cost_setup(void) {
  ctx = test_ctx(&heap, 0);
  t = lk_tape_new(ctx);
  lk_tape_set_mode(t, LK_TAPE_LIVE); /* in a debug build too: no memory for checks */
}

static inline void cost_teardown(void) {
  lk_tape_free(t);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static inline void fine(const char *what) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s: %s", what, message);
}

static inline cost_net cost_new(cost_shape s) {
  cost_net n = {.s = s, .model = lk_model_new(ctx, LK_F32, 0)};
  lk_module *root = lk_model_root(n.model);
  if (s.words) n.embed = lk_embedding_new(root, "words", s.words, s.width);
  for (int i = 0; i < s.layers; i++) {
    char name[32];
    snprintf(name, sizeof name, "blocks.%d", i);
    cost_block *b = n.blocks[i] = lk_module_new(root, name, "block", sizeof *b);
    ck_assert_ptr_nonnull(b);
    b->norm1 = lk_layer_norm_new(&b->module, "norm1", s.width, 1e-6);
    b->attention = lk_attention_new(&b->module, "attention",
                                    &(lk_multi_head_options){.width = s.width, .heads = s.heads, .causal = s.causal});
    b->norm2 = lk_layer_norm_new(&b->module, "norm2", s.width, 1e-6);
    b->mlp = lk_mlp_new(&b->module, "mlp", &(lk_mlp_options){.width = s.width, .hidden = s.hidden});
  }
  n.head = lk_linear_new(root, "head", s.width, s.classes, 0);
  fine("net");
  return n;
}

static inline void cost_attach(const cost_net *n, const char *spec, const char *targets) {
  lk_attach_with(n->model, &(lk_attach_options){.spec = spec, .targets = targets, .modules_to_save = "head"});
  fine(spec);
}

static inline lk_tensor cost_first_token(lk_tensor x) { return lk_slice(t, x, 1, 0, 1, 1); }

static inline lk_tensor cost_block_forward(const cost_net *n, int i, lk_tensor x) {
  cost_block *b = n->blocks[i];
  int first = n->s.only_first && i + 1 == n->s.layers;
  uint32_t scope = lk_scope_begin(t, b->module.name, n->s.recompute ? LK_SCOPE_RECOMPUTE : 0);
  /* what is not needed any more is dropped: else it would live to the end of the block */
  lk_tensor h = lk_layer_norm_forward(b->norm1, t, x), y = lk_attention_forward(b->attention, t, h, lk_nil(), first);
  lk_drop(t, h);
  x = lk_add(t, first ? cost_first_token(x) : x, y);
  lk_drop(t, y);
  h = lk_layer_norm_forward(b->norm2, t, x);
  y = lk_mlp_forward(b->mlp, t, h);
  lk_drop(t, h);
  return lk_scope_end(t, scope, lk_add(t, x, y));
}

/* The input lies outside of the tape. */
static inline lk_tensor cost_input(const cost_net *n) {
  static float x[COST_MOST];
  static int64_t ids[COST_MOST];
  const int64_t shape[] = {n->s.batch, n->s.tokens, n->s.width};
  lk_view v;
  lk_view_init(&v, n->s.words ? LK_I64 : LK_F32, n->s.words ? 2 : 3, shape);
  ck_assert_int_le(lk_view_count(&v), COST_MOST);
  v.p = n->s.words ? (void *)ids : x;
  for (int64_t i = 0; i < lk_view_count(&v); i++)
    lk_view_set(&v, i, n->s.words ? (double)(i % n->s.words) : lk_random_normal(lk_key_make(3, "x"), (uint64_t)i));
  return lk_borrow(t, &v);
}

static inline lk_tensor cost_forward(const cost_net *n) {
  const int64_t flat[] = {n->s.batch, n->s.width};
  uint32_t scope = lk_scope_begin(t, "net", 0);
  lk_tensor x = cost_input(n);
  if (n->embed) x = lk_embedding_forward(n->embed, t, x);
  for (int i = 0; i < n->s.layers; i++) {
    lk_tensor y = cost_block_forward(n, i, x);
    lk_drop(t, x); /* else it would live to the end of the scope */
    x = y;
  }
  return lk_scope_end(t, scope, lk_linear_forward(n->head, t, lk_reshape(t, cost_first_token(x), 2, flat)));
}

/* The loss of labels 0, 1, ..., the adapters' own terms included. */
static inline lk_tensor cost_loss(const cost_net *n) {
  static int64_t labels[COST_MOST];
  lk_view v;
  lk_view_init(&v, LK_I64, 1, &n->s.batch);
  v.p = labels;
  for (int64_t i = 0; i < n->s.batch; i++) labels[i] = i % n->s.classes;
  lk_tensor loss = lk_cross_entropy(t, cost_forward(n), lk_borrow(t, &v), -100, 0);
  return lk_plus(t, loss, lk_adapter_loss(n->model, t));
}

/* Forward and backward of step number `step`; opt, unless NULL, updates what trains.  What the tape counted. */
static inline lk_tape_stats cost_train(const cost_net *n, uint64_t step, lk_optim *opt, float *loss) {
  lk_tape_reset(t);
  lk_train(t, step, 0);
  lk_tensor y = cost_loss(n);
  if (loss) *loss = (float)lk_item(t, y);
  lk_backward(t, y);
  if (opt) lk_step(opt);
  fine("training");
  return lk_tape_statistics(t);
}

static inline lk_tape_stats cost_infer(const cost_net *n) {
  lk_tape_reset(t);
  lk_no_grad(t, 1);
  cost_forward(n);
  lk_no_grad(t, 0);
  fine("inference");
  return lk_tape_statistics(t);
}

/* main's result */
static inline int cost_run(const char *name, TCase *c) {
  Suite *s = suite_create(name);
  tcase_set_timeout(c, 300);
  tcase_add_checked_fixture(c, cost_setup, cost_teardown);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}

#endif
