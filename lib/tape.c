/* tape.c: the tape's records: nodes, handles, leaves, side inputs, counters. */
#include "half.h"
#include "internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const lk_op lk_value_op = {.name = "value"};

/* ---- life of a tape ---- */

lk_tape *lk_tape_new(lk_ctx *c) {
  lk_tape *t = lk_alloc(c, sizeof *t);
  if (!t) return NULL;
  t->ctx = t->pool.ctx = c;
#ifdef LK_DEBUG
  t->pool.poison = 1; /* dead memory is NaN, as in LK_TAPE_POISON */
#endif
  t->n = 1;
  t->errors = c->errors;
  if (lk_scopes_reset(t)) {
    lk_tape_free(t);
    return NULL;
  }
  return t;
}

void lk_tape_free(lk_tape *t) {
  if (!t) return;
  lk_ctx *c = t->ctx;
  lk_pool_free(&t->pool);
  for (size_t i = 0; i < t->nrecord; i++) lk_free(c, t->records[i].p);
  lk_free(c, t->records);
  lk_free(c, t->scopes);
  lk_free(c, t->nodes);
  lk_free(c, t->names);
  lk_free(c, t->sides);
  lk_free(c, t);
}

void lk_tape_reset(lk_tape *t) {
  if (!t) return;
  if (t->cur != 1 && t->errors == t->ctx->errors)
    lk_fail(t->ctx, LK_EARG, "reset: scope '%s' was never ended", t->scopes[t->cur].name);
  lk_pool_reset(&t->pool);
  while (t->nrecord > 1) { /* keep the last, largest one */
    lk_free(t->ctx, t->records[t->nrecord - 2].p);
    t->records[t->nrecord - 2] = t->records[t->nrecord - 1];
    t->nrecord--;
  }
  t->record_used = 0;
  for (size_t i = 1; i < t->n; i++) t->nodes[i].generation = 0;
  t->n = 1;
  t->seq = 0;
  t->replayed = 0;
  t->flops = 0;
  t->nscratch = 0;
  t->nside = 0;
  t->training = 0;
  t->errors = t->ctx->errors;
  lk_scopes_reset(t);
}

lk_ctx *lk_tape_ctx(const lk_tape *t) { return t ? t->ctx : NULL; }

void lk_train(lk_tape *t, uint64_t step, uint64_t micro) {
  if (!t) return;
  t->training = 1;
  t->key = lk_key_fold(lk_key_fold(lk_key_make(t->ctx->seed, "step"), step), micro);
}

int lk_is_training(const lk_tape *t) { return t && t->training; }

lk_key lk_tape_key(const lk_tape *t) { return lk_is_training(t) ? t->key : (lk_key){0}; }

int lk_no_grad(lk_tape *t, int on) {
  int was = t && t->no_grad;
  if (t) t->no_grad = on != 0;
  return was;
}

int lk_grad_enabled(const lk_tape *t) { return t && !t->no_grad; }

lk_tape_stats lk_tape_statistics(const lk_tape *t) {
  if (!t) return (lk_tape_stats){0};
  return (lk_tape_stats){t->pool.live, t->pool.peak,        t->pool.reserved, t->n - 1,
                         t->replayed,  t->pool.allocations, t->flops};
}

void lk_tape_watch(lk_tape *t, lk_watch_fn *watch, void *arg) {
  if (!t) return;
  t->watch = watch;
  t->watch_arg = arg;
}

void lk_tape_set_mode(lk_tape *t, lk_tape_mode mode) {
  if (!t) return;
  t->pool.naive = mode == LK_TAPE_NAIVE;
  t->pool.poison = mode == LK_TAPE_POISON;
}

int lk_tape_grow(lk_tape *t, void *array, size_t *capacity, size_t n, size_t size) {
  size_t before = *capacity;
  if (lk_grow(t->ctx, array, capacity, n, size)) return -1;
  t->pool.allocations += *capacity != before;
  return 0;
}

