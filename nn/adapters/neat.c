/* neat.c: NEAT, also called PEANuT: the change of a frozen weight is made from that weight, by a small network.
 *
 *   W = W0 + s B H,   H = f(W0)         orientation=out:  A [r, out],  B [out, r],  H [r, in]
 *   W = W0 + s H B^T, H = f(W0^T)^T     orientation=in:   A [r, in],   B [in, r],   H [out, r]
 *
 *   f(V) = act(A V);  at depth q:  H_0 = act(A V),  H_{i+1} = act(E_i H_i),
 *                                  K_0 = H_q,  K_{j+1} = act(D_j K_j) + H_{q-1-j},  f(V) = K_q
 *
 * E_i, D_j [r, r]; residual=none leaves "+ H" out.  H depends on the weights only: it is made once in a pass, and kept
 * from pass to pass while nothing trains.  With H in hand this is LoRA, y = W0 x + b0 + s B (H x), and the change,
 * [out, in], is never formed.  (With more than in out / 3 (in + out) hidden units and many tokens, forming it would be
 * cheaper.)  W0 gets no gradient.
 *
 * Zhong et al., "NEAT: Nonlinear Parameter-efficient Adaptation of Pre-trained Models", arXiv 2410.01870, later
 * "PEANuT: Parameter-Efficient Adaptation with Weight-aware Neural Tweakers".  Names are HuggingFace PEFT's. */
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { OUT, IN };
enum { PAIRS, NONE };
enum { INIT_DEFAULT, INIT_RANDOM };
enum { MOST = 32 }; /* encoders */

/* The first ones, all different, are what a search chooses from. */
#define ACTIVATIONS                                                                                                    \
  "relu|leaky_relu|gelu|silu|tanh|sigmoid|mish|sin|linear|"                                                            \
  "gelu_10|gelu_accurate|gelu_fast|gelu_new|gelu_python|gelu_python_tanh|gelu_pytorch_tanh|hardswish|laplace|"         \
  "quick_gelu|relu2|relu6|sqrtsoftplus|swish"
enum { SEARCHED = 9 };

typedef struct {
  int r, depth, act;
  double scaling;
  int orientation, residual, init, search;
} config;

typedef struct {
  lk_param *A, *B, *E[MOST], *D[MOST];
  lk_param *choice; /* with search: [1], number of the activation, -1: free */
  void *H;          /* kept from the last pass without gradient, row-major in A's dtype, or NULL */
  lk_key made_of;   /* and the state of what it was made of */
} state;

static const lk_opt opts[] = {
    {"r", LK_OPT_INT, offsetof(config, r), 32, 1, 1 << 20, NULL, "hidden units"},
    {"depth", LK_OPT_INT, offsetof(config, depth), 0, 0, MOST, NULL, "pairs of an encoder and a decoder"},
    {"act", LK_OPT_WORD, offsetof(config, act), 0, 0, 0, ACTIVATIONS, "activation; all but sin are PEFT's"},
    {"scaling", LK_OPT_REAL, offsetof(config, scaling), 1, -1e9, 1e9, NULL, "s itself, not alpha / r"},
    {"orientation", LK_OPT_WORD, offsetof(config, orientation), 0, 0, 0, "out|in",
     "side of the weight that the network works on; PEFT has out"},
    {"residual", LK_OPT_WORD, offsetof(config, residual), 0, 0, 0, "pairs|none",
     "decoders add what the encoders passed on; PEFT has pairs"},
    {"init", LK_OPT_WORD, offsetof(config, init), 0, 0, 0, "default|random", "B = 0 at first; random is no no-op"},
    {"search", LK_OPT_FLAG, offsetof(config, search), 0, 0, 1, NULL, "the activation is open to a structure search"},
    {0}};

/* ---- parameters ---- */

static lk_param *square(lk_at *at, const char *kind, int i) {
  const config *g = at->cfg;
  const int64_t shape[] = {g->r, g->r};
  char name[60];
  double k = 1 / sqrt((double)g->r);
  snprintf(name, sizeof name, "peanut_%s.%d.weight", kind, i);
  lk_param *p = lk_at_param(at, name, LK_TRAINED, 2, shape);
  lk_param_uniform(p, -k, k);
  return p;
}

static lk_status attach(lk_at *at) {
  const config *g = at->cfg;
  state *m = at->st;
  int64_t side = g->orientation == OUT ? at->site->out : at->site->in;
  double a = 1 / sqrt((double)side), b = 1 / sqrt((double)g->r);
  m->A = lk_at_param(at, "peanut_A.weight", LK_TRAINED, 2, (int64_t[]){g->r, side});
  lk_param_uniform(m->A, -a, a);
  for (int i = 0; i < g->depth; i++) m->E[i] = square(at, "encoders", i);
  for (int i = 0; i < g->depth; i++) m->D[i] = square(at, "decoders", i);
  m->B = lk_at_param(at, "peanut_B.weight", LK_TRAINED, 2, (int64_t[]){side, g->r});
  if (g->init == INIT_RANDOM) lk_param_uniform(m->B, -b, b);
  if (g->search) m->choice = lk_at_param(at, "peanut_act", LK_BUFFER, 1, (int64_t[]){1});
  if (g->search) lk_param_fill(m->choice, -1);
  return lk_error(lk_at_ctx(at), NULL);
}

