#!/bin/bash
# Two builds in two folders give the same bytes: the setuid helper, with the flags that Debian's packages are built with.
# Prints TAP. Usage: check_reproducible.sh SOURCE-ROOT
set -u
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "1..1"
  sed 's/^/# /' "$work/log" | tail -20
  echo "not ok 1 - $1"
  exit 1
}
number=0
for folder in "$work/one" "$work/another/and/deeper"; do
  number=$((number + 1))
  mkdir -p "$folder"
  tar -c -C "$root" --exclude './build*' --exclude ./.git --exclude ./fuzz/corpus . | tar -x -C "$folder" || fail "copying the tree"
  cd "$folder" || exit 1
  flags=$(DEB_BUILD_MAINT_OPTIONS=hardening=+all,-fortify dpkg-buildflags --get CXXFLAGS)
  CXXFLAGS=$flags meson setup build -Dsuid=enabled --prefix=/usr >"$work/log" 2>&1 || fail "meson setup in folder $number"
  ninja -C build helper/postern-helper >"$work/log" 2>&1 || fail "building in folder $number"
done
: >"$work/log"
cmp "$work/one/build/helper/postern-helper" "$work/another/and/deeper/build/helper/postern-helper" >"$work/log" 2>&1 || fail "the helper differs"
grep -qaF "$work" "$work/one/build/helper/postern-helper" && fail "the helper names the folder that it was built in"
echo "1..1"
echo "ok 1 - postern-helper of two folders has the same bytes"
