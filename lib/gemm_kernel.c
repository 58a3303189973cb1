/* gemm_kernel.c: f32 products that are too small or too thin for BLIS, on AVX-512. */
#include "gemm_kernel.h"

#if defined __x86_64__ && defined __GNUC__
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq")))
#define TILE_ROWS 12 /* times two vectors: 24 of the 32 registers hold sums */
#define TILE_COLS 32
#define DEPTH 256 /* steps of k at a time: a panel of b, 32 KB, stays in the first-level cache */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 12")
#endif

/* What every tile of one product shares. */
typedef struct product {
  int64_t k, rsa, csa, rsb, rsy;
  float alpha, beta;
} product;

int lk_kernel_usable(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}

/* A tile of `rows` rows and one or two vectors of columns, the last one under a mask. */
AVX512 static inline __attribute__((always_inline)) void tile(const int rows, const int vectors, const product *q,
                                                              const float *a, const float *b, float *y,
                                                              const __mmask16 *mask) {
  __m512 sum[TILE_ROWS][2];
  UNROLL for (int i = 0; i < rows; i++) {
    sum[i][0] = _mm512_setzero_ps();
    sum[i][1] = _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < q->k; p++) {
    __m512 b0 = _mm512_maskz_loadu_ps(mask[0], b);
    __m512 b1 = vectors > 1 ? _mm512_maskz_loadu_ps(mask[1], b + 16) : b0;
    UNROLL for (int i = 0; i < rows; i++) {
      __m512 x = _mm512_set1_ps(a[i * q->rsa]);
      sum[i][0] = _mm512_fmadd_ps(x, b0, sum[i][0]);
      if (vectors > 1) sum[i][1] = _mm512_fmadd_ps(x, b1, sum[i][1]);
    }
    a += q->csa;
    b += q->rsb;
  }
  UNROLL for (int i = 0; i < rows; i++) {
    for (int v = 0; v < vectors; v++) {
      float *to = y + i * q->rsy + 16 * v;
      __m512 r = _mm512_mul_ps(_mm512_set1_ps(q->alpha), sum[i][v]);
      if (q->beta != 0) r = _mm512_fmadd_ps(_mm512_set1_ps(q->beta), _mm512_maskz_loadu_ps(mask[v], to), r);
      _mm512_mask_storeu_ps(to, mask[v], r);
    }
  }
}

#define TILES(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)
#define ONE_TILE(rows)                                                                                                 \
  AVX512 static void tile_##rows(const product *q, const float *a, const float *b, float *y, const __mmask16 *mask) {  \
    if (mask[1]) tile(rows, 2, q, a, b, y, mask);                                                                      \
    else tile(rows, 1, q, a, b, y, mask);                                                                              \
  }
TILES(ONE_TILE)
#define TILE_NAME(rows) tile_##rows,
static void (*const tile_of[])(const product *, const float *, const float *, float *,
                               const __mmask16 *) = {TILES(TILE_NAME)};

/* All rows of one panel of at most 32 columns. */
static void panel(const product *q, int64_t m, int64_t columns, const float *a, const float *b, float *y) {
  uint32_t bits = columns >= TILE_COLS ? UINT32_MAX : ((uint32_t)1 << columns) - 1;
  const __mmask16 mask[2] = {(__mmask16)bits, (__mmask16)(bits >> 16)};
  for (int64_t i = 0, rows; i < m; i += rows) {
    rows = m - i;
    if (rows > TILE_ROWS) rows = rows < 2 * TILE_ROWS ? (rows + 1) / 2 : TILE_ROWS; /* no thin last tile */
    tile_of[rows - 1](q, a + i * q->rsa, b, y + i * q->rsy, mask);
  }
}

void lk_kernel_sgemm(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t rsa, int64_t csa,
                     const float *b, int64_t rsb, float beta, float *y, int64_t rsy) {
  for (int64_t p = 0; p < k; p += DEPTH) {
    product q = {k - p < DEPTH ? k - p : DEPTH, rsa, csa, rsb, rsy, alpha, p ? 1 : beta};
    for (int64_t j = 0; j < n; j += TILE_COLS) {
      int64_t columns = n - j < TILE_COLS ? n - j : TILE_COLS;
      panel(&q, m, columns, a + p * csa, b + p * rsb + j, y + j);
    }
  }
}

#else

int lk_kernel_usable(void) { return 0; }

void lk_kernel_sgemm(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t rsa, int64_t csa,
                     const float *b, int64_t rsb, float beta, float *y, int64_t rsy) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      float sum = 0;
      for (int64_t p = 0; p < k; p++) sum += a[i * rsa + p * csa] * b[p * rsb + j];
      y[i * rsy + j] = alpha * sum + (beta == 0 ? 0 : beta * y[i * rsy + j]);
    }
}

#endif
