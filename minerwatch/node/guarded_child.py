"""The one way to run a program of node/children/, which may hang or be taken over.

A child gets one JSON value a line and answers by JSON lines. It parses what attackers wrote, so its
answers are bounded, decoded into a type and not trusted. It has the capabilities to read other
processes and no others, and is killed with the agent. A child in an uninterruptible system call
(state D) cannot be killed: it is left behind, and a few of those stop further starts.
"""

from __future__ import annotations

import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from minerwatch.backoff import Backoff
from minerwatch.node import confined
from minerwatch.node.proc_files import STAT_BYTES, read_once

T = TypeVar("T")

CHILDREN = Path(__file__).parent / "children"
MAX_LINE_BYTES = 64 << 10
_MAX_DYING = 4
_CHECK_S = 0.5
_MIN_WAIT_S = 0.001
_EXIT_S = 1.0  # on a busy machine even a killed child takes a while
_MIN_PAUSE_S = 0.1
_MAX_PAUSE_S = 10.0
_STEADY_S = 10.0
"""A child that ran for this long before it failed is replaced without backoff."""


class StalledError(TimeoutError):
    """The child waits in the kernel and makes no progress."""


class AnswerLines:
    """JSON lines of a pipe, with bounds on their length and on the time to wait for them."""

    def __init__(self, pipe: int, pid: int) -> None:
        """``pid``: the process that writes them; its CPU time shows progress."""
        self._pipe = pipe
        self._pid = pid
        self._received = bytearray()

    def next(self, kind: type[T], until_s: float, stall_s: float = math.inf) -> T:
        """Return the next line as ``kind``.

        Raises TimeoutError at ``until_s`` (monotonic), StalledError when the process has blocked
        for ``stall_s`` without CPU time, OSError when it exited, ValueError for any other line.
        """
        cpu, moved_s = self._state_and_cpu()[1], time.monotonic()
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > MAX_LINE_BYTES:
                raise ValueError("a line without an end")
            now_s = time.monotonic()
            timeout_s = min(until_s - now_s, moved_s + stall_s - now_s, _CHECK_S)
            if self._is_readable(max(_MIN_WAIT_S, timeout_s)):
                self._receive()
                continue
            now_s, cpu_before = time.monotonic(), cpu
            state, cpu = self._state_and_cpu()
            if cpu != cpu_before or state == b"R":  # it runs, or waits for a CPU
                moved_s = now_s
            elif now_s - moved_s >= stall_s and not self._is_readable(0):
                raise StalledError("the child hangs")
            if now_s >= until_s:
                raise TimeoutError("no answer in time")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            return msgspec.json.decode(line, type=kind)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error

    def _is_readable(self, timeout_s: float) -> bool:
        readable = select.poll()
        readable.register(self._pipe, select.POLLIN)
        return bool(readable.poll(timeout_s * 1000))

    def _receive(self) -> None:
        received = os.read(self._pipe, MAX_LINE_BYTES)
        if not received:
            raise OSError("the child exited")
        self._received += received

    def _state_and_cpu(self) -> tuple[bytes, list[bytes]]:
        """Return state, and user and system time, of /proc/PID/stat (proc_pid_stat(5))."""
        try:
            stat = read_once(f"/proc/{self._pid}/stat", STAT_BYTES)
        except OSError:
            return b"", []
        fields = stat.rpartition(b")")[2].split()
        return fields[0], fields[11:13]


class GuardedChild:
    """One running child. Its methods raise as AnswerLines does."""

    def __init__(self, script: Path, *arguments: str, needs_packages: bool = False) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", *(() if needs_packages else ("-S",))),
                *(confined.__file__, str(os.getpid()), str(script), *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C ends the agent, which then ends the child
        )
        self.pid = self._process.pid
        self.started_s = time.monotonic()
        self._answers = AnswerLines(_fd(self._process.stdout), self.pid)
        os.set_blocking(_fd(self._process.stdin), False)
        self._is_started = False

    def has_started(self, until_s: float) -> bool:
        """Return True once the program runs: a deadline for an answer should not include that."""
        if not self._is_started:
            with suppress(TimeoutError):
                self._answers.next(dict, until_s)
                self._is_started = True
        return self._is_started

    def send(self, request: Any, until_s: float) -> None:
        """Send one line."""
        stdin = _fd(self._process.stdin)
        writable = select.poll()
        writable.register(stdin, select.POLLOUT)
        rest = memoryview(msgspec.json.encode(request) + b"\n")
        while rest:
            if not writable.poll(max(_MIN_WAIT_S, until_s - time.monotonic()) * 1000):
                raise TimeoutError("the child does not read")
            with suppress(BlockingIOError):
                rest = rest[os.write(stdin, rest) :]

    def receive(self, kind: type[T], until_s: float, stall_s: float = math.inf) -> T:
        """Return the next answer."""
        if not self.has_started(until_s):
            raise TimeoutError("the child did not start in time")
        return self._answers.next(kind, until_s, stall_s)

    def kill(self) -> None:
        """Send SIGKILL; safe to call from any thread."""
        self._process.kill()

    def close(self) -> None:
        """Kill it and close its pipes; do not wait for its exit."""
        self.kill()
        self.end_input()

    def end_input(self) -> None:
        """Close its pipes, at which it exits by itself; do not wait for that."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def has_exited(self, timeout_s: float = 0.0) -> bool:
        """Return True if it exits within ``timeout_s``; also reap it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self._process.returncode is not None


