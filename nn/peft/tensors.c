/* tensors.c: an adapter's parameters in a safetensors file: their names there, writing, comparing, reading. */
#include "peft.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A parameter and the tensor that holds it. */
typedef struct {
  lk_param *param;
  char *name, *other; /* in the file; another spelling that is read too, or NULL */
  const lk_stored *stored;
  int of_bias; /* a copy of an adapted layer's bias */
} entry;

typedef struct {
  lk_ctx *ctx;
  const char *prefix, *at_name; /* "@name" behind names in memory, or "" */
  entry *list;
  size_t n, capacity;
} entries;

/* ---- collecting ---- */

/* The name in the file: the prefix, and the parameter's name with `insert` after its first `path` characters. */
static char *file_name(const entries *e, const lk_param *p, size_t path, const char *insert) {
  size_t n = strlen(p->name) - strlen(e->at_name);
  return lk_sprintf(e->ctx, "%s%.*s%s%.*s", e->prefix, (int)path, p->name, insert, (int)(n - path), p->name + path);
}

static void add(entries *e, lk_param *p, const lk_module *adapted) {
  if (p->kind == LK_SCRATCH || p->kind == LK_RETIRED) return;
  if (lk_grow(e->ctx, &e->list, &e->capacity, e->n + 1, sizeof *e->list)) return;
  entry *one = &e->list[e->n++];
  *one = (entry){.param = p, .of_bias = adapted != NULL};
  one->name = file_name(e, p, adapted ? strlen(adapted->path) : 0, adapted && *e->prefix ? ".base_layer" : "");
  if (adapted) one->other = file_name(e, p, 0, "");
}

static void add_chain(entries *e, const lk_at *at) {
  for (; at; at = at->next) {
    for (lk_param *p = at->params; p; p = p->next) add(e, p, NULL);
    add_chain(e, at->inner);
  }
}

static void entries_free(entries *e) {
  for (size_t i = 0; i < e->n; i++) {
    lk_free(e->ctx, e->list[i].name);
    lk_free(e->ctx, e->list[i].other);
  }
  lk_free(e->ctx, e->list);
}

/* Every parameter of the adapter: of its sites in the model's order, then its copies of the base's. */
static lk_status collect(const lk_adapter *a, const char *prefix, entries *e) {
  lk_module *root = lk_model_root(a->model);
  *e = (entries){.ctx = root->ctx, .prefix = prefix, .at_name = ""};
  char *at_name = strcmp(a->name, "default") ? lk_sprintf(root->ctx, "@%s", a->name) : NULL;
  if (at_name) e->at_name = at_name;
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    if (m->site) add_chain(e, lk_site_chain(m->site, a));
  for (lk_param *p = a->stand_ins; p; p = p->next) {
    lk_module *m = ((lk_param *)p->owner)->owner;
    add(e, p, m->site && lk_site_chain(m->site, a) ? m : NULL);
  }
  e->at_name = "";
  lk_free(root->ctx, at_name);
  if (lk_error(root->ctx, NULL)) entries_free(e);
  return lk_error(root->ctx, NULL);
}

/* ---- writing ---- */

static void warn_of_nonfinite(const lk_adapter *a, const entries *e) {
  for (size_t k = 0; k < e->n; k++) {
    const lk_view *v = &e->list[k].param->value;
    for (int64_t i = 0, n = lk_view_count(v); i < n; i++)
      if (!isfinite(lk_view_get(v, i))) {
        lk_warn(e->ctx, "adapter_save: %s of adapter '%s' holds values that are not finite", e->list[k].name, a->name);
        return;
      }
  }
}

lk_status lk_peft_write_tensors(lk_adapter *a, const lk_peft_format *f, const char *path) {
  static const lk_metadata format = {"format", "pt"};
  entries e;
  if (collect(a, f->prefix, &e)) return lk_error(e.ctx, NULL);
  lk_named_view *views = lk_alloc_array(e.ctx, e.n + 1, sizeof *views);
  for (size_t i = 0; views && i < e.n; i++) views[i] = (lk_named_view){e.list[i].name, e.list[i].param->value};
  if (views) {
    warn_of_nonfinite(a, &e);
    lk_safetensors_write(e.ctx, path, views, e.n, &format, 1);
  }
  lk_free(e.ctx, views);
  entries_free(&e);
  return lk_error(e.ctx, NULL);
}

/* ---- what does not fit, in one message ---- */

enum { MISSING, UNEXPECTED, MISSHAPEN, UNTYPED, OTHER_BASE, KINDS };
static const char *const words[] = {"missing", "unexpected", "misshapen", "of a type that is not read",
                                    "unlike the model's frozen weight"};

typedef struct {
  int kind;
  const entry *e;      /* or NULL */
  const lk_stored *s;  /* or NULL */
} problem;

