/* test_mixture.c: mixtures of experts: routing, dispatch, balance loss, load; the corners: one token, an expert without
 * one, ties, NaN, padding, recomputation, threads. */
#include "adapters.h"
#include "files.h"

#include <lorikeet/checkpoint.h>
#include <lorikeet/mixture.h>

enum { IN = 6, OUT = 5, TOKENS = 12, GRADS = 4096 };

static test_allocator heap;
static lk_ctx *ctx;
static lk_model *model;
static lk_linear_layer *layer;
static lk_tape *t;
static int64_t tokens; /* of the input */
static double gx[TOKENS * IN];

static void open_model(lk_ctx *c, lk_dtype dtype) {
  ctx = c;
  tokens = TOKENS;
  model = lk_model_new(ctx, dtype, 0);
  layer = lk_linear_new(lk_model_root(model), "site", IN, OUT, 0);
  t = lk_tape_new(ctx);
}

static void close_model(void) {
  lk_tape_free(t);
  lk_model_free(model);
  t = NULL;
  model = NULL;
}

static void setup(void) { open_model(test_ctx(&heap, 0), LK_F64); }

static void teardown(void) {
  close_model();
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static void fine(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
}

static void expect(lk_status status, const char *words) {
  const char *message = "";
  lk_status is = lk_error(ctx, &message);
  ck_assert_msg(is == status && strstr(message, words), "want %s and '%s', got %s: '%s'", lk_status_name(status), words,
                lk_status_name(is), message);
  lk_error_clear(ctx);
}

static lk_at *at(void) { return layer->module.site->stacks->chain; }

static lk_param *param(const char *name) {
  char path[100];
  snprintf(path, sizeof path, "site.%s", name);
  for (lk_at *a = at(); a; a = lk_at_walk(at(), a))
    for (lk_param *p = a->params; p; p = p->next)
      if (!strcmp(p->name, path)) return p;
  ck_abort_msg("no parameter %s", path);
  return NULL;
}

static void attach(const char *spec) {
  lk_attach(model, "default", spec, "site");
  fine();
  test_perturb_trained(model);
}

static lk_view input_view(void) {
  static double x[TOKENS * IN];
  lk_view v;
  lk_view_init(&v, LK_F64, 2, (int64_t[]){tokens, IN});
  for (int i = 0; i < TOKENS * IN; i++) x[i] = test_number("x", i);
  v.p = x;
  return v;
}

static lk_tensor input(void) {
  lk_view v = input_view();
  memset(gx, 0, sizeof gx);
  return lk_leaf(t, &v, gx);
}

static lk_tensor forward(lk_tensor x) { return lk_linear_forward(layer, t, x); }

/* A pass in training (step 1) or evaluation; the output's size. */
static int run(int training, double *y) {
  lk_tape_reset(t);
  if (training) lk_train(t, 1, 0);
  return test_values(t, forward(input()), y);
}

/* Gradients of x and of what trains, in order; an expert's without a token are zero. */
static int gradients(double *g) {
  int n, used = 0;
  lk_param **p = lk_trainable(model, &n);
  memcpy(g, gx, (size_t)tokens * IN * sizeof *g);
  used += (int)tokens * IN;
  for (int i = 0; i < n; i++) {
    lk_view v = p[i]->value;
    v.p = p[i]->grad;
    for (int64_t k = 0; k < lk_param_count(p[i]); k++) g[used++] = p[i]->has_grad ? lk_view_get(&v, k) : 0;
    lk_param_zero_grad(p[i]);
  }
  lk_free(ctx, p);
  ck_assert_int_le(used, GRADS);
  return used;
}

static void same(const char *what, const double *a, const double *b, int n, double tolerance) {
  double error = test_error(a, b, n);
  ck_assert_msg(error <= tolerance, "%s: off by %g", what, error);
}

/* ---- against the dense sum over all experts ---- */

/* G [T, n] from the probabilities, by definition. */
static void gates(const double *p, int n, int k, double *G) {
  for (int64_t i = 0; i < tokens; i++) {
    memset(G + i * n, 0, (size_t)n * sizeof *G);
    for (int j = 0; j < k; j++) {
      int best = -1;
      for (int e = 0; e < n; e++)
        if (G[i * n + e] == 0 && (best < 0 || p[i * n + e] > p[i * n + best])) best = e;
      G[i * n + best] = p[i * n + best];
    }
  }
}

/* G as a value on the tape with the gradient of p: p times a constant 0/1 mask, divided by its sum. */
static lk_tensor dense_gates(lk_tensor x, int n, int k, int renormalize) {
  double p[TEST_MOST], G[TEST_MOST];
  lk_tensor probabilities = lk_softmax(t, lk_linear(t, x, lk_use(t, param("router.weight")), lk_nil()), 1);
  test_values(t, probabilities, p);
  gates(p, n, k, G);
  for (int i = 0; i < tokens * n; i++) G[i] = G[i] != 0;
  lk_tensor chosen = lk_mul(t, probabilities, lk_input(t, LK_F64, 2, (int64_t[]){tokens, n}, G));
  return renormalize ? lk_div(t, chosen, lk_sum(t, chosen, 1, &(int){1}, 1)) : chosen;
}

/* y = W0 x + b0 + s sum_i G_i B_i A_i x with every expert computing for every token. */
static lk_tensor dense_molora(lk_tensor x, int n, int k, int renormalize, double s) {
  lk_tensor G = dense_gates(x, n, k, renormalize);
  lk_tensor y = lk_linear(t, x, lk_use(t, layer->weight), lk_use(t, layer->bias));
  for (int i = 0; i < n; i++) {
    lk_tensor h = lk_linear(t, x, lk_expert_part(t, param("A"), i), lk_nil());
    lk_tensor d = lk_linear(t, h, lk_expert_part(t, param("B"), i), lk_nil());
    y = lk_add(t, y, lk_scale(t, lk_mul(t, d, lk_slice(t, G, 1, i, 1, 1)), s));
  }
  return y;
}

static void ck_dense(int n, int k, int renormalize) {
  char spec[120];
  double y[TEST_MOST], z[TEST_MOST], g[GRADS], h[GRADS];
  int n_gradients = 0;
  snprintf(spec, sizeof spec, "molora n=%d k=%d r=3 alpha=5 dropout=0 renormalize=%d", n, k, renormalize);
  attach(spec);
  for (int dense = 0; dense < 2; dense++) {
    lk_tape_reset(t);
    lk_tensor x = input(), out = dense ? dense_molora(x, n, k, renormalize, 5.0 / 3) : forward(x);
    test_values(t, out, dense ? z : y);
    lk_backward(t, test_loss(t, out));
    fine();
    n_gradients = gradients(dense ? h : g);
  }
  same(spec, y, z, (int)tokens * OUT, 1e-13);
  same(spec, g, h, n_gradients, 1e-13);
  lk_detach(model, "default");
}

START_TEST(dense_equals_sparse) {
  for (int n = 1; n <= 6; n++)
    for (int k = 1; k <= n; k++)
      for (int renormalize = 0; renormalize < 2; renormalize++)
        for (tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1) ck_dense(n, k, renormalize);
}
END_TEST

/* ---- the wrapper ---- */

/* Gives expert i of "mixture (lora)" the i-th matrices of a stack. */
static void unstack(const char *expert_param, const lk_view *stack, int n) {
  char name[100];
  lk_view part = *stack;
  part.ndim = 2;
  memmove(part.shape, stack->shape + 1, 2 * sizeof *part.shape);
  memmove(part.stride, stack->stride + 1, 2 * sizeof *part.stride);
  for (int i = 0; i < n; i++) {
    snprintf(name, sizeof name, "experts.%d.%s", i, expert_param);
    part.p = (double *)stack->p + i * stack->stride[0];
    lk_param_assign(param(name), &part);
  }
}

static void copy_view(const lk_param *p, lk_view *v, double *room) {
  *v = p->value;
  v->p = memcpy(room, p->value.p, lk_view_bytes(&p->value));
}

START_TEST(mixture_of_lora_is_molora) {
  static const char *const options[] = {"k=2", "k=1", "k=4", "k=3 renormalize"};
  for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
    char spec[120];
    double room[3][200], y[TEST_MOST], z[TEST_MOST], g[GRADS], h[GRADS], keep[TOKENS * IN];
    lk_view W, A, B;
    for (int i = 0; i < TOKENS * IN; i++) keep[i] = i % 5 != 0;
    for (int wrapped = 0; wrapped < 2; wrapped++) {
      if (wrapped) snprintf(spec, sizeof spec, "mixture n=4 %s dropout=0.2 (lora r=2 alpha=6)", options[o]);
      else snprintf(spec, sizeof spec, "molora n=4 %s r=2 alpha=6 dropout=0.2", options[o]);
      attach(spec);
      if (wrapped) {
        lk_param_assign(param("router.weight"), &W);
        unstack("lora_A.weight", &A, 4);
        unstack("lora_B.weight", &B, 4);
      } else {
        copy_view(param("router.weight"), &W, room[0]);
        copy_view(param("A"), &A, room[1]);
        copy_view(param("B"), &B, room[2]);
      }
      lk_tape_reset(t);
      lk_train(t, 1, 0);
      lk_side(t, "site.drop", lk_input(t, LK_F64, 2, (int64_t[]){tokens, IN}, keep));
      lk_tensor out = forward(input()), loss = test_loss(t, out);
      test_values(t, out, wrapped ? z : y);
      lk_backward(t, lk_add(t, loss, lk_adapter_loss(model, t)));
      fine();
      gradients(wrapped ? h : g);
      lk_detach(model, "default");
    }
    same(spec, z, y, TOKENS * OUT, 1e-13);
    same(spec, h, g, TOKENS * IN + 4 * IN, 1e-13); /* x, router */
  }
}
END_TEST

