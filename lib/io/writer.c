/* writer.c: the atomic writer: a temporary file beside the target, synced, then renamed over it. */
#include "text.h"

#include <fcntl.h>
#include <limits.h>
#include <lorikeet/file.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER = 1 << 16, ATTEMPTS = 1000 };

struct lk_writer {
  lk_ctx *ctx;
  char *path, *temp; /* path: links resolved */
  int fd;            /* -1: closed */
  int there;         /* the temporary exists */
  int failed;        /* something was not written: never commit, even if the context's error was cleared */
  size_t used;
  char buffer[BUFFER];
};

/* Follows a link, so that /dev/stdout or a link to another disk is not itself replaced.  *mode: of a file that is
 * there already, else -1. */
static char *resolve(lk_ctx *ctx, const char *path, int *mode) {
  char real[PATH_MAX];
  struct stat st;
  *mode = -1;
  if (lstat(path, &st)) {
    if (errno == ENOENT && *path) return lk_strdup(ctx, path);
    lk_fail_errno(ctx, "write", path);
    return NULL;
  }
  if (!S_ISLNK(st.st_mode)) snprintf(real, sizeof real, "%s", path);
  else if (!realpath(path, real) || stat(real, &st)) {
    lk_fail_errno(ctx, "follow the link", path);
    return NULL;
  }
  if (!S_ISREG(st.st_mode)) {
    lk_fail(ctx, LK_EIO, "cannot write '%s': it is %s", path,
            S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    return NULL;
  }
  *mode = (int)(st.st_mode & 0777);
  return lk_strdup(ctx, real);
}

static lk_status make_temporary(lk_writer *w, int mode) {
  size_t size = strlen(w->path) + 40;
  w->temp = lk_alloc(w->ctx, size);
  if (!w->temp) return lk_error(w->ctx, NULL);
  for (int i = 0; i < ATTEMPTS && w->fd < 0; i++) {
    snprintf(w->temp, size, "%s.%ld.%d.tmp", w->path, (long)getpid(), i);
    w->fd = open(w->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0 && errno != EEXIST) break;
  }
  if (w->fd < 0) return lk_fail_errno(w->ctx, "create", w->temp);
  w->there = 1;
  if (mode >= 0 && fchmod(w->fd, (mode_t)mode)) return lk_fail_errno(w->ctx, "set the permissions of", w->temp);
  return LK_OK;
}

lk_writer *lk_writer_open(lk_ctx *ctx, const char *path) {
  int mode;
  if (!path) {
    lk_fail(ctx, LK_ENIL, "lk_writer_open: path is NULL");
    return NULL;
  }
  lk_writer *w = lk_alloc(ctx, sizeof *w);
  if (!w) return NULL;
  w->ctx = ctx;
  w->fd = -1;
  w->path = resolve(ctx, path, &mode);
  if (w->path && !make_temporary(w, mode)) return w;
  lk_writer_abort(w);
  return NULL;
}

static lk_status put(lk_writer *w, const char *p, size_t n) {
  while (n) {
    ssize_t done = write(w->fd, p, n < SSIZE_MAX ? n : SSIZE_MAX);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) {
      w->failed = 1;
      return lk_fail_errno(w->ctx, "write", w->temp);
    }
    p += done;
    n -= (size_t)done;
  }
  return LK_OK;
}

static lk_status flush(lk_writer *w) {
  size_t n = w->used;
  w->used = 0;
  return put(w, w->buffer, n);
}

lk_status lk_write(lk_writer *w, const void *data, size_t n) {
  if (!w) return LK_ENIL;
  lk_status bad = lk_error(w->ctx, NULL);
  if (bad) w->failed = 1;
  if (w->failed) return bad ? bad : LK_EIO;
  if (!data && n) {
    w->failed = 1;
    return lk_fail(w->ctx, LK_ENIL, "lk_write: data is NULL");
  }
  if (n > BUFFER - w->used) {
    bad = flush(w);
    if (bad) return bad;
    if (n >= BUFFER) return put(w, data, n);
  }
  if (n) memcpy(w->buffer + w->used, data, n);
  w->used += n;
  return LK_OK;
}

lk_status lk_writef(lk_writer *w, const char *format, ...) {
  char small[512], *text = small;
  va_list ap;
  if (!w) return LK_ENIL;
  va_start(ap, format);
  int n = vsnprintf(small, sizeof small, format, ap);
  va_end(ap);
  if (n >= (int)sizeof small) {
    text = lk_alloc(w->ctx, (size_t)n + 1);
    va_start(ap, format);
    if (text) vsnprintf(text, (size_t)n + 1, format, ap);
    va_end(ap);
  }
  lk_status bad = n < 0 ? lk_fail(w->ctx, LK_EARG, "lk_writef: format '%s' failed", format) : LK_OK;
  bad = lk_write(w, text, bad ? 0 : (size_t)n); /* also when there is an error: it marks the writer */
  if (text != small) lk_free(w->ctx, text);
  return bad;
}

/* The directory that the target is in, opened; -1 with an error. */
static int open_directory(lk_writer *w) {
  const char *slash = strrchr(w->path, '/');
  size_t n = slash ? (size_t)(slash - w->path) : 0;
  char *name = slash ? lk_strndup(w->ctx, w->path, n ? n : 1) : lk_strdup(w->ctx, ".");
  if (!name) return -1;
  int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) lk_fail_errno(w->ctx, "open directory", name);
  lk_free(w->ctx, name);
  return fd;
}

/* The last step: the new name, brought to the disk. */
static lk_status replace(lk_writer *w) {
  int directory = open_directory(w);
  if (directory < 0) return lk_error(w->ctx, NULL);
  lk_status bad = LK_OK;
  if (rename(w->temp, w->path)) bad = lk_fail_errno(w->ctx, "replace", w->path);
  else {
    w->there = 0;
    if (fsync(directory) && errno != EINVAL) /* EINVAL: a file system that cannot */
      bad = lk_fail_errno(w->ctx, "sync the directory of the replaced", w->path);
  }
  close(directory);
  return bad;
}

static lk_status finish(lk_writer *w) {
  lk_status bad = lk_error(w->ctx, NULL);
  if (bad) return bad;
  if (w->failed) return lk_fail(w->ctx, LK_EIO, "'%s' is not replaced: an earlier write to it failed", w->path);
  bad = flush(w);
  if (bad) return bad;
  if (fsync(w->fd)) return lk_fail_errno(w->ctx, "sync", w->temp);
  int closed = close(w->fd);
  w->fd = -1;
  if (closed) return lk_fail_errno(w->ctx, "close", w->temp);
  return replace(w);
}

lk_status lk_writer_commit(lk_writer *w) {
  if (!w) return LK_ENIL;
  lk_status bad = finish(w);
  lk_writer_abort(w);
  return bad;
}

void lk_writer_abort(lk_writer *w) {
  if (!w) return;
  if (w->fd >= 0) close(w->fd);
  if (w->there) unlink(w->temp);
  lk_free(w->ctx, w->temp);
  lk_free(w->ctx, w->path);
  lk_free(w->ctx, w);
}
