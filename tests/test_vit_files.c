/* test_vit_files.c: models in directories: config.json, weights, parity with HuggingFace, and what is refused. */
#include "alloc.h"
#include "files.h"
#include "vit.h"

#include <check.h>
#include <lorikeet/adapter.h>
#include <lorikeet/io.h>
#include <math.h>

static test_allocator heap;
static lk_ctx *ctx;
static lk_tape *t;
static char golden[4096];

static void setup(void) {
  const char *source = getenv("srcdir");
  char *here = realpath(source ? source : ".", NULL);
  if (!here) abort();
  snprintf(golden, sizeof golden, "%s/tests/golden/models/vit_tiny", here);
  free(here);
  test_directory();
  ctx = test_ctx(&heap, 0);
  t = lk_tape_new(ctx);
}

static void teardown(void) {
  lk_tape_free(t);
  lk_ctx_free(ctx);
  test_directory_remove();
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

static void put_text(const char *path, const char *text) { test_put(path, text, strlen(text)); }

/* ---- parity with HuggingFace ---- */

/* Largest |a - b| / max(1, max |b|). */
static double difference(const lk_view *a, const lk_view *b) {
  double d = 0, scale = 1;
  ck_assert_int_eq(lk_view_same_shape(a, b), 1);
  for (int64_t i = 0; i < lk_view_count(b); i++) {
    d = fmax(d, fabs(lk_view_get(a, i) - lk_view_get(b, i)));
    scale = fmax(scale, fabs(lk_view_get(b, i)));
  }
  return d / scale;
}

static lk_view stored(lk_safetensors *f, const char *prefix, const char *name) {
  char whole[200];
  lk_view v;
  snprintf(whole, sizeof whole, "%s%s", prefix, name);
  lk_safetensors_get(f, whole, &v);
  fine();
  return v;
}

/* Logits, loss and every gradient, in f64 to 1e-10 and in f32 to 1e-5. */
START_TEST(parity) {
  char path[4200];
  lk_dtype dtype = _i ? LK_F64 : LK_F32;
  double tolerance = _i ? 1e-10 : 1e-5;
  lk_model *model = lk_model_new(ctx, dtype, 0);
  lk_vit *v = lk_vit_load(model, golden, 0, 0);
  snprintf(path, sizeof path, "%s/io.safetensors", golden);
  lk_safetensors *f = lk_safetensors_open(ctx, path);
  fine();
  lk_view images = stored(f, "", "images"), labels = stored(f, "", "labels"), narrow = images, y;
  float single[3 * 2 * 15 * 15];
  narrow.dtype = LK_F32;
  narrow.p = single;
  lk_view_copy(&narrow, &images);
  lk_tape_reset(t);
  lk_tensor x = lk_borrow(t, _i ? &images : &narrow), logits = lk_vit_forward(v, t, x);
  lk_tensor loss = lk_cross_entropy(t, logits, lk_borrow(t, &labels), -100, 0);
  lk_view want = stored(f, "", "logits"), want_loss = stored(f, "", "loss");
  lk_get(t, logits, &y);
  fine();
  ck_assert_msg(difference(&y, &want) < tolerance, "logits differ by %g", difference(&y, &want));
  ck_assert(fabs(lk_item(t, loss) - lk_view_get(&want_loss, 0)) < tolerance);
  lk_backward(t, loss);
  fine();
  for (lk_param *p = NULL; (p = test_next_param(model, p));) {
    lk_view g = p->value;
    g.p = p->grad;
    want = stored(f, "grad.", p->name);
    ck_assert_msg(difference(&g, &want) < tolerance, "gradient of %s differs by %g", p->name, difference(&g, &want));
  }
  lk_safetensors_close(f);
  lk_model_free(model);
}
END_TEST

START_TEST(labels) {
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_vit *v = lk_vit_load(model, golden, 0, 0);
  fine();
  ck_assert_str_eq(lk_vit_label(v, 1), "bee");
  ck_assert_ptr_null(lk_vit_label(v, 3));
  lk_model_free(model);
}
END_TEST

/* ---- mapping and copying ---- */

START_TEST(mapping) {
  for (int flags = 0; flags <= LK_LOAD_COPY; flags++) {
    lk_model *model = lk_model_new(ctx, LK_F32, 0);
    lk_vit_load(model, golden, 0, flags);
    fine();
    for (lk_param *p = NULL; (p = test_next_param(model, p));) {
      ck_assert_int_eq(p->owned, flags & LK_LOAD_COPY);
      double first = lk_view_get(&p->value, 0);
      ck_assert_int_eq(lk_param_fill(p, 7), LK_OK); /* makes a copy of its own */
      ck_assert_int_eq(p->owned, 1);
      ck_assert(lk_view_get(&p->value, 0) == 7 && first != 7);
    }
    lk_model_free(model);
  }
}
END_TEST

static void expect_same_file(const char *a, const char *b) {
  size_t n, m;
  unsigned char *x = test_get(a, &n), *y = test_get(b, &m);
  ck_assert_msg(x && y && n == m && !memcmp(x, y, n), "%s and %s differ", a, b);
  free(x);
  free(y);
}

/* Tensors: the reference implementation's bytes.  Config: a second round changes nothing, and unknown keys stay. */
START_TEST(round_trip) {
  char path[4200];
  lk_dtype dtype = _i ? LK_F64 : LK_F32; /* f64 and back is exact */
  lk_model *model = lk_model_new(ctx, dtype, 0), *again = lk_model_new(ctx, LK_F32, 0);
  lk_vit *v = lk_vit_load(model, golden, 0, 0);
  ck_assert_int_eq(lk_vit_save(v, "a/first"), LK_OK);
  v = lk_vit_load(again, "a/first", 0, LK_LOAD_COPY);
  ck_assert_int_eq(lk_vit_save(v, "second"), LK_OK);
  fine();
  snprintf(path, sizeof path, "%s/model.safetensors", golden);
  expect_same_file("second/model.safetensors", path);
  snprintf(path, sizeof path, "%s/config.json", golden);
  size_t n, m;
  char *first = (char *)test_get(path, &n), *second = (char *)test_get("second/config.json", &m);
  first[n - 1] = second[m - 1] = 0; /* the last line's end, which is ours alone */
  ck_assert_int_eq(strncmp(first, second, n - 1), 0);
  free(first);
  free(second);
  lk_model_free(model);
  lk_model_free(again);
}
END_TEST

/* Saved from a preset, with the fused layout too: everything comes back. */
START_TEST(presets_come_back) {
  lk_vit_config c;
  lk_vit_preset(ctx, "vit-tiny-28", &c);
  c.fused_qkv = _i;
  c.hidden_act = "gelu_new";
  c.hidden_dropout = 0.125;
  c.classes = 3;
  c.qkv_bias = 0;
  lk_model *model = lk_model_new(ctx, LK_F64, 0), *again = lk_model_new(ctx, LK_F64, 0);
  lk_vit *v = lk_vit_new(model, &c);
  fine();
  ck_assert_ptr_null(lk_vit_label(v, 0));
  lk_vit_save(v, "d");
  lk_vit *w = lk_vit_load(again, "d", 0, 0);
  fine();
  ck_assert_str_eq(w->config.hidden_act, "gelu_new");
  ck_assert_str_eq(lk_vit_label(w, 2), "LABEL_2");
  w->config.hidden_act = v->config.hidden_act; /* the same text at another place */
  ck_assert_int_eq(memcmp(&v->config, &w->config, sizeof c), 0);
  for (lk_param *p = test_next_param(model, NULL), *q = test_next_param(again, NULL); p || q;
       p = test_next_param(model, p), q = test_next_param(again, q)) {
    ck_assert_str_eq(p->name, q->name);
    ck_assert_int_eq(memcmp(p->value.p, q->value.p, lk_view_bytes(&p->value)), 0);
  }
  lk_model_free(model);
  lk_model_free(again);
}
END_TEST

/* ---- weights that do not fit ---- */

/* The golden file's tensors with `change` applied to the list; returns the new number. */
typedef size_t change(lk_named_view *list, size_t n);

static void write_changed(change *how) {
  char path[4200];
  lk_named_view list[64];
  size_t n = 0;
  snprintf(path, sizeof path, "%s/model.safetensors", golden);
  lk_safetensors *f = lk_safetensors_open(ctx, path);
  ck_assert_ptr_nonnull(f);
  for (; n < lk_safetensors_count(f); n++) {
    list[n].name = lk_safetensors_at(f, n)->name;
    lk_safetensors_get(f, list[n].name, &list[n].view);
  }
  lk_make_dirs(ctx, "changed");
  lk_safetensors_write(ctx, "changed/model.safetensors", list, how(list, n), NULL, 0);
  lk_safetensors_close(f);
  snprintf(path, sizeof path, "%s/config.json", golden);
  unsigned char *config = test_get(path, &n);
  test_put("changed/config.json", config, n);
  free(config);
  fine();
}

static lk_vit *load_changed(int64_t classes, int flags, lk_model **model) {
  *model = lk_model_new(ctx, LK_F32, 0);
  return lk_vit_load(*model, "changed", classes, flags);
}

static lk_named_view *named(lk_named_view *list, size_t n, const char *name) {
  for (size_t i = 0; i < n; i++)
    if (!strcmp(list[i].name, name)) return &list[i];
  abort();
}

static size_t several_faults(lk_named_view *list, size_t n) {
  lk_named_view *head = named(list, n, "classifier.weight"), *norm = named(list, n, "vit.layernorm.bias");
  lk_named_view *cls = named(list, n, "vit.embeddings.cls_token");
  head->view.shape[0] = 2;
  norm->name = "vit.layernorm.beta";
  norm[0].view.dtype = LK_F32;
  cls->view.dtype = LK_I32;
  return n;
}

START_TEST(faults_in_one_message) {
  lk_model *model;
  const char *message;
  write_changed(several_faults);
  ck_assert_ptr_null(load_changed(0, 0, &model));
  lk_error(ctx, &message);
  ck_assert_str_eq(
      message, "changed/model.safetensors does not fit the model: 1 missing: vit.layernorm.bias; "
               "1 unexpected: vit.layernorm.beta; 1 misshapen: classifier.weight is [2, 24], in the model "
               "[3, 24]; 1 of a type that is not read (F32, F64, BF16 and F16 are): vit.embeddings.cls_token is I32");
  expect(LK_EFORMAT, "does not fit the model");
  lk_model_free(model);
}
END_TEST

static size_t without_first_block(lk_named_view *list, size_t n) {
  size_t kept = 0;
  for (size_t i = 0; i < n; i++)
    if (strncmp(list[i].name, "vit.encoder.layer.0.", 20) != 0) list[kept++] = list[i];
  return kept;
}

/* Long lists are cut, with their number; partial loading warns and gives the missing ones initial values. */
START_TEST(missing) {
  lk_model *model;
  const char *message;
  write_changed(without_first_block);
  ck_assert_ptr_null(load_changed(0, 0, &model));
  lk_error(ctx, &message);
  ck_assert_ptr_nonnull(strstr(message, "the model: 16 missing: vit.encoder.layer.0.layernorm_before.weight, vit.enc"));
  ck_assert_str_eq(message + strlen(message) - 5, ", ...");
  expect(LK_EFORMAT, "16 missing");
  lk_model_free(model);
  lk_vit *v = load_changed(0, LK_LOAD_PARTIAL, &model);
  fine();
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "fits the model in part: 16 missing"));
  const lk_vit_block *b = v->blocks[0];
  ck_assert(lk_view_get(&b->norm1->weight->value, 3) == 1);
  ck_assert(fabs(lk_view_get(&b->mlp->up->weight->value, 3)) < 0.1 && lk_view_get(&b->mlp->up->weight->value, 3) != 0);
  ck_assert_int_eq(v->blocks[1]->norm1->weight->owned, 0);
  lk_model_free(model);
}
END_TEST

