/* lora_drop.c: golden cases of LoRA-drop: a small network, its importances, what is kept, training with sharing.
 *
 *   chain   h_l = tanh(lin_l(h_(l-1))), the last one without tanh
 *   qv      h_l = tanh(q_l(h_(l-1)) + v_l(h_(l-1)) M^T)
 *   updown  h_l = h_(l-1) + down_l(tanh(up_l(h_(l-1)))) */
#include "golden.h"

#include <stdio.h>
#include <string.h>

enum { LAYERS = 64, TYPES = 4 };

typedef struct {
  golden *g;
  lk_model *model;
  lk_tape *t;
  char topology[20], type[TYPES][20];
  int types, layers;
  lk_linear_layer *linear[LAYERS][TYPES];
} network;

/* "<what>.<type>.<layer>", layer -1: "<what>.<type>" */
static const char *key(const network *n, const char *what, int type, int layer) {
  static char name[80];
  if (layer < 0) snprintf(name, sizeof name, "%s.%s", what, n->type[type]);
  else snprintf(name, sizeof name, "%s.%s.%d", what, n->type[type], layer);
  return name;
}

/* ---- the network ---- */

static void make_linear(network *n, int type, int layer) {
  lk_view W, b;
  char path[20];
  golden *g = n->g;
  if (!golden_need(g, key(n, "W", type, layer), &W)) return;
  int bias = golden_get(g, key(n, "b", type, layer), &b);
  lk_module *parent = lk_model_root(n->model);
  snprintf(path, sizeof path, "layers.%d", layer);
  lk_module *block = lk_module_find(parent, path);
  if (!block) block = lk_module_new(parent, path, "block", sizeof *block);
  lk_linear_layer *l = lk_linear_new(block, n->type[type], W.shape[1], W.shape[0], bias ? 0 : LK_NO_BIAS);
  n->linear[layer][type] = l;
  if (!l || lk_param_assign(l->module.site->weight, &W) || !bias) return;
  lk_param_assign(l->module.site->bias, &b);
}

/* The metadata's "q,v" taken apart. */
static void read_types(network *n) {
  const char *s = golden_text(n->g, "module_types", "");
  while (*s && n->types < TYPES) {
    size_t k = strcspn(s, ", []\"");
    if (k) snprintf(n->type[n->types++], sizeof *n->type, "%.*s", (int)k, s);
    s += k + (s[k] != 0);
  }
}

static int network_new(golden *g, network *n) {
  *n = (network){.g = g, .model = lk_model_new(g->ctx, LK_F64, 0), .t = lk_tape_new(g->ctx)};
  snprintf(n->topology, sizeof n->topology, "%s", golden_text(g, "topology", ""));
  n->layers = (int)golden_real(g, "n_layers", 0);
  read_types(n);
  int want = !strcmp(n->topology, "chain") ? 1 : !strcmp(n->topology, "qv") || !strcmp(n->topology, "updown") ? 2 : 0;
  if (!want || n->types != want || n->layers < 1 || n->layers > LAYERS)
    lk_fail(g->ctx, LK_EARG, "unsupported: topology '%s' of %d types and %d layers", n->topology, n->types, n->layers);
  for (int l = 0; l < n->layers; l++)
    for (int i = 0; i < n->types && !lk_error(g->ctx, NULL); i++) make_linear(n, i, l);
  return lk_error(g->ctx, NULL) ? -1 : 0;
}

static void network_free(network *n) {
  lk_tape_free(n->t);
  lk_model_free(n->model);
}

static lk_tensor constant(network *n, const char *name) {
  lk_view v;
  return golden_need(n->g, name, &v) ? lk_input(n->t, LK_F64, v.ndim, v.shape, v.p) : lk_nil();
}

static lk_tensor layer(network *n, int l, lk_tensor h) {
  lk_tape *t = n->t;
  lk_tensor first = n->linear[l][0] ? lk_linear_forward(n->linear[l][0], t, h) : lk_nil();
  if (n->types == 1) return l + 1 < n->layers ? lk_tanh(t, first) : first;
  if (!strcmp(n->topology, "updown")) return lk_add(t, h, lk_linear_forward(n->linear[l][1], t, lk_tanh(t, first)));
  lk_tensor v = lk_linear_forward(n->linear[l][1], t, h);
  return lk_tanh(t, lk_add(t, first, lk_linear(t, v, constant(n, "M"), lk_nil())));
}

static lk_tensor forward(network *n, lk_tensor h) {
  for (int l = 0; l < n->layers && !lk_error(n->g->ctx, NULL); l++) h = layer(n, l, h);
  return h;
}

/* ---- parameters ---- */

