/* match.c: which sites a list of target patterns means. */
#include "model.h"
#include "regex.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- patterns ---- */

/* Does a regular expression match the whole path? */
static int regex_match(lk_ctx *c, const char *pattern, const char *path) {
  size_t start, end;
  lk_regex *r = lk_regex_new(c, LK_EARG, "", pattern, LK_REGEX_WHOLE);
  int found = r && lk_regex_find(r, path, strlen(path), 0, &start, &end);
  lk_regex_free(r);
  return found;
}

int lk_match(lk_ctx *c, const char *pattern, const char *path) {
  if (!strncmp(pattern, "re:", 3)) return regex_match(c, pattern + 3, path);
  for (const char *part = path; part; part = strchr(part, '.')) {
    part += *part == '.';
    if (!fnmatch(pattern, part, 0)) return 1;
  }
  return 0;
}

int lk_match_module(lk_ctx *c, const char *pattern, const lk_module *m) {
  return lk_match(c, pattern, m->path) || (m->also && lk_match(c, pattern, m->also));
}

char *lk_pattern_next(lk_ctx *c, const char **list) {
  const char *s = *list ? *list + strspn(*list, ", \t\n") : "";
  size_t n = !strncmp(s, "re:", 3) ? strlen(s) : strcspn(s, ", \t\n");
  *list = s + n;
  return n ? lk_strndup(c, s, n) : NULL;
}

int lk_suffix_match(lk_ctx *c, const char *suffixes, const char *path) {
  int found = 0;
  for (char *s; suffixes && (s = lk_pattern_next(c, &suffixes)); lk_free(c, s)) {
    size_t n = strlen(s), all = strlen(path);
    found |= n <= all && !strcmp(path + all - n, s);
  }
  return found;
}

/* ---- which layer a path belongs to ---- */

/* The number that a part of a path consists of; -1 if it is none, or the last part. */
static int part_number(const char *part) {
  size_t n = strspn(part, "0123456789");
  long long number = n && part[n] == '.' ? strtoll(part, NULL, 10) : -1;
  return number <= INT_MAX ? (int)number : -1;
}

/* Does the text of length n end with '.' and the pattern of length k? */
static int ends_with(const char *text, size_t n, const char *pattern, size_t k) {
  return n > k && text[n - k - 1] == '.' && !strncmp(text + n - k, pattern, k);
}

/* The first number in the path that stands right behind the pattern (length k), or, without one, behind two parts. */
static int layer_behind(const char *path, const char *pattern, size_t k) {
  int position = 0;
  for (const char *part = path; part; part = strchr(part, '.'), position++) {
    part += *part == '.';
    int number = position >= 2 ? part_number(part) : -1;
    if (number >= 0 && (!pattern || ends_with(path, (size_t)(part - path) - 1, pattern, k))) return number;
  }
  return -1;
}

/* The layer of a path by the rules of PEFT's layers_to_transform and layers_pattern; -1: none. */
static int layer_of(const char *path, const char *patterns) {
  static const char separators[] = ", \t\n";
  if (!patterns) return layer_behind(path, NULL, 0);
  for (const char *s = patterns; *(s += strspn(s, separators)); s += strcspn(s, separators)) {
    int layer = layer_behind(path, s, strcspn(s, separators));
    if (layer >= 0) return layer;
  }
  return -1;
}

static int layer_wanted(const lk_attach_options *o, const char *path) {
  if (!o->nlayers) return 1;
  int layer = layer_of(path, o->layers_pattern);
  for (int i = 0; i < o->nlayers; i++)
    if (layer >= 0 && o->layers[i] == layer) return 1;
  return 0;
}

/* ---- targets ---- */

static int is_all_linear(const char *pattern) { return !strcasecmp(pattern, "all-linear"); }

/* Is the path in or below a module that is saved whole? */
static int below_saved(lk_ctx *c, const char *saved, const char *path) {
  int found = 0;
  for (char *s; saved && (s = lk_pattern_next(c, &saved)); lk_free(c, s)) {
    size_t n = strlen(s);
    for (const char *p = path; p; p = strchr(p, '.')) {
      p += *p == '.';
      found |= !strncmp(p, s, n) && (p[n] == 0 || p[n] == '.');
    }
  }
  return found;
}

static int excluded(lk_ctx *c, const lk_attach_options *o, const lk_module *m) {
  const char *list = o->exclude;
  int found = below_saved(c, o->modules_to_save, m->path);
  for (char *s; list && (s = lk_pattern_next(c, &list)); lk_free(c, s)) found |= lk_match_module(c, s, m);
  return found;
}

static int hits(lk_ctx *c, const lk_attach_options *o, const char *pattern, lk_site *site) {
  const lk_module *m = site->module;
  if (is_all_linear(pattern)) return site->kind == LK_SITE_LINEAR && !site->head && layer_wanted(o, m->path);
  if (!lk_match_module(c, pattern, m)) return 0;
  int exact = !strcmp(pattern, m->path) || (m->also && !strcmp(pattern, m->also)) || !strncmp(pattern, "re:", 3);
  return exact || layer_wanted(o, m->path) || (m->also && layer_wanted(o, m->also));
}

