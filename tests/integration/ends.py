#!/usr/bin/env python3
"""Every process of a start is killed at every call, or finds every call failing: starts end, and nothing is left."""
import contextlib
import os
import shutil
import signal
import subprocess
import time

import harness
from tap import wait_until

bench = harness.Bench()
BUILD = os.environ["POSTERN_BUILD"]
ROOT = bench.rootfs(files={"big": "x" * 4000000})
SQUASHFS = bench.squashfs(ROOT)
SERVER = os.path.join(bench.top, "prefix/libexec/postern/postern-squashfs-plain")
NEW_PID = ["--pid", "--containall", "--compat"]
MODES = [[], *([option] for option in NEW_PID)]
# Calls that the processes between the front end and the payload make, and the front end does not.
CALLS = ("setns unshare fsopen fsconfig fsmount move_mount open_tree pivot_root umount2 mount_setattr capset execveat "
         "fchdir mkdirat sendmsg").split()
ERRORS = "EPERM EINVAL ENOMEM ENOSPC EMFILE ENFILE ENOSYS EAGAIN EBUSY EIO".split()


def mortal(number):
    """The image server dies at its call of this number, or stops there if it is negative; 0: neither."""
    if not os.path.exists(SERVER + ".real"):
        os.rename(SERVER, SERVER + ".real")
        shutil.copy(os.path.join(BUILD, "tests/integration/mortal_server"), SERVER)
        os.chmod(SERVER, 0o755)
    if number == 0:
        os.rename(SERVER + ".real", SERVER)
        if os.path.exists(SERVER + ".die"):
            os.unlink(SERVER + ".die")
        return
    with open(SERVER + ".die", "w") as file:
        file.write(f"{number}\n")
    os.chmod(SERVER + ".die", 0o644)


def one_error(result, what):
    lines = [line for line in result.err.splitlines() if line.startswith(("FATAL:", "ERROR:"))]
    assert result.code != 0 and (lines or result.code < 0 or result.code >= 128), f"{what}: {result!r}"


def server_killed_at_every_call(b):
    """an image server that dies at any of its calls ends the start with an error, in a new PID namespace too"""
    ended, ran = 0, 0
    try:
        for mode in MODES:
            for number in range(1, 110, 6 if mode else 3):
                mortal(number)
                result = b.run("exec", *mode, SQUASHFS, "sh", "-c", "cat /big >/dev/null", timeout=90)
                if result.code == 0:
                    ran += 1  # it needed no further call
                else:
                    one_error(result, f"{mode} call {number}")
                    ended += 1
    finally:
        mortal(0)
    assert ended > 20, (ended, ran)
    for mode in MODES:
        b.run("exec", *mode, SQUASHFS, "sh", "-c", "wc -c < /big").prints("4000000\n")


def traced(b, arguments, *command, follow=True):
    # Only the calls in question stop (--seccomp-bpf): strace(1) reads the memory of what it has stopped, and that of a
    # payload comes from an image server, which must not be stopped then.
    return b.run(timeout=90, command=["strace", *(["-f", "--seccomp-bpf"] if follow else []), "-qq", "-o", "/dev/null", *arguments,
                                      b.postern, "exec", *command])


def calls_of_front_end(b, mode):
    """System call -> how often a start makes it."""
    out = os.path.join(b.work, "calls")
    b.run(timeout=90, command=["strace", "-qq", "-o", out, b.postern, "exec", *mode, SQUASHFS, "true"]).ok()
    counts = {}
    with open(out) as file:
        for line in file:
            name = line.split("(")[0]
            if name.isidentifier():
                counts[name] = counts.get(name, 0) + 1
    return counts


def front_end_killed_at_every_call(b):
    """a front end that is killed at any of its calls leaves no process, mount or socket"""
    for mode in ([], ["--pid"]):
        killed = 0
        counts = calls_of_front_end(b, mode)
        for name, count in counts.items():
            for number in range(1, count + 1):
                result = traced(b, ["-e", f"inject={name}:signal=KILL:when={number}"], *mode, SQUASHFS, "true", follow=False)
                killed += result.code != 0
                b.check_leaks()
        assert killed > 0.8 * sum(counts.values()) > 50, (killed, counts)


