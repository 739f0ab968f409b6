#!/usr/bin/env python3
"""Root works on and in what another user prepared: it executes and writes nothing that this user chose."""
import os
import shutil
import stat
import subprocess
import tarfile

import harness

harness.PARTS.update({f"libexec/postern/postern-{name}": f"frontend/{folder}/postern-{name}" for name, folder in (
    ("build", "imagebuild"), ("keys", "keys"), ("crypt", "crypt"), ("transfer", "transfer"), ("inspect", "inspect"))})
bench = harness.Bench()
ROOT = bench.rootfs()
VICTIM = os.path.join(bench.top, "of-root")  # what the user's links lead to
os.mkdir(VICTIM, 0o755)


def as_root(*arguments, ok=None, env=None, cwd=None, before=()):
    done = subprocess.run([*before, bench.postern, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          cwd=cwd or bench.top, env={"PATH": os.environ["PATH"], "HOME": "/root", **(env or {})})
    assert ok is None or (done.returncode == 0) == ok, f"{arguments}: exit {done.returncode}: {done.stdout}{done.stderr}"
    return done


def link(target, path):
    os.symlink(target, path)
    os.lchown(path, bench.user.uid, bench.user.gid)


def untouched():
    assert os.listdir(VICTIM) == [] and stat.S_IMODE(os.stat(VICTIM).st_mode) == 0o755, os.listdir(VICTIM)


def overlays(b):
    """links in another user's --overlay are not followed; a directory of root's own is written to"""
    theirs = b.make_directory("overlay")
    link(VICTIM, theirs + "/upper")
    done = as_root("exec", "--overlay", theirs, ROOT, "touch", "/written")
    assert "belongs to another user" in done.stderr, done.stderr
    untouched()
    own = os.path.join(b.top, "own-overlay")
    os.mkdir(own)
    os.symlink(VICTIM, own + "/upper")
    assert "link" in as_root("exec", "--overlay", own, ROOT, "touch", "/written", ok=False).stderr
    untouched()
    os.unlink(own + "/upper")
    as_root("exec", "--overlay", own, ROOT, "touch", "/written", ok=True)
    assert os.path.exists(own + "/upper/written")


def work_directories(b):
    """links in another user's --workdir are not followed, and nothing of theirs is used; root's own is"""
    theirs = b.make_directory("their-work")
    for name in ("tmp", "scratch"):
        link(VICTIM, f"{theirs}/{name}")
    for more in (["touch", "/tmp/written"], ["--scratch", "/s", "true"]):
        options = more[:2] if more[0] == "--scratch" else []
        done = as_root("exec", "--contain", "--workdir", theirs, *options, ROOT, *more[len(options):], ok=False)
        assert "is a link" in done.stderr or "belongs to another user" in done.stderr, done.stderr
        untouched()
    own = os.path.join(b.top, "own-work")
    os.mkdir(own)
    as_root("exec", "--contain", "--workdir", own, "--scratch", "/s", ROOT, "touch", "/tmp/written", "/s/too", ok=True)
    assert os.path.exists(own + "/tmp/written") and os.path.exists(own + "/scratch/s/too")


def key_directories(b):
    """another user's gpg.conf is not obeyed: --keysdir, KEYSDIR, HOME; a directory of root's own works"""
    home = b.make_directory("home")
    theirs = b.make_directory("home/.postern")
    theirs = b.make_directory("home/.postern/keys", mode=0o700)
    for name, text in (("gpg.conf", f"logger-file {VICTIM}/log\n"), ("pubring.gpg", "")):
        with open(f"{theirs}/{name}", "w") as file:
            file.write(text)
        os.chown(f"{theirs}/{name}", b.user.uid, b.user.gid)
    for arguments, env in ((["key", "list", "--keysdir", theirs], {}), (["key", "list"], {"POSTERN_KEYSDIR": theirs}), (["key", "list"], {"HOME": home})):
        done = as_root(*arguments, env=env)
        assert done.returncode != 0 and ("another user" in done.stderr or "users can exchange" in done.stderr), (arguments, done)
        untouched()
    as_root("key", "list", "--keysdir", os.path.join(b.top, "own-keys"), ok=True)


def temporary_directories(b):
    """TMPDIR in a user's directory is not used by `key import --global`, and is an error for a build with programs"""
    theirs = b.make_directory("their-tmp")
    site = os.path.join(b.top, "site")
    os.makedirs(site)
    open(site + "/postern.toml", "w").close()
    key = os.path.join(b.top, "key.pem")
    subprocess.run(["gpg", "--homedir", site, "--batch", "--passphrase", "", "--quick-generate-key", "t <t@example.org>", "rsa2048"], check=True,
                   capture_output=True)
    with open(key, "wb") as file:
        file.write(subprocess.run(["gpg", "--homedir", site, "--export"], check=True, capture_output=True).stdout)
    subprocess.run(["gpgconf", "--homedir", site, "--kill", "all"], capture_output=True)
    trace = os.path.join(b.top, "trace")
    as_root("--config", site + "/postern.toml", "key", "import", "--global", key, env={"TMPDIR": theirs}, ok=True,
            before=["strace", "-f", "-qq", "-e", "trace=mkdir,mkdirat", "-o", trace])
    with open(trace) as file:
        assert theirs not in file.read()
    with open(os.path.join(b.top, "x.def"), "w") as file:
        file.write(f"Bootstrap: localimage\nFrom: {ROOT}\n%post\n  true\n")
    said = as_root("build", "x.sif", "x.def", env={"TMPDIR": theirs}, ok=False).stderr
    assert "users can exchange" in said and os.listdir(theirs) == [], said
    as_root("build", "--sandbox", theirs + "/box", ROOT, ok=False)
    as_root("build", "x.sif", "x.def", ok=True)


def archives(b):
    """set-user-ID programs, devices and trusted attributes of an archive reach no sandbox, unless asked for"""
    archive = os.path.join(b.top, "foreign.tar")
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        program = tarfile.TarInfo("bin/root-shell")
        program.mode = 0o6755
        program.pax_headers = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.kept": "1"}
        tar.addfile(program)
        device = tarfile.TarInfo("dev/memory")
        device.type, device.mode, device.devmajor, device.devminor = tarfile.CHRTYPE, 0o666, 1, 1
        tar.addfile(device)
    said = as_root("build", "--sandbox", "box", archive, ok=True).stderr
    assert "1 set-user-ID or set-group-ID" in said and "1 device nodes" in said and "1 trusted or security attributes" in said, said
    box = os.path.join(b.top, "box")
    assert stat.S_IMODE(os.stat(box + "/bin/root-shell").st_mode) == 0o755 and not os.path.lexists(box + "/dev/memory")
    assert os.listxattr(box + "/bin/root-shell") == ["user.kept"]
    as_root("build", "--sandbox", "--keep-privileged", "kept", archive, ok=True)
    kept = os.path.join(b.top, "kept")
    assert stat.S_IMODE(os.stat(kept + "/bin/root-shell").st_mode) == 0o6755
    assert os.getxattr(kept + "/bin/root-shell", "trusted.overlay.opaque") == b"y"
    shutil.rmtree(kept)


def ids_of_root(b):
    """root's container runs as root, with every id, and without rights over the host's devices"""
    box = os.path.join(b.top, "ids")
    shutil.copytree(ROOT, box, symlinks=True)
    os.symlink("busybox", box + "/bin/chown")
    os.symlink("busybox", box + "/bin/mknod")
    done = as_root("exec", "--writable", box, "sh", "-c", "id -u; touch /f; chown 42:43 /f; stat -c %u:%g /f; mknod /node c 1 3 || echo refused", ok=True)
    assert done.stdout.split() == ["0", "42:43", "refused"], done
    assert (os.stat(box + "/f").st_uid, os.stat(box + "/f").st_gid) == (42, 43)


def links_to_what_is_written(b):
    """what root writes by name goes through no link of another user's; through root's own it does"""
    theirs = b.make_directory("outputs")
    image = os.path.join(b.top, "whole.sif")
    as_root("build", image, ROOT, ok=True)
    kept = os.path.join(b.top, "kept.sif")  # what a link to an image leads to
    shutil.copyfile(image, kept)
    precious = os.path.join(b.top, "precious")
    with open(precious, "w") as file:
        file.write("precious\n")
    link(VICTIM, theirs + "/folder")
    link(precious, theirs + "/file")
    link(VICTIM + "/made", theirs + "/new")
    link(kept, theirs + "/image.sif")
    keys = os.path.join(b.top, "signing-keys")
    as_root("key", "newpair", "--keysdir", keys, "--name", "n", "--email", "e@example.org", "--comment", "", "--password", "", "--push=false", ok=True)
    before = open(kept, "rb").read()
    for arguments in (["build", theirs + "/folder/x.sif", ROOT], ["overlay", "create", theirs + "/folder/x.img"], ["overlay", "create", theirs + "/image.sif"],
                      ["overlay", "create", theirs + "/new"], ["sif", "new", theirs + "/folder/x.sif"], ["sif", "setprim", "1", theirs + "/image.sif"],
                      ["sign", "--keysdir", keys, theirs + "/image.sif"], ["key", "export", "--keysdir", keys, theirs + "/folder/x.asc"],
                      ["instance", "start", "--pid-file", theirs + "/file", image, "of-root"], ["instance", "start", "--pid-file", theirs + "/new", image, "of-root"],
                      ["instance", "start", "--pid-file", theirs + "/folder/pid", image, "of-root"]):
        said = as_root(*arguments, ok=False).stderr
        assert said.count("\n") <= 3 and "terminate" not in said, (arguments, said)
        untouched()
        assert open(kept, "rb").read() == before and open(precious).read() == "precious\n", arguments
    # The last name is exchanged, not followed.
    as_root("build", "--force", theirs + "/file", ROOT, ok=True)
    assert open(precious).read() == "precious\n" and not os.path.islink(theirs + "/file")
    own = os.path.join(b.top, "own-link")
    os.symlink(VICTIM, own)
    as_root("build", own + "/x.sif", ROOT, ok=True)
    os.symlink(VICTIM + "/x.sif", own + ".sif")
    as_root("sign", "--keysdir", keys, own + ".sif", ok=True)
    as_root("key", "export", "--keysdir", keys, own + "/x.asc", ok=True)
    assert sorted(os.listdir(VICTIM)) == ["x.asc", "x.sif"], os.listdir(VICTIM)
    for name in os.listdir(VICTIM):
        os.unlink(f"{VICTIM}/{name}")


def their_folder(b):
    """A folder with an image, and links to what is root's under every name that a command may take for its own."""
    theirs = b.make_directory("trap")
    image = os.path.join(theirs, "image.sif")
    root = b.rootfs("trap-root", files={".singularity.d/runscript": "#!/bin/sh\necho ran\n", ".singularity.d/test": "#!/bin/sh\necho tested\n"})
    as_root("build", image, root, ok=True)
    os.chown(image, b.user.uid, b.user.gid)
    os.mkfifo(theirs + "/fifo")
    for name in ("out.sif", "out.img", "out.asc", "out.toml", "box", "pid", "postern.toml", "ecl.toml", "capability.toml", "resources.toml"):
        link(f"{VICTIM}/{name}", f"{theirs}/{name}")
    for name in (".postern", ".apptainer", ".singularity", ".gnupg", ".cache", ".config", ".local", ".docker"):
        link(VICTIM, f"{theirs}/{name}")
    for name in ("gpg", "gpgconf", "gpg-agent", "mksquashfs", "fuse2fs", "mke2fs", "pasta", "newuidmap", "sh", "bash", "postern-build", "postern-keys"):
        path = f"{theirs}/{name}"
        with open(path, "w") as file:
            file.write(f"#!/bin/sh\ntouch {VICTIM}/executed\n")
        os.chmod(path, 0o755)
        os.chown(path, b.user.uid, b.user.gid)
    return theirs


NOBODY_LISTENS = "127.0.0.1:9"
COMMANDS = """
build out.sif image.sif
build --sandbox box image.sif
cache list
cache clean --force
capability list
config global --get suid.enabled
config import --dry-run image.sif
decrypt image.sif out.sif
delete library://127.0.0.1:9/a/b/c:d
doctor
ecl check image.sif
encrypt --passphrase-file KEY image.sif out.sif
exec image.sif true
help
inspect image.sif
inspect --list-apps --json image.sif
instance start image.sif of-root
instance list
instance stop --all
instance start --pid-file pid image.sif of-root
key list
key newpair --name n --email e@example.org --comment= --password= --push=false
key export out.asc
keyserver list
overlay create out.img
overlay create --size 64 fifo
pull --no-https out.sif docker://127.0.0.1:9/a:b
pull --no-https out.sif oras://127.0.0.1:9/a:b
push --no-https image.sif oras://127.0.0.1:9/a:b
registry login --no-https -u user -p word docker://127.0.0.1:9
registry list
rekey --passphrase-file KEY --new-passphrase-file KEY image.sif
remote list
remote add --no-login --insecure mine http://127.0.0.1:9
run image.sif
run-help image.sif
seal out.sif
search --nocolor name
shell image.sif
sif list image.sif
sif new out.sif
sif del 1 out.sif
sign out.sif
tag docker://127.0.0.1:9/a:b c
test image.sif
verify image.sif
version
"""


def every_command(b):
    """each command, in another user's folder: with root's HOME, with theirs, and with every directory that a variable names in theirs"""
    theirs = their_folder(b)
    key = os.path.join(b.top, "words")
    with open(key, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write("correct horse\n")
    root_home = os.path.join(b.top, "home-of-root")
    os.mkdir(root_home, 0o700)
    chosen = {name: theirs for name in ("HOME", "XDG_RUNTIME_DIR", "TMPDIR", "POSTERN_TMPDIR", "POSTERN_CACHEDIR", "POSTERN_CONFIGDIR", "GNUPGHOME")}
    lines = [line.split() for line in COMMANDS.splitlines() if line]
    offered = {line.split()[0] for line in as_root("help", ok=True).stdout.split("Commands:\n")[1].split("\n\n")[0].splitlines()}
    assert offered == {words[0] for words in lines}, offered ^ {words[0] for words in lines}
    try:
        for environment in ({"HOME": root_home}, {"HOME": theirs}, chosen):
            for words in lines:
                words = [key if word == "KEY" else word for word in words]
                done = as_root(*words, cwd=theirs, env=environment, before=["timeout", "60"])
                assert 0 <= done.returncode < 124 or done.returncode == 255, (words, environment, done)
                untouched()
                # A cache that is off has no place.
                assert "remove at /net" not in done.stderr, (words, environment, done)
    finally:
        as_root("instance", "stop", "--all", env={"HOME": root_home})


bench.main([links_to_what_is_written, every_command, overlays, work_directories, key_directories, temporary_directories, archives, ids_of_root])
