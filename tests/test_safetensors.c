/* test_safetensors.c: the reader and the writer of safetensors, above all what they refuse. */
#include "io_suite.h"

#include <lorikeet/io.h>

/* A file in memory: the header's length, the header, n bytes of data 0, 1, 2, ...; to be freed. */
static unsigned char *compose(const char *header, size_t n, size_t *size) {
  size_t length = strlen(header);
  *size = 8 + length + n;
  unsigned char *bytes = malloc(*size);
  ck_assert_ptr_nonnull(bytes);
  test_little_endian(bytes, length, 8);
  memcpy(bytes + 8, header, length);
  for (size_t i = 0; i < n; i++) bytes[8 + length + i] = (unsigned char)i;
  return bytes;
}

/* ---- what is refused ---- */

static const struct {
  const char *header;
  size_t data;
  const char *words[2];
} malformed[] = {
#define A "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define E(dtype, shape, offsets) "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    {"", 0, {"does not begin with '{'", ""}},
    {" {}", 0, {"does not begin with '{'", ""}},
    {"[]", 0, {"does not begin with '{'", ""}},
    {"{", 0, {"memory:1:1", "end of file"}},
    {"{} x", 0, {"end of file expected", ""}},
    {"{\"a\":\"\xFF\"}", 0, {"0xff", ""}},
    {"{\"a\xC0\xAF\":{}}", 0, {"0xc0", ""}},
    {"{\"a\\u0000b\":{}}", 0, {"\\u0000", ""}},
    {A ",\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, {"duplicate key", "\"a\""}},
    {"{\"layer.attention.query.weight\":1,\"layer.attention.query.weight\":2}",
     0,
     {"duplicate key \"layer.attention.query.weight\"", ""}},
    {"{\"\":{}}", 0, {"name is empty", ""}},
    {"{\"a\":[]}", 0, {"'a'", "must be an object, not an array"}},
    {"{\"a\":null}", 0, {"'a'", "must be an object, not null"}},
    {"{\"a\":{}}", 0, {"'a'", "has no dtype"}},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, {"'a'", "has no shape"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, {"'a'", "has no data_offsets"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"strides\":[1]}}", 8, {"'a'", "key 'strides'"}},
    {E("1", "[2]", "[0,8]"), 8, {"'a'", "dtype must be a string, not an integer"}},
    {E("\"F33\"", "[2]", "[0,8]"), 8, {"'a'", "unknown dtype 'F33'"}},
    {E("\"f32\"", "[2]", "[0,8]"), 8, {"'a'", "unknown dtype 'f32'"}},
    {E("\"F\x1b\"", "[2]", "[0,8]"), 8, {"control character", ""}},
    {E("\"F\\u001b[31m\"", "[2]", "[0,8]"), 8, {"'a'", "unknown dtype 'F?[31m'"}},
    {E("\"F32\"", "2", "[0,8]"), 8, {"'a'", "shape must be an array, not an integer"}},
    {E("\"F32\"", "[2.0]", "[0,8]"), 8, {"'a'", "shape[0] must be an integer, not a real number"}},
    {E("\"F32\"", "[1,\"2\"]", "[0,8]"), 8, {"'a'", "shape[1] must be an integer, not a string"}},
    {E("\"F32\"", "[-2]", "[0,8]"), 8, {"'a'", "shape[0] is negative: -2"}},
    {E("\"F32\"", "[1,1,1,1,1,1,2]", "[0,8]"), 8, {"'a'", "shape has 7 numbers, at most 6"}},
    {E("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8, {"'a'", "number of elements overflows"}},
    {E("\"F32\"", "[9223372036854775807]", "[0,8]"), 8, {"'a'", "number of elements overflows"}},
    {E("\"F32\"", "[9223372036854775808]", "[0,8]"), 8, {"too big integer", ""}},
    {E("\"F32\"", "[2]", "8"), 8, {"'a'", "data_offsets must be an array, not an integer"}},
    {E("\"F32\"", "[2]", "[8]"), 8, {"'a'", "must be [begin, end], not 1 numbers"}},
    {E("\"F32\"", "[2]", "[0,8,8]"), 8, {"'a'", "data_offsets has 3 numbers, at most 2"}},
    {E("\"F32\"", "[2]", "[0,8.0]"), 8, {"'a'", "data_offsets[1] must be an integer"}},
    {E("\"F32\"", "[2]", "[-8,0]"), 8, {"'a'", "data_offsets[0] is negative"}},
    {E("\"F32\"", "[2]", "[8,0]"), 8, {"'a'", "end before they begin"}},
    {E("\"F32\"", "[2]", "[0,8]"), 7, {"'a'", "beyond the 7 bytes of data"}},
    {E("\"F32\"", "[2]", "[0,9223372036854775807]"), 8, {"'a'", "beyond the 8 bytes of data"}},
    {E("\"F32\"", "[2]", "[0,7]"), 8, {"'a'", "hold 7 bytes, but dtype and shape need 8"}},
    {E("\"F64\"", "[2]", "[0,8]"), 8, {"'a'", "hold 8 bytes, but dtype and shape need 16"}},
    {E("\"F32\"", "[]", "[0,8]"), 8, {"'a'", "need 4"}},
    {E("\"F32\"", "[2]", "[0,8]"), 9, {"1 bytes at the end belong to no tensor", ""}},
    {"{}", 4, {"4 bytes at the end belong to no tensor", ""}},
    {E("\"F32\"", "[2]", "[4,12]"), 12, {"'a'", "4 bytes before data_offsets [4, 12] belong to no tensor"}},
    {A ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[7,9]}}", 9, {"'b'", "overlap tensor 'a' at [0, 8]"}},
    {A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, {"'", "overlap tensor '"}},
    {A ",\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[3,3]}}", 8, {"'b'", "overlap tensor 'a'"}},
    {A ",\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9,10]}}", 10, {"'b'", "1 bytes before"}},
    {"{\"__metadata__\":[]}", 0, {"__metadata__ must be an object, not an array", ""}},
    {"{\"__metadata__\":{\"k\":1}}", 0, {"__metadata__ 'k' must be a string, not an integer", ""}},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, {"duplicate key", "\"k\""}},
#undef A
#undef E
};

