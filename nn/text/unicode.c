/* unicode.c: characters by utf8proc, which only this file includes: classes, lower case, normal forms. */
#include "text.h"

#include <utf8proc.h>

/* ---- UTF-8 ---- */

size_t lk_char_write(uint32_t c, char to[4]) {
  return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)to);
}

/* The bytes that one U+FFFD stands for: the longest beginning of a character (Unicode, section 3.9), at least one. */
static size_t broken_length(const unsigned char *p, size_t n) {
  size_t want = *p < 0xC2 || *p > 0xF4 ? 1 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4;
  unsigned least = *p == 0xE0 ? 0xA0 : *p == 0xF0 ? 0x90 : 0x80, most = *p == 0xED ? 0x9F : *p == 0xF4 ? 0x8F : 0xBF;
  size_t i = 1;
  for (; i < want && i < n && p[i] >= least && p[i] <= most; i++) {
    least = 0x80;
    most = 0xBF;
  }
  return i;
}

void lk_text_add_utf8(lk_text *t, const char *s, size_t n) {
  size_t from = 0;
  for (size_t i = 0; i < n;) {
    utf8proc_int32_t c;
    utf8proc_ssize_t k = (unsigned char)s[i] < 0x80
                             ? 1
                             : utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
    if (k > 0) {
      i += (size_t)k;
      continue;
    }
    lk_text_add(t, s + from, i - from);
    lk_text_put(t, 0xFFFD);
    i += broken_length((const unsigned char *)s + i, n - i);
    from = i;
  }
  lk_text_add(t, s + from, n - from);
}

/* ---- classes ---- */

static utf8proc_category_t category(uint32_t c) { return utf8proc_category((utf8proc_int32_t)c); }

/* Is the category one of this range? */
static int within(uint32_t c, utf8proc_category_t first, utf8proc_category_t last) {
  utf8proc_category_t is = category(c);
  return is >= first && is <= last;
}

int lk_is_space(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || within(c, UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_ZP);
}

int lk_is_other(uint32_t c) {
  if (c < 0x80) return c < ' ' || c == 0x7F;
  return within(c, UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CO) && !lk_is_newer_format(c);
}

/* (U+1CF2 and U+1CF3 have become letters.) */
int lk_is_mark(uint32_t c) {
  if (c < 0x300 || c == 0x1CF2 || c == 0x1CF3) return c >= 0x300;
  return within(c, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME) && !lk_is_newer_mark(c);
}

/* (U+1734 has become a spacing mark.) */
int lk_is_nonspacing(uint32_t c) {
  if (c < 0x300 || c == 0x1734) return c >= 0x300;
  return category(c) == UTF8PROC_CATEGORY_MN && !lk_is_newer_nonspacing(c);
}

int lk_is_numeric(uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return within(c, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO);
}

int lk_is_punctuation(uint32_t c) {
  if (c < 0x80) return c > 32 && c < 127 && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z');
  if (c == 0x166D || c == 0x111C9) return 1; /* have become a symbol and a mark */
  return within(c, UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO) && !lk_is_newer_punctuation(c);
}

/* The symbols that are Alphabetic. */
static int is_circled(uint32_t c) {
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);
}

int lk_is_word(uint32_t c) {
  utf8proc_category_t is = category(c);
  return within(c, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_NL) || is == UTF8PROC_CATEGORY_PC || c == 0x200C ||
         c == 0x200D || is_circled(c);
}

size_t lk_lowercase(uint32_t c, uint32_t to[4]) {
  to[0] = c < 0x80 ? (c >= 'A' && c <= 'Z' ? c + 32 : c) : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
  if (c != 0x130) return 1;
  to[0] = 'i'; /* the one character whose lower case is two */
  to[1] = 0x307;
  return 2;
}

/* ---- normal forms ---- */

static int combining(int32_t c) {
  int class = c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class;
  return class && lk_is_newer_mark((uint32_t)c) ? 0 : class;
}

/* Sorts each run of marks by combining class, stably, in linear time. */
static void order_marks(int32_t *c, size_t n, int32_t *scratch) {
  for (size_t i = 0, end; i < n; i = end + 1) {
    size_t place[257] = {0};
    for (end = i; end < n && combining(c[end]); end++) place[combining(c[end]) + 1]++;
    if (end - i < 2) continue;
    for (int k = 0; k < 256; k++) place[k + 1] += place[k];
    for (size_t k = i; k < end; k++) scratch[place[combining(c[k])]++] = c[k];
    memcpy(c + i, scratch, (end - i) * sizeof *c);
  }
}

/* The characters of a text, decomposed.  Their number; *list is the caller's, with room for as many again.  The first
 * *zero of them come from the first character of the original. */
static size_t decompose(const lk_text *in, int options, int32_t **list, size_t *zero) {
  size_t n = 0, capacity = 0;
  *list = NULL;
  *zero = 0;
  for (size_t i = 0; i < in->n;) {
    uint32_t c;
    int boundary = 0, first = i < in->zero;
    if (lk_grow(in->ctx, list, &capacity, 2 * (n + 32), sizeof **list)) return 0;
    i += lk_char_read(in->s + i, &c);
    if (c < 0x80 || lk_is_newer_composed(c)) (*list)[n++] = (int32_t)c;
    else n += (size_t)utf8proc_decompose_char((int32_t)c, *list + n, 32, options, &boundary);
    if (first) *zero = n;
  }
  return n;
}

static size_t compose(int32_t *c, size_t n) {
  return n ? (size_t)utf8proc_normalize_utf32(c, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE) : 0;
}

static int is_ascii(const lk_text *t) {
  for (size_t i = 0; i < t->n; i++)
    if ((unsigned char)t->s[i] >= 0x80) return 0;
  return 1;
}

void lk_text_form(lk_text *out, const lk_text *in, lk_form form) {
  int options = form == LK_NFKC || form == LK_NFKD ? UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE : UTF8PROC_DECOMPOSE;
  if (is_ascii(in)) {
    lk_text_add(out, in->s, in->n);
    out->zero = in->zero;
    return;
  }
  int32_t *c;
  size_t zero, n = decompose(in, options, &c, &zero);
  order_marks(c, n, c + n);
  if (n && (form == LK_NFC || form == LK_NFKC)) {
    memcpy(c + n, c, zero * sizeof *c);
    zero = compose(c + n, zero);
    n = compose(c, n);
  }
  for (size_t i = 0; i < n; i++) {
    lk_text_put(out, (uint32_t)c[i]);
    if (i < zero) out->zero = out->n;
  }
  lk_free(in->ctx, c);
}
