/* test_match.c: which sites target patterns mean: suffixes, paths, regular expressions, layers, exclusions. */
#include "alloc.h"

#include <check.h>
#include <lorikeet/adapter.h>
#include <stdio.h>

static test_allocator heap;
static lk_ctx *ctx;
static lk_model *model;

/* ---- a tree of sites, each with a letter: its place in this list ---- */

static const char *const paths[] = {
    "enc.layers.0.attn.q",       /* A */
    "enc.layers.0.attn.v",       /* B */
    "enc.layers.0.fc",           /* C */
    "enc.layers.1.attn.q",       /* D */
    "enc.layers.1.attn.v",       /* E */
    "enc.layers.1.fc",           /* F */
    "enc.layers.1.experts.0.fc", /* G: the first number is its layer */
    "layers.0.q",                /* H: a list at the top has no layers */
    "enc.h.1.layers.0.q",        /* I: numbers behind two names */
    "enc.barq",                  /* J: no suffix q */
    "enc.embed",                 /* K: an embedding */
    "enc.conv",                  /* L: a convolution */
    "head",                      /* M */
    "myhead",                    /* N */
    "enc.stack.3"                /* O: a number at the end is no layer */
};
enum { SITES = sizeof paths / sizeof *paths };

static lk_module *branch(const char *path, size_t n) {
  char name[100];
  snprintf(name, sizeof name, "%.*s", (int)n, path);
  lk_module *m = lk_module_find(lk_model_root(model), name);
  if (m) return m;
  char *dot = strrchr(name, '.');
  lk_module *parent = branch(name, dot ? (size_t)(dot - name) : 0);
  return lk_module_new(parent, dot ? dot + 1 : name, "block", sizeof *m);
}

static void make_site(const char *path) {
  const char *dot = strrchr(path, '.'), *name = dot ? dot + 1 : path;
  lk_module *parent = branch(path, dot ? (size_t)(dot - path) : 0);
  if (!strcmp(name, "embed")) lk_embedding_new(parent, name, 7, 4);
  else if (!strcmp(name, "conv")) lk_conv2d_new(parent, name, 2, 3, (int64_t[]){3, 3}, NULL, 0);
  else lk_linear_new(parent, name, 4, 6, 0);
}

static void setup(void) {
  ctx = test_ctx(&heap, 0);
  model = lk_model_new(ctx, LK_F64, 0);
  for (int i = 0; i < SITES; i++) make_site(paths[i]);
  ck_assert_int_eq(lk_error(ctx, NULL), LK_OK);
}

