#!/usr/bin/env python3
"""Sealed, signed and encrypted images in user-namespace mode, and files that change under a running container."""
import ctypes
import hashlib
import os
import random
import shutil
import struct
import subprocess
import threading
import time

import harness

harness.PARTS.update({"libexec/postern/postern-crypt": "frontend/crypt/postern-crypt",
                      "libexec/postern/postern-keys": "frontend/keys/postern-keys"})
bench = harness.Bench()
LIBC = ctypes.CDLL(None, use_errno=True)
FILES, FILE_BYTES = 16, 1 << 20
ROOT = bench.rootfs(files={"marker": "plain as day\n"})
os.makedirs(ROOT + "/data")
BLOBS = [os.urandom(FILE_BYTES) for _ in range(FILES)]  # does not compress: lies in the image as it is
for number, blob in enumerate(BLOBS):
    with open(f"{ROOT}/data/{number}", "wb") as file:
        file.write(blob)
SQUASHFS = bench.squashfs(ROOT)
SIF = bench.sif(SQUASHFS)
READER = """
read line
for n in {numbers}; do
  busybox sha256sum /data/$n 2>&1
done
busybox dd if=/data/{bad} of=/dev/null bs=4096 count=1 skip={block} 2>&1
cat /data/{bad} >/dev/null
echo status $?
"""


def key_pair(name):
    """A PEM key for signing, and its public half."""
    private, public = os.path.join(bench.work, name), os.path.join(bench.work, name + ".pub")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    os.chown(private, bench.user.uid, bench.user.gid)
    os.chmod(private, 0o600)
    os.chmod(public, 0o644)
    return private, public


def rsa_pair(name):
    private, public = os.path.join(bench.work, name), os.path.join(bench.work, name + ".pub")
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", private],
                   check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    os.chown(private, bench.user.uid, bench.user.gid)
    os.chmod(private, 0o600)
    os.chmod(public, 0o644)
    return private, public


SIGNER, SIGNER_PUBLIC = key_pair("signer.pem")
PEM, PEM_PUBLIC = rsa_pair("key.pem")


def copy(name, *, sealed=True, encrypted=False, signed=False):
    """A fresh image of the user's."""
    path = os.path.join(bench.work, name)
    if os.path.exists(path):
        os.remove(path)
    if encrypted:
        bench.run("encrypt", "--pem-path", PEM_PUBLIC, SIF, path).ok()
    else:
        shutil.copy(SIF, path)
        os.chown(path, bench.user.uid, bench.user.gid)
    if signed:
        bench.run("sign", "--key", SIGNER, *([] if sealed else ["--no-seal"]), path).ok()
    elif sealed:
        bench.run("seal", path).ok()
    return path


def partition(path):
    """(offset, size) of the primary partition."""
    with open(path, "rb") as file:
        data = file.read(40000)
    total, table = struct.unpack_from("<qq", data, 88)
    for slot in range(total):
        raw = data[table + 585 * slot:table + 585 * (slot + 1)]
        if raw[4] and struct.unpack_from("<i", raw)[0] == 0x4004:
            return struct.unpack_from("<qq", raw, 17)
    raise AssertionError("no partition")


def place_of(blob):
    """Where bytes lie in the squashfs image."""
    with open(SQUASHFS, "rb") as file:
        at = file.read().find(blob[:256])
    assert at >= 0
    return at


def ciphertext_start(path, offset):
    """Bytes of the LUKS2 header of the partition."""
    import json
    with open(path, "rb") as file:
        file.seek(offset)
        header = file.read(1 << 20)
    size = struct.unpack_from(">Q", header, 8)[0]
    return int(json.loads(header[4096:size].rstrip(b"\0"))["segments"]["0"]["offset"])


class Running:
    """A container that waits, then reads all files but one, and then that one."""

    def __init__(self, path, *options, bad=7, block=40):
        self.bad = bad
        script = READER.format(numbers=" ".join(str(n) for n in range(FILES) if n != bad), bad=bad, block=block)
        self.process = bench.popen("exec", *options, path, "sh", "-c", "echo up; " + script, stdin=subprocess.PIPE)
        assert self.process.stdout.readline() == b"up\n", self.process.stderr.read()

    def go_on(self):
        out, err = self.process.communicate(b"\n", timeout=60)
        return harness.Result(self.process.returncode, out, err)


def whole(result, bad):
    """Which files read back whole; every other gave an error, none altered bytes."""
    good = set()
    for line in result.out.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].startswith("/data/"):
            number = int(words[1][6:])
            assert words[0] == hashlib.sha256(BLOBS[number]).hexdigest(), f"altered bytes in file {number}: {result!r}"
            good.add(number)
    for number in set(range(FILES)) - good - {bad}:
        assert f"/data/{number}" in result.out and "rror" in result.out, result
    return good


