/* test_cache.c: keys and values that are kept: any division of a row into passes with a cache gives the logits of one pass
 * without it, and what transformers gives with its cache (tests/golden/make/generate.py); refusals; memory. */
#include "alloc.h"

#include <check.h>
#include <lorikeet.h>
#include <math.h>

static const char *const models[] = {"gpt2_lm",    "llama_lm",       "llama_dynamic", "llama_yarn",
                                     "llama_bf16", "mistral_window", "qwen2",         "qwen3"};
enum { MODELS = sizeof models / sizeof *models, GPT2 = 0, LLAMA = 1, DYNAMIC = 2, BF16 = 4, WINDOW = 5 };
enum { ROWS = 2, LENGTH = 12, VOCABULARY = 53 };

static lk_ctx *ctx;
static test_allocator allocator;
static lk_model *model;
static lk_pretrained *p;
static lk_tape *t;
static lk_cache *cache;

static void fine(const char *what) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s: %s", what, message);
}

static const char *path_of(int i, const char *file) {
  static char path[4300];
  const char *source = getenv("srcdir");
  snprintf(path, sizeof path, "%s/tests/golden/models/%s%s", source ? source : ".", models[i], file);
  return path;
}

static void open_model(int i, lk_dtype dtype) {
  ctx = test_ctx(&allocator, 0);
  t = lk_tape_new(ctx);
  model = lk_model_new(ctx, dtype, 0);
  p = lk_pretrained_open(model, path_of(i, ""), &(lk_pretrained_options){.task = LK_TASK_LM});
  fine(models[i]);
  lk_no_grad(t, 1);
}

static void close_all(void) {
  lk_cache_free(cache);
  lk_tape_free(t);
  lk_model_free(model);
  lk_warnings_clear(ctx);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(allocator.live, 0);
  cache = NULL;
}

/* Token i of row r. */
static int64_t token(int r, int64_t i) { return (5 + 7 * i * i + 11 * r + i) % VOCABULARY; }

/* Logits of tokens first .. first + n - 1 of all rows, behind the cache. */
static lk_tensor pass(int64_t first, int64_t n, lk_cache *with) {
  int64_t ids[ROWS * LENGTH];
  for (int r = 0; r < ROWS; r++)
    for (int64_t i = 0; i < n; i++) ids[r * n + i] = token(r, first + i);
  lk_tape_reset(t);
  return lk_pretrained_forward(p, t,
                               &(lk_inputs){.ids = lk_input(t, LK_I64, 2, (int64_t[]){ROWS, n}, ids), .cache = with});
}

/* Into rows first .. of `to`, [ROWS, LENGTH, VOCABULARY]. */
static void keep(double *to, lk_tensor y, int64_t first, int64_t n) {
  lk_view v;
  ck_assert_int_eq(lk_get(t, y, &v), 0);
  ck_assert_int_eq(lk_view_count(&v), ROWS * n * VOCABULARY);
  for (int64_t k = 0; k < lk_view_count(&v); k++) {
    int64_t r = k / (n * VOCABULARY), i = k / VOCABULARY % n;
    to[(r * LENGTH + first + i) * VOCABULARY + k % VOCABULARY] = lk_view_get(&v, k);
  }
}

static double difference(const double *a, const double *b) {
  double most = 0;
  for (int i = 0; i < ROWS * LENGTH * VOCABULARY; i++) most = fmax(most, fabs(a[i] - b[i]));
  return most;
}

static double whole[ROWS * LENGTH * VOCABULARY], parts[ROWS * LENGTH * VOCABULARY];