static void destroy_at(lk_at *at) { lk_free(lk_at_ctx(at), ((state *)at->st)->H); }

/* ---- the activation ---- */

/* The i-th word. */
static void word(int i, char *buffer, size_t size) {
  const char *s = ACTIVATIONS;
  for (; i > 0; i--) s += strcspn(s, "|") + 1;
  snprintf(buffer, size, "%.*s", (int)strcspn(s, "|"), s);
}

/* Number of this pass's: the options' or the search's; while that is open, one drawn for each training pass. */
static int activation(const lk_at *at, const lk_tape *t) {
  const config *g = at->cfg;
  const state *m = at->st;
  double chosen = m->choice ? lk_view_get(&m->choice->value, 0) : g->act;
  if (chosen >= 0) return (int)chosen;
  return lk_is_training(t) ? (int)lk_random_below(lk_at_key(at, t, "act"), 0, SEARCHED) : g->act;
}

/* ---- H ---- */

static lk_tensor product(const lk_at *at, lk_tape *t, lk_param *W, lk_tensor H) {
  int out = ((const config *)at->cfg)->orientation == OUT;
  return out ? lk_matmul(t, lk_use(t, W), H) : lk_linear(t, H, lk_use(t, W), lk_nil());
}

static lk_tensor generate(lk_at *at, lk_tape *t, int number) {
  const config *g = at->cfg;
  const state *m = at->st;
  lk_tensor skip[MOST], H = lk_detach_value(t, lk_site_weight(at->site, t));
  char name[40];
  word(number, name, sizeof name);
  const lk_activation *act = lk_activation_find(lk_at_ctx(at), name);
  if (!act) return lk_nil();
  H = act->forward(t, product(at, t, m->A, H));
  for (int i = 0; i < g->depth; i++) {
    skip[i] = H;
    H = act->forward(t, product(at, t, m->E[i], H));
  }
  for (int j = 0; j < g->depth; j++) {
    H = act->forward(t, product(at, t, m->D[j], H));
    if (g->residual == PAIRS) H = lk_add(t, H, skip[g->depth - 1 - j]);
  }
  return H;
}

static lk_key fold(lk_key key, const lk_param *p) {
  for (; p; p = p->stand_in ? p->stand_in : p->alias) {
    key = lk_key_fold(key, 2 * (uint64_t)p->version + (p->requires_grad != 0));
    key = lk_key_fold(key, (uint64_t)(uintptr_t)p->value.p);
  }
  return key;
}

/* A number for what H is made of: another one after every change of a value. */
static lk_key ingredients(const lk_at *at, int number) {
  lk_key key = fold((lk_key){(uint64_t)number, 0}, at->site->weight);
  for (const lk_param *p = at->params; p; p = p->next) key = fold(key, p);
  return key;
}

/* The same value for every call of the layer in this pass, unless a backward went through it: then a new one. */
static lk_tensor shared(lk_at *at, lk_tape *t, int number, lk_key made_of) {
  char label[60];
  lk_tensor H;
  snprintf(label, sizeof label, "H %016llx%016llx", (unsigned long long)made_of.a, (unsigned long long)made_of.b);
  for (int i = 0; !lk_is_nil(H = lk_noted(t, at, label, i)); i++)
    if (!lk_is_spent(t, H)) return H;
  H = generate(at, t, number);
  lk_note(t, at, label, H);
  return H;
}

/* The values kept from an earlier pass if they are still right; else new ones, to be kept if wanted.  Copied: a tape may
 * outlive them. */
static lk_tensor kept(lk_at *at, lk_tape *t, int number, lk_key made_of, int keep) {
  const config *g = at->cfg;
  state *m = at->st;
  lk_view v;
  const int64_t shape[2][2] = {{g->r, at->site->in}, {at->site->out, g->r}};
  if (m->H && m->made_of.a == made_of.a && m->made_of.b == made_of.b)
    return lk_input(t, m->A->value.dtype, 2, shape[g->orientation], m->H);
  lk_tensor H = generate(at, t, number);
  if (!keep || lk_get(t, H, &v)) return H;
  if (!m->H && !(m->H = lk_alloc(lk_at_ctx(at), lk_view_bytes(&v)))) return lk_nil();
  memcpy(m->H, v.p, lk_view_bytes(&v));
  m->made_of = made_of;
  return H;
}

