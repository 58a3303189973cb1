/* test_pretrained.c: HuggingFace's models: logits, gradients and training steps as transformers and PEFT compute them
 * (tests/golden/make/models.py), in f64 and f32; saving and loading. */
#include "files.h"

#include <check.h>
#include <lorikeet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const models[] = {"bert_classify",    "bert_masked_lm",    "bert_embed", "bert_sharded",
                                     "roberta_classify", "roberta_masked_lm", "gpt2_lm",    "gpt2_inner",
                                     "llama_lm",         "llama_mha_tied",    "llama_bias", "llama_linear",
                                     "llama_dynamic",    "llama_3",           "llama_yarn", "llama_bf16",
                                     "mistral",          "mistral_window",    "qwen2",      "qwen3"};
enum { MODELS = sizeof models / sizeof *models };

static lk_ctx *ctx;
static lk_safetensors *io;
static lk_model *model;
static lk_pretrained *p;
static lk_tape *t;
static char here[4096], golden[4200];

static void setup(void) {
  const char *source = getenv("srcdir");
  if (!realpath(source ? source : ".", here)) abort();
  test_directory();
}

static void fine(const char *what) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s: %s", what, message);
}

static void close_all(void) {
  lk_tape_free(t);
  lk_model_free(model);
  lk_safetensors_close(io);
  lk_ctx_free(ctx);
  ctx = NULL;
}

static void open_model(const char *directory, lk_dtype dtype, int flags) {
  char path[4300];
  ctx = lk_ctx_new(NULL);
  t = lk_tape_new(ctx);
  model = lk_model_new(ctx, dtype, 0);
  snprintf(path, sizeof path, "%s/io.safetensors", golden);
  io = lk_safetensors_open(ctx, path);
  fine(path);
  int task = lk_task_find(lk_safetensors_metadata(io, "task"));
  p = lk_pretrained_open(model, directory, &(lk_pretrained_options){.task = (lk_task)task, .flags = flags});
  fine(directory);
}

static void open_golden(int i, lk_dtype dtype) {
  snprintf(golden, sizeof golden, "%s/tests/golden/models/%s", here, models[i]);
  open_model(golden, dtype, 0);
}

static lk_view stored(const char *name) {
  lk_view v;
  lk_safetensors_get(io, name, &v);
  fine(name);
  return v;
}

static lk_tensor input(const char *name) {
  lk_view v;
  if (!lk_safetensors_find(io, name)) return lk_nil();
  v = stored(name);
  return lk_input(t, v.dtype, v.ndim, v.shape, v.p);
}

static lk_tensor forward(void) {
  lk_tape_reset(t);
  return lk_pretrained_forward(p, t, &(lk_inputs){.ids = input("ids"), .types = input("types"), .mask = input("mask")});
}

/* max |a - b| / max(1, max |b|), over real tokens where there is a mask for them */
static double error_of(const lk_view *a, const lk_view *b) {
  double error = 0, largest = 1;
  int rows = b->ndim == 3 && lk_safetensors_find(io, "mask");
  lk_view mask = {0};
  if (rows) mask = stored("mask");
  ck_assert_int_eq(lk_view_count(a), lk_view_count(b));
  for (int64_t i = 0; i < lk_view_count(b); i++) {
    double x = lk_view_get(a, i), y = lk_view_get(b, i);
    if (rows && lk_view_get(&mask, i / b->shape[2]) == 0) continue;
    error = fmax(error, isfinite(x) ? fabs(x - y) : INFINITY);
    largest = fmax(largest, fabs(y));
  }
  return error / largest;
}

static void expect(const char *model_name, const char *name, lk_tensor y, double tolerance) {
  lk_view v, want = stored(name);
  ck_assert_int_eq(lk_get(t, y, &v), 0);
  double error = error_of(&v, &want);
  ck_assert_msg(error <= tolerance, "%s: %s is off by %g", model_name, name, error);
}

/* transformers computes norms and rotations of these in single precision, whatever the model's. */
static double tolerance_of(lk_dtype dtype) {
  return dtype == LK_F32 ? 1e-5 : strcmp(lk_pretrained_family(p), "llama") ? 1e-10 : 2e-6;
}

/* The loss of models.py. */
static lk_tensor loss_of(lk_tensor y) {
  lk_view labels = stored("labels");
  if (p->task == LK_TASK_EMBED) {
    lk_tensor w = lk_cast(t, input("labels"), lk_dtype_of(t, y));
    return lk_mean(t, lk_mul(t, y, w), 0, NULL, 0);
  }
  lk_tensor l = input("labels");
  if (p->task == LK_TASK_LM) { /* the next token */
    int64_t T = labels.shape[1];
    y = lk_slice(t, y, 1, 0, T - 1, 1);
    l = lk_slice(t, l, 1, 1, T - 1, 1);
  }
  if (labels.ndim == 2) {
    int64_t n = lk_size(t, y, 0) * lk_size(t, y, 1), classes = lk_size(t, y, 2);
    y = lk_reshape(t, y, 2, (int64_t[]){n, classes});
    l = lk_reshape(t, l, 1, &n);
  }
  return lk_cross_entropy(t, y, l, -100, 0);
}

