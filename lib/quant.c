/* quant.c: int8 and nf4 codes: encoding and decoding rows; see lorikeet/quant.h. */
#include "gemm_kernel.h"
#include "half.h"
#include "internal.h"
#include "quant_kernel.h"
#include "real.h"

#include <lorikeet/quant.h>

static const char *const names[] = {"f32", "bf16", "int8", "nf4"};
enum { KINDS = sizeof names / sizeof *names };

int lk_quant_find(const char *name) {
  for (int i = 0; name && i < KINDS; i++)
    if (!strcmp(names[i], name)) return i;
  return -1;
}

const char *lk_quant_name(lk_quant_kind kind) { return (unsigned)kind < KINDS ? names[kind] : "unknown"; }

/* ---- the levels of nf4 ---- */

enum { LEVELS = 16 };
static const float levels[LEVELS] = {-1,
                                     -0.6961928009986877f,
                                     -0.5250730514526367f,
                                     -0.39491748809814453f,
                                     -0.28444138169288635f,
                                     -0.18477343022823334f,
                                     -0.09105003625154495f,
                                     0,
                                     0.07958029955625534f,
                                     0.16093020141124725f,
                                     0.24611230194568634f,
                                     0.33791524171829224f,
                                     0.44070982933044434f,
                                     0.5626170039176941f,
                                     0.7229568362236023f,
                                     1};

const float *lk_quant_levels(void) { return levels; }

/* ---- shapes ---- */

int64_t lk_quant_blocks(const lk_quant *q) { return (q->in + LK_QUANT_BLOCK - 1) / LK_QUANT_BLOCK; }

/* Bytes of a row's codes. */
static int64_t code_bytes(const lk_quant *q) { return q->kind == LK_QUANT_NF4 ? (q->in + 1) / 2 : q->in; }

static int64_t groups(int64_t scales) { return (scales + LK_QUANT_GROUP - 1) / LK_QUANT_GROUP; }

int lk_quant_shapes(const lk_quant *q, lk_dtype dtype, int64_t out, lk_view *codes, lk_view *scales) {
  int64_t blocks = lk_quant_blocks(q);
  if (q->in < 0 || lk_view_init(scales, dtype, 2, (int64_t[]){out, blocks})) return -1;
  if (q->doubled) lk_view_init(scales, dtype, 1, (int64_t[]){1 + groups(out * blocks)});
  return lk_view_init(codes, LK_U8, 2, (int64_t[]){out, code_bytes(q) + (q->doubled ? blocks : 0)});
}

/* ---- encoding ---- */

typedef struct {
  const lk_quant *q;
  const lk_view *W, *codes;
  float *scales; /* of every block */
} encoding;

/* Some elements of a row as f32. */
static void read_block(const lk_view *W, int64_t row, int64_t first, int64_t n, float *to) {
  lk_view from = {.dtype = W->dtype, .ndim = 1, .shape = {n}, .stride = {W->stride[1]}};
  lk_view block = {.p = to, .dtype = LK_F32, .ndim = 1, .shape = {n}, .stride = {1}};
  from.p = (char *)W->p + (row * W->stride[0] + first * W->stride[1]) * (int64_t)lk_dtype_size(W->dtype);
  lk_view_copy(&block, &from);
}

/* max |x|; NaN or infinity if there is one.  As integers the absolute values have the same order. */
LK_INLINE float largest(const float *x, int64_t n) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t a = lk_f32_to_bits(x[i]) & 0x7FFFFFFFu;
    most = a > most ? a : most;
  }
  return lk_bits_to_f32(most);
}

/* Levels below x, counted by the middles between neighbours. */
LK_CLONES static void nearest_levels(const float *x, float inverse, int64_t n, uint8_t *code) {
  for (int64_t i = 0; i < n; i++) {
    float y = x[i] * inverse;
    int below = 0;
    for (int k = 0; k + 1 < LEVELS; k++) below += y > (levels[k] + levels[k + 1]) / 2;
    code[i] = (uint8_t)below;
  }
}

/* Codes of n numbers of which `most` is the largest. */
static void encode_int8(const float *x, float most, int64_t n, uint8_t *code) {
  float inverse = most > 0 ? 127 / most : 0;
  if (!isfinite(inverse)) inverse = 0; /* a block of denormal numbers is zero */
  for (int64_t i = 0; i < n; i++) code[i] = (uint8_t)(int8_t)rintf(x[i] * inverse);
}

static void encode_nf4(const float *x, float most, int64_t n, uint8_t *code) {
  uint8_t one[LK_QUANT_BLOCK + 1];
  float inverse = most > 0 ? 1 / most : 0;
  nearest_levels(x, isfinite(inverse) ? inverse : 0, n, one);
  one[n] = 0;
  for (int64_t i = 0; i < n; i += 2) code[i / 2] = (uint8_t)(one[i] << 4 | one[i + 1]);
}

