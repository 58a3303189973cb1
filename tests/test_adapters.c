/* test_adapters.c: what every adapter class must keep to, built in or a user's, at every kind of layer: nothing here
 * names a class. */
#include "adapter_suite.h"

/* Calls fn with every spec attached at every layer where it can be: a spec without changed options wherever its classes
 * say, unless the layer is too small for it, every other one somewhere. */
static void for_each(void (*fn)(const test_spec *s, const test_layer *l)) {
  for (int i = 0; i < test_nspecs; i++) {
    const test_spec *s = &test_specs[i];
    int attached = 0;
    for (int j = 0; j < TEST_LAYERS; j++) {
      const test_layer *l = &test_layers[j];
      if (test_is_seldom(l) && attached && !s->is_default && !getenv("LK_EXHAUSTIVE")) continue;
      open_model(l, LK_F64, 0);
      int ok = attach(s->text, l);
      attached += ok;
      int small = !ok && l->in < 32 && strstr(refusal, "block.site"); /* names the site */
      ck_assert_msg(!s->is_default || small || ok == test_fits(s, l), "%s at %s: attached %d", s->text, l->name, ok);
      if (ok) fn(s, l);
      fine(s->text);
    }
    ck_assert_msg(attached, "%s attaches nowhere", s->text);
  }
}

/* ---- options ---- */

/* The spec of class k with "key=value", and of a wrapper an adapter inside. */
static void refuse(const lk_adapter_class *k, const lk_opt *o, const char *value) {
  char spec[120], key[40];
  const char *message;
  snprintf(spec, sizeof spec, "%s %s%s%s", k->name, o->key, value, k->caps & LK_WRAPPER ? " (gain)" : "");
  snprintf(key, sizeof key, "%s: %s", k->name, o->key);
  ck_assert_msg(lk_attach(model, "default", spec, "site") == LK_EARG, "'%s' is not refused", spec);
  lk_error(ctx, &message);
  ck_assert_msg(!strncmp(message, key, strlen(key)) && strstr(message, "want"), "'%s': %s", spec, message);
  ck_assert_msg(strstr(message, o->help) != NULL, "'%s': %s", spec, message);
  ck_assert_ptr_null(site->stacks);
  lk_error_clear(ctx);
}

static void refuse_number(const lk_adapter_class *k, const lk_opt *o, double value) {
  char text[60];
  snprintf(text, sizeof text, "=%.17g", value);
  refuse(k, o, text);
}

/* The ends of the range belong to it; nothing is allocated for a model of shapes. */
static void accept(const lk_adapter_class *k, const lk_opt *o, double value) {
  char spec[120];
  const char *message;
  snprintf(spec, sizeof spec, "%s %s=%.17g%s", k->name, o->key, value, k->caps & LK_WRAPPER ? " (gain)" : "");
  if (!lk_attach(model, "default", spec, "site")) {
    ck_assert_double_eq(lk_at_option(site->stacks->chain, o->key, -99), value);
    ck_assert_int_eq(lk_detach(model, "default"), LK_OK);
    return;
  }
  lk_error(ctx, &message);
  ck_assert_msg(!strstr(message, "want "), "'%s': %s", spec, message);
  lk_error_clear(ctx);
}

static void check_option(const lk_adapter_class *k, const lk_opt *o) {
  static const char *const never[] = {"=", "=x", "=1x", "=nan", "=inf", "=1e999", "=1 =1"};
  double step = o->type == LK_OPT_REAL ? 1e-3 * fmax(1, fabs(o->high)) : 1;
  ck_assert_msg(o->help && *o->help, "%s: %s has no help", k->name, o->key);
  if (o->type == LK_OPT_WORD) {
    refuse(k, o, "=nonsense");
    refuse(k, o, "=");
    refuse(k, o, "");
    return;
  }
  for (size_t i = 0; i + 1 < sizeof never / sizeof *never; i++) refuse(k, o, never[i]);
  refuse_number(k, o, o->low - step);
  refuse_number(k, o, o->high + step);
  if (o->type != LK_OPT_REAL) refuse_number(k, o, o->low + 0.5);
  if (o->type != LK_OPT_FLAG) refuse(k, o, "");
  accept(k, o, o->low);
  accept(k, o, o->high);
  accept(k, o, o->def);
}

