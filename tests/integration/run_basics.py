#!/usr/bin/env python3
"""exec, run, shell, test; image kinds; environment; exit codes."""
import os
import shutil
import signal

import harness

bench = harness.Bench()
ENV_BASE = '''#!/bin/sh
if [ -z "$LD_LIBRARY_PATH" ]; then
    LD_LIBRARY_PATH="/.singularity.d/libs"
else
    LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/.singularity.d/libs"
fi
PS1="Singularity> "
export LD_LIBRARY_PATH PS1
'''
ROOT = bench.rootfs(files={
    ".singularity.d/runscript": '#!/bin/sh\necho "run $# $1"\nexit 9\n',
    ".singularity.d/test": "#!/bin/sh\necho tested $1\n",
    ".singularity.d/env/10-docker2singularity.sh": '#!/bin/sh\nexport PATH="/opt/tool:/bin"\n'
                                                    'export FROM_IMAGE="${FROM_IMAGE:-"image value"}"\n'
                                                    'export EMPTIED=""\n',
    ".singularity.d/env/99-base.sh": ENV_BASE,
    "opt/tool/hello": "#!/bin/sh\necho hello from opt\n",
    "bin/noshebang": "echo no shebang\n",
    "scif/apps/one/scif/runscript": "#!/bin/sh\necho app one $1\n",
    "bin/wrong": "#!/no/such/interpreter\n",
    "bin/notexec": "plain\n",
})
os.chmod(ROOT + "/bin/noshebang", 0o755)
os.chmod(ROOT + "/bin/wrong", 0o755)
SHELL_ROOT = bench.rootfs("shellroot", files={
    ".singularity.d/env/90-environment.sh": '#!/bin/sh\nexport COMPUTED=$(echo computed)\ncase x in x) export CASE=1;; esac\n'
                                            'umask 027\nexport MINE=image\n',
    ".singularity.d/env/99-base.sh": ENV_BASE,
})
EXIT_ROOT = bench.rootfs("exitroot", files={".singularity.d/env/90-environment.sh": "#!/bin/sh\necho early; exit 3\n"})
BARE = bench.rootfs("bare", empty=True)
shutil.copy(harness.BUSYBOX, BARE + "/env")  # busybox by its name: an image with one file, no shell
SQUASHFS = bench.squashfs(ROOT)
SIF = bench.sif(SQUASHFS)
IMAGES = [ROOT, SQUASHFS, bench.squashfs(ROOT, "gzip"), SIF]


def every_kind_of_image_runs(b):
    """a directory, a squashfs and a SIF run the same command"""
    for image in IMAGES:
        b.run("exec", image, "echo", "a b", "c").prints("a b c\n")
        b.run("exec", image, "hello").prints("hello from opt\n")


def exit_status_passes_through(b):
    """the payload's exit status is the program's"""
    for image in (ROOT, SIF):
        for code in (0, 1, 42, 255):
            assert b.run("exec", image, "sh", "-c", f"exit {code}").code == code


def death_by_signal_passes_through(b):
    """a payload killed by a signal kills the program with the same signal"""
    for image in (ROOT, SIF):
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT):
            result = b.run("exec", image, "sh", "-c", f"kill -{int(number)} $$")
            assert result.code == -number, repr(result)
    # Process 1 of a pid namespace ends with 128+N.
    assert b.run("exec", "--pid", ROOT, "sh", "-c", "kill -9 $$; sleep 5").code == 137
    assert b.run("exec", "--pid", ROOT, "sh", "-c", "(sleep 9 & exec sleep 9) & kill -9 $!; exit 7").code == 7


def commands_that_cannot_run(b):
    """a missing command, interpreter or permission says which it is, and ends with 255"""
    b.run("exec", SIF, "nosuchcmd").fails(255, '"nosuchcmd": executable file not found in $PATH')
    b.run("exec", SIF, "/no/such").fails(255, "/no/such", "No such file")
    b.run("exec", SIF, "wrong").fails(255, "wrong", "interpreter")
    b.run("exec", SIF, "notexec").fails(255, "notexec", "Permission denied")
    b.run("exec", SIF, "/bin").fails(255, "/bin", "Permission denied")
    b.run("exec", SIF, "noshebang").prints("no shebang\n")


