#!/usr/bin/env python3
"""Images through the installed setuid helper, as an unprivileged user, in a kernel with device-mapper:
loop, dm-verity and dm-crypt under squashfs, an execution control list, and nothing left. Prints TAP.

Runs inside boot.sh: the kernel is the test's own, so that files of the system may be covered.
Usage: image_stack.py HELPER JUDGE JUDGE-KEYS POSTERN INIT SQUASHFS CRYPT KEYS LIBEXEC CONFDIR
"""
import glob
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../suid"))
import world as worlds  # noqa: E402
import images  # noqa: E402
import tap  # noqa: E402
from tap import check  # noqa: E402

HELPER, JUDGE, POSTERN, INIT, SQUASHFS, CRYPT, KEYS, LIBEXEC, CONFDIR = sys.argv[1:10]
BUSYBOX = "/bin/busybox"
FILES, FILE_BYTES = 4, 256 * 1024
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def run(*command, **keywords):
    return subprocess.run(command, check=True, capture_output=True, text=True, **keywords)


# ------------------------------------------------------------------------------------- surroundings

run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/var/tmp")
W = worlds.World(HELPER, JUDGE, BUSYBOX, LIBEXEC, CONFDIR)
USER = {"user": worlds.T1, "group": worlds.T1, "extra_groups": worlds.T1_GROUPS}
HOME = f"{W.work}/home"
os.mkdir(HOME)
os.chown(HOME, worlds.T1, worlds.T1)
with open("/etc/passwd") as file:
    passwd = file.read()
with open("/tmp/passwd", "w") as file:
    file.write(passwd + f"ranker:x:{worlds.T1}:{worlds.T1}::{HOME}:/bin/sh\n"
               f"other:x:{worlds.T2}:{worlds.T2}::{HOME}:/bin/sh\n")
run("mount", "--bind", "/tmp/passwd", "/etc/passwd")
for source, mode in ((INIT, 0o755), (SQUASHFS, 0o711), (CRYPT, 0o711), (KEYS, 0o755)):
    W.install(source, os.path.basename(source), mode)
BINARY = f"{W.work}/postern"
# Where its libexec directory is compiled in, it finds it from any place.
shutil.copy(POSTERN, BINARY)
os.chmod(BINARY, 0o755)
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": HOME, "USER": "ranker", "LANG": "C"}


def popen(*arguments, env=None, **keywords):
    keywords = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **keywords}
    return subprocess.Popen([BINARY, *arguments], env={**ENVIRONMENT, **(env or {})}, cwd=HOME, **{**USER, **keywords})


def postern(*arguments, **keywords):
    process = popen(*arguments, **keywords)
    process.out, process.err = process.communicate(timeout=180)
    return process


def say(process):
    return f"exit {process.returncode}\nstdout: {process.out[:800]}\nstderr: {process.err[:800]}"


def runs(process, out):
    check(process.returncode == 0 and process.out == out, f"expected {out!r}: {say(process)}")


def fails(process, *words):
    check(process.returncode == 255 and "FATAL" in process.err and process.out == "", say(process))
    for word in words:
        check(word in process.err, f"{word!r} is not in: {say(process)}")


def tables():
    """What device-mapper has: (target, parameters)."""
    lines = run("dmsetup", "table").stdout.splitlines()
    return sorted((words[3], words[4:]) for words in map(str.split, lines) if len(words) > 4)


def left():
    return {name: value for name, value in (
        ("mappings", tables()), ("loops", W.loops()), ("processes", W.processes()),
        ("mounts", sorted(set(W.mounts().splitlines()) - set(MOUNTS)))) if value}


def nothing_left():
    tap.wait_until(lambda: not left(), lambda: f"left behind: {left()}")


def configure(mode, ecl="activated = false\n"):
    W.configure(site=worlds.SITE.replace('squashfs = "any"', f'squashfs = "{mode}"'), ecl=ecl)


# ------------------------------------------------------------------------------------------ images

