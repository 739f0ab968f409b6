#!/usr/bin/env python3
"""Signed images through the installed programs, as an unprivileged user, in both modes: what an execution
control list admits, how the bytes are bound to the signature, and files that change meanwhile. Prints TAP.

The kernel here need not have device-mapper: what takes dm-verity is in tests/vm.
Usage: signed.py HELPER JUDGE JUDGE-KEYS POSTERN INIT SQUASHFS KEYS LIBEXEC CONFDIR [NAME-PART]
"""
import hashlib
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fuse_server  # noqa: E402
import liar  # noqa: E402
import world as worlds  # noqa: E402
from tap import check, wait_until  # noqa: E402

worlds.enter_namespace()
HELPER, JUDGE, POSTERN, INIT, SQUASHFS, KEYS, LIBEXEC, CONFDIR = sys.argv[1:9]
ONLY = sys.argv[9] if len(sys.argv) > 9 else ""
BUSYBOX = "/bin/busybox"
for needed in (BUSYBOX, "/usr/bin/gpg", "/usr/bin/setfacl", "/dev/loop-control"):
    if not os.path.exists(needed):
        worlds.skip(f"needs {needed}")
W = worlds.World(HELPER, JUDGE, BUSYBOX, LIBEXEC, CONFDIR)
for source, mode in ((INIT, 0o755), (SQUASHFS, 0o711), (KEYS, 0o755)):
    W.install(source, os.path.basename(source), mode)
HOME = W.home()
BINARY = f"{W.work}/postern"
shutil.copy(POSTERN, BINARY)
os.chmod(BINARY, 0o755)
os.chmod("/dev/fuse", 0o666)  # as distributions have it
TESTS = []
MODES = {"suid": (), "user namespace": ("--userns",)}


def test(function):
    TESTS.append(function)
    return function


def run(*command, **keywords):
    return subprocess.run(command, check=True, capture_output=True, text=True, **keywords)


def postern(*arguments, user=True, ok=None, home=None):
    ids = {"user": worlds.T1, "group": worlds.T1, "extra_groups": worlds.T1_GROUPS} if user else {}
    home = home or HOME
    done = subprocess.run([BINARY, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, cwd=home,
                          env={"PATH": "/usr/bin:/bin", "HOME": home, "USER": worlds.T1_NAME, "LANG": "C"}, **ids)
    check(ok is None or done.returncode == ok, f"{arguments}: {say(done)}")
    return done


def say(done):
    return f"exit {done.returncode}\nstdout: {done.stdout[:600]}\nstderr: {done.stderr[:900]}"


def started(image, mode, words="ran"):
    """True: it ran. False: it was refused in words, and nothing ran."""
    done = postern("exec", *MODES[mode], image, "echo", words)
    if done.returncode == 0 and done.stdout == words + "\n":
        return True
    check(done.returncode == 255 and done.stdout == "" and done.stderr.count("FATAL") == 1, f"{mode}, {image}: {say(done)}")
    return False


# ------------------------------------------------------------------------------------------ the site

def gpg(home, *words, data=None):
    return subprocess.run(["gpg", "--homedir", home, "--batch", "--no-tty", *words], check=True, capture_output=True, input=data,
                          user=worlds.T1, group=worlds.T1, env={"PATH": "/usr/bin:/bin", "HOME": HOME}).stdout


def make_keys():
    """Fingerprints of the user's keys by name; those of the site are in its keyring."""
    found = {}
    for name in ("alice", "bob", "other", "stranger"):
        done = postern("key", "newpair", "-N", name, "-E", f"{name}@example.org", "-C", "", "-P", "", "-b", "2048", ok=0)
        found[name] = next(line.split()[-1] for line in done.stderr.splitlines() if "fingerprint" in line)
    for name in ("alice", "bob", "other"):
        site_imports(gpg(f"{HOME}/.postern/keys", "--export", found[name]))
    return found


def site_imports(key):
    with open(f"{W.work}/key.gpg", "wb") as file:
        file.write(key)
    postern("key", "import", "--global", f"{W.work}/key.gpg", user=False, ok=0, home=W.work)


def configure(mode, keys, directory="", binding="", kernel="any"):
    lines = ["activated = true", "[[execgroup]]", 'tagname = "t"', f'mode = "{mode}"', f'dirpath = "{directory}"',
             "keyfp = [" + ", ".join(f'"{FINGERPRINTS[key]}"' for key in keys) + "]"]
    lines += [f'binding = "{binding}"'] if binding else []
    W.configure(site=worlds.SITE.replace('squashfs = "any"', f'squashfs = "{kernel}"'), ecl="\n".join(lines) + "\n")


def make_images():
    """A plain image, and copies of it by who signed them."""
    root = f"{W.work}/tree"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        os.makedirs(f"{root}/{name}")
    shutil.copy(BUSYBOX, f"{root}/bin/busybox")
    for applet in ("sh", "cat", "sleep", "echo"):
        os.symlink("busybox", f"{root}/bin/{applet}")
    for name in ("passwd", "group", "hosts", "resolv.conf", "localtime"):
        open(f"{root}/etc/{name}", "w").close()
    with open(f"{root}/marker", "wb") as file:
        file.write(b"approved\n" + os.urandom(300000))
    plain = f"{HOME}/plain.sif"
    with open(W.squashfs("root.sqfs", root), "rb") as file:
        W.sif(plain, file.read())
    out = {}
    for kind, signers in SIGNERS.items():
        out[kind] = f"{HOME}/{kind}.sif"
        shutil.copy(plain, out[kind])
        os.chown(out[kind], worlds.T1, worlds.T1)
        for signer in signers:
            postern("sign", "--no-seal", "-k", str(list(FINGERPRINTS).index(signer)), out[kind], ok=0)
    return out


SIGNERS = {"none": [], "one": ["alice"], "two": ["alice", "bob"], "wrong": ["other"], "stranger": ["stranger"]}
FINGERPRINTS = make_keys()
IMAGES = make_images()
PARTITION = 32768  # where World.sif() puts it


def own(path, uid=worlds.T1, mode=0o644):
    os.chown(path, uid, uid)
    os.chmod(path, mode)


def flip(path, at, bit=1):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bit]))


# ------------------------------------------------------------------------------------------- tests

def admitted(mode, kind, place, intact):
    """The matrix of modes and signers, in words of its own: alice and bob are on it, `other` is a key of the site that
    is not, and a stranger's signature cannot be checked by anybody, which a blacklist forgives."""
    if place != "images":
        return False
    by_mode = {"whitelist": {"one": intact, "two": intact}, "whitestrict": {"two": intact},
               "blacklist": {"wrong": intact, "stranger": True}}
    return by_mode[mode].get(kind, False)


@test
def the_list_decides_by_mode_signer_directory_and_integrity_in_both_modes():
    """the matrix: 3 modes of the list, 5 kinds of signer, 4 places, intact or changed, 2 modes of running"""
    places = {name: f"{W.work}/{name}" for name in ("images", "images2", "elsewhere", "images/below")}
    copies = {}
    for place, path in places.items():
        os.mkdir(path)
        for kind, source in IMAGES.items():
            for intact in (True, False):
                copy = f"{path}/{kind}-{'intact' if intact else 'changed'}.sif"
                shutil.copy(source, copy)
                if not intact:
                    flip(copy, os.path.getsize(IMAGES["none"]) - 5000)
                own(copy)
                copies[place, kind, intact] = copy
    rows = ran = 0
    for mode in ("whitelist", "whitestrict", "blacklist"):
        configure(mode, ["alice", "bob"], places["images"])
        for (place, kind, intact), path in copies.items():
            for running in MODES:
                wanted = admitted(mode, kind, place, intact)
                check(started(path, running) == wanted, f"{mode}, signed by {kind}, in {place}, {'intact' if intact else 'changed'}, "
                      f"{running}: {'refused' if wanted else 'admitted'}\n{say(postern('exec', *MODES[running], path, 'echo', 'x'))}")
                rows, ran = rows + 1, ran + wanted
    check(rows == 240 and ran == 2 * 6, f"{rows} rows, {ran} ran")


