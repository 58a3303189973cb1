/* mixture.h: what mixtures of experts share: router, balance loss, dispatch, load of the experts.
 *
 * A class whose at->st begins with an lk_router, and whose options hold LK_ROUTER_OPTIONS, has most of its hooks here:
 *
 *   static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
 *     lk_routing to;
 *     lk_expert e;
 *     if (lk_route(at, t, x, &to)) return lk_nil();
 *     x = lk_routing_rows(t, &to, x);
 *     y = lk_routing_sum(t, &to, y);
 *     for (int i = 0; i < to.n; i++)
 *       if (lk_routing_expert(t, &to, i, &e)) y = lk_expert_add(t, &e, y, <expert i of lk_expert_take(t, &e, x)>);
 *     return lk_routing_shaped(t, &to, y);
 *   }
 *   .loss = lk_router_loss, .notes = lk_router_notes, .destroy_at = lk_router_free
 *
 * Fedus, Zoph, Shazeer, "Switch Transformers", arXiv 2101.03961; Jiang et al., "Mixtral of Experts", arXiv 2401.04088. */
#ifndef LORIKEET_MIXTURE_H
#define LORIKEET_MIXTURE_H
#include <lorikeet/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- router ---- */

typedef struct lk_router_options {
  int n, k;        /* experts, and how many of them a token goes to; k = n: all, with nothing gathered */
  int renormalize; /* the gates of a token are divided by their sum */
  double jitter;   /* e: in training the router's input is multiplied by numbers in [1 - e, 1 + e] */
  double balance;  /* factor of the balance loss */
} lk_router_options;

enum { LK_MOST_EXPERTS = 1024 };

/* Rows for a table of options: n, k, balance and renormalize of the lk_router_options called `member` in struct config. */
#define LK_ROUTER_OPTIONS(config, member)                                                                              \
  {"n", LK_OPT_INT, offsetof(config, member.n), 8, 1, LK_MOST_EXPERTS, NULL, "number of experts"},                     \
      {"k", LK_OPT_INT, offsetof(config, member.k), 2, 1, LK_MOST_EXPERTS, NULL, "experts that a token goes to"},      \
      {"balance", LK_OPT_REAL, offsetof(config, member.balance), 0.01, 0, 1e6, NULL, "factor of the balance loss"}, {  \
    "renormalize", LK_OPT_FLAG, offsetof(config, member.renormalize), 0, 0, 1, NULL,                                   \
        "a token's gates are divided by their sum"                                                                     \
  }

/* First member of at->st. */
typedef struct lk_router {
  lk_router_options o;
  lk_param *weight; /* "router.weight", W_g [n, in], no bias */
  int64_t *load;    /* [n]: tokens that each expert has got */
  int64_t *first;   /* [n + 1]: see lk_routing */
} lk_router;

/* For check: refuses k above n, and k = 1 with renormalize (all gates would be 1 and teach the router nothing). */
LK_API lk_status lk_router_check(const lk_at *at, const lk_router_options *o);
/* For attach: makes the router, W_g from normal(0, 0.02). */
LK_API lk_status lk_router_attach(lk_at *at, const lk_router_options *o);
LK_API void lk_router_free(lk_at *at); /* the hook destroy_at */

/* Where the tokens of one forward pass go. */
typedef struct lk_routing {
  int n;
  int64_t tokens;       /* T */
  lk_tensor p;          /* [T, n]: softmax over the experts */
  lk_tensor chosen;     /* [T, k], i64: experts of each token, most probable first, ties by number; k = n: nil */
  lk_tensor index;      /* [T k], i64: tokens, by expert and then in order; k = n: nil, every expert gets every token */
  lk_tensor gate;       /* [T k, 1]: their gates; k = n: p */
  const int64_t *first; /* expert i has first[i] .. first[i + 1] - 1 of them; until the router's next pass */
  lk_view shape;        /* of x */
  int64_t out;
} lk_routing;

/* p = softmax(x W_g^T) for tokens x [..., in], chosen and gates from p.  x is to be what the layer gets, undropped.  A
 * side input "<site>.jitter" (x's shape) replaces the draw of the jitter.  Counts the load, and notes the balance loss
 *
 *   L_bal = n sum over experts of f_i P_i,   f_i: fraction of the tokens that go to i (a constant), P_i: mean of p_i
 *
 * over the tokens for which the side input "token_mask" (x's shape without its last axis; if there is one) is not 0.
 * LK_ENONFINITE when a probability is no number. */
LK_API lk_status lk_route(lk_at *at, lk_tape *t, lk_tensor x, lk_routing *to);

/* The hook loss: the mean of what the sites noted in this pass, each times its `balance`; nil: nothing was. */
LK_API lk_tensor lk_router_loss(lk_method *m, lk_tape *t);
/* The hook notes: "load of 4 experts: 31 25 24 20 % ...", percentages of all that was routed since attaching. */
LK_API char *lk_router_notes(lk_method *m);
/* Tokens (padding left out) that each expert of a site has got, in training and evaluation, since attaching or since
 * lk_router_forget: [n], *n set unless NULL; NULL for an adapter without router. */
LK_API const int64_t *lk_router_load(const lk_at *at, int *n);
LK_API void lk_router_forget(lk_at *at);

/* ---- dispatch ---- */

/* x [..., c] as rows [T, c]. */
LK_API lk_tensor lk_routing_rows(lk_tape *t, const lk_routing *to, lk_tensor x);
/* Rows [T, out] that experts add to in place: those of y, or zeros where y is nil. */
LK_API lk_tensor lk_routing_sum(lk_tape *t, const lk_routing *to, lk_tensor y);
/* [T, out] with the axes of x again. */
LK_API lk_tensor lk_routing_shaped(lk_tape *t, const lk_routing *to, lk_tensor y);

/* An expert's share. */
typedef struct lk_expert {
  int64_t n;       /* tokens */
  lk_tensor index; /* which, [n]; nil: all */
  lk_tensor gate;  /* [n, 1] */
} lk_expert;

/* Expert i's share; 0 when it has no token (or after an error): then there is nothing to compute. */
LK_API int lk_routing_expert(lk_tape *t, const lk_routing *to, int i, lk_expert *e);
/* Its rows of x [T, c]. */
LK_API lk_tensor lk_expert_take(lk_tape *t, const lk_expert *e, lk_tensor x);
/* y [T, out] plus, in its rows, gate d: d [n, out].  In place. */
LK_API lk_tensor lk_expert_add(lk_tape *t, const lk_expert *e, lk_tensor y, lk_tensor d);
/* y [T, out] plus, in its rows, s gate h B^T: h [n, r], B [out, r]; the gate is put on h.  In place. */
LK_API lk_tensor lk_expert_add_product(lk_tape *t, const lk_expert *e, lk_tensor y, lk_tensor h, lk_tensor B, double s);
/* Part i of a stacked parameter [n, ...], as a view. */
LK_API lk_tensor lk_expert_part(lk_tape *t, lk_param *stacked, int i);

/* ---- MALoRA ---- */

/* The initialisation of MALoRA (arXiv 2410.22782, equations 8-10) from matrices K [n + 1, d, in] = U S V:
 * S_A [d, in] = beta V_0 and P_i [R, d] = (first R rows of U_i S_i) / beta, P [n, R, d].  In double, then rounded. */
LK_API lk_status lk_malora_init(lk_ctx *ctx, const lk_view *K, double beta, lk_view *S_A, lk_view *P);

#ifdef __cplusplus
}
#endif
#endif
