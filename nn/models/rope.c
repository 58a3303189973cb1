/* rope.c: the angles of rotary position embeddings: position times f_i, f_i = theta^(-2 i / d), and the ways in which the
 * f_i are changed for rows longer than in pretraining (transformers/modeling_rope_utils.py):
 *
 *   linear   f_i / factor
 *   dynamic  theta grows with the length of the row ("NTK-aware")
 *   llama3   long waves / factor, short ones as they are, those between mixed
 *   yarn     the same by number of turns (Peng et al., arXiv 2309.00071), and all cosines and sines larger */
#include "models/rope.h"

#include <math.h>
#include <string.h>

static const char *const kinds[] = {"default", "linear", "dynamic", "llama3", "yarn"};
enum { KINDS = sizeof kinds / sizeof *kinds };
static const double pi = 3.14159265358979323846;

/* ---- reading ---- */

/* A positive number of the object; where it is missing: `otherwise`, or an error if that is 0. */
static double number(lk_pretrained *p, const lk_json *j, const char *key, double otherwise) {
  double value = lk_json_real(p->ctx, j, key, otherwise);
  if (!lk_error(p->ctx, NULL) && !(value > 0 && isfinite(value)))
    lk_fail(p->ctx, LK_EFORMAT, "rope_parameters: %s is %g, should be above 0", key, value);
  return value;
}

static double mscale(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

/* The frequency that turns so many times in a row of pretraining. */
static double dimension_of(const lk_rope *r, double turns) {
  return (double)r->width * log(r->original / (turns * 2 * pi)) / (2 * log(r->theta));
}

static void read_yarn(lk_pretrained *p, const lk_json *j, lk_rope *r) {
  double fast = number(p, j, "beta_fast", 32), slow = number(p, j, "beta_slow", 1);
  double m = lk_json_real(p->ctx, j, "mscale", 0), all = lk_json_real(p->ctx, j, "mscale_all_dim", 0);
  double usual = m != 0 && all != 0 ? mscale(r->factor, m) / mscale(r->factor, all) : mscale(r->factor, 1);
  r->scale = number(p, j, "attention_factor", usual);
  if (!(r->theta > 1)) lk_fail(p->ctx, LK_EFORMAT, "rope_parameters: rope_theta is %g, should be above 1", r->theta);
  r->low = dimension_of(r, fast);
  r->high = dimension_of(r, slow);
  if (lk_json_bool(p->ctx, j, "truncate", 1)) {
    r->low = floor(r->low);
    r->high = ceil(r->high);
  }
  r->low = fmax(r->low, 0);
  r->high = fmin(r->high, (double)r->width - 1);
  if (r->low == r->high) r->high += 0.001;
}

lk_status lk_rope_read(lk_pretrained *p, int64_t width, lk_rope *r) {
  lk_ctx *c = p->ctx;
  const lk_json *j = lk_json_get(p->config, "rope_parameters"), *old = lk_json_get(p->config, "rope_scaling");
  if (lk_json_type(j) <= LK_JSON_NULL) j = old;
  *r = (lk_rope){.width = width, .scale = 1};
  if (lk_json_type(j) > LK_JSON_NULL && lk_json_type(j) != LK_JSON_OBJECT)
    return lk_fail(c, LK_EFORMAT, "rope_parameters should be an object, not %s", lk_json_kind_name(lk_json_type(j)));
  const char *kind = lk_json_string(c, j, "rope_type", lk_json_string(c, j, "type", "default"));
  int k = 0;
  while (k < KINDS && strcmp(kinds[k], kind)) k++;
  r->kind = (lk_rope_kind)k;
  if (!lk_error(c, NULL) && k == KINDS)
    return lk_fail(c, LK_EFORMAT, "rope_type '%.40s' is not supported; default, linear, dynamic, llama3 and yarn are",
                   kind);
  r->theta = number(p, j, "rope_theta", lk_config_real(p, "rope_theta", 10000, 1e-9, 1e30));
  if (lk_json_real(c, j, "partial_rotary_factor", lk_config_real(p, "partial_rotary_factor", 1, 0, 1)) != 1)
    return lk_fail(c, LK_EFORMAT, "partial_rotary_factor other than 1 is not supported");
  if (width % 2) return lk_fail(c, LK_EFORMAT, "head_dim %lld is odd, and is turned in pairs", (long long)width);
  double original = lk_config_real(p, "original_max_position_embeddings", (double)p->most_tokens, 1, 1e15);
  if (r->kind != LK_ROPE_DEFAULT) r->factor = number(p, j, "factor", 0);
  r->original = number(p, j, "original_max_position_embeddings", original);
  if (r->kind == LK_ROPE_DYNAMIC) r->original = (double)p->most_tokens;
  if (r->kind == LK_ROPE_LLAMA3) {
    r->low = number(p, j, "low_freq_factor", 0);
    r->high = number(p, j, "high_freq_factor", 0);
    if (!lk_error(c, NULL) && r->high <= r->low)
      lk_fail(c, LK_EFORMAT, "rope_parameters: high_freq_factor %g should be above low_freq_factor %g", r->high,
              r->low);
  }
  if (r->kind == LK_ROPE_YARN) read_yarn(p, j, r);
  return lk_error(c, NULL);
}

/* ---- angles ---- */

/* From `plain`, the unchanged frequency, by how many waves a row of pretraining had. */
static double llama3(const lk_rope *r, double plain) {
  double waves = r->original * plain / (2 * pi);
  if (waves > r->high) return plain;
  if (waves < r->low) return plain / r->factor;
  double smooth = (waves - r->low) / (r->high - r->low);
  return (1 - smooth) * plain / r->factor + smooth * plain;
}

static double frequency(const lk_rope *r, int64_t i, int64_t length) {
  double d = (double)r->width, theta = r->theta;
  if (r->kind == LK_ROPE_DYNAMIC && (double)length > r->original)
    theta *= pow(r->factor * (double)length / r->original - (r->factor - 1), d / (d - 2));
  double plain = pow(theta, -2 * (double)i / d), ramp;
  switch (r->kind) {
  case LK_ROPE_LINEAR:
    return plain / r->factor;
  case LK_ROPE_LLAMA3:
    return llama3(r, plain);
  case LK_ROPE_YARN:
    ramp = fmin(fmax(((double)i - r->low) / (r->high - r->low), 0), 1);
    return plain / r->factor * ramp + plain * (1 - ramp);
  default:
    return plain;
  }
}

lk_tensor lk_rope_table(const lk_rope *r, lk_tape *t, lk_dtype dtype, int64_t first, int64_t T) {
  lk_view v;
  int64_t half = r->width / 2;
  lk_tensor table = lk_input(t, dtype, 2, (int64_t[]){T, r->width}, NULL);
  if (lk_get(t, table, &v)) return lk_nil();
  for (int64_t i = 0; i < half; i++) {
    double f = frequency(r, i, first + T);
    for (int64_t k = 0; k < T; k++) {
      double angle = (double)(first + k) * f;
      lk_view_set(&v, k * r->width + i, r->scale * cos(angle));
      lk_view_set(&v, k * r->width + half + i, r->scale * sin(angle));
    }
  }
  return table;
}
