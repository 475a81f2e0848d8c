"""Files of /proc and of the cgroup tree: small ones read by one read(2), shown as text."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from minerwatch.model import ProcessId, ProcessStat
from minerwatch.text_budget import both_ends

STAT_BYTES = 4096
"""Enough for /proc/PID/stat, whose line is below 1 KiB."""
GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENOTDIR})
"""ESRCH, ENODEV: a process has exited, a cgroup was removed, while its file was open."""
NO_FILES_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
_SHORT = NO_FILES_LEFT | {errno.ENOMEM, errno.EAGAIN}
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""Unit of the times in /proc/PID/stat: CPU time is exact to 10 ms on usual kernels."""

_PF_EXITING = 0x00000004  # include/linux/sched.h
_PF_KTHREAD = 0x00200000

_STATUS_BYTES = 4096  # Uid is among the first lines; only Groups, after it, can be long
_LONG_STATUS_BYTES = 1 << 20  # 65,536 groups of 10 digits fit
_MAX_PATH_BYTES = 8 << 10
MAX_ENDED_THREADS = 1024
"""Threads among which a living one is looked for."""


class CountedFiles:
    """Reads files, and counts failures by reason."""

    def __init__(self, failures: dict[str, int]) -> None:
        self.failures = failures
        self.is_short = False
        """Set when a file could not be read because files or memory ran out."""

    def content(self, path: str | bytes, limit_bytes: int = 4096) -> bytes | None:
        """Return the start of a file; None if it cannot be read."""
        try:
            return read_once(path, limit_bytes)
        except OSError as error:
            self.count(error)
            return None

    def whole(self, path: str | bytes, limit_bytes: int) -> bytes | None:
        """Return a file of many pages up to a limit; None if it cannot be read."""
        try:
            return read_whole(path, limit_bytes)
        except OSError as error:
            self.count(error)
            return None

    def count(self, error: OSError | ValueError) -> None:
        """Count a failure; a file that is gone does not count."""
        if isinstance(error, PermissionError):
            self.failures["permission"] += 1
        elif not isinstance(error, OSError):
            self.failures["malformed"] += 1
        elif error.errno not in GONE:
            self.failures["unreadable"] += 1
            self.is_short = self.is_short or error.errno in _SHORT


