/* finetune_texts.c: jobs on language models. */
#include "finetune.h"

enum { EPOCHS = 3 };

static lk_status open_model(job *j, int64_t classes, int flags) {
  settings *s = j->s;
  text_model *m = &j->texts.m;
  int whole = !s->eval && (s->run.full || s->run.probe);
  s->texts.base = run_base(&s->run);
  if (text_open(j->ctx, s->model, &s->texts, classes, flags, whole, m)) return lk_error(j->ctx, NULL);
  j->model = m->model;
  j->head = m->head;
  j->perplexity = s->texts.kind != TEXT_CLASSIFY && s->texts.kind != TEXT_EMBED;
  if (!s->run.targets) s->run.targets = lk_pretrained_targets(m->p, run_method_name(&s->run));
  return LK_OK;
}

static lk_status refuse(job *j) {
  const settings *s = j->s;
  if (s->predict && s->texts.kind != TEXT_CLASSIFY && s->texts.kind != TEXT_EMBED)
    return lk_fail(j->ctx, LK_EARG, "--predict is for --task classify and embed");
  return LK_OK;
}

static lk_status load(job *j) {
  settings *s = j->s;
  text_source *from = &s->texts;
  const int64_t limits[] = {s->source.train, s->source.validation, s->source.test};
  if (refuse(j)) return lk_error(j->ctx, NULL);
  for (int i = 0; i < 3; i++) from->limit[i] = limits[i];
  from->directory = s->source.directory;
  from->test_only = s->eval;
  if (s->run.epochs < 0) s->run.epochs = EPOCHS;
  s->run.lr = text_lr(&s->run);
  if (text_data_read(j->ctx, from, &j->texts.data)) return lk_error(j->ctx, NULL);
  int64_t classes = s->eval && !s->run.adapter ? 0 : j->texts.data.classes;
  if (open_model(j, classes, 0)) return lk_error(j->ctx, NULL);
  if (classes && text_name_classes(&j->texts.m, j->texts.data.texts[s->eval ? RUN_TEST : RUN_TRAIN]))
    return lk_error(j->ctx, NULL);
  if (text_data_tokens(&j->texts.m, from, &j->texts.data)) return lk_error(j->ctx, NULL);
  j->task = text_task_new(&j->texts.m, &j->texts.data);
  return lk_error(j->ctx, NULL);
}

static lk_status look(job *j) { return open_model(j, 0, LK_SHAPES_ONLY); }

static lk_status save(job *j, const char *directory) { return lk_pretrained_save(j->texts.m.p, directory); }

static lk_status can_save(job *j) { return lk_pretrained_can_save(j->texts.m.p); }

static lk_status save_names(job *j, const char *directory) {
  const lk_texts *x = j->texts.data.texts[RUN_TRAIN];
  int named = x && x->names && j->texts.m.kind == TEXT_CLASSIFY;
  return named ? lk_pretrained_save_config(j->texts.m.p, directory) : LK_OK;
}

static lk_status predict(job *j, const run_guess *guesses) {
  const char *path = j->s->predict;
  const lk_rows *rows = j->texts.data.rows[RUN_TEST];
  if (!rows) return lk_fail(j->ctx, LK_EARG, "--predict is of test texts, and there are none");
  if (j->texts.m.kind == TEXT_EMBED) return text_write_vectors(&j->texts.m, rows, path);
  lk_writer *w = lk_writer_open(j->ctx, path);
  for (int64_t i = 0; w && i < rows->count; i++) {
    const char *name = lk_pretrained_label(j->texts.m.p, guesses[i].prediction);
    if (name) lk_writef(w, "%lld\t%s\t%.6f\n", (long long)i, name, guesses[i].probability);
    else lk_writef(w, "%lld\t%lld\t%.6f\n", (long long)i, (long long)guesses[i].prediction, guesses[i].probability);
  }
  return w ? lk_writer_commit(w) : lk_error(j->ctx, NULL);
}

static void finish(job *j) {
  text_task_free(j->task);
  text_data_close(&j->texts.data);
  text_close(&j->texts.m);
}

const job_class text_job = {.load = load,
                            .look = look,
                            .save = save,
                            .can_save = can_save,
                            .save_names = save_names,
                            .predict = predict,
                            .close = finish};
