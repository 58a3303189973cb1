#!/bin/sh
# symbols.sh: the shared library exports exactly what the public headers declare with LK_API, and the static one
# defines no global name outside lk_.
set -u
srcdir=${srcdir:-.}
CC=${CC:-cc}
NM=${NM:-nm}
library=.libs/liblorikeet.so
if [ ! -f "$library" ]; then
  echo "symbols.sh: no shared library was built"
  exit 77
fi
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT

for header in $(cd "$srcdir/include" && ls lorikeet.h lorikeet/*.h) lorikeet/ops.h; do
  echo "#include <$header>"
done >"$dir/all.c"

# After preprocessing, LK_API is the visibility attribute: what stands behind it is "type name(" or "type name;".
$CC -std=c11 "-I$srcdir/include" -Iinclude -E -P "$dir/all.c" >"$dir/all.i" || exit 99
tr '\n' ' ' <"$dir/all.i" | tr ';{}' '\n\n\n' |
  sed -n 's/.*__attribute__((visibility("default")))//p' |
  sed 's/__attribute__.*//; s/(.*//; s/\[.*//; s/[ \t]*$//; s/.*[^A-Za-z0-9_]//' | sort -u >"$dir/declared"

$NM -D --defined-only "$library" | awk '$NF !~ /^__odr_asan/ { print $NF }' | sort -u >"$dir/exported"

if [ ! -s "$dir/declared" ]; then
  echo "symbols.sh: no LK_API declaration was found" >&2
  exit 1
fi
status=0
missing=$(comm -23 "$dir/declared" "$dir/exported")
extra=$(comm -13 "$dir/declared" "$dir/exported")
if [ -n "$missing" ]; then
  echo "symbols.sh: declared with LK_API in a public header, but not exported:" $missing >&2
  status=1
fi
if [ -n "$extra" ]; then
  echo "symbols.sh: exported, but declared in no public header:" $extra >&2
  case $extra in
    *.resolver*) echo "symbols.sh: (GCC exports target clones whatever their visibility: LK_CLONES wants static functions)" >&2 ;;
  esac
  status=1
fi
if [ -f .libs/liblorikeet.a ]; then
  foreign=$($NM -g --defined-only .libs/liblorikeet.a 2>/dev/null | awk 'NF == 3 && $3 !~ /^(lk_|__odr_asan)/ { print $3 }')
  if [ -n "$foreign" ]; then
    echo "symbols.sh: global names outside lk_ in the static library:" $foreign >&2
    status=1
  fi
fi
echo "symbols.sh: $(wc -l <"$dir/exported") exported names, $(wc -l <"$dir/declared") declared"
exit $status
