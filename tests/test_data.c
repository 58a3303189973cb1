/* test_data.c: generated digits, IDX pairs, subsets and splits, loaders and their cursors, failing memory. */
#include "alloc.h"
#include "files.h"

#include <check.h>
#include <lorikeet/data.h>
#include <math.h>

static lk_ctx *ctx;

static void setup(void) {
  test_directory();
  ctx = lk_ctx_new(NULL);
}

static void teardown(void) {
  lk_warnings_clear(ctx);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, 0);
  lk_ctx_free(ctx);
  test_directory_remove();
}

static void expect_ok(void) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == LK_OK, "%s", message);
}

/* The context must have this error, whose sentence contains the words; clears it. */
static void expect_error(lk_status status, const char *words) {
  const char *message;
  ck_assert_int_eq(lk_error(ctx, &message), status);
  ck_assert_msg(strstr(message, words) != NULL, "\"%s\" is not in \"%s\"", words, message);
  lk_error_clear(ctx);
}

static lk_dataset *digits(int64_t count, int64_t size, unsigned domain, uint64_t seed) {
  lk_digits_options o = {.size = size, .domain = domain, .seed = seed};
  lk_dataset *d = lk_digits(ctx, count, &o);
  expect_ok();
  return d;
}

/* n images of 2 x 2 whose pixels and label tell their number. */
static lk_dataset *numbered(int64_t n, int64_t classes) {
  lk_dataset *d = lk_dataset_new(ctx, "numbered", n, 1, 2, 2, classes);
  for (int64_t i = 0; i < n; i++) {
    memset(d->pixels + 4 * i, (int)i, 4);
    d->labels[i] = i % classes;
  }
  return d;
}

static double mean_pixel(const lk_dataset *d) {
  double mean[LK_MAXCHANNELS], std[LK_MAXCHANNELS];
  lk_dataset_moments(d, mean, std);
  return mean[0];
}

/* ---- digits ---- */

START_TEST(digits_depend_on_seed_and_index_alone) {
  lk_dataset *a = digits(40, 0, LK_DIGITS_PLAIN, 7), *b = digits(23, 0, LK_DIGITS_PLAIN, 7);
  lk_dataset *c = digits(40, 0, LK_DIGITS_PLAIN, 8);
  ck_assert_int_eq(a->height, 28);
  ck_assert_int_eq(a->classes, 10);
  ck_assert_mem_eq(a->pixels, b->pixels, 23 * 28 * 28);
  ck_assert_mem_eq(a->labels, b->labels, 23 * sizeof *a->labels);
  ck_assert_mem_ne(a->pixels, c->pixels, 40 * 28 * 28);
  lk_dataset_free(a);
  lk_dataset_free(b);
  lk_dataset_free(c);
}
END_TEST

START_TEST(every_ten_digits_hold_each_once) {
  lk_dataset *d = digits(50, 12, LK_DIGITS_PLAIN, 1);
  int sorted = 1;
  for (int block = 0; block < 5; block++) {
    unsigned seen = 0;
    for (int i = 0; i < 10; i++) {
      seen |= 1u << d->labels[10 * block + i];
      sorted &= d->labels[10 * block + i] == i;
    }
    ck_assert_uint_eq(seen, 1023);
  }
  ck_assert(!sorted);
  lk_dataset_free(d);
}
END_TEST

/* All ink is inside, dark and bright pixels exist, no two images are equal. */
START_TEST(digits_have_ink) {
  static const int64_t sizes[] = {12, 28, 65};
  for (int s = 0; s < 3; s++) {
    lk_dataset *d = digits(100, sizes[s], LK_DIGITS_PLAIN, 3);
    int64_t area = d->height * d->width;
    for (int64_t i = 0; i < d->count; i++) {
      const uint8_t *p = d->pixels + i * area;
      int64_t bright = 0, dark = 0;
      for (int64_t k = 0; k < area; k++) {
        bright += p[k] > 120;
        dark += p[k] == 0;
      }
      ck_assert_int_gt(100 * bright, area);
      ck_assert_int_gt(2 * dark, area);
      if (i > 0) ck_assert_mem_ne(p, p - area, (size_t)area);
    }
    lk_dataset_free(d);
  }
}
END_TEST

