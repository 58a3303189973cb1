/* test_pretrained_peft.c: adapters that PEFT made on HuggingFace's models (tests/golden/make/peft_models.py --keep): the
 * same logits when they are read, written and read again, and merged; and what of this is refused. */
#include "files.h"

#include <check.h>
#include <lorikeet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
  const char *model, *adapter;
  const char *merged; /* words of the refusal to save it merged, or NULL */
} cases[] = {{"bert_classify", "lora_patterns", NULL},
             {"bert_embed", "dora_pooler", NULL}, /* adapts a pooler that our model has not */
             {"bert_masked_lm", "saved_words", "merging parted cls.predictions.decoder.weight from the embedding"},
             {"roberta_classify", "bias_all", NULL},
             {"gpt2_lm", "words", NULL}, /* tied to a head that it leaves alone */
             {"llama_lm", "adalora", NULL},
             {"llama_bias", "peanut", NULL},
             {"llama_mha_tied", "head", NULL}, /* adapts that head, and trains a copy of the embedding */
             {"mistral", "regex", NULL},
             {"qwen2", "glora", NULL},
             {"qwen3", "ia3", NULL}};
enum { CASES = sizeof cases / sizeof *cases };

static lk_ctx *ctx;
static lk_model *model;
static lk_pretrained *p;
static lk_tape *t;
static char golden[4200], adapter[4400];

static void setup(void) {
  const char *source = getenv("srcdir");
  char here[4096];
  if (!realpath(source ? source : ".", here)) abort();
  snprintf(golden, sizeof golden, "%s/tests/golden/models", here);
  test_directory();
  ctx = lk_ctx_new(NULL);
}

