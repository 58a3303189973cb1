/* vit_config.c: configurations of vision transformers: presets, checks, config.json. */
#include "models/labels.h"

#include <lorikeet/vit.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The numbers of a configuration: key in config.json, place, HuggingFace's default, range. */
typedef struct {
  const char *key;
  size_t offset;
  double otherwise, low, high;
} field;

#define PLACE(name) offsetof(lk_vit_config, name)
static const field sizes[] = {
    {"image_size", PLACE(image_size), 224, 1, 1 << 20},
    {"patch_size", PLACE(patch_size), 16, 1, 1 << 20},
    {"num_channels", PLACE(channels), 3, 1, 1 << 20},
    {"hidden_size", PLACE(hidden_size), 768, 1, 1 << 20},
    {"num_hidden_layers", PLACE(layers), 12, 1, 1 << 12},
    {"num_attention_heads", PLACE(heads), 12, 1, 1 << 20},
    {"intermediate_size", PLACE(intermediate_size), 3072, 1, 1 << 20},
    {"num_labels", PLACE(classes), 2, 1, 1 << 24},
};
static const field reals[] = {
    {"layer_norm_eps", PLACE(layer_norm_eps), 1e-12, 0, 1},
    {"hidden_dropout_prob", PLACE(hidden_dropout), 0, 0, 1},
    {"attention_probs_dropout_prob", PLACE(attention_dropout), 0, 0, 1},
    {"initializer_range", PLACE(initializer_range), 0.02, 0, 1e3},
};
enum { SIZES = sizeof sizes / sizeof *sizes, REALS = sizeof reals / sizeof *reals, CLASSES = SIZES - 1 };

static int64_t *size_at(lk_vit_config *c, int i) { return (int64_t *)((char *)c + sizes[i].offset); }
static double *real_at(lk_vit_config *c, int i) { return (double *)((char *)c + reals[i].offset); }

void lk_vit_config_default(lk_vit_config *c) {
  *c = (lk_vit_config){.hidden_act = "gelu", .qkv_bias = 1};
  for (int i = 0; i < SIZES; i++) *size_at(c, i) = (int64_t)sizes[i].otherwise;
  for (int i = 0; i < REALS; i++) *real_at(c, i) = reals[i].otherwise;
}

/* ---- presets ---- */

/* The two for 28 x 28 images are meant to be trained from nothing, which HuggingFace's narrow weights make slow. */
static const struct {
  const char *name;
  int image, patch, channels, hidden, layers, heads, intermediate, classes;
  double range; /* initializer_range */
} presets[] = {
    {"vit-tiny-28", 28, 7, 1, 64, 4, 4, 128, 10, .12},      {"vit-small-28", 28, 4, 1, 96, 6, 4, 192, 10, .1},
    {"deit-tiny", 224, 16, 3, 192, 12, 3, 768, 1000, .02},  {"vit-s16", 224, 16, 3, 384, 12, 6, 1536, 1000, .02},
    {"vit-b16", 224, 16, 3, 768, 12, 12, 3072, 1000, .02},  {"vit-b32", 224, 32, 3, 768, 12, 12, 3072, 1000, .02},
    {"vit-l16", 224, 16, 3, 1024, 24, 16, 4096, 1000, .02},
};
enum { PRESETS = sizeof presets / sizeof *presets };

lk_status lk_vit_preset(lk_ctx *ctx, const char *name, lk_vit_config *c) {
  char known[160] = "";
  size_t used = 0;
  lk_vit_config_default(c);
  for (int i = 0; i < PRESETS; i++) {
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", presets[i].name);
    if (strcmp(presets[i].name, name) != 0) continue;
    c->image_size = presets[i].image;
    c->patch_size = presets[i].patch;
    c->channels = presets[i].channels;
    c->hidden_size = presets[i].hidden;
    c->layers = presets[i].layers;
    c->heads = presets[i].heads;
    c->intermediate_size = presets[i].intermediate;
    c->classes = presets[i].classes;
    c->initializer_range = presets[i].range;
    return LK_OK;
  }
  return lk_fail(ctx, LK_EARG, "there is no vision transformer '%s'; known are %s", name, known);
}

/* ---- checks ---- */

static lk_status check_divides(lk_ctx *ctx, const char *what, int64_t a, const char *of, int64_t b) {
  if (b % a == 0) return LK_OK;
  return lk_fail(ctx, LK_EARG, "vit: %s %lld does not divide %s %lld", what, (long long)a, of, (long long)b);
}

