"""Hosts that answer on most ports: a TUN device in a namespace of benchmarks.networks.

Between two namespaces an answer takes microseconds, so that a socket that waits for it is hardly
ever seen; on the internet it takes milliseconds. Some hosts here are 30 ms away, others are near.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct

FAR, NEAR = "198.18.0", "198.18.1"
DEVICE = "mwtun"
ROUND_TRIP_S = 0.03
CLOSED = 30_000
"""Ports from here on refuse."""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + b"x" * 900
_TUNSETIFF, _TUN, _NO_INFO = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_SYN_RST, _FIN, _SYN_ACK, _ACK, _PUSH_ACK_FIN, _FIN_ACK = 0x06, 0x01, 0x12, 0x10, 0x19, 0x11
_RST_ACK = 0x14
_TCP = 6


def checksum(data: bytes) -> int:
    """Return the checksum of IP, TCP and ICMP (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def segment(
    ends: tuple[bytes, int, bytes, int], numbers: tuple[int, int], flags: int, data: bytes = b""
) -> bytes:
    """Return a TCP segment with its IP header; ``ends``: source and target with ports."""
    source, port, target, remote_port = ends
    tcp = struct.pack("!HHIIBBHHH", port, remote_port, *numbers, 0x50, flags, 64_000, 0, 0) + data
    summed = checksum(source + target + struct.pack("!BBH", 0, _TCP, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", summed) + tcp[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, _TCP, 0) + source + target
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + tcp


def answer_to(packet: bytes) -> bytes | None:
    """Return the answer of a host; it closes after its first words."""
    if len(packet) < 40 or packet[0] != 0x45 or packet[9] != _TCP:
        return None
    port, remote_port, number, acknowledged, offset, flags = struct.unpack_from(
        "!HHIIBB", packet, 20
    )
    data = packet[20 + 4 * (offset >> 4) :]
    ends = packet[16:20], remote_port, packet[12:16], port
    if flags & _SYN_RST:
        is_syn = flags & _SYN_RST == 0x02
        how = _SYN_ACK if remote_port < CLOSED else _RST_ACK
        return segment(ends, (0, (number + 1) & 0xFFFFFFFF), how) if is_syn else None
    following = (number + len(data) + (flags & _FIN)) & 0xFFFFFFFF
    if data:
        return segment(ends, (acknowledged, following), _PUSH_ACK_FIN, ANSWER)
    if flags & _FIN:
        how = _FIN_ACK if acknowledged == 1 else _ACK
        return segment(ends, (acknowledged, following), how)
    return None


def answer(loop: asyncio.AbstractEventLoop) -> None:
    """Answer each packet, after a round trip, where the device exists; else do nothing."""
    near = socket.inet_aton(f"{NEAR}.0")[:3]
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        socket.if_nametoindex(DEVICE)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _TUN | _NO_INFO))
    except OSError:
        return

    def read() -> None:
        reply = answer_to(os.read(device, 4096))
        if reply is not None and reply[12:15] == near:
            os.write(device, reply)
        elif reply is not None:
            loop.call_later(ROUND_TRIP_S, os.write, device, reply)

    loop.add_reader(device, read)
