#!/usr/bin/env python3
"""Writes fuzz/corpus/helper_machine: starts of every shape, which the replay then breaks at every call.

The form of an input is that of helper_machine_fuzz.cc: 32 bytes of facts, 8 faults, 8 alterations of the
verdict, then what the verdict is built from.
"""
import pathlib

HERE = pathlib.Path(__file__).parent / "corpus" / "helper_machine"
DIRECTORY, FUSE, IMAGE = 0, 1, 2
BIND, FILE, TMPFS, PROC, SYS, DEV_HOST, DEVICE, DEVPTS, MQUEUE = range(9)
PASSWD, PROC_AT, SYS_AT, DEV_AT, TMP_AT, MNT_AB, HOME, ETC, PTS_AT, A, SHM, MQ_AT, GROUP, MNT_A, DATA, DEEP = range(16)
READ_ONLY, OPTIONAL, IS_DIRECTORY, NEEDS_TARGET = 1, 2, 4, 8


def facts(**given: int) -> bytearray:
    """The world: offsets as read_facts reads them; 0 everywhere is a world in order."""
    at = {"follow": 0, "start": 1, "closed": 2, "message": 3, "groups": 4, "judge_directory": 5, "judge_end": 6, "child_answer": 7,
          "release": 8, "mappings": 9, "loop0": 10, "loop1": 11, "loop2": 12, "layers_with_mounts": 14, "missing0": 16, "missing1": 17,
          "missing2": 18, "missing3": 19, "elsewhere0": 20, "elsewhere1": 21, "node_device": 24, "file_bytes": 25, "which": 29,
          "sent": 30, "count": 31}
    data = bytearray(32)
    for name, value in given.items():
        data[at[name]] = value
    return data


def plan(root: int, image: bytes = b"", shape: int = 0, spaces: int = 0, capabilities: int = 0, operations=()) -> bytes:
    body = bytes([64, 1, root, *(image if root == IMAGE else b""), shape, spaces, capabilities])
    if root == IMAGE:
        body = bytes([64, 1, root, shape]) + image + bytes([spaces, capabilities])
    for operation, flags, target, *size in operations:
        body += bytes([operation, flags, target]) + (bytes([*size, 1]) if operation == TMPFS else b"")
    return body


def image(sealed: bool = False, encrypted: bool = False, big_sectors: bool = False, salt: int = 32) -> bytes:
    how = sealed * 1 + encrypted * 2 + big_sectors * 4
    body = bytes([how, 1, 40, 0])
    if sealed:
        body += bytes([20, salt, *range(32)])
    if encrypted:
        body += bytes([3])
    return body


USUAL = [(PROC, IS_DIRECTORY, PROC_AT), (SYS, IS_DIRECTORY, SYS_AT), (DEV_HOST, IS_DIRECTORY, DEV_AT),
         (TMPFS, IS_DIRECTORY, TMP_AT, 9), (BIND, IS_DIRECTORY, HOME), (BIND, READ_ONLY | IS_DIRECTORY, MNT_AB),
         (FILE, OPTIONAL | NEEDS_TARGET, PASSWD), (FILE, OPTIONAL, GROUP)]
MINIMAL_DEV = [(TMPFS, IS_DIRECTORY, DEV_AT, 9), (DEVICE, 0, A), (DEVPTS, IS_DIRECTORY, PTS_AT), (MQUEUE, IS_DIRECTORY, MQ_AT)]
MISSING = {"missing0": 255, "missing1": 255, "missing2": 255, "missing3": 255}

