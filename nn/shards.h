/* shards.h: the tensors of a model in one safetensors file or in several. */
#ifndef LK_SHARDS_H
#define LK_SHARDS_H
#include <lorikeet/safetensors.h>

typedef struct lk_shards {
  lk_ctx *ctx;
  lk_safetensors **file;
  int n;
} lk_shards;

lk_shards *lk_shards_open(lk_ctx *ctx, const char *path); /* one file */
/* model.safetensors, or the files that model.safetensors.index.json names. */
lk_shards *lk_shards_open_directory(lk_ctx *ctx, const char *directory);
void lk_shards_close(lk_shards *s);
/* The tensor, and the file it is in; NULL: none has it. */
const lk_stored *lk_shards_find(const lk_shards *s, const char *name, lk_safetensors **in);

#endif
