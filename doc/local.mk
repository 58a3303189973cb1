# doc/: manual pages, and the sources of pictures.

dist_man3_MANS = \
  %D%/lk_adapter.3 \
  %D%/lk_op.3 \
  %D%/lorikeet.3
EXTRA_DIST += %D%/claims.md %D%/compare.svg %D%/exhibit.svg %D%/design.md %D%/methods %D%/performance.md %D%/results.md

# Every page is found under each name in its NAME section.
man_names = sed -n '/^\.Sh NAME/,/^\.Nd/s/^\.Nm \([a-z0-9_]*\).*/\1/p'

install-data-hook:
	@for page in $(dist_man3_MANS); do \
	  name=`basename $$page .3`; \
	  for other in `$(man_names) $(srcdir)/$$page`; do \
	    test $$other = $$name || echo ".so man3/$$name.3" >$(DESTDIR)$(man3dir)/$$other.3; \
	  done; \
	done

uninstall-hook:
	@for page in $(dist_man3_MANS); do \
	  for other in `$(man_names) $(srcdir)/$$page`; do rm -f $(DESTDIR)$(man3dir)/$$other.3; done; \
	done
