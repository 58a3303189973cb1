/* combine.h: a new adapter from several LoRA adapters of a model, as PEFT's add_weighted_adapter makes it.
 *
 *   lk_adapter_combine(model, &(lk_combine_options){.name = "both", .mode = "ties", .density = 0.5, .n = 2,
 *                             .names = (const char *[]){"one", "two"}, .weights = (double[]){0.7, 0.3}});
 *
 * With w_i the weights, s_i the scaling of a source at a site, o_i = w_i s_i, D_i = s_i B_i A_i, the new rank r':
 *
 *   linear       A' = sum of sign(o_i) sqrt|o_i| A_i,  B' = sum of sqrt|o_i| B_i             r' = the sources' rank
 *   cat          A' = the rows of all o_i A_i,  B' = the columns of all B_i: exactly sum of o_i B_i A_i    r' = sum r_i
 *   svd          B' A' = the best approximation of rank r' of sum of o_i D_i  (s_i twice)    r' = svd_rank or max r_i
 *   magnitude_prune, dare_linear, ties, dare_ties            as linear, but not by a plain sum; r' = the sources' rank
 *   magnitude_prune_svd, dare_linear_svd, ties_svd, dare_ties_svd  as svd, but not by a plain sum
 *
 * The sums that are not plain first prune every tensor: magnitude_prune and ties keep the int(density * count) elements
 * of largest magnitude (of equal ones the first); the dare modes keep each with probability density and divide by it.
 * ties and dare_ties then keep, element by element, only what has the elected sign, that of the sum ("total") or of
 * the number of signs ("frequency"; a draw is +), and divide the weighted sum by how many were kept.
 *
 * That s_i counts twice in the svd modes is PEFT's way up to version 0.20; in 0.21 it counts once, as with `strict`.
 *
 * TIES: Yadav et al., "TIES-Merging", arXiv 2306.01708; DARE: Yu et al., "Language Models are Super Mario",
 * arXiv 2311.03099; HuggingFace PEFT, src/peft/tuners/lora/model.py. */
#ifndef LORIKEET_COMBINE_H
#define LORIKEET_COMBINE_H
#include <lorikeet/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lk_combine_options {
  const char *name;         /* of the new adapter */
  const char *const *names; /* of the sources; a single one is always combined as "linear" */
  const double *weights;    /* any sign; NULL: 1 each */
  int n;                    /* how many */
  const char *mode;         /* a word of the table above; NULL: "svd" */
  double density;           /* pruning modes: above 0; from 1 on nothing is pruned */
  /* ties modes: "total" (NULL) or "frequency" */
  const char *majority_sign_method;
  int svd_rank; /* svd modes: r'; 0: the largest rank of a source */
  /* svd modes: cut B' and A' to +- this quantile, in (0, 1], of all their values, which depends on the signs that lk_svd
   * chooses; 0: not. */
  double svd_clamp;
  /* Not PEFT's: s_i once in the svd modes too, and the new scaling is 1 even when the first source has rslora, where
   * PEFT's is sqrt(r'). */
  int strict;
} lk_combine_options;

/* Makes the adapter; it is neither active nor trainable (lk_set_active, lk_set_trainable).  As every attaching, it
 * freezes the base.
 *
 * The sources are what PEFT's LORA can be: "lora", "lora | magnitude", each also in "dropout p=... (...)".  The new
 * adapter has the first one's options, with r = alpha = r' and init=default.  It adapts every site that a source adapts;
 * a site's sum is over those that do, and if their rank there is smaller than r', further rows and columns are zero.
 * r_i is the largest rank in a source's spec and overrides.  Magnitudes (DoRA) and biases of lora are not combined, as
 * in PEFT, with a warning: the new magnitudes are the base weight's lengths, the new biases are zero.  Modules that one
 * source saves whole (modules_to_save) are copied.
 *
 * The random masks of the dare modes are drawn from the context's seed, the new adapter's name and the names of
 * the source's parameters, the i-th element with the i-th number.  Everything is computed in double and rounded once.
 *
 * Refused: an unknown source or word; sources of other kinds; targets that are a regular expression in one and names in
 * another; ranks that differ, in the modes that need equal ones; a module that two sources save whole, or that one saves
 * and another adapts; a source that trains biases of the base; the svd modes at a convolution in groups; a model that is
 * merged or has shapes only.  On failure the model is as before.  If there is an adapter of the new name already, it
 * stays as it is, with a warning (PEFT returns silently). */
LK_API lk_status lk_adapter_combine(lk_model *model, const lk_combine_options *options);

#ifdef __cplusplus
}
#endif
#endif