/* Bump memory that lives until reset. */
void *lk_record(lk_tape *t, size_t size) {
  size = (size + 15) & ~(size_t)15;
  lk_span *last = t->nrecord ? &t->records[t->nrecord - 1] : NULL;
  if (!last || last->size - t->record_used < size) {
    size_t more = last ? 2 * last->size : (size_t)1 << 14;
    while (more < size) more *= 2;
    if (lk_tape_grow(t, &t->records, &t->record_capacity, t->nrecord + 1, sizeof *t->records)) return NULL;
    char *p = lk_alloc(t->ctx, more);
    if (!p) return NULL;
    t->pool.allocations++;
    last = &t->records[t->nrecord++];
    *last = (lk_span){p, more, 0};
    t->record_used = 0;
  }
  void *p = last->p + t->record_used;
  t->record_used += size;
  return p;
}

/* ---- side inputs, by hash ---- */

uint64_t lk_hash(uint64_t seed, const char *text) {
  uint64_t h = seed ^ 0xcbf29ce484222325u;
  for (; *text; text++) h = (h ^ (uint8_t)*text) * 0x100000001b3u;
  h ^= h >> 29;
  return h * 0xbf58476d1ce4e5b9u;
}

static lk_side_value *find_side(const lk_tape *t, uint64_t hash) {
  for (size_t i = 0; i < t->nside; i++)
    if (t->sides[i].hash == hash) return &t->sides[i];
  return NULL;
}

static void put_side(lk_tape *t, uint64_t hash, lk_tensor value) {
  lk_side_value *s = find_side(t, hash);
  if (!s) {
    if (lk_tape_grow(t, &t->sides, &t->side_capacity, t->nside + 1, sizeof *t->sides)) return;
    s = &t->sides[t->nside++];
  }
  lk_keep(t, value);
  t->nodes[value.id].kept |= LK_NOTED;
  *s = (lk_side_value){hash, value};
}

static lk_tensor get_side(const lk_tape *t, uint64_t hash) {
  const lk_side_value *s = t ? find_side(t, hash) : NULL;
  return s ? s->value : lk_nil();
}

void lk_side(lk_tape *t, const char *name, lk_tensor value) {
  if (t && !t->ctx->status && lk_node_get(t, value, name, 0)) put_side(t, lk_hash(0, name), value);
}

lk_tensor lk_side_get(lk_tape *t, const char *name) { return get_side(t, lk_hash(0, name)); }

static uint64_t note_hash(const void *owner, const char *label, int i) {
  return lk_hash((uint64_t)(uintptr_t)owner + 0x9e3779b97f4a7c15u * (uint64_t)(i + 1), label);
}

void lk_note(lk_tape *t, const void *owner, const char *label, lk_tensor value) {
  int i = 0;
  if (!t || t->ctx->status || !lk_node_get(t, value, label, 0)) return;
  while (find_side(t, note_hash(owner, label, i))) i++;
  put_side(t, note_hash(owner, label, i), value);
}

lk_tensor lk_noted(lk_tape *t, const void *owner, const char *label, int i) {
  return get_side(t, note_hash(owner, label, i));
}

/* ---- nodes ---- */

/* vsnprintf at *used, never past the end. */
static void LK_PRINTF(4, 5) put(char *buffer, size_t size, size_t *used, const char *format, ...) {
  if (*used >= size) return;
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(buffer + *used, size - *used, format, ap);
  va_end(ap);
  if (n > 0) *used += (size_t)n;
}

size_t lk_path_print(lk_tape *t, uint32_t scope, char *buffer, size_t size) {
  uint32_t chain[64];
  size_t used = 0;
  int n = 0;
  for (uint32_t s = scope; s > 1 && n < 64; s = t->scopes[s].parent) chain[n++] = s;
  buffer[0] = 0;
  while (n > 0) {
    put(buffer, size, &used, "%s%s", used ? "." : "", t->scopes[chain[n - 1]].name);
    n--;
  }
  return used;
}

