/* preprocess.c: HuggingFace's preprocessor_config.json: how images become a model's pixels. */
#include "model.h"

#include <lorikeet/file.h>
#include <lorikeet/images.h>
#include <lorikeet/json.h>
#include <math.h>
#include <string.h>

static const char name[] = "preprocessor_config.json";

/* Processors and their defaults. */
static const struct processor {
  const char *type;
  int64_t square, shortest_edge, crop; /* 0: none; square -1: the model's size */
  lk_resample resample;
  double mean[3], std[3];
} processors[] = {
    {"ViT", -1, 0, 0, LK_BILINEAR, {.5, .5, .5}, {.5, .5, .5}},
    {"DeiT", 256, 0, 224, LK_BICUBIC, {.5, .5, .5}, {.5, .5, .5}},
    {"CLIP", 0, 224, 224, LK_BICUBIC, {0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}},
    {"Bit", 0, 224, 224, LK_BICUBIC, {0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}}};
enum { PROCESSORS = sizeof processors / sizeof *processors };

static lk_preprocess defaults(const struct processor *d, int channels, int64_t size) {
  int64_t square = d->square < 0 ? size : d->square;
  lk_preprocess p = {.channels = channels,
                     .resize = 1,
                     .height = square,
                     .width = square,
                     .shortest_edge = d->shortest_edge,
                     .crop_height = d->crop,
                     .crop_width = d->crop,
                     .resample = d->resample};
  for (int c = 0; c < LK_MAXCHANNELS; c++) {
    p.mean[c] = d->mean[c % 3];
    p.std[c] = d->std[c % 3];
  }
  return p;
}

lk_preprocess lk_preprocess_default(int channels, int64_t size) { return defaults(&processors[0], channels, size); }

/* ---- reading ---- */

typedef struct reading {
  lk_ctx *ctx;
  const char *path;
  const lk_json *json;
} reading;

static int is(const char *word, const char *const *list) {
  for (; *list; list++)
    if (!strcmp(word, *list)) return 1;
  return 0;
}

/* "ViTImageProcessorFast" to ViT's row; NULL after an error. */
static const struct processor *find_processor(const reading *r) {
  static const char *const endings[] = {"ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor",
                                        NULL};
  const char *type = lk_json_string(r->ctx, r->json, "image_processor_type", NULL);
  if (!type) type = lk_json_string(r->ctx, r->json, "feature_extractor_type", "ViTImageProcessor");
  for (int i = 0; i < PROCESSORS; i++) {
    size_t n = strlen(processors[i].type);
    if (!strncmp(type, processors[i].type, n) && is(type + n, endings)) return &processors[i];
  }
  lk_fail(r->ctx, LK_EFORMAT, "%s: the image processor %s is not supported", r->path, type);
  return NULL;
}

/* Keys that this file reads, and those that do not change pixels; any other must ask for nothing. */
static lk_status check_keys(const reading *r) {
  static const char *const known[] = {"do_resize",
                                      "size",
                                      "resample",
                                      "do_center_crop",
                                      "crop_size",
                                      "do_rescale",
                                      "rescale_factor",
                                      "do_normalize",
                                      "image_mean",
                                      "image_std",
                                      "do_convert_rgb",
                                      "image_processor_type",
                                      "feature_extractor_type",
                                      "processor_class",
                                      "_processor_class",
                                      "_valid_processor_keys",
                                      "auto_map",
                                      "data_format",
                                      "input_data_format",
                                      "default_to_square",
                                      "device",
                                      "disable_grouping",
                                      "return_tensors",
                                      "image_seq_length",
                                      NULL};
  const char *key;
  void *at = NULL;
  for (const lk_json *v; (v = lk_json_next(r->json, &at, &key));) {
    int on = 1;
    if (is(key, known) || lk_json_type(v) == LK_JSON_NULL || (lk_json_is_bool(v, &on) && !on)) continue;
    return lk_fail(r->ctx, LK_EFORMAT, "%s: the key %s is not supported", r->path, key);
  }
  return lk_error(r->ctx, NULL);
}

static int is_side(const lk_json *j, int64_t *side) {
  return lk_json_is_int(j, side) && *side >= 1 && *side <= LK_IMAGE_MAX_SIDE;
}

