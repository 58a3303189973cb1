/* test_texts.c: files of texts, rows of tokens, batches of rows. */
#include "alloc.h"
#include "files.h"
#include "words.h"

#include <check.h>
#include <lorikeet/texts.h>

static lk_ctx *ctx;
static lk_tokenizer *k;

static const char *const words[] = {"a", "b", "c", "d", "e", "f", "g", "h", NULL};
enum { PAD, UNK, CLS, SEP, MASK, A, B, C, D, E, F, G, H };

static void fine(void) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == LK_OK, "%s", message);
}

static void refused(lk_status status, const char *says) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == status, "%s, not %s: %s", lk_status_name(lk_error(ctx, NULL)),
                lk_status_name(status), message);
  ck_assert_msg(strstr(message, says) != NULL, "'%s' does not say '%s'", message, says);
  lk_error_clear(ctx);
}

static void setup(void) {
  char json[4096];
  test_directory();
  ctx = lk_ctx_new(NULL);
  test_words(words, json);
  k = lk_tokenizer_parse(ctx, json, strlen(json), "words");
  fine();
}

static void teardown(void) {
  lk_tokenizer_free(k);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, 0);
  lk_ctx_free(ctx);
  test_directory_remove();
}

static lk_texts *parse(const char *name, const char *text, const lk_texts_options *o, const lk_texts *like) {
  return lk_texts_parse(ctx, text, strlen(text), name, o, like);
}

static lk_texts *good(const char *name, const char *text, const lk_texts_options *o) {
  lk_texts *x = parse(name, text, o, NULL);
  fine();
  ck_assert_ptr_nonnull(x);
  return x;
}

/* ---- files ---- */

START_TEST(test_tsv) {
  lk_texts *x = good("f.tsv", "\xEF\xBB\xBFone \"two\"\t1\r\n\nthree\t0\nlast line\t2", NULL);
  ck_assert_int_eq(x->count, 3);
  ck_assert_str_eq(x->text[0], "one \"two\"");
  ck_assert_str_eq(x->text[1], "three");
  ck_assert_str_eq(x->text[2], "last line");
  ck_assert_int_eq(x->label[0], 1);
  ck_assert_int_eq(x->label[1], 0);
  ck_assert_int_eq(x->label[2], 2);
  ck_assert_int_eq(x->classes, 3);
  ck_assert(!x->names && !x->pair);
  lk_texts_free(x);
  x = good("f.tsv", "only texts\nwithout labels\n", NULL);
  ck_assert(!x->label && x->count == 2);
  lk_texts_free(x);
  x = good("f.tsv", "text\tword\n", &(lk_texts_options){.label_column = ""});
  ck_assert(!x->label && !x->names);
  lk_texts_free(x);
}
END_TEST

/* Labels have the numbers that the other file's names have, whatever their order. */
START_TEST(test_names_of_another_file) {
  char *names[] = {"yes", "no", "maybe"};
  const lk_texts like = {.ctx = ctx, .classes = 3, .names = names, .label = (int64_t[]){0}};
  lk_texts *x = parse("a.tsv", "a\tno\nb\tyes\nc\tmaybe\nd\tno\n", NULL, &like);
  static const int64_t want[] = {1, 0, 2, 1};
  fine();
  ck_assert_int_eq(x->classes, 3);
  for (int i = 0; i < 3; i++) ck_assert_str_eq(x->names[i], names[i]);
  for (int i = 0; i < 4; i++) ck_assert_int_eq(x->label[i], want[i]);
  lk_texts_free(x);
  ck_assert_ptr_null(parse("a.tsv", "a\tnever\n", NULL, &like));
  refused(LK_EFORMAT, "the label 'never' does not occur");
}
END_TEST

