/* test_vit.c: the vision transformer: names, gradients, recomputation, and what a forward refuses. */
#include "alloc.h"
#include "vit.h"

#include <check.h>
#include <lorikeet/adapter.h>
#include <math.h>

static test_allocator heap;
static lk_ctx *ctx;
static lk_tape *t;
static lk_model *model;

static void setup(void) {
  ctx = test_ctx(&heap, 0);
  t = lk_tape_new(ctx);
  model = NULL;
}

static void teardown(void) {
  lk_tape_free(t);
  lk_model_free(model);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static void fine(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
}

static void expect(lk_status status, const char *words) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == status, "want %s, got '%s'", lk_status_name(status), message);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' should say '%s'", message, words);
  lk_error_clear(ctx);
}

/* A perturbed model in place of the one before. */
static lk_vit *make(lk_dtype dtype, const lk_vit_config *config) {
  lk_model_free(model);
  model = lk_model_new(ctx, dtype, 0);
  lk_vit *v = lk_vit_new(model, config);
  fine();
  test_perturb(model);
  return v;
}

static lk_vit *make_shapes(const char *preset, int fused) {
  lk_vit_config c;
  lk_model_free(model);
  model = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
  ck_assert_int_eq(lk_vit_preset(ctx, preset, &c), LK_OK);
  c.fused_qkv = fused;
  lk_vit *v = lk_vit_new(model, &c);
  fine();
  return v;
}

/* ---- names and counts ---- */

/* In order; %d: for every block. */
static const char *const names[][2] = {
    {"vit.embeddings.cls_token [1, 1, 768]", "cls_token [1, 1, 768]"},
    {"vit.embeddings.position_embeddings [1, 197, 768]", "pos_embed [1, 197, 768]"},
    {"vit.embeddings.patch_embeddings.projection.weight [768, 3, 16, 16]", "patch_embed.proj.weight [768, 3, 16, 16]"},
    {"vit.embeddings.patch_embeddings.projection.bias [768]", "patch_embed.proj.bias [768]"},
    {"vit.encoder.layer.%d.layernorm_before.weight [768]", "blocks.%d.norm1.weight [768]"},
    {"vit.encoder.layer.%d.layernorm_before.bias [768]", "blocks.%d.norm1.bias [768]"},
    {"vit.encoder.layer.%d.attention.attention.query.weight [768, 768]", "blocks.%d.attn.qkv.weight [2304, 768]"},
    {"vit.encoder.layer.%d.attention.attention.query.bias [768]", "blocks.%d.attn.qkv.bias [2304]"},
    {"vit.encoder.layer.%d.attention.attention.key.weight [768, 768]", NULL},
    {"vit.encoder.layer.%d.attention.attention.key.bias [768]", NULL},
    {"vit.encoder.layer.%d.attention.attention.value.weight [768, 768]", NULL},
    {"vit.encoder.layer.%d.attention.attention.value.bias [768]", NULL},
    {"vit.encoder.layer.%d.attention.output.dense.weight [768, 768]", "blocks.%d.attn.proj.weight [768, 768]"},
    {"vit.encoder.layer.%d.attention.output.dense.bias [768]", "blocks.%d.attn.proj.bias [768]"},
    {"vit.encoder.layer.%d.layernorm_after.weight [768]", "blocks.%d.norm2.weight [768]"},
    {"vit.encoder.layer.%d.layernorm_after.bias [768]", "blocks.%d.norm2.bias [768]"},
    {"vit.encoder.layer.%d.intermediate.dense.weight [3072, 768]", "blocks.%d.mlp.fc1.weight [3072, 768]"},
    {"vit.encoder.layer.%d.intermediate.dense.bias [3072]", "blocks.%d.mlp.fc1.bias [3072]"},
    {"vit.encoder.layer.%d.output.dense.weight [768, 3072]", "blocks.%d.mlp.fc2.weight [768, 3072]"},
    {"vit.encoder.layer.%d.output.dense.bias [768]", "blocks.%d.mlp.fc2.bias [768]"},
    {"vit.layernorm.weight [768]", "norm.weight [768]"},
    {"vit.layernorm.bias [768]", "norm.bias [768]"},
    {"classifier.weight [1000, 768]", "head.weight [1000, 768]"},
    {"classifier.bias [1000]", "head.bias [1000]"},
};
enum { NAMES = sizeof names / sizeof *names, FIRST_OF_BLOCK = 4, LAST_OF_BLOCK = 19 };

/* The model's parameter must be this one; the next. */
static lk_param *expect_name(lk_param *p, const char *format, int block) {
  char want[120], shape[160], have[400];
  ck_assert_ptr_nonnull(p);
  snprintf(want, sizeof want, format, block);
  snprintf(have, sizeof have, "%s %s", p->name, lk_view_format(&p->value, shape));
  ck_assert_str_eq(have, want);
  return test_next_param(model, p);
}

