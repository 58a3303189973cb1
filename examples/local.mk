# examples/: a numbered course, every part of it also a test, and the two programs for real work.

course = \
  %D%/01_tensors \
  %D%/02_gradient \
  %D%/03_mlp \
  %D%/04_conv_lora

programs =

example_headers = \
  %D%/course.h \
  %D%/memory.h \
  %D%/options.h \
  %D%/run.h \
  %D%/run_resume.h
EXTRA_DIST += $(example_headers)

noinst_PROGRAMS += $(course) $(programs)
TESTS += $(course)

# Built again by make installcheck, outside the tree, against the installed library.
installcheck_examples =

installcheck-local:
	cd $(srcdir) && CC='$(CC)' CFLAGS='$(LK_LDFLAGS)' libdir='$(libdir)' pkgconfigdir='$(pkgconfigdir)' DESTDIR='$(DESTDIR)' \
	  $(SHELL) tests/installcheck.sh $(installcheck_examples)
