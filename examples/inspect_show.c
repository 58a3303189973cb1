/* inspect_show.c: configs, modules, tokenizers and adapters as text. */
#include "inspect.h"

#include <stdio.h>
#include <string.h>

enum { NUMBERS = 4, PATH = 52, TYPE = 22 };

const char *inspect_number(int64_t n) {
  static char text[NUMBERS][40];
  static int turn;
  char digits[32];
  char *to = text[turn = (turn + 1) % NUMBERS];
  int length = snprintf(digits, sizeof digits, "%lld", (long long)n), used = 0;
  for (int i = 0; i < length; i++) {
    if (i && (length - i) % 3 == 0 && digits[i - 1] != '-') to[used++] = ',';
    to[used++] = digits[i];
  }
  to[used] = 0;
  return to;
}

/* ---- config ---- */

static void print_value(lk_ctx *c, const char *key, const lk_json *j) {
  enum { LONGEST = 90 };
  char *text = lk_json_dump(c, j, LK_JSON_COMPACT);
  if (text && strlen(text) <= LONGEST) printf("  %-34s %s\n", key, text);
  else if (text)
    printf("  %-34s %s of %s\n", key, lk_json_kind_name(lk_json_type(j)), inspect_number((int64_t)lk_json_count(j)));
  lk_free(c, text);
}

lk_status inspect_config(lk_ctx *c, const lk_json *config) {
  const char *key;
  void *at = NULL;
  for (const lk_json *j; (j = lk_json_next(config, &at, &key)) && !lk_error(c, NULL);)
    if (lk_json_type(j) != LK_JSON_NULL) print_value(c, key, j);
  return lk_error(c, NULL);
}

/* ---- modules ---- */

static int64_t count_below(lk_module *root) {
  int64_t n = 0;
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    for (const lk_param *p = m->params; p; p = p->next) n += p->alias ? 0 : lk_param_count(p);
  return n;
}

static int depth_of(const lk_module *m) {
  int depth = 0;
  while ((m = m->parent)) depth++;
  return depth;
}

static void print_row(int depth, const char *name, const char *what, int64_t count) {
  int n = printf("%*s%s", 2 * depth, "", name);
  printf("%*s %-*s %16s\n", n < PATH ? PATH - n : 0, "", TYPE, what, inspect_number(count));
}

static void print_parameter(const lk_param *p, const lk_module *m, int depth, const inspect_files *f,
                            const char *prefix) {
  char shape[160], what[240];
  size_t path = strlen(m->path);
  const lk_stored *s = inspect_files_find(f, p->name, prefix);
  lk_view_format(&p->value, shape);
  if (p->alias) snprintf(what, sizeof what, "%.60s", p->alias->name);
  else snprintf(what, sizeof what, "%s %s", s ? s->dtype : f->n ? "none" : "", shape);
  print_row(depth, p->name + path + (path > 0), what, p->alias ? 0 : lk_param_count(p));
}

lk_status inspect_modules(lk_model *model, const inspect_files *f, const char *prefix) {
  lk_module *root = lk_model_root(model);
  for (lk_module *m = root; m; m = lk_module_walk(root, m)) {
    int depth = depth_of(m);
    if (m != root) print_row(depth, *m->name ? m->name : "-", m->type, count_below(m));
    for (const lk_param *p = m->params; p; p = p->next) print_parameter(p, m, depth + 1, f, prefix);
  }
  return lk_error(lk_model_ctx(model), NULL);
}

/* ---- tokenizer ---- */

static void print_added(const lk_json *added) {
  enum { MOST = 12 };
  size_t n = lk_json_count(added);
  for (size_t i = 0; i < n && i < MOST; i++) {
    const lk_json *token = lk_json_at(added, i);
    const char *content = "";
    int64_t id = -1;
    int special = 0;
    lk_json_is_string(lk_json_get(token, "content"), &content);
    lk_json_is_int(lk_json_get(token, "id"), &id);
    lk_json_is_bool(lk_json_get(token, "special"), &special);
    printf("  %-34s %lld%s\n", content, (long long)id, special ? ", special" : "");
  }
  if (n > MOST) printf("  and %s more\n", inspect_number((int64_t)(n - MOST)));
}

/* A tokenizer that the library does not take is shown, with the reason. */
lk_status inspect_tokenizer(lk_ctx *c, const char *directory) {
  const char *message, *type = "none";
  char *path = lk_sprintf(c, "%s/tokenizer.json", directory);
  if (!path || !lk_file_exists(path)) {
    lk_free(c, path);
    return lk_error(c, NULL);
  }
  lk_json *j = lk_json_read(c, path);
  lk_tokenizer *k = j ? lk_tokenizer_open(c, path) : NULL;
  lk_json_is_string(lk_json_get(lk_json_get(j, "model"), "type"), &type);
  printf("\ntokenizer\n  %-34s %s\n", "model", type);
  if (k) printf("  %-34s %s\n", "tokens", inspect_number(lk_tokenizer_size(k)));
  else if (lk_error(c, &message) != LK_ENOMEM) {
    printf("  %-34s %s\n", "cannot be used", message);
    lk_error_clear(c);
  }
  print_added(lk_json_get(j, "added_tokens"));
  lk_tokenizer_free(k);
  lk_json_free(j);
  lk_free(c, path);
  return lk_error(c, NULL);
}

/* ---- adapters ---- */

lk_status inspect_adapter(lk_ctx *c, const char *directory) {
  char *config = lk_sprintf(c, "%s/adapter_config.json", directory);
  char *weights = lk_sprintf(c, "%s/adapter_model.safetensors", directory);
  lk_json *j = config ? lk_json_read(c, config) : NULL;
  lk_safetensors *f = j && weights ? lk_safetensors_open(c, weights) : NULL;
  if (f) {
    int64_t elements = 0;
    for (size_t i = 0; i < lk_safetensors_count(f); i++) {
      const lk_stored *s = lk_safetensors_at(f, i);
      lk_view v;
      if (!lk_view_init(&v, LK_F32, s->ndim, s->shape)) elements += lk_view_count(&v);
    }
    printf("\nadapter %s\n", directory);
    inspect_config(c, j);
    printf("  %-34s %s\n", "tensors", inspect_number((int64_t)lk_safetensors_count(f)));
    printf("  %-34s %s\n", "parameters", inspect_number(elements));
  }
  lk_safetensors_close(f);
  lk_json_free(j);
  lk_free(c, config);
  lk_free(c, weights);
  return lk_error(c, NULL);
}
