/* 04_conv_lora: a convolutional network of your own, and LoRA on it.
 *
 * You learn: that an adapter needs nothing from a model but its layers.  Every layer is a *site*, known by its path;
 * lk_attach puts an adapter at the sites that a pattern names and freezes all else; the model's code stays as it is.
 *
 * The network learns upright digits.  Then come digits turned by some 40 degrees, which it mostly fails to read; LoRA,
 * with a tenth of the parameters and a few hundred images, teaches it those (and it forgets some of the others).  The
 * base is never touched: merge, and the adapted network costs no more than the first; detach, and the first is back. */
#include "course.h"

enum { BATCH = 50, TESTED = 500, CLASSES = 10, LOGITS = TESTED * CLASSES };

typedef struct net {
  lk_model *model;
  lk_conv2d_layer *conv1, *conv2;
  lk_linear_layer *hidden, *head;
} net;

static net net_new(lk_model *model) {
  const int64_t kernel[] = {3, 3};
  const lk_conv2d_options half = {.stride = {2, 2}, .padding = {1, 1}};
  lk_module *root = lk_model_root(model);
  net m = {.model = model};
  m.conv1 = lk_conv2d_new(root, "conv1", 1, 8, kernel, &half, 0);
  m.conv2 = lk_conv2d_new(root, "conv2", 8, 16, kernel, &half, 0);
  m.hidden = lk_linear_new(root, "hidden", 16 * 7 * 7, 64, 0);
  m.head = lk_linear_new(root, "head", 64, CLASSES, 0);
  return m;
}

/* Images [n, 1, 28, 28] -> [n, 8, 14, 14] -> [n, 16, 7, 7] -> [n, 64] -> logits [n, 10] */
static lk_tensor net_forward(const net *m, lk_tape *t, const lk_batch *b) {
  lk_tensor x = lk_input(t, LK_F32, 4, (int64_t[]){b->n, b->channels, b->height, b->width}, b->images);
  x = lk_relu(t, lk_conv2d_forward(m->conv1, t, x));
  x = lk_relu(t, lk_conv2d_forward(m->conv2, t, x));
  x = lk_relu(t, lk_linear_forward(m->hidden, t, lk_flatten(t, x, 1, -1)));
  return lk_linear_forward(m->head, t, x);
}

/* The same loop for both: what trains is up to the model. */
static void train(const net *m, lk_tape *t, const char *label, const lk_dataset *data, int64_t epochs) {
  lk_loader *loader = lk_loader_new(data, &(lk_loader_options){.batch = BATCH, .shuffle = 1});
  lk_optim *opt = adamw(m->model, 0.003);
  lk_bar bar = {.to = stderr, .label = label, .total = epochs * lk_loader_steps(loader)};
  lk_batch b;
  lk_bar_start(&bar);
  for (int64_t step = 0, epoch = 0; epoch < epochs; epoch++)
    while (lk_loader_next(loader, &b)) {
      lk_tape_reset(t);
      lk_tensor logits = net_forward(m, t, &b);
      lk_tensor loss = lk_cross_entropy(t, logits, lk_input(t, LK_I64, 1, &b.n, b.labels), -100, 0);
      lk_backward(t, loss);
      if (lk_step(opt)) break;
      lk_bar_update(&bar, ++step, "loss %.4f", lk_item(t, loss));
    }
  lk_bar_finish(&bar);
  lk_optim_free(opt);
  lk_loader_free(loader);
}

/* Percentage of the test images that are recognised; y gets their logits. */
static double accuracy(const net *m, lk_tape *t, const lk_dataset *test, float y[LOGITS]) {
  lk_loader *loader = lk_loader_new(test, &(lk_loader_options){.batch = TESTED});
  lk_batch b;
  lk_view logits, best;
  int right = 0, was = lk_no_grad(t, 1);
  lk_tape_reset(t);
  lk_tensor out = lk_loader_next(loader, &b) ? net_forward(m, t, &b) : lk_nil();
  if (!lk_get(t, out, &logits) && !lk_get(t, lk_topk(t, out, 1, -1, 1), &best)) {
    memcpy(y, logits.p, LOGITS * sizeof *y);
    for (int i = 0; i < TESTED; i++) right += lk_view_index(&best, i) == b.labels[i];
  }
  lk_no_grad(t, was);
  lk_loader_free(loader);
  return 100.0 * right / TESTED;
}

/* A line of the table.  Returns the accuracy on the turned digits, with their logits in y. */
static double judge(const char *what, const net *m, lk_tape *t, lk_dataset *const test[2], float y[LOGITS]) {
  double upright = accuracy(m, t, test[0], y), turned = accuracy(m, t, test[1], y);
  printf("%-26s %8.1f %% %8.1f %%\n", what, upright, turned);
  return turned;
}

int main(void) {
  static float base[LOGITS], lora[LOGITS], merged[LOGITS], detached[LOGITS];
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  net m = net_new(lk_model_new(ctx, LK_F32, 0));
  lk_dataset *data[] = {lk_digits(ctx, 2000, &(lk_digits_options){.seed = 1}),
                        lk_digits(ctx, 500, &(lk_digits_options){.seed = 2, .domain = LK_DIGITS_ROTATED})};
  lk_dataset *test[] = {lk_digits(ctx, TESTED, &(lk_digits_options){.seed = 3}),
                        lk_digits(ctx, TESTED, &(lk_digits_options){.seed = 4, .domain = LK_DIGITS_ROTATED})};

  train(&m, t, "base", data[0], 4);
  printf("%-26s %10s %10s\n", "", "upright", "turned");
  double before = judge("trained on upright digits", &m, t, test, base);
  lk_attach(m.model, "default", "lora r=4 alpha=8", "conv*, hidden, head");
  train(&m, t, "lora", data[1], 20);
  double after = judge("LoRA on turned digits", &m, t, test, lora);
  lk_merge(m.model, NULL);
  judge("merged", &m, t, test, merged);
  lk_unmerge(m.model);
  lk_detach(m.model, "default");
  judge("detached", &m, t, test, detached);

  double off = largest_difference(LOGITS, lora, merged);
  printf("largest change of a logit by merging %.1g\n", off);
  if (!(after > before + 30)) lk_fail(ctx, LK_EARG, "LoRA took the turned digits from %g %% to %g %%", before, after);
  if (!(off < 1e-3)) lk_fail(ctx, LK_EARG, "merging changed a logit by %g", off);
  if (memcmp(base, detached, sizeof base)) lk_fail(ctx, LK_EARG, "detaching should give the base back, bit for bit");
  for (int i = 0; i < 2; i++) lk_dataset_free(data[i]), lk_dataset_free(test[i]);
  lk_model_free(m.model);
  lk_tape_free(t);
  return finish(ctx);
}
