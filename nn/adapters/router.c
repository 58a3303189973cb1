/* router.c: see mixture.h: which experts a token goes to, with what gates; balance loss; load of the experts.
 *
 *   p = softmax(x W_g^T),   G_i = p_i (divided by the sum of the chosen ones with renormalize) for the k largest, else 0
 *   L_bal = n sum_i f_i P_i */
#include <lorikeet/mixture.h>
#include <lorikeet/ops.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- making ---- */

lk_status lk_router_check(const lk_at *at, const lk_router_options *o) {
  const char *name = at->method->cls->name;
  if (o->k > o->n)
    return lk_fail(lk_at_ctx(at), LK_EARG, "%s: k = %d of n = %d experts at %s: there are not so many", name, o->k,
                   o->n, lk_at_path(at));
  if (o->k == 1 && o->n > 1 && o->renormalize && at->method->at[0] == at)
    lk_warn(lk_at_ctx(at), "%s: renormalize with k = 1: every gate is 1, and only the balance loss teaches the router",
            name);
  return LK_OK;
}

lk_status lk_router_attach(lk_at *at, const lk_router_options *o) {
  lk_router *r = at->st;
  lk_ctx *c = lk_at_ctx(at);
  r->o = *o;
  r->weight = lk_at_param(at, "router.weight", LK_TRAINED, 2, (int64_t[]){o->n, at->site->in});
  r->load = lk_alloc_array(c, (size_t)o->n, sizeof *r->load);
  r->first = lk_alloc_array(c, (size_t)o->n + 1, sizeof *r->first);
  if (!lk_error(c, NULL) && r->weight->value.p) lk_param_normal(r->weight, 0, 0.02);
  return lk_error(c, NULL);
}

void lk_router_free(lk_at *at) {
  lk_router *r = at->st;
  lk_free(lk_at_ctx(at), r->load);
  lk_free(lk_at_ctx(at), r->first);
}

/* ---- probabilities ---- */

static lk_tensor jittered(lk_at *at, lk_tape *t, lk_tensor x) {
  const lk_router *r = at->st;
  lk_tensor recorded = r->o.jitter > 0 && lk_is_training(t) ? lk_at_side(at, t, "jitter") : lk_nil();
  return lk_is_nil(recorded) ? lk_jitter(t, x, r->o.jitter) : lk_mul(t, x, recorded);
}

/* A NaN would go to whatever expert the comparison happens to leave. */
static lk_status check_numbers(const lk_at *at, const lk_view *p) {
  int64_t n = p->shape[1];
  for (int64_t i = 0; i < lk_view_count(p); i++)
    if (!isfinite(lk_view_get(p, i)))
      return lk_fail(lk_at_ctx(at), LK_ENONFINITE,
                     "%s: the router of %s gives token %lld no probability for expert %lld: not a finite number",
                     at->method->cls->name, lk_at_path(at), (long long)(i / n), (long long)(i % n));
  return LK_OK;
}

/* ---- who goes where ---- */

/* The index of to, and in `slots` the places of its elements in chosen: a counting sort by expert. */
static lk_status sort_by_expert(lk_tape *t, lk_routing *to, int64_t *first, int k, lk_tensor *slots) {
  lk_view chosen, index, slot;
  int64_t n = to->tokens * k;
  to->index = lk_input(t, LK_I64, 1, &n, NULL);
  *slots = lk_input(t, LK_I64, 1, &n, NULL);
  if (lk_get(t, to->chosen, &chosen) || lk_get(t, to->index, &index) || lk_get(t, *slots, &slot))
    return lk_error(lk_tape_ctx(t), NULL);
  const int64_t *expert = chosen.p;
  int64_t *token = index.p, *place = slot.p;
  memset(first, 0, ((size_t)to->n + 1) * sizeof *first);
  for (int64_t i = 0; i < n; i++) first[expert[i] + 1]++;
  for (int e = 0; e < to->n; e++) first[e + 1] += first[e];
  for (int64_t i = 0; i < n; i++) {
    int64_t at = first[expert[i]]++; /* afterwards first[e] is where e + 1 begins */
    token[at] = i / k;
    place[at] = i;
  }
  memmove(first + 1, first, (size_t)to->n * sizeof *first);
  first[0] = 0;
  return LK_OK;
}

