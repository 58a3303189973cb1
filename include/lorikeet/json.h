/* json.h: JSON: config files, metrics, headers.
 *
 * A value of any kind is an lk_json; a child belongs to its object or array and is freed with the root.  Values are
 * built on Jansson, which takes their memory from malloc, not from the context's allocator; texts and everything else
 * come from the context. */
#ifndef LORIKEET_JSON_H
#define LORIKEET_JSON_H
#include <lorikeet/ctx.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lk_json lk_json;

typedef enum lk_json_kind {
  LK_JSON_NONE, /* of a NULL pointer: a key that is not there */
  LK_JSON_NULL,
  LK_JSON_BOOL,
  LK_JSON_INT,  /* 64 bits */
  LK_JSON_REAL, /* written with a point or an exponent */
  LK_JSON_STRING,
  LK_JSON_ARRAY,
  LK_JSON_OBJECT
} lk_json_kind;

#define LK_JSON_MAX_DEPTH 128               /* of arrays and objects inside each other */
#define LK_JSON_MAX_BYTES ((size_t)1 << 28) /* of a text: 256 MiB */

/* ---- reading ---- */
/* The value that `length` bytes of text hold (no terminator needed).  Strict (RFC 8259): one value, UTF-8, no
 * duplicate keys, no NaN, no zero characters, integers within 64 bits.  NULL on error, worded
 * "name:line:column: reason" (LK_EFORMAT).  The caller frees it. */
LK_API lk_json *lk_json_parse(lk_ctx *ctx, const char *text, size_t length, const char *name);
LK_API lk_json *lk_json_read(lk_ctx *ctx, const char *path); /* the same from a file */
LK_API void lk_json_free(lk_json *root);                     /* root may be NULL; never free a child */
/* A copy with all below it, which the caller frees or gives to a parent.  NULL on error. */
LK_API lk_json *lk_json_copy(lk_ctx *ctx, const lk_json *j);

/* ---- looking: these never fail, and take NULL for a value that is not there ---- */
LK_API lk_json_kind lk_json_type(const lk_json *j);
LK_API const char *lk_json_kind_name(lk_json_kind kind);             /* "an integer", "null", ... */
LK_API lk_json *lk_json_get(const lk_json *object, const char *key); /* NULL: no such key, or not an object */
LK_API lk_json *lk_json_at(const lk_json *array, size_t i);          /* NULL: out of range, or not an array */
LK_API size_t lk_json_count(const lk_json *j);                       /* elements or keys; 0 for other kinds */
/* The keys in stored order: void *at = NULL; while ((child = lk_json_next(object, &at, &key))) ...
 * The object must not change meanwhile. */
LK_API lk_json *lk_json_next(const lk_json *object, void **at, const char **key);
/* The value itself: 1, or 0 with *out unchanged if it is of another kind.  An integer is also a real. */
LK_API int lk_json_is_int(const lk_json *j, int64_t *out);
LK_API int lk_json_is_real(const lk_json *j, double *out);
LK_API int lk_json_is_bool(const lk_json *j, int *out);
LK_API int lk_json_is_string(const lk_json *j, const char **out); /* UTF-8, lives as long as the value */

/* ---- options of an object ---- */
/* The value of a key; `fallback` if the key is missing or null.  A value of another kind is an error that names the
 * key and both kinds (LK_EFORMAT), and gives the fallback too. */
LK_API int64_t lk_json_int(lk_ctx *ctx, const lk_json *object, const char *key, int64_t fallback);
LK_API double lk_json_real(lk_ctx *ctx, const lk_json *object, const char *key, double fallback);
LK_API int lk_json_bool(lk_ctx *ctx, const lk_json *object, const char *key, int fallback);
LK_API const char *lk_json_string(lk_ctx *ctx, const lk_json *object, const char *key, const char *fallback);

/* ---- building ---- */
LK_API lk_json *lk_json_object(lk_ctx *ctx);
LK_API lk_json *lk_json_array(lk_ctx *ctx);
/* Sets a key of an object (a new key goes to the end, an old one keeps its place); with key NULL: appends to an
 * array. */
LK_API lk_status lk_json_set_int(lk_ctx *ctx, lk_json *parent, const char *key, int64_t value);
LK_API lk_status lk_json_set_real(lk_ctx *ctx, lk_json *parent, const char *key, double value); /* finite */
LK_API lk_status lk_json_set_bool(lk_ctx *ctx, lk_json *parent, const char *key, int value);
LK_API lk_status lk_json_set_string(lk_ctx *ctx, lk_json *parent, const char *key, const char *value); /* UTF-8 */
LK_API lk_status lk_json_set_null(lk_ctx *ctx, lk_json *parent, const char *key);
/* Gives child, a root, to the parent, which now owns it; on error it is freed.  A NULL child is an error. */
LK_API lk_status lk_json_set(lk_ctx *ctx, lk_json *parent, const char *key, lk_json *child);
LK_API int lk_json_remove(lk_json *object, const char *key); /* 1 if it was there */

/* ---- writing ---- */
enum {
  LK_JSON_COMPACT = 1, /* one line without spaces; otherwise an element a line, indented by 2 */
  LK_JSON_SORTED = 2   /* keys in the order of their characters; otherwise as stored */
};
/* The text, byte for byte what Python's json.dumps(..., indent=2) gives: ASCII with \uXXXX, reals in the fewest
 * digits that read back to the same bits (0.1, 2.0, 1e-05).  Independent of the locale.  The caller's (lk_free). */
LK_API char *lk_json_dump(lk_ctx *ctx, const lk_json *j, int flags);
/* The text and a newline into a file, atomically. */
LK_API lk_status lk_json_write(lk_ctx *ctx, const char *path, const lk_json *j, int flags);

#ifdef __cplusplus
}
#endif
#endif
