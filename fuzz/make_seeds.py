#!/usr/bin/env python3
"""Writes the first inputs of the targets that read text, archives, small images and keys: fuzz/make_seeds.py

What is there already stays: the corpus also holds what fuzzers found.
"""
import io
import json
import os
import struct
import subprocess
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__)) + "/corpus"


def seed(target, name, data):
    path = f"{HERE}/{target}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())


def run(*command, data=None):
    return subprocess.run(command, input=data, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def accounts():
    seed("accounts", "plain", "root:x:0:0:root:/root:/bin/sh\nuser:x:4242:4343:A:/home/user:/bin/zsh\n")
    seed("accounts", "no-line-end", "root:x:0:0:root:/root:/bin/sh")
    seed("accounts", "short-fields", "root\n:::::\n4242\nx:y:4242\n")
    seed("accounts", "nis", "+@netgroup::::::\n-user\n+\n")
    seed("accounts", "group", "root:x:0:\ncallers:x:4343:caller\nothers:x:4444:a,b\n")
    seed("accounts", "answer", "5\nabcde-\n")
    seed("accounts", "huge-number", "99999999999999999999\nx")
    seed("accounts", "nul", b"a\0b:x:4242:1\0::/:/\n")


def scripts():
    target = "environment_script"
    seed(target, "exports", "#!/bin/sh\n# text\nexport A=1 B='two words'\nC=\"$A/${B:-x}\"\nunset D\n")
    seed(target, "condition", "if [ -z \"${LD:-}\" ]; then\n  LD=/lib\nelse\n  . /etc/profile\nfi\nexport LD\n")
    seed(target, "substitution", "A=$(id)\nB=`id`\n")
    seed(target, "open-quote", "export A=\"one\nB='two\n")
    seed(target, "oci", "OCI_ENTRYPOINT='/bin/sh -c'\nOCI_CMD='\"a b\"'\n")
    seed(target, "ours", "#!/bin/sh\n[ $# -gt 0 ] || set -- '/bin/sh'\nexec '/entry' \"$@\"\n")
    seed(target, "deep", "if [ -n x ]; then " * 300)
    seed(target, "nul", b"export A=\0B\n")


def seccomp():
    rule = {"names": ["read", "ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
            "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}],
            "includes": {"caps": ["CAP_SYS_ADMIN"], "minKernel": "4.8"}, "excludes": {"arches": ["s390"]}}
    seed("seccomp", "rules", json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    seed("seccomp", "archmap", json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                                           "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
                                           "syscalls": [{"names": ["exit_group"], "action": "SCMP_ACT_ALLOW"}]}))
    seed("seccomp", "many", json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": i % 6, "value": i, "op": "SCMP_CMP_EQ"}]}
        for i in range(300)]}))
    seed("seccomp", "negative", '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":-1}]}')
    seed("seccomp", "empty", "{}")
    seed("seccomp", "deep", "[" * 20000)


def keys():
    for name, algorithm in (("ed25519", ["-algorithm", "ED25519"]), ("p256", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
                            ("rsa", ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])):
        private = run("openssl", "genpkey", *algorithm)
        seed("pem", name, private)
        seed("pem", name + "-public", run("openssl", "pkey", "-pubout", data=private))
        seed("pem", name + "-encrypted", run("openssl", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-iter", "1000", "-passout", "pass:x",
                                             data=private))
    with tempfile.TemporaryDirectory() as top:
        with open(top + "/key", "wb") as file:
            file.write(private)
        certificate = run("openssl", "req", "-x509", "-key", top + "/key", "-subj", "/CN=seed", "-days", "36500",
                          "-addext", "extendedKeyUsage=codeSigning")
        seed("pem", "certificate", certificate)
        der = run("openssl", "x509", "-outform", "DER", data=certificate)
        seed("ocsp", "certificate", der)
    seed("pem", "message", "-----BEGIN MESSAGE-----\nBAIBAg==\n-----END MESSAGE-----\n")
    seed("pem", "rsa-tiny", run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:512"))
    seed("pem", "not-base64", "-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----\n")
    seed("ocsp", "not-successful", bytes.fromhex("30030a0106"))
    seed("ocsp", "basic-empty", bytes.fromhex("30180a0100a0133011060 92b0601050507300101040430020 500".replace(" ", "")))
    seed("ocsp", "empty", b"")


def layers():
    def archive(members, form=tarfile.PAX_FORMAT, **pax):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, kind, extra in members:
                info = tarfile.TarInfo(name)
                info.type = kind
                info.pax_headers = pax
                data = extra if isinstance(extra, bytes) else b""
                info.size = len(data)
                info.linkname = extra if isinstance(extra, str) else ""
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()[:8192]
    regular, directory, link, hard = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    base = archive([("a", directory, None), ("a/file", regular, b"text\n"), ("a/link", link, "../b"), ("a/hard", hard, "a/file")])
    seed("layers", "one", base)
    seed("layers", "whiteouts", base + b"\0\0\f" + archive([("a/.wh.file", regular, b""), ("a/.wh..wh..opq", regular, b""),
                                                            ("a/new", regular, b"new")]))
    seed("layers", "upwards", archive([("../../etc/passwd", regular, b"x"), ("a/../../b", regular, b"x"), ("/abs", regular, b"x")]))
    seed("layers", "through-a-link", archive([("l", link, "/etc"), ("l/passwd", regular, b"x"), ("l", directory, None)]))
    seed("layers", "whiteout-of-all", base + b"\0\0\f" + archive([(".wh.a", regular, b""), (".wh.", regular, b""), (".wh...", regular, b"")]))
    seed("layers", "gnu-long", archive([("d/" * 60 + "name", regular, b"x")], tarfile.GNU_FORMAT))
    seed("layers", "pax-attributes", archive([("f", regular, b"x")], **{"SCHILY.xattr.user.a": "v", "mtime": "-1.5"}))
    sparse = archive([("f", regular, b"x" * 512)], **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s",
                                                      "GNU.sparse.realsize": "99999999999"})
    seed("layers", "sparse-huge", sparse)
    seed("layers", "hard-link-to-itself", archive([("x", hard, "x"), ("y", hard, "z"), ("z", hard, "y")]))


