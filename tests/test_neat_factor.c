/* test_neat_factor.c: NEAT's generated factor: made once in a pass, kept while nothing trains, and never an old one. */
#include "neat.h"

/* ---- the factor ---- */

/* In training as in evaluation, a second call of the layer costs what LoRA costs, and gradients are those of both. */
START_TEST(made_once_in_a_pass) {
  double one[4 * TEST_MOST], two[4 * TEST_MOST], first, second;
  start("neat r=3 depth=1 act=gelu", LARGER);
  backward(1);
  int n = gradients(one);
  zero_grads();
  lk_tape_reset(t);
  lk_train(t, 1, 0);
  lk_tensor y = lk_site_forward(site, t, test_input(&data, t));
  first = flops();
  lk_tensor z = lk_site_forward(site, t, test_input(&data, t));
  second = flops() - first;
  ck_assert_double_eq(first - second, 2.0 * 3 * 12 * 10 + 4.0 * 3 * 3 * 10);
  lk_backward(t, lk_add(t, test_loss(t, y), test_loss(t, z)));
  gradients(two);
  for (int i = 0; i < n; i++) one[i] *= 2;
  close_to(two, one, n, 1e-14, "two calls");
}
END_TEST

/* Two backwards in one pass, as after a forward for each of two losses. */
START_TEST(made_again_after_backward) {
  double one[4 * TEST_MOST], two[4 * TEST_MOST];
  start("neat r=3 depth=1 act=gelu", LARGER);
  backward(0);
  int n = gradients(one);
  zero_grads();
  lk_tape_reset(t);
  for (int i = 0; i < 2; i++) lk_backward(t, test_loss(t, lk_site_forward(site, t, test_input(&data, t))));
  fine("two backwards");
  gradients(two);
  for (int i = 0; i < n; i++) one[i] *= 2;
  close_to(two, one, n, 1e-14, "two backwards");
}
END_TEST

/* Gradients over micro-batches add up to those of one batch. */
START_TEST(micro_batches) {
  double whole[4 * TEST_MOST], parts[4 * TEST_MOST], x[20];
  start("neat r=3 depth=2 act=silu orientation=in", LARGER);
  for (int i = 0; i < 20; i++) x[i] = test_number("x", i);
  for (int k = 0; k < 2; k++) {
    zero_grads();
    for (int micro = 0; micro < 1 + k; micro++) {
      lk_tape_reset(t);
      lk_train(t, 0, (uint64_t)micro);
      lk_tensor y = lk_site_forward(site, t, lk_input(t, LK_F64, 2, (int64_t[]){2 - k, 10}, x + 10 * micro));
      lk_backward(t, lk_sum(t, lk_tanh(t, y), 0, NULL, 0));
    }
    int n = gradients(k ? parts : whole);
    if (k) close_to(parts, whole, n, 1e-14, "micro-batches");
  }
}
END_TEST

/* The layer three times, once in the plain, in recomputed scopes where wanted. */
static int three_calls(int first, int second, double *g) {
  zero_grads();
  lk_tape_reset(t);
  lk_train(t, 1, 0);
  lk_tensor y[3];
  for (int i = 0; i < 3; i++) {
    int recompute = (i == 0 && first) || (i == 1 && second);
    uint32_t scope = lk_scope_begin(t, "part", recompute ? LK_SCOPE_RECOMPUTE : 0);
    lk_tensor x = test_input(&data, t);
    y[i] = lk_scope_end(t, scope, lk_tanh(t, lk_site_forward(site, t, i ? lk_scale(t, x, i) : x)));
  }
  lk_backward(t, test_loss(t, lk_mul(t, y[0], lk_mul(t, y[1], y[2]))));
  fine("three calls");
  return gradients(g);
}

/* The value that a recomputed scope made, or found, serves others too, and the other way round. */
START_TEST(recomputed_scopes) {
  double plain[4 * TEST_MOST], g[4 * TEST_MOST];
  for (int mode = LK_TAPE_LIVE; mode <= LK_TAPE_POISON; mode++) {
    start("neat r=3 depth=2 act=gelu search", LARGER);
    lk_tape_set_mode(t, (lk_tape_mode)mode);
    int n = three_calls(0, 0, plain);
    for (int k = 1; k < 4; k++) {
      ck_assert_int_eq(three_calls(k & 1, k >> 1, g), n);
      close_to(g, plain, n, 1e-15, "recomputed");
    }
  }
  lk_tape_set_mode(t, LK_TAPE_LIVE);
}
END_TEST

/* A look without gradients before the pass proper must not take its gradients away. */
START_TEST(unrecorded_call_first) {
  double want[4 * TEST_MOST], got[4 * TEST_MOST];
  start("neat r=3 act=tanh", WIDE);
  backward(0);
  int n = gradients(want);
  zero_grads();
  lk_tape_reset(t);
  lk_no_grad(t, 1);
  lk_site_forward(site, t, test_input(&data, t));
  lk_no_grad(t, 0);
  lk_backward(t, test_loss(t, lk_site_forward(site, t, test_input(&data, t))));
  fine("unrecorded");
  ck_assert_int_eq(gradients(got), n);
  ck_assert(!memcmp(want, got, (size_t)n * sizeof *want));
}
END_TEST

/* ---- kept while nothing trains ---- */

