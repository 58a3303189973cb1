/* random.c: Threefry-2x64 with 20 rounds (Salmon et al., SC 2011) and what is drawn from it. */
#include "real.h"

#include <lorikeet/random.h>

static inline uint64_t rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }

/* The block cipher: two words of counter, encrypted under the key. */
static void threefry(lk_key key, uint64_t c0, uint64_t c1, uint64_t out[2]) {
  static const int turn[8] = {16, 42, 12, 31, 16, 32, 24, 21};
  uint64_t k[3] = {key.a, key.b, key.a ^ key.b ^ 0x1BD11BDAA9FC1A22u};
  uint64_t x = c0 + k[0], y = c1 + k[1];
  for (int round = 0; round < 20; round++) {
    x += y;
    y = rotate(y, turn[round % 8]) ^ x;
    if (round % 4 == 3) {
      uint64_t s = (uint64_t)(round / 4 + 1);
      x += k[s % 3];
      y += k[(s + 1) % 3] + s;
    }
  }
  out[0] = x;
  out[1] = y;
}

lk_key lk_key_make(uint64_t seed, const char *label) {
  lk_key key = {seed, 0x6C6F72696B656574u};
  uint64_t word = 0, n = 0;
  for (; label && *label; label++) {
    word = word << 8 | (uint8_t)*label;
    if (++n % 8) continue;
    key = lk_key_fold(key, word);
    word = 0;
  }
  return lk_key_fold(lk_key_fold(key, word), n);
}

lk_key lk_key_fold(lk_key key, uint64_t number) {
  uint64_t out[2];
  threefry(key, number, UINT64_MAX, out); /* draws use a second counter word of 0: the streams are apart */
  return (lk_key){out[0], out[1]};
}

uint64_t lk_random_bits(lk_key key, uint64_t i) {
  uint64_t out[2];
  threefry(key, i, 0, out);
  return out[0];
}

/* The same rounds written out, so that the compiler can draw several at once. */
LK_CLONES static void fill(lk_key key, uint64_t first, int64_t n, uint64_t *restrict bits) {
  const uint64_t k0 = key.a, k1 = key.b, k2 = key.a ^ key.b ^ 0x1BD11BDAA9FC1A22u;
#define ROUND(turn) x += y, y = (y << turn | y >> (64 - turn)) ^ x;
#define FOUR(a, b, c, d) ROUND(a) ROUND(b) ROUND(c) ROUND(d)
#define ADD(a, b, s) x += a, y += b + s;
  for (int64_t i = 0; i < n; i++) {
    uint64_t x = first + (uint64_t)i + k0, y = k1;
    FOUR(16, 42, 12, 31)
    ADD(k1, k2, 1)
    FOUR(16, 32, 24, 21)
    ADD(k2, k0, 2)
    FOUR(16, 42, 12, 31)
    ADD(k0, k1, 3)
    FOUR(16, 32, 24, 21)
    ADD(k1, k2, 4)
    FOUR(16, 42, 12, 31)
    ADD(k2, k0, 5)
    bits[i] = x;
  }
#undef ROUND
#undef FOUR
#undef ADD
}

void lk_random_fill(lk_key key, uint64_t first, int64_t n, uint64_t *bits) { fill(key, first, n, bits); }

double lk_random_uniform(lk_key key, uint64_t i) { return (double)(lk_random_bits(key, i) >> 11) * 0x1p-53; }

double lk_random_normal(lk_key key, uint64_t i) {
  uint64_t out[2];
  threefry(key, i, 0, out);
  double u = ((double)(out[0] >> 11) + 1) * 0x1p-53; /* in (0, 1]: its logarithm is finite */
  double v = (double)(out[1] >> 11) * 0x1p-53;
  return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

uint64_t lk_random_below(lk_key key, uint64_t i, uint64_t n) {
  /* high word of a 128-bit product: biased by less than n / 2^64 */
  uint64_t x = lk_random_bits(key, i);
  uint64_t xl = x & UINT32_MAX, xh = x >> 32, nl = n & UINT32_MAX, nh = n >> 32;
  uint64_t mid = xh * nl + (xl * nl >> 32), mid2 = xl * nh + (mid & UINT32_MAX);
  return xh * nh + (mid >> 32) + (mid2 >> 32);
}

void lk_random_permutation(lk_key key, int64_t n, int64_t *order) {
  for (int64_t i = 0; i < n; i++) order[i] = i;
  for (int64_t i = n - 1; i > 0; i--) {
    int64_t j = (int64_t)lk_random_below(key, (uint64_t)i, (uint64_t)i + 1), k = order[i];
    order[i] = order[j];
    order[j] = k;
  }
}
