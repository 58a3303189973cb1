/* test_programs.c: random programs of ops, windows, changes in place, scopes, recomputation and no-grad parts, run
 * with everything kept and with everything freed, poisoned and replayed: values and gradients agree to the last bit,
 * with central differences for the smooth ones, and dead handles are known to be dead. */
#include "tape.h"

enum { STEPS = 45, MOST = 400, DEPTH = 6, NPARAM = 6 };

typedef struct value {
  lk_tensor h;
  int root; /* values of one root share memory */
  int leaf, kept;
} value;

typedef struct scope {
  uint32_t token;
  int first; /* of the values made inside */
} scope;

typedef struct program {
  lk_key key;
  uint64_t draw;
  int smooth;    /* only what central differences can follow */
  int recompute; /* whether scopes that ask for it are recomputed */
  int recorded;  /* `refused` holds the decisions of an earlier run */
  char refused[STEPS + 1];
  value v[MOST];
  int n, roots, step;
  scope s[DEPTH];
  int depth;
  lk_tensor dead[MOST];
  int ndead;
} program;

static uint64_t below(program *p, uint64_t n) { return lk_random_below(p->key, p->draw++, n); }
static int chance(program *p, int percent) { return (int)below(p, 100) < percent; }
static value *any(program *p) { return &p->v[below(p, (uint64_t)p->n)]; }

static lk_view shape_of(lk_tensor x) {
  lk_view v;
  lk_get(t, x, &v);
  return v;
}

static int same_handle(lk_tensor a, lk_tensor b) { return a.id == b.id && a.gen == b.gen; }

static void push(program *p, lk_tensor h, int root) {
  if (lk_is_nil(h) || p->n == MOST) return;
  p->v[p->n] = (value){.h = h, .root = root ? root : ++p->roots};
  for (int i = 0; i < p->n; i++) /* ops may return what they were given */
    if (same_handle(p->v[i].h, h)) p->v[p->n] = p->v[i];
  p->n++;
}

static void bury(program *p, const value *v) {
  if (!v->leaf && p->ndead < MOST) p->dead[p->ndead++] = v->h;
}

/* Takes out the values that `goes` names: those with this handle, or, with a root, all of its memory. */
static void remove_values(program *p, lk_tensor h, int root) {
  int n = 0, before[DEPTH] = {0};
  for (int i = 0; i < p->n; i++) {
    if (same_handle(p->v[i].h, h) || (root && p->v[i].root == root)) {
      bury(p, &p->v[i]);
      for (int d = 0; d < p->depth; d++) before[d] += i < p->s[d].first;
    } else {
      p->v[n++] = p->v[i];
    }
  }
  p->n = n;
  for (int d = 0; d < p->depth; d++) p->s[d].first -= before[d];
}

/* ---- what a program does ---- */

static void use_parameter(program *p) {
  int i = (int)below(p, NPARAM);
  lk_tensor h = use(i);
  push(p, h, 1 + i);
  p->v[p->n - 1].leaf = 1;
  if (!chance(p, 10)) return;
  lk_drop(t, h);
  remove_values(p, h, 0);
}

static void make_value(program *p) {
  if (chance(p, 70)) use_parameter(p);
  else if (chance(p, 70)) push(p, INPUT(2, 3), 0);
  else push(p, lk_scalar(t, LK_F64, 0.7), 0);
}

