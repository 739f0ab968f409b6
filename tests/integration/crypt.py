#!/usr/bin/env python3
"""Encrypted images in user-namespace mode: made, run, rekeyed, damaged, and no key where it should not be."""
import contextlib
import glob
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import termios
import time

import harness

harness.PARTS.update({"libexec/postern/postern-crypt": "frontend/crypt/postern-crypt",
                      "libexec/postern/postern-keys": "frontend/keys/postern-keys"})
bench = harness.Bench()
PASS = "correct horse battery staple"
ROOT = bench.rootfs(files={"marker": "plain as day\n"})
os.makedirs(ROOT + "/data")
with open(ROOT + "/data/blob", "wb") as file:  # does not compress
    BLOB = os.urandom(4 << 20)
    file.write(BLOB)
SQUASHFS = bench.squashfs(ROOT)
SIF = bench.sif(SQUASHFS)
DIGEST = hashlib.sha256(BLOB).hexdigest()


def secret_file(name, text, mode=0o600):
    path = os.path.join(bench.work, name)
    with open(path, "w") as file:
        file.write(text)
    os.chown(path, bench.user.uid, bench.user.gid)
    os.chmod(path, mode)
    return path


def make_key(name, *options):
    path = os.path.join(bench.work, name)
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path, *options],
                   check=True, stderr=subprocess.DEVNULL)
    os.chown(path, bench.user.uid, bench.user.gid)
    os.chmod(path, 0o600)
    public = path + ".pub"
    subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-out", public, *(["-passin", "pass:pempass"] if options else [])],
                   check=True)
    os.chmod(public, 0o644)
    return path, public


def encrypted(name, *key, source=SIF):
    path = os.path.join(bench.work, name)
    if not os.path.exists(path):
        bench.run("encrypt", *key, source, path).ok()
    return path


PASSFILE = secret_file("pass", PASS + "\n")
PEM, PUBLIC = make_key("key.pem")
OTHER, OTHER_PUBLIC = make_key("other.pem")


def by_passphrase():
    return encrypted("pass.sif", "--passphrase-file", PASSFILE)


def by_pem():
    return encrypted("pem.sif", "--pem-path", PUBLIC)


def extent(path):
    """(offset, size, file system) of the primary partition, and (type, name, offset, size) of all objects."""
    with open(path, "rb") as file:
        data = file.read(40000)
    total, table = struct.unpack_from("<qq", data, 88)
    objects, root = [], None
    for slot in range(total):
        raw = data[table + 585 * slot:table + 585 * (slot + 1)]
        if not raw[4]:
            continue
        kind, = struct.unpack_from("<i", raw)
        offset, size = struct.unpack_from("<qq", raw, 17)
        objects.append((kind, raw[73:201].rstrip(b"\0").decode(), offset, size))
        if kind == 0x4004 and struct.unpack_from("<i", raw, 205)[0] == 2:
            root = (offset, size, struct.unpack_from("<i", raw, 201)[0])
    return root, objects


# ------------------------------------------------------------------------------- the ways of a key

def made_without_root_and_without_plaintext(b):
    """encrypt writes a LUKS2 partition with none of the plaintext in it, and no temporary file"""
    path = by_passphrase()
    root, _ = extent(path)
    with open(path, "rb") as file:
        data = file.read()
    assert data[root[0]:root[0] + 6] == b"LUKS\xba\xbe" and root[2] == 5, root
    assert BLOB[65536:65600] not in data and b"hsqs" not in data[root[0]:root[0] + root[1]]
    b.run("encrypt", "--pem-path", PUBLIC, SIF, path).fails(255, "already exists")
    b.run("encrypt", "--pem-path", PUBLIC, path, path + "2").fails(255, "encrypted already", "rekey")
    assert not os.path.exists(path + "2")


