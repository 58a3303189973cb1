/* peft.h: adapter directories: what the formats share.
 *
 * A format says how an adapter stands in adapter_config.json; the tensors follow from the adapter itself.  A method
 * of HuggingFace PEFT is one file here and one line in the table of peft.c; what PEFT cannot hold has our own format. */
#ifndef LK_PEFT_H
#define LK_PEFT_H
#include "model.h"

#include <lorikeet/json.h>
#include <lorikeet/safetensors.h>

typedef struct lk_peft_format lk_peft_format;

/* A config being read: attach options, and the memory that they point to. */
typedef struct lk_peft_reading {
  lk_model *model;
  lk_ctx *ctx;
  const lk_json *config;
  const lk_peft_format *format;
  lk_attach_options options;
  char **texts;
  size_t ntexts, text_capacity;
  lk_override *overrides;
  size_t noverrides, override_capacity;
  int *layers;
} lk_peft_reading;

typedef enum lk_peft_use {
  LK_PEFT_USED,  /* read and written by code */
  LK_PEFT_INERT, /* means nothing to us; written as its default */
  LK_PEFT_OFF    /* changes what is computed and is not supported: anything but null, false or empty is refused */
} lk_peft_use;

typedef struct lk_peft_key {
  const char *key;
  lk_peft_use use;
  const char *value; /* JSON that is written unless code sets it; NULL: none */
} lk_peft_key;

struct lk_peft_format {
  const char *peft_type;
  const char *prefix;              /* of tensors' names; behind it the path and our parameter's name */
  const char *bias_only;           /* the word for biases of adapted layers; NULL: the config has no `bias` */
  const lk_peft_key *keys;         /* of its config, besides those of every config; ended by {0} */
  int (*holds)(const lk_param *p); /* is this parameter of a site in the file?  NULL: all are */
  /* What is written in place of all parameters of the sites, as a list (see lk_peft_write), or none; NULL: themselves. */
  lk_status (*make)(lk_adapter *a, lk_param **made);
  /* Can it hold this adapter? */
  int (*fits)(const lk_adapter *a);
  lk_status (*write_config)(const lk_adapter *a, lk_json *config);
  lk_status (*read_config)(lk_peft_reading *r);
};

/* ---- peft.c ---- */

/* The adapter to be saved into dir (name NULL: "default"); NULL with an error that begins with `who`. */
lk_adapter *lk_peft_adapter(lk_model *model, const char *name, const char *dir, const char *who);
/* Writes both files of a directory.  made: NULL, or a list of values that stand in place of all parameters of sites;
 * their owner is the lk_at, their name "<path>.<name in the file>" and "@<adapter>" as parameters have it. */
lk_status lk_peft_write(lk_adapter *a, const lk_peft_format *f, lk_param *made, lk_json *config, const char *dir,
                        const char *base);
void lk_peft_made_free(lk_param *made);

extern const lk_peft_format lk_peft_adalora; /* adalora.c */
extern const lk_peft_format lk_peft_lora;    /* lora.c */
extern const lk_peft_format lk_peft_glora;   /* glora.c */
extern const lk_peft_format lk_peft_neat;    /* neat.c */
extern const lk_peft_format lk_peft_ia3;     /* ia3.c */
extern const lk_peft_format lk_peft_own;     /* own.c: holds every adapter */

/* ---- config.c: what the configs share ---- */

/* Takes over a text of the context's memory until the reading ends; returns it. */
const char *lk_peft_keep(lk_peft_reading *r, char *text);
void lk_peft_reading_free(lk_peft_reading *r);
/* An error: "adapter_config.json: KEY must be WANT, not an integer". */
lk_status lk_peft_mistyped(lk_ctx *c, const char *key, const char *want, const lk_json *j);
lk_status lk_peft_override(lk_peft_reading *r, const char *pattern, const char *options);
/* A number as a spec has it: 8, 0.1. */
const char *lk_peft_number(lk_peft_reading *r, const lk_json *j);
/* The same by key of the config; `missing` if it is not there.  lora.c */
const char *lk_peft_number_of(lk_peft_reading *r, const char *key, const char *missing);
/* Refuses keys that must be off and collects a warning about unknown ones. */
lk_status lk_peft_check_keys(lk_peft_reading *r);
/* target_modules, exclude_modules, modules_to_save, layers_to_transform, layers_pattern, bias, task_type. */
lk_status lk_peft_read_common(lk_peft_reading *r);
lk_status lk_peft_read_layers(lk_peft_reading *r, const lk_json *j, const char *key);
lk_status lk_peft_read_bias(lk_peft_reading *r);

/* Every key as its default, then the same ones as above. */
lk_status lk_peft_write_common(const lk_adapter *a, const lk_peft_format *f, lk_json *config);
lk_status lk_peft_write_layers(const lk_adapter *a, lk_json *config, const char *key);
const char *lk_peft_bias_word(const lk_peft_format *f, lk_bias_mode mode);
/* The word that an option has; the caller's. */
char *lk_peft_word(lk_ctx *c, const lk_method *m, const char *key);
int lk_peft_is_word(const lk_method *m, const char *key, const char *word);
/* Are all options at this site those of the spec? */
int lk_peft_same_options(const lk_at *at);

/* ---- lora.c ---- */

/* Settings of a LoraConfig that are not a pattern. */
typedef struct lk_peft_lora_settings {
  double r, alpha, dropout;
  int rslora, dora, bias;
} lk_peft_lora_settings;

lk_status lk_peft_write_lora(const lk_adapter *a, const lk_peft_lora_settings *s, lk_json *config);
/* A number of a site's chain, as a rank. */
typedef double (*lk_peft_site_number)(const lk_at *chain, const void *arg);
/* rank_pattern and the like: the whole path of every site whose number is not the usual one.  NULL on error. */
lk_json *lk_peft_map_of_sites(const lk_adapter *a, lk_peft_site_number number, const void *arg, double usual);

/* ---- targets.c ---- */
/* target_modules and what narrows it, so that PEFT's rules select exactly the adapted modules. */
lk_status lk_peft_write_targets(const lk_adapter *a, lk_json *config);
/* A module path as a regular expression; the caller's. */
char *lk_peft_escape(lk_ctx *c, const char *path);

/* ---- tensors.c ---- */

/* A parameter and the tensor that holds it. */
typedef struct lk_peft_tensor {
  lk_param *param;
  char *name, *other;             /* in the file; another spelling that is read too, or NULL */
  char *also;                     /* the same under the module's other path, written and read too, or NULL */
  const lk_stored *stored, *twin; /* twin: stored under the other path as well */
  int of_bias;                    /* a copy of an adapted layer's bias */
  int of_base;                    /* a weight of the base, which may be there */
} lk_peft_tensor;

typedef struct lk_peft_tensors {
  lk_ctx *ctx;
  const char *prefix, *at_name; /* "@name" behind names in memory, or "" */
  lk_peft_tensor *list;
  size_t n, capacity;
} lk_peft_tensors;

/* made: see lk_peft_write. */
lk_status lk_peft_write_tensors(lk_adapter *a, const lk_peft_format *f, lk_param *made, const char *path);
/* Gives the adapter's parameters the values in the file; or changes none of them. */
lk_status lk_peft_read_tensors(lk_adapter *a, const lk_peft_format *f, lk_safetensors *file, const char *path);

/* ---- compare.c ---- */
/* Finds the tensor of every parameter.  All that does not fit is listed in one error. */
lk_status lk_peft_compare(const lk_adapter *a, lk_peft_tensors *e, lk_safetensors *file, const char *path);

#endif
