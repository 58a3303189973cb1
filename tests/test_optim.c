/* test_optim.c: optimisers against PyTorch, groups, clipping, refusals, schedules, resume, failing memory. */
#include "alloc.h"
#include "golden/optim.h"

#include <check.h>
#include <math.h>

/* ---- a small net and a made-up loss ---- */

typedef struct net {
  lk_ctx *ctx;
  lk_param *p[2]; /* net.w [3, 4], net.b [5] */
} net;

static void make_net(net *m, lk_ctx *ctx, lk_dtype dtype) {
  m->ctx = ctx;
  m->p[0] = lk_param_new(ctx, "net.w", LK_TRAINED, dtype, 2, (int64_t[]){3, 4});
  m->p[1] = lk_param_new(ctx, "net.b", LK_TRAINED, dtype, 1, (int64_t[]){5});
  if (!m->p[0] || !m->p[1]) return;
  for (int i = 0; i < 12; i++) lk_view_set(&m->p[0]->value, i, (i * 37 % 101 - 50) / 64.0);
  for (int i = 0; i < 5; i++) lk_view_set(&m->p[1]->value, i, (i * 29 % 53 - 26) / 32.0);
}

static void open_net(net *m, lk_dtype dtype) {
  make_net(m, lk_ctx_new(NULL), dtype);
  ck_assert_int_eq(lk_error(m->ctx, NULL), LK_OK);
}

/* Frees everything and sees that nothing is left. */
static void close_net(net *m, lk_optim *o) {
  lk_optim_free(o);
  for (int i = 0; i < 2; i++) lk_param_free(m->p[i]);
  lk_warnings_clear(m->ctx);
  ck_assert_uint_eq(lk_ctx_statistics(m->ctx).live, 0);
  lk_ctx_free(m->ctx);
}

/* A parameter's gradient as a view, made when it is missing. */
static lk_view gradient(lk_param *p) {
  lk_view g = p->value;
  if (!p->grad) p->grad = lk_alloc(p->ctx, lk_view_bytes(&p->value));
  g.p = p->grad;
  return g;
}

/* Adds the gradient of micro-batch t, divided by parts; starts from zero after a step, as the tape does. */
static void backward(lk_param *p, int t, int parts) {
  lk_view g = gradient(p);
  if (!g.p) return;
  for (int i = 0; i < lk_param_count(p); i++) {
    double d = lk_view_get(&p->value, i) * (1 + i % 3) / 4 + ((i * 13 + t * 7) % 23 - 11) / 16.0;
    lk_view_set(&g, i, (p->has_grad ? lk_view_get(&g, i) : 0) + d / parts);
  }
  p->has_grad = 1;
}

static void backward_all(net *m, int t) {
  backward(m->p[0], t, 1);
  backward(m->p[1], t, 1);
}

static lk_optim *new_optim(net *m, const char *name, const lk_optim_options *options) {
  lk_optim *o = lk_optim_new(m->ctx, lk_optim_find(name), options, m->p, 2);
  const char *why;
  ck_assert_msg(lk_error(m->ctx, &why) == LK_OK, "%s", why);
  return o;
}

static void run(net *m, lk_optim *o, int from, int to) {
  const char *why;
  for (int t = from; t < to; t++) {
    backward_all(m, t);
    ck_assert_msg(lk_step(o) == LK_OK, "%s", (lk_error(m->ctx, &why), why));
  }
}

/* The sticky error is of this status and says this; clears it. */
static void ck_refused(lk_ctx *ctx, lk_status status, const char *says) {
  const char *message;
  ck_assert_int_eq(lk_error(ctx, &message), status);
  ck_assert_msg(strstr(message, says) != NULL, "'%s' is not in '%s'", says, message);
  lk_error_clear(ctx);
}

static void ck_near(double a, double b, double tolerance) {
  ck_assert_msg(fabs(a - b) <= tolerance * fmax(1, fabs(b)), "%.17g is not %.17g", a, b);
}

