#!/usr/bin/env python3
"""ext3 images as Apptainer has them: overlays made by `overlay create`, by its flags, in a SIF and in a file; root file
systems; data images. Served by fuse2fs and fuse-overlayfs, never by the kernel. Prints TAP."""
import os
import shutil
import stat
import subprocess

import harness

bench = harness.Bench()
for program in ("fuse2fs", "fuse-overlayfs", "mkfs.ext3", "debugfs"):
    if not shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin"):
        harness.skip(f"needs {program}")
ROOT = bench.rootfs(files={"from-image/file": "lower\n"})
SQUASHFS = bench.squashfs(ROOT)


def path(name):
    return os.path.join(bench.work, name)


def debugfs(image, *requests):
    done = [subprocess.run(["/sbin/debugfs", "-R", request, image], check=True, capture_output=True, text=True) for request in requests]
    return "".join(one.stdout for one in done)


def sound(image):
    """The file system is whole after use: what was written is on disk, and nothing is left in a journal"""
    done = subprocess.run(["/sbin/e2fsck", "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def ext3_root(name):
    image = path(name)
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["/sbin/mkfs.ext3", "-q", "-d", ROOT, image], check=True, stdin=subprocess.DEVNULL)
    os.chown(image, bench.user.uid, bench.user.gid)
    return image


def created(b):
    """overlay create: size, modes, directories, sparse, fakeroot"""
    b.run("overlay", "create", path("plain.img")).ok()
    status = os.stat(path("plain.img"))
    assert status.st_size == 64 << 20 and status.st_blocks * 512 >= 64 << 20 and stat.S_IMODE(status.st_mode) == 0o600, status
    listing = debugfs(path("plain.img"), "stat upper", "stat work")
    assert listing.count("Mode:  0755") == 2 and listing.count(f"User: {b.user.uid:5}") == 2, listing
    b.run("overlay", "create", "--sparse", "--size", "100", "--create-dir", "/opt/a/b", "--create-dir", "srv", path("more.img")).ok()
    status = os.stat(path("more.img"))
    assert status.st_size == 100 << 20 and status.st_blocks * 512 < 50 << 20, status
    assert "Type: directory" in debugfs(path("more.img"), "stat upper/opt/a/b") and "Type: directory" in debugfs(path("more.img"), "stat upper/srv")
    b.run("overlay", "create", "--fakeroot", path("fake.img")).ok()
    assert debugfs(path("fake.img"), "stat upper", "stat work").count("User:     0") == 2
    for image in ("plain.img", "more.img", "fake.img"):
        sound(path(image))


def refused(b):
    """… and what it refuses"""
    b.run("overlay", "create", "--size", "63", path("small.img")).fails(255, "--size 63", "64")
    assert not os.path.exists(path("small.img"))
    b.run("overlay", "create", path("twice.img")).ok()
    b.run("overlay", "create", path("twice.img")).fails(255, "already exists")
    b.run("overlay", "create", "--create-dir", "/..", path("out.img")).fails(255, "--create-dir")
    assert b.run("overlay", "create").code == 1 and b.run("overlay").code == 1 and b.run("overlay", "--help").code == 0
    assert not os.path.exists(path("out.img"))
    signed = os.path.join(os.environ["POSTERN_TEST_IMAGES"], "one-group-signed-pgp.sif")
    shutil.copy(signed, path("signed.sif"))
    os.chown(path("signed.sif"), b.user.uid, b.user.gid)
    os.chmod(path("signed.sif"), 0o644)
    assert b.run("overlay", "create", path("signed.sif")).code == 255


def changes_stay(b):
    """--overlay IMAGE keeps what a container writes, removes and changes; the image below stays"""
    b.run("overlay", "create", path("keep.img")).ok()
    b.run("exec", "--overlay", path("keep.img"), SQUASHFS, "sh", "-c",
          "echo new > /new && echo changed > /from-image/file && rm /bin/true && mkdir -p /opt/x && cat /from-image/file").prints("changed\n")
    sound(path("keep.img"))
    b.run("exec", "--overlay", path("keep.img"), SQUASHFS, "sh", "-c", "cat /new /from-image/file; ls /bin/true 2>/dev/null; ls -d /opt/x").prints(
        "new\nchanged\n/opt/x\n")
    b.run("exec", "--overlay", path("keep.img") + ":ro", SQUASHFS, "sh", "-c", "cat /new && ! touch /more 2>/dev/null").prints("new\n")
    b.run("exec", SQUASHFS, "cat", "/from-image/file").prints("lower\n")
    b.run("exec", "--overlay", path("keep.img"), ROOT, "sh", "-c", "cat /new && id -u").prints(f"new\n{b.user.uid}\n")
    b.run("exec", "--fakeroot", "--overlay", path("keep.img"), SQUASHFS, "sh", "-c", "id -u && echo r > /as-root && cat /as-root").prints("0\nr\n")
    sound(path("keep.img"))


def with_other_options(b):
    """… with binds, homes, --contain, --pid and other overlays at once"""
    b.run("overlay", "create", path("with.img")).ok()
    data = b.make_directory("with-data")
    open(data + "/file", "w").write("bound\n")
    for options in ([], ["--contain"], ["--pid"], ["--containall"], ["--overlay", SQUASHFS]):
        b.run("exec", *options, "--overlay", path("with.img"), "-B", f"{data}:/made/here", SQUASHFS, "sh", "-c",
              "cat /made/here/file && echo x >> /count && touch $HOME/t && rm $HOME/t").prints("bound\n")
    b.run("exec", "--overlay", path("with.img"), SQUASHFS, "sh", "-c", "wc -l < /count").prints("5\n")
    b.run("exec", "--writable-tmpfs", "--overlay", path("with.img"), SQUASHFS, "true").fails(255, "--writable-tmpfs")
    b.run("overlay", "create", path("second.img")).ok()
    b.run("exec", "--overlay", path("with.img"), "--overlay", path("second.img"), SQUASHFS, "true").fails(255, "only one overlay")
    b.run("exec", "--overlay", path("with.img"), "--overlay", path("second.img") + ":ro", SQUASHFS, "true").ok()


def one_writer(b):
    """Several containers may read one image, or one may write it"""
    b.run("overlay", "create", path("lock.img")).ok()
    for mine, theirs, together in ((":ro", ":ro", True), ("", ":ro", False), (":ro", "", False), ("", "", False)):
        holder = b.popen("exec", "--overlay", path("lock.img") + mine, SQUASHFS, "sh", "-c", "echo up; read x", stdin=subprocess.PIPE)
        assert holder.stdout.readline() == b"up\n", holder.stderr.read()
        second = b.run("exec", "--overlay", path("lock.img") + theirs, SQUASHFS, "true")
        assert (second.code == 0) == together, (mine, theirs, repr(second))
        assert together or "another process" in second.err, repr(second)
        holder.communicate(b"x\n", timeout=60)
        assert holder.returncode == 0


def ends(b):
    """Killed or interrupted, a container leaves a whole image, no process and no lock"""
    b.run("overlay", "create", path("ends.img")).ok()
    for number in (2, 9, 15):
        process = b.popen("exec", "--overlay", path("ends.img"), SQUASHFS, "sh", "-c", "echo written > /kept; echo up; sleep 100")
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        process.wait(timeout=120)
        harness.tap.wait_until(lambda: not b.processes(), lambda: f"left after signal {number}: {b.processes()}")
        sound(path("ends.img"))
        b.run("exec", "--overlay", path("ends.img"), SQUASHFS, "sh", "-c", "cat /kept && rm /kept").prints("written\n")


def ignored_signals(b):
    """A caller that ignores SIGTERM, as nohup's children do SIGHUP, does not lose what was written"""
    b.run("overlay", "create", path("ignored.img")).ok()
    done = b.run(command=["sh", "-c", 'trap "" TERM HUP INT; "$@"; exit $?', "sh", b.postern, "exec", "--overlay", path("ignored.img"), SQUASHFS, "sh", "-c", "echo x > /kept"]).ok()
    assert "killed" not in done.err, done.err
    sound(path("ignored.img"))
    b.run("exec", "--overlay", path("ignored.img"), SQUASHFS, "cat", "/kept").prints("x\n")


def inside_a_sif(b):
    """An overlay partition of a SIF: shown always, written to with --writable"""
    sif = b.sif(SQUASHFS, "with-overlay.sif")
    b.run("overlay", "create", sif).ok()
    assert "Overlay" in b.run("sif", "list", sif).ok().out
    b.run("overlay", "create", sif).fails(255, "already")
    b.run("exec", "--writable", sif, "sh", "-c", "echo inside > /inside; cat /from-image/file").prints("lower\n")
    b.run("exec", sif, "sh", "-c", "cat /inside; ! touch /x 2>/dev/null").prints("inside\n")
    b.run("exec", "--userns", sif, "cat", "/inside").prints("inside\n")


def roots(b):
    """A bare ext3 image as root: read-only, and written to with --writable"""
    image = ext3_root("root.ext3")
    b.run("exec", image, "sh", "-c", "cat /from-image/file; id -un; ! touch /x 2>/dev/null").prints(f"lower\n{b.user.name}\n")
    b.run("exec", "--contain", image, "true").ok()
    b.run("exec", "--writable-tmpfs", image, "sh", "-c", "echo x > /x && cat /x").prints("x\n")
    b.run("exec", "--writable", image, "sh", "-c", "echo mine > /mine").ok()
    b.run("exec", image, "cat", "/mine").prints("mine\n")
    sound(image)


def data_images(b):
    """image-src of an ext3 image"""
    image = ext3_root("data.ext3")
    b.run("exec", "-B", f"{image}:/data:image-src=/from-image", SQUASHFS, "cat", "/data/file").prints("lower\n")
    b.run("exec", "-B", f"{image}:/data:image-src=/", SQUASHFS, "ls", "/data/from-image").prints("file\n")


def broken(b):
    """A broken image is an error that names it, and what is not installed is named"""
    image = ext3_root("broken.ext3")
    with open(image, "r+b") as file:
        file.seek(1024)
        file.write(b"\xff" * 28)  # geometry of the superblock; the magic stays
    result = b.run("exec", image, "true")
    assert result.code == 255 and "broken.ext3" in result.err and "fuse2fs" in result.err, repr(result)
    empty = b.make_directory("no-programs")
    shutil.copy(harness.BUSYBOX, empty + "/fuse2fs")  # one that fails
    result = b.run("exec", ext3_root("fine.ext3"), "true", env={"PATH": empty})
    assert result.code == 255 and "fuse2fs" in result.err, repr(result)


bench.main([created, refused, changes_stay, with_other_options, one_writer, ends, ignored_signals, inside_a_sif, roots, data_images, broken])
