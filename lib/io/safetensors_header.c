/* safetensors_header.c: the reader's checks: every word of the header, before any data is used. */
#include "reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static const lk_stored_kind kinds[] = {
    {"F32", 4, LK_F32},
    {"F64", 8, LK_F64},
    {"F16", 2, LK_F16},
    {"BF16", 2, LK_BF16},
    {"I64", 8, LK_I64},
    {"I32", 4, LK_I32},
    {"U8", 1, LK_U8},
    {"BOOL", 1, LK_U8},
    {"I16", 2, LK_UNSUPPORTED},
    {"I8", 1, LK_UNSUPPORTED},
    {"U16", 2, LK_UNSUPPORTED},
    {"U32", 4, LK_UNSUPPORTED},
    {"U64", 8, LK_UNSUPPORTED},
    {"F8_E4M3", 1, LK_UNSUPPORTED},
    {"F8_E5M2", 1, LK_UNSUPPORTED},
    {"F8_E8M0", 1, LK_UNSUPPORTED},
    {"C64", 8, LK_UNSUPPORTED},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* "file: tensor 'name': reason". */
static lk_status refuse(lk_safetensors *f, const char *tensor, const char *format, ...) LK_PRINTF(3, 4);
static lk_status refuse(lk_safetensors *f, const char *tensor, const char *format, ...) {
  char reason[400], shown[LK_SHOWN];
  va_list ap;
  va_start(ap, format);
  vsnprintf(reason, sizeof reason, format, ap);
  va_end(ap);
  return lk_fail(f->ctx, LK_EFORMAT, "%s: tensor '%s': %s", f->name, lk_shown(tensor, shown), reason);
}

/* ---- one tensor of the header ---- */

static lk_status read_dtype(lk_safetensors *f, lk_entry *e, const lk_json *j) {
  char shown[LK_SHOWN];
  const char *text;
  if (!j) return refuse(f, e->stored.name, "has no dtype");
  if (!lk_json_is_string(j, &text))
    return refuse(f, e->stored.name, "dtype must be a string, not %s", lk_json_kind_name(lk_json_type(j)));
  for (int i = 0; i < KINDS && !e->kind; i++)
    if (!strcmp(text, kinds[i].name)) e->kind = &kinds[i];
  if (!e->kind) return refuse(f, e->stored.name, "unknown dtype '%s'", lk_shown(text, shown));
  e->stored.dtype = e->kind->name;
  return LK_OK;
}

/* The elements of an array of at most `limit` non-negative integers; -1 with an error if it is not one. */
static int read_sizes(lk_safetensors *f, const lk_entry *e, const lk_json *j, const char *key, int limit,
                      int64_t *out) {
  const char *tensor = e->stored.name;
  size_t n = lk_json_count(j);
  if (!j) refuse(f, tensor, "has no %s", key);
  else if (lk_json_type(j) != LK_JSON_ARRAY)
    refuse(f, tensor, "%s must be an array, not %s", key, lk_json_kind_name(lk_json_type(j)));
  else if (n > (size_t)limit) refuse(f, tensor, "%s has %zu numbers, at most %d are supported", key, n, limit);
  for (size_t i = 0; i < n && !lk_error(f->ctx, NULL); i++) {
    const lk_json *number = lk_json_at(j, i);
    if (!lk_json_is_int(number, &out[i]))
      refuse(f, tensor, "%s[%zu] must be an integer, not %s", key, i, lk_json_kind_name(lk_json_type(number)));
    else if (out[i] < 0) refuse(f, tensor, "%s[%zu] is negative: %lld", key, i, (long long)out[i]);
  }
  return lk_error(f->ctx, NULL) ? -1 : (int)n;
}

static lk_status read_shape(lk_safetensors *f, lk_entry *e, const lk_json *j) {
  lk_stored *s = &e->stored;
  lk_view v;
  s->ndim = read_sizes(f, e, j, "shape", LK_MAXDIM, s->shape);
  if (s->ndim < 0) return LK_EFORMAT;
  if (lk_view_init(&v, LK_U8, s->ndim, s->shape)) return refuse(f, s->name, "the number of elements overflows");
  s->bytes = (size_t)lk_view_count(&v) * e->kind->size; /* lk_view_init leaves room for it */
  return LK_OK;
}

static lk_status read_offsets(lk_safetensors *f, lk_entry *e, const lk_json *j) {
  const char *name = e->stored.name;
  int64_t at[2];
  int n = read_sizes(f, e, j, "data_offsets", 2, at);
  if (n < 0) return LK_EFORMAT;
  if (n != 2) return refuse(f, name, "data_offsets must be [begin, end], not %d numbers", n);
  long long begin = at[0], end = at[1];
  size_t data = f->size - f->data;
  if (begin > end) return refuse(f, name, "data_offsets [%lld, %lld] end before they begin", begin, end);
  if ((uint64_t)end > data)
    return refuse(f, name, "data_offsets [%lld, %lld] go beyond the %zu bytes of data in the file", begin, end, data);
  if ((size_t)(end - begin) != e->stored.bytes)
    return refuse(f, name, "data_offsets [%lld, %lld] hold %lld bytes, but dtype and shape need %zu", begin, end,
                  end - begin, e->stored.bytes);
  e->begin = (size_t)begin;
  e->end = (size_t)end;
  e->stored.offset = f->data + e->begin;
  return LK_OK;
}

