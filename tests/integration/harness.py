"""What the tests of running share: an ordinary user, images, a run, and a look at what was left.

Run as root (a user is made and removed). The programs are those of POSTERN=/path/bin/postern, or are
copied from the build tree named by POSTERN_BUILD into a prefix of the test's own. A suite that is called
as `SUITE.py --suid LIBEXEC CONFDIR [CASE...]` runs through the setuid helper, which is installed in these
directories as a mount namespace of the suite's own shows them. Prints TAP.
"""
import atexit
import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import images  # noqa: E402
import tap  # noqa: E402
import users  # noqa: E402
from tap import Skip, skip_all as skip  # noqa: E402, F401: the suites raise and call them by these names

SUID = sys.argv[1:2] == ["--suid"]
if SUID:
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../suid"))
    import world as worlds  # noqa: E402
    worlds.enter_namespace()
    LIBEXEC, CONFDIR = sys.argv[2:4]
    del sys.argv[1:4]

# What is tested is what postern makes of its caller's signals, not what nohup or a CI left to us.
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])

BUSYBOX = "/bin/busybox"
PARTS = {
    "bin/postern": "frontend/cli/postern",
    "libexec/postern/postern-accounts": "frontend/accounts/postern-accounts",
    "libexec/postern/postern-init": "frontend/init/postern-init",
    "libexec/postern/postern-squashfs": "frontend/squashfs/postern-squashfs",
    "libexec/postern/postern-squashfs-plain": "frontend/squashfs/postern-squashfs-plain",
}
# As meson installs them: from their first instruction on nobody of their user may look into them.
UNREADABLE = ("libexec/postern/postern-squashfs", "libexec/postern/postern-squashfs-plain", "libexec/postern/postern-crypt")
APPLETS = ("sh cat ls id env echo true false sleep kill pwd mount readlink stat touch mkdir hostname "
           "head tr grep seq wc ps umask dd printf test ip ifconfig sort setsid stty").split()


class User:
    """A fresh account, removed at the end."""

    def __init__(self):
        entry = users.account()
        self.name = entry.pw_name
        self.uid, self.gid, self.home = entry.pw_uid, entry.pw_gid, entry.pw_dir
        self.groups = [self.gid, 100]  # and a supplementary one

    def remove(self):
        users.remove_account(self.name)


