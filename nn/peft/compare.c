/* compare.c: an adapter against a file of tensors: what is missing, unexpected or misshapen, in one message. */
#include "peft.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- what does not fit, in one message ---- */

enum { MISSING, UNEXPECTED, MISSHAPEN, UNTYPED, OTHER_BASE, KINDS };
static const char *const words[] = {"missing", "unexpected", "misshapen", "of a type that is not read",
                                    "unlike the model's frozen weight"};

typedef struct {
  int kind;
  const lk_peft_tensor *e; /* or NULL */
  const lk_stored *s;      /* or NULL */
} problem;

typedef struct {
  lk_ctx *ctx;
  problem *list;
  size_t n, capacity;
} problems;

static void note(problems *p, int kind, const lk_peft_tensor *e, const lk_stored *s) {
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
static int lacks_all_biases(const lk_peft_tensors *e) {
  int biases = 0, found = 0;
  for (size_t i = 0; i < e->n; i++) {
    biases += e->list[i].of_bias;
    found += e->list[i].of_bias && e->list[i].stored;
  }
  if (biases && !found) lk_warn(e->ctx, "adapter_load: the file has no biases of adapted layers; they stay the base's");
  return biases && !found;
}

static void compare_tensors(const lk_adapter *a, lk_peft_tensors *e, const lk_safetensors *file, problems *bad) {
  for (size_t i = 0; i < e->n; i++) {
    lk_peft_tensor *one = &e->list[i];
    one->stored = lk_safetensors_find(file, one->name);
    if (!one->stored && one->other) one->stored = lk_safetensors_find(file, one->other);
    if (one->also) one->twin = lk_safetensors_find(file, one->also);
    if (!one->stored) one->stored = one->twin;
  }
  int no_biases = a->options->bias == LK_BIAS_ADAPTED && lacks_all_biases(e);
  for (size_t i = 0; i < e->n; i++) {
    lk_peft_tensor *one = &e->list[i];
    const lk_stored *s = one->stored;
    lk_view shape = {0};
    if (s) shape = shape_of(s);
    if (!s && ((one->of_bias && no_biases) || one->of_base)) continue;
    if (!s) note(bad, MISSING, one, s);
    else if (!lk_view_same_shape(&shape, &one->param->value)) note(bad, MISSHAPEN, one, s);
    else if (!is_read(s->dtype)) note(bad, UNTYPED, one, s);
  }
}

static int is_claimed(const lk_peft_tensors *e, const lk_stored *s) {
  for (size_t i = 0; i < e->n; i++)
    if (e->list[i].stored == s || e->list[i].twin == s) return 1;
  return 0;
}

static int ends_with(const char *text, const char *end) {
  size_t n = strlen(text), k = strlen(end);
  return n >= k && !strcmp(text + n - k, end);
}

/* PEFT writes these besides the copies themselves when bias is "all", and of embeddings that it adds. */
static int is_spurious(const char *name) {
  return strstr(name, ".modules_to_save.") || strstr(name, ".original_module.");
}

static int begins_with(const char *text, const char *beginning) { return !strncmp(text, beginning, strlen(beginning)); }

static int has_modules_below(lk_module *root, const char *beginning) {
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    if (begins_with(m->path, beginning)) return 1;
  return 0;
}

/* A tensor of a module that HuggingFace's model has and ours does without. */
static int is_aside(const lk_adapter *a, const char *prefix, const char *name) {
  const char *const *s = a->model->aside;
  if (!*prefix || !begins_with(name, prefix)) return 0;
  for (name += strlen(prefix); s && *s; s++)
    if (begins_with(name, *s) && !has_modules_below(&a->model->root, *s)) return 1;
  return 0;
}

/* The frozen weight of an embedding or a head, which PEFT may add: "<prefix><path>.weight", of an adapted layer
 * "<prefix><path>.base_layer.weight". */
static const lk_param *base_weight(const lk_adapter *a, const char *prefix, const char *name) {
  lk_module *root = lk_model_root(a->model);
  size_t start = strlen(prefix);
  int adapted = ends_with(name, ".base_layer.weight");
  if (strncmp(name, prefix, start) || !ends_with(name, ".weight")) return NULL;
  size_t n = strlen(name) - start - strlen(adapted ? ".base_layer.weight" : ".weight");
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    for (const char *path = m->path; path && m->site; path = path == m->path ? m->also : NULL)
      if (strlen(path) == n && !strncmp(path, name + start, n) &&
          (adapted ? lk_site_chain(m->site, a) != NULL : m->site->kind == LK_SITE_EMBEDDING || m->site->head))
        return m->site->weight->alias ? m->site->weight->alias : m->site->weight;
  return NULL;
}

/* Is it the model's own weight, up to the rounding of bf16? */
static int same_base(const lk_param *p, lk_safetensors *file, const lk_stored *s) {
  lk_view shape = shape_of(s), v;
  if (!lk_view_same_shape(&shape, &p->value) || !is_read(s->dtype) || lk_safetensors_view(file, s, &v)) return 0;
  int64_t same = 0, n = lk_view_count(&v);
  for (int64_t i = 0; i < n; i++) {
    double ours = lk_view_get(&p->value, i);
    same += fabs(lk_view_get(&v, i) - ours) <= 0x1p-8 * fabs(ours);
  }
  return same == n;
}

/* PEFT's GLORA writes zeros for a support tensor that a layer has not. */
static int is_zeros(lk_safetensors *file, const lk_stored *s) {
  lk_view v;
  if (!strstr(s->name, ".glora_") || !ends_with(s->name, ".zeros") || !is_read(s->dtype)) return 0;
  if (lk_safetensors_view(file, s, &v)) return 0;
  int64_t zeros = 0, n = lk_view_count(&v);
  for (int64_t i = 0; i < n; i++) zeros += lk_view_get(&v, i) == 0;
  return zeros == n;
}

static void compare_rest(const lk_adapter *a, const lk_peft_tensors *e, lk_safetensors *file, problems *bad) {
  int naside = 0;
  for (size_t i = 0; i < lk_safetensors_count(file) && !lk_error(e->ctx, NULL); i++) {
    const lk_stored *s = lk_safetensors_at(file, i);
    if (is_claimed(e, s) || is_spurious(s->name) || is_zeros(file, s)) continue;
    const lk_param *base = base_weight(a, e->prefix, s->name);
    if (is_aside(a, e->prefix, s->name)) naside++;
    else if (!base) note(bad, UNEXPECTED, NULL, s);
    else if (!same_base(base, file, s)) note(bad, OTHER_BASE, NULL, s);
  }
  if (naside)
    lk_warn(e->ctx, "adapter_load: %d tensors are of modules that the model does without, and are not read", naside);
}

lk_status lk_peft_compare(const lk_adapter *a, lk_peft_tensors *e, lk_safetensors *file, const char *path) {
  problems bad = {.ctx = e->ctx};
  compare_tensors(a, e, file, &bad);
  compare_rest(a, e, file, &bad);
  report(&bad, a, path);
  lk_free(e->ctx, bad.list);
  return lk_error(e->ctx, NULL);
}