START_TEST(test_csv_with_quotes_and_names) {
  const lk_texts_options o = {.text_column = "body", .pair_column = "title", .label_column = "mark"};
  lk_texts *x = good("f.csv",
                     "title,mark,body\r\n"
                     "\"a, b\",good,\"say \"\"hi\"\"\nand go\"\r\n"
                     ",bad,plain\r\n"
                     "\"\",good,\"\"\r\n",
                     &o);
  ck_assert_int_eq(x->count, 3);
  ck_assert_str_eq(x->text[0], "say \"hi\"\nand go");
  ck_assert_str_eq(x->pair[0], "a, b");
  ck_assert_str_eq(x->text[1], "plain");
  ck_assert_str_eq(x->pair[1], "");
  ck_assert_str_eq(x->text[2], "");
  ck_assert_int_eq(x->classes, 2);
  ck_assert_str_eq(x->names[0], "bad");
  ck_assert_str_eq(x->names[1], "good");
  ck_assert(x->label[0] == 1 && x->label[1] == 0 && x->label[2] == 1);
  lk_texts *other = parse("g.csv", "title,mark,body\nx,good,y\n", &o, x);
  fine();
  ck_assert(other->label[0] == 1 && other->classes == 2); /* the other file's numbers */
  lk_texts_free(other);
  ck_assert_ptr_null(parse("g.csv", "title,mark,body\nx,good,y\n\nx,fair,y\n", &o, x));
  refused(LK_EFORMAT, "g.csv:4: the label 'fair' does not occur");
  ck_assert_ptr_null(parse("g.csv", "title,mark,body\nx,1,y\n", &o, x));
  refused(LK_EFORMAT, "g.csv: its labels are numbers, those of the training file are not");
  lk_texts_free(x);
}
END_TEST

START_TEST(test_jsonl) {
  lk_texts *x = good(
      "f.jsonl", "{\"sentence\": \"caf\\u00e9\", \"label\": 2}\n \r\n{\"label\": 0, \"sentence\": \"x\\ny\"}", NULL);
  ck_assert_int_eq(x->count, 2);
  ck_assert_str_eq(x->text[0], "caf\xC3\xA9");
  ck_assert_str_eq(x->text[1], "x\ny");
  ck_assert(x->label[0] == 2 && x->label[1] == 0 && x->classes == 3);
  lk_texts_free(x);
  x = good("f.jsonl", "{\"prompt\": \"ask\", \"completion\": \"tell\"}\n", NULL);
  ck_assert_str_eq(x->text[0], "ask");
  ck_assert_str_eq(x->pair[0], "tell");
  ck_assert_ptr_null(x->label);
  lk_texts_free(x);
  x = good("f.json", "{\"q\": \"1\", \"text\": \"2\", \"class\": \"no\"}\n{\"q\": \"3\", \"class\": \"yes\"}\n",
           &(lk_texts_options){.text_column = "q", .label_column = "class"});
  ck_assert_str_eq(x->text[1], "3");
  ck_assert_str_eq(x->names[1], "yes");
  lk_texts_free(x);
}
END_TEST

START_TEST(test_files_and_plain_text) {
  static const char text[] = "All of it,\n\tone example.\n";
  test_put("f.txt", text, sizeof text - 1);
  lk_texts *x = lk_texts_read(ctx, "f.txt", NULL, NULL);
  fine();
  ck_assert(x->count == 1 && !strcmp(x->text[0], text) && !x->label);
  lk_texts_free(x);
  x = lk_texts_read(ctx, "f.txt", &(lk_texts_options){.format = "tsv", .text_column = "1"}, NULL);
  ck_assert_ptr_null(x);
  refused(LK_EFORMAT, "f.txt:1: the line has 1 columns, column 1 (from 0) is wanted");
  ck_assert_ptr_null(lk_texts_read(ctx, "none.tsv", NULL, NULL));
  refused(LK_EIO, "none.tsv");
  test_put("zero.tsv", "a\0b\t1\n", 6);
  ck_assert_ptr_null(lk_texts_read(ctx, "zero.tsv", NULL, NULL));
  refused(LK_EFORMAT, "'zero.tsv' is not text: byte 1 is zero");
  ck_assert_ptr_null(lk_texts_parse(ctx, "a\0b\t1\n", 6, "zero.tsv", NULL, NULL));
  refused(LK_EFORMAT, "zero.tsv holds a zero byte");
  ck_assert_ptr_null(lk_texts_read(ctx, NULL, NULL, NULL));
  refused(LK_ENIL, "path is NULL");
}
END_TEST

