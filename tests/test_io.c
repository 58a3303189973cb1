/* test_io.c: files, the atomic writer, IDX. */
#include "io_suite.h"

#include <fcntl.h>
#include <lorikeet/io.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void expect_file(const char *path, const char *want) {
  size_t n;
  unsigned char *bytes = test_get(path, &n);
  ck_assert_ptr_nonnull(bytes);
  ck_assert_str_eq((char *)bytes, want);
  free(bytes);
}

/* How many files there are: a left temporary is one too many. */
static int count_files(void) {
  FILE *f = popen("ls -A | wc -l", "r");
  int n = -1;
  ck_assert_ptr_nonnull(f);
  ck_assert_int_eq(fscanf(f, "%d", &n), 1);
  pclose(f);
  return n;
}

/* ---- mapping and reading ---- */

START_TEST(maps_files) {
  test_put("f", "hello", 5);
  lk_file *f = lk_file_map(ctx, "f");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(f->size, 5);
  ck_assert_int_eq(memcmp(f->bytes, "hello", 5), 0);
  ck_assert_str_eq(f->path, "f");
  lk_file_unmap(f);
  test_put("empty", "", 0);
  f = lk_file_map(ctx, "empty");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(f->size, 0);
  ck_assert_ptr_nonnull(f->bytes);
  lk_file_unmap(f);
  lk_file_unmap(NULL);
}
END_TEST

