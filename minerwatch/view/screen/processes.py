"""The processes of a node or of a cluster, flagged or not: rows, columns, details. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.text import Text

from minerwatch.api.types import ContainerStatus, ProcessStatus
from minerwatch.arguments import quoted
from minerwatch.format import byte_size, duration
from minerwatch.untrusted_text.display import printable, shortened, shown_command_line, shown_name
from minerwatch.view.columns import LEVEL_STYLES, NOTHING, TAGS
from minerwatch.view.executed_code import one_word
from minerwatch.view.lines import cut, fitted
from minerwatch.view.screen.columns import named
from minerwatch.view.screen.containers import View
from minerwatch.view.screen.history import Key, key_of
from minerwatch.view.screen.layout import Column, Scene
from minerwatch.view.selection import IDLE_CORES, PROCESS_SORTS, full_name

_COMMAND_LENGTH = 600  # characters of one command line; findings show what rules saw of it
_MAX_PIDS = 8
_NAME_LENGTH = 16
_IMAGE_LENGTH = 256
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process, or several of one container that are alike."""

    key: Key
    status: ContainerStatus  # of the container
    processes: tuple[ProcessStatus, ...]  # the busiest first
    signals: tuple[str, ...]  # of findings on them
    cpu_cores: float
    memory_bytes: int | None
    threads: int | None
    cpu_s: float | None  # CPU time in all; of those that are still running
    executes: str  # one word; "": too little is known
    gpus: float | None  # kept busy; None: none, or not known
    gpu_memory_bytes: int | None

    @property
    def first(self) -> ProcessStatus:
        """The busiest."""
        return self.processes[0]


def process_rows(every: Iterable[ContainerStatus], view: View) -> tuple[ProcessRow, ...]:
    """Return what ``view`` shows of all processes that are known of ``every``."""
    words = view.text.lower().split()
    rows = [
        row
        for status in every
        for row in _rows_of(status, is_folded=view.is_folded)
        if (view.is_narrowed or row.signals or row.gpus or row.cpu_cores > IDLE_CORES)
        and _holds_all(row, words)
    ]
    sort = view.sort if view.sort in PROCESS_SORTS else PROCESS_SORTS[0]
    if sort in _FIGURES:
        figure = _FIGURES[sort]
        rows.sort(key=lambda row: (-figure(row), -row.cpu_cores, row.key), reverse=view.is_reversed)
        return tuple(rows)
    text = _TEXTS[sort]
    rows.sort(
        key=lambda row: (text(row).lower(), -row.cpu_cores, row.key), reverse=view.is_reversed
    )
    return tuple(sorted(rows, key=lambda row: not text(row)))


def command_of(process: ProcessStatus) -> str:
    """Return its command line fit to print, and the names that differ from it."""
    command = shown_command_line(process.command_line, _COMMAND_LENGTH) or "(hidden or empty)"
    notes = []
    program = process.command_line.partition(" ")[0]
    if process.comm and process.comm != program.rpartition("/")[2][:15]:
        notes.append(f"named {printable(process.comm, _NAME_LENGTH)}")
    if process.image and process.image != program:
        notes.append(f"executable {printable(shortened(process.image, _IMAGE_LENGTH))}")
    return command + (f"  ({', '.join(notes)})" if notes else "")