START_TEST(test_bad_files_are_refused) {
  static const struct {
    const char *name, *text, *says;
    lk_texts_options o;
  } bad[] = {
      {"f.tsv", "a\t1\nb\n", "f.tsv:2: a line without a label", {0}},
      {"f.tsv", "a\nb\t1\n", "f.tsv:2: a line with a label", {0}},
      {"f.tsv", "a\t1\nb\n", "f.tsv:2: the line has 1 columns, column 1", {.label_column = "1"}},
      {"f.tsv", "a\t1\nb\t99999999999999999999\n", "f.tsv:2: 99999999999999999999 is no label", {0}},
      {"f.tsv", "a\t1\n", "there is no column 'body' in the first line", {.text_column = "body"}},
      {"f.tsv", "a\t1\n", "there is no column '99999999999'", {.text_column = "99999999999"}},
      {"f.tsv", "", "f.tsv holds no example", {0}},
      {"f.csv", "text,label\n", "f.csv holds no example", {.text_column = "text", .label_column = "label"}},
      {"f.csv", "x,\"1\nb,2", "f.csv:2: a quoted field is not closed", {0}},
      {"f.jsonl", "{\"text\": \"a\"}\n{\"text\": \"a\"", "f.jsonl:2", {0}},
      {"f.jsonl", "{\"text\": 3}\n", "f.jsonl:1: 'text' should be a string, not an integer", {0}},
      {"f.jsonl", "{\"label\": 3}\n", "f.jsonl:1: 'text' should be a string, not missing", {0}},
      {"f.jsonl", "[1]\n", "f.jsonl:1", {0}},
      {"f.jsonl", "{\"text\": \"a\", \"label\": [1]}\n", "f.jsonl:1: 'label' should be a string, not an array", {0}},
      {"f.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n", "f.jsonl:2: other keys", {0}},
      {"f.jsonl", "{\"prompt\": \"a\"}\n", "'completion' should be a string, not missing", {0}},
      {"f.docx", "a\t1\n", "'docx' is no format of texts", {0}},
      {"noending", "a\t1\n", "tsv, csv, jsonl and txt are", {0}},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ck_assert_ptr_null(parse(bad[i].name, bad[i].text, &bad[i].o, NULL));
    refused(i < 16 ? LK_EFORMAT : LK_EARG, bad[i].says);
  }
  char wide[600];
  memset(wide, '\t', sizeof wide - 1);
  wide[sizeof wide - 1] = 0;
  ck_assert_ptr_null(parse("f.tsv", wide, NULL, NULL));
  refused(LK_EFORMAT, "f.tsv:1: more than 256 columns");
}
END_TEST

/* ---- rows ---- */

static lk_rows *rows_of(lk_rows *r) {
  fine();
  ck_assert_ptr_nonnull(r);
  return r;
}

/* Row i is these tokens, ended by -1; targets ended by -1 too, or NULL. */
static void is_row(const lk_rows *r, int64_t i, const int *ids, const int *targets) {
  int64_t n = 0;
  while (ids[n] >= 0) n++;
  ck_assert_int_eq(r->begin[i + 1] - r->begin[i], n);
  for (int64_t j = 0; j < n; j++) {
    ck_assert_int_eq(r->ids[r->begin[i] + j], ids[j]);
    if (targets) ck_assert_int_eq(r->targets[r->begin[i] + j], targets[j]);
  }
}

#define ROW(...) ((const int[]){__VA_ARGS__, -1})

