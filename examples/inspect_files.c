/* inspect_files.c: the tensors of a model directory, by their headers. */
#include "inspect.h"

#include <string.h>

static lk_status add(lk_ctx *c, const char *directory, const char *name, inspect_files *f) {
  char *path = lk_sprintf(c, "%s/%s", directory, name);
  lk_safetensors *s =
      path && !lk_grow(c, &f->file, &f->capacity, f->n + 1, sizeof *f->file) ? lk_safetensors_open(c, path) : NULL;
  if (s) f->file[f->n++] = s;
  lk_free(c, path);
  return lk_error(c, NULL);
}

static int is_before(lk_json *map, const char *file, const char *tensor) {
  const char *other, *key;
  void *at = NULL;
  for (const lk_json *j; (j = lk_json_next(map, &at, &key)) && strcmp(key, tensor) != 0;)
    if (lk_json_is_string(j, &other) && !strcmp(other, file)) return 1;
  return 0;
}

/* Each file of the index once. */
static lk_status add_shards(lk_ctx *c, const char *directory, const char *index, inspect_files *f) {
  lk_json *j = lk_json_read(c, index), *map = lk_json_get(j, "weight_map");
  const char *tensor, *file;
  void *at = NULL;
  for (const lk_json *name; !lk_error(c, NULL) && (name = lk_json_next(map, &at, &tensor));)
    if (!lk_json_is_string(name, &file) || !*file || strchr(file, '/') || *file == '.')
      lk_fail(c, LK_EFORMAT, "%s: weight_map: %.80s should name a file beside the index", index, tensor);
    else if (!is_before(map, file, tensor)) add(c, directory, file, f);
  lk_json_free(j);
  return lk_error(c, NULL);
}

lk_status inspect_files_open(lk_ctx *c, const char *directory, inspect_files *f) {
  char *one = lk_sprintf(c, "%s/model.safetensors", directory);
  char *index = lk_sprintf(c, "%s/model.safetensors.index.json", directory);
  *f = (inspect_files){0};
  if (one && lk_file_exists(one)) add(c, directory, "model.safetensors", f);
  else if (index && lk_file_exists(index)) add_shards(c, directory, index, f);
  lk_free(c, one);
  lk_free(c, index);
  return lk_error(c, NULL);
}

void inspect_files_close(lk_ctx *c, inspect_files *f) {
  for (size_t i = 0; i < f->n; i++) lk_safetensors_close(f->file[i]);
  lk_free(c, f->file);
}

static const lk_stored *find(const inspect_files *f, const char *name) {
  const lk_stored *s = NULL;
  for (size_t i = 0; i < f->n && !s; i++) s = lk_safetensors_find(f->file[i], name);
  return s;
}

const lk_stored *inspect_files_find(const inspect_files *f, const char *name, const char *prefix) {
  char longer[600];
  size_t n = prefix ? strlen(prefix) : 0;
  const lk_stored *s = find(f, name);
  if (!s && n && !strncmp(name, prefix, n)) s = find(f, name + n);
  if (!s && n && (size_t)snprintf(longer, sizeof longer, "%s%s", prefix, name) < sizeof longer) s = find(f, longer);
  return s;
}

size_t inspect_files_bytes(const inspect_files *f) {
  size_t bytes = 0;
  for (size_t i = 0; i < f->n; i++)
    for (size_t k = 0; k < lk_safetensors_count(f->file[i]); k++) bytes += lk_safetensors_at(f->file[i], k)->bytes;
  return bytes;
}

size_t inspect_files_count(const inspect_files *f) {
  size_t n = 0;
  for (size_t i = 0; i < f->n; i++) n += lk_safetensors_count(f->file[i]);
  return n;
}
