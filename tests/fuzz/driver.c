/* driver.c: runs a fuzz target without libFuzzer.
 *
 *   target [-n MUTATIONS] [-s SEED] [FILE|DIRECTORY]...
 *
 * Replays the target's own seeds and the files, then MUTATIONS (200000) inputs derived from them, the same ones in
 * every run.  An input ends where its memory page does and the next page cannot be read, so that reading too far
 * ends the run also without sanitizers.  When a run ends that way, the input is in fuzz-crash-input. */
#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGEST = 1 << 16, MOST = 4096 };

typedef struct input {
  uint8_t *bytes;
  size_t n;
} input;

static input corpus[MOST];
static int ncorpus;
static uint64_t state;
static uint8_t *page_end; /* the first byte that cannot be read */
static uint8_t *volatile current;

static void die(const char *what, const char *which) {
  fprintf(stderr, "fuzz: %s %s\n", what, which);
  exit(2);
}

/* Keeps the input that ended the run. */
static void on_crash(int signal_number) {
  FILE *f = current ? fopen("fuzz-crash-input", "wb") : NULL;
  if (f) {
    fwrite(current, 1, (size_t)(page_end - current), f);
    fclose(f);
    fprintf(stderr, "fuzz: signal %d; the input is in fuzz-crash-input\n", signal_number);
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

static void run(const uint8_t *bytes, size_t n) {
  current = page_end - n;
  if (n) memcpy(current, bytes, n);
  LLVMFuzzerTestOneInput(current, n);
}

static void add(const uint8_t *bytes, size_t n) {
  if (ncorpus == MOST || n > LARGEST) return;
  uint8_t *copy = malloc(n + 1);
  if (!copy) die("no memory for", "the corpus");
  memcpy(copy, bytes, n);
  corpus[ncorpus++] = (input){copy, n};
}

static void add_path(const char *path) {
  static uint8_t bytes[LARGEST + 1];
  DIR *d = opendir(path);
  if (d) {
    char name[4096];
    for (struct dirent *e; (e = readdir(d));) {
      if (e->d_name[0] == '.') continue;
      snprintf(name, sizeof name, "%s/%s", path, e->d_name);
      add_path(name);
    }
    closedir(d);
    return;
  }
  FILE *f = fopen(path, "rb");
  if (!f) die("cannot open", path);
  add(bytes, fread(bytes, 1, sizeof bytes, f));
  fclose(f);
}

/* ---- mutation ---- */

/* xorshift64* (Vigna, 2016), below n. */
static size_t draw(size_t n) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (size_t)((state * 2685821657736338717u) >> 33) % n;
}

/* Replaces `cut` bytes at `at` by m others. */
static size_t splice(uint8_t *b, size_t n, size_t at, size_t cut, const uint8_t *with, size_t m) {
  if (cut > n - at) cut = n - at;
  if (n - cut + m > LARGEST) return n;
  memmove(b + at + m, b + at + cut, n - at - cut);
  memcpy(b + at, with, m);
  return n - cut + m;
}

static size_t mutate(uint8_t *b, size_t n) {
  static const uint8_t special[] = {0, 1, 7, 8, 0x20, 0x22, 0x2D, 0x5C, 0x7B, 0x7D, 0x7F, 0x80, 0xC0, 0xFE, 0xFF};
  uint8_t with[64];
  size_t at = draw(n + 1), m = 1 + draw(16);
  switch (draw(8)) {
  case 0:
    if (at < n) b[at] ^= (uint8_t)(1 << draw(8));
    return n;
  case 1:
    if (at < n) b[at] = special[draw(sizeof special)];
    return n;
  case 2:
    if (at < n) b[at] = (uint8_t)(b[at] + draw(5) - 2);
    return n;
  case 3:
    return splice(b, n, at, m, with, 0);
  case 4:
    for (size_t i = 0; i < m; i++) with[i] = (uint8_t)draw(256);
    return splice(b, n, at, draw(2) * m, with, m);
  case 5: { /* repeat a piece of itself */
    size_t from = draw(n + 1);
    if (m > n - from) m = n - from;
    memcpy(with, b + from, m);
    return splice(b, n, at, 0, with, m);
  }
  case 6: { /* the tail of another input */
    const input *other = &corpus[draw((size_t)ncorpus)];
    size_t from = draw(other->n + 1);
    return splice(b, n, at, n - at, other->bytes + from, other->n - from);
  }
  default: {
    size_t words = 0;
    while (fuzz_words[words]) words++;
    const char *word = fuzz_words[draw(words)];
    return splice(b, n, at, draw(2) * strlen(word), (const uint8_t *)word, strlen(word));
  }
  }
}

static void run_mutations(long count) {
  static uint8_t b[LARGEST];
  for (long i = 0; i < count; i++) {
    const input *from = &corpus[draw((size_t)ncorpus)];
    size_t n = from->n;
    memcpy(b, from->bytes, n);
    for (size_t k = 1 + draw(4); k > 0; k--) n = mutate(b, n);
    run(b, n);
  }
}

int main(int argc, char **argv) {
  static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
  uint8_t seed[FUZZ_MAX_SEED];
  long count = 200000;
  state = 1;
  for (int c; (c = getopt(argc, argv, "n:s:")) != -1;) {
    if (c == 'n') count = strtol(optarg, NULL, 10);
    else if (c == 's') state = strtoull(optarg, NULL, 10) | 1;
    else die("usage: target [-n MUTATIONS] [-s SEED] [FILE|DIRECTORY]...", "");
  }
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint8_t *room = mmap(NULL, LARGEST + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED || mprotect(room + LARGEST, page, PROT_NONE)) die("no memory for", "the input");
  page_end = room + LARGEST;
  for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) signal(fatal[i], on_crash);
  for (size_t i = 0, n; (n = fuzz_seed((int)i, seed)) > 0; i++) add(seed, n);
  for (int i = optind; i < argc; i++) add_path(argv[i]);
  if (!ncorpus) die("no input", "at all");
  for (int i = 0; i < ncorpus; i++) run(corpus[i].bytes, corpus[i].n);
  run_mutations(count);
  printf("%d inputs and %ld mutations\n", ncorpus, count);
  for (int i = 0; i < ncorpus; i++) free(corpus[i].bytes);
  munmap(room, LARGEST + page);
  return 0;
}
