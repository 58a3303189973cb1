/* text_task.c: texts as a task of the training loop: classes, next tokens, hidden tokens, vectors of pairs. */
#include "text_hide.h"

#include <math.h>
#include <string.h>

enum { JUDGED_ROWS = 64, JUDGED_BLOCKS = 8 }; /* a batch, when nothing is trained */

typedef struct text_task {
  run_task task;
  text_model *m;
  const text_data *data;
  lk_rows *part, *pair_part; /* in place of the training rows, for a sample */
  double smoothing;
  text_hider hider;
  lk_row_loader *loader, *pair_loader; /* the second one walks beside the first */
  lk_row_batch batch, pair;
} text_task;

enum { GROUP = 50 }; /* batches whose rows are sorted together, as transformers does */

static const lk_rows *rows(const run_task *t, run_part part) {
  const text_task *s = (const text_task *)t;
  return !s->part ? s->data->rows[part] : part == RUN_TRAIN ? s->part : NULL;
}

static const lk_rows *pairs(const run_task *t, run_part part) {
  const text_task *s = (const text_task *)t;
  return !s->part ? s->data->pairs[part] : part == RUN_TRAIN ? s->pair_part : NULL;
}

static int64_t examples(const run_task *t, run_part part) {
  const lk_rows *r = rows(t, part);
  return r ? r->count : 0;
}

static lk_status check(run_task *t) {
  text_task *s = (text_task *)t;
  return s->m->kind == TEXT_MASKED_LM ? text_hider_open(s->m, &s->hider) : LK_OK;
}

static uint64_t hash_rows(uint64_t hash, const lk_rows *r) {
  for (int64_t i = 0; r && i < r->count; i++) {
    hash = (hash ^ (uint64_t)(r->begin[i] + (r->label ? r->label[i] << 32 : 0))) * 0x100000001b3;
    for (int64_t j = r->begin[i]; j < r->begin[i + 1]; j++) hash = (hash ^ (uint64_t)r->ids[j]) * 0x100000001b3;
  }
  return hash;
}

/* FNV-1a of tokens and labels, and of what is done with them. */
static uint64_t fingerprint(const run_task *t) {
  const text_task *s = (const text_task *)t;
  uint64_t hash = 0xcbf29ce484222325 ^ (uint64_t)((s->data->by_length * 8 + s->m->kind) * 2 + s->m->p->dropout);
  return hash_rows(hash_rows(hash, rows(t, RUN_TRAIN)), pairs(t, RUN_TRAIN));
}

/* ---- batches ---- */

static void finish(run_task *t) {
  text_task *s = (text_task *)t;
  lk_row_loader_free(s->loader);
  lk_row_loader_free(s->pair_loader);
  s->loader = s->pair_loader = NULL;
}

/* A loader over the rows of a part, and one over the second texts, if there are any. */
static lk_status load(run_task *t, run_part part, const lk_row_options *o) {
  text_task *s = (text_task *)t;
  finish(t);
  s->loader = lk_row_loader_new(rows(t, part), o);
  s->pair_loader = lk_row_loader_new(pairs(t, part), o);
  return lk_error(t->ctx, NULL);
}

static lk_status start(run_task *t, const run_options *r) {
  text_task *s = (text_task *)t;
  const lk_row_options o = {.batch = r->batch,
                            .pad = s->m->p->pad < 0 ? 0 : s->m->p->pad,
                            .seed = lk_seed(t->ctx),
                            .shuffle = 1,
                            .group = s->data->by_length ? GROUP : 0};
  s->smoothing = r->smoothing;
  s->m->p->recompute = r->recompute != LK_VIT_KEEP;
  if (s->m->kind == TEXT_EMBED && r->accumulate > 1)
    return lk_fail(t->ctx, LK_EARG, "--task embed compares all texts of a batch: --accumulate must be 1");
  if (s->m->kind == TEXT_EMBED && o.group)
    return lk_fail(t->ctx, LK_EARG, "--group-by-length is not for --task embed: a text and its pair differ in length");
  return load(t, RUN_TRAIN, &o);
}

