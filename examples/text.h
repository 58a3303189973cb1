/* text.h: language models in HuggingFace's layout and the texts they train on, for the program finetune.
 *
 *   text_data_read(ctx, &source, &data);            files; says how many classes there are
 *   text_open(ctx, directory, &source, &data, 0, &m);
 *   text_data_tokens(&m, &source, &data);           rows of tokens
 *   run_prepare_model(m.model, m.head, &options);
 *   run_task *task = text_task_new(&m, &data);
 *   run_task_train(task, &options, &result);                                                                     */
#ifndef TEXT_H
#define TEXT_H
#include "run_task.h"

/* What a run is to do, of lk_task and how its texts become rows. */
typedef enum text_kind {
  TEXT_CLASSIFY,  /* a label of each text, or pair of texts */
  TEXT_LM,        /* the next token, of texts in blocks */
  TEXT_COMPLETE,  /* the next token of completions to prompts */
  TEXT_MASKED_LM, /* tokens that were hidden */
  TEXT_EMBED      /* vectors, close together for the two texts of a pair */
} text_kind;

typedef struct text_source {
  int kind;                                          /* text_kind */
  const char *directory, *train, *validation, *test; /* files, or a directory with train.*, dev.* and test.* */
  lk_texts_options columns;
  int64_t limit[3];          /* examples of each part at most; 0: all */
  int64_t max_length;        /* tokens of a row; 0: 128, or what the model takes if that is less */
  int no_dropout, by_length; /* by_length: batches of texts of like length */
  int test_only;
  lk_quantise_options base; /* of the frozen weights */
  const run_labels *labels; /* tell the order of the classes where these are among them; or NULL */
} text_source;

extern const option text_options[]; /* for options_parse; the struct is a text_source */

typedef struct text_data {
  lk_texts *texts[3]; /* of each run_part; NULL: none */
  lk_rows *rows[3];
  lk_rows *pairs[3]; /* the second texts, of TEXT_EMBED */
  int64_t classes;
  int by_length;
} text_data;

typedef struct text_model {
  lk_ctx *ctx;
  lk_model *model;
  lk_pretrained *p;
  lk_tokenizer *tokenizer; /* NULL with LK_SHAPES_ONLY */
  const char *head;        /* its path; NULL: none */
  text_kind kind;
} text_model;

/* Is it a directory with a model of another kind than images? */
int text_is_model(lk_ctx *ctx, const char *directory);
/* model_flags: LK_SHAPES_ONLY or 0; whole: the base is to train.  classes 0: those of the head in the file.  On error *m
 * is empty. */
lk_status text_open(lk_ctx *ctx, const char *directory, const text_source *s, int64_t classes, int model_flags,
                    int whole, text_model *m);
void text_close(text_model *m);
/* Names of the classes into the model's config; texts without names: nothing. */
lk_status text_name_classes(text_model *m, const lk_texts *texts);

lk_status text_data_read(lk_ctx *ctx, const text_source *s, text_data *data);
lk_status text_data_tokens(text_model *m, const text_source *s, text_data *data);
void text_data_close(text_data *data);

/* options.lr, or what did best for such a method on SST-2's validation sentences. */
double text_lr(const run_options *o);
/* The texts as a task of the training loop; NULL on error. */
run_task *text_task_new(text_model *m, const text_data *data);
void text_task_free(run_task *t); /* t may be NULL */
/* The vectors of a part's texts as lines of numbers between tabs, of TEXT_EMBED. */
lk_status text_write_vectors(text_model *m, const lk_rows *rows, const char *path);

#endif
