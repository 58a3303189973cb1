/* file.h: files: mapped for reading, read as text, replaced atomically.
 *
 * Errors carry the path and the system's reason (LK_EIO); what a file contains is never an LK_EIO. */
#ifndef LORIKEET_FILE_H
#define LORIKEET_FILE_H
#include <lorikeet/ctx.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A regular file, mapped read-only: writing to bytes ends the process.  So does reading them after another program
 * has truncated the file; replacing it (by rename, as the writer below does) is harmless. */
typedef struct lk_file {
  lk_ctx *ctx;
  char *path;
  const unsigned char *bytes; /* never NULL, page-aligned if size > 0 */
  size_t size;
  size_t mapped; /* of the range in memory, which goes on with zeros behind the file */
} lk_file;

/* Maps a file; NULL on error (also for directories, pipes and devices).  An empty file has size 0. */
LK_API lk_file *lk_file_map(lk_ctx *ctx, const char *path);
LK_API void lk_file_unmap(lk_file *f); /* f may be NULL */
/* These bytes will not be read soon: the system may take their memory back, and reads the file again if they are. */
LK_API void lk_file_forget(lk_file *f, size_t offset, size_t bytes);

/* The whole file as a string of the caller's (lk_free); its length goes to *length unless that is NULL.  NULL on
 * error, also when it has more than `limit` bytes or contains a zero byte (LK_EFORMAT). */
LK_API char *lk_file_read_text(lk_ctx *ctx, const char *path, size_t limit, size_t *length);
LK_API int lk_file_exists(const char *path); /* of any kind; 0 for NULL */
/* Makes a directory and its parents, as mkdir -p does; fine if it is there already. */
LK_API lk_status lk_make_dirs(lk_ctx *ctx, const char *path);

/* ---- atomic writer ----
 * Writes to a temporary file "<path>.<pid>.<number>.tmp" beside the target; commit brings it to the disk (fsync) and
 * renames it, so that at every moment, power failures included, the target is the old file or the new one, complete.
 * After any error the target is as it was and the temporary is gone.  (Two exceptions: a killed process leaves its
 * temporary behind, to be deleted; and if the directory cannot be synced after the rename, the new file is there
 * and the error says so.)  A symbolic link is followed; an existing file keeps its permissions. */
typedef struct lk_writer lk_writer;

/* NULL on error: no such directory, the target is a directory or a device, ... */
LK_API lk_writer *lk_writer_open(lk_ctx *ctx, const char *path);
/* Appends n bytes (buffered).  After an error, and for a NULL writer, nothing is written and the status is an error,
 * so it is enough to look at commit's. */
LK_API lk_status lk_write(lk_writer *w, const void *data, size_t n);
LK_API lk_status lk_writef(lk_writer *w, const char *format, ...) LK_PRINTF(2, 3);
/* Replaces the target and frees the writer.  If the context has an error, whoever recorded it, this aborts instead
 * and returns that error: a file is never made of values that could not be computed. */
LK_API lk_status lk_writer_commit(lk_writer *w);
/* Gives up: the target stays as it was.  Frees the writer; w may be NULL. */
LK_API void lk_writer_abort(lk_writer *w);

#ifdef __cplusplus
}
#endif
#endif
