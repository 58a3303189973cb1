/* combine_site.c: the new factors at one site, from those of the sources that adapt it. */
#include "combine.h"

#include <lorikeet/linalg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A source's factors here.  Convolutions are matrices too: A [r, in k0 k1], B [out, r / groups]. */
typedef struct {
  double *A, *B, *delta; /* copies; delta s B A in the modes that want it */
  int64_t rank;
  double weight, scale; /* w, s */
  const char *names[2]; /* of the parameters */
} part;

typedef struct {
  const lk_combine_job *job;
  lk_ctx *ctx;
  lk_combined *to;
  int64_t rows, columns, groups;
  part *parts;
  lk_combine_term *terms;
  int n;
} work;

const lk_at *lk_combine_lora(const lk_site *s, const lk_adapter *a) {
  const lk_at *at = lk_site_chain(s, a);
  return at && at->inner ? at->inner : at;
}

/* ---- the sources' factors ---- */

/* A parameter's values as doubles, all finite; the caller's. */
static double *values(lk_ctx *c, const lk_param *p) {
  const int64_t n = lk_param_count(p);
  double *v = lk_alloc_array(c, (size_t)n + 1, sizeof *v);
  for (int64_t i = 0; v && i < n; i++) {
    v[i] = lk_view_get(&p->value, i);
    if (!isfinite(v[i])) lk_fail(c, LK_ENONFINITE, "combine: %s holds a value that is not finite", p->name);
  }
  return v;
}

static lk_status read_part(work *w, const lk_combine_source *s, part *p) {
  const lk_at *at = lk_combine_lora(w->to->site, s->adapter);
  const lk_param *A = at->params, *B = A->next;
  double rank = lk_at_option(at, "r", 0);
  p->rank = (int64_t)rank;
  p->weight = s->weight;
  p->scale = lk_at_option(at, "alpha", 0) / (lk_at_option(at, "rslora", 0) != 0 ? sqrt(rank) : rank);
  p->names[0] = A->name;
  p->names[1] = B->name;
  p->A = values(w->ctx, A);
  p->B = values(w->ctx, B);
  w->columns = lk_param_count(A) / p->rank;
  return lk_error(w->ctx, NULL);
}

static void free_parts(work *w) {
  for (int i = 0; w->parts && i < w->n; i++) {
    lk_free(w->ctx, w->parts[i].A);
    lk_free(w->ctx, w->parts[i].B);
    lk_free(w->ctx, w->parts[i].delta);
  }
  lk_free(w->ctx, w->parts);
  lk_free(w->ctx, w->terms);
}

/* ---- the new factors ---- */

/* Writes factor A, B into A', B' of rank r': in every group of ranks behind the first `used` of them. */
static void place(const work *w, const double *A, const double *B, int64_t rank, int64_t used, double factor) {
  const int64_t from = rank / w->groups, to = w->job->rank / w->groups, n = w->columns;
  for (int64_t g = 0; g < w->groups; g++)
    for (int64_t k = 0; k < from; k++)
      for (int64_t i = 0; i < n; i++) w->to->A[(g * to + used + k) * n + i] = factor * A[(g * from + k) * n + i];
  for (int64_t o = 0; o < w->rows; o++) memcpy(&w->to->B[o * to + used], &B[o * from], (size_t)from * sizeof *B);
}

static lk_status stack(work *w) {
  int64_t used = 0;
  for (int i = 0; i < w->n; i++) {
    const part *p = &w->parts[i];
    place(w, p->A, p->B, p->rank, used, p->weight * p->scale);
    used += p->rank / w->groups;
  }
  return LK_OK;
}

/* Term i of a sum: of A (which 0), of B (1), of delta (2). */
static lk_status term(work *w, int i, int which, double *p, double weight) {
  char *label = lk_sprintf(w->ctx, "combine %s %s%s", w->job->options->name, w->parts[i].names[which == 1],
                           which == 2 ? " delta" : "");
  if (!label) return lk_error(w->ctx, NULL);
  w->terms[i] = (lk_combine_term){.p = p, .weight = weight, .key = lk_key_make(lk_seed(w->ctx), label)};
  lk_free(w->ctx, label);
  return LK_OK;
}

/* A and B apart; the sign goes to A. */
static lk_status sum_factors(work *w) {
  const int64_t rank = w->parts[0].rank, count[] = {rank * w->columns, w->rows * (rank / w->groups)};
  double *sums[] = {w->parts[0].A, w->parts[0].B}; /* an element is written after it was read */
  for (int which = 0; which < 2; which++) {
    for (int i = 0; i < w->n; i++) {
      const part *p = &w->parts[i];
      double omega = p->weight * p->scale, root = sqrt(fabs(omega));
      if (p->rank != rank)
        return lk_fail(w->ctx, LK_EARG, "combine: mode %s needs equal ranks; at %s they are %lld and %lld",
                       w->job->rule.mode->name, w->to->site->module->path, (long long)rank, (long long)p->rank);
      if (term(w, i, which, which ? p->B : p->A, omega < 0 && !which ? -root : root)) return lk_error(w->ctx, NULL);
    }
    if (lk_combine_sum(w->ctx, &w->job->rule, w->terms, w->n, count[which], sums[which])) return lk_error(w->ctx, NULL);
  }
  place(w, sums[0], sums[1], rank, 0, 1);
  return LK_OK;
}

