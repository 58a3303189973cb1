/* test_bf16.c: products with frozen bf16 weights in bf16: both operands rounded, sums as exact as f32 allows; where
 * oneDNN or the instructions are missing, they are refused. */
#include "alloc.h"

#include <check.h>
#include <lorikeet.h>
#include <math.h>
#ifdef LK_HAVE_DNNL
#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdatomic.h>
#endif

static test_allocator memory;
static lk_ctx *ctx;
static lk_tape *t;
static int on;

/* Said by compiler and processor, not by the library. */
static int should_work(void) {
#if defined LK_HAVE_DNNL && defined __x86_64__
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return 0;
#endif
}

static void setup(void) {
  ctx = test_ctx(&memory, 0);
  lk_set_threads(ctx, 2);
  t = lk_tape_new(ctx);
  on = !lk_ctx_bf16_products(ctx, 1);
  ck_assert_int_eq(on, should_work());
  if (!on) lk_error_clear(ctx);
}

static void teardown(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
  lk_tape_free(t);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(memory.live, 0);
}

/* ---- a layer ---- */

typedef struct {
  int64_t rows, in, out;
  int turned;   /* stored as [in, out] */
  int cube;     /* x is [2, rows / 2, in], with its first two axes swapped in memory */
  int repeated; /* all rows of x are one */
  double s;
} layer;

static const layer layers[] = {
    {1, 1, 1, 0, 0, 0, 1},       {5, 7, 3, 0, 0, 0, 1},       {5, 7, 3, 1, 0, 0, 1},       {33, 65, 129, 0, 0, 0, 1},
    {33, 65, 129, 1, 0, 0, 0.5}, {601, 100, 391, 0, 0, 0, 1}, {601, 100, 391, 1, 0, 0, 1}, {1, 769, 800, 0, 0, 0, 1},
    {1, 769, 800, 1, 0, 0, 1},   {3, 4097, 17, 0, 0, 0, 1},   {40, 1, 17, 1, 0, 0, 1},     {17, 40, 1, 0, 0, 0, 1},
    {0, 5, 4, 0, 0, 0, 1},       {4, 0, 5, 0, 0, 0, 1},       {4, 5, 0, 1, 0, 0, 1},       {6, 20, 30, 0, 1, 0, 1},
    {6, 20, 30, 1, 1, 0, 0.5},   {9, 20, 30, 0, 0, 1, 1},
};
enum { LAYERS = sizeof layers / sizeof *layers, MOST = 800 * 800 };

static float x[MOST], g[MOST], gx[MOST], y[MOST], bias[MOST];
static uint16_t weight[MOST];

static double number(const char *label, int64_t i) { return lk_random_normal(lk_key_make(3, label), (uint64_t)i); }

static lk_view matrix(lk_dtype d, int64_t rows, int64_t cols, void *p) {
  lk_view v;
  lk_view_init(&v, d, 2, (int64_t[]){rows, cols});
  v.p = p;
  return v;
}

static double rounded(double value) {
  uint16_t h;
  lk_view v = {.p = &h, .dtype = LK_BF16};
  lk_view_set(&v, 0, value);
  return lk_view_get(&v, 0);
}

static void fill(const layer *l) {
  lk_view W = matrix(LK_BF16, l->in, l->out, weight);
  ck_assert_int_le(l->rows * l->in, MOST);
  ck_assert_int_le(l->in * l->out, MOST);
  for (int64_t i = 0; i < l->in * l->out; i++) lk_view_set(&W, i, number("weight", i));
  for (int64_t i = 0; i < l->out; i++) bias[i] = (float)number("bias", i);
  for (int64_t i = 0; i < l->rows * l->in; i++) x[i] = (float)number("x", l->repeated ? i % l->in : i);
  for (int64_t i = 0; i < l->rows * l->out; i++) g[i] = (float)number("g", i);
}

/* W[o][i] of the layer. */
static double weight_at(const layer *l, int64_t o, int64_t i) {
  lk_view W = l->turned ? matrix(LK_BF16, l->in, l->out, weight) : matrix(LK_BF16, l->out, l->in, weight);
  return lk_view_get(&W, l->turned ? i * l->out + o : o * l->in + i);
}

static lk_tensor weight_of(const layer *l) {
  lk_view W = l->turned ? matrix(LK_BF16, l->in, l->out, weight) : matrix(LK_BF16, l->out, l->in, weight);
  lk_tensor w = lk_borrow(t, &W);
  return l->turned ? lk_transpose(t, w, 0, 1) : w;
}

