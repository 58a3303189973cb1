/* labels.c: the names of classes in a config.json: id2label has numbers as keys, label2id names. */
#include "models/labels.h"

#include <stdio.h>

lk_status lk_labels_set(lk_ctx *ctx, lk_json *config, int64_t n, char *const *names) {
  lk_json *by_id = lk_json_object(ctx), *by_name = lk_json_object(ctx);
  for (int64_t i = 0; i < n && !lk_error(ctx, NULL); i++) {
    char id[24], usual[32];
    snprintf(id, sizeof id, "%lld", (long long)i);
    snprintf(usual, sizeof usual, "LABEL_%lld", (long long)i);
    lk_json_set_string(ctx, by_id, id, names ? names[i] : usual);
    lk_json_set_int(ctx, by_name, names ? names[i] : usual, i);
  }
  lk_json_set(ctx, config, "id2label", by_id);
  return lk_json_set(ctx, config, "label2id", by_name);
}

const char *lk_labels_get(const lk_json *config, int64_t class_index) {
  const char *label = NULL;
  char id[24];
  snprintf(id, sizeof id, "%lld", (long long)class_index);
  lk_json_is_string(lk_json_get(lk_json_get(config, "id2label"), id), &label);
  return label;
}
