/* optim.h: optimisers, parameter groups, gradient clipping, learning-rate schedules.
 *
 * An optimiser class is one const struct: state tensors, options, update.  lk_step does once what classes forget:
 * finite check, clipping, who is stepped, groups, step counts, versions, zeroing.
 *
 *   lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
 *   o.lr = 5e-4;
 *   lk_optim *opt = lk_optim_new(ctx, &lk_optim_adamw, &o, params, n);
 *   for (step = 0; step < total; step++) {
 *     for (k = 0; k < K; k++) ... forward, loss / K, lk_backward ...
 *     lk_optim_set_lr(opt, lk_schedule_lr(&schedule, step));
 *     if (lk_step(opt)) break;
 *   }
 *
 * Gradient accumulation: backward adds to the gradients and only lk_step zeroes them, so K micro-batches with the
 * mean loss divided by K before backward are one step over their union. */
#ifndef LORIKEET_OPTIM_H
#define LORIKEET_OPTIM_H
#include <lorikeet/param.h>
#include <math.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LK_OPTIM_STATES 6 /* state tensors of a parameter, at most */
#define LK_OPTIM_OWN 8

/* Begin with lk_optim_defaults; a field that the class does not know must stay 0. */
typedef struct lk_optim_options {
  double lr;                /* learning rate */
  double weight_decay;      /* sgd, adam: added to the gradient (L2); adamw: decoupled */
  double momentum;          /* sgd */
  double beta1, beta2;      /* adam, adamw: decay of the first and second moment */
  double eps;               /* adam, adamw: added to the root of the second moment */
  double clip_norm;         /* largest norm of all gradients together; 0: no clipping */
  int nesterov;             /* sgd with momentum */
  int skip_without_grad;    /* 1: a parameter that no backward reached is left alone, as in PyTorch;
                            0: it is stepped with a zero gradient (decay and momentum go on) */
  int skip_until_reached;   /* 1, instead of that: a parameter is left alone until a backward has reached it once, then
                            always stepped, as in PyTorch when gradients are zeroed and not dropped */
  double own[LK_OPTIM_OWN]; /* options of other classes, named in their tables */
} lk_optim_options;

typedef enum lk_optim_type { LK_OPTIM_REAL, LK_OPTIM_FLAG } lk_optim_type; /* double; int, 0 or 1 */

/* One line of a class's option table: range errors, defaults and help are made from it. */
typedef struct lk_optim_option {
  const char *key;
  lk_optim_type type;
  size_t offset;     /* in lk_optim_options */
  double value;      /* default */
  double low, below; /* low <= value < below */
  const char *help;
} lk_optim_option;

