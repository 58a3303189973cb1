/* test_quantise.c: models with quantised frozen weights: every adapter on them, merging, files, memory. */
#include "adapter_suite.h"
#include "files.h"

#include <lorikeet/file.h>
#include <lorikeet/pretrained.h>
#include <lorikeet/quantise.h>
#include <lorikeet/safetensors.h>

static const lk_quantise_options ways[] = {{.kind = LK_QUANT_INT8},
                                           {.kind = LK_QUANT_NF4},
                                           {.kind = LK_QUANT_NF4, .doubled = 1},
                                           {.kind = LK_QUANT_INT8, .doubled = 1}};
enum { WAYS = sizeof ways / sizeof *ways };

static void expect(lk_status status, const char *part) {
  const char *message;
  ck_assert_int_eq(lk_error(ctx, &message), status);
  ck_assert_msg(strstr(message, part) != NULL, "%s", message);
  lk_error_clear(ctx);
}

/* ---- every adapter: the same as on a layer with the decoded weight ---- */

typedef struct {
  int n, m, nx;
  double y[2][TEST_MOST], g[2][4 * TEST_MOST], gx[2][TEST_MOST];
} results;

/* What a spec makes of the layer, in evaluation and in training; 0 if it is refused. */
static int measure(const test_spec *s, const test_layer *l, const lk_quantise_options *o, int decode, results *r) {
  open_model(l, LK_F64, 0);
  lk_model_quantise(model, o);
  if (decode) lk_model_dequantise(model);
  ck_assert_int_eq(lk_site_quant(site), decode ? LK_QUANT_NONE : o->kind);
  if (!attach(s->text, l)) return 0;
  test_perturb_trained(model);
  for (int training = 0; training < 2; training++) {
    r->n = forward(training, r->y[training]);
    backward(training);
    r->m = gradients(r->g[training]);
    r->nx = (int)lk_view_count(&data.gx);
    for (int i = 0; i < r->nx; i++) r->gx[training][i] = lk_view_get(&data.gx, i);
  }
  fine(s->text);
  return 1;
}

START_TEST(adapters_see_the_decoded_weight) {
  static results coded, decoded;
  const lk_quantise_options *o = &ways[_i];
  for (int k = 0; k < test_nspecs; k++)
    for (int j = 0; j < TEST_LAYERS; j++) {
      const test_spec *s = &test_specs[k];
      const test_layer *l = &test_layers[j];
      if (l->kind != LK_SITE_LINEAR || !test_fits(s, l)) continue;
      int attached = measure(s, l, o, 1, &decoded);
      ck_assert_msg(measure(s, l, o, 0, &coded) == attached, "%s at %s: %s", s->text, l->name, refusal);
      if (!attached) continue;
      ck_assert_int_eq(coded.n, decoded.n);
      ck_assert_int_eq(coded.m, decoded.m);
      for (int training = 0; training < 2; training++) {
        double y = test_error(coded.y[training], decoded.y[training], coded.n);
        double g = test_error(coded.g[training], decoded.g[training], coded.m);
        double gx = test_error(coded.gx[training], decoded.gx[training], coded.nx);
        ck_assert_msg(y < 1e-12 && g < 1e-11 && gx < 1e-11, "%s at %s: off by %g, gradients by %g and %g", s->text,
                      l->name, y, g, gx);
      }
    }
}
END_TEST

/* ---- merging, replacing, copying ---- */

START_TEST(merging) {
  double y[TEST_MOST], merged[TEST_MOST];
  lk_merge_report r;
  for (int j = 0; j < TEST_LAYERS; j++) {
    if (test_layers[j].kind != LK_SITE_LINEAR) continue;
    open_model(&test_layers[j], LK_F64, 0);
    lk_model_quantise(model, &ways[_i]);
    ck_assert(attach("lora r=2 init=random", &test_layers[j]));
    test_perturb_trained(model);
    int n = forward(0, y);
    int64_t bytes = lk_model_bytes(model);
    ck_assert_int_eq(lk_merge(model, &r), LK_OK);
    ck_assert(r.sites == 1 && r.max_change > 0 && r.max_relative_change > 0);
    ck_assert_int_eq(lk_site_quant(site), LK_QUANT_NONE);
    forward(0, merged);
    ck_assert(test_error(merged, y, n) < 1e-12);
    ck_assert_int_eq(lk_unmerge(model), LK_OK);
    ck_assert_int_eq(lk_site_quant(site), ways[_i].kind);
    ck_assert_int_eq(lk_model_bytes(model), bytes);
    forward(0, merged);
    ck_assert(!memcmp(merged, y, (size_t)n * sizeof *y));
  }
}
END_TEST

