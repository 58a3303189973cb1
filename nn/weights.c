/* weights.c: the base parameters of a model from and into safetensors files. */
#include "model.h"
#include "shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what does not fit, in one message ---- */

enum { MISSING, UNEXPECTED, MISSHAPEN, UNTYPED, KINDS };
enum { LISTED = 8, TEXT = 640 }; /* of each kind; bytes of all lists, which must fit a context's message */

typedef struct {
  int n;
  const lk_param *p[LISTED];
  const lk_stored *s[LISTED];
} listing;

static void list(listing *l, const lk_param *p, const lk_stored *s) {
  if (l->n < LISTED) {
    l->p[l->n] = p;
    l->s[l->n] = s;
  }
  l->n++;
}

static int item(int kind, const lk_param *p, const lk_stored *s, char *text, size_t size) {
  char a[160], b[160];
  lk_view v = {0};
  switch (kind) {
  case MISSING:
    return snprintf(text, size, "%s", p->name);
  case UNEXPECTED:
    return snprintf(text, size, "%s", s->name);
  case UNTYPED:
    return snprintf(text, size, "%s is %s", s->name, s->dtype);
  default:
    v.ndim = s->ndim;
    memcpy(v.shape, s->shape, sizeof v.shape);
    return snprintf(text, size, "%s is %s, in the model %s", s->name, lk_view_format(&v, a),
                    lk_view_format(&p->value, b));
  }
}

/* "9 missing: a, b, ..." behind the text, in at most `room` bytes. */
static void describe(int kind, const listing *l, char *text, size_t room) {
  static const char *const what[] = {"missing", "unexpected", "misshapen",
                                     "of a type that is not read (F32, F64, BF16 and F16 are)"};
  size_t used = strlen(text), end = used + room;
  used += (size_t)snprintf(text + used, room, "%s%d %s: ", used ? "; " : "", l->n, what[kind]);
  for (int i = 0; i < l->n; i++) {
    char one[512];
    size_t more = i < LISTED ? (size_t)item(kind, l->p[i], l->s[i], one, sizeof one) : sizeof one;
    int last = i + 1 == l->n;
    if (more >= sizeof one || used + more + (last ? 1 : 7) > end) {
      snprintf(text + used, end - used, "...");
      return;
    }
    used += (size_t)snprintf(text + used, end - used, "%s%s", one, last ? "" : ", ");
  }
}

static lk_status report(lk_ctx *ctx, const char *path, const listing *l, int partial) {
  char text[TEXT] = "";
  size_t kinds = 0;
  for (int k = 0; k < KINDS; k++) kinds += l[k].n > 0;
  for (int k = 0; k < KINDS; k++)
    if (l[k].n) describe(k, &l[k], text, (sizeof text - 1) / kinds);
  if (kinds == 0) return LK_OK;
  if (l[MISSHAPEN].n || l[UNTYPED].n || !partial)
    return lk_fail(ctx, LK_EFORMAT, "%s does not fit the model: %s", path, text);
  lk_warn(ctx, "%s fits the model in part: %s", path, text);
  return LK_OK;
}

/* ---- names ---- */

static int begins(const char *name, const char *start) { return !strncmp(name, start, strlen(start)); }

static int ends(const char *name, const char *end) {
  size_t n = strlen(name), k = strlen(end);
  return n >= k && !strcmp(name + n - k, end);
}

/* Does the name begin with one of these, or end with one of those that have a '*' in front? */
static int begins_any(const char *name, const char *const *starts) {
  for (; starts && *starts; starts++)
    if (**starts == '*' ? ends(name, *starts + 1) : begins(name, *starts)) return 1;
  return 0;
}

/* The parameter's name without the prefix, or NULL. */
static const char *bare(const char *name, const lk_load_options *o) {
  return o->prefix && begins(name, o->prefix) ? name + strlen(o->prefix) : NULL;
}

/* Is this a parameter that the file should hold? */
static int wanted(const lk_param *p, const lk_load_options *o) {
  return !p->alias && p->kind != LK_RETIRED && p->kind != LK_SCRATCH && !begins_any(p->name, o->skip);
}

/* "bert." in front of the name; the text is valid until the next call with the same buffer. */
static const char *with_front(const char *front, const char *name, char *buffer, size_t size) {
  int n = snprintf(buffer, size, "%s%s", front, name);
  return n > 0 && (size_t)n < size ? buffer : name;
}

static const lk_stored *stored_for(const lk_shards *f, const lk_param *p, const lk_load_options *o,
                                   lk_safetensors **in) {
  char buffer[600];
  const lk_stored *s = lk_shards_find(f, p->name, in);
  const char *name = bare(p->name, o);
  if (!s && name) s = lk_shards_find(f, name, in);
  return s || !o->added ? s : lk_shards_find(f, with_front(o->added, p->name, buffer, sizeof buffer), in);
}