START_TEST(options) {
  const lk_adapter_class *k;
  open_model(&test_layers[0], LK_F64, LK_SHAPES_ONLY);
  for (int i = 0; (k = test_class(i)); i++) {
    ck_assert_msg(k->summary && *k->summary && k->cite && *k->cite, "%s says not what it is", k->name);
    ck_assert_msg(k->weight || !(k->caps & LK_AFFINE), "%s is affine and has no weight", k->name);
    for (const lk_opt *o = k->opts; o && o->key; o++) check_option(k, o);
  }
}
END_TEST

START_TEST(defaults) {
  const lk_adapter_class *k;
  open_model(&test_layers[0], LK_F64, 0);
  for (int i = 0; i < test_nspecs; i++) {
    const test_spec *s = &test_specs[i];
    if (!s->is_default || lk_attach(model, "default", s->text, "site")) continue;
    for (const lk_opt *o = s->cls->opts; o && o->key; o++)
      ck_assert_double_eq(lk_at_option(site->stacks->chain, o->key, -99), o->def);
    ck_assert_double_eq(lk_at_option(site->stacks->chain, "no such option", -99), -99);
    lk_detach(model, "default");
  }
  for (int i = 0; (k = test_class(i)); i++) ck_assert_ptr_eq(lk_adapter_find_class(model, k->name), k);
  ck_assert_ptr_null(lk_adapter_find_class(model, "nothing"));
  ck_assert_ptr_null(lk_adapter_find_class(NULL, test_users[0]->name));
}
END_TEST

/* ---- the start ---- */

static void check_noop(const test_spec *s, const test_layer *l) {
  double before[TEST_MOST], after[TEST_MOST];
  if (!s->is_default || !(test_caps(s) & LK_NOOP_AT_START)) return;
  for (int training = 0; training < 2; training++) {
    int n = forward(training, after);
    lk_set_active(model, 0, NULL, NULL);
    ck_assert_int_eq(forward(training, before), n);
    lk_set_active(model, 1, (const char *const[]){"default"}, NULL);
    ck_assert_msg(test_error(after, before, n) < 1e-14, "%s at %s: changed by %g in %s", s->text, l->name,
                  test_error(after, before, n), training ? "training" : "evaluation");
  }
}

START_TEST(noop_at_start) { for_each(check_noop); }
END_TEST

/* ---- gradients ---- */

/* The first choice of every gene: of what shares parameters among structures, one structure at a time gets gradients. */
static void choose_first(void) {
  int n = lk_adapter_genes(model, "default", NULL);
  int *genome = lk_alloc(ctx, (size_t)n * sizeof *genome + 1);
  if (n) lk_adapter_choose(model, "default", genome);
  lk_free(ctx, genome);
}

/* What of the parameters (at most TEST_MOST) gets a gradient in this pass. */
static int reach(char *reached) {
  int n;
  lk_param **p = lk_trainable(model, &n);
  ck_assert_int_le(n, TEST_MOST);
  for (int i = 0; i < n; i++) {
    lk_view g = p[i]->value;
    g.p = p[i]->grad;
    for (int64_t k = 0; p[i]->has_grad && k < lk_param_count(p[i]); k++) reached[i] |= lk_view_get(&g, k) != 0;
  }
  lk_free(ctx, p);
  return n;
}

/* Every parameter gets a gradient: in the first pass, or, when the input chooses, in one of many. */
static void check_reached(const test_spec *s, const test_layer *l) {
  for (int training = 0; training < 2; training++) {
    char reached[TEST_MOST] = {0};
    int n = 0;
    for (int time = 0; time < (test_is_routed(s) ? 60 : 1); time++) {
      if (time) open_model(l, LK_F64, 0);
      if (time) attach(s->text, l);
      choose_first();
      test_perturb_again(model, time);
      backward(training);
      fine(s->text);
      n = reach(reached);
      ck_assert_msg(n > 0, "%s at %s: nothing trains", s->text, l->name);
    }
    lk_param **p = lk_trainable(model, &n);
    for (int i = 0; i < n; i++)
      ck_assert_msg(reached[i], "%s at %s: %s gets no gradient", s->text, l->name, p[i]->name);
    lk_free(ctx, p);
    ck_assert_ptr_null(site->weight->grad);
  }
}

START_TEST(gradients_arrive) { for_each(check_reached); }
END_TEST

