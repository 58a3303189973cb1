/* quant_kernel.c: a block of nf4 codes to f32: the 16 levels fill one register, and codes choose from it. */
#include "quant_kernel.h"

#if defined __x86_64__ && defined __GNUC__
#include <immintrin.h>

__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq"))) void
lk_kernel_nf4(const uint8_t *code, const float level[16], float s, float *y) {
  __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(level), _mm512_set1_ps(s));
  for (int i = 0; i < 32; i += 8) {
    __m128i low = _mm_loadl_epi64((const __m128i *)(code + i)); /* only the last four bits choose */
    __m128i in_order = _mm_unpacklo_epi8(_mm_srli_epi16(low, 4), low);
    _mm512_storeu_ps(y + 2 * i, _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(in_order), scaled));
  }
}
#else
void lk_kernel_nf4(const uint8_t *code, const float level[16], float s, float *y) {
  for (int i = 0; i < 64; i++) y[i] = s * level[i % 2 ? code[i / 2] & 15 : code[i / 2] >> 4];
}
#endif
