/* lora.c: PEFT's LORA: "lora", "lora | magnitude" (DoRA), each also as "dropout p=... (...)", to and from LoraConfig.
 *
 * https://github.com/huggingface/peft, src/peft/tuners/lora/config.py.  init pissa and olora mean what they mean there:
 * the reader of the file has the original base weight, decomposes it again and subtracts the first product. */
#include "peft.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Which of a chain's methods is which. */
typedef struct {
  const lk_method *lora, *magnitude, *dropout; /* the last two may be NULL */
} shape;

static double option(const lk_method *m, const char *key) {
  return lk_at_option(&(lk_at){.method = (lk_method *)m, .cfg = m->cfg}, key, 0);
}

/* Is it this built-in class, without a label? */
static int is(const lk_method *m, const char *name) {
  return m && m->cls == lk_adapter_find_class(NULL, name) && !*m->label;
}

/* 0 if the chain has another shape. */
static int take_apart(const lk_method *chain, shape *s) {
  *s = (shape){.dropout = is(chain, "dropout") ? chain : NULL};
  if (s->dropout && chain->next) return 0;
  s->lora = s->dropout ? chain->inner : chain;
  if (!is(s->lora, "lora") || option(s->lora, "supernet")) return 0;
  s->magnitude = s->lora->next;
  if (s->magnitude && (!is(s->magnitude, "magnitude") || s->magnitude->next || !option(s->magnitude, "detach")))
    return 0;
  return !(s->dropout && option(s->lora, "dropout") > 0);
}

/* Are all options but rank and alpha the same at this site as in the spec?  PEFT has no pattern for others. */
static int is_uniform(const lk_at *at) {
  for (; at; at = at->next) {
    for (const lk_opt *o = at->method->cls->opts; o && o->key; o++)
      if (strcmp(o->key, "r") && strcmp(o->key, "alpha") && lk_at_option(at, o->key, 0) != option(at->method, o->key))
        return 0;
    if (!is_uniform(at->inner)) return 0;
  }
  return 1;
}

static int fits(const lk_adapter *a) {
  lk_module *root = lk_model_root(a->model);
  shape s;
  if (!take_apart(a->chain, &s)) return 0;
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    if (m->site && !is_uniform(lk_site_chain(m->site, a))) return 0;
  return 1;
}

/* ---- writing: rank_pattern and alpha_pattern ---- */

/* The overrides' patterns for PEFT, which looks for "(.*\.)?(PATTERN)$" from the start of the path. */
#define PEFT_BEGIN "re:(.*\\.)?("

/* PEFT's text for one of our patterns; NULL if there is none.  The caller's. */
static char *peft_pattern(lk_ctx *c, const char *pattern) {
  size_t n = strlen(pattern), begin = strlen(PEFT_BEGIN);
  if (n > begin && !strncmp(pattern, PEFT_BEGIN, begin) && pattern[n - 1] == ')')
    return lk_strndup(c, pattern + begin, n - begin - 1);
  if (!strncmp(pattern, "re:", 3)) return lk_sprintf(c, "^(?:%s)", pattern + 3);
  return strpbrk(pattern, "*?[\\") ? NULL : lk_peft_escape(c, pattern);
}

/* The value behind "key=" in "r=4 alpha=8"; 0 if it is not there. */
static int find_value(const char *options, const char *key, double *value) {
  char word[64];
  size_t n = strlen(key);
  for (const char *s = options; *(s += strspn(s, " ,\t")); s += strcspn(s, " ,\t")) {
    if (strncmp(s, key, n) || s[n] != '=') continue;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(s + n + 1, " ,\t"), s + n + 1);
    return lk_spec_number(word, value);
  }
  return 0;
}

static lk_status set_number(lk_ctx *c, lk_json *object, const char *key, double value) {
  return value == floor(value) && fabs(value) < 1e15 ? lk_json_set_int(c, object, key, (int64_t)value)
                                                     : lk_json_set_real(c, object, key, value);
}

/* The overrides of one option as PEFT's map; NULL if a pattern cannot be put so, or on error. */
static lk_json *map_of_overrides(const lk_adapter *a, const char *key) {
  lk_ctx *c = lk_model_ctx(a->model);
  const lk_attach_options *o = a->options;
  lk_json *map = lk_json_object(c);
  int bad = !map;
  for (int i = 0; i < o->noverrides && !bad; i++) {
    double value;
    if (!find_value(o->overrides[i].options, key, &value)) continue;
    char *pattern = peft_pattern(c, o->overrides[i].pattern);
    bad = !pattern;
    if (pattern && !lk_json_get(map, pattern)) bad = set_number(c, map, pattern, value) != LK_OK;
    lk_free(c, pattern);
  }
  if (!bad) return map;
  lk_json_free(map);
  return NULL;
}

