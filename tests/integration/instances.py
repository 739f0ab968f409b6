#!/usr/bin/env python3
"""Instances: their life, what joins them, how they end, and what hostile neighbours can do to them.

Usage: instances.py [CASE...]: in user-namespace mode, as the other tests here.
       instances.py --suid LIBEXEC CONFDIR [CASE...]: the same through the installed helper.
"""
import fcntl
import functools
import glob
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time

import harness
from tap import wait_until

bench = harness.Bench()
SCRIPT = """#!/bin/sh
trap 'echo interrupted; exit 0' INT TERM
echo "script to stderr" >&2
echo "script: $*"
while true; do sleep 0.05; done
"""
FILES = {".singularity.d/startscript": SCRIPT, ".singularity.d/runscript": "#!/bin/sh\necho \"run: $*\"\n[ \"$1\" = stay ] && exec sleep 1000\nexit 0\n",
         ".singularity.d/test": "#!/bin/sh\necho tested\n"}
IMAGE = bench.squashfs(bench.rootfs(files=FILES))
PLAIN = bench.squashfs(bench.rootfs("plain"))
PLACE = f"/tmp/postern-{bench.user.uid}"
SOCKETS = f"{PLACE}/instances"
LOGS = f"{bench.user.home}/.postern/instances/logs/{os.uname().nodename}/{bench.user.name}"


def log(name):
    with open(f"{LOGS}/{name}") as file:
        return file.read()


def start(b, name, *options, image=IMAGE, arguments=(), verb="start", **keywords):
    result = b.run("instance", verb, *options, image, name, *arguments, **keywords).ok()
    assert "instance started successfully" in result.err, result
    return result


def listed(b, *words, **keywords):
    """Name -> what `instance list --json` says of it."""
    found = json.loads(b.run("instance", "list", "--json", *words, **keywords).ok().out)
    return {one["instance"]: one for one in found["instances"]}


def with_fresh_logs(test):
    """The case, with no log of an earlier one."""
    @functools.wraps(test)
    def case(b):
        shutil.rmtree(LOGS, ignore_errors=True)
        test(b)
    return case


def end(b, *names):
    b.run("instance", "stop", "--force", *(names or ["--all"])).ok()


def parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def status_of(b, process, *fields):
    out = b.run("exec", "instance://one", "cat", f"/proc/{process}/status").ok().lines
    return [line for line in out if line.split(":")[0] in fields]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ----------------------------------------------------------------------------------------- its life

def an_instance_lives(b):
    """start, list, exec, run, test, stop: the script runs, processes join it, and it ends"""
    before = b.run("instance", "list").ok()
    assert before.lines == ["INSTANCE NAME  PID  IP  IMAGE"], before
    verbose = start(b, "one", arguments=("a", "b c"), env={"POSTERN_MESSAGELEVEL": "4"})
    assert not harness.SUID or "starting in setuid mode" in verbose.err, verbose
    one = listed(b)["one"]
    assert one["img"] == IMAGE and one["ip"] == "" and one["logOutPath"] == f"{LOGS}/one.out" and one["logErrPath"] == f"{LOGS}/one.err", one
    lines = b.run("instance", "list").ok().lines
    assert len(lines) == 2 and lines[1].split() == ["one", str(one["pid"]), IMAGE], lines
    assert f"{LOGS}/one.err" in b.run("instance", "list", "--logs").ok().out
    wait_until(lambda: "script: a b c" in log("one.out"), "the script writes to its log")
    assert "script to stderr" in log("one.err")
    b.run("exec", "instance://one", "echo", "in it").prints("in it\n")
    b.run("run", "instance://one", "x").prints("run: x\n")
    b.run("test", "instance://one").prints("tested\n")
    b.run("shell", "instance://one", stdin="echo from $POSTERN_INSTANCE; exit 5\n").fails_with(5, "from one\n")
    stopped = b.run("instance", "stop", "one").ok()
    assert f"INFO:    Stopping one instance of {IMAGE} (PID={one['pid']})" in stopped.err, stopped
    assert "interrupted" in log("one.out")
    assert listed(b) == {} and not os.path.exists(SOCKETS)
    b.run("exec", "instance://one", "true").fails(255, "no instance found with name one")
    b.run("instance", "stop", "one").fails(255, "no instance found")


def fails_with(result, code, out):
    assert (result.code, result.out) == (code, out), result
    return result


harness.Result.fails_with = fails_with


def run_executes_the_runscript(b):
    """instance run executes the runscript; an instance whose script has ended goes on"""
    start(b, "runs", verb="run", arguments=("stay", "1"))
    wait_until(lambda: "run: stay 1" in log("runs.out"), "the runscript runs")
    start(b, "over", verb="run")
    b.run("exec", "instance://over", "echo", "still there").prints("still there\n")
    start(b, "none", image=PLAIN)
    assert "No startscript found in container" in log("none.err")
    b.run("exec", "instance://none", "cat", "/proc/1/comm").prints("postern-init\n")
    assert sorted(listed(b)) == ["none", "over", "runs"] and sorted(listed(b, "[no]*")) == ["none", "over"]
    stopped = b.run("instance", "stop", "-a").ok()
    assert "did not end in time" not in stopped.err, f"an instance without processes ends when it is asked: {stopped}"
    assert listed(b) == {}


