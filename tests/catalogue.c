/* catalogue.c: prints the table of adapters as it stands in README.md; tests/readme.sh compares the two. */
#include <lorikeet.h>
#include <stdio.h>

int main(void) {
  lk_ctx *ctx = lk_ctx_new(NULL);
  char *table = ctx ? lk_adapter_catalogue(ctx, 1) : NULL;
  int failed = !table || fputs(table, stdout) < 0;
  if (ctx) lk_free(ctx, table);
  lk_ctx_free(ctx);
  return failed;
}
