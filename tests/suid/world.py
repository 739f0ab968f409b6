"""The installed setuid program in a mount namespace of the test's own, and users to attack it with.

The configured prefix is covered by a fresh tmpfs there, so nothing of the host is touched and the paths
that are compiled in are the real ones.
"""
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import liar

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import images  # noqa: E402
import users  # noqa: E402
import tap  # noqa: E402
from tap import skip_all as skip  # noqa: E402

T1, T2, JUDGE, *_MORE = users.reserve(5)  # attacker, bystander, the judge's user: ids without names will do
T1_GROUPS = [T1, *_MORE]
WORK_PREFIX = "/var/tmp/postern-suid."
T1_NAME = users.name()  # once home() was called
SITE = """
[suid]
enabled = true
[allow]
user-namespace = true
[kernel-mount]
squashfs = "any"
[audit]
required = false
"""


def enter_namespace():
    """Runs this script again in a private mount namespace; returns in the second run."""
    if os.environ.get("POSTERN_SUID_WORLD") != "1":
        os.environ["POSTERN_SUID_WORLD"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


@contextlib.contextmanager
def syslog(out, work):
    """busybox syslogd behind /dev/log, which writes to the file `out`; `work` is a directory of this run.

    On a machine without a log daemon all mount namespaces share the /dev that gets the socket's name.
    """
    with users.alone("dev-log"):
        yield from syslog_alone(out, work)


def syslog_alone(out, work):
    if os.path.islink("/dev/log") and os.readlink("/dev/log").startswith(WORK_PREFIX):
        os.unlink("/dev/log")  # of a run that was killed
    name, made = os.path.realpath("/dev/log"), False
    if name == "/dev/log":
        os.mkdir(f"{work}/log")
        name, made = f"{work}/log/socket", True
        os.symlink(name, "/dev/log")
    else:
        subprocess.run(["mount", "-t", "tmpfs", "postern-suid-test", os.path.dirname(name)], check=True)
    daemon = subprocess.Popen(["busybox", "syslogd", "-n", "-O", out])
    try:
        tap.wait_until(lambda: os.path.exists(name), "syslogd opened no socket")
        os.chmod(name, 0o666)
        yield
    finally:
        daemon.terminate()
        daemon.wait()
        if made:
            os.unlink("/dev/log")
            shutil.rmtree(f"{work}/log")
        else:
            subprocess.run(["umount", os.path.dirname(name)], check=True)


class World:
    def __init__(self, helper, judge, probe, libexec, confdir):
        if os.geteuid() != 0:
            skip("needs root to install a setuid program")
        self.libexec, self.confdir = libexec, confdir
        self.staying = []  # processes of as_user(stay=True)
        self.helper = f"{libexec}/postern-helper"
        for path in (libexec, confdir):
            while not os.path.isdir(path):
                path = os.path.dirname(path)
            if path in ("/", "/usr", "/etc"):
                skip(f"the prefix would have to cover {path}")
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "postern-suid-test", path], check=True)
            os.makedirs(libexec if path in libexec else confdir, exist_ok=True)
        os.makedirs(f"{libexec}/judge.d", mode=0o700)
        os.makedirs(confdir, exist_ok=True)
        os.chown(f"{libexec}/judge.d", JUDGE, JUDGE)
        self.install(helper, "postern-helper", 0o4711)
        self.install(judge, "postern-judge", 0o711)
        self.configure()
        self.work = tempfile.mkdtemp(prefix=os.path.basename(WORK_PREFIX), dir=os.path.dirname(WORK_PREFIX))
        os.chmod(self.work, 0o755)
        self.probe = f"{self.work}/probe"
        shutil.copy(probe, self.probe)
        os.chmod(self.probe, 0o755)
        self.root = self.make_root("root")

    def install(self, source, name, mode):
        target = f"{self.libexec}/{name}"
        shutil.copyfile(source, target)
        os.chown(target, 0, 0)
        os.chmod(target, mode)

    def configure(self, site=SITE, ecl="activated = false\n"):
        for name, text in (("postern.toml", site), ("ecl.toml", ecl)):
            with open(f"{self.confdir}/{name}", "w") as file:
                file.write(text)
            os.chmod(f"{self.confdir}/{name}", 0o644)

    def make_root(self, name, owner=T1):
        root = f"{self.work}/{name}"
        for directory in ("", "/etc", "/bin", "/usr", "/proc", "/home", "/bind"):
            os.mkdir(root + directory)
        with open(root + "/etc/hostname", "w") as file:
            file.write("image\n")
        os.symlink("/etc", root + "/link")
        subprocess.run(["chown", "-R", f"{owner}:{owner}", root], check=True)
        return root

    def squashfs(self, name, source):
        image = images.squashfs(source, f"{self.work}/{name}")
        os.chmod(image, 0o644)
        return image

    def home(self):
        """A home directory for T1, who gets an account of the name T1_NAME."""
        home = f"{self.work}/home"
        os.mkdir(home)
        os.chown(home, T1, T1)
        # No file mounted over /etc/passwd: that mount goes when any program on this machine replaces the file.
        users.account(T1, home)
        return home

    @staticmethod
    def sif(path, data):
        """A SIF of T1's with one partition at 32768."""
        images.write_sif(path, data, T1)

    def close(self):
        subprocess.run(["umount", "-R", "-q", self.work], check=False)
        if os.path.isdir(f"{self.work}/home"):
            users.remove_account(T1_NAME)
        shutil.rmtree(self.work, ignore_errors=True)

    # ------------------------------------------------------------------------- the host around it

    def freezer(self):
        """An empty freezer group: (path, its switch, what freezes and what thaws it) (cgroups(7))."""
        v1, v2 = "/sys/fs/cgroup/freezer", "/sys/fs/cgroup"
        unified = not os.path.isdir(v1)
        group = f"{v2 if unified else v1}/postern-suid-test-{os.getpid()}"
        os.mkdir(group)
        return (group, "cgroup.freeze", "10") if unified else (group, "freezer.state", ("FROZEN", "THAWED"))

    def remove_group(self, group):
        def removed():
            with contextlib.suppress(OSError):
                os.rmdir(group)
            return not os.path.isdir(group)
        tap.wait_until(removed, f"{group} is in use")

    @contextlib.contextmanager
    def syslog(self):
        """A log daemon, seen from this mount namespace; gives a function: the lines of our users so far."""
        out = f"{self.work}/journal"
        with contextlib.suppress(FileNotFoundError):  # of another case
            os.unlink(out)
        with syslog(out, self.work):
            def text():
                with open(out) as file:
                    return file.read()

            def lines():
                # Datagrams come in the order in which they were sent: once this one is there, those before it are.
                mark = f"mark {time.monotonic_ns()}"
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
                    log.connect("/dev/log")
                    log.send(f"<13>suid-test: {mark}".encode())
                tap.wait_until(lambda: f"{mark}\n" in text(), f"the log daemon does not write: {text()}")
                ours = [line for line in text().splitlines(keepends=True) if "postern" in line]
                # Starts of other runs are logged here too. The helper's own line ends with the user.
                mine = {f"uid={T1}", f"uid={T2}"}
                return [line for line in ours if "uid=" not in line or mine & set(line.split())]
            yield lines

    # ---------------------------------------------------------------------------------- invariants

    def mounts(self):
        with open("/proc/self/mountinfo") as file:
            return file.read()

    @staticmethod
    def changes_of(before, after):
        """Lines of mountinfo that have come or gone, but for mounts whose directory another mount namespace has removed
        (unlink(2) takes a mount away there too)."""
        before, after = (dict.fromkeys(text.splitlines()) for text in (before, after))

        def point(line):
            return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
        gone = [line for line in before if line not in after and os.path.lexists(point(line))]
        return gone + [line for line in after if line not in before]

    def loops(self):
        """Files behind loop devices: those of this test, others come and go on this machine."""
        found = []
        for path in glob.glob("/sys/block/loop*/loop/backing_file"):
            with contextlib.suppress(OSError):  # it is going
                with open(path) as file:
                    found.append(file.read().strip())
        return sorted(name for name in found if name.startswith(f"{self.work}/"))

    def processes(self):
        """What still runs of the helper, the judge or a payload: (pid, name)."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                with open(f"/proc/{entry}/status") as file:
                    fields = dict(line.split(":", 1) for line in file if ":" in line)
            except OSError:
                continue
            uids = {int(uid) for uid in fields["Uid"].split()}
            if uids & {T1, T2, JUDGE} and "Z" not in fields["State"]:
                found.append((int(entry), fields["Name"].strip()))
        return found

    def settle(self):
        """Waits until no process of the users is left; what is left, if any."""
        with contextlib.suppress(AssertionError):
            tap.wait_until(lambda: not self.processes(), "")
        self.staying = [pid for pid in self.staying if os.waitpid(pid, os.WNOHANG)[0] == 0]
        return self.processes()

    def check_unchanged(self, mounts, loops):
        tap.check(self.settle() == [], f"processes left: {self.processes()}")
        tap.wait_until(lambda: self.loops() == loops, lambda: f"loop devices left: {self.loops()}")
        changes = self.changes_of(mounts, self.mounts())
        tap.check(not changes, "the mount table changed: " + "\n".join(changes))

    def end_processes(self):
        for pid, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(self, cases, part=""):
        """The cases with this part in their name: after each, mounts, loop devices and processes are what they were."""
        before = []

        def call(function):
            before[:] = self.mounts(), self.loops()
            function()
        try:
            return tap.run([case for case in cases if part in case.__name__], call=call,
                           after=lambda: self.check_unchanged(*before), on_failure=self.end_processes, timed=True)
        finally:
            self.close()

    # --------------------------------------------------------------------------------- as the user

    def as_user(self, function, uid=T1, groups=None, keep_sys_admin=False, join=None, stay=False):
        """Runs function() in a child with the user's ids; returns its JSON-able result. `join`: the
        cgroup.procs of a group that the child enters first. `stay`: the child lives as long as what it
        started, which would else end with it."""
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            answer = ""
            try:
                if join is not None:
                    with open(join, "w") as members:
                        members.write("0")
                os.setgroups(T1_GROUPS if groups is None else groups)
                os.setresgid(uid, uid, uid)
                if keep_sys_admin:  # until the next exec
                    liar.LIBC.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
                os.setresuid(uid, uid, uid)
                if keep_sys_admin:
                    header, caps = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 1 << 21, 1 << 21, 0, 0, 0, 0)
                    if liar.LIBC.capset(header, caps) != 0:
                        raise OSError("capset")
                os.chdir("/")
                answer = json.dumps({"value": function()})
            except BaseException as error:  # the parent reports it
                answer = json.dumps({"error": f"{error!r}\n{traceback.format_exc()}"})
            finally:
                with os.fdopen(write_end, "w") as out:
                    out.write(answer)
                while stay:
                    try:
                        os.wait()
                    except ChildProcessError:
                        stay = False
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as answers:
            text = answers.read()
        if stay:
            self.staying.append(pid)
        else:
            os.waitpid(pid, 0)
        answer = json.loads(text or '{"error": "the child died"}')
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["value"]
