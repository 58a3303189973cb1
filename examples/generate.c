/* generate.c: continues texts with a language model, plain or adapted.
 *
 *   generate --model DIR --prompt "Once upon a time" --most 60 --temperature 0.8 --top-p 0.95 --seed 1
 *   generate --model DIR --adapter plays --adapter verse=other/dir --use verse --interactive
 *
 * Text goes to stdout as it comes; speeds, complaints and the prompt of --interactive go to stderr.  Exit status 0, or 1
 * on an error. */
#include "options.h"

#include <lorikeet.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NAME "generate"
#ifndef LK_VERSION
#define LK_VERSION "of the source tree"
#endif

enum { NAME_SIZE = 64, MOST_FILE = 1 << 26 };

typedef struct settings {
  const char *model, *prompt, *prompt_file, *ids, *use, *stop;
  option_list adapters;
  int64_t most, top_k, seed, threads;
  double temperature, top_p;
  int greedy, interactive, merge, no_special, keep_ending, version;
} settings;

#define PLACE(name) offsetof(settings, name)

static const option model_options[] = {
    {"model", OPTION_TEXT, PLACE(model), 0, 0, "DIR",
     "a directory in HuggingFace's layout: GPT-2, LLaMA, Mistral, Qwen"},
    {"adapter", OPTION_LIST, PLACE(adapters), 0, 0, "[NAME=]DIR",
     "load an adapter, named as its directory (of DIR/adapter, DIR); may be given several times"},
    {"use", OPTION_TEXT, PLACE(use), 0, 0, "NAME", "the adapter that is on, or none; the first one"},
    {"merge", OPTION_FLAG, PLACE(merge), 0, 0, NULL, "write the adapter that is on into the weights (in memory)"},
    {"threads", OPTION_INT, PLACE(threads), 0, 1024, "N", "0: one for each core; the text does not depend on it"},
    {0}};

static const option text_options[] = {
    {"prompt", OPTION_TEXT, PLACE(prompt), 0, 0, "TEXT", "to be continued; without any, each line of stdin is one"},
    {"prompt-file", OPTION_TEXT, PLACE(prompt_file), 0, 0, "FILE", "the same from a file, whole"},
    {"ids", OPTION_TEXT, PLACE(ids), 0, 0, "LIST", "the same as numbers of tokens, 5,7,9; numbers are printed"},
    {"most", OPTION_INT, PLACE(most), 1, 1e9, "N", "tokens for each prompt"},
    {"stop", OPTION_TEXT, PLACE(stop), 0, 0, "TEXT", "end before this text"},
    {"no-special", OPTION_FLAG, PLACE(no_special), 0, 0, NULL, "do not put the tokenizer's special tokens around"},
    {"keep-ending", OPTION_FLAG, PLACE(keep_ending), 0, 0, NULL, "go on behind the token that ends a text"},
    {"interactive", OPTION_FLAG, PLACE(interactive), 0, 0, NULL, "ask for prompts and commands: /help"},
    {0}};

static const option sample_options[] = {
    {"temperature", OPTION_REAL, PLACE(temperature), 0, 1e6, "T", "of the draws; 0: always the most likely token"},
    {"top-k", OPTION_INT, PLACE(top_k), 0, 1e9, "K", "draw from the K most likely tokens; 0: from all"},
    {"top-p", OPTION_REAL, PLACE(top_p), 0, 1, "P", "draw from the most likely tokens that reach this probability"},
    {"greedy", OPTION_FLAG, PLACE(greedy), 0, 0, NULL, "the same as --temperature 0"},
    {"seed", OPTION_INT, PLACE(seed), 0, 1e15, "N", "of the draws"},
    {"version", OPTION_FLAG, PLACE(version), 0, 0, NULL, "show the version"},
    {"help", OPTION_FLAG, PLACE(version), 0, 0, NULL, "show this"},
    {0}};

