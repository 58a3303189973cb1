/* test_core.c: the tape as a user meets it: errors and their words, handles, leaves, shapes, dtypes, backward. */
#include "tape.h"

/* ---- errors ---- */

START_TEST(test_first_error_stays) {
  lk_tensor a = INPUT(2, 5, 7), b = INPUT(4, 3);
  uint32_t s[4] = {lk_scope_begin(t, "model", 0), lk_scope_begin(t, "layers.0", 0), lk_scope_begin(t, "q_proj", 0),
                   lk_scope_begin(t, "lora", 0)};
  lk_tensor y = lk_matmul(t, a, b);
  ck_assert(lk_is_nil(y));
  for (int i = 4; i-- > 0;) y = lk_scope_end(t, s[i], lk_relu(t, y));
  ck_assert(lk_is_nil(y));
  ck_assert(lk_is_nil(lk_add(t, a, b)));
  ck_assert_int_eq(lk_backward(t, y), LK_ESHAPE);
  ck_assert_int_eq(lk_fail(ctx, LK_EIO, "later"), LK_ESHAPE);
  lk_tape_reset(t);
  ck_assert(lk_is_nil(INPUT(2)));
  ck_message("matmul: inner sizes differ: 7 and 4; x0 [2, 5, 7], x1 [4, 3]; in model.layers.0.q_proj.lora");
  lk_tape_reset(t);
  ck_assert(!lk_is_nil(INPUT(2)));
  ck_fine();
}
END_TEST

START_TEST(test_words_of_handles) {
  lk_tensor x = INPUT(3), old = x;
  uint32_t s = lk_scope_begin(t, "block", 0);
  lk_tensor inner = lk_relu(t, x);
  lk_add(t, x, lk_nil());
  ck_message("add: argument 1 is nil; in block");
  lk_scope_end(t, s, lk_neg(t, inner));
  lk_add(t, inner, x);
  ck_message("add: argument 0 is dead: relu #2 [3] of block; it was neither a result of its scope nor kept");
  lk_tape *other = lk_tape_new(ctx);
  ck_assert(lk_is_nil(lk_neg(other, x)));
  ck_refused(LK_ESTALE, "neg: argument 0 is not a value of this step of this tape");
  lk_tape_free(other);
  lk_tape_reset(t);
  x = INPUT(3);
  lk_neg(t, old);
  ck_refused(LK_ESTALE, "not a value of this step");
  lk_neg(t, (lk_tensor){12345, 1});
  ck_refused(LK_ESTALE, "not a value of this step");
  lk_tensor y = lk_accumulate(t, x, INPUT(2), INPUT(3, 2), 1);
  ck_fine();
  lk_neg(t, x);
  ck_message("neg: argument 0 (value #1 [3] of the step) was changed in place; use what the change returned");
  ck_assert(!lk_is_nil(lk_neg(t, y)));
}
END_TEST

START_TEST(test_words_of_types) {
  lk_tensor f = lk_scalar(t, LK_F32, 1), d = lk_scalar(t, LK_F64, 2), i = lk_scalar(t, LK_I64, 3);
  lk_add(t, f, d);
  ck_message("add: x0 is f32 and x1 f64; x0 [], x1 []");
  lk_exp(t, i);
  ck_refused(LK_EDTYPE, "exp: x0 is i64, not f32 or f64");
  lk_embedding(t, INPUT(3, 2), d);
  ck_refused(LK_EDTYPE, "embedding: x1 is f64, not an index (i64 or i32)");
  lk_where(t, i, d, d);
  ck_refused(LK_EDTYPE, "where: x0 is i64, not a mask (u8)");
  ck_assert(lk_is_nil(lk_scalar(t, LK_U8, 1)));
  ck_refused(LK_EDTYPE, "scalar: u8");
  ck_assert_double_eq(lk_item(t, i), 3);
}
END_TEST

