"""AMD's and Intel's GPUs and the processes on them, by the kernel's files; part of ``gpu_sampler``.

===================================  ==========================================================
/sys/class/drm/renderD*/device       the devices: driver, how busy, power
/proc/PID/fdinfo/N                   engines' time and memory of one client (drm-usage-stats.rst)
/sys/class/kfd/kfd/proc/PID          processes of ROCm, which the engines' times leave out
===================================  ==========================================================

No process is asked for anything. A driver that hangs can make these reads hang. Lines of fdinfo
that begin with ``drm-`` are a driver's: what a process may choose there has no line break.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
import struct
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from minerwatch.fair_queue import interleaved
from minerwatch.node.children.gpu_nvml import Device, Use

DRIVERS = frozenset(("amdgpu", "i915", "xe"))
_MAX_DEVICES = 64
MAX_FILES = 256
"""Open files of one thread that are looked through at a time; of more, others at its next turn."""
MAX_CLIENTS = 16
"""Of one process, those that have worked most."""
MAX_THREADS = 4096
"""Of one process, of which one is looked through at a time."""
MAX_KNOWN = 512
"""Processes with an open device, which are read each time."""
_MAX_NUMBER = 1 << 20  # of an open file, where the kernel gives none
_OWNER_DEPTH = 4
"""Folders of a container's cgroup, from the root; those below it may be the container's own."""
_DRM_MAJOR = 226  # include/uapi/linux/major.h, for all of /dev/dri
_AT_FDCWD, _AT_STATX_DONT_SYNC, _STATX_TYPE = -100, 0x4000, 1  # include/uapi/linux/stat.h
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
_INITIAL_NAMESPACE = "pid:[4026531836]"
"""PID namespace of the PIDs that KFD shows (PROC_PID_INIT_INO of include/linux/proc_ns.h)."""
_LIBC = ctypes.CDLL(None)
_VIDEO_MEMORY = re.compile(r"(?:vram|local)\d*$")


_File = tuple[str, int]
"""An open file: the folder of its thread in /proc, and its number."""


class Reading(NamedTuple):
    """One client's counters, as its file has them."""

    device: str  # PCI address; empty if there is none
    client: int
    busy_ns: dict[str, int]  # engine -> time in which it worked
    cycles: dict[str, tuple[int, int]]  # engine -> cycles of this client, and of all
    capacity: dict[str, int]  # engine -> how many of its kind there are
    memory_bytes: int | None

    @property
    def work(self) -> int:
        """Return what its engines did for it, to compare clients of one process."""
        return sum(self.busy_ns.values()) + sum(cycles for cycles, _ in self.cycles.values())


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
        self._known: dict[int, list[_File]] = {}  # PID -> open files that are clients
        self._before: dict[tuple[str, int], tuple[float, Reading]] = {}
        self._energy: dict[str, tuple[float, int]] = {}

    def read(self, pids: Collection[int]) -> list[tuple[Device, list[Use]]]:
        """Return all devices and the processes on each.

        ``pids``: processes to look through for an open device, besides those known to have one.
        """
        cards = [*islice(self._cards(), _MAX_DEVICES)]
        if not cards:
            return []
        known: dict[int, list[_File]] = {}  # those just found first: none waits behind idle ones
        for pid in pids:
            found = [file for file in self._window(pid) if self._is_drm(file)]
            if found:
                known[pid] = [*dict.fromkeys((*self._known.get(pid, ()), *found))]
        known |= {pid: files for pid, files in self._known.items() if pid not in known}
        uses: dict[str, dict[int, Use]] = {card.pci: {} for card in cards}
        before, self._before, self._known = self._before, {}, {}
        for pid in self._fair(known):
            readings = {file: self._reading(file) for file in known[pid]}
            clients = {
                (each.device, each.client): (each, file)
                for file, each in readings.items()
                if each and each.device in uses
            }
            heaviest = sorted(clients, key=lambda key: clients[key][0].work, reverse=True)
            for key in heaviest[:MAX_CLIENTS]:
                reading, file = clients[key]
                self._known.setdefault(pid, []).append(file)
                if key in self._before:  # of a file that several processes share: it counts once
                    uses[reading.device].setdefault(pid, Use(pid, None, None, None))
                    continue
                self._before[key] = time.monotonic(), reading
                _add(uses[reading.device], self._use(pid, before.get(key), *self._before[key]))
        self._add_kfd(cards, uses)
        return [(self._device(card), [*uses[card.pci].values()]) for card in cards]

    def _fair(self, pids: Collection[int]) -> Iterable[int]:
        """Return as many as are read, one of each container in turn."""
        if len(pids) <= MAX_KNOWN:
            return pids
        self._failures["crowded"] += len(pids) - MAX_KNOWN
        return islice(interleaved(pids, lambda pid: owner_of(self._proc, pid)), MAX_KNOWN)

    def _use(
        self, pid: int, before: tuple[float, Reading] | None, at_s: float, reading: Reading
    ) -> Use:
        busy = busy_share(before[1], reading, at_s - before[0]) if before else None
        return Use(pid, None, busy, reading.memory_bytes)

    def _window(self, pid: int) -> Iterator[_File]:
        """Yield open files of a process, some at a time: its own, and those of one other thread."""
        yield from self._part(f"{self._proc}/{pid}")
        try:
            with os.scandir(f"{self._proc}/{pid}/task") as threads:
                others = [each.path for each in islice(threads, MAX_THREADS)]
        except OSError:
            return  # it has exited, or may not be read
        if len(others) > 1:  # a thread may have files of its own: unshare(2)
            yield from self._part(others[_chance(len(others))])

    def _part(self, task_folder: str) -> Iterator[_File]:
        """Yield open files of a thread; of one that has many, some that follow a random number."""
        found = _open_files(f"{task_folder}/fd", 0)
        if len(found) > MAX_FILES:
            self._failures["open_files"] += 1
            size = re.search(r"^FDSize:\t(\d{1,9})$", _text(f"{task_folder}/status"), re.MULTILINE)
            found = _open_files(
                f"{task_folder}/fd", _chance(min(int(size[1]) if size else 1, _MAX_NUMBER))
            )
        yield from ((task_folder, each) for each in found[:MAX_FILES])

    def _is_drm(self, file: _File) -> bool:
        """Return True for an open device of /dev/dri, under whatever name it was opened."""
        path = f"{file[0]}/fd/{file[1]}"
        link = _link(path)
        return link.startswith("/") and is_drm(path, if_unknown=link.startswith("/dev/dri/"))

    def _reading(self, file: _File) -> Reading | None:
        try:
            return parsed(_read(f"{file[0]}/fdinfo/{file[1]}", _MAX_INFO_BYTES))
        except OSError:
            return None

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
        pci_by_render = {card.render: card.pci for card in cards}
        root = f"{self._sys}/class/kfd/kfd"
        by_id: dict[str, str] = {}
        for node in _names(f"{root}/topology/nodes"):
            folder = f"{root}/topology/nodes/{node}"
            lines = _text(f"{folder}/properties").splitlines()
            render = dict(line.partition(" ")[::2] for line in lines).get("drm_render_minor", "")
            gpu_id = _text(f"{folder}/gpu_id").strip()
            if gpu_id not in ("", "0") and f"renderD{render}" in pci_by_render:
                by_id[gpu_id] = pci_by_render[f"renderD{render}"]
        pids = [int(each) for each in _names(f"{root}/proc") if each.isdigit()] if by_id else []
        if _link(f"{self._proc}/self/ns/pid") not in ("", _INITIAL_NAMESPACE):
            self._failures["foreign_pids"] += len(pids)
            return
        for pid in self._fair(pids):
            for gpu_id, pci in by_id.items():
                memory_bytes = _number(f"{root}/proc/{pid}/vram_{gpu_id}")
                if memory_bytes is not None:
                    drawn = uses[pci].get(pid)
                    busy = (drawn.busy if drawn else None) or None
                    uses[pci][pid] = Use(pid, None, busy, memory_bytes)


