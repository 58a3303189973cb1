/* idx.c: datasets from IDX files, as MNIST and its relatives come. */
#include <lorikeet/data.h>
#include <lorikeet/file.h>
#include <lorikeet/idx.h>
#include <string.h>

static lk_status check_images(lk_ctx *ctx, const char *path, const lk_view *v) {
  char shape[160];
  if (v->dtype != LK_U8)
    return lk_fail(ctx, LK_EDTYPE, "%s: images of unsigned bytes are needed, not %s", path, lk_dtype_name(v->dtype));
  if (v->ndim != 3 && v->ndim != 4)
    return lk_fail(ctx, LK_ESHAPE, "%s: images must be [n, h, w] or [n, c, h, w], not %s", path,
                   lk_view_format(v, shape));
  if (v->shape[0] == 0) return lk_fail(ctx, LK_EFORMAT, "%s: no images", path);
  return LK_OK;
}

static lk_status check_labels(lk_ctx *ctx, const char *path, const lk_view *v, int64_t images, int64_t *classes) {
  char shape[160];
  int largest = 0;
  if (v->dtype != LK_U8 || v->ndim != 1)
    return lk_fail(ctx, LK_ESHAPE, "%s: labels must be u8 [n], not %s %s", path, lk_dtype_name(v->dtype),
                   lk_view_format(v, shape));
  if (v->shape[0] != images)
    return lk_fail(ctx, LK_EFORMAT, "%s: %lld labels for %lld images", path, (long long)v->shape[0], (long long)images);
  for (int64_t i = 0; i < images; i++) {
    int label = ((const uint8_t *)v->p)[i];
    if (*classes > 0 && label >= *classes)
      return lk_fail(ctx, LK_EFORMAT, "%s: label %d of image %lld is not below %lld", path, label, (long long)i,
                     (long long)*classes);
    if (label > largest) largest = label;
  }
  if (*classes <= 0) *classes = largest + 1;
  return LK_OK;
}

/* Both views hold what their files hold; their memory stays the caller's. */
static lk_dataset *combine(lk_ctx *ctx, const char *image_path, const lk_view *images, const char *label_path,
                           const lk_view *labels, int64_t classes) {
  int64_t n = images->shape[0], planes = images->ndim == 4;
  if (check_images(ctx, image_path, images) || check_labels(ctx, label_path, labels, n, &classes)) return NULL;
  lk_dataset *d = lk_dataset_new(ctx, image_path, n, planes ? images->shape[1] : 1, images->shape[1 + planes],
                                 images->shape[2 + planes], classes);
  if (!d) return NULL;
  memcpy(d->pixels, images->p, lk_view_bytes(images));
  for (int64_t i = 0; i < n; i++) d->labels[i] = ((const uint8_t *)labels->p)[i];
  return d;
}

lk_dataset *lk_dataset_idx(lk_ctx *ctx, const char *images, const char *labels, int64_t classes) {
  lk_view x = {0}, y = {0};
  lk_dataset *d = NULL;
  if (lk_idx_read_either(ctx, images, &x) == LK_OK && lk_idx_read_either(ctx, labels, &y) == LK_OK)
    d = combine(ctx, images, &x, labels, &y, classes);
  lk_free(ctx, x.p);
  lk_free(ctx, y.p);
  return d;
}

/* The first of the usual names that exists, plain or compressed; the first one if none does.  The caller's. */
static char *find(lk_ctx *ctx, const char *directory, const char *part, const char *const *names) {
  for (const char *const *name = names; *name; name++) {
    char *path = lk_sprintf(ctx, "%s/%s-%s", directory, part, *name),
         *gz = path ? lk_sprintf(ctx, "%s.gz", path) : NULL;
    int there = !gz || lk_file_exists(path) || lk_file_exists(gz);
    lk_free(ctx, gz);
    if (there) return path;
    lk_free(ctx, path);
  }
  return lk_sprintf(ctx, "%s/%s-%s", directory, part, names[0]);
}

lk_dataset *lk_dataset_open(lk_ctx *ctx, const char *directory, const char *part, int64_t classes) {
  static const char *const images[] = {"images-idx3-ubyte", "images-idx4-ubyte", "images.idx3-ubyte", NULL};
  static const char *const labels[] = {"labels-idx1-ubyte", "labels.idx1-ubyte", NULL};
  char *x = find(ctx, directory, part, images), *y = x ? find(ctx, directory, part, labels) : NULL;
  lk_dataset *d = y ? lk_dataset_idx(ctx, x, y, classes) : NULL;
  lk_free(ctx, x);
  lk_free(ctx, y);
  return d;
}
