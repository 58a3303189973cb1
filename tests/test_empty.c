/* test_empty.c: values and parameters with an axis of length 0: modules pruned to rank 0, experts without a token. */
#include "files.h"
#include "tape.h"

#include <lorikeet/optim.h>
#include <lorikeet/safetensors.h>

/* ---- single ops, by the contract; a filled case beside the empty ones shows that the declared reads matter ---- */

static const double half = 0.5;
static const int first_two[] = {0, 1};

static const struct {
  const char *name;
  lk_case cases[6];
} ops[] = {
    {"accumulate",
     {{"2x3 2x4 3x4", &half, -1, 1, 0},
      {"2x3 2x0 3x0", &half, -1, 1, 0},
      {"0x3 0x4 3x4", &half, -1, 1, 0},
      {"2x0 2x4 0x4", &half, -1, 1, 0},
      {"3x0x2 3x0x4 2x4", &half, -1, 1, 0}}},
    {"linear",
     {{"2x4 3x4 3", &half, -1, 1, 0},
      {"0x4 3x4 3", &half, -1, 1, 0},
      {"2x4 0x4 0", &half, -1, 1, 0},
      {"2x0 3x0 3", &half, -1, 1, 0},
      {"2x0x4 3x4 3", &half, -1, 1, 0}}},
    {"accumulate_rows",
     {{"4x3 2 2x2 3x2", &half, -1, 1, 4},
      {"4x3 0 0x2 3x2", &half, -1, 1, 4},
      {"4x3 2 2x0 3x0", &half, -1, 1, 4},
      {"0x3 0 0x2 3x2", &half, -1, 1, 0},
      {"4x0 2 2x2 0x2", &half, -1, 1, 4}}},
    {"scatter_rows",
     {{"4x3 2 2x3", NULL, -1, 1, 4},
      {"4x3 0 0x3", NULL, -1, 1, 4},
      {"0x3 0 0x3", NULL, -1, 1, 0},
      {"4x0 2 2x0", NULL, -1, 1, 4}}},
    {"index_select",
     {{"0x3 0", first_two, -1, 1, 0},
      {"4x0 2", first_two, -1, 1, 4},
      {"4x3 0", first_two, -1, 1, 4},
      {"4x3 0", first_two + 1, -1, 1, 3},
      {"0x3 2", first_two + 1, -1, 1, 3}}},
    {"matmul",
     {{"2x4 4x3", NULL, -1, 1, 0},
      {"2x0 0x3", NULL, -1, 1, 0},
      {"0x4 4x3", NULL, -1, 1, 0},
      {"2x4 4x0", NULL, -1, 1, 0},
      {"0x2x4 4x3", NULL, -1, 1, 0}}},
    {"mul",
     {{"2x8 2x1", NULL, -1, 1, 0},
      {"0x8 0x1", NULL, -1, 1, 0},
      {"0x8 1x8", NULL, -1, 1, 0},
      {"8x0 8x1", NULL, -1, 1, 0},
      {"0x1 -", NULL, -1, 1, 0}}},
    {"div", {{"2x8 2x1", NULL, 1, 2, 0}, {"0x8 0x1", NULL, 1, 2, 0}, {"0x8 8", NULL, 1, 2, 0}}},
    {"transpose", {{"0x8", first_two, -1, 1, 0}, {"8x0", first_two, -1, 1, 0}, {"0x0", first_two, -1, 1, 0}}},
    {"concat",
     {{"0x4 2x4", first_two, -1, 1, 0},
      {"2x0 2x3 2x0", first_two + 1, -1, 1, 0},
      {"0x4 0x4", first_two, -1, 1, 0},
      {"0x4", first_two + 1, -1, 1, 0}}},
    {"softmax", {{"3x4", first_two + 1, -1, 1, 0}, {"0x4", first_two + 1, -1, 1, 0}, {"4x0", first_two + 1, -1, 1, 0}}},
    {"gather", {{"0x4 0x2", first_two + 1, -1, 1, 4}, {"3x4 3x0", first_two + 1, -1, 1, 4}}},
    {"dropout", {{"0x4", &half, -1, 1, 0}, {"4x0", &half, -1, 1, 0}}},
    {"contiguous", {{"0x4", NULL, -1, 1, 0}, {"4x0", NULL, -1, 1, 0}}},
    {"silu", {{"3", NULL, -1, 1, 0}, {"0x4", NULL, -1, 1, 0}, {"4x0", NULL, -1, 1, 0}}},
};

