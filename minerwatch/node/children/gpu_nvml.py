"""NVIDIA's devices and the processes on them, by the driver's library; part of ``gpu_sampler``.

The library is loaded at run time by ``ctypes``, and each function may be missing: drivers differ by
years. A failed call is counted by its name and code, and what it would have returned is absent.
Nothing is switched on, and no counter of a profiler is touched. Pipes are read only if asked for.
"""

from __future__ import annotations

import ctypes as c
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from minerwatch.node.children.gpu_pipes import Pipes

FUNCTION_NOT_FOUND = 13  # of enum nvmlReturn_t (nvml.h)
_NOT_SUPPORTED, _NOT_FOUND, _INSUFFICIENT_SIZE = 3, 6, 7
_LOST = frozenset((1, 15, 16, 28))
"""Not initialised, lost, to be reset, not found: handles are of devices as they were."""
_INIT_NO_GPUS = 1
_NOT_AVAILABLE = 2**64 - 1
_NO_INSTANCE = 2**32 - 1
_TEXT_BYTES = 96
_MAX_DEVICES = 64
_FIRST_ENTRIES = 64
MAX_ENTRIES = 16384
"""Processes of one device that are read."""
_NEW_ENTRIES = 1024
_TRIES = (_INSUFFICIENT_SIZE,), (_INSUFFICIENT_SIZE,), ()
"""Expected codes of each try: a list may grow between two calls."""
_READS_PER_START = 6
"""Readings after which the library is started again while a device is lost."""


class ProcessInfo(c.Structure):
    """``nvmlProcessInfo_t`` of the calls that end in _v2 and _v3."""

    _fields_ = (
        ("pid", c.c_uint),
        ("used_bytes", c.c_ulonglong),
        ("instance", c.c_uint),
        ("compute_instance", c.c_uint),
    )


class OldProcessInfo(c.Structure):
    """``nvmlProcessInfo_v1_t``."""

    _fields_ = (("pid", c.c_uint), ("used_bytes", c.c_ulonglong))


class Utilization(c.Structure):
    """``nvmlProcessUtilizationSample_t``."""

    _fields_ = (
        ("pid", c.c_uint),
        ("timestamp_us", c.c_ulonglong),
        *((name, c.c_uint) for name in ("sm", "memory", "encoder", "decoder")),
    )


class NewUtilization(c.Structure):
    """``nvmlProcessUtilizationInfo_v1_t``."""

    _fields_ = (
        ("timestamp_us", c.c_ulonglong),
        *((name, c.c_uint) for name in ("pid", "sm", "memory", "encoder", "decoder")),
        *((name, c.c_uint) for name in ("jpeg", "flow")),
    )


class NewUtilizations(c.Structure):
    """``nvmlProcessesUtilizationInfo_v1_t``."""

    _fields_ = (
        ("version", c.c_uint),
        ("count", c.c_uint),
        ("last_us", c.c_ulonglong),
        ("entries", c.POINTER(NewUtilization)),
    )


_LISTS = tuple(
    f"nvmlDeviceGet{kind}RunningProcesses" for kind in ("Compute", "Graphics", "MPSCompute")
)
"""Vulkan's compute shaders are listed as graphics."""
_VERSIONS = (("_v3", ProcessInfo), ("_v2", ProcessInfo), ("", OldProcessInfo))


class Device(NamedTuple):
    """One GPU at one moment."""

    id: str
    name: str
    busy: float | None  # share of the time in which a kernel ran
    watts: float | None
    is_split: bool  # into instances (MIG): its figures are those of all
    pipes: dict[str, float] = {}  # noqa: RUF012 - read only; means since the last reading


class Use(NamedTuple):
    """One process on one GPU, or on one instance of it."""

    pid: int
    instance: int | None
    busy: float | None  # share of the GPU since the last reading
    memory_bytes: int | None


class NvmlError(Exception):
    """The library cannot be used."""


