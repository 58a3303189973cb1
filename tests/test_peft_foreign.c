/* test_peft_foreign.c: what other writers' directories may be like: half precision, spare tensors, missing keys. */
#include "peft.h"

/* The golden adapter's tensors with one type of element; the bits of each value cut off. */
static void make_half(lk_dtype dtype) {
  static uint16_t bits[64][128];
  lk_named_view views[64];
  lk_safetensors *f = lk_safetensors_open(ctx, golden_path("interchange_basic/adapter_model.safetensors"));
  size_t n = lk_safetensors_count(f);
  for (size_t k = 0; k < n; k++) {
    const lk_stored *s = lk_safetensors_at(f, k);
    lk_view v = recorded(f, s->name);
    views[k] = (lk_named_view){s->name, v};
    views[k].view.dtype = dtype;
    views[k].view.p = bits[k];
    for (int64_t i = 0; i < lk_view_count(&v); i++) {
      float x = (float)lk_view_get(&v, i);
      uint32_t b;
      memcpy(&b, &x, sizeof b);
      int e = (int)(b >> 23 & 255) - 112;
      if (dtype == LK_BF16) bits[k][i] = (uint16_t)(b >> 16);
      else if (e > 0) bits[k][i] = (uint16_t)((b >> 16 & 0x8000) | (uint32_t)e << 10 | (b >> 13 & 0x3FF));
      else bits[k][i] = (uint16_t)((b >> 16 & 0x8000) | (uint32_t)ldexpf(fabsf(x), 24));
    }
  }
  bits[0][0] = 0x8000;                            /* classifier.bias: -0 */
  bits[0][1] = dtype == LK_F16 ? 0x0001 : 0x0080; /* the smallest denormal of f16, normal of bf16 */
  lk_safetensors_write(ctx, "made/adapter_model.safetensors", views, n, NULL, 0);
  lk_safetensors_close(f);
  fine();
}

START_TEST(half_precision) {
  const lk_dtype dtype = _i ? LK_BF16 : LK_F16;
  tiny m = open_tiny("interchange_basic"), n = open_tiny("interchange_basic");
  make_directory("interchange_basic", NULL, NULL);
  make_half(dtype);
  lk_adapter_load(m.model, NULL, "made", 0);
  lk_adapter_load(n.model, NULL, golden_path("interchange_basic"), 0);
  fine();
  lk_view y = output(&m);
  float got[3 * TINY_CLASSES];
  memcpy(got, y.p, sizeof got);
  y = output(&n);
  double d = 0;
  for (int i = 0; i < 3 * TINY_CLASSES; i++) /* not the outputs of the two biases that were changed */
    if (i % TINY_CLASSES > 1) d = fmax(d, fabs(got[i] - lk_view_get(&y, i)));
  ck_assert_double_gt(d, 0);
  ck_assert_double_lt(d, _i ? 3e-2 : 4e-3);
  lk_adapter_save(m.model, NULL, "b", NULL);
  lk_safetensors *f = lk_safetensors_open(ctx, "b/adapter_model.safetensors");
  lk_view v = recorded(f, "base_model.model.classifier.bias");
  ck_assert_int_eq(v.dtype, LK_F32);
  ck_assert(lk_view_get(&v, 0) == 0 && signbit(lk_view_get(&v, 0)));
  ck_assert_double_eq(lk_view_get(&v, 1), _i ? 0x1p-126 : 0x1p-24);
  lk_safetensors_close(f);
  lk_model_free(m.model);
  lk_model_free(n.model);
}
END_TEST

/* "made"'s tensors with one renamed (NULL: left out) and one added, whose values are those of `like`. */
static void change_tensors(const char *name, const char *rename, const char *add, const char *like) {
  lk_named_view views[64];
  size_t n = 0;
  copy_file("made/adapter_model.safetensors", "old");
  lk_safetensors *f = lk_safetensors_open(ctx, "old");
  for (size_t k = 0; k < lk_safetensors_count(f); k++) {
    const char *own = lk_safetensors_at(f, k)->name;
    const char *now = name && !strcmp(own, name) ? rename : own;
    if (now) views[n++] = (lk_named_view){now, recorded(f, own)};
  }
  if (add) views[n++] = (lk_named_view){add, recorded(f, like)};
  lk_safetensors_write(ctx, "made/adapter_model.safetensors", views, n, NULL, 0);
  lk_safetensors_close(f);
  fine();
}