START_TEST(test_words_of_shapes) {
  lk_add(t, INPUT(2, 3), INPUT(2, 4));
  ck_refused(LK_ESHAPE, "add: axis 1 does not broadcast: 3 and 4; x0 [2, 3], x1 [2, 4]");
  lk_item(t, INPUT(2, 1));
  ck_message("item: the value has shape [2, 1], not one element");
  lk_size(t, INPUT(2, 1), 2);
  ck_refused(LK_ESHAPE, "size: axis 2 of a value with 2 axes");
  ck_assert_int_eq(lk_size(t, INPUT(2, 5), -1), 5);
  ck_assert_int_eq(lk_ndim(t, INPUT(2, 5)), 2);
  ck_assert_int_eq(lk_dtype_of(t, lk_scalar(t, LK_F32, 0)), LK_F32);
}
END_TEST

START_TEST(test_sizes_out_of_bounds) {
  int64_t long_shape[LK_MAXDIM + 1] = {1, 1, 1, 1, 1, 1, 1}, huge = INT64_C(1) << 61, large = INT64_C(1) << 31;
  ck_assert(lk_is_nil(lk_input(t, LK_F32, LK_MAXDIM + 1, long_shape, NULL)));
  ck_refused(LK_ESHAPE, "more than 6 axes");
  ck_assert(lk_is_nil(lk_input(t, LK_F32, -1, NULL, NULL)));
  ck_refused(LK_ESHAPE, "input: ");
  ck_assert(lk_is_nil(lk_input(t, LK_F32, 1, &(int64_t){-3}, NULL)));
  ck_refused(LK_ESHAPE, "negative");
  ck_assert(lk_is_nil(lk_input(t, LK_F64, 1, &huge, NULL)));
  ck_refused(LK_ESHAPE, "too large");
  ck_assert(lk_is_nil(lk_input(t, LK_F32, 3, (int64_t[]){large, large, large}, NULL)));
  ck_refused(LK_ESHAPE, "too large");
  ck_assert(!lk_is_nil(INPUT(3)));
  memory.fail_at = memory.calls + 1;
  ck_assert(lk_is_nil(lk_input(t, LK_F32, 2, (int64_t[]){1 << 10, 1 << 10}, NULL)));
  ck_refused(LK_ENOMEM, "tape: out of memory: 4194304 bytes more; ");
  lk_tensor one = lk_input(t, LK_F32, LK_MAXDIM, long_shape, NULL);
  ck_assert_double_eq(lk_item(t, lk_exp(t, one)), 1);
  lk_stack(t, 1, &one, 0);
  ck_refused(LK_ESHAPE, "more than 6 axes");
  /* results too large although the inputs are not */
  float memory_of_one = 1;
  lk_view wide = {.p = &memory_of_one, .dtype = LK_F32, .ndim = 2, .shape = {INT64_C(1) << 40, 1}};
  lk_tensor x = lk_borrow(t, &wide), xt = lk_transpose(t, x, 0, 1);
  ck_fine();
  lk_add(t, x, xt);
  ck_refused(LK_ESHAPE, "add: the result is too large");
  lk_matmul(t, x, xt);
  ck_refused(LK_ESHAPE, "matmul: the result is too large");
}
END_TEST

START_TEST(test_wrong_calls) {
  lk_tensor many[LK_MAXIN + 1];
  for (int i = 0; i <= LK_MAXIN; i++) many[i] = INPUT(2);
  const lk_op sum = {.name = "sum_of_all", .nin = -1}, pair = {.name = "pair", .nin = 2};
  ck_assert(lk_is_nil(lk_apply(t, &sum, LK_MAXIN + 1, many, NULL)));
  ck_refused(LK_EARG, "sum_of_all: 17 inputs");
  ck_assert(lk_is_nil(lk_apply(t, &sum, 0, many, NULL)));
  ck_refused(LK_EARG, "sum_of_all: 0 inputs");
  ck_assert(lk_is_nil(lk_apply(t, &pair, 3, many, NULL)));
  ck_refused(LK_EARG, "pair: 3 inputs");
  ck_assert(lk_is_nil(lk_apply(t, &pair, 1, many, NULL)));
  ck_refused(LK_EARG, "pair: 1 inputs");
  ck_assert(lk_is_nil(lk_borrow(t, NULL)));
  ck_refused(LK_ENIL, "borrow: the view has no memory");
  lk_view v;
  lk_view_init(&v, LK_F64, 1, (int64_t[]){3});
  ck_assert(lk_is_nil(lk_leaf(t, &v, NULL)));
  ck_refused(LK_ENIL, "leaf: the view has no memory");
  double x[6] = {0}, g[6];
  v.p = x;
  v.stride[0] = 2;
  ck_assert(lk_is_nil(lk_leaf(t, &v, g)));
  ck_refused(LK_EARG, "row-major");
  ck_assert(!lk_is_nil(lk_leaf(t, &v, NULL)));
  ck_assert(lk_is_nil(lk_use(t, NULL)));
  ck_fine();
  ck_assert_int_eq(lk_backward(t, lk_nil()), LK_ENIL);
  ck_refused(LK_ENIL, "backward: argument 0 is nil");
}
END_TEST

