/* fuzz_config.c: any bytes as a model's config.json: refused with a sentence, or a model of shapes is built; a small one
 * also with values, and its forward runs, with a cache too. */
#include "fuzz.h"

#include <lorikeet.h>
#include <string.h>

enum { TASKS = 4, T = 3, SMALL = 1 << 14 };

static void run(lk_pretrained *p) {
  static const int64_t ids[T] = {0};
  lk_ctx *ctx = p->ctx;
  if (!p->vocabulary) return; /* it takes images */
  lk_tape *t = lk_tape_new(ctx);
  lk_no_grad(t, 1);
  int64_t n = p->most_tokens && p->most_tokens < T ? p->most_tokens : T;
  lk_cache *cache = p->task == LK_TASK_LM ? lk_cache_new(p, 1, n) : NULL;
  for (int cached = 0; cached <= (cache != NULL); cached++) {
    lk_tape_reset(t);
    lk_inputs in = {.ids = lk_input(t, LK_I64, 2, (int64_t[]){1, n}, ids), .cache = cached ? cache : NULL};
    lk_tensor y = lk_pretrained_forward(p, t, &in);
    lk_view v;
    REQUIRE(!lk_error(ctx, NULL) && !lk_get(t, y, &v) && lk_view_count(&v) > 0);
  }
  lk_cache_free(cache);
  lk_tape_free(t);
}

static int64_t build(lk_ctx *ctx, const lk_json *config, int task, int flags) {
  const char *message;
  int64_t count = 0;
  lk_model *model = lk_model_new(ctx, LK_F32, flags);
  lk_pretrained *p = lk_pretrained_new(model, config, &(lk_pretrained_options){.task = (lk_task)task});
  lk_status status = lk_error(ctx, &message);
  REQUIRE((p == NULL) == (status != LK_OK));
  if (status) {
    REQUIRE(strlen(message) > 10 && status != LK_ENOMEM);
    lk_error_clear(ctx);
  } else {
    count = lk_parameter_count(model);
    REQUIRE(count > 0);
    if (!flags) run(p);
  }
  lk_model_free(model);
  return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lk_ctx *ctx = lk_ctx_new(&(lk_ctx_options){.threads = 1});
  lk_json *config = lk_json_parse(ctx, (const char *)data, size, "config.json");
  for (int task = 0; config && task < TASKS; task++) {
    int64_t count = build(ctx, config, task, LK_SHAPES_ONLY);
    if (count > 0 && count < SMALL) build(ctx, config, task, 0);
  }
  lk_json_free(config);
  lk_error_clear(ctx);
  lk_warnings_clear(ctx);
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
  return 0;
}

const char *const fuzz_words[] = {"\"model_type\":\"roberta\",",
                                  "\"model_type\":\"mistral\",",
                                  "\"model_type\":\"qwen2\",",
                                  "\"model_type\":\"qwen3\",",
                                  "\"hidden_size\":1000000000,",
                                  "\"num_hidden_layers\":100000,",
                                  "\"num_hidden_layers\":1,",
                                  "\"vocab_size\":9223372036854775807,",
                                  "\"pad_token_id\":9223372036854775807,",
                                  "\"head_dim\":3,",
                                  "\"head_dim\":4,",
                                  "\"num_key_value_heads\":3,",
                                  "\"max_position_embeddings\":1,",
                                  "\"sliding_window\":2,",
                                  "\"layer_types\":[\"sliding_attention\"],",
                                  "\"attention_bias\":true,",
                                  "\"tie_word_embeddings\":true,",
                                  "\"id2label\":{\"0\":\"a\"},",
                                  "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},",
                                  "\"rope_type\":\"llama3\",",
                                  "\"rope_type\":\"dynamic\",",
                                  "\"low_freq_factor\":1,",
                                  "\"beta_fast\":1e-300,",
                                  "1e308",
                                  "-1",
                                  "0.5",
                                  "null",
                                  "[]",
                                  "{}",
                                  NULL};

#define BERT                                                                                                           \
  "\"vocab_size\":7,\"hidden_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"intermediate_size\":3,"      \
  "\"max_position_embeddings\":9}"
#define LLAMA "\"num_key_value_heads\":1," BERT

static const char *const seeds[] = {
    "{\"model_type\":\"vit\",\"image_size\":4,\"patch_size\":2,\"num_channels\":1," BERT,
    "{\"model_type\":\"bert\",\"pad_token_id\":0,\"hidden_act\":\"relu\"," BERT,
    "{\"model_type\":\"roberta\",\"pad_token_id\":1,\"type_vocab_size\":1,\"num_labels\":3," BERT,
    "{\"model_type\":\"gpt2\",\"vocab_size\":7,\"n_embd\":4,\"n_layer\":1,\"n_head\":2,\"n_inner\":3,\"n_positions\":9,"
    "\"activation_function\":\"gelu_new\",\"eos_token_id\":[1,2]}",
    "{\"model_type\":\"llama\",\"hidden_act\":\"silu\"," LLAMA,
    "{\"model_type\":\"mistral\",\"sliding_window\":2," LLAMA,
    "{\"model_type\":\"qwen3\",\"head_dim\":6,\"layer_types\":[\"full_attention\"]," LLAMA,
    "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":10000.0,\"factor\":4.0,"
    "\"original_max_position_embeddings\":8}," LLAMA,
    "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":10000.0,\"factor\":4.0,"
    "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8}," LLAMA,
    "{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}," LLAMA};

size_t fuzz_seed(int i, uint8_t *to) {
  if (i >= (int)(sizeof seeds / sizeof *seeds)) return 0;
  memcpy(to, seeds[i], strlen(seeds[i]));
  return strlen(seeds[i]);
}
