/* test_json.c: JSON: what is accepted and refused, options, building, and texts byte for byte as Python's. */
#include "io_suite.h"

#include <locale.h>
#include <lorikeet/json.h>
#include <lorikeet/random.h>
#include <math.h>

static lk_json *parse(const char *text) { return lk_json_parse(ctx, text, strlen(text), "t"); }

static void expect_dump(const lk_json *j, int flags, const char *want) {
  char *text = lk_json_dump(ctx, j, flags);
  ck_assert_ptr_nonnull(text);
  ck_assert_str_eq(text, want);
  lk_free(ctx, text);
}

/* ---- reading ---- */

static const struct {
  const char *text, *words;
} malformed[] = {
    {"", "t:1:0: "},
    {"{", "t:1:1: "},
    {"{\"a\":1,}", "t:1:8: "},
    {"[1 2]", "t:1:4: "},
    {"\n\n  [1,\n x]", "t:4:2: invalid token"},
    {"{'a':1}", "t:1:2: "},
    {"{a:1}", "t:1:2: "},
    {"[01]", "t:1:2: invalid token"},
    {"[.5]", "t:1:2: "},
    {"[1.]", "invalid token"},
    {"[+1]", "t:1:2: "},
    {"[NaN]", "invalid token"},
    {"[Infinity]", "invalid token"},
    {"[1e999]", "real number overflow"},
    {"[1000000000000000019884624838656]", "too big integer"},
    {"[-9223372036854775809]", "too big negative integer"},
    {"\"\\x\"", "invalid escape"},
    {"\"\\ud800\"", "invalid Unicode"},
    {"\"\\u0000\"", "\\u0000 is not allowed"},
    {"\"a\tb\"", "control character 0x9"},
    {"\"a\nb\"", "unexpected newline"},
    {"\"\xFF\"", "unable to decode byte 0xff"},
    {"\"\xED\xA0\x80\"", "unable to decode byte 0xed"},
    {"\xEF\xBB\xBF{}", "invalid token"},
    {"{\"a\":1,\"a\":2}", "t:1:10: duplicate key \"a\""},
    {"{\"a\":{\"b\":1},\"c\":[{\"b\":1,\"b\":1}]}", "duplicate key \"b\""},
    {"{\"a\\u0062\":1,\"ab\":2}", "duplicate key \"ab\""},
    {"{\"a\\\"b\":1,\"a\\\"b\":2}", "duplicate key \"a\\\"b\""},
    {"{} {}", "end of file expected"},
    {"tru", "invalid token"},
    {"/* c */ 1", "invalid token"},
};

START_TEST(refuses_malformed_texts) {
  ck_assert_ptr_null(parse(malformed[_i].text));
  expect(LK_EFORMAT, malformed[_i].words);
}
END_TEST

START_TEST(refuses_a_long_duplicate_key) {
  char text[1000], name[301];
  memset(name, 'k', 300);
  name[300] = 0;
  sprintf(text, "{\"%s\":1,\"%s\":2}", name, name);
  ck_assert_ptr_null(parse(text));
  expect(LK_EFORMAT, "kkkk...");
}
END_TEST

START_TEST(limits_depth) {
  char text[2 * LK_JSON_MAX_DEPTH + 8];
  for (int depth = LK_JSON_MAX_DEPTH; depth <= LK_JSON_MAX_DEPTH + 1; depth++) {
    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)depth);
    text[2 * depth] = 0;
    lk_json *j = parse(text);
    ck_assert_int_eq(j != NULL, depth == LK_JSON_MAX_DEPTH);
    if (!j) expect(LK_EFORMAT, "nested deeper than 128");
    lk_json_free(j);
  }
  memset(text, '[', 200); /* brackets inside a string do not count, nor do escaped quotes end one */
  memcpy(text, "\"\\\"", 3);
  strcpy(text + 200, "\"");
  lk_json *j = parse(text);
  ck_assert_ptr_nonnull(j);
  lk_json_free(j);
}
END_TEST

START_TEST(limits_size) {
  ck_assert_ptr_null(lk_json_parse(ctx, "1", LK_JSON_MAX_BYTES + 1, "t"));
  expect(LK_EFORMAT, "more than 268435456");
  ck_assert_ptr_null(lk_json_parse(ctx, NULL, 0, "t"));
  expect(LK_ENIL, "is NULL");
}
END_TEST

