/* file_error.c: errors that tell the file. */
#include "model.h"

#include <stdio.h>
#include <string.h>

void lk_file_error(lk_ctx *ctx, const char *path) {
  const char *message;
  char copy[600];
  lk_status status = lk_error(ctx, &message);
  if (!status || !strncmp(message, path, strlen(path))) return;
  snprintf(copy, sizeof copy, "%s", message);
  lk_error_clear(ctx);
  lk_fail(ctx, status, "%s: %s", path, copy);
}
