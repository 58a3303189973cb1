/* pretokenize.c: the pre-tokenizers cut a text into the pieces that the model sees. */
#include "text.h"

/* ---- the alphabet of byte-level vocabularies (GPT-2): printable bytes are themselves, others 256, 257, ... ---- */

uint32_t lk_byte_char(unsigned char byte) {
  if (byte <= 32) return 256u + byte;
  if (byte >= 127 && byte <= 160) return 289u + byte - 127u;
  return byte == 173 ? 323 : byte;
}

int lk_char_byte(uint32_t c) {
  if (c < 256) return lk_byte_char((unsigned char)c) == c ? (int)c : -1;
  if (c < 289) return (int)c - 256;
  return c < 323 ? (int)c - 289 + 127 : c == 323 ? 173 : -1;
}

/* GPT-2's cut (Radford et al., 2019). */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* ---- splitting ---- */

static void split(const lk_step *s, lk_run *run, const char *text, size_t n, size_t zero) {
  lk_text_split(&s->pattern, (lk_behavior)s->behavior, s->invert, text, n, zero, &run->to);
}

static void byte_level(const lk_step *s, lk_run *run, const char *text, size_t n, size_t zero) {
  lk_pieces *to = &run->to;
  size_t first = to->n;
  if (s->prepend && *text != ' ') {
    lk_text_clear(&run->a);
    lk_text_add(&run->a, " ", 1);
    lk_text_add(&run->a, text, n);
    text = run->a.s;
    zero += zero > 0;
    n = run->a.n;
  }
  if (lk_error(run->ctx, NULL)) return;
  size_t at = to->text.n;
  if (s->pattern.regex) lk_text_split(&s->pattern, LK_ISOLATED, 0, text, n, zero, to);
  else lk_piece_add(to, text, n, zero, -1);
  /* The pieces' bytes, which lie behind each other, in the alphabet. */
  lk_text_clear(&run->b);
  lk_text_add(&run->b, to->text.s + at, to->text.n - at);
  to->text.n = at;
  for (size_t i = first, k = 0; i < to->n && !lk_error(run->ctx, NULL); i++) {
    lk_piece *p = &to->p[i];
    size_t end = k + p->n, was_zero = k + p->zero;
    p->at = to->text.n;
    for (p->zero = 0; k < end; k++) {
      lk_text_put(&to->text, lk_byte_char((unsigned char)run->b.s[k]));
      if (k < was_zero) p->zero = to->text.n - p->at;
    }
    p->n = to->text.n - p->at;
  }
}

