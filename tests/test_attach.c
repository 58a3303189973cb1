/* test_attach.c: attaching and detaching: names, specs, all or nothing, every failing allocation, replaced base weights,
 * random streams, classes of a user's own, numbers of parameters. */
#include "adapter_net.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

/* ---- what is refused ---- */

static const struct {
  const char *name, *spec, *targets, *says;
} refusals[] = {
    {"", "lora", "first", "'' cannot be the name of an adapter"},
    {"a/b", "lora", "first", "'a/b' cannot be"},
    {"a@b", "lora", "first", "'a@b' cannot be"},
    {"..", "lora", "first", "'..' cannot be"},
    {NULL, "", "first", "adapter '': an adapter is missing at character 1"},
    {NULL, "lora |", "first", "an adapter is missing at character 7"},
    {NULL, "| lora", "first", "want the name of an adapter at character 1"},
    {NULL, "lora || gain", "first", "want the name of an adapter at character 7"},
    {NULL, "lor r=2", "first", "there is no adapter 'lor'; there are "},
    {NULL, "lora rank=2", "first", "lora: no option 'rank'; there are r, alpha, "},
    {NULL, "lift r=2", "first", "lift: no option 'r'; there is none"},
    {NULL, "lora (gain)", "first", "lora holds no other adapter"},
    {NULL, "dropout p=0.1", "first", "dropout wants an adapter in parentheses"},
    {NULL, "dropout (lora", "first", "a ')' is missing at character 14"},
    {NULL, "dropout (lora))", "first", "unexpected text at character 15"},
    {NULL, "dropout (lora) (gain)", "first", "one pair of parentheses is enough"},
    {NULL, "dropout ()", "first", "want the name of an adapter"},
    {NULL, "lora:a.b", "first", "a label must not hold"},
    {NULL, "lora | lora", "first", "net.first has a parameter 'lora_A.weight' already; give the second lora a label"},
    {NULL, "lora | dropout (lora)", "first", "has a parameter 'lora_A.weight' already"},
    {NULL, "dropout (lora) | lora", "first", "has a parameter 'lora_A.weight' already"},
    {NULL, "bend | magnitude", "first", "magnitude needs the weight of what precedes it, and bend does not give one"},
    {NULL, "dropout (bend) | lift", "first", "lift needs the weight of what precedes it, and bend does not"},
    {NULL, "lora dropout=0.5 | magnitude", "first", "write \"dropout p=0.5 (lora ... | magnitude)\""},
    {NULL, "lora bias | magnitude", "first", "magnitude: lora bias=1 before it is not defined"},
    {NULL, "lora bias init=gaussian", "first", "lora: bias goes with init=default or init=random only"},
    {NULL, "lora init=pissa r=5", "first", "lora: init=pissa needs r <= 4 at net.first, not 5"},
    {NULL, "lora init=olora r=2", "second", "lora: init=olora is not defined for net.second"},
    {NULL, "lora init=pissa r=2 alpha=0", "first", "needs alpha other than 0"},
    {NULL, "gain | lora init=pissa r=2", "first", "lora replaces the base weight of net.first: it must be the first"},
    {NULL, "dropout (gain | lora init=pissa r=2)", "first", "it must be the first"},
    {NULL, "gain | dropout (lora init=pissa r=2)", "first", "it must be the first"}};

static lk_status attach_named(const char *name, const char *spec, const char *targets) {
  return lk_attach(model, name, spec, targets);
}

START_TEST(refused) {
  net_state before = net_look();
  ck_assert_int_ne(attach_named(refusals[_i].name, refusals[_i].spec, refusals[_i].targets), LK_OK);
  expect(LK_EARG, refusals[_i].says);
  ck_unchanged(&before);
  ck_assert_ptr_null(lk_adapter_first(model));
}
END_TEST

