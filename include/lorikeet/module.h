/* module.h: the tree of modules of a model; its paths are the names of the tensors in files.
 *
 * A model is C functions calling C functions; a module is a struct that begins with lk_module and holds
 * parameters and children.  The path of a module is its ancestors' names joined by dots:
 * "vit.encoder.layer.0.attention.attention.query"; its parameters add ".weight", ".bias". */
#ifndef LORIKEET_MODULE_H
#define LORIKEET_MODULE_H
#include <lorikeet/tape.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lk_module lk_module;
typedef struct lk_model lk_model;
typedef struct lk_site lk_site;

struct lk_module {
  lk_ctx *ctx;
  lk_model *model;                  /* the root */
  const char *type;                 /* "linear", "embedding", ...; a string literal */
  char *name;                       /* last part of the path; may itself hold dots */
  char *path;                       /* whole path, "" for the root */
  char *also;                       /* another path that HuggingFace's library knows it by, or NULL: lk_module_also */
  lk_module *parent, *child, *next; /* children in order of creation */
  lk_param *params;                 /* its own, in order of creation */
  lk_site *site;                    /* where adapters may attach, or NULL */
  void (*destroy)(lk_module *);     /* frees what the struct owns beyond parameters and children; may be NULL */
};

enum {
  LK_SHAPES_ONLY = 1 /* parameters have shapes but no memory: counting, match tables */
};

/* An empty model whose real parameters have the dtype (LK_F32, or LK_F64 for checks).  Freed by
 * lk_model_free together with every module, parameter and adapter in it. */
LK_API lk_model *lk_model_new(lk_ctx *ctx, lk_dtype dtype, int flags);
LK_API void lk_model_free(lk_model *model);
LK_API lk_module *lk_model_root(lk_model *model);
LK_API lk_dtype lk_model_dtype(const lk_model *model);
LK_API lk_ctx *lk_model_ctx(const lk_model *model);
LK_API int lk_model_shapes_only(const lk_model *model);
/* Calls fn(arg) when the model is freed, last registered first.  On error fn is called at once. */
LK_API lk_status lk_model_on_free(lk_model *model, void (*fn)(void *arg), void *arg);

/* A child of parent: size bytes (at least sizeof(lk_module)), zeroed, named.  Two children of one name are
 * refused.  Owned by the model.  NULL on error, or when parent is NULL (so constructors can be chained). */
LK_API void *lk_module_new(lk_module *parent, const char *name, const char *type, size_t size);
/* A trained parameter "<path>.<name>" of the model's dtype, zeroed.  NULL on error. */
LK_API lk_param *lk_module_param(lk_module *m, const char *name, int ndim, const int64_t *shape);
/* Another path of the module: newer versions of HuggingFace's transformers rename modules in memory and keep the names
 * of tensors in model files, so that PEFT's adapters carry the new names.  Patterns match either path, adapters are
 * read under either and written under both. */
LK_API lk_status lk_module_also(lk_module *m, const char *path);
/* The module or parameter with this path below (and including) m; NULL if there is none (no error). */
LK_API lk_module *lk_module_find(lk_module *m, const char *path);
LK_API lk_param *lk_param_find(lk_module *m, const char *path);
/* The next module of the tree in order of creation (depth first), for loops: for (m = root; m; m = lk_module_walk(root, m)). */
LK_API lk_module *lk_module_walk(lk_module *root, lk_module *m);

/* Turns gradients off or on for every parameter of m and below (not of adapters). */
LK_API void lk_set_requires_grad(lk_module *m, int on);
/* Every parameter of the model and its adapters that is trained now (kind LK_TRAINED, requires_grad; a
 * replaced one stands aside); the array is the caller's, to be freed with lk_free.  *n = 0 is no error here. */
LK_API lk_param **lk_trainable(lk_model *model, int *n);
/* Numbers of elements: trained now, and of the base model altogether. */
LK_API int64_t lk_trainable_count(lk_model *model);
LK_API int64_t lk_parameter_count(lk_model *model);

/* ---- files ---- */
enum {
  LK_LOAD_COPY = 1,   /* copy into the model's memory instead of mapping the file (needed to train or edit) */
  LK_LOAD_PARTIAL = 2 /* missing and unexpected tensors become warnings */
};
/* Reads the model's tensors from a safetensors file, by path, and keeps the file mapped while the model lives.
 * Missing, unexpected and misshapen tensors are listed in ONE error, before anything is changed.  Other
 * dtypes (f32, f64, bf16, f16) are converted to the model's; but weights of linear layers and embeddings of an f32 model
 * stay in the file as bf16 or f16, and are widened where they are used.  Refused while adapters are merged or replace the base. */
LK_API lk_status lk_model_load(lk_model *model, const char *path, int flags);
typedef struct lk_load_options {
  int flags;
  const char *prefix;      /* "vit.": parameters whose path begins so may stand in the file without it; or NULL */
  const char *added;       /* "bert.": the file may have this in front of any path; or NULL */
  const char *const *skip; /* beginnings of paths, ended by NULL: these keep their values, whatever the file holds */
  const char *const
      *unused; /* beginnings ("*.x": ends) of names in the file, ended by NULL, that the model does not need */
  const char *const *optional; /* beginnings of paths, ended by NULL: they keep their values when the file has none */
  const struct lk_quantise_options *quantise; /* weights become codes as they are read; NULL: none do; see quantise.h */
} lk_load_options;
LK_API lk_status lk_model_load_with(lk_model *model, const char *path, const lk_load_options *options);
/* The same from a directory: its model.safetensors, or the shards that its model.safetensors.index.json names. */
LK_API lk_status lk_model_load_directory(lk_model *model, const char *directory, const lk_load_options *options);
/* Writes every base parameter (merged values if merged; never what an adapter put in its place) atomically. */
LK_API lk_status lk_model_save(lk_model *model, const char *path);

#ifdef __cplusplus
}
#endif
#endif