/* Lines of an option table; LK_OPTIM_COMMON are those that lk_step understands for every class. */
#define LK_OPTIM_OPTION(field, value, low, below, help)                                                                \
  { #field, LK_OPTIM_REAL, offsetof(lk_optim_options, field), value, low, below, help }
#define LK_OPTIM_SWITCH(field, value, help)                                                                            \
  { #field, LK_OPTIM_FLAG, offsetof(lk_optim_options, field), value, 0, 2, help }
#define LK_OPTIM_COMMON(lr_value, decay_value)                                                                         \
  LK_OPTIM_OPTION(lr, lr_value, 0, HUGE_VAL, "learning rate"),                                                         \
      LK_OPTIM_OPTION(weight_decay, decay_value, 0, HUGE_VAL, "weight decay"),                                         \
      LK_OPTIM_OPTION(clip_norm, 0, 0, HUGE_VAL, "largest norm of all gradients together; 0: no clipping"),            \
      LK_OPTIM_SWITCH(skip_without_grad, 1, "leave parameters alone that got no gradient"),                            \
      LK_OPTIM_SWITCH(skip_until_reached, 0, "leave parameters alone that never got a gradient")

/* What update receives for each parameter of this step. */
typedef struct lk_update {
  const lk_optim_options *options;
  lk_param *param;
  int64_t n;                    /* elements */
  const void *grad;             /* clipped; zeros for a parameter without gradient */
  void *state[LK_OPTIM_STATES]; /* in the class's order; NULL for one that is left out */
  int64_t step;                 /* of this parameter, this one included: 1, 2, ... */
  double lr, weight_decay;      /* with the factors of its group */
  int threads;
} lk_update;

typedef struct lk_optim_class {
  const char *name, *summary;
  const char *cite;                   /* NULL: folklore */
  const char *state[LK_OPTIM_STATES]; /* PyTorch's names, "exp_avg"; NULL ends */
  const lk_optim_option *options;     /* ended by {0} */
  /* What is wrong with options that are each in range, as a sentence; NULL: nothing.  May be NULL. */
  const char *(*refuse)(const lk_optim_options *options);
  /* Shape of state tensor i of p: v comes in with p's shape and dtype; 0: leave it out.  NULL: all, in p's shape. */
  int (*shape)(const lk_optim_options *options, const lk_param *p, int i, lk_view *v);
  /* Steps u[0 .. n - 1], the parameters that are stepped now; non-zero after lk_fail.  Must not allocate. */
  int (*update)(lk_ctx *ctx, const lk_update *u, int n);
} lk_optim_class;

/* theta -= lr d, with g the gradient + weight_decay theta: d = g, or with momentum buf = momentum buf + g and d = buf
 * (nesterov: g + momentum buf).  torch.optim.SGD, dampening 0; Sutskever et al., ICML 2013. */
LK_API extern const lk_optim_class lk_optim_sgd;
/* Kingma and Ba, "Adam", ICLR 2015, algorithm 1; weight decay is added to the gradient.  torch.optim.Adam. */
LK_API extern const lk_optim_class lk_optim_adam;
/* Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019: theta *= 1 - lr weight_decay, then Adam.
 * torch.optim.AdamW. */
LK_API extern const lk_optim_class lk_optim_adamw;

/* A built-in class by name ("adamw"); NULL if there is none. */
LK_API const lk_optim_class *lk_optim_find(const char *name);
/* All built-in classes, ended by NULL. */
LK_API const lk_optim_class *const *lk_optim_classes(void);
/* The options of a class at their defaults (all zero for NULL). */
LK_API lk_optim_options lk_optim_defaults(const lk_optim_class *cls);

typedef struct lk_optim lk_optim;

/* An optimiser over those of params[0 .. n - 1] that are LK_TRAINED and require a gradient now; a tied parameter
 * counts once, as the one that owns the memory.  options NULL: the defaults.  All state is allocated here, zero, in the
 * parameter's dtype, so that a step allocates nothing (except, once, the gradients that are missing when
 * skip_without_grad is 0); mapped parameters get memory of their own.
 * The parameters stay the caller's and must live until lk_optim_free; the array itself is not kept.
 * NULL on error: LK_ENOGRAD nothing trainable, LK_EARG an option, LK_EDTYPE neither f32 nor f64, LK_ENOMEM. */
LK_API lk_optim *lk_optim_new(lk_ctx *ctx, const lk_optim_class *cls, const lk_optim_options *options,
                              lk_param *const *params, int n);
LK_API void lk_optim_free(lk_optim *opt); /* does not touch the parameters */

/* Parameters whose full name matches the shell pattern (fnmatch: * also matches dots) learn with rate times lr and
 * decay times weight_decay.  A later group replaces the factors of an earlier one.  LK_EARG if nothing matches. */
LK_API lk_status lk_optim_group(lk_optim *opt, const char *pattern, double rate, double decay);
/* LoRA+ (Hayou et al., ICML 2024; groups of PEFT's create_loraplus_optimizer), for every parameter by its name:
 * lora_embedding_A and _B learn with embedding_lr (PEFT: 1e-6), lora_B and everything 1-d with ratio lr, the rest with
 * lr.  No decay for biases and 1-d norm parameters.  embedding_lr is relative to options.lr and so follows the
 * schedule.  LK_EARG: ratio below 1, or options.lr 0. */
LK_API lk_status lk_optim_loraplus(lk_optim *opt, double ratio, double embedding_lr);

/* One step: check that every gradient is finite; clip; before(); update; after(); zero the gradients.  A parameter
 * that is frozen or retired meanwhile is left alone.  LK_ENONFINITE names the first bad tensor, LK_ENOGRAD says that
 * there was no backward: then neither parameters nor state nor gradients have changed, and after lk_error_clear and
 * lk_optim_zero_grad training can go on without this batch. */
LK_API lk_status lk_step(lk_optim *opt);
LK_API void lk_optim_zero_grad(lk_optim *opt);
/* Has lk_step call before(arg) between clipping and update and after(arg) after the update; either may be NULL,
 * several hooks run in order of registration.  Non-zero ends the step with an error; when after refuses, the update has
 * been made. */
LK_API lk_status lk_optim_on_step(lk_optim *opt, int (*before)(void *), int (*after)(void *), void *arg);

LK_API double lk_grad_norm(const lk_optim *opt);         /* of the last step's gradients, before clipping */
LK_API int64_t lk_optim_step_count(const lk_optim *opt); /* successful lk_steps, including those before a resume */
LK_API double lk_optim_lr(const lk_optim *opt);          /* options.lr until the first lk_optim_set_lr */
LK_API lk_status lk_optim_set_lr(lk_optim *opt, double lr);

/* One tensor to save and restore; names are "<parameter>.exp_avg", "<parameter>.step" and "step". */
typedef struct lk_optim_state {
  char *name;
  lk_view view; /* the optimiser's own memory: write to it to restore */
} lk_optim_state;

/* Everything that the next step depends on besides parameters, options, groups and learning rate.  i in [0, count). */
LK_API int lk_optim_state_count(const lk_optim *opt);
LK_API const lk_optim_state *lk_optim_state_at(const lk_optim *opt, int i);

/* ---- schedules ---- */
typedef enum lk_schedule_kind { LK_SCHEDULE_CONSTANT, LK_SCHEDULE_LINEAR, LK_SCHEDULE_COSINE } lk_schedule_kind;

typedef struct lk_schedule {
  lk_schedule_kind kind;
  double lr;             /* after warm-up */
  int64_t warmup, total; /* steps; total counts the warm-up */
  double final_fraction; /* of lr that linear and cosine end at */
} lk_schedule;

/* Learning rate of step 0, 1, ...: linear from 0 (at step 0) to lr (at step warmup), then constant, or down to
 * final_fraction lr at step total along a line or half a cosine, and there it stays.  transformers'
 * get_{constant,linear,cosine}_schedule_with_warmup up to step total. */
LK_API double lk_schedule_lr(const lk_schedule *schedule, int64_t step);
/* "constant", "linear" or "cosine" to its kind; -1 for another name. */
LK_API int lk_schedule_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
