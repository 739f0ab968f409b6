#!/usr/bin/env python3
"""`inspect`: output, exit codes and bad input, as an unprivileged user; prints TAP.

Usage: inspect_image.py POSTERN-INSPECT IMAGES-FOLDER
"""
import json
import os
import pathlib
import pty
import shutil
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tap  # noqa: E402
import users  # noqa: E402

# A copy that the unprivileged user reaches wherever the build tree lies.
PLACE = pathlib.Path(tempfile.mkdtemp(prefix="postern-inspect-"))
PLACE.chmod(0o755)
PROGRAM = shutil.copy(sys.argv[1], PLACE / "postern-inspect")
IMAGES = pathlib.Path(shutil.copytree(sys.argv[2], PLACE / "images"))
USER = users.reserve(1)[0]
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def inspect(*arguments, status=0, stdout=subprocess.PIPE):
    unprivileged = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run([PROGRAM, "inspect", *map(str, arguments)], stdout=stdout, stderr=subprocess.PIPE,
                          text=True, stdin=subprocess.DEVNULL, timeout=60, **unprivileged)
    assert done.returncode == status, f"exit {done.returncode}, not {status}: {done.stderr}"
    if status == 255:
        assert done.stderr.startswith("FATAL:   ") and done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == "", done.stdout
        return done.stderr
    return done.stdout if status == 0 else done.stderr


def make_root(folder):
    meta = folder / "root/.singularity.d"
    (meta / "env").mkdir(parents=True)
    (meta / "labels.json").write_text('{"b":"2","a":"1"}')
    (meta / "runscript").write_text("#!/bin/sh\nfalse\n")
    (meta / "env/90-environment.sh").write_text("touch /tmp/never-run\n")
    return folder / "root"


def squashfs(root, *options):
    image = root.parent / ("-".join(("root", *options)).replace("/", "") + ".squashfs")
    subprocess.run(["mksquashfs", root, image, "-noappend", "-quiet", "-no-progress", *options], check=True,
                   stdout=subprocess.DEVNULL)
    return image


def replace_metadata(image, data, name=b"inspect-metadata.json"):
    """Other bytes, or another name, for the metadata object of a SIF."""
    whole = bytearray(image.read_bytes())
    total, table = struct.unpack_from("<qq", whole, 88)
    at = next(at for at in range(table, table + 585 * total, 585) if whole[at + 73:at + 95] == b"inspect-metadata.json\0")
    struct.pack_into("<qqq", whole, at + 17, len(whole), len(data), len(data))
    struct.pack_into("128s", whole, at + 73, name)
    image.write_bytes(bytes(whole) + data)


@test
def labels_are_the_default_and_sorted(folder):
    root = make_root(folder)
    assert inspect(root) == "a: 1\nb: 2\n"
    assert inspect("--labels", root) == "a: 1\nb: 2\n"


@test
def every_compression_reads_alike(folder):
    root = make_root(folder)
    expected = json.loads(inspect("--all", root))
    for name in ("gzip", "xz", "lzo", "lz4", "zstd"):
        assert json.loads(inspect("--all", squashfs(root, "-comp", name))) == expected, name


@test
def sections_as_text_and_json(folder):
    root = make_root(folder)
    assert inspect("-r", root) == "#!/bin/sh\nfalse\n"
    assert inspect("-e", root) == "=== /.singularity.d/env/90-environment.sh ===\ntouch /tmp/never-run\n\n"
    assert json.loads(inspect("-j", "-r", root)) == {"data": {"attributes": {"runscript": "#!/bin/sh\nfalse"}}, "type": "container"}
    assert inspect("-H", "-t", "-s", "-d", "--list-apps", root) == ""


@test
def the_image_of_another_implementation(_):
    image = IMAGES / "busybox_amd64.sif"
    assert "org.label-schema.build-arch: amd64\n" in inspect(image)
    assert inspect("-d", image) == "BootStrap: docker\nFrom: busybox:1.33.1\n"
    data = json.loads(inspect("--all", image))
    assert sorted(data["data"]["attributes"]) == ["deffile", "environment", "labels", "runscript", "startscript"]


@test
def nothing_of_the_image_is_run(folder):
    root = make_root(folder)
    inspect("--all", root)
    inspect("--all", squashfs(root))
    assert not pathlib.Path("/tmp/never-run").exists()


