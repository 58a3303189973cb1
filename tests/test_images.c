/* test_images.c: PNG and JPEG files, resizing, preprocessor_config.json, folders of images, hostile files, failing memory. */
#include "alloc.h"
#include "files.h"
#include "png_file.h"

#include <check.h>
#include <lorikeet/images.h>
#include <lorikeet/safetensors.h>
#include <math.h>
#include <sys/stat.h>

static test_allocator heap;
static lk_ctx *ctx;
static char golden[4096];

static void setup(void) {
  const char *source = getenv("srcdir");
  char *here = realpath(source ? source : ".", NULL);
  if (!here) abort();
  snprintf(golden, sizeof golden, "%s/tests/golden/images", here);
  free(here);
  test_directory();
  ctx = test_ctx(&heap, 0);
}

static void teardown(void) {
  lk_ctx_free(ctx);
  test_directory_remove();
  ck_assert_uint_eq(heap.live, 0);
}

static void fine(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
}

static void expect(lk_status status, const char *words) {
  const char *message;
  ck_assert_int_eq(lk_error(ctx, &message), status);
  ck_assert_msg(strstr(message, words) != NULL, "\"%s\" is not in \"%s\"", words, message);
  lk_error_clear(ctx);
}

static const char *in_golden(const char *name) {
  static char path[5000];
  snprintf(path, sizeof path, "%s/%s", golden, name);
  return path;
}

/* ---- against Pillow and transformers ---- */

static void same_pixels(const lk_image *image, const lk_view *v, const char *name) {
  fine();
  ck_assert_msg(image->height == v->shape[0] && image->width == v->shape[1] && image->channels == v->shape[2],
                "%s: %d x %d x %d", name, (int)image->height, (int)image->width, (int)image->channels);
  const uint8_t *should = v->p;
  for (int64_t i = 0; i < lk_view_count(v); i++)
    ck_assert_msg(image->pixels[i] == should[i], "%s: %d instead of %d at %d", name, image->pixels[i], should[i],
                  (int)i);
}

static void same_values(const char *directory, const lk_view *v) {
  lk_preprocess p;
  lk_image *whole = lk_image_read(ctx, in_golden("rgb.png"), 3);
  lk_preprocess_read(ctx, in_golden(directory), 3, 16, &p);
  fine();
  lk_image *image = lk_preprocess_image(&p, whole);
  fine();
  ck_assert_int_eq(image->height, v->shape[1]);
  ck_assert_int_eq(image->width, v->shape[2]);
  for (int64_t i = 0, area = image->height * image->width; i < lk_view_count(v); i++) {
    int64_t c = i / area;
    double value = (image->pixels[i % area * 3 + c] / 255. - p.mean[c]) / p.std[c];
    ck_assert_msg(fabs(value - lk_view_get(v, i)) < 1e-5, "%s: %g instead of %g at %d", directory, value,
                  lk_view_get(v, i), (int)i);
  }
  lk_image_free(image);
  lk_image_free(whole);
}

/* Every tensor of the file says in its name what it is; see tests/golden/make/images.py. */
START_TEST(pixels_are_those_of_pillow_and_transformers) {
  lk_safetensors *f = lk_safetensors_open(ctx, in_golden("pixels.safetensors"));
  int decoded = 0, resized = 0, processed = 0;
  fine();
  for (size_t i = 0; i < lk_safetensors_count(f); i++) {
    const char *name = lk_safetensors_at(f, i)->name;
    char file[100];
    int number;
    lk_view v;
    ck_assert_int_eq(lk_safetensors_get(f, name, &v), LK_OK);
    if (sscanf(name, "resize %d %99s", &number, file) == 2) {
      lk_image *whole = lk_image_read(ctx, in_golden(file), 3);
      lk_image *image = lk_image_resize(whole, v.shape[0], v.shape[1], (lk_resample)number);
      same_pixels(image, &v, name);
      lk_image_free(image);
      lk_image_free(whole);
      resized++;
    } else if (sscanf(name, "%99s %d", file, &number) == 2) {
      lk_image *image = lk_image_read(ctx, in_golden(file), number);
      same_pixels(image, &v, name);
      lk_image_free(image);
      decoded++;
    } else {
      same_values(name, &v);
      processed++;
    }
  }
  lk_safetensors_close(f);
  ck_assert_int_ge(decoded, 30);
  ck_assert_int_eq(resized, 54);
  ck_assert_int_eq(processed, 5);
}
END_TEST

/* ---- PNG by hand ---- */

static const uint8_t palette[] = {10, 20, 30, 40, 50, 60, 70, 80, 90};

