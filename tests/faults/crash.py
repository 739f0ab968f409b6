#!/usr/bin/env python3
"""Every command that changes a file, broken at every change: the old state or the new one is whole.

crash.py BUILD-DIRECTORY TRACER [CASE…]

tracer.cc numbers a command's changes to files: writes, syncs, truncations, names. For each one the command
is run again on a fresh copy and broken there: killed before it, killed in the middle of a write, given EIO,
ENOSPC, or a short write. Then the recorded changes are replayed as a disk could have them after a loss of
power: what was not synced is there, is not there, or is there in part. After each, `check` of the case says
"old" or "new", or the state is lost. A command that succeeded has left the new state, on disk. Prints TAP.
"""
import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import registry_world as world  # noqa: E402

BUILD, TRACER = map(os.path.abspath, sys.argv[1:3])
CHOSEN = sys.argv[3:]
TOP = tempfile.mkdtemp(prefix="postern-crash-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
KEYS = BUILD + "/frontend/keys/postern-keys"
CRYPT = BUILD + "/frontend/crypt/postern-crypt"
MAKE = BUILD + "/frontend/imagebuild/postern-build"
POSTERN = BUILD + "/frontend/cli/postern"
# Of a command with hundreds of changes, so many are tried, evenly; all of them with EVERY=1,
# which holds for cases that are named too, if there is no EVERY=0.
MOST_FAULTS, MOST_STATES = 24, 16
FAULTS = ("kill", "torn", "short", "EIO", "ENOSPC")
DIRECTORY_OF_MAKE = os.path.dirname(MAKE)
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": TOP + "/home", "LANG": "C", "TMPDIR": TOP + "/tmp",
               "POSTERN_LIBEXEC": ":".join(os.path.dirname(path) for path in (KEYS, CRYPT, MAKE))
                                  + f":{BUILD}/frontend/inspect:{BUILD}/frontend/squashfs:{BUILD}/frontend/init:{BUILD}/frontend/transfer"}


class Lost(Exception):
    """Neither the old state nor the new one."""


def run(*command, **keywords):
    keywords.setdefault("env", ENVIRONMENT)
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, **keywords)


