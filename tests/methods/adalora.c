/* adalora.c: golden cases of AdaLoRA: a layer, a whole training run, the allocator alone, schedules, trimming. */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PARTS = LK_TRIPLET_PARTS, MOST_LAYERS = 16 };

static const golden_name names[] = {{"A", "lora_A"}, {"E", "lora_E"}, {"B", "lora_B"}, {0}};
static const golden_name trimmed_names[] = {{"A_trim", "lora_A"}, {"E_trim", "lora_E"}, {"B_trim", "lora_B"}, {0}};
static const char letters[] = "AEB"; /* in the allocator's order */

/* What the README allows: masks, budgets and patterns are exact. */
enum { EXACT };
static const double tolerance = 1e-11;

/* ---- one layer ---- */

/* The adapter of the file, with the rows that the tensor `rows` has. */
static void write_spec(golden *g, const char *rows, char *spec, size_t size) {
  lk_view A = {.shape = {12}};
  golden_get(g, rows, &A);
  double r = golden_real(g, "init_r", (double)A.shape[0]), ranknum = golden_real(g, "ranknum", r);
  if (ranknum != r || golden_real(g, "rank_eps", 1e-5) != 1e-5)
    lk_fail(g->ctx, LK_EARG, "unsupported: a scaling by %g + %g with init_r = %g", ranknum,
            golden_real(g, "rank_eps", 1e-5), r);
  snprintf(spec, size, "adalora init_r=%.17g pruned=%.17g alpha=%.17g dropout=%.17g orth=%.17g", r,
           r - (double)A.shape[0], golden_real(g, "lora_alpha", 8), golden_real(g, "lora_dropout", 0),
           golden_real(g, "orth_reg_weight", 0.5));
}

static void compare_orthogonality(golden *g, golden_layer *l) {
  char name[40];
  lk_view v;
  if (!golden_has(g, "orth_loss") || lk_error(g->ctx, NULL)) return;
  lk_tape_reset(l->t);
  lk_train(l->t, 0, 0);
  lk_tensor loss = lk_adapter_loss(l->model, l->t);
  for (const golden_name *n = names; n->stored; n++) lk_param_zero_grad(golden_param(l, "default", n->param));
  if (lk_is_nil(loss)) lk_fail(g->ctx, LK_ENIL, "unsupported: orth_loss is recorded, and there is no term of the loss");
  else if (!lk_get(l->t, loss, &v)) golden_compare(g, "orth_loss", &v);
  lk_backward(l->t, loss);
  for (const golden_name *n = names; n->stored; n++) {
    const lk_param *p = golden_param(l, "default", n->param);
    snprintf(name, sizeof name, "grad_%s_orth", n->stored);
    if (!golden_has(g, name) || lk_error(g->ctx, NULL)) continue;
    if (!p->has_grad) lk_fail(g->ctx, LK_ENOGRAD, "%s got no gradient", p->name);
    v = p->value;
    v.p = p->grad;
    golden_compare(g, name, &v);
  }
}

static void compare_change(golden *g, golden_layer *l) {
  lk_view W0;
  if (!golden_has(g, "delta_W") || !golden_need(g, "W0", &W0) || lk_merge(l->model, NULL)) return;
  for (int64_t i = 0; i < lk_view_count(&W0); i++)
    lk_view_set(&W0, i, lk_view_get(&l->site->weight->value, i) - lk_view_get(&W0, i));
  golden_compare(g, "delta_W", &W0);
  lk_unmerge(l->model);
}

/* The layer with its adapter's values, or -1. */
static int open_layer(golden *g, golden_layer *l, const golden_name *tensors) {
  char spec[400];
  lk_view W;
  g->tolerance = tolerance;
  write_spec(g, tensors->stored, spec, sizeof spec);
  if (lk_error(g->ctx, NULL) || !golden_need(g, "W0", &W)) return -1;
  if (golden_layer_new(g, l, W.ndim == 4 ? LK_SITE_CONV2D : LK_SITE_LINEAR, tensors)) return -1;
  if (lk_attach(l->model, "default", spec, "site")) return -1;
  golden_assign(l, "default", "");
  return 0;
}

