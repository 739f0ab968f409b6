"""SIF images, written field by field from the format's description: no code of the program under test."""
import os
import struct
import subprocess
import time

PARTITION, MESSAGE = 0x4004, 0x4008
DATA_OFFSET = 32768
SLOTS = 48
DESCRIPTOR_BYTES = 585
AMD64 = b"02"


def squashfs(source, path, *options):
    """Packs a directory."""
    subprocess.run(["mksquashfs", source, path, "-noappend", "-quiet", "-no-progress", *options], check=True,
                   stdout=subprocess.DEVNULL)
    return path


def write_sif(path, data, owner=None, arch=AMD64, parttype=2, fstype=1, message=b""):
    """A SIF with one partition at DATA_OFFSET, given to `owner`. parttype 2: primary; fstype 1: squashfs. message: a
    secret of this partition, wrapped for an RSA key."""
    now = int(time.time())
    kinds = [(PARTITION, 0, DATA_OFFSET, data, b"rootfs", struct.pack("<ii3s", fstype, parttype, arch))]
    if message:
        kinds.append((MESSAGE, 1, DATA_OFFSET + (len(data) + 4095) // 4096 * 4096, message, b"", struct.pack("<ii", 2, 0x200)))
    end = kinds[-1][2] + len(kinds[-1][3])
    header = struct.pack("<32s10s3s3s16s8q", b"#!/usr/bin/env run-singularity\n", b"SIF_MAGIC", b"01", arch, os.urandom(16), now, now,
                         SLOTS - len(kinds), SLOTS, 4096, SLOTS * DESCRIPTOR_BYTES, DATA_OFFSET, end - DATA_OFFSET)
    descriptors = b"".join(
        struct.pack("<iBIIIqqqqqqq128s384s", kind, 1, number, 0xF0000001, link, at, len(content), len(content), now, now, 0, 0, name, extra)
        for number, (kind, link, at, content, name, extra) in enumerate(kinds, 1))
    with open(path, "wb") as file:
        file.write(header.ljust(4096, b"\0") + descriptors.ljust(SLOTS * DESCRIPTOR_BYTES, b"\0"))
        for _, _, at, content, _, _ in kinds:
            file.seek(at)
            file.write(content)
    if owner is not None:
        os.chown(path, owner, owner)
    return path
