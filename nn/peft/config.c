/* config.c: what the configs of PEFT's methods share: which modules, which biases, which keys there are. */
#include "peft.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Keys of every config of PEFT (PeftConfigMixin, PeftConfig). */
static const lk_peft_key shared[] = {{"auto_mapping", LK_PEFT_INERT, "null"},
                                     {"base_model_name_or_path", LK_PEFT_INERT, "null"},
                                     {"inference_mode", LK_PEFT_INERT, "true"},
                                     {"peft_type", LK_PEFT_USED, NULL},
                                     {"peft_version", LK_PEFT_INERT, "null"},
                                     {"revision", LK_PEFT_INERT, "null"},
                                     {"runtime_config", LK_PEFT_INERT, NULL},
                                     {"task_type", LK_PEFT_USED, "null"},
                                     {0}};

/* ---- a reading and its memory ---- */

const char *lk_peft_keep(lk_peft_reading *r, char *text) {
  if (!text) return NULL;
  if (!lk_grow(r->ctx, &r->texts, &r->text_capacity, r->ntexts + 1, sizeof *r->texts))
    return r->texts[r->ntexts++] = text;
  lk_free(r->ctx, text);
  return NULL;
}

void lk_peft_reading_free(lk_peft_reading *r) {
  for (size_t i = 0; i < r->ntexts; i++) lk_free(r->ctx, r->texts[i]);
  lk_free(r->ctx, r->texts);
  lk_free(r->ctx, r->overrides);
  lk_free(r->ctx, r->layers);
}

lk_status lk_peft_mistyped(lk_ctx *c, const char *key, const char *want, const lk_json *j) {
  lk_json_kind kind = lk_json_type(j);
  return lk_fail(c, LK_EFORMAT, "adapter_config.json: %.80s must be %s, %s %s", key, want,
                 kind == LK_JSON_NONE ? "and is" : "not", kind == LK_JSON_NONE ? "missing" : lk_json_kind_name(kind));
}

lk_status lk_peft_override(lk_peft_reading *r, const char *pattern, const char *options) {
  if (!pattern || !options ||
      lk_grow(r->ctx, &r->overrides, &r->override_capacity, r->noverrides + 1, sizeof *r->overrides))
    return lk_error(r->ctx, NULL);
  r->overrides[r->noverrides++] = (lk_override){pattern, options};
  r->options.overrides = r->overrides;
  r->options.noverrides = (int)r->noverrides;
  return LK_OK;
}

/* ---- keys ---- */

static const lk_peft_key *find_key(const lk_peft_key *keys, const char *key) {
  for (; keys->key; keys++)
    if (!strcmp(keys->key, key)) return keys;
  return NULL;
}

/* null, false, [] or {} */
static int is_off(const lk_json *j) {
  int on;
  lk_json_kind kind = lk_json_type(j);
  if (lk_json_is_bool(j, &on)) return !on;
  return kind == LK_JSON_NULL || ((kind == LK_JSON_ARRAY || kind == LK_JSON_OBJECT) && lk_json_count(j) == 0);
}

lk_status lk_peft_check_keys(lk_peft_reading *r) {
  char unknown[300] = "";
  const char *key;
  void *at = NULL;
  for (const lk_json *j; (j = lk_json_next(r->config, &at, &key));) {
    const lk_peft_key *k = find_key(r->format->keys, key);
    if (!k) k = find_key(shared, key);
    if (k && k->use == LK_PEFT_OFF && !is_off(j))
      return lk_fail(r->ctx, LK_EARG,
                     "adapter_config.json: %s is set, which changes what the adapter computes and "
                     "is not supported",
                     key);
    size_t used = strlen(unknown);
    if (!k) snprintf(unknown + used, sizeof unknown - used, "%s%.60s", used ? ", " : "", key);
  }
  if (*unknown) lk_warn(r->ctx, "adapter_config.json: unknown keys are ignored: %s", unknown);
  return lk_error(r->ctx, NULL);
}

/* Every key as its default. */
static lk_status write_keys(lk_ctx *c, const lk_peft_key *keys, lk_json *config) {
  for (; keys->key; keys++) {
    if (!keys->value) continue;
    lk_json_set(c, config, keys->key, lk_json_parse(c, keys->value, strlen(keys->value), keys->key));
  }
  return lk_error(c, NULL);
}

/* ---- lists of names ---- */