def a_script_that_fails_is_reported(b):
    """a script that cannot be executed, or fails: the start fails, says how, and nothing is left"""
    for name, text, words in (("status", "#!/bin/sh\necho gone wrong >&2\nexit 3\n", "exit status 3"),
                              ("missing", "#!/bin/no-such-shell\n", "exit status 255"),
                              ("killed", "#!/bin/sh\nkill -KILL $$\n", "exit status 137")):
        image = b.rootfs(f"bad-{name}", files={".singularity.d/startscript": text})
        for _ in range(20):
            result = b.run("instance", "start", "--userns", image, "bad")
            if result.code != 0:
                break
            # The script runs for longer than the start waits for it: this machine was busy with something else.
            wait_until(lambda: listed(b) == {}, "the instance ends with its script")
        result.fails(255, f"instance bad did not start: its script ended with {words}", f"{LOGS}/bad.err")
        assert name != "status" or "gone wrong" in result.err, result
        assert listed(b) == {}
        b.check_leaks()
    # A failure later on ends the instance as well.
    go = os.path.join(b.work, "go")
    image = b.rootfs("later", files={".singularity.d/startscript": f"#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.02; done\nexit 4\n"})
    start(b, "later", "--userns", image=image)
    with open(go, "w"):
        pass
    wait_until(lambda: listed(b) == {}, "the instance ends with its script")
    wait_until(lambda: "script of instance later ended with exit status 4" in log("later.err"), lambda: log("later.err"))


def wrong_words_are_told(b):
    """bad names, missing words, options that are not there: one message each, and the peer's exit status"""
    for name in ("a/b", "..", ".hidden", "a b", "ü", "", "x" * 251, "a\nb", "a:b"):
        b.run("instance", "start", PLAIN, name).fails(255, "name")
        b.run("exec", f"instance://{name}", "true").fails(255, "name")
    longest = "y" * 250
    start(b, longest, image=PLAIN)
    b.run("exec", f"instance://{longest}", "echo", "long").prints("long\n")
    b.run("instance", "start", PLAIN, longest).fails(255, "already exists")
    end(b)
    for words in (["start"], ["start", PLAIN], ["run", PLAIN], ["start", "--pid", PLAIN, "x"], ["start", "--nosuch", PLAIN, "x"],
                  ["stats"], ["list", "a", "b"], ["list", "--nosuch"], ["stop", "a", "b"]):
        result = b.run("instance", *words)
        assert result.code == 1 and 'Error for command "instance ' in result.err and "Usage:" in result.err, (words, result)
    assert b.run("instance", "stop").code == 1 and b.run("instance", "stop", "--all", "x").code == 1
    result = b.run("instance", "frobnicate")
    assert result.code == 1 and 'unknown command "frobnicate" for "instance"' in result.err and "postern instance list" in result.err, result
    result = b.run("instance")
    assert result.code == 1 and "Usage:" in result.err and result.out == "", result
    for words in (["instance", "--help"], ["help", "instance"], ["instance", "start", "--help"], ["instance", "list", "--help"], ["instance", "stop", "-h"]):
        assert "Usage:" in b.run(*words).ok().out
    b.run("instance", "start", "--boot", PLAIN, "x").fails(255, "--boot", "one payload")
    b.run("instance", "start", "/nonexistent.sif", "x").fails(255, "/nonexistent.sif")
    b.run("instance", "start", "instance://y", "x").fails(255, "is an instance that runs")
    b.run("instance", "list", "--json", "--logs").fails(255, "exclude")
    b.run("instance", "list", "--user", "root").fails(255, "only root")
    b.run("instance", "stats", "x").fails(255, "no instance found")
    start(b, "one")
    for words, text in ((["--signal", "NOSUCH"], "no signal"), (["-s", "0"], "no signal"), (["-s", "65"], "no signal"), (["-t", "x"], "--timeout"), (["-t", "-1"], "--timeout")):
        b.run("instance", "stop", *words, "one").fails(255, text)
    b.run("instance", "stats", "-i", "0", "one").fails(255, "--interval")
    assert "changes nothing in an instance" in b.run("exec", "--bind", "/usr", "instance://one", "true").ok().err
    end(b)


def options_are_completed(b):
    """the shell's completion knows the commands below instance, and their options"""
    script = b.run("completion", "bash").ok().out + """
complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _postern; echo "${COMPREPLY[*]}"; }
complete_words postern instance sta; complete_words postern instance stop --f; complete_words postern instance run --pid-
"""
    path = f"{os.path.dirname(b.postern)}:/usr/bin:/bin"
    result = b.run(command=["bash", "-c", script], env={"PATH": path}).ok()
    assert result.lines == ["start stats", "--force", "--pid-file"], result


def the_same_name_once(b):
    """of many simultaneous starts of one name exactly one succeeds"""
    starts = [b.popen("instance", "start", PLAIN, "only") for _ in range(12)]
    results = [harness.Result(one.wait(timeout=60), *one.communicate()) for one in starts]
    good = [one for one in results if one.code == 0]
    assert len(good) == 1 and all("instance only already exists" in one.err for one in results if one.code != 0), results
    assert list(listed(b)) == ["only"]
    end(b)


def many_at_once(b):
    """64 simultaneous starts succeed, are listed, joined and stopped; MANY=384 by hand"""
    many = int(os.environ.get("MANY", "64"))
    starts = [b.popen("instance", "start", IMAGE, f"n{i}") for i in range(many)]
    for one in starts:
        out, err = one.communicate(timeout=600)
        assert one.returncode == 0, err
    assert sorted(listed(b)) == sorted(f"n{i}" for i in range(many))
    joined = [b.popen("exec", f"instance://n{i}", "sh", "-c", "echo $POSTERN_INSTANCE") for i in range(many)]
    for i, one in enumerate(joined):
        out, err = one.communicate(timeout=600)
        assert out.decode() == f"n{i}\n", (out, err)
    b.run("instance", "stop", "--all", timeout=600).ok()
    assert listed(b) == {}


