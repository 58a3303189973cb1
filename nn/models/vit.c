/* vit.c: the vision transformer: its modules, their initial values, the forward pass. */
#include "layers/layer.h"
#include "model.h"
#include "models/vit_parts.h"

#include <lorikeet/random.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Names of the modules and parameters. */
typedef struct {
  int vit_flags, mlp_flags;
  const char *embeddings; /* NULL: what they hold is the vit's own */
  const char *cls, *position, *patch, *block, *norm1, *attention, *query, *key, *value, *qkv, *output, *norm2, *up,
      *down, *norm, *head;
} layout;

static const layout huggingface = {.mlp_flags = LK_NAMELESS,
                                   .embeddings = "embeddings",
                                   .cls = "cls_token",
                                   .position = "position_embeddings",
                                   .patch = "patch_embeddings.projection",
                                   .block = "encoder.layer.%d",
                                   .norm1 = "layernorm_before",
                                   .attention = "attention",
                                   .query = "attention.query",
                                   .key = "attention.key",
                                   .value = "attention.value",
                                   .output = "output.dense",
                                   .norm2 = "layernorm_after",
                                   .up = "intermediate.dense",
                                   .down = "output.dense",
                                   .norm = "layernorm",
                                   .head = "classifier"};
static const layout timm = {.vit_flags = LK_NAMELESS,
                            .cls = "cls_token",
                            .position = "pos_embed",
                            .patch = "patch_embed.proj",
                            .block = "blocks.%d",
                            .norm1 = "norm1",
                            .attention = "attn",
                            .qkv = "qkv",
                            .output = "proj",
                            .norm2 = "norm2",
                            .up = "fc1",
                            .down = "fc2",
                            .norm = "norm",
                            .head = "head"};

/* ---- modules ---- */

/* transformers 5 renamed the modules of a block in memory: "vit.layers.0.attention.q_proj". */
static void add_new_names(lk_vit_block *b, int number) {
  const struct {
    void *layer;
    const char *name;
  } names[] = {{b->norm1, "layernorm_before"},
               {b->attention->query, "attention.q_proj"},
               {b->attention->key, "attention.k_proj"},
               {b->attention->value, "attention.v_proj"},
               {b->attention->output, "attention.o_proj"},
               {b->norm2, "layernorm_after"},
               {b->mlp->up, "mlp.fc1"},
               {b->mlp->down, "mlp.fc2"}};
  char path[80];
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    snprintf(path, sizeof path, "vit.layers.%d.%s", number, names[i].name);
    lk_module_also(names[i].layer, path);
  }
}

static lk_vit_block *block_new(lk_vit *v, const layout *names, int number) {
  const lk_vit_config *c = &v->config;
  char name[40];
  snprintf(name, sizeof name, names->block, number);
  lk_vit_block *b = lk_module_new(&v->module, name, "vit_block", sizeof *b);
  if (!b) return NULL;
  lk_module *m = &b->module;
  const lk_multi_head_options attention = {.width = c->hidden_size,
                                           .heads = c->heads,
                                           .query = names->query,
                                           .key = names->key,
                                           .value = names->value,
                                           .qkv = names->qkv,
                                           .output = names->output,
                                           .flags = c->qkv_bias ? 0 : LK_NO_BIAS,
                                           .dropout = c->attention_dropout,
                                           .output_dropout = c->hidden_dropout};
  const lk_mlp_options mlp = {.width = c->hidden_size,
                              .hidden = c->intermediate_size,
                              .up = names->up,
                              .down = names->down,
                              .activation = c->hidden_act,
                              .flags = names->mlp_flags,
                              .dropout = c->hidden_dropout};
  b->norm1 = lk_layer_norm_new(m, names->norm1, c->hidden_size, c->layer_norm_eps);
  b->attention = lk_attention_new(m, names->attention, &attention);
  b->norm2 = lk_layer_norm_new(m, names->norm2, c->hidden_size, c->layer_norm_eps);
  b->mlp = lk_mlp_new(m, "mlp", &mlp);
  if (!lk_error(m->ctx, NULL) && !c->fused_qkv) add_new_names(b, number);
  return lk_error(m->ctx, NULL) ? NULL : b;
}

