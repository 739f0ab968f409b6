#!/usr/bin/env python3
"""Package managers in %post: apt-get and dnf install packages, in each kind of user namespace.

Usage: package_managers.py POSTERN-BUILD POSTERN POSTERN-INIT POSTERN-SQUASHFS [WORD-OF-A-CASE...]
As root, who makes two users: one with subordinate ids (two ranges), one without. The packages are made
here and served on loopback by a small web server, so that apt downloads them as its own user. The root
file system is Debian's, made by mmdebstrap once and kept in POSTERN_TEST_CACHE (/var/cache/postern-tests).
Prints TAP. Exit 77: not root, or a program is missing.
"""
import functools
import http.server
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tap  # noqa: E402
import users  # noqa: E402

BUILD, POSTERN = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
PLACES = ":".join(dict.fromkeys(str(pathlib.Path(program).resolve().parent) for program in sys.argv[1:6]))
CACHE = pathlib.Path(os.environ.get("POSTERN_TEST_CACHE", "/var/cache/postern-tests"))
NEEDED = ["mmdebstrap", "dpkg-deb", "dpkg-scanpackages", "createrepo_c", "rpmbuild", "newuidmap"]
RANGES = ((2100000000, 50), (2100001000, 65500))  # the second holds most ids: all ranges count

POSTINST = """#!/bin/sh
set -e
useradd --system --home-dir /var/lib/postern-hello postern-hello
mkdir -p -m 700 /var/lib/postern-hello
chown postern-hello: /var/lib/postern-hello
chgrp 8 /usr/bin/postern-hello
chmod 2755 /usr/bin/postern-hello
mknod /srv/device c 1 3
su -s /bin/sh postern-hello -c 'echo "as $(id -un)" > /var/lib/postern-hello/seen'
"""

SPEC = """Name: postern-rpm
Version: 1
Release: 1
Summary: test
License: none
BuildArch: noarch
AutoReqProv: no
%description
test
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/srv/private
printf '#!/bin/sh\\necho from rpm\\n' > %{buildroot}/usr/bin/postern-rpm
chmod 755 %{buildroot}/usr/bin/postern-rpm
%files
%attr(0755, root, root) /usr/bin/postern-rpm
%dir %attr(0700, www-data, www-data) /srv/private
"""


def run(*words, ok=True, **more):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                          text=True, errors="replace", **more)
    assert not ok or done.returncode == 0, f"{words}: exit {done.returncode}: {done.stdout[-3000:]}"
    return done


def root_file_system():
    """Debian with apt and dnf, as a tar."""
    path = CACHE / "debian-dnf.tar"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        exclude = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
        run("mmdebstrap", "--variant=apt", "--include=dnf", *exclude, "bookworm", str(path) + ".new")
        os.rename(str(path) + ".new", path)
    return path


class User:
    """An account with the ranges of RANGES, or with none, in /etc/subuid and /etc/subgid."""

    def __init__(self, subordinate):
        entry = users.account(which="s" if subordinate else "n")
        self.name, self.uid, self.gid, self.home = entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir
        self.set_ranges(RANGES if subordinate else ())

    def set_ranges(self, ranges):
        # useradd(8) gives ranges of its own where the host's defaults say so.
        with users.alone("subids"):
            for file in ("/etc/subuid", "/etc/subgid"):
                lines = [line for line in pathlib.Path(file).read_text().splitlines(True) if not line.startswith(self.name + ":")]
                lines += [f"{self.name}:{first}:{count}\n" for first, count in ranges]
                pathlib.Path(file).write_text("".join(lines))

    def remove(self):
        self.set_ranges(())
        users.remove_account(self.name)


