/* directory.c: an adapter as HuggingFace PEFT writes it, beside a small base model and recorded outputs.
 *
 * The base model: x = embed[ids]; in every layer q, k, v = q_proj(x), k_proj(x), v_proj(x) of one head of width d,
 * x += out_proj(softmax(q k^T / sqrt(d)) v), x += fc2(tanh(fc1(x))); then classifier(mean over the positions). */
#include "golden.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LINEARS = 6, LAYERS = 64 };

/* ---- the base model ---- */

typedef struct {
  lk_model *model;
  lk_embedding_layer *embed;
  lk_linear_layer *linear[LAYERS][LINEARS], *classifier;
  int layers;
} tiny;

static const char *const linears[LINEARS] = {"attn.q_proj",   "attn.k_proj", "attn.v_proj",
                                             "attn.out_proj", "fc1",         "fc2"};

/* The module at a path, made with its ancestors where they are missing. */
static lk_module *branch(lk_module *root, const char *path) {
  lk_module *m = lk_module_find(root, path);
  const char *dot = strrchr(path, '.');
  char above[300];
  if (m || !*path) return m ? m : root;
  snprintf(above, sizeof above, "%.*s", dot ? (int)(dot - path) : 0, path);
  return lk_module_new(branch(root, above), dot ? dot + 1 : path, "block", sizeof *m);
}

/* The linear layer at a path with the shape that the file has for it; NULL if it has none. */
static lk_linear_layer *make_linear(golden *g, lk_module *root, const char *path) {
  char name[320], above[300];
  const char *dot = strrchr(path, '.');
  snprintf(name, sizeof name, "%s.weight", path);
  const lk_stored *w = lk_safetensors_find(g->file, name);
  if (!w || w->ndim != 2) return NULL;
  snprintf(name, sizeof name, "%s.bias", path);
  int flags = golden_has(g, name) ? 0 : LK_NO_BIAS;
  snprintf(above, sizeof above, "%.*s", dot ? (int)(dot - path) : 0, path);
  return lk_linear_new(branch(root, above), dot ? dot + 1 : path, w->shape[1], w->shape[0], flags);
}

/* Where the embedding is says where the layers are. */
static const lk_stored *find_embedding(const golden *g, char *prefix, size_t size) {
  static const char end[] = "embed.weight";
  for (size_t i = 0; i < lk_safetensors_count(g->file); i++) {
    const lk_stored *s = lk_safetensors_at(g->file, i);
    size_t n = strlen(s->name), k = sizeof end - 1;
    if (n < k || strcmp(s->name + n - k, end) || s->ndim != 2) continue;
    snprintf(prefix, size, "%.*s", (int)(n - k), s->name);
    return s;
  }
  return NULL;
}

static lk_status make_tiny(golden *g, tiny *m, const char *path) {
  char prefix[200] = "", name[300];
  m->model = lk_model_new(g->ctx, LK_F32, 0);
  lk_module *root = lk_model_root(m->model);
  const lk_stored *embed = find_embedding(g, prefix, sizeof prefix);
  if (!root || !embed) return lk_fail(g->ctx, LK_EARG, "%s has no embed.weight", path);
  size_t n = strlen(prefix);
  snprintf(name, sizeof name, "%.*s", n ? (int)n - 1 : 0, prefix);
  m->embed = lk_embedding_new(branch(root, name), "embed", embed->shape[0], embed->shape[1]);
  for (int complete = 1; complete && m->layers < LAYERS && !lk_error(g->ctx, NULL); m->layers += complete)
    for (int i = 0; i < LINEARS; i++) {
      snprintf(name, sizeof name, "%slayers.%d.%s", prefix, m->layers, linears[i]);
      m->linear[m->layers][i] = make_linear(g, root, name);
      complete &= m->linear[m->layers][i] != NULL;
    }
  m->classifier = make_linear(g, root, "classifier");
  if (!m->classifier) return lk_fail(g->ctx, LK_EARG, "%s has no classifier.weight", path);
  return lk_model_load(m->model, path, LK_LOAD_COPY);
}

