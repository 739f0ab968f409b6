#!/usr/bin/env python3
"""The Debian packages as a site meets them: installed, used, configured, upgraded, removed and purged in a Debian of its own.

Usage: try_deb.py FOLDER-WITH-PACKAGES [NAME-OF-A-CASE ...]
FOLDER is what build-deb.sh made. As root. The cases follow one another in one root file system below /var/tmp, which
mmdebstrap makes once with all that the packages depend on, and which is kept in POSTERN_TEST_CACHE
(/var/cache/postern-tests). Nothing of this machine is changed. Prints TAP.
"""
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/lib"))
import tap  # noqa: E402
import users  # noqa: E402
from tap import check  # noqa: E402

CACHE = pathlib.Path(os.environ.get("POSTERN_TEST_CACHE", "/var/cache/postern-tests"))
NAMES = ("postern", "postern-suid", "postern-apptainer-names")
# busybox is the first image; apparmor has the directory that the profile goes to.
TOOLS = ["busybox-static", "apparmor", "adduser", "uidmap"]
HELPER = "/usr/libexec/postern/postern-helper"

# A root of its own, not chroot(2): the kernel lets nobody make a user namespace in a chroot.
ENTER = """
set -e
mount --rbind "$1" "$1"; cd "$1"; shift
mount --rbind /dev dev; mount -t proc proc proc; mount --rbind /sys sys; mount -t tmpfs tmpfs run
pivot_root . mnt; umount -l mnt
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
cd /; exec "$@"
"""