/* ---- tests ---- */

static void follow(const trajectory *c, lk_dtype dtype, double tolerance) {
  net m;
  open_net(&m, dtype);
  lk_optim *o = new_optim(&m, c->cls, &c->options);
  ck_assert_int_eq(lk_optim_group(o, "*.b", c->rate, c->decay), LK_OK);
  for (int t = 0; t < STEPS; t++) {
    backward(m.p[0], t, 1);
    if (!c->sparse || t % 3) backward(m.p[1], t, 1);
    ck_assert_int_eq(lk_step(o), LK_OK);
    ck_near(lk_view_get(&m.p[0]->value, 5), c->expect[t][0], tolerance);
    ck_near(lk_view_get(&m.p[1]->value, 2), c->expect[t][1], tolerance);
    ck_near(lk_grad_norm(o), c->expect[t][2], tolerance);
    ck_assert_int_eq(lk_optim_step_count(o), t + 1);
  }
  close_net(&m, o);
}

START_TEST(test_trajectory_f64) { follow(&trajectories[_i], LK_F64, 1e-13); }
END_TEST

START_TEST(test_trajectory_f32) { follow(&trajectories[_i], LK_F32, 3e-6); }
END_TEST

START_TEST(test_defaults_are_torchs) {
  lk_optim_options sgd = lk_optim_defaults(&lk_optim_sgd), adam = lk_optim_defaults(&lk_optim_adam),
                   adamw = lk_optim_defaults(&lk_optim_adamw);
  ck_assert(sgd.lr == 1e-3 && sgd.weight_decay == 0 && sgd.momentum == 0 && sgd.nesterov == 0);
  ck_assert(adam.lr == 1e-3 && adam.weight_decay == 0 && adam.beta1 == 0.9 && adam.beta2 == 0.999 && adam.eps == 1e-8);
  ck_assert(adamw.lr == 1e-3 && adamw.weight_decay == 0.01 && adamw.eps == 1e-8 && adamw.skip_without_grad == 1);
  for (int i = 0; lk_optim_classes()[i]; i++)
    ck_assert_ptr_eq(lk_optim_find(lk_optim_classes()[i]->name), lk_optim_classes()[i]);
  ck_assert_ptr_null(lk_optim_find("adamx"));
}
END_TEST

START_TEST(test_options_refused) {
  static const struct {
    const char *cls, *says;
    lk_optim_options options;
  } bad[] = {
      {"adamw", "adamw: beta2 = 1 is outside [0, 1)", {.beta2 = 1}},
      {"adam", "adam: lr = -1 is outside [0, inf)", {.lr = -1}},
      {"adam", "adam: eps = nan", {.eps = NAN}},
      {"sgd", "sgd: clip_norm = -1", {.clip_norm = -1}},
      {"sgd", "sgd: skip_without_grad = 2 is outside [0, 2)", {.skip_without_grad = 2}},
      {"sgd", "sgd: nesterov needs a momentum", {.nesterov = 1}},
      {"sgd", "sgd has no option beta1 (0.9)", {.beta1 = 0.9}},
      {"adamw", "adamw has no option momentum", {.momentum = 0.9}},
  };
  net m;
  open_net(&m, LK_F32);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ck_assert_ptr_null(lk_optim_new(m.ctx, lk_optim_find(bad[i].cls), &bad[i].options, m.p, 2));
    ck_refused(m.ctx, LK_EARG, bad[i].says);
  }
  close_net(&m, NULL);
}
END_TEST

