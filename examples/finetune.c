/* finetune.c: fine-tunes a vision transformer or a language model: with an adapter, whole, or its head alone.
 *
 *   finetune --model vit-tiny-28 --full --out base                           pretrains on drawn digits
 *   finetune --model base/model --data mnist --limit-train 1000 --out lora   adapts that to real ones
 *   finetune --model all-MiniLM-L6-v2 --data sst2 --out sst2                 classifies sentences
 *   finetune --model gpt2 --task lm --train book.txt --out book              goes on with a text
 *
 * Results go to stdout, progress and complaints to stderr.  Exit status: 0; 1 an error; 130 interrupted. */
#include "finetune.h"

#ifndef LK_VERSION
#define LK_VERSION "of the source tree"
#endif

#define PLACE(name) offsetof(settings, name)

static const option model_options[] = {
    {"model", OPTION_TEXT, PLACE(model), 0, 0, "NAME",
     "a directory in HuggingFace's layout (config.json, model.safetensors, for texts tokenizer.json), or a preset: "
     "vit-tiny-28, vit-small-28, ..."},
    {"base-dtype", OPTION_WORD, PLACE(run.base_dtype), 0, 0, "f32|bf16|int8|nf4",
     "of the frozen weights of linear layers; int8 and nf4 are coded in blocks of 64, as in QLoRA"},
    {"double-quant", OPTION_FLAG, PLACE(run.double_quant), 0, 0, NULL, "code the blocks' scales in 8 bits too"},
    {"bf16-products", OPTION_FLAG, PLACE(run.bf16_products), 0, 0, NULL,
     "multiply frozen weights stored in bf16 (--base-dtype bf16) in bf16: faster, less exact; needs oneDNN and "
     "AVX512_BF16"},
    {"seed", OPTION_INT, PLACE(seed), 0, 1e9, "N", "of new weights, of the data's choice and order, of every draw"},
    {"threads", OPTION_INT, PLACE(threads), 0, 1024, "N", "0: one for each core; the results do not depend on it"},
    {0}};

static const option output_options[] = {
    {"out", OPTION_TEXT, PLACE(out), 0, 0, "DIR", "for adapter/ (or model/), checkpoint, metrics.jsonl"},
    {"save-every", OPTION_INT, PLACE(run.save_every), 0, 1e9, "N", "steps between checkpoints; 0: after every epoch"},
    {"resume", OPTION_FLAG, PLACE(run.resume), 0, 0, NULL, "go on from the checkpoint in --out"},
    {"merge", OPTION_FLAG, PLACE(merge), 0, 0, NULL, "also write the merged model to DIR/merged"},
    {"as-lora", OPTION_FLAG, PLACE(as_lora), 0, 0, NULL, "also write the adapter as a plain LoRA for PEFT to DIR/lora"},
    {"predict", OPTION_TEXT, PLACE(predict), 0, 0, "FILE",
     "write index, prediction and probability of each test example; of --task embed its vector"},
    {"json", OPTION_FLAG, PLACE(json), 0, 0, NULL, "results as one JSON object"},
    {0}};

static const option mode_options[] = {
    {"eval", OPTION_FLAG, PLACE(eval), 0, 0, NULL, "judge --model (with a saved --adapter DIR) on the test examples"},
    {"dry-run", OPTION_FLAG, PLACE(dry_run), 0, 0, NULL, "show which layers would be adapted"},
    {"count", OPTION_FLAG, PLACE(count), 0, 0, NULL, "count the sites and parameters of the adapter alone"},
    {"shapes", OPTION_TEXT, PLACE(shapes), 0, 0, "FILE",
     "of --count and --dry-run: linear layers, one a line: path, in, out, bias"},
    {"list-adapters", OPTION_FLAG, PLACE(list_adapters), 0, 0, NULL, "show all adapters with their options"},
    {"version", OPTION_FLAG, PLACE(version), 0, 0, NULL, "show the version"},
    {"help", OPTION_FLAG, PLACE(version), 0, 0, NULL, "show this"},
    {0}};