def passphrase_by_file_descriptor_command_and_environment(b):
    """a passphrase: file, descriptor, command, environment (both prefixes)"""
    path = by_passphrase()
    show = ("cat", "/marker")
    b.run("exec", "--passphrase-file", PASSFILE, path, *show).prints("plain as day\n")
    with open(PASSFILE) as key:
        b.run("exec", "--passphrase-fd", str(key.fileno()), path, *show, pass_fds=[key.fileno()]).prints("plain as day\n")
    with open(PASSFILE) as key:  # standard input will do as well
        b.run("exec", "--passphrase-fd", "0", path, *show, stdin=key.read()).prints("plain as day\n")
    b.run("exec", "--key-command", f"cat {PASSFILE}", path, *show).prints("plain as day\n")
    for prefix in ("POSTERN", "APPTAINER"):
        b.run("exec", path, *show, env={prefix + "_ENCRYPTION_PASSPHRASE": PASS}).prints("plain as day\n")


def pem_by_file_and_environment(b):
    """a PEM key: file, path and text in the environment; the whole file system reads back"""
    path = by_pem()
    b.run("exec", "--pem-path", PEM, path, "cat", "/marker").prints("plain as day\n")
    b.run("exec", path, "cat", "/marker", env={"POSTERN_ENCRYPTION_PEM_PATH": PEM}).prints("plain as day\n")
    with open(PEM) as key:
        b.run("exec", path, "cat", "/marker", env={"APPTAINER_ENCRYPTION_PEM_DATA": key.read()}).prints("plain as day\n")
    b.run("exec", "--pem-path", PEM, path, "busybox", "sha256sum", "/data/blob").prints(f"{DIGEST}  /data/blob\n")


def wrong_and_missing_keys_are_said(b):
    """wrong passphrase, wrong key, no key, no such file, a file open to others: fatal, 255, in words"""
    path, pem = by_passphrase(), by_pem()
    wrong = secret_file("wrong", "incorrect donkey\n")
    loose = secret_file("loose", PASS + "\n", 0o644)
    empty = secret_file("empty", "\n")
    run = ("echo", "ran")
    for arguments, words in (
            (("--passphrase-file", wrong, path), ("failed to decrypt",)),
            (("--passphrase-file", loose, path), ("open to others", "chmod 600")),
            (("--passphrase-file", empty, path), ("empty",)),
            (("--passphrase-file", "/no/such", path), ("/no/such", "No such file")),
            (("--passphrase-fd", "77", path), ("descriptor 77",)),
            (("--key-command", "exit 3", path), ("key command",)),
            (("--pem-path", PEM, path), ("no key that was wrapped",)),
            (("--pem-path", OTHER, pem), (OTHER,)),
            (("--pem-path", PUBLIC, pem), ("private",)),
            (("--passphrase-file", PASSFILE, pem), ("failed to decrypt",)),
            ((path,), ("no key was given", "--pem-path"))):
        b.run("exec", *arguments, *run).fails(255, "FATAL", *words)
    b.run("exec", path, *run, env={"POSTERN_ENCRYPTION_PASSPHRASE": "incorrect"}).fails(255, "FATAL", "failed to decrypt")


