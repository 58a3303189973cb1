/* test_layers.c: the layers: names, initial values, what they compute, what they refuse. */
#include "alloc.h"

#include <check.h>
#include <lorikeet/adapter.h>
#include <lorikeet/attention.h>
#include <lorikeet/ops.h>
#include <lorikeet/random.h>
#include <math.h>

static test_allocator heap;
static lk_ctx *ctx;
static lk_model *model;
static lk_module *root;
static lk_tape *t;

static void setup(void) {
  ctx = test_ctx(&heap, 0);
  model = lk_model_new(ctx, LK_F64, 0);
  root = lk_model_root(model);
  t = lk_tape_new(ctx);
  lk_tape_reset(t);
}

static void teardown(void) {
  lk_tape_free(t);
  lk_model_free(model);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static void expect(lk_status status, const char *words) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == status, "want %s, got '%s'", lk_status_name(status), message);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' should say '%s'", message, words);
  lk_error_clear(ctx);
}

static void fine(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
}

/* Numbers in [-1, 1) that look random. */
static lk_tensor numbers(int ndim, const int64_t *shape, uint64_t seed) {
  double data[4096];
  lk_view v;
  ck_assert_int_eq(lk_view_init(&v, LK_F64, ndim, shape), 0);
  ck_assert_int_le(lk_view_count(&v), 4096);
  for (int64_t i = 0; i < lk_view_count(&v); i++)
    data[i] = 2 * lk_random_uniform(lk_key_make(seed, "numbers"), (uint64_t)i) - 1;
  return lk_input(t, LK_F64, ndim, shape, data);
}
#define NUMBERS(seed, ...)                                                                                             \
  numbers((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__}, seed)

static double largest_difference(lk_tensor a, lk_tensor b) {
  lk_view x, y;
  ck_assert_msg(!lk_get(t, a, &x) && !lk_get(t, b, &y), "no values");
  ck_assert_int_eq(lk_view_same_shape(&x, &y), 1);
  double d = 0;
  for (int64_t i = 0; i < lk_view_count(&x); i++) d = fmax(d, fabs(lk_view_get(&x, i) - lk_view_get(&y, i)));
  return d;
}

/* Mean, standard deviation and largest absolute value of a parameter. */
static void statistics(const lk_param *p, double *mean, double *deviation, double *largest) {
  int64_t n = lk_param_count(p);
  *mean = *deviation = *largest = 0;
  for (int64_t i = 0; i < n; i++) {
    double x = lk_view_get(&p->value, i);
    *mean += x / (double)n;
    *deviation += x * x / (double)n;
    *largest = fmax(*largest, fabs(x));
  }
  *deviation = sqrt(*deviation - *mean * *mean);
}

/* ---- single layers ---- */

/* U(-b, b) with b = 1 / sqrt(fan in): all inside, and nearly reaching the ends. */
static void expect_uniform(const lk_param *p, int64_t fan_in) {
  double mean, deviation, largest, b = 1 / sqrt((double)fan_in);
  statistics(p, &mean, &deviation, &largest);
  ck_assert_msg(largest <= b && largest > 0.8 * b, "%s: largest %g, bound %g", p->name, largest, b);
  if (lk_param_count(p) < 500) return;
  ck_assert_msg(fabs(deviation - b / sqrt(3)) < 0.1 * b, "%s: deviation %g, bound %g", p->name, deviation, b);
  ck_assert_msg(fabs(mean) < 0.1 * b, "%s: mean %g, bound %g", p->name, mean, b);
}

