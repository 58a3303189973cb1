/* test_generate.c: choosing tokens (filters as transformers' ones, draws by their probabilities), generating (greedy ids
 * as transformers', tests/golden/make/generate.py), and text as it comes. */
#include "alloc.h"
#include "files.h"
#include "tiny_tokenizer.h"

#include <check.h>
#include <lorikeet.h>
#include <math.h>

static const char *const models[] = {"gpt2_lm",        "llama_lm", "llama_dynamic", "llama_yarn",
                                     "mistral_window", "qwen2",    "qwen3"};
enum { MODELS = sizeof models / sizeof *models, VOCABULARY = 53 };

static lk_ctx *ctx;
static lk_model *model;
static lk_pretrained *p;
static lk_safetensors *golden;
static lk_view prompt, greedy;
static int64_t ids[32];
static char here[4096];

static void setup(void) {
  const char *source = getenv("srcdir");
  if (!realpath(source ? source : ".", here)) abort();
  test_directory();
}

static void fine(const char *what) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s: %s", what, message);
}

static void open_model(int i, lk_dtype dtype, int threads) {
  char directory[4300], path[4400];
  snprintf(directory, sizeof directory, "%s/tests/golden/models/%s", here, models[i]);
  snprintf(path, sizeof path, "%s/generate.safetensors", directory);
  ctx = lk_ctx_new(&(lk_ctx_options){.threads = threads});
  model = lk_model_new(ctx, dtype, 0);
  p = lk_pretrained_open(model, directory, &(lk_pretrained_options){.task = LK_TASK_LM});
  golden = lk_safetensors_open(ctx, path);
  lk_safetensors_get(golden, "prompt", &prompt);
  lk_safetensors_get(golden, "greedy", &greedy);
  fine(models[i]);
  for (int k = 0; k < greedy.shape[0]; k++) ids[k] = (int64_t)lk_view_get(&greedy, k);
}

static void close_all(void) {
  lk_safetensors_close(golden);
  lk_model_free(model);
  lk_warnings_clear(ctx);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, 0);
  lk_ctx_free(ctx);
}

static lk_view vector(double *values, int64_t n) {
  lk_view v;
  lk_view_init(&v, LK_F64, 1, &n);
  v.p = values;
  return v;
}

/* ---- choosing ---- */

START_TEST(filters) {
  static const struct {
    const char *name;
    lk_sample_options o;
  } cases[] = {{"top_k", {0.7, 7, 0}}, {"top_p", {0.7, 0, 0.6}}, {"both", {1.5, 20, 0.8}}};
  double probabilities[VOCABULARY];
  open_model(_i, LK_F32, 1);
  lk_view cached, want;
  lk_safetensors_get(golden, "cached", &cached);
  lk_view logits = cached;
  logits.ndim = 1;
  logits.shape[0] = VOCABULARY;
  logits.stride[0] = 1;
  for (int k = 0; k < 3; k++) {
    lk_safetensors_get(golden, cases[k].name, &want);
    ck_assert_int_eq(lk_sample_probabilities(ctx, &logits, &cases[k].o, probabilities), LK_OK);
    for (int i = 0; i < VOCABULARY; i++) {
      ck_assert_double_eq_tol(probabilities[i], lk_view_get(&want, i), 1e-12);
      ck_assert((probabilities[i] > 0) == (lk_view_get(&want, i) > 0));
    }
  }
  close_all();
}
END_TEST

/* Probabilities by the definition: a token's rank counts those before it. */
static void define(const double *x, int n, const lk_sample_options *o, double *q) {
  double sum = 0, kept = 0;
  for (int i = 0; i < n; i++) {
    int larger = 0;
    for (int k = 0; k < n; k++) larger += x[k] > x[i];
    q[i] = !o->top_k || larger < o->top_k ? exp(x[i] / o->temperature) : 0;
    sum += q[i];
  }
  double before[64];
  for (int i = 0; i < n; i++) {
    before[i] = 0;
    for (int k = 0; k < n; k++)
      if (q[k] > q[i] || (q[k] == q[i] && k < i)) before[i] += q[k] / sum;
  }
  for (int i = 0; i < n; i++) {
    if (o->top_p > 0 && o->top_p < 1 && before[i] >= o->top_p - 1e-13) q[i] = 0;
    kept += q[i];
  }
  for (int i = 0; i < n; i++) q[i] /= kept;
}

