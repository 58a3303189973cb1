/* own.c: our own format, for adapters that PEFT has not: the spec and the attach options, word for word.
 *
 *   {"bias": "none", "exclude": null, "format_version": 1, "layers": [0, 1], "layers_pattern": null,
 *    "modules_to_save": "classifier", "overrides": [{"options": "r=4", "pattern": "*.value"}], "peft_type": "LORIKEET",
 *    "spec": "lora r=8 | bias", "targets": "query,value", ...}
 *
 * Tensors are called "<path>.<parameter>".  Classes of a user's program must be registered before such a file is read. */
#include "peft.h"

enum { VERSION = 1 };

static int fits(const lk_adapter *a) {
  (void)a;
  return 1;
}

/* ---- writing ---- */

static lk_status set_text(lk_ctx *c, lk_json *config, const char *key, const char *text) {
  return text ? lk_json_set_string(c, config, key, text) : lk_json_set_null(c, config, key);
}

static lk_status write_overrides(lk_ctx *c, const lk_attach_options *o, lk_json *config) {
  lk_json *array = lk_json_array(c);
  for (int i = 0; i < o->noverrides && array; i++) {
    lk_json *one = lk_json_object(c);
    lk_json_set_string(c, one, "pattern", o->overrides[i].pattern);
    lk_json_set_string(c, one, "options", o->overrides[i].options);
    lk_json_set(c, array, NULL, one);
  }
  return lk_json_set(c, config, "overrides", array);
}

static lk_status write_config(const lk_adapter *a, lk_json *config) {
  lk_ctx *c = lk_model_ctx(a->model);
  const lk_attach_options *o = a->options;
  lk_json_set_int(c, config, "format_version", VERSION);
  set_text(c, config, "spec", a->spec);
  set_text(c, config, "targets", a->targets);
  set_text(c, config, "exclude", o->exclude);
  set_text(c, config, "modules_to_save", o->modules_to_save);
  set_text(c, config, "layers_pattern", o->layers_pattern);
  set_text(c, config, "bias", lk_peft_bias_word(&lk_peft_own, o->bias));
  lk_peft_write_layers(a, config, "layers");
  return write_overrides(c, o, config);
}

/* ---- reading ---- */

static lk_status read_overrides(lk_peft_reading *r) {
  const lk_json *array = lk_json_get(r->config, "overrides");
  const char *pattern, *options;
  if (lk_json_type(array) > LK_JSON_NULL && lk_json_type(array) != LK_JSON_ARRAY)
    return lk_peft_mistyped(r->ctx, "overrides", "a list", array);
  for (size_t i = 0; i < lk_json_count(array) && !lk_error(r->ctx, NULL); i++) {
    const lk_json *one = lk_json_at(array, i);
    if (!lk_json_is_string(lk_json_get(one, "pattern"), &pattern) ||
        !lk_json_is_string(lk_json_get(one, "options"), &options))
      return lk_peft_mistyped(r->ctx, "overrides", "a list of objects with a pattern and options", one);
    lk_peft_override(r, pattern, options);
  }
  return lk_error(r->ctx, NULL);
}

static lk_status read_config(lk_peft_reading *r) {
  lk_attach_options *o = &r->options;
  int64_t version = lk_json_int(r->ctx, r->config, "format_version", 0);
  if (version != VERSION && !lk_error(r->ctx, NULL))
    return lk_fail(r->ctx, LK_EFORMAT, "adapter_config.json: format_version %lld is not read; %d is",
                   (long long)version, VERSION);
  o->spec = lk_json_string(r->ctx, r->config, "spec", NULL);
  o->targets = lk_json_string(r->ctx, r->config, "targets", NULL);
  o->exclude = lk_json_string(r->ctx, r->config, "exclude", NULL);
  o->modules_to_save = lk_json_string(r->ctx, r->config, "modules_to_save", NULL);
  o->layers_pattern = lk_json_string(r->ctx, r->config, "layers_pattern", NULL);
  if (lk_error(r->ctx, NULL)) return lk_error(r->ctx, NULL);
  if (!o->spec) return lk_peft_mistyped(r->ctx, "spec", "a string", NULL);
  if (!o->targets) return lk_peft_mistyped(r->ctx, "targets", "a string", NULL);
  lk_peft_read_bias(r);
  lk_peft_read_layers(r, lk_json_get(r->config, "layers"), "layers");
  return read_overrides(r);
}

static const lk_peft_key keys[] = {{"bias", LK_PEFT_USED, NULL},           {"exclude", LK_PEFT_USED, NULL},
                                   {"format_version", LK_PEFT_USED, NULL}, {"layers", LK_PEFT_USED, NULL},
                                   {"layers_pattern", LK_PEFT_USED, NULL}, {"modules_to_save", LK_PEFT_USED, NULL},
                                   {"overrides", LK_PEFT_USED, NULL},      {"spec", LK_PEFT_USED, NULL},
                                   {"targets", LK_PEFT_USED, NULL},        {0}};

const lk_peft_format lk_peft_own = {.peft_type = "LORIKEET",
                                    .prefix = "",
                                    .bias_only = "adapted",
                                    .keys = keys,
                                    .fits = fits,
                                    .write_config = write_config,
                                    .read_config = read_config};
