#!/usr/bin/env python3
"""Admission against the size of an image: what an active list adds to a start, from 10 MB to 10 GB.

    admission.py --build DIRECTORY --rootfs DIRECTORY --work DIRECTORY [--rounds N] [--runs N] [--json FILE]

The images are sealed and signed (PGP). All hold the same small file system, of busybox; their partitions end in a
hole, which is sealed, signed, checked and hashed like any other bytes but takes no room on the disk.
"""
import pathlib
import shutil
import statistics
import subprocess

import accounting
import common

SIZES = {"10 MB": 10**7, "100 MB": 10**8, "1 GB": 10**9, "10 GB": 10**10}


def images(place):
    """Size -> path, sealed and signed; and the list that admits them."""
    root = place.home / "small"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "bin/true").symlink_to("busybox")
    small = place.home / "small.sif"
    place.run(place.postern, "-q", "build", small, root)
    ecl, found = common.signer(place), {}
    for name, size in SIZES.items():
        found[name] = place.home / f"{size}.sif"
        common.grown(small, found[name], size // 4096 * 4096)
        shutil.chown(found[name], place.user.pw_uid, place.user.pw_gid)
        place.run(place.postern, "-q", "sign", found[name])
    return found, ecl


def start_with_list(place, options, table, found, ecl):
    commands = {}
    for name, path in found.items():
        commands |= {f"no list, {name}": f"{place.postern} exec --userns --no-share {path} true",
                     f"list, {name}": f"{place.postern} exec --userns --no-share {path} true"}
    prepare = lambda name: place.configure(ecl=ecl if name.startswith("list") else common.NO_LIST)  # noqa: E731
    times = common.medians(place, commands, options, prepare)
    for name in found:
        table.add(f"start under an active list, {name}", times[f"list, {name}"], "ms", "+", times[f"no list, {name}"], "no list", 40)
    small, *_, large = found
    table.add(f"start under an active list, {large}", times[f"list, {large}"], "ms", "x", times[f"list, {small}"], small, 1.1)


def judge(place, table, found, ecl):
    """Suid mode: the judge alone. Without device-mapper a start ends after it, and its time is the same."""
    place.configure("trusted", ecl)
    times = {name: [] for name in found}
    for _ in range(10):
        for name, path in found.items():
            with accounting.exits() as ended:
                done = subprocess.run(place.command([place.postern, "exec", path, "true"]), capture_output=True, text=True)
            if done.returncode and "device-mapper" not in done.stderr:
                raise SystemExit(done.stderr)
            helpers = {task.pid for task in ended if task.name == "postern-helper" and task.uid == place.user.pw_uid}
            times[name] += [task.lived_ms for task in ended if task.parent in helpers and task.name.startswith("postern-judge")]
    small, *_, large = found
    middle = {name: statistics.median(values) for name, values in times.items()}
    table.add(f"judge under an active list, {small}", middle[small], "ms")
    table.add(f"judge under an active list, {large}", middle[large], "ms", "x", middle[small], small, 1.1)


def full_hash(place, table, found):
    for name, path in found.items():
        table.add(f"verify, {name}", common.seconds(place.run, place.postern, "-q", "verify", "--local", pathlib.Path(path)), "s",
                  against="hashes everything")


def main():
    common.worlds.enter_namespace()
    options = common.arguments(__doc__)
    with common.installed(options) as place:
        table = common.Table("Admission: sealed and signed images under an active execution control list")
        found, ecl = images(place)
        start_with_list(place, options, table, found, ecl)
        judge(place, table, found, ecl)
        full_hash(place, table, found)
    table.write(options.json)


if __name__ == "__main__":
    main()