def _open_files(folder: str, first: int) -> list[int]:
    """Return the numbers of some open files from ``first`` on; empty if they may not be read."""
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        if first:  # offsets in /proc/PID/fd are numbers of files, after the two dots
            os.lseek(folder_fd, first + 2, os.SEEK_SET)
        with os.scandir(folder_fd) as files:
            return [int(each.name) for each in islice(files, MAX_FILES + 1)]
    except OSError:
        return []
    finally:
        os.close(folder_fd)


def _chance(end: int) -> int:
    return int.from_bytes(os.urandom(4)) % max(1, end)


def owner_of(proc: str, pid: int) -> str:
    """Return the container of a process by its cgroup; empty if it is not known."""
    cgroup = _text(f"{proc}/{pid}/cgroup").partition("\n")[0]
    folders = cgroup.partition(":")[2].partition(":")[2].split("/")
    # A sampler in a container of its own sees "/../../POD/CONTAINER".
    return "/".join([each for each in folders if each not in ("", "..")][:_OWNER_DEPTH])


def is_drm(path: str, *, if_unknown: bool = False) -> bool:
    """Return True if the path leads to a device of /dev/dri; no server of files is asked."""
    found = ctypes.create_string_buffer(256)
    if not hasattr(_LIBC, "statx") or _LIBC.statx(
        _AT_FDCWD, os.fsencode(path), _AT_STATX_DONT_SYNC, _STATX_TYPE, found
    ):
        return if_unknown
    (mode,), (major,) = struct.unpack_from("=H", found, 28), struct.unpack_from("=I", found, 128)
    return stat.S_ISCHR(mode) and major == _DRM_MAJOR


def _add(uses: dict[int, Use], use: Use) -> None:
    """Add a client of a process that may have others."""
    known = uses.get(use.pid)
    if known is not None:
        busy = None if use.busy is None else min(1.0, use.busy + (known.busy or 0.0))
        memory = (use.memory_bytes or 0) + (known.memory_bytes or 0)
        use = Use(use.pid, None, known.busy if busy is None else busy, memory)
    uses[use.pid] = use


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return ""


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
