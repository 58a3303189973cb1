/* net.h: networks of an architecture's shapes on random data: what the benchmarks of whole steps share.
 *
 * The same networks as the PyTorch script that we compare with: pre-norm transformer blocks on random input
 * [batch, seq, width], a head of 10 classes on the first token (gpt2: the last), cross-entropy. */
#ifndef NET_H
#define NET_H
#include <lorikeet.h>

#define NET_CLASSES 10
#define NET_MODELS "vit-b16|vit-s16|minilm|gpt2|mlp"

typedef struct {
  const char *name;
  int64_t width, heads, hidden, layers, seq; /* heads 0: an mlp */
  int causal;
} net_shapes;

typedef struct {
  lk_module module;
  lk_layer_norm_layer *norm1, *norm2;
  lk_attention_layer *attention;
  lk_mlp_layer *mlp;
} net_block;

typedef struct {
  net_shapes s;
  int64_t batch;
  int recompute, one_token; /* one_token: the last block computes only what the head reads */
  lk_ctx *ctx;
  lk_model *model;
  net_block *blocks[64];
  lk_linear_layer *linear[64], *head;
  float *x;
  int64_t *labels;
} net;

/* Shapes by name into n->s; 0: there is no such model. */
int net_find(net *n, const char *name);
/* Makes model and data from ctx, s and batch, which are set already.  Also after a failure net_close frees. */
lk_status net_open(net *n);
void net_close(net *n);
/* Attaches spec where targets match; the head trains whole (an mlp's is a target like others). */
lk_status net_attach(net *n, const char *spec, const char *targets);
/* One step, opt NULL: one inference.  number counts the steps.  Returns seconds. */
double net_step(net *n, lk_tape *t, lk_optim *opt, int64_t number);
/* FLOPs that a step must do: no gradient of a frozen first block's input, half of a causal attention, nothing twice. */
double net_flops(const net *n, int full, int infer, int64_t trained);

#endif
