/* pretrained.c: opening and saving model directories of any family. */
#include "models/family.h"
#include "models/labels.h"

#include <lorikeet/file.h>
#include <stdio.h>
#include <string.h>

static const lk_family *const families[] = {&lk_family_bert, &lk_family_gpt2, &lk_family_llama};
enum { FAMILIES = sizeof families / sizeof *families };

static const char *const task_names[] = {"classify", "lm", "masked_lm", "embed"};
enum { TASKS = sizeof task_names / sizeof *task_names };
/* PEFT's, which has none for masked tokens. */
static const char *const task_types[TASKS] = {"SEQ_CLS", "CAUSAL_LM", NULL, "FEATURE_EXTRACTION"};

int lk_task_find(const char *name) {
  for (int i = 0; i < TASKS; i++)
    if (!strcmp(task_names[i], name)) return i;
  return -1;
}

/* ---- the config ---- */

int64_t lk_config_int(lk_pretrained *p, const char *key, int64_t otherwise, int64_t low, int64_t high) {
  lk_ctx *c = lk_model_ctx(p->model);
  int64_t value = lk_json_int(c, p->config, key, otherwise);
  if (!lk_error(c, NULL) && (value < low || value > high))
    lk_fail(c, LK_EFORMAT, "%s is %lld, should be %lld to %lld", key, (long long)value, (long long)low,
            (long long)high);
  return value;
}

double lk_config_real(lk_pretrained *p, const char *key, double otherwise, double low, double high) {
  lk_ctx *c = lk_model_ctx(p->model);
  double value = lk_json_real(c, p->config, key, otherwise);
  if (!lk_error(c, NULL) && !(value >= low && value <= high))
    lk_fail(c, LK_EFORMAT, "%s is %g, should be %g to %g", key, value, low, high);
  return value;
}

static const lk_family *find_family(lk_pretrained *p) {
  lk_ctx *c = lk_model_ctx(p->model);
  char known[200] = "";
  size_t used = 0;
  const char *type = lk_json_string(c, p->config, "model_type", "");
  for (int i = 0; i < FAMILIES; i++)
    for (const char *const *s = families[i]->model_types; *s; s++) {
      if (!strcmp(*s, type)) return families[i];
      if (used < sizeof known)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", *s);
    }
  lk_fail(c, LK_EFORMAT, "model_type is '%.60s'; known are %s", type, known);
  return NULL;
}

/* The label count of a classifier: of a new head, or as the config has it. */
static void read_common(lk_pretrained *p, const lk_pretrained_options *o) {
  lk_ctx *c = lk_model_ctx(p->model);
  const lk_json *names = lk_json_get(p->config, "id2label"), *eos = lk_json_get(p->config, "eos_token_id");
  int64_t labels = (int64_t)lk_json_count(names);
  if (lk_json_type(names) > LK_JSON_NULL && lk_json_type(names) != LK_JSON_OBJECT)
    lk_fail(c, LK_EFORMAT, "id2label should be an object, not %s", lk_json_kind_name(lk_json_type(names)));
  p->classes = o->classes ? o->classes : labels ? labels : lk_config_int(p, "num_labels", 2, 1, 1 << 24);
  p->new_head = o->task == LK_TASK_CLASSIFY && o->classes > 0;
  p->pad = lk_config_int(p, "pad_token_id", -1, -1, 1 << 28);
  p->bos = lk_config_int(p, "bos_token_id", -1, -1, 1 << 28);
  p->eos = -1; /* or several: the first */
  if (lk_json_type(eos) != LK_JSON_ARRAY) p->eos = lk_config_int(p, "eos_token_id", -1, -1, 1 << 28);
  else lk_json_is_int(lk_json_at(eos, 0), &p->eos);
  if (!p->new_head || lk_error(c, NULL)) return;
  lk_json_remove(p->config, "id2label"); /* the labels are the old head's */
  lk_json_remove(p->config, "label2id");
}

/* ---- building ---- */

static void release(void *arg) {
  lk_pretrained *p = arg;
  lk_ctx *c = p->ctx;
  lk_json_free(p->config);
  lk_free(c, p->directory);
  lk_free(c, p);
}

/* Modules and parameters, without memory for any value. */
static lk_status build(lk_pretrained *p, const lk_pretrained_options *o) {
  lk_model *model = p->model;
  lk_ctx *c = lk_model_ctx(model);
  int flags = model->flags;
  p->task = o->task;
  p->dropout = !o->no_dropout;
  p->family = find_family(p);
  if (!p->family) return lk_error(c, NULL);
  if (!(p->family->tasks >> o->task & 1))
    return lk_fail(c, LK_EARG, "a model of the family %s cannot do the task %s", p->family->name, task_names[o->task]);
  read_common(p, o);
  model->flags |= LK_SHAPES_ONLY;
  if (!lk_error(c, NULL)) p->family->build(p);
  model->flags = flags;
  model->aside = p->family->aside;
  model->task_type = task_types[p->task];
  return lk_error(c, NULL);
}

