#!/usr/bin/env python3
"""Bad input: one clear line of error with the cure, the right exit code, nothing left behind."""
import ctypes
import os
import random
import shutil
import subprocess

import harness

harness.PARTS.update({f"libexec/postern/postern-{program}": f"frontend/{folder}/postern-{program}" for folder, program in
                      (("crypt", "crypt"), ("imagebuild", "build"), ("inspect", "inspect"), ("keys", "keys"), ("transfer", "transfer"))})
bench = harness.Bench()
ROOT = bench.rootfs()
SQUASHFS = bench.squashfs(ROOT)
SIF = bench.sif(SQUASHFS)
PLAIN = bench.make_directory("plain")


def read(path):
    with open(path, "rb") as file:
        return bytearray(file.read())


def write(b, name, data):
    path = os.path.join(b.top, name)
    with open(path, "wb") as file:
        file.write(data)
    os.chown(path, b.user.uid, b.user.gid)
    return path


def missing_and_unreadable_images(b):
    """a missing image, an empty one, one that is no image, one that may not be read"""
    b.run("exec", b.top + "/nothing.sif", "true").fails(255, "nothing.sif", "No such file")
    b.run("exec", write(b, "empty.sif", b""), "true").fails(255, "empty.sif")
    b.run("exec", write(b, "text.sif", b"hello\n" * 1000), "true").fails(255, "text.sif")
    hidden = write(b, "hidden.sif", read(SIF))
    os.chown(hidden, 0, 0)
    os.chmod(hidden, 0o600)
    b.run("exec", hidden, "true").fails(255, "hidden.sif", "Permission denied")
    os.mkfifo(b.top + "/fifo")
    b.run("exec", b.top + "/fifo", "true").fails(255, "fifo")


def nothing_waits_for_what_is_no_file(b):
    """a named pipe, a device or a directory in the place of an image, or of a namespace: an error, without waiting for it"""
    pipe, nothing = b.top + "/pipe", b.top + "/pipe-out"
    os.mkfifo(pipe)
    os.chmod(pipe, 0o666)
    note = write(b, "note", b"x")
    for command in (["exec", "IT", "true"], ["inspect", "IT"], ["verify", "IT"], ["sign", "IT"], ["seal", "IT"], ["encrypt", "IT", nothing], ["decrypt", "IT", nothing],
                    ["rekey", "IT"], ["sif", "list", "IT"], ["sif", "dump", "1", "IT"], ["sif", "del", "1", "IT"], ["build", nothing, "IT"], ["ecl", "check", "IT"],
                    ["push", "IT", "oras://127.0.0.1:9/x:y"], ["build", nothing, "docker-archive:IT"], ["build", nothing, "oci-archive:IT"], ["run-help", "IT"],
                    ["exec", "--overlay", "IT", SQUASHFS, "true"], ["exec", "--bind", "IT:/mnt:image-src=/", SQUASHFS, "true"],
                    ["exec", "--netns-path", "IT", SQUASHFS, "true"], ["sif", "add", "IT", note], ["instance", "start", "IT", "waits"]):
        for path in (pipe, "/dev/null", "/dev/zero"):
            result = b.run(*(word.replace("IT", path) for word in command))
            assert 0 < result.code <= 255 and (result.err + result.out).strip(), (command, path, result)
    assert not os.path.exists(nothing)


def hostile_words(b):
    """control characters of a command line, which may come from elsewhere, do not reach the terminal with the error"""
    hostile = "\x1b[31m\u202e\x9b"
    for command in ([hostile], ["key", hostile], ["ecl", hostile], ["cache", hostile], ["remote", hostile], ["instance", hostile], ["exec", "--contain=" + hostile, "x"],
                    ["exec", "--" + hostile], ["--" + hostile], ["inspect", "--" + hostile], ["build", "--" + hostile], ["sign", "--" + hostile], ["pull", "--" + hostile],
                    ["sif", hostile], ["overlay", hostile], ["config", hostile], ["capability", hostile], ["encrypt", "--" + hostile], ["doctor", "--" + hostile],
                    ["help", hostile], ["completion", hostile], ["exec", hostile, "true"], ["inspect", hostile], ["pull", "oras://" + hostile], ["seal", hostile]):
        result = b.run(*command)
        said = result.err + result.out
        assert result.code != 0 and not any(letter in said for letter in "\x1b\u202e\x9b"), (command, result)