/* x as the op gets it: a matrix, or what else the layer says. */
static lk_tensor input_of(const layer *l, float *gradient) {
  lk_view v = matrix(LK_F32, l->repeated ? 1 : l->rows, l->in, x);
  if (l->cube) lk_view_init(&v, LK_F32, 3, (int64_t[]){l->rows / 2, 2, l->in});
  v.p = x;
  lk_tensor leaf = lk_leaf(t, &v, gradient);
  if (l->repeated) return lk_expand(t, leaf, 2, (int64_t[]){l->rows, l->in});
  return l->cube ? lk_transpose(t, leaf, 0, 1) : leaf;
}

/* Row of x that is row r of what the op gets. */
static int64_t row_of(const layer *l, int64_t r) { return l->cube ? r % (l->rows / 2) * 2 + r / (l->rows / 2) : r; }

/* Result into y, gradient of sum(g y) into gx. */
static void pass(const layer *l) {
  lk_view v, b = matrix(LK_F32, 1, l->out, bias), gy;
  b.ndim = 1, b.shape[0] = l->out, b.stride[0] = 1;
  memset(gx, 0, sizeof gx);
  lk_tape_reset(t);
  lk_tensor in = input_of(l, gx);
  lk_tensor result =
      l->s == 1 ? lk_linear(t, in, weight_of(l), lk_borrow(t, &b)) : lk_scaled_linear(t, in, weight_of(l), l->s);
  ck_assert_int_eq(lk_get(t, result, &v), 0);
  for (int64_t i = 0; i < lk_view_count(&v); i++) y[i] = (float)lk_view_get(&v, i);
  gy = v, gy.p = g;
  lk_backward(t, lk_sum(t, lk_mul(t, result, lk_borrow(t, &gy)), 0, NULL, 0));
}

/* A sum of n products, of this size in all, in f32. */
static void close_to(double got, double want, double size, int64_t n, const char *what, int64_t i) {
  double most = 6e-8 * size * (4 + sqrt((double)n)) + 1e-37;
  ck_assert_msg(fabs(got - want) <= most, "%s[%lld]: %.9g, not %.9g (%g)", what, (long long)i, got, want, most);
}

static void check_result(const layer *l) {
  for (int64_t r = 0; r < l->rows; r++)
    for (int64_t o = 0; o < l->out; o += 1 + l->out / 90) {
      double want = l->s == 1 ? bias[o] : 0, size = fabs(want);
      for (int64_t i = 0; i < l->in; i++) {
        double term = rounded(l->s * (double)x[row_of(l, r) * l->in + i]) * weight_at(l, o, i);
        want += term, size += fabs(term);
      }
      close_to(y[r * l->out + o], want, size, l->in, "y", r * l->out + o);
    }
}

static void check_gradient(const layer *l) {
  int64_t terms = l->repeated ? l->rows : 1;
  for (int64_t r = 0; r < l->rows / terms; r++)
    for (int64_t i = 0; i < l->in; i += 1 + l->in / 90) {
      double want = 0, size = 0;
      for (int64_t k = 0; k < terms * l->out; k++) {
        double term = rounded(l->s * (double)g[r * l->out + k]) * weight_at(l, k % l->out, i);
        want += term, size += fabs(term);
      }
      close_to(gx[row_of(l, r) * l->in + i], want, size, terms * l->out, "gx", row_of(l, r) * l->in + i);
    }
}

START_TEST(rounded_operands_and_f32_sums) {
  if (!on) return;
  fill(&layers[_i]);
  pass(&layers[_i]);
  check_result(&layers[_i]);
  check_gradient(&layers[_i]);
}
END_TEST

/* A weight whose rows and columns are not next to each other in memory. */
START_TEST(scattered_weight) {
  if (!on) return;
  const layer l = {6, 5, 7, 0, 0, 0, 1}, wide = {6, 10, 7, 0, 0, 0, 1};
  fill(&wide);
  lk_tape_reset(t);
  lk_view v, W = matrix(LK_BF16, l.out, l.in, weight), in = matrix(LK_F32, l.rows, l.in, x);
  W.stride[0] = 10, W.stride[1] = 2;
  lk_get(t, lk_linear(t, lk_borrow(t, &in), lk_borrow(t, &W), lk_nil()), &v);
  for (int64_t r = 0; r < l.rows; r++)
    for (int64_t o = 0; o < l.out; o++) {
      double want = 0, size = 0;
      for (int64_t i = 0; i < l.in; i++) {
        double term = rounded(x[r * l.in + i]) * weight_at(&wide, o, 2 * i);
        want += term, size += fabs(term);
      }
      close_to(lk_view_get(&v, r * l.out + o), want, size, l.in, "y", r * l.out + o);
    }
}
END_TEST

