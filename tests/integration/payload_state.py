#!/usr/bin/env python3
"""What a payload is: ids, privilege, descriptors, mounts, limits, signals: the caller's own and no more."""
import os
import resource
import signal

import harness

bench = harness.Bench()
ROOT = bench.rootfs()
SQUASHFS = bench.squashfs(ROOT)
MODES = [("directory", [ROOT]), ("image", [SQUASHFS]), ("image, no sharing", ["--no-share", SQUASHFS]),
         ("pid namespace", ["--pid", SQUASHFS]), ("all namespaces", ["--pid", "--ipc", "--uts", "--net", "--network", "none", SQUASHFS]),
         ("contained", ["--containall", ROOT])]


def status_of(b, arguments):
    text = b.run("exec", *arguments, "cat", "/proc/self/status").ok().out
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def ids_and_groups(b):
    """uid, gid and supplementary groups are the caller's, four times"""
    for name, arguments in MODES:
        status = status_of(b, arguments)
        assert status["Uid"].split() == [str(b.user.uid)] * 4, (name, status["Uid"])
        assert status["Gid"].split() == [str(b.user.gid)] * 4, (name, status["Gid"])
        # Groups that the namespace does not map read as the overflow gid; the kernel keeps them.
        assert len(status["Groups"].split()) == len(b.user.groups), (name, status["Groups"])
    shared = b.make_directory("of-group", 0o070)
    os.chown(shared, 0, 100)
    b.run("exec", "--bind", f"{shared}:/mnt", SQUASHFS, "touch", "/mnt/file").ok()
    os.unlink(shared + "/file")


def no_privilege(b):
    """no capability in any set, no_new_privs, no securebits that differ"""
    for name, arguments in MODES:
        status = status_of(b, arguments)
        for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[field], 16) == 0, (name, field, status[field])
        assert status["NoNewPrivs"] == "1", name


def descriptors(b):
    """0, 1, 2 and what the caller had open are open, and nothing else"""
    extra = os.open("/etc/hostname", os.O_RDONLY)
    for name, arguments in MODES:
        # The shell's own glob opens one directory while it looks.
        result = b.run("exec", *arguments, "sh", "-c", "echo /proc/$$/fd/*", pass_fds=[extra])
        open_now = sorted(int(path.rsplit("/", 1)[1]) for path in result.ok().out.split())
        assert [fd for fd in open_now if fd not in (3, 10) or fd == extra] == [0, 1, 2, extra] and len(open_now) <= 5, (name, open_now)
    os.close(extra)


def mounts_are_nosuid_nodev(b):
    """every mount is nosuid, and nodev but for device file systems; none is shared"""
    for name, arguments in MODES:
        text = b.run("exec", *arguments, "cat", "/proc/self/mountinfo").ok().out
        for line in text.splitlines():
            fields = line.split()
            point, options, optional = fields[4], fields[5].split(","), fields[6:fields.index("-")]
            assert "nosuid" in options, (name, line)
            assert "nodev" in options or point.startswith("/dev"), (name, line)
            assert not [tag for tag in optional if tag.startswith("shared:")], (name, line)
        assert "/dev/fuse" not in text


def setuid_bits_do_nothing(b):
    """a setuid program of the image runs without its bit"""
    os.chmod(ROOT + "/bin/busybox", 0o4755)
    try:
        b.run("exec", ROOT, "id", "-u").prints(f"{b.user.uid}\n")
    finally:
        os.chmod(ROOT + "/bin/busybox", 0o755)


def root_is_read_only(b):
    """the root cannot be written; with --writable-tmpfs it can, and nothing of it stays"""
    for image in (ROOT, SQUASHFS):
        result = b.run("exec", image, "touch", "/new")
        assert result.code == 1 and "Read-only" in result.err, repr(result)
        b.run("exec", "--writable-tmpfs", image, "sh", "-c", "echo x > /new && cat /new").prints("x\n")
    assert not os.path.exists(ROOT + "/new")
    b.run("exec", "--writable", ROOT, "touch", "/new").ok()
    assert os.stat(ROOT + "/new").st_uid == b.user.uid
    os.unlink(ROOT + "/new")


