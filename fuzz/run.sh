#!/bin/bash
# Coverage-guided fuzzing: fuzz/run.sh [SECONDS-EACH] [TARGET…]. Needs clang.
# New inputs gather in build-fuzz/corpus; what broke a target lies in build-fuzz/findings, to be
# added to fuzz/corpus/TARGET under a name that says what its shape is.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
[[ $seconds =~ ^[0-9]+$ ]] || { echo "usage: fuzz/run.sh [SECONDS-EACH] [TARGET...]" >&2; exit 1; }
shift || true
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  for file in fuzz/*_fuzz.cc; do
    name=${file##*/}
    targets+=("${name%_fuzz.cc}")
  done
fi
clang=$(command -v clang++-19 || command -v clang++)
if [ ! -d build-fuzz ]; then
  # b_lundef: the sanitizers' symbols are the executable's.
  # fuzzer-no-link: the parsers lie in libraries, and coverage of theirs is what guides.
  CXX=$clang meson setup build-fuzz -Dcpp_args=-fsanitize=fuzzer-no-link -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false >/dev/null
fi
ninja -C build-fuzz "${targets[@]/#/fuzz/fuzz_}"
mkdir -p build-fuzz/findings
status=0
for target in "${targets[@]}"; do
  mkdir -p "build-fuzz/corpus/$target"
  echo "== $target, $seconds s"
  if ! "build-fuzz/fuzz/fuzz_$target" -max_total_time="$seconds" -max_len=65536 -print_final_stats=1 \
      -artifact_prefix="build-fuzz/findings/$target-" "build-fuzz/corpus/$target" "fuzz/corpus/$target" \
      >"build-fuzz/$target.log" 2>&1; then
    status=1
    grep -E "ERROR|runtime error|SUMMARY|Test unit written" "build-fuzz/$target.log" || tail -5 "build-fuzz/$target.log"
  else
    grep -E "^Done|exec_per_sec" "build-fuzz/$target.log"
  fi
done
exit $status
