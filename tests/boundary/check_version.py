#!/usr/bin/env python3
"""The version is in meson.build alone; the program, the packages and the list of parts take it from there. Prints TAP.

Usage: check_version.py SOURCE-ROOT POSTERN
"""
import pathlib
import re
import subprocess
import sys

ROOT, PROGRAM = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
VERSION = re.search(r"^  version: '([^']+)',", (ROOT / "meson.build").read_text(encoding="utf-8"), re.M)[1]
# What a reader or a package system takes. Not CHANGELOG.md, which has a section for each version.
PLACES = ["meson_options.txt", "dev", ".ci", "README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md", "doc", "man", "packaging", "frontend",
          "policy", "protocol", "helper", "spank"]
WORD = re.compile(rf"(?<![\w.]){re.escape(VERSION)}(?![\w.]*\w)")


def files():
    for place in PLACES:
        path = ROOT / place
        yield from (one for one in sorted(path.rglob("*")) if one.is_file()) if path.is_dir() else [path]


def text_of(path):
    return path.read_text(encoding="utf-8", errors="replace")


seen = list(files())
others = [str(path.relative_to(ROOT)) for path in seen if WORD.search(text_of(path))]
said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout
takers = [name for name in ("packaging/build-deb.sh", "packaging/build-rpm.sh", "packaging/sbom.py")
          if not re.search(r"meson\.build|introspect", text_of(ROOT / name))]
results = [
    (not others and len(seen) > 300, f"{len(seen)} files have no version of their own", others),
    (WORD.search(said) is not None, "postern --version says it", [said]),
    (not takers, "what makes packages asks for it", takers),
]
print(f"1..{len(results)}")
for number, (good, what, why) in enumerate(results, 1):
    print(f"{'ok' if good else 'not ok'} {number} - {what}")
    if not good:
        print("".join(f"# {line}\n" for line in why), end="")
sys.exit(0 if all(good for good, _, _ in results) else 1)