def out_of_reach(b):
    """what exists and may not be reached is not said to be missing: the cure is to ask its owner"""
    hidden = b.top + "/of-root"
    os.makedirs(hidden + "/directory")
    os.chmod(hidden, 0o700)
    for options in (["--bind", hidden + "/directory:/mnt"], ["--overlay", hidden + "/directory"], ["--overlay", hidden + ":ro"], ["--home", hidden + "/directory"],
                    ["--containlibs", hidden + "/lib.so"], ["--env-file", hidden + "/env"], ["--security", "seccomp:" + hidden + "/profile"],
                    ["--netns-path", hidden + "/net"], ["--apply-cgroups", hidden + "/limits.toml"]):
        b.run("exec", *options, SQUASHFS, "true").fails(255, hidden, "Permission denied", "ask its owner")
    for command in (["exec", hidden + "/x.sif", "true"], ["sif", "list", hidden + "/x.sif"]):
        result = b.run(*command)
        assert result.code != 0 and "Permission denied" in result.err and "damaged" not in result.err, (command, result)


def truncated_sif(b):
    """a SIF cut at any length fails with one line"""
    data = read(SIF)
    for length in (1, 32, 64, 127, 128, 200, 4096, 4200, 4096 + 585, 32767, 32768, 33000, len(data) - 5000):
        b.run("exec", write(b, "cut.sif", data[:length]), "true").fails(255, "cut.sif")


def mutated_sif(b):
    """every field of the header and of the descriptor, set to extremes: an error or a run, never a crash"""
    data = read(SIF)
    fields = [(offset, 1) for offset in (32, 42, 45)] + [(offset, 8) for offset in range(64, 128, 8)]
    fields += [(4096 + offset, size) for offset, size in ((0, 4), (4, 1), (5, 4), (9, 4), (13, 4), (17, 8), (25, 8), (33, 8),
                                                            (41, 8), (49, 8), (57, 8), (65, 8), (201, 4), (205, 4), (209, 3))]
    for offset, size in fields:
        for value in (b"\0" * size, b"\xff" * size, b"\x7f" + b"\xff" * (size - 1), b"\xff" * (size - 1) + b"\x7f"):
            changed = bytearray(data)
            changed[offset:offset + size] = value
            result = b.run("exec", write(b, "changed.sif", changed), "true")
            assert result.code in (0, 255), (offset, value, result)
            if result.code == 255:
                result.fails(255)


def wrong_architecture(b):
    """an image for another processor says so"""
    result = b.run("exec", b.sif(SQUASHFS, "arm.sif", arch=b"04"), "true")
    result.fails(255, "arm64", "amd64")


def limits_that_cannot_be(b):
    """a limit with an impossible value, or on a host that has none to give, is refused; a start without one runs"""
    for words in (("--memory", "lots"), ("--memory", ""), ("--memory", "1g", "--memory-swap", "1m"), ("--cpus", "1e9"),
                  ("--cpuset-cpus", "3-1"), ("--pids-limit", "-7"), ("--blkio-weight", "5"), ("--blkio-weight-device", "/dev/null:500"),
                  ("--oom-kill-disable",), ("--apply-cgroups", "/nowhere/at/all")):
        b.run("exec", *words, ROOT, "true").fails(255, words[0])
    b.run("exec", ROOT, "true", env={"APPTAINER_MEMORY": "many"}).fails(255, "--memory", "many")
    limits = write(b, "limits.toml", b"[memory]\nlimit = 1073741824\n[memori]\n")
    b.run("exec", "--apply-cgroups", limits, ROOT, "true").fails(255, "limits.toml:3", "memori")
    b.run("exec", "--apply-cgroups", limits, "--cpus", "1", ROOT, "true").fails(255, "cannot be combined")
    deep = write(b, "deep.toml", b".".join([b"a"] * 32768) + b" = 1\n")
    b.run("exec", "--apply-cgroups", deep, ROOT, "true").fails(255, "deep.toml")
    with open("/proc/self/cgroup") as file:
        groups = file.read().splitlines()
    if any(":memory:" in line for line in groups):
        words = ("belongs to control groups version 1",) if any(line.startswith("0::") for line in groups) else ("version 1 alone",)
        b.run("exec", "--memory", "1g", ROOT, "true").fails(255, *words)
    b.run("exec", ROOT, "true").ok()


