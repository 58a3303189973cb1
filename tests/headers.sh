#!/bin/sh
# headers.sh: every public header compiles alone, in C11 and in C++17, without a warning, and is installed.
set -u
srcdir=${srcdir:-.}
CC=${CC:-cc}
CXX=${CXX-}
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
status=0

# shellcheck disable=SC2086 # lists of words
compile() {
  one=$dir/one.$1
  shift
  printf '#include <%s>\n#include <%s>\nextern int not_empty;\n' "$header" "$header" >"$one"
  "$@" -Wall -Wextra -Wpedantic -Werror "-I$srcdir/include" -Iinclude -fsyntax-only "$one" || {
    echo "headers.sh: <$header> does not compile alone with $*" >&2
    status=1
  }
}

[ -n "$CXX" ] || echo "headers.sh: no C++ compiler, the C++ half is left out"
for header in $(cd "$srcdir/include" && ls lorikeet.h lorikeet/*.h | grep -v '^lorikeet/ops\.h$') lorikeet/ops.h; do
  compile c $CC -std=c11
  [ -z "$CXX" ] || compile cc $CXX -std=c++17
  grep -q "/$header\( \|\$\)" "$srcdir/include/local.mk" "$srcdir/lib/local.mk" || {
    echo "headers.sh: <$header> is not in include/local.mk and would not be installed" >&2
    status=1
  }
done
exit $status
