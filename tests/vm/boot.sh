#!/bin/bash
# Boots User Mode Linux on the host's file system and runs COMMAND in it as root: a real kernel with
# device-mapper, for the tests that need dm-crypt, dm-verity and setuid at once. Prints what COMMAND
# prints and ends with its exit status.
#
# Usage: boot.sh COMMAND [ARG ...]      /tmp inside is a fresh tmpfs; the rest is the host's.
set -euo pipefail

kernel=$(command -v linux.uml) || { echo "1..0 # SKIP the package user-mode-linux is not installed"; exit 77; }
work=$(mktemp -d /var/tmp/postern-vm.XXXXXX)
trap 'rm -rf "$work"' EXIT

command=$(printf '%q ' "$@")
# The tree and the build stay visible where they lie below /tmp.
tree=$(readlink -f "$(dirname "$0")/../..")
cat >"$work/init" <<INIT
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
ln -sfn /proc/self/fd /dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -sfn "/proc/self/fd/\${n%%:*}" "/dev/\${n##*:}"; done
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for place in $(printf '%q %q' "$tree" "$PWD"); do
  case \$place in /tmp/*) exec {kept}<"\$place"; places+=("\$place") keep+=(\$kept) ;; esac
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
for i in "\${!places[@]}"; do
  mkdir -p "\${places[i]}" && mount -c --bind "/proc/self/fd/\${keep[i]}" "\${places[i]}"
done
mount -t tmpfs tmpfs /lib/modules
ln -s "/usr/lib/uml/modules/\$(uname -r)" "/lib/modules/\$(uname -r)"
for module in dm-crypt dm-verity squashfs overlay fuse loop; do modprobe "\$module" || echo "no module \$module"; done
chmod 0666 /dev/fuse
echo 1 >/proc/sys/kernel/printk
cd $(printf '%q' "$PWD")
$command </dev/null
echo "POSTERN-VM-STATUS \$?"
sync
poweroff -f
INIT
chmod 0755 "$work" "$work/init"

timeout "${POSTERN_VM_TIMEOUT:-300}" "$kernel" mem="${POSTERN_VM_MEMORY:-2G}" rootfstype=hostfs rw \
  init="$work/init" con=null con0=fd:0,fd:1 quiet </dev/null >"$work/console" 2>&1 || true
tr -d '\r' <"$work/console" |
  grep -vE '^(SELinux: |mmapper_init|Failed to initialize ubd|Powering off|reboot:|POSTERN-VM-STATUS)' || true
status=$(tr -d '\r' <"$work/console" | sed -n 's/^POSTERN-VM-STATUS //p' | tail -1)
exit "${status:-1}"