lk_status lk_vit_config_check(lk_ctx *ctx, const lk_vit_config *config) {
  lk_vit_config c = *config;
  for (int i = 0; i < SIZES; i++) {
    int64_t n = *size_at(&c, i);
    if (n < (int64_t)sizes[i].low || n > (int64_t)sizes[i].high)
      return lk_fail(ctx, LK_EARG, "vit: %s is %lld, should be %.0f to %.0f", sizes[i].key, (long long)n, sizes[i].low,
                     sizes[i].high);
  }
  for (int i = 0; i < REALS; i++) {
    double x = *real_at(&c, i);
    if (!(x >= reals[i].low && x <= reals[i].high))
      return lk_fail(ctx, LK_EARG, "vit: %s is %g, should be %g to %g", reals[i].key, x, reals[i].low, reals[i].high);
  }
  if (check_divides(ctx, "num_attention_heads", c.heads, "hidden_size", c.hidden_size)) return lk_error(ctx, NULL);
  if (check_divides(ctx, "patch_size", c.patch_size, "image_size", c.image_size)) return lk_error(ctx, NULL);
  if (!c.hidden_act) return lk_fail(ctx, LK_ENIL, "vit: hidden_act is NULL");
  return lk_activation_find(ctx, c.hidden_act) ? LK_OK : lk_error(ctx, NULL);
}

/* ---- config.json ---- */

lk_status lk_vit_config_from_json(lk_ctx *ctx, const lk_json *json, lk_vit_config *c) {
  lk_vit_config_default(c);
  if (lk_error(ctx, NULL)) return lk_error(ctx, NULL);
  const char *type = lk_json_string(ctx, json, "model_type", NULL);
  if (lk_error(ctx, NULL)) return lk_error(ctx, NULL);
  if (!type || strcmp(type, "vit") != 0)
    return lk_fail(ctx, LK_EARG, "model_type is '%s'; this reads 'vit' only", type ? type : "");
  for (int i = 0; i < SIZES; i++) *size_at(c, i) = lk_json_int(ctx, json, sizes[i].key, *size_at(c, i));
  for (int i = 0; i < REALS; i++) *real_at(c, i) = lk_json_real(ctx, json, reals[i].key, *real_at(c, i));
  size_t labels = lk_json_count(lk_json_get(json, "id2label"));
  if (labels) c->classes = (int64_t)labels;
  c->qkv_bias = lk_json_bool(ctx, json, "qkv_bias", c->qkv_bias);
  c->fused_qkv = lk_json_bool(ctx, json, "fused_qkv", 0);
  const char *name = lk_json_string(ctx, json, "hidden_act", "gelu");
  if (lk_error(ctx, NULL)) return lk_error(ctx, NULL);
  const lk_activation *activation = lk_activation_find(ctx, name);
  c->hidden_act = activation ? activation->name : NULL; /* the text belongs to json */
  return activation ? lk_vit_config_check(ctx, c) : lk_error(ctx, NULL);
}

lk_status lk_vit_config_to_json(lk_ctx *ctx, const lk_vit_config *config, lk_json *json) {
  lk_vit_config c = *config;
  lk_json_set_string(ctx, json, "model_type", "vit");
  if (!c.fused_qkv && !lk_json_get(json, "architectures")) {
    lk_json *list = lk_json_array(ctx);
    if (list) lk_json_set_string(ctx, list, NULL, "ViTForImageClassification");
    lk_json_set(ctx, json, "architectures", list);
  }
  for (int i = 0; i < CLASSES; i++) lk_json_set_int(ctx, json, sizes[i].key, *size_at(&c, i));
  for (int i = 0; i < REALS; i++) lk_json_set_real(ctx, json, reals[i].key, *real_at(&c, i));
  lk_json_set_string(ctx, json, "hidden_act", c.hidden_act);
  lk_json_set_bool(ctx, json, "qkv_bias", c.qkv_bias);
  if (c.fused_qkv) lk_json_set_bool(ctx, json, "fused_qkv", 1);
  lk_json_remove(json, "num_labels"); /* the labels tell it */
  if ((int64_t)lk_json_count(lk_json_get(json, "id2label")) != c.classes) lk_labels_set(ctx, json, c.classes, NULL);
  return lk_error(ctx, NULL);
}