static lk_param *pair(network *n, int type, int layer, const char *which) {
  lk_at *lora = n->linear[layer][type]->module.site->stacks->chain->inner;
  for (lk_param *p = lora->params; p; p = p->next)
    if (strstr(p->name, which)) return p->alias ? p->alias : p;
  return NULL;
}

static void assign(network *n, const char *what, int type, int layer, int named_layer, const char *which) {
  char name[90];
  lk_view v;
  snprintf(name, sizeof name, "%s", key(n, what, type, named_layer));
  if (golden_need(n->g, name, &v)) lk_param_assign(pair(n, type, layer, which), &v);
}

static lk_param *buffer(network *n, const char *which) {
  lk_param *p = n->linear[0][0]->module.site->stacks->chain->method->params;
  while (p && !strstr(p->name, which)) p = p->next;
  return p;
}

/* The buffer's values of one type, as [layers].  Sites are in the model's order: layer by layer. */
static lk_view of_type(network *n, const char *which, int type, double *room) {
  lk_view v, all = buffer(n, which)->value;
  lk_view_init(&v, LK_F64, 1, (int64_t[]){n->layers});
  v.p = room;
  for (int l = 0; l < n->layers; l++) room[l] = lk_view_get(&all, l * n->types + type);
  return v;
}

static int is_kept(network *n, int type, int layer) {
  double room[LAYERS];
  of_type(n, "keep", type, room);
  return room[layer] == 1;
}

/* ---- phase 1 ---- */

/* Layers from the most important on; ties: the lower one first. */
static lk_view order_of(const lk_view *importance, double *room) {
  lk_view v = *importance;
  int64_t n = importance->shape[0];
  v.p = room;
  for (int64_t i = 0; i < n; i++) {
    int64_t before = 0;
    for (int64_t j = 0; j < n; j++) {
      double a = lk_view_get(importance, j), b = lk_view_get(importance, i);
      before += a > b || (a == b && j < i);
    }
    room[before] = (double)i;
  }
  return v;
}

static void compare_group(network *n, const char *group, const lk_view *importance, const lk_view *keep) {
  char name[60];
  double room[LAYERS];
  lk_view order = order_of(importance, room);
  snprintf(name, sizeof name, "imp.norm.%s", group);
  golden_compare(n->g, name, importance);
  snprintf(name, sizeof name, "imp.order.%s", group);
  golden_compare_as(n->g, name, name, &order, 0);
  snprintf(name, sizeof name, "keep.%s", group);
  golden_compare_as(n->g, name, name, keep, 0);
}

static void compare_importance(network *n) {
  double raw[LAYERS], sum[LAYERS] = {0}, importance[LAYERS], keep[LAYERS];
  int whole = strstr(golden_text(n->g, "scope", "type"), "layer") != NULL;
  lk_view r, i, k, s;
  for (int type = 0; type < n->types; type++) {
    r = s = of_type(n, "raw", type, raw);
    i = of_type(n, "importance", type, importance);
    k = of_type(n, "keep", type, keep);
    golden_compare(n->g, key(n, "imp.raw", type, -1), &r);
    for (int l = 0; l < n->layers; l++) sum[l] += raw[l];
    if (!whole) compare_group(n, n->type[type], &i, &k);
  }
  s.p = sum;
  if (whole) golden_compare(n->g, "imp.raw.layer", &s);
  if (whole) compare_group(n, "layer", &i, &k);
}

static void measure(network *n) {
  lk_view y;
  for (int l = 0; l < n->layers; l++)
    for (int i = 0; i < n->types; i++) {
      assign(n, "warm.A", i, l, l, "lora_A");
      assign(n, "warm.B", i, l, l, "lora_B");
    }
  if (lk_error(n->g->ctx, NULL) || lk_adapter_phase(n->model, "importance")) return;
  if (!lk_get(n->t, forward(n, constant(n, "calib.x")), &y)) golden_compare(n->g, "calib.y", &y);
  if (!lk_adapter_phase(n->model, "select")) compare_importance(n);
}

/* ---- phase 2 ---- */

static void assign_pairs(network *n) {
  for (int l = 0; l < n->layers; l++)
    for (int i = 0; i < n->types; i++) {
      int own = is_kept(n, i, l);
      assign(n, own ? "A" : "A_shared", i, l, own ? l : -1, "lora_A");
      assign(n, own ? "B" : "B_shared", i, l, own ? l : -1, "lora_B");
    }
}