START_TEST(test_no_tape) {
  lk_view v;
  lk_tape_reset(NULL);
  lk_tape_free(NULL);
  lk_train(NULL, 0, 0);
  lk_tape_set_mode(NULL, LK_TAPE_LIVE);
  lk_tape_in_double(NULL, 1);
  ck_assert(!lk_tape_ctx(NULL) && !lk_is_training(NULL) && !lk_no_grad(NULL, 1) && !lk_grad_enabled(NULL));
  ck_assert_uint_eq(lk_tape_statistics(NULL).nodes + lk_tape_print(NULL, NULL, 0), 0);
  lk_tensor x = lk_input(NULL, LK_F32, 0, NULL, NULL), y = lk_add(NULL, x, lk_scalar(NULL, LK_F32, 1));
  ck_assert(lk_is_nil(y) && lk_is_nil(lk_side_get(NULL, "x")) && lk_is_nil(lk_scope_end(NULL, 1, y)));
  ck_assert_int_eq(lk_scope_begin(NULL, "x", 0), 0);
  ck_assert_int_eq(lk_get(NULL, y, &v), -1);
  ck_assert_int_eq(lk_backward(NULL, y), LK_ENIL);
  lk_keep(NULL, y);
  lk_drop(NULL, y);
  lk_side(NULL, "x", y);
  ck_assert_int_eq(lk_error(NULL, NULL), LK_ENOMEM);
}
END_TEST

START_TEST(test_print) {
  char all[2000], little[20];
  make_param("p", "3", LK_F64);
  lk_tensor p = use(0), x = INPUT(3);
  lk_mul(t, p, lk_exp(t, x));
  size_t n = lk_tape_print(t, all, sizeof all);
  ck_assert_uint_eq(n, strlen(all));
  ck_assert_ptr_nonnull(strstr(all, "mul #4 [3] of the step * <- 1 3\n"));
  ck_assert_uint_eq(lk_tape_print(t, little, sizeof little), n);
  ck_assert_uint_eq(strlen(little), sizeof little - 1);
  ck_assert_uint_eq(lk_tape_print(t, NULL, 0), n);
}
END_TEST

/* ---- leaves ---- */

START_TEST(test_parameter_is_one_leaf) {
  make_param("p", "2", LK_F64);
  lk_tensor a = use(0), b = use(0);
  ck_assert(a.id == b.id && a.gen == b.gen);
  lk_backward(t, sum_all(lk_mul(t, a, b)));
  ck_fine();
  const double *x = params[0]->value.p;
  ck_assert_double_eq(gradient_of(params[0], 0), 2 * x[0]);
  ck_assert_double_eq(gradient_of(params[0], 1), 2 * x[1]);
}
END_TEST

START_TEST(test_tied_parameters) {
  lk_param *p = make_param("embedding", "2", LK_F64);
  lk_param *tied = lk_param_new_shape(ctx, "head", LK_TRAINED, LK_F64, 1, (int64_t[]){2});
  params[nparams++] = tied;
  tied->alias = p;
  lk_tensor a = lk_use(t, p), b = lk_use(t, tied);
  ck_assert_uint_eq(a.id, b.id);
  lk_backward(t, sum_all(lk_mul(t, a, b)));
  ck_fine();
  ck_assert_double_eq(gradient_of(p, 1), 2 * ((double *)p->value.p)[1]);
  ck_assert(!tied->has_grad);
}
END_TEST