PLANS = {
    "directory": plan(DIRECTORY, operations=USUAL),
    "directory-writable": plan(DIRECTORY, shape=2, operations=USUAL),
    "directory-overlay": plan(DIRECTORY, shape=1, operations=USUAL),
    "fuse-overlay": plan(FUSE, shape=1, operations=USUAL + MINIMAL_DEV),
    "fuse-layers": plan(FUSE, shape=1 | 2 | 8 | 16, operations=USUAL),
    "directory-layers": plan(DIRECTORY, shape=1 | 12, operations=USUAL[:3]),
    "image": plan(IMAGE, image(), operations=USUAL),
    "image-overlay": plan(IMAGE, image(), shape=1, operations=USUAL),
    "image-sealed": plan(IMAGE, image(sealed=True), shape=1, operations=USUAL[:4]),
    "image-sealed-no-salt": plan(IMAGE, image(sealed=True, salt=0), operations=USUAL[:2]),
    "image-encrypted": plan(IMAGE, image(encrypted=True), shape=1, operations=USUAL[:4]),
    "image-sealed-encrypted": plan(IMAGE, image(True, True, True), shape=1, operations=USUAL[:4]),
    "all-namespaces": plan(DIRECTORY, shape=1, spaces=31 | 128, operations=USUAL + MINIMAL_DEV),
    "network-joined": plan(DIRECTORY, spaces=64, operations=USUAL[:3]),
    "capabilities": plan(DIRECTORY, capabilities=141, operations=USUAL[:3]),
    "capability-to-change-ids": plan(DIRECTORY, capabilities=7, operations=USUAL[:1]),
    "minimal-dev": plan(DIRECTORY, shape=1, operations=MINIMAL_DEV),
    "bind-below-bind": plan(DIRECTORY, shape=1, operations=[(BIND, IS_DIRECTORY, ETC), (BIND, 0, PASSWD), (BIND, IS_DIRECTORY, DEEP)]),
}
# Name: (facts, plan)
WORLDS = {
    "empty-host": (facts(**MISSING), "directory-overlay"),
    "missing-elsewhere": (facts(**MISSING, elsewhere0=255, elsewhere1=255), "bind-below-bind"),
    "missing-no-overlay": (facts(**MISSING, elsewhere0=1), "directory"),
    "missing-minimal-dev": (facts(missing0=0xaa, missing1=0x55), "minimal-dev"),
    "standard-streams-closed": (facts(closed=7), "directory"),
    "arguments": (facts(start=1), "directory"),
    "no-new-privs-before": (facts(start=2), "directory"),
    "in-a-user-namespace": (facts(start=4), "directory"),
    "real-root": (facts(start=8), "directory"),
    "not-setuid": (facts(start=16), "directory"),
    "saved-id-of-the-caller": (facts(start=24), "directory"),
    "unknown-capability": (facts(start=32), "capabilities"),
    "helper-gone": (facts(start=64, follow=1), "directory"),
    "pidfd-behind": (facts(start=128), "network-joined"),
    "message-empty": (facts(message=1), "directory"),
    "message-truncated": (facts(message=2), "directory"),
    "descriptors-truncated": (facts(message=3), "directory"),
    "message-credentials": (facts(message=4), "directory"),
    "message-no-control": (facts(message=5), "directory"),
    "message-of-another-level": (facts(message=6), "directory"),
    "two-messages": (facts(message=8), "directory-overlay"),
    "two-messages-truncated": (facts(message=11), "directory"),
    "groups": (facts(groups=31), "directory"),
    "judge-directory-missing": (facts(judge_directory=1), "directory"),
    "judge-directory-link": (facts(judge_directory=2), "directory"),
    "judge-is-root": (facts(judge_directory=3), "directory"),
    "judge-of-group-root": (facts(judge_directory=4), "directory"),
    "judge-is-the-caller": (facts(judge_directory=5), "directory"),
    "judge-failed": (facts(judge_end=1), "directory"),
    "judge-killed": (facts(judge_end=2), "directory"),
    "judge-wait-interrupted": (facts(judge_end=3), "directory"),
    "judge-short": (facts(judge_end=4), "directory"),
    "judge-magic": (facts(judge_end=5), "directory"),
    "child-gone": (facts(child_answer=1), "all-namespaces"),
    "child-not-furnished": (facts(child_answer=2), "all-namespaces"),
    "not-released": (facts(release=1, follow=2), "directory"),
    "released-by-zero": (facts(release=2, follow=2), "directory"),
    "released-elsewhere": (facts(release=3, follow=2), "directory"),
    "released-in-the-old-root": (facts(release=4, follow=2), "directory"),
    "working-directory-outside": (facts(release=5, follow=2), "directory"),
    "loops-taken": (facts(loop0=2, loop1=3, loop2=10), "image"),
    "loop-shared": (facts(loop0=1), "image-sealed"),
    "loop-shared-in-a-race": (facts(loop0=9), "image"),
    "loop-of-another-extent": (facts(loop0=4, loop1=5), "image-encrypted"),
    "loop-of-another-caller": (facts(loop0=6, loop1=7), "image-encrypted"),
    "loop-without-node": (facts(loop0=2, loop1=8), "image"),
    "mapping-shared": (facts(mappings=0x11), "image-sealed-encrypted"),
    "mapping-unequal": (facts(mappings=0x22), "image-sealed-encrypted"),
    "mapping-without-table": (facts(mappings=0x33), "image-sealed-encrypted"),
    "mapping-of-another-type": (facts(mappings=0x44), "image-sealed-encrypted"),
    "mapping-of-another-length": (facts(mappings=0x55), "image-sealed-encrypted"),
    "mapping-writable": (facts(mappings=0x66), "image-sealed-encrypted"),
    "mapping-suspended": (facts(mappings=0x77), "image-sealed-encrypted"),
    "mapping-of-two-targets": (facts(mappings=0x88), "image-sealed-encrypted"),
    "mapping-shared-in-a-race": (facts(mappings=0x99), "image-sealed-encrypted"),
    "mapping-unequal-in-a-race": (facts(mappings=0xaa), "image-sealed-encrypted"),
    "mapping-shared-below-another": (facts(mappings=0x21), "image-sealed-encrypted"),
    "both-shared": (facts(loop0=1, mappings=0x11), "image-sealed-encrypted"),
    "layers-with-mounts": (facts(layers_with_mounts=1), "directory-overlay"),
    "image-still-written": (facts(closed=128), "image"),
    "image-write-only": (facts(sent=6), "image"),
    "image-path-only": (facts(sent=7), "image"),
    "image-on-fuse": (facts(sent=8), "image"),
    "image-is-a-directory": (facts(sent=1), "image"),
    "fuse-is-a-pipe": (facts(sent=9), "fuse-overlay"),
    "key-in-a-file": (facts(which=1, sent=10), "image-encrypted"),
    "device-of-a-terminal": (facts(node_device=1), "minimal-dev"),
    "device-of-another-file-system": (facts(node_device=2), "minimal-dev"),
    "file-is-no-memfd": (facts(which=6, sent=10), "directory"),
    "file-empty": (facts(file_bytes=1), "directory"),
    "file-too-large": (facts(file_bytes=2), "directory"),
    "one-descriptor-more": (facts(count=1), "directory"),
    "one-descriptor-fewer": (facts(count=2), "directory"),
}