START_TEST(test_rows_for_classification) {
  lk_texts *x = good("f.tsv", "a b\t0\na b c d e\t2\n\xFF z\t1\n", NULL);
  lk_rows *r = rows_of(lk_rows_classify(k, x, 5));
  ck_assert(r->count == 3 && r->longest == 5 && r->classes == 3 && !r->targets);
  is_row(r, 0, ROW(CLS, A, B, SEP), NULL);
  is_row(r, 1, ROW(CLS, A, B, C, SEP), NULL); /* cut */
  ck_assert(r->label[0] == 0 && r->label[1] == 2 && r->label[2] == 1);
  lk_rows_free(r);
  lk_texts_free(x);
  x = good("f.tsv", "a b\tc\n", &(lk_texts_options){.pair_column = "1", .label_column = ""});
  r = rows_of(lk_rows_classify(k, x, 9));
  is_row(r, 0, ROW(CLS, A, B, SEP, C, SEP), NULL);
  static const int types[] = {0, 0, 0, 0, 1, 1};
  for (int i = 0; i < 6; i++) ck_assert_int_eq(r->types[i], types[i]);
  ck_assert_ptr_null(r->label);
  lk_rows_free(r);
  ck_assert_ptr_null(lk_rows_classify(k, x, 1));
  refused(LK_EARG, "rows of 1 tokens are too short");
  lk_texts_free(x);
}
END_TEST

START_TEST(test_blocks_for_language_models) {
  lk_texts *x = good("f.tsv", "a b c\nd e\nf\n", NULL);
  lk_rows *r = rows_of(lk_rows_lm(k, x, 4, MASK));
  ck_assert(r->count == 2 && r->longest == 4 && r->cut == 1 && !r->types && !r->label);
  is_row(r, 0, ROW(A, B, C, MASK), ROW(A, B, C, MASK));
  is_row(r, 1, ROW(D, E, MASK, F), ROW(D, E, MASK, F)); /* the last end makes no row */
  lk_rows_free(r);
  r = rows_of(lk_rows_lm(k, x, 4, -1));
  ck_assert(r->count == 2 && r->cut == 0);
  is_row(r, 0, ROW(A, B, C, D), ROW(A, B, C, D));
  is_row(r, 1, ROW(E, F), ROW(E, F));
  lk_rows_free(r);
  lk_texts_free(x);
  x = good("f.txt", " \n ", NULL);
  ck_assert_ptr_null(lk_rows_lm(k, x, 4, -1));
  refused(LK_EARG, "the texts make no row of tokens");
  lk_texts_free(x);
}
END_TEST

START_TEST(test_only_completions_count) {
  lk_texts *x = good("f.jsonl",
                     "{\"prompt\": \"a b\", \"completion\": \"c\"}\n"
                     "{\"prompt\": \"a b c d\", \"completion\": \"e f\"}\n"
                     "{\"prompt\": \"a\", \"completion\": \"b c d e f g h\"}\n",
                     NULL);
  lk_rows *r = rows_of(lk_rows_complete(k, x, 6, H));
  ck_assert(r->count == 3 && r->longest == 6);
  is_row(r, 0, ROW(CLS, A, B, SEP, C, H), ROW(-100, -100, -100, -100, C, H));
  is_row(r, 1, ROW(C, D, SEP, E, F, H), ROW(-100, -100, -100, E, F, H)); /* the prompt loses its beginning */
  is_row(r, 2, ROW(B, C, D, E, F, G), ROW(B, C, D, E, F, G));
  ck_assert_int_eq(r->cut, 3 + 3 + 2);
  lk_rows_free(r);
  lk_texts_free(x);
  x = good("f.txt", "a", NULL);
  ck_assert_ptr_null(lk_rows_complete(k, x, 6, H));
  refused(LK_EARG, "no completions beside the prompts");
  lk_texts_free(x);
}
END_TEST

