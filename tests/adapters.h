/* adapters.h: for suites of adapters: a layer of every kind, classes of a user's own, and specs with every option of
 * every class, so that no class needs a line of its own. */
#ifndef TEST_ADAPTERS_H
#define TEST_ADAPTERS_H
#include "alloc.h"

#include <check.h>
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>
#include <lorikeet/random.h>
#include <math.h>

/* ---- layers ---- */

typedef struct test_layer {
  const char *name;
  lk_site_kind kind;
  int flags;
  int64_t in, out;
  lk_conv2d_options conv;
  int ndim; /* of the input */
  int64_t shape[4];
} test_layer;

static const test_layer test_layers[] = {
    {"linear", LK_SITE_LINEAR, 0, 5, 3, {{0}, {0}, {0}, 0}, 3, {2, 3, 5}},
    {"linear, no bias", LK_SITE_LINEAR, LK_NO_BIAS, 3, 7, {{0}, {0}, {0}, 0}, 2, {4, 3}},
    {"linear, [in, out]", LK_SITE_LINEAR, LK_FAN_IN_FAN_OUT, 4, 5, {{0}, {0}, {0}, 0}, 1, {4}},
    {"linear, [in, out], no bias", LK_SITE_LINEAR, LK_FAN_IN_FAN_OUT | LK_NO_BIAS, 5, 4, {{0}, {0}, {0}, 0}, 2, {1, 5}},
    {"linear, larger", LK_SITE_LINEAR, 0, 10, 12, {{0}, {0}, {0}, 0}, 2, {2, 10}},
    {"linear, wide", LK_SITE_LINEAR, 0, 34, 2, {{0}, {0}, {0}, 0}, 2, {3, 34}},
    {"embedding", LK_SITE_EMBEDDING, 0, 7, 4, {{0}, {0}, {0}, 0}, 2, {2, 3}},
    {"conv2d", LK_SITE_CONV2D, 0, 3, 2, {{2, 1}, {1, 0}, {0}, 0}, 4, {2, 3, 5, 4}},
    {"conv2d, no bias", LK_SITE_CONV2D, LK_NO_BIAS, 2, 3, {{0}, {0, 2}, {1, 2}, 1}, 4, {1, 2, 4, 3}}};
enum { TEST_LAYERS = sizeof test_layers / sizeof *test_layers, TEST_MOST = 256 };

/* For defaults only, unless nothing else fits or LK_EXHAUSTIVE=1. */
static inline int test_is_seldom(const test_layer *l) { return l >= &test_layers[3] && l <= &test_layers[5]; }

/* The layer as "block.site", with values that hide nothing. */
static inline lk_site *test_make_layer(lk_model *model, const test_layer *l) {
  lk_module *parent = lk_module_new(lk_model_root(model), "block", "block", sizeof(lk_module));
  lk_module *m = NULL;
  if (l->kind == LK_SITE_LINEAR) m = (lk_module *)lk_linear_new(parent, "site", l->in, l->out, l->flags);
  if (l->kind == LK_SITE_EMBEDDING) m = (lk_module *)lk_embedding_new(parent, "site", l->in, l->out);
  if (l->kind == LK_SITE_CONV2D)
    m = (lk_module *)lk_conv2d_new(parent, "site", l->in, l->out, (int64_t[]){3, 2}, &l->conv, l->flags);
  return m ? m->site : NULL;
}

/* The i-th number of an endless list. */
static inline double test_number(const char *label, int64_t i) {
  return lk_random_normal(lk_key_make(11, label), (uint64_t)i);
}

/* ---- the layer's input and loss; both dtypes ---- */

typedef struct test_data {
  const test_layer *layer;
  lk_dtype dtype;
  lk_view x, gx; /* gx: gradient of x; an embedding has none */
  double room[2][TEST_MOST];
  int64_t ids[TEST_MOST];
} test_data;

