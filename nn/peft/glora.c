/* glora.c: PEFT's GLORA: "glora" with one form for A and B and one for D and E, to and from GloraConfig.
 *
 * https://github.com/huggingface/peft, src/peft/tuners/glora/config.py.  All sites have the same options there, layers
 * without bias get no C, D, E, layers stored [in, out] (Conv1D) are not adapted, and targets cannot be narrowed. */
#include "peft.h"

#include <string.h>

static int same_word(const lk_adapter *a, const char *key, const char *other) {
  lk_ctx *c = lk_model_ctx(a->model);
  char *one = lk_peft_word(c, a->chain, key), *two = lk_peft_word(c, a->chain, other);
  int same = one && two && !strcmp(one, two);
  lk_free(c, one);
  lk_free(c, two);
  return same;
}

/* Are the site's options those of the spec, and its parameters those that PEFT makes there? */
static int fits_site(const lk_at *at) {
  if (!lk_peft_same_options(at)) return 0;
  if (at->site->fan_in_fan_out) return 0;
  for (const lk_param *p = at->site->bias ? NULL : at->params; p; p = p->next)
    if (strstr(p->name, ".glora_C.") || strstr(p->name, ".glora_E.")) return 0;
  return 1;
}

static int fits(const lk_adapter *a) {
  const lk_method *m = a->chain;
  const lk_attach_options *o = a->options;
  if (m->cls != lk_adapter_find_class(NULL, "glora") || *m->label || m->next) return 0;
  if (o->exclude || o->nlayers || o->layers_pattern || lk_method_option(m, "supernet", 0) != 0) return 0;
  if (!lk_peft_is_word(a->chain, "a_mode", "element") || !same_word(a, "A", "B") || !same_word(a, "D", "E")) return 0;
  for (lk_at *at = NULL; (at = lk_adapter_walk((lk_adapter *)a, at));)
    if (!fits_site(at)) return 0;
  return 1;
}

/* What a config of other methods has and this one does not. */
static const char *const foreign[] = {"exclude_modules", "layers_pattern", "layers_to_transform"};

static const char *const pairs[][2] = {{"config_A_B", "A"}, {"config_C", "C"}, {"config_D_E", "D"}};
enum { PAIRS = sizeof pairs / sizeof *pairs };

static lk_status write_config(const lk_adapter *a, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  lk_peft_write_common(a, &lk_peft_glora, config);
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) lk_json_remove(config, foreign[i]);
  lk_json_set_int(c, config, "r", (int64_t)lk_method_option(a->chain, "r", 0));
  for (int i = 0; i < PAIRS; i++) {
    char *word = lk_peft_word(c, a->chain, pairs[i][1]);
    if (word) lk_json_set_string(c, config, pairs[i][0], word);
    lk_free(c, word);
  }
  return lk_json_set_bool(c, config, "init_weights", !lk_peft_is_word(a->chain, "init", "random"));
}

/* A form that the config may have; NULL with an error. */
static const char *read_form(lk_peft_reading *r, const char *key, const char *missing, const char *known) {
  const char *word = lk_json_string(r->ctx, r->config, key, missing);
  if (lk_error(r->ctx, NULL)) return NULL;
  size_t n = strlen(word);
  for (const char *s = known; n && *s; s += strcspn(s, "|"), s += *s == '|')
    if (strcspn(s, "|") == n && !strncmp(s, word, n)) return word;
  lk_fail(r->ctx, LK_EARG, "adapter_config.json: %s is '%.40s', want one of %s", key, word, known);
  return NULL;
}

static lk_status read_config(lk_peft_reading *r) {
  lk_ctx *c = r->ctx;
  const char *A = read_form(r, "config_A_B", "lora", "lora|vector|constant|none");
  const char *C = A ? read_form(r, "config_C", "lora", "lora|vector|none") : NULL;
  const char *D = C ? read_form(r, "config_D_E", "constant", "vector|constant|none") : NULL;
  int64_t rank = lk_json_int(c, r->config, "r", 8);
  int usual = lk_json_bool(c, r->config, "init_weights", 1);
  if (!D || lk_peft_read_common(r)) return lk_error(c, NULL);
  r->options.spec = lk_peft_keep(r, lk_sprintf(c, "glora r=%lld A=%s B=%s C=%s D=%s E=%s init=%s allow_new_bias=0",
                                               (long long)rank, A, A, C, D, D, usual ? "kaiming" : "random"));
  return lk_error(c, NULL);
}

static const lk_peft_key keys[] = {{"bias", LK_PEFT_USED, NULL},
                                   {"config_A_B", LK_PEFT_USED, NULL},
                                   {"config_C", LK_PEFT_USED, NULL},
                                   {"config_D_E", LK_PEFT_USED, NULL},
                                   {"init_weights", LK_PEFT_USED, NULL},
                                   {"modules_to_save", LK_PEFT_USED, "null"},
                                   {"r", LK_PEFT_USED, NULL},
                                   {"target_modules", LK_PEFT_USED, NULL},
                                   {"exclude_modules", LK_PEFT_OFF, NULL},
                                   {"layers_pattern", LK_PEFT_OFF, NULL},
                                   {"layers_to_transform", LK_PEFT_OFF, NULL},
                                   {0}};

const lk_peft_format lk_peft_glora = {.peft_type = "GLORA",
                                      .prefix = "base_model.model.",
                                      .bias_only = "glora_only",
                                      .keys = keys,
                                      .fits = fits,
                                      .write_config = write_config,
                                      .read_config = read_config};