/* Rows 0, 1, ... of 1, 2, ... of `most` letters, labels in turn. */
static lk_rows *staircase(int n, int classes) {
  char text[2000];
  size_t used = 0;
  for (int i = 0; i < n; i++) {
    for (int j = 0; j <= i % 4; j++) used += (size_t)sprintf(text + used, "%c ", 'a' + (i + j) % 8);
    used += (size_t)sprintf(text + used, "\t%d\n", i % classes);
  }
  lk_texts *x = good("f.tsv", text, NULL);
  lk_rows *r = rows_of(lk_rows_classify(k, x, 10));
  lk_texts_free(x);
  return r;
}

static void same_row(const lk_rows *a, int64_t i, const lk_rows *b, int64_t j) {
  int64_t n = a->begin[i + 1] - a->begin[i];
  ck_assert_int_eq(b->begin[j + 1] - b->begin[j], n);
  ck_assert_mem_eq(a->ids + a->begin[i], b->ids + b->begin[j], (size_t)n * sizeof *a->ids);
  ck_assert_mem_eq(a->types + a->begin[i], b->types + b->begin[j], (size_t)n * sizeof *a->types);
  ck_assert_int_eq(a->label[i], b->label[j]);
}

START_TEST(test_parts_of_rows) {
  lk_rows *all = staircase(30, 3);
  const int64_t index[] = {7, 7, 0, 29};
  lk_rows *r = rows_of(lk_rows_subset(all, 4, index));
  ck_assert(r->count == 4 && r->longest == 6);
  for (int i = 0; i < 4; i++) same_row(r, i, all, index[i]);
  lk_rows_free(r);
  ck_assert_ptr_null(lk_rows_subset(all, 1, &(int64_t){30}));
  refused(LK_EARG, "no row 30 among 30");
  r = rows_of(lk_rows_limit(all, 9, 1));
  int seen[3] = {0};
  for (int i = 0; i < 9; i++) seen[r->label[i]]++;
  ck_assert(r->count == 9 && seen[0] == 3 && seen[1] == 3 && seen[2] == 3);
  lk_rows *fewer = rows_of(lk_rows_limit(all, 5, 1)), *other = rows_of(lk_rows_limit(all, 9, 2));
  for (int i = 0; i < 5; i++) same_row(fewer, i, r, i);
  ck_assert(memcmp(r->ids, other->ids, 9 * 3 * sizeof *r->ids) != 0);
  lk_rows_free(other);
  lk_rows_free(fewer);
  lk_rows_free(r);
  r = rows_of(lk_rows_limit(all, 99, 1));
  ck_assert_int_eq(r->count, 30);
  lk_rows_free(r);
  ck_assert_ptr_null(lk_rows_limit(all, 0, 1));
  refused(LK_EARG, "the texts make no row");
  ck_assert(!lk_rows_limit(NULL, 1, 1) && !lk_rows_subset(NULL, 1, index));
  lk_rows_free(all);
}
END_TEST

/* ---- batches ---- */

/* A batch is rows index[...] of the data, filled up. */
static void is_batch(const lk_rows *r, const lk_row_batch *b, int64_t pad) {
  int64_t width = 0, least = INT64_MAX;
  for (int64_t i = 0; i < b->n; i++) {
    int64_t at = r->begin[b->index[i]], n = r->begin[b->index[i] + 1] - at;
    width = n > width ? n : width;
    least = n < least ? n : least;
    for (int64_t j = 0; j < b->width; j++) {
      int64_t c = i * b->width + j;
      ck_assert_int_eq(b->ids[c], j < n ? r->ids[at + j] : pad);
      ck_assert_int_eq(b->mask[c], j < n);
      if (r->types) ck_assert_int_eq(b->types[c], j < n ? r->types[at + j] : 0);
      if (r->targets) ck_assert_int_eq(b->targets[c], j < n ? r->targets[at + j] : -100);
    }
    if (r->label) ck_assert_int_eq(b->labels[i], r->label[b->index[i]]);
  }
  ck_assert(b->width == width && b->padded == (least < width));
}

