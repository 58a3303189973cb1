/* gemm.c: matrix products: which kernels, how many threads, which operand to copy first.  All of BLIS is here.
 *
 * Every choice depends on sizes and strides only, never on the number of threads, and so do the bits of the result:
 * BLIS's own threads divide y, not the sums (this holds for its packing kernels; its "sup" kernels for small sizes
 * divide differently, and are used with one thread only), and the other path cuts y into fixed pieces. */
#include "gemm.h"

#include "gemm_kernel.h"
#include "real.h"

#include <blis.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined __x86_64__ && defined __GNUC__
#include <cpuid.h>
#endif

#define PACK_ON_STACK 8192 /* floats of a block of b copied for the kernel */
#define PACK_COLUMNS 256   /* columns of such a block, at most */
#define PACK_ROWS 4        /* rows of a that make the copy worth while */
#define SMALL 16777216.0   /* m n k up to which a product is cut into pieces instead of given to BLIS's threads */
#define THIN 128           /* the same for products with so few rows or columns */
#define TILE 32            /* columns of the kernel's tile */
#define PIECE 1e6          /* m n k of a piece */
#define SHALLOW 128        /* depth up to which rows are cut where there are MANY */
#define MANY 48

/* ---- starting BLIS ---- */

/* BLIS 0.9 chooses its kernels by the processor's family and takes an AMD processor newer than Zen 3 and 4 (family
 * 0x19) for an unknown one: "generic" kernels, a fifth of the speed.  The environment variable BLIS_ARCH_TYPE, read
 * once when BLIS starts, is the only way to tell it better; it is set for that moment, unless the user has set it (so
 * the first context of a process must not be made while another thread reads the environment).
 * Returns the number of the kernels, or -1 to leave the choice to BLIS. */
static int better_arch(void) {
#if defined __x86_64__ && defined __GNUC__
  unsigned eax, vendor[3], features[3];
  if (!__get_cpuid(0, &eax, &vendor[0], &vendor[2], &vendor[1]) || memcmp(vendor, "AuthenticAMD", 12)) return -1;
  if (!__get_cpuid(1, &eax, &features[0], &features[1], &features[2])) return -1;
  unsigned family = eax >> 8 & 0xf;
  if (family == 0xf) family += eax >> 20 & 0xff;
  if (family <= 0x19) return -1;
  if (lk_kernel_usable()) return BLIS_ARCH_SKX;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return BLIS_ARCH_ZEN3;
#endif
  return -1;
}

static void start(void) {
  int arch = getenv("BLIS_ARCH_TYPE") ? -1 : better_arch();
  char number[16];
  snprintf(number, sizeof number, "%d", arch);
  if (arch >= 0) setenv("BLIS_ARCH_TYPE", number, 1);
  bli_init();
  if (arch >= 0) unsetenv("BLIS_ARCH_TYPE");
}

void lk_blis_init(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, start);
}

const char *lk_gemm_arch(void) {
  lk_blis_init();
  return bli_arch_string(bli_arch_query_id());
}

/* ---- one product ---- */

typedef struct product {
  lk_dtype dtype;
  int64_t m, n, k;
  double alpha, beta;
  const char *a, *b;
  char *y;
  int64_t rsa, csa, rsb, csb, rsy, csy;
} product;

static int64_t bytes_of(const product *q, int64_t elements) {
  return elements * (q->dtype == LK_F64 ? (int64_t)sizeof(double) : (int64_t)sizeof(float));
}

/* With rows of adjacent elements in y where that is possible: y = a b is also y^T = b^T a^T. */
static product oriented(const product *q) {
  product r = *q;
  if (q->csy != 1 && q->n > 1 && (q->rsy == 1 || q->m == 1)) {
    r.m = q->n, r.n = q->m;
    r.a = q->b, r.rsa = q->csb, r.csa = q->rsb;
    r.b = q->a, r.rsb = q->csa, r.csb = q->rsa;
    r.rsy = q->csy, r.csy = q->rsy;
  }
  if (r.n == 1) r.csb = r.csy = 1;
  return r;
}

static void scale(const product *q) {
  LK_REAL(q->dtype, {
    R beta = (R)q->beta;
    for (int64_t i = 0; i < q->m; i++)
      for (int64_t j = 0; j < q->n; j++) {
        R *y = (R *)q->y + i * q->rsy + j * q->csy;
        *y = beta == 0 ? 0 : beta * *y;
      }
  });
}

