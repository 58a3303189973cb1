/* index.c: see index.h.  Gap-free slices along the first axis ("rows") are copied and added as memory. */
#include "index.h"

#include "real.h"
#include "rows.h"

#include <string.h>

#define COLUMNS 256 /* of a piece when rows are added to: repeated rows must meet in one thread */

int lk_index_fits(lk_call *c, const lk_view *picked, const lk_view *index, const lk_view *plain, int axis) {
  int fits = index->ndim == 1 && plain->ndim == picked->ndim;
  for (int d = 0; fits && d < picked->ndim; d++)
    fits = plain->shape[d] == (d == axis ? index->shape[0] : picked->shape[d]);
  if (fits) return 0;
  return lk_op_fail(c, LK_ESHAPE, "should be x, index [n] and x's shape with n on axis %d", axis);
}

/* ---- any axis and strides ---- */

static void walk_slices(const lk_view *index, const lk_view *picked, const lk_view *plain, int axis, lk_walk mode) {
  for (int64_t k = 0; k < index->shape[0]; k++) {
    lk_view a = lk_select(picked, axis, lk_view_index(index, k * index->stride[0]));
    lk_view b = lk_select(plain, axis, k);
    if (mode == LK_TAKE) lk_view_copy(&b, &a);
    else if (mode == LK_TAKE_ADD) lk_view_add(&b, &a, 1);
    else lk_view_add(&a, &b, 1);
  }
}

/* ---- rows ---- */

LK_CLONES static void put_rows(const lk_view *y, const lk_view *index, const lk_view *block) {
  int64_t n = y->shape[1], sy = y->stride[1], sb = block->stride[1];
  LK_REAL(y->dtype, {
    for (int64_t k = 0; k < index->shape[0]; k++) {
      R *to = (R *)y->p + lk_view_index(index, k * index->stride[0]) * y->stride[0];
      const R *from = (const R *)block->p + k * block->stride[0];
      if (sy == 1 && sb == 1)
        for (int64_t i = 0; i < n; i++) to[i] += from[i];
      else
        for (int64_t i = 0; i < n; i++) to[i * sy] += from[i * sb];
    }
  });
}

void lk_put_rows(const lk_view *y, const lk_view *index, const lk_view *block) { put_rows(y, index, block); }

LK_CLONES static void take_rows_add(const lk_view *index, const lk_view *picked, const lk_view *plain) {
  LK_REAL(plain->dtype, {
    for (int64_t k = 0; k < index->shape[0]; k++) {
      const R *from = (const R *)picked->p + lk_view_index(index, k * index->stride[0]) * picked->stride[0];
      R *to = (R *)plain->p + k * plain->stride[0];
      for (int64_t i = 0; i < plain->shape[1]; i++) to[i] += from[i];
    }
  });
}

static void take_rows(const lk_view *index, const lk_view *picked, const lk_view *plain) {
  int64_t size = (int64_t)lk_dtype_size(plain->dtype), bytes = plain->shape[1] * size;
  for (int64_t k = 0; k < index->shape[0]; k++) {
    int64_t from = lk_view_index(index, k * index->stride[0]) * picked->stride[0];
    memcpy((char *)plain->p + k * plain->stride[0] * size, (const char *)picked->p + from * size, (size_t)bytes);
  }
}

typedef struct job {
  const lk_view *index, *picked, *plain; /* the latter two with two axes */
  lk_walk mode;
} job;

static void rows_body(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  lk_view index = lk_narrow(j->index, 0, from, to - from), plain = lk_narrow(j->plain, 0, from, to - from);
  (void)thread;
  if (j->mode == LK_TAKE) take_rows(&index, j->picked, &plain);
  else take_rows_add(&index, j->picked, &plain);
}

static void columns_body(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  lk_view picked = lk_narrow(j->picked, 1, from, to - from), plain = lk_narrow(j->plain, 1, from, to - from);
  (void)thread;
  put_rows(&picked, j->index, &plain);
}

/* The view with all axes but the first made one; 0 if they have gaps. */
static int flatten(const lk_view *v, lk_view *rows) {
  lk_view row = lk_select(v, 0, 0);
  *rows = *v;
  rows->ndim = 2;
  rows->shape[1] = lk_view_count(&row);
  rows->stride[1] = 1;
  return lk_view_contiguous(&row);
}

static void walk_rows(lk_call *c, const job *j) {
  int64_t n = j->plain->shape[0], cols = j->plain->shape[1];
  int threads = n * cols < 32768 ? 1 : c->threads;
  if (j->mode == LK_PUT_ADD) lk_parallel(threads, cols, COLUMNS, columns_body, (void *)j);
  else lk_parallel(threads, n, lk_row_grain(cols), rows_body, (void *)j);
}

void lk_index_walk(lk_call *c, const lk_view *index, const lk_view *picked, const lk_view *plain, int axis,
                   lk_walk mode) {
  lk_view a, b;
  if (!lk_view_count(plain)) return;
  /* Where plain repeats, its rows are one place that threads would share. */
  int rows = axis == 0 && plain->stride[0] && flatten(picked, &a) && flatten(plain, &b);
  if (rows) walk_rows(c, &(job){index, &a, &b, mode});
  else walk_slices(index, picked, plain, axis, mode);
}
