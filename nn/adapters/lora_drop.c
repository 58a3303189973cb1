/* lora_drop.c: LoRA-drop: own adapters where they do much, one shared adapter per type of layer for the rest.
 *
 *   raw_i = sum over the tokens of the sampled data of |d_i(x)|^2,   d_i(x) = s B_i A_i x_i, what the adapter adds
 *   imp_i = raw_i / sum of raw_j over the sites of the same type
 *   kept: the most important ones, as few as add up to T; every other site uses the shared adapter
 *
 * Around any chain: "lora_drop T=0.9 (lora r=8)".  The program trains a little on a sample, then
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

/* A parameter of an adapter inside, and how it was made. */
typedef struct {
  lk_param *param;
  lk_param_kind kind;
  int shared;  /* by the dropped sites */
  void *first; /* copy of its first values, to begin anew from; NULL: a shape only */
} inside;

typedef struct {
  int group, unit;        /* first site of its type and shape; first one that is kept or dropped together with it */
  int from, n;            /* its parameters in state.inside */
  double raw, importance; /* importance: of its unit */
} member;

/* Of a method.  The parameters are by site; keep: 1 kept, 0 dropped, -1 not decided. */
typedef struct {
  int measuring;
  member *site;
  inside *inside;
  size_t ninside, capacity;
  lk_param *raw, *importance, *keep;
} state;

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

/* ---- groups ---- */

/* Same kind, shape and path but for numbers; among experts of a mixture, the same expert. */
static int same_type(const lk_at *a, const lk_at *b) {
  char x[512], y[512];
  if (a->site->kind != b->site->kind || a->site->in != b->site->in || a->site->out != b->site->out) return 0;
  for (const lk_at *i = a, *j = b; i; i = i->outer, j = j->outer)
    if (i->index != j->index) return 0;
  return !strcmp(lk_at_type(a, x, sizeof x), lk_at_type(b, y, sizeof y));
}

/* With scope=layer, whole layers; a site without a layer number is a layer of its own. */
static int together(const lk_method *m, int i, int j) {
  int whole_layers = ((const config *)m->cfg)->scope == SCOPE_LAYER, layer = lk_at_layer(m->at[i]);
  return i == j || (whole_layers && layer >= 0 && layer == lk_at_layer(m->at[j]));
}

/* Are sites i and j ranked against each other? */
static int compete(const lk_method *m, int i, int j) {
  const member *s = ((const state *)m->st)->site;
  return ((const config *)m->cfg)->scope == SCOPE_LAYER || s[i].group == s[j].group;
}

/* Can the sites at a and b use one adapter? */
static lk_status check_options(lk_at *a, lk_at *b) {
  for (lk_at *x = a->inner, *y = b->inner; x && y; x = lk_at_walk(a->inner, x), y = lk_at_walk(b->inner, y))
    if (memcmp(x->cfg, y->cfg, x->method->cls->cfg_size))
      return lk_fail(lk_at_ctx(a), LK_EARG, "lora_drop: %s at %s and at %s cannot be shared: their options differ",
                     x->method->cls->name, lk_at_path(a), lk_at_path(b));
  return LK_OK;
}

static lk_status check_shapes(const lk_method *m, int i, int j) {
  const state *s = m->st;
  const inside *p = &s->inside[s->site[i].from], *q = &s->inside[s->site[j].from];
  int n = s->site[i].n, same = s->site[j].n == n, shared = 0;
  for (int k = 0; k < n && same; k++) {
    same = lk_view_same_shape(&p[k].param->value, &q[k].param->value);
    shared += p[k].shared;
  }
  if (!same)
    return lk_fail(lk_method_ctx(m), LK_EARG,
                   "lora_drop: the adapters at %s and at %s cannot be shared: their parameters differ",
                   lk_at_path(m->at[i]), lk_at_path(m->at[j]));
  return shared ? LK_OK
                : lk_fail(lk_method_ctx(m), LK_EARG, "lora_drop: %s has nothing that layers could share",
                          m->inner->cls->name);
}

