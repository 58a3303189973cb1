/* test_generate_program.c: the programs generate and inspect as a user runs them: ids, text, adapters, commands, match
 * tables, and directories that are broken or hostile. */
#include "files.h"
#include "tiny_tokenizer.h"

#include <check.h>
#include <lorikeet.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char here[4096], programs[4096];
static char out[1 << 18], err[1 << 16];
static int status;

static void setup(void) {
  const char *source = getenv("srcdir"), *build = getenv("builddir");
  if (!realpath(source ? source : ".", here) || !realpath(build ? build : ".", programs)) abort();
  test_directory();
}

static void read_text(const char *path, char *to, size_t size) {
  size_t n;
  unsigned char *bytes = test_get(path, &n);
  ck_assert(bytes && n < size);
  memcpy(to, bytes, n);
  to[n] = 0;
  free(bytes);
}

/* Runs a program with these words, as the shell takes them; fills out, err and status. */
static void run(const char *program, const char *words) {
  char line[20000];
  snprintf(line, sizeof line, "'%s/examples/%s' %s > out.txt 2> err.txt", programs, program, words);
  int ended = system(line);
  ck_assert_msg(WIFEXITED(ended), "%s %s: a signal", program, words);
  status = WEXITSTATUS(ended);
  read_text("out.txt", out, sizeof out);
  read_text("err.txt", err, sizeof err);
}

static void runs(const char *program, const char *words) {
  run(program, words);
  ck_assert_msg(status == 0, "%s %s: exit status %d: %s", program, words, status, err);
}

/* Exit status 1, nothing on stdout, one sentence on stderr that has the words. */
static void refuses(const char *program, const char *words, const char *said) {
  run(program, words);
  ck_assert_msg(status == 1, "%s %s: exit status %d", program, words, status);
  ck_assert_msg(!*out, "%s %s printed '%.80s'", program, words, out);
  const char *newline = strchr(err, '\n');
  ck_assert_msg(newline && !newline[1], "%s %s said '%s'", program, words, err);
  ck_assert_msg(strstr(err, said) != NULL, "%s %s: '%s' lacks '%s'", program, words, err, said);
}

static void says(const char *text) { ck_assert_msg(strstr(out, text) != NULL, "'%s' is not in '%.900s'", text, out); }

/* "m": a copy of a golden model with the tiny tokenizer. */
static void copy_model(const char *name) {
  static const char *const files[] = {"config.json", "model.safetensors"};
  mkdir("m", 0777);
  for (int i = 0; i < 2; i++) {
    char from[4400], to[100];
    size_t n;
    snprintf(from, sizeof from, "%s/tests/golden/models/%s/%s", here, name, files[i]);
    snprintf(to, sizeof to, "m/%s", files[i]);
    unsigned char *bytes = test_get(from, &n);
    ck_assert(bytes != NULL);
    test_put(to, bytes, n);
    free(bytes);
  }
  tiny_tokenizer_write("m/tokenizer.json");
}

/* An adapter directory of "m" that changes what the model says. */
static void make_adapter(const char *directory, double size) {
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_pretrained_open(model, "m", &(lk_pretrained_options){.task = LK_TASK_LM});
  lk_attach(model, "x", "lora r=2", "all-linear");
  int n = 0;
  lk_param **all = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) lk_param_normal(all[i], 0, size);
  lk_adapter_save(model, "x", directory, "m");
  lk_free(ctx, all);
  ck_assert_int_eq(lk_error(ctx, NULL), LK_OK);
  lk_model_free(model);
  lk_ctx_free(ctx);
}

/* ---- generate ---- */

START_TEST(help) {
  runs("generate", "--help");
  says("--top-p P");
  runs("generate", "--version");
  says("generate (lorikeet)");
  runs("inspect", "--help");
  says("--targets PATTERNS");
}
END_TEST

/* As in golden/models/llama_lm/generate.safetensors, and the same with a head start. */
START_TEST(greedy) {
  copy_model("llama_lm");
  runs("generate", "--model m --ids 48,42,27,21,16,16 --most 8 --keep-ending");
  ck_assert_str_eq(out, "30,9,30,44,25,44,25,44\n");
  ck_assert(strstr(err, "8 tokens in ") != NULL && strstr(err, "tokens/s") != NULL);
  runs("generate", "--model m --ids 48,42,27,21,16,16,30,9 --most 3 --temperature 0.9 --top-k 1 --threads 1");
  ck_assert_str_eq(out, "30,44,25\n");
}
END_TEST

