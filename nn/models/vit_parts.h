/* vit_parts.h: what the files of the vision transformer share. */
#ifndef LK_VIT_PARTS_H
#define LK_VIT_PARTS_H
#include <lorikeet/vit.h>

/* The modules and parameters, without memory for any value. */
lk_vit *lk_vit_build(lk_model *model, const lk_vit_config *config);
/* Memory and initial values for the parameters that have none yet. */
lk_status lk_vit_initialise(lk_vit *vit);

#endif
