/* 05_compose: the language of specs: classes with options, chained by |, wrapped by ( ), attached where patterns match.
 *
 *   lora r=2                                W + s B A                                       LoRA
 *   lora r=2 | magnitude                    the same, and every row gets a trained length   DoRA
 *   dropout p=0.1 (lora r=2 | magnitude)    what is inside sees a dropped input             DoRA as PEFT trains it
 *
 * You learn to compose adapters; that merging follows from the chain, and can be taken back to the last bit; and that a
 * model holds several adapters under names, which add up with weights. */
#include "course.h"

enum { ROWS = 64, WIDTH = 16, HIDDEN = 32, ALL = ROWS * WIDTH, STEPS = 400 };

typedef struct net {
  lk_model *model;
  lk_linear_layer *up, *down;
} net;

static float x[ALL], target[ALL]; /* input, and the outputs to be learnt */

static lk_tensor rows(lk_tape *t, const float *data) { return lk_input(t, LK_F32, 2, (int64_t[]){ROWS, WIDTH}, data); }

/* down(silu(up(x))) */
static lk_tensor forward(const net *m, lk_tape *t) {
  return lk_linear_forward(m->down, t, lk_silu(t, lk_linear_forward(m->up, t, rows(t, x))));
}

/* The outputs into y; returns the loss. */
static double outputs(const net *m, lk_tape *t, float y[ALL]) {
  lk_view v;
  lk_tape_reset(t);
  lk_tensor out = forward(m, t);
  if (!lk_get(t, out, &v)) memcpy(y, v.p, ALL * sizeof *y);
  return lk_item(t, lk_mse(t, out, rows(t, target)));
}

static void train(const net *m, lk_tape *t) {
  lk_optim *opt = adamw(m->model, 0.01);
  for (uint64_t step = 0; step < STEPS; step++) {
    lk_tape_reset(t);
    lk_train(t, step, 0); /* this pass trains: dropout drops, by draws of this step's own */
    lk_backward(t, lk_mse(t, forward(m, t), rows(t, target)));
    if (lk_step(opt)) break;
  }
  lk_optim_free(opt);
}

/* An adapter's whole life, in one line of the table. */
static void live(const net *m, lk_tape *t, const char *spec) {
  enum { BASE, TRAINED, MERGED, UNMERGED, DETACHED, STAGES };
  float y[STAGES][ALL] = {{0}};
  lk_ctx *ctx = lk_tape_ctx(t);
  double before = outputs(m, t, y[BASE]);
  lk_attach(m->model, "default", spec, "up, down");
  train(m, t);
  double after = outputs(m, t, y[TRAINED]);
  int trained = (int)lk_trainable_count(m->model);
  lk_merge(m->model, NULL);
  outputs(m, t, y[MERGED]);
  lk_unmerge(m->model);
  outputs(m, t, y[UNMERGED]);
  lk_detach(m->model, "default");
  outputs(m, t, y[DETACHED]);
  double off = largest_difference(ALL, y[TRAINED], y[MERGED]);
  if (!(after < 0.1 * before)) lk_fail(ctx, LK_EARG, "%s has not learnt: loss %g, then %g", spec, before, after);
  if (!(off < 1e-4)) lk_fail(ctx, LK_EARG, "%s: merging changed an output by %g", spec, off);
  if (memcmp(y[TRAINED], y[UNMERGED], sizeof *y) || memcmp(y[BASE], y[DETACHED], sizeof *y))
    lk_fail(ctx, LK_EARG, "%s: unmerging and detaching should be exact to the bit", spec);
  if (!lk_error(ctx, NULL)) printf("%-38s %8d %8.4f %8.4f %21.0e\n", spec, trained, before, after, off);
}

/* Two adapters on the last layer: the output gets a quarter of what one adds and half of what the other does. */
static void blend(const net *m, lk_tape *t) {
  const char *const names[] = {"french", "german"};
  const double weights[] = {0.25, 0.5};
  float base[ALL] = {0}, alone[2][ALL] = {{0}}, mixed[ALL] = {0};
  double off = 0;
  outputs(m, t, base);
  for (int i = 0; i < 2; i++) {
    lk_attach(m->model, names[i], "lora r=2 init=random", "down");
    lk_set_active(m->model, 1, &names[i], NULL);
    outputs(m, t, alone[i]);
  }
  lk_set_active(m->model, 2, names, weights);
  outputs(m, t, mixed);
  for (int i = 0; i < ALL; i++)
    off = fmax(off, fabs(base[i] + 0.25 * (alone[0][i] - base[i]) + 0.5 * (alone[1][i] - base[i]) - mixed[i]));
  printf("\n0.25 french + 0.5 german: %.0e away from the sum of what they add alone\n", off);
  if (!(off < 1e-5)) lk_fail(lk_tape_ctx(t), LK_EARG, "the blend is %g away from the sum of its parts", off);
}

int main(void) {
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  net m = {.model = lk_model_new(ctx, LK_F32, 0)};
  lk_module *root = lk_model_root(m.model);
  m.up = lk_linear_new(root, "up", WIDTH, HIDDEN, 0);
  m.down = lk_linear_new(root, "down", HIDDEN, WIDTH, 0);
  for (uint64_t i = 0; i < ALL; i++) x[i] = (float)lk_random_normal(lk_key_make(1, "x"), i);
  /* What is to be learnt is what a random adapter does, which is gone then. */
  lk_attach(m.model, "default", "lora r=2 alpha=4 init=random", "up, down");
  outputs(&m, t, target);
  lk_detach(m.model, "default");

  /* What attaching would do, without doing it. */
  char *table = lk_attach_dry_run(m.model, &(lk_attach_options){.spec = "lora r=2 | magnitude", .targets = "up, down"});
  printf("%s\n%-38s %8s %8s %8s %21s\n", table ? table : "", "spec", "trained", "before", "after",
         "|merged - unmerged|");
  lk_free(ctx, table);
  live(&m, t, "lora r=2");
  live(&m, t, "lora r=2 | magnitude");
  live(&m, t, "dropout p=0.1 (lora r=2 | magnitude)");
  live(&m, t, "lora r=1 | lora:second r=1 | bias");
  blend(&m, t);
  lk_model_free(m.model);
  lk_tape_free(t);
  return finish(ctx);
}
