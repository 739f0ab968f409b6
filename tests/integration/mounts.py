#!/usr/bin/env python3
"""Default mounts, binds, overlays and the switches that contain."""
import os
import shutil

import harness
from tap import wait_until

bench = harness.Bench()
ROOT = bench.rootfs()
SQUASHFS = bench.squashfs(ROOT)
LAYER = bench.squashfs(bench.rootfs("layer", files={"from-layer/file": "layered\n"}, empty=True))
DATA = bench.make_directory("data set: a,b")
with open(DATA + "/file", "w") as handle:
    handle.write("data\n")
os.chown(DATA + "/file", bench.user.uid, bench.user.gid)
PLAIN = bench.make_directory("plain")
with open(PLAIN + "/file", "w") as handle:
    handle.write("plain\n")


def default_mounts(b):
    """home, the current directory, /tmp, /proc, /sys, /dev, hosts and resolv.conf are the host's"""
    with open(b.user.home + "/mine", "w") as file:
        file.write("home\n")
    for image in (ROOT, SQUASHFS):
        b.run("exec", image, "cat", b.user.home + "/mine").prints("home\n")
        result = b.run("exec", image, "sh", "-c", f"touch {b.work}/made && test -e /proc/self/stat && test -d /sys/kernel && "
                       "echo x > /dev/null && test -s /etc/hosts && echo fine").prints("fine\n")
        assert os.path.exists(b.work + "/made"), repr(result)
        os.unlink(b.work + "/made")


def no_mount(b):
    """--no-mount and --no-home leave out what they name"""
    assert b.run("exec", "--no-home", SQUASHFS, "test", "-e", b.user.home).code == 1
    assert b.run("exec", "--no-mount", "home", SQUASHFS, "test", "-e", b.user.home).code == 1
    assert b.run("exec", "--no-mount", "proc", SQUASHFS, "test", "-e", "/proc/self").code == 1
    assert b.run("exec", "--no-mount", "sys", SQUASHFS, "test", "-e", "/sys/kernel").code == 1


def contain(b):
    """--contain: empty home and /tmp, a minimal /dev, not the current directory"""
    listing = b.run("exec", "--contain", SQUASHFS, "ls", "/dev").ok().out.split()
    assert {"null", "zero", "random", "urandom", "tty", "pts", "ptmx", "shm", "fd", "stdin"} <= set(listing), listing
    assert "fuse" not in listing and "kmsg" not in listing, listing
    b.run("exec", "--contain", SQUASHFS, "sh", "-c", "ls -A /tmp $HOME; touch /tmp/x $HOME/x /dev/shm/x && echo fine").ok()
    assert b.run("exec", "--contain", SQUASHFS, "test", "-e", b.work).code == 1
    b.run("exec", "--contain", SQUASHFS, "sh", "-c", "echo x > /dev/null && head -c 4 /dev/zero | wc -c").prints("4\n")
    b.run("exec", "--compat", SQUASHFS, "sh", "-c", "touch /new && echo $$").ok()


def workdir_and_scratch(b):
    """--workdir keeps /tmp and scratch directories of --contain; without it they are private"""
    work = b.make_directory("workdir")
    b.run("exec", "--contain", "--workdir", work, "--scratch", "/scr", SQUASHFS, "touch", "/tmp/a", "/scr/b").ok()
    assert os.path.exists(work + "/tmp/a") and os.path.exists(work + "/scratch/scr/b"), os.listdir(work)
    b.run("exec", "--scratch", "/scr", SQUASHFS, "sh", "-c", "touch /scr/b && ls /scr").prints("b\n")


def binds(b):
    """--bind: source, destination, options; a missing destination appears; read-only is read-only"""
    for image in (ROOT, SQUASHFS):
        b.run("exec", "--bind", PLAIN, image, "cat", PLAIN + "/file").prints("plain\n")
        b.run("exec", "--bind", f"{PLAIN}:/deep/er/place", image, "cat", "/deep/er/place/file").prints("plain\n")
        b.run("exec", "--bind", f"{PLAIN}/file:/etc/hosts", image, "cat", "/etc/hosts").prints("plain\n")
        b.run("exec", "--bind", f"{PLAIN}/file:/new/file", image, "cat", "/new/file").prints("plain\n")
        result = b.run("exec", "--bind", f"{PLAIN}:/mnt:ro", image, "touch", "/mnt/x")
        assert result.code == 1 and "Read-only" in result.err, repr(result)
        b.run("exec", "--bind", f"{PLAIN}:/mnt", image, "sh", "-c", "touch /mnt/x && rm /mnt/x && echo w").prints("w\n")
    assert not os.path.exists(ROOT + "/deep"), "a mount point was left in the image directory"


