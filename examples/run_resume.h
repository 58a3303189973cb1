/* run_resume.h: what makes two training runs the same run, for run.c. */
#ifndef RUN_RESUME_H
#define RUN_RESUME_H
#include "run_task.h"

/* "method=lora r=8; epochs=10; ...": everything that the bits of a run depend on, besides the seed and the model. */
char *run_note(run_task *t, const run_options *o);
/* Is the run to go on from a checkpoint that is there? */
int run_resumes(lk_ctx *ctx, const run_options *o);
/* Refuses a checkpoint of another run, naming the first difference. */
lk_status run_check_note(lk_ctx *ctx, const char *checkpoint, const char *note);
/* Cuts the lines behind a step off a metrics file. */
lk_status run_cut_metrics(lk_ctx *ctx, const char *path, int64_t step);

#endif