class Nvml:
    """The library, initialised. Raises OSError or NvmlError."""

    def __init__(self, path: str, failures: Counter[str]) -> None:
        """``failures`` counts failed calls: ``nvmlDeviceGetUUID_15``."""
        self._library = c.CDLL(path or "libnvidia-ml.so.1")
        self._failures = failures
        self._devices: list[_Handle] = []
        self._count = -1
        self._has_lost = False
        self._pause = 0
        self._start()
        self.driver = self.text("nvmlSystemGetDriverVersion")

    def _start(self) -> None:
        if code := self.call("nvmlInitWithFlags", c.c_uint(_INIT_NO_GPUS)):
            raise NvmlError(f"nvmlInitWithFlags_{code}")

    def call(self, name: str, *arguments: Any, expected: tuple[int, ...] = ()) -> int:
        """Call a function; return its code, 0 for success. ``expected``: codes not to count."""
        function = getattr(self._library, name, None)
        code = FUNCTION_NOT_FOUND if function is None else int(function(*arguments))
        if code and code not in (_NOT_SUPPORTED, FUNCTION_NOT_FOUND, *expected):
            self._failures[f"{name}_{code}"] += 1
        self._has_lost |= code in _LOST
        return code

    def text(self, name: str, *arguments: Any) -> str:
        """Return the text that a function writes; empty if it fails."""
        buffer = c.create_string_buffer(_TEXT_BYTES)
        if self.call(name, *arguments, buffer, c.c_uint(_TEXT_BYTES)):
            return ""
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        """Shut the library down: the next one sees devices that came or went."""
        for device in self._devices:
            device.pipes.close()
        self.call("nvmlShutdown")

    def read(self, *, with_pipes: bool = False) -> list[tuple[Device, list[Use]]]:
        """Return all devices and the processes on each; raises NvmlError if there is no list."""
        self._pause -= 1
        if self._has_lost and self._pause <= 0:
            self._pause = _READS_PER_START
            self.close()
            self._start()
            self._count, self._has_lost = -1, False
        count = c.c_uint()
        if code := self.call("nvmlDeviceGetCount_v2", c.byref(count)):
            raise NvmlError(f"nvmlDeviceGetCount_v2_{code}")
        if count.value != self._count:
            self._count = count.value
            self._devices = [*self._opened(min(count.value, _MAX_DEVICES))]
        return [device.read(with_pipes=with_pipes) for device in self._devices]

    def _opened(self, count: int) -> Iterator[_Handle]:
        """Yield the devices; one that is known by its UUID keeps its counters."""
        known = {device.id: device for device in self._devices if device.id}
        for device in self._devices:
            device.pipes.close()
        for index in range(count):
            handle = c.c_void_p()
            if not self.call("nvmlDeviceGetHandleByIndex_v2", c.c_uint(index), c.byref(handle)):
                opened = _Handle(self, handle)
                device = known.get(opened.id, opened)
                device.handle = handle
                yield device