/* Memory and first values for the parameters that the file did not hold; one weight after the other becomes codes. */
static lk_status initialise(lk_pretrained *p, const lk_quantise_options *quantise) {
  lk_ctx *c = lk_model_ctx(p->model);
  if (lk_model_shapes_only(p->model)) return LK_OK;
  for (lk_param *q = NULL; (q = lk_param_walk(p->model, q)) && !lk_error(c, NULL);) {
    lk_site *site = ((lk_module *)q->owner)->site;
    int weight = site && site->weight == q;
    if (q->value.p || q->alias || (weight && site->coded)) continue;
    if (!lk_param_own(q)) p->family->initialise(p, q);
    if (weight && !lk_error(c, NULL) && lk_site_to_quantise(site, quantise))
      lk_site_quantise(site, &site->weight->value, quantise);
  }
  return lk_error(c, NULL);
}

lk_status lk_initialise_usual(lk_pretrained *p, lk_param *q) {
  const lk_module *m = q->owner;
  const char *name = q->name + strlen(m->path) + (*m->path != 0);
  if (!strcmp(name, "bias")) return lk_param_fill(q, 0);
  if (strstr(m->type, "norm")) return lk_param_fill(q, 1);
  return lk_param_normal(q, 0, lk_config_real(p, "initializer_range", 0.02, 0, 1e3));
}

lk_linear_layer *lk_head_new(lk_pretrained *p, lk_module *parent, const char *name, lk_embedding_layer *tied_to) {
  lk_linear_layer *l = lk_linear_new(parent, name, p->width, p->vocabulary, LK_NO_BIAS);
  if (!l) return NULL;
  p->head = l;
  l->module.site->head = 1;
  if (!tied_to) return l;
  l->weight->alias = tied_to->weight;
  tied_to->module.site->tied = 1;
  return l;
}

int lk_is_tied(const lk_pretrained *p, int otherwise) {
  return lk_json_bool(p->ctx, p->config, "tie_word_embeddings", otherwise);
}

/* config becomes the model's, also on error. */
static lk_pretrained *make(lk_model *model, lk_json *config, const lk_pretrained_options *o) {
  lk_ctx *c = lk_model_ctx(model);
  lk_pretrained *p = config && !lk_error(c, NULL) ? lk_alloc(c, sizeof *p) : NULL;
  if (!p) {
    lk_json_free(config);
    return NULL;
  }
  p->ctx = c;
  p->model = model;
  p->config = config;
  if (lk_model_on_free(model, release, p)) return NULL;
  return build(p, o) ? NULL : p;
}

lk_pretrained *lk_pretrained_new(lk_model *model, const lk_json *config, const lk_pretrained_options *o) {
  static const lk_pretrained_options plain = {0};
  if (!model || !config) return NULL;
  lk_pretrained *p = make(model, lk_json_copy(lk_model_ctx(model), config), o ? o : &plain);
  if (p) initialise(p, o ? o->quantise : NULL);
  return p && !lk_error(p->ctx, NULL) ? p : NULL;
}

/* ---- opening ---- */

static lk_status load(lk_pretrained *p, const lk_pretrained_options *o) {
  const lk_family *f = p->family;
  const lk_load_options options = {.flags = o->flags,
                                   .quantise = o->quantise,
                                   .prefix = p->prefix,
                                   .added = p->prefix,
                                   .skip = p->new_head ? f->heads : NULL,
                                   .unused = f->unused,
                                   .optional = p->new_head ? f->optional : NULL};
  return lk_model_load_directory(p->model, p->directory, &options);
}

lk_pretrained *lk_pretrained_open(lk_model *model, const char *directory, const lk_pretrained_options *o) {
  static const lk_pretrained_options plain = {0};
  if (!model) return NULL;
  if (!o) o = &plain;
  lk_ctx *c = lk_model_ctx(model);
  if (!directory) lk_fail(c, LK_ENIL, "pretrained_open: directory is NULL");
  char *path = lk_error(c, NULL) ? NULL : lk_sprintf(c, "%s/config.json", directory);
  lk_pretrained *p = path ? make(model, lk_json_read(c, path), o) : NULL;
  if (path) lk_file_error(c, path);
  lk_free(c, path);
  if (p) p->directory = lk_strdup(c, directory);
  if (lk_error(c, NULL) || !p) return NULL;
  if (lk_model_shapes_only(model)) return p;
  return load(p, o) || initialise(p, o->quantise) ? NULL : p;
}

/* ---- using ---- */

lk_tensor lk_pretrained_forward(lk_pretrained *p, lk_tape *t, const lk_inputs *in) {
  if (p) return p->family->forward(p, t, in);
  if (t) lk_fail(lk_tape_ctx(t), LK_ENIL, "the forward of a model that is NULL");
  return lk_nil();
}

const char *lk_pretrained_targets(const lk_pretrained *p, const char *spec) {
  /* the papers of these adapt MLPs as well as attention */
  static const char *const everywhere[] = {"adalora", "glora", "malora", "molora", "mixture"};
  for (size_t i = 0; spec && i < sizeof everywhere / sizeof *everywhere; i++)
    if (strstr(spec, everywhere[i])) return "all-linear";
  return p->family->targets;
}

