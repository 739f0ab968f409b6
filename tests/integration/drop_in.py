#!/usr/bin/env python3
"""What programs, batch scripts and workflow tools expect of Apptainer: descriptors, what lies on top,
environment scripts and files, names. Expected values are Apptainer's."""
import itertools
import os
import pty
import re
import select
import subprocess

import harness

bench = harness.Bench()
ROOT = bench.rootfs(files={"from-image/bin/tool": "image\n"})
SQUASHFS = bench.squashfs(ROOT)
# No shell at all: env scripts are the runtime's to read.
SCRIPT = """
source /.singularity.d/helper.inc
if [[ $HELPED == y* && ! -e /nope ]]; then export BASHISM=works; fi
LIST=(one two); export SECOND=${LIST[1]}
function add { export ADDED=$((20 + 22)); }; add
export FROM_PROGRAM="$(printf %s,%s a b; /bin/busybox echo -n c)"
export UPPER=${BASHISM^^} WITHOUT=${0##*/}
"""
SHELLS = bench.squashfs(bench.rootfs("bashisms", files={
    ".singularity.d/helper.inc": "HELPED=yes\n", ".singularity.d/env/10-first.sh": "carried=over\nf() { export CALLED=f; }\n",
    ".singularity.d/env/90-environment.sh": SCRIPT, ".singularity.d/env/91-environment.sh": "f; export CARRIED=$carried\n",
    ".singularity.d/env/99-base.sh": "\n"}))
BROKEN = bench.squashfs(bench.rootfs("broken", files={
    ".singularity.d/env/10-syntax.sh": "export A=1\nif true; then\n", ".singularity.d/env/20-error.sh": "export B=2\nnosuch-program\nset -e\nfalse\nexport NOT=1\n",
    ".singularity.d/env/30-unset.sh": "export C=3\n: ${NOPE?is missing}\n", ".singularity.d/env/40-fine.sh": "export D=4\n"}))


def with_descriptors(b, *arguments, fds=(), **how):
    return b.run(*arguments, pass_fds=fds, close_fds=True, **how)


def descriptors(b):
    """What was open above 2 reaches the payload under its number, and nothing of ours does"""
    read, write = os.pipe()
    os.write(write, b"through the pipe\n")
    os.close(write)
    high = os.dup2(read, 63)
    low = os.dup2(read, 3)
    for image, options in itertools.product((ROOT, SQUASHFS), ([], ["--pid"], ["--contain"], ["--env", "A=$(echo a)"])):
        seen = with_descriptors(b, "exec", *options, image, "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '", fds=(3, 63)).ok().out.split()
        # 0 1 2, the two, and the directory that ls reads.
        assert len(seen) == 6 and {"0", "1", "2", "3", "63"} < set(seen), (options, seen)
        none = b.run("exec", *options, image, "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '").ok().out.split()
        assert none == ["0", "1", "2", "3"], (options, none)
    with_descriptors(b, "exec", SQUASHFS, "sh", "-c", "cat <&63", fds=(high,)).prints("through the pipe\n")
    for fd in (read, high, low):
        os.close(fd)


def many_descriptors(b):
    """… four hundred of them, of which some stand where ours would"""
    read, write = os.pipe()
    taken = [os.dup2(read, number) for number in range(3, 403) if number not in (read, write)]
    os.write(write, b"x")
    for options in ([], ["--pid"]):
        count = with_descriptors(b, "exec", *options, SQUASHFS, "sh", "-c", "ls /proc/self/fd | wc -l", fds=tuple(taken)).ok().out
        assert int(count) == len(taken) + 4, (options, count)
    for fd in set(taken) | {read, write}:
        os.close(fd)


def ends_of_pipes(b):
    """A pipe ends when the payload closes it: neither postern nor its servers hold it open"""
    for options in ([], ["--pid"]):
        read, write = os.pipe()
        go, tell = os.pipe()
        process = b.popen("exec", *options, SQUASHFS, "sh", "-c", f"exec {write}>&-; head -c 1 <&{go}", pass_fds=(write, go))
        os.close(write)
        assert os.read(read, 1) == b"", "the end of the pipe"
        os.write(tell, b"y")
        assert process.communicate(timeout=60)[0] == b"y"
        for fd in (read, go, tell):
            os.close(fd)


