/* gemm_kernel.c: f32 products that are too small or too thin for BLIS, on AVX-512. */
#include "gemm_kernel.h"

/* to[j ld + i] = from[i row + j] for i and j in the ranges. */
static void transpose_plainly(int64_t i0, int64_t i1, int64_t j0, int64_t j1, const float *from, int64_t row, float *to,
                              int64_t ld) {
  for (int64_t j = j0; j < j1; j++)
    for (int64_t i = i0; i < i1; i++) to[j * ld + i] = from[i * row + j];
}

#if defined __x86_64__ && defined __GNUC__
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq")))
#define TILE_ROWS 12 /* times two vectors: 24 of the 32 registers hold sums */
#define TILE_COLS 32
#define CACHED 8192 /* floats of b: 32 KB, in the first-level cache */
#define AHEAD 16    /* rows of b that are fetched before they are needed */
#define WIDE 65536  /* and 256 KB, in the second */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
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
    if (p + AHEAD < q->k) { /* rows of b are far apart: the processor does not see what comes */
      _mm_prefetch((const char *)(b + AHEAD * q->rsb), _MM_HINT_T0);
      if (vectors > 1) _mm_prefetch((const char *)(b + AHEAD * q->rsb + 16), _MM_HINT_T0);
    }
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

/* A tile's rows of y, from column j0 to j1. */
static void strip(const product *q, int64_t rows, int64_t j0, int64_t j1, const float *a, const float *b, float *y) {
  for (int64_t j = j0; j < j1; j += TILE_COLS) {
    uint32_t bits = j1 - j >= TILE_COLS ? UINT32_MAX : ((uint32_t)1 << (j1 - j)) - 1;
    const __mmask16 mask[2] = {(__mmask16)bits, (__mmask16)(bits >> 16)};
    tile_of[rows - 1](q, a, b + j, y + j, mask);
  }
}

/* Columns j0 .. j1 - 1 of all rows of y. */
static void panel(const product *q, int64_t m, int64_t j0, int64_t j1, const float *a, const float *b, float *y) {
  for (int64_t i = 0, rows; i < m; i += rows) {
    rows = m - i;
    if (rows > TILE_ROWS) rows = rows < 2 * TILE_ROWS ? (rows + 1) / 2 : TILE_ROWS; /* no thin last tile */
    strip(q, rows, j0, j1, a + i * q->rsa, b, y + i * q->rsy);
  }
}

/* Steps of k at a time, so that a panel of b stays in the first-level cache; and columns at a time: where k is small, as
 * many as the second-level cache holds of b, for then y, which costs more than b, is written in long runs. */
void lk_kernel_sgemm(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t rsa, int64_t csa,
                     const float *b, int64_t rsb, float beta, float *y, int64_t rsy) {
  int64_t depth = CACHED / (n < TILE_COLS ? n : TILE_COLS);
  int64_t wide = k < depth ? WIDE / k / TILE_COLS * TILE_COLS : 0, columns = wide > TILE_COLS ? wide : TILE_COLS;
  for (int64_t p = 0; p < k; p += depth) {
    product q = {k - p < depth ? k - p : depth, rsa, csa, rsb, rsy, alpha, p ? 1 : beta};
    for (int64_t j = 0; j < n; j += columns)
      panel(&q, m, j, n - j < columns ? n : j + columns, a + p * csa, b + p * rsb, y);
  }
}

/* to[j ld + i] = from[i row + j] for 16 rows of 16: pairs of elements, then of pairs, then of quarters change places. */
AVX512 static void transpose16(const float *from, int64_t row, float *to, int64_t ld) {
  __m512 a[16], b[16];
  UNROLL for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_ps(from + i * row);
  UNROLL for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  UNROLL for (int i = 0; i < 16; i++) { /* a[4g + j]: columns j, j + 4, j + 8, j + 12 of rows 4g .. 4g + 3 */
    __m512d low = _mm512_castps_pd(b[i / 4 * 4 + i % 4 / 2]), high = _mm512_castps_pd(b[i / 4 * 4 + i % 4 / 2 + 2]);
    a[i] = _mm512_castpd_ps(i % 2 ? _mm512_unpackhi_pd(low, high) : _mm512_unpacklo_pd(low, high));
  }
  UNROLL for (int i = 0; i < 4; i++) {
    b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
  }
  UNROLL for (int i = 0; i < 8; i++) {
    _mm512_storeu_ps(to + i * ld, _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88));
    _mm512_storeu_ps(to + (i + 8) * ld, _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd));
  }
}

static void transpose_blocks(int64_t rows, int64_t columns, const float *from, int64_t row, float *to, int64_t ld) {
  for (int64_t i = 0; i < rows; i += 16)
    for (int64_t j = 0; j < columns; j += 16) transpose16(from + i * row + j, row, to + j * ld + i, ld);
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

static void transpose_blocks(int64_t rows, int64_t columns, const float *from, int64_t row, float *to, int64_t ld) {
  transpose_plainly(0, rows, 0, columns, from, row, to, ld);
}

#endif

void lk_kernel_transpose(int64_t rows, int64_t columns, const float *from, int64_t row, float *to, int64_t ld) {
  int64_t whole_rows = lk_kernel_usable() ? rows - rows % 16 : 0, whole_columns = columns - columns % 16;
  transpose_blocks(whole_rows, whole_columns, from, row, to, ld);
  transpose_plainly(0, whole_rows, whole_columns, columns, from, row, to, ld);
  transpose_plainly(whole_rows, rows, 0, columns, from, row, to, ld);
}
