/* row_loader.c: batches of rows of tokens, filled up to the longest, in an order that epoch and position tell. */
#include <lorikeet/random.h>
#include <lorikeet/texts.h>
#include <string.h>

struct lk_row_loader {
  const lk_rows *rows;
  lk_row_options o;
  lk_cursor at;
  int64_t ordered_epoch; /* whose permutation `order` holds; -1: none */
  int64_t *order;        /* [count] */
  int64_t *other;        /* [count], sorting */
  int64_t *place;        /* [longest + 2], sorting: where the next row of a length goes */
  int64_t *ids, *types, *targets, *labels;
  uint8_t *mask;
};

lk_row_loader *lk_row_loader_new(const lk_rows *rows, const lk_row_options *o) {
  if (!rows) return NULL;
  lk_ctx *c = rows->ctx;
  if (o->batch < 1) lk_fail(c, LK_EARG, "loader: a batch of %lld rows", (long long)o->batch);
  else if (o->group < 0) lk_fail(c, LK_EARG, "loader: groups of %lld batches", (long long)o->group);
  lk_row_loader *l = lk_error(c, NULL) ? NULL : lk_alloc(c, sizeof *l);
  if (!l) return NULL;
  l->rows = rows;
  l->o = *o;
  if (l->o.batch > rows->count) l->o.batch = rows->count;
  l->ordered_epoch = -1;
  size_t n = (size_t)l->o.batch, cells = n * (size_t)rows->longest;
  l->order = lk_alloc_array(c, (size_t)rows->count, sizeof *l->order);
  if (o->by_length || o->group) {
    l->other = lk_alloc_array(c, (size_t)rows->count, sizeof *l->other);
    l->place = lk_alloc_array(c, (size_t)rows->longest + 2, sizeof *l->place);
  }
  l->ids = lk_alloc_array(c, cells + 1, sizeof *l->ids);
  l->mask = lk_alloc_array(c, cells + 1, sizeof *l->mask);
  if (rows->types) l->types = lk_alloc_array(c, cells + 1, sizeof *l->types);
  if (rows->targets) l->targets = lk_alloc_array(c, cells + 1, sizeof *l->targets);
  if (rows->label) l->labels = lk_alloc_array(c, n, sizeof *l->labels);
  if (!lk_error(c, NULL)) return l;
  lk_row_loader_free(l);
  return NULL;
}

void lk_row_loader_free(lk_row_loader *l) {
  if (!l) return;
  lk_ctx *c = l->rows->ctx;
  void *const parts[] = {l->order, l->other, l->place, l->ids, l->types, l->targets, l->labels, l->mask, l};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) lk_free(c, parts[i]);
}

static int64_t length_of(const lk_rows *r, int64_t i) { return r->begin[i + 1] - r->begin[i]; }

/* A counting sort of n of the ordered rows: of one length the first comes first. */
static void sort_by_length(lk_row_loader *l, int64_t from, int64_t n) {
  const lk_rows *r = l->rows;
  memset(l->place, 0, ((size_t)r->longest + 2) * sizeof *l->place);
  memcpy(l->other, l->order + from, (size_t)n * sizeof *l->other);
  for (int64_t i = 0; i < n; i++) l->place[length_of(r, l->other[i]) + 1]++;
  for (int64_t k = 0; k <= r->longest; k++) l->place[k + 1] += l->place[k];
  for (int64_t i = 0; i < n; i++) l->order[from + l->place[length_of(r, l->other[i])]++] = l->other[i];
}

