#!/usr/bin/env python3
"""Devices and drivers of the host: --nv, --rocm, --intel-hpu, and CDI specifications. No driver is installed here:
libraries are made with gcc and shown to the loader in a mount namespace of this test's own."""
import json
import os
import subprocess
import sys

import harness

if os.environ.get("POSTERN_GPU_WORLD") != "1":
    os.environ["POSTERN_GPU_WORLD"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])

harness.PARTS["libexec/postern/postern-yaml"] = "frontend/yaml/postern-yaml"
bench = harness.Bench()
MACHINE_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
ROOT = bench.rootfs()
os.makedirs(ROOT + "/lib/x86_64-linux-gnu")
subprocess.run(["cp", "/lib/x86_64-linux-gnu/libc.so.6", ROOT + "/lib/x86_64-linux-gnu/"], check=True)
SQUASHFS = bench.squashfs(ROOT)
DRIVER = bench.make_directory("driver")
CDI = bench.make_directory("cdi")
EMPTY = bench.make_directory("no-cdi")


def gcc(*words, text=""):
    subprocess.run(["gcc", "-shared", "-nostdlib", "-x", "c", "-", "-x", "none", *words], input=text, text=True, check=True, stderr=subprocess.DEVNULL)


def driver():
    """A driver's libraries for three kinds of programs, under one name each, as /etc/ld.so.cache shows them."""
    for kind, flags in (("x32", ["-mx32"]), ("32", ["-m32"]), ("64", [])):
        os.makedirs(f"{DRIVER}/{kind}", exist_ok=True)
        for name in ("libcuda.so.1", "libamdhip64.so.5"):
            gcc(*flags, f"-Wl,-soname,{name}", "-o", f"{DRIVER}/{kind}/{name}")
    cache = bench.top + "/ld.so.cache"
    with open(bench.top + "/ld.so.conf", "w") as file:
        file.write("".join(f"{DRIVER}/{kind}\n" for kind in ("x32", "32", "64")))
    subprocess.run(["/sbin/ldconfig", "-f", bench.top + "/ld.so.conf", "-C", cache], check=True)
    subprocess.run(["mount", "--bind", cache, "/etc/ld.so.cache"], check=True)


def specification(name, devices, kind="vendor.com/gpu", edits=None, version="0.6.0", directory=CDI):
    """A file of `directory`: JSON, which is YAML too."""
    content = {"cdiVersion": version, "kind": kind, "containerEdits": edits or {},
               "devices": [{"name": key, "containerEdits": value} for key, value in devices.items()]}
    with open(f"{directory}/{name}", "w") as file:
        json.dump(content, file)


def cdi(b, *words, directories=CDI, command=("true",), image=SQUASHFS):
    return b.run("exec", "--cdi-dirs", directories, *words, image, *command)


driver()
specification("gpu.json", {
    "0": {"deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/zero"}], "env": ["VENDOR=$HOME `x` \\ 0"]},
    "1": {"deviceNodes": [{"path": "/dev/full"}],
          "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/opt/vendor/name", "options": ["ro", "nosuid", "nodev", "bind"]}]},
}, edits={"env": ["COMMON=yes"]})


def nvidia(b):
    """--nv brings the driver's libraries of the machine's own kind, whatever comes first in the loader's cache"""
    listing = b.run("exec", "--nv", SQUASHFS, "sh", "-c", "ls /.singularity.d/libs; od -An -tu1 -j4 -N1 /.singularity.d/libs/libcuda.so.1 || true")
    listing.ok()
    assert "libcuda.so.1" in listing.out and "hip" not in listing.out, repr(listing)
    b.run("exec", "--nv", SQUASHFS, "sh", "-c", "dd if=/.singularity.d/libs/libcuda.so.1 bs=1 skip=4 count=1 2>/dev/null").prints("\x02")
    assert b.run("exec", "--nv", SQUASHFS, "test", "-e", "/.singularity.d/libs32").code == 1


def amd(b):
    """--rocm brings AMD's, and no others"""
    result = b.run("exec", "--rocm", SQUASHFS, "ls", "/.singularity.d/libs").ok()
    assert "libamdhip64.so.5" in result.out and "cuda" not in result.out, repr(result)


