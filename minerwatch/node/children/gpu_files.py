"""AMD's and Intel's GPUs and the processes on them, by the kernel's files; part of ``gpu_sampler``.

===================================  ==========================================================
/sys/class/drm/renderD*/device       the devices: driver, how busy, power
/proc/PID/fdinfo/N                   engines' time and memory of one client (drm-usage-stats.rst)
/sys/class/kfd/kfd/proc/PID          processes of ROCm, which the engines' times leave out
===================================  ==========================================================

No process is asked for anything. A driver that hangs can make these reads hang.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from minerwatch.node.children.gpu_nvml import Device, Use

DRIVERS = frozenset(("amdgpu", "i915", "xe"))
_MAX_DEVICES = 64
MAX_FILES = 4096
"""Open files of one process that are looked through."""
MAX_KNOWN = 1024
"""Processes with an open device, which are read each time."""
_MAX_INFO_BYTES = 8192
_MAX_FILE_BYTES = 4096
_PAIR = re.compile(
    rb"^drm-([a-z0-9_-]{1,48}):[ \t]*(\S{1,64})(?:[ \t]+(KiB|MiB|ns))?[ \t]*$", re.MULTILINE
)
_UNITS = {b"KiB": 1 << 10, b"MiB": 1 << 20}
_NOT_COMPUTE = frozenset(
    (
        *("copy", "dma", "bcs"),
        *("video", "video-enhance", "vcs", "vecs", "dec", "enc", "enc_1", "jpeg", "vpe"),
    )
)
"""Engines that move data or code video."""
_VIDEO_MEMORY = re.compile(r"(?:vram|local)\d*$")


class Reading(NamedTuple):
    """One client's counters, as its file has them."""

    device: str  # PCI address; empty if there is none
    client: int
    busy_ns: dict[str, int]  # engine -> time in which it worked
    cycles: dict[str, tuple[int, int]]  # engine -> cycles of this client, and of all
    capacity: dict[str, int]  # engine -> how many of its kind there are
    memory_bytes: int | None


def parsed(info: bytes) -> Reading | None:
    """Return what a file of fdinfo says; None if it is no GPU's."""
    pairs: dict[str, tuple[bytes, bytes]] = {}
    for name, value, unit in _PAIR.findall(info[:_MAX_INFO_BYTES]):
        pairs.setdefault(name.decode(), (value, unit))
    if "client-id" not in pairs:
        return None
    numbers = {
        name: int(value) * _UNITS.get(unit, 1)
        for name, (value, unit) in pairs.items()
        if value.isdigit() and len(value) <= 20
    }
    engines = _under("engine-", numbers)
    totals = _under("total-cycles-", numbers)
    memory = [
        size
        for kind in ("resident-", "memory-", "total-")
        for region, size in _under(kind, numbers).items()
        if _VIDEO_MEMORY.match(region)
    ]
    return Reading(
        pairs.get("pdev", (b"", b""))[0].decode("ascii", "replace"),
        numbers.get("client-id", -1),
        {name: ns for name, ns in engines.items() if not name.startswith("capacity-")},
        {
            name: (cycles, totals[name])
            for name, cycles in _under("cycles-", numbers).items()
            if name in totals
        },
        _under("engine-capacity-", numbers),
        memory[0] if memory else None,
    )


def _under(prefix: str, numbers: dict[str, int]) -> dict[str, int]:
    cut = len(prefix)
    return {name[cut:]: number for name, number in numbers.items() if name.startswith(prefix)}


def busy_share(before: Reading, now: Reading, elapsed_s: float) -> float:
    """Return the share of the time in which the busiest computing engine worked for the client.

    Counters that fell count as idle: the driver was reset, or the client is another one.
    """
    shares = [0.0]
    for name, ns in now.busy_ns.items():
        if name not in _NOT_COMPUTE and name in before.busy_ns and elapsed_s > 0:
            capacity = max(1, now.capacity.get(name, 1))
            shares.append((ns - before.busy_ns[name]) / 1e9 / elapsed_s / capacity)
    for name, (cycles, total) in now.cycles.items():
        was, was_total = before.cycles.get(name, (cycles, total))
        if name not in _NOT_COMPUTE and total > was_total:
            capacity = max(1, now.capacity.get(name, 1))
            shares.append((cycles - was) / (total - was_total) / capacity)
    return min(1.0, max(shares))


class _Card(NamedTuple):
    pci: str
    driver: str
    folder: str
    render: str  # the name of its render node


