#!/usr/bin/env python3
"""The Slurm plugin on a cluster of two nodes: Debian's slurmctld, two slurmd and munged, all on loopback, made for this
test alone and ended with it. Usage: slurm.py SPANK-SOURCE-DIRECTORY"""
import atexit
import os
import shutil
import socket
import subprocess
import sys

import harness
import ports
from tap import wait_until

for program in ("slurmctld", "slurmd", "srun", "munged", "gcc"):
    if not shutil.which(program):
        harness.skip(f"needs {program} (packages slurm-wlm, munge, gcc)")
if not os.path.exists("/usr/include/slurm/spank.h"):
    harness.skip("needs slurm/spank.h (package libslurm-dev)")

bench = harness.Bench()
SOURCE = sys.argv.pop(1)
CLUSTER = bench.make_directory("cluster")
HOST = socket.gethostname()
daemons = []


def build_plugin():
    """For the prefix of this test, which the plugin of the build does not have."""
    task = bench.top + "/prefix/libexec/postern/postern-task"
    plugin = CLUSTER + "/postern_spank.so"
    subprocess.run(["gcc", "-o", task, f"{SOURCE}/task.c"], check=True)
    subprocess.run(["gcc", "-D_GNU_SOURCE", f'-DPOSTERN_TASK_PROGRAM="{task}"', "-shared", "-fPIC", "-o", plugin, f"{SOURCE}/postern_spank.c"], check=True)
    with open(CLUSTER + "/plugstack.conf", "w") as file:
        file.write(f"required {plugin} postern={bench.postern}\n")


def start(*words):
    with open(f"{CLUSTER}/{os.path.basename(words[0])}.{len(daemons)}.out", "w") as log:
        daemons.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True))


def stop():
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in daemons:
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def start_cluster():
    controller, *nodes = ports.free(3)
    socket_path, key = CLUSTER + "/munge.socket", CLUSTER + "/munge.key"
    with open(key, "wb") as file:
        file.write(os.urandom(1024))
    os.chmod(key, 0o400)
    for name in ("state", "spool.n1", "spool.n2", "munge"):
        os.mkdir(f"{CLUSTER}/{name}", 0o755)
    os.chown(CLUSTER, 0, 0)
    with open(CLUSTER + "/slurm.conf", "w") as file:
        file.write(f"""ClusterName=test{os.getpid()}
SlurmctldHost={HOST}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={socket_path}
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={controller}
SlurmctldPidFile={CLUSTER}/slurmctld.pid
SlurmdPidFile={CLUSTER}/slurmd.%n.pid
StateSaveLocation={CLUSTER}/state
SlurmdSpoolDir={CLUSTER}/spool.%n
SlurmctldLogFile={CLUSTER}/slurmctld.log
SlurmdLogFile={CLUSTER}/slurmd.%n.log
PlugStackConfig={CLUSTER}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,defer_batch=no
ReturnToService=2
KillWait=3
InactiveLimit=0
NodeName=n1 NodeHostname={HOST} NodeAddr=127.0.0.1 Port={nodes[0]} CPUs=8 RealMemory=1000
NodeName=n2 NodeHostname={HOST} NodeAddr=127.0.0.1 Port={nodes[1]} CPUs=8 RealMemory=1000
PartitionName=all Nodes=n1,n2 Default=YES State=UP OverSubscribe=YES
""")
    start("munged", "--foreground", "--force", f"--socket={socket_path}", f"--key-file={key}", f"--pid-file={CLUSTER}/munge/pid",
          f"--seed-file={CLUSTER}/munge/seed", f"--log-file={CLUSTER}/munge/log")
    wait_until(lambda: os.path.exists(socket_path), lambda: read_log("munged.0.out"))
    start("slurmctld", "-D", "-i", "-f", CLUSTER + "/slurm.conf")
    for name in ("n1", "n2"):
        # A file of its own beside it: on one host both nodes would have the same directory for PMIx.
        os.makedirs(f"{CLUSTER}/{name}/pmix", mode=0o1777)
        shutil.copy(CLUSTER + "/slurm.conf", f"{CLUSTER}/{name}")
        with open(f"{CLUSTER}/{name}/mpi.conf", "w") as file:
            file.write(f"PMIxCliTmpDirBase={CLUSTER}/{name}/pmix\n")
        start("slurmd", "-D", "-N", name, "-f", f"{CLUSTER}/{name}/slurm.conf")
    wait_until(lambda: tool("sinfo", "-h", "-t", "idle", "-o", "%D").out.strip() == "2", lambda: read_log("slurmctld.log") + read_log("slurmd.n1.log"), 180)


def read_log(name):
    path = f"{CLUSTER}/{name}"
    if not os.path.exists(path):
        return f"{name} is missing\n"
    with open(path) as file:
        return name + ":\n" + file.read()[-1500:]


ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SLURM_CONF": CLUSTER + "/slurm.conf", "LANG": "C"}


