/* quant_kernel.h: a block of nf4 codes to f32, on AVX-512; where lk_kernel_usable() says so. */
#ifndef LK_QUANT_KERNEL_H
#define LK_QUANT_KERNEL_H
#include <stdint.h>

/* y[0 .. 63] = s level[c] of the 64 codes in 32 bytes, the first of a byte high: the bits of the plain loop. */
void lk_kernel_nf4(const uint8_t *code, const float level[16], float s, float *y);

#endif
