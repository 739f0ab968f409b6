#!/usr/bin/env python3
"""Networks that pasta or slirp4netns carries for one container, without privilege. Servers are on loopback alone."""
import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading

import harness
import ports
import users
from tap import wait_until

if os.environ.get("POSTERN_NETWORK_WORLD") != "1":
    os.environ["POSTERN_NETWORK_WORLD"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
for program in ("pasta", "slirp4netns"):
    if not shutil.which(program):
        harness.skip(f"needs {program} (packages passt, slirp4netns)")
with open("/proc/net/route") as table:
    if not any(line.split()[1] == "00000000" for line in table.readlines()[1:]):
        harness.skip("pasta needs a host with a default route")
os.chmod("/dev/net/tun", 0o666)  # as distributions have it

harness.APPLETS += ["nc", "nslookup", "httpd", "wget", "ln"]
bench = harness.Bench()
ROOT = bench.rootfs(files={"srv/page": "served\n"})
SQUASHFS = bench.squashfs(ROOT)


def carriers(b):
    found = []
    for pid in b.processes():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as file:  # pasta.avx2, by the processor
            found += [pid] * file.read().startswith(("pasta", "passt", "slirp4netns"))
    return found


def addresses(b):
    """--net, --network fakeroot, pasta and slirp4netns: an address and a route, with every kind of image and of namespace"""
    for options in (("--net",), ("--network", "fakeroot"), ("--network", "pasta"), ("--network", "slirp4netns"), ("--net", "--pid"),
                    ("--net", "--fakeroot"), ("--net", "--containall"), ("--net", "--no-share")):
        for image in (ROOT, SQUASHFS):
            out = b.run("exec", *options, image, "sh", "-c", "ip addr; ip route").ok().out
            assert "inet 10.0.2.100/24" in out and "default via 10.0.2.2" in out, f"{options}: {out}"


def rights(b):
    """the program in a network of its own has no capability in it"""
    out = b.run("exec", "--net", SQUASHFS, "grep", "Cap", "/proc/self/status").ok().out
    assert re.search(r"CapEff:\t0+\n", out) and re.search(r"CapBnd:\t0+\n", out), out


def root_has_one_too(b):
    """root gets the same network"""
    done = subprocess.run([b.postern, "exec", "--net", SQUASHFS, "sh", "-c", "ip addr"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "inet 10.0.2.100/24" in done.stdout, f"{done.returncode}\n{done.stdout}\n{done.stderr}"


def published(b):
    """portmap: a server inside is reached at a port of the host, and ends with the container"""
    port, = ports.free()
    process = b.popen("exec", "--net", "--network-args", f"portmap={port}:8080/tcp", SQUASHFS, "sh", "-c", "httpd -f -p 8080 -h /srv & read end; kill $!",
                      stdin=subprocess.PIPE)
    try:
        def answer():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    client.sendall(b"GET /page HTTP/1.0\r\n\r\n")
                    return client.makefile().read().endswith("served\n")
            except OSError:
                return False
        wait_until(answer, f"no answer at port {port}")
    finally:
        process.communicate(b"\n", timeout=60)
    wait_until(lambda: not carriers(b), lambda: str(carriers(b)))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the port is still open"


def published_alone(b):
    """a port that nobody asked for is not published"""
    port, = ports.free()
    script = f"httpd -f -p {port} -h /srv & until wget -q -O - http://127.0.0.1:{port}/page 2>/dev/null; do sleep 0.1; done; read end; kill $!"
    process = b.popen("exec", "--net", SQUASHFS, "sh", "-c", script, stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"served\n"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "the port is open on the host"
    finally:
        process.communicate(b"\n", timeout=60)


def reached(b):
    """hostport: a server on the host's loopback device is reached at the container's; another is not"""
    servers, threads = [], []
    try:
        for text in ("open", "closed"):
            server = socket.create_server(("127.0.0.1", 0))
            servers.append(server)

            def serve(server=server, text=text):
                try:
                    while True:
                        server.accept()[0].sendall(text.encode() + b"\n")
                except OSError:
                    pass
            threads.append(threading.Thread(target=serve, daemon=True))
            threads[-1].start()
        opened, closed = (server.getsockname()[1] for server in servers)
        out = b.run("exec", "--net", "--network-args", f"hostport={opened}/tcp", SQUASHFS, "sh", "-c",
                    f"nc -w 60 127.0.0.1 {opened} </dev/null; nc -w 3 127.0.0.1 {closed} </dev/null; nc -w 3 10.0.2.2 {closed} </dev/null; true").ok().out
        assert out.strip() == "open", out
    finally:
        for server in servers:
            server.shutdown(socket.SHUT_RDWR)
            server.close()


def name_server(address):
    """Answers each question with 192.0.2.77."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))

    def serve():
        try:
            while True:
                question, peer = server.recvfrom(512)
                end = question.index(b"\0", 12) + 5
                is_address = question[end - 4:end - 2] == b"\0\1"
                answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton("192.0.2.77") if is_address else b""
                server.sendto(question[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, int(is_address), 0, 0) + question[12:end] + answer, peer)
        except OSError:
            pass
    threading.Thread(target=serve, daemon=True).start()
    return server


def names(b):
    """names are found if the host's name server is on its loopback device"""
    resolv = b.top + "/resolv.conf"
    with open(resolv, "w") as file:
        file.write("search example.test\nnameserver 127.0.0.1\n")
    os.chmod(resolv, 0o644)
    subprocess.run(["mount", "--bind", resolv, os.path.realpath("/etc/resolv.conf")], check=True)
    try:
        with users.alone("port-53"), name_server("127.0.0.1"):
            for network in ("pasta", "slirp4netns"):
                result = b.run("exec", "--network", network, SQUASHFS, "sh", "-c", "cat /etc/resolv.conf; nslookup host.example.test")
                assert "192.0.2.77" in result.out and "search example.test" in result.out, f"{network}: {result!r}"
    finally:
        subprocess.run(["umount", os.path.realpath("/etc/resolv.conf")], check=True)
    b.run("exec", "--net", "--dns", "192.0.2.53", SQUASHFS, "cat", "/etc/resolv.conf").prints("nameserver 192.0.2.53\n")


def ends(b):
    """the program that carries the network ends with the container, however that ends"""
    for network in ("pasta", "slirp4netns"):
        for number in (signal.SIGTERM, signal.SIGKILL, None):
            process = b.popen("exec", "--network", network, SQUASHFS, "sh", "-c", "echo runs; read end; exit 3", stdin=subprocess.PIPE)
            assert process.stdout.readline() == b"runs\n"
            wait_until(lambda: len(carriers(b)) == 1, lambda: f"{network}: {carriers(b)}")
            if number is None:
                process.communicate(b"\n", timeout=60)
                assert process.returncode == 3
            else:
                process.send_signal(number)
                process.wait(60)
            wait_until(lambda: not carriers(b), lambda: f"{network}, {number}: {carriers(b)}")
            process.communicate()


def killed(b):
    """the program runs on if what carries its network is killed; its status is its own"""
    process = b.popen("exec", "--net", SQUASHFS, "sh", "-c", "echo runs; read end; exit 4", stdin=subprocess.PIPE)
    assert process.stdout.readline() == b"runs\n"
    os.kill(carriers(b)[0], signal.SIGKILL)
    wait_until(lambda: not carriers(b), "it lives on")
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 4


def of_an_instance(b):
    """an instance's network: what joins has it, a published port is open until the instance is stopped, or its monitor killed"""
    for how in ("stop", "kill"):
        port, = ports.free()
        b.run("instance", "start", "--net", "--network-args", f"portmap={port}:8080/tcp", SQUASHFS, "one").ok()
        out = b.run("exec", "instance://one", "sh", "-c", "ip addr; httpd -p 8080 -h /srv").ok().out
        assert "inet 10.0.2.100/24" in out, out

        def answers():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(b"GET /page HTTP/1.0\r\n\r\n")
                return client.makefile().read().endswith("served\n")
        wait_until(answers, f"no answer at port {port}")
        if how == "stop":
            b.run("instance", "stop", "one").ok()
        else:
            monitor, = b.processes("instance start")
            os.kill(monitor, signal.SIGKILL)
        wait_until(lambda: not b.processes(), lambda: f"{how}: {list(map(b.command_line, b.processes()))}")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "the port is still open"


def mistakes(b):
    """what is not understood, not there or taken is named, and nothing is left"""
    b.run("exec", "--network", "bridge", SQUASHFS, "true").fails(255, "bridge", "fakeroot", "--netns-path")
    b.run("exec", "--network", "none,fakeroot", SQUASHFS, "true").fails(255, "one network")
    b.run("exec", "--network-args", "portmap=1:1/tcp", SQUASHFS, "true").fails(255, "--net")
    b.run("exec", "--network", "none", "--network-args", "portmap=1:1/tcp", SQUASHFS, "true").fails(255, "--network none")
    for word in ("portmap=0:1/tcp", "portmap=1:65536/tcp", "portmap=8080:80/sctp", "portmap=", "IP=10.1.1.1", "x", "portmap=1:2:3", "portmap=-1", ";"):
        b.run("exec", "--net", "--network-args", word, SQUASHFS, "true").fails(255, "--network-args")
    with socket.create_server(("0.0.0.0", 0)) as server:
        taken = server.getsockname()[1]
        b.run("exec", "--net", "--network-args", f"portmap={taken}:80/tcp", SQUASHFS, "true").fails(255, "in use", str(taken))
    b.run("exec", "--net", "--network-args", "portmap=80:80/tcp", SQUASHFS, "true").fails(255, "port 80", "Permission denied")
    b.run("exec", "--network", "slirp4netns", "--network-args", "portmap=8080:80/tcp", SQUASHFS, "true").fails(255, "slirp4netns")


def no_tool(b):
    """a host without either program: an error with the package's name"""
    covered = [os.path.realpath(shutil.which(name)) for name in ("pasta", "slirp4netns")]
    nothing = b.top + "/no-program"
    with open(nothing, "w"):
        os.chmod(nothing, 0o644)
    for path in covered:
        subprocess.run(["mount", "--bind", nothing, path], check=True)
    try:
        b.run("exec", "--net", SQUASHFS, "true").fails(255, "passt")
        b.run("exec", "--network", "none", SQUASHFS, "true").ok()
    finally:
        for path in covered:
            subprocess.run(["umount", path], check=True)


def namespaces_of_others(b):
    """--netns-path: a namespace of root's is refused in words to a user; root starts in it"""
    name = f"postern-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        b.run("exec", "--netns-path", f"/run/netns/{name}", SQUASHFS, "true").fails(255, name)
        subprocess.run(["ip", "netns", "exec", name, "ip", "addr", "add", "192.0.2.123/32", "dev", "lo"], check=True)
        for image in (ROOT, SQUASHFS):
            done = subprocess.run([b.postern, "exec", "--netns-path", f"/run/netns/{name}", image, "ip", "addr"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
            assert done.returncode == 0 and "192.0.2.123" in done.stdout, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


bench.main([addresses, rights, root_has_one_too, published, published_alone, reached, names, ends, killed, of_an_instance, mistakes, no_tool, namespaces_of_others])