class Bench:
    """One test program's surroundings."""

    def __init__(self):
        if os.geteuid() != 0:
            skip("needs root, to become somebody else")
        if not os.path.exists(BUSYBOX):
            skip("needs busybox-static")
        if os.path.exists("/dev/fuse"):
            os.chmod("/dev/fuse", 0o666)
        self.user = User()
        atexit.register(self.cleanup)
        self.top = tempfile.mkdtemp(prefix="postern-it-")
        os.chmod(self.top, 0o755)
        self.work = self.make_directory("work")
        self.world = self.install_helper() if SUID else None
        self.postern = os.environ.get("POSTERN") or self.copy_programs()
        self.mounts_before = self.host_mounts()
        # A fresh account may get the number of one that was removed, whose files may still lie about.
        self.files_before = set(self.temporary_files())
        # Somebody else on the same machine, without an account.
        self.other = users.reserve(1)[0]

    def cleanup(self):
        self.end_processes()
        shutil.rmtree(self.top, ignore_errors=True)
        for path in glob.glob(f"/tmp/postern-{self.user.uid}*"):
            shutil.rmtree(path, ignore_errors=True)
        self.user.remove()

    def make_directory(self, name, mode=0o755):
        path = os.path.join(self.top, name)
        os.makedirs(path)
        os.chown(path, self.user.uid, self.user.gid)
        os.chmod(path, mode)
        return path

    def copy_programs(self):
        build = os.environ["POSTERN_BUILD"]
        for target, source in PARTS.items():
            if self.world and target.startswith("libexec/"):
                continue  # installed where postern looks for it
            path = os.path.join(self.top, "prefix", target)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copy(os.path.join(build, source), path)
            os.chmod(path, 0o711 if target in UNREADABLE else 0o755)
        return os.path.join(self.top, "prefix/bin/postern")

    @staticmethod
    def install_helper():
        build = os.environ["POSTERN_BUILD"]
        world = worlds.World(f"{build}/helper/postern-helper", f"{build}/policy/judge/postern-judge", BUSYBOX, LIBEXEC, CONFDIR)
        atexit.register(world.close)
        for target, source in PARTS.items():
            if target.startswith("libexec/"):
                world.install(f"{build}/{source}", os.path.basename(target), 0o711 if target in UNREADABLE else 0o755)
        return world

    # ------------------------------------------------------------------------------------ images

    def rootfs(self, name="rootfs", files=None, empty=False):
        """A small root with busybox; `files`: path -> text, executable if it starts with #!."""
        top = self.make_directory(name)
        if not empty:
            for directory in ("bin dev proc sys tmp etc root home var/tmp".split()):
                os.makedirs(os.path.join(top, directory))
            shutil.copy(BUSYBOX, os.path.join(top, "bin/busybox"))
            for applet in APPLETS:
                os.symlink("busybox", os.path.join(top, "bin", applet))
            for path, text in (("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n"),
                               ("etc/hosts", ""), ("etc/resolv.conf", "")):
                with open(os.path.join(top, path), "w") as file:
                    file.write(text)
        for path, text in (files or {}).items():
            full = os.path.join(top, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w") as file:
                file.write(text)
            if text.startswith("#!"):
                os.chmod(full, 0o755)
        subprocess.run(["chown", "-R", f"{self.user.uid}:{self.user.gid}", top], check=True)
        return top

    def squashfs(self, directory, compression="zstd"):
        image = images.squashfs(directory, directory + f".{compression}.sqfs", "-comp", compression)
        os.chown(image, self.user.uid, self.user.gid)
        return image

    def sif(self, squashfs, name="hand.sif", **fields):
        """A SIF with one partition."""
        with open(squashfs, "rb") as file:
            return images.write_sif(os.path.join(self.top, name), file.read(), self.user.uid, **fields)

    # --------------------------------------------------------------------------------------- runs

    def environment(self, extra=None):
        base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": self.user.home, "USER": self.user.name,
                "TERM": "dumb", "LANG": "C"}
        base.update(extra or {})
        return base

    def popen(self, *arguments, env=None, cwd=None, command=None, **keywords):
        keywords.setdefault("stdin", subprocess.DEVNULL)
        keywords.setdefault("stdout", subprocess.PIPE)
        keywords.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(command or [self.postern, *arguments], user=self.user.uid, group=self.user.gid,
                                extra_groups=self.user.groups, env=self.environment(env), cwd=cwd or self.work,
                                **keywords)

    def run(self, *arguments, timeout=60, stdin=None, **keywords):
        if stdin is not None:
            keywords["stdin"] = subprocess.PIPE
        process = self.popen(*arguments, **keywords)
        try:
            out, err = process.communicate(stdin.encode() if stdin is not None else None, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{arguments} did not end within {timeout} s") from None
        return Result(process.returncode, out, err)

    # -------------------------------------------------------------------------------------- leaks

    def processes(self, pattern=None):
        """Pids of the user's live processes."""
        found = []
        for path in glob.glob("/proc/[0-9]*"):
            try:
                with open(path + "/status") as file:
                    status = file.read()
                if f"\nUid:\t{self.user.uid}\t" not in status or "\nState:\tZ" in status:
                    continue
                with open(path + "/cmdline", "rb") as file:
                    command = file.read().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if pattern is None or pattern in command:
                found.append(int(path[6:]))
        return found

    def host_mounts(self):
        """Mounts of ours, but for those in the directory of another run of these tests."""
        with open("/proc/1/mountinfo") as file:
            return {line.split()[4] for line in file if "postern" in line and (self.top in line or "/postern-it-" not in line)}

    def loops(self):
        """Loop devices over files of this test: others on this host may come and go."""
        found = set()
        for path in glob.glob("/sys/block/loop*/loop/backing_file"):
            try:
                with open(path) as file:
                    if file.read().startswith(self.top):
                        found.add(path)
            except OSError:
                continue
        return found

    def sockets(self):
        """Sockets of this user's servers that somebody listens at. A start that was killed leaves its name."""
        found = []
        for path in glob.glob(f"/tmp/postern-{self.user.uid}*/*") + glob.glob(f"/tmp/postern-{self.user.uid}*/instances/*"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe, contextlib.suppress(OSError):
                # By a short name: the path of an address has 108 bytes.
                folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
                try:
                    probe.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
                    found.append(path)
                finally:
                    os.close(folder)
        return found

    def temporary_files(self):
        found = []
        for place in ("/tmp", "/var/tmp", "/dev/shm"):
            for name in os.listdir(place):
                try:
                    mine = os.lstat(os.path.join(place, name)).st_uid == self.user.uid
                    if mine and not name.startswith(f"postern-{self.user.uid}"):
                        found.append(os.path.join(place, name))
                except OSError:
                    continue
        return found

    @staticmethod
    def command_line(pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return f"{pid}: " + file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return f"{pid}: ended meanwhile"

    def leaks(self):
        return {name: value for name, value in (
            ("processes", list(map(self.command_line, self.processes()))), ("sockets", self.sockets()), ("files", sorted(set(self.temporary_files()) - self.files_before)),
            ("mounts", sorted(self.host_mounts() - self.mounts_before)),
            ("loop devices", sorted(self.loops()))) if value}

    # ---------------------------------------------------------------------------------- reporting

    def main(self, tests):
        sys.exit(tap.run(tests, sys.argv[1:], call=lambda test: test(self), after=self.check_leaks, on_failure=self.end_processes))

    def end_processes(self):
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def check_leaks(self):
        # The kernel takes mounts down a little after the last process; a server notices after that.
        deadline = time.monotonic() + 60
        while leaks := self.leaks():
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind: {leaks}")
            time.sleep(0.02)


class Result:
    def __init__(self, code, out, err):
        self.code = code
        self.out = out.decode(errors="replace") if out is not None else ""
        self.err = err.decode(errors="replace") if err is not None else ""

    def __repr__(self):
        return f"exit {self.code}\nstdout: {self.out[:1500]}\nstderr: {self.err[:1500]}"

    def ok(self):
        assert self.code == 0, repr(self)
        return self

    def fails(self, code, *words):
        """With this status and one line of error that has all the words."""
        assert self.code == code, f"expected exit {code}: {self!r}"
        for word in words:
            assert word in self.err, f"{word!r} is not in: {self!r}"
        lines = [line for line in self.err.splitlines() if line.startswith(("FATAL:", "ERROR:"))]
        assert len(lines) == 1, f"one line of error: {self!r}"
        return self

    def prints(self, text):
        self.ok()
        assert self.out == text, f"expected {text!r}: {self!r}"
        return self

    @property
    def lines(self):
        return self.out.splitlines()
