/* test_peft.c: adapters as directories: PEFT's own there and back, all that a config can say, our own format. */
#include "peft.h"

/* ---- PEFT's own directories ---- */

static const char *const interchange[] = {"interchange_basic", "interchange_dora_embed_bias"};

static void check_output(const tiny *m, lk_safetensors *io, const char *name) {
  lk_view ids = recorded(io, "ids"), want = recorded(io, name), y;
  lk_tape_reset(t);
  ck_assert_int_eq(lk_get(t, tiny_forward(m, t, lk_borrow(t, &ids)), &y), 0);
  ck_assert_double_lt(difference(&y, &want), 1e-5);
}

/* Same names, types, shapes and bits. */
static void check_same_tensors(const char *a, const char *b) {
  lk_safetensors *f = lk_safetensors_open(ctx, a), *g = lk_safetensors_open(ctx, b);
  fine();
  ck_assert_uint_eq(lk_safetensors_count(f), lk_safetensors_count(g));
  for (size_t i = 0; i < lk_safetensors_count(f); i++) {
    const lk_stored *s = lk_safetensors_at(f, i);
    lk_view x = recorded(f, s->name), y = recorded(g, s->name);
    ck_assert(x.dtype == y.dtype && lk_view_same_shape(&x, &y));
    ck_assert_msg(!memcmp(x.p, y.p, lk_view_bytes(&x)), "%s differs", s->name);
  }
  ck_assert_str_eq(lk_safetensors_metadata(g, "format"), "pt");
  ck_assert_uint_eq(lk_safetensors_metadata_count(g), 1);
  lk_safetensors_close(f);
  lk_safetensors_close(g);
}

/* Byte for byte PEFT's text, once what we cannot know is null; so also sorted, ASCII and without a last newline. */
static void check_same_config(const char *theirs, const char *ours) {
  lk_json *j = lk_json_read(ctx, theirs);
  lk_json_set_null(ctx, j, "auto_mapping");
  lk_json_set_null(ctx, j, "peft_version");
  char *want = lk_json_dump(ctx, j, LK_JSON_SORTED), *got = lk_file_read_text(ctx, ours, 1 << 20, NULL);
  fine();
  ck_assert_str_eq(got, want);
  lk_free(ctx, want);
  lk_free(ctx, got);
  lk_json_free(j);
}

START_TEST(peft_directory) {
  const char *name = interchange[_i];
  char path[256];
  tiny m = open_tiny(name);
  snprintf(path, sizeof path, "%s/io.safetensors", name);
  lk_safetensors *io = lk_safetensors_open(ctx, golden_path(path));
  check_output(&m, io, "y_base");
  lk_adapter_load(m.model, NULL, golden_path(name), 1);
  fine();
  check_output(&m, io, "y_adapter");
  lk_view count = recorded(io, "trainable_count");
  ck_assert_int_eq(lk_trainable_count(m.model), lk_view_index(&count, 0));
  ck_assert_int_eq(lk_adapter_save(m.model, "default", "deep/out", NULL), LK_OK);
  snprintf(path, sizeof path, "%s/adapter_model.safetensors", name);
  check_same_tensors(golden_path(path), "deep/out/adapter_model.safetensors");
  snprintf(path, sizeof path, "%s/adapter_config.json", name);
  check_same_config(golden_path(path), "deep/out/adapter_config.json");
  ck_assert_int_eq(lk_warning_count(ctx), 0);

  tiny again = open_tiny(name);
  lk_adapter_load(again.model, NULL, "deep/out", 0);
  fine();
  check_output(&again, io, "y_adapter");
  ck_assert_int_eq(lk_trainable_count(again.model), 0);
  lk_safetensors_close(io);
  lk_model_free(again.model);
  lk_model_free(m.model);
}
END_TEST

/* ---- there and back ---- */

typedef struct {
  lk_attach_options options;
  const char *key, *value; /* one key of the config, as compact JSON */
} story;

#define OVER(...)                                                                                                      \
  .overrides = (const lk_override[]){__VA_ARGS__},                                                                     \
  .noverrides = sizeof((lk_override[]){__VA_ARGS__}) / sizeof(lk_override)