START_TEST(refuses_to_map) {
  ck_assert_int_eq(mkfifo("fifo", 0600), 0);
  const struct {
    const char *path, *words;
  } bad[] = {{".", "'.': not a regular file"},
             {"fifo", "'fifo': not a regular file"},
             {"/dev/null", "not a regular file"},
             {"none", "cannot open 'none': No such file"},
             {"fifo/x", "cannot open 'fifo/x': Not a directory"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ck_assert_ptr_null(lk_file_map(ctx, bad[i].path));
    expect(LK_EIO, bad[i].words);
  }
  ck_assert_ptr_null(lk_file_map(ctx, NULL));
  expect(LK_ENIL, "path is NULL");
  lk_fail(ctx, LK_EARG, "before");
  ck_assert_ptr_null(lk_file_map(ctx, "fifo"));
  expect(LK_EARG, "before");
}
END_TEST

START_TEST(reads_texts) {
  enum { N = 100000 };
  static char big[N + 1];
  size_t n = 7;
  memset(big, 'x', N);
  test_put("big", big, N);
  char *text = lk_file_read_text(ctx, "big", N, &n);
  ck_assert_ptr_nonnull(text);
  ck_assert_uint_eq(n, N);
  ck_assert_str_eq(text, big);
  lk_free(ctx, text);
  ck_assert_ptr_null(lk_file_read_text(ctx, "big", N - 1, &n));
  expect(LK_EFORMAT, "'big' has more than 99999 bytes");
  ck_assert_uint_eq(n, 0);
  test_put("empty", "", 0);
  text = lk_file_read_text(ctx, "empty", 0, NULL);
  ck_assert_str_eq(text, "");
  lk_free(ctx, text);
  test_put("zero", "ab\0c", 4);
  ck_assert_ptr_null(lk_file_read_text(ctx, "zero", 100, NULL));
  expect(LK_EFORMAT, "byte 2 is zero");
  ck_assert_ptr_null(lk_file_read_text(ctx, ".", 100, NULL));
  expect(LK_EIO, "cannot read '.': Is a directory");
  ck_assert_ptr_null(lk_file_read_text(ctx, "none", 100, NULL));
  expect(LK_EIO, "cannot open 'none'");
  ck_assert_ptr_null(lk_file_read_text(ctx, NULL, 100, NULL));
  expect(LK_ENIL, "path is NULL");
  ck_assert_ptr_null(lk_file_read_text(ctx, "/dev/zero", 1 << 20, NULL));
  expect(LK_EFORMAT, "more than 1048576 bytes");
}
END_TEST

START_TEST(makes_directories) {
  ck_assert_int_eq(lk_make_dirs(ctx, "a//b/c/"), LK_OK);
  ck_assert(lk_file_exists("a/b/c") && !lk_file_exists("a/b/d") && !lk_file_exists(NULL));
  ck_assert_int_eq(lk_make_dirs(ctx, "a/b/c/d"), LK_OK);
  ck_assert_int_eq(lk_make_dirs(ctx, "a/b/c/d"), LK_OK);
  ck_assert_int_eq(lk_make_dirs(ctx, "./a/../e"), LK_OK);
  ck_assert(lk_file_exists("e"));
  char here[512], deep[600];
  ck_assert_ptr_nonnull(getcwd(here, sizeof here));
  snprintf(deep, sizeof deep, "%s/x/y", here);
  ck_assert_int_eq(lk_make_dirs(ctx, deep), LK_OK);
  ck_assert(lk_file_exists("x/y"));
  test_put("f", "", 0);
  ck_assert_int_eq(lk_make_dirs(ctx, "f"), LK_EIO);
  expect(LK_EIO, "'f': a file has this name");
  ck_assert_int_eq(lk_make_dirs(ctx, "f/g"), LK_EIO);
  expect(LK_EIO, "cannot make directory 'f': a file has this name");
  ck_assert_int_eq(lk_make_dirs(ctx, ""), LK_EIO);
  expect(LK_EIO, "cannot make directory ''");
  ck_assert_int_eq(lk_make_dirs(ctx, NULL), LK_ENIL);
  expect(LK_ENIL, "path is NULL");
}
END_TEST

/* ---- the atomic writer ---- */

START_TEST(writes_files) {
  lk_writer *w = lk_writer_open(ctx, "f");
  ck_assert_ptr_nonnull(w);
  ck_assert_int_eq(lk_file_exists("f"), 0);
  ck_assert_int_eq(lk_write(w, "hello", 5), LK_OK);
  ck_assert_int_eq(lk_writef(w, " %d %s\n", 42, "words"), LK_OK);
  ck_assert_int_eq(lk_write(w, NULL, 0), LK_OK);
  ck_assert_int_eq(lk_writer_commit(w), LK_OK);
  expect_file("f", "hello 42 words\n");
  w = lk_writer_open(ctx, "f");
  lk_write(w, "new", 3);
  expect_file("f", "hello 42 words\n");
  lk_writer_abort(w);
  expect_file("f", "hello 42 words\n");
  lk_writer_abort(NULL);
  ck_assert_int_eq(count_files(), 1);
}
END_TEST

/* Pieces below, at and above the buffer's size, and formatted text longer than the stack's. */
START_TEST(writes_pieces_of_any_size) {
  static const size_t pieces[] = {1, 65535, 1, 65536, 65537, 100, 200000, 3, 65533, 0, 7};
  static unsigned char data[200000], want[600000];
  size_t total = 0, n;
  for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * 31 + i / 977);
  lk_writer *w = lk_writer_open(ctx, "f");
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
    ck_assert_int_eq(lk_write(w, data + i, pieces[i] - (pieces[i] == 200000 ? i : 0)), LK_OK);
    size_t size = pieces[i] - (pieces[i] == 200000 ? i : 0);
    memcpy(want + total, data + i, size);
    total += size;
  }
  static char text[5001];
  memset(text, 't', 5000);
  ck_assert_int_eq(lk_writef(w, "<%s>", text), LK_OK);
  want[total++] = '<';
  memcpy(want + total, text, 5000);
  total += 5000;
  want[total++] = '>';
  ck_assert_int_eq(lk_writer_commit(w), LK_OK);
  unsigned char *got = test_get("f", &n);
  ck_assert_uint_eq(n, total);
  ck_assert_int_eq(memcmp(got, want, n), 0);
  free(got);
}
END_TEST

