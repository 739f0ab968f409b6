#!/usr/bin/env python3
"""Prints helper/SYSCALLS as instructions of a filter (seccomp(2)): where the number is that of a line, allow."""
import sys

names = [line.split("#")[0].split() for line in open(sys.argv[1], encoding="utf-8")]
calls = [name[0] for name in names if name]
assert len(calls) <= 45, "the budget of helper/SYSCALLS"
for call in calls:
    print(f"{{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_{call}}}, {{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}},")