/* A number, {"height", "width"}, or if shortest is not NULL {"shortest_edge"}.  square: what a number alone means. */
static lk_status read_size(const reading *r, const char *key, int square, int64_t *height, int64_t *width,
                           int64_t *shortest) {
  const lk_json *j = lk_json_get(r->json, key);
  const lk_json *edge = lk_json_get(j, "shortest_edge");
  int64_t h, w;
  size_t n = lk_json_count(j);
  if (!j || lk_json_type(j) == LK_JSON_NULL) return LK_OK;
  if (n == 2 && is_side(lk_json_get(j, "height"), &h) && is_side(lk_json_get(j, "width"), &w)) {
    *height = h;
    *width = w;
    if (shortest) *shortest = 0;
  } else if (shortest && is_side(n == 1 ? edge : square ? NULL : j, &h)) *shortest = h;
  else if (square && is_side(j, &h)) {
    *height = *width = h;
    if (shortest) *shortest = 0;
  } else
    return lk_fail(r->ctx, LK_EFORMAT, "%s: %s must be a number, {\"height\", \"width\"}%s, of 1 to %lld pixels",
                   r->path, key, shortest ? " or {\"shortest_edge\"}" : "", (long long)LK_IMAGE_MAX_SIDE);
  return LK_OK;
}

/* One number for all channels, or one for each. */
static lk_status read_numbers(const reading *r, const char *key, int channels, double *to) {
  const lk_json *j = lk_json_get(r->json, key);
  double all;
  if (!j || lk_json_type(j) == LK_JSON_NULL) return LK_OK;
  int single = lk_json_is_real(j, &all), fine = single || lk_json_count(j) == (size_t)channels;
  for (int c = 0; c < channels && fine; c++) fine = lk_json_is_real(single ? j : lk_json_at(j, (size_t)c), &to[c]);
  if (fine) return LK_OK;
  return lk_fail(r->ctx, LK_EFORMAT, "%s: %s must hold a number for each of %d channels", r->path, key, channels);
}

static lk_status read_geometry(const reading *r, lk_preprocess *p, int number_is_square) {
  lk_ctx *ctx = r->ctx;
  p->resize = lk_json_bool(ctx, r->json, "do_resize", 1);
  int64_t filter = lk_json_int(ctx, r->json, "resample", p->resample);
  if (filter < LK_NEAREST || filter > LK_HAMMING)
    return lk_fail(ctx, LK_EFORMAT, "%s: resample is %lld, and filters are numbered from 0 to 5", r->path,
                   (long long)filter);
  p->resample = (lk_resample)filter;
  if (read_size(r, "size", number_is_square, &p->height, &p->width, &p->shortest_edge)) return lk_error(ctx, NULL);
  int crop = lk_json_bool(ctx, r->json, "do_center_crop", p->crop_height > 0);
  if (!p->crop_height) p->crop_height = p->crop_width = 224; /* the default of every processor that crops */
  if (read_size(r, "crop_size", 1, &p->crop_height, &p->crop_width, NULL)) return lk_error(ctx, NULL);
  if (!crop) p->crop_height = p->crop_width = 0;
  return lk_error(ctx, NULL);
}

/* (pixel f - mean) / std = (pixel / 255 - mean / (255 f)) / (std / (255 f)) */
static lk_status read_values(const reading *r, lk_preprocess *p) {
  int normalize = lk_json_bool(r->ctx, r->json, "do_normalize", 1);
  double factor = lk_json_real(r->ctx, r->json, "rescale_factor", 1 / 255.);
  if (!lk_json_bool(r->ctx, r->json, "do_rescale", 1)) factor = 1;
  for (int c = 0; c < LK_MAXCHANNELS && !normalize; c++) {
    p->mean[c] = 0;
    p->std[c] = 1;
  }
  if (normalize && !read_numbers(r, "image_mean", p->channels, p->mean))
    read_numbers(r, "image_std", p->channels, p->std);
  if (!(factor > 0)) lk_fail(r->ctx, LK_EFORMAT, "%s: rescale_factor is %g, which is not above 0", r->path, factor);
  for (int c = 0; c < p->channels && !lk_error(r->ctx, NULL); c++) {
    p->mean[c] /= 255 * factor;
    p->std[c] /= 255 * factor;
    if (!(p->std[c] > 0) || !isfinite(p->std[c]) || !isfinite(p->mean[c]))
      lk_fail(r->ctx, LK_EFORMAT, "%s: image_std of channel %d is %g, which is not above 0", r->path, c, p->std[c]);
  }
  return lk_error(r->ctx, NULL);
}

