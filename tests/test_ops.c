/* test_ops.c: every registered operator keeps the contract, and every way of breaking it is caught by its name. */
#include "tape.h"

static int nops;

START_TEST(test_registered_op) {
  const lk_op *op = lk_ops()[_i];
  const char *message = "";
  lk_status status = lk_check_op(ctx, op);
  lk_error(ctx, &message);
  ck_assert_msg(status == LK_OK, "%s", message);
}
END_TEST

START_TEST(test_registry) {
  ck_assert_int_gt(nops, 60);
  for (int i = 0; i < nops; i++) {
    const lk_op *op = lk_ops()[i];
    ck_assert_msg(op->cases && op->cases->shapes, "%s has no cases", op->name);
    for (int j = 0; j < i; j++) ck_assert_str_ne(op->name, lk_ops()[j]->name);
  }
}
END_TEST

/* ---- an op that is right: y = a^2 b, elementwise; the wrong ones differ from it in one place ---- */

static int forward(lk_call *c) {
  for (int64_t i = 0; i < lk_view_count(c->y); i++) {
    double a = lk_view_get(&c->x[0], i);
    lk_view_set(c->y, i, a * a * lk_view_get(&c->x[1], i));
  }
  return 0;
}

/* gx[i] += d y / d x[i] * gy, or = where it is fresh. */
static void add(lk_call *c, int i, int64_t j, double slope, int fresh) {
  double old = fresh ? 0 : lk_view_get(&c->gx[i], j);
  lk_view_set(&c->gx[i], j, old + slope * lk_view_get(c->gy, j));
}

static void add_first(lk_call *c, double factor, int fresh) {
  for (int64_t j = 0; c->gx[0].p && j < lk_view_count(c->y); j++)
    add(c, 0, j, factor * 2 * lk_view_get(&c->x[0], j) * lk_view_get(&c->x[1], j), fresh);
}

static void add_second(lk_call *c, double factor, int fresh) {
  for (int64_t j = 0; c->gx[1].p && j < lk_view_count(c->y); j++)
    add(c, 1, j, factor * pow(lk_view_get(&c->x[0], j), 2), fresh);
}

static int backward(lk_call *c) {
  add_first(c, 1, (c->fresh & LK_X(0)) != 0);
  add_second(c, 1, (c->fresh & LK_X(1)) != 0);
  return 0;
}

static uint32_t reads(const lk_call *c) { return LK_X(0) | (c->want & LK_X(0) ? LK_X(1) : 0); }

static const lk_case cases[] = {{"2x3 2x3", NULL, 0.5, 2, 0}, {"2x3 3", NULL, 0.5, 2, 0}, {0}};
static const lk_op right = {.name = "right",
                            .nin = 2,
                            .flags = LK_OP_ELEMENTWISE | LK_OP_FRESH,
                            .fwd = forward,
                            .bwd = backward,
                            .reads = reads,
                            .cases = cases};

START_TEST(test_right_op_passes) {
  ck_assert_int_eq(lk_check_op(ctx, &right), LK_OK);
  ck_fine();
}
END_TEST

/* ---- wrong ones ---- */

static int wrong_sign(lk_call *c) {
  add_first(c, 1, c->fresh & LK_X(0));
  add_second(c, -1, (c->fresh & LK_X(1)) != 0);
  return 0;
}

static int wrong_factor(lk_call *c) {
  add_first(c, 1 + 1e-6, c->fresh & LK_X(0));
  add_second(c, 1, (c->fresh & LK_X(1)) != 0);
  return 0;
}

static int overwrites(lk_call *c) {
  add_first(c, 1, 1);
  add_second(c, 1, (c->fresh & LK_X(1)) != 0);
  return 0;
}

static int ignores_fresh(lk_call *c) {
  add_first(c, 1, 0);
  add_second(c, 1, (c->fresh & LK_X(1)) != 0);
  return 0;
}

