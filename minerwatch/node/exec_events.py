"""Exec events from the kernel's proc connector: processes that have become another program.

The connector (Documentation/driver-api/connector.rst, drivers/connector/cn_proc.c) multicasts one
netlink message an event to listeners with CAP_NET_ADMIN in the first network, user and pid
namespaces. A socket filter drops all other events, so that threads that start and exit by the
thousand cost the agent nothing. Events that do not fit into the socket's buffer are lost; the
kernel counts them (``sk_drops``).
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

from minerwatch.errors import SourceUnavailableError

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
_MAX_WAIT_S = 10.0
"""Bounds the wait for an answer: on a busy node other events arrive all the time."""


class ExecEvents:
    """A subscription to exec events; for one thread at a time."""

    def __init__(
        self, buffer_bytes: int = _BUFFER_BYTES, *, max_wait_s: float = _MAX_WAIT_S
    ) -> None:
        """Raises SourceUnavailableError."""
        self.received = 0
        """Exec events since the start."""
        self._socket = _subscribed(buffer_bytes, max_wait_s)
        self._message = bytearray(_MESSAGE_BYTES)

    def fileno(self) -> int:
        """Return a descriptor that is readable while there are events (poll(2))."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the subscription."""
        self._socket.close()

    @property
    def lost(self) -> int:
        """Return the number of events that the kernel had no room for, since the start."""
        memory = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size)
        drops: int = _MEMORY.unpack(memory)[_SK_MEMINFO_DROPS]
        return drops

    def drain(self, limit: int = 4096) -> dict[int, None]:
        """Return the pids that have exec'ed since the last call, from ``limit`` events at most."""
        pids: dict[int, None] = {}
        for _ in range(limit):
            try:
                length, sender = self._socket.recvfrom_into(self._message)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # reported once a loss; ``lost`` counts
                    continue
                raise
            pid = exec_pid(self._message, length) if sender[0] == 0 else None  # the kernel's
            if pid is not None:
                self.received += 1
                pids.pop(pid, None)
                pids[pid] = None
        return pids


def exec_pid(message: bytes | bytearray, length: int) -> int | None:
    """Return the pid of an exec event; None if the message is not one."""
    if length < _EVENT_AT + _EVENT.size:
        return None
    what, _cpu, _at_ns, _tid, pid = _EVENT.unpack_from(message, _EVENT_AT)
    return pid if what == _PROC_EVENT_EXEC else None


def is_answer(message: bytes, token: int) -> bool:
    """Return True if a message answers the request with ``token``. Raises OSError if refused.

    All listeners receive the answers to all: the own one has the request's ack, and one more.
    """
    if len(message) < _EVENT_AT + _EVENT.size:
        return False
    what, _cpu, _at_ns, problem, _ = _EVENT.unpack_from(message, _EVENT_AT)
    answered = _CONNECTOR.unpack_from(message, _HEADER.size)[3]
    if what != _PROC_EVENT_NONE or answered != token + 1:
        return False
    if problem:
        is_known = problem in errno.errorcode
        raise OSError(problem, os.strerror(problem) if is_known else f"error {problem}")
    return True


def _subscribed(buffer_bytes: int, max_wait_s: float) -> socket.socket:
    try:
        listening = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            _NETLINK_CONNECTOR,
        )
    except OSError as error:
        raise SourceUnavailableError(
            f"this kernel has no proc connector ({error.strerror}); it needs CONFIG_PROC_EVENTS"
        ) from error
    try:
        with suppress(OSError):  # without the capability the default buffer stays
            # The kernel doubles the value, for its own bookkeeping (socket(7)).
            listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes // 2)
        _keep_only(listening, _PROC_EVENT_NONE, _PROC_EVENT_EXEC)
        listening.bind((0, _CN_IDX_PROC))
        _await_subscription(listening, max_wait_s)
        _keep_only(listening, _PROC_EVENT_EXEC)
    except OSError as error:
        listening.close()
        raise SourceUnavailableError(_reason(error)) from error
    except SourceUnavailableError:
        listening.close()
        raise
    return listening


def _request(token: int) -> bytes:
    operation = struct.pack("=I", _PROC_CN_MCAST_LISTEN)
    connector = _CONNECTOR.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, token, len(operation), 0)
    length = _HEADER.size + len(connector) + len(operation)
    return _HEADER.pack(length, _NLMSG_DONE, 0, 0, os.getpid()) + connector + operation


def _await_subscription(listening: socket.socket, max_wait_s: float) -> None:
    """Ask for events until the kernel answers: a request from another namespace gets no answer.

    Programs that a tenant starts by the thousand may leave no room for the answer (cn_proc.c).
    """
    token = int.from_bytes(os.urandom(3), sys.byteorder)
    listening.send(_request(token))
    descriptors = select.poll()
    descriptors.register(listening, select.POLLIN)
    end_s = time.monotonic() + max_wait_s
    is_lost = False
    while time.monotonic() < end_s:
        if not descriptors.poll(0 if is_lost else _ANSWER_S * 1000):
            if not is_lost:
                break
            listening.send(_request(token))  # there is room again only when all is read
            is_lost = False
            continue
        try:
            message, sender = listening.recvfrom(_MESSAGE_BYTES)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            is_lost = True
            continue
        if sender[0] == 0 and is_answer(message, token):
            return
    raise SourceUnavailableError(
        "the kernel did not answer: the agent must be in the host's user and pid namespaces"
        " (hostPID on the agent's pod)"
    )


def _keep_only(listening: socket.socket, *events: int) -> None:
    """Attach a classic BPF filter that keeps these events and drops all others."""
    steps = (
        (0x20, 0, 0, _EVENT_AT),  # BPF_LD | BPF_W | BPF_ABS
        *(  # BPF_JMP | BPF_JEQ | BPF_K, to the last step; words are loaded in network order
            (0x15, left, 0, socket.htonl(event))
            for left, event in zip(range(len(events), 0, -1), events, strict=True)
        ),
        (0x06, 0, 0, 0),  # BPF_RET | BPF_K
        (0x06, 0, 0, 0xFFFFFFFF),
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
