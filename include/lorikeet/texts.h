/* texts.h: texts for training: files of labelled sentences, of plain text, of prompts and completions; as rows of tokens,
 * in batches.
 *
 *   lk_texts *train = lk_texts_read(ctx, "train.tsv", NULL, NULL);
 *   lk_rows *rows = lk_rows_classify(tokenizer, train, 128);
 *   lk_row_loader *l = lk_row_loader_new(rows, &(lk_row_options){.batch = 32, .shuffle = 1, .seed = 1});
 *   while (lk_row_next(l, &b)) ... b.ids [b.n, b.width] ...                                                      */
#ifndef LORIKEET_TEXTS_H
#define LORIKEET_TEXTS_H
#include <lorikeet/data.h>
#include <lorikeet/tokenizer.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- files ---- */

typedef struct lk_texts_options {
  const char *format; /* "tsv", "csv", "jsonl", "txt"; NULL: by the file's ending */
  const char
      *text_column; /* a name of the first line (JSONL: a key), or a number from 0; NULL: 0, or "sentence", "text",
                               "prompt", whichever key there is */
  const char *pair_column;  /* a second text, or NULL; of JSONL with "prompt": "completion" */
  const char *label_column; /* NULL: 1, or the key "label", where there is one; "": there are none */
} lk_texts_options;

/* Memory of the context's; the struct owns all of it. */
typedef struct lk_texts {
  lk_ctx *ctx;
  int64_t count;
  char **text, **pair; /* [count]; pair NULL: there are none */
  int64_t *label;      /* [count], in [0, classes); NULL: there are none */
  int64_t classes;
  char **names; /* [classes], of the labels; numbers stand for themselves */
} lk_texts;

/* Examples of a file: TSV (no quotes), CSV (RFC 4180), JSONL (an object a line), or plain text (the whole file is one
 * example).  Labels are whole numbers from 0, or words, numbered in the order of the alphabet; `like` (may be NULL) gives
 * the words of another file in its order, and others are refused.  Errors name file, line and column (LK_EFORMAT).  NULL on error. */
LK_API lk_texts *lk_texts_read(lk_ctx *ctx, const char *path, const lk_texts_options *options, const lk_texts *like);
/* The same of a text in memory; name: for messages, and its ending tells the format where the options do not. */
LK_API lk_texts *lk_texts_parse(lk_ctx *ctx, const char *text, size_t length, const char *name,
                                const lk_texts_options *options, const lk_texts *like);
LK_API void lk_texts_free(lk_texts *x); /* x may be NULL */

/* ---- rows of tokens ---- */

typedef struct lk_rows {
  lk_ctx *ctx;
  int64_t count;
  int64_t *begin;   /* [count + 1]: row i is tokens begin[i] .. begin[i + 1] - 1 */
  int64_t *ids;     /* of all rows */
  int64_t *types;   /* which of two texts, or NULL */
  int64_t *targets; /* the token's own id where it counts in the loss, else -100; NULL for classification */
  int64_t *label;   /* [count], or NULL */
  int64_t classes, longest, cut; /* cut: tokens left out of the rows of lm and complete */
} lk_rows;

/* A row for each text (or pair), cut to `most` tokens. */
LK_API lk_rows *lk_rows_classify(lk_tokenizer *k, const lk_texts *x, int64_t most);
/* The texts one behind the other, `eos` behind each (below 0: nothing), in blocks of `width` tokens; a rest shorter than 2
 * tokens is left out. */
LK_API lk_rows *lk_rows_lm(lk_tokenizer *k, const lk_texts *x, int64_t width, int64_t eos);
/* A row for each text and its pair: prompt, completion, `eos`; only completion and eos count in the loss.  Longer than
 * `most`: the prompt loses its beginning. */
LK_API lk_rows *lk_rows_complete(lk_tokenizer *k, const lk_texts *x, int64_t most, int64_t eos);
/* A copy of the rows index[0 .. n - 1], in that order; n above 0.  NULL on error. */
LK_API lk_rows *lk_rows_subset(const lk_rows *r, int64_t n, const int64_t *index);
/* A copy with at most n rows, chosen at random, balanced over the classes where there are labels.  NULL on error. */
LK_API lk_rows *lk_rows_limit(const lk_rows *r, int64_t n, uint64_t seed);
LK_API void lk_rows_free(lk_rows *r); /* r may be NULL */

/* ---- batches ---- */

typedef struct lk_row_options {
  int64_t batch, pad; /* rows; token that fills short rows up (never attended to, never in the loss) */
  uint64_t seed;
  int shuffle;   /* a new order every epoch, a function of (seed, epoch) */
  int by_length; /* from the shortest row to the longest: little padding, for judging; shuffle is ignored */
  int64_t
      group; /* with shuffle: rows of so many batches are sorted by length among themselves, which spares most of the
                    padding, and the batches come in random order (group_by_length of transformers' Trainer); 0: not */
} lk_row_options;

/* Points into the loader's memory: valid until the next lk_row_next. */
typedef struct lk_row_batch {
  int64_t n, width;
  const int64_t *ids, *types, *targets; /* [n, width]; types and targets NULL as in the rows */
  const uint8_t *mask;                  /* [n, width]: 1 a token, 0 padding */
  const int64_t *labels;                /* [n], or NULL */
  const int64_t *index;                 /* [n], which rows these are */
  int padded;                           /* is there any padding? */
} lk_row_batch;

typedef struct lk_row_loader lk_row_loader;
LK_API lk_row_loader *lk_row_loader_new(const lk_rows *rows, const lk_row_options *options);
LK_API void lk_row_loader_free(lk_row_loader *l); /* l may be NULL */
/* The next batch: 1; or 0 once at the end of every epoch, after which the next one begins. */
LK_API int lk_row_next(lk_row_loader *l, lk_row_batch *batch);
LK_API int64_t lk_row_steps(const lk_row_loader *l); /* batches an epoch */
LK_API lk_cursor lk_row_cursor(const lk_row_loader *l);
LK_API lk_status lk_row_seek(lk_row_loader *l, lk_cursor cursor);

#ifdef __cplusplus
}
#endif
#endif