class _Handle:
    """One device, and its counters at the last reading."""

    def __init__(self, nvml: Nvml, handle: c.c_void_p) -> None:
        self._nvml = nvml
        self.handle = handle
        self.id = nvml.text("nvmlDeviceGetUUID", handle)
        self._name = nvml.text("nvmlDeviceGetName", handle)
        self._last_us = 0
        self._energy: tuple[float, int] | None = None  # when, and millijoules
        self._is_busy = True
        self._has_mps = False
        self.pipes = Pipes(nvml.call)

    def read(self, *, with_pipes: bool) -> tuple[Device, list[Use]]:
        """Return the device as it is now, and the processes on it."""
        device, uses = self.state(), self.uses()
        if not with_pipes:
            return device, uses
        if device.is_split or self._has_mps:  # clients of MPS may be more than are listed
            self.pipes.forget()
            return device, uses
        return device._replace(pipes=self.pipes.read(self.handle)), uses

    def state(self) -> Device:
        """Return the device as it is now."""
        mode, pending = c.c_uint(), c.c_uint()
        code = self._call("nvmlDeviceGetMigMode", c.byref(mode), c.byref(pending))
        is_split = not code and mode.value == 1
        rates = (c.c_uint * 2)()
        has_rate = not is_split and not self._call("nvmlDeviceGetUtilizationRates", rates)
        busy = min(rates[0], 100) / 100 if has_rate else None
        self._is_busy = busy != 0
        return Device(self.id, self._name, busy, self._watts(), is_split)

    def _watts(self) -> float | None:
        """Return the mean power since the last reading, or else the power now."""
        now_s, energy, before = time.monotonic(), c.c_ulonglong(), self._energy
        self._energy = None
        if not self._call("nvmlDeviceGetTotalEnergyConsumption", c.byref(energy)):
            self._energy = now_s, energy.value
            if before is not None and now_s > before[0] and energy.value >= before[1]:
                return (energy.value - before[1]) / 1000 / (now_s - before[0])
        power = c.c_uint()
        failed = self._call("nvmlDeviceGetPowerUsage", c.byref(power))
        return None if failed else power.value / 1000

    def uses(self) -> list[Use]:
        """Return the processes that have a context on the device.

        A share of a process that is not listed is left out: it has exited, so that its PID may be
        another's by now.
        """
        shares = self._shares()
        found: dict[tuple[int, int | None], int | None] = {}
        lists = [self._listed(name) for name in _LISTS]
        self._has_mps = bool(lists[-1])
        for pid, instance, used_bytes in (entry for each in lists for entry in each or ()):
            known = found.get((pid, instance))
            found[pid, instance] = used_bytes if known is None else known
        if None in lists:
            listed = {pid for pid, _ in found}
            found |= {(pid, None): None for pid in shares or () if pid not in listed}
        return [
            Use(pid, instance, None if shares is None else shares.get(pid, 0.0), used_bytes)
            for (pid, instance), used_bytes in found.items()
        ]

    def _listed(self, name: str) -> list[tuple[int, int | None, int | None]] | None:
        """Return PID, instance and memory of each process; None if the call fails."""
        for version, kind in _VERSIONS:
            count = c.c_uint(_FIRST_ENTRIES)
            for expected in _TRIES:
                room = min(max(count.value, _FIRST_ENTRIES), MAX_ENTRIES)
                entries = (kind * room)()
                count = c.c_uint(room)
                code = self._call(name + version, c.byref(count), entries, expected=expected)
                if code != _INSUFFICIENT_SIZE:
                    break
                count.value += _FIRST_ENTRIES
            if code in (FUNCTION_NOT_FOUND, _NOT_SUPPORTED):
                continue
            if code:
                return None
            return [
                (
                    entry.pid,
                    _unless(entry, "instance", _NO_INSTANCE),
                    _unless(entry, "used_bytes", _NOT_AVAILABLE),
                )
                for entry in entries[: min(count.value, room)]
            ]
        return []

    def _shares(self) -> dict[int, float] | None:
        """Return each process's share of the device since the last reading; None: not known."""
        samples = self._samples()
        if self._is_busy and not any(sm for _, _, sm in samples or ()):
            samples = self._new_samples() or samples
        if samples is None:
            return None
        sums: dict[int, list[int]] = {}
        last_us = self._last_us = min(self._last_us, int(time.time() * 1e6))  # clocks are set back
        for timestamp_us, pid, sm in samples:
            if timestamp_us > last_us and 0 <= sm <= 100:
                sums.setdefault(pid, []).append(sm)
            self._last_us = max(self._last_us, timestamp_us)
        return {pid: sum(each) / len(each) / 100 for pid, each in sums.items()}

    def _samples(self) -> list[tuple[int, int, int]] | None:
        name, count = "nvmlDeviceGetProcessUtilization", c.c_uint(_FIRST_ENTRIES)
        for expected in _TRIES:
            room = min(max(count.value, _FIRST_ENTRIES), MAX_ENTRIES)
            entries = (Utilization * room)()
            count = c.c_uint(room)
            code = self._call(
                *(name, entries, c.byref(count), c.c_ulonglong(self._last_us)),
                expected=(_NOT_FOUND, *expected),
            )
            if code == _NOT_FOUND:
                return []  # nothing ran
            if not code:
                found = entries[: min(count.value, room)]
                return [(each.timestamp_us, each.pid, each.sm) for each in found]
            if code != _INSUFFICIENT_SIZE:
                return None
        return None

    def _new_samples(self) -> list[tuple[int, int, int]] | None:
        """Return the same by the function of drivers from 550 on, where the old one is empty."""
        entries = (NewUtilization * _NEW_ENTRIES)()
        version = c.sizeof(NewUtilizations) | 1 << 24
        asked = NewUtilizations(version, _NEW_ENTRIES, self._last_us, entries)
        name = "nvmlDeviceGetProcessesUtilizationInfo"
        if self._call(name, c.byref(asked), expected=(_NOT_FOUND,)):
            return None
        found = entries[: min(asked.count, _NEW_ENTRIES)]
        return [(each.timestamp_us, each.pid, each.sm) for each in found]

    def _call(self, name: str, *arguments: Any, expected: tuple[int, ...] = ()) -> int:
        return self._nvml.call(name, self.handle, *arguments, expected=expected)


def _unless(entry: Any, name: str, absent: int) -> int | None:
    value = getattr(entry, name, absent)
    return None if value == absent else value
