#!/usr/bin/env python3
"""Runs several TAP scripts one after the other, so that one boot of the guest serves them all. Prints one TAP stream.

Usage: in_turn.py SCRIPT [ARG ...] [-- SCRIPT [ARG ...]] ...
"""
import os
import re
import subprocess
import sys

POINT = re.compile(r"(not ok|ok)\b\s*(?:\d+)?(?:\s*-)?\s*(.*)")
PLAN = re.compile(r"1\.\.(\d+)(?:\s*#\s*SKIP\s*(.*))?", re.I)


class Stream:
    def __init__(self):
        self.count = self.failed = 0

    def point(self, good, text):
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} - {text}", flush=True)

    def run(self, command):
        """Passes on what the script prints; one more point where its plan or its exit status does not fit."""
        name = os.path.splitext(os.path.basename(command[0]))[0]
        before, failed, plan, skipped = self.count, self.failed, None, None
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as process:
            for line in process.stdout:
                if match := PLAN.match(line):
                    plan, skipped = int(match[1]), match[2]
                elif match := POINT.match(line):
                    self.point(match[1] == "ok", f"{name}: {match[2]}")
                else:
                    print(line, end="", flush=True)
        points, failures = self.count - before, self.failed - failed
        if plan == 0 and process.returncode == 77:
            self.point(True, f"{name} # SKIP {skipped or 'no reason given'}")
        elif plan != points or not points:
            self.point(False, f"{name}: planned {plan} points, printed {points}, exit status {process.returncode}")
        elif (process.returncode == 0) != (failures == 0):
            self.point(False, f"{name}: {failures} of its points failed, but its exit status is {process.returncode}")


def main(words):
    stream, command = Stream(), []
    for word in [*words, "--"]:
        if word != "--":
            command.append(word)
        elif command:
            stream.run(command)
            command = []
    print(f"1..{stream.count}")
    return 1 if stream.failed or not stream.count else 0


sys.exit(main(sys.argv[1:]))
