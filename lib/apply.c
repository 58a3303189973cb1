/* apply.c: running an operator and recording it. */
#include "half.h"
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- what ops call ---- */

int lk_op_fail(lk_call *c, lk_status status, const char *format, ...) {
  char text[400], inputs[400] = "", shape[160], path[300];
  lk_tape *t = c->tape;
  size_t used = 0;
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  for (int i = 0; i < c->nin && used < sizeof inputs; i++)
    used += (size_t)snprintf(inputs + used, sizeof inputs - used, "%s x%d %s", i ? "," : ";", i,
                             lk_view_format(&c->x[i], shape));
  lk_path_print(t, t->where, path, sizeof path);
  return (int)lk_fail(t->ctx, status, "%s: %s%s%s%s", c->op->name, text, inputs, path[0] ? "; in " : "", path);
}

int lk_op_axis(lk_call *c, int axis, int ndim) {
  if (axis >= -ndim && axis < ndim) return axis < 0 ? axis + ndim : axis;
  lk_op_fail(c, LK_ESHAPE, "axis %d of a value with %d axes", axis, ndim);
  return -1;
}

void *lk_scratch(lk_call *c, size_t bytes) {
  lk_tape *t = c->tape;
  if (t->nscratch == LK_MAX_SCRATCH) {
    lk_op_fail(c, LK_EARG, "more than %d scratch buffers", LK_MAX_SCRATCH);
    return NULL;
  }
  char *p = lk_pool_get(&t->pool, bytes);
  if (p) t->scratch[t->nscratch++] = (lk_span){p, bytes, 0};
  return p;
}

void lk_scratch_release(lk_tape *t) {
  while (t->nscratch) {
    t->nscratch--;
    lk_pool_put(&t->pool, t->scratch[t->nscratch].p, t->scratch[t->nscratch].size);
  }
}

void *lk_save(lk_call *c, size_t bytes) {
  lk_frame *f = c->impl;
  lk_node *n = &c->tape->nodes[f->id];
  if (c->want) n->redo |= REDO_SAVED;
  if (f->dry) return lk_scratch(c, bytes);
  if (n->saved || c->op->flags & LK_OP_INPLACE) {
    lk_op_fail(c, LK_EARG, n->saved ? "lk_save was called twice" : "an op in place must not lk_save");
    return NULL;
  }
  n->saved = lk_pool_get(&c->tape->pool, bytes);
  n->saved_size = bytes;
  return n->saved;
}

void lk_count_flops(lk_call *c, double flops) { c->tape->flops += flops; }

/* ---- views as ops want them ---- */

int lk_view_expand(lk_view *v, const lk_view *shape) {
  if (lk_view_same_shape(v, shape)) return 0;
  int more = shape->ndim - v->ndim;
  for (int d = shape->ndim - 1; d >= 0; d--) {
    int repeats = d < more || (v->shape[d - more] == 1 && shape->shape[d] != 1);
    v->stride[d] = repeats ? 0 : v->stride[d - more];
    v->shape[d] = shape->shape[d];
  }
  v->ndim = shape->ndim;
  return 1;
}

/* Memory of the view's extent that stands for what a backward did not declare as read: NaN, index 0. */
static void *hidden(lk_call *c, const lk_view *v) {
  size_t elements = 1;
  for (int d = 0; d < v->ndim; d++) elements += v->shape[d] ? (size_t)((v->shape[d] - 1) * v->stride[d]) : 0;
  size_t bytes = elements * lk_dtype_size(v->dtype);
  void *p = lk_scratch(c, bytes);
  return p ? memset(p, lk_dtype_is_real(v->dtype) ? 0xff : 0, bytes) : NULL;
}

/* Row-major, in scratch memory if it was not. */
static int pack(lk_call *c, lk_view *v) {
  lk_view packed;
  if (!v->p || lk_view_contiguous(v)) return 0;
  lk_view_init(&packed, v->dtype, v->ndim, v->shape);
  packed.p = lk_scratch(c, lk_view_bytes(&packed));
  if (!packed.p) return -1;
  lk_view_copy(&packed, v);
  *v = packed;
  return 0;
}

