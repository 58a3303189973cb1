#!/bin/sh
# test_finetune_texts.sh: the program finetune on language models: classifying, blocks, completions, hidden tokens, vectors;
# resuming, merging, saved adapters, and what it refuses.  The models are those of tests/golden/models, with a tokenizer
# of a few words.
test=test_finetune_texts.sh
. "${srcdir:-.}/tests/finetune.sh"
write_tokenizer
model bert_classify
model bert_masked_lm
model bert_embed
model gpt2_lm
model llama_lm

data=$work/data
mkdir "$data"
sentences 240 1 > "$data/train.tsv"
sentences 60 2 > "$data/dev.tsv"
sentences 60 3 > "$data/test.tsv"
bert=$work/bert_classify

# ---- looking ----

quietly --model "$bert" --dry-run
grep -q 'layer.1.attention.self.value .* linear' "$work/out" || complain "--dry-run: $(cat "$work/out")"
quietly --model "$bert" --count --adapter 'lora r=2'
[ "$(cat "$work/out")" = "sites 4
parameters 384" ] || complain "--count: $(cat "$work/out")"

# ---- classifying ----

lora="--model $bert --data $data --epochs 12 --lr 0.02 --batch 16 --seed 2"
quietly $lora --out "$work/a" --threads 1 --merge --predict "$work/a.tsv" --json
awk -v x="$(field test_accuracy)" 'BEGIN {exit !(x > 0.9)}' || complain "classify: test accuracy $(field test_accuracy)"
[ "$(field steps)" = 180 ] || complain "classify: $(field steps) steps"
grep -q 'minus' "$work/a.tsv" || complain "--predict names no class: $(head -n 2 "$work/a.tsv")"
grep -q '"base_model_name_or_path":.*bert_classify' "$work/a/adapter/adapter_config.json" || complain 'no base in adapter_config.json'
quietly $lora --out "$work/two" --threads 2
cmp "$work/a/metrics.jsonl" "$work/two/metrics.jsonl" || complain 'two threads give other losses than one'
quietly $lora --out "$work/parts" --accumulate 3 --epochs 1 --no-dropout
quietly $lora --out "$work/again" --recompute blocks --epochs 1 --no-dropout
quietly $lora --out "$work/plain" --epochs 1 --no-dropout
for other in parts again; do
  head -n 5 "$work/$other/metrics.jsonl" | paste -d, "$work/plain/metrics.jsonl" - | head -n 5 |
    awk -F'[:,]' '{d = $4 - $12; if (d > 1e-4 || d < -1e-4 || !($4 > 0)) exit 1}' || complain "$other: other losses"
done
quietly $lora --out "$work/drop" --epochs 1
cmp -s "$work/drop/metrics.jsonl" "$work/plain/metrics.jsonl" && complain '--no-dropout changes nothing'

quietly --eval --model "$bert" --adapter "$work/a/adapter" --data "$data" --predict "$work/b.tsv" --json
cmp "$work/a.tsv" "$work/b.tsv" || complain 'the saved adapter predicts something else'
for file in config.json model.safetensors tokenizer.json; do
  [ -f "$work/a/merged/$file" ] || complain "no $file in the merged directory"
done
grep -q '"plus": *1' "$work/a/merged/config.json" || complain 'the merged config does not name the classes'
quietly --eval --model "$work/a/merged" --data "$data" --predict "$work/c.tsv"
paste "$work/a.tsv" "$work/c.tsv" | awk '$1 != $4 || $2 != $5 || ($3 - $6) ^ 2 > 1e-8 {exit 1} END {exit NR != 60}' ||
  complain 'the merged model predicts something else'
cut -f 1 "$data/test.tsv" > "$work/unknown.tsv"
quietly --eval --model "$work/a/merged" --test "$work/unknown.tsv" --predict "$work/d.tsv" --json
cmp "$work/c.tsv" "$work/d.tsv" || complain 'texts without labels are told otherwise'
[ "$(field test_accuracy)" = null ] || complain "unknown labels: accuracy $(field test_accuracy)"

quietly --model "$bert" --data "$data" --full --epochs 2 --out "$work/full" --json
below 1 test_loss
quietly --eval --model "$work/full/model" --data "$data" --json
below 1 test_loss
quietly --model "$bert" --data "$data" --probe --epochs 1 --json
[ "$(field trainable_parameters)" = 50 ] || complain "--probe trains $(field trainable_parameters)"
quietly --model "$bert" --data "$data" --epochs 1 --adapter 'lora_drop(lora r=2)' --json
quietly --model "$bert" --data "$data" --epochs 1 --adapter 'malora d=8 R=4' --json
quietly --model "$bert" --data "$data" --epochs 1 --adapter 'glora supernet r=2' --population 4 --generations 2 --json

# Stopping after any step and going on gives the same bits.
"$finetune" $lora --save-every 1 --out "$work/r" > "$work/out" 2> "$work/err" &
process=$!
while kill -0 $process 2> /dev/null && [ ! -f "$work/r/checkpoint.safetensors" ]; do sleep 0.01; done
kill -s INT $process 2> /dev/null
wait $process 2> /dev/null
status=$?
[ $status = 130 ] || [ $status = 0 ] || complain "interrupted: exit status $status"
quietly $lora --save-every 1 --resume --out "$work/r"
cmp "$work/a/metrics.jsonl" "$work/r/metrics.jsonl" || complain 'a resumed run gives other metrics'
cmp "$work/a/adapter/adapter_model.safetensors" "$work/r/adapter/adapter_model.safetensors" ||
  complain 'a resumed run gives another adapter'
refuses 'of a run with texts=240' $lora --no-dropout --resume --out "$work/r"

# ---- language models ----

for i in 1 2 3 4 5 6 7 8; do echo 'a b c d e f g h'; done > "$work/text.txt"
text="--max-length 12 --train $work/text.txt --test $work/text.txt --batch 4 --seed 1 --json"
for name in gpt2_lm llama_lm; do
  quietly --model "$work/$name" --task lm $text --epochs 60 --lr 0.01 --full
  below 0.5 test_loss # the next letter of the alphabet
  below 2 test_perplexity
  quietly --model "$work/$name" --task lm $text --epochs 20 --lr 0.02 --out "$work/$name.out" --merge
  below 3.5 test_loss
  loss=$(field test_loss)
  quietly --eval --model "$work/$name" --adapter "$work/$name.out/adapter" --task lm $text
  [ "$(field test_loss)" = "$loss" ] || complain "$name: the saved adapter has loss $(field test_loss), not $loss"
  quietly --eval --model "$work/$name.out/merged" --task lm $text
  awk -v x="$(field test_loss)" -v y="$loss" 'BEGIN {exit (x - y) ^ 2 > 1e-8}' ||
    complain "$name: the merged model has loss $(field test_loss), not $loss"
done
awk 'BEGIN {for (i = 0; i < 24; i++) print "{\"prompt\": \"a b\", \"completion\": \"c d\"}"}' > "$work/ask.jsonl"
quietly --model "$work/gpt2_lm" --task complete --train "$work/ask.jsonl" --epochs 20 --lr 0.01 --full --json
below 0.4 validation_loss
quietly --model "$work/bert_masked_lm" --task masked_lm $text --epochs 60 --lr 0.01 --full
below 1.5 test_loss
quietly --model "$work/bert_embed" --task embed --train "$data/train.tsv" --label-column 1 --pair-column 0 --epochs 2 --json
quietly --model "$work/bert_embed" --task embed --eval --test "$data/test.tsv" --predict "$work/vectors.tsv"
awk 'NF != 24 {exit 1} {s = 0; for (i = 1; i <= NF; i++) s += $i * $i; if ((s - 1) ^ 2 > 1e-8) exit 1} END {exit NR != 60}' \
  "$work/vectors.tsv" || complain 'vectors are not 60 of 24 numbers and length 1'

# ---- what is refused ----

refuses 'there are no training texts' --model "$bert"
refuses 'there are no texts to judge' --model "$bert" --eval
refuses 'holds no labels' --model "$bert" --train "$work/unknown.tsv"
refuses "nothing.tsv" --model "$bert" --train "$work/nothing.tsv"
refuses 'cannot do the task lm' --model "$bert" --task lm --train "$work/text.txt"
refuses "--predict is for --task classify and embed" --model "$work/gpt2_lm" --task lm --train "$work/text.txt" --predict x
refuses 'the model takes 16 tokens' --model "$bert" --data "$data" --max-length 17
refuses '--accumulate must be 1' --model "$work/bert_embed" --task embed --train "$data/train.tsv" --accumulate 2
printf 'a\tplus\nb\n' > "$work/bad.tsv"
refuses 'bad.tsv:2: a line without a label' --model "$bert" --train "$work/bad.tsv"
printf 'a\tfair\n' > "$work/other.tsv"
refuses "other.tsv:1: the label 'fair' does not occur" --model "$bert" --train "$data/train.tsv" --test "$work/other.tsv"
cp -r "$bert" "$work/broken"
head -c 300 "$bert/tokenizer.json" > "$work/broken/tokenizer.json"
refuses 'tokenizer.json' --model "$work/broken" --data "$data"
rm "$work/broken/tokenizer.json"
refuses 'tokenizer.json' --model "$work/broken" --data "$data"
head -c 20000 "$bert/model.safetensors" > "$work/broken/model.safetensors"
refuses 'model.safetensors' --model "$work/broken" --data "$data"
echo '{"model_type": "t5"}' > "$work/broken/config.json"
refuses "model_type is 't5'" --model "$work/broken" --data "$data"
echo '{"model_type": "bert", "vocab_size": 7000000000}' > "$work/broken/config.json"
refuses 'vocab_size' --model "$work/broken" --data "$data"
(ulimit -f 8 && refuses 'File too large' $lora --epochs 1 --out "$work/disk" && exit $failed) || failed=1
[ -z "$(find "$work/disk" -name '*.tmp')" ] || complain 'a failed write leaves a temporary file'

exit $failed
