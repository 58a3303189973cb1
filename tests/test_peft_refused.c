/* test_peft_refused.c: adapter directories that are not read, and what cannot be saved: each with its sentence, and
 * nothing stays attached or changed. */
#include "peft.h"

#include <sys/stat.h>

/* The directory "made" is refused in these words, and the model is as before. */
static void refuse(const tiny *m, const char *words) {
  lk_view y = output(m);
  float before[3 * TINY_CLASSES];
  memcpy(before, y.p, sizeof before);
  ck_assert_int_ne(lk_adapter_load(m->model, NULL, "made", 1), LK_OK);
  expect(words);
  ck_assert_ptr_null(lk_adapter_first(m->model));
  ck_assert_int_eq(lk_trainable_count(m->model), lk_parameter_count(m->model));
  for (lk_module *k = lk_model_root(m->model); k; k = lk_module_walk(lk_model_root(m->model), k))
    if (k->site) ck_assert(!k->site->stacks && !k->site->replaced_by && !k->site->weight->stand_in);
  y = output(m);
  ck_assert_int_eq(memcmp(before, y.p, sizeof before), 0);
  lk_warnings_clear(ctx);
}

/* ---- configs ---- */

/* A key of interchange_basic's config set to a value (NULL: left out), and words of the refusal. */
static const struct {
  const char *key, *value, *words;
} configs[] = {
    {"peft_type", NULL, "peft_type must be a string, and is missing"},
    {"peft_type", "1", "peft_type must be a string, not an integer"},
    {"peft_type", "\"VERA\"", "peft_type VERA is not supported; ADALORA, LORA, "},
    {"peft_type", "\"lora\"", "peft_type lora is not supported"},
    {"r", "0", "r=0"},
    {"r", "-3", "r=-3"},
    {"r", "4.0", "\"r\" must be an integer, not a real number"},
    {"r", "\"4\"", "\"r\" must be"},
    {"r", "5000000000", "r=5000000000"},
    {"r", "5", "misshapen"},
    {"lora_alpha", "\"8\"", "\"lora_alpha\" must be"},
    {"lora_alpha", "1e300", "alpha=1e+300"},
    {"lora_dropout", "-0.1", "dropout=-0.1"},
    {"lora_dropout", "1.5", "dropout=1.5"},
    {"lora_dropout", "true", "\"lora_dropout\" must be"},
    {"use_dora", "1", "\"use_dora\" must be"},
    {"use_dora", "true", "lora_magnitude_vector"},
    {"use_rslora", "\"yes\"", "\"use_rslora\" must be"},
    {"lora_bias", "true", "lora_B.bias"},
    {"fan_in_fan_out", "0", "\"fan_in_fan_out\" must be"},
    {"bias", "\"some\"", "bias 'some' is none of none, all, lora_only"},
    {"bias", "\"lora_only\"", NULL}, /* a warning: see old_file_without_biases */
    {"bias", "\"all\"", "missing"},
    {"bias", "false", "\"bias\" must be"},
    {"target_modules", NULL, "target_modules is missing or empty"},
    {"target_modules", "null", "target_modules is missing or empty"},
    {"target_modules", "[]", "target_modules is missing or empty"},
    {"target_modules", "7", "target_modules must be a list of strings or a string, not an integer"},
    {"target_modules", "[\"q_proj\", 7]", "target_modules must be a list of strings, not an integer"},
    {"target_modules", "[\"q_proj,v_proj\"]", "'q_proj,v_proj' cannot be the name of a module"},
    {"target_modules", "[\"q proj\"]", "'q proj' cannot be the name of a module"},
    {"target_modules", "[\"*_proj\"]", "'*_proj' cannot be the name of a module"},
    {"target_modules", "[\"\"]", "'' cannot be the name of a module"},
    {"target_modules", "[\"re:x\"]", "'re:x' cannot be the name of a module"},
    {"target_modules", "[\"nowhere\"]", "leave no module to adapt"},
    {"target_modules", "\"nowhere\"", "leave no module to adapt"},
    {"target_modules", "\"(unclosed\"", "pattern '(unclosed'"},
    {"target_modules", "\"(a|aa)+(a|aa)+\\\\1[\"", "pattern"},
    {"target_modules", "[\"q_proj\", \"v_proj\"]", "unexpected"},
    {"target_modules", "[\"q_proj\", \"v_proj\", \"fc1\", \"fc2\"]", "6 missing"},
    {"target_modules", "[\"q_proj\", \"v_proj\", \"fc1\", \"embed\"]", "encoder.embed.lora_embedding_A"},
    {"exclude_modules", "3", "exclude_modules must be"},
    {"exclude_modules", "\".*\"", "leave no module to adapt"},
    {"exclude_modules", "[\"fc1\"]", "6 unexpected"},
    {"modules_to_save", "\"classifier\"", "modules_to_save must be a list of strings, not a string"},
    {"modules_to_save", "null", "2 unexpected: base_model.model.classifier"},
    {"modules_to_save", "[\"classifier\", \"k_proj\"]", "6 missing"},
    {"modules_to_save", "[\"classifier\", \"fc\"]", NULL}, /* no module's name ends so */
    {"layers_to_transform", "\"1\"", "layers_to_transform must be an integer or a list of them, not a string"},
    {"layers_to_transform", "[1, 1.5]", "layers_to_transform must be"},
    {"layers_to_transform", "-1", "there is no layer -1"},
    {"layers_to_transform", "99999999999", "there is no layer 99999999999"},
    {"layers_to_transform", "9", "leave no module to adapt"},
    {"layers_to_transform", "[0, 1]", "6 unexpected"},
    {"layers_pattern", "\"layers\"", "layers_pattern without layers_to_transform"},
    {"layers_pattern", "\"lay.*rs\"", "layers_pattern 'lay.*rs': only names"},
    {"layers_pattern", "3", "layers_pattern must be"},
    {"rank_pattern", "[]", "rank_pattern must be an object, not an array"},
    {"rank_pattern", "{\"fc1\": \"3\"}", "rank_pattern must be an object of numbers, not a string"},
    {"rank_pattern", "{\"fc1\": 0}", "r=0"},
    {"rank_pattern", "{\"fc1\": 2.5}", "r=2.5"},
    {"rank_pattern", "{\"fc[1\": 3}", "pattern"},
    {"rank_pattern", "{}", "8 misshapen"},
    {"alpha_pattern", "3", "alpha_pattern must be an object, not an integer"},
    {"alpha_pattern", "{\"fc1\": null}", "alpha_pattern must be an object of numbers, not null"},
    {"init_lora_weights", "1", "init_lora_weights must be true, false or a string, not an integer"},
    {"init_lora_weights", "\"best\"", "init_lora_weights 'best' is unknown"},
    {"init_lora_weights", "\"pissa_niter_16\"", "'pissa_niter_16' is not supported"},
    {"init_lora_weights", "\"loftq\"", "'loftq' is not supported: its base weights were quantised"},
    {"init_lora_weights", "\"corda\"", "'corda' is not supported"},
    {"init_lora_weights", "\"lora_ga\"", "'lora_ga' is not supported"},
    {"task_type", "3", "\"task_type\" must be"},
    {"layer_replication", "[[0, 2]]", "layer_replication is set, which changes what the adapter computes"},
    {"trainable_token_indices", "[1]", "trainable_token_indices is set"},
    {"target_parameters", "[\"w\"]", "target_parameters is set"},
    {"alora_invocation_tokens", "[1]", "alora_invocation_tokens is set"},
    {"velora_config", "{\"scale\": 1}", "velora_config is set"},
    {"monteclora_config", "{\"a\": 1}", "monteclora_config is set"},
    {"arrow_config", "{\"a\": 1}", "arrow_config is set"},
    {"kasa_config", "{\"a\": 1}", "kasa_config is set"},
    {"use_bdlora", "{\"nblocks\": 1}", "use_bdlora is set"},
    {"use_qalora", "true", "use_qalora is set"},
    {"ensure_weight_tying", "true", "ensure_weight_tying is set"},
};
enum { CONFIGS = sizeof configs / sizeof *configs };