static int64_t next(run_task *t) {
  text_task *s = (text_task *)t;
  if (s->pair_loader) lk_row_next(s->pair_loader, &s->pair);
  return lk_row_next(s->loader, &s->batch) ? s->batch.n : 0;
}

static lk_cursor cursor(const run_task *t) { return lk_row_cursor(((const text_task *)t)->loader); }

static lk_status seek(run_task *t, lk_cursor at) {
  text_task *s = (text_task *)t;
  if (s->pair_loader && lk_row_seek(s->pair_loader, at)) return lk_error(t->ctx, NULL);
  return lk_row_seek(s->loader, at);
}

/* ---- what a token is to tell ---- */

static int is_classify(const text_task *s) { return s->m->kind == TEXT_CLASSIFY; }

/* The target of token j of a row of the batch, -100: none; *id: what the model sees of it. */
static int64_t target(const text_task *s, int64_t row, int64_t j, int64_t *id) {
  const lk_row_batch *b = &s->batch;
  if (s->m->kind == TEXT_MASKED_LM) {
    lk_key key = lk_key_make(lk_seed(s->task.ctx), "hide");
    return text_hide(&s->hider, lk_key_fold(key, (uint64_t)lk_row_cursor(s->loader).epoch), b, row, j, id);
  }
  *id = b->ids[row * b->width + j];
  return j + 1 < b->width ? b->targets[row * b->width + j + 1] : -100;
}

/* How many targets there are among the rows. */
static int64_t targets(const text_task *s, int64_t from, int64_t n) {
  int64_t count = 0, id;
  for (int64_t row = from; row < from + n; row++)
    for (int64_t j = 0; j < s->batch.width; j++) count += target(s, row, j, &id) >= 0;
  return count;
}

static double weight(const run_task *t, int64_t from, int64_t n) {
  const text_task *s = (const text_task *)t;
  if (is_classify(s) || s->m->kind == TEXT_EMBED || n == s->batch.n) return (double)n / (double)s->batch.n;
  int64_t all = targets(s, 0, s->batch.n);
  return all ? (double)targets(s, from, n) / (double)all : 0;
}

/* ---- losses ---- */

/* The model's result for rows from .. from + n - 1; ids nil: those of the batch. */
static lk_tensor forward(text_task *s, lk_tape *t, const lk_row_batch *b, int64_t from, int64_t n, lk_tensor ids) {
  const int64_t shape[] = {n, b->width}, at = from * b->width;
  lk_inputs in = {.ids = ids, .types = lk_nil(), .mask = lk_nil(), .cache = NULL};
  if (lk_is_nil(ids)) in.ids = lk_input(t, LK_I64, 2, shape, b->ids + at);
  if (b->types) in.types = lk_input(t, LK_I64, 2, shape, b->types + at);
  if (b->padded) in.mask = lk_input(t, LK_U8, 2, shape, b->mask + at);
  if (b->padded) lk_side(t, "token_mask", in.mask);
  return lk_pretrained_forward(s->m->p, t, &in);
}

static lk_tensor token_loss(text_task *s, lk_tape *t, int64_t from, int64_t n) {
  const int64_t shape[] = {n, s->batch.width};
  lk_tensor ids = lk_input(t, LK_I64, 2, shape, NULL), wanted = lk_input(t, LK_I64, 2, shape, NULL);
  lk_view seen, told;
  if (lk_get(t, ids, &seen) || lk_get(t, wanted, &told)) return lk_nil();
  for (int64_t i = 0; i < n * s->batch.width; i++)
    ((int64_t *)told.p)[i] = target(s, from + i / s->batch.width, i % s->batch.width, (int64_t *)seen.p + i);
  return lk_cross_entropy(t, forward(s, t, &s->batch, from, n, ids), wanted, -100, s->smoothing);
}

/* Of each first text, which second text is its own: 20 times the cosines as logits (sentence-transformers'
 * MultipleNegativesRankingLoss). */
static lk_tensor pair_scores(text_task *s, lk_tape *t) {
  lk_tensor a = forward(s, t, &s->batch, 0, s->batch.n, lk_nil());
  lk_tensor b = forward(s, t, &s->pair, 0, s->pair.n, lk_nil());
  return lk_scale(t, lk_matmul(t, a, lk_transpose(t, b, 0, 1)), 20);
}