START_TEST(reads_values) {
  lk_json *root = parse("{\"z\":[1,-2.5,true,null,\"s\"],\"a\":{\"k\":false},\"m\":9223372036854775807}");
  lk_json *list = lk_json_get(root, "z");
  int64_t i = 0;
  double x = 0;
  int b = 7;
  const char *s = NULL;
  ck_assert_uint_eq(lk_json_count(root), 3);
  ck_assert_uint_eq(lk_json_count(list), 5);
  ck_assert(lk_json_is_int(lk_json_at(list, 0), &i) && i == 1);
  ck_assert(lk_json_is_real(lk_json_at(list, 0), &x) && x == 1);
  ck_assert(lk_json_is_real(lk_json_at(list, 1), &x) && x == -2.5);
  ck_assert(!lk_json_is_int(lk_json_at(list, 1), &i) && i == 1);
  ck_assert(lk_json_is_bool(lk_json_at(list, 2), &b) && b == 1);
  ck_assert(lk_json_is_bool(lk_json_get(lk_json_get(root, "a"), "k"), &b) && b == 0);
  ck_assert_int_eq(lk_json_type(lk_json_at(list, 3)), LK_JSON_NULL);
  ck_assert(lk_json_is_string(lk_json_at(list, 4), &s));
  ck_assert_str_eq(s, "s");
  ck_assert_ptr_null(lk_json_at(list, 5));
  ck_assert_ptr_null(lk_json_at(root, 0));
  ck_assert_ptr_null(lk_json_get(list, "z"));
  ck_assert_ptr_null(lk_json_get(NULL, "z"));
  ck_assert_int_eq(lk_json_type(NULL), LK_JSON_NONE);
  ck_assert_uint_eq(lk_json_count(NULL), 0);
  ck_assert(!lk_json_is_int(NULL, &i) && !lk_json_is_real(NULL, &x) && !lk_json_is_bool(NULL, &b));
  ck_assert(!lk_json_is_string(NULL, &s));
  ck_assert(lk_json_is_int(lk_json_get(root, "m"), &i) && i == INT64_MAX);
  lk_json_free(root);
  lk_json_free(NULL);
}
END_TEST

START_TEST(keeps_the_order_of_keys) {
  lk_json *j = parse("{\"z\":0,\"b\":1,\"a\":2,\"y\":3}");
  static const char *const want[] = {"z", "b", "a", "y"};
  void *at = NULL;
  const char *key;
  lk_json *child;
  int64_t i, n = 0;
  while ((child = lk_json_next(j, &at, &key))) {
    ck_assert_str_eq(key, want[n]);
    ck_assert(lk_json_is_int(child, &i) && i == n);
    n++;
  }
  ck_assert_int_eq(n, 4);
  lk_json_free(j);
  at = NULL;
  ck_assert_ptr_null(lk_json_next(NULL, &at, &key));
}
END_TEST

START_TEST(reads_options) {
  lk_json *j = parse("{\"i\":3,\"x\":0.5,\"b\":true,\"s\":\"t\",\"n\":null}");
  ck_assert_int_eq(lk_json_int(ctx, j, "i", 9), 3);
  ck_assert_double_eq(lk_json_real(ctx, j, "x", 9), 0.5);
  ck_assert_double_eq(lk_json_real(ctx, j, "i", 9), 3);
  ck_assert_int_eq(lk_json_bool(ctx, j, "b", 0), 1);
  ck_assert_str_eq(lk_json_string(ctx, j, "s", "u"), "t");
  ck_assert_int_eq(lk_json_int(ctx, j, "n", 9), 9);
  ck_assert_int_eq(lk_json_int(ctx, j, "none", 9), 9);
  ck_assert_int_eq(lk_json_int(ctx, NULL, "none", 9), 9);
  ck_assert_ptr_null(lk_json_string(ctx, j, "none", NULL));
  ck_assert_int_eq(lk_error(ctx, NULL), LK_OK);
  ck_assert_int_eq(lk_json_int(ctx, j, "x", 9), 9);
  expect(LK_EFORMAT, "\"x\" must be an integer, not a real number");
  ck_assert_double_eq(lk_json_real(ctx, j, "s", 9), 9);
  expect(LK_EFORMAT, "\"s\" must be a number, not a string");
  ck_assert_int_eq(lk_json_bool(ctx, j, "i", 1), 1);
  expect(LK_EFORMAT, "\"i\" must be true or false, not an integer");
  ck_assert_str_eq(lk_json_string(ctx, j, "b", "u"), "u");
  expect(LK_EFORMAT, "\"b\" must be a string, not true or false");
  ck_assert_int_eq(lk_json_int(ctx, lk_json_get(j, "i"), "k", 9), 9);
  expect(LK_EFORMAT, "want an object with the key \"k\", found an integer");
  lk_json_free(j);
}
END_TEST

