/* adapter.h: parameter-efficient fine-tuning: sites, adapter classes, attaching, merging, saving.
 *
 *   lk_attach(model, "default", "dropout p=0.1 (lora r=8 alpha=16 | magnitude)", "query,value");
 *
 * A *site* is a layer that a method may adapt.  An *adapter class* is one method, in one file, or in a user's
 * program (lk_adapter_register).  A spec composes classes into a chain; attaching puts a chain at every site
 * that the target patterns match, under a name, transactionally: all of it or nothing.
 *
 * Composition is a left fold over the chain a | b | c at a site y = W x + b: the weight is materialised up to
 * the last adapter that has only `weight`; after it `delta` and `output` interleave in chain order.  With
 * several active adapters: y = y0 + sum of w_i (chain_i(x) - y0). */
#ifndef LORIKEET_ADAPTER_H
#define LORIKEET_ADAPTER_H
#include <lorikeet/layers.h>
#include <lorikeet/optim.h>
#include <lorikeet/random.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- sites ---- */

typedef enum lk_site_kind { LK_SITE_LINEAR = 1, LK_SITE_EMBEDDING = 2, LK_SITE_CONV2D = 4 } lk_site_kind;

typedef struct lk_at lk_at;
typedef struct lk_method lk_method;
typedef struct lk_adapter lk_adapter;

/* One named adapter at a site. */
typedef struct lk_site_stack {
  lk_adapter *adapter;
  lk_at *chain;
  struct lk_site_stack *next;
} lk_site_stack;

struct lk_site {
  lk_module *module;
  lk_site_kind kind;
  lk_param *weight, *bias; /* bias NULL: none */
  int64_t in, out;         /* features; vocabulary and width of an embedding; channels of a convolution */
  int fan_in_fan_out;      /* weight is stored [in, out] */
  int tied;                /* a head computes with the weight too, as it is without adapters */
  int head;                /* the last layer of a language model, which "all-linear" leaves out, as in PEFT */
  lk_conv2d_options conv;
  lk_site_stack *stacks;
  int merged;
  lk_at *replaced_by;      /* the adapter that replaced the base weight, or NULL */
  lk_view original_weight; /* and what it was before */
  int original_owned;
  struct lk_coded *coded; /* codes of a quantised weight, which then has a shape and no memory; or NULL */
};

/* Makes m a site; called by layers' constructors.  Shapes: linear [out, in] ([in, out] with
 * fan_in_fan_out), embedding [in, out], conv2d [out, in / groups, k0, k1]. */
LK_API lk_site *lk_site_new(lk_module *m, lk_site_kind kind, lk_param *weight, lk_param *bias);
/* The layer's map with its active adapters: what a layer's forward function calls. */
LK_API lk_tensor lk_site_forward(lk_site *site, lk_tape *t, lk_tensor x);
/* The layer's map with a given weight (as lk_site_weight gives it) and bias (nil: none). */
LK_API lk_tensor lk_site_base(lk_site *site, lk_tape *t, lk_tensor x, lk_tensor W, lk_tensor b);
/* The frozen base: weight [out, in] whatever the storage (embedding [in, out], conv2d [out, in, k0, k1]), and bias or nil. */
LK_API lk_tensor lk_site_weight(lk_site *site, lk_tape *t);
LK_API lk_tensor lk_site_bias(lk_site *site, lk_tape *t);
/* The layer's map with its frozen base, which a quantised weight does without being decoded whole. */
LK_API lk_tensor lk_site_plain(lk_site *site, lk_tape *t, lk_tensor x);
/* Copies the frozen base weight of a linear site, [out, in] whatever the storage, into `to` (any real dtype, any strides). */
LK_API lk_status lk_site_read(const lk_site *site, const lk_view *to);
/* Axis of the weight that counts outputs: 0, for an embedding 1. */
LK_API int lk_site_out_axis(const lk_site *site);

/* ---- classes ---- */

typedef enum lk_opt_type { LK_OPT_INT, LK_OPT_REAL, LK_OPT_FLAG, LK_OPT_WORD } lk_opt_type;

