#!/usr/bin/env python3
"""Start-up: what it takes from the command to the payload's end, against peers and the bare sequence.

    start.py --bin DIRECTORY --tools DIRECTORY --rootfs DIRECTORY --work DIRECTORY [--rounds N] [--json FILE]

Runs as root only to make a user; every command that is timed runs as that user. The commands take
turns (hyperfine, no shell, several rounds), what is compared are medians of one run. `--bin` holds an
installed prefix's bin, `--tools` the build tree's `floor` and `postern-squashfs`.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import time

USER = "posternbench"


def sh(*words, **options):
    return subprocess.run([str(word) for word in words], check=True, **options)


def as_user(words, home, **options):
    return subprocess.run(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "env", "-i", f"HOME={home}", f"USER={USER}",
                           "PATH=/usr/local/bin:/usr/bin:/bin", *map(str, words)], **options)


def partition(sif):
    """Offset and size of the primary partition."""
    data = open(sif, "rb").read(40000)
    total, table = struct.unpack_from("<qq", data, 88)
    for slot in range(total):
        raw = data[table + 585 * slot:table + 585 * (slot + 1)]
        if raw[4] and struct.unpack_from("<i", raw)[0] == 0x4004 and struct.unpack_from("<i", raw, 205)[0] == 2:
            return struct.unpack_from("<qq", raw, 17)
    raise SystemExit(f"{sif}: no primary partition")


def medians(commands, home, work, rounds, runs):
    """Medians in milliseconds; the commands take turns in every round."""
    times = {name: [] for name in commands}
    for _ in range(rounds):
        out = work / "hyperfine.json"
        result = as_user(["hyperfine", "-N", "--warmup", "2", "--runs", runs, "--export-json", out,
                          *(command for command in commands.values())], home, capture_output=True, text=True)
        if result.returncode:
            sys.exit(result.stderr or result.stdout)
        for name, entry in zip(commands, json.load(open(out))["results"]):
            times[name] += entry["times"]
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def simultaneous(command, count, home):
    """Wall time of `count` starts at once, in milliseconds, and the greatest number of servers seen."""
    script = f"for i in $(seq {count}); do {command} & done; wait"
    before = time.perf_counter()
    process = subprocess.Popen(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "env", "-i", f"HOME={home}",
                                "PATH=/usr/local/bin:/usr/bin:/bin", "sh", "-c", script], stdout=subprocess.DEVNULL)
    servers = 0
    while process.poll() is None:
        servers = max(servers, int(subprocess.run(["pgrep", "-c", "-u", USER, "-f", "^[^ ]*postern-squashfs"],
                                                  capture_output=True, text=True).stdout or 0))
        time.sleep(0.02)
    return 1000 * (time.perf_counter() - before), servers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--bin", "--tools", "--rootfs", "--work"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    postern = arguments.bin / "postern"

    work = arguments.work / "start"
    shutil.rmtree(work, ignore_errors=True)
    subprocess.run(["userdel", USER], capture_output=True)
    home = work / "home"
    work.mkdir(parents=True)
    sh("useradd", "--no-create-home", "--home-dir", home, USER)
    try:
        home.mkdir()
        shutil.chown(home, USER, USER)
        shutil.chown(work, USER, USER)
        image = home / "rootfs.sif"
        rootfs = arguments.rootfs
        if as_user([postern, "-q", "build", image, rootfs], home).returncode:
            sys.exit("the image could not be built")
        offset, size = partition(image)
        squashfs = home / "rootfs.sqfs"
        with open(image, "rb") as source, open(squashfs, "wb") as target:
            source.seek(offset)
            target.write(source.read(size))
        (home / "key").write_text("0123456789abcdef0123456789abcdef")
        os.chmod(home / "key", 0o600)
        sh("openssl", "genrsa", "-traditional", "-out", home / "key.pem", "2048", capture_output=True)
        sh("openssl", "rsa", "-in", home / "key.pem", "-RSAPublicKey_out", "-out", home / "public.pem", capture_output=True)
        for path in home.iterdir():
            shutil.chown(path, USER, USER)
        as_user([postern, "-q", "encrypt", "--pem-path", home / "public.pem", image, home / "encrypted.sif"], home, check=True)

        floor = arguments.tools / "tests/bench/floor"
        server = arguments.tools / "frontend/squashfs/postern-squashfs"
        binds = "--dev-bind /dev /dev --bind /proc /proc --bind /sys /sys --bind /tmp /tmp"
        commands = {
            "bare sequence, directory": f"{floor} directory {rootfs} /bin/true",
            "bwrap, directory": f"bwrap --unshare-user --bind {rootfs} / {binds} /bin/true",
            "postern, directory": f"{postern} exec --userns {rootfs} true",
            "bare sequence, own server": f"{floor} image {server} {image} {offset} {size} /bin/true",
            "bare sequence, squashfuse_ll": f"{floor} squashfuse /usr/bin/squashfuse_ll {image} {offset} /bin/true",
            "postern, image": f"{postern} exec --userns --no-share {image} true",
            "postern, encrypted image (PEM)": f"{postern} exec --userns --no-share --pem-path {home}/key.pem {home}/encrypted.sif true",
        }
        if shutil.which("ch-run"):
            commands["ch-run, squashfs"] = f"ch-run {squashfs} -- /bin/true"
        found = {}
        for name, command in commands.items():
            try:
                failed = as_user(command.split(), home, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, timeout=20).returncode
            except subprocess.TimeoutExpired:
                failed = True
            if failed:
                print(f"# left out, does not run here: {name}")
            else:
                found[name] = command
        result = medians(found, home, work, arguments.rounds, arguments.runs)

        # Joined: another process keeps the image mounted.
        keeper = subprocess.Popen(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "env", "-i", f"HOME={home}",
                                   "PATH=/usr/bin:/bin", str(postern), "exec", "--userns", str(image), "sleep", "600"])
        time.sleep(1)
        joined = {"bwrap, directory (again)": found["bwrap, directory"], "postern, image joined": f"{postern} exec --userns {image} true"}
        result |= medians(joined, home, work, arguments.rounds, arguments.runs)
        keeper.terminate()
        keeper.wait()

        many = {}
        for count in (64, 256):
            peers = {"bwrap": found["bwrap, directory"], "postern": joined["postern, image joined"]}
            walls = {name: [] for name in peers}
            servers = 0
            for _ in range(3):
                for name, command in peers.items():
                    wall, seen = simultaneous(command, count, home)
                    walls[name].append(wall)
                    servers = max(servers, seen)
            many[count] = {name: statistics.median(values) for name, values in walls.items()} | {"servers": servers}

        targets = [
            ("directory / bwrap", result["postern, directory"] / result["bwrap, directory"], 1.3),
            ("image / bare sequence with our server", result["postern, image"] / result["bare sequence, own server"], 1.2),
            ("joined / bwrap on a directory", result["postern, image joined"] / result["bwrap, directory (again)"], 1.2),
        ]
        if "bare sequence, squashfuse_ll" in result:
            targets.append(("image / bare sequence with squashfuse_ll", result["postern, image"] / result["bare sequence, squashfuse_ll"], 1.0))
        if "ch-run, squashfs" in result:
            targets.append(("image / ch-run on squashfs", result["postern, image"] / result["ch-run, squashfs"], 1.0))
        targets.append(("64 at once / bwrap", many[64]["postern"] / many[64]["bwrap"], 1.5))

        print(f"\n{'start to end of `true`':<42}{'median':>10}")
        for name, value in result.items():
            print(f"{name:<42}{value:>8.1f} ms")
        for count, row in many.items():
            print(f"{f'{count} at once: bwrap on a directory':<42}{row['bwrap']:>8.0f} ms")
            print(f"{f'{count} at once: postern on one image':<42}{row['postern']:>8.0f} ms   servers: {row['servers']}")
        print(f"\n{'ratio':<42}{'reached':>10}{'target':>10}")
        for name, value, target in targets:
            print(f"{name:<42}{value:>10.2f}{'<= ' + str(target):>10}  {'met' if value <= target else 'MISSED'}")
        if arguments.json:
            arguments.json.write_text(json.dumps({"medians_ms": result, "simultaneous": many,
                                                  "ratios": [dict(zip(("name", "value", "target"), row)) for row in targets]}, indent=1))
    finally:
        subprocess.run(["userdel", USER], capture_output=True)
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
