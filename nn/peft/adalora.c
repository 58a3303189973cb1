/* adalora.c: PEFT's ADALORA: "adalora", to and from AdaLoraConfig.
 *
 *   "rank_pattern": {"<path>.lora_E": [true, false, ...]}     which of the init_r triplets the file holds
 *   base_model.model.<path>.lora_A [k, in], .lora_E [k, 1], .lora_B [out, k]     k of them, possibly 0
 *
 * Saving leaves the pruned triplets out; what is read with a rank_pattern is a trimmed adapter, whose ranks are final.
 * https://github.com/huggingface/peft, src/peft/tuners/adalora/config.py and model.py. */
#include "peft.h"

#include <string.h>

/* Our option, PEFT's key, its default there. */
static const struct {
  const char *option, *key;
  int64_t missing;
} counts[] = {{"target_r", "target_r", 8}, {"init_r", "init_r", 12}, {"tinit", "tinit", 0},
              {"tfinal", "tfinal", 0},     {"deltaT", "deltaT", 1},  {"total", "total_step", 0}};
static const struct {
  const char *option, *key, *missing;
} reals[] = {{"alpha", "lora_alpha", "8"},
             {"dropout", "lora_dropout", "0"},
             {"beta1", "beta1", "0.85"},
             {"beta2", "beta2", "0.85"},
             {"orth", "orth_reg_weight", "0.5"}};
enum { COUNTS = sizeof counts / sizeof *counts, REALS = sizeof reals / sizeof *reals };

/* PEFT gives all sites the same options; how many triplets are pruned is what rank_pattern is for. */
static int is_uniform(const lk_at *at) {
  for (const lk_opt *o = at->method->cls->opts; o->key; o++)
    if (strcmp(o->key, "pruned") && lk_at_option(at, o->key, 0) != lk_method_option(at->method, o->key, 0)) return 0;
  return 1;
}

/* PEFT reads no config without the number of steps. */
static int fits(const lk_adapter *a) {
  const lk_method *m = a->chain;
  if (m->cls != lk_adapter_find_class(NULL, "adalora") || *m->label || m->next) return 0;
  double total = lk_method_option(m, "total", 0);
  if (total <= 0 || lk_method_option(m, "tinit", 0) >= total - lk_method_option(m, "tfinal", 0)) return 0;
  for (lk_at *at = NULL; (at = lk_adapter_walk((lk_adapter *)a, at));)
    if (!is_uniform(at)) return 0;
  return 1;
}

/* The allocator's pattern and averages stay with us. */
static int holds(const lk_param *p) { return p->kind == LK_TRAINED; }

/* ---- trimming ---- */

/* A site's parameter by its name behind the path. */
static lk_param *find(const lk_at *at, const char *name) {
  size_t path = strlen(lk_at_path(at)) + 1, n = strlen(name);
  for (lk_param *p = at->params; p; p = p->next)
    if (!strncmp(p->name + path, name, n) && (!p->name[path + n] || p->name[path + n] == '@')) return p;
  return NULL;
}

/* Is triplet i of the init_r ones in the file?  A pruned one too if its value has come back after the last ranking: the
 * file computes what the adapter does.  Of a trimmed site the first ones are. */
static int is_kept(const lk_at *at, int64_t i) {
  const lk_param *kept = find(at, "rank_pattern"), *E = find(at, "lora_E");
  if (!kept) return i < E->value.shape[0];
  return lk_view_get(&kept->value, i) != 0 || lk_view_get(&E->value, i) != 0;
}

static int64_t init_rank(const lk_at *at) { return (int64_t)lk_at_option(at, "init_r", 0); }

static int64_t kept_at(const lk_at *at) {
  int64_t n = 0;
  for (int64_t i = 0; i < init_rank(at); i++) n += is_kept(at, i);
  return n;
}

