/* images.c: datasets from folders of images, a folder for each class. */
#include <dirent.h>
#include <errno.h>
#include <lorikeet/file.h>
#include <lorikeet/images.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

typedef struct names {
  char **at;
  size_t n, capacity;
} names;

typedef struct folder {
  lk_ctx *ctx;
  const char *directory;
  names classes, files; /* folders' names; paths of all images, class after class */
  int64_t *first;       /* [classes.n + 1]: class c has the files first[c] .. first[c + 1] - 1 */
  int64_t left_out;     /* files and nested folders that are no images */
  char *example;        /* one of them */
} folder;

static void names_free(lk_ctx *ctx, names *l) {
  for (size_t i = 0; i < l->n; i++) lk_free(ctx, l->at[i]);
  lk_free(ctx, l->at);
}

/* Takes the text, also on error. */
static lk_status names_add(lk_ctx *ctx, names *l, char *text) {
  if (text && !lk_grow(ctx, &l->at, &l->capacity, l->n + 1, sizeof *l->at)) l->at[l->n++] = text;
  else lk_free(ctx, text);
  return lk_error(ctx, NULL);
}

static int in_order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* What a directory holds, without names that begin with a dot, sorted. */
static lk_status list(lk_ctx *ctx, const char *path, names *l) {
  DIR *d = opendir(path);
  if (!d) return lk_fail(ctx, LK_EIO, "cannot open the folder '%s': %s", path, strerror(errno));
  for (;;) {
    errno = 0;
    const struct dirent *e = readdir(d);
    if (!e && errno) lk_fail(ctx, LK_EIO, "cannot read the folder '%s': %s", path, strerror(errno));
    if (!e) break;
    if (e->d_name[0] != '.' && names_add(ctx, l, lk_strdup(ctx, e->d_name))) break;
  }
  closedir(d);
  if (l->n) qsort(l->at, l->n, sizeof *l->at, in_order);
  return lk_error(ctx, NULL);
}

static int is_folder(const char *path) {
  struct stat s;
  return !stat(path, &s) && S_ISDIR(s.st_mode);
}

