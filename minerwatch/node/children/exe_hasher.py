"""Hash the executables of processes in a process that can be killed when a read hangs.

The agent runs this file by path. One JSON value a line:

============================  =======================================
standard input                standard output
============================  =======================================
``{"pid", "start_ticks"}``    ``{"digest": HEX}`` or ``{"reason": …}``
============================  =======================================
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

_PIECE_BYTES = 1 << 20
_MAX_THREADS = 256
_START = 19  # field 22 of proc_pid_stat(5), counted behind the name

_Known = dict[tuple[int, int, int, int], str]


def _main(proc: str, max_bytes: int) -> None:
    known: _Known = {}
    for line in sys.stdin.buffer:
        question = json.loads(line)
        try:
            answer = _digest(proc, question["pid"], question["start_ticks"], max_bytes, known)
        except (OSError, ValueError, IndexError) as error:
            answer = {"reason": getattr(error, "strerror", None) or type(error).__name__}
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer


def _digest(proc: str, pid: int, start_ticks: int, max_bytes: int, known: _Known) -> dict[str, str]:
    file = _open_executable(f"{proc}/{pid}")
    try:
        if parse_start_ticks(_read_stat(f"{proc}/{pid}")) != start_ticks:
            return {"reason": "gone"}
        seen = os.fstat(file)
        if seen.st_size > max_bytes:
            return {"reason": "too large"}
        key = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if key not in known:
            known[key] = _hash(file, max_bytes)
        return {"digest": known[key]}
    finally:
        os.close(file)


def _open_executable(process_folder: str) -> int:
    """Open the executable; if the first thread has exited, through another thread's link."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(f"{process_folder}/exe", flags)
    except FileNotFoundError:
        for tid in os.listdir(f"{process_folder}/task")[:_MAX_THREADS]:  # noqa: PTH208
            try:
                return os.open(f"{process_folder}/task/{tid}/exe", flags)
            except OSError:
                continue
        raise


def _hash(file: int, max_bytes: int) -> str:
    """Return the digest of at most ``max_bytes``: the file may grow while it is read."""
    digest, left = hashlib.sha256(), max_bytes
    while left > 0 and (piece := os.read(file, min(_PIECE_BYTES, left))):
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def _read_stat(process_folder: str) -> bytes:
    with open(f"{process_folder}/stat", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
        return file.read(4096)


def parse_start_ticks(stat: bytes) -> int:
    """Return the start time; raises ValueError or IndexError for anything else."""
    return int(stat.rpartition(b") ")[2].split()[_START])


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