START_TEST(refuses_malformed_headers) {
  size_t n;
  unsigned char *bytes = compose(malformed[_i].header, malformed[_i].data, &n);
  ck_assert_ptr_null(lk_safetensors_open_memory(ctx, bytes, n));
  const char *message;
  lk_error(ctx, &message);
  ck_assert_msg(strstr(message, malformed[_i].words[1]) != NULL, "'%s' should say '%s'", message,
                malformed[_i].words[1]);
  expect(LK_EFORMAT, malformed[_i].words[0]);
  test_put("bad.safetensors", bytes, n);
  ck_assert_ptr_null(lk_safetensors_open(ctx, "bad.safetensors"));
  expect(LK_EFORMAT, "bad.safetensors");
  free(bytes);
}
END_TEST

START_TEST(refuses_wrong_lengths) {
  unsigned char bytes[16] = {0};
  test_put("none", bytes, 0);
  ck_assert_ptr_null(lk_safetensors_open(ctx, "none"));
  expect(LK_EFORMAT, "none: 0 bytes are too few");
  for (size_t n = 0; n < 8; n++) {
    ck_assert_ptr_null(lk_safetensors_open_memory(ctx, bytes, n));
    expect(LK_EFORMAT, "too few");
  }
  static const uint64_t lengths[] = {9, 100000000, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    test_little_endian(bytes, lengths[i], 8);
    ck_assert_ptr_null(lk_safetensors_open_memory(ctx, bytes, sizeof bytes));
    expect(LK_EFORMAT, lengths[i] > LK_SAFETENSORS_MAX_HEADER ? "more than 100000000" : "in a file of 16 bytes");
  }
  ck_assert_ptr_null(lk_safetensors_open_memory(ctx, NULL, 8));
  expect(LK_ENIL, "bytes is NULL");
  ck_assert_ptr_null(lk_safetensors_open(ctx, "missing"));
  expect(LK_EIO, "cannot open 'missing': No such file");
  ck_assert_ptr_null(lk_safetensors_open(ctx, NULL));
  expect(LK_ENIL, "path is NULL");
}
END_TEST