/* A copy of p with the kept rows, or columns of lora_B; the caller's. */
static lk_param *trimmed(lk_at *at, const lk_param *p, int axis) {
  lk_view v = p->value;
  const int64_t r = v.shape[axis], k = kept_at(at);
  v.shape[axis] = k;
  lk_param *to = lk_param_new(p->ctx, p->name, p->kind, v.dtype, v.ndim, v.shape);
  if (!to) return NULL;
  to->owner = at;
  for (int64_t i = 0, n = 0; i < r; i++) {
    if (!is_kept(at, i)) continue;
    for (int64_t j = 0; j < v.shape[1 - axis]; j++)
      lk_view_set(&to->value, axis ? j * k + n : n * v.shape[1] + j,
                  lk_view_get(&p->value, axis ? j * r + i : i * v.shape[1] + j));
    n++;
  }
  return to;
}

static lk_status make(lk_adapter *a, lk_param **made) {
  static const char *const names[] = {"lora_A", "lora_E", "lora_B"};
  lk_ctx *c = lk_model_ctx(a->model);
  for (lk_at *at = NULL; (at = lk_adapter_walk(a, at));) {
    if (!find(at, "rank_pattern")) return LK_OK; /* trimmed already */
    for (int i = 0; i < 3; i++) {
      *made = trimmed(at, find(at, names[i]), i == 2);
      if (!*made) return lk_error(c, NULL);
      made = &(*made)->next;
    }
  }
  return lk_error(c, NULL);
}

/* ---- writing ---- */

static lk_json *pattern_at(const lk_at *at) {
  lk_ctx *c = lk_at_ctx(at);
  lk_json *list = lk_json_array(c);
  for (int64_t i = 0; list && i < init_rank(at); i++) lk_json_set_bool(c, list, NULL, is_kept(at, i));
  return list;
}

/* The pattern under both paths that a module may have; null as long as everything is kept. */
static lk_status write_pattern(const lk_adapter *a, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  int pruned = lk_method_option(a->chain, "trimmed", 0) != 0;
  for (lk_at *at = NULL; (at = lk_adapter_walk((lk_adapter *)a, at));) pruned |= kept_at(at) < init_rank(at);
  if (!pruned) return lk_json_set_null(c, config, "rank_pattern");
  lk_json *map = lk_json_object(c);
  for (lk_at *at = NULL; map && (at = lk_adapter_walk((lk_adapter *)a, at)) && !lk_error(c, NULL);)
    for (const char *path = lk_at_path(at); path; path = path == lk_at_path(at) ? at->site->module->also : NULL) {
      char *key = lk_sprintf(c, "%s.lora_E", path);
      if (key) lk_json_set(c, map, key, pattern_at(at));
      lk_free(c, key);
    }
  return lk_json_set(c, config, "rank_pattern", map);
}

static lk_status write_config(const lk_adapter *a, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  const lk_method *m = a->chain;
  const lk_peft_lora_settings settings = {
      .r = 8, .alpha = lk_method_option(m, "alpha", 0), .dropout = lk_method_option(m, "dropout", 0)};
  char *init = lk_peft_word(c, m, "init");
  lk_peft_write_lora(a, &settings, config);
  for (int i = 0; i < COUNTS; i++)
    lk_json_set_int(c, config, counts[i].key, (int64_t)lk_method_option(m, counts[i].option, 0));
  for (int i = 2; i < REALS; i++) lk_json_set_real(c, config, reals[i].key, lk_method_option(m, reals[i].option, 0));
  if (init) lk_json_set_bool(c, config, "init_lora_weights", !strcmp(init, "default"));
  lk_free(c, init);
  return write_pattern(a, config);
}

/* ---- reading ---- */

