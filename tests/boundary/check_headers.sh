#!/bin/bash
# Every header compiles alone. Prints TAP.
# Usage: check_headers.sh SOURCE-ROOT BUILD-ROOT COMPILER
set -u
root=$1 build=$2 compiler=$3
cd "$root" || exit 1
read -ra fuse < <(pkg-config --cflags fuse3 2>/dev/null)
flags=(-std=c++20 -fsyntax-only -D_GNU_SOURCE -DFMT_HEADER_ONLY -I. -I"$build" "${fuse[@]}")
failed=0 count=0
while IFS= read -r header; do
  count=$((count + 1))
  if ! output=$(printf '#include "%s"\n' "$header" | "$compiler" "${flags[@]}" -x c++ - 2>&1); then
    failed=$((failed + 1))
    printf '# %s does not compile alone\n%s\n' "$header" "$(sed 's/^/#   /' <<<"$output" | head -5)"
  fi
done < <(find protocol policy helper frontend -name '*.h' | sort)
echo "1..1"
if [ "$failed" = 0 ]; then echo "ok 1 - each of $count headers compiles alone"; else echo "not ok 1 - $failed of $count headers do not"; exit 1; fi
