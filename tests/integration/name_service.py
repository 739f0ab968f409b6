#!/usr/bin/env python3
"""Users and groups that no file knows: bin/postern is static and asks the name service by a program of its own.

The service is nss-systemd(8), which reads records of users from /run/userdb: no daemon, and real modules of the C library.
Each run has a mount namespace with a /run and an nsswitch.conf(5) of its own.
"""
import json
import os
import shutil
import subprocess

import harness

bench = harness.Bench()
ROOT = bench.rootfs()
NAME, GROUP, UID = "known-elsewhere", "project-elsewhere", bench.other
HOME = os.path.join(bench.top, "elsewhere")
SHOW = ("sh", "-c", "tail -n 1 /etc/passwd; tail -n 1 /etc/group; id -un; id -gn")
WHOLE = [f"{NAME}:x:{UID}:{UID}:Else Where:{HOME}:/bin/zsh", f"{GROUP}:x:{UID}:{NAME}", NAME, GROUP]


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


def records(top):
    """What the service knows."""
    os.makedirs(top + "/userdb")
    for key, value, ending in (("userName", NAME, "user"), ("groupName", GROUP, "group")):
        more = {"realName": "Else Where", "homeDirectory": HOME, "shell": "/bin/zsh"} if ending == "user" else {}
        write(f"{top}/userdb/{UID}.{ending}", json.dumps({key: value, **({"uid": UID} if ending == "user" else {}), "gid": UID,
                                                           "disposition": "regular", **more}))
        os.symlink(f"{UID}.{ending}", f"{top}/userdb/{value}.{ending}")
    return top


RUN = records(bench.make_directory("run"))
os.makedirs(HOME)
os.chown(HOME, UID, UID)
os.chmod(HOME, 0o700)


def start(*words, services="files systemd", uid=UID, libexec=None, passwd=None):
    """As `uid` on a node whose nsswitch.conf names `services`."""
    settings = write(os.path.join(bench.top, "nsswitch.conf"), f"passwd: {services}\ngroup: {services}\n")
    binds = [(RUN, "/run"), (settings, "/etc/nsswitch.conf")] + ([(passwd, "/etc/passwd")] if passwd else [])
    mounts = " && ".join(f"mount --bind {source} {target}" for source, target in binds)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C", **({"POSTERN_LIBEXEC": libexec} if libexec else {})}
    done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts + ' && exec "$@"', "sh",
                           "setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", *words],
                          env=environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    return harness.Result(done.returncode, done.stdout, done.stderr)


def shown(*options, **node):
    return start(bench.postern, "exec", *options, ROOT, *SHOW, **node).ok().lines


def telltale():
    """A libexec directory whose postern-accounts leaves a mark."""
    place = bench.make_directory("telltale", 0o777)
    mark = place + "/asked"
    real = os.path.join(os.path.dirname(bench.postern), "../libexec/postern/postern-accounts")
    os.chmod(write(place + "/postern-accounts", f'#!/bin/sh\necho "$@" >> {mark}\nexec {real} "$@"\n'), 0o755)
    return place, mark


def the_service_is_asked_for_what_no_file_knows(b):
    """names, home directory and shell come from the name service; in user-namespace mode and as fake root"""
    assert shown() == WHOLE, shown()
    assert shown("--no-home") == WHOLE
    assert start(bench.postern, "exec", ROOT, "sh", "-c", "echo $HOME; pwd").ok().lines[0] == HOME
    assert start(bench.postern, "exec", "--fakeroot", ROOT, "id", "-u").prints("0\n")


def one_question_for_all_and_none_for_the_files(b):
    """one run of the program for a user and its groups; none for who is in the files, or if the site names the files alone"""
    place, mark = telltale()
    assert shown(libexec=place) == WHOLE
    with open(mark) as file:
        assert file.read().splitlines() == [f"user-id {UID} group-id {UID}"]
    os.unlink(mark)
    known = bench.user
    start(bench.postern, "exec", ROOT, "id", "-un", uid=known.uid, libexec=place).prints(known.name + "\n")
    assert shown(services="files", libexec=place)[2] == f"user{UID}"
    assert not os.path.exists(mark), open(mark).read()


def who_comes_first_answers(b):
    """a user that both know is the one of whom nsswitch.conf names first"""
    passwd = write(os.path.join(bench.top, "passwd"), open("/etc/passwd").read() + f"in-file:x:{UID}:{UID}::/:/bin/sh\n")
    assert shown(passwd=passwd)[2] == "in-file"
    assert shown(passwd=passwd, services="systemd files") == WHOLE


def names_are_found_as_well(b):
    """the program answers each question with a line, empty where there is no account"""
    program = os.path.join(os.path.dirname(bench.postern), "../libexec/postern/postern-accounts")
    asked = start(program, "user-name", NAME, "group-name", GROUP, "user-name", "no-such-user", "group-id", "4294967294", "user-id", "0").ok()
    assert asked.lines[:4] == [WHOLE[0], f"{GROUP}:x:{UID}:", "", ""], asked
    assert asked.lines[4].startswith("root:x:0:0:"), asked
    for words in ((), ("user-id",), ("users", "1"), ("user-id", "1", "group-id")):
        assert start(program, *words).code == 1, words


def a_broken_service_stops_no_start(b):
    """without the program, or with one that fails or says too much, the user has a made-up name"""
    place = bench.make_directory("broken", 0o755)
    for text in ("#!/bin/sh\nexit 1\n", "#!/bin/sh\nyes\n", "#!/bin/sh\nkill -9 $$\n", "#!/bin/sh\necho one; echo two; echo three; echo four\n"):
        os.chmod(write(place + "/postern-accounts", text), 0o755)
        assert shown(libexec=place)[2] == f"user{UID}", text
    path = os.path.join(os.path.dirname(bench.postern), "../libexec/postern/postern-accounts")
    shutil.move(path, path + ".away")
    try:
        assert shown()[2] == f"user{UID}"
    finally:
        shutil.move(path + ".away", path)


bench.main([the_service_is_asked_for_what_no_file_knows, one_question_for_all_and_none_for_the_files, who_comes_first_answers,
            names_are_found_as_well, a_broken_service_stops_no_start])
