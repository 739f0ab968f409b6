#!/usr/bin/env python3
"""Signals and terminals: what reaches the payload, stopping and continuing, Ctrl-C and Ctrl-Z."""
import os
import pty
import select
import signal
import subprocess
import termios
import time

import harness
from tap import wait_until

bench = harness.Bench()
ROOT = bench.rootfs()
SQUASHFS = bench.squashfs(ROOT)
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


class Terminal:
    """The program under a job-control shell on a pseudo terminal, driven by keys."""

    def __init__(self, b, command):
        self.master, slave = pty.openpty()
        self.seen = b""
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        os.chown(os.ttyname(slave), b.user.uid, b.user.gid)

        def prepare():
            os.setsid()
            import fcntl
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = b.popen(command=command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=prepare, close_fds=True)
        os.close(slave)

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, text, seconds=60):
        deadline = time.monotonic() + seconds
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096)
            except OSError:
                raise AssertionError(f"{text!r} did not come before the end: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text.encode())
        return before.decode(errors="replace")

    def end(self):
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()
            os.close(self.master)
        return self.process.returncode


def state_of(pid):
    """A letter of proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def catches(pid, number):
    with open(f"/proc/{pid}/status") as file:
        caught = next(line.split()[1] for line in file if line.startswith("SigCgt:"))
    return int(caught, 16) >> (number - 1) & 1


def trap_script():
    traps = "".join(f"trap 'echo got {int(number)}; got=1' {int(number)}; " for number in FORWARDED)
    return traps + "echo ready; i=0; while test -z \"$got\" && test $i -lt 200; do sleep 0.05; i=$((i+1)); done; exit 4"


def signals_are_forwarded(b):
    """signals sent to the program reach the payload, with and without a pid namespace"""
    for options in ([ROOT], [SQUASHFS], ["--pid", ROOT]):
        for number in FORWARDED:
            process = b.popen("exec", *options, "sh", "-c", trap_script(), start_new_session=True)
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            assert out == f"got {int(number)}\n".encode() and process.returncode == 4, (options, number, out, err, process.returncode)


def signal_kills_both(b):
    """a signal that the payload does not handle ends it, and the program in the same way"""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        process = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; exec sleep 60", start_new_session=True)
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == -number, process.returncode
    process = b.popen("exec", "--pid", SQUASHFS, "sh", "-c", "echo ready; exec sleep 60", start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, process.returncode


def alarm_of_the_caller(b):
    """a timer that was set before the program was executed reaches the payload"""
    process = b.popen("exec", SQUASHFS, "sleep", "60", preexec_fn=lambda: signal.alarm(1), start_new_session=True)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGALRM, process.returncode


def one_interrupt_once(b):
    """Ctrl-C reaches the payload exactly once, and a payload that handles it goes on"""
    for options in ([SQUASHFS], ["--pid", SQUASHFS]):
        script = "n=0; trap 'n=$((n+1)); echo caught' INT; trap 'end=1' USR1; echo ready; while test -z \"$end\"; do sleep 0.05; done; echo count $n; exit 8"
        terminal = Terminal(b, [b.postern, "exec", *options, "sh", "-c", script])
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("caught")
        # The program got the same key. If it forwarded that too, it would do so before a signal with a greater number.
        terminal.process.send_signal(signal.SIGUSR1)
        terminal.expect("count 1")
        assert terminal.end() == 8


def interrupt_ends_a_payload(b):
    """Ctrl-C ends a payload that does not handle it; the image's server outlives the key"""
    other = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; read key; cat /bin/busybox | wc -c", stdin=subprocess.PIPE)
    other.stdout.readline()
    terminal = Terminal(b, [b.postern, "exec", SQUASHFS, "sh", "-c", "echo ready; exec sleep 60"])
    terminal.expect("ready")
    terminal.type("\x03")
    assert terminal.end() == -signal.SIGINT
    out, err = other.communicate(b"\n", timeout=60)
    assert int(out) > 100000, (out, err)


def server_outlives_ctrl_c(b):
    """Ctrl-C at the terminal that started the server does not end the server under its payload"""
    # The time after the key is for a server that ends of it.
    script = "trap 'key=1' INT; echo ready; while test -z \"$key\"; do sleep 0.05; done; echo caught; sleep 0.5; wc -c < /bin/busybox; exit 2"
    terminal = Terminal(b, [b.postern, "exec", "--no-share", SQUASHFS, "sh", "-c", script])
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("caught")
    terminal.expect("\r\n")
    assert terminal.end() == 2


def stop_and_continue(b):
    """Ctrl-Z stops payload and program, which a job-control shell sees; fg continues both"""
    gate = b.work + "/gate"
    for options in ([SQUASHFS], ["--pid", SQUASHFS]):
        terminal = Terminal(b, ["/bin/bash", "--norc", "--noprofile", "-i"])
        terminal.type("PS1='prompt> '\n")
        terminal.expect("prompt> ")
        quoted = " ".join([b.postern, "exec", *options])
        terminal.type(f"{quoted} sh -c 'echo up; while ! test -e {gate}; do sleep 0.05; done; echo done; exit 3'\n")
        terminal.expect("up\r\n")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.expect("prompt> ")
        with open(gate, "w"):
            pass
        terminal.type("fg\n")
        terminal.expect("done\r\n")
        terminal.type("echo status $?\n")
        terminal.expect("status 3")
        terminal.type("exit\n")
        terminal.end()
        os.unlink(gate)


def payload_that_stops_itself(b):
    """a payload that stops itself stops the program, and SIGCONT to the program continues it"""
    process = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; kill -STOP $$; echo on; exit 5")
    assert process.stdout.readline() == b"ready\n"
    wait_until(lambda: state_of(process.pid) == "T", "the program did not stop")
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"on\n", 5)


def interactive_shell(b):
    """an interactive shell has the terminal: its own job control works"""
    terminal = Terminal(b, [b.postern, "shell", SQUASHFS])
    terminal.type("PS1='in'side'> '\n")
    terminal.expect("inside> ")
    shell = os.tcgetpgrp(terminal.master)
    terminal.type("sleep 600\n")
    # A program has the terminal, and is no copy of the shell any more, which handles the key.
    wait_until(lambda: os.tcgetpgrp(terminal.master) != shell and not catches(os.tcgetpgrp(terminal.master), signal.SIGINT), "sleep does not run")
    terminal.type("\x03")
    terminal.expect("inside> ")
    terminal.type("echo $((40+2))\n")
    terminal.expect("42")
    terminal.type("exit 6\n")
    assert terminal.end() == 6


def terminal_of_the_caller(b):
    """the payload's standard streams are the caller's terminal"""
    terminal = Terminal(b, [b.postern, "exec", SQUASHFS, "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo a terminal"])
    terminal.expect("a terminal")
    assert terminal.end() == 0


def hangup_of_a_leader(b):
    """a hangup of the terminal ends a payload whose program leads the session"""
    terminal = Terminal(b, [b.postern, "exec", SQUASHFS, "sh", "-c", "echo ready; exec sleep 60"])
    terminal.expect("ready")
    assert terminal.process.poll() is None
    os.close(terminal.master)
    terminal.process.wait(timeout=60)
    assert terminal.process.returncode == -signal.SIGHUP, terminal.process.returncode


bench.main([signals_are_forwarded, signal_kills_both, alarm_of_the_caller, one_interrupt_once, interrupt_ends_a_payload,
            server_outlives_ctrl_c, stop_and_continue, payload_that_stops_itself, interactive_shell, terminal_of_the_caller,
            hangup_of_a_leader])