def luks():
    def bytes_of(name, *options, cut=49152):
        with tempfile.NamedTemporaryFile() as file:
            os.truncate(file.name, 32 << 20)
            subprocess.run(["cryptsetup", "luksFormat", "--type", "luks2", "-q", "--cipher", "aes-xts-plain64", "--key-size", "512",
                            "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--luks2-metadata-size", "16k",
                            "--luks2-keyslots-size", "256k", "--disable-locks", *options, file.name], input=b"x", check=True)
            with open(file.name, "rb") as image:
                data = bytearray(image.read(cut))
        return data
    good = bytes_of("pbkdf2")
    seed("luks_header", "pbkdf2", bytes(good))
    primary = bytearray(good)
    primary[5000] ^= 1
    seed("luks_header", "primary-damaged", bytes(primary))
    secondary = bytearray(good)
    secondary[16384 + 5000] ^= 1
    seed("luks_header", "secondary-damaged", bytes(secondary))
    both = bytearray(primary)
    both[16384 + 5000] ^= 1
    seed("luks_header", "both-damaged", bytes(both))
    huge = bytearray(good)
    huge[8:16] = struct.pack(">Q", 1 << 60)
    seed("luks_header", "size-huge", bytes(huge))
    seed("luks_header", "version-1", b"LUKS\xba\xbe\0\1" + bytes(600))
    seed("luks_header", "sector-512", bytes(bytes_of("512", "--sector-size", "512")))


def tables():
    line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    seed("mount_table", "plain", line + "40 36 0:5 / /data\\040one rw shared:7 - xfs /dev/sdb rw\n41 40 0:6 / /data\\040one/two rw - nfs a:/b rw\n")
    seed("mount_table", "no-separator", "36 35 98:0 / /x rw\n")
    seed("mount_table", "cut-escape", "36 35 98:0 / /x\\04 rw - ext4 a b\n36 35 98:0 / /y\\999 rw - ext4 a b\n")
    seed("mount_table", "huge-id", "99999999999999999999 1 0:1 / /x rw - a b c\n")
    seed("mount_table", "empty", "")
    conf = ("# comment\nallow setuid = yes\nmax loop devices = 256\nmount devpts = no\nbind path = /etc/localtime\nbind path = /a:/b\n"
            "limit container paths = /x, /y\nlimit container owners = NULL\nuser bind control = yes\nenable overlay = try\n"
            "memory fs type = tmpfs\nsessiondir max size = 64\n")
    seed("import", "conf", conf)
    seed("import", "conf-odd", "allow setuid\n= yes\nallow setuid = maybe\n\x00\nbind path = \n")
    seed("import", "capabilities", '{"users":{"daemon":["CAP_NET_RAW"]},"groups":{"adm":["CAP_SYS_TIME"]}}')
    seed("import", "capabilities-null", '{"users":null,"groups":{"":["",null]}}')
    for name, text in (("plain", "plain caf\u00e9 \U0001f600"), ("c1", "\u009b31m"), ("bidi", "\u202egnp.exe\u2066"),
                       ("json", '{"a":"\u202e\u009b","b":[1,"\U000e0041"]}')):
        seed("printable", name, text)
    seed("printable", "not-utf8", b"\xc0\xaf\xed\xa0\x80\xf5\x80\x9b\xe2\x82")