/* Two layers read x: the second gradient is added to the first. */
START_TEST(gradients_add_up) {
  static float once[MOST];
  if (!on) return;
  const layer l = {50, 60, 400, 0, 0, 0, 1};
  fill(&l);
  pass(&l);
  memcpy(once, gx, sizeof once);
  memset(gx, 0, sizeof gx);
  lk_tape_reset(t);
  lk_tensor in = input_of(&l, gx), sum = lk_nil();
  for (int k = 0; k < 2; k++) {
    lk_view gy = matrix(LK_F32, l.rows, l.out, g);
    lk_tensor result = lk_linear(t, in, weight_of(&l), lk_nil());
    sum = lk_plus(t, sum, lk_sum(t, lk_mul(t, result, lk_borrow(t, &gy)), 0, NULL, 0));
  }
  lk_backward(t, sum);
  for (int i = 0; i < l.rows * l.in; i++) close_to(gx[i], 2.0 * once[i], 60, l.out, "gx", i);
}
END_TEST

START_TEST(same_bits_from_any_number_of_threads) {
  static float first[2][MOST];
  if (!on) return;
  fill(&layers[_i]);
  for (int threads = 1; threads <= 5; threads++) {
    lk_set_threads(ctx, threads);
    pass(&layers[_i]);
    if (threads == 1) memcpy(first[0], y, sizeof y), memcpy(first[1], gx, sizeof gx);
    ck_assert_int_eq(memcmp(first[0], y, (size_t)(layers[_i].rows * layers[_i].out) * sizeof *y), 0);
    ck_assert_int_eq(memcmp(first[1], gx, sizeof gx), 0);
  }
}
END_TEST

START_TEST(nothing_is_allocated_in_a_warm_step) {
  if (!on) return;
  const layer *l = &layers[5];
  fill(l);
  pass(l);
  pass(l);
  uint64_t before = memory.calls;
  pass(l);
  ck_assert_uint_eq(memory.calls, before);
}
END_TEST

/* y of a weight in a dtype, x in another, with the products on or off. */
static void of_dtypes(lk_dtype dx, lk_dtype dW, int products, double *to) {
  enum { ROWS = 3, IN = 50, OUT = 20 };
  static double room[ROWS * IN + IN * OUT];
  lk_view v, in = matrix(dx, ROWS, IN, room), W = matrix(dW, OUT, IN, room + ROWS * IN);
  lk_ctx_bf16_products(ctx, products && on);
  for (int64_t i = 0; i < ROWS * IN; i++) lk_view_set(&in, i, number("x", i));
  for (int64_t i = 0; i < IN * OUT; i++) lk_view_set(&W, i, number("weight", i));
  lk_tape_reset(t);
  ck_assert_int_eq(lk_get(t, lk_linear(t, lk_borrow(t, &in), lk_borrow(t, &W), lk_nil()), &v), 0);
  for (int64_t i = 0; i < ROWS * OUT; i++) to[i] = lk_view_get(&v, i);
}

START_TEST(other_dtypes_stay_exact) {
  static const lk_dtype dx[] = {LK_F32, LK_F32, LK_F64, LK_F64}, dW[] = {LK_F32, LK_F16, LK_F64, LK_BF16};
  double plain[60], fast[60];
  for (int k = 0; k < 4; k++) {
    of_dtypes(dx[k], dW[k], 0, plain);
    of_dtypes(dx[k], dW[k], 1, fast);
    ck_assert_int_eq(memcmp(plain, fast, sizeof plain), 0);
  }
  of_dtypes(LK_F32, LK_BF16, 0, plain);
  of_dtypes(LK_F32, LK_BF16, 1, fast);
  ck_assert_int_eq(memcmp(plain, fast, sizeof plain) != 0, on);
}
END_TEST

/* ---- refusals and failures ---- */

