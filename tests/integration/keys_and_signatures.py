#!/usr/bin/env python3
"""`key`, `sign`, `verify`, `seal`, `ecl` from outside, as an unprivileged user; prints TAP.

Usage: keys_and_signatures.py POSTERN-KEYS TEST-IMAGES POSTERN-TRANSFER
What is written is checked with other programs: gpg, openssl, veritysetup, and a reader of SIF files
written here from the format's description.
"""
import base64
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import ports  # noqa: E402
import tap  # noqa: E402
import users  # noqa: E402

PROGRAM = str(pathlib.Path(sys.argv[1]).resolve())
IMAGES = pathlib.Path(sys.argv[2]).resolve()
TRANSFER = pathlib.Path(sys.argv[3]).resolve()  # asks the key servers
TESTS = []
MAGIC = b"SIF_MAGIC\0" + b"01\0"


def test(function):
    TESTS.append(function)
    return function


# ---------------------------------------------------------------- a world of one user and one site

class World:
    def __init__(self, top):
        self.top = top
        self.home = top / "home"
        self.conf = top / "conf"
        for path in (self.home, self.conf):
            path.mkdir()
        self.environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.home), "LC_ALL": "C", "TZ": "UTC", "POSTERN_LIBEXEC": str(TRANSFER.parent),
                            "POSTERN_CONFIG_FILE": str(self.conf / "postern.toml")}

    def run(self, *words, answer="", ok=0, env=None, timeout=120):
        done = subprocess.run([PROGRAM, *map(str, words)], input=answer, capture_output=True, text=True, timeout=timeout,
                              env={**self.environment, **(env or {})}, cwd=self.top)
        done.all = done.stdout + done.stderr
        assert ok is None or done.returncode == ok, f"{words}: exit {done.returncode}, wanted {ok}: {done.all}"
        return done

    def new_key(self, name, passphrase=""):
        done = self.run("key", "newpair", "-N", name, "-E", name + "@example.org", "-C", "", "-P", passphrase, "-b", "2048")
        return next(line.split()[-1] for line in done.stderr.splitlines() if "fingerprint" in line)

    def gpg(self, *words, data=b"", home=None):
        done = subprocess.run(["gpg", "--homedir", str(home or self.home / ".postern/keys"), "--batch", "--yes", "--no-tty",
                               *map(str, words)], input=data, capture_output=True, env=self.environment)
        return done


# ---------------------------------------------------------------- SIF, from its description

def make_sif(path, objects, uuid=b"u" * 16):
    """objects: (type, name, extra, data). All in group 1; partitions aligned to 4096."""
    table, data, end = b"", {}, 32176
    for index, (kind, name, extra, body) in enumerate(objects):
        start = (end + 4095) // 4096 * 4096 if kind == 0x4004 else end
        data[start] = body
        raw = struct.pack("<iBIIIqqqqqqq", kind, 1, index + 1, 0xF0000001, 0, start, len(body), start - end + len(body), 1700000000,
                          1700000000, 0, 0)
        table += raw + name.encode().ljust(128, b"\0") + extra.ljust(384, b"\0")
        end = start + len(body)
    header = b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + MAGIC + b"02\0" + uuid
    header += struct.pack("<qqqqqqqq", 1700000000, 1700000000, 48 - len(objects), 48, 4096, 48 * 585, 32176, end - 32176)
    image = bytearray(end)
    image[:128] = header
    image[4096:4096 + len(table)] = table
    for start, body in data.items():
        image[start:start + len(body)] = body
    pathlib.Path(path).write_bytes(image)


def objects(path):
    data = pathlib.Path(path).read_bytes()
    total, = struct.unpack_from("<q", data, 88)
    table, = struct.unpack_from("<q", data, 96)
    out = []
    for slot in range(total):
        at = table + slot * 585
        kind, used, ident, group, link, offset, size = struct.unpack_from("<iBIIIqq", data, at)
        if used:
            out.append({"type": kind, "id": ident, "group": group & 0x0fffffff, "link": link, "offset": offset, "size": size, "slot": at,
                        "name": data[at + 73:at + 201].rstrip(b"\0").decode(), "extra": data[at + 201:at + 585],
                        "data": data[offset:offset + size], "raw": data[at:at + 585]})
    return out


PRIMARY = struct.pack("<ii", 1, 2) + b"02\0"


def squashfs(world, megabytes=1, pad=True):
    source, target = world.top / "tree", world.top / "root.squashfs"
    if not source.exists():
        source.mkdir()
        (source / "file").write_text("content\n")
    (source / "noise").write_bytes(os.urandom(megabytes << 20))
    subprocess.run(["mksquashfs", str(source), str(target), "-noappend", "-quiet", "-no-progress", *([] if pad else ["-nopad"])],
                   check=True, stdout=subprocess.DEVNULL)
    return target.read_bytes()


def plain_image(world, name="image.sif", **more):
    path = world.top / name
    make_sif(path, [(0x4001, "deffile", b"", b"Bootstrap: scratch\n"), (0x4004, "root", PRIMARY, squashfs(world, **more))])
    return path


def flip(path, at, bit=1):
    with open(path, "r+b") as image:
        image.seek(at)
        byte = image.read(1)[0]
        image.seek(at)
        image.write(bytes([byte ^ bit]))


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def expected_metadata(path, group=1):
    """What a signature of the whole group must sign, by the format's description."""
    header = pathlib.Path(path).read_bytes()[:128]
    members = sorted((o for o in objects(path) if o["group"] == group), key=lambda o: o["id"])
    first = members[0]["id"]
    listed = []
    for o in members:
        raw = o["raw"]
        relative = struct.pack("<I", o["id"] - first)
        stream = raw[0:4] + b"\1" + relative + raw[13:17] + raw[25:33] + raw[41:49] + raw[57:73] + raw[73:585]
        assert len(stream) == 557
        listed.append({"relativeId": o["id"] - first, "descriptorDigest": sha256(stream), "objectDigest": sha256(o["data"])})
    return {"version": 1, "header": {"digest": sha256(header[0:45] + header[48:64])}, "objects": listed}


def clear_text(message):
    body = message.split(b"\n\n", 1)[1]
    return body[:body.index(b"\n-----BEGIN PGP SIGNATURE-----")]


# ---------------------------------------------------------------- keys

