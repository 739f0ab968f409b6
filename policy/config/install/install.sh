#!/bin/sh
# The site's files, where there are none yet: an installation never changes a site's decisions.
# Usage: install.sh SOURCE-DIRECTORY GENERATED-POSTERN-TOML CONFIGURATION-DIRECTORY
set -eu
target=${DESTDIR:-}$3
mkdir -p "$target"
chmod 0755 "$target"
keep_or_copy() {
  if [ -e "$target/$2" ]; then
    echo "keeping $target/$2"
  else
    cp "$1" "$target/$2"
    chmod 0644 "$target/$2"
  fi
}
keep_or_copy "$2" postern.toml
keep_or_copy "$1/ecl.toml" ecl.toml
keep_or_copy "$1/capability.toml" capability.toml