static void teardown(void) {
  lk_ctx_free(ctx);
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

static void close_model(void) {
  lk_tape_free(t);
  lk_model_free(model);
}

/* The model of the golden directory `name`, from a directory; for the task that its io.safetensors says. */
static void open_model(const char *name, const char *directory) {
  char path[4400];
  snprintf(path, sizeof path, "%s/%s/io.safetensors", golden, name);
  lk_safetensors *io = lk_safetensors_open(ctx, path);
  fine(path);
  lk_task task = (lk_task)lk_task_find(lk_safetensors_metadata(io, "task"));
  lk_safetensors_close(io);
  t = lk_tape_new(ctx);
  model = lk_model_new(ctx, LK_F32, 0);
  p = lk_pretrained_open(model, directory, &(lk_pretrained_options){.task = task});
  fine(directory);
}

static void open_golden(const char *name) {
  char path[4400];
  snprintf(path, sizeof path, "%s/%s", golden, name);
  open_model(name, path);
}

static lk_view stored(lk_safetensors *f, const char *name) {
  lk_view v;
  lk_safetensors_get(f, name, &v);
  fine(name);
  return v;
}

static lk_tensor input(lk_safetensors *f, const char *name) {
  if (!lk_safetensors_find(f, name)) return lk_nil();
  lk_view v = stored(f, name);
  return lk_input(t, v.dtype, v.ndim, v.shape, v.p);
}

/* The logits of the golden model's batch are those that PEFT recorded, on real tokens. */
static void expect_logits(int i, const char *what) {
  char path[4500];
  lk_view got;
  snprintf(path, sizeof path, "%s/%s/io.safetensors", golden, cases[i].model);
  lk_safetensors *io = lk_safetensors_open(ctx, path);
  snprintf(path, sizeof path, "%s/logits.safetensors", adapter);
  lk_safetensors *want_file = lk_safetensors_open(ctx, path);
  fine(path);
  lk_view mask = stored(io, "mask"), want = stored(want_file, "logits");
  lk_tape_reset(t);
  const lk_inputs in = {.ids = input(io, "ids"), .types = input(io, "types"), .mask = input(io, "mask")};
  lk_get(t, lk_pretrained_forward(p, t, &in), &got);
  fine(what);
  ck_assert(lk_view_same_shape(&got, &want));
  double error = 0, largest = 1;
  for (int64_t k = 0; k < lk_view_count(&want); k++) {
    double x = lk_view_get(&got, k), y = lk_view_get(&want, k);
    if (want.ndim == 3 && lk_view_get(&mask, k / want.shape[2]) == 0) continue;
    error = fmax(error, isfinite(x) ? fabs(x - y) : INFINITY);
    largest = fmax(largest, fabs(y));
  }
  ck_assert_msg(error <= 1e-5 * largest, "%s/%s, %s: logits are off by %g", cases[i].model, cases[i].adapter, what,
                error / largest);
  lk_safetensors_close(io);
  lk_safetensors_close(want_file);
}

START_TEST(of_peft) {
  const char *name = cases[_i].model;
  snprintf(adapter, sizeof adapter, "%s/%s/adapter_%s", golden, name, cases[_i].adapter);
  open_golden(name);
  lk_adapter_load(model, NULL, adapter, 0);
  fine(adapter);
  expect_logits(_i, "read");
  lk_adapter_save(model, NULL, "ours", NULL);
  fine("saving");
  close_model();
  open_golden(name);
  lk_adapter_load(model, NULL, "ours", 0);
  fine("our directory");
  expect_logits(_i, "written and read again");
  lk_merge(model, NULL);
  expect_logits(_i, "merged");
  lk_unmerge(model);
  expect_logits(_i, "unmerged");
  lk_merge(model, NULL);
  lk_pretrained_save(p, "merged");
  if (cases[_i].merged) {
    expect_refusal(cases[_i].merged);
  } else {
    fine("merging");
    close_model();
    open_model(name, "merged");
    expect_logits(_i, "merged and opened");
  }
  close_model();
}
END_TEST

/* Only what no result depends on is left unread: with the task that has a pooler, its tensors must fit. */
START_TEST(pooler_in_use) {
  char path[4500];
  snprintf(path, sizeof path, "%s/bert_classify", golden);
  t = lk_tape_new(ctx);
  model = lk_model_new(ctx, LK_F32, 0);
  p = lk_pretrained_open(model, path, NULL);
  fine(path);
  snprintf(adapter, sizeof adapter, "%s/bert_embed/adapter_dora_pooler", golden);
  lk_adapter_load(model, NULL, adapter, 0);
  expect_refusal("unexpected");
  close_model();
}
END_TEST

/* A model directory has no place for biases that the family does not know. */
START_TEST(new_bias) {
  open_golden("llama_lm");
  lk_attach(model, NULL, "lora r=2 bias", "q_proj");
  lk_merge(model, NULL);
  fine("merge");
  lk_pretrained_save(p, "merged");
  expect_refusal("merging gave model.layers.0.self_attn.q_proj a bias");
  lk_unmerge(model);
  lk_detach(model, "default");
  lk_pretrained_save(p, "merged");
  fine("saving without the adapter");
  close_model();
}
END_TEST

/* The written config names the task by which PEFT finds the model's class; SEQ_CLS, for which PEFT always saves the head,
 * only where the adapter has it. */
START_TEST(task_types) {
  static const struct {
    const char *model, *targets, *saved, *task;
  } written[] = {{"llama_lm", "q_proj", NULL, "CAUSAL_LM"},
                 {"bert_embed", "query", NULL, "FEATURE_EXTRACTION"},
                 {"bert_masked_lm", "query", NULL, NULL},
                 {"bert_classify", "query", NULL, NULL},
                 {"bert_classify", "query", "classifier", "SEQ_CLS"},
                 {"roberta_classify", "query", "classifier.out_proj", NULL}};
  for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
    const char *task = NULL;
    open_golden(written[i].model);
    lk_attach_with(model, &(lk_attach_options){
                              .spec = "lora r=2", .targets = written[i].targets, .modules_to_save = written[i].saved});
    lk_adapter_save(model, NULL, "ours", NULL);
    fine(written[i].model);
    lk_json *config = lk_json_read(ctx, "ours/adapter_config.json");
    lk_json_is_string(lk_json_get(config, "task_type"), &task);
    ck_assert_pstr_eq(task, written[i].task);
    lk_json_free(config);
    lk_detach(model, "default");
    lk_adapter_load(model, NULL, "ours", 0);
    fine("reading it again");
    close_model();
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("pretrained_peft");
  TCase *c = tcase_create("pretrained_peft");
  tcase_set_timeout(c, 240);
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_loop_test(c, of_peft, 0, CASES);
  tcase_add_test(c, pooler_in_use);
  tcase_add_test(c, new_bias);
  tcase_add_test(c, task_types);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
