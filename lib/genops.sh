#!/bin/sh
# genops.sh header|registry FILE...: what the op files declare, collected.
#
# header:   lorikeet/ops.h, from every line that begins with LK_OP (up to the brace, under the comment directly above)
#           and from every table line LK_UNARY(name, expression, ...) or LK_BINARY(name, expression, ...).
#           A table line is described by the comment above or behind it, else by its expression.
# registry: LK_OP_ENTRY(name) for every "const lk_op lk_op_NAME =" and every table line.
set -eu
export LC_ALL=C
what=$1
shift

prologue() {
  echo '/* ops.h: every built-in operator.  Made by lib/genops.sh from lib/ops/; the comments and names stand there. */'
  echo '#ifndef LORIKEET_OPS_H'
  echo '#define LORIKEET_OPS_H'
  # The headers with the option structs of ops are those that the op files include.
  {
    echo '#include <lorikeet/tape.h>'
    sed -n '/^#include <lorikeet\/ops*\.h>/d;/^#include <lorikeet\//p' "$@"
  } | sort -u
  printf '\n#ifdef __cplusplus\nextern "C" {\n#endif\n'
}

epilogue() { printf '\n#ifdef __cplusplus\n}\n#endif\n#endif\n'; }

collect() {
awk -v what="$what" '
function fail(message) {
  printf "genops.sh: %s: %s\n", file, message > "/dev/stderr"
  failed = 1
  exit 1
}

# The end of a file: it must have brought at least one op.
function leave() {
  if (file != "" && entries == 0) fail("no \"const lk_op lk_op_NAME =\" and no table line")
  entries = 0
}

function entry(name) {
  entries++
  if (name in seen) fail("the op " name " is also in " seen[name])
  seen[name] = file
  if (what == "registry") printf "LK_OP_ENTRY(%s)\n", name
}

# Splits the arguments of a macro call at its top-level commas into arg[1..n].
function arguments(text,   i, c, depth, n) {
  n = 1
  arg[1] = ""
  for (i = index(text, "("); i <= length(text); i++) {
    c = substr(text, i, 1)
    if (c == ")" && depth == 1) break
    if (depth == 1 && c == ",") arg[++n] = ""
    else if (depth > 0) arg[n] = arg[n] c
    if (c == "(") depth++
    else if (c == ")") depth--
  }
  for (i = 1; i <= n; i++) gsub(/^[ \t]+|[ \t]+$/, "", arg[i])
  return n
}

function balanced(text,   open, close_) {
  open = gsub(/\(/, "(", text)
  close_ = gsub(/\)/, ")", text)
  return open > 0 && open == close_
}

# An expression of a table as a reader would write it: (R)0.5 * RTANH(x) + OF(phi, x)(x) is 0.5 * tanh(x) + phi(x).
function plain(e,   out, name) {
  gsub(/\(R\)/, "", e)
  out = ""
  while (match(e, /[A-Z][A-Z0-9_]*\(/)) {
    out = out substr(e, 1, RSTART - 1)
    name = tolower(substr(e, RSTART, RLENGTH - 1))
    e = substr(e, RSTART + RLENGTH)
    if (name == "of") {
      match(e, /^[a-z0-9_]+/)
      name = substr(e, 1, RLENGTH)
      sub(/^[^)]*\)\(/, "", e)
    }
    if (name ~ /^r(exp|tanh|phi|log|log1p|sqrt|sin|cos|pow|abs)$/) name = substr(name, 2)
    out = out name "("
  }
  return out e
}

function table(text,   n, parameters) {
  n = arguments(text)
  if (n < 2) fail("a table line needs a name and an expression: " text)
  entry(arg[1])
  if (what != "header") return
  if (match(text, /\/\*.*\*\//)) comment = substr(text, RSTART, RLENGTH) "\n"
  if (comment == "") comment = "/* y = " plain(arg[2]) ", elementwise. */\n"
  parameters = text ~ /^LK_UNARY/ ? "lk_tensor x" : "lk_tensor a, lk_tensor b"
  printf "%sLK_API lk_tensor lk_%s(lk_tape *t, %s);\n", comment, arg[1], parameters
}

function signature(text) {
  if (comment == "") fail("no comment directly above: " text)
  sub(/^LK_OP[ \t]+/, "LK_API ", text)
  sub(/[ \t\n]*\{.*/, ";", text)
  gsub(/\n/, "\n ", text) # LK_API is one longer
  if (what == "header") printf "%s%s\n", comment, text
}

FNR == 1 {
  leave()
  file = FILENAME
  comment = ""
  state = ""
  if (what == "header") printf "\n"
}

state == "comment" {
  comment = comment $0 "\n"
  if (/\*\/[ \t]*$/) state = ""
  next
}
state == "signature" {
  text = text "\n" $0
  if (/\{/) { signature(text); state = ""; comment = "" }
  next
}
state == "table" {
  text = text " " $0
  if (balanced(text)) { table(text); state = ""; comment = "" }
  next
}
/^\/\* clang-format / { comment = ""; next }
/^\/\*/ {
  comment = $0 "\n"
  if (!/\*\/[ \t]*$/) state = "comment"
  next
}
/^LK_OP[ \t]/ {
  text = $0
  if (/\{/) { signature(text); comment = "" }
  else state = "signature"
  next
}
/^LK_(UNARY|BINARY)\(/ {
  text = $0
  if (balanced(text)) { table(text); comment = "" }
  else state = "table"
  next
}
/^(static )?const lk_op lk_op_[A-Za-z0-9_]+ *=/ {
  if (/^static/) fail("the op must not be static: " $0)
  text = $0
  sub(/^const lk_op lk_op_/, "", text)
  sub(/ *=.*/, "", text)
  entry(text)
}
{ comment = "" }

END {
  if (failed) exit 1
  leave()
}
' "$@"
}

case $what in
  header)
    prologue "$@"
    collect "$@"
    epilogue
    ;;
  registry)
    collect "$@"
    ;;
  *)
    echo "usage: genops.sh header|registry FILE..." >&2
    exit 1
    ;;
esac