/* Many logits, with equal ones among them. */
START_TEST(definition) {
  enum { N = 40 };
  double x[N], got[N], want[N];
  ctx = lk_ctx_new(NULL);
  lk_key key = lk_key_make(5, "logits");
  for (int round = 0; round < 300; round++) {
    const lk_sample_options o = {.temperature = 0.3 + 0.01 * round,
                                 .top_k = round % 3 ? (int64_t)lk_random_below(key, (uint64_t)round, N + 5) : 0,
                                 .top_p = round % 2 ? lk_random_uniform(key, 1000 + (uint64_t)round) : 0};
    for (uint64_t i = 0; i < N; i++) {
      double draw = lk_random_normal(lk_key_fold(key, (uint64_t)round), i);
      x[i] = round % 5 ? draw : floor(draw);
    }
    lk_view v = vector(x, N);
    lk_sample_probabilities(ctx, &v, &o, got);
    fine("probabilities");
    define(x, N, &o, want);
    for (int i = 0; i < N; i++) ck_assert_double_eq_tol(got[i], want[i], 1e-9);
  }
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, 0);
  lk_ctx_free(ctx);
}
END_TEST

/* Draws come as often as their probabilities say (chi-square), and no others. */
START_TEST(draws) {
  enum { N = 12, DRAWS = 40000 };
  static const lk_sample_options options[] = {{1, 0, 0}, {0.5, 0, 0}, {1, 5, 0}, {1, 0, 0.7}, {2, 9, 0.8}};
  double x[N], q[N];
  int count[N] = {0};
  ctx = lk_ctx_new(NULL);
  for (int i = 0; i < N; i++) x[i] = sin(3.0 * i) * 2;
  x[4] = -INFINITY;
  lk_view v = vector(x, N);
  lk_key key = lk_key_make(9, "draws");
  lk_sample_probabilities(ctx, &v, &options[_i], q);
  for (uint64_t i = 0; i < DRAWS; i++) count[lk_sample(ctx, &v, &options[_i], lk_random_uniform(key, i))]++;
  double chi = 0;
  int tokens = 0;
  for (int i = 0; i < N; i++) {
    if (q[i] == 0) ck_assert_int_eq(count[i], 0);
    else chi += pow(count[i] - q[i] * DRAWS, 2) / (q[i] * DRAWS);
    tokens += q[i] > 0;
  }
  ck_assert_double_eq(q[4], 0);
  ck_assert_int_gt(tokens, 1);
  ck_assert_msg(chi < tokens + 5 * sqrt(2.0 * tokens), "chi-square %g of %d tokens", chi, tokens);
  ck_assert_int_eq(lk_sample(ctx, &v, &options[_i], 1 - 1e-16) >= 0, 1);
  lk_ctx_free(ctx);
}
END_TEST

static void expect_error(lk_status status, const char *words) {
  const char *message;
  ck_assert_int_eq(lk_error(ctx, &message), status);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' lacks '%s'", message, words);
  lk_error_clear(ctx);
}