static int as_declared(lk_tape *t, lk_frame *f, lk_view *v, int readable) {
  if (!readable) v->p = t->pool.poison ? hidden(&f->c, v) : NULL;
  return f->c.op->flags & LK_OP_PACKED ? pack(&f->c, v) : 0;
}

/* The inputs, as they lie on the tape, are made what the op wants. */
static int fit_inputs(lk_tape *t, lk_frame *f, uint32_t readable) {
  const lk_node *n = &t->nodes[f->id];
  f->spread = 0;
  for (int i = 0; i < n->nin; i++) {
    if (n->op->flags & LK_OP_ELEMENTWISE && lk_view_expand(&f->x[i], &n->v)) f->spread |= LK_X(i);
    if (as_declared(t, f, &f->x[i], (readable & LK_X(i)) != 0)) return -1;
  }
  return 0;
}

static void init_call(lk_tape *t, lk_frame *f, const lk_node *n) {
  lk_call *c = &f->c;
  c->tape = t;
  c->op = n->op;
  c->nin = n->nin;
  c->x = f->x;
  c->y = &f->y;
  c->gx = f->gx;
  c->gy = &f->gy;
  c->attr = n->attr;
  c->want = n->want;
  c->fresh = 0;
  c->key = n->key;
  c->threads = t->ctx->threads;
  c->saved = n->saved;
  c->impl = f;
  f->added = 0;
  f->taken = 0;
  f->dry = 0;
}

int lk_frame_bind(lk_tape *t, uint32_t id, lk_frame *f, int back) {
  const lk_node *n = &t->nodes[id];
  uint32_t reads = back ? n->reads & ~t->hide : UINT32_MAX;
  /* a result that others have still to read is made again before its own backward lets go of what it is made of */
  if (lk_remake(t, n, back && n->pins ? reads | LK_Y : reads)) return -1;
  init_call(t, f, n);
  f->id = id;
  t->where = n->scope;
  lk_node_view(t, id, &f->y);
  if (back && as_declared(t, f, &f->y, (reads & LK_Y) != 0)) return -1;
  for (int i = 0; i < n->nin; i++) lk_node_view(t, n->in[i], &f->x[i]);
  return fit_inputs(t, f, reads);
}

int lk_frame_versions(lk_tape *t, lk_frame *f, uint32_t inputs) {
  const lk_node *n = &t->nodes[f->id];
  for (int i = 0; i < n->nin; i++) {
    const lk_node *r = lk_root(t, n->in[i]);
    if (inputs & LK_X(i) && r->param_seen && r->param_version != r->param->version)
      return lk_op_fail(&f->c, LK_EARG, "x%d, parameter %s, was changed between forward and backward", i,
                        r->param->name);
  }
  return 0;
}

int lk_frame_call(lk_tape *t, lk_frame *f, int backward) {
  const lk_op *op = f->c.op;
  if (t->watch) t->watch(t->watch_arg, &f->c, backward, 0);
  t->running = 1;
  int bad = backward ? op->bwd(&f->c) : op->fwd(&f->c);
  t->running = 0;
  if (t->watch) t->watch(t->watch_arg, &f->c, backward, 1);
  return bad;
}

int lk_frame_forward(lk_tape *t, lk_frame *f) {
  int bad = lk_frame_call(t, f, 0);
  if (bad) lk_op_fail(&f->c, LK_EARG, "forward failed and did not say why");
  lk_scratch_release(t);
  t->where = t->cur;
  return t->ctx->status ? -1 : 0;
}

/* ---- checks before an op runs ---- */