def nothing_of_the_host_is_left(b):
    """the old root is gone: not as a mount, not as the parent of /"""
    for image in (ROOT, SQUASHFS):
        b.run("exec", "--no-home", "--no-mount", "tmp,cwd", image, "sh", "-c", "ls /..; ls -a / | sort | head -3").ok()
        result = b.run("exec", image, "sh", "-c", "cd /; cd ../../..; pwd; ls work 2>&1; ls usr 2>&1")
        assert result.out.splitlines()[0] == "/", repr(result)


def umask_and_limits(b):
    """umask, resource limits (soft and hard), niceness and scheduling are the caller's"""
    limits = {resource.RLIMIT_NOFILE: (123, 456), resource.RLIMIT_CORE: (0, 4096), resource.RLIMIT_STACK: (1 << 22, 1 << 23)}

    def prepare():
        os.umask(0o035)
        os.nice(3)
        for which, value in limits.items():
            resource.setrlimit(which, value)

    for name, arguments in MODES:
        result = b.run("exec", *arguments, "sh", "-c", "umask; cat /proc/self/limits; cat /proc/self/stat", preexec_fn=prepare).ok()
        lines = result.out.splitlines()
        assert lines[0] == "0035", (name, lines[0])
        assert any(line.split()[:5] == ["Max", "open", "files", "123", "456"] for line in lines), (name, lines)
        assert any(line.split()[:5] == ["Max", "stack", "size", str(1 << 22), str(1 << 23)] for line in lines), (name, lines)
        assert int(lines[-1].rsplit(")", 1)[1].split()[16]) == os.nice(0) + 3, (name, lines[-1])
    b.run("exec", "--no-umask", ROOT, "umask", preexec_fn=prepare)


def signals(b):
    """ignored and blocked signals are the caller's; nothing else is"""
    def prepare():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores them for itself
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    want = {"SigIgn": 1 << (signal.SIGHUP - 1) | 1 << (signal.SIGCHLD - 1), "SigBlk": 1 << (signal.SIGUSR2 - 1), "SigCgt": 0}
    for name, arguments in MODES:
        result = b.run("exec", *arguments, "grep", "^Sig", "/proc/self/status", preexec_fn=prepare, restore_signals=False).ok()
        found = {line.split(":")[0]: int(line.split()[1], 16) for line in result.lines if line.startswith(tuple(want))}
        assert found == want, (name, found, want)
    plain = b.run("exec", SQUASHFS, "grep", "^SigIgn", "/proc/self/status").ok()
    assert int(plain.out.split()[1], 16) == 0, repr(plain)


def working_directory(b):
    """the caller's directory if it is visible, --cwd if given, else home; a wrong --cwd is an error"""
    b.run("exec", SQUASHFS, "pwd").prints(b.work + "\n")
    b.run("exec", "--cwd", "/bin", SQUASHFS, "pwd").prints("/bin\n")
    b.run("exec", "--cwd", "/no/such", SQUASHFS, "pwd").fails(255, "/no/such", "--cwd")
    b.run("exec", SQUASHFS, "pwd", cwd="/usr").ok()
    b.run("exec", "--contain", SQUASHFS, "pwd").prints(b.user.home + "\n")


def namespaces_are_the_hosts_unless_asked(b):
    """pid, network, ipc and uts namespaces are shared with the host, and new where asked for"""
    names = ("pid", "net", "ipc", "uts")
    flags = {"pid": ["--pid"], "net": ["--net", "--network", "none"], "ipc": ["--ipc"], "uts": ["--uts"]}
    host = {name: os.readlink(f"/proc/self/ns/{name}") for name in names}
    for chosen in [None, *names]:
        probe = " ".join(f"/proc/self/ns/{name}" for name in names)
        result = b.run("exec", *(flags[chosen] if chosen else []), SQUASHFS, "sh", "-c", f"for n in {probe}; do readlink $n; done").ok()
        inside = dict(zip(names, result.lines))
        different = [name for name in names if inside[name] != host[name]]
        assert different == ([chosen] if chosen else []), (chosen, inside, host)


