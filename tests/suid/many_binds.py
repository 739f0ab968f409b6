#!/usr/bin/env python3
"""A bind for each of 1,000 files, as cwltool asks for, in both modes; and what is said where there are too many. Prints TAP.

    many_binds.py BUILD-DIRECTORY
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bench"), str(HERE.parent / "counts"), str(HERE.parent / "lib")]
import common  # noqa: E402
import counts  # noqa: E402
import tap  # noqa: E402
from tap import check  # noqa: E402

MODES = {"setuid mode": [], "user-namespace mode": ["--userns"]}
MOST = 1200  # protocol/limits.h
SOFT, HARD = 1024, 4096  # what Debian's logins have, and less


class Cases:
    def __init__(self, place):
        self.place, self.inputs, self.image = place, place.home / "inputs", place.home / "image.sif"
        place.world.configure()
        place.run(place.postern, "-q", "build", self.image, place.rootfs)
        self.inputs.mkdir()
        for number in range(MOST + 100):
            (self.inputs / str(number)).write_text(f"{number}\n")

    def binds(self, count):
        return [word for i in range(count) for word in ("-B", f"{self.inputs}/{i}:/var/lib/cwl/stg{i:05d}-of-a-step/an_input_file.fastq:ro")]

    def command(self, count, *words, limits=(SOFT, HARD), options=()):
        return ["prlimit", f"--nofile={limits[0]}:{limits[1]}", *self.place.command(
            [self.place.postern, "exec", *options, *self.binds(count), self.image, *words])]

    def start(self, *arguments, **keywords):
        return subprocess.run(self.command(*arguments, **keywords), capture_output=True, text=True, cwd=self.place.home,
                              stdin=subprocess.DEVNULL, timeout=120)

    def thousand_files_are_where_they_were_asked_for(self):
        """1,000 files are where they were asked for, and the payload has the limits of its caller"""
        script = "ulimit -n; cat /var/lib/cwl/*/an_input_file.fastq; ls /var/lib/cwl | wc -l; ls /proc/self/fd | wc -l"
        wanted = f"{SOFT}\n" + "".join(f"{i}\n" for i in range(1000)) + "1000\n4\n"
        for mode, options in MODES.items():
            for count, expected in ((1000, wanted), (0, None)):
                done = self.start(count, "sh", "-c", script if count else "ulimit -n", options=options)
                check(done.returncode == 0 and done.stdout == (expected or f"{SOFT}\n"),
                      f"{mode}, {count}: exit {done.returncode} {done.stdout[-200:]} {done.stderr[-500:]}")

    def too_many_are_refused_with_the_number(self):
        """more than fit a start, or the limit on open files, are refused with the number and a cure"""
        for mode, options in MODES.items():
            done = self.start(MOST + 50, "true", options=options)
            check(done.returncode == 255 and f"more than {MOST} mounts and files; bind a directory" in done.stderr, f"{mode}: {done.stderr}")
            done = self.start(1100, "true", limits=(256, 512), options=options)
            check(done.returncode == 255 and "the limit is 512; raise the hard limit (ulimit -Hn)" in done.stderr, f"{mode}: {done.stderr}")
            done = self.start(300, "sh", "-c", "ulimit -n", limits=(64, 512), options=options)
            check(done.returncode == 0 and done.stdout == "64\n", f"{mode}, the twin that fits: {done.stdout} {done.stderr}")

    def starts_at_once_wait_for_each_other(self):
        """starts at once, which have more descriptors on their way than one may have open, all run"""
        for mode, options in MODES.items():
            starts = [subprocess.Popen(self.command(300, "true", limits=(512, 512), options=options), cwd=self.place.home,
                                       stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(12)]
            ends = [(start.communicate()[1], start.returncode) for start in starts]
            check(all(code == 0 for _, code in ends), f"{mode}: {[words for words, code in ends if code][:3]}")


def main():
    common.worlds.enter_namespace()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    options = parser.parse_args()
    options.work = pathlib.Path(f"/var/tmp/postern-binds.{os.getpid()}")
    options.rootfs = options.work / "rootfs"
    counts.make_rootfs(options.rootfs)
    try:
        with common.installed(options) as place:
            cases = Cases(place)
            return tap.run([cases.thousand_files_are_where_they_were_asked_for, cases.too_many_are_refused_with_the_number,
                            cases.starts_at_once_wait_for_each_other])
    finally:
        shutil.rmtree(options.work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
