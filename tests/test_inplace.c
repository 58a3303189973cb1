/* test_inplace.c: windows on values and parameters, and values changed in place: right gradients, or refused. */
#include "tape.h"

/* ---- windows ---- */

static lk_tensor windows_of_values(void) {
  lk_tensor x = lk_tanh(t, use(0)), xt = lk_transpose(t, x, 0, 1), parts[2]; /* [4, 6] */
  lk_split(t, xt, 0, 2, parts);
  lk_tensor a = lk_slice(t, parts[0], 1, 1, 2, 2), b = lk_reshape(t, x, 3, (int64_t[]){2, 2, 6});
  lk_tensor c = lk_permute(t, b, (int[]){2, 0, 1});
  lk_tensor y = lk_matmul(t, a, lk_transpose(t, lk_slice(t, parts[1], 1, 0, 2, 3), 0, 1));
  y = lk_add(t, weigh(y), weigh(lk_softmax(t, c, 1)));
  return lk_add(t, y, weigh(lk_mul(t, lk_layer_norm(t, xt, lk_nil(), lk_nil(), 1e-5), xt)));
}

static lk_tensor windows_of_parameters(void) {
  lk_tensor w = use(0), wt = lk_transpose(t, w, 0, 1), q[3];
  lk_split(t, w, 1, 3, q);
  lk_tensor y = lk_linear(t, lk_exp(t, q[0]), q[1], lk_nil());
  y = lk_add(t, weigh(y), weigh(lk_log_softmax(t, wt, 1)));
  return lk_add(t, y, weigh(lk_mul(t, lk_slice(t, q[2], 0, 1, 1, 1), q[2])));
}

static lk_tensor same_input_twice(void) {
  lk_tensor x = lk_exp(t, use(1)); /* [4, 4] */
  lk_tensor a = lk_linear(t, x, x, lk_reshape(t, lk_slice(t, lk_transpose(t, x, 0, 1), 0, 1, 1, 1), 1, (int64_t[]){4}));
  lk_tensor b = lk_matmul(t, x, lk_transpose(t, x, 0, 1)), c = lk_mul(t, use(1), use(1));
  lk_tensor twice[2] = {x, lk_sub(t, c, lk_mul(t, x, x))};
  return lk_add(t, weigh(lk_add(t, a, b)), weigh(lk_concat(t, 2, twice, 1)));
}

static lk_tensor whole_and_window_together(void) {
  lk_tensor x = lk_exp(t, use(0)), w = lk_slice(t, x, 1, 0, 4, 1), s = lk_softmax(t, lk_transpose(t, x, 0, 1), 0);
  lk_tensor both[2] = {lk_transpose(t, w, 0, 1), lk_transpose(t, lk_slice(t, x, 1, 2, 4, 1), 0, 1)};
  return lk_add(t, weigh(lk_concat(t, 2, both, 1)), weigh(lk_mul(t, s, lk_transpose(t, x, 0, 1))));
}

START_TEST(test_windows) {
  lk_tensor (*const stories[])(void) = {windows_of_values, windows_of_parameters, same_input_twice,
                                        whole_and_window_together};
  make_param("p", "4 6", LK_F64);
  make_param("q", "4 4", LK_F64);
  lk_tape_set_mode(t, LK_TAPE_POISON);
  ck_gradients(stories[_i]);
}
END_TEST

START_TEST(test_window_shows_the_same_memory) {
  lk_tensor x = INPUT(4, 6), w = lk_slice(t, lk_transpose(t, x, 0, 1), 0, 2, 3, 1);
  lk_view v, r;
  lk_get(t, x, &v);
  lk_get(t, w, &r);
  ck_assert_ptr_eq((double *)v.p + 2, r.p);
  ck_assert_double_eq(lk_view_get(&r, 1), lk_view_get(&v, 8));
  ck_fine();
}
END_TEST

/* ---- changed in place ---- */

static lk_tensor chain(void) {
  lk_tensor x = lk_tanh(t, use(0)), y = lk_linear(t, x, use(1), lk_nil());
  lk_tensor early = lk_scale(t, y, 2); /* used before the change, not read by its backward */
  y = lk_accumulate(t, y, x, use(2), 0.5);
  y = lk_accumulate(t, y, lk_exp(t, x), use(3), -2);
  return lk_add(t, weigh(lk_tanh(t, y)), weigh(early));
}

