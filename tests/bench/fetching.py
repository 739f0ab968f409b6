#!/usr/bin/env python3
"""From a registry to an image file: `pull`, against skopeo copy, umoci unpack and mksquashfs on the same image.

    fetching.py --build DIRECTORY --rootfs DIRECTORY --work DIRECTORY [--rounds N] [--json FILE]

The registry is Debian's docker-registry on loopback; the image is the root file system in three layers of gzip. Every
round fetches and converts everything: caches are emptied before.
"""
import os
import shutil
import subprocess
import sys

import common

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import registry_world  # noqa: E402


def image(options):
    """Three layers of the root file system: /usr/lib, the rest of /usr, everything else."""
    rootfs = str(options.rootfs)
    layers = []
    for words in (["usr/lib"], ["--exclude=./usr/lib", "./usr"], ["--exclude=./usr", "."]):
        layers.append(subprocess.run(["tar", "-C", rootfs, "--numeric-owner", "-cf", "-", *words], check=True, capture_output=True).stdout)
    return registry_world.Image(layers)


def main():
    common.worlds.enter_namespace()
    options = common.arguments(__doc__)
    table = common.Table("Fetching: an image of Debian in three layers")
    with common.installed(options) as place:
        layout, top = place.home / "layout", str(place.home)
        image(options).layout(str(layout))
        registry = registry_world.DockerRegistry(top, "registry")
        registry.put(f"oci:{layout}:latest", "debian:1")
        name = f"docker://{registry.host}/debian:1"
        clean = place.home / "clean"
        clean.mkdir(mode=0o777)

        def empty():
            for path in clean.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

        def ours():
            empty()
            return common.seconds(place.run, "env", f"POSTERN_CACHEDIR={clean}/cache", place.postern, "-q", "pull", clean / "out.sif", name)

        def copied():
            place.run("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", name, f"oci:{clean}/oci:1")
            place.run("umoci", "unpack", "--rootless", "--image", f"{clean}/oci:1", clean / "bundle")
            place.run("mksquashfs", clean / "bundle/rootfs", clean / "out.sqfs", "-comp", "zstd", "-quiet", "-no-progress")

        def peers():
            empty()
            return common.seconds(copied)

        times = common.by_turns({"ours": ours, "peers": peers}, options.rounds)
        table.add("skopeo copy, umoci unpack, mksquashfs", times["peers"], "s")
        table.add("pull", times["ours"], "s", "x", times["peers"], "the three of them", 0.5)
        empty()
        place.run("env", f"POSTERN_CACHEDIR={clean}/cache", place.postern, "-q", "pull", clean / "first.sif", name)
        again = common.seconds(place.run, "env", f"POSTERN_CACHEDIR={clean}/cache", place.postern, "-q", "pull", clean / "second.sif", name)
        table.add("pull, converted before", again, "s", "x", times["ours"], "the first pull")
        registry.stop()
    table.write(options.json)


if __name__ == "__main__":
    main()
