#!/usr/bin/env python3
"""Every key of postern.toml does something: changing it changes what a run does. A key that nobody reads promises
what is not kept. Here in user-namespace mode; what the helper alone keeps is changed by a test that is named.
Prints TAP."""
import os
import pathlib
import re

import harness

bench = harness.Bench()
TREE = pathlib.Path(os.path.abspath(__file__)).parents[2]
ROOT = bench.rootfs()
SQUASHFS = bench.squashfs(ROOT)
SIF = bench.sif(SQUASHFS)
SITE = (TREE / "policy/config/site.cc").read_text(encoding="utf-8")
KEYS = [f"{table}.{key}" for table, key in re.findall(r'\{"([\w-]+)", "([\w-]+)", &S::', SITE)]
DATA = bench.make_directory("settings-data")

# key: (value, words after "exec", command). The outcome with the value differs from the outcome without a file.
RUNS = {
    "allow.sif": ("false", [], SIF, ["true"]),
    "allow.squashfs": ("false", [], SQUASHFS, ["true"]),
    "allow.directory": ("false", [], ROOT, ["true"]),
    "allow.overlay": ("false", ["--writable-tmpfs"], SQUASHFS, ["touch", "/new"]),
    "allow.user-binds": ("false", ["-B", f"{DATA}:/data"], SQUASHFS, ["ls", "-d", "/data"]),
    "allow.user-namespace": ("false", ["--userns"], SQUASHFS, ["true"]),
    "allow.fusemount": ("false", ["--fusemount", f"host:squashfuse -f {SQUASHFS} /mnt"], SQUASHFS, ["ls", "/mnt/bin/sh"]),
    "allow.pid-namespace": ("false", ["--pid", "--no-init"], SQUASHFS, ["sh", "-c", "echo $$"]),
    "allow.ipc-namespace": ("false", ["--ipc"], SQUASHFS, ["sh", "-c", f"[ $(readlink /proc/self/ns/ipc) = {os.readlink('/proc/self/ns/ipc')} ]"]),
    "allow.uts-namespace": ("false", ["--hostname", "elsewhere"], SQUASHFS, ["hostname"]),
    "allow.net-namespace": ("false", ["--net", "--network", "none"], SQUASHFS, ["true"]),
    "mount.proc": ("false", [], SQUASHFS, ["ls", "/proc/self"]),
    "mount.sys": ("false", [], SQUASHFS, ["ls", "/sys/class"]),
    "mount.dev": ('"no"', [], SQUASHFS, ["ls", "/dev/null"]),
    "mount.devpts": ("false", ["--contain"], SQUASHFS, ["ls", "/dev/pts/ptmx"]),
    "mount.home": ("false", [], SQUASHFS, ["ls", "-d", bench.user.home]),
    "mount.tmp": ("false", [], SQUASHFS, ["stat", "-c", "%i", "/tmp"]),
    "mount.hostfs": ("true", ["--no-mount", "home,tmp,cwd,bind-paths"], SQUASHFS, ["sh", "-c", "mount | wc -l"]),
    "mount.binds": (f'["{DATA}:/from-site"]', [], SQUASHFS, ["ls", "-d", "/from-site"]),
    "session.max-size-mib": ("1", ["--writable-tmpfs"], SQUASHFS, ["sh", "-c", "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null"]),
    "config.passwd": ("false", [], SQUASHFS, ["grep", "-c", bench.user.name, "/etc/passwd"]),
    "config.group": ("false", [], SQUASHFS, ["grep", "-c", "", "/etc/group"]),
    "config.resolv-conf": ("false", ["--dns", "192.0.2.1"], SQUASHFS, ["cat", "/etc/resolv.conf"]),
    "nv.always": ("true", ["-B", f"{DATA}:/data"], SQUASHFS, ["true"]),
    "rocm.always": ("true", ["--compat32"], SQUASHFS, ["true"]),
}
# key: the test that changes it and sees the difference.
ELSEWHERE = {
    "build.mksquashfs-processors": "tests/integration/settings.py",
    "suid.enabled": "tests/suid/world.py", "audit.required": "tests/unit/judge_process_test.cc", "audit.user-namespaces": "tests/suid/signed.py", "allow.encrypted": "tests/unit/judge_test.cc",
    "allow.cgroup-namespace": "tests/unit/judge_test.cc", "allow.netns-paths": "tests/unit/judge_process_test.cc",
    "allow.netns-users": "tests/unit/judge_process_test.cc", "allow.netns-groups": "tests/unit/judge_process_test.cc", "limit.owners": "tests/unit/judge_test.cc",
    "limit.groups": "tests/unit/judge_test.cc", "limit.paths": "tests/unit/judge_test.cc", "kernel-mount.squashfs": "tests/unit/judge_test.cc",
    "kernel-mount.encrypted": "tests/unit/judge_test.cc", "kernel-mount.trusted-paths": "tests/unit/judge_test.cc",
}