/* As a bare ViTModel's file: no prefix, no classifier, a pooler. */
static size_t bare(lk_named_view *list, size_t n) {
  size_t kept = 0;
  for (size_t i = 0; i < n; i++) {
    if (!strncmp(list[i].name, "classifier", 10)) continue;
    list[kept] = list[i];
    list[kept++].name += 4;
  }
  list[kept] = list[0];
  list[kept].name = "pooler.dense.weight";
  return kept + 1;
}

START_TEST(bare_model_and_new_head) {
  lk_model *model, *whole = lk_model_new(ctx, LK_F32, 0);
  write_changed(bare);
  ck_assert_ptr_null(load_changed(0, 0, &model));
  expect(LK_EFORMAT, "2 missing: classifier.weight, classifier.bias; 1 unexpected: pooler.dense.weight");
  lk_model_free(model);
  lk_vit *v = load_changed(5, 0, &model), *w = lk_vit_load(whole, golden, 3, 0);
  fine();
  ck_assert_int_eq(v->head->out, 5);
  ck_assert_int_eq(w->head->out, 3);
  ck_assert_ptr_null(lk_vit_label(w, 0)); /* the old head's */
  for (int64_t i = 0; i < 5; i++) ck_assert(lk_view_get(&v->head->bias->value, i) == 0);
  for (int64_t i = 0; i < 24; i++) {
    ck_assert(fabs(lk_view_get(&w->head->weight->value, i)) < 0.1);
    ck_assert(lk_view_get(&v->cls->value, i) == lk_view_get(&w->cls->value, i));
  }
  lk_model_free(model);
  lk_model_free(whole);
}
END_TEST

