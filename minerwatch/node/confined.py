"""Takes capabilities away from this process and from what it starts (capabilities(7)).

Run as a script it becomes another Python that has no more than it names::

    python -I confined.py SYS_PTRACE,DAC_READ_SEARCH -I scanner.py ARGUMENT…

With ``no_new_privs`` root gains nothing by execve(2) either, so nothing can be taken back.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_CAPABILITY_VERSION = 0x20080522  # include/uapi/linux/capability.h
_BITS = {"DAC_READ_SEARCH": 2, "NET_ADMIN": 12, "SYS_PTRACE": 19}
_PR_SET_NO_NEW_PRIVS = 38  # include/uapi/linux/prctl.h

CONFINED = (sys.executable, "-I", __file__, "SYS_PTRACE,DAC_READ_SEARCH")
"""Begins the command of a Python that may read other processes, and nothing else."""


def give_up(*names: str) -> None:
    """Take these from this thread and from all threads and processes that it starts later."""
    _restrict(~sum(1 << _BITS[name] for name in names))


def keep(*names: str) -> None:
    """Take all but these from this thread and from all that it starts later."""
    _restrict(sum(1 << _BITS[name] for name in names))


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


if __name__ == "__main__":
    keep(*sys.argv[1].split(","))
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])  # noqa: S606 - ours
