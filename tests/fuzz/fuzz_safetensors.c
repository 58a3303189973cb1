/* fuzz_safetensors.c: any bytes as a safetensors file: refused with a sentence, or every promise holds. */
#include "fuzz.h"

#include <lorikeet/safetensors.h>
#include <string.h>

/* A tensor is found under its name, and its data is inside the file, aligned and as large as its shape. */
static void check_tensor(lk_ctx *ctx, lk_safetensors *f, const lk_stored *t, const uint8_t *data, size_t size) {
  lk_view v;
  REQUIRE(lk_safetensors_find(f, t->name) == t);
  REQUIRE(t->bytes <= size && t->offset <= size - t->bytes);
  if (lk_safetensors_view(f, t, &v)) {
    REQUIRE(lk_error(ctx, NULL) == LK_EDTYPE);
    lk_error_clear(ctx);
    return;
  }
  REQUIRE(lk_view_bytes(&v) == t->bytes && lk_view_contiguous(&v));
  REQUIRE((uintptr_t)v.p % lk_dtype_size(v.dtype) == 0);
  REQUIRE(memcmp(v.p, data + t->offset, t->bytes) == 0);
}

static void check_file(const uint8_t *data, size_t size) {
  const char *message;
  size_t sum = 0;
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_safetensors *f = lk_safetensors_open_memory(ctx, data, size);
  lk_status status = lk_error(ctx, &message);
  REQUIRE(f ? status == LK_OK : status == LK_EFORMAT && strlen(message) > 10);
  for (size_t i = 0; i < lk_safetensors_count(f); i++) {
    check_tensor(ctx, f, lk_safetensors_at(f, i), data, size);
    sum += lk_safetensors_at(f, i)->bytes;
  }
  for (size_t i = 0; i < lk_safetensors_metadata_count(f); i++) {
    lk_metadata pair = lk_safetensors_metadata_at(f, i);
    REQUIRE(lk_safetensors_metadata(f, pair.key) == pair.value);
  }
  if (f) { /* the tensors are all of the data */
    size_t header = data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16;
    REQUIRE(sum == size - 8 - header);
  }
  lk_safetensors_close(f);
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
}

/* As it is, and again with the header's length put right, so that most inputs get as far as the tensors. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  check_file(data, size);
  size_t end = size;
  while (end > 8 && data[end - 1] != '}') end--;
  if (end <= 8) return 0;
  uint8_t *copy = malloc(size);
  REQUIRE(copy);
  memcpy(copy, data, size);
  for (int i = 0; i < 8; i++) copy[i] = (uint8_t)((uint64_t)(end - 8) >> 8 * i);
  check_file(copy, size);
  free(copy);
  return 0;
}

const char *const fuzz_words[] = {"\"dtype\":\"F32\",",
                                  "\"shape\":[2],",
                                  "\"data_offsets\":[0,8]",
                                  "\"F64\"",
                                  "\"I8\"",
                                  "\"BOOL\"",
                                  "[]",
                                  "{}",
                                  ",",
                                  "-1",
                                  "4294967296",
                                  "1.0",
                                  "\"__metadata__\":",
                                  "\\u0041",
                                  "null",
                                  NULL};

static const struct {
  const char *header;
  size_t data;
} seeds[] = {
    {"{}", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
    {"{\"__metadata__\":{\"format\":\"pt\"},\"x.weight\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1,2],\"data_offsets\":[8,16]},"
     "\"e\":{\"dtype\":\"F64\",\"shape\":[0,3],\"data_offsets\":[16,16]}}  ",
     16},
    {"{\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
     "\"f\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[3,11]},"
     "\"q\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[11,13]},"
     "\"t\":{\"dtype\":\"BOOL\",\"shape\":[1,1,1,1,1,1],\"data_offsets\":[13,14]}}",
     14},
};

size_t fuzz_seed(int i, uint8_t *to) {
  if (i >= (int)(sizeof seeds / sizeof *seeds)) return 0;
  size_t header = strlen(seeds[i].header), n = 8 + header;
  memset(to, 0, 8);
  to[0] = (uint8_t)header;
  to[1] = (uint8_t)(header >> 8);
  memcpy(to + 8, seeds[i].header, header);
  for (size_t k = 0; k < seeds[i].data; k++) to[n++] = (uint8_t)k;
  return n;
}