START_TEST(test_parameters_refused) {
  net m;
  open_net(&m, LK_F32);
  m.p[0]->requires_grad = 0;
  m.p[1]->kind = LK_BUFFER;
  ck_assert_ptr_null(lk_optim_new(m.ctx, &lk_optim_adamw, NULL, m.p, 2));
  ck_refused(m.ctx, LK_ENOGRAD, "none of the 2 parameters is trainable");
  ck_assert_ptr_null(lk_optim_new(m.ctx, &lk_optim_adamw, NULL, NULL, 0));
  ck_refused(m.ctx, LK_ENOGRAD, "none of the 0 parameters");
  ck_assert_ptr_null(lk_optim_new(m.ctx, NULL, NULL, m.p, 2));
  ck_refused(m.ctx, LK_ENIL, "no such class");
  ck_assert_ptr_null(lk_optim_new(m.ctx, &lk_optim_adamw, NULL, (lk_param *[]){NULL}, 1));
  ck_refused(m.ctx, LK_ENIL, "params[0] is NULL");
  lk_param *p = lk_param_new(m.ctx, "net.steps", LK_TRAINED, LK_I64, 1, (int64_t[]){2});
  ck_assert_ptr_null(lk_optim_new(m.ctx, &lk_optim_sgd, NULL, &p, 1));
  ck_refused(m.ctx, LK_EDTYPE, "parameter net.steps is i64");
  lk_param_free(p);
  ck_assert_int_eq(lk_step(NULL), LK_ENIL);
  close_net(&m, NULL);
}
END_TEST

/* A tied parameter is stepped once; a mapped one gets memory of its own. */
START_TEST(test_tied_and_mapped) {
  net m;
  open_net(&m, LK_F32);
  lk_param tied = *m.p[0];
  tied.name = "net.tied";
  tied.alias = m.p[0];
  float mapped[5] = {1, 2, 3, 4, 5};
  lk_param window = *m.p[1];
  window.value.p = mapped;
  window.owned = 0;
  lk_optim_options options = lk_optim_defaults(&lk_optim_sgd);
  options.lr = 1;
  lk_optim *o = lk_optim_new(m.ctx, &lk_optim_sgd, &options, (lk_param *[]){&tied, m.p[0], &window}, 3);
  double before = lk_view_get(&m.p[0]->value, 0);
  lk_view g = gradient(m.p[0]), gw = gradient(&window);
  lk_view_set(&g, 0, 0.5);
  lk_view_set(&gw, 0, 0.25);
  m.p[0]->has_grad = window.has_grad = 1;
  ck_assert_int_eq(lk_step(o), LK_OK);
  ck_assert(lk_view_get(&m.p[0]->value, 0) == before - 0.5);
  ck_assert(lk_view_get(&window.value, 0) == 0.75 && mapped[0] == 1);
  ck_assert_int_eq(lk_optim_state_count(o), 3); /* step, net.w.step, net.b.step */
  lk_free(m.ctx, window.value.p);
  lk_free(m.ctx, window.grad);
  close_net(&m, o);
}
END_TEST

START_TEST(test_groups) {
  net m;
  open_net(&m, LK_F64);
  lk_optim_options options = lk_optim_defaults(&lk_optim_sgd);
  options.lr = 0.5;
  options.weight_decay = 0.25;
  lk_optim *o = new_optim(&m, "sgd", &options);
  ck_assert_int_eq(lk_optim_group(o, "net.*", 8, 8), LK_OK);
  ck_assert_int_eq(lk_optim_group(o, "*.w", 2, 4), LK_OK); /* replaces, does not multiply */
  lk_view_set(&m.p[0]->value, 0, 1);
  lk_view_set(&m.p[1]->value, 0, 1);
  for (int i = 0; i < 2; i++) {
    gradient(m.p[i]);
    m.p[i]->has_grad = 1;
  }
  ck_assert_int_eq(lk_step(o), LK_OK);
  ck_assert(lk_view_get(&m.p[0]->value, 0) == 1 - 0.5 * 2 * 0.25 * 4);
  ck_assert(lk_view_get(&m.p[1]->value, 0) == 1 - 0.5 * 8 * 0.25 * 8);
  lk_optim_group(o, "*.lora_B*", 2, 1);
  ck_refused(m.ctx, LK_EARG, "group '*.lora_B*' matches none of the 2 trained parameters; the first is net.w");
  lk_optim_group(o, "*", -1, 1);
  ck_refused(m.ctx, LK_EARG, "rate -1");
  close_net(&m, o);
}
END_TEST

