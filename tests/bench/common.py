"""What the benchmarks share: an installation, a user, images, medians of commands that take turns, one table.

Everything runs in a mount namespace of its own (tests/suid/world.py): the configured prefix is covered by a
tmpfs there, so that the helper is really setuid, the site's files are really the site's, and nothing of the
host is touched. Every command that is timed runs as a user made for the run.
"""
import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import pwd
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "suid"), str(TESTS / "lib")]
import users  # noqa: E402
import world as worlds  # noqa: E402

# Build tree -> libexec directory, with the mode that an installation gives them.
PROGRAMS = {
    "frontend/accounts/postern-accounts": 0o755, "frontend/init/postern-init": 0o755, "frontend/squashfs/postern-squashfs": 0o755,
    "frontend/squashfs/postern-squashfs-plain": 0o755, "frontend/imagebuild/postern-build": 0o755,
    "frontend/keys/postern-keys": 0o755, "frontend/crypt/postern-crypt": 0o755, "frontend/inspect/postern-inspect": 0o755,
}
NO_LIST = "activated = false\n"


# --- the installation and its user -----------------------------------------------------------------

@dataclasses.dataclass
class Place:
    """Where a benchmark works: what is installed, as whom it runs, and where its files are."""
    world: object
    user: pwd.struct_passwd
    home: pathlib.Path
    postern: str
    build: pathlib.Path
    rootfs: pathlib.Path
    work: pathlib.Path

    def image(self, name="rootfs.sif"):
        """The user's own copy of the image of the root file system."""
        target = self.home / name
        shutil.copy(self.work / "rootfs.sif", target)
        os.chown(target, self.user.pw_uid, self.user.pw_gid)
        return target

    def tool(self, path):
        """A program of the build tree, where the user can execute it."""
        target = self.home / pathlib.Path(path).name
        if not target.exists():
            shutil.copy(self.build / path, target)
        return target

    def command(self, words):
        return ["setpriv", "--reuid", self.user.pw_name, "--regid", str(self.user.pw_gid), "--init-groups", "env", "-i",
                f"HOME={self.home}", f"USER={self.user.pw_name}", f"XDG_RUNTIME_DIR={self.home}", "LANG=C",
                "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", *map(str, words)]

    def run(self, *words, **options):
        """Runs to the end as the user; an error ends the benchmark with its words."""
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "cwd": self.home, **options}
        done = subprocess.run(self.command(words), **options)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *words, **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": self.home, **options}
        return subprocess.Popen(self.command(words), **options)

    def works(self, command):
        try:
            return subprocess.run(self.command(command.split()), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, cwd=self.home, timeout=30).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    @contextlib.contextmanager
    def kept(self, *options):
        """Another start of ours holds what it uses while the body runs."""
        process = self.start(self.postern, "exec", *options, "sh", "-c", "echo up; exec sleep 600", stdout=subprocess.PIPE, text=True)
        try:
            if process.stdout.readline() != "up\n":
                sys.exit(f"{options}: the start that was to hold the image did not come up")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            process.stdout.close()

    def configure(self, kernel_mount="any", ecl=NO_LIST):
        self.world.configure(site=worlds.SITE.replace('squashfs = "any"', f'squashfs = "{kernel_mount}"'), ecl=ecl)


def arguments(text):
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--build", "--rootfs", "--work"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=12)
    return parser.parse_args()


@contextlib.contextmanager
def installed(options):
    """A Place; at its end nothing is left of it. A script that uses it calls worlds.enter_namespace() first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and cleans up, as after Ctrl-C
    build, name = options.build.resolve(), f"pbench{os.getpid()}"
    installed_paths = json.load(open(build / "meson-info/intro-installed.json"))
    libexec = os.path.dirname(installed_paths[str(build / "helper/postern-helper")])
    setting = {entry["name"]: entry["value"] for entry in json.load(open(build / "meson-info/intro-buildoptions.json"))}
    confdir = os.path.join(setting["prefix"], setting["sysconfdir"], "postern")
    world = worlds.World(str(build / "helper/postern-helper"), str(build / "policy/judge/postern-judge"), "/bin/true", libexec, confdir)
    # Beside the images, not on the host's /var/tmp: what is measured should lie on one file system.
    home = options.work.resolve() / name
    subprocess.run(["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True, stderr=subprocess.DEVNULL)
    try:
        user = pwd.getpwnam(name)
        home.mkdir()
        os.chown(home, user.pw_uid, user.pw_gid)
        for source, mode in PROGRAMS.items():
            world.install(build / source, os.path.basename(source), mode)
        shutil.copy(build / "frontend/cli/postern", f"{world.work}/postern")
        yield Place(world, user, home, f"{world.work}/postern", build, options.rootfs.resolve(), options.work.resolve())
    finally:
        users.end_processes(user.pw_uid)
        subprocess.run(["userdel", "--force", name], stderr=subprocess.DEVNULL)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(f"/var/tmp/{name}.ch", ignore_errors=True)  # ch-run's
        world.close()


# --- images ------------------------------------------------------------------------------------------

def partition(sif):
    """Place of the descriptor, offset and size of the primary partition (SIF: 585-byte descriptors)."""
    with open(sif, "rb") as file:
        data = file.read(65536)
    total, table = struct.unpack_from("<qq", data, 88)
    for slot in range(total):
        at = table + 585 * slot
        if data[at + 4] and struct.unpack_from("<i", data, at)[0] == 0x4004 and struct.unpack_from("<i", data, at + 205)[0] == 2:
            return at, *struct.unpack_from("<qq", data, at + 17)
    raise SystemExit(f"{sif}: no primary partition")


def squashfs_of(sif, target):
    _, offset, size = partition(sif)
    with open(sif, "rb") as source, open(target, "wb") as out:
        source.seek(offset)
        out.write(source.read(size))


def grown(sif, target, size):
    """A copy whose root partition, its last object, ends in a hole so that it has `size` bytes."""
    subprocess.run(["cp", "--sparse=always", sif, target], check=True)
    at, offset, old = partition(target)
    if size < old or os.path.getsize(target) != offset + old:
        sys.exit(f"{sif}: cannot grow from {old} to {size} bytes")
    with open(target, "r+b") as file:
        file.seek(112)
        start = struct.unpack("<q", file.read(8))[0]
        file.write(struct.pack("<q", offset + size - start))
        file.seek(at + 25)
        file.write(struct.pack("<qq", size, size))
        file.truncate(offset + size)


def rsa_key(place):
    """A pair for --pem-path: (private, public)."""
    private, public = place.home / "key.pem", place.home / "public.pem"
    place.run("openssl", "genrsa", "-traditional", "-out", private, "2048")
    place.run("openssl", "rsa", "-in", private, "-RSAPublicKey_out", "-out", public)
    return private, public


def signer(place):
    """A PGP key of the user's that the site trusts; returns an execution control list that asks for it."""
    place.run(place.postern, "key", "newpair", "--name", "Bench", "--email", "bench@example.org", "--comment", "", "--password", "")
    listed = place.run("gpg", "--homedir", next(place.home.glob(".*/keys"), place.home / ".postern/keys"), "--with-colons", "--list-keys")
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
    place.run(place.postern, "key", "export", place.home / "bench.asc")
    subprocess.run([place.postern, "-q", "key", "import", "--global", place.home / "bench.asc"], check=True, stdout=subprocess.DEVNULL)
    return f'activated = true\n[[execgroup]]\ntagname = "bench"\nmode = "whitelist"\ndirpath = ""\nbinding = "sealed"\nkeyfp = ["{fingerprint}"]\n'


