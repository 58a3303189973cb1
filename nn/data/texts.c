/* texts.c: files of texts: TSV, CSV, JSONL, plain. */
#include <ctype.h>
#include <errno.h>
#include <lorikeet/file.h>
#include <lorikeet/json.h>
#include <lorikeet/texts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT = 1 << 30, FIELDS = 256 };
typedef enum { TSV, CSV, JSONL, TXT, FORMATS } format;
static const char *const formats[] = {"tsv", "csv", "jsonl", "txt"};

typedef struct {
  lk_ctx *ctx;
  const char *path;
  const lk_texts_options *o;
  lk_texts *x;
  char **label;  /* as written, while reading */
  int *label_at; /* and in which line */
  size_t capacity, pair_capacity, label_capacity, line_capacity;
  int line;
} reading;

void lk_texts_free(lk_texts *x) {
  if (!x) return;
  for (int64_t i = 0; i < x->count; i++) {
    if (x->text) lk_free(x->ctx, x->text[i]);
    if (x->pair) lk_free(x->ctx, x->pair[i]);
  }
  for (int64_t i = 0; x->names && i < x->classes; i++) lk_free(x->ctx, x->names[i]);
  lk_free(x->ctx, x->text);
  lk_free(x->ctx, x->pair);
  lk_free(x->ctx, x->label);
  lk_free(x->ctx, x->names);
  lk_free(x->ctx, x);
}

/* Takes copies; pair and label may be NULL, for all examples or for none. */
static lk_status add(reading *r, const char *text, const char *pair, const char *label) {
  lk_texts *x = r->x;
  size_t n = (size_t)x->count + 1;
  if (lk_grow(r->ctx, &x->text, &r->capacity, n, sizeof *x->text)) return lk_error(r->ctx, NULL);
  if (pair && lk_grow(r->ctx, &x->pair, &r->pair_capacity, n, sizeof *x->pair)) return lk_error(r->ctx, NULL);
  if (label && lk_grow(r->ctx, &r->label, &r->label_capacity, n, sizeof *r->label)) return lk_error(r->ctx, NULL);
  if (label && lk_grow(r->ctx, &r->label_at, &r->line_capacity, n, sizeof *r->label_at)) return lk_error(r->ctx, NULL);
  x->text[n - 1] = lk_strdup(r->ctx, text);
  if (pair) x->pair[n - 1] = lk_strdup(r->ctx, pair);
  if (label) {
    r->label[n - 1] = lk_strdup(r->ctx, label);
    r->label_at[n - 1] = r->line;
  }
  x->count++;
  return lk_error(r->ctx, NULL);
}

/* ---- tables ---- */

/* The next field, its end marked; *at moves to the next one, or to NULL at the end of the record. */
static char *field(reading *r, char **at, char separator, char **next_line) {
  char *from = *at, *to = from, *s = from;
  int quoted = separator == ',' && *s == '"';
  if (quoted) s++;
  for (; *s; s++) {
    if (quoted && *s == '"' && s[1] != '"') quoted = 0;
    else if (quoted && *s == '"') *to++ = *s++;
    else if (!quoted && (*s == separator || *s == '\n')) break;
    else *to++ = *s;
    if (quoted && *s == '\n') r->line++;
  }
  if (quoted) lk_fail(r->ctx, LK_EFORMAT, "%s:%d: a quoted field is not closed", r->path, r->line);
  char end = *s;
  *at = end == separator ? s + 1 : NULL;
  if (!*at) *next_line = end ? s + 1 : s;
  if (!*at && to > from && to[-1] == '\r') to--;
  *to = 0;
  return from;
}

/* Fields of a record; their number. */
static int record(reading *r, char **line, char separator, char **fields) {
  int n = 0;
  char *next = *line;
  r->line++;
  char *at = *line;
  while (at && n < FIELDS && !lk_error(r->ctx, NULL)) fields[n++] = field(r, &at, separator, &next);
  if (at) lk_fail(r->ctx, LK_EFORMAT, "%s:%d: more than %d columns", r->path, r->line, FIELDS);
  *line = next;
  return n;
}