static void embeddings_new(lk_vit *v, const layout *names) {
  const lk_vit_config *c = &v->config;
  lk_module *m = &v->module;
  if (names->embeddings) m = lk_module_new(m, names->embeddings, "vit_embeddings", sizeof *m);
  int64_t side = c->image_size / c->patch_size;
  const int64_t kernel[] = {c->patch_size, c->patch_size};
  const lk_conv2d_options steps = {.stride = {c->patch_size, c->patch_size}};
  v->cls = lk_module_param(m, names->cls, 3, (int64_t[]){1, 1, c->hidden_size});
  v->position = lk_module_param(m, names->position, 3, (int64_t[]){1, side * side + 1, c->hidden_size});
  v->patch = lk_conv2d_new(m, names->patch, c->channels, c->hidden_size, kernel, &steps, 0);
}

static void destroy(lk_module *m) {
  lk_vit *v = (lk_vit *)m;
  lk_free(m->ctx, v->blocks);
  lk_json_free(v->json);
}

static lk_vit *build(lk_model *model, const lk_vit_config *config) {
  const layout *names = config->fused_qkv ? &timm : &huggingface;
  lk_vit *v = lk_block_new(lk_model_root(model), "vit", "vit", sizeof *v, names->vit_flags);
  if (!v) return NULL;
  lk_module *m = &v->module;
  m->destroy = destroy;
  v->config = *config;
  v->blocks = lk_alloc_array(m->ctx, (size_t)config->layers, sizeof *v->blocks);
  if (!v->blocks) return NULL;
  embeddings_new(v, names);
  for (int i = 0; i < config->layers; i++)
    if (!(v->blocks[i] = block_new(v, names, i))) return NULL;
  v->norm = lk_layer_norm_new(m, names->norm, config->hidden_size, config->layer_norm_eps);
  v->head = lk_linear_new(lk_model_root(model), names->head, config->hidden_size, config->classes, 0);
  return lk_error(m->ctx, NULL) ? NULL : v;
}

lk_vit *lk_vit_build(lk_model *model, const lk_vit_config *config) {
  if (!model || lk_vit_config_check(lk_model_ctx(model), config)) return NULL;
  int flags = model->flags;
  model->flags |= LK_SHAPES_ONLY;
  lk_vit *v = build(model, config);
  model->flags = flags;
  return v;
}

/* ---- initial values ---- */

/* torch.nn.init.trunc_normal_: draws beyond +-2 (absolute, whatever the deviation) are made again. */
static lk_status truncated_normal(lk_param *p, double std) {
  if (lk_param_normal(p, 0, std)) return lk_error(p->ctx, NULL);
  if (8.6 * std <= 2) return LK_OK; /* the largest normal that 53 random bits can make is 8.57 */
  lk_key key = lk_key_make(lk_seed(p->ctx), p->name);
  for (int64_t i = 0, n = lk_param_count(p); i < n; i++) {
    double x = lk_view_get(&p->value, i);
    for (uint64_t again = 1; fabs(x) > 2; again++) x = std * lk_random_normal(lk_key_fold(key, again), (uint64_t)i);
    lk_view_set(&p->value, i, x);
  }
  return LK_OK;
}

/* HuggingFace's ViTPreTrainedModel._init_weights for one parameter. */
static lk_status initialise(const lk_vit *v, lk_param *p) {
  const lk_module *owner = p->owner;
  size_t n = strlen(p->name);
  int bias = n >= 4 && !strcmp(p->name + n - 4, "bias");
  if (lk_param_own(p)) return lk_error(p->ctx, NULL);
  if (bias) return lk_param_fill(p, 0);
  if (!strcmp(owner->type, "layer_norm")) return lk_param_fill(p, 1);
  return truncated_normal(p, v->config.initializer_range);
}

