/* test_scopes.c: scopes: who can see a value, no-grad loops, recomputed scopes, and the keys of random draws. */
#include "tape.h"

/* ---- visibility ---- */

START_TEST(test_results_live_the_rest_dies) {
  make_param("p", "3", LK_F64);
  uint32_t outer = lk_scope_begin(t, "outer", 0), inner = lk_scope_begin(t, "inner", 0);
  lk_tensor a = lk_exp(t, use(0)), b = lk_neg(t, a), c = lk_abs(t, b), out[2] = {c, a};
  ck_assert_int_eq(lk_scope_end_n(t, inner, 2, out), LK_OK);
  lk_neg(t, b);
  ck_refused(LK_ESTALE, "neg: argument 0 is dead: neg #3 [3] of outer.inner");
  lk_tensor y = lk_scope_end(t, outer, lk_mul(t, out[0], out[1]));
  lk_get(t, out[0], &(lk_view){0});
  ck_refused(LK_ESTALE, "get: argument 0 is dead: abs");
  lk_backward(t, sum_all(y));
  ck_fine();
}
END_TEST

START_TEST(test_argument_or_parameter_as_result) {
  make_param("p", "3", LK_F64);
  lk_tensor x = INPUT(3);
  uint32_t s = lk_scope_begin(t, "identity", 0);
  lk_tensor y = lk_scope_end(t, s, x);
  ck_assert(y.id == x.id && y.gen == x.gen);
  s = lk_scope_begin(t, "first use", 0);
  lk_tensor p = lk_scope_end(t, s, use(0));
  s = lk_scope_begin(t, "second use", 0);
  ck_assert_uint_eq(use(0).id, p.id);
  lk_scope_end_n(t, s, 0, NULL);
  ck_assert(!lk_is_nil(lk_mul(t, p, y)));
  ck_fine();
}
END_TEST

START_TEST(test_parameters_belong_to_the_step) {
  make_param("p", "3", LK_F64);
  uint32_t s = lk_scope_begin(t, "a", 0);
  lk_tensor p = use(0), a = lk_scope_end(t, s, lk_exp(t, p));
  s = lk_scope_begin(t, "b", 0);
  ck_assert_uint_eq(use(0).id, p.id);
  lk_tensor b = lk_scope_end(t, s, lk_mul(t, use(0), a));
  lk_neg(t, p);
  ck_refused(LK_ESTALE, "dead");
  lk_backward(t, sum_all(b));
  ck_fine();
}
END_TEST

START_TEST(test_keep_and_drop) {
  make_param("p", "3", LK_F64);
  uint32_t s = lk_scope_begin(t, "s", 0);
  lk_tensor a = lk_exp(t, use(0)), b = lk_neg(t, a), c = lk_neg(t, b);
  lk_keep(t, a);
  lk_keep(t, a);
  lk_drop(t, b);
  lk_neg(t, b);
  ck_refused(LK_ESTALE, "dead");
  lk_drop(t, b);
  ck_refused(LK_ESTALE, "drop: argument 0 is dead");
  lk_tensor y = lk_scope_end(t, s, c);
  ck_assert(!lk_is_nil(lk_add(t, a, y)));
  lk_keep(t, lk_nil());
  ck_refused(LK_ENIL, "keep: argument 0 is nil");
  lk_drop(t, a);
  lk_neg(t, a);
  ck_refused(LK_ESTALE, "dead");
}
END_TEST

/* What was noted is not the caller's to drop. */
START_TEST(test_drop_what_was_noted) {
  make_param("p", "3", LK_F64);
  lk_tensor a = lk_exp(t, use(0)), b = lk_neg(t, a);
  lk_note(t, &b, "a", a);
  lk_side(t, "b", b);
  lk_keep(t, b);
  lk_drop(t, a);
  lk_drop(t, b);
  ck_assert(!lk_is_nil(lk_add(t, lk_noted(t, &b, "a", 0), lk_side_get(t, "b"))));
  ck_fine();
}
END_TEST

/* Dropped handles of parameters come back when the parameter is asked for again. */
START_TEST(test_drop_parameter) {
  make_param("p", "3", LK_F64);
  uint32_t s = lk_scope_begin(t, "s", 0);
  lk_tensor p = use(0), a = lk_exp(t, p);
  lk_drop(t, p);
  p = use(0);
  lk_drop(t, p);
  uint32_t inner = lk_scope_begin(t, "inner", 0);
  lk_tensor b = lk_scope_end(t, inner, lk_mul(t, use(0), a));
  lk_tensor y = lk_scope_end(t, s, b);
  lk_neg(t, a);
  ck_refused(LK_ESTALE, "dead");
  lk_backward(t, sum_all(y));
  ck_fine();
}
END_TEST

