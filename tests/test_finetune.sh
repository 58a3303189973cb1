#!/bin/sh
# test_finetune.sh: the program finetune: counts, training, resuming, killing, merging, judging, and what it refuses.
test=test_finetune.sh
. "${srcdir:-.}/tests/finetune.sh"
counts=${srcdir:-.}/tests/golden/counts
tab=$(printf '\t')

# says WORDS ARGUMENTS...: a run that must succeed and print the words
says() {
  words=$1
  shift
  quietly "$@"
  grep -q -e "$words" "$work/out" || complain "finetune $*: no '$words' in what it prints"
}

# ---- what needs no training ----

says '--modules-to-save' --help
says '--limit-validation' --help
says '^finetune (lorikeet)' --version
says '^lora$' --list-adapters
says 'layer.3.output.dense .* 1536$' --model vit-tiny-28 --dry-run
says 'classifier.weight .* 640$' --model vit-tiny-28 --dry-run

rows=0
while IFS=$tab read -r shapes adapter targets sites parameters; do
  [ "$shapes" = shapes ] && continue
  rows=$((rows + 1))
  quietly --count --shapes "$counts/$shapes" --adapter "$adapter" --targets "$targets"
  [ "$(cat "$work/out")" = "sites $sites
parameters $parameters" ] || complain "$shapes, $adapter: $(cat "$work/out"), not $sites and $parameters"
done < "$counts/expected.tsv"
[ $rows = 21 ] || complain "$rows rows of counts, not 21"
quietly --count --model vit-b16 --adapter 'lora r=16' --targets query,value --json
[ "$(field sites) $(field parameters)" = '24 589824' ] || complain "vit-b16: $(cat "$work/out")"
quietly --count --model vit-b16 --adapter 'lora r=4' --targets query --rank-pattern 'layer.0.*=8,layer.1.*=2' --layers 0,1,2
[ "$(cat "$work/out")" = "sites 3
parameters 21504" ] || complain "ranks by pattern: $(cat "$work/out")"

# ---- training ----

small='--limit-train 320 --limit-validation 100 --limit-test 100 --seed 3'
quietly --model vit-tiny-28 --full $small --epochs 4 --out "$work/pre" --json
[ "$(field trainable_parameters)" = 139018 ] || complain "full: $(cat "$work/out")"
grep -q 'initializer_range' "$work/pre/model/config.json" || complain 'no config.json of the whole model'
base=$work/pre/model
lora="--model $base --domain inverted $small --epochs 3 --batch 8"

quietly $lora --out "$work/a" --threads 1 --merge --predict "$work/a.tsv" --json
for key in train_accuracy validation_accuracy test_accuracy loss step_ms peak_mb peak_rss_mb seconds; do
  case $(field $key) in
    [0-9]*) ;;
    *) complain "--json: $key is '$(field $key)'" ;;
  esac
done
[ "$(field trainable_parameters)" = 29322 ] || complain "lora: $(field trainable_parameters) trained, not 29322"
[ "$(field steps)" = 120 ] || complain "lora: $(field steps) steps, not 120"
trained=$(field test_accuracy)
[ "$(grep -c '"loss"' "$work/a/metrics.jsonl")" = 120 ] || complain 'metrics.jsonl: not a line for every step'
awk -F'[:,]' '/"lr"/ {n++; if (n <= 20) first += $4; if (n > 100) last += $4} END {exit !(last < 0.8 * first)}' \
  "$work/a/metrics.jsonl" || complain 'the loss does not fall'

# The same bits on two threads.
quietly $lora --out "$work/two" --threads 2
cmp "$work/a/metrics.jsonl" "$work/two/metrics.jsonl" || complain 'two threads give other losses than one'

# Parts of a batch, and recomputation: the same first losses, but for rounding.
quietly $lora --out "$work/parts" --accumulate 3 --epochs 1
quietly $lora --out "$work/again" --recompute blocks --epochs 1
quietly $lora --out "$work/plain" --epochs 1
for other in parts again; do
  head -n 5 "$work/$other/metrics.jsonl" | paste -d, "$work/plain/metrics.jsonl" - | head -n 5 |
    awk -F'[:,]' '{d = $4 - $12; if (d > 1e-4 || d < -1e-4 || !($4 > 0)) exit 1}' || complain "$other: other losses"
done

# ---- judging: the adapter on its base, and the merged model, are what was trained ----

quietly --eval --model "$base" --adapter "$work/a/adapter" --domain inverted $small --predict "$work/b.tsv" --json
cmp "$work/a.tsv" "$work/b.tsv" || complain 'the saved adapter predicts something else'
[ "$(field test_accuracy)" = "$trained" ] || complain "the saved adapter: $(field test_accuracy), not $trained"
quietly --eval --model "$work/a/merged" --domain inverted $small --predict "$work/c.tsv"
paste "$work/a.tsv" "$work/c.tsv" | awk '$1 != $4 || $2 != $5 || ($3 - $6) ^ 2 > 1e-8 {exit 1} END {exit NR != 100}' ||
  complain 'the merged model predicts something else'
quietly --eval --model "$base" --adapter "$work/a/adapter" --domain inverted $small --merge --out "$work/late"
cmp "$work/a/merged/model.safetensors" "$work/late/merged/model.safetensors" || complain 'merged later: another model'
says 'accuracy' --model "$base" --probe $small --epochs 1

# ---- stopping and going on ----