START_TEST(linear) {
  lk_linear_layer *l = lk_linear_new(root, "first.dense", 25, 40, 0);
  lk_linear_layer *plain = lk_linear_new(root, "second", 25, 40, LK_NO_BIAS | LK_FAN_IN_FAN_OUT);
  fine();
  ck_assert_str_eq(l->weight->name, "first.dense.weight");
  ck_assert_str_eq(l->bias->name, "first.dense.bias");
  ck_assert_ptr_null(plain->bias);
  ck_assert_int_eq(plain->weight->value.shape[0], 25);
  ck_assert_int_eq(plain->module.site->in, 25);
  ck_assert_int_eq(plain->module.site->out, 40);
  expect_uniform(l->weight, 25);
  expect_uniform(l->bias, 25);
  expect_uniform(plain->weight, 25);
  lk_tensor x = NUMBERS(1, 2, 3, 25), W = lk_use(t, plain->weight);
  lk_tensor y = lk_linear(t, x, lk_use(t, l->weight), lk_use(t, l->bias));
  ck_assert(largest_difference(lk_linear_forward(l, t, x), y) < 1e-14);
  ck_assert(largest_difference(lk_linear_forward(plain, t, x), lk_matmul(t, x, W)) < 1e-14);
  fine();
}
END_TEST

START_TEST(embedding) {
  lk_embedding_layer *l = lk_embedding_new(root, "words", 50, 30);
  double mean, deviation, largest;
  fine();
  ck_assert_str_eq(l->weight->name, "words.weight");
  statistics(l->weight, &mean, &deviation, &largest);
  ck_assert(fabs(mean) < 0.1 && fabs(deviation - 1) < 0.1 && largest > 2.5);
  lk_tensor ids = lk_input(t, LK_I64, 2, (int64_t[]){1, 2}, (int64_t[]){49, 3});
  lk_view y;
  ck_assert_int_eq(lk_get(t, lk_embedding_forward(l, t, ids), &y), 0);
  ck_assert_int_eq(y.ndim, 3);
  for (int64_t i = 0; i < 30; i++) {
    ck_assert(lk_view_get(&y, i) == lk_view_get(&l->weight->value, 49 * 30 + i));
    ck_assert(lk_view_get(&y, 30 + i) == lk_view_get(&l->weight->value, 3 * 30 + i));
  }
}
END_TEST

START_TEST(conv2d) {
  const int64_t kernel[] = {3, 2};
  const lk_conv2d_options o = {.stride = {2, 1}, .padding = {1, 0}, .groups = 2};
  lk_conv2d_layer *l = lk_conv2d_new(root, "patch.projection", 4, 6, kernel, &o, 0);
  lk_conv2d_layer *plain = lk_conv2d_new(root, "plain", 4, 6, kernel, NULL, LK_NO_BIAS);
  fine();
  ck_assert_str_eq(l->weight->name, "patch.projection.weight");
  ck_assert_int_eq(l->weight->value.shape[1], 2);
  ck_assert_int_eq(plain->weight->value.shape[1], 4);
  ck_assert_int_eq(l->module.site->in, 4);
  ck_assert_int_eq(l->module.site->conv.stride[0], 2);
  ck_assert_int_eq(plain->module.site->conv.groups, 1);
  expect_uniform(l->weight, 2 * 3 * 2);
  expect_uniform(plain->weight, 4 * 3 * 2);
  lk_tensor x = NUMBERS(2, 2, 4, 5, 7);
  lk_tensor y = lk_conv2d(t, x, lk_use(t, l->weight), lk_use(t, l->bias), &o);
  ck_assert(largest_difference(lk_conv2d_forward(l, t, x), y) < 1e-14);
  ck_assert_int_eq(lk_size(t, lk_conv2d_forward(plain, t, x), 2), 3);
  fine();
}
END_TEST

START_TEST(layer_norm) {
  lk_layer_norm_layer *l = lk_layer_norm_new(root, "norm", 6, 1e-3);
  fine();
  for (int i = 0; i < 6; i++) {
    ck_assert(lk_view_get(&l->weight->value, i) == 1);
    ck_assert(lk_view_get(&l->bias->value, i) == 0);
  }
  lk_param_normal(l->weight, 1, 0.5);
  lk_param_normal(l->bias, 0, 0.5);
  lk_tensor x = NUMBERS(3, 4, 6), y = lk_layer_norm(t, x, lk_use(t, l->weight), lk_use(t, l->bias), 1e-3);
  ck_assert(largest_difference(lk_layer_norm_forward(l, t, x), y) == 0);
}
END_TEST

