# examples/: a numbered course, every part of it also a test, and the two programs for real work.

course = \
  %D%/01_tensors \
  %D%/02_gradient \
  %D%/03_mlp \
  %D%/04_conv_lora \
  %D%/05_compose \
  %D%/06_own_op \
  %D%/07_own_adapter \
  %D%/08_save_load \
  %D%/09_vit

programs = \
  %D%/finetune \
  %D%/compare \
  %D%/generate \
  %D%/inspect

# What the two programs share.
program_sources = \
  %D%/count.c \
  %D%/memory.c \
  %D%/options.c \
  %D%/run.c \
  %D%/run_data.c \
  %D%/run_images.c \
  %D%/run_judge.c \
  %D%/run_labels.c \
  %D%/run_method.c \
  %D%/run_model.c \
  %D%/run_procedure.c \
  %D%/run_resume.c
AM_CPPFLAGS += -DLK_VERSION='"$(PACKAGE_VERSION)"'
%C%_finetune_SOURCES = \
  %D%/finetune.c \
  %D%/finetune_images.c \
  %D%/finetune_job.c \
  %D%/finetune_report.c \
  %D%/finetune_texts.c \
  %D%/text_data.c \
  %D%/text_hide.c \
  %D%/text_model.c \
  %D%/text_task.c \
  $(program_sources)
%C%_compare_SOURCES = \
  %D%/compare.c \
  %D%/domains.c \
  %D%/exhibit.c \
  %D%/exhibit_all.c \
  %D%/exhibit_shots.c \
  %D%/exhibit_show.c \
  %D%/exhibit_tasks.c \
  %D%/session.c \
  %D%/trial.c \
  $(program_sources)

%C%_generate_SOURCES = %D%/generate.c %D%/options.c
%C%_inspect_SOURCES = %D%/inspect.c %D%/inspect_files.c %D%/inspect_show.c %D%/options.c

example_headers = \
  %D%/count.h \
  %D%/course.h \
  %D%/domains.h \
  %D%/exhibit.h \
  %D%/finetune.h \
  %D%/inspect.h \
  %D%/memory.h \
  %D%/options.h \
  %D%/run.h \
  %D%/run_procedure.h \
  %D%/run_resume.h \
  %D%/run_task.h \
  %D%/session.h \
  %D%/text.h \
  %D%/text_hide.h \
  %D%/trial.h
EXTRA_DIST += $(example_headers) %D%/sst2.sh

noinst_PROGRAMS += $(course) $(programs)
TESTS += $(course)

# Built again by make installcheck, outside the tree, against the installed library.
installcheck_examples = %D%/06_own_op.c %D%/07_own_adapter.c

installcheck-local:
	cd $(srcdir) && CC='$(CC)' CFLAGS='$(LK_LDFLAGS)' libdir='$(libdir)' pkgconfigdir='$(pkgconfigdir)' DESTDIR='$(DESTDIR)' \
	  $(SHELL) tests/installcheck.sh $(installcheck_examples)
