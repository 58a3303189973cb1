/* test_memory.c: a small transformer made of ops: memory follows liveness, gradients do not depend on what is freed,
 * replayed, or on threads, a warm step allocates nothing, and every allocation may fail. */
#include "tape.h"

/* ---- the stack ---- */

enum { NONE, PARTS, BLOCKS };                                                   /* what is recomputed */
enum { G1, H1, WQ, WK, WV, WO, BO, AQ, BQ, G2, H2, W1, B1, W2, B2, PER_BLOCK }; /* parameters of a block */

typedef struct stack {
  lk_ctx *ctx;
  lk_tape *t;
  int blocks, d, heads, tokens, batch, recompute;
  double dropout;
  lk_param *p[24][PER_BLOCK];
  int32_t *labels;
} stack;

static int rank_of(int d) { return d < 16 ? 2 : 4; }

static void free_stack(stack *s) {
  for (int b = 0; b < s->blocks; b++)
    for (int i = 0; i < PER_BLOCK; i++) lk_param_free(s->p[b][i]);
  lk_tape_free(s->t);
}

/* Parameters in f32; with frozen only the low-rank factors are trained. */
static lk_status make_stack(stack *s, lk_ctx *c, int blocks, int d, int tokens, int frozen) {
  static const char *const names[PER_BLOCK] = {"g1", "h1", "Wq", "Wk", "Wv", "Wo", "bo", "Aq",
                                               "Bq", "g2", "h2", "W1", "b1", "W2", "b2"};
  const int rows[PER_BLOCK] = {d, d, d, d, d, d, d, rank_of(d), d, d, d, 4 * d, 4 * d, d, d};
  const int cols[PER_BLOCK] = {0, 0, d, d, d, d, 0, d, rank_of(d), 0, 0, d, 0, 4 * d, 0};
  *s = (stack){.ctx = c, .blocks = blocks, .d = d, .heads = 2, .tokens = tokens, .batch = 2};
  s->t = lk_tape_new(c);
  for (int b = 0; b < blocks; b++)
    for (int i = 0; i < PER_BLOCK; i++) {
      char name[32];
      snprintf(name, sizeof name, "blocks.%d.%s", b, names[i]);
      s->p[b][i] = lk_param_new(c, name, LK_TRAINED, LK_F32, cols[i] ? 2 : 1, (int64_t[]){rows[i], cols[i]});
      if (!s->p[b][i]) return lk_error(c, NULL);
      lk_param_normal(s->p[b][i], i == G1 || i == G2 ? 1 : 0, cols[i] ? 1 / sqrt(cols[i]) : 0.1);
      s->p[b][i]->requires_grad = !frozen || i == AQ || i == BQ;
    }
  return lk_error(c, NULL);
}

static lk_tensor w(stack *s, int b, int i) { return lk_use(s->t, s->p[b][i]); }

/* [batch, tokens, d] -> [batch, heads, tokens, d / heads], a window */
static lk_tensor split_heads(stack *s, lk_tensor x) {
  x = lk_reshape(s->t, x, 4, (int64_t[]){s->batch, s->tokens, s->heads, s->d / s->heads});
  return lk_transpose(s->t, x, 1, 2);
}

static lk_tensor attention(stack *s, int b, lk_tensor x) {
  lk_tape *tape = s->t;
  uint32_t scope = lk_scope_begin(tape, "attention", s->recompute == PARTS ? LK_SCOPE_RECOMPUTE : 0);
  lk_tensor h = lk_layer_norm(tape, x, w(s, b, G1), w(s, b, H1), 1e-5), nil = lk_nil();
  lk_tensor q = lk_linear(tape, h, w(s, b, WQ), nil);
  q = split_heads(s, lk_accumulate(tape, q, lk_linear(tape, h, w(s, b, AQ), nil), w(s, b, BQ), 0.5));
  lk_tensor k = split_heads(s, lk_linear(tape, h, w(s, b, WK), nil));
  lk_tensor v = split_heads(s, lk_linear(tape, h, w(s, b, WV), nil));
  lk_tensor scores = lk_scale(tape, lk_matmul(tape, q, lk_transpose(tape, k, -1, -2)), 1 / sqrt(s->d));
  lk_tensor p = lk_dropout(tape, lk_softmax(tape, scores, -1), s->dropout);
  lk_tensor y =
      lk_reshape(tape, lk_transpose(tape, lk_matmul(tape, p, v), 1, 2), 3, (int64_t[]){s->batch, s->tokens, s->d});
  return lk_scope_end(tape, scope, lk_linear(tape, y, w(s, b, WO), w(s, b, BO)));
}