/* Will this pass want gradients of what H is made of? */
static int trains(const lk_at *at, const lk_tape *t) {
  int any = 0;
  for (const lk_param *p = at->params; p; p = p->next) any |= p->requires_grad;
  return any && lk_grad_enabled(t);
}

static lk_tensor factor(lk_at *at, lk_tape *t, int keep) {
  const state *m = at->st;
  int number = activation(at, t);
  lk_key made_of = ingredients(at, number);
  if (lk_dtype_of(t, lk_use(t, m->A)) != m->A->value.dtype) return generate(at, t, number); /* merging, in double */
  return trains(at, t) ? shared(at, t, number, made_of) : kept(at, t, number, made_of, keep);
}

/* ---- as LoRA ---- */

/* The weight's change is s B A: A [r, in], B [out, r]. */
static void pair(lk_at *at, lk_tape *t, int keep, lk_tensor *A, lk_tensor *B) {
  const state *m = at->st;
  lk_tensor H = factor(at, t, keep), trained = lk_use(t, m->B);
  int out = ((const config *)at->cfg)->orientation == OUT;
  *A = out ? H : lk_transpose(t, trained, 0, 1);
  *B = out ? trained : H;
}

static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const config *g = at->cfg;
  lk_tensor A, B;
  pair(at, t, 1, &A, &B);
  return lk_accumulate(t, y, lk_linear(t, x, A, lk_nil()), B, g->scaling);
}

static lk_status factors(lk_at *at, lk_tape *t, lk_tensor *A, lk_tensor *B) {
  const config *g = at->cfg;
  pair(at, t, 0, A, B); /* merging and exporting leave nothing behind */
  *B = lk_scale(t, *B, g->scaling);
  return lk_error(lk_at_ctx(at), NULL);
}

static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  lk_tensor A, B;
  (void)b;
  if (factors(at, t, &A, &B)) return lk_error(lk_at_ctx(at), NULL);
  *W = lk_add(t, *W, lk_matmul(t, B, A));
  return lk_error(lk_at_ctx(at), NULL);
}

/* ---- structure search over activations ---- */

static int genes(const lk_at *at, int *choices) {
  const config *g = at->cfg;
  if (g->search && choices) *choices = SEARCHED;
  return g->search;
}

static lk_status choose(lk_at *at, const int *choice) {
  const state *m = at->st;
  return lk_param_fill(m->choice, choice ? *choice : -1);
}

/* The same for every activation. */
static int64_t cost(const lk_at *at, const int *choice) {
  int64_t n = 0;
  (void)choice;
  for (const lk_param *p = at->params; p; p = p->next)
    if (p->kind == LK_TRAINED) n += lk_param_count(p);
  return n;
}

static lk_status loaded(lk_method *method) {
  for (int i = 0; i < method->nat; i++) {
    const lk_at *at = method->at[i];
    const state *m = at->st;
    double chosen = m->choice ? lk_view_get(&m->choice->value, 0) : -1;
    if (!(chosen >= -1 && chosen < SEARCHED) || chosen != floor(chosen))
      return lk_fail(lk_at_ctx(at), LK_EFORMAT, "neat: %s holds activation number %g; there are %d", m->choice->name,
                     chosen, SEARCHED);
  }
  return lk_error(lk_method_ctx(method), NULL);
}

/* How often each activation was chosen. */
static char *notes(lk_method *method) {
  char text[300] = "", name[40];
  int count[SEARCHED + 1] = {0}, sites = 0;
  size_t used = 0;
  for (int i = 0; i < method->nat; i++) {
    const state *m = method->at[i]->st;
    if (!m->choice || !m->choice->value.p) continue;
    count[(int)lk_view_get(&m->choice->value, 0) + 1]++;
    sites++;
  }
  for (int i = 0; i <= SEARCHED && used < sizeof text; i++) {
    if (!count[i]) continue;
    word(i - 1, name, sizeof name);
    used += (size_t)snprintf(text + used, sizeof text - used, ", %s %d", i ? name : "open", count[i]);
  }
  return sites ? lk_sprintf(lk_method_ctx(method), "activations of %d layers: %s", sites, text + 2) : NULL;
}

const lk_adapter_class lk_adapter_neat = {.name = "neat",
                                          .alias = "peanut",
                                          .summary = "the weight's change is made from the weight by a small network",
                                          .cite = "arXiv 2410.01870",
                                          .sites = LK_SITE_LINEAR,
                                          .caps = LK_AFFINE | LK_NOOP_AT_START,
                                          .cfg_size = sizeof(config),
                                          .site_size = sizeof(state),
                                          .opts = opts,
                                          .attach = attach,
                                          .destroy_at = destroy_at,
                                          .weight = weight,
                                          .delta = delta,
                                          .factors = factors,
                                          .genes = genes,
                                          .choose = choose,
                                          .cost = cost,
                                          .loaded = loaded,
                                          .notes = notes};
