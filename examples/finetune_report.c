/* finetune_report.c: what the program finetune tells at its end. */
#include "finetune.h"

#include <math.h>
#include <string.h>

void report_warnings(lk_ctx *ctx) {
  for (int i = 0; i < lk_warning_count(ctx); i++) fprintf(stderr, NAME ": warning: %s\n", lk_warning(ctx, i));
  lk_warnings_clear(ctx);
}

static const char *const parts[] = {"train", "validation", "test"};

static void put_real(lk_ctx *ctx, lk_json *j, const char *key, double value) {
  if (isfinite(value)) lk_json_set_real(ctx, j, key, value);
  else lk_json_set_null(ctx, j, key);
}

static void put_scores(lk_ctx *ctx, lk_json *j, const report *r, int perplexity) {
  for (int i = 0; i < 3; i++) {
    char key[40];
    snprintf(key, sizeof key, "%s_accuracy", parts[i]);
    put_real(ctx, j, key, r->score[i].accuracy);
    snprintf(key, sizeof key, i ? "%s_loss" : "loss", parts[i]);
    put_real(ctx, j, key, r->score[i].loss);
    snprintf(key, sizeof key, "%s_perplexity", parts[i]);
    if (perplexity) put_real(ctx, j, key, exp(r->score[i].loss));
  }
}

lk_status report_line(lk_ctx *ctx, lk_json *j) {
  char *text = lk_error(ctx, NULL) ? NULL : lk_json_dump(ctx, j, LK_JSON_COMPACT);
  if (text) puts(text);
  lk_free(ctx, text);
  lk_json_free(j);
  return lk_error(ctx, NULL);
}

static lk_status print_json(const job *k, const report *r) {
  const settings *s = k->s;
  lk_ctx *ctx = k->ctx;
  lk_json *j = lk_json_object(ctx);
  lk_json_set_string(ctx, j, "model", s->model);
  lk_json_set_string(ctx, j, "method", s->eval && !s->run.adapter ? "none" : run_method_name(&s->run));
  lk_json_set_int(ctx, j, "trainable_parameters", r->train.trainable);
  lk_json_set_int(ctx, j, "parameters", r->train.parameters);
  put_scores(ctx, j, r, k->perplexity);
  lk_json_set_int(ctx, j, "steps", r->train.steps);
  lk_json_set_int(ctx, j, "best_step", r->train.best_step);
  put_real(ctx, j, "lr", s->eval ? NAN : run_lr(&s->run));
  put_real(ctx, j, "step_ms", s->eval ? NAN : r->train.step_ms);
  put_real(ctx, j, "first_step_seconds", s->eval ? NAN : r->train.first_step_seconds);
  put_real(ctx, j, "seconds", r->train.seconds);
  put_real(ctx, j, "step_mb", r->train.step_mb);
  put_real(ctx, j, "peak_mb", (double)s->run.memory->peak / 1e6);
  put_real(ctx, j, "peak_rss_mb", memory_peak_rss_mb());
  if (s->merge) put_real(ctx, j, "merge_max_relative_change", r->merge.max_relative_change);
  if (r->train.notes) lk_json_set_string(ctx, j, "notes", r->train.notes);
  lk_json_set_int(ctx, j, "seed", s->seed);
  lk_json_set_int(ctx, j, "threads", lk_threads(ctx));
  return report_line(ctx, j);
}

static void print_text(const job *k, const report *r) {
  const settings *s = k->s;
  if (!s->eval)
    printf("%-11s %lld of %lld\n", "trained", (long long)r->train.trainable, (long long)r->train.parameters);
  for (int i = 0; i < 3; i++) {
    const run_score *score = &r->score[i];
    if (!isfinite(score->loss)) continue;
    if (isfinite(score->accuracy))
      printf("%-11s accuracy %.2f %%  loss %.4f\n", parts[i], 100 * score->accuracy, score->loss);
    else printf("%-11s loss %.4f  perplexity %.4g\n", parts[i], score->loss, exp(score->loss));
  }
  if (r->train.best_step)
    printf("%-11s step %lld of %lld (by validation)\n", "kept", (long long)r->train.best_step,
           (long long)r->train.steps);
  if (r->train.nlosses)
    printf("%-11s %.3g ms, the first one began after %.3g s\n", "step", r->train.step_ms, r->train.first_step_seconds);
  for (const char *line = r->train.notes; line && *line; line += strcspn(line, "\n"), line += *line == '\n')
    printf("%-11s %.*s\n", "adapter", (int)strcspn(line, "\n"), line);
  printf("%-11s %.1f MB, all of the process %.1f MB\n", "memory", (double)s->run.memory->peak / 1e6,
         memory_peak_rss_mb());
  if (s->merge)
    printf("%-11s %d layers, largest change %.2g of the largest weight (%s)\n", "merged", r->merge.sites,
           r->merge.max_relative_change, r->merge.site ? r->merge.site : "none");
}

lk_status report_print(const job *j, const report *r) {
  if (j->s->json) return print_json(j, r);
  print_text(j, r);
  return LK_OK;
}