/* Ends of passes: token by token, in pieces, all at once. */
static const int divisions[][LENGTH + 1] = {
    {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {5, 6, 7, 8, 12}, {3, 6, 9, 12}, {2, 12}, {11, 12}, {12}};
enum { DIVISIONS = sizeof divisions / sizeof *divisions };

static void run_division(const int *ends) {
  for (int64_t first = 0; first < LENGTH; first = *ends++)
    keep(parts, pass(first, *ends - first, cache), first, *ends - first);
  fine("division");
}

START_TEST(divided) {
  for (int dtype = LK_F32; dtype <= LK_F64; dtype++) {
    open_model(_i, (lk_dtype)dtype);
    keep(whole, pass(0, LENGTH, NULL), 0, LENGTH);
    cache = lk_cache_new(p, ROWS, LENGTH);
    for (int d = 0; d < DIVISIONS; d++) {
      lk_cache_truncate(cache, 0);
      run_division(divisions[d]);
      ck_assert_int_eq(lk_cache_length(cache), LENGTH);
      double error = difference(whole, parts);
      /* Keys of "dynamic" rotary embeddings stay turned as the length of their pass said: see as_transformers. */
      if (_i == DYNAMIC && divisions[d][0] != LENGTH) ck_assert(error > 1e-6);
      else
        ck_assert_msg(error < (dtype == LK_F64 ? 1e-10 : 2e-5), "%s: division %d is off by %g", models[_i], d, error);
    }
    close_all();
  }
}
END_TEST

/* Within the length of pretraining, "dynamic" is like the others. */
START_TEST(short_dynamic) {
  enum { SHORT = 5 };
  open_model(DYNAMIC, LK_F64);
  keep(whole, pass(0, SHORT, NULL), 0, SHORT);
  cache = lk_cache_new(p, ROWS, SHORT);
  for (int i = 0; i < SHORT; i++) keep(parts, pass(i, 1, cache), i, 1);
  ck_assert(difference(whole, parts) < 1e-10);
  close_all();
}
END_TEST

/* With transformers' cache, by its divisions; computed there with norms and angles in single precision. */
START_TEST(as_transformers) {
  lk_view prompt, greedy, want, got;
  if (_i == BF16) return;
  open_model(_i, LK_F64);
  lk_safetensors *f = lk_safetensors_open(ctx, path_of(_i, "/generate.safetensors"));
  lk_safetensors_get(f, "prompt", &prompt);
  lk_safetensors_get(f, "greedy", &greedy);
  lk_safetensors_get(f, "cached", &want);
  fine("golden");
  int64_t n = prompt.shape[0];
  cache = lk_cache_new(p, 1, greedy.shape[0]);
  for (int64_t first = 0, end = n; end < greedy.shape[0]; first = end, end++) {
    int64_t ids[32], T = end - first;
    for (int64_t i = 0; i < T; i++) ids[i] = (int64_t)lk_view_get(&greedy, first + i);
    lk_tape_reset(t);
    lk_inputs in = {.ids = lk_input(t, LK_I64, 2, (int64_t[]){1, T}, ids), .cache = cache};
    lk_get(t, lk_pretrained_forward(p, t, &in), &got);
    fine("pass");
    for (int64_t k = 0; k < T * VOCABULARY; k++)
      ck_assert_double_eq_tol(lk_view_get(&got, k), lk_view_get(&want, first * VOCABULARY + k),
                              _i == GPT2 ? 1e-10 : 2e-6);
  }
  lk_safetensors_close(f);
  close_all();
}
END_TEST

/* The logits of the last place alone are those of the last place. */
START_TEST(last) {
  lk_view all, one;
  int64_t ids[] = {3, 9, 20, 4, 7, 30};
  open_model(_i, LK_F64);
  lk_inputs in = {.ids = lk_input(t, LK_I64, 2, (int64_t[]){ROWS, 3}, ids)};
  lk_get(t, lk_pretrained_forward(p, t, &in), &all);
  in.last = 1;
  lk_get(t, lk_pretrained_forward(p, t, &in), &one);
  fine("last");
  ck_assert(one.ndim == 3 && one.shape[0] == ROWS && one.shape[1] == 1 && one.shape[2] == VOCABULARY);
  for (int r = 0; r < ROWS; r++)
    for (int k = 0; k < VOCABULARY; k++)
      ck_assert_double_eq_tol(lk_view_get(&one, r * VOCABULARY + k), lk_view_get(&all, (r * 3 + 2) * VOCABULARY + k),
                              1e-12);
  close_all();
}
END_TEST

/* What was cut off may be replaced. */
START_TEST(truncated) {
  open_model(_i, LK_F64);
  cache = lk_cache_new(p, ROWS, LENGTH);
  keep(whole, pass(0, 8, cache), 0, 8);
  for (int64_t i = 8; i < LENGTH; i++) keep(whole, pass(i, 1, cache), i, 1);
  lk_cache_truncate(cache, 3);
  ck_assert_int_eq(lk_cache_length(cache), 3);
  pass(7, 5, cache); /* others */
  ck_assert_int_eq(lk_cache_truncate(cache, 8), LK_OK);
  lk_cache_truncate(cache, 0);
  keep(parts, pass(0, 8, cache), 0, 8);
  for (int64_t i = 8; i < LENGTH; i++) keep(parts, pass(i, 1, cache), i, 1);
  ck_assert(memcmp(whole, parts, sizeof whole) == 0);
  lk_cache_truncate(cache, 9);
  for (int64_t i = 9; i < LENGTH; i++) keep(parts, pass(i, 1, cache), i, 1);
  ck_assert(memcmp(whole, parts, sizeof whole) == 0);
  close_all();
}
END_TEST

static void expect_error(lk_status status, const char *words) {
  const char *message;
  ck_assert_int_eq(lk_error(ctx, &message), status);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' lacks '%s'", message, words);
  lk_error_clear(ctx);
  lk_tape_free(t);
  t = lk_tape_new(ctx);
  lk_no_grad(t, 1);
}

START_TEST(refused) {
  open_model(_i, LK_F32);
  ck_assert(!lk_cache_new(p, 0, 4));
  expect_error(LK_EARG, "0 rows");
  ck_assert(!lk_cache_new(p, ROWS, 0));
  expect_error(LK_EARG, "0 tokens");
  ck_assert(!lk_cache_new(p, INT32_MAX, INT32_MAX));
  ck_assert_int_ne(lk_error(ctx, NULL), LK_OK);
  lk_error_clear(ctx);
  cache = lk_cache_new(p, ROWS, 6);
  pass(0, 4, cache);
  fine("4 tokens");
  ck_assert(lk_is_nil(pass(4, 3, cache)));
  expect_error(LK_ESHAPE, "4 tokens and 3 more, but room for 6");
  ck_assert_int_eq(lk_cache_length(cache), 4);
  lk_cache_truncate(cache, 5);
  expect_error(LK_EARG, "cannot keep 5 of 4");
  lk_cache_truncate(cache, -1);
  expect_error(LK_EARG, "cannot keep -1 of 4");
  lk_pretrained_forward(p, t,
                        &(lk_inputs){.ids = lk_input(t, LK_I64, 2, (int64_t[]){ROWS + 1, 1}, NULL), .cache = cache});
  expect_error(LK_ESHAPE, "made for 2 rows, the input has 3");
  uint8_t mask[ROWS] = {1, 1};
  lk_pretrained_forward(p, t,
                        &(lk_inputs){.ids = lk_input(t, LK_I64, 2, (int64_t[]){ROWS, 1}, NULL),
                                     .mask = lk_input(t, LK_U8, 2, (int64_t[]){ROWS, 1}, mask),
                                     .cache = cache});
  expect_error(LK_EARG, "takes no mask");
  lk_no_grad(t, 0);
  pass(4, 1, cache);
  expect_error(LK_EARG, "no gradients");
  keep(parts, pass(4, 2, cache), 4, 2); /* it goes on as if nothing had been */
  fine("after the refusals");
  close_all();
}
END_TEST

/* A model of a fixed number of positions makes no cache for more. */
START_TEST(too_long) {
  open_model(GPT2, LK_F32);
  ck_assert(!lk_cache_new(p, 1, 17));
  expect_error(LK_EARG, "17 tokens; the model takes 16");
  close_all();
}
END_TEST

/* A pass of one token asks the allocator for nothing once there was one, and its tape holds what the step needs, whatever
 * the length: keys and values are read where they lie. */
START_TEST(memory) {
  size_t peak = 0, grown = 0, nodes = 0;
  open_model(_i, LK_F32);
  cache = lk_cache_new(p, ROWS, LENGTH);
  for (int64_t i = 0; i < LENGTH; i++) {
    uint64_t before = allocator.calls;
    pass(i, 1, cache);
    lk_tape_stats s = lk_tape_statistics(t);
    if (i > 3) ck_assert_msg(allocator.calls == before, "%s: token %d allocates", models[_i], (int)i);
    if (i == 4) peak = s.peak;
    if (i > 4) grown = s.peak > peak ? s.peak - peak : grown;
    if (i == 4) nodes = s.nodes;
    if (i > 4) ck_assert_uint_eq(s.nodes, nodes);
    ck_assert_uint_lt(s.nodes, 8); /* of a hundred operations */
  }
  fine(models[_i]);
  /* only the scores of [rows, heads] queries, and their mask, are as long as the row */
  ck_assert_msg(grown <= (LENGTH - 4) * ROWS * 4 * 2 * sizeof(float) + 256, "%s: %zu bytes more", models[_i], grown);
  close_all();
}
END_TEST

static lk_status story(lk_ctx *c, void *arg) {
  ctx = c;
  t = lk_tape_new(ctx);
  model = lk_model_new(ctx, LK_F32, 0);
  p = lk_pretrained_open(model, path_of(*(int *)arg, ""), &(lk_pretrained_options){.task = LK_TASK_LM});
  cache = lk_cache_new(p, ROWS, LENGTH);
  if (t) lk_no_grad(t, 1);
  for (int64_t i = 0; t && i < 3; i++) pass(2 * i, 2, cache);
  lk_status status = lk_error(ctx, NULL);
  lk_cache_free(cache);
  cache = NULL;
  lk_tape_free(t);
  lk_model_free(model);
  return status;
}

START_TEST(no_memory) {
  int which = WINDOW;
  uint64_t count;
  const char *why = test_each_allocation(story, &which, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 50);
}
END_TEST

int main(void) {
  Suite *s = suite_create("cache");
  TCase *c = tcase_create("cache");
  tcase_set_timeout(c, 240);
  tcase_add_loop_test(c, divided, 0, MODELS);
  tcase_add_test(c, short_dynamic);
  tcase_add_loop_test(c, as_transformers, 0, MODELS);
  tcase_add_loop_test(c, last, 0, MODELS);
  tcase_add_loop_test(c, truncated, 0, MODELS);
  tcase_add_loop_test(c, refused, 0, MODELS);
  tcase_add_test(c, too_long);
  tcase_add_loop_test(c, memory, 0, MODELS);
  tcase_add_test(c, no_memory);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