def a_sealed_image_runs(b):
    """seal, sign and both with encryption: the image runs, the files are whole, verify accepts"""
    for name, options, key in (("sealed.sif", {}, ()), ("signed.sif", {"signed": True}, ()),
                               ("loose.sif", {"signed": True, "sealed": False}, ()),
                               ("secret.sif", {"encrypted": True}, ("--pem-path", PEM)),
                               ("all.sif", {"encrypted": True, "signed": True}, ("--pem-path", PEM))):
        path = copy(name, **options)
        running = Running(path, *key)
        if options.get("sealed", True):
            servers = b.processes("--verity")
            assert len(servers) == 1, "the server checks the tree"
        result = running.go_on().ok()
        assert len(whole(result, 7)) == FILES - 1 and result.out.endswith("status 0\n"), result
        assert result.err == "", result
        if options.get("signed"):
            b.run("verify", "--key", SIGNER_PUBLIC, path).ok()


def one_flipped_byte_is_an_io_error(b):
    """a byte flipped under a running container: EIO for that block, all else whole, and it is said"""
    for encrypted in (False, True):
        path = copy("flip.sif", encrypted=encrypted, signed=True)
        offset, _ = partition(path)
        at = offset + (ciphertext_start(path, offset) if encrypted else 0) + place_of(BLOBS[7]) + 40 * 4096 + 77
        running = Running(path, *(("--pem-path", PEM) if encrypted else ()))
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
        result = running.go_on()
        assert len(whole(result, 7)) == FILES - 1, result
        assert "rror" in result.out.splitlines()[-2], result
        assert "status 1" in result.out, result
        errors = [line for line in result.err.splitlines() if "does not match its seal" in line]
        assert len(errors) == 1 and path in errors[0], result
        failed = b.run("verify", "--key", SIGNER_PUBLIC, path)
        assert failed.code == 255, failed


def everybody_who_shares_the_mount_is_told(b):
    """a flipped byte under a shared mount: starter and joiners are told, and the joiners alone once the starter is gone"""
    for starter_stays in (True, False):
        path = copy("shared.sif", signed=True)
        offset, _ = partition(path)
        running = [Running(path) for _ in range(3)]
        assert len(b.processes("--verity")) == 1, "they share a server"
        if not starter_stays:
            first = running.pop(0).process
            first.kill()
            first.communicate(timeout=60)
        with open(path, "r+b") as file:
            file.seek(offset + place_of(BLOBS[7]) + 40 * 4096 + 77)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        for process in running:
            result = process.go_on()
            assert "status 1" in result.out and len(whole(result, 7)) == FILES - 1, result
            said = [line for line in result.err.splitlines() if "does not match its seal" in line]
            assert len(said) == 1 and path in said[0], result


def a_flip_anywhere_never_alters_bytes(b):
    """a byte flipped anywhere in data, metadata, hash tree: true bytes or an error, in 24 places"""
    path = copy("anywhere.sif", signed=True)
    offset, size = partition(path)
    total = os.path.getsize(path)
    places = [offset + size * n // 18 + 13 for n in range(18)] + [offset + size - 4096 - 5, offset + 5, offset + size + 9000] + \
             [total - (total - offset - size) * n // 4 for n in (1, 2, 3)]
    for at in places:
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x80]))
        result = b.run("exec", path, "sh", "-c", "for n in {}; do busybox sha256sum /data/$n 2>&1; done".format(
            " ".join(map(str, range(FILES)))))
        if result.code == 0:
            assert len(whole(result, -1)) >= FILES - 2, f"flip at {at}: {result!r}"
        else:  # what the start itself needs
            assert "FATAL" in result.err or "rror" in result.err + result.out, f"flip at {at}: {result!r}"
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([byte]))
    assert len(whole(b.run("exec", path, "sh", "-c", "for n in {}; do busybox sha256sum /data/$n; done".format(
        " ".join(map(str, range(FILES))))).ok(), -1)) == FILES