START_TEST(test_loraplus) {
  enum { N = sizeof loraplus / sizeof *loraplus };
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_param *p[N];
  for (int i = 0; i < N; i++)
    p[i] = lk_param_new(ctx, loraplus[i].name, LK_TRAINED, LK_F64, loraplus[i].ndim, (int64_t[]){1, 1});
  lk_optim_options options = lk_optim_defaults(&lk_optim_sgd);
  options.lr = 0.01;
  options.weight_decay = 0.1;
  lk_optim *o = lk_optim_new(ctx, &lk_optim_sgd, &options, p, N);
  ck_assert_int_eq(lk_optim_loraplus(o, 16, 0.001), LK_OK);
  for (int pass = 0; pass < 2; pass++) { /* from 0 with gradient 1: lr; from 1 with gradient 0: lr weight_decay */
    for (int i = 0; i < N; i++) {
      lk_view g = gradient(p[i]);
      lk_view_set(&p[i]->value, 0, pass);
      lk_view_set(&g, 0, 1 - pass);
      p[i]->has_grad = 1;
    }
    ck_assert_int_eq(lk_step(o), LK_OK);
    for (int i = 0; i < N; i++)
      ck_near(pass - lk_view_get(&p[i]->value, 0), loraplus[i].lr * (pass ? loraplus[i].weight_decay : 1), 1e-15);
  }
  lk_optim_loraplus(o, 0.5, 0);
  ck_refused(ctx, LK_EARG, "ratio 0.5");
  lk_optim_free(o);
  for (int i = 0; i < N; i++) lk_param_free(p[i]);
  lk_ctx_free(ctx);
}
END_TEST

/* The norm of all gradients together becomes clip_norm; smaller ones stay. */
START_TEST(test_clip) {
  net m;
  open_net(&m, LK_F64);
  lk_optim_options options = lk_optim_defaults(&lk_optim_sgd);
  options.lr = 1;
  options.clip_norm = 1;
  lk_optim *o = new_optim(&m, "sgd", &options);
  for (int big = 0; big < 2; big++) {
    double norm = big ? 5 : 0.5;
    lk_view w = gradient(m.p[0]), b = gradient(m.p[1]);
    lk_view_set(&m.p[0]->value, 11, 0);
    lk_view_set(&m.p[1]->value, 4, 0);
    lk_view_set(&w, 11, 0.6 * norm);
    lk_view_set(&b, 4, 0.8 * norm);
    m.p[0]->has_grad = m.p[1]->has_grad = 1;
    ck_assert_int_eq(lk_step(o), LK_OK);
    ck_near(lk_grad_norm(o), norm, 1e-15);
    double scale = big ? 1 / (norm + 1e-6) : 1;
    ck_near(lk_view_get(&m.p[0]->value, 11), -0.6 * norm * scale, 1e-15);
    ck_near(lk_view_get(&m.p[1]->value, 4), -0.8 * norm * scale, 1e-15);
  }
  lk_view b = gradient(m.p[1]);
  lk_view_set(&b, 0, 1e200);
  m.p[1]->has_grad = 1;
  ck_assert_int_eq(lk_step(o), LK_ENONFINITE);
  ck_refused(m.ctx, LK_ENONFINITE, "the norm of the gradients overflows at net.b");
  close_net(&m, o);
}
END_TEST