/* One entry of rank_pattern as an override "pruned=n" for its module. */
static lk_status read_site(lk_peft_reading *r, const char *key, const lk_json *list) {
  static const char end[] = ".lora_E";
  const size_t n = strlen(key), k = sizeof end - 1;
  int64_t rank = lk_json_int(r->ctx, r->config, "init_r", 12), pruned = 0;
  if (n <= k || strcmp(key + n - k, end))
    return lk_fail(r->ctx, LK_EFORMAT, "adapter_config.json: rank_pattern: '%.200s' is no '<module>.lora_E'", key);
  if (lk_json_type(list) != LK_JSON_ARRAY) return lk_peft_mistyped(r->ctx, "rank_pattern", "an object of lists", list);
  if ((int64_t)lk_json_count(list) != rank)
    return lk_fail(r->ctx, LK_EFORMAT, "adapter_config.json: rank_pattern: '%.200s' has %zu entries, init_r is %lld",
                   key, lk_json_count(list), (long long)rank);
  for (size_t i = 0; i < lk_json_count(list); i++) {
    int kept;
    if (!lk_json_is_bool(lk_json_at(list, i), &kept))
      return lk_peft_mistyped(r->ctx, "rank_pattern", "an object of lists of booleans", lk_json_at(list, i));
    pruned += !kept;
  }
  char *path = lk_strndup(r->ctx, key, n - k), *escaped = path ? lk_peft_escape(r->ctx, path) : NULL;
  if (escaped && pruned)
    lk_peft_override(r, lk_peft_keep(r, lk_sprintf(r->ctx, "re:%s", escaped)),
                     lk_peft_keep(r, lk_sprintf(r->ctx, "pruned=%lld", (long long)pruned)));
  lk_free(r->ctx, escaped);
  lk_free(r->ctx, path);
  return lk_error(r->ctx, NULL);
}

/* 1 if there is a pattern. */
static int read_pattern(lk_peft_reading *r) {
  const lk_json *map = lk_json_get(r->config, "rank_pattern");
  const char *key;
  void *at = NULL;
  if (lk_json_type(map) <= LK_JSON_NULL || lk_json_count(map) == 0) return 0;
  if (lk_json_type(map) != LK_JSON_OBJECT) lk_peft_mistyped(r->ctx, "rank_pattern", "an object", map);
  for (const lk_json *j; (j = lk_json_next(map, &at, &key)) && !lk_error(r->ctx, NULL);) read_site(r, key, j);
  return 1;
}

/* Any text means the default to PEFT. */
static int is_random(lk_peft_reading *r) {
  const lk_json *j = lk_json_get(r->config, "init_lora_weights");
  const char *word;
  int flag = 1;
  if (lk_json_type(j) > LK_JSON_NULL && !lk_json_is_bool(j, &flag) && !lk_json_is_string(j, &word))
    lk_peft_mistyped(r->ctx, "init_lora_weights", "true, false or a string", j);
  return !flag;
}

static lk_status check_schedule(lk_peft_reading *r) {
  lk_ctx *c = r->ctx;
  int64_t total = lk_json_int(c, r->config, "total_step", 0), tinit = lk_json_int(c, r->config, "tinit", 0);
  int64_t tfinal = lk_json_int(c, r->config, "tfinal", 0);
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  if (total <= 0)
    return lk_fail(c, LK_EARG, "adapter_config.json: total_step must be the number of training steps, above 0");
  if (tinit < total - tfinal) return LK_OK;
  return lk_fail(c, LK_EARG,
                 "adapter_config.json: no step is left for lowering the rank: tinit = %lld, total_step - tfinal = %lld "
                 "- %lld",
                 (long long)tinit, (long long)total, (long long)tfinal);
}

static lk_status read_config(lk_peft_reading *r) {
  lk_ctx *c = r->ctx;
  if (lk_peft_read_common(r) || check_schedule(r)) return lk_error(c, NULL);
  char *spec = lk_sprintf(c, "adalora%s", is_random(r) ? " init=random" : "");
  for (int i = 0; spec && i < COUNTS + REALS; i++) {
    char *before = spec;
    const char *real = i < COUNTS ? NULL : lk_peft_number_of(r, reals[i - COUNTS].key, reals[i - COUNTS].missing);
    if (i < COUNTS)
      spec = lk_sprintf(c, "%s %s=%lld", before, counts[i].option,
                        (long long)lk_json_int(c, r->config, counts[i].key, counts[i].missing));
    else spec = lk_sprintf(c, "%s %s=%s", before, reals[i - COUNTS].option, real ? real : "");
    lk_free(c, before);
  }
  lk_peft_keep(r, spec);
  lk_json_bool(c, r->config, "fan_in_fan_out", 0); /* the layers know */
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  r->options.spec = read_pattern(r) ? lk_peft_keep(r, lk_sprintf(c, "%s trimmed", spec)) : spec;
  return lk_error(c, NULL);
}