/* ---- making ---- */

static lk_status check(lk_at *at) {
  for (const lk_at *o = at->outer; o; o = o->outer)
    if (o->method->cls == at->method->cls)
      return lk_fail(lk_at_ctx(at), LK_EARG, "lora_drop: inside another lora_drop it has nothing to decide");
  return LK_OK;
}

static lk_status add_inside(lk_method *m, const lk_at *a, lk_param *p) {
  state *s = m->st;
  lk_ctx *c = lk_method_ctx(m);
  if (lk_grow(c, &s->inside, &s->capacity, s->ninside + 1, sizeof *s->inside)) return lk_error(c, NULL);
  inside *k = &s->inside[s->ninside++];
  *k = (inside){p, p->kind, !(a->method->cls->caps & LK_FROM_WEIGHT), NULL};
  if (!p->value.p) return LK_OK;
  k->first = lk_alloc(c, lk_view_bytes(&p->value) + 1);
  if (k->first) memcpy(k->first, p->value.p, lk_view_bytes(&p->value));
  return lk_error(c, NULL);
}

static lk_status add_site(lk_method *m, int i) {
  state *s = m->st;
  lk_at *at = m->at[i], *base = at->site->replaced_by;
  member *k = &s->site[i];
  lk_ctx *c = lk_method_ctx(m);
  if (base && base->method->adapter == m->adapter)
    return lk_fail(c, LK_EARG, "lora_drop: %s has replaced the weight of %s, which no other layer's adapter would fit",
                   base->method->cls->name, lk_at_path(at));
  *k = (member){.from = (int)s->ninside};
  while (!same_type(m->at[k->group], at)) k->group++;
  while (!together(m, k->unit, i)) k->unit++;
  for (lk_at *a = at->inner; a; a = lk_at_walk(at->inner, a))
    for (lk_param *p = a->params; p; p = p->next)
      if (add_inside(m, a, p)) return lk_error(c, NULL);
  k->n = (int)s->ninside - k->from;
  if (k->group == i || check_options(m->at[k->group], at)) return lk_error(c, NULL);
  return check_shapes(m, k->group, i);
}

static lk_status init(lk_method *m) {
  state *s = m->st;
  lk_ctx *c = lk_method_ctx(m);
  const int64_t n = m->nat;
  s->site = lk_alloc_array(c, (size_t)n + 1, sizeof *s->site);
  for (int i = 0; i < m->nat && !lk_error(c, NULL); i++) add_site(m, i);
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  s->raw = lk_method_param(m, "raw", LK_BUFFER, 1, &n);
  s->importance = lk_method_param(m, "importance", LK_BUFFER, 1, &n);
  s->keep = lk_method_param(m, "keep", LK_BUFFER, 1, &n);
  return s->keep ? lk_param_fill(s->keep, -1) : lk_error(c, NULL);
}

static void destroy(lk_method *m) {
  state *s = m->st;
  lk_ctx *c = lk_method_ctx(m);
  for (size_t i = 0; i < s->ninside; i++) lk_free(c, s->inside[i].first);
  lk_free(c, s->inside);
  lk_free(c, s->site);
}

/* ---- importance ---- */

/* The side input "token_mask" in mask; 0: there is none, it does not fit, or the site sees one vector of each row. */
static int token_mask(lk_at *at, lk_tape *t, int64_t tokens, lk_view *mask) {
  lk_tensor given = lk_side_get(t, "token_mask");
  if (lk_is_nil(given) || lk_get(t, given, mask)) return 0;
  if (at->site->kind != LK_SITE_CONV2D && lk_view_count(mask) == tokens) return 1;
  if (at->site->kind != LK_SITE_CONV2D && mask->ndim == 2 && mask->shape[0] == tokens) return 0;
  lk_fail(lk_at_ctx(at), LK_ESHAPE, "lora_drop: token_mask has %lld elements, and %s has %lld %s",
          (long long)lk_view_count(mask), lk_at_path(at), (long long)tokens,
          at->site->kind == LK_SITE_CONV2D ? "rows of pixels, no tokens" : "tokens");
  return 0;
}