def corrupt_squashfs(b):
    """damage anywhere in a squashfs: an error or a failing payload, never a hang or a crash"""
    data = read(SQUASHFS)
    choose = random.Random(7)
    for round_number in range(40):
        changed = bytearray(data)
        if round_number < 24:
            at = 4 * round_number  # every word of the superblock
            changed[at:at + 4] = choose.randbytes(4)
        else:
            for _ in range(200):
                changed[choose.randrange(96, len(changed))] = choose.randrange(256)
        result = b.run("exec", write(b, "changed.sqfs", changed), "true")
        # A payload whose own pages are damaged may die of it.
        assert result.code in (0, 1, 126, 127, 255) or result.code in (-7, -11, -4, -6, -5), (round_number, result)
        if result.code == 255:
            result.fails(255)
    b.run("exec", write(b, "cut.sqfs", data[:3000]), "true").fails(255, "cut.sqfs")


def no_fuse(b):
    """/dev/fuse missing or closed to the user"""
    os.chmod("/dev/fuse", 0o600)
    try:
        b.run("exec", SQUASHFS, "true").fails(255, "/dev/fuse", "0666")
        b.run("exec", ROOT, "true").ok()
    finally:
        os.chmod("/dev/fuse", 0o666)


def no_user_namespaces(b):
    """user namespaces switched off: the message names the sysctl"""
    libc = ctypes.CDLL(None, use_errno=True)
    for image in (ROOT, SQUASHFS):
        unshared, mapped, output = os.pipe(), os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                # The limit of a user namespace of our own, so that nobody else notices.
                assert libc.unshare(0x10000000) == 0
                os.write(unshared[1], b".")
                os.read(mapped[0], 1)
                with open("/proc/sys/user/max_user_namespaces", "w") as file:
                    file.write("0")
                os.setgroups([])
                os.setgid(b.user.gid)
                os.setuid(b.user.uid)
                os.dup2(output[1], 2)
                os.chdir("/")
                os.execve(b.postern, [b.postern, "exec", image, "true"], b.environment())
            finally:
                os._exit(99)
        os.read(unshared[0], 1)
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{kind}", "w") as file:
                file.write("0 0 65536\n")
        os.write(mapped[1], b".")
        os.close(output[1])
        with os.fdopen(output[0], "rb") as file:
            err = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for fd in (*unshared, *mapped):
            os.close(fd)
        harness.Result(code, b"", err).fails(255, "user namespace", "max_user_namespaces")


def bad_binds(b):
    """missing sources, targets that cannot be made, files on directories"""
    b.run("exec", "--bind", "/no/such/dir:/mnt", SIF, "true").fails(255, "/no/such/dir")
    b.run("exec", "--bind", f"{PLAIN}:relative", SIF, "true").fails(255, "relative")
    b.run("exec", "--bind", f"{PLAIN}:/etc/passwd/x", SIF, "true").fails(255, "/etc/passwd/x")
    b.run("exec", "--bind", f"{PLAIN}:/etc/hosts", SIF, "true").fails(255, "/etc/hosts", "directory")
    b.run("exec", "--bind", f"{SIF}:/bin", SIF, "true").fails(255, "/bin", "directory")
    # With --writable a mount point is made in the image directory, as the caller, who must own it.
    os.chown(ROOT, 0, 0)
    b.run("exec", "--writable", "--bind", f"{PLAIN}:/not/there", ROOT, "true").fails(255, "/not/there", "--writable")
    os.chown(ROOT, b.user.uid, b.user.gid)
    b.run("exec", "--bind", f"{PLAIN}:" + "/x" * 3000, SIF, "true").fails(255)
    b.run("exec", "--bind", f"{PLAIN}:/" + "y" * 300, SIF, "true").fails(255)