static void unary(program *p) {
  value from = *any(p);
  lk_tensor x = from.h;
  lk_view v = shape_of(x);
  switch (below(p, p->smooth ? 8 : 10)) {
  case 0:
    push(p, lk_tanh(t, x), 0);
    break;
  case 1:
    push(p, lk_sigmoid(t, x), 0);
    break;
  case 2:
    push(p, lk_scale(t, x, -0.5), 0);
    break;
  case 3:
    push(p, lk_exp(t, lk_tanh(t, x)), 0);
    break;
  case 4:
    if (v.ndim) push(p, lk_softmax(t, x, -1), 0);
    break;
  case 5:
    if (v.ndim) push(p, lk_layer_norm(t, x, lk_nil(), lk_nil(), 0.1), 0);
    break;
  case 6:
    push(p, lk_dropout(t, x, 0.3), 0);
    break;
  case 7:
    if (v.ndim) push(p, lk_mean(t, x, 1, (int[]){(int)below(p, (uint64_t)v.ndim)}, chance(p, 50)), 0);
    break;
  case 8:
    push(p, lk_relu(t, x), 0);
    break;
  default:
    push(p, lk_detach_value(t, x), from.root);
  }
}

static int broadcasts(const lk_view *a, const lk_view *b) {
  for (int d = 1; d <= a->ndim && d <= b->ndim; d++) {
    int64_t n = a->shape[a->ndim - d], m = b->shape[b->ndim - d];
    if (n != m && n != 1 && m != 1) return 0;
  }
  return 1;
}

static void binary(program *p) {
  lk_tensor a = any(p)->h, b = any(p)->h;
  lk_view va = shape_of(a), vb = shape_of(b);
  uint64_t what = below(p, p->smooth ? 4 : 5);
  if (what == 3) {
    if (va.ndim > 1 && vb.ndim > 1 && va.ndim + vb.ndim < 5 && va.shape[1] == vb.shape[0])
      push(p, lk_matmul(t, a, b), 0);
    return;
  }
  if (!broadcasts(&va, &vb)) return;
  if (what == 0) push(p, lk_add(t, a, b), 0);
  if (what == 1) push(p, lk_mul(t, a, b), 0);
  if (what == 2) push(p, lk_sub(t, a, b), 0);
  if (what == 4) push(p, lk_maximum(t, a, b), 0);
}

static void window(program *p) {
  value x = *any(p);
  lk_view v = shape_of(x.h);
  if (!v.ndim) return;
  int axis = (int)below(p, (uint64_t)v.ndim);
  int64_t n = v.shape[axis], start = (int64_t)below(p, (uint64_t)n), step = 1 + (int64_t)below(p, 2);
  lk_tensor y;
  switch (below(p, 3)) {
  case 0:
    y = lk_transpose(t, x.h, axis, -1);
    break;
  case 1:
    y = lk_slice(t, x.h, axis, start, 1 + (int64_t)below(p, (uint64_t)((n - 1 - start) / step + 1)), step);
    break;
  default:
    y = lk_contiguous(t, x.h);
    push(p, y, same_handle(y, x.h) ? x.root : 0);
    return;
  }
  push(p, y, x.root);
}

/* y += s a b^T for values that fit, or with parameters that do. */
static void change(program *p) {
  value y = *any(p), a = *any(p), b = *any(p);
  lk_view vy = shape_of(y.h), va = shape_of(a.h), vb = shape_of(b.h);
  if (vy.ndim != 2 || va.ndim != 2 || vb.ndim != 2) return;
  if (vy.shape[0] != va.shape[0] || vy.shape[1] != vb.shape[0] || va.shape[1] != vb.shape[1]) return;
  if (p->recorded && p->refused[p->step]) return;
  lk_tensor h = lk_accumulate(t, y.h, a.h, b.h, 0.5);
  if (lk_is_nil(h)) {
    ck_assert_msg(lk_error(ctx, NULL) == LK_EARG && !p->recorded, "refused in one way of running only");
    lk_error_clear(ctx);
    p->refused[p->step] = 1;
    return;
  }
  remove_values(p, y.h, y.root);
  push(p, h, y.root);
}

static void begin(program *p) {
  if (p->depth == DEPTH) return;
  int flags = chance(p, 40) && p->recompute ? LK_SCOPE_RECOMPUTE : 0;
  static const char *const names[] = {"a", "b", "c"};
  p->s[p->depth++] = (scope){lk_scope_begin(t, names[below(p, 3)], flags), p->n};
}

