/* profile.c: see profile.h. */
#include "profile.h"

#include "measure.h"

#include <stdlib.h>
#include <string.h>

static void describe(const lk_call *c, char *text, size_t size) {
  const lk_view *x = &c->x[0], *y = c->y;
  long long in = x->ndim ? (long long)x->shape[x->ndim - 1] : 1, out = y->ndim ? (long long)y->shape[y->ndim - 1] : 1;
  snprintf(text, size, "%lld -> %lld", in, out);
}

static profile_row *find(profile *p, const lk_call *c, int backward) {
  char shape[sizeof p->row->shape];
  describe(c, shape, sizeof shape);
  for (int i = 0; i < p->n; i++)
    if (p->row[i].op == c->op && p->row[i].backward == backward && !strcmp(p->row[i].shape, shape)) return &p->row[i];
  if (p->n == (int)(sizeof p->row / sizeof *p->row)) return NULL;
  profile_row *r = &p->row[p->n++];
  *r = (profile_row){.op = c->op, .backward = backward};
  strcpy(r->shape, shape);
  return r;
}

void profile_watch(void *arg, const lk_call *call, int backward, int done) {
  profile *p = arg;
  if (!done) {
    p->began = measure_now();
    return;
  }
  double seconds = measure_now() - p->began;
  profile_row *r = find(p, call, backward);
  if (!r) return;
  r->calls++;
  r->seconds += seconds;
}

static int by_time(const void *a, const void *b) {
  double x = ((const profile_row *)a)->seconds, y = ((const profile_row *)b)->seconds;
  return (x < y) - (x > y);
}

void profile_print(profile *p, FILE *out, int64_t steps, double total) {
  double n = (double)steps, ops = 0;
  qsort(p->row, (size_t)p->n, sizeof *p->row, by_time);
  fprintf(out, "%-16s %-14s %-8s %6s %9s %7s\n", "op", "last axis", "", "calls", "ms", "share");
  for (int i = 0; i < p->n; i++) {
    const profile_row *r = &p->row[i];
    ops += r->seconds / n;
    if (r->seconds / n < total / 2000) continue;
    fprintf(out, "%-16s %-14s %-8s %6.0f %9.3f %6.2f%%\n", r->op->name, r->shape, r->backward ? "backward" : "forward",
            (double)r->calls / n, 1e3 * r->seconds / n, 100 * r->seconds / n / total);
  }
  fprintf(out, "%-16s %-14s %-8s %6s %9.3f %6.2f%%\n", "outside of ops", "", "", "", 1e3 * (total - ops),
          100 * (total - ops) / total);
}
