/* test_compose.c: chains: every ordered pair of adapters, and a wrapper around every pair, computes the same as its merged
 * weight, or is refused with a reason.  Every option stands before and behind the plainest class, and in single precision
 * only defaults; LK_EXHAUSTIVE=1: every option with every other, in both. */
#include "adapter_suite.h"

static int merged, kept, refused; /* chains, at all layers */

/* "first | second", the second with labels of its own. */
static void pair_text(const test_spec *a, const test_spec *b, char *text, size_t size) {
  int used = snprintf(text, size, "%s", test_spec_text(a, NULL));
  snprintf(text + used, size - (size_t)used, " | %s", test_spec_text(b, "two"));
}

static int same(const char *what, const char *spec, const test_layer *l, const double *a, const double *b, int n,
                double tolerance) {
  double error = test_error(a, b, n);
  ck_assert_msg(error < tolerance, "%s at %s: %s differ by %g", spec, l->name, what, error);
  return 1;
}

/* Output and gradients in training against those of the folded weight. */
static void check_twins(const char *spec, const test_layer *l, double tolerance) {
  double y[TEST_MOST], folded[TEST_MOST], g[4 * TEST_MOST], h[4 * TEST_MOST];
  if (draws()) return;
  int n = forward(1, y);
  backward(1);
  int m = gradients(g);
  zero_grads();
  lk_tape_reset(t);
  lk_train(t, 1, 0);
  lk_tensor W = lk_site_weight(site, t), b = lk_site_bias(site, t);
  lk_chain_weight(site->stacks->chain, t, &W, &b);
  lk_tensor out = lk_site_base(site, t, test_input(&data, t), W, b);
  test_values(t, out, folded);
  lk_backward(t, test_loss(t, out));
  fine(spec);
  same("twins", spec, l, folded, y, n, tolerance);
  ck_assert_int_eq(gradients(h), m);
  same("gradients of twins", spec, l, h, g, m, 10 * tolerance);
}

/* Merging can be refused because of an adapter that is no change of the weight, or for want of a bias. */
static int merge(const char *spec, const test_layer *l, unsigned caps) {
  const char *message;
  if (!lk_merge(model, NULL)) {
    ck_assert_msg(caps & LK_AFFINE, "%s at %s: was merged", spec, l->name);
    return 1;
  }
  lk_error(ctx, &message);
  ck_assert_msg(strstr(message, caps & LK_AFFINE ? "has a bias, and the layer has none" : "cannot be merged") != NULL,
                "%s at %s: %s", spec, l->name, message);
  lk_error_clear(ctx);
  ck_assert_int_eq(lk_is_merged(model), 0);
  return 0;
}

static void check_chain(const char *spec, const test_layer *l, lk_dtype dtype, unsigned caps) {
  double y[TEST_MOST], z[TEST_MOST], tolerance = dtype == LK_F64 ? 1e-10 : 1e-5;
  open_model(l, dtype, 0);
  if (!attach(spec, l)) {
    refused++;
    return;
  }
  test_perturb_trained(model);
  for (int training = 0; training < 2; training++) backward(training);
  int n = forward(0, y);
  fine(spec);
  if (caps & LK_AFFINE && dtype == LK_F64) check_twins(spec, l, 1e-10);
  int ok = merge(spec, l, caps);
  merged += ok;
  kept += !ok;
  ck_assert_int_eq(forward(0, z), n);
  fine(spec);
  same("merged and computed", spec, l, z, y, n, tolerance);
  lk_unmerge(model);
}

/* The chains in which a pair can stand: alone, and, unless it holds a wrapper, in every wrapper. */
static void check_pair(const test_spec *a, const test_spec *b, const test_layer *l, lk_dtype dtype) {
  char pair[700], wrapped[800];
  const lk_adapter_class *k;
  unsigned caps = test_caps(a) & test_caps(b);
  pair_text(a, b, pair, sizeof pair);
  check_chain(pair, l, dtype, caps);
  for (int i = 0; (k = test_class(i)); i++) {
    if (!(k->caps & LK_WRAPPER) || a->inner || b->inner) continue;
    snprintf(wrapped, sizeof wrapped, "%s:around (%s)", k->name, pair);
    check_chain(wrapped, l, dtype, caps & k->caps);
  }
}

/* Is the pair tried?  Pairs of defaults are, unless both are wrappers; the options of one next to `gain`. */
static int is_tried(const test_spec *a, const test_spec *b, lk_dtype dtype) {
  if (getenv("LK_EXHAUSTIVE") || (a->is_default && b->is_default && !(a->inner && b->inner))) return 1;
  if (dtype == LK_F32) return 0;
  return (a->is_default && a->cls == &test_gain) || (b->is_default && b->cls == &test_gain);
}

static void all_pairs(lk_dtype dtype) {
  merged = kept = refused = 0;
  for (int i = 0; i < test_nspecs; i++)
    for (int j = 0; j < test_nspecs; j++) {
      const test_spec *a = &test_specs[i], *b = &test_specs[j];
      for (int k = 0; k < TEST_LAYERS && is_tried(a, b, dtype); k++) check_pair(a, b, &test_layers[k], dtype);
    }
  ck_assert_msg(merged > 200 && kept > 50 && refused > 50, "merged %d, kept %d, refused %d", merged, kept, refused);
}

START_TEST(pairs) { all_pairs(LK_F64); }
END_TEST

START_TEST(pairs_single) { all_pairs(LK_F32); }
END_TEST

int main(void) {
  TCase *c = open_suite("compose");
  tcase_add_test(c, pairs);
  tcase_add_test(c, pairs_single);
  return run_suite();
}
