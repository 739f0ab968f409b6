#!/usr/bin/env python3
"""exec, run, shell and test, as an ordinary user: what every option does, what every mistake says,
and that nothing is left behind.

    command_line.py SIF POSTERN PROGRAM...     (PROGRAM: postern-init, postern-squashfs, ...)

TAP on standard output. Exit 77: this host cannot run it.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import images  # noqa: E402
import tap  # noqa: E402
import users  # noqa: E402

USER = users.reserve(1)[0]  # no account
AS_ROOT = os.geteuid() == 0
SIF, POSTERN, *PROGRAMS = (os.path.abspath(path) for path in sys.argv[1:])
LIBEXEC = ":".join(dict.fromkeys(os.path.dirname(program) for program in PROGRAMS))

REPORT = tap.Report()
report = REPORT.point


def as_user(command):
    if not AS_ROOT:
        return command
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] + command


def run(arguments, environment=None, cwd=None, stdin=""):
    variables = {"HOME": HOME, "PATH": "/usr/bin:/bin", "TERM": "dumb", "POSTERN_LIBEXEC": LIBEXEC}
    variables.update(environment or {})
    return subprocess.run(as_user([POSTERN] + arguments), env=variables, cwd=cwd or HOME, input=stdin,
                          capture_output=True, text=True, timeout=60, check=False)


def expect(name, arguments, output=None, error=None, status=0, **how):
    """`output`, `error`: regular expressions that must be found; None = anything."""
    done = run(arguments, **how)
    ok = done.returncode == status
    ok = ok and (output is None or re.search(output, done.stdout, re.S | re.M) is not None)
    ok = ok and (error is None or re.search(error, done.stderr, re.S | re.M) is not None)
    report(ok, name, f"arguments: {arguments}\nexpected: status {status}, {output!r}, {error!r}\n"
                     f"got: status {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}")
    return done


def give(path):
    """To the user, with all below."""
    if AS_ROOT:
        for folder, names, files in os.walk(path):
            for one in [folder] + [os.path.join(folder, f) for f in names + files]:
                os.lchown(one, USER, USER)


def make_image(path):
    for folder in ["bin", "etc", "tmp", ".singularity.d/env"]:
        os.makedirs(os.path.join(path, folder))
    shutil.copy("/bin/busybox", os.path.join(path, "bin/busybox"))
    for applet in ["sh", "ls", "cat", "id", "env", "echo", "true", "pwd", "mount", "grep", "touch", "sleep", "hostname"]:
        os.symlink("busybox", os.path.join(path, "bin", applet))
    for name, text in [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nother:x:7:7:Other:/:/bin/no\n"),
                       ("etc/group", "root:x:0:\n"),
                       (".singularity.d/env/90-environment.sh", "export FROM_IMAGE=image\nexport BOTH=image\n"),
                       (".singularity.d/env/99-base.sh", "")]:
        with open(os.path.join(path, name), "w", encoding="utf-8") as file:
            file.write(text)
    for name, text in [("runscript", "echo runscript \"$@\"; echo args $#"), ("test", "echo testscript; exit 3")]:
        script = os.path.join(path, ".singularity.d", name)
        with open(script, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(script, 0o755)


def left_behind():
    """Processes of the user's that are no zombies of somebody else, and mounts of ours."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                status = file.read()
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                command = file.read().replace("\0", " ")
        except OSError:
            continue
        if AS_ROOT and re.search(rf"^Uid:\t{USER}\t", status, re.M) or TOP in command and "command_line" not in command:
            found.append(f"process {pid}: {command}")
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        found += [line for line in file if TOP in line]
    return found