static lk_tensor chain_on_an_input(void) {
  lk_tensor y = INPUT(3, 2);
  y = lk_accumulate(t, y, use(0), use(1), 2); /* y had no gradient before */
  y = lk_accumulate(t, y, INPUT(3, 4), use(2), 1);
  return weigh(lk_exp(t, y));
}

static lk_tensor chain_on_a_window(void) {
  lk_tensor x = lk_tanh(t, use(0)), both = lk_linear(t, x, lk_concat(t, 2, (lk_tensor[]){use(1), use(2)}, 0), lk_nil());
  lk_tensor w = lk_slice(t, both, 1, 1, 2, 1);
  return weigh(lk_tanh(t, lk_accumulate(t, w, x, use(3), 1)));
}

static lk_tensor chain_into_a_transposed_window(void) {
  lk_tensor x = lk_tanh(t, use(0)), y = lk_matmul(t, use(1), lk_transpose(t, x, 0, 1)); /* [2, 3] */
  y = lk_accumulate(t, lk_transpose(t, y, 0, 1), x, use(2), 1);
  return weigh(lk_sigmoid(t, lk_transpose(t, lk_accumulate(t, y, x, use(3), 0.5), 0, 1)));
}

START_TEST(test_gradients_through_changes) {
  lk_tensor (*const stories[])(void) = {chain, chain_on_an_input, chain_on_a_window, chain_into_a_transposed_window};
  make_param("x", "3 4", LK_F64);
  make_param("W", "2 4", LK_F64);
  make_param("A", "2 4", LK_F64);
  make_param("B", "2 4", LK_F64);
  lk_tape_set_mode(t, LK_TAPE_POISON);
  for (int frozen = -1; frozen < 4; frozen++) {
    for (int i = 0; i < 4; i++) params[i]->requires_grad = i != frozen;
    ck_gradients(stories[_i]);
  }
}
END_TEST

/* What is on the tape for the refusals below: x [3, 4] and y [3, 2] with gradients, W [2, 4]. */
static lk_tensor x, y, W;
static void open_values(void) {
  open_tape();
  make_param("x", "3 4", LK_F64);
  make_param("W", "2 4", LK_F64);
  x = lk_tanh(t, use(0));
  W = use(1);
  y = lk_linear(t, x, W, lk_nil());
}

static void ck_not_changed(lk_tensor what, const char *says) {
  lk_view before, after;
  double old = lk_get(t, what, &before) ? 0 : lk_view_get(&before, 0);
  ck_assert(lk_is_nil(lk_accumulate(t, what, x, W, 1)));
  ck_refused(LK_EARG, says);
  ck_assert_int_eq(lk_get(t, what, &after), 0); /* still valid, and as it was */
  ck_assert_double_eq(lk_view_get(&after, 0), old);
}

START_TEST(test_recorded_reader_is_named) {
  uint32_t s = lk_scope_begin(t, "mlp", 0);
  lk_tensor z = lk_scope_end(t, s, lk_mul(t, y, y));
  ck_not_changed(y, "accumulate: x0 cannot be changed: the backward of mul #5 [3, 2] of mlp will read it; x0 [3, 2]");
  z = lk_exp(t, z);
  ck_not_changed(z, "the backward of exp #6 [3, 2] of the step will read it"); /* its own result */
  ck_not_changed(lk_slice(t, z, 1, 0, 2, 1), "the backward of exp");
  make_param("a", "3 2", LK_F64);
  lk_tensor h = lk_add(t, use(2), y);
  lk_cross_entropy(t, h, lk_input(t, LK_I64, 1, &(int64_t){3}, NULL), -100, 0);
  ck_not_changed(h, "the backward of cross_entropy");
}
END_TEST

START_TEST(test_frozen_readers_do_not_matter) {
  lk_tensor d = lk_detach_value(t, x), h = INPUT(3, 2);
  lk_mul(t, h, INPUT(3, 2));
  h = lk_accumulate(t, h, d, INPUT(2, 4), 1);
  ck_assert(!lk_is_nil(lk_accumulate(t, h, x, W, 1)));
  ck_fine();
}
END_TEST

