#!/usr/bin/env python3
"""Writes postern-limits(7), as scdoc source: each number is read from the constant that the program uses.

write_limits_page.py TREE OUTPUT DEPENDENCIES: the last is a file for ninja.
"""
import pathlib
import re
import sys

# (section, [(file, constant, unit, what it bounds)])
SECTIONS = [
    ("DEADLINES", "What is waited for, and no longer.", [
        ("protocol/limits.h", "kHelperDeadlineSeconds", "s", "the helper, from its start to its end, in setuid mode"),
        ("frontend/userns/payload_process.cc", "kDeadlineMilliseconds", "ms",
         "a start in a user namespace, from the first process to the program: then it fails and names the step"),
        ("frontend/start/private_place.h", "kPatienceSeconds", "s", "the server of another start of the same image; then the start makes its own"),
        ("frontend/net/http.cc", "kConnectSeconds", "s", "a connection to a registry or a library"),
        ("frontend/net/http.cc", "kStallSeconds", "s", "a transfer without a byte, unless POSTERN_HTTP_TIMEOUT says otherwise"),
        ("frontend/net/http.cc", "kLongestWait", "s", "between two tries, whatever a busy server asks for"),
        ("frontend/keys/material.cc", "kLookupSeconds", "s", "the key servers, when a signature's key is missing"),
        ("frontend/keys/ocsp.cc", "kTimeoutSeconds", "s", "an answer about a certificate (OCSP)"),
    ]),
    ("A START", "More is an error.", [
        ("protocol/limits.h", "kMaxDescriptors", "", "mounts, files and devices of one start, the image and the layers included"),
        ("protocol/limits.h", "kMaxLayers", "", "overlays of one start"),
        ("protocol/limits.h", "kMaxTargetBytes", "bytes", "a destination inside, with the final NUL"),
        ("protocol/limits.h", "kMaxHostnameBytes", "bytes", "a host name"),
        ("protocol/limits.h", "kMaxFileBytes", "bytes", "a file that a start makes (passwd, group, resolv.conf)"),
        ("protocol/launch_request.h", "kMaxRequestBytes", "bytes", "the request of setuid mode: all destinations together"),
        ("policy/judge/decide.cc", "kMaxTmpfs", "", "tmpfs mounts of one start in setuid mode"),
        ("frontend/init/record.h", "kMaxRecordBytes", "bytes", "arguments and environment of the program together"),
        ("frontend/plan/environment.cc", "kMaxEnvironmentFileBytes", "bytes", "a file of --env-file"),
        ("frontend/crypt/prompt.h", "kMaxPassphraseBytes", "bytes", "a passphrase"),
    ]),
    ("ENVIRONMENT SCRIPTS", "What a script of the image may use while it is read; a script that needs more is named in a warning.", [
        ("frontend/shell/machine.cc", "kMaxSteps", "", "commands"),
        ("frontend/shell/machine.cc", "kMaxBytes", "bytes", "values that are made"),
        ("frontend/shell/machine.cc", "kMaxFileBytes", "bytes", "a file that is sourced"),
        ("frontend/shell/machine.cc", "kMaxDepth", "", "functions, sourced files and commands inside of each other"),
    ]),
    ("IMAGES", "", [
        ("policy/sif/format.h", "kMaxCapacity", "", "objects of a SIF file"),
        ("policy/judge/signatures.cc", "kMaxHashedBytes", "bytes", "an image that is signed without a seal, in setuid mode"),
        ("policy/signature/verify.h", "kMaxSignatures", "", "signatures that are looked at"),
        ("policy/signature/clear_sign.h", "kMaxClearSignedBytes", "bytes", "the text of one signature"),
        ("frontend/imagebuild/tree.h", "kMaxMetadata", "bytes", "the table of the files of an image that is built: names, links, attributes"),
        ("frontend/imagebuild/tree.h", "kMaxDepth", "", "directories inside of each other"),
        ("frontend/imagebuild/tree.h", "kMaxName", "bytes", "the name of a file"),
        ("frontend/imagebuild/oci_json.h", "kMaxLayers", "", "layers of a container image"),
        ("frontend/imagebuild/oci_json.h", "kMaxDocument", "bytes", "a manifest or a configuration of a container image"),
        ("frontend/imagebuild/definition.h", "kMaxDefinition", "bytes", "a definition file"),
        ("frontend/squashfs/format.h", "kMaxBlockBytes", "bytes", "a block of a squashfs file system"),
        ("frontend/squashfs/options.h", "kMaxCacheMib", "MiB", "the cache of one postern-squashfs"),
    ]),
    ("THE SITE'S FILES", "", [
        ("policy/config/read_file.h", "kMaxConfigBytes", "bytes", "postern.toml, capability.toml"),
        ("policy/ecl/ecl.h", "kMaxEclBytes", "bytes", "ecl.toml"),
        ("policy/ecl/ecl.h", "kMaxEclGroups", "", "rules of ecl.toml"),
        ("policy/audit/record.h", "kMaxLineBytes", "bytes", "an audit line"),
    ]),
]


def value_of(source, name):
    """The number of a constant: products, shifts and the casts around them."""
    match = re.search(rf"\b{name}\s*=\s*([^;,]+)|\b{name}\{{([^}}]*)\}}", source)
    if not match:
        sys.exit(f"no constant {name}")
    text = re.sub(r"(?:std::)?(?:size_t|uint\d+_t|int64_t)\{([^}]*)\}", r"\1", match.group(1) or match.group(2))
    text = re.sub(r"(?<=[0-9])[uUlL]+\b", "", text.replace("'", ""))
    if not re.fullmatch(r"[0-9 *+<>()-]+", text):
        sys.exit(f"the value of {name} is no number: {text}")
    return eval(text)  # pylint: disable=eval-used: digits and operators, as was just checked


def sentence(text):
    if "." not in text.split()[0]:  # the name of a file keeps its spelling
        text = text[0].upper() + text[1:]
    return re.sub(r"([\\_*~])", r"\\\1", text)


def shown(value, unit):
    if unit == "ms":
        return f"{value / 1000:g} seconds"
    if unit == "s":
        return f"{value} seconds"
    if unit == "bytes":
        for name, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size and value % size == 0:
                return f"{value // size} {name}"
    return f"{value:,} {unit}".strip()


def main():
    root, output, dependencies = (pathlib.Path(argument) for argument in sys.argv[1:])
    page = ["postern-limits(7)", "# NAME", "postern-limits - the numbers: how long is waited, how much is taken", "# DESCRIPTION",
            "Everything that a user, an image or a server can make large has a bound. What a site sets itself is in *postern.toml*(5)."]
    for title, text, rows in SECTIONS:
        page += [f"# {title}"] + ([text] if text else [])
        for file, constant, unit, what in rows:
            value = value_of((root / file).read_text(encoding="utf-8"), constant)
            page.append(f"*{shown(value, unit)}*\n\t{sentence(what)}.")
    page += ["# SEE ALSO", "*postern*(1), *postern.toml*(5), *postern-security*(7)"]
    output.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    files = sorted({str(root / row[0]) for _, _, rows in SECTIONS for row in rows})
    dependencies.write_text(f"{output}: {' '.join(files)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
