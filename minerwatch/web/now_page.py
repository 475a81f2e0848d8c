"""The first page: what the node's containers do now, the worst first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minerwatch.api.types import ContainerStatus
from minerwatch.format import age, counted
from minerwatch.kinds import Level
from minerwatch.untrusted_text.display import printable
from minerwatch.view.agent_summary import trouble_lines
from minerwatch.view.columns import gpus, reasons
from minerwatch.view.executed_code import one_word
from minerwatch.view.journal_history import BUCKET_S
from minerwatch.view.selection import abuse_of, busy, full_name, sorted_by
from minerwatch.view.table import counts
from minerwatch.web.chart import cpu_chart
from minerwatch.web.html import Child, Markup, tag
from minerwatch.web.layout import (
    DAY_S,
    NO_HISTORY,
    NO_JOURNAL,
    View,
    cell,
    chart_key,
    container_link,
    level_mark,
    more,
    page,
    page_key,
    table,
)

_TITLES = ("Score", "Level", "Container", "CPU", "CPU hours", "GPU", "Executes", "Owner", "Since")
_NUMBERS = ("Score", "CPU", "CPU hours", "GPU")
_SORTS = {
    "Score": "score",
    "CPU": "cpu",
    "CPU hours": "hours",
    "GPU": "gpu",
    "Owner": "owner",
    "Container": "name",
}
SORTED_BY = tuple(_SORTS.values())
_REFRESH_S = 30
_MAX_ROWS = 300
_OWNER_LENGTH = 64


def now_page(view: View, *, sort: str = "score", shows_all: bool = False) -> str:
    """Return the page; ``shows_all``: idle containers as well."""
    key = sort if sort in SORTED_BY else "score"
    chosen = view.statuses if shows_all else busy(view.statuses)
    rows = sorted_by(chosen, key)
    return page(
        view,
        _title(view.statuses),
        tag("h1", _title(view.statuses)),
        tag(
            "p",
            [tag("span", text) for text in counts(view.statuses, shown=len(rows),
                                                  machine=view.machine)],
            class_="facts",
        ),
        list(_notices(view)),
        _table(rows[:_MAX_ROWS], view, key, shows_all=shows_all)
        if rows
        else tag("p", "No container is busy or flagged."),
        more(len(rows) - _MAX_ROWS, ": minerwatch top lists them"),
        _idle_link(view.statuses, key, shown=len(rows), shows_all=shows_all),
        _last_day(view),
        path="/",
        refresh_s=_REFRESH_S,
    )  # fmt: skip


def _title(statuses: Sequence[ContainerStatus]) -> str:
    flagged = sum(each.level != Level.CLEAR.label for each in statuses)
    return f"{counted(flagged, 'container')} flagged" if flagged else "No container is flagged"


def _notices(view: View) -> Iterator[Markup]:
    for line in trouble_lines([view.agent]):
        yield tag("p", line, class_="notice")
    spots = view.agent.blind_spots
    if spots:
        yield tag(
            "details",
            tag("summary", f"The agent cannot see everything: {counted(len(spots), 'reason')}"),
            [tag("p", printable(spot, 400)) for spot in spots],
            class_="dim",
        )


def _table(rows: Sequence[ContainerStatus], view: View, key: str, *, shows_all: bool) -> Markup:
    """Return the table; GPUs have a column where some container uses one."""
    has_gpus = any(each.gpu for each in rows)

    def head(title: str) -> Child:
        sort = _SORTS.get(title, key)
        href = f"/?sort={sort}{'&all=1' if shows_all else ''}"
        return title if sort == key else tag("a", title, href=href)

    titles = [head(each) for each in _TITLES if each != "GPU" or has_gpus]
    drawn = [_row(each, view, has_gpus=has_gpus) for each in rows]
    return table(titles, drawn, [head(each) for each in _NUMBERS])


def _row(status: ContainerStatus, view: View, *, has_gpus: bool) -> Markup:
    abuse = printable(abuse_of(status), 32)
    why = reasons(status)
    return tag(
        "tr",
        cell(str(int(status.score)), "n", "score"),
        cell((level_mark(status.level), f" {abuse}" if abuse else None)),
        cell(
            (
                container_link(full_name(status), page_key(status)),
                tag("div", why, class_="why") if why else None,
            ),
            "name",
        ),
        cell(f"{status.cpu_cores:.2f}", "n", "cores"),
        cell(f"{status.cpu_hours:.1f}", "n", "CPU hours"),
        [cell(gpus(status), "n", "GPUs")] if has_gpus else None,
        cell(one_word(status.executed), "", "executes"),
        cell(printable(status.owner, _OWNER_LENGTH), "text", "owner"),
        cell(age(status.since, view.now), "", "for"),
    )


def _idle_link(
    statuses: Sequence[ContainerStatus], key: str, *, shown: int, shows_all: bool
) -> Markup | None:
    if shows_all:
        return tag("p", tag("a", "Hide idle containers", href=f"/?sort={key}"))
    idle = len(statuses) - shown
    if not idle:
        return None
    text = f"Show {counted(idle, 'idle container')} as well"
    return tag("p", tag("a", text, href=f"/?sort={key}&all=1"))


def _last_day(view: View) -> list[Markup]:
    if view.history is None:
        return [tag("p", NO_JOURNAL, class_="dim")]
    if not view.history.recorded_s:
        return [tag("p", NO_HISTORY, class_="dim")]
    series = (("busy", view.history.core_s), ("flagged", view.history.flagged_core_s))
    since_s = max(view.history.since_s, view.history.until_s - DAY_S)
    title = f"Cores busy in the last day, means of {BUCKET_S / 60:.0f} minutes, UTC"
    return [cpu_chart(title, view.history, series, since_s), chart_key()]