def compat32(b):
    """--compat32 brings those of 32-bit programs, not x32's, to a directory of their own"""
    command = "dd if=/.singularity.d/libs32/libcuda.so.1 bs=1 skip=18 count=1 2>/dev/null; echo; echo $LD_LIBRARY_PATH"
    result = b.run("exec", "--nv", "--compat32", SQUASHFS, "sh", "-c", command).ok()
    assert result.lines[0] == "\x03" and "/.singularity.d/libs32" in result.lines[1], repr(result)
    result = b.run("exec", "--compat32", SQUASHFS, "true").ok()
    assert "--compat32 has no effect" in result.err, repr(result)


def hidden_driver(b):
    """a host without a driver is said, and the program runs"""
    cache = b.top + "/empty.cache"
    subprocess.run(["/sbin/ldconfig", "-f", "/dev/null", "-C", cache], check=True)
    subprocess.run(["mount", "--bind", cache, "/etc/ld.so.cache"], check=True)
    try:
        result = b.run("exec", "--nv", SQUASHFS, "echo", "on").prints("on\n")
        assert "--nv: this host has no such driver libraries" in result.err, repr(result)
    finally:
        subprocess.run(["umount", "/etc/ld.so.cache"], check=True)


def site_list(b):
    """nvliblist.conf beside postern.toml takes the place of our own list"""
    settings = b.make_directory("settings")
    for name, text in (("postern.toml", ""), ("nvliblist.conf", "# ours\nlibamdhip64.so\nno-such-program\n/etc/hostname\n")):
        with open(f"{settings}/{name}", "w") as file:
            file.write(text)
    result = b.run("--config", settings + "/postern.toml", "exec", "--nv", SQUASHFS, "sh", "-c", "ls /.singularity.d/libs; cat /etc/hostname")
    with open("/etc/hostname") as file:
        result.prints("libamdhip64.so.5\n" + file.read())


def newer_glibc(b):
    """a library that needs a newer glibc than the image has is named; one that does not is not"""
    stub, script, needy = (f"{b.top}/{name}" for name in ("libc.so.6", "versions", "libneedy.so.1"))
    with open(script, "w") as file:
        file.write("GLIBC_2.97 { newer; };\n")
    gcc(f"-Wl,--version-script={script},-soname,libc.so.6", "-o", stub, text="void newer(void) {}\n")
    gcc("-Wl,-soname,libneedy.so.1", "-o", needy, stub, text="void newer(void); void f(void) { newer(); }\n")
    result = b.run("exec", "--containlibs", needy, SQUASHFS, "echo", "ran").prints("ran\n")
    assert "libneedy.so.1 needs glibc 2.97 and the image has 2.36" in result.err, repr(result)
    result = b.run("exec", "--containlibs", DRIVER + "/64/libcuda.so.1", SQUASHFS, "echo", "ran").prints("ran\n")
    assert "glibc" not in result.err, repr(result)


def hpu(b):
    """--intel-hpu without a device is said, and the program runs"""
    result = b.run("exec", "--intel-hpu", SQUASHFS, "echo", "on").prints("on\n")
    assert os.path.exists("/dev/accel") or "--intel-hpu: this host has no such device" in result.err, repr(result)


def hpu_nodes(b):
    """--intel-hpu gives the Gaudi nodes that HABANA_VISIBLE_DEVICES names to a minimal /dev"""
    # In a /dev of this test's mount namespace alone: nodes in the host's would be everybody's.
    nodes = [(name, os.stat("/dev/" + name).st_rdev) for name in ("null", "zero", "full", "random", "urandom", "tty", "fuse")]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", "/dev"], check=True)
    try:
        os.mkdir("/dev/accel")
        for name in ("accel0", "accel1", "accel_controlD0", "accel_controlD1"):
            nodes.append(("accel/" + name, os.makedev(1, 5)))
        for name, number in nodes:
            os.mknod("/dev/" + name, 0o20666, number)
            os.chmod("/dev/" + name, 0o666)
        command = ["exec", "--contain", "--no-mount", "devpts", "--intel-hpu", SQUASHFS, "ls", "/dev/accel"]
        b.run(*command).prints("accel0\naccel1\naccel_controlD0\naccel_controlD1\n")
        b.run(*command, env={"HABANA_VISIBLE_DEVICES": "1"}).prints("accel1\naccel_controlD1\n")
        assert "no such device" in b.run(*command, env={"HABANA_VISIBLE_DEVICES": "7"}).err
    finally:
        # Lazily: the server of the image, which outlives the starts, holds nodes of this /dev.
        subprocess.run(["umount", "--lazy", "/dev"], check=True)


