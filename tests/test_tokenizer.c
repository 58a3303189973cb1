/* test_tokenizer.c: tokenizers of every kind against what HuggingFace's library makes of the same texts
 * (golden/tokenizers/, made by golden/make/make_tokenizers.py). */
#include "io_suite.h"

#include <lorikeet/json.h>
#include <lorikeet/tokenizer.h>
#include <time.h>

static char golden[4096];

static const char *const kinds[] = {"bert_uncased", "bert_cased", "gpt2",    "roberta", "llama3",
                                    "qwen2",        "llama2",     "mistral", "mixed"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static const char *file(const char *name, const char *ending) {
  static char path[5000];
  snprintf(path, sizeof path, "%s/%s%s.json", golden, name, ending);
  return path;
}

static lk_tokenizer *open_kind(const char *name) {
  lk_tokenizer *k = lk_tokenizer_open(ctx, file(name, ""));
  const char *message;
  lk_error(ctx, &message);
  ck_assert_msg(k != NULL, "%s", message);
  return k;
}

static const char *text_at(const lk_json *list, size_t i) {
  const char *text = NULL;
  ck_assert(lk_json_is_string(lk_json_at(list, i), &text));
  return text;
}

static int64_t number_at(const lk_json *list, size_t i) {
  int64_t value = -1;
  ck_assert(lk_json_is_int(lk_json_at(list, i), &value));
  return value;
}

/* ---- against the library ---- */

static void same_encoding(const lk_encoding *e, const lk_json *want, const char *kind, const char *text) {
  const lk_json *ids = lk_json_at(want, 0), *types = lk_json_at(want, 1), *special = lk_json_at(want, 2);
  ck_assert_msg((size_t)e->n == lk_json_count(ids), "%s: '%s' has %lld tokens, want %zu", kind, text, (long long)e->n,
                lk_json_count(ids));
  for (size_t i = 0; i < (size_t)e->n; i++) {
    ck_assert_msg(e->ids[i] == number_at(ids, i), "%s: '%s': token %zu is %lld, want %lld", kind, text, i,
                  (long long)e->ids[i], (long long)number_at(ids, i));
    ck_assert_int_eq(e->types[i], number_at(types, i));
    ck_assert_int_eq(e->special[i], number_at(special, i));
    ck_assert(e->mask[i] || e->special[i]);
  }
}

START_TEST(encodes_as_the_library) {
  const char *kind = kinds[_i], *pair;
  lk_tokenizer *k = open_kind(kind);
  lk_json *texts = lk_json_read(ctx, file("texts", "")), *want = lk_json_read(ctx, file(kind, ".expected"));
  const lk_json *list = lk_json_get(texts, "texts");
  ck_assert(lk_json_is_string(lk_json_get(texts, "pair"), &pair));
  ck_assert_uint_gt(lk_json_count(list), 20);
  for (size_t i = 0; i < lk_json_count(list); i++) {
    lk_encoding e;
    ck_assert_int_eq(lk_encode(k, text_at(list, i), NULL, NULL, &e), LK_OK);
    same_encoding(&e, lk_json_at(lk_json_get(want, "single"), i), kind, text_at(list, i));
    lk_encoding_free(k, &e);
    ck_assert_int_eq(lk_encode(k, text_at(list, i), pair, NULL, &e), LK_OK);
    same_encoding(&e, lk_json_at(lk_json_get(want, "pair"), i), kind, text_at(list, i));
    lk_encoding_free(k, &e);
  }
  lk_json_free(texts);
  lk_json_free(want);
  lk_tokenizer_free(k);
}
END_TEST

START_TEST(decodes_as_the_library) {
  lk_tokenizer *k = open_kind(kinds[_i]);
  lk_json *want = lk_json_read(ctx, file(kinds[_i], ".expected"));
  const lk_json *single = lk_json_get(want, "single");
  for (size_t i = 0; i < lk_json_count(single); i++) {
    const lk_json *list = lk_json_at(lk_json_at(single, i), 0);
    int64_t ids[1000], n = (int64_t)lk_json_count(list);
    ck_assert_int_lt(n, 1000);
    for (size_t t = 0; t < (size_t)n; t++) ids[t] = number_at(list, t);
    for (int skip = 0; skip < 2; skip++) {
      char *text = lk_decode(k, ids, n, skip);
      ck_assert_ptr_nonnull(text);
      ck_assert_str_eq(text, text_at(lk_json_get(want, skip ? "skipped" : "decoded"), i));
      lk_free(ctx, text);
    }
  }
  lk_json_free(want);
  lk_tokenizer_free(k);
}
END_TEST

/* ---- options ---- */

static void expect_ids(lk_tokenizer *k, const char *text, const lk_encode_options *o, const char *want) {
  char got[400] = "";
  lk_encoding e;
  ck_assert_int_eq(lk_encode(k, text, NULL, o, &e), LK_OK);
  for (int64_t i = 0; i < e.n; i++)
    sprintf(got + strlen(got), "%s%lld%s", i ? " " : "", (long long)e.ids[i], e.mask[i] ? "" : "p");
  ck_assert_str_eq(got, want);
  lk_encoding_free(k, &e);
}

#define WORDS                                                                                                          \
  "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"a\":1,\"##b\":2,\"c\":3,\"[C]\":4}},"   \
  "\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["  \
  "{\"SpecialToken\":{\"id\":\"[C]\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":["          \
  "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"                          \
  "\"special_tokens\":{\"[C]\":{\"id\":\"[C]\",\"ids\":[4],\"tokens\":[\"[C]\"]}}}"

static lk_tokenizer *parse(const char *json) { return lk_tokenizer_parse(ctx, json, strlen(json), "t"); }

START_TEST(takes_options) {
  lk_tokenizer *k = parse(WORDS "}");
  ck_assert_ptr_nonnull(k);
  expect_ids(k, "a ab c x", NULL, "4 1 1 2 3 0");
  expect_ids(k, "a ab c x", &(lk_encode_options){.no_special = 1}, "1 1 2 3 0");
  expect_ids(k, "a ab c x", &(lk_encode_options){.most = 3}, "4 1 1");
  expect_ids(k, "a ab c x", &(lk_encode_options){.most = 3, .no_special = 1}, "1 1 2");
  expect_ids(k, "a ab c x", &(lk_encode_options){.most = 1}, "4");
  expect_ids(k, "a", &(lk_encode_options){.pad_to = 4, .pad_id = 3}, "4 1 3p 3p");
  expect_ids(k, "a", &(lk_encode_options){.pad_to = 2, .pad_id = -1}, "4 1");
  lk_encoding e;
  ck_assert_int_eq(lk_encode(k, "a", NULL, &(lk_encode_options){.pad_to = 3, .pad_id = -1}, &e), LK_EARG);
  expect(LK_EARG, "pad_id is -1");
  ck_assert_int_eq(lk_encode(k, NULL, NULL, NULL, &e), LK_ENIL);
  expect(LK_ENIL, "the text is NULL");
  ck_assert_int_eq(lk_encode_bytes(k, "a \xFF\0c", 5, NULL, &e), LK_OK);
  ck_assert_int_eq(e.n, 3);
  lk_encoding_free(k, &e);
  lk_tokenizer_free(k);
}
END_TEST

START_TEST(file_options_can_be_switched_off) {
  lk_tokenizer *k =
      parse(WORDS ",\"truncation\":{\"max_length\":3,\"strategy\":\"LongestFirst\",\"stride\":0},"
                  "\"padding\":{\"strategy\":{\"Fixed\":6},\"direction\":\"Left\",\"pad_id\":0,\"pad_type_id\":0}}");
  ck_assert_ptr_nonnull(k);
  expect_ids(k, "a ab c x", NULL, "0p 0p 0p 4 1 1");
  expect_ids(k, "a ab c x", &(lk_encode_options){.most = -1, .pad_to = -1}, "4 1 1 2 3 0");
  expect_ids(k, "a", &(lk_encode_options){.pad_to = 3, .pad_id = -1}, "0p 4 1");
  lk_encoding e;
  ck_assert_int_eq(lk_encode(k, "a a a", "c", &(lk_encode_options){.most = 3, .pad_to = -1}, &e), LK_OK);
  ck_assert_int_eq(e.n, 3);
  ck_assert_int_eq(e.ids[2], 3);
  ck_assert_int_eq(e.types[2], 1);
  lk_encoding_free(k, &e);
  lk_tokenizer_free(k);
}
END_TEST

START_TEST(knows_its_tokens) {
  lk_tokenizer *k = open_kind("roberta");
  size_t n = 0;
  ck_assert_int_eq(lk_tokenizer_size(k), 401);
  ck_assert_int_eq(lk_token_id(k, "<mask>"), 400);
  ck_assert_int_eq(lk_token_id(k, "<pad>"), 1);
  ck_assert_int_eq(lk_token_id(k, "no such token"), -1);
  ck_assert_str_eq(lk_token_text(k, 400, &n), "<mask>");
  ck_assert_uint_eq(n, 6);
  ck_assert_ptr_null(lk_token_text(k, 401, NULL));
  ck_assert_ptr_null(lk_token_text(k, -1, NULL));
  char *text = lk_decode(k, (int64_t[]){999, -5, 1}, 3, 0);
  ck_assert_str_eq(text, "<pad>");
  lk_free(ctx, text);
  lk_tokenizer_free(k);
}
END_TEST

/* 200 kB without a space, and one mark after another: seconds would mean that time grows with the square. */
START_TEST(takes_long_words) {
  static char text[200001];
  lk_tokenizer *k = open_kind(kinds[_i]);
  for (int round = 0; round < 3; round++) {
    static const char *const patterns[] = {"lorikeet", " \n", "\xCC\x81\xCC\xA3"};
    for (size_t i = 0; i < sizeof text - 1; i++) text[i] = patterns[round][i % strlen(patterns[round])];
    lk_encoding e;
    clock_t start = clock();
    ck_assert_int_eq(lk_encode(k, text, NULL, &(lk_encode_options){.most = -1, .pad_to = -1}, &e), LK_OK);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    ck_assert_msg(seconds < 10 || getenv("LK_VALGRIND"), "%s: %g s", kinds[_i], seconds);
    lk_encoding_free(k, &e);
  }
  lk_tokenizer_free(k);
}
END_TEST

#define ADDED(content, more) "{\"id\":0,\"content\":\"" content "\",\"normalized\":false," more "}"

/* A token that strips white space may leave nothing, or less than nothing, of the next one. */
START_TEST(white_space_is_taken_once) {
  lk_tokenizer *k =
      parse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"x\":0,\" \":1},\"merges\":[]},\"added_tokens\":[" ADDED(
          "e", "\"rstrip\":true") "," ADDED("  ", "\"lstrip\":true") "," ADDED("on", "\"single_word\":true") "]}");
  ck_assert_ptr_nonnull(k);
  expect_ids(k, "e x", NULL, "2 0");
  expect_ids(k, "e  x", NULL, "2 0");
  expect_ids(k, "e   x", NULL, "2 0");
  expect_ids(k, "x   x", NULL, "0 3 1 0");
  expect_ids(k, "x on x", NULL, "0 1 4 1 0");
  expect_ids(k, "x onx xon", NULL, "0 1 0 1 0");
  lk_tokenizer_free(k);
}
END_TEST

/* ---- what is refused ---- */

#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define WITH(section) "{" MODEL "," section "}"
#define BPE(fields) "{\"model\":{\"type\":\"BPE\"," fields "}}"
#define NORMALIZER(fields) WITH("\"normalizer\":{\"type\":" fields "}")
#define SPLIT(pattern, more)                                                                                           \
  WITH("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{" pattern         \
       "}," more "}]}")
#define REGEX(r) SPLIT("\"Regex\":\"" r "\"", "\"behavior\":\"Isolated\"")
#define PROCESSOR(fields) WITH("\"post_processor\":{\"type\":" fields "}")

static const struct {
  const char *json, *words;
} malformed[] = {
    {"", "t:1:0: "},
    {"[]", "t: want an object, found an array"},
    {"{}", "t: model: must be an object, not nothing"},
    {"{\"version\":\"2.0\"," MODEL "}", "version: '2.0' is not supported"},
    {"{\"model\":{}}", "t: model.type: is missing"},
    {"{\"model\":{\"type\":\"Unigram\"}}", "t: model.type: 'Unigram' is not supported"},
    {"{\"model\":{\"type\":\"WordLevel\"}}", "t: model.type: 'WordLevel' is not supported"},
    {BPE("\"vocab\":[],\"merges\":[]"), "t: model.vocab: must be an object, not an array"},
    {BPE("\"vocab\":{\"a\":-1},\"merges\":[]"), "the id of 'a' is wrong"},
    {BPE("\"vocab\":{\"a\":4294967296},\"merges\":[]"), "the id of 'a' is wrong"},
    {BPE("\"vocab\":{\"a\":0}"), "t: model.merges: is missing"},
    {BPE("\"vocab\":{\"a\":0},\"merges\":[\"a\"]"), "t: model.merges: number 0 is not a pair"},
    {BPE("\"vocab\":{\"a\":0},\"merges\":[\"a b c\"]"), "number 0 is not a pair"},
    {BPE("\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]"), "number 0 is not a pair"},
    {BPE("\"vocab\":{\"a\":0},\"merges\":[\"a a\"]"), "number 0, 'a' and 'a', is of a token that is not"},
    {BPE("\"vocab\":{},\"merges\":[],\"dropout\":0.1"), "t: model.dropout: only null and 0 are supported"},
    {BPE("\"vocab\":{},\"merges\":[],\"fuse_unk\":1"), "t: model.fuse_unk: must be true or false, not an integer"},
    {NORMALIZER("\"Precompiled\""), "t: normalizer.type: 'Precompiled' is not supported"},
    {NORMALIZER("3"), "t: normalizer.type: must be a string, not an integer"},
    {NORMALIZER("\"Sequence\""), "t: normalizer.normalizers: is missing"},
    {NORMALIZER("\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"X\"}]"),
     "t: normalizer.normalizers[1].type: 'X' is not supported"},
    {NORMALIZER("\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\""), "normalizer.pattern: an empty pattern"},
    {NORMALIZER("\"Replace\",\"pattern\":{\"String\":\"x\"}"), "t: normalizer.content: is missing"},
    {NORMALIZER("\"Replace\",\"pattern\":\"x\""), "t: normalizer.pattern: must be an object, not a string"},
    {WITH("\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), "pre_tokenizer.type: 'UnicodeScripts' is not supported"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), "'ab' is not one character"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"add_prefix_space\":false}"), "but prepend_scheme is 'always'"},
    {SPLIT("\"String\":\"x\"", "\"behavior\":\"Sideways\""), "pretokenizers[0].behavior: 'Sideways' is not supported"},
    {REGEX("a("), "pretokenizers[0].pattern: pattern 'a(': missing closing parenthesis"},
    {REGEX("a{1,2}+"), "'{1,2}+' is not supported"},
    {REGEX("[a&&b]"), "'&&' is not supported"},
    {REGEX("[a[b]]"), "'[' is not supported"},
    {REGEX("[^\\\\W]"), "'\\W' is not supported"},
    {REGEX("\\\\G"), "'\\G' is not supported"},
    {REGEX("\\\\p{Nope}"), "unknown property"},
    {REGEX("(?~a)"), "'(?~' is not supported"},
    {REGEX("[[:nope:]]"), "'[:nope:]' is not supported"},
    {REGEX("\\\\"), "pattern '\\'"},
    {PROCESSOR("\"Other\""), "t: post_processor.type: 'Other' is not supported"},
    {PROCESSOR("\"BertProcessing\",\"sep\":[\"s\"],\"cls\":[\"c\",1]"), "sep: is not a token and its id"},
    {PROCESSOR("\"TemplateProcessing\",\"single\":[{}],\"pair\":[],\"special_tokens\":{}"), "number 0 is neither"},
    {PROCESSOR("\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\",\"type_id\":0}}],\"pair\":[],"
               "\"special_tokens\":{}"),
     "single: has the second text B"},
    {PROCESSOR("\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}],\"pair\":[],"
               "\"special_tokens\":{}"),
     "special_tokens: 'x' is missing"},
    {PROCESSOR("\"Sequence\",\"processors\":[{\"type\":\"BertProcessing\",\"sep\":[\"s\",0],\"cls\":[\"c\",1]},"
               "{\"type\":\"BertProcessing\",\"sep\":[\"s\",0],\"cls\":[\"c\",1]}]"),
     "'BertProcessing' behind another one"},
    {WITH("\"decoder\":{\"type\":\"CTC\"}"), "t: decoder.type: 'CTC' is not supported"},
    {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}"), "-1 is not between 0 and"},
    {WITH("\"added_tokens\":{}"), "t: added_tokens: must be an array, not an object"},
    {WITH("\"added_tokens\":[{\"id\":1}]"), "t: added_tokens.content: is missing"},
    {WITH("\"normalizer\":{\"type\":\"Strip\"},\"added_tokens\":[{\"id\":3,\"content\":\" \"}]"), "' ' is empty when"},
    {WITH("\"truncation\":{\"max_length\":1.5}"), "t: truncation.max_length: must be an integer, not a real number"},
    {WITH("\"truncation\":{\"max_length\":2,\"strategy\":\"No\"}"), "t: truncation.strategy: 'No' is not supported"},
    {WITH("\"padding\":{\"strategy\":\"Most\"}"), "t: padding.strategy: 'Most' is not supported"},
    {WITH("\"padding\":{\"strategy\":{\"Fixed\":99999999999}}"), "99999999999 is not between"},
};

START_TEST(refuses_malformed_files) {
  ck_assert_ptr_null(parse(malformed[_i].json));
  expect(LK_EFORMAT, malformed[_i].words);
}
END_TEST

START_TEST(refuses_missing_files) {
  ck_assert_ptr_null(lk_tokenizer_open(ctx, "nowhere"));
  expect(LK_EIO, "nowhere");
  ck_assert_ptr_null(lk_tokenizer_open(ctx, "."));
  lk_error_clear(ctx);
  test_put("tokenizer.json", "{\"model\":1}", 11);
  ck_assert_ptr_null(lk_tokenizer_open(ctx, "."));
  expect(LK_EFORMAT, "./tokenizer.json: model: must be an object, not an integer");
}
END_TEST

START_TEST(says_what_it_cannot_encode) {
  lk_encoding e;
  lk_tokenizer *k = parse("{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[U]\",\"vocab\":{\"a\":0}},"
                          "\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"s\",1],\"cls\":[\"c\",2]},"
                          "\"truncation\":{\"max_length\":9,\"strategy\":\"OnlySecond\"}}");
  ck_assert_int_eq(lk_encode(k, "x", NULL, NULL, &e), LK_EARG);
  expect(LK_EARG, "the unknown token '[U]' is not in the vocabulary");
  ck_assert_int_eq(lk_encode(k, "a", NULL, &(lk_encode_options){.most = 1}, &e), LK_EARG);
  expect(LK_EARG, "at most 1 tokens are wanted, of which 2 are special");
  ck_assert_int_eq(lk_encode(k, "a", NULL, &(lk_encode_options){.most = 2}, &e), LK_OK);
  lk_encoding_free(k, &e);
  lk_tokenizer_free(k);
}
END_TEST

/* ---- every single allocation fails ---- */

static lk_status story(lk_ctx *c, void *kind) {
  lk_tokenizer *k = lk_tokenizer_open(c, file(kind, ""));
  lk_encoding e = {0};
  if (k) lk_encode(k, "The d\xC3\xA9j\xC3\xA0 <mask> \xF0\x9F\x99\x82 1234", "don't", NULL, &e);
  char *text = k && !lk_error(c, NULL) ? lk_decode(k, e.ids, e.n, 0) : NULL;
  lk_free(c, text);
  if (k) lk_encoding_free(k, &e);
  lk_tokenizer_free(k);
  return lk_error(c, NULL);
}

START_TEST(every_allocation_may_fail) {
  uint64_t count = 0;
  const char *why = test_each_allocation(story, (void *)kinds[_i], &count);
  ck_assert_msg(!why, "%s: %s", kinds[_i], why);
  ck_assert_uint_gt(count, 30);
}
END_TEST

int main(void) {
  const char *source = getenv("srcdir");
  char *here = realpath(source ? source : ".", NULL);
  if (!here) return 99;
  snprintf(golden, sizeof golden, "%s/tests/golden/tokenizers", here);
  free(here);
  Suite *s = suite_create("tokenizer");
  TCase *c = add_case(s, "library");
  tcase_add_loop_test(c, encodes_as_the_library, 0, KINDS);
  tcase_add_loop_test(c, decodes_as_the_library, 0, KINDS);
  c = add_case(s, "use");
  tcase_add_test(c, takes_options);
  tcase_add_test(c, file_options_can_be_switched_off);
  tcase_add_test(c, knows_its_tokens);
  tcase_add_test(c, white_space_is_taken_once);
  tcase_add_loop_test(c, takes_long_words, 0, KINDS);
  c = add_case(s, "errors");
  tcase_add_loop_test(c, refuses_malformed_files, 0, (int)(sizeof malformed / sizeof *malformed));
  tcase_add_test(c, refuses_missing_files);
  tcase_add_test(c, says_what_it_cannot_encode);
  tcase_add_loop_test(c, every_allocation_may_fail, 0, KINDS);
  return run_suite(s);
}