class GuardedProgram:
    """Keep at most one child of a program running, replaced when it fails; for one thread."""

    def __init__(self, script: Path, *arguments: str, needs_packages: bool = False) -> None:
        self._script = script
        self._arguments = arguments
        self._needs_packages = needs_packages
        self._child: GuardedChild | None = None
        self._dying: list[tuple[GuardedChild, Hashable]] = []
        self._backoff = Backoff(_MIN_PAUSE_S, _MAX_PAUSE_S)
        self._not_before_s = -math.inf

    @property
    def is_running(self) -> bool:
        """Return True while there is a child that was not discarded."""
        return self._child is not None

    @property
    def backoff_s(self) -> float:
        """Return the seconds until a child may be started again."""
        return 0.0 if self._child is not None else max(0.0, self._not_before_s - time.monotonic())

    def dying(self, timeout_s: float = 0.0) -> int:
        """Return the number of killed children that do not exit within ``timeout_s`` each."""
        self._dying = [each for each in self._dying if not each[0].has_exited(timeout_s)]
        return len(self._dying)

    def child(self, owner: Hashable = None) -> GuardedChild | None:
        """Return the child, started if need be; raises OSError if it cannot be started.

        None: backoff, too many killed children remain, or one of them hangs in ``owner``.
        """
        is_full = self.dying() >= _MAX_DYING
        if is_full or any(owner is not None and hung_in == owner for _, hung_in in self._dying):
            return None
        if self._child is None and not self.backoff_s:
            self._child = GuardedChild(
                self._script, *self._arguments, needs_packages=self._needs_packages
            )
        return self._child

    def discard(self, owner: Hashable = None, *, has_failed: bool = False) -> None:
        """Kill the child; ``owner``: the container that it hangs in. Back off if it failed."""
        child, self._child = self._child, None
        if child is not None:
            child.close()
            self._dying.append((child, owner))
            is_steady = time.monotonic() - child.started_s >= _STEADY_S
            if is_steady or not has_failed:
                self._backoff.reset()
        if has_failed:
            self._not_before_s = time.monotonic() + self._backoff.next_s()
        self.dying()

    def close(self) -> None:
        """Kill the child and wait for a moment until all are reaped."""
        self.discard()
        self.dying(_EXIT_S)

    def release(self) -> None:
        """End the child's input and wait for a moment; it is not killed: it may be in a driver."""
        child, self._child = self._child, None
        if child is not None:
            child.end_input()
            self._dying.append((child, None))
        self.dying(_EXIT_S)

    def kill(self) -> None:
        """Kill the child, from any thread; the thread that uses it then discards it."""
        if (child := self._child) is not None:
            child.kill()


def output_of(module: str, given: bytes = b"", *, max_s: float) -> bytes:
    """Run a module of minerwatch in a child until it exits; return what it wrote.

    For work that needs much memory once. The module's argument is this process's PID: it calls
    ``confined.follow`` and ``confined.keep``. Raises OSError, or SubprocessError if it fails or
    takes longer.
    """
    # The child imports from the same folders; -P leaves out the working folder.
    search_path = {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    return subprocess.run(
        [sys.executable, "-P", "-m", module, str(os.getpid())],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **search_path},
        start_new_session=True,  # as above
        timeout=max_s,
        check=True,
    ).stdout


def _fd(pipe: IO[bytes] | None) -> int:
    assert pipe is not None  # noqa: S101 - it was requested
    return pipe.fileno()
