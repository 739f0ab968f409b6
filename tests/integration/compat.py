#!/usr/bin/env python3
"""Apptainer's command line, row by row: each option of its action commands, and its other commands, with the exit
status, the output and the message that its own sources give them. Expected values are Apptainer's; a row that differs
on purpose says so in postern-compat(7), and here. Prints TAP."""
import os
import re
import shutil
import subprocess

import harness

bench = harness.Bench()
TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROOT = bench.rootfs(files={
    ".singularity.d/runscript": '#!/bin/sh\necho ran "$@"\n', ".singularity.d/test": '#!/bin/sh\necho tested "$@"\n',
    ".singularity.d/runscript.help": "help text\n", ".singularity.d/env/90-environment.sh": "export FROM_IMAGE=image\n",
    ".singularity.d/env/99-base.sh": "\n", ".singularity.d/labels.json": '{"label": "value"}\n', ".singularity.d/startscript": "#!/bin/sh\n",
    "scif/apps/one/scif/runscript": "#!/bin/sh\necho app one\n", "scif/apps/one/scif/runscript.help": "app help\n"})
IMAGE = bench.sif(bench.squashfs(ROOT), "compat.sif")
NAMES = bench.make_directory("compat-names")
APPTAINER = os.path.join(NAMES, "apptainer")
os.symlink(bench.postern, APPTAINER)
DATA = bench.make_directory("compat-data")
with open(DATA + "/file", "w") as file:
    file.write("bound\n")
with open(DATA + "/vars", "w") as file:
    file.write("FROM_FILE='a value'\nSECOND=$FROM_FILE\n")
with open(DATA + "/seccomp.json", "w") as file:
    file.write('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}\n')
os.chmod(DATA + "/file", 0o644)
for program in ("inspect", "transfer", "keys"):
    build = os.environ.get("POSTERN_BUILD")
    if build:
        shutil.copy(f"{build}/frontend/{program}/postern-{program}", os.path.join(os.path.dirname(bench.postern), "../libexec/postern/"))
HOME, UID, JOB = bench.user.home, str(bench.user.uid), bench.work
SH = ["sh", "-c"]


def row(words, code=0, out=None, err=None, **how):
    """out: the whole of stdout, or a pattern of it; err: a pattern of stderr."""
    return (words, code, out, err, how)


def on(option, *command, image=IMAGE, **how):
    """exec with this option."""
    return row(["exec", *([option] if isinstance(option, str) else option), image, *command], **how)