START_TEST(refused_arguments) {
  char deep[400] = "";
  attach_named(NULL, NULL, "first");
  expect(LK_ENIL, "a spec and targets are needed");
  attach_named(NULL, "lora", NULL);
  expect(LK_ENIL, "a spec and targets are needed");
  ck_assert_int_eq(lk_attach(NULL, NULL, "lora", "first"), LK_ENIL);
  for (int i = 0; i < 20; i++) strcat(deep, "dropout (");
  attach_named(NULL, strcat(deep, "lora"), "first");
  expect(LK_EARG, "parentheses are nested too deeply");
  ck_assert_int_eq(attach_named("one", "lora", "first"), LK_OK);
  attach_named("one", "gain", "first");
  expect(LK_EARG, "there is an adapter 'one' already");
  lk_detach(model, "two");
  expect(LK_EARG, "there is no adapter 'two'");
  ck_assert_int_eq(lk_detach(model, "one"), LK_OK);
  ck_assert_ptr_null(lk_adapter_find(model, "one"));
}
END_TEST

/* ---- all or nothing ---- */

/* The first site takes the adapter and gives it its weight, the second refuses: all is as before, and the name is free. */
START_TEST(half_way) {
  double y[NET_OUT], z[NET_OUT];
  net_output(0, y);
  lk_param_find(&first->module, "net.first.bias")->requires_grad = 0;
  net_state before = net_look();
  lk_attach_options o = {.spec = "lora init=pissa r=4 | magnitude",
                         .targets = "first,second",
                         .modules_to_save = "head",
                         .bias = LK_BIAS_ALL};
  ck_assert_int_eq(lk_attach_with(model, &o), LK_EARG);
  expect(LK_EARG, "needs r <= 3 at net.second");
  ck_unchanged(&before);
  ck_assert_ptr_null(first->module.site->stacks);
  ck_assert_ptr_null(first->module.site->replaced_by);
  ck_assert_ptr_null(head->weight->stand_in);
  net_output(0, z);
  ck_assert(!memcmp(y, z, sizeof y));
  o.targets = "first";
  ck_assert_int_eq(lk_attach_with(model, &o), LK_OK);
}
END_TEST

/* ---- every allocation ---- */

typedef struct {
  const char *spec;
  const test_layer *layer;
} tale;

/* A failed attach leaves no trace. */
static lk_status try_attach(lk_model *m, lk_site *s, const char *spec) {
  double bits[TEST_MOST];
  lk_ctx *c = lk_model_ctx(m);
  size_t size = lk_view_bytes(&s->weight->value);
  uint64_t live = lk_ctx_statistics(c).live;
  memcpy(bits, s->weight->value.p, size);
  if (!lk_attach(m, "default", spec, "site")) return LK_OK;
  ck_assert_uint_eq(lk_ctx_statistics(c).live, live);
  ck_assert(!s->stacks && !s->replaced_by && s->weight->requires_grad && !lk_adapter_first(m));
  ck_assert_msg(!memcmp(bits, s->weight->value.p, size), "%s: the base has changed", spec);
  return lk_error(c, NULL);
}

/* A failed merge leaves the weight as it was, and so does one that is undone. */
static lk_status try_merge(lk_model *m, lk_site *s) {
  double bits[TEST_MOST];
  lk_ctx *c = lk_model_ctx(m);
  size_t size = lk_view_bytes(&s->weight->value);
  uint64_t live = lk_ctx_statistics(c).live;
  memcpy(bits, s->weight->value.p, size);
  if (lk_merge(m, NULL) == LK_EARG) lk_error_clear(c); /* this one cannot be merged at all */
  if (!lk_error(c, NULL)) lk_unmerge(m);
  ck_assert_int_eq(lk_is_merged(m), 0);
  ck_assert_uint_eq(lk_ctx_statistics(c).live, live);
  ck_assert(!memcmp(bits, s->weight->value.p, size));
  return lk_error(c, NULL);
}

static lk_status train_merge_detach(lk_model *m, lk_site *s, lk_tape *tape, const tale *a) {
  double bits[TEST_MOST];
  test_data data;
  lk_ctx *c = lk_model_ctx(m);
  size_t size = lk_view_bytes(&s->weight->value);
  memcpy(bits, s->weight->value.p, size);
  if (try_attach(m, s, a->spec)) return lk_error(c, NULL);
  test_data_make(&data, a->layer, LK_F64);
  lk_train(tape, 1, 0);
  lk_backward(tape, test_loss(tape, lk_site_forward(s, tape, test_input(&data, tape))));
  if (!lk_error(c, NULL)) try_merge(m, s);
  lk_detach(m, "default");
  ck_assert_ptr_null(s->stacks);
  ck_assert_msg(!memcmp(bits, s->weight->value.p, size), "%s: the base has changed", a->spec);
  return lk_error(c, NULL);
}