START_TEST(refuses_every_truncation) {
  size_t n;
  unsigned char *bytes = compose("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, &n);
  for (size_t k = 0; k < n; k++) {
    unsigned char *cut = malloc(k ? k : 1); /* so that sanitizers see a byte read too far */
    memcpy(cut, bytes, k);
    ck_assert_ptr_null(lk_safetensors_open_memory(ctx, cut, k));
    expect(LK_EFORMAT, "safetensors");
    free(cut);
  }
  free(bytes);
}
END_TEST

START_TEST(limits_names) {
  static char header[6000], name[LK_SAFETENSORS_MAX_NAME + 2];
  for (size_t extra = 0; extra < 2; extra++) {
    memset(name, 'n', LK_SAFETENSORS_MAX_NAME + extra);
    sprintf(header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", name);
    size_t n;
    unsigned char *bytes = compose(header, 0, &n);
    lk_safetensors *f = lk_safetensors_open_memory(ctx, bytes, n);
    ck_assert_int_eq(f != NULL, extra == 0);
    if (extra) expect(LK_EFORMAT, "the name has 4097 bytes");
    lk_safetensors_close(f);
    free(bytes);
  }
}
END_TEST

/* ---- what is read ---- */

START_TEST(lists_dtypes_without_a_view) {
  size_t n;
  unsigned char *bytes = compose("{\"s\":{\"dtype\":\"I16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                                 "\"q\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,1],\"data_offsets\":[4,5]},"
                                 "\"c\":{\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[5,6]},"
                                 "\"t\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[6,8]}}",
                                 8, &n);
  lk_view v;
  lk_safetensors *f = lk_safetensors_open_memory(ctx, bytes, n);
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(lk_safetensors_count(f), 4);
  ck_assert_str_eq(lk_safetensors_at(f, 0)->name, "s");
  ck_assert_str_eq(lk_safetensors_at(f, 0)->dtype, "I16");
  ck_assert_ptr_null(lk_safetensors_at(f, 4));
  ck_assert_int_eq(lk_safetensors_get(f, "s", &v), LK_EDTYPE);
  expect(LK_EDTYPE, "tensor 's': dtype I16 is not supported");
  ck_assert_int_eq(lk_safetensors_get(f, "q", &v), LK_EDTYPE);
  expect(LK_EDTYPE, "tensor 'q': dtype F8_E4M3 is not supported");
  ck_assert_int_eq(lk_safetensors_get(f, "c", &v), LK_EDTYPE);
  expect(LK_EDTYPE, "I8");
  ck_assert_int_eq(lk_safetensors_get(f, "missing", &v), LK_EARG);
  expect(LK_EARG, "has no tensor 'missing'");
  ck_assert_int_eq(lk_safetensors_get(f, "t", &v), LK_OK);
  ck_assert_int_eq(v.dtype, LK_U8);
  ck_assert_int_eq(v.shape[0], 2);
  ck_assert_int_eq(((uint8_t *)v.p)[1], 7);
  lk_safetensors_close(f);
  free(bytes);
}
END_TEST

START_TEST(copies_what_is_not_aligned) {
  size_t n;
  unsigned char *bytes = compose("{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                                 "\"b\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[3,19]}}",
                                 19, &n);
  unsigned char *room = malloc(n + 8);
  for (size_t shift = 0; shift < 8; shift++) {
    memcpy(room + shift, bytes, n);
    lk_safetensors *f = lk_safetensors_open_memory(ctx, room + shift, n);
    lk_view v, again;
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(lk_safetensors_get(f, "b", &v), LK_OK);
    ck_assert_uint_eq((uintptr_t)v.p % 8, 0);
    ck_assert_int_eq(memcmp(v.p, bytes + n - 16, 16), 0);
    const unsigned char *place = room + shift + lk_safetensors_find(f, "b")->offset;
    ck_assert_int_eq((const unsigned char *)v.p == place, (uintptr_t)place % 8 == 0);
    ck_assert_int_eq(lk_safetensors_get(f, "b", &again), LK_OK);
    ck_assert_ptr_eq(again.p, v.p);
    lk_safetensors_close(f);
  }
  free(room);
  free(bytes);
}
END_TEST

/* ---- what is written ---- */

static const int64_t sizes[] = {2, 3};

static lk_named_view named(const char *name, lk_dtype dtype, int ndim, const int64_t *shape, const void *data) {
  lk_named_view t = {.name = name};
  ck_assert_int_eq(lk_view_init(&t.view, dtype, ndim, shape), 0);
  t.view.p = (void *)data;
  return t;
}

/* What Python's safetensors 0.8.0 writes for these tensors and {"format": "pt"}. */
static const char reference_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},\"i\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
    "\"d\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[8,8]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[12,36]},"
    "\"k\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[36,44]},"
    "\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[44,46]},"
    "\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[46,49]}}    ";

START_TEST(writes_the_reference_bytes) {
  static const float a[] = {7}, b[] = {1, 4, 2, 5, 3, 6}; /* b transposed */
  static const uint8_t u[] = {1, 2, 3};
  static const int64_t i = -5;
  static const uint16_t h = 0x3E00;
  static const int32_t k[] = {3, 4};
  const int64_t none = 0, one = 1, two = 2, three = 3;
  lk_named_view t[] = {named("b", LK_F32, 2, sizes, b), named("a", LK_F32, 1, &one, a),
                       named("u", LK_U8, 1, &three, u), named("i", LK_I64, 0, NULL, &i),
                       named("h", LK_F16, 1, &one, &h), named("d", LK_F64, 1, &none, NULL),
                       named("k", LK_I32, 1, &two, k)};
  t[0].view.stride[0] = 1;
  t[0].view.stride[1] = 2;
  const lk_metadata pair = {"format", "pt"};
  ck_assert_int_eq(lk_safetensors_write(ctx, "out", t, 7, &pair, 1), LK_OK);
  size_t n, header = sizeof reference_header - 1;
  unsigned char *bytes = test_get("out", &n);
  ck_assert_uint_eq(n, 8 + header + 49);
  ck_assert_uint_eq(bytes[0] + 256u * bytes[1], header);
  ck_assert_int_eq(memcmp(bytes + 8, reference_header, header), 0);
  const float row_major[] = {1, 2, 3, 4, 5, 6};
  ck_assert_int_eq(memcmp(bytes + 8 + header, &i, 8), 0);
  ck_assert_int_eq(memcmp(bytes + 8 + header + 12, row_major, sizeof row_major), 0);
  ck_assert_int_eq(memcmp(bytes + 8 + header + 44, &h, 2), 0);
  ck_assert_int_eq(memcmp(bytes + 8 + header + 46, u, 3), 0);
  free(bytes);
}
END_TEST

/* Two files with the same tensors in another order are equal. */
START_TEST(writes_the_same_bytes_in_any_order) {
  float data[6] = {1, 2, 3, 4, 5, 6};
  lk_named_view t[3] = {named("x", LK_F32, 2, sizes, data), named("y", LK_F64, 1, sizes, (double[]){1, 2}),
                        named("\xC3\xA9", LK_F32, 1, sizes, data)};
  lk_named_view turned[3] = {t[2], t[0], t[1]};
  const lk_metadata pairs[] = {{"b", "2"}, {"a", "\xF0\x9F\x8E\xBA \"\\\n"}};
  const lk_metadata swapped[] = {pairs[1], pairs[0]};
  ck_assert_int_eq(lk_safetensors_write(ctx, "one", t, 3, pairs, 2), LK_OK);
  ck_assert_int_eq(lk_safetensors_write(ctx, "two", turned, 3, swapped, 2), LK_OK);
  size_t n, m;
  unsigned char *one = test_get("one", &n), *two = test_get("two", &m);
  ck_assert_uint_eq(n, m);
  ck_assert_int_eq(memcmp(one, two, n), 0);
  free(one);
  free(two);
  lk_safetensors *f = lk_safetensors_open(ctx, "one");
  ck_assert_ptr_nonnull(f);
  ck_assert_ptr_nonnull(lk_safetensors_find(f, "\xC3\xA9"));
  ck_assert_uint_eq(lk_safetensors_metadata_count(f), 2);
  ck_assert_str_eq(lk_safetensors_metadata_at(f, 0).key, "a");
  ck_assert_ptr_null(lk_safetensors_metadata_at(f, 2).key);
  ck_assert_str_eq(lk_safetensors_metadata(f, "a"), pairs[1].value);
  ck_assert_ptr_null(lk_safetensors_metadata(f, "c"));
  lk_safetensors_close(f);
}
END_TEST

/* Every dtype, and strides of every kind, come back element by element. */
START_TEST(round_trip) {
  static const lk_dtype dtypes[] = {LK_F32, LK_F64, LK_I64, LK_I32, LK_U8, LK_BF16, LK_F16};
  static const int64_t shape[] = {3, 4, 5};
  static const int64_t strides[][3] = {{20, 5, 1}, {1, 3, 12}, {40, 10, 2}, {0, 5, 1}, {20, 5, 0}, {5, 15, 1}};
  unsigned char data[8 * 128];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * 37 + i / 256);
  lk_named_view t = named("t", dtypes[_i], 3, shape, data);
  size_t size = lk_dtype_size(dtypes[_i]);
  for (size_t s = 0; s < sizeof strides / sizeof *strides; s++) {
    memcpy(t.view.stride, strides[s], sizeof strides[s]);
    ck_assert_int_eq(lk_safetensors_write(ctx, "t", &t, 1, NULL, 0), LK_OK);
    lk_safetensors *f = lk_safetensors_open(ctx, "t");
    lk_view v;
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(lk_safetensors_view(f, lk_safetensors_at(f, 0), &v), LK_OK);
    ck_assert_int_eq(v.dtype, dtypes[_i]);
    ck_assert(lk_view_same_shape(&v, &t.view) && lk_view_contiguous(&v));
    for (int64_t i = 0; i < 60; i++) {
      const unsigned char *want = data + (size_t)lk_view_offset(&t.view, i) * size;
      ck_assert_int_eq(memcmp((char *)v.p + (size_t)i * size, want, size), 0);
    }
    lk_safetensors_close(f);
  }
}
END_TEST