size_t lk_node_describe(lk_tape *t, uint32_t id, char *buffer, size_t size) {
  char shape[160], path[300];
  const lk_node *n = &t->nodes[id];
  size_t used = 0;
  lk_path_print(t, n->scope, path, sizeof path);
  put(buffer, size, &used, "%s #%u %s of %s", n->op->name, n->seq, lk_view_format(&n->v, shape),
      path[0] ? path : "the step");
  return used;
}

/* Says what is wrong with handle x. */
static void complain(lk_tape *t, lk_tensor x, const char *who, int argument) {
  char text[600], path[300], in[320] = "";
  lk_path_print(t, t->where, path, sizeof path);
  if (path[0]) snprintf(in, sizeof in, "; in %s", path);
  if (lk_is_nil(x)) {
    lk_fail(t->ctx, LK_ENIL, "%s: argument %d is nil%s", who, argument, in);
    return;
  }
  if (x.id >= t->n || t->nodes[x.id].generation != x.gen) {
    lk_fail(t->ctx, LK_ESTALE, "%s: argument %d is not a value of this step of this tape%s", who, argument, in);
    return;
  }
  lk_node_describe(t, x.id, text, sizeof text);
  if (t->nodes[x.id].owner)
    lk_fail(t->ctx, LK_ESTALE, "%s: argument %d (%s) was changed in place; use what the change returned%s", who,
            argument, text, in);
  else
    lk_fail(t->ctx, LK_ESTALE, "%s: argument %d is dead: %s; it was neither a result of its scope nor kept%s", who,
            argument, text, in);
}

lk_node *lk_node_get(lk_tape *t, lk_tensor x, const char *who, int argument) {
  if (!lk_is_nil(x) && x.id < t->n) {
    lk_node *n = &t->nodes[x.id];
    if (n->generation == x.gen && n->owner && n->version == t->nodes[n->root].changes) return n;
  }
  complain(t, x, who, argument);
  return NULL;
}

void lk_node_settle(lk_tape *t, lk_node *r) {
  if (r->holds || r->leaf || !r->mem || (r->pins && !lk_can_remake(t, r))) return;
  lk_pool_put(&t->pool, r->mem, r->size);
  r->mem = NULL;
}

void lk_node_unpin(lk_tape *t, uint32_t id) {
  lk_node *r = lk_root(t, id);
  assert(r->pins);
  r->pins--;
  lk_node_settle(t, r);
}

void lk_node_own(lk_tape *t, uint32_t id, uint32_t scope) {
  lk_node *n = &t->nodes[id], *r = lk_root(t, id);
  if (n->owner && !scope) {
    n->owner = 0;
    r->holds--;
    lk_node_settle(t, r);
    return;
  }
  if (!n->owner && scope) r->holds++;
  n->owner = scope;
  if (!scope) return;
  n->next = t->scopes[scope].head;
  t->scopes[scope].head = id;
}

void lk_node_unlist(lk_tape *t, uint32_t id) {
  uint32_t *p = &t->scopes[t->nodes[id].owner].head;
  while (*p != id) p = &t->nodes[*p].next;
  *p = t->nodes[id].next;
}

lk_node *lk_node_new(lk_tape *t, const lk_op *op) {
  if (t->running || t->n == UINT32_MAX) {
    lk_fail(t->ctx, LK_EARG, t->running ? "%s: called inside another operator" : "%s: the tape is full", op->name);
    return NULL;
  }
  if (t->n == t->node_capacity || !t->nodes)
    if (lk_tape_grow(t, &t->nodes, &t->node_capacity, t->n + 64, sizeof *t->nodes)) return NULL;
  lk_node *n = &t->nodes[t->n];
  memset(n, 0, sizeof *n);
  n->op = op;
  return n;
}