/* What PEFT makes of the map at a path, once its keys are sorted, as they are in the file. */
static double resolve(lk_ctx *c, const lk_json *map, const char *path, double otherwise) {
  const char *key, *first = NULL;
  double value = otherwise;
  void *at = NULL;
  for (const lk_json *j; (j = lk_json_next(map, &at, &key)) && !lk_error(c, NULL);) {
    if (first && strcmp(first, key) < 0) continue;
    char *pattern = lk_sprintf(c, PEFT_BEGIN "%s)", key);
    if (pattern && lk_match(c, pattern, path)) {
      first = key;
      lk_json_is_real(j, &value);
    }
    lk_free(c, pattern);
  }
  return value;
}

static const lk_at *lora_at(const lk_module *m, const lk_adapter *a) {
  const lk_at *at = m->site ? lk_site_chain(m->site, a) : NULL;
  return at && at->inner ? at->inner : at;
}

/* Does the map give every site its own value? */
static int is_right(const lk_adapter *a, const lk_json *map, const char *key, double otherwise) {
  lk_module *root = lk_model_root(a->model);
  for (lk_module *m = root; m; m = lk_module_walk(root, m)) {
    const lk_at *at = lora_at(m, a);
    for (const char *path = at ? m->path : NULL; path; path = path == m->path ? m->also : NULL)
      if (resolve(root->ctx, map, path, otherwise) != lk_at_option(at, key, 0)) return 0;
  }
  return 1;
}

lk_json *lk_peft_map_of_sites(const lk_adapter *a, lk_peft_site_number number, const void *arg, double usual) {
  lk_module *root = lk_model_root(a->model);
  lk_ctx *c = root->ctx;
  lk_json *map = lk_json_object(c);
  for (lk_module *m = root; m && map && !lk_error(c, NULL); m = lk_module_walk(root, m)) {
    const lk_at *chain = m->site ? lk_site_chain(m->site, a) : NULL;
    if (!chain || number(chain, arg) == usual) continue;
    for (const char *known = m->path; known; known = known == m->path ? m->also : NULL) {
      char *path = lk_peft_escape(c, known), *pattern = path ? lk_sprintf(c, "^%s", path) : NULL;
      if (pattern) set_number(c, map, pattern, number(chain, arg));
      lk_free(c, pattern);
      lk_free(c, path);
    }
  }
  return map;
}

static double option_of_lora(const lk_at *chain, const void *key) {
  return lk_at_option(chain->inner ? chain->inner : chain, key, 0);
}

static lk_status write_pattern(const lk_adapter *a, lk_json *config, const char *name, const char *key, double usual) {
  lk_json *map = map_of_overrides(a, key);
  if (!map || !is_right(a, map, key, usual)) {
    lk_json_free(map);
    map = lk_peft_map_of_sites(a, option_of_lora, key, usual);
  }
  return lk_json_set(lk_model_ctx(a->model), config, name, map);
}

/* ---- writing: the rest ---- */

/* The word that lora's option has; PEFT's but for two. */
static lk_status write_init(lk_ctx *c, const lk_method *lora, lk_json *config) {
  static const char key[] = "init_lora_weights";
  char *word = lk_peft_word(c, lora, "init");
  if (word && !strcmp(word, "default")) lk_json_set_bool(c, config, key, 1);
  else if (word && !strcmp(word, "random")) lk_json_set_bool(c, config, key, 0);
  else if (word) lk_json_set_string(c, config, key, word);
  lk_free(c, word);
  return lk_error(c, NULL);
}

/* Are there linear layers, and are all of them stored [in, out]?  PEFT corrects the flag layer by layer. */
static int is_fan_in_fan_out(const lk_adapter *a) {
  lk_module *root = lk_model_root(a->model);
  int n = 0, turned = 0;
  for (lk_module *m = root; m; m = lk_module_walk(root, m)) {
    if (!lora_at(m, a) || m->site->kind != LK_SITE_LINEAR) continue;
    n++;
    turned += m->site->fan_in_fan_out;
  }
  return n && n == turned;
}

lk_status lk_peft_write_lora(const lk_adapter *a, const lk_peft_lora_settings *s, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  lk_peft_write_common(a, &lk_peft_lora, config);
  lk_json_set_int(c, config, "r", (int64_t)s->r);
  set_number(c, config, "lora_alpha", s->alpha);
  lk_json_set_real(c, config, "lora_dropout", s->dropout);
  lk_json_set_bool(c, config, "use_rslora", s->rslora);
  lk_json_set_bool(c, config, "use_dora", s->dora);
  lk_json_set_bool(c, config, "lora_bias", s->bias);
  return lk_json_set_bool(c, config, "fan_in_fan_out", is_fan_in_fan_out(a));
}

