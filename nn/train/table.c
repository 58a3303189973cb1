/* table.c: text in columns that line up. */
#include "text.h"

#include <errno.h>
#include <lorikeet/train.h>
#include <stdarg.h>
#include <string.h>

enum { GAP = 2 };

struct lk_table {
  lk_ctx *ctx;
  size_t columns, count, capacity;
  char **cell; /* titles first; a rule is a row of NULL */
};

/* Takes text, which may be NULL for a rule. */
static lk_status push(lk_table *t, char *text) {
  if (lk_grow(t->ctx, &t->cell, &t->capacity, t->count + 1, sizeof *t->cell) != 0) {
    lk_free(t->ctx, text);
    return lk_error(t->ctx, NULL);
  }
  t->cell[t->count++] = text;
  return LK_OK;
}

lk_status lk_table_cell(lk_table *t, const char *format, ...) {
  char small[256];
  va_list args;
  if (!t) return LK_ENIL;
  va_start(args, format);
  int n = vsnprintf(small, sizeof small, format, args);
  va_end(args);
  char *text = n >= 0 ? lk_alloc(t->ctx, (size_t)n + 1) : NULL;
  if (n < 0) return lk_fail(t->ctx, LK_EARG, "table: the format \"%s\" failed", format);
  if (!text) return lk_error(t->ctx, NULL);
  va_start(args, format);
  vsnprintf(text, (size_t)n + 1, format, args);
  va_end(args);
  return push(t, text);
}

lk_status lk_table_rule(lk_table *t) {
  if (!t) return LK_ENIL;
  if (t->count % t->columns != 0)
    return lk_fail(t->ctx, LK_EARG, "table: a rule after %zu of %zu cells of a row", t->count % t->columns, t->columns);
  for (size_t c = 0; c < t->columns; c++)
    if (push(t, NULL) != LK_OK) return lk_error(t->ctx, NULL);
  return LK_OK;
}

lk_table *lk_table_new(lk_ctx *ctx, int columns, const char *const *titles) {
  if (columns < 1) {
    lk_fail(ctx, LK_EARG, "table: %d columns", columns);
    return NULL;
  }
  lk_table *t = lk_alloc(ctx, sizeof *t);
  if (!t) return NULL;
  t->ctx = ctx;
  t->columns = (size_t)columns;
  for (int c = 0; c < columns; c++) lk_table_cell(t, "%s", titles[c]);
  if (lk_table_rule(t) == LK_OK) return t;
  lk_table_free(t);
  return NULL;
}

void lk_table_free(lk_table *t) {
  if (!t) return;
  for (size_t i = 0; i < t->count; i++) lk_free(t->ctx, t->cell[i]);
  lk_free(t->ctx, t->cell);
  lk_free(t->ctx, t);
}

/* 1: a number; 0: neither; -1: a word. */
static int is_number(const char *s) {
  if (!*s || strcmp(s, "-") == 0) return 0;
  if (strncmp(s, "\xE2\x88\x92", 3) == 0) s += 3; /* the minus sign U+2212 */
  else s += *s == '-' || *s == '+';
  s += *s == '.';
  return (*s >= '0' && *s <= '9') || strncmp(s, "nan", 3) == 0 || strncmp(s, "inf", 3) == 0 ? 1 : -1;
}

typedef struct column {
  int width, right;
} column;

static void measure(const lk_table *t, column *c) {
  for (size_t k = 0; k < t->columns; k++) {
    int words = 0, numbers = 0;
    for (size_t i = k; i < t->count; i += t->columns) {
      if (!t->cell[i]) continue;
      int width = lk_text_columns(t->cell[i]), kind = i < t->columns ? 0 : is_number(t->cell[i]);
      if (width > c[k].width) c[k].width = width;
      words += kind < 0;
      numbers += kind > 0;
    }
    c[k].right = numbers > 0 && words == 0;
  }
}

static char *repeat(char *to, char what, int n) {
  memset(to, what, (size_t)n);
  return to + n;
}

/* One cell, with the gap before it; the blanks behind it only if another cell follows. */
static char *put_cell(char *to, const char *text, column c, int first, int last) {
  int blank = text ? c.width - lk_text_columns(text) : 0;
  to = repeat(to, ' ', first ? 0 : GAP);
  if (!text) return repeat(to, '-', c.width);
  if (c.right) to = repeat(to, ' ', blank);
  to = stpcpy(to, text);
  return c.right || last ? to : repeat(to, ' ', blank);
}

char *lk_table_text(const lk_table *t) {
  if (!t) return NULL;
  size_t bytes = 1, rows = (t->count + t->columns - 1) / t->columns;
  column *c = lk_alloc_array(t->ctx, t->columns, sizeof *c);
  if (!c) return NULL;
  measure(t, c);
  for (size_t k = 0; k < t->columns; k++) bytes += rows * (size_t)(c[k].width + GAP);
  for (size_t i = 0; i < t->count; i++) bytes += t->cell[i] ? strlen(t->cell[i]) : 0;
  char *text = lk_alloc(t->ctx, bytes + rows), *to = text;
  for (size_t i = 0; text && i < t->count; i++) {
    int last = (i + 1) % t->columns == 0 || i + 1 == t->count;
    to = put_cell(to, t->cell[i], c[i % t->columns], i % t->columns == 0, last);
    if (last) *to++ = '\n';
  }
  lk_free(t->ctx, c);
  return text;
}

lk_status lk_table_print(const lk_table *t, FILE *to) {
  if (!t) return LK_ENIL;
  char *text = lk_table_text(t);
  if (!text) return lk_error(t->ctx, NULL);
  if (fputs(text, to) == EOF || fflush(to) != 0) lk_fail(t->ctx, LK_EIO, "table: cannot write: %s", strerror(errno));
  lk_free(t->ctx, text);
  return lk_error(t->ctx, NULL);
}
