/* text_data.c: training, validation and test texts: files, and rows of tokens. */
#include "text.h"

#include <string.h>

#define PLACE(name) offsetof(text_source, name)

const option text_options[] = {
    {"task", OPTION_WORD, PLACE(kind), 0, 0, "classify|lm|complete|masked_lm|embed",
     "labels of texts, the next token (of a text, of a completion), hidden tokens, vectors of pairs"},
    {"train", OPTION_TEXT, PLACE(train), 0, 0, "FILE", "texts: .tsv, .csv, .jsonl, or .txt [train.* of --data]"},
    {"validation", OPTION_TEXT, PLACE(validation), 0, 0, "FILE",
     "the same, for choices [validation.* or dev.* of --data, or some of the training texts]"},
    {"test", OPTION_TEXT, PLACE(test), 0, 0, "FILE", "the same, for the last judgement [test.* of --data]"},
    {"format", OPTION_TEXT, PLACE(columns.format), 0, 0, "tsv|csv|jsonl|txt", "of the files [by their names' ends]"},
    {"text-column", OPTION_TEXT, PLACE(columns.text_column), 0, 0, "NAME",
     "of the first line, a key, or a number from 0 [0, or sentence, text, prompt]"},
    {"pair-column", OPTION_TEXT, PLACE(columns.pair_column), 0, 0, "NAME",
     "a second text; of complete and embed [1, or completion]"},
    {"label-column", OPTION_TEXT, PLACE(columns.label_column), 0, 0, "NAME", "of classify [1, or label]"},
    {"max-length", OPTION_INT, PLACE(max_length), 0, 1 << 20, "N", "tokens of a row; 0: 128, or what the model takes"},
    {"group-by-length", OPTION_FLAG, PLACE(by_length), 0, 0, NULL,
     "train on batches of texts of like length: less padding, and faster"},
    {"no-dropout", OPTION_FLAG, PLACE(no_dropout), 0, 0, NULL, "train without the dropout of config.json"},
    {0}};

static const char *const part_names[] = {"training", "validation", "test"};

/* ---- files ---- */

/* DIRECTORY/NAME.tsv, or another ending that is there; NULL: none, or an error. */
static char *find_file(lk_ctx *ctx, const char *directory, const char *name) {
  static const char *const endings[] = {"tsv", "csv", "jsonl", "json", "txt"};
  for (size_t i = 0; directory && i < sizeof endings / sizeof *endings; i++) {
    char *path = lk_sprintf(ctx, "%s/%s.%s", directory, name, endings[i]);
    if (path && lk_file_exists(path)) return path;
    lk_free(ctx, path);
  }
  return NULL;
}

/* The file of a part, the caller's; NULL: there is none. */
static char *file_of(lk_ctx *ctx, const text_source *s, run_part part) {
  const char *const given[] = {s->train, s->validation, s->test};
  static const char *const names[][2] = {{"train", "training"}, {"validation", "dev"}, {"test", "eval"}};
  if (given[part]) return lk_strdup(ctx, given[part]);
  char *path = find_file(ctx, s->directory, names[part][0]);
  return path ? path : find_file(ctx, s->directory, names[part][1]);
}

/* Which columns a kind of task looks at where the user says nothing. */
static lk_texts_options columns_of(const text_source *s, const char *path) {
  lk_texts_options o = s->columns;
  const char *dot = strrchr(path, '.'), *format = o.format ? o.format : dot ? dot + 1 : "";
  int table = !strcmp(format, "tsv") || !strcmp(format, "csv");
  int paired = s->kind == TEXT_COMPLETE || (s->kind == TEXT_EMBED && !s->test_only);
  if (s->kind != TEXT_CLASSIFY) o.label_column = "";
  if (paired && table && !o.pair_column) o.pair_column = "1";
  return o;
}