static void layer(golden *g) {
  golden_layer l = {0};
  if (!open_layer(g, &l, names)) {
    golden_pass(&l, 1, "y_train", "grad_");
    golden_pass(&l, 0, "y_eval", "grad_eval_");
    compare_orthogonality(g, &l);
    golden_merge(&l, "W_merged", "b_merged", "y_eval");
    compare_change(g, &l);
  }
  golden_layer_free(&l);
}

/* ---- trimming ---- */

static void rank_pattern(golden *g) {
  const golden_name *const both[] = {names, trimmed_names};
  lk_view pattern, A;
  int64_t kept = 0;
  for (int i = 0; i < 2; i++) {
    golden_layer l = {0};
    if (!open_layer(g, &l, both[i])) {
      golden_pass(&l, 0, "y_eval", NULL);
      golden_merge(&l, "W_merged", "b_merged", "y_eval");
    }
    golden_layer_free(&l);
  }
  if (lk_error(g->ctx, NULL) || !golden_need(g, "pattern", &pattern) || !golden_need(g, "A_trim", &A)) return;
  for (int64_t i = 0; i < lk_view_count(&pattern); i++) kept += lk_view_get(&pattern, i) != 0;
  if (kept != A.shape[0] || (double)kept != golden_real(g, "r_kept", (double)kept))
    lk_fail(g->ctx, LK_ESHAPE, "A_trim has %lld rows, the pattern keeps %lld", (long long)A.shape[0], (long long)kept);
}

/* ---- schedules ---- */

/* The number behind "key=" in "matrices=3,init_r=4". */
static int64_t number(golden *g, const char *text, const char *key) {
  size_t n = strlen(key);
  long long value;
  for (const char *s = text; *s; s += strcspn(s, ","), s += *s == ',') {
    s += strspn(s, " ");
    if (!strncmp(s, key, n) && s[n] == '=' && sscanf(s + n + 1, "%lld", &value) == 1) return value;
  }
  lk_fail(g->ctx, LK_EARG, "unsupported: a configuration without %s: %s", key, text);
  return 0;
}

static void run_schedule(golden *g, const char *config, const char *text) {
  char name[2][60];
  lk_view budget, due;
  int64_t n = number(g, text, "matrices");
  lk_rank_schedule s = {n * number(g, text, "init_r"), n * number(g, text, "target_r"), number(g, text, "tinit"),
                        number(g, text, "tfinal"),     number(g, text, "total_step"),   number(g, text, "deltaT")};
  snprintf(name[0], sizeof name[0], "%s.budget", config);
  snprintf(name[1], sizeof name[1], "%s.mask_ind", config);
  if (lk_error(g->ctx, NULL) || !golden_need(g, name[0], &budget)) return;
  if (lk_rank_schedule_fault(&s)) lk_fail(g->ctx, LK_EARG, "%s: %s", config, lk_rank_schedule_fault(&s));
  due = budget;
  int64_t steps = lk_view_count(&budget);
  due.p = lk_alloc_array(g->ctx, (size_t)steps + 1, sizeof(double));
  for (int64_t t = 0; t < steps && due.p; t++) {
    int yes;
    lk_view_set(&budget, t, (double)lk_rank_budget(&s, t, &yes));
    lk_view_set(&due, t, yes);
  }
  golden_compare_as(g, name[0], name[0], &budget, EXACT);
  golden_compare_as(g, name[1], name[1], &due, EXACT);
  lk_free(g->ctx, due.p);
}

