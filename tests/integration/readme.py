#!/usr/bin/env python3
"""README.md and doc/ as a newcomer reads them: every command runs, in order, and prints what stands there. Prints TAP.

Lines of console blocks that begin with "$ " are commands of an ordinary user; what follows up to the next one is
the output. Names, numbers and keys of the page are those of its author, and are replaced by those of this run.
Commands of the tree's script and of root (lines that begin with "# ") belong to other suites.
"""
import os
import pathlib
import re
import subprocess

import harness

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md"]
PROGRAMS = {
    "libexec/postern/postern-build": "frontend/imagebuild/postern-build",
    "libexec/postern/postern-keys": "frontend/keys/postern-keys",
    "libexec/postern/postern-crypt": "frontend/crypt/postern-crypt",
    "libexec/postern/postern-inspect": "frontend/inspect/postern-inspect",
}
# Needs what a test machine does not have, or changes the machine.
ELSEWHERE = re.compile(r"^(\./dev|SUID=|postern pull docker://docker\.io|postern (exec|ecl check --explain) stranger\.sif)")


def commands(page):
    """(line number, command, expected lines) of a page's console blocks."""
    found, inside = [], False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            found.append((number, re.sub(r"\s+# .*$", "", line[2:]), []))
        elif inside and line.startswith("# "):
            found.append((number, "", []))
        elif inside and found:
            found[-1][2].append(line)
    joined = []
    for number, command, expected in found:
        if joined and re.search(r"& sleep \d+$", joined[-1][1]):  # goes on in the background of the next one
            joined[-1] = (joined[-1][0], f"{joined[-1][1]}\n{command}", expected)
        elif command and not ELSEWHERE.match(command):
            joined.append((number, command, expected))
    return joined


def pattern(line, bench, place):
    """A regular expression for a line that the page's author saw."""
    text = re.escape(line.replace("/home/alice/tour", place).replace("alice", bench.user.name))
    text = text.replace("1001", "[0-9]+")
    return re.sub(r"[0-9A-Fa-f]{40}", "[0-9A-Fa-f]{40}", text)


def tour(bench):
    place = bench.make_directory("tour")
    bench.rootfs("tour/rootfs")
    genome = os.path.join(place, "rootfs/opt")
    os.makedirs(genome)
    with open(genome + "/genome", "wb") as file:
        file.write(os.urandom(8 << 20))
    os.symlink("busybox", os.path.join(place, "rootfs/bin/sha256sum"))
    os.makedirs(place + "/my data")
    with open(place + "/my data/answer", "w") as file:
        file.write("42\n")
    subprocess.run(["chown", "-R", f"{bench.user.uid}:{bench.user.gid}", place], check=True)
    return place


def make_test(page, number, command, expected, place):
    def test(bench):
        path = os.path.dirname(bench.postern) + ":/usr/bin:/bin"
        user = {"user": bench.user.uid, "group": bench.user.gid, "extra_groups": [bench.user.gid]}
        process = subprocess.run(["bash", "-c", command], cwd=place, env=bench.environment({"PATH": path}), timeout=600, **user,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = process.stdout.decode(errors="replace")
        said_no = any(line.startswith("FATAL:") for line in expected)
        assert (process.returncode == 0) != said_no, f"exit {process.returncode}: {out}"
        at = 0
        for line in expected:
            match = re.compile("^" + pattern(line, bench, place) + "$", re.M).search(out, at)
            assert match, f"{line!r} does not follow in:\n{out}"
            at = match.end()
    test.__doc__ = f"{page}:{number}: {command.splitlines()[0]}"
    test.__name__ = f"line_{number}"
    return test


if __name__ == "__main__":
    harness.PARTS.update(PROGRAMS)
    bench = harness.Bench()
    place = tour(bench)
    tests = [make_test(page, *entry, place) for page in PAGES for entry in commands(page)]
    assert len(tests) >= 12, "the page's form has changed: this test finds no commands"
    bench.main(tests)