/* An option of a class: "key=value" in a spec; a flag may stand alone.  Ended by {0}.  The table also makes
 * the range errors, the help and the catalogue. */
typedef struct lk_opt {
  const char *key;
  lk_opt_type type;
  size_t offset;         /* in cfg: of an int (INT, FLAG, WORD: index into words) or a double (REAL) */
  double def, low, high; /* default and range, inclusive */
  const char *words;     /* WORD: "default|gaussian|pissa" */
  const char *help;
} lk_opt;

enum {
  LK_AFFINE = 1,        /* for fixed parameters, affine in x: can be merged */
  LK_READS_WEIGHT = 2,  /* needs the weight of what precedes it */
  LK_WRAPPER = 4,       /* holds a chain: "dropout p=0.1 (lora r=8)" */
  LK_NOOP_AT_START = 8, /* the output is unchanged right after attaching */
  LK_ROUTED = 16,       /* what it adds depends on the input in other ways than through a weight: cannot be merged */
  LK_FROM_WEIGHT = 32   /* its parameters begin with values of the site's weight: no two sites can share them */
};

/* Hooks that a class does not need are NULL. */
typedef struct lk_adapter_class {
  const char *name, *summary, *cite;
  const char *alias; /* another name it answers to, or NULL */
  unsigned sites;    /* lk_site_kind bits it can attach to */
  unsigned caps;
  size_t cfg_size, site_size, method_size; /* of at->cfg, at->st and method->st, which the engine allocates */
  const lk_opt *opts;

  /* -- making -- */
  /* Refuses a configuration that ranges cannot express. */
  lk_status (*check)(lk_at *);
  /* A wrapper: how many copies of its chain it holds at this site (experts); NULL: one. */
  int (*copies)(const lk_at *);
  /* Makes this site's parameters (lk_at_param); may replace the frozen base (lk_at_rebase). */
  lk_status (*attach)(lk_at *);
  /* Once, after every site is attached (method->at[] is known): what spans sites; parameters by lk_method_param. */
  lk_status (*init)(lk_method *);
  /* Frees what at->st and method->st own beyond parameters. */
  void (*destroy_at)(lk_at *);
  void (*destroy)(lk_method *);

  /* -- computing -- */
  /* W', b' from W, b; *b may be nil and may be created. */
  lk_status (*weight)(lk_at *, lk_tape *, lk_tensor *W, lk_tensor *b);
  /* What the base reads instead of x (x itself: nothing is different in this configuration).  Asked of the first in a chain
   * only, when no weight is formed; what follows gets x. */
  lk_tensor (*input)(lk_at *, lk_tape *, lk_tensor x);
  /* y plus what the adapter adds for input x; may change y in place; y nil: only the addition. */
  lk_tensor (*delta)(lk_at *, lk_tape *, lk_tensor x, lk_tensor y);
  /* y' from y */
  lk_tensor (*output)(lk_at *, lk_tape *, lk_tensor x, lk_tensor y);
  /* With `weight` too: may delta and output stand for it in this pass?  NULL: always. */
  int (*twin)(const lk_at *, const lk_tape *);
  /* A term of the loss (one element) from parameters and from what this pass noted (lk_noted); nil: none. */
  lk_tensor (*loss)(lk_method *, lk_tape *);
  /* The weight's change as an exact product B A, A [r, in], B [out, r]: makes the adapter a plain LoRA. */
  lk_status (*factors)(lk_at *, lk_tape *, lk_tensor *A, lk_tensor *B);

  /* -- while training -- */
  /* After the optimiser's update number `step` (0, 1, ...), before gradients are cleared: see lk_adapter_follow. */
  lk_status (*stepped)(lk_method *, int64_t step);
  /* Training will take so many steps (see lk_adapter_plan). */
  lk_status (*plan)(lk_method *, int64_t steps);
  /* Is the structure after so many steps one to keep?  (AdaLoRA: not before the budget is reached.)  NULL: always. */
  int (*final)(const lk_method *, int64_t steps);
  /* The program enters a phase of training: 1, or 0 if the method has none of this name; see lk_adapter_phase. */
  int (*phase)(lk_method *, const char *name);
  const char *phases; /* their names, "importance, select", for messages */
  /* LK_BUFFER parameters were read from a file; called before the trained ones are: rebuild what depends on them. */
  lk_status (*loaded)(lk_method *);
  /* What there is to tell after training, in one line (lk_sprintf), as "experts' load 12 30 31 27 %"; NULL: nothing. */
  char *(*notes)(lk_method *);

  /* -- structure search: see lk_adapter_choose -- */
  /* Number of genes at this site; the number of choices of each into choices unless that is NULL. */
  int (*genes)(const lk_at *, int *choices);
  /* Fixes the structure (NULL: free again, drawn in every training pass). */
  lk_status (*choose)(lk_at *, const int *choice);
  /* Trained elements that a choice needs here. */
  int64_t (*cost)(const lk_at *, const int *choice);
  /* Retires parameters that the fixed structure does not use. */
  lk_status (*settle)(lk_at *);
} lk_adapter_class;

