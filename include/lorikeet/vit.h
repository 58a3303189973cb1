/* vit.h: the vision transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021) for classification.
 *
 * Tensor names and config.json are those of HuggingFace's ViTForImageClassification, so its files are read and written
 * as they are; with fused_qkv the names are timm's (VisionTransformer).
 *
 *   lk_model *model = lk_model_new(ctx, LK_F32, 0);
 *   lk_vit_config config;
 *   lk_vit_preset(ctx, "vit-tiny-28", &config);
 *   lk_vit *vit = lk_vit_new(model, &config);          or  lk_vit_load(model, "directory", 0, 0)
 *   lk_tensor logits = lk_vit_forward(vit, t, images);
 *   lk_model_free(model);                                                                                        */
#ifndef LORIKEET_VIT_H
#define LORIKEET_VIT_H
#include <lorikeet/json.h>
#include <lorikeet/layers.h>

#ifdef __cplusplus
extern "C" {
#endif

/* HuggingFace's key in config.json behind each.  lk_vit_config_default gives HuggingFace's defaults. */
typedef struct lk_vit_config {
  int64_t image_size;        /* image_size: pixels a side, a multiple of patch_size */
  int64_t patch_size;        /* patch_size */
  int64_t channels;          /* num_channels */
  int64_t hidden_size;       /* hidden_size: width of a token, a multiple of heads */
  int64_t layers;            /* num_hidden_layers */
  int64_t heads;             /* num_attention_heads */
  int64_t intermediate_size; /* intermediate_size: hidden width of the MLP */
  int64_t classes;           /* the number of id2label's entries, else num_labels */
  double layer_norm_eps;     /* layer_norm_eps */
  double hidden_dropout;     /* hidden_dropout_prob: behind the embeddings and every attention and MLP */
  double attention_dropout;  /* attention_probs_dropout_prob */
  double initializer_range;  /* initializer_range: standard deviation of a new weight */
  const char *hidden_act;    /* hidden_act, see lk_activation_find; a literal */
  int qkv_bias;              /* qkv_bias */
  int fused_qkv;             /* fused_qkv (not HuggingFace's): timm's layout and names */
} lk_vit_config;

LK_API void lk_vit_config_default(lk_vit_config *config);
/* A configuration by name: vit-tiny-28, vit-small-28 (28 x 28 grey images, 10 classes), deit-tiny, vit-s16, vit-b16,
 * vit-b32, vit-l16 (224 x 224 colour, 1000 classes).  An unknown name is an error that lists them. */
LK_API lk_status lk_vit_preset(lk_ctx *ctx, const char *name, lk_vit_config *config);
/* Refuses what cannot be built, with the names and numbers. */
LK_API lk_status lk_vit_config_check(lk_ctx *ctx, const lk_vit_config *config);
/* From the object of a config.json, whose model_type must be "vit"; missing keys have HuggingFace's defaults. */
LK_API lk_status lk_vit_config_from_json(lk_ctx *ctx, const lk_json *json, lk_vit_config *config);
/* Into such an object: sets our keys and leaves others alone.  id2label and label2id are made anew ("LABEL_0", ...)
 * if there are not as many labels as classes. */
LK_API lk_status lk_vit_config_to_json(lk_ctx *ctx, const lk_vit_config *config, lk_json *json);

typedef enum lk_vit_recompute {
  LK_VIT_KEEP,            /* keep all that backward reads */
  LK_VIT_RECOMPUTE_PARTS, /* of attentions and MLPs keep only input and result; compute the inside again in backward */
  LK_VIT_RECOMPUTE_BLOCKS /* the same of whole blocks */
} lk_vit_recompute;

typedef struct lk_vit_block {
  lk_module module;
  lk_layer_norm_layer *norm1, *norm2;
  lk_attention_layer *attention;
  lk_mlp_layer *mlp;
  int recompute;
} lk_vit_block;

typedef struct lk_vit {
  lk_module module; /* "vit", below the model's root */
  lk_vit_config config;
  lk_param *cls, *position;
  lk_conv2d_layer *patch;
  lk_vit_block **blocks; /* config.layers of them */
  lk_layer_norm_layer *norm;
  lk_linear_layer *head;
  lk_json *json; /* the config.json that it was read from, or NULL */
  /* The head reads token 0 only, so the last block computes keys and values of all tokens, but query, output and MLP
   * of that one: the same logits and gradients, to rounding.  Set this to compute all of them: for adapters that must
   * see every token there (token statistics, routing by all tokens), and for recorded dropout masks. */
  int all_tokens;
} lk_vit;

/* Builds a model with HuggingFace's initialisation (weights, class token and positions from a normal distribution
 * truncated at +-2, biases 0, norms 1).  It belongs to the model, which may hold one.  NULL on error. */
LK_API lk_vit *lk_vit_new(lk_model *model, const lk_vit_config *config);
/* images [N, channels, image_size, image_size] -> logits [N, classes]. */
LK_API lk_tensor lk_vit_forward(lk_vit *vit, lk_tape *t, lk_tensor images);
LK_API void lk_vit_set_recompute(lk_vit *vit, lk_vit_recompute mode);    /* at any time; LK_VIT_KEEP at first */
LK_API const char *lk_vit_label(const lk_vit *vit, int64_t class_index); /* from id2label; NULL if there is none */
/* Names the config.classes classes for the config.json that is saved; takes copies. */
LK_API lk_status lk_vit_name_classes(lk_vit *vit, char *const *names);

/* Builds what directory's config.json says and reads its model.safetensors (flags: LK_LOAD_...).  classes: 0, or the
 * number of classes of a new head, freshly initialised whatever the file holds.  A file of a bare ViTModel (no "vit."
 * in front, a pooler) is accepted where a new head is made, or with LK_LOAD_PARTIAL. */
LK_API lk_vit *lk_vit_load(lk_model *model, const char *directory, int64_t classes, int flags);
/* Writes config.json and model.safetensors into a directory, which is made if needed. */
LK_API lk_status lk_vit_save(lk_vit *vit, const char *directory);
/* Refuses what lk_vit_save would: a bias that merging gave to a layer without one. */
LK_API lk_status lk_vit_can_save(const lk_vit *vit);
/* config.json alone. */
LK_API lk_status lk_vit_save_config(lk_vit *vit, const char *directory);

#ifdef __cplusplus
}
#endif
#endif
