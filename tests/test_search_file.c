/* test_search_file.c: saved searches go on as if they had never stopped; what is refused; memory that runs out. */
#include "search.h"

#include <lorikeet/safetensors.h>

/* ---- going on ---- */

static double lcg(void *arg) {
  uint64_t *state = arg;
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (double)(*state >> 11) * 0x1p-53;
}

static void same_bytes(const char *a, const char *b) {
  size_t na, nb;
  unsigned char *x = test_get(a, &na), *y = test_get(b, &nb);
  ck_assert_uint_eq(na, nb);
  ck_assert_mem_eq(x, y, na);
  free(x);
  free(y);
}

/* Stops after `told` candidates, and with the next one asked for or not; saves, loads, goes on to the end. */
static void stop_at(lk_search_options o, int told, int asked) {
  uint64_t state = 5, again = 5;
  if (o.unit) o.arg = &state;
  lk_search *s = make(ctx, &o);
  for (int i = 0; i < told; i++) lk_search_tell(s, coarse(lk_search_ask(s)));
  if (asked) lk_search_ask(s);
  ck_assert_int_eq(lk_search_save(s, "stopped"), LK_OK);
  lk_search_free(s);
  if (o.unit) o.arg = &again;
  s = load(ctx, &o, "stopped");
  ck_assert_ptr_nonnull(s);
  ck_assert_uint_eq(state, again);
  ck_assert_int_eq(lk_search_evaluated(s), told);
  lk_search_save(s, "again");
  same_bytes("stopped", "again");
  run(s);
  lk_search_save(s, "end");
  same_bytes("whole", "end");
  lk_search_free(s);
}

START_TEST(test_resumed_anywhere) {
  lk_search_options o = small();
  for (int given = 0; given < 2; given++) {
    uint64_t state = 5;
    o.unit = given ? lcg : NULL;
    o.arg = &state;
    lk_search *s = make(ctx, &o);
    run(s);
    lk_search_save(s, "whole");
    int n = lk_search_evaluated(s);
    lk_search_free(s);
    for (int told = 0; told <= n; told++) stop_at(o, told, 0), stop_at(o, told, 1);
  }
}
END_TEST

/* ---- what is refused ---- */

static void save_half(const char *path) {
  lk_search_options o = small();
  lk_search *s = make(ctx, &o);
  for (int i = 0; i < 13; i++) lk_search_tell(s, coarse(lk_search_ask(s)));
  lk_search_ask(s);
  ck_assert_int_eq(lk_search_save(s, path), LK_OK);
  lk_search_free(s);
}

START_TEST(test_other_searches_are_refused) {
  const lk_search_options d = small();
  lk_search_options o;
  int more = 1;
  save_half("half");
#define REFUSED(change, words)                                                                                         \
  o = d, change;                                                                                                       \
  ck_assert_ptr_null(load(ctx, &o, "half"));                                                                           \
  expect(LK_EFORMAT, "search half does not fit: its " words)
  REFUSED(o.population = 9, "population is 8, not 9");
  REFUSED(o.select = 4, "select is 3, not 4");
  REFUSED(o.mutation = 5, "mutation is 4, not 5");
  REFUSED(o.crossover = 5, "crossover is 3, not 5");
  REFUSED(o.mutation_prob = 0.25, "mutation_prob is 0.2");
  REFUSED(o.generations = 4, "generations is 3, not 4");
  REFUSED(o.cost_max = 8, "cost_max is 9, not 8");
  REFUSED(o.cost_min = 2, "cost_min is 3, not 2");
  REFUSED(o.hall = 8, "hall_size is 7, not 8");
  REFUSED(o.final_rank = 1, "final_rank is 0, not 1");
  REFUSED(o.max_random_attempts = 501, "max_random_attempts is 500, not 501");
  REFUSED(o.seed = 7, "seed is 1, not 7");
  REFUSED(o.unit = lcg, "source is threefry, not given");
#undef REFUSED
  ck_assert_ptr_null(lk_search_load(ctx, GENES, (int[]){3, 2, 4, 3, 5, 3}, sum, NULL, &d, "half"));
  expect(LK_EFORMAT, "its gene 5 has 2 choices, not 3");
  ck_assert_ptr_null(lk_search_load(ctx, 5, choices, sum, NULL, &d, "half"));
  expect(LK_EFORMAT, "its choices is i32 [6], not i32 [5]");
  ck_assert_ptr_null(lk_search_load(ctx, GENES, choices, sum, &more, &d, "half"));
  expect(LK_EFORMAT, "these options, costs and random numbers lead to");
  ck_assert_ptr_null(load(ctx, &d, "nothing"));
  expect(LK_EIO, "nothing");
}
END_TEST

