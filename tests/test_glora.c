/* test_glora.c: GLoRA: what it is in special cases, every structure computed three ways and settled, W A as in LyCORIS,
 * parameters and first values, refusals. */
#include "adapter_suite.h"

#include <string.h>

enum { GENES = 5 };

static const test_layer wide = {"linear", LK_SITE_LINEAR, 0, 5, 3, {{0}, {0}, {0}, 0}, 3, {2, 3, 5}};
static const test_layer no_bias = {"no bias", LK_SITE_LINEAR, LK_NO_BIAS, 4, 6, {{0}, {0}, {0}, 0}, 2, {3, 4}};

static void start(const char *spec, const test_layer *l) {
  open_model(l, LK_F64, 0);
  lk_attach(model, "default", spec, "site");
  fine(spec);
}

/* A parameter of the adapter, "glora_A.Xd"; NULL if there is none. */
static lk_param *param(const char *name) {
  for (lk_param *p = site->stacks->chain->params; p; p = p->next)
    if (!strcmp(p->name + strlen("block.site."), name)) return p;
  return NULL;
}

static double value(const lk_param *p, int64_t i) { return lk_view_get(&p->value, i); }

/* The base's output, or at x + shift. */
static int base_output(const double *shift, double *y) {
  lk_view v;
  lk_tape_reset(t);
  lk_tensor x = test_input(&data, t), W = lk_site_weight(site, t), b = lk_site_bias(site, t);
  if (shift) x = lk_add(t, x, lk_input(t, LK_F64, 1, (int64_t[]){site->in}, shift));
  lk_get(t, lk_site_base(site, t, x, W, b), &v);
  for (int64_t i = 0; i < lk_view_count(&v); i++) y[i] = lk_view_get(&v, i);
  return (int)lk_view_count(&v);
}

static void same(const char *what, const double *a, const double *b, int n, double tolerance) {
  double error = test_error(a, b, n);
  ck_assert_msg(error < tolerance, "%s: off by %g", what, error);
}

/* ---- special cases ---- */

START_TEST(only_B_is_lora) {
  double y[TEST_MOST], z[TEST_MOST];
  start("glora r=2 A=none C=none D=none E=none", &wide);
  test_perturb_trained(model);
  int n = forward(0, y);
  lk_attach(model, "plain", "lora r=2 alpha=2", "site");
  lk_param *A = site->stacks->next->chain->params;
  lk_param_assign(A, &param("glora_B.Xu")->value);
  lk_param_assign(A->next, &param("glora_B.Xd")->value);
  lk_set_active(model, 1, (const char *const[]){"plain"}, NULL);
  ck_assert_int_eq(forward(0, z), n);
  same("B alone and lora", y, z, n, 1e-14);
}
END_TEST

START_TEST(A_scales_the_weight) {
  double y[TEST_MOST], z[TEST_MOST];
  start("glora A=vector B=none C=none D=none E=none", &wide);
  test_perturb_trained(model);
  int n = forward(0, y);
  base_output(NULL, z);
  for (int i = 0; i < n; i++) {
    int64_t j = i % site->out;
    double b = lk_view_get(&site->bias->value, j);
    z[i] = b + (1 + value(param("glora_A.X"), j)) * (z[i] - b);
  }
  same("A = vector", y, z, n, 1e-14);
}
END_TEST

/* y = gamma ⊙ (W x + b) + beta */
START_TEST(scale_and_shift) {
  double y[TEST_MOST], z[TEST_MOST];
  start("glora A=vector B=none C=none D=vector E=vector", &wide);
  test_perturb_trained(model);
  lk_param_assign(
      param("glora_D.X"),
      &(lk_view){.p = param("glora_A.X")->value.p, .dtype = LK_F64, .ndim = 1, .shape = {site->out}, .stride = {1}});
  int n = forward(0, y);
  base_output(NULL, z);
  for (int i = 0; i < n; i++) {
    int64_t j = i % site->out;
    z[i] = (1 + value(param("glora_A.X"), j)) * z[i] + value(param("glora_E.X"), j);
  }
  same("scale and shift", y, z, n, 1e-14);
}
END_TEST

