#!/usr/bin/env python3
"""Limits of --memory, --cpus … and --apply-cgroups in a kernel whose control groups are all of version 2, with and
without the setuid helper. Prints TAP.

Runs inside boot.sh, which gives the unified hierarchy with its controllers.
Usage: limits.py HELPER JUDGE POSTERN INIT SQUASHFS LIBEXEC CONFDIR
"""
import contextlib
import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../suid"))
import world as worlds  # noqa: E402
import tap  # noqa: E402
from tap import check  # noqa: E402

HELPER, JUDGE, POSTERN, INIT, SQUASHFS, LIBEXEC, CONFDIR = sys.argv[1:8]
BUSYBOX = "/bin/busybox"
TOP = "/sys/fs/cgroup"
MODES = {"user namespace": ("--userns",), "setuid": ()}
TESTS = []


def test(function):
    TESTS.append(function)
    return function


subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/var/tmp"], check=True)
W = worlds.World(HELPER, JUDGE, BUSYBOX, LIBEXEC, CONFDIR)
HOME = W.home()
for source, mode in ((INIT, 0o755), (SQUASHFS, 0o711)):
    W.install(source, os.path.basename(source), mode)
BINARY = f"{W.work}/postern"
shutil.copy(POSTERN, BINARY)
os.chmod(BINARY, 0o755)
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": HOME, "LANG": "C"}


def make_image():
    root = f"{W.work}/tree"
    for name in ("bin", "proc", "sys", "dev", "tmp", "var/tmp", "etc", "home", f"{HOME.lstrip('/')}"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    shutil.copy(BUSYBOX, f"{root}/bin/busybox")
    for applet in ("sh", "cat", "sleep", "echo", "dd", "ls", "true"):
        os.symlink("busybox", f"{root}/bin/{applet}")
    for name in ("passwd", "group", "hosts", "resolv.conf", "localtime", "hostname"):
        open(f"{root}/etc/{name}", "w").close()
    subprocess.run(["chown", "-R", f"{worlds.T1}:{worlds.T1}", root], check=True)
    return root


IMAGE = make_image()


def read(path):
    with open(path) as file:
        return file.read().strip()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def groups(path):
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())


@contextlib.contextmanager
def group(name="job", owner=worlds.T1, parent=TOP):
    """A control group that was given to its user, as Slurm or systemd gives one (cgroups(7), "Delegation")."""
    path = f"{parent}/{name}"
    os.mkdir(path)
    for file in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
        os.chown(path + file, owner, owner)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            write(f"{path}/cgroup.kill", "1")
        tap.wait_until(lambda: "populated 0" in read(f"{path}/cgroup.events"), "processes are left in the group")
        for top, _, _ in os.walk(path, topdown=False):
            os.rmdir(top)


def spawn(inside, words, **keywords):
    """A process of the user, born in this group."""
    def enter():
        write(f"{inside}/cgroup.procs", "0")
        os.setgroups(worlds.T1_GROUPS)
        os.setresgid(worlds.T1, worlds.T1, worlds.T1)
        os.setresuid(worlds.T1, worlds.T1, worlds.T1)
    keywords = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
                "cwd": HOME, "env": ENVIRONMENT, **keywords}
    return subprocess.Popen(words, preexec_fn=enter, **keywords)


def finished(process):
    process.out, process.err = process.communicate(timeout=120)
    return process


def start(inside, *options, script="true", mode=("--userns",), **keywords):
    return finished(spawn(inside, [BINARY, "exec", *mode, *options, IMAGE, "sh", "-c", script], **keywords))


def say(process):
    return f"exit {process.returncode}\nstdout: {process.out[:800]}\nstderr: {process.err[:800]}"


def runs(process, out=None):
    check(process.returncode == 0 and (out is None or process.out == out), f"expected {out!r}: {say(process)}")


def fails(process, *words):
    check(process.returncode == 255 and "FATAL" in process.err and process.out == "", say(process))
    for word in words:
        check(word in process.err, f"{word!r} is not in: {say(process)}")


def as_it_was(path):
    """No group of ours is left, and the group can hold processes as before."""
    check(groups(path) == [], f"left in {path}: {groups(path)}")
    check(read(f"{path}/cgroup.subtree_control") == "", f"controllers stay: {read(f'{path}/cgroup.subtree_control')}")