START_TEST(domains_show_the_same_digits) {
  lk_dataset *plain = digits(60, 28, LK_DIGITS_PLAIN, 5);
  for (unsigned domain = 1; domain < 16; domain++) {
    lk_dataset *d = digits(60, 28, domain, 5);
    double light = mean_pixel(d), before = mean_pixel(plain);
    ck_assert_mem_eq(d->labels, plain->labels, 60 * sizeof *d->labels);
    ck_assert_mem_ne(d->pixels, plain->pixels, 60 * 28 * 28);
    if (domain == LK_DIGITS_INVERTED) ck_assert_double_eq_tol(light, 1 - before, 1e-12);
    if (domain == LK_DIGITS_ROTATED) ck_assert_double_eq_tol(light, before, .01);
    if (domain == LK_DIGITS_CLUTTERED) ck_assert_double_gt(light, before + .01);
    if (domain == LK_DIGITS_NOISY) ck_assert_double_gt(light, before + .05);
    lk_dataset_free(d);
  }
  lk_dataset_free(plain);
}
END_TEST

/* Half a turn, without spread, is the upright image read backwards. */
START_TEST(rotation_is_about_the_middle) {
  lk_digits_options o = {.seed = 4, .domain = LK_DIGITS_ROTATED, .angle = 180};
  lk_dataset *upright = digits(10, 28, LK_DIGITS_PLAIN, 4), *turned = lk_digits(ctx, 10, &o);
  double difference = 0, against_upright = 0;
  for (int64_t i = 0; i < 10; i++)
    for (int64_t k = 0; k < 784; k++) {
      difference += abs(turned->pixels[784 * i + k] - upright->pixels[784 * i + 783 - k]);
      against_upright += abs(turned->pixels[784 * i + k] - upright->pixels[784 * i + k]);
    }
  ck_assert_double_lt(difference, .02 * against_upright);
  lk_dataset_free(upright);
  lk_dataset_free(turned);
}
END_TEST

START_TEST(digits_refuse) {
  unsigned domain = 99;
  ck_assert_ptr_null(lk_digits(ctx, 1, &(lk_digits_options){.size = 7}));
  expect_error(LK_EARG, "size 7");
  ck_assert_ptr_null(lk_digits(ctx, 1, &(lk_digits_options){.domain = 16}));
  expect_error(LK_EARG, "domain 16");
  ck_assert_ptr_null(lk_digits(ctx, -1, NULL));
  expect_error(LK_ESHAPE, "-1");
  ck_assert_ptr_null(lk_digits(ctx, INT64_MAX, NULL));
  expect_error(LK_ESHAPE, "no room");
  ck_assert_int_eq(lk_digits_domain(ctx, "plain", &domain), LK_OK);
  ck_assert_uint_eq(domain, LK_DIGITS_PLAIN);
  ck_assert_int_eq(lk_digits_domain(ctx, "noisy+inverted", &domain), LK_OK);
  ck_assert_uint_eq(domain, LK_DIGITS_NOISY | LK_DIGITS_INVERTED);
  ck_assert_int_eq(lk_digits_domain(ctx, "rotated+clutter", &domain), LK_EARG);
  expect_error(LK_EARG, "\"clutter\"");
  ck_assert_int_eq(lk_digits_domain(ctx, "", &domain), LK_EARG);
  expect_error(LK_EARG, "\"\"");
  ck_assert_uint_eq(domain, LK_DIGITS_NOISY | LK_DIGITS_INVERTED);
}
END_TEST

/* ---- IDX ---- */

/* An IDX file of bytes 0, 1, 2 ... modulo `modulo`, with the sizes given; plain or gzip. */
static void put_idx(const char *path, int type, int ndim, const int *shape, int modulo, int gz) {
  unsigned char raw[4096] = {0, 0, (unsigned char)type, (unsigned char)ndim}, packed[4200];
  size_t n = 4, count = 1;
  for (int d = 0; d < ndim; d++, n += 4) {
    raw[n + 2] = (unsigned char)(shape[d] >> 8);
    raw[n + 3] = (unsigned char)shape[d];
    count *= (size_t)shape[d];
  }
  for (size_t i = 0; i < count; i++) raw[n++] = (unsigned char)(i % (size_t)modulo);
  if (gz) test_put(path, packed, test_gzip(raw, n, packed));
  else test_put(path, raw, n);
}

