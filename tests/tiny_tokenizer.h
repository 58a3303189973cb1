/* tiny_tokenizer.h: a byte-level tokenizer of the 53 tokens that the models of tests/golden/models have. */
#ifndef TINY_TOKENIZER_H
#define TINY_TOKENIZER_H
#include <stdio.h>
#include <stdlib.h>

/* 0 <pad>, 1 <s>, 2 </s>, 3 a, 4 b, 5 c, 6 a space, 7 8 the bytes of an e with an accent, 9 to 12 those of a face, then
 * d ... z and A ... Q. */
static inline void tiny_tokenizer_write(const char *path) {
  static const char *const first[] = {"<pad>",   "<s>",     "</s>",    "a",       "b",       "c",      "\\u0120",
                                      "\\u00c3", "\\u00a9", "\\u00f0", "\\u0141", "\\u013a", "\\u0122"};
  enum { FIRST = sizeof first / sizeof *first, VOCABULARY = 53 };
  FILE *f = fopen(path, "w");
  if (!f) abort();
  fprintf(f, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [");
  for (int i = 0; i < 3; i++)
    fprintf(f,
            "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
            "\"normalized\": false, \"special\": true}",
            i ? ", " : "", i, first[i]);
  fprintf(f, "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
             "\"trim_offsets\": true, \"use_regex\": true}, \"post_processor\": null, \"decoder\": {\"type\": "
             "\"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}, \"model\": "
             "{\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "
             "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"vocab\": {");
  for (int i = 0; i < VOCABULARY; i++)
    if (i < FIRST) fprintf(f, "%s\"%s\": %d", i ? ", " : "", first[i], i);
    else fprintf(f, ", \"%c\": %d", i < FIRST + 23 ? 'd' + i - FIRST : 'A' + i - FIRST - 23, i);
  fprintf(f, "}, \"merges\": []}}\n");
  if (fclose(f)) abort();
}

#endif