START_TEST(C_is_added_to_the_input) {
  double y[TEST_MOST], z[TEST_MOST];
  const test_layer *l = _i ? &no_bias : &wide;
  start("glora A=none B=none C=vector D=none E=none", l);
  test_perturb_trained(model);
  int n = forward(0, y);
  ck_assert_int_eq(base_output(param("glora_C.X")->value.p, z), n);
  same("C", y, z, n, 1e-14);
}
END_TEST

/* W' = W + s (W a1 a2 + b1 b2), by hand. */
START_TEST(product) {
  double y[TEST_MOST], W[TEST_MOST], z[TEST_MOST];
  start("glora r=2 a_mode=product alpha=3", &wide);
  test_perturb_trained(model);
  ck_assert_ptr_null(param("glora_E.X"));
  int n = forward(0, y);
  int64_t in = site->in, out = site->out;
  for (int64_t o = 0; o < out; o++)
    for (int64_t i = 0; i < in; i++) {
      double sum = 0;
      for (int64_t k = 0; k < 2; k++) {
        double Wa = 0;
        for (int64_t j = 0; j < in; j++) Wa += value(site->weight, o * in + j) * value(param("glora_A.Xd"), j * 2 + k);
        sum += Wa * value(param("glora_A.Xu"), k * in + i);
        sum += value(param("glora_B.Xd"), o * 2 + k) * value(param("glora_B.Xu"), k * in + i);
      }
      W[o * in + i] = value(site->weight, o * in + i) + 1.5 * sum;
    }
  for (int i = 0; i < n; i++) {
    z[i] = value(site->bias, i % out);
    for (int64_t k = 0; k < in; k++) z[i] += W[i % out * in + k] * lk_view_get(&data.x, i / out * in + k);
  }
  same("product", y, z, n, 1e-14);
}
END_TEST

/* ---- every structure ---- */

/* The i-th genome of the lists that there are. */
static void genome_of(int i, int genome[GENES]) {
  int choices[GENES];
  ck_assert_int_eq(lk_adapter_genes(model, "default", choices), GENES);
  for (int k = 0; k < GENES; i /= choices[k++]) genome[k] = i % choices[k];
}

/* The layer in training as it runs, from the folded weight, merged, and settled to what the structure needs. */
static void check_structure(const char *spec, const test_layer *l, int i) {
  double y[TEST_MOST], z[TEST_MOST];
  int genome[GENES];
  start(spec, l);
  genome_of(i, genome);
  ck_assert_int_eq(lk_adapter_choose(model, "default", genome), LK_OK);
  int64_t cost = lk_adapter_choice_cost(model, "default", genome);
  test_perturb_trained(model);
  int n = forward(3, y);
  ck_assert_int_eq(forward(0, z), n);
  ck_assert(!memcmp(y, z, (size_t)n * sizeof *y));
  lk_tape_reset(t);
  lk_tensor W = lk_site_weight(site, t), b = lk_site_bias(site, t);
  lk_chain_weight(site->stacks->chain, t, &W, &b);
  test_values(t, lk_site_base(site, t, test_input(&data, t), W, b), z);
  same("folded", y, z, n, 1e-13);
  ck_assert_int_eq(lk_adapter_settle(model, "default"), LK_OK);
  ck_assert_int_eq(lk_adapter_count(model, "default"), cost);
  ck_assert_int_eq(lk_adapter_genes(model, "default", NULL), 0);
  forward(0, z);
  ck_assert_msg(!memcmp(y, z, (size_t)n * sizeof *y), "settling changed the output of structure %d", i);
  ck_assert_int_eq(lk_merge(model, NULL), LK_OK);
  forward(0, z);
  same("merged", y, z, n, 1e-13);
  ck_assert_int_eq(lk_unmerge(model), LK_OK);
  fine(spec);
}

