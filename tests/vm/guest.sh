#!/bin/bash
# Second stage of the guest, as its process 1: what a booted machine has, then the command of boot.sh.
# Usage: guest.sh WORK      (boot.sh's folder)
work=$1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

# port NAME: the device of this virtio port.
port() {
  local path name
  for path in /sys/class/virtio-ports/*; do
    read -r name <"$path/name"
    [ "$name" != "$1" ] || echo "/dev/${path##*/}"
  done
}
exec {status_port}>"$(port status)" >"$(port output)" 2>&1

mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ln -sfn /proc/self/fd /dev/fd
for link in 0:stdin 1:stdout 2:stderr; do ln -sfn "/proc/self/fd/${link%%:*}" "/dev/${link##*:}"; done
hostname vm
ip link set lo up 2>/dev/null || busybox ifconfig lo 127.0.0.1

read -r kernel <"$work/kernel-directory"
mkdir -p /lib/modules
mount --bind "$kernel/lib/modules" /lib/modules
command=$(cat "$work/command")

# /tmp is the guest's own; the tree, and the folder where boot.sh was started, stay visible where they lie below it.
places=() descriptors=()
while read -r place; do
  case $place in
    /tmp/*)
      exec {descriptor}<"$place"
      places+=("$place") descriptors+=("$descriptor")
      ;;
  esac
done <"$work/kept"
mount -t tmpfs -o mode=1777 tmpfs /tmp
for i in "${!places[@]}"; do
  mkdir -p "${places[i]}"
  mount --no-canonicalize --bind "/proc/self/fd/${descriptors[i]}" "${places[i]}"
  descriptor=${descriptors[i]}
  exec {descriptor}<&-
done

for module in dm-crypt dm-verity squashfs overlay fuse loop; do modprobe "$module" || echo "# no module $module"; done
chmod 0666 /dev/fuse

# The unified hierarchy, mounted as systemd mounts it, every controller enabled for the groups below the root.
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

echo 1 >/proc/sys/kernel/printk
bash -c "$command" </dev/null {status_port}>&-
echo $? >&"$status_port"
busybox poweroff -f