START_TEST(idx_pairs_load) {
  put_idx("train-images-idx3-ubyte.gz", 8, 3, (int[]){6, 3, 4}, 256, 1);
  put_idx("train-labels-idx1-ubyte", 8, 1, (int[]){6}, 5, 0);
  lk_dataset *d = lk_dataset_open(ctx, ".", "train", 0);
  expect_ok();
  ck_assert_int_eq(d->count, 6);
  ck_assert_int_eq(d->channels, 1);
  ck_assert_int_eq(d->height, 3);
  ck_assert_int_eq(d->width, 4);
  ck_assert_int_eq(d->classes, 5);
  for (int i = 0; i < 72; i++) ck_assert_int_eq(d->pixels[i], i);
  for (int i = 0; i < 6; i++) ck_assert_int_eq(d->labels[i], i % 5);
  lk_dataset_free(d);
  put_idx("t10k-images-idx4-ubyte", 8, 4, (int[]){5, 3, 2, 4}, 256, 0);
  put_idx("t10k-labels-idx1-ubyte.gz", 8, 1, (int[]){5}, 5, 1);
  d = lk_dataset_open(ctx, ".", "t10k", 7);
  expect_ok();
  ck_assert_int_eq(d->channels, 3);
  ck_assert_int_eq(d->height, 2);
  ck_assert_int_eq(d->width, 4);
  ck_assert_int_eq(d->classes, 7);
  lk_dataset_free(d);
}
END_TEST

static void refused(const char *images, const char *labels, int64_t classes, lk_status status, const char *words) {
  ck_assert_ptr_null(lk_dataset_idx(ctx, images, labels, classes));
  expect_error(status, words);
}

START_TEST(idx_pairs_are_checked) {
  put_idx("x", 8, 3, (int[]){6, 3, 4}, 256, 0);
  put_idx("y", 8, 1, (int[]){6}, 5, 0);
  put_idx("five", 8, 1, (int[]){5}, 5, 0);
  put_idx("flat", 8, 2, (int[]){6, 4}, 256, 0);
  put_idx("none", 8, 3, (int[]){0, 3, 4}, 256, 0);
  put_idx("signed", 9, 3, (int[]){6, 3, 4}, 100, 0);
  put_idx("many", 8, 4, (int[]){6, 5, 1, 1}, 256, 0);
  put_idx("thin", 8, 3, (int[]){6, 0, 4}, 256, 0);
  put_idx("y1", 9, 1, (int[]){6}, 5, 0);
  refused("x", "five", 0, LK_EFORMAT, "five: 5 labels for 6 images");
  refused("x", "y", 4, LK_EFORMAT, "y: label 4 of image 4 is not below 4");
  refused("x", "x", 0, LK_ESHAPE, "labels must be u8 [n]");
  refused("x", "y1", 0, LK_ESHAPE, "labels must be u8 [n]");
  refused("flat", "y", 0, LK_ESHAPE, "[6, 4]");
  refused("none", "y", 0, LK_EFORMAT, "no images");
  refused("signed", "y", 0, LK_EDTYPE, "not i32");
  refused("many", "y", 0, LK_ESHAPE, "5 channels");
  refused("thin", "y", 0, LK_ESHAPE, "thin");
  refused("absent", "y", 0, LK_EIO, "absent");
  ck_assert_ptr_null(lk_dataset_open(ctx, "nowhere", "train", 0));
  expect_error(LK_EIO, "nowhere/train-images-idx3-ubyte");
}
END_TEST

/* A truncated file, wherever it is cut, is refused. */
START_TEST(idx_pairs_may_not_be_cut) {
  size_t n;
  put_idx("x", 8, 3, (int[]){2, 3, 4}, 256, 0);
  put_idx("y", 8, 1, (int[]){2}, 2, 0);
  unsigned char *bytes = test_get("x", &n);
  for (size_t cut = 0; cut < n; cut++) {
    test_put("x", bytes, cut);
    refused("x", "y", 0, LK_EFORMAT, "x");
  }
  test_put("x", bytes, n);
  lk_dataset_free(lk_dataset_idx(ctx, "x", "y", 0));
  expect_ok();
  free(bytes);
}
END_TEST

/* ---- subsets ---- */

