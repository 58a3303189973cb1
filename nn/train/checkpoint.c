/* checkpoint.c: saving and restoring a training run, and the best values so far. */
#include "model.h"

#include <errno.h>
#include <lorikeet/checkpoint.h>
#include <lorikeet/safetensors.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT "lorikeet-checkpoint-1"

/* ---- what is saved ---- */

typedef struct {
  lk_ctx *ctx;
  lk_named_view *v;
  lk_param **param; /* of the i-th tensor, or NULL */
  size_t n, capacity, param_capacity;
} tensors;

static void add(tensors *s, const char *name, lk_view view, lk_param *p) {
  if (lk_grow(s->ctx, &s->v, &s->capacity, s->n + 1, sizeof *s->v)) return;
  if (lk_grow(s->ctx, &s->param, &s->param_capacity, s->n + 1, sizeof *s->param)) return;
  s->v[s->n] = (lk_named_view){name, view};
  s->param[s->n++] = p;
}

static void add_list(tensors *s, lk_param *p) {
  for (; p; p = p->next)
    if (p->kind != LK_RETIRED && !p->alias) add(s, p->name, p->value, p);
}

static void free_tensors(tensors *s) {
  lk_free(s->ctx, s->v);
  lk_free(s->ctx, s->param);
}

static tensors collect(lk_model *model, const lk_optim *opt) {
  tensors s = {.ctx = lk_model_ctx(model)};
  for (lk_param *p = NULL; (p = lk_param_walk(model, p));)
    if (p->requires_grad && !p->alias) add(&s, p->name, p->value, p);
  for (lk_adapter *a = model->adapters; a; a = a->next) {
    for (lk_at *at = NULL; (at = lk_adapter_walk(a, at));) add_list(&s, at->params);
    for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m)) add_list(&s, m->params);
    add_list(&s, a->stand_ins);
  }
  for (int i = 0; opt && i < lk_optim_state_count(opt); i++) {
    const lk_optim_state *state = lk_optim_state_at(opt, i);
    add(&s, state->name, state->view, NULL);
  }
  return s;
}

/* ---- saving ---- */

lk_status lk_checkpoint_save(lk_model *model, const lk_optim *opt, const lk_progress *p, const char *note,
                             const char *path) {
  lk_ctx *c = lk_model_ctx(model);
  char step[32], epoch[32], position[32], best[40], best_step[32], seed[32];
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  if (model->merged) return lk_fail(c, LK_EARG, "checkpoint: the model is merged; unmerge it first");
  snprintf(step, sizeof step, "%lld", (long long)p->step);
  snprintf(epoch, sizeof epoch, "%lld", (long long)p->cursor.epoch);
  snprintf(position, sizeof position, "%lld", (long long)p->cursor.position);
  snprintf(best, sizeof best, "%.17g", p->best);
  snprintf(best_step, sizeof best_step, "%lld", (long long)p->best_step);
  snprintf(seed, sizeof seed, "%llu", (unsigned long long)lk_seed(c));
  const lk_metadata pairs[] = {
      {"format", FORMAT}, {"step", step},           {"epoch", epoch}, {"position", position},
      {"best", best},     {"best_step", best_step}, {"seed", seed},   {"note", note ? note : ""}};
  tensors s = collect(model, opt);
  if (!lk_error(c, NULL)) lk_safetensors_write(c, path, s.v, s.n, pairs, sizeof pairs / sizeof *pairs);
  free_tensors(&s);
  return lk_error(c, NULL);
}

/* ---- loading ---- */

/* A sentence that grows: the first few complaints, then a count. */
typedef struct {
  char text[600];
  size_t used;
  int n;
} complaints;

static void LK_PRINTF(2, 3) complain(complaints *k, const char *format, ...) {
  va_list ap;
  if (++k->n > 6 || k->used >= sizeof k->text) return;
  int sep = k->n > 1 ? snprintf(k->text + k->used, sizeof k->text - k->used, "; ") : 0;
  k->used += (size_t)(sep > 0 ? sep : 0);
  if (k->used >= sizeof k->text) return;
  va_start(ap, format);
  int n = vsnprintf(k->text + k->used, sizeof k->text - k->used, format, ap);
  va_end(ap);
  k->used += (size_t)(n > 0 ? n : 0);
}

static int64_t number(const lk_safetensors *f, const char *key, complaints *k) {
  const char *text = lk_safetensors_metadata(f, key);
  char *end = NULL;
  errno = 0;
  long long v = text ? strtoll(text, &end, 10) : 0;
  if (!text || end == text || *end || errno || v < 0) complain(k, "its '%s' is no count", key);
  return v;
}

static lk_progress read_progress(const lk_safetensors *f, complaints *k) {
  lk_progress p = {0};
  const char *best = lk_safetensors_metadata(f, "best");
  p.step = number(f, "step", k);
  p.cursor.epoch = number(f, "epoch", k);
  p.cursor.position = number(f, "position", k);
  p.best_step = number(f, "best_step", k);
  p.best = best ? strtod(best, NULL) : 0;
  return p;
}

