/* lorikeet.h: everything: a LoRA kit in C.
 *
 *   ctx.h tensor.h random.h            context, views, random numbers
 *   param.h tape.h op.h ops.h          parameters, the tape, writing operators, the operators
 *   conv.h attention.h linalg.h        options of two operators; decompositions
 *   optim.h                            optimisers, clipping, schedules
 *   file.h safetensors.h json.h idx.h  files
 *   module.h layers.h vit.h            modules, layers, models
 *   adapter.h combine.h                adapters: attach, merge, save; one from several
 *   quant.h quantise.h                 frozen weights in 16, 8 or 4 bits
 *   mixture.h                          mixtures of experts: router, balance loss, dispatch
 *   adalora.h                          rank allocation under a budget
 *   search.h                           evolutionary search over structures
 *   pretrained.h generate.h            HuggingFace's text models; generating
 *   tokenizer.h texts.h                text to tokens and back, from a tokenizer.json; texts to train on
 *   images.h                           PNG and JPEG files, resized; folders of them
 *   data.h train.h checkpoint.h svg.h  data, progress, metrics, checkpoints, pictures */
#ifndef LORIKEET_H
#define LORIKEET_H
#include <lorikeet/adalora.h>
#include <lorikeet/adapter.h>
#include <lorikeet/attention.h>
#include <lorikeet/checkpoint.h>
#include <lorikeet/combine.h>
#include <lorikeet/conv.h>
#include <lorikeet/ctx.h>
#include <lorikeet/data.h>
#include <lorikeet/file.h>
#include <lorikeet/generate.h>
#include <lorikeet/idx.h>
#include <lorikeet/images.h>
#include <lorikeet/json.h>
#include <lorikeet/layers.h>
#include <lorikeet/linalg.h>
#include <lorikeet/mixture.h>
#include <lorikeet/module.h>
#include <lorikeet/op.h>
#include <lorikeet/ops.h>
#include <lorikeet/optim.h>
#include <lorikeet/param.h>
#include <lorikeet/pretrained.h>
#include <lorikeet/quant.h>
#include <lorikeet/quantise.h>
#include <lorikeet/random.h>
#include <lorikeet/safetensors.h>
#include <lorikeet/search.h>
#include <lorikeet/svg.h>
#include <lorikeet/tape.h>
#include <lorikeet/tensor.h>
#include <lorikeet/texts.h>
#include <lorikeet/tokenizer.h>
#include <lorikeet/train.h>
#include <lorikeet/vit.h>
#endif
