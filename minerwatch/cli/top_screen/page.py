"""Everything about one container, as lines: what ``explain`` says, and what moves. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isnan

from rich.cells import cell_len, chop_cells
from rich.text import Text

from minerwatch.api.types import AgentStatus, ContainerStatus, FindingStatus
from minerwatch.cli.top_screen.cells import bar, span
from minerwatch.cli.top_screen.journal import LevelChange
from minerwatch.cli.top_screen.process_tree import TITLES, process_lines
from minerwatch.format import age, counted, rfc3339
from minerwatch.untrusted_text.display import printable
from minerwatch.view.agent_summary import mode
from minerwatch.view.campaigns import Campaign
from minerwatch.view.columns import LEVEL_STYLES
from minerwatch.view.explanation import FACT_INDENT, PROCESSES, Line, headline, sections
from minerwatch.view.lines import cut, padded, wrapped

_CHART_HEIGHT = 4
_CHART_STEPS = " ▁▂▃▄▅▆▇█"
_LABEL_WIDTH = 8
_MAX_CONNECTIONS = 32
_MAX_EVENTS = 30
_NAME_LENGTH = 256
_LEAST_WIDTH = 40
_TIME_WIDTH = 20
_RULE_INDENT = 10  # of what is said of a finding's rule
_NO_CONNECTION = (
    "None is known. Agents look at the connections of suspects only, every 30 s."
    " All of a process: nsenter -t PID -n ss -tnp"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A container, and all that is known about it."""

    status: ContainerStatus
    now: datetime
    cores: Sequence[float] = ()  # what it burnt lately, as CpuHistory has it
    step_s: float = 1.0  # between two of them
    changes: Sequence[LevelChange] = ()
    campaign: Campaign | None = None
    agent: AgentStatus | None = None  # of its node; None: it does not say
    answered: datetime | None = None  # when its node answered last, where it no longer does
    is_gone: bool = False  # the last look did not show it


def page_lines(subject: Subject, width: int) -> list[Text]:
    """The page, every line of it within ``width`` columns."""
    width = max(width, _LEAST_WIDTH)
    status, now = subject.status, subject.now
    head = [
        piece
        for line in headline(status, now, width)
        for piece in ([line] if line.cell_len <= width else _chopped(line, width))
    ]
    lines = [*_warning(subject, width), *head]
    for title, body in sections(status, now, campaign=subject.campaign):
        if title == PROCESSES:
            lines += _titled("CPU lately", _chart(subject, width))
            lines += _titled("Processes (* has findings)", _processes(status, width))
            lines += _titled("Connections", _connections(subject, width))
            lines += _titled("History", _history(subject, width))
            if status.culling is None:
                lines += _titled("Culling", _folded(_policy(subject), 2, width))
            continue
        told = [piece for line in body for piece in _broken(line, title, width)]
        lines += _titled(title, told)
    return lines


def _chopped(line: Text, width: int) -> list[Text]:
    return [Text(piece, line.style) for piece in chop_cells(line.plain, width)]


def _titled(title: str, body: Sequence[Text]) -> list[Text]:
    if not body:
        return []
    return [Text(""), *([Text(title, "bold")] if title else []), *body]


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
    """A line of an explanation; what goes on below it stands further in."""
    spaces = len(line.text) - len(line.text.lstrip(" "))
    begins = spaces if title else FACT_INDENT
    hang = line.hang if line.hang is not None else begins + 2 if title else begins
    style = "dim" if spaces >= _RULE_INDENT else ""
    start = line.text[:begins]
    for piece in _hanging(line.text[begins:], begins, hang, width):
        yield Text(start + piece, style)
        start = " " * hang


def _hanging(text: str, begins: int, hang: int, width: int) -> list[str]:
    """``text`` broken so that its first piece fits after ``begins``, all others after ``hang``."""
    first, *_ = wrapped(text, max(1, width - begins))
    rest = text[len(first) :].lstrip(" ")
    return [first, *(wrapped(rest, max(1, width - hang)) if rest else ())]


def _folded(text: str, indent: int, width: int) -> list[Text]:
    return [Text(" " * indent + piece) for piece in wrapped(text, max(1, width - indent))]


