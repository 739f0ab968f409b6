#!/usr/bin/env python3
"""`build` from definition files, with programs that run in containers, and encrypted images.

Usage: build_definition.py POSTERN-BUILD POSTERN PROGRAM...
PROGRAM...: the programs of libexec. As an unprivileged user; prints TAP. Exit 77: no user namespaces.
"""
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tarfile  # noqa: E402

from build_image import PROGRAM, build, content, entry, listing, main, objects, symlink, tar  # noqa: E402
import tap  # noqa: E402
import users  # noqa: E402

POSTERN = str(pathlib.Path(sys.argv[2]).resolve())
PLACES = ":".join(dict.fromkeys(str(pathlib.Path(program).resolve().parent) for program in sys.argv[2:]))
os.environ["POSTERN_LIBEXEC"] = PLACES
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def make(*arguments, **more):
    return build(*arguments, env={"POSTERN_LIBEXEC": PLACES, **more.pop("env", {})}, **more)


def execute(image, *command, env=None, app=None):
    done = subprocess.run([POSTERN, "exec", "--cleanenv", *(["--app", app] if app else []), image, *command], capture_output=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()


def base():
    """base.sif: busybox and nothing else. Its owners are 0, and one that no sandbox of a user shows."""
    busybox = pathlib.Path("/bin/busybox").read_bytes()
    pathlib.Path("base.tar").write_bytes(tar(
        entry("bin/busybox", busybox, mode=0o755), *(symlink("bin/" + name, "busybox") for name in ("sh", "cat", "id", "mkdir", "touch", "test", "chmod", "ln")),
        entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), entry("var/mail/someone", b"mail", uid=42, gid=8, mode=0o640)))
    make("base.sif", "base.tar")


def definition(text):
    pathlib.Path("image.def").write_text("Bootstrap: localimage\nFrom: base.sif\n" + text)


def attributes(sif):
    found = [o["data"] for o in objects(sif) if o["name"] == "inspect-metadata.json"]
    return json.loads(found[0])["data"]["attributes"]


@test
def files_and_texts_need_no_container():
    base()
    os.makedirs("tree/sub")
    pathlib.Path("tree/sub/file").write_text("in a tree")
    pathlib.Path("tree/run").write_text("#!/bin/sh\n")
    pathlib.Path("tree/run").chmod(0o755)
    os.symlink("sub/file", "tree/link")
    pathlib.Path("one.txt").write_text("1")
    pathlib.Path("two.txt").write_text("2")
    pathlib.Path("with blank").write_text("3")
    definition("""%arguments
  WHO=world
%files
  tree /opt
  tree /etc
  *.txt /data/
  one.txt /renamed
  "with blank" "/other name"
%environment
  export GREETING="hello {{ WHO }}"
%runscript
  echo run: $GREETING "$@"
%startscript
  echo started
%labels
  Author some body
%help
  Read this.
%apprun tool
  echo tool
%appenv tool
  export IN_TOOL=1
%applabels tool
  Kind hammer
""")
    make("--build-arg", "WHO=moon", "out.sif", "image.def")
    assert content("out.sif", "opt/sub/file") == b"in a tree" and content("out.sif", "opt/link") == b"in a tree"
    assert content("out.sif", "etc/tree/link") == b"in a tree"
    assert content("out.sif", "data/one.txt") == b"1" and content("out.sif", "data/two.txt") == b"2"
    assert content("out.sif", "renamed") == b"1" and content("out.sif", "other name") == b"3"
    tree = listing("out.sif")
    assert tree[b"/opt/run"]["mode"] == "-rwxr-xr-x" and tree[b"/opt/run"]["owner"] == "0/0"
    assert tree[b"/var/mail/someone"]["owner"] == "42/8"
    told = attributes("out.sif")
    assert told["labels"]["Author"] == "some body" and "Read this." in told["helpfile"] and "started" in told["startscript"]
    assert told["apps"]["tool"]["labels"] == {"Kind": "hammer", "SCIF_APP_NAME": "tool"} and "echo tool" in told["apps"]["tool"]["runscript"]
    assert "moon" in told["deffile"] and [o["type"] for o in objects("out.sif")][0] == 0x4001
    assert objects("out.sif")[0]["data"].decode() == told["deffile"]
    done = subprocess.run([POSTERN, "run", "out.sif", "a", "b c"], capture_output=True)
    assert done.stdout == b"run: hello moon a b c\n", done
    make("-F", "again.sif", "image.def", "--build-arg", ok=False)  # options come first
    make("--build-arg", "WHO=moon", "again.sif", "image.def")
    assert pathlib.Path("out.sif").read_bytes() == pathlib.Path("again.sif").read_bytes()