def alteration(kind: int, where: int, value: int) -> bytes:
    return bytes([kind, where & 255, where >> 8, value])


# Offsets of struct Verdict: what a taken-over judge could try. Kind 3 sets a byte of the head.
ALTERED = {
    "verdict-refuses": [alteration(3, 6, 100)],
    "verdict-refuses-in-the-helper's-name": [alteration(3, 6, 9)],
    "verdict-not-a-decision": [alteration(3, 4, 7)],
    "verdict-one-descriptor-twice": [alteration(3, 18, 0)],
    # "/proc", the first target, becomes "/../c".
    "verdict-target-upwards": [alteration(2, 2, ord(".")), alteration(2, 3, ord(".")), alteration(2, 4, ord("/"))],
    "verdict-user-namespace": [alteration(3, 27, 0x10)],
}


def main() -> None:
    HERE.mkdir(exist_ok=True)
    nothing = bytes(64)
    for name, body in PLANS.items():
        (HERE / name).write_bytes(bytes(facts()) + nothing + body)
    for name, (world, body) in WORLDS.items():
        (HERE / name).write_bytes(bytes(world) + nothing + PLANS[body])
    for name, changes in ALTERED.items():
        (HERE / name).write_bytes(bytes(facts()) + bytes(32) + b"".join(changes).ljust(32, b"\0") + PLANS["directory"])


main()