static inline void test_data_make(test_data *d, const test_layer *l, lk_dtype dtype) {
  *d = (test_data){.layer = l, .dtype = dtype};
  lk_view_init(&d->x, l->kind == LK_SITE_EMBEDDING ? LK_I64 : dtype, l->ndim, l->shape);
  ck_assert_int_le(lk_view_count(&d->x), TEST_MOST);
  d->gx = d->x;
  d->x.p = l->kind == LK_SITE_EMBEDDING ? (void *)d->ids : d->room[0];
  d->gx.p = d->room[1];
  for (int64_t i = 0; i < lk_view_count(&d->x); i++)
    lk_view_set(&d->x, i, l->kind == LK_SITE_EMBEDDING ? (double)(i * i % l->in) : test_number("x", i));
}

static inline lk_tensor test_input(test_data *d, lk_tape *t) {
  int index = d->layer->kind == LK_SITE_EMBEDDING;
  if (!index) memset(d->gx.p, 0, lk_view_bytes(&d->gx));
  return index ? lk_borrow(t, &d->x) : lk_leaf(t, &d->x, d->gx.p);
}

/* sum(y g) for fixed numbers g. */
static inline lk_tensor test_loss(lk_tape *t, lk_tensor y) {
  double wide[TEST_MOST];
  float narrow[TEST_MOST];
  lk_view v;
  if (lk_get(t, y, &v)) return lk_nil();
  ck_assert_int_le(lk_view_count(&v), TEST_MOST);
  for (int64_t i = 0; i < lk_view_count(&v); i++) narrow[i] = (float)(wide[i] = test_number("g", i));
  lk_tensor g = lk_input(t, v.dtype, v.ndim, v.shape, v.dtype == LK_F64 ? (void *)wide : (void *)narrow);
  return lk_sum(t, lk_mul(t, y, g), 0, NULL, 0);
}

/* A copy of a value as doubles, up to TEST_MOST; how many. */
static inline int test_values(lk_tape *t, lk_tensor y, double *values) {
  lk_view v;
  if (lk_get(t, y, &v)) return 0;
  ck_assert_int_le(lk_view_count(&v), TEST_MOST);
  for (int64_t i = 0; i < lk_view_count(&v); i++) values[i] = lk_view_get(&v, i);
  return (int)lk_view_count(&v);
}

/* max |a - b| / max(1, max |b|); a number that is none is infinite. */
static inline double test_error(const double *a, const double *b, int n) {
  double error = 0, largest = 1;
  for (int i = 0; i < n; i++) {
    if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
    error = fmax(error, fabs(a[i] - b[i]));
    largest = fmax(largest, fabs(b[i]));
  }
  return error / largest;
}

/* Adds noise to whatever trains, each time other noise. */
static inline void test_perturb_again(lk_model *model, int time) {
  int n;
  lk_param **p = lk_trainable(model, &n);
  for (int k = 0; k < n; k++) {
    for (int64_t i = 0, first = time * lk_param_count(p[k]); i < lk_param_count(p[k]); i++)
      lk_view_set(&p[k]->value, i, lk_view_get(&p[k]->value, i) + 0.3 * test_number(p[k]->name, first + i));
    lk_param_touch(p[k]);
  }
  lk_free(lk_model_ctx(model), p);
}

/* So that nothing is zero or one by chance. */
static inline void test_perturb_trained(lk_model *model) { test_perturb_again(model, 0); }

/* ---- classes of a user's own ---- */

typedef struct {
  lk_param *p;
} test_one;

/* q over the outputs of y, or of the weight */
static inline lk_tensor test_along(lk_at *at, lk_tape *t, lk_tensor q, int weight) {
  int conv = at->site->kind == LK_SITE_CONV2D;
  if (weight && at->site->kind != LK_SITE_EMBEDDING)
    return lk_reshape(t, q, conv ? 4 : 2, (int64_t[]){at->site->out, 1, 1, 1});
  return !weight && conv ? lk_reshape(t, q, 4, (int64_t[]){1, at->site->out, 1, 1}) : q;
}

/* gain: y' = q y, the weight and its twin */
typedef struct {
  double start;
  int negative;
} test_gain_config;
static const lk_opt test_gain_options[] = {
    {"start", LK_OPT_REAL, offsetof(test_gain_config, start), 1, 0.5, 2, NULL, "first value of the factors"},
    {"negative", LK_OPT_FLAG, offsetof(test_gain_config, negative), 0, 0, 1, NULL, "the other sign"},
    {0}};
