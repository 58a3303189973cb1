/* conv.h: options of lk_conv2d. */
#ifndef LORIKEET_CONV_H
#define LORIKEET_CONV_H
#include <stdint.h>

/* [0] is along the height, [1] along the width; 0 stands for the default. */
typedef struct lk_conv2d_options {
  int64_t stride[2];   /* 1, 1 */
  int64_t padding[2];  /* 0, 0: zeros on either side */
  int64_t dilation[2]; /* 1, 1: distance between the kernel's elements */
  int64_t groups;      /* 1: channels are divided in so many parts, each with its own kernels */
} lk_conv2d_options;

#endif