/* PiSSA's residual stands in for the codes, which come back when it is taken off. */
START_TEST(replacing) {
  double y[TEST_MOST], again[TEST_MOST];
  const test_layer *l = &test_layers[2]; /* stored [in, out] */
  open_model(l, LK_F64, 0);
  lk_model_quantise(model, &ways[_i]);
  int n = forward(0, y);
  ck_assert(attach("lora r=2 init=pissa", l));
  ck_assert_int_eq(lk_site_quant(site), LK_QUANT_NONE);
  forward(0, again);
  ck_assert(test_error(again, y, n) < 1e-12);
  ck_assert_int_eq(lk_model_save(model, "out.safetensors"), LK_EARG);
  expect(LK_EARG, "block.site.weight is quantised and cannot be saved");
  lk_detach(model, "default");
  ck_assert_int_eq(lk_site_quant(site), ways[_i].kind);
  forward(0, again);
  ck_assert(!memcmp(again, y, (size_t)n * sizeof *y));
}
END_TEST

/* A module that is trained whole: the copy begins with the decoded values. */
START_TEST(copying) {
  double y[TEST_MOST], again[TEST_MOST];
  const test_layer *l = &test_layers[_i % 2 ? 2 : 0];
  open_model(l, LK_F64, 0);
  lk_linear_new(lk_model_root(model), "other", 2, 2, 0);
  lk_model_quantise(model, &ways[_i]);
  int n = forward(0, y);
  lk_attach_options o = {.spec = "lora", .targets = "other", .modules_to_save = "site"};
  ck_assert_int_eq(lk_attach_with(model, &o), LK_OK);
  ck_assert_int_eq(lk_site_quant(site), LK_QUANT_NONE);
  forward(0, again);
  ck_assert(test_error(again, y, n) < 1e-12);
  backward(1);
  ck_assert(site->weight->stand_in->has_grad);
}
END_TEST

/* ---- what is quantised, and what that forbids ---- */

START_TEST(selection) {
  open_model(&test_layers[0], LK_F32, 0);
  lk_module *root = lk_model_root(model);
  lk_linear_layer *a = lk_linear_new(root, "a", 70, 5, 0), *b = lk_linear_new(root, "b", 70, 5, 0);
  lk_linear_layer *head = lk_linear_new(root, "classifier", 5, 2, 0);
  lk_embedding_layer *words = lk_embedding_new(root, "words", 6, 70);
  b->weight->alias = a->weight; /* tied */
  lk_quantise_options o = {.kind = LK_QUANT_NONE};
  ck_assert_int_eq(lk_model_quantise(model, &o), LK_OK);
  ck_assert_int_eq(lk_site_quant(site), LK_QUANT_NONE);
  o.kind = LK_QUANT_NF4;
  ck_assert_int_eq(lk_model_quantise(model, &o), LK_OK);
  ck_assert_int_eq(lk_site_quant(site), LK_QUANT_NF4);
  ck_assert_int_eq(lk_site_quant(a->module.site), LK_QUANT_NONE);
  ck_assert_int_eq(lk_site_quant(b->module.site), LK_QUANT_NONE);
  ck_assert_int_eq(lk_site_quant(head->module.site), LK_QUANT_NONE);
  ck_assert_int_eq(lk_site_quant(words->module.site), LK_QUANT_NONE);
  b->weight->alias = NULL;
  o = (lk_quantise_options){.kind = LK_QUANT_INT8, .targets = "a,b,classifier", .exclude = "b"};
  ck_assert_int_eq(lk_model_quantise(model, &o), LK_OK);
  ck_assert_int_eq(lk_site_quant(site), LK_QUANT_NF4);
  ck_assert_int_eq(lk_site_quant(a->module.site), LK_QUANT_INT8);
  ck_assert_int_eq(lk_site_quant(b->module.site), LK_QUANT_NONE);
  ck_assert_int_eq(lk_site_quant(head->module.site), LK_QUANT_INT8);
  lk_set_requires_grad(root, 1); /* codes do not train */
  ck_assert(!a->weight->requires_grad && b->weight->requires_grad);
  ck_assert_int_eq(lk_model_dequantise(model), LK_OK);
  lk_set_requires_grad(root, 1);
  ck_assert(a->weight->requires_grad && a->weight->value.p);
}
END_TEST

