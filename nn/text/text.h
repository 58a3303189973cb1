/* text.h: what the files of text/ share: characters, buffers, pieces of a text, the steps of a tokenizer.
 *
 *   text -> added tokens cut out (added.c) -> normalizers (normalize.c) -> pre-tokenizers (pretokenize.c) -> pieces,
 *   pieces -> tokens by the model (wordpiece.c, bpe.c) -> special tokens, cutting, padding (process.c, encode.c). */
#ifndef LK_TEXT_H
#define LK_TEXT_H
#include "../regex.h"

#include <lorikeet/json.h>
#include <lorikeet/tokenizer.h>
#include <string.h>

/* ---- characters (unicode.c) ---- */
/* In bytes, of the character that begins here. */
static inline size_t lk_char_length(const char *s) {
  unsigned char c = (unsigned char)*s;
  return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}
/* Of valid UTF-8; its length. */
static inline size_t lk_char_read(const char *s, uint32_t *c) {
  const unsigned char *p = (const unsigned char *)s;
  size_t n = lk_char_length(s);
  *c = n == 1 ? *p : *p & (0x7Fu >> n);
  for (size_t i = 1; i < n; i++) *c = *c << 6 | (p[i] & 0x3Fu);
  return n;
}
size_t lk_char_write(uint32_t c, char to[4]);
int lk_is_space(uint32_t c);       /* White_Space */
int lk_is_other(uint32_t c);       /* categories Cc, Cf, Cs, Co */
int lk_is_mark(uint32_t c);        /* M */
int lk_is_nonspacing(uint32_t c);  /* Mn */
int lk_is_numeric(uint32_t c);     /* N */
int lk_is_punctuation(uint32_t c); /* P, and all of ASCII that is neither letter, digit, space nor control */
int lk_is_word(uint32_t c);        /* what a word of a single-word token consists of: L, M, Nd, Pc */
size_t lk_lowercase(uint32_t c, uint32_t to[4]);

/* Newer than the library's tables (frozen.c). */
int lk_is_newer_format(uint32_t c);
int lk_is_newer_mark(uint32_t c);
int lk_is_newer_nonspacing(uint32_t c);
int lk_is_newer_punctuation(uint32_t c);
int lk_is_newer_composed(uint32_t c);

/* ---- growing text ---- */
/* UTF-8.  The first `zero` bytes come from the first character of what the user gave. */
typedef struct lk_text {
  lk_ctx *ctx;
  char *s;
  size_t n, capacity, zero;
} lk_text;

void lk_text_add(lk_text *t, const char *s, size_t n);
void lk_text_put(lk_text *t, uint32_t c);
void lk_text_clear(lk_text *t);
void lk_text_free(lk_text *t);
void lk_text_add_utf8(lk_text *t, const char *s, size_t n); /* any bytes; what is no UTF-8 becomes U+FFFD */

typedef enum lk_form { LK_NFC, LK_NFD, LK_NFKC, LK_NFKD } lk_form;
void lk_text_form(lk_text *out, const lk_text *in, lk_form form);

/* ---- pieces ---- */
/* A part of a text: an added token that is found (id >= 0), or text. */
typedef struct lk_piece {
  size_t at, n, zero;
  int32_t id;
} lk_piece;

typedef struct lk_pieces {
  lk_text text;
  lk_piece *p;
  size_t n, capacity;
} lk_pieces;

void lk_piece_add(lk_pieces *to, const char *s, size_t n, size_t zero, int32_t id);
void lk_pieces_clear(lk_pieces *p);
void lk_pieces_free(lk_pieces *p);

/* ---- patterns (pattern.c) ---- */
/* A regular expression, a text, or a class of characters. */
typedef struct lk_pattern {
  lk_regex *regex;
  char *text;
  size_t n;
  int (*is)(uint32_t c);
} lk_pattern;

typedef enum lk_behavior {
  LK_REMOVED,
  LK_ISOLATED,
  LK_MERGED_WITH_PREVIOUS,
  LK_MERGED_WITH_NEXT,
  LK_CONTIGUOUS
} lk_behavior;

/* A walk over the matches; all zero begins one.  Empty matches right behind another match do not count. */
typedef struct lk_walk {
  size_t start, end; /* of the match */
  size_t from;       /* where to go on */
  int any;
} lk_walk;

int lk_pattern_step(const lk_pattern *p, const char *s, size_t n, lk_walk *walk); /* 0: no more */
/* Cuts the text at the matches (invert: between them). */
void lk_text_split(const lk_pattern *p, lk_behavior behavior, int invert, const char *s, size_t n, size_t zero,
                   lk_pieces *to);
