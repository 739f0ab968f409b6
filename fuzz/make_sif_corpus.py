#!/usr/bin/env python3
"""Writes fuzz/corpus/sif and fuzz/corpus/squashfs_superblock: one small valid file of each shape,
truncations, and every field at its extremes. Layouts: policy/sif/format.h, policy/image/squashfs.h."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus"
TABLE, SLOTS, SLOT = 128, 4, 585
DATA = TABLE + SLOTS * SLOT


def superblock():
    return struct.pack("<4s4I6H8Q", b"hsqs", 1, 0, 131072, 0, 6, 17, 0, 1, 4, 0,
                       0, 160, 144, 2**64 - 1, 96, 112, 128, 2**64 - 1).ljust(160, b"\0")


def header(arch=b"02\0"):
    return (b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0" + arch + bytes(range(16)) +
            struct.pack("<8q", 1593475316, 1593475316, SLOTS - 3, SLOTS, TABLE, SLOTS * SLOT, DATA, 4096))


def slot(number, kind, offset, size, name, extra, group=0xF0000001, link=0):
    return struct.pack("<iBIII7q128s384s", kind, 1, number, group, link, offset, size, size,
                       1593475316, 1593475316, 501, 20, name, extra)


def image(fs=1, part=2, root=None):
    root = superblock() if root is None else root
    data = b"recipe" + root + b"signature"
    table = slot(1, 0x4001, DATA, 6, b"recipe.def", b"")
    table += slot(2, 0x4004, DATA + 6, len(root), b"rootfs", struct.pack("<ii", fs, part) + b"02\0")
    table += slot(3, 0x4005, DATA + 6 + len(root), 9, b"", struct.pack("<i", 1) + bytes(range(20)), 0xF0000000, 0xF0000001)
    return (header() + table.ljust(SLOTS * SLOT, b"\0") + data).ljust(2600 + len(root), b"\0")


HEADER = {"launch": (0, 32), "magic": (32, 10), "version": (42, 3), "arch": (45, 3), "uuid": (48, 16),
          "created": (64, 8), "modified": (72, 8), "free": (80, 8), "total": (88, 8), "table-offset": (96, 8),
          "table-bytes": (104, 8), "data-offset": (112, 8), "data-bytes": (120, 8)}
ENTRY = {"type": (0, 4), "used": (4, 1), "id": (5, 4), "group": (9, 4), "link": (13, 4), "offset": (17, 8),
         "size": (25, 8), "padded": (33, 8), "created": (41, 8), "uid": (57, 8), "name": (73, 128),
         "fs": (201, 4), "parttype": (205, 4), "partarch": (209, 3)}
SUPER = {"magic": (0, 4), "inodes": (4, 4), "block": (12, 4), "fragments": (16, 4), "compression": (20, 2),
         "log": (22, 2), "ids": (26, 2), "major": (28, 2), "minor": (30, 2), "root": (32, 8), "used": (40, 8),
         "id-table": (48, 8), "xattr-table": (56, 8), "inode-table": (64, 8), "directory-table": (72, 8),
         "fragment-table": (80, 8), "export-table": (88, 8)}


def extremes(size):
    yield "zero", bytes(size)
    yield "ones", b"\xff" * size
    if size in (2, 4, 8):
        yield "largest", b"\xff" * (size - 1) + b"\x7f"
        yield "one", (1).to_bytes(size, "little")


def write(target, name, data):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def mutations(target, base, fields, at=0, prefix=""):
    for field, (offset, size) in fields.items():
        for word, value in extremes(size):
            start = at + offset
            write(target, f"{prefix}{field}-{word}", base[:start] + value + base[start + size:])


good = image()
write("sif", "good", good)
write("sif", "empty-image", header() + bytes(SLOTS * SLOT + 2048))
write("sif", "luks-root", image(fs=5, root=b"LUKS\xba\xbe".ljust(2100, b"\0")))
write("sif", "gocryptfs-root", image(fs=6))
write("sif", "ext3-root", image(fs=2, root=bytes(1080) + b"\x53\xef" + bytes(1000)))
write("sif", "launch-line-before-root", image(root=b"#!/usr/bin/env run-singularity\n" + superblock()))
write("sif", "overlay-instead-of-primary", image(part=4))
write("sif", "two-primaries", good[:TABLE] + slot(1, 0x4004, DATA, 160, b"", struct.pack("<ii", 1, 2) + b"02\0") + good[TABLE + SLOT:])
write("sif", "same-id-twice", good[:TABLE + 5] + b"\x02" + good[TABLE + 6:])
write("sif", "objects-overlap", good[:TABLE + 17] + struct.pack("<q", DATA + 10) + good[TABLE + 25:])
write("sif", "object-over-table", good[:TABLE + 17] + struct.pack("<q", TABLE) + good[TABLE + 25:])
write("sif", "magic-in-the-middle", b"x" * 1000 + b"SIF_MAGIC" + b"x" * 2000)
for length in (0, 1, 31, 41, 44, 127, 128, 129, TABLE + SLOT, DATA - 1, DATA, DATA + 100, 2047):
    write("sif", f"truncated-{length}", good[:length])
mutations("sif", good, HEADER, prefix="header-")
mutations("sif", good, ENTRY, at=TABLE + SLOT, prefix="partition-")
mutations("sif", good, {"hash": (201, 4), "fingerprint": (205, 20), "link": (13, 4)}, at=TABLE + 2 * SLOT, prefix="signature-")

base = superblock()
write("squashfs_superblock", "good", base)
for length in (0, 3, 4, 95, 96, 159):
    write("squashfs_superblock", f"truncated-{length}", base[:length])
mutations("squashfs_superblock", base, SUPER)
for table in ("inode-table", "directory-table", "fragment-table", "id-table"):
    offset, size = SUPER[table]
    write("squashfs_superblock", f"{table}-before-superblock", base[:offset] + (95).to_bytes(8, "little") + base[offset + size:])
    write("squashfs_superblock", f"{table}-at-end", base[:offset] + (160).to_bytes(8, "little") + base[offset + size:])