/* ---- blocks ---- */

/* One head after the other, by the formula; q of the first n tokens. */
static lk_tensor attention_by_hand(lk_tensor q, lk_tensor k, lk_tensor v, int64_t n, int heads, int64_t width) {
  lk_tensor y[8];
  int64_t d = width / heads;
  for (int h = 0; h < heads; h++) {
    lk_tensor qh = lk_slice(t, lk_slice(t, q, 1, 0, n, 1), 2, h * d, d, 1), kh = lk_slice(t, k, 2, h * d, d, 1);
    lk_tensor scores = lk_scale(t, lk_matmul(t, qh, lk_transpose(t, kh, 1, 2)), 1 / sqrt((double)d));
    y[h] = lk_matmul(t, lk_softmax(t, scores, -1), lk_slice(t, v, 2, h * d, d, 1));
  }
  return lk_concat(t, heads, y, 2);
}

START_TEST(attention) {
  const lk_multi_head_options o = {.width = 12, .heads = 3, .query = "attention.query", .output = "output.dense"};
  const lk_multi_head_options fused = {.width = 12, .heads = 3, .qkv = "qkv", .output = "proj", .flags = LK_NO_BIAS};
  lk_attention_layer *l = lk_attention_new(root, "attention", &o), *f = lk_attention_new(root, "attn", &fused);
  fine();
  ck_assert_str_eq(l->query->weight->name, "attention.attention.query.weight");
  ck_assert_str_eq(l->value->bias->name, "attention.value.bias");
  ck_assert_str_eq(l->output->weight->name, "attention.output.dense.weight");
  ck_assert_str_eq(f->qkv->weight->name, "attn.qkv.weight");
  ck_assert_ptr_null(f->qkv->bias);
  ck_assert_ptr_nonnull(f->output->bias);
  lk_tensor x = NUMBERS(4, 2, 5, 12), q = lk_linear_forward(l->query, t, x), k = lk_linear_forward(l->key, t, x);
  lk_tensor v = lk_linear_forward(l->value, t, x), qkv = lk_linear_forward(f->qkv, t, x), part[3];
  lk_split(t, qkv, -1, 3, part);
  for (int64_t n = 0; n <= 5; n += 2) {
    int64_t queries = n ? n : 5;
    lk_tensor y = lk_linear_forward(l->output, t, attention_by_hand(q, k, v, queries, 3, 12));
    ck_assert(largest_difference(lk_attention_forward(l, t, x, lk_nil(), n), y) < 1e-13);
    y = lk_linear_forward(f->output, t, attention_by_hand(part[0], part[1], part[2], queries, 3, 12));
    ck_assert(largest_difference(lk_attention_forward(f, t, x, lk_nil(), n), y) < 1e-13);
  }
  fine();
}
END_TEST

/* A causal layer's first tokens do not depend on later ones, and a mask does the same. */
START_TEST(attention_masks) {
  const lk_multi_head_options o = {.width = 8, .heads = 2, .causal = 1}, open = {.width = 8, .heads = 2};
  lk_attention_layer *causal = lk_attention_new(root, "causal", &o), *l = lk_attention_new(root, "open", &open);
  const uint8_t lower[] = {1, 0, 0, 1, 1, 0, 1, 1, 1};
  lk_tensor x = NUMBERS(5, 2, 3, 8), mask = lk_input(t, LK_U8, 2, (int64_t[]){3, 3}, lower);
  lk_tensor y = lk_attention_forward(causal, t, x, lk_nil(), 0), start = lk_slice(t, x, 1, 0, 2, 1);
  lk_tensor early = lk_attention_forward(causal, t, start, lk_nil(), 0);
  ck_assert(largest_difference(early, lk_slice(t, y, 1, 0, 2, 1)) < 1e-14);
  ck_assert(largest_difference(early, lk_attention_forward(causal, t, x, lk_nil(), 2)) < 1e-14);
  lk_tensor last = lk_attention_forward(causal, t, x, lk_nil(), -1);
  ck_assert(largest_difference(last, lk_slice(t, y, 1, 2, 1, 1)) < 1e-14);
  lk_tensor masked = lk_attention_forward(l, t, x, mask, 0);
  l->causal = 1;
  ck_assert(largest_difference(lk_attention_forward(l, t, x, lk_nil(), 0), masked) < 1e-14);
  fine();
}
END_TEST

