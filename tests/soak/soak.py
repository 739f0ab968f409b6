#!/usr/bin/env python3
"""A soak: soak.py MINUTES. Starts, kills, changes and cold reads until the time is up, and then counts.

It begins with SOAK_AT_ONCE starts of every kind at the same instant, of which a random third is killed by SIGKILL; with
0 minutes that is all, and what is printed is TAP.

Run as root (a user is made and removed; page caches are dropped). The programs are those of POSTERN_BUILD.
What counts as a fault: LEAK, anything of the user's that is there when nothing runs (processes, sockets, files,
mounts, loop devices); HANG, a command that does not end in its time; LOST, an image that after a command of
ours, killed or not, does not read as before or as after, or a start that showed other bytes than the image's.
The last line is "starts N, kills N, changes N, cold reads N, leaks N, hangs N, lost N"; the exit status is 1
if any of the last three is not 0.
"""
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import harness  # noqa: E402

harness.PARTS.update({"libexec/postern/postern-crypt": "frontend/crypt/postern-crypt",
                      "libexec/postern/postern-keys": "frontend/keys/postern-keys",
                      "libexec/postern/postern-build": "frontend/imagebuild/postern-build"})
MINUTES = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
SEED = int(os.environ.get("SOAK_SEED", time.time_ns() % 1_000_000))
PATIENCE = 120  # seconds for any one command; a machine under load is slow, a hang is for ever
AT_ONCE = int(os.environ.get("SOAK_AT_ONCE", "500"))
CROWD = 8  # starts that run side by side in the ordinary rounds


def say(text):
    print(text if MINUTES else f"# {text}", flush=True)


class Counts:
    def __init__(self):
        self.lock = threading.Lock()
        self.values = dict.fromkeys(("starts", "kills", "changes", "cold reads", "leaks", "hangs", "lost"), 0)

    def add(self, name, number=1, why=None):
        with self.lock:
            self.values[name] += number
        if why is not None:
            say(f"{name.upper()}: {why}")

    def __str__(self):
        return ", ".join(f"{name} {value}" for name, value in self.values.items())


