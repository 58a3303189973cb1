/* run_method.c: what trains: everything, the head, or an adapter; and the options that say so. */
#include "run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PLACE(name) offsetof(run_options, name)

const option run_method_options[] = {
    {"adapter", OPTION_TEXT, PLACE(adapter), 0, 0, "SPEC",
     "what to train, as \"lora r=8 | magnitude\", or the directory of a saved adapter"},
    {"full", OPTION_FLAG, PLACE(full), 0, 0, NULL, "train everything instead"},
    {"probe", OPTION_FLAG, PLACE(probe), 0, 0, NULL, "train the head alone instead"},
    {"targets", OPTION_TEXT, PLACE(targets), 0, 0, "PATTERNS",
     "layers to adapt: names, * and ?, all-linear, or re:REGEX [all-linear; of texts what PEFT takes]"},
    {"exclude", OPTION_TEXT, PLACE(exclude), 0, 0, "PATTERNS", "layers to leave out"},
    {"layers", OPTION_TEXT, PLACE(layers), 0, 0, "NUMBERS", "blocks to adapt, as 0,1,5 [all]"},
    {"rank-pattern", OPTION_TEXT, PLACE(rank_pattern), 0, 0, "LIST", "other ranks, as layer.0.*=4,layer.1.*=8"},
    {"alpha-pattern", OPTION_TEXT, PLACE(alpha_pattern), 0, 0, "LIST", "the same for alpha"},
    {"modules-to-save", OPTION_TEXT, PLACE(modules_to_save), 0, 0, "NAMES",
     "modules that train whole beside the adapter, or none [the head]"},
    {"bias", OPTION_WORD, PLACE(bias), 0, 0, "none|adapted|all", "biases that train beside the adapter"},
    {0}};

const option run_training_options[] = {
    {"epochs", OPTION_INT, PLACE(epochs), -1, 1e6, "N",
     "passes over the training examples; -1: 30 over images, 3 over texts"},
    {"batch", OPTION_INT, PLACE(batch), 1, 1e6, "N", "examples a step"},
    {"accumulate", OPTION_INT, PLACE(accumulate), 1, 1e6, "N",
     "compute each batch in N parts: the same step in less memory"},
    {"lr", OPTION_REAL, PLACE(lr), 0, 1e6, "X", "learning rate; 0: tuned for the method"},
    {"schedule", OPTION_WORD, PLACE(schedule), 0, 0, "constant|linear|cosine", "course of the learning rate"},
    {"warmup", OPTION_REAL, PLACE(warmup), 0, 1, "X", "part of all steps in which it rises"},
    {"weight-decay", OPTION_REAL, PLACE(weight_decay), 0, 1e6, "X", "AdamW's"},
    {"clip", OPTION_REAL, PLACE(clip), 0, 1e30, "X", "largest norm of all gradients together; 0: no limit"},
    {"smoothing", OPTION_REAL, PLACE(smoothing), 0, 1, "X", "label smoothing"},
    {"augment", OPTION_REAL, PLACE(augment), 0, 5, "X", "strength of random shifts, turns and sizes; 0: none"},
    {"loraplus", OPTION_REAL, PLACE(loraplus), 0, 1e6, "X", "LoRA+: learning rate of B over that of A; 0: off"},
    {"recompute", OPTION_WORD, PLACE(recompute), 0, 0, "none|parts|blocks",
     "compute again in backward instead of keeping"},
    {"sample", OPTION_REAL, PLACE(sample), 1e-6, 1, "X",
     "lora_drop: part of the training examples that tells what matters"},
    {"warm-epochs", OPTION_INT, PLACE(warm_epochs), 1, 1e6, "N", "lora_drop: passes over that part"},
    {"population", OPTION_INT, PLACE(population), 1, 1e5, "N", "structure search: candidates of a generation"},
    {"generations", OPTION_INT, PLACE(generations), 1, 1e5, "N", "structure search: generations"},
    {"parameter-limit", OPTION_INT, PLACE(parameter_limit), 0, 1e12, "N",
     "structure search: trained parameters of the adapter at most; 0: any number"},
    {0}};

lk_quantise_options run_base(const run_options *o) {
  return (lk_quantise_options){.kind = (lk_quant_kind)o->base_dtype, .doubled = o->double_quant};
}

run_options run_defaults(void) {
  return (run_options){.epochs = 30,
                       .batch = 32,
                       .accumulate = 1,
                       .schedule = LK_SCHEDULE_COSINE,
                       .warmup = .1,
                       .weight_decay = .01,
                       .clip = 1,
                       .augment = 1,
                       .sample = .1,
                       .warm_epochs = 3,
                       .population = 20,
                       .generations = 6};
}

const char *run_method_name(const run_options *o) {
  return o->full ? "full" : o->probe ? "probe" : o->adapter ? o->adapter : RUN_ADAPTER;
}

/* The first word that the method's name holds: "lora" is in many of them. */
double run_lr(const run_options *o) {
  static const struct {
    const char *word;
    double lr;
  } tuned[] = {{"full", 1e-3},  {"probe", 3e-2},  {"mlae", 1e-2},    {"neat", 1e-2}, {"ia3", 2e-2},
               {"glora", 1e-2}, {"malora", 5e-3}, {"adalora", 1e-2}, {"lora", 5e-3}, {"bias", 2e-2}};
  const char *name = run_method_name(o);
  if (o->lr > 0) return o->lr;
  for (size_t i = 0; i < sizeof tuned / sizeof *tuned; i++)
    if (strstr(name, tuned[i].word)) return tuned[i].lr;
  return 5e-3;
}

/* ---- attaching ---- */

/* The next of "a,b,c": its length; *at moves behind its comma. */
static size_t next_item(const char **at, const char **item) {
  size_t n = strcspn(*at, ",");
  *item = *at;
  *at += n + ((*at)[n] == ',');
  return n;
}

