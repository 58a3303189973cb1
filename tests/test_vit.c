/* test_vit.c: the vision transformer: names, parity with HuggingFace, gradients, recomputation. */
#include "vit.h"

#include "alloc.h"

#include <check.h>
#include <lorikeet/random.h>
#include <math.h>

static test_allocator heap;
static lk_ctx *ctx;
static lk_tape *t;
static lk_model *model;

static void setup(void) {
  ctx = test_ctx(&heap, 0);
  t = lk_tape_new(ctx);
  model = NULL;
}

static void teardown(void) {
  const char *message;
  ck_assert_msg(!lk_error(ctx, &message), "%s", message);
  lk_tape_free(t);
  lk_model_free(model);
  lk_ctx_free(ctx);
  ck_assert_uint_eq(heap.live, 0);
}

static void expect(lk_status status, const char *words) {
  const char *message;
  ck_assert_msg(lk_error(ctx, &message) == status, "want %s, got '%s'", lk_status_name(status), message);
  ck_assert_msg(strstr(message, words) != NULL, "'%s' should say '%s'", message, words);
  lk_error_clear(ctx);
}

static lk_vit *small_vit(int fused) {
  lk_vit_config c = small_config;
  c.fused_qkv = fused;
  model = lk_model_new(ctx, LK_F64, 0);
  lk_vit *v = lk_vit_new(model, &c);
  ck_assert_ptr_nonnull(v);
  perturb(model);
  return v;
}

/* ---- names and counts ---- */

static const char *const huggingface_names[] = {"vit.embeddings.cls_token [1, 1, 12]",
                                                "vit.embeddings.position_embeddings [1, 7, 12]",
                                                "vit.embeddings.patch_embeddings.projection.weight [12, 2, 3, 3]",
                                                "vit.embeddings.patch_embeddings.projection.bias [12]"};