static lk_status one_layer(lk_ctx *c, void *arg) {
  const tale *a = arg;
  lk_model *m = lk_model_new(c, LK_F64, 0);
  lk_site *s = m ? test_make_layer(m, a->layer) : NULL;
  lk_tape *tape = lk_tape_new(c);
  if (s) test_register(m);
  if (!lk_error(c, NULL)) train_merge_detach(m, s, tape, a);
  lk_tape_free(tape);
  lk_model_free(m);
  return lk_error(c, NULL);
}

static int can_attach(const tale *a) {
  test_allocator memory;
  lk_ctx *c = test_ctx(&memory, 0);
  lk_model *m = lk_model_new(c, LK_F64, 0);
  test_make_layer(m, a->layer);
  test_register(m);
  int can = lk_attach(m, "default", a->spec, "site") == LK_OK;
  lk_model_free(m);
  lk_ctx_free(c);
  return can;
}

static void check_tale(const char *spec, const test_layer *layer) {
  tale a = {spec, layer};
  const char *why = can_attach(&a) ? test_each_allocation(one_layer, &a, NULL) : NULL;
  ck_assert_msg(!why, "%s at %s: %s", spec, layer->name, why);
}

/* Every class with every option at every layer, and long chains. */
START_TEST(every_allocation) {
  static const char *const chains[] = {"dropout p=0.2 (lora:a r=2 | magnitude) | bias | lift | lora:b r=1 dropout=0.5",
                                       "dropout (lora r=2 init=pissa | magnitude detach=0) | gain",
                                       "lora r=3 init=olora rslora | bend"};
  for (int i = 0; i < test_nspecs; i++)
    for (int j = 0; j < TEST_LAYERS; j++) check_tale(test_specs[i].text, &test_layers[j]);
  for (int i = 0; i < COUNT(chains); i++) check_tale(chains[i], &test_layers[4]);
}
END_TEST

/* Two adapters with copies of base parameters, options by site, and texts. */
static lk_status two_adapters(lk_ctx *c, void *arg) {
  static const lk_override by_site[] = {{"second", "r=1"}};
  static const char *const names[] = {"other", "default"};
  static const double weights[] = {0.5, 2};
  static const int layers[] = {0};
  lk_attach_options o = {.spec = "lora r=2 | magnitude",
                         .targets = "re:net\\.(first|second)",
                         .exclude = "head",
                         .modules_to_save = "head",
                         .bias = LK_BIAS_ADAPTED,
                         .overrides = by_site,
                         .noverrides = 1},
                    layered = {.spec = "lora", .targets = "first", .layers = layers, .nlayers = 1};
  (void)arg;
  open_net(c, LK_F64);
  if (!lk_error(c, NULL)) {
    net_state before = net_look();
    lk_free(c, lk_attach_dry_run(model, &o));
    before.live = lk_ctx_statistics(c).live; /* the list of active adapters may be new */
    ck_unchanged(&before);
    if (!lk_error(c, NULL) && lk_attach_with(model, &o)) ck_unchanged(&before);
    if (!lk_error(c, NULL)) lk_attach(model, "other", "dropout (gain)", "all-linear");
    if (!lk_error(c, NULL) && lk_attach_with(model, &layered) == LK_EARG) lk_error_clear(c);
    lk_set_active(model, 2, names, weights);
    if (!lk_error(c, NULL)) net_backward();
    if (!lk_error(c, NULL)) lk_merge(model, NULL);
    lk_unmerge(model);
    lk_free(c, lk_adapter_catalogue(c, 0));
    lk_free(c, lk_adapter_catalogue(c, 1));
    if (lk_adapter_find(model, "default")) lk_detach(model, "default");
    if (lk_adapter_find(model, "other")) lk_detach(model, "other");
    net_state now = net_look();
    ck_assert(net_same_bits(&now, &before));
  }
  close_net();
  return lk_error(c, NULL);
}

START_TEST(every_allocation_of_two) {
  uint64_t count;
  const char *why = test_each_allocation(two_adapters, NULL, &count);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(count, 200);
}
END_TEST

