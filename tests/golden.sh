#!/bin/sh
# golden.sh: the golden runner passes every recorded case here but those that are known to be unsupported, and fails
# when a number, a file or an option is not what it can take.
set -u
LC_ALL=C # sed edits binary files
export LC_ALL
data=${srcdir:-.}/tests/golden
runner=./tests/reference
unsupported=""
work=$(mktemp -d test.XXXXXX) || exit 99
trap 'rm -rf "$work"' EXIT
failed=0

complain() {
  echo "golden.sh: $*" >&2
  failed=1
}

# refuses FILE WORDS: the runner fails and says so
refuses() {
  said=$($runner "$1")
  [ $? = 1 ] || complain "$1 should fail: $said"
  case $said in
    FAIL*"$2"*) ;;
    *) complain "$1 should say '$2': $said" ;;
  esac
}

cases=
for path in "$data"/*/case_*.safetensors "$data"/*/plain_*.safetensors "$data"/*/interchange_*; do
  [ -e "$path" ] || continue
  case " $unsupported " in
    *" ${path#"$data"/} "*) refuses "$path" unsupported ;;
    *) cases="$cases $path" ;;
  esac
done
$runner $cases || complain "not all cases pass"

# A wrong number, a tensor that nobody knows, a cut file, an option beyond the library: each must be noticed.
case=$data/lora/case_basic.safetensors
size=$(wc -c < "$case")
{ head -c $((size - 2)) "$case"; printf '\131\100'; } > "$work/number"
refuses "$work/number" "is wrong by"
sed 's/"y_eval"/"y_evil"/' "$case" > "$work/name"
refuses "$work/name" "nothing is known about the recorded y_evil"
head -c 5000 "$case" > "$work/cut"
refuses "$work/cut" "$work/cut"
sed 's/"lora_A"/"lora_X"/' "$case" > "$work/missing"
refuses "$work/missing" "no tensor 'lora_A'"
sed 's/"linear"/"linaer"/' "$case" > "$work/kind"
refuses "$work/kind" "kind 'linaer'"
sed 's/\("groups": *\)"1"/\1"5"/' "$data/lora/case_conv2d.safetensors" > "$work/groups"
refuses "$work/groups" "5 groups of the convolution"
refuses "$work/nothing" "$work/nothing"
mkdir "$work/empty"
refuses "$work/empty" "base_model.safetensors"
$runner > /dev/null 2>&1 && complain "no argument should be an error"

exit $failed
