/* test_combine.c: new adapters from several: every mode against a plain recomputation at every kind of layer, refusals,
 * what becomes of targets, saved modules and options, random masks, files, failing memory. */
#include "adapters.h"
#include "files.h"

#include <lorikeet/combine.h>
#include <lorikeet/io.h>
#include <lorikeet/linalg.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

enum { MOST = 200, LAYERS = 5 };

static test_allocator heap;
static lk_ctx *ctx;
static lk_model *model;
static lk_site *sites[LAYERS];
static lk_tape *t;

/* ---- a model with a layer of every kind, and three adapters ---- */

static const char *const layers[LAYERS] = {"lin", "turned", "emb", "conv", "groups"};
static const char *const names[] = {"one", "two", "three"};
static const struct {
  const char *spec, *targets;
} adapters[] = {{"lora r=2 alpha=3 init=random", "lin,turned,emb,conv,groups"},
                {"lora r=2 alpha=-1 rslora init=random", "lin,emb,conv,groups"},
                {"lora r=4 alpha=2 init=random", "lin,turned,emb,conv,groups"}};

static lk_status open_model(lk_ctx *c) {
  ctx = c;
  model = lk_model_new(c, LK_F64, 0);
  lk_module *root = lk_model_root(model);
  const lk_conv2d_options groups = {.groups = 2, .padding = {1, 0}};
  lk_linear_layer *lin = lk_linear_new(root, "lin", 5, 6, 0);
  lk_linear_layer *turned = lk_linear_new(root, "turned", 4, 7, LK_FAN_IN_FAN_OUT);
  lk_embedding_layer *emb = lk_embedding_new(root, "emb", 7, 5);
  lk_conv2d_layer *conv = lk_conv2d_new(root, "conv", 3, 4, (int64_t[]){2, 3}, NULL, 0);
  lk_conv2d_layer *grouped = lk_conv2d_new(root, "groups", 4, 6, (int64_t[]){3, 1}, &groups, LK_NO_BIAS);
  t = lk_tape_new(c);
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  lk_module *const all[] = {&lin->module, &turned->module, &emb->module, &conv->module, &grouped->module};
  for (int i = 0; i < LAYERS; i++) sites[i] = all[i]->site;
  return LK_OK;
}

static void close_model(void) {
  lk_tape_free(t);
  lk_model_free(model);
}

static void attach(int i) {
  const lk_override smaller = {"emb", "r=2 alpha=5"};
  lk_attach_options o = {.name = names[i], .spec = adapters[i].spec, .targets = adapters[i].targets};
  o.overrides = &smaller;
  o.noverrides = i == 2;
  lk_attach_with(model, &o);
}

static void setup(void) {
  open_model(test_ctx(&heap, 0));
  for (int i = 0; i < 3; i++) attach(i);
  ck_assert(!lk_error(ctx, NULL));
}

static void teardown(void) {
  close_model();
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static void fine(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
}

static void expect(const char *words) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) && strstr(message, words), "'%s' should say '%s'", message, words);
  lk_error_clear(ctx);
}

/* ---- factors as plain numbers ---- */

typedef struct {
  int64_t r, m, n; /* A [r, n], B [m, r / groups] */
  double s, A[MOST], B[MOST], D[MOST];
} lora;

static int get(const lk_site *s, const char *name, lora *l) {
  const lk_site_stack *k = s->stacks;
  while (k && strcmp(k->adapter->name, name) != 0) k = k->next;
  if (!k) return 0;
  const lk_at *at = k->chain->inner ? k->chain->inner : k->chain;
  const lk_param *A = at->params, *B = A->next;
  double r = lk_at_option(at, "r", 0);
  *l = (lora){.r = (int64_t)r, .m = s->out, .n = lk_param_count(A) / (int64_t)r};
  l->s = lk_at_option(at, "alpha", 0) / (lk_at_option(at, "rslora", 0) > 0 ? sqrt(r) : r);
  ck_assert(l->r * l->n <= MOST && lk_param_count(B) <= MOST && l->m * l->n <= MOST);
  for (int64_t i = 0; i < lk_param_count(A); i++) l->A[i] = lk_view_get(&A->value, i);
  for (int64_t i = 0; i < lk_param_count(B); i++) l->B[i] = lk_view_get(&B->value, i);
  for (int64_t i = 0; i < l->m * l->n && s->conv.groups < 2; i++)
    for (int64_t k = 0; k < l->r; k++) l->D[i] += l->s * l->B[i / l->n * l->r + k] * l->A[k * l->n + i % l->n];
  return 1;
}