START_TEST(keeps_permissions_and_follows_links) {
  struct stat st;
  test_put("secret", "old", 3);
  ck_assert_int_eq(chmod("secret", 0640), 0);
  ck_assert_int_eq(mkdir("d", 0700), 0);
  ck_assert_int_eq(symlink("../secret", "d/link"), 0);
  lk_writer *w = lk_writer_open(ctx, "d/link");
  lk_write(w, "new", 3);
  ck_assert_int_eq(lk_writer_commit(w), LK_OK);
  expect_file("secret", "new");
  ck_assert_int_eq(lstat("d/link", &st), 0);
  ck_assert(S_ISLNK(st.st_mode));
  ck_assert_int_eq(stat("secret", &st), 0);
  ck_assert_int_eq(st.st_mode & 07777, 0640);
  mode_t mask = umask(022);
  ck_assert_int_eq(lk_writer_commit(lk_writer_open(ctx, "fresh")), LK_OK);
  umask(mask);
  ck_assert_int_eq(stat("fresh", &st), 0);
  ck_assert_int_eq(st.st_mode & 07777, 0644);
}
END_TEST

START_TEST(refuses_targets) {
  char long_name[300];
  memset(long_name, 'n', sizeof long_name);
  long_name[299] = 0;
  test_put("f", "old", 3);
  ck_assert_int_eq(mkdir("d", 0700), 0);
  ck_assert_int_eq(symlink("nowhere", "dangling"), 0);
  ck_assert_int_eq(symlink("d", "to_d"), 0);
  const struct {
    const char *path, *words;
  } bad[] = {{"d", "'d': it is a directory"},
             {"to_d", "'to_d': it is a directory"},
             {"/dev/full", "it is not a regular file"},
             {"dangling", "cannot follow the link 'dangling'"},
             {"none/f", "cannot create 'none/f"},
             {"f/g", "cannot write 'f/g': Not a directory"},
             {"", "No such file"},
             {long_name, "File name too long"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ck_assert_ptr_null(lk_writer_open(ctx, bad[i].path));
    expect(LK_EIO, bad[i].words);
  }
  ck_assert_ptr_null(lk_writer_open(ctx, NULL));
  expect(LK_ENIL, "path is NULL");
  ck_assert_int_eq(lk_write(NULL, "x", 1), LK_ENIL);
  ck_assert_int_eq(lk_writef(NULL, "x"), LK_ENIL);
  ck_assert_int_eq(lk_writer_commit(NULL), LK_ENIL);
  ck_assert_int_eq(count_files(), 4);
}
END_TEST

/* A full disk, as far as a test can have one: the file must not grow beyond a limit. */
START_TEST(full_disk_leaves_the_old_file) {
  static char data[300000];
  struct rlimit old, small = {100000, 100000};
  test_put("f", "old", 3);
  signal(SIGXFSZ, SIG_IGN);
  ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
  small.rlim_max = old.rlim_max;
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
  static const size_t pieces[] = {300000, 1000}; /* past the buffer, and through it */
  for (int i = 0; i < 2; i++) {
    lk_writer *w = lk_writer_open(ctx, "f");
    lk_status bad = LK_OK;
    for (size_t n = 0; n < sizeof data && !bad; n += pieces[i]) bad = lk_write(w, data, pieces[i]);
    ck_assert_int_eq(bad, LK_EIO);
    lk_error_clear(ctx); /* a program that goes on regardless must not commit a file with a hole */
    lk_write(w, "x", 1);
    ck_assert_int_eq(lk_writer_commit(w), LK_EIO);
    expect(LK_EIO, "'f' is not replaced: an earlier write to it failed");
  }
  lk_writer *w = lk_writer_open(ctx, "f");
  lk_write(w, data, 65000);
  lk_write(w, data, 65000); /* the second 64 KiB wait in the buffer until commit */
  ck_assert_int_eq(lk_writer_commit(w), LK_EIO);
  expect(LK_EIO, "File too large");
  const lk_named_view t = {"t", {data, LK_U8, 1, {300000}, {1}}};
  ck_assert_int_eq(lk_safetensors_write(ctx, "f", &t, 1, NULL, 0), LK_EIO);
  expect(LK_EIO, "File too large");
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
  expect_file("f", "old");
  ck_assert_int_eq(count_files(), 1);
}
END_TEST

START_TEST(failing_at_the_end_leaves_the_old_file) {
  struct rlimit old, none;
  test_put("f", "old", 3);
  lk_writer *w = lk_writer_open(ctx, "f");
  lk_write(w, "new", 3);
  ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
  none = old;
  none.rlim_cur = 0;
  ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
  ck_assert_int_eq(lk_writer_commit(w), LK_EIO);
  ck_assert_ptr_null(lk_file_map(ctx, "f"));
  expect(LK_EIO, "cannot open directory '.': Too many open files");
  ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
  expect_file("f", "old");
  w = lk_writer_open(ctx, "late");
  lk_write(w, "new", 3);
  ck_assert_int_eq(mkdir("late", 0700), 0);
  ck_assert_int_eq(lk_writer_commit(w), LK_EIO);
  expect(LK_EIO, "cannot replace 'late': Is a directory");
  ck_assert_int_eq(count_files(), 2);
}
END_TEST

START_TEST(errors_of_others_abort_the_commit) {
  test_put("f", "old", 3);
  lk_writer *w = lk_writer_open(ctx, "f");
  lk_write(w, "new", 3);
  lk_fail(ctx, LK_ENONFINITE, "loss is nan");
  ck_assert_int_eq(lk_writer_commit(w), LK_ENONFINITE);
  lk_error_clear(ctx);
  w = lk_writer_open(ctx, "f");
  lk_fail(ctx, LK_ENONFINITE, "loss is nan");
  ck_assert_int_eq(lk_write(w, "new", 3), LK_ENONFINITE);
  lk_error_clear(ctx);
  ck_assert_int_eq(lk_writer_commit(w), LK_EIO);
  expect(LK_EIO, "not replaced");
  w = lk_writer_open(ctx, "f");
  ck_assert_int_eq(lk_write(w, NULL, 3), LK_ENIL);
  lk_error_clear(ctx);
  ck_assert_int_eq(lk_writer_commit(w), LK_EIO);
  expect(LK_EIO, "not replaced");
  expect_file("f", "old");
  ck_assert_int_eq(count_files(), 1);
}
END_TEST

/* A temporary that a killed process with our number left is not touched, and not in the way. */
START_TEST(avoids_old_temporaries) {
  char name[64];
  snprintf(name, sizeof name, "f.%ld.0.tmp", (long)getpid());
  test_put(name, "theirs", 6);
  lk_writer *w = lk_writer_open(ctx, "f"), *second = lk_writer_open(ctx, "f");
  lk_write(w, "one", 3);
  lk_write(second, "two", 3);
  ck_assert_int_eq(lk_writer_commit(second), LK_OK);
  expect_file("f", "two");
  ck_assert_int_eq(lk_writer_commit(w), LK_OK);
  expect_file("f", "one");
  expect_file(name, "theirs");
  ck_assert_int_eq(count_files(), 2);
}
END_TEST

/* ---- killed while writing ---- */

enum { KILLED_SIZE = 300000, KILLS = 25 };

/* Replaces the file by one full of the next digit, over and over; a byte into the pipe for each. */
static void write_forever(int pipe_end) {
  static char data[KILLED_SIZE];
  for (int version = 0;; version++) {
    memset(data, 'a' + version % 26, sizeof data);
    lk_writer *w = lk_writer_open(ctx, "f");
    for (size_t i = 0; i < sizeof data; i += 1000) lk_write(w, data + i, 1000);
    if (lk_writer_commit(w) || write(pipe_end, "", 1) != 1) _exit(1);
  }
}

START_TEST(killed_writers_leave_whole_files) {
  for (int i = 0; i < KILLS; i++) {
    int ends[2];
    char done;
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (!child) write_forever(ends[1]);
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &done, 1), 1); /* one version is complete, the next one is being written */
    usleep((useconds_t)(i * 613 % 4000));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ends[0]);
    size_t n;
    unsigned char *bytes = test_get("f", &n);
    ck_assert_uint_eq(n, KILLED_SIZE);
    for (size_t k = 1; k < n; k++)
      if (bytes[k] != bytes[0]) ck_abort_msg("byte %zu is of another version", k);
    free(bytes);
  }
}
END_TEST

