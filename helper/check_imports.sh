#!/bin/sh
# Compares what the helper imports with the list in the tree. Prints TAP. Usage: PROGRAM IMPORTS
echo 1..2
if nm -D --undefined-only "$1" | awk '{ sub(/@.*/, "", $2); print $2 }' | LC_ALL=C sort -u | diff "$2" - >&2; then
  echo "ok 1 - the helper imports what helper/IMPORTS lists"
else
  echo "not ok 1 - helper/IMPORTS differs (left: the list, right: the program)"
fi
if [ "$(readelf -d "$1" | grep -c NEEDED)" = 1 ] && readelf -d "$1" | grep -q 'NEEDED.*libc\.so'; then
  echo "ok 2 - the helper links libc and nothing else"
else
  echo "not ok 2 - the helper links more than libc"
fi
