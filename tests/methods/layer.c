/* layer.c: one layer made from a golden case: forward, backward, merging. */
#include "golden.h"

#include <stdio.h>
#include <string.h>

/* ---- making it ---- */

static lk_site *make_linear(golden *g, lk_module *root, const lk_view *W, int bias) {
  int flipped = golden_flag(g, "fan_in_fan_out", 0);
  int flags = (flipped ? LK_FAN_IN_FAN_OUT : 0) | (bias ? 0 : LK_NO_BIAS);
  lk_linear_layer *l = lk_linear_new(root, "site", W->shape[!flipped], W->shape[flipped], flags);
  return l ? l->module.site : NULL;
}

static lk_site *make_embedding(lk_module *root, const lk_view *W) {
  lk_embedding_layer *l = lk_embedding_new(root, "site", W->shape[0], W->shape[1]);
  return l ? l->module.site : NULL;
}

static lk_site *make_conv2d(golden *g, lk_module *root, const lk_view *W, int bias) {
  lk_conv2d_options o = {.groups = (int64_t)golden_real(g, "groups", 1)};
  const char *mode = golden_text(g, "padding_mode", "zeros");
  golden_pair(g, "stride", 1, o.stride);
  golden_pair(g, "padding", 0, o.padding);
  golden_pair(g, "dilation", 1, o.dilation);
  if (!strstr(mode, "zeros")) lk_fail(g->ctx, LK_EARG, "unsupported: padding_mode '%s'", mode);
  if (lk_error(g->ctx, NULL)) return NULL;
  lk_conv2d_layer *l =
      lk_conv2d_new(root, "site", W->shape[1] * o.groups, W->shape[0], &W->shape[2], &o, bias ? 0 : LK_NO_BIAS);
  return l ? l->module.site : NULL;
}

int golden_layer_new(golden *g, golden_layer *l, lk_site_kind kind, const golden_name *names) {
  lk_view W, b;
  *l = (golden_layer){.g = g, .names = names, .model = lk_model_new(g->ctx, LK_F64, 0)};
  lk_module *root = lk_model_root(l->model);
  if (!root || !golden_need(g, "W0", &W)) return -1;
  int bias = kind != LK_SITE_EMBEDDING && golden_get(g, "b0", &b);
  if (W.ndim != (kind == LK_SITE_CONV2D ? 4 : 2)) {
    lk_fail(g->ctx, LK_ESHAPE, "unsupported: W0 has %d axes", W.ndim);
    return -1;
  }
  if (kind == LK_SITE_LINEAR) l->site = make_linear(g, root, &W, bias);
  if (kind == LK_SITE_EMBEDDING) l->site = make_embedding(root, &W);
  if (kind == LK_SITE_CONV2D) l->site = make_conv2d(g, root, &W, bias);
  if (!l->site) return -1;
  lk_param_assign(l->site->weight, &W);
  if (bias) lk_param_assign(l->site->bias, &b);
  l->t = lk_tape_new(g->ctx);
  return lk_error(g->ctx, NULL) ? -1 : 0;
}

void golden_layer_free(golden_layer *l) {
  lk_tape_free(l->t);
  lk_model_free(l->model);
}

/* ---- parameters ---- */

static lk_param *find_param(lk_at *at, const char *name) {
  lk_param *found = NULL;
  size_t skip = strlen("site."), n = strlen(name);
  for (; at && !found; at = at->next) {
    for (lk_param *p = at->params; p; p = p->next)
      if (!strncmp(p->name + skip, name, n) && strchr("@", p->name[skip + n])) found = p;
    if (!found) found = find_param(at->inner, name);
  }
  return found;
}

lk_param *golden_param(golden_layer *l, const char *adapter, const char *name) {
  for (lk_site_stack *s = l->site->stacks; s; s = s->next)
    if (!strcmp(s->adapter->name, adapter)) return find_param(s->chain, name);
  return NULL;
}

void golden_assign(golden_layer *l, const char *adapter, const char *prefix) {
  for (const golden_name *n = l->names; n->stored; n++) {
    char name[200];
    lk_view value;
    lk_param *p = golden_param(l, adapter, n->param);
    snprintf(name, sizeof name, "%s%s", prefix, n->stored);
    if (!p || !golden_need(l->g, name, &value)) continue;
    golden_reshape(&value, &p->value);
    lk_param_assign(p, &value);
  }
}

/* ---- forward and backward ---- */

/* An image without a batch axis is a batch of one. */
static void as_batch(const golden_layer *l, lk_view *v) {
  if (l->site->kind != LK_SITE_CONV2D || v->ndim != 3) return;
  const int64_t shape[] = {1, v->shape[0], v->shape[1], v->shape[2]};
  void *p = v->p;
  lk_view_init(v, LK_F64, 4, shape);
  v->p = p;
}

