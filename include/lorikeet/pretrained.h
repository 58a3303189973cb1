/* pretrained.h: models in HuggingFace's layout: a directory with config.json, model.safetensors (or shards and
 * model.safetensors.index.json) and tokenizer.json.
 *
 *   lk_model *model = lk_model_new(ctx, LK_F32, 0);
 *   lk_pretrained *p = lk_pretrained_open(model, "directory", &(lk_pretrained_options){.task = LK_TASK_CLASSIFY});
 *   lk_attach(model, "default", "lora r=8", lk_pretrained_targets(p, "lora r=8"));
 *   lk_tensor logits = lk_pretrained_forward(p, t, &(lk_inputs){.ids = ids, .mask = mask});
 *   lk_model_free(model);
 *
 * A family (bert, gpt2, llama, ...) is one file: its config, its modules with HuggingFace's tensor names, its forward
 * as a C function.  Frozen weights stay in the mapped file, in f32, bf16 or f16. */
#ifndef LORIKEET_PRETRAINED_H
#define LORIKEET_PRETRAINED_H
#include <lorikeet/json.h>
#include <lorikeet/layers.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lk_task {
  LK_TASK_CLASSIFY,  /* logits [N, classes] of a sequence */
  LK_TASK_LM,        /* logits [N, T, vocabulary] of the next token */
  LK_TASK_MASKED_LM, /* logits [N, T, vocabulary] of the masked tokens */
  LK_TASK_EMBED      /* [N, width]: mean over the real tokens, scaled to length 1 (sentence-transformers) */
} lk_task;

/* Keys and values of the tokens so far, for generating: memory for `most` tokens of a batch. */
typedef struct lk_cache lk_cache;

/* What goes into a forward pass; nil or NULL: not given. */
typedef struct lk_inputs {
  lk_tensor ids;   /* i64 [N, T], tokens */
  lk_tensor types; /* i64 [N, T], which of two sentences; nil: 0 */
  lk_tensor mask;  /* u8 [N, T], 1 a token, 0 padding; nil: all are tokens.  Padding stands at the end of a row. */
  lk_cache *cache; /* LK_TASK_LM without gradients: ids go on where it ends, and are added to it */
  int last;        /* 1: of LK_TASK_LM only the logits of the last place of each row, [N, 1, vocabulary] */
} lk_inputs;

typedef struct lk_family lk_family;

typedef struct lk_pretrained {
  lk_ctx *ctx;
  lk_model *model;
  const lk_family *family;
  lk_task task;
  void *impl; /* the family's own struct, a module */
  lk_embedding_layer *words;
  lk_linear_layer *head; /* from vectors to the vocabulary; NULL: the task has none */
  lk_json *config;       /* config.json as it was read */
  char *directory;       /* it was read from; NULL: built from a config alone */
  const char *prefix;    /* "bert.": paths begin so, which files of the bare model leave out; or NULL */
  int64_t vocabulary, width, layers, classes;
  int64_t kv_heads, head_width; /* of the cache; 0: the family has none */
  int64_t most_tokens;          /* of a row; 0: any number */
  int64_t pad, bos, eos;        /* ids of special tokens in config.json, -1: none */
  int dropout;                  /* 1: the config's dropout is on in training */
  int recompute;                /* 1: keep only inputs and results of blocks for backward */
  int new_head;                 /* the head is freshly initialised */
} lk_pretrained;

typedef struct lk_pretrained_options {
  lk_task task;
  int64_t classes;                            /* LK_TASK_CLASSIFY: of a new head; 0: the head in the file */
  int no_dropout;                             /* train without the config's dropout */
  int flags;                                  /* LK_LOAD_COPY (to train the base), LK_LOAD_PARTIAL */
  const struct lk_quantise_options *quantise; /* weights become codes as they are read or drawn; NULL: none do */
} lk_pretrained_options;

/* Builds what config.json says in the (empty) model and maps its weights.  It belongs to the model.  A model_type that is
 * not known, a task that the family has not, missing, unexpected and misshapen tensors: one error each.  options NULL:
 * classification with the head in the file.  NULL on error. */
LK_API lk_pretrained *lk_pretrained_open(lk_model *model, const char *directory, const lk_pretrained_options *options);
/* The same from the object of a config.json alone, with fresh weights (or shapes only): "initializer_range" and the seed. */
LK_API lk_pretrained *lk_pretrained_new(lk_model *model, const lk_json *config, const lk_pretrained_options *options);
/* The task's result. */
LK_API lk_tensor lk_pretrained_forward(lk_pretrained *p, lk_tape *t, const lk_inputs *in);
/* A complete directory: config.json, model.safetensors (merged values if merged), and copies of the tokenizer's files of
 * the directory it came from; each file replaced atomically.  Refused when merging gave a layer a bias that the family
 * has not there.  A head that is tied to the embedding keeps the frozen weight whatever adapts the embedding or trains a
 * copy of it, as in PEFT; such adapters cannot be merged. */
LK_API lk_status lk_pretrained_save(lk_pretrained *p, const char *directory);
/* Refuses what lk_pretrained_save would: to know it before training, merge, ask, and unmerge. */
LK_API lk_status lk_pretrained_can_save(const lk_pretrained *p);
/* config.json alone. */
LK_API lk_status lk_pretrained_save_config(lk_pretrained *p, const char *directory);
/* Names the p->classes classes, as id2label and label2id of the config.json that is saved have them; takes copies. */
LK_API lk_status lk_pretrained_name_classes(lk_pretrained *p, char *const *names);
/* Target patterns that PEFT uses for such a model by default (MLPs too for methods whose papers adapt them): a literal. */
LK_API const char *lk_pretrained_targets(const lk_pretrained *p, const char *spec);
LK_API const char *lk_pretrained_family(const lk_pretrained *p);                     /* "bert", "gpt2", "llama" */
LK_API const char *lk_pretrained_label(const lk_pretrained *p, int64_t class_index); /* of id2label; NULL: none */
/* "classify", "lm", "masked_lm", "embed" to a task; -1: none of them. */
LK_API int lk_task_find(const char *name);

/* Another number of tokens, as the tokenizer may have after some were added: the word embedding and the head over it keep
 * their first rows; new ones are the mean of all old ones (transformers' resize_token_embeddings with mean_resizing, but
 * for its noise of 1e-9; new biases are 0).  The config's vocab_size follows; adapters that are saved carry both weights, as PEFT's do
 * (save_embedding_layers), and loading such a directory, once the model has its size, puts them into the model.  Before
 * attaching and before an optimiser is made. */
LK_API lk_status lk_pretrained_resize(lk_pretrained *p, int64_t tokens);

/* ---- generating ---- */
/* For rows sequences of up to `most` tokens each.  Keys of "dynamic" rotary embeddings stay turned as the length of the
 * row at their time said, as in transformers: longer rows than in pretraining give other logits than without a cache.
 * NULL on error.  The caller frees it before the model. */
LK_API lk_cache *lk_cache_new(lk_pretrained *p, int64_t rows, int64_t most);
LK_API void lk_cache_free(lk_cache *c);
LK_API int64_t lk_cache_length(const lk_cache *c);          /* tokens so far */
LK_API lk_status lk_cache_truncate(lk_cache *c, int64_t n); /* keeps the first n */

#ifdef __cplusplus
}
#endif
#endif
