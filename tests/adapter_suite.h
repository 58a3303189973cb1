/* adapter_suite.h: what the suites of adapters share: a model of one layer, attaching, forward and backward. */
#ifndef TEST_ADAPTER_SUITE_H
#define TEST_ADAPTER_SUITE_H
#include "adapters.h"

static test_allocator heap;
static lk_ctx *ctx;
static lk_model *model;
static lk_site *site;
static lk_tape *t;
static test_data data;
static char refusal[400]; /* what attach said last */

static inline void setup(void) {
  ctx = test_ctx(&heap, 0);
  t = lk_tape_new(ctx);
}

static inline void close_model(void) {
  lk_model_free(model);
  model = NULL;
}

static inline void teardown(void) {
  close_model();
  lk_tape_free(t);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static inline void fine(const char *what) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s: %s", what, message);
}

static inline void open_model(const test_layer *l, lk_dtype dtype, int flags) {
  close_model();
  model = lk_model_new(ctx, dtype, flags);
  site = test_make_layer(model, l);
  test_register(model);
  fine(l->name);
  test_data_make(&data, l, dtype);
}

/* Attaches a spec; 0 when that is refused, which must be with a sentence that begins with who refuses. */
static inline int attach(const char *spec, const test_layer *l) {
  const char *message;
  if (!lk_attach(model, "default", spec, "site")) return 1;
  lk_status status = lk_error(ctx, &message);
  ck_assert_msg(status == LK_EARG && strlen(message) > 20, "%s at %s: %s", spec, l->name, message);
  ck_assert_ptr_null(site->stacks);
  snprintf(refusal, sizeof refusal, "%s", message);
  lk_error_clear(ctx);
  return 0;
}

/* The layer's output as doubles, in training or evaluation; its size. */
static inline int forward(int training, double values[TEST_MOST]) {
  lk_tape_reset(t);
  if (training) lk_train(t, (uint64_t)training, 0);
  return test_values(t, lk_site_forward(site, t, test_input(&data, t)), values);
}

static inline double loss_now(int training) {
  lk_tape_reset(t);
  if (training) lk_train(t, (uint64_t)training, 0);
  return lk_item(t, test_loss(t, lk_site_forward(site, t, test_input(&data, t))));
}

static inline void zero_grads(void) {
  int n;
  lk_param **p = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) lk_param_zero_grad(p[i]);
  lk_free(ctx, p);
}

static inline void backward(int training) {
  zero_grads();
  lk_tape_reset(t);
  if (training) lk_train(t, (uint64_t)training, 0);
  lk_backward(t, test_loss(t, lk_site_forward(site, t, test_input(&data, t))));
}

/* Gradients of what trains, one after the other; their number. */
static inline int gradients(double values[TEST_MOST * 4]) {
  int n, used = 0;
  lk_param **p = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) {
    lk_view g = p[i]->value;
    g.p = p[i]->grad;
    for (int64_t k = 0; p[i]->has_grad && k < lk_param_count(p[i]) && used < 4 * TEST_MOST; k++)
      values[used++] = lk_view_get(&g, k);
  }
  lk_free(ctx, p);
  return used;
}

/* Does a training pass draw anything?  (A few dropped elements can be the same twice.) */
static inline int draws(void) {
  double a[TEST_MOST], b[TEST_MOST];
  int n = forward(1, a), differ = 0;
  for (int step = 2; step < 30 && !differ; step++) {
    forward(step, b);
    differ = memcmp(a, b, (size_t)n * sizeof *a) != 0;
  }
  return differ;
}

/* ---- the suite: tests are added to what open_suite returns ---- */

static Suite *suite;

static inline TCase *open_suite(const char *name) {
  TCase *c = tcase_create(name);
  suite = suite_create(name);
  test_specs_make();
  tcase_set_timeout(c, 900);
  tcase_add_checked_fixture(c, setup, teardown);
  suite_add_tcase(suite, c);
  return c;
}

/* main's result */
static inline int run_suite(void) {
  SRunner *r = srunner_create(suite);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}

#endif
