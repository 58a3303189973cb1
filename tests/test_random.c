/* test_random.c: Threefry against published vectors and written again; what is drawn from it. */
#include <check.h>
#include <lorikeet/random.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the cipher ---- */

/* Threefry-2x64 as the paper states it: rounds of (x0 += x1; x1 = rotate(x1) ^ x0), after every fourth the key. */
static void reference(int rounds, const uint64_t counter[2], const uint64_t key[2], uint64_t x[2]) {
  static const unsigned turn[8] = {16, 42, 12, 31, 16, 32, 24, 21};
  const uint64_t schedule[3] = {key[0], key[1], key[0] ^ key[1] ^ UINT64_C(0x1BD11BDAA9FC1A22)};
  x[0] = counter[0] + schedule[0];
  x[1] = counter[1] + schedule[1];
  for (int r = 1; r <= rounds; r++) {
    unsigned n = turn[(r - 1) % 8];
    x[0] += x[1];
    x[1] = ((x[1] << n) | (x[1] >> (64 - n))) ^ x[0];
    if (r % 4) continue;
    x[0] += schedule[r / 4 % 3];
    x[1] += schedule[(r / 4 + 1) % 3] + (uint64_t)(r / 4);
  }
}

/* From Random123's kat_vectors: rounds, counter, key, result. */
static const struct {
  int rounds;
  uint64_t counter[2], key[2], result[2];
} known[] = {
    {20, {0, 0}, {0, 0}, {UINT64_C(0xc2b6e3a8c2c69865), UINT64_C(0x6f81ed42f350084d)}},
    {20,
     {UINT64_MAX, UINT64_MAX},
     {UINT64_MAX, UINT64_MAX},
     {UINT64_C(0xe02cb7c4d95d277a), UINT64_C(0xd06633d0893b8b68)}},
    {20,
     {UINT64_C(0x243f6a8885a308d3), UINT64_C(0x13198a2e03707344)},
     {UINT64_C(0xa4093822299f31d0), UINT64_C(0x082efa98ec4e6c89)},
     {UINT64_C(0x263c7d30bb0f0af1), UINT64_C(0x56be8361d3311526)}},
    {13, {0, 0}, {0, 0}, {UINT64_C(0xf167b032c3b480bd), UINT64_C(0xe91f9fee4b7a6fb5)}},
    {32,
     {UINT64_C(0x243f6a8885a308d3), UINT64_C(0x13198a2e03707344)},
     {UINT64_C(0xa4093822299f31d0), UINT64_C(0x082efa98ec4e6c89)},
     {UINT64_C(0xdad492f32efbd0c4), UINT64_C(0xb6d7d0cd1f193e84)}},
};

START_TEST(test_published_vectors) {
  uint64_t x[2];
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    reference(known[i].rounds, known[i].counter, known[i].key, x);
    ck_assert_mem_eq(x, known[i].result, sizeof x);
  }
  /* the ones that can be asked for: a draw has second word 0, a fold all ones */
  ck_assert_uint_eq(lk_random_bits((lk_key){0, 0}, 0), known[0].result[0]);
  lk_key folded = lk_key_fold((lk_key){UINT64_MAX, UINT64_MAX}, UINT64_MAX);
  ck_assert_uint_eq(folded.a, known[1].result[0]);
  ck_assert_uint_eq(folded.b, known[1].result[1]);
}
END_TEST

START_TEST(test_cipher_is_threefry) {
  uint64_t x[2];
  lk_key key = {1, 2};
  for (uint64_t i = 0; i < 1000; i++) {
    uint64_t number = key.b * 31 + i;
    reference(20, (uint64_t[]){number, 0}, (uint64_t[]){key.a, key.b}, x);
    ck_assert_uint_eq(lk_random_bits(key, number), x[0]);
    ck_assert_double_eq(lk_random_uniform(key, number), ldexp((double)(x[0] >> 11), -53));
    double r = sqrt(-2 * log(ldexp((double)(x[0] >> 11) + 1, -53)));
    ck_assert_double_eq_tol(lk_random_normal(key, number), r * cos(2 * acos(-1) * ldexp((double)(x[1] >> 11), -53)),
                            1e-12);
    reference(20, (uint64_t[]){number, UINT64_MAX}, (uint64_t[]){key.a, key.b}, x);
    key = lk_key_fold(key, number);
    ck_assert(key.a == x[0] && key.b == x[1]);
  }
}
END_TEST

