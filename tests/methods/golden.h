/* golden.h: a case file of recorded tensors, running a layer as it says, and comparing what comes out.
 *
 * The first problem (a missing tensor, what the library refuses) is the context's error and ends the case; a number that
 * is wrong does not.  A method is one file with one golden_method, and one line in tests/reference.c. */
#ifndef GOLDEN_H
#define GOLDEN_H
#include <lorikeet.h>

typedef struct golden {
  const char *path; /* as the user gave it */
  lk_ctx *ctx;
  lk_safetensors *file;
  char *seen;    /* by tensor: something asked for it */
  void **copies; /* what golden_get made */
  size_t ncopies, copy_capacity;
  double tolerance; /* of golden_compare */
  int verbose;
  int compared;
  double largest; /* error so far, and where */
  char where[200];
  char wrong[400]; /* the first error above its tolerance, in words, or "" */
} golden;

typedef struct golden_kind {
  const char *kind;
  void (*run)(golden *g);
} golden_kind;

typedef struct golden_method {
  const char *method;
  const golden_kind *kinds; /* ended by {0} */
  /* The kind of a file that does not say it, or NULL; may be NULL. */
  const char *(*guess)(golden *g);
} golden_method;

extern const golden_method golden_adalora;
extern const golden_method golden_glora;
extern const golden_method golden_lora;
extern const golden_method golden_malora;
extern const golden_method golden_molora;
extern const golden_method golden_neat;
extern const golden_method golden_mlae;
extern const golden_method golden_lora_drop;

/* ---- case.c: what a file holds ---- */

/* Opens a file for a golden with path, ctx and tolerance set; 0, or -1 with an error.  golden_close in both cases. */
int golden_open(golden *g, const char *file);
void golden_close(golden *g);
int golden_has(const golden *g, const char *name);
int golden_has_prefix(const golden *g, const char *prefix); /* any tensor; prefix may be NULL */
/* A tensor as row-major f64 (whole: i64) that lives as long as the case: 1, or 0 when the file has none. */
int golden_get(golden *g, const char *name, lk_view *v);
int golden_get_whole(golden *g, const char *name, lk_view *v);
/* A tensor without which nothing can be run: 1, or 0 with an error. */
int golden_need(golden *g, const char *name, lk_view *v);
/* Gives v the shape of `like` if they differ in axes of length 1 only. */
void golden_reshape(lk_view *v, const lk_view *like);
/* Hyper-parameters: strings holding JSON or Python ("8", "true", "None"), or tensors of one element. */
double golden_real(golden *g, const char *key, double fallback);
int golden_flag(golden *g, const char *key, int fallback);
const char *golden_text(const golden *g, const char *key, const char *fallback);
/* One number for both, or two: "2", "[2, 1]", "(2, 1)". */
void golden_pair(golden *g, const char *key, int64_t fallback, int64_t pair[2]);
/* max |a - b| / max(1, max |b|) of the recorded tensor against ours; without such a tensor nothing is done.  Axes of
 * length 1 need not agree. */
void golden_compare(golden *g, const char *name, const lk_view *got);
/* The same, called `label` in messages, with a tolerance of its own (1e-5 at least for what is stored as F32). */
void golden_compare_as(golden *g, const char *name, const char *label, const lk_view *got, double tolerance);
/* The same against numbers that the file does not hold. */
void golden_expect(golden *g, const char *label, const lk_view *got, const lk_view *want, double tolerance);
/* An error naming the tensors that nothing has asked for. */
void golden_all_seen(golden *g);

/* ---- layer.c: one layer ---- */

/* How a parameter is called in the file and in the library; ended by {0}. */
typedef struct golden_name {
  const char *stored, *param;
} golden_name;

typedef struct golden_layer {
  golden *g;
  lk_model *model;
  lk_site *site;
  lk_tape *t;
  const golden_name *names;
} golden_layer;

/* The layer "site" made from W0, b0 and the metadata; 0, or -1 with an error.  golden_layer_free in both cases. */
int golden_layer_new(golden *g, golden_layer *l, lk_site_kind kind, const golden_name *names);
void golden_layer_free(golden_layer *l);
/* A parameter of an adapter there; NULL if it has none of this name. */
lk_param *golden_param(golden_layer *l, const char *adapter, const char *name);
/* Gives an adapter's parameters the recorded values, "<prefix><stored>". */
void golden_assign(golden_layer *l, const char *adapter, const char *prefix);
/* Forward and, with a recorded g, backward of sum(y g), in training with the recorded masks or in evaluation: compares
 * the output with the tensor y and the gradients with "<grads>x", "<grads><stored>" (NULL: none). */
void golden_pass(golden_layer *l, int training, const char *y, const char *grads);
/* Merges, compares weight and bias (NULL: none) and, with the recorded tensor y, the merged layer's output; unmerges. */
void golden_merge(golden_layer *l, const char *weight, const char *bias, const char *y);

/* ---- directory.c: a directory with an adapter in PEFT's format, its base model and recorded outputs ---- */
void golden_directory(golden *g); /* opens the file with the outputs */

/* ---- search.c: kind search_trace of glora: a run of the official evolutionary search ---- */
void golden_search_trace(golden *g);

#endif
