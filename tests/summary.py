#!/usr/bin/env python3
"""Counts what the suites ran, case by case, from meson's log, and prints the closing line.

Cases of a doctest program are counted from its own closing line, those of a script from its TAP
lines ("ok 1 - text", "not ok 2 - text", "ok 3 - text # SKIP reason"); any other program is one case.
A program that ends badly counts as at least one failure, whatever it printed.
"""
import json
import re
import sys

DOCTEST = re.compile(r"test cases:\s*(\d+) \|\s*(\d+) passed \|\s*(\d+) failed \|\s*(\d+) skipped")
TAP = re.compile(r"^(not ok|ok)\b(.*)$", re.M)
GOOD = {"OK", "EXPECTEDFAIL"}


def count(entry):
    out = entry.get("stdout") or ""
    ended_well = entry["result"] in GOOD
    if entry["result"] == "SKIP":
        return 0, 0, [out.strip().splitlines()[-1] if out.strip() else "no reason given"]
    passed = failed = 0
    skips = []
    doctest = DOCTEST.search(re.sub(r"\x1b\[[0-9;]*m", "", out))
    if doctest:
        passed, failed = int(doctest.group(2)), int(doctest.group(3))
        skips = ["filtered out"] * int(doctest.group(4))
    else:
        for word, rest in TAP.findall(out):
            skip = re.search(r"# SKIP\s*(.*)", rest, re.I)
            if word == "not ok":
                failed += 1
            elif skip:
                skips.append(skip.group(1))
            else:
                passed += 1
    if passed == failed == 0 and not skips:
        passed, failed = (1, 0) if ended_well else (0, 1)
    if not ended_well and failed == 0:
        failed = 1
    return passed, failed, skips


def main(path):
    totals = [0, 0, 0]
    with open(path, encoding="utf-8") as log:
        for line in log:
            entry = json.loads(line)
            passed, failed, skips = count(entry)
            totals[0] += passed
            totals[1] += failed
            totals[2] += len(skips)
            if failed:
                print(f"FAILED  {entry['name']}: {failed} failed ({entry['result']})")
            for reason in skips:
                print(f"SKIPPED {entry['name']}: {reason}")
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