def the_process_number_is_written(b):
    """--pid-file: the number of the instance's first process, gone at the end"""
    path = os.path.join(b.work, "one.pid")
    start(b, "one", "--pid-file", "one.pid")
    with open(path) as file:
        assert int(file.read()) == listed(b)["one"]["pid"]
    # A signal to that process is one for the script.
    wait_until(lambda: "script:" in log("one.out"), "the script runs")
    os.kill(listed(b)["one"]["pid"], signal.SIGTERM)
    wait_until(lambda: "interrupted" in log("one.out"), "the script gets the signal")
    b.run("instance", "stop", "one").ok()
    assert not os.path.exists(path)
    b.run("instance", "start", "--pid-file", "/nonexistent/x", IMAGE, "one").fails(255, "--pid-file /nonexistent/x")
    assert listed(b) == {}


def figures(b):
    """stats: a table, and JSON; the processes of the instance, those that joined too"""
    start(b, "one")
    busy = b.popen("exec", "instance://one", "sh", "-c", "echo; while true; do :; done")
    busy.stdout.readline()
    table = b.run("instance", "stats", "--no-stream", "-i", "0.5", "one").ok().lines
    assert table[0].split("  ")[0] == "INSTANCE NAME" and table[1].split()[0] == "one", table
    assert float(table[1].split()[1].rstrip("%")) > 1, table
    sample = json.loads(b.run("instance", "stats", "--json", "one").ok().out)
    assert sample["pids_stats"]["current"] >= 4 and sample["memory_stats"]["usage"]["usage"] > 0, sample
    assert sample["cpu_stats"]["cpu_usage"]["total_usage"] > 0, sample
    stream = b.popen("instance", "stats", "-i", "0.05", "one")
    for _ in range(6):
        assert stream.stdout.readline()
    busy.kill()
    busy.communicate()
    b.run("instance", "stop", "one").ok()
    stream.communicate(timeout=10)
    assert stream.returncode == 0


# --------------------------------------------------------------------------------- what joins it

def joined_processes_are_like_others(b):
    """status, streams, descriptors, environment and directory of a process that joins"""
    start(b, "one", "--env", "OF=instance")
    for code in (0, 7, 255):
        assert b.run("exec", "instance://one", "sh", "-c", f"exit {code}").code == code
    assert b.run("exec", "instance://one", "sh", "-c", "kill -USR1 $$").code == -signal.SIGUSR1
    b.run("exec", "instance://one", "cat", stdin="x" * 300000).prints("x" * 300000)
    result = b.run("exec", "instance://one", "sh", "-c", "echo out; echo err >&2").ok()
    assert (result.out, result.err) == ("out\n", "err\n"), result
    read, write = os.pipe()
    with os.fdopen(read) as pipe:
        b.run("exec", "instance://one", "sh", "-c", f"echo through >&{write}", pass_fds=[write]).ok()
        os.close(write)
        assert pipe.read() == "through\n"  # and nobody keeps it open
    b.run("exec", "instance://one", "sh", "-c", "ls /proc/self/fd | wc -l").prints("4\n")
    b.run("exec", "--env", "A=1", "--cleanenv", "instance://one", "sh", "-c", "echo $A.$HOSTS.$POSTERN_COMMAND.$POSTERN_CONTAINER.$HOME",
          env={"HOSTS": "x"}).prints(f"1..exec.{IMAGE}.{b.user.home}\n")
    b.run("exec", "instance://one", "sh", "-c", "echo $HOSTS", env={"HOSTS": "x"}).prints("x\n")
    b.run("exec", "instance://one", "pwd").prints(b.work + "\n")
    b.run("exec", "--cwd", "/bin", "instance://one", "pwd").prints("/bin\n")
    b.run("exec", "instance://one", "pwd", cwd="/var").prints("/var\n")
    b.run("exec", "--cwd", "/nowhere", "instance://one", "true").fails(255, "/nowhere")
    b.run("exec", "instance://one", "nosuchcommand").fails(255, "executable file not found")
    b.run("exec", "instance://one", "sh", "-c", "umask", preexec_fn=lambda: os.umask(0o37)).prints("0037\n")
    b.run("exec", "instance://one", "cat", "/proc/1/comm", close_fds=True, command=["sh", "-c", f"exec {b.postern} exec instance://one cat /proc/1/comm <&-"]).prints("postern-init\n")
    big = ["x" * 100000] * 10
    assert len(b.run("exec", "instance://one", "echo", *big).ok().out) == 1000010
    many = [os.open("/dev/null", os.O_RDONLY) for _ in range(600)]
    count = b.run("exec", "instance://one", "sh", "-c", "ls /proc/self/fd | wc -l", pass_fds=many).ok().out
    assert int(count) == 604, count
    list(map(os.close, many))
    end(b)


def signals_go_on(b):
    """signals for the command reach the process in the instance; if the command is killed, it dies"""
    start(b, "one")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
        script = f"trap 'echo got; exit 4' {int(number)}; echo ready; while true; do sleep 0.02; done"
        process = b.popen("exec", "instance://one", "sh", "-c", script, start_new_session=True)
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert (out, process.returncode) == (b"got\n", 4), (number, out, err, process.returncode)
    process = b.popen("exec", "instance://one", "sh", "-c", "echo ready; exec sleep 1001", start_new_session=True)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    for _ in range(5):
        process = b.popen("exec", "instance://one", "sh", "-c", "echo ready; sleep 1002; echo survived", start_new_session=True)
        process.stdout.readline()
        process.kill()
        process.wait()
        wait_until(lambda: not b.processes("sleep 1002"), lambda: f"{list(map(b.command_line, b.processes()))}")
        process.stdout.close(), process.stderr.close()
    b.run("exec", "instance://one", "echo", "unharmed").prints("unharmed\n")
    end(b)


