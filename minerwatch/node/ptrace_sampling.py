"""How running threads round, by short stops: where all tasks cannot be read at once.

The agent traces nobody. children/ptrace_sampler.py does, in a child that says how it keeps its
targets from harm; whatever happens to child or agent, the kernel lets the targets go on. It stops
at most four threads a second on the whole node, each process once a second at most, each for about
0.1 ms. Nobody waits for it: an answer comes when it comes.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from minerwatch.model import FpSample, ProcessId

_SAMPLER = Path(__file__).parent / "children" / "ptrace_sampler.py"

_ASK_EVERY_S = 1.0
_ANSWER_S = 4.0
_TRIAL_S = 10.0
_RESTART_S = 10.0
_FAREWELL_S = 1.0
_FIRST_PAUSE_S = 60.0
_LAST_PAUSE_S = 3600.0
"""Of all sampling, when a target stood still for long: the node is too busy for it."""
_GOOD_IN_A_ROW = 16
"""After so many samples the node is not thought too busy any more."""
_AVOIDED_S = 1800.0
_MAX_LINE_BYTES = 4096

_FAILURES = (
    *("gone", "exempt", "traced", "waits", "refused", "not_stopped", "interrupted", "slow"),
    *("other_registers", "unreadable", "hung", "child", "timeout", "cpu_quota"),
)
_AVOIDED = frozenset(("gone", "exempt", "refused", "interrupted", "hung", "other_registers"))
"""After these a process is left alone for half an hour."""
_REASONS = {
    "machine": "on this machine ptrace does not tell the floating-point control word",
    "other_registers": "this kernel does not tell the floating-point control word by ptrace",
    "refused": "the kernel refused a trial: see kernel.yama.ptrace_scope, and the seccomp and"
    " AppArmor profiles of the agent's pod",
}


class PtraceUnavailableError(Exception):
    """Nobody can be sampled; ``str()`` says in one line why, and what would grant it."""


class PtraceSampler:
    """Samples a few running threads a second; for one thread at a time.

    ``failures`` counts why there was no sample since the start, by reason: ``gone``; ``exempt`` for
    the first process, the kernel's own, the agent and what it started; ``traced`` by somebody
    else; ``waits`` where no thread ran without waiting since the last look; ``refused`` by the
    kernel; ``not_stopped`` within 50 ms; ``interrupted`` where a system call was cut short;
    ``slow`` where a thread stood still for more than 20 ms; ``other_registers``; ``unreadable``
    files in /proc; ``hung`` in the kernel; ``child`` for a sampler that ended or talked nonsense,
    ``timeout`` for one that did not answer; ``cpu_quota`` while ``held_up_by`` gave a reason.
    """

    most_at_once = 8
    """Processes that it takes turns with."""

    def __init__(self, held_up_by: Callable[[], str]) -> None:
        """Starts the child, which tries itself out. Raises PtraceUnavailableError.

        ``held_up_by`` says why the agent may be kept from running, "" where it is not: whoever it
        has stopped would stand still as long.
        """
        self.failures = dict.fromkeys(_FAILURES, 0)
        self._held_up_by = held_up_by
        self._samples: list[FpSample] = []
        self._avoided: dict[ProcessId, float] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._asked_s: float | None = None  # while an answer is to come
        self._not_before_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._good = 0
        if reason := held_up_by():
            raise PtraceUnavailableError(reason)
        self._start()
        try:
            self._wait_for_trial()
        except PtraceUnavailableError:
            self.close()
            raise

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        """What has been sampled since the last call; it asks for more of ``processes``."""
        now_s = time.monotonic()
        self._take_answers(now_s)
        if self._asked_s is None and now_s >= self._not_before_s:
            self._ask(processes, now_s)
        samples, self._samples = self._samples, []
        return samples

    def rest(self) -> None:
        """Ends the child, until somebody is to be sampled again."""
        self._samples.clear()
        self._end()

    def close(self) -> None:
        """Ends the child for good."""
        self._end()

    def _ask(self, processes: Iterable[ProcessId], now_s: float) -> None:
        self._avoided = {each: s for each, s in self._avoided.items() if s > now_s}
        asked = [each for each in processes if each not in self._avoided][: self.most_at_once]
        if not asked:
            return
        self._not_before_s = now_s + _ASK_EVERY_S
        if self._held_up_by():
            self.failures["cpu_quota"] += 1
            self._end()
            return
        try:
            if self._child is None:
                self._start()
            self._put(" ".join(f"{each.pid} {each.start_ticks}" for each in asked))
        except OSError:
            self._fail("child", now_s)
        else:
            self._asked_s = now_s

    def _take_answers(self, now_s: float) -> None:
        if self._asked_s is None:
            return
        try:
            while self._asked_s is not None and (line := self._line()) is not None:
                self._take(line.split(), now_s)
        except (OSError, ValueError):
            self._fail("child", now_s)
        if self._asked_s is not None and now_s - self._asked_s > _ANSWER_S:
            self._fail("timeout", now_s)

    def _take(self, words: list[str], now_s: float) -> None:
        match words:
            case ["ready"]:
                pass
            case ["done"]:
                self._asked_s = None
            case ["sample", pid, start_ticks, tid, word]:
                process = ProcessId(int(pid), int(start_ticks))
                self._samples.append(FpSample(process, int(tid), None, int(word) & 0xFFFFFFFF))
                self._good += 1
                if self._good >= _GOOD_IN_A_ROW:
                    self._pause_s = _FIRST_PAUSE_S
            case ["failure", reason, pid, start_ticks] if reason in self.failures:
                self._miss(reason, ProcessId(int(pid), int(start_ticks)), now_s)
            case _:
                raise ValueError(" ".join(words)[:80])

    def _miss(self, reason: str, process: ProcessId, now_s: float) -> None:
        self.failures[reason] += 1
        if reason in _AVOIDED:
            self._avoided[process] = now_s + _AVOIDED_S
        if reason == "hung":
            self._end()
        if reason == "slow":
            self._not_before_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)
            self._good = 0

    def _fail(self, reason: str, now_s: float) -> None:
        self.failures[reason] += 1
        self._not_before_s = now_s + _RESTART_S
        self._end()

    # The child.

    def _start(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", _SAMPLER, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # so that Ctrl-C ends the agent, which then ends it
        )

    def _wait_for_trial(self) -> None:
        until_s = time.monotonic() + _TRIAL_S
        try:
            while (line := self._line(max(0.0, until_s - time.monotonic()))) is None:
                if time.monotonic() >= until_s:
                    raise PtraceUnavailableError(f"its sampler said nothing for {_TRIAL_S:g} s")
        except OSError as error:
            raise PtraceUnavailableError(f"its sampler ended: {error}") from error
        if line != "ready":
            reason = line.partition(" ")[2][:80]
            raise PtraceUnavailableError(_REASONS.get(reason, f"the kernel said: {reason}"))

    def _put(self, line: str) -> None:
        """A line is shorter than what a pipe takes at once, and the one before was answered."""
        assert self._child is not None  # noqa: S101 - it was started
        assert self._child.stdin is not None  # noqa: S101 - it was asked for
        os.write(self._child.stdin.fileno(), line.encode() + b"\n")

    def _line(self, timeout_s: float = 0.0) -> str | None:
        """The next line, None where none has come; OSError where none will, or it is endless."""
        if self._child is None or self._child.stdout is None:
            raise OSError("it is not there")
        while b"\n" not in self._received:
            if len(self._received) > _MAX_LINE_BYTES:
                raise OSError("a line without an end")
            readable = select.poll()
            readable.register(self._child.stdout, select.POLLIN)
            if not readable.poll(timeout_s * 1000):
                return None
            received = os.read(self._child.stdout.fileno(), _MAX_LINE_BYTES)
            if not received:
                raise OSError("it said nothing more")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line.decode("ascii", "replace")

    def _end(self) -> None:
        self._asked_s = None
        self._received = b""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_FAREWELL_S)