/* ---- a replaced base weight ---- */

static const char *const replacing[] = {"lora r=2 init=pissa", "lora r=2 init=pissa alpha=3 rslora | magnitude",
                                        "dropout p=0.3 (lora r=2 init=pissa | magnitude)", "lora r=3 init=olora"};

START_TEST(replaced_base) {
  double y[NET_OUT], z[NET_OUT];
  int olora = _i == 3;
  const char *targets = olora ? "first" : "first,second";
  net_output(0, y);
  net_state before = net_look();
  ck_assert_int_eq(lk_attach(model, NULL, replacing[_i], targets), LK_OK);
  fine();
  net_state with = net_look();
  ck_assert_int_eq(net_same_bits(&with, &before), 0);
  net_output(0, z);
  ck_assert(test_error(z, y, NET_OUT) < 1e-13);
  ck_assert_ptr_eq(first->module.site->replaced_by->site, first->module.site);
  /* another adapter beside it: not one that replaces too, but any other */
  lk_attach(model, "b", "lora r=1 init=pissa", "first");
  expect(LK_EARG, "must be the first adapter there");
  ck_assert_int_eq(lk_attach(model, "c", "gain", "all-linear"), LK_OK);
  ck_assert_int_eq(lk_merge(model, NULL), LK_OK);
  net_output(0, z);
  ck_assert(test_error(z, y, NET_OUT) < 1e-13);
  lk_model_load(model, "nothing", 0);
  expect(LK_EARG, "merged; unmerge it first");
  ck_assert_int_eq(lk_unmerge(model), LK_OK);
  net_state again = net_look();
  ck_assert(net_same_bits(&again, &with));
  ck_assert_int_eq(lk_detach(model, "default"), LK_OK);
  again = net_look();
  ck_assert(net_same_bits(&again, &before));
  ck_assert_ptr_null(first->module.site->replaced_by);
  net_output(0, z);
  ck_assert(!memcmp(z, y, sizeof y));
}
END_TEST

/* ---- no order, no thread ---- */

static void attach_three(int order) {
  static const char *const specs[] = {"lora r=3", "lora:x r=2 init=random | bias", "dropout (lora r=2 init=gaussian)"};
  static const char *const names[] = {"default", "b", "c"}, *const targets[] = {"second,first", "head,first",
                                                                                "net.first"};
  static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (int i = 0; i < 3; i++)
    lk_attach(model, names[orders[order][i]], specs[orders[order][i]], targets[orders[order][i]]);
  lk_set_active(model, 3, names, NULL);
  fine();
}

/* First values are drawn by name: attaching in another order gives the same ones, and the same draws in training. */
START_TEST(order_of_attaching) {
  double y[NET_OUT], z[NET_OUT], values[2][500];
  int count[2];
  for (int k = 0; k < 2; k++) {
    teardown();
    setup();
    attach_three(k * _i);
    net_output(7, k ? z : y);
    lk_set_active(model, 3, (const char *const[]){"c", "default", "b"}, NULL);
    count[k] = 0;
    for (lk_adapter *a = lk_adapter_first(model); a; a = a->next) count[k] += (int)lk_adapter_count(model, a->name);
    int n, used = 0;
    lk_param **p = lk_trainable(model, &n);
    for (int pass = 0; pass < n; pass++) { /* in the order of their names */
      int least = -1;
      for (int i = 0; i < n; i++)
        if (p[i] && (least < 0 || strcmp(p[i]->name, p[least]->name) < 0)) least = i;
      for (int64_t i = 0; i < lk_param_count(p[least]); i++) values[k][used++] = lk_view_get(&p[least]->value, i);
      p[least] = NULL;
    }
    ck_assert_int_eq(used, count[k]);
    lk_free(ctx, p);
  }
  ck_assert_int_eq(count[0], count[1]);
  ck_assert(!memcmp(values[0], values[1], (size_t)count[0] * sizeof(double)));
  ck_assert(!memcmp(y, z, sizeof y));
}
END_TEST

/* ---- classes of a user's own ---- */

static lk_status nothing(lk_at *at, lk_tape *tape, lk_tensor *W, lk_tensor *b) {
  (void)at;
  (void)tape;
  (void)W;
  (void)b;
  return LK_OK;
}