START_TEST(refused_logits) {
  double x[] = {1, NAN, 2}, y[3];
  lk_view v = vector(x, 3);
  ctx = lk_ctx_new(NULL);
  ck_assert_int_eq(lk_sample(ctx, &v, &(lk_sample_options){0}, 0.5), -1);
  expect_error(LK_ENONFINITE, "token 1 is nan");
  x[1] = INFINITY;
  lk_sample_probabilities(ctx, &v, &(lk_sample_options){1, 0, 0}, y);
  expect_error(LK_ENONFINITE, "token 1 is inf");
  x[0] = x[1] = x[2] = -INFINITY;
  lk_sample(ctx, &v, &(lk_sample_options){0}, 0.5);
  expect_error(LK_ENONFINITE, "none of 3");
  lk_sample(ctx, &v, &(lk_sample_options){-1, 0, 0}, 0.5);
  expect_error(LK_EARG, "temperature -1");
  lk_sample(ctx, &v, &(lk_sample_options){1, -2, 0}, 0.5);
  expect_error(LK_EARG, "top_k -2");
  lk_sample(ctx, &v, &(lk_sample_options){1, 0, 1.5}, 0.5);
  expect_error(LK_EARG, "top_p 1.5");
  x[0] = x[1] = x[2] = 7; /* the first of equals */
  ck_assert_int_eq(lk_sample(ctx, &v, &(lk_sample_options){0}, 0.9), 0);
  lk_ctx_free(ctx);
}
END_TEST

/* ---- generating ---- */

static int run(lk_generator *g, const int64_t *from, int64_t n, int64_t *to) {
  int made = 0;
  lk_generator_start(g, from, n);
  for (int64_t id; (id = lk_generator_next(g)) >= 0;) to[made++] = id;
  fine("generating");
  return made;
}

START_TEST(as_transformers) {
  for (int dtype = LK_F32; dtype <= LK_F64; dtype++) {
    int64_t made[32];
    open_model(_i, (lk_dtype)dtype, 0);
    int n = (int)prompt.shape[0], more = (int)greedy.shape[0] - n;
    lk_generator *g = lk_generator_new(p, &(lk_generate_options){.most = more, .keep_ending = 1});
    for (int again = 0; again < 2; again++) {
      ck_assert_int_eq(run(g, ids, n, made), more);
      ck_assert(memcmp(made, ids + n, (size_t)more * sizeof *made) == 0);
      ck_assert_int_eq(lk_generator_ending(g), LK_ENDING_MOST);
      ck_assert_int_eq(lk_generator_count(g), more);
    }
    lk_generator_free(g);
    close_all();
  }
}
END_TEST

/* The same draws with any number of threads; others with another seed. */
START_TEST(seeds) {
  int64_t made[3][32];
  static const struct {
    int threads;
    uint64_t seed;
  } runs[] = {{1, 4}, {2, 4}, {2, 5}};
  for (int k = 0; k < 3; k++) {
    open_model(_i, LK_F32, runs[k].threads);
    lk_generator *g = lk_generator_new(
        p, &(lk_generate_options){.most = 9, .keep_ending = 1, .sample = {.temperature = 2}, .seed = runs[k].seed});
    ck_assert_int_eq(run(g, ids, 3, made[k]), 9);
    lk_generator_free(g);
    close_all();
  }
  ck_assert(memcmp(made[0], made[1], 9 * sizeof **made) == 0);
  ck_assert(memcmp(made[0], made[2], 9 * sizeof **made) != 0);
}
END_TEST

/* A copy of gpt2_lm with another config.json or generation_config.json. */
static void copy_model(const char *generation_config) {
  size_t n;
  char path[4300];
  static const char *const files[] = {"config.json", "model.safetensors"};
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/tests/golden/models/gpt2_lm/%s", here, files[i]);
    unsigned char *bytes = test_get(path, &n);
    ck_assert(bytes != NULL);
    test_put(files[i], bytes, n);
    free(bytes);
  }
  test_put("generation_config.json", generation_config, strlen(generation_config));
  ctx = lk_ctx_new(NULL);
  model = lk_model_new(ctx, LK_F32, 0);
  p = lk_pretrained_open(model, ".", &(lk_pretrained_options){.task = LK_TASK_LM});
  fine("copy");
}

