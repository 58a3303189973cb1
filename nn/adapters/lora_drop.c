/* lora_drop.c: LoRA-drop: own adapters where they do much, one shared adapter per type of layer for the rest.
 *
 *   raw_i = sum over the tokens of the sampled data of |d_i(x)|^2,   d_i(x) = s B_i A_i x_i, what the adapter adds
 *   imp_i = raw_i / sum of raw_j over the sites of the same type
 *   kept: the most important ones, as few as add up to T; every other site uses the shared adapter
 *
 * Around any chain with a delta: "lora_drop T=0.9 (lora r=8)".  The program trains a little on a sample, then
 *   lk_adapter_phase(model, "importance");  forward passes over the sample, in evaluation
 *   lk_adapter_phase(model, "select");      from here a new optimiser: what is trained has changed
 * The shared adapter is that of the first dropped site; the other dropped ones are other names for it.
 *
 * Zhou et al., "LoRA-drop: Efficient LoRA Parameter Pruning based on Output Evaluation", arXiv 2402.07721. */
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>
#include <math.h>
#include <string.h>

typedef struct {
  double T;
  int keep_n, scope, reinit, train_shared;
} config;

enum { SCOPE_TYPE, SCOPE_LAYER };

/* Of a method.  By site: the sums, importances, 1 kept / 0 dropped / -1 not decided yet. */
typedef struct {
  int measuring;
  double *sum;
  lk_param *raw, *importance, *keep;
  struct inside *inside; /* every parameter of the adapters inside, site by site */
  int ninside;
} state;

struct inside {
  lk_param *param;
  int site;
  lk_param_kind kind; /* as it was made */
  void *first;        /* copy of its first values, to begin anew from, or NULL */
};

static const lk_opt opts[] = {
    {"T", LK_OPT_REAL, offsetof(config, T), 0.9, 1e-9, 1, NULL,
     "share of the importance that kept layers have together"},
    {"keep_n", LK_OPT_INT, offsetof(config, keep_n), 0, 0, 1 << 20, NULL,
     "how many of a type to keep, whatever T says; 0: as T says"},
    {"scope", LK_OPT_WORD, offsetof(config, scope), 0, 0, 0, "type|layer", "decide for each module, or whole layers"},
    {"reinit", LK_OPT_FLAG, offsetof(config, reinit), 1, 0, 1, NULL,
     "begin anew after the selection; off: kept layers go on, the shared one begins anew"},
    {"train_shared", LK_OPT_FLAG, offsetof(config, train_shared), 1, 0, 1, NULL, "train the shared adapter"},
    {0}};

/* ---- groups: sites of one type and shape ---- */

static int same_type(const lk_at *a, const lk_at *b) {
  char x[512], y[512];
  if (a->site->kind != b->site->kind || a->site->in != b->site->in || a->site->out != b->site->out) return 0;
  return !strcmp(lk_at_type(a, x, sizeof x), lk_at_type(b, y, sizeof y));
}

/* Are sites i and j ranked against each other? */
static int compete(const lk_method *m, int i, int j) {
  return ((const config *)m->cfg)->scope == SCOPE_LAYER || same_type(m->at[i], m->at[j]);
}

/* Do sites i and j stand or fall together?  A site without a layer number is a layer of its own. */
static int together(const lk_method *m, int i, int j) {
  int whole_layers = ((const config *)m->cfg)->scope == SCOPE_LAYER, layer = lk_at_layer(m->at[i]);
  return i == j || (whole_layers && layer >= 0 && layer == lk_at_layer(m->at[j]));
}

/* Calls fn for each parameter inside site b, with the one at the same place inside site a. */
static lk_status each_pair(const lk_method *m, int a, int b, lk_status (*fn)(lk_param *, lk_param *)) {
  const state *s = m->st;
  int k = 0, l = 0;
  while (k < s->ninside && s->inside[k].site != a) k++;
  while (l < s->ninside && s->inside[l].site != b) l++;
  for (; l < s->ninside && s->inside[l].site == b; k++, l++)
    if (fn(s->inside[k].param, s->inside[l].param)) return lk_error(lk_method_ctx(m), NULL);
  return LK_OK;
}

static lk_status can_share(lk_param *p, lk_param *q) {
  if (lk_view_same_shape(&p->value, &q->value)) return LK_OK;
  return lk_fail(q->ctx, LK_EARG, "lora_drop: %s and %s cannot be shared: their shapes differ", p->name, q->name);
}

static lk_status same_options(lk_at *a, lk_at *b) {
  lk_at *x = a->inner, *y = b->inner;
  for (; x && y; x = lk_at_walk(a->inner, x), y = lk_at_walk(b->inner, y))
    if (memcmp(x->cfg, y->cfg, x->method->cls->cfg_size))
      return lk_fail(lk_at_ctx(a), LK_EARG, "lora_drop: %s at %s and at %s cannot be shared: their options differ",
                     x->method->cls->name, lk_at_path(a), lk_at_path(b));
  return LK_OK;
}

/* ---- making ---- */

