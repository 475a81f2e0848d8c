"""Columns of the table and of the screen: a container as one cell each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from minerwatch.api.types import ContainerStatus
from minerwatch.format import age, percent
from minerwatch.model import Level, Signal
from minerwatch.untrusted_text.display import printable
from minerwatch.view.lines import fitted
from minerwatch.view.selection import limit_share, place

NOTHING = "-"
NAME = "CONTAINER"
SINCE = "SINCE"
NAME_LENGTH = 256
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
    """For each signal, strongest first, its strongest finding, and how many there are besides."""
    if not status.findings:
        is_clear = status.level == Level.CLEAR.label
        return "" if is_clear else "no rule holds any more; the level falls in a few ticks"
    best: dict[str, str] = {}
    counts = Counter(finding.signal for finding in status.findings)
    for finding in status.findings:
        more = counts[finding.signal] - 1
        best.setdefault(
            finding.signal,
            f"{finding.signal}: {printable(finding.title, _REASON_LENGTH)}"
            + (f" (+{more})" if more else ""),
        )
    return printable("; ".join(best.values()), _REASON_LENGTH)


def tags(status: ContainerStatus) -> str:
    """The signals behind its score as short words, strongest first: ``id+behav``."""
    ranked = sorted(status.signals.items(), key=lambda item: (-item[1], item[0]))
    return "+".join(TAGS.get(signal) or printable(signal, 8) for signal, _ in ranked)


def _score(status: ContainerStatus, _now: datetime) -> str:
    return str(int(status.score))  # no rounding lifts it to a level that it has not


def _level(status: ContainerStatus, _now: datetime) -> str:
    return printable(status.level, _LEVEL_LENGTH)


def _since(status: ContainerStatus, now: datetime) -> str:
    return age(status.since, now)


def _cpu(status: ContainerStatus, _now: datetime) -> str:
    return f"{status.cpu_cores:.2f}"


def _limit(status: ContainerStatus, _now: datetime) -> str:
    return percent(limit_share(status))


def _throttled(status: ContainerStatus, _now: datetime) -> str:
    return percent(status.throttled_share)


def _cpu_hours(status: ContainerStatus, _now: datetime) -> str:
    return f"{status.cpu_hours:.1f}"


def _name(status: ContainerStatus, _now: datetime) -> str:
    return printable(place(status), NAME_LENGTH)


def _age(status: ContainerStatus, now: datetime) -> str:
    return age(status.started, now) if status.started else NOTHING


def _owner(status: ContainerStatus, _now: datetime) -> str:
    return fitted(printable(status.owner, NAME_LENGTH), _OWNER_WIDTH) or NOTHING


def _image(status: ContainerStatus, _now: datetime) -> str:
    return fitted(printable(status.image, NAME_LENGTH), _IMAGE_WIDTH) or NOTHING


def _node(status: ContainerStatus, _now: datetime) -> str:
    return fitted(printable(status.node, NAME_LENGTH), _OWNER_WIDTH)


SCORE_COLUMN = Column("SCORE", _score, is_number=True)
LEVEL_COLUMN = Column("LEVEL", _level)
SINCE_COLUMN = Column(SINCE, _since, leaves=8, is_number=True)
CPU_COLUMN = Column("CPU", _cpu, is_number=True)
LIMIT_COLUMN = Column("%LIMIT", _limit, leaves=7, is_number=True)
THROTTLED_COLUMN = Column("THROTTLED", _throttled, leaves=2, is_number=True)
HOURS_COLUMN = Column("CPU-H", _cpu_hours, leaves=4, is_number=True)
AGE_COLUMN = Column("AGE", _age, leaves=3, is_number=True)
NAME_COLUMN = Column(NAME, _name)
OWNER_COLUMN = Column("OWNER", _owner, leaves=6)
IMAGE_COLUMN = Column("IMAGE", _image, leaves=1)
NODE_COLUMN = Column("NODE", _node, leaves=5)

TABLE_COLUMNS = (
    SCORE_COLUMN,
    LEVEL_COLUMN,
    SINCE_COLUMN,
    CPU_COLUMN,
    LIMIT_COLUMN,
    THROTTLED_COLUMN,
    HOURS_COLUMN,
    AGE_COLUMN,
    NAME_COLUMN,
    OWNER_COLUMN,
    IMAGE_COLUMN,
    NODE_COLUMN,
)
"""Of ``top --once``, with the reasons after them."""