START_TEST(configs_refused) {
  tiny m = open_tiny("interchange_basic");
  for (int i = 0; i < CONFIGS; i++) {
    make_directory("interchange_basic", configs[i].key, configs[i].value);
    if (configs[i].words) {
      refuse(&m, configs[i].words);
      continue;
    }
    lk_adapter_load(m.model, NULL, "made", 1); /* the neighbour that is fine */
    fine();
    lk_detach(m.model, "default");
    lk_set_requires_grad(lk_model_root(m.model), 1);
  }
  lk_model_free(m.model);
}
END_TEST

/* Two keys at once: settings that do not go together. */
START_TEST(combinations_refused) {
  static const struct {
    const char *config, *words;
  } whole[] = {
      {"{\"peft_type\":\"LORA\",\"target_modules\":[\"fc1\"],\"use_dora\":true,\"lora_bias\":true}",
       "lora_bias cannot be combined with use_dora"},
      {"{\"peft_type\":\"LORA\",\"target_modules\":\".*fc1\",\"layers_to_transform\":[1]}",
       "want target_modules as a list"},
      {"{\"peft_type\":\"LORA\",\"target_modules\":\"all-linear\",\"layers_to_transform\":1}",
       "want target_modules as a list"},
      {"{\"peft_type\":\"LORA\",\"target_modules\":[\"fc1\"],\"init_lora_weights\":\"pissa\",\"lora_bias\":true}",
       "lora: bias goes with"},
      {"{\"peft_type\":\"LORA\",\"target_modules\":[\"fc1\"],\"init_lora_weights\":\"pissa\",\"lora_alpha\":-8}",
       "init=pissa needs alpha above 0"},
      {"{\"peft_type\":\"LORA\",\"target_modules\":[\"fc1\"],\"init_lora_weights\":\"pissa\",\"r\":9}", "r <= 8"},
      {"{\"peft_type\":\"LORA\",\"target_modules\":[\"embed\"],\"init_lora_weights\":\"olora\"}", "linear layers"},
      {"{\"peft_type\":\"LORA\",\"target_modules\":[\"classifier\"],\"modules_to_save\":[\"classifier\"]}",
       "leave no module to adapt"},
      {"{\"peft_type\":\"LORA\",\"target_modules\":[\"fc1\"],\"modules_to_save\":[\"c1\"]}", "both adapted and in"},
      {"[]", "peft_type must be a string, and is missing"},
      {"\"LORA\"", "peft_type must be a string, and is missing"},
      {"{\"peft_type\":\"LORA\"", "adapter_config.json:1"},
      {"{\"peft_type\":\"LORA\",\"r\":4,\"r\":4}", "duplicate"},
      {"", "adapter_config.json"},
      {"{\"peft_type\":\"LORIKEET\"}", "format_version 0 is not read"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":2}", "format_version 2 is not read; 1 is"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":\"1\"}", "\"format_version\" must be"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"targets\":\"fc1\"}",
       "spec must be a string, and is missing"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"lora\"}",
       "targets must be a string, and is missing"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"lora | mine r=2\",\"targets\":\"fc1\"}",
       "there is no adapter 'mine'"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"bias\",\"targets\":[\"fc1\"]}",
       "\"targets\" must be"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"bias\",\"targets\":\"fc1\",\"bias\":\"lora_only\"}",
       "bias 'lora_only' is none of none, all, adapted"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"bias\",\"targets\":\"fc1\",\"overrides\":{}}",
       "overrides must be a list, not an object"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"bias\",\"targets\":\"fc1\",\"overrides\":[1]}",
       "overrides must be a list of objects"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"bias\",\"targets\":\"fc1\",\"overrides\":"
       "[{\"pattern\":\"fc1\",\"options\":\"r=2\"}]}",
       "no adapter in 'bias' has the option 'r=2'"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"bias\",\"targets\":\"fc1\",\"layers\":[-1]}",
       "there is no layer -1"},
      {"{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"spec\":\"bias\",\"targets\":\"fc1\"}", "3 missing: encoder"},
  };
  tiny m = open_tiny("interchange_basic");
  make_directory("interchange_basic", NULL, NULL);
  for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
    test_put("made/adapter_config.json", whole[i].config, strlen(whole[i].config));
    refuse(&m, whole[i].words);
  }
  lk_model_free(m.model);
}
END_TEST

