#!/usr/bin/env python3
"""Draws the ratios of a benchmark run as horizontal bars: chart.py DIRECTORY-WITH-JSON OUT.svg

One bar a case: what was reached, as a fraction of what the case may take; a bar that ends left of the
line meets its target.
"""
import html
import json
import pathlib
import sys


def rows(folder):
    start = folder / "start.json"
    if start.exists():
        for entry in json.loads(start.read_text())["ratios"]:
            yield "start: " + entry["name"], entry["value"], entry["target"]
    reading = folder / "reading.json"
    if reading.exists():
        for entry in json.loads(reading.read_text())["reading"]:
            if entry["target"]:
                yield f"{entry['case']}, {entry['mode']} / {entry['base']}", entry["ratio"], entry["target"]


def main():
    data = list(rows(pathlib.Path(sys.argv[1])))
    width, left, line, height = 900, 330, 24, 24 * len(data) + 60
    scale = (width - left - 80) / 1.6  # 1.0 = the target
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
           f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="{left}" y="18" fill="#555">ratio reached / target (left of the line: met)</text>']
    for index, (name, value, target) in enumerate(data):
        y = 34 + index * line
        fraction = min(value / target, 1.6)
        colour = "#3a7d44" if value <= target else "#b3432b"
        out += [f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>',
                f'<rect x="{left}" y="{y}" width="{fraction * scale:.1f}" height="16" fill="{colour}"/>',
                f'<text x="{left + fraction * scale + 6:.1f}" y="{y + 13}" fill="#333">{value:.2f} of {target:g}</text>']
    out += [f'<line x1="{left + scale}" y1="26" x2="{left + scale}" y2="{height - 20}" stroke="#222" stroke-dasharray="4 3"/>', "</svg>"]
    pathlib.Path(sys.argv[2]).write_text("\n".join(out) + "\n")


main()