def process_substitution(b):
    """bash: exec IMAGE cat <(echo hi)"""
    b.run(command=["bash", "-c", f"{b.postern} exec {SQUASHFS} cat <(echo hi)"]).prints("hi\n")
    b.run(command=["bash", "-c", f"{b.postern} exec --contain {SQUASHFS} cat <(echo hi) | tr h H"]).prints("Hi\n")


def jobserver(b):
    """make: a job in a container takes a token of the jobserver"""
    with open(b.work + "/Makefile", "w") as file:
        file.write("all:\n\t+@" + b.postern + " exec " + SQUASHFS + " sh -c 'auth=$${MAKEFLAGS##*--jobserver-auth=}; auth=$${auth%% *}; "
                   "dd bs=1 count=1 >/dev/null 2>&1 <&$${auth%,*} && printf + >&$${auth#*,} && echo token'\n")
    result = b.run(command=["make", "-j3", "-C", b.work, "--no-print-directory"]).ok()
    assert result.out == "token\n", repr(result)


def what_lies_on_top(b):
    """Deeper over shallower, named over default, in every order of the words and from every place"""
    data, inner, job = (b.make_directory(name) for name in ("top-data", "top-inner", "top-job"))
    for directory, text in ((data, "data\n"), (inner, "inner\n")):
        with open(directory + "/which", "w") as file:
            file.write(text)
    os.makedirs(data + "/bin")
    os.chown(data + "/bin", b.user.uid, b.user.gid)
    file_source = b.work + "/top-file"
    with open(file_source, "w") as file:
        file.write("file\n")
    inside = {  # options that make something appear at PLACE/bin, and a command whose output proves it
        "image": (["-B", f"{SQUASHFS}:PLACE/bin:image-src=/from-image/bin"], "cat PLACE/bin/tool", "image\n"),
        "bind": (["-B", f"{inner}:PLACE/bin"], "cat PLACE/bin/which", "inner\n"),
        "mount": (["--mount", f"type=bind,src={inner},dst=PLACE/bin"], "cat PLACE/bin/which", "inner\n"),
        "scratch": (["--scratch", "PLACE/bin"], "ls PLACE/bin | wc -l", "0\n"),
        "file": (["-B", f"{file_source}:PLACE/file"], "cat PLACE/file", "file\n"),
        "home": (["--home", f"{inner}:PLACE/bin"], "cat PLACE/bin/which", "inner\n"),
    }
    outside = {  # … at PLACE
        "bind": ["-B", f"{data}:PLACE"],
        "mount": ["--mount", f"type=bind,src={data},dst=PLACE"],
        "scratch": ["--scratch", "PLACE"],
    }
    for place in ("/scratch", "/tmp", job):
        for (deep, (options, command, expected)), (shallow, others) in itertools.product(inside.items(), outside.items()):
            put = [word.replace("PLACE", place) for word in options]
            over = [word.replace("PLACE", place) for word in others]
            for words in (put + over, over + put):
                result = b.run("exec", *words, SQUASHFS, "sh", "-c", command.replace("PLACE", place), cwd=job)
                assert result.code == 0 and result.out == expected, (place, deep, shallow, words, repr(result))
    # A named destination hides what comes by default at and below it, wherever the job stands.
    for cwd in (b.user.home, job, "/"):
        for place in (b.user.home, "/tmp", job):
            result = b.run("exec", "-B", f"{data}:{place}", SQUASHFS, "cat", place + "/which", cwd=cwd)
            assert result.code == 0 and result.out == "data\n", (cwd, place, repr(result))
    deep = b.make_directory("top-job/deep")
    b.run("exec", "-B", f"{data}:{job}", SQUASHFS, "sh", "-c", f"touch {job}/written && ls {job}", cwd=deep).ok()
    assert os.path.exists(data + "/written") and not os.path.exists(job + "/written")


def bashisms(b):
    """%environment in bash runs, whatever shell the image has"""
    for options in ([], ["--pid"], ["--cleanenv"]):
        b.run("exec", *options, SHELLS, "sh", "-c", "echo $BASHISM $SECOND $ADDED $FROM_PROGRAM $UPPER $CALLED $CARRIED").prints(
            "works two 42 a,bc WORKS f over\n")


