/* where.c: y = a where the mask is not 0, else b. */
#include "map.h"

#define MASK(k) ((const uint8_t *)in[k])[i]
LK_KERNEL(choose, const R a = LK_IN(1), b = LK_IN(2); o[i] = MASK(0) ? a : b;)
LK_KERNEL(grad_a, const R g = LK_IN(0); o[i] = MASK(1) ? g : 0;)
LK_KERNEL(grad_b, const R g = LK_IN(0); o[i] = MASK(1) ? 0 : g;)

static int fwd(lk_call *c) {
  return lk_map(c, &(lk_map_job){.out = *c->y, .in = {&c->x[0], &c->x[1], &c->x[2]}, .kernel = choose});
}

static int bwd(lk_call *c) {
  for (int i = 1; i < 3; i++) {
    if (!c->gx[i].p) continue;
    lk_map_job job = lk_map_grad(c, i, i == 1 ? grad_a : grad_b);
    job.in[0] = c->gy;
    job.in[1] = &c->x[0];
    if (lk_map(c, &job)) return -1;
  }
  return 0;
}

static uint32_t reads(const lk_call *c) {
  (void)c;
  return LK_X(0);
}

static const lk_case cases[] = {{"3x5 3x5 3x5", NULL, -2, 2, 2},   {"3x1 3x5 5", NULL, -2, 2, 2},
                                {"2x3x7 7 2x1x1", NULL, -2, 2, 2}, {"5 - 3x1", NULL, -2, 2, 2},
                                {"- - -", NULL, -2, 2, 2},         {0}};
const lk_op lk_op_where = {.name = "where",
                           .nin = 3,
                           .flags = LK_OP_ELEMENTWISE | LK_OP_FRESH,
                           .types = "mrr",
                           .fwd = fwd,
                           .bwd = bwd,
                           .reads = reads,
                           .cases = cases};

/* y = a where mask (u8) is not 0, else b; the three broadcast.  Differentiable in a and b. */
LK_OP lk_tensor lk_where(lk_tape *t, lk_tensor mask, lk_tensor a, lk_tensor b) {
  return lk_apply(t, &lk_op_where, 3, (lk_tensor[]){mask, a, b}, NULL);
}