static lk_tensor mlp(stack *s, int b, lk_tensor x) {
  lk_tape *tape = s->t;
  uint32_t scope = lk_scope_begin(tape, "mlp", s->recompute == PARTS ? LK_SCOPE_RECOMPUTE : 0);
  lk_tensor h = lk_layer_norm(tape, x, w(s, b, G2), w(s, b, H2), 1e-5);
  h = lk_dropout(tape, lk_gelu(tape, lk_linear(tape, h, w(s, b, W1), w(s, b, B1))), s->dropout);
  return lk_scope_end(tape, scope, lk_linear(tape, h, w(s, b, W2), w(s, b, B2)));
}

static lk_tensor model(stack *s) {
  lk_tape *tape = s->t;
  uint32_t scope = lk_scope_begin(tape, "model", 0);
  int64_t shape[3] = {s->batch, s->tokens, s->d};
  lk_view v;
  lk_tensor x = lk_input(tape, LK_F32, 3, shape, NULL);
  if (lk_get(tape, x, &v)) return lk_nil();
  lk_key key = lk_key_make(3, "data");
  for (int64_t i = 0; i < lk_view_count(&v); i++) ((float *)v.p)[i] = (float)lk_random_normal(key, (uint64_t)i);
  for (int b = 0; b < s->blocks; b++) {
    uint32_t block = lk_scope_begin(tape, "block", s->recompute == BLOCKS ? LK_SCOPE_RECOMPUTE : 0);
    lk_tensor y = lk_add(tape, x, attention(s, b, x));
    y = lk_scope_end(tape, block, lk_add(tape, y, mlp(s, b, y)));
    lk_drop(tape, x); /* else it would live to the end of the model's scope */
    x = y;
  }
  lk_tensor rows = lk_reshape(tape, x, 2, (int64_t[]){s->batch * s->tokens, s->d});
  lk_tensor labels = lk_input(tape, LK_I64, 1, (int64_t[]){s->batch * s->tokens}, NULL);
  return lk_scope_end(tape, scope, lk_cross_entropy(tape, rows, labels, -100, 0));
}

static float train_step(stack *s, uint64_t step) {
  lk_tape_reset(s->t);
  for (int b = 0; b < s->blocks; b++)
    for (int i = 0; i < PER_BLOCK; i++) lk_param_zero_grad(s->p[b][i]);
  lk_train(s->t, step, 0);
  lk_tensor loss = model(s);
  float value = (float)lk_item(s->t, loss);
  lk_backward(s->t, loss);
  return value;
}

/* A number for all bits of all gradients. */
static uint64_t gradient_bits(const stack *s) {
  uint64_t h = 1;
  for (int b = 0; b < s->blocks; b++)
    for (int i = 0; i < PER_BLOCK; i++) {
      const lk_param *p = s->p[b][i];
      h = (h ^ (uint64_t)p->has_grad) * UINT64_C(0x100000001b3);
      for (int64_t j = 0; p->has_grad && j < lk_param_count(p); j++) {
        uint32_t bits;
        memcpy(&bits, (float *)p->grad + j, sizeof bits);
        ck_assert_msg(bits << 1 < 0xFF000000u, "%s [%d] is not finite", p->name, (int)j);
        h = (h ^ bits) * UINT64_C(0x100000001b3);
      }
    }
  return h;
}

static stack S;

/* ---- what does not change gradients ---- */