START_TEST(refusals) {
  test_directory();
  open_model(&test_layers[0], LK_F64, 0);
  const lk_quantise_options bf16 = {.kind = LK_QUANT_BF16}, wrong = {.kind = (lk_quant_kind)9};
  ck_assert_int_eq(lk_model_save(model, "whole.safetensors"), LK_OK);
  lk_model_quantise(model, &bf16);
  expect(LK_EDTYPE, "block.site.weight is f64");
  lk_model_quantise(model, &wrong);
  expect(LK_EARG, "no kind 9");
  lk_model_quantise(model, &ways[1]);
  lk_model_save(model, "out.safetensors");
  expect(LK_EARG, "block.site.weight is quantised");
  ck_assert(!lk_file_exists("out.safetensors"));
  lk_model_load(model, "whole.safetensors", 0);
  expect(LK_EARG, "the weight of block.site is quantised");
  lk_attach(model, "default", "lora", "site");
  lk_model_quantise(model, &ways[1]);
  expect(LK_EARG, "the adapter 'default' is attached");
  lk_model_dequantise(model);
  expect(LK_EARG, "the adapter 'default' is attached");
  lk_detach(model, "default");
  ck_assert_int_eq(lk_model_dequantise(model), LK_OK);
  ck_assert_int_eq(lk_model_save(model, "out.safetensors"), LK_OK);
  lk_view_set(&site->weight->value, 3, (double)NAN);
  lk_model_quantise(model, &ways[1]);
  expect(LK_ENONFINITE, "block.site.weight");
  ck_assert(site->weight->value.p != NULL);
  open_model(&test_layers[0], LK_F64, LK_SHAPES_ONLY);
  lk_model_quantise(model, &ways[1]);
  expect(LK_EARG, "shapes only");
  test_directory_remove();
}
END_TEST

START_TEST(bf16) {
  double y[TEST_MOST], rounded[TEST_MOST];
  const lk_quantise_options o = {.kind = LK_QUANT_BF16};
  open_model(&test_layers[0], LK_F32, 0);
  int n = forward(0, y);
  int64_t bytes = lk_model_bytes(model);
  ck_assert_int_eq(lk_model_quantise(model, &o), LK_OK);
  ck_assert_int_eq(lk_site_quant(site), LK_QUANT_BF16);
  ck_assert_int_eq(lk_model_bytes(model), bytes - 2 * 15);
  forward(0, rounded);
  ck_assert(test_error(rounded, y, n) < 1e-2 && test_error(rounded, y, n) > 0);
  ck_assert_int_eq(lk_model_dequantise(model), LK_OK);
  ck_assert_int_eq(site->weight->value.dtype, LK_F32);
}
END_TEST

/* ---- recomputation ---- */

static double recomputed(int flags, double *g) {
  double y[TEST_MOST];
  zero_grads();
  lk_tape_reset(t);
  lk_train(t, 1, 0);
  lk_tensor x = test_input(&data, t);
  uint32_t scope = lk_scope_begin(t, "block", flags);
  lk_tensor out = lk_scope_end(t, scope, lk_gelu(t, lk_site_forward(site, t, lk_gelu(t, x))));
  test_values(t, out, y);
  lk_backward(t, test_loss(t, out));
  gradients(g);
  return y[0];
}

START_TEST(recomputing) {
  static const char *const specs[] = {"dropout p=0.3 (lora r=2 init=random)", "lora init=random | magnitude"};
  double g[2][4 * TEST_MOST];
  for (int k = 0; k < 2; k++) {
    open_model(&test_layers[0], LK_F32, 0);
    lk_model_quantise(model, &ways[_i]);
    ck_assert(attach(specs[k], &test_layers[0]));
    test_perturb_trained(model);
    memset(g, 0, sizeof g);
    ck_assert(recomputed(0, g[0]) == recomputed(LK_SCOPE_RECOMPUTE, g[1]));
    ck_assert(lk_tape_statistics(t).replayed > 0);
    ck_assert(!memcmp(g[0], g[1], sizeof g[0]));
    fine(specs[k]);
  }
}
END_TEST

/* ---- memory ---- */

