#!/bin/bash
# Boots a stock Debian kernel, with device-mapper, in QEMU's software emulation and runs COMMAND in it as root over
# this machine's own files: see README.md. Prints what COMMAND prints and ends with its exit status.
#
# Usage: boot.sh COMMAND [ARG ...]
#   POSTERN_VM_KERNEL   stable (default) or backports: kernel.py prepares both
#   POSTERN_VM_ROOT     host (default): this machine's tree is /; initramfs: / is the initramfs, as on stateless nodes
#   POSTERN_VM_TIMEOUT  seconds, 1500      POSTERN_VM_MEMORY  2G      POSTERN_VM_VERBOSE  1: the kernel's messages too
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
tree=$(readlink -f "$here/../..")
command -v qemu-system-x86_64 >/dev/null || { echo "1..0 # SKIP the package qemu-system-x86 is not installed"; exit 77; }
kernel=$("$here/kernel.py" find "${POSTERN_VM_KERNEL:-stable}") || {
  echo "1..0 # SKIP no kernel: tests/vm/kernel.py prepare ${POSTERN_VM_KERNEL:-stable}"
  exit 77
}
exec {in_use}<"$kernel"
flock --shared "$in_use"

work=$(mktemp -d /var/tmp/postern-vm.XXXXXX)
qemu=
# shellcheck disable=SC2317 # called by trap
cleanup() {
  [ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' TERM INT HUP

# What the guest runs. It sees $work as it sees every other file of this machine.
{
  variables=("${!POSTERN_@}")
  [ ${#variables[@]} = 0 ] || declare -p "${variables[@]}"
  printf 'cd %q\n' "$PWD"
  printf '%q ' "$@"
} >"$work/command"
printf '%s\n' "$tree" "$PWD" >"$work/kept"
printf '%s\n' "$kernel" >"$work/kernel-directory"

# The kernel unpacks one cpio archive after the other.
mkdir "$work/initramfs"
install -m 0755 "$here/init" "$work/initramfs/init"
(cd "$work/initramfs" && echo init | busybox cpio -o -H newc 2>/dev/null) | cat "$kernel/base.cpio" - >"$work/initrd"

# A /dev/kvm without vmx or svm is a paravirtual kind, where a stock kernel hangs.
accelerator=(-accel tcg -cpu max)
if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
  accelerator=(-accel kvm -cpu host)
fi
append="console=ttyS0 panic=-1 quiet mitigations=off nokaslr no_timer_check random.trust_cpu=on"
append+=" postern.root=${POSTERN_VM_ROOT:-host} postern.guest=$here/guest.sh postern.work=$work"

# The guest's output comes through a pipe as it is written; its exit status through a port of its own.
mkfifo "$work/output"
cat "$work/output" &
reader=$!
: >"$work/status"
# If this script is killed, so are the two.
setpriv --pdeathsig KILL timeout "${POSTERN_VM_TIMEOUT:-1500}" setpriv --pdeathsig KILL \
  qemu-system-x86_64 "${accelerator[@]}" -smp 1 -m "${POSTERN_VM_MEMORY:-2G}" -machine q35 \
  -nodefaults -no-user-config -display none -no-reboot \
  -kernel "$kernel/vmlinux" -initrd "$work/initrd" -append "$append" -serial "file:$work/messages" \
  -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=host,mount_tag=host \
  -device virtio-serial-pci \
  -chardev "file,id=output,path=$work/output" -device virtserialport,chardev=output,name=output \
  -chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,name=status \
  </dev/null >"$work/qemu" 2>&1 &
qemu=$!
ended=0
wait "$qemu" || ended=$?
qemu=
# If QEMU could not even start, nobody opened the pipe.
[ -s "$work/status" ] || kill "$reader" 2>/dev/null || true
wait "$reader" || true

status=$(cat "$work/status")
if [ -n "${POSTERN_VM_VERBOSE:-}" ] || [ -z "$status" ]; then
  tail -n 200 "$work/messages" | tr -d '\r' | sed 's/^/# kernel: /'
  sed 's/^/# qemu: /' "$work/qemu"
fi
if [ -z "$status" ]; then
  [ "$ended" != 124 ] || echo "Bail out! the guest did not end within ${POSTERN_VM_TIMEOUT:-1500} s"
  [ "$ended" = 124 ] || echo "Bail out! the guest ended without an exit status (QEMU's is $ended)"
  exit 1
fi
exit "$status"
