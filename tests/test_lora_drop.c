/* test_lora_drop.c: LoRA-drop: what is kept, what is shared, how it trains, what is refused. */
#include "drop_net.h"

#define LORA "(lora r=2 alpha=4)"

static void attach(const char *spec, const char *targets) {
  lk_attach(model, "default", spec, targets);
  fine();
}

/* ---- what is kept ---- */

/* Shares of q: 0.64 0.16 0.04 0.16; of v: 0.25 each. */
static const double shares[] = {4, 2, 1, 2, 1, 1, 1, 1};

static const struct {
  const char *options, *kept;
} selections[] = {
    {"T=0.5", "q0 v0 v1"},
    {"T=0.64", "q0 v0 v1 v2"},
    {"T=0.7", "q0 v0 q1 v1 v2"},
    {"T=0.75", "q0 v0 q1 v1 v2"},
    {"T=0.97", "q0 v0 q1 v1 q2 v2 q3 v3"},
    {"T=1", "q0 v0 q1 v1 q2 v2 q3 v3"},
    {"T=0.01", "q0 v0"},
    {"keep_n=1", "q0 v0"},
    {"keep_n=2 T=1", "q0 v0 q1 v1"},
    {"keep_n=3", "q0 v0 q1 v1 v2 q3"},
    {"keep_n=99", "q0 v0 q1 v1 q2 v2 q3 v3"},
    {"scope=layer T=0.5", "q0 v0"},
    {"scope=layer T=0.7", "q0 v0 q1 v1"},
    {"scope=layer T=0.8", "q0 v0 q1 v1 q3 v3"},
    {"scope=layer keep_n=1", "q0 v0"},
    {"scope=layer T=1", "q0 v0 q1 v1 q2 v2 q3 v3"},
};
enum { SELECTIONS = sizeof selections / sizeof *selections };

START_TEST(kept) {
  char spec[100];
  for (int k = 0; k < 2; k++) {
    snprintf(spec, sizeof spec, "lora_drop %s " LORA, selections[_i].options);
    attach(spec, "q,v");
    net_select_by(shares);
    ck_assert_str_eq(net_kept(), selections[_i].kept);
    lk_detach(model, "default");
    close_net();
    open_net(ctx, LK_F32, 0); /* once more in single precision */
  }
}
END_TEST

/* raw, importance: 25 parts of q and 4 of v; by layers, 29 parts. */
START_TEST(importance) {
  attach("lora_drop T=0.9 " LORA, "q,v");
  net_select_by(shares);
  ck_assert_double_eq_tol(net_buffer("raw", 0) / net_buffer("raw", 4), 16, 1e-13);
  ck_assert_double_eq_tol(net_buffer("importance", 0), 0.64, 1e-14);
  ck_assert_double_eq_tol(net_buffer("importance", 1), 0.25, 1e-14);
  lk_detach(model, "default");
  attach("lora_drop scope=layer " LORA, "q,v");
  net_select_by(shares);
  ck_assert_double_eq_tol(net_buffer("importance", 0), 17.0 / 29, 1e-14);
  ck_assert_double_eq(net_buffer("importance", 0), net_buffer("importance", 1));
}
END_TEST

/* The norm of what is added: computed by hand, over two passes. */
START_TEST(importance_by_hand) {
  attach("lora_drop (lora r=2 alpha=4)", "q");
  for (int l = 0; l < LAYERS; l++) net_set(q[l], 1 + l);
  lk_adapter_phase(model, "importance");
  for (int pass = 0; pass < 2; pass++) {
    lk_tape_reset(t);
    net_forward();
  }
  lk_adapter_phase(model, "select");
  fine();
  double want = 0;
  for (int n = 0; n < TOKENS; n++)
    for (int o = 0; o < WIDTH; o++) {
      double d = 0;
      for (int r = 0; r < 2; r++)
        for (int i = 0; i < WIDTH; i++)
          d += 2 * test_number("B", o * 2 + r) * test_number("A", r * WIDTH + i) * test_number("x", n * WIDTH + i);
      want += 2 * d * d;
    }
  for (int l = 0; l < LAYERS; l++)
    ck_assert_double_eq_tol(net_buffer("raw", l), (1 + l) * (1 + l) * want, 1e-12 * want);
}
END_TEST

