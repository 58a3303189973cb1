/* decode.c: tokens to text: the decoders. */
#include "text.h"

/* Each decoder makes a new list of texts of a list of texts. */

static const char *text_of(const lk_pieces *list, size_t i) { return list->text.s + list->p[i].at; }

static int begins_with(const char *s, size_t n, const char *prefix, size_t k) {
  return n >= k && !memcmp(s, prefix, k);
}

/* ---- WordPiece ---- */

/* Appends the text with every `what` replaced. */
static void replaced(lk_text *out, const char *s, size_t n, const char *what, const char *with) {
  lk_pattern p = {.text = (char *)what, .n = strlen(what)};
  size_t done = 0;
  for (lk_walk w = {0}; lk_pattern_step(&p, s, n, &w); done = w.end) {
    lk_text_add(out, s + done, w.start - done);
    lk_text_add(out, with, strlen(with));
  }
  lk_text_add(out, s + done, n - done);
}

/* Spaces before punctuation and English abbreviations go. */
static void clean_up(lk_text *t, lk_text *other) {
  static const char *const pairs[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                         {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                         {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    lk_text_clear(other);
    if (t->n) replaced(other, t->s, t->n, pairs[i][0], pairs[i][1]);
    lk_text swap = *t;
    *t = *other;
    *other = swap;
  }
}

static void wordpiece(const lk_step *s, const lk_pieces *from, lk_pieces *to) {
  lk_text t = {.ctx = from->text.ctx}, other = t;
  for (size_t i = 0; i < from->n && !lk_error(t.ctx, NULL); i++) {
    const char *token = text_of(from, i);
    size_t n = from->p[i].n, cut = 0;
    lk_text_clear(&t);
    if (i > 0 && begins_with(token, n, s->text, s->n)) cut = s->n;
    else if (i > 0) lk_text_add(&t, " ", 1);
    lk_text_add(&t, token + cut, n - cut);
    if (s->cleanup) clean_up(&t, &other);
    lk_piece_add(to, t.s, t.n, 0, -1);
  }
  lk_text_free(&t);
  lk_text_free(&other);
}

/* ---- bytes ---- */

/* A token whose characters all stand for bytes gives these, another one its own. */
static void add_bytes_of(lk_text *out, const char *s, size_t n) {
  size_t before = out->n;
  for (size_t i = 0; i < n;) {
    uint32_t c;
    i += lk_char_read(s + i, &c);
    int byte = lk_char_byte(c);
    if (byte < 0) {
      out->n = before;
      lk_text_add(out, s, n);
      return;
    }
    lk_text_add(out, &(char){(char)byte}, 1);
  }
}

static void byte_level(const lk_step *s, const lk_pieces *from, lk_pieces *to) {
  (void)s;
  lk_text bytes = {.ctx = from->text.ctx}, text = bytes;
  for (size_t i = 0; i < from->n; i++) add_bytes_of(&bytes, text_of(from, i), from->p[i].n);
  lk_text_add_utf8(&text, bytes.s, bytes.n);
  if (!lk_error(text.ctx, NULL)) lk_piece_add(to, text.s, text.n, 0, -1);
  lk_text_free(&bytes);
  lk_text_free(&text);
}

/* The value of <0x41>; -1 for other tokens. */
static int fallback_byte(const char *s, size_t n) {
  static const char digits[] = "0123456789abcdef0123456789ABCDEF";
  const char *high = n == 6 && s[3] ? strchr(digits, s[3]) : NULL, *low = n == 6 && s[4] ? strchr(digits, s[4]) : NULL;
  if (!high || !low || strncmp(s, "<0x", 3) || s[5] != '>') return -1;
  return (int)((high - digits) % 16 * 16 + (low - digits) % 16);
}

static int is_utf8(const char *s, size_t n, lk_ctx *ctx) {
  lk_text t = {.ctx = ctx};
  lk_text_add_utf8(&t, s, n);
  int same = t.n == n && (!n || !memcmp(t.s, s, n));
  lk_text_free(&t);
  return same;
}

/* Bytes that wait are one text, or a U+FFFD each if they are no UTF-8. */
static void flush_bytes(lk_text *bytes, lk_pieces *to) {
  if (bytes->n && is_utf8(bytes->s, bytes->n, bytes->ctx)) lk_piece_add(to, bytes->s, bytes->n, 0, -1);
  else
    for (size_t i = 0; i < bytes->n; i++) lk_piece_add(to, "\xEF\xBF\xBD", 3, 0, -1);
  lk_text_clear(bytes);
}

static void byte_fallback(const lk_step *s, const lk_pieces *from, lk_pieces *to) {
  (void)s;
  lk_text bytes = {.ctx = from->text.ctx};
  for (size_t i = 0; i < from->n; i++) {
    int byte = fallback_byte(text_of(from, i), from->p[i].n);
    if (byte >= 0) {
      lk_text_add(&bytes, &(char){(char)byte}, 1);
      continue;
    }
    flush_bytes(&bytes, to);
    lk_piece_add(to, text_of(from, i), from->p[i].n, 0, -1);
  }
  flush_bytes(&bytes, to);
  lk_text_free(&bytes);
}

/* ---- characters ---- */

static void metaspace(const lk_step *s, const lk_pieces *from, lk_pieces *to) {
  lk_text t = {.ctx = from->text.ctx};
  for (size_t i = 0; i < from->n && !lk_error(t.ctx, NULL); i++) {
    const char *token = text_of(from, i);
    lk_text_clear(&t);
    for (size_t j = 0, k; j < from->p[i].n; j += k) {
      uint32_t c;
      k = lk_char_read(token + j, &c);
      if (c != s->replacement) lk_text_add(&t, token + j, k);
      else if (i > 0 || !s->prepend) lk_text_add(&t, " ", 1);
    }
    lk_piece_add(to, t.s, t.n, 0, -1);
  }
  lk_text_free(&t);
}

static void replace(const lk_step *s, const lk_pieces *from, lk_pieces *to) {
  lk_text t = {.ctx = from->text.ctx};
  for (size_t i = 0; i < from->n && !lk_error(t.ctx, NULL); i++) {
    const char *token = text_of(from, i);
    size_t done = 0, n = from->p[i].n;
    lk_text_clear(&t);
    for (lk_walk w = {0}; n && lk_pattern_step(&s->pattern, token, n, &w); done = w.end) {
      lk_text_add(&t, token + done, w.start - done);
      lk_text_add(&t, s->text, s->n);
    }
    lk_text_add(&t, token + done, n - done);
    lk_piece_add(to, t.s, t.n, 0, -1);
  }
  lk_text_free(&t);
}

/* Up to `left` and `right` of one character go at the two ends of each text. */
static void strip(const lk_step *s, const lk_pieces *from, lk_pieces *to) {
  for (size_t i = 0; i < from->n; i++) {
    const char *token = text_of(from, i);
    size_t n = from->p[i].n;
    for (int left = s->left; left > 0 && begins_with(token, n, s->text, s->n); left--) token += s->n, n -= s->n;
    for (int right = s->right; right > 0 && n >= s->n && !memcmp(token + n - s->n, s->text, s->n); right--) n -= s->n;
    lk_piece_add(to, token, n, 0, -1);
  }
}

static void fuse(const lk_step *s, const lk_pieces *from, lk_pieces *to) {
  (void)s;
  lk_piece_add(to, from->text.s, from->text.n, 0, -1);
}

/* The suffix that ends a word is a space, at the end nothing. */
static void bpe(const lk_step *s, const lk_pieces *from, lk_pieces *to) {
  lk_text t = {.ctx = from->text.ctx};
  for (size_t i = 0; i < from->n && !lk_error(t.ctx, NULL); i++) {
    lk_text_clear(&t);
    if (from->p[i].n) replaced(&t, text_of(from, i), from->p[i].n, s->text, i + 1 < from->n ? " " : "");
    lk_piece_add(to, t.s, t.n, 0, -1);
  }
  lk_text_free(&t);
}

/* ---- reading ---- */

static void read_wordpiece(lk_reader *r, const lk_json *j, lk_steps *steps) {
  lk_step s = {.decode = wordpiece, .cleanup = lk_field_flag(r, j, "cleanup", 1)};
  s.text = lk_field_copy(r, lk_field_text(r, j, "prefix", "##"), &s.n);
  lk_step_add(r, steps, s);
}

static void read_byte_level(lk_reader *r, const lk_json *j, lk_steps *steps) {
  (void)j;
  lk_step_add(r, steps, (lk_step){.decode = byte_level});
}

static void read_byte_fallback(lk_reader *r, const lk_json *j, lk_steps *steps) {
  (void)j;
  lk_step_add(r, steps, (lk_step){.decode = byte_fallback});
}

static void read_fuse(lk_reader *r, const lk_json *j, lk_steps *steps) {
  (void)j;
  lk_step_add(r, steps, (lk_step){.decode = fuse});
}

static void read_metaspace(lk_reader *r, const lk_json *j, lk_steps *steps) {
  static const char *const schemes[] = {"never", "first", "always", NULL};
  lk_step s = {.decode = metaspace, .replacement = lk_field_char(r, j, "replacement", 0x2581)};
  s.prepend = lk_field_word(r, j, "prepend_scheme", schemes, 2);
  lk_step_add(r, steps, s);
}

static void read_replace(lk_reader *r, const lk_json *j, lk_steps *steps) {
  lk_step s = {.decode = replace};
  lk_field_pattern(r, j, "pattern", &s.pattern);
  s.text = lk_field_copy(r, lk_need_text(r, j, "content"), &s.n);
  lk_step_add(r, steps, s);
}

static void read_strip(lk_reader *r, const lk_json *j, lk_steps *steps) {
  char c[5] = "";
  lk_char_write(lk_field_char(r, j, "content", 0), c);
  lk_step s = {.decode = strip,
               .left = (int)lk_field_int(r, j, "start", 0, INT32_MAX, -1),
               .right = (int)lk_field_int(r, j, "stop", 0, INT32_MAX, -1)};
  s.text = lk_field_copy(r, c, &s.n);
  lk_step_add(r, steps, s);
}

static void read_bpe(lk_reader *r, const lk_json *j, lk_steps *steps) {
  lk_step s = {.decode = bpe};
  const char *suffix = lk_field_text(r, j, "suffix", "</w>");
  if (!*suffix) lk_refuse(r, "suffix", "is empty");
  s.text = lk_field_copy(r, suffix, &s.n);
  lk_step_add(r, steps, s);
}

const lk_step_kind lk_decoder_kinds[] = {
    {"WordPiece", read_wordpiece}, {"ByteLevel", read_byte_level}, {"ByteFallback", read_byte_fallback},
    {"Fuse", read_fuse},           {"Metaspace", read_metaspace},  {"Replace", read_replace},
    {"Strip", read_strip},         {"BPEDecoder", read_bpe},       {NULL, NULL}};