START_TEST(test_gradients_do_not_depend_on_memory) {
  int frozen = _i & 1;
  uint64_t want = 0;
  float loss = 0;
  make_stack(&S, ctx, 3, 16, 7, frozen);
  S.dropout = _i & 2 ? 0.2 : 0;
  if (_i & 4) S.p[1][W1]->requires_grad = S.p[2][G1]->requires_grad = S.p[0][BO]->requires_grad = frozen;
  for (int recompute = NONE; recompute <= BLOCKS; recompute++)
    for (int mode = LK_TAPE_LIVE; mode <= LK_TAPE_POISON; mode++) {
      S.recompute = recompute;
      lk_tape_set_mode(S.t, (lk_tape_mode)mode);
      float is = train_step(&S, 5);
      ck_fine();
      uint64_t bits = gradient_bits(&S);
      if (!want) want = bits, loss = is;
      ck_assert_msg(bits == want && is == loss, "recompute %d, mode %d", recompute, mode);
      ck_assert_int_eq(lk_tape_statistics(S.t).replayed > 0, recompute != NONE);
    }
  if (S.dropout > 0) {
    train_step(&S, 6);
    ck_assert(gradient_bits(&S) != want);
  }
  free_stack(&S);
}
END_TEST

START_TEST(test_gradients_do_not_depend_on_threads) {
  uint64_t want = 0;
  float loss = 0;
  make_stack(&S, ctx, 2, 64, 300, _i & 1); /* large enough for all ops to use them */
  S.dropout = 0.1;
  S.recompute = _i & 2 ? BLOCKS : NONE;
  for (int threads = 1; threads <= 3; threads++) {
    lk_set_threads(ctx, threads);
    float is = train_step(&S, 1);
    ck_fine();
    uint64_t bits = gradient_bits(&S);
    if (!want) want = bits, loss = is;
    ck_assert_msg(bits == want && is == loss, "%d threads: %.9g, %.9g", threads, is, loss);
  }
  free_stack(&S);
}
END_TEST

/* ---- memory ---- */

static size_t peak(int blocks, int recompute, lk_tape_mode mode) {
  make_stack(&S, ctx, blocks, 32, 32, 1);
  S.recompute = recompute;
  lk_tape_set_mode(S.t, mode);
  train_step(&S, 0);
  ck_fine();
  lk_tape_stats stats = lk_tape_statistics(S.t);
  ck_assert_uint_ge(stats.reserved, stats.peak);
  if (mode != LK_TAPE_NAIVE) ck_assert_uint_lt(stats.live, 4096); /* after backward: the loss */
  free_stack(&S);
  return stats.peak;
}

START_TEST(test_peak_follows_liveness) {
  size_t naive = peak(12, NONE, LK_TAPE_NAIVE), live = peak(12, NONE, LK_TAPE_LIVE);
  size_t parts = peak(12, PARTS, LK_TAPE_LIVE), blocks = peak(12, BLOCKS, LK_TAPE_LIVE);
  ck_assert_uint_lt(live, naive / 2);
  ck_assert_uint_lt(parts, live * 3 / 4);
  ck_assert_uint_lt(blocks, live / 2);
}
END_TEST

START_TEST(test_peak_grows_linearly) {
  const size_t activation = 2 * 32 * 32 * sizeof(float);
  for (int recompute = NONE; recompute <= BLOCKS; recompute++) {
    size_t a = peak(4, recompute, LK_TAPE_LIVE), b = peak(8, recompute, LK_TAPE_LIVE);
    size_t c = peak(12, recompute, LK_TAPE_LIVE);
    ck_assert_uint_eq(c - b, b - a);
    if (recompute == BLOCKS) ck_assert_uint_eq(b - a, 4 * activation); /* a block keeps its input */
  }
}
END_TEST

/* loss of linear(layer_norm(gelu(linear(x)))), whose second and third values can be made again; returns the bytes that
 * live between forward and backward. */
static size_t cheap_pass(lk_param *const p[4], int keep, uint64_t *bits) {
  const int64_t shape[] = {128, 160};
  lk_tape_reset(t);
  uint32_t scope = lk_scope_begin(t, "net", 0);
  lk_tensor h = lk_linear(t, lk_input(t, LK_F32, 2, shape, NULL), lk_use(t, p[0]), lk_use(t, p[1]));
  lk_tensor g = lk_gelu(t, h), y = lk_layer_norm(t, g, lk_use(t, p[2]), lk_use(t, p[1]), 1e-5);
  if (keep) lk_keep(t, g), lk_keep(t, y);
  y = lk_linear(t, y, lk_use(t, p[3]), lk_nil());
  lk_tensor loss = lk_scope_end(t, scope, lk_mean(t, lk_mul(t, y, y), 2, (int[]){0, 1}, 0));
  size_t live = lk_tape_statistics(t).live;
  for (int i = 0; i < 4; i++) lk_param_zero_grad(p[i]);
  if (!bits) return live;
  lk_backward(t, loss);
  ck_fine();
  *bits = 1;
  for (int i = 0; i < 4; i++)
    for (int64_t j = 0; j < lk_param_count(p[i]); j++) {
      uint32_t b;
      memcpy(&b, (float *)p[i]->grad + j, sizeof b);
      *bits = (*bits ^ b) * UINT64_C(0x100000001b3);
    }
  return live;
}

