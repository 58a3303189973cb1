#!/bin/sh
# readme.sh: what README.md shows is what there is: every C block stands word for word (but for indentation) in the file
# named in the comment above it, and the table of adapters is the one that the library makes.
set -eu
readme=${srcdir:-.}/README.md
work=test.readme.$$
mkdir "$work"
trap 'rm -rf "$work"' EXIT

blank() { sed 's/^[[:space:]]*//; s/[[:space:]]*$//' "$1" | grep -v '^$'; }

# Blocks into files: $work/1.c, and the file that each comes from in $work/1.from.
awk -v dir="$work" '
  /^<!-- [^ ]+\.c -->$/ { from = $2 }
  /^```c$/ { n++; inside = 1; print from > (dir "/" n ".from"); from = ""; next }
  /^```$/ { inside = 0 }
  inside { print > (dir "/" n ".c") }
' "$readme"

blocks=0
for block in "$work"/*.c; do
  source=$(cat "${block%.c}.from")
  if [ -z "$source" ]; then
    echo "readme.sh: a C block of README.md has no <!-- file --> above it: $(head -1 "$block")"
    exit 1
  fi
  blank "$block" > "$work/want"
  blank "${srcdir:-.}/$source" > "$work/have"
  # Is `want` a run of lines of `have`?
  awk 'NR == FNR { want[++n] = $0; next } { have[++m] = $0 }
       END {
         for (i = 0; i + n <= m; i++) {
           for (k = 1; k <= n && have[i + k] == want[k]; k++) continue;
           if (k > n) exit 0
         }
         exit 1
       }' "$work/want" "$work/have" || { echo "readme.sh: this block of README.md is not in $source:"; cat "$block"; exit 1; }
  blocks=$((blocks + 1))
done

tests/catalogue > "$work/table"
sed -n '/^| adapter |/,/^$/p' "$readme" | grep '^|' > "$work/shown"
cmp -s "$work/table" "$work/shown" || {
  echo "readme.sh: the table of adapters in README.md is not what tests/catalogue prints:"
  diff "$work/shown" "$work/table"
  exit 1
}
grep -q '^    ./bootstrap demo$' "$readme" && grep -q '^    ./bootstrap check$' "$readme"
echo "readme.sh: $blocks blocks and the table of adapters are as they should be"
[ "$blocks" -ge 2 ]
