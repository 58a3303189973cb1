/* pattern.c: finding a pattern, and cutting a text where it matches. */
#include "text.h"

static int find_class(int (*is)(uint32_t), const char *s, size_t n, size_t from, size_t *start, size_t *end) {
  for (size_t i = from, k; i < n; i += k) {
    uint32_t c;
    k = lk_char_read(s + i, &c);
    if (!is(c)) continue;
    *start = i;
    *end = i + k;
    return 1;
  }
  return 0;
}

/* The first match from `from` on. */
static int find(const lk_pattern *p, const char *s, size_t n, size_t from, size_t *start, size_t *end) {
  if (p->regex) return lk_regex_find(p->regex, s, n, from, start, end);
  if (p->is) return find_class(p->is, s, n, from, start, end);
  const char *found = memmem(s + from, n - from, p->text, p->n);
  if (!found) return 0;
  *start = (size_t)(found - s);
  *end = *start + p->n;
  return 1;
}

int lk_pattern_step(const lk_pattern *p, const char *s, size_t n, lk_walk *walk) {
  size_t start, end;
  while (walk->from <= n && find(p, s, n, walk->from, &start, &end)) {
    int counts = start < end || !walk->any || end != walk->end;
    walk->from = end;
    if (start == end) walk->from += end < n ? lk_char_length(s + end) : 1;
    if (!counts) continue;
    walk->start = start;
    walk->end = end;
    walk->any = 1;
    return 1;
  }
  return 0;
}

/* ---- cutting ---- */

/* A part that may still be joined with what follows. */
typedef struct cutter {
  lk_behavior behavior;
  const char *s;
  size_t zero;
  lk_pieces *to;
  size_t start, end;
  int any, match, last; /* there is a part; it is a match; so was the last one that it is made of */
} cutter;

static void flush(cutter *c) {
  if (!c->any || c->start == c->end || (c->behavior == LK_REMOVED && c->match)) return;
  size_t zero = c->zero > c->start ? c->zero - c->start : 0, n = c->end - c->start;
  lk_piece_add(c->to, c->s + c->start, n, zero < n ? zero : n, -1);
}

static void part(cutter *c, size_t start, size_t end, int match) {
  int join = 0;
  if (c->behavior == LK_CONTIGUOUS) join = match == c->last;
  if (c->behavior == LK_MERGED_WITH_PREVIOUS) join = match && !c->last;
  if (c->behavior == LK_MERGED_WITH_NEXT) join = !match && c->last;
  if (!c->any || !join) {
    flush(c);
    c->start = start;
    c->match = match;
    c->any = 1;
  }
  c->end = end;
  c->last = match;
}

void lk_text_split(const lk_pattern *p, lk_behavior behavior, int invert, const char *s, size_t n, size_t zero,
                   lk_pieces *to) {
  cutter c = {.behavior = behavior, .s = s, .zero = zero, .to = to};
  lk_walk w = {0};
  size_t done = 0;
  for (; lk_pattern_step(p, s, n, &w); done = w.end) {
    if (done < w.start) part(&c, done, w.start, invert);
    part(&c, w.start, w.end, !invert);
  }
  if (done < n) part(&c, done, n, invert);
  flush(&c);
}
