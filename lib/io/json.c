/* json.c: JSON values on Jansson, which only this file includes: parsing, looking, building. */
#include "text.h"

#include <jansson.h>
#include <lorikeet/file.h>
#include <lorikeet/json.h>
#include <math.h>

/* An lk_json is a json_t under another name. */
static json_t *J(const lk_json *j) { return (json_t *)j; }
static lk_json *L(json_t *j) { return (lk_json *)j; }

/* ---- reading ---- */

/* Whether brackets outside strings nest deeper than we allow; Jansson would recurse into them. */
static int too_deep(const char *text, size_t n) {
  int depth = 0, quoted = 0;
  for (size_t i = 0; i < n; i++) {
    if (text[i] == '"') quoted = !quoted;
    else if (quoted) i += text[i] == '\\';
    else if (text[i] == '{' || text[i] == '[') depth++;
    else if (text[i] == '}' || text[i] == ']') depth--;
    if (depth > LK_JSON_MAX_DEPTH) return 1;
  }
  return 0;
}

/* The string that ends at `end`, with its quotes, into the buffer: Jansson names only short tokens. */
static const char *last_string(const char *text, size_t end, char buffer[LK_SHOWN]) {
  char raw[LK_SHOWN];
  size_t from = end ? end - 1 : 0;
  while (from > 0 && (text[from - 1] != '"' || (from > 1 && text[from - 2] == '\\'))) from--;
  size_t n = end > from ? end - from : 0;
  if (n >= sizeof raw) n = sizeof raw - 1;
  memcpy(raw, text + from, n);
  raw[n] = 0;
  return lk_shown(raw, buffer);
}

static void parse_error(lk_ctx *ctx, const char *name, const char *text, size_t length, const json_error_t *e) {
  char shown[LK_SHOWN];
  enum json_error_code code = json_error_code(e);
  size_t at = e->position > 0 && (size_t)e->position <= length ? (size_t)e->position : 0;
  if (code == json_error_out_of_memory || !*e->text) /* Jansson has words for all but this */
    lk_fail(ctx, LK_ENOMEM, "%s: out of memory for its JSON values", name);
  else if (code == json_error_duplicate_key)
    lk_fail(ctx, LK_EFORMAT, "%s:%d:%d: duplicate key \"%s", name, e->line, e->column, last_string(text, at, shown));
  else lk_fail(ctx, LK_EFORMAT, "%s:%d:%d: %s", name, e->line, e->column, lk_shown(e->text, shown));
}

lk_json *lk_json_parse(lk_ctx *ctx, const char *text, size_t length, const char *name) {
  json_error_t e;
  if (!text || !name) lk_fail(ctx, LK_ENIL, "lk_json_parse: text or name is NULL");
  if (lk_error(ctx, NULL)) return NULL;
  if (length > LK_JSON_MAX_BYTES) {
    lk_fail(ctx, LK_EFORMAT, "%s: %zu bytes of JSON, more than %zu", name, length, LK_JSON_MAX_BYTES);
    return NULL;
  }
  if (too_deep(text, length)) {
    lk_fail(ctx, LK_EFORMAT, "%s: nested deeper than %d", name, LK_JSON_MAX_DEPTH);
    return NULL;
  }
  json_t *j = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
  if (!j) parse_error(ctx, name, text, length, &e);
  return L(j);
}

lk_json *lk_json_read(lk_ctx *ctx, const char *path) {
  size_t n;
  char *text = lk_file_read_text(ctx, path, LK_JSON_MAX_BYTES, &n);
  if (!text) return NULL;
  lk_json *j = lk_json_parse(ctx, text, n, path);
  lk_free(ctx, text);
  return j;
}

void lk_json_free(lk_json *root) { json_decref(J(root)); }

