/* adalora.c: AdaLoRA: the update as a pseudo-SVD whose singular values are pruned, and revived, while training.
 *
 *   y = W0 x + b0 + s P Lambda Q D(x),   s = alpha / (r + 1e-5)
 *   L = L_task + orth (1 / 2n) sum over the n matrices of (|Q Q^T - I|_F + |P^T P - I|_F)
 *
 * Q = lora_A [r, in], diag(Lambda) = lora_E [r, 1], P = lora_B [out, r]; r = init_r in s however many values are left;
 * D is dropout.  At a convolution A is [r, in k0 k1].  After every step of the optimiser budget.c decides by importance
 * which values stay: lk_adapter_follow has to connect it.  A trimmed adapter, as a file of PEFT holds it, has fewer
 * rows at every site and trains on with the ranks that it has.
 *
 * Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023, arXiv 2303.10512.
 * Norms are not squared and averaged over all A and B, as in the authors' code and in HuggingFace PEFT's. */
#include <lorikeet/adalora.h>
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>
#include <string.h>

enum { A = LK_TRIPLET_A, E = LK_TRIPLET_E, B = LK_TRIPLET_B, PARTS = LK_TRIPLET_PARTS };
enum { INIT_DEFAULT, INIT_RANDOM };

typedef struct {
  int target_r, init_r, pruned, tinit, tfinal, deltaT, total, trimmed, init;
  double alpha, dropout, beta1, beta2, orth;
} config;

typedef struct {
  lk_param *p[PARTS], *Ib[PARTS], *Ub[PARTS]; /* the last two and kept: NULL if trimmed */
  lk_param *kept;
  uint32_t version; /* of A, and the allocator's calls, in the training pass before */
  int64_t calls;
  int missed; /* steps of an optimiser that the allocator did not see */
  double s;
} state;

typedef struct {
  lk_rank_allocator alloc;
  int64_t calls;
  int is_final; /* ranks stay as they are: a trimmed adapter */
  int warned;
  int planned; /* the options do not say how many steps: the loop did */
} common;

static const lk_opt opts[] = {
    {"target_r", LK_OPT_INT, offsetof(config, target_r), 8, 0, 1 << 20, NULL, "rank at the end, average of all sites"},
    {"init_r", LK_OPT_INT, offsetof(config, init_r), 12, 1, 1 << 20, NULL, "rank of every site at the start"},
    {"alpha", LK_OPT_REAL, offsetof(config, alpha), 8, -1e9, 1e9, NULL,
     "the scaling is alpha / (init_r + 1e-5); not above 0: as init_r"},
    {"dropout", LK_OPT_REAL, offsetof(config, dropout), 0, 0, 1, NULL, "of the adapter's input"},
    {"pruned", LK_OPT_INT, offsetof(config, pruned), 0, 0, 1 << 20, NULL, "how many triplets a trimmed site lacks"},
    {"trimmed", LK_OPT_FLAG, offsetof(config, trimmed), 0, 0, 1, NULL, "the ranks are final: nothing is ranked"},
    {"tinit", LK_OPT_INT, offsetof(config, tinit), 0, 0, 1 << 30, NULL, "steps before ranks begin to fall"},
    {"tfinal", LK_OPT_INT, offsetof(config, tfinal), 0, 0, 1 << 30, NULL, "last steps, with fixed ranks"},
    {"deltaT", LK_OPT_INT, offsetof(config, deltaT), 1, 1, 1 << 30, NULL, "steps from one ranking to the next"},
    {"total", LK_OPT_INT, offsetof(config, total), 0, 0, 1 << 30, NULL, "training steps; 0: not known, cannot train"},
    {"beta1", LK_OPT_REAL, offsetof(config, beta1), 0.85, 0, 1, NULL, "smoothing of importance, inside (0, 1)"},
    {"beta2", LK_OPT_REAL, offsetof(config, beta2), 0.85, 0, 1, NULL, "smoothing of its uncertainty, inside (0, 1)"},
    {"orth", LK_OPT_REAL, offsetof(config, orth), 0.5, 0, 1e9, NULL, "weight of the orthogonality term"},
    {"init", LK_OPT_WORD, offsetof(config, init), 0, 0, 0, "default|random", "of A, E and B; random is no no-op"},
    {0}};

