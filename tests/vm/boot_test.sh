#!/bin/bash
# What README.md promises of the guest. One boot, which writes into the tree and ends with a status of its own.
# Prints TAP. Usage: boot_test.sh
here=$(dirname "$(readlink -f "$0")")
mark="postern-guest-wrote.$$"
count=0 failed=0
check() { # check NAME COMMAND...
  local name=$1 output
  shift
  count=$((count + 1))
  if output=$("$@" 2>&1); then
    echo "ok $count - $name"
  else
    failed=$((failed + 1))
    echo "not ok $count - $name"
    sed 's/^/# /' <<<"$output"
  fi
}
has() { grep -qxF -- "$1" <<<"$said" || { echo "no line '$1' in:" && echo "$said" && false; }; }

# Runs in the guest.
# shellcheck disable=SC2016 # the guest expands it
script='
  [ "$(uname -r)" = "$1" ] || echo "another kernel"
  touch "$2" "/usr/$3" && echo "wrote"
  for target in crypt verity; do dmsetup targets | grep -q "^$target " && echo "target $target"; done
  losetup -f >/dev/null && echo "loop"
  mkdir /sys/fs/cgroup/mine && echo $$ >/sys/fs/cgroup/mine/cgroup.procs && echo 32 >/sys/fs/cgroup/mine/pids.max && echo "group"
  [ -c /dev/fuse ] && setpriv --reuid 65534 --clear-groups test -w /dev/fuse && echo "fuse"
  # But for the tree, if it lies there: "$4" is the way to it.
  kept=${4#/tmp/}
  [ "$(ls -A /tmp | grep -v "^postern-" | grep -vxF "${kept%%/*}")" = "" ] && echo "tmp"
  setpriv --reuid 65534 --clear-groups --inh-caps=-all unshare -Ur id -u | sed "s/^/namespace /"
  echo "given $POSTERN_GIVEN"
  exit 3'
said=$(POSTERN_GIVEN="two words" "$here/boot.sh" bash -c "$script" guest "$(uname -r)" "$here/$mark" "$mark" "$here" 2>&1)
status=$?

if [ $status = 77 ]; then
  echo "$said"
  exit 77
fi
check "the exit status is the command's" test $status = 3
check "the kernel is another one than this machine's" has "another kernel"
check "the tree can be written in the guest" has "wrote"
check "and is not written on this machine" test ! -e "$here/$mark" -a ! -e "/usr/$mark"
check "device-mapper has dm-crypt" has "target crypt"
check "and dm-verity" has "target verity"
check "there are loop devices" has "loop"
check "there is the unified control group hierarchy with its controllers" has "group"
check "everybody may open /dev/fuse" has "fuse"
check "/tmp is empty" has "tmp"
check "ordinary users may create user namespaces" has "namespace 0"
check "variables named POSTERN_* are handed in" has "given two words"
check "no folder of the guest is left" test -z "$(grep -lsF "$mark" /var/tmp/postern-vm.*/command)"
echo "1..$count"
exit $((failed > 0))