START_TEST(memory) {
  static const double limits[] = {0.27, 0.15, 0.135, 0.255};
  double most = limits[_i];
  open_model(&test_layers[0], LK_F32, 0);
  lk_linear_layer *big = lk_linear_new(lk_model_root(model), "big", 768, 800, 0);
  int64_t before = lk_model_bytes(model);
  lk_model_quantise(model, &ways[_i]);
  ck_assert_msg((double)lk_model_bytes(model) <= most * (double)before, "%g",
                (double)lk_model_bytes(model) / (double)before);
  ck_assert(!big->weight->value.p && !big->weight->owned); /* and its memory is given back */
  ck_assert_int_eq(lk_attach(model, "default", "lora r=2", "big"), LK_OK);
  uint64_t calls = 0;
  for (int step = 0; step < 5; step++) { /* a warm step takes nothing from the allocator */
    if (step == 2) calls = heap.calls;
    lk_tape_reset(t);
    lk_train(t, (uint64_t)step, 0);
    lk_tensor y = lk_linear_forward(big, t, lk_input(t, LK_F32, 2, (int64_t[]){6, 768}, NULL));
    lk_backward(t, lk_sum(t, lk_mul(t, y, y), 0, NULL, 0));
  }
  fine("steps");
  ck_assert_uint_eq(heap.calls, calls);
}
END_TEST

/* ---- files ---- */

static lk_model *small_model(lk_linear_layer **one, lk_linear_layer **two) {
  lk_model *m = lk_model_new(ctx, LK_F32, 0);
  *one = lk_linear_new(lk_model_root(m), "one", 70, 90, 0);
  *two = lk_linear_new(lk_model_root(m), "two", 90, 70, LK_FAN_IN_FAN_OUT);
  return m;
}

static int same_codes(const lk_linear_layer *a, const lk_linear_layer *b) {
  static double values[2][90 * 70];
  lk_view v, w;
  int64_t shape[] = {a->out, a->in};
  lk_view_init(&v, LK_F64, 2, shape);
  w = v;
  v.p = values[0], w.p = values[1];
  ck_assert(!lk_site_read(a->module.site, &v) && !lk_site_read(b->module.site, &w));
  return !memcmp(values[0], values[1], lk_view_bytes(&v));
}

/* Quantised while it is read: the same codes as quantised afterwards. */
START_TEST(reading) {
  lk_linear_layer *a[2], *b[2];
  test_directory();
  lk_model *first = small_model(&a[0], &a[1]);
  lk_model_save(first, "model.safetensors");
  lk_model_quantise(first, &ways[_i]);
  lk_model *second = small_model(&b[0], &b[1]);
  for (int i = 0; i < 2; i++) lk_param_fill(b[i]->weight, 0.5);
  const lk_load_options o = {.quantise = &ways[_i]};
  ck_assert_int_eq(lk_model_load_with(second, "model.safetensors", &o), LK_OK);
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(lk_site_quant(b[i]->module.site), ways[_i].kind);
    ck_assert(same_codes(a[i], b[i]));
    ck_assert_int_eq(b[i]->bias->owned, 0); /* mapped */
  }
  lk_model_free(first);
  lk_model_free(second);
  test_directory_remove();
  fine("reading");
}
END_TEST

static const char config[] = "{\"model_type\": \"llama\", \"vocab_size\": 20, \"hidden_size\": 16, "
                             "\"intermediate_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                             "\"num_key_value_heads\": 2, \"max_position_embeddings\": 32}";

static lk_status logits(lk_pretrained *p, double *values) {
  static const int64_t ids[] = {3, 7, 1, 19, 4};
  lk_view v;
  lk_tape_reset(t);
  lk_tensor y = lk_pretrained_forward(p, t, &(lk_inputs){.ids = lk_input(t, LK_I64, 2, (int64_t[]){1, 5}, ids)});
  for (int64_t i = 0; !lk_get(t, y, &v) && i < 100; i++) values[i] = lk_view_get(&v, i);
  return lk_error(ctx, NULL);
}