static void schedule(golden *g) {
  int n = (int)golden_real(g, "n", 0);
  for (int i = 0; i < n && !lk_error(g->ctx, NULL); i++) {
    char config[20];
    snprintf(config, sizeof config, "c%d", i);
    const char *text = golden_text(g, config, NULL);
    if (text) run_schedule(g, config, text);
    else lk_fail(g->ctx, LK_EARG, "unsupported: %d configurations, and none called %s", n, config);
  }
}

/* ---- a training run ---- */

typedef struct {
  golden *g;
  int n; /* layers */
  lk_rank_schedule schedule;
  double lr, alpha, beta1, beta2, orth;
  int64_t r, steps, step;
  int finalised; /* tfinal = 0: here the last step brings ranks to the target, where PEFT leaves them */
  lk_view X, Y;
  lk_model *model;
  lk_linear_layer *layer[MOST_LAYERS];
  lk_tape *t;
  lk_view series[24 * MOST_LAYERS]; /* what came out, step after step, in the recorded shapes */
  char name[24 * MOST_LAYERS][60];
  int nseries;
} run;

/* The collected series of a name; NULL if nothing of this name is recorded. */
static lk_view *series(run *r, const char *name) {
  golden *g = r->g;
  for (int i = 0; i < r->nseries; i++)
    if (!strcmp(r->name[i], name)) return &r->series[i];
  lk_view *v = &r->series[r->nseries];
  if (!golden_has(g, name) || !golden_get(g, name, v)) return NULL;
  memset(v->p, 0xFF, lk_view_bytes(v)); /* numbers that are none, until they are put */
  snprintf(r->name[r->nseries++], sizeof r->name[0], "%s", name);
  return v;
}

/* Puts n numbers as those of step t. */
static void put(run *r, const char *name, int64_t t, const lk_view *from) {
  lk_view *to = series(r, name);
  int64_t n = to && to->ndim ? lk_view_count(to) / to->shape[0] : 0;
  if (!to || t >= to->shape[0]) return;
  if (lk_view_count(from) != n) lk_fail(r->g->ctx, LK_ESHAPE, "%s has %lld numbers a step", name, (long long)n);
  else
    for (int64_t i = 0; i < n; i++) lk_view_set(to, t * n + i, lk_view_get(from, i));
}

static void put_number(run *r, const char *name, double x) {
  lk_view v = {.p = &x, .dtype = LK_F64};
  put(r, name, r->step, &v);
}

/* Compares what was put in the first `steps` steps. */
static void compare_series(run *r, const char *name, int64_t steps, double allowed) {
  lk_view *got = series(r, name), want;
  if (!got || lk_error(r->g->ctx, NULL) || !golden_get(r->g, name, &want)) return;
  double largest = 0;
  got->shape[0] = want.shape[0] = steps < want.shape[0] ? steps : want.shape[0];
  for (int64_t i = 0; i < lk_view_count(&want); i++) largest = fmax(largest, fabs(lk_view_get(&want, i)));
  golden_expect(r->g, name, got, &want, allowed * fmin(1, largest));
}

static const char *of_layer(int layer, const char *what) {
  static char text[8][60];
  static int turn;
  turn = (turn + 1) % 8;
  snprintf(text[turn], sizeof text[turn], "lin%d.%s", layer, what);
  return text[turn];
}

/* "A.grad" */
static const char *of_part(int layer, int part, const char *what) {
  char text[40];
  snprintf(text, sizeof text, "%c.%s", letters[part], what);
  return of_layer(layer, text);
}

static lk_param *param(const run *r, int layer, const char *name) {
  for (lk_param *p = r->layer[layer]->module.site->stacks->chain->params; p; p = p->next) {
    const char *dot = strchr(p->name, '.');
    if (dot && !strcmp(dot + 1, name)) return p;
  }
  return NULL;
}

