"""The page of the last week: CPU over time, changes of level, actions, and gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from minerwatch.api.journal import ActionLine, AgentLine, VerdictLine
from minerwatch.format import counted
from minerwatch.kinds import Level
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.journal_history import ContainerHistory, History
from minerwatch.web.chart import cpu_chart
from minerwatch.web.html import Child, Markup, tag
from minerwatch.web.layout import (
    NO_JOURNAL,
    View,
    ago,
    cell,
    chart_key,
    container_link,
    level_mark,
    more,
    page,
    table,
)

_MAX_VERDICTS = 200
_MAX_FLAGGED = 30
_MAX_GAPS = 30
_MIN_GAP_S = 300.0
_BUCKETS_PER_BAR = 4  # an hour
_RULE_LENGTH = 120
_MAX_RULES = 3


def week_page(view: View) -> str:
    """Return the page."""
    title = "The last week"
    if view.history is None or view.history.is_empty:
        text = NO_JOURNAL if view.history is None else "Nothing was recorded in the last week."
        return page(view, title, tag("h1", title), tag("p", text), path="/week")
    history = view.history
    series = (("busy", history.core_s), ("flagged", history.flagged_core_s))
    return page(
        view,
        title,
        tag("h1", title),
        tag("p", _summary(history), class_="dim"),
        cpu_chart(
            "Cores busy, means of an hour, UTC",
            history,
            series,
            history.since_s,
            per_bar=_BUCKETS_PER_BAR,
        ),
        chart_key(),
        _flagged(history),
        _verdicts(view, history),
        _actions(view, history),
        _gaps(history),
        path="/week",
    )


def _summary(history: History) -> str:
    share = history.recorded_s / max(1.0, history.until_s - history.since_s)
    hours = sum(history.core_s.values()) / 3600
    flagged = sum(history.flagged_core_s.values()) / 3600
    return (
        f"{share:.0%} of the week is recorded: {hours:,.1f} CPU hours, {flagged:,.1f} of them by"
        " containers while they were flagged."
    )


def _flagged(history: History) -> list[Child]:
    found = sorted(
        ((key, each) for key, each in history.containers.items() if each.flagged_core_s),
        key=lambda item: -item[1].flagged_core_s,
    )
    if not found:
        return []
    rows = [_flagged_row(key, each) for key, each in found[:_MAX_FLAGGED]]
    return [
        tag("h2", "Flagged containers by CPU"),
        table(("CPU hours", "Level", "Container", "Owner"), rows, ("CPU hours",)),
        more(len(found) - _MAX_FLAGGED, of="container"),
    ]


def _flagged_row(key: str, each: ContainerHistory) -> Markup:
    return tag(
        "tr",
        cell(f"{each.flagged_core_s / 3600:.2f}", "n", "CPU hours"),
        cell(level_mark(each.level)),
        cell(container_link(each.full_name, key), "name"),
        cell(shown_name(each.owner), "text", "owner"),
    )


def _verdicts(view: View, history: History) -> list[Child]:
    lines = [*history.verdicts][::-1]
    if not lines:
        return [tag("h2", "Changes of level"), tag("p", "None.")]
    rows = [_verdict_row(view, each) for each in lines[:_MAX_VERDICTS]]
    left_out = counted(history.left_out, "change")
    return [
        tag("h2", "Changes of level, newest first"),
        table(("When", "Level", "Container", "CPU", "Owner"), rows, ("CPU",)),
        more(len(lines) - _MAX_VERDICTS + history.unlisted, of="change"),
        *(
            [tag("p", f"{left_out} more were not recorded: their owners had too many.")]
            if history.left_out
            else ()
        ),
    ]


def _verdict_row(view: View, line: VerdictLine) -> Markup:
    full_name = "/".join(filter(None, (line.namespace, line.pod, line.container)))
    why = "; ".join(
        f"{printable(each.signal, 16)}: {printable(each.title, _RULE_LENGTH)}"
        for each in line.rules[:_MAX_RULES]
    )
    if len(line.rules) > _MAX_RULES:
        why += f" (+{len(line.rules) - _MAX_RULES})"
    is_clear = line.level == Level.CLEAR.label
    details = f", score {int(line.score)}{f', {line.abuse}' if line.abuse else ''}"
    return tag(
        "tr",
        cell(ago(line.at, view.now)),
        cell((level_mark(line.level), tag("span", f", was {printable(line.previous, 16)}",
                                          class_="dim"))),
        cell(
            (
                container_link(full_name, line.key),
                None if is_clear else tag("span", details, class_="dim"),
                tag("div", why, class_="why") if why else None,
            ),
            "name",
        ),
        cell(f"{line.cpu_cores:.2f}", "n", "cores"),
        cell(shown_name(line.owner), "text", "owner"),
    )  # fmt: skip


def _actions(view: View, history: History) -> list[Child]:
    lines = [*history.actions][::-1]
    if not lines:
        return [tag("h2", "Actions"), tag("p", "None.")]
    rows = [_action_row(view, each) for each in lines[:_MAX_VERDICTS]]
    return [
        tag("h2", "Actions, newest first"),
        table(("When", "Action", "Outcome", "Pod"), rows),
        more(len(lines) - _MAX_VERDICTS, of="action"),
    ]


def _action_row(view: View, line: ActionLine) -> Markup:
    tried = " (dry run)" if line.dry_run else ""
    return tag(
        "tr",
        cell(ago(line.at, view.now)),
        cell(f"{printable(line.action, 16)}{tried}"),
        cell(printable(line.outcome, 16)),
        cell(shown_name(f"{line.namespace}/{line.pod}"), "name"),
    )


def _gaps(history: History) -> list[Child]:
    gaps = [each for each in history.gaps if each[1] - each[0] >= _MIN_GAP_S]
    return [
        tag("h2", "Gaps and restarts"),
        tag("p", "In a gap nothing was recorded: the agent or the node was down, or the journal"
            " could not be written.", class_="dim"),
        tag("ul", [tag("li", text) for text in _gap_lines(gaps)]) if gaps
        else tag("p", "No gap."),
        more(len(gaps) - _MAX_GAPS, of="gap"),
        tag("p", _starts(history.agents)),
    ]  # fmt: skip


def _gap_lines(gaps: list[tuple[float, float]]) -> Iterator[str]:
    for start_s, end_s in gaps[::-1][:_MAX_GAPS]:
        hours = (end_s - start_s) / 3600
        length = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
        yield f"{_moment(start_s)} to {_moment(end_s)}: {length}"


def _moment(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%a %Y-%m-%d %H:%M}"


def _starts(agents: Iterable[AgentLine]) -> str:
    """Return how often the agent started, and how often it did not stop first."""
    starts = crashes = 0
    is_running = False
    for line in agents:
        crashes += line.event == "start" and is_running
        starts += line.event == "start"
        is_running = line.event == "start"
    text = f"The agent started {counted(starts, 'time')}"
    return (
        f"{text}; {crashes} of them without a stop before: a crash or a kill."
        if crashes
        else (f"{text}.")
    )
