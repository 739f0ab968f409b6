#!/bin/bash
# Builds the RPM packages from the committed tree: build-rpm.sh OUTPUT-DIRECTORY [RPMBUILD-OPTION ...]. The tree is not
# touched. On a Debian machine rpm knows of no installed package: there with --nodeps.
set -euo pipefail
tree=$(readlink -f "$(dirname "$0")/..")
out=$(mkdir -p "$1" && readlink -f "$1")
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$(sed -n "s/^  version: '\(.*\)',/\1/p" "$tree/meson.build")
SOURCE_DATE_EPOCH=$(git -C "$tree" log -1 --format=%ct)
export SOURCE_DATE_EPOCH
mkdir "$work/SOURCES"
git -C "$tree" archive --format=tar.gz --prefix="postern-$version/" -o "$work/SOURCES/postern-$version.tar.gz" HEAD
rpmbuild -bb --define "_topdir $work" --define "postern_version $version" "$@" "$tree/packaging/rpm/postern.spec"
cp "$work"/RPMS/*/*.rpm "$out/"