static int read_settings(run *r) {
  golden *g = r->g;
  const char *loss = golden_text(g, "loss", "mean((y-Y)^2)"), *act = golden_text(g, "hidden_activation", "tanh");
  r->n = (int)golden_real(g, "layers", 1);
  r->r = (int64_t)golden_real(g, "init_r", 12);
  r->alpha = golden_real(g, "lora_alpha", 8);
  r->beta1 = golden_real(g, "beta1", 0.85), r->beta2 = golden_real(g, "beta2", 0.85);
  r->orth = golden_real(g, "orth_reg_weight", 0.5);
  r->lr = golden_real(g, "lr", 0.1);
  r->schedule = (lk_rank_schedule){
      r->n * r->r,
      r->n * (int64_t)golden_real(g, "target_r", 8),
      (int64_t)golden_real(g, "tinit", 0),
      (int64_t)golden_real(g, "tfinal", 0),
      (int64_t)golden_real(g, "total_step", 0),
      (int64_t)golden_real(g, "deltaT", 1),
  };
  r->finalised = r->schedule.tfinal == 0;
  if (r->n < 1 || r->n > MOST_LAYERS) return lk_fail(g->ctx, LK_EARG, "unsupported: %d layers", r->n);
  if (!strstr(golden_text(g, "optimizer", "sgd"), "sgd") || golden_real(g, "momentum", 0) != 0 ||
      golden_real(g, "weight_decay", 0) != 0)
    return lk_fail(g->ctx, LK_EARG, "unsupported: an optimiser other than plain sgd");
  if (!strstr(loss, "mean((y-Y)^2)") || (!strstr(act, "tanh") && !strstr(act, "relu")))
    return lk_fail(g->ctx, LK_EARG, "unsupported: loss '%s' with hidden_activation '%s'", loss, act);
  if (golden_real(g, "lora_dropout", 0) > 0)
    return lk_fail(g->ctx, LK_EARG, "unsupported: a training run with lora_dropout = %g",
                   golden_real(g, "lora_dropout", 0));
  if (!golden_need(g, "X", &r->X) || !golden_need(g, "Y", &r->Y)) return -1;
  r->steps = r->X.shape[0];
  return lk_error(g->ctx, NULL);
}

static int make_net(run *r) {
  golden *g = r->g;
  char spec[400], name[20];
  lk_view W, b;
  r->model = lk_model_new(g->ctx, LK_F64, 0);
  r->t = lk_tape_new(g->ctx);
  for (int i = 0; i < r->n && !lk_error(g->ctx, NULL); i++) {
    if (!golden_need(g, of_layer(i, "W0"), &W)) return -1;
    int bias = golden_has(g, of_layer(i, "b0")) && golden_get(g, of_layer(i, "b0"), &b);
    snprintf(name, sizeof name, "lin%d", i);
    r->layer[i] = lk_linear_new(lk_model_root(r->model), name, W.shape[1], W.shape[0], bias ? 0 : LK_NO_BIAS);
    if (!r->layer[i]) return -1;
    lk_param_assign(r->layer[i]->weight, &W);
    if (bias) lk_param_assign(r->layer[i]->bias, &b);
  }
  snprintf(spec, sizeof spec,
           "adalora target_r=%.17g init_r=%lld alpha=%.17g tinit=%lld tfinal=%lld deltaT=%lld total=%lld beta1=%.17g "
           "beta2=%.17g orth=%.17g",
           (double)r->schedule.target / r->n, (long long)r->r, r->alpha, (long long)r->schedule.tinit,
           (long long)r->schedule.tfinal, (long long)r->schedule.interval, (long long)r->schedule.total, r->beta1,
           r->beta2, r->orth);
  if (lk_error(g->ctx, NULL) || lk_attach(r->model, "default", spec, "all-linear")) return -1;
  for (int i = 0; i < r->n; i++)
    for (int p = 0; p < PARTS; p++) {
      if (!golden_need(g, of_part(i, p, "init"), &W)) return -1;
      lk_param_assign(param(r, i, names[p].param), &W);
    }
  return lk_error(g->ctx, NULL);
}