static lk_tensor constant(golden_layer *l, lk_view v, int as_images) {
  if (as_images) as_batch(l, &v);
  return lk_input(l->t, v.dtype, v.ndim, v.shape, v.p);
}

/* The input: indices of an embedding, or a leaf whose gradient goes to *gx, which is the caller's. */
static lk_tensor input(golden_layer *l, lk_view *x, void **gx) {
  golden *g = l->g;
  *gx = NULL;
  if (l->site->kind == LK_SITE_EMBEDDING) {
    if (!golden_get_whole(g, golden_has(g, "ids") ? "ids" : "x", x)) lk_fail(g->ctx, LK_EARG, "the file has no ids");
    return lk_error(g->ctx, NULL) ? lk_nil() : constant(l, *x, 0);
  }
  if (!golden_need(g, "x", x)) return lk_nil();
  as_batch(l, x);
  *gx = lk_alloc(g->ctx, lk_view_bytes(x) + 1);
  return lk_leaf(l->t, x, *gx);
}

/* The recorded draws of a training pass; without them dropout is not repeatable. */
static void recorded_draws(golden_layer *l) {
  golden *g = l->g;
  lk_view keep;
  if (golden_get(g, "expert_keep", &keep)) lk_side(l->t, "site.expert_keep", constant(l, keep, 0));
  if (golden_get(g, "drop_keep", &keep) || golden_get(g, "drop_mask", &keep))
    lk_side(l->t, "site.drop", constant(l, keep, 1));
  else if (golden_real(g, "lora_dropout", 0) > 0 && l->site->kind != LK_SITE_EMBEDDING)
    lk_fail(g->ctx, LK_EARG, "unsupported: lora_dropout = %g without the recorded mask drop_keep",
            golden_real(g, "lora_dropout", 0));
}

static void zero_grads(golden_layer *l) {
  int n;
  lk_param **p = lk_trainable(l->model, &n);
  for (int i = 0; i < n; i++) lk_param_zero_grad(p[i]);
  lk_free(l->g->ctx, p);
}

static void compare_grads(golden_layer *l, const char *grads, const lk_view *x, void *gx) {
  char name[200];
  lk_view v = *x;
  snprintf(name, sizeof name, "%sx", grads);
  v.p = gx;
  if (gx) golden_compare(l->g, name, &v);
  for (const golden_name *n = l->names; n->stored; n++) {
    lk_param *p = golden_param(l, "default", n->param);
    snprintf(name, sizeof name, "%s%s", grads, n->stored);
    if (!p || !golden_has(l->g, name)) continue;
    if (!p->has_grad) {
      lk_fail(l->g->ctx, LK_ENOGRAD, "%s got no gradient", p->name);
      return;
    }
    v = p->value;
    v.p = p->grad;
    golden_compare(l->g, name, &v);
  }
}

void golden_pass(golden_layer *l, int training, const char *y_name, const char *grads) {
  golden *g = l->g;
  lk_view x, y, cotangent;
  void *gx = NULL;
  if (lk_error(g->ctx, NULL) || (!golden_has(g, y_name) && !golden_has_prefix(g, grads))) return;
  lk_tape_reset(l->t);
  if (training) lk_train(l->t, 0, 0);
  if (training) recorded_draws(l);
  lk_tensor out = lk_site_forward(l->site, l->t, input(l, &x, &gx));
  if (!lk_get(l->t, out, &y)) golden_compare(g, y_name, &y);
  if (golden_has_prefix(g, grads) && golden_need(g, "g", &cotangent)) {
    zero_grads(l);
    lk_tensor weighted = lk_mul(l->t, out, constant(l, cotangent, 1));
    if (!lk_backward(l->t, lk_sum(l->t, weighted, 0, NULL, 0))) compare_grads(l, grads, &x, gx);
  }
  lk_free(g->ctx, gx);
}

/* ---- merging ---- */

void golden_merge(golden_layer *l, const char *weight, const char *bias, const char *y_name) {
  golden *g = l->g;
  lk_view x, y;
  void *gx = NULL;
  int wanted = golden_has(g, weight) || (bias && golden_has(g, bias));
  if (lk_error(g->ctx, NULL) || !wanted || lk_merge(l->model, NULL)) return;
  golden_compare(g, weight, &l->site->weight->value);
  if (bias && l->site->bias) golden_compare(g, bias, &l->site->bias->value);
  if (y_name && golden_has(g, y_name)) {
    char label[200];
    snprintf(label, sizeof label, "%s, merged", y_name);
    lk_tape_reset(l->t);
    lk_tensor out = lk_site_forward(l->site, l->t, input(l, &x, &gx));
    if (!lk_get(l->t, out, &y)) golden_compare_as(g, y_name, label, &y, g->tolerance);
    lk_free(g->ctx, gx);
  }
  lk_unmerge(l->model);
}