/* The model's own end (22 is what gpt2_lm says first, then 0), the number asked for, and the model's length. */
START_TEST(endings) {
  int64_t made[64];
  static const int64_t start[] = {48, 42, 27, 21, 16, 16};
  golden = NULL;
  copy_model("{\"eos_token_id\": [39, 0]}");
  lk_generator *g = lk_generator_new(p, &(lk_generate_options){.most = 50});
  fine("generator");
  ck_assert_int_eq(run(g, start, 6, made), 2);
  ck_assert_int_eq(lk_generator_ending(g), LK_ENDING_EOS);
  ck_assert_int_eq(lk_generator_next(g), -1);
  lk_generator_free(g);
  g = lk_generator_new(p, &(lk_generate_options){.most = 50, .keep_ending = 1});
  ck_assert_int_eq(run(g, start, 6, made), 11); /* 16 positions, and one token more behind the last */
  ck_assert_int_eq(lk_generator_ending(g), LK_ENDING_FULL);
  lk_generator_free(g);
  close_all();
  copy_model("{\"eos_token_id\": \"x\"}");
  ck_assert(!lk_generator_new(p, &(lk_generate_options){.most = 50}));
  expect_error(LK_EFORMAT, "generation_config.json: eos_token_id should be integers, not a string");
  close_all();
}
END_TEST

START_TEST(refused) {
  int64_t many[40] = {0};
  open_model(0, LK_F32, 1);
  ck_assert(!lk_generator_new(p, &(lk_generate_options){0}));
  expect_error(LK_EARG, "most is 0");
  ck_assert(!lk_generator_new(p, &(lk_generate_options){.most = 1, .sample = {.temperature = NAN}}));
  expect_error(LK_EARG, "temperature nan");
  lk_generator *g = lk_generator_new(p, &(lk_generate_options){.most = INT64_MAX});
  ck_assert_int_eq(lk_generator_next(g), -1);
  lk_generator_start(g, many, 0);
  expect_error(LK_EARG, "a prompt needs a token");
  lk_generator_start(g, many, 17);
  expect_error(LK_ESHAPE, "17 tokens; the model takes 16");
  lk_generator_start(g, many, 1);
  expect_error(LK_ESHAPE, "are too many");
  lk_generator_free(g);
  g = lk_generator_new(p, &(lk_generate_options){.most = 2});
  many[2] = VOCABULARY;
  lk_generator_start(g, many, 4);
  expect_error(LK_EARG, "token 2 of the prompt is 53");
  ck_assert_int_eq(lk_generator_next(g), -1);
  many[2] = 1;
  ck_assert_int_eq(lk_generator_start(g, many, 4), LK_OK);
  lk_generator_free(g);
  close_all();
}
END_TEST

/* ---- text ---- */

static lk_tokenizer *k;
static lk_text_stream *stream;

static void open_stream(const char *stop) {
  tiny_tokenizer_write("tokenizer.json");
  ctx = lk_ctx_new(NULL);
  k = lk_tokenizer_open(ctx, "tokenizer.json");
  stream = lk_text_stream_new(ctx, k, stop);
  fine("stream");
}

static void close_stream(void) {
  fine("end");
  lk_text_stream_free(stream);
  lk_tokenizer_free(k);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, 0);
  lk_ctx_free(ctx);
}

static void expect_text(int64_t id, const char *text) { ck_assert_str_eq(lk_text_stream_add(stream, id), text); }

START_TEST(pieces) {
  open_stream(NULL);
  lk_text_stream_start(stream, (const int64_t[]){3, 4}, 2);
  expect_text(5, "c");
  expect_text(9, ""); /* a face */
  expect_text(10, "");
  expect_text(11, "");
  expect_text(12, "\xF0\x9F\x98\x80");
  expect_text(6, " ");
  expect_text(7, "");
  expect_text(8, "\xC3\xA9");
  expect_text(1, ""); /* special */
  expect_text(7, "");
  expect_text(4, "\xEF\xBF\xBD"
                 "b"); /* it was the beginning of nothing */
  expect_text(9, "");
  ck_assert_str_eq(lk_text_stream_end(stream), "\xEF\xBF\xBD");
  lk_text_stream_start(stream, NULL, 0);
  expect_text(3, "a");
  ck_assert_str_eq(lk_text_stream_end(stream), "");
  close_stream();
}
END_TEST