/* One configured instance of a class: shared by its sites. */
struct lk_method {
  const lk_adapter_class *cls;
  lk_adapter *adapter;
  char *label;      /* "second" of "lora:second", or "" */
  void *cfg;        /* options as written in the spec */
  void *st;         /* the class's state, zeroed */
  char *written;    /* the options' keys that the spec named, " r alpha " */
  lk_method *next;  /* in the chain */
  lk_method *inner; /* a wrapper's chain */
  lk_method *outer; /* the wrapper that holds it, or NULL */
  lk_at **at;       /* where it is attached, sites in the model's order, experts in theirs */
  int nat;
  size_t at_capacity;
  lk_param *params; /* of lk_method_param */
};

/* Method x site (x expert). */
struct lk_at {
  lk_method *method;
  lk_site *site;
  const void *cfg;  /* the method's options, with this site's overrides */
  void *st;         /* the class's state, zeroed before attach */
  lk_at *head;      /* first of its chain */
  lk_at *next;      /* in the chain */
  lk_at *inner;     /* a wrapper's first chain */
  lk_at *other;     /* of the first in a chain: the wrapper's next chain */
  lk_at *outer;     /* the wrapper that holds it, or NULL */
  int index;        /* which of the wrapper's chains it is in: 0, 1, ... */
  lk_param *params; /* its parameters */
  lk_tensor base;   /* while delta of a wrapper runs: what the layer makes of x without adapters; nil: not known */
};

/* A named adapter of a model. */
struct lk_adapter {
  lk_model *model;
  char *name, *spec, *targets;
  lk_method *chain;
  int active, trainable;
  double weight;
  lk_param *stand_ins; /* trained copies: modules_to_save and biases; their owner is the replaced lk_param */
  struct lk_attach_options *options; /* a copy, for saving */
  lk_adapter *next;
};

/* Adds a class of the user's program to the model: same rights as a built-in one. */
LK_API lk_status lk_adapter_register(lk_model *model, const lk_adapter_class *cls);
/* By name: registered in the model (which may be NULL), or built in; NULL if there is none. */
LK_API const lk_adapter_class *lk_adapter_find_class(lk_model *model, const char *name);
/* Built-in classes, ended by NULL. */
LK_API const lk_adapter_class *const *lk_adapter_classes(void);

/* ---- what classes call ---- */

/* A parameter "<site path>.<name>" (".<label>" before the name when the method has one, before that ".experts.<i>"
 * behind a wrapper that holds several chains). NULL on error. */
LK_API lk_param *lk_at_param(lk_at *at, const char *name, lk_param_kind kind, int ndim, const int64_t *shape);
/* A parameter "<class>.<name>" (".<label>" before the name) that belongs to no site. NULL on error. */
LK_API lk_param *lk_method_param(lk_method *m, const char *name, lk_param_kind kind, int ndim, const int64_t *shape);
/* Makes p another name for the values, the gradient and the optimiser state of `with` (same shape): counted, trained and
 * saved once, as `with`.  with NULL: p has its own memory again, and the values it had before.  Going back and forth
 * allocates nothing. */
