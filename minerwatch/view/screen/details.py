"""A few lines on the selected row, below the table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from rich.text import Text

from minerwatch.api.types import ContainerStatus
from minerwatch.format import age
from minerwatch.kinds import Level
from minerwatch.untrusted_text.display import printable, shown_command_line, shown_name
from minerwatch.view.columns import LEVEL_STYLES, reasons
from minerwatch.view.screen.containers import Group, Row
from minerwatch.view.selection import IDLE_CORES, full_name

_COMMAND_LENGTH = 400
_MAX_PROCESSES = 8


def container_lines(row: Row, now: datetime) -> Iterator[Text]:
    """Yield what matters of a container or of a group, the most important first."""
    return _of_group(row, row.group) if row.group else _of_container(row.status, now)


def _of_container(status: ContainerStatus, now: datetime) -> Iterator[Text]:
    yield Text(shown_name(full_name(status)), "bold")
    level = f"{printable(status.level, 16)} for {age(status.since, now)}"
    said = reasons(status) or _nothing(status)
    yield Text.assemble((level, LEVEL_STYLES.get(status.level, "")), f": {said}")
    flagged = {finding.pid for finding in status.findings}
    foremost = sorted(
        status.processes, key=lambda each: (each.pid not in flagged, -(each.cpu_cores or 0.0))
    )
    processes = [
        Text(
            f"pid {each.pid}, {each.cpu_cores or 0.0:.2f} cores: "
            f"{shown_command_line(each.command_line, _COMMAND_LENGTH) or printable(each.comm)}"
        )
        for each in foremost[:_MAX_PROCESSES]
    ]
    yield from processes[:1]
    facts = {
        "owner": status.owner,
        "image": status.image,
        "node": status.node,
        "cgroup": "" if status.pod else status.cgroup,
    }
    yield Text(" · ".join(f"{name} {shown_name(fact)}" for name, fact in facts.items() if fact))
    yield from processes[1:]


def _nothing(status: ContainerStatus) -> str:
    if status.cpu_cores <= IDLE_CORES:
        return "no rule holds, and it is idle"
    return "no rule holds; CPU usage does not tell what it calculates"


def _of_group(row: Row, group: Group) -> Iterator[Text]:
    yield Text(group.title, "bold")
    levels = Counter(member.level for member in group.members)
    ranked = [level.label for level in reversed(Level) if levels[level.label]]
    counts = ", ".join(f"{levels[level]:,} {level}" for level in ranked)
    used = f"{row.status.cpu_cores:.2f} cores, {row.status.cpu_hours:.1f} CPU hours in all"
    yield Text(f"{counts} · {used}")
    worst = max(group.members, key=lambda each: each.score)
    yield Text(f"worst: {shown_name(full_name(worst))}")
    yield Text(reasons(row.status))