START_TEST(tensor_names) {
  make_shapes("vit-b16", _i);
  lk_param *p = test_next_param(model, NULL);
  for (int i = 0; i < FIRST_OF_BLOCK; i++) p = expect_name(p, names[i][_i], 0);
  for (int b = 0; b < 12; b++)
    for (int i = FIRST_OF_BLOCK; i <= LAST_OF_BLOCK; i++)
      if (names[i][_i]) p = expect_name(p, names[i][_i], b);
  for (int i = LAST_OF_BLOCK + 1; i < NAMES; i++) p = expect_name(p, names[i][_i], 0);
  ck_assert_ptr_null(p);
}
END_TEST

START_TEST(preset_counts) {
  static const struct {
    const char *name;
    int64_t parameters; /* torchvision's and timm's figures for the public ones */
  } known[] = {{"vit-b16", 86567656},  {"vit-b32", 88224232},   {"vit-l16", 304326632},  {"vit-s16", 22050664},
               {"deit-tiny", 5717416}, {"vit-tiny-28", 139018}, {"vit-small-28", 456394}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    for (int fused = 0; fused < 2; fused++) {
      make_shapes(known[i].name, fused);
      ck_assert_int_eq(lk_parameter_count(model), known[i].parameters);
    }
}
END_TEST

START_TEST(initial_values) {
  lk_vit_config c = test_vit_config;
  c.hidden_size = 36;
  c.initializer_range = 1.5; /* so that the truncation at 2 shows */
  model = lk_model_new(ctx, LK_F64, 0);
  lk_vit *v = lk_vit_new(model, &c);
  fine();
  for (lk_param *p = NULL; (p = test_next_param(model, p));) {
    double largest = 0, sum = 0;
    int64_t n = lk_param_count(p);
    for (int64_t i = 0; i < n; i++) {
      largest = fmax(largest, fabs(lk_view_get(&p->value, i)));
      sum += lk_view_get(&p->value, i) * lk_view_get(&p->value, i);
    }
    int norm = strstr(p->name, "norm") != NULL;
    if (strstr(p->name, "bias")) ck_assert_msg(largest == 0, "%s", p->name);
    else if (norm) ck_assert_msg(largest == 1 && sum == (double)n, "%s", p->name);
    else ck_assert_msg(largest <= 2 && largest > 1.5, "%s: %g", p->name, largest);
    /* a normal of deviation 1.5 cut at 2 has a deviation of 1.0236 */
    if (n > 1000) ck_assert_msg(fabs(sqrt(sum / (double)n) - 1.0236) < 0.05, "%s: %g", p->name, sqrt(sum / (double)n));
  }
  ck_assert_int_eq(v->config.layers, 2);
}
END_TEST

/* ---- gradients ---- */

static double loss_value(lk_vit *v) {
  lk_tape_reset(t);
  lk_no_grad(t, 1);
  double loss = lk_item(t, test_vit_loss(v, t, NULL));
  lk_no_grad(t, 0);
  return loss;
}

static void backward(lk_vit *v) {
  for (lk_param *p = NULL; (p = test_next_param(model, p));) lk_param_zero_grad(p);
  lk_backward(t, test_vit_loss(v, t, NULL));
  fine();
}

/* Three elements of every parameter against central differences. */
START_TEST(gradients) {
  lk_vit_config c = test_vit_config;
  c.fused_qkv = _i;
  c.hidden_act = _i ? "quick_gelu" : "gelu";
  lk_vit *v = make(LK_F64, &c);
  lk_tape_reset(t);
  backward(v);
  for (lk_param *p = NULL; (p = test_next_param(model, p));) {
    ck_assert_msg(p->has_grad, "%s has no gradient", p->name);
    for (uint64_t k = 0; k < 3; k++) {
      uint64_t i = lk_random_below(lk_key_make(3, p->name), k, (uint64_t)lk_param_count(p));
      double *x = (double *)p->value.p + i, was = *x, h = 1e-5, loss[2];
      for (int side = 0; side < 2; side++) {
        *x = was + (side ? h : -h);
        lk_param_touch(p);
        loss[side] = loss_value(v);
      }
      *x = was;
      lk_param_touch(p);
      double numeric = (loss[1] - loss[0]) / (2 * h), analytic = ((double *)p->grad)[i];
      ck_assert_msg(fabs(numeric - analytic) < 1e-8, "%s[%d]: %.12g, numerically %.12g", p->name, (int)i, analytic,
                    numeric);
    }
  }
  fine();
}
END_TEST

/* All gradients in one array, to be freed. */
static double *all_gradients(lk_vit *v, int64_t *n) {
  *n = lk_parameter_count(model);
  double *g = malloc((size_t)*n * sizeof *g), *to = g;
  ck_assert_ptr_nonnull(g);
  backward(v);
  for (lk_param *p = NULL; (p = test_next_param(model, p)); to += lk_param_count(p))
    memcpy(to, p->grad, lk_view_bytes(&p->value));
  return g;
}

/* The last block for the class token alone gives what the whole block gives. */
START_TEST(class_token_only) {
  lk_vit_config c = test_vit_config;
  c.fused_qkv = _i;
  lk_vit *v = make(LK_F64, &c);
  int64_t n;
  double flops[2], *g[2], largest = 0;
  for (int all = 0; all < 2; all++) {
    lk_tape_reset(t);
    v->all_tokens = all;
    g[all] = all_gradients(v, &n);
    flops[all] = lk_tape_statistics(t).flops;
  }
  for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(g[0][i] - g[1][i]));
  ck_assert_msg(largest < 1e-13, "gradients differ by %g", largest);
  ck_assert(flops[0] < 0.8 * flops[1]);
  free(g[0]);
  free(g[1]);
}
END_TEST

