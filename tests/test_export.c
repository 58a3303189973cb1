/* test_export.c: adapters of other methods written as plain LoRAs: read back they compute the same. */
#include "adapters.h"
#include "peft.h"

/* thin: W' = W + B A of rank r at each site, 0 allowed */
typedef struct {
  int r, none;
} thin_config;
typedef struct {
  lk_param *A, *B;
} thin_state;
static const lk_opt thin_options[] = {{"r", LK_OPT_INT, offsetof(thin_config, r), 1, 0, 9, NULL, "rank"},
                                      {"none", LK_OPT_FLAG, offsetof(thin_config, none), 0, 0, 1, NULL, "nil factors"},
                                      {0}};
static lk_status thin_attach(lk_at *at) {
  thin_state *s = at->st;
  int64_t r = ((const thin_config *)at->cfg)->r;
  s->A = lk_at_param(at, "A", LK_TRAINED, 2, (int64_t[]){r, at->site->in});
  s->B = lk_at_param(at, "B", LK_TRAINED, 2, (int64_t[]){at->site->out, r});
  return lk_error(lk_at_ctx(at), NULL);
}
static lk_status thin_factors(lk_at *at, lk_tape *tape, lk_tensor *A, lk_tensor *B) {
  thin_state *s = at->st;
  if (((const thin_config *)at->cfg)->none) return LK_OK;
  *A = lk_use(tape, s->A);
  *B = lk_use(tape, s->B);
  return lk_error(lk_at_ctx(at), NULL);
}
static lk_status thin_weight(lk_at *at, lk_tape *tape, lk_tensor *W, lk_tensor *b) {
  thin_state *s = at->st;
  const thin_config *g = at->cfg;
  (void)b;
  if (g->r && !g->none) *W = lk_add(tape, *W, lk_matmul(tape, lk_use(tape, s->B), lk_use(tape, s->A)));
  return lk_error(lk_at_ctx(at), NULL);
}
static const lk_adapter_class thin = {.name = "thin",
                                      .summary = "a product of any rank",
                                      .cite = "the tests",
                                      .sites = LK_SITE_LINEAR,
                                      .caps = LK_AFFINE | LK_NOOP_AT_START,
                                      .cfg_size = sizeof(thin_config),
                                      .site_size = sizeof(thin_state),
                                      .opts = thin_options,
                                      .attach = thin_attach,
                                      .weight = thin_weight,
                                      .factors = thin_factors};

/* ---- there and back ---- */

typedef struct {
  lk_attach_options options;
  const char *key, *value; /* one key of the config, as compact JSON */
} story;

#define OVER(...)                                                                                                      \
  .overrides = (const lk_override[]){__VA_ARGS__},                                                                     \
  .noverrides = sizeof((lk_override[]){__VA_ARGS__}) / sizeof(lk_override)

static const story stories[] = {
    {{.spec = "mlae r=3", .targets = "q_proj,v_proj"}, "target_modules", "[\"q_proj\",\"v_proj\"]"},
    {{.spec = "mlae r=5 alpha=0.3 p=0.5 dropout=0.1", .targets = "fc1", .name = "other"}, "lora_alpha", "5"},
    {{.spec = "mlae r=4 mask=mixed p=0.5", .targets = "fc?", .exclude = "0.fc1"}, "lora_dropout", "0.0"},
    {{.spec = "mlae r=4 mask=fixed ratio=0.75 depth=decremental", .targets = "re:.*fc2"}, "rank_pattern", "{}"},
    {{.spec = "mlae r=2", .targets = "fc1", .modules_to_save = "classifier", .bias = LK_BIAS_ADAPTED},
     "bias",
     "\"lora_only\""},
    {{.spec = "mlae r=2", .targets = "fc1,fc2", OVER({"1.fc1", "r=3"}, {"2.fc2", "r=6"})},
     "rank_pattern",
     "{\"^encoder\\\\.layers\\\\.1\\\\.fc1\":3,\"^encoder\\\\.layers\\\\.2\\\\.fc2\":6}"},
    {{.spec = "mlae r=2", .targets = "fc1", OVER({"1.fc1", "r=3"})},
     "alpha_pattern",
     "{\"^encoder\\\\.layers\\\\.1\\\\.fc1\":3}"},
    {{.spec = "lora r=3 alpha=7 rslora", .targets = "out_proj,embed"}, "use_rslora", "false"},
    {{.spec = "lora r=3 dropout=0.5", .targets = "out_proj"}, "r", "3"},
    {{.spec = "thin r=3", .targets = "fc1", OVER({"0.fc1", "r=0"}, {"2.fc1", "none"})},
     "rank_pattern",
     "{\"^encoder\\\\.layers\\\\.1\\\\.fc1\":3}"},
};
enum { STORIES = sizeof stories / sizeof *stories };

