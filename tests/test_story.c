/* test_story.c: a whole story, train - checkpoint - save - load - merge - unmerge - detach, with every single
 * allocation failing in turn: each failure is an error, none leaks or crashes, no file is lost. */
#include "alloc.h"
#include "files.h"

#include <check.h>
#include <lorikeet.h>

static const lk_vit_config small = {.image_size = 4,
                                    .patch_size = 2,
                                    .channels = 1,
                                    .hidden_size = 8,
                                    .layers = 1,
                                    .heads = 2,
                                    .intermediate_size = 8,
                                    .classes = 3,
                                    .layer_norm_eps = 1e-6,
                                    .initializer_range = 0.2,
                                    .hidden_act = "gelu",
                                    .qkv_bias = 1};

static const char spec[] = "dropout p=0.1 (lora r=2 alpha=4 | magnitude)";

static const float images[2 * 16] = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 1, 2, 3, 1,
                                     2, 3, 1, 5, 2, 1, 2, 3, 4, 4, 4, 1, 0, 0, 1};
static const int64_t labels[2] = {0, 2}, image_shape[] = {2, 1, 4, 4}, two = 2;

static lk_status train_step(lk_vit *vit, lk_tape *t, lk_optim *opt, uint64_t step) {
  lk_tape_reset(t);
  lk_train(t, step, 0);
  lk_tensor logits = lk_vit_forward(vit, t, lk_input(t, LK_F32, 4, image_shape, images));
  lk_backward(t, lk_cross_entropy(t, logits, lk_input(t, LK_I64, 1, &two, labels), -100, 0.1));
  return lk_step(opt);
}

static double evaluate(lk_vit *vit, lk_tape *t) {
  lk_tape_reset(t);
  int was = lk_no_grad(t, 1);
  lk_tensor logits = lk_vit_forward(vit, t, lk_input(t, LK_F32, 4, image_shape, images));
  double y = lk_item(t, lk_sum(t, lk_mul(t, logits, logits), 0, NULL, 0));
  lk_no_grad(t, was);
  return y;
}

/* Two steps, a checkpoint, one more step, back to the checkpoint; then the adapter's directory. */
static lk_status train_and_save(lk_ctx *c, lk_model *model, lk_vit *vit, lk_tape *t) {
  int n = 0;
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  lk_progress progress = {.step = 2};
  o.clip_norm = 1;
  lk_param **params = lk_trainable(model, &n);
  lk_optim *opt = lk_optim_new(c, &lk_optim_adamw, &o, params, n);
  for (uint64_t i = 0; i < 2 && !lk_error(c, NULL); i++) train_step(vit, t, opt, i);
  if (!lk_error(c, NULL)) lk_checkpoint_save(model, opt, &progress, spec, "checkpoint");
  if (!lk_error(c, NULL)) train_step(vit, t, opt, 2);
  if (!lk_error(c, NULL)) lk_checkpoint_load(model, opt, &progress, spec, "checkpoint");
  lk_optim_free(opt);
  lk_free(c, params);
  if (!lk_error(c, NULL)) lk_adapter_save(model, "default", "adapter", NULL);
  return lk_error(c, NULL);
}

static lk_status whole(lk_ctx *c, lk_model *model, lk_tape *t, int recompute) {
  lk_vit *vit = lk_vit_new(model, &small);
  if (!vit) return lk_error(c, NULL);
  if (recompute) lk_vit_set_recompute(vit, LK_VIT_RECOMPUTE_BLOCKS);
  lk_attach_options o = {
      .spec = spec, .targets = "query,value", .modules_to_save = "classifier", .bias = LK_BIAS_ADAPTED};
  if (lk_attach_with(model, &o) || train_and_save(c, model, vit, t)) return lk_error(c, NULL);
  double trained = evaluate(vit, t);
  if (lk_detach(model, "default") || lk_adapter_load(model, "default", "adapter", 0)) return lk_error(c, NULL);
  double loaded = evaluate(vit, t);
  if (lk_merge(model, NULL)) return lk_error(c, NULL);
  double merged = evaluate(vit, t);
  if (lk_model_save(model, "model") || lk_unmerge(model) || lk_detach(model, "default")) return lk_error(c, NULL);
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  ck_assert_double_eq(trained, loaded);
  ck_assert_double_eq_tol(trained, merged, 1e-4 * (1 + trained));
  return LK_OK;
}

static lk_status story(lk_ctx *c, void *recompute) {
  lk_tape *t = lk_tape_new(c);
  lk_model *model = lk_model_new(c, LK_F32, 0);
  if (t && model) whole(c, model, t, recompute != NULL);
  lk_model_free(model);
  lk_tape_free(t);
  return lk_error(c, NULL);
}

static void check_story(void *recompute) {
  uint64_t count = 0;
  const char *wrong = test_each_allocation(story, recompute, &count);
  ck_assert_msg(!wrong, "%s", wrong ? wrong : "");
  ck_assert_uint_gt(count, 300);
}

START_TEST(every_allocation) { check_story(NULL); }
END_TEST

START_TEST(every_allocation_recomputing) { check_story(""); }
END_TEST

/* After a failed save the file of the save before is whole. */
START_TEST(a_failed_save_leaves_the_old_file) {
  test_allocator a;
  lk_ctx *c = test_ctx(&a, 0);
  ck_assert_int_eq(story(c, NULL), LK_OK);
  uint64_t calls = a.calls;
  lk_ctx_free(c);
  for (uint64_t n = calls / 4; n < calls; n += calls / 23) {
    c = test_ctx(&a, n);
    ck_assert_int_ne(story(c, NULL), LK_OK);
    lk_ctx_free(c);
    c = test_ctx(&a, 0);
    lk_safetensors *f = lk_safetensors_open(c, "checkpoint");
    ck_assert_ptr_nonnull(f);
    lk_safetensors_close(f);
    lk_ctx_free(c);
    ck_assert_uint_eq(a.live, 0);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("story");
  TCase *tc = tcase_create("allocations");
  tcase_add_checked_fixture(tc, test_directory, test_directory_remove);
  tcase_set_timeout(tc, 240);
  tcase_add_test(tc, every_allocation);
  tcase_add_test(tc, every_allocation_recomputing);
  tcase_add_test(tc, a_failed_save_leaves_the_old_file);
  suite_add_tcase(s, tc);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