/* Levenshtein distance, up to 63 characters of each. */
static int distance(const char *a, const char *b) {
  int row[64], n = (int)strnlen(b, 63);
  for (int j = 0; j <= n; j++) row[j] = j;
  for (int i = 1; a[i - 1]; i++) {
    int diagonal = row[0];
    row[0] = i;
    for (int j = 1; j <= n; j++) {
      int best = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      if (row[j] + 1 < best) best = row[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      row[j] = best;
    }
  }
  return row[n];
}

/* The three different last names of sites that are closest to a pattern, as "'query', 'key'". */
static void closest(lk_model *model, const char *pattern, char *text, size_t size) {
  const char *best[3] = {NULL, NULL, NULL};
  const char *dot = strrchr(pattern, '.'), *want = dot ? dot + 1 : pattern;
  for (lk_module *m = &model->root; m; m = lk_module_walk(&model->root, m)) {
    if (!m->site) continue;
    const char *last = strrchr(m->path, '.'), *name = last ? last + 1 : m->path;
    for (int i = 0; i < 3; i++) {
      if (best[i] && !strcmp(best[i], name)) break;
      if (best[i] && distance(want, name) >= distance(want, best[i])) continue;
      for (int j = 2; j > i; j--) best[j] = best[j - 1];
      best[i] = name;
      for (int j = i + 1; j < 3; j++)
        if (best[j] && !strcmp(best[j], name)) best[j] = NULL;
      break;
    }
  }
  size_t used = 0;
  text[0] = 0;
  for (int i = 0; i < 3 && used < size; i++)
    if (best[i]) used += (size_t)snprintf(text + used, size - used, "%s'%s'", used ? ", " : "", best[i]);
}

/* Marks the sites that one pattern hits; the number of hits. */
static int mark_hits(lk_model *model, const lk_attach_options *o, const char *pattern, lk_site **sites, int n,
                     char *marked) {
  lk_ctx *c = model->root.ctx;
  int found = 0;
  for (int i = 0; i < n && !lk_error(c, NULL); i++) {
    if (!hits(c, o, pattern, sites[i])) continue;
    found++;
    if (!excluded(c, o, sites[i]->module)) marked[i] = 1;
  }
  return found;
}

/* A pattern without a match is an error, for foreign files a warning. */
static void complain(lk_model *model, const lk_attach_options *o, const char *pattern, lk_site **sites, int n) {
  static const char none[] = "matches no module that can be adapted; close: ";
  lk_ctx *c = model->root.ctx;
  char text[300];
  lk_attach_options all_layers = *o;
  int elsewhere = 0;
  all_layers.nlayers = 0;
  for (int i = 0; o->nlayers && i < n; i++) elsewhere |= hits(c, &all_layers, pattern, sites[i]);
  if (elsewhere) strcpy(text, "matches no module in the layers that are asked for");
  else strcpy(text, none);
  if (!elsewhere) closest(model, pattern, text + sizeof none - 1, sizeof text - sizeof none);
  if (o->lenient) lk_warn(c, "attach: target '%s' %s", pattern, text);
  else lk_fail(c, LK_EARG, "attach: target '%s' %s", pattern, text);
}

static lk_status mark_all(lk_model *model, const lk_attach_options *o, lk_site **sites, int n, char *marked) {
  lk_ctx *c = model->root.ctx;
  const char *list = o->targets;
  int patterns = 0;
  for (char *p; (p = lk_pattern_next(c, &list)); lk_free(c, p)) {
    patterns++;
    if (!mark_hits(model, o, p, sites, n, marked) && !lk_error(c, NULL)) complain(model, o, p, sites, n);
  }
  if (!patterns) return lk_fail(c, LK_EARG, "attach: no targets are given");
  return lk_error(c, NULL);
}

/* A pattern that excludes nothing is probably a slip. */
static void check_excludes(lk_model *model, const lk_attach_options *o, lk_site **sites, int n) {
  lk_ctx *c = model->root.ctx;
  const char *list = o->exclude;
  for (char *p; list && (p = lk_pattern_next(c, &list)); lk_free(c, p)) {
    int found = 0;
    for (int i = 0; i < n && !found; i++) found = lk_match_module(c, p, sites[i]->module);
    if (!found && !lk_error(c, NULL)) lk_warn(c, "attach: '%s' excludes nothing", p);
  }
}

lk_status lk_match_targets(lk_model *model, const lk_attach_options *o, lk_target_match *match) {
  lk_ctx *c = model->root.ctx;
  lk_site **sites = NULL;
  size_t capacity = 0;
  int n = 0, kept = 0;
  for (lk_module *m = &model->root; m; m = lk_module_walk(&model->root, m)) {
    if (!m->site) continue;
    if (lk_grow(c, &sites, &capacity, (size_t)n + 1, sizeof *sites)) break;
    sites[n++] = m->site;
  }
  char *marked = lk_alloc(c, (size_t)n + 1);
  if (marked && !mark_all(model, o, sites, n, marked)) {
    check_excludes(model, o, sites, n);
    for (int i = 0; i < n; i++)
      if (marked[i]) sites[kept++] = sites[i];
    if (!kept) lk_fail(c, LK_EARG, "attach: the targets '%s' leave no module to adapt", o->targets);
  }
  lk_free(c, marked);
  *match = (lk_target_match){sites, kept};
  if (!lk_error(c, NULL)) return LK_OK;
  lk_free(c, sites);
  match->sites = NULL;
  return lk_error(c, NULL);
}
