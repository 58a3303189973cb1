# tests/: Check suites, the golden runner, the step benchmark, fuzzing, and checks of the tree itself.

TEST_EXTENSIONS = .sh
SH_LOG_COMPILER = $(SHELL)
AM_TESTS_ENVIRONMENT = \
  CC='$(CC)'; export CC; CXX='$(CXX)'; export CXX; NM='$(NM)'; export NM; \
  FUZZERS='$(fuzzers)'; export FUZZERS; LK_LDFLAGS='$(LK_LDFLAGS)'; export LK_LDFLAGS; \
  CK_DEFAULT_TIMEOUT=300; export CK_DEFAULT_TIMEOUT; OMP_WAIT_POLICY=passive; export OMP_WAIT_POLICY;

# Scripts: fuzzing, and what the tree itself must keep to.
test_scripts = \
  %D%/fuzz.sh \
  %D%/golden.sh \
  %D%/headers.sh \
  %D%/layers.sh \
  %D%/man.sh \
  %D%/readme.sh \
  %D%/symbols.sh \
  %D%/test_compare.sh \
  %D%/test_finetune.sh \
  %D%/test_finetune_files.sh \
  %D%/test_finetune_texts.sh

test_headers = \
  %D%/adapter_net.h \
  %D%/adapter_suite.h \
  %D%/adapters.h \
  %D%/alloc.h \
  %D%/cost.h \
  %D%/drop_net.h \
  %D%/files.h \
  %D%/io_suite.h \
  %D%/neat.h \
  %D%/peft.h \
  %D%/png_file.h \
  %D%/search.h \
  %D%/tape.h \
  %D%/tiny.h \
  %D%/tiny_tokenizer.h \
  %D%/vit.h \
  %D%/words.h

tools = \
  %D%/reference \
  %D%/bench/adapters \
  %D%/bench/claims \
  %D%/bench/step

# Benchmarks; claims trains as the programs do.
bench_sources = %D%/bench/measure.c %D%/bench/measure.h
net_sources = %D%/bench/net.c %D%/bench/net.h $(bench_sources)
%C%_bench_adapters_SOURCES = %D%/bench/adapters.c $(net_sources)
%C%_bench_step_SOURCES = %D%/bench/step.c %D%/bench/profile.c %D%/bench/profile.h $(net_sources)
%C%_bench_claims_SOURCES = \
  %D%/bench/claims.c \
  %D%/bench/claims.h \
  %D%/bench/claims_quality.c \
  %D%/bench/claims_speed.c \
  $(bench_sources) \
  $(program_sources)
%C%_bench_claims_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/examples

# One file per method.
reference_sources = \
  %D%/methods/adalora.c \
  %D%/methods/case.c \
  %D%/methods/directory.c \
  %D%/methods/glora.c \
  %D%/methods/golden.h \
  %D%/methods/layer.c \
  %D%/methods/lora.c \
  %D%/methods/neat.c \
  %D%/methods/mlae.c \
  %D%/methods/lora_drop.c \
  %D%/methods/malora.c \
  %D%/methods/mixture.c \
  %D%/methods/mixture.h \
  %D%/methods/molora.c \
  %D%/methods/search.c
%C%_reference_SOURCES = %D%/reference.c $(reference_sources)

fuzz_driver = %D%/fuzz/driver.c %D%/fuzz/fuzz.h
fuzzers = \
  %D%/fuzz/fuzz_config \
  %D%/fuzz/fuzz_idx \
  %D%/fuzz/fuzz_index \
  %D%/fuzz/fuzz_jpeg \
  %D%/fuzz/fuzz_json \
  %D%/fuzz/fuzz_peft \
  %D%/fuzz/fuzz_png \
  %D%/fuzz/fuzz_safetensors \
  %D%/fuzz/fuzz_texts \
  %D%/fuzz/fuzz_tokenizer
