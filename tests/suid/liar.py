"""A client of postern-helper, written from protocol/launch.capnp and protocol/verdict.h and not from our
encoder: it says whatever a test wants said, well-formed or not."""
import array
import ctypes
import fcntl
import os
import signal
import socket
import struct
import traceback

NONE = 0xFFFF
RIGHTS = 253  # of one datagram: SCM_MAX_FD (unix(7))
IMAGE, FUSE, DIRECTORY = 1, 2, 3
NO_SCRATCH, MOUNT_POINTS, WRITABLE, STORED = 0, 1, 2, 3
CGROUP, UTS, IPC, PID, NET = 1 << 25, 1 << 26, 1 << 27, 1 << 29, 1 << 30  # CLONE_NEW…
BIND, FILE, TMPFS, PROC, SYSFS, DEV_HOST, DEVICE, DEVPTS, MQUEUE = range(1, 10)
READ_ONLY, OPTIONAL, IS_DIRECTORY, NEEDS_TARGET = 1, 2, 4, 8
REPLY = struct.Struct("=HHiIi")


class Words:
    """One Cap'n Proto segment, objects in the order in which they are allocated."""

    def __init__(self):
        self.data = bytearray()

    def allocate(self, words):
        at = len(self.data)
        self.data += bytes(8 * words)
        return at

    def point(self, at, kind_bits, target, high):
        offset = (target - at - 8) // 8
        struct.pack_into("<II", self.data, at, (offset << 2 | kind_bits) & 0xFFFFFFFF, high)

    def text(self, at, value):
        if value:
            raw = value.encode("utf-8", "surrogateescape") + b"\0"
            target = self.allocate((len(raw) + 7) // 8)
            self.data[target:target + len(raw)] = raw
            self.point(at, 1, target, len(raw) << 3 | 2)

    def structs(self, at, count, words, pointers):
        target = self.allocate(1 + count * (words + pointers))
        struct.pack_into("<IHH", self.data, target, count << 2, words, pointers)
        self.point(at, 1, target, count * (words + pointers) << 3 | 7)
        return target + 8


class Request:
    """Fields by name; `descriptors` in order. Defaults: a directory root with nothing else."""

    def __init__(self, root_fd, kind=DIRECTORY, **fields):
        self.version, self.root, self.writable, self.scratch_bytes = 3, kind, 0, 16 << 20
        self.scratch = NO_SCRATCH if kind == DIRECTORY else MOUNT_POINTS
        self.upper = self.key = self.net = self.init = self.record = NONE
        self.namespaces = self.capabilities = 0
        self.hostname, self.layers, self.mounts, self.descriptors = "", [], [], [root_fd]
        self.__dict__.update(fields)

    def add(self, fd):
        self.descriptors.append(fd)
        return len(self.descriptors) - 1

    def mount(self, operation, target, descriptor=NONE, flags=0, mode=0, size=0):
        if operation == TMPFS and mode == 0:
            mode = 0o755
        self.mounts.append((operation, flags, descriptor, mode, size, target))

    def encode(self):
        w = Words()
        w.allocate(1)
        body = w.allocate(5 + 3)
        w.point(0, 0, body, 3 << 16 | 5)
        struct.pack_into("<HBBBxHQHHIQHH4x", w.data, body, self.version, self.root, self.scratch, self.writable, self.upper ^ NONE,
                         self.scratch_bytes, self.key ^ NONE, self.net ^ NONE, self.namespaces, self.capabilities, self.init ^ NONE,
                         self.record ^ NONE)
        w.text(body + 40, self.hostname)
        at = w.structs(body + 48, len(self.layers), 1, 0)
        for kind, descriptor in self.layers:
            struct.pack_into("<BxH", w.data, at, kind, descriptor ^ NONE)
            at += 8
        at = w.structs(body + 56, len(self.mounts), 2, 1)
        for operation, flags, descriptor, mode, size, target in self.mounts:
            struct.pack_into("<BBHIQ", w.data, at, operation, flags, descriptor ^ NONE, mode, size)
            w.text(at + 16, target)
            at += 24
        return struct.pack("<II", 0, len(w.data) // 8) + bytes(w.data)


class Reply:
    def __init__(self, raw):
        self.raw = raw
        self.refusal = self.op = self.err = self.item = self.pid = None
        if len(raw) == REPLY.size:
            self.refusal, self.op, self.err, self.item, self.pid = REPLY.unpack(raw)

    def __repr__(self):
        return (f"reply(refusal {self.refusal}, op {self.op}, errno {self.err}, item {self.item}, pid {self.pid})"
                if self.refusal is not None else f"reply({self.raw!r})")


def memfd(content, seals=0, name="liar"):
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, 1033, seals or 1)  # F_ADD_SEALS, F_SEAL_SEAL
    return fd


class Start:
    """A helper that runs. Made in a process that already is the attacking user."""

    def __init__(self, program, argv=("postern-helper",), env=None, before_exec=None,
                 with_socket=True, stdout=None):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(30)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.dup2(stdout if stdout is not None else os.open("/dev/null", os.O_WRONLY), 1)
                if with_socket:
                    os.dup2(theirs.fileno(), 3)
                else:
                    os.close(3)
                if before_exec:
                    before_exec()
                os.execve(program, list(argv), env or {})
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(99)
        theirs.close()

    def send(self, payload, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.ours.sendmsg([payload], rights)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def ask(self, request, message=None):
        """The request and its descriptors: as many datagrams as they need, the last of which says so."""
        content = memfd(request.encode() if message is None else message)
        descriptors = [content, *request.descriptors]
        for at in range(0, len(descriptors), RIGHTS):
            self.send(b"\1" if len(descriptors) > at + RIGHTS else b"\0", descriptors[at:at + RIGHTS])
        os.close(content)

    def reply(self):
        for _ in range(2):
            try:
                return Reply(self.ours.recv(256))
            except ConnectionResetError:
                pass  # it answered without having read the request (unix(7)); the answer is next
            except TimeoutError as error:
                return Reply(repr(error).encode())
        return Reply(b"reset")

    def wait(self):
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def end(self):
        """Reply, helper's status, payload's status (None where there is none)."""
        reply = self.reply()
        status = self.wait()
        payload = None
        if reply.pid:
            _, raw = os.waitpid(reply.pid, 0)
            payload = os.waitstatus_to_exitcode(raw)
        return reply, status, payload


LIBC = ctypes.CDLL(None, use_errno=True)


def set_no_new_privs():
    assert LIBC.prctl(38, 1, 0, 0, 0) == 0


def trace_me():
    assert LIBC.ptrace(0, 0, 0, 0) == 0


def detach(pid):
    os.waitpid(pid, os.WUNTRACED)
    LIBC.ptrace(7, pid, 0, 0)  # PTRACE_CONT: stays traced
    return signal.SIGTRAP


def fail_call(number, err):
    """From here the call fails with `err`, or with 0 pretends that it worked. Not no_new_privs, which would
    tell the helper: it takes CAP_SYS_ADMIN, which the exec of the helper then takes away again."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | err), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("=HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program)
    fprog = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    if LIBC.prctl(22, 2, fprog, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")