/* All that the program works with. */
typedef struct session {
  const settings *s;
  lk_ctx *ctx;
  lk_model *model;
  lk_pretrained *p;
  lk_tokenizer *tokenizer;
  lk_generator *generator;
  lk_text_stream *stream;
} session;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_warnings(lk_ctx *c) {
  for (int i = 0; i < lk_warning_count(c); i++) fprintf(stderr, NAME ": warning: %s\n", lk_warning(c, i));
  lk_warnings_clear(c);
}

/* ---- adapters ---- */

/* The last part of text .. to, a path, before its slashes; *to moves in front of them. */
static const char *last_part(const char *text, const char **to) {
  const char *from;
  while (*to > text && (*to)[-1] == '/') --*to;
  for (from = *to; from > text && from[-1] != '/'; from--) continue;
  return from;
}

/* "verse=dir", "a/verse/", or "a/verse/adapter", as finetune writes it: name, and where the directory begins. */
static const char *split_name(lk_ctx *c, const char *text, char name[NAME_SIZE]) {
  static const char usual[] = "adapter";
  const char *equals = strchr(text, '='), *from = text, *to = equals, *directory = equals ? equals + 1 : text;
  if (!equals) {
    to = text + strlen(text);
    from = last_part(text, &to);
    const char *above = from;
    int is_usual = (size_t)(to - from) == strlen(usual) && !strncmp(from, usual, strlen(usual));
    const char *parent = last_part(text, &above);
    if (is_usual && parent < above) from = parent, to = above;
  }
  size_t n = (size_t)(to - from);
  if (!n || n >= NAME_SIZE || !*directory)
    lk_fail(c, LK_EARG, "--adapter %.200s: its name should have 1 to %d letters", text, NAME_SIZE - 1);
  else snprintf(name, NAME_SIZE, "%.*s", (int)n, from);
  return directory;
}

static void list_adapters(session *x) {
  for (const lk_adapter *a = lk_adapter_first(x->model); a; a = a->next)
    fprintf(stderr, "%c %s: %s\n", a->active ? '*' : ' ', a->name, a->spec);
  if (!lk_adapter_first(x->model)) fprintf(stderr, "no adapters: --adapter DIR loads one\n");
}

/* Turns exactly this adapter on; "none": the plain model. */
static lk_status use(session *x, const char *name) {
  int none = !strcmp(name, "none");
  if (!none && !lk_adapter_find(x->model, name))
    return lk_fail(x->ctx, LK_EARG, "there is no adapter '%.60s'; /adapters shows those there are", name);
  if (x->s->merge && lk_is_merged(x->model)) lk_unmerge(x->model);
  lk_set_active(x->model, none ? 0 : 1, &name, NULL);
  if (x->s->merge && !none) lk_merge(x->model, NULL);
  return lk_error(x->ctx, NULL);
}

static lk_status load_adapters(session *x) {
  const char *first = "none";
  for (int i = 0; i < x->s->adapters.n && !lk_error(x->ctx, NULL); i++) {
    char name[NAME_SIZE] = "";
    const char *directory = split_name(x->ctx, x->s->adapters.item[i], name);
    if (!lk_error(x->ctx, NULL)) lk_adapter_load(x->model, name, directory, 0);
  }
  if (lk_error(x->ctx, NULL) || !lk_adapter_first(x->model)) return lk_error(x->ctx, NULL);
  first = lk_adapter_first(x->model)->name;
  return use(x, x->s->use ? x->s->use : first);
}

/* ---- generating ---- */

static void print_speed(const session *x, int64_t prompt, double read, double wrote) {
  int64_t n = lk_generator_count(x->generator);
  fprintf(stderr, "%lld tokens of prompt in %.1f ms; %lld tokens in %.1f ms, %.1f tokens/s\n", (long long)prompt,
          1e3 * read, (long long)n, 1e3 * wrote, wrote > 0 ? (double)n / wrote : 0.0);
}

static lk_status print_token(session *x, int64_t id) {
  if (x->stream) fputs(lk_text_stream_add(x->stream, id), stdout);
  else printf("%s%lld", lk_generator_count(x->generator) > 1 ? "," : "", (long long)id);
  if (fflush(stdout)) return lk_fail(x->ctx, LK_EIO, "cannot write to standard output");
  return lk_error(x->ctx, NULL);
}

