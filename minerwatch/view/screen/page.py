"""Everything about one container, as sections of lines: text of ``explain``, and history. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isnan

from rich.cells import cell_len, chop_cells
from rich.text import Text

from minerwatch.api.types import AgentStatus, ContainerStatus, FindingStatus, ProcessStatus
from minerwatch.format import age, by_signal, counted, rfc3339
from minerwatch.process_order import tree_order
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.agent_summary import mode
from minerwatch.view.campaigns import Campaign
from minerwatch.view.columns import LEVEL_STYLES
from minerwatch.view.explanation import FACT_INDENT, PROCESSES, headline, sections
from minerwatch.view.lines import Line, cut, padded, wrapped
from minerwatch.view.screen.columns import span
from minerwatch.view.screen.history import LevelChange
from minerwatch.view.screen.processes import command_of

_MAX_CONNECTIONS = 32
_MAX_EVENTS = 30
_MAX_DEPTH = 20
_MIN_WIDTH = 40
_TIME_WIDTH = 20
_USER_WIDTH = 10
_RULE_INDENT = 10  # of lines on a finding's rule
_BRANCH, _LAST, _BESIDE, _BELOW = "├─ ", "└─ ", "│  ", "   "
_TITLES = f"        PID    CPU  {padded('USER', _USER_WIDTH)}  COMMAND LINE"
_NO_CONNECTION = (
    "None is known. Agents look at the connections of suspects only, every 30 s."
    " All of a process: nsenter -t PID -n ss -tnp"
)

Section = tuple[str, Sequence[Text]]
"""A title ("": none), and the lines below it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A container, and all that is known about it."""

    status: ContainerStatus
    now: datetime
    cores: Sequence[float] = ()  # its recent usage, from CpuHistory
    step_s: float = 1.0  # between two of them
    changes: Sequence[LevelChange] = ()
    campaign: Campaign | None = None
    agent: AgentStatus | None = None  # of its node; None: not reported
    answered: datetime | None = None  # when its node answered last, where it no longer does
    is_gone: bool = False  # the last poll did not show it


def page_sections(subject: Subject, width: int, *, is_tree: bool = False) -> list[Section]:
    """Return the page, every line of it within ``width`` columns; the first section is its head.

    ``is_tree``: processes below their parents, not by CPU.
    """
    width = max(width, _MIN_WIDTH)
    status, now = subject.status, subject.now
    head = [
        piece
        for line in headline(status, now, width)
        for piece in ([line] if line.cell_len <= width else _chopped(line, width))
    ]
    shown: list[Section] = [("", [*_warning(subject, width), *head])]
    for title, body in sections(status, now, campaign=subject.campaign):
        if title == PROCESSES:
            order = "as a tree" if is_tree else "by CPU"
            listed = _tree(status) if is_tree else _by_cpu(status)
            shown += [
                (f"Processes {order} (* has findings; t)", _processes(status, listed, width)),
                ("Connections", _connections(subject, width)),
                ("History", _history(subject, width)),
            ]
            if status.culling is None:
                shown.append(("Culling", _folded(_policy(subject), 2, width)))
        else:
            shown.append((title, [piece for line in body for piece in _broken(line, title, width)]))
    return [(title, body) for title, body in shown if body]


def cpu_text(subject: Subject) -> str:
    """Return its CPU as text: now, and the least and most of late."""
    status = subject.status
    said = f"{status.cpu_cores:.2f} cores now"
    if status.cpu_limit_cores:
        said += f", {status.cpu_cores / status.cpu_limit_cores:.0%} of its limit"
    known = [each for each in subject.cores if not isnan(each)]
    if not known:
        return f"{said}. It has been idle since the screen was opened."
    since = span(len(subject.cores) * subject.step_s)
    gaps = len(subject.cores) - len(known)
    unknown = f"; not read {counted(gaps, 'time')}, drawn as 0" if gaps else ""
    most, least = f"the most {max(known):.2f}", f"the least {min(known):.2f}"
    return f"{said}; of the last {since}, {most}, {least}{unknown}"


def _chopped(line: Text, width: int) -> list[Text]:
    return [Text(piece, line.style) for piece in chop_cells(line.plain, width)]


def _warning(subject: Subject, width: int) -> Iterator[Text]:
    if subject.is_gone:
        text = "It is no longer there. This is what was known last."
    elif subject.answered is not None:
        since = age(subject.answered.isoformat(), subject.now)
        text = f"Its node no longer answers. This is what was known {since} ago."
    else:
        return
    for piece in wrapped(text, width):
        yield Text(piece, "yellow")


def _broken(line: Line, title: str, width: int) -> Iterator[Text]:
    """Break a line of an explanation; its continuation is indented further."""
    spaces = len(line.text) - len(line.text.lstrip(" "))
    begins = spaces if title else FACT_INDENT
    hang = line.hang if line.hang is not None else begins + 2 if title else begins
    style = "dim" if spaces >= _RULE_INDENT else ""
    start = line.text[:begins]
    for piece in _hanging(line.text[begins:], begins, hang, width):
        yield Text(start + piece, style)
        start = " " * hang


def _hanging(text: str, begins: int, hang: int, width: int) -> list[str]:
    """Break ``text`` so that its first piece fits after ``begins``, all others after ``hang``."""
    first, *_ = wrapped(text, max(1, width - begins))
    rest = text[len(first) :].lstrip(" ")
    return [first, *(wrapped(rest, max(1, width - hang)) if rest else ())]


def _folded(text: str, indent: int, width: int) -> list[Text]:
    return [Text(" " * indent + piece) for piece in wrapped(text, max(1, width - indent))]


_Listed = Iterator[tuple[ProcessStatus, str]]
"""A process, and what stands before its command line."""


def _by_cpu(status: ContainerStatus) -> _Listed:
    for process in sorted(status.processes, key=lambda each: -(each.cpu_cores or 0.0)):
        yield process, ""


def _tree(status: ContainerStatus) -> _Listed:
    pids = lambda each: (each.pid, each.parent_pid)  # noqa: E731
    for process, path in tree_order(status.processes, pids, _MAX_DEPTH):
        above = "".join(_BELOW if is_last else _BESIDE for is_last in path[:-1])
        yield process, above + (_LAST if path[-1] else _BRANCH) if path else ""


def _processes(status: ContainerStatus, listed: _Listed, width: int) -> list[Text]:
    found = {finding.pid for finding in status.findings}
    lines = []
    for process, stem in listed:
        mark = "*" if process.pid in found else " "
        cores = "-" if process.cpu_cores is None else f"{process.cpu_cores:.2f}"
        user = padded(cut(printable(process.user, _USER_WIDTH), _USER_WIDTH), _USER_WIDTH)
        head = f"  {mark} {process.pid:7d}  {cores:>5}  {user}  {stem}"
        begins = cell_len(head)
        first, *rest = chop_cells(command_of(process), max(_MIN_WIDTH // 2, width - begins)) or [""]
        lines.append(Text(head + first))
        lines += (Text(" " * begins + piece) for piece in rest)
    if not lines:
        return _folded("None was read: it is idle, or its processes are not visible.", 2, width)
    more = status.process_count - len(status.processes)
    rest_line = [Text(f"  … and {more:,} more")] if more > 0 else []
    return [Text(_TITLES), *lines, *rest_line]


def _connections(subject: Subject, width: int) -> list[Text]:
    ends = [
        f"  {process.pid} {printable(process.comm, 16)} → "
        f"{_endpoint(each.address, each.port)} for {age(each.since, subject.now)}"
        f" (first seen {printable(each.since, 32)})"
        for process in subject.status.processes
        for each in process.connections
    ]
    if ends:
        more = len(ends) - _MAX_CONNECTIONS
        rest = [f"  … and {more:,} more"] if more > 0 else []
        return [
            Text(piece)
            for line in (*ends[:_MAX_CONNECTIONS], *rest)
            for piece in chop_cells(line, width)
        ]
    off = subject.agent.probes_off.get("connections") if subject.agent else None
    text = f"Not looked at: {shown_name(off)}" if off else _NO_CONNECTION
    return _folded(text, 2, width)


def _endpoint(address: str, port: int) -> str:
    shown = printable(address, 64)
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def _history(subject: Subject, width: int) -> list[Text]:
    """List events, the newest first: those of findings, and those that the screen saw."""
    status = subject.status
    events: list[tuple[str, str, str]] = []
    if status.started:
        events.append((status.started, "the pod was made", ""))
    by_time: dict[tuple[str, str], list[FindingStatus]] = {}
    for finding in status.findings:
        by_time.setdefault((finding.since, finding.signal), []).append(finding)
    for (since, signal), findings in by_time.items():
        titles = by_signal((signal, each.title) for each in findings)
        events.append((since, f"{shown_name(titles)} began to hold", ""))
    if not any(change.after == status.level for change in subject.changes):
        level = printable(status.level, 16)
        events.append((status.since, f"level {level}", LEVEL_STYLES.get(status.level, "")))
    for change in subject.changes:
        before, after = printable(change.before, 16), printable(change.after, 16)
        style = LEVEL_STYLES.get(change.after, "")
        events.append((rfc3339(change.at.timestamp()), f"level {before} → {after}", style))
    events.sort(key=lambda event: event[0], reverse=True)
    lines = []
    for at, what, style in events[:_MAX_EVENTS]:
        when = padded(cut(printable(at, _TIME_WIDTH), _TIME_WIDTH), _TIME_WIDTH)
        head = f"  {when}  {age(at, subject.now):>6} ago  "
        begins = cell_len(head)
        first, *rest = wrapped(what, max(1, width - begins))
        lines.append(Text.assemble(head, (first, style)))
        lines += (Text(" " * begins + piece, style) for piece in rest)
    if len(events) > _MAX_EVENTS:
        lines.append(Text(f"  … and {counted(len(events) - _MAX_EVENTS, 'event')} before"))
    return lines


def _policy(subject: Subject) -> str:
    """Describe culling where nothing has been decided about the container."""
    if subject.agent is None:
        return "No agent says how far culling goes on this node."
    how_far = mode(subject.agent)
    if how_far == "observe":
        return (
            "Culling is off on this node: it only observes. Nothing is done about this container."
        )
    return f"Culling is in mode {how_far} on this node. There is nothing to decide about this one."