/* Rows of like length into one batch, then the whole batches into random order. */
static void group_by_length(lk_row_loader *l, lk_key key) {
  int64_t count = l->rows->count, batch = l->o.batch, whole = count / batch;
  int64_t window = l->o.group < whole ? l->o.group * batch : count;
  for (int64_t from = 0; from < count; from += window)
    sort_by_length(l, from, count - from < window ? count - from : window);
  /* the batches' new places, kept behind each other in other[0 .. whole - 1], are walked cycle by cycle */
  lk_random_permutation(key, whole, l->other);
  for (int64_t i = 0; i < whole; i++) {
    int64_t j = l->other[i];
    while (j < i) j = l->other[j]; /* where batch j went when its place was filled */
    for (int64_t k = 0; k < batch && j != i; k++) {
      int64_t row = l->order[i * batch + k];
      l->order[i * batch + k] = l->order[j * batch + k];
      l->order[j * batch + k] = row;
    }
  }
}

static void arrange(lk_row_loader *l) {
  if (l->ordered_epoch == l->at.epoch) return;
  l->ordered_epoch = l->at.epoch;
  lk_key key = lk_key_fold(lk_key_make(l->o.seed, "rows"), (uint64_t)l->at.epoch);
  if (l->o.shuffle && !l->o.by_length) lk_random_permutation(key, l->rows->count, l->order);
  else
    for (int64_t i = 0; i < l->rows->count; i++) l->order[i] = i;
  if (l->o.by_length) sort_by_length(l, 0, l->rows->count);
  else if (l->o.shuffle && l->o.group) group_by_length(l, lk_key_fold(key, 1));
}

/* Row i of the data as row k of the batch. */
static void fill(lk_row_loader *l, int64_t i, int64_t k, int64_t width) {
  const lk_rows *r = l->rows;
  int64_t from = r->begin[i], n = length_of(r, i), at = k * width;
  for (int64_t j = 0; j < width; j++) {
    int real = j < n;
    l->ids[at + j] = real ? r->ids[from + j] : l->o.pad;
    l->mask[at + j] = (uint8_t)real;
    if (l->types) l->types[at + j] = real ? r->types[from + j] : 0;
    if (l->targets) l->targets[at + j] = real ? r->targets[from + j] : -100;
  }
  if (l->labels) l->labels[k] = r->label[i];
}

int lk_row_next(lk_row_loader *l, lk_row_batch *b) {
  if (!l) return 0;
  const lk_rows *r = l->rows;
  if (l->at.position >= r->count) {
    l->at = (lk_cursor){l->at.epoch + 1, 0};
    return 0;
  }
  arrange(l);
  int64_t left = r->count - l->at.position, n = left < l->o.batch ? left : l->o.batch, width = 0, shortest = INT64_MAX;
  const int64_t *index = l->order + l->at.position;
  for (int64_t k = 0; k < n; k++) {
    int64_t length = length_of(r, index[k]);
    width = length > width ? length : width;
    shortest = length < shortest ? length : shortest;
  }
  for (int64_t k = 0; k < n; k++) fill(l, index[k], k, width);
  *b = (lk_row_batch){.n = n,
                      .width = width,
                      .ids = l->ids,
                      .types = l->types,
                      .targets = l->targets,
                      .mask = l->mask,
                      .labels = l->labels,
                      .index = index,
                      .padded = shortest < width};
  l->at.position += n;
  return 1;
}

int64_t lk_row_steps(const lk_row_loader *l) { return l ? (l->rows->count + l->o.batch - 1) / l->o.batch : 0; }

lk_cursor lk_row_cursor(const lk_row_loader *l) { return l ? l->at : (lk_cursor){0, 0}; }

lk_status lk_row_seek(lk_row_loader *l, lk_cursor at) {
  if (!l) return LK_ENIL;
  int whole = at.position % l->o.batch == 0 || at.position == l->rows->count;
  if (at.epoch < 0 || at.position < 0 || at.position > l->rows->count || !whole)
    return lk_fail(l->rows->ctx, LK_EARG, "loader: no batch of %lld begins at row %lld of %lld in epoch %lld",
                   (long long)l->o.batch, (long long)at.position, (long long)l->rows->count, (long long)at.epoch);
  l->at = at;
  return LK_OK;
}