def tool(*words, timeout=60, **keywords):
    """A program of Slurm's, as the user."""
    return bench.run(command=[shutil.which(words[0]), *words[1:]], env=ENVIRONMENT, timeout=timeout, **keywords)


def srun(*words, **keywords):
    return tool("srun", *words, **keywords)


ROOT = bench.rootfs(files={"in-image": "image\n", ".singularity.d/env/10-image.sh": "export FROM=image\n",
                           ".singularity.d/runscript": "#!/bin/sh\necho run \"$@\"\n"})
IMAGE = bench.squashfs(ROOT)


def every_task(b):
    """srun --container-image: each task of two nodes runs in the image, as the user, with its own rank"""
    out = srun("-N2", "-n4", f"--container-image={IMAGE}", "sh", "-c", "cat /in-image; echo $SLURM_PROCID $SLURMD_NODENAME $(id -u)").ok().lines
    assert out.count("image") == 4, out
    ranks = sorted(line for line in out if line != "image")
    assert [line.split()[0] for line in ranks] == list("0123") and {line.split()[1] for line in ranks} == {"n1", "n2"}, ranks
    assert {line.split()[2] for line in ranks} == {str(b.user.uid)}, ranks
    # The twin: without the option a task runs on the host.
    assert srun("-n1", "test", "-e", "/in-image").code == 1


def options(b):
    """srun: mounts, working directory, environment, home, root and runscript"""
    place = b.make_directory("data")
    with open(place + "/file", "w") as file:
        file.write("data\n")
    srun(f"--container-image={IMAGE}", f"--container-mounts={place}:/mnt:ro,/etc/hostname:/opt/name", "cat", "/mnt/file").prints("data\n")
    assert srun(f"--container-image={IMAGE}", f"--container-mounts={place}:/mnt:ro", "sh", "-c", "echo > /mnt/file").code != 0
    srun(f"--container-image={IMAGE}", "--container-workdir=/root", "pwd").prints("/root\n")
    marked = dict(ENVIRONMENT, FROM="job $x `y` \\")
    for words, expected in ((("--container-env=FROM",), "job $x `y` \\\n"), ((), "image\n")):
        result = b.run(command=["/usr/bin/srun", f"--container-image={IMAGE}", *words, "sh", "-c", 'echo "$FROM"'], env=marked)
        result.prints(expected)
    assert srun(f"--container-image={IMAGE}", "--no-container-mount-home", "test", "-e", b.user.home).code == 1
    assert srun(f"--container-image={IMAGE}", "--container-mount-home", "test", "-e", b.user.home).code == 0
    srun(f"--container-image={IMAGE}", "--container-remap-root", "id", "-u").prints("0\n")
    srun(f"--container-image={IMAGE}", "--container-writable", "sh", "-c", "echo new > /new && cat /new").prints("new\n")
    srun(f"--container-image={IMAGE}", "--container-entrypoint", "a", "b c").prints("run a b c\n")


def status_and_signals(b):
    """srun: the exit status and the signal of a task are its own"""
    assert srun(f"--container-image={IMAGE}", "sh", "-c", "exit 7").code == 7
    result = srun(f"--container-image={IMAGE}", "sh", "-c", "kill -9 $$")
    assert result.code == 137, repr(result)
    result = srun("--container-image=/no/such.sif", "true")
    assert result.code == 255 and "/no/such.sif" in result.err, repr(result)


def mistakes(b):
    """srun: options that make no sense are refused before anything runs"""
    result = srun("--container-workdir=/", "true")
    assert result.code != 0 and "needs --container-image" in result.err, repr(result)
    result = srun(f"--container-image={IMAGE}", "--container-writable", "--container-readonly", "true")
    assert result.code != 0 and "exclude each other" in result.err, repr(result)


def as_the_user(b):
    """nothing of an option's text is opened as root"""
    secret = bench.top + "/secret.sif"
    shutil.copy(IMAGE, secret)
    os.chown(secret, 0, 0)
    os.chmod(secret, 0o600)
    result = srun(f"--container-image={secret}", "true")
    assert result.code == 255 and "Permission denied" in result.err, repr(result)
    os.chmod(secret, 0o644)
    srun(f"--container-image={secret}", "true").ok()
    result = srun(f"--container-image={IMAGE}", "--container-mounts=/etc/shadow:/mnt/s", "cat", "/mnt/s")
    assert result.code != 0 and "root:" not in result.out, repr(result)


def array(b):
    """sbatch: each job of an array runs its script in the image"""
    script = b.work + "/job.sh"
    with open(script, "w") as file:
        file.write("#!/bin/sh\ncat /in-image\necho job $SLURM_ARRAY_TASK_ID\n")
    os.chmod(script, 0o755)
    tool("sbatch", "--wait", "--array=0-3", f"--output={b.work}/out.%a", f"--container-image={IMAGE}", script).ok()
    for number in range(4):
        with open(f"{b.work}/out.{number}") as file:
            text = file.read()
        assert text == f"image\njob {number}\n", f"{number}: {text}"


