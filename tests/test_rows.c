/* test_rows.c: what mixtures of experts need: rows gathered, products scattered back, ties, noise, the pass's key. */
#include "tape.h"

enum { T = 90, N = 600, R = 3, PICKED = 150 };

static lk_tensor input(lk_dtype dtype, int64_t rows, int64_t cols, const char *label) {
  lk_view v;
  lk_tensor x = lk_input(t, dtype, 2, (int64_t[]){rows, cols}, NULL);
  lk_get(t, x, &v);
  for (int64_t i = 0; i < rows * cols; i++) lk_view_set(&v, i, lk_random_normal(lk_key_make(3, label), (uint64_t)i));
  return x;
}

/* Places with repetitions. */
static int64_t place(int64_t k) { return k * k % T; }

static lk_tensor places(lk_dtype dtype) {
  int64_t wide[PICKED];
  int32_t narrow[PICKED];
  for (int64_t k = 0; k < PICKED; k++) narrow[k] = (int32_t)(wide[k] = place(k));
  return lk_input(t, dtype, 1, (int64_t[]){PICKED}, dtype == LK_I64 ? (void *)wide : (void *)narrow);
}

static lk_tensor strided(lk_tensor x, int64_t rows, int64_t cols) {
  lk_tensor wide = lk_concat(t, 2, (lk_tensor[]){x, x}, 1);
  lk_tensor turned = lk_contiguous(t, lk_transpose(t, wide, 0, 1)); /* [2 cols, rows] */
  ck_assert_int_eq(lk_size(t, turned, 1), rows);
  return lk_transpose(t, lk_slice(t, turned, 0, 0, cols, 1), 0, 1);
}

/* ---- values and gradients against loops ---- */

START_TEST(test_rows_are_gathered_and_added_back) {
  lk_dtype dtype = _i & 1 ? LK_F64 : LK_F32;
  lk_view x, y, g = {.dtype = dtype};
  lk_tensor from = input(dtype, T, N, "x");
  lk_get(t, from, &x);
  double *grad = lk_alloc_array(ctx, T * N, sizeof *grad);
  lk_tensor leaf = lk_leaf(t, &x, grad), picked = leaf;
  if (_i & 2) picked = strided(leaf, T, N);
  picked = lk_index_select(t, picked, 0, places(_i & 4 ? LK_I32 : LK_I64));
  lk_get(t, picked, &y);
  ck_fine();
  double *gy = lk_alloc_array(ctx, PICKED * N, sizeof *gy), *sum = lk_alloc_array(ctx, T * N, sizeof *sum);
  lk_view c = y;
  c.p = gy;
  for (int64_t k = 0; k < PICKED; k++)
    for (int64_t i = 0; i < N; i++) {
      ck_assert_double_eq(lk_view_get(&y, k * N + i), lk_view_get(&x, place(k) * N + i));
      lk_view_set(&c, k * N + i, (double)((k * 7 + i * 3) % 16 - 8));
      sum[place(k) * N + i] += (double)((k * 7 + i * 3) % 16 - 8); /* whole numbers: exact in any order */
    }
  lk_backward_from(t, picked, gy);
  ck_fine();
  lk_view_init(&g, dtype, 2, (int64_t[]){T, N});
  g.p = grad;
  for (int64_t i = 0; i < T * N; i++) ck_assert_double_eq(lk_view_get(&g, i), sum[i]);
  lk_free(ctx, gy);
  lk_free(ctx, sum);
  lk_free(ctx, grad);
}
END_TEST

/* y + s h B^T at the places, the simple way. */
static double expected(const lk_view *y, const lk_view *h, const lk_view *B, double s, int64_t row, int64_t col) {
  double sum = lk_view_get(y, row * N + col);
  for (int64_t k = 0; k < PICKED; k++)
    for (int64_t r = 0; place(k) == row && r < R; r++)
      sum += s * lk_view_get(h, k * R + r) * lk_view_get(B, col * R + r);
  return sum;
}

START_TEST(test_products_are_added_to_rows) {
  lk_dtype dtype = _i & 1 ? LK_F64 : LK_F32;
  lk_view before, hv, Bv, after;
  lk_tensor y = input(dtype, T, N, "y"), h = input(dtype, PICKED, R, "h"), B = input(dtype, N, R, "B");
  lk_tensor changed = _i & 2 ? strided(y, T, N) : lk_scale(t, y, 1);
  lk_get(t, changed, &after);
  void *memory = after.p;
  changed = lk_accumulate_rows(t, changed, places(LK_I64), h, _i & 2 ? strided(B, N, R) : B, 0.5);
  lk_get(t, changed, &after);
  ck_fine();
  ck_assert_ptr_eq(after.p, memory);
  lk_get(t, y, &before);
  lk_get(t, h, &hv);
  lk_get(t, B, &Bv);
  for (int64_t row = 0; row < T; row += 7)
    for (int64_t col = 0; col < N; col++) {
      double is = lk_view_get(&after, row * N + col), should = expected(&before, &hv, &Bv, 0.5, row, col);
      ck_assert_double_le(fabs(is - should), (dtype == LK_F64 ? 1e-13 : 1e-5) * (1 + fabs(should)));
    }
}
END_TEST