# --- times -------------------------------------------------------------------------------------------

def medians(place, commands, options, prepare=None, as_root=()):
    """Name -> median in milliseconds. The commands take turns: each runs some times in every round.

    `prepare(name)` is called before a command's turn; commands named in `as_root` run as root.
    """
    times = {name: [] for name in commands}
    out = place.home / "hyperfine.json"
    for _ in range(options.rounds):
        for name, command in commands.items():
            if prepare:
                prepare(name)
            words = ["hyperfine", "-N", "--warmup", "2", "--runs", str(options.runs), "--export-json", str(out), command]
            done = subprocess.run(words if name in as_root else place.command(words), capture_output=True, text=True, cwd=place.home)
            if done.returncode:
                sys.exit(f"{command}\n{done.stderr or done.stdout}")
            times[name] += json.loads(out.read_text())["results"][0]["times"]
            out.unlink()
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def seconds(function, *words, **options):
    begin = time.perf_counter()
    function(*words, **options)
    return time.perf_counter() - begin


def by_turns(actions, rounds):
    """Name -> median seconds of actions (functions that return the seconds that count), taking turns."""
    times = collections.defaultdict(list)
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(action())
    return {name: statistics.median(values) for name, values in times.items()}


# --- the table ---------------------------------------------------------------------------------------

class Table:
    """Rows that are printed as they come and written as JSON at the end."""

    def __init__(self, title):
        self.title, self.rows, self.machine = title, [], machine()
        print(f"\n{title}", flush=True)

    def add(self, case, value, unit, relation="", base=None, against="", target=None, at_least=False, **more):
        """`relation`: "x" value / base, "+" value - base, "" the value itself; it is held against `target`."""
        reached = {"x": lambda: value / base, "+": lambda: value - base, "": lambda: value}[relation]()
        met = None if target is None else reached >= target if at_least else reached <= target
        row = {"case": case, "value": round(value, 3), "unit": unit, "relation": relation, "base": base and round(base, 3), "against": against,
               "reached": round(reached, 3), "target": target, "at_least": at_least, "met": met, **more}
        self.rows.append(row)
        print(f"  {case:<82}{shown(row['value'], unit):>12}  {comparison(row):<46}{wanted(row):>10}  {verdict(row)}".rstrip(), flush=True)
        if any(more.values()):
            print("      " + "; ".join(f"{name.replace('_', ' ')}: {detail(value)}" for name, value in more.items() if value), flush=True)

    def write(self, path):
        if path:
            path.write_text(json.dumps({"title": self.title, "machine": self.machine, "rows": self.rows}, indent=1) + "\n")
        missed = [row["case"] for row in self.rows if row["met"] is False]
        if missed:
            print(f"  missed: {'; '.join(missed)}")


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), os.uname().machine)
    return f"{model}, {os.cpu_count()} processors, Linux {os.uname().release}, load {os.getloadavg()[0]:.1f} at the start"


def detail(value):
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {detail(inner)}" for name, inner in value.items() if inner is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def shown(value, unit):
    digits = 0 if unit == "" or abs(value) >= 100 else 1 if abs(value) >= 1 else 2
    return f"{value:,.{digits}f} {unit}".strip()


def comparison(row):
    if row["relation"] == "x":
        return f"{row['reached']:.2f} x {row['against']}"
    if row["relation"] == "+":
        return f"{row['reached']:+.1f} {row['unit']} over {row['against']}"
    return row["against"]


def wanted(row):
    if row["target"] is None:
        return ""
    return f"{'>=' if row['at_least'] else '<='} {'+' if row['relation'] == '+' else ''}{row['target']:g}"


def verdict(row):
    return {None: "", True: "met", False: "MISSED"}[row["met"]]