/* T=1 keeps everything but what adds exactly nothing, however small the rest; sums are in double in a model in float. */
START_TEST(all_but_nothing) {
  static const double factors[] = {1, 1e-4, 0, 1e-3, 0, 3, 0, 0};
  for (int k = 0; k < 2; k++) {
    attach("lora_drop T=1 " LORA, "q,v");
    net_select_by(factors);
    ck_assert_str_eq(net_kept(), "q0 q1 v1 q3");
    close_net();
    open_net(ctx, LK_F32, 0);
  }
}
END_TEST

/* A group of one always keeps its own, and a layer without a number is ranked as one. */
START_TEST(group_of_one) {
  attach("lora_drop keep_n=1 " LORA, "q,head");
  for (int l = 0; l < LAYERS; l++) net_set(q[l], 1);
  net_set(head, 0.001);
  net_select();
  fine();
  ck_assert_double_eq(net_buffer("keep", 0), 1);
  ck_assert_double_eq(net_buffer("keep", 1), 0);
  ck_assert_double_eq(net_buffer("keep", LAYERS), 1);
  ck_assert_double_eq(net_buffer("importance", LAYERS), 1);
  lk_detach(model, "default");
  attach("lora_drop keep_n=1 scope=layer " LORA, "q,head");
  for (int l = 0; l < LAYERS; l++) net_set(q[l], 0.001);
  net_set(head, 1);
  net_select();
  ck_assert_double_eq(net_buffer("keep", 0), 0);
  ck_assert_double_eq(net_buffer("keep", LAYERS), 1);
}
END_TEST

/* Equal layers stand in the model type by type here: both sites of a layer are decided as one, the lower layer first. */
START_TEST(ties_of_whole_layers) {
  static const char *const names[] = {"q.0", "q.1", "v.0", "v.1"};
  lk_linear_layer *l[4];
  close_net();
  t = lk_tape_new(ctx);
  model = lk_model_new(ctx, LK_F64, 0);
  for (int i = 0; i < 4; i++) l[i] = lk_linear_new(lk_model_root(model), names[i], WIDTH, WIDTH, 0);
  head = l[0];
  attach("lora_drop keep_n=1 scope=layer " LORA, "*");
  for (int i = 0; i < 4; i++) net_set(l[i], 1);
  lk_adapter_phase(model, "importance");
  for (int i = 0; i < 4; i++) lk_linear_forward(l[i], t, net_input());
  lk_adapter_phase(model, "select");
  fine();
  for (int i = 0; i < 4; i++) ck_assert_double_eq(net_buffer("keep", i), i % 2 == 0);
}
END_TEST

static void mask_tokens(int n, int ndim, const int64_t *shape) {
  double mask[2 * TOKENS];
  for (int i = 0; i < n; i++) mask[i] = i != 1 && i != 4;
  lk_side(t, "token_mask", lk_input(t, LK_F64, ndim, shape, mask));
}

/* Padding is left out: as if the outputs there were nothing. */
START_TEST(padding) {
  double all[TOKENS * WIDTH], want = 0;
  lk_view d;
  attach("lora_drop " LORA, "q");
  for (int l = 0; l < LAYERS; l++) net_set(q[l], 1 + l);
  lk_adapter_phase(model, "importance");
  lk_tape_reset(t);
  mask_tokens(TOKENS, 2, (int64_t[]){1, TOKENS});
  net_forward();
  lk_tape_reset(t);
  lk_at *lora = q[0]->module.site->stacks->chain->inner;
  lk_get(t, lora->method->cls->delta(lora, t, net_input(), lk_nil()), &d);
  for (int i = 0; i < TOKENS * WIDTH; i++) all[i] = lk_view_get(&d, i);
  for (int i = 0; i < TOKENS * WIDTH; i++)
    if (i / WIDTH != 1 && i / WIDTH != 4) want += all[i] * all[i];
  lk_adapter_phase(model, "select");
  fine();
  ck_assert_double_eq_tol(net_buffer("raw", 0), want, 1e-12);
  lk_adapter_phase(model, "importance");
  lk_tape_reset(t);
  mask_tokens(TOKENS + 1, 1, (int64_t[]){TOKENS + 1});
  net_forward();
  expect(LK_ESHAPE, "token_mask has 6 elements, and layers.0.q has 5 tokens");
}
END_TEST

