"""The commands of a page: what a reader would type, and what the page says that it prints."""
import re


def commands(path):
    """(line number, prompt, command, expected lines) of the console blocks; of all blocks in a man page's source.

    "$ " is an ordinary user's prompt, "# " root's. What follows up to the next prompt is the output, but for the text of a
    here-document, which belongs to its command.
    """
    found, inside, waits_for = [], False, None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if waits_for is not None:
            found[-1][2] += "\n" + line
            waits_for = None if line == waits_for else waits_for
        elif line.startswith("```"):
            inside = not inside and (line == "```console" or path.suffix == ".scd")
        elif inside and line[:2] in ("$ ", "# "):
            found.append([number, line[0], re.sub(r"\s+# .*$", "", line[2:]), []])
            here = re.search(r"<<'(\w+)'", line)
            waits_for = here[1] if here else None
        elif inside and found:
            found[-1][3].append(line)
    return [tuple(entry) for entry in found]


def follow(expected, out, pattern):
    """Fails unless the expected lines stand in the output in this order; pattern(line): its regular expression."""
    at = 0
    for line in expected:
        match = re.compile("^" + pattern(line) + "$", re.M).search(out, at)
        assert match, f"{line!r} does not follow in:\n{out}"
        at = match.end()