static lk_status choose(lk_at *at, lk_tape *t, lk_routing *to) {
  static const int last = -1;
  lk_router *r = at->st;
  const int k = r->o.k;
  const int64_t slots_shape[] = {to->tokens * k}, column[] = {to->tokens * k, 1};
  lk_tensor slots;
  to->first = r->first;
  to->chosen = lk_topk(t, to->p, k, 1, 1);
  if (sort_by_expert(t, to, r->first, k, &slots)) return lk_error(lk_at_ctx(at), NULL);
  lk_tensor gates = lk_gather(t, to->p, 1, to->chosen);
  if (r->o.renormalize) gates = lk_div(t, gates, lk_sum(t, gates, 1, &last, 1));
  gates = lk_index_select(t, lk_reshape(t, gates, 1, slots_shape), 0, slots);
  to->gate = lk_reshape(t, gates, 2, column);
  return lk_error(lk_at_ctx(at), NULL);
}

/* ---- balance ---- */

/* The side input "token_mask" in v; 0: there is none, or the site sees one vector of each row, which is no padding. */
static int token_mask(lk_at *at, lk_tape *t, const lk_routing *to, lk_view *v) {
  char wanted[160], given[160];
  lk_tensor mask = lk_side_get(t, "token_mask");
  if (lk_is_nil(mask) || lk_get(t, mask, v)) return 0;
  if (lk_view_count(v) == to->tokens) return 1;
  if (v->ndim == 2 && v->shape[0] == to->tokens) return 0;
  lk_view lead = to->shape;
  lead.ndim--;
  lk_fail(lk_at_ctx(at), LK_ESHAPE, "%s at %s: token_mask has shape %s, the tokens %s", at->method->cls->name,
          lk_at_path(at), lk_view_format(v, given), lk_view_format(&lead, wanted));
  return 0;
}

/* Counts the load: counts[e] += weight of the tokens that go to e, and returns the weight of all. */
static double count(lk_tape *t, const lk_routing *to, int k, const lk_view *mask, double *counts, int64_t *load) {
  lk_view chosen = {0};
  double all = 0;
  if (!lk_is_nil(to->chosen) && lk_get(t, to->chosen, &chosen)) return 0;
  for (int64_t i = 0; i < to->tokens; i++) {
    double v = mask ? lk_view_get(mask, i) : 1;
    all += v;
    for (int j = 0; j < k && v != 0; j++) {
      int64_t e = chosen.p ? ((const int64_t *)chosen.p)[i * k + j] : j;
      counts[e] += v;
      load[e]++;
    }
  }
  return all;
}

/* Values as a constant on the tape. */
static lk_tensor constant(lk_tape *t, lk_dtype dtype, int64_t rows, int64_t cols, const double *from, double factor) {
  lk_view v;
  lk_tensor x = lk_input(t, dtype, 2, (int64_t[]){rows, cols}, NULL);
  if (lk_get(t, x, &v)) return lk_nil();
  for (int64_t i = 0; i < rows * cols; i++) lk_view_set(&v, i, factor * from[i]);
  return x;
}

/* The mask as a column. */
static lk_tensor mask_column(lk_tape *t, lk_dtype dtype, const lk_view *mask) {
  lk_view v;
  lk_tensor x = lk_input(t, dtype, 2, (int64_t[]){lk_view_count(mask), 1}, NULL);
  if (lk_get(t, x, &v)) return lk_nil();
  for (int64_t i = 0; i < lk_view_count(mask); i++) lk_view_set(&v, i, lk_view_get(mask, i));
  return x;
}

/* L_bal = sum_i sum_tokens p_i v (n f_i / sum v), f_i = counts_i / sum v */
static void note_balance(lk_at *at, lk_tape *t, const lk_routing *to) {
  const lk_router *r = at->st;
  lk_dtype dtype = lk_dtype_of(t, to->p);
  lk_view v;
  int masked = token_mask(at, t, to, &v);
  double counts[LK_MOST_EXPERTS] = {0};
  double all = count(t, to, r->o.k, masked ? &v : NULL, counts, r->load);
  if (r->o.balance > 0 && all > 0 && lk_grad_enabled(t)) {
    lk_tensor f = constant(t, dtype, 1, to->n, counts, to->n / (all * all));
    lk_tensor L = lk_linear(t, to->p, f, lk_nil());
    if (masked) L = lk_mul(t, L, mask_column(t, dtype, &v));
    lk_note(t, at, "balance", lk_sum(t, L, 0, NULL, 0));
  }
}