/* ---- IDX ---- */

static const unsigned char small[] = {0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 10, 20, 30, 40, 50, 255};

static void expect_small(const lk_view *v) {
  ck_assert_int_eq(v->dtype, LK_U8);
  ck_assert_int_eq(v->ndim, 2);
  ck_assert_int_eq(v->shape[0], 2);
  ck_assert_int_eq(v->shape[1], 3);
  ck_assert_int_eq(memcmp(v->p, small + 12, 6), 0);
  lk_free(ctx, v->p);
}

static void expect_idx(const void *bytes, size_t n, lk_status status, const char *words) {
  lk_view v;
  void *exact = malloc(n ? n : 1); /* so that sanitizers see a byte read too far */
  memcpy(exact, bytes, n);
  ck_assert_int_eq(lk_idx_read_memory(ctx, exact, n, "idx", &v), status);
  ck_assert_ptr_null(v.p);
  expect(status, words);
  free(exact);
}

START_TEST(reads_idx) {
  unsigned char packed[64], twice[128];
  lk_view v;
  test_put("plain", small, sizeof small);
  ck_assert_int_eq(lk_idx_read(ctx, "plain", &v), LK_OK);
  expect_small(&v);
  size_t n = test_gzip(small, sizeof small, packed);
  test_put("zipped.gz", packed, n);
  ck_assert_int_eq(lk_idx_read(ctx, "zipped.gz", &v), LK_OK);
  expect_small(&v);
  ck_assert_int_eq(lk_idx_read_either(ctx, "plain", &v), LK_OK);
  expect_small(&v);
  ck_assert_int_eq(lk_idx_read_either(ctx, "zipped", &v), LK_OK);
  expect_small(&v);
  ck_assert_int_eq(lk_idx_read_either(ctx, "none", &v), LK_EIO);
  expect(LK_EIO, "neither 'none' nor 'none.gz'");
  ck_assert_int_eq(lk_idx_read_either(ctx, NULL, &v), LK_ENIL);
  expect(LK_ENIL, "NULL");
  n = test_gzip(small, 7, twice); /* two members, as pigz and cat make them */
  n += test_gzip(small + 7, sizeof small - 7, twice + n);
  ck_assert_int_eq(lk_idx_read_memory(ctx, twice, n, "idx", &v), LK_OK);
  expect_small(&v);
}
END_TEST