def a_file_cut_under_a_container(b):
    """truncated or hole-punched while it runs: I/O errors and whole files, no hang, no altered byte"""
    for what in ("truncate", "punch", "rewrite"):
        path = copy("cut.sif", signed=True)
        offset, size = partition(path)
        start = offset + place_of(BLOBS[0]) & ~4095
        running = Running(path)
        if what == "truncate":
            os.truncate(path, start + 4096)
        elif what == "punch":
            subprocess.run(["fallocate", "--punch-hole", "--offset", str(start), "--length", str(size // 2), path], check=True)
        else:
            with open(path, "r+b") as file:
                file.seek(start)
                file.write(os.urandom(size // 2))
        result = running.go_on()
        assert len(whole(result, 7)) < FILES - 1, f"{what}: {result!r}"
        if what != "truncate":
            assert "does not match its seal" in result.err, f"{what}: {result!r}"


def a_file_that_changes_all_the_time(b):
    """rewritten, cut, punched, shifted, grown all the while that containers read it: true bytes or errors, never others"""
    chance = random.Random(11)
    path = copy("changing.sif", signed=True)
    with open(path, "rb") as file:
        good = file.read()
    offset, size = partition(path)
    start, end = offset + place_of(BLOBS[0]), offset + size

    def change(held):
        at = start + chance.randrange(FILES * FILE_BYTES - 65536)
        way = chance.choice(("rewrite", "bit", "punch", "shift", "cut", "grow", "back", "tree"))
        if way == "rewrite":
            os.pwrite(held, os.urandom(chance.randrange(1, 65536)), at)
        elif way == "bit":
            os.pwrite(held, bytes([good[at] ^ 1 << chance.randrange(8)]), at)
        elif way == "punch":
            assert LIBC.fallocate(held, 3, ctypes.c_long(at), ctypes.c_long(65536)) == 0  # KEEP_SIZE | PUNCH_HOLE
        elif way == "shift":
            os.pwrite(held, good[at:at + 65536], at + 4096)
        elif way == "cut":
            os.ftruncate(held, at)
        elif way == "grow":
            os.ftruncate(held, len(good) + 65536)
        elif way == "back":
            os.pwrite(held, good[at:end], at)
        else:
            os.pwrite(held, os.urandom(32), chance.randrange(end, len(good)))
    rounds = failed = changes = 0
    with open(path, "r+b", buffering=0) as file:
        while rounds < 25 or (failed <= 5 and rounds < 250):
            running = Running(path)
            done, begun = threading.Event(), threading.Event()

            def keep_changing():
                nonlocal changes
                while not done.is_set():
                    change(file.fileno())
                    changes += 1
                    begun.set()
                    time.sleep(0.002)
            changer = threading.Thread(target=keep_changing)
            changer.start()
            begun.wait()
            try:
                result = running.go_on()
            finally:
                done.set()
                changer.join()
            failed += len(whole(result, 7)) < FILES - 1
            os.ftruncate(file.fileno(), len(good))
            os.pwrite(file.fileno(), good, 0)
            rounds += 1
    assert failed > 5 and changes >= rounds, f"{failed} of {rounds} rounds met one of {changes} changes"
    print(f"# {failed} of {rounds} rounds met one of {changes} changes")


def a_file_replaced_under_a_container(b):
    """replaced by rename, or removed: the running container keeps the file it started with"""
    for what in ("rename", "remove"):
        path = copy("replaced.sif", signed=True)
        running = Running(path)
        if what == "rename":
            with open(path + ".new", "wb") as file:
                file.write(b"something else")
            os.rename(path + ".new", path)
        else:
            os.remove(path)
        result = running.go_on().ok()
        assert len(whole(result, 7)) == FILES - 1 and result.err == "", result


def a_wrong_seal_is_refused(b):
    """a tree of another image, a damaged seal, a cut tree: refused before anything runs"""
    path, other = copy("one.sif"), os.path.join(b.work, "other.sif")
    with open(path, "rb") as file:
        data = bytearray(file.read())
    at = data.find(b'"rootHash":"') + 12
    for name, patch in (("another root", lambda d: d.__setitem__(slice(at, at + 4), b"0000" if d[at:at + 4] != b"0000" else b"1111")),
                        ("not hex", lambda d: d.__setitem__(slice(at, at + 4), b"zzzz")),
                        ("superblock", lambda d: d.__setitem__(slice(d.find(b"verity\0\0"), d.find(b"verity\0\0") + 6), b"VERITY"))):
        changed = bytearray(data)
        patch(changed)
        with open(other, "wb") as file:
            file.write(changed)
        os.chown(other, b.user.uid, b.user.gid)
        result = b.run("exec", other, "cat", "/marker")
        assert result.code == 255 and "FATAL" in result.err and result.out == "", f"{name}: {result!r}"


def encrypting_drops_signatures_aloud(b):
    """encrypt and decrypt of a signed image leave signatures and seals out, with a warning"""
    signed = copy("signed.sif", signed=True)
    target = os.path.join(b.work, "dropped.sif")
    result = b.run("encrypt", "--force", "--pem-path", PEM_PUBLIC, signed, target).ok()
    assert "WARNING" in result.err and "sign the new image again" in result.err, result
    listing = b.run("sif", "list", target).ok()
    assert "Signature" not in listing.out and "verity" not in listing.out, listing
    b.run("exec", "--pem-path", PEM, target, "cat", "/marker").prints("plain as day\n")
    assert b.run("verify", "--key", SIGNER_PUBLIC, target).code == 255
    both = copy("all.sif", encrypted=True, signed=True)
    result = b.run("rekey", "--pem-path", PEM, "--new-pem-path", PEM_PUBLIC, both)
    result.fails(255, "signed or sealed", "--drop-signatures")
    b.run("verify", "--key", SIGNER_PUBLIC, both).ok()


bench.main([a_sealed_image_runs, one_flipped_byte_is_an_io_error, everybody_who_shares_the_mount_is_told,
            a_flip_anywhere_never_alters_bytes,
            a_file_cut_under_a_container, a_file_that_changes_all_the_time, a_file_replaced_under_a_container, a_wrong_seal_is_refused,
            encrypting_drops_signatures_aloud])