/* ---- tensors ---- */

/* Any cut of the file, and a few of its bytes changed. */
START_TEST(damaged_tensors) {
  size_t n;
  tiny m = open_tiny("interchange_basic");
  make_directory("interchange_basic", NULL, NULL);
  unsigned char *bytes = test_get("made/adapter_model.safetensors", &n);
  for (size_t cut = 0; cut < n; cut += 97) {
    test_put("made/adapter_model.safetensors", bytes, cut);
    refuse(&m, "made/adapter_model.safetensors");
  }
  remove("made/adapter_model.safetensors");
  refuse(&m, "made/adapter_model.safetensors");
  mkdir("made/adapter_model.safetensors", 0777);
  refuse(&m, "made/adapter_model.safetensors");
  free(bytes);
  lk_model_free(m.model);
}
END_TEST

/* Everything that does not fit stands in one sentence. */
START_TEST(tensors_in_one_message) {
  lk_named_view views[64];
  size_t n = 0;
  int64_t shape[] = {2, 2};
  float four[4] = {0};
  lk_view other;
  lk_view_init(&other, LK_F32, 2, shape);
  other.p = four;
  tiny m = open_tiny("interchange_basic");
  make_directory("interchange_basic", NULL, NULL);
  lk_safetensors *f = lk_safetensors_open(ctx, golden_path("interchange_basic/adapter_model.safetensors"));
  for (size_t i = 0; i < lk_safetensors_count(f); i++) {
    const char *name = lk_safetensors_at(f, i)->name;
    lk_view v;
    lk_safetensors_get(f, name, &v);
    if (strstr(name, "0.fc1.lora_A")) continue;
    if (strstr(name, "1.fc1.lora_A")) v = other;
    if (strstr(name, "2.fc1.lora_A")) v.dtype = LK_I32;
    views[n++] = (lk_named_view){name, v};
  }
  views[n++] = (lk_named_view){"base_model.model.stranger", other};
  lk_safetensors_write(ctx, "made/adapter_model.safetensors", views, n, NULL, 0);
  lk_safetensors_close(f);
  fine();
  refuse(&m, "does not fit adapter 'default': 1 missing: base_model.model.encoder.layers.0.fc1.lora_A.weight; "
             "1 unexpected: base_model.model.stranger; "
             "1 misshapen: base_model.model.encoder.layers.1.fc1.lora_A.weight is [2, 2], want [3, 8]; "
             "1 of a type that is not read: base_model.model.encoder.layers.2.fc1.lora_A.weight is I32");
  lk_model_free(m.model);
}
END_TEST

