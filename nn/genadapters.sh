#!/bin/sh
# genadapters.sh FILE...: the registry, LK_ADAPTER(name) for every "const lk_adapter_class lk_adapter_NAME =".
set -eu
export LC_ALL=C

for f; do
  names=$(sed -n 's/^const lk_adapter_class lk_adapter_\([A-Za-z0-9_]*\) *=.*/\1/p' "$f")
  if [ -z "$names" ]; then
    echo "genadapters.sh: $f: no \"const lk_adapter_class lk_adapter_NAME =\"" >&2
    exit 1
  fi
  for name in $names; do
    echo "LK_ADAPTER($name)"
  done
done