START_TEST(test_cheap_values_are_made_again) {
  uint64_t kept, remade;
  lk_param *const p[] = {make_param("W", "160 160", LK_F32), make_param("b", "160", LK_F32),
                         make_param("g", "160", LK_F32), make_param("V", "8 160", LK_F32)};
  size_t all = cheap_pass(p, 1, &kept), few = cheap_pass(p, 0, &remade);
  ck_assert_uint_ge(all - few, 128 * 160 * sizeof(float)); /* gelu goes; what is made of it stays: one deep */
  ck_assert(kept == remade);
  cheap_pass(p, 0, NULL);
  memory.fail_at = memory.calls + 1; /* the pool has room: no allocation, no failure */
  cheap_pass(p, 0, &remade);
  memory.fail_at = 0;
  ck_assert(kept == remade);
}
END_TEST

/* A value that is made again sees parameters that its backward alone would not read. */
START_TEST(test_cheap_values_see_changes) {
  lk_param *b = make_param("b", "160", LK_F32), *V = make_param("V", "8 160", LK_F32);
  lk_param *x = make_param("x", "128 160", LK_F32);
  b->requires_grad = 0;
  uint32_t scope = lk_scope_begin(t, "net", 0);
  lk_tensor y = lk_layer_norm(t, lk_use(t, x), lk_nil(), lk_nil(), 1e-5);
  y = lk_layer_norm(t, lk_scale(t, y, 2), lk_use(t, b), lk_use(t, b), 1e-5);
  y = lk_linear(t, y, lk_use(t, V), lk_nil());
  lk_tensor loss = lk_scope_end(t, scope, lk_mean(t, lk_mul(t, y, y), 2, (int[]){0, 1}, 0));
  lk_param_uniform(b, 0, 1);
  lk_backward(t, loss);
  ck_refused(LK_EARG, "parameter b, was changed between forward and backward");
}
END_TEST

/* A recomputed scope ends with a cheap value: what that is made of is gone until the replay. */
START_TEST(test_cheap_result_of_recomputed_scope) {
  float first[4];
  lk_param *const p[] = {make_param("x", "128 160", LK_F32), make_param("W", "160 160", LK_F32),
                         make_param("V", "160 160", LK_F32), make_param("U", "8 160", LK_F32)};
  for (int redo = 0; redo < 2; redo++) {
    lk_tape_reset(t);
    uint32_t outer = lk_scope_begin(t, "net", 0);
    lk_tensor h = lk_linear(t, lk_use(t, p[0]), lk_use(t, p[1]), lk_nil());
    uint32_t inner = lk_scope_begin(t, "block", redo ? LK_SCOPE_RECOMPUTE : 0);
    h = lk_scope_end(t, inner, lk_gelu(t, lk_linear(t, h, lk_use(t, p[2]), lk_nil())));
    h = lk_linear(t, h, lk_use(t, p[3]), lk_nil());
    lk_tensor loss = lk_scope_end(t, outer, lk_mean(t, lk_mul(t, h, h), 2, (int[]){0, 1}, 0));
    for (int i = 0; i < 4; i++) lk_param_zero_grad(p[i]);
    lk_backward(t, loss);
    ck_fine();
    for (int i = 0; i < 4; i++) {
      float g = ((float *)p[i]->grad)[7];
      ck_assert(g != 0);
      if (redo) ck_assert(g == first[i]);
      first[i] = g;
    }
  }
}
END_TEST

