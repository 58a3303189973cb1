/* run_data.c: training, validation and test images, from IDX files or drawn. */
#include "run.h"

enum { TRAIN = 10000, VALIDATION = 1000, TEST = 2000 }; /* built-in images, if nothing else is asked for */
enum { HELD_OUT = 2000 };                               /* of training files at most, and at most a tenth */

const option run_source_options[] = {
    {"data", OPTION_TEXT, offsetof(run_source, directory), 0, 0, "DIR",
     "IDX files (plain or .gz) as MNIST's (without it digits are drawn), or train.tsv, dev.tsv, test.tsv"},
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

static lk_status open_train(lk_ctx *ctx, const run_source *s, run_data *data) {
  lk_dataset *all = lk_dataset_open(ctx, s->directory, "train", 0);
  if (!all) return lk_error(ctx, NULL);
  int64_t held = all->count / 10 < HELD_OUT ? all->count / 10 : HELD_OUT;
  held = or_default(s->validation, held);
  if (held >= all->count)
    lk_fail(ctx, LK_EARG, "%lld validation images cannot be held out of %lld training images", (long long)held,
            (long long)all->count);
  else if (!lk_dataset_split(all, held, 0, &data->train, &data->validation)) limit(&data->train, s->train, s->seed);
  lk_dataset_free(all);
  return lk_error(ctx, NULL);
}

lk_status run_data_open(lk_ctx *ctx, const run_source *s, int64_t image_size, run_data *data) {
  *data = (run_data){0};
  if (!s->directory) draw(ctx, s, image_size, data);
  else {
    if (!s->test_only) open_train(ctx, s, data);
    if (!lk_error(ctx, NULL))
      data->test = lk_dataset_open(ctx, s->directory, "t10k", data->train ? data->train->classes : 0);
    limit(&data->test, s->test, 0);
  }
  if (lk_error(ctx, NULL)) run_data_close(data);
  return lk_error(ctx, NULL);
}

void run_data_close(run_data *data) {
  lk_dataset_free(data->train);
  lk_dataset_free(data->validation);
  lk_dataset_free(data->test);
  *data = (run_data){0};
}