/* One expert with gate 1 is its chain. */
START_TEST(one_expert_is_its_chain) {
  static const char *const chains[] = {"lora r=2 | magnitude", "lora:a r=2 | lora:b r=1", "bias", "gain | lora r=2"};
  test_register(model);
  for (size_t i = 0; i < sizeof chains / sizeof *chains; i++) {
    char spec[120];
    double y[TEST_MOST], z[TEST_MOST];
    snprintf(spec, sizeof spec, "mixture n=1 k=1 (%s)", chains[i]);
    attach(spec);
    int n = run(0, y);
    lk_detach(model, "default");
    attach(chains[i]);
    run(0, z);
    lk_detach(model, "default");
    same(spec, y, z, n, 1e-14);
  }
}
END_TEST

/* ---- what a router must not do ---- */

START_TEST(nan_in_a_router) {
  static const char *const specs[] = {"molora n=4 k=2", "molora n=4 soft", "malora n=4 k=1 d=4 R=2",
                                      "mixture n=3 k=3 (lora)"};
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
    double y[TEST_MOST];
    attach(specs[i]);
    lk_param *W = param("router.weight");
    lk_view_set(&W->value, IN + 2, NAN);
    lk_param_touch(W);
    ck_assert_int_eq(run(0, y), 0);
    expect(LK_ENONFINITE, "the router of site gives token 0 no probability");
    lk_view_set(&W->value, IN + 2, 0);
    lk_param_touch(W);
    ck_assert_int_eq(run(0, y), TOKENS * OUT);
    fine();
    lk_detach(model, "default");
  }
}
END_TEST