/* A bad gradient is named and nothing is written; without that batch the run goes on as if it had not been. */
START_TEST(test_not_finite) {
  const double bad[] = {NAN, INFINITY, -INFINITY};
  const lk_dtype dtype = _i % 2 ? LK_F64 : LK_F32;
  net m, clean;
  open_net(&m, dtype);
  open_net(&clean, dtype);
  lk_optim *o = new_optim(&m, "adamw", NULL), *oc = new_optim(&clean, "adamw", NULL);
  run(&m, o, 0, 3);
  run(&clean, oc, 0, 3);
  uint32_t version = m.p[0]->version;
  backward_all(&m, 3);
  lk_view g = gradient(m.p[1]);
  lk_view_set(&g, 3, bad[_i % 3]);
  lk_view_set(&g, 4, bad[_i % 3]);
  ck_assert_int_eq(lk_step(o), LK_ENONFINITE);
  ck_assert_int_eq(lk_step(o), LK_ENONFINITE); /* sticky */
  ck_refused(m.ctx, LK_ENONFINITE, "the gradient of net.b [5] is not finite: element 3 is ");
  ck_assert_uint_eq(m.p[0]->version, version);
  ck_assert_int_eq(lk_optim_step_count(o), 3);
  ck_assert_int_eq(m.p[0]->has_grad, 1);
  lk_optim_zero_grad(o);
  ck_assert_int_eq(m.p[0]->has_grad, 0);
  run(&m, o, 4, 6);
  run(&clean, oc, 4, 6);
  for (int i = 0; i < 2; i++) ck_assert_mem_eq(m.p[i]->value.p, clean.p[i]->value.p, lk_view_bytes(&m.p[i]->value));
  close_net(&m, o);
  close_net(&clean, oc);
}
END_TEST

START_TEST(test_who_is_stepped) {
  net m;
  open_net(&m, LK_F32);
  lk_optim *o = new_optim(&m, "adamw", NULL);
  ck_assert_int_eq(lk_step(o), LK_ENOGRAD);
  ck_refused(m.ctx, LK_ENOGRAD, "none of the 2 parameters has a gradient");
  float before = ((float *)m.p[0]->value.p)[0];
  uint32_t version[2] = {m.p[0]->version, m.p[1]->version};
  backward_all(&m, 0);
  m.p[0]->requires_grad = 0; /* frozen meanwhile */
  ck_assert_int_eq(lk_step(o), LK_OK);
  ck_assert(((float *)m.p[0]->value.p)[0] == before && m.p[0]->version == version[0]);
  ck_assert_uint_eq(m.p[1]->version, version[1] + 1);
  ck_assert(!m.p[0]->has_grad && !m.p[1]->has_grad);
  m.p[1]->kind = LK_RETIRED;
  backward_all(&m, 1);
  ck_assert_int_eq(lk_step(o), LK_ENOGRAD);
  lk_error_clear(m.ctx);
  m.p[0]->requires_grad = 1;
  m.p[0]->value.shape[0] = 2;
  m.p[0]->has_grad = 1;
  ck_assert_int_eq(lk_step(o), LK_ESHAPE);
  ck_refused(m.ctx, LK_ESHAPE, "parameter net.w had 12 elements of f32");
  close_net(&m, o);
}
END_TEST

/* Two micro-batches of half the loss are one batch. */
START_TEST(test_accumulation) {
  net once, twice;
  open_net(&once, LK_F64);
  open_net(&twice, LK_F64);
  lk_optim *o = new_optim(&once, "adam", NULL), *o2 = new_optim(&twice, "adam", NULL);
  for (int t = 0; t < 4; t++) {
    backward_all(&once, t);
    for (int micro = 0; micro < 2; micro++)
      for (int i = 0; i < 2; i++) backward(twice.p[i], t, 2);
    ck_assert_int_eq(lk_step(o), LK_OK);
    ck_assert_int_eq(lk_step(o2), LK_OK);
  }
  ck_assert_mem_eq(once.p[0]->value.p, twice.p[0]->value.p, 12 * sizeof(double));
  close_net(&once, o);
  close_net(&twice, o2);
}
END_TEST

