/* search_file.c: saving a search, and going on by running it again with the recorded fitnesses.
 *
 * The file has what the caller gave (genes, options, fitnesses) and what follows from it (genomes, costs, phases, draws; the ranking too, which is not in it);
 * a reader checks the latter against the run, so that nothing in the file is believed. */
#include "search.h"

#include <lorikeet/safetensors.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FORMAT "lorikeet-search-1"

enum { PAIRS = 16, TENSORS = 6, GIVEN = 14 }; /* the first GIVEN pairs are the caller's, the others follow */

/* A search as it stands in a file. */
typedef struct {
  lk_metadata pairs[PAIRS];
  char text[PAIRS][40];
  size_t npairs;
  lk_named_view tensors[TENSORS];
  size_t ntensors;
} saved;

/* ---- writing ---- */

static void LK_PRINTF(3, 4) put(saved *f, const char *key, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  vsnprintf(f->text[f->npairs], sizeof *f->text, format, ap);
  va_end(ap);
  f->pairs[f->npairs] = (lk_metadata){key, f->text[f->npairs]};
  f->npairs++;
}

static void put_pairs(saved *f, const lk_search *s) {
  const lk_search_options *o = &s->o;
  put(f, "format", "%s", FORMAT);
  put(f, "population", "%d", o->population);
  put(f, "select", "%d", o->select);
  put(f, "mutation", "%d", o->mutation);
  put(f, "crossover", "%d", o->crossover);
  put(f, "mutation_prob", "%.17g", o->mutation_prob);
  put(f, "generations", "%d", o->generations);
  put(f, "cost_max", "%lld", (long long)o->cost_max);
  put(f, "cost_min", "%lld", (long long)o->cost_min);
  put(f, "hall_size", "%d", o->hall);
  put(f, "final_rank", "%d", o->final_rank != 0);
  put(f, "max_random_attempts", "%lld", (long long)o->max_random_attempts);
  put(f, "source", "%s", o->unit ? "given" : "threefry");
  put(f, "seed", "%llu", (unsigned long long)(o->unit ? 0 : o->seed));
  put(f, "state", "%s", s->asked ? "asked" : s->finished ? "finished" : "told");
  put(f, "draws", "%llu", (unsigned long long)s->asked_draws);
}

/* n rows of `cols` numbers (0: a vector), `stride` elements from one row to the next. */
static void put_tensor(saved *f, const char *name, lk_dtype dtype, void *p, int64_t n, int cols, int64_t stride) {
  lk_view v;
  lk_view_init(&v, dtype, cols ? 2 : 1, (int64_t[]){n, cols});
  v.p = p;
  v.stride[0] = stride;
  f->tensors[f->ntensors++] = (lk_named_view){name, v};
}

_Static_assert(sizeof(search_record) == 3 * sizeof(double), "a record's fields are strided tensors");

static void describe(saved *f, const lk_search *s) {
  search_record *r = s->records;
  int64_t asked = s->n + s->asked;
  f->npairs = f->ntensors = 0;
  put_pairs(f, s);
  put_tensor(f, "choices", LK_I32, s->choices, s->ngenes, 0, 1);
  put_tensor(f, "fitness", LK_F64, &r->fitness, s->n, 0, 3);
  put_tensor(f, "genomes", LK_I32, s->genomes, asked, s->ngenes, s->ngenes);
  put_tensor(f, "cost", LK_I64, &r->cost, asked, 0, 3);
  put_tensor(f, "phase", LK_I32, &r->phase, asked, 0, 6);
  put_tensor(f, "generation", LK_I32, &r->generation, asked, 0, 6);
}

lk_status lk_search_save(const lk_search *s, const char *path) {
  saved f;
  if (!s) return LK_ENIL;
  if (lk_error(s->ctx, NULL)) return lk_error(s->ctx, NULL);
  describe(&f, s);
  return lk_safetensors_write(s->ctx, path, f.tensors, f.ntensors, f.pairs, f.npairs);
}

/* ---- reading ---- */

typedef struct {
  lk_search *s; /* so far */
  lk_safetensors *file;
  const char *path;
} reader;

static lk_status LK_PRINTF(2, 3) misfit(const reader *r, const char *format, ...) {
  char text[300];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  return lk_fail(r->s->ctx, LK_EFORMAT, "search %s does not fit: %s", r->path, text);
}

static lk_status check_pairs(const reader *r, const saved *want, size_t from, size_t to) {
  for (size_t i = from; i < to; i++) {
    const char *key = want->pairs[i].key, *is = lk_safetensors_metadata(r->file, key);
    if (!is || strcmp(is, want->pairs[i].value))
      return misfit(r, "its %s is %.40s, not %s", key, is ? is : "missing", want->pairs[i].value);
  }
  return LK_OK;
}

