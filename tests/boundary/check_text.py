#!/usr/bin/env python3
"""Rules about the text of the tree that a grep can hold up. Prints TAP."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
CODE = {".cc", ".h"}


def tracked():
    try:
        out = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout
        names = out.splitlines()
    except (OSError, subprocess.CalledProcessError):  # a tarball
        names = [p.relative_to(ROOT).as_posix() for top in ("protocol", "policy", "helper", "frontend", "fuzz", "tests")
                 for p in (ROOT / top).rglob("*") if p.is_file()]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


FILES = tracked()
SOURCES = [p for p in FILES if p.suffix in CODE]


def grep(paths, pattern):
    expression = re.compile(pattern)
    hits = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if expression.search(line):
                hits.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    return hits


def below(*folders):
    return [p for p in SOURCES if p.relative_to(ROOT).as_posix().startswith(folders)]


CHECKS = [
    ("no TODO(security) is left", grep(SOURCES, r"TODO\(security\)")),
    ("every header has #pragma once",
     [str(p.relative_to(ROOT)) for p in SOURCES if p.suffix == ".h" and "#pragma once" not in p.read_text(encoding="utf-8")]),
    ("no `using namespace`", grep(SOURCES, r"^\s*using namespace ")),
    ("no goto", grep(SOURCES, r"^\s*goto\s")),
    ("nothing of ours runs a shell by name: no system(), no popen()", grep(SOURCES, r"(?<![\w.>])(?:std::|::)?(?:system|popen)\s*\(")),
    ("the helper reads no environment and no user database",
     grep(below("helper/"), r"\b(getenv|secure_getenv|getpw\w+|getgr(?!oups\b)\w+|setlocale|dlopen|syslog)\s*\(")),
    ("the helper formats no text and allocates nothing", grep(below("helper/"), r"\b(printf|snprintf|fprintf|malloc|calloc|std::string|std::vector|new)\b\s*[(<]")),
    ("descriptors are opened close-on-exec",
     [h for h in grep(below("protocol/", "policy/", "helper/", "frontend/"), r"\bopen(at)?\s*\([^;]*O_(RDONLY|RDWR|WRONLY|PATH)")
      if "O_CLOEXEC" not in h and len(h) < 95]),
]

print(f"1..{len(CHECKS)}")
failed = 0
for index, (what, hits) in enumerate(CHECKS, 1):
    failed += bool(hits)
    print(f"{'not ok' if hits else 'ok'} {index} - {what}")
    for hit in hits[:20]:
        print("# " + hit)
sys.exit(1 if failed else 0)
