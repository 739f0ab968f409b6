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
Packed with gzip; the root file system and the tree with zstd and lz4 as well. The work directory keeps
them; it needs about 1.5 GB.
"""
import argparse
import ctypes
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import time

import common

# What the cases must reach, as a ratio to the kernel's time; None: shown only.
TITLES = {"walk": "walk of 51,000 entries", "tar": "tar of the root file system", "import": "Python imports", "random": "1,600 random 4 KiB reads",
          "sequential": "sequential read"}
TARGETS = {
    ("walk", "cold"): 1.0, ("walk", "warm"): 1.6,
    ("tar", "cold"): 1.1, ("tar", "warm"): 1.1,
    ("import", "cold"): 1.0, ("import", "warm"): 1.2,
    ("import-started", "cold"): 1.0, ("import-started", "warm"): 1.2,
    ("random-1", "cold"): 1.0, ("random-2", "cold"): 1.0, ("random-8", "cold"): 1.0,
    ("sequential-1", "cold"): None, ("sequential-2", "cold"): 0.5, ("sequential-8", "cold"): 0.5,
}
# The same files, packed by the other compressors; shown, and held against the kernel where gzip is.
COMPRESSED = {"zstd": ("walk", "tar", "import", "random-2"), "lz4": ("walk", "tar", "import", "random-2")}
# Throughput against the same server without the layer.
LAYERS = {"sealed": 0.7, "encrypted, 512-byte sectors": 0.8, "encrypted, 4096-byte sectors": 0.8}
LAYER_CASES = {"sequential-2": ("big", 200, "MB/s"), "random-2": ("rootfs", 1600, "reads/s")}  # image, work in all, unit
SERVER_MIB = 32
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

def pack(source, image, compression="gzip"):
    if not os.path.exists(image):
        subprocess.run(["mksquashfs", source, image, "-noappend", "-quiet", "-no-progress", "-comp",
                        compression, "-b", "128K"], check=True)
    return {"path": image, "size": os.path.getsize(image)}


def make_rootfs(work, source, compression="gzip"):
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
    return pack(os.path.realpath(target), f"{work}/rootfs.{compression}.sqfs", compression)


def make_tree(work, compression="gzip"):
    top, image = f"{work}/tree", f"{work}/tree.{compression}.sqfs"
    if not os.path.exists(image):
        for folder in range(1000):
            path = f"{top}/{folder // 50:02}/{folder % 50:02}"
            os.makedirs(path, exist_ok=True)
            for file in range(50):
                with open(f"{path}/file-{file:03}", "w") as out:
                    out.write(f"{folder} {file}\n" * (file % 7 + 1))
    return pack(top, image, compression)


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


def make_layers(work, name, plain):
    """Name -> (image, options, key file) of the image `plain`, sealed and encrypted."""
    key = f"{work}/key"
    with open(key, "wb") as file:
        file.write(bytes(range(64)))
    tree, sealed = f"{work}/{name}.tree", f"{work}/{name}.sealed"
    if os.path.exists(tree):
        os.unlink(tree)
    said = subprocess.run(["veritysetup", "format", plain["path"], tree], check=True, capture_output=True,
                          text=True).stdout
    root, salt, blocks = (re.search(name + r":\s+(\S+)", said)[1]
                          for name in ("Root hash", "Salt", "Data blocks"))
    with open(sealed, "wb") as out:
        for part in (plain["path"], tree):
            with open(part, "rb") as file:
                shutil.copyfileobj(file, out)
    seal = f"{root}:{salt}:{blocks}:{plain['size'] + 4096}:{os.path.getsize(tree) - 4096}"
    layers = {"sealed": ({"path": sealed, "size": plain["size"]}, ["--verity", seal], None)}
    for sector in (512, 4096):
        path = f"{work}/{name}.encrypted-{sector}"
        size = encrypt(plain["path"], path, bytes(range(64)), sector)
        layers[f"encrypted, {sector}-byte sectors"] = ({"path": path, "size": size},
                                                       ["--crypt", f"{sector}:0:{size}:0"], key)
    return layers


# --- runs ----------------------------------------------------------------------------------------

def run(case, where):
    done = subprocess.run([sys.executable, os.path.abspath(__file__), "--do", case, where], check=True,
                          capture_output=True, text=True)
    return float(done.stdout)


def measure(case, image, modes, where, server, runs):
    """Program -> mode -> median ms; and what the servers used, at the end of the last run."""
    programs = [p for p in PROGRAMS if p != "squashfuse_ll" or shutil.which("squashfuse_ll")]
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


def measure_layers(case, layers, plain, where, server, runs):
    """Name -> median ms, and the greatest memory of the servers."""
    times, memory = {name: [] for name in ["plain", *layers]}, 0
    for _ in range(runs):
        for name, values in times.items():
            image, options, key = layers.get(name, (plain, (), None))
            mount = Mount("postern", image, where, server, options, key)
            try:
                drop_caches()
                values.append(run(case, where))
                memory = max(memory, mount.usage()["memory_mib"])
            finally:
                mount.close()
    return {name: statistics.median(values) for name, values in times.items()}, memory


def title(case, mode, compression):
    kind, _, readers = case.partition("-")
    more = {"": "", "1": ", 1 reader", "started": " as a start mounts it"}.get(readers, f", {readers} readers")
    return f"{TITLES[kind]}{more}, {compression}, {mode}"


def show_case(table, case, modes, compression, result):
    """A row a mode; returns the memory of our server."""
    medians, usage = result
    for mode in modes:
        kernel = medians["kernel"][mode]
        more = {}
        if "squashfuse_ll" in medians:
            peer = medians["squashfuse_ll"][mode]
            more = {"squashfuse_ll_ms": round(peer, 1), "ratio_to_it": round(medians["postern"][mode] / peer, 2)}
        table.add(title(case, mode, compression), medians["postern"][mode], "ms", "x", kernel, f"kernel ({kernel:.0f} ms)",
                  TARGETS[case, mode], **more)
    # Of one run of the case, in all its modes.
    peer = usage.get("squashfuse_ll")
    table.add(f"server's processor time, {title(case, ' and '.join(modes), compression)}", usage["postern"]["cpu_ms"], "ms",
              against=f"squashfuse_ll: {peer['cpu_ms']} ms" if peer else "", memory_mib=usage["postern"]["memory_mib"])
    return usage["postern"]["memory_mib"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--rootfs")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--only", default="", help="cases, separated by commas; of gzip images alone, unless \"zstd\", \"lz4\" or \"layers\" is one")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("reading.py needs root: it mounts with the kernel and drops caches")
        return 77
    leave_host_mounts()
    server, work = os.path.abspath(options.server), os.path.abspath(options.work)
    where = f"{work}/mount"
    os.makedirs(where, exist_ok=True)
    wanted = options.only.split(",") if options.only else []
    table = common.Table("Reading, time against the kernel's own squashfs; 128 KiB blocks")
    memory = 0

    def one(case, image, compression, runs):
        modes = [mode for name, mode in TARGETS if name == case]
        return show_case(table, case, modes, compression, measure(case, image, modes, where, server, runs))
    rootfs, big = make_rootfs(work, options.rootfs), make_big(work)
    images = {"walk": make_tree(work), "tar": rootfs, "import": rootfs, "random": rootfs, "sequential": big}
    for case in dict.fromkeys(name for name, _ in TARGETS):
        if not wanted or case in wanted:
            memory = max(memory, one(case, images[case.partition("-")[0]], "gzip", options.runs))
    for compression, cases in COMPRESSED.items():
        if not wanted or compression in wanted:
            packed = make_rootfs(work, options.rootfs, compression)
            for case in cases:
                image = make_tree(work, compression) if case == "walk" else packed
                memory = max(memory, one(case, image, compression, max(1, options.runs - 2)))
    if not wanted or "layers" in wanted:
        for case, (name, amount, unit) in LAYER_CASES.items():
            image = {"big": big, "rootfs": rootfs}[name]
            medians, used = measure_layers(case, make_layers(work, name, image), image, where, server, options.runs)
            memory = max(memory, used)
            rate = {layer: 1000 * amount / taken for layer, taken in medians.items()}
            for layer, target in LAYERS.items():
                table.add(f"{title(case, 'cold', 'gzip')}, {layer}", rate[layer], unit, "x", rate["plain"], f"plain ({rate['plain']:.0f} {unit})",
                          target, at_least=True)
    table.add("server memory, peak of all cases", memory, "MiB", target=SERVER_MIB)
    table.write(options.json)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--do"]:
        print(do(sys.argv[2], sys.argv[3]))
        sys.exit(0)
    sys.exit(main())
