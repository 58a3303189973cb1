/* peft.c: adapters as directories: adapter_config.json and adapter_model.safetensors.
 *
 * Each file is replaced atomically, the tensors first.  Where only values have changed, as from one checkpoint to the
 * next, the config is the same before and after, so a crash leaves the whole old adapter or the whole new one.
 * Where settings have changed too, a crash in the short time between the two leaves new tensors beside the old
 * config: reading it fails with the list of what does not fit, unless all shapes are the same.
 *
 * PEFT puts the adapter "default" into the directory itself and others into folders of their names.  Saving writes
 * exactly where it is told; loading takes the directory if there is a config in it, else its folder of the name.
 *
 * Specification: PEFT's PeftModel.save_pretrained and LoraConfig, https://github.com/huggingface/peft. */
#include "peft/peft.h"

#include <lorikeet/file.h>
#include <string.h>

#define CONFIG "adapter_config.json"
#define TENSORS "adapter_model.safetensors"

/* In the order in which they are tried for an adapter; the last one fits all. */
static const lk_peft_format *const formats[] = {&lk_peft_adalora, &lk_peft_lora, &lk_peft_glora,
                                                &lk_peft_ia3,     &lk_peft_neat, &lk_peft_own};
enum { FORMATS = sizeof formats / sizeof *formats };

/* ---- saving ---- */

/* Both files; the config's text is in its temporary before the tensors are replaced. */
static lk_status write_files(lk_adapter *a, const lk_peft_format *f, lk_param *made, const char *config,
                             const char *dir) {
  lk_ctx *c = lk_model_ctx(a->model);
  char *config_path = lk_sprintf(c, "%s/" CONFIG, dir), *tensor_path = lk_sprintf(c, "%s/" TENSORS, dir);
  lk_writer *w = config_path && tensor_path ? lk_writer_open(c, config_path) : NULL;
  if (w) {
    lk_write(w, config, strlen(config));
    lk_peft_write_tensors(a, f, made, tensor_path);
    lk_writer_commit(w);
  }
  lk_free(c, config_path);
  lk_free(c, tensor_path);
  return lk_error(c, NULL);
}

lk_status lk_peft_write(lk_adapter *a, const lk_peft_format *f, lk_param *made, lk_json *config, const char *dir,
                        const char *base) {
  lk_ctx *c = lk_model_ctx(a->model);
  lk_json_set_string(c, config, "peft_type", f->peft_type);
  if (base) lk_json_set_string(c, config, "base_model_name_or_path", base);
  char *text = lk_json_dump(c, config, LK_JSON_SORTED);
  if (text && !lk_make_dirs(c, dir)) write_files(a, f, made, text, dir);
  lk_free(c, text);
  return lk_error(c, NULL);
}

lk_adapter *lk_peft_adapter(lk_model *model, const char *name, const char *dir, const char *who) {
  lk_ctx *c = lk_model_ctx(model);
  lk_adapter *a = lk_error(c, NULL) ? NULL : lk_adapter_find(model, name ? name : "default");
  if (lk_error(c, NULL)) return NULL;
  if (!dir) lk_fail(c, LK_ENIL, "%s: dir is NULL", who);
  else if (!a) lk_fail(c, LK_EARG, "%s: there is no adapter '%s'", who, name ? name : "default");
  else if (lk_model_shapes_only(model))
    lk_fail(c, LK_EARG, "%s: adapter '%s' has shapes only, and no values to save", who, a->name);
  return lk_error(c, NULL) ? NULL : a;
}

void lk_peft_made_free(lk_param *made) {
  for (lk_param *next; made; made = next) {
    next = made->next;
    lk_param_free(made);
  }
}

lk_status lk_adapter_save(lk_model *model, const char *name, const char *dir, const char *base) {
  if (!model) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  lk_adapter *a = lk_peft_adapter(model, name, dir, "adapter_save");
  const lk_peft_format *f = NULL;
  for (int i = 0; a && i < FORMATS && !f; i++)
    if (formats[i]->fits(a)) f = formats[i];
  lk_json *config = f && !lk_error(c, NULL) ? lk_json_object(c) : NULL;
  lk_param *made = NULL;
  if (config && !f->write_config(a, config) && (!f->make || !f->make(a, &made)))
    lk_peft_write(a, f, made, config, dir, base);
  lk_peft_made_free(made);
  lk_json_free(config);
  return lk_error(c, NULL);
}

/* ---- loading ---- */

