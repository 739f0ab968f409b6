#!/usr/bin/env python3
"""Images, sandboxes and caches on a network file system. Prints TAP.

network_files.py [CASE…]: sshfs(1) and an SFTP server, both the user's: no O_TMPFILE there, no flags of renameat2(2), no lock
that the server knows, and files that root cannot see.
network_files.py --nfs [CASE…]: version 4.2 of NFS from the kernel's own server, which takes root for nobody. As root of a
machine of its own (tests/vm): the server is not ended.
"""
import contextlib
import os
import shutil
import socket
import subprocess
import sys

import harness
import registry_world as world
from tap import wait_until

harness.PARTS.update({"libexec/postern/postern-crypt": "frontend/crypt/postern-crypt"})
NFS = sys.argv[1:2] == ["--nfs"]
if NFS:
    del sys.argv[1]
SFTP = "/usr/lib/openssh/sftp-server"
for program in ("/usr/sbin/rpc.nfsd", "/usr/sbin/rpc.mountd", "/usr/sbin/exportfs") if NFS else ("sshfs", "fusermount3", SFTP):
    if not shutil.which(program):
        harness.skip(f"needs {program}")
bench = harness.Bench()
ROOT = bench.rootfs(files={"marker": "one\n"})
OTHER = bench.rootfs("other", files={"marker": "two\n"})
BLOB = os.urandom(3 << 20)
with open(ROOT + "/blob", "wb") as file:
    file.write(BLOB)
ONE = bench.sif(bench.squashfs(ROOT), "one.sif")
TWO = bench.sif(bench.squashfs(OTHER), "two.sif")
KEYS = bench.make_directory("keys", 0o700)
SIGNING = KEYS + "/signing.pem"
subprocess.run(["openssl", "genpkey", "-algorithm", "ED25519", "-out", SIGNING], check=True, stderr=subprocess.DEVNULL)
subprocess.run(["openssl", "pkey", "-in", SIGNING, "-pubout", "-out", SIGNING + ".pub"], check=True)
with open(KEYS + "/pass", "w") as file:
    file.write("words\n")
subprocess.run(["chown", "-R", f"{bench.user.uid}:{bench.user.gid}", KEYS], check=True)
for name in ("signing.pem", "pass"):
    os.chmod(f"{KEYS}/{name}", 0o600)
SERVED = bench.make_directory("served")


def serve_by_nfs():
    """The kernel's server, for the rest of this machine's life."""
    for module in ("nfsd", "nfs", "nfsv4"):
        subprocess.run(["modprobe", module], check=True)
    subprocess.run(["mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd"], check=True)
    # Where exportfs and mountd keep what they know, and a file system that can be exported.
    for place in ("/var/lib/nfs", SERVED):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place], check=True)
    for name in ("etab", "rmtab", "xtab"):
        open("/var/lib/nfs/" + name, "w").close()
    os.makedirs("/var/lib/nfs/v4recovery")
    subprocess.run(["/usr/sbin/exportfs", "-o", "rw,root_squash,fsid=0,no_subtree_check,insecure", f"127.0.0.1:{SERVED}"], check=True)
    subprocess.run(["/usr/sbin/rpc.mountd", "-N", "2", "-N", "3"], check=True)
    # -G: nobody has locks to take back, which the server would wait for.
    subprocess.run(["/usr/sbin/rpc.nfsd", "-N", "3", "-H", "127.0.0.1", "-L", "10", "-G", "10", "4"], check=True)


