#!/usr/bin/env python3
"""What the man pages say is what the source says: keys and defaults, options, commands, variables, exit codes, cures. Prints TAP."""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
OPTION_ROW = re.compile(r"""\{"([a-z][a-z0-9-]*)",\s*(?:0|'.'),\s*"([A-Z0-9_,]*)",\s*(?:option::)?Kind::\w+,\s*[^"]*"[^"]*",\s*"((?:[^"\\]|\\.)*)\"""")
# Of other programs, or Apptainer's that a page names because they are not here.
FOREIGN_OPTIONS = {"variant", "scope", "decryption-key", "format", "add-subuids", "add-subgids", "export", "flag"}


def source(name):
    return (ROOT / name).read_text(encoding="utf-8")


def unescaped(path):
    return re.sub(r"\\(.)", r"\1", path.read_text(encoding="utf-8"))


def page(name):
    path = ROOT / "man" / name
    return unescaped(path) if path.exists() else ""


def sources(*folders):
    return {path: path.read_text(encoding="utf-8") for folder in folders for path in sorted((ROOT / folder).rglob("*"))
            if path.suffix in (".cc", ".h")}


CODE = sources("frontend", "policy", "protocol")
PAGES = {path.name: unescaped(path) for path in sorted((ROOT / "man").rglob("*.scd"))}
EVERY_PAGE = "\n".join(PAGES.values())
TABLES = {path: OPTION_ROW.findall(text) for path, text in CODE.items() if path.is_relative_to(ROOT / "frontend")}
OPTIONS = {name for rows in TABLES.values() for name, _, _ in rows}
SLURM_OPTIONS = re.findall(r'^ +\{"([a-z-]+)", ', source("spank/postern_spank.c"), re.M)


def options_of(*files):
    """Those that help shows."""
    return sorted({name for file in files for name, _, text in TABLES[ROOT / file] if text})


def folder_options(folder):
    return sorted({name for path, rows in TABLES.items() if path.is_relative_to(ROOT / folder) for name, _, text in rows if text})


def commands():
    """(name, summary, subcommands) of bin/postern's table."""
    return re.findall(r'\{"([\w-]+)", "[^"]*", "[^"]*", "([^"]*)", "([^"]*)", ', source("frontend/cli/command.cc").split("kCommands")[1])


def default_of(member):
    match = re.search(rf"\b{member}(?: = ([^;]*))?;", source("policy/config/site.h"))
    if not match:
        return "no member"
    value = match[1]
    if value is None:
        return '""' if re.search(rf"std::string {member};", source("policy/config/site.h")) else "[]"
    name = re.fullmatch(r"\w+::k(\w+)", value)
    return f'"{name[1].lower()}"' if name else value


def wrong_defaults():
    wrong = []
    for table, key, member in re.findall(r'\{"([\w-]+)", "([\w-]+)", &S::(\w+)', source("policy/config/site.cc")):
        said = re.search(rf"^\*{table}\.{key}\* \(.*, default (.*)\)$", page("postern.toml.5.scd"), re.M)
        if not said or said[1] != default_of(member):
            wrong.append(f"{table}.{key}: the page says {said and said[1]}, the program {default_of(member)}")
    return wrong


def literals(text, start):
    """The string literals that follow `start`, joined as the compiler does."""
    found = []
    for match in re.finditer(start + r'\s*((?:"(?:[^"\\]|\\.)*"\s*)+)', text):
        found.append("".join(re.findall(r'"((?:[^"\\]|\\.)*)"', match[1])))
    return found


def unread_options():
    """Of options that say nothing about having no effect, those that no code asks for by their name."""
    row = re.compile(OPTION_ROW.pattern + r"((?:[^{}]|\{\})*)\}")
    code = {path: row.sub("", text) for path, text in CODE.items() if path.is_relative_to(ROOT / "frontend")}

    def readers(path):
        """Each folder reads its own, and gives them to what it builds upon; what starts take is read in many."""
        places = {path.parent.name, {"transfer": "imagebuild"}.get(path.parent.name)}
        return "".join(text for other, text in code.items() if path.parent.name == "cli" or other.parent.name in places)
    # One function reads the options of an old and of a new key.
    return sorted({f"{path.relative_to(ROOT)}: --{name}" for path in TABLES for name, _, _, rest in row.findall(CODE[path])
                   if name != "help" and not re.search(r'[\w"]', rest) and not re.search(rf'"{name}"|"{name.removeprefix("new-")}"', readers(path))})


def cures():
    rows = [row[-1] for row in re.findall(r'\{RefusalCode::\w+, "[^"]*", "[^"]*",\s*"([^"]*)",\s*"([^"]*)"', source("protocol/refusal_table.h"))]
    return rows + [cure for text in CODE.values() for cure in literals(text, r"\.cure =")]