/* A load that fails leaves the model as it was; what adapters or shapes-only models forbid is named. */
START_TEST(loading_into_a_model) {
  lk_vit_config c = test_vit_config;
  lk_model *model = lk_model_new(ctx, LK_F32, 0), *shapes = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
  lk_vit *v = lk_vit_new(model, &c);
  double before = lk_view_get(&v->cls->value, 0);
  char path[4200];
  snprintf(path, sizeof path, "%s/model.safetensors", golden);
  ck_assert_int_eq(lk_model_load(model, path, LK_LOAD_PARTIAL), LK_EFORMAT);
  expect(LK_EFORMAT, "misshapen: vit.embeddings.cls_token is [1, 1, 24], in the model [1, 1, 12]");
  ck_assert(lk_view_get(&v->cls->value, 0) == before);
  ck_assert_ptr_nonnull(lk_vit_load(shapes, golden, 0, 0));
  ck_assert_int_eq(lk_parameter_count(shapes), 10277);
  lk_model_load(shapes, path, 0);
  expect(LK_EARG, "the model has shapes only");
  lk_model_save(shapes, "none.safetensors");
  expect(LK_ENIL, "vit.embeddings.cls_token");
  ck_assert_int_eq(lk_file_exists("none.safetensors"), 0);
  lk_model_free(model);
  lk_model_free(shapes);
}
END_TEST