/* ---- making ---- */

static int is_final(const config *g) { return g->trimmed || g->pruned > 0; }

/* Did the user say target_r, or does it only stand in the table? */
static int target_is_written(const lk_at *at) {
  return strstr(at->method->written, " target_r ") != NULL ||
         ((const config *)at->cfg)->target_r != ((const config *)at->method->cfg)->target_r;
}

/* What is decided for all sites together cannot be set for one. */
static lk_status check_common(const lk_at *at) {
  static const char *const keys[] = {"tinit", "tfinal", "deltaT", "total", "beta1", "beta2", "orth"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (lk_at_option(at, keys[i], 0) != lk_method_option(at->method, keys[i], 0))
      return lk_fail(lk_at_ctx(at), LK_EARG, "adalora: %s is one for all sites; it cannot be set for %s alone", keys[i],
                     lk_at_path(at));
  return LK_OK;
}

static lk_status check(lk_at *at) {
  const config *g = at->cfg;
  lk_ctx *c = lk_at_ctx(at);
  if (at->site->kind == LK_SITE_CONV2D && at->site->conv.groups > 1)
    return lk_fail(c, LK_EARG, "adalora: %s is a convolution in %lld groups; only those in one group can be adapted",
                   lk_at_path(at), (long long)at->site->conv.groups);
  if (g->pruned > g->init_r)
    return lk_fail(c, LK_EARG, "adalora: pruned = %d of only init_r = %d triplets at %s", g->pruned, g->init_r,
                   lk_at_path(at));
  if (!(g->beta1 > 0 && g->beta1 < 1 && g->beta2 > 0 && g->beta2 < 1))
    return lk_fail(c, LK_EARG, "adalora: beta1 = %g and beta2 = %g must both be inside (0, 1)", g->beta1, g->beta2);
  if (check_common(at)) return lk_error(c, NULL);
  if (is_final(g)) return LK_OK;
  if (g->target_r > g->init_r && (g->total > 0 || target_is_written(at)))
    return lk_fail(c, LK_EARG, "adalora: target_r = %d is above init_r = %d at %s: ranks only fall", g->target_r,
                   g->init_r, lk_at_path(at));
  if (g->total > 0 && g->tinit >= g->total - g->tfinal)
    return lk_fail(c, LK_EARG, "adalora: no step is left for lowering the rank: tinit = %d, total - tfinal = %d - %d",
                   g->tinit, g->total, g->tfinal);
  return LK_OK;
}

/* Elements of the site's weight for one output. */
static int64_t fan_in(const lk_site *s) {
  const int64_t *w = s->weight->value.shape;
  return s->kind == LK_SITE_CONV2D ? w[1] * w[2] * w[3] : s->in;
}

/* What the allocator keeps: Ib and Ub of every tensor, and which triplets are kept. */
static lk_status make_averages(lk_at *at, state *s) {
  static const char *const names[PARTS][2] = {{"lora_A.exp_avg_ipt", "lora_A.exp_avg_unc"},
                                              {"lora_E.exp_avg_ipt", "lora_E.exp_avg_unc"},
                                              {"lora_B.exp_avg_ipt", "lora_B.exp_avg_unc"}};
  for (int i = 0; i < PARTS; i++) {
    const int64_t *shape = s->p[i]->value.shape;
    s->Ib[i] = lk_at_param(at, names[i][0], LK_SCRATCH, 2, shape);
    s->Ub[i] = lk_at_param(at, names[i][1], LK_SCRATCH, 2, shape);
  }
  s->kept = lk_at_param(at, "rank_pattern", LK_BUFFER, 1, s->p[A]->value.shape);
  return s->kept ? lk_param_fill(s->kept, 1) : lk_error(lk_at_ctx(at), NULL);
}

static lk_status attach(lk_at *at) {
  const config *g = at->cfg;
  const int64_t r = g->init_r - g->pruned;
  state *s = at->st;
  s->s = (g->alpha > 0 ? g->alpha : (double)g->init_r) / ((double)g->init_r + 1e-5);
  s->p[A] = lk_at_param(at, "lora_A", LK_TRAINED, 2, (int64_t[]){r, fan_in(at->site)});
  s->p[E] = lk_at_param(at, "lora_E", LK_TRAINED, 2, (int64_t[]){r, 1});
  s->p[B] = lk_at_param(at, "lora_B", LK_TRAINED, 2, (int64_t[]){at->site->out, r});
  for (int i = 0; i < PARTS && !lk_error(lk_at_ctx(at), NULL); i++)
    if (g->init == INIT_RANDOM) lk_param_normal(s->p[i], 0, 1);
    else if (i != E) lk_param_normal(s->p[i], 0, 0.02);
  if (lk_error(lk_at_ctx(at), NULL) || is_final(g)) return lk_error(lk_at_ctx(at), NULL);
  return make_averages(at, s);
}

/* Another adapter of this kind that trains: its allocator would rank among its own triplets only. */
static lk_status check_alone(lk_method *m, int only_active) {
  for (lk_adapter *a = lk_adapter_first(m->adapter->model); a; a = a->next)
    for (lk_method *k = a == m->adapter || !a->trainable || (only_active && !a->active) ? NULL : a->chain; k;
         k = lk_method_walk(a->chain, k))
      if (k->cls == m->cls && !((common *)k->st)->is_final)
        return lk_fail(lk_method_ctx(m), LK_EARG,
                       "adalora: adapter '%s' trains an adalora already, and only one can; lk_set_trainable(model, "
                       "\"%s\", 0) first",
                       a->name, a->name);
  return LK_OK;
}

static lk_status init(lk_method *m) {
  common *st = m->st;
  lk_ctx *c = lk_method_ctx(m);
  size_t triplets = 0;
  for (int k = 0; k < m->nat; k++) {
    const config *g = m->at[k]->cfg;
    st->is_final |= is_final(g);
    triplets += (size_t)g->init_r;
  }
  if (st->is_final || check_alone(m, 0) || lk_model_shapes_only(m->adapter->model)) return lk_error(c, NULL);
  st->alloc.matrix = lk_alloc_array(c, (size_t)m->nat + 1, sizeof *st->alloc.matrix);
  st->alloc.score = lk_alloc_array(c, triplets + 1, sizeof *st->alloc.score);
  st->alloc.order = lk_alloc_array(c, triplets + 1, sizeof *st->alloc.order);
  return lk_error(c, NULL);
}

static void destroy(lk_method *m) {
  common *st = m->st;
  lk_free(lk_method_ctx(m), st->alloc.matrix);
  lk_free(lk_method_ctx(m), st->alloc.score);
  lk_free(lk_method_ctx(m), st->alloc.order);
}

/* ---- computing ---- */

/* An optimiser that nobody follows leaves all ranks as they are, silently.  One that has stepped has moved A's version
 * by one and taken its gradient away. */
static lk_status watch(lk_at *at, lk_tape *t) {
  const common *m = at->method->st;
  state *s = at->st;
  const lk_param *a = s->p[A];
  if (!lk_is_training(t) || m->is_final) return LK_OK;
  int seen = m->calls != s->calls;
  int stepped = a->grad && !a->has_grad && a->version == s->version + 1;
  s->missed = seen ? 0 : s->missed + stepped;
  s->version = a->version;
  s->calls = m->calls;
  if (s->missed < 2) return LK_OK;
  return lk_fail(lk_at_ctx(at), LK_EARG,
                 "adalora: an optimiser changes %s, and its ranks are not allocated: call lk_adapter_follow(model, "
                 "optimiser) before training",
                 a->name);
}

/* Lambda Q, [r, in] (at a convolution [r, in, k0, k1]) */
static lk_tensor scaled_rows(lk_at *at, lk_tape *t) {
  const state *s = at->st;
  const int64_t *w = at->site->weight->value.shape;
  lk_tensor rows = lk_mul(t, lk_use(t, s->p[A]), lk_use(t, s->p[E]));
  if (at->site->kind != LK_SITE_CONV2D) return rows;
  return lk_reshape(t, rows, 4, (int64_t[]){s->p[A]->value.shape[0], w[1], w[2], w[3]});
}

/* s P Lambda Q in the shape of the weight */
static lk_tensor change(lk_at *at, lk_tape *t) {
  const state *s = at->st;
  const lk_view *w = &at->site->weight->value;
  lk_tensor rows = lk_mul(t, lk_use(t, s->p[A]), lk_use(t, s->p[E]));
  lk_tensor d = lk_matmul(t, lk_scale(t, lk_use(t, s->p[B]), s->s), rows);
  return at->site->kind == LK_SITE_CONV2D ? lk_reshape(t, d, w->ndim, w->shape) : d;
}

static lk_tensor conv_delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const state *s = at->st;
  const int64_t r = s->p[A]->value.shape[0];
  if (r == 0) return lk_plus(t, y, lk_conv2d(t, x, change(at, t), lk_nil(), &at->site->conv)); /* no 0 channels */
  lk_tensor h = lk_conv2d(t, x, scaled_rows(at, t), lk_nil(), &at->site->conv);
  lk_tensor P = lk_reshape(t, lk_scale(t, lk_use(t, s->p[B]), s->s), 4, (int64_t[]){at->site->out, r, 1, 1});
  return lk_plus(t, y, lk_conv2d(t, h, P, lk_nil(), NULL));
}

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const config *g = at->cfg;
  const state *s = at->st;
  if (watch(at, t)) return lk_nil();
  x = lk_at_dropout(at, t, "drop", g->dropout, x);
  if (at->site->kind == LK_SITE_CONV2D) return conv_delta(at, t, x, y);
  return lk_accumulate(t, y, lk_linear(t, x, scaled_rows(at, t), lk_nil()), lk_use(t, s->p[B]), s->s);
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  (void)b;
  if (!watch(at, t)) *W = lk_add(t, *W, change(at, t));
  return lk_error(lk_at_ctx(at), NULL);
}