/* ---- what is refused ---- */

START_TEST(phases_refused) {
  attach("lora_drop " LORA, "q,v");
  lk_adapter_phase(model, "select");
  expect(LK_EARG, "the phase importance comes before the phase select");
  lk_adapter_phase(model, "importance");
  lk_adapter_phase(model, "select"); /* without a forward pass */
  expect(LK_EARG, "add nothing: train them a little");
  net_select(); /* B is still zero */
  expect(LK_EARG, "layers.0.q add nothing: train them a little");
  lk_adapter_phase(model, "importance");
  net_loss(1);
  expect(LK_EARG, "importance is measured in evaluation, and this is a training pass");
  for (int l = 0; l < LAYERS; l++) net_set(q[l], 1);
  net_select(); /* v adds nothing yet */
  expect(LK_EARG, "layers.0.v add nothing");
  for (int l = 0; l < LAYERS; l++) net_set(v[l], l == 2 ? NAN : 1);
  net_select();
  expect(LK_EARG, "layers.0.v add values that are not finite");
  ck_assert_str_eq(net_kept(), "");
  net_loss(1); /* and it goes on training */
  fine();
  lk_adapter_phase(model, "harvest");
  expect(LK_EARG, "there are importance, select (lora_drop)");
  lk_merge(model, NULL);
  lk_error_clear(ctx);
}
END_TEST

START_TEST(merged_or_shapes) {
  attach("lora_drop " LORA, "q,v");
  lk_merge(model, NULL);
  lk_adapter_phase(model, "importance");
  expect(LK_EARG, "merged");
  close_net();
  open_net(ctx, LK_F64, LK_SHAPES_ONLY);
  attach("lora_drop " LORA, "q,v");
  ck_assert_int_eq(lk_adapter_count(model, "default"), 2 * LAYERS * 2 * 2 * WIDTH);
  lk_adapter_phase(model, "importance");
  expect(LK_EARG, "shapes only");
}
END_TEST

static void refused(const lk_attach_options *o, const char *words) {
  uint64_t live = lk_ctx_statistics(ctx).live;
  ck_assert_int_ne(lk_attach_with(model, o), LK_OK);
  expect(LK_EARG, words);
  ck_assert_ptr_null(lk_adapter_first(model));
  ck_assert_ptr_null(q[0]->module.site->stacks);
  ck_assert_ptr_null(q[0]->module.site->replaced_by);
  ck_assert_int_eq(q[0]->weight->requires_grad, 1);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, live);
}

START_TEST(attach_refused) {
  const lk_override rank = {"layers.2.q", "r=3"}, alpha = {"layers.1.v", "alpha=9"};
  refused(&(lk_attach_options){.spec = "lora_drop " LORA, .targets = "q,v", .overrides = &rank, .noverrides = 1},
          "lora at layers.0.q and at layers.2.q cannot be shared: their options differ");
  refused(
      &(lk_attach_options){
          .spec = "lora_drop (dropout p=0 " LORA ")", .targets = "q,v", .overrides = &alpha, .noverrides = 1},
      "lora at layers.0.v and at layers.1.v cannot be shared: their options differ");
  refused(&(lk_attach_options){.spec = "lora_drop (lora r=2 init=pissa)", .targets = "q"},
          "lora has replaced the weight of layers.0.q");
  refused(&(lk_attach_options){.spec = "lora_drop (magnitude)", .targets = "q"}, "magnitude has nothing");
  refused(&(lk_attach_options){.spec = "lora_drop (lora_drop " LORA ")", .targets = "q"}, "inside another lora_drop");
  refused(&(lk_attach_options){.spec = "lora_drop T=0 " LORA, .targets = "q"}, "want");
  refused(&(lk_attach_options){.spec = "lora_drop T=1.01 " LORA, .targets = "q"}, "want");
  refused(&(lk_attach_options){.spec = "lora_drop", .targets = "q"}, "lora_drop");
}
END_TEST

/* ---- sharing ---- */