def environment_tests(image):
    shell = ["exec", image, "sh", "-c"]
    expect("the image's scripts, then the host's variables where the image sets none",
           shell + ["echo $FROM_IMAGE $BOTH $HOST"], r"^image image host$",
           environment={"HOST": "host", "BOTH": "host"})
    expect("POSTERNENV_ beats the image and APPTAINERENV_", shell + ["echo $BOTH"], "^postern$",
           environment={"APPTAINERENV_BOTH": "apptainer", "POSTERNENV_BOTH": "postern"})
    expect("SINGULARITYENV_ alone counts too", shell + ["echo $X"], "^s$", environment={"SINGULARITYENV_X": "s"})
    expect("--env beats them all", ["exec", "--env", "BOTH=flag", image, "sh", "-c", "echo $BOTH"], "^flag$",
           environment={"POSTERNENV_BOTH": "postern"})
    expect("--env is evaluated inside", ["exec", "--env", "U=$(id -u)-$FROM_IMAGE", image, "sh", "-c", "echo $U"],
           rf"^{USER if AS_ROOT else os.getuid()}-image$")
    expect("--no-eval takes it literally", ["exec", "--no-eval", "--env", "U=$(id)", image, "sh", "-c", "echo \"$U\""],
           r"^\$\(id\)$")
    expect("--cleanenv", ["exec", "--cleanenv", image, "env"], r"^LANG=C$", environment={"HOST": "x"})
    done = run(["exec", "--cleanenv", image, "env"], environment={"HOST": "x"})
    report(done.returncode == 0 and "HOST=" not in done.stdout, "--cleanenv keeps the host's variables out", done.stdout)
    file = os.path.join(TOP, "variables")
    with open(file, "w", encoding="utf-8") as out:
        out.write("A='one two'\nB=\"$A three\"\n")
    expect("--env-file is shell code", ["exec", "--env-file", file, image, "sh", "-c", "echo \"$B\""], "^one two three$")
    expect("a missing --env-file", ["exec", "--env-file", "/nonexistent", image, "true"], status=255,
           error="FATAL:   --env-file /nonexistent: No such file")
    expect("PATH changes", shell + ["echo $PATH"], r"^/first:.*:/last$",
           environment={"APPTAINERENV_PREPEND_PATH": "/first", "APPTAINERENV_APPEND_PATH": "/last"})
    expect("the runtime's own variables in all spellings", shell + ["echo $POSTERN_NAME $APPTAINER_NAME $SINGULARITY_NAME"],
           "^image image image$")
    expect("a flag from the environment", ["exec", image, "pwd"], "^/etc$", environment={"SINGULARITY_CWD": "/etc"})
    expect("POSTERN_ first", ["exec", image, "pwd"], "^/bin$", error="differ",
           environment={"SINGULARITY_CWD": "/etc", "POSTERN_CWD": "/bin"})


