#!/usr/bin/env python3
"""README.md, doc/ and the pages of commands as a newcomer reads them: every command runs, in order, and prints what stands there.
Prints TAP. Each page begins in a directory of its own.

Lines of console blocks (of all blocks in man pages) that begin with "$ " are commands of an ordinary user; what follows up to the next one is
the output. Names, numbers and keys of the page are those of its author, and are replaced by those of this run.
Commands of the tree's script and of root (lines that begin with "# ") belong to other suites, and so does doc/sites.md.
"""
import os
import pathlib
import re
import shutil
import subprocess

import harness
import pages

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [str(path.relative_to(ROOT)) for path in
         [ROOT / "README.md", *sorted(set((ROOT / "doc").glob("*.md")) - {ROOT / "doc/sites.md"}), *sorted((ROOT / "man/commands").glob("*.scd"))]]
PROGRAMS = {
    "libexec/postern/postern-build": "frontend/imagebuild/postern-build",
    "libexec/postern/postern-keys": "frontend/keys/postern-keys",
    "libexec/postern/postern-crypt": "frontend/crypt/postern-crypt",
    "libexec/postern/postern-inspect": "frontend/inspect/postern-inspect",
    "libexec/postern/postern-transfer": "frontend/transfer/postern-transfer",
}
# Needs what a test machine does not have, or changes the machine.
ELSEWHERE = re.compile(r"^(\./dev|SUID=|postern pull docker://docker\.io|postern (exec|ecl check --explain) stranger\.sif)"
                       r"|.*\b\w+\.example\.org\b|postern (pull .*docker\.io|remote use ours)")


def commands(page):
    """(line number, command, expected lines) of what an ordinary user types."""
    joined = []
    for number, prompt, command, expected in pages.commands(ROOT / page):
        if joined and re.search(r"& sleep \d+$", joined[-1][1]):  # goes on in the background of the next one
            joined[-1] = (joined[-1][0], f"{joined[-1][1]}\n{command}", expected)
        elif prompt == "$" and not ELSEWHERE.match(command):
            joined.append((number, command, expected))
    return joined


def pattern(line, bench, place):
    """A regular expression for a line that the page's author saw."""
    text = re.escape(line.replace("/home/alice/tour", place).replace("alice", bench.user.name))
    text = text.replace("1001", "[0-9]+")
    return re.sub(r"[0-9A-Fa-f]{40}", "[0-9A-Fa-f]{40}", text)


def tour(bench):
    """The directory that README.md begins in."""
    place = bench.make_directory("tour")
    bench.rootfs("tour/rootfs")
    genome = os.path.join(place, "rootfs/opt")
    os.makedirs(genome)
    with open(genome + "/genome", "wb") as file:
        file.write(os.urandom(8 << 20))
    os.symlink("busybox", os.path.join(place, "rootfs/bin/sha256sum"))
    for name in ("my data", "data"):
        os.makedirs(f"{place}/{name}")
        with open(f"{place}/{name}/answer", "w") as file:
            file.write("42\n")
    subprocess.run(["chown", "-R", f"{bench.user.uid}:{bench.user.gid}", place], check=True)
    return place


def place_of(page, bench, first):
    """Each man page has the root file system and two images of it, which no other page has signed or sealed."""
    if not page.endswith(".scd"):
        return first
    image = bench.work + "/tools.sif"
    if not os.path.exists(image):
        shutil.rmtree(first + "/rootfs/opt")
        os.makedirs(first + "/rootfs/opt")
        os.chown(first + "/rootfs/opt", bench.user.uid, bench.user.gid)
        user = {"user": bench.user.uid, "group": bench.user.gid, "extra_groups": [bench.user.gid]}
        subprocess.run([bench.postern, "build", image, first + "/rootfs"], env=bench.environment(), check=True, **user,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place = bench.make_directory(pathlib.Path(page).stem + "-page")
    for name in ("rootfs", "data"):
        subprocess.run(["cp", "-a", f"{first}/{name}", place], check=True)
    for name in ("tools.sif", "rootfs.sif"):
        subprocess.run(["cp", "-a", image, f"{place}/{name}"], check=True)
    return place


def make_test(page, number, command, expected, first, places):
    def test(bench):
        if page not in places:
            places[page] = place_of(page, bench, first)
        place = places[page]
        path = os.path.dirname(bench.postern) + ":/usr/bin:/bin"
        # What a reader has two seconds for is a state here: the container waits until the file has changed.
        waited = command.replace("sleep 2; ", "until test -e changed; do sleep 0.1; done; ").replace("; wait", "; touch changed; wait")
        user = {"user": bench.user.uid, "group": bench.user.gid, "extra_groups": [bench.user.gid]}
        process = subprocess.run(["bash", "-c", waited], cwd=place, env=bench.environment({"PATH": path}), timeout=600, **user,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = process.stdout.decode(errors="replace")
        said_no = any(line.startswith("FATAL:") for line in expected)
        assert (process.returncode == 0) != said_no, f"exit {process.returncode}: {out}"
        pages.follow(expected, out, lambda line: pattern(line, bench, place))
    test.__doc__ = f"{page}:{number}: {command.splitlines()[0]}"
    test.__name__ = re.sub(r"\W", "_", f"{pathlib.Path(page).stem}_{number}")
    return test


if __name__ == "__main__":
    harness.PARTS.update(PROGRAMS)
    bench = harness.Bench()
    place = tour(bench)
    places = {}
    tests = [make_test(page, *entry, place, places) for page in PAGES for entry in commands(page)]
    assert len(tests) >= 70, "the form of the pages has changed: this test does not find their commands"
    bench.main(tests)
