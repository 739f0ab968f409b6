#!/usr/bin/env python3
"""`build`: what goes in comes out. As an unprivileged user; prints TAP.

Usage: build_image.py POSTERN-BUILD
Reads the squashfs of the built SIF with unsquashfs, so that writer and reader are not the same code.
"""
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import pathlib
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tap  # noqa: E402
import users  # noqa: E402

PROGRAM = str(pathlib.Path(sys.argv[1]).resolve())
TESTS = []


def test(function):
    TESTS.append(function)
    return function


# ---------------------------------------------------------------- running and reading

def build(*arguments, ok=True, env=None, cwd=None, what="", **more):
    environment = {k: v for k, v in os.environ.items()
                   if not k.startswith(("POSTERN", "APPTAINER", "SINGULARITY", "SOURCE_DATE"))}
    environment.update(env or {})
    done = subprocess.run([PROGRAM, "build", *map(str, arguments)], capture_output=True, env=environment,
                          cwd=cwd, stdin=subprocess.DEVNULL, timeout=300, **more)
    text = done.stderr.decode(errors="replace")
    assert (done.returncode == 0) == ok, f"exit {done.returncode}, {'expected success' if ok else 'expected failure'} {what}: {text}"
    if not ok:
        assert done.returncode in (1, 255), done.returncode
        fatal = [line for line in text.splitlines() if line.startswith("FATAL:")]
        assert done.returncode == 1 or len(fatal) == 1, f"one FATAL line expected: {text}"
    return text


def objects(sif):
    """Descriptors by byte offsets, as the format's description gives them."""
    data = pathlib.Path(sif).read_bytes()
    assert data[32:42] == b"SIF_MAGIC\0" and data[42:45] == b"01\0", "not a SIF"
    total, = struct.unpack_from("<q", data, 88)
    table, = struct.unpack_from("<q", data, 96)
    out = []
    for slot in range(total):
        raw = data[table + slot * 585:table + (slot + 1) * 585]
        if raw[4]:
            kind, = struct.unpack_from("<i", raw, 0)
            offset, size = struct.unpack_from("<qq", raw, 17)
            out.append({"type": kind, "name": raw[73:201].rstrip(b"\0").decode(), "extra": raw[201:],
                        "offset": offset, "data": data[offset:offset + size], "created": struct.unpack_from("<q", raw, 41)[0]})
    return out


def partition(sif):
    found = [o for o in objects(sif) if o["type"] == 0x4004]
    assert len(found) == 1, "one partition expected"
    fs, kind = struct.unpack_from("<ii", found[0]["extra"], 0)
    assert (fs, kind) == (1, 2), "primary squashfs expected"
    assert found[0]["offset"] % 4096 == 0
    return found[0]["data"]


def listing(sif):
    """path -> fields of `unsquashfs -lln`."""
    with tempfile.NamedTemporaryFile(dir=os.getcwd()) as image:
        image.write(partition(sif))
        image.flush()
        text = subprocess.run(["unsquashfs", "-lln", image.name], capture_output=True, check=True).stdout
    tree = {}
    for line in text.split(b"\n"):
        if b"squashfs-root" not in line:
            continue
        head, path = line.split(b"squashfs-root", 1)
        fields = head.split()
        link = None
        if fields[0].startswith(b"l") and b" -> " in path:
            path, link = path.split(b" -> ", 1)
        tree[path] = {"mode": fields[0].decode(), "owner": fields[1].decode(), "size": fields[2].decode(), "link": link}
    return tree


def content(sif, path):
    with tempfile.NamedTemporaryFile(dir=os.getcwd()) as image:
        image.write(partition(sif))
        image.flush()
        return subprocess.run(["unsquashfs", "-cat", image.name, path], capture_output=True, check=True).stdout


# ---------------------------------------------------------------- making sources