/* The same with adapters on every linear layer, DoRA among them. */
START_TEST(class_token_only_with_adapters) {
  lk_vit_config c = test_vit_config;
  lk_vit *v = make(LK_F64, &c);
  double loss[2];
  int n;
  lk_attach(model, "default", "lora r=2 | magnitude", "query,value,output.dense,intermediate.dense,key,classifier");
  fine();
  lk_param **p = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) lk_param_normal(p[i], 0, 0.5);
  lk_free(ctx, p);
  for (int all = 0; all < 2; all++) {
    v->all_tokens = all;
    loss[all] = loss_value(v);
  }
  fine();
  ck_assert_msg(fabs(loss[0] - loss[1]) < 1e-12, "%.15g and %.15g", loss[0], loss[1]);
}
END_TEST

/* Recomputing changes memory and nothing else: same bits, with dropout. */
START_TEST(recomputation) {
  lk_vit_config c = test_vit_config;
  c.layers = 5;
  c.hidden_dropout = 0.2;
  c.attention_dropout = 0.3;
  lk_vit *v = make(LK_F64, &c);
  int64_t n;
  double *g[3], *evaluation;
  lk_tape_stats s[3];
  for (int mode = 0; mode < 3; mode++) {
    lk_tape_reset(t);
    lk_train(t, 3, 1);
    lk_vit_set_recompute(v, (lk_vit_recompute)mode);
    g[mode] = all_gradients(v, &n);
    s[mode] = lk_tape_statistics(t);
  }
  lk_tape_reset(t);
  evaluation = all_gradients(v, &n);
  ck_assert(memcmp(g[0], g[1], (size_t)n * sizeof(double)) == 0);
  ck_assert(memcmp(g[0], g[2], (size_t)n * sizeof(double)) == 0);
  ck_assert(memcmp(g[0], evaluation, (size_t)n * sizeof(double)) != 0);
  ck_assert_uint_eq(s[LK_VIT_KEEP].replayed, 0);
  ck_assert_uint_gt(s[LK_VIT_RECOMPUTE_BLOCKS].replayed, s[LK_VIT_RECOMPUTE_PARTS].replayed);
  ck_assert_uint_lt(s[LK_VIT_RECOMPUTE_BLOCKS].peak, s[LK_VIT_RECOMPUTE_PARTS].peak);
  ck_assert_uint_lt(s[LK_VIT_RECOMPUTE_PARTS].peak, s[LK_VIT_KEEP].peak);
  for (int mode = 0; mode < 3; mode++) free(g[mode]);
  free(evaluation);
}
END_TEST

/* The same bits on one and two threads, and nothing new from the allocator in a warm step. */
START_TEST(threads_and_warmth) {
  lk_vit_config c;
  lk_vit_preset(ctx, "vit-tiny-28", &c);
  lk_vit *v = make(LK_F32, &c);
  float loss[4];
  uint64_t allocations = 0;
  for (int step = 0; step < 4; step++) {
    lk_set_threads(ctx, 1 + step % 2);
    if (step == 2) allocations = heap.calls;
    lk_tape_reset(t);
    lk_train(t, 0, 0);
    lk_tensor y = test_vit_loss(v, t, NULL);
    loss[step] = (float)lk_item(t, y);
    lk_backward(t, y);
    fine();
  }
  ck_assert_uint_eq(heap.calls, allocations);
  for (int step = 1; step < 4; step++) ck_assert(memcmp(&loss[0], &loss[step], sizeof *loss) == 0);
}
END_TEST

/* ---- the fused layout ---- */

/* Copies p, whose values start at row `row` of the fused parameter. */
static void copy_rows(lk_param *to, int64_t row, const lk_param *from) {
  int64_t width = from->value.ndim == 2 ? from->value.shape[1] : 1;
  memcpy((double *)to->value.p + row * width, from->value.p, lk_view_bytes(&from->value));
  lk_param_touch(to);
}

