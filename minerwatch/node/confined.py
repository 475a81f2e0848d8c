"""Take capabilities away from this process and from what it starts (capabilities(7)).

Run as a script, it confines itself and then becomes another script, in the same interpreter::

    python -I confined.py PARENT_PID SCRIPT ARGUMENT…

With ``no_new_privs`` root gains nothing by execve(2), so nothing can be taken back.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from importlib.machinery import SourceFileLoader

_CAPABILITY_VERSION = 0x20080522  # include/uapi/linux/capability.h
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9

CAPABILITY_BITS = {
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_PTRACE": 19,
    "PERFMON": 38,
    "BPF": 39,
}
"""Those that the agent needs or drops (include/uapi/linux/capability.h)."""
READS_PROCESSES = ("SYS_PTRACE", "DAC_READ_SEARCH")
"""Capabilities of a child: read other users' processes, and nothing else."""


def follow(parent_pid: int) -> None:
    """Have this process killed when its parent exits."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(1)  # the parent exited before the signal was requested


def give_up(*names: str) -> None:
    """Drop these in this thread and in all threads and processes that it starts later."""
    _restrict(~sum(1 << CAPABILITY_BITS[name] for name in names))


def keep(*names: str) -> None:
    """Drop all but these in this thread and in all that it starts later."""
    _restrict(sum(1 << CAPABILITY_BITS[name] for name in names))


def _restrict(kept: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")
    words = struct.unpack("=6I", data)  # effective, permitted, inheritable; then their upper halves
    left = [word & kept >> 32 * (number // 3) & 0xFFFFFFFF for number, word in enumerate(words)]
    if libc.capset(header, struct.pack("=6I", *left)):
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def _become(parent_pid: int, script: str) -> None:
    """Run ``script`` as a child that is killed with its parent; report first that it started."""
    follow(parent_pid)
    keep(*READS_PROCESSES)
    sys.argv = sys.argv[2:]
    code = SourceFileLoader(__name__, script).get_code(__name__)  # from __pycache__, if it is there
    assert code is not None  # noqa: S101 - it is a source file
    os.write(1, b"{}\n")
    exec(code, {**globals(), "__file__": script})  # noqa: S102 - ours


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2])