@test
def post_runs_as_root_of_a_container_and_its_files_are_roots():
    base()
    definition("""%post
  id -u > /made
  mkdir -p /srv/deep
  touch /srv/deep/file
  chmod 4755 /made
  echo 'export LATER="yes"' >> "$APPTAINER_ENVIRONMENT"
  echo Built by-post >> "$APPTAINER_LABELS"
%labels
  Author me
%test
  test -f /made
  echo the test ran
""")
    text = make("out.sif", "image.def")
    assert "Running post scriptlet" in text and "+ mkdir -p /srv/deep" in text
    tree = listing("out.sif")
    assert tree[b"/made"] == {"mode": "-rwsr-xr-x", "owner": "0/0", "size": "2", "link": None} and content("out.sif", "made") == b"0\n"
    assert tree[b"/srv/deep/file"]["owner"] == "0/0"
    assert tree[b"/var/mail/someone"]["owner"] == "42/8", "owners of the source survive the sandbox"
    assert not [path for path in tree if path.startswith(b"/.postern")]
    assert attributes("out.sif")["labels"]["Built"] == "by-post" and attributes("out.sif")["labels"]["Author"] == "me"
    assert execute("out.sif", "/bin/sh", "-c", "echo $LATER") == "yes\n"
    make("--sandbox", "box", "image.def")
    assert json.loads(pathlib.Path("box/.singularity.d/labels.json").read_text())["Built"] == "by-post"
    pathlib.Path("more.def").write_text("Bootstrap: localimage\nFrom: nothing.sif\n%files\n  base.tar /added\n%post\n  cat /made > /again\n")
    make("--sandbox", "--update", "box", "more.def")
    assert pathlib.Path("box/again").read_text() == "0\n" and pathlib.Path("box/added").read_bytes() == pathlib.Path("base.tar").read_bytes()
    assert sorted(os.listdir(".")) == ["base.sif", "base.tar", "box", "image.def", "more.def", "out.sif"]


@test
def what_a_test_section_writes_is_no_part_of_the_image():
    base()
    definition("%test\n  ! touch /written\n")
    make("out.sif", "image.def")
    definition("%test\n  touch /written\n")
    assert "%test failed" in make("more.sif", "image.def", ok=False)
    make("--writable-tmpfs", "more.sif", "image.def")
    make("--sandbox", "--writable-tmpfs", "box", "image.def")
    for image in ("out.sif", "more.sif"):
        assert b"/written" not in listing(image)
    assert not os.path.exists("box/written")


@test
def an_option_that_changes_nothing_says_so():
    os.mkdir("root")
    for option in ("--fakeroot", "--userns", "--ignore-proot", "--ignore-fakeroot-command", "--reproducible"):
        assert f"{option} changes nothing: " in make(option, "-F", "out.sif", "root", env={"POSTERN_MESSAGELEVEL": "4"}), option
        assert "changes nothing" not in make(option, "-F", "out.sif", "root")
    assert "in a user namespace" in make("--ignore-userns", "-F", "out.sif", "root", ok=False)