class Soak:
    def __init__(self):
        self.bench = harness.Bench()
        self.random = random.Random(SEED)
        self.counts = Counts()
        self.end = time.monotonic() + MINUTES * 60
        self.make_images()

    def make_images(self):
        b = self.bench
        self.blob = self.random.randbytes(8 << 20)
        root = b.rootfs(files={"marker": "soak\n"})
        with open(root + "/blob", "wb") as file:
            file.write(self.blob)
        shutil.copy(root + "/blob", b.top + "/blob")
        squashfs = b.squashfs(root)
        self.plain = b.sif(squashfs, "plain.sif")
        other = b.rootfs("other", files={"marker": "other\n"})
        self.other = b.sif(b.squashfs(other), "other.sif")
        self.passphrase = b.work + "/passphrase"
        with open(self.passphrase, "w") as file:
            file.write("soak\n")
        os.chown(self.passphrase, b.user.uid, b.user.gid)
        os.chmod(self.passphrase, 0o600)
        key = b.work + "/key.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ED25519", "-out", key], check=True)
        os.chown(key, b.user.uid, b.user.gid)
        self.key = key
        self.sealed = b.work + "/sealed.sif"
        self.encrypted = b.work + "/encrypted.sif"
        self.replaced = b.work + "/replaced.sif"
        self.changed = b.work + "/changed.sif"
        for path in (self.sealed, self.replaced, self.changed):
            shutil.copy(self.plain, path)
            os.chown(path, b.user.uid, b.user.gid)
        b.run("sign", "--key", key, self.sealed, timeout=PATIENCE).ok()
        b.run("encrypt", "--passphrase-file", self.passphrase, self.other, self.encrypted, timeout=PATIENCE).ok()
        self.rootfs = root

    # ---------------------------------------------------------------------------------- commands

    def start(self):
        """Arguments of some start that prints its image's marker, and what that is."""
        options = self.random.choice(((), ("--pid",), ("--containall",), ("--contain", "--pid"), ("--writable-tmpfs",), ("--cleanenv",), ("-f",)))
        images = [(self.plain, "soak\n", ()), (self.sealed, "soak\n", ()), (self.rootfs, "soak\n", ())]
        if self.random.random() < 0.05:  # each takes 256 MiB to unlock
            images = [(self.encrypted, "other\n", ("--passphrase-file", self.passphrase))]
        image, marker, key = self.random.choice(images)
        return ("exec", *options, *key, image, "cat", "/marker"), marker

    def start_of_each_kind(self, number):
        """Arguments and marker of start `number` of a crowd: every kind comes as often as the others, but for keys."""
        key = ("--passphrase-file", self.passphrase)
        kinds = [(("exec", self.plain), "soak\n"), (("exec", self.sealed), "soak\n"), (("exec", self.other), "other\n"),
                 (("exec", self.rootfs), "soak\n"), (("exec", "--pid", self.plain), "soak\n"), (("exec", "--containall", self.other), "other\n"),
                 (("exec", "--net", "--network", "none", self.plain), "soak\n"), (("exec", "instance://" + self.instance), "soak\n"),
                 (("instance", "start", self.plain, f"crowd{number}"), None)]
        if number % 40 == 0:  # each takes 256 MiB and a second of a processor to unlock
            return ("exec", *key, self.encrypted, "cat", "/marker"), "other\n"
        arguments, marker = kinds[number % len(kinds)]
        return (*arguments, *(("cat", "/marker") if marker else ())), marker

    def finish(self, process, arguments, marker=None):
        """Waits. Returns what it printed, None if it was killed or is a fault that has been counted."""
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.counts.add("hangs", why=f"{arguments} did not end in {PATIENCE} s")
            process.kill()
            process.communicate()
            return None
        if process.returncode < 0:
            return None
        if marker is not None and (process.returncode != 0 or out.decode(errors="replace") != marker):
            self.counts.add("lost", why=f"{arguments}: exit {process.returncode}, {out[:200]!r}, {err[:400]!r}")
        return out

    def settle(self):
        """Nothing is left when nothing runs."""
        deadline = time.monotonic() + PATIENCE
        while leaks := self.bench.leaks():
            if time.monotonic() > deadline:
                self.counts.add("leaks", why=str(leaks))
                for pid in self.bench.processes():
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)

    # ------------------------------------------------------------------------------------ rounds

    def crowd(self, number, kill):
        """Starts side by side; `kill`: the share of them that is killed at some instant."""
        running = []
        for _ in range(number):
            arguments, marker = self.start()
            running.append((self.bench.popen(*arguments), arguments, marker))
        self.counts.add("starts", number)
        for process, arguments, marker in running:
            if self.random.random() < kill:
                time.sleep(self.random.random() * 0.05)
                process.send_signal(self.random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
                self.counts.add("kills")
                self.finish(process, arguments)
            else:
                self.finish(process, arguments, marker)
        self.settle()

    def calm_crowd(self):
        self.crowd(CROWD, 0.0)

    def killed_crowd(self):
        self.crowd(CROWD, 0.6)

    def all_at_once(self):
        """Starts of every kind at the same instant; a third is killed while the others start."""
        self.instance = "joined"
        self.bench.run("instance", "start", self.plain, self.instance, timeout=PATIENCE).ok()
        running = []
        for number in range(AT_ONCE):
            arguments, marker = self.start_of_each_kind(number)
            running.append((self.bench.popen(*arguments), arguments, marker))
        self.counts.add("starts", AT_ONCE)
        killed = set(self.random.sample(range(AT_ONCE), AT_ONCE // 3))
        for number in sorted(killed, key=lambda _: self.random.random()):
            time.sleep(self.random.random() * 0.01)
            running[number][0].kill()
            self.counts.add("kills")
        for number, (process, arguments, marker) in enumerate(running):
            self.finish(process, arguments, None if number in killed else marker)
            if marker is None and number not in killed and process.returncode != 0:
                self.counts.add("lost", why=f"{arguments}: exit {process.returncode}")
        # What was killed may have left an instance that runs: it was started, and can be stopped.
        self.bench.run("instance", "stop", "--all", timeout=PATIENCE)
        self.settle()

    def cold_reads(self):
        """Random places of a file, read inside while the host's page cache is dropped under it."""
        image = self.random.choice((self.plain, self.sealed))
        script = "i=0; while [ $i -lt 40 ]; do dd if=/blob bs=4096 skip=$((($i * 797 + %d) %% 2048)) count=1 2>/dev/null; i=$((i+1)); done"
        begin = self.random.randrange(2048)
        arguments = ("exec", "--pid", image, "sh", "-c", script % begin)
        process = self.bench.popen(*arguments)
        self.counts.add("starts")
        stop = threading.Event()

        def drop():
            while not stop.wait(0.05):
                with open("/proc/sys/vm/drop_caches", "w") as file:
                    file.write("3")
        dropper = threading.Thread(target=drop)
        dropper.start()
        out = self.finish(process, arguments)
        stop.set()
        dropper.join()
        wanted = b"".join(self.blob[at * 4096:at * 4096 + 4096] for at in ((i * 797 + begin) % 2048 for i in range(40)))
        self.counts.add("cold reads", 40)
        if out is not None and hashlib.sha256(out).digest() != hashlib.sha256(wanted).digest():
            self.counts.add("lost", why=f"{image}: cold reads gave other bytes ({len(out)} of {len(wanted)})")
        self.settle()

    def replaced_under_load(self):
        """The image is replaced by rename while starts run: each shows the one or the other."""
        running = []
        for i in range(CROWD):
            arguments = ("exec", self.replaced, "cat", "/marker")
            running.append((self.bench.popen(*arguments), arguments))
            if i % 2:
                temporary = self.replaced + ".new"
                shutil.copy(self.random.choice((self.plain, self.other)), temporary)
                os.chown(temporary, self.bench.user.uid, self.bench.user.gid)
                os.replace(temporary, self.replaced)
        self.counts.add("starts", CROWD)
        for process, arguments in running:
            out = self.finish(process, arguments)
            if out is not None and out not in (b"soak\n", b"other\n"):
                self.counts.add("lost", why=f"{arguments}: {process.returncode}, {out!r}")
        self.settle()

    def rewritten_under_load(self):
        """Bytes of the image change in place under a start: it may fail, and neither hangs nor leaves anything."""
        path = self.bench.work + "/rewritten.sif"
        shutil.copy(self.plain, path)
        os.chown(path, self.bench.user.uid, self.bench.user.gid)
        arguments = ("exec", path, "busybox", "md5sum", "/blob")
        process = self.bench.popen(*arguments)
        self.counts.add("starts")
        with open(path, "r+b") as file:
            for _ in range(200):
                file.seek(self.random.randrange(40000, os.path.getsize(path)))
                file.write(self.random.randbytes(64))
                file.flush()
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        self.finish(process, arguments)
        os.unlink(path)
        self.settle()

    def change(self):
        """A command that changes an image is killed at some instant: the image still starts, and can be changed."""
        note = self.passphrase
        command = self.random.choice((("sign", "--key", self.key, self.changed), ("seal", self.changed),
                                      ("sif", "add", "--datatype", "7", "--filename", "note", self.changed, note),
                                      ("sif", "del", "2", self.changed)))
        process = self.bench.popen(*command)
        self.counts.add("changes")
        if self.random.random() < 0.7:
            time.sleep(self.random.random() * 0.2)
            process.kill()
            self.counts.add("kills")
        self.finish(process, command)
        listed = self.bench.run("sif", "list", self.changed, timeout=PATIENCE)
        shown = self.bench.run("exec", self.changed, "cat", "/marker", timeout=PATIENCE)
        self.counts.add("starts")
        if listed.code != 0 or shown.code != 0 or shown.out != "soak\n":
            self.counts.add("lost", why=f"after {command}: {listed!r} {shown!r}")
        if listed.out.count("\n") > 40 or listed.code != 0:
            shutil.copy(self.plain, self.changed)
            os.chown(self.changed, self.bench.user.uid, self.bench.user.gid)
        self.settle()

    def full_disk(self):
        """A build onto a file system that has less and less room: the old image stays until the new one is whole."""
        place = self.bench.make_directory(f"full-{self.counts.values['changes']}")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.random.randrange(64, 12000)}k,mode=777", "full", place], check=True)
        try:
            target = place + "/out.sif"
            command = ("build", target, self.rootfs)
            result = self.bench.run(*command, timeout=PATIENCE)
            self.counts.add("changes")
            names = os.listdir(place)
            if result.code == 0:
                if self.bench.run("sif", "list", target, timeout=PATIENCE).code != 0:
                    self.counts.add("lost", why=f"{command}: success, and no image")
            elif names:
                self.counts.add("leaks", why=f"{command} failed and left {names}")
        finally:
            subprocess.run(["umount", place], check=True)
            os.rmdir(place)
        self.settle()

    def run(self):
        say(f"soak of {MINUTES:g} minutes, SOAK_SEED={SEED}")
        rounds = (self.calm_crowd, self.killed_crowd, self.killed_crowd, self.cold_reads, self.replaced_under_load,
                  self.rewritten_under_load, self.change, self.change, self.full_disk)
        self.all_at_once()
        said = time.monotonic()
        while time.monotonic() < self.end:
            if self.random.random() < 0.01:
                self.all_at_once()
            else:
                self.random.choice(rounds)()
            if time.monotonic() - said > 60:
                said = time.monotonic()
                say(self.counts)
        bad = sum(self.counts.values[name] for name in ("leaks", "hangs", "lost")) or self.counts.values["starts"] == 0
        print(self.counts if MINUTES else f"{'not ok' if bad else 'ok'} 1 - {self.counts}\n1..1", flush=True)
        return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(Soak().run())
