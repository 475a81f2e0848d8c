"""A host with two pods on a bridge, whose packets are masqueraded on their way to a world.

All are network namespaces that lead nowhere else. For benchmarks.first_words and its tests:

    python -m benchmarks.bridge world                 accepts connections at all its addresses
    python -m benchmarks.bridge say HOST PORT WORDS…  connects, sends each of the words, and waits

Words are hexadecimal, or ``tls:NAME`` for the ClientHello of a client that asks for a name.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.networks import NoNetworksError

T = TypeVar("T")

WORLD, WORLD6, PORT = "203.0.113.7", "fd00:99:7::7", 4444
BY_VLAN_OF_POD, BY_VLAN_OF_UPLINK = "203.0.113.9", "198.51.100.1"
"""Addresses of the world that lead through devices of 802.1Q."""
PODS = ("10.99.1.2", "10.99.1.3")
_CLONE_NEWNET = 0x40000000
_NAMES = ("host", "pod0", "pod1", "world")


@dataclass(frozen=True, slots=True)
class Bridge:
    """The names of the namespaces."""

    host: str
    pods: tuple[str, str]
    world: str

    def command(self, namespace: str, *arguments: str) -> list[str]:
        """Return the command that runs this module in one of them."""
        own = [sys.executable, "-m", "benchmarks.bridge", *arguments]
        return ["ip", "netns", "exec", namespace, *own]

    @contextmanager
    def saying(
        self, pod: int | None, *words: bytes | str, host: str = WORLD
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a client in a pod, or (None) on the host; return once it has said all.

        It stays connected.
        """
        namespace = self.host if pod is None else self.pods[pod]
        said = [each if isinstance(each, str) else each.hex() for each in words]
        with started(self.command(namespace, "say", host, str(PORT), *said)) as process:
            yield process


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, wait for its first line, and kill it in the end."""
    folder = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise NoNetworksError(f"{' '.join(command)} failed")
            yield process
        finally:
            process.kill()


@contextmanager
def bridge() -> Iterator[Bridge]:
    """Make the namespaces, and what accepts connections; raises NoNetworksError."""
    for program in ("ip", "iptables"):
        if os.geteuid() != 0 or shutil.which(program) is None:
            raise NoNetworksError(
                f"it needs root and {program} (Debian: apt install iproute2 iptables)"
            )
    names = [f"minerwatch-{os.getpid()}-{each}" for each in _NAMES]
    host, *pods, world = names
    with ExitStack() as stack:
        for name in names:
            _run("ip", "netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            _in(name, "ip link set lo up")
        _in(host, "ip link add br0 type bridge && ip link set br0 up")
        _in(host, "ip addr add 10.99.1.1/24 dev br0 && ip addr add fd00:99:1::1/64 dev br0 nodad")
        for number, pod in enumerate(pods):
            _link(host, f"veth{number}", pod)
            _in(host, f"ip link set veth{number} master br0")
            _in(pod, f"ip addr add {PODS[number]}/24 dev eth0")
            _in(pod, f"ip addr add fd00:99:1::{number + 2}/64 dev eth0 nodad")
            _in(pod, "ip route add default via 10.99.1.1; ip -6 route add default via fd00:99:1::1")
        _link(host, "uplink", world)
        _in(host, "ip addr add 192.0.2.2/24 dev uplink && ip route add default via 192.0.2.1")
        _in(host, "ip addr add fd00:99:2::2/64 dev uplink nodad")
        _in(host, "ip -6 route add default via fd00:99:2::1")
        _in(host, "echo 1 >/proc/sys/net/ipv4/ip_forward")
        _in(host, "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        _in(host, "iptables -t nat -A POSTROUTING -o uplink -j MASQUERADE --random")
        _in(
            world, "ip addr add 192.0.2.1/24 dev eth0 && ip addr add fd00:99:2::1/64 dev eth0 nodad"
        )
        _in(world, "ip -6 route add default via fd00:99:2::2")
        _in(world, "ip route add local 203.0.113.0/24 dev lo")
        _in(world, "ip -6 route add local fd00:99:7::/64 dev lo")
        found = Bridge(host, (pods[0], pods[1]), world)
        stack.enter_context(started(found.command(world, "world")))
        yield found


def add_vlans(found: Bridge) -> None:
    """Make a VLAN between the first pod and its host, and one on the uplink.

    Raises NoNetworksError where the kernel has none (CONFIG_VLAN_8021Q).
    """
    vlan = "ip link add link {0} name {0}.5 type vlan id 5 && ip addr add {1}/24 dev {0}.5"
    vlan += " && ip link set {0}.5 up"
    for name, device, address in (
        (found.pods[0], "eth0", "10.99.5.2"),
        (found.host, "veth0", "10.99.5.1"),
        (found.host, "uplink", "198.51.100.2"),
        (found.world, "eth0", BY_VLAN_OF_UPLINK),
    ):
        _in(name, vlan.format(device, address))
    _in(found.pods[0], f"ip route add {BY_VLAN_OF_POD}/32 via 10.99.5.1")
    _in(found.host, "iptables -t nat -A POSTROUTING -o uplink.5 -j MASQUERADE --random")


def in_namespace(name: str, work: Callable[[], T]) -> T:
    """Return what ``work`` returns in a network namespace; sockets that it opens stay there."""
    found: list[T] = []

    def enter() -> None:
        fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)
        found.append(work())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return found[0]


def client_hello(name: str) -> bytes:
    """Return what a TLS client sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetworksError(f"{' '.join(command)}: {done.stderr.strip()}")


def _in(namespace: str, script: str) -> None:
    _run("ip", "netns", "exec", namespace, "sh", "-c", script)


def _link(host: str, name: str, other: str) -> None:
    _run(*("ip", "link", "add", name, "netns", host, "type", "veth"),
         *("peer", "name", "eth0", "netns", other))  # fmt: skip
    _in(host, f"ip link set {name} up")
    _in(other, "ip link set eth0 up")


def _say(host: str, port: str, *words: str) -> None:
    with socket.create_connection((host, int(port)), 60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for word in words:
            is_name = word.startswith("tls:")
            client.sendall(client_hello(word[4:]) if is_name else bytes.fromhex(word))
            client.recv(1 << 16)  # so that the next one is a segment of its own
        print("said", flush=True)
        threading.Event().wait()


def _world() -> None:
    server = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        threading.Thread(target=_answer, args=server.accept()[:1], daemon=True).start()


def _answer(client: socket.socket) -> None:
    with client, suppress(OSError):
        while client.recv(1 << 20):
            client.sendall(b".")


if __name__ == "__main__":
    if sys.argv[1] == "say":
        _say(*sys.argv[2:])
    else:
        _world()