START_TEST(count) {
  enum { PAIR = 2 * 2 * WIDTH };
  attach("lora_drop T=0.5 " LORA, "q,v");
  ck_assert_int_eq(lk_adapter_count(model, "default"), 8 * PAIR);
  net_select_by(shares); /* q: 1 of 4 and the shared one, v: 2 of 4 and the shared one */
  ck_assert_int_eq(lk_adapter_count(model, "default"), (1 + 1 + 2 + 1) * PAIR);
  ck_assert_ptr_eq(net_param(q[2], "lora_A.weight")->alias, net_param(q[1], "lora_A.weight"));
  ck_assert_ptr_eq(net_param(q[3], "lora_B.weight")->alias, net_param(q[1], "lora_B.weight"));
  ck_assert_ptr_eq(net_param(v[3], "lora_A.weight")->alias, net_param(v[2], "lora_A.weight"));
  ck_assert_ptr_null(net_param(q[1], "lora_A.weight")->alias);
  lk_adapter_phase(model, "importance");
  ck_assert_int_eq(lk_adapter_count(model, "default"), 8 * PAIR);
}
END_TEST

/* With reinit the outputs are the base's again, and A is what a fresh adapter has; without, kept layers go on. */
START_TEST(reinit) {
  double base[2 * TOKENS], y[2 * TOKENS], first[LAYERS][2 * WIDTH];
  net_output(0, base);
  for (int on = 1; on >= 0; on--) {
    attach(on ? "lora_drop T=0.5 " LORA : "lora_drop T=0.5 reinit=0 " LORA, "q,v");
    for (int l = 0; l < LAYERS; l++) memcpy(first[l], net_param(q[l], "lora_A.weight")->value.p, sizeof first[l]);
    net_select_by(shares);
    net_output(0, y);
    ck_assert_int_eq(test_error(y, base, 2 * TOKENS) < 1e-14, on);
    const double *A0 = net_param(q[0], "lora_A.weight")->value.p, *B0 = net_param(q[0], "lora_B.weight")->value.p;
    ck_assert_int_eq(!memcmp(A0, first[0], sizeof first[0]), on);
    ck_assert_double_eq(B0[0], on ? 0 : 4 * test_number("B", 0));
    for (int l = 1; l < LAYERS; l++) { /* the shared one begins anew either way */
      lk_param *A = net_param(q[l], "lora_A.weight"), *B = net_param(q[l], "lora_B.weight");
      ck_assert_int_eq(memcmp(A->value.p, first[1], sizeof first[1]), 0);
      for (int i = 0; i < lk_param_count(B); i++) ck_assert_double_eq(lk_view_get(&B->value, i), 0);
    }
    lk_detach(model, "default");
  }
}
END_TEST

/* The gradient is the sum over the users: finite differences of everything that trains. */
START_TEST(gradients) {
  int n;
  static const char *const specs[] = {"lora_drop T=0.5 (lora r=2)",
                                      "dropout p=0.3 (lora_drop T=0.5 (lora r=2 dropout=0.2))",
                                      "lora_drop T=0.5 (lora r=2 | magnitude detach=0)", "lora_drop T=0.5 (neat r=2)"};
  attach(specs[_i], "q,v");
  test_perturb_trained(model);
  net_select();
  test_perturb_trained(model);
  net_loss(3);
  lk_tape_reset(t);
  lk_train(t, 3, 0);
  lk_backward(t, test_loss(t, net_forward()));
  lk_param **p = lk_trainable(model, &n);
  ck_assert_int_gt(n, 3);
  for (int k = 0; k < n; k++)
    for (int i = 0; i < lk_param_count(p[k]); i++) {
      double was = lk_view_get(&p[k]->value, i), h = 1e-5;
      lk_view g = p[k]->value;
      g.p = p[k]->grad;
      lk_view_set(&p[k]->value, i, was + h);
      double up = net_loss(3);
      lk_view_set(&p[k]->value, i, was - h);
      double down = net_loss(3);
      lk_view_set(&p[k]->value, i, was);
      ck_assert_msg(g.p && fabs((up - down) / (2 * h) - lk_view_get(&g, i)) < 1e-7, "%s: %s[%d]", specs[_i], p[k]->name,
                    i);
    }
  lk_free(ctx, p);
  fine();
}
END_TEST

