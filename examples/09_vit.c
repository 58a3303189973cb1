/* 09_vit: a vision transformer: its names, its size, its output.
 *
 * You learn: to take a model of the library by name; that its tensors are called as HuggingFace calls them; that a model
 * can be built from shapes alone, to count and to plan without a byte of weights; and to run it. */
#include "course.h"

/* Parameters as published, for 1000 classes (timm's model cards); the last ones are the library's own. */
static const struct {
  const char *preset;
  int64_t published;
} models[] = {{"deit-tiny", 5717416}, {"vit-s16", 22050664}, {"vit-b16", 86567656}, {"vit-b32", 88224232},
              {"vit-l16", 304326632}, {"vit-small-28", 0},   {"vit-tiny-28", 0}};

/* A model without memory.  NULL on error. */
static lk_model *shapes_only(lk_ctx *ctx, const char *preset) {
  lk_vit_config config;
  lk_model *model = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
  if (!lk_vit_preset(ctx, preset, &config)) lk_vit_new(model, &config);
  return model;
}

static void count(lk_ctx *ctx) {
  printf("%-14s %12s %24s %18s\n", "preset", "parameters", "lora r=8, query+value", "dora r=16, linear");
  for (size_t i = 0; i < sizeof models / sizeof *models && !lk_error(ctx, NULL); i++) {
    lk_model *model = shapes_only(ctx, models[i].preset);
    lk_attach(model, "narrow", "lora r=8", "query, value");
    lk_attach(model, "wide", "lora r=16 | magnitude", "all-linear");
    if (!lk_error(ctx, NULL)) {
      int64_t all = lk_parameter_count(model);
      printf("%-14s %12lld %24lld %18lld\n", models[i].preset, (long long)all,
             (long long)lk_adapter_count(model, "narrow"), (long long)lk_adapter_count(model, "wide"));
      if (models[i].published && all != models[i].published)
        lk_fail(ctx, LK_EARG, "%s should have %lld parameters", models[i].preset, (long long)models[i].published);
    }
    lk_model_free(model);
  }
}

/* The modules of one block: a path and ".weight" or ".bias" is the name of a tensor in the model's file. */
static void list_block(lk_ctx *ctx) {
  lk_model *model = shapes_only(ctx, "vit-b16");
  lk_module *block = model ? lk_module_find(lk_model_root(model), "vit.encoder.layer.0") : NULL;
  char shape[160];
  printf("\n%-52s %s\n", "one block of vit-b16", "shape");
  for (lk_module *m = block; m; m = lk_module_walk(block, m))
    for (lk_param *p = m->params; p; p = p->next)
      if (p->value.ndim == 2) printf("%-52s %s\n", p->name, lk_view_format(&p->value, shape));
  if (!block) lk_fail(ctx, LK_EARG, "vit-b16 should have a module vit.encoder.layer.0");
  lk_model_free(model);
}

/* Class probabilities of a few digits, from a small model that has seen nothing yet. */
static void run(lk_ctx *ctx, lk_tape *t) {
  enum { N = 4 };
  lk_vit_config config;
  lk_view p;
  lk_batch b;
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_vit *vit = lk_vit_preset(ctx, "vit-tiny-28", &config) ? NULL : lk_vit_new(model, &config);
  lk_dataset *digits = lk_digits(ctx, N, NULL);
  lk_loader *loader = lk_loader_new(digits, &(lk_loader_options){.batch = N});
  if (vit && lk_loader_next(loader, &b)) {
    lk_no_grad(t, 1);
    lk_tensor images = lk_input(t, LK_F32, 4, (int64_t[]){N, 1, 28, 28}, b.images);
    lk_tensor probabilities = lk_softmax(t, lk_vit_forward(vit, t, images), -1);
    printf("\nvit-tiny-28, untrained: probabilities of the ten classes\n");
    for (int i = 0; i < N && !lk_get(t, probabilities, &p); i++) {
      double sum = 0;
      for (int c = 0; c < 10; c++) {
        printf("%s%.3f", c ? "  " : "", lk_view_get(&p, 10 * i + c));
        sum += lk_view_get(&p, 10 * i + c);
      }
      printf("\n");
      if (fabs(sum - 1) > 1e-5) lk_fail(ctx, LK_EARG, "the probabilities of image %d add up to %g", i, sum);
    }
  }
  lk_loader_free(loader);
  lk_dataset_free(digits);
  lk_model_free(model);
}

int main(void) {
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  count(ctx);
  list_block(ctx);
  run(ctx, t);
  lk_tape_free(t);
  return finish(ctx);
}
