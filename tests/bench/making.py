#!/usr/bin/env python3
"""What is done once for an image: verify, seal and encrypt, against openssl and veritysetup on the same bytes.

    making.py --build DIRECTORY --rootfs DIRECTORY --work DIRECTORY [--rounds N] [--json FILE]

One core means that the whole program is bound to processor 0 (taskset). The bytes are in the page cache; the
partition ends in a hole, whose zeros are hashed and encrypted as any other bytes are.
"""
import os
import re
import resource
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
    table.add(f"seal, {os.cpu_count()} cores", rate / times["all"], "MiB/s", "x", rate / times["one"], "one core", scaling(1.5), at_least=True)
    for path in (data, tree, image):
        path.unlink(missing_ok=True)


def scaling(speed_up):
    """The target of more than one core, where there is more than one."""
    return speed_up if (os.cpu_count() or 1) > 1 else None


def user_seconds(place, *words):
    """Processor time in user space of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    place.run(*words)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def encrypt(place, options, table, plain):
    """The cipher is compared as processor time in user space, because `openssl speed` writes no file; the whole
    command, with reading, writing and fsync(2), is compared with a copy of the file."""
    _, public = common.rsa_key(place)
    out, copied = place.home / "encrypted.sif", place.home / "copy"
    command = (place.postern, "-q", "encrypt", "--pem-path", public, plain, out)

    def ours(measure, *prefix):
        out.unlink(missing_ok=True)
        return measure(place, *prefix, *command)

    def peer():
        said = place.run(*ONE, "openssl", "speed", "-mr", "-seconds", "1", "-bytes", "4096", "-evp", "aes-256-xts")
        return BYTES / float(re.search(r"\+F:.*:([\d.]+)\s*$", said, re.M)[1])

    def copy_of_it():
        copied.unlink(missing_ok=True)
        return timed(place, *ONE, "dd", f"if={plain}", f"of={copied}", "bs=1M", "conv=fsync", "status=none")
    times = common.by_turns({"peer": peer, "cipher": lambda: ours(user_seconds, *ONE), "copy": copy_of_it, "one": lambda: ours(timed, *ONE),
                             "all": lambda: ours(timed)}, options.rounds)
    rate = {name: BYTES / 2**20 / taken for name, taken in times.items()}
    table.add("openssl speed -evp aes-256-xts, one core", rate["peer"], "MiB/s")
    table.add("encrypt, processor time in user space", rate["cipher"], "MiB/s", "x", rate["peer"], "openssl speed", 0.5, at_least=True)
    table.add("dd conv=fsync of the same file, one core", rate["copy"], "MiB/s")
    table.add("encrypt, whole command, one core", rate["one"], "MiB/s", "x", rate["copy"], "dd conv=fsync")
    # Writes into one file take turns in the kernel, and the disk has one queue.
    table.add(f"encrypt, whole command, {os.cpu_count()} cores", rate["all"], "MiB/s", "x", rate["one"], "one core", scaling(1.2), at_least=True)
    for path in (out, copied):
        path.unlink(missing_ok=True)


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
