#!/bin/sh
# man.sh: the manual pages.  Every literal display is a complete program, which compiles without a warning and runs; every
# name with lk_ or LK_ is in a public header; mandoc, or else groff, has nothing to say.
set -u
export LC_ALL=C
srcdir=${srcdir:-.}
CC=${CC:-cc}
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
status=0

fail() {
  echo "man.sh: $*" >&2
  status=1
}

# Writes the literal displays of a page to FILE-1.c, FILE-2.c ...
extract() {
  sed 's/^\\&//; s/\\-/-/g; s/\\(aq/'\''/g; s/\\(ga/`/g; s/\\(ha/^/g; s/\\(ti/~/g; s/\\e/\\/g' "$1" | awk -v to="$2" '
    /^\.Bd -literal/ { file = to "-" ++n ".c"; printf "" > file; next }
    /^\.Ed/ { file = "" }
    file != "" { print > file }'
}

# shellcheck disable=SC2086 # lists of words
build() {
  $CC -std=c11 -Wall -Wextra -Wpedantic -Werror ${LK_LDFLAGS-} "-I$srcdir/include" -Iinclude -c -o "$1.o" "$1.c" &&
    ./libtool --silent --tag=CC --mode=link $CC ${LK_LDFLAGS-} -no-install -o "$1" "$1.o" liblorikeet.la -lm
}

run() {
  mkdir "$1.d" && (cd "$1.d" && exec "$1")
}

style() {
  if command -v mandoc >/dev/null; then
    said=$(mandoc -T lint -W warning "$1" 2>&1)
  elif command -v groff >/dev/null; then
    said=$(groff -mdoc -ww -z "$1" 2>&1)
  else
    said=
    echo "man.sh: neither mandoc nor groff is here: the markup of $1 was not checked"
  fi
  [ -z "$said" ] || fail "$said"
}

cat "$srcdir"/include/lorikeet/*.h include/lorikeet/ops.h >"$dir/headers"
tr -c 'A-Za-z0-9_' '\n' <"$dir/headers" | grep -i '^lk_' | sort -u >"$dir/declared"

for page in "$srcdir"/doc/*.3; do
  name=$(basename "$page" .3)
  style "$page"
  grep -v '^\.Dt' "$page" | tr -c 'A-Za-z0-9_' '\n' | grep -i '^lk_' | sort -u >"$dir/named"
  unknown=$(comm -23 "$dir/named" "$dir/declared")
  [ -z "$unknown" ] || fail "$page names what no public header declares:" $unknown
  extract "$page" "$dir/$name"
  programs=0
  for source in "$dir/$name"-*.c; do
    [ -f "$source" ] || continue
    program=${source%.c}
    programs=$((programs + 1))
    if ! grep -q '^int main(' "$source"; then
      fail "$page: literal display $programs is no program; what is none is written as .Bd -unfilled"
    elif ! build "$program"; then
      fail "$page: example $programs does not compile"
    elif ! run "$program"; then
      fail "$page: example $programs fails"
    fi
  done
  echo "man.sh: $name: $programs programs"
  [ "$programs" -gt 0 ] || fail "$page has no example"
done
exit $status
