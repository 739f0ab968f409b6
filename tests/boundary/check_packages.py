#!/usr/bin/env python3
"""What meson installs is in a package, Debian's and RPM's, the setuid part in its own; what a package lists is installed.
Both kinds agree on modes, names and parts; scripts of packages are well formed. Prints TAP. Usage: check_packages.py SOURCE-ROOT BUILD-ROOT
"""
import fnmatch
import json
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
import tap  # noqa: E402

ROOT, BUILD = pathlib.Path(sys.argv[1]), sys.argv[2]
PLACES = {"prefix": "usr", "bindir": "usr/bin", "libexecdir": "usr/libexec", "datadir": "usr/share", "mandir": "usr/share/man",
          "sysconfdir": "etc", "libdir": "usr/lib", "includedir": "usr/include"}
MACROS = {"_bindir": "usr/bin", "_libexecdir": "usr/libexec", "_datadir": "usr/share", "_mandir": "usr/share/man", "_sysconfdir": "etc",
          "_prefix": "usr"}
# What scripts make: a symbolic link and its manual page, and the site's files, which debian/rules moves.
OF_SCRIPTS = {"usr/bin/run-singularity", "usr/share/man/man1/run-singularity.1*", "usr/share/postern", "etc/postern/*.toml"}


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
    section = re.search(rf"^%files{name.removeprefix('postern').replace('-', ' ', 1)}\n(.*?)(?=^%files|\Z)", spec, re.M | re.S)[1]
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

RULES = (ROOT / "packaging/debian/rules").read_text(encoding="utf-8")
SPEC = (ROOT / "packaging/rpm/postern.spec").read_text(encoding="utf-8")


def programs_of(pattern, text):
    """Program -> mode, of each match that has both groups; a match may name several programs."""
    return {name: mode.lstrip("0") for mode, names in re.findall(pattern, text, re.M)
            for name in re.findall(r"libexec\S*/(postern-\S+)", names)}


def links():
    lines = (ROOT / "packaging/debian/postern-apptainer-names.links").read_text(encoding="utf-8").split("\n")
    return {line.split()[1].removesuffix(".gz") for line in lines if line}


def broken_scripts():
    for path in sorted((ROOT / "packaging/debian").glob("*.p*")):
        if path.suffix not in (".preinst", ".postinst", ".prerm", ".postrm"):
            continue
        text = path.read_text(encoding="utf-8")
        done = subprocess.run(["sh", "-n", path], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            yield done.stderr
        if not text.startswith("#!/bin/sh\nset -e\n") or not text.endswith("#DEBHELPER#\n"):
            yield f"{path.name} does not stop at a failure, or has no place for debhelper's lines"


debian_modes = programs_of(r"chmod (\d+) ((?:.*\\\n)*.*)", RULES)
rpm_modes = programs_of(r"^%attr\((\d+),root,root\) (.*libexec.*)$", SPEC.replace("%{_libexecdir}", "/usr/libexec"))
overrides = "".join((ROOT / f"packaging/debian/{name}.lintian-overrides").read_text(encoding="utf-8") for name in ("postern", "postern-suid"))
reasoned = set(re.findall(r"executable-is-not-world-readable .*/(postern-[a-z-]+)\]", overrides))
names_rpm = {path.rstrip("*") for path in rpm("postern-apptainer-names")}
optimised = RULES.find("meson configure obj -Doptimization=2") > RULES.find("dh_auto_configure --") > 0
points = [
    (not problems and len(files) > 40, f"{len(files)} files that are installed are in the packages that they belong to", problems),
    (debian_modes == rpm_modes and debian_modes.get("postern-helper") == "4711" and reasoned == set(debian_modes),
     "programs that are setuid or unreadable are so in both kinds of packages", [f"{debian_modes}, {rpm_modes}, overrides: {reasoned}"]),
    (debian("postern-slurm") == rpm("postern-slurm"), "Slurm's plugin is in a package of its own in both", [str(rpm("postern-slurm"))]),
    (links() == names_rpm and len(names_rpm) == 4, "the names of other programs are a package of their own in both", [f"{links()}, {names_rpm}"]),
    (optimised, "Debian's build type does not win over the optimisation that fortification needs", ["debian/rules"]),
    (not (broken := list(broken_scripts())), "scripts of Debian's packages are well formed", broken),
]
report = tap.Report()
for good, what, why in points:
    report.point(good, what, "\n".join(why))
sys.exit(report.end())