static int check_types(lk_call *c, uint32_t want) {
  const char *kind = c->op->types ? c->op->types : "r";
  int first = -1;
  for (int i = 0; i < c->nin; i++, kind += kind[1] != 0) {
    lk_dtype d = c->x[i].dtype;
    if ((*kind == 'r' || *kind == 'f') && !lk_dtype_is_real(d))
      return lk_op_fail(c, LK_EDTYPE, "x%d is %s, not f32 or f64", i, lk_dtype_name(d));
    if (*kind == 'i' && !lk_dtype_is_index(d))
      return lk_op_fail(c, LK_EDTYPE, "x%d is %s, not an index (i64 or i32)", i, lk_dtype_name(d));
    if (*kind == 'm' && d != LK_U8) return lk_op_fail(c, LK_EDTYPE, "x%d is %s, not a mask (u8)", i, lk_dtype_name(d));
    if (*kind == 'w' && !lk_dtype_is_real(d) && !lk_dtype_is_half(d))
      return lk_op_fail(c, LK_EDTYPE, "x%d is %s, not f32, f64, bf16 or f16", i, lk_dtype_name(d));
    if (*kind == 'f' && want & LK_X(i)) return lk_op_fail(c, LK_EARG, "x%d must be frozen: it has no gradient", i);
    if (*kind != 'r' && *kind != 'f' && (*kind != 'w' || lk_dtype_is_half(d))) continue;
    if (first < 0) first = i;
    else if (d != c->x[first].dtype)
      return lk_op_fail(c, LK_EDTYPE, "x%d is %s and x%d %s", first, lk_dtype_name(c->x[first].dtype), i,
                        lk_dtype_name(d));
  }
  return 0;
}

/* The shape that all inputs broadcast to; the dtype of the last input. */
static int broadcast(lk_call *c) {
  int64_t shape[LK_MAXDIM];
  int ndim = 0;
  for (int i = 0; i < c->nin; i++)
    if (c->x[i].ndim > ndim) ndim = c->x[i].ndim;
  for (int d = 0; d < ndim; d++) {
    shape[d] = 1;
    for (int i = 0; i < c->nin; i++) {
      int s = d - (ndim - c->x[i].ndim);
      int64_t n = s < 0 ? 1 : c->x[i].shape[s];
      if (n != 1 && shape[d] != 1 && n != shape[d])
        return lk_op_fail(c, LK_ESHAPE, "axis %d does not broadcast: %lld and %lld", d, (long long)shape[d],
                          (long long)n);
      if (n != 1) shape[d] = n;
    }
  }
  if (lk_view_init(c->y, c->x[c->nin - 1].dtype, ndim, shape))
    return lk_op_fail(c, LK_ESHAPE, "the result is too large");
  return 0;
}

/* The recorded node that will read root r, in its backward or when it is replayed; for a message. */
static uint32_t reader_of(lk_tape *t, uint32_t root) {
  uint32_t user = root;
  for (uint32_t id = root; id < t->n; id++) {
    const lk_node *n = &t->nodes[id];
    if (n->reads & LK_Y && n->root == root) return id;
    for (int i = 0; i < n->nin; i++) {
      if (t->nodes[n->in[i]].root != root || !n->op->fwd) continue;
      if (n->reads & LK_X(i)) return id;
      if (user == root) user = id;
    }
  }
  return user;
}

static int check_inplace(lk_tape *t, lk_call *c, const lk_node *n) {
  char text[600];
  uint32_t root = t->nodes[n->in[0]].root;
  const lk_node *r = &t->nodes[root];
  if (r->leaf) return lk_op_fail(c, LK_EARG, "x0 is a parameter or borrowed memory: it is not changed in place");
  for (int d = 0; d < c->x[0].ndim; d++)
    if (c->x[0].shape[d] > 1 && !c->x[0].stride[d]) return lk_op_fail(c, LK_EARG, "x0 repeats elements");
  if (c->op->flags & LK_OP_PACKED && !lk_view_contiguous(&c->x[0])) return lk_op_fail(c, LK_EARG, "x0 has gaps");
  for (int i = 1; i < c->nin; i++)
    if (t->nodes[n->in[i]].root == root) return lk_op_fail(c, LK_EARG, "x0 and x%d share memory", i);
  if (r->lock) {
    lk_node_describe(t, reader_of(t, root), text, sizeof text);
    return lk_op_fail(c, LK_EARG, "x0 cannot be changed: the backward of %s will read it", text);
  }
  if (r->needs && !t->nodes[n->in[0]].needs)
    return lk_op_fail(c, LK_EARG, "x0 has no gradient but shares its memory with a value that has one");
  if (r->needs && t->no_grad) return lk_op_fail(c, LK_EARG, "x0 has a gradient, which an unrecorded change would cut");
  if (t->redo && root < t->scopes[t->redo].first)
    return lk_op_fail(c, LK_EARG, "x0 was made outside the recomputed scope");
  if (t->redo && r->used)
    return lk_op_fail(c, LK_EARG, "x0 was used before; in a recomputed scope only a value that nobody used is changed");
  if (t->redo && lk_is_source(t, root))
    return lk_op_fail(c, LK_EARG, "x0 is an input made in a recomputed scope, which cannot be made again");
  return 0;
}