/* Adds |d|^2 of every token that is no padding. */
static void measure(lk_at *at, lk_tape *t, lk_tensor d) {
  const lk_method *m = at->method;
  lk_view v, mask;
  double sum = 0;
  int i = 0;
  if (lk_get(t, d, &v)) return;
  int64_t n = lk_view_count(&v), width = v.ndim && n ? v.shape[v.ndim - 1] : 1;
  int masked = token_mask(at, t, n / width, &mask);
  for (int64_t k = 0; k < n; k++) {
    double x = lk_view_get(&v, k);
    if (!masked || lk_view_get(&mask, k / width) != 0) sum += x * x;
  }
  while (m->at[i] != at) i++;
  ((state *)m->st)->site[i].raw += sum;
}

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const state *s = at->method->st;
  lk_tensor base = lk_at_base(at, t, x, x);
  if (!s->measuring) return lk_chain_delta_from(at->inner, t, x, base, y);
  if (lk_is_training(t)) {
    lk_fail(lk_at_ctx(at), LK_EARG, "lora_drop: importance is measured in evaluation, and this is a training pass");
    return lk_nil();
  }
  lk_tensor d = lk_chain_delta_from(at->inner, t, x, base, lk_nil());
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

/* imp_i; fails when a group has none. */
static lk_status normalise(lk_method *m) {
  state *s = m->st;
  for (int i = 0; i < m->nat; i++) {
    double mine = 0, all = 0;
    for (int j = 0; j < m->nat; j++) {
      if (compete(m, i, j)) all += s->site[j].raw;
      if (s->site[i].unit == s->site[j].unit) mine += s->site[j].raw;
    }
    if (!(all > 0) || !isfinite(all))
      return lk_fail(lk_method_ctx(m), LK_EARG,
                     "lora_drop: the adapters of the type of %s add %s: train them a little, then run the sample "
                     "forward between the phases importance and select",
                     lk_at_path(m->at[i]), all == 0 ? "nothing" : "values that are not finite");
    s->site[i].importance = mine / all;
  }
  return LK_OK;
}

/* Is unit j before unit i in the order of importance?  Ties: the lower layer first. */
static int precedes(const lk_method *m, int j, int i) {
  const member *s = ((const state *)m->st)->site;
  int below = lk_at_layer(m->at[j]) - lk_at_layer(m->at[i]);
  if (s[j].importance != s[i].importance) return s[j].importance > s[i].importance;
  return below < 0 || (below == 0 && j < i);
}

/* Kept: what precedes its unit does not reach T yet, or is fewer than keep_n. */
static int is_kept(const lk_method *m, int i) {
  const member *s = ((const state *)m->st)->site;
  const config *g = m->cfg;
  const int unit = s[i].unit;
  double sum = 0;
  int before = 0;
  for (int j = 0; j < m->nat; j++) {
    if (s[j].unit != j || j == unit || !compete(m, unit, j) || !precedes(m, j, unit)) continue;
    sum += s[j].importance;
    before++;
  }
  return g->keep_n ? before < g->keep_n : !before || sum < g->T - 1e-12;
}

static int is_dropped(const state *s, int i) { return lk_view_get(&s->keep->value, i) == 0; }