START_TEST(splits_are_disjoint_and_complete) {
  lk_dataset *d = numbered(200, 4), *a = NULL, *b = NULL, *c = NULL, *e = NULL;
  int seen[200] = {0}, moved = 0;
  ck_assert_int_eq(lk_dataset_split(d, 50, 3, &a, &b), LK_OK);
  ck_assert_int_eq(lk_dataset_split(d, 50, 3, &c, &e), LK_OK);
  ck_assert_int_eq(a->count, 150);
  ck_assert_int_eq(b->count, 50);
  ck_assert_mem_eq(b->pixels, e->pixels, 50 * 4);
  for (int i = 0; i < 150; i++) seen[a->pixels[4 * i]]++;
  for (int i = 0; i < 50; i++) {
    seen[b->pixels[4 * i]]++;
    ck_assert_int_eq(b->labels[i], b->pixels[4 * i] % 4);
    moved += b->pixels[4 * i] != i;
  }
  for (int i = 0; i < 200; i++) ck_assert_int_eq(seen[i], 1);
  ck_assert_int_gt(moved, 40);
  lk_dataset_free(c);
  lk_dataset_free(e);
  ck_assert_int_eq(lk_dataset_split(d, 201, 3, &c, &e), LK_EARG);
  expect_error(LK_EARG, "201 of 200");
  lk_dataset_free(a);
  lk_dataset_free(b);
  lk_dataset_free(d);
}
END_TEST

START_TEST(limits_are_balanced_prefixes) {
  lk_dataset *d = numbered(100, 5);
  for (int i = 0; i < 100; i++) d->labels[i] = i < 3 ? 4 : i % 4; /* class 4 is rare */
  lk_dataset *a = lk_dataset_limit(d, 40, 9), *b = lk_dataset_limit(d, 13, 9), *all = lk_dataset_limit(d, 1000, 9);
  int count[5] = {0}, seen[100] = {0};
  for (int i = 0; i < 40; i++) count[a->labels[i]]++;
  ck_assert_int_eq(count[4], 3);
  for (int i = 0; i < 4; i++) ck_assert_int_ge(count[i], 9);
  ck_assert_mem_eq(a->pixels, b->pixels, 13 * 4);
  ck_assert_int_eq(all->count, 100);
  for (int i = 0; i < 100; i++) ck_assert_int_eq(seen[all->pixels[4 * i]]++, 0);
  ck_assert_ptr_null(lk_dataset_limit(d, -2, 9));
  expect_error(LK_EARG, "-2");
  ck_assert_ptr_null(lk_dataset_subset(d, 1, (int64_t[]){100}));
  expect_error(LK_EARG, "no image 100");
  lk_dataset_free(a);
  lk_dataset_free(b);
  lk_dataset_free(all);
  lk_dataset_free(d);
}
END_TEST

START_TEST(moments_are_per_channel) {
  lk_dataset *d = lk_dataset_new(ctx, "two", 2, 2, 1, 2, 1);
  double mean[LK_MAXCHANNELS], std[LK_MAXCHANNELS];
  memcpy(d->pixels, (uint8_t[]){0, 51, 255, 255, 102, 153, 255, 255}, 8);
  lk_dataset_moments(d, mean, std);
  ck_assert_double_eq_tol(mean[0], .3, 1e-12);
  ck_assert_double_eq_tol(std[0], sqrt(.05), 1e-12);
  ck_assert_double_eq_tol(mean[1], 1, 1e-12);
  ck_assert_double_eq_tol(std[1], 0, 1e-12);
  ck_assert_double_eq(std[3], 1);
  lk_dataset_free(d);
}
END_TEST

/* ---- loaders ---- */

/* Every image once an epoch, in a new order each, the last batch smaller or dropped. */
START_TEST(epochs_cover_everything_once) {
  lk_dataset *d = numbered(50, 10);
  int64_t order[3][50];
  for (int drop = 0; drop < 2; drop++) {
    lk_loader *l = lk_loader_new(d, &(lk_loader_options){.batch = 8, .seed = 2, .shuffle = 1, .drop_last = drop});
    lk_batch b;
    ck_assert_int_eq(lk_loader_steps(l), drop ? 6 : 7);
    for (int epoch = 0; epoch < 3; epoch++) {
      int seen[50] = {0}, total = 0, steps = 0;
      for (; lk_loader_next(l, &b); steps++)
        for (int64_t i = 0; i < b.n; i++) {
          order[epoch][total++] = b.index[i];
          ck_assert_int_eq(seen[b.index[i]]++, 0);
          ck_assert_int_eq(b.labels[i], b.index[i] % 10);
          ck_assert_float_eq(b.images[4 * i + 3], (float)((double)b.index[i] / 255));
        }
      ck_assert_int_eq(steps, lk_loader_steps(l));
      ck_assert_int_eq(total, drop ? 48 : 50);
    }
    ck_assert_mem_ne(order[0], order[1], 48 * sizeof **order);
    ck_assert_mem_ne(order[1], order[2], 48 * sizeof **order);
    lk_loader_free(l);
  }
  lk_dataset_free(d);
}
END_TEST

