"""The output of ``minerwatch top --once --processes``: a table, or JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from rich.text import Text

from minerwatch.view.executed_code import one_word
from minerwatch.view.lines import rendered
from minerwatch.view.screen.history import CpuHistory
from minerwatch.view.screen.layout import Scene, Traits, fitting
from minerwatch.view.screen.processes import ProcessRow, process_columns

_UNLIMITED = 400  # columns, where the output is no terminal


@dataclass(frozen=True, slots=True)
class ListedProcess:
    """A process in ``-o json``; None: not measured."""

    node: str
    namespace: str
    pod: str
    container: str
    container_id: str
    kind: str
    owner: str
    level: str  # of the container
    pid: int
    parent_pid: int
    user: str
    cpu_cores: float | None
    cpu_seconds: float | None
    memory_bytes: int | None
    threads: int | None
    gpus: float | None
    gpu_memory_bytes: int | None
    executes: str  # one word; "": too little is known
    signals: tuple[str, ...]  # of findings on it
    comm: str
    image: str
    command_line: str


def process_table(
    rows: Sequence[ProcessRow], *, now: datetime, width: int | None, colour: bool
) -> str:
    """Return titles and one line a row, or a sentence if there is none.

    ``width`` is the terminal's, in columns; None: nothing is left out.
    """
    if not rows:
        return "no process to show\n"
    room = width or _UNLIMITED
    scene = Scene(now, CpuHistory(1.0), {})
    columns = process_columns(room)
    layout = fitting(columns, room, Traits.of(rows, columns, scene))
    gap = " " * layout.gap
    lines = [Text(gap.join(layout.titles("", is_reversed=False)).rstrip(), "bold")]
    for row in rows:
        cells = layout.cells(row, scene, "")
        line = Text(gap).join(Text(text, style) for text, style in cells)
        line.rstrip()
        lines.append(line)
    return rendered(lines, colour=colour)


def encode_processes(rows: Sequence[ProcessRow]) -> bytes:
    """Return a JSON list with one object a process, in the order of ``rows``."""
    return msgspec.json.encode([each for row in rows for each in _listed(row)])


def limits(rows: Sequence[ProcessRow]) -> str:
    """Return a sentence if containers have more processes than are known; "": all are."""
    if all(row.status.process_count <= len(row.status.processes) for row in rows):
        return ""
    return "of each container only the processes with findings and the busiest are known"


def _listed(row: ProcessRow) -> Iterator[ListedProcess]:
    status = row.status
    for process in row.processes:
        yield ListedProcess(
            status.node, status.namespace, status.pod, status.container, status.container_id,
            status.kind, status.owner, status.level,
            process.pid, process.parent_pid, process.user, process.cpu_cores, process.cpu_seconds,
            process.memory_bytes, process.threads, process.gpus, process.gpu_memory_bytes,
            one_word(process.executed),
            tuple(dict.fromkeys(f.signal for f in status.findings if f.pid == process.pid)),
            process.comm, process.image, process.command_line,
        )  # fmt: skip
