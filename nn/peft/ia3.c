/* ia3.c: PEFT's IA3: "ia3", with `ff` at the sites that feedforward_modules names, to and from IA3Config.
 *
 * https://github.com/huggingface/peft, src/peft/tuners/ia3/config.py.  A list there holds ends of paths (not only after a
 * dot), which must stand in target_modules too; a string is a regular expression for the whole path. */
#include "peft.h"

#include <string.h>

static int is_ff(const lk_at *at) { return lk_at_option(at, "ff", 0) != 0; }

static int fits(const lk_adapter *a) {
  const lk_attach_options *o = a->options;
  const lk_method *m = a->chain;
  if (m->cls != lk_adapter_find_class(NULL, "ia3") || *m->label || m->next) return 0;
  return o->bias == LK_BIAS_NONE && !o->nlayers;
}

/* ---- writing ---- */

static int ends_with(const char *path, const char *end) {
  size_t n = strlen(path), k = strlen(end);
  return k <= n && !strcmp(path + n - k, end);
}

/* How many sites with `ff` or without it does PEFT see at the end `name`, or with NULL at all? */
static int count(const lk_adapter *a, const char *name, int ff) {
  int n = 0;
  for (lk_at *at = NULL; (at = lk_adapter_walk((lk_adapter *)a, at));) {
    const lk_module *m = at->site->module;
    if (is_ff(at) == ff) n += !name || ends_with(m->path, name) || (m->also && ends_with(m->also, name));
  }
  return n;
}

/* The targets at which all sites have `ff`; NULL if they do not reach all such sites, or on error. */
static lk_json *targets_with_ff(const lk_adapter *a, const lk_json *targets) {
  lk_ctx *c = lk_model_ctx(a->model);
  lk_json *array = lk_json_array(c);
  int reached = 0;
  const char *name;
  for (size_t i = 0; array && i < lk_json_count(targets); i++) {
    if (!lk_json_is_string(lk_json_at(targets, i), &name) || count(a, name, 0) || !count(a, name, 1)) continue;
    reached += count(a, name, 1);
    lk_json_set_string(c, array, NULL, name);
  }
  if (reached >= count(a, NULL, 1)) return array;
  lk_json_free(array);
  return NULL;
}

/* "a|b|c" of the whole paths of the sites with `ff`; the caller's. */
static char *paths_with_ff(const lk_adapter *a) {
  lk_ctx *c = lk_model_ctx(a->model);
  char *regex = NULL;
  for (lk_at *at = NULL; (at = lk_adapter_walk((lk_adapter *)a, at)) && !lk_error(c, NULL);) {
    const lk_module *m = at->site->module;
    for (const char *path = is_ff(at) ? m->path : NULL; path; path = path == m->path ? m->also : NULL) {
      char *escaped = lk_peft_escape(c, path), *before = regex;
      regex = escaped ? lk_sprintf(c, "%s%s%s", before ? before : "", before ? "|" : "", escaped) : NULL;
      lk_free(c, escaped);
      lk_free(c, before);
    }
  }
  return regex;
}

static lk_status write_config(const lk_adapter *a, lk_json *config) {
  static const char key[] = "feedforward_modules";
  lk_ctx *c = lk_model_ctx(a->model);
  lk_module *root = lk_model_root(a->model);
  int turned = 0;
  lk_peft_write_common(a, &lk_peft_ia3, config);
  lk_json_remove(config, "layers_pattern");
  lk_json_remove(config, "layers_to_transform");
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    turned |= m->site && m->site->fan_in_fan_out && lk_site_chain(m->site, a);
  lk_json_set_bool(c, config, "fan_in_fan_out", turned); /* PEFT corrects it layer by layer */
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  lk_json *list = targets_with_ff(a, lk_json_get(config, "target_modules"));
  char *regex = list || lk_error(c, NULL) ? NULL : paths_with_ff(a);
  if (list) lk_json_set(c, config, key, list);
  if (regex) lk_json_set_string(c, config, key, regex);
  lk_free(c, regex);
  return lk_error(c, NULL);
}

/* ---- reading ---- */

static lk_status read_config(lk_peft_reading *r) {
  static const char key[] = "feedforward_modules";
  lk_ctx *c = r->ctx;
  const lk_json *j = lk_json_get(r->config, key);
  const char *text;
  if (lk_peft_read_common(r)) return lk_error(c, NULL);
  lk_json_bool(c, r->config, "fan_in_fan_out", 0); /* the layers know */
  r->options.spec = "ia3";
  if (lk_json_is_string(j, &text)) return lk_peft_override(r, lk_peft_keep(r, lk_sprintf(c, "re:%s", text)), "ff");
  if (lk_json_type(j) > LK_JSON_NULL && lk_json_type(j) != LK_JSON_ARRAY)
    return lk_peft_mistyped(c, key, "a list of strings or a string", j);
  for (size_t i = 0; i < lk_json_count(j) && !lk_error(c, NULL); i++) {
    if (!lk_json_is_string(lk_json_at(j, i), &text))
      return lk_peft_mistyped(c, key, "a list of strings", lk_json_at(j, i));
    if (!*text || strpbrk(text, ", \t\r\n*?[\\"))
      return lk_fail(c, LK_EARG, "adapter_config.json: %s: '%.80s' cannot be the name of a module", key, text);
    lk_peft_override(r, lk_peft_keep(r, lk_sprintf(c, "*%s", text)), "ff");
  }
  return lk_error(c, NULL);
}

static const lk_peft_key keys[] = {{"exclude_modules", LK_PEFT_USED, "null"},
                                   {"fan_in_fan_out", LK_PEFT_USED, NULL},
                                   {"feedforward_modules", LK_PEFT_USED, NULL},
                                   {"init_ia3_weights", LK_PEFT_INERT, "true"},
                                   {"modules_to_save", LK_PEFT_USED, "null"},
                                   {"target_modules", LK_PEFT_USED, NULL},
                                   {0}};

const lk_peft_format lk_peft_ia3 = {.peft_type = "IA3",
                                    .prefix = "base_model.model.",
                                    .keys = keys,
                                    .fits = fits,
                                    .write_config = write_config,
                                    .read_config = read_config};
