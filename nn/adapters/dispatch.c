/* dispatch.c: see mixture.h: rows go to their experts, and what those make of them comes back. */
#include <lorikeet/mixture.h>
#include <lorikeet/ops.h>

/* ---- rows ---- */

lk_tensor lk_routing_rows(lk_tape *t, const lk_routing *to, lk_tensor x) {
  return lk_reshape(t, x, 2, (int64_t[]){to->tokens, lk_size(t, x, -1)});
}

/* Zeros from an op, so that recomputation can make them again before it adds to them in place. */
static lk_tensor zeros(lk_tape *t, lk_dtype dtype, const int64_t shape[2]) {
  return lk_scale(t, lk_expand(t, lk_scalar(t, dtype, 0), 2, shape), 1);
}

lk_tensor lk_routing_sum(lk_tape *t, const lk_routing *to, lk_tensor y) {
  const int64_t shape[] = {to->tokens, to->out};
  return lk_is_nil(y) ? zeros(t, lk_dtype_of(t, to->p), shape) : lk_reshape(t, y, 2, shape);
}

lk_tensor lk_routing_shaped(lk_tape *t, const lk_routing *to, lk_tensor y) {
  int64_t shape[LK_MAXDIM];
  for (int d = 0; d < to->shape.ndim; d++) shape[d] = to->shape.shape[d];
  shape[to->shape.ndim - 1] = to->out;
  return lk_reshape(t, y, to->shape.ndim, shape);
}

/* ---- experts ---- */

int lk_routing_expert(lk_tape *t, const lk_routing *to, int i, lk_expert *e) {
  int all = lk_is_nil(to->index);
  int64_t first = all ? 0 : to->first[i];
  *e = (lk_expert){.n = all ? to->tokens : to->first[i + 1] - first};
  if (!e->n || lk_error(lk_tape_ctx(t), NULL)) return 0;
  if (!all) e->index = lk_slice(t, to->index, 0, first, e->n, 1);
  e->gate = all ? lk_slice(t, to->gate, 1, i, 1, 1) : lk_slice(t, to->gate, 0, first, e->n, 1);
  return !lk_error(lk_tape_ctx(t), NULL);
}

lk_tensor lk_expert_take(lk_tape *t, const lk_expert *e, lk_tensor x) {
  return lk_is_nil(e->index) ? x : lk_index_select(t, x, 0, e->index);
}

lk_tensor lk_expert_add(lk_tape *t, const lk_expert *e, lk_tensor y, lk_tensor d) {
  d = lk_mul(t, d, e->gate);
  return lk_is_nil(e->index) ? lk_add(t, y, d) : lk_scatter_rows(t, y, e->index, d);
}

lk_tensor lk_expert_add_product(lk_tape *t, const lk_expert *e, lk_tensor y, lk_tensor h, lk_tensor B, double s) {
  h = lk_mul(t, h, e->gate);
  return lk_is_nil(e->index) ? lk_accumulate(t, y, h, B, s) : lk_accumulate_rows(t, y, e->index, h, B, s);
}

lk_tensor lk_expert_part(lk_tape *t, lk_param *stacked, int i) {
  return lk_squeeze(t, lk_slice(t, lk_use(t, stacked), 0, i, 1, 1), 0);
}