static const struct {
  lk_adapter_class cls;
  const char *says;
} classes[] = {{{.name = "lora", .sites = 1, .weight = nothing}, "there is an adapter 'lora' already"},
               {{.name = "gain", .sites = 1, .weight = nothing}, "there is an adapter 'gain' already"},
               {{.name = "", .sites = 1, .weight = nothing}, "needs a name"},
               {{.name = NULL, .sites = 1, .weight = nothing}, "needs a name"},
               {{.name = "a b", .sites = 1, .weight = nothing}, "without blanks"},
               {{.name = "a|b", .sites = 1, .weight = nothing}, "without blanks"},
               {{.name = "a:b", .sites = 1, .weight = nothing}, "without blanks"},
               {{.name = "a(b", .sites = 1, .weight = nothing}, "without blanks"},
               {{.name = "a=b", .sites = 1, .weight = nothing}, "without blanks"},
               {{.name = "empty", .sites = 1}, "empty has none of weight, delta and output"},
               {{.name = "nowhere", .weight = nothing}, "nowhere names no kind of site"}};

START_TEST(registering) {
  ck_assert_int_eq(lk_adapter_register(model, &classes[_i].cls), LK_EARG);
  expect(LK_EARG, classes[_i].says);
  ck_assert_int_eq(lk_adapter_register(model, NULL), LK_EARG);
  lk_error_clear(ctx);
}
END_TEST

/* ---- numbers of parameters ---- */

static const struct {
  int64_t layers, width, inner; /* inner: of the MLP */
  const char *spec, *targets;
  int64_t sites, count;
} counts[] = {{12, 768, 3072, "lora r=8", "query,value", 24, 294912},      /* RoBERTa-base */
              {24, 1024, 4096, "lora r=8", "query,value", 48, 786432},     /* RoBERTa-large */
              {12, 768, 3072, "lora r=16", "query,value", 24, 589824},     /* ViT-B/16 */
              {96, 12288, 49152, "lora r=1", "query,value", 192, 4718592}, /* GPT-3, LoRA's Table 4 */
              {96, 12288, 49152, "lora r=8", "query,value", 192, 37748736},
              {32, 4096, 11008, "lora r=32", "query,key,value,up,down", 160, 56098816}, /* LLaMA-7B, DoRA's Table 1 */
              {32, 4096, 11008, "lora r=32 | magnitude", "query,key,value,up,down", 160, 56975360},
              {32, 4096, 11008, "dropout (lora r=16 | magnitude)", "query,key,value,up,down", 160, 28925952}};

START_TEST(transformer_counts) {
  char name[80];
  lk_model *m = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
  for (int64_t i = 0; i < counts[_i].layers; i++) {
    static const char *const linears[] = {"query", "key", "value", "output", "up", "down"};
    for (int j = 0; j < COUNT(linears); j++) {
      snprintf(name, sizeof name, "encoder.layer.%d.%s", (int)i, linears[j]);
      lk_linear_new(lk_model_root(m), name, j == 5 ? counts[_i].inner : counts[_i].width,
                    j == 4 ? counts[_i].inner : counts[_i].width, 0);
    }
  }
  ck_assert_int_eq(lk_attach(m, NULL, counts[_i].spec, counts[_i].targets), LK_OK);
  ck_assert_int_eq(lk_adapter_count(m, "default"), counts[_i].count);
  ck_assert_int_eq(lk_trainable_count(m), counts[_i].count);
  int64_t sites = 0;
  for (lk_module *k = lk_model_root(m); k; k = lk_module_walk(lk_model_root(m), k)) sites += k->site && k->site->stacks;
  ck_assert_int_eq(sites, counts[_i].sites);
  lk_model_free(m);
  fine();
}
END_TEST

static const struct {
  int layer;
  const char *spec;
  int64_t count;
} small_counts[] = {{0, "lora r=2", 2 * (5 + 3)},
                    {0, "lora r=2 bias", 2 * (5 + 3) + 3},
                    {2, "lora r=3 | magnitude", 3 * (4 + 5) + 5},
                    {6, "lora r=2", 2 * (7 + 4)},
                    {6, "lora r=2 | magnitude", 2 * (7 + 4) + 4},
                    {7, "lora r=4", 4 * 3 * 6 + 2 * 4},
                    {7, "dropout (lora r=4 | magnitude)", 4 * 3 * 6 + 2 * 4 + 2},
                    {7, "lora r=4 bias", 4 * 3 * 6 + 2 * 4 + 2},
                    {7, "bias", 2}};