START_TEST(test_leaves_are_not_changed) {
  make_param("a", "3 2", LK_F64);
  ck_not_changed(use(2), "accumulate: x0 is a parameter or borrowed memory: it is not changed in place");
  double mine[6] = {0};
  lk_view v;
  lk_view_init(&v, LK_F64, 2, (int64_t[]){3, 2});
  v.p = mine;
  ck_not_changed(lk_borrow(t, &v), "borrowed memory");
  ck_not_changed(lk_slice(t, lk_borrow(t, &v), 0, 0, 3, 1), "borrowed memory");
}
END_TEST

static int repeat_shape(lk_call *c) {
  *c->y = c->x[0];
  c->y->shape[0] = 3;
  c->y->stride[0] = 0;
  return 0;
}

START_TEST(test_repeated_and_shared_memory_is_not_changed) {
  const lk_op repeat = {.name = "repeat", .nin = 1, .flags = LK_OP_VIEW, .shape = repeat_shape};
  lk_tensor row = INPUT(1, 2), many = lk_apply(t, &repeat, 1, &row, NULL);
  ck_not_changed(many, "accumulate: x0 repeats elements");
  lk_tensor both = INPUT(3, 6), part = lk_slice(t, both, 1, 0, 2, 1), rest = lk_slice(t, both, 1, 2, 4, 1);
  ck_assert(lk_is_nil(lk_accumulate(t, part, rest, W, 1)));
  ck_refused(LK_EARG, "x0 and x1 share memory");
  ck_assert(lk_is_nil(lk_accumulate(t, part, x, lk_slice(t, rest, 0, 0, 2, 1), 1)));
  ck_refused(LK_EARG, "x0 and x2 share memory");
  ck_assert(!lk_is_nil(lk_accumulate(t, lk_slice(t, both, 1, 0, 2, 2), x, W, 1)));
  ck_fine();
}
END_TEST

START_TEST(test_history_is_not_cut) {
  lk_tensor h = lk_scale(t, y, 2), d = lk_detach_value(t, h);
  ck_not_changed(d, "x0 has no gradient but shares its memory with a value that has one");
  lk_no_grad(t, 1);
  ck_not_changed(h, "x0 has a gradient, which an unrecorded change would cut");
  lk_tensor free_value = INPUT(3, 2);
  ck_assert(!lk_is_nil(lk_accumulate(t, free_value, x, W, 1)));
  ck_fine();
}
END_TEST

START_TEST(test_old_handles_and_windows_are_stale) {
  lk_tensor w = lk_slice(t, y, 1, 0, 1, 1), z = lk_accumulate(t, y, x, W, 1);
  lk_neg(t, w);
  ck_refused(LK_ESTALE, "was changed in place; use what the change returned");
  lk_get(t, y, &(lk_view){0});
  ck_refused(LK_ESTALE, "get: argument 0 (linear #4 [3, 2] of the step) was changed in place");
  lk_tensor z2 = lk_accumulate(t, z, x, W, 1);
  lk_neg(t, z);
  ck_refused(LK_ESTALE, "changed in place");
  lk_drop(t, z);
  ck_refused(LK_ESTALE, "drop");
  lk_scope_end(t, lk_scope_begin(t, "s", 0), z);
  ck_refused(LK_ESTALE, "s: argument 0");
  lk_backward(t, weigh(z2));
  ck_fine();
}
END_TEST

START_TEST(test_changes_in_recomputed_scopes) {
  uint32_t s = lk_scope_begin(t, "block", LK_SCOPE_RECOMPUTE);
  ck_not_changed(y, "accumulate: x0 was made outside the recomputed scope");
  lk_tensor h = lk_linear(t, x, W, lk_nil());
  lk_scale(t, h, 2);
  ck_not_changed(h, "x0 was used before; in a recomputed scope only a value that nobody used is changed");
  h = lk_linear(t, lk_exp(t, x), W, lk_nil());
  lk_tensor narrow = lk_slice(t, lk_linear(t, x, W, lk_nil()), 1, 0, 2, 1);
  ck_not_changed(INPUT(3, 2), "x0 is an input made in a recomputed scope");
  lk_accumulate(t, lk_neg(t, INPUT(3, 2)), h, INPUT(2, 2), 1); /* uses h; its backward will not read it */
  ck_not_changed(h, "x0 was used before");
  h = lk_accumulate(t, narrow, x, W, 1);
  h = lk_accumulate(t, h, x, W, 2);
  lk_tensor out = lk_scope_end(t, s, lk_mul(t, h, h));
  ck_fine();
  lk_backward(t, sum_all(out));
  ck_fine();
}
END_TEST