/* The first loss goes through a cheap value that the second one will read, detached. */
START_TEST(test_cheap_values_outlive_their_backward) {
  float first = 0;
  lk_param *x = make_param("x", "128 160", LK_F32), *W = make_param("W", "160 160", LK_F32);
  lk_param *V = make_param("V", "8 160", LK_F32);
  for (int keep = 1; keep >= 0; keep--) {
    lk_tensor loss[2];
    lk_tape_reset(t);
    uint32_t scope = lk_scope_begin(t, "net", 0);
    lk_tensor h = lk_linear(t, lk_use(t, x), lk_use(t, W), lk_nil()), g = lk_gelu(t, h);
    if (keep) lk_keep(t, g);
    loss[0] = lk_sum(t, lk_add(t, g, h), 2, (int[]){0, 1}, 0);
    loss[1] = lk_sum(t, lk_linear(t, lk_detach_value(t, g), lk_use(t, V), lk_nil()), 2, (int[]){0, 1}, 0);
    lk_scope_end_n(t, scope, 2, loss);
    lk_param_zero_grad(V);
    lk_backward(t, loss[0]);
    lk_backward(t, loss[1]);
    ck_fine();
    ck_assert(keep || *(float *)V->grad == first);
    first = *(float *)V->grad;
    ck_assert(first != 0);
  }
}
END_TEST

static int failures;

static int flaky_fwd(lk_call *c) { return memcpy(c->y->p, c->x[0].p, lk_view_bytes(c->y)) == NULL; }
static int flaky_bwd(lk_call *c) {
  return failures-- > 0 ? lk_op_fail(c, LK_EARG, "not now")
                        : memmove(c->gx[0].p, c->gy->p, lk_view_bytes(c->gy)) == NULL;
}
static const lk_op flaky = {.name = "flaky",
                            .nin = 1,
                            .flags = LK_OP_ELEMENTWISE | LK_OP_FRESH | LK_OP_REUSE,
                            .fwd = flaky_fwd,
                            .bwd = flaky_bwd};

/* A gradient's memory that was taken over belongs to one value, also where backward failed and is called again. */
START_TEST(test_taken_gradient_after_an_error) {
  enum { VALUES = 8 };
  static const double gy[40];
  lk_view v[VALUES];
  make_param("p", "5 8", LK_F64);
  lk_tensor y = lk_apply(t, &flaky, 1, (lk_tensor[]){lk_scale(t, use(0), 2)}, NULL);
  failures = 1;
  lk_backward_from(t, y, gy);
  ck_refused(LK_EARG, "not now");
  lk_backward_from(t, y, gy);
  ck_fine();
  for (int i = 0; i < VALUES; i++) {
    lk_get(t, INPUT(5, 8), &v[i]);
    for (int j = 0; j < i; j++) ck_assert(v[i].p != v[j].p);
  }
  ck_fine();
}
END_TEST

START_TEST(test_evaluation_needs_one_block) {
  make_stack(&S, ctx, 12, 32, 32, 1);
  lk_no_grad(S.t, 1);
  model(&S);
  size_t twelve = lk_tape_statistics(S.t).peak;
  S.blocks = 2;
  lk_tape_reset(S.t);
  model(&S);
  ck_assert_uint_eq(lk_tape_statistics(S.t).peak, twelve);
  S.blocks = 12;
  ck_fine();
  free_stack(&S);
}
END_TEST

START_TEST(test_warm_step_allocates_nothing) {
  make_stack(&S, ctx, 6, 32, 24, _i & 1);
  S.recompute = _i / 2;
  S.dropout = 0.1;
  uint64_t calls = 0, counted = 0, from_tape = 0;
  for (uint64_t step = 0; step < 12; step++) {
    train_step(&S, step);
    if (step == 2) {
      calls = memory.calls;
      counted = lk_ctx_statistics(ctx).allocations;
      from_tape = lk_tape_statistics(S.t).allocations;
    }
  }
  ck_fine();
  ck_assert_uint_eq(memory.calls, calls);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).allocations, counted);
  ck_assert_uint_eq(lk_tape_statistics(S.t).allocations, from_tape);
  ck_assert_uint_gt(from_tape, 3);
  free_stack(&S);
}
END_TEST

/* Steps of different sizes: after the largest one nothing is allocated. */
START_TEST(test_changing_sizes_settle) {
  make_stack(&S, ctx, 3, 16, 40, 0);
  uint64_t calls = 0;
  for (uint64_t step = 0; step < 40; step++) {
    S.tokens = step < 2 ? 40 : 1 + (int)(step * 17 % 40);
    S.recompute = (int)(step % 3);
    train_step(&S, step);
    if (step == 15) calls = memory.calls;
  }
  ck_fine();
  ck_assert_uint_eq(memory.calls, calls);
  free_stack(&S);
}
END_TEST

