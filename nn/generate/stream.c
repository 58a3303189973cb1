/* stream.c: the text of tokens as they come.
 *
 * How a token is written depends on its neighbours, so it is decoded behind those before it: text(before + new) minus
 * text(before).  U+FFFD at the end stands for bytes of a character that is not complete yet. */
#include <lorikeet/generate.h>
#include <string.h>

enum {
  BEFORE = 6,   /* tokens before the new ones that are decoded with them */
  WAITING = 16, /* tokens after which bytes are no beginning of a character */
};

typedef struct {
  char *p;
  size_t n, capacity;
} text;

struct lk_text_stream {
  lk_ctx *ctx;
  lk_tokenizer *k;
  char *stop;
  int stopped;
  int64_t ids[BEFORE + WAITING + 1]; /* written ones, then waiting ones */
  int64_t written, n;
  text held; /* written, and perhaps the beginning of the stop text */
  text out;
};

lk_text_stream *lk_text_stream_new(lk_ctx *ctx, lk_tokenizer *k, const char *stop) {
  if (!k) return NULL;
  lk_text_stream *s = lk_alloc(ctx, sizeof *s);
  if (!s) return NULL;
  s->ctx = ctx;
  s->k = k;
  if (stop && *stop) s->stop = lk_strdup(ctx, stop);
  if (!lk_error(ctx, NULL)) return s;
  lk_text_stream_free(s);
  return NULL;
}

void lk_text_stream_free(lk_text_stream *s) {
  if (!s) return;
  lk_free(s->ctx, s->stop);
  lk_free(s->ctx, s->held.p);
  lk_free(s->ctx, s->out.p);
  lk_free(s->ctx, s);
}

/* ---- text ---- */

static void append(lk_ctx *c, text *t, const char *from, size_t n) {
  if (lk_grow(c, &t->p, &t->capacity, t->n + n + 1, 1)) return;
  memcpy(t->p + t->n, from, n);
  t->n += n;
  t->p[t->n] = 0;
}

/* How much of the text, at its end, may be the beginning of the stop text. */
static size_t beginning(const text *t, const char *stop) {
  size_t n = strlen(stop) - 1;
  if (n > t->n) n = t->n;
  while (n && memcmp(t->p + t->n - n, stop, n)) n--;
  return n;
}

/* Gives out what was held, but for what the stop text cuts off or may cut off. */
static const char *give(lk_text_stream *s, int all) {
  s->out.n = 0;
  if (!s->held.n || lk_error(s->ctx, NULL)) return "";
  const char *found = s->stop ? strstr(s->held.p, s->stop) : NULL;
  size_t n = found ? (size_t)(found - s->held.p) : s->held.n - (s->stop && !all ? beginning(&s->held, s->stop) : 0);
  append(s->ctx, &s->out, s->held.p, n);
  if (lk_error(s->ctx, NULL)) return "";
  s->stopped = found != NULL;
  s->held.n = found ? 0 : s->held.n - n;
  memmove(s->held.p, s->held.p + n, s->held.n);
  s->held.p[s->held.n] = 0;
  return s->out.p;
}

/* ---- tokens ---- */

lk_status lk_text_stream_start(lk_text_stream *s, const int64_t *ids, int64_t n) {
  if (!s) return LK_ENIL;
  s->written = n < BEFORE ? n : BEFORE;
  s->n = s->written;
  for (int64_t i = 0; i < s->n; i++) s->ids[i] = ids[n - s->n + i];
  s->held.n = s->out.n = 0;
  s->stopped = 0;
  return lk_error(s->ctx, NULL);
}

static int is_unfinished(const char *t) {
  size_t n = strlen(t);
  return n >= 3 && !memcmp(t + n - 3, "\xEF\xBF\xBD", 3);
}

/* Where the texts part, at a character's beginning. */
static size_t common(const char *a, const char *b) {
  size_t n = 0;
  while (a[n] && a[n] == b[n]) n++;
  while (n && ((unsigned char)b[n] & 0xC0) == 0x80) n--;
  return n;
}

/* Writes the waiting tokens, unless they are unfinished and `all` is not asked for. */
static void write_waiting(lk_text_stream *s, int all) {
  char *before = lk_decode(s->k, s->ids, s->written, 1), *now = before ? lk_decode(s->k, s->ids, s->n, 1) : NULL;
  if (now && (all || !is_unfinished(now))) {
    size_t from = common(before, now);
    append(s->ctx, &s->held, now + from, strlen(now + from));
    int64_t drop = s->n > BEFORE ? s->n - BEFORE : 0;
    memmove(s->ids, s->ids + drop, (size_t)(s->n - drop) * sizeof *s->ids);
    s->written = s->n -= drop;
  }
  lk_free(s->ctx, before);
  lk_free(s->ctx, now);
}

const char *lk_text_stream_add(lk_text_stream *s, int64_t id) {
  if (!s || s->stopped || lk_error(s->ctx, NULL)) return "";
  s->ids[s->n++] = id;
  write_waiting(s, s->n - s->written >= WAITING);
  return give(s, 0);
}

const char *lk_text_stream_end(lk_text_stream *s) {
  if (!s || s->stopped || lk_error(s->ctx, NULL)) return "";
  if (s->n > s->written) write_waiting(s, 1);
  return give(s, 1);
}

int lk_text_stream_stopped(const lk_text_stream *s) { return s->stopped; }
