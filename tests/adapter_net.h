/* adapter_net.h: a net of three linear layers for suites of adapters: net.first (5 -> 4), net.second (4 -> 3), head (3 -> 2),
 * tanh in between, and what there is to look at. */
#ifndef TEST_ADAPTER_NET_H
#define TEST_ADAPTER_NET_H
#include "adapters.h"

static test_allocator heap;
static lk_ctx *ctx;
static lk_model *model;
static lk_linear_layer *first, *second, *head;
static lk_tape *t;

enum { NET_OUT = 6, NET_BASE = 5 * 4 + 4 + 4 * 3 + 3 + 3 * 2 + 2 };

static inline void open_net(lk_ctx *c, lk_dtype dtype) {
  ctx = c;
  model = lk_model_new(ctx, dtype, 0);
  lk_module *net = lk_module_new(lk_model_root(model), "net", "block", sizeof *net);
  first = lk_linear_new(net, "first", 5, 4, 0);
  second = lk_linear_new(net, "second", 4, 3, LK_FAN_IN_FAN_OUT);
  head = lk_linear_new(lk_model_root(model), "head", 3, 2, 0);
  if (model) test_register(model);
  t = lk_tape_new(ctx);
}

static inline void close_net(void) {
  lk_tape_free(t);
  lk_model_free(model);
  t = NULL;
  model = NULL;
}

static inline void setup(void) { open_net(test_ctx(&heap, 0), LK_F64); }

static inline void teardown(void) {
  close_net();
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static inline void fine(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
}

static inline void expect(lk_status status, const char *words) {
  const char *message = NULL;
  lk_status is = lk_error(ctx, &message);
  int found = message && strstr(message, words);
  ck_assert_msg(is == status && found, "want %s and '%s', got %s: '%s'", lk_status_name(status), words,
                lk_status_name(is), message ? message : "");
  lk_error_clear(ctx);
}

static inline lk_tensor net_forward(void) {
  double x[15];
  for (int i = 0; i < 15; i++) x[i] = test_number("net", i);
  lk_tensor h = lk_tanh(t, lk_linear_forward(first, t, lk_input(t, LK_F64, 2, (int64_t[]){3, 5}, x)));
  return lk_linear_forward(head, t, lk_tanh(t, lk_linear_forward(second, t, h)));
}

/* Output in evaluation (step 0) or in a training step. */
static inline void net_output(uint64_t step, double y[NET_OUT]) {
  lk_tape_reset(t);
  if (step) lk_train(t, step, 0);
  ck_assert_int_eq(test_values(t, net_forward(), y), NET_OUT);
}

static inline lk_status net_backward(void) {
  int n;
  lk_param **p = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) lk_param_zero_grad(p[i]);
  lk_free(ctx, p);
  lk_tape_reset(t);
  lk_train(t, 1, 0);
  return lk_backward(t, test_loss(t, net_forward()));
}

/* The base's bits, and which of it trains. */
typedef struct net_state {
  double bits[NET_BASE];
  int trains[6];
  uint64_t live;
} net_state;

static inline net_state net_look(void) {
  net_state s;
  lk_param *const p[] = {first->weight, first->bias, second->weight, second->bias, head->weight, head->bias};
  int used = 0;
  memset(&s, 0, sizeof s);
  for (int i = 0; i < 6; i++) {
    memcpy(s.bits + used, p[i]->value.p, lk_view_bytes(&p[i]->value));
    used += (int)lk_param_count(p[i]);
    s.trains[i] = p[i]->requires_grad;
  }
  s.live = lk_ctx_statistics(ctx).live;
  return s;
}

static inline int net_same_bits(const net_state *a, const net_state *b) {
  return !memcmp(a->bits, b->bits, sizeof a->bits);
}

static inline void ck_unchanged(const net_state *before) {
  net_state now = net_look();
  ck_assert_msg(net_same_bits(&now, before), "the base has changed");
  ck_assert_msg(!memcmp(now.trains, before->trains, sizeof now.trains), "other parameters train");
  ck_assert_uint_eq(now.live, before->live);
}

/* "net.first.lora_A.weight net.first.lora_B.weight": what trains now. */
static inline const char *net_trained(void) {
  static char names[2000];
  int n;
  size_t used = 0;
  lk_param **p = lk_trainable(model, &n);
  names[0] = 0;
  for (int i = 0; i < n; i++)
    used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? " " : "", p[i]->name);
  lk_free(ctx, p);
  return names;
}

/* Runs a case with the fixture above and, unless NULL, one without; main's result. */
static inline int run_cases(const char *name, TCase *c, TCase *bare) {
  Suite *s = suite_create(name);
  tcase_add_checked_fixture(c, setup, teardown);
  suite_add_tcase(s, c);
  if (bare) {
    tcase_set_timeout(bare, 300);
    suite_add_tcase(s, bare);
  }
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}

#endif