lk_json *lk_json_copy(lk_ctx *ctx, const lk_json *j) {
  if (!j) lk_fail(ctx, LK_ENIL, "lk_json_copy: the value is NULL");
  if (lk_error(ctx, NULL)) return NULL;
  json_t *copy = json_deep_copy(J(j));
  if (!copy) lk_fail(ctx, LK_ENOMEM, "out of memory for JSON values");
  return L(copy);
}

/* ---- looking ---- */

lk_json_kind lk_json_type(const lk_json *j) {
  if (!j) return LK_JSON_NONE;
  switch (json_typeof(J(j))) {
  case JSON_OBJECT:
    return LK_JSON_OBJECT;
  case JSON_ARRAY:
    return LK_JSON_ARRAY;
  case JSON_STRING:
    return LK_JSON_STRING;
  case JSON_INTEGER:
    return LK_JSON_INT;
  case JSON_REAL:
    return LK_JSON_REAL;
  case JSON_TRUE:
  case JSON_FALSE:
    return LK_JSON_BOOL;
  default:
    return LK_JSON_NULL;
  }
}

const char *lk_json_kind_name(lk_json_kind kind) {
  static const char *const names[] = {"nothing",       "null",     "true or false", "an integer",
                                      "a real number", "a string", "an array",      "an object"};
  return (unsigned)kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

lk_json *lk_json_get(const lk_json *object, const char *key) { return L(json_object_get(J(object), key)); }

lk_json *lk_json_at(const lk_json *array, size_t i) { return L(json_array_get(J(array), i)); }

size_t lk_json_count(const lk_json *j) { return json_array_size(J(j)) + json_object_size(J(j)); }

lk_json *lk_json_next(const lk_json *object, void **at, const char **key) {
  *at = *at ? json_object_iter_next(J(object), *at) : json_object_iter(J(object));
  if (!*at) return NULL;
  *key = json_object_iter_key(*at);
  return L(json_object_iter_value(*at));
}

int lk_json_is_int(const lk_json *j, int64_t *out) {
  int is = json_is_integer(J(j));
  if (is) *out = json_integer_value(J(j));
  return is;
}

int lk_json_is_real(const lk_json *j, double *out) {
  int is = json_is_number(J(j));
  if (is) *out = json_number_value(J(j));
  return is;
}

int lk_json_is_bool(const lk_json *j, int *out) {
  int is = json_is_boolean(J(j));
  if (is) *out = json_is_true(J(j));
  return is;
}

int lk_json_is_string(const lk_json *j, const char **out) {
  int is = json_is_string(J(j));
  if (is) *out = json_string_value(J(j));
  return is;
}

/* ---- options of an object ---- */

/* The value of a key, NULL if the fallback stands for it. */
static const lk_json *option(lk_ctx *ctx, const lk_json *object, const char *key) {
  if (object && !json_is_object(J(object)))
    lk_fail(ctx, LK_EFORMAT, "want an object with the key \"%s\", found %s", key,
            lk_json_kind_name(lk_json_type(object)));
  const lk_json *j = lk_json_get(object, key);
  return lk_json_type(j) == LK_JSON_NULL ? NULL : j;
}

static void wrong_kind(lk_ctx *ctx, const char *key, const char *want, const lk_json *found) {
  lk_fail(ctx, LK_EFORMAT, "\"%s\" must be %s, not %s", key, want, lk_json_kind_name(lk_json_type(found)));
}

int64_t lk_json_int(lk_ctx *ctx, const lk_json *object, const char *key, int64_t fallback) {
  const lk_json *j = option(ctx, object, key);
  if (j && !lk_json_is_int(j, &fallback)) wrong_kind(ctx, key, "an integer", j);
  return fallback;
}

double lk_json_real(lk_ctx *ctx, const lk_json *object, const char *key, double fallback) {
  const lk_json *j = option(ctx, object, key);
  if (j && !lk_json_is_real(j, &fallback)) wrong_kind(ctx, key, "a number", j);
  return fallback;
}

int lk_json_bool(lk_ctx *ctx, const lk_json *object, const char *key, int fallback) {
  const lk_json *j = option(ctx, object, key);
  if (j && !lk_json_is_bool(j, &fallback)) wrong_kind(ctx, key, "true or false", j);
  return fallback;
}

const char *lk_json_string(lk_ctx *ctx, const lk_json *object, const char *key, const char *fallback) {
  const lk_json *j = option(ctx, object, key);
  if (j && !lk_json_is_string(j, &fallback)) wrong_kind(ctx, key, "a string", j);
  return fallback;
}

/* ---- building ---- */

static lk_json *made(lk_ctx *ctx, json_t *j) {
  if (!j) lk_fail(ctx, LK_ENOMEM, "out of memory for JSON values");
  return L(j);
}

lk_json *lk_json_object(lk_ctx *ctx) { return lk_error(ctx, NULL) ? NULL : made(ctx, json_object()); }

lk_json *lk_json_array(lk_ctx *ctx) { return lk_error(ctx, NULL) ? NULL : made(ctx, json_array()); }

lk_status lk_json_set(lk_ctx *ctx, lk_json *parent, const char *key, lk_json *child) {
  char shown[LK_SHOWN];
  lk_status bad = lk_error(ctx, NULL);
  if (!bad && (!parent || !child)) bad = lk_fail(ctx, LK_ENIL, "lk_json_set: parent or child is NULL");
  if (!bad && (key ? !json_is_object(J(parent)) : !json_is_array(J(parent))))
    bad = lk_fail(ctx, LK_EARG, "lk_json_set: %s cannot take a value %s", lk_json_kind_name(lk_json_type(parent)),
                  key ? "with a key" : "without a key");
  if (!bad && key && !lk_utf8_valid(key))
    bad = lk_fail(ctx, LK_EARG, "lk_json_set: the key '%s' is not UTF-8", lk_shown(key, shown));
  if (!bad && child == parent) bad = lk_fail(ctx, LK_EARG, "lk_json_set: a value cannot hold itself");
  if (bad) {
    lk_json_free(child);
    return bad;
  }
  int failed = key ? json_object_set_new(J(parent), key, J(child)) : json_array_append_new(J(parent), J(child));
  return failed ? lk_fail(ctx, LK_ENOMEM, "out of memory for JSON values") : LK_OK;
}

lk_status lk_json_set_int(lk_ctx *ctx, lk_json *parent, const char *key, int64_t value) {
  return lk_json_set(ctx, parent, key, made(ctx, json_integer(value)));
}

lk_status lk_json_set_real(lk_ctx *ctx, lk_json *parent, const char *key, double value) {
  if (!isfinite(value))
    return lk_fail(ctx, LK_ENONFINITE, "lk_json_set_real: \"%s\" is %g, which JSON cannot hold", key ? key : "", value);
  return lk_json_set(ctx, parent, key, made(ctx, json_real(value)));
}

lk_status lk_json_set_bool(lk_ctx *ctx, lk_json *parent, const char *key, int value) {
  return lk_json_set(ctx, parent, key, made(ctx, json_boolean(value)));
}

lk_status lk_json_set_string(lk_ctx *ctx, lk_json *parent, const char *key, const char *value) {
  if (!value) return lk_fail(ctx, LK_ENIL, "lk_json_set_string: \"%s\" is NULL", key ? key : "");
  if (!lk_utf8_valid(value))
    return lk_fail(ctx, LK_EARG, "lk_json_set_string: the value of \"%s\" is not UTF-8", key ? key : "");
  return lk_json_set(ctx, parent, key, made(ctx, json_string(value)));
}

lk_status lk_json_set_null(lk_ctx *ctx, lk_json *parent, const char *key) {
  return lk_json_set(ctx, parent, key, made(ctx, json_null()));
}

int lk_json_remove(lk_json *object, const char *key) { return key && !json_object_del(J(object), key); }
