/* generator.c: a language model's tokens, one after the other, with a cache. */
#include "generate/sample.h"

#include <lorikeet/file.h>

struct lk_generator {
  lk_pretrained *p;
  lk_ctx *ctx;
  lk_generate_options options;
  lk_tape *tape;
  lk_cache *cache;
  int64_t room;  /* of the cache */
  int64_t *ends; /* tokens that end a text */
  size_t nends, ends_capacity;
  lk_candidates candidates;
  lk_key key;
  lk_view logits; /* of the token behind all those that the cache holds; on the tape */
  int64_t last;   /* chosen, and not in the cache; -1: none */
  int64_t made;
  lk_ending ending;
};

/* ---- the tokens that end a text ---- */

static lk_status add_end(lk_generator *g, const lk_json *j, const char *file) {
  int64_t id;
  if (!lk_json_is_int(j, &id))
    return lk_fail(g->ctx, LK_EFORMAT, "%s: eos_token_id should be integers, not %s", file,
                   lk_json_kind_name(lk_json_type(j)));
  if (lk_grow(g->ctx, &g->ends, &g->ends_capacity, g->nends + 1, sizeof *g->ends)) return lk_error(g->ctx, NULL);
  g->ends[g->nends++] = id;
  return LK_OK;
}

/* An id, or a list of ids. */
static lk_status add_ends(lk_generator *g, const lk_json *config, const char *file) {
  const lk_json *j = lk_json_get(config, "eos_token_id");
  if (lk_json_type(j) <= LK_JSON_NULL) return LK_OK;
  if (lk_json_type(j) != LK_JSON_ARRAY) return add_end(g, j, file);
  for (size_t i = 0; i < lk_json_count(j); i++)
    if (add_end(g, lk_json_at(j, i), file)) break;
  return lk_error(g->ctx, NULL);
}

static lk_status read_ends(lk_generator *g) {
  lk_ctx *c = g->ctx;
  char *path = g->p->directory ? lk_sprintf(c, "%s/generation_config.json", g->p->directory) : NULL;
  if (path && lk_file_exists(path)) {
    lk_json *j = lk_json_read(c, path);
    if (j) add_ends(g, j, path);
    lk_json_free(j);
  }
  lk_free(c, path);
  if (!g->nends && !lk_error(c, NULL)) add_ends(g, g->p->config, "config.json");
  return lk_error(c, NULL);
}

static int is_end(const lk_generator *g, int64_t id) {
  for (size_t i = 0; i < g->nends && !g->options.keep_ending; i++)
    if (g->ends[i] == id) return 1;
  return 0;
}

/* ---- making ---- */

static lk_status check(lk_pretrained *p, const lk_generate_options *o) {
  if (lk_error(p->ctx, NULL) || lk_sample_check(p->ctx, &o->sample)) return lk_error(p->ctx, NULL);
  if (p->task != LK_TASK_LM) return lk_fail(p->ctx, LK_EARG, "generate: the model was not opened for LK_TASK_LM");
  if (lk_model_shapes_only(p->model)) return lk_fail(p->ctx, LK_EARG, "generate: the model has shapes only");
  if (o->most < 1) return lk_fail(p->ctx, LK_EARG, "generate: most is %lld, should be 1 or more", (long long)o->most);
  return LK_OK;
}

lk_generator *lk_generator_new(lk_pretrained *p, const lk_generate_options *o) {
  if (!p || !o || check(p, o)) return NULL;
  lk_generator *g = lk_alloc(p->ctx, sizeof *g);
  if (!g) return NULL;
  g->p = p;
  g->ctx = p->ctx;
  g->options = *o;
  g->key = lk_key_make(o->seed, "generate");
  g->ending = LK_ENDING_MOST; /* nothing has been started */
  g->tape = lk_tape_new(p->ctx);
  if (g->tape && !read_ends(g)) {
    lk_no_grad(g->tape, 1);
    return g;
  }
  lk_generator_free(g);
  return NULL;
}

void lk_generator_free(lk_generator *g) {
  if (!g) return;
  lk_cache_free(g->cache);
  lk_tape_free(g->tape);
  lk_free(g->ctx, g->candidates.item);
  lk_free(g->ctx, g->ends);
  lk_free(g->ctx, g);
}

/* ---- running ---- */

/* Runs tokens behind those in the cache. */
static lk_status run(lk_generator *g, const int64_t *ids, int64_t n) {
  lk_tape *t = g->tape;
  lk_tape_reset(t);
  lk_inputs in = {.ids = lk_input(t, LK_I64, 2, (int64_t[]){1, n}, ids), .cache = g->cache, .last = 1};
  lk_tensor y = lk_pretrained_forward(g->p, t, &in);
  lk_get(t, y, &g->logits);
  return lk_error(g->ctx, NULL);
}

/* A cache for so many tokens; larger ones are kept. */
static lk_status make_room(lk_generator *g, int64_t room) {
  if (g->p->most_tokens && room > g->p->most_tokens) room = g->p->most_tokens;
  if (g->cache && room <= g->room) return lk_cache_truncate(g->cache, 0);
  lk_cache_free(g->cache);
  g->cache = lk_cache_new(g->p, 1, room);
  g->room = room;
  return lk_error(g->ctx, NULL);
}

lk_status lk_generator_start(lk_generator *g, const int64_t *ids, int64_t n) {
  if (!g) return LK_ENIL;
  int64_t takes = g->p->most_tokens;
  g->ending = LK_ENDING_MOST;
  g->made = 0;
  g->last = -1;
  if (n < 1) return lk_fail(g->ctx, LK_EARG, "generate: a prompt needs a token");
  if (takes && n > takes)
    return lk_fail(g->ctx, LK_ESHAPE, "generate: the prompt has %lld tokens; the model takes %lld", (long long)n,
                   (long long)takes);
  if (n > INT32_MAX - g->options.most)
    return lk_fail(g->ctx, LK_ESHAPE, "generate: %lld tokens and %lld more are too many", (long long)n,
                   (long long)g->options.most);
  for (int64_t i = 0; i < n; i++)
    if (ids[i] < 0 || ids[i] >= g->p->vocabulary)
      return lk_fail(g->ctx, LK_EARG, "generate: token %lld of the prompt is %lld; the model has %lld", (long long)i,
                     (long long)ids[i], (long long)g->p->vocabulary);
  if (make_room(g, n + g->options.most) || run(g, ids, n)) return lk_error(g->ctx, NULL);
  g->ending = LK_ENDING_NONE;
  return LK_OK;
}

int64_t lk_generator_next(lk_generator *g) {
  if (!g || lk_error(g->ctx, NULL) || g->ending) return -1;
  if (g->made == g->options.most) g->ending = LK_ENDING_MOST;
  else if (g->last >= 0 && lk_cache_length(g->cache) == g->room) g->ending = LK_ENDING_FULL;
  if (g->ending || (g->last >= 0 && run(g, &g->last, 1))) return -1;
  if (lk_candidates_find(g->ctx, &g->logits, &g->options.sample, &g->candidates)) return -1;
  int64_t id = lk_candidates_draw(&g->candidates, lk_random_uniform(g->key, (uint64_t)g->made));
  if (is_end(g, id)) {
    g->ending = LK_ENDING_EOS;
    return -1;
  }
  g->made++;
  return g->last = id;
}

lk_ending lk_generator_ending(const lk_generator *g) { return g->ending; }
int64_t lk_generator_count(const lk_generator *g) { return g->made; }