START_TEST(test_every_row_once_an_epoch) {
  lk_rows *r = staircase(30, 2);
  lk_row_options o = {.batch = 8, .pad = MASK, .seed = 3, .shuffle = _i != 0, .group = _i > 1 ? _i : 0};
  lk_row_loader *l = lk_row_loader_new(r, &o);
  lk_row_batch b;
  int64_t orders[2][30];
  ck_assert_int_eq(lk_row_steps(l), 4);
  for (int epoch = 0; epoch < 2; epoch++) {
    int64_t n = 0;
    int seen[30] = {0};
    while (lk_row_next(l, &b)) {
      is_batch(r, &b, MASK);
      ck_assert_int_eq(b.n, n < 24 ? 8 : 6);
      for (int64_t i = 0; i < b.n; i++) seen[orders[epoch][n++] = b.index[i]]++;
      ck_assert_int_eq(lk_row_cursor(l).position, n);
    }
    for (int i = 0; i < 30; i++) ck_assert_int_eq(seen[i], 1);
    ck_assert_int_eq(lk_row_cursor(l).epoch, epoch + 1);
  }
  ck_assert((memcmp(orders[0], orders[1], sizeof orders[0]) != 0) == (_i != 0));
  lk_row_loader_free(l);
  lk_rows_free(r);
}
END_TEST

START_TEST(test_seeking) {
  lk_rows *r = staircase(30, 2);
  const lk_row_options o = {.batch = 8, .seed = 3, .shuffle = 1};
  lk_row_loader *l = lk_row_loader_new(r, &o), *m = lk_row_loader_new(r, &o);
  lk_row_batch a, b;
  for (int i = 0; i < 7; i++) lk_row_next(l, &a); /* into the second epoch, over its beginning */
  ck_assert_int_eq(lk_row_seek(m, lk_row_cursor(l)), LK_OK);
  for (int i = 0; i < 9; i++) {
    int more = lk_row_next(l, &a);
    ck_assert_int_eq(lk_row_next(m, &b), more);
    if (!more) continue;
    ck_assert(a.n == b.n && a.width == b.width);
    ck_assert_mem_eq(a.ids, b.ids, (size_t)(a.n * a.width) * sizeof *a.ids);
  }
  lk_row_seek(l, (lk_cursor){0, 3});
  refused(LK_EARG, "no batch of 8 begins at row 3 of 30 in epoch 0");
  lk_row_seek(l, (lk_cursor){-1, 0});
  refused(LK_EARG, "in epoch -1");
  lk_row_loader_free(l);
  lk_row_loader_free(m);
  ck_assert_ptr_null(lk_row_loader_new(r, &(lk_row_options){.batch = 0}));
  refused(LK_EARG, "a batch of 0 rows");
  ck_assert(!lk_row_loader_new(NULL, &o) && !lk_row_next(NULL, &a) && !lk_row_steps(NULL));
  ck_assert_int_eq(lk_row_seek(NULL, (lk_cursor){0, 0}), LK_ENIL);
  lk_rows_free(r);
}
END_TEST

/* Cells of an epoch, padding included; the batches are not in the order of their widths. */
static int64_t cells(const lk_rows *r, int64_t group, int *sorted) {
  lk_row_loader *l = lk_row_loader_new(r, &(lk_row_options){.batch = 8, .seed = 3, .shuffle = 1, .group = group});
  lk_row_batch b;
  int64_t sum = 0, before = 0;
  *sorted = 1;
  while (lk_row_next(l, &b)) {
    is_batch(r, &b, 0);
    *sorted &= b.width >= before;
    before = b.width;
    sum += b.n * b.width;
  }
  lk_row_loader_free(l);
  return sum;
}