/* ---- the sums, element by element ---- */

/* Is element i among the int(density n) of largest magnitude?  By counting those before it. */
static double kept(const double *v, int64_t n, int64_t i, double density) {
  int64_t before = 0;
  for (int64_t j = 0; j < n; j++) before += fabs(v[j]) > fabs(v[i]) || (fabs(v[j]) == fabs(v[i]) && j < i);
  return density >= 1 || before < (int64_t)(density * (double)n) ? v[i] : 0;
}

static int sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

static void sum(const lk_combine_options *o, int n, const double *const *v, const double *w, int64_t count,
                double *to) {
  int prunes = strstr(o->mode, "ties") || strstr(o->mode, "prune"), elects = strstr(o->mode, "ties") != NULL;
  int frequency = o->majority_sign_method && !strcmp(o->majority_sign_method, "frequency");
  for (int64_t i = 0; i < count; i++) {
    double x[3], votes = 0, total = 0;
    int left = 0;
    for (int k = 0; k < n; k++) {
      x[k] = prunes ? kept(v[k], count, i, o->density) : v[k][i];
      votes += frequency ? sign(x[k]) : x[k];
    }
    for (int k = 0; k < n; k++) {
      if (elects && sign(x[k]) != (votes < 0 ? -1 : 1)) continue;
      total += w[k] * x[k];
      left++;
    }
    to[i] = elects && left > 1 ? total / left : total;
  }
}

static void ck_same(const double *got, const double *want, int64_t n, const char *what, const char *layer) {
  for (int64_t i = 0; i < n; i++)
    ck_assert_msg(fabs(got[i] - want[i]) < 1e-12, "%s at %s: element %d is %.17g, not %.17g", what, layer, (int)i,
                  got[i], want[i]);
}

/* ---- one mode at one layer ---- */

static void check_factors(const lk_combine_options *o, int n, const lora *src, const double *w, const lora *made,
                          const char *layer, int64_t groups) {
  double wA[3], wB[3], want[MOST], B[MOST] = {0};
  const double *A_of[3], *B_of[3];
  int64_t r = src[0].r;
  for (int i = 0; i < n; i++) {
    double omega = w[i] * src[i].s;
    A_of[i] = src[i].A, B_of[i] = src[i].B;
    wA[i] = omega < 0 ? -sqrt(-omega) : sqrt(omega);
    wB[i] = fabs(wA[i]);
  }
  ck_assert_int_eq(made->r, r);
  sum(o, n, A_of, wA, r * made->n, want);
  ck_same(made->A, want, r * made->n, o->mode, layer);
  sum(o, n, B_of, wB, made->m * r / groups, B);
  ck_same(made->B, B, made->m * r / groups, o->mode, layer);
}

/* B' A' is the nearest matrix of rank r' to the sum, B' = U S, A' orthonormal rows (Eckart and Young). */
static void check_svd(const lk_combine_options *o, int n, const lora *src, const double *w, const lora *made,
                      const char *layer) {
  double M[MOST], S[MOST], tail = 0, off = 0, ws[3];
  const double *D_of[3];
  int64_t m = made->m, cols = made->n, k = m < cols ? m : cols;
  for (int i = 0; i < n; i++) {
    D_of[i] = src[i].D;
    ws[i] = w[i] * (o->strict ? 1 : src[i].s);
  }
  sum(o, n, D_of, ws, m * cols, M);
  lk_view a = {.p = M, .dtype = LK_F64, .ndim = 2, .shape = {m, cols}, .stride = {cols, 1}};
  lk_view s = {.p = S, .dtype = LK_F64, .ndim = 1, .shape = {k}, .stride = {1}};
  lk_svd(ctx, &a, NULL, &s, NULL);
  fine();
  for (int64_t i = made->r; i < k; i++) tail += S[i] * S[i];
  for (int64_t i = 0; i < m * cols; i++) off += (M[i] - made->D[i] / made->s) * (M[i] - made->D[i] / made->s);
  ck_assert_msg(fabs(off - tail) < 1e-12 * (1 + S[0] * S[0]), "%s at %s: off by %g, best is %g", o->mode, layer, off,
                tail);
  for (int64_t j = 0; j < made->r; j++) {
    double b = 0, row = 0;
    for (int64_t i = 0; i < m; i++) b += made->B[i * made->r + j] * made->B[i * made->r + j];
    for (int64_t i = 0; i < cols; i++) row += made->A[j * cols + i] * made->A[j * cols + i];
    ck_assert(fabs(sqrt(b) - (j < k ? S[j] : 0)) < 1e-12 && (j >= k || fabs(row - 1) < 1e-12));
  }
}

