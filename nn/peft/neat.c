/* neat.c: PEFT's PEANUT: "neat" with orientation=out and residual=pairs, to and from PeanutConfig.
 *
 * https://github.com/huggingface/peft, src/peft/tuners/peanut/config.py.  All sites have the same options there, biases
 * of the base do not train, and layers stored [in, out] (Conv1D) are not adapted. */
#include "peft.h"

#include <string.h>

/* PEFT has no name for it. */
static const char ours[] = "sin";

/* Has the site the options of the spec, and the layout that PEFT adapts? */
static int fits_site(const lk_at *at) {
  if (!lk_peft_same_options(at)) return 0;
  return !at->site->fan_in_fan_out;
}

static int fits(const lk_adapter *a) {
  const lk_method *m = a->chain;
  if (m->cls != lk_adapter_find_class(NULL, "neat") || *m->label || m->next) return 0;
  if (a->options->bias != LK_BIAS_NONE || lk_method_option(m, "search", 0) != 0) return 0;
  if (!lk_peft_is_word(a->chain, "orientation", "out") || !lk_peft_is_word(a->chain, "residual", "pairs") ||
      lk_peft_is_word(a->chain, "act", ours))
    return 0;
  for (lk_at *at = NULL; (at = lk_adapter_walk((lk_adapter *)a, at));)
    if (!fits_site(at)) return 0;
  return 1;
}

static lk_status write_config(const lk_adapter *a, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  const lk_method *m = a->chain;
  char *act = lk_peft_word(c, m, "act");
  lk_peft_write_common(a, &lk_peft_neat, config);
  lk_json_set_int(c, config, "r", (int64_t)lk_method_option(m, "r", 0));
  lk_json_set_int(c, config, "depth", (int64_t)lk_method_option(m, "depth", 0));
  if (act) lk_json_set_string(c, config, "act_fn", act);
  lk_json_set_real(c, config, "scaling", lk_method_option(m, "scaling", 0));
  lk_json_set_bool(c, config, "init_weights", lk_peft_is_word(a->chain, "init", "default"));
  lk_free(c, act);
  return lk_error(c, NULL);
}

/* The config's activation if we have it. */
static const char *read_act(lk_peft_reading *r) {
  const char *act = lk_json_string(r->ctx, r->config, "act_fn", "relu");
  if (lk_error(r->ctx, NULL)) return NULL;
  if (!strcmp(act, "prelu") || !strcmp(act, "xielu"))
    lk_fail(r->ctx, LK_EARG, "adapter_config.json: act_fn '%s' has parameters of its own, which PEFT does not save",
            act);
  else if (!strcmp(act, ours)) lk_fail(r->ctx, LK_EARG, "adapter_config.json: PEFT has no act_fn '%s'", act);
  else lk_activation_find(r->ctx, act);
  return act;
}

static lk_status read_config(lk_peft_reading *r) {
  lk_ctx *c = r->ctx;
  const lk_json *scaling = lk_json_get(r->config, "scaling");
  int64_t rank = lk_json_int(c, r->config, "r", 32), depth = lk_json_int(c, r->config, "depth", 0);
  int usual = lk_json_bool(c, r->config, "init_weights", 1);
  const char *act = read_act(r), *s = "1";
  lk_json_real(c, r->config, "scaling", 1); /* refuses another kind */
  if (lk_json_type(scaling) > LK_JSON_NULL) s = lk_peft_number(r, scaling);
  if (lk_peft_read_common(r)) return lk_error(c, NULL);
  r->options.spec = lk_peft_keep(r, lk_sprintf(c, "neat r=%lld depth=%lld act=%s scaling=%s%s", (long long)rank,
                                               (long long)depth, act, s, usual ? "" : " init=random"));
  return lk_error(c, NULL);
}

static const lk_peft_key keys[] = {{"act_fn", LK_PEFT_USED, NULL},
                                   {"depth", LK_PEFT_USED, NULL},
                                   {"exclude_modules", LK_PEFT_USED, "null"},
                                   {"init_weights", LK_PEFT_USED, NULL},
                                   {"layers_pattern", LK_PEFT_USED, "null"},
                                   {"layers_to_transform", LK_PEFT_USED, "null"},
                                   {"modules_to_save", LK_PEFT_USED, "null"},
                                   {"r", LK_PEFT_USED, NULL},
                                   {"scaling", LK_PEFT_USED, NULL},
                                   {"target_modules", LK_PEFT_USED, NULL},
                                   {0}};

const lk_peft_format lk_peft_neat = {.peft_type = "PEANUT",
                                     .prefix = "base_model.model.",
                                     .keys = keys,
                                     .fits = fits,
                                     .write_config = write_config,
                                     .read_config = read_config};
