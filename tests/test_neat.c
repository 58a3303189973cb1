/* test_neat.c: NEAT: what can be proved of it, counts, search over activations, files. */
#include "files.h"
#include "neat.h"
#include "tiny.h"

#include <lorikeet/io.h>

/* The change of the weight from the exact factors, [out, in]; *H: the generated one. */
static int change(double *values, double *H) {
  lk_tensor A, B;
  lk_tape_reset(t);
  site->stacks->chain->method->cls->factors(site->stacks->chain, t, &A, &B);
  if (H) test_values(t, lk_at_option(site->stacks->chain, "orientation", 0) != 0 ? B : A, H);
  return test_values(t, lk_matmul(t, B, A), values);
}

/* ---- what can be proved ---- */

static const char *const networks[] = {"neat r=3 scaling=0.7",
                                       "neat r=9 act=sin init=random",
                                       "neat r=2 depth=2 act=gelu residual=none",
                                       "neat r=3 depth=1 act=sigmoid",
                                       "neat r=2 depth=3 act=mish scaling=-2",
                                       "neat r=4 orientation=in act=tanh",
                                       "neat r=2 depth=2 act=laplace orientation=in scaling=0.5"};
static const int places[] = {WIDE, NO_BIAS, FLIPPED, LARGER};

/* An update of rank r: a LoRA with the same factors computes the same, and the weight changes by their product. */
START_TEST(is_a_lora) {
  for (int k = 0; k < COUNT(places); k++) {
    double y[TEST_MOST], z[TEST_MOST], before[TEST_MOST], after[TEST_MOST];
    char spec[60];
    lk_tensor A, B;
    lk_view a, b;
    start(networks[_i], places[k]);
    int n = forward(0, y), r = (int)lk_at_option(site->stacks->chain, "r", 0);
    lk_at *at = site->stacks->chain;
    snprintf(spec, sizeof spec, "lora r=%d alpha=%d", r, r);
    lk_attach(model, "plain", spec, "site");
    lk_tape_reset(t);
    at->method->cls->factors(at, t, &A, &B);
    lk_get(t, A, &a);
    lk_get(t, B, &b);
    lk_param_assign(site->stacks->next->chain->params, &a);
    lk_param_assign(site->stacks->next->chain->params->next, &b);
    int m = change(after, NULL);
    lk_set_active(model, 1, (const char *const[]){"plain"}, NULL);
    forward(0, z);
    close_to(z, y, n, 1e-13, networks[_i]);
    lk_set_active(model, 1, (const char *const[]){"default"}, NULL);
    lk_tape_reset(t);
    test_values(t, lk_site_weight(site, t), before);
    lk_merge(model, NULL);
    lk_tape_reset(t);
    test_values(t, lk_site_weight(site, t), z);
    for (int i = 0; i < m; i++) z[i] -= before[i];
    close_to(z, after, m, 1e-14, networks[_i]);
    lk_unmerge(model);
    fine(networks[_i]);
  }
}
END_TEST

/* B = 0 gives the base, bit for bit. */
START_TEST(zero_is_the_base) {
  double y[TEST_MOST], z[TEST_MOST];
  start(networks[_i], LARGER);
  lk_param_fill(param("peanut_B.weight"), 0);
  int n = forward(0, y);
  lk_set_active(model, 0, NULL, NULL);
  forward(0, z);
  ck_assert(!memcmp(y, z, (size_t)n * sizeof *y));
}
END_TEST

/* A weight that begins with the identity is undone by P = [1 0] or its transpose; any update of rank 2 is had with 4
 * hidden units, since relu(v) - relu(-v) = v; with act=linear 2 are enough. */
