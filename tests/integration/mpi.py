#!/usr/bin/env python3
"""Open MPI and MPICH of the host start ranks that are containers of one image: shared memory and single-copy transfers work."""
import glob
import os
import re
import shutil
import subprocess

import harness

bench = harness.Bench()
RANKS = 4
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
# Every rank sends 4 MiB to the next one, large enough for a single copy, and checks what it got.
PROGRAM = """
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char** argv) {
  enum { kCount = 1 << 20 };
  int rank = 0, size = 0, i;
  char user[64] = {0};
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  int* out = malloc(kCount * sizeof(int));
  int* in = malloc(kCount * sizeof(int));
  for (i = 0; i < kCount; ++i) out[i] = rank * kCount + i;
  int next = (rank + 1) % size, before = (rank + size - 1) % size;
  MPI_Sendrecv(out, kCount, MPI_INT, next, 0, in, kCount, MPI_INT, before, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  for (i = 0; i < kCount; ++i) if (in[i] != before * kCount + i) MPI_Abort(MPI_COMM_WORLD, 3);
  readlink("/proc/self/ns/user", user, sizeof user - 1);
  printf("rank %d of %d in %s, image %s\\n", rank, size, user, access("/only-in-the-image", F_OK) == 0 ? "yes" : "no");
  MPI_Finalize();
  return 0;
}
"""


def copy_closure(top, *programs):
    """The programs' shared libraries, each under the name by which it is asked for."""
    for program in programs:
        listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for path in re.findall(r"(/\S+) \(0x", listed):
            target = top + os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path)
            if not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(path, target)


def make_image(b):
    if shutil.which("mpicc") is None or shutil.which("mpirun") is None:
        raise harness.Skip("needs openmpi-bin and libopenmpi-dev")
    top = b.rootfs("mpi", files={"only-in-the-image": "yes\n", "ring.c": PROGRAM})
    subprocess.run(["mpicc", "-o", top + "/ring", top + "/ring.c"], check=True)
    for directory in (LIBRARIES + "/openmpi", LIBRARIES + "/pmix2", "/usr/share/openmpi", "/etc/openmpi"):
        if os.path.isdir(directory):
            shutil.copytree(directory, top + directory, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a", "*ucx*", "*ofi*"))
    for link in ("lib", "lib64"):
        os.symlink("usr/" + link, top + "/" + link)
        os.makedirs(top + "/usr/" + link, exist_ok=True)
    plugins = [path for path in glob.glob(top + LIBRARIES + "/**/*.so*", recursive=True) if not os.path.islink(path)]
    copy_closure(top, top + "/ring", *plugins)
    return b.squashfs(top)


IMAGE = []


def ranks(b, *options):
    """What the ranks print: mpirun on the host, one container each."""
    if not IMAGE:
        IMAGE.append(make_image(b))
    command = ["mpirun", "-n", str(RANKS), "--oversubscribe", "--mca", "btl", "self,vader", "--mca", "pml", "ob1",
               "--mca", "btl_vader_single_copy_mechanism", "cma", b.postern, "exec", *options, IMAGE[0], "/ring"]
    result = b.run(command=command, timeout=120, env={"OMPI_MCA_rmaps_base_oversubscribe": "1"}).ok()
    assert len(result.lines) == RANKS and result.out.count("image yes") == RANKS, result
    assert "vader" not in result.err, result
    return sorted(result.lines)


def over_shared_memory(b):
    """mpirun -n 4: each rank gets the other's 4 MiB, all in one user namespace"""
    lines = ranks(b)
    namespaces = {line.split()[5] for line in lines}
    assert [line.split()[1] for line in lines] == [str(rank) for rank in range(RANKS)] and len(namespaces) == 1, lines


def single_copy(b):
    """… by process_vm_readv(2) between the ranks, counted by strace on the host"""
    trace = b.work + "/trace"
    ranks(b)
    command = ["strace", "-f", "-qq", "-o", trace, "-e", "trace=process_vm_readv,process_vm_writev", "mpirun", "-n", str(RANKS), "--oversubscribe",
               "--mca", "btl", "self,vader", "--mca", "pml", "ob1", b.postern, "exec", IMAGE[0], "/ring"]
    b.run(command=command, timeout=120).ok()
    with open(trace) as file:
        copied = sum(int(n) for n in re.findall(r"process_vm_(?:read|write)v.* = (\d+)$", file.read(), re.M))
    os.unlink(trace)
    assert copied >= RANKS * (4 << 20), f"{copied} bytes by single copies"


def hydra(b):
    """MPICH's Hydra hands each rank its connection as an open descriptor, by number (PMI_FD)"""
    if shutil.which("mpicc.mpich") is None or shutil.which("mpiexec.hydra") is None:
        raise harness.Skip("needs mpich and libmpich-dev")
    top = b.rootfs("mpich", files={"only-in-the-image": "yes\n", "ring.c": PROGRAM})
    subprocess.run(["mpicc.mpich", "-o", top + "/ring", top + "/ring.c"], check=True)
    for link in ("lib", "lib64"):
        os.symlink("usr/" + link, top + "/" + link)
        os.makedirs(top + "/usr/" + link, exist_ok=True)
    copy_closure(top, top + "/ring")
    image = b.squashfs(top)
    for options in ([], ["--pid"], ["--contain", "--bind", "/dev/shm"]):
        result = b.run(command=["mpiexec.hydra", "-n", "2", b.postern, "exec", *options, image, "/ring"], timeout=120).ok()
        assert sorted(" ".join(line.split()[:4]) for line in result.lines) == ["rank 0 of 2", "rank 1 of 2"], repr(result)
        assert result.out.count("image yes") == 2, repr(result)


bench.main([over_shared_memory, single_copy, hydra])
