#!/usr/bin/env python3
"""What each kind of start costs, in counts: processes, programs executed, system calls of each program. Prints TAP.

    counts.py BUILD-DIRECTORY [--record]

strace(1) writes down every call of every process of a start; counts.json has what they were when somebody last looked.
A start that needs more fails. Times depend on the machine, and what a processor executes depends on its features (libc
and OpenSSL choose their code by them), so neither is compared. Processes and executed programs must be what is recorded;
system calls may be MARGIN and a FEW more: the C library, the kernel (its capabilities, the lines of mountinfo) and the order in
which threads get their turn move them by some per cent. Of several runs the smallest count stands, for waiting only adds.
What has become cheaper is said; --record writes the file anew.
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bench"), str(HERE.parent / "lib")]
import common  # noqa: E402
import tap  # noqa: E402
from tap import check  # noqa: E402

RECORD = HERE / "counts.json"
MARGIN, FEW, RUNS = 0.08, 4, 3
# The image's server: how far the kernel reads ahead, and so how often it asks, depends on the load, and
# so does how long it waits for its mount. What is left is its start.
ASKED = dict.fromkeys(("postern-squashfs", "postern-squashfs-plain"), ("read", "writev", "futex", "clock_nanosleep", "getppid"))
OUTSIDE = ("setpriv", "env", "true")  # what makes the run an ordinary user's, and the payload's own
BIRTH, EXEC = ("clone", "clone3", "fork", "vfork"), ("execve", "execveat")
# "PID call(arguments) = result", "PID call(… <unfinished ...>", "PID <... call resumed>…) = result"
LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed>)(.*)$")
# Only what is executed is decoded: to read a text of the payload's, strace could have to wait for the image's server, which waits
# for strace.
STRACE = ("strace", "-f", "-qq", "-e", "raw=!execve,execveat", "-e", "signal=none", "-o")


class Start:
    """The processes of one start, from what strace wrote: counts of each program that each process was."""

    def __init__(self, log):
        self.life = collections.Counter()  # pid -> how many programs it has executed
        self.names, self.executing, self.parents = {}, {}, {}
        self.calls = collections.defaultdict(collections.Counter)
        for line in log.read_text(errors="replace").splitlines():
            if matched := LINE.match(line):
                self.take(matched[1], matched[2], matched[3] == "(", matched[4])

    def take(self, pid, call, begins, text):
        life = (pid, self.life[pid])
        if begins:
            self.calls[life][call] += 1
            if call in EXEC:
                self.executing[pid] = next(part for part in re.findall(r'"([^"]*)"', text) if part).rpartition("/")[2]
        result = re.search(r" = (\w+)$", text)
        if result and call in BIRTH:  # the child may have called something before its parent is told
            self.parents[str(int(result[1], 0)), 0] = life
        elif result and call in EXEC and result[1] == "0":
            self.life[pid] += 1
            self.names[pid, self.life[pid]] = self.executing.pop(pid)

    def name(self, life):
        """A process is its parent's program until it executes another."""
        while life not in self.names and life in self.parents:
            life = self.parents[life]
        return self.names.get(life, OUTSIDE[0])

    def counts(self):
        found = collections.defaultdict(lambda: {"calls": 0, "executed": 0, "children": 0})
        for life, calls in self.calls.items():
            found[self.name(life)]["calls"] += sum(count for call, count in calls.items() if call not in ASKED.get(self.name(life), ()))
        for name in self.names.values():
            found[name]["executed"] += 1
        for parent in self.parents.values():
            found[self.name(parent)]["children"] += 1
        return {name: counts for name, counts in found.items() if name not in OUTSIDE}


def traced(place, words, failure=None):
    """Program -> counts of one start, or of one that ends with `failure` in its words."""
    log = place.work / "strace.log"
    done = subprocess.run([*STRACE, log, *place.command(words)], capture_output=True, text=True, cwd=place.home, stdin=subprocess.DEVNULL,
                          timeout=120)
    check(done.returncode == 0 or (failure and failure in done.stderr), f"{words}: exit {done.returncode}: {done.stderr}")
    return Start(log).counts()


def least(runs):
    """Of several runs of one start, each program's smallest counts."""
    return {name: {what: min(run[name][what] for run in runs if name in run) for what in runs[0][name]} for name in runs[0]}


# --- the kinds of start -------------------------------------------------------------------------------

