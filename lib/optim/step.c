/* step.c: one step of an optimiser: check, clip, update, zero. */
#include "optim/optim.h"

#include <string.h>

/* The gradient of a parameter that no backward reached; what its buffer holds is of an earlier step. */
static int zero_gradient(lk_param *p) {
  size_t bytes = lk_view_bytes(&p->value);
  if (!p->grad) p->grad = lk_alloc(p->ctx, bytes);
  else memset(p->grad, 0, bytes);
  return p->grad ? 0 : -1;
}

/* Whether the memory is still what state was made for. */
static lk_status check_memory(lk_optim *o, const lk_slot *s) {
  const lk_param *p = s->param;
  if (!p->value.p || !p->owned) return lk_fail(o->ctx, LK_EARG, "step: parameter %s has no memory of its own", p->name);
  if (lk_param_count(p) != s->n || p->value.dtype != s->dtype)
    return lk_fail(o->ctx, LK_ESHAPE, "step: parameter %s had %lld elements of %s when the optimiser was made", p->name,
                   (long long)s->n, lk_dtype_name(s->dtype));
  return LK_OK;
}

/* Who is stepped: o->updates; their number, -1 on error. */
static int collect(lk_optim *o) {
  int n = 0;
  for (int i = 0; i < o->n; i++) {
    lk_slot *s = &o->slots[i];
    lk_param *p = s->param;
    int reached = p->has_grad && p->grad;
    int skips = o->options.skip_until_reached ? s->step == 0 : o->options.skip_without_grad;
    if (p->kind != LK_TRAINED || !p->requires_grad || (!reached && skips)) continue;
    if (check_memory(o, s) || (!reached && zero_gradient(p))) return -1;
    lk_update *u = &o->updates[n++];
    *u = (lk_update){&o->options, p, s->n, p->grad, .step = s->step + 1, .threads = lk_threads(o->ctx)};
    u->lr = o->lr * s->rate;
    u->weight_decay = o->options.weight_decay * s->decay;
    memcpy(u->state, s->state, sizeof u->state);
  }
  if (n > 0) return n;
  lk_fail(o->ctx, LK_ENOGRAD, "step: none of the %d parameters has a gradient: no backward, or all frozen", o->n);
  return -1;
}

static lk_status run_hooks(lk_optim *o, int after) {
  for (size_t i = 0; i < o->nhooks; i++) {
    const lk_optim_hook *h = &o->hooks[i];
    int (*call)(void *) = after ? h->after : h->before;
    if (call && call(h->arg)) return lk_fail(o->ctx, LK_EARG, "step: the %s hook refused", after ? "after" : "before");
  }
  return lk_error(o->ctx, NULL);
}

/* The class's update, then what follows for each parameter that was written. */
static lk_status update(lk_optim *o, int n) {
  if (o->cls->update(o->ctx, o->updates, n))
    return lk_fail(o->ctx, LK_EARG, "step: %s refused its update", o->cls->name);
  lk_slot *s = o->slots;
  for (int i = 0; i < n; i++, s++) {
    while (s->param != o->updates[i].param) s++;
    s->step = o->updates[i].step;
    lk_param_touch(s->param);
  }
  o->steps++;
  return LK_OK;
}

lk_status lk_step(lk_optim *o) {
  if (!o) return LK_ENIL;
  lk_status status = lk_error(o->ctx, NULL);
  if (status) return status;
  int n = collect(o);
  if (n < 0 || lk_optim_norm(o, n)) return lk_error(o->ctx, NULL);
  double coefficient = o->options.clip_norm / (o->norm + 1e-6); /* torch.nn.utils.clip_grad_norm_ */
  if (o->options.clip_norm > 0 && coefficient < 1) lk_optim_scale(o, n, coefficient);
  if (run_hooks(o, 0) || update(o, n) || run_hooks(o, 1)) return lk_error(o->ctx, NULL);
  lk_optim_zero_grad(o);
  return LK_OK;
}

void lk_optim_zero_grad(lk_optim *o) {
  for (int i = 0; i < o->n; i++) lk_param_zero_grad(o->slots[i].param);
}

lk_status lk_optim_on_step(lk_optim *o, int (*before)(void *), int (*after)(void *), void *arg) {
  if (!o) return LK_ENIL;
  if (lk_grow(o->ctx, &o->hooks, &o->hook_capacity, o->nhooks + 1, sizeof *o->hooks)) return lk_error(o->ctx, NULL);
  o->hooks[o->nhooks++] = (lk_optim_hook){before, after, arg};
  return lk_error(o->ctx, NULL);
}

double lk_grad_norm(const lk_optim *o) { return o->norm; }

int64_t lk_optim_step_count(const lk_optim *o) { return o->steps; }

double lk_optim_lr(const lk_optim *o) { return o->lr; }

lk_status lk_optim_set_lr(lk_optim *o, double lr) {
  if (!o) return LK_ENIL;
  if (!(lr >= 0 && isfinite(lr))) return lk_fail(o->ctx, LK_EARG, "set_lr: %g is not a learning rate", lr);
  o->lr = lr;
  return lk_error(o->ctx, NULL);
}
