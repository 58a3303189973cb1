/* peft.h: what the suites of adapter directories share: a context, the golden directory, configs with a key changed. */
#ifndef TEST_PEFT_H
#define TEST_PEFT_H
#include "alloc.h"
#include "files.h"
#include "tiny.h"

#include <check.h>
#include <lorikeet/io.h>

static test_allocator heap;
static lk_ctx *ctx;
static lk_tape *t;
static char golden[4096];

static void setup(void) {
  const char *source = getenv("srcdir");
  char *here = realpath(source ? source : ".", NULL);
  if (!here) abort();
  snprintf(golden, sizeof golden, "%s/tests/golden/lora", here);
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

/* The context must hold an error whose sentence has these words; clears it. */
static void expect(const char *words) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) != LK_OK, "no error; want '%s'", words);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' should say '%s'", message, words);
  lk_error_clear(ctx);
}

static inline void expect_warning(const char *words) {
  for (int i = 0; i < lk_warning_count(ctx); i++)
    if (strstr(lk_warning(ctx, i), words)) return;
  ck_abort_msg("there is no warning '%s' among %d", words, lk_warning_count(ctx));
}

static inline lk_view recorded(lk_safetensors *f, const char *name) {
  lk_view v;
  lk_safetensors_get(f, name, &v);
  fine();
  return v;
}

/* A path in the golden directory; valid until the call after the next. */
static const char *golden_path(const char *name) {
  static char paths[2][4400];
  static int turn;
  turn = !turn;
  snprintf(paths[turn], sizeof paths[turn], "%s/%s", golden, name);
  return paths[turn];
}

static void copy_file(const char *from, const char *to) {
  size_t n;
  unsigned char *bytes = test_get(from, &n);
  ck_assert_msg(bytes != NULL, "cannot read %s", from);
  test_put(to, bytes, n);
  free(bytes);
}

/* The base model of one of the golden directories. */
static inline tiny open_tiny(const char *name) {
  char path[256];
  tiny m = tiny_new(ctx, LK_F32);
  snprintf(path, sizeof path, "%s/base_model.safetensors", name);
  lk_model_load(m.model, golden_path(path), 0);
  fine();
  return m;
}

/* Directory "made" with a golden adapter whose config has `key` set to the JSON value (NULL: removed). */
static inline void make_directory(const char *name, const char *key, const char *value) {
  char path[256];
  lk_make_dirs(ctx, "made");
  snprintf(path, sizeof path, "%s/adapter_config.json", name);
  lk_json *config = lk_json_read(ctx, golden_path(path));
  if (value) lk_json_set(ctx, config, key, lk_json_parse(ctx, value, strlen(value), key));
  else if (key) ck_assert_int_eq(lk_json_remove(config, key), 1);
  lk_json_write(ctx, "made/adapter_config.json", config, 0);
  lk_json_free(config);
  snprintf(path, sizeof path, "%s/adapter_model.safetensors", name);
  copy_file(golden_path(path), "made/adapter_model.safetensors");
  fine();
}

/* The model's output for the ids of interchange_basic. */
static inline lk_view output(const tiny *m) {
  lk_view ids, y = {0};
  lk_safetensors *f = lk_safetensors_open(ctx, golden_path("interchange_basic/io.safetensors"));
  lk_safetensors_get(f, "ids", &ids);
  lk_tape_reset(t);
  lk_get(t, tiny_forward(m, t, lk_input(t, ids.dtype, ids.ndim, ids.shape, ids.p)), &y);
  lk_safetensors_close(f);
  fine();
  return y;
}

/* Largest difference. */
static inline double difference(const lk_view *a, const lk_view *b) {
  double d = 0;
  ck_assert_int_eq(lk_view_same_shape(a, b), 1);
  for (int64_t i = 0; i < lk_view_count(b); i++) d = fmax(d, fabs(lk_view_get(a, i) - lk_view_get(b, i)));
  return d;
}

#endif
