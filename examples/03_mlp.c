/* 03_mlp: training a network: two spirals.
 *
 * You learn: how a model is put together from layers, and the loop that trains it.  There is no trainer with
 * call-backs: the loop is yours, eight lines of C, and everything in it is a plain function call.
 *
 * The points of two spirals wound into each other are to be told apart: no straight line can, a small multilayer
 * perceptron learns to in a second.  At the end it colours the plane, and you see what it believes between the points. */
#include "course.h"

enum { POINTS = 200, WIDTH = 32, STEPS = 1200, ROWS = 21, COLUMNS = 61 };

/* A model is a struct of layers and a function that calls them; the layers belong to an lk_model. */
typedef struct mlp {
  lk_linear_layer *in, *hidden, *out;
} mlp;

static mlp mlp_new(lk_model *model) {
  lk_module *root = lk_model_root(model);
  mlp m;
  m.in = lk_linear_new(root, "in", 2, WIDTH, 0);
  m.hidden = lk_linear_new(root, "hidden", WIDTH, WIDTH, 0);
  m.out = lk_linear_new(root, "out", WIDTH, 2, 0);
  return m;
}

/* x [n, 2] -> logits [n, 2] */
static lk_tensor mlp_forward(const mlp *m, lk_tape *t, lk_tensor x) {
  lk_tensor h = lk_silu(t, lk_linear_forward(m->in, t, x));
  h = lk_silu(t, lk_linear_forward(m->hidden, t, h));
  return lk_linear_forward(m->out, t, h);
}

typedef struct spirals {
  float xy[POINTS][2];
  int64_t arm[POINTS];
} spirals;

/* One and a half turns, the second arm opposite the first. */
static void draw_spirals(spirals *s) {
  const lk_key noise = lk_key_make(1, "spirals"); /* draws are numbered: the i-th is a function of key and i */
  for (int i = 0; i < POINTS; i++) {
    double along = (i / 2 + 0.5) / (POINTS / 2.0), angle = 3 * acos(-1) * along + (i % 2 ? acos(-1) : 0);
    s->arm[i] = i % 2;
    s->xy[i][0] = (float)(along * cos(angle) + 0.01 * lk_random_normal(noise, (uint64_t)(2 * i)));
    s->xy[i][1] = (float)(along * sin(angle) + 0.01 * lk_random_normal(noise, (uint64_t)(2 * i + 1)));
  }
}

static void train(const mlp *m, lk_tape *t, lk_optim *opt, const spirals *s) {
  lk_bar bar = {.to = stderr, .label = "train", .total = STEPS};
  lk_bar_start(&bar);
  for (int64_t step = 0; step < STEPS; step++) {
    lk_tape_reset(t);
    lk_tensor x = lk_input(t, LK_F32, 2, (int64_t[]){POINTS, 2}, s->xy);
    lk_tensor arm = lk_input(t, LK_I64, 1, (int64_t[]){POINTS}, s->arm);
    lk_tensor loss = lk_cross_entropy(t, mlp_forward(m, t, x), arm, -100, 0);
    lk_backward(t, loss);
    if (lk_step(opt)) break; /* the one question: the first error of the step, if any, ends the loop */
    lk_bar_update(&bar, step + 1, "loss %.4f", lk_item(t, loss));
  }
  lk_bar_finish(&bar);
}

/* answer[i]: the arm that the model sees at point i of xy. */
static void predict(const mlp *m, lk_tape *t, int64_t n, const float *xy, int *answer) {
  lk_view logits;
  lk_tape_reset(t);
  int was = lk_no_grad(t, 1); /* nothing is recorded: there will be no backward */
  lk_tensor y = mlp_forward(m, t, lk_input(t, LK_F32, 2, (int64_t[]){n, 2}, xy));
  if (!lk_get(t, y, &logits))
    for (int64_t i = 0; i < n; i++) answer[i] = lk_view_get(&logits, 2 * i + 1) > lk_view_get(&logits, 2 * i);
  lk_no_grad(t, was);
}

/* The plane from -1.2 to 1.2 both ways in characters: what the model believes, and the points themselves on top. */
static void print_map(const mlp *m, lk_tape *t, const spirals *s) {
  float xy[ROWS * COLUMNS][2];
  int answer[ROWS * COLUMNS] = {0};
  char map[ROWS][COLUMNS + 1] = {{0}};
  for (int i = 0; i < ROWS * COLUMNS; i++) {
    xy[i][0] = (float)(i % COLUMNS * 2.4 / (COLUMNS - 1) - 1.2);
    xy[i][1] = (float)(1.2 - i / COLUMNS * 2.4 / (ROWS - 1));
  }
  predict(m, t, ROWS * COLUMNS, xy[0], answer);
  for (int i = 0; i < ROWS * COLUMNS; i++) map[i / COLUMNS][i % COLUMNS] = answer[i] ? ':' : ' ';
  for (int i = 0; i < POINTS; i++) {
    long row = lround((1.2 - s->xy[i][1]) / 2.4 * (ROWS - 1)),
         column = lround((s->xy[i][0] + 1.2) / 2.4 * (COLUMNS - 1));
    map[row][column] = s->arm[i] ? '#' : 'o';
  }
  for (int r = 0; r < ROWS; r++) printf("  %s\n", map[r]);
}

int main(void) {
  spirals s;
  lk_ctx *ctx = lk_ctx_new(&(lk_ctx_options){.seed = 1});
  lk_tape *t = lk_tape_new(ctx);
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  mlp m = mlp_new(model);
  lk_optim *opt = adamw(model, 0.01);
  int answer[POINTS] = {0}, right = 0;

  draw_spirals(&s);
  train(&m, t, opt, &s);
  predict(&m, t, POINTS, s.xy[0], answer);
  for (int i = 0; i < POINTS; i++) right += answer[i] == s.arm[i];
  if (right < POINTS) lk_fail(ctx, LK_EARG, "the network should tell all %d points apart, not %d", POINTS, right);
  if (!lk_error(ctx, NULL)) {
    print_map(&m, t, &s);
    printf("  %d parameters, %d of %d points right\n", (int)lk_parameter_count(model), right, POINTS);
  }
  lk_optim_free(opt);
  lk_model_free(model);
  lk_tape_free(t);
  return finish(ctx);
}
