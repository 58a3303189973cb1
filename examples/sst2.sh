#!/bin/sh
# sst2.sh: every method on SST-2, from two seeds: the table of doc/results.md.
#
#   sh examples/sst2.sh FINETUNE MODEL DATA OUT [OPTIONS OF FINETUNE]...
#
# MODEL: all-MiniLM-L6-v2's directory; DATA: train.tsv, dev.tsv, test.tsv (sentence TAB label).  A run whose result is in
# OUT already is not done again, one that was stopped goes on; SEEDS="1 2 3" in the environment: other seeds.  The table
# goes to stdout.
set -u
[ $# -ge 4 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
finetune=$1 model=$2 data=$3 out=$4
shift 4
seeds=${SEEDS-1 2}
mkdir -p "$out" || exit 1

# name, spec
methods='LoRA	lora r=8 alpha=16
DoRA	lora r=8 alpha=16 | magnitude
MLAE	mlae r=8 p=0.5
NEAT	neat r=8
MALoRA	malora n=8 k=2 d=32 R=12 alpha=24
LoRA-drop	lora_drop T=0.9 (lora r=8 alpha=16)
GLoRA + search	glora r=8 supernet
AdaLoRA	adalora target_r=8 init_r=12'

# field FILE NAME: of its JSON object
field() { sed -n 's/.*"'"$2"'":\([^,}]*\).*/\1/p' "$1"; }

echo '| method | adapter | trained | lr | validation % | test % | seconds |'
echo '|---|---|---:|---:|---:|---:|---:|'
echo "$methods" | while IFS='	' read -r name spec; do
  rows=
  for seed in $seeds; do
    run="$out/$(echo "$name" | tr -cd 'A-Za-z')-$seed"
    if [ ! -s "$run.json" ]; then
      "$finetune" --model "$model" --data "$data" --adapter "$spec" --seed "$seed" --out "$run" --resume --json "$@" \
        < /dev/null > "$run.part" || exit 1
      mv "$run.part" "$run.json"
    fi
    rows="$rows$(field "$run.json" trainable_parameters) $(field "$run.json" lr) $(field "$run.json" validation_accuracy) $(field "$run.json" test_accuracy) $(field "$run.json" seconds)
"
  done
  printf '%s' "$rows" | awk -v name="$name" -v spec="$(echo "$spec" | sed 's/|/\\\\|/g')" '
    {trained += $1; lr = $2; dev += $3; test += $4; seconds += $5; if (NR == 1 || $4 < low) low = $4; if (NR == 1 || $4 > high) high = $4}
    END {printf "| %s | `%s` | %d | %g | %.2f | %.2f (%.2f to %.2f) | %.0f |\n", name, spec, trained / NR, lr, 100 * dev / NR, 100 * test / NR, 100 * low, 100 * high, seconds / NR}'
done
