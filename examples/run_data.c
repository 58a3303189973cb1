/* run_data.c: training, validation and test images, from IDX files, from folders, or drawn. */
#include "run.h"

enum { TRAIN = 10000, VALIDATION = 1000, TEST = 2000 }; /* built-in images, if nothing else is asked for */
enum { HELD_OUT = 2000 };                               /* of training files at most, and at most a tenth */

const option run_source_options[] = {
    {"data", OPTION_TEXT, offsetof(run_source, directory), 0, 0, "DIR",
     "IDX files (plain or .gz) as MNIST's (without it digits are drawn), or train.tsv, dev.tsv, test.tsv,"
     " or train/CLASS/*.png, *.jpg and test/CLASS/..."},
    {"domain", OPTION_TEXT, offsetof(run_source, domain), 0, 0, "NAMES",
     "of drawn digits: plain, or inverted, rotated, cluttered, noisy joined by +"},
    {"limit-train", OPTION_INT, offsetof(run_source, train), 0, 1e9, "N",
     "training examples at most; of drawn images, so many"},
    {"limit-validation", OPTION_INT, offsetof(run_source, validation), 0, 1e9, "N", "the same of validation examples"},
    {"limit-test", OPTION_INT, offsetof(run_source, test), 0, 1e9, "N", "the same of test examples"},
    {0}};

run_source run_source_defaults(void) { return (run_source){.domain = "plain"}; }

static int64_t or_default(int64_t n, int64_t otherwise) { return n > 0 ? n : otherwise; }

/* Replaces a dataset by a part of it. */
static lk_status limit(lk_dataset **d, int64_t n, uint64_t seed) {
  if (!*d || n <= 0 || n >= (*d)->count) return LK_OK;
  lk_dataset *part = lk_dataset_limit(*d, n, seed), *whole = *d;
  *d = part;
  lk_ctx *ctx = whole->ctx;
  lk_dataset_free(whole);
  return lk_error(ctx, NULL);
}

static lk_status draw(lk_ctx *ctx, const run_source *s, int64_t size, run_data *data) {
  /* seeds far from each other: no training image is ever drawn again for validation or test */
  enum { VALIDATION_SEED = 1000000001, TEST_SEED = 1000000002 };
  lk_digits_options o = {.size = size, .seed = s->seed};
  if (lk_digits_domain(ctx, s->domain, &o.domain)) return lk_error(ctx, NULL);
  if (!s->test_only) {
    data->train = lk_digits(ctx, or_default(s->train, TRAIN), &o);
    o.seed = VALIDATION_SEED;
    data->validation = lk_digits(ctx, or_default(s->validation, VALIDATION), &o);
  }
  o.seed = TEST_SEED;
  data->test = lk_digits(ctx, or_default(s->test, TEST), &o);
  return lk_error(ctx, NULL);
}

/* Takes `all` apart into images to train on and to validate with, and frees it. */
static lk_status hold_out(lk_dataset *all, const run_source *s, run_data *data) {
  if (!all) return LK_ENIL;
  lk_ctx *ctx = all->ctx;
  int64_t held = all->count / 10 < HELD_OUT ? all->count / 10 : HELD_OUT;
  held = or_default(s->validation, held);
  if (held >= all->count)
    lk_fail(ctx, LK_EARG, "%lld validation images cannot be held out of %lld training images", (long long)held,
            (long long)all->count);
  else lk_dataset_split(all, held, 0, &data->train, &data->validation);
  lk_dataset_free(all);
  return lk_error(ctx, NULL);
}

static lk_status open_idx(lk_ctx *ctx, const run_source *s, run_data *data) {
  if (!s->test_only && hold_out(lk_dataset_open(ctx, s->directory, "train", 0), s, data)) return lk_error(ctx, NULL);
  data->test = lk_dataset_open(ctx, s->directory, "t10k", data->train ? data->train->classes : 0);
  return lk_error(ctx, NULL);
}

/* ---- folders ---- */

typedef struct folders {
  lk_ctx *ctx;
  const char *directory;
  lk_preprocess images;
  lk_dataset *classes; /* of train/ */
} folders;

static int has_folder(const folders *f, const char *part) {
  char *path = lk_sprintf(f->ctx, "%s/%s", f->directory, part);
  int there = path && lk_file_exists(path);
  lk_free(f->ctx, path);
  return there;
}

/* Without classes: those alone. */
static lk_dataset *open_folder(const folders *f, const char *part) {
  char *path = lk_sprintf(f->ctx, "%s/%s", f->directory, part);
  lk_dataset *d = NULL;
  if (path && f->classes) d = lk_dataset_folder(f->ctx, path, &f->images, f->classes);
  else if (path) d = lk_dataset_folder_classes(f->ctx, path);
  lk_free(f->ctx, path);
  return d;
}

/* Puts the classes into the labels' order, if they are among them. */
static lk_status order_classes(folders *f, const run_labels *l) {
  lk_dataset *d = f->classes;
  int64_t *among = l && l->n ? run_labels_find(f->ctx, l, d->names, d->classes) : NULL;
  if (!among) return lk_error(f->ctx, NULL);
  lk_free(f->ctx, among);
  f->classes = lk_dataset_new(f->ctx, d->name, 0, 1, 1, 1, l->n);
  if (f->classes) lk_dataset_name(f->classes, l->name);
  lk_dataset_free(d);
  return lk_error(f->ctx, NULL);
}

static lk_status open_folders(folders *f, const run_source *s, run_data *data) {
  f->classes = open_folder(f, "train");
  if (!f->classes || order_classes(f, s->labels)) {
    lk_dataset_free(f->classes);
    return lk_error(f->ctx, NULL);
  }
  if (!s->test_only && has_folder(f, "validation")) {
    data->train = open_folder(f, "train");
    data->validation = open_folder(f, "validation");
    limit(&data->validation, s->validation, 0);
  } else if (!s->test_only) hold_out(open_folder(f, "train"), s, data);
  if (!lk_error(f->ctx, NULL)) data->test = open_folder(f, "test");
  lk_dataset_free(f->classes);
  return lk_error(f->ctx, NULL);
}

lk_status run_data_open(lk_ctx *ctx, const run_source *s, int64_t image_size, run_data *data) {
  folders f = {ctx, s->directory, s->images.channels ? s->images : lk_preprocess_default(1, image_size), NULL};
  *data = (run_data){0};
  if (!s->directory) draw(ctx, s, image_size, data);
  else if (has_folder(&f, "train")) open_folders(&f, s, data);
  else open_idx(ctx, s, data);
  if (s->directory && !lk_error(ctx, NULL) && !limit(&data->train, s->train, s->seed)) limit(&data->test, s->test, 0);
  if (lk_error(ctx, NULL)) run_data_close(data);
  return lk_error(ctx, NULL);
}

void run_data_close(run_data *data) {
  lk_dataset_free(data->train);
  lk_dataset_free(data->validation);
  lk_dataset_free(data->test);
  *data = (run_data){0};
}
