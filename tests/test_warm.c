/* test_warm.c: what must stay the same: after its first steps a training takes nothing from the allocator, whatever adapts
 * the net; a merged model costs what the base costs; one and two threads give the same bits.  (test_memory.c has the first
 * and the last for a net of plain ops, test_vit.c for a forward pass, test_adapters.c for a layer.) */
#include "adapters.h"
#include "cost.h"

#include <lorikeet/quantise.h>

static const cost_shape small = {
    .batch = 2, .tokens = 7, .width = 32, .heads = 4, .hidden = 40, .layers = 2, .classes = 5, .words = 11};

/* Attaches a spec to the linear layers and, if it can, the embedding; the head trains whole.  0: it is refused. */
static int attach(const cost_net *n, const test_spec *s) {
  static const char *const targets[] = {"all-linear,words", "all-linear"};
  const char *message;
  for (int k = 0; k < 2; k++) {
    if (!lk_attach_with(n->model,
                        &(lk_attach_options){.spec = s->text, .targets = targets[k], .modules_to_save = "head"}))
      return 1;
    ck_assert_msg(lk_error(ctx, &message) == LK_EARG, "%s: %s", s->text, message);
    lk_error_clear(ctx);
  }
  return 0;
}

/* An optimiser of all that trains, followed by the adapters. */
static lk_optim *optimise(const cost_net *n, double lr) {
  int count;
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  o.lr = lr;
  lk_param **p = lk_trainable(n->model, &count);
  lk_optim *opt = lk_optim_new(ctx, &lk_optim_adamw, &o, p, count);
  lk_adapter_follow(n->model, opt);
  lk_adapter_plan(n->model, 1000);
  lk_free(ctx, p);
  fine("optimiser");
  return opt;
}

/* ---- every adapter ---- */

enum { KEPT, RECOMPUTED, INT8, NF4, WAYS };

/* The first use of a parameter that trains makes its gradient; a router's experts and a supernet's parts come one after
 * the other, so here they all come first. */
static void use_all(const cost_net *n) {
  int count;
  lk_param **p = lk_trainable(n->model, &count);
  lk_tape_reset(t);
  for (int i = 0; i < count; i++) lk_use(t, p[i]);
  lk_free(ctx, p);
}

/* Calls of the allocator in the third and fourth step.  Where tokens are routed to experts a step is larger or smaller than
 * the one before, unless it is the same one. */
static int takings(const cost_net *n, int routed) {
  uint64_t calls = 0, counted = 0;
  lk_optim *opt = optimise(n, routed ? 0 : 1e-3);
  use_all(n);
  for (uint64_t step = 0; step < 4; step++) {
    if (step == 2) calls = heap.calls, counted = lk_tape_statistics(t).allocations;
    cost_train(n, routed ? 0 : step, opt, NULL);
  }
  calls = heap.calls - calls;
  ck_assert_uint_ge(calls, lk_tape_statistics(t).allocations - counted);
  lk_optim_free(opt);
  return (int)calls;
}

START_TEST(warm_steps_take_nothing) {
  int attached = 0, refused = 0;
  test_specs_make();
  for (int i = 0; i < test_nspecs; i++) {
    const lk_quantise_options codes = {.kind = _i == INT8 ? LK_QUANT_INT8 : LK_QUANT_NF4, .exclude = "head"};
    int all = _i == KEPT ? !getenv("LK_VALGRIND") : getenv("LK_EXHAUSTIVE") != NULL;
    if (!all && !test_specs[i].is_default) continue;
    cost_shape s = small;
    s.recompute = _i == RECOMPUTED;
    cost_net n = cost_new(s);
    test_register(n.model);
    if (_i >= INT8) lk_model_quantise(n.model, &codes);
    if (attach(&n, &test_specs[i])) {
      int calls = takings(&n, test_is_routed(&test_specs[i]));
      ck_assert_msg(!calls, "%s: two warm steps take %d times from the allocator", test_specs[i].text, calls);
      attached++;
    } else {
      refused++; /* such as a wrapper of what it cannot wrap */
    }
    lk_model_free(n.model);
  }
  ck_assert_int_gt(attached, 10 * refused);
}
END_TEST

/* Each sample with an adapter of its own. */
START_TEST(warm_steps_of_several_adapters) {
  static const char *const names[] = {"one", "two"};
  static const int64_t which[][4] = {{0, 1, -1, 0}, {1, 1, 0, -1}};
  uint64_t calls = 0;
  cost_shape s = small;
  s.batch = 4;
  cost_net n = cost_new(s);
  for (int k = 0; k < 2; k++) lk_attach(n.model, names[k], "lora r=2", "query,value");
  lk_set_active(n.model, 2, names, NULL);
  lk_optim *opt = optimise(&n, 1e-3);
  for (uint64_t step = 0; step < 4; step++) {
    if (step == 2) calls = heap.calls;
    lk_tape_reset(t);
    lk_train(t, step, 0);
    lk_side(t, "adapter_of_sample", lk_input(t, LK_I64, 1, &s.batch, which[step % 2]));
    lk_backward(t, cost_loss(&n));
    lk_step(opt);
    fine("a step");
  }
  ck_assert_uint_eq(heap.calls, calls);
  lk_optim_free(opt);
  lk_model_free(n.model);
}
END_TEST

