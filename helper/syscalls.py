#!/usr/bin/env python3
"""Prints the numbers of helper/SYSCALLS as C++ initialisers, in the order of the file."""
import sys

for line in open(sys.argv[1], encoding="utf-8"):
    name = line.split("#")[0].split()
    if name:
        print(f"SYS_{name[0]},")