static tiny stirred(lk_dtype dtype, const lk_attach_options *o) {
  tiny m = tiny_new(ctx, dtype);
  if (m.model) lk_adapter_register(m.model, &thin);
  if (m.model && o && !lk_attach_with(m.model, o)) tiny_stir(m.model, o->name ? o->name : "default");
  return m;
}

static void check_key(const char *path, const char *key, const char *want) {
  lk_json *j = lk_json_read(ctx, path);
  char *got = lk_json_dump(ctx, lk_json_get(j, key), LK_JSON_COMPACT);
  fine();
  ck_assert_msg(!strcmp(got, want), "%s is %s, want %s", key, got, want);
  lk_free(ctx, got);
  lk_json_free(j);
}

static void there_and_back(const story *s, lk_dtype dtype, double tolerance) {
  tiny m = stirred(dtype, &s->options), n = stirred(dtype, NULL);
  fine();
  lk_view before = output(&n), y;
  void *y0 = malloc(lk_view_bytes(&before));
  memcpy(y0, before.p, lk_view_bytes(&before));
  before.p = y0;
  lk_adapter_export_lora(m.model, s->options.name, "a", "some/base");
  fine();
  check_key("a/adapter_config.json", "peft_type", "\"LORA\"");
  check_key("a/adapter_config.json", "base_model_name_or_path", "\"some/base\"");
  check_key("a/adapter_config.json", s->key, s->value);
  lk_adapter_load(n.model, "plain", "a", 1);
  fine();
  ck_assert_str_eq(lk_adapter_find(n.model, "plain")->chain->cls->name, "lora");
  y = output(&n);
  ck_assert_double_gt(difference(&y, &before), 1e-3);
  memcpy(y0, y.p, lk_view_bytes(&y));
  y = output(&m);
  ck_assert_double_lt(difference(&y, &before), tolerance);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  free(y0);
  lk_model_free(m.model);
  lk_model_free(n.model);
}

START_TEST(same_double) { there_and_back(&stories[_i], LK_F64, 1e-12); }
END_TEST
START_TEST(same_single) { there_and_back(&stories[_i], LK_F32, 1e-6); }
END_TEST

/* A second export of what was read is the same to the bit. */
START_TEST(exported_again) {
  tiny m = stirred(LK_F32, &stories[5].options), n = stirred(LK_F32, NULL);
  ck_assert_int_eq(lk_adapter_export_lora(m.model, NULL, "a", NULL), LK_OK);
  ck_assert_int_eq(lk_adapter_load(n.model, NULL, "a", 0), LK_OK);
  ck_assert_int_eq(lk_adapter_export_lora(n.model, NULL, "b", NULL), LK_OK);
  static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};
  for (int i = 0; i < 2; i++) {
    char a[80], b[80];
    size_t na, nb;
    snprintf(a, sizeof a, "a/%s", files[i]);
    snprintf(b, sizeof b, "b/%s", files[i]);
    unsigned char *x = test_get(a, &na), *y = test_get(b, &nb);
    ck_assert_msg(na == nb && !memcmp(x, y, na), "%s differs", files[i]);
    free(x);
    free(y);
  }
  lk_model_free(m.model);
  lk_model_free(n.model);
}
END_TEST

