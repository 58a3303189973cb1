/* test_lora_drop_files.c: LoRA-drop in files: adapter directories, checkpoints, and every allocation failing in turn. */
#include "drop_net.h"

#include <lorikeet/safetensors.h>

#define SPEC "lora_drop T=0.5 (lora r=2 alpha=4)"

static const double shares[] = {4, 2, 1, 2, 1, 1, 1, 1};

static void start(void) {
  test_directory();
  setup();
}

static void end(void) {
  teardown();
  test_directory_remove();
}

static void reopen(void) {
  close_net();
  open_net(ctx, LK_F64, 0);
}

static void selected(const char *spec) {
  lk_attach(model, "default", spec, "q,v");
  net_select_by(shares);
  test_perturb_trained(model);
  fine();
}

/* ---- our own format ---- */

static int in_file(const char *path, const char *name) {
  lk_safetensors *f = lk_safetensors_open(ctx, path);
  int found = lk_safetensors_find(f, name) != NULL;
  lk_safetensors_close(f);
  return found;
}

static const char *const specs[] = {SPEC, "lora_drop T=0.5 train_shared=0 (lora r=2 alpha=4)",
                                    "dropout p=0.1 (lora_drop T=0.5 scope=layer (lora r=2 alpha=4) | magnitude)",
                                    "lora_drop T=0.5 (lora r=2 alpha=4) | gain"};
enum { SPECS = sizeof specs / sizeof *specs };

START_TEST(directory) {
  double want[2 * TOKENS], is[2 * TOKENS];
  selected(specs[_i]);
  lk_param_fill(net_param(q[1], "lora_B.weight"), 0.3);
  net_output(0, want);
  int64_t count = lk_adapter_count(model, "default");
  char *notes = lk_adapter_notes(model, "default");
  lk_adapter_save(model, "default", "adapter", NULL);
  fine();
  static const char file[] = "adapter/adapter_model.safetensors";
  ck_assert(in_file(file, "layers.0.q.lora_A.weight") && in_file(file, "layers.1.q.lora_A.weight"));
  ck_assert(!in_file(file, "layers.2.q.lora_A.weight") && !in_file(file, "layers.3.q.lora_B.weight"));
  ck_assert(in_file(file, "lora_drop.keep") && in_file(file, "lora_drop.importance"));
  for (int k = 0; k < 2; k++) { /* under a name of its own, too */
    const char *name = k ? "other" : "default";
    reopen();
    lk_adapter_load(model, name, "adapter", 1);
    fine();
    net_output(0, is);
    ck_assert_mem_eq(is, want, sizeof is);
    ck_assert_int_eq(lk_adapter_count(model, name), count);
    ck_assert_ptr_eq(net_param(q[3], k ? "lora_A.weight@other" : "lora_A.weight")->alias,
                     net_param(q[1], k ? "lora_A.weight@other" : "lora_A.weight"));
    char *now = lk_adapter_notes(model, name);
    ck_assert_str_eq(now, notes);
    lk_free(ctx, now);
  }
  lk_free(ctx, notes);
}
END_TEST

/* A file with a tensor too many, too few or of nonsense leaves nothing attached. */
START_TEST(directory_refused) {
  static const char *const words[] = {"layers.3.q.lora_A.weight", "is 0.5, not kept (1)"};
  for (int k = 0; k < 2; k++) {
    selected(SPEC);
    lk_param *keep = lk_adapter_first(model)->chain->params;
    while (strcmp(keep->name, "lora_drop.keep")) keep = keep->next;
    lk_view_set(&keep->value, 6, k ? 0.5 : 1); /* q3 is another name in fact */
    lk_adapter_save(model, "default", "adapter", NULL);
    fine();
    reopen();
    lk_adapter_load(model, "default", "adapter", 1);
    expect(LK_EFORMAT, words[k]);
    ck_assert_ptr_null(lk_adapter_first(model));
    ck_assert_ptr_null(q[0]->module.site->stacks);
  }
}
END_TEST

/* ---- checkpoints ---- */

