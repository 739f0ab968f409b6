#!/bin/bash
# Builds the Debian packages from the committed tree: build-deb.sh OUTPUT-DIRECTORY. The tree is not touched.
set -euo pipefail
tree=$(readlink -f "$(dirname "$0")/..")
out=$(mkdir -p "$1" && readlink -f "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$(sed -n "s/^  version: '\(.*\)',/\1/p" "$tree/meson.build")
# The date of the commit, so that two builds give the same bytes.
SOURCE_DATE_EPOCH=$(git -C "$tree" log -1 --format=%ct)
export SOURCE_DATE_EPOCH
git -C "$tree" archive --prefix="postern-$version/" HEAD | tar -x -C "$work"
cd "$work/postern-$version"
cp -r packaging/debian debian
cat >debian/changelog <<CHANGELOG
postern ($version) unstable; urgency=medium

  * CHANGELOG.md lists what changed.

 -- Postern maintainers <postern@localhost>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGELOG
dpkg-buildpackage -us -uc -b
cp ../*.deb ../*.buildinfo ../*.changes "$out/"