/* While PiSSA holds the residual in the base's place, the base itself is what is written; merged values once merged. */
START_TEST(saving_with_adapters) {
  char path[4200];
  size_t n, m;
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_vit *v = lk_vit_load(model, golden, 0, 0);
  lk_attach(model, "default", "lora r=2 init=pissa", "query");
  fine();
  ck_assert_int_eq(lk_vit_save(v, "base"), LK_OK);
  snprintf(path, sizeof path, "%s/model.safetensors", golden);
  expect_same_file("base/model.safetensors", path);
  lk_model_load(model, path, LK_LOAD_COPY);
  expect(LK_EARG, "an adapter replaces the weight of vit.encoder.layer.0.attention.attention.query; detach it first");
  for (lk_param *p = v->blocks[1]->attention->query->module.site->stacks->chain->params; p; p = p->next)
    lk_param_fill(p, 0.5);
  lk_merge(model, NULL);
  ck_assert_int_eq(lk_vit_save(v, "merged"), LK_OK);
  unsigned char *a = test_get(path, &n), *b = test_get("merged/model.safetensors", &m);
  ck_assert(n == m && memcmp(a, b, n) != 0);
  free(a);
  free(b);
  lk_model_load(model, path, 0);
  expect(LK_EARG, "the model is merged");
  lk_model_free(model);
}
END_TEST