def an_instance_ends_under_it(b):
    """who waits for a process in an instance that ends is told, and ends with 137"""
    start(b, "one")
    process = b.popen("exec", "instance://one", "sh", "-c", "echo ready; exec sleep 1003")
    process.stdout.readline()
    b.run("instance", "stop", "one").ok()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 137 and b"instance one ended" in err, (process.returncode, err)


class Terminal:
    """The program in a session with a terminal of its own, driven by keys."""

    def __init__(self, b, command):
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        os.chown(os.ttyname(slave), b.user.uid, b.user.gid)
        self.seen = b""
        self.process = b.popen(command=command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                               preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.slave = slave

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, text, seconds=20):
        deadline = time.monotonic() + seconds
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            self.seen += os.read(self.master, 4096)
        before, _, self.seen = self.seen.partition(text.encode())
        return before.decode(errors="replace")

    def end(self):
        code = self.process.wait(timeout=20)
        os.close(self.slave)
        os.close(self.master)
        return code


def a_shell_has_a_terminal(b):
    """shell: job control, keys, the window's size; the caller's terminal is as before, and not the shell's"""
    start(b, "one", "--contain")
    terminal = Terminal(b, [b.postern, "shell", "instance://one"])
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    terminal.type("echo re''ady\n")
    terminal.expect("ready\r\n")
    assert termios.tcgetattr(terminal.slave) != terminal.before, "the keys are the shell's"
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.type("sleep 1004\n")
    wait_until(lambda: b.processes("sleep 1004"), "it sleeps")
    terminal.type("\x03")
    wait_until(lambda: not b.processes("sleep 1004"), "the key ends it")
    terminal.type("echo aft''er=$?\n")
    terminal.expect("after=130")
    terminal.type("sleep 1005\n")
    wait_until(lambda: b.processes("sleep 1005"), "it sleeps")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("kill %1; fg; echo go''ne\n")
    terminal.expect("gone")
    terminal.type("(echo; exec 2>/dev/null; : </dev/tty && echo controll''ing) ; exit 6\n")
    terminal.expect("controlling")
    terminal.process.wait(timeout=20)
    assert termios.tcgetattr(terminal.slave) == terminal.before
    assert terminal.end() == 6
    # Output that is piped: the command is in front, and its keys end the process.
    terminal = Terminal(b, ["sh", "-c", f"{b.postern} exec instance://one sh -c 'echo pip''ed; exec sleep 1006' | cat; echo o''ver"])
    terminal.expect("piped")
    terminal.type("\x03")
    wait_until(lambda: not b.processes("sleep 1006"), "the key ends it")
    terminal.end()
    end(b)


def the_command_may_lose_its_terminal(b):
    """the terminal is closed, or the command killed: the shell in the instance ends, the instance does not"""
    start(b, "one")
    for kill in (False, True):
        terminal = Terminal(b, [b.postern, "shell", "instance://one"])
        terminal.type("sleep 1007\n")
        wait_until(lambda: b.processes("sleep 1007"), "it sleeps")
        if kill:
            terminal.process.kill()
        else:
            os.close(terminal.slave)
            os.close(terminal.master)
        terminal.process.wait(timeout=20)
        wait_until(lambda: not b.processes("sleep 1007"), "the shell's process ends")
        if kill:
            terminal.end()
    b.run("exec", "instance://one", "echo", "unharmed").prints("unharmed\n")
    end(b)


def confinement_is_the_instances(b):
    """capabilities, no_new_privs, filters, ids and namespaces of what joins are those of the script"""
    profile = os.path.join(b.work, "profile.json")
    with open(profile, "w") as file:
        json.dump({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}, file)
    os.chmod(profile, 0o644)
    start(b, "one", "--security", f"seccomp:{profile}", "--containall", "--net", "--network", "none")
    fields = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
    of_script, own = status_of(b, 2, *fields), status_of(b, "self", *fields)
    assert of_script == own and len(own) == len(fields), (of_script, own)
    assert "NoNewPrivs:\t1" in own and "Seccomp:\t2" in own and "CapEff:\t0000000000000000" in own, own
    script = "for n in user mnt pid net ipc uts cgroup; do readlink /proc/$0/ns/$n; done"
    of_script = b.run("exec", "instance://one", "sh", "-c", script, "2").ok().out
    own = b.run("exec", "instance://one", "sh", "-c", script.replace("$0", "self")).ok().out
    assert of_script == own, (of_script, own)
    assert b.run("exec", "instance://one", "mkdir", "/tmp/x").code != 0
    # Options of the command give nothing: the twin without the filter, started, may do it.
    b.run("exec", "--add-caps", "CAP_SYS_ADMIN", "--fakeroot", "--writable-tmpfs", "instance://one", "cat", "/proc/self/status").ok()
    assert "CapEff:\t0000000000000000" in status_of(b, "self", "CapEff")
    start(b, "twin", "--containall")
    b.run("exec", "instance://twin", "mkdir", "/tmp/x").ok()
    end(b)


# ------------------------------------------------------------------------------------- how it ends