START_TEST(test_unreached_values_stay_until_reset) {
  make_param("p", "100", LK_F64);
  uint32_t s = lk_scope_begin(t, "s", 0);
  lk_tensor a = lk_exp(t, use(0));
  lk_tensor out[2] = {sum_all(lk_mul(t, a, a)), sum_all(lk_exp(t, lk_tanh(t, a)))};
  lk_scope_end_n(t, s, 2, out);
  lk_backward(t, out[0]);
  ck_fine();
  ck_assert_uint_gt(lk_tape_statistics(t).live, 1600);
  lk_tape_reset(t);
  ck_assert_uint_eq(lk_tape_statistics(t).live, 0);
}
END_TEST

/* ---- without memory ---- */

static lk_status whole_story(lk_ctx *c, void *arg) {
  stack s = {0};
  const int *what = arg;
  float score = 0;
  if (!make_stack(&s, c, 2, 4, 3, *what & 1)) {
    s.recompute = *what / 2;
    s.dropout = 0.2;
    for (uint64_t step = 0; step < 3 && !lk_error(c, NULL); step++) {
      s.tokens = 3 + (int)step * 2;
      train_step(&s, step);
      lk_tape_reset(s.t);
      lk_no_grad(s.t, 1);
      lk_tensor loss = model(&s);
      lk_side(s.t, "loss", loss);
      lk_keep(s.t, loss);
      score = (float)lk_item(s.t, lk_side_get(s.t, "loss"));
      lk_no_grad(s.t, 0);
    }
  }
  if (!lk_error(c, NULL) && !(score > 0)) lk_fail(c, LK_ENONFINITE, "score %g", (double)score);
  free_stack(&s);
  return lk_error(c, NULL);
}

START_TEST(test_every_allocation_fails_once) {
  uint64_t count = 0;
  const char *why = test_each_allocation(whole_story, &_i, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 100);
}
END_TEST

/* The sticky error does not keep a tape from being used again. */
START_TEST(test_going_on_after_no_memory) {
  make_stack(&S, ctx, 2, 16, 9, 0);
  S.recompute = PARTS;
  train_step(&S, 0);
  uint64_t want = gradient_bits(&S), failed = 0;
  free_stack(&S);
  for (uint64_t n = 1; n < 60; n++) {
    make_stack(&S, ctx, 2, 16, 9, 0);
    S.recompute = PARTS;
    memory.fail_at = memory.calls + n;
    train_step(&S, 0);
    failed += lk_error(ctx, NULL) == LK_ENOMEM;
    memory.fail_at = 0;
    lk_error_clear(ctx);
    train_step(&S, 0);
    ck_fine();
    ck_assert(gradient_bits(&S) == want);
    free_stack(&S);
  }
  ck_assert_uint_gt(failed, 30);
}
END_TEST

int main(void) {
  SUITE("memory");
  tcase_add_loop_test(tcase, test_gradients_do_not_depend_on_memory, 0, 8);
  tcase_add_loop_test(tcase, test_gradients_do_not_depend_on_threads, 0, 4);
  tcase_add_test(tcase, test_peak_follows_liveness);
  tcase_add_test(tcase, test_peak_grows_linearly);
  tcase_add_test(tcase, test_cheap_values_are_made_again);
  tcase_add_test(tcase, test_cheap_values_see_changes);
  tcase_add_test(tcase, test_cheap_result_of_recomputed_scope);
  tcase_add_test(tcase, test_cheap_values_outlive_their_backward);
  tcase_add_test(tcase, test_taken_gradient_after_an_error);
  tcase_add_test(tcase, test_evaluation_needs_one_block);
  tcase_add_loop_test(tcase, test_warm_step_allocates_nothing, 0, 6);
  tcase_add_test(tcase, test_changing_sizes_settle);
  tcase_add_test(tcase, test_unreached_values_stay_until_reset);
  tcase_add_loop_test(tcase, test_every_allocation_fails_once, 0, 6);
  tcase_add_test(tcase, test_going_on_after_no_memory);
  return run_suite(suite);
}