START_TEST(finds_every_name) {
  enum { N = 300 };
  static char names[N][16];
  static lk_named_view t[N];
  static float values[N];
  for (int i = 0; i < N; i++) {
    sprintf(names[i], "layer.%d.w", i * 7919 % N);
    values[i] = (float)i;
    t[i] = named(names[i], LK_F32, 0, NULL, &values[i]);
  }
  ck_assert_int_eq(lk_safetensors_write(ctx, "many", t, N, NULL, 0), LK_OK);
  lk_safetensors *f = lk_safetensors_open(ctx, "many");
  ck_assert_uint_eq(lk_safetensors_count(f), N);
  for (int i = 0; i < N; i++) {
    lk_view v;
    ck_assert_int_eq(lk_safetensors_get(f, names[i], &v), LK_OK);
    ck_assert_float_eq(*(float *)v.p, values[i]);
  }
  ck_assert_ptr_null(lk_safetensors_find(f, "layer.300.w"));
  ck_assert_ptr_null(lk_safetensors_find(f, ""));
  lk_safetensors_close(f);
}
END_TEST

START_TEST(writes_an_empty_file) {
  ck_assert_int_eq(lk_safetensors_write(ctx, "empty", NULL, 0, NULL, 0), LK_OK);
  lk_safetensors *f = lk_safetensors_open(ctx, "empty");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(lk_safetensors_count(f), 0);
  ck_assert_ptr_null(lk_safetensors_find(f, "a"));
  lk_safetensors_close(f);
}
END_TEST

