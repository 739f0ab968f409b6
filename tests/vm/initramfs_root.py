#!/usr/bin/env python3
"""Where "/" is the initramfs itself, as on stateless nodes: containers in user namespaces, no way from them back to the
host's tree, and what the setuid helper says there. Prints TAP.

Runs inside boot.sh with POSTERN_VM_ROOT=initramfs.
Usage: initramfs_root.py ESCAPE HELPER JUDGE POSTERN INIT SQUASHFS LIBEXEC CONFDIR
"""
import os
import pwd
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../suid"))
import world as worlds  # noqa: E402
import images  # noqa: E402
import tap  # noqa: E402
from tap import check  # noqa: E402

ESCAPE, HELPER, JUDGE, POSTERN, INIT, SQUASHFS, LIBEXEC, CONFDIR = sys.argv[1:9]
BUSYBOX = "/bin/busybox"
MARK = f"postern-mark-{os.getpid()}"
# What a payload may hold: nothing; everything in its user namespace, as itself or as root there.
RIGHTS = {"no capabilities": (), "all capabilities": ("--add-caps", "all"), "fake root": ("--fakeroot",),
          "fake root in a pid namespace": ("--fakeroot", "--pid")}
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
PROGRAM = f"{W.work}/escape"
for source, target in ((POSTERN, BINARY), (ESCAPE, PROGRAM)):
    shutil.copy(source, target)
    os.chmod(target, 0o755)
with open(f"/{MARK}", "w") as file:
    file.write("of the host\n")


def make_images():
    root = f"{W.work}/tree"
    for name in ("bin", "proc", "sys", "dev", "tmp", "var/tmp", "etc", "home", "mnt", HOME.lstrip("/")):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    shutil.copy(BUSYBOX, f"{root}/bin/busybox")
    shutil.copy(PROGRAM, f"{root}/bin/escape")
    for applet in ("sh", "cat", "sleep", "echo", "ls", "touch", "id", "true"):
        os.symlink("busybox", f"{root}/bin/{applet}")
    for name in ("passwd", "group", "hosts", "resolv.conf", "localtime", "hostname"):
        open(f"{root}/etc/{name}", "w").close()
    subprocess.run(["chown", "-R", f"{worlds.T1}:{worlds.T1}", root], check=True)
    with open(W.squashfs("tree.sqfs", root), "rb") as file:
        sif = images.write_sif(f"{W.work}/tree.sif", file.read(), worlds.T1)
    return root, sif


DIRECTORY, SIF = make_images()


