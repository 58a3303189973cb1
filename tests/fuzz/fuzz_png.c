/* fuzz_png.c: any bytes as a PNG file, half of the time with right checksums of its chunks: refused with a sentence, or an
 * image. */
#include "../png_file.h"
#include "fuzz.h"
#include "fuzz_image.h"

/* Corrects all checksums, so that not every changed bit ends there. */
static void correct(uint8_t *p, size_t n) {
  for (size_t at = 8; at + 12 <= n;) {
    size_t length = (size_t)p[at] << 24 | (size_t)p[at + 1] << 16 | (size_t)p[at + 2] << 8 | p[at + 3];
    if (length > n - at - 12) return;
    test_big_endian(p + at + 8 + length, test_crc(p + at + 4, length + 4));
    at += length + 12;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t *copy = malloc(size + 1);
  REQUIRE(copy);
  if (size) memcpy(copy, data, size);
  if (size > 8 && size % 2) memcpy(copy, "\x89PNG\r\n\x1A\n", 8), correct(copy, size);
  fuzz_image(copy, size);
  free(copy);
  return 0;
}

const char *const fuzz_words[] = {"IHDR", "PLTE", "IDAT", "IEND", "tRNS", "eXIf", "\xFF\xFF\xFF\xFF", NULL};

/* Every colour type and depth, plain and interlaced. */
size_t fuzz_seed(int i, uint8_t *to) {
  static const struct {
    uint8_t depth, type, bytes; /* of a row of 2 */
  } kinds[] = {{1, 0, 1}, {2, 0, 1}, {4, 0, 1}, {8, 0, 2}, {16, 0, 4}, {8, 2, 6}, {16, 2, 12}, {1, 3, 1},
               {2, 3, 1}, {4, 3, 1}, {8, 3, 2}, {8, 4, 4}, {16, 4, 8}, {8, 6, 8}, {16, 6, 16}};
  enum { KINDS = sizeof kinds / sizeof *kinds };
  uint8_t raw[40], palette[12];
  if (i >= 2 * KINDS) return 0;
  int k = i % KINDS, interlaced = i >= KINDS;
  /* interlaced 2 x 2: a row of one pixel, another, a row of two */
  size_t row = kinds[k].bytes, half = (row + 1) / 2, n = interlaced ? 3 + 2 * half + row : 2 + 2 * row;
  for (size_t j = 0; j < n; j++) raw[j] = (uint8_t)(kinds[k].type == 3 ? 1 : 37 * j);
  for (size_t j = 0; j < 12; j++) palette[j] = (uint8_t)(20 * j);
  raw[0] = raw[1 + (interlaced ? half : row)] = 0;
  if (interlaced) raw[2 + 2 * half] = 0;
  return test_png(to, 2, 2, kinds[k].depth, kinds[k].type, interlaced, raw, n, palette, kinds[k].type == 3 ? 2 : 0);
}