START_TEST(layer_counts) {
  lk_model *m = lk_model_new(ctx, LK_F64, 0);
  test_make_layer(m, &test_layers[small_counts[_i].layer]);
  ck_assert_int_eq(lk_attach(m, "x", small_counts[_i].spec, "site"), LK_OK);
  ck_assert_int_eq(lk_adapter_count(m, "x"), small_counts[_i].count);
  ck_assert_int_eq(lk_trainable_count(m), small_counts[_i].count);
  lk_model_free(m);
}
END_TEST

/* A model of shapes can be attached to, and says what it is when it is to compute. */
START_TEST(shapes_only) {
  lk_model *m = lk_model_new(ctx, LK_F32, LK_SHAPES_ONLY);
  lk_linear_layer *l = lk_linear_new(lk_model_root(m), "a", 1000000, 1000000, 0);
  ck_assert_int_eq(lk_attach(m, NULL, "dropout (lora init=pissa | magnitude) | bias", "a"), LK_OK);
  ck_assert_int_eq(lk_trainable_count(m), 8 * 2000000 + 2 * 1000000);
  lk_tensor x = lk_input(t, LK_F32, 1, (int64_t[]){1000000}, NULL);
  ck_assert(lk_is_nil(lk_linear_forward(l, t, x)));
  expect(LK_EARG, "has a shape but no memory");
  ck_assert_int_ne(lk_merge(m, NULL), LK_OK);
  expect(LK_EARG, "has a shape but no memory");
  lk_model_free(m);
}
END_TEST

/* What a class cannot adapt is refused by name. */
START_TEST(wrong_layers) {
  lk_embedding_new(lk_model_root(model), "words", 5, 4);
  lk_conv2d_new(lk_model_root(model), "grouped", 4, 6, (int64_t[]){3, 3}, &(lk_conv2d_options){.groups = 2}, 0);
  lk_attach(model, NULL, "lora r=3", "first,grouped");
  expect(LK_EARG, "lora: r = 3 cannot be divided among the 2 groups of the convolution grouped");
  ck_assert_ptr_null(first->module.site->stacks);
  lk_attach(model, NULL, "lora r=2 | magnitude", "grouped");
  expect(LK_EARG, "lora: at grouped, a convolution in 2 groups, B A is no change of the weight");
  lk_attach(model, NULL, "dropout p=0.5 (lora r=2) | magnitude", "grouped");
  expect(LK_EARG, "lora: at grouped, a convolution in 2 groups, B A is no change of the weight");
  lk_attach(model, NULL, "lora bias", "words");
  expect(LK_EARG, "lora: bias is for linear layers and convolutions; words is an embedding");
  lk_attach(model, NULL, "lora init=pissa", "words");
  expect(LK_EARG, "lora: init=pissa is for linear layers; words is none");
  lk_attach(model, NULL, "bias", "words");
  expect(LK_EARG, "attach: bias cannot adapt words, which is an embedding");
  lk_attach(model, NULL, "bias", "grouped");
  fine();
}
END_TEST

int main(void) {
  TCase *c = tcase_create("attach");
  test_specs_make();
  tcase_add_loop_test(c, refused, 0, COUNT(refusals));
  tcase_add_test(c, refused_arguments);
  tcase_add_test(c, half_way);
  tcase_add_loop_test(c, replaced_base, 0, COUNT(replacing));
  tcase_add_loop_test(c, order_of_attaching, 1, 6);
  tcase_add_loop_test(c, registering, 0, COUNT(classes));
  tcase_add_loop_test(c, transformer_counts, 0, COUNT(counts));
  tcase_add_loop_test(c, layer_counts, 0, COUNT(small_counts));
  tcase_add_test(c, shapes_only);
  tcase_add_test(c, wrong_layers);
  TCase *memory = tcase_create("allocations");
  tcase_add_test(memory, every_allocation);
  tcase_add_test(memory, every_allocation_of_two);
  return run_cases("attach", c, memory);
}