/* Central differences of the loss against the gradient, element by element; of large parameters, of some. */
static void check_difference(const char *what, lk_view value, lk_view grad, int training) {
  double error = 0, largest = 1;
  int64_t count = lk_view_count(&value), step = count <= 100 ? 1 : count / 50;
  for (int64_t i = 0; i < count; i += step) {
    double was = lk_view_get(&value, i), h = 1e-5 * fmax(1, fabs(was));
    lk_view_set(&value, i, was + h);
    double up = loss_now(training);
    lk_view_set(&value, i, was - h);
    double down = loss_now(training);
    lk_view_set(&value, i, was);
    double want = (up - down) / (2 * h), got = grad.p ? lk_view_get(&grad, i) : 0;
    error = fmax(error, isfinite(got) ? fabs(got - want) : INFINITY);
    largest = fmax(largest, fabs(want));
  }
  ck_assert_msg(error < 1e-7 * largest, "%s: gradient is off by %g of %g in %s", what, error, largest,
                training ? "training" : "evaluation");
}

/* The gradient of x is copied, since every forward clears it. */
static void check_gradient(const test_spec *s, const test_layer *l) {
  double gx[TEST_MOST];
  char what[300];
  int n;
  test_perturb_trained(model);
  for (int training = 0; training < 2; training++) {
    backward(training);
    lk_view copy = data.gx;
    copy.p = gx;
    if (l->kind != LK_SITE_EMBEDDING) lk_view_copy(&copy, &data.gx);
    lk_param **p = lk_trainable(model, &n);
    for (int i = 0; i < n; i++) {
      lk_view g = p[i]->value;
      g.p = p[i]->grad;
      if (!p[i]->has_grad) g.p = NULL; /* not used in this pass: should be zero */
      snprintf(what, sizeof what, "%s at %s: %s", s->text, l->name, p[i]->name);
      check_difference(what, p[i]->value, g, training);
    }
    snprintf(what, sizeof what, "%s at %s: x", s->text, l->name);
    if (l->kind != LK_SITE_EMBEDDING) check_difference(what, data.x, copy, training);
    lk_free(ctx, p);
  }
}

START_TEST(gradients_are_right) { for_each(check_gradient); }
END_TEST

/* ---- twins: the change of the weight, and of the output ---- */

static void check_twin(const test_spec *s, const test_layer *l) {
  double y[TEST_MOST], folded[TEST_MOST], g[4 * TEST_MOST], h[4 * TEST_MOST];
  if (!(test_caps(s) & LK_AFFINE)) return;
  test_perturb_trained(model);
  for (int training = 0; training < 2 - draws(); training++) {
    int n = forward(training, y), m;
    backward(training);
    m = gradients(g);
    lk_tape_reset(t);
    if (training) lk_train(t, 1, 0);
    lk_tensor W = lk_site_weight(site, t), b = lk_site_bias(site, t);
    lk_chain_weight(site->stacks->chain, t, &W, &b);
    lk_tensor out = lk_site_base(site, t, test_input(&data, t), W, b);
    ck_assert_int_eq(test_values(t, out, folded), n);
    zero_grads();
    lk_backward(t, test_loss(t, out));
    ck_assert_int_eq(gradients(h), m);
    ck_assert_msg(test_error(folded, y, n) < 1e-12, "%s at %s: twins differ by %g", s->text, l->name,
                  test_error(folded, y, n));
    ck_assert_msg(test_error(h, g, m) < 1e-12, "%s at %s: gradients of twins differ by %g", s->text, l->name,
                  test_error(h, g, m));
  }
}

START_TEST(twins) { for_each(check_twin); }
END_TEST

/* ---- repeatability ---- */

/* The same draws in the same step whatever was drawn before, and when the layer is run again in backward. */
static void check_repeats(const test_spec *s, const test_layer *l) {
  double a[TEST_MOST], b[TEST_MOST], g[4 * TEST_MOST], h[4 * TEST_MOST];
  test_perturb_trained(model);
  int n = forward(1, a);
  forward(3, b);
  forward(1, b);
  ck_assert_msg(!memcmp(a, b, (size_t)n * sizeof *a), "%s at %s: not repeatable", s->text, l->name);
  for (int recompute = 0; recompute < 2; recompute++) {
    zero_grads();
    lk_tape_reset(t);
    lk_train(t, 1, 0);
    uint32_t scope = lk_scope_begin(t, "again", recompute ? LK_SCOPE_RECOMPUTE : 0);
    lk_tensor y = lk_scope_end(t, scope, lk_site_forward(site, t, test_input(&data, t)));
    lk_backward(t, test_loss(t, y));
    n = gradients(recompute ? h : g);
  }
  ck_assert_msg(!memcmp(g, h, (size_t)n * sizeof *g), "%s at %s: recomputation changes gradients", s->text, l->name);
}