@test
def keys_are_made_listed_exported_imported_and_removed(w):
    fingerprint = w.new_key("alice", "secret")
    listing = w.run("key", "list").stdout
    assert fingerprint in listing and "alice <alice@example.org>" in listing and "Length (in bits):  2048" in listing, listing
    assert fingerprint in w.run("key", "list", "--secret").stdout
    w.run("key", "export", "--armor", "pub.asc")
    w.run("key", "export", "--secret", "--armor", "sec.asc", answer="secret\n")
    assert (w.top / "sec.asc").stat().st_mode & 0o777 == 0o600
    assert w.gpg("--show-keys", "--with-colons", w.top / "pub.asc").stdout.decode().count(fingerprint) == 1
    w.run("key", "import", "pub.asc", ok=2)                      # is there already
    w.run("key", "remove", fingerprint, ok=255)                  # its secret part would be of no use
    w.run("key", "remove", "--both", fingerprint)
    assert fingerprint not in w.run("key", "list").stdout
    w.run("key", "import", "sec.asc")
    assert fingerprint in w.run("key", "list", "-s").stdout
    w.run("key", "remove", "--secret", fingerprint)
    assert fingerprint in w.run("key", "list").stdout and fingerprint not in w.run("key", "list", "-s").stdout
    w.run("key", "remove", fingerprint.lower())
    assert fingerprint not in w.run("key", "list").stdout
    w.run("key", "remove", fingerprint, ok=255)
    w.run("key", "remove", "12345678", ok=255)
    assert (w.home / ".postern/keys").stat().st_mode & 0o777 == 0o700


@test
def a_new_passphrase_protects_an_imported_key(w):
    fingerprint = w.new_key("alice", "old")
    w.run("key", "export", "-s", "sec.gpg", answer="old\n")
    w.run("key", "remove", "-b", fingerprint)
    w.run("key", "import", "--new-password", "new", "sec.gpg", answer="old\n")
    image = plain_image(w)
    w.run("sign", image, answer="old\n", ok=255)
    assert len(objects(image)) == 2 or not any(o["type"] == 0x4005 for o in objects(image))
    w.run("sign", image, answer="new\n")


@test
def wrong_usage_has_apptainers_exit_codes(w):
    w.run("key", ok=1)
    w.run("key", "nosuch", ok=1)
    w.run("key", "list", "extra", ok=1)
    w.run("key", "list", "--nosuch", ok=1)
    w.run("key", "list", "--global", "--secret", ok=255)
    w.run("key", "import", "nosuchfile", ok=2)
    w.run("key", "export", "file", ok=10)                        # no key at all
    (w.top / "rubbish").write_text("rubbish")
    w.run("key", "import", "rubbish", ok=2)
    w.run("key", "newpair", "-N", "a\nName-Real: b", "-E", "e", "-C", "", "-P", "", "-b", "2048", ok=2)
    w.run("sign", ok=1)
    w.run("verify", "nosuchfile", ok=255)
    w.run("verify", "rubbish", ok=255)
    w.run("sign", plain_image(w), ok=255)                        # no secret key
    for command in (["key"], ["key", "list"], ["sign"], ["verify"], ["seal"], ["ecl"], ["ecl", "check"]):
        assert "Usage" in w.run(*command, "--help").stdout


@test
def keyrings_of_apptainer_are_taken_over(w):
    other = w.home / ".apptainer/keys"
    other.mkdir(parents=True)
    raw = w.gpg("--dearmor", data=(IMAGES / "keys/pgp-public.asc").read_bytes(), home=w.top).stdout
    (other / "pgp-public").write_bytes(raw)
    (other / "pgp-secret").write_bytes(b"")
    listing = w.run("key", "list")
    assert "F34371D0ACD5D09EB9BD853A80600A5FA11BBD29" in listing.stdout and "INFO:" in listing.stderr, listing.all
    w.run("verify", "--local", IMAGES / "one-group-signed-pgp.sif")
    w.run("key", "import", "--global", other / "pgp-public")     # as global-pgp-public
    assert "[GLOBAL]" in w.run("verify", "-l", IMAGES / "one-group-signed-pgp.sif").stdout


@test
def a_named_directory_takes_over_nothing_but_its_own(w):
    other = w.home / ".apptainer/keys"
    other.mkdir(parents=True)
    raw = w.gpg("--dearmor", data=(IMAGES / "keys/pgp-public.asc").read_bytes(), home=w.top).stdout
    (other / "pgp-public").write_bytes(raw)
    theirs = "F34371D0ACD5D09EB9BD853A80600A5FA11BBD29"
    named = w.top / "named"
    assert theirs not in w.run("key", "list", "--keysdir", named).stdout
    by_variable = w.top / "by-variable"
    assert theirs not in w.run("key", "list", env={"APPTAINER_KEYSDIR": str(by_variable)}).stdout
    own = w.top / "own"                                          # a directory of Apptainer's itself
    own.mkdir(mode=0o700)
    (own / "pgp-public").write_bytes(raw)
    assert theirs in w.run("key", "list", "--keysdir", own).stdout
    assert theirs in w.run("key", "list").stdout                 # and the default one as ever


@test
def a_keyring_whose_making_was_interrupted_is_made_whole(w):
    other = w.home / ".apptainer/keys"
    other.mkdir(parents=True)
    raw = w.gpg("--dearmor", data=(IMAGES / "keys/pgp-public.asc").read_bytes(), home=w.top).stdout
    (other / "pgp-public").write_bytes(raw)
    ring = w.home / ".postern/keys"
    ring.mkdir(parents=True, mode=0o700)
    for name in ("gpg.conf", "gpg-agent.conf", "pubring.gpg", "postern.adopting"):
        (ring / name).write_bytes(b"")
    assert "F34371D0ACD5D09EB9BD853A80600A5FA11BBD29" in w.run("key", "list").stdout
    assert "trust-model always" in (ring / "gpg.conf").read_text() and (ring / "gpg-agent.conf").stat().st_size > 0
    assert not (ring / "postern.adopting").exists()
    name = next(n for n in ("pubring.kbx", "pubring.gpg") if (ring / n).exists())
    (ring / name).rename(ring / (name + "~"))                    # GnuPG, killed between its two renames
    assert "F34371D0ACD5D09EB9BD853A80600A5FA11BBD29" in w.run("key", "list").stdout


@test
def numbers_of_objects_that_a_signature_cannot_name_are_refused(w):
    key = w.top / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ED25519", "-out", str(key)], check=True)
    key.chmod(0o600)
    for numbers, words in (((1, 1), "several objects have the number 1"), ((0, 2), "an object has the number 0"), ((1, 2), None)):
        image = plain_image(w)
        raw = bytearray(image.read_bytes())
        for slot, number in enumerate(numbers):
            struct.pack_into("<I", raw, 4096 + slot * 585 + 5, number)
        image.write_bytes(raw)
        for command in (("sign", "--key", key), ("sign", "--no-seal", "--key", key), ("sign", "-g", "1", "--key", key)):
            done = w.run(*command, image, ok=255 if words else 0)
            assert words is None or (words in done.stderr and "postern build" in done.stderr), done.all
        if words:
            assert image.read_bytes() == bytes(raw)