@test
def a_failing_program_fails_the_build_and_leaves_nothing():
    base()
    before = sorted(os.listdir("."))
    os.mkdir("tmp")
    for section, word in (("%post\n  test -f /nowhere\n  echo never\n", "%post failed"), ("%post\n  exit 7\n", "status 7"), ("%test\n  exit 3\n", "%test failed")):
        definition(section)
        text = make("--tmpdir", "tmp", "out.sif", "image.def", ok=False)
        assert word in text and "+ echo never" not in text, text
        assert not os.path.exists("out.sif") and os.listdir("tmp") == []
    make("--notest", "--tmpdir", "tmp", "out.sif", "image.def")
    os.unlink("out.sif")
    make("--section", "none", "out.sif", "image.def")
    os.unlink("out.sif")
    definition("%post\n  exit 1\n")
    assert "is kept in" in make("--no-cleanup", "--tmpdir", "tmp", "out.sif", "image.def", ok=False)
    assert len(os.listdir("tmp")) == 1
    shutil.rmtree("tmp")
    os.mkdir("tmp")
    definition("%post\n  touch /runs\n  while true; do :; done\n")
    process = subprocess.Popen([PROGRAM, "build", "--tmpdir", "tmp", "out.sif", "image.def"], stderr=subprocess.DEVNULL, start_new_session=True)
    tap.wait_until(lambda: any(os.path.exists(f"tmp/{name}/rootfs/runs") for name in os.listdir("tmp")), "%post does not run")
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    assert process.wait(60) == -signal.SIGINT
    assert os.listdir("tmp") == []
    os.unlink("image.def")
    os.rmdir("tmp")
    assert sorted(os.listdir(".")) == before


