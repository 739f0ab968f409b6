#!/usr/bin/env python3
"""What a hostile program in one container of a user can do to the user's other containers: nothing.

Usage: between_containers.py [CASE...]: in user-namespace mode.
       between_containers.py --suid LIBEXEC CONFDIR [CASE...]: through the installed helper. Images are served, and are mounted by the
       kernel: in a guest of tests/vm with dm-verity and dm-crypt.
"""
import contextlib
import fcntl
import glob
import itertools
import os
import pty
import shutil
import subprocess
import termios

import harness

harness.PARTS.update({"libexec/postern/postern-crypt": "frontend/crypt/postern-crypt",
                      "libexec/postern/postern-keys": "frontend/keys/postern-keys"})
bench = harness.Bench()
NEIGHBOUR = os.path.join(os.environ["POSTERN_BUILD"], "tests/integration/neighbour")
ROOT = bench.rootfs(files={"big": "x" * 4000000, "which": "victim\n"})
SQUASHFS = bench.squashfs(ROOT)
HOSTILE_ROOT = bench.rootfs("hostile", files={"which": "hostile\n"})
shutil.copy(NEIGHBOUR, HOSTILE_ROOT + "/bin/neighbour")
os.chmod(HOSTILE_ROOT + "/bin/neighbour", 0o755)
HOSTILE = bench.squashfs(HOSTILE_ROOT)
# Nobody may look into a process whose program they cannot read (ptrace(2), "PTRACE_MODE").
os.chmod(HOSTILE_ROOT + "/bin/neighbour", 0o111)
os.chown(HOSTILE_ROOT + "/bin/neighbour", 0, 0)
UNREADABLE = bench.squashfs(HOSTILE_ROOT, "gzip")
PLACE = f"/tmp/postern-{bench.user.uid}"
PLACES = ["/tmp", "/run", "/var/tmp", "/dev/shm", bench.user.home, bench.work]
CONTAINED = ["--containall"]
UNCONTAINED = ["--bind", "/tmp", "--bind", "/run", "--bind", "/dev/shm"]


def configure(kernel):
    """In setuid mode: which images the kernel mounts, "any" or "never". The others are served, as all are without the helper."""
    if harness.SUID:
        bench.world.configure(site=harness.worlds.SITE.replace('squashfs = "any"', f'squashfs = "{kernel}"'))


def pem():
    private, public = os.path.join(bench.work, "key.pem"), os.path.join(bench.work, "key.pub")
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", private],
                   check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    os.chown(private, bench.user.uid, bench.user.gid)
    os.chmod(private, 0o600)
    return private, public


PEM, PUBLIC = pem()
SEALED = bench.sif(SQUASHFS, "sealed.sif")
bench.run("seal", SEALED).ok()
ENCRYPTED = os.path.join(bench.work, "encrypted.sif")
bench.run("encrypt", "--pem-path", PUBLIC, bench.sif(SQUASHFS, "plain.sif"), ENCRYPTED).ok()
VICTIMS = {"plain": [SQUASHFS], "sealed": [SEALED], "encrypted": ["--pem-path", PEM, ENCRYPTED]}


def servers(b):
    return b.processes("postern-squashfs --starter")


def start(b, *arguments, command=("sh", "-c", "echo ready; exec sleep 60")):
    process = b.popen("exec", *arguments, *command)
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return process, line.decode()


def stop(*processes):
    for process in processes:
        process.terminate()
        process.communicate(timeout=30)


def joined_and_right(b, victim):
    """A start beside a running one of the same image: it sees the image, and shares its server if there is one."""
    before = servers(b)  # one of an earlier start may be about to end
    b.run("exec", *victim, "sh", "-c", "cat /which; wc -c < /big").prints("victim\n4000000\n")
    after = servers(b)
    assert (after or b.loops()) and set(after) <= set(before), (before, after, b.loops())


def spoils(result):
    result.ok()
    assert "searched" in result.lines, repr(result)
    return [line for line in result.lines if line.startswith("got")]


def attack(b, options):
    for kind, victim in VICTIMS.items():
        running, _ = start(b, *victim)
        try:
            joined_and_right(b, victim)
            found = spoils(b.run("exec", *options, HOSTILE, "neighbour", "search", *PLACES, timeout=120))
            assert not found, f"{kind}: " + "\n".join(found)
            joined_and_right(b, victim)
        finally:
            stop(running)


