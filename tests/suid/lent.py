#!/usr/bin/env python3
"""The boundary itself, driven by unprivileged users through the installed helper: nothing that it makes lends
rights, no verdict passes its ceiling, nothing that the caller set before counts. Prints TAP.

Each hostile case has its positive twin in the same test. Usage: lent.py HELPER JUDGE PROBE LIBEXEC CONFDIR [NAME-PART]
"""
import ctypes
import errno
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import liar  # noqa: E402
import world as worlds  # noqa: E402
from liar import Request, Start  # noqa: E402
from tap import check, wait_until  # noqa: E402
from world import T1, T2  # noqa: E402

worlds.enter_namespace()
W = worlds.World(*sys.argv[1:6])
JUDGE = sys.argv[2]
ONLY = sys.argv[6] if len(sys.argv) > 6 else ""
NO_SOCKET, JUDGE_FAILED, LIMIT, CEILING, KERNEL_MOUNT, OVERLAY_DIRECTORY = 7, 10, 12, 13, 114, 121
CHECK_VERDICT = 3  # Op::kCheckVerdict
CASES = []


def case(function):
    CASES.append(function)
    return function


def path_fd(path):
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def request(commands, root=None, kind=liar.IMAGE, **fields):
    root = IMAGE if root is None else root
    r = Request(path_fd(root) if kind == liar.DIRECTORY else os.open(root, os.O_RDONLY), kind, **fields)
    r.init, r.record = r.add(path_fd(W.probe)), r.add(liar.memfd(commands.encode()))
    os.lseek(r.descriptors[r.record], 0, 0)
    return r


def with_proc(r):
    r.mount(liar.PROC, "/proc", flags=liar.IS_DIRECTORY)
    return r


def start(r, **options):
    """One start: [refusal, op, errno, item, helper status, payload status, output]."""
    read_end, write_end = os.pipe()
    s = Start(W.helper, stdout=write_end, **options)
    s.ask(r)
    os.close(write_end)
    with os.fdopen(read_end, errors="replace") as out:
        text = out.read()
    reply, status, payload = s.end()
    return [reply.refusal, reply.op, reply.err, reply.item, status, payload, text]


def runs(outcome, what):
    check(outcome[0] == 0 and outcome[4] == 0 and outcome[5] == 7, f"{what}: {outcome[:6]} {outcome[6][:300]}")
    return outcome[6]


def refused(outcome, code, what):
    check(outcome[0] == code and outcome[5] is None, f"{what}: expected refusal {code}, got {outcome[:6]}")


def lines(text, tag):
    return [line[len(tag) + 1:] for line in text.splitlines() if line.startswith(tag + " ")]


def field(text, name):
    return next(line.split(":", 1)[1].split() for line in lines(text, "status") if line.startswith(name + ":"))


# ------------------------------------------------------------------------- lent credentials: an oracle

MODES = [a << 6 | b << 3 | c for a in (0, 1, 4, 5, 7) for b in (0, 1, 4, 5, 7) for c in (0, 1, 2, 4, 5, 7)]
OWNERS = ((0, 0), (T1, T1), (T2, T2), (T2, worlds.T1_GROUPS[1]), (0, worlds.T1_GROUPS[2]), (T1, T2))


def make_tree(place):
    """Directories of every mode, owner and group with a file in each, some with ACLs and attributes."""
    acls = ("", f"u:{T1}:rwx", f"u:{T1}:-", f"g:{worlds.T1_GROUPS[1]}:rx,m::rx", f"u:{T2}:rwx,m::r")
    by_acl = {}
    number = 0
    for uid, gid in OWNERS:
        for mode in MODES:
            number += 1
            directory, inner = f"{place}/{number}", f"{place}/{number}/inner"
            os.makedirs(inner)
            for path in (f"{directory}/open", f"{directory}/closed", f"{inner}/deep"):
                with open(path, "w") as file:
                    file.write(f"canary {path.removeprefix(place)}\n")
            os.symlink("open", f"{directory}/link")
            os.setxattr(f"{directory}/open", "user.canary", b"attribute")
            os.setxattr(f"{directory}/open", "trusted.canary", b"attribute")
            os.chmod(f"{directory}/open", 0o644)
            os.chmod(f"{directory}/closed", mode)
            os.chmod(inner, 0o755 if number % 2 else mode)
            for path in (f"{directory}/closed", directory):
                os.chown(path, uid, gid)
                os.chmod(path, mode)
            by_acl.setdefault(acls[number % len(acls)], []).append(directory)
    for acl, paths in by_acl.items():
        if acl:
            subprocess.run(["setfacl", "-m", acl, *paths], check=True)
    return number


