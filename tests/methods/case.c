/* case.c: a golden case: its tensors, its hyper-parameters, and comparing. */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the file ---- */

int golden_open(golden *g, const char *file) {
  g->file = lk_safetensors_open(g->ctx, file);
  if (g->file) g->seen = lk_alloc(g->ctx, lk_safetensors_count(g->file) + 1);
  return g->seen ? 0 : -1;
}

void golden_close(golden *g) {
  for (size_t i = 0; i < g->ncopies; i++) lk_free(g->ctx, g->copies[i]);
  lk_free(g->ctx, g->copies);
  lk_free(g->ctx, g->seen);
  lk_safetensors_close(g->file);
}

/* ---- tensors ---- */

/* Index of a tensor, or -1. */
static int find(const golden *g, const char *name) {
  for (size_t i = 0; i < lk_safetensors_count(g->file); i++)
    if (!strcmp(lk_safetensors_at(g->file, i)->name, name)) return (int)i;
  return -1;
}

int golden_has(const golden *g, const char *name) { return find(g, name) >= 0; }

int golden_has_prefix(const golden *g, const char *prefix) {
  for (size_t i = 0; prefix && i < lk_safetensors_count(g->file); i++)
    if (!strncmp(lk_safetensors_at(g->file, i)->name, prefix, strlen(prefix))) return 1;
  return 0;
}

static int get_as(golden *g, const char *name, lk_dtype dtype, lk_view *v) {
  lk_view stored;
  int i = find(g, name);
  if (i < 0 || lk_safetensors_view(g->file, lk_safetensors_at(g->file, (size_t)i), &stored)) return 0;
  if (stored.dtype == LK_F16 || stored.dtype == LK_BF16) {
    lk_fail(g->ctx, LK_EDTYPE, "unsupported: %s is %s", name, lk_dtype_name(stored.dtype));
    return 0;
  }
  g->seen[i] = 1;
  lk_view_init(v, dtype, stored.ndim, stored.shape);
  v->p = lk_alloc(g->ctx, lk_view_bytes(v) + 1);
  if (!v->p || lk_grow(g->ctx, &g->copies, &g->copy_capacity, g->ncopies + 1, sizeof *g->copies)) {
    lk_free(g->ctx, v->p);
    return 0;
  }
  g->copies[g->ncopies++] = v->p;
  for (int64_t k = 0, n = lk_view_count(v); k < n; k++) lk_view_set(v, k, lk_view_get(&stored, k));
  return 1;
}

int golden_get(golden *g, const char *name, lk_view *v) { return get_as(g, name, LK_F64, v); }

int golden_get_whole(golden *g, const char *name, lk_view *v) { return get_as(g, name, LK_I64, v); }

int golden_need(golden *g, const char *name, lk_view *v) {
  if (golden_get(g, name, v)) return 1;
  lk_fail(g->ctx, LK_EARG, "the file has no tensor '%s'", name);
  return 0;
}

/* The same shape, apart from axes of length 1. */
static int same_shape(const lk_view *a, const lk_view *b) {
  int i = 0, j = 0;
  for (;;) {
    while (i < a->ndim && a->shape[i] == 1) i++;
    while (j < b->ndim && b->shape[j] == 1) j++;
    if (i == a->ndim || j == b->ndim) return i == a->ndim && j == b->ndim;
    if (a->shape[i++] != b->shape[j++]) return 0;
  }
}

void golden_reshape(lk_view *v, const lk_view *like) {
  void *p = v->p;
  if (!same_shape(v, like)) return;
  lk_view_init(v, v->dtype, like->ndim, like->shape);
  v->p = p;
}

void golden_all_seen(golden *g) {
  char names[300] = "";
  size_t used = 0;
  for (size_t i = 0; i < lk_safetensors_count(g->file) && used < sizeof names; i++)
    if (!g->seen[i])
      used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                               lk_safetensors_at(g->file, i)->name);
  if (used) lk_fail(g->ctx, LK_EARG, "unsupported: nothing is known about the recorded %s", names);
}

/* ---- hyper-parameters ---- */

const char *golden_text(const golden *g, const char *key, const char *fallback) {
  const char *s = lk_safetensors_metadata(g->file, key);
  return s ? s : fallback;
}