#define L0 "base_model.model.encoder.layers.0."
#define L1 "base_model.model.encoder.layers.1."

/* What PEFT's files may hold besides, or spell otherwise. */
START_TEST(tolerated_tensors) {
  static const char *const adapter = "interchange_dora_embed_bias";
  tiny m = open_tiny(adapter), n = open_tiny(adapter);
  make_directory(adapter, NULL, NULL);
  change_tensors(L0 "attn.out_proj.base_layer.bias", L0 "attn.out_proj.bias", "base_model.model.c.original_module.bias",
                 L1 "fc2.base_layer.bias");
  change_tensors(NULL, NULL, "base_model.model.c.modules_to_save.bias", L1 "fc2.base_layer.bias");
  lk_adapter_load(m.model, NULL, "made", 0);
  lk_adapter_load(n.model, NULL, golden_path(adapter), 0);
  fine();
  lk_view y = output(&m);
  void *copy = memcpy(malloc(lk_view_bytes(&y)), y.p, lk_view_bytes(&y));
  y = output(&n);
  ck_assert_int_eq(memcmp(copy, y.p, lk_view_bytes(&y)), 0);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  free(copy);
  lk_model_free(m.model);
  lk_model_free(n.model);
}
END_TEST

/* PEFT before August 2026 left out the biases of adapted layers. */
START_TEST(old_file_without_biases) {
  static const char *const names[] = {L0 "attn.out_proj", L1 "attn.out_proj", L1 "fc2",
                                      "base_model.model.encoder.layers.2.attn.out_proj",
                                      "base_model.model.encoder.layers.2.fc2"};
  char name[160];
  tiny m = open_tiny("interchange_dora_embed_bias");
  make_directory("interchange_dora_embed_bias", NULL, NULL);
  for (int i = 0; i < 5; i++) {
    snprintf(name, sizeof name, "%s.base_layer.bias", names[i]);
    change_tensors(name, NULL, NULL, NULL);
    lk_adapter_load(m.model, NULL, "made", 1);
    if (i < 4) expect("base_layer.bias");
  }
  fine();
  expect_warning("no biases of adapted layers");
  const lk_param *bias = lk_adapter_first(m.model)->stand_ins;
  ck_assert_int_eq(memcmp(bias->value.p, ((lk_param *)bias->owner)->value.p, lk_view_bytes(&bias->value)), 0);
  lk_model_free(m.model);
}
END_TEST

/* PEFT adds the frozen weight of an embedding: accepted if it is the model's. */
START_TEST(stored_base_weight) {
  static const char name[] = "base_model.model.encoder.embed.base_layer.weight";
  tiny m = open_tiny("interchange_dora_embed_bias");
  lk_named_view views[64];
  for (int other = 0; other < 2; other++) {
    make_directory("interchange_dora_embed_bias", NULL, NULL);
    lk_safetensors *f = lk_safetensors_open(ctx, golden_path("interchange_dora_embed_bias/adapter_model.safetensors"));
    size_t n = lk_safetensors_count(f);
    for (size_t k = 0; k < n; k++)
      views[k] = (lk_named_view){lk_safetensors_at(f, k)->name, recorded(f, lk_safetensors_at(f, k)->name)};
    lk_view weight = m.embed->weight->value;
    float *copy = memcpy(malloc(lk_view_bytes(&weight)), weight.p, lk_view_bytes(&weight));
    copy[3] += (float)other;
    weight.p = copy;
    views[n] = (lk_named_view){name, weight};
    lk_safetensors_write(ctx, "made/adapter_model.safetensors", views, n + 1, NULL, 0);
    lk_safetensors_close(f);
    free(copy);
    fine();
    lk_adapter_load(m.model, NULL, "made", 0);
    if (other) expect("1 unlike the model's frozen weight: base_model.model.encoder.embed.base_layer.weight");
    else fine();
    if (!other) lk_detach(m.model, "default");
  }
  lk_model_free(m.model);
}
END_TEST

