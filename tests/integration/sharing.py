#!/usr/bin/env python3
"""One mount a node: starts of one image share one server, whoever comes, goes or is killed."""
import os
import signal
import subprocess

import harness
from tap import wait_until

bench = harness.Bench()
ROOT = bench.rootfs(files={"big": "x" * 4000000})
SQUASHFS = bench.squashfs(ROOT)
OTHER = bench.squashfs(bench.rootfs("other"))


def servers(b):
    return b.processes("postern-squashfs --starter")


def state_of(pid):
    """A letter of proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def start_sleeper(b, *arguments, image=SQUASHFS, seconds=60):
    process = b.popen("exec", *arguments, image, "sh", "-c", f"echo ready; exec sleep {seconds}")
    assert process.stdout.readline() == b"ready\n", process.stderr.read()
    return process


def stop(*processes):
    for process in processes:
        process.kill()
        process.communicate()


def kill_servers(b):
    """Until they have ended, and the kernel has ended their connections before that."""
    for pid in servers(b):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not servers(b), "a killed server lives on")


def at_once(b, count):
    # Each waits for the last: all are alive together, so that the number of servers means something.
    gate = b.work + "/gate"
    running = [b.popen("exec", SQUASHFS, "sh", "-c", f"echo ready; while ! test -e {gate}; do sleep 0.05; done; exit 5",
                       stderr=subprocess.STDOUT) for _ in range(count)]
    try:
        for process in running:
            line = process.stdout.readline()
            assert line == b"ready\n", line + process.stdout.read()
        assert len(servers(b)) == 1, f"{len(servers(b))} servers"
    finally:
        with open(gate, "w"):
            pass
        codes = [process.wait(timeout=60) for process in running]
        for process in running:
            process.stdout.close()
        os.unlink(gate)
    assert codes == [5] * count, codes


def sixty_four_at_once(b):
    """64 simultaneous first starts: one server, all succeed"""
    at_once(b, 64)


def two_hundred_and_fifty_six_at_once(b):
    """256 simultaneous first starts: one server, all succeed"""
    at_once(b, 256)


def bursts_against_teardown(b):
    """starts that meet a server at its end succeed all the same"""
    for _ in range(40):
        running = [b.popen("exec", SQUASHFS, "true") for _ in range(6)]
        for process in running:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, (process.returncode, err)


def same_user_namespace(b):
    """starts of one image live in one user namespace, and in mount namespaces of their own"""
    tell = "readlink /proc/self/ns/user; readlink /proc/self/ns/mnt"
    one = b.popen("exec", SQUASHFS, "sh", "-c", f"{tell}; exec sleep 60")
    inside = [one.stdout.readline().decode().strip() for _ in range(2)]
    names = b.run("exec", "--bind", "/usr:/mnt", SQUASHFS, "sh", "-c", tell).ok().lines
    assert names[0] == inside[0] != os.readlink("/proc/self/ns/user") and names[1] != inside[1], (names, inside)
    assert b.run("exec", SQUASHFS, "test", "-e", "/mnt/bin").code == 1
    stop(one)


def no_share(b):
    """--no-share starts a server of its own"""
    one = start_sleeper(b)
    two = start_sleeper(b, "--no-share")
    assert len(servers(b)) == 2
    three = start_sleeper(b)
    assert len(servers(b)) == 2
    stop(one, two, three)


def first_rank_may_die_first(b):
    """SIGKILL of the first start leaves the others their image; the server ends with the last"""
    one, two = start_sleeper(b), start_sleeper(b)
    assert len(servers(b)) == 1
    one.kill()
    one.communicate()
    three = b.run("exec", SQUASHFS, "sh", "-c", "wc -c < /big").prints("4000000\n")
    assert three and len(servers(b)) == 1
    two.kill()
    two.communicate()
    wait_until(lambda: not servers(b), "the server stayed after the last of its users")


def background_children_keep_the_image(b):
    """a background child of the payload reads the image after the program has ended"""
    late, ended = b.work + "/late", b.work + "/ended"
    wait = f"while ! test -e {ended}; do sleep 0.05; done"
    b.run("exec", SQUASHFS, "sh", "-c", f"({wait}; wc -c < /big > {late}) >/dev/null 2>&1 & exit 0").ok()
    with open(ended, "w"):
        pass
    wait_until(lambda: os.path.exists(late) and os.path.getsize(late), "the child did not finish")
    with open(late) as file:
        assert file.read() == "4000000\n"
    os.unlink(late)
    os.unlink(ended)


def server_killed_under_a_payload(b):
    """a server killed under its payload: errors at once, no hang, and a message that says it"""
    process = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; read line; cat /big > /dev/null; exit 6", stdin=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    kill_servers(b)
    # The payload may have died by itself: its own pages are the image's.
    _, err = process.communicate(b"go\n", timeout=60)
    assert process.returncode != 0 and b"image server died" in err, (process.returncode, err)
    b.run("exec", SQUASHFS, "true").ok()


def joiner_of_a_killed_server(b):
    """… and a joined start says the same"""
    one = start_sleeper(b)
    two = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; read line; cat /big > /dev/null; exit 6", stdin=subprocess.PIPE)
    assert two.stdout.readline() == b"ready\n"
    kill_servers(b)
    _, err = two.communicate(b"go\n", timeout=60)
    assert two.returncode != 0 and b"image server died" in err, (two.returncode, err)
    stop(one)


def stopped_server(b):
    """a server that is stopped delays a start for some seconds, and then it goes on without"""
    one = start_sleeper(b)
    stuck = servers(b)[0]
    os.kill(stuck, signal.SIGSTOP)
    wait_until(lambda: state_of(stuck) == "T", "the server did not stop")
    try:
        b.run("exec", SQUASHFS, "true", timeout=120).ok()
        assert state_of(stuck) == "T", "it was continued, so that nothing went on without it"
    finally:
        os.kill(stuck, signal.SIGCONT)
    stop(one)


def suspended_job(b):
    """a server that is stopped and continued, as batch systems suspend a job, serves on"""
    process = b.popen("exec", SQUASHFS, "sh", "-c", "echo ready; read line; wc -c < /big", stdin=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    server, = servers(b)
    for _ in range(3):
        os.kill(server, signal.SIGSTOP)
        wait_until(lambda: state_of(server) == "T", "the server did not stop")
        os.kill(server, signal.SIGCONT)
        wait_until(lambda: state_of(server) != "T", "the server did not continue")
    out, err = process.communicate(b"go\n", timeout=60)
    assert (process.returncode, out) == (0, b"4000000\n"), (process.returncode, out, err)
    wait_until(lambda: not servers(b), "the server stayed after the last of its users")


def replaced_image(b):
    """an image that was replaced on disk is another image"""
    one = start_sleeper(b, image=OTHER)
    replacement = b.squashfs(b.rootfs("replacement", files={"version": "two\n"}))
    os.rename(replacement, OTHER)
    b.run("exec", OTHER, "cat", "/version").prints("two\n")
    stop(one)


def names_go_with_the_last_start(b):
    """the last start to end removes the name of its server, and the folder"""
    place = f"/tmp/postern-{b.user.uid}"
    one, two = start_sleeper(b), start_sleeper(b)
    assert len(os.listdir(place)) == 1, os.listdir(place)
    for process in (one, two):
        process.terminate()
        process.communicate(timeout=60)
    assert not os.path.exists(place), os.listdir(place)


def names_of_the_killed_are_swept(b):
    """a name that a killed start left is removed by the next start of another image"""
    place = f"/tmp/postern-{b.user.uid}"
    one = start_sleeper(b)
    stop(one)
    assert len(os.listdir(place)) == 1
    wait_until(lambda: not servers(b), "server stayed")
    b.run("exec", OTHER, "true").ok()
    assert not os.path.exists(place), os.listdir(place)


def two_users(b):
    """two users with one image have a server each"""
    os.chmod(SQUASHFS, 0o644)
    one = start_sleeper(b)
    theirs = subprocess.Popen([b.postern, "exec", SQUASHFS, "sh", "-c", "echo $(id -u)"], user=b.other, group=b.other, extra_groups=[],
                              env={"PATH": "/bin:/usr/bin", "HOME": "/"}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = theirs.communicate(timeout=60)
    assert (theirs.returncode, out) == (0, f"{b.other}\n".encode()), (out, err)
    assert len(servers(b)) == 1
    stop(one)


def a_proc_that_hides_processes(b):
    """hidepid=2: whose a server is cannot be told, so each start has one of its own, and sees its image"""
    script = f"{b.postern} exec {SQUASHFS} sh -c 'echo ready; exec sleep 60' & sleeper=$!; read -r end; " \
             f"{b.postern} exec {SQUASHFS} sh -c 'wc -c < /big; exec sleep 61' & other=$!; read -r end; kill $sleeper $other; wait"
    inside = ["setpriv", f"--reuid={b.user.uid}", f"--regid={b.user.gid}", "--clear-groups", "sh", "-c", script]
    both = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh", *inside],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=b.environment(), cwd=b.work, text=True)
    try:
        assert both.stdout.readline() == "ready\n"
        assert len(servers(b)) == 1
        both.stdin.write("go on\n")
        both.stdin.flush()
        assert both.stdout.readline() == "4000000\n"
        assert len(servers(b)) == 2
    finally:
        both.communicate("end\n", timeout=60)


def single_copy_between_ranks(b):
    """process_vm_readv works between two ranks of one image (what MPI's single-copy transfers need)"""
    if int(open("/proc/sys/kernel/yama/ptrace_scope").read() if os.path.exists("/proc/sys/kernel/yama/ptrace_scope") else 0) > 0:
        raise harness.Skip("yama forbids it on this host, outside containers too")
    source = b.work + "/rank.c"
    with open(source, "w") as file:
        file.write("""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
int main(int argc, char** argv) {
  if (argc == 1) {
    static char secret[] = "of the other rank";
    printf("%d %p\\n", (int)getpid(), (void*)secret);
    fflush(stdout);
    return getchar() == 0;
  }
  char got[32] = {0};
  void* from = NULL;
  sscanf(argv[2], "%p", &from);
  struct iovec here = {got, 17}, there = {from, 17};
  if (process_vm_readv(atoi(argv[1]), &here, 1, &there, 1, 0) != 17) { perror("process_vm_readv"); return 1; }
  puts(got);
  return 0;
}
""")
    program = b.work + "/rank"
    if subprocess.run(["gcc", "-static", "-o", program, source], capture_output=True).returncode != 0:
        raise harness.Skip("no compiler for a static program")
    os.chmod(program, 0o755)
    one = b.popen("exec", SQUASHFS, program, stdin=subprocess.PIPE)
    pid, address = one.stdout.readline().decode().split()
    b.run("exec", SQUASHFS, program, pid, address).prints("of the other rank\n")
    one.communicate(b"\n", timeout=60)


bench.main([sixty_four_at_once, two_hundred_and_fifty_six_at_once, bursts_against_teardown, same_user_namespace, no_share,
            first_rank_may_die_first, background_children_keep_the_image, server_killed_under_a_payload,
            joiner_of_a_killed_server, stopped_server, suspended_job, replaced_image, names_go_with_the_last_start,
            names_of_the_killed_are_swept, two_users, a_proc_that_hides_processes, single_copy_between_ranks])