static const story stories[] = {
    {{.spec = "lora r=3 alpha=7", .targets = "q_proj,v_proj"}, "target_modules", "[\"q_proj\",\"v_proj\"]"},
    {{.spec = "lora", .targets = "fc1"}, "lora_alpha", "8"},
    {{.spec = "lora alpha=2.5", .targets = "fc1"}, "lora_alpha", "2.5"},
    {{.spec = "lora alpha=-4", .targets = "fc1"}, "lora_alpha", "-4"},
    {{.spec = "lora dropout=0.25", .targets = "fc1"}, "lora_dropout", "0.25"},
    {{.spec = "dropout p=0.25 (lora)", .targets = "fc1"}, "lora_dropout", "0.25"},
    {{.spec = "dropout p=0.25 (lora | magnitude)", .targets = "fc1"}, "use_dora", "true"},
    {{.spec = "lora | magnitude", .targets = "fc1 embed"}, "lora_dropout", "0.0"},
    {{.spec = "lora rslora", .targets = "out_proj"}, "use_rslora", "true"},
    {{.spec = "lora bias", .targets = "out_proj"}, "lora_bias", "true"},
    {{.spec = "lora init=random", .targets = "fc2"}, "init_lora_weights", "false"},
    {{.spec = "lora init=gaussian", .targets = "fc2"}, "init_lora_weights", "\"gaussian\""},
    {{.spec = "lora init=pissa r=3", .targets = "fc2"}, "init_lora_weights", "\"pissa\""},
    {{.spec = "lora init=olora r=3 | magnitude", .targets = "fc2"}, "init_lora_weights", "\"olora\""},
    {{.spec = "lora", .targets = "fc1", .bias = LK_BIAS_ADAPTED}, "bias", "\"lora_only\""},
    {{.spec = "lora", .targets = "fc1", .bias = LK_BIAS_ALL, .modules_to_save = "classifier"}, "bias", "\"all\""},
    {{.spec = "lora", .targets = "fc1", .modules_to_save = "classifier, layers.0.fc2"},
     "modules_to_save",
     "[\"classifier\",\"layers.0.fc2\"]"},
    {{.spec = "lora", .targets = "fc1", .exclude = "1.fc1,2.fc1"}, "exclude_modules", "[\"1.fc1\",\"2.fc1\"]"},
    {{.spec = "lora", .targets = "re:.*\\.(fc1|q_proj)", .exclude = "re:.*1.*"}, "exclude_modules", "\".*1.*\""},
    {{.spec = "lora", .targets = "re:.*\\.(fc1|q_proj)"}, "target_modules", "\".*\\\\.(fc1|q_proj)\""},
    {{.spec = "lora", .targets = "fc1", .layers = (const int[]){0, 2}, .nlayers = 2}, "layers_to_transform", "[0,2]"},
    {{.spec = "lora", .targets = "fc1", .layers = (const int[]){1}, .nlayers = 1, .layers_pattern = "blocks,layers"},
     "layers_pattern",
     "[\"blocks\",\"layers\"]"},
    /* patterns that PEFT has not: written as paths */
    {{.spec = "lora", .targets = "*.1.f*", .exclude = "fc2"}, "target_modules", "[\"encoder.layers.1.fc1\"]"},
    {{.spec = "lora", .targets = "fc1,re:.*1.fc1", .exclude = "0.fc1"},
     "target_modules",
     "[\"encoder.layers.1.fc1\",\"encoder.layers.2.fc1\"]"},
    {{.spec = "lora", .targets = "re:.*layers.2.*", .exclude = "attn.*"}, "exclude_modules", "null"},
    {{.spec = "lora", .targets = "all-linear", .exclude = "encoder*"}, "target_modules", "[\"classifier\"]"},
    {{.spec = "lora", .targets = "*fc1", .layers = (const int[]){1}, .nlayers = 1}, "layers_to_transform", "null"},
    /* ranks and alphas by pattern */
    {{.spec = "lora r=4", .targets = "fc1,fc2", OVER({"fc1", "r=2"}, {"re:(.*\\.)?(fc2)", "alpha=2"})},
     "rank_pattern",
     "{\"fc1\":2}"},
    {{.spec = "lora r=4", .targets = "fc1", OVER({"re:(.*\\.)?(1.fc1|2.fc1)", "r=2 alpha=1.5"})},
     "alpha_pattern",
     "{\"1.fc1|2.fc1\":1.5}"},
    {{.spec = "lora r=4", .targets = "fc1", OVER({"layers.1.fc1", "r=2"})},
     "rank_pattern",
     "{\"layers\\\\.1\\\\.fc1\":2}"},
    {{.spec = "lora r=4", .targets = "fc1", OVER({"re:.*1.fc1", "r=2"})}, "rank_pattern", "{\"^(?:.*1.fc1)\":2}"},
    {{.spec = "lora r=4", .targets = "fc1", OVER({"*.1.*", "r=2"})},
     "rank_pattern",
     "{\"^encoder\\\\.layers\\\\.1\\\\.fc1\":2}"},
    /* "first match" and "first in the order of characters" differ: paths again */
    {{.spec = "lora r=4", .targets = "fc1", OVER({"layers.1.fc1", "r=2"}, {"fc1", "r=3"})},
     "rank_pattern",
     "{\"^encoder\\\\.layers\\\\.0\\\\.fc1\":3,\"^encoder\\\\.layers\\\\.1\\\\.fc1\":2,"
     "\"^encoder\\\\.layers\\\\.2\\\\.fc1\":3}"},
    {{.spec = "lora r=4", .targets = "fc1", OVER({"1.fc1", "r=2"}, {"fc1", "r=3"})},
     "rank_pattern",
     "{\"1\\\\.fc1\":2,\"fc1\":3}"},
    /* what PEFT has not */
    {{.spec = "bias", .targets = "fc1"}, "peft_type", "\"LORIKEET\""},
    {{.spec = "lora r=2 | bias", .targets = "*.fc1", .exclude = "0.fc1"}, "targets", "\"*.fc1\""},
    {{.spec = "lora:a r=2 | lora:b r=3", .targets = "fc1"}, "spec", "\"lora:a r=2 | lora:b r=3\""},
    {{.spec = "lora r=2 | magnitude detach=0", .targets = "fc1"}, "peft_type", "\"LORIKEET\""},
    {{.spec = "magnitude", .targets = "fc1,embed", .bias = LK_BIAS_ADAPTED}, "bias", "\"adapted\""},
    {{.spec = "dropout p=0.5 (lora dropout=0.5)", .targets = "fc1"}, "peft_type", "\"LORIKEET\""},
    {{.spec = "lora r=2",
      .targets = "fc1",
      .layers = (const int[]){2, 0},
      .nlayers = 2,
      .layers_pattern = "layers",
      .modules_to_save = "classifier",
      OVER({"0.fc1", "dropout=0.5 r=3"}, {"re:.*2,?.fc1", "alpha=1"})},
     "overrides",
     "[{\"options\":\"dropout=0.5 "
     "r=3\",\"pattern\":\"0.fc1\"},{\"options\":\"alpha=1\",\"pattern\":\"re:.*2,?.fc1\"}]"},
};
enum { STORIES = sizeof stories / sizeof *stories };

