/* test_cost.c: the products of a step, counted, equal a formula of the shapes: nothing is computed that nobody wants;
 * and they grow with batch and layers as they must.  (tests/test_bytes.c counts memory.) */
#include "cost.h"

#include <lorikeet/pretrained.h>
#include <lorikeet/quantise.h>
#include <lorikeet/vit.h>

/* ---- formulas: operations, 2 for each multiplication and addition of a product ---- */

enum {
  NOTHING,
  LAST,
  QV,
  ALL,
  FULL
}; /* what trains: inference; LoRA on the last block's, all blocks' query and value,
                                          on all linear layers; everything */
enum { RANK = 3 };

/* y = x W^T; the gradients of x and W, if they are wanted. */
static double linear(double rows, double in, double out, int gx, int gW) { return 2 * rows * in * out * (1 + gx + gW); }

/* The same with W frozen and LoRA beside it: h = x A^T, y += h B^T; gB, gh, gA, and gx through A too. */
static double adapted(double rows, double in, double out, int gx) {
  return linear(rows, in, out, gx, 0) + 2 * rows * RANK * (in + out) + 2 * rows * RANK * (2 * out + in + gx * in);
}

/* pairs of query and key, of all heads and samples: q k^T and P v, d wide; in backward gq and gk, gv, gP = gy v^T.  (That
 * backward makes q k^T again is the op's own way of saving memory, and not counted.) */
static double attention(double pairs, double d, int gq, int gk, int gv) {
  return 2 * pairs * d * (2 + gq + gk + gv + (gq || gk));
}

enum { FROZEN, LORA, WHOLE };

static double run_forward(int how, double rows, double in, double out) {
  return linear(rows, in, out, 0, 0) + (how == LORA ? 2 * rows * RANK * (in + out) : 0);
}

static double run(int how, double rows, double in, double out, int gx) {
  return how == LORA ? adapted(rows, in, out, gx) : linear(rows, in, out, gx, how == WHOLE);
}

/* Block number b.  Of its input nobody wants the gradient if nothing before it trains; but the norm's result does when
 * the norm trains. */
static double block(const cost_shape *s, int what, int b) {
  int last = b + 1 == s->layers, trains = what != NOTHING && (what != LAST || last);
  int gh = what == FULL || (trains && what != LAST && b > 0), gk = gh || what == ALL;
  int qv = !trains ? FROZEN : what == FULL ? WHOLE : LORA, rest = qv == LORA && what != ALL ? FROZEN : qv;
  double n = (double)s->batch, T = (double)s->tokens, d = (double)s->width, f = (double)s->hidden;
  double rows = n * T, queries = s->only_first && last ? n : rows;
  double seen = s->only_first && last ? (s->causal ? 1 : T) : s->causal ? T * (T + 1) / 2 : T * T;
  double flops = run(qv, queries, d, d, gh) + run(rest, rows, d, d, gh) + run(qv, rows, d, d, gh) +
                 attention(n * seen, d, trains, gk, trains) + run(rest, queries, d, d, trains) +
                 run(rest, queries, d, f, trains) + run(rest, queries, f, d, trains);
  if (!s->recompute || !trains) return flops;
  /* once more, but not the last layer, whose result nobody reads; of its LoRA only h */
  return flops + run_forward(qv, queries, d, d) + run_forward(rest, rows, d, d) + run_forward(qv, rows, d, d) +
         attention(n * seen, d, 0, 0, 0) + run_forward(rest, queries, d, d) + run_forward(rest, queries, d, f) +
         (rest == LORA ? 2 * queries * RANK * f : 0);
}

/* What LoRA on all linear layers but the head adds to inference. */
static double adapters_forward(const cost_shape *s) {
  double rows = (double)(s->batch * s->tokens), d = (double)s->width, f = (double)s->hidden;
  return (double)s->layers * 2 * rows * RANK * (4 * (d + d) + 2 * (d + f));
}

/* The whole net; its head trains whole. */
static double formula(const cost_shape *s, int what) {
  double flops = linear((double)s->batch, (double)s->width, (double)s->classes, what != NOTHING, what != NOTHING);
  for (int b = 0; b < s->layers; b++) flops += block(s, what, b);
  return flops;
}

/* ---- the net ---- */

static void attach(lk_model *model, int what, const char *targets, const char *head) {
  if (what == NOTHING || what == FULL) return;
  lk_attach_with(model, &(lk_attach_options){.spec = "lora r=3",
                                             .targets = what == ALL ? "all-linear" : targets,
                                             .modules_to_save = head});
  fine("attaching");
}

static lk_tape_stats measure(cost_shape s, int what) {
  cost_net n = cost_new(s);
  char last[80];
  snprintf(last, sizeof last, "blocks.%d.attention.query,blocks.%d.attention.value", (int)s.layers - 1,
           (int)s.layers - 1);
  attach(n.model, what, what == LAST ? last : "query,value", "head");
  lk_tape_stats stats = {0};
  for (uint64_t step = 0; step < 2; step++) stats = what == NOTHING ? cost_infer(&n) : cost_train(&n, step, NULL, NULL);
  lk_model_free(n.model);
  return stats;
}

