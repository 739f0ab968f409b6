#!/usr/bin/env python3
"""Every key, rule and command-line option of the source stands in its man page. Prints TAP."""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()


def source(name):
    return (ROOT / name).read_text(encoding="utf-8")


def page(name):
    path = ROOT / "man" / name
    return re.sub(r"\\(.)", r"\1", path.read_text(encoding="utf-8")) if path.exists() else ""


keys = [f"{table}.{key}" for table, key in re.findall(r'\{"([\w-]+)", "([\w-]+)", &S::', source("policy/config/site.cc"))]
rules = re.findall(r'\{RefusalCode::\w+, "([\w.-]+)"', source("protocol/refusal_table.h"))
options = sorted({name for table in ("action_options.cc", "command.cc")
                  for name in re.findall(r'\{"([a-z][a-z0-9-]+)", (?:0|\'.\'), "', source("frontend/cli/" + table))})
fetching = sorted({name for path in sorted((ROOT / "frontend/transfer").glob("*.cc"))
                   for name in re.findall(r'\{"([a-z][a-z0-9-]+)", (?:0|\'.\'), "', path.read_text(encoding="utf-8"))})
compared = set(re.findall(r"\*--([a-z0-9-]+)\*", page("postern-compat.7.scd")))
codes = re.findall(r"kExit\w+ = (\d+);", source("protocol/exit_codes.h"))

checks = [
    ("every key of postern.toml is in postern.toml(5)", [k for k in keys if f"*{k}*" not in page("postern.toml.5.scd")], keys),
    ("every rule is in postern-security(7)", [r for r in rules if f"*{r}*" not in page("postern-security.7.scd")], rules),
    ("every option is in postern(1)", [o for o in options if f"--{o}*" not in page("postern.1.scd")], options),
    ("every option of fetching and sending is in postern-images(1)",
     [o for o in fetching if f"--{o}*" not in page("postern-images.1.scd")], fetching),
    ("every option of exec that the compatibility page names is one, or is said not to be there",
     [o for o in compared if o not in options and f"*--{o}*: not there" not in page("postern-compat.7.scd")
      and o not in page("postern-compat.7.scd").split("# OPTIONS OF OTHER COMMANDS")[-1]], compared),
    ("every exit code is in postern(1)", [c for c in codes if f"*{c}*" not in page("postern.1.scd")], codes),
]
print(f"1..{len(checks)}")
failed = 0
for number, (what, missing, everything) in enumerate(checks, 1):
    bad = missing or not everything
    failed += bool(bad)
    print(f"{'not ok' if bad else 'ok'} {number} - {what} ({len(everything)})")
    for item in missing:
        print(f"# missing: {item}")
sys.exit(1 if failed else 0)
