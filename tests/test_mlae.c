/* test_mlae.c: MLAE's masks: drawn, fixed and mixed, by depth, in chains; similarity of experts; counts. */
#include "adapters.h"
#include "files.h"

enum { LAYERS = 5, IN = 6, OUT = 4, ROWS = 3 };

static test_allocator heap;
static lk_ctx *ctx;
static lk_model *model;
static lk_linear_layer *query[LAYERS], *value[LAYERS];
static lk_tape *t;

static void open_model(lk_ctx *c) {
  char path[40];
  ctx = c;
  model = lk_model_new(ctx, LK_F64, 0);
  for (int i = 0; i < LAYERS; i++) {
    snprintf(path, sizeof path, "encoder.layer.%d.query", 3 * i + 7); /* numbers need not begin at 0 */
    query[i] = lk_linear_new(lk_model_root(model), path, IN, OUT, 0);
    strcpy(strrchr(path, '.'), ".value");
    value[i] = lk_linear_new(lk_model_root(model), path, IN, OUT, 0);
  }
  t = lk_tape_new(ctx);
}

static void close_model(void) {
  lk_tape_free(t);
  lk_model_free(model);
  t = NULL;
  model = NULL;
}

static void setup(void) {
  test_directory();
  open_model(test_ctx(&heap, 0));
}

static void teardown(void) {
  close_model();
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
  test_directory_remove();
}

static void fine(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
}

static void expect(const char *words) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) != LK_OK, "no error; want '%s'", words);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' should say '%s'", message, words);
  lk_error_clear(ctx);
}

static void attach(const char *spec, const char *targets) {
  lk_attach(model, NULL, spec, targets);
  fine();
  test_perturb_trained(model);
}

static lk_at *chain_of(const lk_linear_layer *l) { return l->module.site->stacks->chain; }

static lk_param *param(const lk_linear_layer *l, const char *name) {
  lk_param *p = chain_of(l)->params;
  while (p && strcmp(p->name + strlen(l->module.path) + 1, name)) p = p->next;
  return p;
}

static lk_tensor input(void) {
  double x[ROWS * IN];
  for (int i = 0; i < ROWS * IN; i++) x[i] = test_number("x", i);
  return lk_input(t, LK_F64, 2, (int64_t[]){ROWS, IN}, x);
}

/* Output of a layer in training step `step`, or with 0 in evaluation. */
static lk_tensor run(lk_linear_layer *l, uint64_t step) {
  lk_tape_reset(t);
  if (step) lk_train(t, step, 0);
  return lk_linear_forward(l, t, input());
}

/* y = x W^T + b + sum_k c_k (x . a_k) b_k by hand; the largest difference. */
static double off(lk_linear_layer *l, lk_tensor y, const double *c, int r) {
  lk_param *A = param(l, "mlae_A.weight"), *B = param(l, "mlae_B.weight");
  double x[ROWS * IN], got[ROWS * OUT], error = 0;
  for (int i = 0; i < ROWS * IN; i++) x[i] = test_number("x", i);
  ck_assert_int_eq(test_values(t, y, got), ROWS * OUT);
  for (int n = 0; n < ROWS; n++)
    for (int o = 0; o < OUT; o++) {
      double want = lk_view_get(&l->bias->value, o);
      for (int i = 0; i < IN; i++) want += x[n * IN + i] * lk_view_get(&l->weight->value, o * IN + i);
      for (int k = 0; k < r; k++)
        for (int i = 0; i < IN; i++)
          want += c[k] * x[n * IN + i] * lk_view_get(&A->value, k * IN + i) * lk_view_get(&B->value, k * OUT + o);
      error = fmax(error, fabs(want - got[n * OUT + o]));
    }
  return error;
}

/* ---- drawn masks ---- */

/* The experts that a training step keeps, by which of A's rows get a gradient, as bits. */
static unsigned kept(lk_linear_layer *l, uint64_t step, int r) {
  lk_param *A = param(l, "mlae_A.weight"), *B = param(l, "mlae_B.weight"), *lambda = param(l, "mlae_lambda");
  unsigned bits = 0;
  lk_param_zero_grad(A), lk_param_zero_grad(B), lk_param_zero_grad(lambda);
  lk_backward(t, lk_sum(t, run(l, step), 0, NULL, 0));
  fine();
  for (int k = 0; k < r; k++) {
    double *a = (double *)A->grad + k * IN, *b = (double *)B->grad + k * OUT, c = ((double *)lambda->grad)[k];
    int on = c != 0;
    for (int i = 0; i < IN; i++) ck_assert_int_eq(a[i] != 0, on);
    for (int i = 0; i < OUT; i++) ck_assert_int_eq(b[i] != 0, on);
    bits |= (unsigned)on << k;
  }
  return bits;
}

