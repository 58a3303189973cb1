/* fuzz_peft.c: any bytes as an adapter directory: the config up to the first zero byte, the tensors behind it.  Refused
 * with a sentence and nothing changed; or attached, and what is saved of it can be loaded again. */
#include "../files.h"
#include "fuzz.h"

#include <lorikeet/adapter.h>
#include <sys/stat.h>

enum { PARAMS = 6 };

typedef struct {
  lk_model *model;
  lk_param *params[PARAMS];
} net;

static net net_new(lk_ctx *ctx) {
  net n = {.model = lk_model_new(ctx, LK_F32, 0)};
  lk_module *root = lk_model_root(n.model), *block = lk_module_new(root, "m.blocks.0", "block", sizeof *block);
  lk_embedding_layer *embed = lk_embedding_new(root, "embed", 3, 2);
  lk_linear_layer *q = lk_linear_new(block, "q", 2, 2, 0), *head = lk_linear_new(root, "head", 2, 1, 0);
  lk_conv2d_layer *conv = lk_conv2d_new(block, "conv", 1, 1, (int64_t[]){1, 2}, NULL, LK_NO_BIAS);
  lk_param *all[PARAMS] = {embed->weight, q->weight, q->bias, head->weight, head->bias, conv->weight};
  memcpy(n.params, all, sizeof all);
  return n;
}

static double checksum(const net *n) {
  double sum = 0;
  for (int i = 0; i < PARAMS; i++)
    for (int64_t k = 0; k < lk_view_count(&n->params[i]->value); k++)
      sum = 1.25 * sum + lk_view_get(&n->params[i]->value, k);
  return sum;
}

/* In memory where there is such a place: saving waits for the disk. */
static const char *in_directory(const char *name) {
  static char paths[2][80];
  static int turn;
  turn = !turn;
  snprintf(paths[turn], sizeof paths[turn], "%s/fuzz-peft.%ld/%s", access("/dev/shm", W_OK) ? "." : "/dev/shm",
           (long)getpid(), name);
  return paths[turn];
}

/* What was loaded is saved, and that is loaded. */
static void check_loaded(lk_ctx *ctx, net *n) {
  int64_t trained = lk_adapter_count(n->model, "x");
  REQUIRE(lk_adapter_find(n->model, "x") && lk_adapter_first(n->model)->next == NULL);
  REQUIRE(lk_adapter_save(n->model, "x", in_directory(""), "base") == LK_OK);
  REQUIRE(lk_detach(n->model, "x") == LK_OK);
  REQUIRE(lk_adapter_load(n->model, "x", in_directory(""), 0) == LK_OK);
  REQUIRE(lk_adapter_count(n->model, "x") == 0 && lk_set_trainable(n->model, "x", 1) == LK_OK);
  REQUIRE(lk_adapter_count(n->model, "x") == trained && !lk_error(ctx, NULL));
}

static void check(const uint8_t *config, size_t nconfig, const uint8_t *tensors, size_t ntensors) {
  const char *message;
  lk_ctx *ctx = lk_ctx_new(NULL);
  net n = net_new(ctx);
  double before = checksum(&n);
  mkdir(in_directory(""), 0777);
  test_put(in_directory("adapter_config.json"), config, nconfig);
  test_put(in_directory("adapter_model.safetensors"), tensors, ntensors);
  lk_status status = lk_adapter_load(n.model, "x", in_directory(""), 1);
  REQUIRE(status == lk_error(ctx, &message));
  if (status) {
    REQUIRE(strlen(message) > 10 && !lk_adapter_first(n.model));
    for (int i = 0; i < PARAMS; i++) REQUIRE(n.params[i]->requires_grad && !n.params[i]->stand_in);
    lk_error_clear(ctx);
  } else {
    check_loaded(ctx, &n);
    REQUIRE(lk_detach(n.model, "x") == LK_OK);
  }
  REQUIRE(checksum(&n) == before);
  lk_model_free(n.model);
  lk_warnings_clear(ctx);
  REQUIRE(lk_ctx_statistics(ctx).live == 0);
  lk_ctx_free(ctx);
  remove(in_directory("adapter_config.json"));
  remove(in_directory("adapter_model.safetensors"));
  rmdir(in_directory(""));
}