lk_status lk_preprocess_read(lk_ctx *ctx, const char *directory, int channels, int64_t size, lk_preprocess *p) {
  *p = lk_preprocess_default(channels, size);
  if (lk_error(ctx, NULL)) return lk_error(ctx, NULL);
  if (channels != 1 && channels != 3)
    return lk_fail(ctx, LK_ESHAPE, "%s: images of %d channels; 1 and 3 are supported", directory, channels);
  char *path = lk_sprintf(ctx, "%s/%s", directory, name);
  lk_json *json = path && lk_file_exists(path) ? lk_json_read(ctx, path) : NULL;
  reading r = {ctx, path, json};
  if (json && lk_json_type(json) != LK_JSON_OBJECT) lk_fail(ctx, LK_EFORMAT, "%s does not hold an object", path);
  const struct processor *type = json && !lk_error(ctx, NULL) ? find_processor(&r) : NULL;
  if (type && !check_keys(&r)) {
    *p = defaults(type, channels, size);
    if (!read_geometry(&r, p, !type->shortest_edge)) read_values(&r, p);
  }
  if (path) lk_file_error(ctx, path);
  lk_json_free(json);
  lk_free(ctx, path);
  return lk_error(ctx, NULL);
}

/* ---- writing ---- */

static void put_size(lk_ctx *ctx, lk_json *json, const char *key, int64_t height, int64_t width, int64_t shortest) {
  lk_json *size = lk_json_object(ctx);
  if (shortest) lk_json_set_int(ctx, size, "shortest_edge", shortest);
  else {
    lk_json_set_int(ctx, size, "height", height);
    lk_json_set_int(ctx, size, "width", width);
  }
  lk_json_set(ctx, json, key, size);
}

static void put_numbers(lk_ctx *ctx, lk_json *json, const char *key, int n, const double *from) {
  lk_json *list = lk_json_array(ctx);
  for (int i = 0; i < n && list; i++) lk_json_set_real(ctx, list, NULL, from[i]);
  lk_json_set(ctx, json, key, list);
}

lk_status lk_preprocess_write(lk_ctx *ctx, const char *directory, const lk_preprocess *p) {
  char *path = lk_sprintf(ctx, "%s/%s", directory, name);
  lk_json *json = lk_json_object(ctx);
  const char *type = p->shortest_edge ? "CLIPImageProcessor"
                     : p->crop_height ? "DeiTImageProcessor"
                                      : "ViTImageProcessor";
  lk_json_set_string(ctx, json, "image_processor_type", type);
  lk_json_set_bool(ctx, json, "do_resize", p->resize);
  if (p->shortest_edge || p->height) put_size(ctx, json, "size", p->height, p->width, p->shortest_edge);
  lk_json_set_int(ctx, json, "resample", p->resample);
  if (p->crop_height || p->shortest_edge) lk_json_set_bool(ctx, json, "do_center_crop", p->crop_height > 0);
  if (p->crop_height) put_size(ctx, json, "crop_size", p->crop_height, p->crop_width, 0);
  lk_json_set_bool(ctx, json, "do_rescale", 1);
  lk_json_set_real(ctx, json, "rescale_factor", 1 / 255.);
  lk_json_set_bool(ctx, json, "do_normalize", 1);
  put_numbers(ctx, json, "image_mean", p->channels, p->mean);
  put_numbers(ctx, json, "image_std", p->channels, p->std);
  if (path && !lk_error(ctx, NULL)) lk_json_write(ctx, path, json, LK_JSON_SORTED);
  lk_json_free(json);
  lk_free(ctx, path);
  return lk_error(ctx, NULL);
}

/* ---- applying ---- */

lk_image *lk_preprocess_image(const lk_preprocess *p, const lk_image *image) {
  if (!image) return NULL;
  int64_t h = p->resize ? p->height : image->height, w = p->resize ? p->width : image->width;
  if (p->resize && p->shortest_edge) {
    int64_t shorter = image->height < image->width ? image->height : image->width;
    h = p->shortest_edge * image->height / shorter;
    w = p->shortest_edge * image->width / shorter;
  }
  lk_image *resized = lk_image_resize(image, h, w, p->resample);
  if (!resized || !p->crop_height) return resized;
  lk_image *part = lk_image_crop(resized, p->crop_height, p->crop_width);
  lk_image_free(resized);
  return part;
}
