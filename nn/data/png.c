/* png.c: PNG files to pixels; the only file that includes libpng. */
#include "data/decode.h"

#include <png.h>
#include <setjmp.h>

enum { MOST_DEFLATED = 1032 /* bytes that a compressed byte can stand for */, MOST_IN_CHUNK = 1 << 24 };

/* All that the decoder changes lives here, not in locals, which longjmp would make indeterminate. */
typedef struct reader {
  jmp_buf home;
  lk_encoded *e;
  size_t at;
  png_structp png;
  png_infop info;
  lk_image *image;
} reader;

static void fail(png_structp png, png_const_charp why) {
  reader *r = png_get_error_ptr(png);
  lk_fail(r->e->ctx, LK_EFORMAT, "%s: damaged PNG file: %s", r->e->name, why);
  longjmp(r->home, 1);
}

/* Of chunks that do not matter here; what damages pixels is an error. */
static void ignore(png_structp png, png_const_charp what) {
  (void)png;
  (void)what;
}

static png_voidp take(png_structp png, png_alloc_size_t n) { return lk_alloc(png_get_mem_ptr(png), n); }
static void give(png_structp png, png_voidp p) { lk_free(png_get_mem_ptr(png), p); }

static void pull(png_structp png, png_bytep to, size_t n) {
  reader *r = png_get_io_ptr(png);
  if (n > r->e->n - r->at) png_error(png, "it ends too early");
  for (size_t i = 0; i < n; i++) to[i] = r->e->p[r->at + i];
  r->at += n;
}

static void start(reader *r) {
  lk_encoded *e = r->e;
  r->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, r, fail, ignore, e->ctx, take, give);
  r->info = r->png ? png_create_info_struct(r->png) : NULL;
  if (!r->info) {
    lk_fail(e->ctx, LK_ENOMEM, "%s: out of memory", e->name);
    longjmp(r->home, 1);
  }
  png_set_read_fn(r->png, r, pull);
  png_set_user_limits(r->png, (png_uint_32)LK_IMAGE_MAX_SIDE, (png_uint_32)LK_IMAGE_MAX_SIDE);
  png_set_chunk_malloc_max(r->png, MOST_IN_CHUNK);
  png_set_crc_action(r->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_set_benign_errors(r->png, 0);
  /* profiles, texts, gamma, ...: their errors would be refused too, and pixels do not depend on them */
  png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
  png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_AS_DEFAULT, (png_const_bytep) "eXIf", 1);
}

static void read_header(reader *r) {
  png_read_info(r->png, r->info);
  size_t height = png_get_image_height(r->png, r->info), row = png_get_rowbytes(r->png, r->info);
  if (height * row / MOST_DEFLATED > r->e->n) png_error(r->png, "it is shorter than its header says");
  png_set_expand(r->png); /* palettes, fewer than 8 bits */
  png_set_strip_16(r->png);
  png_set_strip_alpha(r->png);
}

static void read_pixels(reader *r) {
  int passes = png_set_interlace_handling(r->png);
  png_read_update_info(r->png, r->info);
  int64_t channels = png_get_channels(r->png, r->info);
  r->image =
      lk_decoded_new(r->e, channels, png_get_image_height(r->png, r->info), png_get_image_width(r->png, r->info));
  if (!r->image) longjmp(r->home, 1);
  size_t row = (size_t)(channels * r->image->width);
  if (png_get_rowbytes(r->png, r->info) != row) png_error(r->png, "rows of another length");
  for (int pass = 0; pass < passes; pass++)
    for (int64_t y = 0; y < r->image->height; y++) png_read_row(r->png, r->image->pixels + (size_t)y * row, NULL);
  png_read_end(r->png, r->info);
}

static void read_orientation(reader *r) {
  png_uint_32 n = 0;
  png_bytep exif = NULL;
  if (png_get_eXIf_1(r->png, r->info, &n, &exif)) r->e->orientation = lk_exif_orientation(exif, n);
}

lk_image *lk_png_decode(lk_encoded *e) {
  reader r = {.e = e};
  if (!setjmp(r.home)) {
    start(&r);
    read_header(&r);
    read_pixels(&r);
    read_orientation(&r);
  }
  png_destroy_read_struct(&r.png, &r.info, NULL);
  if (!lk_error(e->ctx, NULL)) return r.image;
  lk_image_free(r.image);
  return NULL;
}
