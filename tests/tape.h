/* tape.h: what the suites of the tape share: a context that counts its memory, a tape, parameters, refusals, and
 * gradients against central differences. */
#ifndef TEST_TAPE_H
#define TEST_TAPE_H
#include "alloc.h"

#include <check.h>
#include <lorikeet/op.h>
#include <lorikeet/ops.h>
#include <math.h>

#define TEST_PARAMS 16

static test_allocator memory;
static lk_ctx *ctx;
static lk_tape *t;
static lk_param *params[TEST_PARAMS];
static int nparams;

static inline void open_tape(void) {
  ctx = test_ctx(&memory, 0);
  t = lk_tape_new(ctx);
  nparams = 0;
  ck_assert_ptr_nonnull(t);
}

/* Frees everything and sees that nothing is left. */
static inline void close_tape(void) {
  lk_tape_free(t);
  for (int i = 0; i < nparams; i++) lk_param_free(params[i]);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(memory.live, 0);
}

/* There is no error. */
static inline void ck_fine(void) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == LK_OK, "%s", message);
}

/* The sticky error is of this status and contains this; clears it. */
static inline void ck_refused(lk_status status, const char *says) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == status, "%s: %s", lk_status_name(lk_error(ctx, NULL)), message);
  ck_assert_msg(strstr(message, says) != NULL, "'%s' does not say '%s'", message, says);
  lk_error_clear(ctx);
}

/* The whole message. */
static inline void ck_message(const char *whole) {
  const char *message;
  lk_error(ctx, &message);
  ck_assert_str_eq(message, whole);
  lk_error_clear(ctx);
}

/* A trained parameter of normal values: shape "2 3"; "" is 0-d.  Owned by the fixture. */
static inline lk_param *make_param(const char *name, const char *shape, lk_dtype dtype) {
  int64_t n[LK_MAXDIM];
  int ndim = 0;
  for (char *end; *shape; shape = end) n[ndim++] = strtoll(shape, &end, 10);
  lk_param *p = lk_param_new(ctx, name, LK_TRAINED, dtype, ndim, n);
  if (p) params[nparams++] = p;
  if (p && lk_dtype_is_real(dtype)) lk_param_normal(p, 0, 1);
  return p;
}

static inline lk_tensor use(int i) { return lk_use(t, params[i]); }

/* A row-major f64 input of made-up numbers. */
static inline lk_tensor make_input(int ndim, const int64_t *shape) {
  lk_view v;
  lk_tensor x = lk_input(t, LK_F64, ndim, shape, NULL);
  if (lk_get(t, x, &v)) return x;
  for (int64_t i = 0; i < lk_view_count(&v); i++) lk_view_set(&v, i, lk_random_normal(lk_key_make(5, "input"), i));
  return x;
}
#define INPUT(...) make_input((int)(sizeof(int64_t[]){__VA_ARGS__} / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

static inline lk_tensor sum_all(lk_tensor x) { return lk_sum(t, x, 0, NULL, 0); }

/* A loss in which every element counts differently: sum x_i sin(i + 1). */
static inline lk_tensor weigh(lk_tensor x) {
  lk_view v, w;
  if (lk_get(t, x, &v)) return lk_nil();
  lk_tensor weight = lk_input(t, v.dtype, v.ndim, v.shape, NULL);
  if (lk_get(t, weight, &w)) return lk_nil();
  for (int64_t i = 0; i < lk_view_count(&w); i++) lk_view_set(&w, i, sin((double)i + 1));
  return sum_all(lk_mul(t, x, weight));
}

static inline double gradient_of(const lk_param *p, int64_t i) {
  lk_view g = p->value;
  g.p = p->grad;
  return p->grad && p->has_grad ? lk_view_get(&g, i) : 0;
}

static inline void zero_grads(void) {
  for (int i = 0; i < nparams; i++) lk_param_zero_grad(params[i]);
}

/* Gradients of all trainable f64 parameters of a story, which returns its loss, against central differences. */
static inline void ck_gradients(lk_tensor (*story)(void)) {
  const double h = 1e-5;
  lk_tape_reset(t);
  zero_grads();
  lk_backward(t, story());
  ck_fine();
  for (int i = 0; i < nparams; i++)
    for (int64_t j = 0; params[i]->requires_grad && j < lk_param_count(params[i]); j++) {
      double *x = (double *)params[i]->value.p + j, was = *x, loss[2];
      for (int side = 0; side < 2; side++) {
        *x = side ? was + h : was - h;
        lk_tape_reset(t);
        loss[side] = lk_item(t, story());
      }
      *x = was;
      ck_fine();
      double number = (loss[1] - loss[0]) / (2 * h), is = gradient_of(params[i], j);
      ck_assert_msg(fabs(is - number) <= 1e-7 * (1 + fabs(number)), "%s [%d] has gradient %.12g, should be %.12g",
                    params[i]->name, (int)j, is, number);
    }
  lk_tape_reset(t);
}

#define SUITE(title)                                                                                                   \
  Suite *suite = suite_create(title);                                                                                  \
  TCase *tcase = tcase_create(title);                                                                                  \
  suite_add_tcase(suite, tcase);                                                                                       \
  tcase_add_checked_fixture(tcase, open_tape, close_tape);                                                             \
  tcase_set_timeout(tcase, 240)

static inline int run_suite(Suite *suite) {
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}

#endif
