/* idx.c: the reader of IDX files; the only file that includes zlib. */
#include "text.h"

#include <lorikeet/file.h>
#include <lorikeet/idx.h>
#include <zlib.h>

enum { PIECE = 1 << 30, MOST_DEFLATED = 1032 /* bytes that a compressed byte can stand for */ };

/* The element types; a view of `size` bytes an element comes out. */
static const struct type {
  int code;
  size_t size;
  lk_dtype dtype;
} types[] = {{0x08, 1, LK_U8},  {0x09, 1, LK_I32}, {0x0B, 2, LK_I32},
             {0x0C, 4, LK_I32}, {0x0D, 4, LK_F32}, {0x0E, 8, LK_F64}};
enum { TYPES = sizeof types / sizeof *types };

/* Bytes of the file, decompressed. */
typedef struct source {
  lk_ctx *ctx;
  const char *name;
  const unsigned char *p; /* not yet read, or not yet given to inflate */
  size_t left;
  int gzip, done;
  z_stream z;
} source;

static voidpf z_take(voidpf ctx, uInt count, uInt size) { return lk_alloc_array(ctx, count, size); }
static void z_give(voidpf ctx, voidpf p) { lk_free(ctx, p); }

static lk_status refuse(source *s, const char *why) { return lk_fail(s->ctx, LK_EFORMAT, "%s: %s", s->name, why); }

static lk_status open_source(source *s) {
  s->gzip = s->left >= 2 && s->p[0] == 0x1F && s->p[1] == 0x8B;
  if (!s->gzip) return LK_OK;
  s->z.zalloc = z_take;
  s->z.zfree = z_give;
  s->z.opaque = s->ctx;
  if (inflateInit2(&s->z, 15 + 16) == Z_OK) return LK_OK; /* a window of 2^15 bytes; + 16: gzip only */
  s->gzip = 0;
  return lk_fail(s->ctx, LK_ENOMEM, "%s: cannot start decompressing", s->name);
}