static void check_construction(int in, int linear, const test_layer *l) {
  const int64_t out = l->out, width = l->in, side = in ? width : out, r = linear ? 2 : 4;
  double a[2 * 16], b[2 * 16], A[4 * 16] = {0}, B[4 * 16] = {0}, want[TEST_MOST], got[TEST_MOST];
  char spec[80];
  snprintf(spec, sizeof spec, "neat r=%d act=%s orientation=%s", (int)r, linear ? "linear" : "relu", in ? "in" : "out");
  start(spec, (int)(l - test_layers));
  for (int64_t o = 0; o < out; o++)
    for (int64_t i = 0; i < width; i++)
      if (o < width && i < out) lk_view_set(&site->weight->value, o * width + i, o == i);
  lk_param_touch(site->weight);
  for (int i = 0; i < 2 * 16; i++) a[i] = test_number("a", i), b[i] = test_number("b", i);
  for (int64_t k = 0; k < r; k++)
    for (int64_t j = 0; j < side; j++) {
      double sign = k < 2 ? 1 : -1, *lora_A = &a[k % 2 * width], *lora_B = &b[k % 2]; /* [2, in], [out, 2] */
      if (j < (in ? out : width)) A[k * side + j] = sign * (in ? lora_B[2 * j] : lora_A[j]);
      B[j * r + k] = sign * (in ? lora_A[j] : lora_B[2 * j]);
    }
  assign("peanut_A.weight", A);
  assign("peanut_B.weight", B);
  for (int64_t o = 0; o < out; o++)
    for (int64_t i = 0; i < width; i++) want[o * width + i] = b[2 * o] * a[i] + b[2 * o + 1] * a[width + i];
  close_to(got, want, change(got, NULL), 1e-14, spec);
}

START_TEST(contains_lora) {
  check_construction(0, 0, &test_layers[LARGER]); /* out >= in */
  check_construction(0, 1, &test_layers[NO_BIAS]);
  check_construction(1, 0, &test_layers[WIDE]); /* in >= out */
  check_construction(1, 1, &test_layers[WIDE]);
}
END_TEST

/* ReLU's factor has no negative element, so that r units alone are not every update of rank r. */
START_TEST(relu_is_not_negative) {
  double values[TEST_MOST], H[TEST_MOST];
  int positive = 0;
  start("neat r=5", LARGER);
  change(values, H);
  for (int i = 0; i < 5 * 10; i++) {
    ck_assert(H[i] >= 0);
    positive += H[i] > 0;
  }
  ck_assert_int_gt(positive, 10);
}
END_TEST

/* Hidden units may change places; at depth 0 a factor may move from A to B if the activation lets it. */
START_TEST(hidden_units) {
  static const char *const scaled[] = {"neat r=2", "neat r=2 act=leaky_relu", "neat r=2 act=linear orientation=in"};
  for (int k = 0; k < COUNT(scaled) + 1; k++) {
    double before[TEST_MOST], after[TEST_MOST], c = k < COUNT(scaled) ? 3 : 1;
    start(k < COUNT(scaled) ? scaled[k] : "neat r=2 act=gelu", LARGER);
    int n = change(before, NULL);
    lk_view A = param("peanut_A.weight")->value, B = param("peanut_B.weight")->value;
    int64_t side = A.shape[1];
    for (int64_t j = 0; j < side; j++) {
      double a = lk_view_get(&A, j), b = lk_view_get(&B, 2 * j);
      lk_view_set(&A, j, c * lk_view_get(&A, side + j));
      lk_view_set(&B, 2 * j, lk_view_get(&B, 2 * j + 1) / c);
      lk_view_set(&A, side + j, a);
      lk_view_set(&B, 2 * j + 1, b);
    }
    change(after, NULL);
    close_to(after, before, n, 1e-14, "permuted and rescaled");
  }
}
END_TEST

/* ---- counting ---- */

static void add_layers(lk_module *root, int blocks, int n, const int64_t (*size)[2]) {
  for (int i = 0; i < blocks; i++) {
    char name[20];
    snprintf(name, sizeof name, "layer%d", i);
    lk_module *block = lk_module_new(root, name, "block", sizeof *block);
    for (int k = 0; k < n; k++) {
      snprintf(name, sizeof name, "m%d", k);
      lk_linear_new(block, name, size[k][0], size[k][1], LK_NO_BIAS);
    }
  }
}