def openssl(*words):
    run("openssl", *words, cwd=HOME)


def make_images():
    root = f"{W.work}/tree"
    for name in ("bin", "data", "proc", "sys", "dev", "tmp", "etc"):
        os.makedirs(f"{root}/{name}")
    shutil.copy(BUSYBOX, f"{root}/bin/busybox")
    for applet in ("sh", "cat", "sleep", "echo"):
        os.symlink("busybox", f"{root}/bin/{applet}")
    for name in ("passwd", "group", "hosts", "resolv.conf", "localtime"):
        open(f"{root}/etc/{name}", "w").close()
    with open(f"{root}/marker", "w") as file:
        file.write("plain as day\n")
    blobs = [os.urandom(FILE_BYTES) for _ in range(FILES)]
    for number, blob in enumerate(blobs):
        with open(f"{root}/data/{number}", "wb") as file:
            file.write(blob)
    images.squashfs(root, f"{W.work}/root.sqfs", "-noD", "-noF")
    with open(f"{W.work}/root.sqfs", "rb") as file:
        data = file.read()
    path = images.write_sif(f"{HOME}/plain.sif", data, worlds.T1)
    return path, blobs, data.find(blobs[2])


MOUNTS = []
PLAIN, BLOBS, BLOB_AT = make_images()
openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key.pem")
openssl("pkey", "-in", "key.pem", "-pubout", "-out", "key.pub")
for signer in ("site", "stranger"):
    openssl("genpkey", "-algorithm", "ed25519", "-out", f"{signer}.pem")
    openssl("pkey", "-in", f"{signer}.pem", "-pubout", "-out", f"{signer}.pub")
for name in os.listdir(HOME):
    os.chown(f"{HOME}/{name}", worlds.T1, worlds.T1)