static void coefficients(const lk_linear_layer *l, unsigned bits, double scale, double *c, int r) {
  for (int k = 0; k < r; k++) c[k] = bits >> k & 1 ? scale * lk_view_get(&param(l, "mlae_lambda")->value, k) : 0;
}

/* Whole experts are dropped, the rest is scaled up; evaluation has all of them; every layer and step draws its own. */
START_TEST(stochastic) {
  double c[8];
  int on = 0, same_step = 0, same_layer = 0;
  enum { STEPS = 400 };
  unsigned before = 0;
  attach("mlae r=8 p=0.25", "query");
  for (uint64_t step = 1; step <= STEPS; step++) {
    unsigned bits = kept(query[0], step, 8);
    coefficients(query[0], bits, 1 / 0.75, c, 8);
    ck_assert_double_lt(off(query[0], run(query[0], step), c, 8), 1e-12);
    for (int k = 0; k < 8; k++) on += bits >> k & 1;
    same_step += bits == before;
    same_layer += bits == kept(query[1], step, 8);
    before = bits;
  }
  ck_assert_double_lt(fabs(on / (8. * STEPS) - 0.75), 0.03); /* four standard deviations */
  ck_assert_int_lt(same_step, STEPS / 4);
  ck_assert_int_lt(same_layer, STEPS / 4);
  coefficients(query[0], 255, 1, c, 8);
  ck_assert_double_lt(off(query[0], run(query[0], 0), c, 8), 1e-12);
}
END_TEST

/* All experts may be dropped at once: then the layer is what it was. */
START_TEST(all_dropped) {
  double c[2] = {0, 0};
  int found = 0;
  attach("mlae r=2 p=0.8", "query");
  for (uint64_t step = 1; step < 100; step++) {
    if (kept(query[0], step, 2)) continue;
    found++;
    ck_assert_double_lt(off(query[0], run(query[0], step), c, 2), 1e-12);
  }
  ck_assert_int_gt(found, 30);
}
END_TEST

/* The weight of a training pass is the one that its output is made with, so what stands behind it sees the mask too. */
START_TEST(weight_has_the_mask) {
  double y[ROWS * OUT], z[ROWS * OUT];
  attach("mlae r=4 p=0.5 mask=mixed ratio=0.3", "query");
  lk_site *s = query[2]->module.site;
  for (uint64_t step = 1; step < 20; step++) {
    test_values(t, run(query[2], step), y);
    lk_tensor W = lk_site_weight(s, t), b = lk_site_bias(s, t);
    lk_chain_weight(s->stacks->chain, t, &W, &b);
    test_values(t, lk_site_base(s, t, input(), W, b), z);
    fine();
    ck_assert_double_lt(test_error(z, y, ROWS * OUT), 1e-12);
  }
}
END_TEST

/* Two of them in a chain, and two adapters, draw apart. */
START_TEST(draws_apart) {
  double y[ROWS * OUT], z[ROWS * OUT];
  int differ = 0;
  attach("mlae:a r=6 p=0.5 | mlae:b r=6 p=0.5", "query");
  lk_param *a = chain_of(query[0])->params, *b = chain_of(query[0])->next->params;
  for (; a; a = a->next, b = b->next) lk_param_assign(b, &a->value); /* twice the same experts */
  for (uint64_t step = 1; step < 20; step++) {
    test_values(t, run(query[0], step), y);
    lk_tape_reset(t);
    lk_train(t, step, 0);
    lk_tensor base = lk_linear(t, input(), lk_use(t, query[0]->weight), lk_use(t, query[0]->bias));
    lk_at first = *chain_of(query[0]);
    lk_tensor once = first.method->cls->delta(&first, t, input(), lk_nil());
    test_values(t, lk_add(t, base, lk_scale(t, once, 2)), z);
    fine();
    differ += test_error(z, y, ROWS * OUT) > 1e-6;
  }
  ck_assert_int_gt(differ, 10);
}
END_TEST

