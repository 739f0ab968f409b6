#!/usr/bin/env python3
"""Reading an image: postern-squashfs against the kernel's squashfs and squashfuse_ll.

    reading.py --server POSTERN_SQUASHFS --work DIRECTORY [--rootfs DIRECTORY] [--runs N]
               [--only CASE,…] [--json FILE]

Needs root, for the kernel's mount and for dropping caches. Every run of a case mounts anew, so that
"cold" is cold for a server's own cache too; the programs take turns, and what counts is the ratio of
their medians. The cases named "-started" read through the overlay that every start lays over its
image; the others read the server's mount itself. It matters to whoever opens many files and asks
whether they are terminals, as Python does: FUSE passes each such ioctl(2) on to the server and
waits, overlayfs answers by itself. Files:
  rootfs    about 12,000 entries (taken from --rootfs, or from this host's /usr)
  tree      51,000 entries, for the walk
  big       eight files of 25 MB, for sequential reading
The work directory keeps them; it needs about 1 GB.
"""
import argparse
import ctypes
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time

# What the cases must reach, as a ratio to the kernel's time; None: shown only.
TARGETS = {
    ("walk", "cold"): 1.0, ("walk", "warm"): 1.6,
    ("tar", "cold"): 1.1, ("tar", "warm"): 1.1,
    ("import", "cold"): 1.0, ("import", "warm"): 1.2,
    ("import-started", "cold"): 1.0, ("import-started", "warm"): 1.2,
    ("random-1", "cold"): 1.0, ("random-2", "cold"): 1.0, ("random-8", "cold"): 1.0,
    ("sequential-1", "cold"): None, ("sequential-2", "cold"): 0.5, ("sequential-8", "cold"): 0.5,
}
# Against the same server without the layer.
LAYER_TARGETS = {"sealed": 1 / 0.7, "encrypted-512": 1 / 0.8, "encrypted-4096": 1 / 0.8}
PROGRAMS = ["kernel", "squashfuse_ll", "postern"]
MODULES = ("json asyncio email http.client xml.dom.minidom unittest sqlite3 ctypes multiprocessing "
           "logging.config decimal concurrent.futures difflib optparse argparse pydoc tarfile zipfile "
           "csv html.parser urllib.request ssl xmlrpc.client pickle sched shelve statistics typing "
           "wsgiref.simple_server curses ensurepip venv").split()
libc = ctypes.CDLL(None, use_errno=True)


# --- what is read: run in a process of its own, `reading.py --do CASE MOUNT` ----------------------

