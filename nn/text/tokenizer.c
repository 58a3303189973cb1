/* tokenizer.c: a tokenizer.json as a whole: opening, tokens by id and text, decoding. */
#include "text.h"

#include <lorikeet/file.h>
#include <stdio.h>

/* ---- opening ---- */

static const lk_json *section(lk_reader *r, const lk_json *root, const char *name) {
  snprintf(r->where, sizeof r->where, "%s", name);
  return lk_error(r->ctx, NULL) ? NULL : lk_json_get(root, name);
}

/* The model comes first: added tokens take the ids behind its vocabulary, and the normalizers' form. */
static void read_all(lk_reader *r, const lk_json *root) {
  lk_tokenizer *k = r->k;
  const char *version = lk_field_text(r, root, "version", "1.0");
  if (strcmp(version, "1.0")) lk_refuse(r, "version", "'%s' is not supported, only '1.0' is", version);
  const lk_json *model = section(r, root, "model");
  if (!lk_error(r->ctx, NULL)) lk_read_model(r, model);
  lk_read_steps(r, section(r, root, "normalizer"), "normalizers", lk_normalizer_kinds, &k->normalizers);
  lk_read_steps(r, section(r, root, "pre_tokenizer"), "pretokenizers", lk_pre_tokenizer_kinds, &k->pre_tokenizers);
  const lk_json *decoder = section(r, root, "decoder");
  k->has_decoder = lk_json_type(decoder) > LK_JSON_NULL;
  lk_read_steps(r, decoder, "decoders", lk_decoder_kinds, &k->decoders);
  lk_read_added(r, section(r, root, "added_tokens"));
  lk_read_processor(r, section(r, root, "post_processor"));
  lk_read_truncation(r, section(r, root, "truncation"));
  lk_read_padding(r, section(r, root, "padding"));
}

lk_tokenizer *lk_tokenizer_parse(lk_ctx *ctx, const char *json, size_t length, const char *name) {
  lk_json *root = lk_json_parse(ctx, json, length, name);
  lk_tokenizer *k = root ? lk_alloc(ctx, sizeof *k) : NULL;
  if (k) {
    lk_reader r = {.ctx = ctx, .name = name, .k = k};
    k->ctx = k->model.vocab.bytes.ctx = k->added_vocab.bytes.ctx = ctx;
    if (lk_json_type(root) == LK_JSON_OBJECT) read_all(&r, root);
    else lk_fail(ctx, LK_EFORMAT, "%s: want an object, found %s", name, lk_json_kind_name(lk_json_type(root)));
  }
  lk_json_free(root);
  if (!lk_error(ctx, NULL)) return k;
  lk_tokenizer_free(k);
  return NULL;
}

lk_tokenizer *lk_tokenizer_open(lk_ctx *ctx, const char *path) {
  char *inside = lk_sprintf(ctx, "%s/tokenizer.json", path);
  const char *name = lk_file_exists(inside) ? inside : path;
  size_t n;
  char *text = lk_file_read_text(ctx, name, LK_JSON_MAX_BYTES, &n);
  lk_tokenizer *k = text ? lk_tokenizer_parse(ctx, text, n, name) : NULL;
  lk_free(ctx, text);
  lk_free(ctx, inside);
  return k;
}

void lk_tokenizer_free(lk_tokenizer *k) {
  if (!k) return;
  lk_ctx *ctx = k->ctx;
  lk_vocab_free(&k->model.vocab);
  lk_vocab_free(&k->added_vocab);
  lk_free(ctx, k->model.merges.slot);
  lk_free(ctx, k->model.unknown);
  lk_free(ctx, k->model.prefix);
  lk_free(ctx, k->model.suffix);
  for (size_t i = 0; i < k->nadded; i++) lk_free(ctx, k->added[i].pattern);
  lk_free(ctx, k->added);
  lk_free(ctx, (void *)k->raw.list);
  lk_free(ctx, (void *)k->normalized.list);
  lk_steps_free(ctx, &k->normalizers);
  lk_steps_free(ctx, &k->pre_tokenizers);
  lk_steps_free(ctx, &k->decoders);
  lk_free(ctx, k->single.item);
  lk_free(ctx, k->pair.item);
  lk_free(ctx, k);
}

/* ---- tokens ---- */

int64_t lk_tokenizer_size(const lk_tokenizer *k) {
  int64_t n = (int64_t)k->model.vocab.n;
  for (size_t i = 0; i < k->nadded; i++) {
    const lk_token *t = &k->added_vocab.token[i];
    n += !lk_vocab_find(&k->model.vocab, k->added_vocab.bytes.s + t->at, t->n);
  }
  return n;
}

int64_t lk_token_id(const lk_tokenizer *k, const char *token) {
  const lk_token *t = lk_vocab_find(&k->added_vocab, token, strlen(token));
  if (!t) t = lk_vocab_find(&k->model.vocab, token, strlen(token));
  return t ? t->id : -1;
}

const char *lk_token_text(const lk_tokenizer *k, int64_t id, size_t *length) {
  const lk_token *t = lk_vocab_by_id(&k->added_vocab, id);
  const lk_vocab *v = t ? &k->added_vocab : &k->model.vocab;
  if (!t) t = lk_vocab_by_id(v, id);
  if (t && length) *length = t->n;
  return t ? v->bytes.s + t->at : NULL;
}

/* ---- decoding ---- */

/* The token's text, of an added one as it is looked for (normalized); NULL if it does not exist or is left out.  The
 * library takes a token as special when one with this text is. */
static const char *decoded(const lk_tokenizer *k, int64_t id, int skip_special, size_t *n) {
  const lk_token *t = lk_vocab_by_id(&k->added_vocab, id);
  if (!t) return lk_token_text(k, id, n);
  const lk_added *a = &k->added[t - k->added_vocab.token];
  *n = a->n;
  t = lk_vocab_find(&k->added_vocab, a->pattern, a->n);
  return skip_special && t && k->added[t - k->added_vocab.token].special ? NULL : a->pattern;
}

char *lk_decode_bytes(lk_tokenizer *k, const int64_t *ids, int64_t n, int skip_special, size_t *length) {
  lk_run run;
  lk_run_init(&run, k->ctx);
  for (int64_t i = 0; i < n; i++) {
    size_t size;
    const char *text = decoded(k, ids[i], skip_special, &size);
    if (text) lk_piece_add(&run.from, text, size, 0, -1);
  }
  for (size_t i = 0; i < k->decoders.n && run.from.n && !lk_error(k->ctx, NULL); i++) {
    k->decoders.step[i].decode(&k->decoders.step[i], &run.from, &run.to);
    lk_run_swap(&run);
  }
  for (size_t i = 0; i < run.from.n; i++) {
    if (i && !k->has_decoder) lk_text_add(&run.a, " ", 1);
    lk_text_add(&run.a, run.from.text.s + run.from.p[i].at, run.from.p[i].n);
  }
  char *out = lk_alloc(k->ctx, run.a.n + 1);
  if (out && run.a.n) memcpy(out, run.a.s, run.a.n);
  if (length) *length = out ? run.a.n : 0;
  lk_run_free(&run);
  return out;
}

char *lk_decode(lk_tokenizer *k, const int64_t *ids, int64_t n, int skip_special) {
  return lk_decode_bytes(k, ids, n, skip_special, NULL);
}
