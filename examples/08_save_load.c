/* 08_save_load: files: an adapter for others, a checkpoint for yourself.
 *
 * You learn: to save an adapter as the directory that HuggingFace PEFT reads and writes (settings in
 * adapter_config.json, the few trained tensors in adapter_model.safetensors) and to load it into a fresh model; and to
 * stop training and go on as if nothing had happened, to the last bit.  Three runs stand for three processes: they share
 * nothing but files. */
#include "course.h"

#define BASE "08_base.safetensors"
#define CHECKPOINT "08_checkpoint.safetensors"
#define ADAPTER "08_adapter"

enum { SIDE = 12, BATCH = 50, CLASSES = 10, LOGITS = BATCH * CLASSES, HALF = 30, STEPS = 2 * HALF };

typedef struct run {
  lk_ctx *ctx;
  lk_tape *t;
  lk_model *model;
  lk_linear_layer *body, *head;
  lk_dataset *data;
  lk_loader *loader;
  lk_optim *opt;        /* NULL: this run does not train */
  lk_progress progress; /* steps done, and where the loader stands */
  double loss[STEPS];   /* of each step */
  float y[LOGITS];
} run;

static void begin(run *r, uint64_t seed) {
  r->ctx = lk_ctx_new(&(lk_ctx_options){.seed = seed});
  r->t = lk_tape_new(r->ctx);
  r->model = lk_model_new(r->ctx, LK_F32, 0);
  r->body = lk_linear_new(lk_model_root(r->model), "body", SIDE * SIDE, 64, 0);
  r->head = lk_linear_new(lk_model_root(r->model), "head", 64, CLASSES, 0);
  r->data = lk_digits(r->ctx, 500, &(lk_digits_options){.size = SIDE});
  r->loader = lk_loader_new(r->data, &(lk_loader_options){.batch = BATCH, .shuffle = 1});
}

static int end(run *r) {
  lk_optim_free(r->opt);
  lk_loader_free(r->loader);
  lk_dataset_free(r->data);
  lk_model_free(r->model);
  lk_tape_free(r->t);
  return finish(r->ctx);
}

/* LoRA on the body; the head trains whole.  A run that resumes does this too: a checkpoint holds values, not settings. */
static void attach(run *r) {
  lk_attach_options o = {.spec = "lora r=4 alpha=8 dropout=0.1", .targets = "body", .modules_to_save = "head"};
  lk_attach_with(r->model, &o);
  r->opt = adamw(r->model, 0.01);
}

static lk_tensor forward(run *r, const lk_batch *b) {
  lk_tensor x = lk_input(r->t, LK_F32, 2, (int64_t[]){b->n, SIDE * SIDE}, b->images);
  return lk_linear_forward(r->head, r->t, lk_relu(r->t, lk_linear_forward(r->body, r->t, x)));
}

static void train(run *r, int64_t until) {
  lk_batch b;
  for (int64_t *step = &r->progress.step; *step < until; ++*step) {
    if (!lk_loader_next(r->loader, &b) && !lk_loader_next(r->loader, &b)) break; /* 0 once, between two epochs */
    lk_tape_reset(r->t);
    lk_train(r->t, (uint64_t)*step, 0); /* dropout depends on seed and step, not on what was drawn before */
    lk_tensor loss = lk_cross_entropy(r->t, forward(r, &b), lk_input(r->t, LK_I64, 1, &b.n, b.labels), -100, 0);
    r->loss[*step] = lk_item(r->t, loss);
    lk_backward(r->t, loss);
    if (lk_step(r->opt)) break;
  }
  r->progress.cursor = lk_loader_cursor(r->loader);
}

/* The logits of the first images into r->y. */
static void predict(run *r) {
  lk_loader *loader = lk_loader_new(r->data, &(lk_loader_options){.batch = BATCH});
  lk_batch b;
  lk_view v;
  lk_tape_reset(r->t);
  if (lk_loader_next(loader, &b) && !lk_get(r->t, forward(r, &b), &v)) memcpy(r->y, v.p, sizeof r->y);
  lk_loader_free(loader);
}

int main(void) {
  static run first, resumed, fresh;
  const char *const files[] = {BASE, CHECKPOINT, ADAPTER "/adapter_config.json", ADAPTER "/adapter_model.safetensors",
                               ADAPTER};
  begin(&first, 1);
  lk_model_save(first.model, BASE);
  attach(&first);
  train(&first, HALF);
  lk_checkpoint_save(first.model, first.opt, &first.progress, "lora", CHECKPOINT);
  train(&first, STEPS);
  predict(&first);
  lk_adapter_save(first.model, "default", ADAPTER, "base");

  begin(&resumed, 1);
  attach(&resumed);
  lk_checkpoint_load(resumed.model, resumed.opt, &resumed.progress, "lora", CHECKPOINT);
  lk_loader_seek(resumed.loader, resumed.progress.cursor);
  train(&resumed, STEPS);

  begin(&fresh, 2); /* with another seed nothing is right that was not loaded */
  lk_model_load(fresh.model, BASE, 0);
  lk_adapter_load(fresh.model, "default", ADAPTER, 0);
  predict(&fresh);

  lk_json *config = lk_json_read(fresh.ctx, ADAPTER "/adapter_config.json");
  printf("PEFT's %s, r %d: loaded logits off by %g\n\n", lk_json_string(fresh.ctx, config, "peft_type", "?"),
         (int)lk_json_int(fresh.ctx, config, "r", 0), largest_difference(LOGITS, first.y, fresh.y));
  lk_json_free(config);
  printf("step   loss, uninterrupted   loss, resumed at %d\n", HALF);
  for (int s = HALF; s < STEPS; s += 10) printf("%4d %21.15f %21.15f\n", s, first.loss[s], resumed.loss[s]);
  if (memcmp(first.loss + HALF, resumed.loss + HALF, HALF * sizeof(double)))
    lk_fail(resumed.ctx, LK_EARG, "the resumed run differs from the uninterrupted one");
  if (memcmp(first.y, fresh.y, sizeof fresh.y)) lk_fail(fresh.ctx, LK_EARG, "the loaded adapter gives other logits");
  int failed = end(&first) | end(&resumed) | end(&fresh);
  for (int i = 0; i < 5; i++) remove(files[i]);
  return failed;
}
