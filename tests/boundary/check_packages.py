#!/usr/bin/env python3
"""What meson installs is in a package, Debian's and RPM's, the setuid part in its own; what a package lists is installed.
Prints TAP. Usage: check_packages.py SOURCE-ROOT BUILD-ROOT
"""
import fnmatch
import json
import pathlib
import re
import subprocess
import sys

ROOT, BUILD = pathlib.Path(sys.argv[1]), sys.argv[2]
PLACES = {"prefix": "usr", "bindir": "usr/bin", "libexecdir": "usr/libexec", "datadir": "usr/share", "mandir": "usr/share/man",
          "sysconfdir": "etc", "libdir": "usr/lib", "includedir": "usr/include"}
MACROS = {"_bindir": "usr/bin", "_libexecdir": "usr/libexec", "_datadir": "usr/share", "_mandir": "usr/share/man", "_sysconfdir": "etc",
          "_prefix": "usr"}
# What scripts make: a symbolic link, and the site's files, which debian/rules moves.
OF_SCRIPTS = {"usr/bin/run-singularity", "usr/share/postern", "etc/postern/*.toml"}


def installed():
    """Path -> tag. A folder of links or of the built tree has an absolute destination; the prefix is taken off."""
    plan = json.loads(subprocess.run(["meson", "introspect", BUILD, "--install-plan"], check=True, capture_output=True, text=True).stdout)
    options = json.loads(subprocess.run(["meson", "introspect", BUILD, "--buildoptions"], check=True, capture_output=True, text=True).stdout)
    prefix = next(option["value"] for option in options if option["name"] == "prefix")
    found = {}
    for entries in plan.values():
        for entry in entries.values():
            path = re.sub(r"\{(\w+)\}", lambda match: PLACES[match[1]], entry["destination"])
            path = re.sub(rf"^{re.escape(prefix)}/", "usr/", path).lstrip("/").replace("usr/etc/", "etc/")
            found[path] = entry["tag"]
    return found


def debian(name):
    lines = (ROOT / f"packaging/debian/{name}.install").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if not line.startswith("packaging/")}


def rpm(name):
    spec = (ROOT / "packaging/rpm/postern.spec").read_text(encoding="utf-8")
    section = re.search(rf"^%files{' suid' if name == 'postern-suid' else ''}\n(.*?)(?=^%files|\Z)", spec, re.M | re.S)[1]
    lines = [line.split()[-1] for line in section.splitlines() if line.strip() and not line.startswith(("%license", "%doc", "%dir", "%ghost"))]
    return {re.sub(r"%\{(\w+)\}", lambda match: MACROS[match[1]], line) for line in lines}


def covers(pattern, path):
    return path == pattern or path.startswith(pattern + "/") or fnmatch.fnmatch(path, pattern)


files = {path: tag for path, tag in installed().items() if tag in ("runtime", "man", "suid")}
problems = []
for kind, listed in (("Debian", debian), ("RPM", rpm)):
    lists = {name: listed(name) for name in ("postern", "postern-suid")}
    for path, tag in files.items():
        owners = [name for name, patterns in lists.items() if any(covers(pattern, path) for pattern in patterns)]
        wanted = ["postern-suid"] if tag == "suid" or path.startswith("usr/share/man/man8/") else ["postern"]
        if owners != wanted:
            problems.append(f"{kind}: {path} is in {owners}, not in {wanted}")
    for name, patterns in lists.items():
        problems += [f"{kind}: {name} lists {pattern}, which nothing installs" for pattern in sorted(patterns)
                     if pattern not in OF_SCRIPTS and not any(covers(pattern, path) for path in files)]
good = not problems and len(files) > 40
print("1..1")
for line in problems:
    print(f"# {line}")
print(f"{'ok' if good else 'not ok'} 1 - {len(files)} files that are installed are in the packages that they belong to")
sys.exit(0 if good else 1)
