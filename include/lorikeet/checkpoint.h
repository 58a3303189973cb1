/* checkpoint.h: stopping and going on: everything that the next training step depends on, in one file.
 *
 * k steps, save, load, k steps gives the same bits as 2k steps: values that train, optimiser state, step and data
 * cursor are saved; random draws are keyed by (seed, step) and need no state.  What the program sets again: model,
 * adapter, optimiser options and groups, schedule.  The file is safetensors, replaced atomically: a crash leaves
 * the old checkpoint or the new one. */
#ifndef LORIKEET_CHECKPOINT_H
#define LORIKEET_CHECKPOINT_H
#include <lorikeet/adapter.h>
#include <lorikeet/data.h>
#include <lorikeet/optim.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where training stands. */
typedef struct lk_progress {
  int64_t step;      /* done */
  lk_cursor cursor;  /* of the next batch */
  double best;       /* selection metric of the best step so far */
  int64_t best_step; /* 0: none yet */
} lk_progress;

/* Writes what trains in the model (base and adapters), the adapters' buffers, and the optimiser's state (NULL:
 * none).  note: a line that loading must find again, as the adapter's spec; or NULL. */
LK_API lk_status lk_checkpoint_save(lk_model *model, const lk_optim *opt, const lk_progress *progress, const char *note,
                                    const char *path);
/* Reads it back into a model with the same adapters and an optimiser over the same parameters.  Missing, unexpected
 * and misshapen tensors, another seed or another note are ONE error, and nothing is changed then. */
LK_API lk_status lk_checkpoint_load(lk_model *model, lk_optim *opt, lk_progress *progress, const char *note,
                                    const char *path);

/* Reads only what decides which parameters there are (LoRA-drop's kept layers, a chosen structure), so that an optimiser
 * over them can be made before lk_checkpoint_load.  Where no adapter has such a thing nothing is done. */
LK_API lk_status lk_checkpoint_load_structure(lk_model *model, const char *path);

/* A copy in memory of what trains now, for going back to the best step. */
typedef struct lk_snapshot lk_snapshot;
LK_API lk_snapshot *lk_snapshot_new(lk_model *model); /* takes the first copy */
LK_API void lk_snapshot_free(lk_snapshot *s);
LK_API void lk_snapshot_take(lk_snapshot *s);
LK_API void lk_snapshot_restore(lk_snapshot *s);

#ifdef __cplusplus
}
#endif
#endif
