#!/usr/bin/env python3
"""The table of capabilities has libcap's names at libcap's numbers, as capsh(1) decodes them. Prints TAP."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
ours = [name.lower() for name in re.findall(r'^  \{CAP_\w+, "(CAP_\w+)", ', (ROOT / "policy/config/capabilities.cc").read_text(encoding="utf-8"), re.M)]
decoded = subprocess.run(["/usr/sbin/capsh", f"--decode={(1 << len(ours)) - 1:x}"], stdout=subprocess.PIPE, text=True, check=True).stdout
theirs = decoded.strip().partition("=")[2].split(",")
print("1..1")
good = len(ours) > 40 and ours == theirs
print(f"{'ok' if good else 'not ok'} 1 - the names of {len(ours)} capabilities are libcap's")
for number, (mine, libcaps) in enumerate(zip(ours, theirs)):
    if mine != libcaps:
        print(f"# {number}: {mine}, and libcap says {libcaps}")
sys.exit(0 if good else 1)
