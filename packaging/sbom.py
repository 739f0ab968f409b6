#!/usr/bin/env python3
"""What a build is made of, as SPDX 2.3 JSON: sbom.py BUILD [OUTPUT]

The programs with their digests, and each library that meson found with its version and how it is linked. The same build
gives the same bytes: the date is SOURCE_DATE_EPOCH's, or that of the last commit.
"""
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys

LICENSE = "BSD-3-Clause"


def output(*command, cwd=None):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def introspect(build, what):
    return json.loads(output("meson", "introspect", build, what))


def identifier(text):
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", text)


def created(root):
    seconds = os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct", cwd=root)
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(path, name):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, name).hexdigest() if hasattr(hashlib, "file_digest") else hashlib.new(name, file.read()).hexdigest()


def version_of(dependency):
    """Of libraries that have no pkg-config file the distribution's package knows it."""
    if re.match(r"\d", dependency["version"]):
        return dependency["version"]
    for argument in dependency.get("link_args", []):
        if argument.startswith("/"):
            try:
                package = output("dpkg-query", "-S", argument).split(":")[0]
                return output("dpkg-query", "-W", "-f", "${Version}", package)
            except (subprocess.CalledProcessError, FileNotFoundError):
                return None
    return None


def document(build):
    project = introspect(build, "--projectinfo")
    root = os.path.dirname(next(path for path in introspect(build, "--buildsystem-files") if path.endswith("/meson.build")
                                and "project('postern'" in open(path).read()))
    name, version = project["descriptive_name"], project["version"]
    packages = [{"SPDXID": "SPDXRef-postern", "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION",
                 "filesAnalyzed": False, "licenseDeclared": LICENSE, "licenseConcluded": LICENSE,
                 "copyrightText": "NOASSERTION", "supplier": "NOASSERTION"}]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-postern")]
    found = {}
    for dependency in introspect(build, "--dependencies"):
        if dependency["name"] not in ("", "threads", "doctest", "squashfuse"):  # the system's, and what tests alone link
            found.setdefault(dependency["name"], version_of(dependency))
    for library, its_version in sorted(found.items()):
        packages.append({"SPDXID": identifier("library-" + library), "name": library, "downloadLocation": "NOASSERTION",
                         "filesAnalyzed": False, "licenseDeclared": "NOASSERTION", "licenseConcluded": "NOASSERTION",
                         "copyrightText": "NOASSERTION", "supplier": "NOASSERTION",
                         **({"versionInfo": its_version} if its_version else {})})
        relations.append(("SPDXRef-postern", "DEPENDS_ON", identifier("library-" + library)))
    files = []
    for target in introspect(build, "--targets"):
        if target["type"] == "executable" and target["installed"]:
            for path in target["filename"]:
                if not os.path.exists(path):
                    sys.exit(f"sbom.py: {path} is not built")
                own = identifier("file-" + target["name"])
                files.append({"SPDXID": own, "fileName": "./" + os.path.relpath(path, build),
                              "checksums": [{"algorithm": kind.upper(), "checksumValue": digest(path, kind)} for kind in ("sha1", "sha256")],
                              "licenseConcluded": LICENSE, "licenseInfoInFiles": ["NOASSERTION"], "copyrightText": "NOASSERTION"})
                relations.append(("SPDXRef-postern", "GENERATES", own))
    files.sort(key=lambda file: file["SPDXID"])
    everything = json.dumps([packages, files], sort_keys=True)
    return {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"{name}-{version}",
            "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{version}-{hashlib.sha256(everything.encode()).hexdigest()}",
            "creationInfo": {"created": created(root), "creators": ["Tool: postern-packaging-sbom"]},
            "packages": packages, "files": files,
            "relationships": [{"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b} for a, kind, b in sorted(relations)]}


def main(words):
    if len(words) not in (1, 2):
        sys.exit(__doc__)
    text = json.dumps(document(words[0]), indent=1, sort_keys=True) + "\n"
    if len(words) == 2:
        with open(words[1], "w") as file:
            file.write(text)
    else:
        sys.stdout.write(text)


main(sys.argv[1:])