static void check_layer(const lk_combine_options *o, int layer) {
  static lora src[3], made;
  double w[3], want[MOST] = {0};
  int n = 0;
  for (int i = 0; i < o->n; i++)
    if (get(sites[layer], o->names[i], &src[n])) w[n++] = o->weights ? o->weights[i] : 1;
  ck_assert_int_eq(get(sites[layer], o->name, &made), n > 0);
  if (!n) return;
  if (strstr(o->mode, "svd") && o->n > 1) check_svd(o, n, src, w, &made, layers[layer]);
  else if (strcmp(o->mode, "cat") != 0 || o->n == 1)
    check_factors(o->n > 1 ? o : &(lk_combine_options){.mode = "linear"}, n, src, w, &made, layers[layer],
                  sites[layer]->conv.groups > 1 ? 2 : 1);
  if (strcmp(o->mode, "cat") != 0 || layer == 4) return;
  for (int k = 0; k < n && o->n > 1; k++)
    for (int64_t i = 0; i < made.m * made.n; i++) want[i] += w[k] * src[k].D[i];
  if (o->n > 1) ck_same(made.D, want, made.m * made.n, "cat", layers[layer]);
}

static const double some[] = {0.7, -1.3, 0.4};
static const lk_combine_options jobs[] = {
    {.n = 2, .mode = "linear", .weights = some},
    {.n = 2, .mode = "linear"},
    {.n = 2, .mode = "linear", .weights = (double[]){0, -2}},
    {.n = 3, .mode = "cat", .weights = some},
    {.n = 2, .mode = "cat"},
    {.n = 3, .mode = "svd", .weights = some},
    {.n = 3, .mode = "svd", .weights = some, .strict = 1, .svd_rank = 1},
    {.n = 2, .mode = "svd", .weights = some, .svd_rank = 6},
    {.n = 2, .mode = "ties", .weights = some, .density = 0.4},
    {.n = 2, .mode = "ties", .weights = some, .density = 0.75, .majority_sign_method = "frequency"},
    {.n = 2, .mode = "ties", .weights = some, .density = 1.5, .majority_sign_method = "total"},
    {.n = 3, .mode = "ties_svd", .weights = some, .density = 0.5},
    {.n = 3, .mode = "ties_svd", .weights = some, .density = 0.5, .majority_sign_method = "frequency", .svd_rank = 2},
    {.n = 2, .mode = "magnitude_prune", .weights = some, .density = 0.3},
    {.n = 2, .mode = "magnitude_prune", .weights = some, .density = 0.001},
    {.n = 3, .mode = "magnitude_prune_svd", .weights = some, .density = 0.6, .strict = 1},
    {.n = 2, .mode = "dare_linear", .weights = some, .density = 1},
    {.n = 2, .mode = "dare_ties", .weights = some, .density = 1},
    {.n = 3, .mode = "dare_linear_svd", .weights = some, .density = 1},
    {.n = 3, .mode = "dare_ties_svd", .weights = some, .density = 1, .majority_sign_method = "frequency"},
    {.n = 1, .mode = "linear", .weights = (double[]){-0.6}},
    {.n = 1, .mode = "ties_svd", .weights = (double[]){0.6}}};

START_TEST(modes) {
  lk_combine_options o = jobs[_i];
  o.name = "new";
  o.names = names;
  if (strstr(o.mode, "svd") && o.n > 1) { /* not at a convolution in groups */
    for (int i = 0; i < 3; i++) lk_detach(model, names[i]);
    for (int i = 0; i < 3; i++)
      lk_attach(model, names[i], adapters[i].spec, i == 1 ? "lin,emb" : "lin,turned,emb,conv");
  }
  ck_assert_int_eq(lk_adapter_combine(model, &o), LK_OK);
  fine();
  for (int i = 0; i < LAYERS; i++) check_layer(&o, i);
}
END_TEST

/* ---- what the layers compute ---- */