def fill_served(b):
    for name in os.listdir(SERVED):
        path = os.path.join(SERVED, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    for path in (ONE, TWO):
        shutil.copy(path, SERVED)
    shutil.copytree(ROOT, SERVED + "/rootfs", symlinks=True)
    subprocess.run(["chown", "-R", f"{b.user.uid}:{b.user.gid}", SERVED], check=True)


def is_mounted(path):
    """Without stat(2), which root may not on a FUSE mount of another user."""
    with open("/proc/self/mounts") as file:
        return any(line.split()[1] == path for line in file)


@contextlib.contextmanager
def mounted(b):
    """(where it is mounted, the process of its server)"""
    fill_served(b)
    mount = os.path.join(b.work, "mnt")
    os.makedirs(mount, exist_ok=True)
    os.chown(mount, b.user.uid, b.user.gid)
    if NFS:
        subprocess.run(["mount", "-t", "nfs4", "-o", "vers=4.2", "127.0.0.1:/", mount], check=True)
        try:
            yield mount, None
        finally:
            subprocess.run(["umount", "-l", mount], check=True)
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = b.popen(command=[SFTP], stdin=theirs, stdout=theirs)
        sshfs = b.popen(command=["sshfs", "-f", "-o", "passive", f":{SERVED}", mount], stdin=ours, stdout=ours)
    try:
        wait_until(lambda: is_mounted(mount) or sshfs.poll() is not None, "sshfs does not mount")
        assert sshfs.poll() is None, sshfs.communicate()
        yield mount, server
    finally:
        b.run(command=["fusermount3", "-u", "-z", mount])
        for process in (server, sshfs):
            process.kill()
            process.communicate(timeout=60)


def starts(b):
    """Images and directories there start, with each kind of namespace, as working directory and as bind source"""
    with mounted(b) as (top, _):
        for options in ((), ("--pid",), ("--containall",), ("--fakeroot",), ("--writable-tmpfs",)):
            for image in ("one.sif", "rootfs"):
                b.run("exec", *options, f"{top}/{image}", "cat", "/marker").prints("one\n")
        # Root may not enter it, so that it cannot be Popen's cwd.
        b.run(command=["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", top, b.postern, "exec", ONE, "cat", "rootfs/marker"]).prints("one\n")
        b.run("exec", "--bind", f"{top}/rootfs:/mnt", TWO, "cat", "/mnt/marker").prints("one\n")
        digest = world.digest(BLOB)[7:]
        b.run("exec", f"{top}/one.sif", "busybox", "sha256sum", "/blob").prints(f"{digest}  /blob\n")


def made_and_changed(b):
    """build, sign, seal, sif add and del, encrypt, rekey and decrypt work there, and leave nothing beside the result"""
    with mounted(b) as (top, _):
        image, words = f"{top}/made.sif", KEYS + "/pass"
        b.run("build", image, f"{top}/rootfs").ok()
        b.run("build", "--force", image, f"{top}/rootfs").ok()
        b.run("sign", "--key", SIGNING, image).ok()
        b.run("verify", "--key", SIGNING + ".pub", image).ok()
        b.run("sif", "add", "--datatype", "7", "--filename", "note", image, SIGNING + ".pub").ok()
        b.run("exec", image, "cat", "/marker").prints("one\n")
        b.run("encrypt", "--passphrase-file", words, f"{top}/one.sif", f"{top}/locked.sif").ok()
        b.run("rekey", "--passphrase-file", words, "--new-passphrase-file", words, f"{top}/locked.sif").ok()
        b.run("exec", "--passphrase-file", words, f"{top}/locked.sif", "cat", "/marker").prints("one\n")
        b.run("decrypt", "--passphrase-file", words, f"{top}/locked.sif", f"{top}/open.sif").ok()
        b.run("exec", f"{top}/open.sif", "cat", "/marker").prints("one\n")
        b.run("build", "--sandbox", f"{top}/box", f"{top}/two.sif").ok()
        b.run("exec", f"{top}/box", "cat", "/marker").prints("two\n")
        b.run("build", "--force", "--sandbox", f"{top}/box", f"{top}/one.sif").ok()
        b.run("exec", f"{top}/box", "cat", "/marker").prints("one\n")
        assert sorted(os.listdir(SERVED)) == ["box", "locked.sif", "made.sif", "one.sif", "open.sif", "rootfs", "two.sif"], os.listdir(SERVED)


def cache(b):
    """A cache there: fetched once, then used; temporary files there too"""
    registry = world.FakeRegistry()
    registry.add(world.Image([world.base_files(say="fetched\n")]))
    with mounted(b) as (top, _):
        env = {"POSTERN_CACHEDIR": top + "/cache", "APPTAINER_TMPDIR": top}
        b.run("pull", f"{top}/pulled.sif", f"docker://{registry.host}/image", env=env).ok()
        b.run("exec", f"{top}/pulled.sif", "cat", "/say").prints("fetched\n")
        b.run("pull", "--force", "--disable-cache", f"{top}/pulled.sif", f"docker://{registry.host}/image", env=env).ok()
        before = len(registry.asked("/blobs/"))
        b.run("exec", f"docker://{registry.host}/image", "cat", "/say", env=env).prints("fetched\n")
        assert len(registry.asked("/blobs/")) == before, "fetched again"
        left = [name for _, _, names in os.walk(SERVED) for name in names if name.startswith(("tmp_", "tmp-", ".postern", ".fuse", ".pulled"))]
        assert left == [], left
    registry.stop()


def replaced_under_load(b):
    """The image is replaced while starts run: each shows the one or the other, whole, or ends with an error"""
    with mounted(b) as (top, _):
        running = []
        for number in range(16):
            shutil.copy((ONE, TWO)[number % 2], SERVED + "/new")
            os.chown(SERVED + "/new", b.user.uid, b.user.gid)
            os.replace(SERVED + "/new", SERVED + "/changing.sif")
            running.append(b.popen("exec", f"{top}/changing.sif", "cat", "/marker"))
        shown = [process.communicate(timeout=120) for process in running]
        for process, (out, err) in zip(running, shown):
            # What is read by name, as by SFTP, may be the other file in between: an error then, and no byte of it.
            assert out in (b"one\n", b"two\n") and process.returncode == 0 or not out and err and process.returncode in (1, 255), (process.returncode, out, err)
        assert {out for out, _ in shown} & {b"one\n", b"two\n"}, shown
        b.run("exec", f"{top}/changing.sif", "cat", "/marker").prints("two\n")


def the_server_dies(b):
    """The other machine goes away under a container: reads fail, nothing hangs, and what starts then says why it cannot"""
    with mounted(b) as (top, server):
        process = b.popen("exec", f"{top}/one.sif", "sh", "-c", "echo runs; read line; cat /blob >/dev/null; echo $?", stdin=subprocess.PIPE)
        assert process.stdout.readline() == b"runs\n"
        server.kill()
        server.wait()
        out, _ = process.communicate(b"\n", timeout=60)
        assert out == b"1\n" or process.returncode != 0, (process.returncode, out)
        b.run("exec", f"{top}/one.sif", "true").fails(255, f"{top}/one.sif")


if NFS:
    serve_by_nfs()
    bench.mounts_before = bench.host_mounts()
bench.main([starts, made_and_changed, cache, replaced_under_load] + ([] if NFS else [the_server_dies]))
