/* text_model.c: opening language models. */
#include "text.h"

#include <string.h>

static lk_json *read_config(lk_ctx *ctx, const char *directory) {
  char *path = lk_sprintf(ctx, "%s/config.json", directory);
  lk_json *config = path ? lk_json_read(ctx, path) : NULL;
  lk_free(ctx, path);
  return config;
}

int text_is_model(lk_ctx *ctx, const char *directory) {
  char *path = directory ? lk_sprintf(ctx, "%s/config.json", directory) : NULL;
  lk_json *config = path && lk_file_exists(path) ? read_config(ctx, directory) : NULL;
  int images = !config || !strcmp(lk_json_string(ctx, config, "model_type", "vit"), "vit");
  lk_json_free(config);
  lk_free(ctx, path);
  return !images && !lk_error(ctx, NULL);
}

/* Does the file hold a classifier of so many classes? */
static int has_head(lk_ctx *ctx, const char *directory, int64_t classes) {
  const char *name = "";
  lk_json *config = read_config(ctx, directory);
  lk_json_is_string(lk_json_at(lk_json_get(config, "architectures"), 0), &name);
  int64_t labels = (int64_t)lk_json_count(lk_json_get(config, "id2label"));
  int there = strstr(name, "ForSequenceClassification") && (labels ? labels : 2) == classes;
  lk_json_free(config);
  return there;
}

static lk_pretrained_options options_of(lk_ctx *ctx, const char *directory, const text_source *s, int64_t classes,
                                        int whole) {
  static const lk_task tasks[] = {LK_TASK_CLASSIFY, LK_TASK_LM, LK_TASK_LM, LK_TASK_MASKED_LM, LK_TASK_EMBED};
  lk_pretrained_options o = {.task = tasks[s->kind], .no_dropout = s->no_dropout, .quantise = &s->base};
  if (o.task == LK_TASK_CLASSIFY && classes && !has_head(ctx, directory, classes)) o.classes = classes;
  if (whole) o.flags = LK_LOAD_COPY;
  return o;
}

static lk_tokenizer *open_tokenizer(lk_ctx *ctx, const char *directory) {
  char *path = lk_sprintf(ctx, "%s/tokenizer.json", directory);
  lk_tokenizer *k = path ? lk_tokenizer_open(ctx, path) : NULL;
  lk_free(ctx, path);
  return k;
}

/* New tokens train with the embedding only. */
static lk_status add_tokens(text_model *m, const char *directory) {
  int64_t n = lk_tokenizer_size(m->tokenizer);
  lk_warn(m->ctx,
          "%s: the tokenizer has %lld tokens, the model %lld: the new ones begin as the mean of the others; "
          "--modules-to-save %s trains them",
          directory, (long long)n, (long long)m->p->vocabulary, m->p->words->module.name);
  return lk_pretrained_resize(m->p, n);
}

static const char *find_head(lk_model *model) {
  static const char *const names[] = {"classifier", "score"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (lk_module_find(lk_model_root(model), names[i])) return names[i];
  return NULL;
}

lk_status text_open(lk_ctx *ctx, const char *directory, const text_source *s, int64_t classes, int model_flags,
                    int whole, text_model *m) {
  *m = (text_model){.ctx = ctx, .kind = (text_kind)s->kind};
  const lk_pretrained_options options = options_of(ctx, directory, s, classes, whole);
  if (!lk_error(ctx, NULL)) m->model = lk_model_new(ctx, LK_F32, model_flags);
  if (m->model) m->p = lk_pretrained_open(m->model, directory, &options);
  if (m->p) m->head = find_head(m->model);
  if (m->p && !(model_flags & LK_SHAPES_ONLY)) m->tokenizer = open_tokenizer(ctx, directory);
  if (m->tokenizer && lk_tokenizer_size(m->tokenizer) > m->p->vocabulary) add_tokens(m, directory);
  if (lk_error(ctx, NULL)) text_close(m);
  return lk_error(ctx, NULL);
}

void text_close(text_model *m) {
  lk_tokenizer_free(m->tokenizer);
  lk_model_free(m->model);
  *m = (text_model){0};
}

lk_status text_name_classes(text_model *m, const lk_texts *texts) {
  if (!texts || !texts->names || m->kind != TEXT_CLASSIFY || texts->classes != m->p->classes) return LK_OK;
  return lk_pretrained_name_classes(m->p, texts->names);
}