def programs_of(word):
    """Pids of the processes whose command line has this word."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@test
def a_killed_build_ends_its_programs_and_what_they_started():
    base()
    os.mkdir("tmp")
    for section, inside in (("%pre", False), ("%setup", False), ("%post", True)):
        number = f"{os.getpid()}{['%pre', '%setup', '%post'].index(section)}"  # seconds that no other sleep has
        sleep = "/bin/busybox sleep"
        definition(f"{section}\n  {sleep} {number} &\n  ({sleep} {number} & {sleep} {number})\n  {sleep} {number}\n")
        process = subprocess.Popen([PROGRAM, "build", "--tmpdir", "tmp", "out.sif", "image.def"], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        tap.wait_until(lambda: len(programs_of(number)) >= 3, lambda: f"{section} runs: {programs_of(number)}")
        process.kill()
        process.wait()
        tap.wait_until(lambda: not programs_of(number), lambda: f"{section} is ended: {programs_of(number)}")
        assert not os.path.exists("out.sif")
    definition("%setup\n  kill -9 $$\n")
    assert "%setup was ended by signal 9" in make("--tmpdir", "tmp", "out.sif", "image.def", ok=False)
    definition("%setup\n  /bin/busybox sleep 0 &\n  (exit 5)\n")
    assert "%setup failed with exit status 5" in make("--tmpdir", "tmp", "out.sif", "image.def", ok=False)
    assert os.listdir("tmp") == [], "the leftovers of the killed builds went with the next"
    shutil.rmtree("tmp")


@test
def the_cache_is_cleaned_of_what_killed_builds_left():
    base()
    transfer = str(pathlib.Path(PROGRAM).parents[1] / "transfer/postern-transfer")
    number = f"{os.getpid()}7"
    definition(f"%post\n  /bin/busybox sleep {number}\n")
    environment = dict(os.environ, APPTAINER_TMPDIR=os.path.abspath("tmp"), POSTERN_CACHEDIR=os.path.abspath("cache"))

    def hidden():
        return [name for place in (".", "tmp") for name in os.listdir(place) if name.startswith(".postern-build-")]

    def clean(*options):
        subprocess.run([transfer, "cache", "clean", "-f", *options], env=environment, check=True, capture_output=True)

    os.mkdir("tmp")
    for words in (["--sandbox", "box"], ["out.sif"]):
        process = subprocess.Popen([PROGRAM, "build", *words, "image.def"], env=environment, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        tap.wait_until(lambda: programs_of(number), lambda: "%post runs")
        clean()
        assert hidden(), "a build that runs keeps its directory"
        process.kill()
        process.wait()
        tap.wait_until(lambda: not programs_of(number), lambda: "%post is ended")
        clean("--dry-run")
        assert hidden(), "a dry run removes nothing"
        tap.wait_until(lambda: clean() or not hidden(), lambda: f"{hidden()} is removed when the last process of the build has ended")
        assert not os.path.exists("box")
    shutil.rmtree("tmp")
    shutil.rmtree("cache", ignore_errors=True)


@test
def what_cannot_be_built_says_why():
    base()
    cases = {
        "Bootstrap: nonsense\nFrom: x\n": "is not known",
        "Bootstrap: debootstrap\nOSVersion: bookworm\n": "needs the header 'MirrorURL:'",
        "Bootstrap: zypper\nMirrorURL: http://127.0.0.1:1/\n": "needs the program 'zypper'",
        "Bootstrap: localimage\n": "needs the header 'From:'",
        "Bootstrap: localimage\nForm: base.sif\n": "unknown header 'form'",
        "# a comment\nFROM alpine\nRUN true\n": "Dockerfile",
        "#" * 5000 + "\nFROM alpine\nRUN true\n": "'FROM alpine' stands where",
        "Form: base.sif\nBootstrap: localimage\n": "'Form: base.sif' stands where",
        "{\"a\": 1}\n": "must start with 'Bootstrap: …'",
        "%post\n  true\n": "a section before the header",
        "#!/bin/sh\n": "definition file is empty",
        "\ufeffBootstrap: localimage\nFrom: base.sif\n": "byte order mark",
        "Bootstrap: localimage\nFrom: base.sif\n%post\n  echo \0\n": "line 4: a zero byte",
        "Bootstrap: docker\nFrom: 127.0.0.1:1/alpine:3\n": "cannot reach",
        "Bootstrap: localimage\nFrom: missing.sif\n": "missing.sif",
        "Bootstrap: localimage\nFrom: base.sif\n%files\n  missing /x\n": "'missing' is not there",
        "Bootstrap: localimage\nFrom: base.sif\n%setup\n  exit 4\n": "%setup failed with exit status 4",
        "Bootstrap: localimage\nFrom: {{ NAME }}\n": "--build-arg NAME=VALUE",
        "Bootstrap: scratch\nStage: a\nBootstrap: scratch\nStage: b\n%files from c\n  /x\n": "no such stage",
        "Bootstrap: scratch\nStage: a\n%files from a\n  /x\n": "no such stage",
        "Bootstrap: localimage\nFrom: base.sif\nFingerprints: 1234\n": "no fingerprint of 40",
    }
    for text, word in cases.items():
        pathlib.Path("bad.def").write_text(text)
        said = make("bad.sif", "bad.def", ok=False)
        assert word in said, (text, said)
    definition("")
    assert "not use: X" in make("--build-arg", "X=1", "bad.sif", "image.def", ok=False)
    assert "WARNING" in make("--build-arg", "X=1", "--warn-unused-build-args", "good.sif", "image.def")
    assert not os.path.exists("bad.sif")


@test
def stages_hand_files_on_and_programs_of_the_host_prepare():
    base()
    pathlib.Path("two.def").write_text("""# a comment before all
Bootstrap: localimage  # and one behind a value
From: base.sif
Stage: compile
%post
  mkdir -p /out/deep
  echo made > /out/deep/result
  chmod 640 /out/deep/result
  ln -s deep/result /out/link
  ln -s /out /shortcut
%files
  one.txt

Bootstrap: localimage
From: \\
  base.sif
Stage: final
%pre
  echo "$APPTAINER_ROOTFS" > pre.txt