static lk_status test_gain_attach(lk_at *at) {
  const test_gain_config *g = at->cfg;
  test_one *s = at->st;
  s->p = lk_at_param(at, "gain", LK_TRAINED, 1, &at->site->out);
  return s->p ? lk_param_fill(s->p, g->negative ? -g->start : g->start) : lk_error(lk_at_ctx(at), NULL);
}
static lk_tensor test_gain_output(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  test_one *s = at->st;
  (void)x;
  return lk_mul(t, y, test_along(at, t, lk_use(t, s->p), 0));
}
static lk_status test_gain_weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  test_one *s = at->st;
  lk_tensor q = lk_use(t, s->p);
  *W = lk_mul(t, *W, test_along(at, t, q, 1));
  if (!lk_is_nil(*b)) *b = lk_mul(t, *b, q);
  return lk_error(lk_at_ctx(at), NULL);
}
static const lk_adapter_class test_gain = {.name = "gain",
                                           .summary = "a factor per output",
                                           .cite = "the tests",
                                           .sites = LK_SITE_LINEAR | LK_SITE_EMBEDDING | LK_SITE_CONV2D,
                                           .caps = LK_AFFINE | LK_NOOP_AT_START,
                                           .cfg_size = sizeof(test_gain_config),
                                           .site_size = sizeof(test_one),
                                           .opts = test_gain_options,
                                           .attach = test_gain_attach,
                                           .weight = test_gain_weight,
                                           .output = test_gain_output};

/* lift: W' = W + c, only the weight */
static lk_status test_lift_attach(lk_at *at) {
  test_one *s = at->st;
  s->p = lk_at_param(at, "lift", LK_TRAINED, 0, NULL);
  return lk_error(lk_at_ctx(at), NULL);
}
static lk_status test_lift_weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  test_one *s = at->st;
  (void)b;
  *W = lk_add(t, *W, lk_use(t, s->p));
  return lk_error(lk_at_ctx(at), NULL);
}
static const lk_adapter_class test_lift = {.name = "lift",
                                           .summary = "a shift of all weights",
                                           .cite = "the tests",
                                           .sites = LK_SITE_LINEAR | LK_SITE_EMBEDDING | LK_SITE_CONV2D,
                                           .caps = LK_AFFINE | LK_NOOP_AT_START,
                                           .site_size = sizeof(test_one),
                                           .attach = test_lift_attach,
                                           .weight = test_lift_weight};

/* bend: y' = tanh(q y), which is no change of a weight, and whose backward reads y' */
static lk_tensor test_bend_output(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  return lk_tanh(t, test_gain_output(at, t, x, y));
}
static const lk_adapter_class test_bend = {.name = "bend",
                                           .summary = "bounded outputs",
                                           .cite = "the tests",
                                           .sites = LK_SITE_LINEAR | LK_SITE_EMBEDDING | LK_SITE_CONV2D,
                                           .cfg_size = sizeof(test_gain_config),
                                           .site_size = sizeof(test_one),
                                           .opts = test_gain_options,
                                           .attach = test_gain_attach,
                                           .output = test_bend_output};

static const lk_adapter_class *const test_users[] = {&test_gain, &test_lift, &test_bend};
enum { TEST_USERS = sizeof test_users / sizeof *test_users };

static inline void test_register(lk_model *model) {
  for (int i = 0; i < TEST_USERS; i++) lk_adapter_register(model, test_users[i]);
}

/* ---- specs ---- */

typedef struct test_spec {
  char text[240];
  const lk_adapter_class *cls, *inner; /* inner: what a wrapper holds */
  int is_default;                      /* no option is set */
} test_spec;

static test_spec test_specs[200];
static int test_nspecs;

/* "lora:label r=8", "dropout:label p=0.1 (lora:label)"; label NULL: none */
static inline const char *test_spec_text(const test_spec *s, const char *label) {
  static char text[300];
  const char *colon = label ? ":" : "", *options = s->text + strlen(s->cls->name);
  size_t n = strcspn(options, "(");
  snprintf(text, sizeof text, "%s%s%s%.*s", s->cls->name, colon, label ? label : "", (int)n, options);
  if (s->inner) {
    size_t used = strlen(text);
    snprintf(text + used, sizeof text - used, "(%s%s%s)", s->inner->name, colon, label ? label : "");
  }
  return text;
}

