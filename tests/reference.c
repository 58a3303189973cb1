/* reference.c: reference [-v] FILE...: runs golden cases and compares every recorded number.
 *
 * A case is a safetensors file whose metadata name the method, the kind of case and the hyper-parameters, or a
 * directory with an adapter in HuggingFace PEFT's format.  Prints a line per case with the largest error,
 * max |a - b| / max(1, max |b|), and exits with 1 when a case fails or is not supported. */
#include "methods/golden.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const golden_method *const methods[] = {&golden_adalora, &golden_malora,    &golden_molora, &golden_glora,
                                               &golden_lora,    &golden_lora_drop, &golden_mlae,   &golden_neat};

/* A word of the metadata, which may be in JSON's quotes. */
static int is_word(const char *text, const char *word) {
  size_t n = strlen(word);
  if (*text == '"') return !strncmp(text + 1, word, n) && !strcmp(text + 1 + n, "\"");
  return !strcmp(text, word);
}

static void run_kind(golden *g, const golden_method *m) {
  const char *kind = golden_text(g, "kind", NULL);
  if (!kind && m->guess) kind = m->guess(g);
  for (const golden_kind *k = m->kinds; kind && k->kind; k++)
    if (is_word(kind, k->kind)) {
      k->run(g);
      return;
    }
  lk_fail(g->ctx, LK_EARG, "unsupported: kind '%s' of method %s", kind ? kind : "", m->method);
}

static void run_file(golden *g) {
  if (golden_open(g, g->path)) return;
  const char *method = golden_text(g, "method", NULL);
  if (!method) lk_fail(g->ctx, LK_EARG, "unsupported: the metadata name no method");
  for (size_t i = 0; method && i < sizeof methods / sizeof *methods; i++)
    if (is_word(method, methods[i]->method)) {
      run_kind(g, methods[i]);
      return;
    }
  if (method) lk_fail(g->ctx, LK_EARG, "unsupported: method '%s'", method);
}

static int is_directory(const char *path) {
  struct stat st;
  return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* Runs one case in a context of its own and prints its line; 1 if it passed. */
static int run_case(const char *path, int verbose) {
  lk_ctx *ctx = lk_ctx_new(NULL);
  golden g = {.path = path, .ctx = ctx, .tolerance = 1e-9, .verbose = verbose};
  const char *problem = "";
  if (!ctx) {
    printf("FAIL  %s: out of memory\n", path);
    return 0;
  }
  if (is_directory(path)) golden_directory(&g);
  else run_file(&g);
  if (!*g.wrong) golden_all_seen(&g);
  if (!g.compared) lk_fail(ctx, LK_EARG, "nothing is recorded that could be compared");
  int passed = !lk_error(ctx, &problem) && !*g.wrong;
  printf("%s  %s: %d tensors, largest error %.2g (%s)\n", passed ? "PASS" : "FAIL", path, g.compared, g.largest,
         g.where);
  if (*g.wrong) printf("      %s\n", g.wrong);
  if (*problem) printf("      %s\n", problem);
  for (int i = 0; i < lk_warning_count(ctx); i++) printf("      warning: %s\n", lk_warning(ctx, i));
  golden_close(&g);
  lk_ctx_free(ctx);
  return passed;
}

int main(int argc, char **argv) {
  int first = 1, verbose = argc > 1 && !strcmp(argv[1], "-v"), failed = 0;
  first += verbose;
  if (first >= argc || (argv[first][0] == '-' && argv[first][1])) {
    fprintf(stderr, "usage: %s [-v] FILE...\nruns golden cases; -v prints the error of every tensor\n", argv[0]);
    return 2;
  }
  for (int i = first; i < argc; i++) failed += !run_case(argv[i], verbose);
  return failed ? 1 : 0;
}
