"""Packets of the node that may be a miner's first words or a TLS ClientHello (packet(7)).

A filter in the kernel drops all others. It is locked, so that it cannot be widened later. The
packets wait in a group of sockets, by the interface that they came through: a pod that floods fills
one buffer, which it shares with few interfaces.
"""

from __future__ import annotations

import errno
import random
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from minerwatch.errors import SourceUnavailableError
from minerwatch.node.packet_filter import SNAP_BYTES, attached, by_interface, first_words_filter

_ALL_PROTOCOLS = 3  # include/uapi/linux/if_ether.h
_SOL_PACKET = 263
_STATISTICS, _FANOUT, _FANOUT_DATA = 6, 18, 22  # include/uapi/linux/if_packet.h
_FANOUT_CBPF, _FANOUT_UNIQUE_ID = 6, 0x2000
_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44  # include/uapi/asm-generic/socket.h
_VERSIONS = {0x0800: 4, 0x86DD: 6}  # of IP, by protocol
_LANES = 8
_HALF_A_BUFFER = 256 << 10
"""Of each socket; the kernel doubles it (socket(7)). About 200 ClientHellos; used when needed."""
_COUNTS = struct.Struct("=II")


class Packet(NamedTuple):
    """A packet from its IP header on."""

    interface: str
    content: bytes
    is_outgoing: bool = False  # sent or forwarded by the host, not received


class PacketReader:
    """Sockets of the network namespace that it is opened in; for one thread at a time."""

    def __init__(self) -> None:
        """Raises SourceUnavailableError."""
        self._lost = 0
        self._opened = ExitStack()
        self._buffer = bytearray(SNAP_BYTES)
        self._descriptors = select.poll()
        self._woken, self._wake = socket.socketpair()
        self._sockets: list[socket.socket] = []
        for each in (self._woken, self._wake):
            self._opened.callback(each.close)
        self._descriptors.register(self._woken, select.POLLIN)
        try:
            self._open()
        except OSError as error:
            self.close()
            raise SourceUnavailableError(_reason(error)) from error

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for a packet; return True if there is one."""
        ready = self._descriptors.poll(None if timeout_s is None else timeout_s * 1000)
        return any(fd != self._woken.fileno() for fd, _ in ready)

    def wake(self) -> None:
        """End the current and all later calls of ``wait``; from any thread."""
        with suppress(OSError):  # it is closed
            self._wake.send(b"\0")

    def read(self, limit: int) -> Iterator[Packet]:
        """Yield packets that wait, ``limit`` of each socket at most, in turns."""
        ready, left = random.sample(self._sockets, len(self._sockets)), limit
        while ready and left > 0:
            left -= 1
            for each in [*ready]:
                packet = self._next(each)
                if packet is None:
                    ready.remove(each)
                else:
                    yield packet

    def filenos(self) -> list[int]:
        """Return the descriptors of the sockets."""
        return [each.fileno() for each in self._sockets]

    @property
    def lost(self) -> int:
        """Number of packets that the kernel had no room for, since the start."""
        for each in self._sockets:  # the kernel counts from the last question on
            self._lost += _COUNTS.unpack(each.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size))[1]
        return self._lost

    def close(self) -> None:
        """Close the sockets."""
        self._opened.close()

    def _open(self) -> None:
        group = 0
        for number in range(_LANES):
            lane = socket.socket(
                socket.AF_PACKET,
                socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                socket.htons(_ALL_PROTOCOLS),
            )
            self._opened.callback(lane.close)
            program, kept = attached(first_words_filter())
            lane.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            lane.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _HALF_A_BUFFER)
            flags = _FANOUT_CBPF | (0 if number else _FANOUT_UNIQUE_ID)
            lane.setsockopt(_SOL_PACKET, _FANOUT, group | flags << 16)
            if not number:
                group = lane.getsockopt(_SOL_PACKET, _FANOUT) & 0xFFFF
                program, kept = attached(by_interface())
                lane.setsockopt(_SOL_PACKET, _FANOUT_DATA, program)
            del kept
            lane.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
            while self._next(lane) is not None:  # what came before the filter
                pass
            self._sockets.append(lane)
            self._descriptors.register(lane, select.POLLIN)

    def _next(self, lane: socket.socket) -> Packet | None:
        try:
            length, sender = lane.recvfrom_into(self._buffer)
        except BlockingIOError:
            return None
        # Else an inner VLAN's tag is first; since Linux 6.11 the protocol is that of what follows
        start = 0 if self._buffer[0] >> 4 == _VERSIONS.get(sender[1]) else 4
        content = bytes(memoryview(self._buffer)[start:length])
        return Packet(sender[0], content, is_outgoing=sender[2] == socket.PACKET_OUTGOING)


def open_host_packets() -> PacketReader:
    """Open them in the host's network. Raises SourceUnavailableError."""
    with suppress(OSError):
        own, host = (Path(f"/proc/{each}/ns/net").stat().st_ino for each in ("self", "1"))
        if own != host:
            raise SourceUnavailableError(
                "the agent is not in the host's network: set hostNetwork on the agent's pod"
            )
    return PacketReader()


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "the capability NET_RAW is missing: grant it to the agent, or run it as root"
    if error.errno == errno.ENOMEM:
        return "the filter is refused: set net.core.optmem_max to 20480 or more"
    return f"packet sockets are refused: {error.strerror}"