@test
def bad_input_is_one_line_and_255(folder):
    assert "No such file" in inspect(folder / "gone.sif", status=255)
    (folder / "text").write_text("hello\n" * 1000)
    assert "unknown image format" in inspect(folder / "text", status=255)
    (folder / "empty").write_bytes(b"")
    assert "empty" in inspect(folder / "empty", status=255)
    secret = folder / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0)
    assert "Permission denied" in inspect(secret, status=255)
    assert "no root file system" in inspect(IMAGES / "empty.sif", status=255)
    assert "no app 'nope'" in inspect("--app", "nope", IMAGES / "busybox_amd64.sif", status=255)
    whole = (IMAGES / "busybox_amd64.sif").read_bytes()
    (folder / "cut.sif").write_bytes(whole[:20000])
    assert "beyond the end" in inspect(folder / "cut.sif", status=255)


@test
def a_damaged_squashfs_is_an_error(folder):
    image = squashfs(make_root(folder))
    data = bytearray(image.read_bytes())
    used = int.from_bytes(data[40:48], "little")
    data[96:used] = bytes(used - 96)
    image.write_bytes(data)
    inspect(image, status=255)


@test
def wrong_usage_shows_the_usage_and_exits_1(folder):
    assert "Usage" in inspect("--nonsense", folder, status=1)
    assert "Usage" in inspect(status=1)
    assert "Usage" in inspect(folder, folder, status=1)
    assert "Usage" in inspect("--help")


@test
def an_image_cannot_steer_the_terminal(folder):
    root = make_root(folder)
    (root / ".singularity.d/runscript").write_text("\x1b]0;owned\x07")
    master, slave = pty.openpty()
    inspect("-r", root, stdout=slave)
    os.close(slave)
    shown = os.read(master, 4096)
    os.close(master)
    assert b"\x1b" not in shown and b"\\x1b]0;owned\\x07" in shown, shown
    assert inspect("-r", root) == "\\x1b]0;owned\\x07\n"  # in a pipe too
    (root / ".singularity.d/runscript.help").write_text("caf\u00e9 \u009b31m \u202egnp.exe\n\ttabbed\n")
    assert inspect("-H", root) == "caf\u00e9 \\xc2\\x9b31m \\xe2\\x80\\xaegnp.exe\n\ttabbed\n"
    shown = inspect("-H", "-j", root)
    assert "\u202e" not in shown and "\u009b" not in shown
    assert json.loads(shown)["data"]["attributes"]["helpfile"] == "caf\u00e9 \u009b31m \u202egnp.exe\n\ttabbed"


@test
def what_is_malformed_is_left_out(folder):
    """one bad member, one bad object, one bad file: the rest is shown"""
    root = make_root(folder)
    (root / ".singularity.d/labels.json").write_text("[1]")
    (root / ".singularity.d/runscript").write_text("#!/bin/sh\necho good\n")
    assert "echo good" in inspect("-r", root)
    deep = '{"a":' + "[" * 300_000 + "]" * 300_000 + "}"
    (root / ".singularity.d/labels.json").write_text(deep)
    assert "echo good" in inspect("--all", root)
    inspect("--labels", root)
    image = folder / "image.sif"
    shutil.copy(IMAGES / "busybox_amd64.sif", image)
    replace_metadata(image, b"{}", name=b"another object")
    whole = json.loads(inspect("--all", image))["data"]["attributes"]
    for text, shown in ((b'{"data":{"attributes":{"labels":[],"helpfile":"help text"}}}', "help text"), (b"{broken", None), (b"", None),
                        (b'{"data":{"attributes":{"labels":%s}}}' % deep[:400_000].encode(), None), (b'{"data":' * 100 + b"1" + b"}" * 100, None),
                        (b'{"data":7}', None)):
        shutil.copy(IMAGES / "busybox_amd64.sif", image)
        replace_metadata(image, text)
        attributes = json.loads(inspect("--all", image))["data"]["attributes"]
        if shown is None:
            assert attributes == whole, attributes  # from the file system
        else:
            assert attributes == {"helpfile": shown}, attributes


def call(function):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="postern-inspect-"))
    folder.chmod(0o755)
    try:
        function(folder)
    finally:
        shutil.rmtree(folder)


try:
    STATUS = tap.run(TESTS, sys.argv[3:], call=call)
finally:
    shutil.rmtree(PLACE)
sys.exit(STATUS)
