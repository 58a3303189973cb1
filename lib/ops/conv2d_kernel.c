/* conv2d_kernel.c: between images and the matrix of the pixels that kernels meet. */
#include "conv2d_kernel.h"

#include "real.h"

#include <string.h>

/* A run of result pixels in one row, under one element of the kernel. */
typedef struct run {
  int64_t length;   /* pixels */
  int64_t from, to; /* those of them that fall into the image */
  int64_t offset;   /* of the first pixel's place, in elements of the image; meaningful between from and to */
  int64_t step;
} run;

static int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
static int64_t ceil_div(int64_t a, int64_t b) { return a > 0 ? (a - 1) / b + 1 : -(-a / b); }

/* The run that begins at result pixel p, at most to p1; row k of the matrix. */
static run run_at(const lk_conv *s, const lk_view *x, const lk_patch *q, int64_t k, int64_t p) {
  int64_t i = k / s->kw % s->kh, j = k % s->kw, channel = q->group * s->cin + k / (s->kw * s->kh);
  int64_t py = p / s->yw, px = p % s->yw, sx = s->o.stride[1];
  int64_t row = py * s->o.stride[0] - s->o.padding[0] + i * s->o.dilation[0];
  int64_t col = px * sx - s->o.padding[1] + j * s->o.dilation[1];
  run r = {.length = s->yw - px, .step = sx * x->stride[3]};
  if (r.length > q->p1 - p) r.length = q->p1 - p;
  if (row < 0 || row >= s->h) return r;
  r.from = clamp(ceil_div(-col, sx), 0, r.length);
  r.to = clamp(ceil_div(s->w - col, sx), r.from, r.length);
  r.offset = q->sample * x->stride[0] + channel * x->stride[1] + row * x->stride[2] + col * x->stride[3];
  return r;
}

void lk_im2col(const lk_conv *s, const lk_view *x, const lk_patch *q, void *cols) {
  LK_REAL(x->dtype, {
    for (int64_t k = q->k0; k < q->k1; k++) {
      R *to = (R *)cols + (k - q->k0) * q->ks;
      for (int64_t p = q->p0; p < q->p1;) {
        run r = run_at(s, x, q, k, p);
        const R *from = (const R *)x->p + r.offset;
        for (int64_t e = 0; e < r.from; e++) to[e * q->ps] = 0;
        if (r.step == 1 && q->ps == 1 && r.to > r.from)
          memcpy(to + r.from, from + r.from, (size_t)(r.to - r.from) * sizeof(R));
        else
          for (int64_t e = r.from; e < r.to; e++) to[e * q->ps] = from[e * r.step];
        for (int64_t e = r.to; e < r.length; e++) to[e * q->ps] = 0;
        to += r.length * q->ps;
        p += r.length;
      }
    }
  });
}

void lk_col2im(const lk_conv *s, const lk_view *gx, const lk_patch *q, const void *cols) {
  LK_REAL(gx->dtype, {
    for (int64_t k = q->k0; k < q->k1; k++) {
      const R *from = (const R *)cols + (k - q->k0) * q->ks;
      for (int64_t p = q->p0; p < q->p1;) {
        run r = run_at(s, gx, q, k, p);
        R *to = (R *)gx->p + r.offset;
        for (int64_t e = r.from; e < r.to; e++) to[e * r.step] += from[e * q->ps];
        from += r.length * q->ps;
        p += r.length;
      }
    }
  });
}