/* The file `half` with one tensor changed by `change`, or left out (NULL), or a metadata value that is 7, or a tensor
 * `extra` too many, is refused with these words. */
static void altered(const char *name, void (*change)(lk_view *v), const char *words) {
  lk_named_view tensors[10];
  lk_metadata pairs[20];
  size_t n = 0, m = 0;
  lk_safetensors *f = lk_safetensors_open(ctx, "half");
  unsigned char copy[4096];
  for (; m < lk_safetensors_metadata_count(f); m++) {
    pairs[m] = lk_safetensors_metadata_at(f, m);
    if (!strcmp(pairs[m].key, name)) pairs[m].value = "7";
  }
  for (size_t i = 0; i < lk_safetensors_count(f); i++) {
    const lk_stored *t = lk_safetensors_at(f, i);
    int it = !strcmp(t->name, name);
    lk_view v;
    if (it && !change) continue;
    lk_safetensors_view(f, t, &v);
    if (it) {
      ck_assert_uint_lt(t->bytes, sizeof copy);
      v.p = memcpy(copy, v.p, t->bytes);
      change(&v);
    }
    tensors[n++] = (lk_named_view){t->name, v};
  }
  if (!strcmp(name, "extra")) tensors[n] = tensors[0], tensors[n++].name = name;
  ck_assert_int_eq(lk_safetensors_write(ctx, "altered", tensors, n, pairs, m), LK_OK);
  lk_safetensors_close(f);
  lk_search_options o = small();
  ck_assert_ptr_null(load(ctx, &o, "altered"));
  const char *message;
  ck_assert(lk_error(ctx, &message) != LK_OK && strstr(message, words));
  lk_error_clear(ctx);
}

static void raise_last(lk_view *v) { lk_view_set(v, lk_view_count(v) - 1, lk_view_get(v, lk_view_count(v) - 1) + 1); }
static void lower_first(lk_view *v) { lk_view_set(v, 0, -1); }
static void make_nan(lk_view *v) { lk_view_set(v, 4, NAN); }
static void cut(lk_view *v) { v->shape[0]--; }
static void cut_more(lk_view *v) { v->shape[0] -= 2; }

static void flatten(lk_view *v) { /* to one number */
  void *p = v->p;
  lk_view_init(v, v->dtype, 0, NULL);
  v->p = p;
}

START_TEST(test_altered_files_are_refused) {
  static const char *const names[] = {"choices", "fitness", "genomes", "cost", "phase", "generation"};
  save_half("half");
  for (int i = 0; i < 6; i++) altered(names[i], NULL, names[i]);
  for (int i = 0; i < 6; i++) altered(names[i], flatten, names[i]);
  for (int i = 3; i < 6; i++) altered(names[i], raise_last, names[i]);
  for (int i = 3; i < 6; i++) altered(names[i], cut, names[i]);
  altered("extra", NULL, "tensors that no search writes");
  altered("draws", NULL, "its draws is 7, not ");
  altered("state", NULL, "its state is 7, not asked");
  altered("format", NULL, "its format is 7, not lorikeet-search-1");
  altered("choices", lower_first, "gene 0 has -1 choices, not 3");
  altered("genomes", lower_first, "its candidate 0 is not the one");
  altered("genomes", raise_last, "its genomes [83]"); /* the one that was asked for */
  altered("genomes", cut, "its genomes is i32 [13, 6], not i32 [14, 6]");
  altered("genomes", cut_more, "fewer genomes than fitnesses");
  altered("fitness", make_nan, "candidate 4 is NaN");
  altered("fitness", cut, "its genomes is i32 [14, 6], not i32 [13, 6]");
}
END_TEST

