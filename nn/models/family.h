/* family.h: how a family of models is written: one file with one lk_family, and one line in the table of pretrained.c. */
#ifndef LK_FAMILY_H
#define LK_FAMILY_H
#include "layers/layer.h"
#include "model.h"

#include <lorikeet/pretrained.h>

struct lk_family {
  const char *name;
  const char *const *model_types; /* of config.json, ended by NULL */
  unsigned tasks;                 /* 1 << task */
  const char *const
      *optional;             /* beginnings of paths that a file may lack when the head is new; ended by NULL, or NULL */
  const char *const *heads;  /* beginnings of the heads' tensor names, which a new head leaves unread; ended by NULL */
  const char *const *unused; /* beginnings of names in files that no task needs; ended by NULL, or NULL */
  const char *const *aside;  /* HuggingFace's modules that no result depends on where they are not made; or NULL */
  int untied;                /* the head may have a weight of its own */
  const char *targets;       /* PEFT's default target modules for LoRA */
  /* Reads p->config (lk_json_int ... name key and kinds), checks it, and makes modules and parameters; the parameters
   * have no memory yet.  Sets impl and the numbers of p. */
  lk_status (*build)(lk_pretrained *p);
  /* Values for the parameters that have memory and were not in the file: a new head, or a whole new model. */
  lk_status (*initialise)(lk_pretrained *p, lk_param *param);
  lk_tensor (*forward)(lk_pretrained *p, lk_tape *t, const lk_inputs *in);
};

extern const lk_family lk_family_bert, lk_family_gpt2, lk_family_llama;

/* An integer of the config within [low, high], or `otherwise` where the key is missing; the error names all of them. */
int64_t lk_config_int(lk_pretrained *p, const char *key, int64_t otherwise, int64_t low, int64_t high);
double lk_config_real(lk_pretrained *p, const char *key, double otherwise, double low, double high);
/* A parameter's usual initial value: norms' weights 1, biases 0, the rest normal with the config's initializer_range. */
lk_status lk_initialise_usual(lk_pretrained *p, lk_param *param);
/* The last layer of a language model, without a bias.  tied_to: its weight is this embedding's, whatever adapts that, as
 * in PEFT; NULL: it has its own. */
lk_linear_layer *lk_head_new(lk_pretrained *p, lk_module *parent, const char *name, lk_embedding_layer *tied_to);
int lk_is_tied(const lk_pretrained *p, int otherwise); /* tie_word_embeddings of the config */
/* The cache's keys and values [rows, kv_heads, S, head_width] of a layer with the new ones [rows, kv_heads, T, ...]
 * behind them; the length grows when the last layer is told. */
lk_status lk_cache_extend(lk_cache *c, lk_tape *t, int64_t layer, lk_tensor *k, lk_tensor *v);

/* ---- what decoders share: attend.c ---- */
typedef struct lk_attend {
  lk_tensor mask;  /* lk_inputs.mask */
  lk_cache *cache; /* and .cache */
  int64_t layer;
  int64_t window; /* a token sees so many, itself included; 0: all before it */
  double scale, dropout;
} lk_attend;
/* Causal attention: q [N, H, T, d], k and v [N, G, T, d] of the new tokens -> [N, H, T, d]. */
lk_tensor lk_attend_causal(lk_tape *t, const lk_attend *a, lk_tensor q, lk_tensor k, lk_tensor v);
lk_tensor lk_heads_split(lk_tape *t, lk_tensor x, int64_t heads);             /* [N, T, H d] -> [N, H, T, d] */
lk_tensor lk_heads_join(lk_tape *t, lk_tensor y);                             /* and back */
lk_status lk_check_tokens(lk_pretrained *p, lk_tape *t, const lk_inputs *in); /* not more than the model takes */
/* The last real token's vector of each row: h [N, T, width] -> [N, width]. */
lk_tensor lk_last_token(lk_tape *t, lk_tensor h, lk_tensor mask);
/* The last place of each row, whatever stands there: h [N, T, width] -> [N, 1, width]. */
lk_tensor lk_last_place(lk_tape *t, lk_tensor h);

#endif
