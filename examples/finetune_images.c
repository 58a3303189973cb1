/* finetune_images.c: jobs on vision transformers. */
#include "finetune.h"

/* The images, which must be such as the model takes. */
static lk_status open_data(job *j) {
  settings *s = j->s;
  lk_vit_config config;
  s->source.test_only = s->eval;
  s->source.seed = (uint64_t)s->seed;
  if (run_config(j->ctx, s->model, &config)) return lk_error(j->ctx, NULL);
  if (!s->source.directory && config.channels != 1)
    return lk_fail(j->ctx, LK_ESHAPE, "drawn digits have 1 channel, %s takes images with %lld: --data is needed",
                   s->model, (long long)config.channels);
  if (lk_preprocess_read(j->ctx, s->model, (int)config.channels, config.image_size, &s->source.images))
    return lk_error(j->ctx, NULL);
  return run_data_open(j->ctx, &s->source, config.image_size, &j->images.data);
}

static lk_status open_model(job *j, int64_t classes, int flags) {
  run_model *m = &j->images.m;
  if (run_open(j->ctx, j->s->model, classes, flags, m)) return lk_error(j->ctx, NULL);
  const lk_quantise_options base = run_base(&j->s->run);
  if (!(flags & LK_SHAPES_ONLY) && lk_model_quantise(m->model, &base)) return lk_error(j->ctx, NULL);
  j->model = m->model;
  j->head = m->vit->head->module.path;
  j->fresh = m->fresh;
  return LK_OK;
}

static lk_status name_classes(job *j) {
  const lk_dataset *d = j->images.data.test;
  if (!d->names || d->classes != j->images.m.vit->config.classes) return LK_OK;
  return lk_vit_name_classes(j->images.m.vit, d->names);
}

static lk_status load(job *j) {
  if (j->s->run.epochs < 0) j->s->run.epochs = run_defaults().epochs;
  if (open_data(j)) return lk_error(j->ctx, NULL);
  int64_t classes = j->s->eval && !j->s->run.adapter ? 0 : j->images.data.test->classes;
  if (open_model(j, classes, 0)) return lk_error(j->ctx, NULL);
  if (name_classes(j)) return lk_error(j->ctx, NULL);
  lk_vit_set_recompute(j->images.m.vit, (lk_vit_recompute)j->s->run.recompute);
  j->task = run_images_new(&j->images.m, &j->images.data);
  return lk_error(j->ctx, NULL);
}

static lk_status look(job *j) { return open_model(j, 0, LK_SHAPES_ONLY); }

static lk_status save(job *j, const char *directory) { return run_save(&j->images.m, directory); }

static lk_status can_save(job *j) { return lk_vit_can_save(j->images.m.vit); }

static lk_status save_names(job *j, const char *directory) {
  return j->images.data.test->names ? lk_vit_save_config(j->images.m.vit, directory) : LK_OK;
}

static lk_status predict(job *j, const run_guess *guesses) {
  const lk_dataset *d = j->images.data.test;
  lk_writer *w = lk_writer_open(j->ctx, j->s->predict);
  for (int64_t i = 0; w && i < d->count; i++) {
    int64_t class = guesses[i].prediction;
    lk_writef(w, "%lld\t", (long long)i);
    if (d->names && class < d->classes) lk_writef(w, "%s", d->names[class]);
    else lk_writef(w, "%lld", (long long)class);
    lk_writef(w, "\t%.6f\n", guesses[i].probability);
  }
  return w ? lk_writer_commit(w) : lk_error(j->ctx, NULL);
}

static void finish(job *j) {
  run_images_free(j->task);
  run_data_close(&j->images.data);
  run_close(&j->images.m);
}

const job_class image_job = {.load = load,
                             .look = look,
                             .save = save,
                             .can_save = can_save,
                             .save_names = save_names,
                             .predict = predict,
                             .close = finish};