/* One expert of a mixture, in two ways. */
static lk_tensor sparse(void) {
  lk_tensor x = lk_tanh(t, use(0)), index = lk_input(t, LK_I64, 1, (int64_t[]){4}, (int64_t[]){2, 0, 2, 4});
  lk_tensor y = lk_linear(t, x, use(1), lk_nil()), d = lk_index_select(t, x, 0, index);
  lk_tensor h = lk_mul(t, lk_linear(t, d, use(2), lk_nil()), lk_sigmoid(t, lk_sum(t, d, 1, (int[]){1}, 1)));
  y = lk_accumulate_rows(t, y, index, h, use(3), 2);
  y = lk_scatter_rows(t, y, index, lk_linear(t, h, use(3), lk_nil()));
  return weigh(lk_tanh(t, y));
}
static lk_tensor dense(void) {
  lk_tensor x = lk_tanh(t, use(0)), y = lk_linear(t, x, use(1), lk_nil());
  lk_tensor h = lk_mul(t, lk_linear(t, x, use(2), lk_nil()), lk_sigmoid(t, lk_sum(t, x, 1, (int[]){1}, 1)));
  lk_tensor times = lk_input(t, LK_F64, 2, (int64_t[]){5, 1}, (double[]){1, 0, 2, 0, 1});
  y = lk_add(t, y, lk_mul(t, times, lk_scaled_linear(t, h, use(3), 3)));
  return weigh(lk_tanh(t, y));
}

START_TEST(test_sparse_expert_is_the_dense_one) {
  const char *shapes[] = {"5 4", "3 4", "2 4", "3 2"};
  for (int i = 0; i < 4; i++) make_param("p", shapes[i], LK_F64);
  lk_tape_set_mode(t, LK_TAPE_POISON);
  double loss = lk_item(t, dense());
  ck_assert_double_le(fabs(lk_item(t, sparse()) - loss), 1e-14);
  ck_gradients(sparse);
}
END_TEST

/* ---- the same bits on any number of threads ---- */

static void mixture(int threads, lk_param *const *p, float *result) {
  lk_view y;
  lk_set_threads(ctx, threads);
  lk_tape_reset(t);
  lk_tensor index = places(LK_I64), x = lk_use(t, p[0]), d = lk_index_select(t, x, 0, index);
  lk_tensor sum =
      lk_accumulate_rows(t, lk_scale(t, x, 1), index, lk_linear(t, d, lk_use(t, p[1]), lk_nil()), lk_use(t, p[2]), 1);
  sum = lk_scatter_rows(t, sum, index, lk_scale(t, d, 0.1));
  sum = lk_index_add(t, sum, 0, index, d);
  lk_get(t, sum, &y);
  memcpy(result, y.p, T * N * sizeof *result);
  lk_backward(t, sum_all(lk_mul(t, sum, sum)));
}

START_TEST(test_bits_do_not_depend_on_threads) {
  lk_param *p[] = {make_param("x", "90 600", LK_F32), make_param("A", "3 600", LK_F32),
                   make_param("B", "600 3", LK_F32)};
  float *y = lk_alloc_array(ctx, 2 * T * N, sizeof *y), *g = lk_alloc_array(ctx, T * N, sizeof *g);
  mixture(1, p, y);
  memcpy(g, p[0]->grad, T * N * sizeof *g);
  zero_grads();
  for (int threads = 2; threads < 5; threads++) {
    mixture(threads, p, y + T * N);
    ck_fine();
    ck_assert(!memcmp(y, y + T * N, T * N * sizeof *y));
    ck_assert(!memcmp(g, p[0]->grad, T * N * sizeof *g));
    zero_grads();
  }
  lk_free(ctx, y);
  lk_free(ctx, g);
}
END_TEST

/* ---- refused ---- */