def failing_scripts(b):
    """A script that fails never prevents a start, and is named"""
    result = b.run("exec", BROKEN, "sh", "-c", "echo $A-$B-$C-$D-$NOT")
    assert result.code == 0 and result.out == "-2-3-4-\n", repr(result)
    for name in ("10-syntax.sh", "20-error.sh", "30-unset.sh"):
        assert name in result.err, repr(result)
    leaves = b.rootfs("leaves", files={".singularity.d/env/10-exit.sh": "exit 3\n"})
    assert b.run("exec", leaves, "true").code == 3


def environment_files(b):
    """--env-file reads assignments with the caller's variables, executes nothing, as root neither"""
    path, mark = b.work + "/variables", b.work + "/executed"
    with open(path, "w") as file:
        file.write("A='one two'\nexport B=\"$A:$CALLER\"\nMULTI='x\ny'\nPATH=/only\n")
    b.run("exec", "--env-file", path, SQUASHFS, "/bin/sh", "-c", "echo \"$B:$MULTI:$PATH\"",
          env={"CALLER": "mine", "PATH": "/nowhere"}).prints("one two:mine:x\ny:/only\n")
    for text in (f"touch {mark}\n", f"A=$(touch {mark})\n", f"A=`touch {mark}`\n", f"A=1 >{mark}\n", f". {mark}.sh\n", f"exec touch {mark}\n",
                 f"A=<(touch {mark})\n", f"(touch {mark})\n", f"command touch {mark}\n", f"eval 'touch {mark}'\n", f"true & touch {mark}\n"):
        with open(path, "w") as file:
            file.write(text)
        result = b.run("exec", "--containall", "--env-file", path, SQUASHFS, "true").fails(255, path, "assignments")
        as_root = subprocess.run([b.postern, "exec", "--env-file", path, SQUASHFS, "true"], capture_output=True, text=True)
        assert as_root.returncode == 255 and path in as_root.stderr and not os.path.exists(mark), (text, repr(result), as_root)


def environment_values(b):
    """--env with CSV quotes, PATH as given, names that are no identifiers, exported functions"""
    show = ["sh", "-c", "echo \"$A|$B|$PATH\""]
    b.run("exec", "--env", '"A=1,2",B=3', "--env", "PATH=/bin:/x", SQUASHFS, *show).prints("1,2|3|/bin:/x\n")
    out = b.run("exec", SQUASHFS, "env", env={"BASH_FUNC_f%%": "() { echo f; }", "with-dash": "1", "with.dot": "2"}).ok().lines
    assert {"BASH_FUNC_f%%=() { echo f; }", "with-dash=1", "with.dot=2"} <= set(out), out


def current_directory(b):
    """A current directory that cannot be had is said; one that is there under another mount is not"""
    closed = b.make_directory("closed-parent/inside")
    command = ["sh", "-c", f"cd {closed} && chmod 0 {os.path.dirname(closed)} && exec {b.postern} exec {SQUASHFS} pwd"]
    os.chown(os.path.dirname(closed), b.user.uid, b.user.gid)
    result = b.run(command=command).ok()
    os.chmod(os.path.dirname(closed), 0o755)
    assert result.out != closed + "\n" and closed in result.err and "WARNING" in result.err, repr(result)
    work = b.make_directory("nextflow/work")
    quiet = b.run("exec", "--no-home", "-B", os.path.dirname(work), SQUASHFS, "pwd", cwd=work).prints(work + "\n")
    assert quiet.err == "", repr(quiet)


def links_of_the_image(b):
    """/etc/resolv.conf, hosts and localtime that are links which lead nowhere, as systemd-resolved makes them"""
    top = b.rootfs("linked")
    for name, target in (("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"), ("etc/hosts", "/nowhere/hosts"),
                         ("etc/localtime", "../usr/share/zoneinfo/Etc/UTC"), ("data", "/lost/data")):
        path = os.path.join(top, name)
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(target, path)
    source = b.work + "/linked-source"
    with open(source, "w") as file:
        file.write("bound\n")
    for image in (top, b.squashfs(top)):
        for options in ([], ["--writable-tmpfs"], ["--contain"]):
            b.run("exec", *options, image, "sh", "-c", "cat /etc/hosts && cat /etc/resolv.conf >/dev/null && test -e /etc/localtime && echo there").ok()
        b.run("exec", "--dns", "192.0.2.1", image, "cat", "/etc/resolv.conf").prints("nameserver 192.0.2.1\n")
        b.run("exec", "-B", f"{source}:/etc/resolv.conf", image, "cat", "/etc/resolv.conf").prints("bound\n")
        b.run("exec", "-B", f"{source}:/data/deep/file", image, "cat", "/data/deep/file").prints("bound\n")
        assert os.readlink(top + "/etc/hosts") == "/nowhere/hosts", "the image itself is as it was"