/* A tensor of this dtype and shape: n rows of `cols` numbers, n < 0: any number. */
static lk_status get(const reader *r, const char *name, lk_dtype dtype, int64_t n, int cols, lk_view *v) {
  char is[160], wanted[160];
  lk_view want;
  if (lk_safetensors_get(r->file, name, v)) return lk_error(r->s->ctx, NULL);
  lk_view_init(&want, dtype, cols ? 2 : 1, (int64_t[]){n < 0 && v->ndim ? v->shape[0] : n, cols});
  if (v->dtype == dtype && lk_view_same_shape(v, &want)) return LK_OK;
  return misfit(r, "its %s is %s %s, not %s %s", name, lk_dtype_name(v->dtype), lk_view_format(v, is),
                lk_dtype_name(dtype), lk_view_format(&want, wanted));
}

static lk_status check_genes(const reader *r) {
  lk_view v;
  if (get(r, "choices", LK_I32, r->s->ngenes, 0, &v)) return lk_error(r->s->ctx, NULL);
  for (int i = 0; i < r->s->ngenes; i++)
    if (((const int32_t *)v.p)[i] != r->s->choices[i])
      return misfit(r, "its gene %d has %d choices, not %d", i, (int)((const int32_t *)v.p)[i], r->s->choices[i]);
  return LK_OK;
}

/* Asks for all that was evaluated and tells what was recorded. */
static lk_status replay(const reader *r) {
  lk_search *s = r->s;
  lk_view fitness, genomes;
  const char *state = lk_safetensors_metadata(r->file, "state");
  if (get(r, "fitness", LK_F64, -1, 0, &fitness) || get(r, "genomes", LK_I32, -1, s->ngenes, &genomes))
    return lk_error(s->ctx, NULL);
  if (genomes.shape[0] < fitness.shape[0]) return misfit(r, "it has fewer genomes than fitnesses");
  for (int64_t i = 0; i < fitness.shape[0]; i++) {
    const int *g = lk_search_ask(s);
    if (!g && !lk_error(s->ctx, NULL)) return misfit(r, "this search ends after %d candidates", s->n);
    if (!g) return lk_error(s->ctx, NULL);
    if (memcmp(g, (const int32_t *)genomes.p + i * s->ngenes, (size_t)s->ngenes * sizeof *g))
      return misfit(r, "its candidate %lld is not the one that these options, costs and random numbers lead to",
                    (long long)i);
    if (lk_search_tell(s, ((const double *)fitness.p)[i])) return lk_error(s->ctx, NULL);
  }
  if (!state || strcmp(state, "told")) lk_search_ask(s);
  return lk_error(s->ctx, NULL);
}

/* What follows from a run stands in the file as in the run. */
static lk_status check_tensors(const reader *r, const saved *want) {
  lk_view v;
  for (size_t i = 0; i < want->ntensors; i++) {
    const lk_view *w = &want->tensors[i].view;
    size_t size = lk_dtype_size(w->dtype);
    int cols = w->ndim == 2 ? (int)w->shape[1] : 0;
    if (get(r, want->tensors[i].name, w->dtype, w->shape[0], cols, &v)) return lk_error(r->s->ctx, NULL);
    for (int64_t k = 0, n = lk_view_count(w); k < n; k++)
      if (memcmp((const char *)v.p + (size_t)k * size, (const char *)w->p + (size_t)lk_view_offset(w, k) * size, size))
        return misfit(r, "its %s [%lld] is %.17g; these options, costs and random numbers lead to %.17g",
                      want->tensors[i].name, (long long)k, lk_view_get(&v, k), lk_view_get(w, k));
  }
  if (lk_safetensors_count(r->file) != want->ntensors) return misfit(r, "it has tensors that no search writes");
  return LK_OK;
}

static lk_status read_all(const reader *r) {
  saved f;
  describe(&f, r->s);
  if (check_pairs(r, &f, 0, GIVEN) || check_genes(r) || replay(r)) return lk_error(r->s->ctx, NULL);
  describe(&f, r->s);
  return check_tensors(r, &f) ? lk_error(r->s->ctx, NULL) : check_pairs(r, &f, GIVEN, f.npairs);
}

lk_search *lk_search_load(lk_ctx *ctx, int ngenes, const int *choices, int64_t (*cost)(void *arg, const int *genome),
                          void *cost_arg, const lk_search_options *options, const char *path) {
  reader r = {.s = lk_search_new(ctx, ngenes, choices, cost, cost_arg, options), .path = path};
  if (!r.s) return NULL;
  r.file = lk_safetensors_open(ctx, path);
  if (r.file) read_all(&r);
  lk_safetensors_close(r.file);
  if (!lk_error(ctx, NULL)) return r.s;
  lk_search_free(r.s);
  return NULL;
}
