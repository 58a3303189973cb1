/* quant.h: codes of frozen weights in 8 and 4 bits, block by block (Dettmers et al., "QLoRA: Efficient Finetuning of
 * Quantized LLMs", arXiv 2305.14314, section 3).
 *
 * A row of W [out, in] is cut into blocks of 64 elements; s = max |W| of a block is its scale.  A block's element is
 *   int8:  W ~ s / 127 * c, c = round(127 W / s), -127 .. 127
 *   nf4:   W ~ s * level[c], c the nearest of 16 levels, quantiles of the normal distribution
 * Double quantisation codes the scales themselves, in groups of 256 that may span rows: s ~ mean + g * c, c 8 bits. */
#ifndef LORIKEET_QUANT_H
#define LORIKEET_QUANT_H
#include <lorikeet/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LK_QUANT_BLOCK = 64, LK_QUANT_GROUP = 256 };

typedef enum lk_quant_kind { LK_QUANT_NONE, LK_QUANT_BF16, LK_QUANT_INT8, LK_QUANT_NF4 } lk_quant_kind;
/* "f32", "bf16", "int8", "nf4" to a kind; -1: none of them. */
LK_API int lk_quant_find(const char *name);
LK_API const char *lk_quant_name(lk_quant_kind kind);

/* How a matrix is coded. */
typedef struct lk_quant {
  lk_quant_kind kind; /* LK_QUANT_INT8 or LK_QUANT_NF4 */
  int doubled;        /* the scales are quantised too */
  int64_t in;         /* elements of a row */
} lk_quant;

/* The 16 levels of nf4, ascending from -1 to 1 (appendix E of the paper). */
LK_API const float *lk_quant_levels(void);
LK_API int64_t lk_quant_blocks(const lk_quant *q); /* of a row */
/* Shapes for W [out, q->in], without memory.  codes u8 [out, bytes]: a row's int8 codes (two's complement), or its nf4
 * codes, two in a byte, the first one high; with `doubled` behind them a byte for each block's scale.  scales of the
 * real dtype: [out, blocks] or, with `doubled`, [1 + groups]: the mean of the scales, then g of each group.
 * -1 if a size is negative or too large. */
LK_API int lk_quant_shapes(const lk_quant *q, lk_dtype dtype, int64_t out, lk_view *codes, lk_view *scales);
/* Codes W [out, in] (f32, f64, bf16 or f16, any strides; rounded to f32 first) into row-major memory of these shapes.
 * LK_ENONFINITE if an element is not finite. */
LK_API lk_status lk_quant_encode(lk_ctx *ctx, const lk_quant *q, const lk_view *W, const lk_view *codes,
                                 const lk_view *scales);
/* Rows first .. first + n - 1 as real numbers of the scales' dtype into to [n, in], row-major. */
LK_API void lk_quant_decode(const lk_quant *q, const lk_view *codes, const lk_view *scales, int64_t first, int64_t n,
                            void *to);

#ifdef __cplusplus
}
#endif
#endif
