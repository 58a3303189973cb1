/* quantise.h: frozen weights of a model's linear layers in 16, 8 or 4 bits, under every adapter (QLoRA, arXiv 2305.14314).
 *
 *   lk_model_quantise(model, &(lk_quantise_options){.kind = LK_QUANT_NF4});
 *   lk_attach(model, "default", "lora r=8", "all-linear");
 *
 * The layers compute with the codes, decoded in tiles (lk_quant_linear); an adapter that reads the weight gets it decoded
 * for the pass (lk_site_weight).  Embeddings, norms, convolutions and biases stay as they are.
 *
 * Merging gives the adapted layers a weight W' in the model's dtype, unmerging their codes again; PiSSA and OLoRA put
 * their residual there likewise.  modules_to_save trains a decoded copy.  Saving and loading a quantised model is
 * refused: decode it first (lk_model_dequantise), or merge the adapter into the original model. */
#ifndef LORIKEET_QUANTISE_H
#define LORIKEET_QUANTISE_H
#include <lorikeet/adapter.h>
#include <lorikeet/quant.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lk_quantise_options {
  lk_quant_kind kind;  /* LK_QUANT_NONE: nothing is done */
  int doubled;         /* int8, nf4: the scales are quantised too */
  const char *targets; /* patterns of linear sites, see lk_match; NULL: "all-linear" */
  const char *exclude; /* patterns to leave out; NULL: the heads, "lm_head,score,classifier,cls.*"; "": nothing */
} lk_quantise_options;

/* Replaces the weights of the matching linear sites, one after the other, and frees what they were (a mapped file stays
 * mapped).  Left as they are: weights tied to others, and those quantised already.  Refused: a model that is merged,
 * has adapters, or an f64 model in bf16.  A weight that is quantised does not train.  On error some sites may be
 * quantised. */
LK_API lk_status lk_model_quantise(lk_model *model, const lk_quantise_options *options);
/* Gives every quantised site its decoded weight in the model's dtype; refused while adapters are attached. */
LK_API lk_status lk_model_dequantise(lk_model *model);
/* Of this site's weight now: LK_QUANT_NONE where it is f32 or f64, or stands in for the codes (merged, replaced). */
LK_API lk_quant_kind lk_site_quant(const lk_site *site);
/* Bytes of all base parameters as they are stored, codes and scales included. */
LK_API int64_t lk_model_bytes(lk_model *model);

#ifdef __cplusplus
}
#endif
#endif