/* The names of all parameters, sorted: files may hold very many tensors. */
typedef struct {
  const char **name;
  size_t n, capacity;
} name_list;

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static lk_status list_names(lk_model *model, name_list *l) {
  for (lk_param *p = NULL; (p = lk_param_walk(model, p));) {
    if (lk_grow(lk_model_ctx(model), &l->name, &l->capacity, l->n + 1, sizeof *l->name)) break;
    l->name[l->n++] = p->name;
  }
  if (l->n) qsort(l->name, l->n, sizeof *l->name, by_name);
  return lk_error(lk_model_ctx(model), NULL);
}

static int is_listed(const name_list *l, const char *name) {
  return l->n && bsearch(&name, l->name, l->n, sizeof *l->name, by_name);
}

static int has_place(const name_list *l, const char *stored, const lk_load_options *o) {
  char buffer[600];
  if (begins_any(stored, o->unused) || begins_any(stored, o->skip) || is_listed(l, stored)) return 1;
  if (o->prefix && is_listed(l, with_front(o->prefix, stored, buffer, sizeof buffer))) return 1;
  return o->added && begins(stored, o->added) && is_listed(l, stored + strlen(o->added));
}

/* ---- reading ---- */

/* What is wrong with the tensor stored for p: a kind, or KINDS. */
static int mismatch(const lk_param *p, const lk_stored *s) {
  lk_view v = {.ndim = s->ndim};
  memcpy(v.shape, s->shape, sizeof v.shape);
  if (!lk_view_same_shape(&v, &p->value)) return MISSHAPEN;
  static const char *const read[] = {"F32", "F64", "BF16", "F16"};
  for (size_t i = 0; i < sizeof read / sizeof *read; i++)
    if (!strcmp(s->dtype, read[i])) return KINDS;
  return UNTYPED;
}

static lk_status compare(lk_model *model, const char *path, const lk_shards *f, const lk_load_options *o) {
  listing l[KINDS + 1] = {{0}};
  lk_safetensors *in;
  name_list names = {0};
  lk_status bad = list_names(model, &names);
  for (lk_param *p = NULL; !bad && (p = lk_param_walk(model, p));) {
    if (!wanted(p, o)) continue;
    const lk_stored *s = stored_for(f, p, o, &in);
    if (s || !begins_any(p->name, o->optional)) list(&l[s ? mismatch(p, s) : MISSING], p, s);
  }
  for (int k = 0; !bad && k < f->n; k++)
    for (size_t i = 0; i < lk_safetensors_count(f->file[k]); i++) {
      const lk_stored *s = lk_safetensors_at(f->file[k], i);
      if (!has_place(&names, s->name, o)) list(&l[UNEXPECTED], NULL, s);
    }
  lk_free(lk_model_ctx(model), names.name);
  return bad ? bad : report(lk_model_ctx(model), path, l, o->flags & LK_LOAD_PARTIAL);
}

/* May the parameter stay in half precision?  Weights of linear layers and embeddings are widened where they are used. */
static int can_be_half(const lk_param *p) {
  const lk_site *s = ((lk_module *)p->owner)->site;
  return s && s->weight == p && s->kind != LK_SITE_CONV2D && p->value.dtype == LK_F32;
}

/* Do the stored values become others?  bf16 is mapped as it lies. */
static int is_to_quantise(const lk_site *s, const lk_param *p, const lk_stored *stored, const lk_quantise_options *q) {
  if (!s || s->weight != p || !lk_site_to_quantise(s, q)) return 0;
  return q->kind != LK_QUANT_BF16 || strcmp(stored->dtype, "BF16");
}

/* The stored values become codes, and the file's memory is given back before the next ones are read. */
static lk_status take_coded(lk_site *site, lk_safetensors *f, const lk_stored *s, const lk_quantise_options *q) {
  lk_view v;
  if (lk_safetensors_view(f, s, &v) || lk_site_quantise(site, &v, q)) return lk_error(site->module->ctx, NULL);
  lk_safetensors_forget(f, s);
  return LK_OK;
}

/* Gives p the stored values: by pointing into the file where that is possible. */
static lk_status take(lk_param *p, lk_safetensors *f, const lk_stored *s, const lk_load_options *o) {
  lk_view v;
  lk_site *site = ((lk_module *)p->owner)->site;
  if (is_to_quantise(site, p, s, o->quantise)) return take_coded(site, f, s, o->quantise);
  if (lk_safetensors_view(f, s, &v)) return lk_error(p->ctx, NULL);
  int half = v.dtype == LK_BF16 || v.dtype == LK_F16;
  if (o->flags & LK_LOAD_COPY || (v.dtype != p->value.dtype && !(half && can_be_half(p))))
    return lk_param_assign(p, &v);
  if (p->owned) lk_free(p->ctx, p->value.p);
  p->value.dtype = v.dtype;
  p->value.p = v.p;
  p->owned = 0;
  lk_param_touch(p);
  return LK_OK;
}

