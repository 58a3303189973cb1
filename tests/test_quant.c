/* test_quant.c: int8 and nf4 codes against a plain recomputation, and products with them. */
#include <check.h>
#include <lorikeet.h>
#include <math.h>
#include <stdlib.h>
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

/* ---- the levels ---- */

/* Where the normal distribution function is p. */
static double quantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 200; i++) {
    double x = (low + high) / 2;
    *(0.5 * erfc(-x / sqrt(2)) < p ? &low : &high) = x;
  }
  return low;
}

/* Appendix E of the paper: 8 quantiles below zero, zero, 7 above; evenly spaced probabilities down from 0.9677083. */
START_TEST(levels) {
  const float *level = lk_quant_levels();
  double outer = 0.9677083, most = quantile(outer);
  for (int i = 0; i < 8; i++) {
    double below = -quantile(outer + (0.5 - outer) * i / 7) / most;
    ck_assert_msg(fabs((double)level[i] - below) < 1e-6, "level %d is %.9g, not %.9g", i, (double)level[i], below);
  }
  for (int i = 0; i < 9; i++) {
    double above = quantile(outer + (0.5 - outer) * i / 8) / most;
    ck_assert_msg(fabs((double)level[15 - i] - above) < 1e-6, "level %d is %.9g, not %.9g", 15 - i,
                  (double)level[15 - i], above);
  }
  ck_assert_int_eq(lk_quant_find("nf4"), LK_QUANT_NF4);
  ck_assert_int_eq(lk_quant_find("f32"), LK_QUANT_NONE);
  ck_assert_int_eq(lk_quant_find("nf5"), -1);
  ck_assert_str_eq(lk_quant_name(LK_QUANT_INT8), "int8");
}
END_TEST

/* ---- a matrix, its codes and what they stand for ---- */

enum { MOST = 1100 * 1100 };

static const struct {
  int64_t out, in;
} sizes[] = {{1, 1}, {3, 2}, {5, 63}, {4, 64}, {7, 65}, {3, 130}, {700, 1100}, {1100, 1030}};
enum { SIZES = sizeof sizes / sizeof *sizes, KINDS = 4 };

static float weight[MOST], back[MOST];
static uint8_t code_bytes[2 * MOST];
static float scale_values[MOST];

typedef struct {
  lk_quant q;
  lk_view W, codes, scales;
} coded;

static double number(const char *label, int64_t i) { return lk_random_normal(lk_key_make(3, label), (uint64_t)i); }

static lk_view matrix(lk_dtype d, int64_t rows, int64_t cols, void *p) {
  lk_view v;
  lk_view_init(&v, d, 2, (int64_t[]){rows, cols});
  v.p = p;
  return v;
}

/* kind 0 .. 3: int8, nf4, and both doubled; a block of zeros, values of all magnitudes */
static coded make(int kind, int64_t out, int64_t in) {
  coded k = {.q = {kind % 2 ? LK_QUANT_NF4 : LK_QUANT_INT8, kind / 2, in}, .W = matrix(LK_F32, out, in, weight)};
  for (int64_t i = 0; i < out * in; i++) {
    int64_t block = i / in * ((in + 63) / 64) + i % in / 64;
    weight[i] = (float)(number("W", i) * (block % 5 == 3 ? 0 : exp(number("block", block))));
  }
  ck_assert_int_eq(lk_quant_shapes(&k.q, LK_F32, out, &k.codes, &k.scales), 0);
  ck_assert_int_le(lk_view_count(&k.codes), (int64_t)sizeof code_bytes);
  k.codes.p = code_bytes;
  k.scales.p = scale_values;
  ck_assert_int_eq(lk_quant_encode(ctx, &k.q, &k.W, &k.codes, &k.scales), LK_OK);
  lk_quant_decode(&k.q, &k.codes, &k.scales, 0, out, back);
  return k;
}

static double block_scale(const coded *k, int64_t row, int64_t block) {
  double s = 0;
  for (int64_t i = 64 * block; i < 64 * (block + 1) && i < k->q.in; i++)
    s = fmax(s, fabs((double)weight[row * k->q.in + i]));
  return s;
}