/* The triplets whose singular value is not 0, at least one, as an index; nil: all of them. */
static lk_tensor used(const state *s, lk_tape *t) {
  const lk_view *e = &s->p[E]->value;
  int64_t n = 0, r = e->shape[0], *list = lk_alloc_array(lk_tape_ctx(t), (size_t)r + 1, sizeof *list);
  for (int64_t i = 0; list && i < r; i++)
    if (lk_view_get(e, i) != 0) list[n++] = i;
  if (list && n == 0 && r > 0) list[n++] = 0;
  lk_tensor index = list && n < r ? lk_input(t, LK_I64, 1, &n, list) : lk_nil();
  lk_free(lk_tape_ctx(t), list);
  return index;
}

/* A' = Lambda Q, B' = s P; what is pruned is left out where no gradient is wanted. */
static lk_status factors(lk_at *at, lk_tape *t, lk_tensor *a, lk_tensor *b) {
  const state *s = at->st;
  *a = scaled_rows(at, t);
  *b = lk_scale(t, lk_use(t, s->p[B]), s->s);
  lk_tensor index = lk_grad_enabled(t) ? lk_nil() : used(s, t);
  if (lk_is_nil(index)) return lk_error(lk_at_ctx(at), NULL);
  *a = lk_index_select(t, *a, 0, index);
  *b = lk_index_select(t, *b, 1, index);
  return lk_error(lk_at_ctx(at), NULL);
}