START_TEST(test_stand_in) {
  lk_param *base = make_param("base", "2", LK_F64), *copy = make_param("copy", "2", LK_F64);
  base->stand_in = copy;
  lk_backward(t, sum_all(lk_use(t, base)));
  ck_assert(!base->has_grad && copy->has_grad);
  base->stand_in = NULL;
  lk_tape_reset(t);
  lk_backward(t, sum_all(lk_use(t, base)));
  ck_assert(base->has_grad);
  ck_fine();
}
END_TEST

START_TEST(test_parameter_without_memory) {
  params[nparams++] = lk_param_new_shape(ctx, "counted", LK_TRAINED, LK_F32, 1, (int64_t[]){2});
  ck_assert(lk_is_nil(use(0)));
  ck_refused(LK_EARG, "parameter counted has a shape but no memory");
}
END_TEST

START_TEST(test_frozen_and_whole_number_parameters) {
  lk_param *p = make_param("frozen", "2 3", LK_F64), *ids = make_param("ids", "2", LK_I64);
  p->requires_grad = 0;
  ck_assert_int_eq(lk_backward(t, sum_all(lk_use(t, p))), LK_ENOGRAD);
  ck_message("backward: no trainable value leads here");
  lk_backward(t, sum_all(lk_embedding(t, lk_use(t, p), lk_use(t, ids))));
  ck_refused(LK_ENOGRAD, "no trainable value");
  ck_assert(!p->grad && !ids->grad);
}
END_TEST

START_TEST(test_no_grad_first_then_grad) {
  make_param("p", "2", LK_F64);
  ck_assert_int_eq(lk_no_grad(t, 1), 0);
  lk_tensor constant = sum_all(lk_exp(t, use(0)));
  ck_assert_int_eq(lk_no_grad(t, 0), 1);
  ck_assert_int_eq(lk_backward(t, constant), LK_ENOGRAD);
  lk_error_clear(ctx);
  lk_tensor y = sum_all(lk_exp(t, use(0)));
  ck_assert_double_eq(lk_item(t, y), lk_item(t, constant));
  lk_backward(t, lk_mul(t, y, constant));
  ck_fine();
  ck_assert_double_eq_tol(gradient_of(params[0], 0), lk_item(t, y) * exp(*(double *)params[0]->value.p), 1e-12);
}
END_TEST

START_TEST(test_gradients_add_up_until_zeroed) {
  lk_param *p = make_param("p", "2", LK_F64);
  for (int i = 1; i <= 3; i++) {
    lk_tape_reset(t);
    lk_backward(t, sum_all(lk_scale(t, use(0), 2)));
    ck_assert_double_eq(gradient_of(p, 1), 2 * i);
  }
  lk_param_zero_grad(p);
  ck_assert_double_eq(gradient_of(p, 1), 0);
  lk_tape_reset(t);
  lk_backward(t, sum_all(lk_slice(t, use(0), 0, 1, 1, 1)));
  ck_assert_double_eq(gradient_of(p, 0), 0);
  ck_assert_double_eq(gradient_of(p, 1), 1);
  ck_fine();
}
END_TEST

START_TEST(test_two_live_tapes) {
  lk_param *p = make_param("p", "2", LK_F64);
  lk_tape *u = lk_tape_new(ctx);
  const double one[2] = {1, 1};
  /* alternating: the leaf of each tape is asked for again after the other's */
  lk_tensor a = lk_use(t, p), b = lk_use(u, p), c = lk_use(t, p), d = lk_use(u, p);
  lk_tensor y = lk_mul(t, a, c), z = lk_mul(u, b, d);
  lk_backward_from(u, z, one);
  lk_backward_from(t, y, one);
  ck_fine();
  ck_assert_double_eq(gradient_of(p, 1), 4 * ((double *)p->value.p)[1]);
  lk_neg(u, y);
  ck_refused(LK_ESTALE, "not a value of this step of this tape");
  lk_tape_free(u);
}
END_TEST

