#!/bin/bash
# Coverage-guided fuzzing: fuzz/run.sh [SECONDS-EACH] [TARGET…]. Needs clang. JOBS targets run at once [one
# a processor].
# New inputs gather in build-fuzz/corpus; what broke a target lies in build-fuzz/findings, to be
# added to fuzz/corpus/TARGET under a name that says what its shape is. The exit status is 1 if any was.
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
if [ ! -f build-fuzz/build.ninja ]; then
  # b_lundef: the sanitizers' symbols are the executable's.
  # fuzzer-no-link: the parsers lie in libraries, and coverage of theirs is what guides.
  # no vptr: that check asks for RTTI, which frontend/squashfs and the helper are built without.
  CXX="$(command -v ccache || true) $clang" meson setup build-fuzz "-Dcpp_args=-fsanitize=fuzzer-no-link -fno-sanitize=vptr" \
    -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false >/dev/null
fi
ninja -C build-fuzz "${targets[@]/#/fuzz/fuzz_}"
mkdir -p build-fuzz/findings

fuzz_one() {
  local target=$1 status=0 dictionary=()
  mkdir -p "build-fuzz/corpus/$target"
  [ ! -f "fuzz/dictionaries/$target.dict" ] || dictionary=("-dict=fuzz/dictionaries/$target.dict")
  "build-fuzz/fuzz/fuzz_$target" -max_total_time="$seconds" -max_len=65536 -timeout=25 -print_final_stats=1 "${dictionary[@]}" \
    -artifact_prefix="build-fuzz/findings/$target-" "build-fuzz/corpus/$target" "fuzz/corpus/$target" \
    >"build-fuzz/$target.log" 2>&1 || status=1
  local executions
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "build-fuzz/$target.log")
  if [ $status = 0 ]; then
    echo "ok      $target: ${executions:-?} executions"
  else
    echo "BROKEN  $target: build-fuzz/$target.log"
    grep -E "ERROR|runtime error|SUMMARY|Test unit written|the readers differ" "build-fuzz/$target.log" | head -6 || tail -5 "build-fuzz/$target.log"
  fi
  return $status
}
export -f fuzz_one
export seconds
echo "== ${#targets[@]} targets, $seconds s each"
printf '%s\n' "${targets[@]}" | xargs -P "${JOBS:-$(nproc)}" -I{} bash -c 'fuzz_one {}'
