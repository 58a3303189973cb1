# examples/: a numbered course, every part of it also a test, and the two programs for real work.

course =

programs =

noinst_PROGRAMS += $(course) $(programs)
TESTS += $(course)

# Built again by make installcheck, outside the tree, against the installed library.
installcheck_examples =

installcheck-local:
	cd $(srcdir) && CC='$(CC)' CFLAGS='$(LK_LDFLAGS)' libdir='$(libdir)' pkgconfigdir='$(pkgconfigdir)' DESTDIR='$(DESTDIR)' \
	  $(SHELL) tests/installcheck.sh $(installcheck_examples)