/* Equal rows of W_g make equal probabilities, to the bit: the experts with lower numbers get the tokens. */
START_TEST(ties_go_to_the_lower_number) {
  enum { N = 7, WIDE = 70, MOST = 40 };
  for (int single = 0; single < 2; single++) {
    close_model();
    open_model(ctx, single ? LK_F32 : LK_F64);
    lk_linear_layer *wide = lk_linear_new(lk_model_root(model), "wide", WIDE, 2, 0);
    lk_attach(model, "default", "molora n=7 k=3 r=1 dropout=0", "wide");
    lk_at *a = wide->module.site->stacks->chain;
    lk_param *W = a->params;
    for (int64_t i = 0; i < N * WIDE; i++) lk_view_set(&W->value, i, test_number("row", i % WIDE));
    lk_param_touch(W);
    for (int64_t rows = 1; rows <= MOST; rows += 1 + rows / 4) {
      lk_routing to;
      lk_view x;
      lk_tape_reset(t);
      lk_tensor value = lk_input(t, single ? LK_F32 : LK_F64, 2, (int64_t[]){rows, WIDE}, NULL);
      lk_get(t, value, &x);
      for (int64_t i = 0; i < rows * WIDE; i++) lk_view_set(&x, i, test_number("x", i));
      ck_assert_int_eq(lk_route(a, t, value, &to), LK_OK);
      for (int e = 0; e < N; e++)
        ck_assert_msg(to.first[e + 1] - to.first[e] == (e < 3 ? rows : 0), "%d rows: expert %d has %d", (int)rows, e,
                      (int)(to.first[e + 1] - to.first[e]));
    }
  }
}
END_TEST