static void teardown(void) {
  lk_model_free(model);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static lk_site *site(int i) { return lk_module_find(lk_model_root(model), paths[i])->site; }

/* The letters of the adapted sites; the message if attaching fails. */
static const char *attached(const lk_attach_options *options) {
  static char letters[1000];
  const char *message;
  size_t n = 0;
  lk_attach_options o = *options;
  if (!o.spec) o.spec = "lora r=1";
  lk_status status = lk_attach_with(model, &o);
  for (int i = 0; i < SITES; i++)
    if (site(i)->stacks) letters[n++] = (char)('A' + i);
  letters[n] = 0;
  if (!status) {
    ck_assert_int_eq(lk_detach(model, "default"), LK_OK);
    return letters;
  }
  ck_assert_str_eq(letters, "");
  ck_assert_ptr_null(lk_adapter_first(model));
  lk_error(ctx, &message);
  snprintf(letters, sizeof letters, "%s", message);
  lk_error_clear(ctx);
  return letters;
}

typedef struct {
  lk_attach_options o;
  const char *want; /* letters; or words of the message */
} row;

static void check_row(const row *r) {
  const char *got = attached(&r->o);
  int refused = strchr(r->want, ' ') != NULL;
  ck_assert_msg(refused ? strstr(got, r->want) != NULL : !strcmp(got, r->want), "targets '%s': '%s', want '%s'",
                r->o.targets, got, r->want);
}

/* ---- which sites ---- */

static const int zero[] = {0}, one[] = {1}, both[] = {1, 0}, seven[] = {7};

static const row rows[] = {
    /* whole parts behind a dot, or the whole path */
    {{.targets = "q"}, "ADHI"},
    {{.targets = "attn.v"}, "BE"},
    {{.targets = "tn.v"}, "'tn.v' matches no module"},
    {{.targets = "head"}, "M"},
    {{.targets = "enc.layers.0.fc"}, "C"},
    {{.targets = "layers.0.q"}, "HI"},
    {{.targets = "q, fc\tembed"}, "ACDFGHIK"},
    {{.targets = "3"}, "O"},
    {{.targets = "attn"}, "'attn' matches no module"},
    {{.targets = "Q"}, "'Q' matches no module"},
    /* with * and ? */
    {{.targets = "*.q"}, "ADHI"},
    {{.targets = "*q"}, "ADHIJ"},
    {{.targets = "layers.0.*"}, "ABCHI"},
    {{.targets = "enc.layers.?.attn.*"}, "ABDE"},
    {{.targets = "*"}, "ABCDEFGHIJKLMNO"},
    /* regular expressions see the whole path */
    {{.targets = "re:.*\\.attn\\.[qv]"}, "ABDE"},
    {{.targets = "re:q"}, "'re:q' matches no module"},
    {{.targets = "re:enc\\.layers\\.\\d+\\.(fc|attn\\.q)"}, "ACDF"},
    {{.targets = "re:enc\\.(?!layers).*"}, "IJKLO"},
    {{.targets = "head,re:.*\\.(v|q), nothing"}, "re:.*\\.(v|q), nothing"},
    {{.targets = "head,re:.*\\.(v)"}, "BEM"},
    {{.targets = "re:a(b"}, "pattern 'a(b': missing closing parenthesis at character 4"},
    {{.targets = "re:(a*)*b(?1)(*LIMIT_MATCH=1)"}, "pattern "},
    /* every kind but embeddings and convolutions */
    {{.targets = "all-linear"}, "ABCDEFGHIJMNO"},
    {{.targets = "ALL-Linear", .exclude = "head,myhead"}, "ABCDEFGHIJO"},
    {{.targets = "all-linear,conv"}, "ABCDEFGHIJLMNO"},
    /* left out */
    {{.targets = "q,v", .exclude = "enc.layers.0.attn.q v"}, "DHI"},
    {{.targets = "q", .exclude = "re:enc\\.layers.*"}, "HI"},
    {{.targets = "q", .exclude = "re:layers"}, "ADHI"},
    {{.targets = "q", .exclude = "q"}, "'q' leave no module"},
    {{.targets = "q,v", .exclude = "v"}, "ADHI"},
    /* by layer: the first number that has two parts before it and one behind it */
    {{.targets = "q,fc,3", .layers = zero, .nlayers = 1}, "'3' matches no module in the layers that are asked for"},
    {{.targets = "q,fc", .layers = zero, .nlayers = 1}, "AC"},
    {{.targets = "q,fc", .layers = one, .nlayers = 1}, "DFGI"},
    {{.targets = "q,fc", .layers = both, .nlayers = 2}, "ACDFGI"},
    {{.targets = "q,v", .layers = seven, .nlayers = 1}, "'q' matches no module in the layers"},
    {{.targets = "all-linear", .layers = one, .nlayers = 1}, "DEFGI"},
    /* not for a whole path: that names its layer itself */
    {{.targets = "layers.0.q", .layers = one, .nlayers = 1}, "HI"},
    {{.targets = "enc.layers.0.attn.q,fc", .layers = one, .nlayers = 1}, "AFG"},
    /* by layer behind a name; names are tried in order */
    {{.targets = "q,fc", .layers = zero, .nlayers = 1, .layers_pattern = "layers"}, "ACI"},
    {{.targets = "q,fc", .layers = one, .nlayers = 1, .layers_pattern = "h"}, "'fc' matches no module in the layers"},
    {{.targets = "q", .layers = one, .nlayers = 1, .layers_pattern = "h"}, "I"},
    {{.targets = "q", .layers = one, .nlayers = 1, .layers_pattern = "h,layers"}, "DI"},
    {{.targets = "q", .layers = one, .nlayers = 1, .layers_pattern = "layers,h"}, "D"},
    {{.targets = "q", .layers = zero, .nlayers = 1, .layers_pattern = "experts, layers h"}, "AI"},
    {{.targets = "fc", .layers = zero, .nlayers = 1, .layers_pattern = "experts,layers"}, "CG"},
    {{.targets = "q", .layers = zero, .nlayers = 1, .layers_pattern = "ayers"}, "'q' matches no module in the layers"},
    /* what means nothing */
    {{.targets = "re:.*q", .layers = zero, .nlayers = 1}, "layers cannot be chosen"},
    {{.targets = "q", .layers_pattern = "layers"}, "layers_pattern without layers_to_transform"},
    {{.targets = " ,"}, "no targets are given"},
    {{.targets = ""}, "no targets are given"}};

START_TEST(targets) { check_row(&rows[_i]); }
END_TEST

/* A huge number is no layer, and none that wraps around to a small one. */
START_TEST(huge_layers) {
  make_site("enc.layers.4294967296.attn.q");
  make_site("enc.layers.99999999999999999999.attn.q");
  ck_assert_str_eq(attached(&(lk_attach_options){.targets = "q", .layers = zero, .nlayers = 1}), "A");
  lk_attach_options o = {.spec = "lora", .targets = "attn.q", .layers = zero, .nlayers = 1};
  ck_assert_int_eq(lk_attach_with(model, &o), LK_OK);
  ck_assert_ptr_null(lk_module_find(lk_model_root(model), "enc.layers.4294967296.attn.q")->site->stacks);
}
END_TEST

/* ---- modules that are saved whole ---- */

static const row saved_rows[] = {
    {{.targets = "q,v", .modules_to_save = "head"}, "ABDEHI"},
    /* what is saved whole is not adapted, nor what lies below */
    {{.targets = "all-linear", .modules_to_save = "attn"}, "CFGHIJMNO"},
    {{.targets = "all-linear", .modules_to_save = "enc.layers.1 conv"}, "ABCHIJMNO"},
    {{.targets = "fc", .modules_to_save = "fc"}, "'fc' leave no module"},
    /* saving goes by any ending, excluding by whole parts: myhead would be both */
    {{.targets = "all-linear", .modules_to_save = "head"}, "myhead is both adapted and in modules_to_save"},
    {{.targets = "all-linear", .exclude = "myhead", .modules_to_save = "head"}, "ABCDEFGHIJO"},
    {{.targets = "q", .modules_to_save = "nowhere"}, "modules_to_save 'nowhere' matches no module"}};

START_TEST(saved_modules) { check_row(&saved_rows[_i]); }
END_TEST

static int stand_ins(const char *const *names) {
  int n = 0;
  for (lk_param *p = lk_adapter_find(model, "default")->stand_ins; p; p = p->next) {
    ck_assert_ptr_nonnull(names[n]);
    ck_assert_str_eq(p->name, names[n++]);
  }
  return n;
}

START_TEST(saved_suffix) {
  static const char *const names[] = {"head.weight", "head.bias", "myhead.weight", "myhead.bias", NULL};
  lk_attach_options o = {.spec = "lora", .targets = "q", .modules_to_save = "head"};
  ck_assert_int_eq(lk_attach_with(model, &o), LK_OK);
  ck_assert_int_eq(stand_ins(names), 4);
}
END_TEST

/* ---- warnings for files of others ---- */

START_TEST(lenient) {
  lk_attach_options o = {.targets = "q,kq", .modules_to_save = "nowhere", .exclude = "nothing", .lenient = 1};
  ck_assert_str_eq(attached(&o), "ADHI");
  ck_assert_int_eq(lk_warning_count(ctx), 3);
  ck_assert_str_eq(lk_warning(ctx, 0),
                   "attach: target 'kq' matches no module that can be adapted; close: 'q', 'v', 'fc'");
  ck_assert_str_eq(lk_warning(ctx, 1), "attach: 'nothing' excludes nothing");
  ck_assert_str_eq(lk_warning(ctx, 2), "attach: modules_to_save 'nowhere' matches no module");
  o.targets = "nowhere";
  ck_assert_ptr_nonnull(strstr(attached(&o), "leave no module"));
}
END_TEST

/* ---- closest names ---- */

static const row typos[] = {
    {{.targets = "barg"}, "target 'barg' matches no module that can be adapted; close: 'barq', "},
    {{.targets = "enc.layers.0.attn.w"}, "close: 'q', 'v', '3'"},
    {{.targets = "haed"}, "close: 'head', 'barq', 'embed'"},
    {{.targets = "q,convv"}, "target 'convv' matches no module that can be adapted; close: 'conv'"}};

START_TEST(closest_names) { check_row(&typos[_i]); }
END_TEST

/* ---- options by site ---- */

static int64_t rank_at(int i) { return site(i)->stacks->chain->params->value.shape[0]; }

START_TEST(overrides) {
  static const lk_override by_site[] = {
      {"fc", "r=3"}, {"re:(.*\\.)?(layers.1.attn.q)", "r=2"}, {"q", "r=5 alpha=1"}, {"re:enc\\.barq", "r=6"}};
  lk_attach_options o = {
      .spec = "lora r=4 | magnitude", .targets = "all-linear", .overrides = by_site, .noverrides = 4};
  static const int64_t want[] = {5, 4, 3, 2, 4, 3, 3, 5, 5, 6, 0, 0, 4, 4, 4};
  ck_assert_int_eq(lk_attach_with(model, &o), LK_OK);
  for (int i = 0; i < SITES; i++)
    if (want[i]) ck_assert_msg(rank_at(i) == want[i], "%s: rank %d", paths[i], (int)rank_at(i));
  /* for each key the first that matches: rank from the second line, alpha from the third */
  ck_assert_double_eq(lk_at_option(site(3)->stacks->chain, "alpha", 0), 1);
  ck_assert_double_eq(lk_at_option(site(5)->stacks->chain, "alpha", 0), 8);
}
END_TEST

static const struct {
  lk_override by_site;
  const char *says;
} bad_overrides[] = {{{"q", "rank=3"}, "no adapter in 'lora r=1' has the option 'rank=3' that is set for 'q'"},
                     {{"q", "r=0"}, "lora: r=0: want an integer in [1, "},
                     {{"re:(", "r=2"}, "pattern '(': missing closing parenthesis"}};

START_TEST(overrides_refused) {
  lk_attach_options o = {.targets = "q", .overrides = &bad_overrides[_i].by_site, .noverrides = 1};
  const char *got = attached(&o);
  ck_assert_msg(strstr(got, bad_overrides[_i].says) != NULL, "%s", got);
}
END_TEST

/* ---- the dry run ---- */

static void check_dry_run(const lk_attach_options *o, const char *want) {
  uint64_t live = heap.live;
  char *text = lk_attach_dry_run(model, o);
  ck_assert_ptr_nonnull(text);
  ck_assert_str_eq(text, want);
  lk_free(ctx, text);
  ck_assert_ptr_null(lk_adapter_first(model));
  ck_assert_int_eq(lk_parameter_count(model), lk_trainable_count(model));
  ck_assert_uint_le(heap.live, live + 1); /* the list of active adapters may stay */
}

START_TEST(dry_run) {
  static const lk_override by_site[] = {{"enc.layers.0.attn.v", "r=2"}};
  check_dry_run(&(lk_attach_options){.spec = "lora r=1 | magnitude",
                                     .targets = "v,embed,conv",
                                     .modules_to_save = "myhead",
                                     .bias = LK_BIAS_ADAPTED,
                                     .overrides = by_site,
                                     .noverrides = 1},
                "site                      kind            in      out     trained\n"
                "enc.layers.0.attn.v       linear           4        6          26\n"
                "enc.layers.1.attn.v       linear           4        6          16\n"
                "enc.embed                 embedding        7        4          15\n"
                "enc.conv                  conv2d           2        3          24\n"
                "enc.layers.0.attn.v.bias  copy                                  6\n"
                "enc.layers.1.attn.v.bias  copy                                  6\n"
                "enc.conv.bias             copy                                  3\n"
                "myhead.weight             copy                                 24\n"
                "myhead.bias               copy                                  6\n"
                "all                                                           126\n");
  ck_assert_ptr_null(lk_attach_dry_run(model, &(lk_attach_options){.spec = "lora", .targets = "nowhere"}));
  lk_error_clear(ctx);
  ck_assert_ptr_null(lk_adapter_first(model));
}
END_TEST

/* ---- lk_match ---- */

START_TEST(match) {
  ck_assert_int_eq(lk_match(ctx, "a.b", "x.a.b"), 1);
  ck_assert_int_eq(lk_match(ctx, "a.b", "xa.b"), 0);
  ck_assert_int_eq(lk_match(ctx, "a", "a.b"), 0);
  ck_assert_int_eq(lk_match(ctx, "a*", "x.a.b"), 1);
  ck_assert_int_eq(lk_match(ctx, "", ""), 1);
  ck_assert_int_eq(lk_match(ctx, "re:", ""), 1);
  ck_assert_int_eq(lk_match(ctx, "re:a|ab", "ab"), 1);
  ck_assert_int_eq(lk_match(ctx, "re:\xff", "ab"), 0);
  ck_assert_int_eq(lk_error(ctx, NULL), LK_EARG);
  lk_error_clear(ctx);
}
END_TEST

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

int main(void) {
  Suite *s = suite_create("match");
  TCase *c = tcase_create("match");
  tcase_add_checked_fixture(c, setup, teardown);
  tcase_add_loop_test(c, targets, 0, COUNT(rows));
  tcase_add_loop_test(c, saved_modules, 0, COUNT(saved_rows));
  tcase_add_loop_test(c, closest_names, 0, COUNT(typos));
  tcase_add_loop_test(c, overrides_refused, 0, COUNT(bad_overrides));
  tcase_add_test(c, huge_layers);
  tcase_add_test(c, saved_suffix);
  tcase_add_test(c, lenient);
  tcase_add_test(c, overrides);
  tcase_add_test(c, dry_run);
  tcase_add_test(c, match);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