/* ---- writing ---- */

static const struct {
  double value;
  const char *text; /* Python's json.dumps */
} reals[] = {
    {0.0, "0.0"},
    {-0.0, "-0.0"},
    {1.0, "1.0"},
    {-2.0, "-2.0"},
    {100.0, "100.0"},
    {0.1, "0.1"},
    {0.3, "0.3"},
    {0.1 + 0.2, "0.30000000000000004"},
    {1.0 / 3, "0.3333333333333333"},
    {4.35, "4.35"},
    {123456.789, "123456.789"},
    {1e-4, "0.0001"},
    {0.00012345, "0.00012345"},
    {1e-5, "1e-05"},
    {1.25e-7, "1.25e-07"},
    {0x1p-44, "5.684341886080802e-14"},
    {1e15, "1000000000000000.0"},
    {9007199254740992.0, "9007199254740992.0"},
    {1e16, "1e+16"},
    {123456789012345680.0, "1.2345678901234568e+17"},
    {1e22, "1e+22"},
    {1e23, "1e+23"},
    {1e100, "1e+100"},
    {5e-324, "5e-324"},
    {2.2250738585072014e-308, "2.2250738585072014e-308"},
    {1.7976931348623157e308, "1.7976931348623157e+308"},
};

START_TEST(writes_reals_as_python_does) {
  lk_json *list = lk_json_array(ctx);
  for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
    ck_assert_int_eq(lk_json_set_real(ctx, list, NULL, reals[i].value), LK_OK);
    expect_dump(lk_json_at(list, i), 0, reals[i].text);
  }
  lk_json_free(list);
}
END_TEST

static void check_random_reals(void) {
  lk_key key = lk_key_make(1, "reals");
  for (uint64_t i = 0; i < 5000; i++) {
    double want, got = 0;
    uint64_t bits = lk_random_bits(key, i);
    memcpy(&want, &bits, 8);
    if (!isfinite(want)) continue;
    lk_json *list = lk_json_array(ctx);
    lk_json_set_real(ctx, list, NULL, want);
    char *text = lk_json_dump(ctx, list, LK_JSON_COMPACT);
    lk_json *again = parse(text);
    ck_assert(lk_json_is_real(lk_json_at(again, 0), &got));
    ck_assert_msg(memcmp(&got, &want, 8) == 0, "%s is not %.17g", text, want);
    ck_assert_int_eq(lk_json_type(lk_json_at(again, 0)), LK_JSON_REAL);
    lk_free(ctx, text);
    lk_json_free(again);
    lk_json_free(list);
  }
}

START_TEST(reals_read_back_to_the_same_bits) { check_random_reals(); }
END_TEST

/* Where a locale with a decimal comma is installed. */
START_TEST(locale_does_not_matter) {
  static const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR"};
  for (size_t i = 0; i < sizeof locales / sizeof *locales; i++)
    if (setlocale(LC_ALL, locales[i])) break;
  lk_json *j = parse("[0.5]");
  expect_dump(j, LK_JSON_COMPACT, "[0.5]");
  lk_json_free(j);
  check_random_reals();
}
END_TEST

static const char sample[] =
    "{\"b\":[1,2.0,{\"x\":null,\"y\":[],\"z\":{}}],\"a\":true,"
    "\"\xC3\xA9\":\"\xF0\x9F\x8E\xBA \\\"\\\\\\/\\n\\t\\u0001\x7F\\u2028\",\"A\":-3,\"f\":false}";

