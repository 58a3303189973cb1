/* data.h: labelled images: IDX files, a built-in generator of handwritten-like digits, splits, batches.
 *
 * A dataset is plain memory: 8-bit pixels and one class per image.  A loader makes float batches of it, in an order
 * that is a pure function of (seed, epoch), so that a cursor of two numbers resumes it exactly. */
#ifndef LORIKEET_DATA_H
#define LORIKEET_DATA_H
#include <lorikeet/ctx.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LK_MAXCHANNELS 4

/* Images [count, channels, height, width] and their labels.  Memory is the context's, the struct owns all of it. */
typedef struct lk_dataset {
  lk_ctx *ctx;
  char *name;
  int64_t count, channels, height, width;
  int64_t classes; /* labels are in [0, classes) */
  uint8_t *pixels; /* row-major, 0 .. 255 */
  int64_t *labels; /* [count] */
  char **names;    /* [classes], of folders of images (images.h); NULL: classes are numbers */
} lk_dataset;

/* A black dataset with label 0 everywhere, to be filled by the caller.  NULL on error: sizes below 1 (count may be
 * 0), more than LK_MAXCHANNELS channels, or no memory.  name is copied. */
LK_API lk_dataset *lk_dataset_new(lk_ctx *ctx, const char *name, int64_t count, int64_t channels, int64_t height,
                                  int64_t width, int64_t classes);
LK_API void lk_dataset_free(lk_dataset *d); /* d may be NULL */
/* Names the classes, of which the dataset takes copies; names NULL: nothing happens.  On error it has none. */
LK_API lk_status lk_dataset_name(lk_dataset *d, char *const *names);

/* Images and labels from a pair of IDX files (LeCun's format; each plain or compressed, under its name or with .gz): u8 images [n, h, w] or [n, c, h, w], u8
 * labels [n].  classes 0: the largest label plus one; otherwise a label outside [0, classes) is an error, as are
 * another element type, another rank, no image at all, or different counts.  NULL on error. */
LK_API lk_dataset *lk_dataset_idx(lk_ctx *ctx, const char *images, const char *labels, int64_t classes);
/* The pair <part>-images-idx3-ubyte and <part>-labels-idx1-ubyte of a directory, as MNIST and its relatives name
 * them: part "train" or "t10k".  Each file may end in .gz, and 4-d images may be called idx4. */
LK_API lk_dataset *lk_dataset_open(lk_ctx *ctx, const char *directory, const char *part, int64_t classes);

/* A copy of the n images index[0 .. n-1], in that order; an index may repeat.  NULL on error. */
LK_API lk_dataset *lk_dataset_subset(const lk_dataset *d, int64_t n, const int64_t *index);
/* A copy with at most n images, balanced over the classes: round after round, one random image of every class that
 * still has one.  The same seed with a smaller n gives a prefix.  NULL on error. */
LK_API lk_dataset *lk_dataset_limit(const lk_dataset *d, int64_t n, uint64_t seed);
/* Two disjoint copies by a random permutation: `held` images into *validation, all others into *train (both stay
 * as they were on error).  0 <= held <= count. */
LK_API lk_status lk_dataset_split(const lk_dataset *d, int64_t held, uint64_t seed, lk_dataset **train,
                                  lk_dataset **validation);
/* Mean and standard deviation of pixel / 255 per channel (arrays of LK_MAXCHANNELS; unused channels 0 and 1). */
LK_API void lk_dataset_moments(const lk_dataset *d, double *mean, double *std);

/* ---- built-in digits ---- */
/* Shifts of the plain domain (white ink on black, upright), combined with |. */
enum {
  LK_DIGITS_PLAIN = 0,
  LK_DIGITS_INVERTED = 1,  /* black ink on white */
  LK_DIGITS_ROTATED = 2,   /* turned by angle +- spread degrees */
  LK_DIGITS_CLUTTERED = 4, /* pieces of other strokes around the digit */
  LK_DIGITS_NOISY = 8      /* blurred, lower contrast, grain */
};

typedef struct lk_digits_options {
  int64_t size;         /* height and width in pixels; 0: 28 */
  unsigned domain;      /* LK_DIGITS_... */
  uint64_t seed;        /* of all draws; the context's seed is not used */
  double angle, spread; /* of LK_DIGITS_ROTATED, in degrees, clockwise; both 0: 40 and 15 */
} lk_digits_options;

/* count images [1, size, size] of the digits 0 .. 9, drawn with a pen that varies in shape, slant, aspect, thickness
 * and wobble; every ten images hold each digit once.  Image i depends on (seed, i, options) alone, and all domains
 * of a seed show the same digits.  options may be NULL.  NULL on error (size outside [8, 512], unknown domain). */
LK_API lk_dataset *lk_digits(lk_ctx *ctx, int64_t count, const lk_digits_options *options);
/* "plain", "inverted", "rotated", "cluttered", "noisy", or several joined by +, into *domain. */
LK_API lk_status lk_digits_domain(lk_ctx *ctx, const char *text, unsigned *domain);

/* ---- batches ---- */
/* Random affine changes of training images, borders repeated.  All zero: off. */
typedef struct lk_augment {
  double shift;  /* up to so many pixels each way */
  double rotate; /* up to so many degrees each way */
  double scale;  /* size times 1 +- scale */
  double shear;  /* horizontal, up to so much of the height */
} lk_augment;

typedef struct lk_loader_options {
  int64_t batch; /* images a batch, at least 1 */
  uint64_t seed;
  int shuffle;   /* a new permutation every epoch, a function of (seed, epoch); 0: the dataset's order */
  int drop_last; /* leave out an incomplete last batch */
  /* value = (pixel / 255 - mean) / std per channel; an std of 0 counts as 1 */
  double mean[LK_MAXCHANNELS], std[LK_MAXCHANNELS];
  lk_augment augment; /* keyed by (seed, epoch, image), so independent of the batch size */
} lk_loader_options;

/* Where a loader stands: all that a checkpoint needs. */
typedef struct lk_cursor {
  int64_t epoch;    /* from 0 */
  int64_t position; /* images of this epoch already given */
} lk_cursor;

/* Points into the loader's buffers: valid until the next lk_loader_next. */
typedef struct lk_batch {
  int64_t n, channels, height, width;
  const float *images;   /* [n, channels, height, width] */
  const int64_t *labels; /* [n] */
  const int64_t *index;  /* [n], places in the dataset */
} lk_batch;

typedef struct lk_loader lk_loader;

/* Batches of a dataset, which must outlive the loader.  All memory is taken here.  NULL on error. */
LK_API lk_loader *lk_loader_new(const lk_dataset *d, const lk_loader_options *options);
LK_API void lk_loader_free(lk_loader *l); /* l may be NULL */
/* The next batch: 1; or 0 once at the end of every epoch, after which the next one begins. */
LK_API int lk_loader_next(lk_loader *l, lk_batch *batch);
LK_API int64_t lk_loader_steps(const lk_loader *l); /* batches an epoch */
LK_API lk_cursor lk_loader_cursor(const lk_loader *l);
/* Continues from a cursor of a loader with the same dataset and options.  LK_EARG if it cannot be one. */
LK_API lk_status lk_loader_seek(lk_loader *l, lk_cursor cursor);

#ifdef __cplusplus
}
#endif
#endif
