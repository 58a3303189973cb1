/* session.c: contexts of runs, and the model that is pretrained once. */
#include "session.h"

#include <string.h>

lk_status session_open(session *s, const settings *o, const char *model, uint64_t seed) {
  *s = (session){.ctx = NULL};
  lk_allocator allocator = memory_allocator(&s->memory);
  s->ctx = lk_ctx_new(&(lk_ctx_options){.allocator = &allocator, .seed = seed, .threads = (int)o->threads});
  if (!s->ctx) return LK_ENOMEM;
  return run_open(s->ctx, model, 0, 0, &s->model);
}

int session_close(session *s) {
  const char *message = "out of memory";
  int failed = lk_error(s->ctx, &message) != LK_OK;
  if (failed) fprintf(stderr, "compare: %s\n", message);
  for (int i = 0; s->ctx && i < lk_warning_count(s->ctx); i++)
    fprintf(stderr, "compare: warning: %s\n", lk_warning(s->ctx, i));
  if (s->ctx) {
    domains_close(&s->data);
    run_close(&s->model);
  }
  lk_ctx_free(s->ctx);
  return failed;
}

/* ---- pretraining ---- */

const char *pretrained(const settings *o, char *text, size_t size) {
  snprintf(text, size, "%s/pretrained", o->out);
  return text;
}

/* What a kept model was made with: it is used again only for the same. */
static void describe(const settings *o, char *text, size_t size) {
  snprintf(text, size, "%s, %lld drawn images, %lld epochs\n", o->preset, (long long)o->pretrain_images,
           (long long)o->pretrain_epochs);
}

static int is_kept(const char *stamp, const char *want) {
  char text[200] = "";
  FILE *f = lk_file_exists(stamp) ? fopen(stamp, "r") : NULL;
  if (!f) return 0;
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  return n == strlen(want) && !strcmp(text, want);
}

static lk_status train_and_save(session *s, const settings *o, const char *directory) {
  run_score score;
  run_result result = {0};
  run_source source = run_source_defaults();
  run_options train = run_defaults();
  source.train = o->pretrain_images;
  train.full = 1;
  train.epochs = o->pretrain_epochs;
  train.augment = 1;
  train.label = "pretrain";
  train.progress = o->quiet ? NULL : stderr;
  run_data *data = &s->data.run;
  if (!run_data_open(s->ctx, &source, s->model.vit->config.image_size, data) && !run_prepare(&s->model, &train) &&
      !run_train(&s->model, data, &train, &result) && !run_evaluate(&s->model, data->test, NULL, &score) &&
      !run_save(&s->model, directory))
    fprintf(stderr, "pretrained on drawn digits: %.2f %% of held-out ones, %.0f s\n", 100 * score.accuracy,
            result.seconds);
  run_result_free(s->ctx, &result);
  return lk_error(s->ctx, NULL);
}

int pretrain(const settings *o) {
  char directory[1024], stamp[1100], want[200];
  session s;
  pretrained(o, directory, sizeof directory);
  snprintf(stamp, sizeof stamp, "%s/made_with.txt", directory);
  describe(o, want, sizeof want);
  if (is_kept(stamp, want)) {
    fprintf(stderr, "pretrained model: %s, kept from before\n", directory);
    return 0;
  }
  if (!session_open(&s, o, o->preset, 1) && !train_and_save(&s, o, directory)) {
    lk_writer *w = lk_writer_open(s.ctx, stamp);
    if (w && !lk_write(w, want, strlen(want))) lk_writer_commit(w);
  }
  return session_close(&s);
}