/* "pattern=4,pattern=8" to overrides "r=4", "r=8". */
static lk_status read_pattern_list(lk_ctx *ctx, const char *list, const char *key, run_attachment *a) {
  const char *item;
  for (size_t n; list && *list;) {
    n = next_item(&list, &item);
    const char *equals = memchr(item, '=', n);
    if (!equals || equals == item)
      return lk_fail(ctx, LK_EARG, "'%.*s' is not PATTERN=NUMBER, as a pattern for %s must be", (int)n, item, key);
    lk_override *o = &a->overrides[a->options.noverrides++];
    o->pattern = lk_strndup(ctx, item, (size_t)(equals - item));
    o->options = lk_sprintf(ctx, "%s%.*s", key, (int)(item + n - equals), equals);
  }
  return lk_error(ctx, NULL);
}

static lk_status read_layers(lk_ctx *ctx, const char *list, run_attachment *a) {
  const char *item;
  while (list && *list) {
    char *end;
    size_t n = next_item(&list, &item);
    long number = strtol(item, &end, 10);
    if (end != item + n || !n || number < 0 || number > 1 << 20)
      return lk_fail(ctx, LK_EARG, "'%.*s' is not the number of a layer", (int)n, item);
    a->layers[a->options.nlayers++] = (int)number;
  }
  return LK_OK;
}

static size_t items(const char *list) {
  size_t n = list != NULL;
  for (; list && *list; list++) n += *list == ',';
  return n;
}

lk_status run_attachment_new(lk_ctx *ctx, const run_options *o, const char *head, run_attachment *a) {
  const char *saved = o->modules_to_save ? o->modules_to_save : head;
  *a = (run_attachment){.options = {.spec = o->adapter ? o->adapter : RUN_ADAPTER,
                                    .targets = o->targets ? o->targets : RUN_TARGETS,
                                    .exclude = o->exclude,
                                    .modules_to_save = saved && strcmp(saved, "none") != 0 ? saved : NULL,
                                    .bias = (lk_bias_mode)o->bias}};
  a->overrides = lk_alloc_array(ctx, items(o->rank_pattern) + items(o->alpha_pattern) + 1, sizeof *a->overrides);
  a->layers = lk_alloc_array(ctx, items(o->layers) + 1, sizeof *a->layers);
  if (a->overrides && a->layers) {
    read_pattern_list(ctx, o->rank_pattern, "r", a);
    read_pattern_list(ctx, o->alpha_pattern, "alpha", a);
    read_layers(ctx, o->layers, a);
  }
  a->options.overrides = a->overrides;
  a->options.layers = a->layers;
  if (lk_error(ctx, NULL)) run_attachment_free(ctx, a);
  return lk_error(ctx, NULL);
}

void run_attachment_free(lk_ctx *ctx, run_attachment *a) {
  for (int i = 0; i < a->options.noverrides; i++) {
    lk_free(ctx, (void *)a->overrides[i].pattern);
    lk_free(ctx, (void *)a->overrides[i].options);
  }
  lk_free(ctx, a->overrides);
  lk_free(ctx, a->layers);
  *a = (run_attachment){0};
}

/* A pattern of a rank or alpha that matches nothing is a mistake. */
lk_status run_attachment_check(lk_model *model, const run_attachment *a) {
  lk_ctx *ctx = lk_model_ctx(model);
  lk_module *root = lk_model_root(model);
  for (int i = 0; i < a->options.noverrides && !lk_error(ctx, NULL); i++) {
    int found = 0;
    for (lk_module *m = root; m && !found; m = lk_module_walk(root, m))
      found = m->site && lk_match(ctx, a->overrides[i].pattern, m->path);
    if (!found)
      lk_fail(ctx, LK_EARG, "no layer matches the pattern '%s' that is to have %s", a->overrides[i].pattern,
              a->overrides[i].options);
  }
  return lk_error(ctx, NULL);
}

/* ---- preparing ---- */

static int is_saved_adapter(lk_ctx *ctx, const char *adapter) {
  char *path = lk_sprintf(ctx, "%s/adapter_config.json", adapter);
  int there = path && lk_file_exists(path);
  lk_free(ctx, path);
  return there;
}

static lk_status train_head(lk_model *model, const char *head) {
  lk_ctx *ctx = lk_model_ctx(model);
  lk_module *m = head ? lk_module_find(lk_model_root(model), head) : NULL;
  if (!m) return lk_error(ctx, NULL) ? lk_error(ctx, NULL) : lk_fail(ctx, LK_EARG, "--probe: the model has no head");
  lk_set_requires_grad(m, 1);
  return LK_OK;
}

lk_status run_prepare_model(lk_model *model, const char *head, const run_options *o) {
  lk_ctx *ctx = lk_model_ctx(model);
  run_attachment a;
  if (o->full + o->probe + (o->adapter != NULL) > 1)
    return lk_fail(ctx, LK_EARG, "--full, --probe and --adapter exclude each other");
  lk_set_requires_grad(lk_model_root(model), o->full);
  if (o->probe) return train_head(model, head);
  if (o->full) return LK_OK;
  if (o->adapter && is_saved_adapter(ctx, o->adapter)) return lk_adapter_load(model, "default", o->adapter, 1);
  if (!run_attachment_new(ctx, o, head, &a) && !run_attachment_check(model, &a)) lk_attach_with(model, &a.options);
  run_attachment_free(ctx, &a);
  return lk_error(ctx, NULL);
}

lk_status run_prepare(run_model *m, const run_options *o) {
  lk_vit_set_recompute(m->vit, (lk_vit_recompute)o->recompute);
  return run_prepare_model(m->model, m->vit->head->module.path, o);
}
