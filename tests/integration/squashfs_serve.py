#!/usr/bin/env python3
"""postern-squashfs serves exactly what mksquashfs packed.

    squashfs_serve.py SERVER STARTER

Builds trees with everything a file system can hold, packs them with every compression, mounts them
as an ordinary user in a user namespace, and compares every attribute and every byte. Then
signals, damaged images, and that nothing is left behind. Exit 77: this host cannot run it.
"""
import ctypes
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

MANIFEST = sys.argv[1:] == ["--manifest"]  # in the container: prints what is there
if not MANIFEST:
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
    import images
    import tap
    import users

PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
USER = None if MANIFEST else users.reserve(1)[0]  # no account: nothing here asks for a name
AS_ROOT = os.geteuid() == 0
COMPRESSIONS = ["gzip", "zstd", "lz4", "xz", "lzo", "none"]


def as_user(command):
    if not AS_ROOT:
        return command
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] + command


def manifest(top, contents=True):
    """Everything stat(2), readlink(2), listxattr(2) and read(2) say about the tree, by path."""
    found = {}
    for folder, names, files in os.walk(top, followlinks=False):
        for name in [""] + names + files if folder == top else names + files:
            path = os.path.join(folder, name) if name else folder
            st = os.lstat(path)
            item = {"mode": st.st_mode, "mtime": int(st.st_mtime)}
            if not stat.S_ISDIR(st.st_mode):
                item["links"] = st.st_nlink
                item["size"] = st.st_size
            if stat.S_ISLNK(st.st_mode):
                item["to"] = os.readlink(path)
            if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
                item["device"] = st.st_rdev
            if not stat.S_ISLNK(st.st_mode):
                item["xattrs"] = xattrs(path)
            if contents and stat.S_ISREG(st.st_mode):
                try:
                    item["sha256"] = digest(path)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    item["error"] = "EIO"
            found[os.path.relpath(path, top)] = item
    return found


def xattrs(path):
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # an image without any, as with the kernel's squashfs
            return {}
        raise
    return {name: os.getxattr(path, name).hex() for name in names if name.startswith("user.")}


