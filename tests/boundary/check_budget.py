#!/usr/bin/env python3
"""Line budgets of the privileged program. Prints TAP.

Two numbers: helper/, and everything of ours that the helper links, the wire types included.

Counted: lines that are neither blank nor comment. What it links is found by following the includes
from helper/, so a new dependency is counted without being listed here.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
HELPER, LINKED = 600, 1000  # helper/README.md, 11
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
    counts = [
        (sum(map(code_lines, own)), HELPER, "helper/"),
        (sum(map(code_lines, seen)), LINKED, "everything of ours that the helper links"),
    ]
    print(f"1..{len(counts)}")
    for number, (count, limit, what) in enumerate(counts, 1):
        print(f"{'ok' if count <= limit else 'not ok'} {number} - {what}: {count} of {limit} lines of code")
    for path in sorted(seen):
        print(f"# {code_lines(path):4d} {path.relative_to(ROOT)}")
    return 0 if all(count <= limit for count, limit, _ in counts) else 1


sys.exit(main())
