/* similarity.c: how alike the rank-one terms of an adapter are: are r experts r different ones? */
#include "model.h"

#include <math.h>

/* Cosines of b_k a_k^T and b_j a_j^T, which are (a_k . a_j) (b_k . b_j) / (|a_k| |a_j| |b_k| |b_j|), from the columns of
 * A^T and of B. */
static double dot(const lk_view *v, int64_t k, int64_t j, int axis) {
  const int64_t n = v->shape[!axis], along = v->stride[!axis], across = v->stride[axis];
  const double *p = v->p;
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += p[k * across + i * along] * p[j * across + i * along];
  return sum;
}

static void fill(const lk_view *A, const lk_view *B, double *cosines, int64_t r) {
  for (int64_t k = 0; k < r; k++)
    for (int64_t j = 0; j <= k; j++) cosines[k * r + j] = dot(A, k, j, 0) * dot(B, k, j, 1);
  for (int64_t k = 0; k < r; k++)
    for (int64_t j = 0; j < k; j++) {
      double lengths = sqrt(cosines[k * r + k]) * sqrt(cosines[j * r + j]);
      cosines[k * r + j] = lengths > 0 ? cosines[k * r + j] / lengths : 0;
      cosines[j * r + k] = cosines[k * r + j];
    }
  for (int64_t k = 0; k < r; k++) cosines[k * r + k] = cosines[k * r + k] > 0;
}

double *lk_at_cosines(lk_at *at, int64_t *r) {
  lk_ctx *c = lk_at_ctx(at);
  double *cosines = NULL;
  lk_view a, b;
  lk_tensor A = lk_nil(), B = lk_nil();
  *r = 0;
  if (!at->method->cls->factors) {
    lk_fail(c, LK_EARG, "similarity: %s at %s has no rank-one terms", at->method->cls->name, lk_at_path(at));
    return NULL;
  }
  lk_tape *t = lk_tape_new(c);
  if (!t) return NULL;
  lk_no_grad(t, 1);
  lk_tape_in_double(t, 1);
  if (!at->method->cls->factors(at, t, &A, &B) && !lk_is_nil(A) && !lk_get(t, A, &a) && !lk_get(t, B, &b)) {
    cosines = lk_alloc_array(c, (size_t)(a.shape[0] * a.shape[0]), sizeof *cosines);
    if (cosines) fill(&a, &b, cosines, *r = a.shape[0]);
  }
  lk_tape_free(t);
  return cosines;
}

double lk_method_similarity(lk_method *m, int *sites) {
  double sum = 0;
  *sites = 0;
  for (int i = 0; i < m->nat; i++) {
    int64_t r;
    double *cosines = lk_at_cosines(m->at[i], &r), of_site = 0;
    for (int64_t k = 0; cosines && k < r * r; k++)
      if (k / r != k % r) of_site += fabs(cosines[k]);
    if (r > 1) sum += of_site / (double)(r * (r - 1));
    *sites += r > 1;
    lk_free(lk_method_ctx(m), cosines);
  }
  return *sites ? sum / *sites : 0;
}