def a_prompt_needs_a_terminal(b):
    """--passphrase without a terminal reads a line of standard input, or says so; with one it asks without echo"""
    path = by_passphrase()
    b.run("exec", "--passphrase", path, "cat", "/marker", start_new_session=True, stdin=PASS + "\n").prints("plain as day\n")
    b.run("exec", "--passphrase", path, "cat", start_new_session=True, stdin=PASS + "\nthe rest\n").prints("the rest\n")
    b.run("exec", "--passphrase", path, "echo", "ran", start_new_session=True).fails(255, "no terminal", "--passphrase-fd")
    parent, child = os.openpty()
    os.chown(os.ttyname(child), b.user.uid, b.user.gid)
    process = b.popen(command=["setsid", "--ctty", "--wait", b.postern, "exec", "--passphrase", path, "cat", "/marker"],
                      stdin=child, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(child)
    seen = b""
    while b"passphrase: " not in seen:
        seen += os.read(parent, 1000)
    os.write(parent, PASS.encode() + b"\n")
    out, err = process.communicate(timeout=120)
    try:
        seen += os.read(parent, 1000)
    except OSError:
        pass
    os.close(parent)
    harness.Result(process.returncode, out, err).prints("plain as day\n")
    assert PASS.encode() not in seen, seen


def at_a_prompt(b, path, before=b""):
    """Starts on a terminal of its own; returns the process and the terminal's other end, at the question."""
    parent, child = os.openpty()
    os.chown(os.ttyname(child), b.user.uid, b.user.gid)
    os.write(parent, before)
    process = b.popen(command=["setsid", "--ctty", b.postern, "decrypt", "--passphrase", path, path + ".plain"],
                      stdin=child, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen = b""
    while b"passphrase: " not in seen:
        seen += os.read(parent, 1000)
    return process, parent, child


def what_is_typed_ahead_counts(b):
    """a passphrase that was typed before the question is asked is not thrown away"""
    path = by_passphrase()
    process, parent, child = at_a_prompt(b, path, PASS.encode() + b"\n")
    out, err = process.communicate(timeout=120)
    os.close(parent)
    os.close(child)
    harness.Result(process.returncode, out, err).ok()
    os.unlink(path + ".plain")


def a_signal_ends_a_prompt_at_once(b):
    """SIGTERM, SIGINT and SIGHUP end a question, and the terminal echoes again"""
    path = by_passphrase()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process, parent, child = at_a_prompt(b, path)
        assert not termios.tcgetattr(child)[3] & termios.ECHO
        process.send_signal(number)
        process.communicate(timeout=120)
        assert process.returncode == -number, process.returncode
        assert termios.tcgetattr(child)[3] & termios.ECHO
        os.close(parent)
        os.close(child)
    assert not os.path.exists(path + ".plain")


def copies_are_as_private_as_their_source(b):
    """decrypt and encrypt keep the mode; a private key that others can read is used with a word, once"""
    path = by_pem()
    for mode in (0o600, 0o755, 0o640):
        private = os.path.join(b.work, f"private-{mode:o}.sif")
        shutil.copy(path, private)
        os.chown(private, b.user.uid, b.user.gid)
        os.chmod(private, mode)
        result = b.run("decrypt", "--pem-path", PEM, private, private + ".plain").ok()
        assert os.stat(private + ".plain").st_mode & 0o777 == mode, oct(os.stat(private + ".plain").st_mode)
        assert "open to others" not in result.err, result
        b.run("encrypt", "--pem-path", PUBLIC, private + ".plain", private + ".again").ok()
        assert os.stat(private + ".again").st_mode & 0o777 == mode
    loose = os.path.join(b.work, "loose.pem")
    shutil.copy(PEM, loose)
    os.chown(loose, b.user.uid, b.user.gid)
    os.chmod(loose, 0o644)
    result = b.run("exec", "--pem-path", loose, path, "cat", "/marker").prints("plain as day\n")
    assert result.err.count(f"chmod 600 {loose}") == 1, result


def a_locked_pem_asks_for_its_passphrase(b):
    """an encrypted PEM key asks for its own passphrase, and says so where there is no terminal"""
    locked, _ = make_key("locked.pem", "-aes256", "-pass", "pass:pempass")
    path = encrypted("locked.sif", "--pem-path", locked + ".pub")
    result = b.run("exec", "--pem-path", locked, path, "echo", "ran", start_new_session=True)
    result.fails(255, "is locked", "terminal")


# --------------------------------------------------------------------------------- where a key is not

def no_key_where_others_look(b):
    """while it runs no process has a key in its arguments, environment or name; the payload has none at all"""
    path, pem_image = by_passphrase(), by_pem()
    with open(PEM) as key:
        pem_text = key.read()
    for image, environment, options in (
            (path, {"POSTERN_ENCRYPTION_PASSPHRASE": PASS}, ()), (path, {"APPTAINER_ENCRYPTION_PASSPHRASE": PASS}, ()),
            (path, {}, ("--passphrase-file", PASSFILE)), (pem_image, {"POSTERN_ENCRYPTION_PEM_DATA": pem_text}, ()),
            (pem_image, {}, ("--pem-path", PEM))):
        process = b.popen("exec", *options, image, "sh", "-c", "env; ls -l /proc/self/fd; echo started; read x",
                          env=environment, stdin=subprocess.PIPE)
        out = b""
        while b"started\n" not in out:
            got = process.stdout.readline()
            assert got, process.stderr.read()
            out += got
        needles = [PASS.encode(), pem_text.splitlines()[5].encode()]
        assert not any(needle in out for needle in needles) and b"ENCRYPTION" not in out, out
        assert b"volume-key" not in out and b"memfd" not in out, out
        looked = 0
        for pid in b.processes():
            for name in ("cmdline", "environ", "comm"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/{name}", "rb") as file:  # it has ended
                    text = file.read()
                    assert not any(needle in text for needle in needles), (pid, name)
                    looked += 1
            # Nobody keeps the key's memory file, the server included: it has its key schedule.
            for link in glob.glob(f"/proc/{pid}/fd/*"):
                with contextlib.suppress(FileNotFoundError):
                    assert "volume-key" not in os.readlink(link), (pid, link)
        assert looked >= 9, looked  # frontend, server, payload
        process.communicate(b"\n", timeout=120)
        assert process.returncode == 0


def two_starts_share_and_a_wrong_key_does_not_join(b):
    """a second start with the key joins; one with a wrong key is refused though a server runs"""
    path = by_pem()
    first = b.popen("exec", "--pem-path", PEM, path, "sh", "-c", "echo up; read x", stdin=subprocess.PIPE)
    assert first.stdout.readline() == b"up\n"
    servers = b.processes("postern-squashfs")
    second = b.popen("exec", "--pem-path", PEM, path, "sh", "-c", "cat /marker; read x", stdin=subprocess.PIPE)
    assert second.stdout.readline() == b"plain as day\n", second.stderr.read()
    assert b.processes("postern-squashfs") == servers
    second.communicate(b"\n", timeout=120)
    b.run("exec", "--pem-path", OTHER, path, "cat", "/marker").fails(255, OTHER)
    b.run("exec", path, "cat", "/marker").fails(255, "no key was given")
    first.communicate(b"\n", timeout=120)


# ------------------------------------------------------------------------------------- other commands

def decrypt_gives_the_same_bytes(b):
    """decrypt writes the very partition that was encrypted"""
    for image, key in ((by_passphrase(), ("--passphrase-file", PASSFILE)), (by_pem(), ("--pem-path", PEM))):
        back = os.path.join(b.work, "back.sif")
        b.run("decrypt", "--force", *key, image, back).ok()
        root, _ = extent(back)
        with open(back, "rb") as file, open(SQUASHFS, "rb") as plain:
            file.seek(root[0])
            original = plain.read()
            assert file.read(len(original)) == original and root[2] == 1
    b.run("decrypt", "--force", "--pem-path", OTHER, by_pem(), back).fails(255, OTHER)
    b.run("decrypt", "--force", "--pem-path", PEM, SIF, back).fails(255, "not encrypted")


def rekey_keeps_the_data(b):
    """rekey changes and adds keys; the ciphertext stays where it is, byte for byte"""
    path = encrypted("rekey.sif", "--pem-path", PUBLIC)
    root, _ = extent(path)

    def ciphertext():
        with open(path, "rb") as file:
            file.seek(root[0] + 16 * 1024 * 1024)
            return hashlib.sha256(file.read(root[1] - 16 * 1024 * 1024)).hexdigest()
    before = ciphertext()
    b.run("rekey", "--pem-path", PEM, "--new-pem-path", OTHER_PUBLIC, path).ok()
    b.run("exec", "--pem-path", PEM, path, "cat", "/marker").fails(255, "FATAL")
    b.run("exec", "--pem-path", OTHER, path, "cat", "/marker").prints("plain as day\n")
    b.run("rekey", "--keep", "--pem-path", OTHER, "--new-passphrase-file", PASSFILE, path).ok()
    for key in (("--pem-path", OTHER), ("--passphrase-file", PASSFILE)):
        b.run("exec", *key, path, "cat", "/marker").prints("plain as day\n")
    b.run("rekey", "--pem-path", PEM, "--new-pem-path", PUBLIC, path).fails(255, "FATAL")
    assert ciphertext() == before


# ------------------------------------------------------------------------------------------ bad headers

def rewrite_json(header, change):
    """Both copies of the metadata with `change` applied to the JSON, checksums made right."""
    size = struct.unpack_from(">Q", header, 8)[0]
    out = bytearray(header)
    for at in (0, size):
        area = bytearray(out[at:at + size])
        text = change(bytes(area[4096:]).rstrip(b"\0"))
        area[4096:] = text[:size - 4096].ljust(size - 4096, b"\0")
        area[448:512] = bytes(64)
        area[448:480] = hashlib.sha256(area).digest()
        out[at:at + size] = area
    return bytes(out)


def edit(*path, value):
    def change(text):
        tree = json.loads(text)
        node = tree
        for step in path[:-1]:
            node = node[step]
        if value is None:
            del node[path[-1]]
        else:
            node[path[-1]] = value
        return json.dumps(tree).encode()
    return lambda header: rewrite_json(header, change)


def damaged_headers_are_refused(b):
    """two dozen LUKS2 headers that are wrong each: one clear error, no crash, nothing runs"""
    path = by_passphrase()
    root, _ = extent(path)
    with open(path, "rb") as file:
        image = file.read()
    whole = image[root[0]:root[0] + root[1]]
    size = struct.unpack_from(">Q", whole, 8)[0]
    # One copy is enough: what damages only the first does not matter.
    survivors = {"first copy damaged": b"\xff" * 512 + whole[512:],
                 "second copy damaged": whole[:size] + b"\xff" * size + whole[2 * size:]}
    shapes = {
        "both copies damaged": b"LUKS\xba\xbe" + b"\xff" * (2 * size - 6) + whole[2 * size:],
        "version 1": whole[:6] + b"\0\1" + whole[8:size] + bytes(size) + whole[2 * size:],
        "header size huge": whole[:8] + struct.pack(">Q", 1 << 62) + whole[16:size] + bytes(size) + whole[2 * size:],
        "header size zero": whole[:8] + bytes(8) + whole[16:size] + bytes(size) + whole[2 * size:],
        "not JSON": rewrite_json(whole, lambda text: b"{" * 9000),
        "JSON of nothing": rewrite_json(whole, lambda text: b"{}"),
        "nested too deep": rewrite_json(whole, lambda text: b'{"a":' * 1500 + b"1" + b"}" * 1500),
        "null cipher": edit("segments", "0", "encryption", value="cipher_null-ecb")(whole),
        "another cipher": edit("segments", "0", "encryption", value="serpent-xts-plain64")(whole),
        "sector of 100 bytes": edit("segments", "0", "sector_size", value=100)(whole),
        "segment beyond the end": edit("segments", "0", "offset", value=str(1 << 40))(whole),
        "segment size beyond the end": edit("segments", "0", "size", value=str(1 << 50))(whole),
        "segment offset negative": edit("segments", "0", "offset", value="-4096")(whole),
        "integrity": edit("segments", "0", "integrity",
                          value={"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"})(whole),
        "no segment": edit("segments", value={})(whole),
        "two segments": edit("segments", "1", value={"type": "linear", "offset": "0", "size": "dynamic"})(whole),
        "reencryption": edit("config", "requirements", value={"mandatory": ["online-reencrypt-v2"]})(whole),
        "no keyslot": edit("keyslots", value={})(whole),
        "memory of a terabyte": edit("keyslots", "0", "kdf", "memory", value=1 << 30)(whole),
        "time without end": edit("keyslots", "0", "kdf", "time", value=4000000000)(whole),
        "thousand threads": edit("keyslots", "0", "kdf", "cpus", value=1000)(whole),
        "keyslot area beyond the end": edit("keyslots", "0", "area", "offset", value=str(1 << 45))(whole),
        "digest of another key": edit("digests", "0", "digest", value="A" * 43 + "=")(whole),
        "no digest": edit("digests", value={})(whole),
    }
    target = os.path.join(b.work, "damaged.sif")
    for name, partition in {**survivors, **shapes}.items():
        assert len(partition) == len(whole), name
        with open(target, "wb") as file:
            file.write(image[:root[0]] + partition + image[root[0] + root[1]:])
        os.chown(target, b.user.uid, b.user.gid)
        result = b.run("exec", "--passphrase-file", PASSFILE, target, "cat", "/marker", timeout=120)
        try:
            if name in survivors:
                result.prints("plain as day\n")
            else:
                result.fails(255, "FATAL")
                assert result.out == "" and "nonsense" not in result.err and "bug" not in result.err, repr(result)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
    os.remove(target)


def a_truncated_image_is_refused(b):
    """a file cut short at any of its parts: refused, not crashed"""
    path = by_pem()
    root, _ = extent(path)
    target = os.path.join(b.work, "short.sif")
    with open(path, "rb") as file:
        image = file.read()
    for length in (128, 4096, root[0], root[0] + 4096, root[0] + 40000, root[0] + (16 << 20) - 1, root[0] + root[1] - 1):
        with open(target, "wb") as file:
            file.write(image[:length])
        os.chown(target, b.user.uid, b.user.gid)
        b.run("exec", "--pem-path", PEM, target, "cat", "/marker", timeout=120).fails(255, "FATAL")
    os.remove(target)


def killed_at_any_instant(b):
    """SIGKILL of the start at random instants leaves no process, mount or file"""
    path = by_pem()
    for round_ in range(20):
        process = b.popen("exec", "--pem-path", PEM, path, "sleep", "1000", start_new_session=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.004 * round_)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for pid in b.processes("sleep 1000"):
            with contextlib.suppress(ProcessLookupError):  # it has ended with its start
                os.kill(pid, signal.SIGKILL)
        b.check_leaks()


def a_header_that_is_missing_or_anothers(b):
    """ciphertext whose header lies elsewhere, and one under another image's header: refused in words"""
    path = by_passphrase()
    another = encrypted("another.sif", "--passphrase-file", PASSFILE)
    target = os.path.join(b.work, "header.sif")
    (offset, size, _), _ = extent(path)
    (theirs, _, _), _ = extent(another)
    with open(path, "rb") as file, open(another, "rb") as other:
        image, header = file.read(), other.read()[theirs:theirs + (16 << 20)]
    for name, front, words in (("detached", os.urandom(16 << 20), "LUKS"), ("another's", header, "FATAL")):
        with open(target, "wb") as file:
            file.write(image[:offset] + front + image[offset + (16 << 20):])
        os.chown(target, b.user.uid, b.user.gid)
        result = b.run("exec", "--passphrase-file", PASSFILE, target, "cat", "/marker", timeout=120).fails(255, words)
        assert result.out == "", (name, result)
    os.remove(target)


def altered_ciphertext(b):
    """ciphertext that is altered under the mount: an error where the image is sealed, never a crash where it is not"""
    for sealed in (True, False):
        target = encrypted(f"altered{sealed}.sif", "--pem-path", PUBLIC)
        if sealed:
            b.run("seal", target).ok()
        (offset, size, _), _ = extent(target)
        process = b.popen("exec", "--pem-path", PEM, target, "sh", "-c", "echo up; read x; cat /data/blob > /dev/null || echo failed", stdin=subprocess.PIPE)
        assert process.stdout.readline() == b"up\n", process.stderr.read()
        with open(target, "r+b") as file:  # all of the blob's blocks, the tables at the end left
            file.seek(offset + (16 << 20) + (1 << 20))
            file.write(os.urandom(2 << 20))
        out, err = process.communicate(b"\n", timeout=120)
        assert process.returncode == 0, (process.returncode, err)
        assert not sealed or (out == b"failed\n" and b"altered" in err), (out, err)
        os.remove(target)


def ranks_of_an_encrypted_image(b):
    """64 simultaneous starts with the key: one server, and every rank reads the true bytes"""
    path = by_pem()
    gate = b.work + "/gate"
    command = f"busybox sha256sum /data/blob; while ! test -e {gate}; do sleep 0.05; done"
    running = [b.popen("exec", "--pem-path", PEM, path, "sh", "-c", command) for _ in range(64)]
    try:
        for process in running:
            line = process.stdout.readline()
            assert line == f"{DIGEST}  /data/blob\n".encode(), line + process.stderr.read()
        assert len(b.processes("postern-squashfs --starter")) == 1
    finally:
        with open(gate, "w"):
            pass
        codes = [process.wait(timeout=120) for process in running]
        for process in running:
            process.stdout.close()
            process.stderr.close()
        os.unlink(gate)
    assert codes == [0] * 64, codes


def two_users_of_one_image(b):
    """another user with the same image and the same key has a server, and a key, of its own"""
    path = by_pem()
    os.chmod(path, 0o644)
    first = b.popen("exec", "--pem-path", PEM, path, "sh", "-c", "echo up; read x", stdin=subprocess.PIPE)
    assert first.stdout.readline() == b"up\n", first.stderr.read()
    with open(PEM) as key:
        text = key.read()
    theirs = dict(user=b.other, group=b.other, extra_groups=[], cwd="/", capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    base = {"PATH": "/bin:/usr/bin", "HOME": "/"}
    second = subprocess.run([b.postern, "exec", path, "cat", "/marker"], env=base | {"POSTERN_ENCRYPTION_PEM_DATA": text}, **theirs)
    assert (second.returncode, second.stdout) == (0, b"plain as day\n"), second
    third = subprocess.run([b.postern, "exec", path, "cat", "/marker"], env=base, **theirs)
    assert third.returncode == 255 and b"no key was given" in third.stderr, third
    assert len(b.processes("postern-squashfs --starter")) == 1
    first.communicate(b"\n", timeout=120)


def fifty_under_sigkill(b):
    """50 containers, every process of theirs killed at a random instant: no process, socket, mount or file is left"""
    path = by_pem()
    chance = random.Random(50)
    for share in ((), ("--no-share",)):
        running = [b.popen("exec", *share, "--pem-path", PEM, path, "sleep", "1000", start_new_session=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL) for _ in range(50)]
        deadline = time.time() + 60
        while (left := b.processes()) and time.time() < deadline:
            for pid in chance.sample(left, min(5, len(left))):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(chance.uniform(0, 0.01))
        for process in running:
            process.wait(timeout=120)
        b.check_leaks()


bench.main([made_without_root_and_without_plaintext, passphrase_by_file_descriptor_command_and_environment,
            pem_by_file_and_environment, wrong_and_missing_keys_are_said, a_prompt_needs_a_terminal, what_is_typed_ahead_counts,
            a_signal_ends_a_prompt_at_once, copies_are_as_private_as_their_source, a_locked_pem_asks_for_its_passphrase, no_key_where_others_look, two_starts_share_and_a_wrong_key_does_not_join,
            decrypt_gives_the_same_bytes, rekey_keeps_the_data, damaged_headers_are_refused, a_truncated_image_is_refused,
            killed_at_any_instant, a_header_that_is_missing_or_anothers, altered_ciphertext, ranks_of_an_encrypted_image,
            two_users_of_one_image, fifty_under_sigkill])