/* With the length of the tensors' header put right. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
  size_t nconfig = zero ? (size_t)(zero - data) : size, n = zero ? size - nconfig - 1 : 0, end = n;
  uint8_t *tensors = malloc(n + 8);
  REQUIRE(tensors);
  if (n) memcpy(tensors, zero + 1, n);
  while (end > 8 && tensors[end - 1] != '}') end--;
  if (end > 8) test_little_endian(tensors, end - 8, 8);
  check(data, nconfig, tensors, n);
  free(tensors);
  return 0;
}

const char *const fuzz_words[] = {"\"lora_alpha\":2.5,",
                                  "\"use_dora\":true,",
                                  "\"use_rslora\":true,",
                                  "\"lora_dropout\":0.5,",
                                  "\"bias\":\"lora_only\",",
                                  "\"bias\":\"all\",",
                                  "\"init_lora_weights\":\"pissa\",",
                                  "\"init_lora_weights\":false,",
                                  "\"exclude_modules\":\".*q\",",
                                  "\"modules_to_save\":[\"head\"],",
                                  "\"layers_to_transform\":[0],",
                                  "\"layers_pattern\":\"blocks\",",
                                  "\"rank_pattern\":{\"q\":1},",
                                  "\"alpha_pattern\":{\"^blocks\":3},",
                                  "\"target_modules\":\"all-linear\",",
                                  "\"task_type\":\"SEQ_CLS\",",
                                  "(lora r=1)",
                                  "dropout p=0.5 (",
                                  " | magnitude",
                                  " | bias",
                                  "null",
                                  "[]",
                                  "\"F16\"",
                                  "\"BF16\"",
                                  NULL};

#define LORA(more) "{" more "\"peft_type\":\"LORA\",\"r\":1,\"target_modules\":"
#define OWN(spec) "{\"peft_type\":\"LORIKEET\",\"format_version\":1,\"targets\":\"q\",\"spec\":\"" spec "\""
#define T(name, shape, from, to)                                                                                       \
  "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}"
#define PEFT "base_model.model."
#define AB                                                                                                             \
  T(PEFT "m.blocks.0.q.lora_A.weight", "[1,2]", "0", "8") "," T(PEFT "m.blocks.0.q.lora_B.weight", "[2,1]", "8", "16")

static const struct {
  const char *config, *header;
  size_t data;
} seeds[] = {
    {LORA("") "[\"q\"]}", "{" AB "}", 16},
    {LORA("\"lora_dropout\":0.5,\"use_dora\":true,\"bias\":\"lora_only\",") "[\"q\"]}",
     "{" AB "," T(PEFT "m.blocks.0.q.lora_magnitude_vector", "[2]", "16",
                  "24") "," T(PEFT "m.blocks.0.q.base_layer.bias", "[2]", "24", "32") "}",
     32},
    {LORA("\"modules_to_save\":[\"head\"],\"init_lora_weights\":\"olora\",\"rank_pattern\":{\"q\":1},") "\".*\\\\.q\"}",
     "{" AB "," T(PEFT "head.weight", "[1,2]", "16", "24") "," T(PEFT "head.bias", "[1]", "24", "28") "}", 28},
    {LORA("\"use_rslora\":true,\"layers_to_transform\":0,\"lora_alpha\":-2,") "[\"embed\",\"conv\"]}",
     "{" T(PEFT "embed.lora_embedding_A", "[1,3]", "0", "12") "," T(
         PEFT "embed.lora_embedding_B", "[2,1]", "12", "20") "," T(PEFT "m.blocks.0.conv.lora_A.weight", "[1,1,1,2]",
                                                                   "20", "28") "," T(PEFT "m.blocks.0.conv.lora_B."
                                                                                          "weight",
                                                                                     "[1,1,1,1]", "28", "32") "}",
     32},
    {OWN("bias") ",\"overrides\":[],\"layers\":null}", "{" T("m.blocks.0.q.shift", "[2]", "0", "8") "}", 8},
    {OWN("dropout p=0.5 (lora:a r=1)") ",\"overrides\":[{\"pattern\":\"*q\",\"options\":\"alpha=3\"}]}",
     "{" T("m.blocks.0.q.a.lora_A.weight", "[1,2]", "0", "8") "," T("m.blocks.0.q.a.lora_B.weight", "[2,1]", "8",
                                                                    "16") "}",
     16},
};

size_t fuzz_seed(int i, uint8_t *to) {
  if (i >= (int)(sizeof seeds / sizeof *seeds)) return 0;
  size_t config = strlen(seeds[i].config) + 1, header = strlen(seeds[i].header), n = config + 8 + header;
  memcpy(to, seeds[i].config, config);
  test_little_endian(to + config, header, 8);
  memcpy(to + config + 8, seeds[i].header, header);
  for (size_t k = 0; k < seeds[i].data; k++) to[n++] = (uint8_t)(k % 4 == 3 ? 0x3F : k);
  return n;
}