START_TEST(counts) {
  static const struct {
    const char *spec;
    int blocks, n;
    int64_t size[5][2], count;
  } known[] = {
      {"neat r=7 depth=0",
       12,
       2,
       {{768, 768}, {768, 768}},
       258048}, /* ViT-B/16, RoBERTa base, LLaMA2-7B, Llama-3.2-3B */
      {"neat r=8", 12, 2, {{768, 768}, {768, 768}}, 294912},
      {"neat r=1", 8, 2, {{768, 768}, {768, 768}}, 24576},
      {"neat r=32 depth=0 orientation=in",
       32,
       5,
       {{4096, 4096}, {4096, 4096}, {4096, 4096}, {4096, 11008}, {11008, 4096}},
       56098816},
      {"peanut r=32", 28, 2, {{3072, 3072}, {3072, 1024}}, 7340032},
      {"neat r=1 act=gelu", 28, 2, {{3072, 3072}, {3072, 1024}}, 229376},
      {"neat r=3 depth=2 search", 1, 1, {{10, 20}}, 2 * 3 * 20 + 4 * 9},
      {"neat r=3 depth=2 orientation=in", 1, 1, {{10, 20}}, 2 * 3 * 10 + 4 * 9},
  };
  close_model();
  model = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
  add_layers(lk_model_root(model), known[_i].blocks, known[_i].n, known[_i].size);
  lk_attach(model, "default", known[_i].spec, "all-linear");
  fine(known[_i].spec);
  ck_assert_int_eq(lk_adapter_count(model, "default"), known[_i].count);
}
END_TEST

/* ---- search ---- */

