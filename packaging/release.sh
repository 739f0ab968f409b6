#!/bin/bash
# The checklist of a release, as a program: release.sh VERSION. Stops at the first thing that is not done; changes
# nothing. After it: git tag -s vVERSION.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?usage: packaging/release.sh VERSION}
step() { printf '== %s\n' "$*"; }
stop() { printf 'release.sh: %s\n' "$*" >&2; exit 1; }

step "one version everywhere"
grep -qxF "  version: '$version'," meson.build || stop "meson.build has another version"
step "CHANGELOG.md has it"
grep -qE "^## .*\b${version//./\\.}\b" CHANGELOG.md || stop "CHANGELOG.md has no section of $version"
step "the tree is clean, and no tag has the name"
[ -z "$(git status --porcelain)" ] || stop "there are changes that are not committed"
[ -z "$(git tag --list "v$version")" ] || stop "the tag v$version exists"
step "placeholders are filled in"
! grep -rnE 'example\.org|@localhost' SECURITY.md fuzz/oss-fuzz/project.yaml packaging/debian/control || stop "addresses of an example are left"
step "lint, tests on one kernel, device-mapper on two"
./dev lint
./dev test
./dev test-vm
step "packages, and what they are made of"
out=$(mktemp -d)
packaging/build-deb.sh "$out"
lintian --fail-on error,warning "$out"/*.changes
packaging/sbom.py "${BUILD:-build}" "$out/postern-$version.spdx.json"
echo "release.sh: ready; the packages are in $out"
