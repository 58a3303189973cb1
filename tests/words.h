/* words.h: a small WordPiece tokenizer for tests: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, the words of a list. */
#ifndef TEST_WORDS_H
#define TEST_WORDS_H
#include <stdio.h>
#include <string.h>

/* words: a list ended by NULL, of plain letters.  json needs 4096 bytes. */
static inline const char *test_words(const char *const *words, char *json) {
  static const char *const special[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  int n = sprintf(json, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
  for (int i = 0; i < 5; i++)
    n += sprintf(json + n,
                 "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                 "\"normalized\":false,\"special\":true}",
                 i ? "," : "", i, special[i]);
  n += sprintf(json + n,
               "],\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
               "\"strip_accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
               "\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",3],\"cls\":[\"[CLS]\",2]},"
               "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},\"model\":{\"type\":"
               "\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
               "\"max_input_chars_per_word\":100,\"vocab\":{");
  for (int i = 0; i < 5; i++) n += sprintf(json + n, "%s\"%s\":%d", i ? "," : "", special[i], i);
  for (int i = 0; words[i]; i++) n += sprintf(json + n, ",\"%s\":%d", words[i], i + 5);
  sprintf(json + n, "}}}");
  return json;
}

#endif
