/* generate.h: text from a language model: one token after the other, and their text as it comes.
 *
 *   lk_generator *g = lk_generator_new(p, &(lk_generate_options){.most = 100, .sample = {.temperature = 0.8, .top_p = 0.9}});
 *   lk_generator_start(g, prompt, n);
 *   for (int64_t id; (id = lk_generator_next(g)) >= 0;) fputs(lk_text_stream_add(s, id), stdout);
 *   lk_generator_free(g); */
#ifndef LORIKEET_GENERATE_H
#define LORIKEET_GENERATE_H
#include <lorikeet/pretrained.h>
#include <lorikeet/tokenizer.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- choosing a token ---- */

/* In this order, as in transformers: softmax(logits / temperature); of it the top_k most likely tokens (and those as
 * likely as the last of them); of these the fewest most likely ones whose probabilities reach top_p (Holtzman et al.,
 * "The Curious Case of Neural Text Degeneration", ICLR 2020).  Tokens of one logit count in order of their ids. */
typedef struct lk_sample_options {
  double temperature; /* 0: the token of the largest logit, the first of several */
  int64_t top_k;      /* 0: all */
  double top_p;       /* 0 or 1: all */
} lk_sample_options;

/* The probability of each of the logits' [V] tokens, into probabilities[V]; 0 for those left out.  A logit may be
 * -infinity; NaN and infinity are LK_ENONFINITE. */
LK_API lk_status lk_sample_probabilities(lk_ctx *ctx, const lk_view *logits, const lk_sample_options *options,
                                         double *probabilities);
/* The token where the sum of these probabilities, in order of ids, passes u in [0, 1).  -1 on error. */
LK_API int64_t lk_sample(lk_ctx *ctx, const lk_view *logits, const lk_sample_options *options, double u);

/* ---- generating ---- */

typedef struct lk_generate_options {
  int64_t most; /* tokens after a prompt */
  lk_sample_options sample;
  uint64_t seed;   /* draw number i of a prompt is a function of seed and i: the same with any number of threads */
  int keep_ending; /* go on behind eos_token_id */
} lk_generate_options;

typedef enum lk_ending {
  LK_ENDING_NONE, /* there is more */
  LK_ENDING_EOS,  /* the model ended the text */
  LK_ENDING_MOST, /* options.most */
  LK_ENDING_FULL  /* the model takes no more tokens */
} lk_ending;

typedef struct lk_generator lk_generator;

/* For one sequence at a time.  The texts' ends are eos_token_id of generation_config.json, or else of config.json.  NULL
 * on error.  The caller frees it before the model. */
LK_API lk_generator *lk_generator_new(lk_pretrained *p, const lk_generate_options *options);
LK_API void lk_generator_free(lk_generator *g); /* g may be NULL */
/* Forgets what was, and runs the prompt's n >= 1 tokens through the model, with the adapters that are active now. */
LK_API lk_status lk_generator_start(lk_generator *g, const int64_t *ids, int64_t n);
/* The next token; -1 at the end, or on error. */
LK_API int64_t lk_generator_next(lk_generator *g);
LK_API lk_ending lk_generator_ending(const lk_generator *g);
LK_API int64_t lk_generator_count(const lk_generator *g); /* tokens since the prompt */

/* ---- their text ---- */

typedef struct lk_text_stream lk_text_stream;

/* Tokens to text, piece by piece: what may still change (bytes of an unfinished character) is held back.  With a stop
 * text, all from its first occurrence on is left out.  k must outlive the stream.  NULL on error. */
LK_API lk_text_stream *lk_text_stream_new(lk_ctx *ctx, lk_tokenizer *k, const char *stop);
LK_API void lk_text_stream_free(lk_text_stream *s); /* s may be NULL */
/* Forgets what was.  The tokens before (a prompt's), which decide how the first ones are written: may be 0. */
LK_API lk_status lk_text_stream_start(lk_text_stream *s, const int64_t *ids, int64_t n);
/* The text that has become certain with this token, "" if none: valid until the next call.  "" on error. */
LK_API const char *lk_text_stream_add(lk_text_stream *s, int64_t id);
LK_API const char *lk_text_stream_end(lk_text_stream *s); /* what was held back */
LK_API int lk_text_stream_stopped(const lk_text_stream *s);

#ifdef __cplusplus
}
#endif
#endif
