/* half.h: bf16 and f16 to and from f32.  Both are storage only: frozen weights lie in them and are widened where they
 * are used. */
#ifndef LK_HALF_H
#define LK_HALF_H
#include <lorikeet/tensor.h>
#include <string.h>

static inline int lk_dtype_is_half(lk_dtype d) { return d == LK_BF16 || d == LK_F16; }

static inline float lk_bits_to_f32(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static inline uint32_t lk_f32_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float lk_bf16_to_f32(uint16_t h) { return lk_bits_to_f32((uint32_t)h << 16); }

/* Exact: the exponent is moved by a multiplication with 2^112, which also makes denormals right. */
static inline float lk_f16_to_f32(uint16_t h) {
  uint32_t magnitude = h & 0x7FFFu, sign = (uint32_t)(h & 0x8000u) << 16;
  uint32_t special = magnitude >= 0x7C00u ? 0x7F800000u : 0; /* infinity, NaN */
  float scaled = lk_bits_to_f32(magnitude << 13) * lk_bits_to_f32(0x77800000u);
  return lk_bits_to_f32(lk_f32_to_bits(scaled) | sign | special);
}

/* To the nearest, ties to even; NaN stays NaN. */
static inline uint16_t lk_f32_to_bf16(float x) {
  uint32_t bits = lk_f32_to_bits(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40u);
  return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t lk_f32_to_f16(float x) {
  uint32_t bits = lk_f32_to_bits(x), sign = bits >> 16 & 0x8000u, a = bits & 0x7FFFFFFFu;
  if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
  if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); /* 65520 and more round to infinity */
  if (a < 0x38800000u) { /* denormal: adding 0.5 leaves the rounded value in the low bits */
    float shifted = lk_bits_to_f32(a) + 0.5f;
    return (uint16_t)(sign | (lk_f32_to_bits(shifted) - 0x3F000000u));
  }
  return (uint16_t)(sign | ((a - 0x38000000u + 0xFFFu + (a >> 13 & 1)) >> 13));
}

/* n elements of a half dtype with a step, widened into to[0 .. n-1] (f32). */
void lk_widen(lk_dtype from, const void *p, int64_t step, int64_t n, float *to);
/* n f32 elements with a step, times s, rounded to bf16 in to[0 .. n-1]. */
void lk_to_bf16(const float *p, int64_t step, int64_t n, float s, uint16_t *to);

#endif
