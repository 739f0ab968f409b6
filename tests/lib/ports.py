"""Ports of loopback for servers of one run of one suite."""
import os
import random
import socket

import users

_held = []
# linux/tcp_states.h
LISTEN = "0A"


def free(count=1):
    """Ports that nobody has, and that no other run of these tests gets until this program ends. They lie below those that
    the kernel gives to connections: what is free now stays free until its server is there."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first = int(file.read().split()[0])
    found = []
    for port in random.sample(range(max(1024, first // 2), first), k=first - max(1024, first // 2)):
        descriptor = users.locked(f"port-{port}", wait=False)
        if descriptor is None:
            continue
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0 and can_bind(port):
                found.append(port)
                _held.append(descriptor)
            else:
                os.close(descriptor)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} ports below {first} are free")


def can_bind(port):
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
            return True
        except OSError:
            return False


def is_open(port):
    """Whether a server listens there, without a connection that it would have to answer (proc_net(5))."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if os.path.exists(table):
            with open(table) as file:
                for words in map(str.split, file.readlines()[1:]):
                    if words[1].endswith(f":{port:04X}") and words[3] == LISTEN:
                        return True
    return False
