/* conv2d.c: two-dimensional convolution (cross-correlation, as everywhere in deep learning) by matrix products. */
#include "conv2d_kernel.h"
#include "gemm.h"
#include "real.h"
#include "rows.h"

#include <lorikeet/conv.h>
#include <string.h>

#define PATCH 131072 /* elements of the pixel matrix made at a time: half of a usual second-level cache in f32 */
#define PIECES 8     /* into which a gradient is divided for threads */

typedef struct job {
  lk_call *c;
  lk_conv s;
  lk_view w;      /* [O, depth] without gaps */
  lk_view gw;     /* backward: the same */
  int64_t kb, pb; /* rows and pixels of a block */
  char *cols;     /* one block per thread */
} job;

/* ---- sizes ---- */

/* The options with their defaults, and the sizes given. */
static lk_conv options_of(const lk_call *c) {
  const lk_view *x = &c->x[0], *w = &c->x[1];
  lk_conv s = {.o = *(const lk_conv2d_options *)c->attr};
  for (int d = 0; d < 2; d++) {
    if (!s.o.stride[d]) s.o.stride[d] = 1;
    if (!s.o.dilation[d]) s.o.dilation[d] = 1;
  }
  if (!s.o.groups) s.o.groups = 1;
  s.n = x->shape[0], s.h = x->shape[2], s.w = x->shape[3];
  s.cin = w->shape[1], s.kh = w->shape[2], s.kw = w->shape[3];
  s.cout = w->shape[0] / (s.o.groups > 0 ? s.o.groups : 1);
  s.depth = s.cin * s.kh * s.kw;
  return s;
}

/* The size of the result along axis d (0 height, 1 width); 0 if the kernel does not fit. */
static int64_t result_size(const lk_conv *s, int64_t image, int64_t kernel, int d) {
  int64_t room = image + 2 * s->o.padding[d] - s->o.dilation[d] * (kernel - 1) - 1;
  return room < 0 || kernel < 1 ? 0 : room / s->o.stride[d] + 1;
}

static lk_conv sizes(const lk_call *c) {
  lk_conv s = options_of(c);
  s.yh = result_size(&s, s.h, s.kh, 0);
  s.yw = result_size(&s, s.w, s.kw, 1);
  s.pixels = s.yh * s.yw;
  return s;
}

static int refuse_options(lk_call *c, const lk_conv *s) {
  for (int d = 0; d < 2; d++)
    if (s->o.stride[d] < 1 || s->o.dilation[d] < 1 || s->o.padding[d] < 0 || s->o.stride[d] > INT32_MAX ||
        s->o.dilation[d] > INT32_MAX || s->o.padding[d] > INT32_MAX)
      return lk_op_fail(c, LK_EARG, "stride %lld, padding %lld, dilation %lld", (long long)s->o.stride[d],
                        (long long)s->o.padding[d], (long long)s->o.dilation[d]);
  if (s->o.groups < 1 || c->x[1].shape[0] % s->o.groups)
    return lk_op_fail(c, LK_EARG, "%lld kernels in %lld groups", (long long)c->x[1].shape[0], (long long)s->o.groups);
  return 0;
}

static int shape(lk_call *c) {
  const lk_view *x = &c->x[0], *w = &c->x[1];
  if (x->ndim != 4 || w->ndim != 4) return lk_op_fail(c, LK_ESHAPE, "wants x [N, C, H, W] and kernels [O, C, kh, kw]");
  lk_conv s = options_of(c);
  if (refuse_options(c, &s)) return -1;
  if (x->shape[1] != s.cin * s.o.groups)
    return lk_op_fail(c, LK_ESHAPE, "x has %lld channels, the kernels want %lld in %lld groups", (long long)x->shape[1],
                      (long long)s.cin, (long long)s.o.groups);
  if (c->nin > 2 && (c->x[2].ndim != 1 || c->x[2].shape[0] != w->shape[0]))
    return lk_op_fail(c, LK_ESHAPE, "the bias should have shape [%lld]", (long long)w->shape[0]);
  s = sizes(c);
  if (!s.yh || !s.yw) return lk_op_fail(c, LK_ESHAPE, "the kernel does not fit into the padded image");
  int64_t n[4] = {s.n, w->shape[0], s.yh, s.yw};
  return lk_view_init(c->y, x->dtype, 4, n) ? lk_op_fail(c, LK_ESHAPE, "the result is too large") : 0;
}

/* ---- kernels of one pixel: matrix products of the image as it lies ---- */

/* The batch of matrices [N, groups, rows, columns] in v. */
static lk_view grouped(const lk_view *v, int64_t n, int64_t sn, int64_t groups, int64_t rows, int64_t row_stride,
                       int64_t columns, int64_t column_stride) {
  return (lk_view){.p = v->p,
                   .dtype = v->dtype,
                   .ndim = 4,
                   .shape = {n, groups, rows, columns},
                   .stride = {sn, rows * row_stride, row_stride, column_stride}};
}