/* From every cursor of two epochs, a second loader continues bit for bit; and takes no memory. */
START_TEST(cursors_resume) {
  lk_dataset *d = digits(30, 12, LK_DIGITS_PLAIN, 1);
  lk_loader_options o = {.batch = 8, .seed = 5, .shuffle = 1, .mean = {.1}, .std = {.3}, .augment = {1.5, 10, .1, .1}};
  for (int skip = 0; skip < 10; skip++) {
    lk_loader *a = lk_loader_new(d, &o), *b = lk_loader_new(d, &o);
    lk_batch x, y;
    for (int i = 0; i < skip; i++) lk_loader_next(a, &x);
    ck_assert_int_eq(lk_loader_seek(b, lk_loader_cursor(a)), LK_OK);
    uint64_t allocations = lk_ctx_statistics(ctx).allocations;
    for (int i = 0; i < 9; i++) {
      int more = lk_loader_next(a, &x);
      ck_assert_int_eq(lk_loader_next(b, &y), more);
      if (!more) continue;
      ck_assert_int_eq(x.n, y.n);
      ck_assert_mem_eq(x.index, y.index, (size_t)x.n * sizeof *x.index);
      ck_assert_mem_eq(x.labels, y.labels, (size_t)x.n * sizeof *x.labels);
      ck_assert_mem_eq(x.images, y.images, (size_t)(x.n * 144) * sizeof *x.images);
    }
    ck_assert_uint_eq(lk_ctx_statistics(ctx).allocations, allocations);
    lk_loader_free(a);
    lk_loader_free(b);
  }
  lk_dataset_free(d);
}
END_TEST

START_TEST(channels_are_normalised_each) {
  lk_dataset *d = lk_dataset_new(ctx, "two", 1, 2, 1, 2, 1);
  lk_loader_options o = {.batch = 4, .mean = {.5, 0}, .std = {.25, 0}};
  memcpy(d->pixels, (uint8_t[]){0, 255, 51, 102}, 4);
  lk_loader *l = lk_loader_new(d, &o);
  lk_batch b;
  ck_assert_int_eq(lk_loader_next(l, &b), 1);
  ck_assert_int_eq(b.n, 1);
  ck_assert_float_eq(b.images[0], -2);
  ck_assert_float_eq(b.images[1], 2);
  ck_assert_float_eq_tol(b.images[2], .2F, 1e-7F);
  ck_assert_float_eq_tol(b.images[3], .4F, 1e-7F);
  lk_loader_free(l);
  lk_dataset_free(d);
}
END_TEST

/* The first batch of an image that is bright in one pixel, seen through an augmentation. */
static void augmented(const lk_dataset *d, lk_augment a, uint64_t seed, int64_t batch, float *image) {
  lk_loader *l = lk_loader_new(d, &(lk_loader_options){.batch = batch, .seed = seed, .augment = a});
  lk_batch b;
  ck_assert_int_eq(lk_loader_next(l, &b), 1);
  memcpy(image, b.images, 81 * sizeof *image);
  lk_loader_free(l);
}

START_TEST(augmentation_moves_images) {
  lk_dataset *d = lk_dataset_new(ctx, "dots", 3, 1, 9, 9, 1);
  float a[81], b[81], c[81];
  lk_augment shift = {.shift = 2};
  int moved = 0;
  for (int i = 0; i < 3; i++) d->pixels[81 * i + 40] = 255;
  for (uint64_t seed = 0; seed < 20; seed++) {
    double sum = 0, x = 0, y = 0;
    augmented(d, shift, seed, 1, a);
    augmented(d, shift, seed, 3, b);
    ck_assert_mem_eq(a, b, sizeof a); /* whatever the batch size */
    for (int i = 0; i < 81; i++) {
      sum += a[i];
      x += a[i] * (i % 9 - 4.);
      y += a[i] * (i / 9 - 4.);
    }
    ck_assert_double_eq_tol(sum, 1, 1e-5); /* a pure shift loses no light */
    ck_assert_double_le(fabs(x), 2.001);
    ck_assert_double_le(fabs(y), 2.001);
    moved += fabs(x) > .5 || fabs(y) > .5;
    augmented(d, (lk_augment){.rotate = 90, .scale = .2}, seed, 1, c);
    ck_assert_float_eq_tol(c[40], 1, 1e-5F); /* the middle stays */
  }
  ck_assert_int_gt(moved, 10);
  lk_dataset_free(d);
}
END_TEST

