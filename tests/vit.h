/* vit.h: for tests: a small vision transformer, images for it, and its loss. */
#ifndef TEST_VIT_H
#define TEST_VIT_H
#include <lorikeet/ops.h>
#include <lorikeet/random.h>
#include <lorikeet/vit.h>

/* 1 + 6 tokens are odd enough: no size is another's multiple but where it must be. */
static const lk_vit_config test_vit_config = {.image_size = 9,
                                              .patch_size = 3,
                                              .channels = 2,
                                              .hidden_size = 12,
                                              .layers = 2,
                                              .heads = 3,
                                              .intermediate_size = 7,
                                              .classes = 4,
                                              .layer_norm_eps = 1e-6,
                                              .initializer_range = 0.02,
                                              .hidden_act = "gelu",
                                              .qkv_bias = 1};

/* The next base parameter in order; NULL begins and ends. */
static inline lk_param *test_next_param(lk_model *model, lk_param *p) {
  if (p && p->next) return p->next;
  lk_module *m = p ? lk_module_walk(lk_model_root(model), p->owner) : lk_model_root(model);
  while (m && !m->params) m = lk_module_walk(lk_model_root(model), m);
  return m ? m->params : NULL;
}

/* No zero bias and no unit norm, which would hide mistakes. */
static inline void test_perturb(lk_model *model) {
  for (lk_param *p = NULL; (p = test_next_param(model, p));) {
    lk_module *m = p->owner;
    int norm_weight = m->type[0] == 'l' && m->type[1] == 'a' && p == m->params;
    lk_param_normal(p, norm_weight, 0.3);
  }
}

/* Mean cross entropy of three images of noise with labels 2, 0, 1; *logits too, unless NULL. */
static inline lk_tensor test_vit_loss(lk_vit *v, lk_tape *t, lk_tensor *logits) {
  const lk_vit_config *c = &v->config;
  const int64_t shape[] = {3, c->channels, c->image_size, c->image_size}, three = 3, labels[] = {2, 0, 1};
  double noise[3 * 4 * 64 * 64];
  float narrow[3 * 4 * 64 * 64];
  int is_f64 = lk_model_dtype(v->module.model) == LK_F64;
  for (int64_t i = 0; i < 3 * shape[1] * shape[2] * shape[3]; i++) {
    noise[i] = lk_random_normal(lk_key_make(5, "images"), (uint64_t)i);
    narrow[i] = (float)noise[i];
  }
  lk_tensor images = lk_input(t, lk_model_dtype(v->module.model), 4, shape, is_f64 ? (void *)noise : (void *)narrow);
  lk_tensor y = lk_vit_forward(v, t, images);
  if (logits) *logits = y;
  return lk_cross_entropy(t, y, lk_input(t, LK_I64, 1, &three, labels), -100, 0);
}

#endif