static const cost_shape small = {
    .batch = 2, .tokens = 7, .width = 24, .heads = 3, .hidden = 40, .layers = 3, .classes = 5};

/* Every bit of _i is a choice. */
START_TEST(products) {
  cost_shape s = small;
  s.causal = _i & 1;
  s.only_first = _i >> 1 & 1;
  s.recompute = _i >> 2 & 1;
  s.words = _i >> 3 & 1 ? 11 : 0;
  for (int what = NOTHING; what <= FULL; what++) {
    double counted = measure(s, what).flops, want = formula(&s, what);
    ck_assert_msg(counted == want,
                  "causal %d, only_first %d, recompute %d, words %d, what %d: %.0f, should be %.0f (%+.0f)", s.causal,
                  s.only_first, s.recompute, (int)s.words, what, counted, want, counted - want);
  }
}
END_TEST

/* A weight without any layer before it that trains is not passed by a gradient: with norm1 of block 0 frozen too, the
 * query, key and value of a net that trains otherwise give none to their input. */
START_TEST(frozen_norm) {
  cost_net n = cost_new(small);
  lk_set_requires_grad(&n.blocks[0]->norm1->module, 0);
  double rows = (double)(small.batch * small.tokens), d = (double)small.width;
  double want = formula(&small, FULL) - 3 * 2 * rows * d * d;
  ck_assert_double_eq(cost_train(&n, 0, NULL, NULL).flops, want);
  lk_model_free(n.model);
}
END_TEST

/* Codes are decoded, which is no product; and dropout draws. */
START_TEST(quantised) {
  cost_net n = cost_new(small);
  lk_model_quantise(n.model, &(lk_quantise_options){.kind = _i ? LK_QUANT_NF4 : LK_QUANT_INT8, .exclude = "head"});
  cost_attach(&n, "lora r=3 dropout=0.1", "all-linear");
  ck_assert_double_eq(cost_train(&n, 0, NULL, NULL).flops, formula(&small, ALL));
  ck_assert_double_eq(cost_infer(&n).flops, formula(&small, NOTHING) + adapters_forward(&small));
  lk_model_free(n.model);
}
END_TEST

/* ---- the models ---- */

START_TEST(vision_transformer) {
  const lk_vit_config c = {.image_size = 12,
                           .patch_size = 4,
                           .channels = 2,
                           .hidden_size = 24,
                           .layers = 2,
                           .heads = 3,
                           .intermediate_size = 40,
                           .classes = 5,
                           .layer_norm_eps = 1e-6,
                           .initializer_range = 0.02,
                           .hidden_act = "gelu",
                           .qkv_bias = 1};
  cost_shape s = small;
  s.layers = 2;
  s.tokens = 1 + 9;
  for (int what = NOTHING; what <= FULL; what++) {
    if (what == LAST) continue;
    lk_model *model = lk_model_new(ctx, LK_F32, 0);
    lk_vit *v = lk_vit_new(model, &c);
    v->all_tokens = _i & 1;
    lk_vit_set_recompute(v, _i & 2 ? LK_VIT_RECOMPUTE_BLOCKS : LK_VIT_KEEP);
    s.only_first = !v->all_tokens;
    s.recompute = v->blocks[0]->recompute;
    attach(model, what, "query,value", "classifier");
    lk_tape_reset(t);
    lk_no_grad(t, what == NOTHING);
    lk_tensor x = lk_input(t, LK_F32, 4, (int64_t[]){s.batch, 2, 12, 12}, NULL);
    lk_tensor y = lk_cross_entropy(t, lk_vit_forward(v, t, x), lk_input(t, LK_I64, 1, &s.batch, NULL), -100, 0);
    lk_no_grad(t, 0);
    if (what != NOTHING) lk_backward(t, y);
    fine("vit");
    double patches = linear((double)s.batch * 9, 2 * 4 * 4, 24, 0, what == FULL), is = lk_tape_statistics(t).flops;
    ck_assert_msg(is == formula(&s, what) + patches, "what %d: %.0f, should be %.0f", what, is,
                  formula(&s, what) + patches);
    lk_model_free(model);
  }
}
END_TEST

/* HuggingFace's: heads of queries and, fewer, of keys; q, k and v apart or in one layer; an MLP with or without a gate. */
typedef struct {
  const char *json, *targets, *head;
  lk_task task;
  int causal, fused, gated, saved; /* saved: the head trains with an adapter */
  double kv_heads, outputs;
} family;