static lk_status continue_tokens(session *x, const int64_t *ids, int64_t n) {
  double begin = now();
  if (lk_generator_start(x->generator, ids, n)) return lk_error(x->ctx, NULL);
  if (x->stream) lk_text_stream_start(x->stream, ids, n);
  double read = now();
  for (int64_t id; (id = lk_generator_next(x->generator)) >= 0;)
    if (print_token(x, id) || (x->stream && lk_text_stream_stopped(x->stream))) break;
  if (x->stream) fputs(lk_text_stream_end(x->stream), stdout);
  putchar('\n');
  if (fflush(stdout)) lk_fail(x->ctx, LK_EIO, "cannot write to standard output");
  if (!lk_error(x->ctx, NULL)) print_speed(x, n, read - begin, now() - read);
  return lk_error(x->ctx, NULL);
}

static lk_status continue_text(session *x, const char *text) {
  lk_encoding e;
  const lk_encode_options o = {.no_special = x->s->no_special, .most = -1, .pad_to = -1};
  if (lk_encode(x->tokenizer, text, NULL, &o, &e)) return lk_error(x->ctx, NULL);
  continue_tokens(x, e.ids, e.n);
  lk_encoding_free(x->tokenizer, &e);
  return lk_error(x->ctx, NULL);
}

/* "5,7,9" */
static lk_status continue_ids(session *x, const char *list) {
  size_t n = 0, capacity = 0;
  int64_t *ids = NULL;
  while (*list && !lk_error(x->ctx, NULL)) {
    char *end;
    long long id = strtoll(list, &end, 10);
    if (end == list || (*end && *end != ',')) lk_fail(x->ctx, LK_EARG, "--ids: '%.40s' is not a number", list);
    else if (!lk_grow(x->ctx, &ids, &capacity, n + 1, sizeof *ids)) ids[n++] = id;
    list = end + (*end == ',');
  }
  if (!lk_error(x->ctx, NULL)) continue_tokens(x, ids, (int64_t)n);
  lk_free(x->ctx, ids);
  return lk_error(x->ctx, NULL);
}

/* ---- prompts ---- */

static int command(session *x, const char *line) {
  if (line[0] != '/') return 0;
  if (!strncmp(line, "/use ", 5)) use(x, line + 5);
  else if (!strcmp(line, "/adapters")) list_adapters(x);
  else if (!strcmp(line, "/help"))
    fprintf(stderr, "a line is a prompt; /use NAME (or none) switches adapters, /adapters lists them, /quit ends\n");
  else lk_fail(x->ctx, LK_EARG, "%.40s is no command; /help shows them", line);
  return 1;
}

/* What went wrong with one line does not end the conversation. */
static void say_error(session *x) {
  const char *message;
  if (lk_error(x->ctx, &message)) fprintf(stderr, NAME ": %s\n", message);
  lk_error_clear(x->ctx);
  print_warnings(x->ctx);
}

static lk_status prompts_of_lines(session *x) {
  char *line = NULL;
  size_t capacity = 0;
  int talks = x->s->interactive, asks = talks && isatty(STDIN_FILENO);
  while (!lk_error(x->ctx, NULL)) {
    if (asks) fputs("> ", stderr);
    ssize_t n = getline(&line, &capacity, stdin);
    if (n < 0) break;
    if (n && line[n - 1] == '\n') line[--n] = 0;
    if (talks && !strcmp(line, "/quit")) break;
    if (!n) continue;
    if (!talks || !command(x, line)) continue_text(x, line);
    if (talks && lk_error(x->ctx, NULL) != LK_EIO) say_error(x);
  }
  free(line);
  return lk_error(x->ctx, NULL);
}

