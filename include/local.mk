# The public headers.
include_HEADERS = \
  %D%/lorikeet.h
pkginclude_HEADERS = \
  %D%/lorikeet/adalora.h \
  %D%/lorikeet/adapter.h \
  %D%/lorikeet/attention.h \
  %D%/lorikeet/checkpoint.h \
  %D%/lorikeet/combine.h \
  %D%/lorikeet/conv.h \
  %D%/lorikeet/ctx.h \
  %D%/lorikeet/data.h \
  %D%/lorikeet/file.h \
  %D%/lorikeet/generate.h \
  %D%/lorikeet/idx.h \
  %D%/lorikeet/images.h \
  %D%/lorikeet/io.h \
  %D%/lorikeet/json.h \
  %D%/lorikeet/layers.h \
  %D%/lorikeet/linalg.h \
  %D%/lorikeet/mixture.h \
  %D%/lorikeet/module.h \
  %D%/lorikeet/op.h \
  %D%/lorikeet/optim.h \
  %D%/lorikeet/param.h \
  %D%/lorikeet/pretrained.h \
  %D%/lorikeet/quant.h \
  %D%/lorikeet/quantise.h \
  %D%/lorikeet/random.h \
  %D%/lorikeet/safetensors.h \
  %D%/lorikeet/search.h \
  %D%/lorikeet/svg.h \
  %D%/lorikeet/tape.h \
  %D%/lorikeet/tensor.h \
  %D%/lorikeet/texts.h \
  %D%/lorikeet/tokenizer.h \
  %D%/lorikeet/train.h \
  %D%/lorikeet/vit.h