/* ---- merged ---- */

/* What evaluation records and takes. */
static lk_tape_stats evaluate(const cost_net *n) {
  lk_tape_reset(t);
  cost_forward(n);
  fine("evaluation");
  return lk_tape_statistics(t);
}

START_TEST(merged_costs_what_the_base_costs) {
  int merged = 0;
  test_specs_make();
  for (int i = 0; i < test_nspecs; i++) {
    const test_spec *s = &test_specs[i];
    cost_net n = cost_new(small);
    test_register(n.model);
    lk_set_requires_grad(lk_model_root(n.model), 0);
    lk_tape_stats base = evaluate(&n);
    if (test_caps(s) & LK_AFFINE && attach(&n, s)) {
      test_perturb_trained(n.model);
      lk_set_trainable(n.model, "default", 0);
      lk_tape_stats before = evaluate(&n);
      ck_assert_int_eq(lk_merge(n.model, NULL), LK_OK);
      lk_tape_stats after = evaluate(&n);
      ck_assert_msg(after.nodes == base.nodes && after.flops == base.flops && after.peak == base.peak,
                    "%s: %d nodes, %.0f operations, %zu bytes; the base %d, %.0f, %zu", s->text, (int)after.nodes,
                    after.flops, after.peak, (int)base.nodes, base.flops, base.peak);
      ck_assert_msg(before.nodes > after.nodes, "%s: %d nodes before merging", s->text, (int)before.nodes);
      merged++;
    }
    lk_model_free(n.model);
  }
  ck_assert_int_gt(merged, 20);
}
END_TEST

/* ---- threads ---- */

/* All bits of what trains, one after the other; the caller's. */
static float *trained(const cost_net *n, size_t *bytes) {
  int count;
  lk_param **p = lk_trainable(n->model, &count);
  char *all = NULL;
  *bytes = 0;
  for (int i = 0; i < count; i++) {
    size_t size = lk_view_bytes(&p[i]->value);
    all = realloc(all, *bytes + size);
    ck_assert_ptr_nonnull(all);
    memcpy(all + *bytes, p[i]->value.p, size);
    *bytes += size;
  }
  lk_free(ctx, p);
  return (float *)(void *)all;
}

static const struct {
  const char *spec, *targets; /* NULL: everything trains */
  int causal, recompute, only_first;
} trainings[] = {{"lora r=8", "query,value", 0, 0, 0},
                 {"lora r=8 dropout=0.1", "all-linear", 0, 0, 1},
                 {NULL, NULL, 0, 0, 0},
                 {"lora r=8", "query,value", 1, 1, 0},
                 {NULL, NULL, 1, 1, 1},
                 {"lora r=8 | magnitude", "query,value", 0, 1, 0}};
enum { TRAININGS = sizeof trainings / sizeof *trainings };

/* Large enough for every op to use its threads, and for products of BLIS's own. */
START_TEST(threads_do_not_change_bits) {
  const cost_shape s = {.batch = 4,
                        .tokens = 130,
                        .width = 128,
                        .heads = 4,
                        .hidden = 256,
                        .layers = 2,
                        .classes = 10,
                        .causal = trainings[_i].causal,
                        .recompute = trainings[_i].recompute,
                        .only_first = trainings[_i].only_first,
                        .words = 50};
  float *bits[2], loss[2][3];
  size_t bytes[2];
  for (int k = 0; k < 2; k++) {
    lk_set_threads(ctx, 1 + k);
    cost_net n = cost_new(s);
    if (trainings[_i].spec) cost_attach(&n, trainings[_i].spec, trainings[_i].targets);
    float *start = trained(&n, &bytes[k]);
    lk_optim *opt = optimise(&n, 1e-2);
    for (uint64_t step = 0; step < 3; step++) cost_train(&n, step, opt, &loss[k][step]);
    bits[k] = trained(&n, &bytes[k]);
    ck_assert(memcmp(start, bits[k], bytes[k]) != 0);
    free(start);
    lk_optim_free(opt);
    lk_model_free(n.model);
  }
  ck_assert_uint_eq(bytes[0], bytes[1]);
  ck_assert(isfinite(loss[0][2]) && loss[0][0] != loss[0][2]);
  ck_assert_msg(!memcmp(loss[0], loss[1], sizeof loss[0]), "the loss is %.9g with one thread, %.9g with two",
                (double)loss[0][2], (double)loss[1][2]);
  ck_assert(!memcmp(bits[0], bits[1], bytes[0]));
  free(bits[0]);
  free(bits[1]);
}
END_TEST

int main(void) {
  TCase *c = tcase_create("warm");
  tcase_add_loop_test(c, warm_steps_take_nothing, 0, WAYS);
  tcase_add_test(c, warm_steps_of_several_adapters);
  tcase_add_test(c, merged_costs_what_the_base_costs);
  tcase_add_loop_test(c, threads_do_not_change_bits, 0, getenv("LK_VALGRIND") ? 1 : TRAININGS);
  return cost_run("warm", c);
}