class Running:
    """A container that is up; `at` is the directory of its payload's control group."""

    def __init__(self, inside, *options, mode=("--userns",), script="cat /proc/self/cgroup; ls /proc/self/fd; echo ready; read line; true"):
        self.process = spawn(inside, [BINARY, "exec", *mode, *options, IMAGE, "sh", "-c", script], stdin=subprocess.PIPE)
        self.lines = []
        while self.lines[-1:] != ["ready"]:  # then its shell is alone, and waits
            line = self.process.stdout.readline()
            if not line:
                self.process.stdin.close()
                self.process.stdin = None
                raise AssertionError(f"{self.lines} {say(finished(self.process))}")
            self.lines.append(line.strip())
        self.at = TOP + self.lines[0][3:]

    def limit(self, name):
        return read(f"{self.at}/{name}")

    def end(self):
        self.process.stdin.close()
        self.process.stdin = None
        _, err = self.process.communicate(timeout=120)
        check(self.process.returncode == 0, f"exit {self.process.returncode}: {err}")
        return self.lines[1:-1]


ASKED = ("--memory", "96m", "--memory-swap", "128M", "--memory-reservation", "32MiB", "--cpus", "0.5", "--cpu-shares", "1024",
         "--pids-limit", "20", "--cpuset-cpus", "0", "--cpuset-mems", "0")


@test
def limits_hold_for_the_payload():
    """every limit holds for the payload, in both modes, and the group is as before at the end"""
    for name, mode in MODES.items():
        with group() as job:
            container = Running(job, *ASKED, mode=mode)
            found = {file: container.limit(file) for file in (
                "memory.max", "memory.low", "cpu.max", "cpu.weight", "pids.max", "cpuset.cpus", "cpuset.mems")}
            if os.path.exists(f"{container.at}/memory.swap.max"):
                check(container.limit("memory.swap.max") == str(32 << 20), "swap is not what memory leaves of both")
            pids = container.limit("cgroup.procs").split()
            members = [read(f"/proc/{pid}/comm") for pid in pids]
            of_host = os.readlink(f"/proc/{pids[0]}/ns/user") == os.readlink("/proc/self/ns/user")
            check(of_host == (name == "setuid"), f"{name}: the payload is in another mode")
            descriptors = container.end()
            check(found == {"memory.max": str(96 << 20), "memory.low": str(32 << 20), "cpu.max": "50000 100000",
                            "cpu.weight": "100", "pids.max": "20", "cpuset.cpus": "0", "cpuset.mems": "0"}, f"{name}: {found}")
            check(members == ["sh"], f"{name}: in the group are {members}")
            check(descriptors == ["0", "1", "2", "3"], f"{name}: the payload holds {descriptors}")
            as_it_was(job)


@test
def without_options_nothing_is_made():
    """a start that asks for no limit makes no group and stays in its own"""
    for mode in MODES.values():
        with group() as job:
            container = Running(job, mode=mode)
            check(container.at == job, f"the payload is in {container.at}")
            check(groups(job) == [], f"made: {groups(job)}")
            container.end()


@test
def limits_bite():
    """a payload over its limit of processes cannot fork, over that of memory it is killed, and both are said"""
    # They are alive together, however slowly the shell makes them.
    fork = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait; echo all"
    fill = "dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null; echo $?"
    for mode in MODES.values():
        with group() as job:
            few = start(job, "--pids-limit", "4", script=fork, mode=mode)
            check("all" not in few.out and "fork" in few.err, say(few))
            tap.wait_until(lambda: "populated 0" in read(f"{job}/cgroup.events"), "what it could fork does not end")
            runs(start(job, "--pids-limit", "12", script=fork, mode=mode), "all\n")
            short = start(job, "--memory", "40m", "--memory-swap", "40m", script=fill, mode=mode)
            check(short.out == "137\n" and "limit of its memory was reached" in short.err, say(short))
            wide = start(job, "--memory", "200m", script=fill, mode=mode)
            check(wide.out == "0\n" and wide.err == "", say(wide))
            as_it_was(job)


@test
def a_killed_start_is_cleaned_up_by_the_next():
    """the group of a start that was killed is removed by the next one, and that of a running start is not"""
    for mode in MODES.values():
        with group() as job:
            # The second is born where the first one has put the processes of the job.
            alive = Running(job, "--pids-limit", "50", mode=mode)
            doomed = Running(f"{job}/postern/self", "--pids-limit", "50", mode=mode)
            check(len(groups(f"{job}/postern")) == 3, groups(f"{job}/postern"))
            doomed.process.kill()
            doomed.process.communicate()
            check(os.path.isdir(doomed.at), "its group went with it")
            tap.wait_until(lambda: "populated 0" in read(f"{doomed.at}/cgroup.events"), "the payload outlives its front end")
            runs(start(f"{job}/postern/self", "--pids-limit", "50", mode=mode))
            check(not os.path.exists(doomed.at), "the dead group is still there")
            check(alive.limit("pids.max") == "50", "the limits of a running container are gone")
            alive.end()
            as_it_was(job)