/* What Python's json.dumps makes of the sample. */
START_TEST(writes_texts_as_python_does) {
  lk_json *j = parse(sample);
  expect_dump(j, 0,
              "{\n  \"b\": [\n    1,\n    2.0,\n    {\n      \"x\": null,\n      \"y\": [],\n      \"z\": {}\n    }\n"
              "  ],\n  \"a\": true,\n  \"\\u00e9\": \"\\ud83c\\udfba \\\"\\\\/\\n\\t\\u0001\\u007f\\u2028\",\n"
              "  \"A\": -3,\n  \"f\": false\n}");
  expect_dump(j, LK_JSON_SORTED,
              "{\n  \"A\": -3,\n  \"a\": true,\n  \"b\": [\n    1,\n    2.0,\n    {\n      \"x\": null,\n"
              "      \"y\": [],\n      \"z\": {}\n    }\n  ],\n  \"f\": false,\n"
              "  \"\\u00e9\": \"\\ud83c\\udfba \\\"\\\\/\\n\\t\\u0001\\u007f\\u2028\"\n}");
  expect_dump(j, LK_JSON_COMPACT,
              "{\"b\":[1,2.0,{\"x\":null,\"y\":[],\"z\":{}}],\"a\":true,"
              "\"\\u00e9\":\"\\ud83c\\udfba \\\"\\\\/\\n\\t\\u0001\\u007f\\u2028\",\"A\":-3,\"f\":false}");
  lk_json_free(j);
}
END_TEST

START_TEST(writes_and_reads_files) {
  lk_json *j = parse(sample), *again;
  ck_assert_int_eq(lk_json_write(ctx, "f.json", j, 0), LK_OK);
  again = lk_json_read(ctx, "f.json");
  ck_assert_ptr_nonnull(again);
  char *text = lk_json_dump(ctx, j, 0);
  expect_dump(again, 0, text);
  size_t n;
  char *bytes = (char *)test_get("f.json", &n);
  ck_assert_uint_eq(n, strlen(text) + 1);
  ck_assert_int_eq(bytes[n - 1], '\n');
  free(bytes);
  lk_free(ctx, text);
  ck_assert_int_eq(lk_json_write(ctx, "none/f.json", j, 0), LK_EIO);
  expect(LK_EIO, "none/f.json");
  ck_assert_int_eq(lk_json_write(ctx, "f.json", NULL, 0), LK_ENIL);
  expect(LK_ENIL, "NULL");
  lk_json_free(again);
  lk_json_free(j);
  test_put("bad.json", "{\n 1}", 5);
  ck_assert_ptr_null(lk_json_read(ctx, "bad.json"));
  expect(LK_EFORMAT, "bad.json:2:");
  ck_assert_ptr_null(lk_json_read(ctx, "missing.json"));
  expect(LK_EIO, "missing.json");
}
END_TEST

/* ---- building ---- */

START_TEST(builds) {
  lk_json *j = lk_json_object(ctx), *list = lk_json_array(ctx);
  lk_json_set_int(ctx, list, NULL, 1);
  lk_json_set_bool(ctx, list, NULL, 1);
  lk_json_set_null(ctx, list, NULL);
  lk_json_set_string(ctx, j, "s", "t");
  lk_json_set_real(ctx, j, "x", 0.1);
  lk_json_set(ctx, j, "list", list);
  lk_json_set_bool(ctx, j, "b", 0);
  lk_json_set_int(ctx, j, "s", -7);
  ck_assert_int_eq(lk_error(ctx, NULL), LK_OK);
  expect_dump(j, LK_JSON_COMPACT, "{\"s\":-7,\"x\":0.1,\"list\":[1,true,null],\"b\":false}");
  lk_json *copy = lk_json_copy(ctx, j);
  lk_json_set_int(ctx, lk_json_get(copy, "list"), NULL, 2);
  ck_assert_int_eq(lk_json_remove(copy, "x"), 1);
  ck_assert_int_eq(lk_json_remove(copy, "x"), 0);
  ck_assert_int_eq(lk_json_remove(NULL, "x"), 0);
  expect_dump(copy, LK_JSON_COMPACT, "{\"s\":-7,\"list\":[1,true,null,2],\"b\":false}");
  expect_dump(j, LK_JSON_COMPACT, "{\"s\":-7,\"x\":0.1,\"list\":[1,true,null],\"b\":false}");
  lk_json_free(copy);
  lk_json_free(j);
}
END_TEST

