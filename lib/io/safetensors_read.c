/* safetensors_read.c: the reader: maps a file and hands out views of the map. */
#include "reader.h"

#include <stdlib.h>

#if defined __BYTE_ORDER__ && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors are little-endian and mapped as they are: this machine cannot read them"
#endif

/* ---- opening and closing ---- */

/* Takes file, which may be NULL, also on failure. */
static lk_safetensors *open_bytes(lk_ctx *ctx, lk_file *file, const void *bytes, size_t n, const char *name) {
  lk_safetensors *f = lk_alloc(ctx, sizeof *f);
  if (!f) {
    lk_file_unmap(file);
    return NULL;
  }
  f->ctx = ctx;
  f->file = file;
  f->bytes = bytes;
  f->size = n;
  f->name = lk_strdup(ctx, name);
  if (f->name && !lk_safetensors_load(f)) return f;
  lk_safetensors_close(f);
  return NULL;
}

lk_safetensors *lk_safetensors_open(lk_ctx *ctx, const char *path) {
  lk_file *file = lk_file_map(ctx, path);
  return file ? open_bytes(ctx, file, file->bytes, file->size, path) : NULL;
}

lk_safetensors *lk_safetensors_open_memory(lk_ctx *ctx, const void *bytes, size_t n) {
  if (!bytes) lk_fail(ctx, LK_ENIL, "lk_safetensors_open_memory: bytes is NULL");
  return open_bytes(ctx, NULL, bytes, n, "safetensors in memory");
}

void lk_safetensors_close(lk_safetensors *f) {
  if (!f) return;
  for (size_t i = 0; i < f->count; i++) lk_free(f->ctx, f->entries[i].copy);
  lk_free(f->ctx, f->entries);
  lk_free(f->ctx, f->names);
  lk_free(f->ctx, f->metadata);
  lk_free(f->ctx, f->name);
  lk_json_free(f->header);
  lk_file_unmap(f->file);
  lk_free(f->ctx, f);
}

/* ---- what is in it ---- */

size_t lk_safetensors_count(const lk_safetensors *f) { return f ? f->count : 0; }

const lk_stored *lk_safetensors_at(const lk_safetensors *f, size_t i) {
  return i < lk_safetensors_count(f) ? &f->entries[i].stored : NULL;
}

const lk_stored *lk_safetensors_find(const lk_safetensors *f, const char *name) {
  if (!f || !name || !f->count) return NULL;
  lk_entry wanted = {.stored = {.name = name}};
  const lk_entry *key = &wanted;
  const lk_entry *const *found = bsearch(&key, f->names, f->count, sizeof *f->names, lk_entry_by_name);
  return found ? &(*found)->stored : NULL;
}

lk_status lk_safetensors_view(lk_safetensors *f, const lk_stored *tensor, lk_view *view) {
  memset(view, 0, sizeof *view);
  if (!f || !tensor) return LK_ENIL;
  if (lk_error(f->ctx, NULL)) return lk_error(f->ctx, NULL);
  char shown[LK_SHOWN];
  lk_entry *e = &f->entries[(const lk_entry *)(const void *)tensor - f->entries];
  if (e->kind->dtype == LK_UNSUPPORTED)
    return lk_fail(f->ctx, LK_EDTYPE, "%s: tensor '%s': dtype %s is not supported", f->name,
                   lk_shown(tensor->name, shown), e->kind->name);
  const unsigned char *p = f->bytes + tensor->offset;
  if ((uintptr_t)p % e->kind->size && !e->copy) {
    e->copy = lk_alloc(f->ctx, tensor->bytes);
    if (!e->copy) return lk_error(f->ctx, NULL);
    memcpy(e->copy, p, tensor->bytes);
  }
  lk_view_init(view, (lk_dtype)e->kind->dtype, tensor->ndim, tensor->shape); /* fits: read_shape checked */
  view->p = e->copy ? e->copy : (void *)p;
  return LK_OK;
}

void lk_safetensors_forget(lk_safetensors *f, const lk_stored *tensor) {
  if (f && f->file && tensor) lk_file_forget(f->file, tensor->offset, tensor->bytes);
}

lk_status lk_safetensors_get(lk_safetensors *f, const char *name, lk_view *view) {
  memset(view, 0, sizeof *view);
  if (!f || !name) return LK_ENIL;
  const lk_stored *tensor = lk_safetensors_find(f, name);
  char shown[LK_SHOWN];
  if (!tensor) return lk_fail(f->ctx, LK_EARG, "%s has no tensor '%s'", f->name, lk_shown(name, shown));
  return lk_safetensors_view(f, tensor, view);
}

size_t lk_safetensors_metadata_count(const lk_safetensors *f) { return f ? f->nmetadata : 0; }

lk_metadata lk_safetensors_metadata_at(const lk_safetensors *f, size_t i) {
  lk_metadata none = {NULL, NULL};
  return i < lk_safetensors_metadata_count(f) ? f->metadata[i] : none;
}

const char *lk_safetensors_metadata(const lk_safetensors *f, const char *key) {
  for (size_t i = 0; i < lk_safetensors_metadata_count(f); i++)
    if (!strcmp(f->metadata[i].key, key)) return f->metadata[i].value;
  return NULL;
}
