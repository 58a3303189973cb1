/* 04_conv_lora: a convolutional network of your own, and LoRA on it.
 *
 * You learn: that an adapter needs nothing from a model but its layers.  Every layer is a *site*, known by its path;
 * lk_attach puts an adapter at the sites that a pattern names and freezes all else; the model's code stays as it is.
 *
 * The network learns upright white digits.  Then come digits turned and drawn in black on white, of which it knows
 * nothing; LoRA, with a tenth of the parameters and a few hundred images, teaches it those.  The base is never
 * touched: detach, and the first network is back; merge, and the second costs no more than the first. */
#include "course.h"

enum { BATCH = 50, CLASSES = 10, SIDE = 28 };

typedef struct net {
  lk_conv2d_layer *conv1, *conv2;
  lk_linear_layer *hidden, *head;
} net;

static net net_new(lk_model *model) {
  const int64_t kernel[] = {3, 3};
  const lk_conv2d_options half = {.stride = {2, 2}, .padding = {1, 1}};
  lk_module *root = lk_model_root(model);
  return (net){.conv1 = lk_conv2d_new(root, "conv1", 1, 8, kernel, &half, 0),
               .conv2 = lk_conv2d_new(root, "conv2", 8, 16, kernel, &half, 0),
               .hidden = lk_linear_new(root, "hidden", 16 * 7 * 7, 64, 0),
               .head = lk_linear_new(root, "head", 64, CLASSES, 0)};
}

/* x [n, 1, 28, 28] -> [n, 8, 14, 14] -> [n, 16, 7, 7] -> [n, 64] -> logits [n, 10] */
static lk_tensor net_forward(const net *m, lk_tape *t, lk_tensor x) {
  x = lk_relu(t, lk_conv2d_forward(m->conv1, t, x));
  x = lk_relu(t, lk_conv2d_forward(m->conv2, t, x));
  x = lk_relu(t, lk_linear_forward(m->hidden, t, lk_flatten(t, x, 1, -1)));
  return lk_linear_forward(m->head, t, x);
}

static lk_tensor images(lk_tape *t, const lk_batch *b) {
  return lk_input(t, LK_F32, 4, (int64_t[]){b->n, b->channels, b->height, b->width}, b->images);
}

static void train(const net *m, lk_model *model, lk_tape *t, const char *label, const lk_dataset *data, int64_t epochs) {
  lk_loader *loader = lk_loader_new(data, &(lk_loader_options){.batch = BATCH, .shuffle = 1});
  lk_optim *opt = adamw(model, 0.003);
  lk_bar bar = {.to = stderr, .label = label, .total = epochs * lk_loader_steps(loader)};
  lk_batch b;
  int64_t step = 0;
  lk_bar_start(&bar);
  for (int64_t epoch = 0; epoch < epochs; epoch++)
    while (lk_loader_next(loader, &b)) {
      lk_tape_reset(t);
      lk_tensor logits = net_forward(m, t, images(t, &b));
      lk_tensor loss = lk_cross_entropy(t, logits, lk_input(t, LK_I64, 1, &b.n, b.labels), -100, 0);
      lk_backward(t, loss);
      if (lk_step(opt)) break;
      lk_bar_update(&bar, ++step, "loss %.4f", lk_item(t, loss));
    }
  lk_bar_finish(&bar);
  lk_optim_free(opt);
  lk_loader_free(loader);
}

/* Percentage of images that are recognised; their logits go to y [count, CLASSES] unless it is NULL. */
static double accuracy(const net *m, lk_tape *t, const lk_dataset *data, float *y) {
  lk_loader *loader = lk_loader_new(data, &(lk_loader_options){.batch = BATCH});
  lk_batch b;
  lk_view best, logits;
  int64_t right = 0;
  int was = lk_no_grad(t, 1);
  while (lk_loader_next(loader, &b)) {
    lk_tape_reset(t);
    lk_tensor out = net_forward(m, t, images(t, &b));
    if (lk_get(t, out, &logits) || lk_get(t, lk_topk(t, out, 1, -1, 1), &best)) break;
    for (int64_t i = 0; i < b.n; i++) right += lk_view_index(&best, i) == b.labels[i];
    for (int64_t i = 0; y && i < b.n * CLASSES; i++) *y++ = (float)lk_view_get(&logits, i);
  }
  lk_no_grad(t, was);
  lk_loader_free(loader);
  return data ? 100.0 * (double)right / (double)data->count : 0;
}
