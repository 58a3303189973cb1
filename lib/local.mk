# lib/: the autograd core.  A new op is one file and one line in op_sources.

core_sources = \
  %D%/apply.c \
  %D%/backward.c \
  %D%/check_op.c \
  %D%/ctx.c \
  %D%/dnnl.c \
  %D%/dnnl.h \
  %D%/gemm.c \
  %D%/gemm_batched.c \
  %D%/gemm_kernel.c \
  %D%/half.c \
  %D%/half.h \
  %D%/linalg.c \
  %D%/parallel.c \
  %D%/param.c \
  %D%/pool.c \
  %D%/quant.c \
  %D%/quant_kernel.c \
  %D%/random.c \
  %D%/recompute.c \
  %D%/scope.c \
  %D%/tape.c \
  %D%/tensor.c \
  %D%/gemm.h \
  %D%/gemm_kernel.h \
  %D%/internal.h \
  %D%/quant_kernel.h \
  %D%/real.h

op_sources = \
  %D%/ops/accumulate.c \
  %D%/ops/accumulate_rows.c \
  %D%/ops/attention.c \
  %D%/ops/binary.c \
  %D%/ops/cast.c \
  %D%/ops/concat.c \
  %D%/ops/conv2d.c \
  %D%/ops/cross_entropy.c \
  %D%/ops/cumsum.c \
  %D%/ops/dropout.c \
  %D%/ops/embedding.c \
  %D%/ops/expand.c \
  %D%/ops/gather.c \
  %D%/ops/index_select.c \
  %D%/ops/layer_norm.c \
  %D%/ops/linear.c \
  %D%/ops/logsumexp.c \
  %D%/ops/losses.c \
  %D%/ops/matmul.c \
  %D%/ops/norm.c \
  %D%/ops/one_hot.c \
  %D%/ops/pad.c \
  %D%/ops/pow.c \
  %D%/ops/quant_linear.c \
  %D%/ops/reduce.c \
  %D%/ops/reshape.c \
  %D%/ops/rms_norm.c \
  %D%/ops/rotary.c \
  %D%/ops/scalar.c \
  %D%/ops/scale_shift.c \
  %D%/ops/scatter_rows.c \
  %D%/ops/slice.c \
  %D%/ops/softmax.c \
  %D%/ops/squeeze.c \
  %D%/ops/topk.c \
  %D%/ops/transpose.c \
  %D%/ops/unary.c \
  %D%/ops/var.c \
  %D%/ops/where.c

# Code that several ops share.
op_kernels = \
  %D%/ops/attention_kernel.c \
  %D%/ops/conv2d_kernel.c \
  %D%/ops/index.c \
  %D%/ops/map.c \
  %D%/ops/reduce_axes.c \
  %D%/ops/tiles.c \
  %D%/ops/attention_kernel.h \
  %D%/ops/conv2d_kernel.h \
  %D%/ops/index.h \
  %D%/ops/linear.h \
  %D%/ops/map.h \
  %D%/ops/reduce.h \
  %D%/ops/rows.h \
  %D%/ops/tiles.h

optim_sources = \
  %D%/optim/adam.c \
  %D%/optim/clip.c \
  %D%/optim/group.c \
  %D%/optim/optim.c \
  %D%/optim/schedule.c \
  %D%/optim/sgd.c \
  %D%/optim/step.c \
  %D%/optim/optim.h

io_sources = \
  %D%/io/file.c \
  %D%/io/idx.c \
  %D%/io/json.c \
  %D%/io/json_dump.c \
  %D%/io/safetensors_header.c \
  %D%/io/safetensors_read.c \
  %D%/io/safetensors_write.c \
  %D%/io/writer.c \
  %D%/io/reader.h \
  %D%/io/text.h

libcore_la_SOURCES = $(core_sources) $(op_sources) $(op_kernels) $(optim_sources) $(io_sources)
libcore_la_CPPFLAGS = $(public_cppflags) -I$(srcdir)/%D% -I$(builddir) -DLK_OP=LK_API \
  $(JANSSON_CFLAGS) $(PCRE2_CFLAGS) $(ZLIB_CFLAGS)
libcore_la_CFLAGS = $(AM_CFLAGS) $(OPENMP_CFLAGS)
EXTRA_libcore_la_DEPENDENCIES = %D%/local.mk

# The op files are the only place that names the ops: their prototypes and the registry are collected from them.
nodist_pkginclude_HEADERS = include/lorikeet/ops.h
BUILT_SOURCES += include/lorikeet/ops.h %D%/ops.inc
CLEANFILES += include/lorikeet/ops.h %D%/ops.inc %D%/ops.stamp
EXTRA_DIST += %D%/genops.sh

# Renewed only when their content changes, so that editing the body of an op recompiles that op.
%D%/ops.stamp: %D%/genops.sh %D%/local.mk $(op_sources)
	@$(MKDIR_P) include/lorikeet %D%
	$(AM_V_GEN)(cd $(srcdir) && $(SHELL) %D%/genops.sh header $(op_sources)) > $@.h && \
	(cd $(srcdir) && $(SHELL) %D%/genops.sh registry $(op_sources)) > $@.inc && \
	{ cmp -s $@.h include/lorikeet/ops.h && rm $@.h || mv -f $@.h include/lorikeet/ops.h; } && \
	{ cmp -s $@.inc %D%/ops.inc && rm $@.inc || mv -f $@.inc %D%/ops.inc; } && touch $@
include/lorikeet/ops.h: %D%/ops.stamp
	@test -f $@ || { rm -f %D%/ops.stamp && $(MAKE) $(AM_MAKEFLAGS) %D%/ops.stamp; }
%D%/ops.inc: include/lorikeet/ops.h
	@test -f $@ || { rm -f %D%/ops.stamp && $(MAKE) $(AM_MAKEFLAGS) %D%/ops.stamp; }