lk_status lk_vit_initialise(lk_vit *v) {
  lk_model *model = v->module.model;
  for (lk_param *p = NULL; (p = lk_param_walk(model, p));)
    if (!p->value.p && initialise(v, p)) break;
  return lk_error(v->module.ctx, NULL);
}

lk_vit *lk_vit_new(lk_model *model, const lk_vit_config *config) {
  lk_vit *v = lk_vit_build(model, config);
  if (!v || lk_model_shapes_only(model)) return v;
  return lk_vit_initialise(v) ? NULL : v;
}

/* ---- forward ---- */

static lk_tensor first_token(lk_tape *t, lk_tensor x) { return lk_slice(t, x, 1, 0, 1, 1); }

static lk_tensor block_forward(lk_vit_block *b, lk_tape *t, lk_tensor x, int only_first) {
  uint32_t scope = lk_layer_begin(t, &b->module, b->recompute);
  lk_tensor y = lk_attention_forward(b->attention, t, lk_layer_norm_forward(b->norm1, t, x), lk_nil(), only_first);
  x = lk_add(t, only_first ? first_token(t, x) : x, y);
  y = lk_mlp_forward(b->mlp, t, lk_layer_norm_forward(b->norm2, t, x));
  return lk_scope_end(t, scope, lk_add(t, x, y));
}

static int check_images(const lk_vit *v, lk_tape *t, lk_tensor images) {
  const lk_vit_config *c = &v->config;
  char shape[160];
  lk_view x;
  if (lk_get(t, images, &x)) return -1;
  if (x.ndim == 4 && x.shape[1] == c->channels && x.shape[2] == c->image_size && x.shape[3] == c->image_size) return 0;
  lk_fail(v->module.ctx, LK_ESHAPE, "vit: the images are %s, should be [N, %lld, %lld, %lld]",
          lk_view_format(&x, shape), (long long)c->channels, (long long)c->image_size, (long long)c->image_size);
  return -1;
}

/* images -> tokens [N, 1 + patches, hidden]: the class token, then the patches row by row. */
static lk_tensor embed(lk_vit *v, lk_tape *t, lk_tensor images) {
  uint32_t scope = lk_scope_begin(t, "embeddings", 0);
  lk_tensor patches = lk_flatten(t, lk_conv2d_forward(v->patch, t, images), 2, 3);
  const int64_t shape[] = {lk_size(t, images, 0), 1, v->config.hidden_size};
  const lk_tensor rows[] = {lk_expand(t, lk_use(t, v->cls), 3, shape), lk_transpose(t, patches, 1, 2)};
  lk_tensor x = lk_add(t, lk_concat(t, 2, rows, 1), lk_use(t, v->position));
  return lk_scope_end(t, scope, lk_dropout(t, x, v->config.hidden_dropout));
}

lk_tensor lk_vit_forward(lk_vit *v, lk_tape *t, lk_tensor images) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)v, 0);
  if (!scope) return lk_nil();
  lk_tensor x = check_images(v, t, images) ? lk_nil() : embed(v, t, images);
  for (int64_t i = 0; i < v->config.layers; i++)
    x = lk_after(t, x, block_forward(v->blocks[i], t, x, i + 1 == v->config.layers && !v->all_tokens));
  const int64_t shape[] = {lk_size(t, images, 0), v->config.hidden_size};
  x = lk_reshape(t, lk_layer_norm_forward(v->norm, t, first_token(t, x)), 2, shape);
  return lk_scope_end(t, scope, lk_linear_forward(v->head, t, x));
}

void lk_vit_set_recompute(lk_vit *v, lk_vit_recompute mode) {
  for (int64_t i = 0; i < v->config.layers; i++) {
    lk_vit_block *b = v->blocks[i];
    b->recompute = mode == LK_VIT_RECOMPUTE_BLOCKS;
    b->attention->recompute = b->mlp->recompute = mode == LK_VIT_RECOMPUTE_PARTS;
  }
}