def images():
    def squashfs(*options, program=b"\x7fELF\2\1\1" + bytes(57), script=b"#!/bin/tool one two\n"):
        with tempfile.TemporaryDirectory() as top:
            root = top + "/root"
            for name in ("bin", "etc", "usr/bin", "lib64", ".singularity.d/env"):
                os.makedirs(f"{root}/{name}")
            for name, data in (("bin/tool", program), ("bin/script", script), ("bin/sh", b"#!/bin/sh\n"), ("etc/passwd", b"a:x:0:0::/:/\n"),
                               (".singularity.d/env/90-environment.sh", b"export A=1\n"), ("etc/long", b"0123456789" * 400)):
                with open(f"{root}/{name}", "wb") as file:
                    file.write(data)
                os.chmod(f"{root}/{name}", 0o755)
            os.symlink("../bin/tool", root + "/usr/bin/tool")
            os.symlink("/bin/loop2", root + "/bin/loop1")
            os.symlink("/bin/loop1", root + "/bin/loop2")
            run("mksquashfs", root, top + "/image", "-noappend", "-quiet", "-no-progress", "-all-root", "-mkfs-time", "0", "-all-time", "0",
                *options)
            with open(top + "/image", "rb") as file:
                return file.read()
    plain = ("-noI", "-noD", "-noF", "-noX", "-nopad")
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1" + bytes(9), 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    interpreter = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, 28, 28, 1) + b"/lib64/ld-linux-x86-64.so.2\0"
    seed("warm_up", "elf", squashfs(*plain, program=header + interpreter))
    seed("warm_up", "elf-short", squashfs(*plain))
    seed("warm_up", "elf-interpreter-far", squashfs(*plain, program=header + struct.pack("<IIQQQQQQ", 3, 4, 1 << 60, 0, 0, 1 << 60, 28, 1)))
    seed("warm_up", "script-of-itself", squashfs(*plain, script=b"#!/bin/script\n"))
    seed("warm_up", "script-cut", squashfs(*plain, script=b"#!"))
    for compression in ("gzip", "xz", "zstd", "lz4", "lzo"):
        seed("squashfs_differ", compression + ".whole", squashfs("-comp", compression, "-b", "4096"))
    seed("squashfs_differ", "plain.whole", squashfs(*plain))
    seed("squashfs_differ", "no-fragments.whole", squashfs("-no-fragments"))
    small = squashfs(*plain)
    for which in range(12):
        seed("commands", f"image-{which:02}", sif([(0x4006, 1, 1, b"inspect-metadata.json", b'{"data":{"attributes":{"labels":[]}}}'),
                                                  (0x4004, 2, 1, b"rootfs", small)]) + bytes([which + 16]))
    for which in (7, 8, 10, 4, 5):
        seed("commands", f"number-twice-{which:02}", sif([(0x4004, 2, 1, b"a", small), (0x4007, 2, 1, b"b", b"x")]) + bytes([which + 32]))
        seed("commands", f"number-zero-{which:02}", sif([(0x4004, 0, 1, b"a", small), (0x4007, 1, 1, b"b", b"x")]) + bytes([which]))
        seed("commands", f"table-behind-{which:02}", sif([(0x4004, 1, 1, b"a", small)], table=(32768 + len(small) + 4095) // 4096 * 4096)
             + bytes([which + 16]))


def sif(objects, table=4096):
    slots, data, at = [], b"", 32768
    for kind, number, group, name, content in objects:
        extra = struct.pack("<ii3s", 1, 2, b"02") if kind == 0x4004 else b""
        slots.append(struct.pack("<iBIIIqqqqqqq128s384s", kind, 1, number, 0xF0000000 | group, 0, at + len(data), len(content), len(content),
                                 1, 1, 0, 0, name, extra))
        data += content
    header = struct.pack("<32s10s3s3s16s8q", b"#!/usr/bin/env run-singularity\n", b"SIF_MAGIC", b"01", b"02", bytes(16), 1, 1,
                         4 - len(slots), 4, table, 4 * 585, 32768, len(data))
    out = bytearray(max(32768 + len(data), table + 4 * 585))
    out[:len(header)] = header
    out[32768:32768 + len(data)] = data
    out[table:table + 585 * len(slots)] = b"".join(slots)
    return bytes(out)


accounts()
scripts()
seccomp()
keys()
layers()
luks()
tables()
images()