static void end(program *p) {
  value result[3];
  lk_tensor h[3];
  int n = 1 + (int)below(p, 3), first = p->s[p->depth - 1].first, kept = 0;
  for (int i = 0; i < n; i++) {
    result[i] = chance(p, 80) && p->n > first ? p->v[first + (int)below(p, (uint64_t)(p->n - first))] : *any(p);
    h[i] = result[i].h;
  }
  ck_assert_int_eq(lk_scope_end_n(t, p->s[--p->depth].token, n, h), LK_OK);
  for (int i = first; i < p->n; i++) {
    int survives = p->v[i].kept;
    for (int k = 0; k < n; k++) survives |= same_handle(p->v[i].h, result[k].h);
    for (int k = 0; k < first; k++) survives |= same_handle(p->v[i].h, p->v[k].h);
    if (!survives) bury(p, &p->v[i]);
    if (p->v[i].kept) p->v[first + kept++] = p->v[i];
  }
  p->n = first + kept;
  for (int i = 0; i < n; i++) {
    push(p, h[i], result[i].root);
    p->v[p->n - 1].leaf = result[i].leaf;
    p->v[p->n - 1].kept = result[i].kept;
  }
}

static void keep_or_drop(program *p) {
  value *v = any(p);
  if (v->leaf) return;
  if (chance(p, 50)) {
    lk_keep(t, v->h);
    for (int i = 0; i < p->n; i++) p->v[i].kept |= same_handle(p->v[i].h, v->h);
  } else if (p->n > 2) {
    lk_tensor h = v->h;
    lk_drop(t, h);
    remove_values(p, h, 0);
  }
}

static void check_dead(program *p) {
  if (!p->ndead) return;
  lk_get(t, p->dead[below(p, (uint64_t)p->ndead)], &(lk_view){0});
  ck_refused(LK_ESTALE, "get: argument 0 ");
}

static void step(program *p) {
  uint64_t what = below(p, 100);
  if (!p->n || what < 12) make_value(p);
  else if (what < 32) unary(p);
  else if (what < 50) binary(p);
  else if (what < 60) window(p);
  else if (what < 74) change(p);
  else if (what < 84) begin(p);
  else if (what < 92 && p->depth) end(p);
  else if (what < 96) keep_or_drop(p);
  else if (what < 98 && !p->smooth) lk_no_grad(t, lk_grad_enabled(t));
  else check_dead(p);
}

/* ---- running one ---- */

/* What a run leaves behind: all values seen at the end and all gradients, as bits. */
typedef struct outcome {
  double x[20000];
  size_t n;
} outcome;

static void note(outcome *o, const lk_view *v) {
  for (int64_t i = 0; i < lk_view_count(v) && o->n < 20000; i++) o->x[o->n++] = lk_view_get(v, i);
}

static void note_values(program *p, outcome *o) {
  for (int i = 0; i < p->n; i++) {
    lk_view v = shape_of(p->v[i].h);
    note(o, &v);
  }
}

static lk_tensor run(program *p, lk_tape_mode mode) {
  p->draw = 0;
  p->n = p->depth = p->ndead = 0;
  p->roots = NPARAM;
  lk_tape_reset(t);
  lk_tape_set_mode(t, mode);
  lk_train(t, 1, 0);
  lk_no_grad(t, 0);
  for (p->step = 0; p->step < STEPS; p->step++) step(p);
  while (p->depth) p->n ? end(p) : make_value(p);
  ck_fine();
  lk_no_grad(t, 0);
  lk_tensor loss = lk_scalar(t, LK_F64, 0);
  for (int i = 0; i < p->n; i++) loss = lk_add(t, loss, weigh(p->v[i].h));
  ck_fine();
  p->recorded = 1;
  return loss;
}

