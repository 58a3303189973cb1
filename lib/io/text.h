/* text.h: what the files of io/ share: wording of errors, and UTF-8. */
#ifndef LK_IO_TEXT_H
#define LK_IO_TEXT_H
#include <errno.h>
#include <lorikeet/ctx.h>
#include <string.h>

/* "cannot open 'path': No such file or directory" from errno. */
static inline lk_status lk_fail_errno(lk_ctx *ctx, const char *what, const char *path) {
  return lk_fail(ctx, LK_EIO, "cannot %s '%s': %s", what, path, strerror(errno));
}

#define LK_SHOWN 120

/* A string from a file as a message may show it: without control characters, cut if long; returns the buffer. */
static inline const char *lk_shown(const char *text, char buffer[LK_SHOWN]) {
  size_t n = 0;
  for (; text[n] && n < LK_SHOWN - 4; n++) {
    unsigned char c = (unsigned char)text[n];
    buffer[n] = c < 32 || c == 127 ? '?' : text[n];
  }
  strcpy(buffer + n, text[n] ? "..." : "");
  return buffer;
}

/* The next character of UTF-8 text, *s moves on; -1 if it is malformed (surrogates, overlong forms and values above
 * 10FFFF included), then *s stays. */
static inline long lk_utf8_next(const char **s) {
  static const long least[] = {0, 0, 0x80, 0x800, 0x10000};
  const unsigned char *p = (const unsigned char *)*s;
  int n = *p < 0x80 ? 1 : *p < 0xC2 ? 0 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : *p < 0xF5 ? 4 : 0;
  if (!n) return -1;
  long c = n == 1 ? *p : *p & (0x7F >> n);
  for (int i = 1; i < n; i++) {
    if ((p[i] & 0xC0) != 0x80) return -1;
    c = c << 6 | (p[i] & 0x3F);
  }
  if (c < least[n] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return -1;
  *s += n;
  return c;
}

static inline int lk_utf8_valid(const char *s) {
  while (*s)
    if (lk_utf8_next(&s) < 0) return 0;
  return 1;
}

#endif