@test
def a_list_that_is_missing_malformed_or_others_may_write_refuses():
    """a malformed list refuses in both modes; a missing or badly owned one in suid mode; so does a bad keyring"""
    configure("whitelist", ["alice"])
    image = IMAGES["one"]
    path = f"{CONFDIR}/ecl.toml"
    check(all(started(image, mode) for mode in MODES), "the twin that is allowed")
    with open(path) as file:
        good = file.read()
    for text in ("activated = maybe\n", good + "[[execgroup]]\nmode = \"x\"\n", good.replace("keyfp", "keyfp = [\"x\"]\nKeyFP"),
                 "activated = true\n\u00e9\n"):
        with open(path, "w") as file:
            file.write(text)
        check(not any(started(image, mode) for mode in MODES), text)
    configure("whitelist", ["alice"])
    for spoil, mend in ((lambda: os.chmod(path, 0o664), lambda: os.chmod(path, 0o644)),
                        (lambda: os.chown(path, worlds.T1, 0), lambda: os.chown(path, 0, 0)),
                        (lambda: os.chmod(CONFDIR, 0o777), lambda: os.chmod(CONFDIR, 0o755)),
                        (lambda: run("setfacl", "-m", f"u:{worlds.T1}:rw", path), lambda: run("setfacl", "-b", path)),
                        (lambda: os.chmod(f"{CONFDIR}/keyring", 0o775), lambda: os.chmod(f"{CONFDIR}/keyring", 0o755)),
                        (lambda: os.rename(path, path + "2"), lambda: os.rename(path + "2", path)),
                        (lambda: (os.rename(path, path + "2"), os.symlink(path + "2", path)), lambda: os.rename(path + "2", path))):
        spoil()
        try:
            check(not started(image, "suid"), "a file that others may write, or that is not there")
        finally:
            mend()
    check(started(image, "suid"), "mended")


@test
def a_nested_start_follows_roots_list():
    """in a user namespace root of the host has no id: the list is root's all the same, active or not; one that others may write is not"""
    nested = f"exec {BINARY} exec --userns \"$1\" echo ran"

    def run_nested(kind, map_root):
        done = subprocess.run(["unshare", "--user", *(["--map-root-user"] if map_root else ["--map-current-user"]), "sh", "-c", nested, "sh", IMAGES[kind]],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, cwd=HOME, user=worlds.T1, group=worlds.T1, extra_groups=[],
                              env={"PATH": "/usr/bin:/bin", "HOME": HOME, "USER": worlds.T1_NAME, "LANG": "C"})
        return done.returncode == 0 and done.stdout == "ran\n", say(done)

    for map_root in (True, False):
        W.configure()
        for kind in ("none", "one"):
            ran, words = run_nested(kind, map_root)
            check(ran, f"no list, {kind}: {words}")
        configure("whitelist", ["alice"])
        ran, words = run_nested("one", map_root)
        check(ran, f"a list that admits it: {words}")
        for kind in ("none", "wrong"):
            ran, words = run_nested(kind, map_root)
            check(not ran and "ECL" in words, f"a list that does not admit it, {kind}: {words}")
        os.chmod(f"{CONFDIR}/ecl.toml", 0o664)
        ran, words = run_nested("one", map_root)
        check(not ran and "can be written by others than root" in words, words)


@test
def unwritable_means_that_nobody_else_can_change_the_file():
    """binding = "unwritable", kernel-mount = "trusted": root's file, and no mode, ACL or owner that lets others write"""
    image = f"{W.work}/site.sif"
    shutil.copy(IMAGES["one"], image)
    configure("whitelist", ["alice"], binding="unwritable", kernel="trusted")
    rows = [(0, 0o644, (), True), (0, 0o444, (), True), (0, 0o755, (), True), (0, 0o664, (), False), (0, 0o646, (), False),
            (worlds.T1, 0o444, (), False), (worlds.T2, 0o644, (), False), (0, 0o644, (f"u:{worlds.T1}:r",), True),
            (0, 0o644, (f"u:{worlds.T1}:rw",), False), (0, 0o644, (f"g:{worlds.T1}:rw",), False),
            (0, 0o644, (f"u:{worlds.T1}:rw", "m::r"), True)]
    for uid, mode, entries, wanted in rows:
        run("setfacl", "-b", image)
        own(image, uid, mode)
        for entry in entries:
            run("setfacl", "-m", entry, image)
        for running in MODES:
            check(started(image, running) == wanted, f"owner {uid}, mode {mode:o}, ACL {entries}, {running}")
    run("setfacl", "-b", image)
    own(image, 0, 0o644)
    wait_until(lambda: W.loops() == [], lambda: f"{W.loops()}")
    process = W.as_user(lambda: run(BINARY, "exec", image, "cat", "/proc/self/mountinfo", cwd=HOME, env={"PATH": "/bin", "HOME": HOME}).stdout)
    check(any(" squashfs " in line or " overlay " in line for line in process.splitlines()) and "fuse" not in
          [line.split(" - ")[1].split()[0] for line in process.splitlines() if line.split()[4] == "/"], f"the kernel's mount: {process}")
    run("mount", "--bind", image, image)  # what a read-only mount promises holds for that mount alone
    try:
        own(image, worlds.T1)
        run("mount", "-o", "remount,bind,ro", image)
        check(not started(image, "suid"), "a user's file on a read-only mount")
    finally:
        run("umount", image)
    flip(image, PARTITION + 70000)
    own(image, 0, 0o644)
    check(not any(started(image, mode) for mode in MODES), "changed before the start")


@test
def hash_admits_and_the_site_decides_about_the_kernel():
    """binding = "hash": admitted, for the kernel only under "any"; binding = "sealed": an image without a seal is refused"""
    image = IMAGES["one"]
    configure("whitelist", ["alice"], binding="hash", kernel="any")
    check(all(started(image, mode) for mode in MODES), "any")
    for kernel in ("trusted", "never"):
        configure("whitelist", ["alice"], binding="hash", kernel=kernel)
        check(not started(image, "suid"), f"{kernel}: not bound, so not for the kernel, and nobody vouches for a server")
        check(started(image, "user namespace"), f"{kernel} says nothing about user namespaces")
    configure("whitelist", ["alice"], binding="sealed", kernel="any")
    check(not any(started(image, mode) for mode in MODES), "without a seal")


@test
def a_path_swapped_between_check_and_mount_never_runs_the_other_image():
    """renamed back and forth under a hundred starts: the approved image runs, or none; never the other"""
    configure("whitelist", ["alice"])
    place = f"{W.work}/swapped"
    os.mkdir(place)
    root = f"{W.work}/tree"
    with open(f"{root}/marker", "wb") as file:
        file.write(b"smuggled\n" + os.urandom(300000))
    with open(W.squashfs("smuggled.sqfs", root), "rb") as file:
        W.sif(f"{place}/b", file.read())
    shutil.copy(IMAGES["one"], f"{place}/a")
    for name in ("a", "b"):
        own(f"{place}/{name}")
    target = f"{place}/image.sif"
    os.link(f"{place}/a", target)
    swapper = os.fork()
    if swapper == 0:
        try:
            while True:
                for name in ("b", "a"):
                    os.link(f"{place}/{name}", f"{place}/new")
                    os.rename(f"{place}/new", target)
                    time.sleep(0.003)
        finally:
            os._exit(0)
    try:
        seen = {mode: [] for mode in MODES}

        def both_were_met():
            return all(0 < outputs.count("approved\n") < len(outputs) for outputs in seen.values())
        rounds = 0
        while rounds < 50 or (not both_were_met() and rounds < 500):
            rounds += 1
            for mode, options in MODES.items():
                done = postern("exec", *options, target, "sh", "-c", "read line </marker; echo $line")
                seen[mode].append(done.stdout)
                check(done.stdout in ("approved\n", "") and (done.returncode == 0) == (done.stdout != ""), f"{mode}: {say(done)}")
    finally:
        os.kill(swapper, signal.SIGKILL)
        os.waitpid(swapper, 0)
    check(both_were_met(), f"both images were met in each mode: {seen}")