static lk_status list_inside(lk_method *m) {
  state *s = m->st;
  lk_ctx *c = lk_method_ctx(m);
  size_t capacity = 0;
  for (int i = 0; i < m->nat; i++)
    for (lk_at *a = m->at[i]->inner; a; a = lk_at_walk(m->at[i]->inner, a))
      for (lk_param *p = a->params; p; p = p->next) {
        if (lk_grow(c, &s->inside, &capacity, (size_t)s->ninside + 1, sizeof *s->inside)) return lk_error(c, NULL);
        struct inside *k = &s->inside[s->ninside++];
        *k = (struct inside){p, i, p->kind, NULL};
        if (!p->value.p) continue;
        k->first = lk_alloc(c, lk_view_bytes(&p->value) + 1);
        if (!k->first) return lk_error(c, NULL);
        memcpy(k->first, p->value.p, lk_view_bytes(&p->value));
      }
  return LK_OK;
}

static lk_status init(lk_method *m) {
  state *s = m->st;
  lk_ctx *c = lk_method_ctx(m);
  const int64_t n = m->nat;
  if (list_inside(m)) return lk_error(c, NULL);
  for (int i = 0; i < m->nat; i++) {
    for (int j = 0; j < i; j++)
      if (same_type(m->at[j], m->at[i]) && (same_options(m->at[j], m->at[i]) || each_pair(m, j, i, can_share)))
        return lk_error(c, NULL);
  }
  s->raw = lk_method_param(m, "raw", LK_BUFFER, 1, &n);
  s->importance = lk_method_param(m, "importance", LK_BUFFER, 1, &n);
  s->keep = lk_method_param(m, "keep", LK_BUFFER, 1, &n);
  s->sum = lk_alloc_array(c, (size_t)n + 1, sizeof *s->sum);
  if (!lk_error(c, NULL)) lk_param_fill(s->keep, -1);
  return lk_error(c, NULL);
}

static void destroy(lk_method *m) {
  state *s = m->st;
  lk_ctx *c = lk_method_ctx(m);
  for (int i = 0; i < s->ninside; i++) lk_free(c, s->inside[i].first);
  lk_free(c, s->inside);
  lk_free(c, s->sum);
}

/* ---- importance ---- */

static int index_of(const lk_at *at) {
  int i = 0;
  while (at->method->at[i] != at) i++;
  return i;
}

/* Adds |d|^2 of every token that is no padding. */
static void measure(lk_at *at, lk_tape *t, lk_tensor d) {
  lk_view v, mask;
  state *s = at->method->st;
  double sum = 0;
  lk_tensor real = lk_side_get(t, "token_mask");
  if (lk_get(t, d, &v) || (!lk_is_nil(real) && lk_get(t, real, &mask))) return;
  int64_t n = lk_view_count(&v), width = v.ndim ? v.shape[v.ndim - 1] : 1;
  if (!lk_is_nil(real) && lk_view_count(&mask) * width != n) {
    lk_fail(lk_at_ctx(at), LK_ESHAPE, "lora_drop: token_mask has %lld elements, %s has %lld tokens",
            (long long)lk_view_count(&mask), lk_at_path(at), (long long)(n / width));
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    double x = lk_view_get(&v, i);
    if (lk_is_nil(real) || lk_view_get(&mask, i / width) != 0) sum += x * x;
  }
  s->sum[index_of(at)] += sum;
}

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const state *s = at->method->st;
  if (!s->measuring) return lk_chain_delta(at->inner, t, x, y);
  if (lk_is_training(t)) {
    lk_fail(lk_at_ctx(at), LK_EARG, "lora_drop: importance is measured in evaluation, and this is a training pass");
    return lk_nil();
  }
  lk_tensor d = lk_chain_delta(at->inner, t, x, lk_nil());
  if (!lk_is_nil(d)) measure(at, t, d);
  return lk_plus(t, y, d);
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  return lk_chain_change(at->inner, t, W, b);
}

/* Of a single adapter inside. */
static lk_status factors(lk_at *at, lk_tape *t, lk_tensor *A, lk_tensor *B) {
  const lk_adapter_class *k = at->inner->method->cls;
  if (at->inner->next || !k->factors)
    return lk_fail(lk_at_ctx(at), LK_EARG, "lora_drop at %s holds no single adapter with an exact low-rank form",
                   lk_at_path(at));
  return k->factors(at->inner, t, A, B);
}

/* ---- selection ---- */

/* Importances; 0 when some group has none. */
static int normalise(lk_method *m) {
  state *s = m->st;
  for (int i = 0; i < m->nat; i++) {
    double mine = 0, all = 0;
    for (int j = 0; j < m->nat; j++) {
      if (compete(m, i, j)) all += s->sum[j];
      if (together(m, i, j)) mine += s->sum[j];
    }
    if (!(all > 0) || !isfinite(all)) {
      lk_fail(lk_method_ctx(m), LK_EARG,
              "lora_drop: the adapters of the type of %s add %s: train them a little, then run the sample forward "
              "between the phases importance and select",
              lk_at_path(m->at[i]), all == 0 ? "nothing" : "values that are not finite");
      return 0;
    }
    lk_view_set(&s->raw->value, i, s->sum[i]);
    lk_view_set(&s->importance->value, i, mine / all);
  }
  lk_param_touch(s->raw);
  lk_param_touch(s->importance);
  return 1;
}