def _chart(subject: Subject, width: int) -> list[Text]:
    """What it burnt lately, the newest at the right; the height is its limit, or the most."""
    status = subject.status
    known = [each for each in subject.cores if not isnan(each)]
    full = max((status.cpu_limit_cores or 1.0, status.cpu_cores, *known))
    shown = list(subject.cores[-max(1, width - _LABEL_WIDTH - 4) :])
    lines = []
    for row in reversed(range(_CHART_HEIGHT)):
        label = f"{full:.2f}" if row == _CHART_HEIGHT - 1 else "0.00" if row == 0 else ""
        drawn = "".join(_block(each, full, row) for each in shown)
        lines.append(Text(f"{label:>{_LABEL_WIDTH}} │{drawn}"))
    said = f"{status.cpu_cores:.2f} cores now"
    if known:
        since = span(len(shown) * subject.step_s)
        said += f"; of the last {since}, the most {max(known):.2f}, the least {min(known):.2f}"
    if status.cpu_limit_cores:
        share = status.cpu_cores / status.cpu_limit_cores
        said += f"; of its limit {bar(share, 10)} {share:.0%}"
    if not known:
        return _folded(said + ". It has been idle since the screen was opened.", 2, width)
    return [*lines, *_folded(said, 2, width)]


def _block(cores: float, full: float, row: int) -> str:
    if isnan(cores):
        return " "
    eighths = round(cores / full * _CHART_HEIGHT * 8) - row * 8
    if row == 0:
        eighths = max(1, eighths)  # that something was measured is to be seen
    return _CHART_STEPS[min(8, max(0, eighths))]


def _processes(status: ContainerStatus, width: int) -> list[Text]:
    lines = []
    for head, command in process_lines(status):
        begins = cell_len(head)
        first, *rest = chop_cells(command, max(_LEAST_WIDTH // 2, width - begins)) or [""]
        lines.append(Text(head + first))
        lines += (Text(" " * begins + piece) for piece in rest)
    if not lines:
        return _folded("None was read: it is idle, or its processes are not to be seen.", 2, width)
    more = status.process_count - len(status.processes)
    if more > 0:
        lines.append(Text(f"  … and {more:,} more"))
    return [Text(TITLES), *lines]


def _connections(subject: Subject, width: int) -> list[Text]:
    told = [
        f"  {process.pid} {printable(process.comm, 16)} → "
        f"{_endpoint(each.address, each.port)} for {age(each.since, subject.now)}"
        f" (first seen {printable(each.since, 32)})"
        for process in subject.status.processes
        for each in process.connections
    ]
    if told:
        more = len(told) - _MAX_CONNECTIONS
        rest = [f"  … and {more:,} more"] if more > 0 else []
        return [
            Text(piece)
            for line in (*told[:_MAX_CONNECTIONS], *rest)
            for piece in chop_cells(line, width)
        ]
    off = subject.agent.probes_off.get("connections") if subject.agent else None
    text = f"Not looked at: {printable(off, _NAME_LENGTH)}" if off else _NO_CONNECTION
    return _folded(text, 2, width)


def _endpoint(address: str, port: int) -> str:
    shown = printable(address, 64)
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def _history(subject: Subject, width: int) -> list[Text]:
    """What happened and when, the newest first: as findings tell it, and as the screen saw it."""
    status = subject.status
    events: list[tuple[str, str, str]] = []
    if status.started:
        events.append((status.started, "the pod was made", ""))
    by_time: dict[tuple[str, str], list[FindingStatus]] = {}
    for finding in status.findings:
        by_time.setdefault((finding.since, finding.signal), []).append(finding)
    for (since, signal), findings in by_time.items():
        titles = list(dict.fromkeys(printable(each.title, _NAME_LENGTH) for each in findings))
        more = f" (+{len(titles) - 1})" if len(titles) > 1 else ""
        events.append((since, f"{printable(signal, 16)}: {titles[0]}{more} began to hold", ""))
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
    """What is said of culling where nothing has been decided about the container."""
    if subject.agent is None:
        return "No agent says how far culling goes on this node."
    how_far = mode(subject.agent)
    if how_far == "observe":
        return (
            "Culling is off on this node: it only observes. Nothing is done about this container."
        )
    return f"Culling is in mode {how_far} on this node. There is nothing to decide about this one."