/* Loading mangled bytes gives a search or a sentence. */
static void load_bytes(const unsigned char *bytes, size_t n, int may_load) {
  lk_search_options o = small();
  test_put("mangled", bytes, n);
  lk_search *s = load(ctx, &o, "mangled");
  const char *message;
  if (s) {
    ck_assert(may_load && !lk_error(ctx, NULL));
    run(s);
  } else ck_assert(lk_error(ctx, &message) && *message);
  lk_search_free(s);
  lk_error_clear(ctx);
  lk_warnings_clear(ctx);
}

START_TEST(test_mangled_files) {
  size_t n;
  save_half("half");
  unsigned char *bytes = test_get("half", &n);
  for (size_t length = 0; length < n; length += 7) load_bytes(bytes, length, 0);
  load_bytes(bytes, n - 1, 0);
  load_bytes(bytes, n, 1);
  for (size_t i = 0; i < n; i++) {
    unsigned char was = bytes[i];
    bytes[i] ^= (unsigned char)(1u << i % 8);
    load_bytes(bytes, n, 1);
    bytes[i] = was;
  }
  memset(bytes, 0xFF, n);
  load_bytes(bytes, n, 0);
  free(bytes);
}
END_TEST

/* ---- memory ---- */

static lk_status story(lk_ctx *c, void *arg) {
  lk_search_options o = small();
  (void)arg;
  o.generations = 9; /* the table grows */
  lk_search *s = make(c, &o), *loaded = NULL;
  run(s);
  if (s && !lk_search_save(s, "story")) loaded = load(c, &o, "story");
  ck_assert(lk_error(c, NULL) || (loaded && lk_search_evaluated(loaded) == lk_search_evaluated(s)));
  lk_search_free(loaded);
  lk_search_free(s);
  return lk_error(c, NULL);
}

START_TEST(test_every_allocation_may_fail) {
  uint64_t n = 0;
  const char *why = test_each_allocation(story, NULL, &n);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(n, 20);
}
END_TEST

/* A search whose memory ran out goes on, when there is some again, as if nothing had been; so does what it saved. */
START_TEST(test_goes_on_after_a_failure) {
  lk_search_options o = small();
  o.generations = 9;
  lk_search *s = make(ctx, &o);
  run(s);
  lk_search_save(s, "whole");
  lk_search_free(s);
  int failures = 0;
  for (uint64_t n = 1; n < 40; n++) {
    test_allocator a;
    lk_ctx *c = test_ctx(&a, 0);
    s = make(c, &o);
    a.fail_at = a.calls + n;
    run(s);
    if (lk_error(c, NULL)) {
      failures++;
      lk_error_clear(c);
      ck_assert_int_eq(lk_search_save(s, "failed"), LK_OK);
      lk_search *other = load(c, &o, "failed");
      ck_assert_ptr_nonnull(other);
      run(other);
      lk_search_save(other, "end");
      same_bytes("whole", "end");
      lk_search_free(other);
    }
    a.fail_at = 0;
    run(s);
    lk_search_save(s, "end");
    same_bytes("whole", "end");
    lk_search_free(s);
    lk_ctx_free(c);
  }
  ck_assert_int_gt(failures, 3);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("search_file");
  TCase *tcase = add_case(suite, "search_file");
  tcase_add_test(tcase, test_resumed_anywhere);
  tcase_add_test(tcase, test_other_searches_are_refused);
  tcase_add_test(tcase, test_altered_files_are_refused);
  tcase_add_test(tcase, test_mangled_files);
  tcase_add_test(tcase, test_every_allocation_may_fail);
  tcase_add_test(tcase, test_goes_on_after_a_failure);
  return run_suite(suite);
}
