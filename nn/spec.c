/* spec.c: the language of adapters: "dropout p=0.1 (lora:first r=8 rslora | magnitude)". */
#include "model.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- options by their table ---- */

static const lk_opt *find_opt(const lk_adapter_class *cls, const char *key, size_t n) {
  for (const lk_opt *o = cls->opts; o && o->key; o++)
    if (strlen(o->key) == n && !strncmp(o->key, key, n)) return o;
  return NULL;
}

/* Index of a word in "a|b|c", or -1. */
static int find_word(const char *words, const char *word) {
  size_t n = strlen(word);
  for (int i = 0;; i++) {
    size_t k = strcspn(words, "|");
    if (k == n && !strncmp(words, word, n)) return i;
    if (!words[k]) return -1;
    words += k + 1;
  }
}

static void store(const lk_opt *o, void *cfg, double value) {
  char *p = (char *)cfg + o->offset;
  int whole = (int)value;
  if (o->type == LK_OPT_REAL) memcpy(p, &value, sizeof value);
  else memcpy(p, &whole, sizeof whole);
}

static double fetch(const lk_opt *o, const void *cfg) {
  const char *p = (const char *)cfg + o->offset;
  double value;
  int whole;
  if (o->type == LK_OPT_REAL) return memcpy(&value, p, sizeof value), value;
  return memcpy(&whole, p, sizeof whole), whole;
}

double lk_method_option(const lk_method *m, const char *key, double missing) {
  const lk_opt *o = find_opt(m->cls, key, strlen(key));
  return o ? fetch(o, m->cfg) : missing;
}

double lk_at_option(const lk_at *at, const char *key, double missing) {
  const lk_opt *o = find_opt(at->method->cls, key, strlen(key));
  return o ? fetch(o, at->cfg) : missing;
}

int lk_spec_number(const char *text, double *value) {
  char local[64], *end;
  size_t n = strcspn(text, ".");
  int length = snprintf(local, sizeof local, "%.*s%s%s", (int)n, text, text[n] ? localeconv()->decimal_point : "",
                        text[n] ? text + n + 1 : "");
  if (length <= 0 || (size_t)length >= sizeof local || strchr(text, ',')) return 0;
  errno = 0;
  *value = strtod(local, &end);
  return !*end && !errno;
}

static lk_status set_word(lk_ctx *c, const lk_adapter_class *cls, const lk_opt *o, void *cfg, const char *value) {
  int i = find_word(o->words, value);
  if (i < 0) return lk_fail(c, LK_EARG, "%s: %s=%s: want one of %s (%s)", cls->name, o->key, value, o->words, o->help);
  store(o, cfg, i);
  return LK_OK;
}

/* value NULL: a flag that stands alone. */
static lk_status set_option(lk_ctx *c, const lk_adapter_class *cls, const lk_opt *o, void *cfg, const char *value) {
  double v = 1;
  if (!value && o->type != LK_OPT_FLAG)
    return lk_fail(c, LK_EARG, "%s: %s wants a value: %s=... (%s)", cls->name, o->key, o->key, o->help);
  if (o->type == LK_OPT_WORD) return set_word(c, cls, o, cfg, value);
  if (value && o->type == LK_OPT_FLAG && !strcmp(value, "true")) value = "1";
  if (value && o->type == LK_OPT_FLAG && !strcmp(value, "false")) value = "0";
  double low = o->type == LK_OPT_FLAG ? 0 : o->low, high = o->type == LK_OPT_FLAG ? 1 : o->high;
  int bad = value && !lk_spec_number(value, &v);
  if (bad || !(v >= low && v <= high) || (o->type != LK_OPT_REAL && v != floor(v)))
    return lk_fail(c, LK_EARG, "%s: %s=%s: want %s in [%.10g, %.10g] (%s)", cls->name, o->key, value,
                   o->type == LK_OPT_REAL ? "a number" : "an integer", low, high, o->help);
  store(o, cfg, v);
  return LK_OK;
}

/* One word "key=value" or "flag" of length n; *used counts the keys that the class has. */
static lk_status set_word_at(lk_ctx *c, const lk_adapter_class *cls, void *cfg, const char *word, size_t n, int *used) {
  const char *eq = memchr(word, '=', n);
  size_t key = eq ? (size_t)(eq - word) : n;
  const lk_opt *o = find_opt(cls, word, key);
  if (!o) return LK_OK;
  char *value = eq ? lk_strndup(c, eq + 1, n - key - 1) : NULL;
  if (eq && !value) return lk_error(c, NULL);
  (*used)++;
  lk_status s = set_option(c, cls, o, cfg, value);
  lk_free(c, value);
  return s;
}

lk_status lk_options_apply(lk_ctx *c, const lk_adapter_class *cls, void *cfg, const char *options, int *used) {
  for (const char *s = options; *(s += strspn(s, " ,\t"));) {
    size_t n = strcspn(s, " ,\t");
    if (set_word_at(c, cls, cfg, s, n, used)) return lk_error(c, NULL);
    s += n;
  }
  return LK_OK;
}

/* ---- parsing ---- */

typedef struct {
  lk_adapter *a;
  lk_ctx *ctx;
  const char *spec, *at;
  int depth;
} parser;

static lk_status wrong(parser *p, const char *what) {
  return lk_fail(p->ctx, LK_EARG, "adapter '%s': %s at character %d", p->spec, what, (int)(p->at - p->spec) + 1);
}

static size_t word_length(parser *p) {
  while (isspace((unsigned char)*p->at)) p->at++;
  return strcspn(p->at, " \t\r\n|()");
}