static int is_image(const char *path) {
  const char *dot = strrchr(path, '.');
  return dot && (!strcasecmp(dot, ".png") || !strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg")) && !is_folder(path);
}

/* Takes the path. */
static void leave_out(folder *f, char *path) {
  f->left_out++;
  if (f->example) lk_free(f->ctx, path);
  else f->example = path;
}

static lk_status find_classes(folder *f) {
  names all = {0};
  list(f->ctx, f->directory, &all);
  for (size_t i = 0; i < all.n && !lk_error(f->ctx, NULL); i++) {
    char *path = lk_sprintf(f->ctx, "%s/%s", f->directory, all.at[i]);
    if (!path) break;
    if (is_folder(path)) {
      names_add(f->ctx, &f->classes, lk_strdup(f->ctx, all.at[i]));
      lk_free(f->ctx, path);
    } else leave_out(f, path);
  }
  names_free(f->ctx, &all);
  if (!f->classes.n) lk_fail(f->ctx, LK_EFORMAT, "'%s' holds no folder of images", f->directory);
  return lk_error(f->ctx, NULL);
}

static lk_status find_images(folder *f, size_t class) {
  names all = {0};
  size_t before = f->files.n;
  char *path = lk_sprintf(f->ctx, "%s/%s", f->directory, f->classes.at[class]);
  if (path) list(f->ctx, path, &all);
  for (size_t i = 0; i < all.n && !lk_error(f->ctx, NULL); i++) {
    char *file = lk_sprintf(f->ctx, "%s/%s", path, all.at[i]);
    if (!file) break;
    if (is_image(file)) names_add(f->ctx, &f->files, file);
    else leave_out(f, file);
  }
  names_free(f->ctx, &all);
  if (f->files.n == before) lk_fail(f->ctx, LK_EFORMAT, "the folder '%s' holds no .png, .jpg or .jpeg file", path);
  lk_free(f->ctx, path);
  f->first[class + 1] = (int64_t)f->files.n;
  return lk_error(f->ctx, NULL);
}

static lk_status scan(folder *f) {
  if (find_classes(f)) return lk_error(f->ctx, NULL);
  f->first = lk_alloc_array(f->ctx, f->classes.n + 1, sizeof *f->first);
  for (size_t c = 0; c < f->classes.n && f->first; c++)
    if (find_images(f, c)) break;
  if (f->left_out && !lk_error(f->ctx, NULL))
    lk_warn(f->ctx, "%s: %lld files or folders are no images of a class and are left out; the first is %s",
            f->directory, (long long)f->left_out, f->example);
  return lk_error(f->ctx, NULL);
}

/* ---- the dataset ---- */

/* A black dataset for images of this size, with its classes' names. */
static lk_dataset *start(const folder *f, const lk_dataset *like, const lk_image *image) {
  int64_t classes = like ? like->classes : (int64_t)f->classes.n;
  lk_dataset *d =
      lk_dataset_new(f->ctx, f->directory, (int64_t)f->files.n, image->channels, image->height, image->width, classes);
  if (!d || !lk_dataset_name(d, like ? like->names : f->classes.at)) return d;
  lk_dataset_free(d);
  return NULL;
}

static lk_status add(lk_dataset *d, int64_t i, const char *path, const lk_image *image) {
  int64_t area = d->height * d->width;
  if (image->height != d->height || image->width != d->width)
    return lk_fail(d->ctx, LK_ESHAPE, "%s is %lld x %lld after preprocessing, and the first image %lld x %lld", path,
                   (long long)image->height, (long long)image->width, (long long)d->height, (long long)d->width);
  uint8_t *to = d->pixels + i * d->channels * area;
  for (int64_t c = 0; c < d->channels; c++)
    for (int64_t j = 0; j < area; j++) to[c * area + j] = image->pixels[j * d->channels + c];
  return LK_OK;
}

/* The number of a class's name in another dataset. */
static int64_t find_class(const folder *f, const lk_dataset *like, const char *class) {
  for (int64_t c = 0; c < like->classes; c++)
    if (!strcmp(like->names[c], class)) return c;
  lk_fail(f->ctx, LK_EFORMAT, "the folder '%s/%s' is none of the %lld classes of %s", f->directory, class,
          (long long)like->classes, like->name);
  return -1;
}

static lk_dataset *read_images(const folder *f, const lk_preprocess *p, const lk_dataset *like) {
  lk_dataset *d = NULL;
  for (size_t c = 0; c < f->classes.n; c++) {
    int64_t label = like ? find_class(f, like, f->classes.at[c]) : (int64_t)c;
    for (int64_t i = f->first[c]; i < f->first[c + 1] && !lk_error(f->ctx, NULL); i++) {
      lk_image *whole = lk_image_read(f->ctx, f->files.at[i], p->channels), *image = lk_preprocess_image(p, whole);
      lk_image_free(whole);
      if (image && !d) d = start(f, like, image);
      if (d && image && !add(d, i, f->files.at[i], image)) d->labels[i] = label;
      lk_image_free(image);
    }
  }
  if (!lk_error(f->ctx, NULL)) return d;
  lk_dataset_free(d);
  return NULL;
}

static void folder_free(folder *f) {
  names_free(f->ctx, &f->classes);
  names_free(f->ctx, &f->files);
  lk_free(f->ctx, f->first);
  lk_free(f->ctx, f->example);
}

lk_dataset *lk_dataset_folder_classes(lk_ctx *ctx, const char *directory) {
  folder f = {.ctx = ctx, .directory = directory};
  const lk_image none = {.channels = 1, .height = 1, .width = 1};
  lk_dataset *d = NULL;
  if (lk_error(ctx, NULL)) return NULL;
  if (!directory) lk_fail(ctx, LK_ENIL, "lk_dataset_folder_classes: directory is NULL");
  else if (!find_classes(&f)) d = start(&f, NULL, &none);
  folder_free(&f);
  return d;
}

lk_dataset *lk_dataset_folder(lk_ctx *ctx, const char *directory, const lk_preprocess *p, const lk_dataset *like) {
  folder f = {.ctx = ctx, .directory = directory};
  lk_dataset *d = NULL;
  if (lk_error(ctx, NULL)) return NULL;
  if (!directory || !p) lk_fail(ctx, LK_ENIL, "lk_dataset_folder: directory or preprocessing is NULL");
  else if (like && !like->names) lk_fail(ctx, LK_EARG, "dataset %s has no names of classes", like->name);
  else if (!scan(&f)) d = read_images(&f, p, like);
  folder_free(&f);
  return d;
}
