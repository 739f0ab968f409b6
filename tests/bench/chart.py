#!/usr/bin/env python3
"""What doc/speed.md shows of a benchmark run, so that no figure is typed by hand.

    chart.py WORK-DIRECTORY OUT.svg        a picture: start-up and reading, beside the peers
    chart.py WORK-DIRECTORY --markdown     the tables
    chart.py WORK-DIRECTORY doc/speed.md   puts the tables between the file's "bench" marks

The work directory holds the JSON files of the run.
"""
import html
import json
import pathlib
import re
import sys

import common

NAMES = ("start", "suid_start", "simultaneous", "admission", "making", "reading")
BEGIN, END = "<!-- bench: written by tests/bench/chart.py -->", "<!-- bench: end -->"
# Colours that are readable on white and on black.
STYLE = """text{font:12px sans-serif;fill:#24292f}.head{font-weight:bold;font-size:13px}.note{fill:#57606a}.ours{fill:#2f81f7}.peer{fill:#8c959f}
line{stroke:#57606a}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note{fill:#9da7b3}line{stroke:#9da7b3}}"""


def runs(folder):
    """Name -> the run's JSON, of those that are there and of this form."""
    paths = {name: folder / f"{name}.json" for name in NAMES}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    return {name: run for name, run in found.items() if "rows" in run and "machine" in run}


# --- the picture -------------------------------------------------------------------------------------

def start_bars(found):
    """(words, milliseconds, ours or not): each case once, own mounts before shared ones."""
    seen = {}
    for name in ("start", "suid_start"):
        for row in found.get(name, {"rows": []})["rows"]:
            if row["unit"] == "ms" and not row["case"].startswith(("privileged", "judge")):
                words = row["case"] + (", suid mode" if name == "suid_start" and row["case"].startswith("postern") else "")
                seen.setdefault(words, row["value"])
    return [(words, value, words.startswith("postern")) for words, value in seen.items()]


def at_once_bars(found):
    return [(row["case"].replace("at once: ", "at once, "), row["value"], "postern" in row["case"])
            for row in found.get("simultaneous", {"rows": []})["rows"] if row["unit"] == "ms"]


def reading_bars(found):
    """Times as a multiple of the kernel's, of gzip images."""
    bars = []
    for row in found.get("reading", {"rows": []})["rows"]:
        if row["against"].startswith("kernel") and ", gzip, " in row["case"]:
            words = row["case"].replace(", gzip", "")
            bars.append((f"postern: {words}", row["reached"], True))
            if "squashfuse_ll_ms" in row:
                bars.append(("squashfuse_ll", row["squashfuse_ll_ms"] / row["base"], False))
    return bars


def panel(top, title, bars, unit, line=None, most=None):
    """SVG elements, and the height that they take. Longer bars than `most` are cut, and their number says so."""
    left, width, step = 400, 380, 17
    longest = most or max(value for _, value, _ in bars)
    out = [f'<text class="head" x="10" y="{top + 14}">{html.escape(title)}</text>']
    for index, (words, value, ours) in enumerate(bars):
        y = top + 24 + index * step
        length = min(value, longest) / longest * width
        out += [f'<text x="{left - 8}" y="{y + 10}" text-anchor="end"{"" if ours else " class=" + chr(34) + "note" + chr(34)}>{html.escape(words)}</text>',
                f'<rect class="{"ours" if ours else "peer"}" x="{left}" y="{y}" width="{length:.1f}" height="12"/>',
                f'<text class="note" x="{left + length + 6:.1f}" y="{y + 10}">{common.shown(value, unit)}</text>']
    height = 24 + len(bars) * step
    if line:
        x = left + line / longest * width
        out.append(f'<line x1="{x:.1f}" y1="{top + 20}" x2="{x:.1f}" y2="{top + height}" stroke-dasharray="3 3"/>')
    return out, height + 22


def picture(found):
    parts, top = [], 10
    for title, bars, unit, line, most in (
            ("Start to the end of `true`, an ordinary user (shorter is better)", start_bars(found), "ms", None, None),
            ("Simultaneous starts of one image (shorter is better)", at_once_bars(found), "ms", None, None),
            ("Reading, time as a multiple of the kernel's squashfs (line: the kernel)", reading_bars(found), "x", 1.0, 4.0)):
        if bars:
            elements, height = panel(top, title, bars, unit, line, most)
            parts += elements
            top += height
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {top}" width="860" height="{top}">', f"<style>{STYLE}</style>", *parts,
                      "</svg>"]) + "\n"


# --- the tables --------------------------------------------------------------------------------------

def table(run):
    lines = [f"**{run['title']}**", "", "| case | median | compared | target | |", "|---|---|---|---|---|"]
    for row in run["rows"]:
        if row["case"].startswith("server's"):  # a table of its own would be as long: the run prints them
            continue
        mark = {None: "", True: "met", False: "**missed**"}[row["met"]]
        cells = [row["case"], common.shown(row["value"], row["unit"]), common.comparison(row), common.wanted(row), mark]
        lines.append("| " + " | ".join(cell.replace(" x ", " × ").replace("<=", "≤").replace(">=", "≥").replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def markdown(found):
    machines = sorted({run["machine"].rpartition(", load")[0] for run in found.values()})
    return "\n\n".join([f"Measured on: {'; '.join(machines)}."] + [table(run) for run in found.values()]) + "\n"


def put_into(readme, text):
    old = readme.read_text()
    if BEGIN not in old or END not in old:
        sys.exit(f"{readme}: no lines '{BEGIN}' and '{END}'")
    readme.write_text(re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: f"{BEGIN}\n\n{text}\n{END}", old, flags=re.S))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    found, target = runs(pathlib.Path(sys.argv[1])), sys.argv[2]
    if not found:
        sys.exit(f"{sys.argv[1]}: no JSON of a run")
    if target == "--markdown":
        sys.stdout.write(markdown(found))
    elif target.endswith(".svg"):
        pathlib.Path(target).write_text(picture(found))
    else:
        put_into(pathlib.Path(target), markdown(found))


if __name__ == "__main__":
    main()
