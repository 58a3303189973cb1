/* test_bytes.c: the peak memory of a step equals a formula of the shapes, byte by byte where sizes are multiples of the
 * tape's unit, and grows with batch, layers and tokens as it must.  (test_memory.c: the same gradients whatever is freed;
 * test_cost.c counts work.) */
#include "cost.h"

#include <lorikeet/pretrained.h>
#include <lorikeet/vit.h>

enum { INFER, QV, ALL, FULL, KINDS }; /* LoRA on query and value, on all linear layers; everything trains */
enum { RANK = 4, UNIT = 64 };

/* Every tensor is a multiple of the unit, and of less than LET_GO bytes, or of as many at least: results of cheap ops that
 * are so large are made again in backward (LK_OP_CHEAP). */
enum { LET_GO = 1 << 16 };
static const cost_shape sizes[] = {
    {.batch = 4, .tokens = 4, .width = 128, .heads = 2, .hidden = 480, .layers = 1, .classes = 16},
    {.batch = 8, .tokens = 32, .width = 64, .heads = 2, .hidden = 256, .layers = 1, .classes = 16}};

/* Bits of _i. */
static cost_shape chosen(int i) {
  cost_shape s = sizes[i >> 1 & 1];
  s.recompute = i & 1;
  return s;
}

static size_t peak(cost_shape s, int kind) {
  char spec[40];
  lk_set_threads(ctx, 1); /* scratch memory is made for each */
  cost_net n = cost_new(s);
  snprintf(spec, sizeof spec, "lora r=%d", RANK);
  if (kind == QV || kind == ALL) cost_attach(&n, spec, kind == QV ? "query,value" : "all-linear");
  for (uint64_t step = 0; step < 2 && kind != INFER; step++) cost_train(&n, step, NULL, NULL);
  size_t bytes = kind == INFER ? cost_infer(&n).peak : lk_tape_statistics(t).peak;
  lk_model_free(n.model);
  return bytes;
}

/* ---- a block ---- */

static size_t tokens_of(const cost_shape *s, int64_t each) {
  return (size_t)(s->batch * s->tokens * each) * sizeof(float);
}

/* Are norms' and gelu's results made again? */
static int lets_go(const cost_shape *s) { return !s->recompute && tokens_of(s, s->width) >= LET_GO; }

/* What a block keeps for backward, in numbers per token:
 *   x and x + attention(norm1(x)), which the norms read                              2 width
 *   q, k, v, which attention reads                                                   3 width
 *   fc1's result, which gelu reads                                                     hidden
 *   what A of the adapted layers, or the weight, reads: norm1(..), of query and value  width    or made again
 *     and for the other layers, attention's result                                     width
 *                               norm2(..) and gelu's result                  width + hidden    or made again
 *   A x of every adapted layer, which its B reads                                      rank each
 *   mean and 1 / deviation of the norms                                              4
 *   log of each head's sum of exponentials                                             heads
 * and nothing of what the frozen layers were given. */
static size_t kept(const cost_shape *s, int kind) {
  int64_t each = 5 * s->width + s->hidden + 4 + s->heads + RANK * (kind == QV ? 2 : kind == ALL ? 6 : 0);
  if (kind != QV) each += s->width;
  if (!lets_go(s)) each += kind == QV ? s->width : 2 * s->width + s->hidden;
  return tokens_of(s, each);
}

START_TEST(bytes_of_a_block) {
  for (int kind = QV; kind < KINDS; kind++)
    for (int layers = 1; layers < 4; layers++) {
      cost_shape a = chosen(_i), b = a;
      a.layers = layers, b.layers = layers + 1;
      size_t more = peak(b, kind) - peak(a, kind), want = a.recompute ? tokens_of(&a, a.width) : kept(&a, kind);
      if (a.recompute && layers == 1 && kind != FULL) want += tokens_of(&a, 2); /* see below */
      ck_assert_msg(more == want, "kind %d: layer %d takes %zu bytes, should be %zu", kind, layers + 1, more, want);
    }
}
END_TEST

/* The largest moment of backward, here fc2's of the last block.  Besides what is kept there are the gradients of gelu's
 * result (that of its argument will lie in the same memory), of fc2's, and of x + attention(norm1(x)); and gelu's result,
 * made again for fc2's weight or A.  In forward fc2 has as much around it: norm2's result, gelu's and its own, and a copy
 * of its weight, which products of this size make.
 * The first block's x is the caller's; with LoRA its norm1 has no backward: no mean and deviation, but it is not made
 * again either. */