def starts_are_of_the_mode(b):
    """in setuid mode containers of every kind are in the user namespace of the host, else in one of their own"""
    for kind, victim in VICTIMS.items():
        for options in ([], *([one] for one in CONTAINED)):
            numbers = b.run("exec", *options, *victim, "cat", "/proc/self/uid_map").ok().out.split()
            assert (numbers == ["0", "0", str(2**32 - 1)]) == harness.SUID, (kind, options, numbers)


def watch_for_keys(b):
    watcher = b.popen(command=[NEIGHBOUR_COPY, "keys", "6000"])
    while watcher.poll() is None:
        b.run("exec", "--no-share", *VICTIMS["encrypted"], "cat", "/which").prints("victim\n")
    out, err = watcher.communicate()
    lines = out.decode().splitlines()
    assert lines and lines[-1].startswith("saw ") and int(lines[-1].split()[1]) > 1, (lines, err)
    assert len(lines) == 1, lines


def a_contained_payload_gets_nothing(b):
    """the payload of a --containall container gets no descriptor, key, memory or namespace of another container"""
    attack(b, CONTAINED)


def a_contained_payload_gets_nothing_of_what_the_kernel_mounts(b):
    """… nor of one whose image the kernel mounts"""
    configure("any")
    try:
        attack(b, CONTAINED)
        with open("/proc/misc") as file:
            device_mapper = "device-mapper" in file.read()
        for kind, victim in VICTIMS.items():
            running, _ = start(b, *victim)
            assert bool(b.loops()) == (kind == "plain" or device_mapper), (kind, b.loops())
            stop(running)
        watch_for_keys(b)
    finally:
        configure("never")


def an_uncontained_payload_gets_nothing(b):
    """… nor does one that sees the folder in which starts meet, and all processes of its user (of other images)"""
    attack(b, UNCONTAINED)


def payloads_of_one_image(b):
    """starts that share a server share its user namespace: a payload of --containall looks into no other, one without --pid does"""
    looks = [HOSTILE, "neighbour", "search", "/nonexistent"]
    for options in ([], ["--contain"], ["--containall"]):
        victim, _ = start(b, *options, HOSTILE)
        try:
            for free in ([], ["--contain"]):  # as ranks of MPI do (mpi.py)
                assert spoils(b.run("exec", *free, *looks, timeout=120)), (options, free)
            for contained in (["--containall"], ["--compat"], ["--contain", "--pid"]):
                before = servers(b)
                found = spoils(b.run("exec", *contained, *looks, timeout=120))
                assert not found and before == servers(b), (options, contained, found)
        finally:
            stop(victim)


def the_place_is_seen_there(b):
    """(that one does see the sockets: its failure is a refusal)"""
    running, _ = start(b, SQUASHFS)
    try:
        seen = b.run("exec", *UNCONTAINED, HOSTILE, "neighbour", "search", PLACE).ok()
        assert any(line.startswith("saw " + PLACE) for line in seen.lines), repr(seen)
        hidden = b.run("exec", *CONTAINED, HOSTILE, "neighbour", "search", *PLACES, timeout=120).ok()
        assert not any(line.startswith("saw ") for line in hidden.lines), repr(hidden)
    finally:
        stop(running)


def a_payload_that_serves_is_not_believed(b):
    """a payload that takes the place of every server is told nothing, and starts go on without it"""
    for victim, options, hostile in itertools.product(VICTIMS.values(), ([], ["--fakeroot"]), (HOSTILE, UNREADABLE)):
        running, _ = start(b, *victim)
        impostor, line = start(b, *UNCONTAINED, *options, hostile, command=("neighbour", "serve", PLACE))
        try:
            assert line.startswith("serving ") and line != "serving 0\n", line
            for _ in range(3):
                b.run("exec", *victim, "cat", "/which").prints("victim\n")
        finally:
            impostor.kill()
            told, _ = impostor.communicate()
            stop(running)
        assert b"got" not in told, told
        shutil.rmtree(PLACE, ignore_errors=True)


def a_payload_that_holds_the_lock_delays_nobody_for_ever(b):
    """a payload that holds the lock of that folder costs a start some time, not its right end"""
    running, _ = start(b, SQUASHFS)
    holder, line = start(b, *UNCONTAINED, HOSTILE, command=("neighbour", "lock", PLACE))
    assert line == "held\n", line
    try:
        b.run("exec", *VICTIMS["sealed"], "cat", "/which", timeout=60).prints("victim\n")
        joined_and_right(b, VICTIMS["plain"])
    finally:
        stop(holder, running)


