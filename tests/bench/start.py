#!/usr/bin/env python3
"""Start-up in user-namespace mode: from the command to the payload's end, against peers and the bare sequence.

    start.py --build DIRECTORY --rootfs DIRECTORY --work DIRECTORY [--rounds N] [--runs N] [--json FILE]

`--work` holds rootfs.sif (run.sh makes it). The commands take turns; medians of one run are compared.
"""
import accounting
import common


def commands_of(place, image):
    """What is compared: name -> command, of those that run here."""
    _, offset, size = common.partition(image)
    squashfs = place.home / "rootfs.sqfs"
    common.squashfs_of(image, squashfs)
    floor, server = place.tool("tests/bench/floor"), place.tool("frontend/squashfs/postern-squashfs")
    binds = "--dev-bind /dev /dev --bind /proc /proc --bind /sys /sys --bind /tmp /tmp"
    found = {
        "bare sequence, directory": f"{floor} directory {place.rootfs} /bin/true",
        "bwrap, directory": f"bwrap --unshare-user --bind {place.rootfs} / {binds} /bin/true",
        "postern, directory": f"{place.postern} exec --userns {place.rootfs} true",
        "bare sequence, our server": f"{floor} image {server} {image} {offset} {size} /bin/true",
        "bare sequence, squashfuse_ll": f"{floor} squashfuse /usr/bin/squashfuse_ll {image} {offset} /bin/true",
        "ch-run, squashfs": f"ch-run {squashfs} -- /bin/true",
        "postern, image": f"{place.postern} exec --userns --no-share {image} true",
    }
    for name in [name for name, command in found.items() if not place.works(command)]:
        print(f"  left out, does not run here: {name}")
        del found[name]
    return found


def compare_with_peers(place, options, table, image):
    commands = commands_of(place, image)
    times = common.medians(place, commands, options)
    for name in commands:
        if not name.startswith("postern"):
            table.add(name, times[name], "ms")

    def against(case, peer, target):
        if peer in times:
            table.add(case, times[case], "ms", "x", times[peer], peer, target)
    against("postern, directory", "bwrap, directory", 1.3)
    against("postern, image", "bare sequence, our server", 1.2)
    against("postern, image", "bare sequence, squashfuse_ll", 1.0)
    against("postern, image", "ch-run, squashfs", 1.0)

    joined = {"bwrap": commands["bwrap, directory"], "joined": f"{place.postern} exec --userns {image} true"}
    with place.kept("--userns", image):
        times = common.medians(place, joined, options)
    table.add("postern, image in use by another start", times["joined"], "ms", "x", times["bwrap"], "bwrap, directory", 1.2)


def compare_layers(place, options, table, image):
    """What a key, and an active list, add to the start of the same bytes."""
    private, public = common.rsa_key(place)
    encrypted, signed = place.home / "encrypted.sif", place.image("signed.sif")
    place.run(place.postern, "-q", "encrypt", "--pem-path", public, image, encrypted)
    ecl = common.signer(place)
    place.run(place.postern, "-q", "sign", signed)
    start = f"{place.postern} exec --userns --no-share"
    commands = {"plain": f"{start} {image} true", "encrypted": f"{start} --pem-path {private} {encrypted} true",
                "sealed": f"{start} {signed} true", "listed": f"{start} {signed} true"}
    times = common.medians(place, commands, options, prepare=lambda name: place.configure(ecl=ecl if name == "listed" else common.NO_LIST))
    place.configure()
    table.add("postern, encrypted image (PEM key)", times["encrypted"], "ms", "+", times["plain"], "plain", 15)
    table.add("postern, sealed image", times["sealed"], "ms", "+", times["plain"], "plain")
    table.add("postern, sealed and signed (PGP), active list", times["listed"], "ms", "+", times["sealed"], "no list", 40)

    for case, command, target in (("plain image", commands["plain"], None), ("encrypted image (PEM key)", commands["encrypted"], 40)):
        used = memory_of(place, command)
        table.add(f"memory of a start, {case}", sum(used.values()), "MiB", against="sum of the peaks of all processes", target=target,
                  processes=", ".join(f"{name} {mib:.1f}" for name, mib in used.items()))


def memory_of(place, command):
    """Program -> peak resident MiB, summed over its processes: they do not all live at once, so an upper bound."""
    place.run(*command.split())
    with accounting.exits() as ended:
        place.run(*command.split())
    peaks = {}  # of a process and its threads, which have one memory
    for task in ended:
        if task.uid == place.user.pw_uid and task.name not in ("env", "setpriv"):
            key = (task.name, task.parent)
            peaks[key] = max(peaks.get(key, 0), task.peak_kib / 1024)
    used = {}
    for (name, _), peak in peaks.items():
        used[name] = used.get(name, 0) + peak
    return used


def main():
    common.worlds.enter_namespace()
    options = common.arguments(__doc__)
    with common.installed(options) as place:
        table = common.Table("Start-up, user-namespace mode: to the end of `true`")
        image = place.image()
        compare_with_peers(place, options, table, image)
        compare_layers(place, options, table, image)
    table.write(options.json)


if __name__ == "__main__":
    main()