static void encode_rows(void *arg, int64_t from, int64_t to, int thread) {
  const encoding *e = arg;
  const lk_quant *q = e->q;
  float x[LK_QUANT_BLOCK];
  (void)thread;
  for (int64_t r = from; r < to; r++) {
    uint8_t *code = (uint8_t *)e->codes->p + r * e->codes->stride[0];
    float *scale = e->scales + r * lk_quant_blocks(q);
    for (int64_t i = 0; i < q->in; i += LK_QUANT_BLOCK) {
      int64_t n = i + LK_QUANT_BLOCK < q->in ? LK_QUANT_BLOCK : q->in - i;
      read_block(e->W, r, i, n, x);
      float most = largest(x, n);
      *scale++ = most;
      if (!isfinite(most)) continue;
      if (q->kind == LK_QUANT_NF4) encode_nf4(x, most, n, code + i / 2);
      else encode_int8(x, most, n, code + i);
    }
  }
}

/* The scales' own codes, behind each row's; their mean and the groups' scales into `table`. */
static void encode_scales(const encoding *e, int64_t out, lk_view table) {
  int64_t blocks = lk_quant_blocks(e->q), n = out * blocks, bytes = code_bytes(e->q);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)e->scales[i];
  float mean = n ? (float)(sum / (double)n) : 0;
  lk_view_set(&table, 0, (double)mean);
  for (int64_t first = 0; first < n; first += LK_QUANT_GROUP) {
    int64_t count = first + LK_QUANT_GROUP < n ? LK_QUANT_GROUP : n - first;
    float *s = e->scales + first;
    uint8_t code[LK_QUANT_GROUP];
    for (int64_t i = 0; i < count; i++) s[i] -= mean;
    float most = largest(s, count);
    encode_int8(s, most, count, code);
    lk_view_set(&table, 1 + first / LK_QUANT_GROUP, (double)(most / 127));
    for (int64_t i = 0; i < count; i++) {
      int64_t row = (first + i) / blocks, block = (first + i) % blocks;
      ((uint8_t *)e->codes->p)[row * e->codes->stride[0] + bytes + block] = code[i];
    }
  }
}

lk_status lk_quant_encode(lk_ctx *c, const lk_quant *q, const lk_view *W, const lk_view *codes, const lk_view *scales) {
  int64_t out = W->shape[0], blocks = lk_quant_blocks(q), n = out * blocks;
  encoding e = {.q = q, .W = W, .codes = codes};
  e.scales = lk_alloc_array(c, (size_t)n + 1, sizeof *e.scales);
  if (!e.scales) return lk_error(c, NULL);
  lk_parallel(c->threads, out, 1 + (1 << 16) / (q->in + 1), encode_rows, &e);
  for (int64_t i = 0; i < n && !c->status; i++)
    if (!isfinite(e.scales[i]))
      lk_fail(c, LK_ENONFINITE, "quantise: row %lld has an element that is not finite", (long long)(i / blocks));
  for (int64_t i = 0; q->kind == LK_QUANT_INT8 && !q->doubled && i < n; i++) e.scales[i] /= 127;
  lk_view flat = {.p = e.scales, .dtype = LK_F32, .ndim = 2, .shape = {out, blocks}, .stride = {blocks, 1}};
  if (!c->status && q->doubled) encode_scales(&e, out, *scales);
  else if (!c->status) lk_view_copy(scales, &flat);
  lk_free(c, e.scales);
  return c->status;
}

/* ---- decoding ---- */

/* Rows first .. first + n - 1; R is the scales' type. */
LK_CLONES static void decode_rows(const lk_quant *q, const lk_view *codes, const lk_view *scales, int64_t first,
                                  int64_t n, void *to) {
  int64_t in = q->in, blocks = lk_quant_blocks(q), bytes = code_bytes(q);
  int kernel = scales->dtype == LK_F32 && lk_kernel_usable();
  LK_REAL(scales->dtype, {
    const R *table = scales->p;
    const R unit = q->doubled && q->kind == LK_QUANT_INT8 ? (R)1 / 127 : 1;
    for (int64_t r = first; r < first + n; r++) {
      const uint8_t *code = (const uint8_t *)codes->p + r * codes->stride[0];
      const int8_t *scale_code = (const int8_t *)code + bytes;
      R *y = (R *)to + (r - first) * in;
      for (int64_t b = 0; b < blocks; b++) {
        int64_t k = r * blocks + b, i = b * LK_QUANT_BLOCK, rest = in - i;
        int64_t count = rest < LK_QUANT_BLOCK ? rest : LK_QUANT_BLOCK;
        R s = q->doubled ? unit * (table[0] + table[1 + k / LK_QUANT_GROUP] * (R)scale_code[b]) : table[k];
        if (q->kind == LK_QUANT_INT8) {
          for (int64_t j = 0; j < count; j++) y[i + j] = s * (R)(int8_t)code[i + j];
          continue;
        }
        if (kernel && count == LK_QUANT_BLOCK) {
          lk_kernel_nf4(code + i / 2, levels, (float)s, (float *)to + (r - first) * in + i);
          continue;
        }
        const uint8_t *two = code + i / 2;
        for (int64_t j = 0; j < count / 2; j++) {
          y[i + 2 * j] = s * (R)levels[two[j] >> 4];
          y[i + 2 * j + 1] = s * (R)levels[two[j] & 15];
        }
        if (count % 2) y[i + count - 1] = s * (R)levels[two[count / 2] >> 4];
      }
    }
  });
}

void lk_quant_decode(const lk_quant *q, const lk_view *codes, const lk_view *scales, int64_t first, int64_t n,
                     void *to) {
  decode_rows(q, codes, scales, first, n, to);
}
