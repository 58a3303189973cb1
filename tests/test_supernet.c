/* test_supernet.c: adapters whose structure is chosen (glora, lora): draws in training, resuming, files, and a search that
 * ends in a merged model. */
#include "adapter_net.h"
#include "files.h"

#include <lorikeet/checkpoint.h>
#include <lorikeet/io.h>
#include <lorikeet/search.h>

enum { GENES = 5, SITES = 2, PASSES = 3000 };

static void attach(const char *spec) {
  ck_assert_int_eq(lk_attach(model, "default", spec, "first,second"), LK_OK);
  test_perturb_trained(model);
}

static lk_at *at(int i) { return (i ? second : first)->module.site->stacks->chain; }

static lk_param *param(int i, const char *end) {
  for (lk_param *p = at(i)->params; p; p = p->next)
    if (!strcmp(p->name + strlen(p->name) - strlen(end), end)) return p;
  ck_abort_msg("no parameter %s", end);
}

/* ---- what was drawn, from the gradients ---- */

/* Elements with a gradient other than 0. */
static int touched(int i, const char *name) {
  const lk_param *p = param(i, name);
  lk_view g = p->value;
  int n = 0;
  g.p = p->grad;
  for (int64_t k = 0; p->has_grad && k < lk_param_count(p); k++) n += lk_view_get(&g, k) != 0;
  return n;
}

/* The genes that pass `step` drew at site i: A and B: lora, vector, constant, none; C without constant; D and E: constant,
 * none, vector. */
static void seen_genes(int i, int genes[GENES]) {
  static const char names[] = "ABCDE";
  for (int k = 0; k < GENES; k++) {
    char d[20], u[20];
    snprintf(d, sizeof d, "glora_%c.%s", names[k], k < 3 ? "Xd" : "X");
    snprintf(u, sizeof u, "glora_%c.Xu", names[k]);
    int n = touched(i, d);
    if (k < 3) genes[k] = touched(i, u) ? 0 : n > 1 ? 1 : n == 1 ? 2 : k == 2 ? 2 : 3;
    else genes[k] = n > 1 ? 2 : n == 1 ? 0 : 1;
  }
}

static void run_pass(uint64_t step) {
  int n;
  lk_param **p = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) lk_param_zero_grad(p[i]);
  lk_free(ctx, p);
  lk_tape_reset(t);
  lk_train(t, step, 0);
  lk_backward(t, test_loss(t, net_forward()));
  fine();
}

/* Every count within five standard deviations of an even share. */
static void check_even(const int *count, int cells, int total, const char *what) {
  double p = 1.0 / cells, sigma = sqrt(total * p * (1 - p));
  for (int i = 0; i < cells; i++)
    ck_assert_msg(fabs(count[i] - total * p) < 5 * sigma, "%s: %d of %d in cell %d of %d", what, count[i], total, i,
                  cells);
}

/* Uniform for each tensor, independent between tensors and sites. */
START_TEST(draws_are_uniform) {
  static const int choices[] = {4, 4, 3, 3, 3};
  int one[GENES][4] = {{0}}, sites[16] = {0}, tensors[16] = {0}, passes[16] = {0}, last = -1;
  attach("glora r=3 supernet");
  lk_set_requires_grad(&head->module, 1);
  for (int step = 1; step <= PASSES; step++) {
    int a[GENES], b[GENES];
    run_pass((uint64_t)step);
    seen_genes(0, a);
    seen_genes(1, b);
    for (int k = 0; k < GENES; k++) one[k][a[k]]++;
    sites[4 * a[0] + b[0]]++;
    tensors[4 * a[0] + a[1]]++;
    if (last >= 0) passes[4 * last + a[0]]++;
    last = a[0];
  }
  for (int k = 0; k < GENES; k++) check_even(one[k], choices[k], PASSES, "a tensor's forms");
  check_even(sites, 16, PASSES, "two sites");
  check_even(tensors, 16, PASSES, "A and B");
  check_even(passes, 16, PASSES - 1, "two passes");
}
END_TEST

START_TEST(lora_ranks_are_uniform) {
  int one[5] = {0};
  attach("lora r=8 supernet");
  lk_set_requires_grad(&head->module, 1);
  for (int step = 1; step <= PASSES; step++) {
    run_pass((uint64_t)step);
    int rows = touched(0, "lora_A.weight") / 5, choice = 0;
    while (8 >> choice > rows) choice++;
    ck_assert_int_eq(8 >> choice, rows);
    one[choice]++;
  }
  check_even(one, 5, PASSES, "ranks");
}
END_TEST

