/* vit_files.c: directories with a vision transformer: config.json and model.safetensors. */
#include "model.h"
#include "models/labels.h"
#include "models/vit_parts.h"

#include <lorikeet/file.h>

static char *file_in(lk_ctx *ctx, const char *directory, const char *name) {
  return lk_sprintf(ctx, "%s/%s", directory, name);
}

/* The config; *json is the caller's. */
static lk_status read_config(lk_ctx *ctx, const char *directory, lk_vit_config *config, lk_json **json) {
  char *path = file_in(ctx, directory, "config.json");
  *json = path ? lk_json_read(ctx, path) : NULL;
  if (*json && lk_vit_config_from_json(ctx, *json, config)) lk_file_error(ctx, path);
  lk_free(ctx, path);
  return lk_error(ctx, NULL);
}

static lk_status read_weights(lk_vit *v, const char *directory, int new_head, int flags) {
  static const char *const head[] = {"classifier.", "head.", NULL}, *const unused[] = {"pooler.", "vit.pooler.", NULL};
  lk_ctx *ctx = v->module.ctx;
  const lk_load_options options = {
      .flags = flags, .prefix = "vit.", .skip = new_head ? head : NULL, .unused = new_head ? unused : NULL};
  char *path = file_in(ctx, directory, "model.safetensors");
  if (path) lk_model_load_with(v->module.model, path, &options);
  lk_free(ctx, path);
  return lk_error(ctx, NULL);
}

lk_vit *lk_vit_load(lk_model *model, const char *directory, int64_t classes, int flags) {
  lk_vit_config config;
  lk_json *json;
  if (!model) return NULL;
  lk_status bad = read_config(lk_model_ctx(model), directory, &config, &json);
  if (classes) { /* the labels are the old head's */
    config.classes = classes;
    lk_json_remove(json, "id2label");
    lk_json_remove(json, "label2id");
  }
  lk_vit *v = bad ? NULL : lk_vit_build(model, &config);
  if (!v) {
    lk_json_free(json);
    return NULL;
  }
  v->json = json;
  if (lk_model_shapes_only(model)) return v;
  return read_weights(v, directory, classes != 0, flags) || lk_vit_initialise(v) ? NULL : v;
}

/* The config as it shall be in the file; the caller's. */
static lk_json *config_of(lk_vit *v) {
  lk_ctx *ctx = v->module.ctx;
  lk_json *json = v->json ? lk_json_copy(ctx, v->json) : lk_json_object(ctx);
  if (json) lk_vit_config_to_json(ctx, &v->config, json);
  return json;
}

lk_status lk_vit_save_config(lk_vit *v, const char *directory) {
  lk_ctx *ctx = v->module.ctx;
  if (lk_make_dirs(ctx, directory)) return lk_error(ctx, NULL);
  lk_json *json = config_of(v);
  char *path = file_in(ctx, directory, "config.json");
  if (path && json) lk_json_write(ctx, path, json, LK_JSON_SORTED);
  lk_json_free(json);
  lk_free(ctx, path);
  return lk_error(ctx, NULL);
}

lk_status lk_vit_save(lk_vit *v, const char *directory) {
  lk_ctx *ctx = v->module.ctx;
  if (lk_vit_can_save(v) || lk_make_dirs(ctx, directory)) return lk_error(ctx, NULL);
  char *weights = file_in(ctx, directory, "model.safetensors");
  if (weights && !lk_model_save(v->module.model, weights)) lk_vit_save_config(v, directory);
  lk_free(ctx, weights);
  return lk_error(ctx, NULL);
}

lk_status lk_vit_can_save(const lk_vit *v) { return lk_merge_check_bias(v->module.model, "vit_save"); }

lk_status lk_vit_name_classes(lk_vit *v, char *const *names) {
  if (!v->json) v->json = lk_json_object(v->module.ctx);
  return lk_labels_set(v->module.ctx, v->json, v->config.classes, names);
}

const char *lk_vit_label(const lk_vit *v, int64_t class_index) { return lk_labels_get(v->json, class_index); }