/* ---- the orthogonality term ---- */

/* |M M^T - I|_F, with `tall` |M^T M - I|_F */
static lk_tensor distance(lk_tape *t, lk_tensor M, int tall) {
  static const int both[] = {0, 1};
  lk_tensor T = lk_transpose(t, M, 0, 1), G = tall ? lk_matmul(t, T, M) : lk_matmul(t, M, T);
  int64_t r = lk_size(t, G, 0);
  lk_view v;
  lk_tensor I = lk_input(t, lk_dtype_of(t, M), 2, (int64_t[]){r, r}, NULL);
  if (lk_get(t, I, &v)) return lk_nil();
  for (int64_t i = 0; i < r; i++) lk_view_set(&v, i * r + i, 1);
  return lk_norm(t, lk_sub(t, G, I), 2, 2, both, 0);
}

/* Does this site have factors of its own, and not another one's (lk_param_share) or none any more? */
static int in_play(const lk_at *at) {
  const state *s = at->st;
  return s->p[A] && !s->p[A]->alias && s->p[A]->kind == LK_TRAINED;
}

static lk_tensor loss(lk_method *m, lk_tape *t) {
  const config *g = m->cfg;
  lk_tensor sum = lk_nil();
  int n = 0;
  if (!lk_is_training(t) || !m->adapter->trainable || g->orth == 0) return lk_nil();
  for (int k = 0; k < m->nat; k++) {
    const state *s = m->at[k]->st;
    if (!in_play(m->at[k])) continue;
    n++;
    if (s->p[A]->value.shape[0] == 0) continue;
    sum = lk_plus(t, sum, distance(t, lk_use(t, s->p[A]), 0));
    sum = lk_plus(t, sum, distance(t, lk_use(t, s->p[B]), 1));
  }
  return lk_is_nil(sum) ? sum : lk_scale(t, sum, g->orth / (2 * n));
}