@test
def limits_name_images_that_run_without_a_signature():
    """limit.*: an unsigned image of root's runs under "trusted", a user's under "limited"; paths are places"""
    place = f"{W.work}/apps"
    os.makedirs(f"{place}/below")
    os.symlink("apps", f"{W.work}/linked")
    inside, outside = f"{place}/below/image.sif", f"{W.work}/apps-of-mine.sif"
    for path in (inside, outside):
        shutil.copy(IMAGES["none"], path)
    texts = (place, f"{place}/", f"/{place}//", f"{W.work}/linked", f"{W.work}/./linked//below", f"{place}/below/../../linked")
    for text in texts:
        for kernel, owner, wanted in (("trusted", 0, True), ("trusted", worlds.T1, False), ("limited", worlds.T1, True),
                                      ("any", worlds.T1, True), ("never", 0, False)):
            W.configure(site=worlds.SITE.replace('squashfs = "any"', f'squashfs = "{kernel}"') + f'[limit]\npaths = ["{text}"]\n')
            own(inside, owner)
            own(outside, owner)
            check(started(inside, "suid") == wanted, f"{text}, {kernel}, owner {owner}")
            check(started(inside, "user namespace"), f"{text}, user namespace")
            check(not any(started(outside, mode) for mode in MODES), f"{text}, {kernel}: a name that only begins the same")
    for limit, owner, wanted in (('owners = ["root"]', 0, True), ('owners = ["root"]', worlds.T1, False),
                                 ('groups = ["root"]', 0, True), (f'owners = ["{worlds.T1}"]', worlds.T1, True),
                                 ('owners = ["no-such-user"]', 0, False)):
        W.configure(site=worlds.SITE.replace('squashfs = "any"', 'squashfs = "limited"') + f"[limit]\n{limit}\n")
        own(inside, owner)
        for mode in MODES:
            check(started(inside, mode) == wanted, f"{limit}, owner {owner}, {mode}")


@test
def a_key_that_is_gone_from_the_parser_is_refused_in_words():
    """forbid.bind-targets compared texts and is gone: a file that sets it stops both modes, with the cure"""
    W.configure(site=worlds.SITE + '[forbid]\nbind-targets = ["/data"]\n')
    for mode in MODES:
        done = postern("exec", *MODES[mode], IMAGES["none"], "echo", "x", ok=255)
        check("no longer exists" in done.stderr and "allow.user-binds" in done.stderr or mode == "suid", say(done))
    W.configure(site=worlds.SITE + "[forbid]\nbind-targets = []\n")  # as earlier releases installed it
    check(all(started(IMAGES["none"], mode) for mode in MODES), "an empty list says nothing")