def another_user_occupies_every_name(b):
    """another user who took every name beforehand: starts share one server all the same"""
    os.mkdir(PLACE)
    os.chown(PLACE, 65534, 65534)
    try:
        one, _ = start(b, SQUASHFS)
        joined_and_right(b, VICTIMS["plain"])
        hidden = glob.glob(PLACE + "-*")
        assert len(hidden) == 1 and os.stat(hidden[0]).st_mode & 0o777 == 0o700, hidden
        stop(one)
        # It has been seen by now, and is taken as well.
        os.makedirs(hidden[0], exist_ok=True)
        os.chown(hidden[0], 65534, 65534)
        two, _ = start(b, SQUASHFS)
        joined_and_right(b, VICTIMS["plain"])
        stop(two)
        os.rmdir(hidden[0])
    finally:
        os.rmdir(PLACE)


def nobody_sees_who_runs_what(b):
    """/proc/net/unix names neither the user nor the image of a server"""
    running, _ = start(b, SQUASHFS)
    try:
        with open("/proc/net/unix") as file:
            lines = [line for line in file if "@postern" in line or PLACE in line]
        assert not lines, lines
    finally:
        stop(running)


def only_the_server_holds_the_device(b):
    """while containers run, /dev/fuse is open in their server and nowhere else"""
    one, _ = start(b, SQUASHFS)
    two, _ = start(b, "--containall", SQUASHFS)
    try:
        holders = set()
        for pid in b.processes():
            for path in glob.glob(f"/proc/{pid}/fd/*"):
                try:
                    if os.stat(path).st_rdev == os.makedev(10, 229):
                        holders.add(pid)
                except OSError:
                    continue
        assert holders == set(servers(b)) and len(holders) == 1, (holders, servers(b))
    finally:
        stop(one, two)


def the_volume_key_is_out_of_reach(b):
    """no process of the same user, outside of containers too, opens the volume key of a start"""
    watch_for_keys(b)


def the_server_cannot_be_looked_into(b):
    """no process of the same user, outside of containers too, attaches to a server or reads its memory"""
    running, _ = start(b, *VICTIMS["encrypted"])
    try:
        result = b.run(command=[NEIGHBOUR_COPY, "search", "/nonexistent"], timeout=120).ok()
        found = [line for line in result.lines if "postern-squashf" in line]
        assert not found, found
    finally:
        stop(running)


def a_directory_of_the_caller(b):
    """a directory that is open in the caller does not reach a contained payload, nor one that joins an instance"""
    look = ["sh", "-c", "for n in 0 1 2 9; do ls -d /proc/self/fd/$n/. 2>/dev/null; done; echo searched"]
    b.run("instance", "start", SQUASHFS, "held").ok()
    try:
        for options, image, reached in (([], SQUASHFS, True), (["--contain"], SQUASHFS, False), (["--containall"], SQUASHFS, False),
                                        ([], "instance://held", False)):
            command = ["sh", "-c", 'exec "$@" 9</ </', "sh", b.postern, "exec", *options, image, *look]
            result = b.run(command=command).ok()
            assert ("/proc/self/fd/9/." in result.lines) == ("/proc/self/fd/0/." in result.lines) == reached, (options, image, result)
            assert result.err.count("is a directory of the host") == (0 if reached else 2), result.err
            # What is no directory does, as ever.
            command = ["sh", "-c", 'exec "$@" 9</etc/hostname', "sh", b.postern, "exec", *options, image, "readlink", "/proc/self/fd/9"]
            b.run(command=command).prints("/etc/hostname\n")
    finally:
        b.run("instance", "stop", "held")


def an_image_looks_into_its_start(b):
    """scripts of an image are executed in the process of the start: no descriptor there leads to a file of the host"""
    secret = os.path.join(b.work, "secret")
    with open(secret, "w") as file:
        file.write("SECRET=known; export SECRET\n")
    climb = "; ".join(f'if [ -f /proc/self/fd/$n/{"../" * up}{secret[1:]} ]; then . /proc/self/fd/$n/{"../" * up}{secret[1:]}; fi'
                      for up in range(10))
    numbers = " ".join(map(str, range(3, 64)))
    script = f'SECRET=none; export SECRET; KINDS=; export KINDS; for n in {numbers}; do\n{climb}\n' \
             'if [ -d /proc/self/fd/$n/. ] || [ -S /proc/self/fd/$n ]; then KINDS="$KINDS $n"; fi\ndone\n'
    root = b.rootfs("looking", files={".singularity.d/env/10-look.sh": script})
    image = b.squashfs(root)
    say = ["sh", "-c", 'echo "$SECRET,$KINDS"']
    for options in ([], ["--contain"], ["--containall"], ["--containall", "--no-init"], ["--contain", "--fakeroot"], ["--contain", "--writable-tmpfs"],
                    ["--contain", "--bind", b.work + ":/tmp"], ["--contain", "--no-share"], ["--contain", "--net", "--network=none"]):
        for source in (image, root):
            b.run("exec", *options, source, *say).prints("none,\n")
    # A directory that the caller leaves open is one: so it would be found.
    b.run(command=["sh", "-c", 'exec "$@" 9</', "sh", b.postern, "exec", image, *say]).prints("known, 9\n")
    b.run("instance", "start", image, "looking").ok()
    try:
        b.run("exec", "instance://looking", *say).prints("none,\n")
    finally:
        b.run("instance", "stop", "looking")