static void check_text(const lk_safetensors *f, const char *key, const char *want, complaints *k) {
  const char *is = lk_safetensors_metadata(f, key);
  if (!is || strcmp(is, want)) complain(k, "its %s is '%s', not '%s'", key, is ? is : "missing", want);
}

static void check_tensors(lk_safetensors *f, const tensors *s, complaints *k) {
  char have[160], want[160];
  lk_view v;
  for (size_t i = 0; i < s->n; i++) {
    const lk_stored *t = lk_safetensors_find(f, s->v[i].name);
    if (!t) complain(k, "%s is missing", s->v[i].name);
    else if (lk_safetensors_view(f, t, &v)) return;
    else if (!lk_view_same_shape(&v, &s->v[i].view) || v.dtype != s->v[i].view.dtype)
      complain(k, "%s is %s %s, not %s %s", s->v[i].name, lk_dtype_name(v.dtype), lk_view_format(&v, have),
               lk_dtype_name(s->v[i].view.dtype), lk_view_format(&s->v[i].view, want));
  }
  for (size_t j = 0; j < lk_safetensors_count(f); j++) {
    const char *name = lk_safetensors_at(f, j)->name;
    int known = 0;
    for (size_t i = 0; i < s->n && !known; i++) known = !strcmp(name, s->v[i].name);
    if (!known) complain(k, "%s is unexpected", name);
  }
}

static lk_status assign(lk_safetensors *f, tensors *s) {
  lk_view v;
  for (size_t i = 0; i < s->n; i++) {
    lk_param *p = s->param[i];
    if (lk_safetensors_get(f, s->v[i].name, &v) || (p && lk_param_own(p))) return lk_error(s->ctx, NULL);
    lk_view_copy(p ? &p->value : &s->v[i].view, &v);
    if (p) lk_param_touch(p);
  }
  return LK_OK;
}

static void swap_bytes(char *a, char *b, size_t n) {
  for (size_t i = 0; i < n; i++) {
    char was = a[i];
    a[i] = b[i];
    b[i] = was;
  }
}

/* Exchanges the adapters' buffers (kept layers, a chosen structure) with `values`, one after the other, and has the
 * methods rebuild what depends on them.  Twice is as before. */
static lk_status swap_buffers(lk_model *model, lk_param **buffers, lk_view *values, size_t n) {
  for (size_t i = 0; i < n; i++) {
    swap_bytes(buffers[i]->value.p, values[i].p, lk_view_bytes(&values[i]));
    lk_param_touch(buffers[i]);
  }
  for (lk_adapter *a = n ? model->adapters : NULL; a; a = a->next)
    if (lk_methods_loaded(a)) break;
  return lk_error(lk_model_ctx(model), NULL);
}

/* Puts the buffers back.  The methods' hooks do nothing in a context that holds an error: it is set aside meanwhile. */
static void put_back(lk_model *model, lk_param **buffers, lk_view *values, size_t n) {
  lk_ctx *c = lk_model_ctx(model);
  const char *message;
  char why[1024];
  lk_status status = lk_error(c, &message);
  snprintf(why, sizeof why, "%s", message);
  lk_error_clear(c);
  swap_buffers(model, buffers, values, n);
  lk_error_clear(c);
  lk_fail(c, status, "%s", why);
}

/* The stored values of every buffer that the file has in the right shape; their memory is the caller's. */
static size_t stored_buffers(lk_safetensors *f, const tensors *s, lk_param **buffers, lk_view *values) {
  size_t n = 0;
  for (size_t i = 0; i < s->n && !lk_error(s->ctx, NULL); i++) {
    lk_param *p = s->param[i];
    const lk_stored *t = p && p->kind == LK_BUFFER ? lk_safetensors_find(f, p->name) : NULL;
    lk_view v;
    if (!t || lk_safetensors_view(f, t, &v) || !lk_view_same_shape(&v, &p->value) || v.dtype != p->value.dtype)
      continue;
    values[n] = p->value;
    values[n].p = lk_alloc(s->ctx, lk_view_bytes(&v));
    if (!values[n].p) break;
    lk_view_copy(&values[n], &v);
    buffers[n++] = p;
  }
  return n;
}

/* Everything but the buffers, once they are in place. */
static lk_status load_rest(lk_safetensors *f, lk_model *model, lk_optim *opt, complaints *k, const char *path) {
  tensors s = collect(model, opt);
  lk_ctx *c = s.ctx;
  check_tensors(f, &s, k);
  if (k->n > 6) lk_fail(c, LK_EFORMAT, "checkpoint %s does not fit: %s; and %d more", path, k->text, k->n - 6);
  else if (k->n) lk_fail(c, LK_EFORMAT, "checkpoint %s does not fit: %s", path, k->text);
  if (!lk_error(c, NULL)) assign(f, &s);
  free_tensors(&s);
  return lk_error(c, NULL);
}