static lk_status read_entry(lk_safetensors *f, lk_entry *e, const char *name, const lk_json *j) {
  char shown[LK_SHOWN];
  const char *key;
  void *at = NULL;
  e->stored.name = name;
  if (!*name) return refuse(f, name, "the name is empty");
  if (strlen(name) > LK_SAFETENSORS_MAX_NAME)
    return refuse(f, name, "the name has %zu bytes, more than %zu", strlen(name), LK_SAFETENSORS_MAX_NAME);
  if (lk_json_type(j) != LK_JSON_OBJECT)
    return refuse(f, name, "must be an object, not %s", lk_json_kind_name(lk_json_type(j)));
  while (lk_json_next(j, &at, &key))
    if (strcmp(key, "dtype") && strcmp(key, "shape") && strcmp(key, "data_offsets"))
      return refuse(f, name, "unknown key '%s'", lk_shown(key, shown));
  lk_status bad = read_dtype(f, e, lk_json_get(j, "dtype"));
  if (!bad) bad = read_shape(f, e, lk_json_get(j, "shape"));
  return bad ? bad : read_offsets(f, e, lk_json_get(j, "data_offsets"));
}

/* ---- the header ---- */

static lk_status read_metadata(lk_safetensors *f, const lk_json *j) {
  char shown[LK_SHOWN];
  const char *key;
  void *at = NULL;
  lk_json *value;
  if (lk_json_type(j) != LK_JSON_OBJECT)
    return lk_fail(f->ctx, LK_EFORMAT, "%s: __metadata__ must be an object, not %s", f->name,
                   lk_json_kind_name(lk_json_type(j)));
  f->metadata = lk_alloc_array(f->ctx, lk_json_count(j), sizeof *f->metadata);
  if (!f->metadata) return lk_error(f->ctx, NULL);
  while ((value = lk_json_next(j, &at, &key))) {
    lk_metadata *pair = &f->metadata[f->nmetadata++];
    pair->key = key;
    if (!lk_json_is_string(value, &pair->value))
      return lk_fail(f->ctx, LK_EFORMAT, "%s: __metadata__ '%s' must be a string, not %s", f->name,
                     lk_shown(key, shown), lk_json_kind_name(lk_json_type(value)));
  }
  return LK_OK;
}

static lk_status read_header(lk_safetensors *f) {
  uint64_t n = 0;
  if (f->size < 8)
    return lk_fail(f->ctx, LK_EFORMAT, "%s: %zu bytes are too few for a safetensors file", f->name, f->size);
  for (int i = 0; i < 8; i++) n |= (uint64_t)f->bytes[i] << 8 * i;
  if (n > LK_SAFETENSORS_MAX_HEADER)
    return lk_fail(f->ctx, LK_EFORMAT, "%s: a header of %llu bytes, more than %zu", f->name, (unsigned long long)n,
                   LK_SAFETENSORS_MAX_HEADER);
  if (n > f->size - 8)
    return lk_fail(f->ctx, LK_EFORMAT, "%s: a header of %llu bytes in a file of %zu bytes", f->name,
                   (unsigned long long)n, f->size);
  if (!n || f->bytes[8] != '{') return lk_fail(f->ctx, LK_EFORMAT, "%s: the header does not begin with '{'", f->name);
  f->data = 8 + (size_t)n;
  f->header = lk_json_parse(f->ctx, (const char *)f->bytes + 8, (size_t)n, f->name);
  return lk_error(f->ctx, NULL);
}

static lk_status read_entries(lk_safetensors *f) {
  const char *key;
  void *at = NULL;
  lk_json *j;
  f->entries = lk_alloc_array(f->ctx, lk_json_count(f->header), sizeof *f->entries);
  if (!f->entries) return lk_error(f->ctx, NULL);
  while ((j = lk_json_next(f->header, &at, &key))) {
    lk_status bad = strcmp(key, "__metadata__") ? read_entry(f, &f->entries[f->count++], key, j) : read_metadata(f, j);
    if (bad) return bad;
  }
  return LK_OK;
}

static int by_place(const void *a, const void *b) {
  const lk_entry *x = *(const lk_entry *const *)a, *y = *(const lk_entry *const *)b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return (x->end > y->end) - (x->end < y->end);
}

int lk_entry_by_name(const void *a, const void *b) {
  return strcmp((*(const lk_entry *const *)a)->stored.name, (*(const lk_entry *const *)b)->stored.name);
}

/* The tensors must cover the data, each byte once. */
static lk_status check_layout(lk_safetensors *f) {
  char shown[LK_SHOWN];
  const lk_entry *last = NULL;
  size_t covered = 0;
  qsort(f->names, f->count, sizeof *f->names, by_place);
  for (size_t i = 0; i < f->count; i++) {
    const lk_entry *e = f->names[i];
    if (e->begin < covered)
      return refuse(f, e->stored.name, "data_offsets [%zu, %zu] overlap tensor '%s' at [%zu, %zu]", e->begin, e->end,
                    lk_shown(last->stored.name, shown), last->begin, last->end);
    if (e->begin > covered)
      return refuse(f, e->stored.name, "%zu bytes before data_offsets [%zu, %zu] belong to no tensor",
                    e->begin - covered, e->begin, e->end);
    covered = e->end;
    last = e;
  }
  if (covered == f->size - f->data) return LK_OK;
  return lk_fail(f->ctx, LK_EFORMAT, "%s: %zu bytes at the end belong to no tensor", f->name,
                 f->size - f->data - covered);
}

lk_status lk_safetensors_load(lk_safetensors *f) {
  lk_status bad = read_header(f);
  if (!bad) bad = read_entries(f);
  if (bad) return bad;
  f->names = lk_alloc_array(f->ctx, f->count, sizeof *f->names);
  if (!f->names) return lk_error(f->ctx, NULL);
  for (size_t i = 0; i < f->count; i++) f->names[i] = &f->entries[i];
  bad = check_layout(f);
  qsort(f->names, f->count, sizeof *f->names, lk_entry_by_name);
  return bad;
}