def mount_tests(image, squash):
    data = os.path.join(TOP, "da ta:x,y\nz")
    os.mkdir(data)
    with open(os.path.join(data, "f"), "w", encoding="utf-8") as file:
        file.write("content\n")
    give(data)
    os.chmod(TOP, 0o755)
    escaped = data.replace(":", r"\:").replace(",", r"\,")
    expect("a bind with space, colon, comma and newline", ["exec", "--bind", escaped + ":/mnt/a b", image, "cat", "/mnt/a b/f"],
           "^content$")
    expect("--mount with quotes", ["exec", "--mount", f'type=bind,"src={data}",dst=/mnt/c,ro', image, "sh", "-c",
                                   "cat /mnt/c/f; touch /mnt/c/x"], "^content$", error="Read-only", status=1)
    expect("binds of the environment add up", ["exec", "-B", HOME + ":/one", image, "ls", "/one", "/two"], "two",
           environment={"APPTAINER_BIND": HOME + ":/two"})
    expect("the destinations are told to nested starts", ["exec", "-B", HOME + ":/one,/etc:/two:ro", image, "sh", "-c",
                                                          "echo $APPTAINER_BIND"], "^/one,/two$")
    expect("a squashfs file bound from inside", ["exec", "-B", squash + ":/sq:image-src=/etc", image, "cat", "/sq/passwd"],
           "^other:")
    expect("a missing source", ["exec", "-B", "/nonexistent:/x", image, "true"], status=255,
           error="FATAL:   bind source /nonexistent: No such file or directory; ")
    expect("a relative destination", ["exec", "-B", "/etc:x", image, "true"], status=255, error='"/etc:x".*absolute')
    expect("10,000 binds", ["exec"] + [word for i in range(10000) for word in ("-B", f"/etc:/m{i}")] + [image, "true"],
           status=255, error="FATAL: .*more than 1200 mounts.*; bind a directory")
    expect("the home and the current directory are there", ["exec", image, "pwd"], f"^{re.escape(HOME)}/sub$",
           cwd=os.path.join(HOME, "sub"))
    expect("--no-home with the directory elsewhere", ["exec", "--no-home", "--no-mount", "tmp", image, "ls", HOME], status=1,
           error="No such file", cwd="/")
    expect("--home src:dst", ["exec", "--home", HOME + ":/h", image, "sh", "-c", "echo $HOME; ls /h"], "^/h\n.*sub")
    expect("--contain: private /tmp and home, minimal /dev", ["exec", "--contain", image, "sh", "-c",
                                                              f"ls /dev /tmp; ls -a {HOME}; echo tty >/dev/null; pwd"],
           rf"urandom.*{re.escape(HOME)}$")
    done = run(["exec", "--contain", image, "ls", HOME, TOP])
    report(done.returncode == 0 and "sub" not in done.stdout and "sqfs" not in done.stdout, "--contain hides the host's files", done.stdout)
    work = os.path.join(HOME, "work")
    expect("--workdir keeps them", ["exec", "--contain", "--workdir", work, "--scratch", "/scr", image, "sh", "-c",
                                    "touch /tmp/kept /scr/kept2"])
    report(os.path.exists(work + "/tmp/kept") and os.path.exists(work + "/scratch/scr/kept2"), "in the host's directory",
           work)
    expect("--scratch", ["exec", "--scratch", "/scratch/deep", image, "sh", "-c", "touch /scratch/deep/x && ls /scratch/deep"], "^x$")
    expect("--no-mount", ["exec", "--no-mount", "tmp,nonsense", image, "ls", "/tmp"], "^$", error="WARNING: --no-mount nonsense",
           cwd="/")
    expect("--dns", ["exec", "--dns", "192.0.2.1,192.0.2.2", image, "cat", "/etc/resolv.conf"],
           "^nameserver 192.0.2.1\nnameserver 192.0.2.2$")
    expect("passwd has the image's lines and the caller's", ["exec", image, "cat", "/etc/passwd"],
           rf"^other:x:7:7:Other:/:/bin/no\n.*:x:{USER if AS_ROOT else os.getuid()}:.*:{re.escape(HOME)}:" if AS_ROOT else "^other:")
    expect("and of an image that is mounted", ["exec", squash, "cat", "/etc/passwd"],
           rf"^other:x:7:7:Other:/:/bin/no\n.*:x:{USER if AS_ROOT else os.getuid()}:")
    expect("--cwd", ["exec", "--cwd", "/etc", image, "pwd"], "^/etc$")
    expect("--cwd that is missing", ["exec", "--cwd", "/nonexistent", image, "pwd"], status=255, error="FATAL: .*/nonexistent")
    expect("--containlibs", ["exec", "--containlibs", "/bin/busybox", image, "ls", "/.singularity.d/libs"], "^busybox$")
    expect("--nv without a device", ["exec", "--nv", image, "echo", "on"], "^on$", error="WARNING: --nv|^$")


def accounts_tests(squash):
    """What setuid mode asks postern-squashfs for."""
    program = next(p for p in PROGRAMS if os.path.basename(p) == "postern-squashfs")
    receive, send = os.pipe()
    with open(squash, "rb") as image:
        done = subprocess.run([program, "--threads", "1", "--accounts-fd", str(send), "--image-fd", str(image.fileno()),
                               "--offset", "0", "--size", str(os.path.getsize(squash))],
                              pass_fds=[send, image.fileno()], timeout=60, check=False, env={})
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        text = pipe.read()
    passwd = b"root:x:0:0:root:/root:/bin/sh\nother:x:7:7:Other:/:/bin/no\n"
    group = b"root:x:0:\n"
    report(done.returncode == 0 and text == b"%d\n%s%d\n%s" % (len(passwd), passwd, len(group), group),
           "postern-squashfs hands over the account files of an image", repr(text))


