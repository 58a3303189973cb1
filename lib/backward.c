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

/* Does any other wanted input share input i's gradient?  Then writing instead of adding would lose one. */
static int shared(lk_tape *t, const lk_node *n, int i) {
  const lk_node *r = lk_root(t, n->in[i]);
  for (int k = 0; k < n->nin; k++) {
    const lk_node *q = lk_root(t, n->in[k]);
    if (k != i && n->want & LK_X(k) && (q == r || (q->grad && q->grad == r->grad))) return 1;
  }
  return 0;
}

/* An input whose gradient begins here can take gy's memory: nobody will read gy after this op. */
static void take_result(lk_tape *t, lk_frame *f, const lk_node *n) {
  lk_node *x = &t->nodes[n->in[0]], *y = &t->nodes[f->id];
  if (!(n->op->flags & LK_OP_REUSE) || t->pool.naive || n->root != f->id) return;
  if (x->root != n->in[0] || x->leaf || x->grad || x->size != y->size) return;
  x->grad = y->grad;
  f->taken = 1;
}

/* Where input i's gradient goes, as the op wants it. */
static int bind_gradient(lk_tape *t, lk_frame *f, const lk_node *n, int i) {
  int fresh, flags = n->op->flags, spread = (f->spread & LK_X(i)) != 0;
  lk_view *g = &f->gx[i];
  if (!(n->want & LK_X(i))) {
    *g = f->x[i];
    g->p = NULL;
    return 0;
  }
  int packed = flags & LK_OP_PACKED && !lk_view_contiguous(&t->nodes[n->in[i]].v);
  int may_be_fresh = flags & LK_OP_FRESH && !spread && !packed && !shared(t, n, i);
  if (i == 0 && may_be_fresh) take_result(t, f, n);
  if (gradient(t, n->in[i], may_be_fresh, g, &fresh)) return -1;
  if (fresh || (i == 0 && f->taken)) f->c.fresh |= LK_X(i);
  if (spread) lk_view_expand(g, &n->v);
  if (!packed) return 0;
  f->window[i] = *g;
  f->added |= LK_X(i);
  lk_view_init(g, g->dtype, g->ndim, g->shape);
  g->p = lk_scratch(&f->c, lk_view_bytes(g));
  if (g->p) memset(g->p, 0, lk_view_bytes(g));
  return g->p ? 0 : -1;
}

/* The gradient of the result, as the op wants it. */
static int bind_result(lk_tape *t, lk_frame *f, const lk_node *n) {
  f->gy = n->v;
  f->gy.p = t->nodes[n->root].grad + n->off;
  if (!(n->op->flags & LK_OP_PACKED) || lk_view_contiguous(&f->gy)) return 0;
  lk_view packed;
  lk_view_init(&packed, f->gy.dtype, f->gy.ndim, f->gy.shape);
  if (!(packed.p = lk_scratch(&f->c, lk_view_bytes(&packed)))) return -1;
  lk_view_copy(&packed, &f->gy);
  f->gy = packed;
  return 0;
}

static int call_backward(lk_tape *t, lk_frame *f, const lk_node *n) {
  if (lk_frame_bind(t, f->id, f, 1) || lk_frame_versions(t, f, n->reads)) return -1;
  for (int i = 0; i < n->nin; i++)
    if (bind_gradient(t, f, n, i)) return -1;
  if (bind_result(t, f, n)) return -1;
  int bad = lk_frame_call(t, f, 1);
  if (bad) return lk_op_fail(&f->c, LK_EARG, "backward failed and did not say why");
  if (t->ctx->status) return -1;
  for (int i = 0; i < n->nin && f->added; i++)
    if (f->added & LK_X(i)) lk_view_add(&f->window[i], &f->gx[i], 1);
  return 0;
}

static lk_status step_back(lk_tape *t, uint32_t id) {
  lk_frame f;
  lk_node *n = &t->nodes[id];
  if (n->done) {
    char text[600];
    lk_node_describe(t, id, text, sizeof text);
    return lk_fail(t->ctx, LK_EARG, "backward: went through %s before; add the losses, or go forward again", text);
  }
  f.id = id;
  f.taken = 0;
  int bad = call_backward(t, &f, n);
  if (f.taken) t->nodes[bad ? n->in[0] : id].grad = NULL; /* one owner, also after an error */
  lk_scratch_release(t);
  if (bad) return lk_error(t->ctx, NULL);
  n->done = 1;
  for (int i = 0; i < n->nin; i++)
    if (n->reads & LK_X(i)) lk_node_unpin(t, n->in[i]);
  if (n->reads & LK_Y) lk_node_unpin(t, id);
  if (n->saved) lk_pool_put(&t->pool, n->saved, n->saved_size);
  n->saved = NULL;
  return LK_OK;
}

/* Replays recomputed scope s if a gradient arrived inside. */
static lk_status replay_if_reached(lk_tape *t, lk_scope *s) {
  for (uint32_t id = s->first; id < s->last; id++)
    if (!t->nodes[id].leaf && t->nodes[id].grad) return lk_recompute_replay(t, s);
  return LK_OK;
}

/* Replays the recomputed scopes that end with node id; *sc - 1 is the last scope not seen yet. */
static lk_status replay_ending_at(lk_tape *t, uint32_t id, size_t *sc) {
  for (; *sc > 2; --*sc) {
    lk_scope *s = &t->scopes[*sc - 1];
    if (!(s->flags & LK_SCOPE_RECOMPUTE) || s->last > id + 1) continue;
    if (s->last <= id) return LK_OK;
    if (replay_if_reached(t, s)) return lk_error(t->ctx, NULL);
  }
  return LK_OK;
}

static lk_status sweep(lk_tape *t, uint32_t from) {
  size_t sc = t->nscope;
  for (uint32_t id = from; id > 0; id--) {
    if (replay_ending_at(t, id, &sc)) return lk_error(t->ctx, NULL);
    lk_node *n = &t->nodes[id], *r = &t->nodes[n->root];
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
  if (t->redo)
    return lk_fail(t->ctx, LK_EARG, "backward: inside the open recomputed scope '%s'", t->scopes[t->redo].name);
  if (!gy) return lk_fail(t->ctx, LK_ENIL, "backward: there is no cotangent");
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

int lk_is_spent(lk_tape *t, lk_tensor x) {
  const lk_node *n = t && !t->ctx->status ? lk_node_get(t, x, "is_spent", 0) : NULL;
  return n && n->done;
}