START_TEST(an_expert_without_token) {
  static const char *const specs[] = {"molora n=4 k=1 r=2", "malora n=4 k=1 d=3 R=2"};
  tokens = 1;
  for (int s = 0; s < 2; s++) {
    int got = 0;
    attach(specs[s]);
    lk_tape_reset(t);
    lk_backward(t, test_loss(t, forward(input())));
    fine();
    const int64_t *load = lk_router_load(at(), NULL);
    lk_param *B = param("B");
    for (int e = 0; e < 4; e++) {
      double largest = 0;
      int64_t size = lk_param_count(B) / 4;
      for (int64_t i = 0; i < size; i++) largest = fmax(largest, fabs(((double *)B->grad)[e * size + i]));
      ck_assert_msg((largest > 0) == (load[e] > 0), "expert %d: %g", e, largest);
      got += load[e] > 0;
    }
    ck_assert_int_eq(got, 1);
    lk_detach(model, "default");
  }
}
END_TEST

START_TEST(refusals) {
  static const struct {
    const char *spec, *words;
  } no[] = {{"molora n=2 k=3", "k = 3 of n = 2 experts"},
            {"molora n=1", "k = 2 of n = 1 experts"},
            {"mixture n=2 k=3 (lora)", "k = 3 of n = 2 experts"},
            {"malora d=4 R=5", "R = 5 is more than d = 4"},
            {"malora d=7 R=5", "d = 7 is more than the 6 inputs of site"},
            {"malora n=2 k=3 d=4 R=2", "k = 3 of n = 2 experts"},
            {"molora dropout=1", "dropout"},
            {"molora jitter=1", "jitter"},
            {"molora n=0", "molora: n"},
            {"mixture n=2 (lora r=2 init=pissa)", "must be the first adapter"},
            {"mixture (lora) | magnitude", "magnitude needs the weight"}};
  for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
    ck_assert_int_ne(lk_attach(model, "default", no[i].spec, "site"), LK_OK);
    expect(LK_EARG, no[i].words);
    ck_assert_ptr_null(layer->module.site->stacks);
  }
  attach("molora");
  ck_assert_int_ne(lk_merge(model, NULL), LK_OK);
  expect(LK_EARG, "molora at site cannot be merged: what it adds is chosen by the input");
}
END_TEST

/* ---- balance ---- */