class Kinds:
    """Each method is a kind: it prepares the site and gives the words of the start; some hold something meanwhile."""

    def __init__(self, place):
        self.place = place
        self.rootfs = place.rootfs
        self.image = place.home / "image.sif"
        place.run(place.postern, "-q", "build", self.image, self.rootfs)
        self.private, public = common.rsa_key(place)
        self.encrypted, self.signed = place.home / "encrypted.sif", place.home / "signed.sif"
        place.run(place.postern, "-q", "encrypt", "--pem-path", public, self.image, self.encrypted)
        shutil.copy(self.image, self.signed)
        os.chown(self.signed, place.user.pw_uid, place.user.pw_gid)
        self.list = common.signer(place)
        place.run(place.postern, "-q", "sign", self.signed)
        self.all = [self.userns(kind) for kind in ("directory", "image", "image in use", "encrypted image", "listed image")]
        self.all += [self.suid(kind) for kind in ("directory", "image", "image in use", "encrypted image")]
        # dm-verity comes after the judge: where the kernel lacks it the start ends there.
        self.all.append(("suid, listed image: the judge", [self.signed], "trusted", self.list, None, "device-mapper", ("postern-judge",)))
        if "squashfs" in pathlib.Path("/proc/filesystems").read_text() and os.path.exists("/dev/loop-control"):
            self.all.append(("suid, image mounted by the kernel", [self.image], "any", common.NO_LIST, None, None, None))

    def words(self, kind):
        return {"directory": [self.rootfs], "image": [self.image], "image in use": [self.image],
                "encrypted image": ["--pem-path", self.private, self.encrypted], "listed image": [self.signed]}[kind]

    def userns(self, kind):
        held = ["--userns", self.image] if kind == "image in use" else None
        return (f"userns, {kind}", ["--userns", *self.words(kind)], "never", self.list if kind == "listed image" else common.NO_LIST,
                held, None, None)

    def suid(self, kind):
        return (f"suid, {kind}", self.words(kind), "never", common.NO_LIST, [self.image] if kind == "image in use" else None, None, None)

    def measure(self, kind):
        _, words, kernel_mount, listed, held, failure, only = kind
        self.place.configure(kernel_mount, listed)
        command = [self.place.postern, "exec", *words, "true"]
        with self.place.kept(*held) if held else contextlib.nullcontext():
            found = least([traced(self.place, command, failure) for _ in range(RUNS)])
        return {name: counts for name, counts in found.items() if only is None or name in only}


# --- comparing ------------------------------------------------------------------------------------------

def compare(title, found, recorded):
    """The words of what is more than recorded; says what is less."""
    more = [f"{title}: {name} runs" for name in found.keys() - recorded.keys()]
    for name, counts in recorded.items():
        now = found.get(name, {what: 0 for what in counts})
        for what, count in counts.items():
            allowed = count + (int(count * MARGIN) + FEW if what == "calls" else 0)
            if now[what] > allowed:
                more.append(f"{title}: {name}: {now[what]} {what}, {count} are recorded and {allowed} allowed")
            elif now[what] < count * (1 - MARGIN):
                tap.Report.say(f"{title}: {name}: {now[what]} {what} instead of {count}; counts.py --record keeps that")
    return more


def record(found):
    """One program a line."""
    kinds = (f"{json.dumps(title)}: {{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(counts)}" for name, counts in sorted(programs.items()))
             + "}" for title, programs in found.items())
    RECORD.write_text("{" + ",\n ".join(kinds) + "}\n")


def check_libraries(place):
    """A loader, and each library, would be paid by every start."""
    listed = subprocess.run(["readelf", "-d", place.postern], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", listed)
    check("Dynamic section" in listed and not needed, f"postern loads {needed}")


def check_more_fails():
    """What this compares is found: one process, one program or a tenth of the calls more."""
    recorded = {"postern": {"calls": 500, "executed": 1, "children": 1}}
    for what, count in (("calls", 560), ("executed", 2), ("children", 2)):
        check(compare("a start", {"postern": {**recorded["postern"], what: count}}, recorded), f"{count} {what} pass")
    check(compare("a start", {**recorded, "sh": recorded["postern"]}, recorded), "another program passes")
    check(not compare("a start", {"postern": {**recorded["postern"], "calls": 510}}, recorded), "the margin is none")


def make_rootfs(path):
    for name in "bin dev etc proc sys tmp var/tmp".split():
        (path / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "bin/busybox")
    for applet in ("sh", "true", "echo", "sleep", "cat", "ls", "wc"):
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\n")
    subprocess.run(["chmod", "-R", "a+rX", path], check=True)


def main():
    common.worlds.enter_namespace()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    options.work = pathlib.Path(f"/var/tmp/postern-counts.{os.getpid()}")
    options.rootfs = options.work / "rootfs"
    make_rootfs(options.rootfs)
    try:
        with common.installed(options) as place:
            kinds = Kinds(place)
            if options.record:
                record({kind[0]: kinds.measure(kind) for kind in kinds.all})
                return 0
            report = tap.Report()
            check_more_fails()
            check_libraries(place)
            recorded = json.loads(RECORD.read_text())
            for kind in kinds.all:
                more = compare(kind[0], kinds.measure(kind), recorded.get(kind[0], {}))
                report.point(not more, f"{kind[0]}: processes, programs and calls are no more than recorded", "\n".join(more))
            return report.end()
    finally:
        shutil.rmtree(options.work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
