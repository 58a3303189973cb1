/* finetune.h: the parts of the program finetune: settings (finetune.c), jobs on images and on texts (finetune_images.c,
 * finetune_texts.c), what both have in common (finetune_job.c), results (finetune_report.c). */
#ifndef FINETUNE_H
#define FINETUNE_H
#include "text.h"

#define NAME "finetune"

typedef struct settings {
  run_options run;
  run_source source; /* of images; texts share its directory and limits */
  text_source texts;
  run_labels labels; /* of the adapter's directory, or of the model's */
  const char *model, *out, *predict, *shapes;
  int64_t seed, threads;
  int merge, as_lora, eval, count, dry_run, json, list_adapters, version;
  int stopped; /* by a signal, before the end */
} settings;

/* ---- jobs ---- */

typedef struct job job;

/* A kind of model. */
typedef struct job_class {
  lk_status (*load)(job *j);                        /* data and model; sets model, task, and head */
  lk_status (*look)(job *j);                        /* the model without memory, for counting; sets model and head */
  lk_status (*save)(job *j, const char *directory); /* the whole model, merged values if merged */
  lk_status (*can_save)(job *j);                    /* refuses now, merged, what save would refuse */
  /* config.json with the names of the data's classes; nothing where these have none */
  lk_status (*save_names)(job *j, const char *directory);
  lk_status (*predict)(job *j, const run_guess *guesses); /* of the test examples, to settings.predict */
  void (*close)(job *j);
} job_class;

extern const job_class image_job, text_job;

struct job {
  const job_class *class;
  lk_ctx *ctx;
  settings *s;
  lk_model *model;
  run_task *task;
  const char *head; /* the path of its head; NULL: none */
  int fresh;        /* the model was drawn here: an adapter is of use with it only */
  int perplexity;   /* of the loss is told */
  union {
    struct {
      run_model m;
      run_data data;
    } images;
    struct {
      text_model m;
      text_data data;
    } texts;
  };
};

/* Trains, or judges, and tells. */
lk_status job_tune(lk_ctx *ctx, settings *s);
/* Counts parameters, or shows which layers would be adapted. */
lk_status job_look(lk_ctx *ctx, settings *s);

/* ---- results ---- */

typedef struct report {
  run_result train;
  run_score score[3]; /* of each run_part; NaN: not judged */
  lk_merge_report merge;
} report;

lk_status report_print(const job *j, const report *r);
lk_status report_line(lk_ctx *ctx, lk_json *json); /* prints and frees it */
void report_warnings(lk_ctx *ctx);

#endif
