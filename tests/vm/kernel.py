#!/usr/bin/env python3
"""A kernel with device-mapper for boot.sh: Debian's own, unpacked into a cache, never installed.

Usage: kernel.py prepare RELEASE     downloads what is missing, prints the kernel's directory
       kernel.py find RELEASE        prints it, or fails: no network is asked
RELEASE is "stable", the kernel that this machine's Debian release has, or "backports", the newest that Debian
builds for that release. The packages come through apt, which checks Debian's signatures.

The cache is $XDG_CACHE_HOME/postern-kernel, or /var/cache/postern-kernel. In a kernel's directory there are
vmlinux (QEMU starts an ELF kernel by PVH, which saves the unpacking of a bzImage in software emulation),
base.cpio (busybox and the modules that the guest's /init needs to see the host's tree) and lib/modules.
"""
import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or "/var/cache", "postern-kernel")
RELEASES = ("stable", "backports")
META_PACKAGE = "linux-image-amd64"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BUSYBOX = "/bin/busybox"
# What /init needs: the host's tree over 9p, an overlay above it, and the ports for output and status.
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
# Drivers of hardware that the guest does not have: two thirds of the package.
LEFT_OUT = ("drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/scsi", "drivers/net/ethernet",
            "drivers/net/wireless", "drivers/iio", "drivers/staging", "sound")


class Problem(Exception):
    pass


def output(*command, **keywords):
    done = subprocess.run(command, capture_output=True, text=True, **keywords)
    if done.returncode != 0:
        raise Problem(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def backports_options():
    """Options that let apt see the backports of this release alone, at the archive that the machine uses."""
    with open("/etc/os-release") as file:
        codename = re.search(r"^VERSION_CODENAME=(\w+)$", file.read(), re.M)
    codename = codename[1] if codename else ""
    targets = output("apt-get", "indextargets", "--format", "$(CODENAME)|$(ORIGIN)|$(REPO_URI)", "Created-By: Packages")
    for line in targets.splitlines():
        name, origin, uri = line.split("|")
        if (name, origin) == (codename, "Debian"):
            break
    else:
        raise Problem(f"apt has no source of Debian {codename or '(no VERSION_CODENAME in /etc/os-release)'}")
    top = os.path.join(CACHE, "apt")
    for name in ("parts", "lists/partial", "cache"):
        os.makedirs(f"{top}/{name}", exist_ok=True)
    with open(f"{top}/backports.list", "w") as file:
        option = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
        file.write(f"deb {option}{uri} {codename}-backports main\n")
    return ("-o", f"Dir::Etc::SourceList={top}/backports.list", "-o", f"Dir::Etc::SourceParts={top}/parts",
            "-o", f"Dir::State::Lists={top}/lists", "-o", f"Dir::Cache={top}/cache")


def candidate(options):
    """Name and version of the package that has the kernel itself."""
    shown = output("apt-cache", *options, "show", "--no-all-versions", META_PACKAGE)
    image = re.search(r"^Depends: (linux-image-\S+)", shown, re.M)
    if image is None:
        raise Problem(f"{META_PACKAGE} depends on no linux-image package")
    version = re.search(r"^Version: (\S+)$", output("apt-cache", *options, "show", "--no-all-versions", image[1]), re.M)
    return image[1], version[1]


def vmlinux(image):
    """The ELF kernel in a bzImage: payload_offset and payload_length of the kernel's boot.rst."""
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(setup_sectors + 1) * 512 + offset:][:length]
    # The last four bytes are the unpacked size, which these decompressors do not expect.
    unpack = {b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor().decompress(payload),
              b"\x1f\x8b": lambda: zlib.decompressobj(31).decompress(payload),
              b"\x28\xb5\x2f\xfd": lambda: pipe("zstd", payload[:-4]),
              b"\x02\x21L\x18": lambda: pipe("lz4", payload[:-4])}
    for magic, function in unpack.items():
        if payload.startswith(magic):
            return function()
    raise Problem(f"the kernel is packed in an unknown way: {payload[:6].hex()}")