LK_API lk_status lk_param_share(lk_param *p, lk_param *with);
/* The next adapter of a chain, wrapped ones included: for (lk_at *a = chain; a; a = lk_at_walk(chain, a)). */
LK_API lk_at *lk_at_walk(lk_at *chain, lk_at *at);
/* The same over a chain of methods. */
LK_API lk_method *lk_method_walk(lk_method *chain, lk_method *m);
LK_API lk_ctx *lk_method_ctx(const lk_method *m);
/* "<site path>[.experts.<i>].<label>" in buffer: the name of a side input or of a stream of draws. */
LK_API const char *lk_at_name(const lk_at *at, const char *label, char *buffer, size_t size);
/* The side input of that name, or nil. */
LK_API lk_tensor lk_at_side(const lk_at *at, lk_tape *t, const char *label);
/* Key of random draws on the host, of this site, label and training pass: the same however often it is asked for. */
LK_API lk_key lk_at_key(const lk_at *at, const lk_tape *t, const char *label);
/* An option's value at this site by key; `missing` if the class has no such option. */
LK_API double lk_at_option(const lk_at *at, const char *key, double missing);
LK_API double lk_method_option(const lk_method *m, const char *key, double missing); /* as written in the spec */
LK_API lk_ctx *lk_at_ctx(const lk_at *at);
LK_API const char *lk_at_path(const lk_at *at); /* of the site */
/* The layer that the site is in: the first number among the parts of its path ("encoder.layer.3.query": 3); -1: none. */
LK_API int lk_at_layer(const lk_at *at);
/* The path without its numbers, "encoder.layer.query": sites of one type.  In buffer. */
LK_API const char *lk_at_type(const lk_at *at, char *buffer, size_t size);
/* Replaces the frozen base weight by values (logical layout); must be first in its chain, and the only one. */
LK_API lk_status lk_at_rebase(lk_at *at, const lk_view *weight);
/* Inverted dropout of x in training, keyed by scope; a side input "<site path>.<label>" holds a recorded keep mask
 * (0 or 1, x's shape) and replaces the draw. */
LK_API lk_tensor lk_at_dropout(lk_at *at, lk_tape *t, const char *label, double p, lk_tensor x);
/* Weight and bias of everything before `at` in its chain, folded. */
LK_API lk_status lk_at_folded(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b);
/* Folds a whole chain into W and b (which may be nil); every class in it has `weight`, or it fails. */
LK_API lk_status lk_chain_weight(lk_at *chain, lk_tape *t, lk_tensor *W, lk_tensor *b);
/* The twin of lk_chain_delta, for a wrapper's `weight`: W and b plus what the chain changes of its site's base. */
LK_API lk_status lk_chain_change(lk_at *chain, lk_tape *t, lk_tensor *W, lk_tensor *b);
/* y plus what a whole chain adds to its site's base at x (y nil: only that). */
LK_API lk_tensor lk_chain_delta(lk_at *chain, lk_tape *t, lk_tensor x, lk_tensor y);
/* The same with what the layer makes of x without adapters, base, if the caller has that already. */
LK_API lk_tensor lk_chain_delta_from(lk_at *chain, lk_tape *t, lk_tensor x, lk_tensor base, lk_tensor y);
/* That base for a wrapper's chains, whose input is to be `from` where delta got x; nil: they do not need it. */
LK_API lk_tensor lk_at_base(lk_at *wrapper, lk_tape *t, lk_tensor x, lk_tensor from);
/* y + d; either may be nil. */
LK_API lk_tensor lk_plus(lk_tape *t, lk_tensor y, lk_tensor d);

/* ---- attaching ---- */

/* Options by site: at sites that match `pattern`, the methods' options are changed by "r=4 alpha=8". */
typedef struct lk_override {
  const char *pattern, *options;
} lk_override;

typedef enum lk_bias_mode { LK_BIAS_NONE, LK_BIAS_ADAPTED, LK_BIAS_ALL } lk_bias_mode; /* PEFT: none, lora_only, all */