static void check_kept(const char *after, double dear, double cheap) {
  double y[TEST_MOST], z[TEST_MOST], want[TEST_MOST];
  int n;
  forward(0, want);
  ck_assert_msg(unrecorded(y, &n) == dear, "after %s an old factor was used", after);
  close_to(y, want, n, 0, after);
  ck_assert_double_eq(unrecorded(z, &n), cheap);
  close_to(z, want, n, 0, after);
}

START_TEST(kept_until_something_changes) {
  static const char *const specs[] = {"neat r=3 depth=1 act=sigmoid", "neat r=3 depth=1 act=sigmoid orientation=in"};
  double y[TEST_MOST];
  int n;
  start(specs[_i], LARGER);
  double dear = unrecorded(y, &n), cheap = unrecorded(y, &n);
  ck_assert_double_eq(dear - cheap, 2.0 * 3 * 12 * 10 + 4.0 * 3 * 3 * (_i ? 12 : 10));
  lk_param *all[] = {param("peanut_A.weight"), param("peanut_encoders.0.weight"), param("peanut_decoders.0.weight"),
                     site->weight};
  for (int i = 0; i < COUNT(all); i++) {
    lk_view_set(&all[i]->value, 1, lk_view_get(&all[i]->value, 1) + 0.5);
    lk_param_touch(all[i]);
    check_kept(all[i]->name, dear, cheap);
  }
  lk_merge(model, NULL); /* a base that is not W0 */
  lk_unmerge(model);
  check_kept("merging", dear, cheap);
  lk_set_trainable(model, "default", 0); /* the same without lk_no_grad */
  forward(0, y);
  lk_tape_reset(t);
  lk_site_forward(site, t, test_input(&data, t));
  ck_assert_double_eq(flops(), cheap);
}
END_TEST

/* One's values under the other's name: they change when the other's do. */
START_TEST(shared_parameters) {
  double y[TEST_MOST], want[TEST_MOST];
  int n;
  start("neat:a r=2 | neat:b r=2 act=gelu", LARGER);
  lk_param_share(param("b.peanut_A.weight"), param("a.peanut_A.weight"));
  for (int i = 0; i < 4; i++) {
    if (i == 2) lk_param_share(param("b.peanut_A.weight"), NULL);
    lk_view_set(&param("a.peanut_A.weight")->value, i, 2);
    lk_param_touch(param("a.peanut_A.weight"));
    unrecorded(y, &n);
    forward(0, want);
    close_to(y, want, n, 0, "shared");
  }
}
END_TEST

/* A tape in f32 keeps a factor in f32; merging does not take it. */
START_TEST(merging_in_double) {
  double narrow[TEST_MOST], wide[TEST_MOST];
  lk_view v;
  for (int k = 0; k < 2; k++) {
    double y[TEST_MOST];
    int n;
    open_model(&test_layers[LARGER], k ? LK_F64 : LK_F32, 0);
    lk_attach(model, "default", "neat r=4 depth=1 act=tanh init=random", "site");
    fine("attach");
    for (lk_param *p = site->stacks->chain->params; p; p = p->next) {
      for (int64_t i = 0; i < lk_param_count(p); i++)
        lk_view_set(&p->value, i, (float)(0.5 * test_number(strrchr(p->name, '_'), i)));
      lk_param_touch(p);
    }
    for (int64_t i = 0; i < 120; i++) lk_view_set(&site->weight->value, i, (float)test_number("W", i));
    lk_param_touch(site->weight);
    unrecorded(y, &n);
    lk_merge(model, NULL);
    v = site->weight->value;
    for (int i = 0; i < 120; i++) (k ? wide : narrow)[i] = lk_view_get(&v, i);
  }
  for (int i = 0; i < 120; i++) ck_assert_double_eq(narrow[i], (float)wide[i]);
}
END_TEST

/* A layer stored [in, out] computes what the same one stored [out, in] does. */
START_TEST(storage) {
  double y[2][TEST_MOST];
  for (int k = 0; k < 2; k++) {
    test_layer l = test_layers[FLIPPED];
    if (k) l.flags = 0;
    open_model(&l, LK_F64, 0);
    for (int64_t o = 0; o < l.out; o++)
      for (int64_t i = 0; i < l.in; i++)
        lk_view_set(&site->weight->value, k ? o * l.in + i : i * l.out + o, test_number("W", o * l.in + i));
    lk_param_touch(site->weight);
    lk_param_fill(site->bias, 0.5);
    lk_attach(model, "default", "neat r=3 depth=1 act=gelu init=random orientation=in", "site");
    forward(0, y[k]);
    fine("storage");
  }
  close_to(y[0], y[1], 5, 1e-14, "stored [in, out]");
}
END_TEST

int main(void) {
  TCase *c = open_suite("neat's factor");
  tcase_add_test(c, made_once_in_a_pass);
  tcase_add_test(c, made_again_after_backward);
  tcase_add_test(c, micro_batches);
  tcase_add_test(c, recomputed_scopes);
  tcase_add_test(c, unrecorded_call_first);
  tcase_add_loop_test(c, kept_until_something_changes, 0, 2);
  tcase_add_test(c, shared_parameters);
  tcase_add_test(c, merging_in_double);
  tcase_add_test(c, storage);
  return run_suite();
}
