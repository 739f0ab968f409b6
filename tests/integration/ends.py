#!/usr/bin/env python3
"""Every process of a start is killed at every call, or finds every call failing: starts end, and nothing is left."""
import os
import shutil
import signal
import subprocess
import time

import harness

bench = harness.Bench()
BUILD = os.environ["POSTERN_BUILD"]
ROOT = bench.rootfs(files={"big": "x" * 4000000})
SQUASHFS = bench.squashfs(ROOT)
SERVER = os.path.join(bench.top, "prefix/libexec/postern/postern-squashfs")
NEW_PID = ["--pid", "--containall", "--compat"]
MODES = [[], *([option] for option in NEW_PID)]
# Calls that the processes between the front end and the payload make, and the front end does not.
CALLS = ("setns unshare fsopen fsconfig fsmount move_mount open_tree pivot_root umount2 mount_setattr capset execveat "
         "fchdir mkdirat sendmsg").split()
ERRORS = "EPERM EINVAL ENOMEM ENOSPC EMFILE ENFILE ENOSYS EAGAIN EBUSY EIO".split()


def mortal(number):
    """The image server dies at its call of this number; 0: it does not."""
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


def wait_until(condition, what, seconds=30):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, what
        time.sleep(0.01)


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
    return b.run(timeout=90, command=["strace", *(["-f"] if follow else []), "-qq", "-o", "/dev/null", *arguments, b.postern, "exec",
                                      *command])


def front_end_killed_at_every_call(b):
    """a front end that is killed at any of its calls leaves no process, mount or socket"""
    killed = 0
    for mode in ([], ["--pid"]):
        for number in range(1, 700, 13):
            result = traced(b, ["-e", f"inject=all:signal=KILL:when={number}"], *mode, SQUASHFS, "true", follow=False)
            killed += result.code != 0
            b.check_leaks()
    assert killed > 20, killed


def other_processes_killed_at_every_call(b):
    """… and so for the processes that make the mount, and the container"""
    killed = 0
    for mode in ([], ["--pid"]):
        for call in CALLS:
            for number in (1, 2, 3):
                result = traced(b, ["-e", f"inject={call}:signal=KILL:when={number}"], *mode, SQUASHFS, "true")
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
            result = traced(b, ["-e", f"inject={call}:error={error}:when=1"], SQUASHFS, "true")
            lines = [line for line in result.err.splitlines() if line.startswith("FATAL:")]
            if result.code not in (0, 255) or (result.code == 255) != (len(lines) == 1):
                bad.append(f"{call} {error}: {result!r}")
            failed += result.code == 255
    assert not bad, "\n".join(bad)
    assert failed > 50, failed


def term_and_int_end_a_start(b):
    """SIGTERM and SIGINT end a start that waits for a stopped image server"""
    for number in (signal.SIGTERM, signal.SIGINT):
        for mode in MODES:
            process = b.popen("exec", "--no-share", *mode, SQUASHFS, "sh", "-c", "cat /big; sleep 60", stdout=subprocess.DEVNULL)
            wait_until(lambda: b.processes("postern-squashfs --starter"), "no server")
            servers = b.processes("postern-squashfs --starter")
            for pid in servers:
                os.kill(pid, signal.SIGSTOP)
            process.send_signal(number)
            try:
                code = process.wait(timeout=30)
                assert code in (-number, 128 + number), (mode, number, code)
            finally:
                for pid in servers:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                process.stderr.close()
            b.check_leaks()


def a_stopped_server_does_not_hold_a_start_for_ever(b):
    """a start whose own image server is stopped ends at its deadline, with an error"""
    started = b.popen("exec", "--containall", "--no-share", SQUASHFS, "true")
    # It may be done before it is stopped: then there is nothing to see.
    for _ in range(20):
        wait_until(lambda: b.processes("postern-squashfs --starter") or started.poll() is not None, "no server")
        for pid in b.processes("postern-squashfs --starter"):
            os.kill(pid, signal.SIGSTOP)
        if started.poll() is None:
            break
        started.communicate()
        started = b.popen("exec", "--containall", "--no-share", SQUASHFS, "true")
    out, err = started.communicate(timeout=120)
    assert started.returncode == 255 and b"FATAL" in err, (started.returncode, err)


def sigkill_of_the_front_end(b):
    """SIGKILL of the front end ends the payload; with --pid its children too, without it they live as others do"""
    for mode, survives in (([], True), (["--pid"], False), (["--containall"], False)):
        process = b.popen("exec", *mode, SQUASHFS, "sh", "-c", "busybox setsid sleep 7654 & echo ready; exec sleep 8765")
        assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: b.processes("sleep 7654"), "no child")
        process.kill()
        process.wait(timeout=30)  # its streams are open in a child that lives on
        process.stdout.close()
        process.stderr.close()
        wait_until(lambda: not b.processes("sleep 8765"), f"{mode}: the payload lives on")
        if survives:
            time.sleep(0.3)
            children = b.processes("sleep 7654")
            assert children, "a setsid child ended"
            for pid in children:
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not b.processes("sleep 7654"), f"{mode}: a child of the payload lives on")
        b.check_leaks()


bench.main([server_killed_at_every_call, front_end_killed_at_every_call, other_processes_killed_at_every_call, every_call_fails,
            term_and_int_end_a_start, a_stopped_server_does_not_hold_a_start_for_ever, sigkill_of_the_front_end])