/* Every kind of layer at which lora gives its factors. */
START_TEST(every_layer) {
  double y[TEST_MOST], z[TEST_MOST];
  const test_layer *l = &test_layers[_i];
  lk_model *m = lk_model_new(ctx, LK_F64, 0), *n = lk_model_new(ctx, LK_F64, 0);
  lk_site *from = test_make_layer(m, l), *to = test_make_layer(n, l);
  test_data d;
  test_data_make(&d, l, LK_F64);
  lk_attach(m, NULL, "lora r=2 alpha=5", "site");
  test_perturb_trained(m);
  lk_adapter_export_lora(m, NULL, "a", NULL);
  lk_adapter_load(n, NULL, "a", 0);
  fine();
  lk_tape_reset(t);
  int count = test_values(t, lk_site_forward(from, t, test_input(&d, t)), y);
  ck_assert_int_eq(test_values(t, lk_site_forward(to, t, test_input(&d, t)), z), count);
  ck_assert_double_lt(test_error(z, y, count), 1e-12);
  lk_model_free(m);
  lk_model_free(n);
}
END_TEST

/* ---- refusals ---- */

static const struct {
  const char *spec, *words;
} refusals[] = {{"mlae | magnitude", "'mlae | magnitude' is a chain"},
                {"bias", "the change that bias makes is no product"},
                {"dropout (mlae)", "the change that dropout makes is no product"},
                {"lora bias", "with bias=1, as at encoder.layers.0.fc1"},
                {"lora init=pissa r=2", "lora has put another base weight into encoder.layers.0.fc1"}};
enum { REFUSALS = sizeof refusals / sizeof *refusals };

START_TEST(refused) {
  tiny m = stirred(LK_F64, &(lk_attach_options){.spec = refusals[_i].spec, .targets = "fc1"});
  fine();
  ck_assert_int_eq(lk_adapter_export_lora(m.model, NULL, "a", NULL), LK_EARG);
  expect(refusals[_i].words);
  ck_assert_int_eq(lk_file_exists("a/adapter_config.json"), 0);
  lk_model_free(m.model);
}
END_TEST

START_TEST(refused_early) {
  tiny m = stirred(LK_F64, &(lk_attach_options){.spec = "mlae", .targets = "fc1"});
  ck_assert_int_eq(lk_adapter_export_lora(NULL, NULL, "a", NULL), LK_ENIL);
  ck_assert_int_eq(lk_adapter_export_lora(m.model, NULL, NULL, NULL), LK_ENIL);
  expect("export_lora: dir is NULL");
  ck_assert_int_eq(lk_adapter_export_lora(m.model, "no", "a", NULL), LK_EARG);
  expect("export_lora: there is no adapter 'no'");
  ck_assert_int_eq(lk_merge(m.model, NULL), LK_OK);
  ck_assert_int_eq(lk_adapter_export_lora(m.model, NULL, "a", NULL), LK_EARG);
  expect("export_lora: the model is merged");
  lk_model_free(m.model);
}
END_TEST

/* ---- allocations ---- */

static lk_status export_once(lk_ctx *c, void *arg) {
  (void)arg;
  lk_model *m = lk_model_new(c, LK_F64, 0);
  lk_linear_new(lk_model_root(m), "a", 3, 2, 0);
  lk_linear_new(lk_model_root(m), "b", 3, 2, 0);
  const lk_override one = {"b", "r=3"};
  lk_attach_options o = {.spec = "mlae r=2 mask=mixed p=0.5", .targets = "a,b", .overrides = &one, .noverrides = 1};
  if (!lk_error(c, NULL) && !lk_attach_with(m, &o)) lk_adapter_export_lora(m, NULL, "a", NULL);
  lk_model_free(m);
  return lk_error(c, NULL);
}

START_TEST(no_memory) {
  uint64_t count;
  const char *why = test_each_allocation(export_once, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 100);
}
END_TEST

int main(void) {
  Suite *s = suite_create("export");
  TCase *c = tcase_create("export");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 300);
  tcase_add_loop_test(c, same_double, 0, STORIES);
  tcase_add_loop_test(c, same_single, 0, STORIES);
  tcase_add_test(c, exported_again);
  tcase_add_loop_test(c, every_layer, 0, TEST_LAYERS);
  tcase_add_loop_test(c, refused, 0, REFUSALS);
  tcase_add_test(c, refused_early);
  tcase_add_test(c, no_memory);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