/* ---- hooks ---- */

typedef struct diary {
  net *m;
  char text[16];
  double seen;
} diary;

static void note(diary *d, char c) {
  size_t n = strlen(d->text);
  if (n + 1 < sizeof d->text) d->text[n] = c;
  d->seen = lk_view_get(&d->m->p[0]->value, 0);
}
static int before_step(void *arg) {
  diary *d = arg;
  lk_view g = gradient(d->m->p[0]);
  ck_assert(fabs(lk_view_get(&g, 0)) <= 0.01); /* clipped by now */
  note(d, 'b');
  return 0;
}
static int after_step(void *arg) {
  note(arg, 'a');
  ck_assert_int_eq(((diary *)arg)->m->p[0]->has_grad, 1);
  return 0;
}
static int refuse_step(void *arg) {
  note(arg, 'r');
  return 1;
}

START_TEST(test_hooks) {
  net m;
  open_net(&m, LK_F64);
  lk_optim_options options = lk_optim_defaults(&lk_optim_sgd);
  options.clip_norm = 0.01;
  lk_optim *o = new_optim(&m, "sgd", &options);
  diary first = {&m, "", 0}, second = {&m, "", 0};
  double start = lk_view_get(&m.p[0]->value, 0);
  ck_assert_int_eq(lk_optim_on_step(o, before_step, after_step, &first), LK_OK);
  ck_assert_int_eq(lk_optim_on_step(o, before_step, NULL, &second), LK_OK);
  run(&m, o, 0, 2);
  ck_assert_str_eq(first.text, "baba");
  ck_assert_str_eq(second.text, "bb");
  ck_assert(first.seen != start && first.seen == lk_view_get(&m.p[0]->value, 0));
  ck_assert_int_eq(lk_optim_on_step(o, refuse_step, NULL, &second), LK_OK);
  backward_all(&m, 2);
  ck_assert_int_eq(lk_step(o), LK_EARG);
  ck_refused(m.ctx, LK_EARG, "the before hook refused");
  ck_assert_int_eq(lk_optim_step_count(o), 2);
  ck_assert(first.seen == lk_view_get(&m.p[0]->value, 0));
  close_net(&m, o);
}
END_TEST

/* ---- schedules ---- */

START_TEST(test_schedule) {
  const lk_schedule *s = &schedules[_i].schedule;
  for (int64_t t = 0; t <= s->total; t++) ck_near(lk_schedule_lr(s, t), schedules[_i].lr[t], 1e-17);
  ck_assert(lk_schedule_lr(s, s->total + 5) == lk_schedule_lr(s, s->total)); /* and there it stays */
}
END_TEST

START_TEST(test_schedule_edges) {
  lk_schedule s = {LK_SCHEDULE_LINEAR, 1, 5, 3, 0.25}; /* all warm-up */
  ck_assert(lk_schedule_lr(&s, -1) == 0 && lk_schedule_lr(&s, 4) == 0.8 && lk_schedule_lr(&s, 9) == 0.25);
  ck_assert_int_eq(lk_schedule_find("cosine"), LK_SCHEDULE_COSINE);
  ck_assert_int_eq(lk_schedule_find("linear"), LK_SCHEDULE_LINEAR);
  ck_assert_int_eq(lk_schedule_find("constant"), LK_SCHEDULE_CONSTANT);
  ck_assert_int_eq(lk_schedule_find("cosinus"), -1);
  ck_assert_int_eq(lk_schedule_find(NULL), -1);
}
END_TEST

