/* 02_gradient: one gradient, three times.
 *
 * You learn: what a trainable leaf is and what lk_backward does, by getting the same numbers in three ways: from the
 * tape, from the chain rule on paper, and from a difference quotient.
 *
 * The function is the smallest that deserves the name network:
 *
 *   y = tanh(x W^T + b),   loss = mean of (y - target)^2
 *
 * With N elements in y and g = d loss / d y = 2 (y - target) / N, the chain rule gives, since tanh' = 1 - tanh^2,
 *
 *   d = g (1 - y^2),   d loss / d W = d^T x,   d loss / d b = the sum of the rows of d */
#include "course.h"

enum { ROWS = 4, IN = 3, OUT = 2, WEIGHTS = OUT * IN, ALL = WEIGHTS + OUT };

static const double input[ROWS][IN] = {{1, 0.5, -1}, {-0.5, 2, 0}, {0.3, -0.7, 1.5}, {-1.2, 0.1, 0.4}};
static const double target[ROWS][OUT] = {{0.5, -0.5}, {0.9, 0}, {-0.2, 0.3}, {0, 0.8}};

/* The loss at p = (W, b); with grad, its gradient is added to grad.  lk_leaf borrows the caller's memory: here two
 * windows on one array.  Without memory for its gradient a leaf is a constant, and costs nothing in backward. */
static double loss_by_tape(lk_tape *t, double p[ALL], double grad[ALL]) {
  lk_view W, b;
  lk_view_init(&W, LK_F64, 2, (int64_t[]){OUT, IN});
  lk_view_init(&b, LK_F64, 1, (int64_t[]){OUT});
  W.p = p, b.p = p + WEIGHTS;

  lk_tape_reset(t);
  lk_tensor x = lk_input(t, LK_F64, 2, (int64_t[]){ROWS, IN}, input);
  lk_tensor wanted = lk_input(t, LK_F64, 2, (int64_t[]){ROWS, OUT}, target);
  lk_tensor y = lk_tanh(t, lk_linear(t, x, lk_leaf(t, &W, grad), lk_leaf(t, &b, grad ? grad + WEIGHTS : NULL)));
  lk_tensor loss = lk_mse(t, y, wanted);
  if (grad) lk_backward(t, loss);
  return lk_item(t, loss);
}

static void gradient_by_hand(const double p[ALL], double grad[ALL]) {
  for (int r = 0; r < ROWS; r++)
    for (int o = 0; o < OUT; o++) {
      double z = p[WEIGHTS + o];
      for (int i = 0; i < IN; i++) z += input[r][i] * p[o * IN + i];
      double y = tanh(z), g = 2 * (y - target[r][o]) / (ROWS * OUT), d = g * (1 - y * y);
      for (int i = 0; i < IN; i++) grad[o * IN + i] += d * input[r][i];
      grad[WEIGHTS + o] += d;
    }
}

/* (f(p + h) - f(p - h)) / 2h: off by about h^2, and by the rounding of f divided by h. */
static void gradient_by_difference(lk_tape *t, double p[ALL], double grad[ALL]) {
  const double h = 1e-6;
  for (int i = 0; i < ALL; i++) {
    const double before = p[i];
    p[i] = before + h;
    double up = loss_by_tape(t, p, NULL);
    p[i] = before - h;
    double down = loss_by_tape(t, p, NULL);
    p[i] = before;
    grad[i] = (up - down) / (2 * h);
  }
}

static void compare(lk_tape *t, double p[ALL]) {
  double tape[ALL] = {0}, hand[ALL] = {0}, quotient[ALL] = {0}, off_hand = 0, off_quotient = 0;
  loss_by_tape(t, p, tape);
  gradient_by_hand(p, hand);
  gradient_by_difference(t, p, quotient);

  printf("%-8s %20s %20s %20s\n", "d loss /", "tape", "by hand", "difference quotient");
  for (int i = 0; i < ALL; i++) {
    if (i < WEIGHTS) printf("W[%d, %d] ", i / IN, i % IN);
    else printf("b[%d]    ", i - WEIGHTS);
    printf("%20.16f %20.16f %20.16f\n", tape[i], hand[i], quotient[i]);
    off_hand = fmax(off_hand, fabs(tape[i] - hand[i]));
    off_quotient = fmax(off_quotient, fabs(tape[i] - quotient[i]));
  }
  printf("largest difference from the tape %10.1g %31.1g\n\n", off_hand, off_quotient);
  if (!(off_hand < 1e-14)) lk_fail(lk_tape_ctx(t), LK_EARG, "tape and chain rule differ by %g", off_hand);
  if (!(off_quotient < 1e-9)) lk_fail(lk_tape_ctx(t), LK_EARG, "tape and quotient differ by %g", off_quotient);
}

/* What gradients are for: against them the loss falls.  Optimisers (03_mlp) do no more than this, with more care. */
static void descend(lk_tape *t, double p[ALL]) {
  const double start = loss_by_tape(t, p, NULL);
  double loss = start;
  printf("gradient descent, rate 0.5\n  step %4d   loss %8.2e\n", 0, start);
  for (int step = 1; step <= 1000; step++) {
    double grad[ALL] = {0};
    loss = loss_by_tape(t, p, grad);
    for (int i = 0; i < ALL; i++) p[i] -= 0.5 * grad[i];
    if (step == 10 || step == 100 || step == 1000) printf("  step %4d   loss %8.2e\n", step, loss);
  }
  if (!(loss < start / 10)) lk_fail(lk_tape_ctx(t), LK_EARG, "descent took the loss from %g to %g only", start, loss);
}

int main(void) {
  double p[ALL] = {0.2, -0.4, 0.1, 0.5, 0.3, -0.6, 0.05, -0.1}; /* W, then b */
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  compare(t, p);
  descend(t, p);
  lk_tape_free(t);
  return finish(ctx);
}
