/* idx.h: LeCun's IDX files (the format of MNIST), plain or gzip-compressed.
 *
 * Two zero bytes, a type code, the number of axes, each size as a big-endian 32-bit number, then the elements,
 * row-major, big-endian (http://yann.lecun.com/exdb/mnist). */
#ifndef LORIKEET_IDX_H
#define LORIKEET_IDX_H
#include <lorikeet/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LK_IDX_MAX_ELEMENTS ((int64_t)1 << 31)

/* Reads a file into *array: a row-major view whose memory the caller frees with lk_free(ctx, array->p).  The first
 * bytes tell whether it is compressed, not the name.  Types: unsigned byte becomes U8; signed byte, short and int
 * become I32; float F32; double F64.  LK_EFORMAT, with the reason: a wrong magic number, a file that is too short,
 * damaged (gzip's checksum) or longer than its header says, more than LK_MAXDIM axes or LK_IDX_MAX_ELEMENTS. */
LK_API lk_status lk_idx_read(lk_ctx *ctx, const char *path, lk_view *array);
/* Reads path, or path.gz if there is no path; an error names both. */
LK_API lk_status lk_idx_read_either(lk_ctx *ctx, const char *path, lk_view *array);
/* The same from memory; name stands in messages. */
LK_API lk_status lk_idx_read_memory(lk_ctx *ctx, const void *bytes, size_t n, const char *name, lk_view *array);

#ifdef __cplusplus
}
#endif
#endif