static const lk_peft_key keys[] = {{"alora_invocation_tokens", LK_PEFT_OFF, "null"},
                                   {"alpha_pattern", LK_PEFT_INERT, "{}"},
                                   {"arrow_config", LK_PEFT_OFF, "null"},
                                   {"beta1", LK_PEFT_USED, NULL},
                                   {"beta2", LK_PEFT_USED, NULL},
                                   {"bias", LK_PEFT_USED, NULL},
                                   {"corda_config", LK_PEFT_INERT, "null"},
                                   {"deltaT", LK_PEFT_USED, NULL},
                                   {"ensure_weight_tying", LK_PEFT_OFF, "false"},
                                   {"eva_config", LK_PEFT_INERT, "null"},
                                   {"exclude_modules", LK_PEFT_USED, "null"},
                                   {"fan_in_fan_out", LK_PEFT_USED, NULL},
                                   {"init_lora_weights", LK_PEFT_USED, NULL},
                                   {"init_r", LK_PEFT_USED, NULL},
                                   {"kasa_config", LK_PEFT_OFF, "null"},
                                   {"layer_replication", LK_PEFT_OFF, "null"},
                                   {"layers_pattern", LK_PEFT_USED, "null"},
                                   {"layers_to_transform", LK_PEFT_USED, "null"},
                                   {"loftq_config", LK_PEFT_OFF, "{}"},
                                   {"lora_alpha", LK_PEFT_USED, NULL},
                                   {"lora_bias", LK_PEFT_INERT, "false"},
                                   {"lora_dropout", LK_PEFT_USED, NULL},
                                   {"lora_ga_config", LK_PEFT_INERT, "null"},
                                   {"megatron_config", LK_PEFT_INERT, "null"},
                                   {"megatron_core", LK_PEFT_INERT, "\"megatron.core\""},
                                   {"modules_to_save", LK_PEFT_USED, "null"},
                                   {"monteclora_config", LK_PEFT_OFF, "null"},
                                   {"orth_reg_weight", LK_PEFT_USED, NULL},
                                   {"qalora_group_size", LK_PEFT_INERT, "16"},
                                   {"r", LK_PEFT_INERT, "8"},
                                   {"rank_pattern", LK_PEFT_USED, NULL},
                                   {"target_modules", LK_PEFT_USED, NULL},
                                   {"target_parameters", LK_PEFT_OFF, "null"},
                                   {"target_r", LK_PEFT_USED, NULL},
                                   {"tfinal", LK_PEFT_USED, NULL},
                                   {"tinit", LK_PEFT_USED, NULL},
                                   {"total_step", LK_PEFT_USED, NULL},
                                   {"trainable_token_indices", LK_PEFT_OFF, "null"},
                                   {"use_bdlora", LK_PEFT_OFF, "null"},
                                   {"use_dora", LK_PEFT_OFF, "false"},
                                   {"use_qalora", LK_PEFT_OFF, "false"},
                                   {"use_rslora", LK_PEFT_INERT, "false"},
                                   {"velora_config", LK_PEFT_OFF, "null"},
                                   {0}};

const lk_peft_format lk_peft_adalora = {.peft_type = "ADALORA",
                                        .prefix = "base_model.model.",
                                        .bias_only = "lora_only",
                                        .keys = keys,
                                        .holds = holds,
                                        .make = make,
                                        .fits = fits,
                                        .write_config = write_config,
                                        .read_config = read_config};