@test
def nothing_stays_behind(w):
    w.new_key("alice", "")
    image = plain_image(w)
    w.run("sign", image)
    w.run("verify", "-l", image)
    mine = [line for line in subprocess.run(["ps", "-u", str(os.getuid()), "-o", "stat,args"], capture_output=True, text=True).stdout.splitlines()
            if "gpg-agent" in line and str(w.top) in line and not line.startswith("Z")]
    assert not mine, mine
    assert not list(w.top.glob("postern-keys-*"))


# ---------------------------------------------------------------- signatures of others

@test
def images_signed_by_another_implementation_verify(w):
    w.run("key", "import", IMAGES / "keys/pgp-public.asc")
    out = w.run("verify", "-l", IMAGES / "one-group-signed-pgp.sif").stdout
    assert "[LOCAL]            Fingerprint: F34371D0ACD5D09EB9BD853A80600A5FA11BBD29" in out, out
    assert "1   |1       |NONE    |FS\n2   |1       |NONE    |FS\n" in out, out
    legacy = {"one-group-signed-legacy.sif": [[]], "one-group-signed-legacy-all.sif": [["--all"]],
              "one-group-signed-legacy-group.sif": [["-g", "1"]]}
    for name, rows in legacy.items():
        w.run("verify", "-l", IMAGES / name, ok=255)
        for row in rows:
            w.run("verify", "-l", "--legacy-insecure", *row, IMAGES / name)
    for key in ("ed25519", "rsa"):
        w.run("verify", "-l", "--key", IMAGES / f"keys/{key}-public.pem", IMAGES / "one-group-signed-dsse.sif")
    w.run("verify", "-l", "--key", IMAGES / "keys/ecdsa-public.pem", IMAGES / "one-group-signed-dsse.sif", ok=255)
    w.run("verify", "-l", IMAGES / "one-group-signed-dsse.sif", ok=255)
    # Several kinds of key material in one run.
    w.run("verify", "-l", "--key", IMAGES / "keys/rsa-public.pem", IMAGES / "one-group-signed-pgp.sif")


@test
def lines_and_streams_are_those_of_apptainer(w):
    # Its own end-to-end tests of sign and verify look for these: (words, exit status, on stdout, on stderr).
    key = IMAGES / "keys/ed25519-public.pem"
    pgp, entity = "Verifying image with PGP key material", "Signing entity: SingularityCE Tests <singularityce@example.com>"
    fingerprint, done = "Fingerprint: F34371D0ACD5D09EB9BD853A80600A5FA11BBD29", "INFO:    Verified signature(s) from image"
    w.run("key", "import", IMAGES / "keys/pgp-public.asc")
    rows = [(["--help"], 0, ["Verify digital signature(s) within an image"], []),
            (["-l", IMAGES / "one-group-signed-pgp.sif"], 0, [entity, fingerprint], [pgp, done]),
            (["-l", "--json", IMAGES / "one-group-signed-pgp.sif"], 0, ['"Signatures": 1'], [pgp]),
            (["-l", "-g", "5", IMAGES / "one-group-signed-pgp.sif"], 255, [], [pgp, "Failed to verify container", "integrity: group not found"]),
            (["-l", IMAGES / "one-group.sif"], 255, ["Error encountered during signature verification"], [pgp, "integrity: signature not found"]),
            (["--key", key, IMAGES / "one-group-signed-dsse.sif"], 0, [], [f"Verifying image with key material from '{key}'", done])]
    for legacy, option in ((["-i", "2"], "legacy"), (["-g", "1"], "legacy-group"), (["--all"], "legacy-all")):
        rows.append((["-l", "--legacy-insecure", *legacy, IMAGES / f"one-group-signed-{option}.sif"], 0, [entity, fingerprint], [pgp, done]))
    for legacy, option, words in ((["-i", "9"], "legacy", "object"), (["-g", "5"], "legacy-group", "group")):
        rows.append((["-l", "--legacy-insecure", *legacy, IMAGES / f"one-group-signed-{option}.sif"], 255, [], [pgp, f"integrity: {words} not found"]))
    rows = [("verify", *row, None) for row in rows]
    rows.append(("verify", [IMAGES / "one-group-signed-dsse.sif"], 0, [], [f"Verifying image with key material from '{key}'", done],
                 {"APPTAINER_VERIFY_KEY": str(key)}))
    w.new_key("signer")
    key = w.top / "signer.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    pgp, done = "Signing image with PGP key material", "INFO:    Signature created and applied to image '"
    from_key = f"Signing image with key material from '{key}'"
    for words, code, err in (([], 0, [pgp, done]), (["--sif-id", "1"], 0, [pgp, done]), (["--group-id", "1"], 0, [pgp, done]), (["--all"], 0, [pgp, done]),
                             (["--keyidx", "0"], 0, [pgp, done]), (["--key", key], 0, [from_key, done]),
                             (["--sif-id", "9"], 255, [pgp, "Failed to sign container: integrity: object not found"]),
                             (["--group-id", "5"], 255, [pgp, "Failed to sign container: integrity: group not found"]),
                             (["--keyidx", "1"], 255, [pgp, "Failed to sign container: index out of range"])):
        rows.append(("sign", [*words, None], code, [], err, None))
    rows.append(("sign", [None], 0, [], [from_key, done], {"APPTAINER_SIGN_KEY": str(key)}))
    rows.append(("sign", ["--help"], 0, ["Add digital signature(s) to an image"], [], None))
    for command, words, code, out, err, env in rows:
        copy = w.top / "signed-here.sif"
        shutil.copy(IMAGES / "one-group.sif", copy)
        copy.chmod(0o644)
        result = w.run(command, *(copy if word is None else word for word in words), ok=code, env=env)
        assert all(text in result.stdout for text in out) and all(text in result.stderr for text in err), (command, words, result.stdout, result.stderr)