with open(f"{HOME}/pass", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
    file.write("correct horse\n")
os.chown(f"{HOME}/pass", worlds.T1, worlds.T1)
os.makedirs(f"{CONFDIR}/keyring/pem")
shutil.copy(f"{HOME}/site.pub", f"{CONFDIR}/keyring/pem/site.pem")
for path in (f"{CONFDIR}/keyring", f"{CONFDIR}/keyring/pem"):
    os.chmod(path, 0o755)
os.chown(f"{CONFDIR}/keyring/pem/site.pem", 0, 0)
os.chmod(f"{CONFDIR}/keyring/pem/site.pem", 0o644)
FINGERPRINT = hashlib.sha256(subprocess.run(["openssl", "pkey", "-pubin", "-in", f"{HOME}/site.pub", "-pubout", "-outform", "DER"],
                                            check=True, capture_output=True).stdout).hexdigest()
ECL = f'''activated = true
[[execgroup]]
tagname = "approved"
mode = "whitelist"
dirpath = ""
keysha256 = ["{FINGERPRINT}"]
binding = "sealed"
'''
PEM = ("--pem-path", f"{HOME}/key.pem")


def image(name, *steps):
    """A copy of the plain image after these commands of postern; INPUT and IMAGE stand for the files."""
    path = f"{HOME}/{name}.sif"
    source = PLAIN
    if os.path.exists(path):
        os.remove(path)
    for step in steps:
        if step[0] == "encrypt":
            done = postern(*step, source, path)
        else:
            if source == PLAIN:
                shutil.copy(PLAIN, path)
                os.chown(path, worlds.T1, worlds.T1)
            done = postern(*step, path)
        check(done.returncode == 0, say(done))
        source = path
    return path


ENCRYPT = ("encrypt", "--pem-path", f"{HOME}/key.pub")
SIGN = ("sign", "--key", f"{HOME}/site.pem")


class Running:
    """A container that is up, and reads the third file when told to."""

    def __init__(self, *arguments, env=None, wait=True, **keywords):
        script = ("echo up; read line; for n in 0 1 3; do busybox sha256sum /data/$n; done; "
                  "cat /data/2 | busybox sha256sum; busybox dd if=/data/2 of=/dev/null bs=4096 count=1 skip=20 && echo read it")
        self.process = popen("exec", *arguments, "sh", "-c", script, stdin=subprocess.PIPE, env=env, **keywords)
        if wait:
            self.wait()

    def wait(self):
        first = self.process.stdout.readline()
        if first != "up\n":
            self.process.out, self.process.err = self.process.communicate(timeout=180)
            raise AssertionError(f"did not come up: {say(self.process)}")
        return self

    def go_on(self):
        self.process.out, self.process.err = self.process.communicate("\n", timeout=180)
        return self.process


def all_whole(process, but=()):
    for number in range(FILES):
        digest = hashlib.sha256(BLOBS[number]).hexdigest()
        check((digest in process.out) == (number not in but), f"file {number}: {say(process)}")


# ------------------------------------------------------------------------------------------- tests

@test
def a_plain_image_is_mounted_by_the_kernel_or_served():
    """plain: a loop device where the site says "any", a server in user space where it says "trusted" """
    configure("any")
    running = Running(PLAIN)
    check(len(W.loops()) == 1 and tables() == [], f"{W.loops()} {tables()}")
    all_whole(running.go_on())
    nothing_left()
    configure("trusted")
    running = Running(PLAIN)
    check(W.loops() == [] and tables() == [], f"{W.loops()} {tables()}")
    all_whole(running.go_on())


@test
def a_clock_that_jumps_disturbs_no_container():
    """the clock set two days on and twenty years back: containers read on, and others start and join them"""
    now = time.time()
    try:
        for mode in ("any", "trusted"):  # mounted by the kernel, and served
            configure(mode)
            for jump in (2 * 86400, -20 * 365 * 86400):
                running = Running(PLAIN)
                time.clock_settime(time.CLOCK_REALTIME, now + jump)
                all_whole(Running(PLAIN).go_on())
                all_whole(running.go_on())
            nothing_left()
    finally:
        time.clock_settime(time.CLOCK_REALTIME, now)


@test
def a_sealed_image_has_dm_verity():
    """sealed: loop, dm-verity with plain options, squashfs"""
    configure("any")
    path = image("sealed", ("seal",))
    running = Running(path)
    found = tables()
    check([target for target, _ in found] == ["verity"], f"{found}")
    check(found[0][1][0] == "1" and found[0][1][3:5] == ["4096", "4096"] and len(found[0][1]) == 10, f"{found}")
    check(len(W.loops()) == 1, f"{W.loops()}")
    all_whole(running.go_on())
    nothing_left()
    # Nobody whom the site trusts has signed it, so under "trusted" it is served, and checked there.
    configure("trusted")
    running = Running(path)
    check(W.loops() == [] and tables() == [], f"{W.loops()} {tables()}")
    all_whole(running.go_on())


@test
def an_encrypted_image_has_dm_crypt_and_its_key_is_the_kernels():
    """encrypted: dm-crypt; the key is not the user's to see, in no table, keyring, descriptor or argument"""
    configure("any")
    path = image("encrypted", ENCRYPT)
    running = Running(*PEM, path)
    found = tables()
    check([target for target, _ in found] == ["crypt"] and found[0][1][0] == "aes-xts-plain64", f"{found}")
    key = run("dmsetup", "table", "--showkeys").stdout.split()[5]
    check(len(key) == 128 and key != "0" * 128, "root sees a key, so that what follows can fail")
    as_user = subprocess.run(["dmsetup", "table", "--showkeys"], capture_output=True, text=True, **USER)
    check(key not in as_user.stdout and "crypt" not in as_user.stdout, as_user.stdout)
    with open("/proc/keys") as file:
        keys = file.read()
    check("postern" not in keys and "logon" not in keys, keys)
    looked = 0
    for entry in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            check("volume-key" not in os.readlink(entry), entry)
        except OSError:
            continue
    for entry in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(entry, "rb") as file:
                check(key.encode() not in file.read(), entry)
                looked += 1
        except OSError:
            continue
    check(looked > 8, "there was something to look at")
    all_whole(running.go_on())
    nothing_left()
    runs(postern("exec", path, "cat", "/marker", env={"POSTERN_ENCRYPTION_PEM_PATH": f"{HOME}/key.pem"}), "plain as day\n")
    fails(postern("exec", "--pem-path", f"{HOME}/site.pem", path, "cat", "/marker"), "site.pem")
    fails(postern("exec", path, "cat", "/marker"), "no key was given")
    nothing_left()
    configure("trusted")
    running = Running(*PEM, path)
    check(W.loops() == [] and tables() == [], f"{W.loops()} {tables()}")
    all_whole(running.go_on())


@test
def a_passphrase_opens_an_image():
    """encrypted with a passphrase: opened by the right one only"""
    configure("any")
    path = image("passphrase", ("encrypt", "--passphrase-file", f"{HOME}/pass"))
    runs(postern("exec", "--passphrase-file", f"{HOME}/pass", path, "cat", "/marker"), "plain as day\n")
    fails(postern("exec", path, "cat", "/marker", env={"POSTERN_ENCRYPTION_PASSPHRASE": "wrong"}), "failed to decrypt")


@test
def the_whole_chain_under_an_execution_control_list():
    """encrypted, signed and sealed, under an active list: loop, dm-verity, dm-crypt, squashfs, by trust"""
    configure("trusted", ECL)
    path = image("whole", ENCRYPT, SIGN)
    running = Running(*PEM, path)
    found = tables()
    check([target for target, _ in found] == ["crypt", "verity"], f"{found}")
    numbers = run("dmsetup", "info", "-c", "--noheadings", "-o", "major,minor").stdout.split()
    check(found[0][1][3] in numbers, f"dm-crypt is on dm-verity: {found} {numbers}")
    all_whole(running.go_on())
    nothing_left()
    signed = image("signed", SIGN)
    running = Running(signed)
    check([target for target, _ in tables()] == ["verity"], f"{tables()}")
    all_whole(running.go_on())


@test
def the_list_refuses_what_it_does_not_name():
    """unsigned, signed by a stranger, signed without a seal, a directory: refused with the list's words"""
    configure("trusted", ECL)
    for name, steps, words in (("unsigned", (("seal",),), ("not signed by a required entity",)),
                               ("strange", (("sign", "--key", f"{HOME}/stranger.pem"),), ("signed by a required entity",)),
                               ("unsealed", ((*SIGN, "--no-seal"),), ("not bound",))):
        fails(postern("exec", image(name, *steps), "echo", "ran"), *words)
    fails(postern("exec", PLAIN, "echo", "ran"), "not signed by a required entity")
    fails(postern("exec", f"{W.work}/tree", "echo", "ran"), "nothing can vouch")
    fails(postern("exec", *PEM, image("unsigned_encrypted", ENCRYPT), "echo", "ran"), "not signed by a required entity")
    nothing_left()
    with open(f"{CONFDIR}/ecl.toml", "w") as file:
        file.write("activated = maybe\n")
    fails(postern("exec", image("signed", SIGN), "echo", "ran"), "ecl.toml:1", "not TOML")


@test
def a_flipped_byte_is_an_io_error():
    """a byte flipped under the mount: EIO from dm-verity for its block, the rest whole, and it is said"""
    configure("trusted", ECL)
    for name, steps, options, start in (("flip", (SIGN,), (), 0), ("flip_encrypted", (ENCRYPT, SIGN), PEM, None)):
        path = image(name, *steps)
        with open(path, "rb") as file:
            data = file.read()
        total, table = struct.unpack_from("<qq", data, 88)
        offset = next(struct.unpack_from("<q", data, table + 585 * slot + 17)[0] for slot in range(total)
                      if struct.unpack_from("<i", data, table + 585 * slot)[0] == 0x4004)
        if start is None:
            size = struct.unpack_from(">Q", data, offset + 8)[0]
            start = int(json.loads(data[offset + 4096:offset + size].rstrip(b"\0"))["segments"]["0"]["offset"])
        at = offset + start + BLOB_AT + 20 * 4096 + 99
        running = Running(*options, path)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 4]))
        process = running.go_on()
        all_whole(process, but=(2,))
        check("read it" not in process.out and "rror" in process.err, say(process))
        check("FATAL" not in process.err and "sealed" in process.err and path in process.err, say(process))
        nothing_left()
        # The next start sees it as well; what is whole still reads.
        result = postern("exec", *options, path, "cat", "/marker")
        runs(result, "plain as day\n")
        again = postern("exec", *options, path, "cat", "/data/2")
        check(again.returncode == 1 and "does not match its seal" in again.err and path in again.err, f"refused again, and said: {say(again)}")


