/* balance.h: examples in an order whose beginnings are balanced over the classes. */
#ifndef LK_BALANCE_H
#define LK_BALANCE_H
#include <lorikeet/ctx.h>

/* Puts order[count] into rounds: the r-th example of every class, classes in the order of their first example.
 * labels in [0, classes). */
lk_status lk_balance(lk_ctx *ctx, const int64_t *labels, int64_t count, int64_t classes, int64_t *order);

#endif