/* ---- states in which nothing can be loaded or saved ---- */

START_TEST(wrong_state) {
  tiny m = open_tiny("interchange_basic");
  make_directory("interchange_basic", NULL, NULL);
  ck_assert_int_eq(lk_adapter_save(NULL, NULL, "x", NULL), LK_ENIL);
  ck_assert_int_eq(lk_adapter_load(NULL, NULL, "made", 0), LK_ENIL);
  lk_adapter_save(m.model, "ghost", "x", NULL);
  expect("there is no adapter 'ghost'");
  lk_adapter_load(m.model, "a/b", "made", 0);
  expect("'a/b' cannot be the name of an adapter");
  lk_adapter_load(m.model, NULL, NULL, 0);
  expect("dir is NULL");
  lk_adapter_load(m.model, NULL, "made", 0);
  fine();
  lk_adapter_load(m.model, NULL, "made", 0);
  expect("there is an adapter 'default' already");
  ck_assert_ptr_nonnull(lk_adapter_find(m.model, "default")); /* the first one stays */
  lk_adapter_load(m.model, "second", "made", 0);
  expect("both hold a copy of classifier.weight");
  ck_assert_ptr_null(lk_adapter_find(m.model, "second"));
  lk_adapter_save(m.model, NULL, NULL, NULL);
  expect("dir is NULL");
  lk_merge(m.model, NULL);
  lk_adapter_load(m.model, "second", "made", 0);
  expect("merged");
  lk_adapter_save(m.model, NULL, "merged", NULL); /* the adapter is still itself */
  fine();
  lk_fail(ctx, LK_EARG, "an earlier error");
  ck_assert_int_eq(lk_adapter_save(m.model, NULL, "later", NULL), LK_EARG);
  ck_assert_int_eq(lk_adapter_load(m.model, "second", "made", 0), LK_EARG);
  lk_error_clear(ctx);
  ck_assert_int_eq(lk_file_exists("later"), 0);
  lk_model_free(m.model);
}
END_TEST

