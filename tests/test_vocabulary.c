/* test_vocabulary.c: the two ends of a language model: heads that are tied to the embedding, and other numbers of tokens. */
#include "alloc.h"
#include "files.h"

#include <check.h>
#include <lorikeet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TOKENS = 53, MORE = 60, WIDTH = 24 };
static lk_ctx *ctx;
static lk_model *model;
static lk_pretrained *p;
static lk_tape *t;
static char golden[4200];

static void setup(void) {
  const char *source = getenv("srcdir");
  char here[4096];
  if (!realpath(source ? source : ".", here)) abort();
  snprintf(golden, sizeof golden, "%s/tests/golden/models", here);
  test_directory();
  ctx = lk_ctx_new(NULL);
  t = lk_tape_new(ctx);
}

static void teardown(void) {
  lk_tape_free(t);
  lk_model_free(model);
  lk_ctx_free(ctx);
  model = NULL;
  test_directory_remove();
}

static void fine(const char *what) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s: %s", what, message);
}

static void expect_refusal(const char *words) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) != LK_OK, "no error; want '%s'", words);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' should say '%s'", message, words);
  lk_error_clear(ctx);
}

/* A golden model by its name, or a directory with a slash in it. */
static void open_model(const char *name, lk_task task) {
  char path[4400];
  snprintf(path, sizeof path, "%s/%s", golden, name);
  lk_model_free(model);
  model = lk_model_new(ctx, LK_F32, 0);
  p = lk_pretrained_open(model, strchr(name, '/') ? name : path, &(lk_pretrained_options){.task = task});
  fine(name);
}

/* The logits of a few tokens: a copy of `n` numbers of the first row's last place. */
static void logits(const int64_t ids[4], double *to, int64_t n) {
  lk_view v;
  lk_tape_reset(t);
  lk_tensor x = lk_input(t, LK_I64, 2, (int64_t[]){1, 4}, ids);
  lk_get(t, lk_pretrained_forward(p, t, &(lk_inputs){.ids = x, .last = 1}), &v);
  fine("forward");
  ck_assert_int_eq(v.shape[2], p->vocabulary);
  for (int64_t i = 0; i < n; i++) to[i] = lk_view_get(&v, i);
}

static double distance(const double *a, const double *b, int n) {
  double d = 0;
  for (int i = 0; i < n; i++) d = fmax(d, fabs(a[i] - b[i]));
  return d;
}

static const int64_t ids[4] = {3, 17, 42, 9};

static lk_param *param(const char *name) {
  lk_param *q = lk_param_find(lk_model_root(model), name);
  ck_assert_msg(q != NULL, "there is no %s", name);
  return q;
}

/* Gives every trained number another value. */
static void stir(void) {
  int n;
  lk_param **trained = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) lk_param_normal(trained[i], 0, 0.3);
  lk_free(ctx, trained);
  fine("stir");
}

/* ---- tied heads ---- */

static const char *const tied[] = {"gpt2_lm", "llama_mha_tied"};
static const char *const words[] = {"wte", "embed_tokens"};

/* An adapter of the head leaves the embedding as it is, and the other way round; merging parts them, and the directory
 * says so. */
START_TEST(adapted_apart) {
  double plain[TOKENS], adapted[TOKENS], again[TOKENS];
  const char *targets[] = {"lm_head", words[_i / 2]};
  open_model(tied[_i / 2], LK_TASK_LM);
  int64_t count = lk_parameter_count(model);
  logits(ids, plain, TOKENS);
  lk_attach(model, NULL, "lora r=3", targets[_i % 2]);
  stir();
  logits(ids, adapted, TOKENS);
  ck_assert(distance(plain, adapted, TOKENS) > 1e-3);
  ck_assert_int_eq(lk_parameter_count(model), count);
  lk_adapter_save(model, NULL, "adapter", NULL);
  lk_merge(model, NULL);
  logits(ids, again, TOKENS);
  ck_assert(distance(again, adapted, TOKENS) < 1e-4);
  ck_assert_int_eq(lk_parameter_count(model), count + TOKENS * p->width);
  lk_pretrained_save(p, "merged");
  lk_unmerge(model);
  ck_assert_int_eq(lk_parameter_count(model), count);
  lk_detach(model, "default");
  logits(ids, again, TOKENS);
  ck_assert(distance(again, plain, TOKENS) == 0);
  lk_adapter_load(model, NULL, "adapter", 0);
  logits(ids, again, TOKENS);
  ck_assert(distance(again, adapted, TOKENS) == 0);
  open_model("./merged", LK_TASK_LM);
  int is_tied = 1;
  ck_assert(lk_json_is_bool(lk_json_get(p->config, "tie_word_embeddings"), &is_tied) && !is_tied);
  logits(ids, again, TOKENS);
  ck_assert(distance(again, adapted, TOKENS) < 1e-4);
}
END_TEST

