/* normalize.c: the normalizers. */
#include "text.h"

/* ---- of each character ---- */

static size_t lowercase(uint32_t c, uint32_t to[4]) { return lk_lowercase(c, to); }

static size_t without_marks(uint32_t c, uint32_t to[4]) {
  to[0] = c;
  return !lk_is_mark(c);
}

static size_t without_accents(uint32_t c, uint32_t to[4]) {
  to[0] = c;
  return !lk_is_nonspacing(c);
}

/* BERT's: no control characters, every white space a space. */
static size_t clean(uint32_t c, uint32_t to[4]) {
  to[0] = lk_is_space(c) ? ' ' : c;
  return c == '\t' || c == '\n' || c == '\r' || (c != 0 && c != 0xFFFD && !lk_is_other(c));
}

static int is_chinese(uint32_t c) {
  static const uint32_t ranges[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
                                       {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  for (size_t i = 0; c >= 0x3400 && i < sizeof ranges / sizeof *ranges; i++)
    if (c >= ranges[i][0] && c <= ranges[i][1]) return 1;
  return 0;
}

static size_t space_chinese(uint32_t c, uint32_t to[4]) {
  int wide = is_chinese(c);
  to[0] = to[2] = ' ';
  to[wide] = c;
  return wide ? 3 : 1;
}

/* The rules of the Nmt normalizer (Google's machine translation). */
static size_t nmt(uint32_t c, uint32_t to[4]) {
  static const uint32_t spaces[] = {0x9, 0xA, 0xC, 0xD, 0x1680, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD};
  to[0] = c >= 0x200B && c <= 0x200F ? ' ' : c;
  for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
    if (c == spaces[i]) to[0] = ' ';
  int control = (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
  return !control;
}

static size_t bytes(uint32_t c, uint32_t to[4]) {
  char s[4];
  size_t n = lk_char_write(c, s);
  for (size_t i = 0; i < n; i++) to[i] = lk_byte_char((unsigned char)s[i]);
  return n;
}

static void each_character(const lk_step *s, const lk_text *in, lk_text *out) {
  for (size_t i = 0, k; i < in->n; i += k) {
    uint32_t c, to[4];
    k = lk_char_read(in->s + i, &c);
    size_t n = s->map(c, to);
    for (size_t j = 0; j < n; j++) lk_text_put(out, to[j]);
    if (i < in->zero) out->zero = out->n;
  }
}

/* ---- of the whole text ---- */

static void form(const lk_step *s, const lk_text *in, lk_text *out) { lk_text_form(out, in, (lk_form)s->behavior); }

/* Copies a part as it is. */
static void keep(const lk_text *in, size_t from, size_t to, lk_text *out) {
  if (from < in->zero) out->zero = out->n + (in->zero < to ? in->zero : to) - from;
  lk_text_add(out, in->s + from, to - from);
}

static void strip(const lk_step *s, const lk_text *in, lk_text *out) {
  size_t start = 0, end = in->n;
  uint32_t c;
  for (size_t k; s->left && start < end && (k = lk_char_read(in->s + start, &c), lk_is_space(c));) start += k;
  while (s->right && end > start) {
    size_t last = end - 1;
    while (last > start && ((unsigned char)in->s[last] & 0xC0) == 0x80) last--;
    lk_char_read(in->s + last, &c);
    if (!lk_is_space(c)) break;
    end = last;
  }
  keep(in, start, end, out);
}

static void replace(const lk_step *s, const lk_text *in, lk_text *out) {
  size_t done = 0;
  for (lk_walk w = {0}; lk_pattern_step(&s->pattern, in->s, in->n, &w); done = w.end) {
    keep(in, done, w.start, out);
    lk_text_add(out, s->text, s->n);
    if (w.end <= in->zero) out->zero = out->n;
  }
  keep(in, done, in->n, out);
}

static void prepend(const lk_step *s, const lk_text *in, lk_text *out) {
  if (in->n) lk_text_add(out, s->text, s->n);
  out->zero = in->zero ? out->n + in->zero : 0;
  lk_text_add(out, in->s, in->n);
}

const lk_text *lk_normalize(const lk_steps *steps, const lk_text *in, lk_text *a, lk_text *b) {
  for (size_t i = 0; i < steps->n; i++) {
    lk_text *out = in == a ? b : a;
    lk_text_clear(out);
    if (in->n) steps->step[i].normalize(&steps->step[i], in, out);
    in = out;
  }
  return in;
}

/* ---- reading ---- */

static void add_map(lk_reader *r, lk_steps *steps, size_t (*map)(uint32_t c, uint32_t to[4])) {
  lk_step_add(r, steps, (lk_step){.normalize = each_character, .map = map});
}

static void add_form(lk_reader *r, lk_steps *steps, lk_form which) {
  lk_step_add(r, steps, (lk_step){.normalize = form, .behavior = (int)which});
}

static void read_bert(lk_reader *r, const lk_json *j, lk_steps *steps) {
  int lower = lk_field_flag(r, j, "lowercase", 1);
  if (lk_field_flag(r, j, "clean_text", 1)) add_map(r, steps, clean);
  if (lk_field_flag(r, j, "handle_chinese_chars", 1)) add_map(r, steps, space_chinese);
  if (lk_field_flag(r, j, "strip_accents", lower)) {
    add_form(r, steps, LK_NFD);
    add_map(r, steps, without_accents);
  }
  if (lower) add_map(r, steps, lowercase);
}

static void read_nfc(lk_reader *r, const lk_json *j, lk_steps *steps) { (void)j, add_form(r, steps, LK_NFC); }
static void read_nfd(lk_reader *r, const lk_json *j, lk_steps *steps) { (void)j, add_form(r, steps, LK_NFD); }
static void read_nfkc(lk_reader *r, const lk_json *j, lk_steps *steps) { (void)j, add_form(r, steps, LK_NFKC); }
static void read_nfkd(lk_reader *r, const lk_json *j, lk_steps *steps) { (void)j, add_form(r, steps, LK_NFKD); }
static void read_lowercase(lk_reader *r, const lk_json *j, lk_steps *steps) { (void)j, add_map(r, steps, lowercase); }
static void read_accents(lk_reader *r, const lk_json *j, lk_steps *steps) { (void)j, add_map(r, steps, without_marks); }
static void read_nmt(lk_reader *r, const lk_json *j, lk_steps *steps) { (void)j, add_map(r, steps, nmt); }
static void read_bytes(lk_reader *r, const lk_json *j, lk_steps *steps) { (void)j, add_map(r, steps, bytes); }

static void read_strip(lk_reader *r, const lk_json *j, lk_steps *steps) {
  lk_step_add(r, steps,
              (lk_step){.normalize = strip,
                        .left = lk_field_flag(r, j, "strip_left", 1),
                        .right = lk_field_flag(r, j, "strip_right", 1)});
}

static void read_replace(lk_reader *r, const lk_json *j, lk_steps *steps) {
  lk_step s = {.normalize = replace};
  lk_field_pattern(r, j, "pattern", &s.pattern);
  s.text = lk_field_copy(r, lk_need_text(r, j, "content"), &s.n);
  lk_step_add(r, steps, s);
}

static void read_prepend(lk_reader *r, const lk_json *j, lk_steps *steps) {
  lk_step s = {.normalize = prepend};
  s.text = lk_field_copy(r, lk_need_text(r, j, "prepend"), &s.n);
  lk_step_add(r, steps, s);
}

const lk_step_kind lk_normalizer_kinds[] = {{"BertNormalizer", read_bert},
                                            {"NFC", read_nfc},
                                            {"NFD", read_nfd},
                                            {"NFKC", read_nfkc},
                                            {"NFKD", read_nfkd},
                                            {"Lowercase", read_lowercase},
                                            {"StripAccents", read_accents},
                                            {"Strip", read_strip},
                                            {"Replace", read_replace},
                                            {"Prepend", read_prepend},
                                            {"Nmt", read_nmt},
                                            {"ByteLevel", read_bytes},
                                            {NULL, NULL}};