/* ---- the budget ---- */

/* The allocator's view of the sites as they are now. */
static void gather(lk_method *m) {
  const config *g = m->cfg;
  lk_rank_allocator *a = &((common *)m->st)->alloc;
  a->beta1 = g->beta1, a->beta2 = g->beta2;
  a->schedule = (lk_rank_schedule){0, 0, g->tinit, g->tfinal, g->total, g->deltaT};
  a->n = 0;
  for (int k = 0; k < m->nat; k++) {
    const state *s = m->at[k]->st;
    if (!in_play(m->at[k])) continue;
    lk_triplets *one = &a->matrix[a->n++];
    for (int i = 0; i < PARTS; i++) {
      one->value[i] = s->p[i]->value;
      one->grad[i] = s->p[i]->has_grad ? s->p[i]->grad : NULL;
      one->Ib[i] = s->Ib[i]->value.p;
      one->Ub[i] = s->Ub[i]->value.p;
    }
    one->kept = s->kept->value.p;
    a->schedule.initial += s->p[A]->value.shape[0];
    a->schedule.target += ((const config *)m->at[k]->cfg)->target_r;
  }
}

static lk_status stepped(lk_method *m, int64_t step) {
  const config *g = m->cfg;
  common *st = m->st;
  lk_rank_allocator *a = &st->alloc;
  lk_ctx *c = lk_method_ctx(m);
  st->calls++;
  if (st->is_final) return LK_OK;
  if (g->total == 0)
    return lk_fail(
        c, LK_EARG,
        "adalora: the number of training steps is not known: write total=N, which the rank's schedule needs");
  if (check_alone(m, 1)) return lk_error(c, NULL);
  gather(m);
  if (lk_rank_step(c, a, step)) return lk_error(c, NULL);
  if (g->tfinal == 0 && step == g->total - 1) lk_rank_prune(c, a, a->schedule.target); /* step `total` never comes */
  if (a->skipped && !st->warned++)
    lk_warn(c, "adalora: at step %lld no triplet has any importance (all gradients were zero): nothing was pruned",
            (long long)step);
  for (int k = 0; k < m->nat; k++) {
    state *s = m->at[k]->st;
    lk_param_touch(s->p[E]);
    lk_param_touch(s->kept);
  }
  return lk_error(c, NULL);
}

/* How many steps there will be, unless the options say it; then, unless they say that, ranks stay for the first tenth and
 * are final in the last third. */
static lk_status plan(lk_method *m, int64_t steps) {
  config *g = m->cfg;
  common *st = m->st;
  if (is_final(g) || (g->total > 0 && !st->planned)) return LK_OK;
  if (!strstr(m->written, " tinit ")) g->tinit = (int)(steps / 10);
  if (!strstr(m->written, " tfinal ")) g->tfinal = (int)(steps / 3);
  if (steps > 1 << 30 || g->tinit >= steps - g->tfinal)
    return lk_fail(lk_method_ctx(m), LK_EARG,
                   "adalora: %lld steps leave none for lowering the rank: tinit = %d, tfinal = %d", (long long)steps,
                   g->tinit, g->tfinal);
  st->planned = 1;
  g->total = (int)steps;
  return LK_OK;
}

