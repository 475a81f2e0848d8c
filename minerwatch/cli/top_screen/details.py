"""A few lines on the selected row, below the table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from rich.cells import cell_len
from rich.text import Text

from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen.rows import Group, Row
from minerwatch.format import age
from minerwatch.model import Level
from minerwatch.untrusted_text.display import printable, shown_command_line
from minerwatch.view.columns import LEVEL_STYLES, NAME_LENGTH, reasons
from minerwatch.view.lines import cut, fitted
from minerwatch.view.selection import IDLE_CORES, place

_COMMAND_LENGTH = 400
_MAX_PROCESSES = 8


def detail_lines(row: Row, now: datetime, width: int, height: int) -> list[Text]:
    """What matters most of the row, in at most ``height`` lines of ``width`` columns."""
    told = _of_group(row, row.group, width) if row.group else _of_container(row.status, now, width)
    lines: list[Text] = []
    for line in told:
        if len(lines) == height:
            break
        lines.append(line)
    return lines


def _of_container(status: ContainerStatus, now: datetime, width: int) -> Iterator[Text]:
    yield Text(fitted(printable(place(status), NAME_LENGTH), width), "bold")
    level = f"{printable(status.level, 16)} for {age(status.since, now)}"
    said = reasons(status) or _nothing(status)
    rest = cut(f": {said}", width - cell_len(level))
    yield Text.assemble((level, LEVEL_STYLES.get(status.level, "")), rest)
    busiest = sorted(status.processes, key=lambda each: -(each.cpu_cores or 0.0))
    flagged = {finding.pid for finding in status.findings}
    foremost = sorted(busiest, key=lambda each: each.pid not in flagged)
    processes = [
        f"pid {each.pid}, {each.cpu_cores or 0.0:.2f} cores: "
        f"{shown_command_line(each.command_line, _COMMAND_LENGTH) or printable(each.comm)}"
        for each in foremost[:_MAX_PROCESSES]
    ]
    yield from (Text(cut(line, width)) for line in processes[:1])
    facts = {
        "owner": status.owner,
        "image": status.image,
        "node": status.node,
        "cgroup": "" if status.pod else status.cgroup,
    }
    told = " · ".join(
        f"{name} {printable(fact, NAME_LENGTH)}" for name, fact in facts.items() if fact
    )
    yield Text(cut(told, width))
    yield from (Text(cut(line, width)) for line in processes[1:])


def _nothing(status: ContainerStatus) -> str:
    if status.cpu_cores <= IDLE_CORES:
        return "no rule holds, and it is idle"
    return "no rule holds; that it burns CPU does not tell what it calculates"


def _of_group(row: Row, group: Group, width: int) -> Iterator[Text]:
    yield Text(cut(group.title, width), "bold")
    levels = Counter(member.level for member in group.members)
    ranked = [level.label for level in reversed(Level) if levels[level.label]]
    counts = ", ".join(f"{levels[level]:,} {level}" for level in ranked)
    burnt = f"{row.status.cpu_cores:.2f} cores, {row.status.cpu_hours:.1f} CPU hours in all"
    yield Text(cut(f"{counts} · {burnt}", width))
    worst = max(group.members, key=lambda each: each.score)
    yield Text(cut(f"worst: {printable(place(worst), NAME_LENGTH)}", width))
    yield Text(cut(reasons(row.status), width))