class DrmFiles:
    """GPUs by files; it keeps the counters of clients from one reading to the next."""

    def __init__(self, proc: str, sys: str, failures: Counter[str]) -> None:
        self._proc = proc
        self._sys = sys
        self._failures = failures
        self._known: set[int] = set()
        self._before: dict[tuple[str, int], tuple[float, Reading]] = {}
        self._energy: dict[str, tuple[float, int]] = {}

    def read(self, pids: Collection[int]) -> list[tuple[Device, list[Use]]]:
        """Return all devices and the processes on each.

        ``pids``: processes to look through for an open device, besides those known to have one.
        """
        cards = [*islice(self._cards(), _MAX_DEVICES)]
        uses: dict[str, dict[int, Use]] = {card.pci: {} for card in cards}
        if not cards:
            return []
        now: dict[tuple[str, int], tuple[float, Reading]] = {}
        clients: dict[int, None] = {}
        for pid in dict.fromkeys((*self._known, *pids)):
            for reading in self._clients(pid):
                key = reading.device, reading.client
                if key in now or reading.device not in uses:
                    continue  # a file that several processes share counts once
                now[key] = time.monotonic(), reading
                clients[pid] = None
                _add(uses[reading.device], self._use(pid, key, *now[key]))
        self._before = now
        self._known = set(islice(clients, MAX_KNOWN))
        self._failures["crowded"] += len(clients) - len(self._known)
        self._add_kfd(cards, uses)
        return [(self._device(card), [*uses[card.pci].values()]) for card in cards]

    def _use(self, pid: int, key: tuple[str, int], at_s: float, reading: Reading) -> Use:
        before = self._before.get(key)
        busy = busy_share(before[1], reading, at_s - before[0]) if before else None
        return Use(pid, None, busy, reading.memory_bytes)

    def _clients(self, pid: int) -> Iterator[Reading]:
        try:
            with os.scandir(f"{self._proc}/{pid}/fd") as files:
                found = [*islice(files, MAX_FILES + 1)]
        except OSError:
            return  # it has exited, or may not be read
        self._failures["open_files"] += len(found) > MAX_FILES
        for file in found[:MAX_FILES]:
            with suppress(OSError):
                if os.readlink(file.path).startswith("/dev/dri/"):  # noqa: PTH115
                    place = f"{self._proc}/{pid}/fdinfo/{file.name}"
                    reading = parsed(_read(place, _MAX_INFO_BYTES))
                    if reading is not None:
                        yield reading

    def _cards(self) -> Iterator[_Card]:
        for name in _names(f"{self._sys}/class/drm"):
            if name.startswith("renderD"):
                folder = f"{self._sys}/class/drm/{name}/device"
                words = dict(
                    line.partition("=")[::2] for line in _text(f"{folder}/uevent").splitlines()
                )
                if words.get("DRIVER") in DRIVERS:
                    yield _Card(words.get("PCI_SLOT_NAME", name), words["DRIVER"], folder, name)

    def _device(self, card: _Card) -> Device:
        busy = _number(f"{card.folder}/gpu_busy_percent")
        share = None if busy is None else min(100, busy) / 100
        return Device(card.pci, card.driver, share, self._watts(card), is_split=False)

    def _watts(self, card: _Card) -> float | None:
        for name in _names(f"{card.folder}/hwmon"):
            folder = f"{card.folder}/hwmon/{name}"
            for file in ("power1_average", "power1_input"):
                if (microwatts := _number(f"{folder}/{file}")) is not None:
                    return microwatts / 1e6
            if (microjoules := _number(f"{folder}/energy1_input")) is not None:
                now = time.monotonic(), microjoules
                before = self._energy.get(card.pci)
                self._energy[card.pci] = now
                if before is not None and now[0] > before[0] and microjoules >= before[1]:
                    return (microjoules - before[1]) / 1e6 / (now[0] - before[0])
        return None

    def _add_kfd(self, cards: Collection[_Card], uses: dict[str, dict[int, Use]]) -> None:
        """Add processes of ROCm: its share of the device is not known, only that of all."""
        places = {card.render: card.pci for card in cards}
        root = f"{self._sys}/class/kfd/kfd"
        by_id: dict[str, str] = {}
        for node in _names(f"{root}/topology/nodes"):
            folder = f"{root}/topology/nodes/{node}"
            lines = _text(f"{folder}/properties").splitlines()
            render = dict(line.partition(" ")[::2] for line in lines).get("drm_render_minor", "")
            gpu_id = _text(f"{folder}/gpu_id").strip()
            if gpu_id not in ("", "0") and f"renderD{render}" in places:
                by_id[gpu_id] = places[f"renderD{render}"]
        for pid in [each for each in _names(f"{root}/proc") if each.isdigit()][:MAX_KNOWN]:
            for gpu_id, pci in by_id.items():
                memory_bytes = _number(f"{root}/proc/{pid}/vram_{gpu_id}")
                if memory_bytes is not None:
                    drawn = uses[pci].get(int(pid))
                    busy = (drawn.busy if drawn else None) or None
                    uses[pci][int(pid)] = Use(int(pid), None, busy, memory_bytes)


def _add(uses: dict[int, Use], use: Use) -> None:
    """Add a client of a process that may have others."""
    known = uses.get(use.pid)
    if known is not None:
        busy = None if use.busy is None else min(1.0, use.busy + (known.busy or 0.0))
        memory = (use.memory_bytes or 0) + (known.memory_bytes or 0)
        use = Use(use.pid, None, known.busy if busy is None else busy, memory)
    uses[use.pid] = use


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []


def _read(path: str, most: int) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib is slow to import
        return file.read(most)


def _text(path: str) -> str:
    try:
        return _read(path, _MAX_FILE_BYTES).decode("ascii", "replace")
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None