void lk_method_free(lk_ctx *c, lk_method *m) {
  for (lk_method *next; m; m = next) {
    next = m->next;
    lk_method_free(c, m->inner);
    if (m->cls && m->cls->destroy && m->st) m->cls->destroy(m);
    for (lk_param *p = m->params, *after; p; p = after) {
      after = p->next;
      lk_param_free(p);
    }
    lk_free(c, m->at);
    lk_free(c, m->st);
    lk_free(c, m->label);
    lk_free(c, m->written);
    lk_free(c, m->cfg);
    lk_free(c, m);
  }
}

static lk_method *chain(parser *p);

static lk_status unknown_class(parser *p, const char *name) {
  char names[300] = "";
  size_t used = 0;
  for (const lk_adapter_class *const *k = lk_adapter_classes(); *k && used + strlen((*k)->name) + 3 < sizeof names;
       k++) {
    strcpy(names + used, used ? ", " : "");
    strcat(names, (*k)->name);
    used = strlen(names);
  }
  return lk_fail(p->ctx, LK_EARG, "adapter '%s': there is no adapter '%s'; there are %s", p->spec, name, names);
}

/* "lora" or "lora:second" */
static lk_status method_name(parser *p, lk_method *m) {
  size_t n = word_length(p);
  if (!n) return wrong(p, *p->at ? "want the name of an adapter" : "an adapter is missing");
  const char *colon = memchr(p->at, ':', n);
  size_t name = colon ? (size_t)(colon - p->at) : n;
  char *text = lk_strndup(p->ctx, p->at, name);
  m->label = lk_strndup(p->ctx, colon ? colon + 1 : "", colon ? n - name - 1 : 0);
  if (!text || !m->label) return lk_free(p->ctx, text), lk_error(p->ctx, NULL);
  m->cls = lk_adapter_find_class(p->a->model, text);
  if (!m->cls) unknown_class(p, text);
  if (m->cls && strpbrk(m->label, "./@ ")) wrong(p, "a label must not hold '.', '/', '@' or blanks");
  lk_free(p->ctx, text);
  p->at += n;
  return lk_error(p->ctx, NULL);
}

static lk_status option(parser *p, lk_method *m, size_t n) {
  int used = 0;
  if (set_word_at(p->ctx, m->cls, m->cfg, p->at, n, &used)) return lk_error(p->ctx, NULL);
  if (!used) {
    char keys[300] = "";
    for (const lk_opt *o = m->cls->opts; o && o->key && strlen(keys) + strlen(o->key) + 3 < sizeof keys; o++) {
      strcat(keys, *keys ? ", " : "");
      strcat(keys, o->key);
    }
    return lk_fail(p->ctx, LK_EARG, "%s: no option '%.*s'; there %s %s", m->cls->name, (int)strcspn(p->at, "= |()"),
                   p->at, *keys ? "are" : "is", *keys ? keys : "none");
  }
  char *more = lk_sprintf(p->ctx, "%s%.*s ", m->written, (int)strcspn(p->at, "= |()\t\r\n"), p->at);
  if (!more) return lk_error(p->ctx, NULL);
  lk_free(p->ctx, m->written);
  m->written = more;
  p->at += n;
  return LK_OK;
}

static lk_status inner(parser *p, lk_method *m) {
  if (!(m->cls->caps & LK_WRAPPER))
    return lk_fail(p->ctx, LK_EARG, "adapter '%s': %s holds no other adapter", p->spec, m->cls->name);
  if (m->inner) return wrong(p, "one pair of parentheses is enough");
  p->at++;
  m->inner = chain(p);
  if (!m->inner) return lk_error(p->ctx, NULL);
  for (lk_method *i = m->inner; i; i = i->next) i->outer = m;
  if (*p->at != ')') return wrong(p, "a ')' is missing");
  p->at++;
  return LK_OK;
}

static lk_status method(parser *p, lk_method *m) {
  if (method_name(p, m)) return lk_error(p->ctx, NULL);
  m->cfg = lk_alloc(p->ctx, m->cls->cfg_size + 1);
  m->st = lk_alloc(p->ctx, m->cls->method_size + 1);
  m->written = lk_strdup(p->ctx, " ");
  if (lk_error(p->ctx, NULL)) return lk_error(p->ctx, NULL);
  for (const lk_opt *o = m->cls->opts; o && o->key; o++) store(o, m->cfg, o->def);
  for (;;) {
    size_t n = word_length(p);
    if (n ? option(p, m, n) : *p->at == '(' ? inner(p, m) : 1) break;
  }
  if (!lk_error(p->ctx, NULL) && m->cls->caps & LK_WRAPPER && !m->inner)
    lk_fail(p->ctx, LK_EARG, "adapter '%s': %s wants an adapter in parentheses", p->spec, m->cls->name);
  return lk_error(p->ctx, NULL);
}

static lk_method *chain(parser *p) {
  lk_method *head = NULL, **end = &head;
  if (++p->depth > 16) wrong(p, "parentheses are nested too deeply");
  do {
    if (head) p->at++; /* the '|' */
    lk_method *m = lk_error(p->ctx, NULL) ? NULL : lk_alloc(p->ctx, sizeof *m);
    if (!m) break;
    *end = m;
    end = &m->next;
    m->adapter = p->a;
    method(p, m);
  } while (!lk_error(p->ctx, NULL) && *p->at == '|');
  p->depth--;
  if (!lk_error(p->ctx, NULL)) return head;
  lk_method_free(p->ctx, head);
  return NULL;
}

lk_method *lk_spec_parse(lk_adapter *a, const char *spec) {
  parser p = {.a = a, .ctx = lk_model_ctx(a->model), .spec = spec, .at = spec};
  lk_method *m = chain(&p);
  if (!m || !*p.at) return m;
  wrong(&p, "unexpected text");
  lk_method_free(p.ctx, m);
  return NULL;
}
