/* layers.h: layers: modules with parameters and a forward function; initialised as PyTorch's. */
#ifndef LORIKEET_LAYERS_H
#define LORIKEET_LAYERS_H
#include <lorikeet/conv.h>
#include <lorikeet/module.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  LK_NO_BIAS = 1,
  LK_FAN_IN_FAN_OUT = 2, /* weight stored [in, out] (GPT-2's Conv1D) */
  LK_NAMELESS = 4        /* attention and MLP: adds nothing to the paths of the layers inside */
};

/* y = x W^T + b; x [..., in] -> [..., out]; W [out, in] and b [out] from U(-1/sqrt(in), 1/sqrt(in)).  A site. */
typedef struct lk_linear_layer {
  lk_module module;
  int64_t in, out;
  lk_param *weight, *bias; /* bias NULL with LK_NO_BIAS */
} lk_linear_layer;
LK_API lk_linear_layer *lk_linear_new(lk_module *parent, const char *name, int64_t in, int64_t out, int flags);
LK_API lk_tensor lk_linear_forward(lk_linear_layer *layer, lk_tape *t, lk_tensor x);

/* y = W[ids]; ids any shape, index -> [..., width]; W [count, width] from N(0, 1).  A site. */
typedef struct lk_embedding_layer {
  lk_module module;
  int64_t count, width;
  lk_param *weight;
} lk_embedding_layer;
LK_API lk_embedding_layer *lk_embedding_new(lk_module *parent, const char *name, int64_t count, int64_t width);
LK_API lk_tensor lk_embedding_forward(lk_embedding_layer *layer, lk_tape *t, lk_tensor ids);

/* Convolution; x [N, in, H, W] -> [N, out, H', W']; W [out, in / groups, k0, k1], b [out].  A site. */
typedef struct lk_conv2d_layer {
  lk_module module;
  int64_t in, out;
  lk_conv2d_options options;
  lk_param *weight, *bias;
} lk_conv2d_layer;
LK_API lk_conv2d_layer *lk_conv2d_new(lk_module *parent, const char *name, int64_t in, int64_t out,
                                      const int64_t kernel[2], const lk_conv2d_options *options, int flags);
LK_API lk_tensor lk_conv2d_forward(lk_conv2d_layer *layer, lk_tape *t, lk_tensor x);

/* Layer normalisation over the last axis; weight 1, bias 0. */
typedef struct lk_layer_norm_layer {
  lk_module module;
  int64_t width;
  double eps;
  lk_param *weight, *bias;
} lk_layer_norm_layer;
LK_API lk_layer_norm_layer *lk_layer_norm_new(lk_module *parent, const char *name, int64_t width, double eps);
LK_API lk_tensor lk_layer_norm_forward(lk_layer_norm_layer *layer, lk_tape *t, lk_tensor x);

/* RMS normalisation over the last axis; weight 1. */
typedef struct lk_rms_norm_layer {
  lk_module module;
  int64_t width;
  double eps;
  lk_param *weight;
} lk_rms_norm_layer;
LK_API lk_rms_norm_layer *lk_rms_norm_new(lk_module *parent, const char *name, int64_t width, double eps);
LK_API lk_tensor lk_rms_norm_forward(lk_rms_norm_layer *layer, lk_tape *t, lk_tensor x);

/* ---- blocks of layers ---- */

/* An activation by its name in HuggingFace's configs; the name is a literal.  NULL on error, which lists the names. */
typedef struct lk_activation {
  const char *name;
  lk_tensor (*forward)(lk_tape *t, lk_tensor x);
} lk_activation;
LK_API const lk_activation *lk_activation_find(lk_ctx *ctx, const char *name);

/* Multi-head attention (Vaswani et al., "Attention Is All You Need", NeurIPS 2017): heads of softmax(q k^T / sqrt(d)) v,
 * d = width / heads, then the output layer.  Either three linear layers for q, k and v, or one of 3 * width outputs
 * that are q, k, v one behind the other.  Names may hold dots: "attention.query". */
typedef struct lk_multi_head_options {
  int64_t width;                   /* of x, q, k, v and y; a multiple of heads */
  int64_t heads;                   /* parts that attend apart */
  const char *query, *key, *value; /* names; NULL: "query", "key", "value" */
  const char *qkv;                 /* name of the fused layer; NULL: three layers */
  const char *output;              /* NULL: "output" */
  int flags;                       /* LK_NO_BIAS: of q, k, v; LK_NAMELESS */
  int causal;                      /* a token sees itself and those before it */
  double dropout, output_dropout;  /* of the probabilities; behind the output layer */
} lk_multi_head_options;

typedef struct lk_attention_layer {
  lk_module module;
  int64_t width, heads;
  int causal, recompute; /* recompute: keep nothing inside for backward, LK_SCOPE_RECOMPUTE; may be set at any time */
  double dropout, output_dropout;
  lk_linear_layer *query, *key, *value; /* NULL with qkv */
  lk_linear_layer *qkv, *output;
} lk_attention_layer;
LK_API lk_attention_layer *lk_attention_new(lk_module *parent, const char *name, const lk_multi_head_options *options);
/* x [N, T, width] -> [N, queries, width]: attention of the first `queries` tokens (0: of all, -1: of the last one) to
 * those they see of all T.  mask: nil, or what lk_attention takes, broadcasting to [N, heads, queries, T]. */
LK_API lk_tensor lk_attention_forward(lk_attention_layer *layer, lk_tape *t, lk_tensor x, lk_tensor mask,
                                      int64_t queries);

/* y = down(activation(up(x))), then dropout; x [..., width], in between [..., hidden]. */
typedef struct lk_mlp_options {
  int64_t width, hidden;
  const char *up, *down;  /* names; NULL: "fc1", "fc2" */
  const char *activation; /* NULL: "gelu" */
  int flags;              /* LK_NO_BIAS: of both; LK_NAMELESS */
  double dropout;
} lk_mlp_options;

typedef struct lk_mlp_layer {
  lk_module module;
  lk_linear_layer *up, *down;
  const lk_activation *activation;
  double dropout;
  int recompute; /* as in lk_attention_layer */
} lk_mlp_layer;
LK_API lk_mlp_layer *lk_mlp_new(lk_module *parent, const char *name, const lk_mlp_options *options);
LK_API lk_tensor lk_mlp_forward(lk_mlp_layer *layer, lk_tape *t, lk_tensor x);

#ifdef __cplusplus
}
#endif
#endif