START_TEST(test_leaf_in_callers_memory) {
  double x[3] = {1, 2, 3}, g[3] = {10, 20, 30};
  lk_view v;
  lk_view_init(&v, LK_F64, 1, (int64_t[]){3});
  v.p = x;
  lk_backward(t, sum_all(lk_exp(t, lk_leaf(t, &v, g))));
  ck_fine();
  for (int i = 0; i < 3; i++) ck_assert_double_eq_tol(g[i], 10 * (i + 1) + exp(x[i]), 1e-12);
}
END_TEST

START_TEST(test_in_double) {
  lk_param *p = make_param("p", "2", LK_F32);
  lk_tape_in_double(t, 1);
  lk_tensor x = lk_use(t, p);
  ck_assert_int_eq(lk_dtype_of(t, x), LK_F64);
  ck_assert_double_eq(lk_item(t, lk_slice(t, x, 0, 1, 1, 1)), ((float *)p->value.p)[1]);
  ck_assert_int_eq(lk_backward(t, sum_all(x)), LK_ENOGRAD);
  lk_error_clear(ctx);
  lk_tape_in_double(t, 0);
  ck_assert_int_eq(lk_dtype_of(t, lk_use(t, p)), LK_F32);
}
END_TEST

START_TEST(test_side_inputs) {
  ck_assert(lk_is_nil(lk_side_get(t, "mask")));
  uint32_t s = lk_scope_begin(t, "inner", 0);
  lk_tensor x = INPUT(3), y = INPUT(4);
  lk_side(t, "mask", x);
  lk_side(t, "ids", y);
  lk_scope_end_n(t, s, 0, NULL);
  ck_assert_uint_eq(lk_side_get(t, "mask").id, x.id);
  ck_assert_int_eq(lk_size(t, lk_side_get(t, "ids"), 0), 4);
  lk_side(t, "mask", y);
  ck_assert_uint_eq(lk_side_get(t, "mask").id, y.id);
  ck_fine();
  lk_side(t, "mask", lk_nil());
  ck_refused(LK_ENIL, "mask: argument 0 is nil");
  lk_tape_reset(t);
  ck_assert(lk_is_nil(lk_side_get(t, "mask")));
}
END_TEST

/* ---- backward ---- */

START_TEST(test_second_backward_is_refused) {
  make_param("p", "2", LK_F64);
  lk_tensor trunk = lk_exp(t, use(0)), a = sum_all(trunk), b = sum_all(lk_neg(t, trunk));
  lk_backward(t, a);
  ck_fine();
  ck_assert_int_eq(lk_backward(t, b), LK_EARG);
  ck_refused(LK_EARG, "backward: went through exp #2 [2] of the step before; add the losses, or go forward again");
  lk_backward(t, a);
  ck_refused(LK_EARG, "backward: went through sum");
}
END_TEST

START_TEST(test_backward_of_what) {
  make_param("p", "2", LK_F64);
  ck_assert_int_eq(lk_backward(t, use(0)), LK_ESHAPE);
  ck_message("backward: the loss has shape [2], not one element");
  lk_backward_from(t, use(0), NULL);
  ck_refused(LK_ENIL, "no cotangent");
  lk_backward_from(t, use(0), (double[]){3, 4});
  ck_assert_double_eq(gradient_of(params[0], 1), 4);
  lk_backward_from(t, lk_slice(t, lk_transpose(t, lk_reshape(t, use(0), 2, (int64_t[]){2, 1}), 0, 1), 1, 1, 1, 1),
                   &(double){5});
  ck_assert_double_eq(gradient_of(params[0], 0), 3);
  ck_assert_double_eq(gradient_of(params[0], 1), 9);
  ck_fine();
}
END_TEST

