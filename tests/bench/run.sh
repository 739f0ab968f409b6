#!/bin/bash
# Everything that `./dev bench` measures, against peers from Debian, in one run. Prints the tables as they come; JSON and
# a chart go to the work directory.
#
# Usage: run.sh BUILD-DIRECTORY [PART…]     parts: start suid_start simultaneous admission making fetching reading shared_files; without: all
# BENCH_WORK: where to keep images (about 3 GB, kept for the next run); everything else is removed at the end.
set -euo pipefail
build=$(readlink -f "$1")
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] && [ "${parts[0]}" != all ] || parts=(start suid_start simultaneous admission making fetching reading shared_files)
here=$(dirname "$(readlink -f "$0")")
work=${BENCH_WORK:-/var/tmp/postern-bench}
mkdir -p "$work"

if [ ! -e "$work/rootfs/usr/bin/python3" ]; then
  echo "== a Debian root file system with Python, once"
  rm -rf "$work/rootfs"
  debootstrap --variant=minbase --include=python3 bookworm "$work/rootfs" >"$work/debootstrap.log" 2>&1 ||
    { tail -5 "$work/debootstrap.log"; exit 1; }
fi
# Unprivileged runs need what they can read: nothing in this tree is secret.
chmod -R a+rX "$work/rootfs"
# Anew when the builder has changed: how it lays files out is part of what is measured.
if [ "$work/rootfs.sif" -ot "$build/frontend/imagebuild/postern-build" ]; then
  echo "== its image"
  rm -f "$work/rootfs.sif"
  POSTERN_LIBEXEC=$build/frontend/imagebuild "$build/frontend/cli/postern" -q build "$work/rootfs.sif" "$work/rootfs"
fi

begin=$SECONDS
for part in "${parts[@]}"; do
  case $part in
    reading) "$here/reading.py" --server "$build/frontend/squashfs/postern-squashfs" --work "$work" --rootfs "$work/rootfs" --json "$work/reading.json" ;;
    shared_files) "$here/shared_files.py" --build "$build" ;;
    start|suid_start|simultaneous|admission|making|fetching)
      "$here/$part.py" --build "$build" --rootfs "$work/rootfs" --work "$work" --json "$work/$part.json" ;;
    *) echo "run.sh: no part '$part'" >&2; exit 2 ;;
  esac
done
"$here/chart.py" "$work" "$work/chart.svg"
printf '\n%s; %d s; JSON and chart.svg in %s\n' "$(date -u +%F)" $((SECONDS - begin)) "$work"