START_TEST(loaders_refuse) {
  lk_dataset *d = numbered(10, 2), *empty = numbered(0, 2);
  ck_assert_ptr_null(lk_loader_new(d, &(lk_loader_options){.batch = 0}));
  expect_error(LK_EARG, "batch of 0");
  ck_assert_ptr_null(lk_loader_new(empty, &(lk_loader_options){.batch = 1}));
  expect_error(LK_EARG, "no images");
  ck_assert_ptr_null(lk_loader_new(d, &(lk_loader_options){.batch = 11, .drop_last = 1}));
  expect_error(LK_EARG, "leaves none of 10");
  ck_assert_ptr_null(lk_loader_new(d, &(lk_loader_options){.batch = 1, .std = {-1}}));
  expect_error(LK_EARG, "std -1");
  ck_assert_ptr_null(lk_loader_new(d, &(lk_loader_options){.batch = 1, .augment = {.scale = 1}}));
  expect_error(LK_EARG, "scale below 1");
  lk_loader *l = lk_loader_new(d, &(lk_loader_options){.batch = 4});
  ck_assert_int_eq(lk_loader_seek(l, (lk_cursor){0, 3}), LK_EARG);
  expect_error(LK_EARG, "image 3");
  ck_assert_int_eq(lk_loader_seek(l, (lk_cursor){0, 12}), LK_EARG);
  expect_error(LK_EARG, "image 12");
  ck_assert_int_eq(lk_loader_seek(l, (lk_cursor){-1, 0}), LK_EARG);
  expect_error(LK_EARG, "epoch -1");
  ck_assert_int_eq(lk_loader_seek(l, (lk_cursor){3, 10}), LK_OK);
  ck_assert_int_eq(lk_loader_next(l, &(lk_batch){0}), 0);
  ck_assert_int_eq(lk_loader_cursor(l).epoch, 4);
  lk_loader_free(l);
  lk_dataset_free(d);
  lk_dataset_free(empty);
}
END_TEST

/* ---- failing memory ---- */

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  lk_dataset *d = lk_digits(c, 30, &(lk_digits_options){.size = 8, .domain = LK_DIGITS_NOISY}), *train = NULL,
             *held = NULL;
  lk_dataset *idx = lk_dataset_open(c, ".", "train", 0);
  lk_dataset_split(d, 10, 1, &train, &held);
  lk_dataset *few = lk_dataset_limit(train, 15, 1);
  lk_loader *l = lk_loader_new(few, &(lk_loader_options){.batch = 4, .shuffle = 1});
  lk_batch b;
  while (lk_loader_next(l, &b)) continue;
  lk_loader_free(l);
  lk_dataset_free(few);
  lk_dataset_free(train);
  lk_dataset_free(held);
  lk_dataset_free(idx);
  lk_dataset_free(d);
  return lk_error(c, NULL);
}

START_TEST(every_allocation_may_fail) {
  uint64_t count = 0;
  put_idx("train-images-idx3-ubyte.gz", 8, 3, (int[]){6, 3, 4}, 256, 1);
  put_idx("train-labels-idx1-ubyte", 8, 1, (int[]){6}, 5, 0);
  const char *why = test_each_allocation(story, NULL, &count);
  ck_assert_msg(why == NULL, "%s", why);
  ck_assert_uint_gt(count, 30);
}
END_TEST

int main(void) {
  Suite *s = suite_create("data");
  TCase *t = tcase_create("data");
  tcase_set_timeout(t, 240);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, digits_depend_on_seed_and_index_alone);
  tcase_add_test(t, every_ten_digits_hold_each_once);
  tcase_add_test(t, digits_have_ink);
  tcase_add_test(t, domains_show_the_same_digits);
  tcase_add_test(t, rotation_is_about_the_middle);
  tcase_add_test(t, digits_refuse);
  tcase_add_test(t, idx_pairs_load);
  tcase_add_test(t, idx_pairs_are_checked);
  tcase_add_test(t, idx_pairs_may_not_be_cut);
  tcase_add_test(t, splits_are_disjoint_and_complete);
  tcase_add_test(t, limits_are_balanced_prefixes);
  tcase_add_test(t, moments_are_per_channel);
  tcase_add_test(t, epochs_cover_everything_once);
  tcase_add_test(t, cursors_resume);
  tcase_add_test(t, channels_are_normalised_each);
  tcase_add_test(t, augmentation_moves_images);
  tcase_add_test(t, loaders_refuse);
  tcase_add_test(t, every_allocation_may_fail);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
