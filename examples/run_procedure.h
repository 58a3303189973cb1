/* run_procedure.h: the training loop alone, for what goes around it. */
#ifndef RUN_PROCEDURE_H
#define RUN_PROCEDURE_H
#include "run_task.h"

/* Trains for options.epochs and keeps the best parameters; everything of *result but the notes. */
lk_status run_loop(run_task *t, const run_options *o, run_result *result);

#endif
