/* image.c: one image: from a file, turned, in grey or colours, cropped. */
#include "data/decode.h"

#include <lorikeet/file.h>
#include <string.h>

lk_image *lk_image_new(lk_ctx *ctx, int64_t channels, int64_t height, int64_t width) {
  if (channels != 1 && channels != 3) {
    lk_fail(ctx, LK_ESHAPE, "an image of %lld channels; 1 and 3 are supported", (long long)channels);
    return NULL;
  }
  if (height < 1 || width < 1 || height > LK_IMAGE_MAX_SIDE || width > LK_IMAGE_MAX_SIDE ||
      height * width > LK_IMAGE_MAX_PIXELS) {
    lk_fail(ctx, LK_ESHAPE, "an image of %lld x %lld; sides of 1 to %lld and %lld pixels are supported",
            (long long)height, (long long)width, (long long)LK_IMAGE_MAX_SIDE, (long long)LK_IMAGE_MAX_PIXELS);
    return NULL;
  }
  lk_image *image = lk_alloc(ctx, sizeof *image);
  if (!image) return NULL;
  *image = (lk_image){.ctx = ctx, .channels = channels, .height = height, .width = width};
  image->pixels = lk_alloc(ctx, (size_t)(channels * height * width));
  if (image->pixels) return image;
  lk_image_free(image);
  return NULL;
}

void lk_image_free(lk_image *image) {
  if (!image) return;
  lk_free(image->ctx, image->pixels);
  lk_free(image->ctx, image);
}

lk_image *lk_decoded_new(const lk_encoded *e, int64_t channels, int64_t height, int64_t width) {
  if (height <= LK_IMAGE_MAX_SIDE && width <= LK_IMAGE_MAX_SIDE && height * width <= LK_IMAGE_MAX_PIXELS)
    return lk_image_new(e->ctx, channels, height, width);
  lk_fail(e->ctx, LK_EFORMAT, "%s: %lld x %lld pixels are too many; at most %lld a side and %lld in all", e->name,
          (long long)height, (long long)width, (long long)LK_IMAGE_MAX_SIDE, (long long)LK_IMAGE_MAX_PIXELS);
  return NULL;
}

/* ---- from one image to another; each frees what it is given ---- */

static lk_image *turn(lk_image *old, int orientation) {
  if (!old || orientation == 1) return old;
  int swap = orientation >= 5, flip_rows = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  int flip_columns = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  size_t c = (size_t)old->channels;
  lk_image *new =
      lk_image_new(old->ctx, old->channels, swap ? old->width : old->height, swap ? old->height : old->width);
  for (int64_t y = 0; new &&y < new->height; y++)
    for (int64_t x = 0; x < new->width; x++) {
      int64_t row = swap ? x : y, column = swap ? y : x;
      if (flip_rows) row = old->height - 1 - row;
      if (flip_columns) column = old->width - 1 - column;
      memcpy(new->pixels + (size_t)(y * new->width + x) * c, old->pixels + (size_t)(row * old->width + column) * c, c);
    }
  lk_image_free(old);
  return new;
}

static lk_image *recolour(lk_image *old, int channels) {
  if (!old || !channels || old->channels == channels) return old;
  lk_image *new = lk_image_new(old->ctx, channels, old->height, old->width);
  for (int64_t i = 0; new &&i < old->height * old->width; i++) {
    if (channels == 3) memset(new->pixels + 3 * i, old->pixels[i], 3);
    else {
      const uint8_t *p = old->pixels + 3 * i;
      new->pixels[i] = (uint8_t)((p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 0x8000) >> 16); /* .299 .587 .114 */
    }
  }
  lk_image_free(old);
  return new;
}

lk_image *lk_image_decode(lk_ctx *ctx, const void *bytes, size_t n, const char *name, int channels) {
  if (lk_error(ctx, NULL)) return NULL;
  lk_encoded e = {ctx, name, bytes, n, 1};
  lk_image *image = NULL;
  if (!bytes || !name) lk_fail(ctx, LK_ENIL, "lk_image_decode: bytes or name is NULL");
  else if (channels != 0 && channels != 1 && channels != 3)
    lk_fail(ctx, LK_EARG, "%s: cannot be read with %d channels; 1 and 3 are supported", name, channels);
  else if (n >= 8 && !memcmp(bytes, "\x89PNG\r\n\x1A\n", 8)) image = lk_png_decode(&e);
  else if (n >= 3 && !memcmp(bytes, "\xFF\xD8\xFF", 3)) image = lk_jpeg_decode(&e);
  else lk_fail(ctx, LK_EFORMAT, "%s: neither a PNG nor a JPEG file", name);
  return turn(recolour(image, channels), e.orientation);
}

lk_image *lk_image_read(lk_ctx *ctx, const char *path, int channels) {
  lk_file *f = lk_file_map(ctx, path);
  lk_image *image = f ? lk_image_decode(ctx, f->bytes, f->size, path, channels) : NULL;
  lk_file_unmap(f);
  return image;
}

lk_image *lk_image_crop(const lk_image *image, int64_t height, int64_t width) {
  lk_image *part = image ? lk_image_new(image->ctx, image->channels, height, width) : NULL;
  if (!part) return NULL;
  /* rounded down, also below 0, where the part is larger than the image */
  int64_t top = (image->height - height) >> 1, left = (image->width - width) >> 1;
  int64_t from = left < 0 ? -left : 0, to = image->width - left < width ? image->width - left : width;
  for (int64_t y = 0; y < height; y++)
    if (top + y >= 0 && top + y < image->height)
      memcpy(part->pixels + (y * width + from) * image->channels,
             image->pixels + ((top + y) * image->width + left + from) * image->channels,
             (size_t)((to - from) * image->channels));
  return part;
}
