/* io_suite.h: what the suites of files share: a context on a counting allocator, a directory, expected errors. */
#ifndef TEST_IO_SUITE_H
#define TEST_IO_SUITE_H
#include "alloc.h"
#include "files.h"

#include <check.h>

static test_allocator heap;
static lk_ctx *ctx;

static inline void setup(void) {
  test_directory();
  ctx = test_ctx(&heap, 0);
}

static inline void teardown(void) {
  lk_ctx_free(ctx);
  test_directory_remove();
  ck_assert_uint_eq(heap.live, 0);
}

/* The context must hold this error, whose sentence has these words; clears it. */
static inline void expect(lk_status status, const char *words) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == status, "want %s, got '%s'", lk_status_name(status), message);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' should say '%s'", message, words);
  lk_error_clear(ctx);
}

/* A new case with the fixture above. */
static inline TCase *add_case(Suite *s, const char *name) {
  TCase *c = tcase_create(name);
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_set_timeout(c, 240);
  suite_add_tcase(s, c);
  return c;
}

/* What main returns. */
static inline int run_suite(Suite *s) {
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}

#endif
