#!/usr/bin/env python3
"""SIFs with a gocryptfs container, as Apptainer encrypts for users who are not root. The containers are made by
gocryptfs(1) itself; here they run without it. Prints TAP."""
import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess

import harness
import images
from tap import wait_until

harness.PARTS.update({"libexec/postern/postern-crypt": "frontend/crypt/postern-crypt"})
for program in ("gocryptfs", "mksquashfs", "openssl"):
    if not shutil.which(program):
        harness.skip(f"needs {program}")
bench = harness.Bench()
PASS = "correct horse battery staple"
ROOT = bench.rootfs(files={"marker": "plain as day\n"})
os.makedirs(ROOT + "/data")
BLOB = os.urandom((3 << 20) + 12345)
with open(ROOT + "/data/blob", "wb") as file:
    file.write(BLOB)
with open(ROOT + "/data/zeros", "wb") as file:
    file.write(bytes(1 << 20))
DIGEST = hashlib.sha256(BLOB).hexdigest()


def container(name, password, *options, source=ROOT):
    """The partition: a squashfs with gocryptfs.conf and the encrypted squashfs."""
    top = os.path.join(bench.top, name)
    cipher, plain, out = (f"{top}/{part}" for part in ("cipher", "plain", "out.sqfs"))
    os.makedirs(cipher)
    os.makedirs(plain)
    subprocess.run(["gocryptfs", "-q", "-init", "-scryptn", "12", "-deterministic-names", "-plaintextnames", *options, cipher], check=True,
                   input=f"{password}\n{password}\n".encode(), stdout=subprocess.DEVNULL)
    server = subprocess.Popen(["gocryptfs", "-q", "-fg", cipher, plain], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        server.stdin.write(f"{password}\n".encode())
        server.stdin.close()
        wait_until(lambda: os.path.ismount(plain), "gocryptfs does not mount")
        images.squashfs(source, f"{plain}/squashfs-1234567")
        subprocess.run(["mksquashfs", f"{cipher}/squashfs-1234567", f"{cipher}/gocryptfs.conf", out, "-noappend", "-quiet", "-no-progress", "-noD", "-noF",
                        "-force-uid", str(bench.user.uid)], check=True, stdout=subprocess.DEVNULL)
    finally:
        subprocess.run(["umount", plain], check=True)
        server.wait(120)
    with open(out, "rb") as file:
        return file.read(), cipher


def sif(name, data, message=b""):
    return images.write_sif(os.path.join(bench.work, name), data, bench.user.uid, fstype=6, message=message)


DATA, CIPHER = container("by-passphrase", PASS)
IMAGE = sif("passphrase.sif", DATA)


def exec_it(b, image, *command, key=PASS, options=(), **keywords):
    environment = {"APPTAINER_ENCRYPTION_PASSPHRASE": key} if key else {}
    return b.run("exec", *options, image, *command, env=environment, **keywords)


def runs(b):
    """A container by gocryptfs runs without gocryptfs: every byte of it, by each way to give the passphrase"""
    exec_it(b, IMAGE, "cat", "/marker").prints("plain as day\n")
    for path, digest in (("/data/blob", DIGEST), ("/data/zeros", hashlib.sha256(bytes(1 << 20)).hexdigest())):
        exec_it(b, IMAGE, "busybox", "sha256sum", path).prints(f"{digest}  {path}\n")
    # In pieces that fit no block, from several processes at a time.
    script = "for i in 1 2 3 4; do (dd if=/data/blob bs=5003 2>/dev/null | busybox sha256sum) & done; wait"
    assert exec_it(b, IMAGE, "sh", "-c", script).ok().out == f"{DIGEST}  -\n" * 4
    b.run("exec", "--passphrase-file", passphrase_file(b), IMAGE, "cat", "/marker").prints("plain as day\n")
    exec_it(b, IMAGE, "cat", "/marker", options=("--fakeroot",)).prints("plain as day\n")
    exec_it(b, IMAGE, "sh", "-c", "echo x > /marker && cat /marker", options=("--writable-tmpfs",)).prints("x\n")


def passphrase_file(b):
    path = os.path.join(b.work, "pass")
    with open(path, "w") as out:
        out.write(PASS + "\n")
    os.chown(path, b.user.uid, b.user.gid)
    os.chmod(path, 0o600)
    return path


def pem_image(b):
    """(image, environment, options) that go together."""
    image, keys = wrapped(b)
    return image, {}, ("--pem-path", keys[0])


def wrapped(b):
    secret = hashlib.md5(os.urandom(32)).hexdigest()
    data, _ = container(f"by-pem-{secret[:8]}", secret)
    keys = []
    for name in ("right.pem", "wrong.pem"):
        keys.append(os.path.join(b.work, name))
        subprocess.run(["openssl", "genrsa", "-traditional", "-out", keys[-1], "2048"], check=True, stderr=subprocess.DEVNULL)
        os.chown(keys[-1], b.user.uid, b.user.gid)
    wrapped = subprocess.run(["openssl", "pkeyutl", "-encrypt", "-inkey", keys[0], "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"],
                             input=secret.encode(), check=True, capture_output=True).stdout
    text = base64.encodebytes(b"\x04\x82" + len(wrapped).to_bytes(2, "big") + wrapped).decode()
    image = sif("pem.sif", data, f"-----BEGIN MESSAGE-----\n{text}-----END MESSAGE-----\n".encode())
    return image, keys


def by_pem(b):
    """The secret that is wrapped for an RSA key opens it, another key does not"""
    image, keys = wrapped(b)
    b.run("exec", "--pem-path", keys[0], image, "cat", "/marker").prints("plain as day\n")
    b.run("exec", "--pem-path", keys[1], image, "cat", "/marker").fails(255)
    b.run("exec", "--pem-path", keys[0], IMAGE, "cat", "/marker").fails(255, "passphrase")


def decrypted(b):
    """decrypt makes a plain image of it, with all other objects, that runs without a key; rekey says the way round"""
    for image, key, options in ((IMAGE, {"APPTAINER_ENCRYPTION_PASSPHRASE": PASS}, ()), pem_image(b)):
        out = os.path.join(b.work, "clear.sif")
        b.run("decrypt", "--force", *options, image, out, env=key).ok()
        b.run("exec", out, "cat", "/marker").prints("plain as day\n")
        b.run("exec", out, "busybox", "sha256sum", "/data/blob").prints(f"{DIGEST}  /data/blob\n")
        listed = b.run("sif", "list", out).ok().out
        assert "Squashfs/*System" in listed and "ryptfs" not in listed and "Cryptographic" not in listed, listed
        again = os.path.join(b.work, "again.sif")
        b.run("encrypt", "--force", "--passphrase-file", passphrase_file(b), out, again).ok()
        exec_it(b, again, "cat", "/marker").prints("plain as day\n")
        with open(image, "rb") as file:
            before = file.read()
        done = b.run("rekey", "--passphrase-file", passphrase_file(b), "--new-passphrase-file", passphrase_file(b), image)
        done.fails(255, "gocryptfs", "postern decrypt", "postern encrypt")
        with open(image, "rb") as file:
            assert file.read() == before, "rekey has changed it"
    os.unlink(out)
    wrong = {"APPTAINER_ENCRYPTION_PASSPHRASE": "another"}
    b.run("decrypt", IMAGE, out, env=wrong).fails(255, "does not open the image")
    b.run("decrypt", IMAGE, out).fails(255, "no key was given")
    b.run("decrypt", IMAGE, IMAGE, env={"APPTAINER_ENCRYPTION_PASSPHRASE": PASS}).fails(255, "already exists")
    # A flipped byte of the ciphertext, in the outer squashfs' data: nothing is made.
    data = bytearray(DATA)
    at = len(data) // 2
    data[at] ^= 1
    b.run("decrypt", sif("flipped.sif", bytes(data)), out, env={"APPTAINER_ENCRYPTION_PASSPHRASE": PASS}).fails(255, "decrypting the image")
    assert sorted(name for name in os.listdir(b.work) if "clear" in name) == [], os.listdir(b.work)


def refused(b):
    """No key, another one, and containers that are none, are errors in words"""
    exec_it(b, IMAGE, "true", key="").fails(255, "no key was given")
    exec_it(b, IMAGE, "true", key="another").fails(255, "does not open the image")
    exec_it(b, sif("junk.sif", os.urandom(8192)), "true").fails(255, "squashfs")
    exec_it(b, sif("plain.sif", open(b.squashfs(ROOT), "rb").read()), "true").fails(255, "gocryptfs.conf")
    siv, _ = container("siv", PASS, "-aessiv")
    exec_it(b, sif("siv.sif", siv), "true").fails(255, "AESSIV")
    with open(CIPHER + "/gocryptfs.conf") as file:
        configuration = json.load(file)
    with open(CIPHER + "/squashfs-1234567", "rb") as file:
        encrypted = bytearray(file.read())

    def changed(name, conf, content):
        top = b.make_directory("changed-" + name)
        with open(top + "/gocryptfs.conf", "w") as file:
            json.dump(conf, file)
        if content is not None:
            with open(top + "/squashfs-1", "wb") as file:
                file.write(content)
        with open(images.squashfs(top, top + ".sqfs", "-noD", "-noF"), "rb") as file:
            return sif(name + ".sif", file.read())
    exec_it(b, changed("same", configuration, encrypted), "cat", "/marker").prints("plain as day\n")
    exec_it(b, changed("none", configuration, None), "true").fails(255, "no encrypted file system")
    exec_it(b, changed("empty", configuration, b""), "true").fails(255, "header")
    exec_it(b, changed("cut", configuration, encrypted[:18 + 20]), "true").fails(255, "cut off")
    memory = dict(configuration, ScryptObject=dict(configuration["ScryptObject"], N=1 << 30, R=1024))
    exec_it(b, changed("memory", memory, encrypted), "true").fails(255, "crypt.max-memory-kib")
    for change in (dict(Version=3), dict(EncryptedKey="AAAA"), dict(FeatureFlags=[]), dict(ScryptObject={})):
        exec_it(b, changed("conf-" + list(change)[0], dict(configuration, **change), encrypted), "true").fails(255, "gocryptfs.conf")
    # A byte of the ciphertext: its block cannot be read, and never reads as another.
    at = len(encrypted) // 2
    encrypted[at] ^= 1
    result = exec_it(b, changed("flipped", configuration, encrypted), "busybox", "sha256sum", "/data/blob")
    assert result.code != 0 and DIGEST not in result.out, repr(result)


def no_secret_elsewhere(b):
    """While it runs, the passphrase is in no command line and in no environment"""
    process = b.popen("exec", IMAGE, "sh", "-c", "echo runs; read line", env={"APPTAINER_ENCRYPTION_PASSPHRASE": PASS}, stdin=-1)
    assert process.stdout.readline() == b"runs\n"
    looked = 0
    for pid in b.processes():
        for part in ("cmdline", "environ"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/{part}", "rb") as file:  # it has ended
                assert PASS.encode() not in file.read(), (part, b.command_line(pid))
                looked += 1
    assert looked >= 6, looked  # front end, server, payload
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    wait_until(lambda: not b.processes("postern"), "it is left")


bench.main([runs, by_pem, decrypted, refused, no_secret_elsewhere])