START_TEST(test_drop_frees_at_once) {
  lk_tensor x = INPUT(1000), y = lk_exp(t, x), w = lk_slice(t, y, 0, 0, 10, 1);
  size_t both = lk_tape_statistics(t).live;
  lk_drop(t, y);
  ck_assert_uint_eq(lk_tape_statistics(t).live, both); /* the window pins it */
  lk_drop(t, w);
  ck_assert_uint_lt(lk_tape_statistics(t).live, both - 7000);
  ck_fine();
}
END_TEST

/* ---- mistakes with tokens ---- */

START_TEST(test_forgotten_end_is_named) {
  uint32_t outer = lk_scope_begin(t, "encoder", 0);
  lk_scope_begin(t, "attention", LK_SCOPE_RECOMPUTE);
  lk_tensor y = lk_exp(t, INPUT(3));
  ck_assert(lk_is_nil(lk_scope_end(t, outer, y)));
  ck_message("scope 'attention' was left open inside 'encoder'");
  lk_neg(t, y);
  ck_refused(LK_ESTALE, "dead");
  ck_assert(lk_is_nil(lk_scope_end(t, outer, INPUT(2))));
  ck_refused(LK_EARG, "scope_end without its scope_begin");
  lk_scope_end_n(t, 0, 0, NULL);
  ck_refused(LK_EARG, "scope_end without");
  lk_tape_reset(t);
  lk_scope_begin(t, "head", 0);
  lk_tape_reset(t);
  ck_message("reset: scope 'head' was never ended");
  lk_tape_reset(t);
  ck_fine();
}
END_TEST

START_TEST(test_early_return_after_an_error_is_no_forgotten_end) {
  lk_scope_begin(t, "a", 0);
  lk_matmul(t, INPUT(2, 3), INPUT(2, 3));
  lk_error_clear(ctx);
  lk_tape_reset(t);
  ck_fine();
  uint32_t outer = lk_scope_begin(t, "b", 0);
  lk_scope_begin(t, "c", 0);
  lk_matmul(t, INPUT(2, 3), INPUT(2, 3));
  lk_error_clear(ctx);
  lk_tensor x = lk_scope_end(t, outer, INPUT(3));
  ck_fine();
  ck_assert(lk_is_nil(x) || !lk_is_nil(lk_neg(t, x)) || lk_error(ctx, NULL) == LK_ESTALE);
  lk_error_clear(ctx);
}
END_TEST

START_TEST(test_wrong_results) {
  lk_tensor many[17] = {{0, 0}};
  uint32_t s = lk_scope_begin(t, "s", 0);
  ck_assert(lk_is_nil(lk_scope_end(t, s, lk_nil())));
  ck_message("s: argument 0 is nil; in s");
  s = lk_scope_begin(t, "many", 0);
  for (int i = 0; i < 17; i++) many[i] = INPUT(2);
  lk_scope_end_n(t, s, 17, many);
  ck_message("scope 'many': 17 results, at most 16");
  ck_assert(lk_is_nil(many[3]));
  s = lk_scope_begin(t, "all", 0);
  for (int i = 0; i < 16; i++) many[i] = INPUT(2);
  ck_assert_int_eq(lk_scope_end_n(t, s, 16, many), LK_OK);
  ck_assert(!lk_is_nil(lk_concat(t, 16, many, 0)));
  s = lk_scope_begin(t, "same twice", 0);
  many[0] = many[1] = INPUT(2);
  lk_scope_end_n(t, s, 2, many);
  ck_assert(many[0].id == many[1].id && !lk_is_nil(lk_add(t, many[0], many[1])));
  ck_fine();
}
END_TEST

/* ---- without gradients ---- */

