/* test_real.c: what lib/real.h claims of its f32 functions: errors over the whole range, limits, NaN. */
#include "../lib/real.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

/* Every 997th float, of both signs, from the smallest subnormal to infinity. */
#define FLOATS(x) for (uint32_t bits_ = 0; bits_ < 0xFF800000u && ((x) = from_bits(bits_), 1); bits_ += 997)

static float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static double relative(double is, double should) { return fabs(is - should) / fabs(should); }

START_TEST(test_exp) {
  double worst = 0;
  float x, at = 0;
  int wrong = 0;
  FLOATS(x) {
    double is = lk_fast_exp(x), should = exp((double)x);
    if (isnan(x)) wrong += !isnan(is);
    else if (x > 88.72283f) wrong += !isinf(is);
    else if (x < -87.33f) wrong += is != 0;
    else if (!(relative(is, should) <= worst)) worst = relative(is, should), at = x;
  }
  ck_assert_int_eq(wrong, 0);
  ck_assert_msg(worst < 2e-7, "relative error %.3g at %.9g", worst, at);
  ck_assert_float_eq(lk_fast_exp(0), 1);
  ck_assert_float_eq(lk_fast_exp(-0.f), 1);
  ck_assert(isinf(lk_fast_exp((float)INFINITY)));
  ck_assert_float_eq(lk_fast_exp((float)-INFINITY), 0);
  ck_assert(isnan(lk_fast_exp((float)NAN)));
  ck_assert(isnan(lk_fast_exp((float)-NAN)));
}
END_TEST

START_TEST(test_exp_near_its_limits) {
  double worst = 0;
  for (float x = 88.7f; x <= 88.72283f; x = nextafterf(x, 100))
    worst = fmax(worst, relative(lk_fast_exp(x), exp((double)x)));
  for (float x = -87.33f; x < -86.9f; x = nextafterf(x, 100))
    worst = fmax(worst, relative(lk_fast_exp(x), exp((double)x)));
  ck_assert_msg(worst < 2e-7, "relative error %.3g", worst);
  ck_assert(isfinite(lk_fast_exp(88.72283f)));
  ck_assert(isinf(expf(nextafterf(88.72283f, 100)))); /* so that the limit is libm's */
}
END_TEST

START_TEST(test_exp_does_not_fall) {
  float last = 0;
  int falls = 0;
  for (float x = -87.4f; x < 88.8f; x += 0.00371f) {
    float y = lk_fast_exp(x);
    falls += !(y >= last);
    last = y;
  }
  ck_assert_int_eq(falls, 0);
}
END_TEST

START_TEST(test_tanh) {
  double worst = 0, close = 0;
  float x, at = 0;
  int wrong = 0;
  FLOATS(x) {
    double is = lk_fast_tanh(x), should = tanh((double)x);
    wrong += isnan(x) ? !isnan(is) : !(fabs(is) <= 1 && is * should >= 0);
    if (fabs(is - should) > worst) worst = fabs(is - should), at = x;
    if (fabsf(x) > 1e-30f) close = fmax(close, relative(is, should));
  }
  ck_assert_int_eq(wrong, 0);
  ck_assert_msg(worst < 2e-7, "error %.3g at %.9g", worst, at);
  ck_assert_msg(close < 1e-6, "relative error %.3g", close);
  ck_assert_float_eq(lk_fast_tanh((float)INFINITY), 1);
  ck_assert_float_eq(lk_fast_tanh((float)-INFINITY), -1);
  ck_assert_float_eq(lk_fast_tanh(0), 0);
  ck_assert(isnan(lk_fast_tanh((float)NAN)));
}
END_TEST

START_TEST(test_phi) {
  double worst = 0, worst_e = 0;
  float x, e, at = 0;
  int wrong = 0;
  FLOATS(x) {
    double is = lk_fast_phi(x, &e), de, should = lk_exact_phi(x, &de);
    wrong += isnan(x) ? !isnan(is) : !(is >= 0 && is <= 1);
    if (fabs(is - should) > worst) worst = fabs(is - should), at = x;
    worst_e = fmax(worst_e, fabs(e - de));
  }
  ck_assert_int_eq(wrong, 0);
  ck_assert_msg(worst < 4e-7, "error %.3g at %.9g", worst, at);
  ck_assert_msg(worst_e < 3e-7, "error of the exponential %.3g", worst_e);
  ck_assert_float_eq(lk_fast_phi((float)INFINITY, &e), 1);
  ck_assert_float_eq(e, 0);
  ck_assert_float_eq(lk_fast_phi((float)-INFINITY, &e), 0);
  ck_assert(isnan(lk_fast_phi((float)NAN, &e)) && isnan(e));
}
END_TEST

START_TEST(test_exact_ones_are_libm) {
  double e;
  for (double x = -30; x < 30; x += 0.0973) {
    ck_assert_double_eq(REXP(x), exp(x));
    ck_assert_double_eq(RTANH(x), tanh(x));
    ck_assert_double_eq_tol(RPHI(x, &e), 0.5 * erfc(-x / sqrt(2)), 2e-16);
    ck_assert_double_eq(e, exp(-0.5 * x * x));
  }
  /* in the far tail too, relatively: 1 - Phi(8) = 6.22e-16 */
  ck_assert_double_eq_tol(RPHI(-8.0, &e) / 6.220960574271785e-16, 1, 1e-12);
}
END_TEST

START_TEST(test_one_body_for_both_types) {
  for (int d = LK_F32; d <= LK_F64; d++) {
    double buffer[2] = {0};
    LK_REAL(d, {
      R *x = (R *)buffer;
      x[1] = (R)1 / 3;
      ck_assert_uint_eq(sizeof *x, lk_dtype_size((lk_dtype)d));
      ck_assert_double_eq((double)x[1], d == LK_F64 ? 1.0 / 3 : (double)(1.f / 3));
    });
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("real");
  TCase *tcase = tcase_create("real");
  suite_add_tcase(suite, tcase);
  tcase_set_timeout(tcase, 240);
  tcase_add_test(tcase, test_exp);
  tcase_add_test(tcase, test_exp_near_its_limits);
  tcase_add_test(tcase, test_exp_does_not_fall);
  tcase_add_test(tcase, test_tanh);
  tcase_add_test(tcase, test_phi);
  tcase_add_test(tcase, test_exact_ones_are_libm);
  tcase_add_test(tcase, test_one_body_for_both_types);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
