"""GPUs and the processes that use them, by samplers (children/gpu_sampler.py) that may hang.

A sampler is a child of the agent, or runs in a container beside it, behind a Unix socket. Or a
child reads dcgm-exporter (children/dcgm_reader.py). It is asked once a tick, and its answer is
taken at a later tick: the agent never waits for a driver. One that does not answer is left alone
until it does, because it may be inside the driver.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from minerwatch.node.guarded_child import CHILDREN, AnswerLines, GuardedProgram
from minerwatch.untrusted_text.display import printable

MAX_SILENCE_S, MAX_SILENT_TICKS = 30.0, 3
"""After the longer of both without an answer, the driver counts as hung."""
_SEND_S = 0.01
_MAX_TEXT = 64
_MAX_REASONS = 32
_MAX_BYTES = 1 << 50
_MAX_PIPE = 1e7  # MiB/s; shares are 1 at most
NO_NVML = "none"
"""Instead of a path: the child does not load NVIDIA's library."""

_DRIVERS = ("amdgpu", "i915", "xe")
_LIBRARY_FOLDERS = (
    *(f"/usr/lib/{machine}-linux-gnu" for machine in ("x86_64", "aarch64")),
    *("/usr/lib64", "/usr/lib", "/usr/local/nvidia/lib64"),
)


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU."""

    id: str  # UUID, or the PCI address
    name: str
    busy: float | None  # share of the time in which anything ran, 0..1
    watts: float | None  # mean since the last reading
    is_split: bool  # into instances that are used apart from each other
    left_out: int = 0  # uses over the sampler's bound
    pipes: Mapping[str, float] = field(default_factory=dict)  # children/gpu_pipes.py: METRICS


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One process on one GPU, or on one instance of it."""

    pid: int  # 0: of a namespace that the driver does not see from here
    device: int  # index in ``GpuSample.devices``
    instance: int | None
    busy: float | None  # share of the GPU since the last reading; None: not known
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuGrant:
    """A container that was given a GPU, by the exporter's word; its processes are not known."""

    device: int
    namespace: str
    pod: str
    container: str
    memory_bytes: int | None  # in use; None: not known, or of several


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One answer of a sampler."""

    at_s: float  # when it was asked, in seconds since boot
    sources: tuple[str, ...]  # drivers
    devices: tuple[GpuDevice, ...]
    uses: tuple[GpuUse, ...]
    grants: tuple[GpuGrant, ...] = ()


class _Device(msgspec.Struct):
    id: str = ""
    name: str = ""
    busy: float | None = None
    watts: float | None = None
    is_split: bool = False
    left_out: int = 0
    pipes: dict[str, float] = {}


class Answer(msgspec.Struct):
    """One line of a sampler, not trusted."""

    at_s: float
    pid_namespace: str = ""
    sources: list[str] = []
    devices: list[_Device] = []
    uses: list[tuple[int, int, int | None, float | None, int | None]] = []
    pods: list[tuple[int, str, str, str, int | None]] = []
    failures: dict[str, int] = {}

    def sample(self) -> GpuSample:
        """Return what is valid of it."""
        devices = tuple(
            GpuDevice(
                printable(each.id, _MAX_TEXT),
                printable(each.name, _MAX_TEXT),
                _share(each.busy),
                each.watts if each.watts is not None and 0 <= each.watts < 1e5 else None,
                each.is_split,
                max(0, each.left_out),
                {name: use for name, use in each.pipes.items() if 0 <= use < _MAX_PIPE},
            )
            for each in self.devices
        )
        uses = tuple(
            GpuUse(max(0, pid), device, instance, _share(busy), _bytes(memory))
            for pid, device, instance, busy, memory in self.uses
            if 0 <= device < len(devices)
        )
        grants = tuple(
            GpuGrant(device, namespace, pod, container, _bytes(memory))
            for device, namespace, pod, container, memory in self.pods
            if 0 <= device < len(devices)
        )
        sources = tuple(printable(each, _MAX_TEXT) for each in self.sources)
        return GpuSample(self.at_s, sources, devices, uses, grants)


def _share(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else min(1.0, max(0.0, value))


def _bytes(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < _MAX_BYTES else None


class GpuSampler(Protocol):
    """A sampler to ask; its methods raise OSError or ValueError if it is broken."""

    def send(self, question: Any) -> bool:
        """Ask; return False if it is not running yet."""

    def receive(self) -> Answer | None:
        """Return its answer if there is one already."""

    def discard(self) -> None:
        """Give it up: it is broken."""

    def close(self) -> None:
        """Let it end."""


class ChildSampler:
    """A sampler that the agent starts."""

    def __init__(self, proc: str, sys: str, library: str) -> None:
        """``library``: the path of NVIDIA's library, or ``NO_NVML``."""
        script = CHILDREN / "gpu_sampler.py"
        self._program = GuardedProgram(script, proc, sys, library, needs_packages=True)

    def send(self, question: Any) -> bool:
        """Ask, once the child runs."""
        child, now_s = self._program.child(), time.monotonic()
        if child is None or not child.has_started(now_s):
            return False
        child.send(question, now_s + _SEND_S)
        return True

    def receive(self) -> Answer | None:
        """Return its answer if there is one already."""
        with suppress(TimeoutError):
            if (child := self._program.child()) is not None:
                return child.receive(Answer, time.monotonic())
        return None

    def discard(self) -> None:
        """Kill it and back off."""
        self._program.discard(has_failed=True)

    def close(self) -> None:
        """End its input, so that it exits once the driver lets it."""
        self._program.release()