static lk_tensor step_of_loop(lk_tensor state) {
  uint32_t model = lk_scope_begin(t, "model", 0);
  for (int layer = 0; layer < 3; layer++) {
    uint32_t s = lk_scope_begin(t, layer ? "layer" : "first", 0);
    lk_tensor h = lk_tanh(t, lk_linear(t, state, use(0), use(1)));
    uint32_t inner = lk_scope_begin(t, "inner", 0);
    h = lk_scope_end(t, inner, lk_transpose(t, lk_exp(t, lk_dropout(t, h, 0.1)), 0, 1));
    state = lk_scope_end(t, s, lk_contiguous(t, lk_transpose(t, h, 0, 1)));
  }
  return lk_scope_end(t, model, lk_tanh(t, state));
}

START_TEST(test_generation_loop_does_not_grow) {
  make_param("W", "8 8", LK_F64);
  make_param("b", "8", LK_F64);
  lk_no_grad(t, 1);
  lk_train(t, 1, 0);
  lk_tensor state = INPUT(4, 8);
  lk_tape_stats warm = {0};
  for (int i = 0; i < 1000; i++) {
    lk_tensor next = step_of_loop(state);
    lk_drop(t, state);
    state = next;
    if (i == 2) warm = lk_tape_statistics(t);
  }
  lk_tape_stats end = lk_tape_statistics(t);
  ck_fine();
  ck_assert_uint_eq(end.live, warm.live);
  ck_assert_uint_eq(end.peak, warm.peak);
  ck_assert_uint_eq(end.nodes, warm.nodes + 997); /* what is left of an iteration is the record of its result */
}
END_TEST

START_TEST(test_generation_loop_in_a_scope_per_token) {
  make_param("W", "8 8", LK_F64);
  make_param("b", "8", LK_F64);
  lk_no_grad(t, 1);
  double state[32] = {0.5};
  uint64_t nodes = 0, calls = 0;
  for (int i = 0; i < 1000; i++) {
    lk_view v;
    uint32_t s = lk_scope_begin(t, "token", 0);
    lk_get(t, step_of_loop(lk_input(t, LK_F64, 2, (int64_t[]){4, 8}, state)), &v);
    memcpy(state, v.p, sizeof state);
    lk_scope_end_n(t, s, 0, NULL);
    if (i == 2) nodes = lk_tape_statistics(t).nodes, calls = memory.calls;
  }
  ck_fine();
  ck_assert_uint_eq(lk_tape_statistics(t).nodes, nodes);
  ck_assert_uint_eq(lk_tape_statistics(t).live, 0);
  ck_assert_uint_eq(memory.calls, calls);
}
END_TEST

START_TEST(test_windows_as_results_without_gradients) {
  lk_no_grad(t, 1);
  lk_tensor x = INPUT(4, 6), r[4];
  lk_view v;
  double want[3];
  uint32_t s = lk_scope_begin(t, "s", 0);
  lk_tensor y = lk_exp(t, x), z = lk_neg(t, y);
  r[0] = lk_slice(t, lk_transpose(t, z, 0, 1), 0, 1, 2, 2); /* a window on a window, whose root is no result */
  r[1] = lk_slice(t, x, 1, 2, 3, 1);                        /* of a value from outside */
  r[2] = y;
  r[3] = lk_slice(t, y, 0, 3, 1, 1); /* of another result */
  lk_get(t, r[0], &v);
  for (int i = 0; i < 3; i++) want[i] = lk_view_get(&v, i);
  ck_assert_int_eq(lk_scope_end_n(t, s, 4, r), LK_OK);
  uint64_t nodes = lk_tape_statistics(t).nodes;
  ck_assert_uint_eq(nodes, 1 + 5);
  for (int i = 0; i < 50; i++) lk_drop(t, INPUT(4, 6)); /* would write over freed memory */
  lk_get(t, r[0], &v);
  for (int i = 0; i < 3; i++) ck_assert_double_eq(lk_view_get(&v, i), want[i]);
  ck_assert_int_eq(v.stride[0], 2);
  lk_get(t, r[3], &v);
  lk_view w;
  lk_get(t, r[2], &w);
  ck_assert_ptr_eq((double *)w.p + 18, v.p);
  size_t live = lk_tape_statistics(t).live;
  lk_drop(t, r[0]);
  ck_assert_uint_lt(lk_tape_statistics(t).live, live);
  lk_neg(t, z);
  ck_refused(LK_ESTALE, "neg");
}
END_TEST