START_TEST(structures) {
  for (int i = 0; i < 4 * 4 * 3 * 3 * 3; i++) check_structure("glora r=2 supernet", &wide, i);
}
END_TEST

START_TEST(structures_without_bias) {
  for (int i = 0; i < 6 * 6 * 5 * 3; i++) check_structure("glora r=3 supernet ranks=all", &no_bias, i);
  for (int i = 0; i < 4 * 4; i++) check_structure("glora r=3 supernet allow_new_bias=0", &no_bias, i);
}
END_TEST

/* A genome that was settled is what its static forms are. */
START_TEST(settled_is_static) {
  double y[TEST_MOST], z[TEST_MOST];
  lk_view kept[3];
  static const char *const names[] = {"glora_B.Xd", "glora_B.Xu", "glora_E.X"};
  start("glora r=4 supernet ranks=halves", &wide);
  test_perturb_trained(model);
  ck_assert_int_eq(lk_adapter_choose(model, "default", (const int[]){5, 1, 4, 1, 2}), LK_OK); /* n L2 n n v */
  int n = forward(0, y);
  lk_adapter_settle(model, "default");
  for (int i = 0; i < 3; i++) kept[i] = param(names[i])->value;
  lk_attach(model, "static", "glora r=2 A=none C=none D=none", "site");
  int i = 0;
  for (lk_param *p = site->stacks->next->chain->params; p; p = p->next) lk_param_assign(p, &kept[i++]);
  ck_assert_int_eq(i, 3);
  lk_set_active(model, 1, (const char *const[]){"static"}, NULL);
  forward(0, z);
  same("static", y, z, n, 1e-14);
  ck_assert_int_eq(lk_adapter_count(model, "static"), lk_adapter_count(model, "default"));
}
END_TEST

/* ---- counts, lists, first values ---- */

START_TEST(lists) {
  static const struct {
    const char *spec;
    int with_bias[GENES], without[GENES];
  } rows[] = {{"glora supernet", {4, 4, 3, 3, 3}, {4, 4, 3, 1, 3}},
              {"glora supernet keep_D", {4, 4, 3, 3, 3}, {4, 4, 3, 3, 3}},
              {"glora supernet r=5 ranks=halves", {6, 6, 5, 3, 3}, {6, 6, 5, 1, 3}},
              {"glora supernet r=5 ranks=all", {8, 8, 7, 3, 3}, {8, 8, 7, 1, 3}},
              {"glora supernet allow_new_bias=0", {4, 4, 3, 3, 3}, {4, 4, 1, 1, 1}}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int k = 0; k < 2; k++) {
      int choices[GENES];
      start(rows[i].spec, k ? &no_bias : &wide);
      ck_assert_int_eq(lk_adapter_genes(model, "default", choices), GENES);
      ck_assert_msg(!memcmp(choices, k ? rows[i].without : rows[i].with_bias, sizeof choices), "%s", rows[i].spec);
    }
  start("glora", &wide);
  ck_assert_int_eq(lk_adapter_genes(model, "default", NULL), 0);
}
END_TEST

/* LLaMA-7B's fused projection as the official search counts it, and what is really there. */
START_TEST(counts_of_a_large_layer) {
  const test_layer l = {"llama", LK_SITE_LINEAR, LK_NO_BIAS, 4096, 12288, {{0}, {0}, {0}, 0}, 1, {1}};
  for (int keep = 0; keep < 2; keep++) {
    close_model();
    model = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
    site = test_make_layer(model, &l);
    lk_attach(model, "default", keep ? "glora supernet keep_D" : "glora supernet", "site");
    const int largest[] = {0, 0, 0, keep ? 2 : 0, 2};
    ck_assert_int_eq(32 * lk_adapter_choice_cost(model, "default", largest), keep ? 5505152 : 5111936);
    lk_adapter_choose(model, "default", (const int[]){3, 0, 2, 0, 1}); /* plain LoRA */
    lk_adapter_settle(model, "default");
    ck_assert_int_eq(32 * lk_adapter_count(model, "default"), 2097152);
    fine("shapes");
  }
}
END_TEST