/* The level nearest to x, found by trying all. */
static double nearest(double x) {
  const float *level = lk_quant_levels();
  int best = 0;
  for (int i = 1; i < 16; i++)
    if (fabs(x - (double)level[i]) < fabs(x - (double)level[best])) best = i;
  return (double)level[best];
}

/* What an element with this scale is after coding; a tie may go either way, *other then is the second answer. */
static double recoded(const coded *k, double w, double s, double *other) {
  double x = s > 0 ? w / s : 0, h = 1e-6;
  if (k->q.kind == LK_QUANT_NF4) {
    *other = nearest(x - h);
    return nearest(x + h);
  }
  *other = rint(127 * (x - h)) / 127;
  return rint(127 * (x + h)) / 127;
}

/* The scales as they come back from their own codes, [out, blocks]; the caller's. */
static double *doubled_scales(const coded *k, int64_t out, int64_t blocks) {
  int64_t n = out * blocks;
  double *s = malloc((size_t)(n + 1) * sizeof *s), mean = 0;
  for (int64_t i = 0; i < n; i++) mean += (s[i] = block_scale(k, i / blocks, i % blocks)) / (double)n;
  for (int64_t first = 0; first < n; first += 256) {
    double g = 0;
    for (int64_t i = first; i < n && i < first + 256; i++) g = fmax(g, fabs(s[i] - mean));
    for (int64_t i = first; i < n && i < first + 256; i++)
      s[i] = g > 0 ? mean + g / 127 * rint(127 * (s[i] - mean) / g) : mean;
  }
  return s;
}

START_TEST(codes_are_right) {
  for (int n = 0; n < SIZES; n++) {
    int64_t out = sizes[n].out, in = sizes[n].in, blocks = (in + 63) / 64;
    coded k = make(_i, out, in);
    double *scale = doubled_scales(&k, out, blocks);
    for (int64_t i = 0; i < out * in; i++) {
      int64_t row = i / in, block = i % in / 64;
      double s = block_scale(&k, row, block), other, one = recoded(&k, (double)weight[i], s, &other);
      double factor = k.q.doubled ? scale[row * blocks + block] : s, got = (double)back[i];
      double tolerance = 1e-6 * (fabs(factor) + k.q.doubled);
      ck_assert_msg(fabs(got - factor * one) <= tolerance || fabs(got - factor * other) <= tolerance,
                    "kind %d, [%d, %d], element %d: %g, not %g", _i, (int)out, (int)in, (int)i, got, factor * one);
      if (s == 0) ck_assert(got == 0);
    }
    free(scale);
  }
}
END_TEST

/* int8: half a step.  nf4: half of the widest gap between levels, which is the one next to -1. */
START_TEST(errors_are_bounded) {
  double step = _i ? (1 - 0.6961928009986877) / 2 : 0.5 / 127;
  for (int n = 0; n < SIZES; n++) {
    coded k = make(_i, sizes[n].out, sizes[n].in);
    for (int64_t i = 0; i < sizes[n].out * k.q.in; i++) {
      double s = block_scale(&k, i / k.q.in, i % k.q.in / 64);
      ck_assert(fabs((double)back[i] - (double)weight[i]) <= s * step * (1 + 1e-5));
    }
  }
}
END_TEST

/* f64 goes element by element, f32 perhaps through vectors: the same products, rounded. */
START_TEST(vectors_and_elements) {
  static double scales[1100 * 18], wide[1100 * 1030];
  for (int n = 0; n < SIZES; n++) {
    coded k = make(_i, sizes[n].out, sizes[n].in);
    lk_view s = k.scales;
    s.dtype = LK_F64;
    s.p = scales;
    lk_view_copy(&s, &k.scales);
    lk_quant_decode(&k.q, &k.codes, &s, 0, sizes[n].out, wide);
    for (int64_t i = 0; i < sizes[n].out * sizes[n].in; i++) {
      float rounded = (float)wide[i];
      ck_assert(k.q.doubled ? fabs((double)back[i] - wide[i]) <= 1e-6 * (1 + fabs(wide[i])) : back[i] == rounded);
    }
  }
}
END_TEST