/* The optimiser steps and decays the shared pair once, and clips by a norm that counts it once. */
START_TEST(optimiser) {
  double square = 0, decayed;
  int n;
  attach("lora_drop T=0.5 " LORA, "q,v");
  net_select_by(shares);
  test_perturb_trained(model);
  lk_optim *opt = net_optim(0.1, 1e-9);
  lk_param *A = net_param(q[1], "lora_A.weight"), **p = lk_trainable(model, &n);
  ck_assert_int_eq(n, 10);
  decayed = lk_view_get(&A->value, 0) * (1 - 0.05 * 0.1);
  lk_tape_reset(t);
  lk_train(t, 1, 0);
  lk_backward(t, test_loss(t, net_forward()));
  for (int k = 0; k < n; k++)
    for (int i = 0; i < lk_param_count(p[k]); i++) square += pow(((double *)p[k]->grad)[i], 2);
  uint32_t version = A->version;
  lk_step(opt);
  fine();
  ck_assert_uint_eq(A->version, version + 1);
  ck_assert_double_eq_tol(lk_grad_norm(opt), sqrt(square), 1e-12);
  ck_assert_double_eq_tol(lk_view_get(&A->value, 0), decayed, 0.0501); /* Adam's step is at most lr */
  ck_assert_double_eq(lk_view_get(&A->value, 0), lk_view_get(&net_param(q[3], "lora_A.weight")->value, 0));
  lk_free(ctx, p);
  lk_optim_free(opt);
}
END_TEST

/* Without a gradient nothing but the decay moves: exactly once, however many share. */
START_TEST(decays_once) {
  attach("lora_drop T=0.5 " LORA, "q,v");
  net_select_by(shares);
  lk_param *A = net_param(q[1], "lora_A.weight");
  lk_optim *opt = net_optim(0.1, 0);
  double was = lk_view_get(&A->value, 3);
  net_step(opt); /* B is zero, and so A's gradient */
  fine();
  ck_assert_double_eq_tol(lk_view_get(&A->value, 3), was * (1 - 0.05 * 0.1), 1e-15);
  lk_optim_free(opt);
}
END_TEST

/* train_shared=0: the shared pair never trains, whatever lk_set_trainable says. */
START_TEST(frozen) {
  attach("lora_drop T=0.5 train_shared=0 " LORA, "q,v");
  net_select_by(shares);
  lk_param *A = net_param(q[1], "lora_A.weight"), *own = net_param(q[0], "lora_A.weight");
  ck_assert_int_eq(lk_adapter_count(model, "default"), 3 * 2 * 2 * WIDTH);
  for (int on = 0; on < 2; on++) {
    lk_set_trainable(model, "default", on);
    ck_assert_int_eq(own->requires_grad, on);
    ck_assert_int_eq(A->requires_grad, 0);
    ck_assert_int_eq(net_param(q[2], "lora_A.weight")->requires_grad, 0);
  }
  lk_optim *opt = net_optim(0.1, 0);
  double was = lk_view_get(&A->value, 0), its = lk_view_get(&own->value, 0);
  net_step(opt);
  net_step(opt);
  fine();
  ck_assert_double_eq(lk_view_get(&A->value, 0), was);
  ck_assert_double_ne(lk_view_get(&own->value, 0), its);
  lk_optim_free(opt);
  lk_set_trainable(model, "default", 0);
  lk_adapter_phase(model, "importance"); /* a frozen adapter stays frozen */
  ck_assert_int_eq(A->requires_grad, 0);
  lk_set_trainable(model, "default", 1);
  ck_assert_int_eq(A->requires_grad, 1);
}
END_TEST

/* A second importance phase: layers that shared go on with copies, and the next selection is its own. */
START_TEST(again) {
  static const double other[] = {1, 1, 8, 1, 0.1, 9, 0.1, 0.1};
  double before[2 * TOKENS], after[2 * TOKENS];
  attach("lora_drop T=0.5 " LORA, "q,v");
  net_select_by(shares);
  test_perturb_trained(model);
  net_output(0, before);
  lk_adapter_phase(model, "importance");
  net_output(0, after);
  ck_assert_mem_eq(before, after, sizeof before);
  ck_assert_ptr_null(net_param(q[2], "lora_A.weight")->alias);
  ck_assert_ptr_ne(net_param(q[2], "lora_A.weight")->value.p, net_param(q[1], "lora_A.weight")->value.p);
  net_select_by(other);
  ck_assert_str_eq(net_kept(), "v1 q2");
  ck_assert_ptr_eq(net_param(q[1], "lora_A.weight")->alias, net_param(q[0], "lora_A.weight"));
}
END_TEST

