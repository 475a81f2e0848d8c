"""Read command lines in a process that can be killed when a read hangs.

The agent runs this file by path. It imports nothing that is slow to import. Each line of input is
one JSON text, ``"PID"`` or ``"PID/task/TID"``. The answer is ``{"piece": BASE64}`` for each piece,
then ``{"errno": 0}``, or the reason why the command line ends there.
"""

from __future__ import annotations

import binascii
import errno
import os
import sys


def _put(answer: bytes) -> None:
    os.write(1, answer + b"\n")


def _put_arguments(path: str, piece_bytes: int, max_pieces: int) -> None:
    reason = 0
    try:
        with open(path, "rb", buffering=0) as arguments:  # noqa: PTH123 - pathlib is slow to import
            for _ in range(max_pieces):
                piece = arguments.read(piece_bytes)
                if not piece:
                    break
                _put(b'{"piece": "%s"}' % binascii.b2a_base64(piece, newline=False))
    except OSError as error:
        reason = error.errno or errno.EIO
    _put(b'{"errno": %d}' % reason)


def _main(proc: str, piece_bytes: int, max_pieces: int) -> None:
    try:
        for line in sys.stdin.buffer:
            task_path = line.decode().strip().strip('"')
            _put_arguments(f"{proc}/{task_path}/cmdline", piece_bytes, max_pieces)
    except BrokenPipeError:
        os._exit(0)  # the agent has exited; an ordinary exit would flush, and fail, once more


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
