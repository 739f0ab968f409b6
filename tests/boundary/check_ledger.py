#!/usr/bin/env python3
"""Each test that tests/attacks/LEDGER.md and helper/README.md name exists, and so does each by which a planted fault is
caught; each plant still applies. Prints TAP."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()


def source(name):
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def functions(name):
    return re.findall(r"^def (\w+)\(", source(name), re.M)


VM_SCRIPTS = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests/vm").iterdir()) if path.is_file())


def exists(kind, name):
    words = name.split()
    if kind in ("suid", "lent"):  # a part of a case's name; also of the programs beside suid_test.py, by their own names
        files = ["tests/suid/lent.py"] if kind == "lent" else ["tests/suid/suid_test.py", "tests/suid/signed.py"]
        return any(words[0] in one for file in files for one in functions(file)) or words[0] == "signed"
    if kind == "unit":
        return f"'{words[0]}': [[" in source("tests/unit/meson.build") or (ROOT / f"tests/unit/{words[0]}_test.cc").exists()
    if kind in ("plant", "plants"):
        return (ROOT / f"tests/attacks/plants/{words[0]}.patch").exists()
    if kind == "fuzz":
        return (ROOT / f"fuzz/{words[0]}_fuzz.cc").exists()
    if kind == "boundary":
        return f"test('{words[0]}'" in source("tests/boundary/meson.build") + source("helper/meson.build")
    if kind == "integration":
        file = f"tests/integration/{words[0].removesuffix('.py')}.py"
        return (ROOT / file).exists() and all(any(word in one for one in functions(file)) for word in words[1:])
    if kind == "vm":
        return not words or words[0] in VM_SCRIPTS
    return False


def claims():
    """(row, kind, name) of all that the last column names."""
    found = []
    for number, line in enumerate(source("tests/attacks/LEDGER.md").splitlines(), 1):
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 6 or cells[4] in ("test", "---", "does not apply"):
            continue
        for entry in re.sub(r"\([^)]*\)", "", cells[4]).split(";"):
            entry = entry.strip()
            code = re.fullmatch(r"`(\w+\.cc):(\w+)`", entry)
            if code:  # a rule of the source that no test can be made for
                found.append((number, "source", f"{code[1]} {code[2]}"))
                continue
            kind, _, names = entry.replace(":", " ", 1).partition(" ")
            found += [(number, kind, name.strip()) for name in (names.split(",") if names else [""])]
    return found


GUIDE = source("helper/README.md")


def guide_claims():
    """What helper/README.md names: `suite`: case…, case…; unit, fuzz, plant `name`; vm: case…; `file.cc:function`."""
    found = [(kind, name) for kind, names in re.findall(r"`(suid|lent)`: ((?:\w+…(?:, )?)+)", GUIDE) for name in re.findall(r"\w+", names)]
    found += [(kind.rstrip("s"), name) for kind, names in re.findall(r"(unit|fuzz|plants?) ((?:`[^`]+`(?!:)(?:, )?)+)", GUIDE)
              for name in re.findall(r"`([^`]+)`", names)]
    found += [("vm", name) for name in re.findall(r"vm: (\w+)…", GUIDE)]
    found += [("source", f"{file} {function}") for file, function in re.findall(r"`([\w/]+\.cc):(\w+)`", GUIDE)]
    return found


def guide_exists(kind, name):
    if kind == "source":
        file, function = name.split()
        return f"{function}(" in source(file if "/" in file else f"helper/{file}")
    if name.endswith("…"):  # a family of plants
        return any((ROOT / "tests/attacks/plants").glob(f"{name.rstrip('…')}*.patch"))
    return exists(kind, name)


guide = guide_claims()
unfound = [f"{kind} {name}" for kind, name in guide if not guide_exists(kind, name)]
invariants = re.findall(r"^\| (I\d+) \| .* \| (.*) \|$", GUIDE, re.M)
unfound += [f"{number} names no test" for number, tests in invariants if not re.search(r"`(suid|lent)`: |unit `|fuzz `|vm: ", tests)]
rows = claims()
missing = [f"line {number}: {kind} {name}" for number, kind, name in rows
           if not (name.split()[1] in source("helper/" + name.split()[0]) if kind == "source" else exists(kind, name))]
plants = sorted((ROOT / "tests/attacks/plants").glob("*.patch"))
unowned = []
for plant in plants:
    caught = re.findall(r"^Caught-by: (\S+) ?(.*)$", plant.read_text(encoding="utf-8"), re.M)
    touched = re.findall(r"^--- a/(\S+)$", plant.read_text(encoding="utf-8"), re.M)
    if not caught:
        unowned.append(f"{plant.name}: no Caught-by line")
    unowned += [f"{plant.name}: no test {kind} {name}" for kind, name in caught if not exists(kind, name)]
    unowned += [f"{plant.name}: {file} is not there" for file in touched if not (ROOT / file).exists()]
    applied = subprocess.run(["patch", "--dry-run", "-s", "-f", "-p1", "-i", plant], cwd=ROOT, capture_output=True, text=True)
    if applied.returncode:
        unowned.append(f"{plant.name} does not apply: {applied.stdout.strip()}")

checks = [("each test that the ledger names exists", missing, rows),
          ("each planted fault names its test and applies to the tree", unowned, plants),
          ("each test and function that helper/README.md names exists, and each invariant names a test", unfound, guide)]
print(f"1..{len(checks)}")
failed = 0
for number, (what, bad, everything) in enumerate(checks, 1):
    failed += bool(bad or not everything)
    print(f"{'not ok' if bad or not everything else 'ok'} {number} - {what} ({len(everything)})")
    for item in bad:
        print(f"# {item}")
sys.exit(1 if failed else 0)