/* "a,b,c" of an array of names; NULL if it is empty. */
static const char *join(lk_peft_reading *r, const char *key, const lk_json *array) {
  char *text = NULL;
  for (size_t i = 0; i < lk_json_count(array) && !lk_error(r->ctx, NULL); i++) {
    const char *name;
    char *longer = NULL;
    if (!lk_json_is_string(lk_json_at(array, i), &name))
      lk_peft_mistyped(r->ctx, key, "a list of strings", lk_json_at(array, i));
    else if (!*name || strpbrk(name, ", \t\r\n*?[\\") || !strncmp(name, "re:", 3))
      lk_fail(r->ctx, LK_EARG, "adapter_config.json: %s: '%.80s' cannot be the name of a module", key, name);
    else longer = lk_sprintf(r->ctx, "%s%s%s", text ? text : "", text ? "," : "", name);
    lk_free(r->ctx, text);
    text = longer;
  }
  return lk_peft_keep(r, text);
}

/* A list of names, or, with a prefix for it, a string; NULL if it is null, missing or empty. */
static const char *names(lk_peft_reading *r, const char *key, const char *string_prefix) {
  const lk_json *j = lk_json_get(r->config, key);
  const char *text;
  if (lk_json_type(j) <= LK_JSON_NULL) return NULL;
  if (lk_json_type(j) == LK_JSON_ARRAY) return join(r, key, j);
  if (string_prefix && lk_json_is_string(j, &text))
    return lk_peft_keep(r, lk_sprintf(r->ctx, "%s%s", string_prefix, text));
  lk_peft_mistyped(r->ctx, key, string_prefix ? "a list of strings or a string" : "a list of strings", j);
  return NULL;
}

/* ---- reading ---- */

const char *lk_peft_number(lk_peft_reading *r, const lk_json *j) {
  double value;
  int whole = lk_json_is_real(j, &value) && value == floor(value) && fabs(value) < 1e15;
  return lk_peft_keep(r,
                      whole ? lk_sprintf(r->ctx, "%lld", (long long)value) : lk_json_dump(r->ctx, j, LK_JSON_COMPACT));
}

lk_status lk_peft_read_layers(lk_peft_reading *r, const lk_json *j, const char *key) {
  int64_t layer;
  size_t n = lk_json_type(j) == LK_JSON_ARRAY ? lk_json_count(j) : lk_json_type(j) > LK_JSON_NULL;
  if (!n) return LK_OK;
  if (!(r->layers = lk_alloc_array(r->ctx, n, sizeof *r->layers))) return lk_error(r->ctx, NULL);
  for (size_t i = 0; i < n; i++) {
    const lk_json *item = lk_json_type(j) == LK_JSON_ARRAY ? lk_json_at(j, i) : j;
    if (!lk_json_is_int(item, &layer)) return lk_peft_mistyped(r->ctx, key, "an integer or a list of them", item);
    if (layer < 0 || layer > 1000000 || n > 1000000)
      return lk_fail(r->ctx, LK_EARG, "adapter_config.json: %s: there is no layer %lld", key, (long long)layer);
    r->layers[i] = (int)layer;
  }
  r->options.layers = r->layers;
  r->options.nlayers = (int)n;
  return LK_OK;
}