static void run(lk_optim *opt, int steps) {
  for (int i = 0; i < steps; i++) net_step(opt);
  fine();
}

static void values_of(const char *end, double out[2 * LAYERS][2 * WIDTH]) {
  for (int l = 0; l < LAYERS; l++)
    for (int k = 0; k < 2; k++) memcpy(out[2 * l + k], net_param(k ? v[l] : q[l], end)->value.p, sizeof *out);
}

/* k steps, a checkpoint, k steps in a fresh program: the bits of 2k steps. */
START_TEST(resumes) {
  double want[2 * LAYERS][2 * WIDTH], is[2 * LAYERS][2 * WIDTH];
  lk_progress progress = {.step = 3};
  for (int straight = 1; straight >= 0; straight--) {
    reopen();
    selected(specs[_i]);
    lk_optim *opt = net_optim(0.1, 1);
    run(opt, straight ? 6 : 3);
    if (straight) values_of("lora_A.weight", want);
    else lk_checkpoint_save(model, opt, &progress, "note", "checkpoint");
    lk_optim_free(opt);
  }
  reopen();
  lk_attach(model, "default", specs[_i], "q,v");
  lk_checkpoint_load_structure(model, "checkpoint");
  fine();
  ck_assert_ptr_eq(net_param(q[3], "lora_A.weight")->alias, net_param(q[1], "lora_A.weight"));
  lk_optim *opt = net_optim(0.1, 1);
  lk_checkpoint_load(model, opt, &progress, "note", "checkpoint");
  run(opt, 3);
  ck_assert_int_eq(progress.step, 3);
  values_of("lora_A.weight", is);
  ck_assert_mem_eq(is, want, sizeof is);
  lk_optim_free(opt);
}
END_TEST

/* A checkpoint that does not fit leaves sharing and values as they were, whether from nothing or from another selection. */
START_TEST(misfit) {
  static const double other[] = {1, 1, 8, 1, 0.1, 0.1, 9, 0.1};
  double before[2 * LAYERS][2 * WIDTH], after[2 * LAYERS][2 * WIDTH], y[2 * TOKENS], z[2 * TOKENS];
  lk_progress progress = {.step = 1};
  selected(specs[_i / 2]);
  lk_optim *opt = net_optim(0.1, 1);
  run(opt, 1);
  lk_checkpoint_save(model, opt, &progress, "", "checkpoint");
  lk_optim_free(opt);
  reopen();
  lk_attach(model, "default", specs[_i / 2], "q,v");
  if (_i % 2) net_select_by(other);
  test_perturb_trained(model);
  const lk_param *alias = net_param(q[3], "lora_A.weight")->alias;
  int64_t count = lk_adapter_count(model, "default");
  opt = net_optim(0.1, 1); /* over what trains now, which is not what the checkpoint has */
  values_of("lora_A.weight", before);
  net_output(0, y);
  uint64_t live = lk_ctx_statistics(ctx).live;
  lk_checkpoint_load(model, opt, &progress, "", "checkpoint");
  expect(LK_EFORMAT, "does not fit");
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, live);
  ck_assert_ptr_eq(net_param(q[3], "lora_A.weight")->alias, alias);
  ck_assert_int_eq(lk_adapter_count(model, "default"), count);
  values_of("lora_A.weight", after);
  ck_assert_mem_eq(before, after, sizeof before);
  net_output(0, z);
  ck_assert_mem_eq(y, z, sizeof y);
  run(opt, 1);
  lk_optim_free(opt);
  lk_checkpoint_load_structure(model, "checkpoint"); /* and with the right optimiser it does */
  opt = net_optim(0.1, 1);
  lk_checkpoint_load(model, opt, &progress, "", "checkpoint");
  run(opt, 1);
  lk_optim_free(opt);
}
END_TEST

/* ---- as a plain LoRA ---- */

