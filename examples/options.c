/* options.c: command lines from tables. */
#include "options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 40, HELP_COLUMN = 30 };

static options_outcome __attribute__((format(printf, 2, 3))) wrong(const char *program, const char *format, ...) {
  va_list ap;
  fprintf(stderr, "%s: ", program);
  va_start(ap, format);
  vfprintf(stderr, format, ap);
  va_end(ap);
  fputc('\n', stderr);
  return OPTIONS_WRONG;
}

/* ---- finding ---- */

/* Levenshtein's distance of two short words. */
static size_t distance(const char *a, const char *b) {
  size_t row[LONGEST + 1], n = strlen(b);
  if (n > LONGEST) return SIZE_MAX;
  for (size_t j = 0; j <= n; j++) row[j] = j;
  for (size_t i = 0; a[i]; i++) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < n; j++) {
      size_t best = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      if (row[j] + 1 < best) best = row[j] + 1;
      if (diagonal + 1 < best) best = diagonal + 1;
      row[j + 1] = best;
    }
  }
  return row[n];
}

static const option *find(const option_group *groups, const char *key, size_t length, void **to) {
  for (const option_group *g = groups; g->title; g++)
    for (const option *o = g->options; o->key; o++)
      if (strlen(o->key) == length && !strncmp(o->key, key, length)) {
        *to = (char *)g->to + o->offset;
        return o;
      }
  return NULL;
}

static const char *closest(const option_group *groups, const char *key) {
  const char *best = "help";
  for (const option_group *g = groups; g->title; g++)
    for (const option *o = g->options; o->key; o++)
      if (distance(key, o->key) < distance(key, best)) best = o->key;
  return best;
}

/* ---- values ---- */

static options_outcome set_int(const char *program, const option *o, const char *value, int64_t *to) {
  char *end;
  errno = 0;
  long long v = strtoll(value, &end, 10);
  if (end == value || *end || errno || (double)v < o->low || (double)v > o->high)
    return wrong(program, "--%s '%s' is not a whole number from %.15g to %.15g", o->key, value, o->low, o->high);
  *to = v;
  return OPTIONS_OK;
}

static options_outcome set_real(const char *program, const option *o, const char *value, double *to) {
  char *end;
  errno = 0;
  double v = strtod(value, &end);
  if (end == value || *end || !(v >= o->low && v <= o->high))
    return wrong(program, "--%s '%s' is not a number from %.15g to %.15g", o->key, value, o->low, o->high);
  *to = v;
  return OPTIONS_OK;
}

static options_outcome set_word(const char *program, const option *o, const char *value, int *to) {
  int i = 0;
  for (const char *word = o->value; *word; i++) {
    size_t n = strcspn(word, "|");
    if (strlen(value) == n && !strncmp(word, value, n)) {
      *to = i;
      return OPTIONS_OK;
    }
    word += n + (word[n] == '|');
  }
  return wrong(program, "--%s '%s' is not one of %s", o->key, value, o->value);
}

static options_outcome add(const char *program, const option *o, const char *value, option_list *to) {
  if (to->n == OPTION_LIST_MOST) return wrong(program, "--%s is given more than %d times", o->key, to->n);
  to->item[to->n++] = value;
  return OPTIONS_OK;
}

static options_outcome set(const char *program, const option *o, const char *value, void *to) {
  switch (o->type) {
  case OPTION_FLAG:
    *(int *)to = 1;
    return OPTIONS_OK;
  case OPTION_INT:
    return set_int(program, o, value, to);
  case OPTION_REAL:
    return set_real(program, o, value, to);
  case OPTION_LIST:
    return add(program, o, value, to);
  case OPTION_WORD:
    return set_word(program, o, value, to);
  default:
    *(const char **)to = value;
    return OPTIONS_OK;
  }
}

/* ---- parsing ---- */

options_outcome options_parse(const char *program, const option_group *groups, int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return OPTIONS_HELP;
  for (int i = 1; i < argc; i++) {
    const char *key = argv[i] + 2, *value = strchr(argv[i], '=');
    size_t length = value ? (size_t)(value++ - key) : strlen(argv[i]) - 2;
    void *to;
    if (strncmp(argv[i], "--", 2) != 0 || !*key) return wrong(program, "'%s' is not an option; see --help", argv[i]);
    const option *o = find(groups, key, length, &to);
    if (!o) {
      char name[LONGEST + 1];
      snprintf(name, sizeof name, "%.*s", (int)length, key);
      return wrong(program, "there is no option --%s; the closest is --%s (see --help)", name, closest(groups, name));
    }
    if (o->type == OPTION_FLAG && value) return wrong(program, "--%s takes no value", o->key);
    if (o->type != OPTION_FLAG && !value) {
      value = i + 1 < argc ? argv[++i] : NULL;
      if (!value || !strncmp(value, "--", 2)) return wrong(program, "--%s needs a value: %s", o->key, o->value);
    }
    if (set(program, o, value, to)) return OPTIONS_WRONG;
  }
  return OPTIONS_OK;
}

/* ---- help ---- */

static void put_default(const option *o, const void *place, FILE *to) {
  const char *word = o->value, *text;
  int n;
  switch (o->type) {
  case OPTION_INT:
    if (*(const int64_t *)place) fprintf(to, " [%lld]", (long long)*(const int64_t *)place);
    break;
  case OPTION_REAL:
    if (*(const double *)place != 0) fprintf(to, " [%g]", *(const double *)place);
    break;
  case OPTION_WORD:
    for (n = *(const int *)place; n > 0; n--) word += strcspn(word, "|") + 1;
    fprintf(to, " [%.*s]", (int)strcspn(word, "|"), word);
    break;
  case OPTION_TEXT:
    text = *(const char *const *)place;
    if (text) fprintf(to, " [%s]", text);
    break;
  default:
    break;
  }
}

void options_help(const option_group *groups, FILE *to) {
  for (const option_group *g = groups; g->title; g++) {
    fprintf(to, "\n%s:\n", g->title);
    for (const option *o = g->options; o->key; o++) {
      int n =
          fprintf(to, "  --%s%s%s", o->key, o->type == OPTION_FLAG ? "" : " ", o->type == OPTION_FLAG ? "" : o->value);
      if (n >= HELP_COLUMN) n = fprintf(to, "\n") - 1;
      fprintf(to, "%*s%s", HELP_COLUMN - n, "", o->help);
      put_default(o, (const char *)g->to + o->offset, to);
      fputc('\n', to);
    }
  }
}
