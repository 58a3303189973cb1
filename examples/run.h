/* run.h: training and judging an image classifier: what the programs finetune and compare share.
 *
 *   run_options o = run_defaults();          o.adapter = "lora r=8 alpha=16";
 *   run_classifier(model, "vit-small-28", ...), run_data_open(...)
 *   run_prepare(vit, &o);                    attaches the adapter, or sets what trains
 *   run_train(vit, &data, &o, &result);      ends with the parameters that were best on the validation images
 *   run_evaluate(vit, data.test, &o, &score);
 *   run_result_free(&result);
 *
 * As everywhere errors are sticky in the context; nothing here prints, except to options->progress. */
#ifndef RUN_H
#define RUN_H
#include "options.h"

#include <lorikeet.h>
#include <signal.h>

/* ---- options ---- */

typedef struct run_options {
  /* what trains */
  const char *adapter;         /* a spec; a saved adapter's directory; "full": everything; "probe": the head alone */
  const char *targets;         /* patterns; NULL: query and value of every block */
  const char *exclude;         /* patterns, or NULL */
  const char *modules_to_save; /* modules that train whole beside the adapter; NULL: the head; "none" */
  const char *rank_pattern;    /* "layer.0.*=4,layer.1.*=8", or NULL */
  const char *alpha_pattern;
  int bias; /* lk_bias_mode */
  /* how */
  int64_t epochs, batch, accumulate; /* accumulate: parts in which a batch is computed */
  double lr;                         /* 0: run_default_lr */
  double weight_decay, clip, smoothing, warmup; /* warmup: fraction of all steps */
  double augment;   /* strength of random shifts, turns and sizes of training images; 0: off, 1: as for handwriting */
  double loraplus;  /* ratio of LoRA+; 0: off */
  int schedule;     /* lk_schedule_kind */
  int recompute;    /* lk_vit_recompute */
  uint64_t seed;    /* of the order of the images; draws and new weights use the context's */
  /* where to */
  FILE *progress;                     /* NULL: silent */
  const char *label;                  /* of the progress line; NULL: "train" */
  const char *dir;                    /* of checkpoint.safetensors, best.safetensors, metrics.jsonl; NULL: none */
  int64_t save_every;                 /* steps between checkpoints; 0: at the end of each epoch only */
  int resume;                         /* go on from dir's checkpoint, if there is one */
  const volatile sig_atomic_t *stop;  /* when it becomes non-zero: finish the step, checkpoint, return; or NULL */
} run_options;

/* For options_parse: options that are the same in all programs; their place is a run_options. */
extern const option run_method_options[], run_training_options[];

LK_API run_options run_defaults(void);
#endif