typedef struct lk_attach_options {
  const char *name;            /* NULL: "default" */
  const char *spec;            /* "lora r=8 alpha=16 | magnitude" */
  const char *targets;         /* patterns, separated by commas or spaces; see lk_match */
  const char *exclude;         /* patterns of sites to leave out, or NULL */
  const char *modules_to_save; /* path suffixes of modules that train whole, as copies, or NULL */
  lk_bias_mode bias;           /* which biases of the base train, as copies */
  const int *layers;           /* layers_to_transform: only sites whose layer number is listed */
  int nlayers;
  const char *layers_pattern;   /* names before the layer number, comma-separated, or NULL */
  const lk_override *overrides; /* first matching one wins for each key */
  int noverrides;
  int lenient; /* a pattern without a match is a warning (foreign files) */
} lk_attach_options;

/* Does a pattern match a module path?  It matches the whole path, or the whole of a part of it that starts after a
 * dot; '*' and '?' stand for anything, dots too: "query", "*.query", "layer.0.*".  "re:..." is a PCRE2 expression for
 * the whole path, and ends the list.  Among targets, "all-linear" stands for every linear site (a head too, unless it
 * is excluded or saved whole by modules_to_save). */
LK_API int lk_match(lk_ctx *ctx, const char *pattern, const char *path);

/* Attaches spec at the sites that targets match, freezes the base, activates the adapter.  Every pattern must match
 * a site, or it fails naming the closest ones; on failure the model is as before. */
LK_API lk_status lk_attach(lk_model *model, const char *name, const char *spec, const char *targets);
LK_API lk_status lk_attach_with(lk_model *model, const lk_attach_options *options);
/* What attaching would do, as a table "site  kind  in  out  trained"; nothing is changed.  The
 * text is the caller's (lk_free).  NULL on error. */
LK_API char *lk_attach_dry_run(lk_model *model, const lk_attach_options *options);
/* Removes an adapter and frees it; the values of the base are bit-identical to what they were.  It stays frozen:
 * lk_set_requires_grad(lk_model_root(model), 1) trains it again. */
LK_API lk_status lk_detach(lk_model *model, const char *name);

LK_API lk_adapter *lk_adapter_find(lk_model *model, const char *name); /* NULL if there is none */
LK_API lk_adapter *lk_adapter_first(lk_model *model);                  /* then ->next */
/* Exactly these adapters are active, in this order, with these weights (NULL: 1 each). */
LK_API lk_status lk_set_active(lk_model *model, int n, const char *const *names, const double *weights);
LK_API lk_status lk_set_trainable(lk_model *model, const char *name, int on); /* apart from being active */
LK_API int64_t lk_adapter_count(lk_model *model, const char *name);           /* trained elements */

/* ---- training ---- */

/* The active adapters' own terms of the loss (balance, orthogonality), to be added to the task's after the forward
 * pass: lk_plus(t, loss, lk_adapter_loss(model, t)).  nil: there is none. */
LK_API lk_tensor lk_adapter_loss(lk_model *model, lk_tape *t);
/* Has the model's adapters follow an optimiser: after every lk_step their `stepped` runs (AdaLoRA's budget), and lk_step
 * refuses when adapters have terms of the loss that nobody asked for.  To be called for each new optimiser. */
LK_API lk_status lk_adapter_follow(lk_model *model, lk_optim *opt);
/* Tells the active adapters how many steps training will take (AdaLoRA's total, unless its options say it). */
LK_API lk_status lk_adapter_plan(lk_model *model, int64_t steps);
/* May the values after so many steps be kept as the best ones?  (Not while AdaLoRA still lowers ranks.) */
LK_API int lk_adapter_is_final(lk_model *model, int64_t steps);
/* Has an active adapter a phase of this name? */
LK_API int lk_adapter_has_phase(lk_model *model, const char *name);
/* Tells the active adapters that a phase begins ("importance" of lora_drop); LK_EARG, naming those there are, if no
 * adapter has it. */
