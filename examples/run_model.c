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

/* ---- preprocessor_config.json ---- */

static void read_numbers(lk_ctx *ctx, const lk_json *json, const char *key, int64_t n, double *to) {
  const lk_json *list = lk_json_get(json, key);
  if (!list) return;
  for (int64_t i = 0; i < n; i++)
    if (!lk_json_is_real(lk_json_at(list, (size_t)i), &to[i])) {
      lk_fail(ctx, LK_EFORMAT, "preprocessor_config.json: %s must hold a number for each of %lld channels", key,
              (long long)n);
      return;
    }
}

static lk_status read_preprocessor(run_model *m, const char *directory) {
  char *path = file_in(m->ctx, directory, "preprocessor_config.json");
  lk_json *json = path && lk_file_exists(path) ? lk_json_read(m->ctx, path) : NULL;
  if (json && lk_json_bool(m->ctx, json, "do_normalize", 1)) {
    read_numbers(m->ctx, json, "image_mean", m->vit->config.channels, m->mean);
    read_numbers(m->ctx, json, "image_std", m->vit->config.channels, m->std);
  } else if (json)
    for (int c = 0; c < LK_MAXCHANNELS; c++) m->mean[c] = 0, m->std[c] = 1;
  lk_json_free(json);
  lk_free(m->ctx, path);
  return lk_error(m->ctx, NULL);
}

static void put_numbers(lk_ctx *ctx, lk_json *json, const char *key, int64_t n, const double *from) {
  lk_json *list = lk_json_array(ctx);
  for (int64_t i = 0; i < n && list; i++) lk_json_set_real(ctx, list, NULL, from[i]);
  lk_json_set(ctx, json, key, list);
}

static lk_status write_preprocessor(const run_model *m, const char *directory) {
  char *path = file_in(m->ctx, directory, "preprocessor_config.json");
  lk_json *json = lk_json_object(m->ctx), *size = lk_json_object(m->ctx);
  lk_json_set_int(m->ctx, size, "height", m->vit->config.image_size);
  lk_json_set_int(m->ctx, size, "width", m->vit->config.image_size);
  lk_json_set_string(m->ctx, json, "image_processor_type", "ViTImageProcessor");
  lk_json_set_bool(m->ctx, json, "do_resize", 1);
  lk_json_set_bool(m->ctx, json, "do_rescale", 1);
  lk_json_set_bool(m->ctx, json, "do_normalize", 1);
  lk_json_set(m->ctx, json, "size", size);
  put_numbers(m->ctx, json, "image_mean", m->vit->config.channels, m->mean);
  put_numbers(m->ctx, json, "image_std", m->vit->config.channels, m->std);
  if (path && !lk_error(m->ctx, NULL)) lk_json_write(m->ctx, path, json, LK_JSON_SORTED);
  lk_json_free(json);
  lk_free(m->ctx, path);
  return lk_error(m->ctx, NULL);
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
  if (m->vit) read_preprocessor(m, directory);
}

lk_status run_open(lk_ctx *ctx, const char *name, int64_t classes, int model_flags, run_model *m) {
  lk_vit_config config;
  *m = (run_model){.ctx = ctx};
  for (int c = 0; c < LK_MAXCHANNELS; c++) m->mean[c] = m->std[c] = .5;
  if (run_config(ctx, name, &config)) return lk_error(ctx, NULL);
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
  return write_preprocessor(m, directory);
}
