#!/bin/bash
# Our LUKS2 images and cryptsetup's, each opened by the other, in a kernel with dm-crypt. Prints TAP.
# Runs inside tests/vm/boot.sh.
# Usage: luks_interop.sh POSTERN-CRYPT PLAIN-SIF
set -u
crypt=$1 plain=$2
cd /tmp || exit 1
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
# Offset and size of the primary partition, from the descriptor table (SIF.md is the source, not our reader).
extent() {
  python3 - "$1" <<'PY'
import struct, sys
data = open(sys.argv[1], "rb").read(40000)
table, = struct.unpack_from("<q", data, 96)
total, = struct.unpack_from("<q", data, 88)
for slot in range(total):
    raw = data[table + 585 * slot:table + 585 * (slot + 1)]
    if raw[4] and struct.unpack_from("<i", raw)[0] == 0x4004 and struct.unpack_from("<i", raw, 205)[0] == 2:
        print(*struct.unpack_from("<qq", raw, 17))
PY
}

printf 'correct horse' >pass
chmod 600 pass
read -r plain_offset plain_size < <(extent "$plain")
tail -c +$((plain_offset + 1)) "$plain" | head -c "$plain_size" >plain.squashfs

check "an image is encrypted with a passphrase" "$crypt" encrypt --passphrase-file pass "$plain" ours.sif
read -r offset size < <(extent ours.sif)
loop=$(losetup --find --show --read-only --offset "$offset" --sizelimit "$size" ours.sif)
check "cryptsetup knows it as LUKS2" cryptsetup isLuks --type luks2 "$loop"
check "cryptsetup opens it" cryptsetup open --readonly --type luks2 --key-file pass "$loop" ours
check "the kernel decrypts the very bytes that were encrypted" cmp -n "$plain_size" /dev/mapper/ours plain.squashfs
mkdir -p mnt
check "the kernel mounts it" mount -t squashfs -o ro /dev/mapper/ours mnt
check "and reads a file of it" test -x mnt/bin/busybox
umount mnt
cryptsetup close ours
losetup -d "$loop"

# An image as Apptainer makes it: cryptsetup's own format on a 512-byte loop device.
truncate -s $((plain_size + 16777216)) theirs.luks
loop=$(losetup --find --show theirs.luks)
check "cryptsetup formats one" cryptsetup luksFormat --batch-mode --type luks2 --pbkdf-memory 65536 --iter-time 200 --key-file pass "$loop"
cryptsetup open --type luks2 --key-file pass "$loop" theirs
dd if=plain.squashfs of=/dev/mapper/theirs bs=64K status=none
cryptsetup close theirs
losetup -d "$loop"
python3 - "$plain" theirs.luks theirs.sif <<'PY'
# The same SIF with the partition replaced by the LUKS container, file system type 5.
import struct, sys
image = bytearray(open(sys.argv[1], "rb").read())
luks = open(sys.argv[2], "rb").read()
table, = struct.unpack_from("<q", image, 96)
total, = struct.unpack_from("<q", image, 88)
for slot in range(total):
    at = table + 585 * slot
    if image[at + 4] and struct.unpack_from("<i", image, at)[0] == 0x4004:
        offset, = struct.unpack_from("<q", image, at + 17)
        struct.pack_into("<q", image, at + 25, len(luks))
        struct.pack_into("<i", image, at + 201, 5)
        open(sys.argv[3], "wb").write(image[:offset] + luks)
PY
check "we decrypt cryptsetup's image" "$crypt" decrypt --passphrase-file pass theirs.sif back.sif
read -r offset size < <(extent back.sif)
tail -c +$((offset + 1)) back.sif | head -c "$plain_size" >back.squashfs
check "to the very bytes that were encrypted" cmp back.squashfs plain.squashfs

check "nothing is left mapped" test -z "$(dmsetup ls 2>/dev/null | grep -v 'No devices')"
echo "1..$count"
exit $((failed > 0))
