#!/usr/bin/env python3
"""Line budget of the privileged program.

The setuid program proper: helper/ without the mount library, which user-namespace mode runs too;
and everything of ours that it links, the mount library and the wire types included.

Counted: lines that are neither blank nor comment. What it links is found by following the includes
from helper/, so a new dependency is counted without being listed here.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
OWN, LINKED = 750, 1500
MOUNT_LIBRARY = {"mounts.cc", "mounts.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


def code_lines(path):
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), path.read_text(encoding="utf-8"), flags=re.S)
    return sum(1 for line in text.splitlines() if re.sub(r"//.*$", "", line).strip())


def main():
    own = sorted(p for p in (ROOT / "helper").rglob("*") if p.suffix in (".h", ".cc"))
    seen, queue = set(own), list(own)
    while queue:
        for header in INCLUDE.findall(queue.pop().read_text(encoding="utf-8")):
            for path in (ROOT / header, (ROOT / header).with_suffix(".cc")):
                if path.exists() and path not in seen:
                    seen.add(path)
                    queue.append(path)
    count_own = sum(code_lines(p) for p in own if p.name not in MOUNT_LIBRARY)
    count_all = sum(map(code_lines, seen))
    print("1..2")
    for number, (count, limit, what) in enumerate(
            [(count_own, OWN, "the setuid program, helper/ without the mount library"), (count_all, LINKED, "helper/ and all of ours that it links")], 1):
        print(f"{'ok' if count <= limit else 'not ok'} {number} - {what}: {count} of {limit} lines of code")
    for path in sorted(seen):
        print(f"# {code_lines(path):4d} {path.relative_to(ROOT)}")
    return 0 if count_own <= OWN and count_all <= LINKED else 1


sys.exit(main())