def awkward_paths(b):
    """paths with spaces, colons, commas and newlines can be bound"""
    escaped = DATA.replace(":", "\\:").replace(",", "\\,")
    b.run("exec", "--bind", f"{escaped}:/mnt", SQUASHFS, "cat", "/mnt/file").prints("data\n")
    b.run("exec", "--mount", f'type=bind,"source={DATA}",target=/mnt', SQUASHFS, "cat", "/mnt/file").prints("data\n")
    newline = b.make_directory("new\nline")
    b.run("exec", "--bind", f"{newline}:/mnt/with space", SQUASHFS, "ls", "/mnt").prints("with space\n")


def binds_follow_links_inside(b):
    """a destination that is a symbolic link in the image stays inside the container"""
    top = b.rootfs("linked")
    os.symlink("/host-etc", top + "/outward")
    os.symlink("../../../../etc", top + "/upward")
    b.run("exec", "--bind", f"{PLAIN}:/outward", top, "cat", "/outward/file").prints("plain\n")
    assert not os.path.exists("/host-etc")
    result = b.run("exec", "--bind", f"{PLAIN}/file:/upward/new-file", top, "cat", "/etc/new-file")
    result.prints("plain\n")
    assert not os.path.exists("/etc/new-file")


def bind_below_a_bind(b):
    """a mount point missing inside a bound directory is made there as the caller, or refused"""
    own = b.make_directory("outer")
    b.run("exec", "--bind", f"{own}:/mnt", "--bind", f"{PLAIN}:/mnt/sub", SQUASHFS, "cat", "/mnt/sub/file").prints("plain\n")
    assert os.stat(own + "/sub").st_uid == b.user.uid
    b.run("exec", "--bind", "/usr:/mnt", "--bind", f"{PLAIN}:/mnt/no-such-sub", SQUASHFS, "true").fails(255, "/mnt/no-such-sub")
    assert not os.path.exists("/usr/no-such-sub")


def overlays(b):
    """--overlay: a squashfs layer, a directory that keeps changes, and the same read-only"""
    for image in (ROOT, SQUASHFS):
        b.run("exec", "--overlay", LAYER, image, "cat", "/from-layer/file").prints("layered\n")
    upper = b.make_directory("upper")
    b.run("exec", "--overlay", upper, SQUASHFS, "sh", "-c", "echo kept > /kept; rm /etc/hosts; true").ok()
    b.run("exec", "--overlay", upper, SQUASHFS, "cat", "/kept").prints("kept\n")
    b.run("exec", "--overlay", upper + ":ro", SQUASHFS, "cat", "/kept").prints("kept\n")
    assert b.run("exec", "--overlay", upper + ":ro", SQUASHFS, "touch", "/kept").code == 1
    assert b.run("exec", SQUASHFS, "test", "-e", "/kept").code == 1
    b.run("exec", "--overlay", upper, "--overlay", LAYER, SQUASHFS, "sh", "-c", "cat /kept /from-layer/file").prints("kept\nlayered\n")


def account_changes_in_an_overlay(b):
    """an account that was added in a writable overlay is still there at the next start"""
    upper = b.make_directory("accounts")
    b.run("exec", "--fakeroot", "--overlay", upper, SQUASHFS, "sh", "-c", "echo 'svc:x:77:77::/:/bin/sh' >> /etc/passwd").ok()
    assert "svc:x:77" in b.run("exec", "--overlay", upper, SQUASHFS, "cat", "/etc/passwd").ok().out


def image_binds(b):
    """a directory inside an image can be bound"""
    b.run("exec", "--bind", f"{LAYER}:/mnt:image-src=/from-layer", SQUASHFS, "cat", "/mnt/file").prints("layered\n")
    b.run("exec", "--bind", f"{LAYER}:/mnt:image-src=/from-layer", ROOT, "cat", "/mnt/file").prints("layered\n")


def two_image_binds(b):
    """what is bound from one image does not hide what is bound from another"""
    binds = ("--bind", f"{LAYER}:/one:image-src=/", "--bind", f"{SQUASHFS}:/two:image-src=/", "--bind", f"{LAYER}:/three:image-src=/from-layer")
    for image in (SQUASHFS, ROOT):
        b.run("exec", *binds, image, "sh", "-c", "cat /one/from-layer/file /three/file && ls /two/bin/busybox").prints("layered\nlayered\n/two/bin/busybox\n")