def shared_memory(b):
    """/dev/shm of --contain holds more than the session's 64 MiB"""
    b.run("exec", "--contain", SQUASHFS, "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1048576 count=80 2>/dev/null && stat -c %s /dev/shm/x").prints(
        "83886080\n")


def nodes_of_devices(b):
    """--contain where the nodes of /dev are mounts, as inside of bubblewrap and of ourselves"""
    inside = ["bwrap", "--bind", "/", "/", "--dev", "/dev", "--dev-bind", "/dev/fuse", "/dev/fuse", "--proc", "/proc"]
    check = "for d in null zero full random urandom; do [ -c /dev/$d ] || exit 3; done; echo x > /dev/null && head -c 3 /dev/zero | wc -c"
    for options in (["--contain"], ["--containall"], ["--contain", "-B", "/dev/null"]):
        b.run(command=[*inside, b.postern, "exec", *options, ROOT, "sh", "-c", check]).prints("3\n")
        b.run(command=[*inside, b.postern, "exec", *options, SQUASHFS, "sh", "-c", check]).prints("3\n")
    binds = [word for place in ("/usr", "/lib", "/lib64", b.top) if os.path.exists(place) for word in ("-B", place)]
    b.run("exec", "--contain", "-B", "/dev/fuse", *binds, SQUASHFS, b.postern, "exec", "--contain", SQUASHFS, "sh", "-c", check).prints("3\n")
    # Without /dev/fuse the cure says how to come by it, and a directory runs.
    b.run("exec", "--contain", *binds, SQUASHFS, b.postern, "exec", "--contain", SQUASHFS, "true").fails(255, "/dev/fuse", "--bind /dev/fuse")
    b.run("exec", "--contain", *binds, SQUASHFS, b.postern, "exec", "--contain", ROOT, "sh", "-c", check).prints("3\n")


def prompts(b):
    """The prompt is the program's name's, whatever start files set, unless the caller gives one"""
    called = os.path.join(b.top, "called")
    os.makedirs(called, exist_ok=True)
    os.path.exists(called + "/singularity") or os.symlink(b.postern, called + "/singularity")
    show = ["sh", "-c", 'echo "$PS1|$PROMPT_COMMAND"']
    b.run(command=[called + "/singularity", "exec", SQUASHFS, *show]).prints('Apptainer> |PS1="Apptainer> "; unset PROMPT_COMMAND\n')
    b.run("exec", SQUASHFS, *show).prints('Postern> |PS1="Postern> "; unset PROMPT_COMMAND\n')
    b.run("exec", "--env", "PS1=mine: ", SQUASHFS, *show).prints("mine: |\n")
    b.run("exec", SQUASHFS, *show, env={"APPTAINERENV_PROMPT_COMMAND": "date"}).prints("Postern> |date\n")


# What is typed, and what is offered then.
COMPLETED = ((["ke"], {"key", "keyserver"}), (["key", ""], {"list", "import", "newpair"}), (["sif", "add", "--part"], {"--partfs", "--parttype"}),
             (["overlay", "create", "--s"], {"--size", "--sparse"}), (["exec", "--cont"], {"--contain", "--containall"}),
             (["capability", "a"], {"add", "avail"}), (["-v", "sif", "d"], {"del", "dump"}), (["-c", "/dev/null", "sif", "d"], {"del", "dump"}),
             (["-v", "sif", "add", "--part"], {"--partfs", "--parttype"}), (["instance", "start", "--conta"], {"--contain", "--containall"}),
             (["config", "global", "--dr"], {"--dry-run"}))


def completions(b):
    """bash completes commands, second-level commands and the options of both"""
    script = b.run("completion", "bash").ok().out
    for words, wanted in COMPLETED:
        line = " ".join(f"'{word}'" for word in ["postern", *words])
        text = script + f"\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _postern; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
        seen = set(b.run(command=["bash", "-c", text], env={"PATH": os.path.dirname(b.postern) + ":/usr/bin:/bin"}).ok().lines)
        assert wanted <= seen, (words, seen)