def outside(command, uid, groups):
    """What the probe says, run by the user on the host."""
    def attack():
        record = liar.memfd(command.encode())
        os.lseek(record, 0, 0)
        os.dup2(record, 3)
        done = subprocess.run([W.probe], pass_fds=(3,), capture_output=True, env={}, timeout=120)
        return done.stdout.decode(errors="replace")
    return W.as_user(attack, uid=uid, groups=groups)


def compare(inside_text, inside_at, outside_text, outside_at, what):
    """Each thing that succeeds inside succeeds outside: the lines of one are among those of the other."""
    def normal(text, at):
        return {line.replace(at, "@", 2) for line in text.splitlines() if line.startswith("walk ")}
    inner, outer = normal(inside_text, inside_at), normal(outside_text, outside_at)
    more = sorted(inner - outer)
    check(not more, f"{what}: {len(more)} things are reachable through the container alone, as {more[:4]}")
    return len(inner)


USERS = ((T1, worlds.T1_GROUPS), (T2, [T2]))


@case
def nothing_is_reached_through_a_container_that_is_not_reached_outside():
    """binds, read-only binds, directory roots; a tree of every mode, owner, group and ACL, as two users"""
    tree = f"{W.work}/oracle/tree"
    os.makedirs(tree)
    count = make_tree(tree)
    parent = os.path.dirname(tree)
    os.mkdir(f"{parent}/proc")
    for uid, groups in USERS:
        host = outside(f"walk {tree}\n", uid, groups)
        seen = {}

        def bind(flags):
            r = request("walk /bind/tree\n")
            r.mount(liar.BIND, "/bind", r.add(path_fd(parent)), flags=flags | liar.IS_DIRECTORY)
            return start(r)
        for name, flags in (("bind", 0), ("read-only bind", liar.READ_ONLY)):
            text = runs(W.as_user(lambda flags=flags: bind(flags), uid=uid, groups=groups), name)
            seen[name] = compare(text, "/bind/tree", host, tree, f"{name}, uid {uid}")
        for name, fields in (("directory root", {}), ("writable directory root", {"writable": 1})):
            text = runs(W.as_user(lambda fields=fields: start(request("walk /tree\n", parent, liar.DIRECTORY, **fields)), uid=uid,
                                  groups=groups), name)
            seen[name] = compare(text, "/tree", host, tree, f"{name}, uid {uid}")
        print(f"# uid {uid}: {count} directories, {len(host.splitlines())} things outside; {seen}")
        check(min(seen.values()) > count, f"the twin: what may be reached is reached: {seen}")


@case
def no_overlay_lies_over_a_directory_of_the_host():
    """directory layers, a directory of the same name above a private one, directory roots under an overlay: refused, with a cure"""
    private = f"{W.work}/private"
    os.makedirs(f"{private}/nested/inner")
    with open(f"{private}/file", "w") as file:
        file.write("canary\n")
    with open(f"{private}/nested/inner/file", "w") as file:
        file.write("canary\n")
    os.chmod(f"{private}/nested", 0o700)
    subprocess.run(["chown", "-R", f"{T2}:{T2}", private], check=True)
    os.chmod(private, 0o700)
    own = f"{W.work}/own"
    os.makedirs(f"{own}/private/nested/inner")
    subprocess.run(["chown", "-R", f"{T1}:{T1}", own], check=True)

    def attack(layers, root, kind, scratch):
        r = request("read /file\nread /private/file\nread /private/nested/inner/file\nread /nested/inner/file\nlist /private", root,
                    kind, scratch=scratch)
        r.layers = [(liar.DIRECTORY, r.add(path_fd(path))) for path in layers]
        return start(r)
    for layers, root, kind in (([private], IMAGE, liar.IMAGE), ([W.work, own], IMAGE, liar.IMAGE), ([], private, liar.DIRECTORY),
                               ([own], W.work, liar.DIRECTORY), ([], "/proc", liar.DIRECTORY), (["/sys"], IMAGE, liar.IMAGE)):
        for scratch in (liar.MOUNT_POINTS, liar.WRITABLE):
            outcome = W.as_user(lambda a=(layers, root, kind, scratch): attack(*a))
            refused(outcome, OVERLAY_DIRECTORY, f"{layers} over {root}, scratch {scratch}")
            check("canary" not in outcome[6], "its bytes")
    # The twin: over an image there is one, and it takes writes.
    text = runs(W.as_user(lambda: start(with_proc(request("write /home/new\nfacts", scratch=liar.WRITABLE)))), "an overlay over an image")
    check(any(" overlay " in line for line in lines(text, "mount")), "an overlay")


