# nn/: layers, models and adapters; sees the public headers only.  A new adapter is one file and one line in
# adapter_sources.

nn_sources = \
  %D%/active.c \
  %D%/attach.c \
  %D%/catalogue.c \
  %D%/combine.c \
  %D%/combine.h \
  %D%/combine_attach.c \
  %D%/combine_site.c \
  %D%/combine_sum.c \
  %D%/compose.c \
  %D%/file_error.c \
  %D%/genes.c \
  %D%/match.c \
  %D%/merge.c \
  %D%/method.c \
  %D%/module.c \
  %D%/peft.c \
  %D%/quantise.c \
  %D%/regex.c \
  %D%/regex.h \
  %D%/saved.c \
  %D%/shards.c \
  %D%/shards.h \
  %D%/search.c \
  %D%/search_file.c \
  %D%/search.h \
  %D%/similarity.c \
  %D%/site.c \
  %D%/spec.c \
  %D%/weights.c \
  %D%/model.h

layer_sources = \
  %D%/layers/activation.c \
  %D%/layers/attention.c \
  %D%/layers/conv2d.c \
  %D%/layers/embedding.c \
  %D%/layers/layer.c \
  %D%/layers/layer.h \
  %D%/layers/layer_norm.c \
  %D%/layers/linear.c \
  %D%/layers/mlp.c \
  %D%/layers/rms_norm.c

model_sources = \
  %D%/models/attend.c \
  %D%/models/bert.c \
  %D%/models/cache.c \
  %D%/models/family.h \
  %D%/models/gpt2.c \
  %D%/models/labels.c \
  %D%/models/labels.h \
  %D%/models/llama.c \
  %D%/models/pretrained.c \
  %D%/models/resize.c \
  %D%/models/rope.c \
  %D%/models/rope.h \
  %D%/models/vit.c \
  %D%/models/vit_config.c \
  %D%/models/vit_files.c \
  %D%/models/vit_parts.h

generate_sources = \
  %D%/generate/generator.c \
  %D%/generate/sample.c \
  %D%/generate/sample.h \
  %D%/generate/stream.c

peft_sources = \
  %D%/peft/adalora.c \
  %D%/peft/compare.c \
  %D%/peft/config.c \
  %D%/peft/export.c \
  %D%/peft/glora.c \
  %D%/peft/ia3.c \
  %D%/peft/lora.c \
  %D%/peft/neat.c \
  %D%/peft/own.c \
  %D%/peft/peft.h \
  %D%/peft/targets.c \
  %D%/peft/tensors.c

text_sources = \
  %D%/text/added.c \
  %D%/text/bpe.c \
  %D%/text/buffer.c \
  %D%/text/decode.c \
  %D%/text/encode.c \
  %D%/text/fields.c \
  %D%/text/frozen.c \
  %D%/text/model.c \
  %D%/text/normalize.c \
  %D%/text/onig.c \
  %D%/text/pattern.c \
  %D%/text/pretokenize.c \
  %D%/text/process.c \
  %D%/text/text.h \
  %D%/text/tokenizer.c \
  %D%/text/unicode.c \
  %D%/text/vocab.c \
  %D%/text/wordpiece.c

data_sources = \
  %D%/data/balance.c \
  %D%/data/balance.h \
  %D%/data/dataset.c \
  %D%/data/decode.h \
  %D%/data/digits.c \
  %D%/data/exif.c \
  %D%/data/glyphs.c \
  %D%/data/idx.c \
  %D%/data/image.c \
  %D%/data/images.c \
  %D%/data/jpeg.c \
  %D%/data/loader.c \
  %D%/data/pen.c \
  %D%/data/pen.h \
  %D%/data/png.c \
  %D%/data/preprocess.c \
  %D%/data/resample.c \
  %D%/data/row_loader.c \
  %D%/data/rows.c \
  %D%/data/texts.c

train_sources = \
  %D%/train/axis.c \
  %D%/train/chart.h \
  %D%/train/checkpoint.c \
  %D%/train/label.c \
  %D%/train/metrics.c \
  %D%/train/progress.c \
  %D%/train/svg.c \
  %D%/train/table.c \
  %D%/train/text.h

adapter_sources = \
  %D%/adapters/adalora.c \
  %D%/adapters/bias.c \
  %D%/adapters/dropout.c \
  %D%/adapters/glora.c \
  %D%/adapters/ia3.c \
  %D%/adapters/lora.c \
  %D%/adapters/lora_drop.c \
  %D%/adapters/magnitude.c \
  %D%/adapters/malora.c \
  %D%/adapters/mixture.c \
  %D%/adapters/mlae.c \
  %D%/adapters/molora.c \
  %D%/adapters/neat.c

# Code that several adapters share.
adapter_helpers = \
  %D%/adapters/budget.c \
  %D%/adapters/dispatch.c \
  %D%/adapters/glora.h \
  %D%/adapters/glora_structure.c \
  %D%/adapters/router.c \
  %D%/adapters/structure.c \
  %D%/adapters/structure.h

libnn_la_SOURCES = $(nn_sources) $(layer_sources) $(model_sources) $(generate_sources) $(peft_sources) $(text_sources) $(data_sources) $(train_sources) \
  $(adapter_sources) $(adapter_helpers)
libnn_la_CPPFLAGS = $(public_cppflags) -I$(srcdir)/%D% -I$(builddir)/%D% \
  $(JANSSON_CFLAGS) $(PCRE2_CFLAGS) $(UTF8PROC_CFLAGS) $(PNG_CFLAGS) $(JPEG_CFLAGS) $(ZLIB_CFLAGS)
EXTRA_libnn_la_DEPENDENCIES = %D%/local.mk

BUILT_SOURCES += %D%/adapters.inc
CLEANFILES += %D%/adapters.inc
EXTRA_DIST += %D%/genadapters.sh

%D%/adapters.inc: %D%/genadapters.sh %D%/local.mk $(adapter_sources)
	@$(MKDIR_P) %D%
	$(AM_V_GEN)(cd $(srcdir) && $(SHELL) %D%/genadapters.sh $(adapter_sources)) > $@.tmp && mv -f $@.tmp $@