def other_processes_killed_at_every_call(b):
    """… and so for the processes that make the mount, and the container"""
    killed = 0
    for mode in ([], ["--pid"]):
        for call in CALLS:
            for number in (1, 2, 3):
                result = traced(b, ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"], *mode, SQUASHFS, "true")
                if result.code != 0:
                    one_error(result, f"{mode} {call} {number}")
                    killed += 1
                b.check_leaks()
    assert killed > 20, killed


def every_call_fails(b):
    """each of these calls fails with each error: the start ends with one message, or does without"""
    failed, bad = 0, []
    for call in CALLS:
        for error in ERRORS:
            result = traced(b, ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when=1"], SQUASHFS, "true")
            lines = [line for line in result.err.splitlines() if line.startswith("FATAL:")]
            if result.code not in (0, 255) or (result.code == 255) != (len(lines) == 1):
                bad.append(f"{call} {error}: {result!r}")
            failed += result.code == 255
    assert not bad, "\n".join(bad)
    assert failed > 50, failed


HELD_AT = (1, 30, 60)  # calls of an image server: at its start, and before it has answered anything


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def held_server(b):
    """Pids of the server that is held, and of its keeper (mortal_server.cc), which then has another name."""
    def pids():
        return b.processes("postern-squashfs --starter")
    wait_until(lambda: "held" in map(name_of, pids()), "no server is held")
    return pids()


def term_and_int_end_a_start(b):
    """SIGTERM, SIGINT and SIGHUP end a start that waits for a stopped image server"""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for mode in MODES:
                for call in HELD_AT:
                    mortal(-call)
                    process = b.popen("exec", *mode, SQUASHFS, "true")
                    held = held_server(b)
                    assert process.poll() is None, f"{mode} call {call}: it did not wait"
                    process.send_signal(number)
                    code = process.wait(timeout=60)
                    process.stdout.close()
                    process.stderr.close()
                    assert code == -number, (mode, number, call, code)
                    for pid in held:  # a stopped process is ended by whoever stopped it
                        with contextlib.suppress(ProcessLookupError):  # the one ends with the other
                            os.kill(pid, signal.SIGKILL)
                    b.check_leaks()
    finally:
        mortal(0)


def a_stopped_server_does_not_hold_a_start_for_ever(b):
    """a start whose own image server is stopped ends at its deadline, with an error, and ends the server"""
    try:
        for mode in ([], ["--containall"]):
            mortal(-60)
            result = b.run("exec", *mode, SQUASHFS, "true", timeout=120)
            result.fails(255)
            b.check_leaks()
    finally:
        mortal(0)


def sigkill_of_the_front_end(b):
    """SIGKILL of the front end ends the payload; with --pid its children too, without it they live as others do"""
    def children():
        return [pid for pid in b.processes("sleep 7654") if b.command_line(pid) == f"{pid}: sleep 7654 "]

    for mode, survives in (([], True), (["--pid"], False), (["--containall"], False)):
        process = b.popen("exec", *mode, SQUASHFS, "sh", "-c", "busybox setsid sleep 7654 & echo ready; exec sleep 8765")
        assert process.stdout.readline() == b"ready\n"
        wait_until(children, "no child")
        process.kill()
        process.wait(timeout=60)  # its streams are open in a child that lives on
        process.stdout.close()
        process.stderr.close()
        wait_until(lambda: not b.processes("sleep 8765"), f"{mode}: the payload lives on")
        if survives:
            time.sleep(0.3)  # for one that would end
            assert children(), "a setsid child ended"
            for pid in children():
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not b.processes("sleep 7654"), f"{mode}: a child of the payload lives on")
        b.check_leaks()


bench.main([server_killed_at_every_call, front_end_killed_at_every_call, other_processes_killed_at_every_call, every_call_fails,
            term_and_int_end_a_start, a_stopped_server_does_not_hold_a_start_for_ever, sigkill_of_the_front_end])