def run(*command, **options):
    """Ends with the command's output in the error, unlike check_call()."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    check(done.returncode == 0, f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


class Debian:
    """A Debian with the packages' dependencies, an ordinary user, and the packages in two versions in /packages."""

    def __init__(self, packages, work):
        self.root = work / "root"
        self.root.mkdir()
        self.versions = {"old": self.newest(packages)}
        run("tar", "-x", "-C", self.root, "-f", self.base())
        self.uid = users.reserve(1)[0]
        self.enter("useradd", "--uid", str(self.uid), "--create-home", "--shell", "/bin/sh", "ada")
        place = self.root / "packages"
        place.mkdir()
        self.versions["new"] = {name: later(path, work, place) for name, path in self.versions["old"].items()}
        self.versions["old"] = {name: shutil.copy(path, place) for name, path in self.versions["old"].items()}
        self.before = self.listing()

    @staticmethod
    def newest(packages):
        found = {}
        for name in NAMES:
            paths = sorted(packages.glob(f"{name}_*.deb"))
            if len(paths) != 1:
                sys.exit(f"try_deb.py: {packages} has {len(paths)} packages of the name {name}, not one: packaging/build-deb.sh makes them")
            found[name] = paths[0]
        return found

    def base(self):
        depends = ",".join(run("dpkg-deb", "-f", path, "Depends") for path in self.versions["old"].values())
        wanted = sorted({re.split(r"[ |(\n]", word.strip())[0] for word in depends.split(",")} - {*NAMES, ""} | {*TOOLS})
        path = CACHE / f"debian-packages-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}.tar"
        if not path.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            run("mmdebstrap", "--variant=minbase", f"--include={','.join(wanted)}", "--dpkgopt=path-exclude=/usr/share/locale/*", "bookworm", f"{path}.new.tar")
            os.rename(f"{path}.new.tar", path)
        return path

    def command(self, *command):
        return ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", ENTER, "enter", self.root, *command)

    def enter(self, *command):
        return run(*self.command(*command))

    def as_ada(self, script):
        """Standard output and error of what she runs in her home directory, and the exit status."""
        done = subprocess.run(self.command("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--init-groups", "--reset-env", "sh", "-c",
                                           f"cd /home/ada; {script}"),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.stdout, done.returncode

    def starts(self, by_helper):
        """Her image starts; ids are all there only if no user namespace is around it."""
        out, status = self.as_ada("postern exec one.sif sh -c 'read inside outside count </proc/self/uid_map; echo uid $(id -u) of $count'")
        check(status == 0 and out.endswith(f"uid {self.uid} of {4294967295 if by_helper else 1}\n"), f"{status}: {out}")

    def dpkg(self, verb, *packages):
        """Without an answer to any question: dpkg fails if it has to ask."""
        return self.enter("env", "-u", "DEBIAN_FRONTEND", "dpkg", "--force-unsafe-io", verb, *packages)

    def install(self, version, *names):
        return self.dpkg("-i", *(self.inside(version, name) for name in names))

    def inside(self, version, name):
        return f"/packages/{os.path.basename(self.versions[version][name])}"

    def path(self, path):
        return self.root / path.lstrip("/")

    def text(self, path):
        return self.path(path).read_text()

    def listing(self):
        """Path -> type, mode, owner and content of all that is not dpkg's own record, a log, or the copy that shadow keeps."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            for name in folders + files:
                path = pathlib.Path(folder, name)
                place = "/" + str(path.relative_to(self.root))
                if re.match(r"/(var/lib/dpkg|var/log|packages|home/ada)(/|$)|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$", place):
                    continue
                status = path.lstat()
                content = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                found[place] = (oct(status.st_mode), status.st_uid, status.st_gid, content)
        return found


def later(path, work, place):
    """The same package with a higher version, and with other defaults than the one before."""
    tree = work / "repack"
    run("dpkg-deb", "-R", path, tree)
    control = tree / "DEBIAN/control"
    text = control.read_text()
    version = re.search(r"^Version: (.*)", text, re.M)[1]
    control.write_text(text.replace(version, f"{version}+later"))
    for default in tree.glob("usr/share/postern/*.toml"):
        default.write_text(default.read_text() + "# of the later version\n")
    made = place / path.name.replace(version, f"{version}+later")
    run("dpkg-deb", "-Zgzip", "-z1", "-b", tree, made)
    shutil.rmtree(tree)
    return made


def a_user_starts_a_container():
    """postern alone: an ordinary user makes an image and starts it; nothing of it is setuid"""
    debian.install("old", "postern")
    special = [path for path in debian.listing().keys() - debian.before.keys() if debian.path(path).lstat().st_mode & 0o6000 and not debian.path(path).is_dir()]
    check(not special, f"setuid or setgid: {special}")
    check("enabled = false" in debian.text("/etc/postern/postern.toml"), "suid.enabled without the helper")
    out, status = debian.as_ada("mkdir -p r/bin r/etc && cp /bin/busybox r/bin/sh && postern build -F one.sif r")
    check(status == 0, out)
    debian.starts(by_helper=False)


def the_setuid_part_on_purpose():
    """postern-suid: the helper is setuid root and unreadable, the judge's user is there, doctor and a start say so"""
    debian.install("old", "postern-suid")
    status = debian.path(HELPER).stat()
    check((oct(status.st_mode), status.st_uid, status.st_gid) == ("0o104711", 0, 0), f"{HELPER} is {oct(status.st_mode)}")
    check("postern:" in debian.text("/etc/passwd"), "no user postern")
    check("enabled = true" in debian.text("/etc/postern/postern.toml"), "suid.enabled was not set")
    out, _ = debian.as_ada("postern doctor")
    check(re.search(r"^works +setuid-helper:", out, re.M), out)
    debian.starts(by_helper=True)


def an_upgrade_keeps_the_sites_files():
    """an upgrade asks nothing and keeps what the site wrote, removed and switched off"""
    edited = {"/etc/postern/postern.toml": debian.text("/etc/postern/postern.toml").replace("hostfs = false", "hostfs = true  # ours"),
              "/etc/postern/ecl.toml": "activated = false\n# ours\n", "/etc/postern/site.pem": "ours\n"}
    for path, text in edited.items():
        debian.path(path).write_text(text)
    debian.path("/etc/postern/capability.toml").unlink()
    debian.install("new", "postern", "postern-suid")
    check("+later" in debian.enter("dpkg-query", "-W", *NAMES[:2]), "not upgraded")
    for path, text in edited.items():
        check(debian.text(path) == text, f"{path} was changed")
    check(not debian.path("/etc/postern/capability.toml").exists(), "a file that the site removed came back")
    check(debian.text("/usr/share/postern/ecl.toml").endswith("# of the later version\n"), "the new defaults are not there")
    debian.starts(by_helper=True)
    debian.enter("postern", "config", "global", "--set", "suid.enabled", "no")
    debian.install("old", "postern", "postern-suid")
    debian.install("new", "postern", "postern-suid")
    check("enabled = false" in debian.text("/etc/postern/postern.toml"), "an upgrade switched setuid mode on again")
    debian.enter("postern", "config", "global", "--set", "suid.enabled", "yes")


def removed_and_installed_again():
    """without postern-suid users start by user namespaces; installed again, it is as it was"""
    debian.dpkg("-r", "postern-suid")
    check("enabled = false" in debian.text("/etc/postern/postern.toml"), "suid.enabled without a helper")
    check(not debian.path(HELPER).exists() and not debian.path("/usr/libexec/postern/judge.d").exists(), "the helper is still there")
    debian.starts(by_helper=False)
    debian.install("new", "postern-suid")
    check("enabled = true" in debian.text("/etc/postern/postern.toml"), "suid.enabled was not set again")


def other_names():
    """apptainer and singularity are postern, and cannot be installed beside the real ones"""
    debian.install("old", "postern-apptainer-names")
    for name in ("apptainer", "singularity"):
        out, status = debian.as_ada(f"{name} --version && {name} exec one.sif sh -c 'echo started'")
        check(status == 0 and out.startswith("apptainer version 1.") and out.endswith("started\n"), out)
        check(debian.path(f"/usr/share/man/man1/{name}.1.gz").exists(), f"no manual page of {name}")
    debian.dpkg("-P", "postern-apptainer-names")
    other = package("apptainer", {"usr/bin/apptainer": "#!/bin/sh\necho the real one\n"})
    debian.dpkg("-i", other)
    with expected_failure("conflict"):
        debian.install("old", "postern-apptainer-names")
    check("the real one" in debian.text("/usr/bin/apptainer"), "the real one was replaced")
    debian.dpkg("-P", "apptainer")
    check(not debian.path("/usr/bin/apptainer").exists(), "a name is left")


def the_apparmor_profile():
    """the AppArmor profile is installed where AppArmor can read it, and when that arrives later"""
    profile = debian.path("/etc/apparmor.d/postern")
    check(not profile.exists(), "AppArmor 3 would read a profile that it does not know the words of")
    debian.enter("apparmor_parser", "-Q", "-K", "/etc/apparmor.d")
    debian.dpkg("-i", package("apparmor-four", {"etc/apparmor.d/abi/4.0": "query {label {perms {allow}}}\n"}))
    check("userns," in profile.read_text(), "no profile after AppArmor 4 came")
    profile.write_text(profile.read_text() + "# ours\n")
    debian.install("new", "postern")
    check(profile.read_text().endswith("# ours\n"), "the site's profile was changed")
    debian.dpkg("-P", "apparmor-four")


def purged():
    """a purge leaves nothing: no file, no folder, no user"""
    debian.path("/etc/postern/global-pgp-public").write_text("ours\n")
    debian.dpkg("-P", "postern-suid", "postern")
    now = debian.listing()
    problems = [f"left: {path}" for path in sorted(now.keys() - debian.before.keys())]
    problems += [f"gone: {path}" for path in sorted(debian.before.keys() - now.keys())]
    problems += [f"changed: {path}" for path in sorted(now.keys() & debian.before.keys()) if now[path] != debian.before[path]]
    check(not problems, "\n".join(problems))


def without_proc():
    """in a chroot without /proc, as image builders have it, packages are installed and the missing part is named"""
    out = run("chroot", debian.root, "dpkg", "--force-unsafe-io", "-i", *(debian.inside("old", name) for name in NAMES[:2]))
    check("/proc is not mounted" in out and "setuid mode is still off" in out, out)
    check("enabled = false" in debian.text("/etc/postern/postern.toml"), "suid.enabled was set")
    debian.install("new", "postern", "postern-suid")
    debian.starts(by_helper=True)
    debian.dpkg("-P", "postern-suid", "postern")


def a_user_of_the_sites_own():
    """a user postern that was there before is used, and stays after a purge"""
    debian.enter("useradd", "--system", "--home-dir", "/", "--shell", "/usr/sbin/nologin", "postern")
    entry = debian.text("/etc/passwd")
    debian.install("old", "postern", "postern-suid")
    debian.starts(by_helper=True)
    debian.dpkg("-P", "postern-suid", "postern")
    check(debian.text("/etc/passwd") == entry, "the site's user is gone or was changed")
    debian.enter("userdel", "postern")


@contextlib.contextmanager
def expected_failure(word):
    try:
        yield
    except AssertionError as error:
        check(word in str(error), str(error))
    else:
        check(False, f"no failure with the word '{word}'")


def package(name, files):
    """A small package of these files, in /packages."""
    tree = debian.root / "packages" / name
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        (tree / path).chmod(0o755)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a test <test@localhost>\nDescription: test\n")
    run("dpkg-deb", "--root-owner-group", "-b", tree, f"{tree}.deb")
    shutil.rmtree(tree)
    return f"/packages/{name}.deb"


if len(sys.argv) < 2:
    sys.exit(__doc__)
if os.geteuid() != 0:
    tap.skip_all("only root can install packages")
with tempfile.TemporaryDirectory(prefix="postern-try-deb-", dir="/var/tmp") as folder:
    debian = Debian(pathlib.Path(sys.argv[1]), pathlib.Path(folder))
    os.chmod(folder, 0o755)
    CASES = [a_user_starts_a_container, the_setuid_part_on_purpose, an_upgrade_keeps_the_sites_files, removed_and_installed_again, other_names,
             the_apparmor_profile, purged, without_proc, a_user_of_the_sites_own]
    result = tap.run(CASES, sys.argv[2:])
sys.exit(result)