/* The copy that modules_to_save makes is of the embedding, or of the head, and of nothing else. */
START_TEST(saved_apart) {
  double plain[TOKENS], adapted[TOKENS], again[TOKENS];
  open_model(tied[_i / 2], LK_TASK_LM);
  lk_attach_with(model, &(lk_attach_options){.spec = "lora r=2",
                                             .targets = "re:.*(c_attn|q_proj)",
                                             .modules_to_save = _i % 2 ? "lm_head" : words[_i / 2]});
  fine("attach");
  logits(ids, plain, TOKENS);
  stir();
  logits(ids, adapted, TOKENS);
  ck_assert(distance(plain, adapted, TOKENS) > 1e-3);
  lk_merge(model, NULL);
  logits(ids, again, TOKENS);
  ck_assert(distance(again, adapted, TOKENS) < 1e-4);
  lk_pretrained_save(p, "merged");
  open_model("./merged", LK_TASK_LM);
  logits(ids, again, TOKENS);
  ck_assert(distance(again, adapted, TOKENS) < 1e-4);
}
END_TEST

/* As in PEFT, "all-linear" is all but the head. */
START_TEST(all_but_the_head) {
  static const char *const names[] = {"gpt2_lm", "llama_lm", "bert_masked_lm"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    open_model(names[i], i == 2 ? LK_TASK_MASKED_LM : LK_TASK_LM);
    lk_attach(model, NULL, "lora r=2", "all-linear");
    fine(names[i]);
    ck_assert_ptr_null(p->head->module.site->stacks);
  }
}
END_TEST

/* ---- other numbers of tokens ---- */

static const struct {
  const char *model;
  lk_task task;
  const char *words, *head; /* head NULL: tied, or none */
} resized[] = {{"gpt2_lm", LK_TASK_LM, "transformer.wte.weight", NULL},
               {"llama_lm", LK_TASK_LM, "model.embed_tokens.weight", "lm_head.weight"},
               {"llama_bf16", LK_TASK_LM, "model.embed_tokens.weight", "lm_head.weight"},
               {"bert_masked_lm", LK_TASK_MASKED_LM, "bert.embeddings.word_embeddings.weight", NULL},
               {"bert_classify", LK_TASK_CLASSIFY, "bert.embeddings.word_embeddings.weight", NULL}};
enum { RESIZED = sizeof resized / sizeof *resized };

/* Old rows stay, new ones are the mean. */
static void expect_rows(const lk_param *q, const double *before) {
  int64_t width = q->value.shape[1];
  double step = q->value.dtype == LK_BF16 ? 0x1p-8 : 1e-6;
  ck_assert_int_eq(q->value.shape[0], MORE);
  for (int64_t j = 0; j < width; j++) {
    double sum = 0;
    for (int64_t i = 0; i < TOKENS; i++) {
      ck_assert(lk_view_get(&q->value, i * width + j) == before[i * width + j]);
      sum += before[i * width + j];
    }
    for (int64_t i = TOKENS; i < MORE; i++)
      ck_assert_double_eq_tol(lk_view_get(&q->value, i * width + j), sum / TOKENS, step * (1 + fabs(sum)));
  }
}

static double *copy_of(const lk_param *q) {
  int64_t n = lk_param_count(q);
  double *to = malloc((size_t)n * sizeof *to);
  for (int64_t i = 0; to && i < n; i++) to[i] = lk_view_get(&q->value, i);
  ck_assert_ptr_nonnull(to);
  return to;
}

START_TEST(rows) {
  double before[3], after[3];
  open_model(resized[_i].model, resized[_i].task);
  double *old_words = copy_of(param(resized[_i].words));
  double *old_head = resized[_i].head ? copy_of(param(resized[_i].head)) : NULL;
  int has_tokens = resized[_i].task != LK_TASK_CLASSIFY;
  if (has_tokens) logits(ids, before, 3);
  lk_pretrained_resize(p, MORE);
  fine("resize");
  ck_assert_int_eq(p->vocabulary, MORE);
  expect_rows(param(resized[_i].words), old_words);
  if (old_head) expect_rows(param(resized[_i].head), old_head);
  if (has_tokens) logits(ids, after, 3);
  if (has_tokens) ck_assert(distance(before, after, 3) < 1e-6);
  lk_pretrained_save(p, "larger");
  fine("saving");
  open_model("./larger", resized[_i].task);
  ck_assert_int_eq(p->vocabulary, MORE);
  if (has_tokens) logits((const int64_t[]){3, MORE - 1, 4, 5}, after, 3);
  lk_pretrained_resize(p, 10);
  fine("fewer");
  ck_assert_int_eq(p->words->weight->value.shape[0], 10);
  free(old_words);
  free(old_head);
}
END_TEST