/* Rows in any order and number decode to the same; all bytes of the codes are written. */
START_TEST(rows_are_independent) {
  coded k = make(_i, 7, 65);
  float row[3 * 65];
  for (int64_t first = 0; first < 5; first++) {
    lk_quant_decode(&k.q, &k.codes, &k.scales, first, 3, row);
    ck_assert(!memcmp(row, back + first * 65, sizeof row));
  }
  size_t bytes = lk_view_bytes(&k.codes);
  uint8_t *before = malloc(bytes);
  memcpy(before, code_bytes, bytes);
  memset(code_bytes, 0xA5, bytes);
  lk_set_threads(ctx, 1);
  lk_quant_encode(ctx, &k.q, &k.W, &k.codes, &k.scales);
  ck_assert(!memcmp(before, code_bytes, bytes));
  free(before);
}
END_TEST

/* From f64, bf16, f16 and transposed memory: the same as from what they are as f32. */
START_TEST(sources) {
  static double room[65 * 70];
  static const lk_dtype kinds[] = {LK_F32, LK_F64, LK_BF16, LK_F16};
  for (int d = 0; d < 4; d++) {
    coded k = make(_i, 70, 65);
    lk_view stored = matrix(kinds[d], 65, 70, room), turned = stored;
    turned.shape[0] = 70, turned.stride[0] = 1;
    turned.shape[1] = 65, turned.stride[1] = 70;
    for (int64_t i = 0; i < 70 * 65; i++) lk_view_set(&turned, i, (double)weight[i]);
    for (int64_t i = 0; i < 70 * 65; i++) weight[i] = (float)lk_view_get(&turned, i);
    lk_quant_encode(ctx, &k.q, &k.W, &k.codes, &k.scales);
    lk_quant_decode(&k.q, &k.codes, &k.scales, 0, 70, back);
    lk_quant_encode(ctx, &k.q, &turned, &k.codes, &k.scales);
    static float again[70 * 65];
    lk_quant_decode(&k.q, &k.codes, &k.scales, 0, 70, again);
    ck_assert(!memcmp(again, back, sizeof again));
  }
}
END_TEST

START_TEST(not_finite) {
  const double bad[] = {(double)NAN, (double)INFINITY, (double)-INFINITY};
  const char *message;
  for (int i = 0; i < 3; i++) {
    coded k = make(_i, 4, 64);
    weight[64 * 2 + 5] = (float)bad[i];
    ck_assert_int_eq(lk_quant_encode(ctx, &k.q, &k.W, &k.codes, &k.scales), LK_ENONFINITE);
    lk_error(ctx, &message);
    ck_assert_ptr_nonnull(strstr(message, "row 2"));
    lk_error_clear(ctx);
  }
}
END_TEST

/* ---- products ---- */

enum { ROWS = 5 };
static float x[ROWS * 1100], bias[1100], gx[2][ROWS * 1100], gb[2][1100], y[2][ROWS * 1100];

/* sum of squares of x W^T + b; results and gradients into place p. */
static void pass(const coded *k, int p) {
  lk_view from = matrix(LK_F32, ROWS, k->q.in, x), b = {.p = bias, .dtype = LK_F32, .ndim = 1, .stride = {1}}, v;
  b.shape[0] = k->W.shape[0];
  memset(gx[p], 0, sizeof gx[p]);
  memset(gb[p], 0, sizeof gb[p]);
  lk_tape_reset(t);
  lk_tensor in = lk_leaf(t, &from, gx[p]), add = lk_leaf(t, &b, gb[p]);
  lk_tensor codes = lk_borrow(t, &k->codes), scales = lk_borrow(t, &k->scales);
  lk_tensor out = p ? lk_linear(t, in, lk_dequantise(t, codes, scales, &k->q), add)
                    : lk_quant_linear(t, in, codes, scales, add, &k->q);
  ck_assert_int_eq(lk_get(t, out, &v), 0);
  memcpy(y[p], v.p, lk_view_bytes(&v));
  lk_backward(t, lk_sum(t, lk_mul(t, out, out), 0, NULL, 0));
}