static lk_status write_config(const lk_adapter *a, lk_json *config) {
  shape s;
  take_apart(a->chain, &s);
  lk_peft_lora_settings settings = {.r = option(s.lora, "r"),
                                    .alpha = option(s.lora, "alpha"),
                                    .dropout = s.dropout ? option(s.dropout, "p") : option(s.lora, "dropout"),
                                    .rslora = option(s.lora, "rslora") != 0,
                                    .dora = s.magnitude != NULL,
                                    .bias = option(s.lora, "bias") != 0};
  lk_peft_write_lora(a, &settings, config);
  write_init(lk_model_ctx(a->model), s.lora, config);
  write_pattern(a, config, "rank_pattern", "r", option(s.lora, "r"));
  return write_pattern(a, config, "alpha_pattern", "alpha", option(s.lora, "alpha"));
}

/* ---- reading ---- */

static lk_status read_pattern(lk_peft_reading *r, const char *name, const char *key) {
  const lk_json *map = lk_json_get(r->config, name);
  const char *pattern;
  void *at = NULL;
  if (lk_json_type(map) <= LK_JSON_NULL) return LK_OK;
  if (lk_json_type(map) != LK_JSON_OBJECT) return lk_peft_mistyped(r->ctx, name, "an object", map);
  for (const lk_json *j; (j = lk_json_next(map, &at, &pattern)) && !lk_error(r->ctx, NULL);) {
    double value;
    if (!lk_json_is_real(j, &value)) return lk_peft_mistyped(r->ctx, name, "an object of numbers", j);
    const char *ours = lk_peft_keep(r, lk_sprintf(r->ctx, PEFT_BEGIN "%s)", pattern));
    const char *number = lk_peft_number(r, j);
    if (number) lk_peft_override(r, ours, lk_peft_keep(r, lk_sprintf(r->ctx, "%s=%s", key, number)));
  }
  return lk_error(r->ctx, NULL);
}

/* How each init_lora_weights is read: as one of ours, or not, because the base was changed in a way that cannot be
 * repeated from the file. */
static const struct {
  const char *name, *ours, *why_not;
} init_words[] = {
    {"gaussian", "gaussian", NULL},
    {"pissa", "pissa", NULL},
    {"olora", "olora", NULL},
    {"eva", "default", NULL},
    {"orthogonal", "default", NULL},
    {"mica", "default", NULL},
    {"corda", NULL, "its base weights were changed by a decomposition that needs the training data"},
    {"lora_ga", NULL, "its base weights were changed by a decomposition that needs gradients of the training data"},
    {"loftq", NULL, "its base weights were quantised"},
};

static const char *read_init(lk_peft_reading *r) {
  const lk_json *j = lk_json_get(r->config, "init_lora_weights");
  const char *word;
  int flag = 1;
  if (lk_json_type(j) <= LK_JSON_NULL || lk_json_is_bool(j, &flag)) return flag ? "default" : "random";
  if (!lk_json_is_string(j, &word)) {
    lk_peft_mistyped(r->ctx, "init_lora_weights", "true, false or a string", j);
    return NULL;
  }
  for (size_t i = 0; i < sizeof init_words / sizeof *init_words; i++) {
    if (strcmp(init_words[i].name, word)) continue;
    if (!init_words[i].ours)
      lk_fail(r->ctx, LK_EARG, "adapter_config.json: init_lora_weights '%s' is not supported: %s", word,
              init_words[i].why_not);
    if (!strcmp(word, "mica")) lk_warn(r->ctx, "adapter_load: init_lora_weights 'mica' freezes B; here it trains");
    return init_words[i].ours;
  }
  if (!strncmp(word, "pissa_niter_", 12))
    lk_fail(r->ctx, LK_EARG,
            "adapter_config.json: init_lora_weights '%.40s' is not supported: its base weights were "
            "changed by a random decomposition; save it with path_initial_model_for_weight_conversion",
            word);
  else lk_fail(r->ctx, LK_EARG, "adapter_config.json: init_lora_weights '%.60s' is unknown", word);
  return NULL;
}

const char *lk_peft_number_of(lk_peft_reading *r, const char *key, const char *missing) {
  const lk_json *j = lk_json_get(r->config, key);
  lk_json_real(r->ctx, r->config, key, 0); /* refuses another kind */
  return lk_json_type(j) <= LK_JSON_NULL || lk_error(r->ctx, NULL) ? missing : lk_peft_number(r, j);
}

