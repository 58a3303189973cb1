/* 01_tensors: values and the tape they live on.
 *
 * You learn: what a context and a tape are; how a value is made, computed with and looked at; that a view shares its
 * memory; how shapes broadcast; and what happens when a program makes a mistake.
 *
 * A *context* holds what a program has once: allocator, seed, threads, and its first error.  A *tape* holds the values
 * of one step.  A value is a small handle (lk_tensor), passed around by value and never freed: resetting the tape
 * forgets all of them and keeps the memory for the next step. */
#include "course.h"

/* One line: name, shape, elements.  lk_get lends the memory of a value as a view: pointer, shape and strides. */
static void show(lk_tape *t, const char *name, lk_tensor x) {
  lk_view v;
  char shape[160];
  if (lk_get(t, x, &v)) return;
  printf("  %-16s %-7s", name, lk_view_format(&v, shape));
  for (int64_t i = 0; i < lk_view_count(&v); i++) printf("%6.1f", lk_view_get(&v, i));
  printf("\n");
}

/* Values exist as soon as the call that makes them returns: eager, so printf and the debugger show everything. */
static void compute(lk_tape *t) {
  const float numbers[] = {1, 2, 3, 4, 5, 6}, shift[] = {10, 20, 30};
  const int last = -1;
  lk_tensor x = lk_input(t, LK_F32, 2, (int64_t[]){2, 3}, numbers);
  lk_tensor row = lk_input(t, LK_F32, 1, (int64_t[]){3}, shift);
  lk_tensor gram = lk_matmul(t, x, lk_transpose(t, x, 0, 1));

  printf("values\n");
  show(t, "x", x);
  show(t, "x + row", lk_add(t, x, row)); /* row has no first axis: it is repeated along it */
  show(t, "mean of rows", lk_mean(t, x, 1, &last, 0));
  show(t, "x x^T", gram);
  if (lk_item(t, lk_sum(t, gram, 0, NULL, 0)) != 5 * 5 + 7 * 7 + 9 * 9)
    lk_fail(lk_tape_ctx(t), LK_EARG, "the elements of x x^T should add up to the squares of the column sums of x");
}

/* A transpose, a slice and most reshapes are windows on the same memory: no element moves, only the strides differ. */
static void look_through_views(lk_tape *t) {
  const float numbers[] = {1, 2, 3, 4, 5, 6};
  lk_view whole, flipped, column;
  lk_tensor x = lk_input(t, LK_F32, 2, (int64_t[]){2, 3}, numbers);
  lk_tensor xt = lk_transpose(t, x, 0, 1), last = lk_slice(t, x, 1, 2, 1, 1);

  printf("views\n");
  show(t, "x^T", xt);
  show(t, "last column", last);
  if (lk_get(t, x, &whole) || lk_get(t, xt, &flipped) || lk_get(t, last, &column)) return;
  printf("  strides: x (%d, %d), x^T (%d, %d); the column starts %d elements into x\n", (int)whole.stride[0],
         (int)whole.stride[1], (int)flipped.stride[0], (int)flipped.stride[1],
         (int)((float *)column.p - (float *)whole.p));
  if (flipped.p != whole.p || column.p != (float *)whole.p + 2)
    lk_fail(lk_tape_ctx(t), LK_EARG, "a transpose and a slice should share the memory of x");
}

/* Prints the error that the lines before have provoked, and goes on as if nothing had been. */
static void provoked(lk_ctx *ctx, lk_status status) {
  const char *message;
  if (lk_error(ctx, &message) != status)
    lk_fail(ctx, LK_EARG, "that should have been refused as: %s", lk_status_name(status));
  if (lk_error(ctx, NULL) != status) return;
  printf("  %s\n", message);
  lk_error_clear(ctx);
}

/* The first error stays in the context, in words.  Later calls return nil and do nothing, so a step needs no checks of
 * its own: the program asks once, at its end. */
static void make_mistakes(lk_tape *t) {
  lk_ctx *ctx = lk_tape_ctx(t);
  printf("mistakes\n");

  lk_tensor a = lk_input(t, LK_F32, 2, (int64_t[]){5, 7}, NULL), b = lk_input(t, LK_F32, 2, (int64_t[]){4, 3}, NULL);
  lk_tensor c = lk_relu(t, lk_add(t, lk_matmul(t, a, b), a)); /* goes wrong in the innermost call ... */
  if (!lk_is_nil(c)) lk_fail(ctx, LK_EARG, "what follows an error should be nil");
  provoked(ctx, LK_ESHAPE); /* ... and that is the one reported */

  uint32_t scope = lk_scope_begin(t, "attention", 0); /* models open scopes; here by hand */
  lk_tensor scores = lk_exp(t, a);
  lk_tensor y = lk_scope_end(t, scope, lk_sum(t, scores, 0, NULL, 0)); /* scores ends here; y goes on */
  lk_mul(t, scores, y);
  provoked(ctx, LK_ESTALE);

  lk_tape_reset(t); /* the next step: a, b and y are gone */
  lk_neg(t, a);
  provoked(ctx, LK_ESTALE);
}

int main(void) {
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  compute(t);
  look_through_views(t);
  make_mistakes(t);
  lk_tape_free(t);
  return finish(ctx);
}