START_TEST(draws) {
  char first[2000];
  copy_model("llama_lm");
  runs("generate", "--model m --prompt 'abc dAQ' --most 20 --temperature 3 --seed 1 --threads 1 --keep-ending");
  strcpy(first, out);
  ck_assert_uint_gt(strlen(out), 10);
  runs("generate", "--model m --prompt 'abc dAQ' --most 20 --temperature 3 --seed 1 --threads 2 --keep-ending");
  ck_assert_str_eq(out, first);
  runs("generate", "--model m --prompt 'abc dAQ' --most 20 --temperature 3 --seed 2 --keep-ending");
  ck_assert_str_ne(out, first);
}
END_TEST

/* From the command line, from a file, from lines; cut by a stop text. */
START_TEST(texts) {
  char first[2000], cut[2000];
  copy_model("llama_lm");
  runs("generate", "--model m --prompt 'abc' --most 12 --keep-ending");
  strcpy(first, out);
  ck_assert_uint_gt(strlen(first), 6);
  test_put("prompt.txt", "abc", 3);
  runs("generate", "--model m --prompt-file prompt.txt --most 12 --keep-ending");
  ck_assert_str_eq(out, first);
  runs("generate", "--model m --most 12 --keep-ending < prompt.txt");
  ck_assert_str_eq(out, first);
  snprintf(cut, sizeof cut, "--model m --prompt abc --most 12 --keep-ending --stop '%.2s'", first + 3);
  runs("generate", cut);
  const char *found = strstr(first, (char[]){first[3], first[4], 0});
  ck_assert_uint_eq(strlen(out), (size_t)(found - first) + 1);
  ck_assert(!strncmp(out, first, strlen(out) - 1));
}
END_TEST

START_TEST(adapters) {
  char plain[2000], one[2000], two[2000], expected[8000];
  copy_model("llama_lm");
  make_adapter("one", 1);
  make_adapter("two", 3);
  runs("generate", "--model m --prompt abc --most 9 --keep-ending");
  strcpy(plain, out);
  runs("generate", "--model m --prompt abc --most 9 --keep-ending --adapter one");
  strcpy(one, out);
  runs("generate", "--model m --prompt abc --most 9 --keep-ending --adapter one --adapter second=two/ --use second");
  strcpy(two, out);
  ck_assert(strcmp(plain, one) && strcmp(plain, two) && strcmp(one, two));
  mkdir("verse", 0777); /* as finetune --out verse writes it */
  make_adapter("verse/adapter", 1);
  runs("generate", "--model m --prompt abc --most 9 --keep-ending --adapter two --adapter verse/adapter/ --use verse");
  ck_assert_str_eq(out, one);
  runs("generate", "--model m --prompt abc --most 9 --keep-ending --adapter one --merge");
  ck_assert_str_eq(out, one);
  const char *talk =
      "/adapters\nabc\n/use none\nabc\n/use two\nabc\n/use three\n/nonsense\n/help\n\n/use one\nabc\n/quit\nabc\n";
  test_put("talk.txt", talk, strlen(talk));
  snprintf(expected, sizeof expected, "%s%s%s%s", one, plain, two, one);
  for (int merge = 0; merge < 2; merge++) {
    char words[300];
    snprintf(words, sizeof words,
             "--model m --most 9 --keep-ending --adapter one --adapter two --interactive %s < talk.txt",
             merge ? "--merge" : "");
    runs("generate", words);
    ck_assert_str_eq(out, expected);
    ck_assert(strstr(err, "* one: ") && strstr(err, "  two: ") && strstr(err, "no adapter 'three'") &&
              strstr(err, "/nonsense is no command"));
  }
}
END_TEST