static int is_number(const char *s) { return *s && strspn(s, "0123456789") == strlen(s); }

/* The place of a column: by number, or by its name among the first line's fields; -1 with an error. */
static int column(reading *r, const char *name, char **header, int n) {
  if (is_number(name) && strlen(name) < 5) return atoi(name);
  for (int i = 0; i < n; i++)
    if (!strcmp(header[i], name)) return i;
  lk_fail(r->ctx, LK_EFORMAT, "%s: there is no column '%s' in the first line", r->path, name);
  return -1;
}

static lk_status read_table(reading *r, char *line, char separator) {
  const lk_texts_options *o = r->o;
  char *fields[FIELDS];
  const char *text = o->text_column ? o->text_column : "0", *label = o->label_column ? o->label_column : "1";
  int named = !is_number(text) || (*label && !is_number(label)) || (o->pair_column && !is_number(o->pair_column));
  int n = named && *line ? record(r, &line, separator, fields) : 0;
  int at_text = column(r, text, fields, n), at_label = *label ? column(r, label, fields, n) : -1;
  int at_pair = o->pair_column ? column(r, o->pair_column, fields, n) : -1;
  while (*line && !lk_error(r->ctx, NULL)) {
    n = record(r, &line, separator, fields);
    if (n == 1 && !*fields[0]) continue; /* an empty line */
    int labelled = at_label >= 0 && (at_label < n || o->label_column);
    int most = at_text > at_pair ? at_text : at_pair;
    if (labelled && at_label > most) most = at_label;
    if (lk_error(r->ctx, NULL)) break;
    if (most >= n)
      return lk_fail(r->ctx, LK_EFORMAT, "%s:%d: the line has %d columns, column %d (from 0) is wanted", r->path,
                     r->line, n, most);
    if (r->x->count && !!r->label != labelled)
      return lk_fail(r->ctx, LK_EFORMAT, "%s:%d: a line %s a label, and the lines before it are otherwise", r->path,
                     r->line, labelled ? "with" : "without");
    add(r, fields[at_text], at_pair >= 0 ? fields[at_pair] : NULL, labelled ? fields[at_label] : NULL);
  }
  return lk_error(r->ctx, NULL);
}

/* ---- JSONL ---- */

/* The text under a key; a missing one: NULL, or an error if it is needed. */
static const char *member(reading *r, const lk_json *j, const char *key, int needed) {
  const char *s = NULL;
  const lk_json *v = lk_json_get(j, key);
  if (lk_json_is_string(v, &s) || (!v && !needed)) return s;
  lk_fail(r->ctx, LK_EFORMAT, "%s:%d: '%s' should be a string, not %s", r->path, r->line, key,
          v ? lk_json_kind_name(lk_json_type(v)) : "missing");
  return NULL;
}

static const char *text_key(const lk_json *j, const char *given) {
  static const char *const usual[] = {"sentence", "text", "prompt"};
  for (size_t i = 0; !given && i < sizeof usual / sizeof *usual; i++)
    if (lk_json_get(j, usual[i])) given = usual[i];
  return given ? given : "text";
}

static lk_status read_object(reading *r, const lk_json *j) {
  char number[24];
  int64_t value;
  const char *key = text_key(j, r->o->text_column), *pair = r->o->pair_column, *label = r->o->label_column;
  if (!pair && !strcmp(key, "prompt")) pair = "completion";
  const lk_json *stored = label && !*label ? NULL : lk_json_get(j, label ? label : "label");
  const char *text = member(r, j, key, 1), *second = pair ? member(r, j, pair, 1) : NULL, *name = NULL;
  if (lk_json_is_int(stored, &value)) {
    snprintf(number, sizeof number, "%lld", (long long)value);
    name = number;
  } else if (stored || (label && *label)) name = member(r, j, label ? label : "label", 1);
  if (lk_error(r->ctx, NULL)) return lk_error(r->ctx, NULL);
  if (r->x->count && (!!r->label != !!name || !!r->x->pair != !!second))
    return lk_fail(r->ctx, LK_EFORMAT, "%s:%d: other keys than in the lines before", r->path, r->line);
  return add(r, text, second, name);
}