/* What only a replay reads must not change after its scope either. */
START_TEST(test_replay_inputs_are_not_changed) {
  lk_tensor h = lk_scale(t, y, 2);
  uint32_t s = lk_scope_begin(t, "block", LK_SCOPE_RECOMPUTE);
  lk_tensor out = lk_scope_end(t, s, lk_neg(t, lk_exp(t, lk_scale(t, h, 3))));
  ck_not_changed(h, "x0 cannot be changed: the backward of scale #6 [3, 2] of block will read it");
  out = lk_accumulate(t, out, x, W, 1); /* its result may be: no replay makes it again */
  ck_fine();
  lk_backward(t, weigh(out));
  ck_fine();
}
END_TEST

START_TEST(test_replay_of_a_kept_changed_value) {
  double want[8];
  for (int flags = 0; flags < 2; flags++) {
    lk_tape_reset(t);
    zero_grads();
    x = lk_tanh(t, use(0));
    uint32_t s = lk_scope_begin(t, "block", flags);
    /* layer_norm saves, its result is changed, and stays visible until the replay */
    lk_tensor h = lk_layer_norm(t, lk_linear(t, x, use(1), lk_nil()), lk_nil(), lk_nil(), 1e-3);
    lk_keep(t, h = lk_accumulate(t, h, x, use(1), 2));
    lk_tensor out = lk_scope_end(t, s, lk_exp(t, lk_mul(t, h, h)));
    lk_backward(t, lk_add(t, weigh(out), weigh(lk_mul(t, h, h))));
    ck_fine();
    for (int i = 0; i < 8; i++) {
      if (!flags) want[i] = gradient_of(params[1], i);
      ck_assert_double_eq(gradient_of(params[1], i), want[i]);
    }
  }
}
END_TEST

static int packed_shape(lk_call *c) {
  *c->y = c->x[0];
  return 0;
}
static int packed_forward(lk_call *c) { return (void)c, 0; }
static int saving_forward(lk_call *c) { return lk_save(c, 8) ? 0 : -1; }
static uint32_t reads_nothing(const lk_call *c) { return (void)c, 0; }

START_TEST(test_ops_in_place_keep_to_the_rules) {
  const lk_op packed = {.name = "packed",
                        .nin = 1,
                        .flags = LK_OP_INPLACE | LK_OP_PACKED,
                        .shape = packed_shape,
                        .fwd = packed_forward,
                        .bwd = packed_forward,
                        .reads = reads_nothing};
  lk_op saving = packed;
  saving.nin = 2;
  saving.fwd = saving_forward;
  lk_tensor yt = lk_transpose(t, lk_scale(t, y, 1), 0, 1);
  ck_assert(lk_is_nil(lk_apply(t, &packed, 1, &yt, NULL)));
  ck_refused(LK_EARG, "packed: x0 has gaps");
  ck_assert(lk_is_nil(lk_apply(t, &saving, 2, (lk_tensor[]){lk_scale(t, y, 1), W}, NULL)));
  ck_refused(LK_EARG, "packed: an op in place must not lk_save");
}
END_TEST

int main(void) {
  SUITE("in place");
  tcase_add_loop_test(tcase, test_windows, 0, 4);
  tcase_add_test(tcase, test_window_shows_the_same_memory);
  tcase_add_loop_test(tcase, test_gradients_through_changes, 0, 4);
  TCase *values = tcase_create("values");
  suite_add_tcase(suite, values);
  tcase_add_checked_fixture(values, open_values, close_tape);
  tcase_add_test(values, test_recorded_reader_is_named);
  tcase_add_test(values, test_frozen_readers_do_not_matter);
  tcase_add_test(values, test_leaves_are_not_changed);
  tcase_add_test(values, test_repeated_and_shared_memory_is_not_changed);
  tcase_add_test(values, test_history_is_not_cut);
  tcase_add_test(values, test_old_handles_and_windows_are_stale);
  tcase_add_test(values, test_changes_in_recomputed_scopes);
  tcase_add_test(values, test_replay_inputs_are_not_changed);
  tcase_add_test(values, test_replay_of_a_kept_changed_value);
  tcase_add_test(values, test_ops_in_place_keep_to_the_rules);
  return run_suite(suite);
}