@test
def a_keyring_that_was_changed_without_us_refuses_until_the_cure_is_followed():
    """gpg into the site's keyring, a changed ring, a lost table: refused with a cure, and the cure cures"""
    configure("whitelist", ["alice"])
    image, ring = IMAGES["one"], f"{CONFDIR}/keyring"
    check(all(started(image, mode) for mode in MODES), "the twin that is allowed")

    def cure_of():
        done = postern("ecl", "check", image, ok=255)
        for line in done.stdout.splitlines():
            if "postern key import --global" in line:
                return line[line.index("postern key import --global"):].split()[4].rstrip(".")
        raise AssertionError(say(done))

    def refused():
        check(not any(started(image, mode) for mode in MODES), "a keyring that is not what was compiled")

    with open(f"{ring}/pubring.gpg", "rb") as file:
        good = file.read()
    with open(f"{ring}/pubring.gpg", "wb") as file:  # a key was cut out: what the table has of it must not count
        file.write(good[:len(good) // 2])
    refused()
    with open(f"{ring}/pubring.gpg", "wb") as file:
        file.write(good)
    check(all(started(image, mode) for mode in MODES), "the ring that was compiled")
    os.unlink(f"{ring}/pubring.table")
    refused()
    postern("key", "import", "--global", cure_of(), user=False, ok=0, home=W.work)
    check(all(started(image, mode) for mode in MODES), "compiled again")
    with open(f"{W.work}/more.gpg", "wb") as file:
        file.write(gpg(f"{HOME}/.postern/keys", "--export", FINGERPRINTS["stranger"]))
    subprocess.run(["gpg", "--homedir", ring, "--batch", "--no-tty", "--no-options", "--no-default-keyring", "--keyring",
                    f"{ring}/pubring.kbx", "--import", f"{W.work}/more.gpg"], check=True, capture_output=True)
    check(os.path.exists(f"{ring}/pubring.kbx"), "gpg wrote a keybox")
    refused()
    done = postern("ecl", "check", image, ok=255)
    check("pubring.kbx" in done.stdout and "rm " in done.stdout, say(done))
    os.unlink(f"{ring}/pubring.kbx")
    for name in os.listdir(ring):
        if name not in ("pubring.gpg", "pubring.table", "gpg.conf", "pem"):
            run("rm", "-rf", f"{ring}/{name}")  # of gpg: files and directories
    check(all(started(image, mode) for mode in MODES), "without it")


def sealed_image():
    """Sealed and signed by a key of the site."""
    out = f"{HOME}/sealed.sif"
    if not os.path.exists(out):
        shutil.copy(IMAGES["none"], out)
        own(out)
        postern("sign", "-k", str(list(FINGERPRINTS).index("alice")), out, ok=0)
    return out


@test
def each_start_is_decided_once():
    """one start is one line of the audit: plain, signed and sealed images, under each kernel-mount.squashfs"""
    images = {"plain": IMAGES["none"], "signed": IMAGES["one"], "sealed": sealed_image()}
    with W.syslog() as journal:
        seen = 0
        for kernel in ("trusted", "limited", "never", "any"):
            for name, image in images.items():
                if name == "sealed" and kernel != "never":
                    continue  # without device-mapper the helper is asked again, for a server in user space
                W.configure(site=worlds.SITE.replace('squashfs = "any"', f'squashfs = "{kernel}"'))
                check(started(image, "suid"), f"{kernel}, {name}")
                lines = journal()
                check(len(lines) == seen + 1 and "decision=allow" in lines[-1], f"{kernel}, {name}: {lines[seen:]}")
                seen = len(lines)


@test
def starts_in_user_namespaces_are_logged_if_the_site_asks_for_it():
    """an entry for each start without the helper, marked as unproven, that no name can forge; none if it is not asked for"""
    site = worlds.SITE.replace("required = false", "required = false\nuser-namespaces = true")
    with W.syslog() as journal:
        W.configure()
        check(started(IMAGES["none"], "user namespace"), "it runs")
        check(journal() == [], f"not asked for, and logged: {journal()}")
        W.configure(site=site)
        odd = f"{HOME}/odd \n\x1b[31m\" uid=0 decision=allow.sif"
        shutil.copy(IMAGES["none"], odd)
        own(odd)
        check(started(odd, "user namespace"), "the plain start")
        configure("whitelist", ["alice"])
        W.configure(site=site, ecl=open(f"{CONFDIR}/ecl.toml").read())
        check(not started(IMAGES["none"], "user namespace"), "a list that says no")
        lines = journal()
    check(len(lines) == 2, f"two starts: {lines}")
    where = os.stat(odd)
    for words in ("authpriv.notice", " postern[", f"uid={worlds.T1} gid={worlds.T1} mode=user-namespace proven=no decision=start ",
                  f'user="{worlds.T1_NAME}"', f"inode={where.st_ino}", "odd \\x0a\\x1b[31m\\x22 uid=0 decision=allow.sif\""):
        check(words in lines[0], f"{words!r} in {lines[0]!r}")
    check("authpriv.warn" in lines[1] and "decision=refuse" in lines[1] and f'{IMAGES["none"]}"' in lines[1], lines[1])


# ---------------------------------------------------------------------------------------- profiles

PROFILE = 207  # protocol/refusal.h, by hand


def profiles(kernel="any"):
    """alice's images get an IPC namespace of their own and no overlay; what nobody vouches for is boxed in."""
    os.makedirs(f"{W.work}/open", exist_ok=True)
    configure("whitelist", ["alice"], kernel=kernel)
    with open(f"{CONFDIR}/ecl.toml", "a") as file:
        file.write(f'''[[profile]]
name = "of alice"
keyfp = ["{FINGERPRINTS['alice']}"]
require = ["ipc"]
deny = ["overlay"]
[[profile]]
name = "boxed in"
unsigned = true
require = ["pid", "net", "uts"]
deny = ["overlay", "devices", "home", "capabilities"]
binds = ["{W.work}/open"]
''')


def own_namespaces(image, *options):
    """The kinds of namespace in which a container of the image is alone."""
    kinds = ("pid", "ipc", "uts", "net")
    done = postern("exec", *options, image, "sh", "-c", "for n in pid ipc uts net; do busybox readlink /proc/self/ns/$n; done")
    check(done.returncode == 0, say(done))
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    return {kind for kind, inside, outside in zip(kinds, done.stdout.split(), ours) if inside != outside}


@test
def profiles_give_an_image_what_its_signer_may_have():
    """a profile adds namespaces and takes away the rest, by signer, in both modes and whoever mounts the image"""
    bind = ("--bind", f"{W.work}/open:/tmp")
    for kernel in ("any", "never"):
        profiles(kernel)
        for mode, options in MODES.items():
            if kernel == "any" or mode != "suid":
                check(own_namespaces(IMAGES["one"], *options) == {"ipc"}, f"{kernel}, {mode}: signed")
                check(postern("exec", *options, "--no-home", *bind, IMAGES["one"], "echo", "x").returncode == 0, "signed, a bind")
            # Where no kernel mounts it, nobody can prove what a server serves: then alice's image is boxed in as well.
            for name in ("none", "wrong", "one") if kernel == "never" and mode == "suid" else ("none", "wrong"):
                image = IMAGES[name]
                check(own_namespaces(image, *options) == {"pid", "net", "uts"}, f"{kernel}, {mode}, {name}")
                check(postern("exec", *options, *bind, image, "echo", "x").returncode == 0, f"{mode}: a bind that is listed")
                for denied in (("--bind", f"{W.work}:/tmp"), ("--writable-tmpfs",)):
                    done = postern("exec", *options, *denied, image, "echo", "x")
                    check(done.returncode == 255 and done.stdout == "" and "FATAL" in done.stderr, f"{mode}, {denied}: {say(done)}")
            check(postern("exec", *options, "--writable-tmpfs", IMAGES["one"], "echo", "x").returncode == 255, f"{mode}: an overlay")
    done = postern("ecl", "check", "--explain", IMAGES["none"])
    check(done.returncode == 0 and "profile:    boxed in" in done.stdout and "requires pid,uts,net" in done.stdout, say(done))
    check("profile:    of alice" in postern("ecl", "check", "--explain", IMAGES["one"]).stdout, "the signer's profile")
    # Without the profile for them, they are refused as before.
    configure("whitelist", ["alice"])
    check(not any(started(IMAGES["none"], mode) for mode in MODES), "unsigned, without a profile")


@test
def a_front_end_that_lies_gets_no_more_than_its_profile():
    """the judge refuses what a profile denies, whatever the client asks for"""
    def path_fd(path):
        return os.open(path, os.O_PATH | os.O_CLOEXEC)

    def ask(image, change=lambda r: None, **fields):
        def attack():
            r = liar.Request(os.open(image, os.O_RDONLY), liar.IMAGE, **fields)
            r.mount(liar.PROC, "/proc", flags=liar.IS_DIRECTORY)
            change(r)
            r.init = r.add(path_fd(BUSYBOX))
            r.record = r.add(liar.memfd(b""))
            s = liar.Start(W.helper)
            s.ask(r)
            reply, _, _ = s.end()
            return reply.refusal
        return W.as_user(attack)

    profiles()
    boxed = liar.PID | liar.NET | liar.UTS
    check(ask(IMAGES["one"], namespaces=liar.IPC) == 0, "the signer's profile, kept to")
    check(ask(IMAGES["one"], namespaces=boxed) == PROFILE, "a namespace is missing")
    check(ask(IMAGES["one"], namespaces=liar.IPC, scratch=liar.WRITABLE) == PROFILE, "an overlay")
    image = IMAGES["none"]
    check(ask(image, namespaces=boxed) == 0, "boxed in, kept to")
    check(ask(image) == PROFILE and ask(image, namespaces=boxed & ~liar.NET) == PROFILE, "namespaces are missing")
    for what, change in {
        "the host's /dev": lambda r: r.mount(liar.DEV_HOST, "/dev", flags=liar.IS_DIRECTORY),
        "a device under the name of another": lambda r: r.mount(liar.DEVICE, "/dev/null", r.add(path_fd("/dev/fuse"))),
        "a directory that is not listed": lambda r: r.mount(liar.BIND, "/tmp", r.add(path_fd(W.work)), liar.IS_DIRECTORY),
        "the home directory": lambda r: r.mount(liar.BIND, HOME, r.add(path_fd(HOME)), liar.IS_DIRECTORY),
    }.items():
        check(ask(image, change, namespaces=boxed) == PROFILE, what)
    listed = f"{W.work}/open"
    check(ask(image, lambda r: r.mount(liar.BIND, "/tmp", r.add(path_fd(listed)), liar.IS_DIRECTORY), namespaces=boxed) == 0,
          "a directory that is listed")
    check(ask(image, lambda r: r.mount(liar.TMPFS, "/dev", flags=liar.IS_DIRECTORY) or
              r.mount(liar.DEVICE, "/dev/null", r.add(path_fd("/dev/null"))), namespaces=boxed) == 0, "the devices of a minimal /dev")


def route_table():
    """(rules, image, kernel-mount.squashfs) -> how it runs, and how without device-mapper: as postern-security(7) says."""
    page = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../man/postern-security.7.scd")
    with open(page) as file:
        text = file.read()
    cells = [line[3:] for line in text[text.index('[[ *Rules*'):].split("\n\n")[0].splitlines()]
    rows = [cells[at:at + 6] for at in range(6, len(cells), 6)]
    kernels = [cell.strip('*"') for cell in cells[2:6]]
    table = {}
    for rules, kind, *words in rows:
        for kernel, word in zip(kernels, words):
            word, _, without = word.partition(" (")
            table[rules, kind, kernel] = (word, without.rstrip(")") or word)
    return table


def route_taken(image):
    """How an image runs: from a loop device that the kernel mounts, from a server in user space, or not at all."""
    wait_until(lambda: not W.loops() and not W.processes(), lambda: f"of the start before: {W.loops()} {W.processes()}")
    process = subprocess.Popen([BINARY, "exec", image, "sh", "-c", "echo runs; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=HOME, user=worlds.T1, group=worlds.T1, extra_groups=worlds.T1_GROUPS,
                               env={"PATH": "/usr/bin:/bin", "HOME": HOME, "USER": worlds.T1_NAME, "LANG": "C"})
    runs = process.stdout.readline() == "runs\n"
    loops, served = bool(W.loops()), any("postern-squashf" in name for _, name in W.processes())
    out, err = process.communicate("end\n", timeout=120)
    if not runs:
        check(process.returncode == 255 and out == "" and "FATAL" in err, err)
        return "refused"
    check(process.returncode == 0 and loops != served, f"loop device: {loops}, server: {served}, {err}")
    check(W.settle() == [], f"left: {W.processes()}")
    return "kernel" if loops else "user space"


@test
def images_run_as_the_table_of_the_manual_says():
    """each row of postern-security(7), HOW AN IMAGE RUNS, by a real start

    With device-mapper, which is in the slow guest of tests/vm: the cells that say something else without it."""
    of_root = {}
    for name in ("none", "one"):
        of_root[name] = f"{W.work}/table-{name}.sif"
        shutil.copy(IMAGES[name], of_root[name])
        own(of_root[name], 0, 0o644)
    images = {"unsigned, of the user's": IMAGES["none"], "unsigned, of root's alone": of_root["none"], 'signed ("hash")': IMAGES["one"],
              'signed, of root\'s alone ("unwritable")': of_root["one"], 'signed and sealed ("sealed")': sealed_image()}
    with open("/proc/misc") as file:
        device_mapper = "device-mapper" in file.read()
    table = route_table()
    check(len(table) == 4 * len(images) * 4, f"{len(table)} cells")
    wrong = []
    cells = {cell: words for cell, words in table.items() if not device_mapper or words[0] != words[1]}
    check(len(cells) >= 4, f"only {cells} depend on device-mapper")
    for (rules, kind, kernel), words in cells.items():
        configure("whitelist", ["alice"])
        site = worlds.SITE.replace('squashfs = "any"', f'squashfs = "{kernel}"')
        if rules in ("a limit that it meets", "both"):
            site += f'[limit]\npaths = ["{W.work}"]\n'
        with open(f"{CONFDIR}/ecl.toml") as file:
            ecl = file.read()
        if rules not in ("a list that admits its signer", "both"):
            ecl = "activated = false\n"
        W.configure(site=site, ecl=ecl)
        taken = route_taken(images[kind])
        if taken != words[not device_mapper]:
            wrong.append(f"{rules}, {kind}, {kernel}: {taken}, not {words[not device_mapper]}")
    check(not wrong, "\n".join(wrong))


@test
def a_start_that_leaves_setuid_mode_says_so_once():
    """-f, -o DIR, no_new_privs: one line names the reason; the site's settings that are gone stop setuid mode with a cure"""
    W.configure()
    image = IMAGES["none"]
    os.makedirs(f"{HOME}/writable/upper", exist_ok=True)
    own(f"{HOME}/writable", mode=0o755)
    own(f"{HOME}/writable/upper", mode=0o755)
    privileges = ["setpriv", "--no-new-privs", f"--reuid={worlds.T1}", f"--regid={worlds.T1}", "--clear-groups"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": HOME, "USER": worlds.T1_NAME}
    reasons = {"--fakeroot needs": postern("exec", "--fakeroot", image, "echo", "x"),
               "writable overlay directory needs": postern("exec", "--overlay", f"{HOME}/writable", image, "echo", "x"),
               "no_new_privs is set": subprocess.run([*privileges, BINARY, "exec", image, "echo", "x"], stdin=subprocess.DEVNULL,
                                                     capture_output=True, text=True, timeout=120, cwd=HOME, env=environment)}
    for reason, done in reasons.items():
        said = [line for line in done.stderr.splitlines() if "user-namespace mode, not setuid mode" in line]
        check(done.returncode == 0 and done.stdout == "x\n" and len(said) == 1 and reason in said[0], f"{reason}: {say(done)}")
    done = postern("exec", image, "echo", "x", ok=0)
    check("setuid mode" not in done.stderr, say(done))
    path = f"{CONFDIR}/postern.toml"
    os.rename(path, path + ".gone")
    try:
        done = postern("exec", image, "echo", "x", ok=255)
        check(path in done.stderr and "--userns" in done.stderr and done.stdout == "", say(done))
        done = postern("exec", "--userns", image, "echo", "x", ok=0)
        os.mkdir(path)
        check(postern("exec", image, "echo", "x").returncode == 255, "a directory in the place of the settings")
        os.rmdir(path)
        with open(path, "w") as file:
            file.write(worlds.SITE)
        os.chmod(path, 0)
        done = postern("exec", image, "echo", "x")
        check(done.returncode == 255 and path in done.stderr and done.stdout == "", say(done))
        os.unlink(path)
    finally:
        os.rename(path + ".gone", path)
    check(started(image, "suid"), "with its settings again")


@test
def a_device_of_a_specification_is_bound_by_the_sites_rules():
    """--device: node and mount as in user-namespace mode; where the site allows no binds of users, the node alone"""
    specifications = f"{HOME}/cdi"
    os.makedirs(specifications)
    with open(f"{specifications}/test.json", "w") as file:
        file.write('{"cdiVersion": "0.6.0", "kind": "postern.test/gpu", "devices": [{"name": "0", "containerEdits": {'
                   '"env": ["FROM=cdi"], "deviceNodes": [{"path": "/dev/test0", "hostPath": "/dev/zero"}], '
                   '"mounts": [{"hostPath": "/etc/hostname", "containerPath": "/opt/name", "options": ["ro"]}]}}]}')
    command = ("exec", "--contain", "--cdi-dirs", specifications, "--device", "postern.test/gpu=0", IMAGES["none"], "sh", "-c",
               "test -c /dev/test0 && echo $FROM; test -e /opt/name && echo mounted")
    for site, output in ((worlds.SITE, "cdi\nmounted\n"), (worlds.SITE.replace("[allow]", "[allow]\nuser-binds = false"), "cdi\n")):
        W.configure(site=site)
        done = postern(*command)
        check(done.stdout == output and "user-namespace mode" not in done.stderr, say(done))
        check(("allow.user-binds" in done.stderr) == (output == "cdi\n"), say(done))
    W.configure()


@test
def what_is_too_large_to_hash_at_each_start_is_refused_before_any_work():
    """signed, not sealed, 2 GiB and more: refused with the cure, and both cures cure"""
    configure("whitelist", ["alice"])
    large, size = f"{HOME}/large.sif", (2 << 30) + (1 << 20)
    shutil.copy(IMAGES["none"], large)
    own(large)
    with open(large, "r+b") as file:  # zeros behind the file system, which belong to the partition
        file.truncate(PARTITION + size)
        file.seek(120)
        file.write(struct.pack("<q", size))  # of all data
        file.seek(4096 + 25)
        file.write(struct.pack("<qq", size, size))
    number = str(list(FINGERPRINTS).index("alice"))
    postern("sign", "--no-seal", "-k", number, large, ok=0)
    done = postern("exec", large, "echo", "x", ok=255)
    check("more than 2 GiB" in done.stderr and "postern sign" in done.stderr and "--userns" in done.stderr, say(done))
    check(started(large, "user namespace"), "--userns")
    postern("sif", "del", "2", large, ok=0)
    postern("sign", "-k", number, large, ok=0)
    done = postern("exec", large, "echo", "x")  # a kernel without device-mapper says so, after the admission
    check(done.returncode == 0 or "with device-mapper: No such device" in done.stderr, say(done))
    check("bytes:      sealed" in postern("ecl", "check", "--explain", large, ok=0).stdout, "what was admitted")
    os.unlink(large)


@test
def the_list_says_what_setuid_mode_does_with_what_it_admits():
    """ecl check: binding "hash" under "trusted" is admitted by the list and refused by the kernel's rule, and it says so"""
    image = IMAGES["one"]
    for kernel, words, runs in (("trusted", "refuses it all the same", False), ("limited", "the kernel mounts it", True),
                                ("any", "the kernel mounts it", True), ("never", "refuses it all the same", False)):
        configure("whitelist", ["alice"], binding="hash", kernel=kernel)
        done = postern("ecl", "check", image, ok=0)
        check(done.stdout.startswith("allow: ") and f"setuid mode: {words}" in done.stdout, f"{kernel}: {say(done)}")
        check(started(image, "suid") == runs, kernel)


@test
def a_file_that_changes_at_every_read_runs_as_it_was_signed_or_not_at_all():
    """inotify tells the owner of each read, and he flips the file between the signed image and his own; both modes"""
    target = f"{HOME}/flipping.sif"
    shutil.copy(IMAGES["none"], target)
    own(target)
    postern("sign", "-k", str(list(FINGERPRINTS).index("alice")), target, ok=0)
    with open(target, "rb") as file:
        good = file.read()
    forged = f"{HOME}/forged.sif"
    root = f"{W.work}/tree"
    with open(f"{root}/marker", "rb") as file:
        marker = file.read()
    with open(f"{root}/marker", "wb") as file:
        file.write(b"smuggled\n" + os.urandom(300000))
    with open(W.squashfs("flipped.sqfs", root), "rb") as file:
        W.sif(forged, file.read())
    with open(f"{root}/marker", "wb") as file:
        file.write(marker)
    own(forged)
    postern("seal", forged, ok=0)
    with open(forged, "rb") as file:
        evil = file.read()
    # The same layout, but for what differs: the attacker's data, tree and seal under the signature of the other.
    check(abs(len(evil) - len(good)) < 100000, f"{len(evil)} and {len(good)}")
    evil = evil[:len(good)].ljust(len(good), b"\0")
    table = struct.unpack_from("<q", good, 96)[0]
    for slot in range(4):
        begin = table + 585 * slot
        if good[begin + 4] and struct.unpack_from("<i", good, begin)[0] == 0x4005:
            offset, size = struct.unpack_from("<qq", good, begin + 17)
            evil = evil[:begin] + good[begin:begin + 585] + evil[begin + 585:]
            evil = evil[:offset] + good[offset:offset + size] + evil[offset + size:]
    own(target)
    libc = liar.LIBC
    seen = {mode: set() for mode in MODES}
    for binding, kernel in (("sealed", "trusted"), ("sealed", "any")):
        configure("whitelist", ["alice"], binding=binding, kernel=kernel)
        with open(target, "r+b") as file:
            file.write(good)
        for mode in MODES:
            check(started(target, mode) or mode == "suid", f"{binding}, {kernel}, {mode}: the twin that does not change")
        flipper = os.fork()
        if flipper == 0:
            try:
                os.setgid(worlds.T1)
                os.setuid(worlds.T1)
                watch = libc.inotify_init()
                libc.inotify_add_watch(watch, target.encode(), 1)  # IN_ACCESS
                out = os.open(target, os.O_RDWR)
                for turn in range(10 ** 9):
                    os.read(watch, 65536)
                    os.pwrite(out, (evil, good)[turn % 2], 0)
            finally:
                os._exit(0)
        try:
            rounds = 0
            while rounds < 15 or (not all("" in outputs for outputs in seen.values()) and rounds < 150):
                rounds += 1
                for mode, options in MODES.items():
                    done = postern("exec", *options, target, "sh", "-c", "read line </marker; echo $line")
                    seen[mode].add(done.stdout)
                    check("smuggled" not in done.stdout, f"{binding}, {kernel}, {mode}: {say(done)}")
        finally:
            os.kill(flipper, signal.SIGKILL)
            os.waitpid(flipper, 0)
    check("" in seen["suid"] and "" in seen["user namespace"], f"the flips were met: {seen}")


@test
def an_overlay_of_the_users_over_fuse_is_neither_unwritable_nor_for_the_kernel():
    """a file of root's that an overlay over the user's FUSE server shows: refused, in suid mode, under every rule"""
    place, upper = f"{W.work}/fuse", f"{W.work}/over"
    os.mkdir(place)
    os.mkdir(upper)
    os.chown(upper, worlds.T1, worlds.T1)
    with open(IMAGES["one"], "rb") as file:
        content = file.read()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    server = os.fork()
    if server == 0:
        try:
            fuse_server.serve(device, 0, content)
        finally:
            os._exit(0)
    options = f"fd={device},rootmode=40000,user_id={worlds.T1},group_id={worlds.T1}"
    check(liar.LIBC.mount(b"none", place.encode(), b"fuse", 6, options.encode()) == 0, "mounting, as fusermount3 does")

    def attack():
        os.stat(place)
        inside, outside = os.pipe(), os.pipe()
        liar.LIBC.prctl(4, 1, 0, 0, 0)  # dumpable again, so that the maps are ours to write
        holder = os.fork()
        if holder == 0:
            try:
                check(liar.LIBC.unshare(0x10020000) == 0, "user namespaces are forbidden here")
                for name, text in (("setgroups", "deny"), ("uid_map", f"0 {worlds.T1} 1"), ("gid_map", f"0 {worlds.T1} 1")):
                    with open(f"/proc/self/{name}", "w") as file:
                        file.write(text)
                check(liar.LIBC.mount(b"t", upper.encode(), b"tmpfs", 0, None) == 0, "tmpfs")
                for name in ("lower", "merged"):
                    os.mkdir(f"{upper}/{name}")
                check(liar.LIBC.mount(b"o", f"{upper}/merged".encode(), b"overlay", 0,
                                      f"lowerdir={place}:{upper}/lower".encode()) == 0, "overlay")
                image = os.open(f"{upper}/merged/image", os.O_RDONLY)
                os.dup2(image, 100)
                os.write(inside[1], b"r")
                os.read(outside[0], 1)
            except BaseException as error:
                os.write(inside[1], f"{error!r}".encode())
            finally:
                os._exit(0)
        answer = os.read(inside[0], 200)
        image = os.open(f"/proc/{holder}/fd/100", os.O_RDONLY) if answer == b"r" else -1
        status = os.fstat(image) if image >= 0 else None
        done = subprocess.run([BINARY, "exec", f"/proc/{holder}/fd/100", "echo", "ran"], capture_output=True, text=True, cwd=HOME,
                              stdin=subprocess.DEVNULL, env={"PATH": "/bin", "HOME": HOME}, timeout=60)
        facts = [answer.decode(), status and status.st_uid, status and status.st_mode & 0o777, os.pread(image, 100, 0).hex() if status else ""]
        os.write(outside[1], b"x")
        os.waitpid(holder, 0)
        return [*facts, done.returncode, done.stdout, done.stderr]
    try:
        for binding, kernel in (("unwritable", "trusted"), ("hash", "any"), ("hash", "trusted")):
            configure("whitelist", ["alice"], binding=binding, kernel=kernel)
            answer, uid, mode, head, status, out, err = W.as_user(attack)
            if answer != "r":
                print(f"# no overlay over FUSE here: {answer}")
                return
            check(uid == 0 and mode == 0o644 and head == content[:100].hex(), f"it looks like root's file: {uid} {mode:o}")
            check(status == 255 and out == "" and "FATAL" in err, f"{binding}, {kernel}: exit {status} {out!r} {err!r}")
    finally:
        run("umount", "-l", place)
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def owner_of(path):
    try:
        return os.lstat(path).st_uid
    except FileNotFoundError:  # of another program, which comes and goes
        return None


@test
def keys_that_have_ended_admit_nothing_and_the_judge_leaves_nothing():
    """revoked and expired OpenPGP keys; the keyring directory is root's, read-only, and the same afterwards"""
    home = f"{HOME}/.postern/keys"
    image = {"revoked": f"{HOME}/revoked.sif", "expired": f"{HOME}/expired.sif"}
    for name in image:
        done = postern("key", "newpair", "-N", name, "-E", f"{name}@example.org", "-C", "", "-P", "", "-b", "2048", ok=0)
        FINGERPRINTS[name] = next(line.split()[-1] for line in done.stderr.splitlines() if "fingerprint" in line)
        shutil.copy(IMAGES["none"], image[name])
        own(image[name])
        postern("sign", "--no-seal", "-k", str(list(FINGERPRINTS).index(name)), image[name], ok=0)
        site_imports(gpg(home, "--export", FINGERPRINTS[name]))
    configure("whitelist", ["revoked", "expired"])
    for name, path in image.items():
        check(all(started(path, mode) for mode in MODES), f"{name}: not yet")
    gpg(home, "--pinentry-mode", "loopback", "--passphrase", "", "--quick-set-expire", FINGERPRINTS["expired"], "seconds=1")
    with open(f"{home}/openpgp-revocs.d/{FINGERPRINTS['revoked']}.rev") as file:
        gpg(home, "--import", data=file.read().replace(":-----BEGIN", "-----BEGIN").encode())

    def has_expired():
        """In the words of GnuPG's doc/DETAILS: field 2 of "pub"."""
        keys = [line.split(":") for line in gpg(home, "--with-colons", "--list-keys", FINGERPRINTS["expired"]).decode().splitlines()]
        return all(key[1] == "e" for key in keys if key[0] == "pub")
    wait_until(has_expired, "the key does not expire")
    for name in image:
        site_imports(gpg(home, "--export", FINGERPRINTS[name]))
    run("gpgconf", "--homedir", home, "--kill", "all", user=worlds.T1, group=worlds.T1)
    ring = f"{CONFDIR}/keyring"
    before = {name: os.stat(f"{ring}/{name}") for name in os.listdir(ring)}
    run("mount", "--bind", ring, ring)
    run("mount", "-o", "remount,bind,ro", ring)
    try:
        for name, path in image.items():
            for mode in MODES:
                check(not started(path, mode), f"{name}, {mode}")
            check(name in postern("ecl", "check", "--explain", path, ok=255).stdout, name)
        configure("whitelist", ["alice"])
        check(all(started(IMAGES["one"], mode) for mode in MODES), "a key that holds, from a read-only directory")
    finally:
        run("umount", ring)
    after = {name: os.stat(f"{ring}/{name}") for name in os.listdir(ring)}
    check({n: (s.st_mtime_ns, s.st_size) for n, s in before.items()} == {n: (s.st_mtime_ns, s.st_size) for n, s in after.items()},
          f"the keyring changed: {sorted(after)}")
    for directory in (f"{LIBEXEC}/judge.d", "/tmp", "/var/tmp", "/dev/shm", "/run"):
        found = [name for name in os.listdir(directory) if owner_of(f"{directory}/{name}") == worlds.JUDGE]
        check(found == [], f"the judge left {found} in {directory}")


def signature_objects(target, objects, source=None):
    """`source` with more objects of type signature, each (link, data, fingerprint); written field by field."""
    with open(source or IMAGES["none"], "rb") as file:
        image = bytearray(file.read())
    total, table = struct.unpack_from("<qq", image, 88)
    if len(objects) + 2 > total:  # a larger table, behind everything
        old, total, table = bytes(image[table:table + 585 * total]), len(objects) + 8, len(image)
        image += old.ljust(585 * total, b"\0")
        struct.pack_into("<qqqq", image, 80, 0, total, table, 585 * total)
    free = next(slot for slot in range(total) if not image[table + 585 * slot + 4])
    placed = {}
    for index, (link, data, fingerprint) in enumerate(objects):
        if data not in placed:
            placed[data] = len(image)
            image += data
        struct.pack_into("<iBIIIqqqqqqq128s384s", image, table + 585 * (free + index), 0x4005, 1, free + index + 1, 0xF0000000, link,
                         placed[data], len(data), len(data), 0, 0, 0, 0, b"", struct.pack("<i", 1) + bytes.fromhex(fingerprint))
    with open(target, "wb") as file:
        file.write(image)
    own(target)
    return target


def processor_time():
    """What all that ended below this process has taken of processors: no stall of the machine is in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@test
def hostile_signatures_are_refused_in_words_and_in_time():
    """JSON bombs, rubbish, thousands of signatures, self-linked and nested ones, a foreign one: refused by judge and front end"""
    configure("whitelist", ["alice"])
    with open(IMAGES["one"], "rb") as file:
        signed = file.read()
    begin = signed.find(b"-----BEGIN PGP SIGNED MESSAGE")
    good = signed[begin:signed.find(b"-----END PGP SIGNATURE-----", begin) + 28]
    check(len(good) > 500, "a signature to start from")
    ours, group = FINGERPRINTS["alice"], 0xF0000001
    dsse = b'{"payloadType":"application/vnd.sylabs.sif-metadata+json","payload":"%s","signatures":[%s]}'
    twice = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + b"\n".join([good] * 2)
    kinds = {"deep": [(group, b"[" * 1000000, ours)], "wide": [(group, b"[" + b"0," * 2000000 + b"0]", ours)],
             "deep envelope": [(group, dsse % (b"e30=", b"[" * 500000 + b"]" * 500000), ours)],
             "wide envelope": [(group, dsse % (b"e30=", b",".join([b'{"keyid":"","sig":"AA=="}'] * 100000)), ours)],
             "repeated member": [(group, b'{"payload":"e30=",' + (dsse % (b"e30=", b""))[1:], ours)],
             "rubbish": [(group, os.urandom(1 << 20), ours)], "empty": [(group, b"", ours)], "nested": [(group, twice, ours)],
             "cut": [(group, good[:len(good) // 2], ours)], "thousands": [(group, good, ours)] * 3000,
             "linked to itself": [(2, good, ours)], "linked to a group that is none": [(0xF0000007, good, ours)],
             "another's fingerprint": [(group, good, FINGERPRINTS["bob"])], "of another image": [(group, good, ours)]}
    for name, objects in kinds.items():
        target = f"{HOME}/hostile.sif"
        signature_objects(target, objects)
        if name == "of another image":
            flip(target, 40)  # the header's architecture or identity is signed
        for mode in MODES:
            before = processor_time()
            check(not started(target, mode), f"{name}, {mode}")
            check(processor_time() - before < 20, f"{name}, {mode}: {processor_time() - before:.1f} s of a processor")
    check(all(started(signature_objects(f"{HOME}/twin.sif", [(group, good, ours)]), mode) for mode in MODES), "the twin that is well-formed")


@test
def certificates_and_pem_keys_of_the_site_admit():
    """X.509 with a root and an intermediate, and a PEM key, by SHA-256: admitted in both modes; another key's is not"""
    place, ring = f"{W.work}/x509", f"{CONFDIR}/keyring"
    os.mkdir(place)

    def openssl(*words):
        return run("openssl", *words, cwd=place).stdout
    for name in ("root", "middle", "leaf", "plain", "other"):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
    openssl("req", "-x509", "-key", "root.key", "-out", "root.crt", "-subj", "/CN=root", "-days", "9")
    for name, issuer, extensions in (("middle", "root", "basicConstraints=critical,CA:true\nkeyUsage=keyCertSign\n"),
                                     ("leaf", "middle", "extendedKeyUsage=codeSigning\nkeyUsage=digitalSignature\n")):
        with open(f"{place}/extensions", "w") as file:
            file.write(extensions)
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", "request")
        openssl("x509", "-req", "-in", "request", "-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial", "-days", "9",
                "-out", f"{name}.crt", "-extfile", "extensions")
    openssl("pkey", "-in", "plain.key", "-pubout", "-out", "plain.pub")
    os.makedirs(f"{ring}/pem", exist_ok=True)
    for source, target in (("root.crt", "roots.pem"), ("middle.crt", "intermediates.pem"), ("leaf.crt", "pem/leaf.pem"), ("plain.pub", "pem/plain.pem")):
        shutil.copyfile(f"{place}/{source}", f"{ring}/{target}")
    images = {}
    for name in ("leaf", "plain", "other"):
        images[name] = f"{HOME}/x509-{name}.sif"
        shutil.copy(IMAGES["none"], images[name])
        own(images[name])
        shutil.copy(f"{place}/{name}.key", f"{HOME}/{name}.key")
        own(f"{HOME}/{name}.key", mode=0o600)
        postern("sign", "--no-seal", "--key", f"{HOME}/{name}.key", images[name], ok=0)
    certificate = openssl("x509", "-in", "leaf.crt", "-noout", "-fingerprint", "-sha256").strip().split("=")[1]
    key = hashlib.sha256(subprocess.run(["openssl", "pkey", "-pubin", "-in", f"{place}/plain.pub", "-pubout", "-outform", "DER"], check=True,
                                        capture_output=True).stdout).hexdigest()
    try:
        for signer, identity in (("leaf", certificate), ("plain", key)):
            configure("whitelist", ["alice"])
            with open(f"{CONFDIR}/ecl.toml", "a") as file:
                file.write(f'keysha256 = ["{identity}"]\n')
            for name, path in images.items():
                for mode in MODES:
                    check(started(path, mode) == (name == signer), f"{name}'s under a list of {signer}, {mode}")
        # A certificate that has ended shuts out its own signer and nobody else.
        openssl("x509", "-req", "-in", "request", "-CA", "middle.crt", "-CAkey", "middle.key", "-days", "-1", "-out", "ended.crt", "-extfile", "extensions")
        shutil.copyfile(f"{place}/ended.crt", f"{ring}/pem/leaf.pem")
        for mode in MODES:
            check(started(images["plain"], mode) and not started(images["leaf"], mode), f"an ended certificate, {mode}")
        check("pem/leaf.pem is out of date" in postern("ecl", "check", "--explain", images["plain"], ok=0).stdout, "explained")
        shutil.copyfile(f"{place}/leaf.crt", f"{ring}/pem/leaf.pem")
        os.remove(f"{ring}/intermediates.pem")  # the chain has a gap: the keyring is wrong, and nothing is admitted
        check(not started(images["plain"], "suid"), "a certificate of nobody's")
    finally:
        for name in ("roots.pem", "pem/leaf.pem", "pem/plain.pem"):
            os.remove(f"{ring}/{name}")


@test
def explain_says_what_the_judge_did():
    """ecl check --as-user --explain: decision, rule, file and line, signers, binding; and whether that user may read it"""
    place = f"{W.work}/images"
    os.makedirs(place, exist_ok=True)
    image = f"{place}/explained.sif"
    shutil.copy(IMAGES["two"], image)
    own(image, 0, 0o644)
    configure("whitestrict", ["alice", "bob"], place, binding="unwritable", kernel="trusted")
    done = postern("ecl", "check", "--as-user", worlds.T1_NAME, "--explain", image, user=False, ok=0)
    for words in (f"list:       {CONFDIR}/ecl.toml, activated", f"directory:  {place}", f"rule:       {CONFDIR}/ecl.toml:2 (whitestrict)",
                  "alice <alice@example.org>", "bob <bob@example.org>", FINGERPRINTS["alice"].lower(), FINGERPRINTS["bob"].lower(),
                  "the file belongs to root and nobody else may write it", "may mount these bytes", "allow: ", "signed by every listed key"):
        check(words in done.stdout, f"{words!r} is not in {say(done)}")
    check(started(image, "suid"), "and the judge agrees")
    own(image)
    done = postern("ecl", "check", "--as-user", worlds.T1_NAME, "--explain", image, user=False, ok=255)
    check("whoever may write the file can change it afterwards" in done.stdout and 'refuse: ' in done.stdout, say(done))
    check(not started(image, "suid"), "and the judge agrees")
    os.chmod(image, 0o600)
    os.chown(image, worlds.T2, worlds.T2)
    done = postern("ecl", "check", "--as-user", worlds.T1_NAME, image, user=False, ok=255)
    check("Permission denied" in done.stderr, say(done))
    done = postern("ecl", "check", "--as-user", "nobody-of-this-name", image, user=False, ok=255)
    check("there is no user" in done.stderr, say(done))


@test
def a_capability_without_a_grant_is_left_out_with_a_warning():
    """--add-caps: the payload has what the site grants, and a warning names what it does not"""
    configure("whitelist", ["alice"])
    grants = f"{W.confdir}/capability.toml"
    with open(grants, "w") as file:
        file.write(f'[users]\n{worlds.T1_NAME} = ["CAP_NET_RAW"]\n')
    os.chmod(grants, 0o644)
    grantable = f"{W.confdir}/grantable"  # root's word that this node lets it be granted at all
    os.makedirs(grantable, exist_ok=True)
    open(f"{grantable}/13", "w").close()
    try:
        # linux/capability.h: CAP_NET_RAW is 13, CAP_SYS_ADMIN 21.
        for wanted, effective, missing in (("CAP_NET_RAW", 1 << 13, ""), ("net_raw,sys_admin", 1 << 13, "CAP_SYS_ADMIN"), ("CAP_SYS_ADMIN", 0, "CAP_SYS_ADMIN")):
            done = postern("exec", "--add-caps", wanted, IMAGES["one"], "cat", "/proc/self/status")
            check(done.returncode == 0 and f"CapEff:\t{effective:016x}\n" in done.stdout, f"{wanted}: {say(done)}")
            check(done.stderr.count("WARNING") == (1 if missing else 0) and missing in done.stderr, f"{wanted}: {say(done)}")
    finally:
        os.unlink(grants)
        shutil.rmtree(grantable)


@test
def what_no_namespace_divides_is_taken_from_a_contained_payload():
    """--contain: every mount at and below /sys is read-only, and a filter of system calls is on; in both modes"""
    configure("whitelist", ["alice"])
    for options, writable, filters in (((), True, 0), (("--contain",), False, 1), (("--containall",), False, 1)):
        for mode in MODES:
            done = postern("exec", *MODES[mode], *options, IMAGES["one"], "cat", "/proc/self/mountinfo", "/proc/self/status", ok=0)
            mounts = [line.split() for line in done.stdout.splitlines() if line.split()[4:5] and line.split()[4].startswith("/sys")]
            check(mounts and all(("rw" in one[5].split(",")) == writable for one in mounts), f"{mode}, {options}: {mounts}")
            check(f"Seccomp_filters:\t{filters}\n" in done.stdout, f"{mode}, {options}: {say(done)}")


@test
def the_site_can_forbid_user_namespaces():
    """allow.user-namespace = false: setuid mode runs, and what needs a user namespace is refused"""
    configure("whitelist", ["alice"])
    path = f"{W.confdir}/postern.toml"
    with open(path) as file:
        before = file.read()
    text = before.replace("user-namespace = true", "user-namespace = false")
    check(text != before, "the site's file sets it")
    with open(path, "w") as file:
        file.write(text)
    try:
        check(started(IMAGES["one"], "suid"), "setuid mode")
        for words in (("--userns",), ("--fakeroot",)):
            done = postern("exec", *words, IMAGES["one"], "true")
            check(done.returncode == 255 and "allow.user-namespace" in done.stderr, f"{words}: {say(done)}")
    finally:
        with open(path, "w") as file:
            file.write(before)


@test
def what_cannot_be_signed_is_refused_under_an_active_list():
    """directories, bare squashfs files, and overlays and binds of images that are not signed, over one that is"""
    configure("blacklist", [])
    check(not any(started(IMAGES["none"], mode) for mode in MODES), "unsigned")
    squash = f"{W.work}/root.sqfs"
    for mode in MODES:
        for root in (f"{W.work}/tree", squash):
            check(not started(root, mode), f"{root}, {mode}")
    configure("whitelist", ["alice"])
    upper = f"{HOME}/upper"
    os.mkdir(upper)
    os.chown(upper, worlds.T1, worlds.T1)
    for options in (("--overlay", squash), ("--overlay", IMAGES["none"] + ":ro"), ("--overlay", IMAGES["stranger"] + ":ro")):
        for mode, words in MODES.items():
            done = postern("exec", *words, *options, IMAGES["one"], "echo", "ran")
            check(done.returncode == 255 and done.stdout == "" and "FATAL" in done.stderr, f"{options}, {mode}: {say(done)}")


if __name__ == "__main__":
    sys.exit(W.run(TESTS, ONLY))
