/* test_optim_class.c: an optimiser of the program's own has the same rights as a built-in one.  This one is Adafactor's
 * idea for matrices, without its schedules: the second moment is kept as one number per row. */
#include "alloc.h"

#include <check.h>
#include <lorikeet/optim.h>

enum { DECAY }; /* in options.own */

/* row = decay row + (1 - decay) mean(grad^2) and theta -= lr grad / sqrt(row), for each row. */
static int update(lk_ctx *ctx, const lk_update *u, int n) {
  for (int k = 0; k < n; k++) {
    double decay = u[k].options->own[DECAY];
    double *x = u[k].param->value.p, *row = u[k].state[0];
    const double *g = u[k].grad;
    int64_t cols = lk_view_cols(&u[k].param->value);
    if (u[k].step > 3) return lk_fail(ctx, LK_EARG, "rows: %s is worn out", u[k].param->name);
    for (int64_t r = 0; r < lk_view_rows(&u[k].param->value); r++) {
      double sum = 0;
      for (int64_t c = 0; c < cols; c++) sum += g[r * cols + c] * g[r * cols + c];
      row[r] = decay * row[r] + (1 - decay) * sum / (double)cols;
      for (int64_t c = 0; c < cols; c++) x[r * cols + c] -= u[k].lr * g[r * cols + c] / sqrt(row[r]);
    }
  }
  return 0;
}

static int shape(const lk_optim_options *options, const lk_param *p, int i, lk_view *v) {
  (void)options, (void)i;
  return !lk_view_init(v, p->value.dtype, 1, (int64_t[]){lk_view_rows(&p->value)});
}

static const lk_optim_option options[] = {
    LK_OPTIM_COMMON(0.5, 0),
    {"decay", LK_OPTIM_REAL, offsetof(lk_optim_options, own[DECAY]), 0.75, 0, 1, "of the second moment"},
    {0},
};
static const lk_optim_class rows = {.name = "rows",
                                    .summary = "one rate per row",
                                    .state = {"row"},
                                    .options = options,
                                    .shape = shape,
                                    .update = update};

START_TEST(test_own_class) {
  test_allocator a;
  lk_ctx *ctx = test_ctx(&a, 0);
  lk_param *p = lk_param_new(ctx, "p", LK_TRAINED, LK_F64, 2, (int64_t[]){2, 2});
  lk_optim_options o = lk_optim_defaults(&rows);
  ck_assert(o.lr == 0.5 && o.own[DECAY] == 0.75 && o.skip_without_grad == 1);
  o.own[DECAY] = 1;
  ck_assert_ptr_null(lk_optim_new(ctx, &rows, &o, &p, 1));
  const char *why;
  lk_error(ctx, &why);
  ck_assert_str_eq(why, "rows: decay = 1 is outside [0, 1)");
  lk_error_clear(ctx);

  lk_optim *opt = lk_optim_new(ctx, &rows, NULL, &p, 1);
  p->grad = lk_alloc(ctx, 4 * sizeof(double));
  memcpy(p->grad, (double[]){1, -1, 4, 4}, 4 * sizeof(double));
  p->has_grad = 1;
  ck_assert_int_eq(lk_step(opt), LK_OK);
  const lk_optim_state *row = lk_optim_state_at(opt, 1);
  ck_assert_str_eq(row->name, "p.row");
  ck_assert(row->view.ndim == 1 && row->view.shape[0] == 2);
  ck_assert(((double *)row->view.p)[0] == 0.25 && ((double *)row->view.p)[1] == 4);
  ck_assert(memcmp(p->value.p, (double[]){-1, 1, -1, -1}, 4 * sizeof(double)) == 0);

  for (int i = 0; i < 3; i++) { /* the update may refuse */
    p->has_grad = 1;
    ck_assert_int_eq(lk_step(opt), i < 2 ? LK_OK : LK_EARG);
  }
  lk_error(ctx, &why);
  ck_assert_str_eq(why, "rows: p is worn out");
  ck_assert_int_eq(lk_optim_step_count(opt), 3);
  lk_optim_free(opt);
  lk_param_free(p);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(a.live, 0);
}
END_TEST

int main(void) {
  Suite *s = suite_create("optim_class");
  TCase *t = tcase_create("optim_class");
  suite_add_tcase(s, t);
  tcase_add_test(t, test_own_class);
  SRunner *runner = srunner_create(s);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