static const family families[] = {
    {"{\"model_type\": \"llama\", \"vocab_size\": 11, \"hidden_size\": 24, \"intermediate_size\": 40, "
     "\"num_hidden_layers\": 3, "
     "\"num_attention_heads\": 6, \"num_key_value_heads\": 2}",
     "q_proj,v_proj", "lm_head", LK_TASK_LM, 1, 0, 1, 1, 2, 11},
    {"{\"model_type\": \"gpt2\", \"vocab_size\": 11, \"n_embd\": 24, \"n_inner\": 40, \"n_layer\": 3, \"n_head\": 6}",
     "c_attn", NULL, LK_TASK_LM, 1, 1, 0, 0, 6, 11},
    {"{\"model_type\": \"bert\", \"vocab_size\": 11, \"hidden_size\": 24, \"intermediate_size\": 40, "
     "\"num_hidden_layers\": 3, "
     "\"num_attention_heads\": 6}",
     "query,value", "classifier", LK_TASK_CLASSIFY, 0, 0, 0, 1, 6, 2}};
enum { FAMILIES = sizeof families / sizeof *families, N = 2, T = 7, WIDTH = 24, HEADS = 6, HIDDEN = 40, BLOCKS = 3 };

static double family_block(const family *m, int what, int b) {
  int trains = what != NOTHING, gh = what == FULL || (trains && b > 0), gk = gh || what == ALL || (trains && m->fused);
  int qv = !trains ? FROZEN : what == FULL ? WHOLE : LORA, rest = what == QV ? FROZEN : qv;
  int one = m->task == LK_TASK_CLASSIFY && b + 1 == BLOCKS; /* the classifier reads the first token */
  double rows = N * T, queries = one ? N : rows, d = WIDTH, keys = d / HEADS * m->kv_heads;
  double flops = attention(N * (one ? T : m->causal ? T * (T + 1) / 2 : T * T), d, trains, gk, trains);
  if (m->fused) flops += run(qv, rows, d, 3 * d, gh);
  else flops += run(qv, queries, d, d, gh) + run(rest, rows, d, keys, gh) + run(qv, rows, d, keys, gh);
  return flops + run(rest, queries, d, d, trains) + (m->gated + 1) * run(rest, queries, d, HIDDEN, trains) +
         run(rest, queries, HIDDEN, d, trains);
}

static double family_formula(const family *m, int what) {
  int trains = what != NOTHING, head = what == FULL || m->saved ? trains : 0;
  double rows = m->task == LK_TASK_LM ? N * T : N, flops = linear(rows, WIDTH, m->outputs, trains, head);
  if (m->task == LK_TASK_CLASSIFY)
    flops += run(!trains ? FROZEN : what == FULL ? WHOLE : what == ALL ? LORA : FROZEN, N, WIDTH, WIDTH, trains);
  for (int b = 0; b < BLOCKS; b++) flops += family_block(m, what, b);
  return flops;
}

START_TEST(pretrained) {
  const family *m = &families[_i];
  static const int64_t ids[N * T] = {3, 7, 1, 10, 4};
  lk_json *config = lk_json_parse(ctx, m->json, strlen(m->json), "config");
  for (int what = NOTHING; what <= FULL; what++) {
    if (what == LAST) continue;
    lk_model *model = lk_model_new(ctx, LK_F32, 0);
    lk_pretrained *p = lk_pretrained_new(model, config, &(lk_pretrained_options){.task = m->task});
    fine("pretrained");
    attach(model, what, m->targets, m->head);
    lk_tape_reset(t);
    lk_no_grad(t, what == NOTHING);
    lk_tensor y = lk_pretrained_forward(p, t, &(lk_inputs){.ids = lk_input(t, LK_I64, 2, (int64_t[]){N, T}, ids)});
    y = lk_mean(t, y, 0, NULL, 0);
    lk_no_grad(t, 0);
    if (what != NOTHING) lk_backward(t, y);
    fine("pretrained");
    double is = lk_tape_statistics(t).flops, want = family_formula(m, what);
    ck_assert_msg(is == want, "%s, what %d: %.0f, should be %.0f, %+.0f", lk_pretrained_family(p), what, is, want,
                  is - want);
    lk_model_free(model);
  }
  lk_json_free(config);
}
END_TEST

/* ---- growth ---- */

/* Twice as much more of something costs twice as much more. */
START_TEST(growth) {
  cost_shape s = small;
  s.recompute = _i & 1;
  for (int what = NOTHING; what <= FULL; what++)
    for (int axis = 0; axis < 2; axis++) {
      double flops[3];
      for (int k = 0; k < 3; k++) {
        cost_shape larger = s;
        *(axis ? &larger.layers : &larger.batch) += k * 2;
        flops[k] = measure(larger, what).flops;
      }
      ck_assert(flops[1] > flops[0]);
      ck_assert_double_eq(flops[2] - flops[1], flops[1] - flops[0]);
    }
}
END_TEST

int main(void) {
  TCase *c = tcase_create("cost");
  tcase_add_loop_test(c, products, 0, 16);
  tcase_add_test(c, frozen_norm);
  tcase_add_loop_test(c, quantised, 0, 2);
  tcase_add_loop_test(c, vision_transformer, 0, 4);
  tcase_add_loop_test(c, pretrained, 0, FAMILIES);
  tcase_add_loop_test(c, growth, 0, 2);
  return cost_run("cost", c);
}
