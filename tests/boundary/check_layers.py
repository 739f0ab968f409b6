#!/usr/bin/env python3
"""Who may include whom (ARCHITECTURE.md, "Who may include whom"). Prints TAP.

Also: headers of heavy or throwing libraries stay out of folders that must not see them, and out of
every header (they are included by the one .cc that wraps them).
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)

# folder -> prefixes of project headers that it may include. First match wins, so deeper ones first.
MAY_INCLUDE = {
    "protocol/base/": ["protocol/base/"],
    "protocol/": ["protocol/"],
    "helper/": [
        "helper/", "protocol/base/", "protocol/verdict.h", "protocol/verdict_check.h", "protocol/refusal_helper.h", "protocol/limits.h",
        "protocol/judge_input.h", "protocol/exit_codes.h",
    ],
    "policy/": ["policy/", "protocol/"],
    "frontend/": ["frontend/", "policy/", "protocol/", "helper/mounts.h"],
}

# folder -> what it must not include, whatever the reason.
DENY_SYSTEM = {
    "protocol/base/": ["capnp/", "kj/", "fmt/", "nlohmann/", "toml++", "CLI/", "openssl/", "gpgme"],
    "helper/": ["capnp/", "kj/", "fmt/", "nlohmann/", "toml++", "CLI/", "openssl/", "gpgme", "archive", "curl/",
                "string>", "vector>", "memory>", "iostream>", "map>", "functional>", "fstream>", "stdexcept>",
                "libcryptsetup", "pwd.h", "grp.h", "netdb.h", "locale", "syslog.h", "stdlib.h"],
    "policy/": ["CLI/", "curl/", "archive.h", "fuse"],
}
HEAVY = ["nlohmann/json.hpp", "toml++", "CLI/", "capnp/", "kj/", "archive.h", "gpgme.h", "curl/", "libcryptsetup.h"]

# Inside a layer, a folder includes only folders before it. The list of frontend/ is ARCHITECTURE.md's.
LISTED = re.findall(r"^\| ((?:`[a-z]+/`(?:, )?)+) \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.M)
ORDER = {
    "frontend": [folder for row in LISTED for folder in re.findall(r"`([a-z]+)/`", row)],
    "policy": ["path", "text", "sandbox", "accounts", "audit", "config", "json", "snapshot", "admit", "crypt", "sif", "image", "seal", "signature", "ecl", "judge"],
}
STRANGERS = {("suid", "userns"), ("userns", "suid")}


def order_failure(name, header):
    """What is wrong with an include inside a layer; None if nothing is."""
    parts, other = name.split("/"), header.split("/")
    layer = parts[0]
    if layer not in ORDER or other[0] != layer or len(parts) < 3 or len(other) < 3 or parts[1] == other[1]:
        return None
    for folder in (parts[1], other[1]):
        if folder not in ORDER[layer]:
            return f"{layer}/{folder} has no place in the list of folders (ARCHITECTURE.md; policy: this script)"
    if (parts[1], other[1]) in STRANGERS:
        return f"{name} includes {header}: the two doors do not know one another"
    if ORDER[layer].index(other[1]) > ORDER[layer].index(parts[1]):
        return f"{name} includes {header}: {other[1]}/ stands behind {parts[1]}/"
    return None


failures = []
files = sorted(p for top in ("protocol", "helper", "policy", "frontend") for p in (ROOT / top).rglob("*")
               if p.suffix in (".h", ".cc"))
for path in files:
    name = path.relative_to(ROOT).as_posix()
    rule = next(prefix for prefix in MAY_INCLUDE if name.startswith(prefix))
    for kind, header in INCLUDE.findall(path.read_text(encoding="utf-8")):
        if kind == '"' or header.split("/")[0] in ("protocol", "policy", "helper", "frontend"):
            failures += filter(None, [order_failure(name, header)])
            generated = header.endswith((".capnp.h", "build_paths.h"))
            if not generated and not any(header.startswith(p) for p in MAY_INCLUDE[rule]):
                failures.append(f"{name} includes {header}: not allowed for {rule}")
            if header.endswith(".capnp.h") and rule in ("helper/", "protocol/base/"):
                failures.append(f"{name} includes {header}: Cap'n Proto stays out of {rule}")
        else:
            for denied in DENY_SYSTEM.get(rule, []):
                if header.startswith(denied) or (denied.endswith(">") and header == denied[:-1]):
                    failures.append(f"{name} includes <{header}>: not allowed for {rule}")
            if path.suffix == ".h" and any(header.startswith(h) for h in HEAVY):
                failures.append(f"{name} includes <{header}>: keep heavy libraries inside one .cc")

print("1..1")
if failures:
    print("\n".join("# " + f for f in failures))
    print("not ok 1 - every include respects the layers")
    sys.exit(1)
print(f"ok 1 - every include of {len(files)} files respects the layers")