START_TEST(repeatable) { for_each(check_repeats); }
END_TEST

/* ---- merging and taking off ---- */

static void check_merge(const test_spec *s, const test_layer *l) {
  double y[TEST_MOST], merged[TEST_MOST], bits[2][TEST_MOST], now[2][TEST_MOST];
  size_t size = lk_view_bytes(&site->weight->value), bias = site->bias ? lk_view_bytes(&site->bias->value) : 0;
  lk_merge_report first, second;
  const char *message;
  test_perturb_trained(model);
  memcpy(bits[0], site->weight->value.p, size);
  if (bias) memcpy(bits[1], site->bias->value.p, bias);
  int n = forward(0, y), merges = !lk_merge(model, &first);
  lk_error(ctx, &message);
  ck_assert_msg(merges || strlen(message) > 20, "%s at %s: %s", s->text, l->name, message);
  ck_assert_msg(merges || !(test_caps(s) & LK_AFFINE) || strstr(message, "bias"), "%s at %s: %s", s->text, l->name,
                message);
  ck_assert_msg(!merges || test_caps(s) & LK_AFFINE, "%s at %s: was merged", s->text, l->name);
  lk_error_clear(ctx);
  ck_assert_int_eq(lk_is_merged(model), merges);
  if (merges) {
    ck_assert_int_eq(first.sites, 1);
    ck_assert_str_eq(first.site ? first.site : "block.site", "block.site");
    memcpy(now[0], site->weight->value.p, size);
    ck_assert_int_eq(lk_merge(model, &second), LK_OK);
    ck_assert_msg(!memcmp(now[0], site->weight->value.p, size), "%s at %s: merged twice", s->text, l->name);
  }
  ck_assert_int_eq(forward(0, merged), n);
  ck_assert_msg(test_error(merged, y, n) < 1e-12, "%s at %s: merged is off by %g", s->text, l->name,
                test_error(merged, y, n));
  ck_assert_int_eq(lk_unmerge(model), LK_OK);
  ck_assert_int_eq(lk_unmerge(model), LK_OK);
  ck_assert(!memcmp(bits[0], site->weight->value.p, size) && (!bias || !memcmp(bits[1], site->bias->value.p, bias)));
}

START_TEST(merging) { for_each(check_merge); }
END_TEST

static void check_detach(const test_spec *s, const test_layer *l) {
  double base[2][TEST_MOST];
  uint64_t allocated;
  size_t size = lk_view_bytes(&site->weight->value);
  open_model(l, LK_F64, 0);
  memcpy(base[0], site->weight->value.p, size);
  if (site->bias) memcpy(base[1], site->bias->value.p, lk_view_bytes(&site->bias->value));
  const char *const none = "default";
  attach(s->text, l);
  lk_detach(model, none); /* the list of active adapters stays */
  allocated = lk_ctx_statistics(ctx).live;
  attach(s->text, l);
  test_perturb_trained(model);
  if (test_caps(s) & LK_AFFINE && site->bias) ck_assert_int_eq(lk_merge(model, NULL), LK_OK);
  lk_unmerge(model);
  ck_assert_int_eq(lk_detach(model, none), LK_OK);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, allocated);
  ck_assert_ptr_null(site->stacks);
  ck_assert_msg(!memcmp(base[0], site->weight->value.p, size), "%s at %s: the base has changed", s->text, l->name);
  if (site->bias) ck_assert(!memcmp(base[1], site->bias->value.p, lk_view_bytes(&site->bias->value)));
}

START_TEST(detaching) { for_each(check_detach); }
END_TEST

int main(void) {
  TCase *c = open_suite("adapters");
  tcase_add_test(c, options);
  tcase_add_test(c, defaults);
  tcase_add_test(c, noop_at_start);
  tcase_add_test(c, gradients_arrive);
  tcase_add_test(c, gradients_are_right);
  tcase_add_test(c, twins);
  tcase_add_test(c, repeatable);
  tcase_add_test(c, merging);
  tcase_add_test(c, detaching);
  return run_suite();
}
