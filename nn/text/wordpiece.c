/* wordpiece.c: WordPiece: the longest token that the rest of a word begins with, again and again (Schuster and
 * Nakajima, 2012; Devlin et al., 2018). */
#include "text.h"

static size_t count_chars(const char *s, size_t n) {
  size_t count = 0;
  for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xC0) != 0x80;
  return count;
}

static void unknown(const lk_tokenizer *k, lk_run *run) {
  if (k->model.unknown_id < 0)
    lk_fail(run->ctx, LK_EARG, "a text has an unknown word, but the unknown token '%s' is not in the vocabulary",
            k->model.unknown);
  else lk_run_add(run, k->model.unknown_id);
}

static int inside_char(char c) { return ((unsigned char)c & 0xC0) == 0x80; }

/* The longest token at the beginning of s; its length goes to *length. */
static const lk_token *longest(const lk_tokenizer *k, lk_run *run, const char *s, size_t n, int first, size_t *length) {
  lk_text *t = &run->a;
  size_t most = n < k->model.vocab.longest ? n : k->model.vocab.longest;
  while (most < n && most > 0 && inside_char(s[most])) most--;
  lk_text_clear(t);
  if (!first) lk_text_add(t, k->model.prefix, k->model.nprefix);
  size_t prefix = t->n;
  lk_text_add(t, s, most);
  if (lk_error(run->ctx, NULL)) return NULL;
  for (*length = most; *length > 0;) {
    const lk_token *found = lk_vocab_find(&k->model.vocab, t->s, prefix + *length);
    if (found) return found;
    do --*length;
    while (inside_char(s[*length]));
  }
  return NULL;
}

void lk_wordpiece(const lk_tokenizer *k, lk_run *run, const char *s, size_t n) {
  size_t before = run->nids, length;
  int fits = count_chars(s, n) <= (size_t)k->model.most_chars;
  for (size_t i = 0; fits && i < n; i += length) {
    const lk_token *t = longest(k, run, s + i, n - i, i == 0, &length);
    if (t) lk_run_add(run, t->id);
    fits = t != NULL;
  }
  if (fits) return;
  run->nids = before;
  unknown(k, run);
}