@test
def json_is_printed_on_success_and_on_failure(w):
    w.run("key", "import", IMAGES / "keys/pgp-public.asc")
    good = json.loads(w.run("verify", "-l", "-j", IMAGES / "one-group-signed-pgp.sif").stdout)
    assert good["Signatures"] == 1 and len(good["SignerKeys"]) == 2, good
    assert good["SignerKeys"][0]["Signer"] == {
        "Partition": "FS", "Name": "SingularityCE Tests <singularityce@example.com>", "Fingerprint": "f34371d0acd5d09eb9bd853a80600a5fa11bbd29",
        "KeyLocal": True, "KeyCheck": True, "DataCheck": True}, good
    copy = w.top / "copy.sif"
    shutil.copy(IMAGES / "one-group-signed-pgp.sif", copy)
    copy.chmod(0o644)
    flip(copy, objects(copy)[1]["offset"])
    bad = json.loads(w.run("verify", "-l", "-j", copy, ok=255).stdout)
    assert [k["Signer"]["DataCheck"] for k in bad["SignerKeys"]] == [True, False], bad
    rows = w.run("verify", "-l", copy, ok=255).stdout
    assert "1   |1       |NONE    |FS\n" in rows and "2   |1 " not in rows, rows
    empty = json.loads(w.run("verify", "-l", "-j", IMAGES / "one-group.sif", ok=255).stdout)
    assert empty == {"Signatures": 0, "SignerKeys": None}, empty


# ---------------------------------------------------------------- our own signatures

@test
def what_we_sign_is_what_the_format_says_and_gpg_accepts(w):
    fingerprint = w.new_key("alice", "")
    image = plain_image(w)
    w.run("sign", "--no-seal", image)
    signature = objects(image)[-1]
    assert signature["type"] == 0x4005 and signature["group"] == 0 and signature["link"] == 0xF0000001 and signature["name"] == ""
    assert struct.unpack_from("<i", signature["extra"])[0] == 1 and signature["extra"][4:24].hex().upper() == fingerprint
    text = clear_text(signature["data"])
    assert json.loads(text) == expected_metadata(image), text
    assert b" " not in text and b"\n" not in text
    done = w.gpg("--status-fd", "1", "--verify", data=signature["data"])
    assert done.returncode == 0 and b"GOODSIG" in done.stdout, done
    hash_number = next(line for line in done.stdout.decode().splitlines() if "VALIDSIG" in line).split()[9]
    assert hash_number in ("8", "9", "10"), hash_number
    w.run("verify", "-l", image)


@test
def sealing_comes_with_signing_and_veritysetup_opens_it(w):
    w.new_key("alice", "")
    image = plain_image(w, megabytes=3)
    w.run("sign", image)
    root = next(o for o in objects(image) if o["type"] == 0x4004)
    tree = next(o for o in objects(image) if o["name"] == "postern.verity")
    seal = json.loads(next(o["data"] for o in objects(image) if o["name"] == "postern.seal"))
    assert tree["type"] == 0x4007 and tree["group"] == 1 and tree["offset"] % 4096 == 0 and tree["link"] == root["id"]
    assert seal["dataBlocks"] * 4096 == root["size"] and seal["relativeId"] == 1 and seal["treeRelativeId"] == 2, seal
    (w.top / "data").write_bytes(root["data"])
    (w.top / "hash").write_bytes(tree["data"])
    whole = lambda *words: subprocess.run(["veritysetup", *map(str, words)], capture_output=True, text=True, env=w.environment)
    dump = whole("dump", w.top / "hash")
    assert f"Data blocks:     \t{seal['dataBlocks']}" in dump.stdout and seal["salt"] in dump.stdout, dump
    # The data and the tree as they lie in the image, by offset alone.
    done = whole("verify", w.top / "data", image, seal["rootHash"], "--hash-offset", tree["offset"])
    assert done.returncode == 0, done
    assert whole("verify", w.top / "data", w.top / "hash", "00" + seal["rootHash"][2:]).returncode != 0
    # And the other way round: the root hash is what veritysetup computes with our salt.
    made = whole("format", w.top / "data", w.top / "hash2", "--salt", seal["salt"], "--uuid", "00000000-0000-4000-8000-000000000000")
    assert seal["rootHash"] in made.stdout, made
    assert (w.top / "hash2").read_bytes()[4096:] == tree["data"][4096:]
    assert "seal of the root file system fits" in w.run("verify", "-l", image).stderr
    flip(image, tree["offset"] + 4096 + 77)
    assert "object 3" in w.run("verify", "-l", image, ok=255).stderr


@test
def what_cannot_be_sealed_is_signed_without_and_says_so(w):
    w.new_key("alice", "")
    image = plain_image(w, pad=False)
    assert objects(image)[1]["size"] % 4096 != 0
    assert "4096" in w.run("seal", image, ok=255).stderr
    assert "WARNING" in w.run("sign", image).stderr
    assert [o["type"] for o in objects(image)] == [0x4001, 0x4004, 0x4005]
    again = plain_image(w)
    w.run("seal", again)
    w.run("seal", again, ok=255)                                 # once is enough
    w.run("sign", again)
    assert sum(o["name"] == "postern.seal" for o in objects(again)) == 1
    late = plain_image(w)
    w.run("sign", "--no-seal", late)
    assert "sign" in w.run("seal", late, ok=255).stderr
    before = late.read_bytes()
    w.run("sign", late)                                          # a second signer does not break the first
    assert len(objects(late)) == 4 and before[:32] == late.read_bytes()[:32]
    w.run("verify", "-l", late)


@test
def groups_objects_and_several_signers(w):
    w.new_key("alice", "")
    w.new_key("bob", "")
    image = w.top / "image.sif"
    make_sif(image, [(0x4001, "a", b"", b"one"), (0x4004, "b", PRIMARY, squashfs(w)), (0x4006, "c", b"", b"{}")])
    raw = bytearray(image.read_bytes())
    struct.pack_into("<I", raw, 4096 + 2 * 585 + 9, 0xF0000002)
    image.write_bytes(raw)
    w.run("sign", "-g", "3", image, ok=255)
    w.run("sign", "-i", "9", image, ok=255)
    w.run("sign", "-k", "7", image, ok=255)
    w.run("sign", "-k", "0", "-g", "2", image)
    w.run("verify", "-l", "-g", "2", image)
    assert "group 1 is not signed" in w.run("verify", "-l", image, ok=255).stderr
    w.run("sign", "-k", "1", image)                              # every group
    out = w.run("verify", "-l", image).stdout
    assert out.count("Signing entity: alice") == 1 and out.count("Signing entity: bob") == 2, out
    w.run("sign", image, answer="1\n")                           # asked which
    single = plain_image(w, "single.sif")
    w.run("sign", "-k", "0", "-i", "1", single)
    w.run("verify", "-l", "-i", "1", single)
    assert "object 2 is not signed" in w.run("verify", "-l", "-i", "2", single, ok=255).stderr
    assert "object 2 is not signed" in w.run("verify", "-l", single, ok=255).stderr


