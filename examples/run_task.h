/* run_task.h: what the training loop sees of a model and its data: batches, their loss, a score.  Images
 * (run_images.c) and texts (text_task.c) are such tasks; the loop (run.c) and what goes around it (run_procedure.c) know
 * nothing else of either. */
#ifndef RUN_TASK_H
#define RUN_TASK_H
#include "run.h"

/* Parts of the data.  Test examples are for the last judgement only: no choice is made on them. */
typedef enum run_part { RUN_TRAIN, RUN_VALIDATION, RUN_TEST } run_part;

typedef struct run_task run_task;

typedef struct run_task_class {
  const char *unit;                                      /* "images" */
  lk_status (*check)(run_task *t);                       /* do data and model fit? */
  int64_t (*examples)(const run_task *t, run_part part); /* 0: there is no such part */
  uint64_t (*fingerprint)(const run_task *t);            /* of the training examples, and how they are prepared */
  /* batches of training examples, in an order that (seed, epoch) tells */
  lk_status (*start)(run_task *t, const run_options *o); /* at the first batch of epoch 0 */
  int64_t (*next)(run_task *t);                          /* examples of the next batch; 0 once at an epoch's end */
  lk_cursor (*cursor)(const run_task *t);
  lk_status (*seek)(run_task *t, lk_cursor at);
  void (*finish)(run_task *t); /* also after a start that failed, or none */
  /* mean loss of examples from .. from + n - 1 of the batch, and its weight in the mean of the whole batch */
  lk_tensor (*loss)(run_task *t, lk_tape *tape, int64_t from, int64_t n);
  double (*weight)(const run_task *t, int64_t from, int64_t n);
  /* the model as it is now, in evaluation mode; guesses: [examples of the part], or NULL */
  lk_status (*evaluate)(run_task *t, run_part part, run_guess *guesses, run_score *score);
  /* RUN_TRAIN becomes n of its examples, balanced over the classes, without RUN_VALIDATION; n = 0: all of it again */
  lk_status (*sample)(run_task *t, int64_t n);
} run_task_class;

/* The first member of a task's own struct. */
struct run_task {
  const run_task_class *class;
  lk_ctx *ctx;
  lk_model *model;
};

/* Trains what requires gradients now; before that, or after it, what the adapter asks for (run_procedure.c).  A run that
 * was stopped and resumed gives the same bits as one that was not. */
lk_status run_task_train(run_task *t, const run_options *o, run_result *result);

/* Images as a task; NULL on error. */
run_task *run_images_new(run_model *m, const run_data *data);
void run_images_free(run_task *t); /* t may be NULL */

#endif
