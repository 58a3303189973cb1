/* test_ia3.c: (IA)^3: outputs and inputs scaled, HuggingFace PEFT's IA3 directories there and back, refusals. */
#include "adapters.h"
#include "peft.h"

/* ---- what it computes ---- */

/* y = l * (W x + b), with ff W (l * x) + b, in numbers that can be seen through. */
START_TEST(by_hand) {
  static const double W[] = {1, 2, 3, 4, 5, 6}, b[] = {10, 20}, x[] = {1, -1, 2}, l[] = {2, 3, 5};
  static const double want[2][2] = {{2 * 15, 3 * 31}, {2 - 6 + 30 + 10, 8 - 15 + 60 + 20}};
  for (int ff = 0; ff < 2; ff++) {
    double y[2];
    lk_model *m = lk_model_new(ctx, LK_F64, 0);
    lk_linear_layer *layer = lk_linear_new(lk_model_root(m), "a", 3, 2, 0);
    for (int i = 0; i < 6; i++) lk_view_set(&layer->weight->value, i, W[i]);
    for (int i = 0; i < 2; i++) lk_view_set(&layer->bias->value, i, b[i]);
    ck_assert_int_eq(lk_attach(m, NULL, ff ? "ia3 ff" : "ia3", "a"), LK_OK);
    ck_assert_int_eq(lk_adapter_count(m, "default"), 2 + ff);
    lk_param *p = layer->module.site->stacks->chain->params;
    for (int i = 0; i < 2 + ff; i++) lk_view_set(&p->value, i, l[i]);
    lk_tape_reset(t);
    ck_assert_int_eq(test_values(t, lk_linear_forward(layer, t, lk_input(t, LK_F64, 1, (int64_t[]){3}, x)), y), 2);
    fine();
    ck_assert(y[0] == want[ff][0] && y[1] == want[ff][1]);
    lk_model_free(m);
  }
}
END_TEST

/* ---- files ---- */

#define OVER(...)                                                                                                      \
  .overrides = (const lk_override[]){__VA_ARGS__},                                                                     \
  .noverrides = sizeof((lk_override[]){__VA_ARGS__}) / sizeof(lk_override)

static const struct {
  lk_attach_options options;
  const char *type, *modules; /* feedforward_modules as compact JSON */
} stories[] = {{{.spec = "ia3", .targets = "k_proj,v_proj"}, "\"IA3\"", "[]"},
               {{.spec = "ia3", .targets = "k_proj,fc2", OVER({"fc2", "ff"})}, "\"IA3\"", "[\"fc2\"]"},
               {{.spec = "ia3 ff", .targets = "fc1", .modules_to_save = "classifier"}, "\"IA3\"", "[\"fc1\"]"},
               {{.spec = "ia3 ff", .targets = "fc1,fc2", OVER({"1.fc2", "ff=0"})},
                "\"IA3\"",
                "\"encoder\\\\.layers\\\\.0\\\\.fc1|encoder\\\\.layers\\\\.0\\\\.fc2|encoder\\\\.layers\\\\.1\\\\.fc1|"
                "encoder\\\\.layers\\\\.2\\\\.fc1|encoder\\\\.layers\\\\.2\\\\.fc2\""},
               {{.spec = "ia3", .targets = "re:.*(q_proj|fc2)", OVER({"re:.*2.fc2", "ff"})},
                "\"IA3\"",
                "\"encoder\\\\.layers\\\\.2\\\\.fc2\""},
               {{.spec = "ia3", .targets = "fc1", .bias = LK_BIAS_ADAPTED}, "\"LORIKEET\"", NULL},
               {{.spec = "ia3", .targets = "fc1", .layers = (const int[]){1}, .nlayers = 1}, "\"LORIKEET\"", NULL},
               {{.spec = "ia3 | bias", .targets = "fc1"}, "\"LORIKEET\"", NULL}};
enum { STORIES = sizeof stories / sizeof *stories };

static void check_key(const char *key, const char *want) {
  lk_json *j = lk_json_read(ctx, "a/adapter_config.json");
  char *got = lk_json_dump(ctx, lk_json_get(j, key), LK_JSON_COMPACT);
  fine();
  ck_assert_msg(!strcmp(got, want), "%s is %s, want %s", key, got, want);
  lk_free(ctx, got);
  lk_json_free(j);
}