@test
def pem_keys_and_certificates(w):
    run = lambda *words: subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=w.top, env=w.environment)
    run("genpkey", "-algorithm", "ed25519", "-out", "ed.pem")
    run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ec.pem")
    run("genrsa", "-out", "rsa.pem", "2048")
    run("genrsa", "-out", "weak.pem", "1024")
    for kind in ("ed", "ec", "rsa"):
        run("pkey", "-in", f"{kind}.pem", "-pubout", "-out", f"{kind}.pub")
        image = plain_image(w, f"{kind}.sif")
        w.run("sign", "--key", f"{kind}.pem", image)
        envelope = json.loads(objects(image)[-1]["data"])
        payload = base64.b64decode(envelope["payload"])
        assert json.loads(payload) == expected_metadata(image)
        kind_of = envelope["payloadType"]
        assert kind_of == "application/vnd.sylabs.sif-metadata+json"
        pae = f"DSSEv1 {len(kind_of)} {kind_of} {len(payload)} ".encode() + payload
        (w.top / "pae").write_bytes(pae)
        (w.top / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
        if kind == "ed":
            run("pkeyutl", "-verify", "-pubin", "-inkey", "ed.pub", "-rawin", "-in", "pae", "-sigfile", "sig")
        else:
            run("dgst", "-sha256", "-verify", f"{kind}.pub", "-signature", "sig", "pae")
        w.run("verify", "-l", "--key", f"{kind}.pub", image)
        w.run("verify", "-l", "--key", "ed.pub" if kind != "ed" else "ec.pub", image, ok=255)
        w.run("verify", "-l", image, env={"APPTAINER_VERIFY_KEY": f"{kind}.pub"})
    assert "1024" in w.run("sign", "--key", "weak.pem", image, ok=255).stderr
    run("pkcs8", "-topk8", "-in", "ec.pem", "-out", "locked.pem", "-passout", "pass:word")
    other = plain_image(w, "locked.sif")
    w.run("sign", "--key", "locked.pem", other, answer="wrong\n", ok=255)
    w.run("sign", "--key", "locked.pem", other, answer="word\n")
    w.run("verify", "-l", "--key", "ec.pub", other)
    # A root, an intermediate, and leaves: for code signing, for something else, and expired.
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root.crt", "-subj", "/CN=root", "-days", "30")
    def issue(name, issuer, extensions, days="30"):
        (w.top / "ext").write_text(extensions)
        key = "ec.pem" if name != "middle" else "middle.key"
        if name == "middle":
            run("genrsa", "-out", "middle.key", "2048")
        run("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", "csr")
        words = ["-days", days] if days != "past" else ["-not_before", "20200101000000Z", "-not_after", "20200201000000Z"]
        run("x509", "-req", "-in", "csr", "-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial", "-out", f"{name}.crt",
            "-extfile", "ext", *(words if days != "past" else ["-days", "-1"]))
    issue("middle", "root", "basicConstraints=critical,CA:true\nkeyUsage=keyCertSign\n")
    issue("leaf", "middle", "extendedKeyUsage=codeSigning\nkeyUsage=digitalSignature\n")
    issue("server", "middle", "extendedKeyUsage=serverAuth\n")
    issue("past", "middle", "extendedKeyUsage=codeSigning\n", days="past")
    def check(leaf, *more, ok=0):
        return w.run("verify", "-l", "--certificate", f"{leaf}.crt", "--certificate-roots", "root.crt", *more, other, ok=ok)
    middle = ("--certificate-intermediates", "middle.crt")
    check("leaf", *middle)
    check("leaf", ok=255)                                        # the chain has a gap
    assert "code" in check("server", *middle, ok=255).stderr
    assert "expired" in check("past", *middle, ok=255).stderr
    w.run("verify", "-l", "--certificate", "leaf.crt", *middle, other, ok=255)   # not the system's root
    assert "OCSP" in check("leaf", *middle, "--ocsp-verify", ok=255).stderr      # names no responder
    ocsp(w, run, other)


def ocsp(w, run, image):
    """A responder of openssl's on loopback: good, then revoked."""
    (w.top / "ext").write_text("extendedKeyUsage=codeSigning\nauthorityInfoAccess=OCSP;URI:http://127.0.0.1:%d/\n" % PORT)
    run("req", "-new", "-key", "ec.pem", "-subj", "/CN=asked", "-out", "csr")
    run("x509", "-req", "-in", "csr", "-CA", "root.crt", "-CAkey", "root.key", "-set_serial", "4660", "-days", "30", "-out", "asked.crt", "-extfile", "ext")
    for status, code in (("V\t350101000000Z\t\t1234\tunknown\t/CN=asked\n", 0), ("R\t350101000000Z\t240101000000Z\t1234\tunknown\t/CN=asked\n", 255)):
        (w.top / "index.txt").write_text(status)
        server = subprocess.Popen(["openssl", "ocsp", "-index", "index.txt", "-port", str(PORT), "-rsigner", "root.crt", "-rkey", "root.key",
                                   "-CA", "root.crt", "-nrequest", "1"], cwd=w.top, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            tap.wait_until(lambda: ports.is_open(PORT) or server.poll() is not None, "the responder does not listen")
            done = w.run("verify", "-l", "--certificate", "asked.crt", "--certificate-roots", "root.crt", "--ocsp-verify", image, ok=code)
            assert code == 0 or "revoked" in done.stderr, done.all
        finally:
            server.terminate()
            server.wait()
    w.run("verify", "-l", "--certificate", "asked.crt", "--certificate-roots", "root.crt", "--ocsp-verify", image, ok=255)  # nobody answers


# ---------------------------------------------------------------- tampering, and keys that have ended

@test
def every_kind_of_tampering_is_named(w):
    w.new_key("alice", "")
    good = plain_image(w)
    w.run("sign", good)
    by_type = {o["name"] or hex(o["type"]): o for o in objects(good)}
    root, seal = by_type["root"], by_type["postern.seal"]
    rows = [
        (4, "header"), (50, "header"), (46, None), (64, None), (80, None),
        (root["slot"] + 13, "object 2: its descriptor"), (root["slot"] + 41, "object 2: its descriptor"),
        (root["slot"] + 57, "object 2: its descriptor"), (root["slot"] + 73, "object 2: its descriptor"),
        (root["slot"] + 201, "object 2"), (root["slot"] + 33, None), (root["slot"] + 49, None),
        (root["offset"], "object 2: its data"), (root["offset"] + root["size"] - 1, "object 2: its data"),
        (objects(good)[0]["offset"], "object 1: its data"), (seal["offset"] + 30, "object 4: its data"),
        (seal["slot"] + 73, "its descriptor"),
    ]
    copy = w.top / "copy.sif"
    for at, words in rows:
        shutil.copy(good, copy)
        flip(copy, at)
        done = w.run("verify", "-l", copy, ok=255 if words else 0)
        assert words is None or words in done.stderr, (at, words, done.stderr)
    shutil.copy(good, copy)
    os.truncate(copy, copy.stat().st_size - 3000)
    w.run("verify", "-l", copy, ok=255)
    shutil.copy(good, copy)
    with open(copy, "r+b") as image:                             # an object removed
        image.seek(objects(good)[0]["slot"])
        image.write(bytes(585))
    assert "missing" in w.run("verify", "-l", copy, ok=255).stderr
    shutil.copy(good, copy)
    raw = bytearray(copy.read_bytes())                           # an object added
    added = bytearray(raw[objects(good)[0]["slot"]:][:585])
    struct.pack_into("<I", added, 5, 40)
    raw[4096 + 39 * 585:4096 + 40 * 585] = added
    copy.write_bytes(raw)
    assert "object 40 is not signed" in w.run("verify", "-l", copy, ok=255).stderr


def sign_with_gpg(w, image, home, *options, key="alice"):
    """Adds a signature object made by gpg itself, with options that we would never use."""
    metadata = json.dumps(expected_metadata(image), separators=(",", ":")).encode()
    done = w.gpg("--pinentry-mode", "loopback", "--passphrase", "", *options, "-u", key, "--clearsign", data=metadata, home=home)
    assert done.returncode == 0, done.stderr
    listing = w.gpg("--with-colons", "--list-keys", key, home=home).stdout.decode()
    fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr"))
    extra = struct.pack("<i", 1) + bytes.fromhex(fingerprint)
    raw = bytearray(image.read_bytes())
    count = len(objects(image))
    descriptor = struct.pack("<iBIIIqqqqqqq", 0x4005, 1, count + 1, 0xF0000000, 0xF0000001, len(raw), len(done.stdout), len(done.stdout),
                             1700000000, 1700000000, 0, 0) + bytes(128) + extra.ljust(384, b"\0")
    raw[4096 + count * 585:4096 + (count + 1) * 585] = descriptor
    image.write_bytes(raw + done.stdout)


@test
def weak_expired_revoked_and_future_signatures_are_refused(w):
    home = w.top / "gpg"
    home.mkdir(mode=0o700)
    make = lambda name, *more: w.gpg("--pinentry-mode", "loopback", "--passphrase", "", *more, "--quick-generate-key",
                                     f"{name} <{name}@example.org>", "rsa2048", "cert,sign", "never", home=home)
    for name in ("alice", "revoked", "expiring"):
        done = make(name)
        assert done.returncode == 0, done.stderr
    done = make("old", "--faked-system-time", str(int(time.time()) - 1000) + "!")
    assert done.returncode == 0, done.stderr
    def import_all():
        (w.top / "all.gpg").write_bytes(w.gpg("--export", home=home).stdout)
        w.run("key", "import", "all.gpg", ok=None)
    import_all()
    def case(name, words, *options, key="alice", ok=255):
        image = plain_image(w, f"{name}.sif")
        sign_with_gpg(w, image, home, *options, key=key)
        done = w.run("verify", "-l", image, ok=ok)
        assert words in done.all, (name, done.all)
        return image
    case("good", "Verified", ok=0)
    case("sha512", "Verified", "--digest-algo", "SHA512", ok=0)
    case("sha1", "weak or unknown hash (number 2)", "--digest-algo", "SHA1")
    case("ripemd", "weak or unknown hash", "--digest-algo", "RIPEMD160")
    case("future", "future", "--faked-system-time", str(int(time.time()) + 86400 * 400) + "!")
    case("sigexpired", "expired", "--faked-system-time", str(int(time.time()) - 100) + "!", "--default-sig-expire", "seconds=1", key="old")
    expiring = case("expiring", "Verified", key="expiring", ok=0)
    revoked = case("revoked", "Verified", key="revoked", ok=0)
    def fingerprint_of(name):
        listing = w.gpg("--with-colons", "--list-keys", name, home=home).stdout.decode()
        return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr"))
    fingerprint = fingerprint_of("revoked")
    certificate = (home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text().replace(":-----BEGIN", "-----BEGIN")
    assert w.gpg("--import", data=certificate.encode(), home=home).returncode == 0
    # From the next second on.
    done = w.gpg("--pinentry-mode", "loopback", "--passphrase", "", "--quick-set-expire", fingerprint_of("expiring"), "seconds=1", home=home)
    assert done.returncode == 0, done.stderr
    import_all()
    assert "revoked" in w.run("verify", "-l", revoked, ok=255).stderr
    tap.wait_until(lambda: w.run("verify", "-l", expiring, ok=None).returncode != 0, "the key should have expired")
    assert "expired" in w.run("verify", "-l", expiring, ok=255).stderr
    # A clear-signed message with a second one behind it, or text before it, is none.
    for name, change in (("second", lambda m: m + m), ("before", lambda m: b"x\n" + m), ("spaces", lambda m: m.replace(b"MESSAGE-----\n", b"MESSAGE----- \n", 1)),
                         ("header", lambda m: m.replace(b"Hash: SHA", b"Charset: x\nHash: SHA", 1)), ("lie", lambda m: m.replace(b"Hash: SHA512", b"Hash: SHA224", 1))):
        image = case("good-" + name, "Verified", "--digest-algo", "SHA512", ok=0)
        signature = objects(image)[-1]
        body = change(signature["data"])
        raw = bytearray(image.read_bytes()[:signature["offset"]])
        struct.pack_into("<q", raw, signature["slot"] + 25, len(body))
        image.write_bytes(raw + body)
        w.run("verify", "-l", image, ok=255)


# ---------------------------------------------------------------- key servers

class KeyServer(http.server.BaseHTTPRequestHandler):
    """HKP, as the draft describes it, over a dictionary of armored keys."""
    keys, log, mode = {}, [], "normal"

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        where = urllib.parse.urlparse(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(where.query).items()}
        KeyServer.log.append((where.path, query))
        if where.path != "/pks/lookup" or KeyServer.mode == "broken":
            return self.answer(500 if KeyServer.mode == "broken" else 404)
        if query["op"] == "get":
            found = [armored for fpr, (armored, _) in KeyServer.keys.items() if fpr.endswith(query["search"][2:].upper())]
            if KeyServer.mode == "several":
                found = [armored for armored, _ in KeyServer.keys.values()]
            if KeyServer.mode == "rubbish":
                found = [b"<html>captive portal</html>"]
            if KeyServer.mode == "endless":
                found = [b"A" * (17 << 20)]
            return self.answer(200, b"".join(found)) if found else self.answer(404)
        lines = [f"pub:{fpr}:1:2048:1500000000::\nuid:{urllib.parse.quote(user)}:1500000000::\n"
                 for fpr, (_, user) in KeyServer.keys.items() if query["search"].lower() in user.lower()]
        page = int(query.get("x-pagetoken", 0))
        more = [("X-HKP-Next-Page-Token", str(page + 1))] if page + 1 < len(lines) else []
        if not lines:
            return self.answer(404)
        self.answer(200, ("info:1:1\n" + lines[page]).encode(), more)

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        KeyServer.log.append((self.path, form))
        self.answer(200 if "keytext" in form else 400)

    def log_message(self, *_):
        pass


class LoopbackServer(http.server.ThreadingHTTPServer):
    def server_bind(self):  # without looking up the name of this host
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]


@test
def key_servers_search_pull_push_and_verify(w):
    server = LoopbackServer(("127.0.0.1", 0), KeyServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/ignored/path"
    try:
        fingerprint = w.new_key("alice", "")
        other = w.new_key("bob", "")
        image = plain_image(w)
        w.run("sign", "-k", "0", image)
        w.run("key", "push", "-u", url, fingerprint)
        path, form = KeyServer.log[-1]
        assert path == "/pks/add" and form["keytext"][0].startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
        armored = lambda fpr: w.gpg("--armor", "--export", fpr).stdout
        KeyServer.keys = {fingerprint: (armored(fingerprint), "alice <alice@example.org>"), other: (armored(other), "bob <bob@example.org>")}
        found = w.run("key", "search", "-u", url, "example.org").stdout
        assert "Showing 2 results" in found and "alice <alice@example.org>" in found and "bob" in found, found  # two pages
        assert fingerprint[-8:] in found and fingerprint not in found
        assert fingerprint in w.run("key", "search", "--long-list", "-u", url, "alice").stdout
        w.run("key", "search", "-u", url, "nobody", ok=2)
        w.run("key", "remove", "-b", fingerprint)
        assert "unknown signer" in w.run("verify", "-l", image, ok=255).stderr
        out = w.run("verify", "-u", url, image).stdout
        assert "[REMOTE]           Fingerprint: " + fingerprint in out, out
        assert fingerprint not in w.run("key", "list").stdout    # used, not kept
        signers = json.loads(w.run("verify", "-j", "-u", url, image).stdout)["SignerKeys"]
        assert signers[0]["Signer"]["KeyLocal"] is False and signers[0]["Signer"]["KeyCheck"] is True
        for bad in ("alice", "12345", "0x1234567890abcdef", fingerprint + "00"):
            w.run("key", "pull", "-u", url, bad, ok=2)
        for mode in ("several", "rubbish", "endless", "broken"):
            KeyServer.mode = mode
            w.run("key", "pull", "-u", url, fingerprint, ok=2)
            # Among several keys the signer's is found by its fingerprint; the others do no harm.
            seen = w.run("verify", "-u", url, image, ok=0 if mode == "several" else 255)
            assert mode == "several" or "unknown signer" in seen.stderr, seen.all
            assert fingerprint not in w.run("key", "list").stdout, mode
        KeyServer.mode = "normal"
        w.run("key", "pull", "-u", url, "0x" + fingerprint[-8:].lower())
        w.run("verify", "-l", image)
        w.run("key", "pull", "-u", url, "0" * 40, ok=2)
        w.run("key", "newpair", "-N", "c", "-E", "c@d.e", "-C", "", "-P", "", "-b", "2048", "--push", "-u", url)
        assert KeyServer.log[-1][0] == "/pks/add"
    finally:
        server.shutdown()
        server.server_close()
    offline = w.run("key", "pull", "-u", url, fingerprint, ok=2).stderr
    assert "cannot reach http://127.0.0.1" in offline and "proxy settings" in offline, offline
    w.run("key", "search", "-u", "ftp://x", "a", ok=2)
    w.run("key", "search", "-u", "file:///etc/passwd", "a", ok=2)
    w.run("key", "remove", "-b", fingerprint)
    unknown = w.run("verify", "-u", url, image, ok=255).stderr
    assert "WARNING" in unknown and "unknown signer" in unknown, unknown


# ---------------------------------------------------------------- the execution control list

def rule(w, mode, keys, directory="", **more):
    lines = ["activated = true", "[[execgroup]]", 'tagname = "t"', f'mode = "{mode}"', f'dirpath = "{directory}"', f"keyfp = {json.dumps(keys)}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in more.items()]
    (w.conf / "ecl.toml").write_text("\n".join(lines) + "\n")


@test
def the_list_decides_by_mode_signer_directory_and_integrity(w):
    alice, bob, carol = (w.new_key(name, "") for name in ("alice", "bob", "carol"))
    for fpr in (alice, bob):
        (w.top / "k").write_bytes(w.gpg("--export", fpr).stdout)
        w.run("key", "import", "--global", "k")
    places = {name: w.top / name for name in ("images", "images2", "other")}
    for place in places.values():
        place.mkdir()
    kinds = {"none": [], "alice": [0], "both": [0, 1], "stranger": [2]}
    for kind, signers in kinds.items():
        for place in places.values():
            image = plain_image(w, f"{place.name}/{kind}.sif")
            for index in signers:
                w.run("sign", "--no-seal", "-k", index, image)
            shutil.copy(image, place / f"{kind}-tampered.sif")
            flip(place / f"{kind}-tampered.sif", objects(image)[1]["offset"] + 5000)
    expected = {("whitelist", "alice"), ("whitelist", "both"), ("whitestrict", "both"), ("blacklist", "stranger")}
    rows = 0
    for mode in ("whitelist", "whitestrict", "blacklist"):
        rule(w, mode, [alice, bob], places["images"])
        for kind in kinds:
            for place in places.values():
                for tampered in ("", "-tampered"):
                    # A stranger's signature cannot be checked: a blacklist forgives it, and its digests with it.
                    forgiven = mode == "blacklist" and kind == "stranger"
                    allow = (mode, kind) in expected and place.name == "images" and (not tampered or forgiven)
                    done = w.run("ecl", "check", place / f"{kind}{tampered}.sif", ok=0 if allow else 255)
                    assert done.stdout.startswith("allow: " if allow else "refuse: "), done.stdout
                    rows += 1
    assert rows == 72
    rule(w, "whitelist", [alice])                                # any directory
    w.run("ecl", "check", places["other"] / "alice.sif")
    # Nobody's key in the site's keyring counts for the user's own.
    rule(w, "whitelist", [carol])
    w.run("ecl", "check", places["other"] / "stranger.sif", ok=255)


@test
def explain_names_rule_line_signers_and_binding(w):
    fpr = w.new_key("alice", "")
    (w.top / "k").write_bytes(w.gpg("--export", fpr).stdout)
    w.run("key", "import", "--global", "k")
    image = plain_image(w)
    rule(w, "whitelist", [fpr], w.top, binding="sealed")
    w.run("sign", "--no-seal", image)
    done = w.run("ecl", "check", "--explain", image, ok=255).stdout
    assert 'the rule asks for binding "sealed", the image offers "hash"' in done, done
    sealed = plain_image(w, "sealed.sif")
    w.run("sign", sealed)
    done = w.run("ecl", "check", "--explain", sealed).stdout
    for words in (f"{w.conf}/ecl.toml:2 (whitelist)", f"directory:  {w.top}", "alice", fpr.lower(), "sealed: every block", "advisory", "allow: "):
        assert words in done, (words, done)
    flip(sealed, objects(sealed)[1]["offset"] + 9000)            # found by the reader of that block, not here
    w.run("ecl", "check", sealed)
    flip(sealed, next(o for o in objects(sealed) if o["name"] == "postern.seal")["offset"] + 3)
    w.run("ecl", "check", sealed, ok=255)
    listing = w.run("ecl", "list").stdout
    assert "activated:       yes" in listing and "binding:    sealed" in listing and fpr.lower() in listing, listing


@test
def lists_that_are_wrong_are_errors_and_unsigned_kinds_are_refused(w):
    image = plain_image(w)
    for text in ("activated = ", "activated = 3", '[[execgroup]]\nmode = "x"', '[[execgroup]]\nmode = "whitelist"\nkeyfp = []',
                 f'[[execgroup]]\nmode = "blacklist"\ndirpath = "{w.top}/nosuch"'):
        (w.conf / "ecl.toml").write_text(text + "\n")
        assert "ecl.toml:" in w.run("ecl", "check", image, ok=255).stderr
        w.run("ecl", "list", ok=255)
    (w.conf / "ecl.toml").unlink()
    missing = w.run("ecl", "check", image)
    assert "suid mode refuses" in missing.stderr and "not activated" in missing.stdout
    rule(w, "blacklist", [])
    squash = w.top / "root.squashfs"
    for bare in (w.top, squash):
        assert "carries no signature" in w.run("ecl", "check", bare, ok=255).stdout
    w.run("ecl", "check", image, ok=255)                         # unsigned, under a blacklist of nobody
    w.run("ecl", "check", "--as-user", "root", image, ok=255)    # needs root
    w.run("ecl", ok=1)


@test
def pem_keys_and_certificates_in_the_sites_keyring(w):
    run = lambda *words: subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=w.top, env=w.environment)
    run("genpkey", "-algorithm", "ed25519", "-out", "site.pem")
    run("pkey", "-in", "site.pem", "-pubout", "-out", "site.pub")
    der = subprocess.run(["openssl", "pkey", "-in", str(w.top / "site.pem"), "-pubout", "-outform", "DER"], capture_output=True, check=True).stdout
    identity = hashlib.sha256(der).hexdigest()
    image = plain_image(w)
    w.run("sign", "--key", "site.pem", image)
    rule(w, "whitelist", [], keysha256=[identity], binding="sealed")
    w.run("ecl", "check", image, ok=255)
    w.run("key", "import", "--global", "site.pub")
    assert identity in " ".join(os.listdir(w.conf / "keyring/pem"))
    w.run("ecl", "check", image)
    w.run("key", "remove", "--global", identity)
    w.run("ecl", "check", image, ok=255)
    # By certificate: the fingerprint that openssl prints, with colons.
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", "-days", "9")
    (w.top / "ext").write_text("extendedKeyUsage=codeSigning\n")
    run("req", "-new", "-key", "site.pem", "-subj", "/CN=site", "-out", "csr")
    run("x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "9", "-out", "site.crt", "-extfile", "ext")
    printed = subprocess.run(["openssl", "x509", "-in", str(w.top / "site.crt"), "-noout", "-fingerprint", "-sha256"], capture_output=True,
                             text=True, check=True).stdout.strip().split("=")[1]
    assert "roots.pem" in w.run("key", "import", "--global", "site.crt", ok=2).stderr  # would deny every start
    assert "roots.pem" not in w.run("ecl", "check", image, ok=255).stdout
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "x.key", "-out", "x.crt", "-subj", "/CN=another", "-days", "9")
    shutil.copy(w.top / "x.crt", w.conf / "keyring/roots.pem")
    w.run("key", "import", "--global", "site.crt", ok=2)         # of another root
    shutil.copy(w.top / "ca.crt", w.conf / "keyring/roots.pem")
    w.run("key", "import", "--global", "site.crt")
    os.unlink(w.conf / "keyring/roots.pem")
    assert "roots.pem" in w.run("ecl", "check", image, ok=255).stdout
    shutil.copy(w.top / "ca.crt", w.conf / "keyring/roots.pem")
    rule(w, "whitelist", [], keysha256=[printed])
    w.run("ecl", "check", image)
    w.run("key", "import", "--global", "site.pem", ok=2)         # secret


# ---------------------------------------------------------------- running

PORT, = ports.free()


def become_unprivileged():
    """Tests of what a user does run as one. The user's temporary files go where the user may write."""
    if os.geteuid() == 0:
        user = users.reserve(1)[0]
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def call(function):
    with tempfile.TemporaryDirectory(prefix="pk", dir="/tmp") as top:
        function(World(pathlib.Path(top).resolve()))


def main():
    for tool in ("gpg", "openssl", "mksquashfs", "veritysetup"):
        if shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin") is None:
            tap.skip_all(f"{tool} is not installed")
    become_unprivileged()
    return tap.run(TESTS, sys.argv[4:], call=call, timed=True)


sys.exit(main())