static void copy_linear(lk_linear_layer *to, int64_t row, const lk_linear_layer *from) {
  copy_rows(to->weight, row, from->weight);
  copy_rows(to->bias, row, from->bias);
}

/* With q, k and v stacked, timm's layout computes what HuggingFace's does. */
START_TEST(fused_equals_separate) {
  lk_vit_config c = test_vit_config;
  lk_vit *separate = make(LK_F64, &c);
  lk_model *first = model;
  double want[12];
  lk_tensor logits;
  lk_view y;
  lk_tape_reset(t);
  test_vit_loss(separate, t, &logits);
  ck_assert_int_eq(lk_get(t, logits, &y), 0);
  for (int i = 0; i < 12; i++) want[i] = lk_view_get(&y, i);
  model = NULL;
  c.fused_qkv = 1;
  lk_vit *fused = make(LK_F64, &c);
  copy_rows(fused->cls, 0, separate->cls);
  copy_rows(fused->position, 0, separate->position);
  copy_rows(fused->patch->weight, 0, separate->patch->weight);
  copy_rows(fused->patch->bias, 0, separate->patch->bias);
  copy_rows(fused->norm->weight, 0, separate->norm->weight);
  copy_rows(fused->norm->bias, 0, separate->norm->bias);
  copy_linear(fused->head, 0, separate->head);
  for (int i = 0; i < 2; i++) {
    lk_vit_block *a = fused->blocks[i], *b = separate->blocks[i];
    copy_linear(a->attention->qkv, 0, b->attention->query);
    copy_linear(a->attention->qkv, 12, b->attention->key);
    copy_linear(a->attention->qkv, 24, b->attention->value);
    copy_linear(a->attention->output, 0, b->attention->output);
    copy_linear(a->mlp->up, 0, b->mlp->up);
    copy_linear(a->mlp->down, 0, b->mlp->down);
    copy_rows(a->norm1->weight, 0, b->norm1->weight);
    copy_rows(a->norm1->bias, 0, b->norm1->bias);
    copy_rows(a->norm2->weight, 0, b->norm2->weight);
    copy_rows(a->norm2->bias, 0, b->norm2->bias);
  }
  lk_tape_reset(t);
  test_vit_loss(fused, t, &logits);
  ck_assert_int_eq(lk_get(t, logits, &y), 0);
  for (int i = 0; i < 12; i++) ck_assert(fabs(lk_view_get(&y, i) - want[i]) < 1e-13);
  lk_model_free(first);
}
END_TEST

/* ---- what is refused ---- */

START_TEST(refusals) {
  lk_vit_config c = test_vit_config;
  lk_vit *v = make(LK_F64, &c);
  lk_tape_reset(t);
  lk_tensor x = lk_input(t, LK_F64, 4, (int64_t[]){1, 2, 9, 8}, NULL);
  ck_assert(lk_is_nil(lk_vit_forward(v, t, x)));
  expect(LK_ESHAPE, "the images are [1, 2, 9, 8], should be [N, 2, 9, 9]");
  lk_tape_reset(t);
  ck_assert(lk_is_nil(lk_vit_forward(v, t, lk_nil())));
  expect(LK_ENIL, "nil");
  lk_tape_reset(t);
  x = lk_input(t, LK_F32, 4, (int64_t[]){1, 2, 9, 9}, NULL);
  ck_assert(lk_is_nil(lk_vit_forward(v, t, x)));
  expect(LK_EDTYPE, "vit.embeddings.patch_embeddings.projection");
  ck_assert_ptr_null(lk_vit_new(model, &c));
  expect(LK_EARG, "has a child 'vit' already");
  ck_assert_ptr_null(lk_vit_new(NULL, &c));
  v = make_shapes("vit-tiny-28", 0);
  lk_tape_reset(t);
  x = lk_input(t, LK_F32, 4, (int64_t[]){1, 1, 28, 28}, NULL);
  ck_assert(lk_is_nil(lk_vit_forward(v, t, x)));
  expect(LK_EARG, "has a shape but no memory");
}
END_TEST

int main(void) {
  Suite *s = suite_create("vit");
  TCase *c = tcase_create("vit");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 240);
  tcase_add_loop_test(c, tensor_names, 0, 2);
  tcase_add_test(c, preset_counts);
  tcase_add_test(c, initial_values);
  tcase_add_loop_test(c, gradients, 0, 2);
  tcase_add_loop_test(c, class_token_only, 0, 2);
  tcase_add_test(c, class_token_only_with_adapters);
  tcase_add_test(c, recomputation);
  tcase_add_test(c, threads_and_warmth);
  tcase_add_test(c, fused_equals_separate);
  tcase_add_test(c, refusals);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
