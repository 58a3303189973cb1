#!/bin/sh
# layers.sh: nn/ and examples/ stand on the public headers alone, lib/ knows nothing of nn/, and every foreign library
# is included in one file.
set -u
cd "${srcdir:-.}" || exit 99

# "file name" for every include in quotes (or in brackets) below the directories given.
quoted() { includes '"\([^"]*\)"' "$@"; }
bracketed() { includes '<\([^>]*\)>' "$@"; }
includes() {
  pattern=$1
  shift
  find "$@" -name '*.[ch]' | sort | while read -r file; do
    sed -n "s|^[ \t]*#[ \t]*include[ \t]*$pattern.*|$file \1|p" "$file"
  done
}

# A quoted include must be a file of the same top directory, relative to the file or to that directory.
own_directory() {
  top=$1
  quoted "$top" | while read -r file name; do
    for place in "$(dirname "$file")" "$top"; do
      path=$(cd "$place" && cd "$(dirname "$name")" 2>/dev/null && pwd) || continue
      case "$path/" in
        "$(pwd)/$top/"*) [ ! -f "$path/$(basename "$name")" ] || continue 2 ;;
      esac
    done
    case $name in
      lib/ops.inc | adapters.inc | nn/adapters.inc) ;;
      *) echo "$file includes \"$name\", which is not a file of $top/" ;;
    esac
  done
}

violations=$(
  own_directory lib
  own_directory nn
  own_directory examples
  quoted include | while read -r file name; do
    echo "$file includes \"$name\"; public headers use <lorikeet/...>"
  done
  for header in blis.h lapacke.h jansson.h pcre2.h utf8proc.h png.h jpeglib.h zlib.h; do
    files=$(bracketed include lib nn examples | sed -n "s| $header\$||p")
    [ "$(echo "$files" | wc -l)" -le 1 ] || echo "<$header> is included in more than one file:" $files
  done
)
if [ -n "$violations" ]; then
  echo "$violations" | sed 's/^/layers.sh: /' >&2
  exit 1
fi