START_TEST(mlp) {
  static const char *const activations[] = {
      "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python", "quick_gelu", "relu", "relu2", "relu6",
      "silu", "swish",    "mish",      "sigmoid",           "tanh"};
  lk_tensor x = NUMBERS(6, 3, 4);
  for (int i = 0; i < 14; i++) {
    lk_mlp_options o = {.width = 4, .hidden = 7, .activation = activations[i]};
    lk_mlp_layer *l = lk_mlp_new(root, activations[i], &o);
    fine();
    ck_assert_int_eq(l->up->out, 7);
    ck_assert_str_eq(l->activation->name, activations[i]);
    lk_tensor h = l->activation->forward(t, lk_linear_forward(l->up, t, x));
    ck_assert(largest_difference(lk_mlp_forward(l, t, x), lk_linear_forward(l->down, t, h)) == 0);
  }
  lk_mlp_options o = {.width = 4, .hidden = 7, .up = "in.dense", .down = "out.dense", .flags = LK_NAMELESS};
  lk_mlp_layer *l = lk_mlp_new(root, "nameless", &o);
  ck_assert_str_eq(l->up->weight->name, "in.dense.weight");
  ck_assert_str_eq(l->activation->name, "gelu");
  ck_assert_ptr_eq(lk_module_find(root, "out.dense"), &l->down->module);
  fine();
}
END_TEST

/* HuggingFace's values of its activations at 1 (transformers.activations.ACT2FN). */
START_TEST(activation_values) {
  static const struct {
    const char *name;
    double at_one;
  } known[] = {{"gelu", 0.8413447460685429},
               {"gelu_new", 0.8411919906082768},
               {"quick_gelu", 0.8457957659328212},
               {"relu2", 1},
               {"silu", 0.7310585786300049},
               {"mish", 0.8650983882673103},
               {"sigmoid", 0.7310585786300049},
               {"tanh", 0.7615941559557649},
               {"relu6", 1}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    const lk_activation *a = lk_activation_find(ctx, known[i].name);
    double y = lk_item(t, a->forward(t, lk_scalar(t, LK_F64, 1)));
    ck_assert_msg(fabs(y - known[i].at_one) < 1e-15, "%s: %.17g", known[i].name, y);
  }
}
END_TEST

/* ---- what is refused ---- */

START_TEST(refusals) {
  const int64_t kernel[] = {3, 3};
  lk_module *m = &lk_layer_norm_new(root, "here", 3, 1e-5)->module;
  ck_assert_ptr_null(lk_linear_new(m, "l", 0, 4, 0));
  expect(LK_ESHAPE, "linear 'l' in 'here': 0 inputs, 4 outputs");
  ck_assert_ptr_null(lk_embedding_new(m, "e", 5, -1));
  expect(LK_ESHAPE, "embedding 'e' in 'here': 5 vectors of width -1");
  ck_assert_ptr_null(lk_conv2d_new(m, "c", 4, 6, kernel, &(lk_conv2d_options){.groups = 4}, 0));
  expect(LK_ESHAPE, "conv2d 'c' in 'here': 4 groups do not divide 4 inputs, 6 outputs");
  ck_assert_ptr_null(lk_conv2d_new(m, "c", 4, 6, (int64_t[]){3, 0}, NULL, 0));
  expect(LK_ESHAPE, "kernel 3 x 0");
  ck_assert_ptr_null(lk_layer_norm_new(m, "n", 3, -1));
  expect(LK_EARG, "layer_norm 'n' in 'here': width 3, eps -1");
  ck_assert_ptr_null(lk_attention_new(m, "a", &(lk_multi_head_options){.width = 12, .heads = 5}));
  expect(LK_EARG, "attention 'a' in 'here': width 12 cannot be split into 5 heads");
  ck_assert_ptr_null(lk_mlp_new(m, "m", &(lk_mlp_options){.width = 2, .hidden = 2, .activation = "jelu"}));
  expect(LK_EARG, "there is no activation 'jelu'; known are gelu, gelu_new");
  ck_assert_ptr_nonnull(lk_linear_new(m, "twice", 2, 2, 0));
  ck_assert_ptr_null(lk_linear_new(m, "twice", 2, 2, 0));
  expect(LK_EARG, "'twice'");
  ck_assert(lk_is_nil(lk_linear_forward(NULL, t, lk_nil())));
  expect(LK_ENIL, "NULL");
  ck_assert_ptr_null(lk_attention_new(NULL, "a", &(lk_multi_head_options){.width = 12, .heads = 3}));
  fine();
}
END_TEST