/* ---- distributions ---- */

enum { DRAWS = 400000 };

START_TEST(test_uniform) {
  lk_key key = lk_key_make(1, "uniform");
  double sum = 0, squares = 0, least = 1, most = 0;
  int bucket[64] = {0};
  for (uint64_t i = 0; i < DRAWS; i++) {
    double u = lk_random_uniform(key, i);
    sum += u;
    squares += u * u;
    bucket[(int)(64 * u)]++;
    least = fmin(least, u);
    most = fmax(most, u);
  }
  double mean = sum / DRAWS, chi = 0;
  ck_assert(least >= 0 && most < 1);
  ck_assert_double_eq_tol(mean, 0.5, 5 * sqrt(1 / 12.0 / DRAWS));
  ck_assert_double_eq_tol(squares / DRAWS, 1 / 3.0, 5 * sqrt(4 / 45.0 / DRAWS));
  for (int b = 0; b < 64; b++) chi += pow(bucket[b] - DRAWS / 64.0, 2) / (DRAWS / 64.0);
  ck_assert_double_lt(fabs(chi - 63), 5 * sqrt(2 * 63));
  ck_assert(least < 1e-4 && most > 1 - 1e-4);
}
END_TEST

START_TEST(test_normal) {
  lk_key key = lk_key_make(1, "normal");
  double moment[5] = {0}, lag = 0, last = 0;
  int inside = 0;
  for (uint64_t i = 0; i < DRAWS; i++) {
    double x = lk_random_normal(key, i), power = 1;
    for (int m = 1; m <= 4; m++) moment[m] += power *= x;
    inside += fabs(x) < 1;
    lag += x * last;
    last = x;
  }
  ck_assert_double_eq_tol(moment[1] / DRAWS, 0, 5 * sqrt(1.0 / DRAWS));
  ck_assert_double_eq_tol(moment[2] / DRAWS, 1, 5 * sqrt(2.0 / DRAWS));
  ck_assert_double_eq_tol(moment[3] / DRAWS, 0, 5 * sqrt(15.0 / DRAWS));
  ck_assert_double_eq_tol(moment[4] / DRAWS, 3, 5 * sqrt(96.0 / DRAWS));
  ck_assert_double_eq_tol(inside / (double)DRAWS, 0.6826894921, 5 * sqrt(0.22 / DRAWS));
  ck_assert_double_eq_tol(lag / DRAWS, 0, 5 * sqrt(1.0 / DRAWS));
}
END_TEST

START_TEST(test_below) {
  lk_key key = lk_key_make(1, "below");
  int bucket[8] = {0}, wrong = 0;
  for (uint64_t i = 0; i < 70000; i++) {
    uint64_t x = lk_random_below(key, i, 7), bits = lk_random_bits(key, i);
    bucket[x < 7 ? x : 7]++;
    wrong += lk_random_below(key, i, UINT64_C(1) << 63) != bits >> 1;
    wrong += lk_random_below(key, i, UINT64_C(3) << 62) != (bits >> 2) * 3 + (bits & 3) * 3 / 4;
    wrong += lk_random_below(key, i, 1) != 0;
  }
  ck_assert_int_eq(wrong + bucket[7], 0);
  for (int b = 0; b < 7; b++) ck_assert_int_lt(abs(bucket[b] - 10000), 500);
}
END_TEST

/* ---- keys ---- */

static int same(lk_key a, lk_key b) { return a.a == b.a && a.b == b.b; }