typedef struct {
  lk_ctx *ctx;
  problem *list;
  size_t n, capacity;
} problems;

static void note(problems *p, int kind, const entry *e, const lk_stored *s) {
  if (!lk_grow(p->ctx, &p->list, &p->capacity, p->n + 1, sizeof *p->list)) p->list[p->n++] = (problem){kind, e, s};
}

static lk_view shape_of(const lk_stored *s) {
  lk_view v = {.ndim = s->ndim};
  memcpy(v.shape, s->shape, sizeof v.shape);
  return v;
}

static int describe(const problem *p, char *text, size_t size) {
  char a[160], b[160];
  lk_view v;
  switch (p->kind) {
  case MISSING:
    return snprintf(text, size, "%s", p->e->name);
  case UNTYPED:
    return snprintf(text, size, "%s is %s", p->s->name, p->s->dtype);
  case MISSHAPEN:
    v = shape_of(p->s);
    return snprintf(text, size, "%s is %s, want %s", p->s->name, lk_view_format(&v, a),
                    lk_view_format(&p->e->param->value, b));
  default:
    return snprintf(text, size, "%s", p->s->name);
  }
}

/* "; 9 missing: a, b, ..." behind the text, in at most `room` bytes. */
static void list_kind(const problems *p, int kind, int n, char *text, size_t room) {
  char one[600];
  size_t used = strlen(text), end = used + room;
  used += (size_t)snprintf(text + used, room, "%s%d %s: ", used ? "; " : "", n, words[kind]);
  for (size_t i = 0; i < p->n && n > 0; i++) {
    if (p->list[i].kind != kind) continue;
    size_t more = (size_t)describe(&p->list[i], one, sizeof one);
    if (more >= sizeof one || used + more + (--n ? 7 : 1) > end) {
      snprintf(text + used, end - used, "...");
      return;
    }
    used += (size_t)snprintf(text + used, end - used, "%s%s", one, n ? ", " : "");
  }
}

static lk_status report(const problems *p, const lk_adapter *a, const char *path) {
  char text[560] = "";
  int count[KINDS] = {0}, kinds = 0;
  for (size_t i = 0; i < p->n; i++) kinds += !count[p->list[i].kind]++;
  for (int k = 0; k < KINDS; k++)
    if (count[k]) list_kind(p, k, count[k], text, (sizeof text - 1) / (size_t)kinds);
  if (!p->n) return lk_error(p->ctx, NULL);
  return lk_fail(p->ctx, LK_EFORMAT, "%.160s does not fit adapter '%.30s': %s", path, a->name, text);
}

/* ---- comparing ---- */

static int is_read(const char *dtype) {
  return !strcmp(dtype, "F32") || !strcmp(dtype, "F64") || !strcmp(dtype, "BF16") || !strcmp(dtype, "F16");
}

/* PEFT before August 2026 looked for the biases of adapted layers under a wrong name and saved none of them. */
static int lacks_all_biases(const entries *e) {
  int biases = 0, found = 0;
  for (size_t i = 0; i < e->n; i++) {
    biases += e->list[i].of_bias;
    found += e->list[i].of_bias && e->list[i].stored;
  }
  if (biases && !found) lk_warn(e->ctx, "adapter_load: the file has no biases of adapted layers; they stay the base's");
  return biases && !found;
}

static void compare_entries(const lk_adapter *a, entries *e, const lk_safetensors *file, problems *bad) {
  for (size_t i = 0; i < e->n; i++) {
    entry *one = &e->list[i];
    one->stored = lk_safetensors_find(file, one->name);
    if (!one->stored && one->other) one->stored = lk_safetensors_find(file, one->other);
  }
  int no_biases = a->options->bias == LK_BIAS_ADAPTED && lacks_all_biases(e);
  for (size_t i = 0; i < e->n; i++) {
    entry *one = &e->list[i];
    const lk_stored *s = one->stored;
    lk_view shape = {0};
    if (s) shape = shape_of(s);
    if (!s && one->of_bias && no_biases) continue;
    if (!s) note(bad, MISSING, one, s);
    else if (!lk_view_same_shape(&shape, &one->param->value)) note(bad, MISSHAPEN, one, s);
    else if (!is_read(s->dtype)) note(bad, UNTYPED, one, s);
  }
}

static int is_claimed(const entries *e, const lk_stored *s) {
  for (size_t i = 0; i < e->n; i++)
    if (e->list[i].stored == s) return 1;
  return 0;
}

static int ends_with(const char *text, const char *end) {
  size_t n = strlen(text), k = strlen(end);
  return n >= k && !strcmp(text + n - k, end);
}

/* PEFT writes these besides the copies themselves when bias is "all". */
static int is_spurious(const char *name) {
  return ends_with(name, ".modules_to_save.bias") || ends_with(name, ".original_module.bias");
}

