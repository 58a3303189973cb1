/* group.c: parameter groups by name: factors of learning rate and weight decay. */
#include "optim/optim.h"

#include <fnmatch.h>
#include <string.h>

lk_status lk_optim_group(lk_optim *o, const char *pattern, double rate, double decay) {
  int matches = 0;
  if (!o) return LK_ENIL;
  if (lk_error(o->ctx, NULL)) return lk_error(o->ctx, NULL);
  if (!pattern) return lk_fail(o->ctx, LK_ENIL, "group: no pattern");
  if (!(rate >= 0 && decay >= 0 && isfinite(rate) && isfinite(decay)))
    return lk_fail(o->ctx, LK_EARG, "group '%s': rate %g and decay %g must be finite and not negative", pattern, rate,
                   decay);
  for (int i = 0; i < o->n; i++) {
    lk_slot *s = &o->slots[i];
    if (fnmatch(pattern, s->param->name, 0)) continue;
    s->rate = rate;
    s->decay = decay;
    matches++;
  }
  if (matches) return LK_OK;
  return lk_fail(o->ctx, LK_EARG, "group '%s' matches none of the %d trained parameters; the first is %s", pattern,
                 o->n, o->slots[0].param->name);
}

/* PEFT asks the module's type; norms are known by their names here: LayerNorm, layernorm_before, ln_1, norm ... */
static int is_norm(const char *name) {
  return !fnmatch("*[nN]orm*", name, 0) || !fnmatch("ln_*", name, 0) || !fnmatch("*.ln_*", name, 0);
}

lk_status lk_optim_loraplus(lk_optim *o, double ratio, double embedding_lr) {
  if (!o) return LK_ENIL;
  if (lk_error(o->ctx, NULL)) return lk_error(o->ctx, NULL);
  if (!(ratio >= 1 && isfinite(ratio) && embedding_lr >= 0 && isfinite(embedding_lr)))
    return lk_fail(o->ctx, LK_EARG, "LoRA+: ratio %g must be at least 1, embedding_lr %g at least 0", ratio,
                   embedding_lr);
  if (o->options.lr == 0) return lk_fail(o->ctx, LK_EARG, "LoRA+: the rates are relative to options.lr, which is 0");
  for (int i = 0; i < o->n; i++) {
    lk_slot *s = &o->slots[i];
    const char *name = s->param->name;
    int vector = s->param->value.ndim == 1;
    int embedding = strstr(name, "lora_embedding_A") || strstr(name, "lora_embedding_B");
    int fast = !embedding && (vector || strstr(name, "lora_B"));
    s->rate = embedding ? embedding_lr / o->options.lr : fast ? ratio : 1;
    s->decay = fast && (strstr(name, "bias") || (vector && is_norm(name))) ? 0 : 1;
  }
  return LK_OK;
}
