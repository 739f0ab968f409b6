#!/usr/bin/env python3
"""Prints helper/SYSCALLS as instructions of a filter (seccomp(2)): a row for each rule, which allows what the rule
names. The accumulator holds the number of the call before and behind each row."""
import sys

ALLOW = "{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}"


def load(offset):
    return f"{{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, {offset}}}"


for line in open(sys.argv[1], encoding="utf-8"):
    if not line.split("#")[0].strip():
        continue
    name, _, rule = line.split()[0].partition(":")
    row = [ALLOW]
    if rule:
        argument, _, values = rule.partition("=")
        row = [load(f"args) + 8 * {int(argument)}")]  # the low half of a little-endian register
        for value in values.split(","):
            row += [f"{{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, static_cast<std::uint32_t>({value})}}", ALLOW]
        row += [load("nr)")]
    print(f"{{BPF_JMP | BPF_JEQ | BPF_K, 0, {len(row)}, SYS_{name}}}, " + ", ".join(row) + ",")