/* Labels and second texts must be where the task needs them. */
static lk_status check(lk_ctx *ctx, const text_source *s, const char *path, const lk_texts *x, int64_t classes) {
  if (s->kind == TEXT_CLASSIFY && !x->label && !s->test_only)
    return lk_fail(ctx, LK_EFORMAT, "%s holds no labels, which --task classify needs", path);
  if (s->kind == TEXT_CLASSIFY && classes && x->classes > classes)
    return lk_fail(ctx, LK_EFORMAT, "%s: label %lld; the training labels are 0 to %lld", path,
                   (long long)x->classes - 1, (long long)classes - 1);
  if ((s->kind == TEXT_COMPLETE || (s->kind == TEXT_EMBED && !s->test_only)) && !x->pair)
    return lk_fail(ctx, LK_EFORMAT, "%s holds no second texts, which this --task needs: --pair-column names them",
                   path);
  return LK_OK;
}

/* Numbers the classes as the labels do, if they are among them. */
static lk_status order_classes(lk_ctx *ctx, const run_labels *l, lk_texts *x) {
  int64_t *number = l && l->n && x->names ? run_labels_find(ctx, l, x->names, x->classes) : NULL;
  char **names = number ? lk_alloc_array(ctx, (size_t)l->n, sizeof *names) : NULL;
  for (int64_t i = 0; names && i < l->n; i++) names[i] = lk_strdup(ctx, l->name[i]);
  for (int64_t i = 0; names && i < x->count; i++) x->label[i] = number[x->label[i]];
  for (int64_t i = 0; names && i < x->classes; i++) lk_free(ctx, x->names[i]);
  if (names) {
    lk_free(ctx, x->names);
    x->names = names;
    x->classes = l->n;
  }
  lk_free(ctx, number);
  return lk_error(ctx, NULL);
}

static lk_status read_part(lk_ctx *ctx, const text_source *s, run_part part, text_data *data) {
  char *path = file_of(ctx, s, part);
  if (!path && part == RUN_TRAIN && !s->test_only)
    lk_fail(ctx, LK_EARG, "there are no training texts: --train FILE, or --data DIR with train.tsv");
  if (!path && part == RUN_TEST && s->test_only)
    lk_fail(ctx, LK_EARG, "there are no texts to judge: --test FILE, or --data DIR with test.tsv");
  if (path && !lk_error(ctx, NULL)) {
    const lk_texts *train = data->texts[RUN_TRAIN];
    lk_texts_options o = columns_of(s, path);
    lk_texts *x = lk_texts_read(ctx, path, &o, train && train->label ? train : NULL);
    if (x && !train) order_classes(ctx, s->labels, x);
    if (x) check(ctx, s, path, x, train ? data->classes : 0);
    if (x && x->classes > data->classes) data->classes = x->classes;
    data->texts[part] = x;
  }
  lk_free(ctx, path);
  return lk_error(ctx, NULL);
}

lk_status text_data_read(lk_ctx *ctx, const text_source *s, text_data *data) {
  *data = (text_data){0};
  for (int part = RUN_TRAIN; part <= RUN_TEST; part++)
    if (part != RUN_VALIDATION || !s->test_only)
      if (read_part(ctx, s, (run_part)part, data)) break;
  if (lk_error(ctx, NULL)) text_data_close(data);
  return lk_error(ctx, NULL);
}

/* ---- rows ---- */

static lk_rows *rows_of(text_model *m, const text_source *s, const lk_texts *x, int64_t most) {
  switch (s->kind) {
  case TEXT_LM:
    return lk_rows_lm(m->tokenizer, x, most, m->p->eos);
  case TEXT_COMPLETE:
    return lk_rows_complete(m->tokenizer, x, most, m->p->eos);
  case TEXT_MASKED_LM: /* one long text: blocks of it */
    return x->count == 1 ? lk_rows_lm(m->tokenizer, x, most, -1) : lk_rows_classify(m->tokenizer, x, most);
  default:
    return lk_rows_classify(m->tokenizer, x, most);
  }
}