START_TEST(test_op_on_nothing) {
  lk_op op = {0};
  const char *message;
  for (int i = 0; lk_ops()[i]; i++)
    if (!strcmp(lk_ops()[i]->name, ops[_i].name)) op = *lk_ops()[i];
  ck_assert_msg(op.name, "there is no %s", ops[_i].name);
  op.cases = ops[_i].cases;
  lk_check_op(ctx, &op);
  ck_assert_msg(lk_error(ctx, &message) == LK_OK, "%s", message);
}
END_TEST

/* ---- a low-rank module of rank 0: y = x W^T + (x (E A)^T) B^T, the change is nothing ---- */

enum { W, A, E, B, A2 };

static void rank_zero(lk_dtype dtype) {
  const char *shapes[] = {"6 8", "0 8", "0 1", "6 0", "2 8"};
  const char *names[] = {"W", "A", "E", "B", "A2"};
  for (int i = 0; i < 5; i++) ck_assert_ptr_nonnull(make_param(names[i], shapes[i], dtype));
}

static lk_tensor base(lk_tensor x) { return lk_linear(t, x, use(W), lk_nil()); }

static lk_tensor changed(lk_tensor x) {
  lk_tensor EA = lk_scale(t, lk_mul(t, use(A), use(E)), 0.5), y = base(x);
  lk_tensor h = lk_linear(t, x, EA, lk_nil()); /* [.., 0] */
  return lk_accumulate(t, y, h, use(B), 2);
}

/* || A A^T - 1 ||^2 of a [0, 0] matrix, and the same of B. */
static lk_tensor orthogonal(void) {
  lk_tensor a = lk_matmul(t, use(A), lk_transpose(t, use(A), 0, 1));
  lk_tensor b = lk_matmul(t, lk_transpose(t, use(B), 0, 1), use(B));
  return lk_add(t, lk_norm(t, a, 2, 0, NULL, 0), sum_all(lk_mul(t, b, b)));
}

static lk_tensor rank_zero_story(void) {
  lk_tensor x = INPUT(3, 5, 8), y = lk_add(t, weigh(changed(x)), orthogonal());
  lk_tensor both = lk_concat(t, 2, (lk_tensor[]){use(A), use(A2)}, 0), none = lk_slice(t, use(A2), 0, 1, 0, 1);
  lk_tensor delta = lk_matmul(t, use(B), use(A)); /* [6, 8] of zeros */
  y = lk_add(t, y, weigh(lk_linear(t, x, lk_add(t, use(W), delta), lk_nil())));
  y = lk_add(t, y, weigh(lk_linear(t, x, both, lk_nil())));
  return lk_add(t, y, sum_all(lk_linear(t, x, lk_transpose(t, lk_transpose(t, none, 0, 1), 0, 1), lk_nil())));
}

START_TEST(test_rank_zero_changes_nothing) {
  lk_view y, z;
  rank_zero(_i ? LK_F64 : LK_F32);
  lk_tensor x = lk_use(t, params[A2]);
  lk_get(t, base(x), &y);
  lk_get(t, changed(x), &z);
  ck_fine();
  ck_assert(!memcmp(y.p, z.p, lk_view_bytes(&y)));
  lk_get(t, orthogonal(), &z);
  ck_assert_double_eq(lk_view_get(&z, 0), 0);
}
END_TEST

START_TEST(test_rank_zero_has_gradients) {
  rank_zero(LK_F64);
  lk_tape_set_mode(t, LK_TAPE_POISON);
  lk_backward(t, rank_zero_story());
  ck_fine();
  for (int i = 0; i < nparams; i++) ck_assert(params[i]->has_grad && params[i]->grad);
  ck_gradients(rank_zero_story);
}
END_TEST

/* ---- an expert that no token chose ---- */

static lk_tensor expert(int tokens) {
  const int64_t list[] = {1, 3};
  lk_tensor x = lk_tanh(t, use(A2)), index = lk_input(t, LK_I64, 1, (int64_t[]){tokens}, tokens ? list : NULL);
  lk_tensor gate = lk_index_select(t, lk_softmax(t, x, -1), 0, index), d = lk_index_select(t, x, 0, index);
  lk_tensor h = lk_mul(t, lk_linear(t, d, use(A), lk_nil()), lk_slice(t, gate, 1, 0, 1, 1));
  lk_tensor y = lk_linear(t, x, use(W), lk_nil());
  y = lk_accumulate_rows(t, y, index, h, use(B), 2);
  y = lk_scatter_rows(t, y, index, lk_linear(t, d, use(W), use(E)));
  return weigh(y);
}
static lk_tensor idle_expert(void) { return expert(0); }

