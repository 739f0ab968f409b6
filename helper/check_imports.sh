#!/bin/sh
# Compares what the helper imports with the list in the tree. Prints TAP.
# Usage: ITS-OBJECTS-LINKED-WITH-A-SHARED-LIBC IMPORTS HELPER
echo 1..3
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
if readelf -h "$3" | grep -q 'Type:.*DYN' && ! readelf -lW "$3" | grep -q INTERP && ! readelf -d "$3" | grep -q NEEDED; then
  echo "ok 3 - the helper is static, and at an address of the kernel's choice"
else
  echo "not ok 3 - the helper needs a loader, or has a fixed address"
fi
