#!/bin/sh
# bench.sh: the table of doc/performance.md: steps of this library against PyTorch's or against its own, with limits.
#
#   sh tests/bench/bench.sh STEP PEER.py [ROW]...
#
# STEP: the program step; PEER.py: peer.py beside this script.  ROW: rows whose name contains one of these words [all].
# PAIRS in the environment: how often both sides of a row run, in turn [3].  PYTHON: an interpreter that has torch
# [python3]; without one only this library's side is measured.
# A row whose median is beyond its limit is marked with a *.  Meant for a machine that does nothing else.
set -u
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
step=$1 peer=$2
shift 2
pairs=${PAIRS-3} python=${PYTHON-python3}
"$python" -c 'import torch' 2>/dev/null || { echo "bench: $python has no torch: no ratios to it" >&2; python=; }

# name | options of step | the other side: "torch" or "step", and its options | least utilisation | least ratio of times
# (other side's to this side's) | largest ratio of memory
rows='vit-b16 LoRA|--model vit-b16|torch --model vit-b16|85|1|0.5
vit-b16 LoRA, one token|--model vit-b16 --one-token|torch --model vit-b16|85|1|0.5
vit-b16 LoRA, recompute|--model vit-b16 --recompute|torch --model vit-b16||1|0.25
vit-b16 LoRA, recompute|--model vit-b16 --recompute|step --model vit-b16||0.74|
minilm LoRA|--model minilm --batch 32|torch --model minilm --batch 32|85|1|0.4
minilm LoRA, one token|--model minilm --batch 32 --one-token|torch --model minilm --batch 32|85|1|0.4
gpt2 LoRA|--model gpt2 --batch 4|torch --model gpt2 --batch 4 --seq 256|85|1|0.45
gpt2 LoRA, one token|--model gpt2 --batch 4 --one-token|torch --model gpt2 --batch 4 --seq 256|85|1|0.45
vit-b16 full|--model vit-b16 --full|torch --model vit-b16 --full||1.4|0.8
minilm full|--model minilm --batch 32 --full|torch --model minilm --batch 32 --full||1.4|0.8
gpt2 full|--model gpt2 --batch 4 --full|torch --model gpt2 --batch 4 --seq 256 --full||1.4|0.8
vit-b16 inference, batch 1|--model vit-b16 --infer --batch 1|torch --model vit-b16 --infer --batch 1||1.4|1
vit-b16 inference, batch 8|--model vit-b16 --infer --batch 8|torch --model vit-b16 --infer --batch 8||1.4|1
minilm inference, batch 1|--model minilm --infer --batch 1|torch --model minilm --infer --batch 1||1.4|1
minilm inference, batch 8|--model minilm --infer --batch 8|torch --model minilm --infer --batch 8||1.4|1
gpt2 inference, batch 1|--model gpt2 --infer --batch 1|torch --model gpt2 --infer --batch 1 --seq 256||1.4|1
gpt2 inference, batch 8|--model gpt2 --infer --batch 8|torch --model gpt2 --infer --batch 8 --seq 256||1.4|1
mlp LoRA|--model mlp --batch 32 --steps 500|torch --model mlp --batch 32 --steps 500||6|1
vit-s16 LoRA, batch 16|--model vit-s16 --batch 16|torch --model vit-s16 --batch 16|85|1|0.5
minilm LoRA, 128 tokens|--model minilm --batch 16 --seq 128|torch --model minilm --batch 16 --seq 128|85|1|0.4
minilm LoRA, 1024 tokens|--model minilm --batch 2 --seq 1024|torch --model minilm --batch 2 --seq 1024|85|1|0.4
vit-b16 LoRA, all-linear|--model vit-b16 --targets query,key,value,output,fc1,fc2|torch --model vit-b16 --targets all-linear|85|1|0.5
vit-b16 LoRA, one thread|--model vit-b16 --threads 1 --batch 4|torch --model vit-b16 --threads 1 --batch 4|85|1|0.5
vit-b16 bf16|--model vit-b16 --base-dtype bf16 --bf16|step --model vit-b16||1.6|1
minilm bf16|--model minilm --batch 32 --base-dtype bf16 --bf16|step --model minilm --batch 32||1.6|1
gpt2 bf16|--model gpt2 --batch 4 --base-dtype bf16 --bf16|step --model gpt2 --batch 4||1.6|1
vit-b16 bf16|--model vit-b16 --base-dtype bf16 --bf16|torch --model vit-b16 --bf16||1|1
vit-b16 int8|--model vit-b16 --base-dtype int8|step --model vit-b16||0.91|1
vit-b16 nf4|--model vit-b16 --base-dtype nf4|step --model vit-b16||0.91|1'

# One run of a side ("torch" or "step" and options): "ms MB utilisation".
run() {
  program=$1
  shift
  case $program in
    step) "$step" --json "$@" ;;
    *) [ -z "$python" ] || "$python" "$peer" "$@" ;;
  esac | sed -n 's/.*"step_ms": \([0-9.]*\).*"peak_rss_mb": \([0-9.]*\).*/\1 \2 &/; s/{.*"utilisation": \([0-9.]*\).*/\1/; s/{.*//; /./p'
}

# The median of the numbers on stdin, or nothing.
median() { sort -n | awk '{ x[NR] = $1 } END { if (NR) print x[int((NR + 1) / 2)] }'; }

# Is the row asked for?
wanted() {
  [ $# -gt 0 ] || return 0
  for word; do
    case $name in *"$word"*) return 0 ;; esac
  done
  return 1
}

printf '%-28s %9s %7s %7s   %9s %7s %7s   %7s %7s\n' '' 'ms' 'util %' '(least)' 'other ms' 'ratio' '(least)' 'memory' '(most)'
echo "$rows" | while IFS='|' read -r name ours other least ratio memory; do
  wanted "$@" || continue
  here= there=
  i=0
  while [ $i -lt "$pairs" ]; do
    # shellcheck disable=SC2086 # lists of words
    here="$here$(run step $ours </dev/null)
" there="$there$(run $other </dev/null)
"
    i=$((i + 1))
  done
  column() { echo "$1" | awk -v k="$2" 'NF >= k { print $k }' | median; }
  echo "$name|$(column "$here" 1)|$(column "$here" 2)|$(column "$here" 3)|$(column "$there" 1)|$(column "$there" 2)|$least|$ratio|$memory|${other%% *}" |
    awk -F'|' '{
      if ($2 == "") { printf "%-28s %s\n", $1, "did not run"; next }
      u = 100 * $4; r = $5 ? $5 / $2 : 0; m = $6 ? $3 / $6 : 0
      printf "%-28s %9.2f %7.1f%s %6s   ", $1, $2, u, ($7 != "" && u < $7 + 0 ? "*" : " "), $7
      if (!r) { print ""; next }
      printf "%9.2f %7.2f%s %6s   %7.2f%s %6s  %s\n", $5, r, (r < $8 ? "*" : " "), $8, m, ($9 != "" && m > $9 + 0 ? "*" : " "), $9, ($10 == "step" ? "(own)" : "")
    }'
done
