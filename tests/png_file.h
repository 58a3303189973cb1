/* png_file.h: PNG files by hand: chunks with their checksums, pixels in one stored block. */
#ifndef TEST_PNG_FILE_H
#define TEST_PNG_FILE_H
#include <stdint.h>
#include <string.h>

static inline void test_big_endian(uint8_t *to, uint64_t value) {
  for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> (24 - 8 * i));
}

static inline uint32_t test_crc(const uint8_t *p, size_t n) {
  uint32_t crc = 0xFFFFFFFF;
  for (size_t i = 0; i < n; i++) {
    crc ^= p[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
  }
  return ~crc;
}

/* Its length. */
static inline size_t test_chunk(uint8_t *to, const char *type, const uint8_t *data, size_t n) {
  test_big_endian(to, n);
  memcpy(to + 4, type, 4);
  if (n) memcpy(to + 8, data, n);
  test_big_endian(to + 8 + n, test_crc(to + 4, n + 4));
  return n + 12;
}

/* raw: the rows as they are compressed, each after its filter byte.  palette: 3 * colours bytes; colours 0: none.  `to`
 * needs n + 3 * colours + 128 bytes.  The file's length. */
static inline size_t test_png(uint8_t *to, uint32_t width, uint32_t height, int depth, int type, int interlaced,
                              const uint8_t *raw, size_t n, const uint8_t *palette, size_t colours) {
  uint8_t header[13] = {0}, zlib[8192] = {0x78, 1, 1};
  size_t at = 8;
  uint32_t a = 1, b = 0; /* Adler-32 */
  memcpy(to, "\x89PNG\r\n\x1A\n", 8);
  test_big_endian(header, width);
  test_big_endian(header + 4, height);
  header[8] = (uint8_t)depth;
  header[9] = (uint8_t)type;
  header[12] = (uint8_t)interlaced;
  zlib[3] = (uint8_t)n;
  zlib[4] = (uint8_t)(n >> 8);
  zlib[5] = (uint8_t)~zlib[3];
  zlib[6] = (uint8_t)~zlib[4];
  for (size_t i = 0; i < n; i++) {
    zlib[7 + i] = raw[i];
    a = (a + raw[i]) % 65521;
    b = (b + a) % 65521;
  }
  test_big_endian(zlib + 7 + n, b << 16 | a);
  at += test_chunk(to + at, "IHDR", header, 13);
  if (colours) at += test_chunk(to + at, "PLTE", palette, 3 * colours);
  at += test_chunk(to + at, "IDAT", zlib, n + 11);
  return at + test_chunk(to + at, "IEND", NULL, 0);
}

#endif
