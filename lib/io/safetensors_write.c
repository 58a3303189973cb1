/* safetensors_write.c: the writer: the same tensors and metadata give the same bytes, whatever their order. */
#include "text.h"

#include <lorikeet/file.h>
#include <lorikeet/json.h>
#include <lorikeet/safetensors.h>
#include <stdlib.h>

/* By lk_dtype; `rank` is the reference implementation's order, in which the data stands from high to low. */
static const struct {
  const char *name;
  int rank;
} dtypes[] = {[LK_U8] = {"U8", 0},   [LK_F16] = {"F16", 1}, [LK_BF16] = {"BF16", 2}, [LK_I32] = {"I32", 3},
              [LK_F32] = {"F32", 4}, [LK_F64] = {"F64", 5}, [LK_I64] = {"I64", 6}};

static int by_rank_and_name(const void *a, const void *b) {
  const lk_named_view *x = *(const lk_named_view *const *)a, *y = *(const lk_named_view *const *)b;
  int order = dtypes[y->view.dtype].rank - dtypes[x->view.dtype].rank;
  return order ? order : strcmp(x->name, y->name);
}

static int by_key(const void *a, const void *b) {
  return strcmp((*(const lk_metadata *const *)a)->key, (*(const lk_metadata *const *)b)->key);
}

static lk_status check_tensor(lk_ctx *ctx, const lk_named_view *t) {
  char shown[LK_SHOWN];
  lk_view packed;
  if (!t->name) return lk_fail(ctx, LK_ENIL, "lk_safetensors_write: a tensor has no name");
  const char *name = lk_shown(t->name, shown), *why = NULL;
  if (!*name) why = "is empty";
  else if (!strcmp(t->name, "__metadata__")) why = "is reserved";
  else if (!lk_utf8_valid(t->name)) why = "is not UTF-8";
  else if (strlen(t->name) > LK_SAFETENSORS_MAX_NAME) why = "is too long";
  if (why) return lk_fail(ctx, LK_EARG, "lk_safetensors_write: the name '%s' %s", name, why);
  if ((unsigned)t->view.dtype >= sizeof dtypes / sizeof *dtypes)
    return lk_fail(ctx, LK_EDTYPE, "lk_safetensors_write: tensor '%s' has an unknown dtype", name);
  if (lk_view_init(&packed, t->view.dtype, t->view.ndim, t->view.shape))
    return lk_fail(ctx, LK_ESHAPE, "lk_safetensors_write: tensor '%s' has an impossible shape", name);
  if (!t->view.p && lk_view_count(&t->view))
    return lk_fail(ctx, LK_ENIL, "lk_safetensors_write: tensor '%s' has no memory", name);
  return LK_OK;
}

/* {"dtype": .., "shape": [..], "data_offsets": [begin, end]} under the tensor's name; moves *offset on. */
static lk_status describe(lk_ctx *ctx, lk_json *header, const lk_named_view *t, size_t *offset) {
  char shown[LK_SHOWN];
  size_t bytes = lk_view_bytes(&t->view);
  if (lk_json_get(header, t->name))
    return lk_fail(ctx, LK_EARG, "lk_safetensors_write: two tensors are called '%s'", lk_shown(t->name, shown));
  if (bytes > INT64_MAX - *offset)
    return lk_fail(ctx, LK_EARG, "lk_safetensors_write: with tensor '%s' the size overflows", lk_shown(t->name, shown));
  lk_json *j = lk_json_object(ctx), *shape = lk_json_array(ctx), *offsets = lk_json_array(ctx);
  for (int d = 0; d < t->view.ndim; d++) lk_json_set_int(ctx, shape, NULL, t->view.shape[d]);
  lk_json_set_int(ctx, offsets, NULL, (int64_t)*offset);
  lk_json_set_int(ctx, offsets, NULL, (int64_t)(*offset + bytes));
  lk_json_set_string(ctx, j, "dtype", dtypes[t->view.dtype].name);
  lk_json_set(ctx, j, "shape", shape);
  lk_json_set(ctx, j, "data_offsets", offsets);
  *offset += bytes;
  return lk_json_set(ctx, header, t->name, j);
}