@contextlib.contextmanager
def places_of_the_user_in_sysfs(b):
    """A delegated cgroup, and the control files of the user's FUSE connections."""
    tree = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
    group = f"{tree}/postern-test-{os.getpid()}"
    control = "/sys/fs/fuse/connections"
    mounted = not os.path.ismount(control)
    os.mkdir(group)
    try:
        for path in [group, *glob.glob(group + "/*")]:
            os.chown(path, b.user.uid, b.user.gid)
        if mounted:
            subprocess.run(["mount", "-t", "fusectl", "none", control], check=True)
        yield group, control
    finally:
        if mounted:
            subprocess.run(["umount", control], check=True)
        os.rmdir(group)


def at_a_terminal(b, *arguments):
    """The lines of `postern exec ARGUMENTS`, whose terminal is one of its own."""
    master, slave = pty.openpty()

    def take():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = b.popen("exec", *arguments, stdin=slave, preexec_fn=take, close_fds=True)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        os.close(master)
        os.close(slave)
    assert process.returncode == 0 and b"searched" in out, (out, err)
    return [line for line in out.decode().splitlines() if line.startswith("got")]


def what_no_namespace_divides(b):
    """a contained payload reaches no key ring, types nothing into the terminal, and writes nothing below /sys"""
    running, _ = start(b, SQUASHFS)
    attacker = [HOSTILE, "neighbour", "undivided", "/sys/fs"]
    profile = os.path.join(b.top, "allow.json")
    with open(profile, "w") as file:
        file.write('{"defaultAction": "SCMP_ACT_ALLOW"}')
    try:
        with places_of_the_user_in_sysfs(b) as (group, control):
            free = "\n".join(at_a_terminal(b, *attacker))
            for word in ("key ring", f"got {group}/cgroup.freeze", f"got {control}", "abort", "terminal"):
                assert word in free, (word, free)
            for options in (["--contain"], ["--containall"], ["--compat"], ["--contain", "--fakeroot"],
                            ["--contain", "--security", f"seccomp:{profile}"], ["--contain", "--net", "--network=none"]):
                found = at_a_terminal(b, *options, *attacker)
                assert not found, (options, found)
            joined_and_right(b, VICTIMS["plain"])
    finally:
        stop(running)


def capabilities_are_not_shared(b):
    """a payload with capabilities in its user namespace has one of its own"""
    one, _ = start(b, "--fakeroot", SQUASHFS)
    two, _ = start(b, "--fakeroot", SQUASHFS)
    try:
        children = [pid for pid in b.processes("sleep 60") if os.readlink(f"/proc/{pid}/exe").endswith("busybox")]
        namespaces = {os.readlink(f"/proc/{pid}/ns/user") for pid in children}
        assert len(children) == 2 and len(namespaces) == 2, (children, namespaces)
    finally:
        stop(one, two)


NEIGHBOUR_COPY = os.path.join(bench.top, "neighbour")
shutil.copy(NEIGHBOUR, NEIGHBOUR_COPY)
os.chmod(NEIGHBOUR_COPY, 0o755)
CASES = [starts_are_of_the_mode, a_contained_payload_gets_nothing, payloads_of_one_image, the_place_is_seen_there,
         a_payload_that_serves_is_not_believed, a_payload_that_holds_the_lock_delays_nobody_for_ever,
         another_user_occupies_every_name, nobody_sees_who_runs_what, only_the_server_holds_the_device,
         the_volume_key_is_out_of_reach, the_server_cannot_be_looked_into, what_no_namespace_divides,
         a_directory_of_the_caller, an_image_looks_into_its_start, capabilities_are_not_shared]
configure("never")
# In setuid mode a payload that is not contained is a process of its user like any other: postern-security(7).
bench.main(CASES + [a_contained_payload_gets_nothing_of_what_the_kernel_mounts if harness.SUID else an_uncontained_payload_gets_nothing])
