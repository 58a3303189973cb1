/* images.h: PNG and JPEG files as 8-bit pixels, resized and cropped as HuggingFace's image processors do it, and folders
 * of them as a dataset.
 *
 *   lk_preprocess p;
 *   lk_preprocess_read(ctx, "model", 3, 224, &p);                       what preprocessor_config.json says
 *   lk_dataset *train = lk_dataset_folder(ctx, "data/train", &p, NULL);   data/train/cat/1.jpg, data/train/dog/2.png
 *   lk_dataset *test = lk_dataset_folder(ctx, "data/test", &p, train);                                          */
#ifndef LORIKEET_IMAGES_H
#define LORIKEET_IMAGES_H
#include <lorikeet/data.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- one image ---- */

#define LK_IMAGE_MAX_SIDE ((int64_t)1 << 16)
#define LK_IMAGE_MAX_PIXELS ((int64_t)1 << 27)

/* Memory of the context's; the struct owns all of it. */
typedef struct lk_image {
  lk_ctx *ctx;
  int64_t channels; /* 1 grey, 3 red, green, blue */
  int64_t height, width;
  uint8_t *pixels; /* [height, width, channels] */
} lk_image;

/* A black image.  NULL on error: other channels, no pixel, a side above LK_IMAGE_MAX_SIDE, more than LK_IMAGE_MAX_PIXELS. */
LK_API lk_image *lk_image_new(lk_ctx *ctx, int64_t channels, int64_t height, int64_t width);
LK_API void lk_image_free(lk_image *image); /* image may be NULL */

/* The image of a PNG or JPEG file; the first bytes tell which.  channels 0: 1 or 3 as stored; 1: colours become grey
 * (ITU-R 601-2 luma); 3: grey becomes colour.
 *
 * All PNG types: alpha is dropped, of 16 bits the upper 8 are taken, gamma and colour profiles are ignored.  JPEG: grey,
 * YCbCr, RGB, and CMYK and YCCK (inverted, as Adobe writes them), baseline and progressive.  Pixels are those of Pillow's
 * Image.open(...).convert("RGB" or "L"), turned by the EXIF orientation as transformers' pipelines do.
 *
 * NULL on error: LK_EFORMAT with the file's name for anything that is not a whole, undamaged image within the limits
 * above (also where a decoder would only warn and guess the missing pixels).  libjpeg takes its memory from malloc. */
LK_API lk_image *lk_image_read(lk_ctx *ctx, const char *path, int channels);
/* The same from memory; name stands in messages. */
LK_API lk_image *lk_image_decode(lk_ctx *ctx, const void *bytes, size_t n, const char *name, int channels);

/* Pillow's filters with Pillow's numbers. */
typedef enum lk_resample {
  LK_NEAREST = 0,
  LK_LANCZOS = 1, /* sinc(x) sinc(x / 3), |x| < 3 */
  LK_BILINEAR = 2,
  LK_BICUBIC = 3, /* Keys, "Cubic Convolution Interpolation", 1981, with a = -1/2 */
  LK_BOX = 4,
  LK_HAMMING = 5
} lk_resample;

/* The image in another size, equal to Pillow's Image.resize: the filter grows with the scale when shrinking
 * (antialiasing), weights are fixed-point numbers of 22 bits, in two passes whose order is Pillow 13's.  NULL on error. */
LK_API lk_image *lk_image_resize(const lk_image *image, int64_t height, int64_t width, lk_resample filter);
/* The middle part, with black around where the image is smaller, as transformers' center_crop.  NULL on error. */
LK_API lk_image *lk_image_crop(const lk_image *image, int64_t height, int64_t width);

/* ---- preprocessing ---- */

/* From the image of a file to the model's pixels: resize, then crop; (pixel / 255 - mean) / std is left to the loader. */
typedef struct lk_preprocess {
  int channels;                    /* 1 or 3 */
  int resize;                      /* 0: keep the size */
  int64_t height, width;           /* exact size, or */
  int64_t shortest_edge;           /* the shorter edge, the other in proportion; 0: exact size */
  int64_t crop_height, crop_width; /* 0: no crop */
  lk_resample resample;
  double mean[LK_MAXCHANNELS], std[LK_MAXCHANNELS];
} lk_preprocess;

/* ViTImageProcessor's defaults: size x size, bilinear, mean and std 0.5. */
LK_API lk_preprocess lk_preprocess_default(int channels, int64_t size);
/* What preprocessor_config.json of a model's directory says; without that file the defaults.  The processors of ViT,
 * DeiT, CLIP and Bit are known (in all their spellings, "ViTFeatureExtractor" too), with their defaults for missing keys;
 * of ViT's size it is `size`, the model's.  Keys: do_resize, size, resample, do_center_crop, crop_size, do_rescale,
 * rescale_factor (both go into mean and std), do_normalize, image_mean, image_std.  Another processor, another key that
 * asks for something, or a wrong value is refused by name (LK_EFORMAT). */
LK_API lk_status lk_preprocess_read(lk_ctx *ctx, const char *directory, int channels, int64_t size, lk_preprocess *p);
/* Writes preprocessor_config.json into a directory, so that transformers does the same. */
LK_API lk_status lk_preprocess_write(lk_ctx *ctx, const char *directory, const lk_preprocess *p);
/* Resized and cropped.  NULL on error. */
LK_API lk_image *lk_preprocess_image(const lk_preprocess *p, const lk_image *image);

/* ---- folders ---- */

/* The images directory/<class>/<any name>.png, .jpg or .jpeg (capitals too), preprocessed, as a dataset with d->names set.
 * Classes are the folders' names in the order of their bytes, numbered from 0, and images stand in that order and then
 * in the order of their names; with `like` (may be NULL) classes and numbers are those of another dataset, which must know
 * every folder.  Other files and nested folders are left out with a warning, names with a leading dot without.
 * Errors: no folder, a folder without images, an image that cannot be read, images of different sizes after
 * preprocessing.  NULL on error. */
LK_API lk_dataset *lk_dataset_folder(lk_ctx *ctx, const char *directory, const lk_preprocess *p,
                                     const lk_dataset *like);
/* The classes of such a directory alone: a dataset with names and without images, to be passed as `like`. */
LK_API lk_dataset *lk_dataset_folder_classes(lk_ctx *ctx, const char *directory);

#ifdef __cplusplus
}
#endif
#endif