%setup -u
  mkdir -p "${APPTAINER_ROOTFS}/from-setup"
  echo in setup > "$POSTERN_ROOTFS/from-setup/file"
%files from compile
  /out /copied
  /out/de*/res* /wild/
  /shortcut/deep/result
%files
  one.txt /from-setup
%post -c /bin/sh -e
  cat /from-setup/file /copied/deep/result > /post
  echo "$0" >> /post
%runscript -e
  echo run
%test
  test -f /wild/result
""")
    pathlib.Path("one.txt").write_text("1")
    make("out.sif", "two.def")
    tree = listing("out.sif")
    assert content("out.sif", "copied/deep/result") == b"made\n" and tree[b"/copied/deep/result"]["mode"] == "-rw-r-----"
    assert tree[b"/copied/link"]["link"] == b"deep/result"
    assert content("out.sif", "wild/result") == b"made\n" and content("out.sif", "shortcut/deep/result") == b"made\n"
    assert content("out.sif", "from-setup/one.txt") == b"1"
    assert content("out.sif", "post") == b"in setup\nmade\n/.postern.script\n"
    assert b"/out" not in tree and content("out.sif", ".singularity.d/runscript").startswith(b"#!/bin/sh -e\n")
    assert os.path.isabs(pathlib.Path("pre.txt").read_text().strip())
    assert not [name for name in os.listdir(".") if name.startswith(".postern")]


@test
def a_definition_file_from_windows_reads_the_same():
    base()
    text = "Bootstrap: localimage\nFrom: base.sif\n%post\n  echo made > /made\n%environment\n  export X=1\n"
    pathlib.Path("windows.def").write_bytes(text.replace("\n", "\r\n").encode())
    make("out.sif", "windows.def")
    assert content("out.sif", "made") == b"made\n"
    assert execute("out.sif", "/bin/sh", "-c", "echo $X") == "1\n"
    assert objects("out.sif")[0]["data"].decode() == text.replace("\n", "\r\n"), "the stored file keeps its bytes"


@test
def a_child_adds_to_what_its_base_has():
    base()
    definition("%environment\n  export A=1\n  export B=1\n%labels\n  Color red\n%help\n  first help\n%runscript\n  echo first\n")
    make("first.sif", "image.def")
    pathlib.Path("second.def").write_text("Bootstrap: localimage\nFrom: first.sif\n%environment\n  export B=${B}2\n%labels\n  Color blue\n  Size big\n%help\n  second help\n")
    said = make("second.sif", "second.def")
    assert "label Color of the source is kept" in said and "help text of the source is kept" in said
    assert execute("second.sif", "/bin/sh", "-c", "echo $A $B") == "1 12\n"
    told = attributes("second.sif")
    assert told["labels"]["Color"] == "red" and told["labels"]["Size"] == "big" and "first help" in told["helpfile"]
    assert "echo first" in told["runscript"] and "second help" in told["deffile"]
    assert b"first help" in content("second.sif", ".singularity.d/bootstrap_history/Apptainer1")
    assert b"localimage" in content("second.sif", ".singularity.d/bootstrap_history/Apptainer0"), "what base.sif was built from"
    make("--force", "second.sif", "second.def")
    assert attributes("second.sif")["labels"]["Color"] == "blue" and "second help" in attributes("second.sif")["helpfile"]
    pathlib.Path("third.def").write_text("Bootstrap: localimage\nFrom: second.sif\n%post\n  echo Color green >> $APPTAINER_LABELS\n%environment\n  export C=3\n")
    make("third.sif", "third.def")
    assert attributes("third.sif")["labels"]["Color"] == "green"
    assert execute("third.sif", "/bin/sh", "-c", "echo $A $B $C") == "1 12 3\n"
    assert b"second help" in content("third.sif", ".singularity.d/bootstrap_history/Apptainer2")


@test
def apps_are_installed_in_their_own_place():
    base()
    pathlib.Path("tool.txt").write_text("for the app")
    definition("""%appinstall second-app
  echo "$SCIF_APPNAME $PWD" > where