ACTIONS = [
    on([], "echo", "a b", out="a b\n"),
    on([], "sh", "-c", "exit 7", code=7),
    on([], "sh", "-c", "kill -9 $$", code=-9),
    on([], "nosuchcommand", code=255, err="FATAL: .*nosuchcommand"),
    row(["exec", IMAGE], code=1, err="Usage|usage"),
    row(["exec"], code=1, err="sage"), row(["run"], code=1, err="sage"), row(["shell"], code=1, err="sage"),
    row(["exec", "--nosuch", IMAGE, "true"], code=1, err='Error for command "exec": unknown flag|--nosuch'),
    row(["nosuch"], code=1, err='unknown command "nosuch"'), row([], code=1),
    row(["exec", "/nonexistent.sif", "true"], code=255, err="FATAL: .*nonexistent.sif"),
    row(["run", IMAGE, "x", "y"], out="ran x y\n"), row(["test", IMAGE, "z"], out="tested z\n"),
    row(["run", "--app", "one", IMAGE], out="app one\n"), row(["run", "--app", "none", IMAGE], code=1),
    row(["run"], code=1, env={"APPTAINER_APP": "one"}), row(["run", IMAGE], out="app one\n", env={"APPTAINER_APP": "one"}),
    row(["run", IMAGE], out="app one\n", env={"SINGULARITY_APPNAME": "one"}),
    row(["shell", IMAGE], out="in shell\n", stdin="echo in shell\n"),
    row(["shell", "-s", "/bin/sh", IMAGE], out="sh\n", stdin="echo ${0##*/}\n"),
    row(["shell", IMAGE, "more"], err="WARNING", stdin=""),
    on(["--bind", f"{DATA}:/b"], "cat", "/b/file", out="bound\n"), on(["-B", f"{DATA}:/b:ro"], *SH, "! touch /b/x 2>&1 >/dev/null", err=None),
    on(["-B", f"{DATA}/file:/one,{DATA}:/two"], "cat", "/one", "/two/file", out="bound\nbound\n"),
    on(["--mount", f"type=bind,src={DATA},dst=/m,ro"], "cat", "/m/file", out="bound\n"),
    on(["--mount", f"type=tmpfs,dst=/m"], "true", code=255, err="FATAL|type"),
    on(["-B", "/nonexistent:/b"], "true", code=255, err="/nonexistent"), on(["-B", f"{DATA}:relative"], "true", code=255, err="relative"),
    on([], "cat", "/e/file", out="bound\n", env={"APPTAINER_BIND": f"{DATA}:/e"}), on([], "cat", "/e/file", out="bound\n", env={"SINGULARITY_BINDPATH": f"{DATA}:/e"}),
    on(["-B", f"{DATA}:/c"], "cat", "/e/file", "/c/file", out="bound\nbound\n", env={"APPTAINER_BINDPATH": f"{DATA}:/e"}),
    on([], "cat", "/e/file", out="bound\n", env={"APPTAINER_MOUNT": f"type=bind,src={DATA},dst=/e"}),
    on([], *SH, "echo $APPTAINER_BIND", out="\n"), on(["-B", f"{DATA}:/b"], *SH, "echo $APPTAINER_BIND $SINGULARITY_BIND", out="/b /b\n"),
    on([], *SH, "echo $APPTAINER_NAME $APPTAINER_CONTAINER $APPTAINER_COMMAND", out=f"compat.sif {IMAGE} exec\n"),
    on([], *SH, "echo $APPTAINER_ENVIRONMENT", out="/.singularity.d/env/91-environment.sh\n"),
    on([], *SH, "echo \"$PS1:$PROMPT_COMMAND\"", out='Apptainer> :PS1="Apptainer> "; unset PROMPT_COMMAND\n'),
    on([], *SH, "echo [${APPTAINER_APPNAME-unset}][${SINGULARITY_APPNAME-unset}]", out="[][]\n"),
    on([], *SH, "echo $USER_PATH", out="/usr/local/bin:/usr/bin:/bin\n"), on([], *SH, "echo $FROM_IMAGE", out="image\n"),
    on("--cleanenv", *SH, "echo [$SECRET][$LANG][$TERM]", out="[][C][dumb]\n", env={"SECRET": "x"}), on("-e", *SH, "echo [$SECRET]", out="[]\n", env={"SECRET": "x"}),
    on([], *SH, "echo [$SECRET]", out="[x]\n", env={"SECRET": "x"}),
    on([], *SH, "echo $A", out="1\n", env={"APPTAINERENV_A": "1", "SINGULARITYENV_A": "2"}), on([], *SH, "echo $A", out="2\n", env={"SINGULARITYENV_A": "2"}),
    on(["--env", "A=1,B=2"], *SH, "echo $A $B", out="1 2\n"), on(["--env", "A=$(echo run)"], *SH, "echo $A", out="run\n"),
    on(["--env", "FROM_IMAGE=mine"], *SH, "echo $FROM_IMAGE", out="mine\n"), on(["--env", "HOME=/x"], *SH, "echo $HOME", out=HOME + "\n", err="WARNING"),
    on(["--no-eval", "--env", "A=$(echo run)"], *SH, "echo \"$A\"", out="$(echo run)\n"),
    on(["--env-file", DATA + "/vars"], *SH, "echo $FROM_FILE $SECOND", out="a value a value\n"),
    on(["--env-file", DATA + "/vars", "--env", "FROM_FILE=b"], *SH, "echo $FROM_FILE", out="b\n"), on(["--env-file", "/nonexistent"], "true", code=255, err="/nonexistent"),
    on(["--no-env", "SECRET"], *SH, "echo [$SECRET]", out="[]\n", env={"SECRET": "x"}),
    on([], *SH, "echo $PATH", out="^/x:", env={"APPTAINERENV_PREPEND_PATH": "/x"}), on([], *SH, "echo $PATH", out=":/x\n$", env={"APPTAINERENV_APPEND_PATH": "/x"}),
    on("--contain", *SH, "ls -a $HOME | wc -l; ls /dev | grep -c kmsg; pwd", out=f"^[2-9]\n0\n{HOME}\n$"), on("-c", "test", "!", "-e", JOB, code=0),
    on("--containall", *SH, "echo $$ [$SECRET]", out="^[0-9]{1,2} \\[\\]\n$", env={"SECRET": "x"}), on("-C", "true"),
    on("--compat", *SH, "touch /made && umask && echo $$", out="^0022\n1\n$"),
    on(["--cwd", "/etc"], "pwd", out="/etc\n"), on(["--pwd", "/etc"], "pwd", out="/etc\n"), on(["--cwd", "/nonexistent"], "true", code=255, err="/nonexistent"),
    on([], "pwd", out=JOB + "\n"), on([], "pwd", out="/etc\n", env={"APPTAINER_PWD": "/etc"}), on([], "pwd", out="/etc\n", env={"APPTAINER_CWD": "/etc"}),
    on(["--home", f"{DATA}:/h"], *SH, "echo $HOME; cat $HOME/file", out="/h\nbound\n"), on(["-H", DATA], *SH, "echo $HOME", out=DATA + "\n"),
    on("--no-home", "ls", "-d", HOME, code=1, cwd="/"), on(["--no-mount", "home,tmp"], "ls", "-d", HOME, code=1, cwd="/"), on(["--no-mount", "nosuch"], "true", err="WARNING"),
    on(["--hostname", "elsewhere"], "hostname", out="elsewhere\n"), on(["--hostname", "not valid!"], "true", code=255, err="hostname|host name"),
    on("--uts", "true"), on("--ipc", "true"), on("-i", "true"), on("--pid", *SH, "echo $$", out="^[2-9][0-9]?\n$"), on("-p", "true"),
    on(["--pid", "--no-init"], *SH, "echo $$", out="1\n"), on(["--containall", "--no-pid"], "true"),
    on(["--net", "--network", "none"], "ls", "/sys/class/net", out="lo\n"),
    on("--fakeroot", "id", "-u", out="0\n"), on("-f", *SH, "echo $HOME", out="/root\n"), on("--userns", "id", "-u", out=UID + "\n"), on("-u", "true"),
    on("--no-umask", "sh", "-c", "umask", out="0022\n", umask=0o077), on([], "sh", "-c", "umask", out="0077\n", umask=0o077),
    on("--writable-tmpfs", *SH, "touch /made && echo yes", out="yes\n"), on([], "touch", "/made", code=1), on("--writable", "true", code=255, err="FATAL"),
    on(["--scratch", "/s"], *SH, "touch /s/x && echo yes", out="yes\n"), on(["-S", "/s,/t"], *SH, "touch /s/x /t/x && echo yes", out="yes\n"),
    on(["--contain", "--workdir", DATA], *SH, "touch /tmp/in-work && echo yes", out="yes\n"), on(["-W", DATA, "-c", "-S", "/s"], *SH, "touch /s/y && echo yes", out="yes\n"),
    on(["--dns", "192.0.2.1,192.0.2.2"], "cat", "/etc/resolv.conf", out="nameserver 192.0.2.1\nnameserver 192.0.2.2\n"), on(["--dns", "nonsense"], "true", code=255, err="dns"),
    on(["--security", f"seccomp:{DATA}/seccomp.json"], "mkdir", "/tmp/compat-made", code=1), on(["--security", "uid:0"], "true", code=255),
    on(["--add-caps", "CAP_NET_RAW"], *SH, "grep CapEff /proc/self/status", out="0000000000002000\n$"), on(["--add-caps", "CAP_NOSUCH"], "true", code=255, err="NOSUCH"),
    on(["--fakeroot", "--drop-caps", "all"], *SH, "grep CapEff /proc/self/status", out="0000000000000000\n$"),
    on(["--fakeroot", "--no-privs"], *SH, "grep CapEff /proc/self/status", out="0000000000000000\n$"), on("--keep-privs", "true", code=255, err="root"),
    on(["--containlibs", harness.BUSYBOX], "ls", "/.singularity.d/libs", out="busybox\n"),
    on("--nv", "true"), on("--rocm", "true"), on(["--nv", "--no-nv"], "true"), on(["--rocm", "--no-rocm"], "true"), on(["--nv", "--compat32"], "true"),
    on("--underlay", "true", err=""), on("--sharens", "true"), on("--unsquash", "true"), on("--disable-cache", "true"), on("--no-https", "true"), on("--nohttps", "true"),
    on(["--authfile", DATA + "/file"], "true"), on(["--tmpdir", DATA], "true"), on(["--runscript-timeout", "10s"], "true"),
    on(["--docker-username", "u"], "true"), on(["--docker-password", "p"], "true"), on(["--docker-host", "tcp://h"], "true"),
    on(["--overlay", DATA + ":ro"], "cat", "/file", out="bound\n"), on(["-o", "/nonexistent"], "true", code=255, err="/nonexistent"),
    on("--allow-setuid", "true", code=255, err="allow-setuid"),
    on([], "ls", "-d", HOME, code=1, env={"APPTAINER_NO_HOME": "1"}, cwd="/"), on([], "ls", "-d", HOME, out=HOME + "\n", env={"APPTAINER_NO_HOME": "  "}),
]
COMMANDS = [
    row(["--version"], out="^apptainer version 1\\.[0-9]+\\.[0-9]+\n$"), row(["version"], out="^1\\.[0-9]+\\.[0-9]+\n$"), row(["help"], out="exec"), row(["help", "exec"], out="--bind"),
    row(["exec", "--help"], out="--bind"), row(["exec", "-h"], out="--bind"), row(["--help"], out="exec"), row(["buildcfg"], out="PACKAGE_NAME"), row(["buildcfg", "NOSUCH"], code=1),
    row(["run-help", IMAGE], out="help text\n"), row(["run-help", "--app", "one", IMAGE], out="app help\n"),
    row(["inspect", IMAGE], out="label: value"), row(["inspect", "--json", IMAGE], out='"label": ?"value"'), row(["inspect", "-r", IMAGE], out="echo ran"), row(["inspect", "--runscript", IMAGE], out="echo ran"),
    row(["inspect", "-H", IMAGE], out="help text"), row(["inspect", "-t", IMAGE], out="echo tested"), row(["inspect", "-e", IMAGE], out="FROM_IMAGE"), row(["inspect", "--list-apps", IMAGE], out="one"),
    row(["inspect", "/nonexistent"], code=255, err="nonexistent"),
    row(["sif", "list", IMAGE], out="Squashfs/\\*System/amd64"), row(["sif", "header", IMAGE], out="Primary Architecture"), row(["sif", "info", "1", IMAGE], out="Name:"), row(["siftool", "list", IMAGE], out="Squashfs"),
    row(["sif", "info", "9", IMAGE], code=1), row(["sif", "list", "/nonexistent"], code=1), row(["sif", "nosuch"], code=1),
    row(["key", "list"]), row(["keys", "list"]), row(["key", "list", "--global", "--secret"], code=255), row(["key", "import", "/nonexistent"], code=2), row(["key", "export", "/nonexistent/k"], code=10),
    row(["key", "remove", "0000000000000000000000000000000000000000"], code=255), row(["key", "pull"], code=1),
    row(["verify", IMAGE], code=255, err="Failed to verify container"), row(["verify", "/nonexistent"], code=255), row(["sign", "/nonexistent"], code=255, err="Failed to sign container"), row(["verify"], code=1),
    row(["capability", "avail"], out="CAP_CHOWN"), row(["caps", "avail", "CAP_KILL"], out="KILL"), row(["capability", "avail", "CAP_NOSUCH"], code=255), row(["capability", "list", "nobody"], code=255),
    row(["capability", "add", "--user", "nobody", "CAP_KILL"], code=255), row(["config", "global"], code=1), row(["cache", "list"], out="."), row(["cache", "clean", "--force"]),
    row(["overlay", "create", "--size", "1", JOB + "/no.img"], code=255), row(["overlay", "create"], code=1), row(["remote", "list"], out="."), row(["registry", "list"]), row(["keyserver", "list"], out="."),
    row(["pull"], code=1), row(["pull", "nosuch://x"], code=255), row(["push"], code=1), row(["completion", "bash"], out="complete"), row(["delete"], code=1), row(["search"], code=1), row(["tag"], code=1),
    row(["-d", "exec", IMAGE, "true"], err=("^(?:DEBUG|VERBOSE)", 90)), row(["-v", "exec", IMAGE, "true"], err=("^VERBOSE", 10)), row(["-q", "exec", "--no-mount", "nosuch", IMAGE, "true"], err="WARNING"),
    row(["-s", "exec", "--no-mount", "nosuch", IMAGE, "true"], err="^$"), row(["--nocolor", "exec", IMAGE, "true"]), row(["exec", IMAGE, "true"], err="DEBUG", env={"APPTAINER_DEBUG": "1"}),
    row(["exec", IMAGE, "true"], err="DEBUG", env={"APPTAINER_MESSAGELEVEL": "5"}),
    row(["-c", "/nonexistent", "exec", IMAGE, "true"], code=255),
]
# Options that take what this machine need not have, or whose tests are named.
ELSEWHERE = {"app": "", "passphrase": "crypt.py", "pem-path": "crypt.py", "netns-path": "networks", "network-args": "networks", "docker-login": "asks on a terminal",
             "apply-cgroups": "limits", "blkio-weight": "limits", "blkio-weight-device": "limits", "cpu-shares": "limits", "cpus": "limits", "cpuset-cpus": "limits",
             "cpuset-mems": "limits", "memory": "limits", "memory-reservation": "limits", "memory-swap": "limits", "oom-kill-disable": "limits", "pids-limit": "limits",
             "boot": "instances", "dmtcp-launch": "not there", "dmtcp-restart": "not there", "pid-file": "instances", "cdi-dirs": "devices", "device": "devices",
             "intel-hpu": "devices", "nvccli": "devices", "fusemount": "mounts.py", "ignore-fakeroot-command": "test knob", "ignore-subuid": "test knob", "ignore-userns": "test knob"}