class ExporterSampler(ChildSampler):
    """dcgm-exporter, read by a child: it names containers and no processes."""

    def __init__(self, url: str) -> None:
        self._program = GuardedProgram(CHILDREN / "dcgm_reader.py", url)


class SocketSampler:
    """A sampler behind a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._lines: AnswerLines | None = None

    def send(self, question: Any) -> bool:
        """Connect if need be, and ask."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.setblocking(False)  # noqa: FBT003
            self._socket.connect(str(self._path))
            self._lines = AnswerLines(self._socket.fileno(), 0)
        line = msgspec.json.encode(question) + b"\n"
        if self._socket.send(line) < len(line):
            raise OSError("the sampler does not read")
        return True

    def receive(self) -> Answer | None:
        """Return its answer if there is one already."""
        with suppress(TimeoutError):
            if self._lines is not None:
                return self._lines.next(Answer, time.monotonic())
        return None

    def discard(self) -> None:
        """Close the connection; the next question opens another one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._lines = None

    def close(self) -> None:
        """Close the connection."""
        self.discard()


class GpuReader:
    """Ask samplers, one question at a time each; for one thread."""

    def __init__(
        self, samplers: Sequence[GpuSampler], *, with_pipes: bool = False, interval_s: float = 0.0
    ) -> None:
        self._samplers = samplers
        self._interval_s = interval_s
        self._asked_for: dict[str, Any] = {"pipes": True} if with_pipes else {}
        self._asked_s: list[float | None] = [None] * len(samplers)
        self._is_late = [False] * len(samplers)
        self._counted: list[dict[str, int]] = [{} for _ in samplers]
        self.failures: Counter[str] = Counter(timeout=0, sampler=0, foreign_pids=0, crowded=0)
        """Failures since the start, by reason; failed calls into a driver by name and code."""
        self._namespace = _pid_namespace()

    def exchange(self, pids: Sequence[int]) -> list[tuple[int, GpuSample]]:
        """Return the answers that have come, by sampler; ask each that owes none. Never wait.

        ``pids``: processes in which to look for an open device.
        """
        found = []
        for index, sampler in enumerate(self._samplers):
            try:
                sample = self._receive(index, sampler)
                if self._asked_s[index] is None and sampler.send(
                    {"pids": [*pids], **self._asked_for}
                ):
                    self._asked_s[index] = time.monotonic()
            except (OSError, ValueError):
                self.failures["sampler"] += 1
                self._asked_s[index] = None
                self._is_late[index] = False
                self._counted[index] = {}
                sampler.discard()
            else:
                found += [(index, sample)] if sample is not None else []
        return found

    @property
    def silent(self) -> bool:
        """Return True while some driver does not answer."""
        return any(self._is_late)

    def close(self) -> None:
        """Let the samplers end."""
        for sampler in self._samplers:
            sampler.close()

    def _receive(self, index: int, sampler: GpuSampler) -> GpuSample | None:
        asked_s = self._asked_s[index]
        if asked_s is None:
            return None
        answer = sampler.receive()
        silence_s = max(MAX_SILENCE_S, MAX_SILENT_TICKS * self._interval_s)
        is_late = time.monotonic() - asked_s > silence_s
        if answer is None:
            self.failures["timeout"] += is_late and not self._is_late[index]
            self._is_late[index] = is_late
            return None
        self._asked_s[index], self._is_late[index] = None, False
        self._count(index, answer.failures)
        if answer.pid_namespace != self._namespace:
            self.failures["foreign_pids"] += 1
            return None
        sample = answer.sample()
        self.failures["crowded"] += sum(each.left_out for each in sample.devices)
        return None if is_late else sample

    def _count(self, index: int, now: dict[str, int]) -> None:
        """Add to the failures what a sampler counted since its last answer."""
        before, self._counted[index] = self._counted[index], now
        for name, count in now.items():
            reason = printable(name, _MAX_TEXT)
            if reason in self.failures or len(self.failures) < _MAX_REASONS:
                self.failures[reason] += max(0, count - before.get(name, 0))


def gpus_seen(proc: Path, sys: Path) -> Iterator[str]:
    """Yield the drivers of GPUs that this kernel knows; no driver is called."""
    if _names(proc / "driver/nvidia/gpus"):
        yield "nvidia"
    for name in _names(sys / "class/drm"):
        if name.startswith("renderD"):
            link = sys / "class/drm" / name / "device/driver"
            with suppress(OSError):
                driver = os.readlink(link).rpartition("/")[2]  # noqa: PTH115
                if driver in _DRIVERS:
                    yield driver


def nvml_library() -> str:
    """Return the path of NVIDIA's library, which is not loaded; empty if it is not here."""
    found = (f"{folder}/libnvidia-ml.so.1" for folder in _LIBRARY_FOLDERS)
    return next((path for path in found if Path(path).exists()), "")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    except OSError:
        return ""
