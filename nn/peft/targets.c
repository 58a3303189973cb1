/* targets.c: target_modules for PEFT's rules: a list of names, each a whole path or an end of one after a dot, or one
 * regular expression for the whole path.  Our patterns can say more, and only see modules that can be adapted. */
#include "peft.h"

#include <string.h>

char *lk_peft_escape(lk_ctx *c, const char *path) {
  size_t n = 0;
  char *text = lk_alloc(c, 2 * strlen(path) + 1);
  for (; text && *path; path++) {
    if (strchr("\\.^$|()[]{}*+?", *path)) text[n++] = '\\';
    text[n++] = *path;
  }
  return text;
}

/* Can PEFT read these patterns: only names, or only one regular expression? */
static int is_peft_list(lk_ctx *c, const char *list) {
  int n = 0, regex = 0, wild = 0;
  for (char *p; list && (p = lk_pattern_next(c, &list)); lk_free(c, p)) {
    n++;
    regex += !strncmp(p, "re:", 3);
    wild += strncmp(p, "re:", 3) && (strpbrk(p, "*?[\\") || !strcasecmp(p, "all-linear"));
  }
  return !wild && (!regex || n == 1);
}

static int matches(lk_ctx *c, const char *list, const char *path) {
  int found = 0;
  for (char *p; list && (p = lk_pattern_next(c, &list)); lk_free(c, p)) found |= lk_match(c, p, path);
  return found;
}

static int is_adapted(const lk_adapter *a, const lk_module *m) { return m->site && lk_site_chain(m->site, a); }

/* Do the adapter's own patterns say the same to PEFT, which fails on a module that it cannot adapt? */
static int hold_as_written(const lk_adapter *a) {
  lk_module *root = lk_model_root(a->model);
  const lk_attach_options *o = a->options;
  int same = is_peft_list(root->ctx, a->targets) && is_peft_list(root->ctx, o->exclude);
  for (lk_module *m = root; m && same; m = lk_module_walk(root, m))
    if (!m->site) same = !matches(root->ctx, a->targets, m->path) || matches(root->ctx, o->exclude, m->path);
  return same;
}

/* "a,b" as a list of strings, "re:x" as a string, NULL as null. */
static lk_status set_patterns(lk_ctx *c, lk_json *config, const char *key, const char *list) {
  if (!list || !*list) return lk_json_set_null(c, config, key);
  if (!strncmp(list, "re:", 3)) return lk_json_set_string(c, config, key, list + 3);
  lk_json *array = lk_json_array(c);
  for (char *p; array && (p = lk_pattern_next(c, &list)); lk_free(c, p)) lk_json_set_string(c, array, NULL, p);
  return lk_json_set(c, config, key, array);
}

static lk_status write_as_written(const lk_adapter *a, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  const lk_attach_options *o = a->options;
  set_patterns(c, config, "target_modules", a->targets);
  set_patterns(c, config, "exclude_modules", o->exclude);
  set_patterns(c, config, "layers_pattern", o->layers_pattern);
  return lk_peft_write_layers(a, config, "layers_to_transform");
}

/* Is an adapted module's whole path the end of another one's, which is not adapted? */
static int paths_hit_others(const lk_adapter *a) {
  lk_module *root = lk_model_root(a->model);
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    for (lk_module *k = is_adapted(a, m) ? root : NULL; k; k = lk_module_walk(root, k))
      if (!is_adapted(a, k) && lk_match(root->ctx, m->path, k->path)) return 1;
  return 0;
}

/* The paths of the adapted modules, as a list or as the regular expression "a|b|c". */
static lk_status write_paths(const lk_adapter *a, lk_json *config, int as_regex) {
  lk_module *root = lk_model_root(a->model);
  lk_ctx *c = root->ctx;
  lk_json *array = lk_json_array(c);
  char *regex = NULL;
  for (lk_module *m = root; m && array && !lk_error(c, NULL); m = lk_module_walk(root, m)) {
    if (!is_adapted(a, m)) continue;
    char *escaped = lk_peft_escape(c, m->path);
    char *longer = escaped ? lk_sprintf(c, "%s%s%s", regex ? regex : "", regex ? "|" : "", escaped) : NULL;
    lk_json_set_string(c, array, NULL, m->path);
    lk_free(c, escaped);
    lk_free(c, regex);
    regex = longer;
  }
  if (as_regex && regex) lk_json_set_string(c, config, "target_modules", regex);
  lk_free(c, regex);
  if (!as_regex) return lk_json_set(c, config, "target_modules", array);
  lk_json_free(array);
  return lk_error(c, NULL);
}

/* The last part of a path. */
static const char *last_name(const char *path) {
  const char *dot = strrchr(path, '.');
  return dot ? dot + 1 : path;
}

/* May the last part stand for the other paths of all adapted modules that end so, and of no others? */
static int says_the_same(const lk_adapter *a, const char *name) {
  lk_module *root = lk_model_root(a->model);
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    if (m->also && !strcmp(last_name(m->also), name) && !is_adapted(a, m)) return 0;
  return !a->options->nlayers;
}

static int holds(const lk_json *array, const char *text) {
  const char *s;
  for (size_t i = 0; i < lk_json_count(array); i++)
    if (lk_json_is_string(lk_json_at(array, i), &s) && !strcmp(s, text)) return 1;
  return 0;
}

/* Adds the other paths of the adapted modules, which PEFT sees in newer versions of transformers, to a list of targets;
 * to a regular expression as further branches. */
static lk_status add_other_paths(const lk_adapter *a, lk_json *config) {
  lk_module *root = lk_model_root(a->model);
  lk_ctx *c = root->ctx;
  lk_json *targets = lk_json_get(config, "target_modules");
  const char *regex;
  char *longer = NULL;
  for (lk_module *m = root; m && !lk_error(c, NULL); m = lk_module_walk(root, m)) {
    if (!m->also || !is_adapted(a, m)) continue;
    const char *name = says_the_same(a, last_name(m->also)) ? last_name(m->also) : m->also;
    if (!lk_json_is_string(targets, &regex)) {
      if (!holds(targets, name)) lk_json_set_string(c, targets, NULL, name);
      continue;
    }
    char *escaped = lk_peft_escape(c, m->also), *before = longer;
    longer = escaped ? lk_sprintf(c, "%s|%s", before ? before : regex, escaped) : NULL;
    lk_free(c, escaped);
    lk_free(c, before);
  }
  if (longer) lk_json_set_string(c, config, "target_modules", longer);
  lk_free(c, longer);
  return lk_error(c, NULL);
}

lk_status lk_peft_write_targets(const lk_adapter *a, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  set_patterns(c, config, "modules_to_save", a->options->modules_to_save);
  if (hold_as_written(a)) write_as_written(a, config);
  else write_paths(a, config, paths_hit_others(a));
  return lk_error(c, NULL) ? lk_error(c, NULL) : add_other_paths(a, config);
}
