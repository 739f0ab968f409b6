#!/usr/bin/env python3
"""Starts where something is short or odd: memory, descriptors, temporary space, the environment, a thousand at once."""
import contextlib
import os
import resource
import shutil
import signal
import subprocess

import harness
from tap import wait_until

bench = harness.Bench()
BIG = 96 << 20
ROOT = bench.rootfs()
with open(ROOT + "/big", "wb") as file:
    for _ in range(BIG >> 20):
        file.write(os.urandom(1 << 20))
SQUASHFS = bench.squashfs(ROOT)


def servers(b):
    return b.processes("postern-squashfs --starter")


@contextlib.contextmanager
def memory_group(bytes_allowed):
    """A memory control group (cgroups(7)) with this limit, in whichever hierarchy has the controller."""
    v1, v2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"
    try:
        with open(v2 + "/cgroup.controllers") as listed:
            unified = "memory" in listed.read()
    except OSError:
        unified = False
    group = f"{v2 if unified else v1}/postern-test-{os.getpid()}"
    try:
        if unified:
            with open(v2 + "/cgroup.subtree_control", "w") as control:
                control.write("+memory")
        os.mkdir(group)
    except OSError as why:
        raise harness.Skip(f"no memory control group can be made here: {why}") from None
    try:
        for name in ("memory.max", "memory.swap.max") if unified else ("memory.limit_in_bytes",):
            with contextlib.suppress(FileNotFoundError), open(f"{group}/{name}", "w") as limit:
                limit.write(str(bytes_allowed))
        yield group + "/cgroup.procs"
    finally:
        def removed():
            with contextlib.suppress(OSError):
                os.rmdir(group)
            return not os.path.exists(group)
        wait_until(removed, "processes stayed in the control group")


def run_within(b, members, *arguments):
    """A start inside of a control group: joined as root, then as the user."""
    enter = f"echo $$ > {members} && exec setpriv --reuid {b.user.uid} --regid {b.user.gid} --clear-groups \"$@\""
    result = subprocess.run(["sh", "-c", enter, "sh", b.postern, *arguments], env=b.environment(), cwd=b.work, capture_output=True,
                            stdin=subprocess.DEVNULL, timeout=120)
    return harness.Result(result.returncode, result.stdout, result.stderr)


def reads_more_than_its_memory(b):
    """an image greater than the job's memory is read whole: the server's caches stay small"""
    with memory_group(48 << 20) as members:
        result = run_within(b, members, "exec", "--no-share", SQUASHFS, "sh", "-c", "cat /big | wc -c")
        result.prints(f"{BIG}\n")


def out_of_memory(b):
    """where memory ends within the start or the payload, the status says so, nothing hangs and nothing stays"""
    for mebibytes in (1, 2, 3, 4, 6, 8):
        with memory_group(mebibytes << 20) as members:
            result = run_within(b, members, "exec", "--no-share", SQUASHFS, "sh", "-c", "cat /big | wc -c")
            assert (result.code == 0) == (result.out == f"{BIG}\n"), (mebibytes, result)