/* onig.c: Oniguruma's regular expression in PCRE2's words; NULL on error. */
char *lk_onig(lk_ctx *ctx, const char *where, const char *pattern);

/* ---- steps ---- */
typedef struct lk_run lk_run;
typedef struct lk_step lk_step;
/* One normalizer, pre-tokenizer or decoder with what its section of the file says. */
struct lk_step {
  void (*normalize)(const lk_step *s, const lk_text *in, lk_text *out);
  size_t (*map)(uint32_t c, uint32_t to[4]); /* of each character, for normalize */
  void (*split)(const lk_step *s, lk_run *run, const char *text, size_t n, size_t zero);
  void (*decode)(const lk_step *s, const lk_pieces *from, lk_pieces *to);
  lk_pattern pattern;
  char *text; /* Replace's content, Prepend's and WordPiece's prefix, BPEDecoder's suffix */
  size_t n;   /* of text */
  uint32_t replacement;
  int behavior, invert, prepend, split_words, cleanup, left, right;
};

typedef struct lk_steps {
  lk_step *step;
  size_t n, capacity;
} lk_steps;

/* ---- the vocabulary (vocab.c) ---- */
typedef struct lk_token {
  size_t at; /* of its text in bytes */
  uint32_t n;
  int32_t id;
} lk_token;

typedef struct lk_vocab {
  lk_text bytes;
  lk_token *token;
  size_t n, capacity;
  uint32_t *slot;  /* by hash; index + 1, 0: empty */
  size_t slots;    /* a power of two */
  uint32_t *by_id; /* token indices in order of ids */
  size_t longest;  /* token, in bytes */
} lk_vocab;

/* Adds a token that is not there yet; room was made by lk_vocab_room. */
void lk_vocab_room(lk_vocab *v, size_t tokens);
void lk_vocab_add(lk_vocab *v, const char *s, size_t n, int32_t id);
void lk_vocab_sort(lk_vocab *v); /* after the last one */
void lk_vocab_free(lk_vocab *v);
const lk_token *lk_vocab_find(const lk_vocab *v, const char *s, size_t n); /* NULL: none */
const lk_token *lk_vocab_by_id(const lk_vocab *v, int64_t id);

typedef struct lk_merge {
  uint64_t pair; /* left id << 32 | right id */
  uint32_t rank;
  int32_t id;
} lk_merge;

typedef struct lk_merges {
  lk_merge *slot; /* rank UINT32_MAX: empty */
  size_t slots;
} lk_merges;

int lk_merges_room(lk_ctx *ctx, lk_merges *m, size_t count);
void lk_merges_put(lk_merges *m, lk_merge merge);
const lk_merge *lk_merges_find(const lk_merges *m, int32_t left, int32_t right);

/* ---- the tokenizer ---- */
typedef struct lk_added {
  int single_word, lstrip, rstrip, normalized, special;
  char *pattern; /* the token's text, normalized if that is asked for */
  size_t n;
  int32_t id;
} lk_added;

/* Added tokens that are looked for together, by first byte, the longest first. */
typedef struct lk_matcher {
  const lk_added **list;
  size_t n, first[257];
} lk_matcher;

typedef struct lk_model_text {
  void (*encode)(const lk_tokenizer *k, lk_run *run, const char *s, size_t n);
  lk_vocab vocab;
  lk_merges merges;
  char *unknown, *prefix, *suffix; /* unknown may be NULL */
  size_t nprefix, nsuffix;
  int32_t unknown_id; /* -1: not in the vocabulary */
  int64_t most_chars; /* of a word, WordPiece */
  int fuse_unknown, byte_fallback, ignore_merges;
  int32_t byte[256];   /* tokens <0x00> ..., -1: there is none */
  int32_t letter[512]; /* tokens of one character below 512, -1 */
} lk_model_text;

/* What a post-processor makes: the two texts, special tokens. */
enum { LK_ITEM_A = -1, LK_ITEM_B = -2 };
typedef struct lk_item {
  int32_t id; /* or one of the above */
  int32_t type;
} lk_item;

typedef struct lk_template {
  lk_item *item;
  size_t n, capacity;
} lk_template;

typedef enum lk_cut { LK_LONGEST_FIRST, LK_ONLY_FIRST, LK_ONLY_SECOND } lk_cut;

