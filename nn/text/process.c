/* process.c: reading the sections behind the model: post-processor, truncation, padding.  Every post-processor is a
 * template: which texts and special tokens follow each other, of which type. */
#include "text.h"

static void add_item(lk_reader *r, lk_template *t, int32_t id, int type) {
  if (!lk_grow(r->ctx, &t->item, &t->capacity, t->n + 1, sizeof *t->item)) t->item[t->n++] = (lk_item){id, type};
}

/* ---- TemplateProcessing ---- */

/* All ids of a special token, from the table of the section. */
static void add_special(lk_reader *r, lk_template *t, const lk_json *table, const char *name, int type) {
  const lk_json *entry = lk_json_get(table, name);
  const lk_json *ids = entry ? lk_need(r, entry, "ids", LK_JSON_ARRAY) : NULL;
  if (!entry) lk_refuse(r, "special_tokens", "'%s' is missing", name);
  for (size_t i = 0; i < lk_json_count(ids); i++) {
    int64_t id;
    if (!lk_json_is_int(lk_json_at(ids, i), &id) || id < 0 || id > INT32_MAX)
      lk_refuse(r, "special_tokens", "an id of '%s' is wrong", name);
    else add_item(r, t, (int32_t)id, type);
  }
}

static void read_template(lk_reader *r, const lk_json *j, const char *key, lk_template *t) {
  static const char *const texts[] = {"A", "B", NULL};
  const lk_json *list = lk_need(r, j, key, LK_JSON_ARRAY), *table = lk_need(r, j, "special_tokens", LK_JSON_OBJECT);
  for (size_t i = 0; i < lk_json_count(list) && !lk_error(r->ctx, NULL); i++) {
    const lk_json *text = lk_json_get(lk_json_at(list, i), "Sequence");
    const lk_json *special = lk_json_get(lk_json_at(list, i), "SpecialToken");
    if (!text && !special) {
      lk_refuse(r, key, "number %zu is neither a Sequence nor a SpecialToken", i);
      return;
    }
    int type = (int)lk_field_int(r, text ? text : special, "type_id", 0, INT32_MAX, -1);
    if (text) add_item(r, t, lk_field_word(r, text, "id", texts, -1) ? LK_ITEM_B : LK_ITEM_A, type);
    else add_special(r, t, table, lk_need_text(r, special, "id"), type);
  }
  for (size_t i = 0; i < t->n; i++)
    if (t == &r->k->single && t->item[i].id == LK_ITEM_B) lk_refuse(r, key, "has the second text B");
}

/* ---- BERT and RoBERTa ---- */

/* ["[SEP]", 102] */
static int32_t token_pair(lk_reader *r, const lk_json *j, const char *key) {
  const lk_json *pair = lk_need(r, j, key, LK_JSON_ARRAY);
  int64_t id = 0;
  if (pair && (!lk_json_is_int(lk_json_at(pair, 1), &id) || id < 0 || id > INT32_MAX))
    lk_refuse(r, key, "is not a token and its id");
  return (int32_t)id;
}

static void read_classic(lk_reader *r, const lk_json *j, int roberta) {
  int32_t sep = token_pair(r, j, "sep"), cls = token_pair(r, j, "cls");
  lk_template *both[2] = {&r->k->single, &r->k->pair};
  for (int i = 0; i < 2; i++) {
    add_item(r, both[i], cls, 0);
    add_item(r, both[i], LK_ITEM_A, 0);
    add_item(r, both[i], sep, 0);
  }
  if (roberta) add_item(r, &r->k->pair, sep, 0);
  add_item(r, &r->k->pair, LK_ITEM_B, !roberta);
  add_item(r, &r->k->pair, sep, !roberta);
}

/* ByteLevel as a post-processor only moves offsets, which we do not have. */
static void read_processor(lk_reader *r, const lk_json *j) {
  const char *type = lk_need_text(r, j, "type");
  if (lk_error(r->ctx, NULL) || !strcmp(type, "ByteLevel")) return;
  if (!strcmp(type, "Sequence")) {
    const lk_json *list = lk_need(r, j, "processors", LK_JSON_ARRAY);
    for (size_t i = 0; i < lk_json_count(list) && !lk_error(r->ctx, NULL); i++) read_processor(r, lk_json_at(list, i));
    return;
  }
  if (r->k->single.n) {
    lk_refuse(r, "type", "'%s' behind another one that adds tokens is not supported", type);
  } else if (!strcmp(type, "TemplateProcessing")) {
    read_template(r, j, "single", &r->k->single);
    read_template(r, j, "pair", &r->k->pair);
  } else if (!strcmp(type, "BertProcessing") || !strcmp(type, "RobertaProcessing")) {
    read_classic(r, j, *type == 'R');
  } else lk_refuse(r, "type", "'%s' is not supported", type);
}

void lk_read_processor(lk_reader *r, const lk_json *j) {
  lk_tokenizer *k = r->k;
  if (lk_json_type(j) > LK_JSON_NULL) read_processor(r, j);
  if (k->single.n || k->pair.n) return;
  add_item(r, &k->single, LK_ITEM_A, 0);
  add_item(r, &k->pair, LK_ITEM_A, 0);
  add_item(r, &k->pair, LK_ITEM_B, 1);
}

/* ---- truncation and padding ---- */

enum { MOST_PADDING = 1 << 24 }; /* a larger number is no length that was meant */

static const char *const directions[] = {"Right", "Left", NULL};

/* stride asks for the parts that are cut off as texts of their own, which lk_encode does not give. */
void lk_read_truncation(lk_reader *r, const lk_json *j) {
  static const char *const strategies[] = {"LongestFirst", "OnlyFirst", "OnlySecond", NULL};
  lk_tokenizer *k = r->k;
  if (lk_json_type(j) <= LK_JSON_NULL) return;
  k->has_truncation = 1;
  k->most = lk_field_int(r, j, "max_length", 0, INT32_MAX, -1);
  k->cut = (lk_cut)lk_field_word(r, j, "strategy", strategies, -1);
  k->cut_left = lk_field_word(r, j, "direction", directions, 0);
}

void lk_read_padding(lk_reader *r, const lk_json *j) {
  lk_tokenizer *k = r->k;
  if (lk_json_type(j) <= LK_JSON_NULL) return;
  const lk_json *strategy = lk_json_get(j, "strategy");
  const char *word;
  if (lk_json_is_string(strategy, &word)) {
    if (strcmp(word, "BatchLongest")) lk_refuse(r, "strategy", "'%s' is not supported", word);
  } else if (lk_need(r, j, "strategy", LK_JSON_OBJECT)) {
    k->pad_to = lk_field_int(r, strategy, "Fixed", 0, MOST_PADDING, -1);
  }
  k->has_padding = 1;
  k->pad_left = lk_field_word(r, j, "direction", directions, -1);
  k->pad_multiple = lk_field_int(r, j, "pad_to_multiple_of", 0, MOST_PADDING, 0);
  k->pad_id = (int32_t)lk_field_int(r, j, "pad_id", 0, INT32_MAX, -1);
  k->pad_type = (int32_t)lk_field_int(r, j, "pad_type_id", 0, INT32_MAX, -1);
}