START_TEST(shapes_only) {
  lk_model *m = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
  lk_linear_new(lk_model_root(m), "fc", 2, 2, 0);
  make_directory("interchange_basic", NULL, NULL);
  lk_adapter_load(m, NULL, "made", 0);
  expect("the model has shapes only");
  lk_attach(m, NULL, "lora", "fc");
  lk_adapter_save(m, NULL, "x", NULL);
  expect("has shapes only, and no values to save");
  ck_assert_int_eq(lk_file_exists("x"), 0);
  lk_model_free(m);
}
END_TEST

/* Numbers that are not finite are saved, with a warning: a run that went wrong can be looked at. */
START_TEST(nonfinite_values) {
  tiny m = open_tiny("interchange_basic");
  lk_attach(m.model, NULL, "lora r=2", "fc1");
  lk_param *p = m.block[1].fc1->module.site->stacks->chain->params;
  lk_view_set(&p->value, 3, NAN);
  lk_param_touch(p);
  lk_adapter_save(m.model, NULL, "x", NULL);
  fine();
  expect_warning("encoder.layers.1.fc1.lora_A.weight of adapter 'default' holds values that are not finite");
  lk_model_free(m.model);
}
END_TEST

/* Where one of the two files cannot be written, neither is changed. */
START_TEST(unwritable) {
  size_t n;
  tiny m = open_tiny("interchange_basic");
  lk_attach(m.model, NULL, "lora r=2", "fc1");
  test_put("file", "x", 1);
  lk_adapter_save(m.model, NULL, "file", NULL);
  expect("file");
  make_directory("interchange_basic", NULL, NULL);
  remove("made/adapter_config.json");
  mkdir("made/adapter_config.json", 0777);
  lk_adapter_save(m.model, NULL, "made", NULL);
  expect("adapter_config.json");
  unsigned char *now = test_get("made/adapter_model.safetensors", &n);
  size_t k;
  unsigned char *was = test_get(golden_path("interchange_basic/adapter_model.safetensors"), &k);
  ck_assert(n == k && !memcmp(now, was, n));
  free(now);
  free(was);
  rmdir("made/adapter_config.json");
  test_put("made/adapter_config.json", "old", 3);
  remove("made/adapter_model.safetensors");
  mkdir("made/adapter_model.safetensors", 0777);
  lk_adapter_save(m.model, NULL, "made", NULL);
  expect("adapter_model.safetensors");
  now = test_get("made/adapter_config.json", &n);
  ck_assert(n == 3 && !memcmp(now, "old", 3));
  free(now);
  lk_model_free(m.model);
}
END_TEST

int main(void) {
  Suite *s = suite_create("peft_refused");
  TCase *c = tcase_create("peft_refused");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 240);
  tcase_add_test(c, configs_refused);
  tcase_add_test(c, combinations_refused);
  tcase_add_test(c, damaged_tensors);
  tcase_add_test(c, tensors_in_one_message);
  tcase_add_test(c, wrong_state);
  tcase_add_test(c, shapes_only);
  tcase_add_test(c, nonfinite_values);
  tcase_add_test(c, unwritable);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