enum { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

static void metaspace(const lk_step *s, lk_run *run, const char *text, size_t n, size_t zero) {
  lk_text *t = &run->a;
  lk_text_clear(t);
  int there = *text == ' ' || (n >= s->n && !memcmp(text, s->text, s->n));
  if (!there && (s->prepend == PREPEND_ALWAYS || (s->prepend == PREPEND_FIRST && zero))) lk_text_add(t, s->text, s->n);
  for (size_t i = 0; i < n; i++) {
    if (text[i] == ' ') lk_text_add(t, s->text, s->n);
    else lk_text_add(t, text + i, 1);
    if (i < zero) t->zero = t->n;
  }
  if (lk_error(run->ctx, NULL)) return;
  if (s->split_words) lk_text_split(&s->pattern, LK_MERGED_WITH_NEXT, 0, t->s, t->n, t->zero, &run->to);
  else lk_piece_add(&run->to, t->s, t->n, t->zero, -1);
}

void lk_pre_tokenize(const lk_steps *steps, lk_run *run) {
  for (size_t i = 0; i < steps->n && !lk_error(run->ctx, NULL); i++) {
    const lk_step *s = &steps->step[i];
    lk_pieces_clear(&run->to);
    for (size_t k = 0; k < run->from.n; k++) {
      const lk_piece *p = &run->from.p[k];
      const char *text = run->from.text.s + p->at;
      if (p->id >= 0) lk_piece_add(&run->to, text, p->n, p->zero, p->id);
      else s->split(s, run, text, p->n, p->zero);
    }
    lk_run_swap(run);
  }
}

/* ---- reading ---- */

static const char *const behaviors[] = {"Removed",        "Isolated",   "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous", NULL};

static void add_class(lk_reader *r, lk_steps *steps, int (*is)(uint32_t c), lk_behavior behavior) {
  lk_step_add(r, steps, (lk_step){.split = split, .pattern = {.is = is}, .behavior = (int)behavior});
}

static void read_bert(lk_reader *r, const lk_json *j, lk_steps *steps) {
  (void)j;
  add_class(r, steps, lk_is_space, LK_REMOVED);
  add_class(r, steps, lk_is_punctuation, LK_ISOLATED);
}

static lk_regex *own_regex(lk_reader *r, const char *pattern) {
  char *text = lk_onig(r->ctx, "", pattern);
  lk_regex *regex = text ? lk_regex_new(r->ctx, LK_EFORMAT, "", text, LK_REGEX_TEXT) : NULL;
  lk_free(r->ctx, text);
  return regex;
}

static void read_byte_level(lk_reader *r, const lk_json *j, lk_steps *steps) {
  lk_step s = {.split = byte_level, .prepend = lk_field_flag(r, j, "add_prefix_space", 1)};
  if (lk_field_flag(r, j, "use_regex", 1)) s.pattern.regex = own_regex(r, GPT2);
  lk_step_add(r, steps, s);
}

/* Files of before 2024 say add_prefix_space instead of prepend_scheme. */
static void read_metaspace(lk_reader *r, const lk_json *j, lk_steps *steps) {
  static const char *const schemes[] = {"never", "first", "always", NULL};
  char c[5] = "";
  lk_step s = {.split = metaspace};
  lk_char_write(lk_field_char(r, j, "replacement", 0x2581), c);
  s.text = lk_field_copy(r, c, &s.n);
  s.pattern.text = lk_field_copy(r, c, &s.pattern.n);
  s.prepend = lk_field_word(r, j, "prepend_scheme", schemes, PREPEND_ALWAYS);
  s.split_words = lk_field_flag(r, j, "split", 1);
  if (!lk_field_flag(r, j, "add_prefix_space", 1) && s.prepend != PREPEND_NEVER)
    lk_refuse(r, "add_prefix_space", "false, but prepend_scheme is '%s'", schemes[s.prepend]);
  lk_step_add(r, steps, s);
}

static void read_split(lk_reader *r, const lk_json *j, lk_steps *steps) {
  lk_step s = {.split = split};
  lk_field_pattern(r, j, "pattern", &s.pattern);
  s.behavior = lk_field_word(r, j, "behavior", behaviors, -1);
  s.invert = lk_field_flag(r, j, "invert", 0);
  lk_step_add(r, steps, s);
}

static int is_outside_words(uint32_t c) { return !lk_is_word(c); }

/* \w+|[^\w\s]+: runs of letters and runs of others, without white space. */
static void read_whitespace(lk_reader *r, const lk_json *j, lk_steps *steps) {
  (void)j;
  add_class(r, steps, lk_is_space, LK_REMOVED);
  add_class(r, steps, is_outside_words, LK_CONTIGUOUS);
}

static void read_whitespace_split(lk_reader *r, const lk_json *j, lk_steps *steps) {
  (void)j;
  add_class(r, steps, lk_is_space, LK_REMOVED);
}

static void read_punctuation(lk_reader *r, const lk_json *j, lk_steps *steps) {
  add_class(r, steps, lk_is_punctuation, (lk_behavior)lk_field_word(r, j, "behavior", behaviors, LK_ISOLATED));
}

static void read_digits(lk_reader *r, const lk_json *j, lk_steps *steps) {
  add_class(r, steps, lk_is_numeric, lk_field_flag(r, j, "individual_digits", 0) ? LK_ISOLATED : LK_CONTIGUOUS);
}

const lk_step_kind lk_pre_tokenizer_kinds[] = {{"BertPreTokenizer", read_bert},
                                               {"ByteLevel", read_byte_level},
                                               {"Metaspace", read_metaspace},
                                               {"Split", read_split},
                                               {"Whitespace", read_whitespace},
                                               {"WhitespaceSplit", read_whitespace_split},
                                               {"Punctuation", read_punctuation},
                                               {"Digits", read_digits},
                                               {NULL, NULL}};