START_TEST(search) {
  static const char *const first[] = {"relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "mish", "sin", "linear"};
  double y[TEST_MOST], want[TEST_MOST];
  char spec[80];
  int choices = 0, n = 0;
  start("neat r=3 depth=1 search", LARGER);
  ck_assert_int_eq(lk_adapter_genes(model, "default", NULL), 1);
  ck_assert_int_eq(lk_adapter_genes(model, "default", &choices), 1);
  ck_assert_int_eq(choices, COUNT(first));
  ck_assert_int_eq(draws(), 1);
  for (int i = 0; i < choices; i++) {
    start("neat r=3 depth=1 search", LARGER);
    lk_adapter_choose(model, "default", &i);
    ck_assert_int_eq(draws(), 0);
    unrecorded(y, &n); /* keeps another activation's factor than the next one must use */
    lk_adapter_choose(model, "default", (int[]){(i + 1) % choices});
    unrecorded(y, &n);
    lk_adapter_choose(model, "default", &i);
    unrecorded(y, &n);
    ck_assert_int_eq(lk_adapter_choice_cost(model, "default", &i), 2 * 3 * 12 + 2 * 9);
    lk_adapter_settle(model, "default");
    ck_assert_int_eq(lk_adapter_count(model, "default"), 2 * 3 * 12 + 2 * 9);
    char *notes = lk_adapter_notes(model, "default");
    snprintf(spec, sizeof spec, "activations of 1 layers: %s 1", first[i]);
    ck_assert_str_eq(notes, spec);
    lk_free(ctx, notes);
    snprintf(spec, sizeof spec, "neat r=3 depth=1 act=%s", first[i]);
    start(spec, LARGER);
    ck_assert_int_eq(lk_adapter_genes(model, "default", NULL), 0);
    forward(1, want);
    close_to(y, want, n, 0, spec);
  }
}
END_TEST

/* Free again, and the option's activation in evaluation; a wrong choice. */
START_TEST(search_open) {
  double y[TEST_MOST], want[TEST_MOST];
  start("neat r=3 act=swish search", LARGER);
  lk_adapter_choose(model, "default", (int[]){4});
  lk_adapter_choose(model, "default", NULL);
  ck_assert_int_eq(draws(), 1);
  int n = forward(0, y);
  char *notes = lk_adapter_notes(model, "default");
  ck_assert_str_eq(notes, "activations of 1 layers: open 1");
  lk_free(ctx, notes);
  ck_assert_int_eq(lk_adapter_choose(model, "default", (int[]){9}), LK_EARG);
  lk_error_clear(ctx);
  start("neat r=3 act=swish", LARGER);
  forward(0, want);
  close_to(y, want, n, 0, "open");
}
END_TEST

/* ---- files ---- */

static void tiny_values(const tiny *m, double *y) {
  lk_tape_reset(t);
  test_values(t, tiny_forward(m, t, lk_input(t, LK_I64, 2, (int64_t[]){2, 3}, (int64_t[]){1, 4, 2, 9, 0, 3})), y);
  fine("tiny");
}

static const struct {
  lk_attach_options o;
  const char *config; /* a part of the config's text */
} saved[] = {
    {{.spec = "neat r=3 depth=2 act=gelu_new scaling=0.5", .targets = "q_proj,v_proj"}, "\"act_fn\": \"gelu_new\""},
    {{.spec = "peanut", .targets = "fc1"}, "\"scaling\": 1.0"},
    {{.spec = "neat r=1 scaling=32 init=random", .targets = "fc1"}, "\"init_weights\": false"},
    {{.spec = "neat r=2", .targets = "re:.*\\.(q_proj|fc2)", .modules_to_save = "classifier"},
     "\"peft_type\": \"PEANUT\""},
    {{.spec = "neat r=2", .targets = "fc1", .layers = (int[]){0, 2}, .nlayers = 2}, "\"peft_type\": \"PEANUT\""},
    {{.spec = "neat r=2", .targets = "all-linear", .exclude = "fc1,classifier"}, "\"peft_type\": \"PEANUT\""},
    {{.spec = "neat r=2 orientation=in", .targets = "fc1"}, "LORIKEET"}, /* what PEFT cannot hold */
    {{.spec = "neat r=2 residual=none depth=1", .targets = "fc1"}, "LORIKEET"},
    {{.spec = "neat r=2 act=sin", .targets = "fc1"}, "LORIKEET"},
    {{.spec = "neat:mine r=2", .targets = "fc1"}, "LORIKEET"},
    {{.spec = "neat r=2 | magnitude", .targets = "fc1"}, "LORIKEET"},
    {{.spec = "neat r=2 search", .targets = "fc1"}, "LORIKEET"},
    {{.spec = "neat r=2", .targets = "fc1", .bias = LK_BIAS_ADAPTED}, "LORIKEET"},
    {{.spec = "neat r=2", .targets = "fc1,fc2", .overrides = (lk_override[]){{"fc2", "r=3"}}, .noverrides = 1},
     "LORIKEET"},
};

START_TEST(there_and_back) {
  double y[TEST_MOST], z[TEST_MOST];
  tiny a = tiny_new(ctx, LK_F64), b = tiny_new(ctx, LK_F64);
  test_directory();
  lk_attach_with(a.model, &saved[_i].o);
  fine(saved[_i].o.spec);
  tiny_stir(a.model, "default");
  int searched = lk_adapter_genes(a.model, "default", NULL);
  if (searched) lk_adapter_choose(a.model, "default", (int[]){2, 4, 8});
  tiny_values(&a, y);
  lk_adapter_save(a.model, "default", "out", NULL);
  char *text = lk_file_read_text(ctx, "out/adapter_config.json", 1 << 20, NULL);
  ck_assert_msg(text && strstr(text, saved[_i].config), "%s: %s", saved[_i].o.spec, text);
  ck_assert(strstr(text, "LORIKEET") || !strstr(text, "\"bias\""));
  lk_free(ctx, text);
  lk_adapter_load(b.model, "other", "out", 1);
  fine(saved[_i].o.spec);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  tiny_values(&b, z);
  close_to(z, y, 8, 0, saved[_i].o.spec);
  ck_assert_int_eq(lk_adapter_count(b.model, "other"), lk_adapter_count(a.model, "default"));
  lk_model_free(a.model);
  lk_model_free(b.model);
  test_directory_remove();
}
END_TEST

#define CONFIG(more) "{\"peft_type\": \"PEANUT\", \"target_modules\": [\"fc1\"]" more "}"

static const struct {
  const char *config, *words;
} refused[] = {
    {CONFIG(", \"act_fn\": \"prelu\""), "act_fn 'prelu' has parameters of its own"},
    {CONFIG(", \"act_fn\": \"sin\""), "PEFT has no act_fn 'sin'"},
    {CONFIG(", \"act_fn\": \"softsign\""), "there is no activation 'softsign'"},
    {CONFIG(", \"act_fn\": 3"), "act_fn"},
    {CONFIG(", \"r\": 0"), "neat: r"},
    {CONFIG(", \"depth\": -1"), "neat: depth"},
    {CONFIG(", \"depth\": 33"), "neat: depth"},
    {CONFIG(", \"r\": \"8\""), "\"r\" must be"},
    {CONFIG(", \"scaling\": \"1\""), "\"scaling\" must be"},
    {CONFIG(", \"layers_pattern\": \"layers\""), "layers_pattern without layers_to_transform"},
    {"{\"peft_type\": \"PEANUT\", \"target_modules\": [\"embed\"]}", "neat cannot adapt encoder.embed"},
    {"{\"peft_type\": \"PEANUT\"}", "target_modules is missing"},
};

START_TEST(configs_refused) {
  const char *message;
  test_directory();
  tiny m = tiny_new(ctx, LK_F32);
  lk_make_dirs(ctx, "made");
  lk_attach(m.model, "default", "neat r=2", "fc1");
  lk_adapter_save(m.model, "default", "made", NULL);
  lk_detach(m.model, "default");
  test_put("made/adapter_config.json", refused[_i].config, strlen(refused[_i].config));
  fine("made");
  ck_assert_int_ne(lk_adapter_load(m.model, NULL, "made", 1), LK_OK);
  lk_error(ctx, &message);
  ck_assert_msg(strstr(message, refused[_i].words) != NULL, "'%s' should say '%s'", message, refused[_i].words);
  ck_assert_ptr_null(lk_adapter_first(m.model));
  lk_error_clear(ctx);
  lk_model_free(m.model);
  test_directory_remove();
}
END_TEST

/* A file of ours with a choice that does not exist. */
START_TEST(choice_refused) {
  const char *message;
  test_directory();
  start("neat r=2 search", WIDE);
  lk_param_fill(param("peanut_act"), 9);
  lk_adapter_save(model, "default", "out", NULL);
  lk_detach(model, "default");
  fine("saved");
  ck_assert_int_eq(lk_adapter_load(model, "default", "out", 1), LK_EFORMAT);
  lk_error(ctx, &message);
  ck_assert_msg(strstr(message, "holds activation number 9; there are 9") != NULL, "%s", message);
  lk_error_clear(ctx);
  test_directory_remove();
}
END_TEST

/* ---- failing memory ---- */

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  lk_tape *tape = lk_tape_new(c);
  lk_model *m = lk_model_new(c, LK_F32, 0);
  lk_linear_layer *l = lk_linear_new(lk_model_root(m), "site", 6, 5, 0);
  lk_attach(m, "default", "neat r=2 depth=1 act=gelu search", "site");
  for (int pass = 0; pass < 4 && !lk_error(c, NULL); pass++) {
    lk_tape_reset(tape);
    if (!pass) lk_train(tape, 0, 0);
    lk_no_grad(tape, pass > 0);
    if (pass == 3) lk_adapter_choose(m, "default", (int[]){3});
    lk_tensor y = lk_linear_forward(l, tape, lk_input(tape, LK_F32, 2, (int64_t[]){3, 6}, NULL));
    if (!pass) lk_backward(tape, lk_sum(tape, y, 0, NULL, 0));
  }
  if (!lk_error(c, NULL)) lk_free(c, lk_adapter_notes(m, "default"));
  lk_merge(m, NULL);
  lk_unmerge(m);
  lk_model_free(m);
  lk_tape_free(tape);
  return lk_error(c, NULL);
}

START_TEST(every_allocation) {
  uint64_t count;
  const char *why = test_each_allocation(story, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 50);
}
END_TEST

int main(void) {
  TCase *c = open_suite("neat");
  tcase_add_loop_test(c, is_a_lora, 0, COUNT(networks));
  tcase_add_loop_test(c, zero_is_the_base, 0, COUNT(networks));
  tcase_add_test(c, contains_lora);
  tcase_add_test(c, relu_is_not_negative);
  tcase_add_test(c, hidden_units);
  tcase_add_loop_test(c, counts, 0, 8);
  tcase_add_test(c, search);
  tcase_add_test(c, search_open);
  tcase_add_loop_test(c, there_and_back, 0, COUNT(saved));
  tcase_add_loop_test(c, configs_refused, 0, COUNT(refused));
  tcase_add_test(c, choice_refused);
  tcase_add_test(c, every_allocation);
  return run_suite();
}