static lk_view grouped_image(const lk_view *v, const lk_conv *s, int64_t channels) {
  int64_t step = v->shape[3] > 1 || v->shape[2] == 1 ? v->stride[3] : v->stride[2];
  return grouped(v, s->n, v->stride[0], s->o.groups, channels, v->stride[1], s->pixels, step);
}

static lk_view grouped_kernel(const lk_view *v, const lk_conv *s) {
  return grouped(v, s->n, 0, s->o.groups, s->cout, v->stride[0], s->cin, v->stride[1]);
}

static int is_pointwise(const lk_conv *s, const lk_view *x) {
  int whole = s->h == 1 || s->w == 1 || x->stride[2] == s->w * x->stride[3];
  return whole && s->kh * s->kw == 1 && s->o.stride[0] * s->o.stride[1] == 1 && !s->o.padding[0] && !s->o.padding[1];
}

static void pointwise_forward(lk_call *c, const lk_conv *s) {
  lk_view x = grouped_image(&c->x[0], s, s->cin), y = grouped_image(c->y, s, s->cout);
  lk_gemm_batched(c, grouped_kernel(&c->x[1], s), x, 1, c->nin > 2 ? 1 : 0, y);
}

static void pointwise_backward(lk_call *c, const lk_conv *s) {
  lk_view gy = grouped_image(c->gy, s, s->cout);
  if (c->gx[0].p) {
    lk_view w = lk_gemm_transpose(grouped_kernel(&c->x[1], s));
    lk_gemm_batched(c, w, gy, 1, 1, grouped_image(&c->gx[0], s, s->cin));
  }
  if (c->gx[1].p) {
    lk_view x = lk_gemm_transpose(grouped_image(&c->x[0], s, s->cin));
    lk_gemm_batched(c, gy, x, 1, 1, grouped_kernel(&c->gx[1], s));
  }
}

/* ---- all others: blocks of the pixel matrix, a product each ---- */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t pieces(int64_t n, int64_t size) { return n ? (n - 1) / size + 1 : 0; }
static char *at(const lk_view *v, int64_t offset) { return (char *)v->p + offset * (int64_t)lk_dtype_size(v->dtype); }

/* Chooses blocks of kb rows and as many pixels as fit, and makes room for one in each thread. */
static int choose_block(job *j, int64_t kb) {
  int64_t fit = PATCH / (kb ? kb : 1) / 32 * 32;
  j->kb = kb;
  j->pb = least(fit < 32 ? 32 : fit, j->s.pixels);
  j->cols = lk_scratch(j->c, (size_t)(j->c->threads * kb * j->pb) * lk_dtype_size(j->c->x->dtype));
  return j->cols ? 0 : -1;
}

static void *thread_block(const job *j, int thread) {
  return j->cols + (size_t)(thread * j->kb * j->pb) * lk_dtype_size(j->c->x->dtype);
}

/* The gradient window of a repeated image is shared by samples or channels: one thread then. */
static int threads_for(const lk_call *c, const lk_view *written) {
  for (int d = 0; d < written->ndim; d++)
    if (written->shape[d] > 1 && !written->stride[d]) return 1;
  return c->threads;
}

static void run_items(job *j, int64_t n, double work, int threads, void (*body)(void *, int64_t, int64_t, int)) {
  double grain = n && work > 0 ? 2e5 / (work / (double)n) : 1;
  lk_count_flops(j->c, 2 * work);
  lk_parallel(threads, n, grain < 1 ? 1 : least((int64_t)grain, n), body, j);
}

/* Item: a block of pixels of one group of one sample. */
static void forward_items(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_conv *s = &j->s;
  const lk_view *y = j->c->y;
  int64_t blocks = pieces(s->pixels, j->pb);
  void *cols = thread_block(j, thread);
  for (int64_t i = from; i < to; i++) {
    lk_patch q = {.sample = i / blocks / s->o.groups, .group = i / blocks % s->o.groups, .k1 = s->depth, .ps = 1};
    q.p0 = i % blocks * j->pb;
    q.p1 = least(q.p0 + j->pb, s->pixels);
    q.ks = q.p1 - q.p0;
    lk_im2col(s, &j->c->x[0], &q, cols);
    int64_t o = q.group * s->cout;
    lk_gemm_raw(y->dtype, s->cout, q.ks, s->depth, 1, at(&j->w, o * s->depth), s->depth, 1, cols, q.ks, 1,
                j->c->nin > 2 ? 1 : 0, at(y, (q.sample * s->o.groups * s->cout + o) * s->pixels + q.p0), s->pixels, 1);
  }
}