/* "<dir>/<name>", or with name NULL dir itself, if there is a config in it; else NULL.  The caller's. */
static char *folder_with_config(lk_ctx *c, const char *dir, const char *name) {
  char *folder = lk_sprintf(c, "%s%s%s", dir, name ? "/" : "", name ? name : "");
  char *config = folder ? lk_sprintf(c, "%s/" CONFIG, folder) : NULL;
  int found = lk_file_exists(config);
  lk_free(c, config);
  if (found) return folder;
  lk_free(c, folder);
  return NULL;
}

static char *find_folder(lk_ctx *c, const char *dir, const char *name) {
  char *folder = folder_with_config(c, dir, NULL);
  if (!folder) folder = folder_with_config(c, dir, name);
  if (!folder) lk_fail(c, LK_EIO, "adapter_load: there is no " CONFIG " in '%s', nor in its folder '%s'", dir, name);
  return folder;
}

static const lk_peft_format *find_format(lk_ctx *c, const lk_json *config) {
  const char *type;
  char known[200] = "";
  const lk_json *j = lk_json_get(config, "peft_type");
  if (!lk_json_is_string(j, &type)) {
    lk_peft_mistyped(c, "peft_type", "a string", j);
    return NULL;
  }
  for (int i = 0; i < FORMATS; i++) {
    if (!strcmp(formats[i]->peft_type, type)) return formats[i];
    if (strlen(known) + strlen(formats[i]->peft_type) + 3 > sizeof known) continue;
    strcat(known, i ? ", " : "");
    strcat(known, formats[i]->peft_type);
  }
  lk_fail(c, LK_EARG, CONFIG ": peft_type %.60s is not supported; %s are", type, known);
  return NULL;
}

/* requires_grad of every base parameter, which attaching changes; the caller's. */
static char *trained_before(lk_model *model) {
  size_t n = 0;
  for (lk_param *p = NULL; (p = lk_param_walk(model, p));) n++;
  char *flags = lk_alloc(lk_model_ctx(model), n + 1);
  n = 0;
  for (lk_param *p = NULL; flags && (p = lk_param_walk(model, p));) flags[n++] = (char)p->requires_grad;
  return flags;
}

static void undo_attach(lk_model *model, const char *name, const char *flags) {
  size_t n = 0;
  lk_detach(model, name);
  for (lk_param *p = NULL; (p = lk_param_walk(model, p));) p->requires_grad = flags[n++];
}

/* Attaches what the config says and fills it from the file; or changes nothing. */
static lk_status attach_and_fill(lk_peft_reading *r, const char *tensor_path) {
  lk_model *model = r->model;
  const char *name = r->options.name;
  lk_safetensors *file = lk_safetensors_open(r->ctx, tensor_path);
  char *before = file ? trained_before(model) : NULL;
  if (before && !lk_attach_with(model, &r->options)) {
    lk_adapter *a = lk_adapter_find(model, name);
    if (lk_peft_read_tensors(a, r->format, file, tensor_path)) undo_attach(model, name, before);
  }
  lk_free(r->ctx, before);
  lk_safetensors_close(file);
  return lk_error(r->ctx, NULL);
}

static lk_status load_folder(lk_peft_reading *r, const char *folder) {
  lk_ctx *c = r->ctx;
  char *config_path = lk_sprintf(c, "%s/" CONFIG, folder), *tensor_path = lk_sprintf(c, "%s/" TENSORS, folder);
  lk_json *config = config_path && tensor_path ? lk_json_read(c, config_path) : NULL;
  if (config) r->format = find_format(c, config);
  r->config = config;
  if (r->format && !lk_peft_check_keys(r) && !r->format->read_config(r)) attach_and_fill(r, tensor_path);
  lk_peft_reading_free(r);
  lk_json_free(config);
  lk_free(c, config_path);
  lk_free(c, tensor_path);
  return lk_error(c, NULL);
}

lk_status lk_adapter_load(lk_model *model, const char *name, const char *dir, int trainable) {
  if (!model) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  if (!name) name = "default";
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  if (!dir) return lk_fail(c, LK_ENIL, "adapter_load: dir is NULL");
  if (lk_model_shapes_only(model))
    return lk_fail(c, LK_EARG, "adapter_load: the model has shapes only; there is no place for the values of '%s'",
                   dir);
  lk_peft_reading r = {.model = model, .ctx = c, .options = {.name = name, .lenient = 1}};
  char *folder = find_folder(c, dir, name);
  if (folder && !load_folder(&r, folder)) lk_set_trainable(model, name, trainable);
  lk_free(c, folder);
  return lk_error(c, NULL);
}
