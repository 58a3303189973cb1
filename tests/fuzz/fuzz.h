/* fuzz.h: what a fuzz target defines.  It is built with clang -fsanitize=fuzzer,address, or with driver.c.
 *
 * A target takes any bytes, must not crash, and aborts where the library breaks a promise. */
#ifndef LK_FUZZ_H
#define LK_FUZZ_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* A promise of the library. */
#define REQUIRE(condition)                                                                                             \
  do {                                                                                                                 \
    if (!(condition)) abort();                                                                                         \
  } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_MAX_SEED = 4096 };
/* For driver.c: writes valid input number i = 0, 1, ... to `to` (FUZZ_MAX_SEED bytes); its length, 0 after the last. */
size_t fuzz_seed(int i, uint8_t *to);
/* Words of the format to be inserted, ended by NULL. */
extern const char *const fuzz_words[];

#endif