/* ---- fixed masks ---- */

static int experts_in(const lk_linear_layer *l) {
  const lk_param *f = param(l, "mlae_mask");
  int n = 0;
  for (int64_t k = 0; k < lk_param_count(f); k++) {
    double v = lk_view_get(&f->value, k);
    ck_assert(v == 0 || v == 1);
    n += v != 0;
  }
  return n;
}

static unsigned fixed_bits(const lk_linear_layer *l) {
  unsigned bits = 0;
  for (int64_t k = 0; k < lk_param_count(param(l, "mlae_mask")); k++)
    bits |= (lk_view_get(&param(l, "mlae_mask")->value, k) != 0) << k;
  return bits;
}

START_TEST(fixed) {
  double c[8];
  int differ = 0;
  attach("mlae r=8 mask=fixed ratio=0.4", "query");
  for (int i = 0; i < LAYERS; i++) {
    ck_assert_int_eq(experts_in(query[i]), 4); /* 8 * 0.6, rounded down */
    differ += fixed_bits(query[i]) != fixed_bits(query[0]);
    coefficients(query[i], fixed_bits(query[i]), 1, c, 8);
    for (uint64_t step = 0; step < 4; step++) ck_assert_double_lt(off(query[i], run(query[i], step), c, 8), 1e-12);
  }
  ck_assert_int_gt(differ, 0);
  ck_assert_int_eq(lk_adapter_count(model, "default"), LAYERS * (8 * (IN + OUT) + 8));
}
END_TEST

START_TEST(mixed) {
  double c[8];
  int fewer = 0;
  attach("mlae r=8 mask=mixed ratio=0.25 p=0.5", "query");
  unsigned there = fixed_bits(query[0]);
  for (uint64_t step = 1; step < 30; step++) {
    unsigned bits = kept(query[0], step, 8);
    ck_assert_uint_eq(bits & ~there, 0);
    fewer += bits != there;
    coefficients(query[0], bits, 2, c, 8);
    ck_assert_double_lt(off(query[0], run(query[0], step), c, 8), 1e-12);
  }
  ck_assert_int_gt(fewer, 20);
  coefficients(query[0], there, 1, c, 8);
  ck_assert_double_lt(off(query[0], run(query[0], 0), c, 8), 1e-12);
}
END_TEST

static lk_status assign(lk_param *p, int64_t n, const double *values) {
  lk_view v;
  lk_view_init(&v, LK_F64, 1, &n);
  v.p = (void *)values;
  return lk_param_assign(p, &v);
}

/* A mask of the user's own; a file gives back the mask that it was saved with. */
START_TEST(own_mask) {
  static const double mine[] = {0, 1, 1}, none[] = {0, 0, 0};
  double c[3], y[ROWS * OUT], z[ROWS * OUT];
  attach("mlae r=3 mask=fixed", "query");
  ck_assert_int_ne(assign(param(query[1], "mlae_mask"), 2, mine), LK_OK);
  expect("encoder.layer.10.query.mlae_mask");
  ck_assert_int_eq(assign(param(query[1], "mlae_mask"), 3, mine), LK_OK);
  coefficients(query[1], 6, 1, c, 3);
  ck_assert_double_lt(off(query[1], run(query[1], 0), c, 3), 1e-12);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  assign(param(query[2], "mlae_mask"), 3, none);
  for (int i = 0; i < 3; i++) coefficients(query[2], 0, 1, c, 3), off(query[2], run(query[2], 0), c, 3);
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "encoder.layer.13.query removes every expert"));
  test_values(t, run(query[1], 0), y);
  ck_assert_int_eq(lk_adapter_save(model, NULL, "saved", NULL), LK_OK);
  lk_detach(model, "default");
  ck_assert_int_eq(lk_adapter_load(model, NULL, "saved", 1), LK_OK);
  ck_assert_uint_eq(fixed_bits(query[1]), 6);
  test_values(t, run(query[1], 0), z);
  ck_assert_int_eq(memcmp(y, z, sizeof y), 0);
}
END_TEST

START_TEST(warns_of_empty_layers) {
  attach("mlae r=3 mask=fixed ratio=1", "encoder.layer.7.query");
  ck_assert_int_eq(experts_in(query[0]), 0);
  run(query[0], 1);
  ck_assert_int_eq(lk_warning_count(ctx), 1);
}
END_TEST