/* ---- tests ---- */

START_TEST(logits) {
  for (int dtype = LK_F32; dtype <= LK_F64; dtype++) {
    open_golden(_i, (lk_dtype)dtype);
    expect(models[_i], "logits", forward(), tolerance_of((lk_dtype)dtype));
    fine(models[_i]);
    close_all();
  }
}
END_TEST

static void attach(void) {
  lk_attach(model, "default", "lora r=2 alpha=4", lk_safetensors_metadata(io, "targets"));
  fine("attach");
  for (lk_module *m = lk_model_root(model); m; m = lk_module_walk(lk_model_root(model), m))
    for (lk_param *q = m->site && m->site->stacks ? m->site->stacks->chain->params : NULL; q; q = q->next) {
      char name[400];
      snprintf(name, sizeof name, "lora.%s", q->name);
      lk_view v = stored(name);
      lk_param_assign(q, &v);
    }
}

/* theta -= 0.5 gradient */
static void descend(lk_param **q, int n) {
  for (int i = 0; i < n; i++) {
    lk_view g = q[i]->value;
    g.p = q[i]->grad;
    lk_view_add(&q[i]->value, &g, -0.5);
    lk_param_touch(q[i]);
    lk_param_zero_grad(q[i]);
  }
}

static void compare_gradients(lk_param **q, int n, double tolerance) {
  for (int i = 0; i < n; i++) {
    char name[400];
    lk_view g = q[i]->value;
    g.p = q[i]->grad;
    snprintf(name, sizeof name, "grad.%s", q[i]->name);
    lk_view want = stored(name);
    double error = error_of(&g, &want);
    ck_assert_msg(error <= tolerance, "%s is off by %g", name, error);
  }
}

START_TEST(adapted) {
  for (int dtype = LK_F32; dtype <= LK_F64; dtype++) {
    int n;
    open_golden(_i, (lk_dtype)dtype);
    attach();
    double tolerance = tolerance_of((lk_dtype)dtype);
    lk_view steps = stored("steps");
    lk_param **q = lk_trainable(model, &n);
    for (int step = 0; step < steps.shape[0]; step++) {
      p->recompute = step == 1; /* changes nothing */
      lk_tensor y = forward(), loss = loss_of(y);
      if (!step) expect(models[_i], "lora_logits", y, tolerance);
      double want = lk_view_get(&steps, step), got = lk_item(t, loss);
      ck_assert_msg(fabs(got - want) <= 20 * tolerance * fmax(1, fabs(want)), "%s: loss of step %d is %.12g, not %.12g",
                    models[_i], step, got, want);
      lk_backward(t, loss);
      fine(models[_i]);
      if (!step) compare_gradients(q, n, 10 * tolerance);
      descend(q, n);
    }
    lk_free(ctx, q);
    close_all();
  }
}
END_TEST

/* What is saved, merged or not, gives the same logits when it is loaded. */
START_TEST(saved) {
  const char *directory = "saved";
  lk_view v;
  static double before[8192];
  for (int merged = 0; merged < 2; merged++) {
    open_golden(_i, LK_F32);
    if (merged) {
      attach();
      ck_assert_int_eq(lk_merge(model, NULL), LK_OK);
    }
    lk_pretrained_save(p, directory);
    lk_get(t, forward(), &v);
    int64_t n = lk_view_count(&v);
    for (int64_t i = 0; i < n; i++) before[i] = lk_view_get(&v, i);
    fine(models[_i]);
    close_all();
    open_model(directory, LK_F32, 0);
    lk_get(t, forward(), &v);
    fine(models[_i]);
    for (int64_t i = 0; i < n; i++)
      ck_assert_msg(fabs(lk_view_get(&v, i) - before[i]) < 1e-6, "%s: logit %d changed", models[_i], (int)i);
    close_all();
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("pretrained");
  TCase *c = tcase_create("pretrained");
  tcase_set_timeout(c, 240);
  tcase_add_checked_fixture(c, setup, test_directory_remove);
  tcase_add_loop_test(c, logits, 0, MODELS);
  tcase_add_loop_test(c, adapted, 0, MODELS);
  tcase_add_loop_test(c, saved, 0, MODELS);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