%appfiles second-app
  tool.txt lib/tool.txt
%apprun second-app
  cat "$SCIF_APPROOT/where"
%applabels second-app
  Kind hammer
%appenv second-app
  export SEEN="$SCIF_APPDATA"
%appinstall other
  mkdir -p bin lib
  printf '#!/bin/sh\\necho "program of $SCIF_APPNAME"\\n' > bin/own
  chmod 755 bin/own
%environment
  export SEEN=none
""")
    make("out.sif", "image.def")
    assert content("out.sif", "scif/apps/second-app/where") == b"second-app /scif/apps/second-app\n"
    assert content("out.sif", "scif/apps/second-app/lib/tool.txt") == b"for the app"
    assert execute("out.sif", "/bin/sh", "-c", "echo $SCIF_APPROOT_second_app $SCIF_APPRUN_second_app") == "/scif/apps/second-app /scif/apps/second-app/scif/runscript\n"
    assert attributes("out.sif")["apps"]["second-app"]["labels"] == {"Kind": "hammer", "SCIF_APP_NAME": "second-app"}
    done = subprocess.run([POSTERN, "run", "--app", "second-app", "out.sif"], capture_output=True)
    assert done.stdout == b"second-app /scif/apps/second-app\n", done
    show = "echo $SCIF_APPNAME $SCIF_APPROOT $SCIF_APPMETA $SCIF_APPDATA $SCIF_APPINPUT $SCIF_APPOUTPUT $SCIF_DATA $SEEN ${PATH%%:*}"
    assert execute("out.sif", "/bin/sh", "-c", show, app="second-app").split() == [
        "second-app", "/scif/apps/second-app", "/scif/apps/second-app/scif", "/scif/data/second-app", "/scif/data/second-app/input",
        "/scif/data/second-app/output", "/scif/data", "/scif/data/second-app", "/scif/apps/second-app/bin"]
    assert execute("out.sif", "own", app="other") == "program of other\n"
    assert "/scif/apps/other/lib:" in execute("out.sif", "/bin/sh", "-c", "echo $LD_LIBRARY_PATH", app="other")
    assert execute("out.sif", "/bin/sh", "-c", "echo [$SCIF_APPROOT] $SEEN $(command -v own)") == "[] none\n", "without --app none of it is set"


@test
def owners_and_devices_need_no_privilege_in_post():
    """Without subordinate ids (the user of this test has no account) they succeed without effect."""
    base()
    definition("""%post
  mkdir -m 700 /x
  chown 33:33 /x
  touch /x/file
  mknod /x/null c 1 3
  chown -R 12:34 /x
