/* budget.c: AdaLoRA's rank allocation: the budget's schedule, smoothed importance, the ranking of all triplets.
 *
 *   b(t) = b0 for t <= ti;  trunc((b0 - bT) (1 - (t - ti) / (T - tf - ti))^3 + bT) in between;  bT for t > T - tf
 *   Ib <- beta1 Ib + (1 - beta1) I,   Ub <- beta2 Ub + (1 - beta2) |I - Ib|,   I = |w dL/dw|,   s(w) = Ib Ub
 *   S_i = s(E_i) + (mean_j s(A_ij) + mean_j s(B_ji)),   triplet i stays if S_i > the (b0 - b(t))-th smallest of all S
 *
 * Zhang et al., "AdaLoRA", arXiv 2303.10512, section 3, and HuggingFace PEFT's RankAllocator, which is what runs: the
 * paper's cube has another offset, and never reaches the target. */
#include <lorikeet/adalora.h>
#include <math.h>
#include <string.h>

/* ---- the budget ---- */

const char *lk_rank_schedule_fault(const lk_rank_schedule *s) {
  if (s->target < 0) return "the target is negative";
  if (s->initial <= 0) return "there are no triplets to begin with";
  if (s->target > s->initial) return "the target is above the rank at the start";
  if (s->total <= 0) return "the number of training steps is not known";
  if (s->tinit < 0 || s->tfinal < 0 || s->interval <= 0) return "steps cannot be negative, nor the interval 0";
  if (s->tinit >= s->total - s->tfinal) return "no step is left for lowering the rank";
  return NULL;
}

int64_t lk_rank_budget(const lk_rank_schedule *s, int64_t step, int *due) {
  int64_t last = s->total - s->tfinal;
  if (due) *due = step > s->tinit && (step > last || step % s->interval == 0);
  if (step <= s->tinit) return s->initial;
  if (step > last) return s->target;
  double left = 1 - (double)(step - s->tinit) / (double)(last - s->tinit);
  return (int64_t)((double)(s->initial - s->target) * pow(left, 3.0) + (double)s->target);
}

/* ---- importance ---- */

/* The same for both types of elements; a contiguous loop, computed in the elements' type as PEFT does. */
#define SMOOTH(R, ABS)                                                                                                 \
  static void smooth_##R(int64_t n, const R *w, const R *g, R b1, R c1, R b2, R c2, R *Ib, R *Ub) {                    \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      R I = g ? ABS(w[i] * g[i]) : 0;                                                                                  \
      Ib[i] = b1 * Ib[i] + c1 * I;                                                                                     \
      Ub[i] = b2 * Ub[i] + c2 * ABS(I - Ib[i]);                                                                        \
    }                                                                                                                  \
  }
SMOOTH(float, fabsf)
SMOOTH(double, fabs)

void lk_importance(lk_dtype dtype, int64_t n, const void *value, const void *grad, double beta1, double beta2, void *Ib,
                   void *Ub) {
  double c1 = 1 - beta1, c2 = 1 - beta2;
  if (dtype == LK_F64) smooth_double(n, value, grad, beta1, c1, beta2, c2, Ib, Ub);
  else smooth_float(n, value, grad, (float)beta1, (float)c1, (float)beta2, (float)c2, Ib, Ub);
}

/* s(w) = Ib Ub of element i of a part. */
static double element(const lk_triplets *m, int part, int64_t i) {
  if (m->value[part].dtype == LK_F64) return ((const double *)m->Ib[part])[i] * ((const double *)m->Ub[part])[i];
  return (double)((const float *)m->Ib[part])[i] * (double)((const float *)m->Ub[part])[i];
}

static int64_t rank_of(const lk_triplets *m) { return m->value[LK_TRIPLET_A].shape[0]; }

void lk_triplet_scores(const lk_triplets *m, double *score) {
  const int64_t r = rank_of(m), in = m->value[LK_TRIPLET_A].shape[1], out = m->value[LK_TRIPLET_B].shape[0];
  for (int64_t i = 0; i < r; i++) {
    double a = 0, b = 0;
    for (int64_t j = 0; j < in; j++) a += element(m, LK_TRIPLET_A, i * in + j);
    for (int64_t j = 0; j < out; j++) b += element(m, LK_TRIPLET_B, j * r + i);
    score[i] = element(m, LK_TRIPLET_E, i) + (a / (double)in + b / (double)out);
  }
}

/* ---- ranking ---- */