check_PROGRAMS += $(fuzzers)
%C%_fuzz_fuzz_config_SOURCES = %D%/fuzz/fuzz_config.c $(fuzz_driver)
%C%_fuzz_fuzz_index_SOURCES = %D%/fuzz/fuzz_index.c $(fuzz_driver)
%C%_fuzz_fuzz_idx_SOURCES = %D%/fuzz/fuzz_idx.c $(fuzz_driver)
%C%_fuzz_fuzz_jpeg_SOURCES = %D%/fuzz/fuzz_jpeg.c %D%/fuzz/fuzz_image.h $(fuzz_driver)
%C%_fuzz_fuzz_json_SOURCES = %D%/fuzz/fuzz_json.c $(fuzz_driver)
%C%_fuzz_fuzz_peft_SOURCES = %D%/fuzz/fuzz_peft.c $(fuzz_driver)
%C%_fuzz_fuzz_png_SOURCES = %D%/fuzz/fuzz_png.c %D%/fuzz/fuzz_image.h $(fuzz_driver)
%C%_fuzz_fuzz_safetensors_SOURCES = %D%/fuzz/fuzz_safetensors.c $(fuzz_driver)
%C%_fuzz_fuzz_texts_SOURCES = %D%/fuzz/fuzz_texts.c $(fuzz_driver)
%C%_fuzz_fuzz_tokenizer_SOURCES = %D%/fuzz/fuzz_tokenizer.c $(fuzz_driver)

noinst_PROGRAMS += $(tools)
check_PROGRAMS += %D%/catalogue %D%/draw_images
%C%_draw_images_LDADD = $(JPEG_LIBS)
TESTS += $(test_scripts) $(suites)
EXTRA_DIST += %D%/bench/bench.sh %D%/bench/peer.py
EXTRA_DIST += $(test_scripts) $(test_headers) %D%/finetune.sh %D%/installcheck.sh %D%/valgrind.supp %D%/golden

# (Make's own rule would build a file from golden.sh over this directory.)
%D%/golden: ;

if HAVE_CHECK
suites = \
  %D%/test_adalora \
  %D%/test_active \
  %D%/test_adapters \
  %D%/test_attach \
  %D%/test_bf16 \
  %D%/test_budget \
  %D%/test_bytes \
  %D%/test_cache \
  %D%/test_combine \
  %D%/test_compose \
  %D%/test_core \
  %D%/test_cost \
  %D%/test_data \
  %D%/test_export \
  %D%/test_empty \
  %D%/test_glora \
  %D%/test_generate \
  %D%/test_generate_program \
  %D%/test_half \
  %D%/test_ia3 \
  %D%/test_images \
  %D%/test_inplace \
  %D%/test_io \
  %D%/test_json \
  %D%/test_layers \
  %D%/test_lora_drop \
  %D%/test_lora_drop_files \
  %D%/test_match \
  %D%/test_memory \
  %D%/test_neat \
  %D%/test_neat_factor \
  %D%/test_mlae \
  %D%/test_mixture \
  %D%/test_ops \
  %D%/test_optim \
  %D%/test_optim_class \
  %D%/test_peft \
  %D%/test_peft_foreign \
  %D%/test_peft_refused \
  %D%/test_pretrained \
  %D%/test_pretrained_peft \
  %D%/test_programs \
  %D%/test_quant \
  %D%/test_quantise \
  %D%/test_random \
  %D%/test_real \
  %D%/test_rows \
  %D%/test_safetensors \
  %D%/test_scopes \
  %D%/test_search \
  %D%/test_search_file \
  %D%/test_story \
  %D%/test_texts \
  %D%/test_supernet \
  %D%/test_tokenizer \
  %D%/test_tools \
  %D%/test_vit \
  %D%/test_vocabulary \
  %D%/test_vit_files \
  %D%/test_warm
