/* tokenizer.h: text to tokens and back, as HuggingFace's tokenizer.json says.
 *
 *   lk_tokenizer *k = lk_tokenizer_open(ctx, "directory");
 *   lk_encoding e;
 *   lk_encode(k, "a text", NULL, NULL, &e);   ... e.ids[0 .. e.n - 1] ...   lk_encoding_free(k, &e);
 *
 * Models: WordPiece (BERT), byte-level BPE (GPT-2, RoBERTa, LLaMA 3, Qwen), BPE with byte fallback (LLaMA 2, Mistral).
 * The ids are those of HuggingFace's tokenizers library (0.23); what a file asks for beyond that is refused by name.
 * Regular expressions and lower case know the characters of PCRE2's and utf8proc's Unicode versions: with older ones
 * than the library's, letters of scripts that were added since may be cut in other places.  A file's stride, which asks
 * for the parts that truncation cuts off, is ignored. */
#ifndef LORIKEET_TOKENIZER_H
#define LORIKEET_TOKENIZER_H
#include <lorikeet/ctx.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lk_tokenizer lk_tokenizer;

/* From a tokenizer.json, or the directory that holds one.  NULL on error: LK_EFORMAT names the file and the field. */
LK_API lk_tokenizer *lk_tokenizer_open(lk_ctx *ctx, const char *path);
/* The same from a text in memory; name: for messages. */
LK_API lk_tokenizer *lk_tokenizer_parse(lk_ctx *ctx, const char *json, size_t length, const char *name);
LK_API void lk_tokenizer_free(lk_tokenizer *k); /* k may be NULL */

LK_API int64_t lk_tokenizer_size(const lk_tokenizer *k);                             /* tokens, added ones included */
LK_API int64_t lk_token_id(const lk_tokenizer *k, const char *token);                /* -1: there is none */
LK_API const char *lk_token_text(const lk_tokenizer *k, int64_t id, size_t *length); /* NULL: there is none */

#define LK_TOKENIZER_MAX_BYTES ((size_t)1 << 29) /* of a text: 512 MiB */

/* All zero: what the file says. */
typedef struct lk_encode_options {
  int no_special; /* leave out what the post-processor adds ([CLS], <s>) */
  int64_t most;   /* cut to so many tokens, special ones included (the longer of a pair first); 0: as the file says,
                   * -1: never */
  int64_t pad_to; /* fill up to so many tokens; 0: as the file says, -1: never */
  int64_t pad_id; /* with this token, if pad_to > 0; -1: the file's */
} lk_encode_options;

typedef struct lk_encoding {
  int64_t n;
  int64_t *ids, *types; /* tokens; 0 for the first text, 1 for the second, as the post-processor says */
  uint8_t *mask;        /* 1 a token, 0 padding */
  uint8_t *special;     /* 1: added by the post-processor, or padding */
} lk_encoding;

/* Tokens of a text, or of a pair (pair NULL: none).  Bytes that are no UTF-8 are replaced by U+FFFD, as Python's
 * decoding with errors="replace" does.  options NULL: as the file says.  e is the caller's, lk_encoding_free. */
LK_API lk_status lk_encode(lk_tokenizer *k, const char *text, const char *pair, const lk_encode_options *options,
                           lk_encoding *e);
LK_API lk_status lk_encode_bytes(lk_tokenizer *k, const char *text, size_t length, const lk_encode_options *options,
                                 lk_encoding *e);
LK_API void lk_encoding_free(lk_tokenizer *k, lk_encoding *e);
/* The text of tokens, UTF-8 (bytes that are none: U+FFFD); skip_special leaves out special added tokens.  The caller's
 * (lk_free).  NULL on error; an id that does not exist is left out, as in the library. */
LK_API char *lk_decode(lk_tokenizer *k, const int64_t *ids, int64_t n, int skip_special);
/* The same with its length, for texts that have zero bytes inside; length may be NULL. */
LK_API char *lk_decode_bytes(lk_tokenizer *k, const int64_t *ids, int64_t n, int skip_special, size_t *length);

#ifdef __cplusplus
}
#endif
#endif