static int finish(program *p, lk_tape_mode mode, outcome *o) {
  lk_tensor loss = run(p, mode);
  zero_grads();
  o->n = 0;
  note_values(p, o);
  lk_backward(t, loss);
  if (lk_error(ctx, NULL) == LK_ENOGRAD) lk_error_clear(ctx);
  ck_fine();
  size_t half = o->n;
  note_values(p, o); /* backward changes nothing that can be seen */
  ck_assert_mem_eq(o->x, o->x + half, half * sizeof *o->x);
  for (int i = 0; i < NPARAM; i++) {
    lk_view g = params[i]->value;
    g.p = params[i]->grad;
    if (params[i]->has_grad) note(o, &g);
    o->x[o->n++] = params[i]->has_grad;
  }
  return lk_tape_statistics(t).replayed > 0;
}

static void check_differences(program *p) {
  const double h = 1e-5;
  for (int i = 0; i < NPARAM; i++) {
    int64_t j = (int64_t)below(p, (uint64_t)lk_param_count(params[i]));
    double *x = (double *)params[i]->value.p + j, was = *x, is = gradient_of(params[i], j), loss[2];
    uint64_t draw = p->draw;
    for (int side = 0; side < 2; side++) {
      *x = side ? was + h : was - h;
      loss[side] = lk_item(t, run(p, LK_TAPE_POISON));
    }
    *x = was;
    p->draw = draw;
    ck_fine();
    double number = params[i]->requires_grad ? (loss[1] - loss[0]) / (2 * h) : 0;
    double size = 1 + fabs(number) + fabs(loss[0]) * 1e-3;
    ck_assert_msg(fabs(is - number) <= 1e-5 * size, "parameter %d [%d]: %.12g, not %.12g", i, (int)j, is, number);
  }
}

static program P;
static outcome want, is;

/* Returns whether something was replayed. */
static int try_program(uint64_t seed) {
  memset(&P, 0, sizeof P);
  P.key = lk_key_fold(lk_key_make(1, "programs"), seed);
  P.smooth = seed % 3 == 0;
  P.recompute = 1;
  for (int i = 0; i < NPARAM; i++) params[i]->requires_grad = (seed >> i & 3) != 1;
  finish(&P, LK_TAPE_LIVE, &want);
  for (int way = 0; way < 4; way++) { /* with and without recomputation, everything kept or freed */
    P.recompute = way & 1;
    int replayed = finish(&P, way & 2 ? LK_TAPE_POISON : LK_TAPE_NAIVE, &is);
    ck_assert(P.recompute || !replayed);
    ck_assert_uint_eq(is.n, want.n);
    for (size_t i = 0; i < is.n; i++)
      if (memcmp(&is.x[i], &want.x[i], sizeof(double)))
        ck_abort_msg("program %d, way %d: number %d of %d is %.17g, not %.17g", (int)seed, way, (int)i, (int)is.n,
                     is.x[i], want.x[i]);
  }
  P.recompute = 1;
  int replayed = finish(&P, LK_TAPE_POISON, &is);
  if (P.smooth) check_differences(&P);
  return replayed;
}

enum { CHUNK = 250 };

/* LK_PROGRAM=n runs that program alone. */
START_TEST(test_programs) {
  const char *const shapes[NPARAM] = {"2 3", "3", "3 3", "3 2", "1 3", "2 2"}, *asked = getenv("LK_PROGRAM");
  for (int i = 0; i < NPARAM; i++) make_param((const char *[]){"a", "b", "c", "d", "e", "f"}[i], shapes[i], LK_F64);
  if (asked) {
    try_program(strtoull(asked, NULL, 10));
  } else {
    int replayed = 0;
    for (int i = 0; i < CHUNK; i++) replayed += try_program((uint64_t)_i * CHUNK + (uint64_t)i);
    ck_assert_int_gt(replayed, CHUNK / 20);
  }
}
END_TEST

int main(void) {
  SUITE("programs");
  int chunks = getenv("LK_PROGRAM") ? 1 : getenv("LK_EXHAUSTIVE") ? 800 : 20;
  tcase_add_loop_test(tcase, test_programs, 0, chunks);
  return run_suite(suite);
}