def root_tests(image, squash):
    upper = os.path.join(HOME, "upper")
    os.mkdir(upper)
    give(HOME)
    expect("the root is read-only", ["exec", squash, "touch", "/x"], status=1, error="Read-only")
    expect("--writable-tmpfs", ["exec", "--writable-tmpfs", squash, "sh", "-c", "echo new >/x; cat /x"], "^new$")
    expect("--overlay keeps changes", ["exec", "--overlay", upper, squash, "sh", "-c", "echo kept >/x"])
    expect("for the next start, read-only", ["exec", "--overlay", upper + ":ro", squash, "sh", "-c", "cat /x; touch /y"],
           "^kept$", status=1)
    expect("--overlay with squashfs", ["exec", "--overlay", squash, SIF, "ls", "/.singularity.d/env"], "90-environment.sh")
    expect("two writable overlays", ["exec", "--overlay", upper, "--overlay", HOME, squash, "true"], status=255,
           error="only one overlay can be writable; add :ro")
    expect("a missing overlay", ["exec", "--overlay", "/nonexistent", squash, "true"], status=255, error="mkdir /nonexistent")
    expect("--writable on a file", ["exec", "--writable", squash, "true"], status=255, error="--writable-tmpfs or --overlay")
    expect("--writable on a directory", ["exec", "--writable", image, "touch", "/written"])
    report(os.path.exists(image + "/written"), "which writes to it")
    expect("--fakeroot", ["exec", "--fakeroot", squash, "sh", "-c", "id -u; echo $HOME"], "^0\n/root$")
    expect("no capability, no new privileges", ["exec", squash, "grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"],
           r"CapEff:\t0{16}\nNoNewPrivs:\t1")


def foreign_tests():
    """A directory image of somebody else's: overlayfs cannot copy up a directory whose owner is not mapped."""
    foreign = os.path.join(TOP, "foreign")
    make_image(foreign)
    os.chmod(os.path.join(foreign, "tmp"), 0o1777)
    os.symlink("tmp", os.path.join(foreign, "scratch"))
    for name, arguments in [("read-only", []), ("--writable-tmpfs", ["--writable-tmpfs"])]:
        done = expect(f"mount points in a directory of another owner, {name}",
                      ["exec"] + arguments + ["--no-mount", "tmp", "-B", "/usr:/deep/er/usr,/etc/hostname:/etc/a/file,/usr:/scratch/x",
                                              foreign, "sh", "-c",
                                              "pwd; ls -d /deep/er/usr/bin /tmp/x/bin; cat /etc/a/file >/dev/null; cat /etc/hosts >/dev/null && "
                                              "echo files; ls -ld /tmp"],
                      rf"^{re.escape(HOME)}/sub\n/deep/er/usr/bin\n/tmp/x/bin\nfiles\ndrwxrwxrwt", cwd=os.path.join(HOME, "sub"))
        report("WARNING" not in done.stderr, "without a warning", done.stderr)