static void close_source(source *s) {
  if (s->gzip) inflateEnd(&s->z);
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* What a step of inflate says about the stream; 0: go on. */
static lk_status judge(source *s, int result) {
  if (result == Z_STREAM_END && !s->left && !s->z.avail_in) s->done = 1;
  else if (result == Z_STREAM_END) inflateReset(&s->z); /* another member must follow */
  else if (result == Z_BUF_ERROR) return refuse(s, "the gzip data is truncated");
  else if (result == Z_MEM_ERROR) return lk_fail(s->ctx, LK_ENOMEM, "%s: out of memory", s->name);
  else if (result != Z_OK)
    return lk_fail(s->ctx, LK_EFORMAT, "%s: damaged gzip data: %s", s->name, s->z.msg ? s->z.msg : "no reason known");
  return LK_OK;
}

/* Up to n bytes; fewer at the end, or after an error. */
static size_t pull_inflated(source *s, unsigned char *to, size_t n) {
  size_t got = 0;
  while (got < n && !s->done) {
    if (!s->z.avail_in) {
      s->z.next_in = (z_const Bytef *)s->p;
      s->z.avail_in = (uInt)smaller(s->left, PIECE);
      s->p += s->z.avail_in;
      s->left -= s->z.avail_in;
    }
    uInt room = (uInt)smaller(n - got, PIECE);
    s->z.next_out = to + got;
    s->z.avail_out = room;
    int result = inflate(&s->z, Z_NO_FLUSH);
    got += room - s->z.avail_out;
    if (judge(s, result)) break;
  }
  return got;
}

static size_t pull(source *s, void *to, size_t n) {
  if (s->gzip) return pull_inflated(s, to, n);
  n = smaller(n, s->left);
  memcpy(to, s->p, n);
  s->p += n;
  s->left -= n;
  return n;
}

static lk_status pull_all(source *s, void *to, size_t n) {
  return pull(s, to, n) == n ? LK_OK : refuse(s, "the file is shorter than its header says");
}

static uint64_t big_endian(const unsigned char *p, size_t size) {
  uint64_t v = 0;
  for (size_t i = 0; i < size; i++) v = v << 8 | p[i];
  return v;
}

static const struct type *read_header(source *s, lk_view *v) {
  unsigned char magic[4], size[4];
  int64_t shape[LK_MAXDIM];
  const struct type *type = NULL;
  if (pull_all(s, magic, 4)) return NULL;
  for (int i = 0; i < TYPES && !magic[0] && !magic[1]; i++)
    if (types[i].code == magic[2]) type = &types[i];
  if (!type || !magic[3]) {
    lk_fail(s->ctx, LK_EFORMAT, "%s: not an IDX file: it begins with %02x %02x %02x %02x", s->name, magic[0], magic[1],
            magic[2], magic[3]);
    return NULL;
  }
  if (magic[3] > LK_MAXDIM) {
    lk_fail(s->ctx, LK_EFORMAT, "%s: %d axes, at most %d are supported", s->name, magic[3], LK_MAXDIM);
    return NULL;
  }
  for (int d = 0; d < magic[3]; d++) {
    if (pull_all(s, size, 4)) return NULL;
    shape[d] = (int64_t)big_endian(size, 4);
  }
  if (!lk_view_init(v, type->dtype, magic[3], shape) && lk_view_count(v) <= LK_IDX_MAX_ELEMENTS) return type;
  lk_fail(s->ctx, LK_EFORMAT, "%s: more than %lld elements", s->name, (long long)LK_IDX_MAX_ELEMENTS);
  return NULL;
}

/* n big-endian elements to what their view holds. */
static void convert(const struct type *type, const unsigned char *from, size_t n, void *to) {
  for (size_t i = 0; i < n; i++) {
    uint64_t bits = big_endian(from + i * type->size, type->size);
    uint32_t low = (uint32_t)bits;
    if (type->code == 0x09) ((int32_t *)to)[i] = (int8_t)low;
    else if (type->code == 0x0B) ((int32_t *)to)[i] = (int16_t)low;
    else if (type->size == 8) memcpy((char *)to + 8 * i, &bits, 8);
    else memcpy((char *)to + 4 * i, &low, 4);
  }
}

static lk_status read_elements(source *s, const struct type *type, lk_view *v) {
  unsigned char piece[4096];
  size_t n = (size_t)lk_view_count(v), each = sizeof piece / type->size, size = lk_dtype_size(v->dtype);
  if (type->dtype == LK_U8) return pull_all(s, v->p, n);
  for (size_t i = 0; i < n; i += each) {
    size_t k = smaller(each, n - i);
    if (pull_all(s, piece, k * type->size)) return lk_error(s->ctx, NULL);
    convert(type, piece, k, (char *)v->p + i * size);
  }
  return LK_OK;
}

static lk_status read_source(source *s, lk_view *v) {
  unsigned char extra;
  const struct type *type = read_header(s, v);
  if (!type) return lk_error(s->ctx, NULL);
  size_t bytes = (size_t)lk_view_count(v) * type->size;
  size_t left = s->left + s->z.avail_in;
  if (bytes / (s->gzip ? MOST_DEFLATED : 1) > left) /* before memory is taken for it */
    return refuse(s, "the file is shorter than its header says");
  v->p = lk_alloc(s->ctx, lk_view_bytes(v));
  if (!v->p || read_elements(s, type, v)) return lk_error(s->ctx, NULL);
  if (pull(s, &extra, 1)) return refuse(s, "the file is longer than its header says");
  return lk_error(s->ctx, NULL); /* the end of the gzip data may be missing or its checksum wrong */
}

lk_status lk_idx_read_memory(lk_ctx *ctx, const void *bytes, size_t n, const char *name, lk_view *array) {
  memset(array, 0, sizeof *array);
  if (!bytes || !name) return lk_fail(ctx, LK_ENIL, "lk_idx_read_memory: bytes or name is NULL");
  if (lk_error(ctx, NULL)) return lk_error(ctx, NULL);
  source s = {.ctx = ctx, .name = name, .p = bytes, .left = n};
  lk_status bad = open_source(&s);
  if (!bad) bad = read_source(&s, array);
  close_source(&s);
  if (!bad) return LK_OK;
  lk_free(ctx, array->p);
  memset(array, 0, sizeof *array);
  return bad;
}

lk_status lk_idx_read(lk_ctx *ctx, const char *path, lk_view *array) {
  memset(array, 0, sizeof *array);
  lk_file *f = lk_file_map(ctx, path);
  if (!f) return lk_error(ctx, NULL);
  lk_status bad = lk_idx_read_memory(ctx, f->bytes, f->size, path, array);
  lk_file_unmap(f);
  return bad;
}

lk_status lk_idx_read_either(lk_ctx *ctx, const char *path, lk_view *array) {
  if (!path || lk_file_exists(path)) return lk_idx_read(ctx, path, array);
  memset(array, 0, sizeof *array);
  char *other = lk_sprintf(ctx, "%s.gz", path);
  if (!other) return lk_error(ctx, NULL);
  lk_status bad = lk_file_exists(other) ? lk_idx_read(ctx, other, array)
                                        : lk_fail(ctx, LK_EIO, "there is neither '%s' nor '%s'", path, other);
  lk_free(ctx, other);
  return bad;
}