START_TEST(test_wrong_rows_are_refused) {
  lk_tensor y = lk_scale(t, INPUT(4, 5), 1), d = INPUT(2, 5), h = INPUT(2, 3), B = INPUT(5, 3);
  lk_tensor index = lk_input(t, LK_I64, 1, (int64_t[]){2}, (int64_t[]){1, 4});
  lk_tensor good = lk_input(t, LK_I64, 1, (int64_t[]){2}, (int64_t[]){1, 3});
  lk_scatter_rows(t, y, index, d);
  ck_refused(LK_EARG, "scatter_rows: index 4 is out of range [0, 4)");
  lk_accumulate_rows(t, y, index, h, B, 1);
  ck_refused(LK_EARG, "accumulate_rows: index 4 is out of range [0, 4)");
  lk_scatter_rows(t, y, good, INPUT(3, 5));
  ck_refused(LK_ESHAPE, "scatter_rows: should be x, index [n] and x's shape with n on axis 0");
  lk_scatter_rows(t, lk_scale(t, lk_scalar(t, LK_F64, 1), 1), good, d);
  ck_refused(LK_ESHAPE, "scatter_rows: y has no rows");
  lk_accumulate_rows(t, y, good, h, INPUT(5, 2), 1);
  ck_refused(LK_ESHAPE, "accumulate_rows: should be y [T, out], index [n], h [n, r] and B [out, r]");
  lk_accumulate_rows(t, lk_nil(), good, h, B, 1);
  ck_refused(LK_ENIL, "accumulate_rows: argument 0 is nil");
  lk_tensor changed = lk_accumulate_rows(t, y, good, h, B, 1);
  ck_fine();
  lk_get(t, y, &(lk_view){0});
  ck_refused(LK_ESTALE, "was changed in place");
  lk_accumulate_rows(t, changed, good, h, changed, 1);
  ck_refused(LK_ESHAPE, "accumulate_rows");
  lk_scatter_rows(t, changed, good, lk_slice(t, changed, 0, 0, 2, 1));
  ck_refused(LK_EARG, "x0 and x2 share memory");
}
END_TEST

/* ---- routing ---- */

START_TEST(test_ties_give_the_lower_expert) {
  const double p[] = {0.25, 0.25, 0.25, 0.25, 0.1, 0.4, 0.1, 0.4, 0, 0.5, 0.5, 0};
  const int64_t best[] = {0, 1, 1, 3, 1, 2};
  lk_view v;
  lk_tensor x = lk_input(t, LK_F64, 2, (int64_t[]){3, 4}, p), chosen = lk_topk(t, x, 2, -1, 1);
  ck_assert_int_eq(lk_get(t, chosen, &v), 0);
  ck_assert_int_eq(v.dtype, LK_I64);
  for (int i = 0; i < 6; i++) ck_assert_int_eq(((const int64_t *)v.p)[lk_view_offset(&v, i)], best[i]);
}
END_TEST

static lk_tensor chosen_values(void) {
  lk_tensor p = lk_softmax(t, use(0), -1);
  return weigh(lk_gather(t, p, -1, lk_topk(t, p, 2, -1, 1)));
}

START_TEST(test_chosen_values_have_gradients) {
  make_param("logits", "6 5", LK_F64);
  ck_gradients(chosen_values);
}
END_TEST

START_TEST(test_an_input_of_integers_is_a_copy) {
  lk_view v;
  int64_t list[] = {3, 1, INT64_MAX};
  lk_tensor x = lk_input(t, LK_I64, 1, (int64_t[]){3}, list);
  list[0] = 0;
  lk_get(t, x, &v);
  ck_assert_int_eq(lk_view_index(&v, 0), 3);
  ck_assert_int_eq(lk_view_index(&v, 2), INT64_MAX);
}
END_TEST

/* ---- noise ---- */

START_TEST(test_jitter_is_uniform_around_one) {
  enum { n = 1 << 16 };
  const double e = 0.1;
  double sum = 0, squares = 0, least = 2, most = 0;
  lk_view v;
  lk_tensor x = lk_input(t, _i ? LK_F64 : LK_F32, 2, (int64_t[]){n / 64, 64}, NULL);
  lk_get(t, x, &v);
  for (int64_t i = 0; i < n; i++) lk_view_set(&v, i, 1);
  lk_tensor same = lk_jitter(t, x, e);
  ck_assert_uint_eq(same.id, x.id); /* evaluation */
  lk_train(t, 1, 0);
  same = lk_jitter(t, x, 0);
  ck_assert_uint_eq(same.id, x.id);
  lk_tensor a = lk_jitter(t, x, e), b = lk_jitter(t, x, e);
  ck_assert_double_gt(fabs(lk_item(t, lk_norm(t, lk_sub(t, a, b), 2, 0, NULL, 0))), 1);
  lk_get(t, a, &v);
  for (int64_t i = 0; i < n; i++) {
    double u = lk_view_get(&v, i);
    sum += u;
    squares += (u - 1) * (u - 1);
    least = fmin(least, u);
    most = fmax(most, u);
  }
  ck_fine();
  ck_assert_double_ge(least, 1 - e);
  ck_assert_double_le(most, 1 + e);
  ck_assert_double_lt(least, 1 - 0.999 * e);
  ck_assert_double_gt(most, 1 + 0.999 * e);
  /* standard deviations of these means: e / sqrt(3 n), 2 e^2 / sqrt(45 n) */
  ck_assert_double_le(fabs(sum / n - 1), 4 * e / sqrt(3.0 * n));
  ck_assert_double_le(fabs(squares / n - e * e / 3), 4 * 2 * e * e / sqrt(45.0 * n));
}
END_TEST