/* ---- beside other adapters ---- */

/* A row is a spec, and parameters that are shared and not shared after the selection. */
static const struct {
  const char *spec, *shared, *own;
} compositions[] = {
    {"lora_drop T=0.5 (lora r=2)", "lora_A.weight", NULL},
    {"lora_drop T=0.5 (lora r=2 | magnitude)", "lora_A.weight", "lora_magnitude_vector"},
    {"lora_drop T=0.5 (mlae r=2)", NULL, NULL},
    {"lora_drop T=0.5 (neat r=2)", NULL, NULL},
    {"lora_drop T=0.5 (gain)", "gain", NULL},
    {"lora_drop T=0.5 (lift)", "lift", NULL},
    {"lora_drop T=0.5 (bend)", "gain", NULL},
    {"dropout p=0.2 (lora_drop T=0.5 (lora r=2))", "lora_A.weight", NULL},
    {"lora_drop T=0.5 (dropout p=0.2 (lora r=2))", "lora_A.weight", NULL},
    {"lora_drop T=0.5 (lora r=2) | magnitude", "lora_A.weight", "lora_magnitude_vector"},
    {"gain | lora_drop T=0.5 (lora r=2)", "lora_A.weight", "gain"},
    {"lora_drop T=0.5 (lora r=2) | lora:second r=1", "v.lora_A.weight", "second.lora_A.weight"},
    {"mixture n=3 k=2 (lora_drop T=0.5 (lora r=2))", "experts.1.lora_A.weight", NULL},
    {"lora_drop T=0.5 (mixture n=2 k=1 (lora r=2))", "experts.1.lora_A.weight", NULL},
    {"lora_drop T=0.5 (adalora total=20)", NULL, NULL},
};
enum { COMPOSITIONS = sizeof compositions / sizeof *compositions };

static lk_method *drop(void) {
  lk_method *m = lk_adapter_first(model)->chain;
  while (strcmp(m->cls->name, "lora_drop")) m = lk_method_walk(lk_adapter_first(model)->chain, m);
  return m;
}

/* Attach, stir, select, train, merge, unmerge, detach. */
START_TEST(composes) {
  double y[2 * TOKENS], merged[2 * TOKENS], base[2 * TOKENS];
  int before, after;
  net_output(0, base);
  attach(compositions[_i].spec, "q,v");
  lk_free(ctx, lk_trainable(model, &before));
  test_perturb_trained(model);
  net_select();
  fine();
  lk_free(ctx, lk_trainable(model, &after));
  ck_assert_msg(after < before, "%s: nothing is shared", compositions[_i].spec);
  ck_assert_double_eq(net_buffer("keep", 0) + net_buffer("keep", 2) + net_buffer("keep", 4) + net_buffer("keep", 6) < 4,
                      1);
  for (int l = 0; l < LAYERS; l++) {
    const char *shared = compositions[_i].shared, *own = compositions[_i].own;
    ck_assert(!shared || net_param(v[l], shared));
    ck_assert(!own || (net_param(v[l], own) && !net_param(v[l], own)->alias));
  }
  lk_optim *opt = net_optim(0.01, 1);
  lk_adapter_follow(model, opt);
  for (int i = 0; i < 3; i++) {
    lk_tape_reset(t);
    lk_train(t, (uint64_t)i + 1, 0);
    lk_backward(t, lk_plus(t, test_loss(t, net_forward()), lk_adapter_loss(model, t)));
    lk_step(opt);
  }
  fine();
  lk_optim_free(opt);
  net_output(0, y);
  if (!lk_merge(model, NULL)) {
    net_output(0, merged);
    ck_assert_double_lt(test_error(merged, y, 2 * TOKENS), 1e-12);
    lk_unmerge(model);
    net_output(0, merged);
    ck_assert_mem_eq(merged, y, sizeof y);
  }
  lk_error_clear(ctx);
  ck_assert_ptr_nonnull(drop());
  lk_detach(model, "default");
  net_output(0, y);
  ck_assert_mem_eq(y, base, sizeof y);
  fine();
}
END_TEST

