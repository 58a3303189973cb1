/* sample.c: choosing a token by its logit: temperature, top-k, top-p. */
#include "generate/sample.h"

#include <math.h>
#include <stdlib.h>

lk_status lk_sample_check(lk_ctx *ctx, const lk_sample_options *o) {
  if (!(o->temperature >= 0 && isfinite(o->temperature)))
    return lk_fail(ctx, LK_EARG, "sample: temperature %g should be 0 or more", o->temperature);
  if (o->top_k < 0) return lk_fail(ctx, LK_EARG, "sample: top_k %lld should be 0 or more", (long long)o->top_k);
  if (!(o->top_p >= 0 && o->top_p <= 1)) return lk_fail(ctx, LK_EARG, "sample: top_p %g should be 0 to 1", o->top_p);
  return LK_OK;
}

static int by_id(const void *a, const void *b) {
  int64_t x = ((const lk_candidate *)a)->id, y = ((const lk_candidate *)b)->id;
  return (x > y) - (x < y);
}

/* The largest first, those of one value in order of ids. */
static int by_value(const void *a, const void *b) {
  double x = ((const lk_candidate *)a)->value, y = ((const lk_candidate *)b)->value;
  return x != y ? (x < y) - (x > y) : by_id(a, b);
}

/* All tokens with a logit above -infinity. */
static lk_status collect(lk_ctx *ctx, const lk_view *logits, lk_candidates *c) {
  int64_t V = lk_view_count(logits);
  c->n = 0;
  if (lk_error(ctx, NULL) || lk_grow(ctx, &c->item, &c->capacity, (size_t)V, sizeof *c->item))
    return lk_error(ctx, NULL);
  for (int64_t i = 0; i < V; i++) {
    double x = lk_view_get(logits, i);
    if (isnan(x) || x == INFINITY)
      return lk_fail(ctx, LK_ENONFINITE, "sample: the logit of token %lld is %g", (long long)i, x);
    if (x != -INFINITY) c->item[c->n++] = (lk_candidate){i, x};
  }
  if (!c->n) return lk_fail(ctx, LK_ENONFINITE, "sample: none of %lld logits is a number", (long long)V);
  return LK_OK;
}

/* Keeps those with at least this value. */
static void keep_from(lk_candidates *c, double least) {
  size_t n = 0;
  for (size_t i = 0; i < c->n; i++)
    if (c->item[i].value >= least) c->item[n++] = c->item[i];
  c->n = n;
}

/* The k-th largest value, k in 1 .. n (quickselect; reorders). */
static double kth_largest(lk_candidate *a, size_t n, size_t k) {
  size_t low = 0, high = n - 1, want = k - 1;
  while (low < high) {
    double pivot = a[low + (high - low) / 2].value;
    size_t i = low, j = high;
    for (;;) {
      while (a[i].value > pivot) i++;
      while (a[j].value < pivot) j--;
      if (i >= j) break;
      lk_candidate other = a[i];
      a[i++] = a[j];
      a[j--] = other;
    }
    if (want <= j) high = j;
    else low = j + 1;
  }
  return a[want].value;
}

static double sum_of(const lk_candidates *c) {
  double sum = 0;
  for (size_t i = 0; i < c->n; i++) sum += c->item[i].value;
  return sum;
}

/* Values that add up to 1. */
static void normalise(lk_candidates *c) {
  double sum = sum_of(c);
  for (size_t i = 0; i < c->n; i++) c->item[i].value /= sum;
}

static void softmax(lk_candidates *c, double temperature) {
  double most = -INFINITY;
  for (size_t i = 0; i < c->n; i++) most = fmax(most, c->item[i].value);
  for (size_t i = 0; i < c->n; i++) c->item[i].value = exp((c->item[i].value - most) / temperature);
  normalise(c);
}

/* The fewest most likely ones that reach p.  Those below (1 - p) / n together miss 1 - p: they need no sorting. */
static void nucleus(lk_candidates *c, double p) {
  double reached = 0;
  size_t n = 0;
  keep_from(c, (1 - p) / (double)c->n);
  qsort(c->item, c->n, sizeof *c->item, by_value);
  while (n < c->n && (n == 0 || reached < p)) reached += c->item[n++].value;
  c->n = n;
  normalise(c);
}

lk_status lk_candidates_find(lk_ctx *ctx, const lk_view *logits, const lk_sample_options *o, lk_candidates *c) {
  if (lk_sample_check(ctx, o) || collect(ctx, logits, c)) return lk_error(ctx, NULL);
  if (o->temperature == 0) {
    lk_candidate best = c->item[0];
    for (size_t i = 1; i < c->n; i++)
      if (c->item[i].value > best.value) best = c->item[i];
    c->item[0] = (lk_candidate){best.id, 1};
    c->n = 1;
    return LK_OK;
  }
  if (o->top_k && (uint64_t)o->top_k < c->n) keep_from(c, kth_largest(c->item, c->n, (size_t)o->top_k));
  qsort(c->item, c->n, sizeof *c->item, by_id); /* sums do not depend on the selection's order */
  softmax(c, o->temperature);
  if (o->top_p > 0 && o->top_p < 1) {
    nucleus(c, o->top_p);
    qsort(c->item, c->n, sizeof *c->item, by_id);
  }
  return LK_OK;
}

int64_t lk_candidates_draw(const lk_candidates *c, double u) {
  double passed = 0;
  size_t last = 0; /* that can be drawn: rounding may leave the sum below u */
  for (size_t i = 0; i < c->n; i++) {
    if (c->item[i].value <= 0) continue;
    last = i;
    passed += c->item[i].value;
    if (u < passed) break;
  }
  return c->item[last].id;
}

lk_status lk_sample_probabilities(lk_ctx *ctx, const lk_view *logits, const lk_sample_options *o, double *p) {
  lk_candidates c = {0};
  if (!lk_candidates_find(ctx, logits, o, &c)) {
    for (int64_t i = 0; i < lk_view_count(logits); i++) p[i] = 0;
    for (size_t i = 0; i < c.n; i++) p[c.item[i].id] = c.item[i].value;
  }
  lk_free(ctx, c.item);
  return lk_error(ctx, NULL);
}

int64_t lk_sample(lk_ctx *ctx, const lk_view *logits, const lk_sample_options *o, double u) {
  lk_candidates c = {0};
  int64_t id = lk_candidates_find(ctx, logits, o, &c) ? -1 : lk_candidates_draw(&c, u);
  lk_free(ctx, c.item);
  return id;
}
