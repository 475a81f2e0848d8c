"""Reads command lines in a process that can be killed when a read hangs.

The agent runs this file by path and never imports it; it needs nothing but the interpreter.
Standard input brings one place a line, ``PID`` or ``PID/task/TID``. Standard output answers in
the same order with records of errno, length and that many bytes: one record a piece, then one of
length 0 whose errno is 0 or says why the answer ends there. A first empty record says that the
process is ready. It ends when its input does, so it cannot outlive the agent for long.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

_RECORD = struct.Struct("=iI")


def _put(reason: int, piece: bytes = b"") -> None:
    sys.stdout.buffer.write(_RECORD.pack(reason, len(piece)) + piece)


def _put_arguments(path: str, piece_bytes: int, max_pieces: int) -> None:
    try:
        with open(path, "rb", buffering=0) as arguments:  # noqa: PTH123 - pathlib is slow to import
            for _ in range(max_pieces):
                piece = arguments.read(piece_bytes)
                if not piece:
                    break
                _put(0, piece)
    except OSError as error:
        _put(error.errno or errno.EIO)
    else:
        _put(0)
    sys.stdout.buffer.flush()  # each at once: the next read may hang


def _main(proc: str, piece_bytes: int, max_pieces: int) -> None:
    try:
        _put(0)
        sys.stdout.buffer.flush()
        for line in sys.stdin.buffer:
            _put_arguments(f"{proc}/{line.decode().strip()}/cmdline", piece_bytes, max_pieces)
    except BrokenPipeError:
        os._exit(0)  # the agent is gone; a usual exit would flush, and fail, once more


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
