/* scope.c: scopes: who can see a value, and what is forgotten when nobody can. */
#include "internal.h"

int lk_scopes_reset(lk_tape *t) {
  if (lk_tape_grow(t, &t->scopes, &t->scope_capacity, 32, sizeof *t->scopes)) return -1;
  if (lk_tape_grow(t, &t->names, &t->name_capacity, 32, sizeof *t->names)) return -1;
  t->scopes[1] = (lk_scope){.name = "step", .first = 1, .open = 1, .path = 1};
  t->nscope = 2;
  t->nname = 1;
  t->cur = t->where = 1;
  t->redo = 0;
  return 0;
}

/* How often this path was opened in scope s before; there is room for one name more. */
static uint32_t instance(lk_tape *t, lk_scope *s, uint64_t path) {
  for (uint32_t i = s->children; i; i = t->names[i].next)
    if (t->names[i].path == path) return t->names[i].count++;
  t->names[t->nname] = (lk_scope_name){path, 1, s->children};
  s->children = (uint32_t)t->nname++;
  return 0;
}

uint32_t lk_scope_begin(lk_tape *t, const char *name, int flags) {
  if (!t || lk_tape_grow(t, &t->scopes, &t->scope_capacity, t->nscope + 1, sizeof *t->scopes)) return 0;
  if (lk_tape_grow(t, &t->names, &t->name_capacity, t->nname + 1, sizeof *t->names)) return 0;
  uint64_t path = lk_hash(t->scopes[t->cur].path, name);
  uint32_t sc = (uint32_t)t->nscope++, nth = instance(t, &t->scopes[t->cur], path);
  lk_scope *s = &t->scopes[sc];
  *s = (lk_scope){.name = name, .parent = t->cur, .open = 1};
  s->first = (uint32_t)t->n;
  s->no_grad = t->no_grad;
  s->path = path + nth;
  s->nname = t->nname;
  s->record_span = t->nrecord;
  s->record_used = t->record_used;
  if (flags & LK_SCOPE_RECOMPUTE && !t->no_grad && !t->redo) { /* nested recomputation is flattened */
    s->flags = LK_SCOPE_RECOMPUTE;
    t->redo = sc;
  }
  t->cur = t->where = sc;
  return sc;
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
    if (q->needs || q->kept || (q->owner && !result)) return -1;
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
    q->scope = s->parent;
    if (q->param && q->param->leaf_gen == q->generation) q->param->leaf = to;
    if (q->owner) {
      q->next = t->scopes[q->owner].head;
      t->scopes[q->owner].head = to;
    }
    for (int i = 0; i < n; i++)
      if (results[i].gen == q->generation) results[i].id = to;
  }
  for (uint32_t id = to; id < t->n; id++) t->nodes[id].generation = 0;
  t->n = to;
  if (s->record_span == t->nrecord) t->record_used = s->record_used;
  t->nname = s->nname;
  t->nscope = (size_t)(s - t->scopes);
}

/* Results go to the parent, every other value loses its owner. */
static void hand_over(lk_tape *t, lk_scope *s, int n, const lk_tensor *results) {
  for (uint32_t id = s->head, next; id; id = next) {
    int result = 0;
    next = t->nodes[id].next;
    for (int i = 0; i < n; i++) result |= results[i].id == id;
    lk_node_own(t, id, result ? s->parent : 0);
  }
  s->head = 0;
}

static void close_current(lk_tape *t, int n, const lk_tensor *results) {
  uint32_t sc = t->cur;
  lk_scope *s = &t->scopes[sc];
  s->last = (uint32_t)t->n;
  s->open = 0;
  t->cur = t->where = s->parent;
  if (t->redo == sc) {
    t->redo = 0;
    lk_recompute_close(t, s);
  }
  hand_over(t, s, n, results);
}

lk_status lk_scope_end_n(lk_tape *t, uint32_t sc, int n, lk_tensor *results) {
  if (!t) return LK_ENIL;
  if (sc < 2 || sc >= t->nscope || !t->scopes[sc].open) {
    lk_fail(t->ctx, LK_EARG, "scope_end without its scope_begin");
  } else {
    const lk_scope *s = &t->scopes[sc];
    if (sc != t->cur && t->errors == t->ctx->errors)
      lk_fail(t->ctx, LK_EARG, "scope '%s' was left open inside '%s'", t->scopes[t->cur].name, s->name);
    if (n < 0 || n > LK_MAX_RESULTS)
      lk_fail(t->ctx, LK_EARG, "scope '%s': %d results, at most %d", s->name, n, LK_MAX_RESULTS);
    for (int i = 0; i < n && !t->ctx->status; i++) lk_node_get(t, results[i], s->name, i);
    while (t->cur != sc) close_current(t, 0, NULL);
    close_current(t, t->ctx->status ? 0 : n, results);
    if (!t->ctx->status && t->no_grad && s->no_grad && !t->redo) truncate_scope(t, &t->scopes[sc], n, results);
  }
  for (int i = 0; i < n && t->ctx->status; i++) results[i] = lk_nil();
  return lk_error(t->ctx, NULL);
}

lk_tensor lk_scope_end(lk_tape *t, uint32_t scope, lk_tensor result) {
  lk_scope_end_n(t, scope, 1, &result);
  return t ? result : lk_nil();
}

void lk_drop(lk_tape *t, lk_tensor x) {
  lk_node *n = t && !t->ctx->status ? lk_node_get(t, x, "drop", 0) : NULL;
  if (!n || n->kept & LK_NOTED) return;
  n->kept = 0;
  lk_node_unlist(t, x.id);
  lk_node_own(t, x.id, 0);
}

void lk_keep(lk_tape *t, lk_tensor x) {
  lk_node *n = t && !t->ctx->status ? lk_node_get(t, x, "keep", 0) : NULL;
  if (!n) return;
  n->kept |= LK_KEPT;
  lk_node_unlist(t, x.id);
  lk_node_own(t, x.id, 1);
}