START_TEST(refuses_to_build) {
  lk_json *j = lk_json_object(ctx), *list = lk_json_array(ctx);
  ck_assert_int_eq(lk_json_set_int(ctx, list, "k", 1), LK_EARG);
  expect(LK_EARG, "an array cannot take a value with a key");
  ck_assert_int_eq(lk_json_set_int(ctx, j, NULL, 1), LK_EARG);
  expect(LK_EARG, "an object cannot take a value without a key");
  ck_assert_int_eq(lk_json_set_int(ctx, NULL, "k", 1), LK_ENIL);
  expect(LK_ENIL, "NULL");
  ck_assert_int_eq(lk_json_set(ctx, j, "k", NULL), LK_ENIL);
  expect(LK_ENIL, "NULL");
  ck_assert_int_eq(lk_json_set_real(ctx, j, "loss", (double)NAN), LK_ENONFINITE);
  expect(LK_ENONFINITE, "\"loss\" is nan");
  ck_assert_int_eq(lk_json_set_real(ctx, j, "loss", -(double)INFINITY), LK_ENONFINITE);
  expect(LK_ENONFINITE, "\"loss\" is -inf");
  ck_assert_int_eq(lk_json_set_string(ctx, j, "k", "\xC0\x80"), LK_EARG);
  expect(LK_EARG, "the value of \"k\" is not UTF-8");
  ck_assert_int_eq(lk_json_set_string(ctx, j, "k", "\xF4\x90\x80\x80"), LK_EARG);
  expect(LK_EARG, "the value of \"k\" is not UTF-8");
  ck_assert_int_eq(lk_json_set_string(ctx, j, "k", NULL), LK_ENIL);
  expect(LK_ENIL, "\"k\" is NULL");
  ck_assert_int_eq(lk_json_set_int(ctx, j, "\xE2\x82", 1), LK_EARG);
  expect(LK_EARG, "is not UTF-8");
  ck_assert_ptr_null(lk_json_copy(ctx, NULL));
  expect(LK_ENIL, "NULL");
  ck_assert_uint_eq(lk_json_count(j), 0);
  lk_fail(ctx, LK_EARG, "before"); /* after an error nothing is done, but a child is still taken */
  ck_assert_int_eq(lk_json_set(ctx, j, "list", list), LK_EARG);
  ck_assert_ptr_null(lk_json_object(ctx));
  ck_assert_ptr_null(lk_json_array(ctx));
  ck_assert_ptr_null(lk_json_copy(ctx, j));
  ck_assert_ptr_null(parse("1"));
  expect(LK_EARG, "before");
  ck_assert_uint_eq(lk_json_count(j), 0);
  lk_json_free(j);
}
END_TEST

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  lk_json *j = lk_json_parse(c, sample, strlen(sample), "t"), *copy = j ? lk_json_copy(c, j) : NULL;
  if (copy) lk_json_write(c, "story.json", copy, LK_JSON_SORTED);
  lk_json *again = lk_json_read(c, "story.json");
  lk_json_free(again);
  lk_json_free(copy);
  lk_json_free(j);
  return lk_error(c, NULL);
}

START_TEST(survives_every_failing_allocation) {
  uint64_t count;
  const char *why = test_each_allocation(story, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 10);
}
END_TEST

static Suite *suite(void) {
  Suite *s = suite_create("json");
  TCase *c = add_case(s, "all");
  tcase_add_loop_test(c, refuses_malformed_texts, 0, (int)(sizeof malformed / sizeof *malformed));
  tcase_add_test(c, refuses_a_long_duplicate_key);
  tcase_add_test(c, limits_depth);
  tcase_add_test(c, limits_size);
  tcase_add_test(c, reads_values);
  tcase_add_test(c, keeps_the_order_of_keys);
  tcase_add_test(c, reads_options);
  tcase_add_test(c, writes_reals_as_python_does);
  tcase_add_test(c, reals_read_back_to_the_same_bits);
  tcase_add_test(c, locale_does_not_matter);
  tcase_add_test(c, writes_texts_as_python_does);
  tcase_add_test(c, writes_and_reads_files);
  tcase_add_test(c, builds);
  tcase_add_test(c, refuses_to_build);
  tcase_add_test(c, survives_every_failing_allocation);
  return s;
}

int main(void) { return run_suite(suite()); }