@test
def a_file_changed_in_every_way_under_the_mount_gives_its_bytes_or_errors():
    """rewritten, cut, punched, shifted, grown, replaced while mounted, round after round: true bytes or EIO, never others"""
    configure("trusted", ECL)
    path = image("changing", SIGN)
    with open(path, "rb") as file:
        good = file.read()
    digests = {f"/data/{n}": hashlib.sha256(blob).hexdigest() for n, blob in enumerate(BLOBS)}
    process = popen("exec", path, "sh", "-c", "echo up; while read line; do for n in 0 1 2 3; do busybox sha256sum /data/$n; done; "
                    "echo done; done 2>&1", stdin=subprocess.PIPE)
    check(process.stdout.readline() == "up\n", "up")
    check([target for target, _ in tables()] == ["verity"], f"{tables()}")
    held = os.open(path, os.O_RDWR)  # the file that was mounted, whatever its name comes to hold
    chance = random.Random(7)
    # The blobs follow each other; the first block of the seal may hold the end of busybox as well, which is to go on.
    start = good.find(BLOBS[0][:64]) + 4096
    total = FILES * FILE_BYTES - 4096

    def write(data, at):
        os.pwrite(held, data, at)

    def put_back():
        os.ftruncate(held, len(good))
        write(good, 0)

    def rename():
        with open(f"{path}.new", "wb") as file:
            file.write(b"something else")
        os.rename(f"{path}.new", path)

    # The first three change no block that is mounted. Some caches of squashfs remember errors.
    harmless = ("nothing", "grow", "rename")
    ways = {"nothing": lambda: None,
            "grow": lambda: os.ftruncate(held, len(good) + (1 << 20)),
            "rename": rename,
            "rewrite": lambda: write(os.urandom(65536), start + chance.randrange(total - 65536)),
            "one bit": lambda: write(bytes([good[start + 5000] ^ 8]), start + 5000),
            "punch": lambda: run("fallocate", "--punch-hole", "--offset", str(start), "--length", str(total // 2),
                                 f"/proc/{os.getpid()}/fd/{held}"),
            "shift": lambda: write(good[start:start + total // 2], start + 4096),
            "cut": lambda: os.ftruncate(held, start + total // 3),
            "metadata": lambda: write(os.urandom(8192), start + total + 100)}
    failed = set()
    for name in [*ways, *chance.choices([n for n in ways if n not in harmless], k=8)]:
        ways[name]()
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        process.stdin.write("\n")
        process.stdin.flush()
        true = set()
        while (line := process.stdout.readline()) != "done\n":
            check(line != "", f"{name}: it ended")
            words = line.split()
            if len(words) == 2 and words[1] in digests:
                check(words[0] == digests[words[1]], f"{name}: altered bytes in {words[1]}")
                true.add(words[1])
            else:
                check("rror" in line, f"{name}: {line}")
        if len(true) < FILES:
            failed.add(name)
        check(len(true) == FILES or name not in harmless, f"{name}: {true}")
        put_back()
    os.close(held)
    check({"rewrite", "one bit", "punch", "shift", "cut"} <= failed, f"what was changed was seen: {failed}")
    process.out, process.err = process.communicate(timeout=180)


@test
def what_was_sealed_is_what_is_mounted():
    """a partition grown after sealing, a tree of another image, a seal of another image, a second seal: refused or EIO"""
    configure("trusted", ECL)
    path = image("sealed_once", SIGN)
    with open(path, "rb") as file:
        good = file.read()
    total, table = struct.unpack_from("<qq", good, 88)
    rows = {}
    for slot in range(total):
        at = table + 585 * slot
        if good[at + 4]:
            rows[good[at + 73:at + 201].rstrip(b"\0").decode()] = (at, *struct.unpack_from("<qq", good, at + 17))
    with open(image("sealed_twice", SIGN), "rb") as file:
        other = file.read()  # the same partition, another salt
    slot, _, size = rows["rootfs"]
    _, tree, tree_bytes = rows["postern.verity"]
    _, seal, seal_bytes = rows["postern.seal"]

    def changed(*patches):
        data = bytearray(good)
        for at, patch in patches:
            data[at:at + len(patch)] = patch
        with open(path, "wb") as file:
            file.write(data)
        return postern("exec", path, "cat", "/marker")
    runs(changed(), "plain as day\n")
    for name, patches in {"grown": [(slot + 25, struct.pack("<q", size + 4096))], "cut": [(slot + 25, struct.pack("<q", size - 4096))],
                          "moved": [(slot + 17, struct.pack("<q", 32768 + 4096))],
                          "another seal": [(seal, other[seal:seal + seal_bytes])],
                          "another seal and tree": [(seal, other[seal:seal + seal_bytes]), (tree, other[tree:tree + tree_bytes])],
                          "another tree": [(tree, other[tree:tree + tree_bytes])],
                          "another tree behind its superblock": [(tree + 4096, other[tree + 4096:tree + tree_bytes])]}.items():
        done = changed(*patches)
        check(done.returncode != 0 and done.out == "", f"{name}: {say(done)}")
        nothing_left()


@test
def openpgp_keys_of_the_site_admit_a_sealed_image():
    """signed by OpenPGP, sealed: admitted by the judge's own user from a read-only keyring; a key that is not listed is not"""
    made = postern("key", "newpair", "-N", "ada", "-E", "ada@example.org", "-C", "", "-P", "", "-b", "2048")
    check(made.returncode == 0, say(made))
    fingerprint = next(line.split()[-1] for line in made.err.splitlines() if "fingerprint" in line)
    path = image("openpgp", ("sign",))
    exported = subprocess.run(["gpg", "--homedir", f"{HOME}/.postern/keys", "--batch", "--export", fingerprint], check=True,
                              capture_output=True, env=ENVIRONMENT, **USER).stdout
    with open("/tmp/ada.gpg", "wb") as file:
        file.write(exported)
    run("gpgconf", "--homedir", f"{HOME}/.postern/keys", "--kill", "all", env=ENVIRONMENT, **USER)
    run(f"{LIBEXEC}/postern-keys", "key", "import", "--global", "/tmp/ada.gpg", env={**ENVIRONMENT, "HOME": "/tmp"})
    rule = ECL[:ECL.index("keysha256")] + f'keyfp = ["{fingerprint}"]\nbinding = "sealed"\n'
    configure("trusted", rule)
    ring = f"{CONFDIR}/keyring"
    run("mount", "--bind", ring, ring)
    run("mount", "-o", "remount,bind,ro", ring)
    listing = sorted(os.listdir(ring))
    try:
        running = Running(path)
        check([target for target, _ in tables()] == ["verity"], f"{tables()}")
        check([name for _, name in W.processes() if name.startswith("gpg")] == [], f"{W.processes()}")
        all_whole(running.go_on())
        configure("trusted", rule.replace(fingerprint, "A" * 40))
        fails(postern("exec", path, "echo", "ran"), "not signed by a required entity")
        configure("trusted", rule)
        fails(postern("exec", image("signed", SIGN), "echo", "ran"), "not signed by a required entity")
    finally:
        run("umount", ring)
    check(sorted(os.listdir(ring)) == listing and "pubring.gpg" in listing, f"{os.listdir(ring)}")
    for directory in (f"{LIBEXEC}/judge.d", "/tmp", "/var/tmp", "/dev/shm"):
        found = [name for name in os.listdir(directory) if os.lstat(f"{directory}/{name}").st_uid == worlds.JUDGE]
        check(found == [], f"the judge left {found} in {directory}")
    for name in ("pubring.gpg", "pubring.table", "gpg.conf"):
        os.remove(f"{ring}/{name}")


@test
def a_changed_signature_or_seal_is_refused():
    """a changed seal, tree superblock or LUKS2 header of an admitted image: refused"""
    configure("trusted", ECL)
    path = image("whole_changed", ENCRYPT, SIGN)
    with open(path, "rb") as file:
        data = file.read()
    places = {"root hash": data.find(b'"rootHash":"') + 20, "superblock": data.find(b"verity\0\0") + 2,
              "descriptor": struct.unpack_from("<q", data, 96)[0] + 80}
    for name, at in places.items():
        with open(path, "wb") as file:
            file.write(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        result = postern("exec", *PEM, path, "echo", "ran")
        check(result.returncode == 255 and result.out == "" and "FATAL" in result.err, f"{name}: {say(result)}")


@test
def killed_at_any_instant_nothing_is_left():
    """SIGKILL by the user of all that it may kill, at two dozen random instants: no loop, mapping, mount, process"""
    configure("trusted", ECL)
    path = image("whole", ENCRYPT, SIGN)
    begun = time.monotonic()
    runs(postern("exec", *PEM, path, "cat", "/marker"), "plain as day\n")
    whole_start = time.monotonic() - begun
    chance = random.Random(1)
    reached = 0
    for _ in range(24):
        process = popen("exec", *PEM, path, "sleep", "1000", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.2, 1.1) * whole_start)
        reached += bool(W.loops())

        def kill_all():
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
        W.as_user(kill_all)
        process.wait(timeout=180)
        W.as_user(kill_all)  # a payload that was born meanwhile
        nothing_left()
    check(reached > 0, "some rounds got as far as a device")
    print(f"# {reached} of 24 rounds had a device; a whole start takes {whole_start:.2f} s here")


def together(count, *arguments):
    """Starts of one image, all begun before one is up."""
    return [running.wait() for running in [Running(*arguments, wait=False) for _ in range(count)]]


def mappings():
    """The names of all mappings, which may hold a colon themselves."""
    return sorted(run("dmsetup", "info", "-c", "--noheadings", "-o", "name").stdout.replace("No devices found\n", "").split())


def settled(loops, *targets):
    """Waits until there are so many loop devices, and mappings with these targets: one for each that uses one."""
    tap.wait_until(lambda: (len(W.loops()), [target for target, _ in tables()]) == (loops, sorted(targets)),
                   lambda: f"loops {W.loops()}, mappings {mappings()}, not {loops} and {targets}")


@test
def ranks_share_one_verity_mapping():
    """sealed: simultaneous first starts share one loop device and one mapping, which the first does not take with it"""
    configure("any")
    path = image("sealed", ("seal",))
    for _ in range(3):
        running = together(4, path)
        settled(1, "verity")
        check([name.count("-") for name in mappings()] == [1], f"the one that was named stays: {mappings()}")
        first = running.pop(0)
        first.process.kill()
        first.process.communicate()
        running.append(Running(path))
        settled(1, "verity")
        for one in running:
            all_whole(one.go_on())
        nothing_left()


@test
def ranks_share_one_crypt_mapping_of_one_caller_and_key():
    """encrypted: one mapping for all starts of one caller, another for another caller, also over dm-verity"""
    configure("any")
    path = image("encrypted", ENCRYPT)
    running = together(4, *PEM, path)
    settled(1, "crypt")
    other = {"user": worlds.T2, "group": worlds.T2, "extra_groups": []}
    os.chmod(f"{HOME}/key.pem", 0o644)
    try:
        running += [Running(*PEM, path, **other) for _ in range(2)]
    finally:
        os.chmod(f"{HOME}/key.pem", 0o600)
    settled(2, "crypt", "crypt")
    for one in running:
        all_whole(one.go_on())
    nothing_left()
    path = image("sealed_encrypted", ENCRYPT, ("seal",))
    running = together(4, *PEM, path)
    settled(1, "crypt", "verity")
    for one in running:
        all_whole(one.go_on())


def table(name):
    return run("dmsetup", "table", "--showkeys", name).stdout.split()


@test
def a_mapping_with_the_name_but_another_table_is_not_used():
    """a mapping of the shared name with another key, root, offset, length, target, mode, without a table, suspended: not used"""
    configure("any")

    def impostors(path, *options):
        """Each table that differs in one thing from the one that a start makes, in place of it."""
        running = Running(*options, path)
        name = mappings()[0]
        words = table(name)
        target = words[2]
        run("dmsetup", "rename", name, "aside")
        secret = 4 if target == "crypt" else 11
        another = words[:secret] + [words[secret][:-1] + ("0" if words[secret][-1] != "0" else "1")] + words[secret + 1:]
        longer = words[:1] + [str(int(words[1]) - 8)] + words[2:]
        linear = ["0", words[1], "linear", "7:0", "0"]
        moved = words[:5] + [str(int(words[5]) + 8)] + words[6:] if target == "crypt" else words[:-1] + ["-"]
        two = [["0", "8", "linear", "7:0", "0"], ["8", str(int(words[1]) - 8), "linear", "7:0", "8"]]
        for what, lines, extra in (("another secret", [another], ["-r"]), ("another length", [longer], ["-r"]),
                                   ("another target", [linear], ["-r"]), ("other parameters", [moved], ["-r"]),
                                   ("two targets", two, ["-r"]), ("nothing", None, ["--notable"])) + (
                                       (("writable", [words], []),) if target == "crypt" else ()):
            text = None if lines is None else "".join(" ".join(line) + "\n" for line in lines)
            run("dmsetup", "create", name, *extra, *(["--noudevsync"]), **({} if text is None else {"input": text}))
            try:
                second = Running(*options, path)
                others = [mapping for mapping in mappings() if mapping not in (name, "aside")]
                check(len(others) == 1 and others[0].startswith(f"{name}-"), f"{what}: {mappings()}")
                all_whole(second.go_on())
            finally:
                tap.wait_until(lambda: len(mappings()) <= 2, lambda: f"{what}: {mappings()}")
                run("dmsetup", "remove", name)
        run("dmsetup", "rename", "aside", name)
        run("dmsetup", "suspend", "--nolockfs", name)
        second = Running(*options, path, wait=False)
        tap.wait_until(lambda: len(mappings()) >= 2, lambda: f"a suspended one is waited for: {mappings()}")
        run("dmsetup", "resume", name)
        all_whole(second.wait().go_on())
        # And as it was it is used.
        again = Running(*options, path)
        tap.wait_until(lambda: len(mappings()) == 1, lambda: f"the same is not used: {mappings()}")
        for one in (again, running):
            all_whole(one.go_on())
        nothing_left()
    impostors(image("sealed", ("seal",)))
    impostors(image("encrypted", ENCRYPT), *PEM)


@test
def two_users_and_several_starts():
    """several starts of one encrypted image at once: each runs, and nothing is left"""
    configure("any")
    path = image("encrypted", ENCRYPT)
    starts = [popen("exec", *PEM, path, "cat", "/marker") for _ in range(6)]
    for process in starts:
        process.out, process.err = process.communicate(timeout=180)
        runs(process, "plain as day\n")


MOUNTS.extend(W.mounts().splitlines())
if __name__ == "__main__":
    sys.exit(tap.run(TESTS, sys.argv[10:], after=nothing_left, on_failure=W.end_processes, timed=True))
