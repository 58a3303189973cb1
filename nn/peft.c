/* peft.c: adapters as directories: adapter_config.json and adapter_model.safetensors.
 *
 * Each file is replaced atomically, the tensors first.  Where only values have changed, as from one checkpoint to the
 * next, the config is the same before and after, so a crash leaves the whole old adapter or the whole new one.
 * Where settings have changed too, a crash in the short time between the two leaves new tensors beside the old
 * config: reading it fails with the list of what does not fit, unless all shapes are the same.
 *
 * Specification: PEFT's PeftModel.save_pretrained and LoraConfig, https://github.com/huggingface/peft. */
#include "peft/peft.h"

#include <lorikeet/file.h>
#include <string.h>

#define CONFIG "adapter_config.json"
#define TENSORS "adapter_model.safetensors"

/* In the order in which they are tried for an adapter; the last one fits all. */
static const lk_peft_format *const formats[] = {&lk_peft_lora, &lk_peft_own};
enum { FORMATS = sizeof formats / sizeof *formats };

/* ---- saving ---- */

/* Both files; the config's text is in its temporary before the tensors are replaced. */
static lk_status write_files(lk_adapter *a, const lk_peft_format *f, const char *config, const char *dir) {
  lk_ctx *c = lk_model_ctx(a->model);
  char *config_path = lk_sprintf(c, "%s/" CONFIG, dir), *tensor_path = lk_sprintf(c, "%s/" TENSORS, dir);
  lk_writer *w = config_path && tensor_path ? lk_writer_open(c, config_path) : NULL;
  if (w) {
    lk_write(w, config, strlen(config));
    lk_peft_write_tensors(a, f, tensor_path);
    lk_writer_commit(w);
  }
  lk_free(c, config_path);
  lk_free(c, tensor_path);
  return lk_error(c, NULL);
}

static char *config_text(const lk_adapter *a, const lk_peft_format *f, const char *base) {
  lk_ctx *c = lk_model_ctx(a->model);
  lk_json *j = lk_json_object(c);
  char *text = NULL;
  if (j && !lk_peft_write_defaults(c, f, j)) {
    lk_json_set_string(c, j, "peft_type", f->peft_type);
    if (base) lk_json_set_string(c, j, "base_model_name_or_path", base);
    if (!f->write_config(a, j)) text = lk_json_dump(c, j, LK_JSON_SORTED);
  }
  lk_json_free(j);
  return text;
}

lk_status lk_adapter_save(lk_model *model, const char *name, const char *dir, const char *base) {
  if (!model) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  if (!name) name = "default";
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  if (!dir) return lk_fail(c, LK_ENIL, "adapter_save: dir is NULL");
  lk_adapter *a = lk_adapter_find(model, name);
  if (!a) return lk_fail(c, LK_EARG, "adapter_save: there is no adapter '%s'", name);
  if (lk_model_shapes_only(model))
    return lk_fail(c, LK_EARG, "adapter_save: adapter '%s' has shapes only, and no values to save", name);
  const lk_peft_format *f = NULL;
  for (int i = 0; i < FORMATS && !f; i++)
    if (formats[i]->fits(a)) f = formats[i];
  char *config = lk_error(c, NULL) ? NULL : config_text(a, f, base);
  if (config && !lk_make_dirs(c, dir)) write_files(a, f, config, dir);
  lk_free(c, config);
  return lk_error(c, NULL);
}

/* ---- loading ---- */

/* The directory itself, or its folder of the adapter's name; the caller's. */
static char *find_folder(lk_ctx *c, const char *dir, const char *name) {
  const char *const forms[] = {"%s", "%s/%s"};
  for (int i = 0; i < 2; i++) {
    char *folder = i ? lk_sprintf(c, "%s/%s", dir, name) : lk_strdup(c, dir);
    char *config = folder ? lk_sprintf(c, "%s/" CONFIG, folder) : NULL;
    int found = lk_file_exists(config);
    lk_free(c, config);
    if (found) return folder;
    lk_free(c, folder);
  }
  (void)forms;
  lk_fail(c, LK_EIO, "adapter_load: there is no " CONFIG " in '%s', nor in its folder '%s'", dir, name);
  return NULL;
}
