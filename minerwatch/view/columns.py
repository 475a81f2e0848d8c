"""Columns of the table and of the screen: a container as one cell each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from minerwatch.api.types import ContainerStatus
from minerwatch.format import age, by_signal, percent
from minerwatch.kinds import Level, Signal
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.executed_code import one_word
from minerwatch.view.lines import fitted
from minerwatch.view.selection import abuse_of, full_name, limit_share

NOTHING = "-"
NAME = "CONTAINER"
SINCE = "SINCE"
_OWNER_WIDTH = 20
_IMAGE_WIDTH = 40
_REASON_LENGTH = 300
_LEVEL_LENGTH = 16

LEVEL_STYLES = {
    Level.SUSPICIOUS.label: "yellow",
    Level.LIKELY.label: "red",
    Level.CONFIRMED.label: "bold red",
}

TAGS = {
    Signal.IDENTITY.value: "id",
    Signal.NETWORK.value: "net",
    Signal.COMPUTE.value: "comp",
    Signal.CONTENT.value: "cont",
    Signal.EXECUTION.value: "exec",
    Signal.BEHAVIOUR.value: "behav",
}

Cell = Callable[[ContainerStatus, datetime], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A title, and the cell of a container below it."""

    title: str
    cell: Cell
    leaves: int = 0  # a narrow terminal, lowest first; 0: never
    is_number: bool = False


def reasons(status: ContainerStatus) -> str:
    """Return each signal's strongest finding and their number, strongest signal first."""
    if not status.findings:
        is_clear = status.level == Level.CLEAR.label
        return "" if is_clear else "no rule holds any more; the level falls in a few ticks"
    text = by_signal(
        (each.signal, printable(each.title, _REASON_LENGTH))
        for each in status.findings
        if each.counted
    )
    return printable(text, _REASON_LENGTH)


def tags(status: ContainerStatus) -> str:
    """Return the signals behind its score as words, strongest first: ``id+behav``."""
    ranked = sorted(status.signals.items(), key=lambda item: (-item[1], item[0]))
    return "+".join(TAGS.get(signal) or printable(signal, 8) for signal, _ in ranked)


def gpus(status: ContainerStatus) -> str:
    """Return the GPUs that it keeps busy, of those requested; ``!``: it requested none."""
    gpu = status.gpu
    if gpu is None:
        return NOTHING
    busy = "?" if gpu.busy is None else f"{gpu.busy:.2f}"
    limit = f"/{gpu.limit:g}" if gpu.limit else ""
    return f"{'!' if gpu.requested is False else ''}{busy}{limit}"


def _named(text: str, width: int) -> str:
    return fitted(shown_name(text), width) or NOTHING


# ``int``: no rounding lifts a score to a level that it has not.
SCORE_COLUMN = Column("SCORE", lambda status, _: str(int(status.score)), is_number=True)
LEVEL_COLUMN = Column("LEVEL", lambda status, _: printable(status.level, _LEVEL_LENGTH))
ABUSE_COLUMN = Column(
    "ABUSE", lambda status, _: printable(abuse_of(status), _LEVEL_LENGTH) or NOTHING, leaves=9
)
SINCE_COLUMN = Column(SINCE, lambda status, now: age(status.since, now), leaves=8, is_number=True)
CPU_COLUMN = Column("CPU", lambda status, _: f"{status.cpu_cores:.2f}", is_number=True)
LIMIT_COLUMN = Column(
    "%LIMIT", lambda status, _: percent(limit_share(status)), leaves=7, is_number=True
)
THROTTLED_COLUMN = Column(
    "THROTTLED", lambda status, _: percent(status.throttled_share), leaves=2, is_number=True
)
HOURS_COLUMN = Column(
    "CPU-H", lambda status, _: f"{status.cpu_hours:.1f}", leaves=4, is_number=True
)
GPU_COLUMN = Column("GPU", lambda status, _: gpus(status), leaves=9, is_number=True)
GPU_HOURS_COLUMN = Column(
    "GPU-H",
    lambda status, _: f"{status.gpu.hours:.1f}" if status.gpu else NOTHING,
    leaves=4,
    is_number=True,
)
EXECUTES_COLUMN = Column(
    "EXECUTES", lambda status, _: one_word(status.executed) or NOTHING, leaves=2
)
AGE_COLUMN = Column(
    "AGE",
    lambda status, now: age(status.started, now) if status.started else NOTHING,
    leaves=3,
    is_number=True,
)
NAME_COLUMN = Column(NAME, lambda status, _: shown_name(full_name(status)))
OWNER_COLUMN = Column("OWNER", lambda status, _: _named(status.owner, _OWNER_WIDTH), leaves=6)
IMAGE_COLUMN = Column("IMAGE", lambda status, _: _named(status.image, _IMAGE_WIDTH), leaves=1)
NODE_COLUMN = Column("NODE", lambda status, _: _named(status.node, _OWNER_WIDTH), leaves=5)

TABLE_COLUMNS = (
    SCORE_COLUMN,
    LEVEL_COLUMN,
    ABUSE_COLUMN,
    SINCE_COLUMN,
    CPU_COLUMN,
    LIMIT_COLUMN,
    THROTTLED_COLUMN,
    HOURS_COLUMN,
    GPU_COLUMN,
    GPU_HOURS_COLUMN,
    EXECUTES_COLUMN,
    AGE_COLUMN,
    NAME_COLUMN,
    OWNER_COLUMN,
    IMAGE_COLUMN,
    NODE_COLUMN,
)
"""Of ``top --once``, with the reasons after them."""
