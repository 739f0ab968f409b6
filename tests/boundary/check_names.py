#!/usr/bin/env python3
"""What messages, installed comments and man pages name exists: settings, man pages, commands (check_man.py has options). Prints TAP.

A cure that names something which is not there is worse than none.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
# What is no setting though it looks like one: files, other programs' settings, fields of JSON.
NO_SETTING = re.compile(r"\.(toml|cc|h|py|conf|json|d|so|scd|sif|img|sh|1|5|7|8|service|fuse|capability|capabilities)$")


def text_of(path):
    return path.read_text(encoding="utf-8")


def literals(path):
    """The string literals of a C++ file; neighbours are one."""
    code = "\n".join(line for line in text_of(path).splitlines() if not line.lstrip().startswith(("//", "#include")))
    for run in re.finditer(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*', code):
        yield "".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', run[0]))


def places():
    """(name, text) of all that a user can read."""
    for folder in ("frontend", "policy"):
        for path in sorted((ROOT / folder).rglob("*.cc")) + sorted((ROOT / folder).rglob("*.h")):
            for literal in literals(path):
                yield str(path.relative_to(ROOT)), literal
    for path in sorted((ROOT / "policy/config/install").iterdir()) + sorted((ROOT / "man").rglob("*.scd")):
        if path.is_file():
            yield str(path.relative_to(ROOT)), re.sub(r"\\(.)", r"\1", text_of(path))


SITE = text_of(ROOT / "policy/config/site.cc")
KEYS = {f"{table}.{key}" for table, key in re.findall(r'\{"([\w-]+)", "([\w-]+)", &S::', SITE)}
RULES = set(re.findall(r'\{RefusalCode::\w+, "([\w.-]+)"', text_of(ROOT / "protocol/refusal_table.h")))
TABLES = {key.split(".")[0] for key in KEYS}
COMMANDS = {}
for name, alias, below in re.findall(r'^  \{"([a-z-]+)", "([a-z]*)", "(?:[^"]*)", "(?:[^"]*)", "([^"]*)", ', text_of(ROOT / "frontend/cli/command.cc"), flags=re.M):
    COMMANDS[name] = COMMANDS[alias or name] = set(below.split())
PAGES = {re.sub(r"\.scd$", "", path.name) for path in (ROOT / "man").glob("*.scd")}
PAGES |= {f"postern-{path.stem}.1" for path in (ROOT / "man/commands").glob("*.scd")}
PAGES |= set(re.findall(r"'(postern-[a-z-]+\.\d)': custom_target", text_of(ROOT / "man/meson.build")))  # made when it is built


def wrong_settings(text):
    """Words of the form TABLE.KEY, and TABLE.KEY with an underscore."""
    for table, key in re.findall(r"(?<![\w./-])([a-z]+(?:-[a-z]+)?)\.([a-z][a-z_-]*[a-z](?:\.[a-z]+)?)(?![\w(/])", text):
        word = f"{table}.{key}"
        if table in TABLES and word not in KEYS | RULES and not NO_SETTING.search(word):
            yield word


def wrong_pages(text):
    for name, section in re.findall(r"\b(postern[\w.-]*|(?:ecl|capability)\.toml)\*?\((\d)\)", text):
        if f"{name}.{section}" not in PAGES:
            yield f"{name}({section})"


def wrong_commands(text):
    """`postern COMMAND [SUBCOMMAND]` in backquotes, quotes or emphasis, or behind "Cure: "."""
    for words in re.findall(r"(?:[`'*_\"]|Cure: |Run '|: |^)postern ((?:[a-z-]+ ?){1,2})", text):
        first, *rest = words.split()
        if first.startswith("-") or first in ("is", "and", "postern") or text == words.join(("postern ", "")):  # prose, and names of memfds
            continue
        if first not in COMMANDS:
            yield f"postern {first}"
        elif rest and COMMANDS[first] and rest[0] not in COMMANDS[first] and not rest[0].startswith("-"):
            yield f"postern {first} {rest[0]}"


CHECKS = (("setting", wrong_settings, "raise session.max-size; see allow.user_binds", ["session.max-size", "allow.user_binds"], "session.max-size-mib"),
          ("man page", wrong_pages, "see postern-nowhere(5)", ["postern-nowhere(5)"], "postern(1)"),
          ("command", wrong_commands, "make one with 'postern kye newpair' or `postern key newpiar`", ["postern kye", "postern key newpiar"], "`postern key list`"))

print(f"1..{2 * len(CHECKS)}")
failed = False
everything = list(places())
for number, (what, find, planted, found, good) in enumerate(CHECKS):
    seen = list(find(planted))
    sees = seen == found and not list(find(good))
    print(f"{'ok' if sees else 'not ok'} {2 * number + 1} - a wrong {what} is seen, a right one is not")
    if not sees:
        print(f"# {seen}")
    wrong = sorted({f"{where}: {word}" for where, text in everything for word in find(text)})
    print(f"{'not ok' if wrong else 'ok'} {2 * number + 2} - every {what} that a text names exists")
    for line in wrong:
        print(f"# {line}")
    failed |= bool(wrong) or not sees
sys.exit(1 if failed else 0)