static lk_status read_jsonl(reading *r, char *line) {
  char name[600];
  for (char *next; *line && !lk_error(r->ctx, NULL); line = next) {
    size_t n = strcspn(line, "\n");
    next = line + n + (line[n] != 0);
    r->line++;
    if (strspn(line, " \t\r") >= n) continue;
    snprintf(name, sizeof name, "%s:%d", r->path, r->line);
    lk_json *j = lk_json_parse(r->ctx, line, n, name);
    if (j) read_object(r, j);
    lk_json_free(j);
  }
  return lk_error(r->ctx, NULL);
}

/* ---- labels ---- */

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static lk_status number_labels(reading *r) {
  lk_texts *x = r->x;
  for (int64_t i = 0; i < x->count; i++) {
    errno = 0;
    long long v = strtoll(r->label[i], NULL, 10);
    if (errno || v > 1 << 24)
      return lk_fail(r->ctx, LK_EFORMAT, "%s:%d: %.40s is no label: too large", r->path, r->label_at[i], r->label[i]);
    x->label[i] = v;
    if (v >= x->classes) x->classes = v + 1;
  }
  return LK_OK;
}

/* The words of `like`, in its order. */
static lk_status copy_names(reading *r, const lk_texts *like) {
  lk_texts *x = r->x;
  x->names = lk_alloc_array(r->ctx, (size_t)like->classes + 1, sizeof *x->names);
  for (; x->names && x->classes < like->classes; x->classes++)
    if (!(x->names[x->classes] = lk_strdup(r->ctx, like->names[x->classes]))) break;
  return lk_error(r->ctx, NULL);
}

/* The words of the labels, each once, in the order of the alphabet. */
static lk_status collect_names(reading *r) {
  lk_texts *x = r->x;
  char **sorted = lk_alloc_array(r->ctx, (size_t)x->count + 1, sizeof *sorted);
  x->names = lk_alloc_array(r->ctx, (size_t)x->count + 1, sizeof *x->names);
  if (sorted && x->names) {
    memcpy(sorted, r->label, (size_t)x->count * sizeof *sorted);
    qsort(sorted, (size_t)x->count, sizeof *sorted, by_text);
  }
  for (int64_t i = 0; i < x->count && !lk_error(r->ctx, NULL); i++) {
    if (x->classes && !strcmp(x->names[x->classes - 1], sorted[i])) continue;
    x->names[x->classes] = lk_strdup(r->ctx, sorted[i]);
    x->classes += x->names[x->classes] != NULL;
  }
  lk_free(r->ctx, sorted);
  return lk_error(r->ctx, NULL);
}

static int by_name(const void *a, const void *b) { return strcmp(**(char **const *)a, **(char **const *)b); }

static lk_status name_labels(reading *r, const lk_texts *like) {
  lk_texts *x = r->x;
  if (like ? copy_names(r, like) : collect_names(r)) return lk_error(r->ctx, NULL);
  char ***sorted = lk_alloc_array(r->ctx, (size_t)x->classes + 1, sizeof *sorted);
  for (int64_t i = 0; sorted && i < x->classes; i++) sorted[i] = &x->names[i];
  if (sorted) qsort(sorted, (size_t)x->classes, sizeof *sorted, by_name);
  for (int64_t i = 0; sorted && i < x->count; i++) {
    char **name = &r->label[i], ***found = bsearch(&name, sorted, (size_t)x->classes, sizeof *sorted, by_name);
    if (found) x->label[i] = *found - x->names;
    else
      lk_fail(r->ctx, LK_EFORMAT, "%s:%d: the label '%.40s' does not occur among those of the training file", r->path,
              r->label_at[i], r->label[i]);
  }
  lk_free(r->ctx, sorted);
  return lk_error(r->ctx, NULL);
}

