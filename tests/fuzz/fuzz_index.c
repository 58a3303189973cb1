/* fuzz_index.c: any bytes as model.safetensors.index.json beside two good files: refused with a sentence and nothing
 * changed, or the model has the files' values. */
#include "../files.h"
#include "fuzz.h"

#include <lorikeet/file.h>
#include <lorikeet/layers.h>
#include <lorikeet/safetensors.h>
#include <sys/stat.h>

static const char *in_directory(const char *name) {
  static char paths[2][80];
  static int turn;
  turn = !turn;
  snprintf(paths[turn], sizeof paths[turn], "%s/fuzz-index.%ld/%s", access("/dev/shm", W_OK) ? "." : "/dev/shm",
           (long)getpid(), name);
  return paths[turn];
}

static const char *const files[] = {"a.safetensors", "b.safetensors", "c.safetensors"};
static const char *const names[] = {"q.weight", "k.weight", "other"};
enum { PARAMS = 2, FILES = 3 };

/* a and b hold a parameter each, all of its values 1 or 2; c something else. */
static void make_files(lk_ctx *ctx) {
  float values[3][4] = {{1, 1, 1, 1}, {2, 2, 2, 2}, {3, 3, 3, 3}};
  mkdir(in_directory(""), 0777);
  for (int i = 0; i < FILES; i++) {
    lk_named_view v = {.name = names[i]};
    lk_view_init(&v.view, LK_F32, 2, (int64_t[]){2, 2});
    v.view.p = values[i];
    REQUIRE(lk_safetensors_write(ctx, in_directory(files[i]), &v, 1, NULL, 0) == LK_OK);
  }
}

static void remove_files(void) {
  for (int i = 0; i < FILES; i++) remove(in_directory(files[i]));
  rmdir(in_directory(""));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int made;
  const char *message;
  lk_ctx *ctx = lk_ctx_new(&(lk_ctx_options){.threads = 1});
  if (!made) {
    make_files(ctx);
    atexit(remove_files);
    made = 1;
  }
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_linear_layer *q = lk_linear_new(lk_model_root(model), "q", 2, 2, LK_NO_BIAS);
  lk_linear_layer *k = lk_linear_new(lk_model_root(model), "k", 2, 2, LK_NO_BIAS);
  lk_param *params[PARAMS] = {q->weight, k->weight};
  double before[PARAMS];
  for (int i = 0; i < PARAMS; i++) before[i] = lk_view_get(&params[i]->value, 3);
  test_put(in_directory("model.safetensors.index.json"), data, size);
  lk_status status = lk_model_load_directory(model, in_directory(""), &(lk_load_options){0});
  REQUIRE(status == lk_error(ctx, &message));
  REQUIRE(!status || strlen(message) > 10);
  for (int i = 0; i < PARAMS; i++) REQUIRE(lk_view_get(&params[i]->value, 3) == (status ? before[i] : i + 1.0));
  lk_model_free(model);
  lk_error_clear(ctx);
  lk_warnings_clear(ctx);
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
  remove(in_directory("model.safetensors.index.json"));
  return 0;
}

const char *const fuzz_words[] = {"\"a.safetensors\"",
                                  "\"b.safetensors\"",
                                  "\"c.safetensors\"",
                                  "\"../a.safetensors\"",
                                  "\"/dev/zero\"",
                                  "\".\"",
                                  "\"\"",
                                  "\"weight_map\":",
                                  "\"q.weight\":",
                                  "\"other\":",
                                  "\"model.safetensors.index.json\"",
                                  "null",
                                  "[]",
                                  "{}",
                                  ",",
                                  NULL};

static const char *const seeds[] = {
    "{\"metadata\":{\"total_size\":32},\"weight_map\":{\"q.weight\":\"a.safetensors\",\"k.weight\":\"b.safetensors\"}}",
    "{\"weight_map\":{\"k.weight\":\"b.safetensors\",\"q.weight\":\"a.safetensors\",\"other\":\"c.safetensors\"}}",
    "{\"weight_map\":{\"k.weight\":\"../b.safetensors\"}}"};

size_t fuzz_seed(int i, uint8_t *to) {
  if (i >= (int)(sizeof seeds / sizeof *seeds)) return 0;
  memcpy(to, seeds[i], strlen(seeds[i]));
  return strlen(seeds[i]);
}