def run_and_test(b):
    """run executes the runscript, test the test script; both pass arguments and status"""
    result = b.run("run", SIF, "one two", "3")
    assert (result.code, result.out) == (9, "run 2 one two\n"), repr(result)
    b.run("test", SIF, "x").prints("tested x\n")
    b.run("run", "--app", "one", SIF, "x").prints("app one x\n")
    result = b.run("run", "--app", "none", SIF)
    assert result.code == 1 and "none" in result.err, repr(result)
    result = b.run("test", SHELL_ROOT)
    assert result.code == 0 and "INFO" in result.err, repr(result)


def shell_reads_standard_input(b):
    """shell runs commands of standard input; run of an image without runscript falls back to /bin/sh"""
    b.run("shell", SIF, stdin="echo in $((1+1)) $SHELL\n").prints("in 2 /bin/sh\n")
    assert "fallback" in b.run("run", SHELL_ROOT, stdin="echo fallback\n").ok().out
    result = b.run("shell", "--shell", "/bin/nosuch", SIF, stdin="echo $((1+1))\n").prints("2\n")
    assert "/bin/nosuch" in result.err, repr(result)


def pipes_work_both_ways(b):
    """standard input, output and error are the caller's own"""
    data = "x" * 300000 + "\n"
    b.run("exec", SIF, "cat", stdin=data).prints(data)
    result = b.run("exec", SIF, "sh", "-c", "echo out; echo err >&2")
    assert (result.out, result.err) == ("out\n", "err\n"), repr(result)
    closed = b.run(command=["/bin/sh", "-c", f'"{b.postern}" exec "{SIF}" ls -l /proc/self/fd <&- 2>&-'])
    assert "0 -> /dev/null" in closed.out, repr(closed)


def no_shell_no_proc(b):
    """an image of one static file runs: no shell, no /proc, no libc, no /etc"""
    result = b.run("exec", "--no-mount", "proc,sys,dev", BARE, "/env", env={"PROBE": "yes"})
    result.ok()
    assert "PROBE=yes" in result.lines and "LD_LIBRARY_PATH=/.singularity.d/libs" in result.lines, repr(result)


def oci_run_without_shell(b):
    """ENTRYPOINT and CMD of an image without a shell run, in our form and in that of other builds"""
    ours = "#!/bin/sh\n[ $# -gt 0 ] || set -- 'from=cmd'\nexec '/env' 'A=1' \"$@\"\n"
    theirs = "#!/bin/sh\nOCI_ENTRYPOINT='\"/env\" \"A=1\"'\nOCI_CMD='\"from=cmd\"'\neval stuff\n"
    for name, text in (("ours", ours), ("theirs", theirs)):
        top = b.rootfs(name, empty=True, files={".singularity.d/runscript": text})
        shutil.copy(harness.BUSYBOX, top + "/env")
        lines = b.run("run", top).ok().lines
        assert "A=1" in lines and "from=cmd" in lines, (name, lines)
        lines = b.run("run", top, "from=caller").ok().lines
        assert "A=1" in lines and "from=caller" in lines and "from=cmd" not in lines, (name, lines)


def environment_precedence(b):
    """--env beats ENV_ variables, which beat the image's scripts, which beat the host"""
    probe = ["sh", "-c", 'echo "$FROM_IMAGE|${EMPTIED-unset}|$HOSTVAR"']
    b.run("exec", SIF, *probe).prints("image value||\n")
    host = {"FROM_IMAGE": "host", "EMPTIED": "host", "HOSTVAR": "host"}
    b.run("exec", SIF, *probe, env=host).prints("image value|unset|host\n")
    for prefix in ("SINGULARITYENV_", "APPTAINERENV_", "POSTERNENV_"):
        host[prefix + "FROM_IMAGE"] = prefix
        b.run("exec", SIF, *probe, env=host).prints(f"{prefix}|unset|host\n")
    b.run("exec", "--env", "FROM_IMAGE=option", SIF, *probe, env=host).prints("option|unset|host\n")
    b.run("exec", "--cleanenv", SIF, *probe, env={"HOSTVAR": "host"}).prints("image value||\n")


