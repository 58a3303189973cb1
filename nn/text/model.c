/* model.c: reading the model section: the vocabulary, and the merges of BPE. */
#include "text.h"

#include <stdio.h>

static void read_vocab(lk_reader *r, const lk_json *j) {
  lk_vocab *v = &r->k->model.vocab;
  const lk_json *vocab = lk_need(r, j, "vocab", LK_JSON_OBJECT), *value;
  if (!vocab) return;
  lk_vocab_room(v, lk_json_count(vocab));
  void *at = NULL;
  const char *text;
  while (!lk_error(r->ctx, NULL) && (value = lk_json_next(vocab, &at, &text))) {
    int64_t id;
    if (!lk_json_is_int(value, &id) || id < 0 || id > INT32_MAX) lk_refuse(r, "vocab", "the id of '%s' is wrong", text);
    else lk_vocab_add(v, text, strlen(text), (int32_t)id);
  }
  if (!lk_error(r->ctx, NULL)) lk_vocab_sort(v);
}

static int32_t id_of(const lk_model_text *m, const char *s, size_t n) {
  const lk_token *t = lk_vocab_find(&m->vocab, s, n);
  return t ? t->id : -1;
}

static void copy_text(lk_reader *r, const lk_json *j, const char *key, const char *fallback, char **text, size_t *n) {
  const char *found = lk_field_text(r, j, key, fallback);
  *n = found ? strlen(found) : 0;
  *text = found ? lk_strdup(r->ctx, found) : NULL;
}

static void read_wordpiece(lk_reader *r, const lk_json *j) {
  lk_model_text *m = &r->k->model;
  size_t n;
  m->encode = lk_wordpiece;
  read_vocab(r, j);
  copy_text(r, j, "unk_token", "[UNK]", &m->unknown, &n);
  copy_text(r, j, "continuing_subword_prefix", "##", &m->prefix, &m->nprefix);
  m->most_chars = lk_field_int(r, j, "max_input_chars_per_word", 0, INT32_MAX, 100);
  if (!lk_error(r->ctx, NULL)) m->unknown_id = id_of(m, m->unknown, n);
}

/* ---- BPE ---- */

/* A merge as "a b" or ["a", "b"]; 0 if it is neither.  Lines with a version number are no merges. */
static int read_pair(const lk_json *j, const char *part[2], size_t n[2], int *version) {
  const char *line, *space;
  if (lk_json_is_string(j, &line)) {
    *version = !strncmp(line, "#version", 8);
    space = strchr(line, ' ');
    if (!space || strchr(space + 1, ' ')) return *version;
    part[0] = line;
    n[0] = (size_t)(space - line);
    part[1] = space + 1;
    n[1] = strlen(space + 1);
    return 1;
  }
  *version = 0;
  if (lk_json_count(j) != 2) return 0;
  for (size_t i = 0; i < 2; i++) {
    if (!lk_json_is_string(lk_json_at(j, i), &part[i])) return 0;
    n[i] = strlen(part[i]);
  }
  return 1;
}

static void read_merge(lk_reader *r, const char *const part[2], const size_t n[2], size_t line, uint32_t rank) {
  lk_model_text *m = &r->k->model;
  lk_text joined = {.ctx = r->ctx};
  int32_t left = id_of(m, part[0], n[0]), right = id_of(m, part[1], n[1]), id = -1;
  if (n[1] >= m->nprefix) {
    lk_text_add(&joined, part[0], n[0]);
    lk_text_add(&joined, part[1] + m->nprefix, n[1] - m->nprefix);
    if (joined.s) id = id_of(m, joined.s, joined.n);
  }
  if (left < 0 || right < 0 || id < 0)
    lk_refuse(r, "merges", "number %zu, '%.*s' and '%.*s', is of a token that is not in the vocabulary", line,
              (int)(n[0] < 60 ? n[0] : 60), part[0], (int)(n[1] < 60 ? n[1] : 60), part[1]);
  else lk_merges_put(&m->merges, (lk_merge){(uint64_t)left << 32 | (uint32_t)right, rank, id});
  lk_text_free(&joined);
}

static void read_merges(lk_reader *r, const lk_json *j) {
  const lk_json *list = lk_need(r, j, "merges", LK_JSON_ARRAY);
  size_t count = lk_json_count(list);
  uint32_t rank = 0;
  if (!list || lk_merges_room(r->ctx, &r->k->model.merges, count)) return;
  for (size_t i = 0; i < count && !lk_error(r->ctx, NULL); i++) {
    const char *part[2];
    size_t n[2];
    int version;
    if (!read_pair(lk_json_at(list, i), part, n, &version)) lk_refuse(r, "merges", "number %zu is not a pair", i);
    else if (!version) read_merge(r, part, n, i, rank++);
  }
}

/* Tokens of single bytes and characters, which are asked for most. */
static void list_letters(lk_model_text *m) {
  char s[8];
  for (uint32_t c = 0; c < 512; c++) m->letter[c] = id_of(m, s, lk_char_write(c, s));
  for (int b = 0; b < 256; b++) {
    snprintf(s, sizeof s, "<0x%02X>", (unsigned)b);
    m->byte[b] = id_of(m, s, 6);
  }
}

static void read_bpe(lk_reader *r, const lk_json *j) {
  lk_model_text *m = &r->k->model;
  const lk_json *dropout = lk_json_get(j, "dropout");
  double p = 0;
  size_t n;
  m->encode = lk_bpe;
  if (lk_json_type(dropout) > LK_JSON_NULL && (!lk_json_is_real(dropout, &p) || p != 0))
    lk_refuse(r, "dropout", "only null and 0 are supported");
  m->fuse_unknown = lk_field_flag(r, j, "fuse_unk", 0);
  m->byte_fallback = lk_field_flag(r, j, "byte_fallback", 0);
  m->ignore_merges = lk_field_flag(r, j, "ignore_merges", 0);
  copy_text(r, j, "unk_token", NULL, &m->unknown, &n);
  copy_text(r, j, "continuing_subword_prefix", "", &m->prefix, &m->nprefix);
  copy_text(r, j, "end_of_word_suffix", "", &m->suffix, &m->nsuffix);
  read_vocab(r, j);
  read_merges(r, j);
  if (lk_error(r->ctx, NULL)) return;
  m->unknown_id = m->unknown ? id_of(m, m->unknown, n) : -1;
  list_letters(m);
}

/* Older files do not name the model's type. */
void lk_read_model(lk_reader *r, const lk_json *j) {
  if (lk_json_type(j) != LK_JSON_OBJECT) {
    lk_refuse(r, NULL, "must be an object, not %s", lk_json_kind_name(lk_json_type(j)));
    return;
  }
  const char *guess = lk_json_get(j, "merges")                     ? "BPE"
                      : lk_json_get(j, "max_input_chars_per_word") ? "WordPiece"
                                                                   : NULL;
  const char *type = lk_field_text(r, j, "type", guess);
  if (type && !strcmp(type, "BPE")) read_bpe(r, j);
  else if (type && !strcmp(type, "WordPiece")) read_wordpiece(r, j);
  else if (type) lk_refuse(r, "type", "'%s' is not supported, only WordPiece and BPE are", type);
  else lk_refuse(r, "type", "is missing");
}
