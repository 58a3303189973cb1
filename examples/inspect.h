/* inspect.h: what the parts of the program inspect share. */
#ifndef INSPECT_H
#define INSPECT_H
#include <lorikeet.h>

/* The safetensors files of a model directory; none, if it has none. */
typedef struct inspect_files {
  lk_safetensors **file;
  size_t n, capacity;
} inspect_files;

lk_status inspect_files_open(lk_ctx *c, const char *directory, inspect_files *f);
void inspect_files_close(lk_ctx *c, inspect_files *f);
/* The tensor of a parameter, under its name, without the prefix, or with it in front; NULL: there is none. */
const lk_stored *inspect_files_find(const inspect_files *f, const char *name, const char *prefix);
size_t inspect_files_bytes(const inspect_files *f); /* of all tensors */
size_t inspect_files_count(const inspect_files *f); /* tensors */

/* "1,234,567" in a buffer that the next call but three reuses. */
const char *inspect_number(int64_t n);
lk_status inspect_config(lk_ctx *c, const lk_json *config); /* plain values, a line each */
lk_status inspect_modules(lk_model *model, const inspect_files *f, const char *prefix);
lk_status inspect_tokenizer(lk_ctx *c, const char *directory);
lk_status inspect_adapter(lk_ctx *c, const char *directory);

#endif