START_TEST(test_parameter_changed_in_between) {
  lk_param *w = make_param("layer.weight", "2", LK_F64), *b = make_param("layer.bias", "2", LK_F64);
  lk_tensor y = lk_add(t, lk_mul(t, lk_exp(t, use(0)), use(0)), use(1));
  lk_param_touch(b); /* nobody reads it in backward */
  lk_tensor loss = sum_all(y);
  lk_param_touch(w);
  ck_assert_int_eq(lk_backward(t, loss), LK_EARG);
  ck_message("mul: x1, parameter layer.weight, was changed between forward and backward; x0 [2], x1 [2]");
  lk_tape_reset(t);
  lk_backward(t, sum_all(lk_mul(t, use(0), use(0))));
  ck_fine();
}
END_TEST

START_TEST(test_detach) {
  make_param("p", "3", LK_F64);
  lk_tensor x = lk_exp(t, use(0)), d = lk_detach_value(t, x);
  lk_view v, w;
  lk_get(t, x, &v);
  lk_get(t, d, &w);
  ck_assert_ptr_eq(v.p, w.p);
  ck_assert_int_eq(lk_backward(t, sum_all(d)), LK_ENOGRAD);
  lk_error_clear(ctx);
  lk_backward(t, sum_all(lk_mul(t, x, d)));
  ck_fine();
  double e = exp(*(double *)params[0]->value.p);
  ck_assert_double_eq_tol(gradient_of(params[0], 0), e * e, 1e-12);
}
END_TEST

static int half_shape(lk_call *c) { return lk_view_init(c->y, c->x[0].dtype, c->x[0].ndim, c->x[0].shape); }
static int half_forward(lk_call *c) {
  lk_view_copy(c->y, &c->x[0]);
  return 0;
}
static int silent(lk_call *c) { return (void)c, -1; }
static int nesting(lk_call *c) { return lk_is_nil(lk_scalar(c->tape, LK_F64, 1)) ? 0 : -1; }

START_TEST(test_ops_that_misbehave) {
  const lk_op no_backward = {.name = "half", .nin = 1, .shape = half_shape, .fwd = half_forward};
  const lk_op no_reason = {.name = "mute", .nin = 1, .shape = half_shape, .fwd = silent};
  const lk_op no_shape = {.name = "shapeless", .nin = 1, .shape = silent, .fwd = half_forward};
  const lk_op nests = {.name = "nests", .nin = 1, .shape = half_shape, .fwd = nesting};
  const lk_op empty = {.name = "empty", .nin = 1, .shape = half_shape};
  lk_op mute_backward = no_backward;
  make_param("p", "1", LK_F64);
  mute_backward.bwd = silent;
  lk_tensor x = use(0), y = lk_apply(t, &no_backward, 1, &x, NULL);
  lk_backward(t, y);
  ck_refused(LK_ENOGRAD, "backward: half has no backward");
  ck_assert(lk_is_nil(lk_apply(t, &no_reason, 1, &x, NULL)));
  ck_refused(LK_EARG, "mute: forward failed and did not say why; x0 [1]");
  ck_assert(lk_is_nil(lk_apply(t, &no_shape, 1, &x, NULL)));
  ck_refused(LK_ESHAPE, "shapeless: these shapes are not allowed");
  lk_backward(t, lk_apply(t, &mute_backward, 1, &x, NULL));
  ck_refused(LK_EARG, "half: backward failed and did not say why");
  ck_assert(lk_is_nil(lk_apply(t, &nests, 1, &x, NULL)));
  ck_refused(LK_EARG, "value: called inside another operator");
  ck_assert(lk_is_nil(lk_apply(t, &empty, 1, &x, NULL)));
  ck_refused(LK_EARG, "empty: it has no forward; x0 [1]");
  ck_assert(!lk_is_nil(lk_exp(t, x)));
}
END_TEST

static int strided_shape(lk_call *c) {
  *c->y = c->x[0];
  return 0;
}

START_TEST(test_result_with_strides_is_refused) {
  const lk_op careless = {.name = "careless", .nin = 1, .shape = strided_shape, .fwd = half_forward};
  lk_tensor x = lk_transpose(t, INPUT(2, 3), 0, 1);
  ck_assert(lk_is_nil(lk_apply(t, &careless, 1, &x, NULL)));
  ck_refused(LK_EARG, "careless: its shape function gave the result strides");
}
END_TEST