lk_tensor lk_node_push(lk_tape *t, uint32_t scope) {
  uint32_t id = (uint32_t)t->n++;
  lk_node *n = &t->nodes[id];
  if (!n->root) n->root = id;
  if (!++t->ctx->generation) ++t->ctx->generation; /* 0 means nil */
  n->generation = t->ctx->generation;
  n->seq = ++t->seq;
  n->scope = t->cur;
  n->version = t->nodes[n->root].changes;
  lk_node_own(t, id, scope);
  return (lk_tensor){id, n->generation};
}

size_t lk_tape_print(lk_tape *t, char *buffer, size_t size) {
  size_t used = 0;
  char text[600];
  if (size) buffer[0] = 0;
  if (!t) return 0;
  for (uint32_t id = 1; id < t->n; id++) {
    const lk_node *n = &t->nodes[id];
    lk_node_describe(t, id, text, sizeof text);
    int k = snprintf(used < size ? buffer + used : NULL, used < size ? size - used : 0, "%4u  %s%s <-", id, text,
                     n->needs ? " *" : "");
    used += k > 0 ? (size_t)k : 0;
    for (int i = 0; i <= n->nin; i++) {
      if (i < n->nin) snprintf(text, sizeof text, " %u", n->in[i]);
      k = snprintf(used < size ? buffer + used : NULL, used < size ? size - used : 0, "%s", i < n->nin ? text : "\n");
      used += k > 0 ? (size_t)k : 0;
    }
  }
  return used;
}

/* ---- leaves ---- */

static lk_tensor push_leaf(lk_tape *t, const lk_view *v, void *grad, lk_param *param) {
  lk_node *n = lk_node_new(t, &lk_value_op);
  if (!n) return lk_nil();
  n->v = *v;
  n->v.p = NULL;
  n->mem = v->p;
  n->grad = grad;
  n->size = lk_view_bytes(v);
  n->leaf = 1;
  n->needs = grad && !t->no_grad;
  n->param = param;
  return lk_node_push(t, t->cur);
}

/* 0, or an error: a view of the caller must have memory. */
static int check_view(lk_tape *t, const lk_view *v, const char *who) {
  if (v && v->ndim >= 0 && v->ndim <= LK_MAXDIM && (v->p || !lk_view_count(v))) return 0;
  return (int)lk_fail(t->ctx, LK_ENIL, "%s: the view has no memory", who);
}

lk_tensor lk_borrow(lk_tape *t, const lk_view *v) {
  if (!t || t->ctx->status || check_view(t, v, "borrow")) return lk_nil();
  return push_leaf(t, v, NULL, NULL);
}

lk_tensor lk_leaf(lk_tape *t, const lk_view *v, void *grad) {
  if (!t || t->ctx->status || check_view(t, v, "leaf")) return lk_nil();
  if (grad && (!lk_view_contiguous(v) || !lk_dtype_is_real(v->dtype))) {
    lk_fail(t->ctx, LK_EARG, "leaf: a trainable value must be f32 or f64 and row-major");
    return lk_nil();
  }
  return push_leaf(t, v, grad, NULL);
}

/* A copy that stands in for a parameter does not do so for those that are tied to it. */
static lk_param *resolve(lk_param *p) {
  if (p && p->stand_in) return p->stand_in;
  while (p && p->alias) p = p->alias;
  return p;
}

lk_tensor lk_input(lk_tape *t, lk_dtype dtype, int ndim, const int64_t *shape, const void *data) {
  lk_node *n = t && !t->ctx->status ? lk_node_new(t, &lk_value_op) : NULL;
  if (!n) return lk_nil();
  if (lk_view_init(&n->v, dtype, ndim, shape)) {
    lk_fail(t->ctx, LK_ESHAPE, "input: a size is negative, too large, or there are more than %d axes", LK_MAXDIM);
    return lk_nil();
  }
  n->size = lk_view_bytes(&n->v);
  n->mem = lk_pool_get(&t->pool, n->size);
  if (!n->mem) return lk_nil();
  if (data) memcpy(n->mem, data, n->size);
  else memset(n->mem, 0, n->size);
  lk_tensor h = lk_node_push(t, t->cur);
  if (t->redo) lk_node_pin(t, h.id); /* cannot be made again: stays at least until the end of the recomputed scope */
  return h;
}