def entry(name, data=None, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mtime = fields.pop("mtime", 1000)
    info.mode = fields.pop("mode", 0o755 if kind == tarfile.DIRTYPE else 0o644)
    for field, value in fields.items():
        setattr(info, field, value)
    if data is not None:
        info.size = len(data)
    return info, data


def directory(name, **fields):
    return entry(name, None, tarfile.DIRTYPE, **fields)


def symlink(name, target):
    return entry(name, None, tarfile.SYMTYPE, linkname=target, mode=0o777)


def hardlink(name, target):
    return entry(name, None, tarfile.LNKTYPE, linkname=target)


def tar(*entries, format=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


def sha(data):
    return hashlib.sha256(data).hexdigest()


def config(layers, **settings):
    return json.dumps({"architecture": settings.pop("architecture", "amd64"), "os": "linux",
                       "created": settings.pop("created", "2023-05-06T07:08:09Z"), "config": settings,
                       "rootfs": {"type": "layers", "diff_ids": settings.pop("diff_ids", ["sha256:" + sha(l) for l in layers])}}).encode()


def docker_archive(path, layers, tags=("app:v1",), edit=None, **settings):
    document = config(layers, **settings)
    members = {sha(document) + ".json": document}
    names = []
    for layer in layers:
        names.append(sha(layer) + "/layer.tar")
        members[names[-1]] = layer
    members["manifest.json"] = json.dumps([{"Config": sha(document) + ".json", "RepoTags": list(tags), "Layers": names}]).encode()
    if edit:
        edit(members, names)
    data = tar(*(entry(name, text) for name, text in members.items()))
    pathlib.Path(path).write_bytes(data)
    return data


def oci_layout(path, layers, compress=gzip.compress, edit=None, media="application/vnd.oci.image.layer.v1.tar+gzip", tag="v1", **settings):
    """Returns the blobs' folder."""
    root = pathlib.Path(path)
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data):
        (blobs / sha(data)).write_bytes(data)
        return {"digest": "sha256:" + sha(data), "size": len(data)}

    manifest = {"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(config(layers, **settings))},
                "layers": [{"mediaType": media, **put(compress(layer))} for layer in layers]}
    if edit:
        edit(manifest)
    top = {"mediaType": "application/vnd.oci.image.manifest.v1+json", **put(json.dumps(manifest).encode()),
           "annotations": {"org.opencontainers.image.ref.name": tag}}
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return blobs


BASE = tar(directory("bin"), entry("bin/app", b"#!/bin/sh\nold\n", mode=0o755), entry("etc/conf", b"base", uid=0, gid=42),
           entry("gone", b"x"), directory("opaque"), entry("opaque/lower", b"x"), entry("a", b"linked"), hardlink("b", "a"),
           directory("usr/lib"), symlink("lib", "usr/lib"))
UPPER = tar(entry("bin/app", b"#!/bin/sh\nnew\n", mode=0o4755, uid=7, gid=8), entry(".wh.gone", b""), entry("opaque/upper", b"y"),
            entry("opaque/.wh..wh..opq", b""), entry(".wh.a", b""), entry("lib/late.so", b"late"))


def check_merged(sif):
    tree = listing(sif)
    assert content(sif, "bin/app") == b"#!/bin/sh\nnew\n"
    assert tree[b"/bin/app"]["mode"] == "-rwsr-xr-x" and tree[b"/bin/app"]["owner"] == "7/8"
    assert tree[b"/etc/conf"]["owner"] == "0/42"
    for path in (b"/gone", b"/.wh.gone", b"/opaque/lower", b"/opaque/.wh..wh..opq", b"/a"):
        assert path not in tree, path
    assert b"/opaque/upper" in tree and content(sif, "b") == b"linked"
    assert content(sif, "usr/lib/late.so") == b"late" and tree[b"/lib"]["link"] == b"usr/lib"


# ---------------------------------------------------------------- directories and tars

@test
def a_directory_becomes_a_sif_that_holds_the_same_files():
    root = pathlib.Path("root")
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "prog").write_bytes(b"#!/bin/sh\necho hi\n")
    (root / "bin" / "prog").chmod(0o750)
    os.link(root / "bin" / "prog", root / "bin" / "again")
    os.symlink("prog", root / "bin" / "link")
    os.symlink("/nowhere/at all", root / "dangling")
    (root / "big").write_bytes(os.urandom(300_000))
    (root / "empty").write_bytes(b"")
    os.mkfifo(root / "pipe")
    with open(root / "sparse", "wb") as file:
        file.truncate(5_000_000)
        file.seek(4_000_000)
        file.write(b"end")
    odd = os.fsencode(root) + b"/odd \n name \xff"
    pathlib.Path(os.fsdecode(odd)).write_bytes(b"odd")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(root / "socket"))
    os.setxattr(root / "empty", "user.colour", b"blue")
    build("out.sif", "root")
    tree = listing("out.sif")
    # The caller's files are root's in the image, as they are root's in the caller's containers.
    assert tree[b"/bin/prog"] == {"mode": "-rwxr-x---", "owner": "0/0", "size": "18", "link": None}
    assert tree[b"/bin/link"]["link"] == b"prog" and tree[b"/dangling"]["link"] == b"/nowhere/at all"
    assert tree[b"/pipe"]["mode"].startswith("p") and b"/socket" not in tree
    for name in ("big", "empty", "sparse", "bin/again"):
        assert content("out.sif", name) == (root / name).read_bytes(), name
    # unsquashfs prints the name as it is: over two lines.
    assert content("out.sif", odd[len(b"root/"):]) == b"odd"
    for made in (b"/proc", b"/sys", b"/dev", b"/tmp", b"/var/tmp", b"/home", b"/root", b"/etc/hosts", b"/etc/resolv.conf",
                 b"/.singularity.d/actions/exec", b"/.singularity.d/env/99-base.sh", b"/.singularity.d/runscript"):
        assert made in tree, made
    assert tree[b"/tmp"]["mode"] == "drwxrwxrwt"
    assert stat.S_IMODE(os.stat("out.sif").st_mode) == 0o755 & ~CURRENT_UMASK
    kinds = [(o["type"], o["name"]) for o in objects("out.sif")]
    assert kinds == [(0x4001, ""), (0x4006, "inspect-metadata.json"), (0x4004, "")], kinds
    assert pathlib.Path("out.sif").read_bytes().startswith(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC")
    with tempfile.TemporaryDirectory(dir=".") as there:
        image = pathlib.Path(there) / "image"
        image.write_bytes(partition("out.sif"))
        subprocess.run(["unsquashfs", "-q", "-n", "-d", f"{there}/tree", str(image), "empty", "bin"], check=True, capture_output=True)
        assert os.getxattr(f"{there}/tree/empty", "user.colour") == b"blue"
        assert os.stat(f"{there}/tree/bin/prog").st_ino == os.stat(f"{there}/tree/bin/again").st_ino


@test
def the_same_input_gives_the_same_bytes():
    root = pathlib.Path("root")
    for i in range(200):
        (root / f"d{i % 7}").mkdir(parents=True, exist_ok=True)
        (root / f"d{i % 7}" / f"f{i}").write_bytes(os.urandom(i * 97) + b"x" * i * 300)
    for compression in ("zstd", "gzip", "xz", "lz4", "lzo", "none"):
        build("--compression", compression, "--mksquashfs-args", "-processors 1", "one.sif", "root")
        build("--compression", compression, "--mksquashfs-args", "-processors 4", "two.sif", "root")
        first, second = pathlib.Path("one.sif").read_bytes(), pathlib.Path("two.sif").read_bytes()
        assert first == second, compression
        assert first[48:64] == bytes(16), "nil id"
        assert all(o["created"] == -62135596800 for o in objects("one.sif")), "no times"
        number = {"gzip": 1, "lzo": 3, "xz": 4, "lz4": 5, "zstd": 6, "none": 1}[compression]
        assert struct.unpack_from("<H", partition("one.sif"), 20)[0] == number
        assert struct.unpack_from("<I", partition("one.sif"), 12)[0] == 131072
        assert content("one.sif", "d3/f199" if 199 % 7 == 3 else f"d{199 % 7}/f199") == (root / f"d{199 % 7}/f199").read_bytes()
        os.unlink("one.sif")
        os.unlink("two.sif")


@test
def source_date_epoch_clamps_times():
    root = pathlib.Path("root")
    root.mkdir()
    (root / "old").write_bytes(b"1")
    (root / "new").write_bytes(b"2")
    os.utime(root / "old", (1000, 1000))
    build("a.sif", "root", env={"SOURCE_DATE_EPOCH": "2000"})
    os.utime(root / "new", (5_000_000, 5_000_000))
    os.utime(root, (6_000_000, 6_000_000))
    build("b.sif", "root", env={"SOURCE_DATE_EPOCH": "2000"})
    assert pathlib.Path("a.sif").read_bytes() == pathlib.Path("b.sif").read_bytes()
    assert struct.unpack_from("<I", partition("a.sif"), 8)[0] == 2000
    build("c.sif", "root", ok=False, env={"SOURCE_DATE_EPOCH": "yesterday"})


@test
def tars_of_every_compression_and_format_keep_owners_and_devices():
    members = [directory("dev", uid=0), entry("dev/null", None, tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
               entry("dev/loop", None, tarfile.BLKTYPE, devmajor=7, devminor=300, mode=0o660), entry("f", b"text" * 5000, uid=1234, gid=5678),
               hardlink("g", "f"), symlink("s", "f"), entry("p", None, tarfile.FIFOTYPE), entry("/abs/olute", b"1"), entry("./dot/./x", b"2")]
    for format, name in ((tarfile.USTAR_FORMAT, "ustar"), (tarfile.GNU_FORMAT, "gnu"), (tarfile.PAX_FORMAT, "pax")):
        plain = tar(*members, format=format)
        for suffix, data in (("", plain), (".gz", gzip.compress(plain)), (".xz", lzma.compress(plain)),
                             (".zst", subprocess.run(["zstd", "-c"], input=plain, capture_output=True, check=True).stdout),
                             (".two.gz", gzip.compress(plain[:700]) + gzip.compress(plain[700:]))):
            pathlib.Path(name + ".tar" + suffix).write_bytes(data)
            build("-F", "out.sif", name + ".tar" + suffix)
            tree = listing("out.sif")
            assert tree[b"/f"]["owner"] == "1234/5678" and content("out.sif", "g") == b"text" * 5000
            assert tree[b"/dev/null"]["mode"] == "crw-rw-rw-" and tree[b"/dev/loop"]["mode"] == "brw-rw----"
            assert b"/abs/olute" in tree and b"/dot/x" in tree
    long_name = "/".join(["d" * 200] * 30) + "/file"  # longer than PATH_MAX
    pathlib.Path("long.tar").write_bytes(tar(entry(long_name, b"deep")))
    build("long.sif", "long.tar")
    assert b"/" + long_name.encode() in listing("long.sif")
    pathlib.Path("raw.tar").write_bytes(tar(entry("caf\udce9", b"1"), entry("x" * 90 + "\udcff" + "y" * 90, b"2")))
    build("raw.sif", "raw.tar")
    assert b"/caf\xe9" in listing("raw.sif") and b"/" + b"x" * 90 + b"\xff" + b"y" * 90 in listing("raw.sif")


@test
def attributes_of_archives_are_kept():
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    info, data = entry("ping", b"elf", mode=0o755)
    info.pax_headers = {"SCHILY.xattr.security.capability": capability.decode("latin-1").encode("latin-1").decode("utf-8", "surrogateescape"),
                        "SCHILY.xattr.user.note": "hello"}
    pathlib.Path("x.tar").write_bytes(tar((info, data)))
    build("x.sif", "x.tar")
    assert b"security.capability"[9:] in attribute_table("x.sif") and b"hello" in attribute_table("x.sif")


def attribute_table(sif):
    """Names and values of all attributes, however they are stored: -comp none leaves them plain."""
    build("-F", "--compression", "none", "plain.sif", "x.tar")
    return partition("plain.sif")


@test
def a_sparse_member_of_a_tar_stays_sparse():
    with open("big", "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"middle")
    subprocess.run(["tar", "--sparse", "-cf", "s.tar", "big"], check=True)
    assert os.stat("s.tar").st_size < 100_000
    build("s.sif", "s.tar")
    assert os.stat("s.sif").st_size < 300_000
    assert listing("s.sif")[b"/big"]["size"] == str(1 << 30)


@test
def a_name_that_a_nul_would_cut_is_refused():
    def archive(keyword, value, mode="w", fill=0):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode, format=tarfile.PAX_FORMAT) as tar:
            before = tarfile.TarInfo("before")
            before.size = fill
            tar.addfile(before, io.BytesIO(b"x" * fill))
            info = tarfile.TarInfo("placeholder")
            if keyword == "linkpath":
                info.type, info.linkname = tarfile.SYMTYPE, "there"
            info.pax_headers = {"comment": "long " * 60000, keyword: value}
            tar.addfile(info)
        pathlib.Path("n.tar").write_bytes(out.getvalue())

    # Headers in one piece of the reader, across pieces, behind data that is read or skipped, compressed.
    for mode, fill in (("w", 0), ("w", 131_000), ("w", 5_000_000), ("w:gz", 5_000_000)):
        for keyword in ("path", "linkpath", "uname"):
            archive(keyword, "bin/sh\0harmless", mode, fill)
            said = build("n.sif", "n.tar", ok=False)
            assert f"the pax attribute '{keyword}' of" in said and "has a NUL byte" in said, said
            assert not os.path.exists("n.sif")
            archive(keyword, "bin/sh", mode, fill)
            build("-F", "n.sif", "n.tar")
            os.unlink("n.sif")
    archive("SCHILY.xattr.user.note", "a\0b")  # attributes of files are bytes
    build("n.sif", "n.tar")


@test
def a_hole_without_end_is_refused_at_once():
    os.mkdir("tree")
    with open("tree/big", "wb") as file:
        file.truncate(1 << 40)
    subprocess.run(["tar", "--sparse", "-cf", "s.tar", "-C", "tree", "big"], check=True)
    for source, words in (("s.tar", "is a hole of 1.00 TiB"), ("tree", "holes of more than 64")):
        said = build("s.sif", source, ok=False)
        assert words in said, said
        assert not os.path.exists("s.sif")
    os.truncate("tree/big", 3 << 30)  # the same made smaller is taken, and costs nothing
    build("s.sif", "tree")
    assert os.stat("s.sif").st_size < 300_000 and listing("s.sif")[b"/big"]["size"] == str(3 << 30)


# ---------------------------------------------------------------- OCI and Docker

@test
def a_docker_archive_is_merged_layer_over_layer():
    docker_archive("image.tar", [BASE, UPPER], Env=["PATH=/opt/bin:/bin", "GREETING=say \"hi\" $HOME"], Entrypoint=["/bin/app", "it's"],
                   Cmd=["-x", "a b"], Labels={"maintainer": "someone"})
    build("out.sif", "docker-archive:image.tar")
    check_merged("out.sif")
    build("-F", "auto.sif", "image.tar")
    check_merged("auto.sif")
    build("-F", "named.sif", "docker-archive://image.tar:app:v1")
    pathlib.Path("image.tar.gz").write_bytes(gzip.compress(pathlib.Path("image.tar").read_bytes()))
    build("-F", "packed.sif", "docker-archive:image.tar.gz")
    check_merged("packed.sif")
    build("-F", "packed.sif", "image.tar.gz")
    check_merged("packed.sif")
    assert content("out.sif", ".singularity.d/runscript").endswith(
        b"[ $# -gt 0 ] || set -- '-x' 'a b'\nexec '/bin/app' 'it'\\''s' \"$@\"\n")
    env = content("out.sif", ".singularity.d/env/10-docker2singularity.sh")
    assert b'export PATH="/opt/bin:/bin"\n' in env
    assert b'export GREETING="${GREETING:-"say \\"hi\\" \\$HOME"}"\n' in env
    labels = json.loads(content("out.sif", ".singularity.d/labels.json"))
    assert labels["maintainer"] == "someone" and labels["org.label-schema.build-arch"] == "amd64"
    assert labels["org.label-schema.usage.singularity.deffile.bootstrap"] == "docker-archive"
    assert labels["org.label-schema.build-date"] == "Saturday_6_May_2023_7:8:9_UTC"
    os.makedirs("nested/.singularity.d")
    pathlib.Path("nested/.singularity.d/labels.json").write_text('{"a":' + "[" * 300_000 + "]" * 300_000 + "}")
    assert "labels.json of the source is not a JSON object: replaced" in build("-F", "nested.sif", "nested")
    assert "a" not in json.loads(content("nested.sif", ".singularity.d/labels.json"))
    named = {o["name"]: o["data"] for o in objects("out.sif")}
    assert json.loads(named["oci-config.json"])["config"]["Cmd"] == ["-x", "a b"]
    attributes = json.loads(named["inspect-metadata.json"])["data"]["attributes"]
    assert attributes["labels"] == labels and "/.singularity.d/env/99-base.sh" in attributes["environment"]
    assert [o["type"] for o in objects("out.sif")] == [0x4001, 0x4006, 0x4006, 0x4004]
    # The scripts mean what they say to a real shell, too.
    pathlib.Path("run").write_bytes(content("out.sif", ".singularity.d/runscript").replace(b"exec '/bin/app'", b"exec printf '<%s>'"))
    for words, expected in (([], b"<it's><-x><a b>"), (["one two"], b"<it's><one two>")):
        assert subprocess.run(["sh", "run", *words], capture_output=True).stdout == expected
    pathlib.Path("env").write_bytes(env + b"printf '%s|%s' \"$PATH\" \"$GREETING\"\n")
    for shell in ("bash", "dash"):
        found = subprocess.run([shutil.which(shell), "env"], capture_output=True, env={}).stdout
        assert found == b'/opt/bin:/bin|say "hi" $HOME', (shell, found)


@test
def an_oci_layout_is_merged_from_every_compression():
    for name, compress in (("gzip", gzip.compress), ("none", bytes), ("zstd", lambda d: subprocess.run(["zstd", "-c"], input=d, capture_output=True, check=True).stdout)):
        oci_layout(name, [BASE, UPPER], compress)
        build(name + ".sif", "oci:" + name)
        check_merged(name + ".sif")
    build("-F", "auto.sif", "gzip")
    build("-F", "tag.sif", "oci:gzip:v1")
    assert "it has: v1" in build("none2.sif", "oci:gzip:v2", ok=False)
    with tarfile.open("layout.tar", "w") as archive:
        archive.add("gzip", ".")
    build("archive.sif", "oci-archive:layout.tar")
    check_merged("archive.sif")
    build("-F", "archive.sif", "layout.tar")
    check_merged("archive.sif")
    # One image, three ways: the same files.
    assert partition("gzip.sif")[:4] == b"hsqs" and listing("gzip.sif") == listing("none.sif")


@test
def an_index_of_several_architectures_asks_for_one():
    blobs = oci_layout("multi", [BASE])
    index = json.loads(pathlib.Path("multi/index.json").read_text())
    arm = oci_layout("arm", [UPPER], architecture="arm64")
    for blob in arm.iterdir():
        shutil.copy(blob, blobs)
    other = json.loads(pathlib.Path("arm/index.json").read_text())["manifests"][0]
    manifests = [dict(index["manifests"][0], platform={"os": "linux", "architecture": "amd64"}),
                 dict(other, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
                 dict(other, platform={"os": "unknown", "architecture": "unknown"})]
    for m in manifests:
        m.pop("annotations")
    inner = json.dumps({"manifests": manifests}).encode()
    (blobs / sha(inner)).write_bytes(inner)
    pathlib.Path("multi/index.json").write_text(json.dumps({"manifests": [
        {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:" + sha(inner), "size": len(inner)}]}))
    build("--arch", "arm64", "arm.sif", "oci:multi")
    assert b"/opaque/upper" in listing("arm.sif")
    assert pathlib.Path("arm.sif").read_bytes()[45:48] == b"04\0"
    build("--arch", "amd64", "amd.sif", "oci:multi")
    assert pathlib.Path("amd.sif").read_bytes()[45:48] == b"02\0"
    docker_archive("arm.tar", [UPPER], architecture="arm64")
    assert "for arm64, not amd64" in build("--arch", "amd64", "no.sif", "arm.tar", ok=False)
    assert "linux/s390x" in build("--arch", "s390x", "z.sif", "oci:multi", ok=False)


@test
def docker_links_between_layers_and_several_images_are_understood():
    layer = tar(entry("f", b"1"))
    document = config([layer, layer])
    name = sha(layer)
    data = tar(entry("manifest.json", json.dumps([
        {"Config": sha(document) + ".json", "RepoTags": ["one:latest"], "Layers": [name + "/layer.tar", "f" * 64 + "/layer.tar"]},
        {"Config": sha(document) + ".json", "RepoTags": ["two:x"], "Layers": []}]).encode()),
        entry(sha(document) + ".json", document), entry(name + "/layer.tar", layer), symlink("f" * 64 + "/layer.tar", f"../{name}/layer.tar"))
    pathlib.Path("two.tar").write_bytes(data)
    text = build("x.sif", "docker-archive:two.tar", ok=False)
    assert "2 images" in text and "one:latest, two:x" in text
    build("x.sif", "docker-archive:two.tar:one")
    assert "no image 'three'" in build("y.sif", "docker-archive:two.tar:three", ok=False)


# ---------------------------------------------------------------- images as sources, directories as targets

def snapshot(top):
    out = {}
    for folder, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            item = [stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), int(status.st_mtime)]
            if stat.S_ISLNK(status.st_mode):
                item.append(os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                item += [pathlib.Path(path).read_bytes(), status.st_nlink]
            out[os.path.relpath(path, top)] = item
    return out


@test
def a_sif_unpacks_to_a_sandbox_and_back():
    members = [directory("bin", mtime=111), entry("bin/prog", b"\x7fELF" + os.urandom(400000), mode=0o4755, mtime=222), hardlink("bin/same", "bin/prog"),
               symlink("bin/link", "prog"), entry("e", b"", mode=0o600), entry("f/deep/er", b"x"), entry("p", None, tarfile.FIFOTYPE),
               entry("dev/null", None, tarfile.CHRTYPE, devmajor=1, devminor=3), directory("locked", mode=0o555), entry("locked/in", b"1", mode=0o444)]
    pathlib.Path("x.tar").write_bytes(tar(*members))
    build("one.sif", "x.tar")
    text = build("--sandbox", "--keep-privileged", "box", "one.sif")
    assert "1 device nodes left out" in text, text
    box = snapshot("box")
    assert box["bin/prog"][1] == 0o4755 and box["bin/prog"][4] == 2 and box["bin/prog"][2] == 222
    assert box["bin"][2] == 111 and box["bin/link"][3] == "prog" and box["locked"][1] == 0o555 and "dev/null" not in box
    assert os.stat("box/bin/prog").st_ino == os.stat("box/bin/same").st_ino
    build("two.sif", "box")
    build("-s", "--keep-privileged", "again", "two.sif")
    again = snapshot("again")
    for tree in (box, again):
        tree.pop(".singularity.d/labels.json")  # says what it was built from
    assert again == box
    before = listing("one.sif")
    before.pop(b"/dev/null")
    assert listing("two.sif").keys() == before.keys()
    assert sorted(os.listdir(".")) == ["again", "box", "one.sif", "two.sif", "x.tar"]


@test
def squashfs_of_others_and_old_launch_scripts_are_read():
    root = pathlib.Path("root")
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(os.urandom(300000))
    (root / "d" / "zeros").write_bytes(bytes(500000) + b"end")
    os.link(root / "d" / "f", root / "g")
    for compression in ("gzip", "xz", "lz4", "lzo", "zstd"):
        subprocess.run(["mksquashfs", "root", "x.sqfs", "-comp", compression, "-noappend", "-quiet", "-no-progress"], check=True,
                       capture_output=True)
        build("-F", "x.sif", "x.sqfs")
        for name in ("d/f", "d/zeros", "g"):
            assert content("x.sif", name) == (root / name).read_bytes(), (compression, name)
    pathlib.Path("old.img").write_bytes(b"#!/usr/bin/env run-singularity\n" + pathlib.Path("x.sqfs").read_bytes())
    build("-F", "x.sif", "old.img")
    assert content("x.sif", "d/f") == (root / "d" / "f").read_bytes()
    image = bytearray(pathlib.Path("x.sqfs").read_bytes())
    for cut in (96, 1000, len(image) // 2):
        pathlib.Path("cut.sqfs").write_bytes(image[:cut])
        build("-F", "bad.sif", "cut.sqfs", ok=False)
    assert not os.path.exists("bad.sif")


@test
def sandboxes_are_replaced_only_when_asked_and_only_when_whole():
    pathlib.Path("x.tar").write_bytes(tar(entry("f", b"1")))
    os.mkdir("box")
    build("--sandbox", "box", "x.tar")  # an empty directory is fine
    assert "already exists" in build("--sandbox", "box", "x.tar", ok=False)
    os.mkdir("home")
    pathlib.Path("home/thesis").write_bytes(b"precious")
    assert "no sandbox" in build("--sandbox", "home", "x.tar", ok=False)
    assert "not a directory" in build("--sandbox", "x.tar", "box", ok=False)
    pathlib.Path("bad.tar").write_bytes(tar(entry("a", b"1"), entry("../x", b"")))
    build("--sandbox", "--force", "box", "bad.tar", ok=False)
    assert os.path.exists("box/f")
    pathlib.Path("new.tar").write_bytes(tar(directory("shut", mode=0), entry("shut/in", b"x"), entry("g", b"2")))
    text = build("--sandbox", "--force", "box", "new.tar")
    assert "--fix-perms" in text and os.path.exists("box/g") and not os.path.exists("box/f")
    build("--sandbox", "--force", "--fix-perms", "box", "new.tar")  # removes the closed one
    assert os.path.exists("box/shut/in")
    deep = "/".join(["d" * 200] * 30)
    pathlib.Path("deep.tar").write_bytes(tar(entry(deep + "/f", b"x")))
    build("--sandbox", "--force", "box", "deep.tar")
    build("deep.sif", "box")
    assert b"/" + deep.encode() + b"/f" in listing("deep.sif")
    build("--sandbox", "--force", "box", "x.tar")
    for number in (signal.SIGINT, signal.SIGTERM):
        pathlib.Path("big.tar").write_bytes(tar(*(entry(f"f{i}", os.urandom(1 << 20)) for i in range(60))))
        before = sorted(os.listdir("."))
        process = subprocess.Popen([PROGRAM, "build", "--sandbox", "other", "big.tar"], stderr=subprocess.DEVNULL)
        tap.wait_until(lambda: process.poll() is not None or any(name.startswith(".postern-build-") for name in os.listdir(".")), "it does not unpack")
        process.send_signal(number)
        assert process.wait(60) in (-number, 0)
        if process.returncode:
            assert sorted(os.listdir(".")) == before, os.listdir(".")
        else:
            shutil.rmtree("other")
    # As a kill leaves it on a file system that exchanges no names (integration/network_files.py).
    for name in ("lost", "box"):
        pathlib.Path(".postern-build-killed", "former-" + name).mkdir(parents=True)
    build("--sandbox", "--force", "new", "x.tar")
    assert os.path.isdir("lost") and os.listdir("box") and not os.path.exists(".postern-build-killed"), os.listdir(".")


# ---------------------------------------------------------------- hostile and damaged input

@test
def names_that_climb_and_links_that_lead_out_stay_in_the_image():
    os.mkdir("victim")
    outside = os.path.abspath("victim")
    for name in ("../victim/x", "a/../../victim/x", ".."):
        pathlib.Path("bad.tar").write_bytes(tar(entry(name, b"x")))
        assert "'..'" in build("bad.sif", "bad.tar", ok=False)
        pathlib.Path("bad.tar").unlink()
        docker_archive("bad.tar", [tar(entry(name, b"x"))])
        assert "'..'" in build("bad.sif", "docker-archive:bad.tar", ok=False)
    for first in (symlink("d", outside), symlink("d", "../" * 30 + outside.lstrip("/"))):
        docker_archive("link.tar", [tar(first), tar(entry("d/x", b"x"), entry("d/.wh.y", b""))])
        build("-F", "link.sif", "docker-archive:link.tar")
        assert os.fsencode(outside) + b"/x" in listing("link.sif")
        build("-F", "--sandbox", "box", "docker-archive:link.tar")
        assert os.path.exists("box" + outside + "/x") and os.path.islink("box/d")
        assert os.listdir("victim") == []
    for bad in ([symlink(".", "/etc")], [symlink("./", outside)], [entry("/", b"x")], [symlink("l", "l"), entry("l/x", b"x")],
                [hardlink("h", "missing")], [hardlink("h", "../../etc/passwd")], [directory("d"), hardlink("h", "d")],
                [entry(".wh...", b"")], [entry("n" * 256, b"x")], [entry("f", b"x", uid=2**32 - 1)], [entry("f", b"x", uid=-5)]):
        docker_archive("bad.tar", [tar(*bad, format=tarfile.GNU_FORMAT)])
        build("bad.sif", "docker-archive:bad.tar", ok=False)
    assert not os.path.exists("bad.sif") and os.listdir("victim") == []


@test
def damaged_archives_are_refused_and_leave_nothing():
    good = docker_archive("good.tar", [BASE, UPPER])
    before = sorted(os.listdir("."))
    cases = {}
    for cut in (0, 1, 511, 512, 600, len(good) // 2, len(good) - 10300):
        cases[f"cut at {cut}"] = good[:cut]
    at = good.index(b"#!/bin/sh\nnew")
    cases["a byte of a layer changed"] = good[:at] + b"X" + good[at + 1:]
    at = good.index(b'"architecture"')
    cases["a byte of the configuration changed"] = good[:at + 2] + b"X" + good[at + 3:]
    for what, data in cases.items():
        pathlib.Path("bad.tar").write_bytes(data)
        build("bad.sif", "docker-archive:bad.tar", ok=False, what=what)
        assert not os.path.exists("bad.sif"), what
        os.unlink("bad.tar")
    edits = {
        "missing layer": lambda m, n: m.pop(n[0]),
        "missing configuration": lambda m, n: [m.pop(k) for k in list(m) if k.endswith(".json") and k != "manifest.json"],
        "too few layers": lambda m, n: m.update({"manifest.json": m["manifest.json"].replace(b'"Layers": ["' + n[0].encode() + b'", ', b'"Layers": [')}),
        "manifest is not JSON": lambda m, n: m.update({"manifest.json": b"{"}),
        "manifest nests": lambda m, n: m.update({"manifest.json": b"[" * 100000}),
        "manifest is huge": lambda m, n: m.update({"manifest.json": b" " * (5 << 20)}),
        "no manifest": lambda m, n: m.pop("manifest.json"),
        "layers is a text": lambda m, n: m.update({"manifest.json": b'[{"Config":"c","Layers":"x"}]'}),
    }
    for what, edit in edits.items():
        docker_archive("bad.tar", [BASE, UPPER], edit=edit)
        build("bad.sif", "docker-archive:bad.tar", ok=False, what=what)
        assert not os.path.exists("bad.sif"), what
        os.unlink("bad.tar")
    packed = gzip.compress(tar(entry("f", os.urandom(100000))))
    for what, data in {"gz cut": packed[:-2000], "gz checksum": packed[:-6] + b"\0\0\0\0\0\0", "not an archive": b"hello world\n" * 100,
                       "plain cut": tar(entry("f", os.urandom(100000)))[:50000]}.items():
        pathlib.Path("bad.tar").write_bytes(data)
        build("bad.sif", "bad.tar", ok=False, what=what)
        os.unlink("bad.tar")
    assert sorted(os.listdir(".")) == before


@test
def oci_blobs_must_match_their_digests():
    for what in ("layer", "manifest", "size", "missing", "config"):
        blobs = oci_layout(what, [BASE, UPPER], edit=(lambda m: m["layers"][0].update(size=5)) if what == "size" else None)
        index = json.loads(pathlib.Path(what, "index.json").read_text())
        manifest_blob = blobs / index["manifests"][0]["digest"][7:]
        manifest = json.loads(manifest_blob.read_text())
        layer_blob = blobs / manifest["layers"][1]["digest"][7:]
        config_blob = blobs / manifest["config"]["digest"][7:]
        if what == "layer":
            other = gzip.compress(tar(entry("evil", b"x" * 10)))
            layer_blob.write_bytes((other + bytes(layer_blob.stat().st_size))[:layer_blob.stat().st_size])
        elif what == "manifest":
            manifest_blob.write_text(manifest_blob.read_text() + " ")
        elif what == "config":
            config_blob.write_bytes(config_blob.read_bytes().replace(b"amd64", b"arm64"))
        elif what == "missing":
            layer_blob.unlink()
        build("bad.sif", "oci:" + what, ok=False)
        assert not os.path.exists("bad.sif"), what
    # A layer whose compressed form matches but whose content is another one.
    oci_layout("diff", [BASE], diff_ids=["sha256:" + "0" * 64])
    assert "configuration" in build("bad.sif", "oci:diff", ok=False)


@test
def an_unreadable_file_is_named():
    root = pathlib.Path("root")
    root.mkdir()
    (root / "secret").write_bytes(b"x")
    (root / "secret").chmod(0)
    text = build("x.sif", "root", ok=False)
    assert "root/secret" in text and "chmod" in text
    (root / "secret").chmod(0o600)
    (root / "closed").mkdir(0)
    assert "root/closed" in build("x.sif", "root", ok=False)
    (root / "closed").chmod(0o700)
    assert not os.path.exists("x.sif")
    assert "No such file" in build("x.sif", "not-there", ok=False)
    assert "No such file" in build("no/such/dir/x.sif", "root", ok=False)


# ---------------------------------------------------------------- targets, options, ends

@test
def a_present_image_is_replaced_only_by_force_and_only_when_whole():
    pathlib.Path("root").mkdir()
    pathlib.Path("x.sif").write_bytes(b"precious")
    assert "--force" in build("x.sif", "root", ok=False)
    build("--force", "x.sif", "missing", ok=False)
    pathlib.Path("bad.tar").write_bytes(tar(entry("../x", b"")))
    build("--force", "x.sif", "bad.tar", ok=False)
    assert pathlib.Path("x.sif").read_bytes() == b"precious"
    build("--force", "x.sif", "root")
    assert objects("x.sif")
    pathlib.Path("dir").mkdir()
    assert "is a directory" in build("-F", "dir", "root", ok=False)
    pathlib.Path("root/inner.sif").write_bytes(b"old image")
    build("-F", "root/inner.sif", "root")
    assert b"/inner.sif" not in listing("root/inner.sif")


@test
def usage_errors_end_with_1_and_registries_with_advice():
    for words in ((), ("one",), ("a", "b", "c"), ("--no-such-flag", "a", "b"), ("--compression", "brotli", "a", "b"),
                  ("--mksquashfs-args", "-e x", "a", "b"), ("--arch", "pdp11", "a", "b")):
        done = subprocess.run([PROGRAM, "build", *words], capture_output=True)
        assert done.returncode == 1 and b"Usage:" in done.stderr, words
    for remote, word in (("docker://127.0.0.1:1/alpine", "cannot reach"), ("library://x/y", "--library"), ("oras://127.0.0.1:1/x", "cannot reach"),
                         ("https://127.0.0.1:1/x.sif", "cannot reach"), ("docker-daemon:x:1", "docker save"), ("docker://Alpine", "lowercase")):
        text = build("x.sif", remote, ok=False)
        assert word in text, text
    help_text = subprocess.run([PROGRAM, "build", "--help"], capture_output=True, check=True).stdout
    assert b"docker-archive:FILE" in help_text


@test
def an_interrupted_build_leaves_nothing():
    root = pathlib.Path("root")
    root.mkdir()
    for i in range(8):
        (root / f"f{i}").write_bytes(os.urandom(8 << 20))
    before = sorted(os.listdir("."))
    def is_written(process):
        """It has a file without a name that has begun to grow (open(2), O_TMPFILE)."""
        with contextlib.suppress(OSError):  # it ends, or closes one
            for link in pathlib.Path(f"/proc/{process.pid}/fd").iterdir():
                if os.readlink(link).startswith(os.getcwd() + "/#") and link.stat().st_size > 0:
                    return True
        return False

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        interrupted = False
        while not interrupted:
            process = subprocess.Popen([PROGRAM, "build", "x.sif", "root"], stderr=subprocess.DEVNULL)
            tap.wait_until(lambda: process.poll() is not None or is_written(process), "it does not write")
            process.send_signal(signal.SIGSTOP)
            # If it came to its end before, there is nothing to see.
            interrupted = process.poll() is None and not os.path.exists("x.sif")
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            process.wait(60)
            if not interrupted:
                os.remove("x.sif")
                (root / "more").write_bytes(os.urandom(32 << 20) + ((root / "more").read_bytes() if (root / "more").exists() else b""))
        assert process.returncode == -number, process.returncode
        assert sorted(os.listdir(".")) == before, number


@test
def a_full_disk_is_a_clear_error():
    root = pathlib.Path("root")
    root.mkdir()
    (root / "f").write_bytes(os.urandom(6 << 20))
    done = subprocess.run(["prlimit", "--fsize=2097152", PROGRAM, "build", "x.sif", "root"], capture_output=True,
                          preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
    assert done.returncode == 255 and b"File too large" in done.stderr and b"ulimit -f" in done.stderr, done.stderr
    assert sorted(os.listdir(".")) == ["root"]
    os.mkdir("small")
    script = 'mount -t tmpfs -o size=$1 tmpfs small; "$0" build small/x.sif root; status=$?; ls small; exit $status'
    for size, status in (("3m", 255), ("30m", 0)):
        done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, PROGRAM, size], capture_output=True)
        assert done.returncode == status and done.stdout == (b"" if status else b"x.sif\n"), done
        assert (b"No space left on device" in done.stderr and b"make room" in done.stderr) == (status == 255), done.stderr
    os.rmdir("small")
    assert sorted(os.listdir(".")) == ["root"]


CURRENT_UMASK = os.umask(0)
os.umask(CURRENT_UMASK)


def become_unprivileged(scratch):
    """Without an account: nothing here asks for a name."""
    if os.getuid() != 0:
        return
    user = users.reserve(1)[0]
    os.chown(scratch, user, user)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    os.environ["HOME"] = scratch


def main(tests, wanted):
    if shutil.which("unsquashfs") is None:
        tap.skip_all("unsquashfs is not installed")
    with tempfile.TemporaryDirectory(prefix="postern-build-test-", dir="/var/tmp") as scratch:
        child = os.fork()
        if child == 0:
            become_unprivileged(scratch)

            def call(function):
                place = os.path.join(scratch, function.__name__)
                os.mkdir(place)
                os.chdir(place)
                try:
                    function()
                finally:
                    os.chdir(scratch)
                    subprocess.run(["chmod", "-R", "u+rwX", place], check=False)
                    shutil.rmtree(place, ignore_errors=True)
            os._exit(tap.run(tests, wanted, call=call))
        status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(TESTS, sys.argv[2:]))