/* Writes the gradient of the last repetition instead of the sum over all. */
static int forgets_sum(lk_call *c) {
  double before[3];
  lk_view *g = &c->gx[1];
  add_first(c, 1, c->fresh & LK_X(0));
  if (!g->p) return 0;
  int fresh = (c->fresh & LK_X(1)) != 0, repeats = g->stride[0] == 0;
  for (int64_t j = 0; repeats && j < 3; j++) before[j] = lk_view_get(g, j);
  for (int64_t j = 0; j < lk_view_count(c->y); j++) {
    if (repeats) lk_view_set(g, j, before[j % 3]);
    add(c, 1, j, pow(lk_view_get(&c->x[0], j), 2), fresh);
  }
  return 0;
}

static int contiguous_only(lk_call *c) {
  const double *a = c->x[0].p, *b = c->x[1].p;
  for (int64_t i = 0; i < lk_view_count(c->y); i++) {
    double x = c->x[0].dtype == LK_F64 ? a[i] : ((const float *)c->x[0].p)[i];
    double y = c->x[0].dtype == LK_F64 ? b[c->x[1].stride[0] ? i : i % 3] : lk_view_get(&c->x[1], i);
    lk_view_set(c->y, i, x * x * y);
  }
  return 0;
}

static int contiguous_only_in_backward(lk_call *c) {
  if (c->x[1].p && c->gx[0].p && c->x[1].dtype == LK_F64)
    for (int64_t j = 0; j < lk_view_count(c->y); j++)
      add(c, 0, j, 2 * lk_view_get(&c->x[0], j) * ((double *)c->x[1].p)[c->x[1].stride[0] ? j : j % 3],
          c->fresh & LK_X(0));
  else add_first(c, 1, c->fresh & LK_X(0));
  add_second(c, 1, (c->fresh & LK_X(1)) != 0);
  return 0;
}

static int depends_on_threads(lk_call *c) {
  forward(c);
  if (c->threads > 1) lk_view_set(c->y, 1, nextafterf((float)lk_view_get(c->y, 1), 100));
  return 0;
}

static int depends_on_threads_in_backward(lk_call *c) {
  add_first(c, c->threads > 1 ? 1 + 1e-15 : 1, c->fresh & LK_X(0));
  add_second(c, 1, (c->fresh & LK_X(1)) != 0);
  return 0;
}

static int imprecise_in_f32(lk_call *c) {
  forward(c);
  if (c->y->dtype == LK_F32) lk_view_set(c->y, 2, lk_view_get(c->y, 2) * 1.001);
  return 0;
}

/* Right for all inputs together, wrong when only the second wants a gradient. */
static int wrong_for_one_mask(lk_call *c) {
  add_first(c, 1, c->fresh & LK_X(0));
  add_second(c, c->want == LK_X(1) ? 2 : 1, (c->fresh & LK_X(1)) != 0);
  return 0;
}

static int infinite(lk_call *c) {
  forward(c);
  if (c->threads > 1) lk_view_set(c->y, 0, INFINITY);
  return 0;
}

static uint32_t reads_too_little(const lk_call *c) { return c->want & LK_X(0) ? LK_X(1) : 0; }
static uint32_t reads_result_too(const lk_call *c) { return reads(c) | LK_Y; }
static uint32_t reads_too_much(const lk_call *c) { return LK_X(0) | (c->want ? LK_X(1) : 0); }

