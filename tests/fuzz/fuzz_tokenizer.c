/* fuzz_tokenizer.c: any bytes as a tokenizer.json, up to the first zero byte, and a text, behind it.  Refused with a
 * sentence; or the text is encoded, alone and as a pair, and what comes out can be decoded. */
#include "fuzz.h"

#include <lorikeet/tokenizer.h>
#include <string.h>

static void check_encoding(lk_ctx *ctx, lk_tokenizer *k, lk_status status, lk_encoding *e) {
  REQUIRE(status == lk_error(ctx, NULL));
  lk_error_clear(ctx);
  if (status) REQUIRE(!e->ids && !e->n);
  for (int64_t i = 0; i < e->n; i++) REQUIRE(e->ids[i] >= 0 && e->mask[i] <= 1 && e->special[i] <= 1);
  for (int skip = 0; skip < 2; skip++) {
    char *text = lk_decode(k, e->ids, e->n, skip);
    REQUIRE(text || lk_error(ctx, NULL));
    lk_error_clear(ctx);
    lk_free(ctx, text);
  }
  lk_encoding_free(k, e);
}

static void check_text(lk_ctx *ctx, lk_tokenizer *k, const char *text, size_t n) {
  lk_encoding e;
  const lk_encode_options cut = {.most = 5, .pad_to = 7};
  check_encoding(ctx, k, lk_encode_bytes(k, text, n, NULL, &e), &e);
  check_encoding(ctx, k, lk_encode(k, text, "the pair", &cut, &e), &e);
  for (int64_t id = 0; id < 20; id++) {
    size_t length;
    const char *token = lk_token_text(k, id, &length);
    REQUIRE(!token || (strlen(token) == length && lk_token_id(k, token) >= 0));
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *message, *json = (const char *)data, *zero = size ? memchr(data, 0, size) : NULL;
  size_t n = zero ? (size_t)(zero - json) : size, ntext = zero ? size - n - 1 : 0;
  char *text = malloc(ntext + 1);
  REQUIRE(text);
  if (ntext) memcpy(text, zero + 1, ntext);
  text[ntext] = 0;
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tokenizer *k = lk_tokenizer_parse(ctx, json, n, "input");
  lk_status status = lk_error(ctx, &message);
  REQUIRE(k ? status == LK_OK : status == LK_EFORMAT && strlen(message) > 8);
  lk_error_clear(ctx);
  if (k) check_text(ctx, k, text, ntext);
  lk_tokenizer_free(k);
  lk_warnings_clear(ctx);
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
  free(text);
  return 0;
}

#define S(type) "{\"type\":\"" type "\"}"
#define REGEX(r) "\"pattern\":{\"Regex\":\"" r "\"},"
const char *const fuzz_words[] = {"\"normalizer\":" S("NFKD") ",",
                                  "\"normalizer\":" S("BertNormalizer") ",",
                                  S("NFC") ",",
                                  S("Nmt") ",",
                                  S("Strip") ",",
                                  S("StripAccents") ",",
                                  "{\"type\":\"Prepend\",\"prepend\":\"_\"},",
                                  "{\"type\":\"Replace\"," REGEX("a*") "\"content\":\"b\"},",
                                  "\"pre_tokenizer\":" S("Metaspace") ",",
                                  S("ByteLevel") ",",
                                  S("Whitespace") ",",
                                  S("Digits") ",",
                                  S("Punctuation") ",",
                                  REGEX("\\\\b") "",
                                  REGEX("(?i:[^\\\\s\\\\p{L}]+|x)") "",
                                  "\"behavior\":\"MergedWithNext\",",
                                  "\"invert\":true,",
                                  "\"prepend_scheme\":\"first\",",
                                  "\"byte_fallback\":true,",
                                  "\"ignore_merges\":true,",
                                  "\"end_of_word_suffix\":\"b\",",
                                  "\"unk_token\":\"a\",",
                                  "\"padding\":{\"strategy\":{\"Fixed\":9},\"direction\":\"Left\",\"pad_id\":0,"
                                  "\"pad_type_id\":0,\"pad_to_multiple_of\":4},",
                                  "\"truncation\":{\"max_length\":3,\"strategy\":\"OnlySecond\"},",
                                  "\"decoder\":" S("ByteFallback") ",",
                                  "\"decoder\":" S("WordPiece") ",",
                                  S("BPEDecoder") ",",
                                  S("Fuse") ",",
                                  "\"lstrip\":true,\"rstrip\":true,",
                                  "\"single_word\":true,",
                                  "\xCC\x81",
                                  "\xF0\x9F\x99\x82",
                                  "\xE4\xB8\xAD",
                                  "\xFF",
                                  "  ",
                                  "ab",
                                  NULL};

#define BPE(more) "\"model\":{\"type\":\"BPE\"," more "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define SEQUENCE(list, a, b) "{\"type\":\"Sequence\",\"" list "\":[" a "," b "]}"
#define SPLIT "{\"type\":\"Split\"," REGEX("\\\\p{L}+") "\"behavior\":\"Isolated\"}"
#define TOKEN(more) "{\"id\":3,\"content\":\"<x>\"," more "\"normalized\":false}"
#define SPACES "{\"id\":4,\"content\":\"  \",\"lstrip\":true,\"normalized\":false}"
#define WORDPIECE "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[U]\",\"vocab\":{\"[U]\":0,\"a\":1,\"##b\":2}}"
#define TEXT_A "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define TEXT_B "{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}"
#define TEMPLATE                                                                                                       \
  "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"s\",\"type_id\":0}}," TEXT_A               \
  "],\"pair\":[" TEXT_B "],\"special_tokens\":{\"s\":{\"id\":\"s\",\"ids\":[1,2]}}}"
#define PROCESSOR "{\"type\":\"BertProcessing\",\"sep\":[\"a\",0],\"cls\":[\"b\",1]}"

static const char *const seeds[] = {
    "{" BPE("\"unk_token\":\"a\",\"fuse_unk\":true,") "}",
    "{\"normalizer\":" SEQUENCE("normalizers", S("NFC"), S("Lowercase")) "," BPE("") "}",
    "{\"pre_tokenizer\":" SEQUENCE("pretokenizers", SPLIT, S("ByteLevel")) "," BPE("") "}",
    "{\"added_tokens\":[" TOKEN("\"special\":true,") "]," BPE("") ",\"post_processor\":" PROCESSOR "}",
    "{\"added_tokens\":[" TOKEN("\"rstrip\":true,") "," SPACES "]," BPE("") "}",
    "{\"normalizer\":" S("BertNormalizer") ",\"pre_tokenizer\":" S("BertPreTokenizer") "," WORDPIECE "}",
    "{\"decoder\":" S("WordPiece") "," WORDPIECE "}",
    "{\"decoder\":" S("ByteLevel") "," BPE("\"byte_fallback\":true,") ",\"post_processor\":" TEMPLATE "}",
};

static const char text[] = "ab  abab \xC3\xA9 a\xCC\x81 <x> <x>    \xF0\x9F\x99\x82 3.14 don't\n";

size_t fuzz_seed(int i, uint8_t *to) {
  if (i >= (int)(sizeof seeds / sizeof *seeds)) return 0;
  size_t n = strlen(seeds[i]) + 1;
  memcpy(to, seeds[i], n);
  memcpy(to + n, text, sizeof text - 1);
  return n + sizeof text - 1;
}