/* A pass draws the same however often it is run; micro-batches of a step differ. */
START_TEST(draws_are_repeatable) {
  double a[NET_OUT], b[NET_OUT];
  int differ = 0;
  attach(_i ? "lora r=8 supernet" : "glora supernet");
  for (uint64_t step = 1; step < 20; step++) {
    net_output(step, a);
    net_output(step + 1, b);
    differ += memcmp(a, b, sizeof a) != 0;
    net_output(step, b);
    ck_assert(!memcmp(a, b, sizeof a));
  }
  ck_assert_int_gt(differ, 10);
  net_output(0, a);
  net_output(0, b);
  ck_assert(!memcmp(a, b, sizeof a)); /* nothing is drawn in evaluation */
}
END_TEST

/* With nothing chosen, evaluation is what the spec's forms say. */
START_TEST(evaluation_is_as_written) {
  double a[NET_OUT], b[NET_OUT];
  attach("glora supernet A=none C=none D=none E=constant");
  net_output(0, a);
  lk_adapter_choose(model, "default", (const int[]){3, 0, 2, 1, 0, 3, 0, 2, 1, 0});
  net_output(0, b);
  ck_assert(!memcmp(a, b, sizeof a));
  lk_adapter_choose(model, "default", NULL);
  net_output(1, a);
  net_output(2, b);
  ck_assert(memcmp(a, b, sizeof a) != 0);
}
END_TEST

/* ---- training, resuming ---- */

static lk_optim *optimiser(void) {
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  int n;
  o.lr = 0.05;
  o.skip_until_reached = 1;
  lk_param **p = lk_trainable(model, &n);
  lk_optim *opt = lk_optim_new(ctx, &lk_optim_adamw, &o, p, n);
  lk_free(ctx, p);
  fine();
  return opt;
}

static void train(lk_optim *opt, uint64_t from, uint64_t to) {
  for (uint64_t step = from; step < to; step++) {
    lk_tape_reset(t);
    lk_train(t, step, 0);
    lk_backward(t, test_loss(t, net_forward()));
    lk_step(opt);
    fine();
  }
}

static void open_again(const char *spec) {
  lk_ctx *c = ctx;
  close_net();
  open_net(c, LK_F64);
  lk_set_requires_grad(&head->module, 1);
  ck_assert_int_eq(lk_attach(model, "default", spec, "first,second"), LK_OK);
  lk_set_requires_grad(&head->module, 1);
}

START_TEST(resumes_with_the_same_bits) {
  const char *spec = _i ? "lora r=4 supernet" : "glora supernet ranks=halves";
  double a[NET_OUT], b[NET_OUT];
  lk_progress progress = {0};
  test_directory();
  for (int resumed = 0; resumed < 2; resumed++) {
    open_again(spec);
    lk_optim *opt = optimiser();
    train(opt, 1, resumed ? 6 : 20);
    if (resumed) {
      lk_checkpoint_save(model, opt, &progress, spec, "checkpoint");
      lk_optim_free(opt);
      open_again(spec);
      opt = optimiser();
      lk_checkpoint_load(model, opt, &progress, spec, "checkpoint");
      train(opt, 6, 20);
    }
    net_output(0, resumed ? b : a);
    lk_optim_free(opt);
  }
  fine();
  ck_assert(!memcmp(a, b, sizeof a));
  test_directory_remove();
}
END_TEST

/* ---- files ---- */

static const int glora_genome[] = {2, 1, 0, 1, 2, 5, 0, 4, 2, 0}, lora_genome[] = {2, 3};

static void choose(int i) {
  ck_assert_int_eq(lk_adapter_choose(model, "default", i ? lora_genome : glora_genome), LK_OK);
}

