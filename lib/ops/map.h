/* map.h: one kernel over all elements of a few views: the loops of elementwise ops and of reductions, written once.
 *
 * A kernel sees short contiguous runs and nothing else.  lk_map joins axes, splits the work over threads in pieces that
 * do not depend on their number, copies strided and repeated inputs into runs, and folds the axes along which the
 * output repeats (stride 0): in double, in a fixed order.  So the gradient of a broadcast input and a reduction are
 * the same thing: a map onto an output that repeats. */
#ifndef LK_MAP_H
#define LK_MAP_H
#include "real.h"

#include <lorikeet/op.h>

#define LK_MAP_MAXIN 4
#define LK_MAP_RUN 512

/* out[i] = f(in[0][i], in[1][i], ...) for i < n <= LK_MAP_RUN.  out overlaps no input. */
typedef void lk_run(int64_t n, void *out, const void *const *in, const void *attr);
typedef struct lk_kernel {
  lk_run *f32, *f64;
} lk_kernel;

typedef enum lk_fold { LK_FOLD_SUM, LK_FOLD_MAX, LK_FOLD_MIN } lk_fold;

typedef struct lk_map_job {
  lk_view out;                     /* f32 or f64 */
  const lk_view *in[LK_MAP_MAXIN]; /* the shape of out; its dtype or u8; NULL: not looked at; in[0] may be out itself */
  lk_kernel kernel;                /* none: out = in[0] */
  const void *attr;                /* for the kernel and finish */
  lk_fold fold;                    /* over the axes where out has stride 0 */
  double (*finish)(double y, const void *attr); /* of what was folded, before it is rounded; NULL: y */
  int add;                                      /* out += result, instead of out = result */
} lk_map_job;

/* 0, or non-zero with an error (no memory). */
int lk_map(lk_call *c, const lk_map_job *job);
/* The job that adds kernel(...) to gx[i], or writes it when gx[i] is fresh; in[] is set by the caller. */
lk_map_job lk_map_grad(const lk_call *c, int i, lk_kernel kernel);

/* LK_KERNEL(name, statements): name is a kernel of both types; statements see R, i, o, attr and LK_IN(k). */
#define LK_KERNEL_OF(name, type, ...)                                                                                  \
  LK_CLONES static void name(int64_t n, void *restrict out, const void *const *in, const void *attr) {                 \
    typedef type R;                                                                                                    \
    R *o = out;                                                                                                        \
    (void)in, (void)attr;                                                                                              \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      __VA_ARGS__                                                                                                      \
    }                                                                                                                  \
  }
#define LK_KERNEL(name, ...)                                                                                           \
  LK_KERNEL_OF(name##_f32, float, __VA_ARGS__)                                                                         \
  LK_KERNEL_OF(name##_f64, double, __VA_ARGS__)                                                                        \
  static const lk_kernel name = {name##_f32, name##_f64};
#define LK_IN(k) (((const R *)in[k])[i])

#endif
