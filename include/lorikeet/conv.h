/* conv.h: options of lk_conv2d. */
#ifndef LORIKEET_CONV_H
#define LORIKEET_CONV_H
#include <lorikeet/tensor.h>

/* Pairs are (vertical, horizontal).  All-zero stride, dilation and groups mean 1. */
typedef struct lk_conv2d_options {
  int64_t stride[2], padding[2], dilation[2], groups;
} lk_conv2d_options;

#endif