/* A step's part of X or Y as a constant. */
static lk_tensor batch(run *r, const lk_view *all, int64_t t) {
  int64_t n = lk_view_count(all) / all->shape[0];
  return lk_input(r->t, LK_F64, all->ndim - 1, all->shape + 1, (const double *)all->p + t * n);
}

static lk_tensor net(run *r, lk_tensor x) {
  int relu = strstr(golden_text(r->g, "hidden_activation", "tanh"), "relu") != NULL;
  for (int i = 0; i < r->n; i++) {
    x = lk_linear_forward(r->layer[i], r->t, x);
    if (i + 1 < r->n) x = relu ? lk_relu(r->t, x) : lk_tanh(r->t, x);
  }
  return x;
}

/* Between the optimiser's update and the allocator. */
static int updated(void *arg) {
  run *r = arg;
  for (int i = 0; i < r->n; i++)
    for (int p = 0; p < PARTS; p++) {
      const lk_param *w = param(r, i, names[p].param);
      lk_view grad = w->value;
      grad.p = w->grad;
      put(r, of_part(i, p, "p"), r->step, &w->value);
      if (w->has_grad) put(r, of_part(i, p, "grad"), r->step, &grad);
    }
  return 0;
}

static void look(run *r) {
  static const char *const averages[] = {"exp_avg_ipt", "exp_avg_unc"};
  char name[60];
  double kept = 0;
  for (int i = 0; i < r->n; i++) {
    const lk_param *pattern = param(r, i, "rank_pattern");
    for (int p = 0; p < PARTS; p++)
      for (int k = 0; k < 2; k++) {
        snprintf(name, sizeof name, "%s.%s", names[p].param, averages[k]);
        put(r, of_part(i, p, averages[k]), r->step, &param(r, i, name)->value);
      }
    put(r, of_layer(i, "pattern"), r->step, &pattern->value);
    put(r, of_layer(i, "E_after"), r->step, &param(r, i, "lora_E")->value);
    for (int64_t k = 0; k < r->r; k++) kept += lk_view_get(&pattern->value, k);
  }
  put_number(r, "seq.kept", kept);
}

static lk_status train_step(run *r, lk_optim *opt) {
  lk_tape_reset(r->t);
  lk_train(r->t, (uint64_t)r->step, 0);
  lk_tensor d = lk_sub(r->t, net(r, batch(r, &r->X, r->step)), batch(r, &r->Y, r->step));
  lk_tensor loss = lk_mean(r->t, lk_mul(r->t, d, d), 0, NULL, 0);
  put_number(r, "seq.task_loss", lk_item(r->t, loss));
  loss = lk_plus(r->t, loss, lk_adapter_loss(r->model, r->t));
  put_number(r, "seq.loss", lk_item(r->t, loss));
  lk_backward(r->t, loss);
  if (lk_step(opt)) return lk_error(r->g->ctx, NULL);
  look(r);
  return lk_error(r->g->ctx, NULL);
}

static void train(run *r) {
  lk_optim_options o = lk_optim_defaults(&lk_optim_sgd);
  int n;
  o.lr = r->lr;
  lk_param **p = lk_trainable(r->model, &n);
  lk_optim *opt = p ? lk_optim_new(r->g->ctx, &lk_optim_sgd, &o, p, n) : NULL;
  lk_free(r->g->ctx, p);
  if (opt && !lk_optim_on_step(opt, NULL, updated, r) && !lk_adapter_follow(r->model, opt))
    for (r->step = 0; r->step < r->steps; r->step++)
      if (train_step(r, opt)) break;
  lk_optim_free(opt);
}

