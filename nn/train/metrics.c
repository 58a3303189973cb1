/* metrics.c: a file of JSON lines, flushed line by line. */
#include <errno.h>
#include <lorikeet/json.h>
#include <lorikeet/train.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

struct lk_metrics {
  lk_ctx *ctx;
  char *path;
  FILE *file;
  lk_json *line; /* the object being made; NULL between lines */
};

static lk_status refused(const lk_metrics *m, const char *what) {
  return lk_fail(m->ctx, LK_EIO, "%s: cannot %s: %s", m->path, what, strerror(errno));
}

/* Cuts off a last line that has no end. */
static lk_status drop_partial_line(const lk_metrics *m) {
  if (fseek(m->file, 0, SEEK_END) != 0) return refused(m, "seek");
  long size = ftell(m->file), end = size;
  for (; end > 0; end--) {
    if (fseek(m->file, end - 1, SEEK_SET) != 0) return refused(m, "seek");
    int c = fgetc(m->file);
    if (c == EOF) return refused(m, "read");
    if (c == '\n') break;
  }
  if (end == size) return LK_OK;
  if (ftruncate(fileno(m->file), end) != 0) return refused(m, "remove the incomplete last line");
  lk_warn(m->ctx, "%s: removed an incomplete last line of %ld bytes", m->path, size - end);
  return LK_OK;
}

lk_metrics *lk_metrics_open(lk_ctx *ctx, const char *path, int append) {
  lk_metrics *m = lk_alloc(ctx, sizeof *m);
  if (!m) return NULL;
  m->ctx = ctx;
  m->path = lk_strdup(ctx, path);
  if (m->path) {
    m->file = fopen(path, append ? "a+e" : "we");
    if (!m->file) refused(m, "open");
    else if (append) drop_partial_line(m);
  }
  if (lk_error(ctx, NULL) == LK_OK) return m;
  lk_metrics_close(m);
  return NULL;
}

/* The object of this line, begun if need be; NULL on error. */
static lk_json *line(lk_metrics *m) {
  if (!m->line) m->line = lk_json_object(m->ctx);
  return m->line;
}

lk_status lk_metrics_int(lk_metrics *m, const char *key, int64_t value) {
  if (!m) return LK_ENIL;
  if (!line(m)) return lk_error(m->ctx, NULL);
  return lk_json_set_int(m->ctx, m->line, key, value);
}

lk_status lk_metrics_real(lk_metrics *m, const char *key, double value) {
  if (!m) return LK_ENIL;
  if (!line(m)) return lk_error(m->ctx, NULL);
  if (!isfinite(value)) return lk_json_set_null(m->ctx, m->line, key);
  return lk_json_set_real(m->ctx, m->line, key, value);
}

lk_status lk_metrics_string(lk_metrics *m, const char *key, const char *value) {
  if (!m) return LK_ENIL;
  if (!line(m)) return lk_error(m->ctx, NULL);
  return lk_json_set_string(m->ctx, m->line, key, value);
}

lk_status lk_metrics_end(lk_metrics *m) {
  if (!m) return LK_ENIL;
  char *text = line(m) ? lk_json_dump(m->ctx, m->line, LK_JSON_COMPACT) : NULL;
  lk_json_free(m->line);
  m->line = NULL;
  if (!text) return lk_error(m->ctx, NULL);
  if (fprintf(m->file, "%s\n", text) < 0 || fflush(m->file) != 0) refused(m, "write");
  lk_free(m->ctx, text);
  return lk_error(m->ctx, NULL);
}

lk_status lk_metrics_close(lk_metrics *m) {
  if (!m) return LK_OK;
  lk_ctx *ctx = m->ctx;
  if (m->file && fclose(m->file) != 0) refused(m, "close");
  lk_json_free(m->line);
  lk_free(ctx, m->path);
  lk_free(ctx, m);
  return lk_error(ctx, NULL);
}