run="$lora --save-every 1 --resume"
interrupted=0
killed=0
# Starts a run, waits for its first checkpoint of this start, and sends it a signal a little later.
stop_after() {
  rm -f "$work/r/seen"
  "$finetune" $run --out "$work/r" > "$work/out" 2> "$work/err" &
  process=$!
  while kill -0 $process 2> /dev/null && ! { [ -f "$work/r/checkpoint.safetensors" ] && [ -n "$(find "$work/r" -newer "$work/mark" -name checkpoint.safetensors)" ]; }; do
    sleep 0.02
  done
  sleep "$2"
  kill -s "$1" $process 2> /dev/null
  wait $process 2> /dev/null
  status=$?
  touch "$work/mark"
}
touch "$work/mark"
for pause in 0 0.05 0.11; do
  stop_after KILL $pause
  [ $status = 137 ] && killed=$((killed + 1))
done
stop_after INT 0.03
if [ $status = 130 ]; then
  interrupted=1
  grep -q 'finetune: interrupted after step [0-9]*; --resume' "$work/err" || complain "interrupted: $(tail -n 1 "$work/err")"
fi
quietly $run --out "$work/r"
[ $killed -ge 1 ] && [ $interrupted = 1 ] || complain "killed $killed times, interrupted $interrupted times"
cmp "$work/a/metrics.jsonl" "$work/r/metrics.jsonl" || complain 'a resumed run gives other metrics'
cmp "$work/a/adapter/adapter_model.safetensors" "$work/r/adapter/adapter_model.safetensors" ||
  complain 'a resumed run gives another adapter'
refuses 'epochs=3, not epochs=4' $lora --epochs 4 --resume --out "$work/r"
refuses 'of a run with images=320' $lora --domain plain --resume --out "$work/r"
quietly $run --out "$work/r" # nothing is left to do
cmp "$work/a/metrics.jsonl" "$work/r/metrics.jsonl" || complain 'resuming a finished run changes the metrics'

# ---- files: real data with fewer classes ----

mkdir "$work/idx"
for part in train t10k; do
  { printf '\000\000\010\003\000\000\000\024\000\000\000\034\000\000\000\034'; head -c 15680 /dev/zero; } |
    gzip > "$work/idx/$part-images-idx3-ubyte.gz"
  { printf '\000\000\010\001\000\000\000\024'; for i in 1 2 3 4; do printf '\000\001\002\003\004'; done; } \
    > "$work/idx/$part-labels-idx1-ubyte"
done
quietly --model "$base" --data "$work/idx" --epochs 1 --limit-validation 4 --limit-train 10 --out "$work/five" --json
grep -q 'warning: .* knows 10 classes and the data have 5' "$work/err" || complain "no notice of a new head"
[ "$(field steps)" = 1 ] || complain "10 training images in $(field steps) steps"
quietly --eval --model "$base" --adapter "$work/five/adapter" --data "$work/idx"

# ---- what is refused ----

refuses 'closest is --epochs' --epoch 3
refuses "--epochs 'few' is not a whole number from -1" --epochs few
refuses "--lr '-1' is not a number from 0" --lr -1
refuses '--lr needs a value' --lr --full
refuses '--full takes no value' --full=yes
refuses "'data' is not an option" data
refuses 'not one of constant|linear|cosine' --schedule sometimes
refuses '--model is needed' --full
refuses "no vision transformer 'vit-huge'; known are vit-tiny-28" --model vit-huge
refuses "'$work/none/config.json': No such file" --model "$work/none"
refuses 'exclude each other' --model vit-tiny-28 --full --probe
refuses '--merge needs --out' --model vit-tiny-28 --merge
refuses '--resume needs --out' --model vit-tiny-28 --resume
refuses 'are for adapters' --model vit-tiny-28 --full --targets query
refuses '--data is needed' --model vit-b16
refuses "there is no adapter 'lorra'" --model vit-tiny-28 --count --adapter lorra
refuses "no option 'rank'" --model vit-tiny-28 --count --adapter 'lora rank=3'
refuses 'r=0: want an integer' --model vit-tiny-28 --count --adapter 'lora r=0'
refuses "close: 'query'" --model vit-tiny-28 --count --targets quary
refuses "matches the pattern 'layer.9.*'" --model vit-tiny-28 --count --rank-pattern 'layer.9.*=2'
refuses 'PATTERN=NUMBER' --model vit-tiny-28 --count --rank-pattern 4
refuses "'x' is not the number of a layer" --model vit-tiny-28 --dry-run --layers 1,x
refuses 'expected.tsv:2: want path, in, out' --count --shapes "$counts/expected.tsv"
refuses "no domain \"upside\"" --model vit-tiny-28 --domain upside
refuses "train-images-idx3-ubyte" --model "$base" --data "$work"
refuses 'cannot make directory' $lora --out "$base/config.json"
refuses "cannot create '$work/none/p" $lora --predict "$work/none/p"
refuses 'is not finite' $lora --lr 1e6 --clip 0
refuses 'classifier.bias' --model "$base" --eval --adapter "$work/five/adapter" $small
head -c 2000 "$base/model.safetensors" > "$work/five/adapter/adapter_model.safetensors"
refuses 'adapter_model.safetensors' --model "$base" --eval --adapter "$work/five/adapter" --data "$work/idx"

# A full disk, and no memory.
(ulimit -f 64 && refuses 'File too large' $lora --out "$work/full" && exit $failed) || failed=1
[ -z "$(find "$work/full" -name '*.tmp')" ] || complain 'a failed write leaves a temporary file'
mkdir "$work/big"
echo '{"model_type":"vit","image_size":512,"patch_size":512,"num_channels":1}' > "$work/big/config.json"
ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}allocator_may_return_null=1
export ASAN_OPTIONS
refuses 'out of memory' --model "$work/big" --limit-train 1000000000

exit $failed
