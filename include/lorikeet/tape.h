/* tape.h: the tape: values and nodes of one step, scopes, backward.
 *
 * Eager: a value exists as soon as the call that makes it has returned.  The tape records what backward
 * needs and frees everything else as soon as nobody can see it (its scope ended) and no recorded backward
 * will read it.  A tape belongs to one context; several tapes may live at once. */
#ifndef LORIKEET_TAPE_H
#define LORIKEET_TAPE_H
#include <lorikeet/param.h>
#include <lorikeet/random.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lk_tape lk_tape;

LK_API lk_tape *lk_tape_new(lk_ctx *ctx);
LK_API void lk_tape_free(lk_tape *t);
LK_API lk_ctx *lk_tape_ctx(const lk_tape *t);
/* Forgets all values and nodes, keeps the memory: the start of a step.  Ends training mode. */
LK_API void lk_tape_reset(lk_tape *t);

/* Training pass number (step, micro): turns dropout on and keys every random draw.  Holds until the next
 * reset; without it the pass is evaluation and draws nothing. */
LK_API void lk_train(lk_tape *t, uint64_t step, uint64_t micro);
LK_API int lk_is_training(const lk_tape *t);
/* The key of the running training pass, of (seed, step, micro): fold a label or a number into it and draw on the host.
 * {0, 0} outside training. */
LK_API lk_key lk_tape_key(const lk_tape *t);
/* While on, nothing is recorded; returns the previous setting. */
LK_API int lk_no_grad(lk_tape *t, int on);
LK_API int lk_grad_enabled(const lk_tape *t);

/* A copy of data on the tape (data NULL: zeros); row-major. */
LK_API lk_tensor lk_input(lk_tape *t, lk_dtype dtype, int ndim, const int64_t *shape, const void *data);
/* A value without gradient that borrows memory of the caller, which must stay unchanged until reset. */
LK_API lk_tensor lk_borrow(lk_tape *t, const lk_view *v);
/* A trainable value in the caller's memory: gradients are added to grad (same shape, row-major). */
LK_API lk_tensor lk_leaf(lk_tape *t, const lk_view *v, void *grad);
/* A parameter on this tape (its stand_in, if one is set); the same value however often it is asked for. nil for NULL. */
LK_API lk_tensor lk_use(lk_tape *t, lk_param *p);
/* While on, lk_use gives frozen f64 copies of f32 parameters: merging computes in double. */
LK_API void lk_tape_in_double(lk_tape *t, int on);
/* A constant of the dtype, 0-d. */
LK_API lk_tensor lk_scalar(lk_tape *t, lk_dtype dtype, double value);
/* The same value without its history: no gradient flows back through it (shares memory). */
LK_API lk_tensor lk_detach_value(lk_tape *t, lk_tensor x);

/* The memory of a value; valid until its scope ends.  -1 with an error for a nil or stale value. */
LK_API int lk_get(lk_tape *t, lk_tensor x, lk_view *view);
/* The only element of x as a double; 0 on error. */
LK_API double lk_item(lk_tape *t, lk_tensor x);
LK_API int lk_ndim(lk_tape *t, lk_tensor x);
LK_API int64_t lk_size(lk_tape *t, lk_tensor x, int axis); /* axis may be negative; 0 on error */
LK_API lk_dtype lk_dtype_of(lk_tape *t, lk_tensor x);

/* Adds d loss / d leaf to the gradient of every trainable leaf; loss has one element.  A node can be
 * passed once: add losses before, or go forward again. */
LK_API lk_status lk_backward(lk_tape *t, lk_tensor loss);
/* The same from any value, with its cotangent (row-major, the value's shape and dtype). */
LK_API lk_status lk_backward_from(lk_tape *t, lk_tensor y, const void *gy);
/* Has a backward gone through the op that made x?  A loss made of x again could not pass it. */
LK_API int lk_is_spent(lk_tape *t, lk_tensor x);

/* ---- scopes ---- */
enum { LK_SCOPE_RECOMPUTE = 1 }; /* keep nothing inside; replay the segment in backward */
/* Values made inside a scope end with it, except its results.  The token names the scope; a forgotten end
 * is reported.  name must live until reset. */
LK_API uint32_t lk_scope_begin(lk_tape *t, const char *name, int flags);
LK_API lk_tensor lk_scope_end(lk_tape *t, uint32_t scope, lk_tensor result); /* use what it returns */
LK_API lk_status lk_scope_end_n(lk_tape *t, uint32_t scope, int n, lk_tensor *results);
LK_API void lk_keep(lk_tape *t, lk_tensor x); /* valid until reset, whatever scope made it */
LK_API void lk_drop(lk_tape *t, lk_tensor x); /* dead to the caller now; notes and side inputs stay */

/* ---- side inputs and notes: values by name, until reset ---- */
/* What a forward pass knows besides its arguments: task ids, masks, a recorded draw.  name is copied by hash. */
LK_API void lk_side(lk_tape *t, const char *name, lk_tensor value);
LK_API lk_tensor lk_side_get(lk_tape *t, const char *name); /* nil if there is none */
/* What a part of the model leaves for others in this pass (router probabilities for the balance loss): values by owner
 * and label, in order of noting, alive until reset. */
LK_API void lk_note(lk_tape *t, const void *owner, const char *label, lk_tensor value);
LK_API lk_tensor lk_noted(lk_tape *t, const void *owner, const char *label, int i); /* the i-th; nil behind the last */

/* ---- counters ---- */
typedef struct lk_tape_stats {
  size_t live, peak, reserved; /* bytes of values, gradients and scratch: now, largest this step, from the allocator */
  uint64_t nodes, replayed;    /* recorded, and run again by recomputation, this step */
  uint64_t allocations;        /* calls of the context's allocator since the tape was made */
  double flops;                /* of gemms and convolutions, this step */
} lk_tape_stats;
LK_API lk_tape_stats lk_tape_statistics(const lk_tape *t);
/* Checks: naive frees nothing before reset; poison fills dead and undeclared memory with NaN. */
typedef enum lk_tape_mode { LK_TAPE_LIVE, LK_TAPE_NAIVE, LK_TAPE_POISON } lk_tape_mode;
LK_API void lk_tape_set_mode(lk_tape *t, lk_tape_mode mode);
/* One line per recorded node: number, op, shapes, scope.  Returns the length; like snprintf. */
LK_API size_t lk_tape_print(lk_tape *t, char *buffer, size_t size);

#ifdef __cplusplus
}
#endif
#endif