def do_random(mount, readers):
    """1,600 reads of 4 KiB, each in a file and at a place of its own, by `readers` processes."""
    files = []
    for folder, names, found in os.walk(mount):
        names.sort()
        files += [os.path.join(folder, name) for name in sorted(found)]
    files = [f for f in files if not os.path.islink(f) and os.path.getsize(f) > 65536]

    def read(seed):
        rng = random.Random(seed)
        for _ in range(1600 // readers):
            path = rng.choice(files)
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            os.pread(fd, 4096, rng.randrange(os.path.getsize(path) // 4096) * 4096)
            os.close(fd)
    return in_processes(readers, read)


def do_sequential(mount, readers):
    def read(number):
        buffer = bytearray(1 << 17)
        for i in range(number, 8, readers):
            with open(f"{mount}/file-{i}", "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    return in_processes(readers, read)


def in_processes(count, function):
    """Time from the start of the first to the end of the last, in ms."""
    begin = time.perf_counter()
    children = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                function(number)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in children):
        sys.exit("a reader failed")
    return (time.perf_counter() - begin) * 1000


def do_import(mount):
    library = sorted(p for p in os.listdir(f"{mount}/usr/lib") if re.fullmatch(r"python3\.\d+", p))[-1]
    where = f"{mount}/usr/lib/{library}"
    script = f"""
import sys
sys.path[:] = [{where!r}, {where + '/lib-dynload'!r}]
for name in {MODULES!r}:
    try:
        __import__(name)
    except ImportError:
        pass
"""
    return timed([f"/usr/bin/{library}", "-S", "-E", "-W", "ignore", "-c", script])


def timed(command):
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1000


def do(case, mount):
    kind, _, readers = case.partition("-")
    if kind == "walk":
        return timed(["find", mount, "-printf", "%s %m\n"])
    if kind == "tar":  # through a pipe: tar does not read what it writes to /dev/null
        return timed(["sh", "-c", 'tar cf - -C "$0" . 2>/dev/null | cat', mount])
    if kind == "import":  # "import-started" differs in the mount
        return do_import(mount)
    return {"random": do_random, "sequential": do_sequential}[kind](mount, int(readers))


# --- mounts --------------------------------------------------------------------------------------

class Mount:
    def __init__(self, program, image, where, server, options=(), key=None):
        self.where, self.process, self.below = where, None, None
        size = image["size"]
        if program == "kernel":
            subprocess.run(["mount", "-o", "loop,ro", image["path"], where], check=True)
            return
        if program == "squashfuse_ll":
            self.process = subprocess.Popen(["squashfuse_ll", "-f", image["path"], where])
            while not os.path.ismount(where):
                time.sleep(0.002)
            return
        fuse = os.open("/dev/fuse", os.O_RDWR)
        file = os.open(image["path"], os.O_RDONLY)
        descriptors = [fuse, file]
        options = list(options)
        if key:
            descriptors.append(os.open(key, os.O_RDONLY))
            options += ["--key-fd", str(descriptors[-1])]
        self.process = subprocess.Popen(
            [server, "--fuse-fd", str(fuse), "--image-fd", str(file), "--offset", "0", "--size",
             str(size), *options], pass_fds=descriptors)
        data = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,default_permissions"
        if libc.mount(b"postern", where.encode(), b"fuse.postern", 7, data.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        for descriptor in descriptors:
            os.close(descriptor)

    def overlay(self, work):
        """Lays over the mount what every start does (helper/mounts.cc); read from here on."""
        self.below, self.scratch, self.where = self.where, f"{work}/scratch", f"{work}/started"
        for folder in (self.scratch, self.where):
            os.makedirs(folder, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", self.scratch], check=True)
        for folder in ("upper", "work"):
            os.mkdir(f"{self.scratch}/{folder}")
        subprocess.run(["mount", "-t", "overlay", "none", "-o",
                        f"ro,lowerdir={self.below},upperdir={self.scratch}/upper,workdir={self.scratch}/work,"
                        "redirect_dir=nofollow,metacopy=off", self.where], check=True)

    def usage(self):
        """Peak memory in MiB and CPU time in ms of the server."""
        if not self.process:
            return None
        with open(f"/proc/{self.process.pid}/status") as file:
            memory = int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]) / 1024
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return {"memory_mib": round(memory, 1), "cpu_ms": ticks * 1000 // os.sysconf("SC_CLK_TCK")}

    def close(self):
        for where in [self.where] + ([self.scratch, self.below] if self.below else []):
            for _ in range(200):
                if subprocess.run(["umount", where], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.02)
        if self.process:
            self.process.wait(timeout=20)


def leave_host_mounts():
    """A mount namespace of our own: another process that copied the host's would keep our mounts."""
    if libc.unshare(0x20000) != 0 or libc.mount(b"none", b"/", None, 0x44000, None) != 0:  # private
        raise OSError(ctypes.get_errno(), "unshare")


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


# --- images --------------------------------------------------------------------------------------

def pack(source, image):
    if not os.path.exists(image):
        subprocess.run(["mksquashfs", source, image, "-noappend", "-quiet", "-no-progress", "-comp",
                        "gzip", "-b", "128K"], check=True)
    return {"path": image, "size": os.path.getsize(image)}


def make_rootfs(work, source):
    target = f"{work}/rootfs"
    if not os.path.exists(target):
        if source:
            os.symlink(os.path.abspath(source), target)
        else:
            version = f"python3.{sys.version_info[1]}"
            found = subprocess.run(
                ["sh", "-c", f"cd / && find usr/lib/{version} usr/lib/python3* usr/lib/x86_64-linux-gnu "
                 "usr/bin usr/share/perl usr/include -xdev \\( -type f -o -type l \\) ! -name '*.a' "
                 "-size -30000k 2>/dev/null | awk '!seen[$0]++' | head -11000"],
                check=True, capture_output=True).stdout
            os.mkdir(target)
            archive = subprocess.Popen(["tar", "-C", "/", "-cf", "-", "-T", "-"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            unpack = subprocess.Popen(["tar", "-C", target, "-xf", "-"], stdin=archive.stdout)
            archive.stdin.write(found)
            archive.stdin.close()
            unpack.wait()
    return pack(os.path.realpath(target), f"{work}/rootfs.sqfs")


def make_tree(work):
    top = f"{work}/tree"
    if not os.path.exists(f"{work}/tree.sqfs"):
        for folder in range(1000):
            path = f"{top}/{folder // 50:02}/{folder % 50:02}"
            os.makedirs(path, exist_ok=True)
            for file in range(50):
                with open(f"{path}/file-{file:03}", "w") as out:
                    out.write(f"{folder} {file}\n" * (file % 7 + 1))
    return pack(top, f"{work}/tree.sqfs")


def make_big(work):
    """Eight files of 25 MB of the rootfs' contents, so that they compress as files do."""
    top = f"{work}/big"
    if not os.path.exists(f"{work}/big.sqfs"):
        os.makedirs(top, exist_ok=True)
        sources = []
        for folder, names, files in os.walk(os.path.realpath(f"{work}/rootfs")):
            names.sort()
            sources += [f"{folder}/{name}" for name in sorted(files)]
        sources = [s for s in sources if not os.path.islink(s) and os.path.getsize(s) > 100_000]
        for i in range(8):
            with open(f"{top}/file-{i}", "wb") as out:
                for source in sources[i::8]:
                    with open(source, "rb") as file:
                        shutil.copyfileobj(file, out)
                    if out.tell() > 25_000_000:
                        break
                out.truncate(min(out.tell(), 25_000_000))
    return pack(top, f"{work}/big.sqfs")


def encrypt(plain, path, key, sector):
    crypto = ctypes.CDLL("libcrypto.so.3")
    for name in ("EVP_CIPHER_CTX_new", "EVP_aes_256_xts"):
        getattr(crypto, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(crypto.EVP_CIPHER_CTX_new())
    crypto.EVP_EncryptInit_ex(context, ctypes.c_void_p(crypto.EVP_aes_256_xts()), None, key, None)
    out, length = ctypes.create_string_buffer(sector), ctypes.c_int()
    with open(plain, "rb") as source, open(path, "wb") as target:
        at = 0
        while piece := source.read(sector):
            crypto.EVP_EncryptInit_ex(context, None, None, None, (at // 512).to_bytes(16, "little"))
            crypto.EVP_EncryptUpdate(context, out, ctypes.byref(length), piece.ljust(sector, b"\0"), sector)
            target.write(out.raw)
            at += sector
    return at


def make_layers(work, big):
    """Name -> (image, options, key file) of `big` sealed and encrypted."""
    key = f"{work}/key"
    with open(key, "wb") as file:
        file.write(bytes(range(64)))
    layers = {}
    tree = f"{work}/big.tree"
    if os.path.exists(tree):
        os.unlink(tree)
    said = subprocess.run(["veritysetup", "format", big["path"], tree], check=True, capture_output=True,
                          text=True).stdout
    root, salt, blocks = (re.search(name + r":\s+(\S+)", said)[1]
                          for name in ("Root hash", "Salt", "Data blocks"))
    sealed = f"{work}/big.sealed"
    with open(sealed, "wb") as out:
        for part in (big["path"], tree):
            with open(part, "rb") as file:
                shutil.copyfileobj(file, out)
    seal = f"{root}:{salt}:{blocks}:{big['size'] + 4096}:{os.path.getsize(tree) - 4096}"
    layers["sealed"] = ({"path": sealed, "size": big["size"]}, ["--verity", seal], None)
    for sector in (512, 4096):
        path = f"{work}/big.encrypted-{sector}"
        size = encrypt(big["path"], path, bytes(range(64)), sector)
        layers[f"encrypted-{sector}"] = ({"path": path, "size": size},
                                         ["--crypt", f"{sector}:0:{size}:0"], key)
    return layers


# --- runs ----------------------------------------------------------------------------------------

def run(case, where):
    done = subprocess.run([sys.executable, os.path.abspath(__file__), "--do", case, where], check=True,
                          capture_output=True, text=True)
    return float(done.stdout)


def measure(case, image, where, server, runs):
    """Program -> mode -> median ms; and what the servers used."""
    programs = [p for p in PROGRAMS if p != "squashfuse_ll" or shutil.which("squashfuse_ll")]
    modes = [mode for name, mode in TARGETS if name == case]
    times = {p: {m: [] for m in modes} for p in programs}
    usage = {}
    for _ in range(runs):
        for program in programs:
            mount = Mount(program, image, where, server)
            try:
                if case.endswith("-started") and program == "postern":
                    mount.overlay(os.path.dirname(where))
                drop_caches()
                for mode in modes:
                    times[program][mode].append(run(case, mount.where))
                usage[program] = mount.usage()
            finally:
                mount.close()
    return {p: {m: statistics.median(t) for m, t in modes.items()} for p, modes in times.items()}, usage


def measure_layers(layers, big, where, server, runs):
    times = {name: [] for name in ["plain", *layers]}
    for _ in range(runs):
        for name, values in times.items():
            image, options, key = layers.get(name, (big, (), None))
            mount = Mount("postern", image, where, server, options, key)
            try:
                drop_caches()
                values.append(run("sequential-2", where))
            finally:
                mount.close()
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--rootfs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--json")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("reading.py needs root: it mounts with the kernel and drops caches")
        return 77
    leave_host_mounts()
    server = os.path.abspath(options.server)
    work = os.path.abspath(options.work)
    where = f"{work}/mount"
    os.makedirs(where, exist_ok=True)
    rootfs = make_rootfs(work, options.rootfs)
    images = {"walk": make_tree(work), "tar": rootfs, "import": rootfs, "random": rootfs}
    images["sequential"] = big = make_big(work)
    cases = list(dict.fromkeys(name for name, _ in TARGETS)) + ["layers"]
    if options.only:
        cases = [c for c in cases if c in options.only.split(",")]
    rows = []

    def show(case, mode, medians, base, target, **more):
        ratio = medians["postern"] / medians[base]
        row = {"case": case, "mode": mode, "ms": {p: round(t, 1) for p, t in medians.items()},
               "ratio": round(ratio, 2), "base": base, "target": target and round(target, 2),
               "met": target is None or ratio <= target, **more}
        rows.append(row)
        verdict = "" if target is None else f"  target {target:.2f}  {'met' if row['met'] else 'MISSED'}"
        print(f"{case:15} {mode:5} " + "  ".join(f"{p} {t:7.0f} ms" for p, t in medians.items()) +
              f"  ratio to {base} {ratio:.2f}{verdict}", flush=True)

    for case in cases:
        if case == "layers":
            medians = measure_layers(make_layers(work, big), big, where, server, options.runs)
            for name, target in LAYER_TARGETS.items():
                show(name, "cold", {"plain": medians["plain"], "postern": medians[name]}, "plain", target)
            continue
        medians, usage = measure(case, images[case.partition("-")[0]], where, server, options.runs)
        for name, mode in TARGETS:
            if name == case:
                show(case, mode, {p: t[mode] for p, t in medians.items()}, "kernel",
                     TARGETS[case, mode], server=usage.get("postern"))
    memory = max((r["server"]["memory_mib"] for r in rows if r.get("server")), default=0)
    print(f"server memory, peak of all cases: {memory} MiB (limit 32)")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"reading": rows, "server_memory_mib": memory}, file, indent=1)
    return 0 if all(r["met"] for r in rows) and memory <= 32 else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--do"]:
        print(do(sys.argv[2], sys.argv[3]))
        sys.exit(0)
    sys.exit(main())
