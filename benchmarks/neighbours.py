"""What a neighbour sends to a pod so that it looks like a scanner; run by benchmarks.traffic."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Iterable

from benchmarks.far_hosts import checksum, segment

VICTIM, VICTIMS_PORT, SERVER = "192.0.2.2", 9000, "203.0.113.9"
KNOWN_PORT = 5300
"""At which the victim receives datagrams."""
_SYN, _RESET = 0x02, 0x04
_DEVICE = "mwveth1"


def half_open(paced: Iterable[int]) -> None:
    """Open connections and reset them before they are open."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in paced:
            peer = socket.inet_aton(f"203.0.113.{2 + number % 240}")
            ends = peer, 1024 + number % 60_000, socket.inet_aton(VICTIM), VICTIMS_PORT
            raw.sendto(segment(ends, (1, 0), _SYN), (VICTIM, 0))  # its own kernel resets it


def closed_ports(paced: Iterable[int]) -> None:
    """Scan the victim."""
    for number in paced:
        with socket.socket() as client:
            client.settimeout(0.1)
            client.connect_ex((VICTIM, 20_000 + number % 10_000))


def reset(paced: Iterable[int]) -> None:
    """Send resets of connections that do not exist."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in paced:
            ends = (
                socket.inet_aton(SERVER),
                8080,
                socket.inet_aton(VICTIM),
                32_768 + number % 28_000,
            )
            raw.sendto(segment(ends, (1, 0), _RESET), (VICTIM, 0))


def _unreachable(paced: Iterable[int], ports: Iterable[int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        for _, port in zip(paced, ports, strict=False):
            quoted = struct.pack("!BBHHHBBH", 0x45, 0, 28, 1, 0, 64, socket.IPPROTO_UDP, 0)
            quoted += socket.inet_aton(VICTIM) + socket.inet_aton(SERVER)
            quoted += struct.pack("!HHHH", port, 8125, 8, 0)
            summed = checksum(struct.pack("!BBHI", 3, 3, 0, 0) + quoted)
            raw.sendto(struct.pack("!BBHI", 3, 3, summed, 0) + quoted, (VICTIM, 0))


def unreachable(paced: Iterable[int]) -> None:
    """Say that a port is closed to which the victim sends, for each port that it may send from."""
    _unreachable(paced, itertools.cycle(range(32_768, 61_000)))


def unreachable_to_a_known_port(paced: Iterable[int]) -> None:
    """The same, for a port at which the victim has a socket."""
    _unreachable(paced, itertools.repeat(KNOWN_PORT))


def ask_by_arp(paced: Iterable[int]) -> None:
    """Ask for the victim's hardware address, which it answers."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
        packets.bind((_DEVICE, 0x0806))
        own = packets.getsockname()[4]
        ends = own + socket.inet_aton("192.0.2.1") + b"\0" * 6 + socket.inet_aton(VICTIM)
        question = b"\xff" * 6 + own + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        for _ in paced:
            packets.send(question + ends)


def ping_with_fragments(paced: Iterable[int]) -> None:
    """Send pings of 20 kB, each of which is answered by 14 packets."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setblocking(False)
        for number in paced:
            if number % 10 == 0:
                data = b"x" * 20_000
                summed = checksum(struct.pack("!BBHHH", 8, 0, 0, 1, number) + data)
                raw.sendto(struct.pack("!BBHHH", 8, 0, summed, 1, number) + data, (VICTIM, 0))


def ping(paced: Iterable[int]) -> None:
    """Ping it as a probe of the path's MTU does; it answers each with as many bytes."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        for number in paced:
            data = b"x" * 1400
            summed = checksum(struct.pack("!BBHHH", 8, 0, 0, 1, number) + data)
            raw.sendto(struct.pack("!BBHHH", 8, 0, summed, 1, number) + data, (VICTIM, 0))


def ask_by_datagrams(paced: Iterable[int]) -> None:
    """Ask a server of time, names or games, which answers each datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in paced:
            client.sendto(b"x" * 400, (VICTIM, KNOWN_PORT))


UNPROVABLE = "metrics, told so of a port in use"
"""The one attack by which a pod becomes suspicious."""
ATTACKS: dict[str, Callable[[Iterable[int]], None]] = {
    "crawler, connections to it reset half open": half_open,
    "crawler, its own ports scanned": closed_ports,
    "crawler, sent resets": reset,
    "metrics, told that ports are closed": unreachable,
    UNPROVABLE: unreachable_to_a_known_port,
    "packet capture, asked by ARP": ask_by_arp,
    "packet capture, pinged with fragments": ping_with_fragments,
    "sixteen peers, pinged": ping,
    "sixteen peers, pinged with fragments": ping_with_fragments,
    "sixteen peers, a server of time": ask_by_datagrams,
    "sixteen peers, its ports scanned": closed_ports,
}
"""By the victim, a case of benchmarks.traffic."""
