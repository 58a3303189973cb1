/* text.h: UTF-8 for progress lines, tables and charts: how many columns, where to cut. */
#ifndef LK_TEXT_H
#define LK_TEXT_H
#include <stddef.h>

/* Code points; one column each. */
static inline int lk_text_columns(const char *s) {
  int n = 0;
  for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
  return n;
}

/* Bytes of the first `columns` code points. */
static inline size_t lk_text_bytes(const char *s, int columns) {
  size_t i = 0;
  for (; s[i]; i++)
    if (((unsigned char)s[i] & 0xC0) != 0x80 && columns-- <= 0) break;
  return i;
}

#endif