static int layer_output(int layer, double y[TEST_MOST]) {
  static const int64_t shapes[LAYERS][4] = {{3, 5}, {2, 4}, {2, 3}, {2, 3, 4, 5}, {2, 4, 3, 2}};
  double x[TEST_MOST];
  int64_t ids[6] = {0, 6, 3, 3, 1, 2};
  for (int i = 0; i < TEST_MOST; i++) x[i] = test_number("x", i);
  lk_tape_reset(t);
  lk_tensor in =
      layer == 2 ? lk_input(t, LK_I64, 2, shapes[2], ids) : lk_input(t, LK_F64, layer < 3 ? 2 : 4, shapes[layer], x);
  return test_values(t, lk_site_forward(sites[layer], t, in), y);
}

/* cat is exactly the weighted sum of the sources, in groups too, whether or not the ranks agree. */
START_TEST(cat_is_the_sum) {
  double y[TEST_MOST], z[TEST_MOST];
  lk_combine_options o = {.name = "new", .names = names, .weights = some, .n = 3, .mode = "cat", .strict = 1};
  lk_adapter_combine(model, &o);
  for (int i = 0; i < LAYERS; i++) {
    lk_set_active(model, 3, names, some);
    int n = layer_output(i, y);
    lk_set_active(model, 1, &o.name, NULL);
    ck_assert_int_eq(layer_output(i, z), n);
    fine();
    ck_assert_msg(test_error(z, y, n) < 1e-14, "%s: off by %g", layers[i], test_error(z, y, n));
  }
}
END_TEST

/* The first source's rslora stays: the scaling is then sqrt(r'), with strict 1. */
START_TEST(scaling) {
  lora l;
  const char *turned[] = {"two", "one"};
  lk_combine_options o = {.name = "new", .names = turned, .n = 2, .mode = "linear"};
  lk_adapter_combine(model, &o);
  o.name = "exact", o.strict = 1;
  lk_adapter_combine(model, &o);
  fine();
  ck_assert(get(sites[0], "new", &l) && fabs(l.s - sqrt(2)) < 1e-15);
  ck_assert(get(sites[0], "exact", &l) && l.s == 1);
}
END_TEST

static int by_value(const void *a, const void *b) { return sign(*(const double *)a - *(const double *)b); }

/* The clamp is a quantile of all values of B' and A'. */
START_TEST(clamped) {
  lora free, cut;
  double all[2 * MOST];
  lk_detach(model, "two");
  lk_attach(model, "two", "lora r=2 init=random", "lin");
  lk_detach(model, "one");
  lk_attach(model, "one", "lora r=2 init=random", "lin");
  lk_combine_options o = {.name = "free", .names = names, .n = 2};
  lk_adapter_combine(model, &o);
  o.name = "cut", o.svd_clamp = 0.8;
  lk_adapter_combine(model, &o);
  fine();
  ck_assert(get(sites[0], "free", &free) && get(sites[0], "cut", &cut));
  int64_t a = free.r * free.n, b = free.m * free.r;
  memcpy(all, free.A, (size_t)a * sizeof *all);
  memcpy(all + a, free.B, (size_t)b * sizeof *all);
  qsort(all, (size_t)(a + b), sizeof *all, by_value);
  double at = 0.8 * (double)(a + b - 1), high = all[(int)at] + (at - floor(at)) * (all[(int)at + 1] - all[(int)at]);
  int changed = 0;
  for (int64_t i = 0; i < a + b; i++) {
    double was = i < a ? free.A[i] : free.B[i - a], is = i < a ? cut.A[i] : cut.B[i - a];
    ck_assert_double_eq_tol(is, was > high ? high : was < -high ? -high : was, 1e-14);
    changed += is != was;
  }
  ck_assert_int_ge(changed, 2);
}
END_TEST

/* ---- random masks ---- */