/* gzip -9 of a 3 x 40 array of zeros. */
START_TEST(reads_deflated_idx) {
  static const unsigned char packed[] = {0x1F, 0x8B, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x63,
                                         0x60, 0xE0, 0x60, 0x62, 0x60, 0x60, 0x60, 0x06, 0x62, 0x0D, 0x86,
                                         0x01, 0x02, 0x00, 0x7E, 0x9D, 0xF2, 0x0F, 0x84, 0x00, 0x00, 0x00};
  lk_view v;
  ck_assert_int_eq(lk_idx_read_memory(ctx, packed, sizeof packed, "idx", &v), LK_OK);
  ck_assert_int_eq(lk_view_count(&v), 120);
  for (int i = 0; i < 120; i++) ck_assert_int_eq(((uint8_t *)v.p)[i], 0);
  lk_free(ctx, v.p);
}
END_TEST

START_TEST(converts_idx_types) {
  static const struct {
    unsigned char bytes[24];
    size_t n;
    lk_dtype dtype;
    double first, second;
  } cases[] = {
      {{0, 0, 0x09, 1, 0, 0, 0, 2, 0x80, 0x7F}, 10, LK_I32, -128, 127},
      {{0, 0, 0x0B, 1, 0, 0, 0, 2, 0x80, 0, 0x01, 0x02}, 12, LK_I32, -32768, 258},
      {{0, 0, 0x0C, 1, 0, 0, 0, 2, 0xFF, 0xFF, 0xFF, 0xFE, 1, 2, 3, 4}, 16, LK_I32, -2, 16909060},
      {{0, 0, 0x0D, 1, 0, 0, 0, 2, 0x3F, 0xC0, 0, 0, 0xC0, 0, 0, 0}, 16, LK_F32, 1.5, -2},
      {{0, 0, 0x0E, 1, 0, 0, 0, 2, 0x3F, 0xF8, 0, 0, 0, 0, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0}, 24, LK_F64, 1.5, -2},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    lk_view v;
    ck_assert_int_eq(lk_idx_read_memory(ctx, cases[i].bytes, cases[i].n, "idx", &v), LK_OK);
    ck_assert_int_eq(v.dtype, cases[i].dtype);
    ck_assert_double_eq(lk_view_get(&v, 0), cases[i].first);
    ck_assert_double_eq(lk_view_get(&v, 1), cases[i].second);
    lk_free(ctx, v.p);
    expect_idx(cases[i].bytes, cases[i].n - 1, LK_EFORMAT, "idx: the file is shorter");
  }
}
END_TEST