START_TEST(peak_of_a_step) {
  for (int kind = QV; kind < KINDS; kind++)
    for (int size = 1; size < 3; size++) {
      cost_shape s = chosen(_i + 2); /* the large ones: products of few rows take memory of their own */
      s.batch *= size;
      size_t want = kept(&s, kind) - tokens_of(&s, s.width);
      want += tokens_of(&s, 2 * s.width + s.hidden);
      if (kind != FULL) want = want - tokens_of(&s, 2) + (lets_go(&s) ? tokens_of(&s, s.width) : 0);
      if (kind != QV && lets_go(&s)) want += tokens_of(&s, s.hidden);
      if (kind == QV && !s.recompute) want += (size_t)(s.width * s.hidden) * sizeof(float);
      /* and the logits, the loss and its gradient, the logarithms of cross entropy */
      size_t is = peak(s, kind), slack = (size_t)(s.batch * s.classes) * sizeof(float) + 3 * UNIT;
      ck_assert_msg(is >= want && is <= want + slack, "kind %d, size %d: %zu bytes, should be %zu, or %zu more at most",
                    kind, size, is, want, slack);
    }
}
END_TEST

/* Dropout in front of A gives each adapted layer an input of its own, which is kept. */
START_TEST(bytes_of_dropout) {
  size_t bytes[2];
  for (int k = 0; k < 2; k++) {
    cost_shape s = sizes[0];
    s.layers = 1 + k;
    cost_net n = cost_new(s);
    cost_attach(&n, "lora r=4 dropout=0.1", "query,value");
    bytes[k] = cost_train(&n, 0, NULL, NULL).peak;
    lk_model_free(n.model);
  }
  ck_assert_uint_eq(bytes[1] - bytes[0], kept(&sizes[0], QV) + tokens_of(&sizes[0], sizes[0].width));
}
END_TEST

/* ---- growth ---- */

/* Without gradients as much as the largest block takes, however many there are. */
START_TEST(inference_needs_one_block) {
  cost_shape s = sizes[1];
  s.layers = 2;
  size_t two = peak(s, INFER);
  s.layers = 8;
  ck_assert_uint_eq(peak(s, INFER), two);
}
END_TEST

/* The same of the models that come with the library, whose blocks are of one size. */
START_TEST(models_need_one_block) {
  static const char *const types[] = {"vit", "gpt2", "llama", "bert"};
  size_t bytes[2];
  for (int k = 0; k < 2; k++) {
    lk_model *model = lk_model_new(ctx, LK_F32, 0);
    lk_tensor y = lk_nil();
    int64_t layers = k ? 9 : 3;
    lk_tape_reset(t);
    lk_no_grad(t, 1);
    if (!_i) {
      lk_vit_config c;
      lk_vit_preset(ctx, "vit-tiny-28", &c);
      c.layers = layers;
      lk_vit *v = lk_vit_new(model, &c);
      y = lk_vit_forward(v, t, lk_input(t, LK_F32, 4, (int64_t[]){8, 1, 28, 28}, NULL));
    } else {
      char text[300];
      int n =
          snprintf(text, sizeof text,
                   "{\"model_type\": \"%s\", \"vocab_size\": 32, \"%s\": 64, \"%s\": %d, \"%s\": 4, \"%s\": 128}",
                   types[_i], _i == 1 ? "n_embd" : "hidden_size", _i == 1 ? "n_layer" : "num_hidden_layers",
                   (int)layers, _i == 1 ? "n_head" : "num_attention_heads", _i == 1 ? "n_inner" : "intermediate_size");
      lk_json *config = lk_json_parse(ctx, text, (size_t)n, types[_i]);
      lk_pretrained *p = lk_pretrained_new(model, config, &(lk_pretrained_options){.task = LK_TASK_CLASSIFY});
      lk_json_free(config);
      y = lk_pretrained_forward(p, t, &(lk_inputs){.ids = lk_input(t, LK_I64, 2, (int64_t[]){8, 16}, NULL)});
    }
    lk_no_grad(t, 0);
    ck_assert(!lk_is_nil(y));
    fine(types[_i]);
    bytes[k] = lk_tape_statistics(t).peak;
    lk_model_free(model);
  }
  ck_assert_msg(bytes[0] == bytes[1], "%s: %zu bytes with 3 blocks, %zu with 9", types[_i], bytes[0], bytes[1]);
}
END_TEST

