/* half.c: rows of bf16 and f16 widened, rows of f32 narrowed. */
#include "half.h"

#include "real.h"

LK_CLONES static void widen_bf16(const uint16_t *p, int64_t step, int64_t n, float *to) {
  if (step == 1)
    for (int64_t i = 0; i < n; i++) to[i] = lk_bf16_to_f32(p[i]);
  else
    for (int64_t i = 0; i < n; i++) to[i] = lk_bf16_to_f32(p[i * step]);
}

LK_CLONES static void widen_f16(const uint16_t *p, int64_t step, int64_t n, float *to) {
  if (step == 1)
    for (int64_t i = 0; i < n; i++) to[i] = lk_f16_to_f32(p[i]);
  else
    for (int64_t i = 0; i < n; i++) to[i] = lk_f16_to_f32(p[i * step]);
}

LK_CLONES static void to_bf16(const float *p, int64_t step, int64_t n, float s, uint16_t *to) {
  if (step == 1)
    for (int64_t i = 0; i < n; i++) to[i] = lk_f32_to_bf16(s * p[i]);
  else
    for (int64_t i = 0; i < n; i++) to[i] = lk_f32_to_bf16(s * p[i * step]);
}

void lk_to_bf16(const float *p, int64_t step, int64_t n, float s, uint16_t *to) { to_bf16(p, step, n, s, to); }

void lk_widen(lk_dtype from, const void *p, int64_t step, int64_t n, float *to) {
  if (from == LK_BF16) widen_bf16(p, step, n, to);
  else widen_f16(p, step, n, to);
}
