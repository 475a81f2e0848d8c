"""The child of executables.py: SHA-256 of what processes execute; may be killed at any moment.

It is run as a script and imports nothing of ours. Arguments: the root of proc, the most bytes of a
file, then ``PID:START_TICKS`` of each process. It prints a line for each: the pid, then the digest
or ``-`` and the reason why there is none.
"""

from __future__ import annotations

import hashlib
import os
import sys

_PIECE_BYTES = 1 << 20
_MAX_THREADS = 256
_START = 19  # field 22 of proc_pid_stat(5), counted behind the name


def main(proc: str, most_bytes: int, asked: list[str]) -> None:
    """Print what is asked for, each line as soon as it is known."""
    known: dict[tuple[int, int, int, int], str] = {}
    for word in asked:
        pid, _, start_ticks = word.partition(":")
        try:
            answer = _digest(proc, pid, start_ticks, most_bytes, known)
        except (OSError, ValueError, IndexError) as error:
            answer = f"- {getattr(error, 'strerror', None) or type(error).__name__}"
        print(pid, answer, flush=True)  # noqa: T201 - the answer


def _digest(
    proc: str,
    pid: str,
    start_ticks: str,
    most_bytes: int,
    known: dict[tuple[int, int, int, int], str],
) -> str:
    file = _opened(proc, pid)
    try:
        if _start_ticks(proc, pid) != start_ticks:
            return "- gone"
        seen = os.fstat(file)
        if seen.st_size > most_bytes:
            return "- too large"
        key = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if key not in known:
            known[key] = _hashed(file, most_bytes)
        return known[key]
    finally:
        os.close(file)


def _opened(proc: str, pid: str) -> int:
    """Open the program of a process; if its first thread has ended, by another one's link."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(f"{proc}/{pid}/exe", flags)
    except FileNotFoundError:
        for tid in os.listdir(f"{proc}/{pid}/task")[:_MAX_THREADS]:  # noqa: PTH208
            try:
                return os.open(f"{proc}/{pid}/task/{tid}/exe", flags)
            except OSError:
                continue
        raise


def _hashed(file: int, most_bytes: int) -> str:
    """The digest; of a file that grows while it is read, no more than it may have."""
    digest, left = hashlib.sha256(), most_bytes
    while left > 0 and (piece := os.read(file, min(_PIECE_BYTES, left))):
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def _start_ticks(proc: str, pid: str) -> str:
    with open(f"{proc}/{pid}/stat", "rb") as file:  # noqa: PTH123 - no import that is not needed
        return file.read(4096).rpartition(b") ")[2].split()[_START].decode("ascii")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