/* The recorded masks hold 1 / (1 - p) where something is kept. */
static void recorded_masks(network *n) {
  char name[80];
  for (int l = 0; l < n->layers; l++)
    for (int i = 0; i < n->types; i++) {
      lk_view mask;
      if (!golden_get(n->g, key(n, "mask", i, l), &mask)) continue;
      for (int64_t k = 0; k < lk_view_count(&mask); k++) lk_view_set(&mask, k, lk_view_get(&mask, k) != 0);
      snprintf(name, sizeof name, "layers.%d.%s.drop", l, n->type[i]);
      lk_side(n->t, name, lk_input(n->t, LK_F64, mask.ndim, mask.shape, mask.p));
    }
}

static void compare_grad(network *n, const char *what, int type, int layer, const lk_param *p) {
  char name[90];
  lk_view v = p->value;
  snprintf(name, sizeof name, "grad.%s", key(n, what, type, layer));
  v.p = p->grad;
  if (v.p) golden_compare(n->g, name, &v);
}

static void train(network *n) {
  golden *g = n->g;
  lk_view x, y, loss;
  if (!golden_need(g, "x", &x)) return;
  void *gx = lk_alloc(g->ctx, lk_view_bytes(&x) + 1);
  lk_tape_reset(n->t);
  lk_train(n->t, 0, 0);
  recorded_masks(n);
  lk_tensor out = gx ? forward(n, lk_leaf(n->t, &x, gx)) : lk_nil();
  if (!lk_get(n->t, out, &y)) golden_compare(g, "y_train", &y);
  lk_tensor sum = lk_sum(n->t, lk_mul(n->t, out, constant(n, "g")), 0, NULL, 0);
  if (!lk_get(n->t, sum, &loss)) golden_compare(g, "L", &loss);
  if (!lk_backward(n->t, sum)) {
    x.p = gx;
    golden_compare(g, "grad.x", &x);
    for (int l = 0; l < n->layers; l++)
      for (int i = 0; i < n->types; i++) {
        int own = is_kept(n, i, l);
        compare_grad(n, own ? "A" : "A_shared", i, own ? l : -1, pair(n, i, l, "lora_A"));
        compare_grad(n, own ? "B" : "B_shared", i, own ? l : -1, pair(n, i, l, "lora_B"));
      }
  }
  lk_free(g->ctx, gx);
}

static void evaluate(network *n) {
  golden *g = n->g;
  lk_view y, count;
  double counted = (double)lk_adapter_count(n->model, "default");
  double full = golden_real(g, "n_trainable", counted);
  lk_view_init(&count, LK_F64, 0, NULL);
  count.p = &counted;
  lk_view want = count;
  want.p = &full;
  golden_expect(g, "n_trainable", &count, &want, 0);
  lk_tape_reset(n->t);
  if (!lk_get(n->t, forward(n, constant(n, "x")), &y)) golden_compare(g, "y_eval", &y);
  if (lk_merge(n->model, NULL)) return;
  for (int l = 0; l < n->layers; l++)
    for (int i = 0; i < n->types; i++)
      golden_compare(g, key(n, "merged", i, l), &n->linear[l][i]->module.site->weight->value);
  lk_tape_reset(n->t);
  if (!lk_get(n->t, forward(n, constant(n, "x")), &y))
    golden_compare_as(g, "y_eval", "y_eval, merged", &y, g->tolerance);
}

static void run(golden *g) {
  char spec[300];
  network n;
  int keep_n = (int)golden_real(g, "keep_n", 0);
  double rank = golden_real(g, "rank", golden_real(g, "r", 8));
  int used = snprintf(spec, sizeof spec, "lora_drop T=%.17g scope=%s", golden_real(g, "threshold", 0.9),
                      strstr(golden_text(g, "scope", "type"), "layer") ? "layer" : "type");
  if (keep_n) used += snprintf(spec + used, sizeof spec - (size_t)used, " keep_n=%d", keep_n);
  snprintf(spec + used, sizeof spec - (size_t)used, " (lora r=%.0f alpha=%.17g dropout=%.17g)", rank,
           golden_real(g, "alpha", rank), golden_real(g, "dropout_p", 0));
  if (!network_new(g, &n) && !lk_attach(n.model, "default", spec, "all-linear")) {
    measure(&n);
    if (!lk_error(g->ctx, NULL)) assign_pairs(&n);
    if (!lk_error(g->ctx, NULL)) train(&n);
    if (!lk_error(g->ctx, NULL)) evaluate(&n);
  }
  network_free(&n);
}

static const char *guess(golden *g) { return golden_has(g, "calib.x") ? "network" : NULL; }

static const golden_kind kinds[] = {{"network", run}, {0}};
const golden_method golden_lora_drop = {.method = "lora_drop", .kinds = kinds, .guess = guess};