static void check_key(const char *path, const char *key, const char *want) {
  lk_json *j = lk_json_read(ctx, path);
  char *got = lk_json_dump(ctx, lk_json_get(j, key), LK_JSON_COMPACT);
  fine();
  ck_assert_msg(!strcmp(got, want), "%s is %s, want %s", key, got, want);
  lk_free(ctx, got);
  lk_json_free(j);
}

/* Attached, moved, saved, loaded into another model under another name: the same output, the same file. */
START_TEST(there_and_back) {
  const story *s = &stories[_i];
  tiny m = open_tiny("interchange_basic"), n = open_tiny("interchange_basic");
  lk_view before = output(&n);
  double *y0 = malloc(lk_view_bytes(&before));
  memcpy(y0, before.p, lk_view_bytes(&before));
  before.p = y0;
  lk_attach_with(m.model, &s->options);
  fine();
  tiny_stir(m.model, "default");
  lk_adapter_save(m.model, "default", "a", "some/base");
  fine();
  check_key("a/adapter_config.json", s->key, s->value);
  check_key("a/adapter_config.json", "base_model_name_or_path", "\"some/base\"");
  lk_adapter_load(n.model, "other", "a", 1);
  fine();
  ck_assert_int_eq(lk_adapter_count(n.model, "other"), lk_adapter_count(m.model, "default"));
  ck_assert_int_eq(lk_trainable_count(n.model), lk_adapter_count(m.model, "default"));
  lk_view y = output(&n);
  ck_assert_double_gt(difference(&y, &before), 1e-3);
  memcpy(y0, y.p, lk_view_bytes(&y));
  y = output(&m);
  ck_assert_int_eq(memcmp(y0, y.p, lk_view_bytes(&y)), 0);
  lk_adapter_save(n.model, "other", "b", "some/base");
  fine();
  check_same_tensors("a/adapter_model.safetensors", "b/adapter_model.safetensors");
  check_key("b/adapter_config.json", s->key, s->value);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  free(y0);
  lk_model_free(n.model);
  lk_model_free(m.model);
}
END_TEST