/* (What the allocator alone makes of E is compared with a final E that the adapter has brought to the target.) */
static void compare_final(run *r) {
  lk_view y, E;
  for (int i = 0; i < r->n; i++)
    for (int p = 0; p < PARTS; p++) {
      lk_param *is = param(r, i, names[p].param);
      if (!r->finalised || p != LK_TRIPLET_E) golden_compare(r->g, of_part(i, p, "final"), &is->value);
      else if (golden_need(r->g, of_part(i, p, "final"), &E)) lk_param_assign(is, &E);
    }
  lk_tape_reset(r->t);
  lk_tensor out = net(r, batch(r, &r->X, 0));
  if (!lk_get(r->t, out, &y)) golden_compare(r->g, "y_final_on_X0", &y);
}

static void compare_training(run *r) {
  const int64_t all = r->steps, masks = all - r->finalised;
  compare_series(r, "seq.task_loss", all, tolerance);
  compare_series(r, "seq.loss", all, tolerance);
  compare_series(r, "seq.kept", masks, EXACT);
  for (int i = 0; i < r->n; i++) {
    compare_series(r, of_layer(i, "pattern"), masks, EXACT);
    compare_series(r, of_layer(i, "E_after"), masks, tolerance);
    for (int p = 0; p < PARTS; p++) {
      compare_series(r, of_part(i, p, "p"), all, tolerance);
      compare_series(r, of_part(i, p, "grad"), all, 1e-9);
      compare_series(r, of_part(i, p, "exp_avg_ipt"), all, 1e-9);
      compare_series(r, of_part(i, p, "exp_avg_unc"), all, 1e-9);
    }
  }
  if (!lk_error(r->g->ctx, NULL)) compare_final(r);
}

/* ---- the allocator alone, fed with the recorded values and gradients ---- */

/* Memory of the allocator's: three parts of doubles of a layer's p, twice, and its pattern. */
static int make_triplets(run *r, int layer, lk_triplets *m) {
  golden *g = r->g;
  for (int p = 0; p < PARTS; p++) {
    lk_view all;
    if (!golden_need(g, of_part(layer, p, "p"), &all)) return -1;
    lk_view_init(&m->value[p], LK_F64, all.ndim - 1, all.shape + 1);
    size_t n = (size_t)lk_view_count(&m->value[p]) + 1;
    m->value[p].p = lk_alloc_array(g->ctx, n, sizeof(double));
    m->Ib[p] = lk_alloc_array(g->ctx, n, sizeof(double));
    m->Ub[p] = lk_alloc_array(g->ctx, n, sizeof(double));
  }
  double *kept = m->kept = lk_alloc_array(g->ctx, (size_t)r->r + 1, sizeof(double));
  for (int64_t i = 0; kept && i < r->r; i++) kept[i] = 1;
  return lk_error(g->ctx, NULL);
}

static void free_triplets(lk_ctx *c, lk_triplets *m) {
  for (int p = 0; p < PARTS; p++) {
    lk_free(c, m->value[p].p);
    lk_free(c, m->Ib[p]);
    lk_free(c, m->Ub[p]);
  }
  lk_free(c, m->kept);
}

/* What training left in E is that of the recorded p, so each step starts from the record. */
static int feed(run *r, lk_rank_allocator *a) {
  for (int i = 0; i < a->n; i++)
    for (int p = 0; p < PARTS; p++) {
      lk_view all, grad, *v = &a->matrix[i].value[p];
      if (!golden_need(r->g, of_part(i, p, "p"), &all) || !golden_need(r->g, of_part(i, p, "grad"), &grad)) return -1;
      size_t n = (size_t)lk_view_count(v), at = n * (size_t)r->step;
      memcpy(v->p, (const double *)all.p + at, n * sizeof(double));
      a->matrix[i].grad[p] = (const double *)grad.p + at;
    }
  return 0;
}

