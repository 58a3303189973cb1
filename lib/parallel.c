/* parallel.c: loops over threads, cut into pieces that do not depend on how many threads there are. */
#include <lorikeet/op.h>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef void body_fn(void *arg, int64_t from, int64_t to, int thread);

static void piece(int64_t i, int64_t n, int64_t grain, body_fn *body, void *arg, int thread) {
  int64_t from = i * grain;
  body(arg, from, n - from < grain ? n : from + grain, thread);
}

void lk_parallel(int threads, int64_t n, int64_t grain, body_fn *body, void *arg) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  int64_t pieces = (n - 1) / grain + 1;
  if (threads > pieces) threads = (int)pieces;
#ifdef _OPENMP
  if (threads > 1 && !omp_in_parallel()) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < pieces; i++) piece(i, n, grain, body, arg, omp_get_thread_num());
    return;
  }
#endif
  for (int64_t i = 0; i < pieces; i++) piece(i, n, grain, body, arg, 0);
}