def cdi_node(b):
    """--device: a node of the host under another name, and variables that nothing evaluates"""
    command = ("sh", "-c", "head -c 3 /dev/vendor0 | wc -c; echo \"$VENDOR|$COMMON\"")
    cdi(b, "--contain", "--device", "vendor.com/gpu=0", command=command).prints("3\n$HOME `x` \\ 0|yes\n")
    cdi(b, "--contain", "--device", "vendor.com/gpu=0", "--no-eval", command=command).prints("3\n$HOME `x` \\ 0|yes\n")
    result = cdi(b, "--contain", "--device", "vendor.com/gpu=0", "--env", "VENDOR=mine", command=("sh", "-c", "echo $VENDOR"))
    result.prints("mine\n")
    assert cdi(b, "--contain", command=("test", "-e", "/dev/vendor0")).code == 1


def cdi_node_in_hosts_dev(b):
    """--device with the host's /dev: a node that is there stays, a new name needs --contain"""
    cdi(b, "--device", "vendor.com/gpu=1", command=("cat", "/opt/vendor/name")).ok()
    cdi(b, "--device", "vendor.com/gpu=0").fails(255, "/dev/vendor0", "--contain")


def cdi_mount(b):
    """--device: a mount that is read-only"""
    with open("/etc/hostname") as file:
        cdi(b, "--device", "vendor.com/gpu=1", command=("cat", "/opt/vendor/name")).prints(file.read())
    assert cdi(b, "--device", "vendor.com/gpu=1", command=("sh", "-c", "echo x > /opt/vendor/name")).code == 1