/* The numbers in a text like "(2, 1)", at most two; -1 if there is anything else in it. */
static int numbers(const char *s, double v[2]) {
  int n = 0;
  for (;;) {
    s += strspn(s, " \t\n[](),\"");
    if (!*s) return n;
    char *end;
    double x = strtod(s, &end);
    if (end == s || n == 2) return -1;
    v[n++] = x;
    s = end;
  }
}

double golden_real(golden *g, const char *key, double fallback) {
  const char *s = golden_text(g, key, NULL);
  double v[2];
  lk_view tensor;
  if (!s)
    return golden_has(g, key) && golden_get(g, key, &tensor) && lk_view_count(&tensor) == 1 ? lk_view_get(&tensor, 0)
                                                                                            : fallback;
  if (!strcasecmp(s, "null") || !strcasecmp(s, "none")) return fallback;
  if (numbers(s, v) == 1) return v[0];
  lk_fail(g->ctx, LK_EARG, "unsupported: the metadata say %s = '%s', which is not a number", key, s);
  return fallback;
}

int golden_flag(golden *g, const char *key, int fallback) {
  const char *s = golden_text(g, key, NULL);
  if (s && (!strcasecmp(s, "true") || !strcasecmp(s, "\"true\""))) return 1;
  if (s && (!strcasecmp(s, "false") || !strcasecmp(s, "\"false\""))) return 0;
  return golden_real(g, key, fallback) != 0;
}

void golden_pair(golden *g, const char *key, int64_t fallback, int64_t pair[2]) {
  const char *s = golden_text(g, key, NULL);
  double v[2] = {(double)fallback, (double)fallback};
  lk_view tensor;
  int n = 1;
  if (s) n = numbers(s, v);
  else if (golden_has(g, key) && golden_get(g, key, &tensor) && (n = (int)lk_view_count(&tensor)) <= 2)
    for (int i = 0; i < n; i++) v[i] = lk_view_get(&tensor, i);
  if (n < 1 || n > 2)
    lk_fail(g->ctx, LK_EARG, "unsupported: the metadata say %s = '%s': want one or two numbers", key, s ? s : "?");
  pair[0] = (int64_t)v[0];
  pair[1] = (int64_t)v[n == 2];
}

/* ---- comparing ---- */

/* A number that is none on either side is an infinite error. */
static double error_of(const lk_view *got, const lk_view *want) {
  double error = 0, largest = 1;
  for (int64_t i = 0, n = lk_view_count(want); i < n; i++) {
    double a = lk_view_get(got, i), b = lk_view_get(want, i);
    if (!isfinite(a) || !isfinite(b)) return INFINITY;
    error = fmax(error, fabs(a - b));
    largest = fmax(largest, fabs(b));
  }
  return error / largest;
}

void golden_expect(golden *g, const char *name, const lk_view *got, const lk_view *want, double tolerance) {
  char ours[160], recorded[160], *wrong = *g->wrong ? NULL : g->wrong;
  if (lk_error(g->ctx, NULL)) return;
  g->compared++;
  if (!same_shape(got, want)) {
    if (wrong)
      snprintf(wrong, sizeof g->wrong, "%s has shape %s, recorded is %s", name, lk_view_format(got, ours),
               lk_view_format(want, recorded));
    g->largest = INFINITY;
    return;
  }
  double error = error_of(got, want);
  if (g->verbose) printf("        %-36s %.2g\n", name, error);
  if (error >= g->largest) snprintf(g->where, sizeof g->where, "%s", name);
  g->largest = fmax(g->largest, error);
  if (wrong && !(error <= tolerance))
    snprintf(wrong, sizeof g->wrong, "%s is wrong by %.3g, allowed is %g", name, error, tolerance);
}

void golden_compare_as(golden *g, const char *name, const char *label, const lk_view *got, double tolerance) {
  lk_view want;
  int i = find(g, name);
  if (i < 0 || !golden_get(g, name, &want)) return;
  /* what was stored in single precision is not known any better */
  if (!strcmp(lk_safetensors_at(g->file, (size_t)i)->dtype, "F32")) tolerance = fmax(tolerance, 1e-5);
  golden_expect(g, label, got, &want, tolerance);
}

void golden_compare(golden *g, const char *name, const lk_view *got) {
  golden_compare_as(g, name, name, got, g->tolerance);
}