START_TEST(refuses_to_write) {
  static char long_name[LK_SAFETENSORS_MAX_NAME + 2];
  memset(long_name, 'n', sizeof long_name - 1);
  float data[6] = {0};
  const lk_named_view good = named("a", LK_F32, 2, sizes, data);
  lk_named_view t[2] = {good, named("a", LK_F64, 2, sizes, data)};
  test_put("keep", "old", 3);
#define REFUSED(n, pairs, npairs, status, words)                                                                       \
  do {                                                                                                                 \
    ck_assert_int_eq(lk_safetensors_write(ctx, "keep", t, n, pairs, npairs), status);                                  \
    expect(status, words);                                                                                             \
  } while (0)
  REFUSED(2, NULL, 0, LK_EARG, "two tensors are called 'a'");
  const struct {
    const char *name, *words;
  } names[] = {{"", "is empty"}, {"__metadata__", "is reserved"}, {"\xFF", "is not UTF-8"}, {long_name, "is too long"}};
  for (size_t i = 0; i < 4; i++) {
    t[1].name = names[i].name;
    REFUSED(2, NULL, 0, LK_EARG, names[i].words);
  }
  t[1].name = NULL;
  REFUSED(2, NULL, 0, LK_ENIL, "has no name");
  t[1] = named("b", LK_F32, 2, sizes, NULL);
  REFUSED(2, NULL, 0, LK_ENIL, "tensor 'b' has no memory");
  t[1].view.dtype = (lk_dtype)99;
  REFUSED(2, NULL, 0, LK_EDTYPE, "tensor 'b' has an unknown dtype");
  t[1] = good;
  t[1].view.shape[0] = -1;
  REFUSED(2, NULL, 0, LK_ESHAPE, "tensor 'a' has an impossible shape");
  const lk_metadata twice[] = {{"k", "1"}, {"k", "2"}}, null_key = {NULL, "1"}, null_value = {"k", NULL};
  const lk_metadata bad_key = {"\xFF", "1"}, bad_value = {"k", "\xED\xA0\x80"};
  REFUSED(1, twice, 2, LK_EARG, "metadata has 'k' twice");
  REFUSED(1, &null_key, 1, LK_ENIL, "key is NULL");
  REFUSED(1, &null_value, 1, LK_ENIL, "\"k\" is NULL");
  REFUSED(1, &bad_key, 1, LK_EARG, "is not UTF-8");
  REFUSED(1, &bad_value, 1, LK_EARG, "\"k\" is not UTF-8");
#undef REFUSED
  ck_assert_int_eq(lk_safetensors_write(ctx, "no/such/place", &good, 1, NULL, 0), LK_EIO);
  expect(LK_EIO, "no/such/place");
  size_t n;
  unsigned char *bytes = test_get("keep", &n);
  ck_assert_str_eq((char *)bytes, "old");
  free(bytes);
}
END_TEST