/* small: BLIS may use its sup kernels, which are for one thread here and take no strides below 1. */
static void run_blis(const product *q, int threads, int small) {
  rntm_t how = BLIS_RNTM_INITIALIZER;
  bli_rntm_set_num_threads(threads, &how);
  if (!small || q->rsa < 1 || q->csa < 1 || q->rsb < 1 || q->csb < 1) bli_rntm_disable_l3_sup(&how);
  if (q->dtype == LK_F64) {
    double alpha = q->alpha, beta = q->beta;
    bli_dgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, q->m, q->n, q->k, &alpha, (double *)q->a, q->rsa, q->csa,
                 (double *)q->b, q->rsb, q->csb, &beta, (double *)q->y, q->rsy, q->csy, NULL, &how);
  } else {
    float alpha = (float)q->alpha, beta = (float)q->beta;
    bli_sgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, q->m, q->n, q->k, &alpha, (float *)q->a, q->rsa, q->csa,
                 (float *)q->b, q->rsb, q->csb, &beta, (float *)q->y, q->rsy, q->csy, NULL, &how);
  }
}

int lk_gemm_is_large(int64_t m, int64_t n, int64_t k) {
  return (double)m * (double)n * (double)k > SMALL && m > THIN && n > THIN;
}

static double volume(const product *q) { return (double)q->m * (double)q->n * (double)q->k; }
static int is_large(const product *q) { return lk_gemm_is_large(q->m, q->n, q->k); }

/* to = b with adjacent columns. */
static void pack(const product *q, void *to) {
  if (q->dtype == LK_F32 && q->rsb == 1) {
    lk_kernel_transpose(q->n, q->k, (const float *)q->b, q->csb, to, q->n);
    return;
  }
  LK_REAL(q->dtype, {
    for (int64_t j = 0; j < q->n; j++)
      for (int64_t p = 0; p < q->k; p++) ((R *)to)[p * q->n + j] = ((const R *)q->b)[p * q->rsb + j * q->csb];
  });
}

static void run_kernel(const product *q) {
  lk_kernel_sgemm(q->m, q->n, q->k, (float)q->alpha, (const float *)q->a, q->rsa, q->csa, (const float *)q->b, q->rsb,
                  (float)q->beta, (float *)q->y, q->rsy);
}

/* The same with b copied in blocks, for its columns are not adjacent. */
static void run_kernel_packing(const product *q) {
  float packed[PACK_ON_STACK];
  for (int64_t j = 0; j < q->n; j += PACK_COLUMNS) {
    product r = *q;
    r.n = q->n - j < PACK_COLUMNS ? q->n - j : PACK_COLUMNS;
    r.y += bytes_of(q, j);
    int64_t depth = PACK_ON_STACK / r.n;
    for (int64_t p = 0; p < q->k; p += depth) {
      r.k = q->k - p < depth ? q->k - p : depth;
      r.a = q->a + bytes_of(q, p * q->csa);
      r.b = q->b + bytes_of(q, p * q->rsb + j * q->csb);
      r.rsb = q->rsb, r.csb = q->csb;
      pack(&r, packed);
      r.b = (const char *)packed, r.rsb = r.n, r.csb = 1;
      r.beta = p ? 1 : q->beta;
      run_kernel(&r);
    }
  }
}

/* An oriented product with one thread. */
static void run(const product *q) {
  int kernel = q->dtype == LK_F32 && q->csy == 1 && !is_large(q) && lk_kernel_usable();
  if (q->m == 0 || q->n == 0) return;
  if (q->k == 0 || q->alpha == 0) scale(q);
  else if (kernel && q->csb == 1) run_kernel(q);
  else if (kernel && q->m >= PACK_ROWS) run_kernel_packing(q);
  else run_blis(q, 1, !is_large(q));
}

void lk_gemm_raw(lk_dtype dtype, int64_t m, int64_t n, int64_t k, double alpha, const void *a, int64_t rsa, int64_t csa,
                 const void *b, int64_t rsb, int64_t csb, double beta, void *y, int64_t rsy, int64_t csy) {
  product q = {dtype, m, n, k, alpha, beta, a, b, y, rsa, csa, rsb, csb, rsy, csy};
  product r = oriented(&q);
  run(&r);
}

/* ---- the same with threads ---- */

static void rows_body(void *arg, int64_t from, int64_t to, int thread) {
  product q = *(const product *)arg;
  (void)thread;
  q.a += bytes_of(&q, from * q.rsa);
  q.y += bytes_of(&q, from * q.rsy);
  q.m = to - from;
  run(&q);
}

static void columns_body(void *arg, int64_t from, int64_t to, int thread) {
  product q = *(const product *)arg;
  (void)thread;
  q.b += bytes_of(&q, from * q.csb);
  q.y += bytes_of(&q, from * q.csy);
  q.n = to - from;
  run(&q);
}