const char *lk_pretrained_family(const lk_pretrained *p) { return p->family->name; }

const char *lk_pretrained_label(const lk_pretrained *p, int64_t class_index) {
  return lk_labels_get(p->config, class_index);
}

lk_status lk_pretrained_name_classes(lk_pretrained *p, char *const *names) {
  if (p->task == LK_TASK_CLASSIFY) return lk_labels_set(p->ctx, p->config, p->classes, names);
  return lk_fail(p->ctx, LK_EARG, "pretrained_name_classes: the task has no classes");
}

/* ---- saving ---- */

static const char *const companions[] = {"tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "vocab.txt",
                                         "vocab.json",
                                         "merges.txt",
                                         "generation_config.json",
                                         "added_tokens.json",
                                         "preprocessor_config.json"};

/* Copies the files that go with the model, where they are. */
static lk_status copy_companions(lk_pretrained *p, const char *directory) {
  enum { LIMIT = 1 << 28 };
  lk_ctx *c = lk_model_ctx(p->model);
  for (size_t i = 0; p->directory && i < sizeof companions / sizeof *companions && !lk_error(c, NULL); i++) {
    char *from = lk_sprintf(c, "%s/%s", p->directory, companions[i]);
    char *to = lk_sprintf(c, "%s/%s", directory, companions[i]);
    size_t n = 0;
    char *text = from && to && lk_file_exists(from) ? lk_file_read_text(c, from, LIMIT, &n) : NULL;
    lk_writer *w = text ? lk_writer_open(c, to) : NULL;
    if (w && !lk_write(w, text, n)) lk_writer_commit(w);
    else lk_writer_abort(w);
    lk_free(c, text);
    lk_free(c, from);
    lk_free(c, to);
  }
  return lk_error(c, NULL);
}

/* The labels of a new head are "LABEL_0", ..., unless they were named. */
static lk_status set_labels(lk_ctx *c, const lk_pretrained *p, lk_json *config) {
  if (p->task != LK_TASK_CLASSIFY || lk_json_count(lk_json_get(config, "id2label")) == (size_t)p->classes) return LK_OK;
  return lk_labels_set(c, config, p->classes, NULL);
}

/* "BertForSequenceClassification", as transformers calls the model of the task. */
static lk_status set_architecture(lk_ctx *c, const lk_pretrained *p, lk_json *config) {
  static const char *const classes[][2] = {{"bert", "Bert"},   {"roberta", "Roberta"}, {"gpt2", "GPT2"},
                                           {"llama", "Llama"}, {"mistral", "Mistral"}, {"qwen2", "Qwen2"},
                                           {"qwen3", "Qwen3"}};
  static const char *const tasks[TASKS] = {"ForSequenceClassification", "ForCausalLM", "ForMaskedLM", "Model"};
  const char *type = lk_json_string(c, config, "model_type", ""), *task = tasks[p->task];
  if (p->task == LK_TASK_LM && !strcmp(type, "gpt2")) task = "LMHeadModel";
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
    if (strcmp(classes[i][0], type)) continue;
    char *name = lk_sprintf(c, "%s%s", classes[i][1], task);
    lk_json *list = lk_json_array(c);
    lk_json_set_string(c, list, NULL, name);
    lk_free(c, name);
    return lk_json_set(c, config, "architectures", list);
  }
  return LK_OK;
}

lk_status lk_pretrained_save_config(lk_pretrained *p, const char *directory) {
  if (!p) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(p->model);
  if (lk_error(c, NULL) || lk_make_dirs(c, directory)) return lk_error(c, NULL);
  lk_json *config = lk_json_copy(c, p->config);
  char *path = lk_sprintf(c, "%s/config.json", directory);
  if (config && lk_merge_parted(p->model)) lk_json_set_bool(c, config, "tie_word_embeddings", 0);
  if (config && path && !set_labels(c, p, config) && !set_architecture(c, p, config))
    lk_json_write(c, path, config, LK_JSON_SORTED);
  lk_json_free(config);
  lk_free(c, path);
  return lk_error(c, NULL);
}

lk_status lk_pretrained_can_save(const lk_pretrained *p) {
  if (!p || lk_merge_check_bias(p->model, "pretrained_save")) return p ? lk_error(p->ctx, NULL) : LK_ENIL;
  const lk_param *parted = lk_merge_parted(p->model);
  if (!parted || p->family->untied) return LK_OK;
  return lk_fail(p->ctx, LK_EARG,
                 "pretrained_save: merging parted %s from the embedding that it was tied to, for which models of its "
                 "type have no form; save the adapter instead",
                 parted->name);
}

lk_status lk_pretrained_save(lk_pretrained *p, const char *directory) {
  if (!p) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(p->model);
  if (lk_pretrained_can_save(p) || lk_make_dirs(c, directory)) return lk_error(c, NULL);
  char *weights = lk_sprintf(c, "%s/model.safetensors", directory);
  if (weights && !copy_companions(p, directory) && !lk_model_save(p->model, weights))
    lk_pretrained_save_config(p, directory);
  lk_free(c, weights);
  return lk_error(c, NULL);
}