/* More elements than are converted at a time. */
START_TEST(converts_long_idx) {
  enum { N = 5000 };
  static unsigned char bytes[8 + 2 * N] = {0, 0, 0x0B, 1, 0, 0, N >> 8, N & 255};
  for (int i = 0; i < N; i++) {
    bytes[8 + 2 * i] = (unsigned char)(i >> 8);
    bytes[9 + 2 * i] = (unsigned char)i;
  }
  lk_view v;
  ck_assert_int_eq(lk_idx_read_memory(ctx, bytes, sizeof bytes, "idx", &v), LK_OK);
  for (int i = 0; i < N; i++) ck_assert_int_eq(((int32_t *)v.p)[i], i);
  lk_free(ctx, v.p);
}
END_TEST

START_TEST(refuses_malformed_idx) {
  unsigned char bytes[64], packed[128];
  for (size_t n = 0; n < sizeof small; n++) expect_idx(small, n, LK_EFORMAT, "shorter than its header says");
#define WITH(place, value, words)                                                                                      \
  do {                                                                                                                 \
    memcpy(bytes, small, sizeof small);                                                                                \
    bytes[place] = (value);                                                                                            \
    expect_idx(bytes, sizeof small, LK_EFORMAT, words);                                                                \
  } while (0)
  WITH(0, 1, "not an IDX file: it begins with 01 00 08 02");
  WITH(1, 1, "not an IDX file");
  WITH(2, 0x0A, "not an IDX file");
  WITH(3, 0, "not an IDX file");
  WITH(3, 7, "7 axes, at most 6");
  WITH(4, 0xFF, "more than 2147483648 elements");
  WITH(7, 3, "shorter than its header says");
  WITH(7, 1, "longer than its header says");
#undef WITH
  memset(bytes, 0xFF, sizeof bytes); /* sizes whose product overflows */
  memcpy(bytes, "\0\0\x08\x06", 4);
  expect_idx(bytes, 28, LK_EFORMAT, "more than");
  memcpy(bytes, small, sizeof small);
  bytes[sizeof small] = 0;
  expect_idx(bytes, sizeof small + 1, LK_EFORMAT, "longer than its header says");
  size_t n = test_gzip(bytes, sizeof small + 1, packed);
  expect_idx(packed, n, LK_EFORMAT, "longer than its header says");
  n = test_gzip(small, sizeof small - 1, packed);
  expect_idx(packed, n, LK_EFORMAT, "shorter than its header says");
  memcpy(bytes, "\0\0\x08\x01\x7F\xFF\xFF\xFF", 8); /* 2 GB, says a file of 31 bytes: refused before taking memory */
  n = test_gzip(bytes, 8, packed);
  expect_idx(packed, n, LK_EFORMAT, "shorter than its header says");
  lk_view v;
  ck_assert_int_eq(lk_idx_read_memory(ctx, NULL, 1, "idx", &v), LK_ENIL);
  expect(LK_ENIL, "NULL");
  ck_assert_int_eq(lk_idx_read(ctx, "missing", &v), LK_EIO);
  expect(LK_EIO, "missing");
}
END_TEST