@case
def procfs_and_sysfs_show_what_they_show_outside():
    """as a bind, as a root, and as the system mounts; names and openings, for the bytes change"""
    for uid, groups in USERS:
        for place in ("/sys/kernel", "/sys/fs", "/proc/sys/kernel", "/proc/sys/fs", "/proc/sys/vm"):
            if not os.path.isdir(place):
                continue
            host = outside(f"names {place}\n", uid, groups)

            def bind():
                r = request("names /bind\n")
                r.mount(liar.BIND, "/bind", r.add(path_fd(place)), flags=liar.IS_DIRECTORY)
                return start(r)

            def system():
                r = request(f"names {place}\n")
                r.mount(liar.PROC, "/proc", flags=liar.IS_DIRECTORY)
                r.mount(liar.SYSFS, "/sys", flags=liar.IS_DIRECTORY)
                return start(r)
            text = runs(W.as_user(bind, uid=uid, groups=groups), place)
            seen = compare(text, "/bind", host, place, f"bind of {place}, uid {uid}")
            text = runs(W.as_user(system, uid=uid, groups=groups), place)
            seen = min(seen, compare(text, place, host, place, f"{place} as a system mount, uid {uid}"))
            check(seen > 3, f"{place}: only {seen} names")
            top = os.path.dirname(place) if place.startswith("/sys") else place
            outcome = W.as_user(lambda: start(request("names /\n", top, liar.DIRECTORY)), uid=uid, groups=groups)
            host = outside(f"names {top}\n", uid, groups)
            inner = "\n".join((line + " ").replace(" //", f" {top}/").replace(" / ", f" {top} ").strip() for line in outcome[6].splitlines())
            compare(inner, top, host, top, f"{top} as a root, uid {uid}")


# ---------------------------------------------------------------------------------- a fake judge

GRANTABLE = (10, 11, 13, 14, 23, 35, 36)