START_TEST(test_keep_and_side_without_gradients) {
  lk_no_grad(t, 1);
  lk_tensor kept = lk_nil(), x = INPUT(5);
  for (int i = 0; i < 20; i++) {
    uint32_t outer = lk_scope_begin(t, "outer", 0), s = lk_scope_begin(t, "s", 0);
    lk_tensor y = lk_exp(t, x), z = lk_neg(t, y);
    if (i == 7) lk_keep(t, kept = y);
    if (i == 9) lk_side(t, "noted", z);
    x = lk_scope_end(t, outer, lk_tanh(t, lk_scope_end(t, s, lk_add(t, y, z))));
  }
  ck_fine();
  ck_assert_int_eq(lk_size(t, kept, 0), 5);
  ck_assert_int_eq(lk_size(t, lk_side_get(t, "noted"), 0), 5);
  uint32_t s = lk_scope_begin(t, "later", 0);
  lk_matmul(t, kept, kept);
  lk_scope_end_n(t, s, 0, NULL);
  ck_message("matmul: wants a [..., m, k] and b [..., k, n], not vectors; x0 [5], x1 [5]; in later");
}
END_TEST

START_TEST(test_gradients_inside_no_grad) {
  make_param("p", "3", LK_F64);
  lk_no_grad(t, 1);
  uint32_t s = lk_scope_begin(t, "s", 0);
  lk_tensor constant = lk_exp(t, use(0));
  lk_no_grad(t, 0);
  lk_tensor y = lk_mul(t, use(0), constant);
  lk_no_grad(t, 1);
  y = lk_scope_end(t, s, y);
  lk_no_grad(t, 0);
  lk_backward(t, sum_all(y));
  ck_fine();
  ck_assert_double_eq_tol(gradient_of(params[0], 0), exp(*(double *)params[0]->value.p), 1e-12);
}
END_TEST

START_TEST(test_no_grad_inside_gradients) {
  make_param("p", "3", LK_F64);
  lk_tensor x = lk_exp(t, use(0));
  lk_no_grad(t, 1);
  uint32_t s = lk_scope_begin(t, "norm", 0);
  lk_tensor norm = lk_scope_end(t, s, lk_sqrt(t, sum_all(lk_mul(t, x, x))));
  lk_no_grad(t, 0);
  lk_backward(t, sum_all(lk_div(t, x, norm)));
  ck_fine();
  const double *p = params[0]->value.p;
  double n = sqrt(exp(2 * p[0]) + exp(2 * p[1]) + exp(2 * p[2]));
  ck_assert_double_eq_tol(gradient_of(params[0], 2), exp(p[2]) / n, 1e-12);
}
END_TEST

/* ---- random draws ---- */

/* The mask of dropout, as bits. */
static uint32_t mask_of(lk_tensor x) {
  lk_view v;
  uint32_t bits = 0;
  if (lk_get(t, lk_dropout(t, x, 0.5), &v)) return 0;
  for (int i = 0; i < 32; i++) bits |= (uint32_t)(lk_view_get(&v, i) != 0) << i;
  return bits;
}

static lk_tensor ones(void) {
  double x[32];
  for (int i = 0; i < 32; i++) x[i] = 1;
  return lk_input(t, LK_F64, 1, &(int64_t){32}, x);
}

/* Masks of three scopes; `extra` puts further ops, draws and scopes in between. */
static void draw_masks(uint64_t step, uint64_t micro, int extra, uint32_t mask[8]) {
  int n = 0;
  lk_tape_reset(t);
  lk_train(t, step, micro);
  lk_tensor x = ones();
  if (extra) mask_of(lk_exp(t, x));
  for (int i = 0; i < 3; i++) {
    uint32_t s = lk_scope_begin(t, i == 2 ? "other" : "layer", 0);
    mask[n++] = mask_of(x);
    if (extra) lk_exp(t, lk_neg(t, x));
    mask[n++] = mask_of(x);
    uint32_t inner = lk_scope_begin(t, "inner", 0);
    if (i == 1) mask[n++] = mask_of(x);
    lk_scope_end_n(t, inner, 0, NULL);
    lk_scope_end_n(t, s, 0, NULL);
    uint32_t more = extra ? lk_scope_begin(t, "more", 0) : 0;
    if (extra) mask_of(x);
    if (extra) lk_scope_end_n(t, more, 0, NULL);
  }
  mask[n] = 0;
  ck_fine();
}