static lk_status take_all(lk_model *model, const lk_shards *f, const lk_load_options *o) {
  lk_safetensors *in;
  for (lk_param *p = NULL; (p = lk_param_walk(model, p));) {
    const lk_stored *s = wanted(p, o) ? stored_for(f, p, o, &in) : NULL;
    if (s && take(p, in, s, o)) break;
  }
  return lk_error(lk_model_ctx(model), NULL);
}

static void close_files(void *f) { lk_shards_close(f); }

/* Values that are not the base's own cannot be replaced by a file's. */
static lk_status check_state(lk_model *model, const char *path) {
  lk_ctx *ctx = lk_model_ctx(model);
  if (lk_error(ctx, NULL)) return lk_error(ctx, NULL);
  if (lk_model_shapes_only(model)) return lk_fail(ctx, LK_EARG, "%s cannot be loaded: the model has shapes only", path);
  if (model->merged) return lk_fail(ctx, LK_EARG, "%s cannot be loaded: the model is merged; unmerge it first", path);
  for (lk_module *m = lk_model_root(model); m; m = lk_module_walk(lk_model_root(model), m))
    if (m->site && m->site->replaced_by)
      return lk_fail(ctx, LK_EARG, "%s cannot be loaded: an adapter replaces the weight of %s; detach it first", path,
                     m->path);
  for (lk_module *m = lk_model_root(model); m; m = lk_module_walk(lk_model_root(model), m))
    if (m->site && m->site->coded)
      return lk_fail(ctx, LK_EARG, "%s cannot be loaded: the weight of %s is quantised", path, m->path);
  return LK_OK;
}

/* Takes over the files. */
static lk_status load(lk_model *model, const char *path, lk_shards *f, const lk_load_options *o) {
  lk_status bad = compare(model, path, f, o);
  int mapped = !bad && !(o->flags & LK_LOAD_COPY);
  if (mapped) bad = lk_model_on_free(model, close_files, f); /* closes them if this fails */
  if (!bad) bad = take_all(model, f, o);
  if (!mapped) lk_shards_close(f);
  return bad;
}

lk_status lk_model_load_with(lk_model *model, const char *path, const lk_load_options *o) {
  if (check_state(model, path)) return lk_error(lk_model_ctx(model), NULL);
  lk_shards *f = lk_shards_open(lk_model_ctx(model), path);
  return f ? load(model, path, f, o) : lk_error(lk_model_ctx(model), NULL);
}

lk_status lk_model_load_directory(lk_model *model, const char *directory, const lk_load_options *o) {
  if (check_state(model, directory)) return lk_error(lk_model_ctx(model), NULL);
  lk_shards *f = lk_shards_open_directory(lk_model_ctx(model), directory);
  return f ? load(model, directory, f, o) : lk_error(lk_model_ctx(model), NULL);
}

lk_status lk_model_load(lk_model *model, const char *path, int flags) {
  return lk_model_load_with(model, path, &(lk_load_options){.flags = flags});
}

/* ---- writing ---- */

/* The base's value of p, also while an adapter has replaced it. */
static lk_view base_value(const lk_model *model, const lk_param *p) {
  const lk_site *s = ((lk_module *)p->owner)->site;
  return s && s->replaced_by && s->weight == p && !model->merged ? s->original_weight : p->value;
}

/* Are the values only there as codes? */
static int is_coded(const lk_model *model, const lk_param *p) {
  const lk_site *s = ((lk_module *)p->owner)->site;
  return s && s->weight == p && s->coded && !base_value(model, p).p;
}

lk_status lk_model_save(lk_model *model, const char *path) {
  static const lk_metadata format = {"format", "pt"}; /* HuggingFace's loader wants it */
  static const lk_load_options all = {0};
  lk_ctx *ctx = lk_model_ctx(model);
  lk_named_view *tensors = NULL;
  size_t n = 0, capacity = 0;
  for (lk_param *p = NULL; (p = lk_param_walk(model, p));) {
    if (!wanted(p, &all)) continue;
    if (lk_grow(ctx, &tensors, &capacity, n + 1, sizeof *tensors)) break;
    tensors[n++] = (lk_named_view){p->name, base_value(model, p)};
    if (is_coded(model, p))
      lk_fail(ctx, LK_EARG, "%s is quantised and cannot be saved: decode the model first, or save the adapter",
              p->name);
  }
  lk_status bad = lk_error(ctx, NULL);
  if (!bad) bad = lk_safetensors_write(ctx, path, tensors, n, &format, 1);
  lk_free(ctx, tensors);
  return bad;
}
