/* fuzz_json.c: any bytes as JSON: refused with a sentence, or written and read back to the same text. */
#include "fuzz.h"

#include <lorikeet/json.h>
#include <string.h>

/* Written, read and written again in one style. */
static void check_style(lk_ctx *ctx, const lk_json *j, int flags) {
  char *text = lk_json_dump(ctx, j, flags);
  REQUIRE(text);
  for (const char *p = text; *p; p++) REQUIRE((*p >= ' ' && *p < 127) || (*p == '\n' && !(flags & LK_JSON_COMPACT)));
  lk_json *again = lk_json_parse(ctx, text, strlen(text), "again");
  REQUIRE(again && lk_json_type(again) == lk_json_type(j) && lk_json_count(again) == lk_json_count(j));
  char *second = lk_json_dump(ctx, again, flags);
  REQUIRE(second && !strcmp(text, second));
  lk_json_free(again);
  lk_free(ctx, second);
  lk_free(ctx, text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *message;
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_json *j = lk_json_parse(ctx, (const char *)data, size, "input");
  lk_status status = lk_error(ctx, &message);
  REQUIRE(j ? status == LK_OK : status == LK_EFORMAT && !strncmp(message, "input:", 6));
  if (j) {
    lk_json *copy = lk_json_copy(ctx, j);
    for (int flags = 0; flags < 4; flags++) check_style(ctx, flags & 1 ? copy : j, flags);
    lk_json_free(copy);
  }
  lk_json_free(j);
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
  return 0;
}

const char *const fuzz_words[] = {"{\"k\":",
                                  "[",
                                  "]",
                                  "}",
                                  "\"",
                                  "\\",
                                  "\\u00e9",
                                  "\\ud83c\\udfba",
                                  "\\u0000",
                                  "true",
                                  "false",
                                  "null",
                                  "1e-5",
                                  "-0.0",
                                  "1e308",
                                  "\xC3\xA9",
                                  "\xED\xA0\x80",
                                  ",",
                                  ":",
                                  "[[[[[[[[[[[[[[[[",
                                  "9223372036854775807",
                                  NULL};

static const char *const seeds[] = {
    "0",
    "[1, -2.5, 1e-05, true, false, null, \"s\"]",
    "{\"r\": 8, \"lora_alpha\": 16.0, \"target_modules\": [\"query\", \"value\"], \"rank_pattern\": {}}",
    "{\"hidden_size\": 192, \"layer_norm_eps\": 1e-12, \"id2label\": {\"0\": \"L\"}, \"n\": [[{\"a\": [{}]}], []]}",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83c\\udfba \xC3\xA9 \xF0\x9F\x8E\xBA\"",
};

size_t fuzz_seed(int i, uint8_t *to) {
  if (i >= (int)(sizeof seeds / sizeof *seeds)) return 0;
  size_t n = strlen(seeds[i]);
  memcpy(to, seeds[i], n);
  return n;
}