/* Every built-in class, as the only one or holding lora, at every kind of site that it takes. */
/* The class with its defaults; sizes that are made for larger layers become 4. */
static void class_spec(const lk_adapter_class *k, char *spec, size_t size) {
  size_t used = (size_t)snprintf(spec, size, "%s", k->name);
  for (const lk_opt *o = k->opts; o && o->key; o++)
    if (o->type == LK_OPT_INT && o->def > 8 && used < size)
      used += (size_t)snprintf(spec + used, size - used, " %s=4", o->key);
  if (k->caps & LK_WRAPPER && used < size) snprintf(spec + used, size - used, " (lora r=2)");
}

START_TEST(every_class) {
  for (const lk_adapter_class *const *k = lk_adapter_classes(); *k; k++) {
    char spec[200];
    class_spec(*k, spec, sizeof spec);
    const char *targets = (*k)->sites & LK_SITE_EMBEDDING ? "embed,fc1" : "fc1";
    tiny m = open_tiny("interchange_basic"), n = open_tiny("interchange_basic");
    lk_attach(m.model, "first", spec, targets);
    tiny_stir(m.model, "first");
    lk_adapter_save(m.model, "first", (*k)->name, NULL);
    lk_adapter_load(n.model, "second", (*k)->name, 0);
    fine();
    lk_view y = output(&m);
    void *want = memcpy(malloc(lk_view_bytes(&y)), y.p, lk_view_bytes(&y));
    y = output(&n);
    ck_assert_msg(!memcmp(want, y.p, lk_view_bytes(&y)), "%s differs", spec);
    free(want);
    lk_model_free(n.model);
    lk_model_free(m.model);
  }
}
END_TEST

/* ---- a class of the user's ---- */

typedef struct {
  lk_param *gain, *mean;
} gain_state;

static lk_status gain_attach(lk_at *at) {
  gain_state *s = at->st;
  s->gain = lk_at_param(at, "gain", LK_TRAINED, 1, &at->site->out);
  s->mean = lk_at_param(at, "mean", LK_BUFFER, 1, &at->site->out);
  lk_at_param(at, "seen", LK_SCRATCH, 1, &at->site->out);
  if (s->gain) lk_param_fill(s->gain, 1);
  return lk_error(lk_at_ctx(at), NULL);
}

static lk_tensor gain_output(lk_at *at, lk_tape *tape, lk_tensor x, lk_tensor y) {
  gain_state *s = at->st;
  (void)x;
  return lk_add(tape, lk_mul(tape, y, lk_use(tape, s->gain)), lk_use(tape, s->mean));
}