/* A chosen structure, settled or not, is in the adapter's directory and in checkpoints. */
START_TEST(structure_is_saved) {
  const char *spec = _i % 2 ? "lora r=4 supernet" : "glora r=6 supernet ranks=halves";
  int settled = _i / 2;
  double a[NET_OUT], b[NET_OUT];
  lk_progress progress = {0};
  test_directory();
  attach(spec);
  choose(_i % 2);
  if (settled) lk_adapter_settle(model, "default");
  net_output(0, a);
  int64_t count = lk_adapter_count(model, "default");
  lk_adapter_save(model, "default", "saved", NULL);
  lk_checkpoint_save(model, NULL, &progress, spec, "checkpoint");
  fine();
  for (int from_checkpoint = 0; from_checkpoint < 2; from_checkpoint++) {
    open_again(spec);
    lk_set_requires_grad(&head->module, 0);
    if (from_checkpoint) lk_checkpoint_load(model, NULL, &progress, spec, "checkpoint");
    else if (!lk_detach(model, "default")) lk_adapter_load(model, "default", "saved", 1);
    fine();
    for (uint64_t step = 0; step < 3; step++) {
      net_output(step, b); /* in training too: nothing is drawn */
      ck_assert(!memcmp(a, b, sizeof a));
    }
    ck_assert_int_eq(lk_adapter_count(model, "default"), count);
    ck_assert_int_eq(lk_adapter_genes(model, "default", NULL) == 0, settled);
  }
  test_directory_remove();
}
END_TEST

/* A checkpoint from before settling can be read behind it, and one that does not fit leaves all as it was. */
START_TEST(settling_is_taken_back) {
  const char *spec = _i ? "lora r=4 supernet" : "glora r=6 supernet ranks=halves";
  double a[NET_OUT], b[NET_OUT], c[NET_OUT];
  lk_progress progress = {0};
  test_directory();
  attach(spec);
  lk_checkpoint_save(model, NULL, &progress, spec, "free");
  net_output(1, a);
  choose(_i);
  lk_adapter_settle(model, "default");
  net_output(0, b);
  ck_assert_int_eq(lk_checkpoint_load(model, NULL, &progress, "another note", "free"), LK_EFORMAT);
  lk_error_clear(ctx);
  net_output(0, c);
  ck_assert(!memcmp(b, c, sizeof b));
  ck_assert_int_eq(lk_checkpoint_load(model, NULL, &progress, spec, "free"), LK_OK);
  net_output(1, c);
  ck_assert(!memcmp(a, c, sizeof a));
  ck_assert_int_gt(lk_adapter_genes(model, "default", NULL), 0);
  fine();
  test_directory_remove();
}
END_TEST

START_TEST(a_wrong_structure_is_refused) {
  static const double wrong[][2] = {{0, 9}, {0, 1.5}, {0, -2}, {1, 77}};
  test_directory();
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    open_again("lora r=4 supernet");
    lk_adapter_choose(model, "default", lora_genome);
    lk_param *p = param(0, "lora_structure");
    lk_view_set(&p->value, (int64_t)wrong[i][0], wrong[i][1]);
    lk_adapter_save(model, "default", "saved", NULL);
    lk_detach(model, "default");
    lk_status status = lk_adapter_load(model, "default", "saved", 1);
    if (i == 3) fine(); /* anything but 1 is not settled */
    else ck_assert_int_eq(status, LK_EFORMAT);
    lk_error_clear(ctx);
  }
  test_directory_remove();
}
END_TEST

/* An optimiser from before does not step what has another size now. */
START_TEST(settling_needs_a_new_optimiser) {
  const char *message;
  attach("lora r=4 supernet");
  lk_optim *opt = optimiser();
  choose(1);
  lk_adapter_settle(model, "default");
  run_pass(1);
  ck_assert_int_eq(lk_step(opt), LK_ESHAPE);
  lk_error(ctx, &message);
  ck_assert(strstr(message, "when the optimiser was made") != NULL);
  lk_error_clear(ctx);
  lk_optim_free(opt);
  opt = optimiser();
  train(opt, 1, 4);
  lk_optim_free(opt);
}
END_TEST

START_TEST(notes) {
  attach("glora r=6 supernet ranks=halves");
  char *text = lk_adapter_notes(model, "default");
  ck_assert_str_eq(text, "");
  lk_free(ctx, text);
  choose(0);
  text = lk_adapter_notes(model, "default");
  ck_assert_str_eq(text, "glora A B C D E: net.first L1 L3 L6 n v, net.second n L6 n v k");
  lk_free(ctx, text);
}
END_TEST

/* ---- from the supernet to a merged model ---- */

static int64_t cost_of(void *arg, const int *genome) {
  (void)arg;
  return lk_adapter_choice_cost(model, "default", genome);
}

