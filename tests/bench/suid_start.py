#!/usr/bin/env python3
"""Start-up in suid mode, against the bare sequence of system calls of a root C program; and what privilege costs.

    suid_start.py --build DIRECTORY --rootfs DIRECTORY --work DIRECTORY [--rounds N] [--runs N] [--json FILE]

The helper is installed setuid root in a mount namespace of the benchmark's own and started by an ordinary user.
How long privilege lasts, and how much memory that takes, is what the kernel accounts to postern-helper and
postern-judge as they exit; nothing is traced while it is timed.
"""
import statistics
import subprocess

import accounting
import common


def starts(place, image):
    """Case -> (command of ours, bare sequence, how the site lets squashfs be mounted)."""
    _, offset, size = common.partition(image)
    uid, rootfs = place.user.pw_uid, place.rootfs
    floor, server = place.tool("tests/bench/floor"), place.tool("frontend/squashfs/postern-squashfs")
    image_start = f"{place.postern} exec --no-share {image} true"
    return {
        "directory": (f"{place.postern} exec {rootfs} true", f"{floor} root-directory {uid} {rootfs} /bin/true", "any"),
        "image, mounted by the kernel": (image_start, f"{floor} root-loop {uid} {image} {offset} {size} /bin/true", "any"),
        "image, FUSE": (image_start, f"{floor} root-image {uid} {server} {image} {offset} {size} /bin/true", "never"),
    }


def compare(place, options, table, image):
    cases = starts(place, image)
    commands = {}
    for name, (ours, bare, _) in cases.items():
        commands |= {f"bare root sequence, {name}": bare, f"postern, {name}": ours}
    prepare = lambda name: place.configure(next((case[2] for key, case in cases.items() if key in name), "any"))  # noqa: E731
    times = common.medians(place, commands, options, prepare, as_root=[name for name in commands if name.startswith("bare")])
    for name in cases:
        bare = f"bare root sequence, {name}"
        table.add(bare, times[bare], "ms")
        table.add(f"postern, {name}", times[f"postern, {name}"], "ms", "+", times[bare], "the bare sequence", 5)

    # Already mounted: a FUSE server and its mount are shared with the start that holds them.
    for name, mode, case in (("kernel's mount", "any", "image, mounted by the kernel"), ("FUSE server", "never", "directory")):
        place.configure(mode)
        bare = f"bare root sequence, {case}"
        joined = {bare: commands[bare], "joined": f"{place.postern} exec {image} true"}
        with place.kept(image):
            times = common.medians(place, joined, options, as_root=[bare])
        table.add(f"postern, image in use, {name}", times["joined"], "ms", "+", times[bare], bare, 5)


def privilege(place, table, image):
    """One line a case: milliseconds, system calls and memory of what is privileged, and of the judge."""
    for name, (command, _, mode) in starts(place, image).items():
        place.configure(mode)
        place.run(*command.split())
        with accounting.exits() as ended:
            for _ in range(30):
                place.run(*command.split())
        helpers = [task for task in ended if task.name == "postern-helper" and task.uid == place.user.pw_uid]
        judges = [task for task in ended if task.name == "postern-judge" and task.parent in {helper.pid for helper in helpers}]
        with accounting.system_calls("postern-helper") as calls, accounting.exits() as ended:
            for _ in range(5):
                place.run(*command.split())
        traced = {task.pid for task in ended if task.name == "postern-helper"}
        counts = [count for pid, count in (calls() or {}).items() if pid in traced]
        table.add(f"privileged, {name}", statistics.median(task.lived_ms for task in helpers), "ms", against="fork to exit of postern-helper",
                  judge_ms=round(statistics.median(task.lived_ms for task in judges), 2),
                  system_calls=int(statistics.median(counts)) if counts else "tracefs is not there",
                  peak_memory_kib={"helper": max(task.peak_kib for task in helpers), "judge": max(task.peak_kib for task in judges)})


def admission_by_judge(place, table):
    """What an active list costs in the judge: a signed and sealed image, with and without it.

    Where there is no device-mapper the start ends at dm-verity, after the judge has admitted the image; the judge's
    own time is the same.
    """
    ecl = common.signer(place)
    signed = place.image("signed.sif")
    place.run(place.postern, "-q", "sign", signed)
    times = {}
    for name, text in (("no list", common.NO_LIST), ("list", ecl)):
        place.configure("any" if name == "no list" else "trusted", text)
        with accounting.exits() as ended:
            for _ in range(15):
                done = subprocess.run(place.command([place.postern, "exec", signed, "true"]), capture_output=True, text=True, cwd=place.home)
                if done.returncode and "device-mapper" not in done.stderr:
                    raise SystemExit(done.stderr)
        helpers = {task.pid for task in ended if task.name == "postern-helper" and task.uid == place.user.pw_uid}
        times[name] = statistics.median(task.lived_ms for task in ended if task.parent in helpers and task.name.startswith("postern-judge"))
    table.add("judge, sealed and signed (PGP), active list", times["list"], "ms", "+", times["no list"], "no list", 40)


def main():
    common.worlds.enter_namespace()
    options = common.arguments(__doc__)
    with common.installed(options) as place:
        table = common.Table("Start-up, suid mode: to the end of `true`")
        image = place.image()
        compare(place, options, table, image)
        privilege(place, table, image)
        admission_by_judge(place, table)
    table.write(options.json)


if __name__ == "__main__":
    main()