/* A wrong shape is reported with the path of the layer. */
START_TEST(errors_carry_the_path) {
  const lk_multi_head_options o = {.width = 8, .heads = 2, .query = "attention.query"};
  lk_attention_layer *l = lk_attention_new(root, "attention", &o);
  ck_assert(lk_is_nil(lk_attention_forward(l, t, NUMBERS(7, 2, 3, 9), lk_nil(), 0)));
  expect(LK_ESHAPE, "in attention.attention.query");
}
END_TEST

/* ---- every allocation ---- */

static lk_status build_all(lk_ctx *c, void *arg) {
  const int64_t kernel[] = {2, 2};
  (void)arg;
  lk_model *m = lk_model_new(c, LK_F32, 0);
  lk_module *r = lk_model_root(m);
  lk_tape *tape = lk_tape_new(c);
  if (m && tape) {
    lk_tape_reset(tape);
    lk_embedding_layer *e = lk_embedding_new(r, "e", 5, 8);
    lk_attention_layer *a = lk_attention_new(r, "a", &(lk_multi_head_options){.width = 8, .heads = 2});
    lk_mlp_layer *p = lk_mlp_new(r, "p", &(lk_mlp_options){.width = 8, .hidden = 4, .flags = LK_NAMELESS});
    lk_layer_norm_layer *n = lk_layer_norm_new(r, "n", 8, 1e-5);
    lk_conv2d_layer *k = lk_conv2d_new(r, "k", 1, 2, kernel, NULL, 0);
    lk_tensor ids = lk_input(tape, LK_I64, 2, (int64_t[]){1, 3}, (int64_t[]){4, 0, 1});
    lk_tensor x = lk_embedding_forward(e, tape, ids);
    x = lk_mlp_forward(p, tape, lk_attention_forward(a, tape, lk_layer_norm_forward(n, tape, x), lk_nil(), 2));
    x = lk_conv2d_forward(k, tape, lk_reshape(tape, x, 4, (int64_t[]){1, 1, 4, 4}));
    lk_backward(tape, lk_sum(tape, x, 0, NULL, 0));
  }
  lk_tape_free(tape);
  lk_model_free(m);
  return lk_error(c, NULL);
}

START_TEST(every_allocation) {
  uint64_t count;
  const char *wrong = test_each_allocation(build_all, NULL, &count);
  ck_assert_msg(!wrong, "%s", wrong);
  ck_assert_uint_gt(count, 60);
}
END_TEST

int main(void) {
  Suite *s = suite_create("layers");
  TCase *c = tcase_create("layers");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 240);
  tcase_add_test(c, linear);
  tcase_add_test(c, embedding);
  tcase_add_test(c, conv2d);
  tcase_add_test(c, layer_norm);
  tcase_add_test(c, attention);
  tcase_add_test(c, attention_masks);
  tcase_add_test(c, mlp);
  tcase_add_test(c, activation_values);
  tcase_add_test(c, refusals);
  tcase_add_test(c, errors_carry_the_path);
  tcase_add_test(c, every_allocation);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
