/* run_model.c: opening and saving vision transformers, with what prepares their images. */
#include "run.h"

#include <string.h>

static char *file_in(lk_ctx *ctx, const char *directory, const char *name) {
  return lk_sprintf(ctx, "%s/%s", directory, name);
}

/* Does name stand for a directory with a model?  Otherwise it is a preset's. */
static int is_directory(lk_ctx *ctx, const char *name) {
  char *config = file_in(ctx, name, "config.json");
  int there = config && (strchr(name, '/') || lk_file_exists(config));
  lk_free(ctx, config);
  return there;
}

lk_status run_config(lk_ctx *ctx, const char *name, lk_vit_config *config) {
  if (!is_directory(ctx, name)) return lk_error(ctx, NULL) ? lk_error(ctx, NULL) : lk_vit_preset(ctx, name, config);
  char *path = file_in(ctx, name, "config.json");
  lk_json *json = path ? lk_json_read(ctx, path) : NULL;
  if (json) lk_vit_config_from_json(ctx, json, config);
  lk_json_free(json);
  lk_free(ctx, path);
  return lk_error(ctx, NULL);
}

/* ---- opening and saving ---- */

static void open_preset(run_model *m, lk_vit_config *config, int64_t classes) {
  if (classes) config->classes = classes;
  m->fresh = 1;
  m->vit = lk_vit_new(m->model, config);
}

static void open_directory(run_model *m, const char *directory, const lk_vit_config *config, int64_t classes) {
  int new_head = classes && classes != config->classes;
  if (new_head)
    lk_warn(m->ctx, "%s knows %lld classes and the data have %lld: its head is replaced by a new one", directory,
            (long long)config->classes, (long long)classes);
  m->vit = lk_vit_load(m->model, directory, new_head ? classes : 0, 0);
  if (m->vit) lk_preprocess_read(m->ctx, directory, (int)config->channels, config->image_size, &m->images);
}

lk_status run_open(lk_ctx *ctx, const char *name, int64_t classes, int model_flags, run_model *m) {
  lk_vit_config config;
  *m = (run_model){.ctx = ctx};
  if (run_config(ctx, name, &config)) return lk_error(ctx, NULL);
  m->images = lk_preprocess_default((int)config.channels, config.image_size);
  m->model = lk_model_new(ctx, LK_F32, model_flags);
  if (m->model && is_directory(ctx, name)) open_directory(m, name, &config, classes);
  else if (m->model) open_preset(m, &config, classes);
  if (lk_error(ctx, NULL)) run_close(m);
  else if (config.channels > LK_MAXCHANNELS)
    lk_fail(ctx, LK_ESHAPE, "%s wants images of %lld channels; %d are supported", name, (long long)config.channels,
            LK_MAXCHANNELS);
  return lk_error(ctx, NULL);
}

void run_close(run_model *m) {
  lk_model_free(m->model);
  *m = (run_model){0};
}

lk_status run_save(run_model *m, const char *directory) {
  if (lk_vit_save(m->vit, directory)) return lk_error(m->ctx, NULL);
  return lk_preprocess_write(m->ctx, directory, &m->images);
}
