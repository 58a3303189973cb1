/* count.c: what an adapter would adapt and train, from shapes alone. */
#include "count.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A field of a line as a number from low up; -1 if it is none. */
static int64_t number(const char *field, int64_t low) {
  char *end;
  errno = 0;
  long long v = strtoll(field, &end, 10);
  return end == field || *end || errno || v < low || v > INT32_MAX ? -1 : v;
}

/* Cuts a line at its tabs; the number of fields, at most `room`. */
static int cut(char *line, char **fields, int room) {
  int n = 0;
  for (char *at = line; at && n < room; at = strchr(at, '\t')) {
    if (n) *at++ = 0;
    fields[n++] = at;
  }
  return n;
}

static lk_status add_layer(lk_module *root, char *line, const char *path, int number_of_line) {
  char *f[5];
  int n = cut(line, f, 5);
  int64_t in = n == 4 ? number(f[1], 1) : -1, out = n == 4 ? number(f[2], 1) : -1, bias = n == 4 ? number(f[3], 0) : -1;
  if (in < 0 || out < 0 || bias < 0 || bias > 1 || !*f[0])
    return lk_fail(root->ctx, LK_EFORMAT, "%s:%d: want path, in, out, and 0 or 1 for a bias, between tabs", path,
                   number_of_line);
  lk_linear_new(root, f[0], in, out, bias ? 0 : LK_NO_BIAS);
  return lk_error(root->ctx, NULL);
}

lk_model *count_read_shapes(lk_ctx *ctx, const char *path) {
  enum { LIMIT = 1 << 26 };
  char *text = lk_file_read_text(ctx, path, LIMIT, NULL);
  lk_model *model = text ? lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY) : NULL;
  int number_of_line = 0;
  for (char *line = text, *next; model && line && *line && !lk_error(ctx, NULL); line = next) {
    next = strchr(line, '\n');
    if (next) *next++ = 0;
    line[strcspn(line, "\r")] = 0;
    if (number_of_line++ && *line) add_layer(lk_model_root(model), line, path, number_of_line);
  }
  lk_free(ctx, text);
  if (!lk_error(ctx, NULL)) return model;
  lk_model_free(model);
  return NULL;
}

lk_status count_adapter(lk_model *model, const run_options *o, const char *head, count *c) {
  lk_ctx *ctx = lk_model_ctx(model);
  run_attachment a;
  *c = (count){0, 0};
  if (!run_attachment_new(ctx, o, head, &a) && !run_attachment_check(model, &a)) lk_attach_with(model, &a.options);
  run_attachment_free(ctx, &a);
  const lk_adapter *adapter = lk_error(ctx, NULL) ? NULL : lk_adapter_find(model, "default");
  if (!adapter) return lk_error(ctx, NULL);
  for (lk_module *m = lk_model_root(model); m; m = lk_module_walk(lk_model_root(model), m))
    c->sites += m->site && m->site->stacks;
  c->parameters = lk_adapter_count(model, adapter->name);
  for (const lk_param *p = adapter->stand_ins; p; p = p->next) c->parameters -= lk_param_count(p);
  return LK_OK;
}