static const lk_adapter_class gain_class = {.name = "gain",
                                            .summary = "a factor and a mean",
                                            .cite = "this test",
                                            .sites = LK_SITE_LINEAR,
                                            .site_size = sizeof(gain_state),
                                            .attach = gain_attach,
                                            .output = gain_output};

START_TEST(users_class) {
  tiny m = open_tiny("interchange_basic"), n = open_tiny("interchange_basic");
  lk_adapter_register(m.model, &gain_class);
  lk_attach(m.model, "default", "lora r=2 | gain", "fc1");
  tiny_stir(m.model, "default");
  lk_adapter_save(m.model, "default", "a", NULL);
  fine();
  lk_safetensors *f = lk_safetensors_open(ctx, "a/adapter_model.safetensors");
  ck_assert_ptr_nonnull(lk_safetensors_find(f, "encoder.layers.2.fc1.gain"));
  ck_assert_ptr_nonnull(lk_safetensors_find(f, "encoder.layers.2.fc1.mean"));
  ck_assert_ptr_nonnull(lk_safetensors_find(f, "encoder.layers.2.fc1.lora_A.weight"));
  ck_assert_uint_eq(lk_safetensors_count(f), 12);
  lk_safetensors_close(f);
  lk_adapter_load(n.model, NULL, "a", 1);
  expect("there is no adapter 'gain'");
  ck_assert_ptr_null(lk_adapter_first(n.model));
  lk_adapter_register(n.model, &gain_class);
  lk_adapter_load(n.model, NULL, "a", 1);
  fine();
  lk_view y = output(&m);
  void *want = memcpy(malloc(lk_view_bytes(&y)), y.p, lk_view_bytes(&y));
  y = output(&n);
  ck_assert_int_eq(memcmp(want, y.p, lk_view_bytes(&y)), 0);
  free(want);
  lk_model_free(n.model);
  lk_model_free(m.model);
}
END_TEST

/* ---- convolutions, names, f64 ---- */

START_TEST(convolution) {
  for (int i = 0; i < 2; i++) {
    lk_model *m = lk_model_new(ctx, LK_F64, 0);
    lk_conv2d_layer *c = lk_conv2d_new(lk_model_root(m), "conv", 2, 3, (int64_t[]){3, 2}, NULL, 0);
    if (i == 0) {
      lk_attach(m, NULL, "lora r=2 | magnitude", "conv");
      tiny_stir(m, "default");
      lk_adapter_save(m, NULL, "a", NULL);
    } else lk_adapter_load(m, NULL, "a", 0);
    lk_adapter_save(m, NULL, i ? "b" : "a", NULL);
    fine();
    ck_assert_int_eq(c->module.site->stacks->chain->params->value.ndim, 4);
    lk_model_free(m);
  }
  check_same_tensors("a/adapter_model.safetensors", "b/adapter_model.safetensors");
  lk_safetensors *f = lk_safetensors_open(ctx, "b/adapter_model.safetensors");
  lk_view magnitude = recorded(f, "base_model.model.conv.lora_magnitude_vector");
  ck_assert(magnitude.dtype == LK_F64 && magnitude.ndim == 4 && magnitude.shape[1] == 3);
  lk_safetensors_close(f);
}
END_TEST

/* A path that is the end of another one can only be told apart by a regular expression. */
START_TEST(path_that_ends_another) {
  lk_model *m = lk_model_new(ctx, LK_F32, 0);
  lk_module *block = lk_module_new(lk_model_root(m), "b", "block", sizeof *block);
  lk_linear_new(block, "f(c)", 2, 2, 0);
  lk_linear_new(lk_model_root(m), "f(c)", 2, 2, 0);
  lk_attach(m, NULL, "lora r=1", "re:f.c."); /* full match: the outer one */
  lk_adapter_save(m, NULL, "a", NULL);
  check_key("a/adapter_config.json", "target_modules", "\"f.c.\"");
  lk_detach(m, "default");
  lk_attach_with(m, &(lk_attach_options){.spec = "lora r=1", .targets = "f*", .exclude = "b.*"});
  lk_adapter_save(m, NULL, "a", NULL);
  check_key("a/adapter_config.json", "target_modules", "\"f\\\\(c\\\\)\"");
  lk_detach(m, "default");
  lk_adapter_load(m, NULL, "a", 1);
  fine();
  ck_assert_int_eq(lk_trainable_count(m), 4);
  ck_assert_ptr_null(lk_module_find(lk_model_root(m), "b.f(c)")->site->stacks);
  lk_model_free(m);
}
END_TEST