""")
    pathlib.Path("base.tar").write_bytes(tar(
        entry("bin/busybox", pathlib.Path("/bin/busybox").read_bytes(), mode=0o755),
        *(symlink("bin/" + name, "busybox") for name in ("sh", "mkdir", "touch", "chown", "mknod"))))
    os.unlink("base.sif")
    make("base.sif", "base.tar")
    os.mkdir("tmp")
    make("--tmpdir", "tmp", "out.sif", "image.def")
    tree = listing("out.sif")
    assert tree[b"/x"]["mode"] == "drwx------" and b"/x/null" not in tree and b"/x/file" in tree
    assert os.listdir("tmp") == []


@test
def a_sandbox_gives_nobody_rights_on_the_host():
    pathlib.Path("set.tar").write_bytes(tar(entry("bin/tool", b"#!/bin/sh\n", mode=0o6755), entry("srv", None, tarfile.DIRTYPE, mode=0o2775),
                                            entry("bin/plain", b"x", mode=0o755)))
    said = make("--sandbox", "box", "set.tar")
    assert "1 set-user-ID or set-group-ID" in said and "--keep-privileged" in said, said
    assert stat.S_IMODE(os.stat("box/bin/tool").st_mode) == 0o755 and stat.S_IMODE(os.stat("box/srv").st_mode) == 0o2775
    make("--sandbox", "--keep-privileged", "kept", "set.tar")
    assert stat.S_IMODE(os.stat("kept/bin/tool").st_mode) == 0o6755
    make("image.sif", "set.tar")
    assert listing("image.sif")[b"/bin/tool"]["mode"] == "-rwsr-sr-x", "images keep them: mounts are nosuid"


@test
def scratch_and_archives_are_sources_too():
    from build_image import BASE, UPPER, docker_archive, check_merged
    docker_archive("image.tar", [BASE, UPPER], Cmd=["/bin/app"])
    pathlib.Path("a.def").write_text("Bootstrap: docker-archive\nFrom: image.tar\n%labels\n  X y\n")
    make("a.sif", "a.def")
    check_merged("a.sif")
    assert attributes("a.sif")["labels"]["X"] == "y" and "'/bin/app'" in attributes("a.sif")["runscript"]
    pathlib.Path("s.def").write_text("Bootstrap: scratch\n%files\n  /bin/busybox /bin/sh\n%runscript\n  echo from nothing\n")
    make("s.sif", "s.def")
    assert subprocess.run([POSTERN, "run", "s.sif"], capture_output=True).stdout == b"from nothing\n"


@test
def an_image_without_a_shell_runs_its_entrypoint():
    from build_image import docker_archive
    busybox = pathlib.Path("/bin/busybox").read_bytes()
    layer = tar(entry("echo", busybox, mode=0o755))
    docker_archive("bare.tar", [layer], Entrypoint=["/echo", "it's"], Cmd=["a  b", "$HOME"], Env=["X=\"quoted\" $y"])
    make("bare.sif", "docker-archive:bare.tar")
    assert b"/bin/sh" not in listing("bare.sif")
    for words, expected in (([], b"it's a  b $HOME\n"), (["c d"], b"it's c d\n")):
        done = subprocess.run([POSTERN, "run", "bare.sif", *words], capture_output=True, stdin=subprocess.DEVNULL)
        assert done.stdout == expected, done


@test
def an_encrypted_image_starts_with_its_key_only():
    base()
    os.mkdir("tmp")
    key = {"POSTERN_ENCRYPTION_PASSPHRASE": "correct horse"}
    make("--encrypt", "--tmpdir", "tmp", "secret.sif", "base.tar", env=key)
    assert os.listdir("tmp") == []
    assert b"hsqs" not in pathlib.Path("secret.sif").read_bytes()[32176:]
    assert execute("secret.sif", "/bin/sh", "-c", "echo inside", env=key) == "inside\n"
    wrong = subprocess.run([POSTERN, "exec", "secret.sif", "/bin/sh"], capture_output=True, stdin=subprocess.DEVNULL,
                           env={**os.environ, "POSTERN_ENCRYPTION_PASSPHRASE": "wrong"})
    assert wrong.returncode == 255
    assert "decrypt it first" in make("copy.sif", "secret.sif", ok=False)
    assert "cannot be encrypted" in make("--encrypt", "--sandbox", "box", "base.tar", ok=False, env=key)


def usable():
    user = users.reserve(1)[0]
    other = {"user": user, "group": user, "extra_groups": []} if os.getuid() == 0 else {}
    probe = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True, **other)
    return probe.returncode == 0 and os.path.exists("/bin/busybox")


if __name__ == "__main__":
    if not usable():
        tap.skip_all("no user namespaces, or no busybox-static")
    if os.getuid() == 0 and os.path.exists("/dev/fuse") and not os.stat("/dev/fuse").st_mode & stat.S_IWOTH:
        os.chmod("/dev/fuse", 0o666)  # as every distribution has it
    sys.exit(main(TESTS, []))