def verdict(**fields):
    """struct Verdict of protocol/verdict.h, by hand, as long as it is used: descriptors 0 image, 1 init, 2 record."""
    v = bytearray(336 + 24)
    values = {"overlay": 0, "writable": 0, "upper": liar.NONE, "net": liar.NONE, "namespaces": 0, "scratch": 1 << 20, "capabilities": 0,
              "kind": liar.IMAGE, "bytes": os.stat(IMAGE).st_size // 4096 * 4096, "layers": ()} | fields
    struct.pack_into("<IBxHI", v, 0, 0x50565233, 1, 0, 0)
    struct.pack_into("<BB4HxxI4xQQ", v, 12, values["overlay"], values["writable"], values["upper"], values["net"], 1, 2,
                     values["namespaces"], 0, values["bytes"] if values["kind"] == liar.IMAGE else 0)
    struct.pack_into("<H", v, 170, liar.NONE)
    struct.pack_into("<QQ", v, 176, values["scratch"], values["capabilities"])
    struct.pack_into("<HHI", v, 256, 1 + len(values["layers"]), values.get("operations", 1), values.get("arena", 7))
    struct.pack_into("<BBHIIxxxxQ", v, 336, liar.PROC, liar.IS_DIRECTORY, liar.NONE, 1, 0, 0)
    v += b"\0/proc\0"
    for number, (kind, descriptor) in enumerate([(values["kind"], 0), *values["layers"]]):
        struct.pack_into("<BxH", v, 264 + 4 * number, kind, descriptor)
    return bytes(v)


class FakeJudge:
    """In the place of the judge, a program that answers what a test wants: what a taken-over judge can do."""
    def __enter__(self):
        self.answer = f"{W.work}/verdict"
        program = f"{W.work}/fake-judge"
        with open(program, "w") as file:
            file.write(f"#!/usr/bin/python3 -I\nimport os\nos.pwrite(3, open('{self.answer}', 'rb').read(), 0)\n")
        W.install(program, "postern-judge", 0o755)
        return self

    def __exit__(self, *_):
        W.install(JUDGE, "postern-judge", 0o711)

    def ask(self, extra=(), root=None, kind=liar.IMAGE, **fields):
        with open(self.answer, "wb") as file:
            file.write(verdict(kind=kind, **fields))

        def attack():
            r = request("facts\n", root, kind)
            for path in extra:
                r.add(path_fd(path))
            return start(r)
        return W.as_user(attack)


def stopped(outcome, what):
    check(outcome[1:3] == [CHECK_VERDICT, errno.EBADMSG] and outcome[5] is None, f"{what}: {outcome[:6]}")


def payload_is_the_callers(text, capabilities=0):
    check(field(text, "Uid") == [str(T1)] * 4 and field(text, "Gid") == [str(T1)] * 4, f"ids {field(text, 'Uid')}")
    check(sorted(field(text, "Groups")) == sorted(map(str, worlds.T1_GROUPS)), "groups")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        check(int(field(text, name)[0], 16) == capabilities, f"{name} {field(text, name)}, expected {capabilities:x}")
    check(field(text, "NoNewPrivs") == ["1"], "no_new_privs")


@case
def a_judge_that_answers_anything_grants_nothing_beyond_the_ceiling():
    grantable = f"{W.confdir}/grantable"
    with FakeJudge() as judge:
        payload_is_the_callers(runs(judge.ask(), "the fake judge's plain answer"))
        stopped(judge.ask(capabilities=(1 << 41) - 1), "every capability")
        for number in range(64):
            outcome = judge.ask(capabilities=1 << number)
            if number in GRANTABLE:
                refused(outcome, CEILING, f"capability {number}, which root does not list")
            else:
                stopped(outcome, f"capability {number}")
        os.mkdir(grantable)
        for number in GRANTABLE:
            os.symlink("/etc/passwd", f"{grantable}/{number}")
            refused(judge.ask(capabilities=1 << number), CEILING, f"capability {number}, listed by a link")
            os.unlink(f"{grantable}/{number}")
            open(f"{grantable}/{number}", "w").close()
            os.chown(f"{grantable}/{number}", T1, T1)
            refused(judge.ask(capabilities=1 << number), CEILING, f"capability {number}, listed by its caller")
            os.chown(f"{grantable}/{number}", 0, 0)
            payload_is_the_callers(runs(judge.ask(capabilities=1 << number), f"capability {number}, listed"), 1 << number)
            others = sum(1 << other for other in GRANTABLE) & ~(1 << number)
            refused(judge.ask(capabilities=others), CEILING, f"all but {number}")
            os.unlink(f"{grantable}/{number}")
        os.rmdir(grantable)


@case
def a_judge_that_answers_anything_gets_no_other_rule_past_the_helper():
    with FakeJudge() as judge:
        stopped(judge.ask(namespaces=1 << 28), "a user namespace")
        for number in (8, 9, 13, 15, 16, 18, 24, 31):  # VM, FS, PTRACE, PARENT, …
            stopped(judge.ask(namespaces=1 << number), f"clone flag {number}")
        stopped(judge.ask([W.root], overlay=1, layers=[(liar.DIRECTORY, 3)]), "a directory layer")
        stopped(judge.ask(root=W.root, kind=liar.DIRECTORY, overlay=1), "a directory root under an overlay")
        stopped(judge.ask([W.root], overlay=1, upper=3), "an upper layer of the host")
        stopped(judge.ask(bytes=1 << 61), "an extent that wraps")
        for fields in ({"operations": 2}, {"operations": 1281}, {"operations": 65535}, {"arena": 8}, {"arena": (256 << 10) + 1}, {"arena": (1 << 32) - 1}):
            refused(judge.ask(**fields), JUDGE_FAILED, f"more than it wrote, or than there may be: {fields}")
        stopped(judge.ask(arena=0), "no arena")
        stopped(judge.ask(arena=6), "an arena without an end")
        stopped(judge.ask(operations=0, arena=31), "an operation that is not counted is part of the arena")
        outcome = judge.ask(["/etc/passwd"], net=3)
        check(outcome[5] is None, f"a network namespace that is none: {outcome[:6]}")
        outcome = judge.ask(root="/dev/zero")
        check(outcome[5] is None, f"an image that is a device: {outcome[:6]}")
        # What it can do is written down (helper/README.md, section 8): run where the site says no.
        W.configure(site=worlds.SITE.replace("enabled = true", "enabled = false"))
        try:
            payload_is_the_callers(runs(judge.ask(namespaces=liar.PID | liar.NET), "what the site forbids"))
        finally:
            W.configure()
        with open(judge.answer, "wb") as file:
            file.write(b"\0" * 73504)
        refused(W.as_user(lambda: start(request("facts\n"))), JUDGE_FAILED, "no verdict at all")


@case
def a_judge_that_dies_leaves_a_line_in_the_log():
    with W.syslog() as journal:
        def dies():
            return start(request("facts\n"))
        W.install("/bin/false" if os.path.exists("/bin/false") else "/usr/bin/false", "postern-judge", 0o755)
        try:
            refused(W.as_user(dies), JUDGE_FAILED, "a judge that dies")
        finally:
            W.install(JUDGE, "postern-judge", 0o711)
        found = journal()
        check(len(found) == 1 and f"postern-helper: refused: the judge died, uid={T1}" in found[0], f"{found}")
        runs(W.as_user(dies), "the twin")
        check(len(journal()) == 2, f"{journal()}")


# ------------------------------------------------------------------- limits, clocks, who is charged

def can_raise():
    """Whether root may raise hard limits here (CAP_SYS_RESOURCE): not in every container."""
    with open("/proc/self/status") as file:
        bounding = next(line for line in file if line.startswith("CapBnd"))
    return int(bounding.split()[1], 16) >> 24 & 1 == 1


@case
def limits_and_timers_of_the_caller_count_for_its_payload_alone():
    hard = can_raise()
    names = ("CPU", "FSIZE", "DATA", "STACK", "CORE", "NPROC", "NOFILE", "MEMLOCK", "AS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME")
    wanted = {"CPU": (7, 9), "FSIZE": (0, 0), "CORE": (0, 1 << 20), "NOFILE": (64, 80), "MEMLOCK": (1 << 16, 1 << 16), "RTTIME": (5000, 9000),
              "NPROC": (4000, 5000), "STACK": (1 << 20, 4 << 20), "AS": (1 << 30, 1 << 31), "DATA": (1 << 29, 1 << 30),
              "SIGPENDING": (100, 200), "MSGQUEUE": (1000, 2000), "NICE": (0, 0), "RTPRIO": (0, 0)}
    labels = {"CPU": "Max cpu time", "FSIZE": "Max file size", "CORE": "Max core file size", "NOFILE": "Max open files",
              "MEMLOCK": "Max locked memory", "RTTIME": "Max realtime timeout", "NPROC": "Max processes", "STACK": "Max stack size",
              "AS": "Max address space", "DATA": "Max data size", "SIGPENDING": "Max pending signals", "MSGQUEUE": "Max msgqueue size",
              "NICE": "Max nice priority", "RTPRIO": "Max realtime priority"}

    def set_all():
        for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.signal({signal.ITIMER_VIRTUAL: signal.SIGVTALRM, signal.ITIMER_PROF: signal.SIGPROF}[timer], signal.SIG_IGN)
            signal.setitimer(timer, 0.02, 0.02)
        signal.setitimer(signal.ITIMER_REAL, 15, 15)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for number in (32, 33):  # those that the C library keeps for itself
            liar.LIBC.syscall(13, number, struct.pack("4Q", 1, 0, 0, 0), None, 8)
        for name in names:
            number = {"RTTIME": 15}.get(name) or getattr(resource, f"RLIMIT_{name}")
            liar.LIBC.prlimit(0, number, struct.pack("QQ", wanted[name][0], wanted[name][1] if hard else 2**64 - 1), None)

    def attack():
        r = request("facts\n", namespaces=liar.PID)
        r.mount(liar.PROC, "/proc", flags=liar.IS_DIRECTORY)
        return start(r, before_exec=set_all)
    text = runs(W.as_user(attack), "small limits, and timers")
    limits = {line[:26].strip(): line[26:].split() for line in lines(text, "limit")}
    for name, label in labels.items():
        expected = [str(value) for value in wanted[name]][:2 if hard else 1]
        if hard or resource.getrlimit({"RTTIME": 15}.get(name) or getattr(resource, f"RLIMIT_{name}"))[1] == resource.RLIM_INFINITY:
            check(limits[label][:len(expected)] == expected, f"{label}: {limits[label]}, expected {expected}")
    proc = next(line for line in lines(text, "mount") if line.split()[4] == "/proc")
    check("noexec" in proc.split()[5].split(","), f"a procfs of ours is noexec: {proc}")


@case
def every_hard_limit_at_every_value_ends_in_a_running_payload_or_a_word():
    """the helper is never killed by one: between the creation of a mapping and its arming that would leave it behind"""
    raises = can_raise()
    for name, number, values in (("CPU", 0, (1, 2)), ("RTTIME", 15, (1, 1000)), ("FSIZE", 1, (0, 1, 4096)), ("NOFILE", 7, (24, 64)),
                                 ("NPROC", 6, (0, 1)), ("MEMLOCK", 8, (0,)), ("SIGPENDING", 11, (0,)), ("CORE", 4, (0,))):
        for value in values:
            def attack(number=number, value=value):
                def limit():
                    liar.LIBC.prlimit(0, number, struct.pack("QQ", value, value), None)
                return start(request("facts\n"), before_exec=limit)
            outcome = W.as_user(attack)
            # The payload has them as well: FSIZE ends what it writes.
            named = not raises and ((outcome[0] == LIMIT and outcome[3] == number and number in (0, 1, 7, 15)) or
                                    (number == 6 and outcome[2] == errno.EAGAIN))  # fork(2)
            check((outcome[4] == 0 and outcome[0] == 0) or named, f"{name} {value}: {outcome[:6]}")


@case
def without_the_right_to_raise_a_limit_the_helper_names_it():
    """a container without CAP_SYS_RESOURCE: hard limits stay, so that nothing is begun that they could end"""
    def attack(number, value):
        def limit():
            liar.LIBC.prctl(24, 24, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE
            liar.LIBC.prlimit(0, number, struct.pack("QQ", value, value), None)
        return limit

    def run(number, value):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            liar.LIBC.prctl(24, 24, 0, 0, 0)
            outcome = W.as_user(lambda: start(request("facts\n"), before_exec=lambda: liar.LIBC.prlimit(
                0, number, struct.pack("QQ", value, value), None)) if number is not None else start(request("facts\n")))
            os.write(write_end, repr(outcome[:6]).encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as answers:
            answer = answers.read()
        os.waitpid(pid, 0)
        return eval(answer)
    for name, number, value in (("CPU", 0, 60), ("FSIZE", 1, 1 << 20), ("AS", 9, 1 << 32), ("RTTIME", 15, 1 << 20)):
        outcome = run(number, value)
        check(outcome[0] == LIMIT and outcome[3] == number and outcome[4] == LIMIT, f"{name}: {outcome}")
    check(run(None, 0)[5] == 7, "the twin, without limits")


@case
def namespaces_are_charged_to_the_caller():
    """with the caller's own count at the limit, its next start fails, and nobody else's"""
    limit_path = "/proc/sys/user/max_uts_namespaces"
    with open(limit_path) as file:
        before = file.read()

    def hold(count):
        """`count` namespaces, kept by descriptors alone: payloads that have ended."""
        kept = []
        for _ in range(count):
            read_end, write_end = os.pipe()
            s = Start(W.helper, stdout=write_end)
            s.ask(request("wait\n", namespaces=liar.UTS))
            os.close(write_end)
            reply = s.reply()
            s.wait()
            if not reply.pid:
                return [len(kept), reply.op, reply.err]
            os.read(read_end, 1)  # it runs: its namespaces are its own
            kept.append(os.open(f"/proc/{reply.pid}/ns/uts", os.O_RDONLY))
            os.kill(reply.pid, signal.SIGKILL)
            os.waitpid(reply.pid, 0)
            os.close(read_end)
        return [len(kept), 0, 0]
    try:
        try:
            with open(limit_path, "w") as file:
                file.write("12")
        except OSError:
            print("# no limits of namespaces can be set here: tests/vm does; and fuzz/helper_machine asserts it at every clone")
            return
        outcome = W.as_user(lambda: hold(40))
        check(0 < outcome[0] <= 12 and outcome[2] == errno.ENOSPC, f"the attacker meets its own limit: {outcome}")
        # The twin: root and another user make theirs.
        done = subprocess.run(["unshare", "--uts", "true"], capture_output=True)
        check(done.returncode == 0, f"root is not charged: {done.stderr}")
        runs(W.as_user(lambda: start(request("facts\n", namespaces=liar.UTS)), uid=T2, groups=[T2]), "another user")
    finally:
        if os.access(limit_path, os.W_OK) and not os.statvfs(limit_path).f_flag & os.ST_RDONLY:
            with open(limit_path, "w") as file:
                file.write(before)


# ---------------------------------------------------------------------- who is there, and who is gone

@case
def descriptor_3_is_a_socket_of_the_process_that_started_the_helper():
    def other_process():
        """the socket pair was made by another process of the same user"""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            helper = os.fork()
            if helper == 0:
                os.dup2(right.fileno(), 3)
                os.execve(W.helper, ["postern-helper"], {})
            _, status = os.waitpid(helper, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)

    def network():
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        server.bind(("127.0.0.1", 0))
        server.listen()
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.connect(server.getsockname())
        pid = os.fork()
        if pid == 0:
            os.dup2(client.fileno(), 3)
            os.execve(W.helper, ["postern-helper"], {})
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    check(W.as_user(other_process) == NO_SOCKET, "another process's socket")
    check(W.as_user(network) == NO_SOCKET, "a socket of the network")
    runs(W.as_user(lambda: start(request("facts\n"))), "its own")


def sleeps(pid, name):
    """Whether the process has executed this program, and waits (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat") as file:
        return f"({name}) S " in file.read()


def ends_of_children():
    """How all children of this process end."""
    ended = []

    def all_have():
        try:
            while (child := os.waitpid(-1, os.WNOHANG))[0] != 0:
                ended.append(os.waitstatus_to_exitcode(child[1]))
        except ChildProcessError:
            return True
        return False
    wait_until(all_have, lambda: f"some live on, beside {ended}")
    return ended


@case
def helper_and_payload_end_with_the_frontend_that_started_them():
    """however it ends, at once and not with the deadline; with a pid namespace, all of the payload"""
    def frontend(namespaces, answer):
        """A frontend that is killed: while the helper waits for its request, or when the payload runs. How those ended that it left."""
        def attack():
            liar.LIBC.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: they are ours then
            read_end, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                s = Start(W.helper)
                if answer:
                    r = request("wait\n", namespaces=namespaces)
                    s.ask(r)
                    s.reply()
                else:
                    wait_until(lambda: sleeps(s.pid, "postern-helper"), "the helper does not wait")
                os.write(write_end, b"x")
                signal.pause()
            os.read(read_end, 1)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return ends_of_children()
        return W.as_user(attack)
    for namespaces in (0, liar.PID):
        ended = frontend(namespaces, True)
        check(-signal.SIGKILL in ended, f"the payload ends with it: {ended}")
        wait_until(lambda: not W.processes(), lambda: f"left behind the frontend: {W.processes()}")
    ended = frontend(0, False)
    check(len(ended) == 1 and ended != [-signal.SIGALRM], f"a helper ends with its frontend, not by its alarm: {ended}")

    def twin():
        s = Start(W.helper)
        s.ask(request("wait\n"))
        reply = s.reply()
        s.wait()
        with open(f"/proc/{reply.pid}/status") as file:
            running = "State:\tZ" not in file.read()
        os.kill(reply.pid, signal.SIGKILL)
        os.waitpid(reply.pid, 0)
        return running
    check(W.as_user(twin), "the twin: with its frontend it runs on")


@case
def with_any_value_of_fs_suid_dumpable_nothing_of_the_helper_can_be_traced():
    path = "/proc/sys/fs/suid_dumpable"
    with open(path) as file:
        before = file.read()

    def attack():
        """Seizes every process of the start that it can, again and again, until the payload has ended."""
        s = Start(W.helper)
        seized = []
        s.ask(request("facts\n"))
        end = time.monotonic() + 5
        while time.monotonic() < end and os.waitpid(s.pid, os.WNOHANG)[0] == 0:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                children = [int(pid) for pid in file.read().split()]
            for pid in children:
                try:
                    with open(f"/proc/{pid}/status") as file:
                        text = file.read()
                except OSError:
                    continue
                # Before its exec it is this program still, and later the payload, which is the caller's.
                if "Name:\tpostern-helper" in text and liar.LIBC.ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE
                    with open(f"/proc/{pid}/status") as file:
                        seized += ["postern-helper"] if "Name:\tpostern-helper" in file.read() else []
                    liar.LIBC.ptrace(17, pid, 0, 0)  # PTRACE_DETACH
        reply = s.reply()
        if reply.pid:
            os.waitpid(reply.pid, 0)
        return [seized, reply.pid]
    try:
        for value in ("0", "1", "2"):
            with open(path, "w") as file:
                file.write(value)
            for _ in range(15):
                seized, pid = W.as_user(attack)
                check(not seized, f"fs.suid_dumpable={value}: {seized}")
                check(pid, "the twin: it runs")
    finally:
        with open(path, "w") as file:
            file.write(before)


@case
def a_file_that_somebody_still_writes_is_not_unwritable():
    """root takes a file over with chown(2) while its former owner holds it open, by a descriptor or by a mapping alone"""
    place = f"{W.work}/trusted"
    os.mkdir(place)
    image = f"{place}/image.sif"
    with open(IMAGE, "rb") as file:
        W.sif(image, file.read())
    W.configure(site=worlds.SITE.replace('squashfs = "any"', f'squashfs = "trusted"\ntrusted-paths = ["{place}"]'))

    def attack():
        return start(request("facts\n", image))
    try:
        refused(W.as_user(attack), KERNEL_MOUNT, "a file of the caller's own")
        held = os.open(image, os.O_RDWR)
        os.chown(image, 0, 0)
        os.chmod(image, 0o644)
        refused(W.as_user(attack), KERNEL_MOUNT, "root's file that is still open for writing")
        address = liar.LIBC.mmap
        address.restype = ctypes.c_void_p
        address.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        mapped = address(None, 4096, 3, 1, held, 0)  # PROT_READ | PROT_WRITE, MAP_SHARED
        os.close(held)
        refused(W.as_user(attack), KERNEL_MOUNT, "root's file that is still mapped for writing")
        liar.LIBC.munmap(ctypes.c_void_p(mapped), ctypes.c_size_t(4096))
        runs(W.as_user(attack), "the twin: nobody writes it any more")
    finally:
        W.configure()


@case
def a_mount_of_a_user_namespace_lends_nothing():
    """a detached mount that the caller made in a user namespace of its own, as source of a bind (cloned from Linux 6.15 on)"""
    def attack():
        read_end, write_end = os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        liar.LIBC.prctl(4, 1, 0, 0, 0)
        pid = os.fork()
        if pid == 0:
            try:
                check(liar.LIBC.unshare(0x10020000) == 0, "user namespaces are forbidden here")
                for name, text in (("setgroups", "deny"), ("uid_map", f"0 {T1} 1"), ("gid_map", f"0 {T1} 1")):
                    with open(f"/proc/self/{name}", "w") as file:
                        file.write(text)
                context = liar.LIBC.syscall(430, b"tmpfs", 1)
                check(context >= 0 and liar.LIBC.syscall(431, context, 6, None, None, 0) == 0, "fsconfig")
                mount = liar.LIBC.syscall(432, context, 1, 0)
                check(mount >= 0, "fsmount")
                socket.send_fds(theirs, [b"m"], [mount])
                os.read(read_end, 1)
            except BaseException as error:
                theirs.send(repr(error).encode())
            finally:
                os._exit(0)
        message, fds, _, _ = socket.recv_fds(ours, 200, 1)
        outcomes = [message.decode()]
        if fds:
            r = request("facts\n")
            r.mount(liar.BIND, "/bind", r.add(fds[0]), flags=liar.IS_DIRECTORY)
            r.mount(liar.PROC, "/proc", flags=liar.IS_DIRECTORY)
            outcomes.append(start(r))
        os.write(write_end, b"x")
        os.waitpid(pid, 0)
        return outcomes
    outcomes = W.as_user(attack)
    if len(outcomes) == 1:
        print(f"# no mount of a user namespace here: {outcomes}")
        return
    if outcomes[1][5] == 7:
        payload_is_the_callers(outcomes[1][6])
        mount = next(line for line in lines(outcomes[1][6], "mount") if line.split()[4] == "/bind")
        check({"nosuid", "nodev"} <= set(mount.split()[5].split(",")), mount)
    else:
        check(outcomes[1][5] is None, f"{outcomes[1][:6]}")
    print(f"# {'cloned' if outcomes[1][5] == 7 else 'refused'} by this kernel")


IMAGE = W.squashfs("image.sqfs", W.make_root("content"))
if __name__ == "__main__":
    sys.exit(W.run(CASES, ONLY))