/* Hoare's selection: what is left of `low` is smaller, what is right of `high` larger than the one looked for. */
double lk_kth_smallest(double *v, int64_t n, int64_t k) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    double pivot = v[low + (high - low) / 2];
    int64_t i = low - 1, j = high + 1;
    for (;;) {
      do i++;
      while (v[i] < pivot);
      do j--;
      while (v[j] > pivot);
      if (i >= j) break;
      double was = v[i];
      v[i] = v[j];
      v[j] = was;
    }
    if (k - 1 <= j) high = j;
    else low = j + 1;
  }
  return v[k - 1];
}

static void set(lk_dtype dtype, void *p, int64_t i, double x) {
  if (dtype == LK_F64) ((double *)p)[i] = x;
  else ((float *)p)[i] = (float)x;
}

static int is_kept(const lk_triplets *m, int64_t i) {
  return m->value[0].dtype == LK_F64 ? ((const double *)m->kept)[i] != 0 : ((const float *)m->kept)[i] != 0;
}

/* E := 0 where the pattern says so. */
static void mask(lk_rank_allocator *a) {
  for (lk_triplets *m = a->matrix; m < a->matrix + a->n; m++)
    for (int64_t i = 0; i < rank_of(m); i++)
      if (!is_kept(m, i)) set(m->value[LK_TRIPLET_E].dtype, m->value[LK_TRIPLET_E].p, i, 0);
}

/* All scores, one matrix after the other: their number; -1 with an error for one that is no number. */
static int64_t collect_scores(lk_ctx *ctx, lk_rank_allocator *a) {
  int64_t n = 0;
  for (int k = 0; k < a->n; k++) {
    lk_triplet_scores(&a->matrix[k], a->score + n);
    for (int64_t end = n + rank_of(&a->matrix[k]); n < end; n++)
      if (isnan(a->score[n])) {
        lk_fail(ctx, LK_ENONFINITE, "adalora: the importance of a triplet of matrix %d is not a number", k);
        return -1;
      }
  }
  return n;
}

lk_status lk_rank_prune(lk_ctx *ctx, lk_rank_allocator *a, int64_t budget) {
  int64_t n = collect_scores(ctx, a), k = n - budget, used = 0;
  double largest = 0;
  if (n < 0) return lk_error(ctx, NULL);
  for (int64_t i = 0; i < n; i++) largest = fmax(largest, a->score[i]);
  a->skipped = largest == 0 && k > 0;
  a->ranked = !a->skipped;
  a->threshold = 0;
  if (a->skipped) return LK_OK;
  if (k > 0) {
    memcpy(a->order, a->score, (size_t)n * sizeof *a->order);
    a->threshold = lk_kth_smallest(a->order, n, k);
  }
  for (lk_triplets *m = a->matrix; m < a->matrix + a->n; used += rank_of(m++))
    for (int64_t i = 0; i < rank_of(m); i++)
      set(m->value[0].dtype, m->kept, i, k <= 0 || a->score[used + i] > a->threshold);
  mask(a);
  return LK_OK;
}

/* ---- a step ---- */

static void smooth_all(lk_rank_allocator *a) {
  for (lk_triplets *m = a->matrix; m < a->matrix + a->n; m++)
    for (int p = 0; p < LK_TRIPLET_PARTS; p++)
      lk_importance(m->value[p].dtype, lk_view_count(&m->value[p]), m->value[p].p, m->grad[p], a->beta1, a->beta2,
                    m->Ib[p], m->Ub[p]);
}

static void forget_importance(lk_rank_allocator *a) {
  for (lk_triplets *m = a->matrix; m < a->matrix + a->n; m++)
    for (int p = 0; p < LK_TRIPLET_PARTS; p++) {
      memset(m->Ib[p], 0, lk_view_bytes(&m->value[p]));
      memset(m->Ub[p], 0, lk_view_bytes(&m->value[p]));
    }
}

lk_status lk_rank_step(lk_ctx *ctx, lk_rank_allocator *a, int64_t step) {
  const int64_t last = a->schedule.total - a->schedule.tfinal;
  int due;
  a->budget = lk_rank_budget(&a->schedule, step, &due);
  a->ranked = a->skipped = 0;
  a->threshold = 0;
  if (step < last) smooth_all(a);
  if (step < last && !due) return LK_OK;
  if (step > last) {
    mask(a);
    return LK_OK;
  }
  if (lk_rank_prune(ctx, a, a->budget)) return lk_error(ctx, NULL);
  if (step == last) forget_importance(a);
  return LK_OK;
}
