/* draw_images.c: draw_images DIR: small PNG and JPEG files of two classes, dark and light, as DIR/{train,test}/CLASS/N.*,
 * for the tests of the programs. */
#include "png_file.h"

#include <stdio.h>
#include <stdlib.h>
/* which wants stdio.h before it */
#include <jpeglib.h>

enum { WIDTH = 40, HEIGHT = 32, STRIDE = 3 * WIDTH, TRAIN = 24, TEST = 8 };

/* Noise around a brightness; seed: any number. */
static void draw(uint8_t *pixels, int base, uint32_t seed) {
  for (int i = 0; i < HEIGHT * STRIDE; i++) {
    seed = seed * 1664525 + 1013904223;
    pixels[i] = (uint8_t)(base + (int)(seed >> 26)); /* 0 .. 63 more */
  }
}

static void write_png(FILE *f, const uint8_t *pixels) {
  static uint8_t raw[HEIGHT * (STRIDE + 1)], file[sizeof raw + 128];
  for (int y = 0; y < HEIGHT; y++) {
    raw[y * (STRIDE + 1)] = 0;
    memcpy(raw + y * (STRIDE + 1) + 1, pixels + y * STRIDE, STRIDE);
  }
  size_t n = test_png(file, WIDTH, HEIGHT, 8, 2, 0, raw, sizeof raw, NULL, 0);
  if (fwrite(file, 1, n, f) != n) abort();
}

static void write_jpeg(FILE *f, uint8_t *pixels) {
  struct jpeg_compress_struct c;
  struct jpeg_error_mgr errors;
  c.err = jpeg_std_error(&errors);
  jpeg_create_compress(&c);
  jpeg_stdio_dest(&c, f);
  c.image_width = WIDTH;
  c.image_height = HEIGHT;
  c.input_components = 3;
  c.in_color_space = JCS_RGB;
  jpeg_set_defaults(&c);
  jpeg_start_compress(&c, TRUE);
  while (c.next_scanline < c.image_height) {
    JSAMPROW row = pixels + c.next_scanline * STRIDE;
    jpeg_write_scanlines(&c, &row, 1);
  }
  jpeg_finish_compress(&c);
  jpeg_destroy_compress(&c);
}

static void write_one(const char *directory, const char *part, int light, int number) {
  static uint8_t pixels[HEIGHT * STRIDE];
  char path[4096];
  int jpeg = number % 2;
  snprintf(path, sizeof path, "%s/%s/%s/%d.%s", directory, part, light ? "light" : "dark", number,
           jpeg ? "jpg" : "png");
  FILE *f = fopen(path, "wb");
  if (!f) {
    perror(path);
    exit(1);
  }
  draw(pixels, light ? 150 : 40, (uint32_t)number * 2 + (uint32_t)light);
  if (jpeg) write_jpeg(f, pixels);
  else write_png(f, pixels);
  if (fclose(f)) abort();
}

int main(int argc, char **argv) {
  for (int i = 0; argc == 2 && i < TRAIN + TEST; i++)
    for (int light = 0; light < 2; light++) write_one(argv[1], i < TRAIN ? "train" : "test", light, i);
  return argc != 2;
}