def cdi_library(b):
    """--device: a library that the specification mounts is found under the name that programs ask for"""
    specification("library.json", {"0": {"mounts": [
        {"hostPath": DRIVER + "/64/libcuda.so.1", "containerPath": "/usr/lib64/libcuda.so.999.1", "options": ["ro"]}],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", "update-ldcache"]}]}},
        kind="vendor.com/library")
    result = cdi(b, "--device", "vendor.com/library=0", command=("sh", "-c", "ls /.singularity.d/libs /usr/lib64; echo $LD_LIBRARY_PATH")).ok()
    assert {"libcuda.so.1", "libcuda.so.999.1", "/.singularity.d/libs"} <= set(result.lines), repr(result)
    assert "WARNING" not in result.err, repr(result)


def cdi_all(b):
    """--device …=all is every device of the kind"""
    cdi(b, "--contain", "--device", "vendor.com/gpu=all", command=("sh", "-c", "test -c /dev/vendor0 && test -c /dev/full && test -e /opt/vendor/name")).ok()


def cdi_yaml(b):
    """--device: a specification in YAML, as nvidia-ctk writes them"""
    with open(CDI + "/yaml.yaml", "w") as file:
        file.write("---\ncdiVersion: 0.5.0\nkind: vendor.com/yaml\ndevices:\n- name: \"0\"\n  containerEdits:\n"
                   "    deviceNodes:\n    - path: /dev/yaml0\n      hostPath: /dev/zero\n      major: 1\n"
                   "- name: other\n  containerEdits: {}\ncontainerEdits:\n  env:\n  - FROM=yaml\n")
    try:
        cdi(b, "--contain", "--device", "vendor.com/yaml=0", command=("sh", "-c", "test -c /dev/yaml0 && echo $FROM")).prints("yaml\n")
        with open(CDI + "/yaml.yaml", "w") as file:
            file.write("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)))
        cdi(b, "--device", "vendor.com/yaml=0").fails(255, "vendor.com/yaml=0", "yaml.yaml")
    finally:
        os.unlink(CDI + "/yaml.yaml")


def cdi_mistakes(b):
    """--device: what is not there, not allowed or not readable is named, with what there is"""
    cdi(b, "--device", "vendor.com/gpu=7").fails(255, "vendor.com/gpu=7", "vendor.com/gpu=0")
    cdi(b, "--device", "/dev/zero").fails(255, "/dev/zero", "vendor.com/class=name")
    cdi(b, "--device", "vendor.com/gpu=0", directories=EMPTY + "/none").fails(255, "/none")
    cdi(b, "--device", "vendor.com/gpu=0", directories=EMPTY).fails(255, "vendor.com/gpu=0")
    broken = b.make_directory("broken-cdi")
    os.mkfifo(broken + "/fifo.json")
    for text, word in (("{", "broken.json"), ('{"cdiVersion": "77.0.0", "kind": "vendor.com/gpu"}', "77.0.0"), ("[" * 100000, "broken.json"), ("\0", "broken.json")):
        with open(broken + "/broken.json", "w") as file:
            file.write(text)
        cdi(b, "--device", "vendor.com/gpu=0", directories=broken).fails(255, word)
    # A file that cannot be read is not the business of a device of another.
    cdi(b, "--contain", "--device", "vendor.com/gpu=0", directories=f"{CDI},{broken}").ok()
    specification("late.json", {"0": {"mounts": [{"hostPath": "/no/such", "containerPath": "/x"}]},
                                "1": {"deviceNodes": [{"path": "/dev/no-such-node"}]},
                                "2": {"mounts": [{"hostPath": "/etc", "containerPath": "/"}]}}, kind="vendor.com/late")
    cdi(b, "--device", "vendor.com/late=0").fails(255, "/no/such")
    cdi(b, "--device", "vendor.com/late=1").fails(255, "/dev/no-such-node")
    cdi(b, "--device", "vendor.com/late=2").fails(255, "root of the container")


def cdi_rights(b):
    """--device gives what the caller may open, and nothing more"""
    secret = b.top + "/secret"
    with open(secret, "w") as file:
        file.write("secret\n")
    os.chmod(secret, 0o600)
    specification("rights.json", {"0": {"mounts": [{"hostPath": secret, "containerPath": "/s"}]}}, kind="vendor.com/rights")
    result = cdi(b, "--device", "vendor.com/rights=0", command=("cat", "/s"))
    assert result.code == 1 and "secret" not in result.out, repr(result)


def cdi_hooks(b):
    """--device: hooks are not run, and it is said"""
    trace = b.work + "/trace"
    hook = b.top + "/hook"
    with open(hook, "w") as file:
        file.write(f"#!/bin/sh\ntouch {trace}\n")
    os.chmod(hook, 0o755)
    specification("hook.json", {"0": {"hooks": [{"hookName": "createRuntime", "path": hook}]}}, kind="vendor.com/hook")
    result = cdi(b, "--device", "vendor.com/hook=0", command=("echo", "ran")).prints("ran\n")
    assert hook in result.err and "not run" in result.err and not os.path.exists(trace), repr(result)


def cdi_directories(b):
    """--device: the standard's directories, of which /var/run/cdi overrides /etc/cdi"""
    for number, place in enumerate(("/etc/cdi", "/var/run/cdi")):
        made = not os.path.exists(place)
        if made:
            os.makedirs(place)
        # In this test's mount namespace alone.
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
        specification("test.json", {"0": {"env": [f"FROM={number}"]}}, kind="postern.test/gpu", directory=place)
        try:
            b.run("exec", "--device", "postern.test/gpu=0", SQUASHFS, "sh", "-c", "echo $FROM").prints(f"{number}\n")
        finally:
            if number == 1:
                for mounted in ("/etc/cdi", "/var/run/cdi"):
                    subprocess.run(["umount", mounted], check=True)
                    subprocess.run(["rmdir", mounted], check=False)


bench.main([nvidia, amd, compat32, hidden_driver, site_list, newer_glibc, hpu, hpu_nodes, cdi_node, cdi_node_in_hosts_dev, cdi_mount,
            cdi_library, cdi_all, cdi_yaml, cdi_mistakes, cdi_rights, cdi_hooks, cdi_directories])