/* As PEFT writes an adapter that is not called default: in a folder of its name. */
START_TEST(folder_of_a_name) {
  tiny m = open_tiny("interchange_basic");
  lk_attach(m.model, "french", "lora r=2", "fc1");
  lk_adapter_save(m.model, "french", "dir/french", NULL);
  lk_detach(m.model, "french");
  lk_adapter_load(m.model, "french", "dir", 1);
  fine();
  ck_assert_ptr_nonnull(lk_param_find(lk_model_root(m.model), "classifier.weight"));
  ck_assert_ptr_nonnull(lk_adapter_find(m.model, "french"));
  lk_adapter_load(m.model, "german", "dir", 1);
  expect("there is no adapter_config.json in 'dir', nor in its folder 'german'");
  ck_assert_ptr_null(lk_adapter_find(m.model, "german"));
  lk_model_free(m.model);
}
END_TEST

/* ---- failing memory ---- */

static tiny small_story(lk_ctx *c) {
  tiny m = {.model = lk_model_new(c, LK_F32, 0)};
  m.embed = lk_embedding_new(lk_model_root(m.model), "embed", 3, 2);
  m.classifier = lk_linear_new(lk_model_root(m.model), "fc", 2, 2, 0);
  lk_linear_new(lk_model_root(m.model), "skip", 2, 2, 0);
  return m;
}

static lk_status save_story(lk_ctx *c, void *spec) {
  static const lk_override overrides[] = {{"fc", "r=1"}, {"*mbed", "alpha=2"}};
  tiny m = small_story(c);
  if (m.model)
    lk_attach_with(m.model, &(lk_attach_options){.name = "x",
                                                 .spec = spec,
                                                 .targets = "f*,embed",
                                                 .exclude = "skip",
                                                 .bias = LK_BIAS_ADAPTED,
                                                 .overrides = overrides,
                                                 .noverrides = strchr(spec, ':') ? 0 : 2});
  if (m.model) lk_adapter_save(m.model, "x", spec, "base");
  lk_model_free(m.model);
  return lk_error(c, NULL);
}

static lk_status load_story(lk_ctx *c, void *spec) {
  tiny m = small_story(c);
  if (m.model && lk_adapter_load(m.model, "y", spec, 1)) {
    ck_assert_ptr_null(lk_adapter_first(m.model)); /* nothing stays behind */
    if (m.classifier) ck_assert_int_eq(m.classifier->weight->requires_grad, 1);
  }
  lk_model_free(m.model);
  return lk_error(c, NULL);
}

START_TEST(every_allocation) {
  static const char *const specs[] = {"lora r=2 | magnitude", "lora:a r=2 | magnitude"};
  uint64_t saving, loading;
  const char *wrong = test_each_allocation(save_story, (void *)specs[_i], &saving);
  ck_assert_msg(!wrong, "save: %s", wrong);
  wrong = test_each_allocation(load_story, (void *)specs[_i], &loading);
  ck_assert_msg(!wrong, "load: %s", wrong);
  ck_assert_uint_gt(saving, 100);
  ck_assert_uint_gt(loading, 100);
}
END_TEST

int main(void) {
  Suite *s = suite_create("peft");
  TCase *c = tcase_create("peft");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 240);
  tcase_add_loop_test(c, peft_directory, 0, 2);
  tcase_add_loop_test(c, there_and_back, 0, STORIES);
  tcase_add_test(c, every_class);
  tcase_add_test(c, users_class);
  tcase_add_test(c, convolution);
  tcase_add_test(c, path_that_ends_another);
  tcase_add_test(c, folder_of_a_name);
  tcase_add_loop_test(c, every_allocation, 0, 2);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