static lk_tensor counted(lk_tape *t, int64_t n) {
  lk_tensor numbers = lk_input(t, LK_I64, 1, &n, NULL);
  lk_view v;
  if (lk_get(t, numbers, &v)) return lk_nil();
  for (int64_t i = 0; i < n; i++) ((int64_t *)v.p)[i] = i;
  return numbers;
}

static lk_tensor loss(run_task *t, lk_tape *tape, int64_t from, int64_t n) {
  text_task *s = (text_task *)t;
  if (s->m->kind == TEXT_EMBED)
    return lk_cross_entropy(tape, pair_scores(s, tape), counted(tape, n), -100, s->smoothing);
  if (!is_classify(s)) return token_loss(s, tape, from, n);
  lk_tensor labels = lk_input(tape, LK_I64, 1, &n, s->batch.labels + from);
  return lk_cross_entropy(tape, forward(s, tape, &s->batch, from, n, lk_nil()), labels, -100, s->smoothing);
}

/* ---- judging ---- */

/* Adds a batch's guesses; its losses where labels are known. */
static lk_status judge_classes(text_task *s, lk_tape *t, run_guess *guesses, run_score *sums) {
  const lk_row_batch *b = &s->batch;
  lk_view y;
  int embed = s->m->kind == TEXT_EMBED;
  lk_tensor logits = embed ? pair_scores(s, t) : lk_contiguous(t, forward(s, t, b, 0, b->n, lk_nil()));
  if (lk_get(t, logits, &y)) return lk_error(s->task.ctx, NULL);
  int64_t classes = y.shape[1];
  for (int64_t i = 0; i < b->n; i++) {
    run_guess guess;
    int64_t label = embed ? i : b->labels ? b->labels[i] : 0;
    double loss = run_guess_of((const float *)y.p + i * classes, classes, label, &guess);
    if (!isfinite(loss))
      return lk_fail(s->task.ctx, LK_ENONFINITE, "the outputs for text %lld are not finite", (long long)b->index[i]);
    sums->loss += loss;
    sums->accuracy += guess.prediction == label;
    if (guesses) guesses[b->index[i]] = guess;
  }
  return LK_OK;
}

static lk_status judge_tokens(text_task *s, lk_tape *t, run_score *sums, double *count) {
  int64_t n = targets(s, 0, s->batch.n);
  double loss = n ? lk_item(t, token_loss(s, t, 0, s->batch.n)) : 0;
  if (lk_error(s->task.ctx, NULL)) return lk_error(s->task.ctx, NULL);
  if (!isfinite(loss)) return lk_fail(s->task.ctx, LK_ENONFINITE, "the loss of the texts is %g", loss);
  sums->loss += loss * (double)n;
  *count += (double)n;
  return LK_OK;
}

/* All rows of a part, in evaluation mode. */
static lk_status judge(text_task *s, run_guess *guesses, run_score *sums, double *count) {
  lk_tape *t = lk_tape_new(s->task.ctx);
  int rows = is_classify(s) || s->m->kind == TEXT_EMBED;
  double smoothing = s->smoothing;
  s->smoothing = 0;
  if (t) lk_no_grad(t, 1);
  for (int64_t n; t && !lk_error(s->task.ctx, NULL) && (n = next(&s->task)) > 0;) {
    lk_tape_reset(t);
    if (rows && !judge_classes(s, t, guesses, sums)) *count += (double)n;
    else if (!rows) judge_tokens(s, t, sums, count);
  }
  s->smoothing = smoothing;
  if (t) lk_tape_free(t);
  return lk_error(s->task.ctx, NULL);
}