LK_API lk_status lk_adapter_phase(lk_model *model, const char *name);
/* What an adapter's methods have to tell, a line each, "" if nothing; the caller's (lk_free).  NULL on error. */
LK_API char *lk_adapter_notes(lk_model *model, const char *name);
/* Cosines [r, r], row-major, between the rank-one terms b_k a_k^T of the weight's change at a site, as flattened matrices:
 * are the experts of MLAE different ones?  0 where a term is zero.  For classes with `factors`.  The caller's (lk_free);
 * NULL on error, and with *r = 0 where nothing is changed. */
LK_API double *lk_at_cosines(lk_at *at, int64_t *r);
/* The mean of |cosine| over the pairs of terms, averaged over the method's sites that have two terms or more; their number
 * into *sites.  0 without any. */
LK_API double lk_method_similarity(lk_method *m, int *sites);

/* ---- structure search ---- */

/* Adapters that declare choices, by sites in the model's order.  With no choice made, training draws one at random for
 * each pass and site (a supernet); lk_search finds the best one:
 *
 *   n = lk_adapter_genes(model, "default", NULL); ... lk_search_new(ctx, n, choices, ...)
 *   while ((genome = lk_search_ask(s))) { lk_adapter_choose(model, "default", genome); lk_search_tell(s, accuracy()); }
 *   lk_adapter_choose(model, "default", lk_search_best(s, ...)); lk_adapter_settle(model, "default"); */
/* Number of genes; the number of choices of each into choices unless that is NULL. */
LK_API int lk_adapter_genes(lk_model *model, const char *name, int *choices);
/* Fixes the structure; NULL: free again.  LK_EARG for a choice that does not exist. */
LK_API lk_status lk_adapter_choose(lk_model *model, const char *name, const int *genome);
/* Trained elements of the structure. */
LK_API int64_t lk_adapter_choice_cost(lk_model *model, const char *name, const int *genome);
/* Retires what the chosen structure does not use: neither counted, trained nor saved from now on. */
LK_API lk_status lk_adapter_settle(lk_model *model, const char *name);

/* ---- merging ---- */

typedef struct lk_merge_report {
  int sites;
  double max_change, max_relative_change; /* largest |W' - W|, and that over the largest |W| of its site */
  const char *site;                       /* where the relative one is */
} lk_merge_report;

/* Writes the active adapters into the base: folded in f64, one rounding, all computed before any is written.
 * A second merge is a no-op.  Adapters that depend on the input are refused.  report may be NULL. */
LK_API lk_status lk_merge(lk_model *model, lk_merge_report *report);
LK_API lk_status lk_unmerge(lk_model *model); /* bit-exact */
LK_API int lk_is_merged(const lk_model *model);

/* ---- files ---- */

/* Writes an adapter into dir itself: adapter_config.json and adapter_model.safetensors, PEFT's format where PEFT has the
 * method.  base: name of the base model for the config, or NULL. */
LK_API lk_status lk_adapter_save(lk_model *model, const char *name, const char *dir, const char *base);
/* Reads such a directory (ours or PEFT's; dir, or else dir/name, where PEFT puts adapters that are not called default),
 * attaches it under a name and activates it; trainable says whether it trains.  On failure nothing stays attached. */
LK_API lk_status lk_adapter_load(lk_model *model, const char *name, const char *dir, int trainable);
/* Writes the adapter as a plain LoRA in PEFT's format that computes the same (scaling 1, a rank per site): for chains
 * of one method whose change of the weight is exactly low-rank (mlae, neat, adalora, ...). */
LK_API lk_status lk_adapter_export_lora(lk_model *model, const char *name, const char *dir, const char *base);
/* Refuses an adapter that lk_adapter_export_lora would refuse: to know it before training. */
LK_API lk_status lk_adapter_can_export_lora(lk_model *model, const char *name);

/* ---- text ---- */
/* The catalogue: classes with their options, ranges, defaults and papers; the caller's (lk_free). markdown: as tables. */
LK_API char *lk_adapter_catalogue(lk_ctx *ctx, int markdown);

#ifdef __cplusplus
}
#endif
#endif
