/* regex.c: regular expressions on PCRE2, which only this file includes. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "regex.h"

#include <pcre2.h>
#include <string.h>

struct lk_regex {
  lk_ctx *ctx;
  lk_status bad;
  char *pattern; /* for messages */
  int flags;
  pcre2_general_context *memory;
  pcre2_compile_context *options;
  pcre2_code *code;
  pcre2_match_data *match;
};

/* PCRE2 takes its memory from the context too. */
static void *regex_alloc(size_t size, void *ctx) { return lk_alloc(ctx, size); }
static void regex_free(void *p, void *ctx) { lk_free(ctx, p); }

void lk_regex_free(lk_regex *r) {
  if (!r) return;
  pcre2_match_data_free(r->match);
  pcre2_code_free(r->code);
  pcre2_compile_context_free(r->options);
  pcre2_general_context_free(r->memory);
  lk_free(r->ctx, r->pattern);
  lk_free(r->ctx, r);
}

static void compile(lk_regex *r, const char *where, const char *pattern) {
  uint32_t options = PCRE2_UTF;
  int error;
  size_t at;
  if (r->flags & LK_REGEX_WHOLE) options |= PCRE2_ANCHORED | PCRE2_ENDANCHORED;
  if (r->flags & LK_REGEX_TEXT) options |= PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  if (r->flags & LK_REGEX_TEXT) pcre2_set_newline(r->options, PCRE2_NEWLINE_LF);
  r->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &at, r->options);
  if (!r->code && !lk_error(r->ctx, NULL)) {
    PCRE2_UCHAR text[200];
    pcre2_get_error_message(error, text, sizeof text);
    lk_fail(r->ctx, r->bad, "%spattern '%s': %s at character %zu", where, pattern, (char *)text, at + 1);
  }
}

lk_regex *lk_regex_new(lk_ctx *ctx, lk_status bad, const char *where, const char *pattern, int flags) {
  lk_regex *r = lk_alloc(ctx, sizeof *r);
  if (!r) return NULL;
  *r = (lk_regex){.ctx = ctx, .bad = bad, .flags = flags, .pattern = lk_strdup(ctx, pattern)};
  r->memory = pcre2_general_context_create(regex_alloc, regex_free, ctx);
  r->options = r->memory ? pcre2_compile_context_create(r->memory) : NULL;
  if (r->options) compile(r, where, pattern);
  r->match = r->code ? pcre2_match_data_create_from_pattern(r->code, r->memory) : NULL;
  if (r->match && !lk_error(ctx, NULL)) return r;
  lk_regex_free(r);
  return NULL;
}

int lk_regex_find(lk_regex *r, const char *s, size_t n, size_t from, size_t *start, size_t *end) {
  uint32_t options = r->flags & LK_REGEX_TEXT ? PCRE2_NO_UTF_CHECK : 0;
  int found = pcre2_match(r->code, (PCRE2_SPTR)s, n, from, options, r->match, NULL);
  if (found < 0) {
    if (found != PCRE2_ERROR_NOMATCH)
      lk_fail(r->ctx, r->bad, "pattern '%s': matching '%.*s' took too much time or memory", r->pattern,
              (int)(n < 100 ? n : 100), s);
    return 0;
  }
  const PCRE2_SIZE *place = pcre2_get_ovector_pointer(r->match);
  *start = place[0];
  *end = place[1];
  return 1;
}