static lk_status read_spec(lk_peft_reading *r) {
  lk_ctx *c = r->ctx;
  const char *init = read_init(r), *alpha = lk_peft_number_of(r, "lora_alpha", "8");
  const char *p = lk_peft_number_of(r, "lora_dropout", "0");
  int64_t rank = lk_json_int(c, r->config, "r", 8);
  int dora = lk_json_bool(c, r->config, "use_dora", 0), rslora = lk_json_bool(c, r->config, "use_rslora", 0);
  int bias = lk_json_bool(c, r->config, "lora_bias", 0);
  lk_json_bool(c, r->config, "fan_in_fan_out", 0); /* the layers know */
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  if (dora && bias) return lk_fail(c, LK_EARG, "adapter_config.json: lora_bias cannot be combined with use_dora");
  int plain = !strcmp(init, "default"), drops = strcmp(p, "0") != 0;
  const char *lora =
      lk_peft_keep(r, lk_sprintf(c, "lora r=%lld alpha=%s%s%s%s%s", (long long)rank, alpha, rslora ? " rslora" : "",
                                 bias ? " bias" : "", plain ? "" : " init=", plain ? "" : init));
  if (!lora) return lk_error(c, NULL);
  if (dora && drops) r->options.spec = lk_peft_keep(r, lk_sprintf(c, "dropout p=%s (%s | magnitude)", p, lora));
  else if (dora) r->options.spec = lk_peft_keep(r, lk_sprintf(c, "%s | magnitude", lora));
  else if (drops) r->options.spec = lk_peft_keep(r, lk_sprintf(c, "%s dropout=%s", lora, p));
  else r->options.spec = lora;
  return lk_error(c, NULL);
}

static lk_status read_config(lk_peft_reading *r) {
  if (lk_peft_read_common(r) || read_spec(r)) return lk_error(r->ctx, NULL);
  read_pattern(r, "rank_pattern", "r");
  return read_pattern(r, "alpha_pattern", "alpha");
}

static const lk_peft_key keys[] = {{"alora_invocation_tokens", LK_PEFT_OFF, "null"},
                                   {"alpha_pattern", LK_PEFT_USED, NULL},
                                   {"arrow_config", LK_PEFT_OFF, "null"},
                                   {"bias", LK_PEFT_USED, NULL},
                                   {"corda_config", LK_PEFT_INERT, "null"},
                                   {"ensure_weight_tying", LK_PEFT_OFF, "false"},
                                   {"eva_config", LK_PEFT_INERT, "null"},
                                   {"exclude_modules", LK_PEFT_USED, "null"},
                                   {"fan_in_fan_out", LK_PEFT_USED, NULL},
                                   {"init_lora_weights", LK_PEFT_USED, NULL},
                                   {"kasa_config", LK_PEFT_OFF, "null"},
                                   {"layer_replication", LK_PEFT_OFF, "null"},
                                   {"layers_pattern", LK_PEFT_USED, "null"},
                                   {"layers_to_transform", LK_PEFT_USED, "null"},
                                   {"loftq_config", LK_PEFT_INERT, "{}"},
                                   {"lora_alpha", LK_PEFT_USED, NULL},
                                   {"lora_bias", LK_PEFT_USED, NULL},
                                   {"lora_dropout", LK_PEFT_USED, NULL},
                                   {"lora_ga_config", LK_PEFT_INERT, "null"},
                                   {"megatron_config", LK_PEFT_INERT, "null"},
                                   {"megatron_core", LK_PEFT_INERT, "\"megatron.core\""},
                                   {"modules_to_save", LK_PEFT_USED, "null"},
                                   {"monteclora_config", LK_PEFT_OFF, "null"},
                                   {"qalora_group_size", LK_PEFT_INERT, "16"},
                                   {"r", LK_PEFT_USED, NULL},
                                   {"rank_pattern", LK_PEFT_USED, NULL},
                                   {"target_modules", LK_PEFT_USED, NULL},
                                   {"target_parameters", LK_PEFT_OFF, "null"},
                                   {"trainable_token_indices", LK_PEFT_OFF, "null"},
                                   {"use_bdlora", LK_PEFT_OFF, "null"},
                                   {"use_dora", LK_PEFT_USED, NULL},
                                   {"use_qalora", LK_PEFT_OFF, "false"},
                                   {"use_rslora", LK_PEFT_USED, NULL},
                                   {"velora_config", LK_PEFT_OFF, "null"},
                                   {0}};

const lk_peft_format lk_peft_lora = {.peft_type = "LORA",
                                     .prefix = "base_model.model.",
                                     .bias_only = "lora_only",
                                     .keys = keys,
                                     .fits = fits,
                                     .write_config = write_config,
                                     .read_config = read_config};
