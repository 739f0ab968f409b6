#!/usr/bin/env python3
"""64 and 256 starts of one image at once: time, processes, servers, loop devices, memory; against peers.

    simultaneous.py --build DIRECTORY --rootfs DIRECTORY --work DIRECTORY [--rounds N] [--json FILE]

The time is taken in runs in which nothing else looks on; a further run counts. Memory is the peak of a control group
that all starts are in, so it holds page cache and kernel objects as well as programs.
"""
import contextlib
import json
import os
import subprocess
import threading
import time

import accounting
import common


def crun_bundle(place):
    """A bundle for rootless crun: the directory as root, no namespace that needs more than the caller has."""
    bundle = place.home / "bundle"
    bundle.mkdir()
    uid, gid = place.user.pw_uid, place.user.pw_gid
    config = {
        "ociVersion": "1.0.0", "root": {"path": str(place.rootfs), "readonly": True},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/", "noNewPrivileges": True},
        "mounts": [{"destination": path, "type": "bind", "source": path, "options": ["rbind"]} for path in ("/proc", "/sys", "/dev", "/tmp")],
        "linux": {"namespaces": [{"type": "user"}, {"type": "mount"}],
                  "uidMappings": [{"containerID": 0, "hostID": uid, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": gid, "size": 1}]},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    for path in (bundle, bundle / "config.json"):
        os.chown(path, uid, gid)
    return bundle


ROUNDS = 3


def commands_of(place, image):
    """Name -> (command of a shell, in which $i is the number of the start; the counts that it is tried with).

    Peers that need seconds are not asked for 256.
    """
    squashfs = place.home / "rootfs.sqfs"
    common.squashfs_of(image, squashfs)
    binds = "--dev-bind /dev /dev --bind /proc /proc --bind /sys /sys --bind /tmp /tmp"
    podman = "podman --log-level error --cgroup-manager cgroupfs run --rm --network none --cgroups disabled --security-opt seccomp=unconfined"
    found = {
        "bwrap, directory": (f"bwrap --unshare-user --bind {place.rootfs} / {binds} /bin/true", (64, 256)),
        "postern, image": (f"{place.postern} exec --userns {image} true", (64, 256)),
        "postern, image, suid mode": (f"{place.postern} exec {image} true", (64, 256)),
        "ch-run, squashfs": (f"ch-run {squashfs} -- /bin/true", (64,)),
        "crun, directory": (f"crun --root {place.home}/crun --cgroup-manager disabled run --bundle {crun_bundle(place)} bench-$i", (64,)),
        "podman, directory": (f"{podman} --rootfs {place.rootfs}:O /bin/true", (64,)),
    }
    for name in list(found):
        done = subprocess.run(place.command(["sh", "-c", found[name][0].replace("$i", "0")]), stdin=subprocess.DEVNULL, capture_output=True,
                              cwd=place.home, text=True, timeout=60)
        if done.returncode:
            print(f"  left out, does not run here: {name} ({(done.stderr.strip().splitlines() or ['no message'])[-1][:150]})")
            del found[name]
    return found


def at_once(place, command, count, failed=None, **options):
    """Seconds for `count` starts at once. `failed` collects the words of those that failed."""
    script = f"for i in $(seq {count}); do ({command} || echo failed) & done; wait"
    begin = time.perf_counter()
    done = subprocess.run(place.command(["sh", "-c", script]), stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=place.home, **options)
    taken = time.perf_counter() - begin
    if failed is not None and "failed" in done.stdout:
        failed += (done.stderr.strip().splitlines() or ["no message"])[:done.stdout.count("failed")]
    return taken


def loop_devices():
    return len([name for name in os.listdir("/sys/block") if os.path.exists(f"/sys/block/{name}/loop/backing_file")])


@contextlib.contextmanager
def most_loop_devices():
    """A list whose last element becomes the greatest number of loop devices bound meanwhile; looking is cheap."""
    before, most, done = loop_devices(), [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            most.append(max(most[-1], loop_devices() - before))
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def count_what_lives(place, command, count):
    with accounting.Group(f"postern-bench-{os.getpid()}") as group, accounting.exits() as ended, most_loop_devices() as loops:
        at_once(place, command, count, preexec_fn=group.join)
        memory = group.peak_mib()
        time.sleep(0.3)  # a server ends after its last mount
    ended = [task for task in ended if task.uid == place.user.pw_uid]
    tasks = [task for task in ended if task.pid == task.process]
    # A server has threads; a look at an image's account files (suid mode) is the same program without.
    serving = {task.process for task in ended if task.name == "postern-squashf" and task.pid != task.process}
    servers = [task for task in tasks if task.pid in serving]
    return {"processes": accounting.most_at_once(tasks), "servers": accounting.most_at_once(servers), "loop_devices": loops[-1],
            "memory_mib": memory and round(memory, 1)}


def main():
    common.worlds.enter_namespace()
    options = common.arguments(__doc__)
    with common.installed(options) as place:
        table = common.Table("Simultaneous starts of one image")
        place.configure("never")  # suid mode: through the server that is shared
        found = commands_of(place, place.image())
        for count in (64, 256):
            failed = {name: [] for name in found}
            actions = {name: lambda name=name, command=command: at_once(place, command, count, failed[name])
                       for name, (command, counts) in found.items() if count in counts}
            times = common.by_turns(actions, ROUNDS)
            for name, value in times.items():
                ours = name.startswith("postern")
                counted = count_what_lives(place, found[name][0], count)
                table.add(f"{count} at once: {name}", 1000 * value, "ms", "x" if ours else "", 1000 * times["bwrap, directory"],
                          "bwrap, directory" if ours else "", 1.5 if ours else None, counted=counted)
                if ours:
                    table.add(f"{count} at once: servers, {name}", counted["servers"], "", target=1)
                if ours or failed[name]:
                    table.add(f"{count} at once: failed starts, {name}", len(failed[name]), "", target=0, words=sorted(set(failed[name]))[:3])
    table.write(options.json)


if __name__ == "__main__":
    main()