static inline void test_add_spec(const lk_adapter_class *cls, const lk_adapter_class *inner, const char *option) {
  if (test_nspecs == sizeof test_specs / sizeof *test_specs) abort();
  test_spec *s = &test_specs[test_nspecs++];
  *s = (test_spec){.cls = cls, .inner = inner, .is_default = !*option};
  snprintf(s->text, sizeof s->text, "%s%s%s%s%s", cls->name, option, inner ? " (" : "", inner ? inner->name : "",
           inner ? ")" : "");
}

/* A value inside the option's range that is not its default. */
static inline double test_other_value(const lk_opt *o) {
  if (o->type == LK_OPT_FLAG) return 1 - o->def;
  if (o->type == LK_OPT_INT && o->def > 16) return fmax(o->low, 14); /* differences are taken for every element */
  if (o->type == LK_OPT_INT) return o->def < o->high ? fmin(o->def + 1, o->high) : o->def - 1;
  if (o->high - o->low <= 4) return (o->low + o->high) / 2;
  return o->def + 1.5 <= o->high ? o->def + 1.5 : o->def - 1.5;
}

/* A spec for every option at another value, for a word at every one.  Integers are always other ones: a default like
 * r = alpha may hide a factor. */
static inline void test_add_options(const lk_adapter_class *cls, const lk_adapter_class *inner) {
  char whole[120] = "", option[180];
  for (const lk_opt *o = cls->opts; o && o->key; o++)
    if (o->type == LK_OPT_INT) {
      size_t used = strlen(whole);
      snprintf(whole + used, sizeof whole - used, " %s=%g", o->key, test_other_value(o));
    }
  if (*whole) test_add_spec(cls, inner, whole);
  for (const lk_opt *o = cls->opts; o && o->key; o++) {
    const char *w = o->type == LK_OPT_WORD ? o->words : NULL;
    if (!w && o->type != LK_OPT_INT) {
      snprintf(option, sizeof option, "%s %s=%g", whole, o->key, test_other_value(o));
      test_add_spec(cls, inner, option);
    }
    for (; w && *w; w += strcspn(w, "|"), w += *w == '|') {
      snprintf(option, sizeof option, "%s %s=%.*s", whole, o->key, (int)strcspn(w, "|"), w);
      test_add_spec(cls, inner, option);
    }
  }
}

/* All built-in classes and the user's, as a list. */
static inline const lk_adapter_class *test_class(int i) {
  const lk_adapter_class *const *k = lk_adapter_classes();
  for (; *k; k++)
    if (i-- == 0) return *k;
  return i < TEST_USERS ? test_users[i] : NULL;
}

/* Every class with its defaults and with every option changed; a wrapper around every class. */
static inline void test_specs_make(void) {
  static const unsigned all = LK_SITE_LINEAR | LK_SITE_EMBEDDING | LK_SITE_CONV2D;
  const lk_adapter_class *widest = NULL, *k;
  for (int i = 0; (k = test_class(i)); i++)
    if (!widest && !(k->caps & LK_WRAPPER) && k->sites == all) widest = k;
  test_nspecs = 0;
  for (int i = 0; (k = test_class(i)); i++) {
    int wraps = (k->caps & LK_WRAPPER) != 0;
    const lk_adapter_class *inner;
    for (int j = 0; wraps && (inner = test_class(j)); j++)
      if (!(inner->caps & LK_WRAPPER)) test_add_spec(k, inner, "");
    if (!wraps) test_add_spec(k, NULL, "");
    test_add_options(k, wraps ? widest : NULL);
  }
}

/* Is the layer of a kind that the spec's classes can adapt? */
static inline int test_fits(const test_spec *s, const test_layer *l) {
  return (s->cls->sites & l->kind) != 0 && (!s->inner || (s->inner->sites & l->kind) != 0);
}

/* What all classes of the spec can. */
static inline unsigned test_caps(const test_spec *s) { return s->inner ? s->cls->caps & s->inner->caps : s->cls->caps; }

/* Is what a parameter gets to see chosen by the input? */
static inline int test_is_routed(const test_spec *s) {
  return ((s->cls->caps | (s->inner ? s->inner->caps : 0)) & LK_ROUTED) != 0;
}

#endif