static lk_status resolve_labels(reading *r, const lk_texts *like) {
  int numbers = 1;
  if (!r->label) return LK_OK;
  r->x->label = lk_alloc_array(r->ctx, (size_t)r->x->count + 1, sizeof *r->x->label);
  if (!r->x->label) return lk_error(r->ctx, NULL);
  for (int64_t i = 0; i < r->x->count; i++) numbers &= is_number(r->label[i]);
  if (like && (numbers != !like->names || !like->label))
    return lk_fail(r->ctx, LK_EFORMAT, "%s: its labels are %s, those of the training file are not", r->path,
                   numbers ? "numbers" : "words");
  return numbers ? number_labels(r) : name_labels(r, like);
}

/* ---- all of it ---- */

static format find_format(reading *r) {
  const char *dot = strrchr(r->path, '.'), *name = r->o->format ? r->o->format : dot ? dot + 1 : "";
  for (int i = 0; i < FORMATS; i++)
    if (!strcmp(formats[i], name)) return (format)i;
  if (!strcmp(name, "json")) return JSONL;
  lk_fail(r->ctx, LK_EARG, "%s: '%s' is no format of texts; tsv, csv, jsonl and txt are", r->path, name);
  return FORMATS;
}

/* text is changed. */
static lk_texts *read_all(reading *r, char *text, size_t n, const lk_texts *like) {
  lk_ctx *c = r->ctx;
  format f = find_format(r);
  if (f < FORMATS && strlen(text) != n) lk_fail(c, LK_EFORMAT, "%s holds a zero byte: it is no text", r->path);
  r->x = lk_error(c, NULL) ? NULL : lk_alloc(c, sizeof *r->x);
  if (r->x) {
    r->x->ctx = c;
    if (!strncmp(text, "\xEF\xBB\xBF", 3)) text += 3; /* the mark of UTF-8 that some programs write */
    if (f == TXT) add(r, text, NULL, NULL);
    else if (f == JSONL) read_jsonl(r, text);
    else read_table(r, text, f == TSV ? '\t' : ',');
    if (!lk_error(c, NULL) && !r->x->count) lk_fail(c, LK_EFORMAT, "%s holds no example", r->path);
    if (!lk_error(c, NULL)) resolve_labels(r, like);
  }
  for (int64_t i = 0; r->label && i < r->x->count; i++) lk_free(c, r->label[i]);
  lk_free(c, r->label);
  lk_free(c, r->label_at);
  if (!lk_error(c, NULL)) return r->x;
  lk_texts_free(r->x);
  return NULL;
}

static const lk_texts_options plain = {0};

lk_texts *lk_texts_parse(lk_ctx *ctx, const char *text, size_t length, const char *name, const lk_texts_options *o,
                         const lk_texts *like) {
  reading r = {.ctx = ctx, .path = name, .o = o ? o : &plain};
  if (!text || !name) lk_fail(ctx, LK_ENIL, "texts_parse: text or name is NULL");
  char *copy = lk_error(ctx, NULL) ? NULL : lk_alloc(ctx, length + 1);
  if (!copy) return NULL;
  memcpy(copy, text, length);
  copy[length] = 0;
  lk_texts *x = read_all(&r, copy, length, like);
  lk_free(ctx, copy);
  return x;
}

lk_texts *lk_texts_read(lk_ctx *ctx, const char *path, const lk_texts_options *o, const lk_texts *like) {
  reading r = {.ctx = ctx, .path = path, .o = o ? o : &plain};
  size_t n = 0;
  if (!path) lk_fail(ctx, LK_ENIL, "texts_read: path is NULL");
  char *text = lk_error(ctx, NULL) ? NULL : lk_file_read_text(ctx, path, LIMIT, &n);
  lk_texts *x = text ? read_all(&r, text, n, like) : NULL;
  lk_free(ctx, text);
  return x;
}
