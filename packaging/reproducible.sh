#!/bin/bash
# Builds the Debian packages of the committed tree in two folders and compares them byte for byte: reproducible.sh [OUT].
# OUT gets the packages. No compiler's cache takes part, which would hand the first build's objects to the second; with
# WITH_CACHE=1 it may, and then the objects are only looked through for names of the folders.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
[ "${WITH_CACHE:-}" = 1 ] || export CCACHE_DISABLE=1
export DEB_BUILD_OPTIONS="nocheck ${DEB_BUILD_OPTIONS:-}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/one" "$work/another/and/deeper"
TMPDIR=$work/one "$here/build-deb.sh" "$work/first" >"$work/log" 2>&1 || { tail -50 "$work/log" >&2; exit 1; }
TMPDIR=$work/another/and/deeper "$here/build-deb.sh" "$work/second" >"$work/log" 2>&1 || { tail -50 "$work/log" >&2; exit 1; }
(cd "$work/first" && sha256sum ./*.deb) | (cd "$work/second" && sha256sum --check --strict)
for package in "$work"/second/*.deb; do
  dpkg-deb -x "$package" "$work/files"
done
# Sections of debug files are compressed.
find "$work/files" -name '*.debug' -exec objcopy --decompress-debug-sections {} \;
if grep -rlF "$work" "$work/files"; then
  echo "reproducible.sh: these files name the folder that they were built in" >&2
  exit 1
fi
[ $# = 0 ] || cp "$work"/first/*.deb "$1/"
