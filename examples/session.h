/* session.h: one context for each run of compare, so that memory is counted for it alone; the pretrained model that
 * all runs begin with. */
#ifndef SESSION_H
#define SESSION_H
#include "domains.h"
#include "memory.h"

typedef struct settings {
  const char *out, *preset, *adapter;
  int64_t seeds, threads, pretrain_epochs, pretrain_images;
  int exhibit; /* place among the words of --exhibit; 0: the demo */
  int quiet;
  run_source source;
  run_options train;
} settings;

typedef struct session {
  memory memory;
  lk_ctx *ctx;
  run_model model;
  domain_data data;
} session;

/* A context and in it the model, a preset or a directory.  Whatever it returns, session_close must follow. */
lk_status session_open(session *s, const settings *o, const char *model, uint64_t seed);
/* Ends a session; 0, or 1 after saying what went wrong. */
int session_close(session *s);

/* OUT/pretrained, trained on drawn digits, unless it is there already: 0, or 1 after saying what went wrong. */
int pretrain(const settings *o);
/* The directory's name in text. */
const char *pretrained(const settings *o, char *text, size_t size);

#endif
