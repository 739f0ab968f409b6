#!/bin/bash
# Plants known bugs, one at a time, in a copy of the tree and shows that the suites catch each. Prints TAP.
#
# plants/NAME.patch begins with lines "Caught-by: KIND WHAT": suid or lent PART-OF-A-CASE, unit TEST, fuzz TARGET (its
# corpus), integration FILE CASE, or vm TEST (of tests/vm/image_stack.py). At least one of these must fail with the
# bug, and all of them pass without it.
#
# Usage, as root: test-the-tests.sh [NAME ...]
set -uo pipefail
here=$(dirname "$(readlink -f "$0")")
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d /tmp/postern-plants.XXXXXX)  # boot.sh keeps what is below /tmp in sight, its tests cover /var/tmp
trap 'rm -rf "$work"' EXIT
git -C "$root" ls-files -z | (cd "$root" && xargs -0 cp --parents -pt "$work" 2>/dev/null)
cd "$work" || exit 1
export CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1
meson setup build -Dsuid=enabled -Dplant=any >setup.log 2>&1 || { cat setup.log; exit 1; }
targets=(helper/postern-helper policy/judge/postern-judge tests/suid/suid-probe)
vm_programs=(policy/judge/postern-judge frontend/cli/postern frontend/init/postern-init
             frontend/squashfs/postern-squashfs frontend/crypt/postern-crypt frontend/keys/postern-keys)

build() { ninja -C build "${targets[@]}" >build.log 2>&1; }

# run KIND WHAT: the test's exit status.
run() {
  case $1 in
    suid) python3 tests/suid/suid_test.py "$PWD/build/helper/postern-helper" "$PWD/build/policy/judge/postern-judge" \
            "$PWD/build/tests/suid/suid-probe" /usr/local/libexec/postern /usr/local/etc/postern "$2" >run.log 2>&1 ;;
    lent) python3 tests/suid/lent.py "$PWD/build/helper/postern-helper" "$PWD/build/policy/judge/postern-judge" \
            "$PWD/build/tests/suid/suid-probe" /usr/local/libexec/postern /usr/local/etc/postern "$2" >run.log 2>&1 ;;
    unit) "build/tests/unit/unit_$2" >run.log 2>&1 ;;
    integration) POSTERN_BUILD="$PWD/build" python3 tests/integration/${2% *} "${2#* }" >run.log 2>&1 ;;
    fuzz) "build/fuzz/replay_$2" "fuzz/corpus/$2" >run.log 2>&1 ;;
    vm) bash tests/vm/boot.sh "$PWD/tests/vm/image_stack.py" "$PWD/build/helper/postern-helper" \
          "${vm_programs[@]/#/$PWD/build/}" /usr/local/libexec/postern /usr/local/etc/postern "$2" >run.log 2>&1 ;;
  esac
}

plants=("$here"/plants/*.patch)
[ $# -gt 0 ] && plants=("${@/#/$here/plants/}") && plants=("${plants[@]/%/.patch}")
while read -r unit; do targets+=("tests/unit/unit_$unit"); done \
  < <(sed -n 's/^Caught-by: unit //p' "${plants[@]}" | sort -u)
while read -r target; do targets+=("fuzz/replay_$target"); done \
  < <(sed -n 's/^Caught-by: fuzz //p' "${plants[@]}" | sort -u)
grep -q '^Caught-by: \(vm\|integration\) ' "${plants[@]}" && targets+=("${vm_programs[@]}")
grep -q '^Caught-by: integration ' "${plants[@]}" && targets+=(tests/integration/neighbour frontend/accounts/postern-accounts frontend/imagebuild/postern-build
                                                              frontend/squashfs/postern-squashfs-plain)
build || { tail -20 build.log; exit 1; }
echo "1..${#plants[@]}"
number=0 failed=0
for plant in "${plants[@]}"; do
  number=$((number + 1)) caught="" verdict="no suite noticed" name=$(basename "$plant" .patch)
  mapfile -t tests < <(sed -n 's/^Caught-by: //p' "$plant")
  for entry in "${tests[@]}"; do
    run ${entry%% *} "${entry#* }" || verdict="'$entry' fails without the plant"
  done
  if [ "$verdict" = "no suite noticed" ]; then
    if ! patch -s -p1 <"$plant"; then
      verdict="the patch does not apply"
    elif ! build; then
      verdict="it does not compile: $(grep -m1 error build.log)"
    else
      for entry in "${tests[@]}"; do
        run ${entry%% *} "${entry#* }" || { verdict=""; caught+="${caught:+, }$entry"; }
      done
    fi
    patch -s -p1 -R <"$plant" && build
  fi
  if [ -z "$verdict" ]; then
    echo "ok $number - $name (caught by $caught)"
  else
    failed=$((failed + 1))
    echo "not ok $number - $name: $verdict"
  fi
done
exit $((failed > 0))