#define RACE "(2x3 2x3): on two threads, "
static const struct {
  const char *name;
  int (*fwd)(lk_call *), (*bwd)(lk_call *); /* NULL: the right one */
  uint32_t (*reads)(const lk_call *);
  const char *says;
} wrong[] = {
    {"sign", NULL, wrong_sign, NULL, "check sign (2x3 2x3): gradient 1 [0] is "},
    {"sign", NULL, wrong_sign, NULL, "(wrong sign?)"},
    {"factor", NULL, wrong_factor, NULL, "check factor (2x3 2x3): gradient 0 ["},
    {"undeclared", NULL, NULL, reads_too_little, "(a read that is not declared, or `fresh` ignored?)"},
    {"result", NULL, NULL, reads_result_too,
     "check result: it declares that backward reads the result, and no gradient depends on it"},
    {"overwrites", NULL, overwrites, NULL, "check overwrites (2x3 2x3): gradient 0 [0] is "},
    {"overwrites", NULL, overwrites, NULL, "(overwritten instead of added to?)"},
    {"fresh", NULL, ignores_fresh, NULL, "check fresh (2x3 2x3): computed, gradient 0 [0] is "},
    {"fresh", NULL, ignores_fresh, NULL, "`fresh` ignored?"},
    {"sum", NULL, forgets_sum, NULL, "check sum (2x3 3): gradient 1 [0] is "},
    {"strides", contiguous_only, NULL, NULL, "check strides (2x3 2x3): strided, result 0 ["},
    {"strides_back", NULL, contiguous_only_in_backward, NULL, "(2x3 2x3): strided, gradient 0 ["},
    {"racy", depends_on_threads, NULL, NULL, "check racy " RACE "result 0 [1] is "},
    {"racy_back", NULL, depends_on_threads_in_backward, NULL, "check racy_back " RACE "gradient 0 ["},
    {"infinite", infinite, NULL, NULL, RACE "result 0 [0] is inf"},
    {"imprecise", imprecise_in_f32, NULL, NULL, "check imprecise (2x3 2x3): f32 result 0 [2] is "},
    {"mask", NULL, wrong_for_one_mask, NULL, "check mask (2x3 2x3): gradient 1 ["},
};

START_TEST(test_wrong_op_is_caught) {
  lk_op op = right;
  op.name = wrong[_i].name;
  if (wrong[_i].fwd) op.fwd = wrong[_i].fwd;
  if (wrong[_i].bwd) op.bwd = wrong[_i].bwd;
  if (wrong[_i].reads) op.reads = wrong[_i].reads;
  lk_set_threads(ctx, 1);
  ck_assert_int_ne(lk_check_op(ctx, &op), LK_OK);
  ck_refused(LK_EARG, wrong[_i].says);
  ck_assert_int_eq(lk_threads(ctx), 1);
}
END_TEST

/* y = 3 x, declaring a read that it does not need. */
static int triple(lk_call *c) {
  for (int64_t i = 0; i < lk_view_count(c->y); i++) lk_view_set(c->y, i, 3 * lk_view_get(&c->x[0], i));
  return 0;
}
static int triple_backward(lk_call *c) {
  for (int64_t j = 0; j < lk_view_count(c->y); j++) add(c, 0, j, 3, 0);
  return 0;
}
static uint32_t reads_input(const lk_call *c) { return (void)c, LK_X(0); }

START_TEST(test_wrong_declarations_and_cases) {
  static const lk_case fits[] = {{"5", NULL, -1, 1, 0}, {0}}, many[] = {{"2 2 2", NULL, -1, 1, 0}, {0}};
  static const lk_case no_size[] = {{"-2", NULL, -1, 1, 0}, {0}};
  lk_op op = {.name = "triple", .nin = 1, .flags = LK_OP_ELEMENTWISE, .fwd = triple, .bwd = triple_backward};
  lk_check_op(ctx, &op);
  ck_refused(LK_EARG, "check triple: it has no test cases");
  op.cases = fits;
  op.reads = reads_input;
  lk_check_op(ctx, &op);
  ck_refused(LK_EARG, "check triple: it declares that backward reads input 0, and no gradient depends on it");
  op.reads = NULL; /* everything */
  lk_check_op(ctx, &op);
  ck_refused(LK_EARG, "check triple: it declares that backward reads input 0");
  op.cases = many;
  lk_check_op(ctx, &op);
  ck_refused(LK_EARG, "triple: 3 inputs");
  op.cases = no_size;
  lk_check_op(ctx, &op);
  ck_refused(LK_EARG, "triple: 2 inputs");
}
END_TEST

