/* regex.h: regular expressions, by PCRE2, whose memory is the context's. */
#ifndef LK_REGEX_H
#define LK_REGEX_H
#include <lorikeet/ctx.h>

typedef struct lk_regex lk_regex;

enum {
  LK_REGEX_WHOLE = 1, /* a match is of the whole subject */
  LK_REGEX_TEXT = 2   /* Unicode classes, ^ and $ at every line, "." is all but \n; subjects are valid UTF-8 */
};

/* NULL on error (bad, whose sentence begins with `where` and names the pattern). */
lk_regex *lk_regex_new(lk_ctx *ctx, lk_status bad, const char *where, const char *pattern, int flags);
void lk_regex_free(lk_regex *r); /* r may be NULL */
/* The first match that begins at `from` or behind it: 1 with its bytes from *start to *end, 0 for none or an error. */
int lk_regex_find(lk_regex *r, const char *s, size_t n, size_t from, size_t *start, size_t *end);

#endif