static lk_status read_layers_pattern(lk_peft_reading *r) {
  const char *pattern = names(r, "layers_pattern", "");
  if (!pattern || !*pattern) return lk_error(r->ctx, NULL);
  const char *bad = pattern + strspn(pattern, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,");
  if (*bad)
    return lk_fail(r->ctx, LK_EARG,
                   "adapter_config.json: layers_pattern '%.80s': only names are supported, not "
                   "regular expressions",
                   pattern);
  r->options.layers_pattern = pattern;
  return LK_OK;
}

const char *lk_peft_bias_word(const lk_peft_format *f, lk_bias_mode mode) {
  return mode == LK_BIAS_NONE ? "none" : mode == LK_BIAS_ALL ? "all" : f->bias_only;
}

lk_status lk_peft_read_bias(lk_peft_reading *r) {
  const char *word = lk_json_string(r->ctx, r->config, "bias", "none");
  for (int mode = LK_BIAS_NONE; mode <= LK_BIAS_ALL; mode++)
    if (!strcmp(word, lk_peft_bias_word(r->format, (lk_bias_mode)mode))) {
      r->options.bias = (lk_bias_mode)mode;
      return lk_error(r->ctx, NULL);
    }
  return lk_fail(r->ctx, LK_EARG, "adapter_config.json: bias '%.60s' is none of none, all, %s", word,
                 r->format->bias_only);
}

/* Is a module called that in the model, and not in the list already? */
static int head_to_add(lk_peft_reading *r, const char *name) {
  lk_module *root = lk_model_root(r->model);
  int found = 0;
  if (r->options.modules_to_save && strstr(r->options.modules_to_save, name)) return 0;
  for (lk_module *m = root; m && !found; m = lk_module_walk(root, m)) found = lk_suffix_match(r->ctx, name, m->path);
  return found;
}

/* PEFT adds the head of a task to modules_to_save by itself (PeftModelForSequenceClassification and the like). */
static lk_status read_task(lk_peft_reading *r) {
  static const char *const heads[][2] = {
      {"SEQ_CLS", "classifier"}, {"SEQ_CLS", "score"},           {"TOKEN_CLS", "classifier"},
      {"TOKEN_CLS", "score"},    {"QUESTION_ANS", "qa_outputs"},
  };
  const char *task = lk_json_string(r->ctx, r->config, "task_type", "");
  for (size_t i = 0; i < sizeof heads / sizeof *heads && !lk_error(r->ctx, NULL); i++) {
    if (strcmp(heads[i][0], task) || !head_to_add(r, heads[i][1])) continue;
    const char *saved = r->options.modules_to_save;
    r->options.modules_to_save =
        lk_peft_keep(r, lk_sprintf(r->ctx, "%s%s%s", saved ? saved : "", saved ? "," : "", heads[i][1]));
  }
  return lk_error(r->ctx, NULL);
}

lk_status lk_peft_read_common(lk_peft_reading *r) {
  const lk_json *targets = lk_json_get(r->config, "target_modules");
  const char *text;
  int all = lk_json_is_string(targets, &text) && !strcasecmp(text, "all-linear");
  r->options.targets = names(r, "target_modules", all ? "" : "re:");
  if (!r->options.targets && !lk_error(r->ctx, NULL))
    return lk_fail(r->ctx, LK_EFORMAT, "adapter_config.json: target_modules is missing or empty");
  r->options.exclude = names(r, "exclude_modules", "re:");
  r->options.modules_to_save = names(r, "modules_to_save", NULL);
  lk_peft_read_layers(r, lk_json_get(r->config, "layers_to_transform"), "layers_to_transform");
  read_layers_pattern(r);
  if (lk_error(r->ctx, NULL)) return lk_error(r->ctx, NULL);
  if (lk_json_type(targets) == LK_JSON_STRING && (r->options.nlayers || r->options.layers_pattern))
    return lk_fail(r->ctx, LK_EARG,
                   "adapter_config.json: layers_to_transform and layers_pattern want target_modules "
                   "as a list, not as a string");
  return r->format->bias_only && lk_peft_read_bias(r) ? lk_error(r->ctx, NULL) : read_task(r);
}

/* ---- writing ---- */

lk_status lk_peft_write_layers(const lk_adapter *a, lk_json *config, const char *key) {
  lk_ctx *c = lk_model_ctx(a->model);
  const lk_attach_options *o = a->options;
  if (!o->nlayers) return lk_json_set_null(c, config, key);
  lk_json *array = lk_json_array(c);
  for (int i = 0; i < o->nlayers && array; i++) lk_json_set_int(c, array, NULL, o->layers[i]);
  return lk_json_set(c, config, key, array);
}

char *lk_peft_word(lk_ctx *c, const lk_method *m, const char *key) {
  const lk_opt *o = m->cls->opts;
  while (strcmp(o->key, key)) o++;
  const char *words = o->words;
  for (int i = (int)lk_method_option(m, key, 0); i > 0; i--) words += strcspn(words, "|") + 1;
  return lk_strndup(c, words, strcspn(words, "|"));
}

int lk_peft_is_word(const lk_method *m, const char *key, const char *word) {
  lk_ctx *c = lk_method_ctx(m);
  char *is = lk_peft_word(c, m, key);
  int same = is && !strcmp(is, word);
  lk_free(c, is);
  return same;
}

int lk_peft_same_options(const lk_at *at) {
  for (const lk_opt *o = at->method->cls->opts; o && o->key; o++)
    if (lk_at_option(at, o->key, 0) != lk_method_option(at->method, o->key, 0)) return 0;
  return 1;
}

static int lists(lk_ctx *c, const char *list, const char *name) {
  int found = 0;
  for (char *s; list && (s = lk_pattern_next(c, &list)); lk_free(c, s)) found |= !strcmp(s, name);
  return found;
}

/* The task by which PEFT finds the model's class.  For SEQ_CLS it takes the head for saved in any case. */
static lk_status write_task(const lk_adapter *a, lk_json *config) {
  const char *task = a->model->task_type, *saved = a->options->modules_to_save;
  lk_ctx *c = lk_model_ctx(a->model);
  if (!task) return LK_OK;
  if (!strcmp(task, "SEQ_CLS") && !lists(c, saved, "classifier") && !lists(c, saved, "score")) return lk_error(c, NULL);
  return lk_json_set_string(c, config, "task_type", task);
}

lk_status lk_peft_write_common(const lk_adapter *a, const lk_peft_format *f, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  write_keys(c, shared, config);
  write_keys(c, f->keys, config);
  if (f->bias_only) lk_json_set_string(c, config, "bias", lk_peft_bias_word(f, a->options->bias));
  write_task(a, config);
  return lk_peft_write_targets(a, config);
}