/* Keys that mean nothing here, that are missing, or that nobody knows. */
START_TEST(tolerated_keys) {
  static const struct {
    const char *key, *value, *warning;
  } keys[] = {
      {"runtime_config", "{\"ephemeral_gpu_offload\": true}", NULL},
      {"loftq_config", "{\"loftq_bits\": 4}", NULL},
      {"eva_config", "{\"rho\": 2.0}", NULL},
      {"qalora_group_size", "32", NULL},
      {"megatron_config", "{}", NULL},
      {"init_lora_weights", "\"eva\"", NULL},
      {"init_lora_weights", "\"orthogonal\"", NULL},
      {"init_lora_weights", "\"gaussian\"", NULL},
      {"init_lora_weights", "false", NULL},
      {"init_lora_weights", "\"mica\"", "freezes B"},
      {"layers_to_transform", "[]", NULL},
      {"layers_pattern", "[]", NULL},
      {"layers_pattern", "\"\"", NULL},
      {"use_qalora", "null", NULL},
      {"target_parameters", "[]", NULL},
      {"task_type", "\"SEQ_CLS\"", NULL},
      {"lora_alpha", "8.0", NULL},
      {"fan_in_fan_out", "true", NULL},
      {"lora_dropout", "1", NULL},
      {"target_modules", "[\"q_proj\", \"v_proj\", \"fc1\", \"nowhere\"]", "target 'nowhere' matches no module"},
      {"modules_to_save", "[\"classifier\", \"nowhere\"]", "'nowhere' matches no module"},
      {"new_feature", "{\"a\": 1}", "unknown keys are ignored: new_feature"},
      {"megatron_core", NULL, NULL},
      {"lora_dropout", NULL, NULL},
      {"lora_alpha", NULL, NULL},
      {"peft_version", NULL, NULL},
  };
  tiny m = open_tiny("interchange_basic");
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    make_directory("interchange_basic", keys[i].key, keys[i].value);
    lk_adapter_load(m.model, NULL, "made", 0);
    fine();
    if (keys[i].warning) expect_warning(keys[i].warning);
    ck_assert_msg(keys[i].warning || !lk_warning_count(ctx), "%s: %s", keys[i].key, lk_warning(ctx, 0));
    lk_warnings_clear(ctx);
    lk_detach(m.model, "default");
  }
  lk_model_free(m.model);
}
END_TEST

/* The smallest file, and a task whose head PEFT adds by itself. */
START_TEST(smallest_config) {
  static const char smallest[] = "{\"peft_type\":\"LORA\",\"target_modules\":[\"q_proj\"]}";
  static const char task[] = "{\"peft_type\":\"LORA\",\"target_modules\":[\"q_proj\"],\"task_type\":\"TOKEN_CLS\"}";
  tiny m = open_tiny("interchange_basic");
  for (int i = 0; i < 2; i++) {
    lk_attach_with(
        m.model, &(lk_attach_options){.spec = "lora", .targets = "q_proj", .modules_to_save = i ? "classifier" : NULL});
    lk_adapter_save(m.model, NULL, "made", NULL);
    lk_detach(m.model, "default");
    test_put("made/adapter_config.json", i ? task : smallest, strlen(i ? task : smallest));
    lk_adapter_load(m.model, NULL, "made", 1);
    fine();
    ck_assert_str_eq(lk_adapter_first(m.model)->spec, "lora r=8 alpha=8");
    ck_assert_int_eq(lk_trainable_count(m.model), 3 * 8 * 16 + i * 36);
    lk_detach(m.model, "default");
  }
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  lk_model_free(m.model);
}
END_TEST

static lk_status load_half_story(lk_ctx *c, void *dir) {
  tiny m = tiny_new(c, LK_F32);
  if (m.model && !lk_error(c, NULL)) lk_adapter_load(m.model, NULL, dir, 0);
  lk_model_free(m.model);
  return lk_error(c, NULL);
}

START_TEST(every_allocation_of_a_foreign_file) {
  make_directory("interchange_basic", "task_type", "\"SEQ_CLS\"");
  make_half(LK_BF16);
  const char *wrong = test_each_allocation(load_half_story, "made", NULL);
  ck_assert_msg(!wrong, "%s", wrong);
}
END_TEST

int main(void) {
  Suite *s = suite_create("peft_foreign");
  TCase *c = tcase_create("peft_foreign");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 240);
  tcase_add_loop_test(c, half_precision, 0, 2);
  tcase_add_test(c, tolerated_tensors);
  tcase_add_test(c, old_file_without_biases);
  tcase_add_test(c, stored_base_weight);
  tcase_add_test(c, tolerated_keys);
  tcase_add_test(c, smallest_config);
  tcase_add_test(c, every_allocation_of_a_foreign_file);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
