/* fuzz_idx.c: any bytes as an IDX file, plain or gzip: refused with a sentence, or an array of the size it says. */
#include "../files.h"
#include "fuzz.h"

#include <lorikeet/idx.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *message;
  lk_view v;
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_status status = lk_idx_read_memory(ctx, data, size, "input", &v);
  REQUIRE(status == lk_error(ctx, &message));
  if (status) REQUIRE(status == LK_EFORMAT && !strncmp(message, "input: ", 7) && !v.p);
  else {
    int64_t n = lk_view_count(&v);
    double sum = 0; /* every element is there */
    for (int64_t i = 0; i < n; i++) sum += lk_view_get(&v, i) == 0;
    REQUIRE(v.p && sum <= (double)n && lk_view_contiguous(&v));
    if (data[0] == 0) REQUIRE((size_t)n <= size);
    lk_free(ctx, v.p);
  }
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
  return 0;
}

const char *const fuzz_words[] = {"\x1F\x8B\x08", "\xFF\xFF\xFF\xFF", "\x08\x03", "\x0D\x01", "\x7F", NULL};

/* A seed of every element type, plain and in gzip. */
size_t fuzz_seed(int i, uint8_t *to) {
  static const struct {
    uint8_t code, size;
  } types[] = {{0x08, 1}, {0x09, 1}, {0x0B, 2}, {0x0C, 4}, {0x0D, 4}, {0x0E, 8}};
  enum { TYPES = sizeof types / sizeof *types };
  uint8_t bytes[128] = {0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3};
  if (i >= 2 * TYPES) return 0;
  bytes[2] = types[i % TYPES].code;
  size_t n = 12 + 6 * (size_t)types[i % TYPES].size;
  for (size_t k = 12; k < n; k++) bytes[k] = (uint8_t)(k * 3);
  if (i >= TYPES) return test_gzip(bytes, n, to);
  memcpy(to, bytes, n);
  return n;
}
