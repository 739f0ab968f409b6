#!/usr/bin/env python3
"""What `./dev install` and `./dev uninstall` do besides meson: debug files, and a record of all that was made.

Usage: from_source.py targets BUILD [--suid] [--slurm]
                                                 the files of the build that an installation needs, one a line
       from_source.py install BUILD [--suid]     installs them, without building anything
       from_source.py uninstall BUILD            removes what is in the record

--suid: the setuid helper and its judge as well; --slurm: Slurm's plugin. The record is LIBEXEC/postern/installed.json: files, the folders
and the user that were not there before, and the site's files with a digest: one that the site changed is kept.
"""
import grp
import hashlib
import json
import os
import pathlib
import pwd
import re
import subprocess
import sys


def introspect(build, what):
    return json.loads(subprocess.run(["meson", "introspect", build, what], check=True, capture_output=True, text=True).stdout)


class Installation:
    def __init__(self, build, parts):
        self.build = os.path.abspath(build)
        self.tags = ["runtime", "man", *parts]
        options = {option["name"]: option["value"] for option in introspect(build, "--buildoptions")}
        self.prefix = options["prefix"]
        self.places = {name: os.path.join(self.prefix, options[name]) for name in
                       ("bindir", "libdir", "libexecdir", "datadir", "mandir", "sysconfdir", "includedir")}
        self.places["prefix"] = self.prefix
        self.libexec = f"{self.places['libexecdir']}/postern"
        self.confdir = f"{self.places['sysconfdir']}/postern"
        self.judge_user = options["judge-user"] if "suid" in parts else None
        self.record_path = f"{self.libexec}/installed.json"
        self.record = {"files": [], "folders": [], "site": {}, "user": None}
        if os.path.exists(self.record_path):
            with open(self.record_path) as file:
                self.record.update(json.load(file))

    def plan(self):
        """Source in the build tree -> destination, of the chosen parts."""
        found = {}
        for entries in introspect(self.build, "--install-plan").values():
            for source, entry in entries.items():
                if entry["tag"] in self.tags:
                    found[source] = re.sub(r"\{(\w+)\}", lambda match: self.places[match[1]], entry["destination"])
        return found

    def targets(self):
        """What ninja makes of it: the rest of the plan is there from the start."""
        made = {name for target in introspect(self.build, "--targets") for name in target["filename"]}
        return [os.path.relpath(source, self.build) for source in self.plan() if source in made]

    # ------------------------------------------------------------------------------------ installing

    def debug_file(self, source):
        """Where gdb looks for it by the number in the program; None for a file that is no program."""
        with open(source, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return None
        notes = subprocess.run(["readelf", "--notes", "--wide", source], check=True, capture_output=True, text=True).stdout
        number = re.search(r"Build ID: ([0-9a-f]{6,})", notes)
        return number and f"{self.prefix}/lib/debug/.build-id/{number[1][:2]}/{number[1][2:]}.debug"

    def install(self):
        plan = self.plan()
        if "suid" in self.tags and not any(path.endswith("/postern-helper") for path in plan.values()):
            sys.exit(f"from_source.py: {self.build} was configured without the setuid helper: meson configure -Dsuid=enabled")
        debug = {source: self.debug_file(source) for source in plan if os.path.isfile(source)}
        debug = {source: path for source, path in debug.items() if path}
        paths = {*plan.values(), *debug.values(), f"{self.libexec}/judge.d/x", f"{self.confdir}/x"}
        folders = {str(folder) for path in paths for folder in pathlib.Path(path).parents}
        new_folders = [folder for folder in folders if not os.path.exists(folder)]
        site_before = self.site_files()
        user_before = self.has_judge_user()

        subprocess.run(["meson", "install", "-C", self.build, "--no-rebuild", "--strip", "--tags", ",".join(self.tags)], check=True)
        stale = set(self.record["files"]) - {*plan.values(), *debug.values()}
        for path in stale:  # of an earlier version
            pathlib.Path(path).unlink(missing_ok=True)
        for source, path in debug.items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            subprocess.run(["objcopy", "--only-keep-debug", "--compress-debug-sections", source, path], check=True)
            os.chmod(path, 0o644)

        self.record["files"] = sorted({*plan.values(), *debug.values(), f"{self.places['bindir']}/run-singularity"})
        self.record["folders"] = sorted({*self.record["folders"], *filter(os.path.isdir, new_folders)})
        self.record["site"].update({path: digest for path, digest in self.site_files().items() if path not in site_before})
        if self.has_judge_user() and not user_before:
            self.record["user"] = self.judge_user
        with open(self.record_path, "w") as file:
            json.dump(self.record, file, indent=1)
        os.chmod(self.record_path, 0o644)

    def site_files(self):
        found = {}
        for path in map(str, pathlib.Path(self.confdir).glob("*.toml")):
            with open(path, "rb") as file:
                found[path] = hashlib.sha256(file.read()).hexdigest()
        return found

    def has_judge_user(self):
        try:
            return self.judge_user is not None and bool(pwd.getpwnam(self.judge_user))
        except KeyError:
            return False

    # ---------------------------------------------------------------------------------- uninstalling

    def uninstall(self):
        if not os.path.exists(self.record_path):
            sys.exit(f"from_source.py: nothing was installed from source here: there is no {self.record_path}")
        for path in self.record["files"]:
            pathlib.Path(path).unlink(missing_ok=True)
        now = self.site_files()
        for path, digest in self.record["site"].items():
            if now.get(path) == digest:
                os.unlink(path)
            elif path in now:
                print(f"keeping {path}: the site changed it")
        if self.record["user"]:
            remove_user(self.record["user"])
        if os.path.isdir(f"{self.libexec}/judge.d"):
            os.rmdir(f"{self.libexec}/judge.d")
        os.unlink(self.record_path)
        for folder in sorted(self.record["folders"], key=len, reverse=True):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                print(f"keeping {folder}: {error.strerror}")


def remove_user(name):
    subprocess.run(["userdel", name], check=True)
    try:  # systemd-sysusers makes a group of the same name, which userdel leaves if USERGROUPS_ENAB is off
        grp.getgrnam(name)
        subprocess.run(["groupdel", name], check=True)
    except KeyError:
        pass


def main(words):
    verbs = ("targets", "install", "uninstall")
    parts = {"--suid": "suid", "--slurm": "slurm"} if words[:1] == ["targets"] else {"--suid": "suid"}
    if len(words) < 2 or words[0] not in verbs or not set(words[2:]) <= set(parts):
        sys.exit(__doc__)
    installation = Installation(words[1], [parts[word] for word in words[2:]])
    if words[0] == "targets":
        print("\n".join(installation.targets()))
    elif words[0] == "install":
        installation.install()
    else:
        installation.uninstall()


main(sys.argv[1:])