/* However many bytes come that are no characters, they are written some time. */
START_TEST(broken) {
  size_t written = 0;
  open_stream(NULL);
  for (int i = 0; i < 100; i++) written += strlen(lk_text_stream_add(stream, 10));
  ck_assert_uint_gt(written, 3 * 80);
  written += strlen(lk_text_stream_end(stream));
  ck_assert_uint_eq(written, 3 * 100);
  close_stream();
}
END_TEST

START_TEST(stop) {
  open_stream("bca");
  expect_text(3, "a");
  expect_text(4, "");
  expect_text(5, "");
  expect_text(4, "bc");
  expect_text(5, "");
  ck_assert(!lk_text_stream_stopped(stream));
  expect_text(3, "");
  ck_assert(lk_text_stream_stopped(stream));
  expect_text(3, "");
  ck_assert_str_eq(lk_text_stream_end(stream), "");
  lk_text_stream_start(stream, NULL, 0);
  expect_text(4, "");
  ck_assert_str_eq(lk_text_stream_end(stream), "b");
  close_stream();
}
END_TEST

/* All tokens, piece by piece, are the text of all tokens. */
START_TEST(all) {
  char text[1000] = "";
  int64_t many[200];
  open_stream(NULL);
  lk_key key = lk_key_make(3, "tokens");
  for (uint64_t i = 0; i < 200; i++) {
    many[i] = (int64_t)lk_random_below(key, i, VOCABULARY);
    strcat(text, lk_text_stream_add(stream, many[i]));
  }
  strcat(text, lk_text_stream_end(stream));
  char *want = lk_decode(k, many, 200, 1);
  ck_assert_str_eq(text, want);
  lk_free(ctx, want);
  close_stream();
}
END_TEST

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  lk_model *m = lk_model_new(c, LK_F32, 0);
  lk_pretrained *q = lk_pretrained_open(m, ".", &(lk_pretrained_options){.task = LK_TASK_LM});
  lk_generator *g =
      lk_generator_new(q, &(lk_generate_options){.most = 3, .sample = {.temperature = 1, .top_k = 9, .top_p = 0.9}});
  lk_tokenizer *tokenizer = lk_tokenizer_open(c, "tokenizer.json");
  lk_text_stream *s = tokenizer ? lk_text_stream_new(c, tokenizer, "zz") : NULL;
  lk_generator_start(g, (const int64_t[]){4, 5}, 2);
  for (int64_t id; s && (id = lk_generator_next(g)) >= 0;) lk_text_stream_add(s, id);
  lk_text_stream_end(s);
  lk_status status = lk_error(c, NULL);
  lk_text_stream_free(s);
  lk_tokenizer_free(tokenizer);
  lk_generator_free(g);
  lk_model_free(m);
  return status;
}

START_TEST(no_memory) {
  uint64_t count;
  golden = NULL;
  copy_model("{\"eos_token_id\": 1}");
  close_all();
  tiny_tokenizer_write("tokenizer.json");
  const char *why = test_each_allocation(story, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 50);
}
END_TEST

int main(void) {
  Suite *s = suite_create("generate");
  TCase *c = tcase_create("generate");
  tcase_set_timeout(c, 240);
  tcase_add_checked_fixture(c, setup, test_directory_remove);
  tcase_add_loop_test(c, filters, 0, MODELS);
  tcase_add_test(c, definition);
  tcase_add_loop_test(c, draws, 0, 5);
  tcase_add_test(c, refused_logits);
  tcase_add_loop_test(c, as_transformers, 0, MODELS);
  tcase_add_loop_test(c, seeds, 0, MODELS);
  tcase_add_test(c, endings);
  tcase_add_test(c, refused);
  tcase_add_test(c, pieces);
  tcase_add_test(c, broken);
  tcase_add_test(c, stop);
  tcase_add_test(c, all);
  tcase_add_test(c, no_memory);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