START_TEST(refused_or_there) {
  const char *message;
  lk_ctx_bf16_products(ctx, 0);
  ck_assert_int_eq(lk_ctx_bf16_products(ctx, 0), LK_OK);
  lk_status status = lk_ctx_bf16_products(ctx, 1);
  lk_error(ctx, &message);
  ck_assert_int_eq(status, on ? LK_OK : LK_EARG);
  if (on) {
    ck_assert_int_eq(lk_ctx_bf16_products(ctx, 1), LK_OK);
    return;
  }
#ifdef LK_HAVE_DNNL
  ck_assert_ptr_nonnull(strstr(message, "AVX512_BF16"));
#else
  ck_assert_ptr_nonnull(strstr(message, "without oneDNN"));
#endif
  lk_error_clear(ctx);
}
END_TEST

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  const layer l = {40, 60, 100, 0, 0, 0, 1};
  lk_ctx_bf16_products(c, 1);
  lk_tape *tape = lk_tape_new(c);
  lk_view in = matrix(LK_F32, l.rows, l.in, x), W = matrix(LK_BF16, l.out, l.in, weight);
  lk_set_threads(c, 1);
  lk_tensor result = lk_linear(tape, lk_leaf(tape, &in, gx), lk_borrow(tape, &W), lk_nil());
  lk_backward(tape, lk_sum(tape, lk_mul(tape, result, result), 0, NULL, 0));
  lk_tape_free(tape);
  return lk_error(c, NULL);
}

START_TEST(every_allocation_may_fail) {
  if (!on) return;
  fill(&(layer){40, 60, 100, 0, 0, 0, 1});
  const char *why = test_each_allocation(story, NULL, NULL);
  ck_assert_msg(!why, "%s", why);
}
END_TEST

#ifdef LK_HAVE_DNNL
/* In front of oneDNN's functions: call number fail_at fails. */
static atomic_int calls;
static int fail_at;

static int fails(void) { return ++calls == fail_at; }

#define STAND_IN(name, parameters, arguments)                                                                          \
  __attribute__((visibility("default"))) dnnl_status_t name parameters {                                               \
    dnnl_status_t(*real) parameters;                                                                                   \
    void *found = dlsym(RTLD_NEXT, #name);                                                                             \
    memcpy(&real, &found, sizeof real);                                                                                \
    return fails() ? dnnl_runtime_error : real arguments;                                                              \
  }
STAND_IN(dnnl_engine_create, (dnnl_engine_t * e, dnnl_engine_kind_t kind, size_t i), (e, kind, i))
STAND_IN(dnnl_primitive_attr_create, (dnnl_primitive_attr_t * a), (a))
STAND_IN(dnnl_post_ops_create, (dnnl_post_ops_t * p), (p))
STAND_IN(dnnl_primitive_desc_create,
         (dnnl_primitive_desc_t * p, const_dnnl_op_desc_t d, const_dnnl_primitive_attr_t a, dnnl_engine_t e,
          const_dnnl_primitive_desc_t hint),
         (p, d, a, e, hint))
STAND_IN(dnnl_primitive_create, (dnnl_primitive_t * p, const_dnnl_primitive_desc_t d), (p, d))
STAND_IN(dnnl_stream_create, (dnnl_stream_t * s, dnnl_engine_t e, unsigned flags), (s, e, flags))
STAND_IN(dnnl_memory_create, (dnnl_memory_t * m, const dnnl_memory_desc_t *d, dnnl_engine_t e, void *p), (m, d, e, p))
STAND_IN(dnnl_primitive_execute, (const_dnnl_primitive_t p, dnnl_stream_t s, int n, const dnnl_exec_arg_t *a),
         (p, s, n, a))

START_TEST(every_call_of_onednn_may_fail) {
  if (!on) return;
  fill(&(layer){40, 60, 100, 0, 0, 0, 1});
  for (int n = 1;; n++) {
    const char *message;
    test_allocator a;
    lk_ctx *c = test_ctx(&a, 0);
    calls = 0;
    fail_at = n;
    lk_status status = story(c, NULL);
    int made = calls;
    fail_at = 0;
    lk_error(c, &message);
    ck_assert_msg(made < n ? !status : status == LK_EARG && strstr(message, "oneDNN says runtime_error"), "call %d: %s",
                  n, message);
    lk_ctx_free(c);
    ck_assert_uint_eq(a.live, 0);
    if (made < n) break;
    ck_assert_int_lt(n, 1000);
  }
}
END_TEST
#endif

int main(void) {
  Suite *s = suite_create("bf16");
  TCase *c = tcase_create("bf16");
  tcase_set_timeout(c, 240);
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_test(c, refused_or_there);
  tcase_add_loop_test(c, rounded_operands_and_f32_sums, 0, LAYERS);
  tcase_add_test(c, scattered_weight);
  tcase_add_test(c, gradients_add_up);
  tcase_add_loop_test(c, same_bits_from_any_number_of_threads, 0, LAYERS);
  tcase_add_test(c, nothing_is_allocated_in_a_warm_step);
  tcase_add_test(c, other_dtypes_stay_exact);
  tcase_add_test(c, every_allocation_may_fail);
#ifdef LK_HAVE_DNNL
  tcase_add_test(c, every_call_of_onednn_may_fail);
#endif
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
