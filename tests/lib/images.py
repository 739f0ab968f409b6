"""SIF images, written field by field from the format's description: no code of the program under test."""
import os
import struct
import subprocess
import time

PARTITION = 0x4004
DATA_OFFSET = 32768
SLOTS = 48
DESCRIPTOR_BYTES = 585
AMD64 = b"02"


def squashfs(source, path, *options):
    """Packs a directory."""
    subprocess.run(["mksquashfs", source, path, "-noappend", "-quiet", "-no-progress", *options], check=True,
                   stdout=subprocess.DEVNULL)
    return path


def write_sif(path, data, owner=None, arch=AMD64, parttype=2, fstype=1):
    """A SIF with one partition at DATA_OFFSET, given to `owner`. parttype 2: primary; fstype 1: squashfs."""
    now = int(time.time())
    header = struct.pack("<32s10s3s3s16s8q", b"#!/usr/bin/env run-singularity\n", b"SIF_MAGIC", b"01", arch, os.urandom(16), now, now,
                         SLOTS - 1, SLOTS, 4096, SLOTS * DESCRIPTOR_BYTES, DATA_OFFSET, len(data))
    descriptor = struct.pack("<iBIIIqqqqqqq128s384s", PARTITION, 1, 1, 0xF0000001, 0, DATA_OFFSET, len(data), len(data), now, now, 0, 0,
                             b"rootfs", struct.pack("<ii3s", fstype, parttype, arch))
    with open(path, "wb") as file:
        file.write(header.ljust(4096, b"\0") + descriptor.ljust(SLOTS * DESCRIPTOR_BYTES, b"\0"))
        file.seek(DATA_OFFSET)
        file.write(data)
    if owner is not None:
        os.chown(path, owner, owner)
    return path