static int has_final_ranks(const lk_method *m, int64_t steps) {
  const config *g = m->cfg;
  return is_final(g) || steps >= g->total || steps > g->total - g->tfinal;
}

/* ---- notes ---- */

static int64_t kept_at(const lk_at *at) {
  const state *s = at->st;
  int64_t n = 0, r = s->p[A]->value.shape[0];
  for (int64_t i = 0; i < r && s->kept; i++) n += lk_view_get(&s->kept->value, i) != 0;
  return s->kept ? n : r;
}

/* Pruned values that are not 0: trained since the last ranking, or of an earlier step that was gone back to. */
static int64_t revived_at(const lk_at *at) {
  const state *s = at->st;
  int64_t n = 0;
  for (int64_t i = 0; s->kept && i < s->p[E]->value.shape[0]; i++)
    n += lk_view_get(&s->kept->value, i) == 0 && lk_view_get(&s->p[E]->value, i) != 0;
  return n;
}

/* The last part of the site's path: its type in a model of equal layers. */
static const char *type_of(const lk_at *at) {
  const char *path = lk_at_path(at), *dot = strrchr(path, '.');
  return dot ? dot + 1 : path;
}

/* "; query 6.1": the mean at the sites of k's type. */
static char *add_type(const lk_method *m, int k, char *text, const char *separator) {
  lk_ctx *c = lk_method_ctx(m);
  int64_t kept = 0;
  int n = 0;
  for (int i = 0; i < m->nat; i++)
    if (!strcmp(type_of(m->at[i]), type_of(m->at[k]))) {
      kept += kept_at(m->at[i]);
      n++;
    }
  char *longer = text ? lk_sprintf(c, "%s%s%s %.1f", text, separator, type_of(m->at[k]), (double)kept / n) : NULL;
  lk_free(c, text);
  return longer;
}

static char *notes(lk_method *m) {
  lk_ctx *c = lk_method_ctx(m);
  int64_t kept = 0, of = 0, revived = 0;
  const char *separator = "; ";
  if (lk_model_shapes_only(m->adapter->model) || !m->nat) return NULL;
  for (int k = 0; k < m->nat; k++) {
    kept += kept_at(m->at[k]);
    revived += revived_at(m->at[k]);
    of += ((const config *)m->at[k]->cfg)->init_r;
  }
  char *text =
      lk_sprintf(c, "ranks kept: %lld of %lld, mean %.1f", (long long)kept, (long long)of, (double)kept / m->nat);
  for (int k = 0; k < m->nat; k++) {
    int known = 0;
    for (int i = 0; i < k && !known; i++) known = !strcmp(type_of(m->at[i]), type_of(m->at[k]));
    if (known) continue;
    text = add_type(m, k, text, separator);
    separator = ", ";
  }
  if (!revived || !text) return text;
  char *longer = lk_sprintf(c, "%s; and %lld pruned values that are not 0 again", text, (long long)revived);
  lk_free(c, text);
  return longer;
}

const lk_adapter_class lk_adapter_adalora = {.name = "adalora",
                                             .summary = "a pseudo-SVD whose rank is shared out among sites in training",
                                             .cite = "arXiv 2303.10512",
                                             .sites = LK_SITE_LINEAR | LK_SITE_CONV2D,
                                             .caps = LK_AFFINE | LK_NOOP_AT_START,
                                             .cfg_size = sizeof(config),
                                             .site_size = sizeof(state),
                                             .method_size = sizeof(common),
                                             .opts = opts,
                                             .check = check,
                                             .attach = attach,
                                             .init = init,
                                             .destroy = destroy,
                                             .weight = weight,
                                             .delta = delta,
                                             .loss = loss,
                                             .factors = factors,
                                             .plan = plan,
                                             .final = has_final_ranks,
                                             .stepped = stepped,
                                             .notes = notes};
