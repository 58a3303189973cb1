/* glora.c: golden cases of GLoRA. */
#include "golden.h"

static const golden_kind kinds[] = {{"search_trace", golden_search_trace}, {0}};
const golden_method golden_glora = {.method = "glora", .kinds = kinds};