/* With a second source of weight 0, every element is 0 or source / density. */
START_TEST(random_masks) {
  static lora src, made, again, other;
  int n = 0, left = 0, differ = 0;
  lk_combine_options o = {.names = names, .weights = (double[]){1, 0}, .n = 2, .density = 0.5};
  o.mode = "dare_linear";
  for (int k = 0; k < 2; k++) {
    o.name = k ? "other" : "new";
    lk_adapter_combine(model, &o);
  }
  fine();
  for (int layer = 0; layer < LAYERS; layer++) {
    if (!get(sites[layer], "one", &src) || !get(sites[layer], "new", &made) || !get(sites[layer], "other", &other))
      continue;
    for (int64_t i = 0; i < src.r * src.n; i++) {
      ck_assert(made.A[i] == 0 || fabs(made.A[i] - sqrt(src.s) * src.A[i] / 0.5) < 1e-14);
      n++, left += made.A[i] != 0, differ += made.A[i] != other.A[i];
    }
  }
  ck_assert_msg(fabs(left - 0.5 * n) < 2.5 * sqrt(n), "%d of %d are left", left, n); /* five standard deviations */
  ck_assert_int_ge(differ, n / 4);
  lk_detach(model, "new");
  o.name = "new";
  get(sites[0], "other", &other);
  lk_adapter_combine(model, &o);
  ck_assert(get(sites[0], "new", &again));
  lk_detach(model, "new");
  lk_adapter_combine(model, &o);
  ck_assert(get(sites[0], "new", &made) && !memcmp(made.A, again.A, sizeof made.A));
}
END_TEST

/* ---- what is refused ---- */

static const struct {
  lk_combine_options o;
  const char *words;
} refusals[] = {
    {{.names = names, .n = 2}, "combine: a name and the names of sources are needed"},
    {{.name = "new", .n = 2}, "combine: a name and the names of sources are needed"},
    {{.name = "new", .names = names, .n = 0}, "combine: 0 sources; one at least is needed"},
    {{.name = "new", .names = (const char *[]){"one", "nine"}, .n = 2}, "combine: there is no adapter 'nine'"},
    {{.name = "new", .names = names, .n = 2, .mode = "sum"},
     "combine: there is no mode 'sum'; there are linear, cat, svd"},
    {{.name = "new", .names = names, .n = 3, .mode = "linear"},
     "combine: mode linear needs equal ranks; 'one' has 2 and 'three' 4"},
    {{.name = "new", .names = names, .n = 2, .mode = "ties"}, "density is 0, want above 0 to 1"},
    {{.name = "new", .names = names, .n = 2, .mode = "dare_linear", .density = -0.5}, "density is -0.5"},
    {{.name = "new", .names = names, .n = 2, .mode = "dare_ties", .density = NAN}, "density is nan"},
    {{.name = "new", .names = names, .n = 2, .majority_sign_method = "most"}, "is 'most'; want total or frequency"},
    {{.name = "new", .names = names, .n = 2, .svd_rank = -1}, "combine: svd_rank is -1"},
    {{.name = "new", .names = names, .n = 2, .svd_rank = 2000000000}, "the new rank would be 2000000000; 1048576 is"},
    {{.name = "new", .names = names, .n = 2, .svd_clamp = 1.5}, "combine: svd_clamp is 1.5"},
    {{.name = "new", .names = names, .n = 2, .weights = (double[]){1, NAN}}, "combine: the weight of 'two' is nan"},
    {{.name = "new", .names = names, .n = 2}, "combine: mode svd needs the change of a weight, and lora at groups"},
    {{.name = "a/b", .names = names, .n = 2, .mode = "cat"}, "attach: 'a/b' cannot be the name of an adapter"},
    {{.name = "new", .names = (const char *[]){"one", "odd"}, .n = 2}, "combine: adapter 'odd' is 'bias'; only lora"},
    {{.name = "new", .names = (const char *[]){"one", "regex"}, .n = 2}, "are names and a regular expression"},
    {{.name = "new", .names = (const char *[]){"one", "biases"}, .n = 2}, "trains biases of the base"},
    {{.name = "new", .names = (const char *[]){"one", "saves"}, .n = 2}, "holds a copy of conv.weight"},
    {{.name = "new", .names = (const char *[]){"saves", "saves too"}, .n = 2}, "both hold a copy of conv.weight"},
    {{.name = "new", .names = (const char *[]){"one", "nan"}, .n = 2, .mode = "cat"},
     "holds a value that is not finite"}};

static void attach_odd_ones(void) {
  lora l;
  lk_attach(model, "odd", "bias", "lin");
  lk_attach(model, "regex", "lora", "re:lin");
  lk_attach_with(model,
                 &(lk_attach_options){.name = "biases", .spec = "lora", .targets = "lin", .bias = LK_BIAS_ADAPTED});
  for (int i = 0; i < 2; i++) {
    lk_set_active(model, 0, NULL, NULL);
    lk_attach_with(model,
                   &(lk_attach_options){
                       .name = i ? "saves too" : "saves", .spec = "lora", .targets = "lin", .modules_to_save = "conv"});
  }
  lk_attach(model, "nan", "lora", "lin");
  fine();
  ck_assert(get(sites[0], "nan", &l));
  lk_site_stack *k = sites[0]->stacks;
  while (k->next) k = k->next;
  lk_view_set(&k->chain->params->value, 3, NAN);
}