static lk_status evaluate(run_task *t, run_part part, run_guess *guesses, run_score *score) {
  text_task *s = (text_task *)t, other = *s; /* the training batches stay where they are */
  const lk_rows *r = rows(t, part);
  lk_row_options o = {.batch = is_classify(s) ? JUDGED_ROWS : JUDGED_BLOCKS, .by_length = is_classify(s)};
  int unknown = is_classify(s) ? !r->label : s->m->kind == TEXT_EMBED && !pairs(t, part);
  double count = 0;
  *score = (run_score){0, 0};
  if (s->m->kind == TEXT_EMBED) o.batch = JUDGED_ROWS;
  o.pad = s->m->p->pad < 0 ? 0 : s->m->p->pad;
  other.loader = other.pair_loader = NULL;
  if (unknown && (!guesses || s->m->kind == TEXT_EMBED)) *score = (run_score){NAN, NAN};
  else if (!check(&other.task) && !load(&other.task, part, &o)) judge(&other, guesses, score, &count);
  finish(&other.task);
  if (count > 0) *score = (run_score){score->accuracy / count, score->loss / count};
  if (!is_classify(s) && s->m->kind != TEXT_EMBED) score->accuracy = NAN;
  if (unknown) *score = (run_score){NAN, NAN};
  return lk_error(t->ctx, NULL);
}

lk_status text_write_vectors(text_model *m, const lk_rows *r, const char *path) {
  text_task s = {.task = {NULL, m->ctx, m->model}, .m = m};
  lk_writer *w = lk_writer_open(m->ctx, path);
  lk_tape *t = w ? lk_tape_new(m->ctx) : NULL;
  s.loader =
      t ? lk_row_loader_new(r, &(lk_row_options){.batch = JUDGED_ROWS, .pad = m->p->pad < 0 ? 0 : m->p->pad}) : NULL;
  if (t) lk_no_grad(t, 1);
  while (s.loader && !lk_error(m->ctx, NULL) && lk_row_next(s.loader, &s.batch)) {
    lk_view v;
    lk_tape_reset(t);
    if (lk_get(t, lk_contiguous(t, forward(&s, t, &s.batch, 0, s.batch.n, lk_nil())), &v)) break;
    for (int64_t i = 0, width = v.shape[1]; i < v.shape[0] * width; i++)
      lk_writef(w, "%.9g%c", lk_view_get(&v, i), (i + 1) % width ? '\t' : '\n');
  }
  finish(&s.task);
  if (t) lk_tape_free(t);
  if (!w) return lk_error(m->ctx, NULL);
  if (!lk_error(m->ctx, NULL)) return lk_writer_commit(w);
  lk_writer_abort(w);
  return lk_error(m->ctx, NULL);
}

/* ---- sampling ---- */

static lk_status sample(run_task *t, int64_t n) {
  text_task *s = (text_task *)t;
  const text_data *d = s->data;
  lk_rows_free(s->part);
  lk_rows_free(s->pair_part);
  s->part = n ? lk_rows_limit(d->rows[RUN_TRAIN], n, lk_seed(t->ctx)) : NULL;
  s->pair_part = n ? lk_rows_limit(d->pairs[RUN_TRAIN], n, lk_seed(t->ctx)) : NULL;
  return lk_error(t->ctx, NULL);
}

static const run_task_class class = {.unit = "texts",
                                     .check = check,
                                     .examples = examples,
                                     .fingerprint = fingerprint,
                                     .start = start,
                                     .next = next,
                                     .cursor = cursor,
                                     .seek = seek,
                                     .finish = finish,
                                     .loss = loss,
                                     .weight = weight,
                                     .evaluate = evaluate,
                                     .sample = sample};

run_task *text_task_new(text_model *m, const text_data *data) {
  text_task *s = lk_alloc(m->ctx, sizeof *s);
  if (!s) return NULL;
  *s = (text_task){.task = {&class, m->ctx, m->model}, .m = m, .data = data};
  return &s->task;
}

void text_task_free(run_task *t) {
  if (!t) return;
  finish(t);
  sample(t, 0);
  lk_free(t->ctx, t);
}

double text_lr(const run_options *o) {
  static const struct {
    const char *word;
    double lr;
  } tuned[] = {{"full", 5e-5}, {"probe", 1e-2}};
  const char *name = run_method_name(o);
  if (o->lr > 0) return o->lr;
  for (size_t i = 0; i < sizeof tuned / sizeof *tuned; i++)
    if (strstr(name, tuned[i].word)) return tuned[i].lr;
  return 1e-3;
}
