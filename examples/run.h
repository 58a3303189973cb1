/* run.h: training and judging: what the programs finetune and compare share; here for image classifiers, in run_task.h
 * for anything.
 *
 *   run_model m;
 *   run_open(ctx, "vit-small-28", 0, 0, &m);              a preset or a directory
 *   run_data_open(ctx, &source, m.vit->config.image_size, &data);
 *   run_prepare(&m, &options);                            attaches the adapter, or says what trains
 *   run_train(&m, &data, &options, &result);              leaves the parameters that were best on validation images
 *   run_evaluate(&m, data.test, NULL, &score);
 *
 * As everywhere, the first error stays in the context; nothing here prints except to options.progress. */
#ifndef RUN_H
#define RUN_H
#include "memory.h"
#include "options.h"

#include <lorikeet.h>
#include <signal.h>

/* ---- models ---- */

/* A vision transformer and how images become its input. */
typedef struct run_model {
  lk_ctx *ctx;
  lk_model *model;
  lk_vit *vit;
  lk_preprocess images; /* of preprocessor_config.json, or HuggingFace's defaults */
  int fresh;            /* a preset: nothing in it has been trained */
} run_model;

/* The configuration of a directory in HuggingFace's layout or, if there is no such file, of a preset. */
lk_status run_config(lk_ctx *ctx, const char *name, lk_vit_config *config);
/* The model itself; classes 0: as many as it has, another number than that: a new head, with a warning.  model_flags:
 * LK_SHAPES_ONLY or 0.  On error *m is empty. */
lk_status run_open(lk_ctx *ctx, const char *name, int64_t classes, int model_flags, run_model *m);
void run_close(run_model *m);
/* config.json, model.safetensors (merged values if merged) and preprocessor_config.json into a directory. */
lk_status run_save(run_model *m, const char *directory);

/* ---- classes ---- */

/* Their names in the order of their numbers. */
typedef struct run_labels {
  char **name;
  int64_t n;
} run_labels;

/* Those of id2label in a directory's config.json; none where there is no such file, or no names in it. */
lk_status run_labels_read(lk_ctx *ctx, const char *directory, run_labels *l);
void run_labels_free(lk_ctx *ctx, run_labels *l);
/* The number of each of n names, the caller's; NULL: one of them is no label (or an error). */
int64_t *run_labels_find(lk_ctx *ctx, const run_labels *l, char *const *names, int64_t n);

/* ---- data ---- */

typedef struct run_source {
  const char *directory;           /* with IDX files or folders of images; NULL: the built-in digits */
  const char *domain;              /* of the built-in digits: "plain", "inverted+rotated", ... */
  int64_t train, validation, test; /* images at most; 0: the default */
  uint64_t seed;                   /* of the choice of training images; validation and test images never change */
  int test_only;                   /* leave train and validation NULL */
  lk_preprocess images;            /* of files in folders; all 0: grey, in the model's size */
  const run_labels *labels;        /* tell the order of the classes where these are among them; or NULL */
} run_source;

/* Test images come from files of their own, or are drawn with a seed of their own, and are never used for any choice.
 * Validation images are held out of the training files before these are limited to source->train. */
typedef struct run_data {
  lk_dataset *train, *validation, *test;
} run_data;

extern const option run_source_options[]; /* for options_parse; the struct is a run_source */
run_source run_source_defaults(void);
lk_status run_data_open(lk_ctx *ctx, const run_source *source, int64_t image_size, run_data *data);
void run_data_close(run_data *data);

/* ---- training ---- */