static void look_at_allocator(run *r, const lk_rank_allocator *a) {
  double zero[64] = {0};
  int last = r->step == r->schedule.total - r->schedule.tfinal;
  put_number(r, "seq.budget", (double)a->budget);
  put_number(r, "seq.masked", a->ranked);
  put_number(r, "seq.threshold", a->threshold);
  for (int i = 0; i < a->n && r->r <= 64; i++) {
    lk_triplets *m = &a->matrix[i];
    lk_view v = {.p = a->ranked ? a->score + i * r->r : zero, .dtype = LK_F64, .ndim = 1, .shape = {r->r}, {1}};
    put(r, of_layer(i, "score"), r->step, &v);
    v.p = m->kept;
    put(r, of_layer(i, "pattern"), r->step, &v);
    put(r, of_layer(i, "E_after"), r->step, &m->value[LK_TRIPLET_E]);
    for (int p = 0; p < PARTS && !last; p++) {
      v = m->value[p];
      v.p = m->Ib[p];
      put(r, of_part(i, p, "exp_avg_ipt"), r->step, &v);
      v.p = m->Ub[p];
      put(r, of_part(i, p, "exp_avg_unc"), r->step, &v);
    }
  }
}

static void compare_allocator(run *r) {
  compare_series(r, "seq.budget", r->steps, EXACT);
  compare_series(r, "seq.masked", r->steps, EXACT);
  compare_series(r, "seq.threshold", r->steps, 1e-9);
  for (int i = 0; i < r->n; i++) {
    compare_series(r, of_layer(i, "score"), r->steps, 1e-9);
    compare_series(r, of_layer(i, "pattern"), r->steps, EXACT);
    compare_series(r, of_layer(i, "E_after"), r->steps, tolerance);
    for (int p = 0; p < PARTS; p++) {
      compare_series(r, of_part(i, p, "exp_avg_ipt"), r->steps, 1e-9);
      compare_series(r, of_part(i, p, "exp_avg_unc"), r->steps, 1e-9);
    }
  }
}

static void allocate_alone(run *r) {
  golden *g = r->g;
  lk_triplets m[MOST_LAYERS] = {0};
  lk_rank_allocator a = {.schedule = r->schedule, .beta1 = r->beta1, .beta2 = r->beta2, .matrix = m, .n = r->n};
  a.score = lk_alloc_array(g->ctx, (size_t)r->schedule.initial + 1, sizeof *a.score);
  a.order = lk_alloc_array(g->ctx, (size_t)r->schedule.initial + 1, sizeof *a.order);
  r->nseries = 0; /* begin anew */
  if (r->r > 64) lk_fail(g->ctx, LK_EARG, "unsupported: init_r = %lld", (long long)r->r);
  for (int i = 0; i < r->n && !lk_error(g->ctx, NULL); i++) make_triplets(r, i, &m[i]);
  for (r->step = 0; r->step < r->steps && !lk_error(g->ctx, NULL); r->step++)
    if (!feed(r, &a) && !lk_rank_step(g->ctx, &a, r->step)) look_at_allocator(r, &a);
  if (!lk_error(g->ctx, NULL)) compare_allocator(r);
  for (int i = 0; i < r->n && r->finalised && !lk_error(g->ctx, NULL); i++)
    golden_compare(g, of_part(i, LK_TRIPLET_E, "final"), &m[i].value[LK_TRIPLET_E]);
  for (int i = 0; i < r->n; i++) free_triplets(g->ctx, &m[i]);
  lk_free(g->ctx, a.order);
  lk_free(g->ctx, a.score);
}

static void sequence(golden *g) {
  run *r = lk_alloc(g->ctx, sizeof *r);
  if (!r) return;
  r->g = g;
  g->tolerance = tolerance;
  if (!read_settings(r) && !make_net(r)) {
    train(r);
    if (!lk_error(g->ctx, NULL)) compare_training(r);
    if (!lk_error(g->ctx, NULL)) allocate_alone(r);
  }
  lk_tape_free(r->t);
  lk_model_free(r->model);
  lk_free(g->ctx, r);
}

static const golden_kind kinds[] = {
    {"layer", layer}, {"sequence", sequence}, {"schedule", schedule}, {"rank_pattern", rank_pattern}, {0}};
const golden_method golden_adalora = {.method = "adalora", .kinds = kinds};