/* The buffers first; then, if `rest`, everything else.  When that does not fit, the buffers are put back. */
static lk_status load(lk_safetensors *f, lk_model *model, lk_optim *opt, complaints *k, const char *path, int rest) {
  tensors s = collect(model, NULL);
  lk_param **buffers = lk_alloc_array(s.ctx, s.n + 1, sizeof *buffers);
  lk_view *values = lk_alloc_array(s.ctx, s.n + 1, sizeof *values);
  size_t n = 0;
  if (buffers && values && !k->n) n = stored_buffers(f, &s, buffers, values);
  if (!lk_error(s.ctx, NULL)) {
    lk_status status = swap_buffers(model, buffers, values, n);
    if (!status && rest) status = load_rest(f, model, opt, k, path);
    if (status) put_back(model, buffers, values, n);
  }
  for (size_t i = 0; i < n; i++) lk_free(s.ctx, values[i].p);
  lk_free(s.ctx, buffers);
  lk_free(s.ctx, values);
  free_tensors(&s);
  return lk_error(s.ctx, NULL);
}

lk_status lk_checkpoint_load_structure(lk_model *model, const char *path) {
  complaints k = {.n = 0};
  lk_safetensors *f = lk_safetensors_open(lk_model_ctx(model), path);
  if (f) load(f, model, NULL, &k, path, 0);
  lk_safetensors_close(f);
  return lk_error(lk_model_ctx(model), NULL);
}

lk_status lk_checkpoint_load(lk_model *model, lk_optim *opt, lk_progress *progress, const char *note,
                             const char *path) {
  lk_ctx *c = lk_model_ctx(model);
  complaints k = {.n = 0};
  char seed[32];
  lk_safetensors *f = lk_safetensors_open(c, path);
  if (!f) return lk_error(c, NULL);
  snprintf(seed, sizeof seed, "%llu", (unsigned long long)lk_seed(c));
  check_text(f, "format", FORMAT, &k);
  check_text(f, "seed", seed, &k);
  check_text(f, "note", note ? note : "", &k);
  lk_progress p = read_progress(f, &k);
  if (!load(f, model, opt, &k, path, 1)) *progress = p;
  lk_safetensors_close(f);
  return lk_error(c, NULL);
}

/* ---- snapshots ---- */

struct lk_snapshot {
  lk_ctx *ctx;
  lk_model *model;
  lk_param **params;
  void **copies;
  int n;
};

void lk_snapshot_free(lk_snapshot *s) {
  if (!s) return;
  for (int i = 0; s->copies && i < s->n; i++) lk_free(s->ctx, s->copies[i]);
  lk_free(s->ctx, s->copies);
  lk_free(s->ctx, s->params);
  lk_free(s->ctx, s);
}

void lk_snapshot_take(lk_snapshot *s) {
  for (int i = 0; i < s->n; i++) memcpy(s->copies[i], s->params[i]->value.p, lk_view_bytes(&s->params[i]->value));
}

void lk_snapshot_restore(lk_snapshot *s) {
  for (int i = 0; i < s->n; i++) {
    memcpy(s->params[i]->value.p, s->copies[i], lk_view_bytes(&s->params[i]->value));
    lk_param_touch(s->params[i]);
  }
  for (lk_adapter *a = s->model->adapters; a; a = a->next) lk_methods_loaded(a);
}

/* The buffers of a list behind what the snapshot holds; their number alone while there is no room. */
static void add_buffers(lk_snapshot *s, lk_param *p, int *n) {
  for (; p; p = p->next) {
    if (p->kind != LK_BUFFER || p->alias) continue;
    if (s->params) s->params[*n] = p;
    ++*n;
  }
}

static int all_buffers(lk_snapshot *s, int n) {
  for (lk_adapter *a = s->model->adapters; a; a = a->next) {
    for (lk_at *at = NULL; (at = lk_adapter_walk(a, at));) add_buffers(s, at->params, &n);
    for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m)) add_buffers(s, m->params, &n);
  }
  return n;
}

/* What trains, and the adapters' buffers, which say what the values mean. */
static void list_params(lk_snapshot *s) {
  lk_param **trained = lk_trainable(s->model, &s->n);
  s->params = lk_alloc_array(s->ctx, (size_t)all_buffers(s, s->n) + 1, sizeof *s->params);
  if (s->params && trained) memcpy(s->params, trained, (size_t)s->n * sizeof *trained);
  if (s->params) s->n = all_buffers(s, s->n);
  lk_free(s->ctx, trained);
}

lk_snapshot *lk_snapshot_new(lk_model *model) {
  lk_ctx *c = lk_model_ctx(model);
  lk_snapshot *s = lk_alloc(c, sizeof *s);
  if (!s) return NULL;
  s->ctx = c;
  s->model = model;
  list_params(s);
  s->copies = lk_alloc_array(c, (size_t)s->n + 1, sizeof *s->copies);
  for (int i = 0; i < s->n && !lk_error(c, NULL); i++)
    if (!lk_param_own(s->params[i])) s->copies[i] = lk_alloc(c, lk_view_bytes(&s->params[i]->value));
  if (lk_error(c, NULL)) {
    lk_snapshot_free(s);
    return NULL;
  }
  lk_snapshot_take(s);
  return s;
}