/* Steps of the same size along an axis add the same bytes: exactly where each tensor is a multiple of the unit.  With odd
 * sizes each tensor that is alive, fewer than 24 in a block and elsewhere, is rounded up by less than a unit, and the
 * second difference counts four of them. */
START_TEST(growth) {
  static const cost_shape odd = {
      .batch = 3, .tokens = 33, .width = 36, .heads = 3, .hidden = 90, .layers = 2, .classes = 5};
  for (int kind = INFER; kind < KINDS; kind++)
    for (int axis = 0; axis < 2; axis++)
      for (int is_odd = 0; is_odd < 2; is_odd++) {
        size_t bytes[3];
        cost_shape s = is_odd ? odd : sizes[1];
        s.recompute = _i;
        s.layers = 2;
        for (int k = 0; k < 3; k++) {
          bytes[k] = peak(s, kind);
          s.layers += axis;
          s.batch += axis ? 0 : is_odd ? 1 : 8;
        }
        double second = (double)bytes[2] - 2 * (double)bytes[1] + (double)bytes[0];
        double tolerance = is_odd ? 4.0 * UNIT * 24 * (double)s.layers : 0;
        ck_assert_msg(fabs(second) <= tolerance, "kind %d, axis %d, odd %d: %zu, %zu, %zu", kind, axis, is_odd,
                      bytes[0], bytes[1], bytes[2]);
      }
}
END_TEST

/* ---- tokens ---- */

static size_t peak_with_tokens(int64_t tokens, int causal) {
  const cost_shape s = {
      .batch = 1, .tokens = tokens, .width = 16, .heads = 1, .hidden = 16, .layers = 1, .classes = 4, .causal = causal};
  cost_net n = cost_new(s);
  cost_attach(&n, "lora r=4", "query,value");
  size_t bytes = cost_train(&n, 0, NULL, NULL).peak;
  lk_model_free(n.model);
  return bytes;
}

/* Scores exist for a block of queries: 65536 of them, but for 24 queries at least.  So bytes are a constant and some for
 * each token, and from 2731 tokens on again, with another constant: there steps of equal size add the same (each tensor
 * rounded up), and before, twice the tokens take at most twice the bytes, where all scores would take four times. */
START_TEST(attention_is_linear_in_tokens) {
  enum { SIZES = 6, LAST = SIZES - 1 };
  static const int64_t tokens[SIZES] = {512, 1024, 2048, 4096, 6144, 8192};
  size_t bytes[SIZES];
  lk_set_threads(ctx, 2);
  for (int i = 0; i < SIZES; i++) bytes[i] = peak_with_tokens(tokens[i], _i);
  for (int i = 0; i < 3; i++)
    ck_assert_msg(bytes[i + 1] > bytes[i] && bytes[i + 1] <= 2 * bytes[i], "%d tokens: %zu, twice as many: %zu",
                  (int)tokens[i], bytes[i], bytes[i + 1]);
  double second = (double)bytes[LAST] - 2 * (double)bytes[LAST - 1] + (double)bytes[LAST - 2];
  ck_assert_msg(fabs(second) <= 4 * UNIT * 24, "%zu, %zu, %zu", bytes[LAST - 2], bytes[LAST - 1], bytes[LAST]);
  ck_assert_uint_lt(bytes[LAST], (size_t)8192 * 8192 * sizeof(float) / 16); /* of all scores */
}
END_TEST

int main(void) {
  TCase *c = tcase_create("bytes");
  tcase_add_loop_test(c, bytes_of_a_block, 0, 4);
  tcase_add_loop_test(c, peak_of_a_step, 0, 2);
  tcase_add_test(c, bytes_of_dropout);
  tcase_add_test(c, inference_needs_one_block);
  tcase_add_loop_test(c, models_need_one_block, 0, 4);
  tcase_add_loop_test(c, growth, 0, 2);
  int ways = getenv("LK_VALGRIND") ? 0 : getenv("LK_EXHAUSTIVE") ? 2 : 1; /* the second one is causal */
  tcase_add_loop_test(c, attention_is_linear_in_tokens, 0, ways);
  return cost_run("bytes", c);
}