def read_once(path: str | bytes, limit_bytes: int) -> bytes:
    """Read the start of a file; the kernel returns a small one whole (fs/seq_file.c)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, limit_bytes)
    finally:
        os.close(fd)


def read_whole(path: str | bytes, limit_bytes: int) -> bytes:
    """Read a file up to a limit; the kernel returns a long list one page (4 KiB) at a time."""
    content = bytearray()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while len(content) < limit_bytes and (piece := os.read(fd, limit_bytes - len(content))):
            content += piece
    finally:
        os.close(fd)
    return bytes(content)


def decoded(raw: bytes) -> str:
    """Return bytes that a tenant may have chosen as text."""
    return raw.decode("utf-8", "backslashreplace")


def is_alive(proc: str, process: ProcessId) -> bool:
    """Return True if ``process`` exists; False also if another one has its PID."""
    try:
        stat = parse_stat(process.pid, read_once(f"{proc}/{process.pid}/stat", STAT_BYTES))
    except OSError:
        return False
    return stat is not None and stat.id == process


def living_task_path(proc: str, pid: int, tid: int = 0) -> str:
    """Return the folder below ``proc`` that shows a process's memory: ``PID`` or ``PID/task/TID``.

    A first thread that has exited while others run on is a zombie without memory: /proc/PID/cmdline
    is empty and the exe link leads nowhere, but those of its other threads do (proc_pid_task(5)).
    Threads that exit vanish, except the first, and those that a tracer does not wait for
    (ptrace(2)). Raises OSError if the process is gone. ``tid``: a thread that may live, or 0.
    """
    if not _has_exited(f"{proc}/{pid}"):
        return str(pid)
    if tid:
        with suppress(FileNotFoundError, ProcessLookupError):
            if not _has_exited(f"{proc}/{pid}/task/{tid}"):
                return f"{pid}/task/{tid}"
    with os.scandir(f"{proc}/{pid}/task") as entries:
        for entry in islice(entries, MAX_ENDED_THREADS):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has exited meanwhile
                if not _has_exited(f"{proc}/{pid}/task/{entry.name}"):
                    return f"{pid}/task/{entry.name}"
    return str(pid)


def _has_exited(folder: str) -> bool:
    parsed = _parse_stat(0, read_once(f"{folder}/stat", STAT_BYTES))
    return parsed is not None and parsed[1]


def parse_stat(pid: int, line: bytes) -> ProcessStat | None:
    """Parse a line of /proc/PID/stat (proc_pid_stat(5)); return None if it is not one."""
    parsed = _parse_stat(pid, line)
    return parsed[0] if parsed else None


class ProcessFiles(CountedFiles):
    """Reads the files of single processes that cannot hang: stat, status, threads, links.

    They need no lock that the process can hold: stat and status read counters, the exe and cwd
    links read paths under RCU (``get_task_exe_file``). No path of the process is opened or stat'ed:
    its file system may be a dead network mount.
    """

    def __init__(self, proc: str, failures: dict[str, int]) -> None:
        super().__init__(failures)
        self._proc = proc

    def stat(self, pid: int, task_path: str = "") -> tuple[ProcessStat, bool] | None:
        """Read a stat file; the flag says that the task is exiting, or a zombie."""
        line = self.content(f"{self._proc}/{task_path or pid}/stat", STAT_BYTES)
        if line is None:
            return None
        parsed = _parse_stat(pid, line)
        if parsed is None:
            self.failures["malformed"] += 1
        return parsed

    def threads(self, pid: int, limit: int) -> Iterator[int]:
        """Yield the first ``limit`` thread ids of a process."""
        try:
            with os.scandir(f"{self._proc}/{pid}/task") as entries:
                yield from (int(entry.name) for entry in islice(entries, limit))
        except (OSError, ValueError) as error:
            self.count(error)

    def living_thread(self, pid: int) -> str | None:
        """Return the folder of a living thread of a process whose first thread has exited."""
        try:
            task_path = living_task_path(self._proc, pid)
        except OSError as error:
            self.count(error)
            return None
        return task_path if task_path != str(pid) else None

    def uid(self, pid: int) -> int:
        """Read the effective uid; return -1 if it cannot be read.

        The line before it, Name, cannot forge it: the kernel escapes newlines there.
        """
        status = self.content(f"{self._proc}/{pid}/status", _STATUS_BYTES)
        if status is None:
            return -1
        try:
            return int(status.partition(b"\nUid:")[2].split(None, 2)[1])
        except (IndexError, ValueError):
            self.failures["malformed"] += 1
            return -1

    def status(self, task_path: str) -> bytes | None:
        """Read all of a status file (proc_pid_status(5))."""
        path = f"{self._proc}/{task_path}/status"
        status = self.content(path, _STATUS_BYTES)
        if status is not None and len(status) == _STATUS_BYTES:
            return self.content(path, _LONG_STATUS_BYTES)
        return status

    def link(self, name: str) -> str:
        """Read a link; return "" if it cannot be read."""
        try:
            link = os.readlink(os.fsencode(f"{self._proc}/{name}"))  # noqa: PTH115 - hot
            return both_ends(decoded(link), _MAX_PATH_BYTES)
        except OSError as error:
            self.count(error)
            return ""


def _parse_stat(pid: int, line: bytes) -> tuple[ProcessStat, bool] | None:
    # The name may hold ") R 1 2" and any other bytes; no field after it holds a bracket.
    name, bracket, rest = line.rpartition(b")")
    fields = rest.split(None, 46)
    if not bracket or b"(" not in name or len(fields) < 46:
        return None
    try:
        flags = int(fields[6])
        stat = ProcessStat(
            id=ProcessId(pid, int(fields[19])),
            parent_pid=int(fields[1]),
            comm=decoded(name.partition(b"(")[2]),
            cpu_s=(int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S,
            threads=int(fields[17]),
            kernel_thread=bool(flags & _PF_KTHREAD),
            program=hash((int(fields[23]), int(fields[25]), int(fields[45]))),
        )
    except (ValueError, OverflowError):
        return None
    return stat, fields[0] in b"ZXx" or bool(flags & _PF_EXITING)