/* A pretrained model that is quantised while it is made, while it is read, and afterwards. */
START_TEST(pretrained) {
  double y[3][100];
  test_directory();
  lk_json *j = lk_json_parse(ctx, config, sizeof config - 1, "config");
  for (int k = 0; k < 3; k++) {
    lk_model *m = lk_model_new(ctx, LK_F32, 0);
    const lk_pretrained_options o = {.task = LK_TASK_LM, .quantise = k ? &ways[_i] : NULL};
    lk_pretrained *p = k < 2 ? lk_pretrained_new(m, j, &o) : lk_pretrained_open(m, "saved", &o);
    fine("made");
    if (k == 0) lk_pretrained_save(p, "saved");
    if (k == 0) lk_model_quantise(m, &ways[_i]);
    ck_assert_int_eq(lk_site_quant(lk_module_find(lk_model_root(m), "model.layers.1.mlp.up_proj")->site),
                     ways[_i].kind);
    ck_assert_int_eq(lk_site_quant(lk_module_find(lk_model_root(m), "lm_head")->site), LK_QUANT_NONE);
    logits(p, y[k]);
    fine("forward");
    lk_model_free(m);
  }
  ck_assert(!memcmp(y[0], y[1], sizeof y[0]) && !memcmp(y[0], y[2], sizeof y[0]));
  lk_json_free(j);
  test_directory_remove();
}
END_TEST

/* ---- every allocation fails once ---- */

static lk_status story(lk_ctx *c, void *arg) {
  const lk_quantise_options *o = arg;
  float ones[70] = {1};
  lk_model *m = lk_model_new(c, LK_F32, 0);
  lk_linear_layer *l = m ? lk_linear_new(lk_model_root(m), "one", 70, 3, 0) : NULL;
  lk_linear_new(lk_model_root(m), "two", 3, 2, 0);
  lk_tape *tape = lk_tape_new(c);
  lk_attach_options with = {.spec = "lora r=1 init=pissa", .targets = "one", .modules_to_save = "two"};
  if (m && l && tape && !lk_model_quantise(m, o) && !lk_attach_with(m, &with) && !lk_detach(m, "default") &&
      !lk_attach(m, "default", "lora r=1 | magnitude", "one")) {
    lk_train(tape, 0, 0);
    lk_tensor y = lk_linear_forward(l, tape, lk_input(tape, LK_F32, 1, (int64_t[]){70}, ones));
    lk_backward(tape, lk_sum(tape, y, 0, NULL, 0));
    lk_merge(m, NULL);
    lk_unmerge(m);
    lk_detach(m, "default");
    lk_model_dequantise(m);
  }
  lk_tape_free(tape);
  lk_model_free(m);
  return lk_error(c, NULL);
}

START_TEST(allocations) {
  lk_quantise_options o = ways[_i];
  const char *why = test_each_allocation(story, &o, NULL);
  ck_assert_msg(!why, "%s", why);
}
END_TEST

static lk_status reading_story(lk_ctx *c, void *arg) {
  const lk_load_options o = {.quantise = arg};
  lk_model *m = lk_model_new(c, LK_F32, 0);
  lk_linear_new(lk_model_root(m), "one", 70, 3, 0);
  if (m) lk_model_load_with(m, "one.safetensors", &o);
  lk_model_free(m);
  return lk_error(c, NULL);
}

START_TEST(reading_allocations) {
  lk_quantise_options o = ways[_i];
  test_directory();
  lk_model *m = lk_model_new(ctx, LK_F32, 0);
  lk_linear_new(lk_model_root(m), "one", 70, 3, 0);
  lk_model_save(m, "one.safetensors");
  lk_model_free(m);
  const char *why = test_each_allocation(reading_story, &o, NULL);
  ck_assert_msg(!why, "%s", why);
  test_directory_remove();
}
END_TEST

int main(void) {
  TCase *c = open_suite("quantise");
  tcase_add_loop_test(c, adapters_see_the_decoded_weight, 0, WAYS);
  tcase_add_loop_test(c, merging, 0, WAYS);
  tcase_add_loop_test(c, replacing, 0, WAYS);
  tcase_add_loop_test(c, copying, 0, WAYS);
  tcase_add_test(c, selection);
  tcase_add_test(c, refusals);
  tcase_add_test(c, bf16);
  tcase_add_loop_test(c, recomputing, 0, WAYS);
  tcase_add_loop_test(c, memory, 0, WAYS);
  tcase_add_loop_test(c, reading, 0, WAYS);
  tcase_add_loop_test(c, pretrained, 0, WAYS);
  tcase_add_loop_test(c, allocations, 0, WAYS);
  tcase_add_loop_test(c, reading_allocations, 0, WAYS);
  return run_suite();
}
