/* reader.h: what the two files of the safetensors reader share. */
#ifndef LK_IO_READER_H
#define LK_IO_READER_H
#include "text.h"

#include <lorikeet/file.h>
#include <lorikeet/json.h>
#include <lorikeet/safetensors.h>

enum { LK_UNSUPPORTED = -1 };

/* The dtypes of the format whose elements are whole bytes, and what a view of them is. */
typedef struct lk_stored_kind {
  const char *name;
  size_t size;
  int dtype; /* lk_dtype, or LK_UNSUPPORTED: listed, but without a view */
} lk_stored_kind;

typedef struct lk_entry {
  lk_stored stored; /* first: a pointer to it is one to the entry */
  const lk_stored_kind *kind;
  size_t begin, end; /* within the data */
  void *copy;        /* of data that the file does not align; NULL until asked for */
} lk_entry;

struct lk_safetensors {
  lk_ctx *ctx;
  char *name;    /* the path, for messages */
  lk_file *file; /* NULL: the caller's memory */
  const unsigned char *bytes;
  size_t size, data;      /* data: where it begins */
  lk_json *header;        /* names and metadata point into it */
  lk_entry *entries;      /* in the header's order */
  const lk_entry **names; /* the same, by name */
  size_t count;
  lk_metadata *metadata;
  size_t nmetadata;
};

/* Reads and checks the header in f->bytes; fills data, header, entries, names (sorted) and metadata. */
lk_status lk_safetensors_load(lk_safetensors *f);
int lk_entry_by_name(const void *a, const void *b); /* for qsort and bsearch over f->names */

#endif