struct lk_tokenizer {
  lk_ctx *ctx;
  lk_model_text model;
  lk_vocab added_vocab;
  lk_added *added; /* in the order of the file, one per token of added_vocab */
  size_t nadded, nadded_capacity;
  lk_matcher raw, normalized;
  lk_steps normalizers, pre_tokenizers, decoders;
  int has_decoder;
  lk_template single, pair;
  int has_truncation, cut_left, has_padding, pad_left;
  lk_cut cut;
  int64_t most, pad_to, pad_multiple; /* pad_to 0: the longest of a batch */
  int32_t pad_id, pad_type;
};

/* ---- work space of one call ---- */
typedef struct lk_symbol {
  int32_t id, prev, next;
} lk_symbol;

typedef struct lk_candidate {
  uint64_t key; /* rank << 32 | position */
  int32_t id;
} lk_candidate;

struct lk_run {
  lk_ctx *ctx;
  lk_text a, b;
  lk_pieces from, to;
  lk_symbol *symbols;
  size_t nsymbols, symbols_capacity;
  lk_candidate *heap;
  size_t nheap, heap_capacity;
  int32_t *ids;
  size_t nids, ids_capacity;
};

void lk_run_init(lk_run *run, lk_ctx *ctx);
void lk_run_free(lk_run *run);
void lk_run_add(lk_run *run, int32_t id); /* one more token */
void lk_run_swap(lk_run *run);            /* `to` becomes `from`, and is empty */

/* The text through the normalizers; the result is one of the two buffers. */
const lk_text *lk_normalize(const lk_steps *steps, const lk_text *in, lk_text *a, lk_text *b);
void lk_pre_tokenize(const lk_steps *steps, lk_run *run); /* of run->from, which holds the result too */
/* The text cut at added tokens, each part normalized, into run->from. */
void lk_added_split(const lk_tokenizer *k, lk_run *run, const lk_text *text);
void lk_wordpiece(const lk_tokenizer *k, lk_run *run, const char *s, size_t n);
void lk_bpe(const lk_tokenizer *k, lk_run *run, const char *s, size_t n);

/* The character that stands for a byte in byte-level vocabularies, and back (-1: none). */
uint32_t lk_byte_char(unsigned char byte);
int lk_char_byte(uint32_t c);

/* ---- reading the file (fields.c; one reader per section) ---- */
typedef struct lk_reader {
  lk_ctx *ctx;
  const char *name; /* of the file */
  char where[200];  /* the section, as "pre_tokenizer.pretokenizers[1]" */
  lk_tokenizer *k;
} lk_reader;

/* "NAME: SECTION.KEY: reason"; key NULL: the section itself. */
lk_status lk_refuse(lk_reader *r, const char *key, const char *format, ...) LK_PRINTF(3, 4);
const char *lk_need_text(lk_reader *r, const lk_json *j, const char *key); /* "" on error */
const char *lk_field_text(lk_reader *r, const lk_json *j, const char *key, const char *fallback);
int lk_field_flag(lk_reader *r, const lk_json *j, const char *key, int fallback);
int64_t lk_field_int(lk_reader *r, const lk_json *j, const char *key, int64_t least, int64_t most, int64_t fallback);
uint32_t lk_field_char(lk_reader *r, const lk_json *j, const char *key, uint32_t fallback); /* 0: needed */
int lk_field_word(lk_reader *r, const lk_json *j, const char *key, const char *const *words, int fallback);
const lk_json *lk_need(lk_reader *r, const lk_json *j, const char *key, lk_json_kind kind); /* NULL on error */
void lk_field_pattern(lk_reader *r, const lk_json *j, const char *key, lk_pattern *p);
char *lk_field_copy(lk_reader *r, const char *text, size_t *n);

/* A step of each type that a section may have. */
typedef struct lk_step_kind {
  const char *type;
  void (*read)(lk_reader *r, const lk_json *j, lk_steps *steps);
} lk_step_kind;

/* A section: null, a step, or a Sequence whose steps stand under `list`. */
void lk_read_steps(lk_reader *r, const lk_json *j, const char *list, const lk_step_kind *kinds, lk_steps *steps);
void lk_step_add(lk_reader *r, lk_steps *steps, lk_step step); /* takes what the step holds */
void lk_steps_free(lk_ctx *ctx, lk_steps *steps);
void lk_pattern_free(lk_ctx *ctx, lk_pattern *p);

void lk_read_model(lk_reader *r, const lk_json *j);
void lk_read_added(lk_reader *r, const lk_json *j);
void lk_read_processor(lk_reader *r, const lk_json *j);
void lk_read_truncation(lk_reader *r, const lk_json *j);
void lk_read_padding(lk_reader *r, const lk_json *j);
extern const lk_step_kind lk_normalizer_kinds[], lk_pre_tokenizer_kinds[], lk_decoder_kinds[];

#endif
