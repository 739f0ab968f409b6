#!/usr/bin/env python3
"""Writes the manual page of one command, as scdoc source, to standard output.

The name, the synopsis and the options are what the built program says of itself; the description and
the examples are the hand-written part, commands/NAME.scd: text, and an optional section "# EXAMPLES".
"""
import os
import pathlib
import re
import subprocess
import sys

TABLE_ROW = r'\{{"{0}", "[^"]*", "[^"]*", "([^"]*)", "([^"]*)"'
OPTION = re.compile(r"^ {2,}(?:(-\w), )?(--[\w-]+)( [^ ]+)?(?: {2,}(.*))?$")


def escape(text):
    """Plain text as scdoc(5) wants it."""
    return re.sub(r"([\\_*~])", r"\\\1", text)


def sentence(text):
    if " (default)" not in text.split(",")[0]:  # the value of an option keeps its spelling
        text = text[0].upper() + text[1:]
    text = escape(text if text.endswith(".") else text + ".")
    return "\\" + text if text[0] in "-.#|[]" else text  # not the beginning of a list or a heading


def help_of(program, words, libexec):
    process = subprocess.run([program, *words, "--help"], env={**os.environ, "POSTERN_LIBEXEC": libexec},
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return process.stdout.splitlines()


def usages(lines):
    """The forms of a command line, without the options that stand before every command."""
    found = []
    for line in lines:
        form = re.match(r"^(?:Usage:)? *(postern .*)$", line)
        if form:
            found.append(form.group(1).replace("[global options] ", ""))
    return found


def options(lines):
    found = []
    for line in lines:
        option = OPTION.match(line)
        if not option:
            continue
        short, name, value, text = option.groups()
        head = (f"*{short}*, " if short else "") + f"*{name}*" + (f" _{escape(value.strip())}_" if value else "")
        found.append(f"{head}\n\t{sentence(text or 'A flag')}")
    return found


def of_subcommands(program, name, subcommands, libexec):
    """Whether each subcommand has a help text of its own."""
    return all(help_of(program, [name, one], libexec) != help_of(program, [name], libexec) for one in subcommands)


def page(program, table, name, part, libexec):
    row = re.search(TABLE_ROW.format(name), table)
    summary, subcommands = row.group(1), row.group(2).split()
    own = help_of(program, [name], libexec)
    body, _, examples = part.partition("# EXAMPLES\n")
    forms, sections = usages(own), []
    of_command = options(own)
    if of_command:
        sections.append("# OPTIONS\n\n" + "\n\n".join(of_command))
    if subcommands and of_subcommands(program, name, subcommands, libexec):
        forms = []
        for subcommand in subcommands:
            lines = help_of(program, [name, subcommand], libexec)
            forms += usages(lines)
            about = [line for line in lines if line and not line.startswith(("Usage", " "))]
            listed = options(lines)
            sections.append(f"## {name} {subcommand}\n\n{sentence(about[0])}" +
                            ("\n\n" + "\n\n".join(listed) if listed else ""))
        sections.insert(0, "# COMMANDS")
    synopsis = "++\n".join(escape(form) for form in forms)
    return "\n\n".join(part for part in [
        f"postern-{name}(1)", f"# NAME\n\npostern-{name} - {escape(summary)}", f"# SYNOPSIS\n\n{synopsis}",
        f"# DESCRIPTION\n\n{body.strip()}", *sections,
        f"# EXAMPLES\n\n{examples.strip()}" if examples else "",
        "# EXIT STATUS\n\n0 if it succeeded; *postern*(1) lists the others.",
        "# SEE ALSO\n\n*postern*(1), which has the options that stand before the command, the variables and the files"]
        if part)


def main():
    program, source, name, frontend = sys.argv[1:]
    root = pathlib.Path(source)
    libexec = ":".join(str(folder.resolve()) for folder in sorted(pathlib.Path(frontend).iterdir()) if folder.is_dir())
    part = (root / "man/commands" / (name + ".scd")).read_text(encoding="utf-8")
    table = (root / "frontend/cli/command.cc").read_text(encoding="utf-8")
    print(page(program, table, name, part, libexec))


if __name__ == "__main__":
    main()