static lk_status prompts(session *x) {
  const settings *s = x->s;
  if (s->ids) return continue_ids(x, s->ids);
  if (s->prompt) return continue_text(x, s->prompt);
  if (!s->prompt_file) return prompts_of_lines(x);
  char *text = lk_file_read_text(x->ctx, s->prompt_file, MOST_FILE, NULL);
  if (text) continue_text(x, text);
  lk_free(x->ctx, text);
  return lk_error(x->ctx, NULL);
}

/* ---- the program ---- */

static lk_status refuse(lk_ctx *c, const settings *s) {
  const char *say = NULL;
  int given = (s->prompt != NULL) + (s->prompt_file != NULL) + (s->ids != NULL) + s->interactive;
  if (!s->model) say = "--model DIR is needed (see --help)";
  else if (given > 1) say = "--prompt, --prompt-file, --ids and --interactive exclude each other";
  else if (s->ids && s->stop) say = "--stop is a text, and --ids knows none";
  else if (s->use && !s->adapters.n) say = "--use needs an --adapter";
  else if (s->merge && !s->adapters.n) say = "--merge needs an --adapter";
  return say ? lk_fail(c, LK_EARG, "%s", say) : LK_OK;
}

static lk_status open_all(session *x) {
  const settings *s = x->s;
  const lk_generate_options o = {
      .most = s->most,
      .seed = (uint64_t)s->seed,
      .keep_ending = s->keep_ending,
      .sample = {.temperature = s->greedy ? 0 : s->temperature, .top_k = s->top_k, .top_p = s->top_p}};
  x->model = lk_model_new(x->ctx, LK_F32, 0);
  x->p = lk_pretrained_open(x->model, s->model, &(lk_pretrained_options){.task = LK_TASK_LM});
  if (x->p && !s->ids) x->tokenizer = lk_tokenizer_open(x->ctx, s->model);
  if (x->tokenizer && lk_tokenizer_size(x->tokenizer) > x->p->vocabulary) /* an adapter may have trained the new ones */
    lk_pretrained_resize(x->p, lk_tokenizer_size(x->tokenizer));
  if (lk_error(x->ctx, NULL) || load_adapters(x)) return lk_error(x->ctx, NULL);
  if (x->tokenizer) x->stream = lk_text_stream_new(x->ctx, x->tokenizer, s->stop);
  x->generator = lk_generator_new(x->p, &o);
  print_warnings(x->ctx);
  return lk_error(x->ctx, NULL);
}

static lk_status work(lk_ctx *ctx, const settings *s) {
  session x = {.s = s, .ctx = ctx};
  if (!refuse(ctx, s) && !open_all(&x)) prompts(&x);
  lk_generator_free(x.generator);
  lk_text_stream_free(x.stream);
  lk_tokenizer_free(x.tokenizer);
  lk_model_free(x.model);
  return lk_error(ctx, NULL);
}

static int help(const option_group *groups) {
  printf("Usage: " NAME " --model DIR [options]\n"
         "Continues texts with a language model, plain or adapted.\n");
  options_help(groups, stdout);
  return fflush(stdout) || ferror(stdout);
}

int main(int argc, char **argv) {
  settings s = {.most = 100, .top_p = 1};
  const option_group groups[] = {
      {"Model", model_options, &s}, {"Text", text_options, &s}, {"Choosing tokens", sample_options, &s}, {0}};
  options_outcome outcome = options_parse(NAME, groups, argc, argv);
  if (outcome == OPTIONS_HELP) return help(groups);
  if (outcome == OPTIONS_WRONG) return 1;
  if (s.version) return printf(NAME " (lorikeet) " LK_VERSION "\n") < 0 || fflush(stdout);
  lk_ctx *ctx = lk_ctx_new(&(lk_ctx_options){.threads = (int)s.threads});
  const char *message = "out of memory";
  lk_status bad = ctx ? work(ctx, &s) : LK_ENOMEM;
  if (ctx) print_warnings(ctx);
  if (ctx) lk_error(ctx, &message);
  if (bad) fprintf(stderr, NAME ": %s\n", message);
  lk_ctx_free(ctx);
  return bad ? 1 : 0;
}