typedef struct run_options {
  /* what trains: everything, the head alone, or an adapter and modules_to_save */
  int full, probe;
  const char *adapter;         /* a spec, or the directory of a saved adapter; NULL: RUN_ADAPTER */
  const char *targets;         /* patterns; NULL: RUN_TARGETS */
  const char *exclude;         /* patterns, or NULL */
  const char *layers;          /* numbers of the blocks to adapt, "0,1,5"; NULL: all */
  const char *modules_to_save; /* modules that train whole beside the adapter; NULL: the head; "none" */
  const char *rank_pattern;    /* "layer.0.*=4,layer.1.*=8": another rank where the pattern matches; or NULL */
  const char *alpha_pattern;   /* the same for alpha */
  int bias;                    /* lk_bias_mode */
  int base_dtype;              /* lk_quant_kind of the frozen weights of linear layers */
  int double_quant;            /* and of int8 and nf4 the scales too */
  int bf16_products;           /* with those in bf16: lk_ctx_bf16_products was called */
  /* how: AdamW, cross-entropy */
  int64_t epochs, batch, accumulate; /* accumulate: number of parts in which each batch is computed */
  double lr;                         /* 0: run_lr */
  double weight_decay, clip, smoothing;
  double warmup;   /* fraction of all steps */
  double augment;  /* strength of random shifts, turns and sizes of the training images; 0: off */
  double loraplus; /* ratio of LoRA+; 0: off */
  int schedule;    /* lk_schedule_kind */
  int recompute;   /* lk_vit_recompute */
  /* lora_drop: train on a sample first, to see which layers matter */
  double sample;       /* part of the training images */
  int64_t warm_epochs; /* passes over them */
  /* adapters with choices (glora supernet): search the best structure on validation images after training */
  int64_t population, generations;
  int64_t parameter_limit; /* trained parameters of the structure at most; 0: any */
  /* where to */
  FILE *progress;                    /* NULL: silent */
  const char *label;                 /* of the progress line; NULL: "train" */
  const char *directory;             /* for checkpoint.safetensors, best.safetensors, metrics.jsonl; NULL: no files */
  int64_t save_every;                /* steps between checkpoints; 0: only at the end of every epoch */
  int resume;                        /* go on from the directory's checkpoint if there is one */
  const volatile sig_atomic_t *stop; /* once non-zero: finish the step, write a checkpoint, return; or NULL */
  double started;                    /* run_now() when the program began; 0: unknown */
  memory *memory;                    /* counter behind the context's allocator, for result.peak_mb; or NULL */
} run_options;

#define RUN_ADAPTER "lora r=8 alpha=16"
#define RUN_TARGETS "all-linear"

/* For options_parse; the struct is a run_options.  Methods: full ... bias; training: epochs ... recompute. */
extern const option run_method_options[], run_training_options[];
run_options run_defaults(void);
/* A clock's time in seconds. */
double run_now(void);
/* What lk_model_quantise is to do. */
lk_quantise_options run_base(const run_options *o);
/* "full", "probe", or the adapter's spec. */
const char *run_method_name(const run_options *o);
/* options.lr, or if that is 0 what did best for such a method on validation images (1,000 training images, from
 * drawn digits to real ones). */
double run_lr(const run_options *o);

/* Attaches the adapter as "default" (or loads it), or chooses the base parameters that train.  Once per model. */
lk_status run_prepare(run_model *m, const run_options *o);
/* The same of any model; head: paths of the modules that are its head, "classifier"; NULL: it has none. */
lk_status run_prepare_model(lk_model *model, const char *head, const run_options *o);

/* What run_prepare attaches, for dry runs and counting.  head: modules_to_save if the options name none; NULL: none. */
typedef struct run_attachment {
  lk_attach_options options;
  lk_override *overrides; /* of which the texts are its own, too */
  int *layers;
} run_attachment;
lk_status run_attachment_new(lk_ctx *ctx, const run_options *o, const char *head, run_attachment *a);
lk_status run_attachment_check(lk_model *model, const run_attachment *a); /* every pattern must match a layer */
void run_attachment_free(lk_ctx *ctx, run_attachment *a);

typedef struct run_result {
  int64_t trainable, parameters; /* elements: trained, and of the base model */
  int64_t steps;                 /* of the whole run, those before a resume included */
  int64_t best_step;             /* whose parameters were kept; 0: the last one's (no validation images; a supernet) */
  int64_t nlosses;               /* steps done now */
  double *losses;                /* [nlosses], one a step */
  double step_ms;                /* median of the steps done now; NaN: none */
  double seconds;                /* all of run_train */
  double first_step_seconds;     /* from options.started until the first step began (NaN: unknown) */
  double step_mb, peak_mb; /* values and gradients of a step; everything that the context took (NaN: not counted) */
  int stopped;             /* by options.stop */
  char *notes;             /* what the adapter has to tell, in lines; "" or NULL: nothing */
} run_result;

/* run_task_train of images. */
lk_status run_train(run_model *m, const run_data *data, const run_options *o, run_result *result);
void run_result_free(lk_ctx *ctx, run_result *result);

/* ---- judging ---- */

typedef struct run_score {
  double accuracy; /* 0 .. 1; NaN: the task has none */
  double loss;     /* mean cross-entropy */
} run_score;

/* What choices are made by: accuracy, and between equal ones the loss; without accuracy the loss alone. */
double run_selection(const run_score *s);

typedef struct run_guess {
  int64_t prediction; /* the most probable class */
  double probability; /* and its probability */
} run_guess;

/* The guess that a row of logits makes.  Returns the cross-entropy with the right class. */
double run_guess_of(const float *logits, int64_t classes, int64_t label, run_guess *guess);
void run_normalise(const run_model *m, lk_loader_options *o); /* sets mean and std */
/* The model as it is now, in evaluation mode.  guesses: [d->count], or NULL. */
lk_status run_evaluate(run_model *m, const lk_dataset *d, run_guess *guesses, run_score *score);

#endif
