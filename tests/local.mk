# tests/: Check suites, the golden runner, the step benchmark, fuzzing, and checks of the tree itself.

TEST_EXTENSIONS = .sh
SH_LOG_COMPILER = $(SHELL)
AM_TESTS_ENVIRONMENT = \
  CC='$(CC)'; export CC; CXX='$(CXX)'; export CXX; NM='$(NM)'; export NM; OMP_WAIT_POLICY=passive; export OMP_WAIT_POLICY;

# What the tree itself must keep to.
tree_tests = \
  %D%/headers.sh \
  %D%/layers.sh \
  %D%/symbols.sh

test_headers = \
  %D%/alloc.h \
  %D%/files.h

tools =

fuzzers =

noinst_PROGRAMS += $(tools)
TESTS += $(tree_tests) $(suites)
EXTRA_DIST += $(tree_tests) $(test_headers) %D%/installcheck.sh %D%/valgrind.supp %D%/golden

if HAVE_CHECK
suites = \
  %D%/test_data \
  %D%/test_json \
  %D%/test_optim \
  %D%/test_safetensors
check_PROGRAMS += $(suites)
%C%_test_data_LDADD = $(suite_libs)
%C%_test_json_LDADD = $(suite_libs)
%C%_test_optim_LDADD = $(suite_libs)
%C%_test_safetensors_LDADD = $(suite_libs)
suite_libs = liblorikeet.la $(CHECK_LIBS)
else
check-local:
	@echo "make check needs the unit test library Check; on Debian or Ubuntu: apt-get install check" >&2; exit 1
endif

# What make check-valgrind runs.
valgrind_tests = $(suites)
