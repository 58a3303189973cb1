/* fuzz_image.h: what fuzz_png.c and fuzz_jpeg.c demand of the decoders. */
#ifndef FUZZ_IMAGE_H
#define FUZZ_IMAGE_H
#include "fuzz.h"

#include <lorikeet/images.h>
#include <string.h>

/* Refused with a sentence that names the file, or all of its pixels are there and can be resized. */
static inline void fuzz_image(const uint8_t *data, size_t size) {
  const char *message;
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_image *image = lk_image_decode(ctx, data, size, "input", size % 3 == 0 ? 0 : size % 3 == 1 ? 1 : 3);
  REQUIRE((image != NULL) == (lk_error(ctx, &message) == LK_OK));
  if (!image) REQUIRE(lk_error(ctx, NULL) == LK_EFORMAT && !strncmp(message, "input: ", 7));
  else {
    size_t n = (size_t)(image->channels * image->height * image->width), sum = 0;
    for (size_t i = 0; i < n; i++) sum += image->pixels[i];
    REQUIRE(n > 0 && sum <= 255 * n);
    if (n < 1 << 16) lk_image_free(lk_image_resize(image, 3, 5, (lk_resample)(n % 6)));
    REQUIRE(!lk_error(ctx, NULL));
  }
  lk_image_free(image);
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
}

#endif
