#!/usr/bin/env python3
"""`doctor` on this host, and on one where namespaces are not to be had; as an ordinary user, TAP.

Usage: doctor.py POSTERN
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tap  # noqa: E402
import users  # noqa: E402

USER = users.reserve(1)[0]
PLACE = pathlib.Path(tempfile.mkdtemp(prefix="postern-doctor-"))
PLACE.chmod(0o755)
PROGRAM = shutil.copy(sys.argv[1], PLACE / "postern")
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def run(*command):
    unprivileged = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, cwd="/",
                          **unprivileged)


def mounts():
    return pathlib.Path("/proc/self/mountinfo").read_text()


def by_name(done):
    report = json.loads(done.stdout)
    return report, {check["name"]: check for check in report["checks"]}


@test
def exit_code_text_and_json_agree():
    before = mounts()
    text, done = run(PROGRAM, "doctor"), run(PROGRAM, "doctor", "--json")
    report, checks = by_name(done)
    assert text.returncode == done.returncode == (0 if report["can_run"] else 1), (text.returncode, done.returncode)
    lines = text.stdout.splitlines()
    assert len(lines) == len(checks) + 1, text.stdout
    for line, check in zip(lines, report["checks"]):
        assert line.startswith(("works    " if check["works"] else "doesn't  ") + check["name"] + ": "), line
        assert check["works"] or check["cure"], check
    assert text.stderr == "" and mounts() == before


@test
def what_it_says_of_namespaces_is_true():
    _, checks = by_name(run(PROGRAM, "doctor", "--json"))
    made = run("unshare", "--user", "--map-root-user", "--mount", "true").returncode == 0
    assert checks["user-namespaces"]["works"] == made, checks["user-namespaces"]


@test
def without_namespaces_it_says_so_and_exits_1():
    script = f"echo 0 >/proc/sys/user/max_user_namespaces && exec {PROGRAM} doctor --json"
    done = run("unshare", "--user", "--map-root-user", "sh", "-c", script)
    if not done.stdout:
        raise tap.Skip("no user namespaces here to forbid them in")
    report, checks = by_name(done)
    assert done.returncode == 1 and not report["can_run"], report
    assert "user.max_user_namespaces" in checks["user-namespaces"]["cure"], checks["user-namespaces"]
    assert not checks["fuse"]["works"] and not checks["overlay"]["works"]


@test
def a_proc_that_shows_less_is_said():
    if os.geteuid() != 0:
        raise tap.Skip("needs root, to mount another /proc")
    _, usual = by_name(run(PROGRAM, "doctor", "--json"))
    for option, word in {"hidepid=0": "every process", "hidepid=2": "hidepid", "subset=pid": "subset=pid"}.items():
        script = f"mount -t proc -o {option} proc /proc && exec setpriv --reuid {USER} --regid {USER} --clear-groups {PROGRAM} doctor --json"
        done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60, cwd="/")
        _, checks = by_name(done)
        assert word in checks["proc"]["detail"] and checks["proc"]["works"], checks["proc"]
        for name in ("user-namespaces", "fuse", "device-mapper", "setuid-helper"):  # found out without what is hidden
            assert checks[name]["works"] == usual[name]["works"], (option, checks[name])


@test
def metrics_are_prometheus_text_and_a_file_of_them_is_replaced_whole():
    done, (report, checks) = run(PROGRAM, "doctor", "--metrics"), by_name(run(PROGRAM, "doctor", "--json"))
    assert done.returncode == 0 and done.stderr == "", done
    line = re.compile(r'([a-z_]+)(\{[a-z]+="(?:[^"\\\n]|\\.)*"(?:,[a-z]+="(?:[^"\\\n]|\\.)*")*\})? [0-9]+')
    helped, values = set(), {}
    for text in done.stdout.splitlines():
        if text.startswith("# "):
            helped.add(text.split()[2])
        else:
            assert line.fullmatch(text) and text.split("{")[0].split()[0] in helped, text
            values[text.rpartition(" ")[0]] = int(text.rpartition(" ")[2])
    assert done.stdout.endswith("\n")
    for name, check in checks.items():
        needed = "yes" if check["needed"] else "no"
        assert values[f'postern_check_works{{check="{name}",needed="{needed}"}}'] == check["works"], (name, values)
    assert values['postern_can_run{mode="user-namespace"}'] == report["user_namespace_mode"]
    folder = PLACE / "metrics"
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, USER, USER)
    target = folder / "postern.prom"
    target.write_text("old\n")
    if os.geteuid() == 0:
        os.chown(target, USER, USER)
    with open(target) as reader:
        done = run(PROGRAM, "doctor", "--metrics-file", str(target))
        assert done.returncode == 0 and done.stdout == "", done
        assert reader.read() == "old\n", "a reader of the old file sees a change"
    assert target.read_text().startswith("# HELP postern_info ") and [p.name for p in folder.iterdir()] == ["postern.prom"]
    done = run(PROGRAM, "doctor", "--metrics-file", str(folder / "none/x"))
    assert done.returncode == 255 and "none/x" in done.stderr, done
    for words in (("--metrics", "--json"), ("--metrics-file",)):
        assert run(PROGRAM, "doctor", *words).returncode == 1, words


@test
def wrong_usage_exits_1():
    done = run(PROGRAM, "doctor", "--nonsense")
    assert done.returncode == 1 and "Usage" in done.stderr and not done.stdout, done


try:
    STATUS = tap.run(TESTS, sys.argv[2:])
finally:
    shutil.rmtree(PLACE)
sys.exit(STATUS)