check_PROGRAMS += $(suites)
%C%_test_active_LDADD = $(suite_libs)
%C%_test_adalora_LDADD = $(suite_libs)
%C%_test_adapters_LDADD = $(suite_libs)
%C%_test_attach_LDADD = $(suite_libs)
%C%_test_bf16_LDADD = $(suite_libs)
%C%_test_budget_LDADD = $(suite_libs)
%C%_test_bytes_LDADD = $(suite_libs)
%C%_test_cache_LDADD = $(suite_libs)
%C%_test_generate_LDADD = $(suite_libs)
%C%_test_generate_program_LDADD = $(suite_libs)
%C%_test_combine_LDADD = $(suite_libs)
%C%_test_compose_LDADD = $(suite_libs)
%C%_test_core_LDADD = $(suite_libs)
%C%_test_cost_LDADD = $(suite_libs)
%C%_test_data_LDADD = $(suite_libs)
%C%_test_export_LDADD = $(suite_libs)
%C%_test_empty_LDADD = $(suite_libs)
%C%_test_glora_LDADD = $(suite_libs)
%C%_test_half_LDADD = $(suite_libs)
%C%_test_ia3_LDADD = $(suite_libs)
%C%_test_images_LDADD = $(suite_libs)
%C%_test_inplace_LDADD = $(suite_libs)
%C%_test_io_LDADD = $(suite_libs)
%C%_test_json_LDADD = $(suite_libs)
%C%_test_layers_LDADD = $(suite_libs)
%C%_test_lora_drop_LDADD = $(suite_libs)
%C%_test_lora_drop_files_LDADD = $(suite_libs)
%C%_test_match_LDADD = $(suite_libs)
%C%_test_memory_LDADD = $(suite_libs)
%C%_test_neat_LDADD = $(suite_libs)
%C%_test_neat_factor_LDADD = $(suite_libs)
%C%_test_mlae_LDADD = $(suite_libs)
%C%_test_mixture_LDADD = $(suite_libs)
%C%_test_ops_LDADD = $(suite_libs)
%C%_test_optim_LDADD = $(suite_libs)
%C%_test_optim_class_LDADD = $(suite_libs)
%C%_test_peft_LDADD = $(suite_libs)
%C%_test_peft_foreign_LDADD = $(suite_libs)
%C%_test_peft_refused_LDADD = $(suite_libs)
%C%_test_pretrained_LDADD = $(suite_libs)
%C%_test_pretrained_peft_LDADD = $(suite_libs)
%C%_test_programs_LDADD = $(suite_libs)
%C%_test_quant_LDADD = $(suite_libs)
%C%_test_quantise_LDADD = $(suite_libs)
%C%_test_random_LDADD = $(suite_libs)
%C%_test_real_LDADD = $(suite_libs)
%C%_test_rows_LDADD = $(suite_libs)
%C%_test_safetensors_LDADD = $(suite_libs)
%C%_test_scopes_LDADD = $(suite_libs)
%C%_test_search_LDADD = $(suite_libs)
%C%_test_search_file_LDADD = $(suite_libs)
%C%_test_story_LDADD = $(suite_libs)
%C%_test_texts_LDADD = $(suite_libs)
%C%_test_supernet_LDADD = $(suite_libs)
%C%_test_tokenizer_LDADD = $(suite_libs)
%C%_test_tools_LDADD = $(suite_libs)
%C%_test_vit_LDADD = $(suite_libs)
%C%_test_vit_files_LDADD = $(suite_libs)
%C%_test_vocabulary_LDADD = $(suite_libs)
%C%_test_warm_LDADD = $(suite_libs)
# The one test of a header of lib/.
%C%_test_real_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/lib
suite_libs = liblorikeet.la $(CHECK_LIBS)
else
check-local:
	@echo "make check needs the unit test library Check; on Debian or Ubuntu: apt-get install check" >&2; exit 1
endif

# What make check-valgrind runs.
valgrind_tests = $(suites)
