"""Which processes have just become another program: exec events of the kernel's proc connector.

The connector (Documentation/driver-api/connector.rst, drivers/connector/cn_proc.c) multicasts one
netlink message an event to whoever holds CAP_NET_ADMIN in the first network, user and pid
namespaces. A socket filter leaves exec events only: threads that start and end by the thousand
cost the agent nothing. What does not fit into the socket's buffer is lost, and the kernel counts it
(``sk_drops``), so that the agent knows exactly how much it has missed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import sys
import time
from contextlib import suppress

_NETLINK_CONNECTOR = 11  # include/uapi/linux/netlink.h
_CN_IDX_PROC = 1  # include/uapi/linux/connector.h
_CN_VAL_PROC = 1
_PROC_CN_MCAST_LISTEN = 1  # include/uapi/linux/cn_proc.h
_PROC_EVENT_NONE = 0
_PROC_EVENT_EXEC = 2
_NLMSG_DONE = 3
_SO_ATTACH_FILTER = 26  # include/uapi/asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8  # include/uapi/linux/sock_diag.h

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_CONNECTOR = struct.Struct("=IIIIHH")  # cn_msg: index, value, sequence, ack, length, flags
_EVENT = struct.Struct("=IIQII")  # proc_event: what, cpu, time, then of an exec: tid, pid
_EVENT_AT = _HEADER.size + _CONNECTOR.size
_FILTER_STEP = struct.Struct("=HBBI")  # sock_filter (networking/filter.rst)
_MEMORY = struct.Struct("=9I")

_BUFFER_BYTES = 16 << 20
"""About 20,000 events, half a minute of a storm; the kernel's memory, used only when needed."""
_MESSAGE_BYTES = 512
_ANSWER_S = 0.5
_LONGEST_ANSWER_S = 10.0
"""However many events of others come meanwhile: a busy node never falls silent."""


class ExecsUnavailableError(Exception):
    """Exec events cannot be had; ``str()`` says in one line why, and what would grant them."""


class ExecEvents:
    """A subscription to exec events; for one thread at a time."""

    def __init__(self, buffer_bytes: int = _BUFFER_BYTES) -> None:
        """Raises ExecsUnavailableError."""
        self.received = 0
        """Exec events since the start."""
        self._socket = _subscribed(buffer_bytes)
        self._message = bytearray(_MESSAGE_BYTES)

    def fileno(self) -> int:
        """Readable as soon as there is an event (poll(2))."""
        return self._socket.fileno()

    def close(self) -> None:
        """Ends the subscription."""
        self._socket.close()

    @property
    def lost(self) -> int:
        """Exec events that the kernel had no room for, since the start."""
        memory = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size)
        drops: int = _MEMORY.unpack(memory)[_SK_MEMINFO_DROPS]
        return drops

    def drain(self, limit: int = 4096) -> dict[int, None]:
        """Pids that have exec'ed since the last call, at most ``limit`` events, oldest first."""
        pids: dict[int, None] = {}
        for _ in range(limit):
            try:
                length, sender = self._socket.recvfrom_into(self._message)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # said once a loss; ``lost`` has the number
                    continue
                raise
            if sender[0] != 0 or length < _EVENT_AT + _EVENT.size:
                continue  # not from the kernel
            what, _cpu, _at_ns, _tid, pid = _EVENT.unpack_from(self._message, _EVENT_AT)
            if what == _PROC_EVENT_EXEC:
                self.received += 1
                pids.pop(pid, None)
                pids[pid] = None
        return pids


def _subscribed(buffer_bytes: int) -> socket.socket:
    try:
        listening = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            _NETLINK_CONNECTOR,
        )
    except OSError as error:
        raise ExecsUnavailableError(
            f"this kernel has no proc connector ({error.strerror}); it needs CONFIG_PROC_EVENTS"
        ) from error
    try:
        _grow(listening, buffer_bytes)
        listening.bind((0, _CN_IDX_PROC))
        token = int.from_bytes(os.urandom(3), sys.byteorder)
        listening.send(_request(token))
        _wait_for_answer(listening, token)
        _leave_execs_only(listening)
    except OSError as error:
        listening.close()
        raise ExecsUnavailableError(_reason(error)) from error
    except ExecsUnavailableError:
        listening.close()
        raise
    return listening


def _grow(listening: socket.socket, buffer_bytes: int) -> None:
    with suppress(OSError):  # without the capability the usual buffer has to do
        # the kernel doubles what it is given, for its own bookkeeping (socket(7))
        listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes // 2)


def _request(token: int) -> bytes:
    operation = struct.pack("=I", _PROC_CN_MCAST_LISTEN)
    connector = _CONNECTOR.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, token, len(operation), 0)
    length = _HEADER.size + len(connector) + len(operation)
    return _HEADER.pack(length, _NLMSG_DONE, 0, 0, os.getpid()) + connector + operation


def _wait_for_answer(listening: socket.socket, token: int) -> None:
    """Whoever asks from another user or pid namespace gets no answer at all (cn_proc.c).

    Everybody hears the answers to all: one's own has the request's ack, and one more.
    """
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    end_s = time.monotonic() + _LONGEST_ANSWER_S
    while time.monotonic() < end_s and poll.poll(_ANSWER_S * 1000):
        try:
            message, sender = listening.recvfrom(_MESSAGE_BYTES)
        except BlockingIOError:
            continue
        if sender[0] != 0 or len(message) < _EVENT_AT + _EVENT.size:
            continue
        what, _cpu, _at_ns, problem, _ = _EVENT.unpack_from(message, _EVENT_AT)
        answered = _CONNECTOR.unpack_from(message, _HEADER.size)[3]
        if what != _PROC_EVENT_NONE or answered != token + 1:
            continue
        if problem:
            raise _refused(problem)
        return
    raise ExecsUnavailableError(
        "the kernel did not answer: the agent must be in the host's user and pid namespaces"
        " (hostPID on the agent's pod)"
    )


def _refused(problem: int) -> OSError:
    """The error that the kernel answered; what is none has no words."""
    known = problem in errno.errorcode
    return OSError(problem, os.strerror(problem) if known else f"error {problem}")


def _leave_execs_only(listening: socket.socket) -> None:
    """Classic BPF: keep a message whose event is an exec, drop all others."""
    wanted = socket.htonl(_PROC_EVENT_EXEC)  # words are loaded in network order
    steps = (
        (0x20, 0, 0, _EVENT_AT),  # BPF_LD | BPF_W | BPF_ABS
        (0x15, 0, 1, wanted),  # BPF_JMP | BPF_JEQ | BPF_K
        (0x06, 0, 0, 0xFFFFFFFF),  # BPF_RET | BPF_K
        (0x06, 0, 0, 0),
    )
    program = ctypes.create_string_buffer(b"".join(_FILTER_STEP.pack(*step) for step in steps))
    described = struct.pack("HP", len(steps), ctypes.addressof(program))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "the capability NET_ADMIN is missing: grant it to the agent, or run it as root"
    if error.errno == errno.ECONNREFUSED:
        return "the agent is not in the host's network: set hostNetwork on the agent's pod"
    return f"the proc connector refused: {error.strerror}"
