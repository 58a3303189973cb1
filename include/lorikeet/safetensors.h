/* safetensors.h: HuggingFace's file of named tensors (https://github.com/huggingface/safetensors).
 *
 * 8 bytes: N, the header's length, little-endian; N bytes of JSON {"name": {"dtype", "shape", "data_offsets"}, ...,
 * "__metadata__": {"key": "value"}}; then the data, row-major, without holes.  Machines must be little-endian. */
#ifndef LORIKEET_SAFETENSORS_H
#define LORIKEET_SAFETENSORS_H
#include <lorikeet/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LK_SAFETENSORS_MAX_HEADER ((size_t)100000000) /* bytes, as in the reference implementation */
#define LK_SAFETENSORS_MAX_NAME ((size_t)4096)        /* bytes of a tensor's name */

typedef struct lk_metadata {
  const char *key, *value;
} lk_metadata;

typedef struct lk_named_view {
  const char *name;
  lk_view view;
} lk_named_view;

/* A tensor as the header describes it. */
typedef struct lk_stored {
  const char *name;
  const char *dtype; /* as the file spells it: "F32", "BOOL", ... */
  int ndim;
  int64_t shape[LK_MAXDIM];
  size_t offset; /* of its first byte in the file */
  size_t bytes;
} lk_stored;

typedef struct lk_safetensors lk_safetensors;

/* Maps a file and checks all of its header: lengths, UTF-8, duplicate names, dtypes, shapes, offsets, overlaps, holes,
 * the exact length of the file.  No data is read.  NULL on error (LK_EFORMAT), with the tensor's name and the reason;
 * tensors of more than LK_MAXDIM axes are refused.  (The parsed header is Jansson's memory, see json.h.) */
LK_API lk_safetensors *lk_safetensors_open(lk_ctx *ctx, const char *path);
/* The same on memory of the caller's, which must outlive the reader. */
LK_API lk_safetensors *lk_safetensors_open_memory(lk_ctx *ctx, const void *bytes, size_t n);
LK_API void lk_safetensors_close(lk_safetensors *f); /* its views and names end with it; f may be NULL */

LK_API size_t lk_safetensors_count(const lk_safetensors *f);
LK_API const lk_stored *lk_safetensors_at(const lk_safetensors *f,
                                          size_t i); /* in the header's order; NULL past the end */
LK_API const lk_stored *lk_safetensors_find(const lk_safetensors *f, const char *name); /* NULL: not there */
/* The data of one of this reader's tensors, row-major, not to be written: it lies in the map, or, when the file does
 * not align it to its element size, in a copy made by the first call, which the reader owns.  dtypes F32, F64, I64,
 * I32, U8, BF16, F16, and BOOL as U8; any other is refused by name (LK_EDTYPE). */
LK_API lk_status lk_safetensors_view(lk_safetensors *f, const lk_stored *tensor, lk_view *view);
/* The tensor's data will not be read soon: its memory may be given back meanwhile.  Its views stay valid. */
LK_API void lk_safetensors_forget(lk_safetensors *f, const lk_stored *tensor);
/* find and view in one; a missing tensor is an error (LK_EARG). */
LK_API lk_status lk_safetensors_get(lk_safetensors *f, const char *name, lk_view *view);

LK_API size_t lk_safetensors_metadata_count(const lk_safetensors *f);
LK_API lk_metadata lk_safetensors_metadata_at(const lk_safetensors *f, size_t i);     /* {NULL, NULL} past the end */
LK_API const char *lk_safetensors_metadata(const lk_safetensors *f, const char *key); /* NULL: not there */

/* Writes a file atomically (see file.h).  Views may have any strides; the data is streamed, not copied whole.  The
 * bytes depend only on names, values and metadata, not on their order: tensors stand as the reference implementation
 * puts them, by dtype (the widest first, so that all are aligned) and name, metadata by key.  Refused: a name twice,
 * empty, too long, not UTF-8 or "__metadata__"; a key twice; memory missing. */
LK_API lk_status lk_safetensors_write(lk_ctx *ctx, const char *path, const lk_named_view *tensors, size_t n,
                                      const lk_metadata *pairs, size_t npairs);

#ifdef __cplusplus
}
#endif
#endif
