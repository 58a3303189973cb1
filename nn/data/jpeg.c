/* jpeg.c: JPEG files to pixels; the only file that includes libjpeg. */
#include "data/decode.h"

/* jpeglib.h needs stdio.h before it: */
/* clang-format off */
#include <stdio.h>
#include <jpeglib.h>
/* clang-format on */
#include <setjmp.h>
#include <string.h>

enum { MOST_SCANS = 200, EXIF_MARKER = JPEG_APP0 + 1 };

/* All that the decoder changes lives here, not in locals, which longjmp would make indeterminate. */
typedef struct reader {
  jmp_buf home;
  lk_encoded *e;
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  lk_image *image;
  uint8_t *row; /* of CMYK */
} reader;

static void fail(j_common_ptr jpeg) {
  char why[JMSG_LENGTH_MAX];
  reader *r = jpeg->client_data;
  jpeg->err->format_message(jpeg, why);
  lk_fail(r->e->ctx, LK_EFORMAT, "%s: damaged JPEG file: %s", r->e->name, why);
  longjmp(r->home, 1);
}

/* Level -1 is a warning: data are damaged, and pixels would be guessed.  Others only trace. */
static void message(j_common_ptr jpeg, int level) {
  if (level < 0) fail(jpeg);
}

static void say_nothing(j_common_ptr jpeg) { (void)jpeg; }

/* A file of a few bytes a scan could keep the decoder busy for hours. */
static void watch(j_common_ptr jpeg) {
  reader *r = jpeg->client_data;
  if (r->jpeg.input_scan_number <= MOST_SCANS) return;
  lk_fail(r->e->ctx, LK_EFORMAT, "%s: a JPEG file of more than %d scans", r->e->name, MOST_SCANS);
  longjmp(r->home, 1);
}

static void start(reader *r) {
  r->jpeg.err = jpeg_std_error(&r->errors);
  r->errors.error_exit = fail;
  r->errors.emit_message = message;
  r->errors.output_message = say_nothing;
  r->jpeg.client_data = r;
  jpeg_create_decompress(&r->jpeg);
  r->progress.progress_monitor = watch;
  r->jpeg.progress = &r->progress;
  jpeg_mem_src(&r->jpeg, r->e->p, (unsigned long)r->e->n);
  jpeg_save_markers(&r->jpeg, EXIF_MARKER, 0xFFFF);
}

static void read_orientation(reader *r) {
  for (jpeg_saved_marker_ptr m = r->jpeg.marker_list; m; m = m->next)
    if (m->marker == EXIF_MARKER && m->data_length > 6 && !memcmp(m->data, "Exif\0", 6))
      r->e->orientation = lk_exif_orientation(m->data + 6, m->data_length - 6);
}

/* Grey stays grey, CMYK becomes colours below; all else libjpeg turns into colours, or refuses. */
static void read_header(reader *r) {
  struct jpeg_decompress_struct *j = &r->jpeg;
  jpeg_read_header(j, TRUE);
  int cmyk = j->jpeg_color_space == JCS_CMYK || j->jpeg_color_space == JCS_YCCK;
  int grey = j->jpeg_color_space == JCS_GRAYSCALE;
  j->out_color_space = cmyk ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
  r->image = lk_decoded_new(r->e, grey ? 1 : 3, j->image_height, j->image_width);
  if (r->image && cmyk) r->row = lk_alloc_array(r->e->ctx, j->image_width, 4);
  if (!r->image || (cmyk && !r->row)) longjmp(r->home, 1);
}

/* a b / 255, rounded. */
static int scaled(int a, int b) {
  int t = a * b + 128;
  return ((t >> 8) + t) >> 8;
}

/* Stored values are inverted: 255 is no ink. */
static void from_cmyk(const uint8_t *from, int64_t width, uint8_t *to) {
  for (int64_t x = 0; x < width; x++)
    for (int c = 0; c < 3; c++)
      to[3 * x + c] = (uint8_t)(from[4 * x + 3] - scaled(255 - from[4 * x + c], from[4 * x + 3]));
}

static void read_pixels(reader *r) {
  size_t row = (size_t)(r->image->channels * r->image->width);
  jpeg_start_decompress(&r->jpeg);
  while (r->jpeg.output_scanline < r->jpeg.output_height) {
    uint8_t *to = r->image->pixels + r->jpeg.output_scanline * row;
    JSAMPROW into = r->row ? r->row : to;
    jpeg_read_scanlines(&r->jpeg, &into, 1);
    if (r->row) from_cmyk(r->row, r->image->width, to);
  }
  jpeg_finish_decompress(&r->jpeg);
}

lk_image *lk_jpeg_decode(lk_encoded *e) {
  reader r = {.e = e};
  if (!setjmp(r.home)) {
    start(&r);
    read_header(&r);
    read_orientation(&r);
    read_pixels(&r);
  }
  jpeg_destroy_decompress(&r.jpeg);
  lk_free(e->ctx, r.row);
  if (!lk_error(e->ctx, NULL)) return r.image;
  lk_image_free(r.image);
  return NULL;
}
