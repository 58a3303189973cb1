/* model.h: what the files of nn/ share: the root of a model, and the pieces of attaching. */
#ifndef LK_MODEL_H
#define LK_MODEL_H
#include <lorikeet/quantise.h>

typedef struct lk_cleanup {
  void (*fn)(void *arg);
  void *arg;
  struct lk_cleanup *next;
} lk_cleanup;

typedef struct lk_merged lk_merged;

struct lk_model {
  lk_module root;
  lk_dtype dtype;
  int flags, merged;
  lk_adapter *adapters; /* in order of attaching */
  lk_adapter **active;  /* in order */
  size_t nactive, active_capacity;
  const lk_adapter_class **classes; /* registered ones */
  size_t nclasses, class_capacity;
  lk_cleanup *cleanups;
  lk_merged *merge; /* what merging changed, while merged */
  int loss_asked;   /* lk_adapter_loss was called since the last step */
  /* Beginnings of paths of HuggingFace's modules that the model does without: adapters' tensors there are not read. */
  const char *const *aside;
  const char *task_type; /* PEFT's name of the model's task, or NULL */
  lk_param *resized[2];  /* weights with other rows than in the model's file: adapters carry them; NULL: none */
};

/* file_error.c */
void lk_file_error(lk_ctx *ctx, const char *path); /* puts the path in front of the error, if there is one */

/* module.c */
lk_param *lk_param_walk(lk_model *model, lk_param *p); /* base parameters in order; NULL begins and ends */

/* quantise.c */
/* The codes of a site's weight. */
typedef struct lk_coded {
  lk_ctx *ctx;
  lk_quant quant;
  lk_param *codes, *scales;
} lk_coded;
void lk_coded_free(lk_coded *k);
int lk_site_is_coded(const lk_site *s); /* are the codes what it computes with now? */
int lk_site_to_quantise(const lk_site *s, const lk_quantise_options *o);
/* Codes these values, stored as the site stores its weight, in place of its weight. */
lk_status lk_site_quantise(lk_site *s, const lk_view *values, const lk_quantise_options *o);
lk_tensor lk_coded_linear(lk_site *s, lk_tape *t, lk_tensor x);
lk_tensor lk_coded_weight(lk_site *s, lk_tape *t);
lk_view lk_view_turned(lk_view v); /* axes 0 and 1 swapped */

/* spec.c */
lk_method *lk_spec_parse(lk_adapter *a, const char *spec);
void lk_method_free(lk_ctx *ctx, lk_method *m);
/* Applies "r=4 alpha=8" to cfg of a class; keys that the class does not have are counted as not used. */
lk_status lk_options_apply(lk_ctx *ctx, const lk_adapter_class *cls, void *cfg, const char *options, int *used);

/* A number with a decimal point, whatever the locale; 0 if the text is none. */
int lk_spec_number(const char *text, double *value);

/* match.c */
typedef struct lk_target_match {
  lk_site **sites;
  int n;
} lk_target_match;
lk_status lk_match_targets(lk_model *model, const lk_attach_options *o, lk_target_match *match);
/* Next pattern of a list separated by commas or spaces ("re:" takes the rest); NULL at the end; the caller's. */
char *lk_pattern_next(lk_ctx *ctx, const char **list);
/* lk_match of the module's path, or of the other one it has. */
int lk_match_module(lk_ctx *ctx, const char *pattern, const lk_module *m);
/* Does the path end with one of the (plain) suffixes? */
int lk_suffix_match(lk_ctx *ctx, const char *suffixes, const char *path);

/* attach.c */
void lk_adapter_free(lk_adapter *a);

/* method.c */
/* The adapter's methods at its sites, sites in the model's order, wrapped ones included; NULL begins and ends. */
lk_at *lk_adapter_walk(lk_adapter *a, lk_at *at);
lk_status lk_method_add(lk_method *m, lk_at *at); /* to m->at */
lk_status lk_methods_init(lk_adapter *a);
lk_status lk_methods_loaded(lk_adapter *a);

/* saved.c: copies of base parameters that train with an adapter */
lk_status lk_stand_ins_make(lk_adapter *a, const lk_attach_options *o, const lk_target_match *match);
lk_status lk_stand_ins_check(lk_model *model); /* no two active adapters hold a copy of one parameter */
void lk_stand_ins_link(lk_model *model);       /* sets param->stand_in by what is active */

lk_at *lk_site_chain(const lk_site *s, const lk_adapter *a); /* compose.c: NULL if there is none */
void lk_site_restore(lk_site *site);                         /* site.c: takes lk_at_rebase back */
void lk_merge_undo(lk_model *model);                         /* merge.c */
/* Refuses a model in which a site has a bias only since merging. */
lk_status lk_merge_check_bias(const lk_model *model, const char *who);
const lk_param *lk_merge_parted(const lk_model *model); /* was tied before merging and is not now; NULL: none */

#endif