/* ---- depth ---- */

static const struct {
  const char *depth;
  int experts[LAYERS]; /* of 10, at ratio 0.8 */
} patterns[] = {{"uniform", {2, 2, 2, 2, 2}},
                {"incremental", {2, 4, 6, 8, 10}},
                {"decremental", {10, 8, 6, 4, 2}},
                {"hourglass", {10, 6, 2, 6, 10}},
                {"protruding", {2, 6, 10, 6, 2}}};

/* Both layers of a block have its number; so do the drop rates. */
START_TEST(depth) {
  char spec[80];
  snprintf(spec, sizeof spec, "mlae r=10 mask=mixed ratio=0.8 p=0.5 depth=%s", patterns[_i].depth);
  attach(spec, "query,value");
  for (int i = 0; i < LAYERS; i++) {
    ck_assert_int_eq(experts_in(query[i]), patterns[_i].experts[i]);
    ck_assert_int_eq(experts_in(value[i]), patterns[_i].experts[i]);
  }
}
END_TEST

START_TEST(depth_of_rates) {
  char spec[80];
  snprintf(spec, sizeof spec, "mlae r=10 p=0.8 depth=%s", patterns[_i].depth);
  attach(spec, "query");
  for (int i = 0; i < LAYERS; i++) {
    int on = 0;
    for (uint64_t step = 1; step <= 100; step++)
      for (unsigned bits = kept(query[i], step, 10); bits; bits &= bits - 1) on++;
    ck_assert_double_lt(fabs(on / 100. - patterns[_i].experts[i]), 0.7);
  }
}
END_TEST

/* Without numbers every site is a layer; a single one is the first. */
START_TEST(depth_without_numbers) {
  static const char *const names[] = {"a", "b", "c4", "d"};
  lk_linear_layer *l[4];
  for (int i = 0; i < 4; i++) l[i] = lk_linear_new(lk_model_root(model), names[i], IN, OUT, 0);
  attach("mlae r=9 mask=fixed ratio=1 depth=incremental", "a,b,c4,d");
  for (int i = 0; i < 4; i++) ck_assert_int_eq(experts_in(l[i]), 3 * i);
  lk_detach(model, "default");
  attach("mlae r=9 mask=fixed ratio=0.5 depth=incremental", "b");
  ck_assert_int_eq(experts_in(l[1]), 4);
}
END_TEST

/* ---- similarity ---- */

static void set(lk_param *p, const double *values) {
  for (int64_t i = 0; i < lk_param_count(p); i++) lk_view_set(&p->value, i, values[i]);
  lk_param_touch(p);
}

/* Experts 0 and 1: the same up to length and sign; 2: half alike in a, so in all; 3: zero. */
START_TEST(similarity) {
  static const double a[4 * IN] = {1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1};
  static const double b[4 * OUT] = {0, 3, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0}, c[] = {1, -2, 4, 0};
  static const double want[] = {1, -1, 0.5, 0, -1, 1, -0.5, 0, 0.5, -0.5, 1, 0, 0, 0, 0, 0};
  int64_t r;
  int sites;
  attach("mlae r=4", "encoder.layer.7.query");
  set(param(query[0], "mlae_A.weight"), a);
  set(param(query[0], "mlae_B.weight"), b);
  set(param(query[0], "mlae_lambda"), c);
  double *cosines = lk_at_cosines(chain_of(query[0]), &r);
  ck_assert_int_eq(r, 4);
  ck_assert_double_lt(test_error(cosines, want, 16), 1e-15);
  lk_free(ctx, cosines);
  ck_assert_double_lt(fabs(lk_method_similarity(chain_of(query[0])->method, &sites) - 4. / 12), 1e-15);
  ck_assert_int_eq(sites, 1);
  char *notes = lk_adapter_notes(model, "default");
  ck_assert_str_eq(notes, "similarity of two experts 0.333 (mean |cosine|)");
  lk_free(ctx, notes);
}
END_TEST

