/* op.h: how an operator is written, inside the library or in a user's program.
 *
 * An op is one const struct: shape, forward, backward and its test cases stand together.  The engine does
 * what ops forget: broadcasting (inputs and gradients arrive expanded, stride 0), packing, dtype checks,
 * who needs a gradient, accumulation, lifetimes, NaN in what was not declared as read. */
#ifndef LORIKEET_OP_H
#define LORIKEET_OP_H
#include <lorikeet/random.h>
#include <lorikeet/tape.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LK_MAXIN 16
#define LK_X(i) (1u << (i)) /* input i, in `want`, `fresh` and `reads` */
#define LK_Y (1u << 31)     /* the result, in `reads` */

struct lk_op;

/* What an op's functions receive. */
typedef struct lk_call {
  lk_tape *tape;
  const struct lk_op *op;
  int nin;          /* inputs given; trailing optional ones may be missing */
  lk_view *x;       /* inputs, 0 .. nin - 1 */
  lk_view *y;       /* result; shape() fills it, fwd() writes every element of it */
  lk_view *gx;      /* backward: gradients to add to; gx[i].p is NULL where input i wants none */
  lk_view *gy;      /* backward: gradient of the result */
  const void *attr; /* attributes, op->attr_size bytes */
  uint32_t want;    /* inputs that want a gradient */
  uint32_t fresh;   /* backward, ops with LK_OP_FRESH: gx[i] is uninitialised, write every element instead of adding */
  lk_key key;       /* ops with LK_OP_RANDOM: the key of this call */
  int threads;      /* how many the op may use */
  void *saved;      /* what lk_save returned in forward, in backward */
  void *impl;       /* the engine's */
} lk_call;

enum {
  LK_OP_ELEMENTWISE = 1, /* x[] and gx[] arrive broadcast to the shape of y; shape may be NULL */
  LK_OP_PACKED = 2,      /* x[], y, gy and gx[] arrive row-major without gaps */
  LK_OP_INPLACE = 4,     /* shape() sets *y = x[0]; y is x[0], gx[0] is gy; must not lk_save */
  LK_OP_VIEW = 8,        /* shape() sets *y to a window on x[0]; no fwd, no bwd */
  LK_OP_FRESH = 16,      /* bwd honours c->fresh (saves zeroing) */
  LK_OP_RANDOM = 32,     /* draws: c->key differs per call */
  LK_OP_CHEAP = 64,      /* fwd costs little more than reading x: where backward reads x anyway, a large y that it reads
                            too is not kept but made again (same bits) */
  LK_OP_REUSE = 128 /* with LK_OP_FRESH: gx[0] may lie in gy's own memory, if that is all that gy is needed for; bwd
                            reads an element of gy before it writes that of gx[0], and all others before that */
};

/* A test case: inputs "3x4 5x4 5" with values in [low, high); integer inputs in [0, index_max). */
typedef struct lk_case {
  const char *shapes; /* a 0-d input is written "-" */
  const void *attr;
  double low, high;
  int64_t index_max;
} lk_case;

typedef struct lk_op {
  const char *name;
  int nin;      /* number of inputs; -1: any, up to LK_MAXIN */
  int optional; /* how many of the last inputs may be missing (nil) */
  int flags;
  const char *
      types; /* a letter per input (the last one repeats): r real, f real and frozen, w real or stored in half (frozen), i index, m mask (u8), a any; NULL: all r */
  size_t attr_size;
  int (*shape)(lk_call *);            /* sets *y by lk_view_init, or refuses through lk_op_fail; NULL: broadcast */
  int (*fwd)(lk_call *);              /* pure in inputs, attributes and key: recomputation runs it twice */
  int (*bwd)(lk_call *);              /* gx[i] += ...; NULL: not differentiable */
  uint32_t (*reads)(const lk_call *); /* what bwd will read, given c->want: LK_X(i) | LK_Y; NULL: everything */
  const lk_case *cases;               /* ended by {0} */
} lk_op;

/* Runs op on the inputs and records it.  attr is copied.  Nil on error. */
LK_API lk_tensor lk_apply(lk_tape *t, const lk_op *op, int nin, const lk_tensor *inputs, const void *attr);
/* An error worded "<op>: <message>; x0 [2, 5], x1 [4]; in model.layer.0"; returns non-zero. */
LK_API int lk_op_fail(lk_call *c, lk_status status, const char *format, ...) LK_PRINTF(3, 4);
/* Memory until this call returns.  64-byte aligned, not cleared. */
LK_API void *lk_scratch(lk_call *c, size_t bytes);
/* Memory from fwd to the end of bwd (scratch when nobody will ask for a gradient). */
LK_API void *lk_save(lk_call *c, size_t bytes);
LK_API void lk_count_flops(lk_call *c, double flops);
/* Axis -ndim .. ndim-1 to 0 .. ndim-1; refuses through lk_op_fail, returning -1. */
LK_API int lk_op_axis(lk_call *c, int axis, int ndim);

/* ---- what ops compute with ---- */
/* y = beta y + alpha a b, for 2-d views of any strides, one real dtype; BLIS.  a [m, k], b [k, n], y [m, n].
 * beta 0 does not read y.  Sizes must fit (the caller checked).  Uses c->threads when it pays. */
LK_API void lk_gemm(lk_call *c, const lk_view *a, const lk_view *b, double alpha, double beta, const lk_view *y);
/* The same on raw memory with one thread and without counting: for use inside lk_parallel. */
LK_API void lk_gemm_raw(lk_dtype dtype, int64_t m, int64_t n, int64_t k, double alpha, const void *a, int64_t rsa,
                        int64_t csa, const void *b, int64_t rsb, int64_t csb, double beta, void *y, int64_t rsy,
                        int64_t csy);
/* Calls body(arg, from, to, thread) over [0, n) in pieces of `grain`, on up to `threads` threads.  The pieces do
 * not depend on the number of threads.  body must not call lk_gemm, lk_scratch or lk_save (lk_gemm_raw is fine).
 * thread is in [0, threads): an index for private scratch. */
LK_API void lk_parallel(int threads, int64_t n, int64_t grain,
                        void (*body)(void *arg, int64_t from, int64_t to, int thread), void *arg);

/* ---- registry and checks ---- */
/* Called before (done 0) and after (done 1) each forward and backward of an op: for profiles.  It only looks. */
typedef void lk_watch_fn(void *arg, const lk_call *call, int backward, int done);
/* One watcher per tape; NULL ends it. */
LK_API void lk_tape_watch(lk_tape *t, lk_watch_fn *watch, void *arg);
/* All built-in ops, ended by NULL. */
LK_API const lk_op *const *lk_ops(void);
/* Holds an op to the contract, over its cases: analytic gradient against central differences in f64 for every
 * element and every mask of inputs that want one; strided and broadcast inputs in forward and backward; f32
 * against f64; undeclared and over-declared reads; same bits on 1 and 2 threads.  The error names what failed. */
LK_API lk_status lk_check_op(lk_ctx *ctx, const lk_op *op);

#ifdef __cplusplus
}
#endif
#endif