START_TEST(wrong_options) {
  copy_model("llama_lm");
  refuses("generate", "", "--model DIR is needed");
  refuses("generate", "--model m --prompt a --ids 3", "exclude each other");
  refuses("generate", "--model m --use x --prompt a", "--use needs an --adapter");
  refuses("generate", "--model m --top-p 2 --prompt a", "--top-p '2' is not a number from 0 to 1");
  refuses("generate", "--model m --ids 3,x", "'x' is not a number");
  refuses("generate", "--model m --ids 3,53", "token 1 of the prompt is 53");
  refuses("generate", "--model m --ids ''", "a prompt needs a token");
  refuses("generate", "--model m --prompt-file none", "none");
  refuses("generate", "--model m --adapter none --prompt a", "no adapter_config.json in 'none'");
  refuses("generate", "--model none --prompt a", "none/config.json");
  refuses("inspect", "", "a directory is needed");
  refuses("inspect", "none", "none/config.json");
  remove("m/tokenizer.json");
  refuses("generate", "--model m --prompt a", "m");
}
END_TEST

/* ---- inspect ---- */

static const char *const directories[] = {"bert_sharded",     "gpt2_lm",        "llama_bf16", "qwen3",
                                          "roberta_classify", "bert_masked_lm", "vit_tiny"};
static const char *const shown[] = {"5, with 41 tensors in 45,548 bytes",
                                    "F32 [24, 72]                      1,728",
                                    "BF16 [53, 24]                     1,272",
                                    "self_attn.q_norm",
                                    "    out_proj",
                                    "transform.LayerNorm",
                                    "layernorm_before"};

START_TEST(shows) {
  char words[4400];
  snprintf(words, sizeof words, "%s/tests/golden/models/%s", here, directories[_i]);
  runs("inspect", words);
  says(shown[_i]);
  says("parameters ");
  ck_assert_msg(!strstr(out, " none ["), "a tensor was not found: %.900s", out);
}
END_TEST

/* A tied head has no parameters of its own. */
START_TEST(tied) {
  copy_model("gpt2_lm");
  runs("inspect", "m --targets lm_head");
  says("transformer.wte.weight                0\n");
  ck_assert_msg(!strstr(out, " none ["), "a tensor was not found: %.900s", out);
}
END_TEST

START_TEST(matches) {
  copy_model("llama_lm");
  make_adapter("one", 1);
  runs("inspect", "m --targets q_proj,v_proj --adapter one");
  says("  tokens                             53\n");
  says("<pad>                              0, special");
  says("\"LORA\"");
  says("model.layers.1.self_attn.v_proj");
  says("lora r=8");
  refuses("inspect", "none --targets q_proj", "none");
  run("inspect", "m --targets nothing");
  ck_assert(status == 1 && strstr(err, "'nothing'") != NULL);
}
END_TEST

/* ---- hostile directories ---- */

static const struct {
  const char *config, *said;
} configs[] = {
    {"", "config.json"},
    {"{\"model_type\": \"llama\", \"hidden_si", "config.json:1"},
    {"[]", "config.json"},
    {"{}", "model_type is ''"},
    {"{\"model_type\": 7}", "model_type"},
    {"{\"model_type\": \"mamba\"}", "model_type is 'mamba'"},
    {"{\"model_type\": \"llama\", \"hidden_size\": 1000000000}", "hidden_size is 1000000000"},
    {"{\"model_type\": \"llama\", \"hidden_size\": \"24\"}", "hidden_size"},
    {"{\"model_type\": \"llama\", \"hidden_size\": 24.5}", "hidden_size"},
    {"{\"model_type\": \"llama\", \"hidden_size\": -1}", "hidden_size is -1"},
    {"{\"model_type\": \"llama\", \"num_hidden_layers\": 100000}", "num_hidden_layers is 100000"},
    {"{\"model_type\": \"llama\", \"num_attention_heads\": 0}", "num_attention_heads is 0"},
    {"{\"model_type\": \"llama\", \"num_attention_heads\": 6, \"num_key_value_heads\": 4}", "no multiple"},
    {"{\"model_type\": \"llama\", \"head_dim\": 7}", "head_dim 7 is odd"},
    {"{\"model_type\": \"llama\", \"vocab_size\": 99999999999}", "vocab_size is 99999999999"},
    {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"longrope\"}}", "longrope"},
    {"{\"model_type\": \"llama\", \"rope_scaling\": 3}", "rope_parameters"},
    {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"linear\"}}", "factor"},
    {"{\"model_type\": \"llama\", \"hidden_act\": \"swosh\"}", "swosh"},
    {"{\"model_type\": \"llama\", \"pad_token_id\": \"x\"}", "pad_token_id"},
    {"{\"model_type\": \"llama\", \"sliding_window\": {}}", "sliding_window"},
    {"{\"model_type\": \"gpt2\", \"n_head\": 5}", "n_head 5"},
    {"{\"model_type\": \"gpt2\", \"add_cross_attention\": true}", "add_cross_attention"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": 4, \"n_layer\": 5}", "config.json:1"},
    {"{\"model_type\": \"gpt2\", \"id2label\": [1]}", "id2label"},
};
enum { CONFIGS = sizeof configs / sizeof *configs };