START_TEST(test_groups_of_like_length) {
  lk_rows *r = staircase(200, 2);
  int sorted;
  int64_t tokens = r->begin[r->count], apart = cells(r, 0, &sorted), pairs = cells(r, 2, &sorted);
  int64_t all = cells(r, 1000, &sorted);
  ck_assert(!sorted);
  ck_assert(apart > pairs && pairs > all && all >= tokens);
  ck_assert_int_le(all - tokens, 3 * 8); /* at most three batches hold two lengths */
  ck_assert_ptr_null(lk_row_loader_new(r, &(lk_row_options){.batch = 8, .group = -1}));
  refused(LK_EARG, "groups of -1 batches");
  lk_rows_free(r);
}
END_TEST

START_TEST(test_from_short_to_long) {
  lk_rows *r = staircase(30, 2);
  lk_row_loader *l = lk_row_loader_new(r, &(lk_row_options){.batch = 30, .by_length = 1, .shuffle = 1});
  lk_row_batch b;
  ck_assert(lk_row_next(l, &b) && b.n == 30);
  is_batch(r, &b, 0);
  for (int i = 1; i < 30; i++) {
    int64_t before = b.index[i - 1], now = b.index[i];
    ck_assert(before % 4 < now % 4 || (before % 4 == now % 4 && before < now));
  }
  lk_row_loader_free(l);
  lk_rows_free(r);
}
END_TEST

/* ---- memory ---- */

static lk_status whole_story(lk_ctx *c, void *arg) {
  static const char text[] = "{\"prompt\": \"a b\", \"completion\": \"c\", \"label\": \"x\"}\n"
                             "{\"prompt\": \"a\", \"completion\": \"b c d\", \"label\": \"w\"}\n";
  static const char table[] = "a,\"b\"\nb,c\n";
  char json[4096];
  lk_row_batch b;
  (void)arg;
  test_words(words, json);
  lk_tokenizer *t = lk_tokenizer_parse(c, json, strlen(json), "words");
  lk_texts *x = lk_texts_parse(c, text, sizeof text - 1, "f.jsonl", NULL, NULL);
  lk_texts *y = lk_texts_parse(c, table, sizeof table - 1, "f.csv", NULL, NULL);
  lk_rows *made[] = {lk_rows_classify(t, x, 8), lk_rows_lm(t, y, 4, 3), lk_rows_complete(t, x, 6, 3), NULL};
  made[3] = lk_rows_limit(made[0], 1, 1);
  for (int i = 0; i < 4; i++) {
    lk_row_loader *l = lk_row_loader_new(made[i], &(lk_row_options){.batch = 2, .shuffle = i & 1, .by_length = i & 2});
    while (lk_row_next(l, &b)) continue;
    lk_row_loader_free(l);
    lk_rows_free(made[i]);
  }
  lk_texts_free(x);
  lk_texts_free(y);
  lk_tokenizer_free(t);
  return lk_error(c, NULL);
}

START_TEST(test_every_allocation_may_fail) {
  uint64_t count = 0;
  const char *why = test_each_allocation(whole_story, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_ge(count, 40);
}
END_TEST

int main(void) {
  Suite *s = suite_create("texts");
  TCase *tc = tcase_create("texts");
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_test(tc, test_tsv);
  tcase_add_test(tc, test_names_of_another_file);
  tcase_add_test(tc, test_csv_with_quotes_and_names);
  tcase_add_test(tc, test_jsonl);
  tcase_add_test(tc, test_files_and_plain_text);
  tcase_add_test(tc, test_bad_files_are_refused);
  tcase_add_test(tc, test_rows_for_classification);
  tcase_add_test(tc, test_blocks_for_language_models);
  tcase_add_test(tc, test_only_completions_count);
  tcase_add_test(tc, test_parts_of_rows);
  tcase_add_loop_test(tc, test_every_row_once_an_epoch, 0, 5);
  tcase_add_test(tc, test_seeking);
  tcase_add_test(tc, test_from_short_to_long);
  tcase_add_test(tc, test_groups_of_like_length);
  tcase_add_test(tc, test_every_allocation_may_fail);
  suite_add_tcase(s, tc);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