class Repository:
    """Packages in both formats, served on loopback."""

    def __init__(self, top):
        self.top = top / "repository"
        self.make_debs()
        self.make_rpms(top)
        handler = functools.partial(Quiet, directory=str(self.top))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def make_debs(self):
        for name, depends in (("postern-lib", ""), ("postern-hello", "Depends: postern-lib, passwd\n")):
            tree = self.top / name
            (tree / "DEBIAN").mkdir(parents=True)
            (tree / "DEBIAN/control").write_text(f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.org>\n{depends}Description: test\n")
            (tree / "usr/bin").mkdir(parents=True)
            (tree / f"usr/bin/{name}").write_text(f"#!/bin/sh\necho from {name}\n")
            (tree / f"usr/bin/{name}").chmod(0o755)
            (tree / "srv/web").mkdir(parents=True)
            (tree / f"srv/web/{name}").write_text("x")
            os.chown(tree / f"srv/web/{name}", 33, 33)
            if depends:
                (tree / "DEBIAN/postinst").write_text(POSTINST)
                (tree / "DEBIAN/postinst").chmod(0o755)
            run("dpkg-deb", "--build", tree, self.top / f"{name}_1_all.deb")
            shutil.rmtree(tree)
        packages = subprocess.run(["dpkg-scanpackages", "--multiversion", "."], cwd=self.top, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        (self.top / "Packages").write_bytes(packages.stdout)

    def make_rpms(self, top):
        work = top / "rpmbuild"
        work.mkdir()
        (work / "postern-rpm.spec").write_text(SPEC)
        run("rpmbuild", "-bb", "--define", f"_topdir {work}", "--define", f"_rpmdir {self.top}/rpm", work / "postern-rpm.spec")
        run("createrepo_c", self.top / "rpm")

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


APT = """Bootstrap: localimage
From: {base}
%post
  rm -f /etc/apt/sources.list.d/*
  echo 'deb [trusted=yes] {url} ./' > /etc/apt/sources.list
  apt-get -o Acquire::Languages=none update
  DEBIAN_FRONTEND=noninteractive apt-get install -y postern-hello
  postern-hello
  mkdir -m 700 /private
  chown 33:33 /private
  touch /private/file
"""

DNF = """Bootstrap: localimage
From: {base}
%post
  dnf -y --repofrompath=local,{url}/rpm --repo=local --setopt=local.gpgcheck=0 install postern-rpm
  postern-rpm
"""


BUSYBOX_SOURCE = "Bootstrap: scratch\n%files\n  /bin/busybox /bin/sh\n  /bin/busybox /bin/chown\n  /bin/busybox /bin/mkdir\n"


class Case:
    """One caller and the directory it builds in."""

    def __init__(self, user, top, base, url):
        self.user, self.base, self.url = user, base, url
        self.place = top / (user.name if user else "root")
        self.place.mkdir()
        (self.place / "tmp").mkdir()
        if user:
            for path in (self.place, self.place / "tmp"):
                os.chown(path, user.uid, user.gid)

    def run(self, *words, ok=True):
        change = {"user": self.user.uid, "group": self.user.gid, "extra_groups": []} if self.user else {}
        environment = {"PATH": os.environ["PATH"], "HOME": self.user.home if self.user else "/root", "POSTERN_LIBEXEC": PLACES}
        return run(*words, ok=ok, cwd=self.place, env=environment, **change)

    def build(self, text, *options, output="box", ok=True):
        (self.place / "image.def").write_text(text.format(base=self.base, url=self.url))
        return self.run(BUILD, "build", "--tmpdir", "tmp", *options, output, "image.def", ok=ok).stdout

    def outside(self, path):
        return os.lstat(self.place / "box" / path)

    def clear(self):
        shutil.rmtree(self.place / "box")
        left = os.listdir(self.place / "tmp") + [name for name in os.listdir(self.place) if name.startswith(".")]
        assert left == [], left


def subordinate(number):
    """What `number` of the container is on the host."""
    first, count = RANGES[0]
    return first + number - 1 if number <= count else RANGES[1][0] + number - 1 - count


def apt(case, expected):
    said = case.build(APT, "--sandbox")
    assert "from postern-hello" in said, said[-2000:]
    assert (case.place / "box/usr/bin/postern-lib").exists()
    assert case.outside("private").st_uid == expected(33) and case.outside("private").st_mode & 0o7777 == 0o700
    assert case.outside("srv/web/postern-hello").st_uid == expected(33)
    # With one id the change of user succeeds without effect, and so does a device node with any.
    single = expected(33) == expected(0)
    assert (case.place / "box/var/lib/postern-hello/seen").read_text() == ("as root\n" if single else "as postern-hello\n")
    assert (case.outside("var/lib/postern-hello/seen").st_uid == expected(0)) == single
    assert not (case.place / "box/srv/device").exists()
    assert case.outside("usr/bin/postern-hello").st_mode & stat.S_ISGID == 0, "set-id bits are left out of sandboxes"
    assert not [name for name in os.listdir(case.place / "box") if name.startswith(".postern")]
    done = case.run(POSTERN, "exec", "--fakeroot", case.place / "box", "stat", "-c", "%u", "/private")
    shown = done.stdout.strip().splitlines()[-1]
    assert shown == ("0" if single else "33"), done.stdout
    case.clear()


def dnf(case, expected):
    said = case.build(DNF, "--sandbox")
    assert "from rpm" in said, said[-2000:]
    assert case.outside("srv/private").st_uid == expected(33)
    case.clear()


def owners_in_an_image(case):
    """What %post made of owners is what the image has, and a failed build leaves nothing behind."""
    text = (BUSYBOX_SOURCE + "%post\n  mkdir -m 700 /x /y\n  chown 33 /x\n  chown 60:40000 /y\n")
    case.build(text, output="image.sif")
    listing = subprocess.run(["unsquashfs", "-lln", "-o", str(offset(case.place / "image.sif")), str(case.place / "image.sif")],
                             stdout=subprocess.PIPE, text=True, check=True).stdout
    owners = {line.split()[-1]: line.split()[1] for line in listing.splitlines() if "squashfs-root/" in line}
    assert owners["squashfs-root/x"] == "33/0" and owners["squashfs-root/y"] == "60/40000", owners
    case.build(text + "  exit 1\n", output="bad.sif", ok=False)
    assert os.listdir(case.place / "tmp") == [], os.listdir(case.place / "tmp")


def a_killed_build_is_removed_by_the_next(case):
    text = (BUSYBOX_SOURCE + "%post\n  mkdir -m 700 /x\n  chown 33 /x\n  while :; do :; done\n")
    (case.place / "loop.def").write_text(text)
    process = subprocess.Popen([BUILD, "build", "--tmpdir", "tmp", "--sandbox", "never", "loop.def"], cwd=case.place, user=case.user.uid, group=case.user.gid,
                               extra_groups=[], env={"PATH": os.environ["PATH"], "HOME": case.user.home, "POSTERN_LIBEXEC": PLACES},
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    def runs():
        assert process.poll() is None
        return [p for p in case.place.glob(".postern-build-*/rootfs/x") if p.lstat().st_uid == subordinate(33)]
    tap.wait_until(runs, "%post does not run", 120)
    held = case.build("Bootstrap: scratch\n%post\n", "--section", "none", "--sandbox", output="other")
    assert list(case.place.glob(".postern-build-*")), ("a running build keeps its directory", held)
    process.kill()
    process.wait()

    def is_removed():
        case.build("Bootstrap: scratch\n%post\n", "--section", "none", "--sandbox", "--force", output="other")
        return not list(case.place.glob(".postern-build-*"))
    tap.wait_until(is_removed, "what the killed build has left is not removed when its last process has ended")


def offset(sif):
    data = sif.read_bytes()
    return data.find(b"hsqs", 4096)


def main():
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        tap.skip_all(f"needs root and {' '.join(missing)}")
    if os.path.exists("/dev/fuse"):
        os.chmod("/dev/fuse", 0o666)
    base = root_file_system()
    failed = 0
    accounts = []
    with tempfile.TemporaryDirectory(prefix="postern-packages-", dir="/var/tmp") as scratch:
        top = pathlib.Path(scratch)
        top.chmod(0o755)
        repository = Repository(top)
        try:
            accounts = [User(True), User(False)]
            cases = [Case(user, top, base, repository.url) for user in (*accounts, None)]
            tests = []
            for case, kind, expected in zip(cases, ("subordinate ids", "no subordinate ids", "root"),
                                            (lambda n: subordinate(n) if n else accounts[0].uid, lambda n: accounts[1].uid, lambda n: n)):
                tests += [(f"apt-get, {kind}", functools.partial(apt, case, expected)), (f"dnf, {kind}", functools.partial(dnf, case, expected))]
            tests += [("owners in an image, subordinate ids", functools.partial(owners_in_an_image, cases[0])),
                      ("owners in an image, root", functools.partial(owners_in_an_image, cases[2])),
                      ("a killed build is removed by the next", functools.partial(a_killed_build_is_removed_by_the_next, cases[0]))]
            wanted = sys.argv[6:]
            tests = [test for test in tests if not wanted or any(word in test[0] for word in wanted)]
            if not tests:  # a plan of none would pass as skipped
                sys.exit(f"no such case: {' '.join(wanted)}")
            print(f"1..{len(tests)}")
            for number, (name, function) in enumerate(tests, 1):
                try:
                    function()
                    print(f"ok {number} - {name}", flush=True)
                except Exception as problem:  # a failing test is a result
                    failed += 1
                    print(f"not ok {number} - {name}", flush=True)
                    for line in f"{type(problem).__name__}: {problem}".splitlines()[-25:]:
                        print("# " + line[:300], flush=True)
        finally:
            repository.close()
            for user in accounts:
                user.remove()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