def namespace_tests(image):
    expect("--pid with postern-init as process 1", ["exec", "--pid", image, "cat", "/proc/1/comm"], "^postern-init$")
    expect("--pid --no-init", ["exec", "--pid", "--no-init", image, "sh", "-c", "echo $$"], "^1$")
    expect("--hostname", ["exec", "--hostname", "inside", image, "sh", "-c", "hostname; cat /etc/hostname"], "^inside\ninside$")
    expect("--network none", ["exec", "--net", "--network", "none", image, "cat", "/proc/net/dev"], r"lo:")
    expect("--network bridge", ["exec", "--network", "bridge", image, "true"], status=255, error="FATAL: .*--network fakeroot")
    profile = os.path.join(TOP, "profile.json")
    with open(profile, "w", encoding="utf-8") as file:
        json.dump({"defaultAction": "SCMP_ACT_ALLOW",
                   "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}, file)
    expect("--security seccomp", ["exec", "--security", "seccomp:" + profile, image, "hostname"], r"^\?$")
    expect("--compat", ["exec", "--compat", image, "sh", "-c", "touch /x && umask"], "^0022$")
    expect("the caller's umask", ["exec", image, "sh", "-c", "umask"], "^0")
    expect("an option that cannot work", ["exec", "--allow-setuid", image, "true"], status=255,
           error="FATAL:   --allow-setuid is not available in postern; .*--fakeroot")
    for command, why in (("oci", "root alone"), ("plugin", "Go libraries"), ("plugins", "Go libraries"), ("checkpoint", "DMTCP")):
        expect(f"{command} says why it is not there", [command, "list"], status=255, output="^$", error=f"FATAL:   `.*{why}")


def command_tests(image, squash):
    expect("exit status", ["exec", image, "sh", "-c", "exit 42"], status=42)
    expect("a command that is missing", ["exec", image, "nosuch"], status=255, error="FATAL: .*nosuch.*not found")
    expect("options behind the image are the command's", ["exec", image, "echo", "-n", "--bind"], "^--bind$")
    expect("run", ["run", image, "a b", "c"], "^runscript a b c\nargs 2$")
    expect("run of an image made from OCI layers", ["run", SIF, "echo", "a  b"], "^a  b$")
    bare = os.path.join(TOP, "bare")
    os.makedirs(bare + "/bin")
    shutil.copy("/bin/busybox", bare + "/bin/sh")
    give(bare)
    expect("run without a runscript starts a shell", ["run", bare, "-c", "echo sh"], "^sh$", error="INFO: .*runscript")
    expect("-q hides INFO", ["-q", "run", bare, "-c", "true"], error=r"\A\Z")
    expect("test", ["test", image], "^testscript$", status=3)
    expect("shell", ["shell", image], "^typed$", stdin="echo typed\n")
    expect("shell --shell", ["shell", "--shell", "/bin/sh", image], "^typed$", stdin="echo typed\n")
    expect("stdin in a pipe", ["exec", squash, "cat"], "^through$", stdin="through\n")
    link = os.path.join(TOP, "run-singularity")
    os.symlink(POSTERN, link)
    done = subprocess.run(as_user([link, image, "x"]), env={"HOME": HOME, "PATH": "/bin", "POSTERN_LIBEXEC": LIBEXEC},
                          capture_output=True, text=True, timeout=60, check=False, cwd=HOME)
    report(done.returncode == 0 and done.stdout.startswith("runscript x"), "run-singularity IMAGE runs it", done.stderr)
    long = "x" * (128 * 1024 - 1)
    expect("an argument of 128 KiB", ["exec", image, "sh", "-c", "echo ${#1}", "sh", long], f"^{len(long)}$")
    expect("version", ["version"], r"^\d+\.\d+\.\d+$")
    expect("--version", ["--version"], r"^\d+\.\d+\.\d+$")
    expect("help of a command", ["exec", "--help"], r"--bind SPEC")
    expect("help", ["help"], r"^  exec ")
    expect("buildcfg", ["buildcfg", "PACKAGE_NAME"], "^postern$")
    expect("sif", ["sif", "list", SIF], "Squashfs")
    expect("doctor", ["doctor"], "user namespace")
    for shell in ["bash", "zsh", "fish"]:
        script = expect(f"completion {shell}", ["completion", shell], "containall")
        if shutil.which(shell):
            checked = subprocess.run([shell, "-n"], input=script.stdout, text=True, capture_output=True, check=False)
            report(checked.returncode == 0, f"which {shell} can read", checked.stderr)


def mistake_tests(image):
    expect("no command", [], output="^Usage:", status=1)
    expect("an unknown command", ["nosuch"], status=1, error='^Error: unknown command "nosuch" for "postern"')
    expect("an unknown flag", ["exec", "--nosuch", image, "true"], status=1,
           error='^Error for command "exec": unknown flag: --nosuch\n')
    expect("an unknown global flag", ["-z"], status=1, error="unknown shorthand flag: 'z'")
    expect("no image", ["run"], status=1, error='^Error for command "run": an image is needed')
    expect("no word for exec", ["exec", image], status=1, error="an image and a command are needed")
    expect("an image that is missing", ["exec", "/nonexistent.sif", "true"], status=255,
           error="^FATAL:   image /nonexistent.sif: No such file or directory; ")
    expect("a file that is no image", ["exec", "/etc/hostname", "true"], status=255, error="^FATAL:   /etc/hostname: .*; ")
    expect("a device", ["exec", "/dev/null", "true"], status=255, error="neither a file nor a directory")
    secret = os.path.join(TOP, "secret.sif")
    shutil.copy(SIF, secret)
    os.chmod(secret, 0)
    if AS_ROOT:
        expect("an image that cannot be read", ["exec", secret, "true"], status=255, error="Permission denied; ask its owner")
    expect("an instance that does not run", ["exec", "instance://x", "true"], status=255, error="^FATAL:   no instance found with name x; .*postern instance list")
    # Where postern is installed, its program is found and says that nobody listens there.
    expect("an image that must be fetched, without the program for it", ["exec", "docker://127.0.0.1:1/x", "true"], status=255,
           error="^FATAL:   .*(postern-transfer.*; .*install it|cannot reach)")
    config = os.path.join(TOP, "postern.toml")
    with open(config, "w", encoding="utf-8") as file:
        file.write("[mount]\nhome = false\nnosuchkey = 1\n")
    expect("an unknown key of the configuration", ["--config", config, "exec", image, "true"], status=255,
           error=r"postern\.toml:3:\d+: .*nosuchkey")
    with open(config, "w", encoding="utf-8") as file:
        file.write("[mount]\nhome = false\n[allow]\ndirectory = false\n")
    expect("a kind of image that the site does not want", ["--config", config, "exec", image, "true"], status=255,
           error="allow.directory")
    for limit, error in [(f'paths = ["{TOP}/ima"]', "limit.paths"), ('owners = ["root"]', "limit.owners"),
                         ('groups = ["0"]', "limit.groups")]:
        with open(config, "w", encoding="utf-8") as file:
            file.write(f"[limit]\n{limit}\n")
        if AS_ROOT:
            expect(f"an image outside of {error}", ["--config", config, "exec", image, "true"], status=255, error=error)
    with open(config, "w", encoding="utf-8") as file:
        file.write(f'[limit]\npaths = ["{TOP}"]\nowners = ["{USER if AS_ROOT else os.getuid()}"]\n')
    expect("an image within the limits", ["--config", config, "exec", image, "true"])
    ecl = os.path.join(TOP, "ecl.toml")
    with open(config, "w", encoding="utf-8") as file:
        file.write("")
    for text, status, error in [("activated = false\n", 0, None),
                                ("activated = true\n", 255, "FATAL:   while checking container image with ECL: .*--explain"),
                                ("activated = perhaps\n", 255, "ecl.toml:1")]:
        with open(ecl, "w", encoding="utf-8") as file:
            file.write(text)
        expect(f"an execution control list with {text.strip()}", ["--config", config, "exec", image, "true"], status=status,
               error=error)
    expect("-s hides warnings", ["-s", "exec", "--no-mount", "nonsense", image, "true"], error=r"\A\Z")
    expect("-d says more", ["-d", "exec", image, "true"])


def main():
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or not os.path.exists("/bin/busybox"):
        tap.skip_all("needs /dev/fuse and busybox-static")
    if AS_ROOT:
        os.chmod("/dev/fuse", 0o666)
    image = os.path.join(TOP, "image")
    make_image(image)
    give(image)
    os.makedirs(os.path.join(HOME, "sub"))
    give(HOME)
    squash = images.squashfs(image, os.path.join(TOP, "image.sqfs"))
    os.chmod(squash, 0o644)
    if run(["exec", image, "true"]).returncode != 0 and "user namespace" in run(["exec", image, "true"]).stderr:
        tap.skip_all("this host has no user namespaces")
    command_tests(image, squash)
    environment_tests(image)
    mount_tests(image, squash)
    accounts_tests(squash)
    root_tests(image, squash)
    if AS_ROOT:
        foreign_tests()
    namespace_tests(image)
    mistake_tests(image)
    left = ""
    try:  # servers end when the kernel says that the last mount is gone
        tap.wait_until(lambda: not left_behind(), lambda: "\n".join(left_behind()) or "something, until now")
    except AssertionError as words:
        left = str(words)
    report(not left, "nothing is left behind", left)
    return REPORT.end()


TOP = tempfile.mkdtemp(prefix="postern-cli-", dir="/tmp")
HOME = os.path.join(TOP, "home")
os.chmod(TOP, 0o755)
try:
    status = main()
finally:
    shutil.rmtree(TOP, ignore_errors=True)
sys.exit(status)
