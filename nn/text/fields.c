/* fields.c: the fields of a tokenizer.json: of the right kind, or refused in words that name file, section and key. */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>

lk_status lk_refuse(lk_reader *r, const char *key, const char *format, ...) {
  char reason[400];
  va_list args;
  va_start(args, format);
  vsnprintf(reason, sizeof reason, format, args);
  va_end(args);
  const char *dot = key && *r->where ? "." : "";
  return lk_fail(r->ctx, LK_EFORMAT, "%s: %s%s%s: %s", r->name, r->where, dot, key ? key : "", reason);
}

static void wrong_kind(lk_reader *r, const lk_json *j, const char *key, const char *want) {
  if (!j) lk_refuse(r, key, "is missing");
  else lk_refuse(r, key, "must be %s, not %s", want, lk_json_kind_name(lk_json_type(j)));
}

const lk_json *lk_need(lk_reader *r, const lk_json *j, const char *key, lk_json_kind kind) {
  const lk_json *found = lk_json_get(j, key);
  if (lk_json_type(found) == kind) return found;
  wrong_kind(r, found, key, lk_json_kind_name(kind));
  return NULL;
}

/* The value of a key that may be missing or null (NULL then). */
static const lk_json *optional(const lk_json *j, const char *key) {
  const lk_json *found = lk_json_get(j, key);
  return lk_json_type(found) == LK_JSON_NULL ? NULL : found;
}

const char *lk_need_text(lk_reader *r, const lk_json *j, const char *key) {
  const char *text = "";
  lk_json_is_string(lk_need(r, j, key, LK_JSON_STRING), &text);
  return text;
}

const char *lk_field_text(lk_reader *r, const lk_json *j, const char *key, const char *fallback) {
  const lk_json *found = optional(j, key);
  if (found && !lk_json_is_string(found, &fallback)) wrong_kind(r, found, key, "a string");
  return fallback;
}

int lk_field_flag(lk_reader *r, const lk_json *j, const char *key, int fallback) {
  const lk_json *found = optional(j, key);
  if (found && !lk_json_is_bool(found, &fallback)) wrong_kind(r, found, key, "true or false");
  return fallback;
}

int64_t lk_field_int(lk_reader *r, const lk_json *j, const char *key, int64_t least, int64_t most, int64_t fallback) {
  int64_t value = fallback;
  const lk_json *found = optional(j, key);
  if (!found && fallback >= least) return fallback;
  if (!found || !lk_json_is_int(found, &value)) wrong_kind(r, found, key, "an integer");
  else if (value < least || value > most)
    lk_refuse(r, key, "%lld is not between %lld and %lld", (long long)value, (long long)least, (long long)most);
  else return value;
  return least;
}

uint32_t lk_field_char(lk_reader *r, const lk_json *j, const char *key, uint32_t fallback) {
  if (fallback && !optional(j, key)) return fallback;
  const char *text = lk_need_text(r, j, key);
  uint32_t c = '?';
  if (!lk_error(r->ctx, NULL) && (!*text || text[lk_char_read(text, &c)]))
    lk_refuse(r, key, "'%s' is not one character", text);
  return c;
}

int lk_field_word(lk_reader *r, const lk_json *j, const char *key, const char *const *words, int fallback) {
  if (fallback >= 0 && !optional(j, key)) return fallback;
  const char *text = lk_need_text(r, j, key);
  for (int i = 0; words[i]; i++)
    if (!strcmp(text, words[i])) return i;
  lk_refuse(r, key, "'%s' is not supported", text);
  return 0;
}

char *lk_field_copy(lk_reader *r, const char *text, size_t *n) {
  *n = strlen(text);
  return lk_strndup(r->ctx, text, *n);
}

/* {"String": "..."} or {"Regex": "..."}; an empty one would match between any two characters. */
void lk_field_pattern(lk_reader *r, const lk_json *j, const char *key, lk_pattern *p) {
  *p = (lk_pattern){0};
  const lk_json *found = lk_need(r, j, key, LK_JSON_OBJECT);
  if (!found) return;
  const char *text = lk_field_text(r, found, "Regex", NULL);
  if (!text) {
    text = lk_need_text(r, found, "String");
    p->text = lk_field_copy(r, text, &p->n);
  } else {
    char *where = lk_sprintf(r->ctx, "%s: %s.%s: ", r->name, r->where, key);
    char *pattern = where ? lk_onig(r->ctx, where, text) : NULL;
    if (pattern) p->regex = lk_regex_new(r->ctx, LK_EFORMAT, where, pattern, LK_REGEX_TEXT);
    lk_free(r->ctx, pattern);
    lk_free(r->ctx, where);
  }
  if (!*text) lk_refuse(r, key, "an empty pattern is not supported");
}

/* ---- steps ---- */

void lk_pattern_free(lk_ctx *ctx, lk_pattern *p) {
  lk_regex_free(p->regex);
  lk_free(ctx, p->text);
}

void lk_steps_free(lk_ctx *ctx, lk_steps *steps) {
  for (size_t i = 0; i < steps->n; i++) {
    lk_pattern_free(ctx, &steps->step[i].pattern);
    lk_free(ctx, steps->step[i].text);
  }
  lk_free(ctx, steps->step);
}

void lk_step_add(lk_reader *r, lk_steps *steps, lk_step step) {
  if (!lk_error(r->ctx, NULL) && !lk_grow(r->ctx, &steps->step, &steps->capacity, steps->n + 1, sizeof step)) {
    steps->step[steps->n++] = step;
    return;
  }
  lk_pattern_free(r->ctx, &step.pattern);
  lk_free(r->ctx, step.text);
}

void lk_read_steps(lk_reader *r, const lk_json *j, const char *list, const lk_step_kind *kinds, lk_steps *steps) {
  if (lk_json_type(j) == LK_JSON_NONE || lk_json_type(j) == LK_JSON_NULL || lk_error(r->ctx, NULL)) return;
  const char *type = lk_need_text(r, j, "type");
  if (lk_error(r->ctx, NULL)) return;
  if (!strcmp(type, "Sequence")) {
    size_t length = strlen(r->where);
    const lk_json *children = lk_need(r, j, list, LK_JSON_ARRAY);
    for (size_t i = 0; i < lk_json_count(children); i++) {
      snprintf(r->where + length, sizeof r->where - length, ".%s[%zu]", list, i);
      lk_read_steps(r, lk_json_at(children, i), list, kinds, steps);
      r->where[length] = 0;
    }
    return;
  }
  for (; kinds->type; kinds++) {
    if (strcmp(kinds->type, type)) continue;
    kinds->read(r, j, steps);
    return;
  }
  lk_refuse(r, "type", "'%s' is not supported", type);
}