# postern-crypt takes these from the installed file alone: here it is only seen that somebody reads them.
READ_ONLY = {"crypt.max-memory-kib", "crypt.max-iterations", "crypt.max-threads"}


def configured(b, key, value, *arguments):
    table, name = key.split(".")
    path = os.path.join(b.work, "settings.toml")
    pathlib.Path(path).write_text(f"[{table}]\n{name} = {value}\n" if key else "")
    os.chmod(path, 0o644)
    return b.run(*arguments, env={"POSTERN_CONFIG_FILE": path})


def every_key_changes_a_run(b):
    """Every key that a run in a user namespace keeps changes what the run does"""
    wrong = []
    for key, (value, options, image, command) in RUNS.items():
        plain = b.run("exec", *options, image, *command)
        changed = configured(b, key, value, "exec", *options, image, *command)
        refused = "postern.toml" in changed.err or "settings.toml" in changed.err and "line" in changed.err
        if refused or (plain.code, plain.out, plain.err) == (changed.code, changed.out, changed.err):
            wrong.append(f"{key} = {value}: {plain!r} and {changed!r}")
    assert not wrong, "\n".join(wrong)


def every_key_is_listed(b):
    """… and every other key is read by a part that a test changes it for"""
    missing = [key for key in KEYS if key not in RUNS and key not in ELSEWHERE and key not in READ_ONLY]
    assert not missing, f"keys without a run that they change: {missing}"
    gone = [key for key in {**RUNS, **ELSEWHERE} if key not in KEYS]
    assert not gone, f"no keys: {gone}"
    members = {f"{table}.{name}": member for table, name, member in re.findall(r'\{"([\w-]+)", "([\w-]+)", &S::(\w+)', SITE)}
    unnamed = [key for key, test in ELSEWHERE.items()
               if members[key] not in (text := (TREE / test).read_text(encoding="utf-8")) and key.split(".")[1] not in text]
    assert not unnamed, f"not in the test that is to change it: {unnamed}"
    # What no part of the program reads, nobody can keep.
    readers = "".join(path.read_text(encoding="utf-8") for folder in ("frontend", "policy") for path in (TREE / folder).rglob("*.cc")
                      if path.name != "site.cc" or "cli" in path.parts)
    unread = [key for key, member in members.items() if not re.search(rf"(?:[.>]|::){member}\b", readers)]
    assert not unread, f"read by nobody: {unread}"


def builds(b):
    """build.mksquashfs-processors bounds the threads of a build"""
    # The image is the same whatever their number; what a build asks the kernel for is not.
    counts = {}
    build = os.path.join(os.environ["POSTERN_BUILD"], "frontend/imagebuild/postern-build") if "POSTERN_BUILD" in os.environ else None
    if build is None or (os.cpu_count() or 1) < 2:
        raise harness.Skip("needs the build tree and two processors")
    for value in ("1", "2"):
        path = os.path.join(b.work, "build.toml")
        pathlib.Path(path).write_text(f"[build]\nmksquashfs-processors = {value}\n")
        os.chmod(path, 0o644)
        trace = b.run(command=["strace", "-f", "-e", "trace=clone,clone3", build, "build", "-F", os.path.join(b.work, "built.sif"), ROOT],
                      env={"POSTERN_CONFIG_FILE": path}).ok()
        counts[value] = len(re.findall(r"^(?:\[pid +\d+\] )?clone3?\(.*CLONE_THREAD", trace.err, flags=re.M))
    assert counts["1"] < counts["2"], counts


def gone_keys(b):
    """A key that is gone is an error that says why, unless it says what is done anyway"""
    for key, value in (("mount.slave", "false"), ("build.mksquashfs-memory", '"1G"'), ("cgroups.systemd", "true")):
        configured(b, key, value, "exec", SQUASHFS, "true").fails(255, key, "remove the key")
    for key, value in (("mount.slave", "true"), ("build.mksquashfs-memory", '""'), ("cgroups.systemd", "false")):
        configured(b, key, value, "exec", SQUASHFS, "true").ok()


bench.main([every_key_changes_a_run, every_key_is_listed, builds, gone_keys])
