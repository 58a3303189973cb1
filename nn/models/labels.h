/* labels.h: the names of classes in a config.json. */
#ifndef LK_LABELS_H
#define LK_LABELS_H
#include <lorikeet/json.h>

/* id2label and label2id of n classes; names NULL: "LABEL_0", ..., as HuggingFace calls them. */
lk_status lk_labels_set(lk_ctx *ctx, lk_json *config, int64_t n, char *const *names);
/* The class's name; NULL: none.  It lives as long as the config is not changed. */
const char *lk_labels_get(const lk_json *config, int64_t class_index);

#endif