START_TEST(test_wrong_jitter_is_refused) {
  const double wrong[] = {-0.1, 1, NAN};
  ck_assert(lk_is_nil(lk_jitter(t, INPUT(3), wrong[_i])));
  ck_refused(LK_EARG, "is not in [0, 1)");
}
END_TEST

START_TEST(test_key_of_the_pass) {
  lk_key none = lk_tape_key(t), keys[4];
  ck_assert(none.a == 0 && none.b == 0);
  for (uint64_t i = 0; i < 4; i++) {
    lk_train(t, i / 2, i % 2);
    keys[i] = lk_tape_key(t);
    for (uint64_t j = 0; j < i; j++) ck_assert(keys[i].a != keys[j].a || keys[i].b != keys[j].b);
  }
  lk_train(t, 1, 0);
  ck_assert(lk_tape_key(t).a == keys[2].a && lk_tape_key(t).b == keys[2].b);
  lk_tape_reset(t);
  ck_assert(lk_tape_key(t).a == 0 && lk_tape_key(t).b == 0);
}
END_TEST

START_TEST(test_gelu_10_is_clipped) {
  const double x[] = {-50, 9.5, 10.5, 300}, y[] = {0, 9.5, 10, 10}, slope[] = {0, 1, 0, 0}, one[] = {1, 1, 1, 1};
  double g[4] = {0};
  lk_view v;
  lk_view_init(&v, LK_F64, 1, (int64_t[]){4});
  memcpy(&v.p, &(const void *){x}, sizeof v.p); /* only read */
  lk_tensor h = lk_gelu_10(t, lk_leaf(t, &v, g));
  lk_get(t, h, &v);
  lk_backward_from(t, h, one);
  ck_fine();
  for (int i = 0; i < 4; i++) {
    ck_assert_double_le(fabs(lk_view_get(&v, i) - y[i]), 1e-12);
    ck_assert_double_le(fabs(g[i] - slope[i]), 1e-12);
  }
}
END_TEST

/* ---- out of memory ---- */

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  ctx = c;
  nparams = 0;
  const char *shapes[] = {"5 4", "3 4", "2 4", "3 2"};
  for (int i = 0; i < 4; i++) make_param("p", shapes[i], LK_F64);
  t = lk_tape_new(c);
  if (nparams == 4 && t) lk_backward(t, sparse());
  lk_tape_free(t);
  for (int i = 0; i < nparams; i++) lk_param_free(params[i]);
  return lk_error(c, NULL);
}

START_TEST(test_every_allocation) {
  const char *why = test_each_allocation(story, NULL, NULL);
  ck_assert_msg(!why, "%s", why);
}
END_TEST

int main(void) {
  SUITE("rows");
  tcase_add_loop_test(tcase, test_rows_are_gathered_and_added_back, 0, 8);
  tcase_add_loop_test(tcase, test_products_are_added_to_rows, 0, 4);
  tcase_add_test(tcase, test_sparse_expert_is_the_dense_one);
  tcase_add_test(tcase, test_bits_do_not_depend_on_threads);
  tcase_add_test(tcase, test_wrong_rows_are_refused);
  tcase_add_test(tcase, test_ties_give_the_lower_expert);
  tcase_add_test(tcase, test_chosen_values_have_gradients);
  tcase_add_test(tcase, test_an_input_of_integers_is_a_copy);
  tcase_add_loop_test(tcase, test_jitter_is_uniform_around_one, 0, 2);
  tcase_add_loop_test(tcase, test_wrong_jitter_is_refused, 0, 3);
  tcase_add_test(tcase, test_key_of_the_pass);
  tcase_add_test(tcase, test_gelu_10_is_clipped);
  TCase *failing = tcase_create("memory");
  suite_add_tcase(suite, failing);
  tcase_add_test(failing, test_every_allocation);
  return run_suite(suite);
}