/* ---- lk_apply ---- */

/* Looks the inputs up; fills the node's list, what it wants and the frame's views. */
static int take_inputs(lk_tape *t, lk_frame *f, lk_node *n, const lk_tensor *inputs) {
  const char *name = n->op->name;
  uint32_t *in = lk_record(t, n->nin * sizeof *in);
  if (!in) return -1;
  n->in = in;
  for (int i = 0; i < n->nin; i++) {
    const lk_node *x = lk_node_get(t, inputs[i], name, i);
    if (!x) return -1;
    in[i] = inputs[i].id;
    lk_node_view(t, in[i], &f->x[i]);
    if (x->needs && !t->no_grad) n->want |= LK_X(i);
  }
  return check_types(&f->c, n->want);
}

static int take_attributes(lk_tape *t, lk_node *n, const void *attr) {
  if (!n->op->attr_size || !attr) return 0;
  void *copy = lk_record(t, n->op->attr_size);
  if (!copy) return -1;
  n->attr = memcpy(copy, attr, n->op->attr_size);
  return 0;
}

/* Decides shape, memory and what backward will read. */
static int prepare(lk_tape *t, lk_frame *f, lk_node *n) {
  const lk_op *op = n->op;
  lk_call *c = &f->c;
  f->y.p = NULL;
  c->attr = n->attr;
  if (op->shape ? op->shape(c) : broadcast(c)) return lk_op_fail(c, LK_ESHAPE, "these shapes are not allowed");
  if (t->ctx->status) return -1;
  if (op->flags & LK_OP_STOP || !lk_dtype_is_real(f->y.dtype)) n->want = 0;
  n->needs = n->want != 0;
  if (op->flags & LK_OP_INPLACE) {
    if (check_inplace(t, c, n)) return -1;
    n->want &= ~LK_X(0); /* gy is gx[0] already */
  }
  c->want = n->want;
  if (n->want && op->bwd) n->reads = op->reads ? op->reads(c) : LK_Y | (LK_X(n->nin) - 1);
  n->v = f->y;
  n->v.p = NULL;
  if (op->flags & (LK_OP_INPLACE | LK_OP_VIEW)) {
    n->root = t->nodes[n->in[0]].root;
    n->off = (size_t)((char *)f->y.p - t->nodes[n->root].mem);
    return 0;
  }
  if (!op->fwd) return lk_op_fail(c, LK_EARG, "it has no forward");
  if (!lk_view_contiguous(&f->y)) return lk_op_fail(c, LK_EARG, "its shape function gave the result strides");
  n->size = lk_view_bytes(&f->y);
  n->mem = lk_pool_get(&t->pool, n->size);
  f->y.p = n->mem;
  return n->mem ? 0 : -1;
}

/* Pins what the recorded backward will read; in a recomputed scope what lies outside of it, and that once more for
 * the replay. */