/* The i-th term that a site noted. */
static lk_tensor noted(lk_at *at, lk_tape *t, int i) { return lk_noted(t, at, "balance", i); }

lk_tensor lk_router_loss(lk_method *m, lk_tape *t) {
  lk_tensor sum = lk_nil(), L;
  int terms = 0;
  for (int a = 0; a < m->nat; a++)
    for (int i = 0; !lk_is_nil(noted(m->at[a], t, i)); i++) terms++;
  for (int a = 0; a < m->nat; a++)
    for (int i = 0; !lk_is_nil(L = noted(m->at[a], t, i)); i++) {
      const lk_router *r = m->at[a]->st;
      sum = lk_plus(t, sum, lk_scale(t, L, r->o.balance / terms));
    }
  return sum;
}

/* ---- routing ---- */

lk_status lk_route(lk_at *at, lk_tape *t, lk_tensor x, lk_routing *to) {
  const lk_router *r = at->st;
  lk_ctx *c = lk_at_ctx(at);
  lk_view p;
  *to = (lk_routing){.n = r->o.n, .out = at->site->out};
  if (lk_get(t, x, &to->shape)) return lk_error(c, NULL);
  if (to->shape.ndim < 1 || to->shape.shape[to->shape.ndim - 1] != at->site->in)
    return lk_fail(c, LK_ESHAPE, "%s at %s: the input should end in an axis of %lld", at->method->cls->name,
                   lk_at_path(at), (long long)at->site->in);
  to->tokens = lk_view_count(&to->shape) / at->site->in;
  lk_tensor logits = lk_linear(t, lk_routing_rows(t, to, jittered(at, t, x)), lk_use(t, r->weight), lk_nil());
  to->gate = to->p = lk_softmax(t, logits, 1);
  if (lk_get(t, to->p, &p) || check_numbers(at, &p)) return lk_error(c, NULL);
  if (r->o.k < r->o.n && choose(at, t, to)) return lk_error(c, NULL);
  note_balance(at, t, to);
  return lk_error(c, NULL);
}

/* ---- load ---- */

const int64_t *lk_router_load(const lk_at *at, int *n) {
  if (!at || at->method->cls->destroy_at != lk_router_free) return NULL;
  const lk_router *r = at->st;
  if (n) *n = r->o.n;
  return r->load;
}

void lk_router_forget(lk_at *at) {
  lk_router *r = at->st;
  if (lk_router_load(at, NULL)) memset(r->load, 0, (size_t)r->o.n * sizeof *r->load);
}

/* Sums over sites by expert; the smallest and largest share of an expert at one site, in percent. */
static int64_t total_load(const lk_method *m, int64_t sum[LK_MOST_EXPERTS], int *experts, double share[2]) {
  int64_t all = 0;
  share[0] = 100, share[1] = 0, *experts = 0;
  for (int a = 0; a < m->nat; a++) {
    const lk_router *r = m->at[a]->st;
    int64_t here = 0;
    for (int e = 0; e < r->o.n; e++) here += r->load[e];
    for (int e = 0; e < r->o.n && here; e++) {
      double percent = 100.0 * (double)r->load[e] / (double)here;
      sum[e] += r->load[e];
      share[0] = fmin(share[0], percent), share[1] = fmax(share[1], percent);
    }
    if (r->o.n > *experts) *experts = r->o.n;
    all += here;
  }
  return all;
}

char *lk_router_notes(lk_method *m) {
  enum { LISTED = 32 };
  int64_t sum[LK_MOST_EXPERTS] = {0};
  char list[LISTED * 8] = "";
  size_t used = 0;
  double share[2];
  int n;
  int64_t all = total_load(m, sum, &n, share);
  if (!all) return NULL;
  for (int e = 0; e < n && n <= LISTED; e++)
    used += (size_t)snprintf(list + used, sizeof list - used, " %.1f", 100.0 * (double)sum[e] / (double)all);
  return lk_sprintf(lk_method_ctx(m), "load of %d experts:%s%s; at one of %d layers at least %.1f, at most %.1f %%", n,
                    list, used ? " %" : "", m->nat, share[0], share[1]);
}
