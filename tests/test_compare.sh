#!/bin/sh
# test_compare.sh: the program compare: the demo, and every exhibit in small: its table, its picture, its notes.
set -u
compare=${builddir:-.}/examples/compare
work=$(mktemp -d test.XXXXXX) || exit 99
trap 'rm -rf "$work"' EXIT
failed=0

complain() {
  echo "test_compare.sh: $*" >&2
  failed=1
}

# quietly ARGUMENTS...: a run that must succeed; what it says is in $work/out and $work/err
quietly() {
  "$compare" "$@" > "$work/out" 2> "$work/err" || complain "compare $*: $(tail -n 3 "$work/err")"
}

# refuses WORDS ARGUMENTS...: exit status 1, nothing on stdout, and a sentence with the words on stderr
refuses() {
  words=$1
  shift
  "$compare" "$@" > "$work/out" 2> "$work/err"
  [ $? = 1 ] || complain "compare $*: exit status is not 1"
  [ -s "$work/out" ] && complain "compare $*: something on stdout: $(cat "$work/out")"
  grep -q "^compare: .*$words" "$work/err" || complain "compare $*: should say '$words': $(cat "$work/err")"
}

# rows NAME PATTERN N: N lines of the exhibit's table in OUT, and of what was printed, are as the pattern says
rows() {
  for file in "$work/x/exhibit-$1.md" "$work/out"; do
    n=$(grep -c -e "$2" "$file")
    [ "$n" = "$3" ] || complain "$file: $n lines with '$2', not $3"
  done
}

# shown NAME SERIES...: the picture is there and names these
shown() {
  picture=$work/x/exhibit-$1.svg
  tail -n 1 "$picture" | grep -q '</svg>' || complain "$picture is not a whole picture"
  grep -q "^!\[$1\](exhibit-$1.svg)" "$work/x/exhibit-$1.md" || complain "exhibit-$1.md does not show its picture"
  shift
  for name in "$@"; do
    grep -q ">$name</text>" "$picture" || complain "$picture: no $name"
  done
}

tiny='--pretrain-epochs 1 --pretrain-images 100 --epochs 1 --seeds 1 --threads 1 --limit-train 20 --limit-validation 12
  --limit-test 20 --population 2 --generations 1 --warm-epochs 1'

# ---- options ----

quietly --help
for name in all tasks ranks shots shift neat everything; do
  grep -q "^  $name  " "$work/out" || complain "--help does not tell of the exhibit $name"
done
refuses 'shots' --exhibit shot --out "$work/x"
refuses "train-images-idx3-ubyte" $tiny --out "$work/x" --exhibit neat --data "$work" --quiet
refuses "no adapter 'nonsense'" $tiny --out "$work/x" --exhibit all --adapter nonsense --quiet

# ---- the demo ----

quietly $tiny --out "$work/x"
[ "$(grep -c '^[LD]oRA .*e-0' "$work/out")" = 2 ] || complain "the demo's table: $(cat "$work/out")"
for file in compare.svg lora/adapter_model.safetensors lora/adapter_config.json pretrained/model.safetensors; do
  [ -s "$work/x/$file" ] || complain "the demo leaves no $file"
done

# ---- every exhibit ----

number='[0-9][0-9]*\.[0-9][0-9]'
quietly $tiny --out "$work/x" --exhibit all --adapter 'lora r=2 | magnitude'
grep -q 'kept from before' "$work/err" || complain 'the pretrained model is not used again'
rows all "^[A-Zlfb].*  [0-9]* *$number  *$number  *[0-9.]*  [r0-9-]" 16
rows all '^LoRA  *29322 ' 1
rows all '^M[AL].*LoRA.* routed$' 1
rows all '^MoLoRA.* routed$' 1
rows all '^lora r=2 | magnitude ' 1
for note in 'MLAE: similarity' 'MLAE, no masks: similarity' 'MoLoRA: load' 'MALoRA: load' 'AdaLoRA: ranks kept' \
  'LoRA-drop: .* of 24 layers' 'GLoRA, searched: .*0.attention.attention.query'; do
  rows all "^- $note" 1
done
shown all LoRA MALoRA 'GLoRA, searched'

quietly $tiny --out "$work/x" --exhibit everything --quiet
[ -s "$work/err" ] && ! grep -q '^pretrained model' "$work/err" && complain "--quiet: $(cat "$work/err")"
rows tasks "^M\{0,1\}o\{0,1\}A\{0,1\}LoRA  *[0-9]*\(  *$number ([+-]$number)\)\{4\}  *$number  *[+-]$number$" 3
rows tasks "^LoRA for each  4 x 65162\(  *$number\)\{5\} *-$" 1
shown tasks 'The seesaw' 'LoRA for each'
rows ranks "^M[oA]LoRA  *[0-9]*  *[0-9]*  *$number  *$number$" 8
rows ranks '^MALoRA  *24  *310922 ' 1
shown ranks MoLoRA MALoRA
rows shots "^ *[0-9]*\(  *$number\)\{3\}  *[0-9]*$" 5
shown shots 'linear probe' LoRA 'GLoRA, searched'
rows shift "^\(inverted\|rotated\|cluttered\|noisy\)* *\(linear probe\|LoRA\|GLoRA, searched\)\(  *$number\)\{6\}$" 12
shown shift 'On the domain trained on' LoRA
rows neat "^ *[0-9]*  *[0-9]*  *$number  *$number  *[+-]$number  *$number  *$number$" 5
rows neat '^ *8  *29322 ' 1
shown neat LoRA NEAT

# ---- real images: the domains are made of them ----

mkdir "$work/idx"
for part in train t10k; do
  { printf '\000\000\010\003\000\000\000\024\000\000\000\034\000\000\000\034'; seq 1 9999 | head -c 15680; } |
    gzip > "$work/idx/$part-images-idx3-ubyte.gz"
  { printf '\000\000\010\001\000\000\000\024'; for i in 1 2; do printf '\000\001\002\003\004\005\006\007\010\011'; done; } \
    > "$work/idx/$part-labels-idx1-ubyte"
done
quietly $tiny --out "$work/x" --exhibit shift --data "$work/idx" --limit-validation 4
rows shift 'adapted to real images' 1
rows shift "^\(inverted\|rotated\|cluttered\|noisy\)* *\(linear probe\|LoRA\|GLoRA, searched\)\(  *$number\)\{6\}$" 12

exit $failed