START_TEST(refused) {
  attach_odd_ones();
  uint64_t live = lk_ctx_statistics(ctx).live;
  lk_set_requires_grad(lk_model_root(model), 1);
  ck_assert_int_ne(lk_adapter_combine(model, &refusals[_i].o), LK_OK);
  expect(refusals[_i].words);
  ck_assert_uint_eq(lk_ctx_statistics(ctx).live, live);
  ck_assert_ptr_null(lk_adapter_find(model, "new"));
  ck_assert(lk_adapter_find(model, "nan")->active && !lk_adapter_find(model, "one")->active);
  ck_assert(sites[0]->weight->requires_grad);
}
END_TEST

START_TEST(refused_models) {
  lk_combine_options o = {.name = "new", .names = names, .n = 2, .mode = "cat"};
  ck_assert_int_eq(lk_adapter_combine(NULL, &o), LK_ENIL);
  ck_assert_int_eq(lk_adapter_combine(model, NULL), LK_ENIL);
  expect("are needed");
  lk_set_active(model, 1, (const char *[]){"one"}, NULL);
  lk_detach(model, "two");
  lk_merge(model, NULL);
  expect("lora: at groups, a convolution in 2 groups, B A is no change of the weight: A sees all 4 input channels, a "
         "group of the base only 2");
  lk_detach(model, "one");
  lk_attach(model, "one", "lora", "lin");
  lk_set_active(model, 1, (const char *[]){"one"}, NULL);
  lk_merge(model, NULL);
  fine();
  lk_adapter_combine(model, &o);
  expect("combine: the model is merged; unmerge it first");
}
END_TEST

/* ---- what the new adapter is like ---- */

/* Neither active nor trainable, the same ones are active as before; a name that is taken stays as it is. */
START_TEST(inactive) {
  lk_combine_options o = {.name = "new", .names = names, .n = 2, .mode = "cat"};
  int n;
  lk_set_active(model, 2, (const char *[]){"three", "one"}, some);
  ck_assert_int_eq(lk_adapter_combine(model, &o), LK_OK);
  lk_adapter *a = lk_adapter_find(model, "new");
  ck_assert(a && !a->active && !a->trainable && lk_adapter_find(model, "one")->active);
  ck_assert_str_eq(a->spec, "lora r=4 alpha=4");
  ck_assert_str_eq(a->targets, "lin,turned,emb,conv,groups");
  lk_param **p = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) ck_assert_ptr_null(strstr(p[i]->name, "@new"));
  lk_free(ctx, p);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  ck_assert_int_eq(lk_adapter_combine(model, &o), LK_OK);
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "there is an adapter 'new' already"));
  lk_detach(model, "new");
  fine();
}
END_TEST

/* Sources that are narrowed in different ways: the paths that they adapt, and no others. */
START_TEST(targets) {
  const char *narrow[] = {"x", "y"};
  lk_attach_with(model, &(lk_attach_options){.name = "x",
                                             .spec = "dropout p=0.25 (lora r=1 | magnitude)",
                                             .targets = "all-linear",
                                             .exclude = "turned"});
  lk_attach(model, "y", "lora r=3 dropout=0.5", "emb");
  lk_adapter_combine(model, &(lk_combine_options){.name = "new", .names = narrow, .n = 2, .mode = "cat"});
  fine();
  const lk_adapter *a = lk_adapter_find(model, "new");
  ck_assert_str_eq(a->targets, "re:lin|emb");
  ck_assert_str_eq(a->spec, "dropout p=0.25 (lora r=4 alpha=4 | magnitude)");
  ck_assert_ptr_null(a->options->exclude);
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "the magnitudes of 'x' are not combined"));
  narrow[0] = "y", narrow[1] = "one";
  lk_detach(model, "one");
  lk_attach(model, "one", "lora r=3", "lin");
  lk_adapter_combine(model, &(lk_combine_options){.name = "newer", .names = narrow, .n = 2, .mode = "linear"});
  fine();
  ck_assert_str_eq(lk_adapter_find(model, "newer")->targets, "emb,lin");
  ck_assert_str_eq(lk_adapter_find(model, "newer")->spec, "lora r=3 alpha=3 dropout=0.5");
  for (int i = 0; i < 2; i++) {
    lk_detach(model, narrow[i]);
    lk_attach(model, narrow[i], "lora r=3", i ? "re:t.*" : "re:lin|conv");
  }
  lk_adapter_combine(model, &(lk_combine_options){.name = "newest", .names = narrow, .n = 2, .mode = "cat"});
  fine();
  ck_assert_str_eq(lk_adapter_find(model, "newest")->targets, "re:(lin|conv)|(t.*)");
}
END_TEST

