/* run_labels.c: the names that a model's config.json has for its classes, and those of data in the same order. */
#include "run.h"

#include <string.h>

void run_labels_free(lk_ctx *ctx, run_labels *l) {
  for (int64_t i = 0; i < l->n; i++) lk_free(ctx, l->name[i]);
  lk_free(ctx, l->name);
  *l = (run_labels){0};
}

/* A config without a name for each number has none. */
static lk_status copy_names(lk_ctx *ctx, const lk_json *names, run_labels *l) {
  int64_t n = (int64_t)lk_json_count(names);
  l->name = lk_alloc_array(ctx, (size_t)n + 1, sizeof *l->name);
  for (; l->name && l->n < n; l->n++) {
    char number[24];
    const char *name = NULL;
    snprintf(number, sizeof number, "%lld", (long long)l->n);
    if (!lk_json_is_string(lk_json_get(names, number), &name)) break;
    if (!(l->name[l->n] = lk_strdup(ctx, name))) break;
  }
  if (l->n < n) run_labels_free(ctx, l);
  return lk_error(ctx, NULL);
}

lk_status run_labels_read(lk_ctx *ctx, const char *directory, run_labels *l) {
  *l = (run_labels){0};
  char *path = directory ? lk_sprintf(ctx, "%s/config.json", directory) : NULL;
  lk_json *config = path && lk_file_exists(path) ? lk_json_read(ctx, path) : NULL;
  const lk_json *names = lk_json_get(config, "id2label");
  if (lk_json_type(names) == LK_JSON_OBJECT) copy_names(ctx, names, l);
  lk_json_free(config);
  lk_free(ctx, path);
  return lk_error(ctx, NULL);
}

static int64_t find(const run_labels *l, const char *name) {
  for (int64_t i = 0; i < l->n; i++)
    if (!strcmp(l->name[i], name)) return i;
  return -1;
}

int64_t *run_labels_find(lk_ctx *ctx, const run_labels *l, char *const *names, int64_t n) {
  int64_t *at = lk_alloc_array(ctx, (size_t)n + 1, sizeof *at), found = 0;
  while (at && found < n && (at[found] = find(l, names[found])) >= 0) found++;
  if (found == n) return at;
  lk_free(ctx, at);
  return NULL;
}