START_TEST(there_and_back) {
  tiny m = open_tiny("interchange_basic"), n = open_tiny("interchange_basic");
  lk_attach_with(m.model, &stories[_i].options);
  tiny_stir(m.model, "default");
  lk_adapter_save(m.model, NULL, "a", NULL);
  fine();
  check_key("peft_type", stories[_i].type);
  if (stories[_i].modules) check_key("feedforward_modules", stories[_i].modules);
  lk_adapter_load(n.model, "other", "a", 1);
  fine();
  lk_view y = output(&m);
  void *y0 = malloc(lk_view_bytes(&y));
  memcpy(y0, y.p, lk_view_bytes(&y));
  y = output(&n);
  ck_assert_int_eq(memcmp(y0, y.p, lk_view_bytes(&y)), 0);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  free(y0);
  lk_model_free(m.model);
  lk_model_free(n.model);
}
END_TEST

static const struct {
  const char *modules, *words;
} wrong[] = {{"7", "feedforward_modules must be a list of strings or a string"},
             {"[\"fc1\", 3]", "feedforward_modules must be a list of strings, not"},
             {"[\"f*\"]", "feedforward_modules: 'f*' cannot be the name of a module"}};
enum { WRONG = sizeof wrong / sizeof *wrong };

START_TEST(wrong_config) {
  tiny m = open_tiny("interchange_basic");
  lk_attach(m.model, NULL, "ia3", "fc1");
  lk_adapter_save(m.model, NULL, "a", NULL);
  lk_detach(m.model, "default");
  lk_json *j = lk_json_read(ctx, "a/adapter_config.json");
  lk_json_set(ctx, j, "feedforward_modules",
              lk_json_parse(ctx, wrong[_i].modules, strlen(wrong[_i].modules), "modules"));
  lk_json_write(ctx, "a/adapter_config.json", j, 0);
  lk_json_free(j);
  fine();
  lk_adapter_load(m.model, NULL, "a", 0);
  expect(wrong[_i].words);
  ck_assert_ptr_null(lk_adapter_first(m.model));
  lk_model_free(m.model);
}
END_TEST

/* ---- refusals and memory ---- */

START_TEST(refused) {
  tiny m = open_tiny("interchange_basic");
  ck_assert_int_eq(lk_attach(m.model, NULL, "lora | ia3 ff", "fc1"), LK_EARG);
  expect("ia3 comes first in its chain");
  ck_assert_int_eq(lk_attach(m.model, NULL, "ia3", "embed"), LK_EARG);
  expect("ia3 cannot adapt encoder.embed, which is an embedding");
  lk_conv2d_new(lk_model_root(m.model), "conv", 4, 2, (int64_t[]){3, 3}, &(lk_conv2d_options){.groups = 2}, 0);
  ck_assert_int_eq(lk_attach(m.model, NULL, "ia3 ff", "conv"), LK_EARG);
  expect("a convolution in 2 groups");
  ck_assert_int_eq(lk_attach(m.model, NULL, "ia3", "conv"), LK_OK);
  lk_model_free(m.model);
}
END_TEST

static lk_status save_and_load(lk_ctx *c, void *arg) {
  (void)arg;
  lk_model *m = lk_model_new(c, LK_F64, 0);
  lk_linear_new(lk_model_root(m), "a", 3, 2, 0);
  lk_linear_new(lk_model_root(m), "b", 3, 2, 0);
  const lk_override one = {"b", "ff"};
  lk_attach_options o = {.spec = "ia3", .targets = "re:a|b", .overrides = &one, .noverrides = 1};
  if (!lk_error(c, NULL) && !lk_attach_with(m, &o) && !lk_adapter_save(m, NULL, "a", NULL))
    lk_adapter_load(m, "again", "a", 0);
  lk_model_free(m);
  return lk_error(c, NULL);
}

START_TEST(no_memory) {
  const char *why = test_each_allocation(save_and_load, NULL, NULL);
  ck_assert_msg(!why, "%s", why);
}
END_TEST

int main(void) {
  Suite *s = suite_create("ia3");
  TCase *c = tcase_create("ia3");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 300);
  tcase_add_test(c, by_hand);
  tcase_add_loop_test(c, there_and_back, 0, STORIES);
  tcase_add_loop_test(c, wrong_config, 0, WRONG);
  tcase_add_test(c, refused);
  tcase_add_test(c, no_memory);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
