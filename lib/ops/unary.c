/* unary.c: elementwise operators of one input, one line each. */
#include "map.h"

/* ---- what the lines below need besides real.h; f32 without calls, so that the loops vectorise ---- */

/* What takes more than one expression, once for each type. */
#define FUNCTIONS(R, type)                                                                                             \
  LK_INLINE R phi_##type(R x) {                                                                                        \
    R e;                                                                                                               \
    return RPHI(x, &e);                                                                                                \
  }                                                                                                                    \
  /* (x Phi(x))' = Phi(x) + x exp(-x^2/2) / sqrt(2 pi) */                                                              \
  LK_INLINE R gelu_slope_##type(R x) {                                                                                 \
    R e, phi = RPHI(x, &e);                                                                                            \
    return phi + x * e * (R)0.39894228040143267794;                                                                    \
  }                                                                                                                    \
  LK_INLINE R sigmoid_##type(R x) { return 1 / (1 + REXP(-x)); }                                                       \
  LK_INLINE R swish_slope_##type(R x, R beta) {                                                                        \
    R s = sigmoid_##type(beta * x);                                                                                    \
    return s * (1 + beta * x * (1 - s));                                                                               \
  }                                                                                                                    \
  /* tanh(k (x + 0.044715 x^3)), in gelu_tanh and gelu_fast. */                                                        \
  LK_INLINE R gelu_tanh_##type(R x, R k) { return RTANH(x * (1 + (R)0.044715 * x * x) * k); }                          \
  LK_INLINE R gelu_tanh_slope_##type(R x, R k) {                                                                       \
    R t = gelu_tanh_##type(x, k);                                                                                      \
    R slope = (1 + 3 * (R)0.044715 * x * x) * k;                                                                       \
    return (R)0.5 * (1 + t + x * (1 - t * t) * slope);                                                                 \
  }                                                                                                                    \
  LK_INLINE R softplus_##type(R x) { return (x > 0 ? x : 0) + RLOG1P(REXP(x > 0 ? -x : x)); }                          \
  /* tanh(ln(1 + e)) = e (e + 2) / (e (e + 2) + 2), e = exp(x); 1 to rounding from 20 on */                            \
  LK_INLINE R mish_tanh_##type(R x) {                                                                                  \
    R e = REXP(x > 20 ? 20 : x), a = e * (e + 2);                                                                      \
    return a / (a + 2);                                                                                                \
  }                                                                                                                    \
  LK_INLINE R mish_slope_##type(R x) {                                                                                 \
    R t = mish_tanh_##type(x);                                                                                         \
    return t + x * (1 - t * t) * sigmoid_##type(x);                                                                    \
  }
FUNCTIONS(float, f32)
FUNCTIONS(double, f64)

#define OF(name, x) _Generic((x), float : name##_f32, double : name##_f64)
#define PHI(x) OF(phi, x)(x)
#define SIGMOID(x) OF(sigmoid, x)(x)
#define SWISH_SLOPE(x, beta) OF(swish_slope, x)(x, beta)
#define GELU_TANH(x, k) OF(gelu_tanh, x)(x, k)
#define GELU_TANH_SLOPE(x, k) OF(gelu_tanh_slope, x)(x, k)
#define AT_MOST_10(y) ((y) > 10 ? 10 : (y))
#define K (R)0.79788456080286535588 /* sqrt(2 / pi) */
#define K_FAST (R)0.7978845608

/* ---- the machinery: run 0 is gy in backward, run 1 what the derivative reads ---- */

#define READS_0 0
#define READS_X LK_X(0)
#define READS_Y LK_Y
#define LOAD_0
#define LOAD_X const R x = LK_IN(1);
#define LOAD_Y const R y = LK_IN(1);

static int map_back(lk_call *c, lk_kernel kernel, uint32_t reads) {
  lk_map_job job = lk_map_grad(c, 0, kernel);
  job.in[0] = c->gy;
  if (reads) job.in[1] = reads == LK_Y ? c->y : &c->x[0];
  return lk_map(c, &job);
}