/* A 2 x 2 image of each kind, and what it means in colours (rows of three pixels would hide an error of the stride). */
START_TEST(every_png_type) {
  static const struct {
    int depth, type, interlaced;
    size_t n;
    uint8_t raw[40], pixels[12];
  } kinds[] = {{1, 0, 0, 4, {0, 0x40, 0, 0x80}, {0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0, 0}},
               {2, 0, 0, 4, {0, 0x10, 0, 0xE0}, {0, 0, 0, 85, 85, 85, 255, 255, 255, 170, 170, 170}},
               {4, 0, 0, 4, {0, 0x1F, 0, 0x20}, {17, 17, 17, 255, 255, 255, 34, 34, 34, 0, 0, 0}},
               {8, 0, 1, 7, {0, 1, 0, 2, 0, 3, 4}, {1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4}},
               {16,
                2,
                0,
                26,
                {0, 1, 99, 2, 99, 3, 99, 4, 99, 5, 99, 6, 99, 1, 7, 200, 8, 200, 9, 200, 3, 0, 3, 0, 3, 0},
                {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
               {2, 3, 0, 4, {0, 0x10, 0, 0x80}, {10, 20, 30, 40, 50, 60, 70, 80, 90, 10, 20, 30}},
               {8,
                6,
                1,
                19,
                {0, 1, 2, 3, 0, 0, 4, 5, 6, 9, 0, 7, 8, 9, 255, 10, 11, 12, 1},
                {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    uint8_t file[512];
    size_t n = test_png(file, 2, 2, kinds[i].depth, kinds[i].type, kinds[i].interlaced, kinds[i].raw, kinds[i].n,
                        palette, kinds[i].type == 3 ? 3 : 0);
    lk_image *image = lk_image_decode(ctx, file, n, "image", 3);
    fine();
    ck_assert_int_eq(image->channels, 3);
    for (int j = 0; j < 12; j++) ck_assert_msg(image->pixels[j] == kinds[i].pixels[j], "kind %d, %d", (int)i, j);
    lk_image_free(image);
    image = lk_image_decode(ctx, file, n, "image", 0);
    ck_assert_int_eq(image->channels, kinds[i].type ? 3 : 1);
    lk_image_free(image);
  }
}
END_TEST

/* ---- hostile files ---- */

static size_t grey_png(uint8_t *to, uint32_t width, uint32_t height) {
  static const uint8_t raw[] = {0, 1, 2, 0, 3, 4};
  return test_png(to, width, height, 8, 0, 0, raw, sizeof raw, NULL, 0);
}

static void refuse(const void *bytes, size_t n, const char *words) {
  ck_assert_ptr_null(lk_image_decode(ctx, bytes, n, "some file", 3));
  expect(LK_EFORMAT, "some file: ");
  ck_assert_ptr_null(lk_image_decode(ctx, bytes, n, "some file", 3));
  expect(LK_EFORMAT, words);
}

START_TEST(wrong_files_are_refused) {
  uint8_t file[256];
  size_t n = grey_png(file, 2, 2);
  refuse("", 0, "neither a PNG nor a JPEG");
  refuse("GIF89a", 6, "neither a PNG nor a JPEG");
  refuse(file, 8, "it ends too early");
  file[40] ^= 1;
  refuse(file, n, "CRC error");
  n = grey_png(file, 3, 2);
  refuse(file, n, "damaged PNG file: ");
  n = grey_png(file, 60000, 60000);
  refuse(file, n, "shorter than its header says");
  n = grey_png(file, 70000, 2);
  refuse(file, n, "damaged PNG file: ");
  n = grey_png(file, 0, 2);
  refuse(file, n, "damaged PNG file: ");
  refuse("\xFF\xD8\xFF\xD9", 4, "damaged JPEG file: ");
  lk_image_decode(ctx, file, n, "some file", 2);
  expect(LK_EARG, "2 channels");
  lk_image_decode(ctx, NULL, 0, "some file", 3);
  expect(LK_ENIL, "NULL");
  lk_image_read(ctx, "missing.png", 3);
  expect(LK_EIO, "missing.png");
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, 0);
}
END_TEST

/* A JPEG header of 65,000 x 65,000 pixels with nothing behind it. */
START_TEST(absurd_jpegs_are_refused_before_memory_is_taken) {
  size_t n;
  uint8_t *file = test_get(in_golden("ycc_0.jpg"), &n);
  size_t at = 2;
  while (file[at + 1] != 0xC0) at += 2u + (size_t)(file[at + 2] << 8 | file[at + 3]);
  memcpy(file + at + 5, "\xFD\xE8\xFD\xE8", 4);
  uint64_t calls = heap.calls;
  refuse(file, n, "65000 x 65000 pixels are too many");
  ck_assert_uint_eq(heap.calls, calls);
  free(file);
}
END_TEST

/* Every truncation is an error; a flipped bit gives an error or an image, never a leak. */
START_TEST(damaged_files) {
  static const char *const names[] = {"rgb.png", "palette_4.png", "ycc_2.jpg", "progressive.jpg", "cmyk.jpg"};
  size_t n;
  int refused = 0;
  uint8_t *file = test_get(in_golden(names[_i]), &n);
  for (size_t k = 0; k < n; k++) {
    ck_assert_ptr_null(lk_image_decode(ctx, file, k, "cut", 3));
    expect(LK_EFORMAT, "cut: ");
  }
  for (size_t k = 0; k < n; k++) {
    file[k] ^= (uint8_t)(1 << k % 8);
    lk_image *image = lk_image_decode(ctx, file, n, "flipped", 3);
    if (!image) expect(LK_EFORMAT, "flipped: ");
    refused += !image;
    lk_image_free(image);
    file[k] ^= (uint8_t)(1 << k % 8);
  }
  /* PNG has checksums, JPEG only what Huffman codes reveal */
  ck_assert_int_ge(refused, _i < 2 ? (int)n : 20);
  free(file);
}
END_TEST

/* ---- resizing, cropping ---- */

START_TEST(crops_are_padded_with_black) {
  lk_image *image = lk_image_new(ctx, 1, 2, 3);
  for (int i = 0; i < 6; i++) image->pixels[i] = (uint8_t)(i + 1);
  lk_image *part = lk_image_crop(image, 5, 2);
  const uint8_t should[] = {0, 0, 0, 0, 1, 2, 4, 5, 0, 0};
  ck_assert_mem_eq(part->pixels, should, sizeof should);
  lk_image_free(part);
  part = lk_image_crop(image, 1, 6);
  const uint8_t wide[] = {0, 0, 1, 2, 3, 0};
  ck_assert_mem_eq(part->pixels, wide, sizeof wide);
  lk_image_free(part);
  ck_assert_ptr_null(lk_image_resize(image, 0, 4, LK_BICUBIC));
  expect(LK_EARG, "0 x 4");
  ck_assert_ptr_null(lk_image_resize(image, 4, 4, (lk_resample)6));
  expect(LK_EARG, "filter 6");
  ck_assert_ptr_null(lk_image_resize(image, 70000, 4, LK_BICUBIC));
  expect(LK_ESHAPE, "70000 x ");
  ck_assert_ptr_null(lk_image_new(ctx, 2, 4, 4));
  expect(LK_ESHAPE, "2 channels");
  lk_image_free(image);
}
END_TEST

/* ---- preprocessor_config.json ---- */

static lk_status read_config(const char *json, lk_preprocess *p) {
  test_put("preprocessor_config.json", json, strlen(json));
  return lk_preprocess_read(ctx, ".", 3, 32, p);
}

START_TEST(preprocessor_configs) {
  lk_preprocess p, q;
  ck_assert_int_eq(lk_preprocess_read(ctx, "nowhere", 1, 28, &p), LK_OK);
  ck_assert(p.height == 28 && p.width == 28 && p.resample == LK_BILINEAR && p.mean[0] == 0.5 && !p.crop_height);
  read_config("{}", &p);
  ck_assert(p.height == 32 && p.resize);
  read_config(
      "{\"feature_extractor_type\": \"ViTFeatureExtractor\", \"size\": 40, \"image_mean\": 0.25, \"do_pad\": false}",
      &p);
  ck_assert(p.height == 40 && p.width == 40 && p.mean[2] == 0.25 && p.std[1] == 0.5);
  read_config("{\"image_processor_type\": \"CLIPImageProcessorFast\", \"size\": 40, \"do_center_crop\": false}", &p);
  ck_assert(p.shortest_edge == 40 && !p.crop_height && p.resample == LK_BICUBIC);
  read_config("{\"image_processor_type\": \"BitImageProcessor\", \"crop_size\": 20}", &p);
  ck_assert(p.shortest_edge == 224 && p.crop_height == 20 && p.crop_width == 20);
  fine();
  ck_assert_int_eq(lk_preprocess_write(ctx, ".", &p), LK_OK);
  ck_assert_int_eq(lk_preprocess_read(ctx, ".", 3, 32, &q), LK_OK);
  ck_assert(q.shortest_edge == 224 && q.crop_height == 20 && q.resample == p.resample);
  ck_assert_mem_eq(p.mean, q.mean, 3 * sizeof *p.mean);
}
END_TEST

START_TEST(wrong_preprocessor_configs_are_refused) {
  static const struct {
    const char *json, *words;
  } wrong[] = {{"[]", "does not hold an object"},
               {"{\"image_processor_type\": \"DetrImageProcessor\"}", "DetrImageProcessor is not supported"},
               {"{\"do_pad\": true}", "do_pad is not supported"},
               {"{\"crop_pct\": 0.875}", "crop_pct is not supported"},
               {"{\"size\": {\"longest_edge\": 3}}", "size must be"},
               {"{\"size\": {\"height\": 3}}", "size must be"},
               {"{\"size\": 0}", "size must be"},
               {"{\"size\": \"big\"}", "size must be"},
               {"{\"crop_size\": {\"shortest_edge\": 3}}", "crop_size must be"},
               {"{\"resample\": 6}", "resample is 6"},
               {"{\"resample\": \"cubic\"}", "resample"},
               {"{\"image_mean\": [0.5, 0.5]}", "image_mean must hold"},
               {"{\"image_std\": [1, 1, 0]}", "image_std of channel 2"},
               {"{\"rescale_factor\": 0}", "rescale_factor is 0"},
               {"{\"do_resize\": 1}", "do_resize"},
               {"{", "preprocessor_config.json:1"}};
  lk_preprocess p;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    ck_assert_int_ne(read_config(wrong[i].json, &p), LK_OK);
    expect(LK_EFORMAT, "preprocessor_config.json");
    read_config(wrong[i].json, &p);
    expect(LK_EFORMAT, wrong[i].words);
  }
  lk_preprocess_read(ctx, ".", 2, 32, &p);
  expect(LK_ESHAPE, "2 channels");
}
END_TEST

/* ---- folders ---- */

static void put_image(const char *path, uint8_t value) {
  uint8_t file[256];
  const uint8_t raw[] = {0, value, value, 0, value, value};
  test_put(path, file, test_png(file, 2, 2, 8, 0, 0, raw, sizeof raw, NULL, 0));
}

static void put_folders(void) {
  mkdir("train", 0777);
  mkdir("train/b", 0777);
  mkdir("train/B", 0777);
  mkdir("train/a c", 0777);
  put_image("train/b/2.png", 1);
  put_image("train/b/10.PNG", 2);
  put_image("train/B/x.jpeg", 3); /* the bytes tell the format */
  put_image("train/a c/y.jpg", 4);
}

START_TEST(folders_become_classes) {
  const lk_preprocess p = lk_preprocess_default(3, 4);
  put_folders();
  put_image("train/b/.hidden.png", 9);
  lk_dataset *d = lk_dataset_folder(ctx, "train", &p, NULL);
  fine();
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  ck_assert(d->count == 4 && d->classes == 3 && d->channels == 3 && d->height == 4 && d->width == 4);
  static const char *const names[] = {"B", "a c", "b"};
  const uint8_t values[] = {3, 4, 2, 1};
  for (int c = 0; c < 3; c++) ck_assert_str_eq(d->names[c], names[c]);
  for (int i = 0; i < 4; i++) {
    ck_assert_int_eq(d->labels[i], i < 2 ? i : 2);
    for (int j = 0; j < 48; j++) ck_assert_int_eq(d->pixels[48 * i + j], values[i]);
  }
  /* a part knows the names too, and gives them to another folder */
  lk_dataset *part = lk_dataset_limit(d, 2, 1);
  mkdir("test", 0777);
  mkdir("test/b", 0777);
  put_image("test/b/z.png", 7);
  lk_dataset *test = lk_dataset_folder(ctx, "test", &p, part);
  lk_dataset *classes = lk_dataset_folder_classes(ctx, "train");
  fine();
  ck_assert(test->classes == 3 && test->labels[0] == 2 && !strcmp(test->names[1], "a c"));
  ck_assert(classes->count == 0 && classes->classes == 3 && !strcmp(classes->names[2], "b"));
  mkdir("test/d", 0777);
  put_image("test/d/z.png", 7);
  ck_assert_ptr_null(lk_dataset_folder(ctx, "test", &p, classes));
  expect(LK_EFORMAT, "'test/d' is none of the 3 classes of train");
  lk_dataset_free(test);
  lk_dataset_free(part);
  lk_dataset_free(classes);
  lk_dataset_free(d);
}
END_TEST

START_TEST(other_files_are_left_out_with_a_warning) {
  const lk_preprocess p = lk_preprocess_default(1, 2);
  put_folders();
  mkdir("train/b/deeper.png", 0777);
  test_put("train/b/notes.txt", "x", 1);
  test_put("train/labels.csv", "x", 1);
  lk_dataset *d = lk_dataset_folder(ctx, "train", &p, NULL);
  fine();
  ck_assert_int_eq(d->count, 4);
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_str_eq(lk_warning(ctx, 0),
                   "train: 3 files or folders are no images of a class and are left out; the first is "
                   "train/labels.csv");
  lk_warnings_clear(ctx);
  lk_dataset_free(d);
}
END_TEST

START_TEST(wrong_folders_are_refused) {
  lk_preprocess p = lk_preprocess_default(1, 2);
  lk_dataset_folder(ctx, "missing", &p, NULL);
  expect(LK_EIO, "cannot open the folder 'missing'");
  lk_dataset_folder(ctx, NULL, &p, NULL);
  expect(LK_ENIL, "NULL");
  mkdir("train", 0777);
  lk_dataset_folder(ctx, "train", &p, NULL);
  expect(LK_EFORMAT, "'train' holds no folder of images");
  put_folders();
  lk_dataset *numbers = lk_dataset_new(ctx, "numbers", 1, 1, 2, 2, 3);
  lk_dataset_folder(ctx, "train", &p, numbers);
  expect(LK_EARG, "numbers has no names of classes");
  lk_dataset_free(numbers);
  test_put("train/b/3.png", "not an image", 12);
  lk_dataset_folder(ctx, "train", &p, NULL);
  expect(LK_EFORMAT, "train/b/3.png: neither a PNG nor a JPEG file");
  uint8_t file[256];
  const uint8_t raw[] = {0, 1, 2, 3};
  test_put("train/b/3.png", file, test_png(file, 3, 1, 8, 0, 0, raw, sizeof raw, NULL, 0));
  p.resize = 0;
  lk_dataset_folder(ctx, "train", &p, NULL);
  expect(LK_ESHAPE, "train/b/3.png is 1 x 3 after preprocessing, and the first image 2 x 2");
  mkdir("train/empty", 0777);
  lk_dataset_folder(ctx, "train", &p, NULL);
  expect(LK_EFORMAT, "the folder 'train/empty' holds no .png, .jpg or .jpeg file");
}
END_TEST

/* ---- failing memory ---- */

static lk_status story(lk_ctx *c, void *arg) {
  lk_preprocess p;
  (void)arg;
  lk_preprocess_read(c, in_golden("clip"), 3, 32, &p);
  lk_preprocess_write(c, ".", &p);
  lk_dataset *d = lk_dataset_folder(c, "train", &p, NULL), *e = d ? lk_dataset_folder(c, "train", &p, d) : NULL;
  lk_image *image = lk_image_read(c, in_golden("turn_6.jpg"), 1), *cmyk = lk_image_read(c, in_golden("cmyk.jpg"), 3);
  lk_image *exif = lk_image_read(c, in_golden("turn_6.png"), 1), *other = lk_image_resize(image, 3, 3, LK_NEAREST);
  lk_image_free(other);
  lk_image_free(exif);
  lk_image_free(cmyk);
  lk_image_free(image);
  lk_dataset_free(e);
  lk_dataset_free(d);
  lk_warnings_clear(c);
  return lk_error(c, NULL);
}

START_TEST(every_allocation_may_fail) {
  put_folders();
  const char *why = test_each_allocation(story, NULL, NULL);
  ck_assert_msg(!why, "%s", why);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("images");
  TCase *tcase = tcase_create("images");
  tcase_add_checked_fixture(tcase, setup, teardown);
  suite_add_tcase(suite, tcase);
  tcase_add_test(tcase, pixels_are_those_of_pillow_and_transformers);
  tcase_add_test(tcase, every_png_type);
  tcase_add_test(tcase, wrong_files_are_refused);
  tcase_add_test(tcase, absurd_jpegs_are_refused_before_memory_is_taken);
  tcase_add_loop_test(tcase, damaged_files, 0, 5);
  tcase_add_test(tcase, crops_are_padded_with_black);
  tcase_add_test(tcase, preprocessor_configs);
  tcase_add_test(tcase, wrong_preprocessor_configs_are_refused);
  tcase_add_test(tcase, folders_become_classes);
  tcase_add_test(tcase, other_files_are_left_out_with_a_warning);
  tcase_add_test(tcase, wrong_folders_are_refused);
  tcase_add_test(tcase, every_allocation_may_fail);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
