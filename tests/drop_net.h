/* drop_net.h: a net for suites of LoRA-drop whose layers all see the same input, so that importances can be set at will:
 *
 *   y = head(tanh(sum over the layers of q_l(x) + v_l(x))),   layers.0.q, layers.0.v, layers.1.q, ... [4 -> 4], head [4 -> 2] */
#ifndef TEST_DROP_NET_H
#define TEST_DROP_NET_H
#include "adapters.h"
#include "files.h"

#include <lorikeet/checkpoint.h>
#include <lorikeet/optim.h>

enum { LAYERS = 4, WIDTH = 4, TOKENS = 5 };

static test_allocator heap;
static lk_ctx *ctx;
static lk_model *model;
static lk_linear_layer *q[LAYERS], *v[LAYERS], *head;
static lk_tape *t;

static void open_net(lk_ctx *c, lk_dtype dtype, int flags) {
  char path[20];
  ctx = c;
  t = lk_tape_new(ctx);
  model = lk_model_new(ctx, dtype, flags);
  for (int l = 0; l < LAYERS; l++) {
    snprintf(path, sizeof path, "layers.%d", l);
    lk_module *block = lk_module_new(lk_model_root(model), path, "block", sizeof *block);
    q[l] = lk_linear_new(block, "q", WIDTH, WIDTH, 0);
    v[l] = lk_linear_new(block, "v", WIDTH, WIDTH, LK_NO_BIAS);
  }
  head = lk_linear_new(lk_model_root(model), "head", WIDTH, 2, 0);
  if (model) test_register(model);
}

static void close_net(void) {
  lk_tape_free(t);
  lk_model_free(model);
  t = NULL;
  model = NULL;
}

static void setup(void) { open_net(test_ctx(&heap, 0), LK_F64, 0); }

static void teardown(void) {
  close_net();
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static inline void fine(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
}

/* The context must hold this error, with these words; clears it. */
static inline void expect(lk_status status, const char *words) {
  const char *message = "";
  lk_status is = lk_error(ctx, &message);
  ck_assert_msg(is == status && strstr(message, words), "want %s and '%s', got %s: '%s'", lk_status_name(status), words,
                lk_status_name(is), message);
  lk_error_clear(ctx);
}

/* ---- computing ---- */

static lk_tensor net_input(void) {
  double wide[TOKENS * WIDTH];
  float narrow[TOKENS * WIDTH];
  for (int i = 0; i < TOKENS * WIDTH; i++) narrow[i] = (float)(wide[i] = test_number("x", i));
  lk_dtype dtype = head->weight->value.dtype;
  return lk_input(t, dtype, 2, (int64_t[]){TOKENS, WIDTH}, dtype == LK_F64 ? (void *)wide : (void *)narrow);
}

static lk_tensor net_forward(void) {
  lk_tensor x = net_input(), sum = lk_nil();
  for (int l = 0; l < LAYERS; l++) {
    sum = lk_plus(t, sum, lk_linear_forward(q[l], t, x));
    sum = lk_plus(t, sum, lk_linear_forward(v[l], t, x));
  }
  return lk_linear_forward(head, t, lk_tanh(t, sum));
}

/* Output in evaluation (step 0) or in a training step; 0 on error. */
static int net_output(uint64_t step, double y[2 * TOKENS]) {
  lk_tape_reset(t);
  if (step) lk_train(t, step, 0);
  return test_values(t, net_forward(), y);
}

static inline double net_loss(uint64_t step) {
  lk_tape_reset(t);
  if (step) lk_train(t, step, 0);
  return lk_item(t, test_loss(t, net_forward()));
}

/* The next training step, numbered by the optimiser's. */
static lk_status net_step(lk_optim *opt) {
  lk_tape_reset(t);
  lk_train(t, (uint64_t)lk_optim_step_count(opt) + 1, 0);
  lk_backward(t, test_loss(t, net_forward()));
  return lk_step(opt);
}

static lk_optim *net_optim(double decay, double clip) {
  int n = 0;
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  o.lr = 0.05;
  o.weight_decay = decay;
  o.clip_norm = clip;
  lk_param **p = lk_trainable(model, &n);
  lk_optim *opt = lk_optim_new(ctx, &lk_optim_adamw, &o, p, n);
  lk_free(ctx, p);
  return opt;
}

/* ---- the adapter ---- */

/* The parameter whose name ends so, at a layer, however deep in wrappers; NULL if there is none. */
static inline lk_param *net_param(const lk_linear_layer *layer, const char *end) {
  lk_at *chain = layer->module.site->stacks ? layer->module.site->stacks->chain : NULL;
  for (lk_at *a = chain; a; a = lk_at_walk(chain, a))
    for (lk_param *p = a->params; p; p = p->next)
      if (strlen(p->name) >= strlen(end) && !strcmp(p->name + strlen(p->name) - strlen(end), end)) return p;
  return NULL;
}

/* A and B of a lora: the same everywhere but for B's factor: its importance is proportional to the square of that. */
static inline void net_set(const lk_linear_layer *layer, double factor) {
  lk_param *A = net_param(layer, "lora_A.weight"), *B = net_param(layer, "lora_B.weight");
  for (int i = 0; i < lk_param_count(A); i++) lk_view_set(&A->value, i, test_number("A", i));
  for (int i = 0; i < lk_param_count(B); i++) lk_view_set(&B->value, i, factor * test_number("B", i));
  lk_param_touch(A);
  lk_param_touch(B);
}

/* A value of a method's buffer "lora_drop.<name>", sites in the model's order: q0 v0 q1 v1 ... */
static inline double net_buffer(const char *name, int i) {
  for (lk_method *m = lk_adapter_first(model)->chain; m; m = lk_method_walk(lk_adapter_first(model)->chain, m))
    for (lk_param *p = m->params; p; p = p->next)
      if (!strcmp(strchr(p->name, '.') + 1, name)) return lk_view_get(&p->value, i);
  ck_abort_msg("no buffer %s", name);
  return 0;
}

/* "q0 q2 v1": the sites with an adapter of their own. */
static inline const char *net_kept(void) {
  static char text[100];
  size_t used = 0;
  text[0] = 0;
  for (int l = 0; l < LAYERS; l++)
    for (int k = 0; k < 2; k++)
      if (net_buffer("keep", 2 * l + k) == 1)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%c%d", used ? " " : "", "qv"[k], l);
  return text;
}

/* Importance, one forward pass, selection. */
static lk_status net_select(void) {
  lk_adapter_phase(model, "importance");
  lk_tape_reset(t);
  net_forward();
  return lk_adapter_phase(model, "select");
}

/* Factors of B at q0 ... q3, v0 ... v3; then the selection. */
static inline void net_select_by(const double factor[2 * LAYERS]) {
  for (int l = 0; l < LAYERS; l++) {
    net_set(q[l], factor[l]);
    net_set(v[l], factor[LAYERS + l]);
  }
  net_select();
  fine();
}

#endif
