#!/usr/bin/env python3
"""What is done once for an image: verify, seal and encrypt, against openssl and veritysetup on the same bytes.

    making.py --build DIRECTORY --rootfs DIRECTORY --work DIRECTORY [--rounds N] [--json FILE]

One core means that the whole program is bound to processor 0 (taskset). The bytes are in the page cache; the
partition ends in a hole, whose zeros are hashed and encrypted as any other bytes are.
"""
import os
import re
import subprocess

import common

BYTES = 768 << 20
ONE = ("taskset", "-c", "0")


def timed(place, *words):
    return common.seconds(place.run, *words)


def verify(place, options, table, plain):
    signed, sealed = place.home / "signed.sif", place.home / "sealed.sif"
    for path, flags in ((signed, ["--no-seal"]), (sealed, [])):
        copy(place, plain, path)
        place.run(place.postern, "-q", "sign", *flags, path)
    command = (place.postern, "-q", "verify", "--local")
    times = common.by_turns({
        "openssl": lambda: timed(place, "openssl", "dgst", "-sha256", signed),
        "verify": lambda: timed(place, *command, signed),
        "sealed": lambda: timed(place, *command, sealed)}, options.rounds)
    rate = BYTES / 2**20
    table.add("openssl dgst -sha256", rate / times["openssl"], "MiB/s")
    table.add("verify", rate / times["verify"], "MiB/s", at_least=True, relation="x", base=rate / times["openssl"],
              against="openssl dgst -sha256", target=round(1 / 1.1, 2))
    table.add("verify, sealed image: signatures and tree", rate / times["sealed"], "MiB/s", "x", rate / times["verify"], "without the seal")


def copy(place, source, target):
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    os.chown(target, place.user.pw_uid, place.user.pw_gid)


def seal(place, options, table, plain):
    _, offset, size = common.partition(plain)
    data, tree, image = place.home / "data", place.home / "tree", place.home / "seal.sif"
    subprocess.run(["dd", f"if={plain}", f"of={data}", "iflag=skip_bytes,fullblock", f"skip={offset}", "bs=4M", "conv=sparse", "status=none"], check=True)
    os.truncate(data, size)
    os.chown(data, place.user.pw_uid, place.user.pw_gid)

    def ours(*prefix):
        copy(place, plain, image)
        return timed(place, *prefix, place.postern, "-q", "seal", image)

    def peer():
        tree.unlink(missing_ok=True)
        return timed(place, *ONE, "veritysetup", "format", data, tree)
    times = common.by_turns({"peer": peer, "one": lambda: ours(*ONE), "all": ours}, options.rounds)
    rate = BYTES / 2**20
    table.add("veritysetup format, one core", rate / times["peer"], "MiB/s")
    table.add("seal, one core", rate / times["one"], "MiB/s", "x", rate / times["peer"], "veritysetup format", round(1 / 1.2, 2), at_least=True)
    table.add(f"seal, {os.cpu_count()} cores", rate / times["all"], "MiB/s", "x", rate / times["one"], "one core", scaling(), at_least=True)
    for path in (data, tree, image):
        path.unlink(missing_ok=True)


def scaling():
    """What `cores` times the speed must at least be, where two share caches, memory and disk."""
    return 1.5 if (os.cpu_count() or 1) > 1 else None


def encrypt(place, options, table, plain):
    _, public = common.rsa_key(place)
    out = place.home / "encrypted.sif"

    def ours(*prefix):
        out.unlink(missing_ok=True)
        return timed(place, *prefix, place.postern, "-q", "encrypt", "--pem-path", public, plain, out)

    def peer():
        said = place.run(*ONE, "openssl", "speed", "-mr", "-seconds", "1", "-bytes", "4096", "-evp", "aes-256-xts")
        bytes_a_second = float(re.search(r"\+F:.*:([\d.]+)\s*$", said, re.M)[1])
        return BYTES / bytes_a_second
    times = common.by_turns({"peer": peer, "one": lambda: ours(*ONE), "all": ours}, options.rounds)
    rate = BYTES / 2**20
    table.add("openssl speed -evp aes-256-xts, one core", rate / times["peer"], "MiB/s")
    table.add("encrypt, one core", rate / times["one"], "MiB/s", "x", rate / times["peer"], "openssl speed", 0.5, at_least=True)
    table.add(f"encrypt, {os.cpu_count()} cores", rate / times["all"], "MiB/s", "x", rate / times["one"], "one core", scaling(), at_least=True)
    out.unlink(missing_ok=True)


def main():
    common.worlds.enter_namespace()
    options = common.arguments(__doc__)
    with common.installed(options) as place:
        table = common.Table(f"Making: {BYTES >> 20} MiB")
        common.signer(place)
        plain = place.home / "plain.sif"
        common.grown(options.work / "rootfs.sif", plain, BYTES)
        os.chown(plain, place.user.pw_uid, place.user.pw_gid)
        for part in (verify, seal, encrypt):
            part(place, options, table, plain)
    table.write(options.json)


if __name__ == "__main__":
    main()