/* ---- configurations ---- */

static const struct {
  const char *json, *words;
} bad_configs[] = {
    {"{}", "model_type is ''; this reads 'vit' only"},
    {"{\"model_type\": \"bert\"}", "model_type is 'bert'"},
    {"[]", "want an object"},
    {"{\"model_type\": \"vit\", \"hidden_size\": 30, \"num_attention_heads\": 4}",
     "num_attention_heads 4 does not divide hidden_size 30"},
    {"{\"model_type\": \"vit\", \"image_size\": 30}", "patch_size 16 does not divide image_size 30"},
    {"{\"model_type\": \"vit\", \"hidden_act\": \"jelu\"}", "there is no activation 'jelu'; known are gelu, "},
    {"{\"model_type\": \"vit\", \"hidden_act\": 3}", "\"hidden_act\" must be a string, not an integer"},
    {"{\"model_type\": \"vit\", \"num_hidden_layers\": -2}", "num_hidden_layers is -2, should be 1 to 4096"},
    {"{\"model_type\": \"vit\", \"num_channels\": 0}", "num_channels is 0"},
    {"{\"model_type\": \"vit\", \"intermediate_size\": 9000000000000}", "intermediate_size is 9000000000000"},
    {"{\"model_type\": \"vit\", \"patch_size\": 16.5}", "\"patch_size\" must be an integer, not a real number"},
    {"{\"model_type\": \"vit\", \"image_size\": [224, 224]}", "\"image_size\" must be an integer, not an array"},
    {"{\"model_type\": \"vit\", \"layer_norm_eps\": \"small\"}", "\"layer_norm_eps\" must be a number, not a string"},
    {"{\"model_type\": \"vit\", \"hidden_dropout_prob\": 1.5}", "hidden_dropout_prob is 1.5, should be 0 to 1"},
    {"{\"model_type\": \"vit\", \"attention_probs_dropout_prob\": -0.1}", "attention_probs_dropout_prob is -0.1"},
    {"{\"model_type\": \"vit\", \"initializer_range\": -1}", "initializer_range is -1"},
    {"{\"model_type\": \"vit\", \"qkv_bias\": 1}", "\"qkv_bias\" must be true or false, not an integer"},
    {"{\"model_type\": \"vit\", \"num_labels\": 0}", "num_labels is 0"},
    {"{\"model_type\": \"vit\"", "config.json:1:"},
};

START_TEST(bad_config) {
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_make_dirs(ctx, "bad");
  put_text("bad/config.json", bad_configs[_i].json);
  ck_assert_ptr_null(lk_vit_load(model, "bad", 0, 0));
  const char *message;
  lk_error(ctx, &message);
  ck_assert_msg(!strncmp(message, "bad/config.json:", 16), "%s", message);
  ck_assert_msg(strstr(message, bad_configs[_i].words) != NULL, "'%s' should say '%s'", message, bad_configs[_i].words);
  lk_model_free(model);
}
END_TEST