START_TEST(test_expert_without_tokens) {
  const char *shapes[] = {"6 8", "2 8", "6", "6 2", "5 8"};
  for (int i = 0; i < 5; i++) make_param("p", shapes[i], LK_F64);
  lk_tape_set_mode(t, LK_TAPE_POISON);
  lk_backward(t, expert(2)); /* gradient memory of a step before is void, not zero */
  ck_fine();
  ck_assert_double_ne(gradient_of(params[A], 0), 0);
  ck_assert_double_ne(gradient_of(params[E], 0), 0);
  zero_grads();
  lk_tape_reset(t);
  lk_backward(t, expert(0));
  ck_fine();
  for (int i = A; i <= B; i++) {
    ck_assert(params[i]->has_grad);
    for (int64_t j = 0; j < lk_param_count(params[i]); j++) ck_assert_double_eq(gradient_of(params[i], j), 0);
  }
  ck_assert_double_ne(gradient_of(params[W], 0), 0);
  ck_gradients(idle_expert);
}
END_TEST

/* ---- optimisers ---- */

START_TEST(test_optimiser_steps_over_nothing) {
  const lk_optim_class *cls = lk_optim_classes()[_i];
  lk_optim_options o = lk_optim_defaults(cls);
  o.clip_norm = 0.01;
  rank_zero(LK_F32);
  lk_optim *all = lk_optim_new(ctx, cls, &o, params, nparams), *empty = lk_optim_new(ctx, cls, &o, params + A, 3);
  ck_fine();
  float before = *(float *)params[W]->value.p;
  for (int step = 0; step < 2; step++) {
    lk_tape_reset(t);
    lk_backward(t, weigh(changed(use(A2))));
    ck_assert_int_eq(lk_step(all), LK_OK);
    ck_assert(isfinite(lk_grad_norm(all)) && lk_grad_norm(all) > 0);
  }
  ck_assert(*(float *)params[W]->value.p != before);
  lk_tape_reset(t);
  lk_backward(t, weigh(changed(use(A2))));
  ck_assert_int_eq(lk_step(empty), LK_OK);
  ck_assert_double_eq(lk_grad_norm(empty), 0);
  ck_assert_int_eq(lk_optim_step_count(empty), 1);
  for (int i = 0; i < lk_optim_state_count(empty); i++) ck_assert_ptr_nonnull(lk_optim_state_at(empty, i)->view.p);
  ck_fine();
  lk_optim_free(all);
  lk_optim_free(empty);
}
END_TEST

/* ---- files ---- */

START_TEST(test_files_hold_nothing) {
  lk_named_view stored[5];
  rank_zero(_i ? LK_F64 : LK_F32);
  for (int i = 0; i < nparams; i++) stored[i] = (lk_named_view){params[i]->name, params[i]->value};
  test_directory();
  /* All together; and a file without a byte of data. */
  for (int from = W; from <= A; from++) {
    int n = from == W ? 5 : 3;
    ck_assert_int_eq(lk_safetensors_write(ctx, "f.safetensors", stored + from, (size_t)n, NULL, 0), LK_OK);
    lk_safetensors *f = lk_safetensors_open(ctx, "f.safetensors");
    ck_fine();
    ck_assert_uint_eq(lk_safetensors_count(f), (size_t)n);
    for (int i = from; i < from + n; i++) {
      lk_view v;
      ck_assert_int_eq(lk_safetensors_get(f, params[i]->name, &v), LK_OK);
      ck_assert(lk_view_same_shape(&v, &params[i]->value) && v.dtype == params[i]->value.dtype);
      ck_assert_int_eq(lk_param_assign(params[i], &v), LK_OK);
      ck_assert(lk_view_count(&v) == 0 || !memcmp(v.p, params[i]->value.p, lk_view_bytes(&v)));
    }
    lk_safetensors_close(f);
  }
  test_directory_remove();
  ck_fine();
}
END_TEST

int main(void) {
  SUITE("empty");
  int classes = 0;
  while (lk_optim_classes()[classes]) classes++;
  tcase_add_loop_test(tcase, test_op_on_nothing, 0, (int)(sizeof ops / sizeof *ops));
  tcase_add_loop_test(tcase, test_rank_zero_changes_nothing, 0, 2);
  tcase_add_test(tcase, test_rank_zero_has_gradients);
  tcase_add_test(tcase, test_expert_without_tokens);
  tcase_add_loop_test(tcase, test_optimiser_steps_over_nothing, 0, classes);
  tcase_add_loop_test(tcase, test_files_hold_nothing, 0, 2);
  return run_suite(suite);
}
