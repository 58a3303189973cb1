/* backward.c: reverse mode: walks the nodes from the loss down, each gradient freed when it is consumed. */
#include "internal.h"

#include <string.h>

/* The gradient window of a node, its root's buffer made if needed.  *fresh: made now, not cleared, and the
 * node covers it; otherwise it holds zeros or what was added so far. */
static int gradient(lk_tape *t, uint32_t id, int may_be_fresh, lk_view *g, int *fresh) {
  const lk_node *n = &t->nodes[id];
  lk_node *r = lk_root(t, id);
  int made = 0;
  *fresh = 0;
  if (!r->grad) {
    r->grad = lk_pool_get(&t->pool, r->size);
    if (!r->grad) return -1;
    made = 1;
  } else if (r->param && !r->param->has_grad) {
    made = 1; /* what a previous step left is void */
  }
  if (r->param) r->param->has_grad = 1;
  *fresh = made && may_be_fresh && n->root == id;
  if (made && !*fresh) memset(r->grad, 0, r->size);
  *g = n->v;
  g->p = r->grad + n->off;
  return 0;
}

static void drop_gradient(lk_tape *t, lk_node *root) {
  if (root->leaf || !root->grad) return;
  lk_pool_put(&t->pool, root->grad, root->size);
  root->grad = NULL;
}

/* Does any other wanted input share input i's root?  Then writing instead of adding would lose one. */
static int shared(lk_tape *t, const lk_node *n, int i) {
  for (int k = 0; k < n->nin; k++)
    if (k != i && n->want & LK_X(k) && t->nodes[n->in[k]].root == t->nodes[n->in[i]].root) return 1;
  return 0;
}

/* Where input i's gradient goes, as the op wants it. */
static int bind_gradient(lk_tape *t, lk_frame *f, const lk_node *n, int i) {
  int fresh, flags = n->op->flags;
  lk_view *g = &f->gx[i];
  if (!(n->want & LK_X(i))) {
    *g = f->x[i];
    g->p = NULL;
    return 0;
  }
  const lk_view *x = &t->nodes[n->in[i]].v;
  int spread = flags & LK_OP_ELEMENTWISE && !lk_view_same_shape(x, &n->v);
  int packed = flags & LK_OP_PACKED && !lk_view_contiguous(x);
  int may_be_fresh = flags & LK_OP_FRESH && !spread && !packed && !shared(t, n, i);
  if (gradient(t, n->in[i], may_be_fresh, g, &fresh)) return -1;
  if (fresh) f->c.fresh |= LK_X(i);
  if (spread) lk_view_expand(g, &n->v);
  if (!packed) return 0;
  f->window[i] = *g;
  f->added |= LK_X(i);
  lk_view_init(g, g->dtype, g->ndim, g->shape);
  g->p = lk_scratch(&f->c, lk_view_bytes(g));
  if (g->p) memset(g->p, 0, lk_view_bytes(g));
  return g->p ? 0 : -1;
}

static lk_status check_versions(lk_tape *t, lk_frame *f, const lk_node *n) {
  for (int i = 0; i < n->nin; i++) {
    const lk_node *r = lk_root(t, n->in[i]);
    if (n->reads & LK_X(i) && r->param_seen && r->param_version != r->param->version)
      return (lk_status)lk_op_fail(&f->c, LK_EARG, "x%d, parameter %s, was changed between forward and backward", i,
                                   r->param->name);
  }
  return LK_OK;
}

static lk_status step_back(lk_tape *t, uint32_t id) {
  lk_frame f;
  lk_node *n = &t->nodes[id];
  char text[600];
  if (n->done) {
    lk_node_describe(t, id, text, sizeof text);
    return lk_fail(t->ctx, LK_EARG, "backward: went through %s before; add the losses, or go forward again", text);
  }
  if (lk_frame_bind(t, id, &f, 1) || check_versions(t, &f, n)) goto fail;
  f.c.fresh = 0;
  for (int i = 0; i < n->nin; i++)
    if (bind_gradient(t, &f, n, i)) goto fail;
  f.gy = n->v;
  f.gy.p = lk_root(t, id)->grad + n->off;
  if (n->op->flags & LK_OP_PACKED && !lk_view_contiguous(&f.gy)) {
    lk_view packed;
    lk_view_init(&packed, f.gy.dtype, f.gy.ndim, f.gy.shape);
    if (!(packed.p = lk_scratch(&f.c, lk_view_bytes(&packed)))) goto fail;
    lk_view_copy(&packed, &f.gy);
    f.gy = packed;
  }
  if (n->op->bwd(&f.c) || t->ctx->status) goto fail;
  for (int i = 0; i < n->nin; i++)
    if (f.added & LK_X(i)) lk_view_add(&f.window[i], &f.gx[i], 1);
  lk_scratch_release(t);
  n->done = 1;
  for (int i = 0; i < n->nin; i++)
    if (n->reads & LK_X(i)) lk_node_unpin(t, n->in[i]);
  if (n->reads & LK_Y) lk_node_unpin(t, id);
  if (n->saved) lk_pool_put(&t->pool, n->saved, n->saved_size);
  n->saved = NULL;
  return LK_OK;
fail:
  lk_scratch_release(t);
  return lk_error(t->ctx, NULL);
}