def popen(*words):
    return subprocess.Popen(words, user=worlds.T1, group=worlds.T1, extra_groups=[], cwd=HOME, text=True,
                            env={"PATH": "/usr/bin:/bin", "HOME": HOME, "LANG": "C"}, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(*words):
    process = popen(*words)
    process.out, process.err = process.communicate(timeout=120)
    return process


def start(*words, mode="--userns"):
    return run(BINARY, "exec", *([mode] if mode else []), *words)


def say(process):
    return f"exit {process.returncode}\nstdout: {process.out[:1500]}\nstderr: {process.err[:1500]}"


def runs(process, out):
    check(process.returncode == 0 and process.out == out, f"expected {out!r}: {say(process)}")


def servers():
    return [name for _, name in W.processes() if name.startswith("postern-squash")]


@test
def this_is_such_a_node():
    """the root of this machine is the initramfs, and pivot_root(2) does not work there"""
    with open("/proc/self/mountinfo") as file:
        check(" / / rw - rootfs " in file.readline(), "/ is something else")
    done = run("unshare", "-Urm", "sh", "-c", "mount -t tmpfs t /tmp && cd /tmp && mkdir old && exec busybox pivot_root . old")
    check(done.returncode != 0 and "Invalid argument" in done.err, say(done))


@test
def containers_start():
    """a directory and an image run, in every kind of namespaces, with layers, binds and fake root"""
    os.makedirs(f"{HOME}/data", exist_ok=True)
    os.chown(f"{HOME}/data", worlds.T1, worlds.T1)
    for image in (DIRECTORY, SIF):
        for words in ((), ("--pid", "--ipc", "--uts"), ("--net", "--network", "none"), ("--contain",), ("--fakeroot",)):
            runs(start(*words, image, "echo", "hello"), "hello\n")
        runs(start("--fakeroot", image, "id", "-u"), "0\n")
        runs(start("--writable-tmpfs", image, "sh", "-c", "echo new >/new && cat /new"), "new\n")
        runs(start("--bind", f"{HOME}/data:/mnt", image, "sh", "-c", "echo kept >/mnt/it"), "")
        with open(f"{HOME}/data/it") as file:
            check(file.read() == "kept\n", "the bind leads elsewhere")
        os.unlink(f"{HOME}/data/it")


@test
def starts_share_a_server():
    """the second start of an image joins the server of the first"""
    first = popen(BINARY, "exec", "--userns", SIF, "sh", "-c", "echo up; cat")
    check(first.stdout.readline() == "up\n", "the first did not start")
    check(len(servers()) == 1, str(W.processes()))
    second = popen(BINARY, "exec", "--userns", SIF, "sh", "-c", "echo up; cat")
    check(second.stdout.readline() == "up\n", "the second did not start")
    check(len(servers()) == 1, str(W.processes()))
    for process in (first, second):
        process.communicate(timeout=60)
        check(process.returncode == 0, "it did not end well")


@test
def instances():
    """an instance starts, is entered and ends"""
    done = run(BINARY, "instance", "start", "--userns", SIF, "one")
    check(done.returncode == 0, say(done))
    runs(start("instance://one", "sh", "-c", f"cat /proc/1/comm >/dev/null; ls /{MARK} 2>/dev/null; echo in", mode=None), "in\n")
    done = run(BINARY, "instance", "stop", "one")
    check(done.returncode == 0, say(done))


@test
def a_bare_container_is_left():
    """the ways that are tried lead from a container that only covers "/" back to the host: the next case can fail"""
    done = run(PROGRAM, "--bare", MARK)
    check(done.returncode == 1 and done.out == "as it is: taking the root away\n", say(done))


@test
def no_way_back():
    """with all capabilities in its user namespace no payload finds the host's tree"""
    for name, options in RIGHTS.items():
        done = start(*options, SIF, "escape", MARK)
        check(done.returncode == 0 and done.out == "", f"{name}: {say(done)}")
    for words in ((DIRECTORY,), ("--writable-tmpfs", SIF)):
        done = start("--fakeroot", *words, "escape", MARK)
        check(done.returncode == 0 and done.out == "", f"{words}: {say(done)}")


@test
def no_way_back_from_an_instance():
    """nor does who enters an instance, or a container beside another whose server it shares"""
    done = run(BINARY, "instance", "start", "--userns", "--fakeroot", SIF, "two")
    check(done.returncode == 0, say(done))
    runs(start("instance://two", "escape", MARK, mode=None), "")
    runs(start("--fakeroot", SIF, "escape", MARK), "")
    done = run(BINARY, "instance", "stop", "two")
    check(done.returncode == 0, say(done))


@test
def the_setuid_helper_says_what_it_cannot():
    """the setuid helper names the initramfs and --userns; doctor does, and says that images can run"""
    for words in ((DIRECTORY, "true"), (SIF, "true")):
        done = start(*words, mode=None)
        check(done.returncode == 255 and '"/" is the initramfs itself' in done.err and "--userns" in done.err, say(done))
        check("user namespaces" not in done.err, say(done))
    try:
        pwd.getpwnam("postern")  # the guest has the host's accounts
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "postern"], check=True)
    doctor = run(BINARY, "doctor")
    line = next(line for line in doctor.out.splitlines() if "setuid-helper" in line)
    check(line.startswith("doesn't") and '"/" is the initramfs itself' in line and "--userns" in line, say(doctor))
    check(doctor.returncode == 0 and "Images can run here, in user namespaces." in doctor.out, say(doctor))


sys.exit(W.run(TESTS))
