#!/usr/bin/env python3
"""Line budgets of the privileged program, in the format of the whole tree. Prints TAP.

Two numbers: helper/, and everything of ours that the helper links, the wire types included.

Counted: lines that are neither blank nor comment, and the rows that helper/syscalls.py generates for the filter. What
the helper links is found by following the includes from helper/, so a new dependency is counted without being listed here.
A folder without code, or with a format of its own, fails: both would make the numbers mean nothing.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
HELPER, LINKED = 838, 1293  # helper/README.md, 11: what there is, for a goal of 750 and 1,200
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


def code_lines(path):
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), path.read_text(encoding="utf-8"), flags=re.S)
    return sum(1 for line in text.splitlines() if re.sub(r"//.*$", "", line).strip())


def filter_rows():
    script, table = ROOT / "helper" / "syscalls.py", ROOT / "helper" / "SYSCALLS"
    rows = subprocess.run([sys.executable, script, table], capture_output=True, text=True, check=True).stdout
    return len(rows.splitlines())


def linked_by(own):
    seen, queue = set(own), list(own)
    while queue:
        for header in INCLUDE.findall(queue.pop().read_text(encoding="utf-8")):
            for path in (ROOT / header, (ROOT / header).with_suffix(".cc")):
                if path.exists() and path not in seen:
                    seen.add(path)
                    queue.append(path)
    return seen


def main():
    own = sorted(p for p in (ROOT / "helper").rglob("*") if p.suffix in (".h", ".cc"))
    seen = linked_by(own)
    formats = [p for folder in ("helper", "protocol") for p in (ROOT / folder).rglob(".clang-format")]
    rows = filter_rows() if own else 0
    counts = [
        (sum(map(code_lines, own)) + rows, HELPER, "helper/"),
        (sum(map(code_lines, seen)) + rows, LINKED, "everything of ours that the helper links"),
    ]
    results = [(0 < count <= limit, f"{what}: {count} of {limit} lines of code") for count, limit, what in counts]
    results.append((rows > 0 and (ROOT / "helper" / "main.cc") in own, "there is a helper, with a filter, to count"))
    results.append((not formats, "helper/ and protocol/ have the format of the whole tree"))
    print(f"1..{len(results)}")
    for number, (good, what) in enumerate(results, 1):
        print(f"{'ok' if good else 'not ok'} {number} - {what}")
    print(f"# {rows:4d} rows of the filter")
    for path in sorted(seen):
        print(f"# {code_lines(path):4d} {path.relative_to(ROOT)}")
    return 0 if all(good for good, _ in results) else 1


sys.exit(main())