/* Is site j before site i in the order of importance?  Ties: the lower one first. */
static int precedes(const state *s, int j, int i) {
  double a = lk_view_get(&s->importance->value, j), b = lk_view_get(&s->importance->value, i);
  return a > b || (a == b && j < i);
}

/* Kept: what precedes it in its group does not reach T yet, or is fewer than keep_n. */
static int is_kept(const lk_method *m, int i) {
  const state *s = m->st;
  const config *g = m->cfg;
  double sum = 0;
  int before = 0;
  for (int j = 0; j < m->nat; j++) {
    int first = 1; /* of those that stand or fall with it: counted once */
    for (int k = 0; k < j; k++) first &= !together(m, j, k);
    if (!first || !compete(m, i, j) || together(m, i, j) || !precedes(s, j, i)) continue;
    sum += lk_view_get(&s->importance->value, j);
    before++;
  }
  return g->keep_n ? before < g->keep_n : !before || sum < g->T - 1e-12;
}

static lk_status share(lk_param *owner, lk_param *p) { return lk_param_share(p, owner); }

static int is_dropped(const state *s, int i) { return lk_view_get(&s->keep->value, i) == 0; }

/* Builds what the keep flags say; all at -1: as it was in the beginning. */
static lk_status apply(lk_method *m) {
  const state *s = m->st;
  const config *g = m->cfg;
  lk_ctx *c = lk_method_ctx(m);
  for (int k = 0; k < s->ninside && !lk_error(c, NULL); k++) {
    struct inside *q = &s->inside[k];
    int frozen = is_dropped(s, q->site) && !g->train_shared && q->kind == LK_TRAINED;
    if (q->param->alias) lk_param_share(q->param, NULL);
    q->param->kind = frozen ? LK_BUFFER : q->kind;
    q->param->requires_grad = q->param->kind == LK_TRAINED && m->adapter->trainable;
  }
  for (int i = 0; i < m->nat && !lk_error(c, NULL); i++) {
    int owner = 0;
    while (owner < i && !(is_dropped(s, owner) && same_type(m->at[owner], m->at[i]))) owner++;
    if (is_dropped(s, i) && owner < i) each_pair(m, owner, i, share);
  }
  return lk_error(c, NULL);
}

static void begin_anew(lk_method *m) {
  const state *s = m->st;
  for (int k = 0; k < s->ninside; k++) {
    lk_param *p = s->inside[k].param;
    int shared = is_dropped(s, s->inside[k].site);
    if (!s->inside[k].first || (!((const config *)m->cfg)->reinit && !shared)) continue;
    memcpy(p->value.p, s->inside[k].first, lk_view_bytes(&p->value));
    lk_param_touch(p);
  }
}

static int phase(lk_method *m, const char *name) {
  state *s = m->st;
  if (!strcmp(name, "importance")) {
    for (int i = 0; i < m->nat; i++) {
      s->sum[i] = 0;
      lk_view_set(&s->keep->value, i, -1);
    }
    s->measuring = 1;
    apply(m);
    return 1;
  }
  if (strcmp(name, "select")) return 0;
  s->measuring = 0;
  if (!normalise(m)) return 1;
  for (int i = 0; i < m->nat; i++) lk_view_set(&s->keep->value, i, is_kept(m, i));
  lk_param_touch(s->keep);
  begin_anew(m);
  apply(m);
  return 1;
}

/* ---- telling ---- */

static char *notes(lk_method *m) {
  const state *s = m->st;
  lk_ctx *c = lk_method_ctx(m);
  int kept = 0;
  char *list = lk_strdup(c, "");
  for (int i = 0; i < m->nat && list; i++) {
    if (lk_view_get(&s->keep->value, i) < 0) return lk_free(c, list), NULL;
    if (lk_view_get(&s->keep->value, i) == 0) continue;
    char *more = lk_sprintf(c, "%s%s%s %.2f", list, kept++ ? ", " : "", lk_at_path(m->at[i]),
                            lk_view_get(&s->importance->value, i));
    lk_free(c, list);
    list = more;
  }
  char *line = list ? lk_sprintf(c, "%d of %d layers keep an adapter of their own: %s", kept, m->nat, list) : NULL;
  lk_free(c, list);
  return line;
}

const lk_adapter_class lk_adapter_lora_drop = {
    .name = "lora_drop",
    .summary = "own adapters for the most important layers, one shared adapter for the others",
    .cite = "arXiv 2402.07721",
    .sites = LK_SITE_LINEAR | LK_SITE_EMBEDDING | LK_SITE_CONV2D,
    .caps = LK_AFFINE | LK_WRAPPER | LK_NOOP_AT_START,
    .cfg_size = sizeof(config),
    .method_size = sizeof(state),
    .opts = opts,
    .init = init,
    .destroy = destroy,
    .weight = weight,
    .delta = delta,
    .factors = factors,
    .phase = phase,
    .phases = "importance, select",
    .loaded = apply,
    .notes = notes};
