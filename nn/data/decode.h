/* decode.h: what png.c, jpeg.c and image.c share. */
#ifndef LK_DECODE_H
#define LK_DECODE_H
#include <lorikeet/images.h>

/* A file in memory, and where its messages come from. */
typedef struct lk_encoded {
  lk_ctx *ctx;
  const char *name;
  const uint8_t *p;
  size_t n;
  int orientation; /* set by the decoders: EXIF's, 1 .. 8 */
} lk_encoded;

lk_image *lk_png_decode(lk_encoded *e);
lk_image *lk_jpeg_decode(lk_encoded *e);
/* lk_image_new, after a check that names the file. */
lk_image *lk_decoded_new(const lk_encoded *e, int64_t channels, int64_t height, int64_t width);
/* The orientation in an EXIF block (a TIFF file), 1 if it says none. */
int lk_exif_orientation(const uint8_t *p, size_t n);

#endif
