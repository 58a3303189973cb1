/* test_half.c: bf16 and f16: exact conversions, and frozen weights stored in them give what widened ones give. */

#include <check.h>
#include <lorikeet.h>
#include <math.h>
#include <string.h>

static lk_ctx *ctx;
static lk_tape *t;

static void setup(void) {
  ctx = lk_ctx_new(NULL);
  t = lk_tape_new(ctx);
}

static void teardown(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
  lk_tape_free(t);
  lk_ctx_free(ctx);
}

static const lk_dtype halves[] = {LK_BF16, LK_F16};

/* The value of a half by its definition: sign, exponent bits, fraction bits. */
static double by_definition(lk_dtype d, uint16_t h) {
  int fraction_bits = d == LK_BF16 ? 7 : 10, bias = d == LK_BF16 ? 127 : 15;
  int fraction = h & ((1 << fraction_bits) - 1), exponent = (h & 0x7FFF) >> fraction_bits;
  double sign = h & 0x8000 ? -1 : 1;
  if (exponent == 2 * bias + 1) return fraction ? NAN : sign * INFINITY;
  if (!exponent) return sign * ldexp(fraction, 1 - bias - fraction_bits);
  return sign * ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

static lk_view scalar(lk_dtype d, void *p) { return (lk_view){.p = p, .dtype = d}; }

START_TEST(every_half) {
  lk_dtype d = halves[_i];
  for (int i = 0; i < 1 << 16; i++) {
    uint16_t h = (uint16_t)i, back = 0;
    lk_view from = scalar(d, &h), to = scalar(d, &back);
    double want = by_definition(d, h), got = lk_view_get(&from, 0);
    ck_assert_msg(isnan(want) ? isnan(got) : want == got && signbit(want) == signbit(got), "%04x: %g, not %g", i, got,
                  want);
    lk_view_set(&to, 0, got);
    ck_assert_msg(isnan(got) ? isnan(lk_view_get(&to, 0)) : back == h, "%04x came back as %04x", i, back);
  }
}
END_TEST

/* Between neighbours: the nearer one, in the middle the even one. */
START_TEST(rounding) {
  lk_dtype d = halves[_i];
  for (int i = 0; i < 0x7BFF; i += 7) {
    uint16_t h = (uint16_t)i, up = (uint16_t)(i + 1), got = 0;
    double a = by_definition(d, h), b = by_definition(d, up);
    lk_view to = scalar(d, &got);
    if (!isfinite(b)) break;
    lk_view_set(&to, 0, a + (b - a) * 0.25);
    ck_assert_uint_eq(got, h);
    lk_view_set(&to, 0, a + (b - a) * 0.75);
    ck_assert_uint_eq(got, up);
    lk_view_set(&to, 0, a + (b - a) * 0.5);
    ck_assert_uint_eq(got, i % 2 ? up : h);
    lk_view_set(&to, 0, -(a + (b - a) * 0.5));
    ck_assert_uint_eq(got, 0x8000 | (i % 2 ? up : h));
  }
}
END_TEST

enum { OUT = 1000, IN = 1100, ROWS = 5 }; /* more than one tile */

static double number(const char *label, int64_t i) { return lk_random_normal(lk_key_make(3, label), (uint64_t)i); }

static uint16_t weight[OUT * IN];
static float wide[OUT * IN], x[ROWS * IN], gx[2][ROWS * IN];

static lk_view matrix(lk_dtype d, int64_t rows, int64_t cols, void *p) {
  lk_view v;
  lk_view_init(&v, d, 2, (int64_t[]){rows, cols});
  v.p = p;
  return v;
}

static void fill(lk_dtype d) {
  lk_view h = matrix(d, OUT, IN, weight), w = matrix(LK_F32, OUT, IN, wide), v = matrix(LK_F32, ROWS, IN, x);
  for (int64_t i = 0; i < OUT * IN; i++) lk_view_set(&h, i, number("weight", i));
  for (int64_t i = 0; i < ROWS * IN; i++) lk_view_set(&v, i, number("x", i));
  lk_view_copy(&w, &h);
}

/* sum of squares of x W^T: the result, and the gradient of x into gx[k]. */
static void pass(const lk_view *W, int turned, int k, double *y) {
  lk_view from = matrix(LK_F32, ROWS, turned ? OUT : IN, x), out;
  memset(gx[k], 0, sizeof gx[k]);
  lk_tape_reset(t);
  lk_tensor w = lk_borrow(t, W);
  if (turned) w = lk_transpose(t, w, 0, 1);
  lk_tensor result = lk_linear(t, lk_leaf(t, &from, gx[k]), w, lk_nil());
  ck_assert_int_eq(lk_get(t, result, &out), 0);
  for (int64_t i = 0; i < lk_view_count(&out); i++) y[i] = lk_view_get(&out, i);
  lk_backward(t, lk_sum(t, lk_mul(t, result, result), 0, NULL, 0));
}

START_TEST(linear_with_half_weight) {
  static double y[2][ROWS * IN];
  lk_dtype d = halves[_i];
  fill(d);
  for (int turned = 0; turned < 2; turned++) {
    lk_view h = matrix(d, OUT, IN, weight), w = matrix(LK_F32, OUT, IN, wide);
    memset(y, 0, sizeof y);
    pass(&h, turned, 0, y[0]);
    pass(&w, turned, 1, y[1]);
    double largest_y = 0, largest_gx = 0;
    for (int i = 0; i < ROWS * IN; i++) {
      largest_y = fmax(largest_y, fabs(y[1][i]));
      largest_gx = fmax(largest_gx, fabs(gx[1][i]));
    }
    for (int i = 0; i < ROWS * IN; i++) { /* sums of a thousand products in another order */
      ck_assert_msg(fabs(y[0][i] - y[1][i]) <= 5e-6 * largest_y, "y[%d]: %g, not %g", i, y[0][i], y[1][i]);
      ck_assert_msg(fabs(gx[0][i] - gx[1][i]) <= 5e-6 * largest_gx, "gx[%d]: %g, not %g", i, gx[0][i], gx[1][i]);
    }
  }
}
END_TEST

START_TEST(embedding_with_half_table) {
  lk_dtype d = halves[_i];
  const int64_t ids[] = {3, 0, OUT - 1, 3}, n = 4;
  lk_view y;
  fill(d);
  lk_view h = matrix(d, OUT, IN, weight);
  ck_assert_int_eq(lk_get(t, lk_embedding(t, lk_borrow(t, &h), lk_input(t, LK_I64, 1, &n, ids)), &y), 0);
  ck_assert_int_eq(y.dtype, LK_F32);
  for (int64_t i = 0; i < n * IN; i++) ck_assert(lk_view_get(&y, i) == wide[ids[i / IN] * IN + i % IN]);
}
END_TEST

START_TEST(casting) {
  lk_dtype d = halves[_i];
  lk_view y;
  fill(d);
  lk_view h = matrix(d, OUT, IN, weight);
  for (int to = LK_F32; to <= LK_F64; to++) {
    ck_assert_int_eq(lk_get(t, lk_cast(t, lk_borrow(t, &h), (lk_dtype)to), &y), 0);
    for (int64_t i = 0; i < OUT * IN; i += 97) ck_assert(lk_view_get(&y, i) == wide[i]);
  }
  lk_add(t, lk_borrow(t, &h), lk_borrow(t, &h));
  ck_assert_int_eq(lk_error(ctx, NULL), LK_EDTYPE);
  lk_error_clear(ctx);
  lk_cast(t, lk_borrow(t, &h), LK_I64);
  ck_assert_int_eq(lk_error(ctx, NULL), LK_EDTYPE);
  lk_error_clear(ctx);
}
END_TEST

int main(void) {
  Suite *s = suite_create("half");
  TCase *c = tcase_create("half");
  tcase_set_timeout(c, 240);
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_loop_test(c, every_half, 0, 2);
  tcase_add_loop_test(c, rounding, 0, 2);
  tcase_add_loop_test(c, linear_with_half_weight, 0, 2);
  tcase_add_loop_test(c, embedding_with_half_table, 0, 2);
  tcase_add_loop_test(c, casting, 0, 2);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