/* An adapter's directory carries the rows, trained or not, whatever is adapted. */
START_TEST(carried) {
  static const char *const targets[] = {"re:.*(c_attn|q_proj)", "re:.*(wte|embed_tokens)", "lm_head"};
  static const int64_t with_new[4] = {3, MORE - 1, 42, TOKENS};
  static const char *const models[] = {"gpt2_lm", "llama_lm", "llama_mha_tied"};
  double want[MORE], got[MORE];
  open_model(models[_i % 3], LK_TASK_LM);
  lk_pretrained_resize(p, MORE);
  for (int64_t i = TOKENS * p->width; i < MORE * p->width; i++)
    lk_view_set(&p->words->weight->value, i, sin((double)i)); /* as if they had been trained before */
  lk_param_touch(p->words->weight);
  lk_attach_with(model, &(lk_attach_options){.spec = "lora r=2",
                                             .targets = targets[_i / 3 % 3],
                                             .modules_to_save = _i < 9   ? NULL
                                                                : _i % 3 ? "embed_tokens"
                                                                         : "wte",
                                             .exclude = _i < 9 ? NULL : "re:.*(wte|embed_tokens)"});
  if (_i / 3 == 4) { /* the copy is of what would be adapted */
    expect_refusal("leave no module");
    return;
  }
  fine("attach");
  stir();
  logits(with_new, want, MORE);
  lk_adapter_save(model, NULL, "adapter", NULL);
  fine("saving");
  open_model(models[_i % 3], LK_TASK_LM);
  lk_pretrained_resize(p, MORE);
  lk_adapter_load(model, NULL, "adapter", 0);
  logits(with_new, got, MORE);
  ck_assert(distance(got, want, MORE) < 1e-6);
  lk_merge(model, NULL);
  lk_pretrained_save(p, "merged");
  fine("merging");
  open_model("./merged", LK_TASK_LM);
  logits(with_new, got, MORE);
  ck_assert(distance(got, want, MORE) < 1e-4);
  open_model(models[_i % 3], LK_TASK_LM); /* of the old size */
  lk_adapter_load(model, NULL, "adapter", 0);
  expect_refusal("does not fit");
}
END_TEST

START_TEST(refused) {
  open_model("gpt2_lm", LK_TASK_LM);
  lk_pretrained_resize(p, 0);
  expect_refusal("0 tokens");
  lk_attach(model, NULL, "lora", "c_attn");
  lk_pretrained_resize(p, MORE);
  expect_refusal("resize before attaching");
  ck_assert_int_eq(lk_pretrained_resize(NULL, 5), LK_ENIL);
}
END_TEST

static lk_status resize_and_merge(lk_ctx *c, void *arg) {
  (void)arg;
  lk_model *m = lk_model_new(c, LK_F32, 0);
  char path[4400];
  snprintf(path, sizeof path, "%s/gpt2_lm", golden);
  lk_pretrained *q = m ? lk_pretrained_open(m, path, &(lk_pretrained_options){.task = LK_TASK_LM}) : NULL;
  if (q && !lk_pretrained_resize(q, MORE) && !lk_attach(m, NULL, "lora r=2", "lm_head")) {
    lk_adapter_save(m, NULL, "short", NULL);
    if (!lk_merge(m, NULL)) lk_pretrained_can_save(q);
  }
  lk_model_free(m);
  return lk_error(c, NULL);
}

START_TEST(out_of_memory) {
  const char *why = test_each_allocation(resize_and_merge, NULL, NULL);
  ck_assert_msg(why == NULL, "%s", why);
}
END_TEST

int main(void) {
  Suite *s = suite_create("vocabulary");
  TCase *c = tcase_create("vocabulary");
  tcase_set_timeout(c, 240);
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_loop_test(c, adapted_apart, 0, 4);
  tcase_add_loop_test(c, saved_apart, 0, 4);
  tcase_add_test(c, all_but_the_head);
  tcase_add_loop_test(c, rows, 0, RESIZED);
  tcase_add_loop_test(c, carried, 0, 15);
  tcase_add_test(c, refused);
  tcase_add_test(c, out_of_memory);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