/* Lengths begin with each layer's own weight: with reinit the base's outputs are back, at dropped layers too. */
START_TEST(lengths_stay) {
  double base[2 * TOKENS], y[2 * TOKENS];
  net_output(0, base);
  attach("lora_drop T=0.5 (lora r=2 | magnitude)", "q,v");
  test_perturb_trained(model);
  net_select();
  net_output(0, y);
  fine();
  ck_assert_double_lt(test_error(y, base, 2 * TOKENS), 1e-13);
}
END_TEST

/* Two adapters at once, each with sums of its own. */
START_TEST(two_at_once) {
  double one[2 * LAYERS], y[2 * TOKENS], z[2 * TOKENS];
  attach("lora_drop T=0.5 " LORA, "q,v");
  net_select_by(shares);
  for (int i = 0; i < 2 * LAYERS; i++) one[i] = net_buffer("raw", i);
  lk_adapter_phase(model, "importance");
  lk_attach(model, "other", "lora_drop keep_n=3 (lora r=1)", "q");
  test_perturb_trained(model);
  for (int l = 0; l < LAYERS; l++) {
    net_set(q[l], shares[l]);
    net_set(v[l], shares[LAYERS + l]);
  }
  net_select();
  fine();
  for (int i = 0; i < 2 * LAYERS; i++) ck_assert_double_eq_tol(net_buffer("raw", i), one[i], 1e-12 * one[i]);
  ck_assert_int_eq(lk_adapter_count(model, "other"), 4 * 2 * WIDTH);
  test_perturb_trained(model);
  net_output(0, y);
  lk_set_active(model, 1, (const char *const[]){"other"}, NULL);
  lk_detach(model, "default");
  net_output(0, z);
  fine();
  ck_assert_double_gt(test_error(y, z, 2 * TOKENS), 1e-3);
}
END_TEST

START_TEST(notes) {
  attach("lora_drop T=0.5 " LORA, "q,v");
  char *text = lk_adapter_notes(model, "default");
  ck_assert_str_eq(text, "");
  lk_free(ctx, text);
  net_select_by(shares);
  text = lk_adapter_notes(model, "default");
  ck_assert_str_eq(text, "3 of 8 layers keep an adapter of their own: layers.0.q 0.64, layers.0.v 0.25, layers.1.v "
                         "0.25");
  lk_free(ctx, text);
}
END_TEST

/* Values are the same when scopes are computed again for backward. */
START_TEST(recomputes) {
  double grads[2][2 * WIDTH];
  for (int again = 0; again < 2; again++) {
    attach("lora_drop T=0.5 (lora r=2 dropout=0.3)", "q,v");
    net_select_by(shares);
    test_perturb_trained(model);
    lk_tape_reset(t);
    lk_train(t, 1, 0);
    uint32_t scope = lk_scope_begin(t, "all", again ? LK_SCOPE_RECOMPUTE : 0);
    lk_tensor y = lk_scope_end(t, scope, net_forward());
    lk_backward(t, test_loss(t, y));
    fine();
    memcpy(grads[again], net_param(q[1], "lora_A.weight")->grad, sizeof grads[again]);
    lk_detach(model, "default");
  }
  ck_assert_mem_eq(grads[0], grads[1], sizeof grads[0]);
}
END_TEST

int main(void) {
  Suite *s = suite_create("lora_drop");
  TCase *c = tcase_create("lora_drop");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_loop_test(c, kept, 0, SELECTIONS);
  tcase_add_test(c, importance);
  tcase_add_test(c, importance_by_hand);
  tcase_add_test(c, all_but_nothing);
  tcase_add_test(c, group_of_one);
  tcase_add_test(c, ties_of_whole_layers);
  tcase_add_test(c, padding);
  tcase_add_test(c, phases_refused);
  tcase_add_test(c, merged_or_shapes);
  tcase_add_test(c, attach_refused);
  tcase_add_test(c, count);
  tcase_add_test(c, reinit);
  tcase_add_loop_test(c, gradients, 0, 4);
  tcase_add_test(c, optimiser);
  tcase_add_test(c, decays_once);
  tcase_add_test(c, frozen);
  tcase_add_test(c, again);
  tcase_add_loop_test(c, composes, 0, COMPOSITIONS);
  tcase_add_test(c, lengths_stay);
  tcase_add_test(c, two_at_once);
  tcase_add_test(c, notes);
  tcase_add_test(c, recomputes);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
