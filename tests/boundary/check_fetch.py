#!/usr/bin/env python3
"""One fetch: what the judge links reads an image through policy/snapshot alone. Prints TAP.

Every object file of policy/ that the judge is made of is looked at: only those named here may call
a function that reads from a descriptor or maps a file.
"""
import pathlib
import subprocess
import sys

BUILD = pathlib.Path(sys.argv[1])
READS = {"read", "pread", "pread64", "readv", "preadv", "mmap", "mmap64", "fopen", "fopen64", "fdopen", "open", "open64", "openat",
         "openat64", "sendfile", "splice", "copy_file_range"}
# What they read is never an image.
MAY_READ = {
    "policy/snapshot/libsnapshot.a": {"snapshot.cc.o"},
    "policy/judge/libjudge.a": {"input.cc.o", "volume_key.cc.o"},  # the helper's file, the request; the volume key's memfd
    "policy/config/libconfig.a": {"read_file.cc.o", "trusted_file.cc.o", "unwritable.cc.o"},  # the site's files, mountinfo
    "policy/ecl/libecl_facts.a": {"facts.cc.o"},  # opens the root directory, for the site's files
}
LIBRARIES = ["policy/snapshot/libsnapshot.a", "policy/sif/libsif.a", "policy/image/libimage.a", "policy/seal/libseal.a",
             "policy/seal/libseal_cover.a", "policy/crypt/libluks2.a", "policy/signature/libsignature.a", "policy/signature/libdigest.a",
             "policy/signature/libpem_key.a",
             "policy/ecl/libecl.a", "policy/ecl/libecl_facts.a", "policy/judge/libdecide.a", "policy/judge/libjudge.a",
             "policy/config/libconfig.a", "policy/admit/libadmit.a", "policy/path/libpath.a", "policy/text/libtext.a",
             "policy/json/libjson.a"]
# In the library, not in the judge.
NOT_IN_THE_JUDGE = {"architecture.cc.o", "fresh_file.cc.o", "open_for_change.cc.o", "read_exactly.cc.o", "writer.cc.o"}

failures = []
seen = 0
for library in LIBRARIES:
    listing = subprocess.run(["nm", "--undefined-only", "--format=posix", BUILD / library], check=True, capture_output=True,
                             text=True).stdout
    member = ""
    for line in listing.splitlines():
        if line.endswith(":"):
            member = line[line.index("[") + 1:line.index("]")].split("/")[-1].removeprefix("meson-generated_.._")
            seen += 1
            continue
        name = line.split()[0] if line.split() else ""
        if name.removeprefix("__").removesuffix("_chk") in READS | {name.removesuffix("_2") for name in READS} \
                and member not in NOT_IN_THE_JUDGE and member not in MAY_READ.get(library, set()):
            failures.append(f"{library}: {member} calls {name}")
print("1..1")
for failure in failures:
    print(f"# {failure}")
good = not failures and seen > 25
print(("ok" if good else "not ok") + f" 1 - of {seen} object files only those that are named read from a descriptor")
sys.exit(0 if good else 1)