void lk_tape_in_double(lk_tape *t, int on) {
  if (t) t->in_double = on != 0;
}

static lk_tensor widened(lk_tape *t, const lk_view *from) {
  lk_view v;
  lk_tensor x = lk_input(t, LK_F64, from->ndim, from->shape, NULL);
  if (!lk_get(t, x, &v)) lk_view_copy(&v, from);
  return x;
}

lk_tensor lk_use(lk_tape *t, lk_param *param) {
  lk_param *p = resolve(param);
  if (!t || t->ctx->status || !p) return lk_nil();
  if (!p->value.p) {
    lk_fail(t->ctx, LK_EARG, "parameter %s has a shape but no memory: its model was built to be counted only", p->name);
    return lk_nil();
  }
  if (t->in_double && (p->value.dtype == LK_F32 || lk_dtype_is_half(p->value.dtype))) return widened(t, &p->value);
  int wants = p->requires_grad && !t->no_grad && lk_dtype_is_real(p->value.dtype);
  if (wants && !p->grad && !(p->grad = lk_alloc(t->ctx, lk_view_bytes(&p->value)))) return lk_nil();
  if (p->leaf && p->leaf < t->n) {
    lk_node *n = &t->nodes[p->leaf];
    if (n->generation == p->leaf_gen && n->param == p && n->needs == wants && n->mem == p->value.p) {
      if (!n->owner) lk_node_own(t, p->leaf, t->cur); /* its scope ended: the same leaf is visible again */
      return (lk_tensor){p->leaf, p->leaf_gen};
    }
  }
  lk_tensor h = push_leaf(t, &p->value, wants ? p->grad : NULL, p);
  p->leaf = h.id;
  p->leaf_gen = h.gen;
  return h;
}

lk_tensor lk_scalar(lk_tape *t, lk_dtype dtype, double value) {
  float f = (float)value;
  int64_t i = (int64_t)value;
  if (t && !t->ctx->status && !lk_dtype_is_real(dtype) && dtype != LK_I64) {
    lk_fail(t->ctx, LK_EDTYPE, "scalar: %s is not f32, f64 or i64", lk_dtype_name(dtype));
    return lk_nil();
  }
  return lk_input(t, dtype, 0, NULL, dtype == LK_F32 ? (void *)&f : dtype == LK_F64 ? (void *)&value : (void *)&i);
}

/* ---- looking at values ---- */

int lk_get(lk_tape *t, lk_tensor x, lk_view *view) {
  memset(view, 0, sizeof *view);
  if (!t || t->ctx->status || !lk_node_get(t, x, "get", 0)) return -1;
  lk_node_view(t, x.id, view);
  return 0;
}

double lk_item(lk_tape *t, lk_tensor x) {
  lk_view v;
  if (lk_get(t, x, &v)) return 0;
  if (lk_view_count(&v) == 1) return lk_view_get(&v, 0);
  char shape[160];
  lk_fail(t->ctx, LK_ESHAPE, "item: the value has shape %s, not one element", lk_view_format(&v, shape));
  return 0;
}

int lk_ndim(lk_tape *t, lk_tensor x) {
  lk_view v;
  return lk_get(t, x, &v) ? 0 : v.ndim;
}

int64_t lk_size(lk_tape *t, lk_tensor x, int axis) {
  lk_view v;
  if (lk_get(t, x, &v)) return 0;
  int a = axis < 0 ? axis + v.ndim : axis;
  if (a >= 0 && a < v.ndim) return v.shape[a];
  lk_fail(t->ctx, LK_ESHAPE, "size: axis %d of a value with %d axes", axis, v.ndim);
  return 0;
}

lk_dtype lk_dtype_of(lk_tape *t, lk_tensor x) {
  lk_view v;
  return lk_get(t, x, &v) ? LK_F32 : v.dtype;
}
