/* file.c: files mapped read-only or read as text; directories. */
#include "text.h"

#include <fcntl.h>
#include <lorikeet/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BEHIND = 4096 };

static lk_status map(lk_file *f, int fd) {
  struct stat st;
  if (fstat(fd, &st)) return lk_fail_errno(f->ctx, "examine", f->path);
  if (!S_ISREG(st.st_mode)) return lk_fail(f->ctx, LK_EIO, "cannot map '%s': not a regular file", f->path);
  if ((uintmax_t)st.st_size > PTRDIFF_MAX)
    return lk_fail(f->ctx, LK_EIO, "cannot map '%s': %jd bytes do not fit into the address space", f->path,
                   (intmax_t)st.st_size);
  f->bytes = (const unsigned char *)"";
  if (!st.st_size) return LK_OK;
  /* The file lies over the beginning of a range that is longer: BLIS's kernels may read a few bytes behind a matrix. */
  f->mapped = (size_t)st.st_size + BEHIND;
  char *p = mmap(NULL, f->mapped, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return lk_fail_errno(f->ctx, "map", f->path);
  f->bytes = (const unsigned char *)p;
  if (mmap(p, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
    return lk_fail_errno(f->ctx, "map", f->path);
  f->size = (size_t)st.st_size;
  return LK_OK;
}

lk_file *lk_file_map(lk_ctx *ctx, const char *path) {
  if (!path) {
    lk_fail(ctx, LK_ENIL, "lk_file_map: path is NULL");
    return NULL;
  }
  lk_file *f = lk_alloc(ctx, sizeof *f);
  if (!f) return NULL;
  f->ctx = ctx;
  f->path = lk_strdup(ctx, path);
  if (f->path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not make us wait: map refuses it */
    if (fd < 0) lk_fail_errno(ctx, "open", path);
    else {
      map(f, fd);
      close(fd);
    }
  }
  if (!lk_error(ctx, NULL)) return f;
  lk_file_unmap(f);
  return NULL;
}

void lk_file_unmap(lk_file *f) {
  if (!f) return;
  if (f->mapped) munmap((void *)f->bytes, f->mapped);
  lk_free(f->ctx, f->path);
  lk_free(f->ctx, f);
}

void lk_file_forget(lk_file *f, size_t offset, size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), first = (offset + page - 1) / page * page;
  size_t end = offset + bytes < f->size ? (offset + bytes) / page * page : f->size;
  if (f->mapped && first < end) madvise((char *)f->bytes + first, end - first, MADV_DONTNEED); /* only advice */
}

/* Everything up to the end, if that is at most limit bytes, and a terminator. */
static lk_status read_all(lk_ctx *ctx, int fd, const char *path, size_t limit, char **text, size_t *n) {
  struct stat st;
  size_t capacity = 0, want = 0;
  if (!fstat(fd, &st) && S_ISREG(st.st_mode) && (uintmax_t)st.st_size <= limit) want = (size_t)st.st_size;
  for (;;) {
    if (want < *n) want = *n;
    if (lk_grow(ctx, text, &capacity, want + 2, 1)) return lk_error(ctx, NULL);
    ssize_t got = read(fd, *text + *n, capacity - 1 - *n);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return lk_fail_errno(ctx, "read", path);
    if (!got) break;
    *n += (size_t)got;
    if (*n > limit) return lk_fail(ctx, LK_EFORMAT, "'%s' has more than %zu bytes", path, limit);
  }
  (*text)[*n] = 0;
  const char *zero = memchr(*text, 0, *n);
  if (!zero) return LK_OK;
  return lk_fail(ctx, LK_EFORMAT, "'%s' is not text: byte %zu is zero", path, (size_t)(zero - *text));
}

char *lk_file_read_text(lk_ctx *ctx, const char *path, size_t limit, size_t *length) {
  char *text = NULL;
  size_t n = 0;
  if (length) *length = 0;
  if (!path) lk_fail(ctx, LK_ENIL, "lk_file_read_text: path is NULL");
  if (lk_error(ctx, NULL)) return NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    lk_fail_errno(ctx, "open", path);
    return NULL;
  }
  lk_status bad = read_all(ctx, fd, path, limit, &text, &n);
  close(fd);
  if (bad) {
    lk_free(ctx, text);
    return NULL;
  }
  if (length) *length = n;
  return text;
}

int lk_file_exists(const char *path) {
  struct stat st;
  return path && !stat(path, &st);
}

static lk_status make_dir(lk_ctx *ctx, const char *path) {
  struct stat st;
  if (!mkdir(path, 0777)) return LK_OK;
  if (errno != EEXIST) return lk_fail_errno(ctx, "make directory", path);
  if (stat(path, &st)) return lk_fail_errno(ctx, "examine", path);
  if (S_ISDIR(st.st_mode)) return LK_OK;
  return lk_fail(ctx, LK_EIO, "cannot make directory '%s': a file has this name", path);
}

lk_status lk_make_dirs(lk_ctx *ctx, const char *path) {
  if (!path) return lk_fail(ctx, LK_ENIL, "lk_make_dirs: path is NULL");
  char *part = lk_strdup(ctx, path);
  if (!part) return lk_error(ctx, NULL);
  lk_status bad = LK_OK;
  for (char *p = part; !bad && (p = strchr(p, '/')); p++) {
    if (p == part || p[-1] == '/') continue;
    *p = 0;
    bad = make_dir(ctx, part);
    *p = '/';
  }
  if (!bad) bad = make_dir(ctx, part);
  lk_free(ctx, part);
  return bad;
}