/* s B A */
static lk_status make_delta(work *w, part *p) {
  const int64_t n = w->columns, r = p->rank;
  p->delta = lk_alloc_array(w->ctx, (size_t)(w->rows * n) + 1, sizeof *p->delta);
  if (!p->delta) return lk_error(w->ctx, NULL);
  for (int64_t o = 0; o < w->rows; o++)
    for (int64_t k = 0; k < r; k++) {
      const double b = p->scale * p->B[o * r + k], *a = &p->A[k * n];
      for (int64_t i = 0; i < n; i++) p->delta[o * n + i] += b * a[i];
    }
  return LK_OK;
}

/* The q-quantile of n sorted values, between them linearly. */
static double quantile(const double *sorted, int64_t n, double q) {
  double at = q * (double)(n - 1), low = floor(at);
  int64_t i = (int64_t)low, j = i + 1 < n ? i + 1 : i;
  return sorted[i] + (at - low) * (sorted[j] - sorted[i]);
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Cuts all values to +- their q-quantile. */
static lk_status clamp(lk_ctx *c, double *v, int64_t n, double q) {
  double *sorted = lk_alloc_array(c, (size_t)n, sizeof *sorted);
  if (!sorted) return lk_error(c, NULL);
  memcpy(sorted, v, (size_t)n * sizeof *v);
  qsort(sorted, (size_t)n, sizeof *sorted, by_value);
  double high = quantile(sorted, n, q);
  for (int64_t i = 0; i < n; i++) v[i] = fmin(fmax(v[i], -high), high);
  lk_free(c, sorted);
  return LK_OK;
}

static lk_view matrix(double *p, int64_t rows, int64_t columns, int64_t step) {
  return (lk_view){.p = p, .dtype = LK_F64, .ndim = 2, .shape = {rows, columns}, .stride = {step, 1}};
}

/* The leading singular triples of delta: B' = U S, A' = V^T. */
static lk_status decompose(work *w, double *delta) {
  const int64_t m = w->rows, n = w->columns, k = m < n ? m : n, r = w->job->rank < k ? w->job->rank : k;
  double *U = lk_alloc_array(w->ctx, (size_t)(m * k + k + k * n + r * (m + n)), sizeof *U);
  if (!U) return lk_error(w->ctx, NULL);
  double *S = U + m * k, *V = S + k, *B = V + k * n, *A = B + m * r;
  lk_view d = matrix(delta, m, n, n), u = matrix(U, m, k, k), v = matrix(V, k, n, n);
  lk_view s = {.p = S, .dtype = LK_F64, .ndim = 1, .shape = {k}, .stride = {1}};
  if (!lk_svd(w->ctx, &d, &u, &s, &v)) {
    for (int64_t o = 0; o < m; o++)
      for (int64_t j = 0; j < r; j++) B[o * r + j] = U[o * k + j] * S[j];
    memcpy(A, V, (size_t)(r * n) * sizeof *A);
    if (w->job->options->svd_clamp > 0) clamp(w->ctx, B, r * (m + n), w->job->options->svd_clamp);
    if (!lk_error(w->ctx, NULL)) place(w, A, B, r, 0, 1);
  }
  lk_free(w->ctx, U);
  return lk_error(w->ctx, NULL);
}

static lk_status sum_deltas(work *w) {
  if (w->groups > 1)
    return lk_fail(
        w->ctx, LK_EARG,
        "combine: mode %s needs the change of a weight, and lora at %s, a convolution in %lld groups, is none",
        w->job->rule.mode->name, w->to->site->module->path, (long long)w->groups);
  for (int i = 0; i < w->n; i++) {
    part *p = &w->parts[i];
    double weight = w->job->options->strict ? p->weight : p->weight * p->scale; /* delta has s already */
    if (make_delta(w, p) || term(w, i, 2, p->delta, weight)) return lk_error(w->ctx, NULL);
  }
  double *sum = w->parts[0].delta;
  if (lk_combine_sum(w->ctx, &w->job->rule, w->terms, w->n, w->rows * w->columns, sum)) return lk_error(w->ctx, NULL);
  return decompose(w, sum);
}

lk_status lk_combine_site(const lk_combine_job *job, lk_combined *to) {
  const lk_site *s = to->site;
  work w = {.job = job, .ctx = job->ctx, .to = to, .rows = s->out};
  w.groups = s->kind == LK_SITE_CONV2D && s->conv.groups ? s->conv.groups : 1;
  w.parts = lk_alloc_array(w.ctx, (size_t)job->n, sizeof *w.parts);
  w.terms = lk_alloc_array(w.ctx, (size_t)job->n, sizeof *w.terms);
  for (int i = 0; w.terms && i < job->n && !lk_error(w.ctx, NULL); i++)
    if (lk_combine_lora(s, job->sources[i].adapter)) read_part(&w, &job->sources[i], &w.parts[w.n++]);
  if (!lk_error(w.ctx, NULL)) to->A = lk_alloc_array(w.ctx, (size_t)(job->rank * w.columns), sizeof *to->A);
  if (to->A) to->B = lk_alloc_array(w.ctx, (size_t)(w.rows * (job->rank / w.groups)) + 1, sizeof *to->B);
  if (to->B && job->rule.mode->stack) stack(&w);
  else if (to->B && job->rule.mode->of_delta) sum_deltas(&w);
  else if (to->B) sum_factors(&w);
  free_parts(&w);
  return lk_error(w.ctx, NULL);
}
