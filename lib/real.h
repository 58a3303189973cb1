/* real.h: one body for float and double, and the elementary functions of both.
 *
 * f64 uses libm, so that gradient checks and golden data hold; f32 uses polynomials that the compiler can
 * vectorise (absolute errors below 3e-7, tested in tests/test_real.c). */
#ifndef LK_REAL_H
#define LK_REAL_H
#include <lorikeet/tensor.h>
#include <math.h>

/* LK_REAL(dtype, { const R *x = ...; }): the block once with R = float and once with R = double. */
#define LK_REAL(dt, ...)                                                                                               \
  do {                                                                                                                 \
    if ((dt) == LK_F64) {                                                                                              \
      typedef double R;                                                                                                \
      __VA_ARGS__                                                                                                      \
    } else {                                                                                                           \
      typedef float R;                                                                                                 \
      __VA_ARGS__                                                                                                      \
    }                                                                                                                  \
  } while (0)

/* On a kernel: compiled for AVX-512, AVX2 and the plain machine, chosen at run time.  Helpers called inside
 * must be inline (LK_INLINE).  Off under sanitizers, whose run time is not ready when the choice is made. */
#if defined __x86_64__ && defined __GNUC__ && !defined __clang__ && !defined LK_SANITIZE
#define LK_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LK_CLONES
#endif
#define LK_INLINE static inline __attribute__((always_inline, unused))

/* exp, range-reduced to |r| <= ln 2 / 2 (coefficients of Cephes' expf); inf above 88.7, 0 below -87.3. */
LK_INLINE float lk_fast_exp(float x) {
  float c = x < -87.33f ? -87.33f : x > 88.72f ? 88.72f : x;
  union {
    float f;
    int32_t i;
  } n = {c * 1.44269504f + 12582912.f}, scale; /* the magic constant leaves round(c / ln 2) in the low bits */
  float k = n.f - 12582912.f;
  float r = c - k * 0.693359375f + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  scale.i = (n.i - 0x4B400000 + 126) << 23; /* 2^(k-1): 2^128 would not fit */
  float y = p * scale.f * 2.f;
  return x > 88.722839f ? (float)INFINITY : x < -87.33f ? 0.f : y;
}

LK_INLINE float lk_fast_tanh(float x) {
  float a = x < 0 ? -x : x, q = x * x;
  float big = 1.f - 2.f / (lk_fast_exp(2.f * a) + 1.f);
  float small = x * (1.f + q * (-0.333333333f + q * (0.133333333f + q * (-0.0539682540f + q * 0.0218694885f))));
  return a < 0.25f ? small : x < 0 ? -big : big;
}

/* Phi, the normal distribution function, and its density's exponential e = exp(-x^2/2), which it needs anyway
 * (Abramowitz and Stegun 7.1.26). */
LK_INLINE float lk_fast_phi(float x, float *e) {
  float a = x < 0 ? -x : x;
  *e = lk_fast_exp(-0.5f * x * x);
  float t = 1.f / (1.f + 0.2316418882f * a);
  float p = 0.5307027145f;
  p = p * t - 0.7265760135f;
  p = p * t + 0.7107068705f;
  p = p * t - 0.142248368f;
  p = p * t + 0.127414796f;
  p = p * t * *e;
  return x < 0 ? p : 1.f - p;
}
LK_INLINE double lk_exact_phi(double x, double *e) {
  *e = exp(-0.5 * x * x);
  return 0.5 * erfc(-x * 0.70710678118654752440);
}

#define REXP(x) _Generic((x), float : lk_fast_exp, double : exp)(x)
#define RTANH(x) _Generic((x), float : lk_fast_tanh, double : tanh)(x)
#define RPHI(x, e) _Generic((x), float : lk_fast_phi, double : lk_exact_phi)(x, e)
#define RLOG(x) _Generic((x), float : logf, double : log)(x)
#define RLOG1P(x) _Generic((x), float : log1pf, double : log1p)(x)
#define RSQRT(x) _Generic((x), float : sqrtf, double : sqrt)(x)
#define RSIN(x) _Generic((x), float : sinf, double : sin)(x)
#define RCOS(x) _Generic((x), float : cosf, double : cos)(x)
#define RPOW(x, y) _Generic((x), float : powf, double : pow)(x, y)
#define RABS(x) _Generic((x), float : fabsf, double : fabs)(x)

#endif