static lk_tensor forward(tiny *m, lk_tape *t, lk_tensor ids) {
  static const int positions = 1;
  lk_tensor x = lk_embedding_forward(m->embed, t, ids);
  for (int i = 0; i < m->layers; i++) {
    lk_linear_layer **l = m->linear[i];
    lk_tensor q = lk_linear_forward(l[0], t, x), k = lk_linear_forward(l[1], t, x), v = lk_linear_forward(l[2], t, x);
    lk_tensor scores = lk_scale(t, lk_matmul(t, q, lk_transpose(t, k, -1, -2)), 1 / sqrt((double)l[0]->out));
    x = lk_add(t, x, lk_linear_forward(l[3], t, lk_matmul(t, lk_softmax(t, scores, -1), v)));
    x = lk_add(t, x, lk_linear_forward(l[5], t, lk_tanh(t, lk_linear_forward(l[4], t, x))));
  }
  return lk_linear_forward(m->classifier, t, lk_mean(t, x, 1, &positions, 0));
}

/* ---- the directory ---- */

/* "default", or the folder that holds the adapter. */
static void adapter_name(golden *g, char *name, size_t size) {
  char path[1200];
  snprintf(path, sizeof path, "%s/adapter_config.json", g->path);
  snprintf(name, size, "default");
  if (lk_file_exists(path)) return;
  DIR *d = opendir(g->path);
  for (struct dirent *e; d && (e = readdir(d));) {
    snprintf(path, sizeof path, "%s/%s/adapter_config.json", g->path, e->d_name);
    if (e->d_name[0] != '.' && lk_file_exists(path)) snprintf(name, size, "%s", e->d_name);
  }
  if (d) closedir(d);
}

/* Trained elements that a trimmed AdaLoRA has lost: the recorded count is of the adapter as it was made. */
static int64_t trimmed_count(lk_model *model, const char *name) {
  lk_adapter *a = lk_adapter_find(model, name);
  int64_t n = 0;
  for (lk_module *m = lk_model_root(model); m && a; m = lk_module_walk(lk_model_root(model), m))
    for (lk_site_stack *s = m->site ? m->site->stacks : NULL; s; s = s->next)
      n += s->adapter == a ? (int64_t)lk_at_option(s->chain, "pruned", 0) * (m->site->in + m->site->out + 1) : 0;
  return n;
}

static void compare_outputs(golden *g, tiny *m, lk_tape *t) {
  char name[256];
  lk_view ids, y;
  double counted;
  if (!golden_get_whole(g, "ids", &ids)) {
    lk_fail(g->ctx, LK_EARG, "io.safetensors has no ids");
    return;
  }
  lk_no_grad(t, 1);
  lk_tensor input = lk_input(t, LK_I64, ids.ndim, ids.shape, ids.p);
  if (!lk_get(t, forward(m, t, input), &y)) golden_compare(g, "y_base", &y);
  adapter_name(g, name, sizeof name);
  if (lk_adapter_load(m->model, name, g->path, 1)) return;
  if (!lk_get(t, forward(m, t, input), &y)) golden_compare(g, "y_adapter", &y);
  lk_view count = {.p = &counted, .dtype = LK_F64};
  counted = (double)(lk_trainable_count(m->model) + trimmed_count(m->model, name));
  golden_compare_as(g, "trainable_count", "trainable_count", &count, 0);
}

void golden_directory(golden *g) {
  char path[1100];
  golden base = {.path = g->path, .ctx = g->ctx};
  tiny m = {0};
  snprintf(path, sizeof path, "%s/base_model.safetensors", g->path);
  if (!golden_open(&base, path)) make_tiny(&base, &m, path);
  golden_close(&base);
  lk_tape *t = lk_tape_new(g->ctx);
  snprintf(path, sizeof path, "%s/io.safetensors", g->path);
  g->tolerance = 1e-5; /* single precision */
  if (!golden_open(g, path)) compare_outputs(g, &m, t);
  lk_tape_free(t);
  lk_model_free(m.model);
}