def process_columns(width: int) -> tuple[Column[ProcessRow], ...]:
    """Return all columns."""
    return (
        Column("PID", _draw_pid, 7, is_number=True, sort="pid"),
        Column("CPU", lambda row, *_: f"{row.cpu_cores:.2f}", 6, is_number=True, sort="cpu"),
        Column(
            "CPU-TIME", lambda row, *_: NOTHING if row.cpu_s is None else duration(row.cpu_s), 8, 3,
            is_number=True, sort="time",
            exists=lambda rows: any(row.cpu_s is not None for row in rows),
        ),
        Column(
            "MEMORY", lambda row, *_: _size(row.memory_bytes), 8, 5, is_number=True,
            sort="memory", exists=lambda rows: any(row.memory_bytes is not None for row in rows),
        ),
        Column(
            "THREADS", lambda row, *_: NOTHING if row.threads is None else f"{row.threads}", 7, 4,
            is_number=True, sort="threads",
            exists=lambda rows: any(row.threads is not None for row in rows),
        ),
        Column(
            "GPU", lambda row, *_: NOTHING if row.gpus is None else f"{row.gpus:.2f}", 6, 8,
            is_number=True, sort="gpu",
            exists=lambda rows: any(row.gpus is not None for row in rows),
        ),
        Column(
            "GPU-MEM", lambda row, *_: _size(row.gpu_memory_bytes), 8, 5, is_number=True,
            exists=lambda rows: any(row.gpu_memory_bytes is not None for row in rows),
        ),
        Column(
            "FOUND", lambda row, _, width: cut("+".join(row.signals), width), 9, 7,
            style=lambda row: LEVEL_STYLES.get(row.status.level, "") if row.signals else "",
            exists=lambda rows: any(row.signals for row in rows),
        ),
        Column(
            "EXECUTES", lambda row, *_: row.executes or NOTHING, 9, 5,
            exists=lambda rows: any(row.executes for row in rows),
        ),
        Column("USER", lambda row, _, width: cut(printable(row.first.user, 32), width), 9, 3),
        Column("CONTAINER", _draw_container, sort="name", is_name=True),
        Column(
            "OWNER", lambda row, _, width: fitted(shown_name(row.status.owner), width),
            16, 6, sort="owner", exists=lambda rows: any(row.status.owner for row in rows),
        ),
        Column(
            "NODE", lambda row, _, width: fitted(shown_name(row.status.node), width),
            14, 2, sort="node", exists=lambda rows: len({row.status.node for row in rows}) > 1,
        ),
        Column("COMMAND", _draw_command, max(30, width // 4), is_rest=True),
    )  # fmt: skip


def process_lines(row: ProcessRow) -> Iterator[Text]:
    """Yield what matters most of a row."""
    pids = ", ".join(str(each.pid) for each in row.processes[:_MAX_PIDS])
    more = ", …" if len(row.processes) > _MAX_PIDS else ""
    count = f"{len(row.processes)} processes" if len(row.processes) > 1 else "pid"
    found = f", findings: {', '.join(row.signals)}" if row.signals else ", no findings"
    yield Text(f"{count} {pids}{more}: {row.cpu_cores:.2f} cores{found}", "bold")
    yield Text(command_of(row.first))
    yield Text(f"in {shown_name(full_name(row.status))}, {printable(row.status.level, 16)}")


def _rows_of(status: ContainerStatus, *, is_folded: bool) -> Iterator[ProcessRow]:
    found: dict[int | None, dict[str, None]] = {}
    for finding in status.findings:
        found.setdefault(finding.pid, {})[finding.signal] = None
    alike: dict[Key, list[ProcessStatus]] = {}
    for process in status.processes:
        names = (process.comm, process.command_line, process.user)
        own = names if is_folded else (str(process.pid),)
        alike.setdefault((*key_of(status), *own), []).append(process)
    for key, processes in alike.items():
        if len(processes) > 1:
            processes.sort(key=lambda each: -max(each.cpu_cores or 0.0, each.gpus or 0.0))
        signals = dict.fromkeys(each for one in processes for each in found.get(one.pid, ()))
        yield ProcessRow(
            key,
            status,
            tuple(processes),
            tuple(TAGS.get(each) or printable(each, 8) for each in signals),
            sum(each.cpu_cores or 0.0 for each in processes),
            _sum(each.memory_bytes for each in processes),
            _sum(each.threads for each in processes),
            _sum(each.cpu_seconds for each in processes),
            one_word(processes[0].executed),
            _sum(each.gpus for each in processes),
            _sum(each.gpu_memory_bytes for each in processes),
        )


def _sum(values: Iterable[_Number | None]) -> _Number | None:
    known = [each for each in values if each is not None]
    return sum(known[1:], known[0]) if known else None


def _holds_all(row: ProcessRow, words: Sequence[str]) -> bool:
    if not words:
        return True
    status, first = row.status, row.first
    pids = " ".join(str(each.pid) for each in row.processes)
    names = (first.comm, quoted(first.command_line), first.user, first.image, *row.signals)
    text = " ".join((full_name(status), status.owner, status.node, pids, *names)).lower()
    return all(word in text for word in words)


def _draw_pid(row: ProcessRow, _scene: Scene, _width: int) -> str:
    return str(row.first.pid) if len(row.processes) == 1 else NOTHING


def _draw_container(row: ProcessRow, scene: Scene, width: int) -> str:
    name = shown_name(full_name(row.status))
    return named(name, row.status.node, scene, width)


def _draw_command(row: ProcessRow, _scene: Scene, width: int) -> str:
    count = f"{len(row.processes)} × " if len(row.processes) > 1 else ""
    return cut(count + command_of(row.first), width)


def _size(size_bytes: int | None) -> str:
    return NOTHING if size_bytes is None else byte_size(size_bytes)


_FIGURES: dict[str, Callable[[ProcessRow], float]] = {
    "cpu": lambda row: row.cpu_cores,
    "time": lambda row: row.cpu_s or 0,
    "memory": lambda row: row.memory_bytes or 0,
    "threads": lambda row: row.threads or 0,
    "gpu": lambda row: row.gpus or 0.0,
    "pid": lambda row: -row.first.pid,
}
_TEXTS: dict[str, Callable[[ProcessRow], str]] = {
    "name": lambda row: full_name(row.status),
    "owner": lambda row: row.status.owner,
    "node": lambda row: row.status.node,
}