/* Item: some rows of the pixel matrix, whole channels, of one group of one sample; all pixels in turn. */
static void image_items(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_conv *s = &j->s;
  const lk_view *gy = j->c->gy;
  int64_t blocks = pieces(s->depth, j->kb);
  void *cols = thread_block(j, thread);
  for (int64_t i = from; i < to; i++) {
    lk_patch q = {.sample = i / blocks / s->o.groups, .group = i / blocks % s->o.groups, .ps = 1};
    int64_t o = q.group * s->cout;
    q.k0 = i % blocks * j->kb;
    q.k1 = least(q.k0 + j->kb, s->depth);
    for (q.p0 = 0; q.p0 < s->pixels; q.p0 = q.p1) {
      q.p1 = least(q.p0 + j->pb, s->pixels);
      q.ks = q.p1 - q.p0;
      lk_gemm_raw(gy->dtype, q.k1 - q.k0, q.ks, s->cout, 1, at(&j->w, o * s->depth + q.k0), 1, s->depth,
                  at(gy, (q.sample * s->o.groups * s->cout + o) * s->pixels + q.p0), s->pixels, 1, 0, cols, q.ks, 1);
      lk_col2im(s, &j->c->gx[0], &q, cols);
    }
  }
}

/* Item: some columns of one group of the kernels' gradient [O, depth]; all samples and pixels in turn. */
static void kernel_items(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_conv *s = &j->s;
  const lk_view *gy = j->c->gy;
  int64_t blocks = pieces(s->depth, j->kb);
  void *cols = thread_block(j, thread);
  for (int64_t i = from; i < to; i++) {
    lk_patch q = {.group = i / blocks, .ks = 1};
    int64_t o = q.group * s->cout;
    q.k0 = i % blocks * j->kb;
    q.k1 = least(q.k0 + j->kb, s->depth);
    q.ps = q.k1 - q.k0;
    for (int64_t b = 0; b < s->n * pieces(s->pixels, j->pb); b++) {
      q.sample = b / pieces(s->pixels, j->pb);
      q.p0 = b % pieces(s->pixels, j->pb) * j->pb;
      q.p1 = least(q.p0 + j->pb, s->pixels);
      lk_im2col(s, &j->c->x[0], &q, cols);
      lk_gemm_raw(gy->dtype, s->cout, q.ps, q.p1 - q.p0, 1,
                  at(gy, (q.sample * s->o.groups * s->cout + o) * s->pixels + q.p0), s->pixels, 1, cols, q.ps, 1, 1,
                  at(&j->gw, o * s->depth + q.k0), s->depth, 1);
    }
  }
}

/* v as [O, depth] without gaps: itself, or in scratch memory, where it is copied or zero. */
static int without_gaps(lk_call *c, const lk_view *v, int copy, lk_view *r) {
  *r = *v;
  if (!v->p || lk_view_contiguous(v)) return 0;
  lk_view_init(r, v->dtype, v->ndim, v->shape);
  r->p = lk_scratch(c, lk_view_bytes(r));
  if (!r->p) return -1;
  if (copy) lk_view_copy(r, v);
  else memset(r->p, 0, lk_view_bytes(r));
  return 0;
}

static double work_of(const lk_conv *s) {
  return (double)s->n * (double)s->pixels * (double)s->depth * (double)s->cout * (double)s->o.groups;
}

static int image_gradient(job *j) {
  const lk_conv *s = &j->s;
  int64_t images = s->n * s->o.groups, share = images > 0 ? pieces(PIECES, images) : 1; /* blocks of channels of each */
  int64_t channels = pieces(s->cin, s->cin > share ? share : s->cin);
  if (choose_block(j, channels * s->kh * s->kw)) return -1;
  run_items(j, s->n * s->o.groups * pieces(s->depth, j->kb), work_of(s), threads_for(j->c, &j->c->gx[0]), image_items);
  return 0;
}

static int kernel_gradient(job *j) {
  const lk_conv *s = &j->s;
  int64_t rows = pieces(pieces(s->depth, PIECES), 16) * 16;
  if (without_gaps(j->c, &j->c->gx[1], 0, &j->gw) || choose_block(j, least(rows, s->depth))) return -1;
  run_items(j, s->o.groups * pieces(s->depth, j->kb), work_of(s), j->c->threads, kernel_items);
  if (j->gw.p != j->c->gx[1].p) lk_view_add(&j->c->gx[1], &j->gw, 1);
  return 0;
}

/* ---- the bias ---- */

static void copy_bias(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  const lk_view *b = &c->x[2];
  int64_t pixels = c->y->shape[2] * c->y->shape[3];
  (void)thread;
  LK_REAL(b->dtype, {
    for (int64_t i = from; i < to; i++) {
      R bias = ((const R *)b->p)[i % b->shape[0] * b->stride[0]];
      R *y = (R *)c->y->p + i * pixels;
      for (int64_t p = 0; p < pixels; p++) y[p] = bias;
    }
  });
}

