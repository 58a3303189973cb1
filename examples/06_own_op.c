/* 06_own_op: an operator of your own, outside the library.
 *
 * You learn: that an operator is one const struct (forward, backward, test cases), that lk_check_op holds yours to the
 * same contract as the built-in ones, and what it says when something is wrong.  The operator is an activation with a
 * trained frequency, for periodic data (Ziyin et al., arXiv 2006.08195):
 *
 *   snake(x, a) = x + sin^2(a x) / a;   d / d x = 1 + sin(2 a x),   d / d a = x sin(2 a x) / a - sin^2(a x) / a^2
 *
 * The program needs the installed library only: cc 06_own_op.c $(pkg-config --cflags --libs lorikeet) -lm */
#include <lorikeet.h>
#include <math.h>
#include <stdio.h>

/* ---- the operator ---- */

/* An elementwise op finds its inputs in the shape of y: the engine has broadcast them, by strides of 0. */
static int forward(lk_call *c) {
  for (int64_t i = 0; i < lk_view_count(c->y); i++) {
    double x = lk_view_get(&c->x[0], i), a = lk_view_get(&c->x[1], i), s = sin(a * x);
    lk_view_set(c->y, i, x + s * s / a);
  }
  return 0;
}

/* Adds to the gradient of an input, which has no memory where nobody wants it: what is frozen costs nothing. */
static void add(const lk_view *g, int64_t i, double value) {
  if (g->p) lk_view_set(g, i, lk_view_get(g, i) + value);
}

static int backward(lk_call *c) {
  for (int64_t i = 0; i < lk_view_count(c->y); i++) {
    double x = lk_view_get(&c->x[0], i), a = lk_view_get(&c->x[1], i), gy = lk_view_get(c->gy, i), s = sin(a * x);
    add(&c->gx[0], i, gy * (1 + sin(2 * a * x)));
    add(&c->gx[1], i, gy * (x * sin(2 * a * x) / a - s * s / (a * a)));
  }
  return 0;
}

/* What backward reads, so that the engine knows what must stay in memory until then: both inputs, not y. */
static uint32_t reads(const lk_call *c) { return (void)c, LK_X(0) | LK_X(1); }

/* Shapes to test with ("-": a number), and the range of values, here away from a = 0. */
static const lk_case cases[] = {{"7 7", NULL, 0.5, 2, 0}, {"3x4 4", NULL, 0.5, 2, 0}, {"2x3 -", NULL, 0.5, 2, 0}, {0}};

static const lk_op snake_op = {.name = "snake",
                               .nin = 2,
                               .flags = LK_OP_ELEMENTWISE,
                               .fwd = forward,
                               .bwd = backward,
                               .reads = reads,
                               .cases = cases};

static lk_tensor snake(lk_tape *t, lk_tensor x, lk_tensor a) {
  return lk_apply(t, &snake_op, 2, (lk_tensor[]){x, a}, NULL);
}

/* ---- three mistakes that everybody makes ---- */

static int wrong_sign(lk_call *c) {
  for (int64_t i = 0; i < lk_view_count(c->y); i++)
    add(&c->gx[0], i, lk_view_get(c->gy, i) * (1 - sin(2 * lk_view_get(&c->x[0], i) * lk_view_get(&c->x[1], i))));
  return 0;
}
static uint32_t reads_only_x(const lk_call *c) { return (void)c, LK_X(0); }
static uint32_t reads_too_much(const lk_call *c) { return (void)c, LK_X(0) | LK_X(1) | LK_Y; }

/* Prints why lk_check_op refuses an op, as it must. */
static void refused(lk_ctx *ctx, const char *mistake, lk_op op) {
  const char *message;
  if (!lk_check_op(ctx, &op)) lk_fail(ctx, LK_EARG, "%s should not have passed lk_check_op", mistake);
  else if (lk_error(ctx, &message) == LK_EARG) {
    printf("%-14s %s\n", mistake, message);
    lk_error_clear(ctx);
  }
}

static void check(lk_ctx *ctx) {
  lk_op sign = snake_op, hidden = snake_op, idle = snake_op;
  sign.bwd = wrong_sign;
  hidden.reads = reads_only_x;
  idle.reads = reads_too_much;
  if (lk_check_op(ctx, &snake_op)) return;
  printf("%-14s passes: every gradient, strides, broadcasts, f32 against f64, reads, threads\n", "snake");
  refused(ctx, "a wrong sign", sign);
  refused(ctx, "a hidden read", hidden);
  refused(ctx, "an idle read", idle);
}

/* ---- in use: two frequencies are found from samples, by gradient descent as in 02_gradient ---- */

static void fit(lk_ctx *ctx, lk_tape *t) {
  enum { N = 128, STEPS = 500 };
  float x[N][2], a[] = {1, 2}, truth[] = {1.3f, 2.2f};
  const lk_view view = {.p = a, .dtype = LK_F32, .ndim = 1, .shape = {2}, .stride = {1}};
  for (int i = 0; i < N; i++) x[i][0] = x[i][1] = (float)i * 4 / N - 2;
  for (int step = 0; step < STEPS; step++) {
    float grad[2] = {0};
    lk_tape_reset(t);
    lk_tensor in = lk_input(t, LK_F32, 2, (int64_t[]){N, 2}, x);
    lk_tensor wanted = snake(t, in, lk_input(t, LK_F32, 1, (int64_t[]){2}, truth));
    lk_backward(t, lk_mse(t, snake(t, in, lk_leaf(t, &view, grad)), wanted));
    for (int i = 0; i < 2; i++) a[i] -= 0.1f * grad[i];
  }
  printf("%-14s a = (%.3f, %.3f), should be (%.1f, %.1f)\n", "fitted", a[0], a[1], truth[0], truth[1]);
  if (!(fabsf(a[0] - truth[0]) + fabsf(a[1] - truth[1]) < 0.01f)) lk_fail(ctx, LK_EARG, "the fit missed");
}

int main(void) {
  const char *message;
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  check(ctx);
  fit(ctx, t);
  int failed = lk_error(ctx, &message) != LK_OK;
  if (failed) fprintf(stderr, "error: %s\n", message);
  lk_tape_free(t);
  lk_ctx_free(ctx);
  return failed;
}
