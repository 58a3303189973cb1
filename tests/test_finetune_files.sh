#!/bin/sh
# test_finetune_files.sh: the program finetune: folders of images; the names of classes, through adapters and merged models;
# tokens that the model has not yet; plain LoRAs; and what is refused before training rather than after it.
test=test_finetune_files.sh
. "${srcdir:-.}/tests/finetune.sh"
draw=${builddir:-.}/tests/draw_images

# swapped CONFIG: the same with the first two of id2label's names in the other order
swapped() { sed -e 's/"0": *"\([^"]*\)"/"1": "\1"/;t' -e 's/"1": *"\([^"]*\)"/"0": "\1"/' "$1"; }

# ---- images ----

images=$work/images
for part in train test; do mkdir -p "$images/$part/dark" "$images/$part/light"; done
"$draw" "$images" || complain 'no images were drawn'
quietly --model vit-tiny-28 --full --limit-train 32 --limit-validation 16 --limit-test 16 --epochs 1 --out "$work/base"
base=$work/base/model
quietly --model "$base" --data "$images" --adapter 'lora r=4' --epochs 3 --batch 8 --seed 1 --out "$work/i" --merge --as-lora \
  --predict "$work/i.tsv" --json
[ "$(field test_accuracy)" = 1.0 ] || complain "images: test accuracy $(field test_accuracy)"
grep -q 'knows 10 classes and the data have 2' "$work/err" || complain "images: no word of the new head: $(cat "$work/err")"
[ "$(cut -f 2 "$work/i.tsv" | sort | uniq -c | tr -s ' \n' ' ')" = ' 8 dark 8 light ' ] || complain 'not 8 dark and 8 light'
for directory in adapter merged; do
  grep -q '"light": *1' "$work/i/$directory/config.json" || complain "images: $directory/config.json does not name the classes"
done
quietly --eval --model "$work/i/merged" --data "$images" --predict "$work/j.tsv" --json
paste "$work/i.tsv" "$work/j.tsv" | awk '$2 != $5 || ($3 - $6) ^ 2 > 1e-8 {exit 1}' || complain 'the merged model sees something else'
swapped "$work/i/merged/config.json" > "$work/config.json" && mv "$work/config.json" "$work/i/merged/config.json"
quietly --eval --model "$work/i/merged" --data "$images" --json
[ "$(field test_accuracy)" = 0.0 ] || complain "images: with the names swapped, test accuracy $(field test_accuracy)"
quietly --eval --model "$base" --adapter "$work/i/lora" --data "$images" --json
[ "$(field test_accuracy)" = 1.0 ] || complain "--as-lora: test accuracy $(field test_accuracy)"
printf 'x' > "$images/test/light/31.jpg"
refuses '31.jpg' --model "$base" --data "$images"

# ---- texts ----

write_tokenizer
model bert_classify
model gpt2_lm
model llama_lm
bert=$work/bert_classify
data=$work/data
mkdir "$data"
sentences 240 1 > "$data/train.tsv"
sentences 60 2 > "$data/dev.tsv"
sentences 60 3 > "$data/test.tsv"
lora="--model $bert --data $data --epochs 6 --lr 0.02 --batch 16 --seed 2 --json"
quietly $lora --out "$work/a" --merge --adapter 'mlae r=4' --as-lora
below 0.3 test_loss
loss=$(field test_loss)
quietly --eval --model "$bert" --adapter "$work/a/lora" --data "$data" --json
awk -v x="$(field test_loss)" -v y="$loss" 'BEGIN {exit (x - y) ^ 2 > 1e-8}' || complain "--as-lora: loss $(field test_loss), not $loss"

# A file in which one class is missing, and its label would be the first of the alphabet: the adapter knows better.
grep plus "$data/test.tsv" > "$work/plus.tsv"
quietly --eval --model "$bert" --adapter "$work/a/adapter" --test "$work/plus.tsv" --json
below 0.6 test_loss
swapped "$work/a/adapter/config.json" > "$work/config.json" && mv "$work/config.json" "$work/a/adapter/config.json"
quietly --eval --model "$bert" --adapter "$work/a/adapter" --test "$work/plus.tsv" --json
[ "$(field test_accuracy)" = 0.0 ] || complain "with the adapter's names swapped, test accuracy $(field test_accuracy)"
swapped "$work/a/merged/config.json" > "$work/config.json" && mv "$work/config.json" "$work/a/merged/config.json"
quietly --model "$work/a/merged" --data "$data" --epochs 1 --out "$work/b" --json
grep -q '"plus": *0' "$work/b/adapter/config.json" || complain "the model's order of classes is lost"

# first_step_seconds is told, and is no more than all seconds of the run.
awk -v x="$(field first_step_seconds)" 'BEGIN {exit !(x > 0 && x < 60)}' || complain "first step after '$(field first_step_seconds)' s"

# ---- more tokens than the model has ----

for i in 1 2 3 4 5 6 7 8; do echo 'a b c d e f new g'; done > "$work/text.txt"
text="--task lm --max-length 12 --train $work/text.txt --test $work/text.txt --batch 4 --seed 1 --json"
for name in gpt2_lm llama_lm; do
  m=$work/$name
  awk '{s = ""; for (i = 17; i < 53; i++) s = s ",\"v" i "\":" i; sub(/"poor":16/, "&" s ",\"new\":53"); print}' \
    "$m/tokenizer.json" > "$work/more.json"
  mv "$work/more.json" "$m/tokenizer.json"
  words=$(case $name in gpt2_lm) echo wte ;; *) echo embed_tokens ;; esac)
  quietly --model "$m" $text --epochs 10 --lr 0.02 --out "$work/$name.out" --merge --modules-to-save "$words,lm_head"
  grep -q "tokenizer has 54 tokens, the model 53" "$work/err" || complain "$name: no word of the new token: $(cat "$work/err")"
  loss=$(field test_loss)
  quietly --eval --model "$m" --adapter "$work/$name.out/adapter" $text
  [ "$(field test_loss)" = "$loss" ] || complain "$name: the saved adapter has loss $(field test_loss), not $loss"
  quietly --eval --model "$work/$name.out/merged" $text
  grep -q 'tokenizer has' "$work/err" && complain "$name: the merged model has not the new token"
  awk -v x="$(field test_loss)" -v y="$loss" 'BEGIN {exit (x - y) ^ 2 > 1e-8}' || complain "$name: merged, loss $(field test_loss), not $loss"
done

# ---- what is refused before training ----

refuses 'merging gave model.layers.0.self_attn.q_proj a bias' --model "$work/llama_lm" $text --adapter 'lora r=2 bias' --out "$work/no" --merge
refuses 'merging gave model.layers.0.self_attn.q_proj a bias' --model "$work/llama_lm" $text --adapter glora --out "$work/no" --merge
refuses 'cannot be merged' --model "$work/llama_lm" $text --adapter molora --out "$work/no" --merge
refuses 'no product of two thin matrices' --model "$work/llama_lm" $text --adapter ia3 --out "$work/no" --as-lora
[ -e "$work/no" ] && complain 'something was trained first'

exit $failed