def fish_completions(b):
    """fish does, and offers no files where a command below a command is wanted"""
    script = b.run("completion", "fish").ok().out
    path = {"PATH": os.path.dirname(b.postern) + ":/usr/bin:/bin"}
    for words, wanted in COMPLETED:
        text = script + "complete -C '" + " ".join(["postern", *words]) + "'\n"
        seen = {line.split("\t")[0] for line in b.run(command=["fish", "--no-config", "-c", text], env=path).ok().lines}
        assert wanted <= seen, (words, seen)
    with open(b.work + "/state-of-this", "w"):
        text = script + "complete -C 'postern instance sta'\n"
    seen = {line.split("\t")[0] for line in b.run(command=["fish", "--no-config", "-c", text], env=path).ok().lines}
    assert seen == {"start", "stats"}, seen


def zsh_completions(b):
    """zsh does, at a terminal"""
    place = b.make_directory("zsh")
    with open(place + "/_postern", "w") as file:
        file.write(b.run("completion", "zsh").ok().out)
    start = f"PROMPT='> '; fpath=({place} $fpath); autoload -Uz compinit; compinit -u -D; bindkey '^I' list-choices; LISTMAX=0; echo rea''dy\n"
    environment = {"PATH": os.path.dirname(b.postern) + ":/usr/bin:/bin", "HOME": place, "TERM": "dumb", "ZDOTDIR": place, "COLUMNS": "200"}
    ours, theirs = pty.openpty()
    zsh = b.popen(command=["zsh", "-f", "-i"], env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)

    def until(mark):
        """What is shown, up to the prompt behind the mark: what is typed before zsh edits a line is not for its editor."""
        seen = ""
        while "\x1b[?2004h" not in seen.partition(mark)[2]:
            assert select.select([ours], [], [], 60)[0], f"zsh says no {mark!r}: {seen!r}"
            seen += os.read(ours, 65536).decode(errors="replace")
        return seen
    try:
        os.write(ours, start.encode())
        until("ready")
        for words, wanted in COMPLETED:
            os.write(ours, (" ".join(["postern", *words]) + "\t\x15echo do''ne\n").encode())
            seen = until("\ndone")
            assert wanted <= set(re.findall(r"[\w-]+", seen.partition("\n")[2])), (words, seen)
    finally:
        zsh.kill()
        zsh.wait()
        os.close(ours)


def names_and_versions(b):
    """As apptainer and singularity it answers the versions that workflow tools parse"""
    for name in ("apptainer", "singularity"):
        path = os.path.join(os.path.dirname(b.postern), name)
        if not os.path.islink(path):
            os.symlink("postern", path)
        version = b.run(command=[path, "--version"]).ok().out
        assert version.startswith("apptainer version 1.") and all(part.isdigit() for part in version.split()[-1].split(".")), version
        assert b.run(command=[path, "version"]).ok().out == version.split()[-1] + "\n"
        os.unlink(path)


def options_that_change_nothing(b):
    """What can do nothing here is taken, by option and by variable, and said with -v"""
    flags = ["--underlay", "--sharens", "--unsquash"]
    values = ["--docker-host", "--runscript-timeout"]
    for words in [[flag] for flag in flags] + [[value, "x"] for value in values]:
        quiet = b.run("exec", *words, SQUASHFS, "echo", "ran").prints("ran\n")
        assert quiet.err == "", (words, repr(quiet))
        assert words[0] in b.run("-v", "exec", *words, SQUASHFS, "true").ok().err, words
    b.run("exec", SQUASHFS, "echo", "ran", env={"APPTAINER_UNDERLAY": "1", "SINGULARITY_DISABLE_CACHE": "1", "APPTAINER_TMPDIR": "/x"}).prints("ran\n")
    b.run("exec", "--mount", f"src={b.work},dst=/m", SQUASHFS, "test", "-d", "/m").ok()
    b.run("exec", "--dns", "not-an-address", SQUASHFS, "true").fails(255, "not-an-address")
    b.run("-c", "/nonexistent.toml", "exec", SQUASHFS, "true").fails(255, "/nonexistent.toml")
    b.run("shell", "-s", "/bin/nosuch", SQUASHFS, stdin="echo in $0\n").ok()


bench.main([nodes_of_devices, prompts, completions, fish_completions, zsh_completions, descriptors, many_descriptors, ends_of_pipes, process_substitution, jobserver, what_lies_on_top, bashisms, failing_scripts,
            environment_files, environment_values, current_directory, links_of_the_image, shared_memory, names_and_versions, options_that_change_nothing])