START_TEST(test_learning_rate) {
  net m;
  open_net(&m, LK_F64);
  lk_optim_options options = lk_optim_defaults(&lk_optim_sgd);
  options.lr = 0.25;
  lk_optim *o = new_optim(&m, "sgd", &options);
  ck_assert(lk_optim_lr(o) == 0.25);
  ck_assert_int_eq(lk_optim_set_lr(o, 0), LK_OK);
  double before = lk_view_get(&m.p[0]->value, 0);
  run(&m, o, 0, 1);
  ck_assert(lk_view_get(&m.p[0]->value, 0) == before && lk_optim_lr(o) == 0);
  ck_assert_int_eq(lk_optim_set_lr(o, NAN), LK_EARG);
  ck_refused(m.ctx, LK_EARG, "nan is not a learning rate");
  close_net(&m, o);
}
END_TEST

/* ---- resume, threads, memory ---- */

/* Copies every state tensor of from to the one of the same name. */
static void restore(lk_optim *to, const lk_optim *from) {
  ck_assert_int_eq(lk_optim_state_count(to), lk_optim_state_count(from));
  for (int i = 0; i < lk_optim_state_count(from); i++) {
    const lk_optim_state *s = lk_optim_state_at(from, i), *t = lk_optim_state_at(to, i);
    ck_assert_str_eq(s->name, t->name);
    ck_assert(lk_view_same_shape(&s->view, &t->view) && s->view.dtype == t->view.dtype);
    memcpy(t->view.p, s->view.p, lk_view_bytes(&s->view));
  }
  ck_assert_ptr_null(lk_optim_state_at(from, lk_optim_state_count(from)));
}

/* 4 steps, save, restore elsewhere, 6 steps: the same bits as 10. */
START_TEST(test_resume) {
  const trajectory *c = &trajectories[_i];
  net m, resumed;
  open_net(&m, LK_F32);
  open_net(&resumed, LK_F32);
  lk_optim *o = new_optim(&m, c->cls, &c->options), *r = new_optim(&resumed, c->cls, &c->options);
  backward(m.p[0], 9, 1); /* so that the parameters' step counts differ */
  ck_assert_int_eq(lk_step(o), LK_OK);
  run(&m, o, 0, 4);
  restore(r, o);
  for (int i = 0; i < 2; i++) ck_assert_int_eq(lk_param_assign(resumed.p[i], &m.p[i]->value), LK_OK);
  run(&m, o, 4, STEPS);
  run(&resumed, r, 4, STEPS);
  ck_assert_int_eq(lk_optim_step_count(r), STEPS + 1);
  for (int i = 0; i < 2; i++) ck_assert_mem_eq(m.p[i]->value.p, resumed.p[i]->value.p, lk_view_bytes(&m.p[i]->value));
  close_net(&m, o);
  close_net(&resumed, r);
}
END_TEST

START_TEST(test_state_names) {
  static const char *const expect[] = {"step",          "net.w.exp_avg",    "net.w.exp_avg_sq", "net.w.step",
                                       "net.b.exp_avg", "net.b.exp_avg_sq", "net.b.step"};
  net m;
  open_net(&m, LK_F64);
  lk_optim *o = new_optim(&m, "adam", NULL);
  ck_assert_int_eq(lk_optim_state_count(o), 7);
  for (int i = 0; i < 7; i++) ck_assert_str_eq(lk_optim_state_at(o, i)->name, expect[i]);
  ck_assert_int_eq(lk_optim_state_at(o, 1)->view.dtype, LK_F64);
  ck_assert_int_eq(lk_optim_state_at(o, 1)->view.ndim, 2);
  run(&m, o, 0, 1);
  backward(m.p[0], 1, 1);
  ck_assert_int_eq(lk_step(o), LK_OK);
  ck_assert_int_eq(*(int64_t *)lk_optim_state_at(o, 3)->view.p, 2);
  ck_assert_int_eq(*(int64_t *)lk_optim_state_at(o, 6)->view.p, 1);
  close_net(&m, o);
}
END_TEST

