#!/bin/sh
# test_finetune_texts.sh: the program finetune on language models: classifying, blocks, completions, hidden tokens, vectors;
# resuming, merging, saved adapters, and what it refuses.  The models are those of tests/golden/models, with a tokenizer
# of a few words.
set -u
finetune=${builddir:-.}/examples/finetune
golden=$(cd "${srcdir:-.}/tests/golden/models" && pwd) || exit 99
work=$(mktemp -d test.XXXXXX) || exit 99
trap 'rm -rf "$work"' EXIT
failed=0

complain() {
  echo "test_finetune_texts.sh: $*" >&2
  failed=1
}

# quietly ARGUMENTS...: a run that must succeed; what it says is in $work/out and $work/err
quietly() {
  "$finetune" "$@" > "$work/out" 2> "$work/err" || complain "finetune $*: $(tail -n 3 "$work/err")"
}

# refuses WORDS ARGUMENTS...: exit status 1, nothing on stdout, and one sentence with the words on stderr
refuses() {
  words=$1
  shift
  "$finetune" "$@" > "$work/out" 2> "$work/err"
  status=$?
  said=$(grep '^finetune: ' "$work/err" | grep -v '^finetune: warning: ')
  [ $status = 1 ] || complain "finetune $*: exit status $status, not 1"
  [ -s "$work/out" ] && complain "finetune $*: something on stdout: $(cat "$work/out")"
  [ "$(echo "$said" | wc -l)" = 1 ] || complain "finetune $*: more than one sentence: $said"
  case $said in
    *"$words"*) ;;
    *) complain "finetune $*: should say '$words': $said" ;;
  esac
}

# field NAME: of the JSON object in $work/out
field() { tail -n 1 "$work/out" | sed -n 's/.*"'"$1"'":\([^,}]*\).*/\1/p'; }

# below LIMIT NAME: a field's number is less
below() { awk -v x="$(field "$2")" -v limit="$1" 'BEGIN {exit !(x != "" && x != "null" && x + 0 < limit + 0)}' || complain "$2 is '$(field "$2")', not below $1"; }

# model NAME: a copy of a golden model with the tokenizer
model() {
  mkdir "$work/$1"
  cp "$golden/$1/config.json" "$golden/$1/model.safetensors" "$work/$1"
  cp "$work/tokenizer.json" "$work/$1"
}

special() {
  printf '%s{"id":%d,"content":"%s","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}' \
    "$3" "$1" "$2"
}
{
  printf '{"version":"1.0","truncation":null,"padding":null,"added_tokens":['
  special 0 '[PAD]' ''
  special 1 '[UNK]' ,
  special 2 '[CLS]' ,
  special 3 '[SEP]' ,
  special 4 '[MASK]' ,
  printf '],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,'
  printf '"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":{"type":"BertProcessing",'
  printf '"sep":["[SEP]",3],"cls":["[CLS]",2]},"decoder":null,"model":{"type":"WordPiece","unk_token":"[UNK]",'
  printf '"continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,'
  printf '"[SEP]":3,"[MASK]":4'
  i=5
  for word in a b c d e f g h good bad fine poor; do
    printf ',"%s":%d' "$word" $i
    i=$((i + 1))
  done
  printf '}}}'
} > "$work/tokenizer.json"
model bert_classify
model bert_masked_lm
model bert_embed
model gpt2_lm
model llama_lm

# Sentences whose one telling word says the class.
sentences() {
  awk -v n="$1" -v seed="$2" 'BEGIN {
    srand(seed); split("good bad fine poor", tell, " "); split("a b c d e f g h", fill, " ")
    for (i = 0; i < n; i++) {
      w = int(rand() * 4) + 1; k = int(rand() * 5); at = int(rand() * (k + 1)); line = ""
      for (j = 0; j <= k; j++) line = line (j ? " " : "") (j == at ? tell[w] : fill[int(rand() * 8) + 1])
      print line "\t" (w % 2 ? "plus" : "minus")
    }}'
}
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
[ "$(field test_accuracy)" = 1.0 ] || complain "classify: test accuracy $(field test_accuracy)"
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