START_TEST(exports) {
  static const char *const spec[] = {SPEC, "lora_drop T=0.5 (neat r=2)", "lora_drop T=0.5 (mlae r=2)"};
  double want[2 * TOKENS], is[2 * TOKENS];
  lk_attach(model, "default", spec[_i], "q,v");
  test_perturb_trained(model);
  net_select();
  test_perturb_trained(model);
  net_output(0, want);
  lk_adapter_export_lora(model, "default", "lora", NULL);
  fine();
  reopen();
  lk_adapter_load(model, "default", "lora", 1);
  net_output(0, is);
  fine();
  ck_assert_double_lt(test_error(is, want, 2 * TOKENS), 1e-12);
  ck_assert_str_eq(lk_adapter_first(model)->chain->cls->name, "lora");
}
END_TEST

START_TEST(exports_one_only) {
  selected("lora_drop T=0.5 (lora r=2 alpha=4 | magnitude)");
  lk_adapter_export_lora(model, "default", "lora", NULL);
  ck_assert_int_ne(lk_error(ctx, NULL), LK_OK);
  lk_error_clear(ctx);
}
END_TEST

/* ---- memory ---- */

static void train(const char *spec) {
  lk_progress progress = {.step = 2};
  lk_optim *opt = net_optim(0.1, 1);
  if (opt) lk_adapter_follow(model, opt);
  for (int i = 0; i < 2 && !lk_error(ctx, NULL); i++) net_step(opt);
  if (!lk_error(ctx, NULL)) lk_checkpoint_save(model, opt, &progress, spec, "checkpoint");
  if (!lk_error(ctx, NULL)) lk_checkpoint_load(model, opt, &progress, spec, "checkpoint");
  lk_optim_free(opt);
}

static lk_status whole(const char *spec) {
  double y[2 * TOKENS], z[2 * TOKENS];
  if (lk_attach(model, "default", spec, "q,v")) return lk_error(ctx, NULL);
  train(spec); /* the warm start */
  if (lk_error(ctx, NULL) || net_select()) return lk_error(ctx, NULL);
  train(spec);
  if (!lk_error(ctx, NULL)) lk_free(ctx, lk_adapter_notes(model, "default"));
  net_output(0, y);
  if (lk_error(ctx, NULL) || lk_adapter_save(model, "default", "adapter", NULL)) return lk_error(ctx, NULL);
  if (lk_detach(model, "default") || lk_adapter_load(model, "default", "adapter", 1)) return lk_error(ctx, NULL);
  net_output(0, z);
  if (lk_merge(model, NULL) || lk_unmerge(model) || lk_detach(model, "default")) return lk_error(ctx, NULL);
  lk_attach(model, "default", spec, "q,v");
  if (!lk_error(ctx, NULL)) lk_checkpoint_load_structure(model, "checkpoint");
  if (!lk_error(ctx, NULL)) ck_assert_mem_eq(y, z, sizeof y);
  return lk_error(ctx, NULL);
}

static lk_status story(lk_ctx *c, void *spec) {
  open_net(c, LK_F64, 0);
  if (!lk_error(c, NULL)) whole(spec);
  close_net();
  return lk_error(c, NULL);
}

START_TEST(every_allocation) {
  uint64_t count = 0;
  const char *wrong = test_each_allocation(story, (void *)specs[_i], &count);
  ck_assert_msg(!wrong, "%s", wrong ? wrong : "");
  ck_assert_uint_gt(count, 300);
}
END_TEST

int main(void) {
  Suite *s = suite_create("lora_drop_files");
  TCase *c = tcase_create("files"), *bare = tcase_create("allocations");
  tcase_add_checked_fixture(c, start, end);
  tcase_add_loop_test(c, directory, 0, SPECS);
  tcase_add_test(c, directory_refused);
  tcase_add_loop_test(c, resumes, 0, SPECS);
  tcase_add_loop_test(c, misfit, 0, 2 * SPECS);
  tcase_add_loop_test(c, exports, 0, 3);
  tcase_add_test(c, exports_one_only);
  suite_add_tcase(s, c);
  tcase_add_checked_fixture(bare, test_directory, test_directory_remove);
  tcase_set_timeout(bare, 240);
  tcase_add_loop_test(bare, every_allocation, 0, 2);
  suite_add_tcase(s, bare);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