START_TEST(bad_config) {
  copy_model("llama_lm");
  test_put("m/config.json", configs[_i].config, strlen(configs[_i].config));
  refuses("generate", "--model m --ids 3", configs[_i].said);
  refuses("inspect", "m", configs[_i].said);
}
END_TEST

START_TEST(deep_config) {
  static char text[200001];
  copy_model("llama_lm");
  memset(text, '[', sizeof text - 1);
  memcpy(text, "{\"model_type\":", 14);
  test_put("m/config.json", text, sizeof text - 1);
  refuses("generate", "--model m --ids 3", "config.json: nested deeper than 128");
}
END_TEST

/* A file that ends too early, one with a changed header, one of another model, none. */
START_TEST(bad_weights) {
  size_t n;
  copy_model("llama_lm");
  unsigned char *bytes = test_get("m/model.safetensors", &n);
  test_put("m/model.safetensors", bytes, n / 2);
  refuses("generate", "--model m --ids 3", "model.safetensors");
  refuses("inspect", "m", "model.safetensors");
  bytes[3] = 0xFF;
  test_put("m/model.safetensors", bytes, n);
  refuses("generate", "--model m --ids 3", "model.safetensors");
  free(bytes);
  remove("m/model.safetensors");
  refuses("generate", "--model m --ids 3", "model.safetensors");
  test_put("m/model.safetensors.index.json", "{\"weight_map\": {\"lm_head.weight\": \"../../etc/passwd\"}}", 54);
  refuses("generate", "--model m --ids 3", "beside the index");
  refuses("inspect", "m", "beside the index");
  test_put("m/model.safetensors.index.json", "{\"weight_map\": {\"a\": \"model.safetensors.index.json\"}}", 52);
  refuses("generate", "--model m --ids 3", "model.safetensors.index.json");
  copy_model("gpt2_lm");
  test_put("m/config.json", "{\"model_type\": \"llama\", \"hidden_size\": 24, \"num_attention_heads\": 4}", 68);
  refuses("generate", "--model m --ids 3", "missing");
}
END_TEST

START_TEST(bad_tokenizer) {
  copy_model("llama_lm");
  test_put("m/tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -5}, \"merges\": 3}}", 60);
  refuses("generate", "--model m --prompt a", "m/tokenizer.json");
  runs("inspect", "m");
  says("cannot be used");
  test_put("m/tokenizer.json", "{\"model", 7);
  refuses("generate", "--model m --prompt a", "m/tokenizer.json");
}
END_TEST

int main(void) {
  Suite *s = suite_create("generate_program");
  TCase *c = tcase_create("generate_program");
  tcase_set_timeout(c, 240);
  tcase_add_checked_fixture(c, setup, test_directory_remove);
  tcase_add_test(c, help);
  tcase_add_test(c, greedy);
  tcase_add_test(c, draws);
  tcase_add_test(c, texts);
  tcase_add_test(c, adapters);
  tcase_add_test(c, wrong_options);
  tcase_add_loop_test(c, shows, 0, 7);
  tcase_add_test(c, matches);
  tcase_add_test(c, tied);
  tcase_add_loop_test(c, bad_config, 0, CONFIGS);
  tcase_add_test(c, deep_config);
  tcase_add_test(c, bad_weights);
  tcase_add_test(c, bad_tokenizer);
  suite_add_tcase(s, c);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