def holds(pattern, text):
    if pattern is None:
        return True
    if isinstance(pattern, tuple):  # at least so many
        return len(re.findall(pattern[0], text, flags=re.M)) >= pattern[1]
    if pattern == text:
        return True
    return pattern != "" and re.search(pattern, text) is not None


def check_rows(b, rows):
    wrong = []
    for words, code, out, err, how in rows:
        how = dict(how)
        mask = how.pop("umask", None)
        command = [APPTAINER, *words]
        if mask is not None:
            command = ["sh", "-c", f'umask {mask:o}; exec "$@"', "sh", *command]
        done = b.run(command=command, **how)
        if done.code != code or not holds(out, done.out) or (err is not None and not holds(err, done.err)):
            wrong.append(f"apptainer {' '.join(words)} {how or ''}\n  expected {code}, {out!r}, {err!r}\n  {done!r}")
    assert not wrong, f"{len(wrong)} of {len(rows)} rows:\n" + "\n".join(wrong)


def actions(b):
    """Options and variables of exec, run, shell and test"""
    check_rows(b, ACTIONS)


def commands(b):
    """The other commands, global options and exit codes"""
    check_rows(b, COMMANDS)


def every_option_has_a_row(b):
    """Every option that postern-compat(7) lists for the action commands has a row, or a test that is named"""
    with open(os.path.join(TREE, "man/postern-compat.7.scd"), encoding="utf-8") as file:
        section = file.read().split("# OPTIONS OF EXEC", 1)[1].split("\n# ", 1)[0]
    listed = set(re.findall(r"^\*--([a-z0-9-]+)\*", section, flags=re.M))
    letters = {"-B": "bind", "-s": "shell"}
    used = {letters.get(word, word).lstrip("-") for words, *_ in ACTIONS for word in words if word.startswith("-")}
    missing = sorted(listed - used - set(ELSEWHERE))
    assert len(listed) > 80 and not missing, missing


bench.main([actions, commands, every_option_has_a_row])