/* Declared for every mask though needed for some: memory is wasted, but no single declaration is idle. */
START_TEST(test_generous_masks_pass) {
  lk_op op = right;
  op.reads = reads_too_much;
  ck_assert_int_eq(lk_check_op(ctx, &op), LK_OK);
}
END_TEST

/* An undeclared index or mask is hidden too, and does not crash. */
static int pick_shape(lk_call *c) { return lk_view_init(c->y, c->x[0].dtype, 1, c->x[1].shape); }
static int pick(lk_call *c) {
  for (int64_t i = 0; i < lk_view_count(c->y); i++)
    lk_view_set(c->y, i, lk_view_get(&c->x[0], lk_view_index(&c->x[1], lk_view_offset(&c->x[1], i))));
  return 0;
}
static int pick_backward(lk_call *c) {
  for (int64_t i = 0; i < lk_view_count(c->y); i++) {
    int64_t j = lk_view_index(&c->x[1], lk_view_offset(&c->x[1], i));
    lk_view_set(&c->gx[0], j, lk_view_get(&c->gx[0], j) + lk_view_get(c->gy, i));
  }
  return 0;
}
static uint32_t pick_reads(const lk_call *c) { return (void)c, LK_X(1); }
static uint32_t pick_reads_nothing(const lk_call *c) { return (void)c, 0; }

START_TEST(test_undeclared_index) {
  static const lk_case picks[] = {{"5 3", NULL, -1, 1, 5}, {0}};
  lk_op op = {.name = "pick",
              .nin = 2,
              .types = "ri",
              .shape = pick_shape,
              .fwd = pick,
              .bwd = pick_backward,
              .reads = pick_reads,
              .cases = picks};
  ck_assert_int_eq(lk_check_op(ctx, &op), LK_OK);
  op.reads = pick_reads_nothing;
  ck_assert_int_eq(lk_check_op(ctx, &op), LK_EARG);
  ck_refused(LK_EARG, "check pick (5 3): gradient 0 [");
}
END_TEST

/* ---- an op of the user's own, with attributes, a saved block and an optional input ---- */

typedef struct swish_options {
  double beta;
} swish_options;

static int swish_shape(lk_call *c) {
  const swish_options *o = c->attr;
  if (!(o->beta > 0)) return lk_op_fail(c, LK_EARG, "beta is %g, should be above 0", o->beta);
  return lk_view_init(c->y, c->x[0].dtype, c->x[0].ndim, c->x[0].shape);
}

static int swish(lk_call *c) {
  const swish_options *o = c->attr;
  int64_t n = lk_view_count(c->y);
  double *slope = lk_save(c, (size_t)n * sizeof *slope), shift = c->nin > 1 ? lk_view_get(&c->x[1], 0) : 0;
  if (!slope) return -1;
  for (int64_t i = 0; i < n; i++) {
    double x = lk_view_get(&c->x[0], i) + shift, s = 1 / (1 + exp(-o->beta * x));
    lk_view_set(c->y, i, x * s);
    slope[i] = s + o->beta * x * s * (1 - s);
  }
  return 0;
}

static int swish_backward(lk_call *c) {
  const double *slope = c->saved;
  for (int64_t i = 0; i < lk_view_count(c->gy); i++) {
    double g = slope[i] * lk_view_get(c->gy, i);
    if (c->gx[0].p) lk_view_set(&c->gx[0], i, lk_view_get(&c->gx[0], i) + g);
    if (c->nin > 1 && c->gx[1].p) lk_view_set(&c->gx[1], 0, lk_view_get(&c->gx[1], 0) + g);
  }
  return 0;
}

static const lk_case swish_cases[] = {
    {"3x4", &(swish_options){1.5}, -2, 2, 0}, {"2x3 -", &(swish_options){0.5}, -2, 2, 0}, {0}};