def false_cures():
    names = {name: set(subcommands.split()) for name, _, subcommands in commands()}
    wrong = []
    for cure in cures():
        wrong += [f"--{name} is no option: {cure}" for name in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", re.sub(r"`(?!postern )[^`]*`", "", cure))
                  if name not in OPTIONS | FOREIGN_OPTIONS]
        for command, word in re.findall(r"\bpostern ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?", cure):
            if command not in names and command not in ("and", "command", "whole"):
                wrong.append(f"postern {command} is no command: {cure}")
            elif names.get(command) and word and word not in names[command]:
                wrong.append(f"postern {command} {word} is no command: {cure}")
    return wrong


def variables_read():
    """Variables that are read by their whole name."""
    text = "\n".join(CODE.values())
    names = set(re.findall(r'"((?:POSTERN|APPTAINER|SINGULARITY)_[A-Z_]*[A-Z])"', text))
    names |= {"POSTERN_" + name for name in re.findall(r'variable\("([A-Z_]+)"\)', text) if not name.startswith(("XDG", "HOME"))}
    return sorted(names - {"POSTERN_CONFDIR", "POSTERN_CONF_FILE", "POSTERN_SUID_INSTALL"})  # names that buildcfg prints


def variables_named():
    names = set(re.findall(r"\bPOSTERN_[A-Z_]*[A-Z]\b", EVERY_PAGE)) - {"POSTERN_OPTION", "POSTERN_X", "POSTERN_BUILD"}
    return sorted(names)


def variables_of_options():
    names = {"POSTERN_" + variable for rows in TABLES.values() for _, keys, _ in rows for variable in keys.split(",")}
    return names | {"POSTERN_" + name.upper().replace("-", "_") for name in OPTIONS}


keys = [f"{table}.{key}" for table, key in re.findall(r'\{"([\w-]+)", "([\w-]+)", &S::', source("policy/config/site.cc"))]
options = options_of("frontend/cli/action_options.cc", "frontend/cli/command.cc")
taken = sorted({name for file in ("frontend/cli/action_options.cc", "frontend/cli/command.cc") for name, _, _ in TABLES[ROOT / file]})
fetching = folder_options("frontend/transfer")
building = folder_options("frontend/imagebuild")
compared = set(re.findall(r"\*--([a-z0-9-]+)\*", page("postern-compat.7.scd")))
codes = re.findall(r"kExit\w+ = (\d+);", source("protocol/exit_codes.h"))
shown = [name for name, summary, _ in commands() if summary]
built = re.findall(r"'([\w-]+)'", source("man/meson.build").split("command_pages = [")[1].split("]")[0])
ecl_keys = sorted(set(re.findall(r'\(table, "(\w+)"', source("policy/ecl/ecl.cc"))) | {"activated", "legacyinsecure", "execgroup"})
named = sorted(set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)",
                              "\n".join(text for name, text in PAGES.items() if name != "postern-compat.7.scd"))))
read = variables_read()
# The journal has each field of the audit under a name of its own.
audit = sorted(set(re.findall(r'\.add(?:_text)?\(\s*(?:proven \? "path" : )?"([\w-]+)"',
                              source("policy/judge/audit.cc") + source("frontend/start/audit.cc"))) | {"path"})
journal = {"POSTERN_" + field.upper().replace("-", "_") for field in audit}

checks = [
    ("every key of postern.toml is in postern.toml(5)", [k for k in keys if f"*{k}*" not in page("postern.toml.5.scd")], keys),
    ("the defaults of postern.toml(5) are the program's", wrong_defaults(), keys),
    ("every key of ecl.toml is in ecl.toml(5)", [k for k in ecl_keys if not re.search(rf"\b{k}\b", page("ecl.toml.5.scd"))], ecl_keys),
    ("every option of starts is in postern(1)", [o for o in taken if f"--{o}*" not in page("postern.1.scd")], options),
    ("every option of build is in postern(1) or postern-images(1)",
     [o for o in building if f"--{o}*" not in page("postern.1.scd") + page("postern-images.1.scd")], building),
    ("every option of fetching and sending is in postern-images(1)",
     [o for o in fetching if f"--{o}*" not in page("postern-images.1.scd")], fetching),
    ("every command has a page (man/meson.build), and each page a part of its own (man/commands)",
     sorted(set(shown) ^ set(built)) + [n for n in built if not page(f"commands/{n}.scd")], shown),
    ("every page of a command has an example", [n for n in built if "# EXAMPLES" not in page(f"commands/{n}.scd")], built),
    ("every option is read, or says that it changes nothing", unread_options(), sorted(OPTIONS)),
    ("every option that a page names is one", [o for o in named if o not in OPTIONS | FOREIGN_OPTIONS | set(SLURM_OPTIONS)], named),
    ("every option of exec that the compatibility page names is one, or is said not to be there",
     [o for o in compared if o not in taken and f"*--{o}*: not there" not in page("postern-compat.7.scd")
      and o not in page("postern-compat.7.scd").split("# OPTIONS OF OTHER COMMANDS")[-1]], compared),
    ("every option and command that a cure names is one", false_cures(), cures()),
    ("every variable that is read is in a page", [v for v in read if v not in EVERY_PAGE and v.split("_", 1)[1] not in EVERY_PAGE], read),
    ("every variable that a page names is read", [v for v in variables_named() if v not in set(read) | variables_of_options() | journal
                                                 and not v.startswith("POSTERN_ENCRYPTION_")], variables_named()),
    ("every option of the Slurm plugin is in postern-slurm(7)", [o for o in SLURM_OPTIONS if f"*--{o}" not in page("postern-slurm.7.scd")], SLURM_OPTIONS),
    ("every exit code is in postern(1)", [c for c in codes if f"*{c}*" not in page("postern.1.scd")], codes),
    ("every field of the audit's entries is in postern-helper(8)", [f for f in audit if f"*{f}*" not in page("postern-helper.8.scd")], audit),
]
print(f"1..{len(checks)}")
failed = 0
for number, (what, missing, everything) in enumerate(checks, 1):
    bad = missing or not everything
    failed += bool(bad)
    print(f"{'not ok' if bad else 'ok'} {number} - {what} ({len(everything)})")
    for item in missing:
        print(f"# {item}")
sys.exit(1 if failed else 0)
