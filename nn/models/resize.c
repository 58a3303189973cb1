/* resize.c: another number of tokens: the embedding's rows, the head's outputs. */
#include "models/family.h"

#include <string.h>

/* The mean of the first n numbers that stand `step` apart, the first one at `from`. */
static double mean(const lk_view *v, int64_t from, int64_t step, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += lk_view_get(v, from + i * step);
  return sum / (double)n;
}

/* q becomes [n, ...]: its first rows, behind them their mean; new biases are 0. */
static lk_status resize(lk_param *q, int64_t n) {
  lk_view old = q->value, v = old;
  int64_t shape[LK_MAXDIM], rows = old.shape[0], width = lk_view_count(&old) / rows, kept = n < rows ? n : rows;
  memcpy(shape, old.shape, sizeof shape);
  shape[0] = n;
  lk_view_init(&v, old.dtype, old.ndim, shape);
  v.p = old.p && !q->alias ? lk_alloc(q->ctx, lk_view_bytes(&v)) : NULL;
  if (lk_error(q->ctx, NULL)) return lk_error(q->ctx, NULL);
  if (v.p) memcpy(v.p, old.p, (size_t)kept * (lk_view_bytes(&old) / (size_t)rows));
  for (int64_t j = 0; v.p && n > rows && j < width; j++) {
    double usual = old.ndim > 1 ? mean(&old, j, width, rows) : 0;
    for (int64_t i = rows; i < n; i++) lk_view_set(&v, i * width + j, usual);
  }
  if (q->owned) lk_free(q->ctx, old.p);
  lk_free(q->ctx, q->grad);
  q->grad = NULL;
  q->has_grad = 0;
  q->value = v;
  q->owned = v.p != NULL;
  lk_param_touch(q);
  return LK_OK;
}

static lk_status check(const lk_pretrained *p, int64_t n) {
  const lk_model *m = p->model;
  if (lk_error(p->ctx, NULL)) return lk_error(p->ctx, NULL);
  if (n < 1 || n > 1 << 28)
    return lk_fail(p->ctx, LK_EARG, "pretrained_resize: %lld tokens; there can be 1 to %d", (long long)n, 1 << 28);
  if (m->adapters)
    return lk_fail(p->ctx, LK_EARG, "pretrained_resize: the adapter '%s' is attached; resize before attaching",
                   m->adapters->name);
  if (p->head && p->head->module.site->coded)
    return lk_fail(p->ctx, LK_EARG, "pretrained_resize: the weight of %s is quantised", p->head->module.path);
  return LK_OK;
}

lk_status lk_pretrained_resize(lk_pretrained *p, int64_t n) {
  if (!p) return LK_ENIL;
  if (check(p, n) || n == p->vocabulary) return lk_error(p->ctx, NULL);
  lk_linear_layer *head = p->head;
  if (resize(p->words->weight, n)) return lk_error(p->ctx, NULL);
  p->words->count = p->words->module.site->in = n;
  if (head && (resize(head->weight, n) || (head->bias && resize(head->bias, n)))) return lk_error(p->ctx, NULL);
  if (head) head->out = head->module.site->out = n;
  p->vocabulary = n;
  p->model->resized[0] = p->words->weight;
  p->model->resized[1] = head ? head->weight : NULL;
  return lk_json_set_int(p->ctx, p->config, "vocab_size", n);
}