def digest(path):
    """Of the data; holes are skipped by their zeros being cheap to hash in large pieces."""
    hasher = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > 1 << 32:  # a sparse giant: its ends and its middle
            for at in (0, (1 << 32) - 4096, os.fstat(file.fileno()).st_size - 8192):
                hasher.update(os.pread(file.fileno(), 8192, at))
            return hasher.hexdigest()
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def write(path, data, mode=0o644):
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def make_tree(top):
    rng = random.Random(1)
    os.makedirs(top)
    for size in (0, 1, 4095, 4096, 4097, 131071, 131072, 131073, 300000, 1 << 20, 5_000_001):
        write(f"{top}/random-{size}", rng.randbytes(size))
        write(f"{top}/text-{size}", (b"all work and no play " * (size // 21 + 1))[:size])
    for i in range(300):  # ends that share fragments
        write(f"{top}/small-{i}", rng.randbytes(rng.randrange(2000)), 0o600 + i % 64)
    deep = top
    for i in range(60):
        deep += f"/level-{i:03}"
    os.makedirs(deep)
    write(f"{deep}/bottom", b"here")
    os.symlink("../" * 60 + "random-4096", f"{deep}/up")
    write(f"{top}/{'n' * 255}", b"long name")
    write(f"{top}/new\nline \x7f ümläut", b"odd name")
    os.symlink("random-1", f"{top}/link")
    os.symlink("x" * 4000, f"{top}/long-link")
    os.link(f"{top}/random-4097", f"{top}/hard-1")
    os.link(f"{top}/random-4097", f"{top}/hard-2")
    os.mkfifo(f"{top}/fifo")
    os.mkdir(f"{top}/empty")
    os.mkdir(f"{top}/sticky")
    os.chmod(f"{top}/sticky", 0o1777)
    write(f"{top}/setuid", b"#!/bin/sh\n", 0o4755)
    write(f"{top}/secret", b"by mode", 0o400)
    with open(f"{top}/sparse", "wb") as file:
        file.write(b"head")
        file.seek(3_000_000)
        file.write(b"tail")
    write(f"{top}/attributes", b"")
    try:
        os.setxattr(f"{top}/attributes", "user.one", b"1")
        os.setxattr(f"{top}/attributes", "user.big", bytes(range(256)) * 8)
        os.setxattr(f"{top}/empty", "user.dir", b"on a directory")
    except OSError:
        pass  # this file system has none; the comparison is of what is there
    if AS_ROOT:
        os.mknod(f"{top}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(f"{top}/disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    for folder, names, files in os.walk(top, topdown=False):
        for name in names + files:
            os.utime(f"{folder}/{name}", (1_600_000_000, 1_600_000_000 + len(name)),
                     follow_symlinks=False)


def pack(source, image, *options):
    images.squashfs(source, image, *options)
    os.chmod(image, 0o644)
    return image


class Work:
    def __init__(self):
        global SERVER, STARTER, SELF
        self.top = tempfile.mkdtemp(prefix="postern-squashfs-")
        os.chmod(self.top, 0o755)
        self.mount = f"{self.top}/mount"
        os.mkdir(self.mount)
        self.report = tap.Report()
        # The test's user may not be able to reach the build tree.
        SERVER, STARTER, SELF = (shutil.copy(path, self.top) for path in (*sys.argv[1:3], __file__))

    def serve(self, image, command, *options, starter=(), size=None, offset=0):
        size = size or os.path.getsize(image) - offset
        return subprocess.run(
            as_user([STARTER, *starter, SERVER, image, str(offset), str(size), self.mount,
                     "--owner", f"{USER}:{USER}", *options, "--", *command]),
            capture_output=True, text=True, timeout=120)

    def check(self, what, good, detail=""):
        self.report.point(good, what, detail)


def difference(want, got):
    for path in sorted(want.keys() | got.keys()):
        if want.get(path) != got.get(path):
            return f"{path!r}: packed {want.get(path)}, served {got.get(path)}"
    return ""


def served_manifest(work, image, *options, **more):
    run = work.serve(image, [PYTHON, SELF, "--manifest"], *options, **more)
    if run.returncode != 0:
        return None, run.stderr.strip()
    return json.loads(run.stdout), ""


def compare(work, what, source_manifest, image, *options, **more):
    got, problem = served_manifest(work, image, *options, **more)
    work.check(what, got == source_manifest, problem or difference(source_manifest, got or {}))


def test_contents(work):
    source = f"{work.top}/source"
    make_tree(source)
    want = manifest(source)
    for compression in COMPRESSIONS:
        options = ["-noI", "-noD", "-noF", "-noX"] if compression == "none" else ["-comp", compression]
        image = pack(source, f"{work.top}/{compression}.sqfs", *options)
        compare(work, f"a tree packed with {compression} is served as it was", want, image)
    gzip = f"{work.top}/gzip.sqfs"
    for block in ("4K", "1M"):
        image = pack(source, f"{work.top}/block-{block}.sqfs", "-b", block)
        compare(work, f"blocks of {block}", want, image)
    compare(work, "no fragments", want, pack(source, f"{work.top}/nofrag.sqfs", "-no-fragments"))
    compare(work, "fragments always", want, pack(source, f"{work.top}/frag.sqfs", "-always-use-fragments"))
    compare(work, "one thread, the smallest cache", want, gzip, "--threads", "1", "--cache-mib", "1")
    shifted = f"{work.top}/shifted.sif"
    with open(shifted, "wb") as out, open(gzip, "rb") as image:
        out.write(b"\xee" * 36864)
        shutil.copyfileobj(image, out)
        out.write(b"\xee" * 5000)
    compare(work, "a partition inside a file", want, shifted, offset=36864,
            size=os.path.getsize(gzip))
    return gzip, want


def test_giant(work):
    source = f"{work.top}/giant"
    os.mkdir(source)
    with open(f"{source}/sparse", "wb") as file:
        file.write(b"begin")
        file.seek((1 << 32) - 2)
        file.write(b"across 4 GiB")
        file.seek((5 << 30) + 12345)
        file.write(b"end")
    os.utime(f"{source}/sparse", (1, 1))
    want = manifest(source)
    image = pack(source, f"{work.top}/giant.sqfs")
    compare(work, "a sparse file of 5 GiB", want, image)
    os.unlink(f"{source}/sparse")


def test_large_directory(work):
    source = f"{work.top}/large"
    os.mkdir(source)
    names = [f"entry-{i:05}-{'x' * (i % 40)}" for i in range(50_000)]
    for name in names:
        os.symlink("t", f"{source}/{name}")
    image = pack(source, f"{work.top}/large.sqfs")
    run = work.serve(image, [PYTHON, "-c", """
import os, sys
names = sorted(os.listdir('.'))
for name in names[::997] + names[-1:]:
    assert os.readlink(name) == 't', name
assert not os.path.lexists('entry-99999') and not os.path.lexists('a') and not os.path.lexists('zz')
print(len(names), hash(tuple(names)) != 0, names[0], names[-1])
"""])
    expect = f"{len(names)} True {min(names)} {max(names)}"
    work.check("a directory of 50,000 entries", run.stdout.strip() == expect, run.stdout + run.stderr)
    shutil.rmtree(source)


def test_owner(work, gzip):
    run = work.serve(gzip, ["sh", "-c", "find . ! -uid %d -o ! -gid %d" % (USER, USER)])
    work.check("every file belongs to --owner", run.returncode == 0 and run.stdout == "", run.stdout[:200])


def xts(key, data, sector, iv_offset):
    """AES-256-XTS with plain64 tweaks in 512-byte units, by the OpenSSL of the system."""
    crypto = ctypes.CDLL("libcrypto.so.3")
    for name in ("EVP_CIPHER_CTX_new", "EVP_aes_256_xts"):
        getattr(crypto, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(crypto.EVP_CIPHER_CTX_new())
    cipher = ctypes.c_void_p(crypto.EVP_aes_256_xts())
    assert crypto.EVP_EncryptInit_ex(context, cipher, None, key, None) == 1
    out = ctypes.create_string_buffer(sector)
    length = ctypes.c_int()
    result = bytearray()
    for at in range(0, len(data), sector):
        tweak = (iv_offset + at // 512).to_bytes(16, "little")
        assert crypto.EVP_EncryptInit_ex(context, None, None, None, tweak) == 1
        assert crypto.EVP_EncryptUpdate(context, out, ctypes.byref(length), data[at:at + sector], sector) == 1
        result += out.raw
    crypto.EVP_CIPHER_CTX_free(context)
    return bytes(result)


def seal(partition, tree):
    """Makes the hash tree with veritysetup; the --verity option for a tree appended at `offset`."""
    if os.path.exists(tree):
        os.unlink(tree)  # veritysetup would leave the rest of a longer one
    run = subprocess.run(["veritysetup", "format", partition, tree], check=True, capture_output=True, text=True)
    said = dict(line.split(":", 1) for line in run.stdout.splitlines() if ":" in line)
    root, salt, blocks = (said[k].strip() for k in ("Root hash", "Salt", "Data blocks"))
    return lambda offset: f"{root}:{salt}:{blocks}:{offset + 4096}:{os.path.getsize(tree) - 4096}"


def test_layers(work, gzip, want):
    plain = open(gzip, "rb").read()
    key = bytes(range(64))
    keys = f"{work.top}/key"
    write(keys, key)
    image = f"{work.top}/layers.img"

    def serve(partition, options, what, tree=None, change=None):
        """`change(bytes, where the tree is)` spoils the file after it was sealed."""
        content = bytearray(b"\x11" * 8192 + partition)
        options = list(options)
        if tree:
            options += ["--verity", tree(len(content))]
            content += open(f"{work.top}/tree", "rb").read()
        if change:
            change(content)
        write(image, bytes(content))
        more = dict(size=len(partition), offset=8192,
                    starter=("-k", keys) if "--crypt" in options else ())
        if what:
            compare(work, what, want, image, *options, **more)
        return options, more

    def sealed(partition):
        write(f"{work.top}/part", partition)
        return seal(f"{work.top}/part", f"{work.top}/tree")

    tree = sealed(plain)
    serve(plain, [], "sealed", tree)
    for sector in (512, 4096):
        padded = plain + bytes(-len(plain) % sector)
        for header, iv in ((0, 0), (1 << 20, 7)):
            cipher = b"\xaa" * header + xts(key, padded, sector, iv)
            crypt = ["--crypt", f"{sector}:{header}:{len(padded)}:{iv}"]
            serve(cipher, crypt, f"encrypted, sectors of {sector}, data at {header}")
        tree = sealed(cipher)
        serve(cipher, crypt, f"encrypted with sectors of {sector}, then sealed", tree)
    options, more = serve(cipher, crypt, None)
    write(keys, key[::-1])
    run = work.serve(image, ["true"], *options, **more)
    work.check("the wrong key: a clear error", "FATAL:" in run.stderr, run.stderr)

    tree = sealed(plain)
    walk = ["sh", "-c", "tar cf - . 2>/dev/null | wc -c"]
    start = 8192

    def spoil(at):
        def change(content):
            content[at] ^= 1
        return change

    # The middle of the data, the last leaf of the tree, and its root block.
    for what, at in (("a block of data", start + len(plain) // 3), ("a leaf of the tree", -40),
                     ("the tree's top", start + len(plain) + 4096 + 5)):
        options, more = serve(plain, [], None, tree, spoil(at))
        run = work.serve(image, walk, *options, **more)
        work.check(f"{what} changed: an I/O error and a message", "does not match its seal" in run.stderr, run.stderr)
    # A flipped bit in the middle of a file that is read: EIO, never other bytes.
    options, more = serve(plain, [], None, tree, spoil(start + len(plain) // 3))
    got, problem = served_manifest(work, image, *options, **more)
    different = [p for p in got or {} if got[p] != want.get(p) and "error" not in got[p]]
    errors = [p for p in got or {} if "error" in got[p]]
    work.check("what can be read is true, the rest gives EIO", got and not different and errors,
               f"{problem} {different[:3]} {len(errors)}")
    options, more = serve(plain, [], None, lambda offset: tree(offset).replace(":", "0:", 1))
    run = work.serve(image, ["true"], *options, **more)
    work.check("a root hash that is none is refused", "bad value" in run.stderr, run.stderr)


def servers(image):
    """Processes of SERVER that hold `image` open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/exe") != SERVER:
                continue
            links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if image in links:
            found.append(int(pid))
    return found


def gone(image):
    try:
        tap.wait_until(lambda: not servers(image), "")
    except AssertionError:
        return False
    return True


def test_life(work, gzip):
    size = str(os.path.getsize(gzip))
    command = as_user([STARTER, "-n", SERVER, gzip, "0", size, work.mount, "--", "sh", "-c",
                       "cat setuid >/dev/null && echo up && exec sleep 60"])
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    starter.stdout.readline()
    if AS_ROOT:
        pids = servers(gzip)
        work.check("one server", len(pids) == 1, str(pids))
        for pid in pids:
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP, signal.SIGQUIT):
                os.kill(pid, number)
            time.sleep(0.1)  # for one that would end
            state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
            work.check("the server survives the terminal's signals", state[0] not in "TtZX", str(state[:4]))
            work.check("it has a session of its own", int(state[3]) == pid, str(state[:4]))
            status = open(f"/proc/{pid}/status").read()
            work.check("it is filtered and gets no new privileges",
                       "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status)
            targets = {os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
            work.check("it holds its image and /dev/fuse, and nothing of the caller's but stderr",
                       len(targets - {gzip, "/dev/fuse", "/dev/null"}) <= 1, str(targets))
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    if AS_ROOT:
        work.check("it ends when everybody else was killed", gone(gzip))


def test_killed_server(work, gzip):
    """A payload whose server dies gets an error, at once."""
    if not AS_ROOT:
        return
    size = str(os.path.getsize(gzip))
    starter = subprocess.Popen(
        as_user([STARTER, "-n", SERVER, gzip, "0", size, work.mount, "--", "sh", "-c",
                 "echo up; read line; cat random-4096 2>&1"]),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    starter.stdout.readline()
    for pid in servers(gzip):
        os.kill(pid, signal.SIGKILL)
    gone(gzip)
    try:
        out, _ = starter.communicate("go\n", timeout=60)
    except subprocess.TimeoutExpired:
        starter.kill()
        out = "hangs"
    work.check("a killed server is an error, not a hang", "not connected" in out or "abort" in out, out)


def test_few_descriptors(work, gzip):
    image = f"{work.top}/few.sqfs"
    shutil.copy(gzip, image)
    size = str(os.path.getsize(image))
    run = subprocess.run(
        ["prlimit", "--nofile=64:64"] + as_user([STARTER, SERVER, image, "0", size, work.mount,
                                                 "--threads", "64", "--", "sh", "-c",
                                                 "tar cf - . | wc -c >/dev/null"]),
        capture_output=True, text=True, timeout=120)
    work.check("64 descriptors are enough, for 64 threads too", run.returncode == 0, run.stderr)


def test_damaged(work, gzip):
    data = bytearray(open(gzip, "rb").read())
    image = f"{work.top}/damaged.sqfs"

    def served(change, what):
        broken = bytearray(data)
        change(broken)
        write(image, bytes(broken))
        run = work.serve(image, ["true"])
        message = run.stderr.strip().splitlines()
        work.check(what, run.returncode in (120, 121) and message[0].startswith("FATAL:") or
                   any(line.startswith("FATAL:") for line in message), run.stderr)

    served(lambda b: b.__setitem__(slice(0, 4), b"sqsh"), "no superblock: a clear error")
    served(lambda b: b.__setitem__(slice(20, 22), b"\x02\x00"), "lzma: a clear error")
    served(lambda b: b.__setitem__(slice(12, 16), b"\x00\x00\x00\x80"), "absurd block size: a clear error")
    served(lambda b: b.__delitem__(slice(len(b) // 2, None)), "cut in half: a clear error")
    # Anything else may give EIO, and must neither crash nor hang.
    rng = random.Random(7)
    bad = []
    for i in range(40):
        broken = bytearray(data)
        for _ in range(1 << rng.randrange(8)):
            at = rng.randrange(len(broken)) if i % 2 else len(broken) - 1 - rng.randrange(9000)
            broken[at] = rng.randrange(256)
        write(image, bytes(broken))
        try:
            run = work.serve(image, ["sh", "-c", "tar cf - --warning=none . 2>/dev/null | wc -c >/dev/null"])
        except subprocess.TimeoutExpired:
            bad.append(f"{i}: hangs")
            continue
        if run.returncode not in (0, 120, 121) or "wait status 0x" in run.stderr and "0xff00" not in run.stderr:
            bad.append(f"{i}: {run.returncode} {run.stderr.strip()}")
    work.check("flipped bytes neither crash nor hang it", not bad, "; ".join(bad[:3]))


def main():
    if not shutil.which("mksquashfs") or not shutil.which("veritysetup") or AS_ROOT and not shutil.which("setpriv"):
        tap.skip_all("needs mksquashfs, veritysetup and setpriv")
    probe = subprocess.run(as_user(["sh", "-c", "exec 3<>/dev/fuse && unshare -U true"]), capture_output=True)
    if probe.returncode != 0:
        tap.skip_all("needs /dev/fuse and user namespaces for an ordinary user")
    work = Work()
    try:
        gzip, want = test_contents(work)
        test_owner(work, gzip)
        test_giant(work)
        test_large_directory(work)
        test_layers(work, gzip, want)
        test_life(work, gzip)
        test_killed_server(work, gzip)
        test_few_descriptors(work, gzip)
        test_damaged(work, gzip)
        if AS_ROOT:
            work.check("no server is left", all(gone(f"{work.top}/{name}") for name in os.listdir(work.top)))
    finally:
        shutil.rmtree(work.top, ignore_errors=True)
    return work.report.end()


if __name__ == "__main__":
    if MANIFEST:
        json.dump(manifest("."), sys.stdout)
        sys.exit(0)
    sys.exit(main())