static void pin_reads(lk_tape *t, lk_node *n) {
  uint32_t first = t->redo ? t->scopes[t->redo].first : UINT32_MAX;
  int flags = n->op->flags;
  for (int i = n->op->fwd ? 0 : n->nin; i < n->nin; i++) {
    uint32_t root = t->nodes[n->in[i]].root;
    lk_node *r = &t->nodes[root];
    int reads = (n->reads & LK_X(i)) != 0;
    if (i || !(flags & LK_OP_INPLACE)) r->used = 1;
    if (reads) r->lock = 1;
    if (root < first) r->pins += (uint32_t)(reads + (t->redo != 0));
    if (r->param && !r->param_seen && (reads || t->redo || flags & LK_OP_CHEAP)) {
      r->param_seen = 1;
      r->param_version = r->param->version;
    }
  }
  if (!(n->reads & LK_Y)) return;
  lk_node *r = &t->nodes[n->root];
  r->lock = 1;
  if (!t->redo) r->pins++;
}

static lk_key draw_key(lk_tape *t) {
  lk_scope *s = &t->scopes[t->cur];
  return lk_key_fold(lk_key_fold(t->key, s->path), s->draws++);
}

/* Takes the node that was pushed last off the tape again. */
static void forget(lk_tape *t, uint32_t id) {
  lk_node *n = &t->nodes[id];
  if (n->saved) lk_pool_put(&t->pool, n->saved, n->saved_size);
  lk_node_unlist(t, id);
  lk_node_own(t, id, 0);
  n->generation = 0;
  t->n--;
}

/* The number of inputs given, trailing nils left out; -1 if that is not allowed. */
static int count_inputs(const lk_op *op, int nin, const lk_tensor *inputs) {
  int least = op->nin < 0 ? 1 : op->nin - op->optional;
  while (nin > least && op->nin >= 0 && lk_is_nil(inputs[nin - 1])) nin--;
  return nin < least || nin < 1 || nin > LK_MAXIN || (op->nin >= 0 && nin > op->nin) ? -1 : nin;
}

lk_tensor lk_apply(lk_tape *t, const lk_op *op, int nin, const lk_tensor *inputs, const void *attr) {
  lk_frame f;
  if (!t || t->ctx->status) return lk_nil();
  int given = count_inputs(op, nin, inputs);
  if (given < 0) {
    lk_fail(t->ctx, LK_EARG, "%s: %d inputs", op->name, nin);
    return lk_nil();
  }
  lk_node *n = lk_node_new(t, op);
  if (!n) return lk_nil();
  n->nin = (uint8_t)given;
  init_call(t, &f, n);
  t->where = t->cur;
  if (take_inputs(t, &f, n, inputs) || take_attributes(t, n, attr) || prepare(t, &f, n)) return lk_nil();
  if (op->flags & LK_OP_RANDOM) f.c.key = n->key = draw_key(t);
  lk_tensor y = lk_node_push(t, t->cur);
  if (op->fwd) {
    f.id = y.id;
    f.dry = !n->want || t->redo;
    if (fit_inputs(t, &f, UINT32_MAX) || lk_frame_forward(t, &f)) {
      lk_scratch_release(t);
      forget(t, y.id);
      return lk_nil();
    }
  }
  if (op->flags & LK_OP_INPLACE) {
    lk_node *r = &t->nodes[n->root];
    n->version = ++r->changes;
    r->needs |= n->needs;
  }
  pin_reads(t, n);
  return y;
}

/* ---- the same value without its history ---- */

static int stop_shape(lk_call *c) {
  *c->y = c->x[0];
  return 0;
}

static const lk_op detach_op = {
    .name = "detach", .nin = 1, .types = "a", .flags = LK_OP_VIEW | LK_OP_STOP, .shape = stop_shape};

lk_tensor lk_detach_value(lk_tape *t, lk_tensor x) { return lk_apply(t, &detach_op, 1, &x, NULL); }

/* ---- the registry, generated from lib/local.mk ---- */

#define LK_OP_ENTRY(name) extern const lk_op lk_op_##name;
#include "lib/ops.inc"
#undef LK_OP_ENTRY

const lk_op *const *lk_ops(void) {
#define LK_OP_ENTRY(name) &lk_op_##name,
  static const lk_op *const list[] = {
#include "lib/ops.inc"
      NULL};
#undef LK_OP_ENTRY
  return list;
}