def few_descriptors(b):
    """with 64 descriptors a start makes and joins a server, which serves all the same"""
    limit = dict(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    one = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; exec sleep 60", **limit)
    assert one.stdout.readline() == b"ready\n", one.stderr.read()
    b.run("exec", SQUASHFS, "sh", "-c", "ulimit -n; wc -c < /big", **limit).prints(f"64\n{BIG}\n")
    assert len(servers(b)) == 1
    one.kill()
    one.communicate()


def small_limits(b):
    """a limit that is too small for a start is named, never the image or the installation blamed"""
    mebibyte = 1 << 20
    cases = [("DATA", value) for value in (mebibyte // 2, mebibyte, 2 * mebibyte, 8 * mebibyte, 16 * mebibyte)]
    cases = [("DATA", value) for value in range(3 << 17, mebibyte, 1 << 15)] + cases
    cases += [("AS", value * mebibyte) for value in (10, 15, 20)] + [("NPROC", 1)] + [("NOFILE", value) for value in (6, 8, 12, 16, 20)]
    letters = {"DATA": "d", "AS": "v", "NPROC": "u", "NOFILE": "n"}
    for name, value in cases:
        limit = getattr(resource, f"RLIMIT_{name}")
        result = b.run("exec", "--no-share", SQUASHFS, "true", preexec_fn=lambda: resource.setrlimit(limit, (value, value)))
        if result.code != 0:
            words = result.err
            assert result.code == 255 and words.count("FATAL") == 1, (name, value, result)
            assert f"ulimit -{letters[name]}" in words and "damaged" not in words and "install" not in words, (name, value, words)


def a_thousand_at_once(b):
    """1,000 simultaneous starts: one server, all succeed"""
    count = 1000
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 4096), max(limits[1], 4096)))
    gate = b.work + "/gate"
    running = []
    try:
        # One pipe for all: each writes a byte once it runs, and waits for the last.
        ready, told = os.pipe()
        wait = f"printf r; while ! test -e {gate}; do sleep 0.3; done; exit 5"
        for _ in range(count):
            running.append(b.popen("exec", SQUASHFS, "sh", "-c", wait, stdout=told, stderr=subprocess.DEVNULL))
        os.close(told)
        seen = 0
        while seen < count:
            got = len(os.read(ready, count))
            assert got, f"{count - seen} starts ended early"
            seen += got
        assert len(servers(b)) == 1, f"{len(servers(b))} servers"
    finally:
        with open(gate, "w"):
            pass
        codes = [process.wait(timeout=120) for process in running]
        os.close(ready)
        os.unlink(gate)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert codes == [5] * count, {code: codes.count(code) for code in codes}


def no_runtime_directory(b):
    """no XDG_RUNTIME_DIR, a wrong one, no HOME, a TMPDIR that is not there: starts still share one server"""
    one = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; exec sleep 60")
    assert one.stdout.readline() == b"ready\n", one.stderr.read()
    nowhere = "/nowhere at all"
    for more in ({"XDG_RUNTIME_DIR": nowhere}, {"XDG_RUNTIME_DIR": ""}, {"TMPDIR": nowhere, "XDG_RUNTIME_DIR": nowhere}):
        b.run("exec", SQUASHFS, "true", env=more).ok()
    bare = subprocess.run([b.postern, "exec", SQUASHFS, "true"], env={}, user=b.user.uid, group=b.user.gid, extra_groups=[], cwd="/",
                          capture_output=True, timeout=60)
    assert bare.returncode == 0, bare
    assert len(servers(b)) == 1
    one.kill()
    one.communicate()


def nothing_can_be_written(b):
    """with every directory for temporary files read-only or full, a start works: it writes to none"""
    script = ("mount -t tmpfs -o size=4k none /tmp && mount -t tmpfs -o ro none /var/tmp && mount -t tmpfs -o ro none /run && "
              "mount -t tmpfs -o ro none /dev/shm && dd if=/dev/zero of=/tmp/full bs=4096 2>/dev/null; "
              f"exec setpriv --reuid {b.user.uid} --regid {b.user.gid} --clear-groups \"$@\"")
    # The images lie below /tmp: this test's are moved aside first.
    aside = f"/opt/postern-scarcity-test.{os.getpid()}"
    shutil.copytree(os.path.dirname(os.path.dirname(b.postern)), aside)
    shutil.copy(SQUASHFS, aside + "/image.sqfs")
    os.chmod(aside + "/image.sqfs", 0o644)
    try:
        result = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", aside + "/bin/postern", "exec", aside + "/image.sqfs", "cat", "/etc/group"],
                                cwd="/", env=b.environment(), capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        assert result.returncode == 0 and b"root:x:0:" in result.stdout, result
    finally:
        shutil.rmtree(aside)


def root_runs_and_shares(b):
    """root runs an image too, with a server of root's own"""
    one = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; exec sleep 60")
    assert one.stdout.readline() == b"ready\n", one.stderr.read()
    out = subprocess.run([b.postern, "exec", SQUASHFS, "sh", "-c", "id -u; grep -c . /proc/self/uid_map"], cwd="/", env=b.environment(), capture_output=True,
                         text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (out.returncode, out.stdout) == (0, "0\n1\n"), out
    assert len(servers(b)) == 1
    one.send_signal(signal.SIGKILL)
    one.communicate()


bench.main([reads_more_than_its_memory, out_of_memory, few_descriptors, small_limits, a_thousand_at_once, no_runtime_directory, nothing_can_be_written,
            root_runs_and_shares])
