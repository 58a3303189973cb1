/* param.h: parameters: named memory that outlives a step, with a gradient and a version. */
#ifndef LORIKEET_PARAM_H
#define LORIKEET_PARAM_H
#include <lorikeet/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lk_param_kind {
  LK_TRAINED, /* optimised (when requires_grad) and saved */
  LK_BUFFER,  /* saved, never optimised */
  LK_SCRATCH, /* only in checkpoints */
  LK_RETIRED  /* pruned away: neither counted nor saved */
} lk_param_kind;

typedef struct lk_param lk_param;
struct lk_param {
  lk_ctx *ctx;
  char *name;    /* full path, the tensor's name in files: "encoder.layer.0.query.weight" */
  lk_view value; /* row-major; p may point into a mapped file (then owned is 0), which must not be written */
  void *grad;    /* same shape and dtype, row-major; NULL until first needed */
  lk_param_kind kind;
  int requires_grad;       /* 0: frozen */
  int has_grad;            /* a backward reached it since the last zero_grad */
  int owned;               /* value.p is from the context's allocator */
  uint32_t version;        /* bumped by every writer: lk_param_touch */
  lk_param *stand_in;      /* used in its place while an adapter is active (modules_to_save, bias) */
  lk_param *alias;         /* tied weight: the parameter that owns the memory; NULL: itself */
  void *own_value;         /* while it has an alias: memory of its own, for later; or NULL */
  void *owner;             /* module or adapter that it belongs to */
  lk_param *next;          /* in its owner's list */
  uint32_t leaf, leaf_gen; /* its value on the tape that used it last */
};

/* A zeroed parameter; name is copied.  NULL on error. */
LK_API lk_param *lk_param_new(lk_ctx *ctx, const char *name, lk_param_kind kind, lk_dtype dtype, int ndim,
                              const int64_t *shape);
/* The same without memory for the value (value.p NULL): for counting and for mapped files. */
LK_API lk_param *lk_param_new_shape(lk_ctx *ctx, const char *name, lk_param_kind kind, lk_dtype dtype, int ndim,
                                    const int64_t *shape);
LK_API void lk_param_free(lk_param *p);
/* Every write to value.p must be followed by this: recorded backwards and cached values notice it. */
LK_API void lk_param_touch(lk_param *p);
/* Makes value.p writable memory of its own (copies a mapped value). */
LK_API lk_status lk_param_own(lk_param *p);
/* Copies data (converted from f32 or f64, any strides, same shape) into the parameter. */
LK_API lk_status lk_param_assign(lk_param *p, const lk_view *from);
LK_API void lk_param_zero_grad(lk_param *p);      /* the next backward starts from zero */
LK_API int64_t lk_param_count(const lk_param *p); /* elements */

/* Initialisers; drawn from (seed, the parameter's name), so independent of creation order. f32 and f64 agree to rounding. */
LK_API lk_status lk_param_uniform(lk_param *p, double low, double high);
LK_API lk_status lk_param_normal(lk_param *p, double mean, double std);
LK_API lk_status lk_param_fill(lk_param *p, double value);

#ifdef __cplusplus
}
#endif
#endif