START_TEST(test_masks_are_keyed_by_scope) {
  uint32_t a[8], b[8];
  draw_masks(3, 1, 0, a);
  for (int i = 0; a[i]; i++)
    for (int j = 0; j < i; j++) ck_assert_uint_ne(a[i], a[j]);
  draw_masks(3, 1, 0, b);
  ck_assert_mem_eq(a, b, sizeof a);
  draw_masks(3, 1, 1, b);
  ck_assert_mem_eq(a, b, sizeof a); /* nothing elsewhere changes a mask */
  for (int what = 0; what < 2; what++) {
    draw_masks(3 + (what == 0), 1 + (what == 1), 0, b);
    for (int i = 0; a[i]; i++) ck_assert_uint_ne(a[i], b[i]);
  }
}
END_TEST

START_TEST(test_masks_without_gradients_differ_too) {
  uint32_t a[8], b[8], again[40];
  draw_masks(3, 1, 0, a);
  lk_no_grad(t, 1);
  draw_masks(3, 1, 0, b);
  ck_assert_mem_eq(a, b, sizeof a);
  lk_tensor x = ones();
  for (int i = 0; i < 40; i++) { /* the scope's record is dropped each time, its count is not */
    uint32_t s = lk_scope_begin(t, "same", 0);
    again[i] = mask_of(x);
    lk_scope_end_n(t, s, 0, NULL);
    for (int j = 0; j < i; j++) ck_assert_uint_ne(again[i], again[j]);
  }
}
END_TEST

START_TEST(test_no_draws_in_evaluation) {
  lk_tensor x = ones(), y = lk_dropout(t, x, 0.5);
  ck_assert_uint_eq(x.id, y.id);
  lk_train(t, 0, 0);
  ck_assert(lk_is_training(t));
  ck_assert_uint_ne(lk_dropout(t, x, 0.5).id, x.id);
  lk_tape_reset(t);
  ck_assert(!lk_is_training(t));
}
END_TEST

/* ---- recomputed scopes ---- */

static int recompute = LK_SCOPE_RECOMPUTE;

/* A block with what is hard to replay: inputs made inside, no-grad parts, empty scopes, draws, windows, saved blocks
 * (layer_norm), in-place changes, a value kept, and a second result. */
static lk_tensor hard_block(lk_tensor x, lk_tensor *second, lk_tensor *kept) {
  uint32_t block = lk_scope_begin(t, "block", recompute), s = lk_scope_begin(t, "head", 0);
  lk_tensor scale = lk_scalar(t, LK_F64, 0.5);
  lk_tensor h = lk_scope_end(t, s, lk_mul(t, lk_dropout(t, lk_layer_norm(t, x, use(0), use(1), 1e-5), 0.3), scale));
  lk_no_grad(t, 1);
  s = lk_scope_begin(t, "constant", 0);
  lk_tensor size = lk_scope_end(t, s, lk_sqrt(t, sum_all(lk_mul(t, h, h))));
  lk_no_grad(t, 0);
  s = lk_scope_begin(t, "tail", recompute);
  lk_tensor a = lk_div(t, h, size), y = lk_accumulate(t, lk_linear(t, a, use(2), use(3)), a, use(4), 0.5);
  lk_keep(t, *kept = lk_tanh(t, a));
  y = lk_scope_end(t, s, lk_exp(t, lk_transpose(t, lk_tanh(t, y), 0, 1)));
  s = lk_scope_begin(t, "empty", recompute);
  lk_tensor out[2] = {lk_scope_end(t, s, y), lk_slice(t, h, 0, 1, 2, 1)};
  if (lk_scope_end_n(t, block, 2, out)) return lk_nil();
  *second = out[1];
  s = lk_scope_begin(t, "empty", recompute); /* ends where the block ends */
  return lk_scope_end(t, s, out[0]);
}

static lk_tensor hard_model(void) {
  lk_tensor second[2], kept[2], x = INPUT(3, 4);
  lk_train(t, 2, 1);
  x = lk_transpose(t, hard_block(x, &second[0], &kept[0]), 0, 1);
  x = hard_block(x, &second[1], &kept[1]);
  lk_tensor y = lk_add(t, weigh(x), lk_mul(t, weigh(second[0]), weigh(second[1])));
  return lk_add(t, y, weigh(lk_mul(t, kept[0], kept[1])));
}

static void hard_parameters(void) {
  const char *const shapes[] = {"4", "4", "4 4", "4", "4 4"};
  for (int i = 0; i < 5; i++) make_param((const char *[]){"g", "b", "W", "c", "U"}[i], shapes[i], LK_F64);
}