/* A module that one source saves whole is copied, and the new adapter goes through a directory in PEFT's format. */
START_TEST(saved_and_loaded) {
  const char *both[] = {"one", "head"}, *type = "";
  double y[TEST_MOST], z[TEST_MOST];
  test_directory();
  lk_detach(model, "one");
  lk_attach(model, "one", adapters[0].spec, "lin,emb");
  lk_attach_with(
      model, &(lk_attach_options){
                 .name = "head", .spec = "lora r=3 init=random", .targets = "turned,emb", .modules_to_save = "conv"});
  test_perturb_trained(model);
  lk_adapter_combine(model, &(lk_combine_options){.name = "new", .names = both, .n = 2, .weights = some});
  lk_adapter_save(model, "new", "made", NULL);
  lk_json *config = lk_json_read(ctx, "made/adapter_config.json");
  ck_assert(lk_json_is_string(lk_json_get(config, "peft_type"), &type) && !strcmp(type, "LORA"));
  lk_json_free(config);
  lk_set_active(model, 0, NULL, NULL);
  lk_adapter_load(model, "read", "made", 0);
  fine();
  for (int i = 0; i < 4; i++) {
    lk_set_active(model, 1, (const char *[]){"new"}, NULL);
    int n = layer_output(i, y);
    lk_set_active(model, 1, (const char *[]){"read"}, NULL);
    layer_output(i, z);
    ck_assert(!memcmp(y, z, (size_t)n * sizeof *y));
    lk_set_active(model, 1, (const char *[]){"head"}, NULL);
    layer_output(i, z);
    ck_assert_int_eq(!memcmp(y, z, (size_t)n * sizeof *y), i == 3);
  }
  fine();
  test_directory_remove();
}
END_TEST

/* ---- failing memory ---- */

static const char *const stories[] = {"cat", "ties", "dare_ties_svd", "magnitude_prune_svd"};

static lk_status story(lk_ctx *c, void *arg) {
  const char *const both[] = {"one", "head"};
  lk_combine_options o = {.name = "new", .names = both, .n = 2, .mode = arg, .density = 0.5, .svd_clamp = 0.9};
  lk_status status = open_model(c);
  if (!status) {
    lk_attach_with(model,
                   &(lk_attach_options){
                       .name = "one", .spec = "lora r=2 dropout=0.5", .targets = "lin,emb", .modules_to_save = "conv"});
    lk_attach(model, "head", "lora r=2", "emb,turned");
  }
  int ready = !lk_error(c, NULL);
  lk_adapter_combine(model, &o);
  if (ready && lk_error(c, NULL))
    ck_assert(!lk_adapter_find(model, "new") && lk_adapter_find(model, "one")->active && !sites[0]->merged);
  close_model();
  return lk_error(c, NULL);
}

START_TEST(failing_memory) {
  uint64_t count;
  const char *why = test_each_allocation(story, (void *)stories[_i], &count);
  ck_assert_msg(!why, "%s: %s", stories[_i], why);
  ck_assert_int_ge(count, 50);
}
END_TEST

int main(void) {
  TCase *c = tcase_create("combine"), *m = tcase_create("memory");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_loop_test(c, modes, 0, COUNT(jobs));
  tcase_add_test(c, cat_is_the_sum);
  tcase_add_test(c, scaling);
  tcase_add_test(c, clamped);
  tcase_add_test(c, random_masks);
  tcase_add_loop_test(c, refused, 0, COUNT(refusals));
  tcase_add_test(c, refused_models);
  tcase_add_test(c, inactive);
  tcase_add_test(c, targets);
  tcase_add_test(c, saved_and_loaded);
  tcase_add_loop_test(m, failing_memory, 0, COUNT(stories));
  Suite *s = suite_create("combine");
  suite_add_tcase(s, c);
  suite_add_tcase(s, m);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
