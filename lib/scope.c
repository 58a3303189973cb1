/* scope.c: scopes: who can see a value, and what is forgotten when nobody can. */
#include "internal.h"

int lk_scopes_reset(lk_tape *t) {
  size_t before = t->scope_capacity;
  if (lk_grow(t->ctx, &t->scopes, &t->scope_capacity, 32, sizeof *t->scopes)) return -1;
  t->pool.allocations += t->scope_capacity != before;
  t->scopes[1] = (lk_scope){.name = "step", .first = 1, .open = 1, .path = 1};
  t->nscope = 2;
  t->cur = t->where = 1;
  return 0;
}

lk_scope *lk_recompute_scope(lk_tape *t) {
  for (uint32_t s = t->cur; s; s = t->scopes[s].parent)
    if (t->scopes[s].flags & LK_SCOPE_RECOMPUTE) return &t->scopes[s];
  return NULL;
}

uint32_t lk_scope_begin(lk_tape *t, const char *name, int flags) {
  size_t before = t ? t->scope_capacity : 0;
  if (!t || lk_grow(t->ctx, &t->scopes, &t->scope_capacity, t->nscope + 1, sizeof *t->scopes)) return 0;
  t->pool.allocations += t->scope_capacity != before;
  if (t->no_grad || lk_recompute_scope(t)) flags &= ~LK_SCOPE_RECOMPUTE; /* nested recomputation is flattened */
  uint64_t path = lk_hash(t->scopes[t->cur].path, name);
  t->scopes[t->nscope] = (lk_scope){.name = name,
                                    .parent = t->cur,
                                    .first = (uint32_t)t->n,
                                    .flags = flags,
                                    .open = 1,
                                    .no_grad = t->no_grad,
                                    .path = path + lk_tape_count(t, path),
                                    .record_span = t->nrecord,
                                    .record_used = t->record_used};
  t->cur = t->where = (uint32_t)t->nscope++;
  return t->cur;
}

/* Takes nodes >= first out of a scope's list of owned values. */
static void unlist(lk_tape *t, uint32_t scope, uint32_t first) {
  for (uint32_t *p = &t->scopes[scope].head; *p;) {
    if (*p >= first) *p = t->nodes[*p].next;
    else p = &t->nodes[*p].next;
  }
}

/* Is node id one of the results, or the root of one? */
static int is_result(lk_tape *t, uint32_t id, int n, const lk_tensor *results) {
  for (int i = 0; i < n; i++)
    if (results[i].id == id || t->nodes[results[i].id].root == id) return 1;
  return 0;
}

/* The nodes of s that must stay, in order; -1 when the scope's records are still needed. */
static int survivors(lk_tape *t, const lk_scope *s, int n, const lk_tensor *results, uint32_t *keep) {
  int k = 0;
  for (uint32_t id = s->first; id < t->n; id++) {
    const lk_node *q = &t->nodes[id];
    int result = is_result(t, id, n, results);
    if (q->needs || (q->owner && !result)) return -1;
    if (result && k == 2 * LK_MAX_RESULTS) return -1;
    if (result) keep[k++] = id;
  }
  return k;
}

/* Without gradients nobody needs the records of a closed scope: its results move down, the rest is
 * forgotten, so that generation loops do not grow the tape. */
static void truncate_scope(lk_tape *t, lk_scope *s, int n, lk_tensor *results) {
  uint32_t keep[2 * LK_MAX_RESULTS], first = s->first, to = first;
  int k = survivors(t, s, n, results, keep);
  if (k < 0) return;
  unlist(t, s->parent, first);
  for (int j = 0; j < k; j++, to++) {
    lk_node *q = &t->nodes[to];
    *q = t->nodes[keep[j]];
    for (int i = 0; i <= j; i++)
      if (q->root == keep[i]) q->root = first + (uint32_t)i;
    q->op = &lk_value_op;
    q->nin = 0;
    q->in = NULL;
    q->attr = NULL;
    if (q->owner) {
      q->next = t->scopes[q->owner].head;
      t->scopes[q->owner].head = to;
    }
    for (int i = 0; i < n; i++)
      if (results[i].gen == q->generation) results[i].id = to;
  }
  for (uint32_t id = to; id < t->n; id++) t->nodes[id].generation = 0;
  t->n = s->last = to;
  if (s->record_span == t->nrecord) t->record_used = s->record_used;
}

/* Closes what was left open inside; 0 if sc is not open at all. */
static int close_inner(lk_tape *t, uint32_t sc) {
  if (sc == 0 || sc >= t->nscope || !t->scopes[sc].open || sc == 1) {
    lk_fail(t->ctx, LK_EARG, "scope_end without its scope_begin");
    return 0;
  }
  if (sc != t->cur)
    lk_fail(t->ctx, LK_EARG, "scope '%s' was left open inside '%s'", t->scopes[t->cur].name, t->scopes[sc].name);
  while (t->cur != sc) {
    t->scopes[t->cur].open = 0;
    t->cur = t->scopes[t->cur].parent;
  }
  return 1;
}

/* Results go to the parent, every other value loses its owner. */
static void hand_over(lk_tape *t, lk_scope *s, uint32_t sc, int n, const lk_tensor *results) {
  for (uint32_t id = s->head, next; id; id = next) {
    int result = 0;
    next = t->nodes[id].next;
    if (t->nodes[id].owner != sc) continue; /* dropped, or kept elsewhere */
    for (int i = 0; i < n; i++) result |= results[i].id == id;
    lk_node_own(t, id, result ? s->parent : 0);
  }
  s->head = 0;
}

lk_status lk_scope_end_n(lk_tape *t, uint32_t sc, int n, lk_tensor *results) {
  if (!t) return LK_ENIL;
  int bad = n > LK_MAX_RESULTS || !close_inner(t, sc);
  if (n > LK_MAX_RESULTS) lk_fail(t->ctx, LK_EARG, "scope_end: %d results, at most %d", n, LK_MAX_RESULTS);
  lk_scope *s = bad ? NULL : &t->scopes[sc];
  for (int i = 0; i < n && !bad && !t->ctx->status; i++) bad = !lk_node_get(t, results[i], s->name, i);
  if (s) {
    s->last = (uint32_t)t->n;
    s->open = 0;
    t->cur = t->where = s->parent;
  }
  if (bad || t->ctx->status) {
    for (int i = 0; i < n; i++) results[i] = lk_nil();
    return lk_error(t->ctx, NULL);
  }
  if (s->flags & LK_SCOPE_RECOMPUTE) lk_recompute_close(t, s);
  hand_over(t, s, sc, n, results);
  if (t->no_grad && s->no_grad) {
    truncate_scope(t, s, n, results);
    if (sc + 1 == t->nscope) t->nscope--;
  }
  return LK_OK;
}

lk_tensor lk_scope_end(lk_tape *t, uint32_t scope, lk_tensor result) {
  lk_scope_end_n(t, scope, 1, &result);
  return t ? result : lk_nil();
}

void lk_drop(lk_tape *t, lk_tensor x) {
  if (t && !t->ctx->status && lk_node_get(t, x, "drop", 0)) lk_node_own(t, x.id, 0);
}

void lk_keep(lk_tape *t, lk_tensor x) {
  if (!t || t->ctx->status || !lk_node_get(t, x, "keep", 0) || t->nodes[x.id].owner == 1) return;
  uint32_t *p = &t->scopes[t->nodes[x.id].owner].head;
  while (*p != x.id) p = &t->nodes[*p].next;
  *p = t->nodes[x.id].next;
  lk_node_own(t, x.id, 1);
}
