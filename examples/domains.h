/* domains.h: the same digits looking different: images to train on from one domain or several, and tests for each.
 *
 * Built-in digits are drawn so; real images are changed: inverted, turned, with pieces of other images around them, or
 * blurred, pale and grainy. */
#ifndef DOMAINS_H
#define DOMAINS_H
#include "run.h"

enum {
  DOMAIN_OWN, /* what --data and --domain say */
  DOMAIN_PLAIN,
  DOMAIN_INVERTED,
  DOMAIN_ROTATED,
  DOMAIN_CLUTTERED,
  DOMAIN_NOISY,
  DOMAINS
};
#define DOMAIN_BIT(i) (1u << (i))
#define DOMAINS_SHIFTED                                                                                                \
  (DOMAIN_BIT(DOMAIN_INVERTED) | DOMAIN_BIT(DOMAIN_ROTATED) | DOMAIN_BIT(DOMAIN_CLUTTERED) | DOMAIN_BIT(DOMAIN_NOISY))

extern const char *const domain_names[DOMAINS];

/* run.train and run.validation of all training domains together; run.test stays NULL. */
typedef struct domain_data {
  run_data run;
  lk_dataset *tests[DOMAINS];
} domain_data;

typedef struct domain_choice {
  unsigned train, test; /* bits */
  int64_t images;       /* for training, of each domain; 0: as the source says */
  int64_t least;        /* a pass over fewer images than that goes through them several times */
} domain_choice;

/* The choice of training images depends on source->seed. */
lk_status domains_open(lk_ctx *ctx, const run_source *source, const domain_choice *choice, int64_t image_size,
                       domain_data *data);
void domains_close(domain_data *data);

#endif