def cancelled(b):
    """scancel: the job ends, and leaves no process and no mount"""
    process = b.popen(command=["/usr/bin/srun", "-N2", "-n4", "--job-name=sleeps", f"--container-image={IMAGE}", "sh", "-c", "echo runs; sleep 1000 & wait"], env=ENVIRONMENT)
    for _ in range(4):
        assert process.stdout.readline() == b"runs\n"
    assert len(b.processes("sleep 1000")) >= 4
    tool("scancel", "--name=sleeps").ok()
    process.communicate(timeout=120)
    wait_until(lambda: not b.processes("sleep 1000") and not b.processes("postern"), lambda: str(list(map(b.command_line, b.processes()))))


def shared_mount(b):
    """the tasks of a node share one server of the image"""
    # None ends before all run.
    gate = b.make_directory("gate") + "/open"
    script = f"echo runs; while ! test -e {gate}; do sleep 0.1; done"
    process = b.popen(command=["/usr/bin/srun", "-N1", "-n8", "-w", "n1", f"--container-image={IMAGE}", f"--container-mounts={os.path.dirname(gate)}:{os.path.dirname(gate)}", "sh", "-c", script],
                      env=ENVIRONMENT)
    for _ in range(8):
        assert process.stdout.readline() == b"runs\n"
    servers = b.processes("postern-squashfs")
    with open(gate, "w"):
        pass
    process.communicate(timeout=120)
    assert process.returncode == 0 and len(servers) == 1, (process.returncode, servers)


def jobs_have_a_mount_each(b):
    """two jobs at once with one image: the end of the one, which takes its processes along, leaves the other its files"""
    gates = b.make_directory("gates")
    running = []
    for name in ("first", "second"):
        script = f"echo runs; while ! test -e {gates}/{name}; do sleep 0.1; done; cat /in-image"
        running.append(b.popen(command=["/usr/bin/srun", "-N1", "-n1", "-w", "n1", f"--container-image={IMAGE}", f"--container-mounts={gates}:{gates}",
                                        "sh", "-c", script], env=ENVIRONMENT))
        assert running[-1].stdout.readline() == b"runs\n"
    assert len(b.processes("postern-squashfs")) == 2, b.processes("postern-squashfs")
    for name, process in zip(("first", "second"), running):
        with open(f"{gates}/{name}", "w"):
            pass
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, b"image\n"), (name, process.returncode, out, err)
        wait_until(lambda: len(b.processes("postern-squashfs")) == (name == "first"), lambda: f"{name}: {b.processes('postern-squashfs')}")


TRACE = """#include <mpi.h>
#include <stdio.h>
int main(int argc, char** argv) {
  int rank, size, sum = 0;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  printf("%d of %d: %d\\n", rank, size, sum);
  MPI_Finalize();
  return 0;
}
"""


def mpi_program(b, compiler):
    source, program = b.work + "/mpi.c", f"{b.work}/{compiler}"
    with open(source, "w") as file:
        file.write(TRACE)
    subprocess.run([compiler, "-o", program, source], check=True)
    return program


def mpi(b, kind, compiler, variables):
    if not shutil.which(compiler):
        raise harness.Skip(f"needs {compiler}")
    program = mpi_program(b, compiler)
    # The host's own system as the image: its MPI, and nothing to install.
    root = b.rootfs("host-" + compiler, empty=True)
    for name in ("usr", "proc", "sys", "dev", "tmp", "etc", "var", "home", "root", "run"):
        os.makedirs(f"{root}/{name}")
    for name in ("bin", "lib", "lib64", "sbin"):
        if os.path.islink("/" + name):
            os.symlink("usr/" + name, f"{root}/{name}")
    # A squashfs file: the ranks of a node share its server and a user namespace, which shared memory needs.
    image = b.squashfs(root)
    out = b.run(command=["/usr/bin/srun", f"--mpi={kind}", "-N2", "-n4", f"--container-image={image}",
                         f"--container-mounts=/usr:/usr:ro,/etc:/etc:ro,{b.work}:{b.work},{CLUSTER}:{CLUSTER}", program], env=dict(ENVIRONMENT, **variables), timeout=90)
    assert sorted(out.ok().lines) == [f"{rank} of 4: 6" for rank in range(4)], repr(out)


def mpich(b):
    """MPICH's ranks on two nodes find each other by pmi2"""
    mpi(b, "pmi2", "mpicc.mpich", {"FI_PROVIDER": "tcp", "HYDRA_IFACE": "lo", "MPIR_CVAR_OFI_USE_PROVIDER": "tcp", "FI_TCP_IFACE": "lo"})


def open_mpi(b):
    """Open MPI's ranks on two nodes find each other by PMIx"""
    mpi(b, "pmix", "mpicc.openmpi", {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_MCA_oob_tcp_if_include": "lo", "OMPI_MCA_pml": "ob1"})


build_plugin()
atexit.register(stop)
start_cluster()
bench.main([every_task, options, status_and_signals, mistakes, as_the_user, array, cancelled, shared_mount, jobs_have_a_mount_each, mpich, open_mpi])
