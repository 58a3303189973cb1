# finetune.sh: what the tests of the program finetune share; they say `test=NAME.sh` and read it.  It makes $work, a folder
# that goes when the test ends.
set -u
finetune=${builddir:-.}/examples/finetune
golden=$(cd "${srcdir:-.}/tests/golden/models" && pwd) || exit 99
work=$(mktemp -d test.XXXXXX) || exit 99
trap 'rm -rf "$work"' EXIT
failed=0

complain() {
  echo "$test: $*" >&2
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
# A tokenizer of a few words, for those models.
write_tokenizer() {
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