START_TEST(config_defaults) {
  lk_vit_config c;
  static const char text[] = "{\"model_type\": \"vit\", \"num_labels\": 7, \"layer_norm_eps\": null}";
  lk_json *json = lk_json_parse(ctx, text, strlen(text), "text");
  ck_assert_int_eq(lk_vit_config_from_json(ctx, json, &c), LK_OK);
  lk_json_free(json);
  ck_assert_int_eq(c.image_size, 224);
  ck_assert_int_eq(c.patch_size, 16);
  ck_assert_int_eq(c.channels, 3);
  ck_assert_int_eq(c.hidden_size, 768);
  ck_assert_int_eq(c.layers, 12);
  ck_assert_int_eq(c.heads, 12);
  ck_assert_int_eq(c.intermediate_size, 3072);
  ck_assert_int_eq(c.classes, 7);
  ck_assert(c.layer_norm_eps == 1e-12 && c.initializer_range == 0.02);
  ck_assert(c.hidden_dropout == 0 && c.attention_dropout == 0);
  ck_assert_str_eq(c.hidden_act, "gelu");
  ck_assert_int_eq(c.qkv_bias, 1);
  ck_assert_int_eq(c.fused_qkv, 0);
  lk_vit_config_default(&c);
  ck_assert_int_eq(c.classes, 2);
}
END_TEST

START_TEST(missing_files) {
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_vit_config c;
  ck_assert_ptr_null(lk_vit_load(model, "nowhere", 0, 0));
  expect(LK_EIO, "nowhere/config.json");
  ck_assert_int_eq(lk_vit_preset(ctx, "vit-huge", &c), LK_EARG);
  expect(LK_EARG, "there is no vision transformer 'vit-huge'; known are vit-tiny-28, vit-small-28, deit-tiny, vit-s16");
  c = test_vit_config;
  c.hidden_act = NULL;
  ck_assert_int_eq(lk_vit_config_check(ctx, &c), LK_ENIL);
  expect(LK_ENIL, "hidden_act is NULL");
  lk_make_dirs(ctx, "empty");
  put_text("empty/config.json", "{\"model_type\": \"vit\", \"hidden_size\": 12, \"num_hidden_layers\": 1}");
  ck_assert_ptr_null(lk_vit_load(model, "empty", 0, 0));
  expect(LK_EIO, "empty/model.safetensors");
  lk_model_free(model);
}
END_TEST

/* ---- every allocation ---- */

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  lk_model *model = lk_model_new(c, LK_F64, 0), *loaded = lk_model_new(c, LK_F32, 0);
  lk_tape *tape = lk_tape_new(c);
  lk_vit_config config = test_vit_config;
  config.layers = 1;
  lk_vit *v = lk_vit_new(model, &config), *w = NULL;
  if (v) lk_vit_save(v, "story");
  if (v && loaded) w = lk_vit_load(loaded, "story", 0, 0);
  if (w && tape) {
    lk_tape_reset(tape);
    lk_train(tape, 0, 0);
    lk_vit_set_recompute(w, LK_VIT_RECOMPUTE_PARTS);
    lk_backward(tape, test_vit_loss(w, tape, NULL));
  }
  lk_tape_free(tape);
  lk_model_free(model);
  lk_model_free(loaded);
  return lk_error(c, NULL);
}

START_TEST(every_allocation) {
  uint64_t count;
  const char *wrong = test_each_allocation(story, NULL, &count);
  ck_assert_msg(!wrong, "%s", wrong);
  ck_assert_uint_gt(count, 200);
}
END_TEST

int main(void) {
  Suite *s = suite_create("vit_files");
  TCase *c = tcase_create("vit_files");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 240);
  tcase_add_loop_test(c, parity, 0, 2);
  tcase_add_test(c, labels);
  tcase_add_test(c, mapping);
  tcase_add_loop_test(c, round_trip, 0, 2);
  tcase_add_loop_test(c, presets_come_back, 0, 2);
  tcase_add_test(c, faults_in_one_message);
  tcase_add_test(c, missing);
  tcase_add_test(c, bare_model_and_new_head);
  tcase_add_test(c, loading_into_a_model);
  tcase_add_test(c, saving_with_adapters);
  tcase_add_loop_test(c, bad_config, 0, sizeof bad_configs / sizeof *bad_configs);
  tcase_add_test(c, config_defaults);
  tcase_add_test(c, missing_files);
  tcase_add_test(c, every_allocation);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