def pid_namespace(b):
    """--pid: the payload sees only its own; orphans are reaped; --no-init makes it process 1"""
    result = b.run("exec", "--pid", SQUASHFS, "sh", "-c", "echo $$; echo /proc/[0-9]*").ok()
    assert result.lines[0] == "2" and result.lines[1].split() == ["/proc/1", "/proc/2"], repr(result)
    b.run("exec", "--pid", "--no-init", SQUASHFS, "sh", "-c", "echo $$").prints("1\n")
    # Two orphans end, and then nothing is left of them: no zombie either.
    orphans = "sh -c 'sleep 0.1 & sleep 0.1 &'; set -- /proc/[0-9]*; while test $# -gt 2; do sleep 0.1; set -- /proc/[0-9]*; done; echo reaped"
    b.run("exec", "--pid", SQUASHFS, "sh", "-c", orphans).prints("reaped\n")


def hostname_and_loopback(b):
    """--hostname holds inside only; --net has a loopback device that is up"""
    b.run("exec", "--hostname", "inside", SQUASHFS, "hostname").prints("inside\n")
    assert os.uname().nodename != "inside"
    result = b.run("exec", "--net", "--network", "none", SQUASHFS, "ifconfig")
    assert "lo" in result.ok().out and "127.0.0.1" in result.out, repr(result)


def fake_root(b):
    """--fakeroot: uid 0 inside with capabilities there, the caller outside; an image shows its own owners"""
    own = b.make_directory("fake")
    result = b.run("exec", "--fakeroot", "--bind", f"{own}:/mnt", SQUASHFS, "sh", "-c",
                   "id -u; touch /mnt/file; grep CapEff /proc/self/status; stat -c %u /bin/busybox").ok()
    assert result.lines[0] == "0" and int(result.lines[1].split()[1], 16) != 0 and result.lines[2] == str(b.user.uid), repr(result)
    assert os.stat(own + "/file").st_uid == b.user.uid


def seccomp_filter(b):
    """--security seccomp: the profile holds in the payload"""
    profile = b.work + "/profile.json"
    with open(profile, "w") as file:
        file.write('{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": '
                   '[{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}')
    b.run("exec", "--bind", b.work, SQUASHFS, "mkdir", b.work + "/made").ok()
    os.rmdir(b.work + "/made")
    result = b.run("exec", "--security", f"seccomp:{profile}", "--bind", b.work, SQUASHFS, "mkdir", b.work + "/made")
    assert result.code == 1 and "not permitted" in result.err, repr(result)
    assert "Seccomp:\t2" in b.run("exec", "--security", f"seccomp:{profile}", SQUASHFS, "cat", "/proc/self/status").out


def accounts(b):
    """the caller is in the generated passwd and group; the image's other lines stay"""
    result = b.run("exec", SQUASHFS, "cat", "/etc/passwd").ok()
    assert result.lines[0] == "root:x:0:0:root:/root:/bin/sh", repr(result)
    assert any(line.startswith(f"{b.user.name}:x:{b.user.uid}:{b.user.gid}:") and f":{b.user.home}:" in line for line in result.lines)
    assert ":x:100:" in b.run("exec", SQUASHFS, "cat", "/etc/group").ok().out
    b.run("exec", SQUASHFS, "id", "-un").prints(b.user.name + "\n")
    b.run("exec", "--writable-tmpfs", ROOT, "id", "-un").prints(b.user.name + "\n")


def the_payload_dies_with_the_program(b):
    """SIGKILL of the program kills the payload, in every mode"""
    for name, arguments in [*MODES, ("fake root", ["--fakeroot", SQUASHFS])]:
        process = b.popen("exec", *arguments, "sh", "-c", "echo runs; exec sleep 60")
        assert process.stdout.readline() == b"runs\n", (name, process.stderr.read())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
        b.check_leaks()


bench.main([ids_and_groups, no_privilege, descriptors, mounts_are_nosuid_nodev, setuid_bits_do_nothing, root_is_read_only,
            nothing_of_the_host_is_left, umask_and_limits, signals, working_directory, namespaces_are_the_hosts_unless_asked,
            pid_namespace, hostname_and_loopback, fake_root, seccomp_filter, accounts, the_payload_dies_with_the_program])