/* L_bal of the model's only site, and the gradients of x and of the router's weight into g. */
static double balance(const double *mask, int recompute, double g[GRADS], double *y_part) {
  memset(g, 0, GRADS * sizeof *g);
  lk_tape_reset(t);
  lk_train(t, 1, 0);
  if (mask) lk_side(t, "token_mask", lk_input(t, LK_F64, 1, &tokens, mask));
  uint32_t scope = lk_scope_begin(t, "block", recompute ? LK_SCOPE_RECOMPUTE : 0);
  lk_tensor y = lk_scope_end(t, scope, forward(input()));
  lk_tensor loss = lk_adapter_loss(model, t), task = test_loss(t, y);
  double L = lk_item(t, loss);
  if (y_part) *y_part = lk_item(t, task);
  lk_backward(t, y_part ? lk_add(t, loss, task) : loss);
  fine();
  gradients(g);
  return L;
}

START_TEST(balance_by_definition) {
  enum { N = 5, K = 2 };
  double g[GRADS], p[TEST_MOST], G[TEST_MOST], v[TOKENS], want = 0, all = 0;
  attach("molora n=5 k=2 r=2 dropout=0 balance=0.3");
  lk_tape_reset(t);
  test_values(t, lk_softmax(t, lk_linear(t, input(), lk_use(t, param("router.weight")), lk_nil()), 1), p);
  gates(p, N, K, G);
  for (int masked = 0; masked < 2; masked++) {
    want = all = 0;
    for (int i = 0; i < TOKENS; i++) all += v[i] = !masked || i % 3 != 1;
    for (int e = 0; e < N; e++) {
      double f = 0, P = 0;
      for (int i = 0; i < TOKENS; i++) f += v[i] * (G[i * N + e] != 0) / all, P += v[i] * p[i * N + e] / all;
      want += N * f * P;
    }
    lk_router_forget(at());
    ck_assert_double_eq_tol(balance(masked ? v : NULL, 0, g, NULL), 0.3 * want, 1e-13);
    int64_t counted = 0;
    for (int e = 0; e < N; e++) counted += lk_router_load(at(), NULL)[e];
    ck_assert_int_eq(counted, (int64_t)all * K);
    for (int i = 0; masked && i < TOKENS; i++)
      for (int c = 0; c < IN; c++) ck_assert((v[i] != 0) == (g[i * IN + c] != 0)); /* x of padding has no say */
  }
  lk_tape_reset(t);
  lk_side(t, "token_mask", lk_input(t, LK_F64, 1, &(int64_t){5}, v));
  ck_assert(lk_is_nil(forward(input())));
  expect(LK_ESHAPE, "molora at site: token_mask has shape [5], the tokens [12]");
}
END_TEST

START_TEST(balance_is_averaged) {
  double once, g[GRADS];
  attach("molora n=5 k=2 r=2 dropout=0 balance=1");
  once = balance(NULL, 0, g, NULL);
  lk_tape_reset(t);
  for (int i = 0; i < 2; i++) forward(input()); /* the layer is used twice in a pass */
  ck_assert_double_eq_tol(lk_item(t, lk_adapter_loss(model, t)), once, 1e-13);
  lk_tape_reset(t);
  lk_no_grad(t, 1);
  forward(input());
  ck_assert(lk_is_nil(lk_adapter_loss(model, t)));
  lk_no_grad(t, 0);
  fine();
}
END_TEST