/* ---- shapes at their limits ---- */

START_TEST(test_empty_values) {
  make_param("p", "0 3", LK_F64);
  make_param("w", "4 3", LK_F64);
  lk_tensor y = lk_linear(t, lk_exp(t, use(0)), use(1), lk_nil());
  ck_assert_int_eq(lk_size(t, y, 0), 0);
  ck_assert_int_eq(lk_size(t, y, 1), 4);
  lk_tensor loss = lk_add(t, sum_all(y), sum_all(lk_mul(t, lk_transpose(t, y, 0, 1), INPUT(4, 1))));
  ck_assert_double_eq(lk_item(t, loss), 0);
  lk_backward(t, loss);
  ck_fine();
  ck_assert(params[0]->has_grad && params[1]->has_grad);
  for (int i = 0; i < 12; i++) ck_assert_double_eq(gradient_of(params[1], i), 0);
}
END_TEST

static lk_tensor broadcasts(void) {
  lk_tensor a = use(0), b = use(1), c = use(2), s = use(3);
  lk_tensor y = lk_mul(t, lk_add(t, a, b), lk_sub(t, c, s)); /* [2, 1, 3] and [4, 1]; [] and [3] */
  y = lk_add(t, y, lk_mul(t, s, s));
  y = lk_maximum(t, y, lk_transpose(t, b, 0, 1)); /* a strided input, broadcast */
  return weigh(lk_mul(t, y, lk_exp(t, lk_scale(t, a, 0.1))));
}

START_TEST(test_broadcasts) {
  make_param("a", "2 1 3", LK_F64);
  make_param("b", "3 1", LK_F64);
  make_param("c", "3", LK_F64);
  make_param("s", "", LK_F64);
  ck_gradients(broadcasts);
}
END_TEST

static lk_tensor most_axes(void) {
  lk_tensor y = lk_mul(t, use(0), lk_transpose(t, use(1), 0, LK_MAXDIM - 1));
  return weigh(lk_matmul(t, y, lk_transpose(t, y, -1, -2)));
}

START_TEST(test_most_axes) {
  make_param("a", "2 1 2 1 2 3", LK_F64);
  make_param("b", "3 2 1 2 1 2", LK_F64);
  ck_gradients(most_axes);
}
END_TEST

int main(void) {
  SUITE("core");
  tcase_add_test(tcase, test_first_error_stays);
  tcase_add_test(tcase, test_words_of_handles);
  tcase_add_test(tcase, test_words_of_types);
  tcase_add_test(tcase, test_words_of_shapes);
  tcase_add_test(tcase, test_sizes_out_of_bounds);
  tcase_add_test(tcase, test_wrong_calls);
  tcase_add_test(tcase, test_no_tape);
  tcase_add_test(tcase, test_print);
  tcase_add_test(tcase, test_parameter_is_one_leaf);
  tcase_add_test(tcase, test_tied_parameters);
  tcase_add_test(tcase, test_stand_in);
  tcase_add_test(tcase, test_parameter_without_memory);
  tcase_add_test(tcase, test_frozen_and_whole_number_parameters);
  tcase_add_test(tcase, test_no_grad_first_then_grad);
  tcase_add_test(tcase, test_gradients_add_up_until_zeroed);
  tcase_add_test(tcase, test_two_live_tapes);
  tcase_add_test(tcase, test_leaf_in_callers_memory);
  tcase_add_test(tcase, test_in_double);
  tcase_add_test(tcase, test_side_inputs);
  tcase_add_test(tcase, test_second_backward_is_refused);
  tcase_add_test(tcase, test_backward_of_what);
  tcase_add_test(tcase, test_parameter_changed_in_between);
  tcase_add_test(tcase, test_detach);
  tcase_add_test(tcase, test_ops_that_misbehave);
  tcase_add_test(tcase, test_result_with_strides_is_refused);
  tcase_add_test(tcase, test_empty_values);
  tcase_add_test(tcase, test_broadcasts);
  tcase_add_test(tcase, test_most_axes);
  return run_suite(suite);
}