def must(*command, **keywords):
    done = run(*command, **keywords)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def put(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb" if isinstance(data, bytes) else "w") as file:
        file.write(data)
    return path


# ------------------------------------------------------------------------------------------ images

def objects_of(path):
    """What a SIF holds: (number, type, group, link, name, extra, digest of the data) of each object."""
    data = contents(path)
    if data[32:41] != b"SIF_MAGIC":
        raise Lost("no SIF header")
    total, table, _ = struct.unpack_from("<qqq", data, 88)
    found = []
    for slot in range(total):
        raw = data[table + 585 * slot:table + 585 * (slot + 1)]
        if len(raw) != 585:
            raise Lost("the table is cut off")
        if not raw[4]:
            continue
        kind, _, number, group, link, offset, size = struct.unpack_from("<iBIIIqq", raw)
        if offset < 0 or size < 0 or offset + size > len(data):
            raise Lost(f"object {number} is cut off")
        found.append((number, kind, group, link, raw[73:201].rstrip(b"\0").decode(), raw[201:585].rstrip(b"\0"),
                      hashlib.sha256(data[offset:offset + size]).hexdigest()))
    return found


def same_or(old, is_new):
    """A check: the objects are those of the file `old`, or `is_new` accepts them."""
    before = objects_of(old)

    def check(directory):
        path = directory + "/image.sif"
        now = objects_of(path)
        if now == before:
            return "old"
        is_new(path, now, before)
        return "new"
    return check


def require(holds, why):
    if not holds:
        raise Lost(why)


class Material:
    """Keys and images that the cases start from, made once."""

    def __init__(self):
        for name in ("home", "tmp"):
            os.makedirs(f"{TOP}/{name}")
        self.key = TOP + "/key.pem"
        must("openssl", "genpkey", "-algorithm", "ED25519", "-out", self.key)
        must("openssl", "pkey", "-in", self.key, "-pubout", "-out", self.key + ".pub")
        for name in ("old", "new"):
            path = f"{TOP}/{name}.pem"
            must("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path)
            must("openssl", "pkey", "-in", path, "-pubout", "-out", path + ".pub")
            put(f"{TOP}/{name}.pass", name + " passphrase\n")
        for path in os.listdir(TOP):
            if path.endswith((".pem", ".pass")):
                os.chmod(f"{TOP}/{path}", 0o600)
        self.root = TOP + "/rootfs"
        put(self.root + "/etc/motd", "old root\n")
        put(self.root + "/bin/blob", random.Random(1).randbytes(70_000))
        self.other = TOP + "/other"
        put(self.other + "/etc/motd", "new root\n")
        put(self.other + "/bin/blob", random.Random(2).randbytes(90_000))
        self.plain = TOP + "/plain.sif"
        must(MAKE, self.plain, self.root)
        self.encrypted = TOP + "/encrypted.sif"
        must(CRYPT, "encrypt", "--pem-path", TOP + "/old.pem.pub", self.plain, self.encrypted)
        self.signed = TOP + "/signed.sif"
        shutil.copy(self.encrypted, self.signed)
        must(KEYS, "sign", "--key", self.key, self.signed)
        self.by_words = TOP + "/by-words.sif"
        must(CRYPT, "encrypt", "--passphrase-file", TOP + "/old.pass", self.plain, self.by_words)
        self.two = TOP + "/two.sif"
        shutil.copy(self.plain, self.two)
        put(TOP + "/second.sqfs", contents(self.plain)[32768:])
        must(POSTERN, "sif", "add", "--datatype", "4", "--parttype", "1", "--partfs", "1", "--partarch", "2",
             self.two, TOP + "/second.sqfs")
        self.partition = [o for o in objects_of(self.plain) if o[1] == 0x4004][0][6]

    def opens(self, path, *key):
        """Whether the key opens the image, and the plain bytes are those that were encrypted."""
        with tempfile.TemporaryDirectory(dir=TOP) as directory:
            out = directory + "/plain.sif"
            done = run(CRYPT, "decrypt", *key, path, out)
            if done.returncode != 0:
                return False
            found = [o for o in objects_of(out) if o[1] == 0x4004]
            require(found[0][6].startswith(self.partition[:64]) or self.same_plain(out), "decrypted to other bytes")
            return True

    def same_plain(self, path):
        """Encryption pads to its sector: compare what the file system holds."""
        def partition(image):
            data = contents(image)
            return data[data.index(b"hsqs"):]
        return partition(path).startswith(partition(self.plain).rstrip(b"\0"))


# ------------------------------------------------------------------------------------------- cases

class Case:
    def __init__(self, name, files, command, check, environment=None, leftovers=(), durable=True, replay=True, faults=FAULTS,
                 retry=True, slow=False, always_again=False, full=None):
        self.name, self.files, self.command, self.check = name, files, command, check
        self.environment = {**ENVIRONMENT, **(environment or {})}
        self.leftovers = leftovers  # names that other programs' crashes may leave
        self.always_again = always_again  # the command can be repeated after every fault, and then leaves nothing else
        self.full = full  # what it says of a full disk
        self.durable, self.replay, self.faults, self.retry = durable, replay, faults, retry
        self.most_faults, self.most_states = (8, 4) if slow else (MOST_FAULTS, MOST_STATES)

    def fresh(self):
        """A directory as before the command."""
        top = tempfile.mkdtemp(dir=TOP, prefix="run-")
        for name, source in self.files.items():
            target = f"{top}/{name}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if os.path.isdir(source):
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy(source, target)
        return top

    @property
    def every(self):
        return os.environ.get("EVERY", "1" if CHOSEN else "0") == "1"

    def words(self, top):
        return [word.replace("@", top) for word in self.command]

    def env(self, top):
        return {name: value.replace("@", top) for name, value in self.environment.items()}

    def trace(self, top, *options):
        return run(TRACER, "--watch", top, *options, "--", *self.words(top), env=self.env(top), cwd=top)


def names_below(top):
    return {os.path.relpath(os.path.join(where, name), top)
            for where, directories, files in os.walk(top) for name in directories + files}


def changes_in(done):
    found = re.search(r"^changes (\d+)$", done.stderr.decode(errors="replace"), re.MULTILINE)
    assert found, done.stderr
    return int(found[1])


def words_of_change(words):
    return "".join(line for line in words.splitlines() if line.startswith("change "))


def attempt(case, number, fault, names):
    """One run that is broken at one change. Returns what went wrong, or None."""
    top = case.fresh()
    try:
        done = case.trace(top, "--at", str(number), "--fault", fault)
        words = done.stderr.decode(errors="replace")
        where = f"{fault} at change {number} ({words.splitlines()[0] if words else ''})"
        try:
            state = case.check(top)
        except Lost as lost:
            return f"{where}: lost: {lost}\n{words}"
        killed = fault in ("kill", "torn") and done.returncode == 137
        left = {name for name in names_below(top) - names if not any(re.search(p, name) for p in case.leftovers)}
        if case.always_again and (killed or re.match(r"change \d+: unlink", words_of_change(words))):
            left = set()  # what the next run finishes or removes
        elif killed:
            left = {name for name in left if not os.path.basename(name).startswith(".") and "." not in name[-7:]}
        if left:
            return f"{where}: left behind {sorted(left)}"
        if not killed and (done.returncode == 254 or 128 < done.returncode < 200):
            return f"{where}: exit {done.returncode}\n{words}"
        if done.returncode == 0 and state != "new":
            return f"{where}: success, and the old state\n{words}"
        if not killed and done.returncode != 0 and not re.search(r"^(FATAL|ERROR|Error|gpg)", words, re.MULTILINE):
            return f"{where}: failed without a word\n{words}"
        if fault == "ENOSPC" and done.returncode != 0 and case.full and not re.search(case.full, words):
            return f"{where}: of the full disk it says\n{words}"
        if case.always_again or (killed and case.retry and state == "old"):
            again = run(*case.words(top), env=case.env(top), cwd=top)
            if again.returncode != 0 or case.check(top) != "new":
                return f"{where}: a second attempt: exit {again.returncode}\n{again.stderr.decode(errors='replace')}"
        if case.always_again:
            left = {name for name in names_below(top) - names if not (killed and re.fullmatch(r"out/\.image\.sif\.\d+", name))
                    and not any(re.search(p, name) for p in case.leftovers)}
            if left:
                return f"{where}: left behind after a second attempt {sorted(left)}"
        return None
    except Lost as lost:
        return f"{where}: after a second attempt: lost: {lost}"
    except subprocess.TimeoutExpired as late:
        return f"{fault} at change {number}: {late.cmd[-1]} does not end"
    finally:
        shutil.rmtree(top, ignore_errors=True)


# -------------------------------------------------------------------------- a disk that lost power

class Disk:
    """Files and names of a directory, and a recorded list of changes to them."""

    def __init__(self, top):
        self.top = os.path.realpath(top)
        self.names, self.data = {}, {}
        for where, directories, files in os.walk(self.top):
            for name in files:
                path = os.path.join(where, name)
                number = os.lstat(path).st_ino
                self.names[path] = number
                self.data[number] = contents(path)
        self.directories = {os.stat(where).st_ino: where for where, _, _ in os.walk(self.top)}
        self.operations = []  # (kind, key, apply): key is a file's number, or a directory

    def load(self, log):
        blob = contents(log + ".data")
        known = set(self.data)
        with open(log) as file:
            lines = [json.loads(line) for line in file]
        for line in lines:
            self.add(line, blob, known)

    def add(self, line, blob, known):
        call, path, to, number = line["call"], line["path"], line["to"], line["ino"]
        add = self.operations.append
        if call == "open":
            if number not in known:
                known.add(number)
                if os.path.basename(path) != "." and path not in self.directories.values():
                    add(("name", os.path.dirname(path), (path, number)))
            elif line["size"] == 0:
                add(("size", number, 0))
        elif call == "write":
            add(("write", number, (line["offset"], blob[line["data"]:line["data"] + line["size"]])))
        elif call in ("truncate", "fallocate"):
            add(("size", number, line["size"]))
        elif call == "sync":
            add(("sync", self.directories.get(number, number), None))
        elif call == "syncfs":
            add(("sync", None, None))
        elif call == "link":
            add(("name", os.path.dirname(to), (to, number)))
        elif call == "rename":
            add(("move", os.path.dirname(to), (path, to, number)))
        elif call == "unlink":
            add(("gone", os.path.dirname(path), (path,)))
        elif call == "mkdir":
            self.directories[number] = path
            add(("mkdir", os.path.dirname(path), (path,)))

    def durable_at(self):
        """For each operation, from how many operations on it is on disk."""
        when = [len(self.operations) + 1] * len(self.operations)
        for at, (kind, key, _) in enumerate(self.operations):
            if kind == "sync":
                for before in range(at):
                    if key is None or self.operations[before][1] == key:
                        when[before] = min(when[before], at + 1)
        return when

    def state(self, chosen):
        """Names and data if just these operations reached the disk. chosen: index -> bytes to keep, or None for all."""
        names, data = dict(self.names), {number: bytearray(bytes_) for number, bytes_ in self.data.items()}
        for at in sorted(chosen):
            kind, key, what = self.operations[at]
            if kind == "write":
                offset, bytes_ = what
                begin, end = chosen[at] or (0, len(bytes_))
                file = data.setdefault(key, bytearray())
                if len(file) < offset + end:
                    file.extend(bytes(offset + end - len(file)))
                file[offset + begin:offset + end] = bytes_[begin:end]
            elif kind == "size":
                file = data.setdefault(key, bytearray())
                del file[what:]
                file.extend(bytes(what - len(file)))
            elif kind == "name":
                names[what[0]] = what[1]
            elif kind == "move":
                names.pop(what[0], None)
                names[what[1]] = what[2]
            elif kind == "gone":
                names.pop(what[0], None)
        return {path: data.get(number, bytearray()) for path, number in names.items()}

    def variants(self, done):
        """Choices of what reached the disk when the power went after `done` operations."""
        durable = self.durable_at()
        kept = {at: None for at in range(done) if durable[at] <= done and self.operations[at][0] != "sync"}
        open_data = [at for at in range(done) if durable[at] > done and self.operations[at][0] in ("write", "size")]
        open_names = [at for at in range(done) if durable[at] > done and self.operations[at][0] in ("name", "move", "gone", "mkdir")]
        choices = [{}, {at: None for at in open_data}]
        for at in open_data[-24:]:
            choices.append({at: None})
            choices.append({other: None for other in open_data if other != at})
            if self.operations[at][0] == "write":
                size, offset = len(self.operations[at][2][1]), self.operations[at][2][0]
                middle = (offset + size // 2) // 512 * 512 - offset  # a sector is written whole, or not
                if 0 < middle < size:
                    for part in ((0, middle), (middle, size)):
                        choices.append({**{other: None for other in open_data if other < at}, at: part})
        for upto in range(len(open_names) + 1):  # directories keep their order (a journal)
            for choice in choices:
                yield {**kept, **choice, **{at: None for at in open_names[:upto]}}


def sample(things, most):
    """At most so many, evenly; the first and the last among them."""
    if len(things) <= most:
        return things
    return [things[i * (len(things) - 1) // (most - 1)] for i in range(most)]


def replay(case, disk, log):
    """Number of distinct states, and what went wrong."""
    disk.load(log)
    verdicts, wrong = {}, []
    judged = None
    if not case.every:
        found = {}
        for done in range(len(disk.operations) + 1):
            for choice in disk.variants(done):
                found.setdefault(digest_of(disk.state(choice)), done == len(disk.operations))
        judged = {name for name, last in found.items() if last} | set(sample(list(found), case.most_states))
    for done in range(len(disk.operations) + 1):
        for choice in disk.variants(done):
            files = disk.state(choice)
            name = digest_of(files)
            if judged is not None and name not in judged:
                continue
            if name not in verdicts:
                verdicts[name] = verdict(case, disk, files)
            last = done == len(disk.operations)
            if verdicts[name] not in ("old", "new") or (last and case.durable and verdicts[name] != "new"):
                left_out = [f"{at + 1}:{disk.operations[at][0]}" for at in range(done)
                            if at not in choice and disk.operations[at][0] != "sync"]
                wrong.append(f"power lost after {done} of {len(disk.operations)} changes, without {left_out}: {verdicts[name]}"
                             + (", though the command had succeeded" if last else ""))
        if len(wrong) > 5:
            break
    return len(verdicts), wrong


def digest_of(files):
    digest = hashlib.blake2b()
    for path, data in sorted(files.items()):
        digest.update(path.encode() + b"\0" + len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def verdict(case, disk, files):
    top = tempfile.mkdtemp(dir=TOP, prefix="disk-")
    try:
        for directory in disk.directories.values():
            os.makedirs(top + directory[len(disk.top):], exist_ok=True)
        for path, data in files.items():
            put(top + path[len(disk.top):], bytes(data))
        return case.check(top)
    except Lost as lost:
        return f"lost: {lost}"
    finally:
        shutil.rmtree(top, ignore_errors=True)


def examine(case):
    """Everything about one case. Returns (words for the TAP line, list of what went wrong)."""
    top = case.fresh()
    try:
        state = case.check(top)
        if state != "old":
            return "", [f"before the command the state is {state}"]
        names = names_below(top)
        disk = Disk(top)
        log = tempfile.mktemp(dir=TOP, prefix="log-")
        done = case.trace(top, "--log", log)
        if done.returncode != 0 or case.check(top) != "new":
            return "", [f"unbroken: exit {done.returncode}\n{done.stderr.decode(errors='replace')}"]
        names |= names_below(top)
        changes = changes_in(done)
        with ThreadPoolExecutor(2) as pool:
            faults = [(number, fault) for number in range(1, changes + 1) for fault in case.faults]
            tried = list(pool.map(lambda pair: attempt(case, *pair, names), faults if case.every else sample(faults, case.most_faults)))
        wrong = [text for text in tried if text]
        states = 0
        if case.replay:
            states, more = replay(case, disk, log)
            wrong += more
        return f"{changes} changes, {len(tried)} faults, {states} states of the disk", wrong
    except Lost as lost:
        return "", [f"lost without a fault: {lost}"]
    finally:
        shutil.rmtree(top, ignore_errors=True)


# --------------------------------------------------------------------------------------- the cases

def sif_cases(m):
    def signed(path, now, before):
        require(now[:len(before)] == before, "objects changed")
        done = run(KEYS, "verify", "--key", m.key + ".pub", path)
        require(done.returncode == 0, f"neither as before nor signed: {[o[4] for o in now]}: {done.stderr.decode()}")

    def sealed(_path, now, before):
        require(now[:len(before)] == before and [o[4] for o in now[len(before):]] == ["postern.verity", "postern.seal"],
                f"objects: {[o[4] for o in now]}")

    def added(_path, now, before):
        require(now[:len(before)] == before and len(now) == len(before) + 1 and now[-1][4] == "note"
                and now[-1][6] == hashlib.sha256(b"a note\n").hexdigest(), "another object than the one that was added")

    def deleted(_path, now, before):
        require(now == [o for o in before if o[0] != 1], "another object is gone")

    def second_is_primary(_path, now, _before):
        kinds = {o[0]: struct.unpack_from("<i", o[5], 4)[0] for o in now if o[1] == 0x4004}
        require(sorted(kinds.values()) == [1, 2] and kinds[max(kinds)] == 2, f"partition types {kinds}")

    note = put(TOP + "/note", "a note\n")
    plain = {"image.sif": m.plain}
    yield Case("sign", plain, [KEYS, "sign", "--key", m.key, "@/image.sif"], same_or(m.plain, signed))
    yield Case("sign --no-seal", plain, [KEYS, "sign", "--no-seal", "--key", m.key, "@/image.sif"], same_or(m.plain, signed))
    yield Case("seal", plain, [KEYS, "seal", "@/image.sif"], same_or(m.plain, sealed))
    yield Case("sif add", plain, [POSTERN, "sif", "add", "--datatype", "7", "--filename", "note", "@/image.sif", note],
               same_or(m.plain, added))
    yield Case("sif del", plain, [POSTERN, "sif", "del", "1", "@/image.sif"], same_or(m.plain, deleted))
    yield Case("sif setprim", {"image.sif": m.two},
               [POSTERN, "sif", "setprim", str(max(o[0] for o in objects_of(m.two))), "@/image.sif"],
               same_or(m.two, second_is_primary))

    def is_empty(directory):
        path = directory + "/image.sif"
        if not os.path.exists(path):
            return "old"
        require(objects_of(path) == [], "objects in a new image")
        return "new"
    yield Case("sif new", {}, [POSTERN, "sif", "new", "@/image.sif"], is_empty)


def rekey_cases(m):
    def by(old, new, source, keep=False, dropped=False):
        others = [o for o in objects_of(source) if o[1] not in (0x4004, 0x4005, 0x4008) and not o[4].startswith("postern.seal")]

        def check(directory):
            path = directory + "/image.sif"
            now = objects_of(path)
            require([o for o in now if o in others] == others, "another object has changed")
            if any(o[1] == 0x4005 for o in now):
                require(objects_of(path) == objects_of(source), "signed, and changed")
                return "old"
            if m.opens(path, *new):
                require(not keep or m.opens(path, *old), "--keep, and the old key opens nothing")
                return "new"
            require(m.opens(path, *old), "neither the old nor the new key opens the image")
            return "old"
        return check

    pem = [["--pem-path", f"{TOP}/{name}.pem"] for name in ("old", "new")]
    word = [["--passphrase-file", f"{TOP}/{name}.pass"] for name in ("old", "new")]
    new_pem, new_word = ["--new-pem-path", TOP + "/new.pem.pub"], ["--new-passphrase-file", TOP + "/new.pass"]
    files = {"image.sif": m.encrypted}
    yield Case("rekey", files, [CRYPT, "rekey", *pem[0], *new_pem, "@/image.sif"], by(*pem, m.encrypted))
    yield Case("rekey --keep", files, [CRYPT, "rekey", "--keep", *pem[0], *new_pem, "@/image.sif"], by(*pem, m.encrypted, keep=True), slow=True)
    yield Case("rekey --drop-signatures", {"image.sif": m.signed},
               [CRYPT, "rekey", "--drop-signatures", *pem[0], *new_pem, "@/image.sif"], by(*pem, m.signed, dropped=True), slow=True)
    yield Case("rekey of a passphrase", {"image.sif": m.by_words}, [CRYPT, "rekey", *word[0], *new_word, "@/image.sif"],
               by(*word, m.by_words), faults=("kill", "EIO"), slow=True)


def whole_file_cases(m):
    def decrypted(directory):
        path = directory + "/out.sif"
        if contents(path) == b"precious":
            return "old"
        objects_of(path)
        require(m.same_plain(path), "other bytes than were encrypted")
        return "new"

    def encrypted(directory):
        path = directory + "/out.sif"
        if contents(path) == b"precious":
            return "old"
        require(m.opens(path, "--pem-path", TOP + "/new.pem"), "the new key does not open the image")
        return "new"

    precious = put(TOP + "/precious", "precious")
    yield Case("encrypt --force", {"out.sif": precious},
               [CRYPT, "encrypt", "--force", "--pem-path", TOP + "/new.pem.pub", m.plain, "@/out.sif"], encrypted, slow=True)
    yield Case("decrypt --force", {"out.sif": precious},
               [CRYPT, "decrypt", "--force", "--pem-path", TOP + "/old.pem", m.encrypted, "@/out.sif"], decrypted)

    wanted = TOP + "/wanted.sif"
    again = TOP + "/again.sif"  # a build records the one before: not the bytes of `wanted`
    must(MAKE, wanted, m.other)
    must(MAKE, again, wanted)

    def built(like):
        def check(directory):
            now = objects_of(directory + "/image.sif")
            if now == objects_of(m.plain):
                return "old"
            require([o[6] for o in now if o[1] == 0x4004] == [o[6] for o in objects_of(like) if o[1] == 0x4004],
                    "another file system than the one that was built")
            return "new"
        return check
    yield Case("build --force", {"image.sif": m.plain}, [MAKE, "--force", "@/image.sif", m.other], built(wanted))
    yield Case("build --force of an image", {"image.sif": m.plain}, [MAKE, "--force", "@/image.sif", wanted], built(again))

    def unpacked(directory):
        path = directory + "/box/etc/motd"
        text = contents(path) if os.path.exists(path) else b""
        blob = directory + "/box/bin/blob"
        for tree, state in ((m.root, "old"), (m.other, "new")):
            if text == contents(tree + "/etc/motd"):
                require(contents(blob) == contents(tree + "/bin/blob"), "a tree of two halves")
                return state
        raise Lost(f"the sandbox holds {os.listdir(directory)}")
    yield Case("build --sandbox --force", {"box": m.root}, [MAKE, "--sandbox", "--force", "@/box", m.other], unpacked,
               leftovers=(r"^\.", r"(^|/)\."), durable=False, replay=False, faults=("kill", "EIO", "ENOSPC"), retry=False)


def text_case(name, files, command, result, environment=None, **keywords):
    """A command that writes one text file; the new text is what the unbroken command writes."""
    case = Case(name, files, command, None, environment, **keywords)
    top = case.fresh()
    before = contents(f"{top}/{result}") if os.path.exists(f"{top}/{result}") else None
    must(*case.words(top), env=case.env(top), cwd=top)
    after = contents(f"{top}/{result}") if os.path.exists(f"{top}/{result}") else None
    shutil.rmtree(top)
    assert after != before, f"{name} changes nothing"

    def check(directory):
        path = f"{directory}/{result}"
        now = contents(path) if os.path.exists(path) else None
        require(now in (before, after), f"neither the old text nor the new: {now!r}"[:300])
        return "old" if now == before else "new"
    case.check = check
    return case


def configuration_cases(_m):
    config = put(TOP + "/conf/postern.toml", "[limit]\npaths = [\"/opt/images\"]\n")
    capabilities = put(TOP + "/conf/capability.toml", "[users]\ndaemon = [\"CAP_NET_RAW\"]\n\n[groups]\n")
    files = {"conf/postern.toml": config}
    postern = [POSTERN, "--config", "@/conf/postern.toml"]
    yield text_case("config global --set", files, [*postern, "config", "global", "--set", "limit.paths", "/srv/images"],
                    "conf/postern.toml")
    yield text_case("config global --reset", files, [*postern, "config", "global", "--reset", "limit.paths"], "conf/postern.toml")
    yield text_case("capability add", {**files, "conf/capability.toml": capabilities},
                    [*postern, "capability", "add", "--user", "daemon", "CAP_SYS_NICE"], "conf/capability.toml")
    yield text_case("capability drop", {**files, "conf/capability.toml": capabilities},
                    [*postern, "capability", "drop", "--user", "daemon", "CAP_NET_RAW"], "conf/capability.toml")
    peer = put(TOP + "/apptainer/apptainer.conf", "allow setuid = yes\nmax loop devices = 256\nlimit container paths = /a, /b\n")
    yield text_case("config import", {**files, "apptainer.conf": peer}, [*postern, "config", "import", "@/apptainer.conf"],
                    "conf/postern.toml")


def key_cases(m):
    ring, other = TOP + "/ring", TOP + "/other-ring"
    for directory, name in ((ring, "old"), (other, "new")):
        must(KEYS, "key", "newpair", "--keysdir", directory, "--name", name, "--email", name + "@example.org", "--comment", "", "--password", "",
             "--bit-length", "2048")
    keys = {"old": TOP + "/key-old.asc", "new": TOP + "/key-new.asc"}
    for directory, name in ((ring, "old"), (other, "new")):
        must(KEYS, "key", "export", "--armor", "--keysdir", directory, keys[name])

    def listed(option, before, after):
        def check(directory):
            done = run(KEYS, "key", "list", *option, env={**ENVIRONMENT, "POSTERN_CONFIG_FILE": directory + "/conf/postern.toml",
                                                          "POSTERN_KEYSDIR": directory + "/ring"})
            found = set(re.findall(r"(\w+)@example\.org", done.stdout.decode()))
            require(done.returncode == 0 and found in (before, after), f"keys {found}: {done.stderr.decode()}")
            return "old" if found == before else "new"
        return check

    # GnuPG syncs nothing, and leaves its locks and temporary files when it is killed.
    gnupg = {"leftovers": (r"/\.#lk", r"\.lock$", r"\.tmp$", r"~$", r"/S\.", r"reader_"), "replay": False}
    yield Case("key import", {"ring": ring}, [KEYS, "key", "import", "--keysdir", "@/ring", keys["new"]],
               listed([], {"old"}, {"old", "new"}), **gnupg)
    yield Case("key remove", {"ring": other}, [KEYS, "key", "remove", "--both", "--keysdir", "@/ring", fingerprint(other)],
               listed([], {"new"}, set()), **gnupg)
    config = TOP + "/site/conf"
    put(config + "/postern.toml", "")
    yield Case("key import --global", {"conf": config}, [KEYS, "key", "import", "--global", keys["new"]],
               listed(["--global"], set(), {"new"}), {"POSTERN_CONFIG_FILE": "@/conf/postern.toml"})
    yield text_case("key export", {"ring": ring}, [KEYS, "key", "export", "--armor", "--keysdir", "@/ring", "@/key.asc"], "key.asc")


def transfer_cases(m):
    """From servers on loopback, into a cache and out of it, and without one."""
    layers = [{"etc": None, "bin": None, "etc/motd": "old root\n", "bin/blob": random.Random(3).randbytes(120_000)},
              {"etc/motd": "pulled\n", "bin/more": random.Random(4).randbytes(50_000)}]
    image = world.Image(layers)
    sif = contents(m.plain)
    registry, library = world.FakeRegistry(), world.LibraryServer()
    registry.add(image)
    registry.blobs.update({world.digest(sif): sif, world.digest(b"{}"): b"{}"})
    registry.add_bytes("sif", world.OCI_MANIFEST, world.dump({
        "schemaVersion": 2, "config": {"mediaType": world.SIF_CONFIG, "digest": world.digest(b"{}"), "size": 2},
        "layers": [{"mediaType": world.SIF_LAYER, "digest": world.digest(sif), "size": len(sif)}]}))
    library.add("e/c/n", "1", sif)
    web = world.Server(lambda request: request.reply(200, sif, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}))
    docker, oras = f"docker://{registry.host}/image", f"oras://{registry.host}/image:sif"
    from_library = ["--library", f"http://{library.host}/library", "library://e/c/n:1"]
    environment = {"POSTERN_CACHEDIR": "@/place", "TMPDIR": "@/tmp", "HOME": "@/home"}
    empty = put(TOP + "/empty", "")
    precious = put(TOP + "/precious", "precious")
    places = {"tmp/.keep": empty, "home/.keep": empty, "place/.keep": empty, "out/.keep": empty}
    pulled = TOP + "/pulled.sif"
    must(POSTERN, "pull", "--disable-cache", pulled, docker)
    partitions = {path: [o[6] for o in objects_of(path) if o[1] == 0x4004] for path in (pulled, m.plain)}

    def cache_is_whole(directory):
        """Every entry that has its final name has the bytes that belong to it."""
        for where, _, files in os.walk(directory + "/place/cache"):
            for name in files:
                kind = os.path.relpath(where, directory + "/place/cache").split("/")[0]
                path = f"{where}/{name}"
                if name.startswith(("tmp_", ".")):
                    continue
                if kind == "oci-tmp":
                    require([o[6] for o in objects_of(path) if o[1] == 0x4004] == partitions[pulled], f"{path} is another image")
                elif kind == "net":
                    require(contents(path) == sif, f"{path} has other bytes")
                else:
                    require(world.digest(contents(path)) == "sha256:" + name[-64:], f"{path} has other bytes than its name says")

    def image_like(like, name="out/image.sif"):
        def check(directory):
            cache_is_whole(directory)
            path = f"{directory}/{name}"
            if not os.path.exists(path) or contents(path) == b"precious":
                return "old"
            require([o[6] for o in objects_of(path) if o[1] == 0x4004] == partitions[like], "another image than the server's")
            return "new"
        return check

    full = r"No space left on device; make room"
    common = {"environment": environment, "always_again": True, "full": full}
    over = {**places, "out/image.sif": precious}
    pull = [POSTERN, "pull", "--force"]
    yield Case("pull docker://", places, [*pull, "@/out/image.sif", docker], image_like(pulled), **common)
    yield Case("pull docker:// over a file", over, [*pull, "@/out/image.sif", docker], image_like(pulled), **common, slow=True)
    yield Case("pull --disable-cache docker://", over, [*pull, "--disable-cache", "@/out/image.sif", docker], image_like(pulled), **common)
    yield Case("pull oras://", over, [*pull, "@/out/image.sif", oras], image_like(m.plain), **common)
    yield Case("pull library://", over, [*pull, "@/out/image.sif", *from_library], image_like(m.plain), **common)
    yield Case("pull --disable-cache library://", places, [*pull, "--disable-cache", "@/out/image.sif", *from_library],
               image_like(m.plain), **common, slow=True)
    yield Case("pull http://", over, [*pull, "@/out/image.sif", f"http://{web.host}/image.sif"], image_like(m.plain), **common, slow=True)
    yield Case("build docker://", over, [MAKE, "--force", "@/out/image.sif", docker], image_like(pulled), **common)
    yield Case("build --encrypt docker://", places, [MAKE, "--force", "--encrypt", "--pem-path", TOP + "/new.pem.pub", "@/out/image.sif", docker],
               encrypted_from(m, cache_is_whole), **common, slow=True, replay=False)  # as "encrypt --force"

    def unpacked(directory):
        cache_is_whole(directory)
        if not os.path.exists(directory + "/out/box"):
            return "old"
        require(contents(directory + "/out/box/etc/motd") == b"pulled\n" and len(contents(directory + "/out/box/bin/blob")) == 120_000
                and len(contents(directory + "/out/box/bin/more")) == 50_000, "a tree of two halves")
        return "new"
    yield Case("build --sandbox docker://", places, [MAKE, "--force", "--sandbox", "@/out/box", docker], unpacked,
               **common, durable=False, replay=False)

    def fetched(directory):
        cache_is_whole(directory)
        for name in os.listdir(directory + "/tmp"):  # without a cache
            if name.startswith("postern-image-") and os.path.getsize(f"{directory}/tmp/{name}"):
                require([o[6] for o in objects_of(f"{directory}/tmp/{name}") if o[1] == 0x4004] == partitions[pulled], f"{name} is another image")
                return "new"
        converted = directory + "/place/cache/oci-tmp"
        return "new" if os.path.isdir(converted) and [n for n in os.listdir(converted) if not n.startswith("tmp_")] else "old"
    fetch = BUILD + "/frontend/transfer/postern-transfer"  # what a start by URI begins with
    yield Case("exec docker://", places, [fetch, "fetch", docker], fetched, **common, durable=False,
               leftovers=(r"^tmp/postern-image-",))  # handed over to the start, where the cache is of no use


def encrypted_from(m, cache_is_whole):
    def check(directory):
        cache_is_whole(directory)
        path = directory + "/out/image.sif"
        if not os.path.exists(path):
            return "old"
        with tempfile.TemporaryDirectory(dir=TOP) as place:  # two threads check at a time
            done = run(CRYPT, "decrypt", "--pem-path", TOP + "/new.pem", path, place + "/decrypted.sif")
        require(done.returncode == 0, f"the key does not open the image: {done.stderr.decode()}")
        return "new"
    return check


def overlay_cases(m):
    """Files of 64 MiB that mkfs.ext3 and debugfs fill."""
    def is_ext3(read):
        def check(directory):
            data = read(directory)
            if data is None:
                return "old"
            require(len(data) == 64 << 20, f"{len(data)} bytes")
            path = put(directory + "-checked", data)
            try:
                done = run("e2fsck", "-fn", path)
                require(done.returncode == 0, f"e2fsck: {done.stdout.decode()}")
                listed = run("debugfs", "-R", "ls -p /", path).stdout.decode()
                require("/upper/" in listed and "/work/" in listed, f"no upper and work: {listed}")
            finally:
                os.unlink(path)
            return "new"
        return check

    def of_file(directory):
        path = directory + "/overlay.img"
        return contents(path) if os.path.exists(path) else None

    def of_sif(directory):
        path = directory + "/image.sif"
        added = objects_of(path)[len(objects_of(m.plain)):]
        return must(POSTERN, "sif", "dump", str(added[0][0]), path) if added else None
    keywords = {"environment": {"TMPDIR": "@/tmp"}, "slow": True, "faults": ("kill", "EIO", "ENOSPC"), "replay": False}
    places = {"tmp/.keep": put(TOP + "/empty", "")}
    # The temporary tree of a command that was killed stays: the file system is made from it by other programs.
    killed = (r"^tmp/postern-overlay-",)
    create = [POSTERN, "overlay", "create", "--fakeroot", "--tmpdir", "@/tmp"]
    yield Case("overlay create", places, [*create, "@/overlay.img"], is_ext3(of_file), leftovers=killed, **keywords)
    yield Case("overlay create in an image", {**places, "image.sif": m.plain}, [*create, "@/image.sif"], is_ext3(of_sif),
               leftovers=killed, **keywords)


def account_cases(_m):
    """Credentials and remotes."""
    environment = {"HOME": "@/home"}
    files = {"home/.postern/docker-config.json": put(TOP + "/auth", "{\"auths\": {\"other.example\": {\"auth\": \"YTpi\"}}}\n")}
    registry = world.FakeRegistry()
    yield text_case("registry login", files, [POSTERN, "registry", "login", "--no-https", "-u", "user", "-p", "word", f"docker://{registry.host}"],
                    "home/.postern/docker-config.json", environment)
    yield text_case("remote add", files, [POSTERN, "remote", "add", "--no-login", "--insecure", "mine", f"http://{registry.host}"],
                    "home/.postern/remote.yaml", environment)


def fingerprint(ring):
    return re.search(r"[0-9A-F]{40}", must(KEYS, "key", "list", "--keysdir", ring).decode())[0]


# ------------------------------------------------------------------------ the test's own tests

def careless_commands():
    """Commands that lose data: each must be found."""
    old, new = put(TOP + "/careless-old", "o" * 5000), put(TOP + "/careless-new", "n" * 5000)

    def check(directory):
        path = directory + "/file"
        now = contents(path) if os.path.exists(path) else None
        require(now in (contents(old), contents(new)), f"{len(now or b'')} bytes")
        return "old" if now == contents(old) else "new"
    files = {"file": old}
    python = [sys.executable, "-c"]
    copy = f"data = open('{new}').read(); "
    yield "in place", Case("in place", files, [*python, copy + "open('@/file', 'w').write(data)"], check, replay=False)
    yield "renamed without a sync", Case(
        "rename", files, [*python, "import os; " + copy + "open('@/tmp', 'w').write(data); os.rename('@/tmp', '@/file')"], check, faults=())
    yield "errors ignored", Case(
        "errors", files, ["/bin/sh", "-c", f"cp {new} @/tmp 2>/dev/null; mv @/tmp @/file 2>/dev/null; exit 0"], check, replay=False,
        faults=("ENOSPC",))
    yield "not synced at the end", Case(
        "success", files, [*python, "import os; " + copy + "f = open('@/tmp', 'w'); f.write(data); f.flush(); os.fsync(f.fileno()); "
                           "os.rename('@/tmp', '@/file')"], check, faults=())


def main():
    number = failed = 0
    begun = time.monotonic()

    def report(title, wrong):
        nonlocal number, failed
        number += 1
        failed += bool(wrong)
        print(f"{'not ok' if wrong else 'ok'} {number} - {title}\n# {time.monotonic() - begun:.1f} s so far")
        for text in wrong[:4]:
            print("".join(f"#   {line}\n" for line in text.splitlines()), end="")
        if len(wrong) > 4:
            print(f"#   and {len(wrong) - 4} more")
        sys.stdout.flush()

    try:
        for title, case in careless_commands():
            if not CHOSEN:
                report(f"a command that loses data is found: {title}", [] if examine(case)[1] else ["nothing was found"])
        material = Material()
        for make in (sif_cases, rekey_cases, whole_file_cases, configuration_cases, key_cases, transfer_cases,
                     account_cases, overlay_cases):
            try:
                for case in make(material):
                    if CHOSEN and case.name not in CHOSEN:
                        continue
                    words, wrong = examine(case)
                    report(f"{case.name}: {words}", wrong)
            except Exception:  # noqa: BLE001: a case that cannot be made is a failure too
                report(make.__name__, [traceback.format_exc()])
    finally:
        shutil.rmtree(TOP, ignore_errors=True)
    print(f"1..{number}")
    sys.exit(1 if failed or number == 0 else 0)


main()