static double fitness_of(const int *genome) {
  lk_adapter_choose(model, "default", genome);
  lk_tape_reset(t);
  return -lk_item(t, test_loss(t, net_forward()));
}

/* Every genome there is: the best fitness within the limit. */
static double best_of_all(int n, const int *choices, int64_t limit) {
  int genome[2 * GENES] = {0}, i = 0;
  double best = -INFINITY;
  while (i < n) {
    if (cost_of(NULL, genome) <= limit) best = fmax(best, fitness_of(genome));
    for (i = 0; i < n && ++genome[i] == choices[i]; i++) genome[i] = 0;
  }
  return best;
}

START_TEST(search_over_lora_ranks) {
  double y[NET_OUT], merged[NET_OUT], fitness;
  int choices[SITES], winner[SITES];
  const int64_t limit = 40;
  attach("lora r=4 supernet");
  lk_set_requires_grad(&head->module, 1);
  lk_optim *opt = optimiser();
  train(opt, 1, 30);
  ck_assert_int_eq(lk_adapter_genes(model, "default", choices), SITES);
  ck_assert_int_eq(choices[0], 4);
  lk_search_options o = lk_search_defaults();
  o.population = 6, o.select = 2, o.mutation = 3, o.crossover = 3, o.generations = 4, o.cost_max = limit;
  o.final_rank = 1;
  lk_search *s = lk_search_new(ctx, SITES, choices, cost_of, NULL, &o);
  for (const int *genome; (genome = lk_search_ask(s));) lk_search_tell(s, fitness_of(genome));
  int64_t cost;
  memcpy(winner, lk_search_best(s, &fitness, &cost), sizeof winner);
  lk_search_free(s);
  ck_assert_int_le(cost, limit);
  ck_assert_double_eq(fitness, best_of_all(SITES, choices, limit)); /* a small space is searched whole */
  lk_adapter_choose(model, "default", winner);
  lk_adapter_settle(model, "default");
  ck_assert_int_eq(lk_adapter_count(model, "default"), cost);
  net_output(0, y);
  ck_assert_int_eq(lk_merge(model, NULL), LK_OK);
  net_output(0, merged);
  ck_assert(test_error(merged, y, NET_OUT) < 1e-13);
  lk_optim_free(opt);
  fine();
}
END_TEST

/* Every allocation fails in turn, from attaching to settling, taking that back and merging. */
static lk_status whole_story(lk_ctx *c, void *arg) {
  static const int genome[] = {0, 0, 0, 2, 2, 1};
  lk_progress progress = {0};
  (void)arg;
  open_net(c, LK_F64);
  if (model && t && !lk_attach(model, "default", "glora r=2 supernet | lora r=2 supernet", "first")) {
    lk_adapter_choose(model, "default", genome);
    lk_checkpoint_save(model, NULL, &progress, NULL, "checkpoint");
    lk_adapter_settle(model, "default");
    lk_checkpoint_load(model, NULL, &progress, NULL, "checkpoint");
    lk_free(c, lk_adapter_notes(model, "default"));
    lk_merge(model, NULL);
  }
  close_net();
  return lk_error(c, NULL);
}

START_TEST(memory_runs_out) {
  test_directory();
  const char *why = test_each_allocation(whole_story, NULL, NULL);
  ck_assert_msg(!why, "%s", why);
  test_directory_remove();
}
END_TEST

int main(void) {
  TCase *c = tcase_create("supernet"), *bare = tcase_create("memory");
  tcase_set_timeout(c, 240);
  tcase_add_test(c, draws_are_uniform);
  tcase_add_test(c, lora_ranks_are_uniform);
  tcase_add_loop_test(c, draws_are_repeatable, 0, 2);
  tcase_add_test(c, evaluation_is_as_written);
  tcase_add_loop_test(c, resumes_with_the_same_bits, 0, 2);
  tcase_add_loop_test(c, structure_is_saved, 0, 4);
  tcase_add_loop_test(c, settling_is_taken_back, 0, 2);
  tcase_add_test(c, a_wrong_structure_is_refused);
  tcase_add_test(c, settling_needs_a_new_optimiser);
  tcase_add_test(c, notes);
  tcase_add_test(c, search_over_lora_ranks);
  tcase_add_test(bare, memory_runs_out);
  return run_cases("supernet", c, bare);
}
