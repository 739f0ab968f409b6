"""What the processes of a start used, from the kernel's own accounting: taskstats, cgroups, tracefs.

Nothing here looks at a process while it runs (the helper refuses to be traced, and polling would disturb what is
measured): the kernel reports each process as it exits (Documentation/accounting/taskstats.rst).
"""
import contextlib
import dataclasses
import os
import pathlib
import socket
import struct
import subprocess
import threading
import time

NLM_F_REQUEST, GENL_ID_CTRL = 1, 16
CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 3, 1, 2
TASKSTATS_CMD_GET, REGISTER_CPUMASK = 1, 3
TYPE_STATS, TYPE_AGGR_PID = 3, 4
TGID_AT = 368  # of ac_tgid in struct taskstats


@dataclasses.dataclass
class Exit:
    """One task that has ended."""
    name: str
    uid: int
    pid: int
    process: int  # pid of the process's first task
    parent: int
    lived_ms: float
    peak_kib: int
    ended: float  # time.monotonic()


def attributes(data):
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4:at + length]
        at += (length + 3) & ~3


def message(family, command, attribute, value):
    body = struct.pack("=BBH", command, 1, 0) + struct.pack("=HH", 4 + len(value), attribute) + value.ljust((len(value) + 3) & ~3, b"\0")
    return struct.pack("=IHHII", 16 + len(body), family, NLM_F_REQUEST, 1, 0) + body


def parse(stats):
    """Fields of struct taskstats (linux/taskstats.h)."""
    name = stats[80:112].split(b"\0")[0].decode(errors="replace")
    uid, _, pid, parent = struct.unpack_from("=IIII", stats, 120)
    lived, = struct.unpack_from("=Q", stats, 144)
    peak, = struct.unpack_from("=Q", stats, 200)
    leader = struct.unpack_from("=I", stats, TGID_AT)[0] if len(stats) >= TGID_AT + 4 else pid  # since version 12
    return Exit(name, uid, pid, leader, parent, lived / 1000, peak, time.monotonic())


@contextlib.contextmanager
def exits():
    """A list that is filled with an Exit for each task that ends on this host while the body runs, threads
    included; complete when the body is left."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)  # NETLINK_GENERIC
    link.bind((0, 0))
    link.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
    link.send(message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"TASKSTATS\0"))
    family = next(struct.unpack("=H", value[:2])[0] for kind, value in attributes(link.recv(65536)[20:]) if kind == CTRL_ATTR_FAMILY_ID)
    link.send(message(family, TASKSTATS_CMD_GET, REGISTER_CPUMASK, f"0-{os.cpu_count() - 1}\0".encode()))
    found, done = [], threading.Event()

    def receive():
        link.settimeout(0.2)
        while True:
            try:
                data = link.recv(65536)
            except TimeoutError:
                if done.is_set():
                    return
                continue
            if struct.unpack_from("=H", data, 4)[0] != family:
                continue
            for kind, value in attributes(data[20:]):
                if kind == TYPE_AGGR_PID:
                    found.extend(parse(stats) for inner, stats in attributes(value) if inner == TYPE_STATS)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        link.close()


def most_at_once(tasks):
    """The greatest number of these tasks that lived at one instant."""
    events = sorted([(t.ended - t.lived_ms / 1000, 1) for t in tasks] + [(t.ended, -1) for t in tasks])
    now = most = 0
    for _, step in events:
        now += step
        most = max(most, now)
    return most


class Group:
    """A control group, for the memory of everything in it: program memory, page cache, kernel objects."""

    def __init__(self, name):
        v1 = pathlib.Path("/sys/fs/cgroup/memory")
        top = v1 if v1.is_dir() else pathlib.Path("/sys/fs/cgroup")
        self.peak_file = "memory.max_usage_in_bytes" if v1.is_dir() else "memory.peak"
        self.path = top / name
        try:
            self.path.mkdir()
            (self.path / self.peak_file).read_text()
        except OSError:
            self.close()
            self.path = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for _ in range(100):
            try:
                self.path and self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)

    def join(self):
        """For subprocess's preexec_fn."""
        if self.path:
            (self.path / "cgroup.procs").write_text("0")

    def peak_mib(self):
        """None where there is no memory controller to ask."""
        return int((self.path / self.peak_file).read_text()) / 2**20 if self.path else None


@contextlib.contextmanager
def system_calls(name):
    """A function that, after the body, gives pid -> system calls of processes named `name`; None without tracefs."""
    top = pathlib.Path("/sys/kernel/tracing")
    if not (top / "instances").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", top], stderr=subprocess.DEVNULL)
    instance, counts = top / f"instances/postern-bench-{os.getpid()}", {}
    try:
        instance.mkdir()
    except OSError:
        yield lambda: None
        return
    try:
        (instance / "buffer_size_kb").write_text("4096")  # what does not fit pushes older events out
        event = instance / "events/raw_syscalls/sys_enter"
        (event / "filter").write_text(f'comm == "{name}"')
        (event / "enable").write_text("1")
        yield lambda: counts
        (event / "enable").write_text("0")
        for line in (instance / "trace").read_text().splitlines():
            if "sys_enter" in line:
                pid = int(line.split("[")[0].rpartition("-")[2])
                counts[pid] = counts.get(pid, 0) + 1
    finally:
        instance.rmdir()