def ten_thousand_binds(b):
    """more binds than fit are refused at once, two hundred are not"""
    b.run("exec", *[word for i in range(10000) for word in ("--bind", f"{PLAIN}:/m{i}")], SIF, "true", timeout=60).fails(255)
    b.run("exec", *[word for i in range(200) for word in ("--bind", f"{PLAIN}:/m{i}")], SIF, "sh", "-c", "ls -d /m* | wc -l").prints("200\n")


def too_many_arguments(b):
    """arguments that fit the kernel's limit outside, but not with the runtime's variables, say so"""
    import resource

    def prepare():
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))  # a quarter of it is for arguments

    kept = {f"V{i}": "v" * 1000 for i in range(100)}
    b.run("exec", SIF, "true", *["z" * 100000] * 15).ok()
    b.run("exec", SIF, "true", "y" * 100000, env=kept, preexec_fn=prepare).ok()
    b.run("exec", "--env", "BIG=" + "x" * 30000, "--env", "BIG2=" + "x" * 30000, SIF, "true", env=kept, preexec_fn=prepare).ok()
    b.run("exec", SIF, "true", "y" * 100000, env={**kept, "POSTERNENV_A": "a" * 40000, "B": "$A" * 10, "POSTERNENV_C": "$A$A$A$A"},
          preexec_fn=prepare).fails(255, "Argument list too long", "ulimit -s")


def descriptor_limits(b):
    """a low limit of descriptors, or of processes, gives an error or a run, never a hang"""
    import resource

    for limit in (12, 20, 64):
        result = b.run("exec", SIF, "true", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
        assert result.code in (0, 255), (limit, result)
        if result.code == 255:
            result.fails(255)
    assert b.run("exec", SIF, "true", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))).code == 0


def full_session(b):
    """generated files that do not fit the session's tmpfs are an error that says so"""
    result = b.run("exec", "--writable-tmpfs", SIF, "sh", "-c", "dd if=/dev/zero of=/x bs=1M count=500 2>&1; rm /x; echo fine")
    assert result.lines[-1] == "fine", repr(result)


def not_installed_whole(b):
    """a missing part of the installation is named"""
    if os.environ.get("POSTERN"):
        raise harness.Skip("the installation is not ours to take apart")
    prefix = os.path.join(b.top, "partial")
    shutil.copytree(os.path.join(b.top, "prefix"), prefix)
    os.unlink(f"{prefix}/libexec/postern/postern-squashfs-plain")  # the other one serves in its place
    b.run(command=[f"{prefix}/bin/postern", "exec", SIF, "true"]).ok()
    for part in ("postern-init", "postern-squashfs"):
        os.rename(f"{prefix}/libexec/postern/{part}", f"{prefix}/{part}")
        b.run(command=[f"{prefix}/bin/postern", "exec", SIF, "true"]).fails(255, part)
        os.rename(f"{prefix}/{part}", f"{prefix}/libexec/postern/{part}")
    b.run(command=[f"{prefix}/bin/postern", "exec", SIF, "true"]).ok()


def damaged_environment_scripts(b):
    """an environment script with a syntax error, a binary one and a directory are told, and the start goes on"""
    top = b.rootfs("scripts", files={".singularity.d/env/50-broken.sh": "#!/bin/sh\nif [ x = \n"})
    assert "50-broken.sh" in b.run("exec", top, "true").ok().err
    os.unlink(top + "/.singularity.d/env/50-broken.sh")
    os.mkdir(top + "/.singularity.d/env/60-directory.sh")
    assert "60-directory.sh" in b.run("exec", top, "true").ok().err
    os.rmdir(top + "/.singularity.d/env/60-directory.sh")
    os.mkfifo(top + "/.singularity.d/env/70-fifo.sh")
    process = b.popen("exec", top, "true")
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError("a fifo among the scripts hangs the start") from None
    assert process.returncode == 0


bench.main([missing_and_unreadable_images, nothing_waits_for_what_is_no_file, hostile_words, out_of_reach, truncated_sif, mutated_sif, wrong_architecture, limits_that_cannot_be, corrupt_squashfs, no_fuse,
            no_user_namespaces, bad_binds, ten_thousand_binds, too_many_arguments, descriptor_limits, full_session,
            not_installed_whole, damaged_environment_scripts])
