/* files.h: for tests of files: a directory that vanishes afterwards, whole files in and out, gzip by hand. */
#ifndef TEST_FILES_H
#define TEST_FILES_H
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Made by test_directory in the current one, and then the current one. */
static char test_home[32];

static inline void test_directory(void) {
  strcpy(test_home, "test.XXXXXX");
  if (!mkdtemp(test_home) || chdir(test_home)) abort();
}

static inline int test_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st;
  (void)type;
  (void)ftw;
  return remove(path);
}

static inline void test_directory_remove(void) {
  if (chdir("..") || nftw(test_home, test_remove_one, 8, FTW_DEPTH | FTW_PHYS)) abort();
}

static inline void test_put(const char *path, const void *bytes, size_t n) {
  FILE *f = fopen(path, "wb");
  if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) abort();
}

/* The bytes of a file, to be freed; NULL if there is none. */
static inline unsigned char *test_get(const char *path, size_t *n) {
  *n = 0;
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  fseek(f, 0, SEEK_END);
  long size = ftell(f);
  rewind(f);
  unsigned char *bytes = malloc((size_t)size + 1);
  if (!bytes || fread(bytes, 1, (size_t)size, f) != (size_t)size) abort();
  bytes[size] = 0;
  fclose(f);
  *n = (size_t)size;
  return bytes;
}

static inline void test_little_endian(unsigned char *to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> 8 * i);
}

/* n < 65536 bytes as a gzip member with one stored block (RFC 1951, 1952); `to` needs n + 23 bytes.  Its length. */
static inline size_t test_gzip(const unsigned char *bytes, size_t n, unsigned char *to) {
  static const unsigned char header[11] = {0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255, 1};
  uint32_t crc = 0xFFFFFFFF;
  for (size_t i = 0; i < n; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
  }
  memcpy(to, header, sizeof header);
  test_little_endian(to + 11, n, 2);
  test_little_endian(to + 13, ~n, 2);
  memcpy(to + 15, bytes, n);
  test_little_endian(to + 15 + n, ~crc, 4);
  test_little_endian(to + 19 + n, n, 4);
  return n + 23;
}

#endif
