/* adalora.h: AdaLoRA's rank allocation by itself: which singular values of which matrices stay under a falling budget.
 *
 *   Delta_k = B diag(E) A,  A [r, in], B [out, r], E [r, 1];  triplet i of matrix k = (B[:, i], E[i], A[i, :])
 *
 * After every optimiser step t the allocator smooths the importance of every element, and from time to time ranks the
 * triplets of all matrices together and sets E of the least important ones to 0.  Nothing is lost by that: E still gets
 * a gradient, so a triplet may win the next ranking.  The adapter `adalora` calls it by itself (lk_adapter_follow).
 *
 * Zhang et al., "AdaLoRA", ICLR 2023, arXiv 2303.10512; where paper and code differ, HuggingFace PEFT's code. */
#ifndef LORIKEET_ADALORA_H
#define LORIKEET_ADALORA_H
#include <lorikeet/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the budget: how many triplets stay ---- */

/* b(t) = initial until tinit, then a cubic down to target at total - tfinal, then target. */
typedef struct lk_rank_schedule {
  int64_t initial, target;                /* triplets of all matrices together at the start and at the end */
  int64_t tinit, tfinal, total, interval; /* steps; a ranking every `interval` of them */
} lk_rank_schedule;

/* The sentence that says why a schedule cannot work, or NULL. */
LK_API const char *lk_rank_schedule_fault(const lk_rank_schedule *s);
/* The budget at step t; *due (NULL: not wanted): 1 if triplets are masked at this step. */
LK_API int64_t lk_rank_budget(const lk_rank_schedule *s, int64_t step, int *due);

/* ---- importance ---- */

/* I = |w grad|, Ib = beta1 Ib + (1 - beta1) I, Ub = beta2 Ub + (1 - beta2) |I - Ib| for n elements of f32 or f64.
 * value: after the optimiser's step; grad: what made that step, NULL for zeros; Ib, Ub start as zeros. */
LK_API void lk_importance(lk_dtype dtype, int64_t n, const void *value, const void *grad, double beta1, double beta2,
                          void *Ib, void *Ub);

enum { LK_TRIPLET_A, LK_TRIPLET_E, LK_TRIPLET_B, LK_TRIPLET_PARTS };

/* One matrix as the allocator sees it.  All views are row-major, all of one dtype, f32 or f64. */
typedef struct lk_triplets {
  lk_view value[LK_TRIPLET_PARTS];                   /* A [r, in], E [r, 1], B [out, r] */
  const void *grad[LK_TRIPLET_PARTS];                /* of these, in the same order; NULL: zeros */
  void *Ib[LK_TRIPLET_PARTS], *Ub[LK_TRIPLET_PARTS]; /* smoothed importance and its uncertainty */
  void *kept;                                        /* [r]: 1, or 0 for a pruned triplet; ones at the start */
} lk_triplets;

/* score[i] = s(E_i) + (mean over j of s(A_ij) + mean over j of s(B_ji)), s = Ib Ub, for the r triplets of a matrix. */
LK_API void lk_triplet_scores(const lk_triplets *m, double *score);

/* ---- ranking ---- */

/* The k-th smallest of n numbers, k = 1 .. n; reorders them. */
LK_API double lk_kth_smallest(double *numbers, int64_t n, int64_t k);

typedef struct lk_rank_allocator {
  lk_rank_schedule schedule;
  double beta1, beta2;
  lk_triplets *matrix; /* the caller's */
  int n;
  double *score, *order; /* the caller's: `initial` numbers each; score: of the last ranking, matrix after matrix */
  /* what the last step did: */
  int64_t budget;
  int ranked;       /* triplets were ranked, and E of those that lost is 0 */
  int skipped;      /* a ranking was due and left out because all scores are zero: it would have pruned everything */
  double threshold; /* the largest score that was pruned; 0 without a ranking */
} lk_rank_allocator;

/* Keeps the triplets whose score is above the (initial - budget)-th smallest one, so that ties are pruned together; E
 * of the others becomes 0.  When all scores are zero, nothing is done but setting `skipped`.  LK_ENONFINITE for a
 * score that is no number. */
LK_API lk_status lk_rank_prune(lk_ctx *ctx, lk_rank_allocator *a, int64_t budget);
/* Step t = 0, 1, ... of training, once after each step of the optimiser while the gradients are still there:
 * importance and, when it is due, ranking before step total - tfinal; there a last ranking; after it E stays masked. */
LK_API lk_status lk_rank_step(lk_ctx *ctx, lk_rank_allocator *a, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