static lk_status refuse(lk_ctx *ctx, const settings *s) {
  const run_options *r = &s->run;
  const char *say = NULL;
  int tunes = !s->count && !s->dry_run, adapts = !r->full && !r->probe;
  int details = r->targets || r->exclude || r->layers || r->modules_to_save || r->rank_pattern || r->alpha_pattern;
  if (r->full + r->probe + (r->adapter != NULL) > 1) say = "--full, --probe and --adapter exclude each other";
  else if (s->count + s->dry_run + s->eval > 1) say = "--count, --dry-run and --eval exclude each other";
  else if (s->shapes && tunes) say = "--shapes is for --count and --dry-run";
  else if (s->shapes && s->model) say = "--shapes and --model exclude each other";
  else if (!s->model && !s->shapes)
    say = "--model is needed: a directory, or a preset such as vit-tiny-28 (see --help)";
  else if (s->merge && !s->out) say = "--merge needs --out DIR";
  else if (r->resume && !s->out) say = "--resume needs --out DIR";
  else if (r->resume && s->eval) say = "--resume and --eval exclude each other";
  else if (!adapts && (s->merge || !tunes)) say = "--full and --probe have no adapter to merge or count";
  else if (r->base_dtype != LK_QUANT_NONE && !adapts && !s->eval)
    say = "--base-dtype is for adapters: the whole model is not written in fewer bits";
  else if (r->base_dtype > LK_QUANT_BF16 && s->merge)
    say = "--merge writes the whole model, of which --base-dtype int8 and nf4 keep codes only";
  else if (!adapts && (details || r->bias || r->loraplus > 0))
    say = "--targets, --exclude, --layers, --modules-to-save, --bias, --loraplus and patterns are for adapters";
  return say ? lk_fail(ctx, LK_EARG, "%s", say) : LK_OK;
}

static lk_status list_adapters(lk_ctx *ctx) {
  char *text = lk_adapter_catalogue(ctx, 0);
  if (text) fputs(text, stdout);
  lk_free(ctx, text);
  return lk_error(ctx, NULL);
}

static lk_status work(lk_ctx *ctx, settings *s) {
  if (s->list_adapters) return list_adapters(ctx);
  if (refuse(ctx, s)) return lk_error(ctx, NULL);
  if (s->run.bf16_products && lk_ctx_bf16_products(ctx, 1)) return lk_error(ctx, NULL);
  return s->count || s->dry_run ? job_look(ctx, s) : job_tune(ctx, s);
}

static int help(const option_group *groups) {
  printf("Usage: " NAME " --model NAME [options]\n"
         "Fine-tunes a vision transformer on images, or a language model on texts: with an adapter, whole, or its head "
         "alone.\n");
  options_help(groups, stdout);
  return fflush(stdout) || ferror(stdout);
}

int main(int argc, char **argv) {
  memory counter = {0, 0};
  settings s = {.run = run_defaults(), .source = run_source_defaults()};
  s.run.epochs = -1;
  s.run.started = run_now();
  const option_group groups[] = {{"Model", model_options, &s},
                                 {"Data", run_source_options, &s.source},
                                 {"Texts", text_options, &s.texts},
                                 {"What trains", run_method_options, &s.run},
                                 {"Training", run_training_options, &s.run},
                                 {"Output", output_options, &s},
                                 {"Instead of training", mode_options, &s},
                                 {0}};
  options_outcome outcome = options_parse(NAME, groups, argc, argv);
  if (outcome == OPTIONS_HELP) return help(groups);
  if (outcome == OPTIONS_WRONG) return 1;
  if (s.version) return printf(NAME " (lorikeet) " LK_VERSION "\n") < 0 || fflush(stdout);
  signal(SIGXFSZ, SIG_IGN); /* a file that grows too large is an error like a full disk */
  lk_allocator allocator = memory_allocator(&counter);
  s.run.progress = stderr;
  s.run.memory = &counter;
  lk_ctx *ctx = lk_ctx_new(&(lk_ctx_options){&allocator, (uint64_t)s.seed, (int)s.threads});
  const char *message = "out of memory";
  lk_status bad = ctx ? work(ctx, &s) : LK_ENOMEM;
  if (ctx) report_warnings(ctx);
  if (!bad && (fflush(stdout) || ferror(stdout))) bad = lk_fail(ctx, LK_EIO, "cannot write to standard output");
  if (ctx) lk_error(ctx, &message);
  if (bad) fprintf(stderr, NAME ": %s\n", message);
  lk_ctx_free(ctx);
  return bad ? 1 : s.stopped ? 130 : 0;
}