/* A file may be replaced by what was read from it. */
START_TEST(rewrites_a_file_that_it_reads) {
  float data[6] = {1, 2, 3, 4, 5, 6};
  lk_named_view t = named("a", LK_F32, 2, sizes, data);
  ck_assert_int_eq(lk_safetensors_write(ctx, "f", &t, 1, NULL, 0), LK_OK);
  lk_safetensors *f = lk_safetensors_open(ctx, "f");
  lk_named_view again = {.name = "other"};
  ck_assert_int_eq(lk_safetensors_get(f, "a", &again.view), LK_OK);
  ck_assert_int_eq(lk_safetensors_write(ctx, "f", &again, 1, NULL, 0), LK_OK);
  ck_assert_float_eq(((float *)again.view.p)[5], 6);
  lk_safetensors_close(f);
  f = lk_safetensors_open(ctx, "f");
  ck_assert_int_eq(lk_safetensors_get(f, "other", &again.view), LK_OK);
  ck_assert_int_eq(memcmp(again.view.p, data, sizeof data), 0);
  lk_safetensors_close(f);
}
END_TEST

static lk_status story(lk_ctx *c, void *arg) {
  lk_named_view *t = arg;
  const lk_metadata pair = {"k", "v"};
  lk_view v;
  lk_safetensors_write(c, "story", t, 2, &pair, 1);
  lk_safetensors *f = lk_safetensors_open(c, "story");
  lk_safetensors_get(f, "b", &v);
  lk_safetensors_close(f);
  f = lk_safetensors_open(c, "unaligned");
  lk_safetensors_get(f, "b", &v);
  lk_safetensors_close(f);
  return lk_error(c, NULL);
}

START_TEST(survives_every_failing_allocation) {
  float data[6] = {0};
  lk_named_view t[2] = {named("a", LK_F32, 2, sizes, data), named("b", LK_U8, 2, sizes, data)};
  size_t n;
  unsigned char *bytes = compose("{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                                 "\"b\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[3,11]}}  ",
                                 11, &n);
  test_put("unaligned", bytes, n);
  free(bytes);
  uint64_t count;
  const char *why = test_each_allocation(story, t, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 20);
}
END_TEST

static Suite *suite(void) {
  Suite *s = suite_create("safetensors");
  TCase *c = add_case(s, "all");
  tcase_add_loop_test(c, refuses_malformed_headers, 0, (int)(sizeof malformed / sizeof *malformed));
  tcase_add_test(c, refuses_wrong_lengths);
  tcase_add_test(c, refuses_every_truncation);
  tcase_add_test(c, limits_names);
  tcase_add_test(c, lists_dtypes_without_a_view);
  tcase_add_test(c, copies_what_is_not_aligned);
  tcase_add_test(c, writes_the_reference_bytes);
  tcase_add_test(c, writes_the_same_bytes_in_any_order);
  tcase_add_loop_test(c, round_trip, 0, 7);
  tcase_add_test(c, finds_every_name);
  tcase_add_test(c, writes_an_empty_file);
  tcase_add_test(c, refuses_to_write);
  tcase_add_test(c, rewrites_a_file_that_it_reads);
  tcase_add_test(c, survives_every_failing_allocation);
  return s;
}

int main(void) { return run_suite(suite()); }