/* f32 values of a view, in the context's memory: the type that is not computed in, widened. */
static lk_status widen(lk_ctx *c, lk_view *v) {
  const uint16_t *from = v->p;
  int64_t n = lk_view_count(v);
  lk_view wide;
  lk_view_init(&wide, LK_F32, v->ndim, v->shape);
  float *to = wide.p = lk_alloc_array(c, (size_t)n + 1, sizeof *to);
  if (!to) return lk_error(c, NULL);
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = (uint32_t)from[i] << 16, sign = bits & 0x80000000u, exponent = from[i] >> 10 & 31;
    if (v->dtype == LK_F16) {
      float small = ldexpf((float)(from[i] & 0x3FF), -24); /* exponent 0: zero and denormal */
      memcpy(&bits, &small, sizeof bits);
      if (exponent) bits = (exponent == 31 ? 255 : exponent + 112) << 23 | (uint32_t)(from[i] & 0x3FF) << 13;
      bits |= sign;
    }
    memcpy(&to[i], &bits, sizeof bits);
  }
  *v = wide;
  return LK_OK;
}

static int is_half(const lk_view *v) { return v->dtype == LK_BF16 || v->dtype == LK_F16; }

/* A tensor's values as f32 or f64; *owned: to be freed, or NULL. */
static lk_status values(lk_ctx *c, lk_safetensors *file, const lk_stored *s, lk_view *v, void **owned) {
  *owned = NULL;
  if (lk_safetensors_view(file, s, v)) return lk_error(c, NULL);
  if (!is_half(v)) return LK_OK;
  if (widen(c, v)) return lk_error(c, NULL);
  *owned = v->p;
  return LK_OK;
}

/* The frozen weight of an adapted layer, which PEFT adds for embeddings: "<prefix><path>.base_layer.weight". */
static const lk_param *base_weight(const lk_adapter *a, const char *prefix, const char *name) {
  lk_module *root = lk_model_root(a->model);
  size_t start = strlen(prefix);
  if (strncmp(name, prefix, start) || !ends_with(name, ".base_layer.weight")) return NULL;
  size_t n = strlen(name) - start - strlen(".base_layer.weight");
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    if (m->site && strlen(m->path) == n && !strncmp(m->path, name + start, n) && lk_site_chain(m->site, a))
      return m->site->weight;
  return NULL;
}

/* Is it the model's own weight, up to the rounding of bf16? */
static int same_base(lk_ctx *c, const lk_param *p, lk_safetensors *file, const lk_stored *s) {
  lk_view shape = shape_of(s), v;
  void *owned;
  if (!lk_view_same_shape(&shape, &p->value) || !is_read(s->dtype) || values(c, file, s, &v, &owned)) return 0;
  int64_t same = 0, n = lk_view_count(&v);
  for (int64_t i = 0; i < n; i++) {
    double ours = lk_view_get(&p->value, i);
    same += fabs(lk_view_get(&v, i) - ours) <= 0x1p-8 * fabs(ours);
  }
  lk_free(c, owned);
  return same == n;
}

static void compare_rest(const lk_adapter *a, const entries *e, lk_safetensors *file, problems *bad) {
  for (size_t i = 0; i < lk_safetensors_count(file) && !lk_error(e->ctx, NULL); i++) {
    const lk_stored *s = lk_safetensors_at(file, i);
    if (is_claimed(e, s) || is_spurious(s->name)) continue;
    const lk_param *base = base_weight(a, e->prefix, s->name);
    if (!base) note(bad, UNEXPECTED, NULL, s);
    else if (!same_base(e->ctx, base, file, s)) note(bad, OTHER_BASE, NULL, s);
  }
}

/* ---- reading ---- */

static lk_status take(lk_ctx *c, const entry *one, lk_safetensors *file) {
  lk_view v;
  void *owned;
  if (values(c, file, one->stored, &v, &owned)) return lk_error(c, NULL);
  lk_param_assign(one->param, &v);
  lk_free(c, owned);
  return lk_error(c, NULL);
}

lk_status lk_peft_read_tensors(lk_adapter *a, const lk_peft_format *f, lk_safetensors *file, const char *path) {
  entries e;
  if (collect(a, f->prefix, &e)) return lk_error(e.ctx, NULL);
  problems bad = {.ctx = e.ctx};
  compare_entries(a, &e, file, &bad);
  compare_rest(a, &e, file, &bad);
  int fits = !report(&bad, a, path);
  for (size_t i = 0; fits && i < e.n; i++)
    if (e.list[i].stored && take(e.ctx, &e.list[i], file)) break;
  lk_free(e.ctx, bad.list);
  entries_free(&e);
  return lk_error(e.ctx, NULL);
}
