/* shards.c: a model's safetensors files: one, or those of an index.
 *
 *   {"metadata": {"total_size": 5368}, "weight_map": {"embed.weight": "model-00001-of-00002.safetensors", ...}} */
#include "shards.h"

#include <lorikeet/file.h>
#include <lorikeet/json.h>
#include <stdlib.h>
#include <string.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

void lk_shards_close(lk_shards *s) {
  if (!s) return;
  for (int i = 0; i < s->n; i++) lk_safetensors_close(s->file[i]);
  lk_free(s->ctx, s->file);
  lk_free(s->ctx, s);
}

static lk_shards *shards_new(lk_ctx *c, size_t most) {
  lk_shards *s = lk_alloc(c, sizeof *s);
  if (!s) return NULL;
  s->ctx = c;
  s->file = lk_alloc_array(c, most + 1, sizeof *s->file);
  if (s->file) return s;
  lk_free(c, s);
  return NULL;
}

static lk_status add_file(lk_shards *s, const char *path) {
  lk_safetensors *f = lk_safetensors_open(s->ctx, path);
  if (f) s->file[s->n++] = f;
  return lk_error(s->ctx, NULL);
}

lk_shards *lk_shards_open(lk_ctx *c, const char *path) {
  lk_shards *s = shards_new(c, 1);
  if (s && !add_file(s, path)) return s;
  lk_shards_close(s);
  return NULL;
}

const lk_stored *lk_shards_find(const lk_shards *s, const char *name, lk_safetensors **in) {
  for (int i = 0; i < s->n; i++) {
    const lk_stored *t = lk_safetensors_find(s->file[i], name);
    *in = s->file[i];
    if (t) return t;
  }
  return NULL;
}

/* ---- the index ---- */

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The names of the files, each once; their number, 0 on error.  They live as long as the index. */
static size_t file_names(lk_ctx *c, const lk_json *map, const char *index, const char **names) {
  size_t n = 0, k = 0;
  const char *tensor;
  void *at = NULL;
  for (const lk_json *j; (j = lk_json_next(map, &at, &tensor));) {
    const char *name = "";
    int is_text = lk_json_is_string(j, &name);
    if (!is_text || !*name || strchr(name, '/') || name[0] == '.') {
      lk_fail(c, LK_EFORMAT, "%s: weight_map: %.80s should be in a file beside the index, not in '%.80s'", index,
              tensor, is_text ? name : lk_json_kind_name(lk_json_type(j)));
      return 0;
    }
    names[n++] = name;
  }
  qsort(names, n, sizeof *names, by_name);
  for (size_t i = 0; i < n; i++)
    if (!k || strcmp(names[k - 1], names[i])) names[k++] = names[i];
  return k;
}

/* Every tensor is in the file that the index says, and in no other one. */
static lk_status check_map(const lk_shards *s, const lk_json *map, const char *index, const char *const *names) {
  const char *tensor, *name = "";
  void *at = NULL;
  for (const lk_json *j; (j = lk_json_next(map, &at, &tensor));) {
    lk_json_is_string(j, &name);
    for (int i = 0; i < s->n; i++) {
      int here = !strcmp(names[i], name), found = lk_safetensors_find(s->file[i], tensor) != NULL;
      if (here != found)
        return lk_fail(s->ctx, LK_EFORMAT, "%s: weight_map: %.80s should be in %.80s, and %s %.80s", index, tensor,
                       name, here ? "is not in" : "is in", names[i]);
    }
  }
  return LK_OK;
}

static lk_shards *open_index(lk_ctx *c, const char *directory, const char *index) {
  lk_json *j = lk_json_read(c, index), *map = lk_json_get(j, "weight_map");
  size_t n = lk_json_count(map), files = 0;
  if (j && (lk_json_type(map) != LK_JSON_OBJECT || !n))
    lk_fail(c, LK_EFORMAT, "%s: weight_map should be an object of tensors and their files", index);
  const char **names = j && !lk_error(c, NULL) ? lk_alloc_array(c, n, sizeof *names) : NULL;
  if (names) files = file_names(c, map, index, names);
  lk_shards *s = files ? shards_new(c, files) : NULL;
  for (size_t i = 0; s && i < files && !lk_error(c, NULL); i++) {
    char *path = lk_sprintf(c, "%s/%s", directory, names[i]);
    if (path) add_file(s, path);
    lk_free(c, path);
  }
  if (s && !lk_error(c, NULL)) check_map(s, map, index, names);
  lk_free(c, names);
  lk_json_free(j);
  if (!lk_error(c, NULL)) return s;
  lk_shards_close(s);
  return NULL;
}

lk_shards *lk_shards_open_directory(lk_ctx *c, const char *directory) {
  char *single = lk_sprintf(c, "%s/" SINGLE, directory), *index = lk_sprintf(c, "%s/" INDEX, directory);
  lk_shards *s = NULL;
  if (single && index && !lk_file_exists(single) && lk_file_exists(index)) s = open_index(c, directory, index);
  else if (single && index) s = lk_shards_open(c, single);
  lk_free(c, single);
  lk_free(c, index);
  return s;
}