START_TEST(recomputation) {
  static const char *const specs[] = {"molora n=5 k=2 r=2 jitter=0.1",        "malora n=4 k=3 d=4 R=3 renormalize",
                                      "molora soft n=3 r=2 balance=1",        "mixture n=4 k=2 (lora r=2 dropout=0.2)",
                                      "mixture n=3 k=1 (molora n=4 k=2 r=2)", "mixture n=4 (lora r=2 | magnitude)"};
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
    double g[GRADS], h[GRADS], task[2];
    int64_t load[2] = {0};
    attach(specs[i]);
    for (int recompute = 0; recompute < 2; recompute++) {
      lk_router_forget(at());
      balance(NULL, recompute, recompute ? h : g, &task[recompute]);
      int n;
      const int64_t *counts = lk_router_load(at(), &n);
      for (int e = 0; e < n; e++) load[recompute] += counts[e];
    }
    ck_assert_msg(task[0] == task[1] && load[0] == load[1], "%s: %g and %g", specs[i], task[0], task[1]);
    ck_assert_msg(!memcmp(g, h, sizeof g), "%s: other gradients", specs[i]);
    lk_detach(model, "default");
  }
}
END_TEST

START_TEST(load_is_counted) {
  double y[TEST_MOST];
  int n;
  attach("molora n=5 k=2 r=2 dropout=0");
  char *notes = lk_adapter_notes(model, "default");
  ck_assert_str_eq(notes, "");
  lk_free(ctx, notes);
  for (int i = 0; i < 3; i++) run(i, y);
  const int64_t *load = lk_router_load(at(), &n);
  int64_t sum = 0;
  ck_assert_int_eq(n, 5);
  for (int e = 0; e < n; e++) sum += load[e];
  ck_assert_int_eq(sum, 3 * TOKENS * 2);
  notes = lk_adapter_notes(model, "default");
  ck_assert_msg(strstr(notes, "load of 5 experts: ") == notes, "%s", notes);
  lk_free(ctx, notes);
  lk_router_forget(at());
  for (int e = 0; e < n; e++) ck_assert_int_eq(load[e], 0);
  lk_detach(model, "default");
  attach("lora");
  ck_assert_ptr_null(lk_router_load(at(), &n));
}
END_TEST

START_TEST(malora_starts_as_the_paper_says) {
  double ss = 0;
  lk_linear_layer *wide = lk_linear_new(lk_model_root(model), "wide", 64, 3, 0);
  lk_attach(model, "default", "malora n=3 d=16 R=5 beta=2", "wide");
  fine();
  const lk_view *S = NULL, *P = NULL;
  for (lk_param *p = wide->module.site->stacks->chain->params; p; p = p->next) {
    if (!strcmp(p->name, "wide.S_A")) S = &p->value;
    if (!strcmp(p->name, "wide.P")) P = &p->value;
  }
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) {
      double dot = 0;
      for (int c = 0; c < 64; c++) dot += lk_view_get(S, i * 64 + c) * lk_view_get(S, j * 64 + c);
      ck_assert_double_eq_tol(dot, i == j ? 4 : 0, 1e-12); /* S_A S_A^T = beta^2 I */
    }
  for (int64_t i = 0; i < 3 * 5 * 16; i++)
    ss += 4 * pow(lk_view_get(P, i), 2); /* |P S_A|^2 = |rows of K|^2: mean 1/3 */
  ck_assert_double_eq_tol(ss / 15, 1.0 / 3, 0.05);
}
END_TEST

START_TEST(files) {
  static const char *const specs[] = {"molora n=4 k=2 r=2 dropout=0", "malora n=4 d=4 R=3 dropout=0",
                                      "mixture n=3 k=2 (lora r=2 | magnitude)"};
  test_directory();
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
    double y[TEST_MOST], z[TEST_MOST];
    attach(specs[i]);
    run(0, y);
    lk_progress where = {.step = 3};
    ck_assert_int_eq(lk_adapter_save(model, "default", specs[i], NULL), LK_OK);
    ck_assert_int_eq(lk_checkpoint_save(model, NULL, &where, specs[i], "checkpoint"), LK_OK);
    test_perturb_trained(model);
    ck_assert_int_eq(lk_checkpoint_load(model, NULL, &where, specs[i], "checkpoint"), LK_OK);
    run(0, z);
    ck_assert(!memcmp(y, z, TOKENS * OUT * sizeof *y));
    lk_detach(model, "default");
    ck_assert_int_eq(lk_adapter_load(model, "default", specs[i], 1), LK_OK);
    run(0, z);
    fine();
    same(specs[i], z, y, TOKENS * OUT, 0);
    lk_detach(model, "default");
  }
  test_directory_remove();
}
END_TEST