/* The vectors of pairs are of two texts each, not of one row with both. */
static lk_status read_tokens(text_model *m, const text_source *s, run_part part, int64_t most, text_data *data) {
  lk_texts x = *data->texts[part], second = x;
  if (s->kind == TEXT_EMBED) x.pair = NULL;
  second.text = second.pair;
  second.pair = NULL;
  data->rows[part] = rows_of(m, s, &x, most);
  if (s->kind == TEXT_EMBED && second.text) data->pairs[part] = rows_of(m, s, &second, most);
  return lk_error(m->ctx, NULL);
}

/* The first n rows in a random order, balanced over the classes. */
static lk_status limit(lk_rows **rows, int64_t n, uint64_t seed) {
  if (!*rows || n < 1 || n >= (*rows)->count) return LK_OK;
  lk_rows *all = *rows;
  *rows = lk_rows_limit(all, n, seed);
  lk_ctx *ctx = all->ctx;
  lk_rows_free(all);
  return lk_error(ctx, NULL);
}

/* A tenth of the training rows becomes the validation rows. */
static lk_status hold_out(lk_ctx *ctx, lk_rows **train, lk_rows **validation, int64_t wanted) {
  lk_rows *all = *train;
  int64_t held = wanted ? wanted : all->count / 10;
  if (held < 1) return LK_OK;
  if (held >= all->count)
    return lk_fail(ctx, LK_EARG, "%lld validation texts cannot be held out of %lld rows of training texts",
                   (long long)held, (long long)all->count);
  int64_t *order = lk_alloc_array(ctx, (size_t)all->count, sizeof *order);
  if (!order) return lk_error(ctx, NULL);
  lk_random_permutation(lk_key_make(0, "held out"), all->count, order);
  *validation = lk_rows_subset(all, held, order);
  lk_rows *rest = *validation ? lk_rows_subset(all, all->count - held, order + held) : NULL;
  lk_free(ctx, order);
  if (!rest) return lk_error(ctx, NULL);
  lk_rows_free(all);
  *train = rest;
  return LK_OK;
}

static lk_status split(lk_ctx *ctx, const text_source *s, text_data *data) {
  if (data->rows[RUN_TRAIN] && !data->rows[RUN_VALIDATION]) {
    hold_out(ctx, &data->rows[RUN_TRAIN], &data->rows[RUN_VALIDATION], s->limit[RUN_VALIDATION]);
    if (data->pairs[RUN_TRAIN] && !lk_error(ctx, NULL))
      hold_out(ctx, &data->pairs[RUN_TRAIN], &data->pairs[RUN_VALIDATION], s->limit[RUN_VALIDATION]);
  }
  for (int part = RUN_TRAIN; part <= RUN_TEST && !lk_error(ctx, NULL); part++) {
    uint64_t seed = part == RUN_TRAIN ? lk_seed(ctx) : 0;
    if (!limit(&data->rows[part], s->limit[part], seed)) limit(&data->pairs[part], s->limit[part], seed);
  }
  return lk_error(ctx, NULL);
}

lk_status text_data_tokens(text_model *m, const text_source *s, text_data *data) {
  int64_t most = s->max_length, taken = m->p->most_tokens;
  if (taken && most > taken)
    return lk_fail(m->ctx, LK_EARG, "--max-length %lld; the model takes %lld tokens", (long long)most,
                   (long long)taken);
  if (!most) most = taken && taken < 128 ? taken : 128;
  data->by_length = s->by_length;
  for (int part = s->test_only ? RUN_TEST : RUN_TRAIN; part <= RUN_TEST; part++) {
    if (data->texts[part] && read_tokens(m, s, (run_part)part, most, data)) break;
    if (data->rows[part] && data->rows[part]->cut)
      lk_warn(m->ctx, "%lld tokens of %s texts are left out: see --max-length", (long long)data->rows[part]->cut,
              part_names[part]);
  }
  return lk_error(m->ctx, NULL) ? lk_error(m->ctx, NULL) : split(m->ctx, s, data);
}

void text_data_close(text_data *data) {
  for (int part = RUN_TRAIN; part <= RUN_TEST; part++) {
    lk_texts_free(data->texts[part]);
    lk_rows_free(data->rows[part]);
    lk_rows_free(data->pairs[part]);
  }
  *data = (text_data){0};
}
