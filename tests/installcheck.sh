#!/bin/sh
# installcheck.sh SOURCE...: builds each program outside the tree against the installed library, through pkg-config,
# shared and static, and runs it.  Wants CC, CFLAGS, libdir, pkgconfigdir and DESTDIR in the environment.
set -eu
CC=${CC:-cc}
DESTDIR=${DESTDIR-}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

export PKG_CONFIG_PATH="$DESTDIR$pkgconfigdir${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
[ -z "$DESTDIR" ] || export PKG_CONFIG_SYSROOT_DIR="$DESTDIR"
cflags=$(pkg-config --cflags lorikeet)
libs=$(pkg-config --libs lorikeet)
private=$(pkg-config --libs --static lorikeet)

for source; do
  cp -f "$source" "$(dirname "$source")"/*.h "$dir"
  cd "$dir"
  name=$(basename "$source")
  echo "installcheck.sh: $name, shared"
  # shellcheck disable=SC2086 # lists of words
  $CC -std=c11 ${CFLAGS-} -o shared "$name" $cflags $libs -lm
  LD_LIBRARY_PATH="$DESTDIR$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ./shared
  if [ -f "$DESTDIR$libdir/liblorikeet.a" ]; then
    echo "installcheck.sh: $name, static"
    # shellcheck disable=SC2086,SC2001 # lists of words
    $CC -std=c11 ${CFLAGS-} -o static "$name" $cflags \
      $(echo "$private" | sed "s|-llorikeet|$DESTDIR$libdir/liblorikeet.a|") -lm
    ./static
  fi
  cd "$OLDPWD"
done
