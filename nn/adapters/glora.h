/* glora.h: what glora.c (the layer) and glora_structure.c (its forms, lists, choices) share. */
#ifndef GLORA_H
#define GLORA_H
#include "structure.h"

enum { GLORA_A, GLORA_B, GLORA_C, GLORA_D, GLORA_E, GLORA_TENSORS };
typedef enum lk_glora_form { GLORA_LORA, GLORA_VECTOR, GLORA_CONSTANT, GLORA_NONE } lk_glora_form;
enum { GLORA_XAVIER, GLORA_KAIMING, GLORA_RANDOM }; /* init */
enum { GLORA_ELEMENT, GLORA_PRODUCT };              /* a_mode */
enum { GLORA_TOP, GLORA_HALVES, GLORA_ALL };        /* ranks */

typedef struct {
  int r, form[GLORA_TENSORS]; /* form: index into the option's words */
  int init, a_mode, allow_new_bias, supernet, ranks, keep_D;
  double alpha;
} lk_glora_config;

/* What a support tensor looks like: LoRA_k, vector, constant or none. */
typedef struct {
  lk_glora_form form;
  int k; /* of LoRA_k */
} lk_glora_shape;

typedef struct {
  lk_param *d[GLORA_TENSORS], *u[GLORA_TENSORS]; /* lora: Xd, Xu; vector and constant: d alone; none: NULL */
  lk_structure structure;                        /* of a supernet */
} lk_glora_state;

/* Does a support tensor exist at this site, and is there a parameter for it? */
int lk_glora_exists(const lk_at *at, int tensor);
int lk_glora_stored(const lk_at *at, int tensor);
/* The shape that the options give a tensor. */
lk_glora_shape lk_glora_written(const lk_at *at, int tensor);
/* The shapes of this pass: chosen, drawn in training when nothing is, else as written. */
void lk_glora_shapes(const lk_at *at, const lk_tape *t, lk_glora_shape shape[GLORA_TENSORS]);

/* Hooks of the class. */
int lk_glora_genes(const lk_at *at, int *choices);
lk_status lk_glora_choose(lk_at *at, const int *choice);
int64_t lk_glora_cost(const lk_at *at, const int *choice);
lk_status lk_glora_settle(lk_at *at);
lk_status lk_glora_loaded(lk_method *m);
char *lk_glora_notes(lk_method *m);

#endif