/* Replays recomputed scope s if a gradient arrived inside. */
static lk_status replay_if_reached(lk_tape *t, lk_scope *s) {
  for (uint32_t id = s->first; id < s->last; id++)
    if (!t->nodes[id].leaf && t->nodes[id].grad) return lk_recompute_replay(t, s);
  return LK_OK;
}

static lk_status sweep(lk_tape *t, uint32_t from) {
  size_t sc = t->nscope;
  for (uint32_t id = from; id > 0; id--) {
    while (sc > 2 && (!(t->scopes[sc - 1].flags & LK_SCOPE_RECOMPUTE) || t->scopes[sc - 1].last > id + 1)) sc--;
    if (sc > 2 && t->scopes[sc - 1].last == id + 1 && replay_if_reached(t, &t->scopes[sc - 1]))
      return lk_error(t->ctx, NULL);
    lk_node *n = &t->nodes[id], *r = lk_root(t, id);
    if (n->leaf || !r->grad) continue;
    if (n->want && n->op->bwd && step_back(t, id)) return lk_error(t->ctx, NULL);
    if (n->want && !n->op->bwd && !(n->op->flags & LK_OP_VIEW))
      return lk_fail(t->ctx, LK_ENOGRAD, "backward: %s has no backward", n->op->name);
    if (n->root == id) drop_gradient(t, r);
  }
  t->where = t->cur;
  return lk_error(t->ctx, NULL);
}

/* Where the sweep begins: at the value, or at the end of the recomputed scope that it came from. */
static uint32_t start_of(lk_tape *t, uint32_t id) {
  for (size_t s = 2; s < t->nscope; s++) {
    const lk_scope *sc = &t->scopes[s];
    if (sc->flags & LK_SCOPE_RECOMPUTE && sc->first <= id && id < sc->last) return sc->last - 1;
  }
  return id;
}

lk_status lk_backward_from(lk_tape *t, lk_tensor y, const void *gy) {
  if (!t) return LK_ENIL;
  lk_node *n = t->ctx->status ? NULL : lk_node_get(t, y, "backward", 0);
  if (!n) return lk_error(t->ctx, NULL);
  const lk_scope *redo = lk_recompute_scope(t);
  if (redo) return lk_fail(t->ctx, LK_EARG, "backward: inside the open recomputed scope '%s'", redo->name);
  if (!n->needs) return lk_fail(t->ctx, LK_ENOGRAD, "backward: no trainable value leads here");
  int fresh;
  lk_view g, from;
  if (gradient(t, y.id, 0, &g, &fresh)) return lk_error(t->ctx, NULL);
  lk_view_init(&from, g.dtype, g.ndim, g.shape);
  memcpy(&from.p, &gy, sizeof gy); /* only read */
  lk_view_add(&g, &from, 1);
  return sweep(t, start_of(t, y.id));
}

lk_status lk_backward(lk_tape *t, lk_tensor loss) {
  static const double one = 1;
  static const float onef = 1;
  char shape[160];
  if (!t) return LK_ENIL;
  lk_node *n = t->ctx->status ? NULL : lk_node_get(t, loss, "backward", 0);
  if (!n) return lk_error(t->ctx, NULL);
  if (lk_view_count(&n->v) != 1)
    return lk_fail(t->ctx, LK_ESHAPE, "backward: the loss has shape %s, not one element", lk_view_format(&n->v, shape));
  return lk_backward_from(t, loss, n->v.dtype == LK_F64 ? (const void *)&one : (const void *)&onef);
}