static LK_CLONES void sum_planes(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  const lk_view *gy = c->gy, *gb = &c->gx[2];
  int64_t pixels = gy->shape[2] * gy->shape[3];
  (void)thread;
  LK_REAL(gy->dtype, {
    for (int64_t o = from; o < to; o++) {
      R total = 0;
      for (int64_t n = 0; n < gy->shape[0]; n++) {
        const R *g = (const R *)gy->p + (n * gy->shape[1] + o) * pixels;
        R sum;
        LK_ROW_SUM(R, sum, p, pixels, g[p]);
        total += sum;
      }
      ((R *)gb->p)[o * gb->stride[0]] += total;
    }
  });
}

/* ---- the op ---- */

static int fwd(lk_call *c) {
  job j = {.c = c, .s = sizes(c)};
  const lk_conv *s = &j.s;
  if (c->nin > 2) lk_parallel(c->threads, s->n * c->y->shape[1], lk_row_grain(s->pixels), copy_bias, c);
  if (is_pointwise(s, &c->x[0])) {
    pointwise_forward(c, s);
    return 0;
  }
  if (without_gaps(c, &c->x[1], 1, &j.w) || choose_block(&j, s->depth)) return -1;
  run_items(&j, s->n * s->o.groups * pieces(s->pixels, j.pb), work_of(s), c->threads, forward_items);
  return 0;
}

static int bwd(lk_call *c) {
  job j = {.c = c, .s = sizes(c)};
  if (c->nin > 2 && c->gx[2].p) {
    int64_t grain = lk_row_grain(j.s.n * j.s.pixels);
    lk_parallel(threads_for(c, &c->gx[2]), c->y->shape[1], grain, sum_planes, c);
  }
  if (is_pointwise(&j.s, &c->x[0])) {
    pointwise_backward(c, &j.s);
    return 0;
  }
  if (c->gx[0].p && (without_gaps(c, &c->x[1], 1, &j.w) || image_gradient(&j))) return -1;
  return c->gx[1].p ? kernel_gradient(&j) : 0;
}

static uint32_t reads(const lk_call *c) {
  return (c->want & LK_X(0) ? LK_X(1) : 0) | (c->want & LK_X(1) ? LK_X(0) : 0);
}

static const lk_conv2d_options plain = {.groups = 1}, strided = {{2, 3}, {1, 2}, {1, 1}, 1},
                               dilated = {{1, 2}, {2, 1}, {2, 3}, 1}, grouped2 = {{1, 1}, {1, 1}, {1, 1}, 2},
                               depthwise = {{2, 1}, {1, 1}, {1, 2}, 3}, patches = {{2, 2}, {0, 0}, {1, 1}, 1};
static const lk_case cases[] = {{"2x3x5x4 2x3x3x2 2", &plain, -1, 1, 0},
                                {"2x2x5x7 3x2x3x3", &strided, -1, 1, 0},
                                {"1x2x6x7 2x2x2x3 2", &dilated, -1, 1, 0},
                                {"2x4x3x4 4x2x3x3 4", &grouped2, -1, 1, 0},
                                {"2x3x4x5 6x1x3x2 6", &depthwise, -1, 1, 0},
                                {"2x3x4x6 5x3x2x2 5", &patches, -1, 1, 0},
                                {"2x3x2x3 4x3x1x1 4", &plain, -1, 1, 0},
                                {"2x4x3x1 2x2x1x1", &grouped2, -1, 1, 0},
                                {"2x4x3x2 4x2x1x1 4", &(lk_conv2d_options){.groups = 2}, -1, 1, 0},
                                {"1x1x9x8 3x1x2x2 3", &plain, -1, 1, 0},

                                {0}};
const lk_op lk_op_conv2d = {.name = "conv2d",
                            .nin = 3,
                            .optional = 1,
                            .attr_size = sizeof(lk_conv2d_options),
                            .shape = shape,
                            .fwd = fwd,
                            .bwd = bwd,
                            .reads = reads,
                            .cases = cases};

/* y[n, o] = b[o] + sum over c of W[o, c] * x[n, c]: x [N, C, H, W], W [O, C/groups, kh, kw], b [O] or nil,
 * y [N, O, (H + 2 padding - dilation (kh - 1) - 1) / stride + 1, the same in width]; options NULL: the defaults.
 * f32 or f64; all inputs are differentiable. */
LK_OP lk_tensor lk_conv2d(lk_tape *t, lk_tensor x, lk_tensor W, lk_tensor b, const lk_conv2d_options *options) {
  return lk_apply(t, &lk_op_conv2d, 3, (lk_tensor[]){x, W, b}, options ? options : &plain);
}