/* Uniform numbers within +-limit that come near it. */
static void check_uniform(const char *name, double limit) {
  const lk_param *p = param(name);
  double largest = 0;
  for (int64_t i = 0; i < lk_param_count(p); i++) largest = fmax(largest, fabs(value(p, i)));
  ck_assert_msg(largest <= limit && largest > 0.8 * limit, "%s: %g, limit %g", name, largest, limit);
}

START_TEST(first_values) {
  const test_layer l = {"large", LK_SITE_LINEAR, 0, 30, 40, {{0}, {0}, {0}, 0}, 1, {30}};
  start("glora r=6", &l);
  check_uniform("glora_A.Xu", sqrt(6.0 / 36));
  check_uniform("glora_B.Xu", sqrt(6.0 / 36));
  check_uniform("glora_C.Xu", sqrt(6.0 / 7));
  start("glora r=6 init=kaiming", &l);
  check_uniform("glora_A.Xu", 1 / sqrt(30));
  check_uniform("glora_C.Xu", 1);
  for (int64_t i = 0; i < 40 * 6; i++) ck_assert(value(param("glora_A.Xd"), i) == 0);
  start("glora r=6 init=random B=vector D=constant", &l);
  check_uniform("glora_A.Xd", 1 / sqrt(6));
  check_uniform("glora_B.X", 1);
  check_uniform("glora_E.X", 1 / sqrt(40));
  ck_assert(fabs(value(param("glora_D.X"), 0)) < 0.1 && value(param("glora_D.X"), 0) != 0);
}
END_TEST

/* ---- refusals ---- */

static void refuse(lk_status status, const char *words) {
  const char *message = "";
  lk_status is = lk_error(ctx, &message);
  ck_assert_msg(is == status && strstr(message, words), "want '%s', got %s: '%s'", words, lk_status_name(is), message);
  lk_error_clear(ctx);
}

START_TEST(refusals) {
  static const char *const rows[][2] = {{"glora r=0", "want "},
                                        {"glora C=constant", "C=constant"},
                                        {"glora D=lora", "D=lora"},
                                        {"glora A=LoRA_4", "A=LoRA_4"},
                                        {"glora a_mode=product supernet", "has no supernet"},
                                        {"glora a_mode=product A=vector", "takes A=lora or A=none"},
                                        {"glora a_mode=product E=vector", "has no E"}};
  open_model(&wide, LK_F64, 0);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    ck_assert_int_eq(lk_attach(model, "default", rows[i][0], "site"), LK_EARG);
    refuse(LK_EARG, rows[i][1]);
  }
  start("glora supernet", &wide);
  lk_adapter_settle(model, "default");
  refuse(LK_EARG, "no structure of glora is chosen at block.site");
  lk_adapter_choose(model, "default", (const int[]){0, 4, 0, 0, 0});
  refuse(LK_EARG, "gene 1");
  lk_adapter_choose(model, "default", (const int[]){0, 0, 0, 0, -1});
  refuse(LK_EARG, "gene 4");
  start("glora", &wide);
  lk_adapter_choose(model, "default", (const int[]){0, 0, 0, 0, 0});
  refuse(LK_EARG, "has no choices");
  ck_assert_int_eq(lk_adapter_settle(model, "default"), LK_OK);
}
END_TEST

int main(void) {
  TCase *c = open_suite("glora");
  tcase_add_test(c, only_B_is_lora);
  tcase_add_test(c, A_scales_the_weight);
  tcase_add_test(c, scale_and_shift);
  tcase_add_loop_test(c, C_is_added_to_the_input, 0, 2);
  tcase_add_test(c, product);
  tcase_add_test(c, structures);
  tcase_add_test(c, structures_without_bias);
  tcase_add_test(c, settled_is_static);
  tcase_add_test(c, lists);
  tcase_add_test(c, counts_of_a_large_layer);
  tcase_add_test(c, first_values);
  tcase_add_test(c, refusals);
  return run_suite();
}
