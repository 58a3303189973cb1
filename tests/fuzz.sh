#!/bin/sh
# fuzz.sh: every fuzz target on its seeds and on mutations of them; many more of them, with other seeds, when LK_EXHAUSTIVE
# is set.  FUZZERS lists the programs.
set -u
mutations=20000
seeds=1
if [ -n "${LK_EXHAUSTIVE-}" ]; then
  mutations=2000000
  seeds='1 2 3'
fi
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
here=$(pwd)
status=0
for fuzzer in $FUZZERS; do
  for seed in $seeds; do
    echo "fuzz.sh: $fuzzer -n $mutations -s $seed"
    (cd "$dir" && "$here/$fuzzer" -n "$mutations" -s "$seed") && continue
    status=1
    [ ! -f "$dir/fuzz-crash-input" ] || mv "$dir/fuzz-crash-input" "$fuzzer.crash"
    echo "fuzz.sh: $fuzzer failed; the input, if one was kept, is $fuzzer.crash"
  done
done
exit $status