static const lk_op swish_op = {.name = "swish",
                               .nin = 2,
                               .optional = 1,
                               .flags = LK_OP_PACKED,
                               .attr_size = sizeof(swish_options),
                               .shape = swish_shape,
                               .fwd = swish,
                               .bwd = swish_backward,
                               .reads = pick_reads_nothing,
                               .cases = swish_cases};

static lk_tensor swish_story(void) {
  lk_tensor in[2] = {lk_transpose(t, lk_exp(t, use(0)), 0, 1), use(1)};
  uint32_t s = lk_scope_begin(t, "own", LK_SCOPE_RECOMPUTE);
  lk_tensor y = lk_apply(t, &swish_op, 2, in, &(swish_options){2});
  in[1] = lk_nil();
  return weigh(lk_scope_end(t, s, lk_mul(t, y, lk_apply(t, &swish_op, 2, in, &(swish_options){0.5}))));
}

START_TEST(test_users_own_op) {
  ck_assert_int_eq(lk_check_op(ctx, &swish_op), LK_OK);
  ck_fine();
  make_param("x", "2 3", LK_F64);
  make_param("shift", "", LK_F64);
  ck_gradients(swish_story);
  uint32_t s = lk_scope_begin(t, "model", 0);
  lk_apply(t, &swish_op, 1, (lk_tensor[]){use(0)}, &(swish_options){-1});
  lk_scope_end_n(t, s, 0, NULL);
  ck_message("swish: beta is -1, should be above 0; x0 [2, 3]; in model");
}
END_TEST

static lk_tensor filled(const int64_t shape[2], double value) {
  lk_view v;
  lk_tensor x = lk_input(t, LK_F32, 2, shape, NULL);
  ck_assert_int_eq(lk_get(t, x, &v), LK_OK);
  for (int64_t i = 0; i < shape[0] * shape[1]; i++) lk_view_set(&v, i, value);
  return x;
}

/* Few columns and much depth, to both sides of what the kernels for small products cut. */
START_TEST(test_thin_products) {
  static const int64_t depth[] = {255, 257, 2047, 2049, 2731, 3072, 4097, 8191, 8193};
  const int64_t m = 40, n = _i + 1;
  for (size_t d = 0; d < sizeof depth / sizeof *depth; d++) {
    const int64_t k = depth[d], first[] = {m, k}, second[] = {n, k};
    lk_view v;
    lk_tape_reset(t);
    lk_tensor y = lk_linear(t, filled(first, 2), filled(second, 1), lk_nil());
    ck_assert_int_eq(lk_get(t, y, &v), LK_OK);
    for (int64_t i = 0; i < m * n; i++) ck_assert_double_eq(lk_view_get(&v, i), 2 * (double)k);
  }
}
END_TEST

static lk_status check_all(lk_ctx *c, void *arg) {
  const lk_op *const *op = arg;
  return lk_check_op(c, *op);
}

START_TEST(test_check_without_memory) {
  const lk_op *some[] = {&right, &swish_op};
  const char *why = test_each_allocation(check_all, &some[_i], NULL);
  ck_assert_msg(!why, "%s", why);
}
END_TEST

int main(void) {
  while (lk_ops()[nops]) nops++;
  SUITE("ops");
  tcase_add_loop_test(tcase, test_registered_op, 0, nops);
  tcase_add_test(tcase, test_registry);
  tcase_add_test(tcase, test_right_op_passes);
  tcase_add_loop_test(tcase, test_wrong_op_is_caught, 0, sizeof wrong / sizeof *wrong);
  tcase_add_test(tcase, test_wrong_declarations_and_cases);
  tcase_add_test(tcase, test_generous_masks_pass);
  tcase_add_test(tcase, test_undeclared_index);
  tcase_add_test(tcase, test_users_own_op);
  tcase_add_loop_test(tcase, test_thin_products, 0, 33);
  tcase_add_loop_test(tcase, test_check_without_memory, 0, 2);
  return run_suite(suite);
}