#define LK_UNARY(id, f, df, from, lo, hi)                                                                              \
  LK_KERNEL(map_##id, const R x = LK_IN(0); o[i] = (R)(f);)                                                            \
  LK_KERNEL(grad_##id, LOAD_##from o[i] = LK_IN(0) * (R)(df);)                                                         \
  static int fwd_##id(lk_call *c) {                                                                                    \
    return lk_map(c, &(lk_map_job){.out = *c->y, .in = {&c->x[0]}, .kernel = map_##id});                               \
  }                                                                                                                    \
  static int bwd_##id(lk_call *c) { return map_back(c, grad_##id, READS_##from); }                                     \
  static uint32_t reads_##id(const lk_call *c) {                                                                       \
    (void)c;                                                                                                           \
    return READS_##from;                                                                                               \
  }                                                                                                                    \
  static const lk_case cases_##id[] = {                                                                                \
      {"-", NULL, lo, hi, 0}, {"7", NULL, lo, hi, 0}, {"3x1x5", NULL, lo, hi, 0}, {0}};                                \
  const lk_op lk_op_##id = {.name = #id,                                                                               \
                            .nin = 1,                                                                                  \
                            .flags = LK_OP_ELEMENTWISE | LK_OP_FRESH | LK_OP_CHEAP | LK_OP_REUSE,                      \
                            .fwd = fwd_##id,                                                                           \
                            .bwd = bwd_##id,                                                                           \
                            .reads = reads_##id,                                                                       \
                            .cases = cases_##id};                                                                      \
  LK_OP lk_tensor lk_##id(lk_tape *t, lk_tensor x) { return lk_apply(t, &lk_op_##id, 1, &x, NULL); }

/* LK_UNARY(name, y of x, dy/dx of x or y, which of them that reads, domain of the test cases).
 * Where the derivative jumps it is PyTorch's: 0 at the kinks of abs, relu and relu6.  NaN stays NaN. */
/* clang-format off */

LK_UNARY(neg,        -x,                                       -1,                              0, -2, 2)
LK_UNARY(abs,        RABS(x),                                  x > 0 ? 1 : x < 0 ? -1 : 0,      X, -2, 2)
LK_UNARY(exp,        REXP(x),                                  y,                               Y, -2, 2)
LK_UNARY(log,        RLOG(x),                                   1 / x,                           X, 0.3, 3)
LK_UNARY(sqrt,       RSQRT(x),                                 (R)0.5 / y,                      Y, 0.3, 3)
LK_UNARY(rsqrt,      1 / RSQRT(x),                             (R)-0.5 * y * y * y,             Y, 0.3, 3)
LK_UNARY(sin,        RSIN(x),                                  RCOS(x),                         X, -4, 4)
LK_UNARY(cos,        RCOS(x),                                  -RSIN(x),                        X, -4, 4)
LK_UNARY(tanh,       RTANH(x),                                 1 - y * y,                       Y, -2, 2)
LK_UNARY(sigmoid,    SIGMOID(x),                               y * (1 - y),                     Y, -4, 4)
LK_UNARY(relu,       x < 0 ? 0 : x,                            y <= 0 ? 0 : 1,                  Y, -2, 2)
LK_UNARY(relu6,      x < 0 ? 0 : x > 6 ? 6 : x,                ((y > 0) & (y < 6)) ? 1 : 0,     Y, -8, 14)
/* y = max(x, 0)^2 (So et al., Primer, 2021). */
LK_UNARY(relu2,      x < 0 ? 0 : x * x,                        x < 0 ? 0 : 2 * x,               X, -2, 2)
/* y = x / (1 + exp(-x)), also called swish (Ramachandran et al., 2017). */
LK_UNARY(silu,       x * SIGMOID(x),                           SWISH_SLOPE(x, 1),               X, -4, 4)
/* y = x tanh(ln(1 + exp(x))) (Misra, 2019). */
LK_UNARY(mish,       x * OF(mish_tanh, x)(x),                  OF(mish_slope, x)(x),            X, -4, 4)
/* y = ln(1 + exp(x)). */
LK_UNARY(softplus,   OF(softplus, x)(x),                       SIGMOID(x),                      X, -4, 4)
/* y = x Phi(x), Phi the standard normal distribution function (Hendrycks and Gimpel, 2016). */
LK_UNARY(gelu,       x * PHI(x),                               OF(gelu_slope, x)(x),            X, -4, 4)
/* y = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the approximation of gelu in GPT-2. */
LK_UNARY(gelu_tanh,  (R)0.5 * x * (1 + GELU_TANH(x, K)),       GELU_TANH_SLOPE(x, K),           X, -4, 4)
/* gelu_tanh with 0.7978845608 for sqrt(2 / pi): "gelu_fast" in transformers. */
LK_UNARY(gelu_fast,  (R)0.5 * x * (1 + GELU_TANH(x, K_FAST)),  GELU_TANH_SLOPE(x, K_FAST),      X, -4, 4)
/* y = min(gelu(x), 10); gelu never comes near -10, where transformers' "gelu_10" clips too. */
LK_UNARY(gelu_10,    AT_MOST_10(x * PHI(x)),                   x * PHI(x) > 10 ? 0 : OF(gelu_slope, x)(x), X, -4, 14)
/* y = x / (1 + exp(-1.702 x)), the approximation of gelu in CLIP. */
LK_UNARY(gelu_quick, x * SIGMOID((R)1.702 * x),                SWISH_SLOPE(x, (R)1.702),        X, -4, 4)
/* The standard normal distribution function, Phi(x) = (1 + erf(x / sqrt 2)) / 2. */
LK_UNARY(normal_cdf, PHI(x),                                   (R)0.39894228040143267794 * REXP((R)-0.5 * x * x), X, -4, 4)
/* clang-format on */
