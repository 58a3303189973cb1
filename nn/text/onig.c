/* onig.c: the tokenizers library matches with Oniguruma; this writes its regular expressions in PCRE2's words.
 *
 * What both read alike is copied; \s, \w, \h, \p{Script} and named classes mean other sets of characters, (?m) another
 * option; what PCRE2 has no words for is refused. */
#include "text.h"

/* What \w is: in a class; outside, where it takes some of Latin-1 for letters. */
#define LETTERS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD LETTERS "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

typedef struct translation {
  lk_text out;
  const char *where, *pattern;
  int in_class, begins; /* inside [ ]; right behind its [ or [^ */
} translation;

static void say(translation *t, const char *text) { lk_text_add(&t->out, text, strlen(text)); }

static void unsupported(translation *t, const char *at, size_t n) {
  lk_fail(t->out.ctx, LK_EFORMAT, "%spattern '%s': '%.*s' is not supported", t->where, t->pattern, (int)n, at);
}

/* A set of characters, given as what stands between [ and ]. */
static void set(translation *t, const char *inside, int negated, const char *at) {
  if (negated && t->in_class) {
    unsupported(t, at, 2);
    return;
  }
  if (!t->in_class) say(t, negated ? "[^" : "[");
  say(t, inside);
  if (!t->in_class) say(t, "]");
}

/* \p{Name}, \P{Name}, \p{^Name}: categories are called alike, scripts mean those of the Script property. */
static const char *property(translation *t, const char *p) {
  const char *name = p[2] == '{' ? p + 3 : NULL, *end = name ? strchr(name, '}') : NULL;
  if (!end) {
    unsupported(t, p, 2);
    return p + 2;
  }
  int caret = *name == '^';
  size_t n = (size_t)(end - name) - (size_t)caret;
  const char *words = n <= 2 || (n == 10 && !strncmp(name + caret, "Alphabetic", n)) ? "{" : "{sc:";
  say(t, (p[1] == 'P') != caret ? "\\P" : "\\p");
  say(t, words);
  lk_text_add(&t->out, name + caret, n);
  say(t, "}");
  return end + 1;
}

static const char *escape(translation *t, const char *p) {
  static const char alike[] = "nrtfaeAzZdDRXKxk0123456789";
  unsigned char c = (unsigned char)p[1];
  if (c == 'p' || c == 'P') return property(t, p);
  if (c == 's') say(t, "\\p{White_Space}");
  else if (c == 'S') say(t, "\\P{White_Space}");
  else if (c == 'w' || c == 'W') set(t, t->in_class ? LETTERS : WORD, c == 'W', p);
  else if (c == 'h' || c == 'H') set(t, "0-9a-fA-F", c == 'H', p);
  else if (c == 'v') say(t, "\\x0B");
  else if (c == 'b') say(t, t->in_class ? "\\x08" : "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
  else if (c == 'B' && !t->in_class) say(t, "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
  else if (c >= 0x80 || strchr(alike, c) || lk_is_punctuation(c) || c == ' ') lk_text_add(&t->out, p, c ? 2 : 1);
  else unsupported(t, p, 2);
  return p + 2 - !c;
}

/* [:name:] inside a class. */
static const char *named_class(translation *t, const char *p) {
  static const struct {
    const char *name, *set;
  } names[] = {{"[:punct:]", "\\p{P}\\p{S}"},
               {"[:space:]", "\\p{White_Space}"},
               {"[:digit:]", "\\p{Nd}"},
               {"[:alpha:]", "\\p{Alphabetic}"},
               {"[:alnum:]", "\\p{Alphabetic}\\p{Nd}"},
               {"[:upper:]", "\\p{Uppercase}"},
               {"[:lower:]", "\\p{Lowercase}"},
               {"[:xdigit:]", "0-9a-fA-F"},
               {"[:word:]", LETTERS}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    size_t n = strlen(names[i].name);
    if (strncmp(p, names[i].name, n)) continue;
    say(t, names[i].set);
    return p + n;
  }
  unsupported(t, p, strcspn(p, "]") + 1);
  return p + 1;
}

/* (?...: the options' m is "dot matches newline", PCRE2's s. */
static const char *group(translation *t, const char *p) {
  static const char *const alike[] = {"(?:", "(?=", "(?!", "(?>", "(?<", "(?#"};
  for (size_t i = 0; i < sizeof alike / sizeof *alike; i++) {
    if (strncmp(p, alike[i], 3)) continue;
    say(t, alike[i]);
    return p + 3;
  }
  size_t n = 2 + strspn(p + 2, "imx-");
  if (n == 2 || (p[n] != ':' && p[n] != ')')) {
    unsupported(t, p, n + 1);
    return p + 2;
  }
  for (size_t i = 0; i < n; i++) lk_text_add(&t->out, p[i] == 'm' ? "s" : p + i, 1);
  return p + n;
}

/* {n,m}: a + behind it repeats it once more, where PCRE2 would stop backtracking. */
static const char *interval(translation *t, const char *p) {
  size_t digits = strspn(p + 1, "0123456789,");
  if (digits && p[1 + digits] == '}' && p[2 + digits] == '+') unsupported(t, p, digits + 3);
  say(t, p[1] == ',' && digits > 1 && p[1 + digits] == '}' ? "{0" : "{");
  return p + 1;
}

static const char *inside_class(translation *t, const char *p) {
  if (*p == '[' && p[1] == ':') return named_class(t, p);
  if (*p == '[' || (*p == '&' && p[1] == '&')) {
    unsupported(t, p, *p == '[' ? 1 : 2);
    return p + 1;
  }
  if (*p == ']' && !t->begins) t->in_class = 0;
  lk_text_add(&t->out, p, 1);
  return p + 1;
}

char *lk_onig(lk_ctx *ctx, const char *where, const char *pattern) {
  translation t = {.out = {.ctx = ctx}, .where = where, .pattern = pattern};
  for (const char *p = pattern; *p && !lk_error(ctx, NULL);) {
    int opened = 0;
    if (*p == '\\') p = escape(&t, p);
    else if (t.in_class) p = inside_class(&t, p);
    else if (*p == '(' && p[1] == '?') p = group(&t, p);
    else if (*p == '{') p = interval(&t, p);
    else if (*p == '[') {
      opened = t.in_class = 1;
      say(&t, p[1] == '^' ? "[^" : "[");
      p += p[1] == '^' ? 2 : 1;
    } else lk_text_add(&t.out, p++, 1);
    t.begins = opened;
  }
  if (!*pattern) lk_text_add(&t.out, "", 1);
  if (!lk_error(ctx, NULL)) return t.out.s;
  lk_text_free(&t.out);
  return NULL;
}