START_TEST(test_recompute_equals_keeping) {
  hard_parameters();
  double want[3][16];
  for (int mode = 0; mode < 6; mode++) {
    lk_tape_reset(t);
    zero_grads();
    lk_tape_set_mode(t, (lk_tape_mode)(mode % 3));
    recompute = mode < 3 ? 0 : LK_SCOPE_RECOMPUTE;
    lk_backward(t, hard_model());
    ck_fine();
    ck_assert_int_eq(lk_tape_statistics(t).replayed > 0, mode >= 3);
    for (int p = 0; p < 3; p++)
      for (int i = 0; i < lk_param_count(params[2 * p]); i++) {
        double g = gradient_of(params[2 * p], i);
        ck_assert(isfinite(g));
        if (mode == 0) want[p][i] = g;
        ck_assert_msg(g == want[p][i], "mode %d, %s [%d]: %g, not %g", mode, params[2 * p]->name, i, g, want[p][i]);
      }
  }
}
END_TEST

START_TEST(test_recompute_refusals) {
  make_param("w", "3", LK_F64);
  make_param("b", "3", LK_F64);
  uint32_t s = lk_scope_begin(t, "block", LK_SCOPE_RECOMPUTE);
  lk_tensor y = lk_add(t, lk_exp(t, use(0)), use(1)), z = sum_all(lk_exp(t, y));
  ck_assert_int_eq(lk_backward(t, z), LK_EARG);
  ck_message("backward: inside the open recomputed scope 'block'");
  z = lk_scope_end(t, s, z);
  lk_param_touch(params[1]); /* read by the replay only */
  ck_assert_int_eq(lk_backward(t, z), LK_EARG);
  ck_message("add: x1, parameter b, was changed between forward and backward; x0 [3], x1 [3]; in block");
}
END_TEST

/* One scope, two results, two losses: the second backward finds what the first one replayed. */
START_TEST(test_two_losses_from_one_recomputed_scope) {
  make_param("p", "3", LK_F64);
  make_param("q", "3", LK_F64);
  double want = 0;
  for (int flags = 0; flags < 2; flags++) {
    lk_tape_reset(t);
    zero_grads();
    uint32_t s = lk_scope_begin(t, "s", flags);
    lk_tensor r[2] = {lk_exp(t, lk_exp(t, use(0))), lk_exp(t, lk_tanh(t, lk_neg(t, use(1))))};
    lk_scope_end_n(t, s, 2, r);
    lk_tensor loss = sum_all(lk_exp(t, r[1]));
    lk_backward(t, sum_all(r[0]));
    lk_backward(t, loss);
    ck_fine();
    if (!flags) want = gradient_of(params[1], 1);
    ck_assert_double_eq(gradient_of(params[1], 1), want);
  }
}
END_TEST

int main(void) {
  SUITE("scopes");
  tcase_add_test(tcase, test_results_live_the_rest_dies);
  tcase_add_test(tcase, test_argument_or_parameter_as_result);
  tcase_add_test(tcase, test_parameters_belong_to_the_step);
  tcase_add_test(tcase, test_keep_and_drop);
  tcase_add_test(tcase, test_drop_what_was_noted);
  tcase_add_test(tcase, test_drop_parameter);
  tcase_add_test(tcase, test_drop_frees_at_once);
  tcase_add_test(tcase, test_forgotten_end_is_named);
  tcase_add_test(tcase, test_early_return_after_an_error_is_no_forgotten_end);
  tcase_add_test(tcase, test_wrong_results);
  tcase_add_test(tcase, test_generation_loop_does_not_grow);
  tcase_add_test(tcase, test_generation_loop_in_a_scope_per_token);
  tcase_add_test(tcase, test_windows_as_results_without_gradients);
  tcase_add_test(tcase, test_keep_and_side_without_gradients);
  tcase_add_test(tcase, test_gradients_inside_no_grad);
  tcase_add_test(tcase, test_no_grad_inside_gradients);
  tcase_add_test(tcase, test_masks_are_keyed_by_scope);
  tcase_add_test(tcase, test_masks_without_gradients_differ_too);
  tcase_add_test(tcase, test_no_draws_in_evaluation);
  tcase_add_test(tcase, test_recompute_equals_keeping);
  tcase_add_test(tcase, test_recompute_refusals);
  tcase_add_test(tcase, test_two_losses_from_one_recomputed_scope);
  return run_suite(suite);
}