/* Correlation of two streams. */
static double correlation(lk_key a, lk_key b) {
  double sum = 0;
  for (uint64_t i = 0; i < 100000; i++) sum += (lk_random_uniform(a, i) - 0.5) * (lk_random_uniform(b, i) - 0.5);
  return 12 * sum / 100000;
}

START_TEST(test_keys_are_independent) {
  lk_key k = lk_key_make(1, "a");
  ck_assert(same(k, lk_key_make(1, "a")));
  const lk_key others[] = {
      lk_key_make(2, "a"), lk_key_make(1, "b"), lk_key_make(1, "aa"),       lk_key_make(1, ""),    lk_key_make(1, NULL),
      lk_key_fold(k, 0),   lk_key_fold(k, 1),   lk_key_fold(k, UINT64_MAX), lk_key_make(1, "a\1"), lk_key_make(-1, "a"),
      {k.b, k.a}};
  for (int i = 0; i < 11; i++) {
    ck_assert(!same(k, others[i]));
    ck_assert_double_lt(fabs(correlation(k, others[i])), 5 / sqrt(100000));
    for (int j = 0; j < i; j++) ck_assert(!same(others[i], others[j]) || (i == 4 && j == 3));
  }
}
END_TEST

START_TEST(test_labels_of_any_length_differ) {
  char label[48] = "";
  lk_key seen[40];
  for (int n = 0; n < 40; n++) {
    seen[n] = lk_key_make(7, label);
    for (int i = 0; i < n; i++) ck_assert(!same(seen[n], seen[i]));
    strcat(label, "x");
  }
  ck_assert(!same(lk_key_make(7, "layer.10.weight"), lk_key_make(7, "layer.11.weight")));
}
END_TEST

START_TEST(test_order_does_not_matter) {
  lk_key k = lk_key_make(3, "order");
  double forward[100];
  for (uint64_t i = 0; i < 100; i++) forward[i] = lk_random_normal(k, i);
  for (uint64_t i = 100; i-- > 0;) ck_assert_double_eq(lk_random_normal(k, i), forward[i]);
}
END_TEST

START_TEST(test_permutation) {
  int64_t order[1000], again[1000];
  for (int64_t n = 0; n <= 1000; n += n < 10 ? 1 : 99) {
    char seen[1000] = {0};
    lk_random_permutation(lk_key_make((uint64_t)n, "shuffle"), n, order);
    lk_random_permutation(lk_key_make((uint64_t)n, "shuffle"), n, again);
    for (int64_t i = 0; i < n; i++) {
      ck_assert(order[i] >= 0 && order[i] < n && !seen[order[i]]);
      seen[order[i]] = 1;
      ck_assert_int_eq(order[i], again[i]);
    }
  }
  int count[4][4] = {{0}}, fixed = 0;
  for (uint64_t r = 0; r < 24000; r++) {
    lk_random_permutation(lk_key_fold((lk_key){1, 2}, r), 4, order);
    for (int i = 0; i < 4; i++) count[i][order[i]]++;
    fixed += order[0] == 0 && order[1] == 1 && order[2] == 2;
  }
  for (int i = 0; i < 16; i++) ck_assert_int_lt(abs(count[i / 4][i % 4] - 6000), 350);
  ck_assert_int_lt(abs(fixed - 1000), 160);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("random");
  TCase *tcase = tcase_create("random");
  suite_add_tcase(suite, tcase);
  tcase_set_timeout(tcase, 240);
  tcase_add_test(tcase, test_published_vectors);
  tcase_add_test(tcase, test_cipher_is_threefry);
  tcase_add_test(tcase, test_uniform);
  tcase_add_test(tcase, test_normal);
  tcase_add_test(tcase, test_below);
  tcase_add_test(tcase, test_keys_are_independent);
  tcase_add_test(tcase, test_labels_of_any_length_differ);
  tcase_add_test(tcase, test_order_does_not_matter);
  tcase_add_test(tcase, test_permutation);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
