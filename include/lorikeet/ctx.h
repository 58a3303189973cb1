/* ctx.h: the context: allocator, sticky error, warnings, seed, threads.
 *
 * Every lorikeet object belongs to one context, and a context to one thread at a time.
 * The first error stays in the context ("sticky"): later calls return nil or the same status and do
 * nothing, so a program asks once a step.  The library never prints, aborts or exits. */
#ifndef LORIKEET_CTX_H
#define LORIKEET_CTX_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined __GNUC__
#define LK_API __attribute__((visibility("default")))
#define LK_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define LK_API
#define LK_PRINTF(fmt, args)
#endif

typedef struct lk_ctx lk_ctx;

typedef enum lk_status {
  LK_OK = 0,
  LK_ENOMEM,    /* the allocator returned NULL */
  LK_ENIL,      /* a nil value or a NULL pointer was passed */
  LK_ESTALE,    /* a value of another tape, an earlier step or a closed scope */
  LK_ESHAPE,    /* shapes do not fit */
  LK_EDTYPE,    /* element types do not fit */
  LK_EARG,      /* an argument, option or pattern is wrong */
  LK_ENOGRAD,   /* nothing trainable, or no backward */
  LK_EIO,       /* the operating system refused */
  LK_EFORMAT,   /* a file is malformed */
  LK_ENONFINITE /* NaN or infinity where a number is needed */
} lk_status;

/* Where memory comes from.  alloc returns at least 16-byte aligned memory or NULL. */
typedef struct lk_allocator {
  void *(*alloc)(void *user, size_t size);
  void (*free)(void *user, void *p);
  void *user;
} lk_allocator;

typedef struct lk_ctx_options {
  const lk_allocator *allocator; /* NULL: malloc and free */
  uint64_t seed;                 /* of every random draw */
  int threads;                   /* 0: one per core */
} lk_ctx_options;

/* What the context's allocator has been asked so far. */
typedef struct lk_ctx_stats {
  uint64_t allocations; /* calls of alloc */
  uint64_t live;        /* allocated and not freed yet */
} lk_ctx_stats;

/* A new context; options may be NULL.  Returns NULL only when the allocator fails. */
LK_API lk_ctx *lk_ctx_new(const lk_ctx_options *options);
/* Frees the context; its tapes, modules and optimisers must have been freed before. */
LK_API void lk_ctx_free(lk_ctx *ctx);

/* The sticky error: its status and, if message is not NULL, its sentence ("" when LK_OK). */
LK_API lk_status lk_error(const lk_ctx *ctx, const char **message);
LK_API void lk_error_clear(lk_ctx *ctx);
/* Records an error unless there is one already; returns the recorded status, so: return lk_fail(...). */
LK_API lk_status lk_fail(lk_ctx *ctx, lk_status status, const char *format, ...) LK_PRINTF(3, 4);

/* Collected warnings, oldest first; programs print them.  At most 64 are kept. */
LK_API void lk_warn(lk_ctx *ctx, const char *format, ...) LK_PRINTF(2, 3);
LK_API int lk_warning_count(const lk_ctx *ctx);
LK_API const char *lk_warning(const lk_ctx *ctx, int i);
LK_API void lk_warnings_clear(lk_ctx *ctx);

/* Zeroed memory from the context's allocator; NULL with a recorded error when there is none,
 * or when the context already has an error. */
LK_API void *lk_alloc(lk_ctx *ctx, size_t size);
/* The same for count elements of size bytes; refuses overflow. */
LK_API void *lk_alloc_array(lk_ctx *ctx, size_t count, size_t size);
/* Grows an array to hold n elements of size bytes (capacity doubles); 0, or -1 with *array unchanged. */
LK_API int lk_grow(lk_ctx *ctx, void *array, size_t *capacity, size_t n, size_t size);
LK_API void lk_free(lk_ctx *ctx, void *p); /* p may be NULL */
LK_API char *lk_strdup(lk_ctx *ctx, const char *s);
LK_API char *lk_strndup(lk_ctx *ctx, const char *s, size_t n);
LK_API char *lk_sprintf(lk_ctx *ctx, const char *format, ...) LK_PRINTF(2, 3); /* owned by the caller */

LK_API lk_ctx_stats lk_ctx_statistics(const lk_ctx *ctx);
LK_API uint64_t lk_seed(const lk_ctx *ctx);
LK_API int lk_threads(const lk_ctx *ctx);
LK_API void lk_set_threads(lk_ctx *ctx, int threads); /* 0: one per core */
/* Products of f32 values with frozen weights that are stored in bf16, on or off (as it begins).  Off: the weights are
 * widened, exactly.  On: the other operand, a layer's input or the gradient of its result, is rounded to bf16 too, and
 * the processor multiplies bf16 numbers, about twice as fast; sums, results and everything else stay f32.  The same bits
 * from any number of threads.  Refused (LK_EARG) where the library was built without oneDNN or the processor has neither
 * AVX512_BF16 nor AMX.  To be set between steps, not between a forward and its backward. */
LK_API lk_status lk_ctx_bf16_products(lk_ctx *ctx, int on);
LK_API const char *lk_status_name(lk_status status);

#ifdef __cplusplus
}
#endif
#endif