/* Large tensors in pieces: the same bits on 1 and 3 threads, clipping and norm included; warm steps do not allocate. */
START_TEST(test_threads) {
  const trajectory *c = &trajectories[_i];
  const int64_t n = 100003;
  void *result[2];
  double norm[2];
  for (int run = 0; run < 2; run++) {
    lk_ctx *ctx = lk_ctx_new(&(lk_ctx_options){.threads = run ? 3 : 1});
    lk_param *p = lk_param_new(ctx, "p", LK_TRAINED, LK_F32, 1, &n);
    lk_optim_options options = c->options;
    options.clip_norm = 1;
    lk_optim *o = lk_optim_new(ctx, lk_optim_find(c->cls), &options, &p, 1);
    gradient(p);
    uint64_t allocations = lk_ctx_statistics(ctx).allocations;
    for (int t = 0; t < 3; t++) {
      backward(p, t, 1);
      ck_assert_int_eq(lk_step(o), LK_OK);
    }
    ck_assert_uint_eq(lk_ctx_statistics(ctx).allocations, allocations);
    norm[run] = lk_grad_norm(o);
    result[run] = malloc((size_t)n * sizeof(float));
    memcpy(result[run], p->value.p, (size_t)n * sizeof(float));
    lk_optim_free(o);
    lk_param_free(p);
    lk_ctx_free(ctx);
  }
  ck_assert(norm[0] == norm[1]);
  ck_assert_int_eq(memcmp(result[0], result[1], (size_t)n * sizeof(float)), 0);
  free(result[0]);
  free(result[1]);
}
END_TEST

static lk_status story(lk_ctx *ctx, void *arg) {
  net m = {NULL, {NULL, NULL}};
  make_net(&m, ctx, LK_F64);
  lk_optim_options options = lk_optim_defaults(&lk_optim_adamw);
  options.skip_without_grad = 0; /* so that the step makes the gradient that net.b lacks */
  lk_optim *o = lk_optim_new(ctx, &lk_optim_adamw, &options, m.p, 2);
  lk_status status = o ? lk_optim_on_step(o, NULL, NULL, arg) : lk_error(ctx, NULL);
  if (!status) {
    backward(m.p[0], 0, 1);
    status = lk_step(o);
    ck_assert_int_eq(lk_optim_step_count(o), status ? 0 : 1);
  }
  lk_optim_free(o);
  for (int i = 0; i < 2; i++) lk_param_free(m.p[i]);
  return status;
}

START_TEST(test_failing_allocator) {
  uint64_t count = 0;
  const char *why = test_each_allocation(story, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 15);
}
END_TEST

int main(void) {
  const int cases = sizeof trajectories / sizeof *trajectories;
  Suite *s = suite_create("optim");
  TCase *t = tcase_create("optim");
  suite_add_tcase(s, t);
  tcase_set_timeout(t, 240);
  tcase_add_loop_test(t, test_trajectory_f64, 0, cases);
  tcase_add_loop_test(t, test_trajectory_f32, 0, cases);
  tcase_add_test(t, test_defaults_are_torchs);
  tcase_add_test(t, test_options_refused);
  tcase_add_test(t, test_parameters_refused);
  tcase_add_test(t, test_tied_and_mapped);
  tcase_add_test(t, test_groups);
  tcase_add_test(t, test_loraplus);
  tcase_add_test(t, test_clip);
  tcase_add_loop_test(t, test_not_finite, 0, 6);
  tcase_add_test(t, test_who_is_stepped);
  tcase_add_test(t, test_accumulation);
  tcase_add_test(t, test_hooks);
  tcase_add_loop_test(t, test_schedule, 0, sizeof schedules / sizeof *schedules);
  tcase_add_test(t, test_schedule_edges);
  tcase_add_test(t, test_learning_rate);
  tcase_add_loop_test(t, test_resume, 0, cases);
  tcase_add_test(t, test_state_names);
  tcase_add_loop_test(t, test_threads, 0, cases);
  tcase_add_test(t, test_failing_allocator);
  SRunner *runner = srunner_create(s);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