def pipe(program, data):
    return subprocess.run([program, "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout


def base_archive(directory, version):
    """/busybox, and /modules with a list in the order in which they are loaded."""
    lines = "".join(output("modprobe", "-d", directory, "-S", version, "--show-depends", name) for name in MODULES)
    paths = dict.fromkeys(re.findall(r"^insmod (\S+)", lines, re.M))
    with tempfile.TemporaryDirectory(dir=directory) as top:
        os.makedirs(f"{top}/modules")
        shutil.copy(BUSYBOX, f"{top}/busybox")
        with open(f"{top}/modules/order", "w") as order:
            for path in paths:
                name = os.path.basename(path).removesuffix(".xz")
                data = pipe("xz", open(path, "rb").read()) if path.endswith(".xz") else open(path, "rb").read()
                with open(f"{top}/modules/{name}", "wb") as file:
                    file.write(data)
                order.write(f"{name}\n")
        names = ["busybox", "modules", "modules/order", *(f"modules/{name}" for name in sorted(os.listdir(f"{top}/modules"))
                                                          if name != "order")]
        return subprocess.run([BUSYBOX, "cpio", "-o", "-H", "newc"], cwd=top, input="\n".join(names).encode(), check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def unpack(package, directory):
    os.makedirs(f"{directory}/lib")
    excludes = [f"--exclude=*/kernel/{name}" for name in LEFT_OUT]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", directory, *excludes], stdin=archive.stdout, check=True)
    if archive.returncode != 0:
        raise Problem(f"dpkg-deb cannot read {package}")
    if os.path.isdir(f"{directory}/usr/lib/modules"):  # where /usr is merged
        os.rename(f"{directory}/usr/lib/modules", f"{directory}/lib/modules")
    version, = os.listdir(f"{directory}/lib/modules")
    output("depmod", "-b", directory, version)
    with open(f"{directory}/boot/vmlinuz-{version}", "rb") as file:
        image = file.read()
    with open(f"{directory}/vmlinux", "wb") as file:
        file.write(vmlinux(image))
    with open(f"{directory}/base.cpio", "wb") as file:
        file.write(base_archive(directory, version))


def make(options, image, version):
    """The directory of this kernel, made if it is not there."""
    directory = os.path.join(CACHE, f"{image}_{version}")
    if os.path.exists(directory):
        return directory
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        os.chmod(work, 0o755)  # apt downloads as a user of its own
        print(f"kernel.py: downloading {image} {version}", file=sys.stderr)
        output("apt-get", *options, "-q", "download", f"{image}={version}", cwd=work)
        package, = (name for name in os.listdir(work) if name.endswith(".deb"))
        unpack(f"{work}/{package}", f"{work}/kernel")
        os.rename(f"{work}/kernel", directory)
    return directory


def prepare(release):
    os.makedirs(CACHE, exist_ok=True)
    link = os.path.join(CACHE, release)
    with open(os.path.join(CACHE, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            options = backports_options() if release == "backports" else ()
            try:
                directory = make(options, *candidate(options))
            except Problem:  # no lists yet, or older ones than the archive
                output("apt-get", *options, "-q", "update")
                directory = make(options, *candidate(options))
        except Problem as problem:
            if not os.path.exists(link):
                raise
            print(f"kernel.py: goes on with {os.readlink(link)}: {problem}", file=sys.stderr)
            return
        os.symlink(os.path.basename(directory), f"{link}.new")
        os.rename(f"{link}.new", link)
        remove_old()


def remove_old():
    """Kernels that neither a link names nor a guest uses: boot.sh holds a lock on the directory."""
    named = {os.path.realpath(os.path.join(CACHE, release)) for release in RELEASES}
    for directory in (os.path.join(CACHE, name) for name in os.listdir(CACHE) if name.startswith("linux-image-")):
        if directory not in named:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory)
            except BlockingIOError:
                pass
            finally:
                os.close(descriptor)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("prepare", "find") or sys.argv[2] not in RELEASES:
        sys.exit(__doc__)
    try:
        if sys.argv[1] == "prepare":
            prepare(sys.argv[2])
        link = os.path.join(CACHE, sys.argv[2])
        if not os.path.exists(link):
            raise Problem(f"no kernel in {CACHE}; `{sys.argv[0]} prepare {sys.argv[2]}` fetches it")
        print(os.path.realpath(link))
    except Problem as problem:
        sys.exit(f"kernel.py: {problem}")


main()
