#!/usr/bin/env python3
"""doc/sites.md, line by line, on a Postern that is installed from source: root's commands as root, the user's as an ordinary user.
Prints TAP. Usage: sites.py BUILD PREFIX CONFDIR

In a mount namespace of its own: accounts, homes, the installation, /srv and logs are those of this run.
"""
import contextlib
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import world as worlds  # noqa: E402
import pages  # noqa: E402
import tap  # noqa: E402
import users  # noqa: E402

worlds.enter_namespace()
TREE = pathlib.Path(__file__).resolve().parents[2]
PAGE = TREE / "doc/sites.md"
BUILD, PREFIX, CONFDIR = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3]
INSTALLER = str(TREE / "packaging/from_source.py")
if os.geteuid() != 0:
    worlds.skip("needs root, to install")
if not CONFDIR.startswith(PREFIX + "/"):
    worlds.skip("needs a prefix that holds the settings too, as an installation from source has it")


class Site:
    """A host of this run's own, as far as the page changes it."""

    def __init__(self):
        self.work = tempfile.mkdtemp(prefix="postern-suid.", dir="/var/tmp")
        os.chmod(self.work, 0o755)
        layers = f"{self.work}/layers"
        os.mkdir(layers)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "postern-sites", layers], check=True)
        prefix = PREFIX
        while not os.path.isdir(prefix):
            prefix = os.path.dirname(prefix)
        for place in (prefix, "/etc", "/home", "/root", "/var/lib", "/var/log"):
            self.cover(place, layers)
        # An image that root alone can change lies on a file system of the host's.
        self.images = f"{self.work}/images"
        self.learnt = {}
        self.user = self.make_user()

    @staticmethod
    def cover(place, layers):
        name = place.strip("/").replace("/", "-")
        for part in ("upper", "work"):
            os.makedirs(f"{layers}/{name}/{part}")
        shutil.copystat(place, f"{layers}/{name}/upper")
        subprocess.run(["mount", "-t", "overlay", "-o", f"lowerdir={place},upperdir={layers}/{name}/upper,workdir={layers}/{name}/work",
                        "postern-sites", place], check=True)

    @staticmethod
    def make_user():
        """alice, in the accounts of this namespace, with a root file system in her home."""
        uid = users.reserve(1)[0]
        subprocess.run(["useradd", "--uid", str(uid), "--user-group", "--no-log-init", "--create-home", "--shell", "/bin/sh", "alice"],
                       check=True, capture_output=True)
        user = pwd.getpwnam("alice")
        root = user.pw_dir + "/rootfs"
        for directory in "bin dev proc sys tmp etc".split():
            os.makedirs(f"{root}/{directory}")
        shutil.copy("/bin/busybox", root + "/bin/busybox")
        for applet in ("sh", "id", "true"):
            os.symlink("busybox", f"{root}/bin/{applet}")
        for name in ("passwd", "group", "hosts", "resolv.conf", "localtime"):
            open(f"{root}/etc/{name}", "w").close()
        subprocess.run(["chown", "-R", f"{uid}:{uid}", user.pw_dir], check=True)
        return user

    def real(self, text):
        """What the page calls by the names of its author."""
        text = text.replace("/usr/local", PREFIX).replace("/etc/postern", CONFDIR).replace("/srv/images", self.images)
        text = text.replace("SUID=enabled ./dev install", f"{INSTALLER} install {BUILD} --suid")
        text = text.replace("./dev uninstall", f"{INSTALLER} uninstall {BUILD}")
        for shown, actual in self.learnt.items():
            text = text.replace(shown, actual)
        return text

    def run(self, prompt, command):
        ids = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": [self.user.pw_gid]} if prompt == "$" else {}
        home = self.user.pw_dir if prompt == "$" else "/root"
        environment = {"PATH": f"{PREFIX}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LANG": "C",
                       "USER": self.user.pw_name if prompt == "$" else "root"}
        done = subprocess.run(["bash", "-c", self.real(command)], cwd=home, env=environment, stdin=subprocess.DEVNULL, timeout=200,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **ids)
        return done.returncode, done.stdout.decode(errors="replace")

    def close(self):
        users.end_processes(self.user.pw_uid)
        shutil.rmtree(self.images, ignore_errors=True)
        subprocess.run(["umount", "--lazy", f"{self.work}/layers"], check=True)
        shutil.rmtree(self.work)


def make_case(site, number, prompt, command, expected):
    def case():
        status, out = site.run(prompt, command)
        said_no = any(line.startswith(("FATAL:", "ERROR:", "refuse:")) for line in expected)
        tap.check((status == 0) != said_no, f"exit {status}:\n{out}")
        for shown in expected:
            # Keys of the page are those of its author: the command that prints one tells this run's.
            names = re.escape(site.real(shown)).replace("…", ".*")
            pages.follow([shown], out, lambda line: re.sub(r"[0-9A-F]{40}", "([0-9A-F]{40})", names))
            for key in re.findall(r"[0-9A-F]{40}", shown):
                site.learnt[key] = re.search(r"[0-9A-F]{40}", out)[0]
    case.__name__ = f"line_{number}"
    case.__doc__ = f"{PAGE.name}:{number}: {prompt} {command.splitlines()[0]}"
    return case


def main():
    lines = pages.commands(PAGE)
    tap.check(len(lines) > 20, "the form of the page has changed: this test does not find its commands")
    with contextlib.ExitStack() as stack:
        site = Site()
        stack.callback(site.close)
        stack.enter_context(worlds.syslog("/var/log/auth.log", site.work))
        return tap.run([make_case(site, *line) for line in lines])


sys.exit(main())