def stop_asks_and_kills(b):
    """stop: by the signal that was asked for, for as long; processes of other groups are asked too"""
    stubborn = b.squashfs(b.rootfs("stubborn", files={".singularity.d/startscript": "#!/bin/sh\ntrap '' INT TERM\ntrap 'echo u; exit 0' USR1\necho up\nwhile true; do sleep 0.02; done\n"}))

    def start_and_wait(name, image):
        rounds = log(f"{name}.out").count("up\n") if os.path.exists(f"{LOGS}/{name}.out") else 0
        start(b, name, image=image)
        wait_until(lambda: log(f"{name}.out").count("up\n") > rounds, "it ignores the signals")

    start_and_wait("one", stubborn)
    result = b.run("instance", "stop", "-t", "1", "one").ok()
    assert "did not end in time" in result.err, result
    for words in (["-s", "USR1"], ["--signal=sigusr1"], ["-s", str(int(signal.SIGUSR1))], ["-F"], ["-s", "9"]):
        start_and_wait("one", stubborn)
        result = b.run("instance", "stop", *words, "one", timeout=30).ok()
        assert "did not end in time" not in result.err, (words, result)
    daemon = b.squashfs(b.rootfs("daemon", files={".singularity.d/startscript": "#!/bin/sh\nsetsid sh -c 'trap \"echo asked; exit\" INT TERM; echo up; while true; do sleep 0.02; done' &\nexit 0\n"}, ))
    start_and_wait("one", daemon)
    start_and_wait("two", daemon)
    b.run("instance", "stop", "t*").ok()
    assert list(listed(b)) == ["one"]
    b.run("instance", "stop", "-s", "TERM", "one").ok()
    assert "asked" in log("one.out") and listed(b) == {}


def killed_processes_leave_nothing(b):
    """the first process, the monitor, or the image's server killed: nothing is left, nothing is listed"""
    for which in ("first", "monitor", "server"):
        start(b, "one", "--userns" if which == "server" else "--no-share")
        joined = b.popen("exec", "instance://one", "sh", "-c", "echo; exec sleep 1008")
        joined.stdout.readline()
        pid = listed(b)["one"]["pid"]
        victims = {"first": [pid], "monitor": [parent(pid)], "server": b.processes("postern-squashfs")}[which]
        assert victims
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        if which == "server":
            b.run("exec", "instance://one", "cat", "/etc/passwd")  # whatever it says, it comes back
            b.run("instance", "stop", "--force", "one")
        wait_until(lambda: listed(b) == {}, f"{which}: {listed(b)}")
        joined.communicate(timeout=20)
        assert joined.returncode != 0
        b.run("exec", "instance://one", "true").fails(255, "no instance found")
        b.check_leaks()
        assert not glob.glob(f"{SOCKETS}/*"), which
        start(b, "one")
        end(b)


def a_monitor_that_is_stopped(b):
    """a monitor that does not answer: list goes on, stop --force ends it"""
    start(b, "good")
    start(b, "one")
    monitor = parent(listed(b)["one"]["pid"])
    os.kill(monitor, signal.SIGSTOP)
    result = b.run("instance", "list").ok()
    assert "good" in result.out and "instance one does not answer" in result.err, result
    b.run("instance", "stop", "--force", "one", timeout=60).ok()
    assert not is_alive(monitor)
    assert list(listed(b)) == ["good"]
    end(b)


def it_outlives_the_command(b):
    """the instance outlives the command, its session, its terminal and its process group"""
    terminal = Terminal(b, ["sh", "-c", f"{b.postern} instance start {IMAGE} one; echo st''arted; sleep 1009"])
    terminal.expect("started")
    os.killpg(terminal.process.pid, signal.SIGKILL)
    terminal.end()
    b.run("exec", "instance://one", "echo", "alive").prints("alive\n")
    # A pipe of the command's is not held open by it.
    b.run("instance", "start", PLAIN, "two", timeout=20).ok()
    with open(f"/proc/{listed(b)['two']['pid']}/stat") as file:
        session = int(file.read().rpartition(")")[2].split()[3])
    assert session != os.getsid(0)
    end(b)


def gone_or_whole(b, what):
    """After a start that was killed: no process is left, or all of the instance is there and can be ended."""
    wait_until(lambda: not b.processes() or listed(b), lambda: f"{what}: {list(map(b.command_line, b.processes()))}")
    if listed(b):
        assert b.run("exec", "instance://one", "echo", "whole").out == "whole\n", f"{what}: {list(map(b.command_line, b.processes()))}"
        end(b)
    assert listed(b) == {}, what
    wait_until(lambda: not b.processes(), lambda: f"{what}: {list(map(b.command_line, b.processes()))}")