static void close_to(const char *what, const float *a, const float *b, int64_t n, double tolerance) {
  double largest = 1e-30, error = 0;
  for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)b[i]));
  for (int64_t i = 0; i < n; i++) error = fmax(error, fabs((double)a[i] - (double)b[i]));
  ck_assert_msg(error <= tolerance * largest, "%s: off by %g of %g", what, error, largest);
}

/* The same as a layer with the decoded weight; one thread and two give the same bits. */
START_TEST(products) {
  for (int n = 0; n < SIZES; n++) {
    int64_t out = sizes[n].out, in = sizes[n].in;
    coded k = make(_i, out, in);
    static float first[2][ROWS * 1100];
    for (int64_t i = 0; i < ROWS * in; i++) x[i] = (float)number("x", i);
    for (int64_t i = 0; i < out; i++) bias[i] = (float)number("b", i);
    lk_set_threads(ctx, 1);
    pass(&k, 0);
    memcpy(first[0], y[0], (size_t)(ROWS * out) * sizeof(float));
    memcpy(first[1], gx[0], (size_t)(ROWS * in) * sizeof(float));
    lk_set_threads(ctx, 2);
    pass(&k, 0);
    ck_assert(!memcmp(first[0], y[0], (size_t)(ROWS * out) * sizeof(float)));
    ck_assert(!memcmp(first[1], gx[0], (size_t)(ROWS * in) * sizeof(float)));
    pass(&k, 1);
    close_to("y", y[0], y[1], ROWS * out, 2e-6);
    close_to("gx", gx[0], gx[1], ROWS * in, 2e-6);
    close_to("gb", gb[0], gb[1], out, 2e-6);
  }
}
END_TEST

static void refused(lk_status status, const char *part) {
  const char *message;
  ck_assert_int_eq(lk_error(ctx, &message), status);
  ck_assert_msg(strstr(message, part) != NULL, "%s", message);
  lk_error_clear(ctx);
}

START_TEST(refusals) {
  coded k = make(1, 4, 65);
  lk_quant other = k.q;
  lk_view from = matrix(LK_F32, 2, 65, x), short_codes = k.codes;
  lk_tensor in = lk_borrow(t, &from), codes = lk_borrow(t, &k.codes), scales = lk_borrow(t, &k.scales);
  other.kind = LK_QUANT_INT8;
  lk_quant_linear(t, in, codes, scales, lk_nil(), &other);
  refused(LK_ESHAPE, "have codes [4, 65]");
  other.kind = LK_QUANT_BF16;
  lk_dequantise(t, codes, scales, &other);
  refused(LK_EARG, "bf16");
  short_codes.shape[1]--;
  lk_dequantise(t, lk_borrow(t, &short_codes), scales, &k.q);
  refused(LK_ESHAPE, "have codes [4, 33]");
  other = k.q;
  other.in = 64;
  lk_quant_linear(t, in, codes, scales, lk_nil(), &other);
  refused(LK_ESHAPE, "the last axis of x has 65");
  lk_dequantise(t, codes, lk_leaf(t, &k.scales, gx[0]), &k.q);
  refused(LK_EARG, "must be frozen");
}
END_TEST

int main(void) {
  Suite *s = suite_create("quant");
  TCase *c = tcase_create("quant");
  tcase_set_timeout(c, 240);
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_test(c, levels);
  tcase_add_loop_test(c, codes_are_right, 0, KINDS);
  tcase_add_loop_test(c, errors_are_bounded, 0, 2);
  tcase_add_loop_test(c, vectors_and_elements, 0, KINDS);
  tcase_add_loop_test(c, rows_are_independent, 0, KINDS);
  tcase_add_loop_test(c, sources, 0, KINDS);
  tcase_add_loop_test(c, not_finite, 0, KINDS);
  tcase_add_loop_test(c, products, 0, KINDS);
  tcase_add_test(c, refusals);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