@test
def processes_left_behind_keep_their_limits():
    """a process that the payload leaves running keeps its limits; its group goes once it has ended"""
    with group() as job:
        left = start(job, "--pids-limit", "30", script="sleep 1000 >/dev/null 2>&1 & cat /proc/self/cgroup")
        runs(left)
        at = TOP + left.out.strip()[3:]
        check(read(f"{at}/pids.max") == "30" and len(read(f"{at}/cgroup.procs").split()) == 1, "the limits are gone")
        os.kill(int(read(f"{at}/cgroup.procs")), signal.SIGKILL)
        tap.wait_until(lambda: "populated 0" in read(f"{at}/cgroup.events"), "it does not end")
        # Nobody tidied up yet: the job's group holds no processes, its leaf does.
        runs(start(f"{job}/postern", "--pids-limit", "30") if not os.path.isdir(f"{job}/postern/self")
             else start(f"{job}/postern/self", "--pids-limit", "30"))
        as_it_was(job)


@test
def many_at_once():
    """12 starts at once in one group all get their limits, and the last one puts the group back"""
    with group() as job:
        one = f"{BINARY} exec --userns --pids-limit 9 {IMAGE} sh -c 'cat /proc/self/cgroup'"
        script = f"i=0; while [ $i -lt 12 ]; do {one} & i=$((i+1)); done; wait"
        done = finished(spawn(job, ["/bin/sh", "-c", script]))
        places = done.out.split()
        check(done.returncode == 0 and len(set(places)) == 12 and all("/postern/" in place for place in places), say(done))
        as_it_was(job)


@test
def limits_of_a_file():
    """--apply-cgroups takes the limits of a file, also those that only version 2 has"""
    path = f"{HOME}/limits.toml"
    write(path, '[memory]\nlimit = 104857600\n[cpu]\nquota = 20000\nperiod = 50000\n[pids]\nlimit = 33\n'
                '[unified]\n"memory.high" = "90M"\n[[devices]]\nallow = false\naccess = "rwm"\n')
    with group() as job:
        container = Running(job, "--apply-cgroups", "limits.toml")
        found = {name: container.limit(name) for name in ("memory.max", "memory.high", "cpu.max", "pids.max")}
        container.end()
        check(found == {"memory.max": "104857600", "memory.high": str(90 << 20), "cpu.max": "20000 50000", "pids.max": "33"},
              str(found))
        write(path, '[unified]\n"memory.max" = "nonsense"\n')
        fails(start(job, "--apply-cgroups", path), "memory.max = nonsense")
        as_it_was(job)


@test
def controllers_pass_through_groups_of_ours():
    """a controller is passed down through the user's own groups; one that was not given is named"""
    with group("outer") as outer, group("leaf", parent=outer) as leaf:
        check("pids" not in read(f"{leaf}/cgroup.controllers"), "the test's groups have it anyway")
        runs(start(leaf, "--pids-limit", "9", "--memory", "100m"))
        as_it_was(leaf)
        write(f"{outer}/cgroup.subtree_control", "-pids -memory")
        os.chown(f"{outer}/cgroup.subtree_control", 0, 0)
        fails(start(leaf, "--pids-limit", "9"), "the controller pids", "was not passed on to", "Delegate=pids")
        runs(start(leaf))
        as_it_was(leaf)


@test
def groups_of_others():
    """in a group that belongs to root a limit is refused, and a start without one is not"""
    for mode in MODES.values():
        with group(owner=0) as job:
            fails(start(job, "--memory", "1g", mode=mode), "belongs to somebody else", "Delegate=yes")
            runs(start(job, mode=mode))
            as_it_was(job)


@test
def values_that_the_host_does_not_have():
    """processors that are not there are refused, and nothing is left"""
    with group() as job:
        fails(start(job, "--cpuset-cpus", "0,77"), "cpuset.cpus")
        fails(start(job, "--cpuset-mems", "9"), "cpuset.mems")
        weight = start(job, "--blkio-weight", "500")
        if weight.returncode != 0:
            fails(weight, "io.bfq.weight or io.weight")
        as_it_was(job)
        runs(start(job, "--cpuset-cpus", "0", "--cpuset-mems", "0"))


sys.exit(W.run(TESTS))