def the_command_killed_while_starting(b):
    """the command of a start is killed at any of its calls: no instance, or a whole one"""
    out = os.path.join(b.work, "calls")
    tracer = ["strace", "-qq", "-f", "-o"]
    b.run(command=[*tracer[:2], "-o", out, b.postern, "instance", "start", PLAIN, "one"], timeout=60).ok()
    end(b)
    with open(out) as file:
        names = [line.split("(")[0] for line in file]
    calls = {name: names.count(name) for name in names if name.isidentifier()}
    killed = 0
    for name, count in calls.items():
        for number in sorted({1, (count + 1) // 2, count}):
            result = b.run(command=["strace", "-qq", "-o", "/dev/null", "-e", f"inject={name}:signal=KILL:when={number}", b.postern,
                                    "instance", "start", PLAIN, "one"], timeout=60)
            killed += result.code != 0
            gone_or_whole(b, f"{name} {number}")
    assert killed > 30, killed


def the_monitor_killed_while_starting(b):
    """… and so the process that stays, while it starts the instance"""
    killed = 0
    for name, count in {"sendmsg": 2, "recvmsg": 2, "socketpair": 2, "dup2": 2, "setsid": 1, "epoll_ctl": 3, "renameat": 1, "listen": 1, "clone": 2}.items():
        for number in range(1, count + 1):
            # In setuid mode the kernel starts no setuid program for a process that is traced.
            tracer = b.popen(command=["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e",
                                      f"inject={name}:signal=KILL:when={number}", b.postern, "instance", "start", "--userns", PLAIN, "one"])
            # strace(1) stays beside an instance that runs.
            wait_until(lambda: tracer.poll() is not None or listed(b), f"{name} {number}", 60)
            killed += tracer.poll() is not None
            if listed(b):
                end(b)
            tracer.communicate(timeout=60)
            gone_or_whole(b, f"{name} {number}")
    assert killed > 5, killed
    start(b, "one")
    end(b)


# ------------------------------------------------------------------------------ hostile neighbours

CLIENT = """
import os, socket, struct, sys, time
kind, path = sys.argv[1], sys.argv[2]
names = os.listdir(path) if os.path.isdir(path) else []
print("sees", sorted(names))
for name in names:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(3)
    try:
        s.connect(os.path.join(path, name))
        s.send(struct.pack("ii", int(kind), 9))
        print("answer", s.recv(4096))
    except OSError as error:
        print("no answer", type(error).__name__)
"""
DESCRIBE, JOIN, STOP = 9, 1, 2
PYTHON = ["--bind", "/usr", "--bind", "/lib", "--bind", "/lib64"]


def in_container(b, options, code, *arguments):
    path = os.path.join(b.work, "client.py")
    with open(path, "w") as file:
        file.write(code)
    os.chmod(path, 0o644)
    return b.run("exec", "--userns", *PYTHON, "--bind", f"{path}:/client.py", *options, bench_root(b), "/usr/bin/python3", "/client.py", *map(str, arguments))


def bench_root(b):
    if not hasattr(b, "python_root"):
        b.python_root = b.rootfs("python")
        for name in ("usr", "lib", "lib64"):
            os.makedirs(f"{b.python_root}/{name}", exist_ok=True)
    return b.python_root


def a_container_cannot_join(b):
    """another container of the user, with the sockets' folder or without: it is told nothing, ends nothing"""
    start(b, "one")
    contained = in_container(b, ["--containall"], CLIENT, DESCRIBE, SOCKETS).ok()
    assert contained.lines == ["sees []"], contained
    for kind in (DESCRIBE, JOIN, STOP):
        shown = in_container(b, ["--containall", "--bind", "/tmp"], CLIENT, kind, SOCKETS).ok()
        assert shown.lines[0] == "sees ['one']" and "answer b" not in shown.out.replace("answer b''", ""), shown
    inside = b.run("exec", "--userns", "--bind", f"{os.path.dirname(b.postern)}:/pb", bench_root(b), "/pb/postern", "instance", "list")
    assert "one" not in inside.out, inside
    # The twin: the same client on the host is answered.
    host = b.run(command=["/usr/bin/python3", os.path.join(b.work, "client.py"), str(DESCRIBE), SOCKETS]).ok()
    assert IMAGE.encode().decode() in host.out, host
    assert list(listed(b)) == ["one"]
    end(b)


SQUATTER = """
import os, socket, struct, sys, time
path = sys.argv[1]
os.makedirs(path, 0o700, exist_ok=True)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind(os.path.join(path, "one"))
s.listen(100)
s.settimeout(0.1)
print("listening", flush=True)
while not os.path.exists(sys.argv[2]):
    try:
        c, _ = s.accept()
        c.settimeout(1)
        data, fds, _, _ = socket.recv_fds(c, 65536, 250)
        if data:
            print("GOT", data[:20], fds, flush=True)
        c.send(b"1\\0/forged\\0/o\\0/e")
    except OSError:
        pass
"""


def a_container_cannot_pose_as_one(b):
    """a container that listens under an instance's name is not listed, joined or signalled"""
    os.makedirs(SOCKETS, 0o700, exist_ok=True)
    for path in (PLACE, SOCKETS):
        os.chown(path, b.user.uid, b.user.gid)
        os.chmod(path, 0o700)
    path, end_of_attack = os.path.join(b.work, "squatter.py"), os.path.join(b.work, "squatter.end")
    with open(path, "w") as file:
        file.write(SQUATTER)
    os.chmod(path, 0o644)
    squatter = b.popen("exec", "--userns", *PYTHON, "--bind", f"{path}:/client.py", bench_root(b), "/usr/bin/python3", "/client.py", SOCKETS, end_of_attack)
    assert squatter.stdout.readline() == b"listening\n", squatter.stderr.read()
    assert listed(b) == {}
    b.run("exec", "instance://one", "echo", "secret", stdin="secret").fails(255, "no instance found")
    b.run("instance", "stop", "--all").fails(255, "no instance found")
    b.run("instance", "start", PLAIN, "one").fails(255, "already exists")
    with open(end_of_attack, "w"):
        pass
    out, err = squatter.communicate(timeout=30)
    assert b"GOT" not in out, out
    assert squatter.returncode == 0, err
    start(b, "one", image=PLAIN)  # once it is gone the name is free
    end(b)


def rubbish_in_the_folder(b):
    """files, links, dead sockets and folders under names of instances: not believed, not followed"""
    os.makedirs(SOCKETS, 0o700, exist_ok=True)
    target = os.path.join(b.work, "target")
    with open(target, "w") as file:
        file.write("mine\n")
    for name, content in (("empty", b""), ("garbage", os.urandom(3000)), ("json", b'{"pid":1,"img":"/x"}')):
        with open(f"{SOCKETS}/{name}", "wb") as file:
            file.write(content)
    os.symlink(target, f"{SOCKETS}/link")
    os.mkdir(f"{SOCKETS}/folder")
    os.mkfifo(f"{SOCKETS}/fifo")
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dead.bind(f"{SOCKETS}/dead")
    dead.close()
    subprocess.run(["chown", "-hR", f"{b.user.uid}:{b.user.gid}", PLACE], check=True)
    for path in (PLACE, SOCKETS):
        os.chmod(path, 0o700)
    assert listed(b) == {}
    for name in ("empty", "garbage", "json", "link", "folder", "fifo", "dead"):
        b.run("exec", f"instance://{name}", "true").fails(255, "no instance found")
    for name in ("empty", "link", "folder", "fifo"):
        b.run("instance", "start", PLAIN, name).fails(255, f"taking the name of instance {name}")
    assert not os.path.exists(f"{SOCKETS}/dead"), "a dead socket is swept"
    start(b, "one", image=PLAIN)
    end(b)
    with open(target) as file:
        assert file.read() == "mine\n"
    shutil.rmtree(PLACE)


def the_folder_of_somebody_else(b):
    """another user's folder, a link, or one that is open to others, in the place of ours"""
    shutil.rmtree(PLACE, ignore_errors=True)
    for make in ("foreign", "open", "link"):
        if make == "link":
            os.symlink("/var/tmp", PLACE)
        else:
            os.mkdir(PLACE)
            os.chmod(PLACE, 0o777)
            os.chown(PLACE, b.user.uid if make == "open" else b.other, b.user.gid)
        start(b, "one", image=PLAIN)
        assert not os.path.exists(SOCKETS) and list(listed(b)) == ["one"]
        b.run("exec", "instance://one", "echo", "found").prints("found\n")
        end(b)
        os.unlink(PLACE) if make == "link" else shutil.rmtree(PLACE)
    # $XDG_RUNTIME_DIR: ours, not set, of somebody else. An instance is found from all of them.
    ours = b.make_directory("runtime", 0o700)
    foreign = b.make_directory("foreign", 0o700)
    os.chown(foreign, b.other, b.other)
    for number, value in enumerate((ours, foreign, "/nonexistent", "relative")):
        environment = {"XDG_RUNTIME_DIR": value}
        start(b, f"n{number}", image=PLAIN, env=environment)
        assert f"n{number}" in listed(b, env=environment)
        b.run("exec", f"instance://n{number}", "echo", "found", env=environment).prints("found\n")
    assert os.path.exists(f"{ours}/postern/instances/n0") and os.path.exists(f"{SOCKETS}/n1")
    assert sorted(listed(b, env={"XDG_RUNTIME_DIR": ours})) == ["n0", "n1", "n2", "n3"]
    b.run("instance", "start", PLAIN, "n1", env={"XDG_RUNTIME_DIR": ours}).fails(255, "already exists")
    b.run("instance", "stop", "--all", env={"XDG_RUNTIME_DIR": ours}).ok()
    assert not os.path.exists(f"{ours}/postern")


def another_user(b):
    """another user neither sees, joins nor stops an instance; root lists and stops it by name"""
    start(b, "one")

    def other(*words):
        return subprocess.run([b.postern, *words], user=b.other, group=b.other, extra_groups=[], capture_output=True, text=True,
                              env={"PATH": "/usr/bin:/bin", "HOME": "/"}, cwd="/", timeout=60)
    assert "one" not in other("instance", "list").stdout
    assert "no instance found" in other("exec", "instance://one", "true").stderr
    assert "only root" in other("instance", "stop", "--user", b.user.name, "one").stderr
    probe = subprocess.run(["python3", "-c", f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect('{SOCKETS}/one')"],
                           user=b.other, group=b.other, extra_groups=[], capture_output=True, text=True)
    assert "PermissionError" in probe.stderr, probe
    root = subprocess.run([b.postern, "instance", "list", "--user", b.user.name], capture_output=True, text=True, timeout=60)
    assert "one" in root.stdout, root
    assert "one" not in subprocess.run([b.postern, "instance", "list"], capture_output=True, text=True, timeout=60).stdout
    subprocess.run([b.postern, "instance", "stop", "--user", str(b.user.uid), "one"], check=True, timeout=60, capture_output=True)
    assert listed(b) == {}


LISTENER = """
import os, socket, sys
os.umask(0o77)
os.makedirs(sys.argv[1], exist_ok=True)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listens = os.fork()
if listens == 0:
    s.bind(os.path.join(sys.argv[1], "one"))
    s.listen(100)
    os._exit(0)
os.waitpid(listens, 0)
print(listens, flush=True)
sys.stdin.read()
"""


def the_number_of_a_monitor_that_ended(b):
    """whoever listens has ended, and root's process has its number by now: root, told to stop the user's instances, does not kill it"""
    squatter = b.popen(command=["/usr/bin/python3", "-c", LISTENER, SOCKETS], stdin=subprocess.PIPE)
    number = int(squatter.stdout.readline())
    victim = None
    for _ in range(200):
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(number - 1))
        victim = subprocess.Popen(["sleep", "1011"])
        if victim.pid == number:
            break
        victim.kill()
        victim.wait()
    try:
        assert victim.pid == number, "the number came to others, 200 times"
        for words in (["stop", "--force", "--user", b.user.name, "one"], ["stop", "--force", "--all", "--user", b.user.name]):
            told = subprocess.run([b.postern, "instance", *words], capture_output=True, text=True, timeout=120)
            assert "no instance found" in told.stderr and victim.poll() is None, (words, told)
    finally:
        victim.kill()
        victim.wait()
        squatter.communicate()
    shutil.rmtree(PLACE)


def a_hostile_payload(b):
    """a payload kills, stops and looks into what it can: the agent stays, joining works, or says that it does not"""
    start(b, "one", *PYTHON, image=bench_root(b))
    attack = """
import os, signal, ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number in (signal.SIGKILL, signal.SIGSTOP):
    try:
        os.kill(1, number)
    except OSError as error:
        print("kill", error)
print("ptrace", libc.ptrace(16, 1, 0, 0))
for name in ("mem", "fd", "environ", "root", "ns/mnt"):
    try:
        (os.listdir if name == "fd" else os.stat if "/" in name or name == "root" else open)(f"/proc/1/{name}")
        print("opened", name)
    except OSError as error:
        print("refused", name)
"""
    path = os.path.join(b.work, "attack.py")
    with open(path, "w") as file:
        file.write(attack)
    os.chmod(path, 0o644)
    out = b.run("exec", "instance://one", "/usr/bin/python3", path).ok().out
    assert "ptrace -1" in out and "opened" not in out, out
    b.run("exec", "instance://one", "echo", "alive").prints("alive\n")
    # What serves a joined process is killed from inside: the process ends, and the command says so.
    victim = b.popen("exec", "instance://one", "sh", "-c", "echo $PPID; exec sleep 1010")
    number = victim.stdout.readline().decode().strip()
    b.run("exec", "instance://one", "kill", "-9", number).ok()
    out, err = victim.communicate(timeout=20)
    assert victim.returncode == 137 and b"ended" in err, (victim.returncode, err)
    wait_until(lambda: not b.processes("sleep 1010"), "it does not stay behind")
    # A fork bomb's end: no process to be had.
    b.run("exec", "instance://one", "echo", "alive").prints("alive\n")
    end(b)


def hostile_words_to_the_monitor(b):
    """messages of every kind and size from a process of the user's on the host: the monitor answers or closes"""
    start(b, "one")
    code = f"""
import os, socket, struct
def talk(data, fds=()):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(3)
    s.connect("{SOCKETS}/one")
    try:
        socket.send_fds(s, [data], list(fds)) if fds else s.send(data)
        return s.recv(100)
    except OSError as error:
        return type(error).__name__
null = os.open("/dev/null", 0)
for data in (b"x", b"y" * 7, b"z" * 9, b"w" * 60000, struct.pack("ii", 0, 0), struct.pack("ii", -1, -1), struct.pack("ii", 77, 0), struct.pack("ii", 3, 0), struct.pack("ii", 4, 256)):
    for fds in ((), (null,), (null,) * 16, (null,) * 100):
        talk(data, fds)
for value in (0, -1, 65, 1 << 30):
    talk(struct.pack("ii", {STOP}, value))
idle = []
for _ in range(700):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(3)
    s.connect("{SOCKETS}/one")
    idle.append(s)
for s in idle:
    s.close()
# A join that brings rubbish for a record, and one that says nothing.
silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
silent.connect("{SOCKETS}/one")
silent.send(struct.pack("ii", {JOIN}, 0))
for content in (b"", b"PLR1", os.urandom(5000), b"PLR1" + b"\\xff" * 400):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(5)
    s.connect("{SOCKETS}/one")
    s.send(struct.pack("ii", {JOIN}, 0))
    fd = os.memfd_create("x")
    os.write(fd, content)
    socket.send_fds(s, [struct.pack("ii", 0, -1)], [fd])
    kind, value = struct.unpack("ii", s.recv(100))
    print(kind, value)
"""
    result = b.run(command=["/usr/bin/python3", "-c", code], timeout=120).ok()
    assert result.lines == ["6 74"] * 4, result  # kFailed, EBADMSG
    b.run("exec", "instance://one", "echo", "alive").prints("alive\n")
    end(b)


def logs_are_files_of_ours(b):
    """a log that is a link or a pipe is refused; logs go where POSTERN_CONFIGDIR says"""
    os.makedirs(LOGS, exist_ok=True)
    target = os.path.join(b.work, "bashrc")
    with open(target, "w") as file:
        file.write("mine\n")
    os.symlink(target, f"{LOGS}/linked.out")
    os.mkfifo(f"{LOGS}/piped.err")
    subprocess.run(["chown", "-hR", f"{b.user.uid}:{b.user.gid}", f"{b.user.home}/.postern", target], check=True)
    b.run("instance", "start", PLAIN, "linked").fails(255, f"{LOGS}/linked.out")
    b.run("instance", "start", PLAIN, "piped").fails(255, f"{LOGS}/piped.err")
    with open(target) as file:
        assert file.read() == "mine\n"
    place = b.make_directory("elsewhere")
    start(b, "one", env={"POSTERN_CONFIGDIR": place})
    assert listed(b)["one"]["logOutPath"].startswith(place + "/instances/logs/")
    end(b)
    shutil.rmtree(place)
    os.mkdir(place, 0o500)
    b.run("instance", "start", PLAIN, "one", env={"POSTERN_CONFIGDIR": place}).fails(255, place, "POSTERN_CONFIGDIR")
    assert listed(b) == {}


bench.main(list(map(with_fresh_logs, [an_instance_lives, run_executes_the_runscript, a_script_that_fails_is_reported, wrong_words_are_told, options_are_completed, the_same_name_once,
            many_at_once, the_process_number_is_written, figures, joined_processes_are_like_others, signals_go_on,
            an_instance_ends_under_it, a_shell_has_a_terminal, the_command_may_lose_its_terminal, confinement_is_the_instances,
            stop_asks_and_kills, killed_processes_leave_nothing, a_monitor_that_is_stopped, it_outlives_the_command,
            the_command_killed_while_starting, the_monitor_killed_while_starting, a_container_cannot_join,
            a_container_cannot_pose_as_one, rubbish_in_the_folder, the_folder_of_somebody_else, another_user, the_number_of_a_monitor_that_ended, a_hostile_payload,
            hostile_words_to_the_monitor, logs_are_files_of_ours])))
