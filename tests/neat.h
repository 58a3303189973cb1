/* neat.h: what the suites of NEAT share: an adapted layer, its parameters, passes without gradients. */
#ifndef TEST_NEAT_H
#define TEST_NEAT_H
#include "adapter_suite.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

enum { WIDE = 0, NO_BIAS = 1, FLIPPED = 2, LARGER = 4 }; /* among test_layers */

static inline void start(const char *spec, int layer) {
  open_model(&test_layers[layer], LK_F64, 0);
  lk_attach(model, "default", spec, "site");
  fine(spec);
  test_perturb_trained(model);
}

static inline lk_param *param(const char *name) {
  for (const lk_at *a = site->stacks->chain; a; a = a->next)
    for (lk_param *p = a->params; p; p = p->next)
      if (!strcmp(strstr(p->name, "site.") + 5, name)) return p;
  ck_abort_msg("there is no %s", name);
}

static inline void assign(const char *name, const double *values) {
  lk_view v = param(name)->value;
  memcpy(&v.p, &values, sizeof values);
  lk_param_assign(param(name), &v);
  fine(name);
}

static inline void close_to(const double *a, const double *b, int n, double most, const char *what) {
  ck_assert_msg(test_error(a, b, n) <= most, "%s: off by %g", what, test_error(a, b, n));
}

static inline double flops(void) { return lk_tape_statistics(t).flops; }

/* Output without gradients, and what it cost. */
static inline double unrecorded(double *y, int *n) {
  lk_tape_reset(t);
  lk_no_grad(t, 1);
  *n = test_values(t, lk_site_forward(site, t, test_input(&data, t)), y);
  lk_no_grad(t, 0);
  fine("unrecorded");
  return flops();
}

#endif