/* Cuts y into pieces, multiples of the kernel's tile of 12 rows or 32 columns: its longer side, but with little depth
 * rows, for then y is what costs, and it is read and written in long runs. */
static void run_pieces(const product *q, int threads) {
  int by_rows = q->m >= q->n || (q->k <= SHALLOW && q->m >= MANY);
  int64_t tile = by_rows ? 12 : TILE, n = by_rows ? q->m : q->n;
  double tiles = PIECE / (volume(q) / (double)n * (double)tile);
  int64_t grain = tile * (tiles < 1 ? 1 : tiles > 1e6 ? 1000000 : (int64_t)tiles);
  lk_parallel(threads, n, grain, by_rows ? rows_body : columns_body, (void *)q);
}

static lk_view matrix(const product *q, void *p, int64_t rows, int64_t columns, int64_t rs, int64_t cs) {
  return (lk_view){.p = p, .dtype = q->dtype, .ndim = 2, .shape = {rows, columns}, .stride = {rs, cs}};
}

/* y = beta y + part, or part when beta is 0. */
static void add_part(const product *q, const lk_view *part) {
  lk_view y = matrix(q, q->y, q->m, q->n, q->rsy, q->csy);
  if (q->beta == 0) {
    lk_view_copy(&y, part);
    return;
  }
  if (q->beta != 1) scale(q);
  lk_view_add(&y, part, 1);
}

/* b packed first: it is the small factor, or y is small anyway. */
static void run_packed(lk_call *c, const product *q) {
  product r = *q;
  void *b = lk_scratch(c, (size_t)bytes_of(q, q->k * q->n));
  if (!b) return;
  pack(q, b);
  r.b = b, r.rsb = q->n, r.csb = 1;
  run_pieces(&r, c->threads);
}

/* y^T = b^T a^T: for few rows times a matrix that lies by columns, such as x W^T, and the other way round. */
static void run_transposed(lk_call *c, const product *q) {
  product r = {.dtype = q->dtype, .m = q->n, .n = q->m, .k = q->k, .alpha = q->alpha};
  int packs = q->rsa != 1;
  char *y = lk_scratch(c, (size_t)bytes_of(q, (q->n + (packs ? q->k : 0)) * q->m));
  if (!y) return;
  r.a = q->b, r.rsa = q->csb, r.csa = q->rsb;
  r.b = q->a, r.rsb = q->csa, r.csb = q->rsa;
  r.y = y, r.rsy = q->m, r.csy = 1;
  if (packs) {
    char *packed = y + bytes_of(q, q->n * q->m);
    pack(&r, packed);
    r.b = packed, r.rsb = q->m, r.csb = 1;
  }
  run_pieces(&r, c->threads);
  lk_view part = matrix(q, y, q->m, q->n, 1, q->m);
  add_part(q, &part);
}

static void run_threaded(lk_call *c, const product *q) {
  int few_rows = q->csb != 1 && q->m <= THIN && q->n >= 2 * q->m;
  int few_columns = q->rsa == 1 && q->csa != 1 && q->n <= TILE && q->m >= 2 * q->n;
  if (q->m == 0 || q->n == 0) return;
  if (q->k == 0 || q->alpha == 0) scale(q);
  else if (is_large(q)) run_blis(q, c->threads, 0);
  else if (few_rows || few_columns) run_transposed(c, q);
  else if (q->csb == 1) run_pieces(q, c->threads);
  else run_packed(c, q);
}

/* A gradient of something broadcast has stride 0: elements of the product that meet in one place are summed. */
static void run_summed(lk_call *c, const product *q) {
  product r = *q;
  r.y = lk_scratch(c, (size_t)bytes_of(q, q->m * q->n));
  if (!r.y) return;
  r.rsy = q->n, r.csy = 1, r.beta = 0;
  run_threaded(c, &r);
  lk_view part = matrix(q, r.y, q->m, q->n, q->n, 1);
  product sum = *q;
  scale(&sum);
  sum.beta = 1;
  add_part(&sum, &part);
}

void lk_gemm(lk_call *c, const lk_view *a, const lk_view *b, double alpha, double beta, const lk_view *y) {
  const int64_t *sa = a->stride, *sb = b->stride, *sy = y->stride;
  product q = {y->dtype, y->shape[0], y->shape[1], a->shape[1], alpha, beta,  a->p, b->p,
               y->p,     sa[0],       sa[1],       sb[0],       sb[1], sy[0], sy[1]};
  lk_count_flops(c, 2 * volume(&q));
  if ((q.m > 1 && !q.rsy) || (q.n > 1 && !q.csy)) {
    run_summed(c, &q);
    return;
  }
  product r = oriented(&q);
  run_threaded(c, &r);
}