/* Builds what the keep flags say. */
static lk_status apply(lk_method *m) {
  const state *s = m->st;
  for (int i = 0, owner; i < m->nat; i++) {
    int dropped = is_dropped(s, i), frozen = dropped && !((const config *)m->cfg)->train_shared;
    for (owner = 0; owner < i; owner++)
      if (is_dropped(s, owner) && s->site[owner].group == s->site[i].group) break;
    for (int k = 0; k < s->site[i].n; k++) {
      const inside *q = &s->inside[s->site[i].from + k];
      if (q->param->kind != LK_RETIRED) {
        q->param->kind = frozen && q->shared && q->kind == LK_TRAINED ? LK_BUFFER : q->kind;
        q->param->requires_grad = q->param->kind == LK_TRAINED && m->adapter->trainable;
      }
      lk_param_share(q->param, NULL);
      if (dropped && owner < i && q->shared) lk_param_share(q->param, s->inside[s->site[owner].from + k].param);
    }
  }
  return lk_error(lk_method_ctx(m), NULL);
}

/* Sets all flags to undecided; sites that shared an adapter go on with copies of it. */
static lk_status begin_importance(lk_method *m) {
  state *s = m->st;
  for (size_t k = 0; k < s->ninside; k++) {
    lk_param *p = s->inside[k].param, *with = p->alias;
    lk_param_share(p, NULL);
    if (with) lk_param_assign(p, &with->value);
  }
  for (int i = 0; i < m->nat; i++) s->site[i].raw = 0;
  lk_param_fill(s->keep, -1);
  s->measuring = 1;
  return apply(m);
}

static void begin_anew(lk_method *m, const member *site) {
  const state *s = m->st;
  for (int k = site->from; k < site->from + site->n; k++) {
    lk_param *p = s->inside[k].param;
    memcpy(p->value.p, s->inside[k].first, lk_view_bytes(&p->value));
    lk_param_touch(p);
  }
}

static lk_status begin_select(lk_method *m) {
  state *s = m->st;
  if (!s->measuring)
    return lk_fail(lk_method_ctx(m), LK_EARG, "lora_drop: the phase importance comes before the phase select");
  s->measuring = 0;
  if (normalise(m)) return lk_error(lk_method_ctx(m), NULL);
  for (int i = 0; i < m->nat; i++) {
    int keep = is_kept(m, i);
    lk_view_set(&s->raw->value, i, s->site[i].raw);
    lk_view_set(&s->importance->value, i, s->site[i].importance);
    lk_view_set(&s->keep->value, i, keep);
    if (!keep || ((const config *)m->cfg)->reinit) begin_anew(m, &s->site[i]);
  }
  lk_param_touch(s->raw);
  lk_param_touch(s->importance);
  lk_param_touch(s->keep);
  return apply(m);
}

static int phase(lk_method *m, const char *name) {
  if (!strcmp(name, "importance")) begin_importance(m);
  else if (!strcmp(name, "select")) begin_select(m);
  else return 0;
  return 1;
}

static lk_status loaded(lk_method *m) {
  state *s = m->st;
  for (int i = 0; i < m->nat && s->keep->value.p; i++) {
    double keep = lk_view_get(&s->keep->value, i);
    if (keep != 0 && keep != 1 && keep != -1)
      return lk_fail(lk_method_ctx(m), LK_EFORMAT, "lora_drop: the flag of %s is %g, not kept (1), dropped (0) or -1",
                     lk_at_path(m->at[i]), keep);
  }
  s->measuring = 0;
  return s->keep->value.p ? apply(m) : LK_OK;
}

/* ---- telling ---- */

static char *notes(lk_method *m) {
  const state *s = m->st;
  lk_ctx *c = lk_method_ctx(m);
  int kept = 0;
  char *list = lk_strdup(c, "");
  for (int i = 0; i < m->nat && list; i++) {
    if (lk_view_get(&s->keep->value, i) < 0) return lk_free(c, list), NULL;
    if (is_dropped(s, i)) continue;
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
    .check = check,
    .init = init,
    .destroy = destroy,
    .weight = weight,
    .delta = delta,
    .factors = factors,
    .phase = phase,
    .phases = "importance, select",
    .loaded = loaded,
    .notes = notes};
