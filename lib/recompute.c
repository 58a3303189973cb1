/* recompute.c: scopes that keep nothing inside and are run again in backward; values of cheap ops, alike.
 *
 * Inside such a scope whatever is used from outside is pinned.  At its end: mark backwards what a replay must make
 * again, and unpin what that does not need.  In backward: run the marked nodes, each value freed after its last
 * reader. */
#include "internal.h"

#include <assert.h>

/* ---- scopes ---- */

static int inside(lk_tape *t, const lk_scope *s, uint32_t id) { return t->nodes[id].root >= s->first; }

/* Nodes that a replay runs: they have a forward and their memory is wanted again. */
static int runs_again(lk_tape *t, uint32_t id) {
  const lk_node *n = &t->nodes[id];
  return !n->leaf && n->op->fwd && lk_root(t, id)->redo & REDO_ROOT;
}

static int mark(lk_node *root) {
  if (root->redo & REDO_ROOT) return 0;
  root->redo |= REDO_ROOT;
  return 1;
}

/* One sweep from the end: what a marked node reads is marked too.  Returns whether another sweep is needed,
 * which only happens where something was changed in place. */
static int mark_inputs(lk_tape *t, const lk_scope *s) {
  int again = 0;
  for (uint32_t id = s->last; id-- > s->first;) {
    const lk_node *n = &t->nodes[id];
    lk_node *r = lk_root(t, id);
    if (n->leaf || !n->op->fwd) continue;
    if (n->redo & REDO_SAVED && mark(r)) again = 1;
    if (!(r->redo & REDO_ROOT)) continue;
    for (int i = 0; i < n->nin; i++) {
      lk_node *q = lk_root(t, n->in[i]);
      if (inside(t, s, n->in[i]) && mark(q) && (n->op->flags & LK_OP_INPLACE || q->changes)) again = 1;
    }
  }
  return again;
}

void lk_recompute_close(lk_tape *t, lk_scope *s) {
  for (uint32_t id = s->first; id < s->last; id++) { /* what backward reads */
    const lk_node *n = &t->nodes[id];
    for (int i = 0; i < n->nin; i++)
      if (n->reads & LK_X(i) && inside(t, s, n->in[i])) mark(lk_root(t, n->in[i]));
    if (n->reads & LK_Y) mark(lk_root(t, id));
  }
  while (mark_inputs(t, s)) continue;
  for (uint32_t id = s->first; id < s->last; id++) {
    lk_node *n = &t->nodes[id];
    n->stays = 1; /* what it is made of may go now */
    if (n->redo & REDO_ROOT) n->lock = 1;
    if (lk_is_source(t, id) && !(n->redo & REDO_ROOT)) lk_node_unpin(t, id); /* nobody will need it again */
    for (int i = 0; i < n->nin && n->op->fwd; i++) {                         /* pinned when they were used */
      if (inside(t, s, n->in[i])) continue;
      if (runs_again(t, id)) lk_root(t, n->in[i])->lock = 1;
      else lk_node_unpin(t, n->in[i]);
    }
  }
}

/* Pins every value of the segment for its readers to come: recorded backwards, and forwards of the replay. */
static void pin_readers(lk_tape *t, const lk_scope *s) {
  for (uint32_t id = s->first; id < s->last; id++) {
    const lk_node *n = &t->nodes[id];
    lk_node *r = lk_root(t, id);
    if (n->root == id && r->redo & REDO_ROOT && r->mem && !r->changes) r->redo |= REDO_THERE;
    for (int i = 0; i < n->nin; i++) {
      if (!inside(t, s, n->in[i])) continue;
      if (n->reads & LK_X(i)) lk_node_pin(t, n->in[i]);
      if (runs_again(t, id)) lk_node_pin(t, n->in[i]);
    }
    if (n->reads & LK_Y) lk_node_pin(t, id);
  }
}

static int run(lk_tape *t, uint32_t id) {
  lk_frame f;
  lk_node *r = lk_root(t, id);
  if (!r->mem && !(r->mem = lk_pool_get(&t->pool, r->size))) return -1;
  if (lk_frame_bind(t, id, &f, 0) || lk_frame_versions(t, &f, UINT32_MAX)) {
    lk_scratch_release(t);
    return -1;
  }
  f.dry = !f.c.want; /* as when it ran first: no backward will ask for its saved block */
  for (int i = 0; i < f.c.nin; i++) assert(f.x[i].p);
  t->replayed++;
  return lk_frame_forward(t, &f);
}

lk_status lk_recompute_replay(lk_tape *t, lk_scope *s) {
  pin_readers(t, s);
  for (uint32_t id = s->first; id < s->last; id++) {
    const lk_node *n = &t->nodes[id];
    lk_node *r = lk_root(t, id);
    if (lk_is_source(t, id) && n->redo & REDO_ROOT) lk_node_unpin(t, id); /* its readers have pinned it */
    if (!runs_again(t, id)) continue;
    if ((!(r->redo & REDO_THERE) || n->redo & REDO_SAVED) && run(t, id)) return lk_error(t->ctx, NULL);
    for (int i = 0; i < n->nin; i++) lk_node_unpin(t, n->in[i]);
    lk_node_settle(t, r); /* made only for its own saved block */
  }
  s->flags &= ~LK_SCOPE_RECOMPUTE;
  return LK_OK;
}

/* ---- single values of cheap ops ---- */

enum { LEAST = 1 << 16 }; /* bytes below which letting go is not worth the while; not so in checks */

int lk_can_remake(lk_tape *t, const lk_node *r) {
  if (!(r->op->flags & LK_OP_CHEAP) || r->size < (t->pool.poison ? 1 : LEAST)) return 0;
  if (!r->want || r->done || r->stays || r->changes) return 0;
  for (int i = 0; i < r->nin; i++) { /* what it is made of stays, for its own backward */
    const lk_node *q = lk_root(t, r->in[i]);
    if (!q->leaf && (!(r->reads & LK_X(i)) || q->op->flags & LK_OP_CHEAP)) return 0;
  }
  return 1;
}

static int remake(lk_tape *t, uint32_t id) {
  lk_node *n = &t->nodes[id];
  assert(!n->done);
  n->stays = 1;
  uint32_t where = t->where;
  lk_frame f;
  if (!(n->mem = lk_pool_get(&t->pool, n->size))) return -1;
  if (lk_frame_bind(t, id, &f, 0) || lk_frame_versions(t, &f, UINT32_MAX)) return -1;
  f.dry = 1; /* its saved block is there */
  int bad = lk_frame_forward(t, &f);
  t->where = where;
  return bad;
}

int lk_remake(lk_tape *t, const lk_node *reader, uint32_t reads) {
  for (int i = 0; i <= reader->nin; i++) {
    uint32_t id = i < reader->nin ? t->nodes[reader->in[i]].root : reader->root;
    const lk_node *r = &t->nodes[id];
    if (!(reads & (i < reader->nin ? LK_X(i) : LK_Y))) continue;
    if (!r->mem && r->size && r->op->flags & LK_OP_CHEAP && remake(t, id)) return -1;
  }
  return 0;
}