/* At the start nothing is similar, and one expert has no other to be like. */
START_TEST(no_similarity) {
  int sites = 7;
  int64_t r = 7;
  lk_attach(model, NULL, "mlae r=3", "query");
  ck_assert_double_eq(lk_method_similarity(chain_of(query[0])->method, &sites), 0);
  ck_assert_int_eq(sites, LAYERS);
  lk_detach(model, "default");
  attach("mlae r=1", "query");
  ck_assert_double_eq(lk_method_similarity(chain_of(query[0])->method, &sites), 0);
  ck_assert_int_eq(sites, 0);
  char *notes = lk_adapter_notes(model, "default");
  ck_assert_str_eq(notes, "");
  lk_free(ctx, notes);
  lk_detach(model, "default");
  attach("bias", "query");
  ck_assert_ptr_null(lk_at_cosines(chain_of(query[0]), &r));
  expect("bias at encoder.layer.7.query has no rank-one terms");
  ck_assert_int_eq(r, 0);
}
END_TEST

/* ---- refusals, counts, memory ---- */

static const struct {
  const char *spec, *words;
} refusals[] = {{"mlae p=1", "p = 1 leaves every expert out"},
                {"mlae dropout=1", "dropout = 1 leaves nothing"},
                {"mlae mask=fixed p=0.5", "mask=mixed does both"},
                {"mlae r=0", "mlae: r"},
                {"mlae p=-0.1", "mlae: p"},
                {"mlae p=1.5", "mlae: p"},
                {"mlae dropout=-1", "mlae: dropout"}};

START_TEST(refused) {
  ck_assert_int_eq(lk_attach(model, NULL, refusals[_i].spec, "query"), LK_EARG);
  expect(refusals[_i].words);
}
END_TEST

static const struct {
  const char *names; /* of a layer's linear layers */
  int64_t out;
  const char *spec;
  int64_t count;
} counts[] = {{"qkv", 3 * 768, "mlae r=8", 295008}, /* ViT-B/16 */
              {"query value key", 768, "mlae r=8", 442656},
              {"qkv", 3 * 768, "mlae r=8 mask=mixed p=0.5 ratio=0.5", 295008}};

START_TEST(vit_counts) {
  char path[60], names[60];
  lk_model *m = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
  for (int i = 0; i < 12; i++) {
    strcpy(names, counts[_i].names);
    for (char *name = strtok(names, " "); name; name = strtok(NULL, " ")) {
      snprintf(path, sizeof path, "blocks.%d.%s", i, name);
      lk_linear_new(lk_model_root(m), path, 768, counts[_i].out, 0);
    }
  }
  ck_assert_int_eq(lk_attach(m, NULL, counts[_i].spec, "blocks.*"), LK_OK);
  ck_assert_int_eq(lk_adapter_count(m, "default"), counts[_i].count);
  char *notes = lk_adapter_notes(m, "default");
  fine();
  ck_assert_str_eq(notes, "");
  lk_free(ctx, notes);
  lk_model_free(m);
}
END_TEST

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  open_model(c);
  if (!lk_error(c, NULL) && !lk_attach(model, NULL, "mlae r=2 p=0.5 mask=mixed depth=hourglass", "query")) {
    lk_tape_reset(t);
    lk_train(t, 1, 0);
    lk_backward(t, lk_sum(t, lk_linear_forward(query[1], t, input()), 0, NULL, 0));
    lk_free(c, lk_adapter_notes(model, "default"));
  }
  close_model();
  return lk_error(c, NULL);
}

START_TEST(no_memory) {
  uint64_t count;
  const char *why = test_each_allocation(story, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 100);
}
END_TEST

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

int main(void) {
  Suite *s = suite_create("mlae");
  TCase *c = tcase_create("mlae"), *bare = tcase_create("memory");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(bare, 300);
  tcase_add_test(c, stochastic);
  tcase_add_test(c, all_dropped);
  tcase_add_test(c, weight_has_the_mask);
  tcase_add_test(c, draws_apart);
  tcase_add_test(c, fixed);
  tcase_add_test(c, mixed);
  tcase_add_test(c, own_mask);
  tcase_add_test(c, warns_of_empty_layers);
  tcase_add_loop_test(c, depth, 0, COUNT(patterns));
  tcase_add_loop_test(c, depth_of_rates, 0, COUNT(patterns));
  tcase_add_test(c, depth_without_numbers);
  tcase_add_test(c, similarity);
  tcase_add_test(c, no_similarity);
  tcase_add_loop_test(c, refused, 0, COUNT(refusals));
  tcase_add_loop_test(c, vit_counts, 0, COUNT(counts));
  tcase_add_test(bare, no_memory);
  suite_add_tcase(s, c);
  suite_add_tcase(s, bare);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