START_TEST(same_bits_on_two_threads) {
  enum { WIDE = 160, ROWS = 300 };
  static const char *const specs[] = {"molora n=4 k=2 r=8", "malora n=4 d=16 R=8", "mixture n=4 (lora r=8)"};
  static float g[2][ROWS * WIDE];
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
    for (int threads = 1; threads <= 2; threads++) {
      lk_set_threads(ctx, threads);
      lk_model *m = lk_model_new(ctx, LK_F32, 0);
      lk_linear_layer *wide = lk_linear_new(lk_model_root(m), "site", WIDE, WIDE, 0);
      lk_attach(m, "default", specs[i], "site");
      test_perturb_trained(m);
      static float x[ROWS * WIDE];
      lk_view v;
      lk_view_init(&v, LK_F32, 2, (int64_t[]){ROWS, WIDE});
      v.p = x;
      for (int64_t k = 0; k < ROWS * WIDE; k++) x[k] = (float)test_number("x", k);
      lk_tape_reset(t);
      lk_train(t, 1, 0);
      memset(g[threads - 1], 0, sizeof *g);
      lk_tensor y = lk_linear_forward(wide, t, lk_leaf(t, &v, g[threads - 1]));
      lk_backward(t, lk_add(t, lk_sum(t, lk_mul(t, y, y), 0, NULL, 0), lk_adapter_loss(m, t)));
      fine();
      lk_tape_reset(t);
      lk_model_free(m);
    }
    ck_assert_msg(!memcmp(g[0], g[1], sizeof *g), "%s: threads change bits", specs[i]);
  }
}
END_TEST

/* Attaches, goes forward and back, and takes off. */
static lk_status story(lk_ctx *c, void *spec) {
  open_model(c, LK_F64);
  if (layer && !lk_attach(model, "default", spec, "site")) {
    lk_train(t, 1, 0);
    lk_tensor y = forward(input());
    lk_backward(t, lk_plus(t, lk_sum(t, y, 0, NULL, 0), lk_adapter_loss(model, t)));
    lk_free(c, lk_adapter_notes(model, "default"));
  }
  close_model();
  return lk_error(c, NULL);
}

START_TEST(every_allocation_may_fail) {
  static const char *const specs[] = {"molora n=3 k=2 r=2 jitter=0.1 renormalize", "malora n=3 d=4 R=2",
                                      "mixture n=3 (lora r=2)"};
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
    const char *why = test_each_allocation(story, (void *)specs[i], NULL);
    ck_assert_msg(!why, "%s: %s", specs[i], why);
  }
}
END_TEST

int main(void) {
  TCase *c = tcase_create("mixture"), *bare = tcase_create("bare");
  Suite *s = suite_create("mixture");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_test(c, dense_equals_sparse);
  tcase_add_test(c, mixture_of_lora_is_molora);
  tcase_add_test(c, one_expert_is_its_chain);
  tcase_add_test(c, nan_in_a_router);
  tcase_add_test(c, ties_go_to_the_lower_number);
  tcase_add_test(c, an_expert_without_token);
  tcase_add_test(c, refusals);
  tcase_add_test(c, balance_by_definition);
  tcase_add_test(c, balance_is_averaged);
  tcase_add_test(c, recomputation);
  tcase_add_test(c, load_is_counted);
  tcase_add_test(c, malora_starts_as_the_paper_says);
  tcase_add_test(c, files);
  tcase_add_test(c, same_bits_on_two_threads);
  tcase_add_test(bare, every_allocation_may_fail);
  tcase_set_timeout(bare, 300);
  suite_add_tcase(s, c);
  suite_add_tcase(s, bare);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
