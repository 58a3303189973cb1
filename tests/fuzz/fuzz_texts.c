/* fuzz_texts.c: any bytes as a file of texts, in every format: refused with a sentence that begins with its name, or
 * examples whose labels are classes. */
#include "fuzz.h"

#include <lorikeet/texts.h>
#include <string.h>

/* Every pointer that there should be is there. */
static void look(const lk_texts *x) {
  size_t length = 0;
  REQUIRE(x->count > 0);
  for (int64_t i = 0; i < x->count; i++) {
    length += strlen(x->text[i]);
    if (x->pair) length += strlen(x->pair[i]);
    if (x->label) REQUIRE(x->label[i] >= 0 && x->label[i] < x->classes);
  }
  for (int64_t i = 0; x->names && i < x->classes; i++) {
    length += strlen(x->names[i]);
    if (i) REQUIRE(strcmp(x->names[i - 1], x->names[i]) < 0);
  }
  REQUIRE(length < (size_t)1 << 30);
}

static void read_as(const uint8_t *data, size_t size, const lk_texts_options *o) {
  const char *message, *text = size ? (const char *)data : "";
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_texts *x = lk_texts_parse(ctx, text, size, "input", o, NULL), *again = NULL;
  REQUIRE((x == NULL) == (lk_error(ctx, &message) != LK_OK));
  if (x) look(x);
  else REQUIRE(!strncmp(message, "input", 5));
  if (x) again = lk_texts_parse(ctx, text, size, "input", o, x);
  if (x) REQUIRE(again && again->count == x->count && again->classes == x->classes);
  lk_texts_free(again);
  lk_texts_free(x);
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const lk_texts_options options[] = {{.format = "tsv"},
                                             {.format = "csv"},
                                             {.format = "jsonl"},
                                             {.format = "txt"},
                                             {.format = "csv", .text_column = "text", .label_column = "label"},
                                             {.format = "tsv", .pair_column = "1", .label_column = ""}};
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) read_as(data, size, &options[i]);
  return 0;
}

const char *const fuzz_words[] = {"\t",
                                  "\n",
                                  "\r\n",
                                  "\"",
                                  "\"\"",
                                  ",",
                                  "\xEF\xBB\xBF",
                                  "{\"text\":\"",
                                  "\"}",
                                  "\"label\":",
                                  "\"prompt\":",
                                  "\"completion\":",
                                  "1",
                                  "word",
                                  NULL};

size_t fuzz_seed(int i, uint8_t *to) {
  static const char *const seeds[] = {"one text\t1\nanother\t0\n", "text,label\n\"a \"\"b\"\"\nc\",good\nd,bad\n",
                                      "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": 0}\n",
                                      "{\"prompt\": \"a\", \"completion\": \"b\"}\n", "any text"};
  if (i >= (int)(sizeof seeds / sizeof *seeds)) return 0;
  size_t n = strlen(seeds[i]);
  memcpy(to, seeds[i], n);
  return n;
}