START_TEST(refuses_damaged_gzip) {
  unsigned char packed[128], damaged[128];
  size_t n = test_gzip(small, sizeof small, packed);
  for (size_t k = 2; k < n; k++) expect_idx(packed, k, LK_EFORMAT, "idx: ");
  expect_idx(packed, n - 1, LK_EFORMAT, "gzip data is truncated");
  expect_idx(packed, n - 8, LK_EFORMAT, "gzip data is truncated");
  const struct {
    size_t place;
    const char *words;
  } bad[] = {{2, "unknown compression method"}, {3, "unknown header flags"}, {10, "invalid block type"},
             {13, "invalid stored block"},      {15 + 14, "incorrect data"}, {n - 8, "incorrect data check"},
             {n - 4, "incorrect length check"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    memcpy(damaged, packed, n);
    damaged[bad[i].place] ^= 0xE6;
    expect_idx(damaged, n, LK_EFORMAT, bad[i].words);
  }
  memcpy(damaged, packed, n);
  memcpy(damaged + n, "garbage", 7);
  expect_idx(damaged, n + 7, LK_EFORMAT, "incorrect header check");
  expect_idx(damaged, n + 1, LK_EFORMAT, "truncated");
}
END_TEST

START_TEST(reads_empty_idx) {
  static const unsigned char bytes[] = {0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 3};
  lk_view v;
  ck_assert_int_eq(lk_idx_read_memory(ctx, bytes, sizeof bytes, "idx", &v), LK_OK);
  ck_assert_int_eq(lk_view_count(&v), 0);
  ck_assert_ptr_nonnull(v.p);
  lk_free(ctx, v.p);
}
END_TEST

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  lk_view v;
  lk_make_dirs(c, "story/deep");
  lk_writer *w = lk_writer_open(c, "story/deep/f");
  lk_writef(w, "%600d", 1);
  lk_writer_commit(w);
  lk_free(c, lk_file_read_text(c, "story/deep/f", 1000, NULL));
  lk_file_unmap(lk_file_map(c, "story/deep/f"));
  if (!lk_idx_read_either(c, "idx", &v)) lk_free(c, v.p);
  return lk_error(c, NULL);
}

START_TEST(survives_every_failing_allocation) {
  unsigned char packed[64];
  test_put("idx.gz", packed, test_gzip(small, sizeof small, packed));
  uint64_t count;
  const char *why = test_each_allocation(story, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 15);
  ck_assert_int_eq(count_files(), 2);
}
END_TEST

static Suite *suite(void) {
  Suite *s = suite_create("io");
  TCase *c = add_case(s, "files");
  tcase_add_test(c, maps_files);
  tcase_add_test(c, refuses_to_map);
  tcase_add_test(c, reads_texts);
  tcase_add_test(c, makes_directories);
  tcase_add_test(c, writes_files);
  tcase_add_test(c, writes_pieces_of_any_size);
  tcase_add_test(c, keeps_permissions_and_follows_links);
  tcase_add_test(c, refuses_targets);
  tcase_add_test(c, full_disk_leaves_the_old_file);
  tcase_add_test(c, failing_at_the_end_leaves_the_old_file);
  tcase_add_test(c, errors_of_others_abort_the_commit);
  tcase_add_test(c, avoids_old_temporaries);
  tcase_add_test(c, killed_writers_leave_whole_files);
  c = add_case(s, "idx");
  tcase_add_test(c, reads_idx);
  tcase_add_test(c, reads_deflated_idx);
  tcase_add_test(c, converts_idx_types);
  tcase_add_test(c, converts_long_idx);
  tcase_add_test(c, refuses_malformed_idx);
  tcase_add_test(c, refuses_damaged_gzip);
  tcase_add_test(c, reads_empty_idx);
  tcase_add_test(c, survives_every_failing_allocation);
  return s;
}

int main(void) { return run_suite(suite()); }
