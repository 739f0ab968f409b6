#!/bin/bash
# Everything that `./dev bench` measures: start-up and reading, against peers from Debian, in one run.
# Prints the tables, writes JSON and a chart (SVG) to the work directory.
#
# Usage: run.sh BUILD-DIRECTORY [start|reading|all]     BENCH_WORK: where to keep images (about 3 GB)
set -euo pipefail
build=$(readlink -f "$1") what=${2:-all}
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
rm -rf "$work/inst"
DESTDIR="$work/inst" meson install -C "$build" --no-rebuild >/dev/null
bin=$(dirname "$(find "$work/inst" -type f -name postern -path '*/bin/*' | head -1)")

printf '== machine: %s, %s processors, kernel %s\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)" "$(nproc)" "$(uname -r)"
if [ "$what" != reading ]; then
  "$here/start.py" --bin "$bin" --tools "$build" --rootfs "$work/rootfs" --work "$work" --json "$work/start.json"
fi
if [ "$what" != start ]; then
  "$here/reading.py" --server "$build/frontend/squashfs/postern-squashfs" --work "$work" --rootfs "$work/rootfs" --json "$work/reading.json" ||
    echo "== a target of reading was missed"
fi
"$here/chart.py" "$work" "$work/chart.svg"
echo "== $work/start.json, reading.json, chart.svg"
