/* run_resume.c: what makes two training runs the same run. */
#include "run_resume.h"

#include <string.h>

static const char *text(const char *s) { return s ? s : ""; }

char *run_note(run_task *t, const run_options *o) {
  return lk_sprintf(t->ctx,
                    "method=%s; targets=%s; exclude=%s; layers=%s; rank-pattern=%s; alpha-pattern=%s; "
                    "modules-to-save=%s; bias=%d; base-dtype=%s%s%s; epochs=%lld; batch=%lld; accumulate=%lld; "
                    "lr=%.17g; schedule=%d; warmup=%.17g; weight-decay=%.17g; clip=%.17g; smoothing=%.17g; "
                    "augment=%.17g; loraplus=%.17g; sample=%.17g; warm-epochs=%lld; %s=%lld with checksum %016llx",
                    run_method_name(o), text(o->targets), text(o->exclude), text(o->layers), text(o->rank_pattern),
                    text(o->alpha_pattern), text(o->modules_to_save), o->bias,
                    lk_quant_name((lk_quant_kind)o->base_dtype), o->double_quant ? " doubled" : "",
                    o->bf16_products ? " bf16-products" : "", (long long)o->epochs, (long long)o->batch,
                    (long long)o->accumulate, run_lr(o), o->schedule, o->warmup, o->weight_decay, o->clip, o->smoothing,
                    o->augment, o->loraplus, o->sample, (long long)o->warm_epochs, t->class->unit,
                    (long long)t->class->examples(t, RUN_TRAIN), (unsigned long long)t->class->fingerprint(t));
}

int run_resumes(lk_ctx *ctx, const run_options *o) {
  char *path = o->resume && o->directory ? lk_sprintf(ctx, "%s/checkpoint.safetensors", o->directory) : NULL;
  int there = path && lk_file_exists(path);
  lk_free(ctx, path);
  return there;
}

lk_status run_check_note(lk_ctx *ctx, const char *checkpoint, const char *note) {
  lk_safetensors *f = lk_safetensors_open(ctx, checkpoint);
  if (!f) return lk_error(ctx, NULL);
  const char *was = lk_safetensors_metadata(f, "note"), *is = note;
  for (; was; was += 2, is += 2) { /* item by item */
    size_t n = strcspn(was, ";"), k = strcspn(is, ";");
    if (n != k || strncmp(was, is, n) != 0) {
      lk_fail(ctx, LK_EARG, "%s is of a run with %.*s, not %.*s", checkpoint, (int)n, was, (int)k, is);
      break;
    }
    if (!was[n] || !is[k]) break;
    was += n;
    is += k;
  }
  lk_safetensors_close(f);
  return lk_error(ctx, NULL);
}

lk_status run_cut_metrics(lk_ctx *ctx, const char *path, int64_t step) {
  size_t length;
  if (!lk_file_exists(path)) return LK_OK;
  char *all = lk_file_read_text(ctx, path, LK_JSON_MAX_BYTES, &length);
  lk_writer *w = all ? lk_writer_open(ctx, path) : NULL;
  for (char *line = all, *end; w && (end = strchr(line, '\n')); line = end + 1) {
    lk_json *j = lk_json_parse(ctx, line, (size_t)(end - line), path);
    int keep = j && lk_json_int(ctx, j, "step", 0) <= step;
    lk_json_free(j);
    if (!keep) break;
    lk_write(w, line, (size_t)(end - line) + 1);
  }
  if (w) lk_writer_commit(w);
  lk_free(ctx, all);
  return lk_error(ctx, NULL);
}
