"""Reads what GPUs do, in a process of its own: calls into a driver may hang for ever.

The agent starts this file as a child (``gpu_sampler.py PROC SYS LIBRARY``), or a container beside
the agent runs it as a module (``python -m … --listen SOCKET``), where only that has the driver.
It exits when its input ends, so that it need not be killed inside a driver. One JSON value a line:

=================  =========================================================================
question           answer
=================  =========================================================================
``{"pids": […]}``  ``{"at_s", "pid_namespace", "sources", "devices", "uses", "failures"}``
=================  =========================================================================

``pids``: processes to look through for an open device of AMD or Intel. With ``"pipes": true`` the
use of pipes is read, too.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

from minerwatch.fair_queue import interleaved
from minerwatch.node.children.gpu_files import DrmFiles, owner_of
from minerwatch.node.children.gpu_nvml import Device, Nvml, NvmlError, Use

NO_NVML = "none"
"""Instead of the library's path: do not load it."""
MAX_USES = 512
_MAX_FAILURES = 16
_MAX_TEXT = 64
_MAX_QUESTION_BYTES = 64 << 10
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_QUESTIONS_PER_START = 6
"""Questions after which a library that could not be used is tried again."""


class GpuSampler:
    """Devices and processes of all vendors, at each question."""

    def __init__(self, proc: str = "/proc", sys: str = "/sys", library: str = "") -> None:
        self._proc = proc
        self._library = library
        self._failures: Counter[str] = Counter()
        self._files = DrmFiles(proc, sys, self._failures)
        self._nvml: Nvml | None = None
        self._driver = ""
        self._pause = 0

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one question."""
        pids = [pid for pid in question.get("pids", ()) if isinstance(pid, int)]
        at_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        nvidia = self._of_nvidia(with_pipes=question.get("pipes") is True)
        found = [*nvidia, *self._files.read(pids)]
        uses = self._foremost(
            [(n, use) for n, (_, on_device) in enumerate(found) for use in on_device]
        )
        left_out = [len(on_device) for _, on_device in found]
        for number, _ in uses:
            left_out[number] -= 1
        drivers = [f"nvidia {self._driver}".strip()] if self._nvml is not None else []
        drivers += {device.name for device, _ in found[len(nvidia) :]}
        return {
            "at_s": at_s,
            "pid_namespace": pid_namespace(),
            "sources": [each[:_MAX_TEXT] for each in drivers],
            "devices": [
                {**_shown(device), "left_out": count}
                for (device, _), count in zip(found, left_out, strict=True)
            ],
            "uses": [
                (use.pid, number, use.instance, _finite(use.busy), use.memory_bytes)
                for number, use in uses
            ],
            "failures": dict([*(+self._failures).items()][:_MAX_FAILURES]),
        }

    def _foremost(self, uses: list[tuple[int, Use]]) -> list[tuple[int, Use]]:
        """Return those that fit, in order: the heaviest of each container in turn.

        Idle contexts hide no busy one, and those of one container none of another's.
        """
        uses.sort(key=lambda each: _weight(each[1]), reverse=True)
        if len(uses) <= MAX_USES:
            return uses
        owners = {pid: owner_of(self._proc, pid) for pid in {use.pid for _, use in uses}}
        return [*islice(interleaved(uses, lambda each: owners[each[1].pid]), MAX_USES)]

    def _of_nvidia(self, *, with_pipes: bool) -> list[tuple[Device, list[Use]]]:
        try:
            if self._nvml is None and not self._start():
                return []
            assert self._nvml is not None  # noqa: S101 - it was started
            return self._nvml.read(with_pipes=with_pipes)
        except (OSError, NvmlError) as error:
            self._failures["nvml_missing"] += isinstance(error, OSError)
            if self._nvml is not None:
                self._nvml.close()
            self._nvml, self._pause = None, _QUESTIONS_PER_START
            return []

    def _start(self) -> bool:
        self._pause -= 1
        if self._library == NO_NVML or self._pause > 0:
            return False
        self._nvml = Nvml(self._library, self._failures)
        self._driver = self._nvml.driver
        return True


def pid_namespace() -> str:
    """Return the PID namespace of this process: numbers of another one mean other processes."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    except OSError:
        return ""


def _shown(device: Device) -> dict[str, Any]:
    return {
        "id": device.id[:_MAX_TEXT],
        "name": device.name[:_MAX_TEXT],
        "busy": _finite(device.busy),
        "watts": _finite(device.watts),
        "is_split": device.is_split,
        "pipes": {name: round(value, 4) for name, value in device.pipes.items()},
    }


def _finite(value: float | None) -> float | None:
    return round(value, 4) if value is not None and isfinite(value) else None


def _weight(use: Use) -> tuple[float, int]:
    return _finite(use.busy) or 0.0, use.memory_bytes or 0


def serve(sampler: GpuSampler, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer one line by one line until the input ends."""
    while line := questions.readline(_MAX_QUESTION_BYTES):
        question = json.loads(line)
        answers.write(json.dumps(sampler.answer(question)).encode() + b"\n")
        answers.flush()


def listen(path: Path, sampler: GpuSampler) -> None:
    """Serve one client after the other on a Unix socket that only its owner may open."""
    with suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        os.umask(0o177)
        server.bind(str(path))
        server.listen(4)
        while True:
            client, _ = server.accept()
            with client, suppress(OSError, ValueError):
                serve(sampler, client.makefile("rb"), client.makefile("wb"))


def _main(arguments: list[str]) -> None:
    if arguments and arguments[0] == "--listen":
        listen(Path(arguments[1]), GpuSampler(*arguments[2:]))
    else:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)  # it exits at the end of its input
        serve(GpuSampler(*arguments), sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    _main(sys.argv[1:])