static lk_status describe_metadata(lk_ctx *ctx, lk_json *header, const lk_metadata *pairs, size_t n) {
  char shown[LK_SHOWN];
  if (!n) return LK_OK;
  const lk_metadata **sorted = lk_alloc_array(ctx, n, sizeof *sorted);
  if (!sorted) return lk_error(ctx, NULL);
  for (size_t i = 0; i < n; i++) {
    sorted[i] = &pairs[i];
    if (!pairs[i].key) lk_fail(ctx, LK_ENIL, "lk_safetensors_write: a metadata key is NULL");
  }
  lk_json *j = lk_json_object(ctx);
  if (j) qsort(sorted, n, sizeof *sorted, by_key);
  for (size_t i = 0; i < n && !lk_error(ctx, NULL); i++) {
    if (lk_json_get(j, sorted[i]->key))
      lk_fail(ctx, LK_EARG, "lk_safetensors_write: metadata has '%s' twice", lk_shown(sorted[i]->key, shown));
    lk_json_set_string(ctx, j, sorted[i]->key, sorted[i]->value);
  }
  lk_free(ctx, sorted);
  return lk_json_set(ctx, header, "__metadata__", j);
}

/* The elements in row-major order. */
static void write_data(lk_writer *w, const lk_view *v) {
  size_t size = lk_dtype_size(v->dtype);
  int64_t cols = lk_view_cols(v), step = lk_view_step(v);
  if (lk_view_contiguous(v)) {
    lk_write(w, v->p, lk_view_bytes(v));
    return;
  }
  for (int64_t r = 0, rows = lk_view_rows(v); r < rows; r++) {
    const char *row = (const char *)v->p + lk_view_row(v, r) * (int64_t)size;
    if (step == 1) lk_write(w, row, (size_t)cols * size);
    else
      for (int64_t c = 0; c < cols; c++) lk_write(w, row + c * step * (int64_t)size, size);
  }
}

static lk_status write_file(lk_ctx *ctx, const char *path, const char *header, const lk_named_view *const *t,
                            size_t n) {
  size_t length = strlen(header), padded = (length + 7) / 8 * 8;
  if (padded > LK_SAFETENSORS_MAX_HEADER)
    return lk_fail(ctx, LK_EARG, "lk_safetensors_write: a header of %zu bytes, more than %zu", padded,
                   LK_SAFETENSORS_MAX_HEADER);
  unsigned char prefix[8];
  for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)padded >> 8 * i);
  lk_writer *w = lk_writer_open(ctx, path);
  lk_write(w, prefix, sizeof prefix);
  lk_write(w, header, length);
  lk_write(w, "       ", padded - length);
  for (size_t i = 0; i < n && w; i++) write_data(w, &t[i]->view);
  lk_writer_commit(w);
  return lk_error(ctx, NULL);
}

lk_status lk_safetensors_write(lk_ctx *ctx, const char *path, const lk_named_view *tensors, size_t n,
                               const lk_metadata *pairs, size_t npairs) {
  if ((n && !tensors) || (npairs && !pairs)) lk_fail(ctx, LK_ENIL, "lk_safetensors_write: tensors or pairs are NULL");
  for (size_t i = 0; i < n && !lk_error(ctx, NULL); i++) check_tensor(ctx, &tensors[i]);
  const lk_named_view **sorted = lk_alloc_array(ctx, n, sizeof *sorted);
  if (!sorted) return lk_error(ctx, NULL);
  for (size_t i = 0; i < n; i++) sorted[i] = &tensors[i];
  qsort(sorted, n, sizeof *sorted, by_rank_and_name);
  size_t offset = 0;
  lk_json *header = lk_json_object(ctx);
  lk_status bad = describe_metadata(ctx, header, pairs, npairs);
  for (size_t i = 0; i < n && !bad; i++) bad = describe(ctx, header, sorted[i], &offset);
  char *text = lk_error(ctx, NULL) ? NULL : lk_json_dump(ctx, header, LK_JSON_COMPACT);
  if (text) write_file(ctx, path, text, sorted, n);
  lk_free(ctx, text);
  lk_json_free(header);
  lk_free(ctx, sorted);
  return lk_error(ctx, NULL);
}
