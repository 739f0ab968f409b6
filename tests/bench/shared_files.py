#!/usr/bin/env python3
"""What one start does on shared file systems, counted with strace(1), and what a job of many ranks does: a table.

Counted are calls that name or read a file until the container's root is in place: what the payload does later it does in
the image. Also for apptainer, if it is installed. Usage: shared_files.py --build BUILD [--nodes 100] [--ranks 128]
"""
import argparse
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import images  # noqa: E402
import users  # noqa: E402

OPENS = ("open", "openat", "openat2", "open_tree")
STATS = ("stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "statfs", "fstatfs")
READS = ("read", "pread64", "readv", "preadv", "mmap")
CALL = re.compile(r"^(\d+) +(\w+)\((.*) = (-?\d+|0x[0-9a-f]+|\?)(.*)$")
BEGUN = re.compile(r"^((\d+) +\w+\(.*) <unfinished \.\.\.>$")
ENDED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
PATH = re.compile(r'"(/[^"]*)"|\d+<(/[^>]*)>')


def whole_lines(trace):
    """The calls in the order of their ends: another process may write between the two halves of a line."""
    begun = {}
    for line in trace.splitlines():
        if match := BEGUN.match(line):
            begun[match[2]] = match[1]
        elif match := ENDED.match(line):
            yield begun.pop(match[1], "") + match[2]
        else:
            yield line


def count(trace, places):
    """{place: Counter of opens, stats, reads, bytes}; a place is a directory whose files are counted together."""
    found = collections.defaultdict(collections.Counter)
    inside = set()
    for line in whole_lines(trace):
        match = CALL.match(line)
        if not match:
            continue
        pid, call, arguments, result, _ = match.groups()
        if call == "pivot_root":
            inside.add(pid)
        if call in ("clone", "clone3", "fork", "vfork") and pid in inside:
            inside.add(result)
        paths = PATH.findall(arguments)
        if pid in inside or not paths:
            continue
        path = next(filter(None, paths[-1 if call == "mmap" else 0]))
        if call in OPENS or call in STATS:
            # openat(3</dir>, "/name"): the absolute name is what counts.
            path = next((one for one, _ in paths if one), path)
        place = next((name for name, top in places if path == top or path.startswith(top + "/")), None)
        if place is None:
            continue
        counter = found[place]
        counter["opens"] += call in OPENS
        counter["stats"] += call in STATS
        if call in READS and not result.startswith("-"):
            counter["reads"] += 1
            size = re.match(r"[^,]*, (\d+)", arguments) if call == "mmap" else None
            counter["bytes"] += int(size[1]) if size else 0 if call == "mmap" else int(result, 0)
    return found


class Measurement:
    def __init__(self, build):
        self.user = users.account()
        self.top = tempfile.mkdtemp(prefix="postern-shared-")
        os.chmod(self.top, 0o755)
        self.software, self.images = f"{self.top}/software", f"{self.top}/images"
        for target, source, mode in (("bin/postern", "frontend/cli/postern", 0o755), ("libexec/postern/postern-init", "frontend/init/postern-init", 0o755),
                                     ("libexec/postern/postern-squashfs", "frontend/squashfs/postern-squashfs", 0o711)):
            os.makedirs(os.path.dirname(f"{self.software}/{target}"), exist_ok=True)
            shutil.copy(f"{build}/{source}", f"{self.software}/{target}")
            os.chmod(f"{self.software}/{target}", mode)
        os.makedirs(f"{self.software}/etc")
        self.settings = f"{self.software}/etc/postern.toml"
        with open(self.settings, "w") as file:
            file.write("[allow]\nuser-binds = true\n")
        root = f"{self.top}/root"
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "home"):
            os.makedirs(f"{root}/{name}")
        shutil.copy("/bin/busybox", f"{root}/bin/busybox")
        for name in ("sh", "true", "sleep", "echo"):
            os.symlink("busybox", f"{root}/bin/{name}")
        for name in ("passwd", "group", "hosts", "resolv.conf", "localtime"):
            with open(f"{root}/etc/{name}", "w"):
                pass
        os.makedirs(self.images)
        packed = images.squashfs(root, f"{self.top}/root.sqfs")
        with open(packed, "rb") as file:
            self.image = images.write_sif(f"{self.images}/image.sif", file.read(), self.user.pw_uid)
        self.places = [("image", self.images), ("programs", f"{self.software}/bin"), ("programs", f"{self.software}/libexec"),
                       ("settings", f"{self.software}/etc"), ("home", self.user.pw_dir)]

    def trace(self, command):
        out = f"{self.top}/trace"
        subprocess.run(["strace", "-f", "-y", "-qq", "-s", "4096", "-o", out, "-e", "trace=%file,%desc,mmap,clone,clone3,fork,vfork",
                        "-u", self.user.pw_name, *command, "exec", self.image, "true"], check=True, cwd=self.user.pw_dir,
                       env={"PATH": "/usr/bin:/bin", "HOME": self.user.pw_dir}, stdin=subprocess.DEVNULL)
        with open(out) as file:
            return count(file.read(), self.places)

    def first_and_next(self, command):
        """Counts of a node's first start, and of one while another runs."""
        first = self.trace(command)
        holder = subprocess.Popen([*command, "exec", self.image, "sh", "-c", "echo runs; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[], cwd=self.user.pw_dir,
                                  env={"PATH": "/usr/bin:/bin", "HOME": self.user.pw_dir})
        holder.stdout.readline()
        try:
            return first, self.trace(command)
        finally:
            holder.communicate(b"\n")

    def remove(self):
        time.sleep(0.5)
        users.remove_account(self.user.pw_name)
        shutil.rmtree(self.top, ignore_errors=True)


def table(name, first, following, nodes, ranks):
    print(f"\n| {name} | opens | stats | reads | bytes | opens, {nodes} nodes × {ranks} ranks | stats | bytes |\n|---|---|---|---|---|---|---|---|")
    for place in ("image", "programs", "settings", "home"):
        one, more = first[place], following[place]
        whole = {what: nodes * (one[what] + (ranks - 1) * more[what]) for what in ("opens", "stats")}
        whole["bytes"] = nodes * one["bytes"]  # later ranks of a node find these pages in its page cache
        for label, counts in ((f"{place}, first start of a node", one), (f"{place}, each further start", more)):
            numbers = " | ".join(f"{counts[what]:,}" for what in ("opens", "stats", "reads", "bytes"))
            job = " | ".join(f"{whole[what]:,}" for what in ("opens", "stats", "bytes")) if counts is one else " | | "
            print(f"| {label} | {numbers} | {job} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=128)
    options = parser.parse_args()
    measurement = Measurement(options.build)
    try:
        ours = [f"{measurement.software}/bin/postern", "--config", measurement.settings]
        table("postern", *measurement.first_and_next(ours), options.nodes, options.ranks)
        peer = shutil.which("apptainer")
        if peer:
            measurement.places += [("programs", os.path.realpath(peer)), ("programs", "/usr/libexec/apptainer"), ("settings", "/etc/apptainer")]
            table("apptainer", *measurement.first_and_next([peer]), options.nodes, options.ranks)
    finally:
        measurement.remove()


main()