def environment_values_are_expanded(b):
    """values of --env are expanded as in double quotes, inside the container; --no-eval takes them literally"""
    probe = ["sh", "-c", 'printf %s "$V"']
    b.run("exec", "--env", "V=$PATH:/q", SIF, *probe).prints("/opt/tool:/bin:/q")
    b.run("exec", "--env", "V=$(echo a; echo b)", SIF, *probe).prints("a\nb")
    b.run("exec", "--env", 'V=\\$HOME "q"', SIF, *probe).prints('$HOME "q"')
    b.run("exec", "--no-eval", "--env", "V=$(id) $HOME", SIF, *probe).prints("$(id) $HOME")


def environment_scripts_that_need_a_shell(b):
    """scripts that need a shell are sourced by the image's; their umask lasts; exit ends the start"""
    b.run("exec", SHELL_ROOT, "sh", "-c", 'echo "$COMPUTED $CASE $MINE $HOSTVAR"; umask; ls /proc/self/fd | wc -l',
          env={"HOSTVAR": "host", "MINE": "host"}).prints("computed 1 image host\n0027\n4\n")
    result = b.run("exec", EXIT_ROOT, "true")
    assert (result.code, result.out) == (3, "early\n"), repr(result)


def fixed_variables(b):
    """what the runtime sets: container, name, command, search paths, prompt"""
    lines = b.run("exec", SIF, "env").ok().lines
    for line in (f"APPTAINER_CONTAINER={SIF}", f"POSTERN_NAME={os.path.basename(SIF)}", "SINGULARITY_COMMAND=exec",
                 "LD_LIBRARY_PATH=/.singularity.d/libs", f"HOME={b.user.home}", f"PWD={b.work}"):
        assert line in lines, f"{line} not in {lines}"
    assert not [line for line in lines if line.startswith(("OLDPWD=", "POSTERN_LIBEXEC="))], lines
    path = [line for line in lines if line.startswith("PATH=")][0]
    assert path == "PATH=/opt/tool:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin", path
    prepended = b.run("exec", SIF, "env", env={"APPTAINERENV_PREPEND_PATH": "/first", "APPTAINERENV_APPEND_PATH": "/last"})
    assert any(line.startswith("PATH=/first:/opt/tool:/bin:/last") for line in prepended.lines), repr(prepended)


def symlinked_names(b):
    """called as apptainer or singularity it behaves the same"""
    for name in ("apptainer", "singularity"):
        link = os.path.join(os.path.dirname(b.postern), name)
        if not os.path.lexists(link):
            os.symlink("postern", link)
        b.run(command=[link, "exec", SIF, "echo", name]).prints(name + "\n")


def big_arguments(b):
    """an argument of nearly 128 KiB, and ten thousand short ones, arrive"""
    b.run("exec", SIF, "sh", "-c", "echo ${#1}", "sh", "x" * 131000).prints("131000\n")
    b.run("exec", SIF, "sh", "-c", "echo $#", "sh", *["y" * 100] * 10000).prints("10000\n")


def other_peoples_image(b):
    """an image made by another implementation runs"""
    image = os.environ.get("POSTERN_TEST_IMAGES", "") + "/busybox_amd64.sif"
    if not os.path.exists(image):
        raise harness.Skip("POSTERN_TEST_IMAGES does not name the images")
    result = b.run("exec", image, "uname", "-s")
    result.prints("Linux\n")
    assert b.user.name in b.run("exec", image, "id").out
    assert b.run("run", image, "echo", "from", "runscript").prints("from runscript\n")


def parallel_starts_of_all_kinds(b):
    """thirty starts at once, of every kind of image, all succeed"""
    running = [b.popen("exec", IMAGES[i % len(IMAGES)], "sh", "-c", f"exit {i}") for i in range(30)]
    for i, process in enumerate(running):
        out, err = process.communicate(timeout=60)
        assert process.returncode == i, (i, process.returncode, out, err)


bench.main([every_kind_of_image_runs, exit_status_passes_through, death_by_signal_passes_through, commands_that_cannot_run,
            run_and_test, shell_reads_standard_input, pipes_work_both_ways, no_shell_no_proc, oci_run_without_shell, environment_precedence,
            environment_values_are_expanded, environment_scripts_that_need_a_shell, fixed_variables, symlinked_names,
            big_arguments, other_peoples_image, parallel_starts_of_all_kinds])
