/* json_dump.c: JSON values as text, byte for byte as Python's json.dumps writes them. */
#include "text.h"

#include <lorikeet/file.h>
#include <lorikeet/json.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct output {
  lk_ctx *ctx;
  char *p;
  size_t n, capacity;
  int flags;
} output;

/* Appends; after an error (kept in the context) the text no longer matters. */
static void put(output *t, const char *s, size_t n) {
  if (lk_grow(t->ctx, &t->p, &t->capacity, t->n + n + 1, 1)) return;
  memcpy(t->p + t->n, s, n);
  t->n += n;
}

static void put_text(output *t, const char *s) { put(t, s, strlen(s)); }

static void put_string(output *t, const char *s) {
  static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
  char buffer[16];
  put(t, "\"", 1);
  while (*s) {
    const char *from = s, *special;
    long c = lk_utf8_next(&s);
    if (c < 0) s++; /* cannot be: values hold valid UTF-8 only */
    else if (c < 128 && (special = strchr(plain, (int)c))) {
      char pair[2] = {'\\', escaped[special - plain]};
      put(t, pair, 2);
    } else if (c >= 32 && c < 127) put(t, from, 1);
    else if (c < 0x10000) put(t, buffer, (size_t)snprintf(buffer, sizeof buffer, "\\u%04lx", c));
    else {
      unsigned long high = 0xD7C0 + ((unsigned long)c >> 10), low = 0xDC00 + ((unsigned long)c & 0x3FF);
      put(t, buffer, (size_t)snprintf(buffer, sizeof buffer, "\\u%04lx\\u%04lx", high, low));
    }
  }
  put(t, "\"", 1);
}

/* Adds one to the last digit of "-d.ddde+xx"; 0 if the first digit overflows. */
static int round_up(char *e) {
  for (char *p = strchr(e, 'e') - 1; p >= e; p--) {
    if (*p < '0' || *p > '9') continue;
    if (*p < '9') return ++*p;
    *p = '0';
  }
  return 0;
}

/* The fewest digits that read back to the same bits, laid out as Python's repr does: with an exponent below 1e-4
 * and from 1e16.  printf's and strtod's decimal point, which depend on the locale, never show. */
static void put_real(output *t, double x) {
  char e[40], digits[20], exponent[8];
  int n = 0;
  for (int precision = 0; precision < 17; precision++) {
    snprintf(e, sizeof e, "%.*e", precision, x);
    if (strtod(e, NULL) == x) break;
    if (round_up(e) && strtod(e, NULL) == x) break; /* the doubles above a power of two lie wider than below */
  }
  char *p = e;
  for (; *p != 'e'; p++)
    if (*p >= '0' && *p <= '9') digits[n++] = *p;
  int power = atoi(p + 1);
  if (*e == '-') put(t, "-", 1);
  if (power < -4 || power >= 16) {
    put(t, digits, 1);
    if (n > 1) put(t, ".", 1);
    put(t, digits + 1, (size_t)n - 1);
    put(t, exponent, (size_t)snprintf(exponent, sizeof exponent, "e%+03d", power));
    return;
  }
  int lead = power < 0 ? -power : 0;     /* zeros before the first digit */
  int whole = power < 0 ? 1 : power + 1; /* digits before the point; at least one follows it */
  for (int i = 0; i < lead + n || i <= whole; i++) {
    if (i == whole) put(t, ".", 1);
    put(t, i >= lead && i - lead < n ? digits + i - lead : "0", 1);
  }
}

static void put_value(output *t, const lk_json *j, int depth);

static void put_break(output *t, int depth) {
  if (t->flags & LK_JSON_COMPACT) return;
  put(t, "\n", 1);
  for (int i = 0; i < depth; i++) put(t, "  ", 2);
}

/* An element of an array or, with its key, of an object. */
static void put_item(output *t, const char *key, const lk_json *j, int first, int depth) {
  if (!first) put(t, ",", 1);
  put_break(t, depth);
  if (key) {
    put_string(t, key);
    put_text(t, t->flags & LK_JSON_COMPACT ? ":" : ": ");
  }
  put_value(t, j, depth);
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void put_object(output *t, const lk_json *j, int depth) {
  size_t n = lk_json_count(j), i = 0;
  const char **keys = lk_alloc_array(t->ctx, n, sizeof *keys);
  if (!keys) return;
  void *at = NULL;
  while (i < n && lk_json_next(j, &at, &keys[i])) i++;
  if (t->flags & LK_JSON_SORTED) qsort(keys, n, sizeof *keys, by_text);
  for (i = 0; i < n; i++) put_item(t, keys[i], lk_json_get(j, keys[i]), i == 0, depth + 1);
  lk_free(t->ctx, keys);
}

static void put_value(output *t, const lk_json *j, int depth) {
  lk_json_kind kind = lk_json_type(j);
  char number[24];
  const char *s = NULL;
  int64_t i = 0;
  double x = 0;
  int truth = 0;
  if (lk_json_is_string(j, &s)) put_string(t, s);
  else if (lk_json_is_bool(j, &truth)) put_text(t, truth ? "true" : "false");
  else if (lk_json_is_int(j, &i)) put(t, number, (size_t)snprintf(number, sizeof number, "%lld", (long long)i));
  else if (lk_json_is_real(j, &x)) put_real(t, x);
  else if (kind == LK_JSON_NULL) put_text(t, "null");
  else {
    put_text(t, kind == LK_JSON_OBJECT ? "{" : "[");
    if (kind == LK_JSON_OBJECT) put_object(t, j, depth);
    else
      for (size_t k = 0; k < lk_json_count(j); k++) put_item(t, NULL, lk_json_at(j, k), k == 0, depth + 1);
    if (lk_json_count(j)) put_break(t, depth);
    put_text(t, kind == LK_JSON_OBJECT ? "}" : "]");
  }
}

char *lk_json_dump(lk_ctx *ctx, const lk_json *j, int flags) {
  output t = {ctx, NULL, 0, 0, flags};
  if (!j) lk_fail(ctx, LK_ENIL, "lk_json_dump: the value is NULL");
  if (lk_error(ctx, NULL)) return NULL;
  put_value(&t, j, 0);
  if (lk_error(ctx, NULL)) {
    lk_free(ctx, t.p);
    return NULL;
  }
  t.p[t.n] = 0;
  return t.p;
}

lk_status lk_json_write(lk_ctx *ctx, const char *path, const lk_json *j, int flags) {
  char *text = lk_json_dump(ctx, j, flags);
  if (!text) return lk_error(ctx, NULL);
  lk_writer *w = lk_writer_open(ctx, path);
  lk_write(w, text, strlen(text));
  lk_write(w, "\n", 1);
  lk_writer_commit(w);
  lk_free(ctx, text);
  return lk_error(ctx, NULL);
}