def home_directories(b):
    """--home: another source, another destination"""
    b.run("exec", "--home", PLAIN, SQUASHFS, "sh", "-c", 'cat "$HOME/file"').prints("plain\n")
    b.run("exec", "--home", f"{PLAIN}:/elsewhere", SQUASHFS, "sh", "-c", 'echo $HOME; cat "$HOME/file"').prints("/elsewhere\nplain\n")


def writable_tmpfs_is_bounded(b):
    """the session's tmpfs is limited: a payload that fills it gets ENOSPC and nothing hangs"""
    result = b.run("exec", "--writable-tmpfs", SQUASHFS, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=2000")
    assert result.code == 1 and "No space left" in result.err, repr(result)


def fuse_programs(b):
    """--fusemount: what a program of the host serves, over images and directories, to read and to write"""
    for program in ("squashfuse", "fuse-overlayfs"):
        assert shutil.which(program), f"needs {program}"
    reads = f"host:squashfuse -f {LAYER} /mnt"
    for image in (SQUASHFS, ROOT):
        for options in ((), ("--pid",), ("--fakeroot",), ("--containall",)):
            b.run("exec", *options, "--fusemount", reads, image, "cat", "/mnt/from-layer/file").prints("layered\n")
    # In the background, by a variable, and twice.
    b.run("exec", "--fusemount", f"host-daemon:squashfuse {LAYER} /mnt", SQUASHFS, "cat", "/mnt/from-layer/file").prints("layered\n")
    b.run("exec", SQUASHFS, "cat", "/mnt/from-layer/file", env={"APPTAINER_FUSESPEC": reads}).prints("layered\n")
    upper, work = (b.make_directory(f"fuse-{name}") for name in ("upper", "work"))
    writes = f"host:fuse-overlayfs -f -o lowerdir={PLAIN},upperdir={upper},workdir={work} /opt/both"
    b.run("exec", "--writable-tmpfs", "--fusemount", reads, "--fusemount", writes, SQUASHFS, "sh", "-c",
          "cat /mnt/from-layer/file /opt/both/file && echo new > /opt/both/new").prints("layered\nplain\n")
    with open(upper + "/new") as file:
        assert file.read() == "new\n"
    wait_until(lambda: not b.processes("squashfuse") and not b.processes("fuse-overlayfs"), lambda: "left: " + str(list(map(b.command_line, b.processes()))))


def fuse_programs_that_fail(b):
    """--fusemount: what cannot be served is an error that says why, and leaves nothing"""
    b.run("exec", "--fusemount", "host:no-such-program x /mnt", SQUASHFS, "true").fails(255, "no-such-program")
    b.run("exec", "--fusemount", "host:squashfuse -f /no/such/image /mnt", SQUASHFS, "true").fails(255, "squashfuse", "No such file")
    b.run("exec", "--fusemount", "host:true /mnt", SQUASHFS, "true").fails(255, "true serves nothing")
    b.run("exec", "--fusemount", f"host:squashfuse -f {LAYER} mnt", SQUASHFS, "true").fails(255, "absolute path")
    b.run("exec", "--fusemount", f"host:squashfuse -f {LAYER} /", SQUASHFS, "true").fails(255, "the root of the container")
    b.run("exec", "--fusemount", f"container:squashfuse -f {LAYER} /mnt", SQUASHFS, "true").fails(255, "host:PROGRAM")
    b.run("exec", "--fusemount", "squashfuse", SQUASHFS, "true").fails(255, "host:PROGRAM")
    # A program that dies under the payload: an error there, no hang.
    process = b.popen("exec", "--fusemount", f"host:squashfuse -f {LAYER} /mnt", SQUASHFS, "sh", "-c", "echo runs; read line; cat /mnt/from-layer/file", stdin=-1)
    assert process.stdout.readline() == b"runs\n"
    for pid in b.processes("/dev/fd/"):
        os.kill(pid, 9)
    wait_until(lambda: not b.processes("/dev/fd/"), "it lives on")
    _, err = process.communicate(b"\n", timeout=60)
    # ENOTCONN, or ECONNABORTED if the request was already on its way when the program died.
    assert process.returncode == 1 and (b"not connected" in err or b"connection abort" in err), (process.returncode, err)
    wait_until(lambda: not b.processes("squashfuse"), "it is left")


bench.main([default_mounts, no_mount, contain, workdir_and_scratch, binds, awkward_paths, binds_follow_links_inside,
            bind_below_a_bind, overlays, account_changes_in_an_overlay, image_binds, two_image_binds, home_directories, writable_tmpfs_is_bounded, fuse_programs,
            fuse_programs_that_fail])
