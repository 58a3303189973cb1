/* real.h: one body for float and double, and the elementary functions of both.
 *
 * f64 uses libm, so that gradient checks and golden data hold; f32 uses polynomials that the compiler can
 * vectorise.  Errors (tested in tests/test_real.c): exp 2e-7 relative, tanh 2e-7 and Phi 4e-7 absolute. */
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

/* exp, range-reduced to |r| <= ln 2 / 2 (coefficients of Cephes' expf); inf above 88.72283, 0 below -87.33. */
LK_INLINE float lk_fast_exp(float x) {
  float c = x < -87.33f ? -87.33f : x > 88.72283f ? 88.72283f : x;
  union {
    float f;
    uint32_t i;
  } n = {c * 1.44269504f + 12582912.f}, y; /* the magic constant leaves round(c / ln 2) in the low bits */
  float k = n.f - 12582912.f;
  float r = c - k * 0.693359375f + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  y.f = p * r * r + r + 1.f;
  y.i += (n.i - 0x4B400000u) << 23; /* times 2^k: k is added to the exponent, also where 2^k itself would not fit */
  return x > 88.72283f ? (float)INFINITY : x < -87.33f ? 0.f : x != x ? x : y.f;
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

/* Cephes' logf: x = 2^k m with sqrt(1/2) <= m < sqrt(2), and a polynomial of m - 1. */
LK_INLINE float lk_fast_log(float x) {
  union bits {
    float f;
    uint32_t i;
  } up = {x < 1.17549435e-38f ? 8388608.f : 1.f}, m = {x * up.f}; /* lifts subnormal numbers */
  int32_t k = (int32_t)(m.i - 0x3F3504F3u) >> 23;
  m.i -= (uint32_t)k << 23;
  float r = m.f - 1.f, q = r * r, e = (float)(k + 127 - (int32_t)(up.i >> 23));
  float p = 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  float y = r + (p * r * q + e * -2.12194440e-4f - 0.5f * q) + e * 0.693359375f;
  /* added, not selected: a selection would keep the loop from being vectorised */
  float zero = x == 0 ? -(float)INFINITY : 0.f, infinite = x > 3.40282347e38f ? (float)INFINITY : 0.f;
  float invalid = x >= 0 ? 0.f : (float)NAN;
  return y + zero + infinite + invalid;
}

/* ln(1 + e) for 0 <= e <= 1, as 2 artanh(e / (2 + e)): exact for tiny e too. */
LK_INLINE float lk_fast_log1p(float e) {
  float s = e / (2.f + e), q = s * s;
  float p = 1.f / 15;
  p = p * q + 1.f / 13;
  p = p * q + 1.f / 11;
  p = p * q + 1.f / 9;
  p = p * q + 1.f / 7;
  p = p * q + 1.f / 5;
  p = p * q + 1.f / 3;
  return 2.f * s + 2.f * s * q * p;
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
